//! From records to groups of the log, and from groups of the log to the rows of a graph.
//!
//! Sources hand validated records to [`admission`], which brings them in one order ([`reorder`]),
//! stamps them and makes groups of them. [`log_feed`] turns each group of the log into the rows and
//! commit boundaries that the workers get, live and on replay alike.

pub mod admission;
pub mod audit_frames;
pub(crate) mod control_gate;
pub(crate) mod dedupe_recovery;
pub(crate) mod frame_columns;
pub mod log_feed;
pub mod reorder;
