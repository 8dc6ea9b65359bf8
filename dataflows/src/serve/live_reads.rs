//! What queries read of a running topology: the seam between them and the processes that compute
//! it.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use parking_lot::Mutex;
use tidegate_facts::Tick;
pub use tidegate_operators::temporal::timeline::TimelineSnapshot;
use tidegate_sinks::commits::Commits;

use crate::serve::ServeState;

/// The live reads of queries: the uncommitted state of a running topology, as they see it.
///
/// Everything before [`LiveReads::complete`] is final: a read as of an earlier tick returns the
/// same rows whenever it is repeated, from uncommitted rows or from commits.
pub trait LiveReads: Send + Sync {
    /// The tick before which every table is complete on every worker, or committed.
    fn complete(&self) -> Tick;

    /// The uncommitted rows of a table, in batches, and the commits. A row may be in both: rows
    /// before the end of the commits are in the commits.
    fn rows(&self, table: &str) -> (Vec<RecordBatch>, Arc<Commits>);

    /// The current snapshots of a timeline, one for each worker; none of an unknown timeline.
    fn views(&self, timeline: &str) -> Vec<Arc<TimelineSnapshot>>;

    /// The commits.
    fn commits(&self) -> Arc<Commits>;

    /// The end of the last group before which everything is computed, and the number of facts of
    /// each partition before it; `None` before the first.
    fn as_of(&self) -> Option<(Tick, Vec<i64>)>;

    /// The end of the last group that ends at `tick` or before, and the number of facts of each
    /// partition before it; `None` for a tick too long ago.
    fn basis_at(&self, tick: Tick) -> Option<(Tick, Vec<i64>)>;
}

/// A topology that runs in this process.
impl LiveReads for ServeState {
    fn complete(&self) -> Tick {
        ServeState::complete(self)
    }

    fn rows(&self, table: &str) -> (Vec<RecordBatch>, Arc<Commits>) {
        self.tables.rows(table)
    }

    fn views(&self, timeline: &str) -> Vec<Arc<TimelineSnapshot>> {
        self.timelines.snapshots(timeline)
    }

    fn commits(&self) -> Arc<Commits> {
        self.tables.commits()
    }

    fn as_of(&self) -> Option<(Tick, Vec<i64>)> {
        ServeState::as_of(self)
    }

    fn basis_at(&self, tick: Tick) -> Option<(Tick, Vec<i64>)> {
        ServeState::basis_at(self, tick)
    }
}

/// Live reads of a state that is set by hand, for tests and simulations of readers.
#[derive(Default)]
pub struct MemoryReads(Mutex<MemoryState>);

#[derive(Default)]
struct MemoryState {
    complete: Tick,
    rows: BTreeMap<String, Vec<RecordBatch>>,
    views: BTreeMap<String, Vec<Arc<TimelineSnapshot>>>,
    commits: Arc<Commits>,
    bases: Vec<(Tick, Vec<i64>)>,
}

impl MemoryReads {
    /// Adds uncommitted rows to a table.
    pub fn add_rows(&self, table: &str, rows: RecordBatch) {
        self.0.lock().rows.entry(table.to_owned()).or_default().push(rows);
    }

    /// Sets the snapshots of a timeline.
    pub fn set_views(&self, timeline: &str, views: Vec<Arc<TimelineSnapshot>>) {
        self.0.lock().views.insert(timeline.to_owned(), views);
    }

    /// Everything before `upper` is complete; before it are so many facts of each partition.
    pub fn set_complete(&self, upper: Tick, basis: Vec<i64>) {
        let mut state = self.0.lock();
        assert!(state.complete <= upper, "what is complete stays so");
        state.complete = upper;
        state.bases.push((upper, basis));
    }

    /// Sets the commits, and removes the uncommitted rows of a table. Readers then find its rows in
    /// the commits.
    pub fn set_commits(&self, commits: Arc<Commits>, table: &str) {
        let mut state = self.0.lock();
        state.commits = commits;
        state.rows.remove(table);
    }
}

impl LiveReads for MemoryReads {
    fn complete(&self) -> Tick {
        let state = self.0.lock();
        state.complete.max(state.commits.upper())
    }

    fn rows(&self, table: &str) -> (Vec<RecordBatch>, Arc<Commits>) {
        let state = self.0.lock();
        (state.rows.get(table).cloned().unwrap_or_default(), Arc::clone(&state.commits))
    }

    fn views(&self, timeline: &str) -> Vec<Arc<TimelineSnapshot>> {
        self.0.lock().views.get(timeline).cloned().unwrap_or_default()
    }

    fn commits(&self) -> Arc<Commits> {
        Arc::clone(&self.0.lock().commits)
    }

    fn as_of(&self) -> Option<(Tick, Vec<i64>)> {
        self.0.lock().bases.last().cloned()
    }

    fn basis_at(&self, tick: Tick) -> Option<(Tick, Vec<i64>)> {
        self.0.lock().bases.iter().rev().find(|(upper, _)| *upper <= tick).cloned()
    }
}
