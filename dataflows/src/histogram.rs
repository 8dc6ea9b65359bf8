//! How often something took how long, in fixed buckets of plain atomics: nothing is allocated, nobody waits.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The upper ends of buckets for durations, in microseconds: from a fast sync to a call that was given up.
const MICROS: [u64; BUCKETS] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 30_000_000,
];

/// The upper ends of buckets for counts.
const COUNTS: [u64; BUCKETS] =
    [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1_024, 4_096, 16_384, 65_536, 262_144, 1_048_576];

const BUCKETS: usize = 16;

/// Counts by size.
#[derive(Debug)]
pub struct Histogram {
    ends: &'static [u64; BUCKETS],
    /// One more than there are ends, for what is beyond the last.
    counts: [AtomicU64; BUCKETS + 1],
    sum: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram::of_micros()
    }
}

/// A histogram as it stood when it was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// For each bucket its end, included, and how many were not above it.
    pub up_to: Vec<(u64, u64)>,
    /// How many there were.
    pub count: u64,
    /// What they add up to.
    pub sum: u64,
}

impl Histogram {
    /// Of durations, counted in microseconds.
    pub fn of_micros() -> Histogram {
        Histogram::new(&MICROS)
    }

    /// Of counts.
    pub fn of_counts() -> Histogram {
        Histogram::new(&COUNTS)
    }

    fn new(ends: &'static [u64; BUCKETS]) -> Histogram {
        Histogram { ends, counts: std::array::from_fn(|_| AtomicU64::new(0)), sum: AtomicU64::new(0) }
    }

    /// Counts one number.
    pub fn add(&self, number: u64) {
        let bucket = self.ends.partition_point(|end| *end < number);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(number, Ordering::Relaxed);
    }

    /// Counts one duration.
    pub fn time(&self, took: Duration) {
        self.add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }

    /// How it stands. What is added meanwhile is in or not; buckets and count agree.
    pub fn seen(&self) -> Seen {
        let mut count = 0;
        let sum = self.sum.load(Ordering::Relaxed);
        let mut up_to = Vec::with_capacity(BUCKETS);
        for (end, own) in self.ends.iter().zip(&self.counts) {
            count += own.load(Ordering::Relaxed);
            up_to.push((*end, count));
        }
        count += self.counts[BUCKETS].load(Ordering::Relaxed);
        Seen { up_to, count, sum }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_at_the_end_of_a_bucket_is_in_it_and_none_is_lost() {
        let histogram = Histogram::of_micros();
        for micros in [0, 100, 101, 30_000_000, 30_000_001] {
            histogram.add(micros);
        }
        let seen = histogram.seen();
        assert_eq!((seen.up_to[0], seen.up_to[1], seen.up_to[15]), ((100, 2), (250, 3), (30_000_000, 4)));
        assert_eq!((seen.count, seen.sum), (5, 60_000_202));
    }
}
