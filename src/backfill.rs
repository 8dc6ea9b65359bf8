//! `tidegate backfill`: tables computed anew as a declaration says, and what was declared so far.

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

/// What to compute anew.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true, arg_required_else_help = true)]
pub struct BackfillArguments {
    #[command(subcommand)]
    command: Option<BackfillCommand>,
    /// The declaration file; a backfill that was stopped goes on.
    declaration: Option<PathBuf>,
    #[command(flatten)]
    on: On,
    /// How many dataflow workers; the answers are the same for any number.
    #[arg(short = 'w', long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    workers: u16,
    /// The file of the key that signs the commits.
    #[arg(long, env = keys::KEY_FILE, value_name = "FILE")]
    key: Option<PathBuf>,
}

#[derive(Subcommand)]
enum BackfillCommand {
    /// Shows every backfill of a data folder, and how far it has come.
    List {
        #[command(flatten)]
        on: On,
    },
}

/// Where.
#[derive(Args)]
struct On {
    /// The data folder.
    #[arg(long, default_value = "data")]
    data: PathBuf,
    /// The folder of its committed tables and archive, when it is not in the data folder.
    #[arg(long)]
    store: Option<PathBuf>,
    /// How to answer.
    #[arg(long, value_enum, default_value_t = Answer::Text)]
    format: Answer,
}

impl On {
    fn store(&self) -> PathBuf {
        self.store.clone().unwrap_or_else(|| self.data.join("store"))
    }
}

/// Memory for the index that keeps out duplicates; two records need next to none.
const DEDUPE_BYTES: u64 = 8 << 20;

/// Runs the command.
pub fn run(arguments: &BackfillArguments) -> ExitCode {
    if let Some(BackfillCommand::List { on }) = &arguments.command {
        return list(on);
    }
    let On { data, format, .. } = &arguments.on;
    let file = arguments.declaration.as_deref().expect("clap asks for one of the two");
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
        live: arguments.on.store(),
        workers: arguments.workers.into(),
        dedupe_bytes: DEDUPE_BYTES,
        signer,
    };
    let nodes: Vec<String> = declaration.plan.steps.iter().map(|step| step.name.clone()).collect();
    let watch = RunMetrics::new(&[], &nodes);
    let shown = progress::show(&watch, *format == Answer::Text);
    let outcome = backfill(&declaration, &options, &watch);
    shown.stop();
    match outcome {
        Ok(outcome) => {
            match format {
                Answer::Text => print!("{}", report_text(&outcome, data)),
                Answer::Json => println!("{}", outcome_json(&outcome)),
            }
            ExitCode::SUCCESS
        }
        Err(error) => refused(&error, *format),
    }
}

/// Prints why not. What was refused by rule and what failed have exit codes of their own.
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
        Answer::Json => println!("{}", json!({"refused": error.to_string()})),
        Answer::Text => {
            fail(error);
        }
    }
    ExitCode::from(exit::REFUSED)
}

fn report_text(outcome: &Outcome, data: &Path) -> String {
    let BackfillRecord { backfill, completion } = &outcome.record;
    let completion = completion.as_ref().expect("it is completed");
    let before = if outcome.repeated { " already; nothing was done" } else { "" };
    let mut text = format!("backfill {} is completed{before}\n", backfill.id);
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

/// A record as its fact has it, except that a list is a list.
fn record_json(record: &BackfillRecord) -> Value {
    let mut body = record.payload();
    body["outputs"] = json!(record.backfill.outputs);
    if let Some(completion) = &record.completion {
        body["produced"] = json!(completion.produced);
    }
    body
}

fn list(on: &On) -> ExitCode {
    let log = crate::log_of(&on.data);
    if !log.exists() {
        return refused(&GovernanceError::NothingRan { data: on.data.clone() }.into(), on.format);
    }
    let records = Store::open(on.store())
        .map_err(BackfillError::from)
        .and_then(|archive| Ok(backfills(&log, &archive)?));
    match records {
        Ok(records) => {
            for (tick, record) in &records {
                println!("{}", line(*tick, record, on));
            }
            ExitCode::SUCCESS
        }
        Err(error) => refused(&error, on.format),
    }
}

fn line(tick: Tick, record: &BackfillRecord, on: &On) -> String {
    let at = to_rfc3339(tick.micros());
    if on.format == Answer::Json {
        let mut body = record_json(record);
        body["_tick"] = json!(tick);
        body["at_utc"] = json!(at);
        return body.to_string();
    }
    let backfill = &record.backfill;
    let (id, step, outputs) = (&backfill.id, record.step(), backfill.outputs.join(", "));
    match record.completion {
        None => format!("{at}  {id}  {step} by {}: {outputs}  ({})", backfill.actor, backfill.purpose),
        Some(_) => format!("{at}  {id}  {step}: {outputs} in {}", store_of(&on.data, id).display()),
    }
}
