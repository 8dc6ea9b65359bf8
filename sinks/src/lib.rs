//! Where results go out: the log and what is derived from it.
//!
//! Sinks do I/O and know nothing of operators. What a sink has reported as written is durable.

pub mod archive;
pub mod chains;
pub mod checkpoint;
pub mod dedupe;
pub mod graphs;
pub mod log;
pub mod schemas;
pub mod sequencer;
pub mod signing;
pub mod store;
pub mod table;
