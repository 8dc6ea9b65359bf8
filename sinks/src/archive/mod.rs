//! The archive: ranges of the log as Parquet files in the store, from which the same groups are
//! rebuilt.
//!
//! A range consists of whole groups. It ends with the first group that brings it to 64 MiB or to
//! 4,096 groups, or that ended a run. So the ends of ranges follow from the log, and archiving it
//! again finds everything done. The groups after the last complete range stay in the log alone
//! until more follow.
//!
//! | object | holds |
//! |---|---|
//! | `archive/ranges/<first group>/<topic>.<frame name>.<n>-<digest>.parquet` | rows of the range |
//! | `archive/manifests/<first group>.json` | one [`ArchivedRange`] |
//!
//! A file has the rows of all frames of one name and one set of columns, in log order. Its first
//! columns `_group` and `_frame` say which frame each row belongs to. A file counts only once a
//! manifest names it. Each manifest names the digest of the one before.
//!
//! Invariants:
//! * A range is published only after each of its groups was rebuilt from its files, byte for byte.
//! * Nothing is read from the archive without its digest being compared.
//! * Nothing is removed from the log unless the same call rebuilt it from the archive and compared
//!   it.
//!
//! `columnar` turns frames into files and back, `write` publishes, `range_reader` reads archive and
//! log as one, `verify` checks everything, and `prune` frees the log.

mod columnar;
mod error;
mod hydrate;
mod manifest;
mod prune;
mod range;
mod range_reader;
mod topic;
mod verify;
mod write;

pub use error::ArchiveError;
pub use hydrate::{Hydrated, hydrate};
pub use manifest::{ArchivedFile, ArchivedFrame, ArchivedGroup, ArchivedRange};
pub use prune::{LogRetention, Pruned, prune};
pub use range_reader::{Bound, Preference, RangeReader, read_range};
pub use topic::read_topic;
pub use verify::{ArchiveCheck, verify};
pub use write::{ArchiveReport, write};

const MANIFESTS: &str = "archive/manifests";
const RANGES: &str = "archive/ranges";

/// The archive of a log: the manifests of its ranges, each checked against the one before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Archive {
    /// The ranges in order, without gaps.
    pub ranges: Vec<ArchivedRange>,
    /// BLAKE3 of the last manifest; zeros when there is none.
    pub head: tidegate_facts::Digest,
}
