//! The next offset of each partition of each topic, and the check that groups continue it.

use std::collections::BTreeMap;

use tidegate_facts::Topic;

use super::entry::Entry;
use super::position::LogPosition;

/// The next offset of every partition; 0 for one without records.
#[derive(Debug, Default)]
pub(super) struct EndOffsets(BTreeMap<(Topic, u16), u64>);

/// The end offsets behind a group, of the partitions that it has rows of.
#[derive(Debug)]
pub(super) struct Advance(BTreeMap<(Topic, u16), u64>);

impl EndOffsets {
    /// The end offsets at a position.
    pub(super) fn at(position: &LogPosition) -> EndOffsets {
        let ends = position.ends.iter();
        EndOffsets(ends.map(|(topic, partition, end)| ((*topic, *partition), *end)).collect())
    }

    /// The end offsets as a [`LogPosition`] lists them.
    pub(super) fn list(&self) -> Vec<(Topic, u16, u64)> {
        self.0.iter().map(|((topic, partition), end)| (*topic, *partition, *end)).collect()
    }

    /// Takes over the ends that a group states, where those in front of it are unknown.
    pub(super) fn observe(&mut self, entries: &[Entry]) {
        for entry in entries {
            for extent in &entry.extents {
                let end = self.0.entry((entry.topic, extent.partition)).or_insert(extent.end);
                *end = extent.end.max(*end);
            }
        }
    }

    /// The offset of the next record of the partition.
    pub(super) fn get(&self, topic: Topic, partition: u16) -> u64 {
        self.0.get(&(topic, partition)).copied().unwrap_or(0)
    }

    /// The ends behind a group of these frames; or how its offsets leave a gap or overlap.
    pub(super) fn follow(&self, entries: &[Entry]) -> Result<Advance, String> {
        let mut covered: BTreeMap<(Topic, u16), (u64, u64, u64)> = BTreeMap::new();
        for entry in entries {
            for extent in &entry.extents {
                let (first, end, rows) =
                    covered.entry((entry.topic, extent.partition)).or_insert((extent.first, extent.end, 0));
                *first = extent.first.min(*first);
                *end = extent.end.max(*end);
                *rows += u64::from(extent.rows);
            }
        }
        let mut ends = BTreeMap::new();
        for ((topic, partition), (first, end, rows)) in covered {
            let expected = self.get(topic, partition);
            if first != expected || end - first != rows {
                return Err(format!(
                    "its {rows} offsets in partition {partition} of {topic} run from {first} to {end}, \
                     and {expected} is next"
                ));
            }
            ends.insert((topic, partition), end);
        }
        Ok(Advance(ends))
    }

    /// Moves behind the group.
    pub(super) fn advance(&mut self, advance: Advance) {
        self.0.extend(advance.0);
    }
}
