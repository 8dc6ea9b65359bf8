//! Rows of a timeline in columns, and the conversion of projected batches to and from them.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Decimal128Array, FixedSizeBinaryArray, Int32Array,
    Int64Array, RecordBatch, TimestampMicrosecondArray, new_empty_array,
};
use arrow::datatypes::{
    DataType, Decimal128Type, Field, Int32Type, Int64Type, Schema, TimestampMicrosecondType,
};
use tidegate_facts::digest::key_hash;
use tidegate_facts::payload_schema::timestamp;
use tidegate_facts::{KeyHash, Tick, columns};
use timely::Accountable;
use timely::container::NoopBuilder;
use timely::dataflow::Stream;
use timely::dataflow::channels::ContainerBytes;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::Operator;
use timely::progress::frontier::AntichainRef;

use crate::core::keys::{NULL_KEY, identifiers_of, keys_of};
use crate::core::rows::{RowStream, from_ipc, ticks_of, to_ipc};

/// Rows of a timeline in columns: before they are arranged, or as a scan returns them.
///
/// Each list has one entry for each row. Rows that are to be arranged are in no particular order.
#[derive(Clone, Debug, Default)]
pub struct TimelineRows {
    /// The keys.
    pub keys: Vec<KeyHash>,
    /// The identifiers that were hashed into the keys, when the timeline stores them; else empty.
    pub identifiers: Vec<Arc<[u8]>>,
    /// The event times, in microseconds since 1970 UTC.
    pub times: Vec<i64>,
    /// The ticks.
    pub ticks: Vec<Tick>,
    /// For each measured column its values, `None` for null.
    pub values: Vec<Vec<Option<i64>>>,
    /// The texts that values of text columns refer to.
    pub texts: StringDictionary,
}

/// Texts by the number that represents each in a timeline's rows; every text is stored once.
#[derive(Clone, Debug, Default)]
pub struct StringDictionary(BTreeMap<i64, Arc<str>>);

impl StringDictionary {
    /// The number of `text`, the same on every worker.
    ///
    /// # Panics
    /// When two texts have one number (64 bits of BLAKE3); then answers would be wrong.
    pub fn number(&mut self, text: &str) -> i64 {
        let number = key_hash("text value", text.as_bytes()) as i64;
        self.insert(number, text);
        number
    }

    fn insert(&mut self, number: i64, text: &str) {
        let existing = self.0.entry(number).or_insert_with(|| text.into());
        assert_eq!(existing.as_ref(), text, "two texts have one number");
    }

    /// Whether there are no texts.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The text of `number`; `None` when this worker has arranged no row with it.
    pub fn text(&self, number: i64) -> Option<&Arc<str>> {
        self.0.get(&number)
    }

    /// Adds the texts of another dictionary.
    ///
    /// # Panics
    /// When two texts have one number.
    pub(super) fn merge(&mut self, other: &StringDictionary) {
        for (number, text) in &other.0 {
            self.insert(*number, text);
        }
    }
}

impl TimelineRows {
    /// No rows, for this many measures.
    pub(super) fn with_measures(measures: usize) -> TimelineRows {
        TimelineRows { values: vec![Vec::new(); measures], ..TimelineRows::default() }
    }

    /// The count of timeline rows.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there are no timeline rows.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Appends a row of `other`.
    pub(super) fn push_row_of(&mut self, other: &TimelineRows, row: usize) {
        self.keys.push(other.keys[row]);
        self.identifiers.extend(other.identifiers.get(row).cloned());
        self.times.push(other.times[row]);
        self.ticks.push(other.ticks[row]);
        for (into, from) in self.values.iter_mut().zip(&other.values) {
            into.push(from[row]);
        }
    }

    /// Removes the rows with a tick before `upper` and returns them.
    pub(super) fn split_before(&mut self, upper: AntichainRef<'_, Tick>) -> TimelineRows {
        let all = std::mem::take(self);
        if !all.ticks.iter().any(|t| upper.less_equal(t)) {
            return all;
        }
        let mut before = TimelineRows::with_measures(all.values.len());
        *self = TimelineRows::with_measures(all.values.len());
        for row in 0..all.len() {
            let into = if upper.less_equal(&all.ticks[row]) { &mut *self } else { &mut before };
            into.push_row_of(&all, row);
        }
        before
    }

    /// Moves all rows of `other` to the end.
    pub(super) fn append(&mut self, other: &mut TimelineRows) {
        if self.is_empty() {
            *self = std::mem::take(other);
            return;
        }
        self.keys.append(&mut other.keys);
        self.identifiers.append(&mut other.identifiers);
        self.times.append(&mut other.times);
        self.ticks.append(&mut other.ticks);
        for (into, from) in self.values.iter_mut().zip(&mut other.values) {
            into.append(from);
        }
    }
}

impl Accountable for TimelineRows {
    fn record_count(&self) -> i64 {
        self.keys.len() as i64
    }
}

/// The name of the column of identifiers in the encoding between processes.
const IDENTIFIER: &str = "identifier";

impl ContainerBytes for TimelineRows {
    fn from_bytes(bytes: timely::bytes::arc::Bytes) -> Self {
        let batch = from_ipc(&bytes);
        let keys = batch.column(0).as_fixed_size_binary();
        let ticks = batch.column(2).as_primitive::<columns::TickType>();
        let named = |name: &str| batch.column_by_name(name);
        let identifiers = named(IDENTIFIER).map(|column| column.as_binary::<i32>());
        let values = (0..).map_while(|measure| named(&format!("value_{measure}")));
        TimelineRows {
            keys: keys
                .iter()
                .flatten()
                .map(|k| KeyHash::from_le_bytes(k.try_into().expect("16 bytes")))
                .collect(),
            times: batch.column(1).as_primitive::<TimestampMicrosecondType>().values().to_vec(),
            identifiers: identifiers.into_iter().flatten().flatten().map(Arc::from).collect(),
            ticks: ticks.values().iter().map(|t| Tick(*t)).collect(),
            values: values.map(|c| c.as_primitive::<Int64Type>().iter().collect()).collect(),
            texts: StringDictionary(
                batch
                    .schema_ref()
                    .metadata()
                    .iter()
                    .map(|(n, t)| (n.parse().expect("a number"), t.as_str().into()))
                    .collect(),
            ),
        }
    }

    fn length_in_bytes(&self) -> usize {
        to_ipc(&self.to_batch()).len()
    }

    fn into_bytes<W: std::io::Write>(&self, writer: &mut W) {
        writer
            .write_all(&to_ipc(&self.to_batch()))
            .expect("timely's buffer has the size that length_in_bytes returned");
    }
}

impl TimelineRows {
    fn to_batch(&self) -> RecordBatch {
        let time = TimestampMicrosecondArray::from(self.times.clone());
        let mut fields = vec![
            Field::new("key", DataType::FixedSizeBinary(16), false),
            Field::new("time", time.data_type().clone(), false),
            columns::tick_field("tick"),
        ];
        let keys = FixedSizeBinaryArray::try_from_iter(self.keys.iter().map(|k| k.to_le_bytes()));
        let mut columns: Vec<ArrayRef> = vec![
            match keys {
                Ok(keys) => Arc::new(keys),
                Err(_) => new_empty_array(&DataType::FixedSizeBinary(16)),
            },
            Arc::new(time),
            Arc::new(columns::tick_array(self.ticks.iter().copied())),
        ];
        for (measure, values) in self.values.iter().enumerate() {
            fields.push(Field::new(format!("value_{measure}"), DataType::Int64, true));
            columns.push(Arc::new(Int64Array::from(values.clone())));
        }
        if !self.identifiers.is_empty() {
            fields.push(Field::new(IDENTIFIER, DataType::Binary, false));
            columns.push(Arc::new(BinaryArray::from_iter_values(&self.identifiers)));
        }
        let texts =
            self.texts.0.iter().map(|(number, text)| (number.to_string(), text.to_string())).collect();
        let schema = Arc::new(Schema::new_with_metadata(fields, texts));
        RecordBatch::try_new(schema, columns).expect("the columns match the schema")
    }
}

/// Whether a column of this type can be a measure of a timeline.
pub fn is_measure(data_type: &DataType) -> bool {
    match data_type {
        DataType::Boolean | DataType::Int32 | DataType::Int64 | DataType::Utf8 => true,
        DataType::Decimal128(digits, _) => *digits <= 18,
        other => *other == timestamp(),
    }
}

/// The values of a measured column as the integers that timeline rows hold; texts are added to
/// `texts`.
///
/// # Panics
/// For a column that [`is_measure`] refuses, or a decimal beyond 18 digits.
pub fn measure_values(column: &ArrayRef, texts: &mut StringDictionary) -> Vec<Option<i64>> {
    match column.data_type() {
        DataType::Boolean => column.as_boolean().iter().map(|v| v.map(i64::from)).collect(),
        DataType::Int32 => column.as_primitive::<Int32Type>().iter().map(|v| v.map(i64::from)).collect(),
        DataType::Int64 => column.as_primitive::<Int64Type>().iter().collect(),
        DataType::Utf8 => {
            column.as_string::<i32>().iter().map(|v| v.map(|text| texts.number(text))).collect()
        }
        DataType::Decimal128(_, _) => {
            let to_64_bits = |v: i128| i64::try_from(v).expect("18 digits fit 64 bits");
            column.as_primitive::<Decimal128Type>().iter().map(|v| v.map(to_64_bits)).collect()
        }
        _ => column.as_primitive::<TimestampMicrosecondType>().iter().collect(),
    }
}

/// Converts projected rows (tick, key, event time, then the measured columns) to timeline rows.
///
/// Rows without a key or an event time belong to no timeline and are dropped. With
/// `with_identifiers`, the rows include the identifiers that were hashed into their keys.
pub fn timeline_rows<'scope>(
    rows: RowStream<'scope>,
    with_identifiers: bool,
    name: &str,
) -> Stream<'scope, Tick, TimelineRows> {
    rows.unary::<NoopBuilder<TimelineRows>, _, _, _>(
        Pipeline,
        &format!("{name}: timeline rows"),
        move |_, _| {
            move |input, output| {
                input.for_each(|time, rows| {
                    let batch = std::mem::take(rows).0;
                    let mut rows = to_timeline_rows(&batch, with_identifiers);
                    if !rows.is_empty() {
                        output.session_with_builder(&time).give_container(&mut rows);
                    }
                });
            }
        },
    )
}

/// Converts one batch of projected rows to timeline rows; see [`timeline_rows`].
pub fn to_timeline_rows(batch: &RecordBatch, with_identifiers: bool) -> TimelineRows {
    let mut texts = StringDictionary::default();
    let keys = keys_of(batch.column(1));
    let times = batch.column(2);
    let ticks = ticks_of(batch).values();
    let values: Vec<_> =
        batch.columns()[3..].iter().map(|column| measure_values(column, &mut texts)).collect();
    let identifiers = if with_identifiers { identifiers_of(batch.column(1)) } else { Vec::new() };
    let rows = TimelineRows {
        keys,
        identifiers,
        times: times.as_primitive::<TimestampMicrosecondType>().values().to_vec(),
        ticks: ticks.iter().map(|t| Tick(*t)).collect(),
        values,
        texts,
    };
    if times.null_count() == 0 && !rows.keys.contains(&NULL_KEY) {
        return rows;
    }
    let mut valid =
        TimelineRows { texts: rows.texts.clone(), ..TimelineRows::with_measures(rows.values.len()) };
    for row in 0..rows.len() {
        if rows.keys[row] != NULL_KEY && times.is_valid(row) {
            valid.push_row_of(&rows, row);
        }
    }
    valid
}

/// Converts the integers that timeline rows hold of a measure back to a column of its type; the
/// inverse of [`measure_values`] except for texts.
///
/// # Panics
/// For a type that [`is_measure`] refuses, and for texts.
pub fn measure_column(data_type: &DataType, values: impl Iterator<Item = Option<i64>>) -> ArrayRef {
    match data_type {
        DataType::Boolean => Arc::new(values.map(|v| v.map(|v| v != 0)).collect::<BooleanArray>()),
        DataType::Int32 => Arc::new(values.map(|v| v.map(|v| v as i32)).collect::<Int32Array>()),
        DataType::Int64 => Arc::new(values.collect::<Int64Array>()),
        DataType::Decimal128(digits, scale) => Arc::new(
            values
                .map(|v| v.map(i128::from))
                .collect::<Decimal128Array>()
                .with_precision_and_scale(*digits, *scale)
                .expect("a measure keeps its type"),
        ),
        other => {
            assert_eq!(*other, timestamp(), "a measure of another type");
            Arc::new(values.collect::<TimestampMicrosecondArray>().with_timezone("UTC"))
        }
    }
}
