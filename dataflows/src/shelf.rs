//! The rows of one table on one worker that no commit has, where those see them who ask, and where a commit takes them from.
//!
//! A worker puts a small batch here for every group. Small batches are put together from time to time, on the thread that
//! writes, so that neither a reader nor a commit walks through crumbs.

use std::sync::{Mutex, MutexGuard};

use arrow::array::RecordBatch;
use arrow::compute::{max, min};
use tidegate_facts::Tick;
use tidegate_operators::rows::ticks_of;
use tidegate_sinks::table::put_together;

/// So many small batches in a row are put together.
const CRUMBS: usize = 32;

/// What is a small batch: first one of fewer rows than this, then what became of those.
const CRUMB_ROWS: [usize; 2] = [64, 1024];

/// The rows of one table on one worker that no commit has.
#[derive(Default)]
pub struct Shelf(Mutex<Rows>);

#[derive(Default)]
struct Rows {
    /// In the order in which they came.
    batches: Vec<Batch>,
    /// How many batches were put here since the last tidying.
    untidy: usize,
    /// How often batches were taken away.
    taken: u64,
    complete: Tick,
}

#[derive(Clone)]
struct Batch {
    first: Tick,
    last: Tick,
    rows: RecordBatch,
}

impl Batch {
    /// Of rows that there are.
    fn of(rows: RecordBatch) -> Option<Batch> {
        let ticks = ticks_of(&rows);
        let (first, last) = (min(ticks)?, max(ticks)?);
        Some(Batch { first: Tick(first), last: Tick(last), rows })
    }
}

impl Shelf {
    /// Adds rows, if there are any; whether it should be tidied.
    pub fn put(&self, rows: RecordBatch) -> bool {
        let Some(batch) = Batch::of(rows) else { return false };
        let mut shelf = self.lock();
        shelf.batches.push(batch);
        shelf.untidy += 1;
        let is_due = shelf.untidy >= CRUMBS;
        if is_due {
            shelf.untidy = 0;
        }
        is_due
    }

    /// Puts small batches together, each row at most once for each size. A thousand batches take longer than a decision may, so
    /// neither the graph nor a reader waits for it.
    pub fn tidy(&self) {
        for most in CRUMB_ROWS {
            let (from, crumbs, taken) = {
                let shelf = self.lock();
                // What came since is tidied another time.
                let end = shelf.batches.len() - shelf.untidy.min(shelf.batches.len());
                let is_small = |batch: &&Batch| batch.rows.num_rows() < most;
                let small = shelf.batches[..end].iter().rev().take_while(is_small).count();
                (end - small, shelf.batches[end - small..end].to_vec(), shelf.taken)
            };
            if crumbs.len() < CRUMBS {
                continue;
            }
            let rows = put_together(crumbs[0].rows.schema_ref(), crumbs.iter().map(|batch| &batch.rows));
            let tidy = Batch::of(rows).expect("none of them is empty");
            let mut shelf = self.lock();
            if shelf.taken != taken {
                break; // A commit has them, or most of them.
            }
            let tidied: Vec<_> = shelf.batches.splice(from..from + crumbs.len(), [tidy]).collect();
            drop(shelf);
            drop(tidied); // Freeing a thousand columns takes longer than those may wait who put rows here.
        }
    }

    /// All rows, in the order in which they came.
    pub fn rows(&self) -> Vec<RecordBatch> {
        self.lock().batches.iter().map(|batch| batch.rows.clone()).collect()
    }

    /// The batches that have rows from `lower` to before `upper`, in the order in which they came: rows of one tick are
    /// committed in the order in which they were derived.
    pub fn rows_between(&self, lower: Tick, upper: Tick) -> Vec<RecordBatch> {
        let shelf = self.lock();
        let reached = shelf.batches.iter().filter(|batch| batch.first < upper && batch.last >= lower);
        reached.map(|batch| batch.rows.clone()).collect()
    }

    /// How many rows there are.
    pub fn count(&self) -> usize {
        self.lock().batches.iter().map(|batch| batch.rows.num_rows()).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.lock().batches.is_empty()
    }

    /// Everything before `upper` is here or committed.
    pub fn complete(&self, upper: Tick) {
        let mut shelf = self.lock();
        shelf.complete = shelf.complete.max(upper);
    }

    /// The tick before which everything is here or committed.
    pub fn upper(&self) -> Tick {
        self.lock().complete
    }

    /// Takes away what a commit has: the batches of which no row is at `upper` or later.
    pub fn forget(&self, upper: Tick) {
        let mut shelf = self.lock();
        let gone: Vec<_> = shelf.batches.extract_if(.., |batch| batch.last < upper).collect();
        shelf.taken += 1;
        drop(shelf);
        drop(gone); // As above.
    }

    fn lock(&self) -> MutexGuard<'_, Rows> {
        self.0.lock().expect("no panic")
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use arrow::array::{ArrayRef, FixedSizeBinaryBuilder, UInt64Array};
    use tidegate_facts::{Digest, columns};
    use tidegate_sinks::table::{Format, Unsealed};

    use super::*;

    /// Rows of these ticks.
    pub(crate) fn rows(ticks: &[u64]) -> RecordBatch {
        let column = Arc::new(UInt64Array::from(ticks.to_vec()));
        RecordBatch::try_from_iter([(columns::TICK, column as arrow::array::ArrayRef)]).expect("one column")
    }

    fn ticks(batches: &[RecordBatch]) -> Vec<u64> {
        batches.iter().flat_map(|rows| ticks_of(rows).values().to_vec()).collect()
    }

    #[test]
    fn crumbs_are_put_together_in_their_order_and_no_row_is_lost() {
        let shelf = Shelf::default();
        for tick in 0..20_000 {
            if shelf.put(rows(&[tick])) {
                shelf.tidy();
            }
        }
        assert!(shelf.rows().len() < 3 * CRUMBS, "{} batches", shelf.rows().len());
        assert_eq!(ticks(&shelf.rows()), (0..20_000).collect::<Vec<_>>());
        assert_eq!(shelf.count(), 20_000);
        shelf.forget(Tick(19_999));
        assert_eq!(ticks(&shelf.rows()).last(), Some(&19_999), "what no commit has stays");
    }

    #[test]
    fn a_commit_finds_every_batch_that_has_rows_of_it() {
        let shelf = Shelf::default();
        for batch in [&[1, 5, 3][..], &[], &[7], &[6, 2], &[9]] {
            shelf.put(rows(batch));
        }
        assert_eq!(ticks(&shelf.rows_between(Tick(0), Tick(6))), [1, 5, 3, 6, 2]);
        assert_eq!(ticks(&shelf.rows_between(Tick(6), Tick(9))), [7, 6, 2]);
        shelf.forget(Tick(6));
        assert_eq!(ticks(&shelf.rows()), [7, 6, 2, 9], "also a row before it, beside one that is not");
    }

    /// What is cut from a shelf is what is cut from rows that are held in one place alone: whichever boundaries, however tidied,
    /// and whether or not what is committed was forgotten yet.
    #[test]
    fn a_shelf_is_cut_as_a_table_is_that_nobody_reads() {
        for seed in 0..200 {
            let mut state: u64 = seed;
            let mut below = |bound: u64| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) % bound
            };
            let schema = drawn(&[]).schema();
            let table = || {
                let lower = Tick::new(20, 0).expect("it is early");
                Unsealed::new("t", Arc::clone(&schema), Format::Parquet, lower).sealed(BTreeMap::new())
            };
            let (shelf, mut on_shelf, mut alone) = (Shelf::default(), table(), table());
            let mut reached = 0; // Microseconds: everything before was put there.
            let mut cut = Tick::ZERO;
            for _ in 0..below(300) {
                match below(20) {
                    0..16 => {
                        let tick = |micros: u64, partition: u64| {
                            Tick::new(micros as i64, partition as u16).expect("it is early")
                        };
                        let ticks: Vec<Tick> =
                            (0..below(6)).map(|_| tick(reached + below(8), below(3))).collect();
                        let rows = drawn(&ticks);
                        alone.insert(&rows);
                        shelf.put(rows);
                    }
                    16 => shelf.tidy(),
                    17 => shelf.forget(cut),
                    _ => {
                        reached += below(6);
                        let upper = Tick::new(reached as i64, 0).expect("it is early");
                        if upper > alone.lower() {
                            let cuts = on_shelf.cut_out(&shelf.rows_between(on_shelf.lower(), upper), upper);
                            let expected = alone.cut_before(upper);
                            assert_eq!(format!("{cuts:?}"), format!("{expected:?}"), "seed {seed}");
                            cut = upper;
                        }
                    }
                }
            }
        }
    }

    /// Rows that can be told apart.
    fn drawn(ticks: &[Tick]) -> RecordBatch {
        static DRAWN: AtomicU64 = AtomicU64::new(0);
        let records =
            ticks.iter().map(|_| Digest::of(&DRAWN.fetch_add(1, Ordering::Relaxed).to_le_bytes()).0);
        let records: Vec<[u8; 32]> = records.collect();
        let mut digests = FixedSizeBinaryBuilder::new(32);
        records.iter().for_each(|record| digests.append_value(record).expect("32 bytes"));
        let ticks = Arc::new(UInt64Array::from_iter_values(ticks.iter().map(|tick| tick.0)));
        let columns: [(&str, ArrayRef); 2] =
            [(columns::TICK, ticks), (columns::RECORD_DIGEST, Arc::new(digests.finish()))];
        RecordBatch::try_from_iter(columns).expect("columns of one length")
    }
}
