//! Joint failure: whether the members of a key fail together more often than their own failures explain.
//!
//! Each pane is one trial for each member that has a fact in it, and the trial failed if any of those facts did. Of all pairs of
//! trials in one pane, the share in which both failed is held against the square of the base rate, the share of trials that
//! failed: if members fail each for itself, the two agree. Their difference over the variance of one trial,
//!
//! `(both / pairs - rate^2) / (rate * (1 - rate))`,
//!
//! is the correlation of two members of the key (the intraclass correlation of a yes or no). It is 1 when whoever reports fails
//! whenever one does, 0 when failures are independent, and a little below when they avoid each other.
//!
//! The reference's own estimate, one minus the coefficient of variation of some values, is a measure of dispersion: it calls sources
//! correlated because they agree. Here only failures count, since agreement on what is true is no sign of a common cause.

use tidegate_facts::KeyHash;

use super::fixed::{ONE, ratio};
use super::{Fact, Measured, Statistic};

/// The statistic; a fact failed if its value is not zero.
pub struct Correlation;

impl Statistic for Correlation {
    /// Members, and whether they failed; each once when settled.
    type Pane = Vec<(KeyHash, bool)>;
    type Reference = ();

    fn hear(&self, pane: &mut Self::Pane, fact: &Fact) {
        pane.push((fact.member, fact.value.is_some_and(|value| value != 0)));
    }

    fn settle(&self, pane: &mut Self::Pane) {
        pane.sort_unstable();
        // Of one member the last is kept, which is the failure if there is one.
        pane.reverse();
        pane.dedup_by_key(|(member, _)| *member);
    }

    fn learn(&self, _: &[&Self::Pane]) {}

    fn measure(&self, panes: &[&Self::Pane], (): &()) -> Option<Measured> {
        let (mut trials, mut failures, mut pairs, mut both) = (0_i128, 0_i128, 0_i128, 0_i128);
        for pane in panes {
            let reported = pane.len() as i128;
            let failed = pane.iter().filter(|(_, failed)| *failed).count() as i128;
            trials += reported;
            failures += failed;
            pairs += reported * (reported - 1);
            both += failed * (failed - 1);
        }
        if pairs == 0 {
            return None; // No two members ever reported together.
        }
        let base = ratio(failures, trials);
        let value = match failures {
            0 => 0,
            // Whoever reported failed, always: that nothing else was seen is no sign of independence.
            all if all == trials => ONE,
            _ => {
                let above = both * trials * trials - pairs * failures * failures;
                let below = pairs * failures * (trials - failures);
                // Scaled down together where a product with a million would not fit.
                let shift = (above.unsigned_abs().max(below.unsigned_abs())).ilog2().saturating_sub(104);
                ratio(above >> shift, below >> shift)
            }
        };
        Some(Measured { value, base })
    }
}
