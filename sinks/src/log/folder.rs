//! The embedded log of a data folder: where it is, how it is read, and how it is opened for
//! appending.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tidegate_facts::{Tick, Topic};
use tidegate_host::{Files, Host};

use super::base::{self, Base};
use super::cursor::{Cursor, FolderGroups};
use super::{
    EmbeddedLog, EpochId, Frame, Groups, LockedLog, LogCopy, LogError, LogPosition, LogReader, Start, Until,
    segment, topic,
};

/// The name of the log's folder in a data folder.
const NAME: &str = "log";

/// The folder of an embedded log, on the machine that holds it. A clone is cheap.
///
/// It reads the log, as a [`LogReader`]; [`LogFolder::open`] opens the log for appending.
#[derive(Clone, Debug)]
pub struct LogFolder {
    host: Host,
    folder: Arc<Path>,
}

/// Sizes of the embedded log. They change no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogOptions {
    /// The length to which a segment file grows. A greater group gets a segment of its own.
    pub segment_bytes: u64,
}

impl Default for LogOptions {
    /// Segments of 64 MiB.
    fn default() -> LogOptions {
        LogOptions { segment_bytes: 64 << 20 }
    }
}

/// What opening a log for appending found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovery {
    /// The number of groups.
    pub groups: u64,
    /// The tick at which the last of them ends.
    pub upper: Tick,
    /// The torn end that was cut off.
    pub truncated: Option<TornEnd>,
}

/// A group at the end of a log that was never acknowledged, because it is not whole.
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

impl LogFolder {
    /// The log of the data folder `data`. There need not be one yet.
    pub fn of_data(host: &Host, data: &Path) -> LogFolder {
        LogFolder::at(host, &data.join(NAME))
    }

    /// The log in `folder` itself, such as one that was hydrated from the archive.
    pub fn at(host: &Host, folder: &Path) -> LogFolder {
        LogFolder { host: host.clone(), folder: Arc::from(folder) }
    }

    /// The path of the folder.
    pub fn path(&self) -> &Path {
        &self.folder
    }

    /// Whether the folder exists.
    pub fn exists(&self) -> bool {
        self.files().is_folder(&self.folder)
    }

    /// Opens the log for appending, or begins one. Every byte from its start on is read and
    /// checked.
    ///
    /// # Errors
    /// [`LogError::Locked`] when another writer has it open; [`LogError::Damaged`] when bytes other
    /// than a torn end differ from what was written; else what the file system refuses.
    pub fn open(&self, options: LogOptions) -> Result<(EmbeddedLog, Recovery), LogError> {
        EmbeddedLog::open_folder(self, options, None, Tick::ZERO)
    }

    /// As [`LogFolder::open`], where every fact before the tick `acknowledged` is known to have
    /// been durable.
    ///
    /// # Errors
    /// [`LogError::Lost`] when the log ends before that tick. A torn end is then left as it is.
    pub fn open_acknowledged(
        &self,
        options: LogOptions,
        acknowledged: Tick,
    ) -> Result<(EmbeddedLog, Recovery), LogError> {
        EmbeddedLog::open_folder(self, options, None, acknowledged)
    }

    /// As [`LogFolder::open_acknowledged`], where everything before the position `checked` was
    /// checked before.
    ///
    /// Reading begins with the segment that holds the group behind the position.
    ///
    /// # Errors
    /// [`LogError::OtherPosition`] when the position is not one of this log. Nothing was changed
    /// then, and [`LogFolder::open`] checks all of the log.
    pub fn open_from(
        &self,
        options: LogOptions,
        checked: &LogPosition,
        acknowledged: Tick,
    ) -> Result<(EmbeddedLog, Recovery), LogError> {
        EmbeddedLog::open_folder(self, options, Some(checked), acknowledged)
    }

    /// Locks the log, so that nobody appends to it.
    ///
    /// # Errors
    /// [`LogError::Locked`] when a writer has it open; when there is none, or it cannot be read.
    pub fn lock(&self) -> Result<LockedLog, LogError> {
        LockedLog::new(self)
    }

    /// Makes this folder, which must not exist, a copy of a log: the same identity, groups and
    /// bytes, in segments of this size. Returns the position at which the copy ends.
    ///
    /// # Errors
    /// When the log cannot be read, or the folder exists or cannot be written. There is no folder
    /// then.
    pub fn copy_from(&self, log: &dyn LogReader, options: LogOptions) -> Result<LogPosition, LogError> {
        let start = log.start()?.ok_or_else(|| LogError::NoLog { location: log.location() })?;
        let mut groups = log.read(Start::Group(start.group), Until::Complete)?;
        let mut copy = LogCopy::new(&self.host, &self.folder, log.identity()?, start, options)?;
        while let Some(raw) = groups.next_raw() {
            copy.push(&raw?)?;
        }
        copy.finish()
    }

    pub(super) fn host(&self) -> &Host {
        &self.host
    }

    pub(super) fn files(&self) -> &dyn Files {
        &*self.host.files
    }

    /// The numbers of the first groups of all segments, ascending.
    pub(super) fn segments(&self) -> Result<Vec<u64>, LogError> {
        segment::list(self.files(), &self.folder)
            .map_err(|source| LogError::Read { path: self.folder.to_path_buf(), source })
    }

    /// The path of the segment whose first group has this number.
    pub(super) fn segment(&self, first: u64) -> PathBuf {
        segment::path(&self.folder, first)
    }

    /// The identity and the start of the log; `None` when nothing was ever appended or opened
    /// there.
    pub(super) fn base(&self) -> Result<Option<Base>, LogError> {
        // In this order: a writer creates `BASE` before its first segment.
        let has_segments = !self.segments()?.is_empty();
        match base::read(self.files(), &self.folder)? {
            None if has_segments => Err(base::missing(&self.folder)),
            base => Ok(base),
        }
    }
}

impl LogReader for LogFolder {
    fn identity(&self) -> Result<EpochId, LogError> {
        let base = if self.exists() { self.base()? } else { None };
        base.map(|base| base.identity).ok_or_else(|| LogError::NoLog { location: self.location() })
    }

    fn start(&self) -> Result<Option<LogPosition>, LogError> {
        if !self.exists() {
            return Ok(None);
        }
        Ok(Some(self.base()?.unwrap_or_default().start))
    }

    fn position(&self) -> Result<LogPosition, LogError> {
        topic::end_of(self)
    }

    fn read(&self, from: Start, until: Until) -> Result<Groups, LogError> {
        Ok(Groups::new(Box::new(FolderGroups::open(self, from, until)?)))
    }

    fn read_topic(&self, topic: Topic) -> Result<Vec<Frame>, LogError> {
        topic::read(self, topic)
    }

    fn torn_end(&self, from: u64) -> Result<Option<TornEnd>, LogError> {
        let mut cursor = Cursor::open(self, |header, _| header.group < from)?;
        loop {
            if let Err(torn) = cursor.next()? {
                return Ok(torn);
            }
        }
    }

    fn location(&self) -> PathBuf {
        self.folder.to_path_buf()
    }

    /// The last segment; of a log without segments, the one that its first group would begin.
    fn end_location(&self) -> PathBuf {
        let start = || self.base().ok().flatten().unwrap_or_default().start.group;
        let last = self.segments().ok().and_then(|firsts| firsts.last().copied());
        self.segment(last.unwrap_or_else(start))
    }
}
