//! Columnar records: the checks of the envelope and the payload, a column at a time.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, PrimitiveArray, RecordBatch, StringArray, StringBuilder,
    new_null_array,
};
use arrow::compute::{cast, filter};
use arrow::datatypes::{DataType, Schema, TimeUnit, TimestampMicrosecondType};
use tidegate_facts::jcs::RowForm;
use tidegate_facts::json::{canonical, expected};
use tidegate_facts::schema::timestamp;
use tidegate_facts::{FieldType, Reason, columns};

use super::accept::Checked;
use super::context::Fault;
use super::convert::{WRITABLE, convert, is_convertible, is_text, moments};
use super::judge::TimeBounds;
use super::line::fits;
use super::payload;
use super::policy::EventPolicy;

/// Whether rows of these columns can be judged as an event type: every fault, with its mend.
pub fn check_columns(schema: &Schema, event: &EventPolicy) -> Vec<String> {
    let optional = |name, field_type| (name, field_type, false);
    let mut wanted = vec![
        (columns::EVENT_ID, FieldType::Text, true),
        (columns::TS_UTC, FieldType::Timestamp, true),
        optional(columns::EMITTED_AT_UTC, FieldType::Timestamp),
        optional(columns::TRACE_ID, FieldType::Text),
        optional(columns::SPAN_ID, FieldType::Text),
        optional(columns::PARENT_EVENT_ID, FieldType::Text),
    ];
    match &event.payload {
        Some(payload) => {
            wanted.extend(payload.fields.iter().map(|f| (f.name.as_str(), f.field_type, f.required)));
        }
        None => wanted.push((columns::PAYLOAD, FieldType::Text, true)),
    }
    let event_type = &event.event_type;
    let mut faults = Vec::new();
    for (name, field_type, required) in wanted {
        match schema.field_with_name(name).map(|column| column.data_type()) {
            Ok(DataType::Null) if !required => {}
            Ok(from) if from != &DataType::Null && is_readable(name, from, field_type) => {}
            Ok(from) => faults.push(format!(
                "column `{name}` has type {from}, and `{event_type}` needs {field_type}; cast it explicitly"
            )),
            Err(_) if !required => {}
            Err(_) => {
                let or = match name {
                    columns::EVENT_ID | columns::TS_UTC => "",
                    columns::PAYLOAD => ", or declare the payload's fields in the policy",
                    _ => ", or declare it optional in the policy",
                };
                faults.push(format!(
                    "there is no column `{name}`, which `{event_type}` needs as {field_type}; \
                     add it to the source's columns{or}"
                ));
            }
        }
    }
    faults
}

/// The envelope's times are columns of times already; a field of the payload may be parsed.
fn is_readable(name: &str, from: &DataType, field_type: FieldType) -> bool {
    match name {
        columns::TS_UTC | columns::EMITTED_AT_UTC => matches!(from, DataType::Timestamp(..)),
        _ => is_convertible(from, field_type),
    }
}

/// The first fault of each row. The checks run in the gate's order, and a later fault changes nothing.
pub struct Faults(Vec<Option<Fault>>);

impl Faults {
    /// No row has a fault yet.
    pub fn none(rows: usize) -> Faults {
        Faults(vec![None; rows])
    }

    /// The rows that have a fault.
    pub fn found(&self) -> impl Iterator<Item = (usize, &Fault)> {
        self.0.iter().enumerate().filter_map(|(row, fault)| Some((row, fault.as_ref()?)))
    }

    /// Every row has this fault, unless it has one already.
    pub fn refuse_all(&mut self, fault: &Fault) {
        for row in 0..self.0.len() {
            self.refuse(row, || fault.clone());
        }
    }

    /// Refuses the rows whose texts together are too large.
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
                self.refuse(row, || Fault::too_large(size, bytes_max));
            }
        }
    }

    fn refuse(&mut self, row: usize, fault: impl FnOnce() -> Fault) {
        self.0[row].get_or_insert_with(fault);
    }
}

/// The envelope of each row, as columns of a fact.
pub struct EnvelopeColumns {
    event_id: ArrayRef,
    ts_utc: ArrayRef,
    /// Rows whose time is beyond what can be written down.
    beyond: Vec<(usize, String)>,
    emitted_at_utc: ArrayRef,
    trace_id: ArrayRef,
    span_id: ArrayRef,
    parent_event_id: ArrayRef,
}

impl EnvelopeColumns {
    /// Reads the envelope's columns, and refuses the rows that do not have their form.
    pub fn read(batch: &RecordBatch, faults: &mut Faults) -> EnvelopeColumns {
        let event_id = texts_of(batch.column_by_name(columns::EVENT_ID).expect("the plan saw `event_id`"));
        check_texts(columns::EVENT_ID, &event_id, 256, true, faults);
        let times = batch.column_by_name(columns::TS_UTC).expect("the plan saw `ts_utc`");
        let mut unreadable = Vec::new();
        let ts_utc = moments(times, |row, found| unreadable.push((row, found)));
        let is_fine = matches!(times.data_type(), DataType::Timestamp(TimeUnit::Nanosecond, _));
        let beyond = if is_fine {
            refuse_times(columns::TS_UTC, unreadable, faults);
            Vec::new()
        } else {
            unreadable
        };
        for row in (0..times.len()).filter(|row| times.is_null(*row)) {
            faults.refuse(row, || envelope_fault(columns::TS_UTC, "is missing; every record needs it"));
        }
        let mut unreadable = Vec::new();
        let emitted_at_utc = match batch.column_by_name(columns::EMITTED_AT_UTC) {
            Some(times) if times.data_type() != &DataType::Null => {
                moments(times, |row, found| unreadable.push((row, found)))
            }
            _ => new_null_array(&timestamp(), batch.num_rows()),
        };
        refuse_times(columns::EMITTED_AT_UTC, unreadable, faults);
        let mut optional = |name: &str, longest: usize| match batch.column_by_name(name) {
            Some(column) => {
                let texts = texts_of(column);
                check_texts(name, &texts, longest, false, faults);
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
            beyond,
            emitted_at_utc,
        }
    }

    /// Refuses the rows whose event time is outside the bounds.
    pub fn check_times(&self, bounds: TimeBounds, faults: &mut Faults) {
        for (row, found) in &self.beyond {
            faults.refuse(*row, || {
                Fault::new(
                    Reason::TimeOutOfRange,
                    format!("`ts_utc` is {found} units after 1970, beyond the year 9999 or before 0000; mend the record"),
                )
            });
        }
        for row in 0..self.ts_utc.len() {
            if let Some(time) = self.time(row).filter(|time| !bounds.contains(*time)) {
                faults.refuse(row, || Fault::out_of_range(time, bounds));
            }
        }
    }

    /// The event time of a row, if it can be read.
    pub fn time(&self, row: usize) -> Option<i64> {
        let times: &PrimitiveArray<TimestampMicrosecondType> = self.ts_utc.as_primitive();
        times.is_valid(row).then(|| times.value(row))
    }

    /// The event id of a row, if it has the form of one.
    pub fn id(&self, row: usize) -> Option<String> {
        let ids = self.event_id.as_string::<i32>();
        ids.is_valid(row).then(|| ids.value(row)).filter(|id| fits(id, 256)).map(str::to_owned)
    }

    /// The rows without a fault, all of one context.
    pub fn keep(self, payload: Vec<ArrayRef>, faults: &Faults, context: u32) -> Checked {
        let kept = BooleanArray::from_iter(faults.0.iter().map(|fault| Some(fault.is_none())));
        let all = kept.true_count() == kept.len();
        let keep = |column: ArrayRef| {
            if all { column } else { filter(&column, &kept).expect("one mark for each row") }
        };
        let records: Vec<u32> =
            (0u32..).zip(&faults.0).filter(|(_, fault)| fault.is_none()).map(|(row, _)| row).collect();
        Checked {
            contexts: vec![context; records.len()],
            records,
            event_id: keep(self.event_id),
            ts_utc: keep(self.ts_utc),
            emitted_at_utc: keep(self.emitted_at_utc),
            trace_id: keep(self.trace_id),
            span_id: keep(self.span_id),
            parent_event_id: keep(self.parent_event_id),
            payload: payload.into_iter().map(keep).collect(),
        }
    }
}

fn check_texts(name: &str, texts: &ArrayRef, longest: usize, required: bool, faults: &mut Faults) {
    let texts: &StringArray = texts.as_string();
    for row in 0..texts.len() {
        if texts.is_null(row) {
            if required {
                faults.refuse(row, || envelope_fault(name, "is missing; every record needs it"));
            }
        } else if !fits(texts.value(row), longest) {
            let found = texts.value(row).chars().count();
            faults.refuse(row, || {
                envelope_fault(name, &format!("has {found} characters; send 1 to {longest}"))
            });
        }
    }
}

fn refuse_times(name: &str, unreadable: Vec<(usize, String)>, faults: &mut Faults) {
    for (row, found) in unreadable {
        faults
            .refuse(row, || envelope_fault(name, &format!("is {found}; send a time of whole microseconds")));
    }
}

fn envelope_fault(name: &str, what: &str) -> Fault {
    Fault::new(Reason::EnvelopeInvalid, format!("`{name}` {what}"))
}

/// The payload of each row, as columns of a fact; refuses the rows that do not fit the schema.
pub fn payload_columns(batch: &RecordBatch, event: &EventPolicy, faults: &mut Faults) -> Vec<ArrayRef> {
    let Some(schema) = &event.payload else {
        let texts = batch.column_by_name(columns::PAYLOAD).expect("the plan saw `payload`");
        return vec![objects(texts_of(texts).as_string(), faults)];
    };
    let rows = batch.num_rows();
    let mut payload = Vec::with_capacity(schema.fields.len());
    for field in &schema.fields {
        let refuse = |row: usize, what: String| {
            faults.refuse(row, || Fault::new(Reason::SchemaFail, format!("`{}`: {what}", field.name)));
        };
        let column = match batch.column_by_name(&field.name) {
            Some(column) => convert(column, field.field_type, refuse),
            None => new_null_array(&field.field_type.arrow(), rows),
        };
        if field.required && column.null_count() > 0 {
            for row in (0..rows).filter(|row| column.is_null(*row)) {
                faults.refuse(row, || Fault::new(Reason::SchemaFail, payload::missing(&field.name).0));
            }
        }
        payload.push(column);
    }
    payload
}

/// The canonical form of JSON objects.
fn objects(texts: &StringArray, faults: &mut Faults) -> ArrayRef {
    let mut objects = StringBuilder::new();
    for row in 0..texts.len() {
        let text = if texts.is_null(row) { "{}" } else { texts.value(row) };
        match canonical(text) {
            Ok(object) if object.starts_with('{') => objects.append_value(object),
            other => {
                let fault = other.err().unwrap_or_else(|| expected("an object", text));
                faults.refuse(row, || Fault::new(Reason::SchemaFail, format!("`payload`: {fault}")));
                objects.append_value("{}"); // The row is refused, and its column has no nulls.
            }
        }
    }
    Arc::new(objects.finish())
}

fn texts_of(column: &ArrayRef) -> ArrayRef {
    cast(column, &DataType::Utf8).expect("the plan saw a column of texts")
}

/// Whether the column holds no time whose year has not four digits.
fn is_writable(column: &ArrayRef) -> bool {
    match column.as_primitive_opt::<TimestampMicrosecondType>() {
        Some(times) => times.iter().flatten().all(|time| WRITABLE.contains(&time)),
        None => true,
    }
}

/// Some rows as JSON, to be shown and resubmitted: canonical where a value has a canonical form, its text where not.
pub fn show(batch: &RecordBatch, rows: &[u32]) -> Vec<Vec<u8>> {
    let as_text = |column: &ArrayRef| cast(column, &DataType::Utf8).ok();
    let has_form = |column: &ArrayRef| RowForm::new([("", column)]).is_ok() && is_writable(column);
    let is_plain = |column: &ArrayRef| !column.data_type().is_floating() && !column.data_type().is_nested();
    let names = || batch.schema_ref().fields().iter().map(|field| field.name().as_str());
    let columns_of = |keeps: &dyn Fn(&ArrayRef) -> bool| -> Vec<(&str, ArrayRef)> {
        names()
            .zip(batch.columns())
            .filter_map(|(name, column)| {
                Some((
                    name,
                    if keeps(column) { Arc::clone(column) } else { as_text(column).filter(has_form)? },
                ))
            })
            .collect()
    };
    let exact = columns_of(&has_form);
    let readable = columns_of(&|column| has_form(column) && is_plain(column));
    let form = |columns| RowForm::new(columns).expect("columns without a form are texts");
    let exact = form(exact.iter().map(|(name, column)| (*name, column)).collect::<Vec<_>>());
    let readable = form(readable.iter().map(|(name, column)| (*name, column)).collect::<Vec<_>>());
    rows.iter()
        .map(|row| {
            let mut text = Vec::new();
            if exact.push_row(*row as usize, &mut text).is_err() {
                text.clear();
                readable.push_row(*row as usize, &mut text).expect("only floats have values without a form");
            }
            text
        })
        .collect()
}
