//! Volatility: the standard deviation of a value, such as the confidence of evidence, over the facts of a key.
//!
//! No sum of squares may overflow, so a value greater than a million has no place in one: it makes the deviation greater than any
//! bound, and stands in the mean as a million.

use super::fixed::ratio;
use super::{BEYOND, Fact, Measured, Statistic};

/// The statistic.
pub struct Volatility;

/// Count, sum, and sum of squares.
#[derive(Default)]
pub struct Moments {
    count: i128,
    sum: i128,
    squares: i128,
    /// Whether a value was beyond [`VALUE_MAX`].
    is_beyond: bool,
}

/// The greatest value whose square is added up, in millionths.
const VALUE_MAX: i64 = 1_000_000_000_000;

impl Statistic for Volatility {
    type Pane = Moments;
    type Reference = ();

    fn hear(&self, pane: &mut Moments, fact: &Fact) {
        let Some(value) = fact.value else { return };
        pane.is_beyond |= !(-VALUE_MAX..=VALUE_MAX).contains(&value);
        let value = i128::from(value.clamp(-VALUE_MAX, VALUE_MAX));
        pane.count += 1;
        pane.sum += value;
        pane.squares += value * value;
    }

    fn settle(&self, _: &mut Moments) {}

    fn learn(&self, _: &[&Moments]) {}

    /// The mean is what the deviation is from.
    fn measure(&self, panes: &[&Moments], (): &()) -> Option<Measured> {
        let count: i128 = panes.iter().map(|pane| pane.count).sum();
        let sum: i128 = panes.iter().map(|pane| pane.sum).sum();
        let squares: i128 = panes.iter().map(|pane| pane.squares).sum();
        if count == 0 {
            return None;
        }
        let spread = (count * squares - sum * sum).unsigned_abs().isqrt();
        let is_beyond = panes.iter().any(|pane| pane.is_beyond);
        let value = if is_beyond { BEYOND } else { (spread as i128 / count) as i64 };
        Some(Measured { value, base: ratio(sum, count * 1_000_000) })
    }
}
