//! Compression of time to live: how often a member is refreshed while what it says is still valid.
//!
//! The mean time to live of the period's facts over the mean interval between two facts of one member. At 2 : 1 one refresh may
//! be lost without harm; below, none may; at 1 : 1 evidence goes as the next one comes. The intervals of one member add up to the time
//! between its first fact and its last, so only these are kept. A period must be longer than the interval at which members are
//! refreshed, else it has nothing to say.
//!
//! A single time to live beyond what can be represented would make any mean of them look long, so it makes the ratio less than any
//! bound instead.

use tidegate_facts::KeyHash;

use super::fixed::ratio;
use super::{BEYOND, Fact, Measured, Statistic};

/// The statistic; a fact's value is its time to live.
pub struct TtlCompression;

/// What is kept of a pane.
#[derive(Default)]
pub struct Refreshes {
    members: Vec<Member>,
    count: i128,
    ttl: i128,
    is_beyond: bool,
}

/// The facts of one member.
#[derive(Clone, Copy)]
struct Member {
    member: KeyHash,
    first: i64,
    last: i64,
    count: u64,
}

impl Member {
    /// Sorted, and those of the same member put together.
    fn together(members: &mut Vec<Member>) {
        members.sort_by_key(|m| m.member); // Runs that are sorted already: a merge.
        members.dedup_by(|next, kept| {
            let same = next.member == kept.member;
            if same {
                kept.first = kept.first.min(next.first);
                kept.last = kept.last.max(next.last);
                kept.count += next.count;
            }
            same
        });
    }
}

impl Statistic for TtlCompression {
    type Pane = Refreshes;
    type Reference = ();

    fn hear(&self, pane: &mut Refreshes, fact: &Fact) {
        let Some(ttl) = fact.value else { return };
        pane.members.push(Member { member: fact.member, first: fact.time, last: fact.time, count: 1 });
        pane.count += 1;
        pane.ttl += i128::from(ttl);
        pane.is_beyond |= ttl.saturating_abs() == BEYOND;
    }

    fn settle(&self, pane: &mut Refreshes) {
        Member::together(&mut pane.members);
    }

    fn learn(&self, _: &[&Refreshes]) {}

    /// The mean interval is what it is held against.
    fn measure(&self, panes: &[&Refreshes], (): &()) -> Option<Measured> {
        let mut members: Vec<Member> = panes.iter().flat_map(|pane| pane.members.iter().copied()).collect();
        Member::together(&mut members);
        let between: i128 = members.iter().map(|m| i128::from(m.last - m.first)).sum();
        let intervals: i128 = members.iter().map(|m| i128::from(m.count) - 1).sum();
        let (ttl, count) = panes.iter().fold((0, 0), |(ttl, count), p| (ttl + p.ttl, count + p.count));
        let is_beyond = panes.iter().any(|pane| pane.is_beyond);
        if between == 0 {
            // Nothing was refreshed in the period.
            return is_beyond.then_some(Measured { value: -BEYOND, base: 0 });
        }
        let base = (between / intervals) as i64;
        let value = if is_beyond { -BEYOND } else { ratio(ttl * intervals, count * between) };
        Some(Measured { value, base })
    }
}
