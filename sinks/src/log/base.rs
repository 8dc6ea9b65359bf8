//! The file `BASE` of a log folder: the identity of the log, and the position at which it begins.
//!
//! It is durable before the first segment is created, and again before the first segment of a
//! pruned log is removed. So a segment that is missing for another reason is never taken for a
//! pruned one, segments before the start are leftovers, and a folder with segments always has an
//! identity.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use tidegate_facts::Digest;
use tidegate_host::{Files, OpenMode};

use super::error::LogError;
use super::position::{EpochId, LogPosition};

const NAME: &str = "BASE";
const UNFINISHED: &str = "BASE.unfinished";
const VERSION: u32 = 2;

/// What a log folder says of the log as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Base {
    /// The id of the log's first epoch.
    pub(super) identity: EpochId,
    /// In front of the first group that the folder holds.
    pub(super) start: LogPosition,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct BaseFile {
    version: u32,
    base: Base,
    /// BLAKE3 of the base's JSON form.
    digest: Digest,
}

/// Reads `BASE`; `None` when the folder has none.
pub(super) fn read(files: &dyn Files, folder: &Path) -> Result<Option<Base>, LogError> {
    let path = folder.join(NAME);
    let bytes = match files.read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(LogError::Read { path, source }),
    };
    let broken = |detail: String| LogError::Base { path: path.clone(), detail };
    let file: BaseFile = serde_json::from_slice(&bytes).map_err(|error| broken(error.to_string()))?;
    if file.version != VERSION {
        return Err(broken(format!("it has version {}", file.version)));
    }
    if file.digest != digest_of(&file.base) || encode(&file.base) != bytes {
        return Err(broken("it does not match its digest".to_owned()));
    }
    Ok(Some(file.base))
}

/// The error that a folder has segments and no `BASE`.
pub(super) fn missing(folder: &Path) -> LogError {
    let detail = "it is missing, though the log has segments".to_owned();
    LogError::Base { path: folder.join(NAME), detail }
}

/// Writes `BASE`, in place of the one before. Durable on return.
pub(super) fn write(files: &dyn Files, folder: &Path, base: &Base) -> Result<(), LogError> {
    let path = folder.join(NAME);
    let unfinished = folder.join(UNFINISHED);
    let written = (|| {
        let file = files.open(&unfinished, OpenMode::Truncate)?;
        file.write_at(&encode(base), 0)?;
        file.sync_all()?;
        files.rename(&unfinished, &path)?;
        files.sync_folder(folder)
    })();
    written.map_err(|source| LogError::Write { path, source })
}

fn digest_of(base: &Base) -> Digest {
    Digest::of(&serde_json::to_vec(base).expect("a base has a JSON form"))
}

fn encode(base: &Base) -> Vec<u8> {
    let file = BaseFile { version: VERSION, base: base.clone(), digest: digest_of(base) };
    serde_json::to_vec(&file).expect("a base has a JSON form")
}
