//! Linkage of records by declared comparisons: records that say nearly the same are of one thing.
//!
//! [`Linker`] is the state. What it gives are links like any other, for an `entities` to make components of.

mod compare;
mod linker;
mod normal;
mod state;

pub use compare::{ALIKE, Comparator, Comparison, Value, alike, weights};
pub use linker::{Linker, Match, Rules};
pub use normal::normal;
pub use state::{Linkage, LinkageState, PORTS, full_schema};
