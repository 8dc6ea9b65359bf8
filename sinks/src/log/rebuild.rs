//! Writes a log folder from groups as they stood in another: the same bytes, in segments of its own.
//!
//! The folder appears under its name whole and synced, or not at all.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::mark::{self, LogMark};
use super::raw::RawGroup;
use super::{LogError, LogOptions, segment};

/// A log folder in the making.
pub(crate) struct Rebuild {
    out: PathBuf,
    unfinished: PathBuf,
    segment_bytes: u64,
    segment: Option<Part>,
    base: LogMark,
    /// Where the next group belongs.
    next: LogMark,
}

/// The segment that is written.
struct Part {
    file: io::BufWriter<File>,
    bytes: u64,
}

impl Rebuild {
    /// Begins the folder `out`, which must not be there, with a log whose first group follows `base`.
    pub(crate) fn new(out: &Path, base: LogMark, options: LogOptions) -> Result<Rebuild, LogError> {
        let write_error = |source| LogError::Write { path: out.to_owned(), source };
        if out.exists() {
            return Err(write_error(io::Error::new(io::ErrorKind::AlreadyExists, "it is there already")));
        }
        let name = out.file_name().unwrap_or_default().to_string_lossy();
        let unfinished = out.with_file_name(format!("{name}.unfinished-{}", std::process::id()));
        fs::create_dir_all(&unfinished).map_err(write_error)?;
        let (out, segment_bytes) = (out.to_owned(), options.segment_bytes);
        Ok(Rebuild { out, unfinished, segment_bytes, segment: None, next: base.clone(), base })
    }

    /// Adds the next group.
    ///
    /// # Panics
    /// When it is another group than the next.
    pub(crate) fn push(&mut self, raw: &RawGroup) -> Result<(), LogError> {
        let next =
            self.next.after(raw).unwrap_or_else(|what| panic!("groups leave a gap or overlap: {what}"));
        let length = raw.length();
        let full = self.segment.as_ref().is_some_and(|part| part.bytes + length > self.segment_bytes);
        let path = segment::path(&self.unfinished, raw.number());
        let written = (|| {
            if full || self.segment.is_none() {
                self.close()?;
                self.segment = Some(Part { file: io::BufWriter::new(File::create_new(&path)?), bytes: 0 });
            }
            let part = self.segment.as_mut().expect("it was just opened");
            let (head, body) = raw.bytes();
            part.file.write_all(&head)?;
            part.file.write_all(body)?;
            part.bytes += length;
            Ok(())
        })();
        written.map_err(|source| LogError::Write { path: path.clone(), source })?;
        self.next = next;
        Ok(())
    }

    /// Makes everything durable and gives the folder its name. Returns where the log ends.
    pub(crate) fn finish(mut self) -> Result<LogMark, LogError> {
        let out = self.out.clone();
        let write_error = |source| LogError::Write { path: out.clone(), source };
        self.close().map_err(write_error)?;
        if self.base.group > 0 {
            mark::write_base(&self.unfinished, &self.base)?;
        }
        (|| {
            segment::sync_folder(&self.unfinished)?;
            fs::rename(&self.unfinished, &self.out)?;
            match self.out.parent().filter(|parent| !parent.as_os_str().is_empty()) {
                Some(parent) => segment::sync_folder(parent),
                None => segment::sync_folder(Path::new(".")),
            }
        })()
        .map_err(write_error)?;
        Ok(self.next.clone())
    }

    fn close(&mut self) -> io::Result<()> {
        if let Some(part) = self.segment.take() {
            part.file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        }
        Ok(())
    }
}

impl Drop for Rebuild {
    /// An unfinished folder is of no use to anyone.
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.unfinished);
    }
}
