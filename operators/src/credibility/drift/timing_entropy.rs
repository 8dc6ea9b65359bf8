//! Timing entropy in drift detection: how unpredictable the intervals between a key's facts are,
//! and their lags.
//!
//! Intervals (by event time, within the period) and lags fall into bins that grow by half an
//! octave, and the entropies of both histograms are added. A source that reports every fifteen
//! minutes fills few bins; a source whose clock, link or queue is in trouble fills many. The
//! statistic is the number of bits above the key's first period.

use super::fixed_point::entropy;
use super::{Measurement, Observation, Statistic};

/// The timing-entropy statistic of drift detection. A fact's value is its lag.
pub struct TimingEntropy;

/// The bin of an interval or lag for timing entropy, in microseconds: 0 for zero or less, then two
/// bins per octave.
pub fn bin_of(micros: i64) -> usize {
    match u64::try_from(micros) {
        Err(_) | Ok(0) => 0,
        Ok(micros) => {
            let octave = micros.ilog2();
            let half = if octave == 0 { 0 } else { (micros >> (octave - 1)) & 1 };
            1 + 2 * octave as usize + half as usize
        }
    }
}

const BINS: usize = 128;

impl TimingEntropy {
    /// The entropy of a period, in millionths of a bit.
    fn entropy(panes: &[&Vec<(i64, Option<i64>)>]) -> i64 {
        let (mut intervals, mut lags) = ([0; BINS], [0; BINS]);
        let mut before = None;
        for (time, lag) in panes.iter().flat_map(|pane| pane.iter()) {
            if let Some(before) = before.replace(*time) {
                intervals[bin_of(time - before)] += 1;
            }
            if let Some(lag) = lag {
                lags[bin_of(*lag)] += 1;
            }
        }
        entropy(intervals.into_iter()) + entropy(lags.into_iter())
    }
}

impl Statistic for TimingEntropy {
    /// Event times and lags; sorted once prepared.
    type Pane = Vec<(i64, Option<i64>)>;
    /// The entropy of the first period.
    type Reference = i64;

    fn add(&self, pane: &mut Self::Pane, fact: &Observation) {
        pane.push((fact.time, fact.value));
    }

    fn prepare(&self, pane: &mut Self::Pane) {
        pane.sort_unstable();
    }

    fn reference(&self, panes: &[&Self::Pane]) -> i64 {
        TimingEntropy::entropy(panes)
    }

    fn measure(&self, panes: &[&Self::Pane], reference: &i64) -> Option<Measurement> {
        Some(Measurement { value: TimingEntropy::entropy(panes) - reference, base: *reference })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_grow_by_half_an_octave() {
        let firsts: Vec<usize> = [-1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 12].map(bin_of).to_vec();
        assert_eq!(firsts, [0, 0, 1, 3, 4, 5, 5, 6, 6, 7, 8]);
        assert!(bin_of(i64::MAX) < BINS);
    }
}
