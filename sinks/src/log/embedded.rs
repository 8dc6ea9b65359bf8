//! Appends groups to the segment files of a log folder, each with one write and one sync.
//!
//! A failed write poisons the log: after a failed sync the page cache may hold what the disk does
//! not, so only a new start, which reads the disk, finds out what is there.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tidegate_facts::{Digest, Tick, Topic};
use tidegate_host::{Files, Host, OpenFile, OpenMode};

use super::base::{self, Base};
use super::cursor::{Cursor, differs};
use super::error::LogError;
use super::format::{ALIGNMENT, Encoder};
use super::group::Group;
use super::location::LogFolder;
use super::offsets::EndOffsets;
use super::position::{EpochId, GroupLink, LogPosition};
use super::raw_groups::RawGroup;
use super::reader::TornEnd;
use super::segment::{self, LogOptions, Preparation};
use super::writer::{LogWriter, Pending};

/// The file whose lock the writer of a log folder holds.
const LOCK: &str = "LOCK";
/// How often a lock that this very process holds is tried again, and how long is waited between.
const LOCK_TRIES: u32 = 50;
const LOCK_WAIT: Duration = Duration::from_millis(2);

/// The embedded log of a data folder, open for appending to its segment files. At most one is open
/// at a time.
///
/// A group is durable when [`LogWriter::append`] returns.
pub struct EmbeddedLog {
    /// Locked as long as the log is open.
    _lock: Arc<dyn OpenFile>,
    base: Base,
    /// The epoch of this writer.
    epoch: EpochId,
    segments: Segments,
    encoder: Encoder,
    /// The number of the next group.
    groups: u64,
    /// Where the last group ends, its digest and its epoch.
    upper: Tick,
    digest: Digest,
    digest_epoch: EpochId,
    ends: EndOffsets,
    poisoned: bool,
}

/// What recovery found when a log, such as the embedded one, was opened for appending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovery {
    /// The number of groups.
    pub groups: u64,
    /// The tick at which the last of them ends.
    pub upper: Tick,
    /// The torn end that was cut off.
    pub truncated: Option<TornEnd>,
}

/// The segment that is appended to, and the one that will follow it.
struct Segments {
    log: LogFolder,
    options: LogOptions,
    active: ActiveSegment,
    next: Option<Preparation>,
}

struct ActiveSegment {
    first: u64,
    file: Arc<dyn OpenFile>,
    /// Where the next group goes.
    at: u64,
    /// Where the reserved space ends.
    end: u64,
    /// How long the last sync took.
    sync_duration: Duration,
}

impl EmbeddedLog {
    /// Opens a log whose groups before `checked` were checked before, and were durable up to
    /// `acknowledged`.
    pub(super) fn open_folder(
        log: &LogFolder,
        options: LogOptions,
        checked: Option<&LogPosition>,
        acknowledged: Tick,
    ) -> Result<(EmbeddedLog, Recovery), LogError> {
        let (files, folder) = (log.files(), log.path());
        let write_error = |source| LogError::Write { path: folder.to_owned(), source };
        files.create_folder(folder).map_err(write_error)?;
        let lock = lock(log.host(), folder)?;
        segment::remove_prepared(files, folder).map_err(write_error)?;

        let Checked { cursor, ends, before, torn } = match checked {
            None => check_all(log)?,
            Some(position) => check_from(log, position)?,
        };
        let mut base = cursor.base().clone();
        // A crash may have cut the removal of older segments short.
        segment::remove_before(files, folder, base.start.group).map_err(write_error)?;
        let (first, at) = cursor.place();
        let path = log.segment(first);
        if before.upper < acknowledged {
            return Err(LogError::Lost { segment: path, at, upper: before.upper, acknowledged });
        }
        if let Some(TornEnd { at, bytes, detail, .. }) = &torn {
            let segment = path.display();
            tracing::warn!(%segment, at, bytes, detail, "the last group of the log is torn and is cut off");
        }
        let epoch = EpochId::draw(&*log.host().random).map_err(|source| LogError::Random { source })?;
        if base.identity == EpochId::default() {
            base.identity = epoch;
            base::write(files, folder, &base)?;
        }
        let active = ActiveSegment::open(files, folder, (first, at), options.segment_bytes)
            .map_err(|source| LogError::Write { path, source })?;
        let recovery = Recovery { groups: cursor.group(), upper: before.upper, truncated: torn };
        let log = EmbeddedLog {
            _lock: lock,
            base,
            epoch,
            segments: Segments { log: log.clone(), options, active, next: None },
            encoder: Encoder::new(),
            groups: recovery.groups,
            upper: before.upper,
            digest: before.digest,
            digest_epoch: before.epoch,
            ends,
            poisoned: false,
        };
        Ok((log, recovery))
    }

    /// The number of the next group. All groups before it are durable.
    pub fn next_group(&self) -> u64 {
        self.groups
    }

    /// The offset of the next record of a partition.
    pub fn end_offset(&self, topic: Topic, partition: u16) -> u64 {
        self.ends.get(topic, partition)
    }

    /// The folder of the log.
    pub fn folder(&self) -> &LogFolder {
        &self.segments.log
    }
}

impl LogWriter for EmbeddedLog {
    /// The id of the epoch that began when the folder was locked.
    fn open(&mut self) -> Result<EpochId, LogError> {
        Ok(self.epoch)
    }

    fn append(&mut self, group: &Group) -> Result<Pending, LogError> {
        assert_eq!(group.lower, self.upper, "groups leave a gap or overlap");
        assert!(group.lower <= group.upper, "a group ends before it begins");
        if self.poisoned {
            return Err(LogError::Poisoned { location: self.folder().path().to_owned() });
        }
        let number = self.groups;
        let link = GroupLink { number, offset: number, previous: self.digest, epoch: self.epoch };
        let encoded = self.encoder.encode(&link, group, &self.ends)?;
        let advance = self
            .ends
            .follow(&encoded.entries)
            .unwrap_or_else(|detail| panic!("offsets leave a gap or overlap: {detail}"));
        self.poisoned = true;
        self.segments.append(number, encoded.bytes)?;
        self.poisoned = false;

        self.digest = encoded.digest();
        self.digest_epoch = self.epoch;
        self.ends.advance(advance);
        self.upper = group.upper;
        self.groups += 1;
        self.segments.prepare();
        Ok(Pending::durable(link))
    }

    fn position(&self) -> LogPosition {
        LogPosition {
            group: self.groups,
            offset: self.groups,
            upper: self.upper,
            digest: self.digest,
            epoch: self.digest_epoch,
            ends: self.ends.list(),
        }
    }

    fn upper(&self) -> Tick {
        self.upper
    }

    /// Writes zeros over the rest of the segment, as the log does for every segment that follows.
    ///
    /// The log works without, so an error of the file system is logged as a warning.
    fn prepare_for_small_groups(&mut self) {
        let ActiveSegment { file, at, end, .. } = &self.segments.active;
        if let Err(error) = segment::fill(&**file, *at, *end) {
            tracing::warn!(%error, "cannot fill the log's segment with zeros; appending to it is slower");
        }
    }

    fn sync_duration(&self) -> Duration {
        self.segments.active.sync_duration
    }

    fn prune_before(&mut self, position: &LogPosition) -> Result<(), LogError> {
        self.base.start = position.clone();
        prune(self.folder(), &self.base)
    }
}

impl Drop for EmbeddedLog {
    /// Gives the blank space of the segment back. The log is the same without.
    fn drop(&mut self) {
        let active = &self.segments.active;
        if !self.poisoned
            && let Err(error) = active.file.set_len(active.at)
        {
            tracing::warn!(%error, "cannot cut the blank space off the log's last segment");
        }
    }
}

/// Has a log begin at the start in `base`, where a segment begins, and removes the segments before
/// it.
///
/// The new start is durable before the first segment goes. What a crash leaves of the others is
/// removed when the log is opened.
///
/// # Panics
/// When no segment begins at the start.
pub(super) fn prune(log: &LogFolder, base: &Base) -> Result<(), LogError> {
    let first = base.start.group;
    assert!(log.files().exists(&log.segment(first)), "a log begins where one of its segments does");
    base::write(log.files(), log.path(), base)?;
    segment::remove_before(log.files(), log.path(), first)
        .map_err(|source| LogError::Write { path: log.path().to_owned(), source })
}

impl Segments {
    /// Makes the bytes of group number `number` durable.
    fn append(&mut self, number: u64, bytes: &[u8]) -> Result<(), LogError> {
        let length = bytes.len() as u64;
        debug_assert!(length.is_multiple_of(ALIGNMENT as u64), "the length of a group is aligned");
        self.make_room(number, length)?;
        let active = &mut self.active;
        let write_error =
            |source| LogError::Write { path: segment::path(self.log.path(), active.first), source };
        active.file.write_at(bytes, active.at).map_err(write_error)?;
        let clock = &self.log.host().clock;
        let from = clock.monotonic();
        active.file.sync_data().map_err(write_error)?;
        active.sync_duration = clock.monotonic().saturating_sub(from);
        active.at += length;
        Ok(())
    }

    /// Makes room for a group of `length` bytes, in this segment or in a new one.
    fn make_room(&mut self, number: u64, length: u64) -> Result<(), LogError> {
        if self.active.at + length <= self.active.end {
            return Ok(());
        }
        if self.active.at == 0 {
            segment::reserve(&*self.active.file, 0, length);
            self.active.end = length;
            return Ok(());
        }
        let end = length.max(self.options.segment_bytes);
        let next = self.next.take_if(|next| next.is_ready() && end == self.options.segment_bytes);
        self.active = self
            .active
            .roll(&self.log, (number, end), next)
            .map_err(|source| LogError::Write { path: self.log.path().to_owned(), source })?;
        Ok(())
    }

    /// Prepares the next segment once this one is half full.
    fn prepare(&mut self) {
        let bytes = self.options.segment_bytes;
        let Some(behind_half) = self.active.at.checked_sub(bytes / 2).filter(|behind| *behind > 0) else {
            return;
        };
        if self.next.is_none() {
            let started = Preparation::start(self.log.host(), self.log.path(), bytes);
            self.next = started
                .inspect_err(|error| tracing::warn!(%error, "cannot prepare the log's next segment"))
                .ok();
        }
        if let Some(next) = &mut self.next {
            next.follow(behind_half);
        }
    }
}

impl ActiveSegment {
    /// The last segment, cut off at `at`.
    fn open(
        files: &dyn Files,
        folder: &Path,
        (first, at): (u64, u64),
        segment_bytes: u64,
    ) -> io::Result<ActiveSegment> {
        let end = segment_bytes.max(at);
        let file = match files.open(&segment::path(folder, first), OpenMode::Write) {
            Ok(file) => {
                // Cut even where only zeros follow, so that nothing unseen can be behind `at`.
                file.set_len(at)?;
                segment::reserve(&*file, at, end);
                file.sync_all()?;
                file
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                segment::create(files, folder, first, end)?
            }
            Err(error) => return Err(error),
        };
        Ok(ActiveSegment { first, file, at, end, sync_duration: Duration::ZERO })
    }

    /// Closes this segment behind its last group, and begins the one of group number `first`.
    fn roll(
        &self,
        log: &LogFolder,
        (first, end): (u64, u64),
        next: Option<Preparation>,
    ) -> io::Result<ActiveSegment> {
        self.file.set_len(self.at)?;
        self.file.sync_all()?;
        let prepared = next.map(|next| next.take(first)).transpose().unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot use the prepared segment of the log; another is created");
            None
        });
        let file = match prepared {
            Some(file) => file,
            None => segment::create(log.files(), log.path(), first, end)?,
        };
        Ok(ActiveSegment { first, file, at: 0, end, sync_duration: self.sync_duration })
    }
}

/// A log that was walked to its end.
struct Checked {
    cursor: Cursor,
    ends: EndOffsets,
    /// The last group.
    before: LastGroup,
    torn: Option<TornEnd>,
}

/// What the next group follows.
struct LastGroup {
    upper: Tick,
    digest: Digest,
    epoch: EpochId,
}

impl LastGroup {
    fn before(position: &LogPosition) -> LastGroup {
        LastGroup { upper: position.upper, digest: position.digest, epoch: position.epoch }
    }
}

/// Walks the whole log.
fn check_all(log: &LogFolder) -> Result<Checked, LogError> {
    let mut cursor = Cursor::open(log, |_, _| false)?;
    let mut ends = EndOffsets::at(&cursor.base().start);
    let mut before = LastGroup::before(&cursor.base().start);
    loop {
        match cursor.next()? {
            Ok(raw) => {
                ends.advance(ends.follow(raw.entries()).map_err(|detail| raw.damaged(detail))?);
                before = LastGroup { upper: raw.upper(), digest: raw.digest(), epoch: raw.link().epoch };
            }
            Err(torn) => return Ok(Checked { cursor, ends, before, torn }),
        }
    }
}

/// Walks the log from the segment that holds the group behind a position that was checked before.
fn check_from(log: &LogFolder, position: &LogPosition) -> Result<Checked, LogError> {
    let group = position.group;
    let other = |detail: String| LogError::OtherPosition { location: log.path().to_owned(), group, detail };
    let mut cursor = Cursor::open(log, |header, _| header.group <= group)?;
    if group < cursor.base().start.group {
        return Err(other(format!("it was pruned up to group {}", cursor.base().start.group)));
    }
    let mut ends = EndOffsets::at(position);
    let mut before = LastGroup::before(position);
    let mut observed = EndOffsets::default();
    loop {
        let number = cursor.group();
        if number == group {
            let ends_differ = || {
                let mut observed = observed.list().into_iter();
                let (topic, partition, end) = observed.find(|(t, p, end)| ends.get(*t, *p) != *end)?;
                let stated = ends.get(topic, partition);
                Some(format!("partition {partition} of {topic} ends at {end} and not {stated}"))
            };
            if let Some(detail) = differs(&cursor, position).or_else(ends_differ) {
                return Err(other(detail));
            }
        }
        match cursor.next()? {
            Ok(raw) if number < group => observed.observe(raw.entries()),
            Ok(raw) => {
                if number == group {
                    continues(&raw, position).map_err(other)?;
                }
                let advance = ends
                    .follow(raw.entries())
                    .map_err(|detail| other(format!("in group {number}, {detail}")))?;
                ends.advance(advance);
                before = LastGroup { upper: raw.upper(), digest: raw.digest(), epoch: raw.link().epoch };
            }
            Err(_) if number < group => {
                return Err(other(format!("it ends in front of group {number}")));
            }
            Err(torn) => return Ok(Checked { cursor, ends, before, torn }),
        }
    }
}

/// Says why the group behind a position does not continue it.
fn continues(raw: &RawGroup, position: &LogPosition) -> Result<(), String> {
    if raw.lower() != position.upper {
        return Err(format!("the group begins at tick {} and not {}", raw.lower().0, position.upper.0));
    }
    let previous = raw.link().previous;
    if previous != position.digest {
        return Err(format!("the group follows one of digest {previous} and not {}", position.digest));
    }
    Ok(())
}

/// Locks a log folder against other writers.
pub(super) fn lock(host: &Host, folder: &Path) -> Result<Arc<dyn OpenFile>, LogError> {
    let path: PathBuf = folder.join(LOCK);
    let write_error = |source| LogError::Write { path: path.clone(), source };
    let file = host.files.open(&path, OpenMode::CreateIfMissing).map_err(write_error)?;
    let mut tries = LOCK_TRIES;
    while !file.try_lock().map_err(write_error)? {
        let mut text = [0; 20];
        // The id only helps to find the process; a file that does not hold one names none.
        let length = file.read_up_to(&mut text, 0).unwrap_or(0);
        let pid = str::from_utf8(&text[..length]).ok().and_then(|text| text.trim().parse().ok());
        // A process that this one is just starting holds for a moment what is open here.
        if pid != Some(std::process::id()) || tries == 0 {
            return Err(LogError::Locked { path, pid });
        }
        tries -= 1;
        host.clock.sleep(LOCK_WAIT);
    }
    let text = format!("{}\n", std::process::id());
    file.set_len(0).and_then(|()| file.write_at(text.as_bytes(), 0)).map_err(write_error)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use tidegate_host::SimulatedHost;

    use super::*;

    #[test]
    fn a_failed_write_poisons_the_log_and_a_new_start_finds_what_was_acknowledged() {
        let machine = SimulatedHost::new(1);
        let folder = LogFolder::of_data(&machine.host(), Path::new("/data"));
        let (mut log, _) = folder.open(LogOptions::default()).unwrap();
        let group =
            |lower, upper| Group { frames: vec![], lower: Tick(lower), upper: Tick(upper), commit: false };
        log.append_and_wait(&group(0, 5)).unwrap();

        machine.files.refuse_writes(io::ErrorKind::StorageFull);
        match log.append(&group(5, 9)) {
            Err(LogError::Write { source, .. }) => assert_eq!(source.kind(), io::ErrorKind::StorageFull),
            other => panic!("{other:?}"),
        }
        machine.files.accept_writes();
        assert!(matches!(log.append(&group(5, 9)), Err(LogError::Poisoned { .. })));
        assert_eq!((log.upper(), log.next_group()), (Tick(5), 1));

        drop(log);
        let (_, recovery) = folder.open(LogOptions::default()).unwrap();
        assert_eq!(recovery, Recovery { groups: 1, upper: Tick(5), truncated: None });
    }
}
