//! External mismatch in drift detection: how far a key's times lie from those of an outside
//! authority, a beacon.

use super::fixed_point::ratio;
use super::{Measurement, Observation, Statistic};

/// The mismatch statistic of drift detection. A fact's value is its signed distance from the
/// beacon.
pub struct Mismatch {
    /// The greatest distance at which times agree.
    pub tolerance: i64,
}

/// The distances from the beacon in one pane, for the mismatch statistic: their number, how many
/// are beyond the tolerance, and the greatest.
#[derive(Default)]
pub struct Distances {
    count: i128,
    beyond: i128,
    greatest: i64,
}

impl Statistic for Mismatch {
    type Pane = Distances;
    type Reference = ();

    fn add(&self, pane: &mut Distances, fact: &Observation) {
        let Some(distance) = fact.value.map(|value| value.saturating_abs()) else { return };
        pane.count += 1;
        pane.beyond += i128::from(distance > self.tolerance);
        pane.greatest = pane.greatest.max(distance);
    }

    fn prepare(&self, _: &mut Distances) {}

    fn reference(&self, _: &[&Distances]) {}

    /// The greatest distance; its base is the share of facts beyond the tolerance.
    fn measure(&self, panes: &[&Distances], (): &()) -> Option<Measurement> {
        let count: i128 = panes.iter().map(|pane| pane.count).sum();
        let beyond: i128 = panes.iter().map(|pane| pane.beyond).sum();
        let greatest = panes.iter().map(|pane| pane.greatest).max()?;
        (count > 0).then(|| Measurement { value: greatest, base: ratio(beyond, count) })
    }
}
