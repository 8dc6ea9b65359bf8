//! The uncommitted rows of one table on one worker, which readers see and from which the next
//! commit is cut.
//!
//! A worker adds a small batch for every group. The writer thread concatenates small batches from
//! time to time, so that neither a reader nor a commit walks through thousands of them.

use arrow::array::RecordBatch;
use arrow::compute::{max, min};
use parking_lot::Mutex;
use tidegate_facts::{Tick, columns};
use tidegate_sinks::commits::concat_rows;

/// This many small batches in a row are concatenated.
const SMALL_BATCHES: usize = 32;

/// What a small batch is: first one of fewer rows than this, then one of those concatenated.
const SMALL_BATCH_ROWS: [usize; 2] = [64, 1024];

/// The uncommitted rows of one table on one worker.
#[derive(Default)]
pub struct UncommittedRows(Mutex<Batches>);

#[derive(Default)]
struct Batches {
    /// In the order in which they came.
    batches: Vec<Batch>,
    /// How many batches were added since the last compaction.
    added: usize,
    /// How often batches were dropped.
    drops: u64,
    upper: Tick,
}

#[derive(Clone)]
struct Batch {
    first: Tick,
    last: Tick,
    rows: RecordBatch,
}

impl Batch {
    /// A batch of these rows; `None` when there are none.
    fn of(rows: RecordBatch) -> Option<Batch> {
        let ticks = columns::ticks(&rows);
        let (first, last) = (min(ticks)?, max(ticks)?);
        Some(Batch { first: Tick(first), last: Tick(last), rows })
    }
}

impl UncommittedRows {
    /// Adds rows, if there are any. Returns whether [`Self::compact`] is due.
    pub fn add(&self, rows: RecordBatch) -> bool {
        let Some(batch) = Batch::of(rows) else { return false };
        let mut batches = self.0.lock();
        batches.batches.push(batch);
        batches.added += 1;
        let is_due = batches.added >= SMALL_BATCHES;
        if is_due {
            batches.added = 0;
        }
        is_due
    }

    /// Concatenates small batches, each row at most once for each size. A thousand batches take
    /// longer than a decision may, so neither the graph nor a reader waits for it.
    pub fn compact(&self) {
        for rows_max in SMALL_BATCH_ROWS {
            let (from, small, drops) = {
                let batches = self.0.lock();
                // Batches added since then wait for the next compaction.
                let end = batches.batches.len() - batches.added.min(batches.batches.len());
                let is_small = |batch: &&Batch| batch.rows.num_rows() < rows_max;
                let small = batches.batches[..end].iter().rev().take_while(is_small).count();
                (end - small, batches.batches[end - small..end].to_vec(), batches.drops)
            };
            if small.len() < SMALL_BATCHES {
                continue;
            }
            let rows = concat_rows(small[0].rows.schema_ref(), small.iter().map(|batch| &batch.rows));
            let concatenated = Batch::of(rows).expect("none of them is empty");
            let mut batches = self.0.lock();
            if batches.drops != drops {
                break; // A commit has them, or most of them.
            }
            let replaced: Vec<_> = batches.batches.splice(from..from + small.len(), [concatenated]).collect();
            drop(batches);
            drop(replaced); // Freeing a thousand columns takes longer than a worker may wait for the lock.
        }
    }

    /// All rows, in the order in which they came.
    pub fn rows(&self) -> Vec<RecordBatch> {
        self.0.lock().batches.iter().map(|batch| batch.rows.clone()).collect()
    }

    /// The batches that have rows from `lower` to before `upper`, in the order in which they came:
    /// rows of one tick are committed in the order in which they were derived.
    pub fn rows_between(&self, lower: Tick, upper: Tick) -> Vec<RecordBatch> {
        let batches = self.0.lock();
        let within = batches.batches.iter().filter(|batch| batch.first < upper && batch.last >= lower);
        within.map(|batch| batch.rows.clone()).collect()
    }

    /// The number of uncommitted rows.
    pub fn count(&self) -> usize {
        self.0.lock().batches.iter().map(|batch| batch.rows.num_rows()).sum()
    }

    /// Whether the table has no uncommitted rows on this worker.
    pub fn is_empty(&self) -> bool {
        self.0.lock().batches.is_empty()
    }

    /// The worker has added every row before `upper`.
    pub fn advance(&self, upper: Tick) {
        let mut batches = self.0.lock();
        batches.upper = batches.upper.max(upper);
    }

    /// The tick before which every row was added.
    pub fn upper(&self) -> Tick {
        self.0.lock().upper
    }

    /// Drops the batches of which no row is at `upper` or later: a commit has them.
    pub fn forget_before(&self, upper: Tick) {
        let mut batches = self.0.lock();
        let dropped: Vec<_> = batches.batches.extract_if(.., |batch| batch.last < upper).collect();
        batches.drops += 1;
        drop(batches);
        drop(dropped); // As above.
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use arrow::array::{ArrayRef, FixedSizeBinaryBuilder};
    use tidegate_facts::Digest;
    use tidegate_facts::columns::{RECORD_DIGEST, TICK, tick_array};
    use tidegate_sinks::commits::{TableBuffer, TableFileFormat};

    use super::*;

    /// Rows of these ticks.
    pub(crate) fn rows(ticks: &[i64]) -> RecordBatch {
        let column: ArrayRef = Arc::new(tick_array(ticks.iter().map(|tick| Tick(*tick))));
        RecordBatch::try_from_iter([(TICK, column)]).expect("one column")
    }

    fn ticks(batches: &[RecordBatch]) -> Vec<i64> {
        batches.iter().flat_map(|rows| columns::ticks(rows).values().to_vec()).collect()
    }

    #[test]
    fn small_batches_are_concatenated_in_their_order_and_no_row_is_lost() {
        let uncommitted = UncommittedRows::default();
        for tick in 0..20_000 {
            if uncommitted.add(rows(&[tick])) {
                uncommitted.compact();
            }
        }
        let batches = uncommitted.rows();
        assert!(batches.len() < 3 * SMALL_BATCHES, "{} batches", batches.len());
        assert_eq!(ticks(&batches), (0..20_000).collect::<Vec<_>>());
        assert_eq!(uncommitted.count(), 20_000);
        uncommitted.forget_before(Tick(19_999));
        assert_eq!(ticks(&uncommitted.rows()).last(), Some(&19_999), "no commit has it");
    }

    #[test]
    fn a_commit_finds_every_batch_that_has_rows_of_it() {
        let uncommitted = UncommittedRows::default();
        for batch in [&[1, 5, 3][..], &[], &[7], &[6, 2], &[9]] {
            uncommitted.add(rows(batch));
        }
        assert_eq!(ticks(&uncommitted.rows_between(Tick(0), Tick(6))), [1, 5, 3, 6, 2]);
        assert_eq!(ticks(&uncommitted.rows_between(Tick(6), Tick(9))), [7, 6, 2]);
        uncommitted.forget_before(Tick(6));
        assert_eq!(ticks(&uncommitted.rows()), [7, 6, 2, 9], "also a row before it, beside one that is not");
    }

    /// Slices of uncommitted rows equal those of a buffer that nobody reads: whichever boundaries,
    /// however compacted, and whether or not committed rows were dropped yet.
    #[test]
    fn uncommitted_rows_are_sliced_as_a_buffer_is() {
        for seed in 0..200 {
            let mut state: u64 = seed;
            let mut below = |bound: u64| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) % bound
            };
            let schema = distinct_rows(&[]).schema();
            let table = || {
                let lower = Tick::new(20, 0).expect("it is early");
                let format = TableFileFormat::Parquet;
                TableBuffer::new("t", Arc::clone(&schema), format, lower).with_chains(BTreeMap::new())
            };
            let (uncommitted, mut read, mut alone) = (UncommittedRows::default(), table(), table());
            let mut reached = 0; // Microseconds: every row before was added.
            let mut committed = Tick::ZERO;
            for _ in 0..below(300) {
                match below(20) {
                    0..16 => {
                        let tick = |micros: u64, partition: u64| {
                            Tick::new(micros as i64, partition as u16).expect("it is early")
                        };
                        let ticks: Vec<Tick> =
                            (0..below(6)).map(|_| tick(reached + below(8), below(3))).collect();
                        let rows = distinct_rows(&ticks);
                        alone.insert(&rows);
                        uncommitted.add(rows);
                    }
                    16 => uncommitted.compact(),
                    17 => uncommitted.forget_before(committed),
                    _ => {
                        reached += below(6);
                        let upper = Tick::new(reached as i64, 0).expect("it is early");
                        if upper > alone.lower() {
                            let rows = uncommitted.rows_between(read.lower(), upper);
                            let slices = read.copy_before(&rows, upper);
                            let expected = alone.drain_before(upper);
                            assert_eq!(format!("{slices:?}"), format!("{expected:?}"), "seed {seed}");
                            committed = upper;
                        }
                    }
                }
            }
        }
    }

    /// Rows of which no two are alike.
    fn distinct_rows(ticks: &[Tick]) -> RecordBatch {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let mut digests = FixedSizeBinaryBuilder::new(32);
        for _ in ticks {
            let digest = Digest::of(&NEXT.fetch_add(1, Ordering::Relaxed).to_le_bytes());
            digests.append_value(digest.0).expect("32 bytes");
        }
        let ticks = Arc::new(tick_array(ticks.iter().copied()));
        let columns: [(&str, ArrayRef); 2] = [(TICK, ticks), (RECORD_DIGEST, Arc::new(digests.finish()))];
        RecordBatch::try_from_iter(columns).expect("columns of one length")
    }
}
