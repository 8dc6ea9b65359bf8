//! The columns of facts and receipts, as they travel through the dataflow and stand in the log.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, new_null_array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use crate::schema::timestamp;

/// The fact's tick, `UInt64`; every stream carries it.
pub const TICK: &str = "_tick";
/// Of a row of a changelog: `+1` when it is so from its tick on, `-1` when it is so no longer, `Int64`.
pub const DIFF: &str = "_diff";
/// The fact's offset within its topic and partition, `UInt64`.
pub const OFFSET: &str = "_offset";
/// The applied offsets at the fact's tick: per partition of `traffic`, the count of facts with a
/// tick not above it; a list of `UInt64`, one item a partition.
pub const BASIS: &str = "basis";
/// The envelope's event id.
pub const EVENT_ID: &str = "event_id";
/// The event type, a dictionary of texts.
pub const EVENT_TYPE: &str = "event_type";
/// When it happened.
pub const TS_UTC: &str = "ts_utc";
/// When the producer sent it.
pub const EMITTED_AT_UTC: &str = "emitted_at_utc";
/// The producer's trace.
pub const TRACE_ID: &str = "trace_id";
/// The producer's span.
pub const SPAN_ID: &str = "span_id";
/// The event that caused this one.
pub const PARENT_EVENT_ID: &str = "parent_event_id";
/// The JCS text of the record's [`crate::Context`], a dictionary.
pub const CONTEXT: &str = "context";
/// BLAKE3-256 over the JCS form of the payload.
pub const PAYLOAD_HASH: &str = "payload_hash";
/// A struct of the payload's fields; or, for an event type without a schema, its JCS text.
pub const PAYLOAD: &str = "payload";

/// BLAKE3 over the canonical form of a sealed row: of its columns up to this one.
pub const RECORD_DIGEST: &str = "record_digest";

/// The type of columns that repeat few texts.
pub fn dictionary() -> DataType {
    DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8))
}

/// The type of [`BASIS`].
pub fn basis() -> DataType {
    DataType::List(Arc::new(Field::new("item", DataType::UInt64, false)))
}

/// The envelope columns of a fact, in order, without tick, offset and payload.
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

/// The columns of one event type's facts in the log: tick, offset, the envelope, and `payload` of the given type.
///
/// Nullable columns that hold nothing are left out on disk; [`restore`] brings them back.
pub fn fact_schema(payload: DataType) -> SchemaRef {
    let mut fields =
        vec![Field::new(TICK, DataType::UInt64, false), Field::new(OFFSET, DataType::UInt64, false)];
    fields.extend(envelope_fields());
    fields.push(Field::new(PAYLOAD, payload, true));
    Arc::new(Schema::new(fields))
}

/// The columns of receipts in the audit topic.
///
/// A receipt of an admitted record holds what its fact does not: where it came from. The rest is
/// read from the fact of the same tick, which stands in the same group of the log.
///
/// | column | meaning |
/// |---|---|
/// | `source` | the node that submitted the record |
/// | `position` | the number of records before it in that source |
/// | `verdict` | the place in [`crate::Verdict::ALL`] |
/// | `reason` | the place in [`crate::Reason::ALL`]; null when admitted |
/// | `tick`, `offset` | of the fact; of the first one when a duplicate; null when quarantined |
/// | `event_type`, `event_id` | as far as they could be read; null when admitted |
/// | `payload_hash` | likewise |
/// | `detail` | what exactly is wrong, a sentence |
/// | `bytes` | the record as it was submitted, when quarantined |
/// | `place` | where the record stood in event time when it had its turn, in microseconds; null before any time |
pub fn receipt_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("source", dictionary(), false),
        Field::new("position", DataType::UInt64, false),
        Field::new("verdict", DataType::UInt8, false),
        Field::new("reason", DataType::UInt8, true),
        Field::new("tick", DataType::UInt64, true),
        Field::new("offset", DataType::UInt64, true),
        Field::new("event_type", DataType::Utf8, true),
        Field::new("event_id", DataType::Utf8, true),
        Field::new("payload_hash", DataType::FixedSizeBinary(32), true),
        Field::new("detail", DataType::Utf8, true),
        Field::new("bytes", DataType::Binary, true),
        Field::new("place", DataType::Int64, true),
    ]))
}

/// Without the nullable columns that hold nothing.
pub fn trim(batch: &RecordBatch) -> RecordBatch {
    let kept: Vec<usize> = (0..batch.num_columns())
        .filter(|i| {
            let column = batch.column(*i);
            !batch.schema_ref().field(*i).is_nullable() || column.null_count() < column.len()
        })
        .collect();
    batch.project(&kept).expect("the places are the batch's own")
}

/// With every column of `schema`, nulls where `batch` has none. Other columns are dropped.
///
/// # Panics
/// When a column that cannot be null is missing, or one has another type: the batch is not of this schema.
pub fn restore(batch: &RecordBatch, schema: &SchemaRef) -> RecordBatch {
    let columns: Vec<ArrayRef> = schema
        .fields()
        .iter()
        .map(|field| match batch.column_by_name(field.name()) {
            Some(column) => Arc::clone(column),
            None => new_null_array(field.data_type(), batch.num_rows()),
        })
        .collect();
    RecordBatch::try_new(Arc::clone(schema), columns).expect("the batch has the schema's columns")
}
