//! A running graph, as those see it who send to it and ask it while it runs.
//!
//! * Records come in by [`Live::submit`], wait in a queue that is bounded in bytes, and are answered with their receipts
//!   once these are durable. A queue that is full refuses; nothing that was taken is dropped.
//! * Rows that no commit has yet stand on a shelf for each table and worker, complete up to the worker's frontier.
//!   [`Live::complete`] is the tick up to which every shelf of every worker is: what is read below it is the same
//!   whenever it is read again, from shelves or from commits.
//! * Who waits for what is computed of one fact is told by the worker that computes it.
//!
//! Nothing here holds back the graph: readers copy references under short locks.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, Weak};
use std::time::{Duration, Instant};

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::{concat_batches, max};
use arrow::datatypes::{SchemaRef, UInt64Type};
use tidegate_facts::{Reason, Tick, Verdict, columns};
use tidegate_sinks::table::Commits;

use crate::admission::Counts;

/// The source that records submitted over HTTP have in their receipts.
pub const INGRESS: &str = "http";

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
}

/// Takes the receipts of a submission; or why there are none.
pub type OnReceipts = Box<dyn FnOnce(Result<Receipted, String>) + Send>;

/// Takes the row that a node computed of a fact, and the node's name.
pub type OnRow = Box<dyn FnOnce(&str, RecordBatch) + Send>;

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
    /// The files of the topology are being read, or the log replayed.
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
    /// The log is replayed, and files are read.
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
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { queue_bytes_max: 32 << 20, decisions_waiting_max: 1024 }
    }
}

/// What is shared with a running graph.
pub struct Live {
    limits: Limits,
    queue: Mutex<Queue>,
    arrived: Condvar,
    shelves: Mutex<BTreeMap<String, Vec<Arc<Shelf>>>>,
    commits: Mutex<Arc<Commits>>,
    waiting: Mutex<BTreeMap<Tick, OnRow>>,
    tails: Mutex<Vec<Tail>>,
    counts: Mutex<Counts>,
}

struct Queue {
    phase: Phase,
    submissions: VecDeque<Submission>,
    bytes: usize,
}

struct Tail {
    table: String,
    /// Says whether it wants more.
    take: Box<dyn FnMut(&RecordBatch) -> bool + Send>,
}

/// The rows of one table on one worker that no commit has.
#[derive(Default)]
pub struct Shelf(Mutex<Rows>);

#[derive(Default)]
struct Rows {
    schema: Option<SchemaRef>,
    /// Each with its last tick.
    batches: Vec<(Tick, RecordBatch)>,
    complete: Tick,
}

/// Small batches are put together up to this many rows, so that a reader does not walk through crumbs.
const SHELF_ROWS: usize = 8192;

impl Shelf {
    /// Adds rows, all of which are behind the last commit or shown twice.
    pub fn put(&self, rows: &RecordBatch) {
        let ticks = rows.column_by_name(columns::TICK).expect("every table has _tick");
        let Some(last) = max(ticks.as_primitive::<UInt64Type>()) else { return };
        let mut shelf = self.lock();
        shelf.schema.get_or_insert_with(|| rows.schema());
        shelf.batches.push((Tick(last), rows.clone()));
        // Each row is copied once for each doubling of the batch that it stands in.
        while let [.., (_, before), (_, last)] = shelf.batches.as_slice() {
            if before.num_rows() > 2 * last.num_rows() || before.num_rows() + last.num_rows() > SHELF_ROWS {
                break;
            }
            let whole = concat_batches(&before.schema(), [before, last]).expect("one table has one schema");
            let (last, _) = shelf.batches.pop().expect("there are two");
            let (before, _) = shelf.batches.pop().expect("there are two");
            shelf.batches.push((last.max(before), whole));
        }
    }

    /// Everything before `upper` is here or committed.
    pub fn complete(&self, upper: Tick) {
        let mut shelf = self.lock();
        shelf.complete = shelf.complete.max(upper);
    }

    fn forget(&self, before: Tick) {
        self.lock().batches.retain(|(last, _)| *last >= before);
    }

    fn lock(&self) -> MutexGuard<'_, Rows> {
        self.0.lock().expect("no panic")
    }
}

impl Live {
    /// Nothing runs yet.
    pub fn new(limits: Limits) -> Live {
        Live {
            limits,
            queue: Mutex::new(Queue { phase: Phase::CatchingUp, submissions: VecDeque::new(), bytes: 0 }),
            arrived: Condvar::new(),
            shelves: Mutex::default(),
            commits: Mutex::default(),
            waiting: Mutex::default(),
            tails: Mutex::default(),
            counts: Mutex::default(),
        }
    }

    /// Hands over records, to be answered later.
    ///
    /// # Errors
    /// When they cannot be taken now; then nobody is told anything.
    pub fn submit(&self, submission: Submission) -> Result<(), Busy> {
        let bytes = submission.bytes();
        let mut queue = self.queue();
        match queue.phase {
            Phase::Serving => {}
            Phase::CatchingUp => return Err(Busy::CatchingUp),
            Phase::Stopping | Phase::Stopped => return Err(Busy::Stopping),
        }
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
        queue.submissions.push_back(submission);
        self.arrived.notify_one();
        Ok(())
    }

    /// Submissions of about `records` records; waits for the first for as long as `patience`. `None` once the run is to
    /// stop and nothing waits any more.
    pub(crate) fn take(&self, records: usize, patience: Duration) -> Option<Vec<Submission>> {
        let until = Instant::now() + patience;
        let mut queue = self.queue();
        while queue.submissions.is_empty() {
            if queue.phase == Phase::Stopping {
                return None;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Some(Vec::new());
            }
            queue = self.arrived.wait_timeout(queue, left).expect("no panic").0;
        }
        let mut taken = Vec::new();
        let mut count = 0;
        while count < records {
            let Some(submission) = queue.submissions.pop_front() else { break };
            queue.bytes -= submission.bytes();
            count += submission.records.len();
            taken.push(submission);
        }
        Some(taken)
    }

    /// How far the run is.
    pub fn phase(&self) -> Phase {
        self.queue().phase
    }

    /// Bytes of records that wait for the log.
    pub fn queued_bytes(&self) -> usize {
        self.queue().bytes
    }

    pub(crate) fn enter(&self, phase: Phase) {
        let mut queue = self.queue();
        // A run that is told to stop while it catches up does not begin to serve.
        if phase != Phase::Serving || queue.phase == Phase::CatchingUp {
            queue.phase = phase;
        }
        self.arrived.notify_all();
        drop(queue);
        if phase == Phase::Stopped {
            // Nothing more comes for those who follow or wait.
            self.tails.lock().expect("no panic").clear();
            self.waiting.lock().expect("no panic").clear();
        }
    }

    /// Asks the run to finish what it has taken, commit, and end.
    pub fn stop(&self) {
        if self.phase() != Phase::Stopped {
            self.enter(Phase::Stopping);
        }
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

    /// The tick before which every table is known on every worker.
    pub fn complete(&self) -> Tick {
        self.shelves().values().flatten().map(|shelf| shelf.lock().complete).min().unwrap_or(Tick::ZERO)
    }

    /// The tables that have shelves.
    pub fn tables(&self) -> Vec<String> {
        self.shelves().keys().cloned().collect()
    }

    /// The rows of a table that no commit had, in batches in no order, then the commits that there are. A row may be
    /// in both: those of a batch before the commits' end are.
    pub fn rows(&self, table: &str) -> (Vec<RecordBatch>, Arc<Commits>) {
        let shelves = self.shelves().get(table).cloned().unwrap_or_default();
        // Shelves first: what leaves them meanwhile is in the commits then.
        let rows = shelves
            .iter()
            .flat_map(|shelf| shelf.lock().batches.iter().map(|(_, rows)| rows.clone()).collect::<Vec<_>>())
            .collect();
        (rows, self.commits())
    }

    /// The commits that there are.
    pub fn commits(&self) -> Arc<Commits> {
        Arc::clone(&self.commits.lock().expect("no panic"))
    }

    pub(crate) fn committed(&self, commits: Arc<Commits>) {
        let upper = commits.upper();
        *self.commits.lock().expect("no panic") = commits;
        for shelf in self.shelves().values().flatten() {
            shelf.forget(upper);
        }
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

    /// How many wait for the decision on a fact that is logged.
    pub fn waiting(&self) -> usize {
        self.waiting.lock().expect("no panic").len()
    }

    /// Tells who waits for the decisions in some rows.
    pub(crate) fn decided(&self, node: &str, rows: &RecordBatch) {
        let mut waiting = self.waiting.lock().expect("no panic");
        if waiting.is_empty() {
            return;
        }
        let ticks = rows.column_by_name(columns::TICK).expect("every stream carries _tick");
        for (row, tick) in ticks.as_primitive::<UInt64Type>().values().iter().enumerate() {
            if let Some(told) = waiting.remove(&Tick(*tick)) {
                told(node, rows.slice(row, 1));
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

    use arrow::array::UInt64Array;

    use super::*;

    fn rows(ticks: &[u64]) -> RecordBatch {
        let column = Arc::new(UInt64Array::from(ticks.to_vec()));
        RecordBatch::try_from_iter([(columns::TICK, column as arrow::array::ArrayRef)]).expect("one column")
    }

    fn ticks(batches: &[RecordBatch]) -> Vec<u64> {
        let mut ticks: Vec<u64> = batches
            .iter()
            .flat_map(|rows| rows.column(0).as_primitive::<UInt64Type>().values().to_vec())
            .collect();
        ticks.sort_unstable();
        ticks
    }

    fn submission(bytes: usize) -> Submission {
        let (on_receipts, arrived): (OnReceipts, _) = (Box::new(|_| {}), Instant::now());
        Submission { records: vec![vec![0; bytes]], on_receipts, on_decision: None, arrived }
    }

    #[test]
    fn crumbs_are_put_together_and_no_row_is_lost() {
        let live = Live::new(Limits::default());
        let shelf = live.shelf("t");
        for tick in 0..20_000u64 {
            shelf.put(&rows(&[tick]));
        }
        let (batches, _) = live.rows("t");
        assert!(batches.len() < 20, "{} batches", batches.len());
        assert_eq!(ticks(&batches), (0..20_000).collect::<Vec<_>>());
        shelf.forget(Tick(19_999));
        assert_eq!(ticks(&live.rows("t").0).last(), Some(&19_999), "what no commit has stays");
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
        let live = Live::new(Limits { queue_bytes_max: 1000, decisions_waiting_max: 2 });
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
    fn no_more_wait_for_decisions_than_may() {
        let live = Arc::new(Live::new(Limits { decisions_waiting_max: 2, ..Limits::default() }));
        live.enter(Phase::Serving);
        let wanting =
            || Submission { on_decision: Some(live.waiter(Box::new(|_, _| {})).1), ..submission(1) };
        let (place, waiter) = live.waiter(Box::new(|_, _| {}));
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
            let (place, waiter) = live.waiter(Box::new(|_, _| {}));
            if tick % 2 == 0 {
                drop(place);
                live.await_decision(Tick(tick), waiter);
            } else {
                live.await_decision(Tick(tick), waiter);
                assert_eq!(live.waiting(), 1);
                drop(place);
            }
            assert_eq!(live.waiting(), 0, "tick {tick}");
        }
    }

    #[test]
    fn who_waits_for_a_decision_is_told_once() {
        let live = Arc::new(Live::new(Limits::default()));
        let (sender, told) = channel();
        let (_place, waiter) =
            live.waiter(Box::new(move |node, row| drop(sender.send((node.to_owned(), row)))));
        live.await_decision(Tick(7), waiter);
        live.decided("d", &rows(&[5, 6]));
        assert!(told.try_recv().is_err());
        live.decided("d", &rows(&[6, 7, 8]));
        assert_eq!(told.recv(), Ok(("d".to_owned(), rows(&[7]))));
        live.decided("d", &rows(&[7]));
        assert!(told.recv().is_err(), "its sender is gone with it");
    }
}
