//! Why the dedupe index could not be opened, read or written.

use std::io;
use std::path::PathBuf;

/// Why the dedupe index could not be opened, read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DedupeError {
    /// The operating system refused to read.
    #[error("cannot read `{path}`; check that it exists and that this user may read it")]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// What was refused.
        source: io::Error,
    },

    /// The operating system refused to write or to make durable.
    #[error("cannot write `{path}`; check that the disk is whole and has room, then start again")]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// What was refused.
        source: io::Error,
    },

    /// The operating system starts no more threads.
    #[error("cannot start a thread for the dedupe index; raise the limit of threads, then start again")]
    Thread {
        /// What was refused.
        source: io::Error,
    },

    /// A run that differs from what was written. Its file was removed.
    #[error(
        "run `{path}` of the dedupe index was damaged: {detail}; it has been removed: \
         start again, and the index is built again from the log"
    )]
    Damaged {
        /// The file of the run.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
}
