//! From checked records to facts: the payload's digest, the partition and the dedupe key of each row.
//!
//! Lines and columns meet here. All that is hashed is read from the columns of the fact, so the
//! same record has the same digest, partition and key whichever way it came.

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
use tidegate_facts::jcs::{self, RowForm};
use tidegate_facts::lanes::Digests;
use tidegate_facts::{Digest, EventClass, Topic, columns, json, time};

use super::context::Contexts;
use super::judged::Accepted;
use super::line::Line;
use super::payload::{Cell, Column};
use super::policy::{EventPolicy, KeySource};
use crate::rows::digest_column;

/// Records of one event type in which nothing was found wrong but, perhaps, that no partition key has a value.
pub struct Checked {
    /// The place of each record among all that were judged.
    pub records: Vec<u32>,
    /// The number of each record's context.
    pub contexts: Vec<u32>,
    /// Columns of the envelope, named as in the log, as all below.
    pub event_id: ArrayRef,
    /// In microseconds, UTC.
    pub ts_utc: ArrayRef,
    /// In microseconds, UTC.
    pub emitted_at_utc: ArrayRef,
    /// Texts.
    pub trace_id: ArrayRef,
    /// Texts.
    pub span_id: ArrayRef,
    /// Texts.
    pub parent_event_id: ArrayRef,
    /// One column for each field of the schema; or, without one, the texts of the payloads.
    pub payload: Vec<ArrayRef>,
}

/// A record without a partition key.
pub struct Keyless {
    /// Its place among all that were judged.
    pub record: u32,
    /// The event's id.
    pub event_id: String,
    /// The digest of its payload.
    pub payload_hash: Digest,
}

/// The topic of a class: what is about the platform lies apart from what is about the world.
pub fn topic_of(class: EventClass) -> Topic {
    match class {
        EventClass::Control | EventClass::Audit => Topic::Control,
        _ => Topic::Traffic,
    }
}

impl Checked {
    /// The facts of these records, and those that have no partition key.
    pub fn accept(
        self,
        event: &EventPolicy,
        contexts: &Contexts,
        partitions: u16,
    ) -> (Accepted, Vec<Keyless>) {
        let rows = self.records.len();
        let mut hashes = Digests::with_capacity(rows);
        let mut partition_keys = Digests::with_capacity(rows);
        let mut keys = Digests::with_capacity(rows);
        let mut keyless: Vec<usize> = Vec::new();
        let mut keep: Vec<bool> = Vec::new();

        let event_ids = self.event_id.as_string::<i32>();
        let payload_text = event.payload.is_none().then(|| self.payload[0].as_string::<i32>());
        let fields = event.payload.iter().flat_map(|schema| &schema.fields);
        let form =
            RowForm::new(fields.zip(&self.payload).map(|(field, column)| (field.name.as_str(), column)))
                .expect("every type of a payload field has a canonical form");
        let mut text: Vec<u8> = Vec::new();
        for row in 0..rows {
            hashes.push(|text| match payload_text {
                Some(texts) => text.extend_from_slice(texts.value(row).as_bytes()),
                None => form.push_row(row, text).expect("floats of a payload are finite"),
            });
            text.clear();
            let has_key = event
                .partition_key
                .iter()
                .any(|source| push_key(source, &self.payload, event_ids, row, &mut text));
            if !has_key {
                keep.resize(row, true);
                keep.push(false);
                keyless.push(row);
                continue;
            }
            partition_keys.push(|key| key.extend_from_slice(&text));
            keys.push(|text| {
                text.extend_from_slice(&contexts.get(self.contexts[row]).scope);
                text.extend_from_slice(event_ids.value(row).as_bytes());
            });
        }
        let hashes = hashes.finish();
        let keyless: Vec<Keyless> = keyless
            .into_iter()
            .map(|row| Keyless {
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
        if !keyless.is_empty() {
            keep.resize(rows, true);
            batch = filter_record_batch(&batch, &BooleanArray::from(keep.clone()))
                .expect("one mark for each row");
            let mut marks = keep.iter();
            records.retain(|_| *marks.next().expect("one mark for each record"));
        }
        assert_eq!(batch.num_rows(), keys.len(), "an accepted record has no key of its own");
        let accepted = Accepted {
            event_type: Arc::clone(&event.event_type),
            class: event.class,
            topic: topic_of(event.class),
            records,
            rows: batch,
            partitions: partition_of,
            keys,
        };
        (accepted, keyless)
    }
}

/// Checked lines of one event type, as they grow into columns.
pub struct Growing {
    records: Vec<u32>,
    contexts: Vec<u32>,
    event_id: StringBuilder,
    ts_utc: Vec<i64>,
    emitted_at_utc: TimestampMicrosecondBuilder,
    trace_id: StringBuilder,
    span_id: StringBuilder,
    parent_event_id: StringBuilder,
    payload: Vec<Column>,
    /// The payloads of an event type without a schema.
    objects: Option<StringBuilder>,
}

impl Growing {
    /// None yet.
    pub fn new(event: &EventPolicy) -> Growing {
        let fields = event.payload.iter().flat_map(|schema| &schema.fields);
        Growing {
            records: Vec::new(),
            contexts: Vec::new(),
            event_id: StringBuilder::new(),
            ts_utc: Vec::new(),
            emitted_at_utc: TimestampMicrosecondBuilder::new(),
            trace_id: StringBuilder::new(),
            span_id: StringBuilder::new(),
            parent_event_id: StringBuilder::new(),
            payload: fields.map(|field| Column::new(field.field_type)).collect(),
            objects: event.payload.is_none().then(StringBuilder::new),
        }
    }

    /// Appends a line and its payload: cells under a schema, a canonical object without one.
    pub fn push(&mut self, record: u32, line: &Line<'_>, cells: &[Cell<'_>], object: Option<&str>) {
        self.records.push(record);
        self.contexts.push(line.context);
        self.event_id.append_value(&line.own.event_id);
        self.ts_utc.push(line.own.ts_utc);
        self.emitted_at_utc.append_option(line.own.emitted_at_utc);
        self.trace_id.append_option(line.own.trace_id.as_ref());
        self.span_id.append_option(line.own.span_id.as_ref());
        self.parent_event_id.append_option(line.own.parent_event_id.as_ref());
        match &mut self.objects {
            Some(objects) => objects.append_option(object),
            None => {
                for (column, cell) in self.payload.iter_mut().zip(cells) {
                    column.push(cell);
                }
            }
        }
    }

    /// The records so far.
    pub fn finish(mut self) -> Checked {
        let objects = self.objects.map(|mut objects| Arc::new(objects.finish()) as ArrayRef);
        Checked {
            records: self.records,
            contexts: self.contexts,
            event_id: Arc::new(self.event_id.finish()),
            ts_utc: Arc::new(TimestampMicrosecondArray::from(self.ts_utc).with_timezone("UTC")),
            emitted_at_utc: Arc::new(self.emitted_at_utc.finish().with_timezone("UTC")),
            trace_id: Arc::new(self.trace_id.finish()),
            span_id: Arc::new(self.span_id.finish()),
            parent_event_id: Arc::new(self.parent_event_id.finish()),
            payload: self.payload.into_iter().map(Column::finish).chain(objects).collect(),
        }
    }
}

/// The columns of an accepted fact: those of the log but for tick and offset, which the log gives.
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

/// The texts of the contexts, each distinct one once, in the order in which they first stand.
fn dictionary(numbers: &[u32], contexts: &Contexts) -> ArrayRef {
    let mut places: BTreeMap<u32, i32> = BTreeMap::new();
    let mut texts: Vec<&str> = Vec::new();
    let mut last: Option<(u32, i32)> = None;
    let mut keys: Vec<i32> = Vec::with_capacity(numbers.len());
    for number in numbers {
        let place = match last {
            Some((same, place)) if same == *number => place,
            _ => *places.entry(*number).or_insert_with(|| {
                texts.push(&contexts.get(*number).text);
                (texts.len() - 1) as i32
            }),
        };
        last = Some((*number, place));
        keys.push(place);
    }
    Arc::new(DictionaryArray::<Int32Type>::new(Int32Array::from(keys), Arc::new(StringArray::from(texts))))
}

/// The partition of the key with this digest.
fn partition(key: &Digest, partitions: u16) -> u16 {
    let first = u64::from_le_bytes(key.0[..8].try_into().expect("a digest has 32 bytes"));
    (first % u64::from(partitions)) as u16
}

/// Appends the key's canonical text; `false` when the source has no value, or an empty one.
fn push_key(
    source: &KeySource,
    payload: &[ArrayRef],
    event_ids: &StringArray,
    row: usize,
    out: &mut Vec<u8>,
) -> bool {
    match source {
        KeySource::EventId => out.extend_from_slice(event_ids.value(row).as_bytes()),
        KeySource::Field(place) => push_cell(&payload[*place], row, out),
        KeySource::Key(name) => push_value(payload[0].as_string::<i32>().value(row), name, out),
    }
    !out.is_empty()
}

/// Appends the text of a cell as its canonical form has it, without quotes; nothing for a null.
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

/// Appends the text of the field `name` of a canonical object; nothing for a null.
fn push_value(object: &str, name: &str, out: &mut Vec<u8>) {
    json::for_each_field(object, |key, value| {
        if key == name && value != "null" {
            match json::string(value) {
                Ok(text) => out.extend_from_slice(text.as_bytes()),
                Err(_) => out.extend_from_slice(value.as_bytes()),
            }
        }
        Ok(())
    })
    .expect("a canonical text is an object");
}
