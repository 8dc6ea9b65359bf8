//! From the rows of a graph to commits: rows wait for a commit boundary, are cut there, written,
//! and published.
//!
//! Cutting, chaining, encoding and syncing take a third of a job's time. A worker leaves them to a
//! queue beside it ([`TableWriter`]), whose jobs run in order, and gets their results back. What is
//! published, and when, still follows from frontiers alone: an interval is published once every
//! worker's files of it are written.

pub mod boundary;
pub mod boundary_rows;
pub mod intervals;
pub mod publish;
pub mod target;
pub mod writer;

pub use crate::commit::boundary::{BoundaryCutter, CommitBoundary, LogState};
pub use crate::commit::intervals::{BoundaryStream, OutputStream, RowTap, write_state, write_table};
pub use crate::commit::publish::publish;
pub use crate::commit::target::{CommitContext, CommitTarget, IntervalOutput, TableFormat};
pub use crate::commit::writer::TableWriter;
