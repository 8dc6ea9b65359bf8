//! The log: the only truth of a data folder, as a sequence of durable groups.
//!
//! The unit is the [`Group`]: frames of rows that become durable together or not at all. Most of
//! the workspace only reads a log, through [`LogReader`]; the gate appends to it, through
//! [`LogWriter`]. A run opens one for both, as an [`AppendableLog`].
//!
//! | | reader | writer |
//! |---|---|---|
//! | the embedded log: segment files in a data folder | [`LogFolder`] | [`EmbeddedLog`] |
//! | a log in memory, for simulations | [`MemoryLog`] | [`MemoryWriter`] |
//!
//! Invariants of every log:
//! * Groups are numbered from 0 without gaps, and each begins at the tick where the one before
//!   ended.
//! * Each group carries the digest of the group before and the epoch of its writer. The digest
//!   covers all of a group but its epoch, so a group that another epoch appends again keeps its
//!   digest.
//! * Offsets count from 0 without gaps in each partition of each topic.
//! * A group is durable once its [`Pending`] completes. Groups become durable in order.
//!
//! In the embedded log a segment is a file `%020d.seg`, named by the number of its first group.
//! Groups follow each other in it (`format` has the layout), and zeros follow the last group of the
//! last segment. The file `BASE` (`base`) holds the identity of the log and where it begins, which
//! is behind its first group once it was pruned. Only the end of the last segment may be torn:
//! opening the log for appending cuts a torn group off and reports it, and refuses everything else
//! that does not match its checksums, by name. A group that was durable and was damaged later looks
//! like a torn one if it is the very last: no checksum can tell the two apart.

mod appendable;
mod base;
mod copy;
mod cursor;
mod embedded;
mod entry;
mod error;
mod folder;
mod format;
mod group;
mod location;
mod locked;
mod memory;
mod offsets;
mod position;
mod raw_groups;
mod reader;
mod segment;
mod topic;
mod writer;

pub use appendable::AppendableLog;
pub(crate) use copy::LogCopy;
pub use embedded::{EmbeddedLog, Recovery};
pub use error::LogError;
pub use group::{Frame, Group, LoggedGroup};
pub use location::LogFolder;
pub use locked::{LockedLog, Segment};
pub use memory::{MemoryLog, MemoryWriter};
pub use position::{EpochId, GroupLink, LogPosition};
pub(crate) use raw_groups::RawEncoder;
pub use raw_groups::RawGroup;
pub use reader::{GroupSource, Groups, LogReader, PartitionRows, Start, TornEnd, Until, read_partition};
pub use segment::LogOptions;
pub use writer::{LogWriter, Pending};
