//! The `tidegate` command: reads arguments, wires the crates together, reports. No logic of its
//! own.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use tidegate_dataflows::diagram::{DiagramFormat, draw};
use tidegate_dataflows::metrics::RunMetrics;
use tidegate_dataflows::plan::REGISTRY;
use tidegate_dataflows::run::{Options, run};
use tidegate_dataflows::topology::{Override, Topology};
use tidegate_dataflows::{Diagnostic, Plan};
use tidegate_facts::Span;
use tidegate_sinks::store::StoreUrl;

/// A small batch is hundreds of short-lived pieces of memory, made on one thread and often dropped
/// on another.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

mod archive;
mod backfill;
mod keys;
mod log;
mod policy;
mod progress;
mod replay;
mod report;
mod serve;
mod summaries;
mod text;
mod verify;

/// Turns a stream of facts into decisions that can be proven.
#[derive(Parser)]
#[command(version, about, max_term_width = 100)]
struct Arguments {
    /// How the log on standard error is written. `RUST_LOG` says how much.
    #[arg(long, global = true, env = "TIDEGATE_LOG_FORMAT", value_enum, default_value_t)]
    log_format: log::LogFormat,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Finds every fault of a topology, or says that there is none.
    Check {
        /// The topology file.
        topology: PathBuf,
        /// Replaces a setting, as node.key=value.
        #[arg(long = "set", value_name = "NODE.KEY=VALUE")]
        set: Vec<String>,
        /// How to answer.
        #[arg(long, value_enum, default_value_t = Answer::Text)]
        format: Answer,
    },
    /// Draws a topology.
    Graph {
        /// The topology file.
        topology: PathBuf,
        /// How to draw it.
        #[arg(long, value_enum, default_value_t = Drawing::Mermaid)]
        format: Drawing,
    },
    /// Runs a topology, and serves it over HTTP and Postgres until it is told to stop.
    Run {
        /// The topology file.
        topology: PathBuf,
        /// The data folder: log, indexes, and tables unless --store says otherwise.
        #[arg(long, default_value = "data")]
        data: PathBuf,
        /// The folder that committed tables go to.
        #[arg(long)]
        store: Option<PathBuf>,
        /// How many dataflow workers; the answers are the same for any number.
        #[arg(short = 'w', long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
        workers: u16,
        /// Stops when all sources are read and everything is committed; serves nothing.
        #[arg(long)]
        until_idle: bool,
        /// Replaces a setting, as node.key=value.
        #[arg(long = "set", value_name = "NODE.KEY=VALUE")]
        set: Vec<String>,
        /// The file of the key that signs the commits.
        #[arg(long, env = keys::KEY_FILE, value_name = "FILE")]
        key: Option<PathBuf>,
        /// Memory for the index that keeps out duplicates, in MiB.
        #[arg(long, default_value_t = 64)]
        dedupe_mib: u64,
        /// How large a file of the log grows, in KiB.
        #[arg(long, default_value_t = 64 << 10, value_parser = clap::value_parser!(u64).range(4..))]
        segment_kib: u64,
        /// While it serves: how long a fact waits for its commit, and so for its seal, at the most.
        #[arg(long, default_value = "60s", value_parser = Span::parse, value_name = "SPAN")]
        commit_within: Span,
        #[command(flatten)]
        ports: serve::Ports,
        /// How to answer.
        #[arg(long, value_enum, default_value_t = Answer::Text)]
        format: Answer,
    },
    /// Asks SQL over the tables of a data folder.
    Sql {
        /// The query.
        query: String,
        /// The data folder.
        #[arg(long, default_value = "data")]
        data: PathBuf,
        /// The folder of its committed tables, when it is not in the data folder.
        #[arg(long)]
        store: Option<PathBuf>,
        /// How to answer: table, csv, json (an object a line) or parquet.
        #[arg(long, default_value = "table")]
        format: tidegate_queries::Format,
    },
    /// Runs the log again: compares every seal, writes elsewhere, or shows what would change.
    Replay(replay::Replay),
    /// Checks everything in a data folder, or the proof of one decision.
    Verify(verify::Verify),
    /// Makes and shows the keys that sign what is committed.
    Keys {
        #[command(subcommand)]
        command: keys::Keys,
    },
    /// Keeps the log in the store as Parquet, proves it whole, and brings it back.
    Archive {
        #[command(subcommand)]
        command: archive::Archive,
    },
    /// Revises bundles and gate policies: propose, approve, activate, roll back.
    Policy {
        #[command(subcommand)]
        command: policy::PolicyCommand,
    },
    /// Computes tables anew, as a declaration says, beside those that are there.
    Backfill(backfill::BackfillArguments),
    /// Measures the standard workloads against hand-written loops.
    Bench {
        /// Which stage; all when not given. `service` measures calls to a running topology.
        stage: Option<String>,
        /// The topology that `service` runs.
        #[arg(long, default_value = "dataflows/fraud.toml")]
        topology: PathBuf,
        /// How to answer.
        #[arg(long, value_enum, default_value_t = Answer::Text)]
        format: Answer,
        /// Divides the size of every workload, for a quick look.
        #[arg(long, default_value_t = 1)]
        divide: u32,
        /// Measures `service` without --realtime also where the system permits it.
        #[arg(long)]
        ordinary: bool,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Answer {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

#[derive(Clone, Copy, ValueEnum)]
enum Drawing {
    Mermaid,
    Dot,
    Svg,
}

/// Exit codes: what a script can tell apart.
mod exit {
    /// The run or the query failed.
    pub const FAILED: u8 = 1;
    /// The arguments, the topology or what it names is wrong; nothing was started.
    pub const REFUSED: u8 = 2;
}

fn main() -> ExitCode {
    let Arguments { log_format, command } = Arguments::parse();
    log::begin(log_format);
    match command {
        Command::Check { topology, set, format } => check(&topology, &set, format),
        Command::Graph { topology, format } => graph(&topology, format),
        Command::Replay(arguments) => replay::run(&arguments),
        Command::Verify(arguments) => verify::run(&arguments),
        Command::Keys { command } => keys::keys(&command),
        Command::Run {
            topology,
            data,
            store,
            workers,
            until_idle,
            set,
            key,
            dedupe_mib,
            segment_kib,
            commit_within,
            ports,
            format,
        } => {
            let signer = match keys::signer(key.as_deref()) {
                Ok(signer) => signer,
                Err(error) => {
                    fail(&error);
                    return ExitCode::from(exit::REFUSED);
                }
            };
            let workers = workers.into();
            let (dedupe_bytes, segment_bytes) = (dedupe_mib << 20, segment_kib << 10);
            let commit_delay_max = Duration::from_micros(commit_within.micros().unsigned_abs());
            let store = store.as_deref().map(StoreUrl::from);
            let options = Options {
                store,
                workers,
                dedupe_bytes,
                segment_bytes,
                signer,
                commit_delay_max,
                ..Options::new(&data)
            };
            let plan = match plan(&topology, &set) {
                Ok(plan) => plan,
                Err(faults) => return refuse(&faults, format),
            };
            if until_idle {
                run_plan(plan, &options, format)
            } else {
                serve::run(plan, &options, &ports, format)
            }
        }
        Command::Sql { query, data, store, format } => sql(&query, &data, store.as_deref(), format),
        Command::Archive { command } => archive::run(command),
        Command::Policy { command } => policy::run(command),
        Command::Backfill(arguments) => backfill::run(&arguments),
        Command::Bench { stage, topology, format, divide, ordinary } => {
            bench(stage.as_deref(), &topology, format, divide, ordinary)
        }
    }
}

/// The log of a data folder on this machine.
fn log_of(data: &std::path::Path) -> tidegate_sinks::log::LogFolder {
    tidegate_sinks::log::LogFolder::of_data(&tidegate_host::Host::real(), data)
}

/// The overrides of the command line, or the faults of those that name no value.
fn overrides(file: &std::path::Path, set: &[String]) -> Result<Vec<Override>, Vec<Diagnostic>> {
    let mut overrides = Vec::new();
    let mut faults = Vec::new();
    for text in set {
        match Override::parse(text) {
            Ok(set) => overrides.push(set),
            Err(message) => faults.push(Diagnostic { file: file.to_owned(), line: 0, message }),
        }
    }
    if faults.is_empty() { Ok(overrides) } else { Err(faults) }
}

fn plan(file: &std::path::Path, set: &[String]) -> Result<Plan, Vec<Diagnostic>> {
    Plan::read(file, &overrides(file, set)?)
}

/// The plan that a data folder began with, as its store records it.
fn plan_of_folder(
    data: &std::path::Path,
    store: &tidegate_sinks::store::Store,
    set: &[String],
) -> Result<Plan, Box<dyn std::error::Error>> {
    let run = tidegate_dataflows::governance::run_record(&log_of(data), store)?;
    let run = run.ok_or_else(|| {
        format!("the log in `{}` is empty, so it has no plan; name the topology file", data.display())
    })?;
    let overrides = overrides(data, set).map_err(|faults| faults[0].to_string())?;
    Ok(Plan::from_store(&run.plan, store, &overrides)?)
}

fn refuse(faults: &[Diagnostic], format: Answer) -> ExitCode {
    for fault in faults {
        match format {
            Answer::Text if log::is_json() => tracing::error!("{fault}"),
            Answer::Text => eprintln!("{fault}"),
            Answer::Json => println!(
                "{}",
                serde_json::json!({"file": fault.file, "line": fault.line, "fault": fault.message})
            ),
        }
    }
    if format == Answer::Text && !log::is_json() {
        let count = faults.len();
        eprintln!("\n{count} fault{}; nothing was started", if count == 1 { "" } else { "s" });
    }
    ExitCode::from(exit::REFUSED)
}

fn check(file: &std::path::Path, set: &[String], format: Answer) -> ExitCode {
    match plan(file, set) {
        Ok(plan) => {
            match format {
                Answer::Text => println!("ok: {} nodes, plan {}", plan.topology.nodes.len(), plan.digest),
                Answer::Json => println!("{}", serde_json::json!({"ok": true, "plan": plan.digest})),
            }
            ExitCode::SUCCESS
        }
        Err(faults) => refuse(&faults, format),
    }
}

fn graph(file: &std::path::Path, format: Drawing) -> ExitCode {
    let diagram = match format {
        Drawing::Mermaid => DiagramFormat::Mermaid,
        Drawing::Dot => DiagramFormat::Dot,
        Drawing::Svg => DiagramFormat::Svg,
    };
    let read = Topology::read(file, &[], REGISTRY).and_then(|(topology, diagnostics)| {
        let faults = diagnostics.take();
        if faults.is_empty() { Ok(topology) } else { Err(faults) }
    });
    match read {
        Ok(topology) => {
            print!("{}", draw(&topology, diagram));
            ExitCode::SUCCESS
        }
        Err(faults) => refuse(&faults, Answer::Text),
    }
}

fn run_plan(plan: Plan, options: &Options, format: Answer) -> ExitCode {
    let plan = Arc::new(plan);
    let sources: Vec<String> = plan.sources.iter().map(|s| s.name.clone()).collect();
    let nodes: Vec<String> = plan.steps.iter().map(|s| s.name.clone()).collect();
    let metrics = RunMetrics::new(&sources, &nodes);
    let shown = progress::show(&metrics, format == Answer::Text && !log::is_json());
    let outcome = run(&plan, options, &metrics);
    shown.stop();
    match outcome {
        Ok(report) => match report::print(&plan, options, &metrics, &report, format == Answer::Json) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(error.as_ref()),
        },
        Err(error) => fail(&error),
    }
}

fn sql(
    query: &str,
    data: &std::path::Path,
    store: Option<&std::path::Path>,
    format: tidegate_queries::Format,
) -> ExitCode {
    match report::query(query, data, store, format) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(error.as_ref()),
    }
}

fn bench(
    stage: Option<&str>,
    topology: &std::path::Path,
    format: Answer,
    divide: u32,
    ordinary: bool,
) -> ExitCode {
    let measured = match stage {
        Some("service") => tidegate_benches::service::run(topology, divide, ordinary),
        stage => tidegate_benches::run(stage, format == Answer::Json, divide),
    };
    match measured {
        Ok(()) => ExitCode::SUCCESS,
        Err(what) => {
            eprintln!("tidegate: {what}");
            ExitCode::from(exit::FAILED)
        }
    }
}

/// Says an error and its causes.
fn fail(error: &(dyn std::error::Error + 'static)) -> ExitCode {
    log::error(error);
    ExitCode::from(exit::FAILED)
}
