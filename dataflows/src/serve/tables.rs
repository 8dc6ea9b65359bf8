//! The tables of a running graph as readers see them: commits, uncommitted rows, and subscribers to
//! new rows.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use parking_lot::Mutex;
use tidegate_facts::Tick;
use tidegate_sinks::commits::Commits;

use crate::serve::uncommitted::UncommittedRows;

/// Gets the list of commits after each commit that is published.
pub type OnCommit = Box<dyn Fn(&Arc<Commits>) + Send>;

/// Gets each batch of a table's new rows; returns whether it wants more.
pub type OnRows = Box<dyn FnMut(&RecordBatch) -> bool + Send>;

/// The commits of a graph, and the rows of its tables that no commit has yet.
#[derive(Default)]
pub struct LiveTables {
    /// For each table the rows of each worker.
    uncommitted: Mutex<BTreeMap<String, Vec<Arc<UncommittedRows>>>>,
    commits: Mutex<Arc<Commits>>,
    subscribers: Mutex<Vec<Subscriber>>,
    on_commit: Mutex<Vec<OnCommit>>,
}

struct Subscriber {
    table: String,
    on_rows: OnRows,
}

impl LiveTables {
    /// Adds the rows of a table on one worker.
    pub(crate) fn add(&self, table: &str) -> Arc<UncommittedRows> {
        let rows: Arc<UncommittedRows> = Arc::default();
        self.uncommitted.lock().entry(table.to_owned()).or_default().push(Arc::clone(&rows));
        rows
    }

    /// The tick before which every table is complete on every worker; `None` when there are no
    /// tables.
    pub(crate) fn upper(&self) -> Option<Tick> {
        self.uncommitted.lock().values().flatten().map(|rows| rows.upper()).min()
    }

    /// The names of the tables.
    pub fn names(&self) -> Vec<String> {
        self.uncommitted.lock().keys().cloned().collect()
    }

    /// The uncommitted rows of a table, in batches, for each worker in the order in which they
    /// came; and the commits. A row may be in both: rows before the end of the commits are in the
    /// commits.
    pub fn rows(&self, table: &str) -> (Vec<RecordBatch>, Arc<Commits>) {
        let uncommitted = self.uncommitted.lock().get(table).cloned().unwrap_or_default();
        // Uncommitted rows first: what is committed meanwhile is in the commits then.
        let rows = uncommitted.iter().flat_map(|rows| rows.rows()).collect();
        (rows, self.commits())
    }

    /// The number of uncommitted rows of each table.
    pub fn uncommitted(&self) -> BTreeMap<String, u64> {
        let count = |parts: &Vec<Arc<UncommittedRows>>| parts.iter().map(|rows| rows.count() as u64).sum();
        self.uncommitted.lock().iter().map(|(table, parts)| (table.clone(), count(parts))).collect()
    }

    /// Whether any table has uncommitted rows.
    pub fn has_uncommitted(&self) -> bool {
        self.uncommitted.lock().values().flatten().any(|rows| !rows.is_empty())
    }

    /// The commits.
    pub fn commits(&self) -> Arc<Commits> {
        Arc::clone(&self.commits.lock())
    }

    pub(crate) fn set_commits(&self, commits: Arc<Commits>) {
        let upper = commits.upper();
        *self.commits.lock() = Arc::clone(&commits);
        // After the commits are set, so that a caller that registers and then reads them misses
        // none.
        for on_commit in &*self.on_commit.lock() {
            on_commit(&commits);
        }
        // Not under the lock of all tables: the gate waits for it.
        let parts: Vec<_> = self.uncommitted.lock().values().flatten().map(Arc::clone).collect();
        parts.iter().for_each(|rows| rows.forget_before(upper));
    }

    /// Calls `on_commit` after each commit from now on, on the thread that publishes, until the run
    /// has stopped.
    pub fn on_commit(&self, on_commit: OnCommit) {
        self.on_commit.lock().push(on_commit);
    }

    /// Calls `on_rows` with each batch of a table's new rows, on the worker's thread, until it
    /// returns `false`.
    pub fn subscribe(&self, table: &str, on_rows: OnRows) {
        self.subscribers.lock().push(Subscriber { table: table.to_owned(), on_rows });
    }

    /// The number of subscribers.
    pub fn subscribers(&self) -> usize {
        self.subscribers.lock().len()
    }

    /// Gives new rows of a table to its subscribers.
    pub(crate) fn publish(&self, table: &str, rows: &RecordBatch) {
        let mut subscribers = self.subscribers.lock();
        if !subscribers.is_empty() {
            subscribers.retain_mut(|subscriber| subscriber.table != table || (subscriber.on_rows)(rows));
        }
    }

    /// Another graph begins, with tables of its own; the rows of the one before are committed.
    pub(crate) fn clear(&self) {
        self.uncommitted.lock().clear();
    }

    /// The run has ended: subscribers get nothing more.
    pub(crate) fn close(&self) {
        self.subscribers.lock().clear();
        self.on_commit.lock().clear();
    }
}
