//! `tidegate backfill`: computes declared tables again, and lists the backfills of a data folder.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use tidegate_dataflows::backfill_declaration::BackfillDeclaration;
use tidegate_dataflows::governance::{GovernanceError, backfills};
use tidegate_dataflows::metrics::RunMetrics;
use tidegate_facts::Tick;
use tidegate_facts::backfill::BackfillRecord;
use tidegate_facts::time::to_rfc3339;
use tidegate_replay::backfill::{BackfillError, Options, Outcome, backfill, store_of};
use tidegate_sinks::store::Store;

use crate::{Answer, exit, fail, keys, progress, refuse};

/// The arguments of `tidegate backfill`.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true, arg_required_else_help = true)]
pub struct BackfillArguments {
    #[command(subcommand)]
    command: Option<BackfillCommand>,
    /// The declaration file. A backfill that was interrupted resumes.
    declaration: Option<PathBuf>,
    #[command(flatten)]
    folders: DataArguments,
    /// The number of dataflow workers. The results are the same for any number.
    #[arg(short = 'w', long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    workers: u16,
    /// The file with the signing key for the commits.
    #[arg(long, env = keys::KEY_FILE, value_name = "FILE")]
    key: Option<PathBuf>,
}

#[derive(Subcommand)]
enum BackfillCommand {
    /// Lists the backfills of a data folder, and their steps.
    List {
        #[command(flatten)]
        folders: DataArguments,
    },
}

/// The data folder, its store, and the output format.
#[derive(Args)]
struct DataArguments {
    /// The data folder.
    #[arg(long, default_value = "data")]
    data: PathBuf,
    /// The folder of the store, if it is not in the data folder.
    #[arg(long)]
    store: Option<PathBuf>,
    /// The output format.
    #[arg(long, value_enum, default_value_t = Answer::Text)]
    format: Answer,
}

impl DataArguments {
    fn store(&self) -> PathBuf {
        self.store.clone().unwrap_or_else(|| self.data.join("store"))
    }
}

/// Memory for the index of event ids that finds duplicates. A backfill appends only two facts.
const DEDUPE_BYTES: u64 = 8 << 20;

/// Runs `tidegate backfill`.
pub fn run(arguments: &BackfillArguments) -> ExitCode {
    if let Some(BackfillCommand::List { folders }) = &arguments.command {
        return list(folders);
    }
    let DataArguments { data, format, .. } = &arguments.folders;
    let file = arguments.declaration.as_deref().expect("clap requires one of the two");
    let declaration = match BackfillDeclaration::read(file) {
        Ok(declaration) => declaration,
        Err(faults) => return refuse(&faults, *format),
    };
    let signer = match keys::signer(arguments.key.as_deref()) {
        Ok(signer) => signer,
        Err(error) => {
            fail(&error);
            return ExitCode::from(exit::REFUSED);
        }
    };
    let options = Options {
        data: data.clone(),
        live: arguments.folders.store(),
        workers: arguments.workers.into(),
        dedupe_bytes: DEDUPE_BYTES,
        signer,
    };
    let nodes: Vec<String> = declaration.plan.steps.iter().map(|step| step.name.clone()).collect();
    let metrics = RunMetrics::new(&[], &nodes);
    let display = progress::show(&metrics, *format == Answer::Text);
    let outcome = backfill(&declaration, &options, &metrics);
    display.stop();
    match outcome {
        Ok(outcome) => {
            match format {
                Answer::Text => out!("{}", report_text(&outcome, data)),
                Answer::Json => outln!("{}", outcome_json(&outcome)),
            }
            ExitCode::SUCCESS
        }
        Err(error) => refused(&error, *format),
    }
}

/// Prints why a backfill was refused or failed. The two have different exit codes.
fn refused(error: &BackfillError, format: Answer) -> ExitCode {
    use GovernanceError::{NothingRan, OtherGate, Pins, Running};
    let by_rule = match error {
        BackfillError::OtherDeclaration { .. }
        | BackfillError::OtherBuild { .. }
        | BackfillError::NoBasis { .. }
        | BackfillError::Range { .. } => true,
        BackfillError::Governance(error) => {
            matches!(**error, NothingRan { .. } | OtherGate { .. } | Pins { .. } | Running { .. })
        }
        _ => false,
    };
    if !by_rule {
        return fail(error);
    }
    match format {
        Answer::Json => outln!("{}", json!({"refused": error.to_string()})),
        Answer::Text => {
            fail(error);
        }
    }
    ExitCode::from(exit::REFUSED)
}

fn report_text(outcome: &Outcome, data: &Path) -> String {
    let BackfillRecord { backfill, completion } = &outcome.record;
    let completion = completion.as_ref().expect("it is completed");
    let state = if outcome.repeated { "was completed before; nothing was done" } else { "is completed" };
    let mut text = format!("backfill {} {state}\n", backfill.id);
    text += &format!(
        "{} facts read, {} commits, the last is {}\n",
        completion.facts, completion.commits, completion.head
    );
    for table in &completion.produced {
        text += &format!(
            "{}: {} rows in {} files, digest {}\n",
            table.table, table.rows, table.files, table.digest
        );
    }
    let (data, store) = (data.display(), outcome.store.display());
    text + &format!("  tidegate sql --data {data} --store {store} \"SELECT ..\"\n")
}

fn outcome_json(outcome: &Outcome) -> Value {
    let mut body = record_json(&outcome.record);
    body["repeated"] = json!(outcome.repeated);
    body["store"] = json!(outcome.store);
    body
}

/// The payload of the record's fact, but with lists as JSON arrays.
fn record_json(record: &BackfillRecord) -> Value {
    let mut body = record.payload();
    body["outputs"] = json!(record.backfill.outputs);
    if let Some(completion) = &record.completion {
        body["produced"] = json!(completion.produced);
    }
    body
}

fn list(folders: &DataArguments) -> ExitCode {
    let log = crate::log_of(&folders.data);
    if !log.exists() {
        return refused(&GovernanceError::NothingRan { data: folders.data.clone() }.into(), folders.format);
    }
    let records = Store::open(folders.store())
        .map_err(BackfillError::from)
        .and_then(|archive| Ok(backfills(&log, &archive)?));
    match records {
        Ok(records) => {
            for (tick, record) in &records {
                outln!("{}", line(*tick, record, folders));
            }
            ExitCode::SUCCESS
        }
        Err(error) => refused(&error, folders.format),
    }
}

fn line(tick: Tick, record: &BackfillRecord, folders: &DataArguments) -> String {
    let at = to_rfc3339(tick.micros());
    if folders.format == Answer::Json {
        let mut body = record_json(record);
        body["_tick"] = json!(tick);
        body["at_utc"] = json!(at);
        return body.to_string();
    }
    let backfill = &record.backfill;
    let (id, step, outputs) = (&backfill.id, record.step(), backfill.outputs.join(", "));
    match record.completion {
        None => format!("{at}  {id}  {step} by {}: {outputs}  ({})", backfill.actor, backfill.purpose),
        Some(_) => format!("{at}  {id}  {step}: {outputs} in {}", store_of(&folders.data, id).display()),
    }
}
