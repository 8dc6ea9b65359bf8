//! The manifest of an archived range: its fields, its form in the store, and the chain of
//! manifests.

use serde::{Deserialize, Serialize};
use tidegate_facts::{Digest, Tick, Topic};

use super::{Archive, ArchiveError, MANIFESTS};
use crate::log::{EpochId, LogPosition};
use crate::store::Store;

const VERSION: u32 = 2;

/// The manifest of one archived range of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArchivedRange {
    /// The version of the form of manifests.
    pub version: u32,
    /// The identity of the log.
    pub log: EpochId,
    /// The position in front of its first group.
    pub start: LogPosition,
    /// The position after its last group.
    pub end: LogPosition,
    /// The number of rows in its frames.
    pub rows: u64,
    /// The size of its groups in the log, in bytes.
    pub log_bytes: u64,
    /// BLAKE3 of these bytes, one group after the other.
    pub digest: Digest,
    /// BLAKE3 of the manifest before; zeros for the first.
    pub previous: Digest,
    /// Its files.
    pub files: Vec<ArchivedFile>,
    /// The texts of dictionaries whose order does not follow from the rows.
    pub dictionaries: Vec<Vec<String>>,
    /// Its groups, in order.
    pub groups: Vec<ArchivedGroup>,
}

/// One file in the manifest of an archived range: the rows of the frames of one name and one set of
/// columns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArchivedFile {
    /// Its name in the store.
    pub name: String,
    /// The topic of the frames.
    pub topic: Topic,
    /// The name of the frames.
    pub frame: String,
    /// The number of its rows.
    pub rows: u64,
    /// Its size in bytes.
    pub bytes: u64,
    /// BLAKE3 of its bytes.
    pub digest: Digest,
    /// The columns that are dictionaries in the log, each as a path of column indexes.
    pub dictionaries: Vec<Vec<usize>>,
}

/// One group in the manifest of an archived range.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArchivedGroup {
    /// The tick at which it ends. It begins where the group before ends.
    pub upper: Tick,
    /// Whether its end is a commit boundary.
    pub commit: bool,
    /// The epoch in which it was appended.
    pub epoch: EpochId,
    /// BLAKE3 of its bytes in the log, without those that name the epoch.
    pub digest: Digest,
    /// Its frames, in order.
    pub frames: Vec<ArchivedFrame>,
    /// Bytes that do not follow from the rows, such as the unused bits of a bitmap: the index of
    /// the first of each run of them, and the bytes in hexadecimal.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub patch: Vec<(u64, String)>,
}

/// One frame of a group in the manifest of an archived range.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArchivedFrame {
    /// The index of its file in the range.
    pub file: usize,
    /// The number of its rows, which follow those of the frames before it in the file.
    pub rows: usize,
    /// For each dictionary column of the file, the index of its texts in the range; `None` where
    /// the texts are in the order of the rows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dictionaries: Vec<Option<usize>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Digested {
    range: ArchivedRange,
    /// BLAKE3 of the range's JSON form.
    digest: Digest,
}

impl ArchivedRange {
    /// The version of manifests that this build writes.
    pub(super) const VERSION: u32 = VERSION;

    /// The name of the manifest in the store.
    pub fn name(&self) -> String {
        name_of(self.start.group)
    }

    /// The number of its groups.
    pub fn groups_count(&self) -> u64 {
        self.end.group - self.start.group
    }

    /// The size of its files in bytes.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let digest = Digest::of(&serde_json::to_vec(self).expect("a range has a JSON form"));
        serde_json::to_vec(&Digested { range: self.clone(), digest }).expect("a range has a JSON form")
    }

    /// Reads the manifest `name`, and checks that it is the one that was written under that name.
    pub(super) fn decode(name: &str, bytes: &[u8]) -> Result<ArchivedRange, ArchiveError> {
        let broken = |what: String| ArchiveError::Manifest { name: name.to_owned(), what };
        let Digested { range, .. } =
            serde_json::from_slice(bytes).map_err(|e| broken(format!("cannot be read ({e})")))?;
        if range.version != VERSION {
            return Err(broken(format!("has version {}, which this build does not know", range.version)));
        }
        if range.encode() != bytes {
            return Err(broken("does not match its own digest".to_owned()));
        }
        if range.name() != name {
            return Err(broken(format!("is that of the range from group {} on", range.start.group)));
        }
        if range.end.group.checked_sub(range.start.group) != Some(range.groups.len() as u64)
            || range.groups.is_empty()
        {
            return Err(broken("does not list its groups".to_owned()));
        }
        Ok(range)
    }

    /// Checks that the range was archived from the log of this identity.
    pub(super) fn check_log(&self, identity: EpochId) -> Result<(), ArchiveError> {
        if self.log == identity {
            return Ok(());
        }
        let what = format!("belongs to log {}, not to log {identity}", self.log);
        Err(ArchiveError::Manifest { name: self.name(), what })
    }

    /// Checks that the range follows from the one that ended at `end`, whose manifest has the
    /// digest `head`.
    pub(super) fn check_follows(&self, end: &LogPosition, head: Digest) -> Result<(), ArchiveError> {
        let broken = |what: String| Err(ArchiveError::Manifest { name: self.name(), what });
        if self.start.group > end.group {
            let (from, to) = (end.group, self.start.group - 1);
            return broken(format!("leaves a gap: groups {from} to {to} are missing before it"));
        }
        if self.previous != head {
            let previous = self.previous;
            return broken(format!(
                "follows a manifest of digest {previous}, and the one before it has {head}"
            ));
        }
        if self.start != *end {
            return broken("does not begin where the range before it ends".to_owned());
        }
        Ok(())
    }
}

pub(super) fn name_of(group: u64) -> String {
    format!("{MANIFESTS}/{group:020}.json")
}

impl Archive {
    /// Reads and checks the manifests of a store, but not their files.
    ///
    /// # Errors
    /// [`ArchiveError::Manifest`] names the first that is not what was written.
    pub fn open(store: &Store) -> Result<Archive, ArchiveError> {
        let mut archive = Archive::default();
        for name in store.list(MANIFESTS)? {
            let bytes = store.get(&name)?;
            let range = ArchivedRange::decode(&name, &bytes)?;
            range.check_follows(&archive.end(), archive.head)?;
            if let Some(before) = archive.ranges.last() {
                range.check_log(before.log)?;
            }
            archive.head = Digest::of(&bytes);
            archive.ranges.push(range);
        }
        Ok(archive)
    }

    /// The position after its last group.
    pub fn end(&self) -> LogPosition {
        self.ranges.last().map(|range| range.end.clone()).unwrap_or_default()
    }
}
