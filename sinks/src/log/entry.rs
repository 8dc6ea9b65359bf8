//! The directory of a group: its frames, and the offsets that each partition gains.

use tidegate_facts::Topic;

/// One frame in the directory of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) topic: Topic,
    pub(super) name: String,
    pub(super) rows: u32,
    pub(super) extents: Vec<Extent>,
    pub(super) stream_at: u64,
    pub(super) stream_bytes: u64,
}

/// The rows of one partition in a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) partition: u16,
    pub(super) rows: u32,
    /// The offset of the first of them.
    pub(super) first: u64,
    /// The offset of the last of them, plus one.
    pub(super) end: u64,
}
