//! `tidegate run` without an end: the topology stays up, follows its sources, and is asked over HTTP and Postgres.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use tidegate_dataflows::Plan;
use tidegate_dataflows::graphs::graphs;
use tidegate_dataflows::live::{INGRESS, Limits, Live};
use tidegate_dataflows::plan::StepKind;
use tidegate_dataflows::realtime::{Priority, Realtime};
use tidegate_dataflows::run::{Options, Report, RunError, serve};
use tidegate_dataflows::timelines::TimelineTable;
use tidegate_dataflows::topology::TableFormat;
use tidegate_dataflows::watch::Watch;
use tidegate_queries::access::Keys;
use tidegate_queries::http::Service;
use tidegate_queries::telemetry::Telemetry;
use tidegate_queries::traces::{Settings, SettingsError, Traces};
use tidegate_queries::{Catalogue, Statements, http, postgres};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::{Answer, account, exit, fail, log, progress};

/// Where a service is reached.
#[derive(clap::Args)]
pub struct Ports {
    /// Where HTTP is served, and the console: an address and a port.
    #[arg(long, default_value = "127.0.0.1:7878", value_name = "ADDRESS:PORT")]
    http: SocketAddr,
    /// Where the Postgres wire protocol is served.
    #[arg(long, default_value = "127.0.0.1:5439", value_name = "ADDRESS:PORT")]
    postgres: SocketAddr,
    /// The file of API keys, as `tidegate keys api` writes it. Without one only this machine is served.
    #[arg(long, env = "TIDEGATE_API_KEYS", value_name = "FILE")]
    api_keys: Option<PathBuf>,
    /// MiB that the statements of all callers may take together for sorting, joining and grouping.
    #[arg(long, default_value_t = Statements::MEMORY >> 20, value_name = "MIB")]
    statement_memory: usize,
    /// Lets the threads on the way of a call go before everything else on the machine; the system must permit it.
    #[arg(long)]
    realtime: bool,
}

/// Why a service was not started.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error(transparent)]
    Keys(#[from] tidegate_queries::access::KeysError),
    #[error(
        "{address} can be reached from other machines, and nobody is asked for a key; name a file with --api-keys, or serve on 127.0.0.1"
    )]
    Open { address: SocketAddr },
    #[error(
        "cannot serve {what} on {address}; another program may hold the port: choose another with --{what}"
    )]
    Port { what: &'static str, address: SocketAddr, source: std::io::Error },
    #[error("the system gives no random numbers ({0}); traces need some for their ids")]
    Chance(String),
    #[error(transparent)]
    Traces(#[from] SettingsError),
    #[error(
        "the system permits no threads in real time; give the process CAP_SYS_NICE or a limit of 2 or more (`ulimit -r`, systemd's \
         LimitRTPRIO), or leave out --realtime"
    )]
    Realtime { source: std::io::Error },
    #[error("the threads that serve cannot be started")]
    Runtime(#[from] std::io::Error),
    #[error(transparent)]
    Query(#[from] tidegate_queries::QueryError),
}

/// Serves until it is told to stop.
pub fn run(plan: Plan, options: &Options, ports: &Ports, format: Answer) -> ExitCode {
    let sources = plan.sources.iter().map(|source| source.name.clone()).chain([INGRESS.to_owned()]);
    let sources: Vec<String> = sources.collect();
    let nodes: Vec<String> = plan.steps.iter().map(|step| step.name.clone()).collect();
    let (plan, watched) = (Arc::new(plan), Watch::new(&sources, &nodes));
    if ports.realtime
        && let Err(source) = Priority::Compute.hold()
    {
        return refuse(&Refused::Realtime { source });
    }
    let realtime = ports.realtime.then(Realtime::default);
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if let Some(realtime) = realtime.clone() {
        builder.on_thread_unpark(move || realtime.go(Priority::Serve));
    }
    let runtime = match builder.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return refuse(&error.into()),
    };
    let statements = match Statements::start(realtime.clone()) {
        Ok(statements) => statements,
        Err(error) => return refuse(&error.into()),
    };
    let started = runtime.block_on(start(&plan, options, ports, &watched, (&statements, realtime)));
    let Started { live, servers, traces, stop, stop_traces } = match started {
        Ok(started) => started,
        Err(refused) => return refuse(&refused),
    };
    runtime.spawn(stop_on_signal(Arc::clone(&live)));
    let shown = progress::show(&watched, format == Answer::Text && is_terminal() && !log::is_json());
    let outcome: Result<Report, RunError> = serve(&plan, options, &watched, &live);
    shown.stop();
    let _ = stop.send(true);
    runtime.block_on(async {
        for server in servers {
            let _ = server.await;
        }
        // Last, for the last commit has seals to tell, and the last calls theirs.
        let _ = stop_traces.send(true);
        if let Some(exporter) = traces {
            let _ = exporter.await;
        }
    });
    statements.end();
    if let Ok(report) = &outcome {
        let (commits, upper) = (report.commits.list.len(), report.commits.upper().0);
        tracing::info!(facts = report.facts, commits, upper, "stopped");
    }
    match outcome {
        Ok(report) => match account::print(&plan, options, &watched, &report, format == Answer::Json) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(error.as_ref()),
        },
        Err(error) => fail(&error),
    }
}

fn is_terminal() -> bool {
    use std::io::IsTerminal;
    std::io::stderr().is_terminal()
}

fn refuse(refused: &Refused) -> ExitCode {
    fail(refused);
    ExitCode::from(exit::REFUSED)
}

/// What serves, and how it is told to stop.
struct Started {
    live: Arc<Live>,
    servers: Vec<tokio::task::JoinHandle<()>>,
    traces: Option<tokio::task::JoinHandle<()>>,
    stop: watch::Sender<bool>,
    stop_traces: watch::Sender<bool>,
}

/// Opens the ports before anything else, so that a port that is taken is told at once.
async fn start(
    plan: &Arc<Plan>,
    options: &Options,
    ports: &Ports,
    watched: &Watch,
    (statements, realtime): (&Statements, Option<Realtime>),
) -> Result<Started, Refused> {
    let keys = match &ports.api_keys {
        Some(file) => Keys::read(file)?,
        None => Keys::default(),
    };
    for address in [ports.http, ports.postgres] {
        if keys.is_empty() && !address.ip().is_loopback() {
            return Err(Refused::Open { address });
        }
    }
    let settings = Settings::read(|name| std::env::var(name).ok())?;
    let http_port = bind("http", ports.http).await?;
    let postgres_port = bind("postgres", ports.postgres).await?;
    let live = Arc::new(Live::new(Limits::default()).in_realtime(realtime));
    let store = options.store_path();
    let timelines = TimelineTable::of_plan(plan);
    let memory = ports.statement_memory.saturating_mul(1 << 20);
    let tables = live_tables(plan);
    let catalogue = Catalogue::live(&options.data, &store, &tables, timelines, graphs(plan), &live, memory)?;
    let catalogue = Arc::new(catalogue);
    let (stop_traces, traces_stop) = watch::channel(false);
    let traced = settings.map(|settings| follow(settings, plan, &live, traces_stop)).transpose()?;
    let (traces, exporter) = traced.unzip();
    let telemetry = Arc::new(Telemetry::new(traces));
    let service = Arc::new(Service {
        plan: Arc::clone(plan),
        live: Arc::clone(&live),
        watch: watched.clone(),
        catalogue: Arc::clone(&catalogue),
        keys: keys.clone(),
        data: options.data.clone(),
        store,
        workers: options.workers,
        telemetry: Arc::clone(&telemetry),
        statements: statements.handle(),
    });
    let (http_at, postgres_at) = (http_port.local_addr()?, postgres_port.local_addr()?);
    if log::is_json() {
        let topology = &plan.topology;
        tracing::info!(
            topology = topology.name,
            plan = %plan.digest,
            version = env!("CARGO_PKG_VERSION"),
            partitions = topology.partitions,
            workers = options.workers,
            platform_run_id = topology.run.platform_run_id.as_deref(),
            scenario_run_id = topology.run.scenario_run_id.as_deref(),
            run_id = topology.run.run_id.as_deref(),
            manifest_fingerprint = topology.run.manifest_fingerprint,
            parameter_hash = topology.run.parameter_hash.as_deref(),
            http = %http_at,
            postgres = %postgres_at,
            keys = !keys.is_empty(),
            traces = exporter.is_some(),
            "started"
        );
    } else {
        eprintln!("http on {http_at}");
        eprintln!("postgres on {postgres_at}");
    }
    if keys.is_empty() && !log::is_json() {
        eprintln!(
            "no API keys: programs of this machine may read and send facts (psql user `tidegate`, no password)"
        );
    }
    let (stop, stopped) = watch::channel(false);
    let http = tokio::spawn(http::serve(service, http_port, stopped.clone()));
    let postgres = statements.handle().spawn(async move {
        if let Err(error) = postgres::serve(catalogue, keys, telemetry, postgres_port, stopped).await {
            log::error(&error);
        }
    });
    Ok(Started { live, servers: vec![http, postgres], traces: exporter, stop, stop_traces })
}

type Followed = (Arc<Traces>, tokio::task::JoinHandle<()>);

/// Begins to send traces.
fn follow(
    settings: Settings,
    plan: &Plan,
    live: &Live,
    stop: watch::Receiver<bool>,
) -> Result<Followed, Refused> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|error| Refused::Chance(error.to_string()))?;
    let describe =
        vec![("tidegate.topology", plan.topology.name.clone()), ("tidegate.plan", plan.digest.to_hex())];
    let (traces, exporter) = Traces::start(settings, describe, seed, std::time::SystemTime::now, stop);
    let told = Arc::clone(&traces);
    live.on_commit(Box::new(move |commits| told.committed(commits)));
    Ok((traces, exporter))
}

async fn bind(what: &'static str, address: SocketAddr) -> Result<TcpListener, Refused> {
    TcpListener::bind(address).await.map_err(|source| Refused::Port { what, address, source })
}

/// The tables whose rows are served before they are committed; lines of JSON have no types until they are.
fn live_tables(plan: &Plan) -> Vec<(String, arrow::datatypes::SchemaRef)> {
    let lines: Vec<&str> = plan
        .steps
        .iter()
        .filter_map(|step| match &step.kind {
            StepKind::Table(table) if table.format == TableFormat::Jsonl => Some(table.table.as_str()),
            _ => None,
        })
        .collect();
    plan.tables().into_iter().filter(|(name, _)| !lines.contains(&name.as_str())).collect()
}

/// Tells the run to finish when the process is told to.
async fn stop_on_signal(live: Arc<Live>) {
    let mut terminated = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
        .expect("a handler can be set");
    loop {
        tokio::select! {
            _ = terminated.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
        if live.is_stopping() {
            std::process::exit(i32::from(exit::FAILED)); // Asked twice: whatever is not durable is done again.
        }
        if log::is_json() {
            tracing::info!("stopping");
        } else {
            eprintln!("stopping: what was taken is finished and committed; ask again to stop at once");
        }
        live.stop();
    }
}
