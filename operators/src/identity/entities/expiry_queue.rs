//! Expiry queue of the entity graph: numbers of links and identifiers, in the order of the ticks at
//! which they are due.
//!
//! The caller decides, when a number comes up, whether its expiry was deferred meanwhile, and then
//! inserts it again. So deferring costs nothing when it happens, and each number has one entry,
//! however often it is deferred.
//!
//! Entries are stored unsorted in coarse slices of time. Only those of the slice that time has
//! reached are in a heap.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use tidegate_facts::Tick;
use tidegate_facts::tick::PARTITION_BITS;

/// The width of a slice: about 18 minutes of ticks.
const SLICE_BITS: u32 = PARTITION_BITS + 30;

/// An expiry queue: numbers of links or identifiers, each due at a tick.
#[derive(Debug, Default)]
pub(super) struct DueQueue {
    /// The entries of slices that time has reached.
    near: BinaryHeap<Reverse<(Tick, u32)>>,
    /// The entries of later slices.
    far: BTreeMap<i64, Vec<(Tick, u32)>>,
    /// The slice that time has reached.
    reached: i64,
}

impl DueQueue {
    /// Inserts `number`, due at `tick`.
    pub fn insert(&mut self, tick: Tick, number: u32) {
        let slice = tick.0 >> SLICE_BITS;
        if slice <= self.reached {
            self.near.push(Reverse((tick, number)));
        } else {
            self.far.entry(slice).or_default().push((tick, number));
        }
    }

    /// Removes the entry that is due first, if it is due before `upper`.
    pub fn pop_before(&mut self, upper: Tick) -> Option<(Tick, u32)> {
        loop {
            match self.near.peek() {
                Some(Reverse((tick, _))) if *tick < upper => return self.near.pop().map(|Reverse(due)| due),
                Some(_) => return None,
                None => {
                    let slice = self.far.first_entry().filter(|slice| slice.key() << SLICE_BITS < upper.0)?;
                    self.reached = *slice.key();
                    self.near.extend(slice.remove().into_iter().map(Reverse));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::testing::Chance;

    #[test]
    fn entries_come_up_in_order_and_not_before_their_ticks() {
        for seed in 0..50 {
            let mut chance = Chance(seed);
            let mut draw = |end: u64, shift: u64| (chance.below(end) << chance.below(shift)).cast_signed();
            let (mut queue, mut all) = (DueQueue::default(), BTreeMap::<(Tick, u32), ()>::new());
            let mut upper = 0;
            for number in 0..400 {
                let tick = Tick(upper + draw(1 << 20, 36));
                queue.insert(tick, number);
                all.insert((tick, number), ());
                if draw(5, 1) == 0 {
                    upper += draw(1 << 20, 34);
                    while let Some(first) = queue.pop_before(Tick(upper)) {
                        assert_eq!(all.pop_first().map(|(first, ())| first), Some(first), "seed {seed}");
                    }
                    let is_later = all.first_key_value().is_none_or(|((tick, _), ())| tick.0 >= upper);
                    assert!(is_later, "seed {seed}");
                }
            }
        }
    }
}
