//! Why the log could not be opened, read or appended to.

use std::io;
use std::path::PathBuf;

use arrow::error::ArrowError;
use tidegate_facts::Tick;

use super::position::{EpochId, LogPosition};

/// Why the log could not be opened, read or appended to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// Another writer has the log open.
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

    /// There is no log to read.
    #[error("there is no log at `{location}`; run a topology there first")]
    NoLog {
        /// The folder of the log.
        location: PathBuf,
    },

    /// Bytes that differ from what was written, in a way that no crash explains.
    #[error(
        "segment `{segment}` is damaged at byte {at}, in group {group}: {detail}; \
         restore the file from a copy: nothing behind the damage can be trusted"
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

    /// The log ends before facts that are known to have been durable.
    #[error(
        "the log ends at byte {at} of segment `{segment}`, at tick {}, and what was committed goes on to \
         tick {}: facts that were acknowledged are missing; restore the log from a copy",
        .upper.0, .acknowledged.0
    )]
    Lost {
        /// The last segment file.
        segment: PathBuf,
        /// Where in the file the last group ends.
        at: u64,
        /// The tick at which the last group ends.
        upper: Tick,
        /// The tick up to which the log was durable.
        acknowledged: Tick,
    },

    /// The requested groups were removed from the log, and are in the archive.
    #[error(
        "the log `{location}` was pruned and holds groups from number {} on, from tick {} ({}); those before \
         are in the archive: `tidegate archive hydrate` restores them",
        .start.group, .start.upper.0, .start.upper
    )]
    Pruned {
        /// The folder of the log.
        location: PathBuf,
        /// Where the log begins.
        start: LogPosition,
    },

    /// The file with the identity and the start of a log is missing, or differs from what was
    /// written.
    #[error(
        "`{path}` is damaged: {detail}; restore it from a copy, or rebuild the log by \
         `tidegate archive hydrate`"
    )]
    Base {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },

    /// The position from which on the log was to be checked is not one of this log.
    #[error(
        "the log `{location}` does not fit the position in front of group {group}: {detail}; open it \
         without the position, which checks all of it"
    )]
    OtherPosition {
        /// The folder of the log.
        location: PathBuf,
        /// The group in front of which the position is.
        group: u64,
        /// How the log differs from the position.
        detail: String,
    },

    /// Another writer has begun an epoch, so the groups of this one count no more.
    #[error(
        "the writer of epoch {epoch} has lost the log to epoch {winner}: another gate appends to it; \
         stop one of the two gates"
    )]
    WriterLost {
        /// The epoch of the writer that lost the log.
        epoch: EpochId,
        /// The epoch that counts now.
        winner: EpochId,
    },

    /// A group in a layout that this build does not read.
    #[error(
        "segment `{segment}` was written in version {version} of the format, which this build does not read; \
         open it with the build that wrote it"
    )]
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

    /// The operating system gave no random bytes for the id of an epoch.
    #[error(
        "cannot draw the id of an epoch for the log; check that this system has a source of random numbers"
    )]
    Random {
        /// What was refused.
        source: io::Error,
    },

    /// An append behind one that failed.
    #[error(
        "the log `{location}` accepts no more groups since a write failed, because it is unknown what is on \
         the disk; start again: everything that was acknowledged is there"
    )]
    Poisoned {
        /// The folder of the log.
        location: PathBuf,
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
