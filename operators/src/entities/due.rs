//! What is due at a tick, in the order of ticks.
//!
//! Whoever puts something in asks again when it comes up, and puts it back if it was put off meanwhile. So putting off
//! costs nothing when it happens, and there is one entry for each thing, however often it is put off.
//!
//! Entries wait in coarse slices of time, unsorted; only those of the slice that time has reached are in a heap.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use tidegate_facts::Tick;

/// The width of a slice: about 18 minutes of ticks.
const SLICE_BITS: u32 = 42;

/// Numbers of things, each due at a tick.
#[derive(Debug, Default)]
pub(super) struct Due {
    /// The entries of slices that time has reached.
    near: BinaryHeap<Reverse<(Tick, u32)>>,
    /// The entries of later slices.
    far: BTreeMap<u64, Vec<(Tick, u32)>>,
    /// The slice that time has reached.
    reached: u64,
}

impl Due {
    /// The thing `number` is due at `tick`.
    pub fn put(&mut self, tick: Tick, number: u32) {
        let slice = tick.0 >> SLICE_BITS;
        if slice <= self.reached {
            self.near.push(Reverse((tick, number)));
        } else {
            self.far.entry(slice).or_default().push((tick, number));
        }
    }

    /// Takes out what is due first, if it is due before `upper`.
    pub fn take_before(&mut self, upper: Tick) -> Option<(Tick, u32)> {
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
    use crate::lookup::tests::Chance;

    #[test]
    fn what_is_due_comes_in_order_and_not_before_its_tick() {
        for seed in 0..50 {
            let mut chance = Chance(seed);
            let (mut due, mut all) = (Due::default(), BTreeMap::<(Tick, u32), ()>::new());
            let mut upper = 0;
            for number in 0..400 {
                let tick = Tick(upper + (chance.below(1 << 20) << chance.below(40)));
                due.put(tick, number);
                all.insert((tick, number), ());
                if chance.one_in(5) {
                    upper += chance.below(1 << 20) << chance.below(38);
                    while let Some(first) = due.take_before(Tick(upper)) {
                        assert_eq!(all.pop_first().map(|(first, ())| first), Some(first), "seed {seed}");
                    }
                    assert!(
                        all.first_key_value().is_none_or(|((tick, _), ())| tick.0 >= upper),
                        "seed {seed}"
                    );
                }
            }
        }
    }
}
