//! The dedupe index: which events are facts already, exactly, on disk, derived from the log.
//!
//! New entries gather in a table in memory. When it is large enough, a thread writes it as a sorted
//! run that covers a range of ticks, while the next table fills. Another thread merges runs, so
//! that their number grows with the logarithm of the entries. A look-up asks each run, from the
//! oldest on, then the tables; a filter in memory saves it from nearly every run that does not have
//! the key.
//!
//! Keys are digests, or halves of digests, and are used as hashes as they are. Which events share a
//! key is decided where keys are made: by the gate.
//!
//! Invariants:
//! * The runs cover the ticks from zero on without gaps, and hold only facts that are durable in
//!   the log.
//! * [`DedupeIndex::get`] returns the first fact inserted under a key. A later one is not stored,
//!   so when a crash loses it, nothing is missing. Damage is an error, never another answer.
//! * When a thread finishes decides where an entry is stored, and nothing else.
//!
//! Memory is bounded by `memory_bytes`: a sixth each for the table that fills, for the one that is
//! written and for sorting that one; a sixteenth for blocks of runs that were read; the rest for
//! filters (10 bits an entry) and the first keys of blocks (1.5 bits). When the filters do not fit,
//! the largest runs have none, and each look-up reads a block of them. Beyond the bound are only
//! the first keys, the filter of a run that is being merged, and 256 KiB for each run that is
//! merged.

#![forbid(unsafe_code)]

mod entry;
mod error;
mod filter;
mod index;
mod merge;
mod run;

pub use entry::FirstSeen;
pub use error::DedupeError;
pub use index::DedupeIndex;
