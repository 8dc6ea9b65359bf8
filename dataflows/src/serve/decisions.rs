//! Callers that wait for the decisions on a fact, by tick and node.
//!
//! A caller names the `decide` nodes whose decisions it wants and gets one reply, which carries the
//! receipt of its record and the decisions. The reply is complete once the receipt is durable and
//! each of the nodes has decided, or its frontier has passed the fact, so that it will not decide.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Instant;

use arrow::array::RecordBatch;
use parking_lot::Mutex;
use tidegate_facts::{Tick, columns};
use tokio::sync::oneshot;

use crate::serve::submission_outcome::SubmissionOutcome;

/// Decisions that a `decide` node emitted together, and their texts, which are written once for all
/// waiting callers.
#[derive(Debug)]
pub struct DecisionBatch {
    /// The rows.
    pub rows: RecordBatch,
    texts: OnceLock<Result<Vec<String>, String>>,
}

impl DecisionBatch {
    /// Rows of which no text was written yet.
    pub fn new(rows: RecordBatch) -> DecisionBatch {
        DecisionBatch { rows, texts: OnceLock::new() }
    }

    /// One text for each row, written by the first caller of this.
    ///
    /// # Errors
    /// What `write` returned to the first caller.
    pub fn texts(
        &self,
        write: impl FnOnce(&RecordBatch) -> Result<Vec<String>, String>,
    ) -> Result<&[String], &str> {
        self.texts.get_or_init(|| write(&self.rows)).as_deref().map_err(String::as_str)
    }
}

/// The decision of one node on one fact, for a caller that waits.
#[derive(Clone, Debug)]
pub struct Decision {
    /// The node.
    pub node: Arc<str>,
    /// The rows that the node emitted together.
    pub batch: Arc<DecisionBatch>,
    /// The number of the decision's row among them.
    pub row: usize,
    /// When the node emitted it.
    pub decided: Instant,
}

/// What a caller that waits for decisions gets: the receipts of its submission and the decisions on
/// its first record.
#[derive(Debug)]
pub struct DecisionReply {
    /// The receipts.
    pub outcome: SubmissionOutcome,
    /// One for each of the requested nodes that decided in time, in the order in which they did.
    pub decisions: Vec<Decision>,
}

/// All callers that wait for decisions.
#[derive(Default)]
pub struct DecisionWaiters {
    waiting: Mutex<BTreeMap<Tick, Waiting>>,
}

/// One caller, and the nodes that have not decided on its fact.
struct Waiting {
    reply: Arc<PendingReply>,
    nodes: Vec<Arc<str>>,
}

/// A reply in the making. It is sent when its last holder drops it: the gate, which delivers the
/// receipts, or the entry in [`DecisionWaiters`], which is removed with the last node.
struct PendingReply {
    sender: Mutex<Option<oneshot::Sender<Result<DecisionReply, String>>>>,
    outcome: OnceLock<Result<SubmissionOutcome, String>>,
    decisions: Mutex<Vec<Decision>>,
}

impl Drop for PendingReply {
    fn drop(&mut self) {
        // Without an outcome the run has failed: the sender is dropped, and the caller gets no
        // reply.
        if let (Some(sender), Some(outcome)) = (self.sender.get_mut().take(), self.outcome.take()) {
            let decisions = std::mem::take(self.decisions.get_mut());
            // A caller that has gone away needs no answer.
            let _ = sender.send(outcome.map(|outcome| DecisionReply { outcome, decisions }));
        }
    }
}

/// The gate's side of a wait for decisions: goes with the submission.
pub struct DecisionWaiter {
    reply: Arc<PendingReply>,
    nodes: Vec<Arc<str>>,
    guard: Weak<WaitGuard>,
}

impl DecisionWaiter {
    /// Delivers the receipts, or why there are none.
    pub(crate) fn deliver(self, outcome: Result<SubmissionOutcome, String>) {
        let is_first = self.reply.outcome.set(outcome).is_ok();
        assert!(is_first, "a submission has one outcome");
    }
}

/// Keeps the entry of a caller in [`DecisionWaiters`]; removes it when the caller no longer waits.
struct WaitGuard {
    waiters: Arc<DecisionWaiters>,
    /// The fact that the caller waits for, once its record is one.
    tick: OnceLock<Tick>,
}

impl Drop for WaitGuard {
    fn drop(&mut self) {
        let entry = self.tick.get().and_then(|tick| self.waiters.waiting.lock().remove(tick));
        drop(entry); // Behind the lock: it may send the reply.
    }
}

/// The caller's side of a wait for decisions. Once it is dropped, no node's decision is kept for
/// the caller.
pub struct PendingDecision {
    reply: oneshot::Receiver<Result<DecisionReply, String>>,
    guard: Option<Arc<WaitGuard>>,
}

impl PendingDecision {
    /// Waits for the reply; `None` when the run ended without one. It may be dropped and called
    /// again until it has returned.
    ///
    /// # Errors
    /// Why the log could not take the records.
    pub async fn reply(&mut self) -> Result<Option<DecisionReply>, String> {
        (&mut self.reply).await.ok().transpose()
    }

    /// Waits for no further decision: the reply then comes with the receipts, and with the
    /// decisions made until now.
    pub fn stop_waiting_for_decisions(&mut self) {
        self.guard = None;
    }

    /// Waits for the reply on a thread of its own, outside of an asynchronous runtime.
    ///
    /// # Errors
    /// As [`Self::reply`].
    pub fn blocking_reply(self) -> Result<Option<DecisionReply>, String> {
        self.reply.blocking_recv().ok().transpose()
    }
}

impl DecisionWaiters {
    /// A wait for the decisions of `nodes` on the first record of a submission. The
    /// [`DecisionWaiter`] goes with the submission.
    pub fn wait_for(self: &Arc<Self>, nodes: Vec<Arc<str>>) -> (PendingDecision, DecisionWaiter) {
        let (sender, receiver) = oneshot::channel();
        let guard = Arc::new(WaitGuard { waiters: Arc::clone(self), tick: OnceLock::new() });
        let reply = Arc::new(PendingReply {
            sender: Mutex::new(Some(sender)),
            outcome: OnceLock::new(),
            decisions: Mutex::default(),
        });
        let waiter = DecisionWaiter { reply, nodes, guard: Arc::downgrade(&guard) };
        (PendingDecision { reply: receiver, guard: Some(guard) }, waiter)
    }

    /// How many callers wait for a decision on a fact.
    pub fn len(&self) -> usize {
        self.waiting.lock().len()
    }

    /// Whether no caller waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The record of a waiting caller became the fact at `tick`. The gate calls this before the
    /// workers get the fact, since the decision could come first otherwise.
    pub(crate) fn register(&self, tick: Tick, waiter: &DecisionWaiter) {
        // Where the caller goes away meanwhile, the guard is dropped here and removes the entry
        // again.
        let Some(guard) = waiter.guard.upgrade() else { return };
        if waiter.nodes.is_empty() {
            return;
        }
        guard.tick.set(tick).expect("a submission waits for one fact");
        let waiting = Waiting { reply: Arc::clone(&waiter.reply), nodes: waiter.nodes.clone() };
        self.waiting.lock().insert(tick, waiting);
    }

    /// A node emitted these decisions.
    pub(crate) fn decided(&self, node: &Arc<str>, rows: &RecordBatch) {
        let mut waiting = self.waiting.lock();
        if waiting.is_empty() {
            return;
        }
        let mut complete = Vec::new();
        let mut shared = None;
        for (row, tick) in columns::ticks(rows).values().iter().enumerate() {
            let tick = Tick(*tick);
            let Some(caller) = waiting.get_mut(&tick) else { continue };
            let Some(index) = caller.nodes.iter().position(|requested| requested == node) else { continue };
            caller.nodes.swap_remove(index);
            let batch = shared.get_or_insert_with(|| Arc::new(DecisionBatch::new(rows.clone())));
            let (node, batch, decided) = (Arc::clone(node), Arc::clone(batch), Instant::now());
            caller.reply.decisions.lock().push(Decision { node, batch, row, decided });
            if caller.nodes.is_empty() {
                complete.extend(waiting.remove(&tick));
            }
        }
        drop(waiting);
        drop(complete); // Behind the lock: it may send replies.
    }

    /// A node will not decide on facts before `upper` any more; `None` when it will decide on no
    /// fact at all.
    pub(crate) fn advance(&self, node: &str, upper: Option<Tick>) {
        let mut waiting = self.waiting.lock();
        if waiting.is_empty() {
            return;
        }
        let passed = (Bound::Unbounded, upper.map_or(Bound::Unbounded, Bound::Excluded));
        let complete = waiting.extract_if(passed, |_, caller| {
            caller.nodes.retain(|requested| **requested != *node);
            caller.nodes.is_empty()
        });
        let complete: Vec<(Tick, Waiting)> = complete.collect();
        drop(waiting);
        drop(complete);
    }

    /// No node decides any more: every caller gets its reply with the decisions made until now.
    pub(crate) fn clear(&self) {
        let waiting = std::mem::take(&mut *self.waiting.lock());
        drop(waiting);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tidegate_facts::Verdict;

    use super::*;
    use crate::serve::submission_outcome::{AppendTiming, Receipt};
    use crate::serve::uncommitted::tests::rows;

    fn outcome() -> Result<SubmissionOutcome, String> {
        let now = Instant::now();
        let receipt = Receipt {
            verdict: Verdict::Admit,
            reason: None,
            detail: None,
            event_type: None,
            tick: Some(Tick(7)),
            offset: None,
        };
        Ok(SubmissionOutcome {
            receipts: vec![receipt],
            queued: Duration::ZERO,
            logged: Duration::ZERO,
            appended: AppendTiming { began: now, durable: now, synced: Duration::ZERO },
        })
    }

    fn nodes(names: &[&str]) -> Vec<Arc<str>> {
        names.iter().map(|name| (*name).into()).collect()
    }

    /// The nodes and rows of a reply that has come.
    fn decisions(pending: PendingDecision) -> Vec<(String, usize)> {
        let mut reply = pending.reply;
        let reply = reply.try_recv().expect("a reply").expect("receipts");
        reply.decisions.iter().map(|decision| (decision.node.to_string(), decision.row)).collect()
    }

    #[test]
    fn a_caller_gets_its_receipt_and_decision_once_whichever_comes_first() {
        for receipt_first in [true, false] {
            let waiters = Arc::new(DecisionWaiters::default());
            let (mut pending, waiter) = waiters.wait_for(nodes(&["d"]));
            waiters.register(Tick(7), &waiter);
            let node: Arc<str> = "d".into();
            waiters.decided(&node, &rows(&[5, 6]));
            assert!(pending.reply.try_recv().is_err(), "neither has come");
            if receipt_first {
                waiter.deliver(outcome());
                assert!(pending.reply.try_recv().is_err(), "no decision has come");
                waiters.decided(&node, &rows(&[6, 7, 8]));
            } else {
                waiters.decided(&node, &rows(&[6, 7, 8]));
                waiter.deliver(outcome());
            }
            assert_eq!(waiters.len(), 0);
            assert_eq!(decisions(pending), [("d".to_owned(), 1)]);
            waiters.decided(&node, &rows(&[7]));
        }
    }

    #[test]
    fn a_caller_waits_for_each_node_until_it_decides_or_its_frontier_has_passed() {
        let waiters = Arc::new(DecisionWaiters::default());
        let (mut pending, waiter) = waiters.wait_for(nodes(&["a", "b", "c"]));
        waiters.register(Tick(7), &waiter);
        waiter.deliver(outcome());
        waiters.decided(&"b".into(), &rows(&[7]));
        waiters.decided(&"other".into(), &rows(&[7]));
        waiters.advance("a", Some(Tick(7)));
        waiters.advance("b", Some(Tick(9)));
        waiters.advance("a", Some(Tick(8)));
        assert!(pending.reply.try_recv().is_err(), "c may still decide");
        waiters.advance("c", None);
        assert_eq!(decisions(pending), [("b".to_owned(), 0)]);
    }

    #[test]
    fn a_record_that_is_no_new_fact_waits_for_no_decision() {
        let waiters = Arc::new(DecisionWaiters::default());
        let (pending, waiter) = waiters.wait_for(nodes(&["d"]));
        waiter.deliver(outcome());
        assert_eq!(decisions(pending), []);
    }

    #[test]
    fn a_caller_that_stops_waiting_gets_its_receipt_alone() {
        let waiters = Arc::new(DecisionWaiters::default());
        let (mut before, waiter) = waiters.wait_for(nodes(&["d"]));
        waiters.register(Tick(1), &waiter);
        before.stop_waiting_for_decisions();
        assert_eq!(waiters.len(), 0);
        waiter.deliver(outcome());
        assert_eq!(decisions(before), []);
        let (mut after, waiter) = waiters.wait_for(nodes(&["d"]));
        waiters.register(Tick(2), &waiter);
        waiter.deliver(outcome());
        after.stop_waiting_for_decisions();
        assert_eq!(decisions(after), []);
    }

    #[test]
    fn a_run_that_ends_keeps_no_caller_waiting() {
        let waiters = Arc::new(DecisionWaiters::default());
        let (pending, waiter) = waiters.wait_for(nodes(&["d"]));
        waiters.register(Tick(1), &waiter);
        waiter.deliver(outcome());
        waiters.clear();
        assert_eq!(decisions(pending), []);
        let (pending, waiter) = waiters.wait_for(nodes(&["d"]));
        drop(waiter);
        assert!(pending.blocking_reply().expect("no error").is_none(), "it has no receipt either");
        let (pending, waiter) = waiters.wait_for(nodes(&["d"]));
        waiter.deliver(Err("a full disk".to_owned()));
        assert_eq!(pending.blocking_reply().map(|_| ()), Err("a full disk".to_owned()));
    }

    #[test]
    fn a_caller_that_goes_away_before_or_after_its_fact_is_logged_leaves_no_entry() {
        let waiters = Arc::new(DecisionWaiters::default());
        for tick in 0..5000 {
            let (pending, waiter) = waiters.wait_for(nodes(&["d"]));
            if tick % 2 == 0 {
                drop(pending);
                waiters.register(Tick(tick), &waiter);
            } else {
                waiters.register(Tick(tick), &waiter);
                assert_eq!(waiters.len(), 1);
                drop(pending);
            }
            assert_eq!(waiters.len(), 0, "tick {tick}");
        }
    }
}
