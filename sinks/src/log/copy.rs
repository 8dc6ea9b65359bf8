//! Writes a new log folder from groups of another log: the same bytes, in segments of its own.
//!
//! The folder appears under its name whole and synced, or not at all.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tidegate_host::{Files, Host, OpenFile, OpenMode};

use super::base::{self, Base};
use super::error::LogError;
use super::position::{EpochId, LogPosition};
use super::raw_groups::RawGroup;
use super::segment::{self, LogOptions};

/// How much is written to a segment at once.
const BUFFER_BYTES: usize = 256 << 10;

/// A log folder while it is written.
pub(crate) struct LogCopy {
    files: Arc<dyn Files>,
    out: PathBuf,
    unfinished: PathBuf,
    segment_bytes: u64,
    segment: Option<CopySegment>,
    base: Base,
    /// Where the next group belongs.
    next: LogPosition,
}

/// The segment that is written.
struct CopySegment {
    file: Arc<dyn OpenFile>,
    /// What was pushed, and where in the file it begins.
    buffer: Vec<u8>,
    at: u64,
}

impl LogCopy {
    /// Begins the folder `out`, which must not exist, with a log of this identity whose first group
    /// is behind `start`.
    pub(crate) fn new(
        host: &Host,
        out: &Path,
        identity: EpochId,
        start: LogPosition,
        options: LogOptions,
    ) -> Result<LogCopy, LogError> {
        let files = Arc::clone(&host.files);
        let write_error = |source| LogError::Write { path: out.to_owned(), source };
        if files.exists(out) {
            return Err(write_error(io::Error::new(io::ErrorKind::AlreadyExists, "it exists already")));
        }
        let name = out.file_name().unwrap_or_default().to_string_lossy();
        let unfinished = out.with_file_name(format!("{name}.unfinished-{}", std::process::id()));
        files.create_folder(&unfinished).map_err(write_error)?;
        let (out, segment_bytes) = (out.to_owned(), options.segment_bytes);
        let (next, base) = (start.clone(), Base { identity, start });
        Ok(LogCopy { files, out, unfinished, segment_bytes, segment: None, base, next })
    }

    /// Adds the next group.
    ///
    /// # Panics
    /// When it does not continue the groups before.
    pub(crate) fn push(&mut self, raw: &RawGroup) -> Result<(), LogError> {
        let next =
            self.next.after(raw).unwrap_or_else(|detail| panic!("groups leave a gap or overlap: {detail}"));
        let length = raw.length();
        let full = self.segment.as_ref().is_some_and(|part| part.length() + length > self.segment_bytes);
        let path = segment::path(&self.unfinished, raw.number());
        let written = (|| {
            if full || self.segment.is_none() {
                self.close()?;
                let file = self.files.open(&path, OpenMode::CreateNew)?;
                self.segment = Some(CopySegment { file, buffer: Vec::new(), at: 0 });
            }
            let segment = self.segment.as_mut().expect("it was just opened");
            let (head, body) = raw.bytes();
            segment.write(&head)?;
            segment.write(body)
        })();
        written.map_err(|source| LogError::Write { path: path.clone(), source })?;
        self.next = next;
        Ok(())
    }

    /// Makes everything durable and gives the folder its name. Returns the position at which the
    /// log ends.
    pub(crate) fn finish(mut self) -> Result<LogPosition, LogError> {
        let out = self.out.clone();
        let write_error = |source| LogError::Write { path: out.clone(), source };
        self.close().map_err(write_error)?;
        base::write(&*self.files, &self.unfinished, &self.base)?;
        (|| {
            self.files.sync_folder(&self.unfinished)?;
            self.files.rename(&self.unfinished, &self.out)?;
            match self.out.parent().filter(|parent| !parent.as_os_str().is_empty()) {
                Some(parent) => self.files.sync_folder(parent),
                None => self.files.sync_folder(Path::new(".")),
            }
        })()
        .map_err(write_error)?;
        Ok(self.next.clone())
    }

    fn close(&mut self) -> io::Result<()> {
        if let Some(mut segment) = self.segment.take() {
            segment.flush()?;
            segment.file.sync_all()?;
        }
        Ok(())
    }
}

impl CopySegment {
    fn length(&self) -> u64 {
        self.at + self.buffer.len() as u64
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= BUFFER_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write_at(&self.buffer, self.at)?;
        self.at += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

impl Drop for LogCopy {
    /// Removes a folder that was not finished.
    fn drop(&mut self) {
        let _ = self.files.remove_folder(&self.unfinished);
    }
}
