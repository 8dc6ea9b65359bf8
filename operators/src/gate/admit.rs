//! Converts valid records to facts: computes each row's payload digest, partition and dedupe key.
//!
//! Lines and columnar rows take the same way from here on. Everything that is hashed is read from
//! the columns of the fact, so a record has the same digest, partition and key in either form.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, DictionaryArray, Int32Array, RecordBatch, StringArray,
    StringBuilder, StructArray, TimestampMicrosecondArray, TimestampMicrosecondBuilder,
};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{
    DataType, Decimal128Type, Fields, Float64Type, Int32Type, Int64Type, Schema, TimestampMicrosecondType,
};
use tidegate_facts::jcs::{self, ObjectWriter};
use tidegate_facts::{Digest, DigestBatch, EventClass, Topic, columns, strict_json, time};

use super::context_cache::ContextCache;
use super::line::Line;
use super::outcome::AcceptedBatch;
use super::payload::{Cell, ColumnBuilder};
use super::policy::{EventPolicy, KeySource};
use crate::core::rows::digest_column;

/// Records of one event type that the gate admits unless they lack a partition key: they passed all
/// other checks.
pub struct ValidRows {
    /// The index of each record in [`Validated::positions`](super::outcome::Validated::positions).
    pub records: Vec<u32>,
    /// The number of each record's context in the cache.
    pub contexts: Vec<u32>,
    /// The column `event_id`: texts.
    pub event_id: ArrayRef,
    /// The column `ts_utc`: microseconds, UTC.
    pub ts_utc: ArrayRef,
    /// The column `emitted_at_utc`: microseconds, UTC.
    pub emitted_at_utc: ArrayRef,
    /// The column `trace_id`: texts.
    pub trace_id: ArrayRef,
    /// The column `span_id`: texts.
    pub span_id: ArrayRef,
    /// The column `parent_event_id`: texts.
    pub parent_event_id: ArrayRef,
    /// One column for each field of the payload schema; without a schema, the payloads as texts.
    pub payload: Vec<ArrayRef>,
}

/// A record that the gate cannot admit, because it has no value for any partition key.
pub struct MissingKey {
    /// The index of the record in [`Validated::positions`](super::outcome::Validated::positions).
    pub record: u32,
    /// The event id.
    pub event_id: String,
    /// The digest of the payload.
    pub payload_hash: Digest,
}

/// The topic to which facts of a class are admitted: facts about the platform go to `control`,
/// facts about the world to `traffic`.
pub fn topic_of(class: EventClass) -> Topic {
    match class {
        EventClass::Control | EventClass::Audit => Topic::Control,
        _ => Topic::Traffic,
    }
}

impl ValidRows {
    /// Converts valid records to the facts that are admitted; returns those without a partition key
    /// separately.
    pub fn accept(
        self,
        event: &EventPolicy,
        contexts: &ContextCache,
        partitions: u16,
    ) -> (AcceptedBatch, Vec<MissingKey>) {
        let rows = self.records.len();
        let mut hashes = DigestBatch::with_capacity(rows);
        let mut partition_keys = DigestBatch::with_capacity(rows);
        let mut keys = DigestBatch::with_capacity(rows);
        let mut without_key: Vec<usize> = Vec::new();
        // Whether each row has a partition key; empty while all have one.
        let mut has_keys: Vec<bool> = Vec::new();

        let event_ids = self.event_id.as_string::<i32>();
        let payload_text = event.payload.is_none().then(|| self.payload[0].as_string::<i32>());
        let fields = event.payload.iter().flat_map(|schema| &schema.fields);
        let writer =
            ObjectWriter::new(fields.zip(&self.payload).map(|(field, column)| (field.name.as_str(), column)))
                .expect("every type of a payload field has a canonical form");
        let mut text: Vec<u8> = Vec::new();
        for row in 0..rows {
            hashes.push(|text| match payload_text {
                Some(texts) => text.extend_from_slice(texts.value(row).as_bytes()),
                None => writer.push_row(row, text).expect("floats of a payload are finite"),
            });
            text.clear();
            let has_key = event
                .partition_key
                .iter()
                .any(|source| push_key(source, &self.payload, event_ids, row, &mut text));
            if !has_key {
                has_keys.resize(row, true);
                has_keys.push(false);
                without_key.push(row);
                continue;
            }
            partition_keys.push(|key| key.extend_from_slice(&text));
            keys.push(|text| {
                contexts.get(self.contexts[row]).scope.push_key_text(event_ids.value(row), text);
            });
        }
        let hashes = hashes.finish();
        let without_key: Vec<MissingKey> = without_key
            .into_iter()
            .map(|row| MissingKey {
                record: self.records[row],
                event_id: event_ids.value(row).to_owned(),
                payload_hash: hashes[row],
            })
            .collect();
        let partition_of: Vec<u16> =
            partition_keys.finish().iter().map(|key| partition(key, partitions)).collect();
        let keys: Vec<u128> = keys.finish().into_iter().map(Digest::short).collect();

        let mut records = self.records;
        let mut batch = RecordBatch::try_new(
            Arc::new(schema(event)),
            vec![
                self.event_id,
                self.ts_utc,
                dictionary(&self.contexts, contexts),
                Arc::new(digest_column(&hashes)),
                self.emitted_at_utc,
                self.trace_id,
                self.span_id,
                self.parent_event_id,
                payload_column(event, self.payload, rows),
            ],
        )
        .expect("the columns are those of a fact");
        if !without_key.is_empty() {
            has_keys.resize(rows, true);
            batch = filter_record_batch(&batch, &BooleanArray::from(has_keys.clone()))
                .expect("one flag for each row");
            let mut flags = has_keys.iter();
            records.retain(|_| *flags.next().expect("one flag for each record"));
        }
        assert_eq!(batch.num_rows(), keys.len(), "each accepted record has a dedupe key");
        let accepted = AcceptedBatch {
            event_type: Arc::clone(&event.event_type),
            class: event.class,
            topic: topic_of(event.class),
            records,
            rows: batch,
            partitions: partition_of,
            keys,
        };
        (accepted, without_key)
    }
}

/// Builds the columns of one event type from valid lines, for admission as facts.
pub struct BatchBuilder {
    records: Vec<u32>,
    contexts: Vec<u32>,
    event_id: StringBuilder,
    ts_utc: Vec<i64>,
    emitted_at_utc: TimestampMicrosecondBuilder,
    trace_id: StringBuilder,
    span_id: StringBuilder,
    parent_event_id: StringBuilder,
    payload: Vec<ColumnBuilder>,
    /// The payloads of an event type without a schema.
    objects: Option<StringBuilder>,
}

impl BatchBuilder {
    /// A builder without lines.
    pub fn new(event: &EventPolicy) -> BatchBuilder {
        let fields = event.payload.iter().flat_map(|schema| &schema.fields);
        BatchBuilder {
            records: Vec::new(),
            contexts: Vec::new(),
            event_id: StringBuilder::new(),
            ts_utc: Vec::new(),
            emitted_at_utc: TimestampMicrosecondBuilder::new(),
            trace_id: StringBuilder::new(),
            span_id: StringBuilder::new(),
            parent_event_id: StringBuilder::new(),
            payload: fields.map(|field| ColumnBuilder::new(field.field_type)).collect(),
            objects: event.payload.is_none().then(StringBuilder::new),
        }
    }

    /// Appends a line and its payload: its cells when the type has a schema, else its canonical
    /// object.
    pub fn push(&mut self, record: u32, line: &Line<'_>, cells: &[Cell<'_>], object: Option<&str>) {
        self.records.push(record);
        self.contexts.push(line.context);
        self.event_id.append_value(&line.fields.event_id);
        self.ts_utc.push(line.fields.ts_utc);
        self.emitted_at_utc.append_option(line.fields.emitted_at_utc);
        self.trace_id.append_option(line.fields.trace_id.as_ref());
        self.span_id.append_option(line.fields.span_id.as_ref());
        self.parent_event_id.append_option(line.fields.parent_event_id.as_ref());
        match &mut self.objects {
            Some(objects) => objects.append_option(object),
            None => {
                for (column, cell) in self.payload.iter_mut().zip(cells) {
                    column.push(cell);
                }
            }
        }
    }

    /// Returns the lines as columns.
    pub fn finish(mut self) -> ValidRows {
        let objects = self.objects.map(|mut objects| Arc::new(objects.finish()) as ArrayRef);
        ValidRows {
            records: self.records,
            contexts: self.contexts,
            event_id: Arc::new(self.event_id.finish()),
            ts_utc: Arc::new(TimestampMicrosecondArray::from(self.ts_utc).with_timezone("UTC")),
            emitted_at_utc: Arc::new(self.emitted_at_utc.finish().with_timezone("UTC")),
            trace_id: Arc::new(self.trace_id.finish()),
            span_id: Arc::new(self.span_id.finish()),
            parent_event_id: Arc::new(self.parent_event_id.finish()),
            payload: self.payload.into_iter().map(ColumnBuilder::finish).chain(objects).collect(),
        }
    }
}

/// The schema of accepted facts: that of the log without tick and offset, which are assigned later.
fn schema(event: &EventPolicy) -> Schema {
    let payload = match &event.payload {
        Some(schema) => DataType::Struct(schema.arrow()),
        None => DataType::Utf8,
    };
    let fact = columns::fact_schema(payload);
    let fields =
        fact.fields().iter().filter(|f| ![columns::TICK, columns::OFFSET].contains(&f.name().as_str()));
    Schema::new(fields.cloned().collect::<Fields>())
}

fn payload_column(event: &EventPolicy, mut payload: Vec<ArrayRef>, rows: usize) -> ArrayRef {
    match &event.payload {
        None => payload.swap_remove(0),
        Some(schema) => Arc::new(
            StructArray::try_new_with_length(schema.arrow(), payload, None, rows)
                .expect("the columns are those of the schema"),
        ),
    }
}

/// The texts of the contexts as a dictionary, in the order of their first rows.
fn dictionary(numbers: &[u32], contexts: &ContextCache) -> ArrayRef {
    let mut keys_by_number: BTreeMap<u32, i32> = BTreeMap::new();
    let mut texts: Vec<&str> = Vec::new();
    let mut last: Option<(u32, i32)> = None;
    let mut keys: Vec<i32> = Vec::with_capacity(numbers.len());
    for number in numbers {
        let key = match last {
            Some((same, key)) if same == *number => key,
            _ => *keys_by_number.entry(*number).or_insert_with(|| {
                texts.push(&contexts.get(*number).text);
                (texts.len() - 1) as i32
            }),
        };
        last = Some((*number, key));
        keys.push(key);
    }
    Arc::new(DictionaryArray::<Int32Type>::new(Int32Array::from(keys), Arc::new(StringArray::from(texts))))
}

/// The partition of the key with this digest.
fn partition(key: &Digest, partitions: u16) -> u16 {
    let first = u64::from_le_bytes(key.0[..8].try_into().expect("a digest has 32 bytes"));
    (first % u64::from(partitions)) as u16
}

/// Appends the key's canonical text; returns `false` when the source has no value, or an empty one.
fn push_key(
    source: &KeySource,
    payload: &[ArrayRef],
    event_ids: &StringArray,
    row: usize,
    out: &mut Vec<u8>,
) -> bool {
    match source {
        KeySource::EventId => out.extend_from_slice(event_ids.value(row).as_bytes()),
        KeySource::Field(index) => push_cell(&payload[*index], row, out),
        KeySource::Key(name) => push_value(payload[0].as_string::<i32>().value(row), name, out),
    }
    !out.is_empty()
}

/// Appends the canonical form of a value, without quotes; nothing for a null.
fn push_cell(column: &ArrayRef, row: usize, out: &mut Vec<u8>) {
    if column.is_null(row) {
        return;
    }
    match column.data_type() {
        DataType::Boolean => {
            out.extend_from_slice(if column.as_boolean().value(row) { b"true" } else { b"false" })
        }
        DataType::Int32 => jcs::push_integer(column.as_primitive::<Int32Type>().value(row).into(), out),
        DataType::Int64 => jcs::push_integer(column.as_primitive::<Int64Type>().value(row).into(), out),
        DataType::Float64 => {
            jcs::push_float(column.as_primitive::<Float64Type>().value(row), out);
        }
        DataType::Decimal128(_, scale) => {
            let scale = usize::from(scale.unsigned_abs());
            jcs::push_decimal(column.as_primitive::<Decimal128Type>().value(row), scale, out);
        }
        DataType::Utf8 => out.extend_from_slice(column.as_string::<i32>().value(row).as_bytes()),
        DataType::Timestamp(..) => {
            let micros = column.as_primitive::<TimestampMicrosecondType>().value(row);
            out.extend_from_slice(time::to_rfc3339(micros).as_bytes());
        }
        other => unreachable!("no payload field has type {other}"),
    }
}

/// Appends the value of the field `name` of a canonical object; nothing for a null.
fn push_value(object: &str, name: &str, out: &mut Vec<u8>) {
    strict_json::for_each_field(object, |key, value| {
        if key == name && value != "null" {
            match strict_json::string(value) {
                Ok(text) => out.extend_from_slice(text.as_bytes()),
                Err(_) => out.extend_from_slice(value.as_bytes()),
            }
        }
        Ok(())
    })
    .expect("a canonical text is an object");
}
