//! Validates columnar records: checks the envelope and the payload one column at a time.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, PrimitiveArray, RecordBatch, StringArray, StringBuilder,
    new_null_array,
};
use arrow::compute::{cast, filter};
use arrow::datatypes::{DataType, Schema, TimeUnit, TimestampMicrosecondType};
use tidegate_facts::jcs::ObjectWriter;
use tidegate_facts::payload_schema::timestamp;
use tidegate_facts::strict_json::{canonical, expected};
use tidegate_facts::{FieldType, Reason, columns};

use super::admit::ValidRows;
use super::context_cache::RecordError;
use super::convert::{WRITABLE, convert, is_convertible, is_text, to_microseconds};
use super::line::fits;
use super::payload;
use super::policy::EventPolicy;
use super::time_bounds::TimeBounds;

/// Checks whether columnar records with these columns can be validated as an event type; returns
/// every error, each a sentence that says how to correct it.
pub fn check_columns(schema: &Schema, event: &EventPolicy) -> Vec<String> {
    let optional = |name, field_type| (name, field_type, false);
    let mut expected = vec![
        (columns::EVENT_ID, FieldType::Text, true),
        (columns::TS_UTC, FieldType::Timestamp, true),
        optional(columns::EMITTED_AT_UTC, FieldType::Timestamp),
        optional(columns::TRACE_ID, FieldType::Text),
        optional(columns::SPAN_ID, FieldType::Text),
        optional(columns::PARENT_EVENT_ID, FieldType::Text),
    ];
    match &event.payload {
        Some(payload) => {
            expected.extend(payload.fields.iter().map(|f| (f.name.as_str(), f.field_type, f.required)));
        }
        None => expected.push((columns::PAYLOAD, FieldType::Text, true)),
    }
    let event_type = &event.event_type;
    let mut errors = Vec::new();
    for (name, field_type, required) in expected {
        match schema.field_with_name(name).map(|column| column.data_type()) {
            Ok(DataType::Null) if !required => {}
            Ok(from) if from != &DataType::Null && is_readable(name, from, field_type) => {}
            Ok(from) => errors.push(format!(
                "column `{name}` has type {from}, and `{event_type}` needs {field_type}; cast it explicitly"
            )),
            Err(_) if !required => {}
            Err(_) => {
                let or = match name {
                    columns::EVENT_ID | columns::TS_UTC => "",
                    columns::PAYLOAD => ", or declare the payload's fields in the policy",
                    _ => ", or declare it optional in the policy",
                };
                errors.push(format!(
                    "there is no column `{name}`, which `{event_type}` needs as {field_type}; \
                     add it to the source's columns{or}"
                ));
            }
        }
    }
    errors
}

/// Whether a column of type `from` can be read as a field. The envelope's times must be timestamps;
/// payload fields may also be parsed from texts.
fn is_readable(name: &str, from: &DataType, field_type: FieldType) -> bool {
    match name {
        columns::TS_UTC | columns::EMITTED_AT_UTC => matches!(from, DataType::Timestamp(..)),
        _ => is_convertible(from, field_type),
    }
}

/// The first error of each row of a columnar batch. Checks run in the gate's order, and later
/// errors of a row are ignored.
pub struct RowErrors(Vec<Option<RecordError>>);

impl RowErrors {
    /// No errors, for a columnar batch of this many rows.
    pub fn none(rows: usize) -> RowErrors {
        RowErrors(vec![None; rows])
    }

    /// The rows that have an error, ascending, and their errors.
    pub fn found(&self) -> impl Iterator<Item = (usize, &RecordError)> {
        self.0.iter().enumerate().filter_map(|(row, error)| Some((row, error.as_ref()?)))
    }

    /// Adds this error to every row without an error.
    pub fn reject_all(&mut self, error: &RecordError) {
        for row in 0..self.0.len() {
            self.reject(row, || error.clone());
        }
    }

    /// Rejects the rows whose texts together are too large.
    pub fn check_sizes(&mut self, batch: &RecordBatch, bytes_max: usize) {
        let mut sizes = vec![0usize; batch.num_rows()];
        for column in batch.columns().iter().filter(|column| is_text(column.data_type())) {
            let texts = texts_of(column);
            for (size, length) in sizes.iter_mut().zip(texts.as_string::<i32>().offsets().lengths()) {
                *size += length;
            }
        }
        for (row, size) in sizes.into_iter().enumerate() {
            if size > bytes_max {
                self.reject(row, || RecordError::too_large(size, bytes_max));
            }
        }
    }

    fn reject(&mut self, row: usize, error: impl FnOnce() -> RecordError) {
        self.0[row].get_or_insert_with(error);
    }
}

/// The envelopes of all columnar records, as columns of facts.
pub struct EnvelopeColumns {
    event_id: ArrayRef,
    ts_utc: ArrayRef,
    /// Rows whose event time is outside the years 0000 to 9999, with the number that they have.
    unwritable: Vec<(usize, String)>,
    emitted_at_utc: ArrayRef,
    trace_id: ArrayRef,
    span_id: ArrayRef,
    parent_event_id: ArrayRef,
}

impl EnvelopeColumns {
    /// Reads the envelope's columns, and rejects the rows with invalid values.
    pub fn read(batch: &RecordBatch, errors: &mut RowErrors) -> EnvelopeColumns {
        let event_id =
            texts_of(batch.column_by_name(columns::EVENT_ID).expect("the plan checks that it exists"));
        check_texts(columns::EVENT_ID, &event_id, 256, true, errors);
        let times = batch.column_by_name(columns::TS_UTC).expect("the plan checks that it exists");
        let mut invalid = Vec::new();
        let ts_utc = to_microseconds(times, |row, found| invalid.push((row, found)));
        // Nanoseconds cover fewer years, so they are invalid only between two microseconds.
        let unwritable = match times.data_type() {
            DataType::Timestamp(TimeUnit::Nanosecond, _) => {
                reject_times(columns::TS_UTC, invalid, errors);
                Vec::new()
            }
            _ => invalid,
        };
        for row in (0..times.len()).filter(|row| times.is_null(*row)) {
            errors.reject(row, || envelope_error(columns::TS_UTC, "is missing; every record needs it"));
        }
        let mut invalid = Vec::new();
        let emitted_at_utc = match batch.column_by_name(columns::EMITTED_AT_UTC) {
            Some(times) if times.data_type() != &DataType::Null => {
                to_microseconds(times, |row, found| invalid.push((row, found)))
            }
            _ => new_null_array(&timestamp(), batch.num_rows()),
        };
        reject_times(columns::EMITTED_AT_UTC, invalid, errors);
        let mut optional = |name: &str, chars_max: usize| match batch.column_by_name(name) {
            Some(column) => {
                let texts = texts_of(column);
                check_texts(name, &texts, chars_max, false, errors);
                texts
            }
            None => new_null_array(&DataType::Utf8, batch.num_rows()),
        };
        EnvelopeColumns {
            trace_id: optional(columns::TRACE_ID, 128),
            span_id: optional(columns::SPAN_ID, 128),
            parent_event_id: optional(columns::PARENT_EVENT_ID, 256),
            event_id,
            ts_utc,
            unwritable,
            emitted_at_utc,
        }
    }

    /// Rejects the rows whose event time is outside the bounds.
    pub fn check_times(&self, bounds: TimeBounds, errors: &mut RowErrors) {
        for (row, found) in &self.unwritable {
            errors.reject(*row, || {
                RecordError::new(
                    Reason::TimeOutOfRange,
                    format!("`ts_utc` is {found} units after 1970, outside the years 0000 to 9999; correct the record"),
                )
            });
        }
        for row in 0..self.ts_utc.len() {
            if let Some(time) = self.time(row).filter(|time| !bounds.contains(*time)) {
                errors.reject(row, || RecordError::out_of_range(time, bounds));
            }
        }
    }

    /// The event time of a row; `None` when it is null or invalid.
    pub fn time(&self, row: usize) -> Option<i64> {
        let times: &PrimitiveArray<TimestampMicrosecondType> = self.ts_utc.as_primitive();
        times.is_valid(row).then(|| times.value(row))
    }

    /// The event id of a row; `None` when it is null or invalid.
    pub fn id(&self, row: usize) -> Option<String> {
        let ids = self.event_id.as_string::<i32>();
        ids.is_valid(row).then(|| ids.value(row)).filter(|id| fits(id, 256)).map(str::to_owned)
    }

    /// The rows without an error; all have the context with the number `context`.
    pub fn valid_rows(self, payload: Vec<ArrayRef>, errors: &RowErrors, context: u32) -> ValidRows {
        let is_valid = BooleanArray::from_iter(errors.0.iter().map(|error| Some(error.is_none())));
        let all = is_valid.true_count() == is_valid.len();
        let valid = |column: ArrayRef| {
            if all { column } else { filter(&column, &is_valid).expect("one flag for each row") }
        };
        let records: Vec<u32> =
            (0u32..).zip(&errors.0).filter(|(_, error)| error.is_none()).map(|(row, _)| row).collect();
        ValidRows {
            contexts: vec![context; records.len()],
            records,
            event_id: valid(self.event_id),
            ts_utc: valid(self.ts_utc),
            emitted_at_utc: valid(self.emitted_at_utc),
            trace_id: valid(self.trace_id),
            span_id: valid(self.span_id),
            parent_event_id: valid(self.parent_event_id),
            payload: payload.into_iter().map(valid).collect(),
        }
    }
}

fn check_texts(name: &str, texts: &ArrayRef, chars_max: usize, required: bool, errors: &mut RowErrors) {
    let texts: &StringArray = texts.as_string();
    for row in 0..texts.len() {
        if texts.is_null(row) {
            if required {
                errors.reject(row, || envelope_error(name, "is missing; every record needs it"));
            }
        } else if !fits(texts.value(row), chars_max) {
            let found = texts.value(row).chars().count();
            errors.reject(row, || {
                envelope_error(name, &format!("has {found} characters; send 1 to {chars_max}"))
            });
        }
    }
}

fn reject_times(name: &str, invalid: Vec<(usize, String)>, errors: &mut RowErrors) {
    for (row, found) in invalid {
        errors
            .reject(row, || envelope_error(name, &format!("is {found}; send a time of whole microseconds")));
    }
}

fn envelope_error(name: &str, what: &str) -> RecordError {
    RecordError::new(Reason::EnvelopeInvalid, format!("`{name}` {what}"))
}

/// The payloads of all columnar records, as columns of facts; rejects the rows that do not match
/// the schema.
pub fn payload_columns(batch: &RecordBatch, event: &EventPolicy, errors: &mut RowErrors) -> Vec<ArrayRef> {
    let Some(schema) = &event.payload else {
        let texts = batch.column_by_name(columns::PAYLOAD).expect("the plan checks that it exists");
        return vec![canonical_objects(texts_of(texts).as_string(), errors)];
    };
    let rows = batch.num_rows();
    let mut payload = Vec::with_capacity(schema.fields.len());
    for field in &schema.fields {
        let reject = |row: usize, what: String| {
            errors.reject(row, || RecordError::new(Reason::SchemaFail, format!("`{}`: {what}", field.name)));
        };
        let column = match batch.column_by_name(&field.name) {
            Some(column) => convert(column, field.field_type, reject),
            None => new_null_array(&field.field_type.arrow(), rows),
        };
        if field.required && column.null_count() > 0 {
            for row in (0..rows).filter(|row| column.is_null(*row)) {
                errors.reject(row, || RecordError::new(Reason::SchemaFail, payload::missing(&field.name).0));
            }
        }
        payload.push(column);
    }
    payload
}

/// Converts JSON objects to canonical form; rejects the rows with other texts.
fn canonical_objects(texts: &StringArray, errors: &mut RowErrors) -> ArrayRef {
    let mut objects = StringBuilder::new();
    for row in 0..texts.len() {
        let text = if texts.is_null(row) { "{}" } else { texts.value(row) };
        match canonical(text) {
            Ok(object) if object.starts_with('{') => objects.append_value(object),
            other => {
                let error = other.err().unwrap_or_else(|| expected("an object", text));
                errors.reject(row, || RecordError::new(Reason::SchemaFail, format!("`payload`: {error}")));
                objects.append_value("{}"); // The row is rejected, and the column has no nulls.
            }
        }
    }
    Arc::new(objects.finish())
}

fn texts_of(column: &ArrayRef) -> ArrayRef {
    cast(column, &DataType::Utf8).expect("the plan checks that it is a column of texts")
}

/// Whether all times of the column are within the years 0000 to 9999.
fn is_writable(column: &ArrayRef) -> bool {
    match column.as_primitive_opt::<TimestampMicrosecondType>() {
        Some(times) => times.iter().flatten().all(|time| WRITABLE.contains(&time)),
        None => true,
    }
}

/// Writes columnar records as JSON, for display and for submitting them again: each value in its
/// canonical form, or as text when it has none.
pub fn rows_as_json(batch: &RecordBatch, rows: &[u32]) -> Vec<Vec<u8>> {
    let as_text = |column: &ArrayRef| cast(column, &DataType::Utf8).ok();
    let has_canonical_form =
        |column: &ArrayRef| ObjectWriter::new([("", column)]).is_ok() && is_writable(column);
    let is_always_canonical =
        |column: &ArrayRef| !column.data_type().is_floating() && !column.data_type().is_nested();
    let names = || batch.schema_ref().fields().iter().map(|field| field.name().as_str());
    let columns_of = |is_unchanged: &dyn Fn(&ArrayRef) -> bool| -> Vec<(&str, ArrayRef)> {
        names()
            .zip(batch.columns())
            .filter_map(|(name, column)| {
                let column = match is_unchanged(column) {
                    true => Arc::clone(column),
                    false => as_text(column).filter(has_canonical_form)?,
                };
                Some((name, column))
            })
            .collect()
    };
    let exact = columns_of(&has_canonical_form);
    let readable = columns_of(&|column| has_canonical_form(column) && is_always_canonical(column));
    let writer = |columns| ObjectWriter::new(columns).expect("other columns were converted to texts");
    let exact = writer(exact.iter().map(|(name, column)| (*name, column)).collect::<Vec<_>>());
    let readable = writer(readable.iter().map(|(name, column)| (*name, column)).collect::<Vec<_>>());
    rows.iter()
        .map(|row| {
            let mut text = Vec::new();
            if exact.push_row(*row as usize, &mut text).is_err() {
                text.clear();
                readable
                    .push_row(*row as usize, &mut text)
                    .expect("only floats have values without a canonical form");
            }
            text
        })
        .collect()
}
