//! Where results go: the log, and the stores of tables, state and archives that are derived from
//! it.
//!
//! Sinks do I/O and know nothing of operators. What a sink has reported as written is durable.

pub mod archive;
pub mod checkpoint;
pub mod commits;
pub mod graph_catalog;
pub mod hash_chains;
pub mod log;
pub mod plans;
pub mod sequencer;
pub mod signing;
pub mod store;
pub mod table_catalog;
