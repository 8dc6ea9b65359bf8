//! The layout of a timeline: what its batches store of each measure, and which rows merging
//! retains.

use std::sync::Arc;

use super::metrics::TimelineMetrics;

/// The layout of a timeline's batches, its retention, and its metrics.
#[derive(Clone, Debug)]
pub struct Layout {
    /// What the batches store of each measured column.
    pub measures: Vec<MeasureLayout>,
    /// The rows that merging retains.
    pub retention: Retention,
    /// The metrics that the batches add their totals to.
    pub metrics: Arc<TimelineMetrics>,
}

/// The layout of one measured column in a timeline's batches: what they store besides the prefix
/// sums of its values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MeasureLayout {
    /// Prefix sums of squares, for deviations.
    pub squares: bool,
    /// Whether values may be null; then the batch stores prefix counts of the other values.
    pub nullable: bool,
}

/// The part of a timeline's layout that states which rows merging retains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retention {
    /// Rows whose event time is at most this many microseconds before `since`, or after it.
    Span(i64),
    /// Rows at or above `since`; and of the rows below it, those of the latest event time of their
    /// key.
    Latest,
}
