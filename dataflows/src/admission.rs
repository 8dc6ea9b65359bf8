//! Admission: records of all sources in one order, each with one receipt, in durable groups.
//!
//! With the event clock the sources are merged by (event time, order of the sources, position), where
//! the event time of a record that is later than its source declares is its place (see [`crate::reorder`]).
//! The log is then a function of the inputs alone, however large the batches are. With the wall clock
//! records are taken as they come.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, BinaryBuilder, DictionaryArray, FixedSizeBinaryArray, FixedSizeBinaryBuilder,
    Int32Array, Int64Builder, RecordBatch, StringArray, StringBuilder, UInt8Builder, UInt32Array,
    UInt64Array, UInt64Builder,
};
use arrow::compute::take_record_batch;
use tidegate_facts::{Digest, PolicyRev, Reason, Tick, Topic, Verdict, columns};
use tidegate_operators::gate::{Accepted, Judged, Refused};
use tidegate_sinks::dedupe::{DedupeError, DedupeIndex, Seen};
use tidegate_sinks::log::{Frame, Group};
use tidegate_sinks::sequencer::Sequencer;

use crate::reorder::Reorder;
use crate::topology::Clock;

/// The name of receipt frames in the audit topic.
pub const RECEIPTS: &str = "receipts";

/// The name of the audit frame that says which plan and policy a log belongs to.
pub const RUN: &str = "run";

/// The name of the audit frames that say how far sources were read.
pub const PROGRESS: &str = "progress";

/// Stamps records, keeps out duplicates, and makes groups of what it is given.
pub struct Admission {
    clock: Clock,
    sources: Vec<String>,
    heads: Vec<Head>,
    sequencer: Sequencer,
    dedupe: DedupeIndex,
    lower: Tick,
    pending: Pending,
    /// How many records of each verdict and reason so far.
    pub counts: Counts,
}

/// How many records came to what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Facts.
    pub admitted: u64,
    /// Duplicates of facts.
    pub duplicate: u64,
    /// Refused, by reason.
    pub quarantined: BTreeMap<Reason, u64>,
}

impl Counts {
    /// All records.
    pub fn records(&self) -> u64 {
        self.admitted + self.duplicate + self.quarantined.values().sum::<u64>()
    }
}

/// What one source has handed over and not yet been taken.
struct Head {
    order: Reorder,
    /// The chunks that hold records which have not had their turn, and some between them.
    chunks: VecDeque<Chunk>,
    /// How many chunks came before the first of them.
    chunks_gone: u64,
    /// No more is to come.
    ended: bool,
}

struct Chunk {
    judged: Judged,
    accepted: Vec<Rc<Accepted>>,
    /// The digests of the payloads of each batch.
    hashes: Vec<FixedSizeBinaryArray>,
    /// For each record the accepted batch and row, or the refusal.
    slots: Vec<Slot>,
    /// How many of its records have not had their turn.
    left: usize,
}

impl Chunk {
    /// The digest of the payload of one record.
    fn hash_of(&self, batch: u32, row: u32) -> Digest {
        let hash = self.hashes[batch as usize].value(row as usize);
        Digest(hash.try_into().expect("a digest has 32 bytes"))
    }
}

/// The column of the payloads' digests.
fn hashes_of(accepted: &Accepted) -> FixedSizeBinaryArray {
    let hashes = accepted.rows.column_by_name(columns::PAYLOAD_HASH).expect("accepted rows have it");
    hashes.as_fixed_size_binary().clone()
}

#[derive(Clone, Copy)]
enum Slot {
    Accepted(u32, u32),
    Refused(u32),
}

/// The group in the making.
#[derive(Default)]
struct Pending {
    records: usize,
    facts: Vec<PendingFacts>,
    receipts: Receipts,
}

/// Rows of one accepted batch that were admitted.
struct PendingFacts {
    from: Rc<Accepted>,
    rows: Vec<u32>,
    ticks: Vec<u64>,
    offsets: Vec<u64>,
}

/// Why admission had to stop.
#[derive(Debug, thiserror::Error)]
pub enum AdmissionError {
    /// The index of what was seen failed.
    #[error(transparent)]
    Dedupe(#[from] DedupeError),
    /// No tick is left.
    #[error("no tick is left: the log has reached the year 2112")]
    OutOfTicks,
}

impl Admission {
    /// Goes on after `lower`; `sources` are in the order of the gate's inputs, each with its name.
    pub fn new(
        clock: Clock,
        sources: Vec<(String, Reorder)>,
        sequencer: Sequencer,
        dedupe: DedupeIndex,
        lower: Tick,
    ) -> Admission {
        let (sources, heads) = sources
            .into_iter()
            .map(|(name, order)| {
                (name, Head { order, chunks: VecDeque::new(), chunks_gone: 0, ended: false })
            })
            .unzip();
        let counts = Counts::default();
        Admission { clock, sources, heads, sequencer, dedupe, lower, pending: Pending::default(), counts }
    }

    /// The source that must hand over more before anything can be taken.
    pub fn wanting(&self) -> Option<usize> {
        self.heads.iter().position(|head| head.next_time().is_none() && !head.ended)
    }

    /// Whether all sources ended and everything was taken.
    pub fn is_finished(&self) -> bool {
        self.heads.iter().all(|head| head.next_time().is_none() && head.ended)
    }

    /// Takes over what a source had judged; `None` is its end.
    pub fn hand_over(&mut self, source: usize, judged: Option<Judged>) {
        let head = &mut self.heads[source];
        match judged {
            None => {
                head.order.end();
                head.ended = true;
            }
            Some(judged) if judged.positions.is_empty() => {}
            Some(mut judged) => {
                let accepted: Vec<Rc<Accepted>> = judged.accepted.drain(..).map(Rc::new).collect();
                let mut slots = vec![Slot::Refused(0); judged.positions.len()];
                for (batch, accepted) in accepted.iter().enumerate() {
                    for (row, record) in accepted.records.iter().enumerate() {
                        slots[*record as usize] = Slot::Accepted(batch as u32, row as u32);
                    }
                }
                for (place, refused) in judged.refused.iter().enumerate() {
                    slots[refused.record as usize] = Slot::Refused(place as u32);
                }
                let left = head.order.hand_over(&judged.positions, &judged.times);
                let hashes = accepted.iter().map(|accepted| hashes_of(accepted)).collect();
                head.chunks.push_back(Chunk { judged, accepted, hashes, slots, left });
                head.forget_done();
            }
        }
    }

    /// Takes records in order until a source must hand over more or the group holds `rows` records.
    ///
    /// `now` is the wall clock in microseconds, used by the wall clock alone.
    ///
    /// # Errors
    /// When the index of what was seen cannot be read.
    pub fn take(&mut self, rows: usize, now: i64) -> Result<(), AdmissionError> {
        while self.pending.records < rows && self.wanting().is_none() {
            let Some(source) = self.next_source() else { break };
            // Records of this source up to the next time of any other are one run.
            let bound = self
                .heads
                .iter()
                .enumerate()
                .filter(|(other, _)| *other != source)
                .filter_map(|(other, head)| head.next_time().map(|time| (time, other)))
                .min();
            loop {
                self.take_record(source, now)?;
                let next = self.heads[source].next_time();
                let more = next.is_some_and(|time| bound.is_none_or(|bound| (time, source) < bound));
                if !more || self.pending.records >= rows {
                    break;
                }
            }
        }
        Ok(())
    }

    fn next_source(&self) -> Option<usize> {
        self.heads
            .iter()
            .enumerate()
            .filter_map(|(source, head)| Some((head.next_time()?, source)))
            .min()
            .map(|(_, s)| s)
    }

    fn take_record(&mut self, source: usize, now: i64) -> Result<(), AdmissionError> {
        let head = &mut self.heads[source];
        let turn = head.order.take().expect("the caller looked");
        let chunk = &mut head.chunks[(turn.chunk - head.chunks_gone) as usize];
        chunk.left -= 1;
        self.pending.records += 1;
        let head_of_receipt = (source as i32, turn.position, turn.place);
        match chunk.slots[turn.record as usize] {
            Slot::Refused(place) => {
                let refused = std::mem::replace(&mut chunk.judged.refused[place as usize], gone());
                *self.counts.quarantined.entry(refused.reason).or_default() += 1;
                self.pending.receipts.refused(head_of_receipt, refused);
            }
            Slot::Accepted(batch, row) => {
                let accepted = Rc::clone(&chunk.accepted[batch as usize]);
                let key = accepted.keys[row as usize];
                let payload = chunk.hash_of(batch, row);
                match self.dedupe.get(key)? {
                    None => {
                        let stamp = if self.clock == Clock::Event { turn.place } else { now };
                        let partition = accepted.partitions[row as usize];
                        let (tick, offset) = self
                            .sequencer
                            .stamp(accepted.topic, partition, stamp)
                            .ok_or(AdmissionError::OutOfTicks)?;
                        self.dedupe.insert(key, Seen { payload: payload.short(), tick, offset });
                        self.pending.receipts.admitted(head_of_receipt, tick, offset);
                        self.pending.admit(&accepted, row, tick, offset);
                        self.counts.admitted += 1;
                    }
                    Some(seen) if seen.payload == payload.short() => {
                        self.pending.receipts.duplicate(head_of_receipt, &seen, &accepted, row, payload);
                        self.counts.duplicate += 1;
                    }
                    Some(seen) => {
                        let detail = format!(
                            "event id `{}` came with another payload at {}",
                            event_id(&accepted, row),
                            seen.tick
                        );
                        let refused = Refused {
                            record: 0,
                            reason: Reason::PayloadHashMismatch,
                            detail,
                            event_type: Some(accepted.event_type.to_string()),
                            event_id: Some(event_id(&accepted, row).to_owned()),
                            payload_hash: Some(payload),
                            bytes: record_bytes(&accepted, row),
                        };
                        *self.counts.quarantined.entry(refused.reason).or_default() += 1;
                        self.pending.receipts.refused(head_of_receipt, refused);
                    }
                }
            }
        }
        self.heads[source].forget_done();
        Ok(())
    }

    /// How many records the group in the making holds.
    pub fn pending_records(&self) -> usize {
        self.pending.records
    }

    /// The group of what was taken since the last one; `None` when there is nothing, and no mark is due.
    pub fn group(&mut self, mut extra: Vec<Frame>, commit: bool) -> Option<Group> {
        let pending = std::mem::take(&mut self.pending);
        if pending.records == 0 && extra.is_empty() && !commit {
            return None;
        }
        let mut frames: Vec<Frame> = pending.facts.into_iter().map(PendingFacts::into_frame).collect();
        if pending.records > 0 {
            let rows = columns::trim(&pending.receipts.into_batch(&self.sources));
            frames.push(Frame { topic: Topic::Audit, name: RECEIPTS.to_owned(), rows });
        }
        frames.append(&mut extra);
        let lower = self.lower;
        self.lower = self.sequencer.upper().max(lower);
        Some(Group { frames, lower, upper: self.lower, commit })
    }

    /// A group that says that time has passed to `now`, in microseconds, and nothing was admitted; `None` when that is known, or
    /// something waits to be said first.
    pub fn beat(&mut self, now: i64) -> Option<Group> {
        let is_due = self.pending.records == 0 && self.sequencer.pass(now);
        let lower = self.lower;
        is_due.then(|| {
            self.lower = self.sequencer.upper().max(lower);
            Group { frames: Vec::new(), lower, upper: self.lower, commit: false }
        })
    }

    /// Tells the index that everything before `upper` is in the log.
    ///
    /// # Errors
    /// When the index cannot write what it holds.
    pub fn durable(&mut self, upper: Tick) -> Result<(), AdmissionError> {
        Ok(self.dedupe.advance(upper)?)
    }
}

impl Head {
    /// The place in event time of the next record.
    fn next_time(&self) -> Option<i64> {
        self.order.peek().map(|turn| turn.place)
    }

    /// Drops the first chunks, as far as all their records have had their turn.
    fn forget_done(&mut self) {
        while self.chunks.pop_front_if(|chunk| chunk.left == 0).is_some() {
            self.chunks_gone += 1;
        }
    }
}

fn gone() -> Refused {
    Refused {
        record: 0,
        reason: Reason::EnvelopeInvalid,
        detail: String::new(),
        event_type: None,
        event_id: None,
        payload_hash: None,
        bytes: Vec::new(),
    }
}

fn event_id(accepted: &Accepted, row: u32) -> &str {
    let ids = accepted.rows.column_by_name(columns::EVENT_ID).expect("accepted rows have it");
    ids.as_string::<i32>().value(row as usize)
}

/// The record as a line of JSON: its envelope columns and payload.
fn record_bytes(accepted: &Accepted, row: u32) -> Vec<u8> {
    let mut writer = arrow::json::LineDelimitedWriter::new(Vec::new());
    let written = writer.write(&accepted.rows.slice(row as usize, 1)).and_then(|()| writer.finish());
    if written.is_ok() { writer.into_inner() } else { Vec::new() }
}

impl Pending {
    fn admit(&mut self, accepted: &Rc<Accepted>, row: u32, tick: Tick, offset: u64) {
        let place = match self.facts.iter().rposition(|f| Rc::ptr_eq(&f.from, accepted)) {
            Some(place) => place,
            None => {
                let from = Rc::clone(accepted);
                self.facts.push(PendingFacts {
                    from,
                    rows: Vec::new(),
                    ticks: Vec::new(),
                    offsets: Vec::new(),
                });
                self.facts.len() - 1
            }
        };
        let facts = &mut self.facts[place];
        facts.rows.push(row);
        facts.ticks.push(tick.0);
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
        let heads: [ArrayRef; 2] =
            [Arc::new(UInt64Array::from(self.ticks)), Arc::new(UInt64Array::from(self.offsets))];
        let payload =
            rows.column_by_name(columns::PAYLOAD).expect("accepted rows have it").data_type().clone();
        let schema = columns::fact_schema(payload);
        let columns: Vec<ArrayRef> = heads.into_iter().chain(rows.columns().iter().cloned()).collect();
        let rows = RecordBatch::try_new(schema, columns).expect("accepted rows have the schema of facts");
        Frame { topic: self.from.topic, name: self.from.event_type.to_string(), rows: columns::trim(&rows) }
    }
}

/// Receipts in the making.
#[derive(Default)]
struct Receipts {
    source: Vec<i32>,
    position: Vec<u64>,
    verdict: UInt8Builder,
    reason: UInt8Builder,
    tick: UInt64Builder,
    offset: UInt64Builder,
    event_type: StringBuilder,
    event_id: StringBuilder,
    payload_hash: Vec<Option<Digest>>,
    detail: StringBuilder,
    bytes: BinaryBuilder,
    place: Int64Builder,
}

impl Receipts {
    fn head(
        &mut self,
        (source, position, place): (i32, u64, i64),
        verdict: Verdict,
        reason: Option<Reason>,
        at: Option<(Tick, u64)>,
    ) {
        self.source.push(source);
        self.position.push(position);
        self.place.append_option((place != i64::MIN).then_some(place));
        self.verdict.append_value(verdict as u8);
        self.reason.append_option(reason.map(|r| r as u8));
        self.tick.append_option(at.map(|(tick, _)| tick.0));
        self.offset.append_option(at.map(|(_, offset)| offset));
    }

    fn admitted(&mut self, head: (i32, u64, i64), tick: Tick, offset: u64) {
        self.head(head, Verdict::Admit, None, Some((tick, offset)));
        self.event_type.append_null();
        self.event_id.append_null();
        self.payload_hash.push(None);
        self.detail.append_null();
        self.bytes.append_null();
    }

    fn duplicate(
        &mut self,
        head: (i32, u64, i64),
        seen: &Seen,
        accepted: &Accepted,
        row: u32,
        payload: Digest,
    ) {
        self.head(head, Verdict::Duplicate, Some(Reason::Duplicate), Some((seen.tick, seen.offset)));
        self.event_type.append_value(&accepted.event_type);
        self.event_id.append_value(event_id(accepted, row));
        self.payload_hash.push(Some(payload));
        self.detail.append_null();
        self.bytes.append_null();
    }

    fn refused(&mut self, head: (i32, u64, i64), refused: Refused) {
        self.head(head, Verdict::Quarantine, Some(refused.reason), None);
        self.event_type.append_option(refused.event_type);
        self.event_id.append_option(refused.event_id);
        self.payload_hash.push(refused.payload_hash);
        self.detail.append_value(refused.detail);
        self.bytes.append_value(refused.bytes);
    }

    fn into_batch(mut self, sources: &[String]) -> RecordBatch {
        let names = Arc::new(StringArray::from_iter_values(sources));
        let mut hashes = FixedSizeBinaryBuilder::with_capacity(self.payload_hash.len(), 32);
        for hash in &self.payload_hash {
            match hash {
                Some(hash) => hashes.append_value(hash.0).expect("a digest has 32 bytes"),
                None => hashes.append_null(),
            }
        }
        let columns: Vec<ArrayRef> = vec![
            Arc::new(DictionaryArray::new(Int32Array::from(self.source), names)),
            Arc::new(UInt64Array::from(self.position)),
            Arc::new(self.verdict.finish()),
            Arc::new(self.reason.finish()),
            Arc::new(self.tick.finish()),
            Arc::new(self.offset.finish()),
            Arc::new(self.event_type.finish()),
            Arc::new(self.event_id.finish()),
            Arc::new(hashes.finish()),
            Arc::new(self.detail.finish()),
            Arc::new(self.bytes.finish()),
            Arc::new(self.place.finish()),
        ];
        RecordBatch::try_new(columns::receipt_schema(), columns)
            .expect("the columns were made for the schema")
    }
}

/// A frame of the audit topic that holds one record as JSON.
pub fn audit_record(name: &str, record: &impl serde::Serialize) -> Frame {
    use arrow::datatypes::{DataType, Field, Schema};
    let text = serde_json::to_string(record).expect("the record has a JSON form");
    let schema = Arc::new(Schema::new(vec![Field::new("record", DataType::Utf8, false)]));
    let columns: Vec<ArrayRef> = vec![Arc::new(StringArray::from_iter_values([text]))];
    let rows = RecordBatch::try_new(schema, columns).expect("one column of one row");
    Frame { topic: Topic::Audit, name: name.to_owned(), rows }
}

/// What the `run` record of a log says.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RunRecord {
    /// The topology's name.
    pub topology: String,
    /// The plan's digest.
    pub plan: Digest,
    /// The gate's policy.
    pub policy: PolicyRev,
    /// The number of partitions.
    pub partitions: u16,
}

/// What a `progress` record says of one source.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ProgressRecord {
    /// The source.
    pub source: String,
    /// How many of its records have a receipt.
    pub records: u64,
    /// What they were read from.
    pub prefix: tidegate_sources::Prefix,
}
