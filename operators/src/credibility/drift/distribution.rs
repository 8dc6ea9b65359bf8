//! Distribution drift: how far the values of a feature or a score have moved from a reference.
//!
//! The population stability index compares two histograms, `sum((a - b) * ln(a / b))` over their
//! bins. Half a value is added to each bin, so that an empty bin gives no infinity; missing values
//! have a bin of their own. The Kolmogorov-Smirnov distance is the greatest difference, over all
//! points, of the two shares of values up to that point; missing values do not count. The reference
//! is a declared histogram or the key's first period. In the latter case its deciles are the bins
//! of the index, and the distance is exact.

use serde::{Deserialize, Serialize};

use super::fixed_point::{log2, ratio};
use super::{Measurement, Observation, Statistic};

/// A histogram for distribution drift: the counts of values up to each edge and above the edge
/// before it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Histogram {
    /// The upper edges of all bins but the last, in millionths, ascending.
    pub edges: Vec<i64>,
    /// The counts of the bins, one more than edges. The last bin has no upper edge.
    pub counts: Vec<u64>,
}

/// The population stability index, a statistic of distribution drift.
pub struct Psi {
    /// The declared reference; without it the first period is the reference.
    pub declared: Option<Histogram>,
}

/// The Kolmogorov-Smirnov distance, a statistic of distribution drift.
pub struct KolmogorovSmirnov {
    /// The declared reference; without it the first period is the reference.
    pub declared: Option<Histogram>,
}

/// The values of one pane for distribution drift; sorted once prepared.
#[derive(Default)]
pub struct PopulationPane {
    values: Vec<i64>,
    missing: u64,
}

/// The distribution with which the population stability index compares: a histogram, and the number
/// of missing values.
#[derive(Serialize, Deserialize)]
pub struct BinReference {
    histogram: Histogram,
    missing: u64,
}

/// The distribution with which the Kolmogorov-Smirnov distance compares: the cumulative counts of a
/// period's values.
#[derive(Serialize, Deserialize)]
pub struct CumulativeReference {
    /// Each distinct value, ascending, and how many values are at most this one.
    steps: Vec<(i64, u64)>,
    total: u64,
    /// Whether values may lie above the last step, and between steps, undistinguished.
    is_coarse: bool,
}

/// The number of bins of a learned reference.
const BINS: usize = 10;

impl PopulationPane {
    fn add(&mut self, fact: &Observation) {
        match fact.value {
            Some(value) => self.values.push(value),
            None => self.missing += 1,
        }
    }

    /// The values of prepared panes, ascending.
    fn sorted(panes: &[&PopulationPane]) -> Vec<i64> {
        let mut values: Vec<i64> = panes.iter().flat_map(|pane| pane.values.iter().copied()).collect();
        values.sort(); // The panes are sorted runs, which a stable sort merges.
        values
    }

    fn missing(panes: &[&PopulationPane]) -> u64 {
        panes.iter().map(|pane| pane.missing).sum()
    }
}

impl Histogram {
    fn of(values: &[i64], edges: Vec<i64>) -> Histogram {
        let upto: Vec<u64> =
            edges.iter().map(|edge| values.partition_point(|value| value <= edge) as u64).collect();
        let ends = upto.iter().copied().chain([values.len() as u64]);
        let starts = [0].into_iter().chain(upto.iter().copied());
        Histogram { counts: ends.zip(starts).map(|(end, start)| end - start).collect(), edges }
    }
}

/// The deciles of sorted values, each once.
fn deciles(values: &[i64]) -> Vec<i64> {
    let mut edges: Vec<i64> = (1..BINS)
        .filter_map(|decile| values.get((values.len() * decile / BINS).max(1) - 1).copied())
        .collect();
    edges.dedup();
    edges
}

impl Statistic for Psi {
    type Pane = PopulationPane;
    type Reference = BinReference;

    fn add(&self, pane: &mut PopulationPane, fact: &Observation) {
        pane.add(fact);
    }

    fn prepare(&self, pane: &mut PopulationPane) {
        pane.values.sort_unstable();
    }

    fn reference(&self, panes: &[&PopulationPane]) -> BinReference {
        if let Some(histogram) = &self.declared {
            return BinReference { histogram: histogram.clone(), missing: 0 };
        }
        let values = PopulationPane::sorted(panes);
        let edges = deciles(&values);
        BinReference { histogram: Histogram::of(&values, edges), missing: PopulationPane::missing(panes) }
    }

    /// The index; its base is the share of missing values.
    fn measure(&self, panes: &[&PopulationPane], reference: &BinReference) -> Option<Measurement> {
        let values = PopulationPane::sorted(panes);
        let missing = PopulationPane::missing(panes);
        let is = Histogram::of(&values, reference.histogram.edges.clone());
        let bins = is.counts.len() as u64 + 1;
        let (is, was) = (is.counts.iter().chain([&missing]), &reference.histogram.counts);
        let was = was.iter().chain([&reference.missing]);
        // Half a value added to each bin, and everything doubled to stay whole.
        let is_all = 2 * (values.len() as u64 + missing) + bins;
        let was_all = 2 * was.clone().sum::<u64>() + bins;
        let sum: i128 = is
            .zip(was)
            .map(|(is, was)| {
                let (is, was) = (2 * is + 1, 2 * was + 1);
                let difference = i128::from(is) * i128::from(was_all) - i128::from(was) * i128::from(is_all);
                difference * i128::from(log2(is) - log2(is_all) - log2(was) + log2(was_all))
            })
            .sum();
        // Binary logarithms to natural ones, both in millionths.
        let value = sum / (i128::from(is_all) * i128::from(was_all)) * 693_147 / 1_000_000;
        let rows = values.len() as u64 + missing;
        let base = if rows == 0 { 0 } else { ratio(missing.into(), rows.into()) };
        Some(Measurement { value: value as i64, base })
    }
}

impl Statistic for KolmogorovSmirnov {
    type Pane = PopulationPane;
    type Reference = CumulativeReference;

    fn add(&self, pane: &mut PopulationPane, fact: &Observation) {
        pane.add(fact);
    }

    fn prepare(&self, pane: &mut PopulationPane) {
        pane.values.sort_unstable();
    }

    fn reference(&self, panes: &[&PopulationPane]) -> CumulativeReference {
        if let Some(Histogram { edges, counts }) = &self.declared {
            let mut upto = 0;
            let steps = edges.iter().zip(counts).map(|(edge, count)| {
                upto += count;
                (*edge, upto)
            });
            return CumulativeReference {
                steps: steps.collect(),
                total: counts.iter().sum(),
                is_coarse: true,
            };
        }
        let values = PopulationPane::sorted(panes);
        let mut steps: Vec<(i64, u64)> = Vec::new();
        for (before, value) in values.iter().enumerate() {
            match steps.last_mut() {
                Some((last, upto)) if last == value => *upto += 1,
                _ => steps.push((*value, before as u64 + 1)),
            }
        }
        CumulativeReference { steps, total: values.len() as u64, is_coarse: false }
    }

    /// The distance; its base is the distance that two samples of these sizes exceed by chance one
    /// time in twenty.
    fn measure(&self, panes: &[&PopulationPane], reference: &CumulativeReference) -> Option<Measurement> {
        let values = PopulationPane::sorted(panes);
        let (count, total) = (values.len() as u128, u128::from(reference.total));
        if count == 0 || total == 0 {
            return None;
        }
        // The shares change only at values of one side or the other.
        let mut greatest = 0_u128;
        let (mut is, mut was) = (0, 0);
        while is < values.len() || was < reference.steps.len() {
            let at = match (values.get(is), reference.steps.get(was)) {
                (Some(value), Some((step, _))) if !reference.is_coarse => *value.min(step),
                (_, Some((step, _))) => *step,
                (Some(_), None) if reference.is_coarse => break,
                (Some(value), None) => *value,
                (None, None) => unreachable!("one side has more"),
            };
            is += values[is..].iter().take_while(|value| **value <= at).count();
            was += usize::from(reference.steps.get(was).is_some_and(|(step, _)| *step <= at));
            let upto = was.checked_sub(1).map_or(0, |last| u128::from(reference.steps[last].1));
            greatest = greatest.max((is as u128 * total).abs_diff(upto * count));
        }
        let value = (greatest * 1_000_000 / (count * total)) as i64;
        // 1.358 * sqrt((n + m) / (n * m)), in millionths.
        let base = (1_844_164_000_000 * (count + total) / (count * total)).isqrt() as i64;
        Some(Measurement { value, base })
    }
}
