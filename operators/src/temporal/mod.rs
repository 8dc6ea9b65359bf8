//! Event time: timelines, exact windows and as-of look-ups over them, and rows that expire.
//!
//! This layer uses [`core`](crate::core) only.

pub mod as_of;
pub mod expire;
pub mod feature_digest;
pub mod temporal_lookup;
pub mod timeline;
pub mod windows;
