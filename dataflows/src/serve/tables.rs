//! The tables of a running graph as readers see them: commits, uncommitted rows, and subscribers to
//! new rows.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Weak};

use arrow::array::RecordBatch;
use parking_lot::Mutex;
use tidegate_facts::Tick;
use tidegate_sinks::commits::Commits;

use crate::serve::uncommitted::UncommittedRows;

/// A subscriber to the commits of a running graph's tables: gets their list after each that is
/// published.
pub type OnCommit = Box<dyn Fn(&Arc<Commits>) + Send>;

/// A subscriber to a table of a running graph: gets each batch of new rows, and returns whether it
/// wants more.
pub type OnRows = Box<dyn FnMut(&RecordBatch) -> bool + Send>;

/// The most subscribers to new rows of a running graph's tables. Each of them costs every worker
/// time with every batch.
pub const SUBSCRIBERS_MAX: usize = 1024;

/// The tables of a running graph: its commits, and the rows that no commit has yet.
#[derive(Default)]
pub struct LiveTables {
    /// For each table the rows of each worker.
    uncommitted: Mutex<BTreeMap<String, Vec<Arc<UncommittedRows>>>>,
    commits: Mutex<Arc<Commits>>,
    subscribers: Arc<Mutex<Subscribers>>,
    on_commit: Mutex<Vec<OnCommit>>,
}

#[derive(Default)]
struct Subscribers {
    list: Vec<Subscriber>,
    /// How many there have been.
    count: u64,
}

struct Subscriber {
    number: u64,
    table: String,
    on_rows: OnRows,
}

/// Keeps a subscriber to a table, from [`LiveTables::subscribe`], until it is dropped.
#[must_use = "a subscriber whose subscription is dropped gets no rows"]
pub struct Subscription {
    subscribers: Weak<Mutex<Subscribers>>,
    number: u64,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if let Some(subscribers) = self.subscribers.upgrade() {
            subscribers.lock().list.retain(|subscriber| subscriber.number != self.number);
        }
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Subscription({})", self.number)
    }
}

/// Why a subscriber to a table was refused: [`SUBSCRIBERS_MAX`] others get rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{} subscribers follow tables already; close one of them, or query the tables instead",
    SUBSCRIBERS_MAX
)]
pub struct TooManySubscribers;

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
    /// returns `false` or the subscription is dropped.
    ///
    /// `on_rows` must not drop a subscription.
    ///
    /// # Errors
    /// When there are [`SUBSCRIBERS_MAX`] subscribers.
    pub fn subscribe(&self, table: &str, on_rows: OnRows) -> Result<Subscription, TooManySubscribers> {
        let mut subscribers = self.subscribers.lock();
        if subscribers.list.len() >= SUBSCRIBERS_MAX {
            return Err(TooManySubscribers);
        }
        let number = subscribers.count;
        subscribers.count += 1;
        subscribers.list.push(Subscriber { number, table: table.to_owned(), on_rows });
        Ok(Subscription { subscribers: Arc::downgrade(&self.subscribers), number })
    }

    /// The number of subscribers.
    pub fn subscribers(&self) -> usize {
        self.subscribers.lock().list.len()
    }

    /// Gives new rows of a table to its subscribers.
    pub(crate) fn publish(&self, table: &str, rows: &RecordBatch) {
        let subscribers = &mut self.subscribers.lock().list;
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
        self.subscribers.lock().list.clear();
        self.on_commit.lock().clear();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;
    use crate::serve::uncommitted::tests::rows;

    #[test]
    fn a_subscriber_gets_rows_of_its_table_until_its_subscription_is_dropped() {
        let tables = LiveTables::default();
        let (sender, received) = channel();
        let on_rows = Box::new(move |rows: &RecordBatch| sender.send(rows.num_rows()).is_ok());
        let subscription = tables.subscribe("t", on_rows).unwrap();
        let other = tables.subscribe("t", Box::new(|_| true)).unwrap();
        tables.publish("t", &rows(&[1, 2]));
        tables.publish("another", &rows(&[1]));
        assert_eq!(received.try_iter().collect::<Vec<_>>(), [2]);
        drop(subscription);
        assert_eq!(tables.subscribers(), 1, "also where no row comes any more");
        drop(other);
        assert_eq!(tables.subscribers(), 0);
    }

    #[test]
    fn a_subscriber_that_is_too_slow_leaves_with_the_next_row() {
        let tables = LiveTables::default();
        let _subscription = tables.subscribe("t", Box::new(|_| false)).unwrap();
        tables.publish("t", &rows(&[1]));
        assert_eq!(tables.subscribers(), 0);
    }

    #[test]
    fn the_number_of_subscribers_is_bounded_and_one_that_leaves_makes_room() {
        let tables = LiveTables::default();
        let subscribe = || tables.subscribe("t", Box::new(|_| true));
        let mut all: Vec<Subscription> = (0..SUBSCRIBERS_MAX).map(|_| subscribe().unwrap()).collect();
        assert_eq!(subscribe().err(), Some(TooManySubscribers));
        drop(all.pop());
        assert!(subscribe().is_ok());
    }
}
