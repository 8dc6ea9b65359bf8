//! The outcome of validation: accepted batches of facts, and rejections with their reasons.

use std::sync::Arc;

use arrow::array::RecordBatch;
use tidegate_facts::{Digest, EventClass, Reason, Topic};

/// The outcome of the gate's validation of some records. Each record is in `accepted` or in
/// `rejected`, once.
#[derive(Clone, Debug, Default)]
pub struct Validated {
    /// The position of every record in its source, in order.
    pub positions: Vec<u64>,
    /// The event time of each record, in microseconds since 1970 UTC.
    ///
    /// A rejected record without a time within the bounds has `i64::MIN`, so that an invalid time
    /// does not advance the source's clock.
    pub times: Vec<i64>,
    /// The facts, one batch for each event type with facts, in the order of the types' names.
    pub accepted: Vec<AcceptedBatch>,
    /// The rejections, in the order of the records.
    pub rejected: Vec<Rejection>,
}

/// The facts of one event type that validation accepted, in the order of their records.
#[derive(Clone, Debug)]
pub struct AcceptedBatch {
    /// The event type.
    pub event_type: Arc<str>,
    /// The class of the event type.
    pub class: EventClass,
    /// The topic of the class.
    pub topic: Topic,
    /// The index of each row's record in [`Validated::positions`].
    pub records: Vec<u32>,
    /// The columns of [`tidegate_facts::columns::fact_schema`] without `_tick` and `_offset`,
    /// including columns of nulls.
    pub rows: RecordBatch,
    /// The partition of each row.
    pub partitions: Vec<u16>,
    /// The dedupe key of each row: 128 bits over platform run, class and event id.
    pub keys: Vec<u128>,
}

/// A record that validation rejected, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The index of the record in [`Validated::positions`].
    pub record: u32,
    /// The code of its first error.
    pub reason: Reason,
    /// A sentence that says what is wrong and how to correct it.
    pub detail: String,
    /// The event type, if it could be read.
    pub event_type: Option<String>,
    /// The event id, if it could be read.
    pub event_id: Option<String>,
    /// The digest of the payload, if the payload is valid.
    pub payload_hash: Option<Digest>,
    /// The original bytes of the record; for a row, its columns as a JSON object.
    pub bytes: Vec<u8>,
}

impl Validated {
    /// Sorts the rejections by record, sets the bytes of each, and asserts that no record is
    /// missing.
    pub(super) fn finish(mut self, bytes_of: impl FnOnce(&[u32]) -> Vec<Vec<u8>>) -> Validated {
        self.rejected.sort_by_key(|rejection| rejection.record);
        if !self.rejected.is_empty() {
            let records: Vec<u32> = self.rejected.iter().map(|rejection| rejection.record).collect();
            for (rejection, bytes) in self.rejected.iter_mut().zip(bytes_of(&records)) {
                rejection.bytes = bytes;
            }
        }
        let accepted: usize = self.accepted.iter().map(|accepted| accepted.records.len()).sum();
        assert_eq!(
            accepted + self.rejected.len(),
            self.positions.len(),
            "a record was lost or counted twice"
        );
        assert_eq!(self.times.len(), self.positions.len(), "a record has no time");
        self
    }
}
