//! The vocabulary of Tidegate: what a fact is, when it happened, and how it is named and hashed.
//!
//! Start at [`Tick`], the logical time of the whole platform, then [`Envelope`], the head of every
//! fact. Nothing here reads a file, a socket, a clock or a random number.

pub mod backfill;
pub mod columns;
pub mod digest;
pub mod envelope;
pub mod governance;
pub mod jcs;
pub mod json;
pub mod lanes;
pub mod names;
pub mod policy;
pub mod position;
pub mod receipt;
pub mod schema;
pub mod seal;
pub mod tick;
pub mod time;

pub use digest::{Digest, KeyHash};
pub use envelope::{Context, Envelope, EventClass};
pub use policy::PolicyRev;
pub use position::{Position, Topic};
pub use receipt::{Reason, Verdict};
pub use schema::{Field, FieldType, PayloadSchema};
pub use tick::{Span, Tick};
