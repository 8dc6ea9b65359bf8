//! Why the log could not be opened, read or appended to.

use std::io;
use std::path::PathBuf;

use arrow::error::ArrowError;
use tidegate_facts::Tick;

use super::LogMark;

/// Why the log could not be opened, read or appended to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// Another log is open on the folder.
    #[error(
        "the log is in use: `{path}` is locked{}; stop that process, or choose another data folder",
        .pid.map(|pid| format!(" by process {pid}")).unwrap_or_default()
    )]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// The process that wrote its id into the lock file.
        pid: Option<u32>,
    },

    /// Bytes that are not what was written, and that no crash can explain.
    #[error(
        "segment `{segment}` is damaged at byte {at}, in group {group}: {detail}; \
         restore the file from a copy: what stands behind the damage cannot be trusted"
    )]
    Damaged {
        /// The segment file.
        segment: PathBuf,
        /// Where in the file the group begins, or should begin.
        at: u64,
        /// The number of the group.
        group: u64,
        /// What is wrong with it.
        detail: String,
    },

    /// The log ends before what is known to have been durable.
    #[error(
        "the log ends at byte {at} of segment `{segment}`, at tick {}, and what was committed goes on to tick {}: \
         facts that were acknowledged are missing; restore the log from a copy",
        .upper.0, .acknowledged.0
    )]
    Lost {
        /// The last segment file.
        segment: PathBuf,
        /// Where in the file the last group ends.
        at: u64,
        /// Where the last group ends in time.
        upper: Tick,
        /// Up to where the log was durable.
        acknowledged: Tick,
    },

    /// What is asked for was removed from the log, and lies in the archive.
    #[error(
        "the log `{folder}` was pruned and holds groups from number {} on, from tick {} ({}); what is before lies in \
         the archive: `tidegate archive hydrate` brings it back",
        .base.group, .base.upper.0, .base.upper
    )]
    Pruned {
        /// The folder of the log.
        folder: PathBuf,
        /// Where the log begins.
        base: LogMark,
    },

    /// The file that says where a pruned log begins is not what was written.
    #[error(
        "`{path}` is damaged: {detail}; restore it from a copy, or rebuild the log by `tidegate archive hydrate`"
    )]
    Base {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },

    /// The mark from which on a log was to be checked is not a place of this log.
    #[error(
        "the log `{folder}` does not fit the mark in front of group {group}: {detail}; open it without the mark, \
         which checks all of it"
    )]
    OtherMark {
        /// The folder of the log.
        folder: PathBuf,
        /// The group that the mark stands in front of.
        group: u64,
        /// How the log differs from what the mark says.
        detail: String,
    },

    /// A group in a layout that this build does not know.
    #[error("segment `{segment}` was written in version {version} of the format; open it with a newer build")]
    Version {
        /// The segment file.
        segment: PathBuf,
        /// The version in the group's header.
        version: u16,
    },

    /// The operating system refused to read.
    #[error("cannot read `{path}`; check that it exists and that this user may read it")]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// What was refused.
        source: io::Error,
    },

    /// The operating system refused to write or to make durable.
    #[error(
        "cannot write `{path}`; check that the disk is whole and has room, then start again: \
         nothing that was acknowledged is lost"
    )]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// What was refused.
        source: io::Error,
    },

    /// An append after one that failed.
    #[error(
        "the log `{path}` takes nothing more since a write failed, as what is on the disk is not known; \
         start again: what was acknowledged is found there"
    )]
    Poisoned {
        /// The folder of the log.
        path: PathBuf,
    },

    /// Rows that Arrow cannot write.
    #[error("cannot encode the rows of `{name}`; give their columns types that Arrow IPC can hold")]
    Encode {
        /// The name of the frame.
        name: String,
        /// What Arrow refused.
        source: ArrowError,
    },
}
