//! The arrangement behind windows and as-of look-ups: for each key its rows by event time.
//!
//! It is a differential arrangement (a [`Spine`] of immutable batches, shared through a trace) with a
//! batch layout of its own. Facts are never retracted, so there is no difference column; instead each
//! measured column is kept as a running sum over the whole batch. The sum of any window is then the
//! difference of two places, however many rows lie between them, and a row costs 16 bytes of index
//! and 16 for each measure.
//!
//! * Order: by key, then event time, then tick.
//! * Merging keeps the order, and drops the rows that no look-up at or after `since` can reach.
//! * Ticks are kept as they were: a look-up at tick `t` counts the rows with a tick not above `t`.
//!
//! [`Spine`]: differential_dataflow::trace::implementations::spine_fueled::Spine

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, FixedSizeBinaryArray, Int64Array, RecordBatch, TimestampMicrosecondArray, UInt64Array,
};
use arrow::datatypes::{
    DataType, Decimal128Type, Field, Int32Type, Int64Type, Schema, TimestampMicrosecondType, UInt64Type,
};
use differential_dataflow::operators::arrange::{Arranged, TraceAgent};
use differential_dataflow::trace::implementations::spine_fueled::Spine;
use differential_dataflow::trace::{Batch, BatchReader, Description, Merger, Trace, TraceReader};
use tidegate_facts::digest::key_hash;
use tidegate_facts::{KeyHash, Tick};
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

use crate::keys::{NULL_KEY, keys_of, owner};
use crate::rows::{RowStream, from_ipc, ticks_of, to_ipc};

/// What the rows of one timeline hold, and how long they are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// For each measured column, what is kept of it.
    pub measures: Vec<Measure>,
    /// Which rows a merge may drop.
    pub keep: Keep,
}

/// What is kept of one measured column.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Measure {
    /// Running sums of squares too, for deviations.
    pub squares: bool,
    /// Whether some values may be null; then a running count of the others is kept.
    pub nullable: bool,
}

/// Which rows a merge may drop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Rows whose event time is within this many microseconds of `since`.
    Span(i64),
    /// Of the rows below `since`, those of the latest event time of their key.
    Latest,
}

/// Rows on their way into a timeline, in no order.
#[derive(Clone, Debug, Default)]
pub struct Entries {
    /// The key of each row.
    pub keys: Vec<KeyHash>,
    /// Its event time, in microseconds.
    pub times: Vec<i64>,
    /// Its tick.
    pub ticks: Vec<Tick>,
    /// For each measured column the value of each row, `None` for null.
    pub values: Vec<Vec<Option<i64>>>,
    /// The texts that some values stand for.
    pub texts: Texts,
}

/// Texts by the number that stands for them in a timeline; each is kept once.
#[derive(Clone, Debug, Default)]
pub struct Texts(BTreeMap<i64, Arc<str>>);

impl Texts {
    /// The number of `text`, the same on every worker.
    ///
    /// # Panics
    /// When two texts share a number (64 bits of BLAKE3): then no answer could be trusted.
    pub fn number(&mut self, text: &str) -> i64 {
        let number = key_hash("text value", text.as_bytes()) as i64;
        self.insert(number, text);
        number
    }

    fn insert(&mut self, number: i64, text: &str) {
        let kept = self.0.entry(number).or_insert_with(|| text.into());
        assert_eq!(kept.as_ref(), text, "two texts share a number");
    }

    /// The text of `number`, if a row of it was arranged here.
    pub fn text(&self, number: i64) -> Option<&Arc<str>> {
        self.0.get(&number)
    }

    fn absorb(&mut self, other: &Texts) {
        for (number, text) in &other.0 {
            self.insert(*number, text);
        }
    }
}

/// A timeline and the texts of its values, on one worker.
pub struct Timeline<'scope> {
    /// The arrangement.
    pub arranged: Arranged<'scope, TimelineTrace>,
    /// The texts that values of text columns stand for.
    pub texts: Rc<RefCell<Texts>>,
}

/// One immutable piece of a timeline.
#[derive(Debug)]
pub struct TimelineBatch {
    /// Absent only in a batch that never held a row.
    layout: Option<Arc<Layout>>,
    keys: Vec<KeyHash>,
    /// The rows of `keys[k]` are `starts[k]..starts[k + 1]`.
    starts: Vec<usize>,
    times: Vec<i64>,
    ticks: Vec<Tick>,
    /// Whether the ticks of `keys[k]` ascend with its event times.
    in_order: Vec<bool>,
    sums: Vec<Sums>,
    tick_last: Tick,
    description: Description<Tick>,
}

/// Running sums of one measured column: the sum of rows `a..b` is `[b] - [a]`.
#[derive(Clone, Debug, Default)]
struct Sums {
    sum: Vec<i128>,
    /// Empty unless asked for.
    squares: Vec<i128>,
    /// Count of values that are not null; empty when none can be.
    present: Vec<u32>,
}

/// The trace of a timeline.
pub type TimelineTrace = TraceAgent<Spine<Rc<TimelineBatch>>>;

/// Arranges entries by key, each key on the worker that owns it.
///
/// Each advance of the input's frontier seals one batch, whose lower and upper are the frontiers
/// before and after.
pub fn arrange_timeline<'scope>(
    entries: Stream<'scope, Tick, Entries>,
    layout: &Arc<Layout>,
    name: &str,
) -> Timeline<'scope> {
    let layout = Arc::clone(layout);
    let texts = Rc::new(RefCell::new(Texts::default()));
    let absorbed = Rc::clone(&texts);
    let scope = entries.scope();
    let mut reader = None;
    let reader_slot = &mut reader;
    let pact = DistributorPact(|workers| ByOwner { workers });
    let stream = entries.unary_frontier(pact, name, move |_, info| {
        let activator = scope.activator_for(Rc::clone(&info.address));
        let spine = Spine::new(info.clone(), None, Some(activator));
        let (agent, mut writer) = TraceAgent::new(spine, info, None);
        *reader_slot = Some(agent);
        let mut unsealed = Entries::default();
        let mut capability: Option<Capability<Tick>> = None;
        let mut lower = Antichain::from_elem(Tick::minimum());
        move |(input, frontier), output| {
            input.for_each(|time, entries| {
                let earlier = capability.as_ref().is_none_or(|held| time.time() < held.time());
                if earlier {
                    capability = Some(time.retain(0));
                }
                absorbed.borrow_mut().absorb(&entries.texts);
                unsealed.append(entries);
            });
            let upper = frontier.frontier().to_owned();
            if upper != lower {
                let mut sealed = unsealed.split_before(upper.borrow());
                let description = Description::new(lower.clone(), upper.clone(), Antichain::from_elem(Tick::minimum()));
                let batch = Rc::new(TimelineBatch::from_entries(&layout, &mut sealed, description));
                if let Some(held) = &capability
                    && !upper.less_equal(held.time())
                {
                    writer.insert(Rc::clone(&batch), Some(*held.time()));
                    output.session(held).give(batch);
                } else {
                    writer.seal(upper.clone());
                }
                capability = match unsealed.ticks.iter().min() {
                    Some(least) => capability.take().map(|held| held.delayed(least)),
                    None => None,
                };
                lower = upper;
            }
            writer.exert();
        }
    });
    Timeline { arranged: Arranged { stream, trace: reader.expect("the operator was built") }, texts }
}

impl Entries {
    fn with_measures(measures: usize) -> Entries {
        Entries { values: vec![Vec::new(); measures], ..Entries::default() }
    }

    /// The count of rows.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    fn push_row_of(&mut self, other: &Entries, row: usize) {
        self.keys.push(other.keys[row]);
        self.times.push(other.times[row]);
        self.ticks.push(other.ticks[row]);
        for (into, from) in self.values.iter_mut().zip(&other.values) {
            into.push(from[row]);
        }
    }

    /// Takes out the rows with a tick before `upper`.
    fn split_before(&mut self, upper: AntichainRef<'_, Tick>) -> Entries {
        let all = std::mem::take(self);
        if !all.ticks.iter().any(|t| upper.less_equal(t)) {
            return all;
        }
        let mut before = Entries::with_measures(all.values.len());
        *self = Entries::with_measures(all.values.len());
        for row in 0..all.len() {
            let into = if upper.less_equal(&all.ticks[row]) { &mut *self } else { &mut before };
            into.push_row_of(&all, row);
        }
        before
    }

    fn append(&mut self, other: &mut Entries) {
        if self.is_empty() {
            *self = std::mem::take(other);
            return;
        }
        self.keys.append(&mut other.keys);
        self.times.append(&mut other.times);
        self.ticks.append(&mut other.ticks);
        for (into, from) in self.values.iter_mut().zip(&mut other.values) {
            into.append(from);
        }
    }
}

impl Accountable for Entries {
    fn record_count(&self) -> i64 {
        self.keys.len() as i64
    }
}

impl ContainerBytes for Entries {
    fn from_bytes(bytes: timely::bytes::arc::Bytes) -> Self {
        let batch = from_ipc(&bytes);
        let keys = batch.column(0).as_fixed_size_binary();
        let ticks = batch.column(2).as_primitive::<UInt64Type>();
        Entries {
            keys: keys.iter().flatten().map(|k| KeyHash::from_le_bytes(k.try_into().expect("16 bytes"))).collect(),
            times: batch.column(1).as_primitive::<TimestampMicrosecondType>().values().to_vec(),
            ticks: ticks.values().iter().map(|t| Tick(*t)).collect(),
            values: batch.columns()[3..].iter().map(|c| c.as_primitive::<Int64Type>().iter().collect()).collect(),
            texts: Texts(
                batch.schema_ref().metadata().iter().map(|(n, t)| (n.parse().expect("a number"), t.as_str().into())).collect(),
            ),
        }
    }

    fn length_in_bytes(&self) -> usize {
        to_ipc(&self.to_batch()).len()
    }

    fn into_bytes<W: std::io::Write>(&self, writer: &mut W) {
        writer.write_all(&to_ipc(&self.to_batch())).expect("timely's buffers take what length_in_bytes promised");
    }
}

impl Entries {
    fn to_batch(&self) -> RecordBatch {
        let time = TimestampMicrosecondArray::from(self.times.clone());
        let mut fields = vec![
            Field::new("key", DataType::FixedSizeBinary(16), false),
            Field::new("time", time.data_type().clone(), false),
            Field::new("tick", DataType::UInt64, false),
        ];
        let keys = FixedSizeBinaryArray::try_from_iter(self.keys.iter().map(|k| k.to_le_bytes()));
        let mut columns: Vec<arrow::array::ArrayRef> = vec![
            match keys {
                Ok(keys) => Arc::new(keys),
                Err(_) => arrow::array::new_empty_array(&DataType::FixedSizeBinary(16)),
            },
            Arc::new(time),
            Arc::new(UInt64Array::from_iter_values(self.ticks.iter().map(|t| t.0))),
        ];
        for (place, values) in self.values.iter().enumerate() {
            fields.push(Field::new(format!("value_{place}"), DataType::Int64, true));
            columns.push(Arc::new(Int64Array::from(values.clone())));
        }
        let texts = self.texts.0.iter().map(|(number, text)| (number.to_string(), text.to_string())).collect();
        let schema = Arc::new(Schema::new_with_metadata(fields, texts));
        RecordBatch::try_new(schema, columns).expect("the columns were made for the schema")
    }
}

/// Sends each entry to the worker that owns its key.
struct ByOwner {
    workers: usize,
}

impl Distributor<Entries> for ByOwner {
    fn partition<T: Clone, P: timely::communication::Push<Message<T, Entries>>>(
        &mut self,
        container: &mut Entries,
        time: &T,
        pushers: &mut [P],
    ) {
        let empty = Entries { texts: container.texts.clone(), ..Entries::with_measures(container.values.len()) };
        let mut parts = vec![empty; self.workers];
        for row in 0..container.len() {
            parts[owner(container.keys[row], self.workers)].push_row_of(container, row);
        }
        for (mut part, pusher) in parts.into_iter().zip(pushers) {
            if !part.is_empty() {
                Message::push_at(&mut part, time.clone(), pusher);
            }
        }
        *container = Entries::default();
    }

    fn flush<T: Clone, P: timely::communication::Push<Message<T, Entries>>>(&mut self, _: &T, _: &mut [P]) {}
}

impl Sums {
    fn with_capacity(measure: Measure, rows: usize) -> Sums {
        let column = |wanted: bool| if wanted { Vec::with_capacity(rows + 1) } else { Vec::new() };
        let mut sums = Sums { sum: column(true), squares: column(measure.squares), present: Vec::new() };
        sums.sum.push(0);
        if measure.squares {
            sums.squares.push(0);
        }
        if measure.nullable {
            sums.present.reserve(rows + 1);
            sums.present.push(0);
        }
        sums
    }

    fn push(&mut self, value: Option<i64>) {
        let wide = i128::from(value.unwrap_or(0));
        // Wrapping, so that a difference of two places is exact even if the running sum ever wraps.
        self.sum.push(self.sum.last().expect("starts at 0").wrapping_add(wide));
        if let Some(last) = self.squares.last() {
            self.squares.push(last.wrapping_add(wide * wide));
        }
        if let Some(last) = self.present.last() {
            self.present.push(last + u32::from(value.is_some()));
        }
    }

    fn value(&self, row: usize) -> Option<i64> {
        if !self.present.is_empty() && self.present[row] == self.present[row + 1] {
            return None;
        }
        Some(self.sum[row + 1].wrapping_sub(self.sum[row]) as i64)
    }
}

impl TimelineBatch {
    fn from_entries(layout: &Arc<Layout>, entries: &mut Entries, description: Description<Tick>) -> TimelineBatch {
        let mut order: Vec<(KeyHash, i64, Tick, u32)> = (0..entries.len())
            .map(|row| (entries.keys[row], entries.times[row], entries.ticks[row], row as u32))
            .collect();
        order.sort_unstable();
        let mut batch = TimelineBatch::with_capacity(layout, order.len(), description);
        for (key, time, tick, row) in order {
            batch.push(key, time, tick, entries.values.iter().map(|v| v[row as usize]));
        }
        batch
    }

    fn with_capacity(layout: &Arc<Layout>, rows: usize, description: Description<Tick>) -> TimelineBatch {
        TimelineBatch {
            layout: Some(Arc::clone(layout)),
            keys: Vec::new(),
            starts: vec![0],
            times: Vec::with_capacity(rows),
            ticks: Vec::with_capacity(rows),
            in_order: Vec::new(),
            sums: layout.measures.iter().map(|m| Sums::with_capacity(*m, rows)).collect(),
            tick_last: Tick::ZERO,
            description,
        }
    }

    /// Appends a row; rows come in the batch's order.
    fn push(&mut self, key: KeyHash, time: i64, tick: Tick, values: impl Iterator<Item = Option<i64>>) {
        if self.keys.last() == Some(&key) {
            let last = self.ticks.len() - 1;
            debug_assert!((self.times[last], self.ticks[last]) < (time, tick), "rows come in order, each tick once");
            if self.ticks[last] > tick {
                *self.in_order.last_mut().expect("one for each key") = false;
            }
            *self.starts.last_mut().expect("starts at 0") += 1;
        } else {
            debug_assert!(self.keys.last().is_none_or(|last| *last < key), "keys come in order");
            self.keys.push(key);
            self.in_order.push(true);
            self.starts.push(self.times.len() + 1);
        }
        self.times.push(time);
        self.ticks.push(tick);
        self.tick_last = self.tick_last.max(tick);
        for (sums, value) in self.sums.iter_mut().zip(values) {
            sums.push(value);
        }
    }

    fn push_row_of(&mut self, other: &TimelineBatch, key: KeyHash, row: usize) {
        self.push(key, other.times[row], other.ticks[row], other.sums.iter().map(|s| s.value(row)));
    }

    /// The keys, ascending.
    pub fn keys(&self) -> &[KeyHash] {
        &self.keys
    }

    /// The rows of the key at `place` in [`Self::keys`].
    pub fn rows(&self, place: usize) -> std::ops::Range<usize> {
        self.starts[place]..self.starts[place + 1]
    }

    /// Whether the ticks of the key at `place` ascend with its event times.
    pub fn in_order(&self, place: usize) -> bool {
        self.in_order[place]
    }

    /// The event time of each row.
    pub fn times(&self) -> &[i64] {
        &self.times
    }

    /// The tick of each row.
    pub fn ticks(&self) -> &[Tick] {
        &self.ticks
    }

    /// The greatest tick of any row.
    pub fn tick_last(&self) -> Tick {
        self.tick_last
    }

    /// The sum of a measure over `rows`; nulls count as nothing.
    pub fn sum(&self, measure: usize, rows: std::ops::Range<usize>) -> i128 {
        let sums = &self.sums[measure].sum;
        sums[rows.end].wrapping_sub(sums[rows.start])
    }

    /// The sum of a measure's squares over `rows`; only where the layout asks for squares.
    pub fn sum_of_squares(&self, measure: usize, rows: std::ops::Range<usize>) -> i128 {
        let squares = &self.sums[measure].squares;
        squares[rows.end].wrapping_sub(squares[rows.start])
    }

    /// How many values of a measure in `rows` are not null.
    pub fn present(&self, measure: usize, rows: std::ops::Range<usize>) -> u64 {
        let present = &self.sums[measure].present;
        if present.is_empty() { rows.len() as u64 } else { u64::from(present[rows.end] - present[rows.start]) }
    }

    /// The value of a measure at `row`.
    pub fn value(&self, measure: usize, row: usize) -> Option<i64> {
        self.sums[measure].value(row)
    }
}

impl BatchReader for TimelineBatch {
    type Time = Tick;
    fn len(&self) -> usize {
        self.times.len()
    }
    fn description(&self) -> &Description<Tick> {
        &self.description
    }
}

impl Batch for TimelineBatch {
    type Merger = TimelineMerger;
    fn empty(lower: Antichain<Tick>, upper: Antichain<Tick>) -> Self {
        TimelineBatch {
            layout: None,
            keys: Vec::new(),
            starts: vec![0],
            times: Vec::new(),
            ticks: Vec::new(),
            in_order: Vec::new(),
            sums: Vec::new(),
            tick_last: Tick::ZERO,
            description: Description::new(lower, upper, Antichain::from_elem(Tick::minimum())),
        }
    }
}

/// Merges two batches key by key, in as many steps as its fuel takes.
pub struct TimelineMerger {
    result: TimelineBatch,
    since: Antichain<Tick>,
    keys_done: (usize, usize),
}

impl Merger<TimelineBatch> for TimelineMerger {
    fn new(earlier: &TimelineBatch, later: &TimelineBatch, since: AntichainRef<'_, Tick>) -> Self {
        assert_eq!(earlier.upper(), later.lower(), "batches leave a gap or overlap");
        let since = since.to_owned();
        let description = Description::new(earlier.lower().clone(), later.upper().clone(), since.clone());
        let result = match earlier.layout.as_ref().or(later.layout.as_ref()) {
            Some(layout) => TimelineBatch::with_capacity(layout, earlier.len() + later.len(), description),
            None => TimelineBatch { description, ..TimelineBatch::empty(since.clone(), since.clone()) },
        };
        TimelineMerger { result, since, keys_done: (0, 0) }
    }

    fn work(&mut self, earlier: &TimelineBatch, later: &TimelineBatch, fuel: &mut isize) {
        let (mut a, mut b) = self.keys_done;
        while *fuel > 0 && (a < earlier.keys.len() || b < later.keys.len()) {
            let key = match (earlier.keys.get(a), later.keys.get(b)) {
                (Some(left), Some(right)) => *left.min(right),
                (Some(key), None) | (None, Some(key)) => *key,
                (None, None) => unreachable!("one side has keys left"),
            };
            let rows_of = |batch: &TimelineBatch, place: &mut usize| {
                if batch.keys.get(*place) == Some(&key) {
                    *place += 1;
                    batch.rows(*place - 1)
                } else {
                    0..0
                }
            };
            let (left, right) = (rows_of(earlier, &mut a), rows_of(later, &mut b));
            *fuel -= (left.len() + right.len()) as isize;
            self.merge_key(key, (earlier, left), (later, right));
        }
        self.keys_done = (a, b);
    }

    fn done(self) -> TimelineBatch {
        self.result
    }
}

impl TimelineMerger {
    fn merge_key(
        &mut self,
        key: KeyHash,
        (earlier, left): (&TimelineBatch, std::ops::Range<usize>),
        (later, right): (&TimelineBatch, std::ops::Range<usize>),
    ) {
        let Some(layout) = self.result.layout.clone() else { return };
        let since = self.since.elements().first().copied();
        // The latest event time among the rows that every look-up from now on sees.
        let settled = |batch: &TimelineBatch, rows: &std::ops::Range<usize>| {
            rows.clone().rev().find(|r| since.is_none_or(|s| batch.ticks[*r] < s)).map(|r| batch.times[r])
        };
        let oldest_kept = match (layout.keep, since) {
            (Keep::Span(_), None) => i64::MAX,
            (Keep::Span(span), Some(since)) => since.micros().saturating_sub(span),
            (Keep::Latest, _) => settled(earlier, &left).max(settled(later, &right)).unwrap_or(i64::MIN),
        };
        let is_kept = |batch: &TimelineBatch, row: usize| match layout.keep {
            Keep::Span(_) => batch.times[row] > oldest_kept,
            Keep::Latest => batch.times[row] >= oldest_kept || since.is_some_and(|s| batch.ticks[row] >= s),
        };
        let (mut a, mut b) = (left.start, right.start);
        while a < left.end || b < right.end {
            let take_left = b == right.end
                || a < left.end && (earlier.times[a], earlier.ticks[a]) < (later.times[b], later.ticks[b]);
            let (batch, row) = if take_left { (earlier, &mut a) } else { (later, &mut b) };
            if is_kept(batch, *row) {
                self.result.push_row_of(batch, key, *row);
            }
            *row += 1;
        }
    }
}

/// Every batch of a trace that holds rows, oldest first.
pub fn batches(trace: &TimelineTrace) -> Vec<Rc<TimelineBatch>> {
    let mut batches = Vec::new();
    trace.map_batches(|batch| {
        if !batch.is_empty() {
            batches.push(Rc::clone(batch));
        }
    });
    batches
}

/// Whether a column of this type can be measured.
pub fn is_measure(data_type: &DataType) -> bool {
    match data_type {
        DataType::Boolean | DataType::Int32 | DataType::Int64 | DataType::Utf8 => true,
        DataType::Decimal128(digits, _) => *digits <= 18,
        other => *other == tidegate_facts::schema::timestamp(),
    }
}

/// The values of a measured column as numbers; texts are put into `texts`.
///
/// # Panics
/// For a column that [`is_measure`] refuses, or a decimal beyond 18 digits.
pub fn measured(column: &ArrayRef, texts: &mut Texts) -> Vec<Option<i64>> {
    match column.data_type() {
        DataType::Boolean => column.as_boolean().iter().map(|v| v.map(i64::from)).collect(),
        DataType::Int32 => column.as_primitive::<Int32Type>().iter().map(|v| v.map(i64::from)).collect(),
        DataType::Int64 => column.as_primitive::<Int64Type>().iter().collect(),
        DataType::Utf8 => column.as_string::<i32>().iter().map(|v| v.map(|text| texts.number(text))).collect(),
        DataType::Decimal128(_, _) => {
            let narrow = |v: i128| i64::try_from(v).expect("18 digits fit 64 bits");
            column.as_primitive::<Decimal128Type>().iter().map(|v| v.map(narrow)).collect()
        }
        _ => column.as_primitive::<TimestampMicrosecondType>().iter().collect(),
    }
}

/// Turns narrow rows (tick, key, event time, then the measured columns) into entries.
///
/// Rows without a key or a time belong to no timeline and are left out.
pub fn entries_of<'scope>(rows: RowStream<'scope>, name: &str) -> Stream<'scope, Tick, Entries> {
    rows.unary::<NoopBuilder<Entries>, _, _, _>(Pipeline, &format!("{name}: entries"), |_, _| {
        move |input, output| {
            input.for_each(|time, rows| {
                let batch = std::mem::take(rows).0;
                let mut entries = to_entries(&batch);
                if !entries.is_empty() {
                    output.session_with_builder(&time).give_container(&mut entries);
                }
            });
        }
    })
}

/// The entries of narrow rows; see [`entries_of`].
pub fn to_entries(batch: &RecordBatch) -> Entries {
    let mut texts = Texts::default();
    let keys = keys_of(batch.column(1));
    let times = batch.column(2);
    let ticks = ticks_of(batch).values();
    let values: Vec<_> = batch.columns()[3..].iter().map(|column| measured(column, &mut texts)).collect();
    let entries = Entries {
        keys,
        times: times.as_primitive::<TimestampMicrosecondType>().values().to_vec(),
        ticks: ticks.iter().map(|t| Tick(*t)).collect(),
        values,
        texts,
    };
    if times.null_count() == 0 && !entries.keys.contains(&NULL_KEY) {
        return entries;
    }
    let mut kept = Entries { texts: entries.texts.clone(), ..Entries::with_measures(entries.values.len()) };
    for row in 0..entries.len() {
        if entries.keys[row] != NULL_KEY && times.is_valid(row) {
            kept.push_row_of(&entries, row);
        }
    }
    kept
}
