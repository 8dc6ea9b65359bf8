//! The manifest of a range, its form in the store, and the chain of them.

use serde::{Deserialize, Serialize};
use tidegate_facts::{Digest, Tick, Topic};

use super::{Archive, ArchiveError, MANIFESTS};
use crate::log::LogMark;
use crate::store::Store;

const VERSION: u32 = 1;

/// One archived range of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Range {
    /// The version of this form.
    pub version: u32,
    /// The place in front of its first group.
    pub start: LogMark,
    /// The place behind its last group.
    pub end: LogMark,
    /// How many rows its frames have.
    pub rows: u64,
    /// How many bytes its groups have in the log.
    pub log_bytes: u64,
    /// BLAKE3 of those bytes, one group behind the other.
    pub digest: Digest,
    /// BLAKE3 of the manifest before; zeros for the first.
    pub previous: Digest,
    /// Its files.
    pub files: Vec<ArchivedFile>,
    /// Texts of dictionaries that do not follow from the rows.
    pub dictionaries: Vec<Vec<String>>,
    /// Its groups, in order.
    pub groups: Vec<ArchivedGroup>,
}

/// One file of a range: the rows of the frames of one name and one set of columns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArchivedFile {
    /// Its name in the store.
    pub name: String,
    /// The topic of the frames.
    pub topic: Topic,
    /// The name of the frames.
    pub frame: String,
    /// How many rows it holds.
    pub rows: u64,
    /// How many bytes.
    pub bytes: u64,
    /// BLAKE3 of those bytes.
    pub digest: Digest,
    /// The columns that are dictionaries in the log, each as a path of places.
    pub dictionaries: Vec<Vec<usize>>,
}

/// One group of a range.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArchivedGroup {
    /// Where it ends in time; it begins where the one before ends.
    pub upper: Tick,
    /// Whether its end is a commit boundary.
    pub commit: bool,
    /// BLAKE3 of its bytes in the log.
    pub digest: Digest,
    /// Its frames, in order.
    pub frames: Vec<ArchivedFrame>,
    /// Bytes that no row tells, such as the unused bits of a bitmap: their places, and the bytes in hexadecimal.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub patch: Vec<(u64, String)>,
}

/// One frame of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArchivedFrame {
    /// The place of its file in the range.
    pub file: usize,
    /// How many rows of it, behind those of the frames before.
    pub rows: usize,
    /// For each dictionary column of the file, the place of its texts in the range; `None` where they
    /// stand in the order in which the rows have them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dictionaries: Vec<Option<usize>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Signed {
    range: Range,
    /// BLAKE3 of the range's JSON form.
    digest: Digest,
}

impl Range {
    /// The version that this build writes.
    pub(super) const VERSION: u32 = VERSION;

    /// The name of its manifest.
    pub fn name(&self) -> String {
        name_of(self.start.group)
    }

    /// How many groups it has.
    pub fn groups_count(&self) -> u64 {
        self.end.group - self.start.group
    }

    /// How many bytes its files have.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let digest = Digest::of(&serde_json::to_vec(self).expect("a range has a JSON form"));
        serde_json::to_vec(&Signed { range: self.clone(), digest }).expect("a range has a JSON form")
    }

    /// Reads the manifest `name`, and checks that it is what was written under that name.
    pub(super) fn decode(name: &str, bytes: &[u8]) -> Result<Range, ArchiveError> {
        let broken = |what: String| ArchiveError::Manifest { name: name.to_owned(), what };
        let signed: Signed =
            serde_json::from_slice(bytes).map_err(|e| broken(format!("cannot be read ({e})")))?;
        let range = signed.range;
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

    /// Says what is wrong when the range does not follow from the one that ended at `end` with digest `head`.
    pub(super) fn check_follows(&self, end: &LogMark, head: Digest) -> Result<(), ArchiveError> {
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
            let bytes = store.read(&name)?;
            let range = Range::decode(&name, &bytes)?;
            range.check_follows(&archive.end(), archive.head)?;
            archive.head = Digest::of(&bytes);
            archive.ranges.push(range);
        }
        Ok(archive)
    }

    /// The place behind its last group.
    pub fn end(&self) -> LogMark {
        self.ranges.last().map(|range| range.end.clone()).unwrap_or_default()
    }
}
