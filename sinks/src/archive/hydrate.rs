//! Rebuilds a log folder of a range: the same groups, byte for byte, in segments of its own.

use std::path::Path;

use super::ArchiveError;
use super::history::{Bound, Preference, read_range};
use crate::log::{LogMark, LogOptions, Rebuild};
use crate::store::Store;

/// What was rebuilt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hydrated {
    /// The place in front of its first group.
    pub start: LogMark,
    /// The place behind its last.
    pub end: LogMark,
    /// How many rows its frames have.
    pub rows: u64,
    /// How many bytes.
    pub bytes: u64,
}

/// Makes the folder `out`, which must not be there, a log of the groups between the bounds, from the archive
/// and, behind its end, from the log in the folder `log`.
///
/// # Errors
/// [`ArchiveError::Missing`] says what is in neither; [`ArchiveError::Empty`] when no group lies between the
/// bounds. Then there is no folder.
pub fn hydrate(
    log: &Path,
    store: &Store,
    from: Bound,
    to: Option<Bound>,
    out: &Path,
) -> Result<Hydrated, ArchiveError> {
    let mut groups = read_range(log, Some(store), from, to, Preference::Archive)?;
    let empty = || {
        let to = to.map_or_else(|| "the end".to_owned(), |to| to.to_string());
        ArchiveError::Empty { from: from.to_string(), to }
    };
    let first = groups.next_raw()?.ok_or_else(empty)?;
    let start = groups.before().expect("who prefers the archive knows the offsets").clone();
    let mut rebuild = Rebuild::new(out, start.clone(), LogOptions::default())?;
    let (mut rows, mut bytes) = (0, 0);
    let mut next = Some(first);
    while let Some(raw) = next {
        rebuild.push(&raw)?;
        rows += raw.rows();
        bytes += raw.length();
        next = groups.next_raw()?;
    }
    let end = rebuild.finish()?;
    Ok(Hydrated { start, end, rows, bytes })
}
