//! Decisions: bundles of rules evaluated per row, and the sealed record of each decision.
//!
//! This layer uses [`core`](crate::core) only.

pub mod decide;
pub mod seal;
