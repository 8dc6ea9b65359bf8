//! Histograms with fixed buckets of plain atomics: recording allocates nothing and takes no lock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The upper ends of buckets for durations, in microseconds: from a fast sync to a call that timed
/// out.
const MICROS: [u64; BUCKETS] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 30_000_000,
];

/// The upper ends of buckets for counts.
const COUNTS: [u64; BUCKETS] =
    [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1_024, 4_096, 16_384, 65_536, 262_144, 1_048_576];

const BUCKETS: usize = 16;

/// A histogram of durations or counts, with fixed buckets.
#[derive(Debug)]
pub struct Histogram {
    ends: &'static [u64; BUCKETS],
    /// One more than there are ends, for values beyond the last.
    counts: [AtomicU64; BUCKETS + 1],
    sum: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram::of_micros()
    }
}

/// The counts of a [`Histogram`] at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistogramSnapshot {
    /// For each bucket its upper end, included, and how many values were not above it.
    pub buckets: Vec<(u64, u64)>,
    /// How many values were recorded.
    pub count: u64,
    /// Their sum.
    pub sum: u64,
}

impl Histogram {
    /// A histogram of durations, in microseconds.
    pub fn of_micros() -> Histogram {
        Histogram::new(&MICROS)
    }

    /// A histogram of counts.
    pub fn of_counts() -> Histogram {
        Histogram::new(&COUNTS)
    }

    fn new(ends: &'static [u64; BUCKETS]) -> Histogram {
        Histogram { ends, counts: std::array::from_fn(|_| AtomicU64::new(0)), sum: AtomicU64::new(0) }
    }

    /// Records one value.
    pub fn record(&self, value: u64) {
        let bucket = self.ends.partition_point(|end| *end < value);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    /// Records one duration, in microseconds.
    pub fn record_duration(&self, duration: Duration) {
        self.record(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX));
    }

    /// The counts now. A value that is recorded meanwhile is in them or not; buckets and count
    /// agree.
    pub fn snapshot(&self) -> HistogramSnapshot {
        let mut count = 0;
        let sum = self.sum.load(Ordering::Relaxed);
        let mut buckets = Vec::with_capacity(BUCKETS);
        for (end, own) in self.ends.iter().zip(&self.counts) {
            count += own.load(Ordering::Relaxed);
            buckets.push((*end, count));
        }
        count += self.counts[BUCKETS].load(Ordering::Relaxed);
        HistogramSnapshot { buckets, count, sum }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_at_the_end_of_a_bucket_is_in_it_and_none_is_lost() {
        let histogram = Histogram::of_micros();
        for micros in [0, 100, 101, 30_000_000, 30_000_001] {
            histogram.record(micros);
        }
        let snapshot = histogram.snapshot();
        let buckets = snapshot.buckets;
        assert_eq!((buckets[0], buckets[1], buckets[15]), ((100, 2), (250, 3), (30_000_000, 4)));
        assert_eq!((snapshot.count, snapshot.sum), (5, 60_000_202));
    }
}
