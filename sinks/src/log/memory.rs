//! A log in memory that a simulation drives: records are delivered late, and a writer loses the log
//! to the next one.
//!
//! It keeps what a topic of Kafka would keep: records in the order of their offsets, of which some
//! are groups and some begin an epoch. A group counts if its epoch is the last one before it, and
//! if its number and the digest it names continue the counted group before it. Readers see the
//! counted groups alone; a writer whose group does not count is lost.

use std::collections::VecDeque;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tidegate_facts::Tick;
use tidegate_host::Random;

use super::appendable::AppendableLog;
use super::embedded::Recovery;
use super::error::LogError;
use super::format::Encoder;
use super::group::Group;
use super::offsets::EndOffsets;
use super::position::{EpochId, GroupLink, LogPosition};
use super::raw_groups::RawGroup;
use super::reader::{GroupSource, Groups, LogReader, Start, Until};
use super::segment::LogOptions;
use super::writer::{LogWriter, Pending, Slot};

/// What errors call the log.
const LOCATION: &str = "log in memory";

/// A log in memory, as its readers and the simulation see it. Clones share the log.
#[derive(Clone)]
pub struct MemoryLog {
    topic: Arc<Mutex<MemoryTopic>>,
    random: Arc<dyn Random>,
}

/// The writer of one epoch of a log in memory, [`MemoryLog`].
pub struct MemoryWriter {
    log: MemoryLog,
    /// `None` before the epoch has begun.
    epoch: Option<EpochId>,
    encoder: Encoder,
    /// Behind the last group that was appended.
    end: LogPosition,
    ends: EndOffsets,
}

#[derive(Default)]
struct MemoryTopic {
    /// The offset of the next record.
    next_offset: u64,
    /// Of the first epoch record of all.
    identity: Option<EpochId>,
    /// Of the last epoch record.
    epoch: EpochId,
    /// In front of the first counted group that was not pruned.
    start: LogPosition,
    /// The counted groups: their offsets and bytes.
    counted: VecDeque<(u64, Vec<u8>)>,
    /// Behind the last counted group.
    end: LogPosition,
    /// Whether groups wait until the simulation delivers them.
    is_held: bool,
    under_way: VecDeque<UnderWay>,
}

/// A group that was sent and has no offset yet.
struct UnderWay {
    bytes: Vec<u8>,
    outcome: Arc<Slot>,
}

impl fmt::Debug for MemoryLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let topic = self.topic.lock();
        f.debug_struct("MemoryLog").field("end", &topic.end).field("epoch", &topic.epoch).finish()
    }
}

impl MemoryLog {
    /// An empty log, which draws the ids of epochs from `random`.
    pub fn new(random: Arc<dyn Random>) -> MemoryLog {
        MemoryLog { topic: Arc::default(), random }
    }

    /// A writer behind the last counted group, whose epoch has not begun.
    pub fn writer(&self) -> MemoryWriter {
        let end = self.topic.lock().end.clone();
        let ends = EndOffsets::at(&end);
        MemoryWriter { log: self.clone(), epoch: None, encoder: Encoder::new(), end, ends }
    }

    /// From now on groups wait until they are delivered.
    pub fn hold(&self) {
        self.topic.lock().is_held = true;
    }

    /// Gives the next `count` groups under way their offsets. Returns how many there were.
    pub fn deliver(&self, count: usize) -> usize {
        let mut topic = self.topic.lock();
        let count = count.min(topic.under_way.len());
        for _ in 0..count {
            let UnderWay { bytes, outcome } = topic.under_way.pop_front().expect("they were counted");
            outcome.set(topic.append(bytes));
        }
        count
    }

    /// Loses all groups under way, as when their writer's process ends.
    pub fn lose(&self) {
        for lost in self.topic.lock().under_way.drain(..) {
            lost.outcome.set(Err(LogError::Poisoned { location: PathBuf::from(LOCATION) }));
        }
    }
}

impl MemoryTopic {
    /// Appends a group, and decides whether it counts.
    fn append(&mut self, bytes: Vec<u8>) -> Result<GroupLink, LogError> {
        let offset = self.next_offset;
        self.next_offset += 1;
        let raw = decode(&bytes, offset)?;
        let epoch = raw.link().epoch;
        if epoch != self.epoch {
            return Err(LogError::WriterLost { epoch, winner: self.epoch });
        }
        self.end = self.end.after(&raw).map_err(|detail| raw.damaged(detail))?;
        self.counted.push_back((offset, bytes));
        Ok(raw.link())
    }

    /// Checks that a position is one between two groups of this log. Its offset is not compared:
    /// records that are no groups may lie in between.
    fn check_position(&self, position: &LogPosition) -> Result<(), LogError> {
        let group = position.group;
        let other = |detail| LogError::OtherPosition { location: PathBuf::from(LOCATION), group, detail };
        let mut found = self.start.clone();
        for (offset, bytes) in &self.counted {
            if found.group >= group {
                break;
            }
            let raw = decode(bytes, *offset)?;
            found = found.after(&raw).map_err(|detail| raw.damaged(detail))?;
        }
        if found.group != group {
            let (start, end) = (self.start.group, self.end.group);
            return Err(other(format!("it holds the groups from {start} to before {end}")));
        }
        let expected = LogPosition { offset: found.offset, ..position.clone() };
        if found == expected {
            Ok(())
        } else {
            Err(other(format!(
                "it is at tick {} there, behind a group of digest {}",
                found.upper.0, found.digest
            )))
        }
    }
}

fn decode(bytes: &[u8], offset: u64) -> Result<RawGroup, LogError> {
    RawGroup::decode(bytes, offset, Path::new(LOCATION)).map_err(|detail| LogError::Damaged {
        segment: PathBuf::from(LOCATION),
        at: offset,
        group: 0,
        detail,
    })
}

impl LogReader for MemoryLog {
    fn identity(&self) -> Result<EpochId, LogError> {
        self.topic.lock().identity.ok_or_else(|| LogError::NoLog { location: self.location() })
    }

    fn start(&self) -> Result<Option<LogPosition>, LogError> {
        let topic = self.topic.lock();
        Ok(topic.identity.map(|_| topic.start.clone()))
    }

    fn position(&self) -> Result<LogPosition, LogError> {
        Ok(self.topic.lock().end.clone())
    }

    fn read(&self, from: Start, until: Until) -> Result<Groups, LogError> {
        let start = self.topic.lock().start.clone();
        if from.is_before(&start) {
            return Err(LogError::Pruned { location: self.location(), start });
        }
        let topic = Arc::clone(&self.topic);
        let groups = MemoryGroups { topic, next: start.group, start: Some(from), until };
        Ok(Groups::new(Box::new(groups)))
    }

    fn location(&self) -> PathBuf {
        PathBuf::from(LOCATION)
    }
}

impl AppendableLog for MemoryLog {
    fn open_writer(
        &self,
        _: LogOptions,
        checked: Option<&LogPosition>,
        acknowledged: Tick,
    ) -> Result<(Box<dyn LogWriter>, Recovery), LogError> {
        let topic = self.topic.lock();
        if let Some(position) = checked {
            topic.check_position(position)?;
        }
        let (groups, upper, at) = (topic.end.group, topic.end.upper, topic.next_offset);
        drop(topic);
        if upper < acknowledged {
            return Err(LogError::Lost { segment: self.location(), at, upper, acknowledged });
        }
        Ok((Box::new(self.writer()), Recovery { groups, upper, truncated: None }))
    }

    /// Excludes nobody: of two writers, the one whose epoch began first is lost.
    fn exclude_writers(&self) -> Result<Box<dyn Send>, LogError> {
        Ok(Box::new(()))
    }
}

/// The counted groups of a log in memory from a start on.
struct MemoryGroups {
    topic: Arc<Mutex<MemoryTopic>>,
    next: u64,
    /// Where reading begins, until it has.
    start: Option<Start>,
    until: Until,
}

impl GroupSource for MemoryGroups {
    fn next_raw(&mut self) -> Result<Option<RawGroup>, LogError> {
        loop {
            if matches!(self.until, Until::Group(end) if self.next >= end) {
                return Ok(None);
            }
            let topic = self.topic.lock();
            let Some(index) = self.next.checked_sub(topic.start.group) else {
                let (location, start) = (PathBuf::from(LOCATION), topic.start.clone());
                return Err(LogError::Pruned { location, start });
            };
            let raw = match (topic.counted.get(index as usize), self.until) {
                (Some((offset, bytes)), _) => decode(bytes, *offset)?,
                (None, Until::Complete) => return Ok(None),
                (None, Until::Group(end)) => {
                    let detail = format!("it is missing, and the log goes on to group {end}");
                    let (segment, at) = (PathBuf::from(LOCATION), topic.next_offset);
                    return Err(LogError::Damaged { segment, at, group: self.next, detail });
                }
            };
            drop(topic);
            self.next += 1;
            if self.start.is_none_or(|start| !start.is_behind(&raw)) {
                self.start = None;
                return Ok(Some(raw));
            }
        }
    }

    fn read_until(&mut self, until: Until) {
        self.until = until;
    }

    fn next_group(&self) -> u64 {
        self.next
    }
}

impl LogWriter for MemoryWriter {
    /// Appends the record that begins the epoch, behind which groups under way do not count.
    fn open(&mut self) -> Result<EpochId, LogError> {
        if let Some(epoch) = self.epoch {
            return Ok(epoch);
        }
        let epoch = EpochId::draw(&*self.log.random).map_err(|source| LogError::Random { source })?;
        let mut topic = self.log.topic.lock();
        topic.next_offset += 1;
        topic.epoch = epoch;
        topic.identity.get_or_insert(epoch);
        self.epoch = Some(epoch);
        self.end = topic.end.clone();
        self.ends = EndOffsets::at(&self.end);
        Ok(epoch)
    }

    fn append(&mut self, group: &Group) -> Result<Pending, LogError> {
        let epoch = self.epoch.expect("a writer appends once its epoch has begun");
        assert_eq!(group.lower, self.end.upper, "groups leave a gap or overlap");
        assert!(group.lower <= group.upper, "a group ends before it begins");
        let mut topic = self.log.topic.lock();
        if topic.epoch != epoch {
            return Err(LogError::WriterLost { epoch, winner: topic.epoch });
        }
        let offset = topic.next_offset + topic.under_way.len() as u64;
        let link = GroupLink { number: self.end.group, offset, previous: self.end.digest, epoch };
        let encoded = self.encoder.encode(&link, group, &self.ends)?;
        let advance = self
            .ends
            .follow(&encoded.entries)
            .unwrap_or_else(|detail| panic!("offsets leave a gap or overlap: {detail}"));
        let (digest, bytes) = (encoded.digest(), encoded.bytes.to_vec());
        self.ends.advance(advance);
        let (group, offset, upper) = (link.number + 1, offset + 1, group.upper);
        self.end = LogPosition { group, offset, upper, digest, epoch, ends: self.ends.list() };
        if !topic.is_held {
            return topic.append(bytes).map(Pending::durable);
        }
        let (pending, outcome) = Pending::waiting();
        topic.under_way.push_back(UnderWay { bytes, outcome });
        Ok(pending)
    }

    fn position(&self) -> LogPosition {
        self.end.clone()
    }

    fn upper(&self) -> Tick {
        self.end.upper
    }

    fn sync_duration(&self) -> Duration {
        Duration::ZERO
    }

    fn prune_before(&mut self, position: &LogPosition) -> Result<(), LogError> {
        let mut topic = self.log.topic.lock();
        assert!(position.group <= topic.end.group, "only groups that count can be pruned");
        while topic.start.group < position.group {
            topic.counted.pop_front();
            topic.start.group += 1;
        }
        topic.start = position.clone();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tidegate_host::SeededRandom;

    use super::*;

    fn log() -> MemoryLog {
        MemoryLog::new(Arc::new(SeededRandom::new(1)))
    }

    fn group(writer: &MemoryWriter) -> Group {
        let lower = writer.upper();
        Group { frames: vec![], lower, upper: Tick(lower.0 + 5), commit: false }
    }

    fn append(writer: &mut MemoryWriter) -> Pending {
        let group = group(writer);
        writer.append(&group).unwrap()
    }

    fn numbers(log: &MemoryLog) -> Vec<u64> {
        let groups = log.read(Start::Group(0), Until::Complete).unwrap();
        groups.map(|group| group.unwrap().link.number).collect()
    }

    #[test]
    fn groups_become_durable_in_order_when_they_are_delivered() {
        let log = log();
        log.hold();
        let mut writer = log.writer();
        let epoch = writer.open().unwrap();
        assert_eq!(log.identity().unwrap(), epoch);
        let pending: Vec<Pending> = (0..3).map(|_| append(&mut writer)).collect();
        assert_eq!(log.deliver(2), 2);
        assert_eq!(pending.iter().map(Pending::is_complete).collect::<Vec<_>>(), [true, true, false]);
        assert_eq!(numbers(&log), [0, 1]);
        assert_eq!(log.deliver(9), 1);
        let links: Vec<GroupLink> = pending.into_iter().map(|pending| pending.wait().unwrap()).collect();
        assert_eq!(links.iter().map(|link| link.offset).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(log.position().unwrap(), writer.position());
    }

    #[test]
    fn a_writer_loses_the_log_to_the_next_epoch_and_its_late_groups_do_not_count() {
        let log = log();
        log.hold();
        let mut first = log.writer();
        let identity = first.open().unwrap();
        let counted = append(&mut first);
        log.deliver(1);
        counted.wait().unwrap();
        let late = append(&mut first);

        let mut second = log.writer();
        let winner = second.open().unwrap();
        let other = append(&mut second);
        assert_eq!(log.deliver(2), 2);
        assert!(matches!(late.wait(), Err(LogError::WriterLost { winner: w, .. }) if w == winner));
        assert_eq!(other.wait().unwrap().number, 1);
        let next = group(&first);
        assert!(matches!(first.append(&next), Err(LogError::WriterLost { epoch, .. }) if epoch == identity));
        assert_eq!(numbers(&log), [0, 1]);
        assert_eq!(log.identity().unwrap(), identity, "a log keeps the id of its first epoch");
    }

    #[test]
    fn groups_under_way_are_lost_with_their_writer_and_the_next_one_goes_on_behind_the_rest() {
        let log = log();
        log.hold();
        let mut writer = log.writer();
        writer.open().unwrap();
        let durable = append(&mut writer);
        log.deliver(1);
        durable.wait().unwrap();
        let lost = append(&mut writer);
        log.lose();
        assert!(lost.wait().is_err());
        let mut next = log.writer();
        next.open().unwrap();
        assert_eq!((next.upper(), next.position().group), (Tick(5), 1));
    }

    #[test]
    fn a_writer_is_opened_at_a_position_of_the_log_and_behind_what_was_acknowledged() {
        let log = log();
        let open = |checked: Option<&LogPosition>, acknowledged| {
            log.open_writer(LogOptions::default(), checked, Tick(acknowledged))
        };
        let (mut writer, recovery) = open(None, 0).unwrap();
        assert_eq!(recovery, Recovery { groups: 0, upper: Tick::ZERO, truncated: None });
        writer.open().unwrap();
        let mut positions = vec![writer.position()];
        for upper in [5, 9] {
            let lower = writer.upper();
            let group = Group { frames: vec![], lower, upper: Tick(upper), commit: false };
            writer.append_and_wait(&group).unwrap();
            positions.push(writer.position());
        }
        for position in &positions {
            let (writer, recovery) = open(Some(position), 9).unwrap();
            assert_eq!((writer.upper(), recovery.groups), (Tick(9), 2), "before its epoch begins");
        }
        let other = LogPosition { upper: Tick(6), ..positions[1].clone() };
        let beyond = LogPosition { group: 3, ..positions[2].clone() };
        for position in [other, beyond] {
            let refused = open(Some(&position), 9).err();
            assert!(matches!(refused, Some(LogError::OtherPosition { .. })), "{refused:?}");
        }
        let lost = open(None, 10).err();
        assert!(matches!(lost, Some(LogError::Lost { upper: Tick(9), .. })), "{lost:?}");
    }

    #[test]
    fn a_pruned_log_is_read_from_its_start_on() {
        let log = log();
        let mut writer = log.writer();
        writer.open().unwrap();
        for _ in 0..2 {
            append(&mut writer).wait().unwrap();
        }
        let start = writer.position();
        append(&mut writer).wait().unwrap();
        writer.prune_before(&start).unwrap();
        assert_eq!(log.start().unwrap(), Some(start.clone()));
        let groups = log.read(Start::Tick(start.upper), Until::Complete).unwrap();
        assert_eq!(groups.map(|group| group.unwrap().link.number).collect::<Vec<_>>(), [2]);
        let refused = log.read(Start::Group(1), Until::Complete);
        assert!(matches!(refused, Err(LogError::Pruned { start: s, .. }) if s == start));
    }
}
