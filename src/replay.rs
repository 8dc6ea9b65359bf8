//! `tidegate replay`: the log through the graph again, to compare, to write elsewhere, or to see
//! what would change.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use tidegate_dataflows::Plan;
use tidegate_dataflows::governance::run_record;
use tidegate_dataflows::metrics::RunMetrics;
use tidegate_facts::Tick;
use tidegate_replay::compare_seals::{Compared, compare_seals};
use tidegate_replay::find_fact::fact_at;
use tidegate_replay::shadow::{CHANGES, Shadow, shadow};
use tidegate_sinks::store::Store;

use crate::{Answer, exit, fail, progress};

/// What to run again, and what for.
#[derive(Args)]
pub struct Replay {
    /// The topology file. Without it, the plan is the one that the data folder began with.
    topology: Option<PathBuf>,
    /// The data folder.
    #[arg(long, default_value = "data")]
    data: PathBuf,
    /// The folder of its committed tables, when it is not in the data folder.
    #[arg(long)]
    store: Option<PathBuf>,
    /// Compares the commits from this tick or time on.
    #[arg(long, value_name = "TICK|TIME", value_parser = Tick::parse)]
    from: Option<Tick>,
    /// Runs the facts before this tick or time.
    #[arg(long, value_name = "TICK|TIME", value_parser = Tick::parse)]
    to: Option<Tick>,
    /// How many dataflow workers; the answers are the same for any number.
    #[arg(short = 'w', long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    workers: u16,
    /// Compares every seal with the one that was made, and writes nothing.
    #[arg(long)]
    verify: bool,
    /// Writes the output to this folder, whatever it was before.
    #[arg(long, value_name = "DIR", conflicts_with = "verify")]
    out: Option<PathBuf>,
    /// Replaces a setting, as node.key=value. Without --verify and --out, shows which decisions
    /// would have been others under these settings.
    #[arg(long = "set", value_name = "NODE.KEY=VALUE")]
    set: Vec<String>,
    /// How to answer.
    #[arg(long, value_enum, default_value_t = Answer::Text)]
    format: Answer,
}

/// Runs `tidegate replay`.
pub fn run(arguments: &Replay) -> ExitCode {
    if !arguments.verify && arguments.out.is_none() && arguments.set.is_empty() {
        eprintln!(
            "tidegate replay needs one of --verify (compare every seal), --out DIR (write the output there) and \
             --set node.key=value (show what would have been decided otherwise)"
        );
        return ExitCode::from(exit::REFUSED);
    }
    let plan = match &arguments.topology {
        Some(topology) => match crate::plan(topology, &arguments.set) {
            Ok(plan) => Arc::new(plan),
            Err(faults) => return crate::refuse(&faults, arguments.format),
        },
        None => match recorded_plan(arguments) {
            Ok(plan) => Arc::new(plan),
            Err(error) => return fail(error.as_ref()),
        },
    };
    let nodes: Vec<String> = plan.steps.iter().map(|step| step.name.clone()).collect();
    let watch = RunMetrics::new(&[], &nodes);
    let shown = progress::show(&watch, arguments.format == Answer::Text);
    let outcome = if arguments.verify {
        verify(arguments, &plan, &watch)
    } else if arguments.out.is_some() {
        write(arguments, &plan, &watch)
    } else {
        changes(arguments, &plan, &watch)
    };
    shown.stop();
    match outcome {
        Ok((lines, code)) => {
            for line in lines {
                println!("{line}");
            }
            code
        }
        Err(error) => fail(error.as_ref()),
    }
}

fn recorded_plan(arguments: &Replay) -> Result<Plan, Box<dyn std::error::Error>> {
    let store = Store::open(arguments.store())?;
    crate::plan_of_folder(&arguments.data, &store, &arguments.set)
}

type Outcome = Result<(Vec<String>, ExitCode), Box<dyn std::error::Error>>;

impl Replay {
    fn store(&self) -> PathBuf {
        self.store.clone().unwrap_or_else(|| self.data.join("store"))
    }
}

fn rate(facts: u64, watch: &RunMetrics) -> String {
    let seconds = watch.elapsed().as_secs_f64();
    format!("{facts} facts in {seconds:.1} s ({:.0} a second)", facts as f64 / seconds.max(1e-9))
}

fn verify(arguments: &Replay, plan: &Arc<Plan>, watch: &RunMetrics) -> Outcome {
    let store = Store::open(arguments.store())?;
    let range = (arguments.from.unwrap_or(Tick::ZERO), arguments.to.unwrap_or(Tick::MAX));
    let compared = compare_seals(plan, &arguments.data, &store, range, arguments.workers.into(), watch)?;
    let code = if compared.first.is_none() { ExitCode::SUCCESS } else { ExitCode::from(exit::FAILED) };
    let began = run_record(&crate::log_of(&arguments.data), &store)?.map(|run| run.plan);
    let other = began.filter(|began| *began != plan.digest);
    if arguments.format == Answer::Json {
        let first = compared.first.as_ref().map(|d| {
            let values = d.values.iter().map(|(name, a, b)| serde_json::json!({"name": name, "sealed": a, "computed": b}));
            serde_json::json!({"commit": d.commit, "file": d.file, "record": d.record, "tick": d.tick, "values": values.collect::<Vec<_>>()})
        });
        let answer = serde_json::json!({
            "facts": compared.facts, "commits": compared.commits, "equal_records": compared.equal,
            "differing_files": compared.files, "uncommitted": compared.uncommitted, "first_difference": first,
            "plan": plan.digest, "plan_of_log": began, "seconds": watch.elapsed().as_secs_f64(),
        });
        return Ok((vec![answer.to_string()], code));
    }
    let mut lines = vec![format!(
        "{}; {} commits compared, {} records have the seal they had",
        rate(compared.facts, watch),
        compared.commits,
        compared.equal
    )];
    if compared.uncommitted > 0 {
        lines.push(format!("{} intervals of the log are not committed yet", compared.uncommitted));
    }
    if let Some(other) = other {
        lines.push(format!(
            "`{}` was run under plan {other}, and this topology is plan {}: its seals cannot be the same; give the files and the \
             --set with which it was started",
            arguments.data.display(),
            plan.digest
        ));
    }
    lines.extend(difference(arguments, &compared));
    Ok((lines, code))
}

/// The first difference, and the fact that led to it.
fn difference(arguments: &Replay, compared: &Compared) -> Vec<String> {
    let Some(first) = &compared.first else {
        return vec!["every seal is the same".to_owned()];
    };
    let mut lines = vec![
        String::new(),
        format!("DIFFERENT  {} files lead to other seals; the first difference:", compared.files),
        format!("  commit {}, {}, {}", first.commit, first.file, first.record),
    ];
    let width = first.values.iter().map(|(name, _, _)| name.len()).max().unwrap_or(0);
    for (name, sealed, computed) in &first.values {
        lines.push(format!("  - {name:width$}  {sealed}"));
        lines.push(format!("  + {name:width$}  {computed}"));
    }
    lines.push("  (- as it was sealed, + as it is computed now)".to_owned());
    if let Some(tick) = first.tick {
        match fact_at(&crate::log_of(&arguments.data), tick) {
            Ok(Some(fact)) => lines.push(format!("  the fact it is about, {tick}:\n  {fact}")),
            Ok(None) => lines.push(format!("  the log has no fact {tick}")),
            Err(error) => lines.push(format!("  the fact it is about cannot be read: {error}")),
        }
    }
    lines
}

fn write(arguments: &Replay, plan: &Arc<Plan>, watch: &RunMetrics) -> Outcome {
    let out = arguments.out.as_deref().expect("the caller looked");
    let to = arguments.to.unwrap_or(Tick::MAX);
    let (facts, commits) =
        tidegate_replay::replay_to(plan, &arguments.data, out, to, arguments.workers.into(), watch)?;
    let tables = commits.tables().join(", ");
    if arguments.format == Answer::Json {
        let answer = serde_json::json!({"facts": facts, "commits": commits.list.len(), "out": out});
        return Ok((vec![answer.to_string()], ExitCode::SUCCESS));
    }
    let lines = vec![
        format!("{}; {} commits", rate(facts, watch), commits.list.len()),
        format!("tables in {}: {tables}", out.display()),
        format!("  tidegate sql --data {} --store {} \"SELECT ..\"", arguments.data.display(), out.display()),
    ];
    Ok((lines, ExitCode::SUCCESS))
}

fn changes(arguments: &Replay, plan: &Arc<Plan>, watch: &RunMetrics) -> Outcome {
    let sealed = Store::open(arguments.store())?;
    let out = arguments.data.join("shadow").join(&plan.digest.to_hex()[..16]);
    let to = arguments.to.unwrap_or(Tick::MAX);
    let shadow = shadow(plan, &arguments.data, &sealed, &out, to, arguments.workers.into(), watch)?;
    if arguments.format == Answer::Json {
        let actions = shadow.actions.iter();
        let actions = actions
            .map(|((from, to), count)| serde_json::json!({"from": from, "to": to, "decisions": count}));
        let answer =
            serde_json::json!({"facts": shadow.facts, "actions": actions.collect::<Vec<_>>(), "out": out});
        return Ok((vec![answer.to_string()], ExitCode::SUCCESS));
    }
    let mut lines = vec![rate(shadow.facts, watch), String::new()];
    lines.extend(table(&shadow));
    lines.push(String::new());
    lines.push(format!("{} decisions would have been others", shadow.changed()));
    lines.extend(look_further(arguments, &shadow, &out));
    Ok((lines, ExitCode::SUCCESS))
}

fn table(shadow: &Shadow) -> Vec<String> {
    let mut lines = vec![format!("{:<14} {:<14} {:>12}", "was", "would be", "decisions")];
    for ((from, to), count) in &shadow.actions {
        let mark = if from == to { "" } else { "  *" };
        lines.push(format!("{from:<14} {to:<14} {count:>12}{mark}"));
    }
    lines
}

fn look_further(arguments: &Replay, shadow: &Shadow, out: &Path) -> Option<String> {
    (shadow.changed() > 0).then(|| {
        format!(
            "  tidegate sql --data {} --store {} \"SELECT event_id, from_action, to_action, from_reasons, to_reasons FROM {CHANGES}\"",
            arguments.data.display(),
            out.display()
        )
    })
}
