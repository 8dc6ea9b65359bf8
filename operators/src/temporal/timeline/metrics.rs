//! Metrics of a timeline: how many batches, keys, rows and bytes it holds.
//!
//! A batch adds its totals once when it is complete, and subtracts them when it is dropped. So no
//! batch is scanned, the cost is per batch and not per row, and the totals are what memory holds.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The metrics of one timeline: what its batches hold now, over all workers. No output depends on
/// it.
#[derive(Debug, Default)]
pub struct TimelineMetrics {
    batches: AtomicU64,
    keys: AtomicU64,
    rows: AtomicU64,
    bytes: AtomicU64,
}

/// The totals of a timeline's metrics: what its batches hold at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Batches that are not empty.
    pub batches: u64,
    /// Keys; a key counts once for each batch that has rows of it.
    pub keys: u64,
    /// Rows.
    pub rows: u64,
    /// Bytes of keys, times, ticks and sums; texts are not included.
    pub bytes: u64,
}

impl TimelineMetrics {
    /// The current totals of the timeline's metrics. They may include a part of a batch that is
    /// added or dropped meanwhile.
    pub fn totals(&self) -> Totals {
        Totals {
            batches: self.batches.load(Ordering::Relaxed),
            keys: self.keys.load(Ordering::Relaxed),
            rows: self.rows.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
        }
    }
}

impl std::ops::AddAssign for Totals {
    fn add_assign(&mut self, other: Totals) {
        self.batches += other.batches;
        self.keys += other.keys;
        self.rows += other.rows;
        self.bytes += other.bytes;
    }
}

/// The totals of one batch; subtracted from the metrics when the batch is dropped.
#[derive(Debug)]
pub(super) struct BatchGuard {
    metrics: Arc<TimelineMetrics>,
    own: Totals,
}

impl BatchGuard {
    /// Adds the totals of a batch.
    pub(super) fn new(metrics: &Arc<TimelineMetrics>, own: Totals) -> BatchGuard {
        metrics.batches.fetch_add(own.batches, Ordering::Relaxed);
        metrics.keys.fetch_add(own.keys, Ordering::Relaxed);
        metrics.rows.fetch_add(own.rows, Ordering::Relaxed);
        metrics.bytes.fetch_add(own.bytes, Ordering::Relaxed);
        BatchGuard { metrics: Arc::clone(metrics), own }
    }
}

impl Drop for BatchGuard {
    fn drop(&mut self) {
        let BatchGuard { metrics, own } = self;
        metrics.batches.fetch_sub(own.batches, Ordering::Relaxed);
        metrics.keys.fetch_sub(own.keys, Ordering::Relaxed);
        metrics.rows.fetch_sub(own.rows, Ordering::Relaxed);
        metrics.bytes.fetch_sub(own.bytes, Ordering::Relaxed);
    }
}
