//! A run: the log is read from its beginning or from a checkpoint, then the sources go on where the
//! log ends.
//!
//! Threads: one for each source, which reads and validates; one for the gate, which stamps records,
//! appends groups to the log and gives them to the workers; and timely's workers, each with a
//! writer. Workers get records only once they are durable, so what the graph derives can always be
//! derived again.
//!
//! When all sources are idle, the run commits everything below the last tick and stops the workers
//! without closing their inputs: the end of input is not the end of time.
//!
//! * `gate`: the gate's thread, from its start to its last group.
//! * `recovery`: what the log says of the past, and the replay of its groups.
//! * `batch`: the sources, read to their ends.
//! * `serve`: submissions and steps, taken until the run is to stop.
//! * `file_tail`: files that grow while the run is served.
//! * `revision_steps`: steps that are taken while the run is served.

mod batch;
mod error;
mod file_tail;
mod gate;
mod log_summary;
mod options;
mod recovery;
mod revision_steps;
mod serve;
mod source_messages;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tidegate_sinks::archive::{self, ArchiveReport};
use tidegate_sinks::commits::Commits;
use tidegate_sinks::log::{AppendableLog, LogError, LogFolder, LogOptions, LogWriter, Recovery, Until};
use tidegate_sinks::store::Store;
use tidegate_sinks::table_catalog;

pub use crate::run::error::RunError;
pub use crate::run::options::Options;

use crate::commit::CommitContext;
use crate::governance;
use crate::metrics::{AdmissionCounts, RunMetrics};
use crate::plan::Plan;
use crate::render::workers::Workers;
use crate::run::gate::{Gate, GateOutcome, GateSetup};
use crate::run::log_summary::RestoredCheckpoint;
use crate::serve::{Phase, ServeState};

/// The report of a run: what it found, admitted and committed.
#[derive(Debug)]
pub struct Report {
    /// What opening the log found.
    pub recovery: Recovery,
    /// The verdicts on the records of this run.
    pub counts: AdmissionCounts,
    /// The number of facts in the log.
    pub facts: u64,
    /// The commits in the store.
    pub commits: Commits,
    /// What was archived at the end of the run, if the topology archives its log.
    pub archived: Option<ArchiveReport>,
    /// How long it took.
    pub elapsed: Duration,
}

/// Runs a plan until its sources are idle, with the log and the store that the options name.
///
/// # Errors
/// See [`RunError`]. Groups that were durable stay, and a later run goes on from there.
pub fn run(plan: &Arc<Plan>, options: &Options, metrics: &RunMetrics) -> Result<Report, RunError> {
    run_into(plan, options, &Store::open(options.store_url())?, metrics)
}

/// Runs a plan until its sources are idle, and commits to this store.
///
/// # Errors
/// See [`RunError`].
pub fn run_into(
    plan: &Arc<Plan>,
    options: &Options,
    store: &Store,
    metrics: &RunMetrics,
) -> Result<Report, RunError> {
    run_on(plan, options, &embedded_log(options), store, metrics)
}

/// Runs a plan until its sources are idle, on this log in place of the one in the data folder.
///
/// # Errors
/// See [`RunError`].
pub fn run_on(
    plan: &Arc<Plan>,
    options: &Options,
    log: &dyn AppendableLog,
    store: &Store,
    metrics: &RunMetrics,
) -> Result<Report, RunError> {
    let graph = GraphRun { plan, options, log, store, metrics, serve: None };
    match graph.run(AdmissionCounts::default())? {
        GraphEnd::Idle(report) => Ok(*report),
        GraphEnd::Revised(_) => unreachable!("only a run that is served takes steps"),
    }
}

/// Runs a plan until it is to stop: reads its sources to their ends, then tails them, and takes
/// submissions. When a revision takes effect, another graph goes on where the one before it ended.
///
/// # Errors
/// See [`RunError`]. Groups that were durable stay, and a later run goes on from there.
pub fn serve(
    plan: &Arc<Plan>,
    options: &Options,
    metrics: &RunMetrics,
    state: &Arc<ServeState>,
) -> Result<Report, RunError> {
    let (log, store) = (&embedded_log(options), &Store::open(options.store_url())?);
    let graph = GraphRun { plan, options, log, store, metrics, serve: Some(state) };
    state.ingress.set_clock(&options.host.clock);
    let mut counts = AdmissionCounts::default();
    let outcome = loop {
        match graph.run(counts) {
            Ok(GraphEnd::Idle(report)) => break Ok(*report),
            Ok(GraphEnd::Revised(so_far)) => counts = so_far,
            Err(error) => break Err(error),
        }
    };
    state.enter(Phase::Stopped);
    outcome
}

/// The log in the data folder of a run.
fn embedded_log(options: &Options) -> LogFolder {
    LogFolder::of_data(&options.host, &options.data)
}

/// How a graph ended.
enum GraphEnd {
    /// There is nothing more to do.
    Idle(Box<Report>),
    /// A revision took effect; these are the verdicts on the records until then.
    Revised(AdmissionCounts),
}

/// One graph of a run, from the opening of the log to the last commit.
struct GraphRun<'r> {
    plan: &'r Arc<Plan>,
    options: &'r Options,
    log: &'r dyn AppendableLog,
    store: &'r Store,
    metrics: &'r RunMetrics,
    serve: Option<&'r Arc<ServeState>>,
}

impl GraphRun<'_> {
    fn run(&self, counts: AdmissionCounts) -> Result<GraphEnd, RunError> {
        let GraphRun { options, store, metrics, serve, .. } = *self;
        let (plan, signer) = (self.plan, options.signer.clone());
        let (mut context, mut checkpoint) =
            CommitContext::with_checkpoints(store.clone(), plan.digest, plan.timelines(), signer)?;
        let (log, recovery) = self.open_log(&mut context, &mut checkpoint)?;
        let (plan, governance) = &governance::effective_state(plan, self.log, store, &BTreeSet::new())?;
        self.check_run_record(plan, &recovery)?; // Before anything is written to the store.
        let commits = context.target.commits().unwrap_or_default();
        if let Some(serve) = serve {
            serve.begin(governance.clone());
            context.serve = Some(Arc::clone(serve));
            serve.set_commits(Arc::new(commits.clone()));
        }
        store.probe()?;
        commits.sweep(store, options.host.clock.wall_micros())?;
        table_catalog::declare(&plan.tables(), store)?;
        plan.record(store)?;

        let tasks = &options.host.tasks;
        let workers = Workers::start(plan, options.workers, &context, metrics, tasks);
        let workers = workers.map_err(RunError::Worker)?;
        let gate = Gate::new(GateSetup {
            plan,
            options,
            store,
            metrics,
            log,
            logged: self.log,
            workers: &workers,
            recovered: recovery.groups,
            checkpoint,
            serve: serve.map(Arc::as_ref),
            failed: &context.failed,
            governance: governance.clone(),
        });
        let gated = gate.run(counts);
        let stopped = workers.finish();
        if let Some(error) = context.failed.lock().take() {
            return Err(error.into());
        }
        stopped.map_err(RunError::Worker)?;
        let GateOutcome { counts, facts, revised } = gated?;
        if revised {
            return Ok(GraphEnd::Revised(counts));
        }
        let archived = if plan.topology.log.archive {
            let _writers_excluded = self.log.exclude_writers()?;
            Some(archive::write(self.log, Until::Complete, store)?)
        } else {
            None
        };
        let commits = Commits::read(store)?;
        let elapsed = metrics.elapsed();
        Ok(GraphEnd::Idle(Box::new(Report { recovery, counts, facts, commits, archived, elapsed })))
    }

    /// Opens the log, from the checkpoint's position on if the checkpoint belongs to it.
    fn open_log(
        &self,
        context: &mut CommitContext,
        checkpoint: &mut Option<RestoredCheckpoint>,
    ) -> Result<(Box<dyn LogWriter>, Recovery), RunError> {
        // Only durable facts are committed, so a log that ends before the commits has lost
        // something.
        let acknowledged = context.lower;
        let log_options = LogOptions { segment_bytes: self.options.segment_bytes };
        let checked = checkpoint.as_ref().map(|(checkpoint, _)| &checkpoint.position);
        let (log, recovery) = match self.log.open_writer(log_options, checked, acknowledged) {
            Err(error @ LogError::OtherPosition { .. }) => {
                tracing::warn!(%error, "ignoring checkpoint: it is not of this log");
                *checkpoint = None;
                context.forget_checkpoint();
                self.log.open_writer(log_options, None, acknowledged)?
            }
            opened => opened?,
        };
        if checkpoint.take_if(|(checkpoint, _)| checkpoint.groups > recovery.groups).is_some() {
            tracing::warn!("ignoring checkpoint: the log has lost the group that holds its boundary");
            context.forget_checkpoint();
        }
        Ok((log, recovery))
    }

    /// Checks that the log belongs to the plan.
    fn check_run_record(&self, plan: &Plan, recovery: &Recovery) -> Result<(), RunError> {
        if recovery.groups == 0 {
            return Ok(());
        }
        match governance::run_record(self.log, self.store)? {
            Some(run) if run.plan != plan.digest => Err(RunError::OtherPlan {
                data: self.options.data.clone(),
                topology: run.topology,
                found: run.plan,
                expected: plan.digest,
            }),
            _ => Ok(()),
        }
    }
}
