//! Incremental operators: collections in, collections out.
//!
//! Nothing in this crate opens a file or a socket, reads a clock or draws a random number, and no
//! output depends on the order of a hash map: that is why a replay gives the same bytes.

pub mod gate;
