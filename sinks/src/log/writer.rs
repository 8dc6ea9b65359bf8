//! Appends groups, and says that they are durable.
//!
//! Each append is one write and one flush. A failed one poisons the log: after a failed flush the
//! page cache may hold what the disk does not, so only a new start, which reads the disk, can
//! tell what is there.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tidegate_facts::{Tick, Topic};

use super::cursor::{Cursor, End};
use super::format::{ALIGNMENT, Encoder};
use super::offsets::EndOffsets;
use super::segment::{self, Preparation};
use super::{Group, LogError, LogMark};

pub(super) const LOCK: &str = "LOCK";

/// Sizes of the log. They change no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogOptions {
    /// How large a segment file grows. A greater group gets a segment of its own.
    pub segment_bytes: u64,
}

impl Default for LogOptions {
    /// Segments of 64 MiB.
    fn default() -> LogOptions {
        LogOptions { segment_bytes: 64 << 20 }
    }
}

/// What was found when a log was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovery {
    /// How many groups there are.
    pub groups: u64,
    /// Where the last of them ends.
    pub upper: Tick,
    /// The torn end that was taken back.
    pub truncated: Option<Truncated>,
}

/// A group that was not whole and never acknowledged, and is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Truncated {
    /// The segment file.
    pub segment: PathBuf,
    /// Where in it the group began.
    pub at: u64,
    /// How far from there anything had been written.
    pub bytes: u64,
}

/// The log of a data folder, open for appending; at most one is at a time.
pub struct EmbeddedLog {
    folder: PathBuf,
    options: LogOptions,
    /// Locked as long as it is open.
    _lock: File,
    segment: Segment,
    next: Option<Preparation>,
    encoder: Encoder,
    groups: u64,
    upper: Tick,
    ends: EndOffsets,
    poisoned: bool,
}

/// The segment that is appended to.
struct Segment {
    first: u64,
    file: File,
    /// Where the next group goes.
    at: u64,
    /// Where the space ends that was reserved.
    end: u64,
    /// How long the last sync took.
    synced: Duration,
}

impl EmbeddedLog {
    /// Opens the log in `folder`, or begins one. Every byte from where it begins on is read and checked.
    ///
    /// # Errors
    /// [`LogError::Locked`] when another one is open on the folder, [`LogError::Damaged`] when bytes
    /// other than a torn end are not what was written; the rest is what the file system refuses.
    pub fn open(folder: &Path, options: LogOptions) -> Result<(EmbeddedLog, Recovery), LogError> {
        EmbeddedLog::open_checked(folder, options, None, Tick::ZERO)
    }

    /// As [`EmbeddedLog::open`], where everything before the tick `acknowledged` is known to have been durable.
    ///
    /// # Errors
    /// [`LogError::Lost`] when the log ends before it. What looks torn is then left as it is.
    pub fn open_acknowledged(
        folder: &Path,
        options: LogOptions,
        acknowledged: Tick,
    ) -> Result<(EmbeddedLog, Recovery), LogError> {
        EmbeddedLog::open_checked(folder, options, None, acknowledged)
    }

    /// Opens the log in `folder`, trusting that all before `trusted` was checked before.
    ///
    /// What is read and checked begins with the segment that holds the group in front of which the
    /// mark stands.
    ///
    /// # Errors
    /// [`LogError::OtherMark`] when the mark is no place of this log, and nothing was changed: then
    /// [`EmbeddedLog::open`] tells what the log is worth. Else as there.
    pub fn open_from(
        folder: &Path,
        options: LogOptions,
        trusted: &LogMark,
        acknowledged: Tick,
    ) -> Result<(EmbeddedLog, Recovery), LogError> {
        EmbeddedLog::open_checked(folder, options, Some(trusted), acknowledged)
    }

    fn open_checked(
        folder: &Path,
        options: LogOptions,
        trusted: Option<&LogMark>,
        acknowledged: Tick,
    ) -> Result<(EmbeddedLog, Recovery), LogError> {
        let write_error = |source| LogError::Write { path: folder.to_owned(), source };
        fs::create_dir_all(folder).map_err(write_error)?;
        if let Some(parent) = folder.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            segment::sync_folder(parent).map_err(write_error)?;
        }
        let lock = lock(&folder.join(LOCK))?;
        segment::remove_prepared(folder).map_err(write_error)?;

        let (cursor, ends, torn) = match trusted {
            None => check_all(folder)?,
            Some(trusted) => check_from(folder, trusted)?,
        };
        // What is left of segments whose removal was cut short.
        segment::remove_before(folder, cursor.base().group).map_err(write_error)?;
        let (first, at) = cursor.place();
        let path = segment::path(folder, first);
        let upper = cursor.lower().expect("the cursor began at the first group or has read one");
        if upper < acknowledged {
            return Err(LogError::Lost { segment: path, at, upper, acknowledged });
        }
        let truncated = torn.map(|(detail, bytes)| {
            let segment = path.display();
            tracing::warn!(%segment, at, bytes, detail, "the log's last group was torn and is taken back");
            Truncated { segment: path.clone(), at, bytes }
        });
        let segment = Segment::open(folder, first, at, options.segment_bytes)
            .map_err(|source| LogError::Write { path, source })?;
        let recovery = Recovery { groups: cursor.group(), upper, truncated };
        let log = EmbeddedLog {
            folder: folder.to_owned(),
            options,
            _lock: lock,
            segment,
            next: None,
            encoder: Encoder::new(),
            groups: recovery.groups,
            upper,
            ends,
            poisoned: false,
        };
        Ok((log, recovery))
    }

    /// Appends a group and returns its number. The group is durable then.
    ///
    /// # Errors
    /// [`LogError::Encode`] changes nothing; after any other error the log takes nothing more.
    ///
    /// # Panics
    /// When the group does not begin where the one before ended, holds facts outside its ticks or out of
    /// order, or when its offsets leave a gap or overlap.
    pub fn append(&mut self, group: &Group) -> Result<u64, LogError> {
        assert_eq!(group.lower, self.upper, "groups leave a gap or overlap");
        assert!(group.lower <= group.upper, "a group ends before it begins");
        if self.poisoned {
            return Err(LogError::Poisoned { path: self.folder.clone() });
        }
        let number = self.groups;
        let (bytes, entries) = self.encoder.encode(number, group, &self.ends)?;
        let advance = self
            .ends
            .follow(&entries)
            .unwrap_or_else(|detail| panic!("offsets leave a gap or overlap: {detail}"));

        let length = bytes.len() as u64;
        debug_assert!(length.is_multiple_of(ALIGNMENT as u64), "groups are whole pieces");
        self.poisoned = true;
        let write_error = |path: PathBuf| |source| LogError::Write { path, source };
        if self.segment.at + length > self.segment.end {
            if self.segment.at > 0 {
                let end = length.max(self.options.segment_bytes);
                let next = self.next.take_if(|next| next.is_ready() && end == self.options.segment_bytes);
                self.segment = roll(&self.folder, &self.segment, number, end, next)
                    .map_err(write_error(self.folder.clone()))?;
            } else {
                segment::reserve(&self.segment.file, 0, length);
                self.segment.end = length;
            }
        }
        let path = segment::path(&self.folder, self.segment.first);
        self.segment.append(bytes).map_err(write_error(path))?;
        self.poisoned = false;

        self.ends.advance(advance);
        self.upper = group.upper;
        self.groups += 1;
        self.prepare();
        Ok(number)
    }

    /// How long the last group waited for the disk to have it. Telemetry only.
    pub fn synced(&self) -> Duration {
        self.segment.synced
    }

    /// Where the last group ended, and the next one begins.
    pub fn upper(&self) -> Tick {
        self.upper
    }

    /// The number of the next group: all before it are durable.
    pub fn next_group(&self) -> u64 {
        self.groups
    }

    /// The log's present end: what [`EmbeddedLog::open_from`] may begin at later.
    pub fn mark(&self) -> LogMark {
        LogMark { group: self.groups, upper: self.upper, ends: self.ends.list() }
    }

    /// The offset of the partition's next record.
    pub fn end_offset(&self, topic: Topic, partition: u16) -> u64 {
        self.ends.get(topic, partition)
    }

    /// The folder of the log.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Writes zeros over what the segment has left, as for every segment that follows: small groups are durable sooner then.
    ///
    /// A log works without, so what the file system refuses is told and no error.
    pub fn fill(&mut self) {
        if let Err(error) = segment::fill(&self.segment.file, self.segment.at, self.segment.end) {
            tracing::warn!(%error, "the log's segment cannot be filled ahead, so appending to it is slower");
        }
    }

    /// Has the next segment made ready once this one is half full.
    fn prepare(&mut self) {
        let bytes = self.options.segment_bytes;
        if let Some(behind_half) = self.segment.at.checked_sub(bytes / 2).filter(|behind| *behind > 0) {
            let next = self.next.get_or_insert_with(|| Preparation::start(&self.folder, bytes));
            next.follow(behind_half);
        }
    }
}

impl Drop for EmbeddedLog {
    /// Gives the blank space back; the log is the same without.
    fn drop(&mut self) {
        if !self.poisoned
            && let Err(error) = self.segment.file.set_len(self.segment.at)
        {
            tracing::warn!(%error, "the log's last segment keeps its blank space");
        }
    }
}

impl Segment {
    /// The last segment, of which nothing behind `at` is kept.
    fn open(folder: &Path, first: u64, at: u64, segment_bytes: u64) -> io::Result<Segment> {
        let path = segment::path(folder, first);
        let end = segment_bytes.max(at);
        let file = match OpenOptions::new().read(true).write(true).open(path) {
            Ok(file) => {
                // Cut even where only zeros follow, so that nothing unseen can be behind `at`.
                file.set_len(at)?;
                segment::reserve(&file, at, end);
                file.sync_all()?;
                file
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => segment::create(folder, first, end)?,
            Err(error) => return Err(error),
        };
        Ok(Segment { first, file, at, end, synced: Duration::ZERO })
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, self.at)?;
        let from = Instant::now();
        self.file.sync_data()?;
        self.synced = from.elapsed();
        self.at += bytes.len() as u64;
        Ok(())
    }
}

/// Closes a segment behind its last group, and begins the one of group number `first`.
fn roll(
    folder: &Path,
    full: &Segment,
    first: u64,
    end: u64,
    next: Option<Preparation>,
) -> io::Result<Segment> {
    full.file.set_len(full.at)?;
    full.file.sync_all()?;
    let prepared = next.map(|next| next.take(first)).transpose().unwrap_or_else(|error| {
        tracing::warn!(%error, "the log's next segment could not be made ready ahead of time");
        None
    });
    let file = match prepared {
        Some(file) => file,
        None => segment::create(folder, first, end)?,
    };
    Ok(Segment { first, file, at: 0, end, synced: Duration::ZERO })
}

/// A torn group: what of it was written, and in how many bytes.
type Torn = Option<(String, u64)>;

/// Walks the whole log.
fn check_all(folder: &Path) -> Result<(Cursor, EndOffsets, Torn), LogError> {
    let mut cursor = Cursor::open(folder, |_, _| false)?;
    let mut ends = EndOffsets::from_mark(cursor.base());
    loop {
        match cursor.next()? {
            Ok(found) => {
                let advance =
                    ends.follow(&found.entries).map_err(|detail| cursor.damaged_before(&found, detail))?;
                ends.advance(advance);
            }
            Err(End { torn }) => return Ok((cursor, ends, torn)),
        }
    }
}

/// Walks the log from the segment that holds the trusted mark.
fn check_from(folder: &Path, trusted: &LogMark) -> Result<(Cursor, EndOffsets, Torn), LogError> {
    let group = trusted.group;
    let other = |detail: String| LogError::OtherMark { folder: folder.to_owned(), group, detail };
    let mut cursor = Cursor::open(folder, |header, _| header.group <= group)?;
    if group < cursor.base().group {
        return Err(other(format!("it was pruned up to group {}", cursor.base().group)));
    }
    let mut ends = EndOffsets::from_mark(trusted);
    let mut before = EndOffsets::default();
    loop {
        let number = cursor.group();
        if number == group {
            if let Some(lower) = cursor.lower().filter(|lower| *lower != trusted.upper) {
                return Err(other(format!(
                    "the group begins at tick {} and not {}",
                    lower.0, trusted.upper.0
                )));
            }
            if let Some((topic, partition, end)) =
                before.list().into_iter().find(|(topic, partition, end)| ends.get(*topic, *partition) != *end)
            {
                let marked = ends.get(topic, partition);
                return Err(other(format!(
                    "partition {partition} of {topic} ends at {end} and not {marked}"
                )));
            }
        }
        match cursor.next()? {
            Ok(found) if number < group => before.learn(&found.entries),
            Ok(found) => {
                if number == group && found.header.lower != trusted.upper {
                    let (is, marked) = (found.header.lower.0, trusted.upper.0);
                    return Err(other(format!("the group begins at tick {is} and not {marked}")));
                }
                let advance = ends
                    .follow(&found.entries)
                    .map_err(|detail| other(format!("in group {number}, {detail}")))?;
                ends.advance(advance);
            }
            Err(End { .. }) if number < group => {
                return Err(other(format!("it ends in front of group {number}")));
            }
            Err(End { torn }) => return Ok((cursor, ends, torn)),
        }
    }
}

pub(super) fn lock(path: &Path) -> Result<File, LogError> {
    let write_error = |source| LogError::Write { path: path.to_owned(), source };
    let mut options = OpenOptions::new();
    let mut file =
        options.read(true).write(true).create(true).truncate(false).open(path).map_err(write_error)?;
    let mut patience = 50;
    loop {
        match file.try_lock() {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                // The id only helps to find the process; a file that does not hold one names none.
                let _ = file.rewind().and_then(|()| file.read_to_string(&mut text));
                let pid = text.trim().parse().ok();
                // A process that this one is just starting holds what is open here for a moment.
                if pid == Some(std::process::id()) && patience > 0 {
                    patience -= 1;
                    std::thread::sleep(Duration::from_millis(2));
                    continue;
                }
                return Err(LogError::Locked { path: path.to_owned(), pid });
            }
            Err(TryLockError::Error(source)) => return Err(write_error(source)),
        }
    }
    file.rewind().map_err(write_error)?;
    file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(write_error)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_poisons_the_log_and_a_new_start_finds_what_was_acknowledged() {
        let folder = tempfile::tempdir().unwrap();
        let (mut log, _) = EmbeddedLog::open(folder.path(), LogOptions::default()).unwrap();
        let group =
            |lower, upper| Group { frames: vec![], lower: Tick(lower), upper: Tick(upper), commit: false };
        log.append(&group(0, 5)).unwrap();

        let full_disk = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let disk = std::mem::replace(&mut log.segment.file, full_disk);
        match log.append(&group(5, 9)) {
            Err(LogError::Write { source, .. }) => assert_eq!(source.kind(), io::ErrorKind::StorageFull),
            other => panic!("{other:?}"),
        }
        log.segment.file = disk;
        assert!(matches!(log.append(&group(5, 9)), Err(LogError::Poisoned { .. })));
        assert_eq!((log.upper(), log.next_group()), (Tick(5), 1));

        drop(log);
        let (_, recovery) = EmbeddedLog::open(folder.path(), LogOptions::default()).unwrap();
        assert_eq!(recovery, Recovery { groups: 1, upper: Tick(5), truncated: None });
    }
}
