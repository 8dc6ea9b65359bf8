//! Credibility of evidence: quorum over claims, copy detection among streams, drift, and the index of all.
//!
//! This layer uses [`core`](crate::core) only.

pub mod copy_detection;
pub mod drift;
pub mod index;
pub mod quorum;
pub mod tally;
