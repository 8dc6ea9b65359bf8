//! The vocabulary of Tidegate: ticks, envelopes, digests, receipts, and the columns that carry
//! them.
//!
//! Start at [`Tick`], the logical time of the whole platform, then [`Envelope`], the head of every
//! record. Nothing in this crate reads a file, a socket, a clock or a random number.

#![forbid(unsafe_code)]

// The derives name this crate by its name, in its own code too.
extern crate self as tidegate_facts;

pub mod audit;
pub mod backfill;
pub mod columns;
pub mod control_fact;
pub mod dedupe_key;
pub mod digest;
pub mod envelope;
pub mod governance;
pub mod jcs;
pub mod payload_schema;
pub mod policy_revision;
pub mod receipt;
pub mod row;
pub mod seal;
pub mod strict_json;
pub mod suggest;
pub mod text_payload;
pub mod tick;
pub mod time;
pub mod topic;

pub use dedupe_key::DedupeScope;
pub use digest::{Digest, DigestBatch, KeyHash};
pub use envelope::{Context, Envelope, EventClass};
pub use payload_schema::{Field, FieldType, PayloadSchema};
pub use policy_revision::PolicyRev;
pub use receipt::{Reason, Verdict};
pub use tick::{Span, Tick};
pub use topic::Topic;
