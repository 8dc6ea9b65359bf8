//! The embedded log: the only truth of a data folder, kept in segment files.
//!
//! The unit is the [`Group`]: some frames of rows that become durable together or not at all. A
//! segment is a file `%020d.seg`, named by the number of the first group in it; groups stand in it
//! one behind the other (`format` says how), and zeros follow the last group of the last segment.
//!
//! Invariants:
//! * Groups are numbered from 0 without gaps, and each begins at the tick where the one before ended.
//! * Offsets count from 0 without gaps in each partition of each topic.
//! * A group whose number [`EmbeddedLog::append`] returned is on the disk.
//! * A log that was pruned begins at a segment and says so in `BASE` (`mark` says how).
//! * Only the end of the last segment may be torn. [`EmbeddedLog::open`] takes a torn end back and says
//!   so; whatever else does not match its checksums is refused by name, and never skipped.
//!
//! A group that was durable and whose bytes were damaged later looks like a torn one if it is the
//! very last: no checksum can tell the two apart.

mod cursor;
mod error;
mod format;
mod held;
mod mark;
mod offsets;
mod raw;
mod reader;
mod rebuild;
mod segment;
mod topic;
mod writer;

use arrow::array::RecordBatch;
use tidegate_facts::{Tick, Topic};

pub use error::LogError;
pub use held::{HeldLog, Segment};
pub use mark::{LogMark, read_base};
pub(crate) use raw::{RawEncoder, RawGroup, RawGroups, read_raw};
pub use reader::{Groups, PartitionRows, Start, Until, read_groups, read_partition, torn_end};
pub(crate) use rebuild::Rebuild;
pub use topic::read_topic;
pub use writer::{EmbeddedLog, LogOptions, Recovery, Truncated};

/// What becomes durable together: the facts of `[lower, upper)`, and what the gate said meanwhile.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// The rows, in the order they are read again.
    pub frames: Vec<Frame>,
    /// Where the group before ended; [`Tick::ZERO`] for the first.
    pub lower: Tick,
    /// Above every tick in the group, and equal to `lower` when it holds no fact.
    pub upper: Tick,
    /// Whether `upper` is a commit boundary whatever the plan's sizes say: a run until idle ended here.
    pub commit: bool,
}

/// Rows of one topic and one name.
///
/// Rows with the columns `_tick` and `_offset` are facts, and their ticks ascend. Rows without them
/// belong to partition 0, and the log counts their offsets.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    /// The topic.
    pub topic: Topic,
    /// The event type of facts, `receipts` in the audit topic, the kind of record in the control topic.
    pub name: String,
    /// The rows.
    pub rows: RecordBatch,
}
