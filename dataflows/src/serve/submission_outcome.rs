//! The outcome of a submission: the receipt of each record, and how long it took to make them
//! durable.

use std::time::{Duration, Instant};

use tidegate_facts::{Reason, Tick, Verdict};

/// The receipt of one record in the outcome of a submission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The gate's verdict.
    pub verdict: Verdict,
    /// Why the record is no new fact.
    pub reason: Option<Reason>,
    /// What exactly is wrong with it.
    pub detail: Option<String>,
    /// Its event type, where the receipt states it.
    pub event_type: Option<String>,
    /// The tick of the fact that it is, or that it is a duplicate of.
    pub tick: Option<Tick>,
    /// The offset of that fact in its partition.
    pub offset: Option<u64>,
}

/// The outcome of a submission: its durable receipts, and how long it took to get them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubmissionOutcome {
    /// In the order of the records.
    pub receipts: Vec<Receipt>,
    /// How long the submission waited in the queue.
    pub queued: Duration,
    /// How long the gate took to validate and stamp the group that holds its records, and to make
    /// it durable.
    pub logged: Duration,
    /// When that group was appended to the log.
    pub appended: AppendTiming,
}

/// When the group that holds a submission was appended to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppendTiming {
    /// When the append began.
    pub began: Instant,
    /// When the group was durable.
    pub durable: Instant,
    /// How long the sync took, a part of the time between the two.
    pub synced: Duration,
}
