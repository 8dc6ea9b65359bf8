//! Timelines: the arrangement that windows and as-of look-ups read, each key's rows by event time.
//!
//! A timeline is a differential arrangement (a [`Spine`] of immutable batches, shared through a
//! trace) with its own batch layout. Facts are never retracted, so there is no difference column.
//! Instead each measured column is stored as prefix sums over the whole batch. The sum of any
//! window is then the difference of two prefix sums, however many rows lie between them, and a row
//! costs 16 bytes of index and 8 bytes for each measure.
//!
//! * Order: by key, then event time, then tick.
//! * Merging preserves the order, and drops the rows that no look-up at or after `since` can read.
//! * Merging does not change ticks: a look-up at tick `t` reads the rows with a tick not above `t`.
//!
//! [`Spine`]: differential_dataflow::trace::implementations::spine_fueled::Spine

mod batch;
mod metrics;
mod prefix_sums;
mod reader;

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Arc, RwLock};

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Decimal128Array, FixedSizeBinaryArray, Int32Array,
    Int64Array, RecordBatch, TimestampMicrosecondArray,
};
use arrow::datatypes::{
    DataType, Decimal128Type, Field, Int32Type, Int64Type, Schema, TimestampMicrosecondType,
};
use differential_dataflow::operators::arrange::{Arranged, TraceAgent};
use differential_dataflow::trace::implementations::spine_fueled::Spine;
use differential_dataflow::trace::{BatchReader, Description, TraceReader};
use tidegate_facts::digest::key_hash;
use tidegate_facts::payload_schema::timestamp;
use tidegate_facts::{KeyHash, Tick, columns};
use timely::Accountable;
use timely::container::NoopBuilder;
use timely::dataflow::Stream;
use timely::dataflow::channels::ContainerBytes;
use timely::dataflow::channels::Message;
use timely::dataflow::channels::pact::{DistributorPact, Pipeline};
use timely::dataflow::channels::pushers::exchange::Distributor;
use timely::dataflow::operators::{Capability, Operator};
use timely::progress::frontier::AntichainRef;
use timely::progress::{Antichain, Timestamp};

pub(crate) use self::batch::first_not;
pub use self::batch::{SharedBatch, TimelineBatch, TimelineMerger, timeline_order};
pub use self::metrics::{TimelineMetrics, Totals};
use self::reader::Publisher;
pub use self::reader::{PublishedTimeline, ScanColumn, ScanSpec, SnapshotScan, TimelineSnapshot};
use crate::core::keys::{NULL_KEY, identifiers_of, keys_of, owner};
use crate::core::rows::{RowStream, from_ipc, ticks_of, to_ipc};

/// The layout of a timeline's batches, its retention, and its metrics.
#[derive(Clone, Debug)]
pub struct Layout {
    /// What the batches store of each measured column.
    pub measures: Vec<MeasureLayout>,
    /// The rows that merging retains.
    pub retention: Retention,
    /// The metrics that the batches add their totals to.
    pub metrics: Arc<TimelineMetrics>,
}

/// What a batch stores of one measured column, besides the prefix sums of its values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MeasureLayout {
    /// Prefix sums of squares, for deviations.
    pub squares: bool,
    /// Whether values may be null; then the batch stores prefix counts of the other values.
    pub nullable: bool,
}

/// The rows of a timeline that merging retains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retention {
    /// Rows whose event time is at most this many microseconds before `since`, or after it.
    Span(i64),
    /// Rows at or above `since`; and of the rows below it, those of the latest event time of their
    /// key.
    Latest,
}

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

/// Texts by the number that represents each in a timeline; every text is stored once.
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

    /// The text of `number`; `None` when this worker has arranged no row with it.
    pub fn text(&self, number: i64) -> Option<&Arc<str>> {
        self.0.get(&number)
    }

    fn merge(&mut self, other: &StringDictionary) {
        for (number, text) in &other.0 {
            self.insert(*number, text);
        }
    }
}

/// A worker's part of a timeline, with the texts of its values.
pub struct Timeline<'scope> {
    /// The arrangement.
    pub arranged: Arranged<'scope, TimelineTrace>,
    /// The texts that values of text columns refer to.
    pub texts: Arc<RwLock<StringDictionary>>,
}

/// The trace of a timeline.
pub type TimelineTrace = TraceAgent<Spine<SharedBatch>>;

/// How many times more than necessary a timeline merges with each new batch. Merging a row is
/// cheap, and each unmerged batch slows down every look-up.
const MERGE_EFFORT: usize = 8;

/// Arranges rows as a timeline, each key on the worker that owns it.
///
/// Each advance of the input's frontier seals one batch, whose lower and upper are the frontiers
/// before and after. With `published`, the operator then publishes the batches to reader threads.
pub fn arrange_timeline<'scope>(
    rows: Stream<'scope, Tick, TimelineRows>,
    layout: &Arc<Layout>,
    published: Option<Arc<PublishedTimeline>>,
    name: &str,
) -> Timeline<'scope> {
    let layout = Arc::clone(layout);
    let texts: Arc<RwLock<StringDictionary>> = Arc::default();
    let merged_texts = Arc::clone(&texts);
    let scope = rows.scope();
    let mut trace = None;
    let trace_slot = &mut trace;
    let pact = DistributorPact(|workers| ByKey { workers });
    let stream = rows.unary_frontier(pact, name, move |_, info| {
        let activator = scope.activator_for(Rc::clone(&info.address));
        let spine = Spine::with_effort(MERGE_EFFORT, info.clone(), None, Some(activator));
        let (agent, mut writer) = TraceAgent::new(spine, info, None);
        let mut publisher =
            published.map(|published| Publisher::new(published, agent.clone(), Arc::clone(&merged_texts)));
        *trace_slot = Some(agent);
        let mut unsealed = TimelineRows::default();
        let mut capability: Option<Capability<Tick>> = None;
        let mut lower = Antichain::from_elem(Tick::minimum());
        move |(input, frontier), output| {
            input.for_each(|time, rows| {
                let is_earlier = capability.as_ref().is_none_or(|earliest| time.time() < earliest.time());
                if is_earlier {
                    capability = Some(time.retain(0));
                }
                if !rows.texts.0.is_empty() {
                    merged_texts.write().expect("no panic").merge(&rows.texts);
                }
                unsealed.append(rows);
            });
            let upper = frontier.frontier().to_owned();
            if upper != lower {
                let sealed = unsealed.split_before(upper.borrow());
                let description =
                    Description::new(lower.clone(), upper.clone(), Antichain::from_elem(Tick::minimum()));
                let batch = TimelineBatch::from_rows(&layout, &sealed, description);
                let batch = SharedBatch(Arc::new(batch));
                if let Some(capability) = &capability
                    && !upper.less_equal(capability.time())
                {
                    writer.insert(batch.clone(), Some(*capability.time()));
                    output.session(capability).give(batch);
                } else {
                    writer.seal(upper.clone());
                }
                capability = match unsealed.ticks.iter().min() {
                    Some(least) => capability.take().map(|capability| capability.delayed(least)),
                    None => None,
                };
                lower = upper;
                if let Some(publisher) = &mut publisher {
                    publisher.publish(&lower);
                }
            }
            writer.exert();
        }
    });
    Timeline { arranged: Arranged { stream, trace: trace.expect("the operator was built") }, texts }
}

impl TimelineRows {
    fn with_measures(measures: usize) -> TimelineRows {
        TimelineRows { values: vec![Vec::new(); measures], ..TimelineRows::default() }
    }

    /// The count of rows.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    fn push_row_of(&mut self, other: &TimelineRows, row: usize) {
        self.keys.push(other.keys[row]);
        self.identifiers.extend(other.identifiers.get(row).cloned());
        self.times.push(other.times[row]);
        self.ticks.push(other.ticks[row]);
        for (into, from) in self.values.iter_mut().zip(&other.values) {
            into.push(from[row]);
        }
    }

    /// Removes the rows with a tick before `upper` and returns them.
    fn split_before(&mut self, upper: AntichainRef<'_, Tick>) -> TimelineRows {
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

    fn append(&mut self, other: &mut TimelineRows) {
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
                Err(_) => arrow::array::new_empty_array(&DataType::FixedSizeBinary(16)),
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

/// Sends each row to the worker that owns its key.
struct ByKey {
    workers: usize,
}

impl Distributor<TimelineRows> for ByKey {
    fn partition<T: Clone, P: timely::communication::Push<Message<T, TimelineRows>>>(
        &mut self,
        container: &mut TimelineRows,
        time: &T,
        pushers: &mut [P],
    ) {
        if self.workers == 1 {
            let mut all = std::mem::take(container);
            if !all.is_empty() {
                Message::push_at(&mut all, time.clone(), &mut pushers[0]);
            }
            return;
        }
        let empty = TimelineRows {
            texts: container.texts.clone(),
            ..TimelineRows::with_measures(container.values.len())
        };
        let mut parts = vec![empty; self.workers];
        for row in 0..container.len() {
            parts[owner(container.keys[row], self.workers)].push_row_of(container, row);
        }
        for (mut part, pusher) in parts.into_iter().zip(pushers) {
            if !part.is_empty() {
                Message::push_at(&mut part, time.clone(), pusher);
            }
        }
        *container = TimelineRows::default();
    }

    fn flush<T: Clone, P: timely::communication::Push<Message<T, TimelineRows>>>(
        &mut self,
        _: &T,
        _: &mut [P],
    ) {
    }
}

/// Every batch of a trace that has rows, oldest first.
pub fn batches(trace: &TimelineTrace) -> Vec<Arc<TimelineBatch>> {
    let mut batches = Vec::new();
    trace.map_batches(|batch| {
        if !batch.is_empty() {
            batches.push(Arc::clone(&batch.0));
        }
    });
    batches
}

/// Whether a column of this type can be a measure of a timeline.
pub fn is_measure(data_type: &DataType) -> bool {
    match data_type {
        DataType::Boolean | DataType::Int32 | DataType::Int64 | DataType::Utf8 => true,
        DataType::Decimal128(digits, _) => *digits <= 18,
        other => *other == timestamp(),
    }
}

/// The values of a measured column as integers; texts are added to `texts`.
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

/// Converts one batch of projected rows; see [`timeline_rows`].
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

/// Converts the integers of a measure back to a column of its type; the inverse of
/// [`measure_values`] except for texts.
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use timely::dataflow::InputHandle;
    use timely::dataflow::operators::{Probe, probe};

    use super::*;
    use crate::core::testing::Chance;

    /// Key, event time, tick and value.
    type Row = (KeyHash, i64, Tick, Option<i64>);

    fn to_timeline(rows: &[Row]) -> TimelineRows {
        TimelineRows {
            keys: rows.iter().map(|r| r.0).collect(),
            identifiers: Vec::new(),
            times: rows.iter().map(|r| r.1).collect(),
            ticks: rows.iter().map(|r| r.2).collect(),
            values: vec![rows.iter().map(|r| r.3).collect()],
            texts: StringDictionary::default(),
        }
    }

    /// The rows of all batches; asserts that each batch is in order.
    fn stored(trace: &TimelineTrace) -> Vec<Row> {
        let mut stored = Vec::new();
        for batch in batches(trace) {
            assert!(batch.keys().is_sorted_by(|a, b| a < b), "keys ascend");
            for (index, key) in batch.keys().iter().enumerate() {
                let rows = batch.rows(index);
                assert!(!rows.is_empty(), "a key has rows");
                assert!(
                    rows.clone().is_sorted_by_key(|row| (batch.times()[row], batch.ticks()[row])),
                    "rows ascend"
                );
                stored.extend(
                    rows.map(|row| (*key, batch.times()[row], batch.ticks()[row], batch.value(0, row))),
                );
            }
            assert!(batch.ticks().iter().all(|tick| *tick <= batch.tick_last()));
        }
        stored
    }

    /// Feeds `fed` in small groups. After each group it advances compaction and calls `check` with
    /// the rows fed so far, the rows stored, and `since`.
    fn feed(
        seed: u64,
        fed: Vec<Row>,
        retention: Retention,
        mut check: impl FnMut(&[Row], &[Row], Tick) + Send + Sync + 'static,
    ) {
        let totals_at_end = Arc::<TimelineMetrics>::default();
        let metrics = Arc::clone(&totals_at_end);
        timely::execute_directly(move |worker| {
            let mut chance = Chance(seed);
            let probe = probe::Handle::new();
            let mut input = InputHandle::<Tick, NoopBuilder<TimelineRows>>::new_with_builder();
            let measures = vec![MeasureLayout { squares: true, nullable: true }];
            let layout = Arc::new(Layout { measures, retention, metrics: Arc::clone(&metrics) });
            let mut trace = worker.dataflow(|scope| {
                let timeline = arrange_timeline(input.to_stream(scope), &layout, None, "timeline");
                timeline.arranged.stream.probe_with(&probe);
                timeline.arranged.trace
            });
            let mut from = 0;
            while from < fed.len() {
                let to = fed.len().min(from + 1 + chance.below(12) as usize);
                input.send_batch(&mut to_timeline(&fed[from..to]));
                from = to;
                let upper = fed[to - 1].2.next();
                input.advance_to(upper);
                worker.step_while(|| probe.less_than(input.time()));
                // Look-ups may lag behind; merging preserves what they still read.
                let since = fed[to.saturating_sub(chance.below(9) as usize).max(1) - 1].2.next();
                let since = Antichain::from_elem(since);
                trace.set_logical_compaction(since.borrow());
                trace.set_physical_compaction(since.borrow());
                let since = trace.get_logical_compaction().first().copied().expect("not at the end");
                check(&fed[..to], &stored(&trace), since);
                // The spine drops the inputs of a finished merge only when it needs their slot.
                let (totals, batches) = (metrics.totals(), batches(&trace));
                let rows: usize = batches.iter().map(|batch| batch.times().len()).sum();
                assert!(totals.rows >= rows as u64, "seed {seed}: {totals:?}, but {rows} rows stored");
                assert!(
                    totals.bytes >= 32 * totals.rows,
                    "seed {seed}: a row has a time, a tick and two sums"
                );
            }
        });
        assert_eq!(totals_at_end.totals(), Totals::default(), "seed {seed}: all batches are dropped");
    }

    fn history(seed: u64, rows: usize) -> Vec<Row> {
        let mut chance = Chance(seed);
        let mut tick = Tick::ZERO;
        let mut now = 1_000_000;
        (0..rows)
            .map(|_| {
                now += chance.below(5) as i64;
                tick = Tick::following(tick, now, chance.below(3) as u16).expect("in range");
                let key = if chance.one_in(2) {
                    0
                } else {
                    KeyHash::from(chance.below(20)) << (chance.below(2) * 70)
                };
                let late = if chance.one_in(3) { chance.below(40) as i64 } else { 0 };
                (key, now - late, tick, chance.unless_one_in(5, 1_000_000))
            })
            .collect()
    }

    #[test]
    fn merging_preserves_every_row_within_retention_and_few_others() {
        for seed in 0..6 {
            let span = 40 + 100 * seed as i64;
            feed(seed, history(seed, 3_000), Retention::Span(span), move |fed, stored, since| {
                let distinct: BTreeSet<&Row> = stored.iter().collect();
                assert_eq!(distinct.len(), stored.len(), "seed {seed}: no row is stored twice");
                let mut expected = fed.iter().filter(|row| row.1 > since.micros() - span);
                assert!(
                    expected.all(|row| distinct.contains(row)),
                    "seed {seed}: a row is missing at {since}"
                );
                let fed_rows: BTreeSet<&Row> = fed[fed.len().saturating_sub(1_500)..].iter().collect();
                assert!(
                    stored.iter().all(|row| fed_rows.contains(row)),
                    "seed {seed}: a stored row is too old"
                );
                let within = fed.iter().filter(|row| row.1 > since.micros() - span).count();
                let count = stored.len();
                assert!(count < 3 * within + 60, "seed {seed}: {count} rows stored for {within}");
            });
        }
    }

    #[test]
    fn merging_preserves_the_current_rows_of_each_key_and_few_others() {
        for seed in 10..16 {
            feed(seed, history(seed, 2_000), Retention::Latest, move |fed, stored, since| {
                for tick in [since, fed[fed.len() - 1].2] {
                    // For each key the rows of its latest event time.
                    let current = |rows: &[Row]| -> BTreeSet<Row> {
                        let mut latest: BTreeMap<KeyHash, i64> = BTreeMap::new();
                        for row in rows.iter().filter(|row| row.2 <= tick) {
                            let time = latest.entry(row.0).or_insert(row.1);
                            *time = row.1.max(*time);
                        }
                        rows.iter().filter(|r| r.2 <= tick && latest[&r.0] == r.1).copied().collect()
                    };
                    assert_eq!(current(fed), current(stored), "seed {seed}");
                }
                let count = stored.len();
                assert!(count < 3 * 40 + 60, "seed {seed}: {count} rows stored for 40 keys");
            });
        }
    }

    #[test]
    fn a_row_waits_until_the_frontier_has_passed_its_tick() {
        let mut unsealed =
            to_timeline(&[(1, 10, Tick(5), None), (1, 11, Tick(9), Some(3)), (2, 12, Tick(6), None)]);
        let sealed = unsealed.split_before(Antichain::from_elem(Tick(9)).borrow());
        assert_eq!((sealed.ticks, unsealed.ticks), (vec![Tick(5), Tick(6)], vec![Tick(9)]));
        assert_eq!(unsealed.values, [[Some(3)]]);
    }
}
