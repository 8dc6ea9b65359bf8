//! Requests for steps of revisions and their outcomes, as callers, the gate and the command line
//! exchange them.
//!
//! A request names an actor, a reason and an action. [`crate::governance`] validates it and adds it
//! to the log; a topology that is served takes it from the queue of [`crate::serve`].

use std::path::PathBuf;

use tidegate_dedupe::DedupeError;
use tidegate_facts::backfill::BackfillRecord;
use tidegate_facts::governance::{RevisionStep, StepRecord};
use tidegate_facts::{Digest, Tick};
use tidegate_operators::governance::revision_diff::RevisionChange;
use tidegate_operators::governance::revision_lifecycle::{Lifecycle, Refusal};
use tidegate_sinks::archive::ArchiveError;
use tidegate_sinks::commits::TableError;
use tidegate_sinks::log::LogError;
use tidegate_sinks::store::StoreError;

use crate::config::Diagnostic;

/// A caller's request for a step of a revision.
#[derive(Clone, Debug)]
pub struct StepRequest {
    /// Who takes the step.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// The step.
    pub action: StepAction,
}

/// The step that a [`StepRequest`] asks for.
#[derive(Clone, Debug)]
pub enum StepAction {
    /// Propose a new text for the bundle or policy of a node.
    Propose {
        /// The node.
        node: String,
        /// The name of the text in error messages.
        file: PathBuf,
        /// The text of the revision.
        text: String,
        /// The digest that must be in force now, if the actor names one.
        before: Option<Digest>,
    },
    /// Approve, activate, withdraw or roll back a proposal, named by its id or the first digits of
    /// it.
    Follow(RevisionStep, String),
    /// Bring back what was in force at a node before its newest revision.
    RollBack(String),
}

/// The outcome of a requested step of a revision, once it is durable in the log.
#[derive(Clone, Debug)]
pub struct StepOutcome {
    /// The step.
    pub record: StepRecord,
    /// Its tick.
    pub tick: Tick,
    /// Whether the log held the same step before, so that nothing has changed.
    pub repeated: bool,
    /// What the revision changes against the one before it.
    pub changes: Vec<RevisionChange>,
}

/// The state of governance in a running topology: its revisions and backfills.
#[derive(Clone, Debug)]
pub struct GovernanceState {
    /// Its revisions.
    pub lifecycle: Lifecycle,
    /// Every step of every backfill of its log, in their order.
    pub backfills: Vec<(Tick, BackfillRecord)>,
}

/// Why a requested step of a revision was not taken, or the revisions in a log cannot be applied.
#[derive(Debug, thiserror::Error)]
pub enum GovernanceError {
    /// The lifecycle does not allow the step now.
    #[error(transparent)]
    Refused(Box<Refusal>),
    /// The topology cannot be planned with the revision.
    #[error("the revision cannot come into force:{}", .0.iter().map(|diagnostic| format!("\n  {diagnostic}")).collect::<String>())]
    Diagnostics(Vec<Diagnostic>),
    /// The gate refused the step's record.
    #[error("the gate refused the step ({reason}): {detail}")]
    Gate {
        /// The code of the reason.
        reason: String,
        /// What exactly is wrong.
        detail: String,
    },
    /// The topology has no values for pins that control facts carry.
    #[error(
        "[run] of the topology lacks {}, which every control fact carries; only a topology that began with them can be \
         revised",
        .missing.join(", ")
    )]
    Pins {
        /// The pins.
        missing: Vec<&'static str>,
    },
    /// A file cannot be read.
    #[error("revision `{path}` cannot be read; check the path")]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// Another process has the log open.
    #[error(
        "a run is active on `{data}`{} and alone may add to its log; take the step when it has ended",
        .pid.map(|pid| format!(" (process {pid})")).unwrap_or_default()
    )]
    Running {
        /// The data folder.
        data: PathBuf,
        /// The process, if its id is known.
        pid: Option<u32>,
    },
    /// The data folder has no log.
    #[error(
        "nothing ran on `{data}` yet, so nothing can be revised there; change the file that the topology names, or run it first"
    )]
    NothingRan {
        /// The data folder.
        data: PathBuf,
    },
    /// The log belongs to another plan.
    #[error(
        "`{data}` holds the log of plan {found}, and this topology is plan {expected}; give the files and --set with which \
         it was started: a revision comes with --file, and does not replace them"
    )]
    OtherPlan {
        /// The data folder.
        data: PathBuf,
        /// The plan of the log.
        found: Digest,
        /// The plan of the topology.
        expected: Digest,
    },
    /// The log belongs to another topology, gate policy or number of partitions, so a backfill
    /// cannot read it.
    #[error(
        "`{data}` holds the log of topology `{topology}` with gate policy {policy} and {partitions} partitions, and a \
         backfill of it must have the same: start from the topology and the --set of its first run, and change only \
         nodes behind the gate"
    )]
    OtherGate {
        /// The data folder.
        data: PathBuf,
        /// The topology of the log.
        topology: String,
        /// Its policy: name and revision.
        policy: String,
        /// Its number of partitions.
        partitions: u16,
    },
    /// A step in the log is not one that could have been taken.
    #[error(
        "the step at {tick} in the log does not follow from those before it; the log was not written by this program alone"
    )]
    Foreign {
        /// Its tick.
        tick: Tick,
        /// Why not.
        source: Box<Refusal>,
    },
    /// A record in the log cannot be read.
    #[error("the log holds a step that cannot be read: {what}; another version of Tidegate wrote it")]
    Unreadable {
        /// What is wrong with it.
        what: String,
    },
    /// The log cannot be opened, read or written.
    #[error(transparent)]
    Log(#[from] LogError),
    /// Log or archive cannot be read.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The commits cannot be read.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The dedupe index cannot be read or written.
    #[error(transparent)]
    Dedupe(#[from] DedupeError),
    /// No tick is left for the step.
    #[error("no tick is left: the log has reached the year 3111")]
    OutOfTicks,
}

impl From<Refusal> for GovernanceError {
    fn from(refusal: Refusal) -> GovernanceError {
        GovernanceError::Refused(Box::new(refusal))
    }
}
