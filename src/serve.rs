//! `tidegate run` without `--until-idle`: the topology keeps running and serves HTTP and Postgres.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use tidegate_dataflows::Plan;
use tidegate_dataflows::commit::TableFormat;
use tidegate_dataflows::entity_graphs::entity_graphs;
use tidegate_dataflows::metrics::RunMetrics;
use tidegate_dataflows::plan::Step;
use tidegate_dataflows::run::{Options, Report, RunError, serve};
use tidegate_dataflows::serve::{INGRESS, Ingress, IngressLimits, LiveReads, ServeState};
use tidegate_dataflows::thread_priority::{Priority, RealtimeSwitch};
use tidegate_dataflows::timeline_tables::TimelineTable;
use tidegate_queries::access::Keys;
use tidegate_queries::http::Service;
use tidegate_queries::telemetry::Telemetry;
use tidegate_queries::traces::{Settings, SettingsError, Traces};
use tidegate_queries::{Catalogue, QueryRuntime, http};
use tidegate_sinks::log::{LogFolder, LogReader};
use tidegate_sinks::store::{Store, StoreError};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::{Answer, exit, fail, logging, progress, report as run_report};

/// The arguments of `tidegate run` for serving the topology: ports and limits.
#[derive(clap::Args)]
pub struct Ports {
    /// The address and port of HTTP and the console.
    #[arg(long, default_value = "127.0.0.1:7878", value_name = "ADDRESS:PORT")]
    http: SocketAddr,
    /// The address and port of the Postgres wire protocol.
    #[cfg(feature = "postgres")]
    #[arg(long, default_value = "127.0.0.1:5439", value_name = "ADDRESS:PORT")]
    postgres: SocketAddr,
    /// The file of API keys, as `tidegate keys api` writes it. Without keys, only programs on this
    /// machine are served.
    #[arg(long, env = "TIDEGATE_API_KEYS", value_name = "FILE")]
    api_keys: Option<PathBuf>,
    /// Memory for sorting, joining and grouping in all SQL statements together, in MiB.
    #[arg(long, default_value_t = QueryRuntime::MEMORY_BYTES >> 20, value_name = "MIB")]
    statement_memory: usize,
    /// Runs the threads that answer calls at real-time priority. The system must permit it.
    #[arg(long)]
    realtime: bool,
}

impl Ports {
    /// The address of the Postgres port; `None` in a build without it.
    #[cfg(feature = "postgres")]
    fn postgres(&self) -> Option<SocketAddr> {
        Some(self.postgres)
    }

    #[cfg(not(feature = "postgres"))]
    fn postgres(&self) -> Option<SocketAddr> {
        None
    }
}

/// Why a service was not started.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error(transparent)]
    Keys(#[from] tidegate_queries::access::KeysError),
    #[error(
        "other machines can reach {address}, and there are no API keys; give a file with --api-keys, or serve on 127.0.0.1"
    )]
    Open { address: SocketAddr },
    #[error(
        "cannot serve {what} on {address}; if another program uses the port, choose another with --{what}"
    )]
    Port { what: &'static str, address: SocketAddr, source: std::io::Error },
    #[error("the system returns no random numbers ({0}); trace ids need them")]
    Random(String),
    #[error(transparent)]
    Traces(#[from] SettingsError),
    #[error(
        "the system does not permit real-time threads; give the process CAP_SYS_NICE or a limit of 2 or more (`ulimit -r`, \
         systemd's LimitRTPRIO), or leave out --realtime"
    )]
    Realtime { source: std::io::Error },
    #[error("cannot start the threads of the service")]
    Runtime(#[from] std::io::Error),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Query(#[from] tidegate_queries::QueryError),
}

/// Runs and serves a topology until the process receives a signal to stop.
pub fn run(plan: Plan, options: &Options, ports: &Ports, format: Answer) -> ExitCode {
    let sources = plan.sources.iter().map(|source| source.name.clone()).chain([INGRESS.to_owned()]);
    let sources: Vec<String> = sources.collect();
    let nodes: Vec<String> = plan.steps.iter().map(|step| step.name.clone()).collect();
    let (plan, metrics) = (Arc::new(plan), RunMetrics::new(&sources, &nodes));
    if ports.realtime
        && let Err(source) = Priority::Compute.hold()
    {
        return refuse(&Refused::Realtime { source });
    }
    let realtime = ports.realtime.then(RealtimeSwitch::default);
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if let Some(realtime) = realtime.clone() {
        builder.on_thread_unpark(move || realtime.set_for_current_thread(Priority::Serve));
    }
    let runtime = match builder.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return refuse(&error.into()),
    };
    let statements = match QueryRuntime::start(realtime.clone()) {
        Ok(statements) => statements,
        Err(error) => return refuse(&error.into()),
    };
    let started = runtime.block_on(start(&plan, options, ports, &metrics, (&statements, realtime)));
    let Started { live, servers, traces, stop, stop_traces } = match started {
        Ok(started) => started,
        Err(refused) => return refuse(&refused),
    };
    runtime.spawn(stop_on_signal(Arc::clone(&live)));
    let display = progress::show(&metrics, format == Answer::Text && is_terminal() && !logging::is_json());
    let outcome: Result<Report, RunError> = serve(&plan, options, &metrics, &live);
    display.stop();
    let _ = stop.send(true);
    runtime.block_on(async {
        for server in servers {
            let _ = server.await;
        }
        // Last, because the last commit and the last calls still add spans.
        let _ = stop_traces.send(true);
        if let Some(exporter) = traces {
            let _ = exporter.await;
        }
    });
    statements.stop();
    if let Ok(report) = &outcome {
        let (commits, upper) = (report.commits.list.len(), report.commits.upper().0);
        tracing::info!(facts = report.facts, commits, upper, "stopped");
    }
    match outcome {
        Ok(report) => match run_report::print(&plan, options, &metrics, &report, format == Answer::Json) {
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

/// A service that was started: its servers, and the channels that stop them.
struct Started {
    live: Arc<ServeState>,
    servers: Vec<tokio::task::JoinHandle<()>>,
    traces: Option<tokio::task::JoinHandle<()>>,
    stop: watch::Sender<bool>,
    stop_traces: watch::Sender<bool>,
}

/// Starts the servers. Opens the ports first, so that a port in use is reported at once.
async fn start(
    plan: &Arc<Plan>,
    options: &Options,
    ports: &Ports,
    metrics: &RunMetrics,
    (statements, realtime): (&QueryRuntime, Option<RealtimeSwitch>),
) -> Result<Started, Refused> {
    let keys = match &ports.api_keys {
        Some(file) => Keys::read(file)?,
        None => Keys::default(),
    };
    for address in [Some(ports.http), ports.postgres()].into_iter().flatten() {
        if keys.is_empty() && !address.ip().is_loopback() {
            return Err(Refused::Open { address });
        }
    }
    let settings = Settings::read(|name| std::env::var(name).ok())?;
    let http_port = bind("http", ports.http).await?;
    let postgres_port = match ports.postgres() {
        Some(address) => Some(bind("postgres", address).await?),
        None => None,
    };
    let ingress = Ingress::new(IngressLimits::default()).with_realtime(realtime);
    let live = Arc::new(ServeState::new(ingress));
    let log: Arc<dyn LogReader> = Arc::new(LogFolder::of_data(&options.host, &options.data));
    let store = Store::open(options.store_url())?;
    let timelines = TimelineTable::of_plan(plan);
    let memory = ports.statement_memory.saturating_mul(1 << 20);
    let tables = live_tables(plan);
    let (graphs, reads) = (entity_graphs(plan), Arc::clone(&live) as Arc<dyn LiveReads>);
    let catalogue =
        Catalogue::live(Arc::clone(&log), store.clone(), &tables, timelines, graphs, reads, memory)?;
    let catalogue = Arc::new(catalogue);
    let (stop_traces, traces_stop) = watch::channel(false);
    let traced = settings.map(|settings| start_traces(settings, plan, &live, traces_stop)).transpose()?;
    let (traces, exporter) = traced.unzip();
    let telemetry = Arc::new(Telemetry::new(traces));
    let service = Arc::new(Service {
        plan: Arc::clone(plan),
        live: Arc::clone(&live),
        metrics: metrics.clone(),
        catalogue: Arc::clone(&catalogue),
        keys: keys.clone(),
        data: options.data.clone(),
        log,
        store,
        workers: options.workers,
        telemetry: Arc::clone(&telemetry),
        statements: statements.handle(),
    });
    let http_at = http_port.local_addr()?;
    let postgres_at = postgres_port.as_ref().map(TcpListener::local_addr).transpose()?;
    if logging::is_json() {
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
            postgres = postgres_at.map(tracing::field::display),
            keys = !keys.is_empty(),
            traces = exporter.is_some(),
            "started"
        );
    } else {
        eprintln!("http on {http_at}");
        if let Some(postgres_at) = postgres_at {
            eprintln!("postgres on {postgres_at}");
        }
    }
    if keys.is_empty() && !logging::is_json() {
        eprintln!(
            "no API keys: every program on this machine may read and submit facts (psql user `tidegate`, no password)"
        );
    }
    let (stop, stopped) = watch::channel(false);
    let http = tokio::spawn(http::serve(service, http_port, stopped.clone()));
    let mut servers = vec![http];
    if let Some(port) = postgres_port {
        servers.push(statements.handle().spawn(serve_postgres(catalogue, keys, telemetry, port, stopped)));
    }
    Ok(Started { live, servers, traces: exporter, stop, stop_traces })
}

#[cfg(feature = "postgres")]
async fn serve_postgres(
    catalogue: Arc<Catalogue>,
    keys: Keys,
    telemetry: Arc<Telemetry>,
    port: TcpListener,
    stop: watch::Receiver<bool>,
) {
    tidegate_postgres::serve(catalogue, keys, telemetry, port, stop).await;
}

/// Does nothing: this build has no Postgres port.
#[cfg(not(feature = "postgres"))]
async fn serve_postgres(
    _: Arc<Catalogue>,
    _: Keys,
    _: Arc<Telemetry>,
    _: TcpListener,
    _: watch::Receiver<bool>,
) {
}

/// The traces, and the task that exports them.
type StartedTraces = (Arc<Traces>, tokio::task::JoinHandle<()>);

/// Starts recording and exporting traces.
fn start_traces(
    settings: Settings,
    plan: &Plan,
    live: &ServeState,
    stop: watch::Receiver<bool>,
) -> Result<StartedTraces, Refused> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|error| Refused::Random(error.to_string()))?;
    let describe =
        vec![("tidegate.topology", plan.topology.name.clone()), ("tidegate.plan", plan.digest.to_hex())];
    let (traces, exporter) = Traces::start(settings, describe, seed, std::time::SystemTime::now, stop);
    let tracer = Arc::clone(&traces);
    live.tables.on_commit(Box::new(move |commits| tracer.committed(commits)));
    Ok((traces, exporter))
}

async fn bind(what: &'static str, address: SocketAddr) -> Result<TcpListener, Refused> {
    TcpListener::bind(address).await.map_err(|source| Refused::Port { what, address, source })
}

/// The tables whose rows can be queried before they are committed: all but those of JSON lines,
/// whose columns have no types until then.
fn live_tables(plan: &Plan) -> Vec<(String, arrow::datatypes::SchemaRef)> {
    let tables = plan.steps.iter().filter_map(Step::table);
    let untyped: Vec<&str> =
        tables.filter(|table| table.format == TableFormat::Jsonl).map(|table| table.table.as_str()).collect();
    plan.tables().into_iter().filter(|(name, _)| !untyped.contains(&name.as_str())).collect()
}

/// Stops the run on SIGTERM or Ctrl+C; a second signal ends the process.
async fn stop_on_signal(live: Arc<ServeState>) {
    let mut terminated = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
        .expect("a handler can be set");
    loop {
        tokio::select! {
            _ = terminated.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
        if live.ingress.is_stopping() {
            std::process::exit(i32::from(exit::FAILED)); // The next run repeats what is not durable.
        }
        if logging::is_json() {
            tracing::info!("stopping");
        } else {
            eprintln!(
                "stopping: finishing and committing accepted records; send the signal again to stop at once"
            );
        }
        live.ingress.stop();
    }
}
