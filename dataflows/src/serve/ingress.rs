//! The queue between callers and the gate: submitted records and steps of revisions, and the phase
//! of the run.
//!
//! The queue is bounded in bytes. A full queue refuses; the gate answers whatever it accepted, also
//! while the service shuts down.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tidegate_host::{Clock, SystemClock};
use tokio::sync::oneshot;

use crate::metrics::AdmissionCounts;
use crate::revision_step::{GovernanceError, StepOutcome, StepRequest};
use crate::serve::decisions::DecisionWaiter;
use crate::serve::submission_outcome::SubmissionOutcome;
use crate::thread_priority::{Priority, RealtimeSwitch};

/// The name of the ingress in receipts: the source of records that callers submit over HTTP.
pub const INGRESS: &str = "http";

/// Records that one caller submits together to the ingress queue.
pub struct Submission {
    /// Each as the bytes of a JSON envelope.
    pub records: Vec<Vec<u8>>,
    /// Answers the caller once the receipts are durable.
    pub reply: SubmissionReply,
    /// When the call came.
    pub arrived: Instant,
}

/// How a submission in the ingress queue is answered.
pub enum SubmissionReply {
    /// With the receipts, or why there are none. Dropped unanswered when the run fails.
    Receipts(oneshot::Sender<Result<SubmissionOutcome, String>>),
    /// With the receipts, and the decisions on the first record, if it becomes a fact.
    Decisions(DecisionWaiter),
}

impl SubmissionReply {
    /// Delivers the receipts of a submission, or why there are none.
    pub(crate) fn deliver(self, outcome: Result<SubmissionOutcome, String>) {
        match self {
            // A caller that has gone away needs no answer.
            SubmissionReply::Receipts(sender) => drop(sender.send(outcome)),
            SubmissionReply::Decisions(waiter) => waiter.deliver(outcome),
        }
    }
}

impl Submission {
    /// The bytes that the submission counts for. Each record counts 64 more than its length: an
    /// empty one must not be free.
    fn bytes(&self) -> usize {
        self.records.iter().map(|record| record.len() + 64).sum()
    }
}

/// A step of a revision that waits in the ingress queue for the gate.
pub struct PendingStep {
    /// The request.
    pub request: StepRequest,
    /// Answers the caller once the step is durable, or refused. Dropped unanswered when the run
    /// fails.
    pub reply: oneshot::Sender<Result<StepOutcome, GovernanceError>>,
}

/// Why the ingress queue refused a submission or a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// The files of the topology are being read, the log replayed, or a revision activated.
    #[error("the topology is still catching up with its log and its files; ask /readyz, and try again")]
    CatchingUp,
    /// The queue is full.
    #[error("the queue is full; send it again in a moment")]
    Full,
    /// The process is about to end.
    #[error("the service is shutting down; send the records to its successor")]
    Stopping,
}

/// The phase of a run, by which the ingress queue accepts submissions or refuses them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The log is replayed and files are read; or the graph is planned again, with another revision
    /// in force.
    CatchingUp,
    /// The queue accepts submissions.
    Serving,
    /// The queue accepts nothing more, and the gate finishes what it holds.
    Stopping,
    /// Everything is committed.
    Stopped,
}

/// The bounds of the ingress queue.
#[derive(Clone, Copy, Debug)]
pub struct IngressLimits {
    /// Bytes of records that wait for the log.
    pub queue_bytes_max: usize,
    /// Submissions that wait for the log or for a decision. A further one that wants a decision is
    /// refused.
    pub decisions_waiting_max: usize,
    /// Steps of revisions that wait for the gate.
    pub steps_max: usize,
    /// The shortest time between two groups, unless the later one is large. A submission that comes
    /// alone does not wait.
    pub group_interval_min: Duration,
}

impl Default for IngressLimits {
    fn default() -> IngressLimits {
        IngressLimits {
            queue_bytes_max: 32 << 20,
            decisions_waiting_max: 1024,
            steps_max: 64,
            group_interval_min: Duration::from_millis(1),
        }
    }
}

/// This many records are logged while the graph computes those before them; their sync then costs
/// no caller time. Fewer records would make small groups, which cost the graph as much as large
/// ones.
const PIPELINED_RECORDS_MIN: usize = 48;

/// The ingress queue: submissions and steps on their way from callers to the gate.
pub struct Ingress {
    limits: IngressLimits,
    queue: Mutex<Queue>,
    arrived: Condvar,
    counts: Mutex<AdmissionCounts>,
    /// Puts the threads that serve calls in real time while the run serves, if they are to be.
    realtime: Option<RealtimeSwitch>,
}

struct Queue {
    /// Measures the time between groups: the clock of the run's machine, once a run has begun.
    clock: Arc<dyn Clock>,
    phase: Phase,
    submissions: VecDeque<Submission>,
    bytes: usize,
    records: usize,
    /// Groups that workers have and did not compute yet, one for each worker and group.
    computing: usize,
    /// How many records make a batch.
    batch: usize,
    /// When the last group was taken, on the monotonic clock.
    taken: Option<Duration>,
    steps: VecDeque<PendingStep>,
}

impl Queue {
    fn is_empty(&self) -> bool {
        self.submissions.is_empty() && self.steps.is_empty()
    }

    /// Whether the queue accepts more.
    fn check_open(&self) -> Result<(), Unavailable> {
        match self.phase {
            Phase::Serving => Ok(()),
            Phase::CatchingUp => Err(Unavailable::CatchingUp),
            Phase::Stopping | Phase::Stopped => Err(Unavailable::Stopping),
        }
    }
}

impl Ingress {
    /// An empty queue of a run that catches up.
    pub fn new(limits: IngressLimits) -> Ingress {
        Ingress {
            limits,
            queue: Mutex::new(Queue {
                clock: Arc::new(SystemClock),
                phase: Phase::CatchingUp,
                submissions: VecDeque::new(),
                bytes: 0,
                records: 0,
                computing: 0,
                batch: 1,
                taken: None,
                steps: VecDeque::new(),
            }),
            arrived: Condvar::new(),
            counts: Mutex::default(),
            realtime: None,
        }
    }

    /// From now on this clock measures the time between groups.
    pub(crate) fn set_clock(&self, clock: &Arc<dyn Clock>) {
        self.queue.lock().clock = Arc::clone(clock);
    }

    /// Turns this switch on while the run serves, if there is one.
    pub fn with_realtime(self, realtime: Option<RealtimeSwitch>) -> Ingress {
        Ingress { realtime, ..self }
    }

    /// Gives the calling thread a priority while real time is on.
    pub(crate) fn set_priority_for_current_thread(&self, priority: Priority) {
        if let Some(realtime) = &self.realtime {
            realtime.set_for_current_thread(priority);
        }
    }

    /// Queues a submission, which is answered later; `deciding` callers wait for a decision
    /// already.
    ///
    /// # Errors
    /// When the queue refuses it; then nothing of it was taken.
    pub(crate) fn submit(&self, submission: Submission, deciding: usize) -> Result<(), Unavailable> {
        let bytes = submission.bytes();
        let mut queue = self.queue.lock();
        queue.check_open()?;
        // A single submission is as large as the service lets it be; it waits alone then.
        if queue.bytes > 0 && queue.bytes + bytes > self.limits.queue_bytes_max {
            return Err(Unavailable::Full);
        }
        // A caller of a decision waits for all before it: more at once would only wait longer.
        let wants_decision = matches!(submission.reply, SubmissionReply::Decisions(_));
        if wants_decision && queue.submissions.len() + deciding >= self.limits.decisions_waiting_max {
            return Err(Unavailable::Full);
        }
        queue.bytes += bytes;
        queue.records += submission.records.len();
        queue.submissions.push_back(submission);
        // The first submission wakes the gate, which computes when the next group is due.
        if self.is_due(&queue) || (queue.submissions.len() == 1 && queue.computing == 0) {
            self.arrived.notify_one();
        }
        Ok(())
    }

    /// Queues a step of a revision, which is answered later.
    ///
    /// # Errors
    /// When the queue refuses it.
    pub fn request_step(&self, step: PendingStep) -> Result<(), Unavailable> {
        let mut queue = self.queue.lock();
        queue.check_open()?;
        if queue.steps.len() >= self.limits.steps_max {
            return Err(Unavailable::Full);
        }
        queue.steps.push_back(step);
        self.arrived.notify_one();
        Ok(())
    }

    /// The step that waits longest.
    pub(crate) fn take_step(&self) -> Option<PendingStep> {
        self.queue.lock().steps.pop_front()
    }

    /// Takes submissions of about `records` records for the next group; none when a step waits, or
    /// when no group is due after `patience`. `None` once the run is to stop and the queue is
    /// empty.
    pub(crate) fn take(&self, records: usize, patience: Duration) -> Option<Vec<Submission>> {
        let mut queue = self.queue.lock();
        let until = queue.clock.monotonic() + patience;
        queue.batch = records;
        while queue.steps.is_empty() && !self.is_due(&queue) {
            if queue.phase == Phase::Stopping && queue.is_empty() {
                return None;
            }
            let left = until.saturating_sub(queue.clock.monotonic());
            if left.is_zero() {
                return Some(Vec::new());
            }
            let is_early = queue.computing == 0 && !queue.submissions.is_empty();
            let left = if is_early { left.min(self.time_to_next_group(&queue)) } else { left };
            self.arrived.wait_for(&mut queue, left);
        }
        let mut taken = Vec::new();
        let mut count = 0;
        while count < records {
            let Some(submission) = queue.submissions.pop_front() else { break };
            queue.bytes -= submission.bytes();
            queue.records -= submission.records.len();
            count += submission.records.len();
            taken.push(submission);
        }
        if count > 0 {
            queue.taken = Some(queue.clock.monotonic());
        }
        Some(taken)
    }

    /// Whether the gate should make a group now. A group costs the graph about as much as a hundred
    /// rows do, so submissions that come while it computes, or right after the last group, wait,
    /// unless there are enough of them to be logged meanwhile.
    fn is_due(&self, queue: &Queue) -> bool {
        let is_enough = queue.records >= queue.batch.min(PIPELINED_RECORDS_MIN);
        let is_idle = queue.computing == 0;
        !queue.submissions.is_empty() && (is_enough || is_idle && self.time_to_next_group(queue).is_zero())
    }

    /// How long it is until the shortest time between two groups has passed.
    fn time_to_next_group(&self, queue: &Queue) -> Duration {
        let since = |taken| queue.clock.monotonic().saturating_sub(taken);
        queue
            .taken
            .map_or(Duration::ZERO, |taken| self.limits.group_interval_min.saturating_sub(since(taken)))
    }

    /// Workers got `parts` parts of groups.
    pub(crate) fn add_computing(&self, parts: usize) {
        self.queue.lock().computing += parts;
    }

    /// A worker has computed `parts` parts of groups.
    pub(crate) fn computed(&self, parts: usize) {
        let mut queue = self.queue.lock();
        queue.computing -= parts;
        if queue.computing == 0 {
            self.arrived.notify_one();
        }
    }

    /// The graph was dropped with all that its workers had.
    pub(crate) fn reset_computing(&self) {
        self.queue.lock().computing = 0;
    }

    /// The phase of the run.
    pub fn phase(&self) -> Phase {
        self.queue.lock().phase
    }

    /// Bytes of records that wait for the log.
    pub fn queued_bytes(&self) -> usize {
        self.queue.lock().bytes
    }

    /// The number of submissions that wait for the log.
    pub fn queued(&self) -> usize {
        self.queue.lock().submissions.len()
    }

    /// The bounds of the queue.
    pub fn limits(&self) -> IngressLimits {
        self.limits
    }

    /// Enters a phase, unless the current one comes after it.
    pub(crate) fn enter(&self, phase: Phase) {
        let mut queue = self.queue.lock();
        // A run that is stopped while it catches up does not begin to serve, nor to catch up again.
        let is_next = match phase {
            Phase::Serving => queue.phase == Phase::CatchingUp,
            Phase::CatchingUp => queue.phase == Phase::Serving,
            Phase::Stopping | Phase::Stopped => true,
        };
        if is_next {
            queue.phase = phase;
            if let Some(realtime) = &self.realtime {
                realtime.set(phase == Phase::Serving);
            }
        }
        if phase == Phase::Stopped {
            queue.steps.clear();
        }
        self.arrived.notify_all();
    }

    /// Asks the run to finish what the queue holds, commit, and end.
    pub fn stop(&self) {
        if self.phase() != Phase::Stopped {
            self.enter(Phase::Stopping);
        }
    }

    /// Whether the run was asked to end.
    pub fn is_stopping(&self) -> bool {
        matches!(self.phase(), Phase::Stopping | Phase::Stopped)
    }

    /// Whether the run was asked to end and the queue is empty.
    pub(crate) fn may_stop(&self) -> bool {
        let queue = self.queue.lock();
        matches!(queue.phase, Phase::Stopping | Phase::Stopped) && queue.is_empty()
    }

    /// How many records this run gave each verdict.
    pub fn counts(&self) -> AdmissionCounts {
        self.counts.lock().clone()
    }

    pub(crate) fn set_counts(&self, counts: &AdmissionCounts) {
        self.counts.lock().clone_from(counts);
    }
}

#[cfg(test)]
mod tests {
    use tidegate_host::ManualClock;

    use super::*;
    use crate::revision_step::StepAction;

    fn submission(bytes: usize) -> Submission {
        let reply = SubmissionReply::Receipts(oneshot::channel().0);
        Submission { records: vec![vec![0; bytes]], reply, arrived: Instant::now() }
    }

    fn submit(ingress: &Ingress, bytes: usize) -> Result<(), Unavailable> {
        ingress.submit(submission(bytes), 0)
    }

    #[test]
    fn a_full_queue_refuses_and_accepted_submissions_are_taken_even_while_stopping() {
        let ingress = Ingress::new(IngressLimits { queue_bytes_max: 1000, ..IngressLimits::default() });
        assert_eq!(submit(&ingress, 10), Err(Unavailable::CatchingUp));
        ingress.enter(Phase::Serving);
        assert_eq!(submit(&ingress, 5000), Ok(()), "alone, even a large one is accepted");
        assert_eq!(submit(&ingress, 1), Err(Unavailable::Full));
        ingress.stop();
        assert_eq!(submit(&ingress, 1), Err(Unavailable::Stopping));
        assert_eq!(ingress.take(10, Duration::ZERO).map(|taken| taken.len()), Some(1));
        assert!(ingress.take(10, Duration::ZERO).is_none(), "the queue is empty");
        assert_eq!(ingress.queued_bytes(), 0);
    }

    #[test]
    fn submissions_wait_while_the_graph_computes_unless_they_are_many() {
        let limits = IngressLimits { group_interval_min: Duration::ZERO, ..IngressLimits::default() };
        let ingress = Ingress::new(limits);
        ingress.enter(Phase::Serving);
        ingress.add_computing(2);
        submit(&ingress, 1).expect("there is room");
        let taken = |records| ingress.take(records, Duration::ZERO).map(|taken| taken.len());
        assert_eq!(taken(2), Some(0));
        ingress.computed(1);
        assert_eq!(taken(2), Some(0), "one worker is not all");
        submit(&ingress, 1).expect("there is room");
        assert_eq!(taken(2), Some(2), "a batch is full");
        submit(&ingress, 1).expect("there is room");
        ingress.computed(1);
        assert_eq!(taken(2), Some(1));
    }

    #[test]
    fn groups_are_an_interval_apart_unless_a_submission_comes_alone_or_many_come() {
        let (interval, clock) = (Duration::from_millis(200), ManualClock::new(0));
        let limits = IngressLimits { group_interval_min: interval, ..IngressLimits::default() };
        let ingress = Ingress::new(limits);
        ingress.set_clock(&(Arc::new(clock.clone()) as Arc<dyn Clock>));
        ingress.enter(Phase::Serving);
        let taken = |submissions: usize| {
            (0..submissions).for_each(|_| submit(&ingress, 1).expect("there is room"));
            ingress.take(1000, Duration::ZERO).map_or(0, |taken| taken.len())
        };
        assert_eq!(taken(1), 1, "no group came before");
        assert_eq!(taken(PIPELINED_RECORDS_MIN), PIPELINED_RECORDS_MIN, "they are many");
        assert_eq!(taken(2), 0, "they wait for others");
        clock.advance(interval);
        assert_eq!(taken(0), 2);
        clock.advance(interval);
        assert_eq!(taken(1), 1, "it comes alone");
    }

    #[test]
    fn a_submission_wakes_a_gate_that_waits() {
        let ingress = Arc::new(Ingress::new(IngressLimits::default()));
        ingress.enter(Phase::Serving);
        let gate = {
            let ingress = Arc::clone(&ingress);
            std::thread::spawn(move || ingress.take(10, Duration::from_secs(60)).map(|taken| taken.len()))
        };
        submit(&ingress, 1).expect("there is room");
        assert_eq!(gate.join().expect("no panic"), Some(1));
    }

    #[test]
    fn a_step_keeps_a_run_from_ending_and_a_stop_is_not_undone_by_one() {
        let ingress = Ingress::new(IngressLimits { steps_max: 1, ..IngressLimits::default() });
        let step = || {
            let request = StepRequest {
                actor: "ann".to_owned(),
                reason: "test".to_owned(),
                action: StepAction::RollBack("decisions".to_owned()),
            };
            PendingStep { request, reply: oneshot::channel().0 }
        };
        assert_eq!(ingress.request_step(step()), Err(Unavailable::CatchingUp));
        ingress.enter(Phase::Serving);
        let both = (ingress.request_step(step()), ingress.request_step(step()));
        assert_eq!(both, (Ok(()), Err(Unavailable::Full)));
        ingress.stop();
        ingress.enter(Phase::CatchingUp);
        assert_eq!(ingress.phase(), Phase::Stopping);
        let minute = Duration::from_secs(60);
        assert!(!ingress.may_stop() && ingress.take(10, minute).is_some_and(|taken| taken.is_empty()));
        assert!(ingress.take_step().is_some() && ingress.may_stop());
        assert!(ingress.take(10, minute).is_none());
        assert_eq!(ingress.request_step(step()), Err(Unavailable::Stopping));
    }
}
