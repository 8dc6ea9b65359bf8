//! A log that nobody appends to while it is read to its end, or pruned.

use std::sync::Arc;

use tidegate_host::{OpenFile, OpenMode};

use super::base::Base;
use super::embedded;
use super::error::LogError;
use super::location::LogFolder;
use super::position::LogPosition;
use super::segment;

/// A locked log: an embedded log to which nobody else can append, and whose every whole group is
/// durable.
pub struct LockedLog {
    log: LogFolder,
    base: Base,
    _lock: Arc<dyn OpenFile>,
}

/// A segment file of a locked log, which pruning can remove.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The number of its first group.
    pub first: u64,
    /// The length of its file in bytes.
    pub bytes: u64,
}

impl LockedLog {
    pub(super) fn new(log: &LogFolder) -> Result<LockedLog, LogError> {
        let firsts = log.segments()?;
        let lock = embedded::lock(log.host(), log.path())?;
        // The page cache may hold what a killed process wrote and did not sync.
        if let Some(last) = firsts.last() {
            let path = log.segment(*last);
            let synced = log.files().open(&path, OpenMode::Write).and_then(|file| file.sync_all());
            synced.map_err(|source| LogError::Write { path, source })?;
        }
        Ok(LockedLog { log: log.clone(), base: log.base()?.unwrap_or_default(), _lock: lock })
    }

    /// The folder of the log, to read it.
    pub fn folder(&self) -> &LogFolder {
        &self.log
    }

    /// The position at which the log begins: in front of group 0 unless it was pruned.
    pub fn start(&self) -> &LogPosition {
        &self.base.start
    }

    /// Its segments from the start on, in order.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn segments(&self) -> Result<Vec<Segment>, LogError> {
        let firsts = self.log.segments()?.into_iter().filter(|first| *first >= self.base.start.group);
        firsts
            .map(|first| {
                let path = segment::path(self.log.path(), first);
                match self.log.files().metadata(&path) {
                    Ok(metadata) => Ok(Segment { first, bytes: metadata.bytes }),
                    Err(source) => Err(LogError::Read { path, source }),
                }
            })
            .collect()
    }

    /// Has the log begin at `position`, where a segment begins, and removes the segments before it.
    ///
    /// The new start is durable before the first segment goes. What a crash leaves of the others is
    /// removed when the log is opened.
    ///
    /// # Errors
    /// When the folder cannot be written.
    ///
    /// # Panics
    /// When no segment begins at the position.
    pub(crate) fn prune_before(&self, position: &LogPosition) -> Result<(), LogError> {
        let base = Base { identity: self.base.identity, start: position.clone() };
        embedded::prune(&self.log, &base)
    }
}
