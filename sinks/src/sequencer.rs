//! The sequencer: the only place that stamps facts, each with the next tick and the next offset.

use std::collections::BTreeMap;

use tidegate_facts::{Tick, Topic};

use crate::log::LogPosition;

/// The sequencer, which stamps facts: it holds the last tick that was stamped, and the next offset
/// of each partition.
#[derive(Clone, Debug, Default)]
pub struct Sequencer {
    last: Tick,
    ends: BTreeMap<(Topic, u16), u64>,
}

impl Sequencer {
    /// A sequencer that goes on behind a position of the log.
    pub fn after(position: &LogPosition) -> Sequencer {
        let ends = position.ends.iter().filter(|(topic, _, _)| *topic != Topic::Audit);
        Sequencer {
            last: Tick((position.upper.0 - 1).max(0)),
            ends: ends.map(|(topic, partition, end)| ((*topic, *partition), *end)).collect(),
        }
    }

    /// The tick and the offset of the next fact; `None` when no tick is left (in the year 3111).
    ///
    /// The tick is the least one above the last that carries the partition and is not before
    /// `stamp` (microseconds).
    pub fn stamp(&mut self, topic: Topic, partition: u16, stamp: i64) -> Option<(Tick, u64)> {
        let tick = Tick::following(self.last, stamp, partition)?;
        self.last = tick;
        let end = self.ends.entry((topic, partition)).or_default();
        *end += 1;
        Some((tick, *end - 1))
    }

    /// Moves the time to `stamp` (microseconds) without a fact. Returns whether it was earlier
    /// before.
    pub fn pass(&mut self, stamp: i64) -> bool {
        let Some(passed) = Tick::new(stamp, 0).filter(|tick| *tick > self.last.next()) else { return false };
        self.last = Tick(passed.0 - 1);
        true
    }

    /// The first tick behind all that the sequencer stamped.
    pub fn upper(&self) -> Tick {
        if self.last == Tick::ZERO && self.ends.is_empty() { Tick::ZERO } else { self.last.next() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_and_offsets_go_on_behind_the_position() {
        let at = |micros| Tick::new(micros, 0).unwrap();
        let ends = vec![(Topic::Traffic, 0, 7), (Topic::Audit, 0, 3)];
        let position = LogPosition { upper: at(5).next(), ends, ..LogPosition::default() };
        let mut sequencer = Sequencer::after(&position);
        assert_eq!(sequencer.upper(), at(5).next());
        assert_eq!(sequencer.stamp(Topic::Traffic, 0, 2), Some((at(6), 7)), "a stamp never goes back");
        assert_eq!(sequencer.stamp(Topic::Control, 0, 9), Some((at(9), 0)));
        assert!(!sequencer.pass(9) && sequencer.pass(10));
        assert_eq!(sequencer.upper(), at(10));
    }

    #[test]
    fn nothing_was_stamped_in_a_new_log() {
        let mut sequencer = Sequencer::after(&LogPosition::default());
        assert_eq!(sequencer.upper(), Tick::ZERO);
        assert_eq!(sequencer.stamp(Topic::Traffic, 0, 1), Some((Tick::new(1, 0).unwrap(), 0)));
    }
}
