//! Admission: records of all sources in one order, each with one receipt, in durable groups.
//!
//! With the event clock the sources are merged by (order time, order of the sources, position),
//! where the order time of a record is its event time, or a later one where it is later than its
//! source declares (see [`crate::ingest::reorder`]). The log is then a function of the inputs
//! alone, whatever the size of the batches. With the wall clock records are stamped as they come.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, FixedSizeBinaryArray, RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use tidegate_dedupe::{DedupeError, DedupeIndex, FirstSeen};
use tidegate_facts::audit::{QuarantineReceipt, RECEIPTS, ReceiptBuilder, ReceiptOrigin};
use tidegate_facts::columns::{self, OffsetArray, tick_array};
use tidegate_facts::{Digest, Reason, Tick};
use tidegate_operators::gate::{AcceptedBatch, Rejection, Validated};
use tidegate_sinks::log::{Frame, Group};
use tidegate_sinks::sequencer::Sequencer;

use crate::ingest::audit_frames::audit_frame;
use crate::ingest::reorder::{Reorder, ReorderMode};
use crate::metrics::AdmissionCounts;
use crate::topology::Clock;

/// The admission of records: stamps the validated records of all sources with ticks, refuses
/// duplicates, and makes groups for the log.
pub struct Admission {
    clock: Clock,
    names: Vec<String>,
    sources: Vec<SourceQueue>,
    sequencer: Sequencer,
    dedupe: DedupeIndex,
    lower: Tick,
    pending: PendingGroup,
    /// How many records of each verdict and reason so far.
    pub counts: AdmissionCounts,
}

/// The records that one source handed over and admission has not taken.
struct SourceQueue {
    order: Reorder,
    /// The chunks that hold records which were not taken, and some between them.
    chunks: VecDeque<Chunk>,
    /// How many chunks came before the first of them.
    chunks_done: u64,
}

/// Records that a source validated at once.
struct Chunk {
    refused: Vec<Rejection>,
    accepted: Vec<Rc<AcceptedBatch>>,
    /// The digests of the payloads of each accepted batch.
    hashes: Vec<FixedSizeBinaryArray>,
    /// For each record the accepted batch and row, or the refusal.
    outcomes: Vec<Outcome>,
    /// How many of its records were not taken.
    left: usize,
}

#[derive(Clone, Copy)]
enum Outcome {
    Accepted { batch: u32, row: u32 },
    Refused(u32),
}

impl Chunk {
    fn new(mut validated: Validated, left: usize) -> Chunk {
        let accepted: Vec<Rc<AcceptedBatch>> = validated.accepted.drain(..).map(Rc::new).collect();
        let mut outcomes = vec![Outcome::Refused(0); validated.positions.len()];
        for (batch, accepted) in accepted.iter().enumerate() {
            for (row, record) in accepted.records.iter().enumerate() {
                outcomes[*record as usize] = Outcome::Accepted { batch: batch as u32, row: row as u32 };
            }
        }
        for (index, refused) in validated.rejected.iter().enumerate() {
            outcomes[refused.record as usize] = Outcome::Refused(index as u32);
        }
        let hashes = accepted.iter().map(|accepted| payload_hashes(accepted)).collect();
        Chunk { refused: validated.rejected, accepted, hashes, outcomes, left }
    }

    /// The digest of the payload of one record.
    fn payload_hash(&self, batch: u32, row: u32) -> Digest {
        let hash = self.hashes[batch as usize].value(row as usize);
        Digest(hash.try_into().expect("a digest has 32 bytes"))
    }
}

/// The column of the payloads' digests.
fn payload_hashes(accepted: &AcceptedBatch) -> FixedSizeBinaryArray {
    let hashes = accepted.rows.column_by_name(columns::PAYLOAD_HASH).expect("accepted rows have it");
    hashes.as_fixed_size_binary().clone()
}

/// The group in the making.
#[derive(Default)]
struct PendingGroup {
    records: usize,
    facts: Vec<PendingFacts>,
    receipts: ReceiptBuilder,
}

/// Rows of one accepted batch that were admitted.
struct PendingFacts {
    from: Rc<AcceptedBatch>,
    rows: Vec<u32>,
    ticks: Vec<Tick>,
    offsets: Vec<u64>,
}

/// Why admission had to stop.
#[derive(Debug, thiserror::Error)]
pub enum AdmissionError {
    /// The dedupe index failed.
    #[error(transparent)]
    Dedupe(#[from] DedupeError),
    /// No tick is left.
    #[error("no tick is left: the log has reached the year 3111")]
    OutOfTicks,
}

impl Admission {
    /// Admission of the records of `sources`, each with its name and in the order of the gate's
    /// inputs; groups go on after `lower`.
    pub fn new(
        clock: Clock,
        sources: Vec<(String, Reorder)>,
        sequencer: Sequencer,
        dedupe: DedupeIndex,
        lower: Tick,
    ) -> Admission {
        let (names, sources) = sources
            .into_iter()
            .map(|(name, order)| (name, SourceQueue { order, chunks: VecDeque::new(), chunks_done: 0 }))
            .unzip();
        let (pending, counts) = Default::default();
        Admission { clock, names, sources, sequencer, dedupe, lower, pending, counts }
    }

    /// The number of the first source that must hand over more before the next record can be taken.
    pub fn awaited_source(&self) -> Option<usize> {
        self.sources
            .iter()
            .position(|source| source.next_time().is_none() && source.order.mode() == ReorderMode::Bounded)
    }

    /// Whether no source is read in bounded order any more, and every record was taken.
    pub fn is_finished(&self) -> bool {
        self.sources
            .iter()
            .all(|source| source.next_time().is_none() && source.order.mode() == ReorderMode::Arrival)
    }

    /// Adds the next validated records of source number `source`.
    pub fn push(&mut self, source: usize, validated: Validated) {
        if validated.positions.is_empty() {
            return;
        }
        let source = &mut self.sources[source];
        let left = source.order.push(&validated.positions, &validated.times);
        source.chunks.push_back(Chunk::new(validated, left));
        source.drop_done();
    }

    /// Source number `source` was read to its end: admission no longer waits for it, and takes what
    /// it hands over later as it arrives.
    pub fn end(&mut self, source: usize) {
        self.sources[source].order.switch_to_arrival();
    }

    /// Takes records in order until a source must hand over more or the group holds `rows` records.
    ///
    /// `now` is the wall clock in microseconds, which stamps the records when the topology's clock
    /// is the wall clock.
    ///
    /// # Errors
    /// When the dedupe index cannot be read, or no tick is left.
    pub fn take(&mut self, rows: usize, now: i64) -> Result<(), AdmissionError> {
        while self.pending.records < rows && self.awaited_source().is_none() {
            let Some(source) = self.next_source() else { break };
            // Records of this source up to the next time of any other are one run.
            let bound = self
                .sources
                .iter()
                .enumerate()
                .filter(|(other, _)| *other != source)
                .filter_map(|(other, queue)| queue.next_time().map(|time| (time, other)))
                .min();
            loop {
                self.take_record(source, now)?;
                let next = self.sources[source].next_time();
                let more = next.is_some_and(|time| bound.is_none_or(|bound| (time, source) < bound));
                if !more || self.pending.records >= rows {
                    break;
                }
            }
        }
        Ok(())
    }

    fn next_source(&self) -> Option<usize> {
        self.sources
            .iter()
            .enumerate()
            .filter_map(|(source, queue)| Some((queue.next_time()?, source)))
            .min()
            .map(|(_, source)| source)
    }

    fn take_record(&mut self, source: usize, now: i64) -> Result<(), AdmissionError> {
        let queue = &mut self.sources[source];
        let record = queue.order.pop().expect("the caller looked");
        let chunk = &mut queue.chunks[(record.chunk - queue.chunks_done) as usize];
        chunk.left -= 1;
        self.pending.records += 1;
        let stamp = if self.clock == Clock::Event { record.order_time } else { now };
        let order_time = Some(record.order_time).filter(|time| *time != i64::MIN);
        let origin = ReceiptOrigin { source, position: record.position, order_time };
        match chunk.outcomes[record.record as usize] {
            Outcome::Refused(index) => {
                let refused = std::mem::replace(&mut chunk.refused[index as usize], no_refusal());
                self.refuse(origin, &refused);
            }
            Outcome::Accepted { batch, row } => {
                let accepted = Rc::clone(&chunk.accepted[batch as usize]);
                let payload = chunk.payload_hash(batch, row);
                self.admit(origin, &accepted, row, payload, stamp)?;
            }
        }
        self.sources[source].drop_done();
        Ok(())
    }

    /// Stamps a valid record, unless the dedupe index has its event already.
    fn admit(
        &mut self,
        origin: ReceiptOrigin,
        accepted: &Rc<AcceptedBatch>,
        row: u32,
        payload: Digest,
        stamp: i64,
    ) -> Result<(), AdmissionError> {
        let key = accepted.keys[row as usize];
        match self.dedupe.get(key)? {
            None => {
                let partition = accepted.partitions[row as usize];
                let (tick, offset) = self
                    .sequencer
                    .stamp(accepted.topic, partition, stamp)
                    .ok_or(AdmissionError::OutOfTicks)?;
                self.dedupe.insert(key, FirstSeen { payload: payload.short(), tick, offset });
                self.pending.receipts.admitted(origin, tick, offset);
                self.pending.add_fact(accepted, row, tick, offset);
                self.counts.admitted += 1;
            }
            Some(first) if first.payload == payload.short() => {
                let event_id = event_id(accepted, row);
                let at = (first.tick, first.offset);
                self.pending.receipts.duplicate(origin, at, &accepted.event_type, event_id, payload);
                self.counts.duplicate += 1;
            }
            Some(first) => {
                let event_id = event_id(accepted, row);
                let rejection = Rejection {
                    record: 0,
                    reason: Reason::PayloadHashMismatch,
                    detail: format!("event id `{event_id}` came with another payload at {}", first.tick),
                    event_type: Some(accepted.event_type.to_string()),
                    event_id: Some(event_id.to_owned()),
                    payload_hash: Some(payload),
                    bytes: record_bytes(accepted, row),
                };
                self.refuse(origin, &rejection);
            }
        }
        Ok(())
    }

    fn refuse(&mut self, origin: ReceiptOrigin, rejection: &Rejection) {
        *self.counts.quarantined.entry(rejection.reason).or_default() += 1;
        let receipt = QuarantineReceipt {
            reason: rejection.reason,
            detail: &rejection.detail,
            event_type: rejection.event_type.as_deref(),
            event_id: rejection.event_id.as_deref(),
            payload_hash: rejection.payload_hash,
            bytes: &rejection.bytes,
        };
        self.pending.receipts.quarantined(origin, &receipt);
    }

    /// How many records the group in the making holds.
    pub fn pending_records(&self) -> usize {
        self.pending.records
    }

    /// The group of the records taken since the last one, with the frames `extra` behind theirs;
    /// `None` when it would hold nothing and is no commit mark.
    pub fn group(&mut self, mut extra: Vec<Frame>, commit: bool) -> Option<Group> {
        let pending = std::mem::take(&mut self.pending);
        if pending.records == 0 && extra.is_empty() && !commit {
            return None;
        }
        let mut frames: Vec<Frame> = pending.facts.into_iter().map(PendingFacts::into_frame).collect();
        if pending.records > 0 {
            frames.push(audit_frame(RECEIPTS, pending.receipts.finish(&self.names)));
        }
        frames.append(&mut extra);
        let lower = self.lower;
        self.lower = self.sequencer.upper().max(lower);
        Some(Group { frames, lower, upper: self.lower, commit })
    }

    /// An empty group that records in the log that time has passed to `now`, in microseconds;
    /// `None` when the log is there already, or records wait for a group of their own.
    pub fn heartbeat(&mut self, now: i64) -> Option<Group> {
        let is_due = self.pending.records == 0 && self.sequencer.pass(now);
        let lower = self.lower;
        is_due.then(|| {
            self.lower = self.sequencer.upper().max(lower);
            Group { frames: Vec::new(), lower, upper: self.lower, commit: false }
        })
    }

    /// Everything before `upper` is durable in the log, so the dedupe index may write it to its own
    /// files.
    ///
    /// # Errors
    /// When the index cannot be written.
    pub fn log_durable(&mut self, upper: Tick) -> Result<(), AdmissionError> {
        Ok(self.dedupe.advance(upper)?)
    }
}

impl SourceQueue {
    /// The order time of the next record.
    fn next_time(&self) -> Option<i64> {
        self.order.peek().map(|record| record.order_time)
    }

    /// Drops the first chunks of which every record was taken.
    fn drop_done(&mut self) {
        while self.chunks.pop_front_if(|chunk| chunk.left == 0).is_some() {
            self.chunks_done += 1;
        }
    }
}

/// Stands in a chunk for a refusal that was taken out of it.
fn no_refusal() -> Rejection {
    Rejection {
        record: 0,
        reason: Reason::EnvelopeInvalid,
        detail: String::new(),
        event_type: None,
        event_id: None,
        payload_hash: None,
        bytes: Vec::new(),
    }
}

fn event_id(accepted: &AcceptedBatch, row: u32) -> &str {
    let ids = accepted.rows.column_by_name(columns::EVENT_ID).expect("accepted rows have it");
    ids.as_string::<i32>().value(row as usize)
}

/// The record as a line of JSON: its envelope columns and payload.
fn record_bytes(accepted: &AcceptedBatch, row: u32) -> Vec<u8> {
    let mut writer = arrow::json::LineDelimitedWriter::new(Vec::new());
    let written = writer.write(&accepted.rows.slice(row as usize, 1)).and_then(|()| writer.finish());
    if written.is_ok() { writer.into_inner() } else { Vec::new() }
}

impl PendingGroup {
    fn add_fact(&mut self, accepted: &Rc<AcceptedBatch>, row: u32, tick: Tick, offset: u64) {
        let index = match self.facts.iter().rposition(|f| Rc::ptr_eq(&f.from, accepted)) {
            Some(index) => index,
            None => {
                let from = Rc::clone(accepted);
                let (rows, ticks, offsets) = Default::default();
                self.facts.push(PendingFacts { from, rows, ticks, offsets });
                self.facts.len() - 1
            }
        };
        let facts = &mut self.facts[index];
        facts.rows.push(row);
        facts.ticks.push(tick);
        facts.offsets.push(offset);
    }
}

impl PendingFacts {
    fn into_frame(self) -> Frame {
        let consecutive = self.rows.windows(2).all(|pair| pair[0] + 1 == pair[1]);
        let rows = if consecutive {
            self.from.rows.slice(self.rows[0] as usize, self.rows.len())
        } else {
            take_record_batch(&self.from.rows, &UInt32Array::from(self.rows))
                .expect("the rows are the batch's own")
        };
        let offsets = OffsetArray::from_iter_values(self.offsets.into_iter().map(u64::cast_signed));
        let stamps: [ArrayRef; 2] = [Arc::new(tick_array(self.ticks)), Arc::new(offsets)];
        let payload =
            rows.column_by_name(columns::PAYLOAD).expect("accepted rows have it").data_type().clone();
        let schema = columns::fact_schema(payload);
        let columns: Vec<ArrayRef> = stamps.into_iter().chain(rows.columns().iter().cloned()).collect();
        let rows = RecordBatch::try_new(schema, columns).expect("accepted rows have the schema of facts");
        Frame {
            topic: self.from.topic,
            name: self.from.event_type.to_string(),
            rows: columns::drop_null_columns(&rows),
        }
    }
}
