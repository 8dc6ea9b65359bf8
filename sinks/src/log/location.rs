//! Where an embedded log is: its folder, the machine that has it, its segments and its `BASE`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tidegate_host::{Files, Host};

use super::base::{self, Base};
use super::error::LogError;
use super::segment;

/// The name of the log's folder in a data folder.
const NAME: &str = "log";

/// The location of an embedded log: its folder, on the machine that holds it. A clone is cheap.
///
/// It reads the log, as a [`LogReader`]; [`LogFolder::open`] opens the log for appending.
#[derive(Clone, Debug)]
pub struct LogFolder {
    host: Host,
    folder: Arc<Path>,
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
