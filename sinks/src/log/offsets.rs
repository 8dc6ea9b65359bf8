//! How far each partition of each topic has come.

use std::collections::BTreeMap;

use tidegate_facts::Topic;

use super::LogMark;
use super::format::Entry;

/// The next offset of every partition; of one never seen it is 0.
#[derive(Debug, Default)]
pub(super) struct EndOffsets(BTreeMap<(Topic, u16), u64>);

/// The end offsets that a group leads to, in the partitions it has rows of.
#[derive(Debug)]
pub(super) struct Advance(BTreeMap<(Topic, u16), u64>);

impl EndOffsets {
    /// Where a mark says that they stand.
    pub(super) fn from_mark(mark: &LogMark) -> EndOffsets {
        EndOffsets(mark.ends.iter().map(|(topic, partition, end)| ((*topic, *partition), *end)).collect())
    }

    /// As a mark lists them.
    pub(super) fn list(&self) -> Vec<(Topic, u16, u64)> {
        self.0.iter().map(|((topic, partition), end)| (*topic, *partition, *end)).collect()
    }

    /// Learns from groups whose beginning is not known where their partitions stand.
    pub(super) fn learn(&mut self, entries: &[Entry]) {
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

    /// Where a group of these frames leads; or, when its offsets leave a gap or overlap, how.
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

    /// Takes the group into account.
    pub(super) fn advance(&mut self, advance: Advance) {
        self.0.extend(advance.0);
    }
}
