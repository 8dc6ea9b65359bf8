//! Why the archive could not be written or read.

use std::path::PathBuf;

use arrow::error::ArrowError;
use parquet::errors::ParquetError;

use crate::log::LogError;
use crate::store::StoreError;

/// Why the archive could not be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// The log refused.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A manifest is not what was written, or does not follow from the one before.
    #[error("manifest `{name}` {what}; restore the archive from a copy")]
    Manifest {
        /// The manifest.
        name: String,
        /// What is wrong with it.
        what: String,
    },
    /// A file of a range is not what was written.
    #[error(
        "archived file `{name}` {what}; restore it from a copy, or archive its range again where the log still holds it"
    )]
    File {
        /// The file.
        name: String,
        /// What is wrong with it.
        what: String,
    },
    /// A group rebuilt from the archive is not the one that was archived.
    #[error("group {group} of the range in manifest `{name}` {what}; restore the archive from a copy")]
    Group {
        /// The manifest.
        name: String,
        /// The group's number.
        group: u64,
        /// What is wrong with it.
        what: String,
    },
    /// A group cannot be rebuilt from Parquet as it stands in the log, so its range is not archived.
    #[error(
        "group {group} of the log cannot be archived: {what}; its range, from group {first} on, stays in the log alone"
    )]
    NotExact {
        /// The first group of the range.
        first: u64,
        /// The group's number.
        group: u64,
        /// What would be lost.
        what: String,
    },
    /// What is asked for is in neither the log nor the archive.
    #[error("{what} neither in the log `{log}` nor in the archive: {held}")]
    Missing {
        /// What is missing, with a verb.
        what: String,
        /// The folder of the log.
        log: PathBuf,
        /// What both hold.
        held: String,
    },
    /// A range that holds nothing, or ends before it begins.
    #[error("the range from {from} to {to} holds no group; name one that does")]
    Empty {
        /// Where it was to begin.
        from: String,
        /// Where it was to end.
        to: String,
    },
    /// Rows that Parquet cannot hold.
    #[error("cannot write rows as Parquet")]
    Encode(#[from] ParquetError),
    /// Rows that Arrow cannot arrange.
    #[error("cannot arrange rows for the archive")]
    Arrange(#[from] ArrowError),
}
