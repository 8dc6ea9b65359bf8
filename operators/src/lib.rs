//! Incremental operators: collections in, collections out.
//!
//! Nothing in this crate opens a file or a socket, reads a clock or draws a random number, and no
//! output depends on the order of a hash map: that is why a replay gives the same bytes.

pub mod as_of;
mod blank;
pub mod changes;
pub mod checkpointed;
pub mod credibility;
pub mod decide;
pub mod drift;
pub mod entities;
pub mod expire;
pub mod expr;
pub mod families;
pub mod gate;
pub mod in_force;
pub mod kept;
pub mod keys;
pub mod lifecycle;
pub mod linkage;
pub mod lookup;
pub mod ordered;
pub mod quorum;
pub mod rejoin;
pub mod rows;
pub mod seal;
pub mod snapshot;
pub mod streams;
pub mod timeline;
pub mod votes;
pub mod windows;
