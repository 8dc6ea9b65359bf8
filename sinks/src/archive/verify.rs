//! Checks every manifest, every file and every group of an archive, and names each that was
//! changed.

use std::collections::BTreeSet;

use tidegate_facts::Digest;

use super::manifest::{ArchivedRange, name_of};
use super::range::RangeGroups;
use super::{ArchiveError, MANIFESTS, RANGES};
use crate::log::{LogPosition, LogReader, Start, Until};
use crate::store::Store;

/// The outcome of verifying an archive of the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ArchiveCheck {
    /// The number of ranges.
    pub ranges: u64,
    /// The number of their groups.
    pub groups: u64,
    /// The number of their rows.
    pub rows: u64,
    /// The size of their files in bytes.
    pub bytes: u64,
    /// The number of groups that the log also has, and that are the same there.
    pub in_log: u64,
    /// What is wrong, one sentence each. The archive is complete and unchanged if there is none.
    pub faults: Vec<String>,
    /// Files that no manifest names. An interrupted archiving leaves them, and the next one uses
    /// them.
    pub unclaimed: Vec<String>,
}

/// Verifies the archive in `store`: rebuilds every group, and compares it with that of `log` if the
/// log has it.
///
/// # Errors
/// When the store cannot be listed or the log cannot be read. Faults of the archive are in the
/// result.
pub fn verify(log: &dyn LogReader, store: &Store) -> Result<ArchiveCheck, ArchiveError> {
    let mut check = ArchiveCheck::default();
    let mut ranges: Vec<ArchivedRange> = Vec::new();
    let mut claimed: BTreeSet<String> = BTreeSet::new();
    // The position at which the next range begins and the digest of the manifest before it, if
    // known.
    let mut expected = Some((LogPosition::default(), Digest::default()));
    for name in store.list(MANIFESTS)? {
        let read = store.get(&name).map_err(ArchiveError::from);
        match read.and_then(|bytes| Ok((ArchivedRange::decode(&name, &bytes)?, Digest::of(&bytes)))) {
            Err(error) => {
                check.faults.push(error.to_string());
                expected = None;
            }
            Ok((range, digest)) => {
                if let Some((end, head)) = &expected
                    && let Err(error) = range.check_follows(end, *head)
                {
                    check.faults.push(error.to_string());
                }
                expected = Some((range.end.clone(), digest));
                claimed.extend(range.files.iter().map(|file| file.name.clone()));
                ranges.push(range);
            }
        }
    }
    for range in &ranges {
        check.ranges += 1;
        check.groups += range.groups_count();
        check.rows += range.rows;
        check.bytes += range.bytes();
        if let Err(error) = rebuild(range, store) {
            check.faults.push(error.to_string());
        }
    }
    for folder in store.list(RANGES)? {
        let names = store.list(&folder)?;
        check.unclaimed.extend(names.into_iter().filter(|name| !claimed.contains(name)));
    }
    if let Some(start) = log.start()? {
        let end = ranges.last().map_or(0, |range| range.end.group);
        if start.group > end {
            let (name, last) = (name_of(end), start.group - 1);
            check.faults.push(format!(
                "groups {end} to {last} were pruned from the log and no manifest has them: `{name}` and what follows it \
                 is missing; restore the archive from a copy"
            ));
        }
        let identity = log.identity()?;
        for range in &ranges {
            match range.check_log(identity).and_then(|()| compare(range, log, start.group)) {
                Ok(same) => check.in_log += same,
                Err(ArchiveError::Log(error)) => return Err(error.into()),
                Err(error) => check.faults.push(error.to_string()),
            }
        }
    }
    Ok(check)
}

/// Rebuilds every group of a range.
pub(super) fn rebuild(range: &ArchivedRange, store: &Store) -> Result<(), ArchiveError> {
    let mut groups = RangeGroups::open(range, store)?;
    while groups.next()?.is_some() {}
    Ok(())
}

/// Compares the groups of a range with those of the log, which begins with group `start`. Returns
/// the number of groups that both have.
pub(super) fn compare(range: &ArchivedRange, log: &dyn LogReader, start: u64) -> Result<u64, ArchiveError> {
    let first = range.start.group.max(start);
    if first >= range.end.group {
        return Ok(0);
    }
    let mut same = 0;
    let mut upper = None;
    let mut groups = log.read(Start::Group(first), Until::Group(range.end.group))?;
    while let Some(raw) = groups.next_raw() {
        let raw = raw?;
        let archived = &range.groups[(raw.number() - range.start.group) as usize];
        if raw.digest() != archived.digest {
            return Err(ArchiveError::Group {
                name: range.name(),
                group: raw.number(),
                what: "differs from the one in the log".to_owned(),
            });
        }
        upper = Some(raw.upper());
        same += 1;
    }
    if upper.is_some_and(|upper| upper != range.end.upper) {
        let what = "ends at another tick than in the log".to_owned();
        return Err(ArchiveError::Manifest { name: range.name(), what });
    }
    Ok(same)
}
