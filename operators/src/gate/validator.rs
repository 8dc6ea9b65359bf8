//! The validator: checks records one source at a time, without history, in the gate's order.
//!
//! The order is size, envelope, event type, producer, pins, schema version, event time, payload,
//! partition key. The first error of a record is the one that the gate reports.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use tidegate_facts::strict_json::{JsonError, canonical};
use tidegate_facts::{Context, DedupeScope, Reason, tick};

use super::admit::{BatchBuilder, MissingKey, ValidRows};
use super::columnar::{self, EnvelopeColumns, RowErrors, payload_columns, rows_as_json};
use super::context_cache::{self, ContextCache, RecordError};
use super::line::{LineReader, PartialEnvelope, Payload, fits};
use super::outcome::{Rejection, Validated};
use super::payload::{self, Cell};
use super::policy::GatePolicy;
use super::time_bounds::TimeBounds;

/// Validates the records of one source under a gate policy.
pub struct Validator {
    policy: Arc<GatePolicy>,
    partitions: u16,
    bounds: TimeBounds,
    contexts: ContextCache,
    lines: LineReader,
}

/// The greatest number of cached contexts. A source has a handful; a hostile one has one per
/// record.
const CONTEXTS_MAX: usize = 4096;

impl Validator {
    /// A validator under `policy`, for a topology with this many partitions.
    ///
    /// `bounds` are the source's `time_between`; times that a tick cannot represent are always
    /// rejected.
    ///
    /// # Panics
    /// When there is no partition, or more than [`tick::PARTITIONS_MAX`].
    pub fn new(policy: Arc<GatePolicy>, partitions: u16, bounds: TimeBounds) -> Validator {
        assert!((1..=tick::PARTITIONS_MAX).contains(&partitions), "the plan has 1 to 256 partitions");
        let TimeBounds { from, to } = TimeBounds::TICKS;
        Validator {
            contexts: ContextCache::new(policy.events().cloned().collect()),
            policy,
            partitions,
            bounds: TimeBounds { from: bounds.from.max(from), to: bounds.to.min(to) },
            lines: LineReader::default(),
        }
    }

    /// Validates JSON records, each with its position in the source.
    pub fn validate_lines<'a>(&mut self, lines: impl IntoIterator<Item = (u64, &'a [u8])>) -> Validated {
        self.limit_caches();
        let mut validated = Validated::default();
        let mut builders: Vec<Option<BatchBuilder>> = self.contexts.events().iter().map(|_| None).collect();
        let mut records: Vec<&[u8]> = Vec::new();
        let mut scratch = Scratch::default();
        for (position, bytes) in lines {
            let record = record_at(records.len());
            records.push(bytes);
            validated.positions.push(position);
            validated.times.push(match self.validate_line(bytes, record, &mut builders, &mut scratch) {
                Ok(time) => time,
                Err(invalid) => {
                    let InvalidLine { error, partial } = *invalid;
                    validated.rejected.push(rejection(record, error, partial.event_type, partial.event_id));
                    self.time_within_bounds(partial.ts_utc)
                }
            });
        }
        for (event, builder) in builders.into_iter().enumerate() {
            if let Some(builder) = builder {
                self.accept(event, builder.finish(), &mut validated);
            }
        }
        validated
            .finish(|rejected| rejected.iter().map(|record| records[*record as usize].to_vec()).collect())
    }

    /// Validates the rows of a columnar source, which all have one `context`.
    ///
    /// The batch has the columns `event_id` and `ts_utc`, optionally the envelope's other columns,
    /// and one column for each field of the payload, by name; other columns are ignored. For an
    /// event type without a schema, the column `payload` has the payload as JSON text. The size of
    /// a row is the size of its texts.
    ///
    /// # Panics
    /// When [`Validator::check_columns`] returns an error for the batch's schema, or `positions`
    /// does not have one position for each row.
    pub fn validate_rows(&mut self, batch: &RecordBatch, positions: &[u64], context: &Context) -> Validated {
        assert_eq!(positions.len(), batch.num_rows(), "each row has a position");
        self.limit_caches();
        let number = self.contexts.number(context);
        let cached = self.contexts.get(number);
        let event = cached.event.as_ref().ok().copied();

        let mut errors = RowErrors::none(batch.num_rows());
        errors.check_sizes(batch, self.policy.record_bytes_max);
        let envelope = EnvelopeColumns::read(batch, &mut errors);
        if let Err(error) = context_cache::check(context) {
            errors.reject_all(&RecordError::new(Reason::EnvelopeInvalid, error.0));
        }
        if let Err(error) = &cached.event {
            errors.reject_all(error);
        }
        envelope.check_times(self.bounds, &mut errors);
        let payload = event.map(|event| payload_columns(batch, &self.contexts.events()[event], &mut errors));

        let mut validated = Validated { positions: positions.to_vec(), ..Validated::default() };
        validated.times =
            (0..batch.num_rows()).map(|row| self.time_within_bounds(envelope.time(row))).collect();
        let event_type = || Some(context.event_type.clone()).filter(|name| fits(name, 256));
        for (row, error) in errors.found() {
            validated.rejected.push(rejection(record_at(row), error.clone(), event_type(), envelope.id(row)));
        }
        if let (Some(event), Some(payload)) = (event, payload) {
            self.accept(event, envelope.valid_rows(payload, &errors, number), &mut validated);
        }
        validated.finish(|rejected| rows_as_json(batch, rejected))
    }

    /// Whether the validator's policy has this event type.
    pub fn has_event_type(&self, event_type: &str) -> bool {
        self.policy.event(event_type).is_some()
    }

    /// Checks whether this validator can validate rows with these columns as `event_type`; returns
    /// every error, each a sentence that says how to correct it.
    pub fn check_columns(&self, schema: &Schema, event_type: &str) -> Vec<String> {
        let Some(event) = self.policy.event(event_type) else {
            let existing: Vec<&str> = self.policy.events().map(|event| event.event_type.as_ref()).collect();
            return vec![format!(
                "policy `{}` has no event type `{event_type}`; add it, or use one of {}",
                self.policy.id,
                existing.join(", ")
            )];
        };
        columnar::check_columns(schema, event)
    }

    /// Validates one line and appends it to the batch of its event type; returns its event time.
    fn validate_line<'a>(
        &mut self,
        bytes: &'a [u8],
        record: u32,
        builders: &mut [Option<BatchBuilder>],
        Scratch { values, cells }: &mut Scratch<'a>,
    ) -> Result<i64, Box<InvalidLine>> {
        if bytes.len() > self.policy.record_bytes_max {
            let error = RecordError::too_large(bytes.len(), self.policy.record_bytes_max);
            return Err(Box::new(InvalidLine { error, partial: PartialEnvelope::default() }));
        }
        let line = self.lines.read(bytes, &mut self.contexts, values).map_err(|error| {
            let error = RecordError::new(Reason::EnvelopeInvalid, error.0);
            Box::new(InvalidLine { error, partial: PartialEnvelope::of(bytes) })
        })?;
        let cached = self.contexts.get(line.context);
        let invalid = |error: RecordError| {
            let event_type = Some(cached.context.event_type.clone());
            let event_id = Some(line.fields.event_id.clone().into_owned());
            let partial = PartialEnvelope { event_type, event_id, ts_utc: Some(line.fields.ts_utc) };
            Box::new(InvalidLine { error, partial })
        };
        let index = *cached.event.as_ref().map_err(|error| invalid(error.clone()))?;
        if !self.bounds.contains(line.fields.ts_utc) {
            return Err(invalid(RecordError::out_of_range(line.fields.ts_utc, self.bounds)));
        }
        let event = &self.contexts.events()[index];
        let fails = |error: JsonError| invalid(RecordError::new(Reason::SchemaFail, error.0));
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
            (Payload::Values, None) => unreachable!("templates are learned under a schema"),
        };
        let builder = builders[index].get_or_insert_with(|| BatchBuilder::new(event));
        builder.push(record, &line, cells, object.as_deref());
        Ok(line.fields.ts_utc)
    }

    /// The event time if it is within the bounds, else `i64::MIN`.
    fn time_within_bounds(&self, time: Option<i64>) -> i64 {
        time.filter(|time| self.bounds.contains(*time)).unwrap_or(i64::MIN)
    }

    /// Converts valid rows of the event type with index `event` to facts, and rejects the rows
    /// without a partition key.
    fn accept(&self, event: usize, rows: ValidRows, validated: &mut Validated) {
        let event = &self.contexts.events()[event];
        let (accepted, without_key) = rows.accept(event, &self.contexts, self.partitions);
        if !accepted.records.is_empty() {
            validated.accepted.push(accepted);
        }
        let names: Vec<&str> = event.partition_key.iter().map(|source| event.key_name(source)).collect();
        validated.rejected.extend(without_key.into_iter().map(|missing| {
            let MissingKey { record, event_id, payload_hash } = missing;
            let names = names.join(", ");
            let detail = format!(
                "none of the partition keys has a value; send one of {names}, or add \"event_id\" to them"
            );
            let error = RecordError::new(Reason::PartitionKeyMissing, detail);
            let event_type = Some(event.event_type.to_string());
            let rejection = rejection(record, error, event_type, Some(event_id));
            Rejection { payload_hash: Some(payload_hash), ..rejection }
        }));
    }

    /// The scope of the dedupe keys of a context's events.
    pub(super) fn scope_of(&mut self, context: &Context) -> DedupeScope {
        let number = self.contexts.number(context);
        self.contexts.get(number).scope
    }

    /// Clears the caches when they have grown too large.
    fn limit_caches(&mut self) {
        if self.contexts.len().max(self.lines.len()) > CONTEXTS_MAX {
            self.contexts.clear();
            self.lines.clear();
        }
    }
}

/// Buffers for reading a line, reused from line to line.
#[derive(Default)]
struct Scratch<'a> {
    values: Vec<(usize, &'a str)>,
    cells: Vec<Cell<'a>>,
}

/// The error of a line, and the part of its envelope that could be read.
struct InvalidLine {
    error: RecordError,
    partial: PartialEnvelope,
}

fn record_at(index: usize) -> u32 {
    u32::try_from(index).expect("a source passes fewer than 2^32 records at once")
}

fn rejection(
    record: u32,
    error: RecordError,
    event_type: Option<String>,
    event_id: Option<String>,
) -> Rejection {
    let RecordError { reason, detail } = error;
    Rejection { record, reason, detail, event_type, event_id, payload_hash: None, bytes: Vec::new() }
}
