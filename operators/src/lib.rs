//! Incremental operators: collections in, collections out.
//!
//! Nothing in this crate opens a file or a socket, reads a clock or draws a random number, and no
//! output depends on the order of a hash map: that is why a replay gives the same bytes.
//!
//! The modules form layers. A layer uses only the layers above it in this list:
//!
//! 1. [`core`]: rows, keys, and the timely operators that every kind of node is built from.
//! 2. [`temporal`]: timelines and what reads them.
//! 3. [`decision`], [`identity`] and [`credibility`]: the kinds of node. None uses another.
//! 4. [`gate`] and [`governance`]: admission of records, and revisions of policies and bundles.

pub mod core;
pub mod credibility;
pub mod decision;
pub mod gate;
pub mod governance;
pub mod identity;
pub mod temporal;
