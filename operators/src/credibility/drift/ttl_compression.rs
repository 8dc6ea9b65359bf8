//! TTL compression in drift detection: the mean time to live of facts over the interval at which
//! their member is refreshed.
//!
//! The statistic is the mean time to live of the period's facts over the mean interval between two
//! facts of one member. At 2 : 1 one refresh may be lost without harm; below, none may; at 1 : 1
//! evidence expires as the next arrives. The intervals of one member add up to the time between its
//! first fact and its last, so only these are stored. A period must be longer than the refresh
//! interval; otherwise it has no value.
//!
//! A single time to live beyond the measurable range would make any mean look long, so it makes the
//! ratio less than any bound instead.

use tidegate_facts::KeyHash;

use super::fixed_point::ratio;
use super::{BEYOND, Measurement, Observation, Statistic};

/// The TTL-compression statistic of drift detection. A fact's value is its time to live.
pub struct TtlCompression;

/// The facts of one pane for TTL compression: their sums, and the facts of each member.
#[derive(Default)]
pub struct Refreshes {
    members: Vec<MemberFacts>,
    count: i128,
    ttl: i128,
    is_beyond: bool,
}

/// The facts of one member: first and last event time, and their number.
#[derive(Clone, Copy)]
struct MemberFacts {
    member: KeyHash,
    first: i64,
    last: i64,
    count: u64,
}

impl MemberFacts {
    /// Sorts by member, and merges the entries of one member.
    fn merge(members: &mut Vec<MemberFacts>) {
        members.sort_by_key(|of| of.member); // The panes are sorted runs, which a stable sort merges.
        members.dedup_by(|next, merged| {
            let is_same = next.member == merged.member;
            if is_same {
                merged.first = merged.first.min(next.first);
                merged.last = merged.last.max(next.last);
                merged.count += next.count;
            }
            is_same
        });
    }
}

impl Statistic for TtlCompression {
    type Pane = Refreshes;
    type Reference = ();

    fn add(&self, pane: &mut Refreshes, fact: &Observation) {
        let Some(ttl) = fact.value else { return };
        pane.members.push(MemberFacts { member: fact.member, first: fact.time, last: fact.time, count: 1 });
        pane.count += 1;
        pane.ttl += i128::from(ttl);
        pane.is_beyond |= ttl.saturating_abs() == BEYOND;
    }

    fn prepare(&self, pane: &mut Refreshes) {
        MemberFacts::merge(&mut pane.members);
    }

    fn reference(&self, _: &[&Refreshes]) {}

    /// The ratio; its base is the mean refresh interval.
    fn measure(&self, panes: &[&Refreshes], (): &()) -> Option<Measurement> {
        let mut members: Vec<MemberFacts> =
            panes.iter().flat_map(|pane| pane.members.iter().copied()).collect();
        MemberFacts::merge(&mut members);
        let between: i128 = members.iter().map(|of| i128::from(of.last - of.first)).sum();
        let intervals: i128 = members.iter().map(|of| i128::from(of.count) - 1).sum();
        let (ttl, count) = panes.iter().fold((0, 0), |(ttl, count), p| (ttl + p.ttl, count + p.count));
        let is_beyond = panes.iter().any(|pane| pane.is_beyond);
        if between == 0 {
            // No member was refreshed in the period.
            return is_beyond.then_some(Measurement { value: -BEYOND, base: 0 });
        }
        let base = (between / intervals) as i64;
        let value = if is_beyond { -BEYOND } else { ratio(ttl * intervals, count * between) };
        Some(Measurement { value, base })
    }
}
