//! The table `facts`: the envelope of every fact in a column of its own, and its payload as JSON
//! text.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, DictionaryArray, RecordBatch, StringArray, StringBuilder,
    TimestampMicrosecondArray, UInt16Array, UInt64Array, new_null_array,
};
use arrow::compute::take;
use arrow::datatypes::{DataType, Field, Int32Type, Schema, SchemaRef};
use tidegate_facts::jcs::ObjectWriter;
use tidegate_facts::payload_schema::timestamp;
use tidegate_facts::{Context, Tick, columns};
use tidegate_sinks::log::{Frame, Group};

use super::batches::{build_batch, split_rows};

const PARTITION: &str = "partition";
const OFFSET: &str = "offset";
const TOPIC: &str = "topic";
const ADMITTED_AT_UTC: &str = "admitted_at_utc";

/// The columns of the table `facts`.
pub(super) fn schema() -> SchemaRef {
    let text = |name: &str| Field::new(name, DataType::Utf8, true);
    Arc::new(Schema::new(vec![
        columns::tick_field(columns::TICK),
        Field::new(PARTITION, DataType::UInt16, false),
        columns::offset_field(OFFSET),
        Field::new(TOPIC, DataType::Utf8, false),
        Field::new(columns::EVENT_TYPE, DataType::Utf8, false),
        Field::new(columns::EVENT_ID, DataType::Utf8, false),
        Field::new(columns::TS_UTC, timestamp(), false),
        Field::new(ADMITTED_AT_UTC, timestamp(), false),
        Field::new(columns::EMITTED_AT_UTC, timestamp(), true),
        text(columns::TRACE_ID),
        text(columns::SPAN_ID),
        text(columns::PARENT_EVENT_ID),
        text("schema_version"),
        text("producer"),
        text("manifest_fingerprint"),
        text("parameter_hash"),
        Field::new("seed", DataType::UInt64, true),
        text("scenario_id"),
        text("run_id"),
        text("scenario_run_id"),
        text("platform_run_id"),
        Field::new(columns::PAYLOAD_HASH, DataType::FixedSizeBinary(32), false),
        text(columns::PAYLOAD),
    ]))
}

/// The rows of the table `facts`: the facts of a group before the tick `before`, with the columns
/// of `schema`.
pub(super) fn batches(
    group: &Group,
    schema: &SchemaRef,
    rows_max: usize,
    before: Option<Tick>,
) -> Result<Vec<RecordBatch>, String> {
    let mut batches = Vec::new();
    for frame in group.frames.iter().filter(|frame| holds_facts(frame)) {
        let contexts = contexts(frame)?;
        let ticks = columns::ticks(&frame.rows).values();
        let visible = before.map_or(ticks.len(), |before| ticks.partition_point(|tick| Tick(*tick) < before));
        for rows in split_rows(&frame.rows.slice(0, visible), rows_max) {
            let rows = FactRows { frame, contexts: &contexts, rows: &rows };
            batches.push(build_batch(schema, rows.rows.num_rows(), |name| rows.column(name))?);
        }
    }
    Ok(batches)
}

/// Whether the rows of a frame are facts.
pub(crate) fn holds_facts(frame: &Frame) -> bool {
    frame.rows.column_by_name(columns::TICK).is_some()
}

/// The distinct contexts of a frame's facts, in the order of the dictionary of the column.
pub(super) fn contexts(frame: &Frame) -> Result<Vec<Context>, String> {
    let texts = context_column(&frame.rows)?.values().as_string::<i32>();
    let contexts = texts.iter().map(|text| serde_json::from_str(text.unwrap_or_default()));
    contexts
        .collect::<Result<_, _>>()
        .map_err(|error| format!("has a `{}` with a context that cannot be read ({error})", frame.name))
}

/// The column that gives each fact its context, as a key into the dictionary of contexts.
pub(super) fn context_column(rows: &RecordBatch) -> Result<&DictionaryArray<Int32Type>, String> {
    let column =
        rows.column_by_name(columns::CONTEXT).and_then(|column| column.as_dictionary_opt::<Int32Type>());
    column.ok_or_else(|| "holds facts without a context".to_owned())
}

/// Some facts of one frame.
struct FactRows<'p> {
    frame: &'p Frame,
    contexts: &'p [Context],
    rows: &'p RecordBatch,
}

impl FactRows<'_> {
    fn column(&self, name: &str) -> Result<ArrayRef, String> {
        Ok(match name {
            PARTITION => Arc::new(self.ticks().map(Tick::partition).collect::<UInt16Array>()),
            ADMITTED_AT_UTC => {
                let times = TimestampMicrosecondArray::from_iter_values(self.ticks().map(Tick::micros));
                Arc::new(times.with_data_type(timestamp()))
            }
            OFFSET => self.column_or_nulls(columns::OFFSET),
            TOPIC => self.repeated(self.frame.topic.name()),
            columns::EVENT_TYPE => self.repeated(&self.frame.name),
            columns::PAYLOAD => self.payload()?,
            "schema_version" => self.context_text(|context| context.schema_version.as_deref())?,
            "producer" => self.context_text(|context| context.producer.as_deref())?,
            "manifest_fingerprint" => self.context_text(|context| {
                Some(context.manifest_fingerprint.as_str()).filter(|text| !text.is_empty())
            })?,
            "parameter_hash" => self.context_text(|context| context.parameter_hash.as_deref())?,
            "run_id" => self.context_text(|context| context.run_id.as_deref())?,
            "scenario_run_id" => self.context_text(|context| context.scenario_run_id.as_deref())?,
            "platform_run_id" => self.context_text(|context| context.platform_run_id.as_deref())?,
            "scenario_id" => {
                let ids =
                    self.contexts.iter().map(|context| context.scenario_id.as_ref().map(ToString::to_string));
                self.spread(&ids.collect::<StringArray>())?
            }
            "seed" => {
                self.spread(&self.contexts.iter().map(|context| context.seed).collect::<UInt64Array>())?
            }
            name => self.column_or_nulls(name),
        })
    }

    fn ticks(&self) -> impl Iterator<Item = Tick> {
        let ticks = self.column_or_nulls(columns::TICK);
        ticks.as_primitive::<columns::TickType>().values().to_vec().into_iter().map(Tick)
    }

    /// A column of the frame; nulls where the frame lacks it, since the log omits empty columns.
    fn column_or_nulls(&self, name: &str) -> ArrayRef {
        self.rows.column_by_name(name).map_or_else(
            || {
                let nothing =
                    schema().field_with_name(name).map_or(DataType::Null, |field| field.data_type().clone());
                new_null_array(&nothing, self.rows.num_rows())
            },
            Arc::clone,
        )
    }

    fn repeated(&self, text: &str) -> ArrayRef {
        Arc::new(StringArray::from_iter_values(std::iter::repeat_n(text, self.rows.num_rows())))
    }

    /// A column of one text of each fact's context.
    fn context_text<'c>(&'c self, text: impl Fn(&'c Context) -> Option<&'c str>) -> Result<ArrayRef, String> {
        self.spread(&self.contexts.iter().map(text).collect::<StringArray>())
    }

    /// Turns one value for each context into one value for each fact.
    fn spread(&self, values: &dyn Array) -> Result<ArrayRef, String> {
        let keys = context_column(self.rows)?.keys();
        take(values, keys, None).map_err(|error| format!("has a context key out of range ({error})"))
    }

    /// The JCS text of each payload, which is the text that its hash covers.
    fn payload(&self) -> Result<ArrayRef, String> {
        let Some(payload) = self.rows.column_by_name(columns::PAYLOAD) else {
            return Ok(self.column_or_nulls(columns::PAYLOAD));
        };
        let Some(fields) = payload.as_struct_opt() else { return Ok(Arc::clone(payload)) };
        let wrong =
            |what: String| format!("has a payload of `{}` without a JSON form: {what}", self.frame.name);
        let form = ObjectWriter::new(fields.column_names().into_iter().zip(fields.columns()));
        let form = form.map_err(|error| wrong(error.to_string()))?;
        let mut texts = StringBuilder::new();
        let mut text = Vec::new();
        for row in 0..fields.len() {
            if fields.is_null(row) {
                texts.append_null();
                continue;
            }
            text.clear();
            form.push_row(row, &mut text)
                .map_err(|field| wrong(format!("`{field}` is not a finite number")))?;
            texts.append_value(std::str::from_utf8(&text).expect("JSON text is UTF-8"));
        }
        Ok(Arc::new(texts.finish()))
    }
}
