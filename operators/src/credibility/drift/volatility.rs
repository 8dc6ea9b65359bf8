//! Confidence volatility in drift detection: the standard deviation of a value over the facts of a
//! key.
//!
//! A sum of squares must not overflow. So a value beyond a million makes the deviation greater than
//! any bound, and counts as a million in the mean.

use super::fixed_point::ratio;
use super::{BEYOND, Measurement, Observation, Statistic};

/// The volatility statistic of drift detection.
pub struct Volatility;

/// The moments of one pane's values for volatility: count, sum and sum of squares.
#[derive(Default)]
pub struct Moments {
    count: i128,
    sum: i128,
    squares: i128,
    /// Whether a value was beyond [`VALUE_MAX`].
    is_beyond: bool,
}

/// The greatest value whose square is added, in millionths.
const VALUE_MAX: i64 = 1_000_000_000_000;

impl Statistic for Volatility {
    type Pane = Moments;
    type Reference = ();

    fn add(&self, pane: &mut Moments, fact: &Observation) {
        let Some(value) = fact.value else { return };
        pane.is_beyond |= !(-VALUE_MAX..=VALUE_MAX).contains(&value);
        let value = i128::from(value.clamp(-VALUE_MAX, VALUE_MAX));
        pane.count += 1;
        pane.sum += value;
        pane.squares += value * value;
    }

    fn prepare(&self, _: &mut Moments) {}

    fn reference(&self, _: &[&Moments]) {}

    /// The standard deviation; its base is the mean.
    fn measure(&self, panes: &[&Moments], (): &()) -> Option<Measurement> {
        let count: i128 = panes.iter().map(|pane| pane.count).sum();
        let sum: i128 = panes.iter().map(|pane| pane.sum).sum();
        let squares: i128 = panes.iter().map(|pane| pane.squares).sum();
        if count == 0 {
            return None;
        }
        let spread = (count * squares - sum * sum).unsigned_abs().isqrt();
        let is_beyond = panes.iter().any(|pane| pane.is_beyond);
        let value = if is_beyond { BEYOND } else { (spread as i128 / count) as i64 };
        Some(Measurement { value, base: ratio(sum, count * 1_000_000) })
    }
}
