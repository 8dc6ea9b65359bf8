//! Rebuilds a log folder from the archive: the same groups, byte for byte, in segments of its own.

use std::path::Path;

use tidegate_host::Host;

use super::error::ArchiveError;
use super::range_reader::{Bound, Preference, read_range};
use crate::log::{LogCopy, LogOptions, LogPosition, LogReader};
use crate::store::Store;

/// What hydrating rebuilt from the archive: the positions, rows and bytes of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hydrated {
    /// The position in front of its first group.
    pub start: LogPosition,
    /// The position after its last group.
    pub end: LogPosition,
    /// The number of rows in its frames.
    pub rows: u64,
    /// The size of its groups in bytes.
    pub bytes: u64,
}

/// Hydrates a log: creates the folder `out` with a log of the groups between the bounds. They come
/// from the archive and, after its end, from `log`. The folder must not exist before; `host` has
/// it.
///
/// # Errors
/// [`ArchiveError::Missing`] when a group is in neither; [`ArchiveError::Empty`] when no group is
/// between the bounds. After an error the folder does not exist.
pub fn hydrate(
    log: &dyn LogReader,
    store: &Store,
    from: Bound,
    to: Option<Bound>,
    host: &Host,
    out: &Path,
) -> Result<Hydrated, ArchiveError> {
    let mut groups = read_range(log, Some(store), from, to, Preference::Archive)?;
    let empty = || {
        let to = to.map_or_else(|| "the end".to_owned(), |to| to.to_string());
        ArchiveError::Empty { from: from.to_string(), to }
    };
    let first = groups.next_raw()?.ok_or_else(empty)?;
    let start = groups.before().expect("a reader that prefers the archive knows its positions").clone();
    let identity = match groups.archive().ranges.last() {
        Some(range) => range.log,
        None => log.identity()?,
    };
    let mut copy = LogCopy::new(host, out, identity, start.clone(), LogOptions::default())?;
    let (mut rows, mut bytes) = (0, 0);
    let mut next = Some(first);
    while let Some(raw) = next {
        copy.push(&raw)?;
        rows += raw.rows();
        bytes += raw.length();
        next = groups.next_raw()?;
    }
    let end = copy.finish()?;
    Ok(Hydrated { start, end, rows, bytes })
}
