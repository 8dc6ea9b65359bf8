//! A place between two groups, and the file that says where a pruned log begins.
//!
//! A log whose first segments were removed keeps the file `BASE`: the [`LogMark`] of its first group
//! under a digest. It is made durable before the first segment goes, so a segment that is missing for
//! another reason is never taken for a pruned one, and segments before the mark are leftovers.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use tidegate_facts::{Digest, Tick, Topic};

use super::{LogError, segment};

const BASE: &str = "BASE";
const VERSION: u32 = 1;

/// A place between two groups of a log: what was before it, in so far as what follows depends on it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogMark {
    /// The number of the group that follows.
    pub group: u64,
    /// The tick at which that group begins.
    pub upper: Tick,
    /// The next offset of every partition that has records before, ascending.
    pub ends: Vec<(Topic, u16, u64)>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Base {
    version: u32,
    mark: LogMark,
    /// BLAKE3 of the mark's JSON form.
    digest: Digest,
}

/// Where the log in `folder` begins: at its first group of all, unless it was pruned.
///
/// # Errors
/// When the file that says so cannot be read, or is not what was written.
pub fn read_base(folder: &Path) -> Result<LogMark, LogError> {
    let path = folder.join(BASE);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(LogMark::default()),
        Err(source) => return Err(LogError::Read { path, source }),
    };
    let broken = |detail: String| LogError::Base { path: path.clone(), detail };
    let base: Base = serde_json::from_slice(&bytes).map_err(|error| broken(error.to_string()))?;
    if base.version != VERSION {
        return Err(broken(format!("it has version {}", base.version)));
    }
    if base.digest != digest_of(&base.mark) || encode(&base.mark) != bytes {
        return Err(broken("it does not match its digest".to_owned()));
    }
    Ok(base.mark)
}

/// Has the log in `folder` begin at `mark` from now on. Durable when this returns.
pub(super) fn write_base(folder: &Path, mark: &LogMark) -> Result<(), LogError> {
    let path = folder.join(BASE);
    let unfinished = folder.join("BASE.unfinished");
    let written = (|| {
        let mut file = File::create(&unfinished)?;
        file.write_all(&encode(mark))?;
        file.sync_all()?;
        fs::rename(&unfinished, &path)?;
        segment::sync_folder(folder)
    })();
    written.map_err(|source| LogError::Write { path, source })
}

fn digest_of(mark: &LogMark) -> Digest {
    Digest::of(&serde_json::to_vec(mark).expect("a mark has a JSON form"))
}

fn encode(mark: &LogMark) -> Vec<u8> {
    let base = Base { version: VERSION, mark: mark.clone(), digest: digest_of(mark) };
    serde_json::to_vec(&base).expect("a mark has a JSON form")
}
