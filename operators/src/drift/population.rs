//! Stability of a population: how far the values of a feature or a score have moved from a reference.
//!
//! The population stability index compares two histograms, `sum((a - b) * ln(a / b))` over their bins, with half a value added to
//! each bin so that an empty one is no infinity; values that are missing have a bin of their own. The distance of Kolmogorov and
//! Smirnov is the greatest difference of the two shares of values up to some point, over all points; missing values have no part in
//! it. The reference is a declared histogram, or the key's first period: then its tenths are the bins of the index, and the
//! distance is exact.

use serde::{Deserialize, Serialize};

use super::fixed::{log2, ratio};
use super::{Fact, Measured, Statistic};

/// Counts of values up to each edge and above the one before it; the last bin has no end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Histogram {
    /// In millionths, ascending.
    pub edges: Vec<i64>,
    /// One more than there are edges.
    pub counts: Vec<u64>,
}

/// Population stability index.
pub struct Psi {
    /// What periods are held against, if that is not learned.
    pub declared: Option<Histogram>,
}

/// Distance of Kolmogorov and Smirnov.
pub struct KolmogorovSmirnov {
    /// What periods are held against, if that is not learned.
    pub declared: Option<Histogram>,
}

/// The values of a pane.
#[derive(Default)]
pub struct Values {
    values: Vec<i64>,
    missing: u64,
}

/// The histogram of a period to be compared with, and how many of its values are missing.
#[derive(Serialize, Deserialize)]
pub struct Bins {
    histogram: Histogram,
    missing: u64,
}

/// How many values of a period were at most `.0`, for each value there was; `.1` ascending.
#[derive(Serialize, Deserialize)]
pub struct Steps {
    steps: Vec<(i64, u64)>,
    total: u64,
    /// Whether there may be values above the last step, and between steps, that are not told apart.
    coarse: bool,
}

/// How many bins a learned reference has.
const BINS: usize = 10;

impl Values {
    fn hear(&mut self, fact: &Fact) {
        match fact.value {
            Some(value) => self.values.push(value),
            None => self.missing += 1,
        }
    }

    /// The values of settled panes, in order.
    fn sorted(panes: &[&Values]) -> Vec<i64> {
        let mut values: Vec<i64> = panes.iter().flat_map(|pane| pane.values.iter().copied()).collect();
        values.sort(); // Runs that are sorted already: a merge.
        values
    }

    fn missing(panes: &[&Values]) -> u64 {
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

/// The values that part sorted ones into tenths, each once.
fn tenths(values: &[i64]) -> Vec<i64> {
    let mut edges: Vec<i64> =
        (1..BINS).filter_map(|tenth| values.get((values.len() * tenth / BINS).max(1) - 1).copied()).collect();
    edges.dedup();
    edges
}

impl Statistic for Psi {
    type Pane = Values;
    type Reference = Bins;

    fn hear(&self, pane: &mut Values, fact: &Fact) {
        pane.hear(fact);
    }

    fn settle(&self, pane: &mut Values) {
        pane.values.sort_unstable();
    }

    fn learn(&self, panes: &[&Values]) -> Bins {
        if let Some(histogram) = &self.declared {
            return Bins { histogram: histogram.clone(), missing: 0 };
        }
        let values = Values::sorted(panes);
        let edges = tenths(&values);
        Bins { histogram: Histogram::of(&values, edges), missing: Values::missing(panes) }
    }

    /// Beside the index stands the share of values that are missing.
    fn measure(&self, panes: &[&Values], reference: &Bins) -> Option<Measured> {
        let values = Values::sorted(panes);
        let missing = Values::missing(panes);
        let is = Histogram::of(&values, reference.histogram.edges.clone());
        let bins = is.counts.len() as u64 + 1;
        let (is, was) = (is.counts.iter().chain([&missing]), &reference.histogram.counts);
        let was = was.iter().chain([&reference.missing]);
        // Twice the counts, and one more: half a value added to each.
        let is_all = 2 * (values.len() as u64 + missing) + bins;
        let was_all = 2 * was.clone().sum::<u64>() + bins;
        let sum: i128 = is
            .zip(was)
            .map(|(is, was)| {
                let (is, was) = (2 * is + 1, 2 * was + 1);
                let apart = i128::from(is) * i128::from(was_all) - i128::from(was) * i128::from(is_all);
                apart * i128::from(log2(is) - log2(is_all) - log2(was) + log2(was_all))
            })
            .sum();
        // From millionths of binary logarithms to millionths of natural ones.
        let value = sum / (i128::from(is_all) * i128::from(was_all)) * 693_147 / 1_000_000;
        let rows = values.len() as u64 + missing;
        let base = if rows == 0 { 0 } else { ratio(missing.into(), rows.into()) };
        Some(Measured { value: value as i64, base })
    }
}

impl Statistic for KolmogorovSmirnov {
    type Pane = Values;
    type Reference = Steps;

    fn hear(&self, pane: &mut Values, fact: &Fact) {
        pane.hear(fact);
    }

    fn settle(&self, pane: &mut Values) {
        pane.values.sort_unstable();
    }

    fn learn(&self, panes: &[&Values]) -> Steps {
        if let Some(Histogram { edges, counts }) = &self.declared {
            let mut upto = 0;
            let steps = edges.iter().zip(counts).map(|(edge, count)| {
                upto += count;
                (*edge, upto)
            });
            return Steps { steps: steps.collect(), total: counts.iter().sum(), coarse: true };
        }
        let values = Values::sorted(panes);
        let mut steps: Vec<(i64, u64)> = Vec::new();
        for (before, value) in values.iter().enumerate() {
            match steps.last_mut() {
                Some((last, upto)) if last == value => *upto += 1,
                _ => steps.push((*value, before as u64 + 1)),
            }
        }
        Steps { steps, total: values.len() as u64, coarse: false }
    }

    /// Beside the distance stands the one that two samples of these sizes exceed by chance one time in twenty.
    fn measure(&self, panes: &[&Values], reference: &Steps) -> Option<Measured> {
        let values = Values::sorted(panes);
        let (count, total) = (values.len() as u128, u128::from(reference.total));
        if count == 0 || total == 0 {
            return None;
        }
        // Both shares only change at a value of one side or the other.
        let mut greatest = 0_u128;
        let (mut is, mut was) = (0, 0);
        while is < values.len() || was < reference.steps.len() {
            let at = match (values.get(is), reference.steps.get(was)) {
                (Some(value), Some((step, _))) if !reference.coarse => *value.min(step),
                (_, Some((step, _))) => *step,
                (Some(_), None) if reference.coarse => break,
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
        Some(Measured { value, base })
    }
}
