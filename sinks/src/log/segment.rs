//! Segment files: their names, their blank space, and the next one prepared ahead of time.
//!
//! Making a write durable costs least where the file already has its length and its blocks were
//! written before. Measured: 0.1 ms for 36 KiB where a growing file takes 0.2, and 0.4 ms for 1 MiB
//! where it takes 3. So once a segment is half full, a thread fills the next one with zeros under
//! another name, at the pace of the log: an append waits behind a small piece at most. A segment
//! that is not ready in time gets its space by `fallocate`, and so does the first: a small log
//! writes nothing but its groups, unless it is about to accept calls
//! ([`super::EmbeddedLog::fill`]).

use std::io;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use tidegate_host::{Files, Host, JobQueue, OpenFile, OpenMode};

/// The sizes of an embedded log's segment files. They change no answer.
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

/// The name under which the next segment is prepared.
const NEXT: &str = "next";
/// How much is filled at once at least: a sync costs as much as filling some hundred KiB.
const FILL_BYTES_MIN: u64 = 256 << 10;
/// How much is filled at once at most. It can delay an append by that much.
const FILL_BYTES_MAX: u64 = 1 << 20;
/// How many bytes of the next segment may be filled for one that is appended to this one.
const FILL_AHEAD: u64 = 4;

/// Removes the segments that begin before group number `first`.
pub(super) fn remove_before(files: &dyn Files, folder: &Path, first: u64) -> io::Result<()> {
    let old: Vec<u64> = list(files, folder)?.into_iter().take_while(|old| *old < first).collect();
    for old in &old {
        files.remove(&path(folder, *old))?;
    }
    if old.is_empty() { Ok(()) } else { files.sync_folder(folder) }
}

/// The file of the segment that begins with group number `first`.
pub(super) fn path(folder: &Path, first: u64) -> PathBuf {
    folder.join(format!("{first:020}.seg"))
}

/// The numbers of the first groups of all segments, ascending.
pub(super) fn list(files: &dyn Files, folder: &Path) -> io::Result<Vec<u64>> {
    let first_of = |path: PathBuf| {
        let digits = path.file_name()?.to_str()?.strip_suffix(".seg")?;
        if digits.len() == 20 { digits.parse().ok() } else { None }
    };
    let mut firsts: Vec<u64> = files.list(folder)?.into_iter().filter_map(first_of).collect();
    firsts.sort_unstable();
    Ok(firsts)
}

/// Creates the segment that begins with group number `first`. Its name is durable on return.
pub(super) fn create(
    files: &dyn Files,
    folder: &Path,
    first: u64,
    bytes: u64,
) -> io::Result<Arc<dyn OpenFile>> {
    let file = files.open(&path(folder, first), OpenMode::CreateNew)?;
    reserve(&*file, 0, bytes);
    file.sync_all()?;
    files.sync_folder(folder)?;
    Ok(file)
}

/// Reserves blank space up to byte `end`, where the file system can. The log works without.
pub(super) fn reserve(file: &dyn OpenFile, at: u64, end: u64) {
    if at < end
        && let Err(error) = file.allocate(at, end - at)
    {
        tracing::warn!(%error, "cannot reserve space for the log ahead of time; appending to it is slower");
    }
}

/// Removes what a [`Preparation`] left when its process ended.
pub(super) fn remove_prepared(files: &dyn Files, folder: &Path) -> io::Result<()> {
    match files.remove(&folder.join(NEXT)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Writes zeros from `at` to `end`, so that a later sync of writes there writes no metadata.
pub(super) fn fill(file: &dyn OpenFile, at: u64, end: u64) -> io::Result<()> {
    let zeros = vec![0; FILL_BYTES_MAX as usize];
    let mut at = at;
    while at < end {
        let length = (end - at).min(FILL_BYTES_MAX);
        file.write_at(&zeros[..length as usize], at)?;
        at += length;
    }
    file.sync_data()
}

/// The next segment, while a thread fills it with zeros.
///
/// Each job of the thread fills one piece, as far as the log has permitted. So a simulation, in
/// which jobs run when they are stepped, prepares segments too.
pub(super) struct Preparation {
    files: Arc<dyn Files>,
    folder: PathBuf,
    bytes: u64,
    /// How many bytes the jobs that were pushed may fill.
    permitted: u64,
    fill: Arc<Mutex<Fill>>,
    queue: Box<dyn JobQueue>,
    is_taken: bool,
}

/// How far the next segment is filled.
struct Fill {
    file: Option<Arc<dyn OpenFile>>,
    filled: u64,
    is_stopped: bool,
    error: Option<io::Error>,
}

impl Preparation {
    /// Begins to prepare a segment of `bytes`.
    pub(super) fn start(host: &Host, folder: &Path, bytes: u64) -> io::Result<Preparation> {
        let fill = Fill { file: None, filled: 0, is_stopped: false, error: None };
        let preparation = Preparation {
            files: Arc::clone(&host.files),
            folder: folder.to_owned(),
            bytes,
            permitted: 0,
            fill: Arc::new(Mutex::new(fill)),
            queue: host.tasks.queue("log-segment")?,
            is_taken: false,
        };
        let (files, path) = (Arc::clone(&host.files), folder.join(NEXT));
        preparation.push(move |fill| {
            let file = files.open(&path, OpenMode::Truncate)?;
            reserve(&*file, 0, bytes);
            fill.file = Some(file);
            Ok(())
        });
        Ok(preparation)
    }

    /// Permits to fill more, now that so many bytes were appended to the segment before since this
    /// one was begun.
    pub(super) fn follow(&mut self, appended: u64) {
        let permitted = appended.saturating_mul(FILL_AHEAD).min(self.bytes);
        while self.permitted < permitted {
            let piece = (permitted - self.permitted).min(FILL_BYTES_MAX);
            if piece < FILL_BYTES_MIN && permitted < self.bytes {
                return;
            }
            self.permitted += piece;
            let (end, bytes) = (self.permitted, self.bytes);
            self.push(move |fill| fill.up_to(end, bytes));
        }
    }

    /// Runs `job` on the thread, unless one before it failed or the preparation was dropped.
    fn push(&self, job: impl FnOnce(&mut Fill) -> io::Result<()> + Send + 'static) {
        let fill = Arc::clone(&self.fill);
        self.queue.push(Box::new(move || {
            let mut fill = fill.lock();
            if !fill.is_stopped && fill.error.is_none() {
                fill.error = job(&mut fill).err();
            }
        }));
    }

    /// Whether [`Preparation::take`] would not wait.
    pub(super) fn is_ready(&self) -> bool {
        self.permitted == self.bytes && self.queue.is_idle()
    }

    /// The prepared segment under its final name, which is durable on return.
    pub(super) fn take(mut self, first: u64) -> io::Result<Arc<dyn OpenFile>> {
        self.queue.wait().unwrap_or_else(|panic| resume_unwind(panic));
        let file = {
            let mut fill = self.fill.lock();
            match fill.error.take() {
                Some(error) => return Err(error),
                None => fill.file.take().expect("the first job opened it"),
            }
        };
        self.files.rename(&self.folder.join(NEXT), &path(&self.folder, first))?;
        self.is_taken = true;
        self.files.sync_folder(&self.folder)?;
        Ok(file)
    }
}

impl Drop for Preparation {
    fn drop(&mut self) {
        if !self.is_taken {
            // A panic or an error of the thread does not matter: its file goes, here or at the next
            // start.
            self.fill.lock().is_stopped = true;
            let _ = self.queue.wait();
            let _ = remove_prepared(&*self.files, &self.folder);
        }
    }
}

impl Fill {
    /// Fills the segment of `bytes` as far as `end`, and makes that durable, so that an append
    /// never waits behind the whole segment.
    fn up_to(&mut self, end: u64, bytes: u64) -> io::Result<()> {
        let file = self.file.as_ref().expect("the first job opened it");
        fill(&**file, self.filled, end)?;
        self.filled = end;
        if end == bytes { file.sync_all() } else { Ok(()) }
    }
}
