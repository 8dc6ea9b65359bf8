//! Frees the log of segments that need not stay, once this very call has seen them in the archive.
//!
//! The order is: rebuild the ranges from the archive and compare each group with the log, make the
//! log's new beginning durable, remove the segments, make that durable. A crash in between leaves a log
//! that begins where it did, or where it should, and opens either way.

use tidegate_facts::Span;

use super::{Archive, ArchiveError, verify};
use crate::log::{HeldLog, LogMark, Start, Until, read_raw};
use crate::store::Store;

/// What must stay in the log. With neither, only its last segment must.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keep {
    /// What was admitted in the last so much tick time,
    pub span: Option<Span>,
    /// and at least so many bytes of segments.
    pub bytes: Option<u64>,
}

/// What pruning did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// How many segments went,
    pub segments: u64,
    /// with how many groups
    pub groups: u64,
    /// and bytes.
    pub bytes: u64,
    /// How many segments could go and wait until their groups are archived.
    pub unarchived: u64,
    /// Where the log begins now.
    pub base: LogMark,
}

/// Removes the segments of a log that `keep` allows to go and that the archive in `store` holds.
///
/// # Errors
/// When a range that holds a group to be removed does not verify, or differs from the log: then nothing
/// was removed.
pub fn prune(log: &HeldLog, store: &Store, keep: Keep) -> Result<Pruned, ArchiveError> {
    let archive = Archive::open(store)?;
    let base = log.base()?;
    let segments = log.segments()?;
    // Where each segment ends is where the next begins, so the last never goes.
    let firsts: Vec<u64> = segments.iter().skip(1).map(|segment| segment.first).collect();
    let marks = marks(log, &base, &firsts)?;
    let Some(upper) = marks.upper else { return Ok(Pruned { base, ..Pruned::default() }) };

    let mut pruned = Pruned { base: base.clone(), ..Pruned::default() };
    let mut left: u64 = segments.iter().map(|segment| segment.bytes).sum();
    for (segment, mark) in segments.iter().zip(&marks.list) {
        left -= segment.bytes;
        let age = upper.micros() - mark.upper.micros();
        let too_young = keep.span.is_some_and(|span| age < span.micros());
        let too_few = keep.bytes.is_some_and(|bytes| left < bytes);
        if too_young || too_few {
            break;
        }
        if mark.group > archive.end().group {
            pruned.unarchived += 1;
            continue;
        }
        pruned.segments += 1;
        pruned.bytes += segment.bytes;
        pruned.groups = mark.group - base.group;
        pruned.base = mark.clone();
    }
    if pruned.segments == 0 {
        return Ok(pruned);
    }
    let (from, to) = (base.group, pruned.base.group);
    for range in archive.ranges.iter().filter(|r| r.end.group > from && r.start.group < to) {
        verify::rebuild(range, store)?;
        verify::compare(range, log.folder(), from)?;
    }
    log.drop_before(&pruned.base)?;
    Ok(pruned)
}

struct Marks {
    /// The places in front of the groups that were asked for.
    list: Vec<LogMark>,
    /// Where the log ends; `None` when it is empty.
    upper: Option<tidegate_facts::Tick>,
}

/// Walks the log for the places in front of some of its groups, which ascend.
fn marks(log: &HeldLog, base: &LogMark, wanted: &[u64]) -> Result<Marks, ArchiveError> {
    let mut marks = Marks { list: Vec::with_capacity(wanted.len()), upper: None };
    let mut at = base.clone();
    for raw in read_raw(log.folder(), Start::Group(base.group), Until::Complete)? {
        let raw = raw?;
        if wanted.get(marks.list.len()) == Some(&raw.number()) {
            marks.list.push(at.clone());
        }
        at = at.after(&raw).map_err(|what| ArchiveError::Group {
            name: log.folder().display().to_string(),
            group: raw.number(),
            what,
        })?;
        marks.upper = Some(at.upper);
    }
    Ok(marks)
}
