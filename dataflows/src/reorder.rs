//! Brings the records of one source in order, as far as the source declares that it may be late.
//!
//! A record takes its place at its event time, or at the greatest event time before it in the source less
//! `late`, whichever is later; records of one place keep the order of the source. So a record that is later
//! than declared, or has no time, stands where the source is when it comes, and the records of a sorted
//! source (`late` is zero) stay as they are.
//!
//! * A record waits until the greatest event time is `late` past its place: from then on nothing can come
//!   before it. At the end of the source nothing waits any longer.
//! * Places follow from the records before, never from how many are handed over at once.
//! * A run that goes on finds in the log the places of all records that have a receipt ([`Resume`]). Its
//!   source is read again from the first record without one; those behind it that have one count for the
//!   greatest time, and are left out.
//!
//! Invariant: turns are given out in ascending order of (place, position), each position once.

use std::collections::{BTreeMap, VecDeque};

/// A record's turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Turn {
    /// Its place in event time, in microseconds; `i64::MIN` before the first record with a time.
    pub place: i64,
    /// Its position in the source.
    pub position: u64,
    /// The chunk it came with, counted from 0.
    pub chunk: u64,
    /// Its number within the chunk.
    pub record: u32,
}

/// Where a source goes on, learnt from its receipts.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Resume {
    /// The first position without a receipt.
    next: u64,
    /// The greatest event time before that position.
    greatest: i64,
    /// The positions behind it that have a receipt, and their places.
    ahead: BTreeMap<u64, i64>,
}

impl Default for Resume {
    fn default() -> Resume {
        Resume { next: 0, greatest: i64::MIN, ahead: BTreeMap::new() }
    }
}

impl Resume {
    /// Takes note of the receipt of a record that took its turn at `place`.
    ///
    /// # Panics
    /// When the position has a receipt already.
    pub fn learn(&mut self, position: u64, place: i64) {
        if position != self.next {
            let twin = self.ahead.insert(position, place);
            assert!(position > self.next && twin.is_none(), "record {position} has two receipts");
            return;
        }
        self.pass(place);
        while let Some(place) = self.ahead.remove(&self.next) {
            self.pass(place);
        }
    }

    /// The record at which the source goes on.
    pub fn next(&self) -> u64 {
        self.next
    }

    fn pass(&mut self, time: i64) {
        self.next += 1;
        // No place is later than the greatest event time, and the record of that time stands at it.
        self.greatest = self.greatest.max(time);
    }
}

/// The records of one source that have not had their turn.
#[derive(Debug, Default)]
pub struct Reorder {
    late: i64,
    read: Resume,
    /// In order; each may still be preceded by a record that was not read yet.
    waiting: Vec<Turn>,
    ready: VecDeque<Turn>,
    chunks: u64,
}

impl Reorder {
    /// Goes on where `resume` says, for a source that may be `late` microseconds late.
    pub fn new(late: i64, resume: Resume) -> Reorder {
        Reorder { late, read: resume, ..Reorder::default() }
    }

    /// Takes over the next records, and says how many of them will have a turn.
    ///
    /// # Panics
    /// When the positions do not go on where the last ones ended.
    pub fn hand_over(&mut self, positions: &[u64], times: &[i64]) -> usize {
        let before = self.waiting.len();
        for (record, (position, time)) in positions.iter().zip(times).enumerate() {
            assert_eq!(*position, self.read.next, "a source hands over its records in order");
            let place = self.read.greatest.saturating_sub(self.late).max(*time);
            let had_its_turn = self.read.ahead.remove(position).is_some();
            self.read.pass(*time);
            if !had_its_turn {
                let record = u32::try_from(record).expect("a chunk has fewer than 2^32 records");
                self.waiting.push(Turn { place, position: *position, chunk: self.chunks, record });
            }
        }
        let added = self.waiting.len() - before;
        self.chunks += 1;
        self.waiting.sort(); // Two sorted runs, or nearly so.
        let passed = self.read.greatest.saturating_sub(self.late);
        let ready = self.waiting.partition_point(|turn| turn.place <= passed);
        self.ready.extend(self.waiting.drain(..ready));
        added
    }

    /// The source has ended: nothing can come before what waits.
    pub fn end(&mut self) {
        self.ready.extend(self.waiting.drain(..));
    }

    /// Whose turn it is, if that is known already.
    pub fn peek(&self) -> Option<&Turn> {
        self.ready.front()
    }

    /// Takes the next turn.
    pub fn take(&mut self) -> Option<Turn> {
        self.ready.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use tidegate_facts::Digest;

    use super::*;

    /// Times that mostly ascend; some records are late, some later than declared, and some have no time.
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

    /// The places by their definition, in the order of turns.
    fn oracle(times: &[i64], late: i64) -> Vec<(i64, u64)> {
        let mut turns: Vec<(i64, u64)> = (0..times.len())
            .map(|at| {
                let greatest = times[..at].iter().copied().max().unwrap_or(i64::MIN);
                (times[at].max(greatest.saturating_sub(late)), at as u64)
            })
            .collect();
        turns.sort();
        turns
    }

    fn run(times: &[i64], late: i64, batch: usize, resume: Resume) -> Vec<(i64, u64)> {
        let mut reorder = Reorder::new(late, resume);
        let mut turns = Vec::new();
        let first = reorder.read.next as usize;
        for (number, chunk) in times[first..].chunks(batch).enumerate() {
            let from = (first + number * batch) as u64;
            let positions: Vec<u64> = (from..from + chunk.len() as u64).collect();
            reorder.hand_over(&positions, chunk);
            turns.extend(std::iter::from_fn(|| reorder.take()));
        }
        reorder.end();
        turns.extend(std::iter::from_fn(|| reorder.take()));
        turns.into_iter().map(|turn| (turn.place, turn.position)).collect()
    }

    #[test]
    fn turns_are_those_of_the_definition_in_batches_of_any_size() {
        for seed in 0..30 {
            let times = times(seed, 700);
            for late in [0, 1, 15, 30, 1_000] {
                let expected = oracle(&times, late);
                for batch in [1, 37, 1_000] {
                    let turns = run(&times, late, batch, Resume::default());
                    assert!(turns == expected, "seed {seed}, late {late}, batches of {batch}");
                }
            }
        }
    }

    #[test]
    fn a_source_that_is_stopped_after_any_turn_goes_on_with_the_next() {
        for seed in 0..10 {
            let times = times(seed, 300);
            for late in [0, 15, 1_000] {
                let whole = oracle(&times, late);
                for stop in (0..=whole.len()).step_by(7) {
                    let mut resume = Resume::default();
                    whole[..stop].iter().for_each(|(place, position)| resume.learn(*position, *place));
                    let rest = run(&times, late, 37, resume);
                    assert!(rest == whole[stop..], "seed {seed}, late {late}, stopped after {stop}");
                }
            }
        }
    }

    #[test]
    fn a_late_record_takes_its_place_and_one_too_late_is_not_waited_for() {
        let times = [10, 20, 14, 9, i64::MIN, 26];
        // 14 is 6 late; 9 would be 11 late, and takes its place at 20 - 6, as does the record without a time.
        let turns = run(&times, 6, 1, Resume::default());
        assert_eq!(turns, [(10, 0), (14, 2), (14, 3), (14, 4), (20, 1), (26, 5)]);
    }

    #[test]
    #[should_panic(expected = "record 1 has two receipts")]
    fn a_second_receipt_is_noticed() {
        let mut resume = Resume::default();
        [0, 1, 1].into_iter().for_each(|position| resume.learn(position, 0));
    }
}
