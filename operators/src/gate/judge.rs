//! Judges records: every check that needs no history, in the gate's order.
//!
//! The order is size, envelope, event type, producer, pins, schema version, event time, payload,
//! partition key; the first fault is the one that is given.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use tidegate_facts::json::{JsonFault, canonical};
use tidegate_facts::{Context, Reason, tick};

use super::accept::{Checked, Growing, Keyless};
use super::context::{self, Contexts, Fault};
use super::judged::{Judged, Refused};
use super::line::{Glimpse, Lines, Payload, fits};
use super::payload::{self, Cell};
use super::policy::GatePolicy;
use super::row::{self, EnvelopeColumns, Faults, payload_columns, show};

/// Judges the records of one source.
pub struct Judge {
    policy: Arc<GatePolicy>,
    partitions: u16,
    bounds: TimeBounds,
    contexts: Contexts,
    lines: Lines,
}

/// The event times that a source may send, in microseconds; both ends are allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeBounds {
    /// The first.
    pub from: i64,
    /// The last.
    pub to: i64,
}

impl TimeBounds {
    /// Every time that a tick can hold.
    pub const TICKS: TimeBounds = TimeBounds { from: 0, to: tick::MICROS_MAX };

    pub(super) fn contains(self, micros: i64) -> bool {
        (self.from..=self.to).contains(&micros)
    }
}

/// How many contexts are kept; a source has a handful, a hostile one has as many as records.
const CONTEXTS_MAX: usize = 4096;

impl Judge {
    /// A judge under `policy`, for a topology of so many partitions.
    ///
    /// `bounds` are the source's `time_between`; what a tick cannot hold is outside of them in any case.
    ///
    /// # Panics
    /// When there is no partition, or more than a tick can name.
    pub fn new(policy: Arc<GatePolicy>, partitions: u16, bounds: TimeBounds) -> Judge {
        assert!((1..=tick::PARTITIONS_MAX).contains(&partitions), "the plan has 1 to 4096 partitions");
        let TimeBounds { from, to } = TimeBounds::TICKS;
        Judge {
            contexts: Contexts::new(policy.events().cloned().collect()),
            policy,
            partitions,
            bounds: TimeBounds { from: bounds.from.max(from), to: bounds.to.min(to) },
            lines: Lines::default(),
        }
    }

    /// Judges JSON records, each with its position in the source.
    pub fn lines<'a>(&mut self, lines: impl IntoIterator<Item = (u64, &'a [u8])>) -> Judged {
        self.forget_contexts();
        let mut judged = Judged::default();
        let mut growing: Vec<Option<Growing>> = self.contexts.events().iter().map(|_| None).collect();
        let mut records: Vec<&[u8]> = Vec::new();
        let mut scratch = Scratch::default();
        for (position, bytes) in lines {
            let record = record_at(records.len());
            records.push(bytes);
            judged.positions.push(position);
            judged.times.push(match self.line(bytes, record, &mut growing, &mut scratch) {
                Ok(time) => time,
                Err(refusal) => {
                    let Refusal { fault, glimpse } = *refusal;
                    judged.refused.push(refused(record, fault, glimpse.event_type, glimpse.event_id));
                    self.time_within(glimpse.ts_utc)
                }
            });
        }
        for (place, growing) in growing.into_iter().enumerate() {
            if let Some(growing) = growing {
                self.accept(place, growing.finish(), &mut judged);
            }
        }
        judged.finish(|refused| refused.iter().map(|record| records[*record as usize].to_vec()).collect())
    }

    /// Judges the rows of a columnar source, which all have one `context`.
    ///
    /// The batch has the columns `event_id` and `ts_utc`, if it likes the envelope's other columns,
    /// and one for each field of the payload, by its name; other columns are not looked at. An event
    /// type without a schema has its payload as JSON text in `payload`. The size of a row is that of
    /// its texts.
    ///
    /// # Panics
    /// When [`Judge::check_columns`] finds a fault in the batch's schema, or there is not one
    /// position for each row.
    pub fn rows(&mut self, batch: &RecordBatch, positions: &[u64], context: &Context) -> Judged {
        assert_eq!(positions.len(), batch.num_rows(), "the source gives each row its position");
        self.forget_contexts();
        let number = self.contexts.number(context);
        let known = self.contexts.get(number);
        let place = known.judgement.as_ref().ok().copied();

        let mut faults = Faults::none(batch.num_rows());
        faults.check_sizes(batch, self.policy.record_bytes_max);
        let envelope = EnvelopeColumns::read(batch, &mut faults);
        if let Err(fault) = context::check(context) {
            faults.refuse_all(&Fault::new(Reason::EnvelopeInvalid, fault.0));
        }
        if let Err(fault) = &known.judgement {
            faults.refuse_all(fault);
        }
        envelope.check_times(self.bounds, &mut faults);
        let payload = place.map(|place| payload_columns(batch, &self.contexts.events()[place], &mut faults));

        let mut judged = Judged { positions: positions.to_vec(), ..Judged::default() };
        judged.times = (0..batch.num_rows()).map(|row| self.time_within(envelope.time(row))).collect();
        let event_type = || Some(context.event_type.clone()).filter(|name| fits(name, 256));
        for (row, fault) in faults.found() {
            judged.refused.push(refused(record_at(row), fault.clone(), event_type(), envelope.id(row)));
        }
        if let (Some(place), Some(payload)) = (place, payload) {
            self.accept(place, envelope.keep(payload, &faults, number), &mut judged);
        }
        judged.finish(|refused| show(batch, refused))
    }

    /// Whether the policy lets in any event of that type.
    pub fn knows(&self, event_type: &str) -> bool {
        self.policy.event(event_type).is_some()
    }

    /// Whether rows of these columns can be judged as `event_type`: every fault, with its mend.
    pub fn check_columns(&self, schema: &Schema, event_type: &str) -> Vec<String> {
        let Some(event) = self.policy.event(event_type) else {
            let known: Vec<&str> = self.policy.events().map(|event| event.event_type.as_ref()).collect();
            return vec![format!(
                "policy `{}` has no event type `{event_type}`; add it, or use one of {}",
                self.policy.id,
                known.join(", ")
            )];
        };
        row::check_columns(schema, event)
    }

    /// Checks one line and appends it to the facts of its type; gives its time.
    fn line<'a>(
        &mut self,
        bytes: &'a [u8],
        record: u32,
        growing: &mut [Option<Growing>],
        Scratch { values, cells }: &mut Scratch<'a>,
    ) -> Result<i64, Box<Refusal>> {
        if bytes.len() > self.policy.record_bytes_max {
            let fault = Fault::too_large(bytes.len(), self.policy.record_bytes_max);
            return Err(Box::new(Refusal { fault, glimpse: Glimpse::default() }));
        }
        let line = self.lines.read(bytes, &mut self.contexts, values).map_err(|fault| {
            let fault = Fault::new(Reason::EnvelopeInvalid, fault.0);
            Box::new(Refusal { fault, glimpse: Glimpse::of(bytes) })
        })?;
        let known = self.contexts.get(line.context);
        let refusal = |fault: Fault| {
            let event_type = Some(known.context.event_type.clone());
            let event_id = Some(line.own.event_id.clone().into_owned());
            Box::new(Refusal {
                fault,
                glimpse: Glimpse { event_type, event_id, ts_utc: Some(line.own.ts_utc) },
            })
        };
        let place = *known.judgement.as_ref().map_err(|fault| refusal(fault.clone()))?;
        if !self.bounds.contains(line.own.ts_utc) {
            return Err(refusal(Fault::out_of_range(line.own.ts_utc, self.bounds)));
        }
        let event = &self.contexts.events()[place];
        let fails = |fault: JsonFault| refusal(Fault::new(Reason::SchemaFail, fault.0));
        let object = match (&line.payload, &event.payload) {
            (Payload::Values, Some(schema)) => {
                payload::read_values(values, schema, cells).map_err(fails)?;
                None
            }
            (Payload::Object(object), Some(schema)) => {
                payload::read(object.unwrap_or("{}"), schema, cells).map_err(fails)?;
                self.lines.learn(bytes, line.context, schema);
                None
            }
            (Payload::Object(object), None) => Some(canonical(object.unwrap_or("{}")).map_err(fails)?),
            (Payload::Values, None) => unreachable!("a shape is learnt under a schema"),
        };
        let growing = growing[place].get_or_insert_with(|| Growing::new(event));
        growing.push(record, &line, cells, object.as_deref());
        Ok(line.own.ts_utc)
    }

    /// The time if it lies within the bounds.
    fn time_within(&self, time: Option<i64>) -> i64 {
        time.filter(|time| self.bounds.contains(*time)).unwrap_or(i64::MIN)
    }

    /// Makes facts of what was checked, and refuses what has no partition key.
    fn accept(&self, place: usize, checked: Checked, judged: &mut Judged) {
        let event = &self.contexts.events()[place];
        let (accepted, keyless) = checked.accept(event, &self.contexts, self.partitions);
        if !accepted.records.is_empty() {
            judged.accepted.push(accepted);
        }
        let names: Vec<&str> = event.partition_key.iter().map(|source| event.key_name(source)).collect();
        judged.refused.extend(keyless.into_iter().map(|Keyless { record, event_id, payload_hash }| {
            let names = names.join(", ");
            let detail = format!(
                "none of the partition keys has a value; send one of {names}, or add \"event_id\" to them"
            );
            let fault = Fault::new(Reason::PartitionKeyMissing, detail);
            let event_type = Some(event.event_type.to_string());
            Refused { payload_hash: Some(payload_hash), ..refused(record, fault, event_type, Some(event_id)) }
        }));
    }

    /// What stands for a context's platform run and class in dedupe keys.
    pub(super) fn scope_of(&mut self, context: &Context) -> [u8; 16] {
        let number = self.contexts.number(context);
        self.contexts.get(number).scope
    }

    fn forget_contexts(&mut self) {
        if self.contexts.len().max(self.lines.len()) > CONTEXTS_MAX {
            self.contexts.clear();
            self.lines.clear();
        }
    }
}

/// What reading a line needs, kept from line to line.
#[derive(Default)]
struct Scratch<'a> {
    values: Vec<(usize, &'a str)>,
    cells: Vec<Cell<'a>>,
}

/// A line that is refused, and what could be read of it.
struct Refusal {
    fault: Fault,
    glimpse: Glimpse,
}

fn record_at(place: usize) -> u32 {
    u32::try_from(place).expect("a source hands over fewer than 2^32 records at once")
}

fn refused(record: u32, fault: Fault, event_type: Option<String>, event_id: Option<String>) -> Refused {
    let Fault { reason, detail } = fault;
    Refused { record, reason, detail, event_type, event_id, payload_hash: None, bytes: Vec::new() }
}
