//! `tidegate replay`: runs the log through the graph again, to compare every seal, to write the
//! output to another folder, or to show which decisions other settings would change.

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

/// The arguments of `tidegate replay`.
#[derive(Args)]
pub struct Replay {
    /// The topology file. By default the plan is the one that the data folder began with.
    topology: Option<PathBuf>,
    /// The data folder.
    #[arg(long, default_value = "data")]
    data: PathBuf,
    /// The folder of the store, if it is not in the data folder.
    #[arg(long)]
    store: Option<PathBuf>,
    /// Compares the commits from this tick or time on.
    #[arg(long, value_name = "TICK|TIME", value_parser = Tick::parse)]
    from: Option<Tick>,
    /// Replays the facts before this tick or time.
    #[arg(long, value_name = "TICK|TIME", value_parser = Tick::parse)]
    to: Option<Tick>,
    /// The number of dataflow workers. The results are the same for any number.
    #[arg(short = 'w', long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    workers: u16,
    /// Compares every seal with the one in the commits, and writes nothing.
    #[arg(long)]
    verify: bool,
    /// Writes the output to this folder, and compares nothing.
    #[arg(long, value_name = "DIR", conflicts_with = "verify")]
    out: Option<PathBuf>,
    /// Replaces a setting, as node.key=value. Without --verify and --out, the replay shows which
    /// decisions these settings would change.
    #[arg(long = "set", value_name = "NODE.KEY=VALUE")]
    set: Vec<String>,
    /// The output format.
    #[arg(long, value_enum, default_value_t = Answer::Text)]
    format: Answer,
}

/// Runs `tidegate replay`.
pub fn run(arguments: &Replay) -> ExitCode {
    if !arguments.verify && arguments.out.is_none() && arguments.set.is_empty() {
        eprintln!(
            "tidegate replay needs one of --verify (compares every seal), --out DIR (writes the output there) and \
             --set node.key=value (shows which decisions would change)"
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
    let metrics = RunMetrics::new(&[], &nodes);
    let display = progress::show(&metrics, arguments.format == Answer::Text);
    let outcome = if arguments.verify {
        verify(arguments, &plan, &metrics)
    } else if arguments.out.is_some() {
        write(arguments, &plan, &metrics)
    } else {
        changes(arguments, &plan, &metrics)
    };
    display.stop();
    match outcome {
        Ok((lines, code)) => {
            for line in lines {
                outln!("{line}");
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

fn rate(facts: u64, metrics: &RunMetrics) -> String {
    let seconds = metrics.elapsed().as_secs_f64();
    format!("{facts} facts in {seconds:.1} s ({:.0} a second)", facts as f64 / seconds.max(1e-9))
}

fn verify(arguments: &Replay, plan: &Arc<Plan>, metrics: &RunMetrics) -> Outcome {
    let store = Store::open(arguments.store())?;
    let range = (arguments.from.unwrap_or(Tick::ZERO), arguments.to.unwrap_or(Tick::MAX));
    let compared = compare_seals(plan, &arguments.data, &store, range, arguments.workers.into(), metrics)?;
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
            "plan": plan.digest, "plan_of_log": began, "seconds": metrics.elapsed().as_secs_f64(),
        });
        return Ok((vec![answer.to_string()], code));
    }
    let mut lines = vec![format!(
        "{}; {} commits compared, {} records have the same seal",
        rate(compared.facts, metrics),
        compared.commits,
        compared.equal
    )];
    if compared.uncommitted > 0 {
        lines.push(format!("{} intervals of the log are not committed yet", compared.uncommitted));
    }
    if let Some(other) = other {
        lines.push(format!(
            "`{}` began with plan {other}, but this topology is plan {}, so the seals differ; give the files and the \
             --set of the first run",
            arguments.data.display(),
            plan.digest
        ));
    }
    lines.extend(difference(arguments, &compared));
    Ok((lines, code))
}

/// The first difference, and its fact.
fn difference(arguments: &Replay, compared: &Compared) -> Vec<String> {
    let Some(first) = &compared.first else {
        return vec!["every seal is the same".to_owned()];
    };
    let mut lines = vec![
        String::new(),
        format!("DIFFERENT  {} files have other seals; the first difference:", compared.files),
        format!("  commit {}, {}, {}", first.commit, first.file, first.record),
    ];
    let width = first.values.iter().map(|(name, _, _)| name.len()).max().unwrap_or(0);
    for (name, sealed, computed) in &first.values {
        lines.push(format!("  - {name:width$}  {sealed}"));
        lines.push(format!("  + {name:width$}  {computed}"));
    }
    lines.push("  (- as sealed, + as computed now)".to_owned());
    if let Some(tick) = first.tick {
        match fact_at(&crate::log_of(&arguments.data), tick) {
            Ok(Some(fact)) => lines.push(format!("  its fact, {tick}:\n  {fact}")),
            Ok(None) => lines.push(format!("  the log has no fact {tick}")),
            Err(error) => lines.push(format!("  its fact, {tick}, cannot be read: {error}")),
        }
    }
    lines
}

fn write(arguments: &Replay, plan: &Arc<Plan>, metrics: &RunMetrics) -> Outcome {
    let out = arguments.out.as_deref().expect("the caller checks that it is given");
    let to = arguments.to.unwrap_or(Tick::MAX);
    let (facts, commits) =
        tidegate_replay::replay_to(plan, &arguments.data, out, to, arguments.workers.into(), metrics)?;
    let tables = commits.tables().join(", ");
    if arguments.format == Answer::Json {
        let answer = serde_json::json!({"facts": facts, "commits": commits.list.len(), "out": out});
        return Ok((vec![answer.to_string()], ExitCode::SUCCESS));
    }
    let lines = vec![
        format!("{}; {} commits", rate(facts, metrics), commits.list.len()),
        format!("tables in {}: {tables}", out.display()),
        format!("  tidegate sql --data {} --store {} \"SELECT ..\"", arguments.data.display(), out.display()),
    ];
    Ok((lines, ExitCode::SUCCESS))
}

fn changes(arguments: &Replay, plan: &Arc<Plan>, metrics: &RunMetrics) -> Outcome {
    let sealed = Store::open(arguments.store())?;
    let out = arguments.data.join("shadow").join(&plan.digest.to_hex()[..16]);
    let to = arguments.to.unwrap_or(Tick::MAX);
    let shadow = shadow(plan, &arguments.data, &sealed, &out, to, arguments.workers.into(), metrics)?;
    if arguments.format == Answer::Json {
        let actions = shadow.actions.iter();
        let actions = actions
            .map(|((from, to), count)| serde_json::json!({"from": from, "to": to, "decisions": count}));
        let answer =
            serde_json::json!({"facts": shadow.facts, "actions": actions.collect::<Vec<_>>(), "out": out});
        return Ok((vec![answer.to_string()], ExitCode::SUCCESS));
    }
    let mut lines = vec![rate(shadow.facts, metrics), String::new()];
    lines.extend(table(&shadow));
    lines.push(String::new());
    lines.push(format!("{} decisions would change", shadow.changed()));
    lines.extend(changes_query(arguments, &shadow, &out));
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

/// The command that lists the changed decisions.
fn changes_query(arguments: &Replay, shadow: &Shadow, out: &Path) -> Option<String> {
    (shadow.changed() > 0).then(|| {
        format!(
            "  tidegate sql --data {} --store {} \"SELECT event_id, from_action, to_action, from_reasons, to_reasons FROM {CHANGES}\"",
            arguments.data.display(),
            out.display()
        )
    })
}
