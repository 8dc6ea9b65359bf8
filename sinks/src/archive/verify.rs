//! Looks at every manifest, every file and every group of an archive, and names whatever is not as it was written.

use std::collections::BTreeSet;
use std::path::Path;

use tidegate_facts::Digest;

use super::manifest::{Range, name_of};
use super::range::RangeGroups;
use super::{ArchiveError, MANIFESTS, RANGES};
use crate::log::{LogMark, Start, Until, read_base, read_raw};
use crate::store::Store;

/// What was looked at, and what is wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// How many ranges there are,
    pub ranges: u64,
    /// with how many groups
    pub groups: u64,
    /// and rows.
    pub rows: u64,
    /// The bytes of their files.
    pub bytes: u64,
    /// How many of the groups also stand in the log, and are the same there.
    pub in_log: u64,
    /// What is wrong, each in a sentence that names it. The archive is complete and unchanged when there is none.
    pub faults: Vec<String>,
    /// What belongs to no manifest: an archiving that was cut short leaves it, and the next one uses it.
    pub unclaimed: Vec<String>,
}

/// Rebuilds every group of the archive in `store`, and compares it with the log in the folder `log` where that holds it.
///
/// # Errors
/// When the store cannot be listed, or the log cannot be read. What is wrong with the archive is in the answer.
pub fn verify(log: &Path, store: &Store) -> Result<Verified, ArchiveError> {
    let mut verified = Verified::default();
    let mut ranges: Vec<Range> = Vec::new();
    let mut claimed: BTreeSet<String> = BTreeSet::new();
    // Where the next range begins and the digest of the manifest before it, as far as they are known.
    let mut expected = Some((LogMark::default(), Digest::default()));
    for name in store.list(MANIFESTS)? {
        let read = store.read(&name).map_err(ArchiveError::from);
        match read.and_then(|bytes| Ok((Range::decode(&name, &bytes)?, Digest::of(&bytes)))) {
            Err(error) => {
                verified.faults.push(error.to_string());
                expected = None;
            }
            Ok((range, digest)) => {
                if let Some((end, head)) = &expected
                    && let Err(error) = range.check_follows(end, *head)
                {
                    verified.faults.push(error.to_string());
                }
                expected = Some((range.end.clone(), digest));
                claimed.extend(range.files.iter().map(|file| file.name.clone()));
                ranges.push(range);
            }
        }
    }
    for range in &ranges {
        verified.ranges += 1;
        verified.groups += range.groups_count();
        verified.rows += range.rows;
        verified.bytes += range.bytes();
        if let Err(error) = rebuild(range, store) {
            verified.faults.push(error.to_string());
        }
    }
    for folder in store.list(RANGES)? {
        let names = store.list(&folder)?;
        verified.unclaimed.extend(names.into_iter().filter(|name| !claimed.contains(name)));
    }
    if log.is_dir() {
        let base = read_base(log)?;
        let end = ranges.last().map_or(0, |range| range.end.group);
        if base.group > end {
            let (name, last) = (name_of(end), base.group - 1);
            verified.faults.push(format!(
                "groups {end} to {last} were pruned from the log and no manifest has them: `{name}` and what follows it \
                 is missing; restore the archive from a copy"
            ));
        }
        for range in &ranges {
            match compare(range, log, base.group) {
                Ok(same) => verified.in_log += same,
                Err(ArchiveError::Log(error)) => return Err(error.into()),
                Err(error) => verified.faults.push(error.to_string()),
            }
        }
    }
    Ok(verified)
}

/// Rebuilds every group of a range.
pub(super) fn rebuild(range: &Range, store: &Store) -> Result<(), ArchiveError> {
    let mut groups = RangeGroups::open(range, store)?;
    while groups.next()?.is_some() {}
    Ok(())
}

/// Compares the groups of a range with those in the log, which begins with group `base`. Returns how many are in both.
pub(super) fn compare(range: &Range, log: &Path, base: u64) -> Result<u64, ArchiveError> {
    let first = range.start.group.max(base);
    if first >= range.end.group {
        return Ok(0);
    }
    let mut same = 0;
    let mut upper = None;
    for raw in read_raw(log, Start::Group(first), Until::Group(range.end.group))? {
        let raw = raw?;
        let archived = &range.groups[(raw.number() - range.start.group) as usize];
        if raw.digest() != archived.digest {
            return Err(ArchiveError::Group {
                name: range.name(),
                group: raw.number(),
                what: "is another one in the log".to_owned(),
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
