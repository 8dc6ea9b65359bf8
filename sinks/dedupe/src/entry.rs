//! The entry of an event in the dedupe index: its first fact.

use tidegate_facts::Tick;

/// The entry of an event in the dedupe index: its first fact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FirstSeen {
    /// The first half of the digest of the fact's payload.
    pub payload: u128,
    /// The fact's tick.
    pub tick: Tick,
    /// The fact's offset.
    pub offset: u64,
}
