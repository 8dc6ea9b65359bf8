//! `tidegate policy`: takes the steps of revisions of bundles and gate policies, and shows their
//! state.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use tidegate_dataflows::Plan;
use tidegate_dataflows::governance::{
    DataFolder, GovernanceError, Lifecycle, Proposal, RevisionChange, StepAction, StepOutcome, StepRequest,
    revision_changes,
};
use tidegate_facts::governance::RevisionStep;
use tidegate_facts::time::to_rfc3339;
use tidegate_facts::{Digest, Tick};

use crate::{Answer, exit, fail, plan, refuse};

/// The subcommands of `tidegate policy`.
#[derive(Subcommand)]
pub enum PolicyCommand {
    /// Proposes a file as the next revision of a node, and shows what it would change.
    Propose {
        #[command(flatten)]
        topology: TopologyArguments,
        #[command(flatten)]
        actor: ActorArguments,
        /// The node: a `decide` node, or the gate.
        #[arg(long)]
        node: String,
        /// The file of the bundle or the gate policy.
        #[arg(long)]
        file: PathBuf,
        /// The digest of the revision that must be in force now. By default any may be.
        #[arg(long, value_name = "DIGEST", value_parser = digest)]
        before: Option<Digest>,
    },
    /// Approves a proposal. The actor must not be the proposer, unless the topology permits it.
    Approve(ProposalArguments),
    /// Puts an approved proposal into force, from the tick of this step on.
    Activate(ProposalArguments),
    /// Closes a proposal that is not in force.
    Withdraw(ProposalArguments),
    /// Puts the previous revision of a node into force again.
    Rollback {
        #[command(flatten)]
        topology: TopologyArguments,
        #[command(flatten)]
        actor: ActorArguments,
        /// The node.
        #[arg(long)]
        node: String,
    },
    /// Shows the revisions in force, the proposals, and every step.
    List {
        #[command(flatten)]
        topology: TopologyArguments,
    },
    /// Shows one proposal: its steps, its changes, and its text.
    Show {
        #[command(flatten)]
        topology: TopologyArguments,
        /// The proposal's id, or its first digits.
        #[arg(long)]
        id: String,
    },
}

/// The arguments of `tidegate policy` that name the topology, its data folder, and the output
/// format.
#[derive(Args)]
pub struct TopologyArguments {
    /// The topology file.
    topology: PathBuf,
    /// The data folder.
    #[arg(long, default_value = "data")]
    data: PathBuf,
    /// The folder of the store, if it is not in the data folder.
    #[arg(long)]
    store: Option<PathBuf>,
    /// Replaces a setting, as node.key=value. Must be the same as in the first run of the folder.
    #[arg(long = "set", value_name = "NODE.KEY=VALUE")]
    set: Vec<String>,
    /// The output format.
    #[arg(long, value_enum, default_value_t = Answer::Text)]
    format: Answer,
}

/// The arguments of `tidegate policy` that name the actor of a step, and the reason.
#[derive(Args)]
pub struct ActorArguments {
    /// The person who takes the step.
    #[arg(long)]
    actor: String,
    /// The reason for the step.
    #[arg(long)]
    reason: String,
}

/// The arguments of a step of `tidegate policy` that follows a proposal.
#[derive(Args)]
pub struct ProposalArguments {
    #[command(flatten)]
    topology: TopologyArguments,
    #[command(flatten)]
    actor: ActorArguments,
    /// The proposal's id, or its first digits.
    #[arg(long)]
    id: String,
}

impl TopologyArguments {
    /// The data folder and its store.
    fn folder(&self) -> DataFolder {
        let store = self.store.clone().unwrap_or_else(|| self.data.join("store"));
        DataFolder::new(&self.data, store)
    }
}

fn digest(text: &str) -> Result<Digest, String> {
    Digest::from_hex(text).ok_or_else(|| "a digest is 64 lower-case hexadecimal digits".to_owned())
}

/// Runs a subcommand of `tidegate policy`.
pub fn run(command: PolicyCommand) -> ExitCode {
    let (arguments, actor, action) = match command {
        PolicyCommand::List { topology } => return print_lifecycle(&topology, list),
        PolicyCommand::Show { topology, id } => {
            return print_lifecycle(&topology, |plan, lifecycle, arguments| {
                show(plan, lifecycle, arguments, &id)
            });
        }
        PolicyCommand::Propose { topology, actor, node, file, before } => {
            match std::fs::read_to_string(&file) {
                Ok(text) => (topology, actor, StepAction::Propose { node, file, text, before }),
                Err(source) => {
                    return refused(&GovernanceError::File { path: file, source }, topology.format);
                }
            }
        }
        PolicyCommand::Approve(ProposalArguments { topology, actor, id }) => {
            (topology, actor, StepAction::Follow(RevisionStep::Approved, id))
        }
        PolicyCommand::Activate(ProposalArguments { topology, actor, id }) => {
            (topology, actor, StepAction::Follow(RevisionStep::Activated, id))
        }
        PolicyCommand::Withdraw(ProposalArguments { topology, actor, id }) => {
            (topology, actor, StepAction::Follow(RevisionStep::Withdrawn, id))
        }
        PolicyCommand::Rollback { topology, actor, node } => (topology, actor, StepAction::RollBack(node)),
    };
    let plan = match plan(&arguments.topology, &arguments.set) {
        Ok(plan) => Arc::new(plan),
        Err(faults) => return refuse(&faults, arguments.format),
    };
    let request = StepRequest { actor: actor.actor, reason: actor.reason, action };
    match arguments.folder().take_step(&plan, &request) {
        Ok(outcome) => {
            match arguments.format {
                Answer::Text => out!("{}", outcome_text(&outcome, &arguments)),
                Answer::Json => outln!("{}", outcome_json(&outcome)),
            }
            ExitCode::SUCCESS
        }
        Err(error) => refused(&error, arguments.format),
    }
}

/// Reads the state of all revisions, without a lock, and prints it.
fn print_lifecycle(
    arguments: &TopologyArguments,
    print: impl Fn(&Plan, &Lifecycle, &TopologyArguments) -> Result<(), GovernanceError>,
) -> ExitCode {
    let plan = match plan(&arguments.topology, &arguments.set) {
        Ok(plan) => plan,
        Err(faults) => return refuse(&faults, arguments.format),
    };
    match arguments.folder().lifecycle(&plan).and_then(|lifecycle| print(&plan, &lifecycle, arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => refused(&error, arguments.format),
    }
}

/// Prints why a step was refused or failed. The two have different exit codes.
fn refused(error: &GovernanceError, format: Answer) -> ExitCode {
    use GovernanceError::{Archive, Dedupe, Diagnostics, Foreign, Log, OutOfTicks, Store, Table, Unreadable};
    match error {
        Diagnostics(diagnostics) => return refuse(diagnostics, format),
        Log(_)
        | Archive(_)
        | Store(_)
        | Table(_)
        | Dedupe(_)
        | OutOfTicks
        | Foreign { .. }
        | Unreadable { .. } => return fail(error),
        _ if format == Answer::Json => outln!("{}", json!({"refused": error.to_string()})),
        _ => {
            let _ = fail(error);
        }
    }
    ExitCode::from(exit::REFUSED)
}

fn outcome_text(outcome: &StepOutcome, arguments: &TopologyArguments) -> String {
    let StepOutcome { record, tick, repeated, changes } = outcome;
    let id = record.proposal_id.short_hex();
    if *repeated {
        let (actor, at) = (&record.actor, time(*tick));
        return format!(
            "proposal {id} was already {} by {actor} at {at}; nothing was changed\n",
            record.step
        );
    }
    let folders = format!("{} --data {}", arguments.topology.display(), arguments.data.display());
    let next =
        |step: &str| format!("next: tidegate policy {step} {folders} --id {id} --actor .. --reason ..\n");
    let after = format!("{} of {}", record.after, record.subject.node);
    match record.step {
        RevisionStep::Proposed => {
            format!(
                "proposal {}\n{after} would change\n{}{}",
                record.proposal_id,
                lines(changes),
                next("approve")
            )
        }
        RevisionStep::Approved => format!("{after} is approved by {}\n{}", record.actor, next("activate")),
        RevisionStep::Activated => format!("{after} is in force from {} on\n{}", time(*tick), lines(changes)),
        RevisionStep::RolledBack => {
            format!("{after} is in force again from {} on\n{}", time(*tick), lines(changes))
        }
        RevisionStep::Withdrawn => format!("proposal {id} is withdrawn\n"),
    }
}

fn outcome_json(outcome: &StepOutcome) -> Value {
    let mut step = outcome.record.payload();
    step["_tick"] = json!(outcome.tick);
    step["at_utc"] = json!(time(outcome.tick));
    step["repeated"] = json!(outcome.repeated);
    step["changes"] = json!(outcome.changes);
    step
}

fn lines(changes: &[RevisionChange]) -> String {
    changes.iter().map(|change| format!("{change}\n")).collect()
}

fn time(tick: Tick) -> String {
    to_rfc3339(tick.micros())
}

fn list(_: &Plan, lifecycle: &Lifecycle, arguments: &TopologyArguments) -> Result<(), GovernanceError> {
    if arguments.format == Answer::Json {
        for (subject, _) in lifecycle.subjects() {
            let (revision, since, by) =
                lifecycle.in_force(subject).expect("it is a subject of the lifecycle");
            let body = json!({
                "node": subject.node, "kind": subject.kind, "revision_id": revision.id,
                "revision_version": revision.version, "digest": revision.digest,
                "since_tick": since, "since_utc": since.map(time), "proposal_id": by,
            });
            outln!("{}", json!({"in_force": body}));
        }
        for proposal in lifecycle.in_order() {
            outln!("{}", json!({"proposal": proposal_json(lifecycle, proposal)}));
        }
        for (tick, step) in lifecycle.steps() {
            let mut body = step.payload();
            body["_tick"] = json!(tick);
            body["at_utc"] = json!(time(*tick));
            outln!("{}", json!({"step": body}));
        }
        return Ok(());
    }
    let in_force = lifecycle.subjects().map(|(subject, _)| {
        let (revision, since, by) = lifecycle.in_force(subject).expect("it is a subject of the lifecycle");
        vec![
            subject.node.clone(),
            revision.to_string(),
            since.map_or("the beginning".to_owned(), time),
            by.map_or("the topology".to_owned(), |id| format!("proposal {}", id.short_hex())),
        ]
    });
    out!("{}", table(["node", "in force", "since", "by"], in_force.collect()));
    let proposals = lifecycle.in_order().into_iter().map(|proposal| {
        vec![
            proposal.id.short_hex(),
            proposal.subject.node.clone(),
            proposal.after.to_string(),
            lifecycle.status_of(proposal).to_owned(),
        ]
    });
    out!("\n{}", table(["proposal", "node", "revision", "state"], proposals.collect()));
    let steps = lifecycle.steps().iter().map(|(tick, step)| {
        let id = step.proposal_id.short_hex();
        vec![time(*tick), id, step.step.to_string(), step.actor.clone(), step.reason.clone()]
    });
    out!("\n{}", table(["at", "proposal", "step", "actor", "reason"], steps.collect()));
    Ok(())
}

fn proposal_json(lifecycle: &Lifecycle, proposal: &Proposal) -> Value {
    json!({
        "proposal_id": proposal.id, "node": proposal.subject.node, "kind": proposal.subject.kind,
        "before": proposal.before, "after": proposal.after.digest, "revision_id": proposal.after.id,
        "revision_version": proposal.after.version, "state": lifecycle.status_of(proposal),
    })
}

fn show(
    plan: &Plan,
    lifecycle: &Lifecycle,
    arguments: &TopologyArguments,
    id: &str,
) -> Result<(), GovernanceError> {
    let proposal = lifecycle.proposal(id)?;
    let steps = lifecycle.steps().iter().filter(|(_, step)| step.proposal_id == proposal.id);
    let steps: Vec<_> = steps.collect();
    let changes = revision_changes(plan, lifecycle, &steps[0].1);
    if arguments.format == Answer::Json {
        let mut body = proposal_json(lifecycle, proposal);
        body["text"] = json!(proposal.text);
        body["changes"] = json!(changes);
        let step_json = |(tick, step): &&(Tick, tidegate_facts::governance::StepRecord)| json!({"_tick": tick, "at_utc": time(*tick), "step": step.step, "actor": step.actor, "reason": step.reason});
        body["steps"] = json!(steps.iter().map(step_json).collect::<Vec<_>>());
        outln!("{body}");
        return Ok(());
    }
    outln!(
        "proposal {}\n{} of {}: {}\n",
        proposal.id,
        proposal.after,
        proposal.subject.node,
        lifecycle.status_of(proposal)
    );
    let rows = steps.iter().map(|(tick, step)| {
        vec![time(*tick), step.step.to_string(), step.actor.clone(), step.reason.clone()]
    });
    out!("{}", table(["at", "step", "actor", "reason"], rows.collect()));
    outln!("\nagainst {}\n{}\n{}", proposal.before.short_hex(), lines(&changes), proposal.text.trim_end());
    Ok(())
}

/// A table as text. Each column is as wide as its widest cell.
fn table<const N: usize>(heads: [&str; N], rows: Vec<Vec<String>>) -> String {
    let heads = heads.map(str::to_owned).to_vec();
    let rows: Vec<Vec<String>> = std::iter::once(heads).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}
