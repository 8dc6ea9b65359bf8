//! Identity: entity graphs built from shared identifiers, and record linkage by comparing fields.
//!
//! This layer uses [`core`](crate::core) only.

pub mod entities;
pub mod linkage;
