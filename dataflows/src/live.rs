//! A running graph, as those see it who send to it and ask it while it runs.
//!
//! * Records come in by [`Live::submit`], wait in a queue that is bounded in bytes, and are answered with their receipts
//!   once these are durable. A queue that is full refuses; nothing that was taken is dropped.
//! * Rows that no commit has yet stand on a shelf for each table and worker, complete up to the worker's frontier.
//!   [`Live::complete`] is the tick up to which every shelf of every worker is: what is read below it is the same
//!   whenever it is read again, from shelves or from commits.
//! * Each timeline's current batches stand at a place for each worker, in the same way.
//! * Who waits for what is computed of one fact is told by the worker that computes it.
//! * Steps of revisions wait in a queue of their own; how they stand is [`Live::governed`].
//!
//! Nothing here holds back the graph: readers copy references under short locks.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, Weak};
use std::time::{Duration, Instant};

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::UInt64Type;
use tidegate_facts::{Reason, Tick, Verdict, columns};
use tidegate_operators::timeline::{Shown, View};
use tidegate_sinks::table::Commits;

use crate::admission::Counts;
use crate::governance::{Asked, GovernanceError, Governed, Taken};
use crate::realtime::{Priority, Realtime};
use crate::shelf::Shelf;

/// The source that records submitted over HTTP have in their receipts.
pub const INGRESS: &str = "http";

/// For how many of the last groups it is known how many facts of each partition there are before their ends.
const BASES_KEPT: usize = 1024;

/// What is told of one submitted record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// What became of it.
    pub verdict: Verdict,
    /// Why it is no new fact.
    pub reason: Option<Reason>,
    /// What exactly is wrong with it.
    pub detail: Option<String>,
    /// Its type, where the receipt says it.
    pub event_type: Option<String>,
    /// The tick of the fact that it is, or that it is a duplicate of.
    pub tick: Option<Tick>,
    /// The offset of that fact in its partition.
    pub offset: Option<u64>,
}

/// The receipts of a submission, and how long it took to get them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipted {
    /// In the order of the records.
    pub receipts: Vec<Receipt>,
    /// How long the submission waited for its turn.
    pub queued: Duration,
    /// How long it took to judge and stamp its records with those that came with it, and to make all of them durable.
    pub logged: Duration,
    /// When they were appended.
    pub appended: Appended,
}

/// When a group was appended to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// When appending it began.
    pub began: Instant,
    /// When it was durable.
    pub durable: Instant,
    /// How long, of this, the sync took.
    pub synced: Duration,
}

/// Takes the receipts of a submission; or why there are none.
pub type OnReceipts = Box<dyn FnOnce(Result<Receipted, String>) + Send>;

/// Takes what a node computed of a fact.
pub type OnRow = Box<dyn FnOnce(Decided) + Send>;

/// Rows that a node computed at once, and what those are answered who wait for them: it is written for all together.
#[derive(Debug)]
pub struct Computed {
    /// The rows.
    pub batch: RecordBatch,
    answers: OnceLock<Result<Vec<String>, String>>,
}

impl Computed {
    /// Rows of which nobody was told yet.
    pub fn new(batch: RecordBatch) -> Computed {
        Computed { batch, answers: OnceLock::new() }
    }

    /// What was written of the rows, one text for each, by whoever asked first.
    ///
    /// # Errors
    /// What kept them from being written.
    pub fn answers(
        &self,
        write: impl FnOnce(&RecordBatch) -> Result<Vec<String>, String>,
    ) -> Result<&[String], &str> {
        self.answers.get_or_init(|| write(&self.batch)).as_deref().map_err(String::as_str)
    }
}

/// The row that a node computed of a fact, among others.
#[derive(Clone, Debug)]
pub struct Decided {
    /// The node.
    pub node: Arc<str>,
    /// The rows that it computed at once.
    pub rows: Arc<Computed>,
    /// Which of them it is.
    pub row: usize,
}

/// Records that come in together.
pub struct Submission {
    /// Each as the bytes of a JSON envelope.
    pub records: Vec<Vec<u8>>,
    /// Told once the receipts are durable.
    pub on_receipts: OnReceipts,
    /// Told what is decided on the first record, if it becomes a fact.
    pub on_decision: Option<Waiter>,
    /// When it came.
    pub arrived: Instant,
}

/// Takes what became of a step.
pub type OnTaken = Box<dyn FnOnce(Result<Taken, GovernanceError>) + Send>;

/// A step of a revision that somebody asks for.
pub struct StepAsked {
    /// The step.
    pub asked: Asked,
    /// Told once it is durable, or refused; dropped when the run fails on it.
    pub on_taken: OnTaken,
}

/// Who is told of a decision, for as long as its [`Place`] is held.
pub struct Waiter {
    told: OnRow,
    place: Weak<Place>,
}

/// Held by who waits for a decision. Once it is dropped nobody waits, whether or not the fact was logged by then.
pub struct Place {
    live: Arc<Live>,
    /// The fact that is waited for, once it is one.
    tick: OnceLock<Tick>,
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(tick) = self.tick.get() {
            self.live.waiting.lock().expect("no panic").remove(tick);
        }
    }
}

/// Why a submission was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Busy {
    /// The files of the topology are being read, the log replayed, or a revision brought into force.
    #[error("the topology is still catching up with its log and its files; ask /readyz, and try again")]
    CatchingUp,
    /// As much waits as may wait.
    #[error("as much waits already as may wait; send it again in a moment")]
    Full,
    /// The process is about to end.
    #[error("the service is shutting down; send the records to its successor")]
    Stopping,
}

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The log is replayed, and files are read; or the graph is planned anew, with another revision in force.
    CatchingUp,
    /// Submissions are taken.
    Serving,
    /// What was taken is finished, and no more is taken.
    Stopping,
    /// Everything is committed.
    Stopped,
}

/// How much may wait.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of records that wait for the log.
    pub queue_bytes_max: usize,
    /// Submissions that wait for the log or for a decision; a further one that wants a decision is refused.
    pub decisions_waiting_max: usize,
    /// Steps of revisions that wait for their turn.
    pub steps_max: usize,
    /// How long after a group the next one is made, unless it is large by then. A call that comes alone does not wait.
    pub groups_apart: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            queue_bytes_max: 32 << 20,
            decisions_waiting_max: 1024,
            steps_max: 64,
            groups_apart: Duration::from_millis(1),
        }
    }
}

/// What is shared with a running graph.
pub struct Live {
    limits: Limits,
    queue: Mutex<Queue>,
    arrived: Condvar,
    shelves: Mutex<BTreeMap<String, Vec<Arc<Shelf>>>>,
    timelines: Mutex<BTreeMap<String, Vec<Arc<Shown>>>>,
    /// Timelines are kept as they are read as of this tick.
    floor: Arc<AtomicU64>,
    /// The ends of the newest groups, and how many facts of each partition are before.
    bases: Mutex<VecDeque<(Tick, Vec<u64>)>>,
    commits: Mutex<Arc<Commits>>,
    waiting: Mutex<BTreeMap<Tick, OnRow>>,
    tails: Mutex<Vec<Tail>>,
    on_commit: Mutex<Vec<OnCommit>>,
    counts: Mutex<Counts>,
    governed: Mutex<Option<Arc<Governed>>>,
    /// Has threads on the way of a call go before all others, if they are to.
    realtime: Option<Realtime>,
}

/// Is told of the commits there are after each that is published.
pub type OnCommit = Box<dyn Fn(&Arc<Commits>) + Send>;

/// So many records are logged while the graph computes those before them: their sync then costs nobody time. Fewer make small groups,
/// which cost the graph as much as large ones and stand in a row before it whenever it was held up.
const LOGGED_MEANWHILE: usize = 48;

struct Queue {
    phase: Phase,
    submissions: VecDeque<Submission>,
    bytes: usize,
    records: usize,
    /// How many parts of groups the workers have been given and not computed yet.
    computing: usize,
    /// How many records make a batch.
    batch: usize,
    /// When the last group was taken, and how far apart groups are that are no batches.
    taken: Option<Instant>,
    apart: Duration,
    steps: VecDeque<StepAsked>,
}

impl Queue {
    fn is_empty(&self) -> bool {
        self.submissions.is_empty() && self.steps.is_empty()
    }

    /// Whether something may be added.
    fn is_open(&self) -> Result<(), Busy> {
        match self.phase {
            Phase::Serving => Ok(()),
            Phase::CatchingUp => Err(Busy::CatchingUp),
            Phase::Stopping | Phase::Stopped => Err(Busy::Stopping),
        }
    }

    /// Whether a group is to be made now: a group costs the graph about as much as a hundred rows do, so what comes while
    /// it computes, or at once after the last one, waits, unless it is enough to be logged meanwhile.
    fn is_due(&self) -> bool {
        let is_enough = self.records >= self.batch.min(LOGGED_MEANWHILE);
        !self.submissions.is_empty() && (is_enough || self.computing == 0 && self.rest().is_zero())
    }

    /// How long it is until the last group was taken long enough ago.
    fn rest(&self) -> Duration {
        self.taken.map_or(Duration::ZERO, |taken| self.apart.saturating_sub(taken.elapsed()))
    }
}

struct Tail {
    table: String,
    /// Says whether it wants more.
    take: Box<dyn FnMut(&RecordBatch) -> bool + Send>,
}

impl Live {
    /// Nothing runs yet.
    pub fn new(limits: Limits) -> Live {
        Live {
            limits,
            queue: Mutex::new(Queue {
                phase: Phase::CatchingUp,
                submissions: VecDeque::new(),
                bytes: 0,
                records: 0,
                computing: 0,
                batch: 1,
                taken: None,
                apart: limits.groups_apart,
                steps: VecDeque::new(),
            }),
            arrived: Condvar::new(),
            shelves: Mutex::default(),
            timelines: Mutex::default(),
            floor: Arc::default(),
            bases: Mutex::default(),
            commits: Mutex::default(),
            waiting: Mutex::default(),
            tails: Mutex::default(),
            on_commit: Mutex::default(),
            counts: Mutex::default(),
            governed: Mutex::default(),
            realtime: None,
        }
    }

    /// The same; threads that heed `realtime`, if there is one, go before all others while it serves.
    pub fn in_realtime(self, realtime: Option<Realtime>) -> Live {
        Live { realtime, ..self }
    }

    /// Gives the calling thread a priority while threads go first.
    pub(crate) fn go(&self, priority: Priority) {
        if let Some(realtime) = &self.realtime {
            realtime.go(priority);
        }
    }

    /// Hands over records, to be answered later.
    ///
    /// # Errors
    /// When they cannot be taken now; then nobody is told anything.
    pub fn submit(&self, submission: Submission) -> Result<(), Busy> {
        let bytes = submission.bytes();
        let mut queue = self.queue();
        queue.is_open()?;
        // A single submission is as large as the service lets it be; it waits alone then.
        if queue.bytes > 0 && queue.bytes + bytes > self.limits.queue_bytes_max {
            return Err(Busy::Full);
        }
        // Whoever waits for a decision waits for all before: more at once would only wait longer.
        let decided = || queue.submissions.len() + self.waiting.lock().expect("no panic").len();
        if submission.on_decision.is_some() && decided() >= self.limits.decisions_waiting_max {
            return Err(Busy::Full);
        }
        queue.bytes += bytes;
        queue.records += submission.records.len();
        queue.submissions.push_back(submission);
        // The first has the gate look when the next group is due.
        if queue.is_due() || (queue.submissions.len() == 1 && queue.computing == 0) {
            self.arrived.notify_one();
        }
        Ok(())
    }

    /// Asks for a step of a revision, to be answered later.
    ///
    /// # Errors
    /// When it cannot be taken now; then nobody is told anything.
    pub fn ask_step(&self, step: StepAsked) -> Result<(), Busy> {
        let mut queue = self.queue();
        queue.is_open()?;
        if queue.steps.len() >= self.limits.steps_max {
            return Err(Busy::Full);
        }
        queue.steps.push_back(step);
        self.arrived.notify_one();
        Ok(())
    }

    /// The step that waits longest.
    pub(crate) fn take_step(&self) -> Option<StepAsked> {
        self.queue().steps.pop_front()
    }

    /// Submissions of about `records` records, perhaps none when a step comes first; waits for as long as `patience`
    /// until they make a group. `None` once the run is to stop and nothing waits any more.
    pub(crate) fn take(&self, records: usize, patience: Duration) -> Option<Vec<Submission>> {
        let until = Instant::now() + patience;
        let mut queue = self.queue();
        queue.batch = records;
        while queue.steps.is_empty() && !queue.is_due() {
            if queue.phase == Phase::Stopping && queue.is_empty() {
                return None;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Some(Vec::new());
            }
            let is_resting = queue.computing == 0 && !queue.submissions.is_empty();
            let left = if is_resting { left.min(queue.rest()) } else { left };
            queue = self.arrived.wait_timeout(queue, left).expect("no panic").0;
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
            queue.taken = Some(Instant::now());
        }
        Some(taken)
    }

    /// So many parts of a group are given to workers.
    pub(crate) fn give(&self, parts: usize) {
        self.queue().computing += parts;
    }

    /// A worker has computed so many of its parts.
    pub(crate) fn computed(&self, parts: usize) {
        let mut queue = self.queue();
        queue.computing -= parts;
        if queue.computing == 0 {
            self.arrived.notify_one();
        }
    }

    /// How far the run is.
    pub fn phase(&self) -> Phase {
        self.queue().phase
    }

    /// Bytes of records that wait for the log.
    pub fn queued_bytes(&self) -> usize {
        self.queue().bytes
    }

    /// How many submissions wait for the log, and how many callers for what is decided.
    pub fn waiting(&self) -> (usize, usize) {
        (self.queue().submissions.len(), self.waiting.lock().expect("no panic").len())
    }

    /// How much may wait.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    pub(crate) fn enter(&self, phase: Phase) {
        let mut queue = self.queue();
        // A run that is told to stop while it catches up does not begin to serve, nor to catch up while it serves.
        let goes = match phase {
            Phase::Serving => queue.phase == Phase::CatchingUp,
            Phase::CatchingUp => queue.phase == Phase::Serving,
            Phase::Stopping | Phase::Stopped => true,
        };
        if goes {
            queue.phase = phase;
            if let Some(realtime) = &self.realtime {
                realtime.switch(phase == Phase::Serving);
            }
        }
        self.arrived.notify_all();
        drop(queue);
        if phase == Phase::Stopped {
            // Nothing more comes for those who follow or wait.
            self.tails.lock().expect("no panic").clear();
            self.waiting.lock().expect("no panic").clear();
            self.on_commit.lock().expect("no panic").clear();
            self.queue().steps.clear();
        }
    }

    /// Another graph begins: what is on the shelves is committed, and it will have its own, and its own timelines.
    pub(crate) fn begin(&self, governed: Governed) {
        self.shelves().clear();
        self.timelines().clear();
        self.bases.lock().expect("no panic").clear();
        self.queue().computing = 0;
        *self.governed.lock().expect("no panic") = Some(Arc::new(governed));
    }

    /// How the topology is governed; `None` until the log was opened.
    pub fn governed(&self) -> Option<Arc<Governed>> {
        self.governed.lock().expect("no panic").clone()
    }

    pub(crate) fn govern(&self, governed: Governed) {
        *self.governed.lock().expect("no panic") = Some(Arc::new(governed));
    }

    /// Asks the run to finish what it has taken, commit, and end.
    pub fn stop(&self) {
        if self.phase() != Phase::Stopped {
            self.enter(Phase::Stopping);
        }
    }

    /// Whether the run was asked to end, and nobody waits for what was taken.
    pub(crate) fn may_stop(&self) -> bool {
        let queue = self.queue();
        matches!(queue.phase, Phase::Stopping | Phase::Stopped) && queue.is_empty()
    }

    /// Whether the run was asked to end.
    pub fn is_stopping(&self) -> bool {
        matches!(self.phase(), Phase::Stopping | Phase::Stopped)
    }

    /// A shelf for a table on one worker.
    pub(crate) fn shelf(&self, table: &str) -> Arc<Shelf> {
        let shelf: Arc<Shelf> = Arc::default();
        self.shelves().entry(table.to_owned()).or_default().push(Arc::clone(&shelf));
        shelf
    }

    /// A place for a timeline on one worker, which begins with what was kept of it at `restored`.
    pub(crate) fn shown(&self, timeline: &str, restored: Tick) -> Arc<Shown> {
        let shown = Arc::new(Shown::new(restored, Arc::clone(&self.floor)));
        self.timelines().entry(timeline.to_owned()).or_default().push(Arc::clone(&shown));
        shown
    }

    /// The tick before which every table is known on every worker, or committed.
    pub fn complete(&self) -> Tick {
        self.computed_upper().max(self.commits().upper())
    }

    /// The tick before which every table and every timeline is known on every worker.
    pub fn computed_upper(&self) -> Tick {
        let tables = self.shelves().values().flatten().map(|shelf| shelf.upper()).min();
        let timelines = self.timelines().values().flatten().map(|shown| shown.view().upper).min();
        tables.into_iter().chain(timelines).min().unwrap_or(Tick::ZERO)
    }

    /// The parts of a timeline, one for each worker, as they stand now.
    pub fn views(&self, timeline: &str) -> Vec<Arc<View>> {
        self.timelines().get(timeline).into_iter().flatten().map(|shown| shown.view()).collect()
    }

    /// A group was fed: before its end are so many facts of each partition.
    pub(crate) fn fed(&self, upper: Tick, basis: Vec<u64>) {
        let computed = self.computed_upper();
        let mut bases = self.bases.lock().expect("no panic");
        while bases.len() > BASES_KEPT && bases.get(1).is_some_and(|(next, _)| *next <= computed) {
            bases.pop_front();
        }
        bases.push_back((upper, basis));
    }

    /// The end of the last group before which everything is known on every worker, and how many facts of each partition are
    /// before; `None` while nothing is.
    pub fn as_of(&self) -> Option<(Tick, Vec<u64>)> {
        // As long as the lock is held, the group that ends there is not forgotten.
        let bases = self.bases.lock().expect("no panic");
        let computed = self.computed_upper();
        let known = bases.iter().rev().find(|(upper, _)| *upper <= computed && *upper > Tick::ZERO);
        known.cloned()
    }

    /// The end of the last group that ends at `tick` or before, and how many facts of each partition are before; `None` where it
    /// is no longer known.
    pub fn basis_at(&self, tick: Tick) -> Option<(Tick, Vec<u64>)> {
        let bases = self.bases.lock().expect("no panic");
        bases.iter().rev().find(|(upper, _)| *upper <= tick).cloned()
    }

    /// The tables that have shelves.
    pub fn tables(&self) -> Vec<String> {
        self.shelves().keys().cloned().collect()
    }

    /// The rows of a table that no commit had, in batches, for each worker in the order in which they came; then the commits that
    /// there are. A row may be in both: those of a batch before the commits' end are.
    pub fn rows(&self, table: &str) -> (Vec<RecordBatch>, Arc<Commits>) {
        let shelves = self.shelves().get(table).cloned().unwrap_or_default();
        // Shelves first: what leaves them meanwhile is in the commits then.
        let rows = shelves.iter().flat_map(|shelf| shelf.rows()).collect();
        (rows, self.commits())
    }

    /// How many rows of each table are kept because no commit has them.
    pub fn uncommitted(&self) -> BTreeMap<String, u64> {
        let count = |shelves: &Vec<Arc<Shelf>>| shelves.iter().map(|shelf| shelf.count() as u64).sum();
        self.shelves().iter().map(|(table, shelves)| (table.clone(), count(shelves))).collect()
    }

    /// Whether any table has rows that no commit has.
    pub fn has_uncommitted(&self) -> bool {
        self.shelves().values().flatten().any(|shelf| !shelf.is_empty())
    }

    /// The commits that there are.
    pub fn commits(&self) -> Arc<Commits> {
        Arc::clone(&self.commits.lock().expect("no panic"))
    }

    pub(crate) fn committed(&self, commits: Arc<Commits>) {
        let upper = commits.upper();
        // One commit behind, so that a statement that has its tick is not overtaken while it begins to read.
        let floor = commits.list.iter().rev().nth(1).map_or(Tick::ZERO, |commit| commit.upper);
        self.floor.store(floor.0, Ordering::Relaxed);
        *self.commits.lock().expect("no panic") = Arc::clone(&commits);
        // Later, so that who asks for the commits after having begun to wait misses none.
        for told in &*self.on_commit.lock().expect("no panic") {
            told(&commits);
        }
        // Not under the lock of all shelves: whoever feeds the graph asks for it.
        let shelves: Vec<Arc<Shelf>> = self.shelves().values().flatten().map(Arc::clone).collect();
        shelves.iter().for_each(|shelf| shelf.forget(upper));
    }

    /// Has `told` hear of every commit from now on, on the thread that publishes, until the run has stopped.
    pub fn on_commit(&self, told: OnCommit) {
        self.on_commit.lock().expect("no panic").push(told);
    }

    /// Has every batch of a table's new rows shown to `take`, until it wants no more.
    pub fn tail(&self, table: &str, take: Box<dyn FnMut(&RecordBatch) -> bool + Send>) {
        self.tails.lock().expect("no panic").push(Tail { table: table.to_owned(), take });
    }

    pub(crate) fn show(&self, table: &str, rows: &RecordBatch) {
        let mut tails = self.tails.lock().expect("no panic");
        if !tails.is_empty() {
            tails.retain_mut(|tail| tail.table != table || (tail.take)(rows));
        }
    }

    /// Who is to be told of a decision, and the place that says that it still waits.
    pub fn waiter(self: &Arc<Live>, told: OnRow) -> (Arc<Place>, Waiter) {
        let place = Arc::new(Place { live: Arc::clone(self), tick: OnceLock::new() });
        let waiter = Waiter { told, place: Arc::downgrade(&place) };
        (place, waiter)
    }

    pub(crate) fn await_decision(&self, tick: Tick, waiter: Waiter) {
        // Who has gone away meanwhile takes its entry along when the place is dropped here, behind the lock.
        let Some(place) = waiter.place.upgrade() else { return };
        place.tick.set(tick).expect("a submission waits for one fact");
        self.waiting.lock().expect("no panic").insert(tick, waiter.told);
    }

    /// Tells who waits for the decisions in some rows.
    pub(crate) fn decided(&self, node: &Arc<str>, rows: &RecordBatch) {
        let mut waiting = self.waiting.lock().expect("no panic");
        if waiting.is_empty() {
            return;
        }
        let mut shared = None;
        let ticks = rows.column_by_name(columns::TICK).expect("every stream carries _tick");
        for (row, tick) in ticks.as_primitive::<UInt64Type>().values().iter().enumerate() {
            if let Some(told) = waiting.remove(&Tick(*tick)) {
                let rows = shared.get_or_insert_with(|| Arc::new(Computed::new(rows.clone())));
                told(Decided { node: Arc::clone(node), rows: Arc::clone(rows), row });
            }
        }
    }

    /// How many records came to what in this run.
    pub fn counts(&self) -> Counts {
        self.counts.lock().expect("no panic").clone()
    }

    pub(crate) fn count(&self, counts: &Counts) {
        self.counts.lock().expect("no panic").clone_from(counts);
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().expect("no panic")
    }

    fn timelines(&self) -> MutexGuard<'_, BTreeMap<String, Vec<Arc<Shown>>>> {
        self.timelines.lock().expect("no panic")
    }

    fn shelves(&self) -> MutexGuard<'_, BTreeMap<String, Vec<Arc<Shelf>>>> {
        self.shelves.lock().expect("no panic")
    }
}

impl Submission {
    /// The records count, and so does each for itself: an empty one must not be free.
    fn bytes(&self) -> usize {
        self.records.iter().map(|record| record.len() + 64).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;
    use crate::shelf::tests::rows;

    fn submission(bytes: usize) -> Submission {
        let (on_receipts, arrived): (OnReceipts, _) = (Box::new(|_| {}), Instant::now());
        Submission { records: vec![vec![0; bytes]], on_receipts, on_decision: None, arrived }
    }

    #[test]
    fn a_table_is_known_as_far_as_its_slowest_worker() {
        let live = Live::new(Limits::default());
        let (a, b) = (live.shelf("t"), live.shelf("t"));
        a.complete(Tick(9));
        assert_eq!(live.complete(), Tick::ZERO);
        b.complete(Tick(5));
        assert_eq!(live.complete(), Tick(5));
    }

    #[test]
    fn a_full_queue_refuses_and_what_was_taken_is_answered_even_while_stopping() {
        let live = Live::new(Limits { queue_bytes_max: 1000, decisions_waiting_max: 2, ..Limits::default() });
        assert_eq!(live.submit(submission(10)), Err(Busy::CatchingUp));
        live.enter(Phase::Serving);
        assert_eq!(live.submit(submission(5000)), Ok(()), "alone, even a large one is taken");
        assert_eq!(live.submit(submission(1)), Err(Busy::Full));
        live.stop();
        assert_eq!(live.submit(submission(1)), Err(Busy::Stopping));
        assert_eq!(live.take(10, Duration::ZERO).map(|taken| taken.len()), Some(1));
        assert!(live.take(10, Duration::ZERO).is_none(), "nothing waits any more");
        assert_eq!(live.queued_bytes(), 0);
    }

    #[test]
    fn what_comes_while_the_graph_computes_waits_for_it_unless_it_is_much() {
        let live = Live::new(Limits { groups_apart: Duration::ZERO, ..Limits::default() });
        live.enter(Phase::Serving);
        live.give(2);
        live.submit(submission(1)).expect("there is room");
        let taken = |records| live.take(records, Duration::ZERO).map(|taken| taken.len());
        assert_eq!(taken(2), Some(0));
        live.computed(1);
        assert_eq!(taken(2), Some(0), "one worker is not all");
        live.submit(submission(1)).expect("there is room");
        assert_eq!(taken(2), Some(2), "a batch is full");
        live.submit(submission(1)).expect("there is room");
        live.computed(1);
        assert_eq!(taken(2), Some(1));
    }

    #[test]
    fn groups_are_apart_but_who_comes_alone_and_what_is_much_does_not_wait() {
        let (apart, patience) = (Duration::from_millis(200), Duration::from_secs(60));
        let live = Live::new(Limits { groups_apart: apart, ..Limits::default() });
        live.enter(Phase::Serving);
        let took = |submissions: usize| {
            let from = Instant::now();
            (0..submissions).for_each(|_| live.submit(submission(1)).expect("there is room"));
            assert_eq!(live.take(1000, patience).map(|taken| taken.len()), Some(submissions));
            from.elapsed()
        };
        assert!(took(1) < apart, "nothing came before");
        assert!(took(LOGGED_MEANWHILE) < apart, "it is much");
        let from = Instant::now();
        took(2);
        assert!(from.elapsed() >= apart / 2, "it waits for the others that come");
        std::thread::sleep(apart);
        assert!(took(1) < apart / 2, "it comes alone");
    }

    #[test]
    fn no_more_wait_for_decisions_than_may() {
        let live = Arc::new(Live::new(Limits { decisions_waiting_max: 2, ..Limits::default() }));
        live.enter(Phase::Serving);
        let wanting = || Submission { on_decision: Some(live.waiter(Box::new(|_| {})).1), ..submission(1) };
        let (place, waiter) = live.waiter(Box::new(|_| {}));
        live.await_decision(Tick(1), waiter);
        assert_eq!(live.submit(wanting()), Ok(()));
        assert_eq!(live.submit(wanting()), Err(Busy::Full));
        assert_eq!(live.submit(submission(1)), Ok(()), "who wants no decision is bounded by bytes alone");
        drop(place);
        live.take(10, Duration::ZERO);
        assert_eq!(live.submit(wanting()), Ok(()));
    }

    #[test]
    fn who_goes_away_before_or_after_the_fact_is_logged_leaves_no_place_taken() {
        let live = Arc::new(Live::new(Limits::default()));
        for tick in 0..5000 {
            let (place, waiter) = live.waiter(Box::new(|_| {}));
            if tick % 2 == 0 {
                drop(place);
                live.await_decision(Tick(tick), waiter);
            } else {
                live.await_decision(Tick(tick), waiter);
                assert_eq!(live.waiting().1, 1);
                drop(place);
            }
            assert_eq!(live.waiting().1, 0, "tick {tick}");
        }
    }

    #[test]
    fn who_waits_for_a_decision_is_told_once() {
        let live = Arc::new(Live::new(Limits::default()));
        let (sender, told) = channel();
        let (_place, waiter) = live.waiter(Box::new(move |decided| drop(sender.send(decided))));
        live.await_decision(Tick(7), waiter);
        let node: Arc<str> = "d".into();
        live.decided(&node, &rows(&[5, 6]));
        assert!(told.try_recv().is_err());
        live.decided(&node, &rows(&[6, 7, 8]));
        let decided = told.recv().expect("it was told");
        assert_eq!((&decided.node, &decided.rows.batch, decided.row), (&node, &rows(&[6, 7, 8]), 1));
        live.decided(&node, &rows(&[7]));
        assert!(told.recv().is_err(), "its sender is gone with it");
    }

    #[test]
    fn a_step_keeps_a_run_from_ending_and_a_stop_is_not_undone_by_one() {
        let live = Live::new(Limits { steps_max: 1, ..Limits::default() });
        let step = || {
            let asked = Asked {
                actor: "ann".to_owned(),
                reason: "test".to_owned(),
                what: crate::governance::Wish::RollBack("decisions".to_owned()),
            };
            StepAsked { asked, on_taken: Box::new(|_| {}) }
        };
        assert_eq!(live.ask_step(step()), Err(Busy::CatchingUp));
        live.enter(Phase::Serving);
        assert_eq!((live.ask_step(step()), live.ask_step(step())), (Ok(()), Err(Busy::Full)));
        live.stop();
        live.enter(Phase::CatchingUp);
        assert_eq!(live.phase(), Phase::Stopping);
        assert!(
            !live.may_stop() && live.take(10, Duration::from_secs(60)).is_some_and(|taken| taken.is_empty())
        );
        assert!(live.take_step().is_some() && live.may_stop());
        assert!(live.take(10, Duration::from_secs(60)).is_none());
        assert_eq!(live.ask_step(step()), Err(Busy::Stopping));
    }
}
