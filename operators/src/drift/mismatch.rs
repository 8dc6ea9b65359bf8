//! Mismatch with a beacon: how far a key's times lie from those of an outside authority.

use super::fixed::ratio;
use super::{Fact, Measured, Statistic};

/// The statistic; a fact's value is its distance from the beacon, before or after.
pub struct Mismatch {
    /// Up to which distance times agree.
    pub tolerance: i64,
}

/// What is kept of a pane.
#[derive(Default)]
pub struct Distances {
    count: i128,
    beyond: i128,
    greatest: i64,
}

impl Statistic for Mismatch {
    type Pane = Distances;
    type Reference = ();

    fn hear(&self, pane: &mut Distances, fact: &Fact) {
        let Some(distance) = fact.value.map(|value| value.saturating_abs()) else { return };
        pane.count += 1;
        pane.beyond += i128::from(distance > self.tolerance);
        pane.greatest = pane.greatest.max(distance);
    }

    fn settle(&self, _: &mut Distances) {}

    fn learn(&self, _: &[&Distances]) {}

    /// Beside the greatest distance stands the share of facts beyond the tolerance.
    fn measure(&self, panes: &[&Distances], (): &()) -> Option<Measured> {
        let count: i128 = panes.iter().map(|pane| pane.count).sum();
        let beyond: i128 = panes.iter().map(|pane| pane.beyond).sum();
        let greatest = panes.iter().map(|pane| pane.greatest).max()?;
        (count > 0).then(|| Measured { value: greatest, base: ratio(beyond, count) })
    }
}
