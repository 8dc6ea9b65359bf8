//! The one place that stamps: each admitted record gets the next tick and the next offset.

use std::collections::BTreeMap;

use tidegate_facts::{Tick, Topic};

/// What was stamped last, in the whole log and in each partition.
#[derive(Clone, Debug, Default)]
pub struct Sequencer {
    last: Tick,
    ends: BTreeMap<(Topic, u16), u64>,
}

impl Sequencer {
    /// Goes on after the tick before `upper` and the given ends of partitions.
    pub fn after(upper: Tick, ends: BTreeMap<(Topic, u16), u64>) -> Sequencer {
        Sequencer { last: Tick(upper.0.saturating_sub(1)), ends }
    }

    /// The tick and offset of the next record; `None` when no tick is left (in the year 2112).
    ///
    /// The tick is the least one above the last that carries the partition and is not before `stamp`
    /// (microseconds).
    pub fn stamp(&mut self, topic: Topic, partition: u16, stamp: i64) -> Option<(Tick, u64)> {
        let tick = Tick::following(self.last, stamp, partition)?;
        self.last = tick;
        let end = self.ends.entry((topic, partition)).or_default();
        *end += 1;
        Some((tick, *end - 1))
    }

    /// Lets time pass to `stamp` (microseconds) without a record; whether it was not there yet.
    pub fn pass(&mut self, stamp: i64) -> bool {
        let Some(passed) = Tick::new(stamp, 0).filter(|tick| *tick > self.last.next()) else { return false };
        self.last = Tick(passed.0 - 1);
        true
    }

    /// Every tick so far is before this one.
    pub fn upper(&self) -> Tick {
        if self.last == Tick::ZERO && self.ends.is_empty() { Tick::ZERO } else { self.last.next() }
    }
}
