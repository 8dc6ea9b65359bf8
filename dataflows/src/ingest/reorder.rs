//! Brings the records of one source in order of event time, as far as the source declares that it
//! may be out of order.
//!
//! A record is ordered by its event time, or by the greatest event time before it in the source
//! less `out_of_order_max`, whichever is later; this is its *order time*. Records of one order time
//! keep the order of the source. So a record that is later than declared, or has no time, is
//! ordered where the source is when it comes, and the records of a sorted source
//! (`out_of_order_max` is zero) stay as they are.
//!
//! * In mode [`ReorderMode::Bounded`] a record waits until the greatest event time is
//!   `out_of_order_max` past its order time: from then on no earlier record can come. In mode
//!   [`ReorderMode::Arrival`] no record waits for a later chunk.
//! * Order times follow from the records before, never from how many records come in a chunk.
//! * A run that goes on finds in the log the order times of all records that have a receipt
//!   ([`ResumePoint`]). Its source is read again from the first record without a receipt; records
//!   behind it that have one count for the greatest time, and are left out.
//!
//! Invariant: within one mode, records come out in ascending order of (order time, position), each
//! position once.

use std::collections::{BTreeMap, VecDeque};

/// A record of one source in its order among the others, as [`Reorder`] releases it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OrderedRecord {
    /// Its order time, in microseconds of event time; `i64::MIN` before the first record with a
    /// time.
    pub order_time: i64,
    /// Its position in the source.
    pub position: u64,
    /// The chunk it came with, counted from 0.
    pub chunk: u64,
    /// Its number within the chunk.
    pub record: u32,
}

/// Where the reordering of a source resumes after a restart, collected from its receipts in the
/// log.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ResumePoint {
    /// The first position without a receipt.
    next: u64,
    /// The greatest event time before that position.
    greatest: i64,
    /// The positions behind it that have a receipt, and their order times.
    ahead: BTreeMap<u64, i64>,
}

impl Default for ResumePoint {
    fn default() -> ResumePoint {
        ResumePoint { next: 0, greatest: i64::MIN, ahead: BTreeMap::new() }
    }
}

impl ResumePoint {
    /// Adds the receipt of the record at `position`, which was admitted at `order_time`.
    ///
    /// # Panics
    /// When the position has a receipt already.
    pub fn add_receipt(&mut self, position: u64, order_time: i64) {
        if position != self.next {
            let existing = self.ahead.insert(position, order_time);
            assert!(position > self.next && existing.is_none(), "record {position} has two receipts");
            return;
        }
        self.advance(order_time);
        while let Some(order_time) = self.ahead.remove(&self.next) {
            self.advance(order_time);
        }
    }

    /// The position of the first record without a receipt, where the source is read again.
    pub fn next_position(&self) -> u64 {
        self.next
    }

    fn advance(&mut self, time: i64) {
        self.next += 1;
        // No order time is later than the greatest event time, and the record of that time has it
        // as its order time.
        self.greatest = self.greatest.max(time);
    }
}

/// How the records of a source are reordered: which of them wait for later chunks of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReorderMode {
    /// A record waits until no earlier one can come, and admission waits for this source.
    #[default]
    Bounded,
    /// The records of a chunk are sorted and released at once, and admission does not wait for this
    /// source: it has ended, or it has no end (submitted records, a file that is tailed).
    Arrival,
}

/// The records of one source that are reordered, until admission takes them.
#[derive(Debug, Default)]
pub struct Reorder {
    mode: ReorderMode,
    out_of_order_max: i64,
    read: ResumePoint,
    /// In order; a record that was not read yet may still precede each of them.
    waiting: Vec<OrderedRecord>,
    ready: VecDeque<OrderedRecord>,
    chunks: u64,
}

impl Reorder {
    /// Goes on at `resume` with a source whose records may be `out_of_order_max` microseconds
    /// behind the greatest event time.
    pub fn bounded(out_of_order_max: i64, resume: ResumePoint) -> Reorder {
        Reorder { out_of_order_max, read: resume, ..Reorder::default() }
    }

    /// Goes on at `resume` with a source whose records are admitted as they arrive.
    pub fn arrival(resume: ResumePoint) -> Reorder {
        Reorder { mode: ReorderMode::Arrival, read: resume, ..Reorder::default() }
    }

    /// Adds the next chunk of records, and returns how many of them will be released: those without
    /// a receipt.
    ///
    /// # Panics
    /// When the positions do not go on where the last ones ended.
    pub fn push(&mut self, positions: &[u64], times: &[i64]) -> usize {
        let before = self.waiting.len();
        for (record, (position, time)) in positions.iter().zip(times).enumerate() {
            assert_eq!(*position, self.read.next, "a source hands over its records in order");
            let order_time = self.read.greatest.saturating_sub(self.out_of_order_max).max(*time);
            let has_receipt = self.read.ahead.remove(position).is_some();
            self.read.advance(*time);
            if !has_receipt {
                let record = u32::try_from(record).expect("a chunk has fewer than 2^32 records");
                self.waiting.push(OrderedRecord {
                    order_time,
                    position: *position,
                    chunk: self.chunks,
                    record,
                });
            }
        }
        let added = self.waiting.len() - before;
        self.chunks += 1;
        self.waiting.sort(); // Two sorted runs, or nearly so.
        let ready = match self.mode {
            ReorderMode::Arrival => self.waiting.len(),
            ReorderMode::Bounded => {
                let passed = self.read.greatest.saturating_sub(self.out_of_order_max);
                self.waiting.partition_point(|record| record.order_time <= passed)
            }
        };
        self.ready.extend(self.waiting.drain(..ready));
        added
    }

    /// Ends the bounded order: the source was read to its end, so nothing can precede what waits.
    /// Records that come later (its file grew) are released as they arrive.
    pub fn switch_to_arrival(&mut self) {
        self.mode = ReorderMode::Arrival;
        self.ready.extend(self.waiting.drain(..));
    }

    /// Which records wait.
    pub fn mode(&self) -> ReorderMode {
        self.mode
    }

    /// The next record, if it can be released already.
    pub fn peek(&self) -> Option<&OrderedRecord> {
        self.ready.front()
    }

    /// Releases the next record.
    pub fn pop(&mut self) -> Option<OrderedRecord> {
        self.ready.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use tidegate_facts::Digest;

    use super::*;

    /// Times that mostly ascend; some records are late, some later than declared, and some have no
    /// time.
    fn times(seed: u64, count: usize) -> Vec<i64> {
        let mut drawn = 0;
        let mut below = |n: u128| {
            drawn += 1;
            (Digest::of(format!("{seed} {drawn}").as_bytes()).short() % n) as i64
        };
        let mut now = 0;
        (0..count)
            .map(|_| {
                now += below(4);
                match below(10) {
                    0 => i64::MIN,
                    1 => now - below(200),
                    2..5 => now - below(30),
                    _ => now,
                }
            })
            .collect()
    }

    /// Order times and positions by their definition, in order.
    fn oracle(times: &[i64], late: i64) -> Vec<(i64, u64)> {
        let mut records: Vec<(i64, u64)> = (0..times.len())
            .map(|at| {
                let greatest = times[..at].iter().copied().max().unwrap_or(i64::MIN);
                (times[at].max(greatest.saturating_sub(late)), at as u64)
            })
            .collect();
        records.sort();
        records
    }

    fn run(times: &[i64], late: i64, batch: usize, resume: ResumePoint) -> Vec<(i64, u64)> {
        let mut reorder = Reorder::bounded(late, resume);
        let mut records = Vec::new();
        let first = reorder.read.next as usize;
        for (number, chunk) in times[first..].chunks(batch).enumerate() {
            let from = (first + number * batch) as u64;
            let positions: Vec<u64> = (from..from + chunk.len() as u64).collect();
            reorder.push(&positions, chunk);
            records.extend(std::iter::from_fn(|| reorder.pop()));
        }
        reorder.switch_to_arrival();
        records.extend(std::iter::from_fn(|| reorder.pop()));
        records.into_iter().map(|record| (record.order_time, record.position)).collect()
    }

    #[test]
    fn the_order_is_that_of_the_definition_in_batches_of_any_size() {
        for seed in 0..30 {
            let times = times(seed, 700);
            for late in [0, 1, 15, 30, 1_000] {
                let expected = oracle(&times, late);
                for batch in [1, 37, 1_000] {
                    let records = run(&times, late, batch, ResumePoint::default());
                    assert!(records == expected, "seed {seed}, late {late}, batches of {batch}");
                }
            }
        }
    }

    #[test]
    fn a_source_that_is_stopped_after_any_record_goes_on_with_the_next() {
        for seed in 0..10 {
            let times = times(seed, 300);
            for late in [0, 15, 1_000] {
                let whole = oracle(&times, late);
                for stop in (0..=whole.len()).step_by(7) {
                    let mut resume = ResumePoint::default();
                    whole[..stop].iter().for_each(|(time, position)| resume.add_receipt(*position, *time));
                    let rest = run(&times, late, 37, resume);
                    assert!(rest == whole[stop..], "seed {seed}, late {late}, stopped after {stop}");
                }
            }
        }
    }

    #[test]
    fn a_late_record_is_ordered_by_its_time_and_no_record_waits_for_one_too_late() {
        let times = [10, 20, 14, 9, i64::MIN, 26];
        // 14 is 6 late; 9 would be 11 late, and is ordered at 20 - 6, as is the record without a
        // time.
        let records = run(&times, 6, 1, ResumePoint::default());
        assert_eq!(records, [(10, 0), (14, 2), (14, 3), (14, 4), (20, 1), (26, 5)]);
    }

    #[test]
    fn in_arrival_order_a_chunk_is_sorted_and_waits_for_nothing() {
        let mut reorder = Reorder::bounded(100, ResumePoint::default());
        reorder.push(&[0, 1], &[20, 10]);
        assert_eq!(reorder.peek(), None, "a record as early as 20 - 100 may come");
        reorder.switch_to_arrival();
        reorder.push(&[2, 3], &[15, 12]);
        let released: Vec<u64> = std::iter::from_fn(|| reorder.pop()).map(|record| record.position).collect();
        assert_eq!(released, [1, 0, 3, 2]);
    }

    #[test]
    #[should_panic(expected = "record 1 has two receipts")]
    fn a_second_receipt_is_noticed() {
        let mut resume = ResumePoint::default();
        [0, 1, 1].into_iter().for_each(|position| resume.add_receipt(position, 0));
    }
}
