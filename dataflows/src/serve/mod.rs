//! What a running graph shares with the threads that answer calls.
//!
//! * [`Ingress`]: records and steps on their way to the gate, in a bounded queue.
//! * [`DecisionWaiters`]: callers that wait for the decisions on a fact.
//! * [`LiveTables`]: commits, uncommitted rows, and subscribers to new rows.
//! * [`LiveTimelines`]: the current batches of each timeline.
//!
//! [`ServeState::complete`] is the tick before which every table and timeline is complete on every
//! worker. A read as of a tick below it returns the same rows whenever it is repeated, from
//! uncommitted rows or from commits.
//!
//! Readers never hold back the graph: they copy references under short locks.

pub mod decisions;
pub mod ingress;
pub mod live_reads;
pub mod submission_outcome;
pub mod tables;
pub mod timelines;
pub mod uncommitted;

use std::sync::Arc;

use parking_lot::Mutex;
use tidegate_facts::Tick;
use tidegate_sinks::commits::Commits;

pub use crate::serve::decisions::{
    Decision, DecisionBatch, DecisionReply, DecisionWaiter, DecisionWaiters, PendingDecision,
};
pub use crate::serve::ingress::{
    INGRESS, Ingress, IngressLimits, PendingStep, Phase, Submission, SubmissionReply, Unavailable,
};
pub use crate::serve::live_reads::{LiveReads, MemoryReads, TimelineSnapshot};
pub use crate::serve::submission_outcome::{AppendTiming, Receipt, SubmissionOutcome};
pub use crate::serve::tables::{
    LiveTables, OnCommit, OnRows, SUBSCRIBERS_MAX, Subscription, TooManySubscribers,
};
pub use crate::serve::timelines::LiveTimelines;

use crate::revision_step::GovernanceState;
use crate::serve::timelines::BasisHistory;

/// The state that a served run shares with the threads that answer calls.
pub struct ServeState {
    /// Submissions and steps on their way to the gate.
    pub ingress: Ingress,
    /// Callers that wait for decisions.
    pub decisions: Arc<DecisionWaiters>,
    /// Commits and uncommitted rows.
    pub tables: LiveTables,
    /// Timelines.
    pub timelines: LiveTimelines,
    bases: BasisHistory,
    governance: Mutex<Option<Arc<GovernanceState>>>,
}

impl ServeState {
    /// The state of a run that has not begun.
    pub fn new(ingress: Ingress) -> ServeState {
        ServeState {
            ingress,
            decisions: Arc::default(),
            tables: LiveTables::default(),
            timelines: LiveTimelines::default(),
            bases: BasisHistory::default(),
            governance: Mutex::default(),
        }
    }

    /// Queues records for the gate, which answers them later.
    ///
    /// # Errors
    /// When the queue refuses them; then nothing was taken.
    pub fn submit(&self, submission: Submission) -> Result<(), Unavailable> {
        self.ingress.submit(submission, self.decisions.len())
    }

    /// The tick before which every table is complete on every worker, or committed.
    pub fn complete(&self) -> Tick {
        self.computed_upper().max(self.tables.commits().upper())
    }

    /// The tick before which every table and every timeline is complete on every worker.
    pub fn computed_upper(&self) -> Tick {
        self.tables.upper().into_iter().chain(self.timelines.upper()).min().unwrap_or(Tick::ZERO)
    }

    /// The end of the last group before which everything is computed on every worker, and the
    /// number of facts of each partition before it; `None` before the first.
    pub fn as_of(&self) -> Option<(Tick, Vec<i64>)> {
        self.bases.newest(|| self.computed_upper())
    }

    /// The end of the last group that ends at `tick` or before, and the number of facts of each
    /// partition before it; `None` for a tick too long ago.
    pub fn basis_at(&self, tick: Tick) -> Option<(Tick, Vec<i64>)> {
        self.bases.at(tick)
    }

    /// The revisions and backfills of the topology; `None` until the log was opened.
    pub fn governance(&self) -> Option<Arc<GovernanceState>> {
        self.governance.lock().clone()
    }

    pub(crate) fn set_governance(&self, governance: GovernanceState) {
        *self.governance.lock() = Some(Arc::new(governance));
    }

    /// Another graph begins. The rows of the one before are committed; the new one has tables and
    /// timelines of its own.
    pub(crate) fn begin(&self, governance: GovernanceState) {
        self.tables.clear();
        self.timelines.clear();
        self.bases.clear();
        self.decisions.clear();
        self.ingress.reset_computing();
        self.set_governance(governance);
    }

    /// The workers got a group that ends at `upper`, with this basis there.
    pub(crate) fn group_sent(&self, upper: Tick, basis: Vec<i64>) {
        self.bases.push(upper, basis, self.computed_upper());
    }

    /// These are the commits now.
    pub(crate) fn set_commits(&self, commits: Arc<Commits>) {
        // One commit behind, so that a statement that has its tick is not overtaken while it begins
        // to read.
        let since = commits.list.iter().rev().nth(1).map_or(Tick::ZERO, |commit| commit.upper);
        self.timelines.set_since(since);
        self.tables.set_commits(commits);
    }

    /// Enters a phase, unless the current one comes after it; a run that has stopped lets all who
    /// wait go.
    pub(crate) fn enter(&self, phase: Phase) {
        self.ingress.enter(phase);
        if phase == Phase::Stopped {
            self.tables.close();
            self.decisions.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use tokio::sync::oneshot;

    use super::*;

    fn serving(limits: IngressLimits) -> ServeState {
        let state = ServeState::new(Ingress::new(limits));
        state.enter(Phase::Serving);
        state
    }

    #[test]
    fn tables_are_complete_as_far_as_their_slowest_worker() {
        let state = serving(IngressLimits::default());
        let (a, b) = (state.tables.add("t"), state.tables.add("t"));
        a.advance(Tick(9));
        assert_eq!(state.complete(), Tick::ZERO);
        b.advance(Tick(5));
        assert_eq!(state.complete(), Tick(5));
    }

    #[test]
    fn the_number_of_callers_that_wait_for_decisions_is_bounded() {
        let state = serving(IngressLimits { decisions_waiting_max: 2, ..IngressLimits::default() });
        let submission = |reply| Submission { records: vec![vec![0]], reply, arrived: Instant::now() };
        let deciding = || {
            let (pending, waiter) = state.decisions.wait_for(vec!["d".into()]);
            std::mem::forget(pending); // It waits for ever.
            submission(SubmissionReply::Decisions(waiter))
        };
        let (pending, waiter) = state.decisions.wait_for(vec!["d".into()]);
        state.decisions.register(Tick(1), &waiter);
        assert_eq!(state.submit(deciding()), Ok(()));
        assert_eq!(state.submit(deciding()), Err(Unavailable::Full));
        let receipts = submission(SubmissionReply::Receipts(oneshot::channel().0));
        assert_eq!(state.submit(receipts), Ok(()), "a caller of receipts alone is bounded by bytes alone");
        drop(pending);
        state.ingress.take(10, std::time::Duration::ZERO);
        assert_eq!(state.submit(deciding()), Ok(()));
    }
}
