//! How much a timeline holds, for those who watch it.
//!
//! A batch counts itself in once when it is whole, and out when it is dropped. So nothing is walked, the cost is that of a batch
//! and not of its rows, and what is counted is what memory holds.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What the batches of a timeline hold now, over all workers. Nothing derived reads it.
#[derive(Debug, Default)]
pub struct Held {
    batches: AtomicU64,
    keys: AtomicU64,
    rows: AtomicU64,
    bytes: AtomicU64,
}

/// How much is held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amounts {
    /// Batches that are not empty.
    pub batches: u64,
    /// Keys, each counted once in every batch that has rows of it.
    pub keys: u64,
    /// Rows.
    pub rows: u64,
    /// Bytes of keys, times, ticks and sums. Texts are not counted.
    pub bytes: u64,
}

impl Held {
    /// What is held now; a batch that comes or goes meanwhile may be seen in part.
    pub fn amounts(&self) -> Amounts {
        Amounts {
            batches: self.batches.load(Ordering::Relaxed),
            keys: self.keys.load(Ordering::Relaxed),
            rows: self.rows.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
        }
    }
}

impl std::ops::AddAssign for Amounts {
    fn add_assign(&mut self, other: Amounts) {
        self.batches += other.batches;
        self.keys += other.keys;
        self.rows += other.rows;
        self.bytes += other.bytes;
    }
}

/// One batch's part; it is taken off when the batch is dropped.
#[derive(Debug)]
pub(super) struct Tally {
    held: Arc<Held>,
    own: Amounts,
}

impl Tally {
    /// Counts a batch in.
    pub(super) fn new(held: &Arc<Held>, own: Amounts) -> Tally {
        held.batches.fetch_add(own.batches, Ordering::Relaxed);
        held.keys.fetch_add(own.keys, Ordering::Relaxed);
        held.rows.fetch_add(own.rows, Ordering::Relaxed);
        held.bytes.fetch_add(own.bytes, Ordering::Relaxed);
        Tally { held: Arc::clone(held), own }
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        let Tally { held, own } = self;
        held.batches.fetch_sub(own.batches, Ordering::Relaxed);
        held.keys.fetch_sub(own.keys, Ordering::Relaxed);
        held.rows.fetch_sub(own.rows, Ordering::Relaxed);
        held.bytes.fetch_sub(own.bytes, Ordering::Relaxed);
    }
}
