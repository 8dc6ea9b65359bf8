//! Governance: the life cycle of policy and bundle revisions, and what differs between two of them.
//!
//! This layer uses [`decision`](crate::decision) and [`gate`](crate::gate).

pub mod revision_diff;
pub mod revision_lifecycle;
