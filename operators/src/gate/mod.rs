//! The gate's validation: turns each record into a fact, or rejects it with a reason.
//!
//! Start at [`Validator`]. It reads records as JSON lines or as columns, checks them against one
//! [`GatePolicy`] in a fixed order, and returns the same facts for the same records in either form.
//! Stamping, duplicate detection and appending to the log are elsewhere.
//!
//! This layer uses [`core`](crate::core) and [`decision`](crate::decision).
//!
//! Invariant: every record is in exactly one of [`Validated::accepted`] and
//! [`Validated::rejected`].

mod admit;
mod columnar;
mod context_cache;
mod convert;
mod dedupe_keys;
mod line;
mod line_template;
mod number;
mod outcome;
mod payload;
mod policy;
mod time_bounds;
mod validator;

#[cfg(test)]
mod tests;

pub use outcome::{AcceptedBatch, Rejection, Validated};
pub use policy::{EventPolicy, GatePolicy, KeySource, PolicyError};
pub use time_bounds::TimeBounds;
pub use validator::Validator;
