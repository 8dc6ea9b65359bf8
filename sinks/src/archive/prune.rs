//! Removes segments of the log that its retention releases, once they were read back from the
//! archive.
//!
//! The order is: rebuild the ranges from the archive and compare each group with the log, make the
//! log's new beginning durable, remove the segments, and make that durable. A crash in between
//! leaves a log that begins at the old or at the new position, and opens either way.

use tidegate_facts::Span;

use super::{Archive, ArchiveError, verify};
use crate::log::{LockedLog, LogPosition, LogReader, Start, Until};
use crate::store::Store;

/// The retention by which a log is pruned. The last segment always stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogRetention {
    /// Facts admitted in the last so much tick time stay.
    pub span: Option<Span>,
    /// At least so many bytes of segments stay.
    pub bytes: Option<u64>,
}

/// What pruning removed from a log that is archived.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// The number of removed segments.
    pub segments: u64,
    /// The number of their groups.
    pub groups: u64,
    /// Their size in bytes.
    pub bytes: u64,
    /// The number of segments that the retention releases and whose groups are not archived.
    pub unarchived: u64,
    /// The position at which the log begins now.
    pub base: LogPosition,
}

/// Prunes a log: removes the segments that `retention` releases and that the archive in `store`
/// has.
///
/// # Errors
/// When a range with a group that would be removed does not verify, or differs from the log. Then
/// nothing is removed.
pub fn prune(log: &LockedLog, store: &Store, retention: LogRetention) -> Result<Pruned, ArchiveError> {
    let archive = Archive::open(store)?;
    let base = log.start().clone();
    let segments = log.segments()?;
    // Each segment ends where the next begins, so the last one stays.
    let firsts: Vec<u64> = segments.iter().skip(1).map(|segment| segment.first).collect();
    let positions = positions(log, &base, &firsts)?;
    let Some(upper) = positions.upper else { return Ok(Pruned { base, ..Pruned::default() }) };

    let mut pruned = Pruned { base: base.clone(), ..Pruned::default() };
    let mut left: u64 = segments.iter().map(|segment| segment.bytes).sum();
    for (segment, end) in segments.iter().zip(&positions.list) {
        left -= segment.bytes;
        let age = upper.micros() - end.upper.micros();
        let too_young = retention.span.is_some_and(|span| age < span.micros());
        let too_few = retention.bytes.is_some_and(|bytes| left < bytes);
        if too_young || too_few {
            break;
        }
        if end.group > archive.end().group {
            pruned.unarchived += 1;
            continue;
        }
        pruned.segments += 1;
        pruned.bytes += segment.bytes;
        pruned.groups = end.group - base.group;
        pruned.base = end.clone();
    }
    if pruned.segments == 0 {
        return Ok(pruned);
    }
    let (from, to) = (base.group, pruned.base.group);
    for range in archive.ranges.iter().filter(|r| r.end.group > from && r.start.group < to) {
        verify::rebuild(range, store)?;
        verify::compare(range, log.folder(), from)?;
    }
    log.prune_before(&pruned.base)?;
    Ok(pruned)
}

struct Positions {
    /// The positions in front of the requested groups.
    list: Vec<LogPosition>,
    /// The tick at which the log ends; `None` when it is empty.
    upper: Option<tidegate_facts::Tick>,
}

/// Walks the log for the positions in front of some of its groups, whose numbers ascend.
fn positions(log: &LockedLog, base: &LogPosition, requested: &[u64]) -> Result<Positions, ArchiveError> {
    let mut positions = Positions { list: Vec::with_capacity(requested.len()), upper: None };
    let mut at = base.clone();
    let mut groups = log.folder().read(Start::Group(base.group), Until::Complete)?;
    while let Some(raw) = groups.next_raw() {
        let raw = raw?;
        if requested.get(positions.list.len()) == Some(&raw.number()) {
            positions.list.push(at.clone());
        }
        at = at.after(&raw).map_err(|what| ArchiveError::Group {
            name: log.folder().location().display().to_string(),
            group: raw.number(),
            what,
        })?;
        positions.upper = Some(at.upper);
    }
    Ok(positions)
}
