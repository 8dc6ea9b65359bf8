//! Why a table that is read from the log could not be read.

use tidegate_sinks::archive::ArchiveError;

/// Why the log, or its archive, could not be read as one of the log's tables.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The log or its archive cannot be read.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// A group is intact, but its contents are not in the format of this build.
    #[error(
        "group {group} of the log {what}; another version of Tidegate wrote it: query it with that version"
    )]
    Foreign {
        /// The number of the group.
        group: u64,
        /// What is wrong with its contents.
        what: String,
    },
}
