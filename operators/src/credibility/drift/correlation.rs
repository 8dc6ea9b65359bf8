//! Joint failure in drift detection: whether the members of a key fail together more often than
//! their own failure rate explains.
//!
//! In each pane every member with a fact is one trial, which failed if any of its facts did. The
//! share of all pairs of trials in one pane in which both failed is compared with the square of the
//! base rate, the share of trials that failed: if members fail independently, the two are equal.
//! Their difference over the variance of one trial,
//!
//! `(both / pairs - rate^2) / (rate * (1 - rate))`,
//!
//! is the intraclass correlation of a binary outcome. It is 1 if all members fail whenever one
//! does, 0 if failures are independent, and slightly below 0 if they avoid each other.
//!
//! The reference's own estimate, one minus the coefficient of variation of some values, measures
//! dispersion: it calls sources correlated because they agree. Here only failures count, since
//! agreement on what is true is no sign of a common cause.

use tidegate_facts::KeyHash;

use super::fixed_point::{ONE, ratio};
use super::{Measurement, Observation, Statistic};

/// The joint-failure statistic of drift detection: how correlated the failures of a key's members
/// are. A fact is a failure if its value is not zero.
pub struct JointFailure;

impl Statistic for JointFailure {
    /// Members, and whether they failed; once prepared, each member once.
    type Pane = Vec<(KeyHash, bool)>;
    type Reference = ();

    fn add(&self, pane: &mut Self::Pane, fact: &Observation) {
        pane.push((fact.member, fact.value.is_some_and(|value| value != 0)));
    }

    fn prepare(&self, pane: &mut Self::Pane) {
        pane.sort_unstable();
        // Keep the last entry of each member, which is a failure if it has one.
        pane.reverse();
        pane.dedup_by_key(|(member, _)| *member);
    }

    fn reference(&self, _: &[&Self::Pane]) {}

    fn measure(&self, panes: &[&Self::Pane], (): &()) -> Option<Measurement> {
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
            return None; // No two members reported in one pane.
        }
        let base = ratio(failures, trials);
        let value = match failures {
            0 => 0,
            // All trials failed. That no success was seen is no sign of independence.
            all if all == trials => ONE,
            _ => {
                let above = both * trials * trials - pairs * failures * failures;
                let below = pairs * failures * (trials - failures);
                // Scale both down where a product with a million would overflow.
                let shift = (above.unsigned_abs().max(below.unsigned_abs())).ilog2().saturating_sub(104);
                ratio(above >> shift, below >> shift)
            }
        };
        Some(Measurement { value, base })
    }
}
