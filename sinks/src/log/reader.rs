//! Reads a log: whole groups from one on, or the rows of one partition.
//!
//! Readers need no lock and may follow a log that appends. They never give a group that is not
//! whole: up to a known durable end, one that is not is an error; else it is where reading ends for now.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use arrow::array::BooleanArray;
use arrow::compute::filter_record_batch;
use tidegate_facts::{Tick, Topic};

use super::cursor::{Cursor, End, Found};
use super::format::{Entry, facts};
use super::{Frame, Group, LogError, segment};

/// The first group to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// The group of this number.
    Group(u64),
    /// The first group that ends above this tick: facts from the tick on stand in it or behind it.
    Tick(Tick),
}

/// Where reading ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// In front of the group of this number, the durable end: whatever is missing before is an error.
    Group(u64),
    /// Behind the last complete group. A torn group at the end of the log is left out in silence. Each
    /// time reading gets there, it looks through the rest of the segment, so to follow a log that
    /// appends, [`Until::Group`] costs less.
    Complete,
}

/// Groups in the order they were appended. After `None`, more may come: see [`Groups::read_until`].
///
/// Columns stand where the group was read: as long as one is held, so are the bytes of the whole group.
pub struct Groups {
    cursor: Cursor,
    start: Start,
    until: Until,
    /// Nothing follows an error.
    failed: bool,
}

/// Rows of one partition of a topic, each frame's on their own, in the order they were appended.
///
/// In a group that holds frames of several names, rows are in the order of their frames and not of
/// their offsets. After `None`, more may come: see [`PartitionRows::read_until`].
pub struct PartitionRows {
    groups: Groups,
    topic: Topic,
    partition: u16,
    from_offset: u64,
    ready: VecDeque<Frame>,
}

/// The groups of the log in `folder`.
///
/// # Errors
/// When the folder or a segment cannot be read; [`LogError::Pruned`] when the log begins behind `start`.
pub fn read_groups(folder: &Path, start: Start, until: Until) -> Result<Groups, LogError> {
    let cursor = Cursor::open(folder, |header, _| match start {
        Start::Group(number) => header.group <= number,
        Start::Tick(tick) => header.lower <= tick,
    })?;
    let is_pruned = match start {
        Start::Group(number) => number < cursor.base().group,
        Start::Tick(tick) => tick < cursor.base().upper,
    };
    if is_pruned {
        return Err(cursor.pruned());
    }
    Ok(Groups { cursor, start, until, failed: false })
}

/// What of a group was written at the end of the log in `folder` and is not whole: the segment, where in it the group
/// begins, and what is wrong. The groups before `from` are not looked at.
///
/// # Errors
/// When the folder or a segment cannot be read, or a group that others follow is damaged.
pub fn torn_end(folder: &Path, from: u64) -> Result<Option<(PathBuf, u64, String)>, LogError> {
    let mut cursor = Cursor::open(folder, |header, _| header.group < from)?;
    loop {
        if let Err(End { torn }) = cursor.next()? {
            let (first, at) = cursor.place();
            return Ok(torn.map(|(detail, _)| (segment::path(folder, first), at, detail)));
        }
    }
}

/// The rows of one partition of the log in `folder` whose offset is `from_offset` or above.
///
/// # Errors
/// When the folder or a segment cannot be read; [`LogError::Pruned`] when the offset lies before the log's
/// beginning.
pub fn read_partition(
    folder: &Path,
    topic: Topic,
    partition: u16,
    from_offset: u64,
    until: Until,
) -> Result<PartitionRows, LogError> {
    let cursor = Cursor::open(folder, |_, entries| {
        let mut extents = entries.iter().filter(|e| e.topic == topic).flat_map(|e| &e.extents);
        extents.any(|extent| extent.partition == partition && extent.first <= from_offset)
    })?;
    let pruned = cursor.base().ends.iter().find(|(t, p, _)| (*t, *p) == (topic, partition));
    if pruned.is_some_and(|(_, _, end)| from_offset < *end) {
        return Err(cursor.pruned());
    }
    let groups = Groups { cursor, start: Start::Group(0), until, failed: false };
    Ok(PartitionRows { groups, topic, partition, from_offset, ready: VecDeque::new() })
}

impl Groups {
    /// The number of the group that comes next, at least.
    pub fn next_group(&self) -> u64 {
        self.cursor.group()
    }

    /// Moves the end, so that a reader can follow a log that appends.
    pub fn read_until(&mut self, until: Until) {
        self.until = until;
    }

    fn find(&mut self) -> Result<Option<Found>, LogError> {
        loop {
            if matches!(self.until, Until::Group(end) if self.cursor.group() >= end) {
                return Ok(None);
            }
            let found = match self.cursor.next()? {
                Ok(found) => found,
                Err(End { torn }) => match (self.until, torn) {
                    (Until::Complete, _) => return Ok(None),
                    (Until::Group(_), Some((detail, _))) => return Err(self.cursor.damaged(detail)),
                    (Until::Group(end), None) => {
                        let detail = format!("it is missing, and the log goes on to group {end}");
                        return Err(self.cursor.damaged(detail));
                    }
                },
            };
            let header = &found.header;
            let is_early = match self.start {
                Start::Group(number) => header.group < number,
                Start::Tick(tick) => header.upper <= tick,
            };
            if !is_early {
                // Once reached, the start says no more: groups without facts may end where they begin.
                self.start = Start::Group(0);
                return Ok(Some(found));
            }
        }
    }

    /// The next group, undecoded.
    pub(super) fn next_found(&mut self) -> Option<Result<Found, LogError>> {
        if self.failed {
            return None;
        }
        let found = self.find().transpose()?;
        self.failed = found.is_err();
        Some(found)
    }

    fn read<T>(&mut self, decode: impl Fn(&Found) -> Result<T, String>) -> Option<Result<T, LogError>> {
        let read = self
            .next_found()?
            .and_then(|found| decode(&found).map_err(|detail| self.cursor.damaged_before(&found, detail)));
        self.failed = read.is_err();
        Some(read)
    }
}

impl PartitionRows {
    /// Moves the end, so that a reader can follow a log that appends.
    pub fn read_until(&mut self, until: Until) {
        self.groups.read_until(until);
    }
}

impl Iterator for Groups {
    type Item = Result<Group, LogError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read(Found::group)
    }
}

impl Iterator for PartitionRows {
    type Item = Result<Frame, LogError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(frame) = self.ready.pop_front() {
                return Some(Ok(frame));
            }
            let (topic, partition, from_offset) = (self.topic, self.partition, self.from_offset);
            let frames = self.groups.read(|Found { entries, body, .. }| {
                let of_topic = entries.iter().filter(|entry| entry.topic == topic);
                of_topic
                    .filter_map(|entry| rows_of(entry, partition, from_offset, || entry.frame(body)))
                    .collect()
            });
            match frames? {
                Ok(frames) => self.ready = frames,
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

/// The rows of a partition from an offset on, if the frame has any.
fn rows_of(
    entry: &Entry,
    partition: u16,
    from_offset: u64,
    frame: impl FnOnce() -> Result<Frame, String>,
) -> Option<Result<Frame, String>> {
    let extent = entry.extents.iter().find(|extent| extent.partition == partition)?;
    if extent.end <= from_offset {
        return None;
    }
    Some(frame().map(|frame| {
        let rows = match facts(&frame.rows) {
            Some((ticks, _)) if entry.extents.len() > 1 => {
                let mask: BooleanArray =
                    ticks.values().iter().map(|tick| Some(Tick(*tick).partition() == partition)).collect();
                filter_record_batch(&frame.rows, &mask).expect("the mask has an item for each row")
            }
            _ => frame.rows,
        };
        let skipped = match facts(&rows) {
            Some((_, offsets)) => offsets.values().partition_point(|offset| *offset < from_offset),
            None => from_offset.saturating_sub(extent.first) as usize,
        };
        let rows = rows.slice(skipped, rows.num_rows() - skipped);
        Frame { rows, ..frame }
    }))
}
