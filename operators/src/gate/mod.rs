//! The gate's judgement: records in; for each one either the columns of a fact, or a reason and a sentence.
//!
//! Start at [`Judge`]. It reads records as JSON lines or as columns, checks them against one
//! [`GatePolicy`] in one fixed order, and gives the same facts for the same records whichever way
//! they came. Stamping, the look-up of duplicates and the append to the log are not here.
//!
//! Invariant: every record is in exactly one of [`Judged::accepted`] and [`Judged::refused`].

mod accept;
mod context;
mod convert;
mod judge;
mod judged;
mod line;
mod literal;
mod payload;
mod policy;
mod replayed;
mod row;
mod shape;

#[cfg(test)]
mod tests;

pub use judge::{Judge, TimeBounds};
pub use judged::{Accepted, Judged, Refused};
pub use policy::{EventPolicy, GatePolicy, KeySource, PolicyFault};
