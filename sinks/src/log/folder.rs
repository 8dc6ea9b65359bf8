//! The embedded log of a data folder as readers and starts use it: read, opened for appending,
//! locked and copied.

use std::path::PathBuf;

use tidegate_facts::{Tick, Topic};

use super::copy::LogCopy;
use super::cursor::{Cursor, FolderGroups};
use super::embedded::{EmbeddedLog, Recovery};
use super::error::LogError;
use super::group::Frame;
use super::location::LogFolder;
use super::locked::LockedLog;
use super::position::{EpochId, LogPosition};
use super::reader::{Groups, LogReader, Start, TornEnd, Until};
use super::segment::LogOptions;
use super::topic;

impl LogFolder {
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
        let mut copy = LogCopy::new(self.host(), self.path(), log.identity()?, start, options)?;
        while let Some(raw) = groups.next_raw() {
            copy.push(&raw?)?;
        }
        copy.finish()
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
        self.path().to_path_buf()
    }

    /// The last segment; of a log without segments, the one that its first group would begin.
    fn end_location(&self) -> PathBuf {
        let start = || self.base().ok().flatten().unwrap_or_default().start.group;
        let last = self.segments().ok().and_then(|firsts| firsts.last().copied());
        self.segment(last.unwrap_or_else(start))
    }
}
