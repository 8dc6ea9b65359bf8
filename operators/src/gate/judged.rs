//! What the gate finds: the facts of some records, and what was refused with its reason.

use std::sync::Arc;

use arrow::array::RecordBatch;
use tidegate_facts::{Digest, EventClass, Reason, Topic};

/// What was found of some records. Each is in `accepted` or in `refused`, once.
#[derive(Clone, Debug, Default)]
pub struct Judged {
    /// The position of every record in its source, in order.
    pub positions: Vec<u64>,
    /// The event time of each record.
    ///
    /// A refused record without a time within the bounds has `i64::MIN`: a bad time moves nobody's clock.
    pub times: Vec<i64>,
    /// The facts, one batch for each event type that has any, in the order of their names.
    pub accepted: Vec<Accepted>,
    /// The rest, in the order of the records.
    pub refused: Vec<Refused>,
}

/// The facts of one event type, in the order of their records.
#[derive(Clone, Debug)]
pub struct Accepted {
    /// Their type.
    pub event_type: Arc<str>,
    /// Its class.
    pub class: EventClass,
    /// The topic of that class.
    pub topic: Topic,
    /// The place of each row's record in [`Judged::positions`].
    pub records: Vec<u32>,
    /// The columns of [`tidegate_facts::columns::fact_schema`] without `_tick` and `_offset`, those that hold nothing too.
    pub rows: RecordBatch,
    /// The partition of each row.
    pub partitions: Vec<u16>,
    /// The dedupe key of each row: 128 bits over platform run, class and event id.
    pub keys: Vec<u128>,
}

/// A record that was not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Its place in [`Judged::positions`].
    pub record: u32,
    /// The code of its first fault.
    pub reason: Reason,
    /// What exactly is wrong, a sentence.
    pub detail: String,
    /// Its event type, if that could be read.
    pub event_type: Option<String>,
    /// Its event id, if that could be read.
    pub event_id: Option<String>,
    /// The digest of its payload, if that fits its schema.
    pub payload_hash: Option<Digest>,
    /// The record as it came; of a row, its columns as a JSON object.
    pub bytes: Vec<u8>,
}

impl Judged {
    /// Puts what was refused in the order of the records, gives each its bytes, and counts.
    pub(super) fn finish(mut self, bytes_of: impl FnOnce(&[u32]) -> Vec<Vec<u8>>) -> Judged {
        self.refused.sort_by_key(|refused| refused.record);
        if !self.refused.is_empty() {
            let records: Vec<u32> = self.refused.iter().map(|refused| refused.record).collect();
            for (refused, bytes) in self.refused.iter_mut().zip(bytes_of(&records)) {
                refused.bytes = bytes;
            }
        }
        let accepted: usize = self.accepted.iter().map(|accepted| accepted.records.len()).sum();
        assert_eq!(accepted + self.refused.len(), self.positions.len(), "a record was lost or judged twice");
        assert_eq!(self.times.len(), self.positions.len(), "a record has no time");
        self
    }
}
