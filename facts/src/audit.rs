//! Audit frames: receipts, run records and progress records in the log's audit topic.
//!
//! The topic has frames of three names. A [`RECEIPTS`] frame has one row for each record of
//! its group, which [`ReceiptBuilder`] writes and [`Receipts`] reads. [`RUN`] and [`PROGRESS`]
//! frames have a single JSON record, see [`json_record`].

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BinaryBuilder, BooleanArray, DictionaryArray,
    FixedSizeBinaryArray, FixedSizeBinaryBuilder, Int32Array, Int64Array, Int64Builder, RecordBatch,
    StringArray, StringBuilder, UInt8Array, UInt8Builder, new_null_array,
};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Field, Int32Type, Int64Type, Schema, SchemaRef, UInt8Type};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::columns::{self, dictionary, nullable_offset_field, nullable_tick_field};
use crate::{Digest, PolicyRev, Reason, Tick, Verdict};

/// The name of audit frames of receipts.
pub const RECEIPTS: &str = "receipts";
/// The name of the audit frame that states the plan and the gate policy with which a log began.
pub const RUN: &str = "run";
/// The name of audit frames that state how far a source has been read.
pub const PROGRESS: &str = "progress";

/// The column names of a frame of receipts, in their order.
const SOURCE: &str = "source";
const POSITION: &str = "position";
const VERDICT: &str = "verdict";
const REASON: &str = "reason";
const RECEIPT_TICK: &str = "tick";
const RECEIPT_OFFSET: &str = "offset";
const DETAIL: &str = "detail";
const BYTES: &str = "bytes";
const ORDER_TIME: &str = "order_time";

/// The columns of an audit frame of receipts.
///
/// The receipt of an admitted record stores only what its fact lacks: which submitted record it
/// was. The rest is in the fact with the same tick, which is in the same group of the log.
///
/// | column | meaning |
/// |---|---|
/// | `source` | the name of the source node that submitted the record |
/// | `position` | the number of records before it in that source |
/// | `verdict` | the number of the [`Verdict`] |
/// | `reason` | the number of the [`Reason`]; null when admitted |
/// | `tick`, `offset` | of the fact; of the original fact for a duplicate; null when quarantined |
/// | `event_type`, `event_id` | as far as the gate could read them; null when admitted |
/// | `payload_hash` | as far as the gate could compute it; null when admitted |
/// | `detail` | what exactly is wrong, as a sentence |
/// | `bytes` | the record as it was submitted; null unless quarantined |
/// | `order_time` | the event time by which the gate ordered the record, in microseconds |
pub fn receipt_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new(SOURCE, dictionary(), false),
        Field::new(POSITION, DataType::Int64, false),
        Field::new(VERDICT, DataType::UInt8, false),
        Field::new(REASON, DataType::UInt8, true),
        nullable_tick_field(RECEIPT_TICK),
        nullable_offset_field(RECEIPT_OFFSET),
        Field::new(columns::EVENT_TYPE, DataType::Utf8, true),
        Field::new(columns::EVENT_ID, DataType::Utf8, true),
        Field::new(columns::PAYLOAD_HASH, DataType::FixedSizeBinary(32), true),
        Field::new(DETAIL, DataType::Utf8, true),
        Field::new(BYTES, DataType::Binary, true),
        Field::new(ORDER_TIME, DataType::Int64, true),
    ]))
}

/// Why an audit frame could not be read: the gate did not write it, or it is damaged.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// A column is missing or has another type.
    #[error("has an audit frame without a column `{column}` of the right type")]
    Column {
        /// The column.
        column: &'static str,
    },
    /// A receipt has a verdict or a reason that does not exist.
    #[error("has a receipt with {what} number {number}")]
    Number {
        /// `verdict` or `reason`.
        what: &'static str,
        /// The number.
        number: u8,
    },
    /// A JSON record is not of the expected form.
    #[error("has a `{name}` record that cannot be read ({source})")]
    Record {
        /// The name of the frame.
        name: &'static str,
        /// What the JSON parser reports.
        source: serde_json::Error,
    },
}

/// The receipts of one audit frame, with every column bound to its type.
#[derive(Clone, Debug)]
pub struct Receipts {
    rows: RecordBatch,
    sources: DictionaryArray<Int32Type>,
    names: StringArray,
    positions: Int64Array,
    verdicts: UInt8Array,
    reasons: Option<UInt8Array>,
    ticks: Option<columns::TickArray>,
    offsets: Option<columns::OffsetArray>,
    event_types: Option<StringArray>,
    event_ids: Option<StringArray>,
    payload_hashes: Option<FixedSizeBinaryArray>,
    details: Option<StringArray>,
    bytes: Option<BinaryArray>,
    order_times: Option<Int64Array>,
}

impl Receipts {
    /// Binds the columns of a frame of receipts. Nullable columns may be absent, as in the log.
    ///
    /// # Errors
    /// When a column is missing or has another type, or a verdict or reason does not exist.
    pub fn read(rows: &RecordBatch) -> Result<Receipts, AuditError> {
        let column = |column| rows.column_by_name(column);
        let required = |name: &'static str| column(name).ok_or(AuditError::Column { column: name });
        let sources = required(SOURCE)?.as_dictionary_opt::<Int32Type>();
        let sources = sources.ok_or(AuditError::Column { column: SOURCE })?.clone();
        let names = sources.values().as_string_opt::<i32>();
        let receipts = Receipts {
            names: names.ok_or(AuditError::Column { column: SOURCE })?.clone(),
            positions: bound(Some(required(POSITION)?), POSITION, |c| c.as_primitive_opt::<Int64Type>())?
                .expect("the column exists"),
            verdicts: bound(Some(required(VERDICT)?), VERDICT, |c| c.as_primitive_opt::<UInt8Type>())?
                .expect("the column exists"),
            reasons: bound(column(REASON), REASON, |c| c.as_primitive_opt::<UInt8Type>())?,
            ticks: bound(column(RECEIPT_TICK), RECEIPT_TICK, |c| c.as_primitive_opt::<columns::TickType>())?,
            offsets: bound(column(RECEIPT_OFFSET), RECEIPT_OFFSET, |c| {
                c.as_primitive_opt::<columns::OffsetType>()
            })?,
            event_types: bound(column(columns::EVENT_TYPE), columns::EVENT_TYPE, |c| c.as_string_opt())?,
            event_ids: bound(column(columns::EVENT_ID), columns::EVENT_ID, |c| c.as_string_opt())?,
            payload_hashes: bound(column(columns::PAYLOAD_HASH), columns::PAYLOAD_HASH, |c| {
                c.as_fixed_size_binary_opt()
            })?,
            details: bound(column(DETAIL), DETAIL, |c| c.as_string_opt())?,
            bytes: bound(column(BYTES), BYTES, |c| c.as_binary_opt())?,
            order_times: bound(column(ORDER_TIME), ORDER_TIME, |c| c.as_primitive_opt::<Int64Type>())?,
            rows: rows.clone(),
            sources,
        };
        receipts.check_numbers()?;
        Ok(receipts)
    }

    fn check_numbers(&self) -> Result<(), AuditError> {
        if let Some(number) = self.verdicts.values().iter().find(|n| Verdict::from_number(**n).is_none()) {
            return Err(AuditError::Number { what: VERDICT, number: *number });
        }
        let mut reasons = self.reasons.iter().flatten().flatten();
        match reasons.find(|number| Reason::from_number(*number).is_none()) {
            Some(number) => Err(AuditError::Number { what: REASON, number }),
            None => Ok(()),
        }
    }

    /// The number of receipts in the audit frame.
    pub fn len(&self) -> usize {
        self.rows.num_rows()
    }

    /// Whether the audit frame has no receipts.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The receipts for which `mask` is true; `mask` has one item for each receipt.
    pub fn filter(&self, mask: &BooleanArray) -> Receipts {
        let rows = filter_record_batch(&self.rows, mask).expect("the mask has an item for each row");
        Receipts::read(&rows).expect("the columns stay the same")
    }

    /// `length` receipts from index `start` on.
    pub fn slice(&self, start: usize, length: usize) -> Receipts {
        Receipts::read(&self.rows.slice(start, length)).expect("the columns stay the same")
    }

    /// The column `name` of [`receipt_schema`], as nulls where the log left it out.
    ///
    /// # Panics
    /// When the schema has no such column.
    pub fn column(&self, name: &str) -> ArrayRef {
        self.rows.column_by_name(name).cloned().unwrap_or_else(|| {
            let schema = receipt_schema();
            let field = schema.field_with_name(name).expect("receipts have this column");
            new_null_array(field.data_type(), self.len())
        })
    }

    /// The distinct names of sources; [`Receipts::source_key`] is an index into it.
    pub fn source_names(&self) -> &StringArray {
        &self.names
    }

    /// The index of a receipt's source in [`Receipts::source_names`].
    pub fn source_key(&self, row: usize) -> usize {
        self.sources.key(row).expect("every receipt has a source")
    }

    /// The name of the source that submitted the record.
    pub fn source(&self, row: usize) -> &str {
        self.names.value(self.source_key(row))
    }

    /// The number of records before this one in its source.
    pub fn position(&self, row: usize) -> u64 {
        self.positions.value(row).cast_unsigned()
    }

    /// The gate's verdict on the record that the receipt is for.
    pub fn verdict(&self, row: usize) -> Verdict {
        Verdict::from_number(self.verdicts.value(row)).expect("`read` has checked the numbers")
    }

    /// The reason of the verdict; `None` when admitted.
    pub fn reason(&self, row: usize) -> Option<Reason> {
        let reasons = self.reasons.as_ref().filter(|reasons| reasons.is_valid(row))?;
        Some(Reason::from_number(reasons.value(row)).expect("`read` has checked the numbers"))
    }

    /// The tick of the fact; of the original fact for a duplicate; `None` when quarantined.
    pub fn tick(&self, row: usize) -> Option<Tick> {
        let ticks = self.ticks.as_ref().filter(|ticks| ticks.is_valid(row))?;
        Some(Tick(ticks.value(row)))
    }

    /// The offset of the fact; of the original fact for a duplicate; `None` when quarantined.
    pub fn offset(&self, row: usize) -> Option<u64> {
        let offsets = self.offsets.as_ref().filter(|offsets| offsets.is_valid(row))?;
        Some(offsets.value(row).cast_unsigned())
    }

    /// The event type of a record that was not admitted, if the gate could read it.
    pub fn event_type(&self, row: usize) -> Option<&str> {
        text_at(self.event_types.as_ref(), row)
    }

    /// The event id of a record that was not admitted, if the gate could read it.
    pub fn event_id(&self, row: usize) -> Option<&str> {
        text_at(self.event_ids.as_ref(), row)
    }

    /// The payload digest of a record that was not admitted, if the gate could compute it.
    pub fn payload_hash(&self, row: usize) -> Option<&[u8]> {
        let hashes = self.payload_hashes.as_ref().filter(|hashes| hashes.is_valid(row))?;
        Some(hashes.value(row))
    }

    /// What exactly is wrong with a record that was quarantined.
    pub fn detail(&self, row: usize) -> Option<&str> {
        text_at(self.details.as_ref(), row)
    }

    /// The bytes of a record that was quarantined, as submitted.
    pub fn bytes(&self, row: usize) -> Option<&[u8]> {
        let bytes = self.bytes.as_ref().filter(|bytes| bytes.is_valid(row))?;
        Some(bytes.value(row))
    }

    /// The event time by which the gate ordered the record, in microseconds; `None` before any
    /// time.
    pub fn order_time(&self, row: usize) -> Option<i64> {
        let times = self.order_times.as_ref().filter(|times| times.is_valid(row))?;
        Some(times.value(row))
    }
}

fn text_at(texts: Option<&StringArray>, row: usize) -> Option<&str> {
    let texts = texts.filter(|texts| texts.is_valid(row))?;
    Some(texts.value(row))
}

/// A column downcast by `downcast`, if it exists.
fn bound<A: Clone>(
    column: Option<&ArrayRef>,
    name: &'static str,
    downcast: impl Fn(&ArrayRef) -> Option<&A>,
) -> Result<Option<A>, AuditError> {
    let bound = column.map(|column| downcast(column).cloned().ok_or(AuditError::Column { column: name }));
    bound.transpose()
}

/// Builds the audit frame with the receipts of one group, record by record.
#[derive(Default)]
pub struct ReceiptBuilder {
    sources: Vec<i32>,
    positions: Vec<i64>,
    verdicts: UInt8Builder,
    reasons: UInt8Builder,
    ticks: Int64Builder,
    offsets: Int64Builder,
    event_types: StringBuilder,
    event_ids: StringBuilder,
    payload_hashes: Vec<Option<Digest>>,
    details: StringBuilder,
    bytes: BinaryBuilder,
    order_times: Int64Builder,
}

/// Which submitted record a receipt in an audit frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceiptOrigin {
    /// The index of its source in the list that [`ReceiptBuilder::finish`] gets.
    pub source: usize,
    /// The number of records before it in that source.
    pub position: u64,
    /// The event time by which the gate ordered the record, in microseconds; `None` before any
    /// time.
    pub order_time: Option<i64>,
}

/// What a receipt in an audit frame states about a quarantined record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuarantineReceipt<'a> {
    /// Why the gate refused the record.
    pub reason: Reason,
    /// What exactly is wrong, as a sentence.
    pub detail: &'a str,
    /// The event type, if the gate could read it.
    pub event_type: Option<&'a str>,
    /// The event id, if the gate could read it.
    pub event_id: Option<&'a str>,
    /// The digest of the payload, if the gate could compute it.
    pub payload_hash: Option<Digest>,
    /// The record as it was submitted.
    pub bytes: &'a [u8],
}

impl ReceiptBuilder {
    /// Adds the receipt of a record that became the fact at `tick` and `offset`.
    pub fn admitted(&mut self, origin: ReceiptOrigin, tick: Tick, offset: u64) {
        self.begin(origin, Verdict::Admit, None, Some((tick, offset)));
        self.event_types.append_null();
        self.event_ids.append_null();
        self.payload_hashes.push(None);
        self.details.append_null();
        self.bytes.append_null();
    }

    /// Adds the receipt of a record that repeats the fact at `tick` and `offset`.
    pub fn duplicate(
        &mut self,
        origin: ReceiptOrigin,
        (tick, offset): (Tick, u64),
        event_type: &str,
        event_id: &str,
        payload_hash: Digest,
    ) {
        self.begin(origin, Verdict::Duplicate, Some(Reason::Duplicate), Some((tick, offset)));
        self.event_types.append_value(event_type);
        self.event_ids.append_value(event_id);
        self.payload_hashes.push(Some(payload_hash));
        self.details.append_null();
        self.bytes.append_null();
    }

    /// Adds the receipt of a quarantined record.
    pub fn quarantined(&mut self, origin: ReceiptOrigin, receipt: &QuarantineReceipt<'_>) {
        self.begin(origin, Verdict::Quarantine, Some(receipt.reason), None);
        self.event_types.append_option(receipt.event_type);
        self.event_ids.append_option(receipt.event_id);
        self.payload_hashes.push(receipt.payload_hash);
        self.details.append_value(receipt.detail);
        self.bytes.append_value(receipt.bytes);
    }

    fn begin(
        &mut self,
        origin: ReceiptOrigin,
        verdict: Verdict,
        reason: Option<Reason>,
        fact: Option<(Tick, u64)>,
    ) {
        self.sources.push(i32::try_from(origin.source).expect("a plan has fewer sources"));
        self.positions.push(origin.position.cast_signed());
        self.order_times.append_option(origin.order_time);
        self.verdicts.append_value(verdict as u8);
        self.reasons.append_option(reason.map(|reason| reason as u8));
        self.ticks.append_option(fact.map(|(tick, _)| tick.0));
        self.offsets.append_option(fact.map(|(_, offset)| offset.cast_signed()));
    }

    /// The frame's rows, without columns that contain only nulls; `sources` are the names of the
    /// sources.
    pub fn finish<S: AsRef<str>>(mut self, sources: &[S]) -> RecordBatch {
        let names = Arc::new(StringArray::from_iter_values(sources));
        let mut hashes = FixedSizeBinaryBuilder::with_capacity(self.payload_hashes.len(), 32);
        for hash in &self.payload_hashes {
            match hash {
                Some(hash) => hashes.append_value(hash.0).expect("a digest has 32 bytes"),
                None => hashes.append_null(),
            }
        }
        let columns: Vec<ArrayRef> = vec![
            Arc::new(DictionaryArray::new(Int32Array::from(self.sources), names)),
            Arc::new(Int64Array::from(self.positions)),
            Arc::new(self.verdicts.finish()),
            Arc::new(self.reasons.finish()),
            Arc::new(self.ticks.finish()),
            Arc::new(self.offsets.finish()),
            Arc::new(self.event_types.finish()),
            Arc::new(self.event_ids.finish()),
            Arc::new(hashes.finish()),
            Arc::new(self.details.finish()),
            Arc::new(self.bytes.finish()),
            Arc::new(self.order_times.finish()),
        ];
        let rows =
            RecordBatch::try_new(receipt_schema(), columns).expect("the columns are those of the schema");
        columns::drop_null_columns(&rows)
    }
}

/// The record of a [`RUN`] frame in the audit topic: the plan and the gate policy with which a log
/// began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRecord {
    /// The topology's name.
    pub topology: String,
    /// The digest of its plan.
    pub plan: Digest,
    /// The gate's policy.
    pub policy: PolicyRev,
    /// The number of partitions.
    pub partitions: u16,
}

/// The rows of an audit frame with one JSON record: a single text in a single column.
pub fn json_record(record: &impl Serialize) -> RecordBatch {
    let text = serde_json::to_string(record).expect("the record has a JSON form");
    let schema = Arc::new(Schema::new(vec![Field::new("record", DataType::Utf8, false)]));
    let columns: Vec<ArrayRef> = vec![Arc::new(StringArray::from_iter_values([text]))];
    RecordBatch::try_new(schema, columns).expect("one column of one row")
}

/// The texts of the JSON records of an audit frame; `None` for a frame of receipts.
pub fn json_texts(rows: &RecordBatch) -> Option<&StringArray> {
    match rows.columns() {
        [record] => record.as_string_opt(),
        _ => None,
    }
}

/// Reads the JSON record of an audit frame called `name`; of several, the last.
///
/// # Errors
/// When the frame has no such record.
pub fn read_json_record<T: DeserializeOwned>(
    name: &'static str,
    rows: &RecordBatch,
) -> Result<T, AuditError> {
    let texts = json_texts(rows).filter(|texts| !texts.is_empty());
    let text = texts.map_or("", |texts| texts.value(texts.len() - 1));
    serde_json::from_str(text).map_err(|source| AuditError::Record { name, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(source: usize, position: u64, order_time: Option<i64>) -> ReceiptOrigin {
        ReceiptOrigin { source, position, order_time }
    }

    fn frame() -> RecordBatch {
        let mut builder = ReceiptBuilder::default();
        let tick = Tick::new(5, 1).unwrap();
        builder.admitted(origin(1, 7, Some(4)), tick, 3);
        builder.duplicate(origin(0, 0, None), (tick, 3), "paid.v1", "tx-1", Digest::of(b"p"));
        let refused = QuarantineReceipt {
            reason: Reason::SchemaFail,
            detail: "`amount` is missing",
            event_type: Some("paid.v1"),
            event_id: None,
            payload_hash: None,
            bytes: b"{}",
        };
        builder.quarantined(origin(1, 8, Some(6)), &refused);
        builder.finish(&["tills", "labels"])
    }

    #[test]
    fn receipts_are_read_as_they_were_written() {
        let receipts = Receipts::read(&frame()).unwrap();
        let line = |row| {
            format!(
                "{} {} {} {:?} {:?} {:?} {:?} {:?} {:?} {:?}",
                receipts.source(row),
                receipts.position(row),
                receipts.verdict(row),
                receipts.reason(row).map(Reason::code),
                receipts.tick(row).map(|tick| (tick.micros(), tick.partition())),
                receipts.offset(row),
                receipts.event_type(row),
                receipts.event_id(row),
                receipts.bytes(row).map(String::from_utf8_lossy),
                receipts.order_time(row),
            )
        };
        assert_eq!(line(0), "labels 7 ADMIT None Some((5, 1)) Some(3) None None None Some(4)");
        assert_eq!(
            line(1),
            "tills 0 DUPLICATE Some(\"DUPLICATE\") Some((5, 1)) Some(3) Some(\"paid.v1\") Some(\"tx-1\") None None"
        );
        assert_eq!(
            line(2),
            "labels 8 QUARANTINE Some(\"SCHEMA_FAIL\") None None Some(\"paid.v1\") None Some(\"{}\") Some(6)"
        );
        assert_eq!(receipts.payload_hash(1), Some(Digest::of(b"p").0.as_slice()));
        assert_eq!(receipts.slice(2, 1).detail(0), Some("`amount` is missing"));
    }

    #[test]
    fn a_column_that_the_log_left_out_is_null() {
        let admitted = Receipts::read(&frame()).unwrap().slice(0, 1);
        let rows = columns::drop_null_columns(&admitted.rows);
        assert_eq!(rows.num_columns(), 6);
        let admitted = Receipts::read(&rows).unwrap();
        assert_eq!((admitted.reason(0), admitted.detail(0), admitted.bytes(0)), (None, None, None));
        assert_eq!(admitted.column(BYTES).null_count(), 1);
    }

    #[test]
    fn a_number_that_does_not_exist_is_refused() {
        let rows = frame();
        let mut columns = rows.columns().to_vec();
        columns[2] = Arc::new(UInt8Array::from(vec![0, 1, 9]));
        let rows = RecordBatch::try_new(rows.schema(), columns).unwrap();
        assert_eq!(Receipts::read(&rows).unwrap_err().to_string(), "has a receipt with verdict number 9");
    }

    #[test]
    fn a_json_record_is_read_as_it_was_written() {
        let policy = PolicyRev {
            policy_id: "gate".to_owned(),
            revision: "1".to_owned(),
            content_digest: Digest::of(b"x"),
        };
        let record =
            RunRecord { topology: "tills".to_owned(), plan: Digest::of(b"plan"), policy, partitions: 2 };
        assert_eq!(read_json_record::<RunRecord>(RUN, &json_record(&record)).unwrap(), record);
        assert!(read_json_record::<RunRecord>(RUN, &frame()).is_err());
    }
}
