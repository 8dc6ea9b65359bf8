//! Reading a log: whole groups from one on, the rows of one partition, or the frames of one topic.
//!
//! Readers need no lock and may follow a log that is appended to. They never return part of a
//! group. Up to a known durable end, a group that is not whole is an error; without one, reading
//! ends there for now.

use std::collections::VecDeque;
use std::fmt;
use std::path::PathBuf;

use arrow::array::BooleanArray;
use arrow::compute::filter_record_batch;
use tidegate_facts::{Tick, Topic};

use super::entry::{Entry, Extent};
use super::error::LogError;
use super::format::facts;
use super::group::{Frame, LoggedGroup};
use super::position::{EpochId, LogPosition};
use super::raw_groups::RawGroup;

/// The interface by which a log is read. Each call finds what is durable at that moment.
pub trait LogReader: Send + Sync + fmt::Debug {
    /// The id of the log's first epoch. The archive, a copy and a restored log have the same.
    ///
    /// # Errors
    /// [`LogError::NoLog`] when no writer has opened the log yet.
    fn identity(&self) -> Result<EpochId, LogError>;

    /// The position in front of the first group that the log holds, which is behind the first of
    /// all once the log was pruned; `None` when there is no log.
    ///
    /// # Errors
    /// When the log cannot be read.
    fn start(&self) -> Result<Option<LogPosition>, LogError>;

    /// The position behind the last whole group.
    ///
    /// # Errors
    /// When the log cannot be read.
    fn position(&self) -> Result<LogPosition, LogError>;

    /// The groups from `from` on.
    ///
    /// # Errors
    /// [`LogError::Pruned`] when the log begins behind `from`; else when the log cannot be read.
    fn read(&self, from: Start, until: Until) -> Result<Groups, LogError>;

    /// The frames of a topic, in the order in which they were appended.
    ///
    /// A reader that needs a few frames before it reads the whole log, as a run needs to know which
    /// revisions are in force before it builds its graph, need not read the log twice. Only the
    /// groups with such frames are checked as a whole. Reading ends in front of a group that is not
    /// as it was written; whoever reads the groups afterwards gets the error.
    ///
    /// # Errors
    /// When the log cannot be read, and when a frame of the topic cannot be decoded.
    fn read_topic(&self, topic: Topic) -> Result<Vec<Frame>, LogError> {
        let Some(start) = self.start()? else { return Ok(Vec::new()) };
        let mut groups = self.read(Start::Group(start.group), Until::Complete)?;
        let mut frames = Vec::new();
        while let Some(raw) = groups.next_raw() {
            let Ok(raw) = raw else { break };
            frames.extend(frames_of(&raw, topic)?);
        }
        Ok(frames)
    }

    /// The group at the end of the log that is not whole, if there is one. Groups before number
    /// `from` are not read.
    ///
    /// # Errors
    /// When the log cannot be read, or a group that others follow is damaged.
    fn torn_end(&self, from: u64) -> Result<Option<TornEnd>, LogError> {
        let _ = from;
        Ok(None)
    }

    /// Where the log is, as errors name it. Of the embedded log, its folder.
    fn location(&self) -> PathBuf;

    /// Where the end of the log is, as errors name it. Of the embedded log, a segment file.
    fn end_location(&self) -> PathBuf {
        self.location()
    }
}

/// The torn end that a log reader may find: a last group that was never acknowledged, because it is
/// not whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TornEnd {
    /// The segment file.
    pub segment: PathBuf,
    /// Where in it the group begins.
    pub at: u64,
    /// How far from there anything was written.
    pub bytes: u64,
    /// What is wrong with the group.
    pub detail: String,
}

/// The first group that a log reader returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// The group of this number.
    Group(u64),
    /// The first group that ends above this tick: it, or one behind it, holds the facts from the
    /// tick on.
    Tick(Tick),
    /// The first group with records of a partition whose offset is this one or above.
    Offset(Topic, u16, u64),
}

/// Where a log reader stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// In front of the group of this number, up to which the log is durable: a group that is
    /// missing or not whole before is an error.
    Group(u64),
    /// Behind the last complete group. A torn group at the end of the log is left out without an
    /// error. Each time that reading gets there, it searches the rest of the segment; so to follow
    /// a log that is appended to, [`Until::Group`] costs less.
    Complete,
}

impl Start {
    /// Whether reading begins behind this group.
    pub(super) fn is_behind(&self, raw: &RawGroup) -> bool {
        match *self {
            Start::Group(number) => raw.number() < number,
            Start::Tick(tick) => raw.upper() <= tick,
            Start::Offset(topic, partition, offset) => {
                raw.entries().iter().all(|entry| extent_from(entry, topic, partition, offset).is_none())
            }
        }
    }

    /// Whether reading may begin at a group that has this number, begins at this tick and has these
    /// frames: no group before it is wanted.
    pub(super) fn is_at_or_behind(&self, number: u64, lower: Tick, entries: &[Entry]) -> bool {
        match *self {
            Start::Group(wanted) => number <= wanted,
            Start::Tick(tick) => lower <= tick,
            Start::Offset(topic, partition, offset) => {
                let mut extents = entries.iter().filter(|e| e.topic == topic).flat_map(|e| &e.extents);
                extents.any(|extent| extent.partition == partition && extent.first <= offset)
            }
        }
    }

    /// Whether a log that begins at `start` lacks groups that are to be read.
    pub(super) fn is_before(&self, start: &LogPosition) -> bool {
        match *self {
            Start::Group(number) => number < start.group,
            Start::Tick(tick) => tick < start.upper,
            Start::Offset(topic, partition, offset) => offset < start.end_offset(topic, partition),
        }
    }
}

/// The source of a log reader's [`Groups`]: the part of a reader that differs from log to log.
pub trait GroupSource: Send {
    /// The next group, and nothing where reading ends for now.
    ///
    /// # Errors
    /// When the log cannot be read or is damaged.
    fn next_raw(&mut self) -> Result<Option<RawGroup>, LogError>;

    /// Moves the place where reading ends.
    fn read_until(&mut self, until: Until);

    /// The number of the group that comes next, or of one before it.
    fn next_group(&self) -> u64;
}

/// The groups that a log reader returns, in the order in which they were appended. After `None`,
/// more may come: see [`Groups::read_until`].
///
/// Columns refer to the bytes in which the group was read: whoever keeps one keeps the bytes of the
/// whole group in memory. Nothing follows an error.
pub struct Groups {
    source: Box<dyn GroupSource>,
    failed: bool,
}

impl Groups {
    /// The groups of a source.
    pub fn new(source: Box<dyn GroupSource>) -> Groups {
        Groups { source, failed: false }
    }

    /// The number of the group that comes next, at least.
    pub fn next_group(&self) -> u64 {
        self.source.next_group()
    }

    /// Moves the place where reading ends, so that a reader can follow a log that is appended to.
    pub fn read_until(&mut self, until: Until) {
        self.source.read_until(until);
    }

    /// The next group, with its rows not yet decoded.
    pub fn next_raw(&mut self) -> Option<Result<RawGroup, LogError>> {
        self.next_as(Ok)
    }

    fn next_as<T>(
        &mut self,
        decode: impl FnOnce(RawGroup) -> Result<T, LogError>,
    ) -> Option<Result<T, LogError>> {
        if self.failed {
            return None;
        }
        let read = self.source.next_raw().transpose()?.and_then(decode);
        self.failed = read.is_err();
        Some(read)
    }
}

impl Iterator for Groups {
    type Item = Result<LoggedGroup, LogError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_as(|raw| raw.logged())
    }
}

/// The frames of a topic in one group.
pub(super) fn frames_of(raw: &RawGroup, topic: Topic) -> Result<Vec<Frame>, LogError> {
    let of_topic = raw.entries().iter().filter(|entry| entry.topic == topic);
    of_topic.map(|entry| entry.frame(raw.body()).map_err(|detail| raw.damaged(detail))).collect()
}

/// The rows of one partition of a topic that a log reader returns, those of each frame apart, in
/// the order in which they were appended.
///
/// In a group with frames of several names, rows are in the order of their frames and not of their
/// offsets. After `None`, more may come: see [`PartitionRows::read_until`].
pub struct PartitionRows {
    groups: Groups,
    topic: Topic,
    partition: u16,
    from_offset: u64,
    ready: VecDeque<Frame>,
}

/// Reads the rows of one partition of a log whose offset is `from_offset` or above.
///
/// # Errors
/// [`LogError::Pruned`] when the log begins behind that offset; else when it cannot be read.
pub fn read_partition(
    log: &dyn LogReader,
    topic: Topic,
    partition: u16,
    from_offset: u64,
    until: Until,
) -> Result<PartitionRows, LogError> {
    let groups = log.read(Start::Offset(topic, partition, from_offset), until)?;
    Ok(PartitionRows { groups, topic, partition, from_offset, ready: VecDeque::new() })
}

impl PartitionRows {
    /// Moves the place where reading ends, so that a reader can follow a log that is appended to.
    pub fn read_until(&mut self, until: Until) {
        self.groups.read_until(until);
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
            let frames = self.groups.next_as(|raw| {
                let rows = raw.entries().iter().filter_map(|entry| {
                    let extent = extent_from(entry, topic, partition, from_offset)?;
                    Some(entry.frame(raw.body()).map(|frame| {
                        rows_from(frame, entry.extents.len(), extent.first, partition, from_offset)
                    }))
                });
                rows.collect::<Result<_, _>>().map_err(|detail| raw.damaged(detail))
            });
            match frames? {
                Ok(frames) => self.ready = frames,
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

/// The extent of a partition in a frame of the topic, if it has rows from the offset on.
fn extent_from(entry: &Entry, topic: Topic, partition: u16, offset: u64) -> Option<&Extent> {
    let of_partition = |extent: &&Extent| extent.partition == partition && extent.end > offset;
    if entry.topic == topic { entry.extents.iter().find(of_partition) } else { None }
}

/// The rows of a partition from an offset on, of a frame with rows of so many partitions.
fn rows_from(frame: Frame, partitions: usize, first: u64, partition: u16, from_offset: u64) -> Frame {
    let rows = match facts(&frame.rows) {
        Some((ticks, _)) if partitions > 1 => {
            let mask: BooleanArray =
                ticks.values().iter().map(|tick| Some(Tick(*tick).partition() == partition)).collect();
            filter_record_batch(&frame.rows, &mask).expect("the mask has an item for each row")
        }
        _ => frame.rows,
    };
    let skipped = match facts(&rows) {
        Some((_, offsets)) => offsets.values().partition_point(|offset| offset.cast_unsigned() < from_offset),
        None => from_offset.saturating_sub(first) as usize,
    };
    let rows = rows.slice(skipped, rows.num_rows() - skipped);
    Frame { rows, ..frame }
}
