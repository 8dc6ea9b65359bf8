//! The `tidegate` command: reads the arguments, calls the crates, and reports the results. It has
//! no logic of its own.

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

/// A small batch makes hundreds of short-lived allocations, and often another thread frees them.
/// That is fast in jemalloc.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[macro_use]
mod output;

mod archive;
mod backfill;
mod keys;
mod logging;
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
    /// The format of the log on standard error. `RUST_LOG` sets its level.
    #[arg(long, global = true, env = "TIDEGATE_LOG_FORMAT", value_enum, default_value_t)]
    log_format: logging::LogFormat,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Checks a topology, and reports all its faults at once.
    Check {
        /// The topology file.
        topology: PathBuf,
        /// Replaces a setting, as node.key=value.
        #[arg(long = "set", value_name = "NODE.KEY=VALUE")]
        set: Vec<String>,
        /// The output format.
        #[arg(long, value_enum, default_value_t = Answer::Text)]
        format: Answer,
    },
    /// Draws a topology as a diagram.
    Graph {
        /// The topology file.
        topology: PathBuf,
        /// The format of the diagram.
        #[arg(long, value_enum, default_value_t = Drawing::Mermaid)]
        format: Drawing,
    },
    /// Runs a topology, and serves it over HTTP and Postgres until SIGTERM or Ctrl+C.
    Run {
        /// The topology file.
        topology: PathBuf,
        /// The data folder: the log, the indexes and, without --store, the tables.
        #[arg(long, default_value = "data")]
        data: PathBuf,
        /// The folder of the store, with the committed tables and the archive. By default it is
        /// `store` in the data folder.
        #[arg(long)]
        store: Option<PathBuf>,
        /// The number of dataflow workers. The results are the same for any number.
        #[arg(short = 'w', long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
        workers: u16,
        /// Ends when all sources are read and everything is committed. Does not serve HTTP or
        /// Postgres.
        #[arg(long)]
        until_idle: bool,
        /// Replaces a setting, as node.key=value.
        #[arg(long = "set", value_name = "NODE.KEY=VALUE")]
        set: Vec<String>,
        /// The file with the signing key for the commits.
        #[arg(long, env = keys::KEY_FILE, value_name = "FILE")]
        key: Option<PathBuf>,
        /// Memory for the index of event ids that finds duplicates, in MiB.
        #[arg(long, default_value_t = 64)]
        dedupe_mib: u64,
        /// The size of a segment file of the log, in KiB.
        #[arg(long, default_value_t = 64 << 10, value_parser = clap::value_parser!(u64).range(4..))]
        segment_kib: u64,
        /// The longest time from a fact to its commit, and so to its seal, while the topology is
        /// served.
        #[arg(long, default_value = "60s", value_parser = Span::parse, value_name = "SPAN")]
        commit_within: Span,
        #[command(flatten)]
        ports: serve::Ports,
        /// The output format.
        #[arg(long, value_enum, default_value_t = Answer::Text)]
        format: Answer,
    },
    /// Runs a SQL query on the tables of a data folder.
    Sql {
        /// The query.
        query: String,
        /// The data folder.
        #[arg(long, default_value = "data")]
        data: PathBuf,
        /// The folder of the store, if it is not in the data folder.
        #[arg(long)]
        store: Option<PathBuf>,
        /// The output format: table, csv, json (one object per line) or parquet.
        #[arg(long, default_value = "table")]
        format: tidegate_queries::Format,
    },
    /// Replays the log: compares every seal, writes the output to another folder, or shows which
    /// decisions other settings would change.
    Replay(replay::Replay),
    /// Checks everything in a data folder, or the proof of one decision.
    Verify(verify::Verify),
    /// Makes signing keys and API keys.
    Keys {
        #[command(subcommand)]
        command: keys::Keys,
    },
    /// Archives the log as Parquet in the store, checks the archive, restores logs from it, and
    /// prunes the log.
    Archive {
        #[command(subcommand)]
        command: archive::Archive,
    },
    /// Revises bundles and gate policies: propose, approve, activate, roll back.
    Policy {
        #[command(subcommand)]
        command: policy::PolicyCommand,
    },
    /// Computes declared tables again over a range of the log, beside the live tables.
    Backfill(backfill::BackfillArguments),
    /// Measures the standard workloads against hand-written loops.
    Bench {
        /// The stage to measure; all by default. `service` measures calls to a running topology.
        stage: Option<String>,
        /// The topology that `service` runs.
        #[arg(long, default_value = "dataflows/fraud.toml")]
        topology: PathBuf,
        /// The output format.
        #[arg(long, value_enum, default_value_t = Answer::Text)]
        format: Answer,
        /// Divides the size of every workload, for a quick run.
        #[arg(long, default_value_t = 1)]
        divide: u32,
        /// Measures `service` without --realtime even if the system permits real-time threads.
        #[arg(long)]
        ordinary: bool,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Answer {
    /// Text for people.
    Text,
    /// One JSON object per line.
    Json,
}

#[derive(Clone, Copy, ValueEnum)]
enum Drawing {
    Mermaid,
    Dot,
    Svg,
}

/// The exit codes, so that a script can distinguish the outcomes.
mod exit {
    /// The command failed.
    pub const FAILED: u8 = 1;
    /// The arguments, the topology or a file that it names is wrong; nothing was started.
    pub const REFUSED: u8 = 2;
}

fn main() -> ExitCode {
    let Arguments { log_format, command } = Arguments::parse();
    logging::begin(log_format);
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

/// The overrides of the command line.
///
/// # Errors
/// The faults of those that have no value.
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

/// The plan that a data folder began with, which its store records.
fn plan_of_folder(
    data: &std::path::Path,
    store: &tidegate_sinks::store::Store,
    set: &[String],
) -> Result<Plan, Box<dyn std::error::Error>> {
    let run = tidegate_dataflows::governance::run_record(&log_of(data), store)?;
    let run = run.ok_or_else(|| {
        format!("the log in `{}` is empty and has no plan; name the topology file", data.display())
    })?;
    let overrides = overrides(data, set).map_err(|faults| faults[0].to_string())?;
    Ok(Plan::from_store(&run.plan, store, &overrides)?)
}

fn refuse(faults: &[Diagnostic], format: Answer) -> ExitCode {
    for fault in faults {
        match format {
            Answer::Text if logging::is_json() => tracing::error!("{fault}"),
            Answer::Text => eprintln!("{fault}"),
            Answer::Json => outln!(
                "{}",
                serde_json::json!({"file": fault.file, "line": fault.line, "fault": fault.message})
            ),
        }
    }
    if format == Answer::Text && !logging::is_json() {
        let count = faults.len();
        eprintln!("\n{count} fault{}; nothing was started", if count == 1 { "" } else { "s" });
    }
    ExitCode::from(exit::REFUSED)
}

fn check(file: &std::path::Path, set: &[String], format: Answer) -> ExitCode {
    match plan(file, set) {
        Ok(plan) => {
            match format {
                Answer::Text => outln!("ok: {} nodes, plan {}", plan.topology.nodes.len(), plan.digest),
                Answer::Json => outln!("{}", serde_json::json!({"ok": true, "plan": plan.digest})),
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
            out!("{}", draw(&topology, diagram));
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
    let display = progress::show(&metrics, format == Answer::Text && !logging::is_json());
    let outcome = run(&plan, options, &metrics);
    display.stop();
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

/// Reports an error and its causes.
fn fail(error: &(dyn std::error::Error + 'static)) -> ExitCode {
    logging::error(error);
    ExitCode::from(exit::FAILED)
}
