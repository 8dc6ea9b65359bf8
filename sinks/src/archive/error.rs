//! Errors of writing, reading and pruning the archive.

use std::path::PathBuf;

use parquet::errors::ParquetError;

use crate::log::LogError;
use crate::store::StoreError;

/// Why the archive could not be written, read or used to prune a log.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// The log failed.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A manifest was changed, or does not follow from the one before.
    #[error("manifest `{name}` {what}; restore the archive from a copy")]
    Manifest {
        /// The manifest.
        name: String,
        /// What is wrong with it.
        what: String,
    },
    /// A file of a range was changed or is missing.
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
    /// A group cannot be rebuilt from Parquet byte for byte, so its range is not archived.
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
    /// A group that was requested is in neither the log nor the archive.
    #[error("{what} neither in the log `{log}` nor in the archive: {present}")]
    Missing {
        /// What is missing, and a verb.
        what: String,
        /// The folder of the log.
        log: PathBuf,
        /// What the two have.
        present: String,
    },
    /// The requested range has no group, or ends before it begins.
    #[error("the range from {from} to {to} holds no group; name one that does")]
    Empty {
        /// The first bound.
        from: String,
        /// The second bound.
        to: String,
    },
    /// Parquet cannot store the rows.
    #[error("cannot write rows as Parquet")]
    Encode(#[from] ParquetError),
}
