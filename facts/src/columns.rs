//! Names, types and accessors of the columns that every stream of facts carries.
//!
//! A record batch of facts begins with its tick and its offset, goes on with the envelope and ends
//! with the payload ([`fact_schema`]). Ticks and offsets are 64-bit signed integers everywhere: use
//! [`tick_field`], [`TickArray`] and [`ticks`], and the same for offsets, instead of the Arrow
//! types.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, Int64Builder, RecordBatch, new_null_array};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};

use crate::Tick;
use crate::payload_schema::timestamp;

/// The column with the fact's tick, [`tick_type`]; every stream carries it.
pub const TICK: &str = "_tick";
/// The column of a changelog that is `+1` for a row that holds from its tick on and `-1` for one
/// that no longer holds; `Int64`.
pub const DIFF: &str = "_diff";
/// The column with the fact's offset within its topic and partition, [`offset_type`].
pub const OFFSET: &str = "_offset";
/// The column with the offsets applied as of the fact's tick, [`basis_type`]: for each partition of
/// `traffic`, the number of facts with a tick not above it.
pub const BASIS: &str = "basis";
/// The column with the envelope's event id.
pub const EVENT_ID: &str = "event_id";
/// The column with the event type of the fact; a dictionary of texts.
pub const EVENT_TYPE: &str = "event_type";
/// The column with the event time of the fact: when the event happened.
pub const TS_UTC: &str = "ts_utc";
/// The column with the time at which the producer sent the record.
pub const EMITTED_AT_UTC: &str = "emitted_at_utc";
/// The column with the producer's trace id.
pub const TRACE_ID: &str = "trace_id";
/// The column with the producer's span id.
pub const SPAN_ID: &str = "span_id";
/// The column with the id of the event that caused this one.
pub const PARENT_EVENT_ID: &str = "parent_event_id";
/// The column with the canonical JSON of the record's [`crate::Context`]; a dictionary of texts.
pub const CONTEXT: &str = "context";
/// The column with BLAKE3-256 of the canonical JSON of the payload.
pub const PAYLOAD_HASH: &str = "payload_hash";
/// The column with the payload, as a struct of its fields; for an event type without a schema, the
/// payload's canonical JSON.
pub const PAYLOAD: &str = "payload";

/// The column with BLAKE3-256 of the canonical JSON of a sealed row's columns before this one.
pub const RECORD_DIGEST: &str = "record_digest";

/// The metadata key under which the field of a column carries its Parquet field id.
pub const PARQUET_FIELD_ID: &str = "PARQUET:field_id";

/// The Arrow type of a column of ticks, [`TickArray`].
pub type TickType = Int64Type;
/// The array of a column of ticks.
pub type TickArray = Int64Array;
/// Builds a column of ticks, [`TickArray`].
pub type TickBuilder = Int64Builder;
/// The Arrow type of a column of offsets, [`OffsetArray`].
pub type OffsetType = Int64Type;
/// The array of a column of offsets.
pub type OffsetArray = Int64Array;
/// Builds a column of offsets, [`OffsetArray`].
pub type OffsetBuilder = Int64Builder;

/// The data type of columns of ticks.
pub fn tick_type() -> DataType {
    DataType::Int64
}

/// The data type of columns of offsets.
pub fn offset_type() -> DataType {
    DataType::Int64
}

/// The data type of the column [`BASIS`]: a list with one offset for each partition.
pub fn basis_type() -> DataType {
    DataType::List(basis_item())
}

/// The field of an item in the list column [`BASIS`]: the offset of one partition.
pub fn basis_item() -> Arc<Field> {
    Arc::new(Field::new("item", offset_type(), false))
}

/// The data type of text columns with few distinct values.
pub fn dictionary() -> DataType {
    DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8))
}

/// The Arrow field of a column of ticks without nulls.
pub fn tick_field(name: &str) -> Field {
    Field::new(name, tick_type(), false)
}

/// The Arrow field of a column of ticks with nulls.
pub fn nullable_tick_field(name: &str) -> Field {
    Field::new(name, tick_type(), true)
}

/// The Arrow field of a column of offsets without nulls.
pub fn offset_field(name: &str) -> Field {
    Field::new(name, offset_type(), false)
}

/// The Arrow field of a column of offsets with nulls.
pub fn nullable_offset_field(name: &str) -> Field {
    Field::new(name, offset_type(), true)
}

/// The Arrow field of the column [`BASIS`].
pub fn basis_field() -> Field {
    Field::new(BASIS, basis_type(), false)
}

/// The field of a column with this Parquet field id, which Iceberg and other readers use to find
/// the column.
pub fn with_parquet_id(field: Field, id: u32) -> Field {
    let mut metadata = field.metadata().clone();
    metadata.insert(PARQUET_FIELD_ID.to_owned(), id.to_string());
    field.with_metadata(metadata)
}

/// The column of these ticks, as an array.
pub fn tick_array(ticks: impl IntoIterator<Item = Tick>) -> TickArray {
    TickArray::from_iter_values(ticks.into_iter().map(|tick| tick.0))
}

/// The [`TICK`] column of a batch.
///
/// # Panics
/// When the batch has no such column of type [`tick_type`]: every stream of facts has one.
pub fn ticks(rows: &RecordBatch) -> &TickArray {
    find_ticks(rows).expect("every stream has a column `_tick`")
}

/// The [`TICK`] column of a batch that may have none.
pub fn find_ticks(rows: &RecordBatch) -> Option<&TickArray> {
    // In most batches the ticks are the first column, which saves comparing other names.
    let first = rows.schema_ref().fields().first();
    let ticks = match first.is_some_and(|field| field.name() == TICK) {
        true => rows.column(0),
        false => rows.column_by_name(TICK)?,
    };
    ticks.as_primitive_opt::<TickType>()
}

/// The [`OFFSET`] column of a batch.
///
/// # Panics
/// When the batch has no such column of type [`offset_type`]: all facts in the log have one.
pub fn offsets(rows: &RecordBatch) -> &OffsetArray {
    find_offsets(rows).expect("facts have a column `_offset`")
}

/// The [`OFFSET`] column of a batch that may have none.
pub fn find_offsets(rows: &RecordBatch) -> Option<&OffsetArray> {
    rows.column_by_name(OFFSET)?.as_primitive_opt::<OffsetType>()
}

/// The fields of the columns that hold a fact's envelope, in order; without tick, offset and
/// payload.
pub fn envelope_fields() -> Vec<Field> {
    vec![
        Field::new(EVENT_ID, DataType::Utf8, false),
        Field::new(TS_UTC, timestamp(), false),
        Field::new(CONTEXT, dictionary(), false),
        Field::new(PAYLOAD_HASH, DataType::FixedSizeBinary(32), false),
        Field::new(EMITTED_AT_UTC, timestamp(), true),
        Field::new(TRACE_ID, DataType::Utf8, true),
        Field::new(SPAN_ID, DataType::Utf8, true),
        Field::new(PARENT_EVENT_ID, DataType::Utf8, true),
    ]
}

/// The columns of the facts of one event type in the log: tick, offset, envelope and `payload`.
///
/// The log leaves out nullable columns that contain only nulls; [`restore_null_columns`] adds them
/// again.
pub fn fact_schema(payload: DataType) -> SchemaRef {
    let mut fields = vec![tick_field(TICK), offset_field(OFFSET)];
    fields.extend(envelope_fields());
    fields.push(Field::new(PAYLOAD, payload, true));
    Arc::new(Schema::new(fields))
}

/// The batch without those of its nullable columns that contain only nulls.
pub fn drop_null_columns(batch: &RecordBatch) -> RecordBatch {
    let remaining: Vec<usize> = (0..batch.num_columns())
        .filter(|index| {
            let column = batch.column(*index);
            !batch.schema_ref().field(*index).is_nullable() || column.null_count() < column.len()
        })
        .collect();
    batch.project(&remaining).expect("the indices are those of the batch's columns")
}

/// The batch with exactly the columns of `schema`: nulls where `batch` lacks a column, and no
/// others.
///
/// # Panics
/// When `batch` lacks a column that cannot be null, or has one of another type.
pub fn restore_null_columns(batch: &RecordBatch, schema: &SchemaRef) -> RecordBatch {
    let columns: Vec<ArrayRef> = schema
        .fields()
        .iter()
        .map(|field| match batch.column_by_name(field.name()) {
            Some(column) => Arc::clone(column),
            None => new_null_array(field.data_type(), batch.num_rows()),
        })
        .collect();
    RecordBatch::try_new(Arc::clone(schema), columns).expect("the batch has the columns of the schema")
}
