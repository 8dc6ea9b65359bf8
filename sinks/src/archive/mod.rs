//! The archive: sealed ranges of the log as Parquet in the object store, from which the very groups are rebuilt.
//!
//! A range is some whole groups. It ends with the first group that brings it to 64 MiB or to 4,096
//! groups, or that ended a run; so where ranges end follows from the log, and to archive it again finds
//! everything done. What follows the last such group stays in the log alone until more comes.
//!
//! | name | holds |
//! |---|---|
//! | `archive/ranges/<first group>/<topic>.<frame name>.<n>-<digest>.parquet` | the rows of the range's frames of one name and one set of columns, in log order, behind `_group` and `_frame`, which say where each stands |
//! | `archive/manifests/<first group>.json` | a [`Range`]: where it begins and ends, its files and groups, and their digests |
//!
//! A file counts only once a manifest names it. Each manifest names the digest of the one before.
//!
//! Invariants:
//! * A range is published only after each of its groups was rebuilt from its files, byte for byte.
//! * Nothing is read from the archive without its digest having been compared.
//! * Nothing leaves the log before the same call has rebuilt it from the archive and compared it.
//!
//! `shred` turns frames into files and back, `write` publishes, `history` reads archive and log as one,
//! `verify` looks at everything, `prune` frees the log.

mod error;
mod history;
mod hydrate;
mod manifest;
mod prune;
mod range;
mod shred;
mod topic;
mod verify;
mod write;

pub use error::ArchiveError;
pub use history::{Bound, History, Preference, read_range};
pub use hydrate::{Hydrated, hydrate};
pub use manifest::{ArchivedFile, ArchivedGroup, Range};
pub use prune::{Keep, Pruned, prune};
pub use topic::read_topic;
pub use verify::{Verified, verify};
pub use write::{Written, write};

const MANIFESTS: &str = "archive/manifests";
const RANGES: &str = "archive/ranges";

/// The archived ranges of a store, each checked against the one before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Archive {
    /// In order, without gaps.
    pub ranges: Vec<Range>,
    /// BLAKE3 of the last manifest; zeros when there is none.
    pub head: tidegate_facts::Digest,
}
