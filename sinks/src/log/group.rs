//! Groups and frames: what a writer appends to the log, and what a reader gets back.

use arrow::array::RecordBatch;
use tidegate_facts::{Tick, Topic};

use super::position::GroupLink;

/// A group of the log, which becomes durable as a whole: the facts of `[lower, upper)`, and what
/// the gate reports with them.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// The rows, in the order in which they are read again.
    pub frames: Vec<Frame>,
    /// Where the group before ended; [`Tick::ZERO`] for the first.
    pub lower: Tick,
    /// Above every tick in the group, and equal to `lower` when it holds no fact.
    pub upper: Tick,
    /// Whether `upper` is a commit boundary regardless of the plan's sizes: a run until idle ended
    /// here.
    pub commit: bool,
}

/// A frame of a group in the log: rows of one topic and one name.
///
/// Rows with the columns `_tick` and `_offset` are facts, and their ticks ascend. Rows without them
/// belong to partition 0, and the log counts their offsets.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    /// The topic.
    pub topic: Topic,
    /// The event type of facts, `receipts` in the audit topic, the kind of record in the control
    /// topic.
    pub name: String,
    /// The rows.
    pub rows: RecordBatch,
}

/// A group as a reader of the log gets it: with its link.
#[derive(Clone, Debug, PartialEq)]
pub struct LoggedGroup {
    /// How the group is tied into the log.
    pub link: GroupLink,
    /// The group.
    pub group: Group,
}

impl std::ops::Deref for LoggedGroup {
    type Target = Group;

    fn deref(&self) -> &Group {
        &self.group
    }
}
