//! A log that nobody appends to: read to its end, and freed of segments that lie elsewhere.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use super::mark::{self, LogMark};
use super::{LogError, segment, writer};

/// A log whose lock is held, and whose every whole group is durable.
pub struct HeldLog {
    folder: PathBuf,
    _lock: File,
}

/// A segment file of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The number of its first group.
    pub first: u64,
    /// The length of its file in bytes.
    pub bytes: u64,
}

impl HeldLog {
    /// Holds the log in `folder`.
    ///
    /// # Errors
    /// [`LogError::Locked`] while a log is open on the folder; when there is none, or it cannot be read.
    pub fn new(folder: &Path) -> Result<HeldLog, LogError> {
        let read_error = |source| LogError::Read { path: folder.to_owned(), source };
        let firsts = segment::list(folder).map_err(read_error)?;
        let lock = writer::lock(&folder.join(writer::LOCK))?;
        // What a killed process wrote may not be on the disk yet.
        if let Some(last) = firsts.last() {
            let path = segment::path(folder, *last);
            File::open(&path)
                .and_then(|file| file.sync_all())
                .map_err(|source| LogError::Write { path, source })?;
        }
        Ok(HeldLog { folder: folder.to_owned(), _lock: lock })
    }

    /// The folder of the log.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where the log begins; at group 0 unless it was pruned.
    ///
    /// # Errors
    /// When `BASE` is damaged.
    pub fn base(&self) -> Result<LogMark, LogError> {
        mark::read_base(&self.folder)
    }

    /// Its segments from the base on, in order.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn segments(&self) -> Result<Vec<Segment>, LogError> {
        let base = self.base()?;
        let read = || -> std::io::Result<Vec<Segment>> {
            let firsts = segment::list(&self.folder)?.into_iter().filter(|first| *first >= base.group);
            firsts
                .map(|first| {
                    let bytes = fs::metadata(segment::path(&self.folder, first))?.len();
                    Ok(Segment { first, bytes })
                })
                .collect()
        };
        read().map_err(|source| LogError::Read { path: self.folder.clone(), source })
    }

    /// Has the log begin at `mark`, where a segment begins, and removes the segments before it.
    ///
    /// The new beginning is durable before the first segment goes; what a crash leaves of the others
    /// is removed when the log is opened.
    ///
    /// # Errors
    /// When the folder cannot be written.
    ///
    /// # Panics
    /// When no segment begins at the mark.
    pub(crate) fn drop_before(&self, mark: &LogMark) -> Result<(), LogError> {
        assert!(
            segment::path(&self.folder, mark.group).is_file(),
            "a log begins where one of its segments does"
        );
        mark::write_base(&self.folder, mark)?;
        segment::remove_before(&self.folder, mark.group)
            .map_err(|source| LogError::Write { path: self.folder.clone(), source })
    }
}
