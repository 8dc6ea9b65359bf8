//! The arrangement behind windows and as-of look-ups: for each key its rows by event time.
//!
//! It is a differential arrangement (a [`Spine`] of immutable batches, shared through a trace) with a
//! batch layout of its own. Facts are never retracted, so there is no difference column; instead each
//! measured column is kept as a running sum over the whole batch. The sum of any window is then the
//! difference of two places, however many rows lie between them, and a row costs 16 bytes of index
//! and 8 for each measure.
//!
//! * Order: by key, then event time, then tick.
//! * Merging keeps the order, and drops the rows that no look-up at or after `since` can reach.
//! * Ticks are kept as they were: a look-up at tick `t` counts the rows with a tick not above `t`.
//!
//! [`Spine`]: differential_dataflow::trace::implementations::spine_fueled::Spine

mod batch;
mod held;
mod shown;
mod sums;

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Arc, RwLock};

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, FixedSizeBinaryArray, Int64Array, RecordBatch,
    TimestampMicrosecondArray, UInt64Array,
};
use arrow::datatypes::{
    DataType, Decimal128Type, Field, Int32Type, Int64Type, Schema, TimestampMicrosecondType, UInt64Type,
};
use differential_dataflow::operators::arrange::{Arranged, TraceAgent};
use differential_dataflow::trace::implementations::spine_fueled::Spine;
use differential_dataflow::trace::{BatchReader, Description, TraceReader};
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

pub(crate) use self::batch::first_not;
pub use self::batch::{SharedBatch, TimelineBatch, TimelineMerger, timeline_order};
pub use self::held::{Amounts, Held};
use self::shown::Showing;
pub use self::shown::{Column, Reading, Shown, View, Wanted};
use crate::keys::{NULL_KEY, identifiers_of, keys_of, owner};
use crate::rows::{RowStream, from_ipc, ticks_of, to_ipc};

/// What the rows of one timeline hold, and how long they are kept.
#[derive(Clone, Debug)]
pub struct Layout {
    /// For each measured column, what is kept of it.
    pub measures: Vec<Measure>,
    /// Which rows a merge may drop.
    pub keep: Keep,
    /// Where its batches are counted.
    pub held: Arc<Held>,
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
    /// What was hashed into the key of each row, where that is kept; else empty.
    pub identifiers: Vec<Arc<[u8]>>,
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
    pub texts: Arc<RwLock<Texts>>,
}

/// The trace of a timeline.
pub type TimelineTrace = TraceAgent<Spine<SharedBatch>>;

/// How many times more than it must a timeline merges with each batch. A merged row costs little, and each
/// batch that is left costs every look-up.
const MERGE_EFFORT: usize = 8;

/// Arranges entries by key, each key on the worker that owns it.
///
/// Each advance of the input's frontier seals one batch, whose lower and upper are the frontiers
/// before and after. The batches are then shown to those who read beside the graph, if there is a place for it.
pub fn arrange_timeline<'scope>(
    entries: Stream<'scope, Tick, Entries>,
    layout: &Arc<Layout>,
    shown: Option<Arc<Shown>>,
    name: &str,
) -> Timeline<'scope> {
    let layout = Arc::clone(layout);
    let texts: Arc<RwLock<Texts>> = Arc::default();
    let absorbed = Arc::clone(&texts);
    let scope = entries.scope();
    let mut reader = None;
    let reader_slot = &mut reader;
    let pact = DistributorPact(|workers| ByOwner { workers });
    let stream = entries.unary_frontier(pact, name, move |_, info| {
        let activator = scope.activator_for(Rc::clone(&info.address));
        let spine = Spine::with_effort(MERGE_EFFORT, info.clone(), None, Some(activator));
        let (agent, mut writer) = TraceAgent::new(spine, info, None);
        let mut showing = shown.map(|shown| Showing::new(shown, agent.clone(), Arc::clone(&absorbed)));
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
                if !entries.texts.0.is_empty() {
                    absorbed.write().expect("no panic").absorb(&entries.texts);
                }
                unsealed.append(entries);
            });
            let upper = frontier.frontier().to_owned();
            if upper != lower {
                let sealed = unsealed.split_before(upper.borrow());
                let description =
                    Description::new(lower.clone(), upper.clone(), Antichain::from_elem(Tick::minimum()));
                let batch = TimelineBatch::from_entries(&layout, &sealed, description);
                let batch = SharedBatch(Arc::new(batch));
                if let Some(held) = &capability
                    && !upper.less_equal(held.time())
                {
                    writer.insert(batch.clone(), Some(*held.time()));
                    output.session(held).give(batch);
                } else {
                    writer.seal(upper.clone());
                }
                capability = match unsealed.ticks.iter().min() {
                    Some(least) => capability.take().map(|held| held.delayed(least)),
                    None => None,
                };
                lower = upper;
                if let Some(showing) = &mut showing {
                    showing.show(&lower);
                }
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
        self.identifiers.extend(other.identifiers.get(row).cloned());
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
        self.identifiers.append(&mut other.identifiers);
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

/// The column of identifiers on the way between processes.
const IDENTIFIER: &str = "identifier";

impl ContainerBytes for Entries {
    fn from_bytes(bytes: timely::bytes::arc::Bytes) -> Self {
        let batch = from_ipc(&bytes);
        let keys = batch.column(0).as_fixed_size_binary();
        let ticks = batch.column(2).as_primitive::<UInt64Type>();
        let named = |name: &str| batch.column_by_name(name);
        let identifiers = named(IDENTIFIER).map(|column| column.as_binary::<i32>());
        let values = (0..).map_while(|place| named(&format!("value_{place}")));
        Entries {
            keys: keys
                .iter()
                .flatten()
                .map(|k| KeyHash::from_le_bytes(k.try_into().expect("16 bytes")))
                .collect(),
            times: batch.column(1).as_primitive::<TimestampMicrosecondType>().values().to_vec(),
            identifiers: identifiers.into_iter().flatten().flatten().map(Arc::from).collect(),
            ticks: ticks.values().iter().map(|t| Tick(*t)).collect(),
            values: values.map(|c| c.as_primitive::<Int64Type>().iter().collect()).collect(),
            texts: Texts(
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
            .expect("timely's buffers take what length_in_bytes promised");
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
        if !self.identifiers.is_empty() {
            fields.push(Field::new(IDENTIFIER, DataType::Binary, false));
            columns.push(Arc::new(BinaryArray::from_iter_values(&self.identifiers)));
        }
        let texts =
            self.texts.0.iter().map(|(number, text)| (number.to_string(), text.to_string())).collect();
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
        if self.workers == 1 {
            let mut all = std::mem::take(container);
            if !all.is_empty() {
                Message::push_at(&mut all, time.clone(), &mut pushers[0]);
            }
            return;
        }
        let empty =
            Entries { texts: container.texts.clone(), ..Entries::with_measures(container.values.len()) };
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

/// Every batch of a trace that holds rows, oldest first.
pub fn batches(trace: &TimelineTrace) -> Vec<Arc<TimelineBatch>> {
    let mut batches = Vec::new();
    trace.map_batches(|batch| {
        if !batch.is_empty() {
            batches.push(Arc::clone(&batch.0));
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
        DataType::Utf8 => {
            column.as_string::<i32>().iter().map(|v| v.map(|text| texts.number(text))).collect()
        }
        DataType::Decimal128(_, _) => {
            let narrow = |v: i128| i64::try_from(v).expect("18 digits fit 64 bits");
            column.as_primitive::<Decimal128Type>().iter().map(|v| v.map(narrow)).collect()
        }
        _ => column.as_primitive::<TimestampMicrosecondType>().iter().collect(),
    }
}

/// Turns narrow rows (tick, key, event time, then the measured columns) into entries.
///
/// Rows without a key or a time belong to no timeline and are left out. `identified` entries hold what was hashed
/// into their keys.
pub fn entries_of<'scope>(
    rows: RowStream<'scope>,
    identified: bool,
    name: &str,
) -> Stream<'scope, Tick, Entries> {
    rows.unary::<NoopBuilder<Entries>, _, _, _>(Pipeline, &format!("{name}: entries"), move |_, _| {
        move |input, output| {
            input.for_each(|time, rows| {
                let batch = std::mem::take(rows).0;
                let mut entries = to_entries(&batch, identified);
                if !entries.is_empty() {
                    output.session_with_builder(&time).give_container(&mut entries);
                }
            });
        }
    })
}

/// The entries of narrow rows; see [`entries_of`].
pub fn to_entries(batch: &RecordBatch, identified: bool) -> Entries {
    let mut texts = Texts::default();
    let keys = keys_of(batch.column(1));
    let times = batch.column(2);
    let ticks = ticks_of(batch).values();
    let values: Vec<_> = batch.columns()[3..].iter().map(|column| measured(column, &mut texts)).collect();
    let identifiers = if identified { identifiers_of(batch.column(1)) } else { Vec::new() };
    let entries = Entries {
        keys,
        identifiers,
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use timely::dataflow::InputHandle;
    use timely::dataflow::operators::{Probe, probe};

    use super::*;
    use crate::lookup::tests::Chance;

    /// Key, event time, tick and value.
    type Row = (KeyHash, i64, Tick, Option<i64>);

    fn entries(rows: &[Row]) -> Entries {
        Entries {
            keys: rows.iter().map(|r| r.0).collect(),
            identifiers: Vec::new(),
            times: rows.iter().map(|r| r.1).collect(),
            ticks: rows.iter().map(|r| r.2).collect(),
            values: vec![rows.iter().map(|r| r.3).collect()],
            texts: Texts::default(),
        }
    }

    /// The rows of all batches; each batch is checked to be in order.
    fn held(trace: &TimelineTrace) -> Vec<Row> {
        let mut held = Vec::new();
        for batch in batches(trace) {
            assert!(batch.keys().is_sorted_by(|a, b| a < b), "keys ascend");
            for (place, key) in batch.keys().iter().enumerate() {
                let rows = batch.rows(place);
                assert!(!rows.is_empty(), "a key has rows");
                assert!(
                    rows.clone().is_sorted_by_key(|row| (batch.times()[row], batch.ticks()[row])),
                    "rows ascend"
                );
                held.extend(
                    rows.map(|row| (*key, batch.times()[row], batch.ticks()[row], batch.value(0, row))),
                );
            }
            assert!(batch.ticks().iter().all(|tick| *tick <= batch.tick_last()));
        }
        held
    }

    /// Feeds `fed` in small groups; after each, compaction follows and `check` sees the rows so far, those held
    /// and `since`.
    fn feed(
        seed: u64,
        fed: Vec<Row>,
        keep: Keep,
        mut check: impl FnMut(&[Row], &[Row], Tick) + Send + Sync + 'static,
    ) {
        let held_in_all = Arc::<Held>::default();
        let counted = Arc::clone(&held_in_all);
        timely::execute_directly(move |worker| {
            let mut chance = Chance(seed);
            let probe = probe::Handle::new();
            let mut input = InputHandle::<Tick, NoopBuilder<Entries>>::new_with_builder();
            let measures = vec![Measure { squares: true, nullable: true }];
            let layout = Arc::new(Layout { measures, keep, held: Arc::clone(&counted) });
            let mut trace = worker.dataflow(|scope| {
                let timeline = arrange_timeline(input.to_stream(scope), &layout, None, "timeline");
                timeline.arranged.stream.probe_with(&probe);
                timeline.arranged.trace
            });
            let mut from = 0;
            while from < fed.len() {
                let to = fed.len().min(from + 1 + chance.below(12) as usize);
                input.send_batch(&mut entries(&fed[from..to]));
                from = to;
                let upper = fed[to - 1].2.next();
                input.advance_to(upper);
                worker.step_while(|| probe.less_than(input.time()));
                // Look-ups may lag behind; what they still need is not merged away.
                let since = fed[to.saturating_sub(chance.below(9) as usize).max(1) - 1].2.next();
                let since = Antichain::from_elem(since);
                trace.set_logical_compaction(since.borrow());
                trace.set_physical_compaction(since.borrow());
                let since = trace.get_logical_compaction().first().copied().expect("not at the end");
                check(&fed[..to], &held(&trace), since);
                // The spine keeps what a finished merge came from until it needs the place.
                let (amounts, batches) = (counted.amounts(), batches(&trace));
                let rows: usize = batches.iter().map(|batch| batch.times().len()).sum();
                assert!(amounts.rows >= rows as u64, "seed {seed}: {amounts:?} counted, {rows} rows held");
                assert!(
                    amounts.bytes >= 32 * amounts.rows,
                    "seed {seed}: a row has a time, a tick and two sums"
                );
            }
        });
        assert_eq!(held_in_all.amounts(), Amounts::default(), "seed {seed}: what is dropped is counted out");
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
    fn merging_keeps_every_row_within_retention_and_not_many_others() {
        for seed in 0..6 {
            let span = 40 + 100 * seed as i64;
            feed(seed, history(seed, 3_000), Keep::Span(span), move |fed, held, since| {
                let kept: BTreeSet<&Row> = held.iter().collect();
                assert_eq!(kept.len(), held.len(), "seed {seed}: no row is held twice");
                let mut wanted = fed.iter().filter(|row| row.1 > since.micros() - span);
                assert!(wanted.all(|row| kept.contains(row)), "seed {seed}: a row is missing at {since}");
                let fed_rows: BTreeSet<&Row> = fed[fed.len().saturating_sub(1_500)..].iter().collect();
                assert!(
                    held.iter().all(|row| fed_rows.contains(row)),
                    "seed {seed}: a row is held that was not fed lately"
                );
                let within = fed.iter().filter(|row| row.1 > since.micros() - span).count();
                assert!(held.len() < 3 * within + 60, "seed {seed}: {} rows held for {within}", held.len());
            });
        }
    }

    #[test]
    fn merging_keeps_what_stands_of_each_key_and_not_many_others() {
        for seed in 10..16 {
            feed(seed, history(seed, 2_000), Keep::Latest, move |fed, held, since| {
                for tick in [since, fed[fed.len() - 1].2] {
                    // Of each key the rows of its latest event time.
                    let standing = |rows: &[Row]| -> BTreeSet<Row> {
                        let mut latest: BTreeMap<KeyHash, i64> = BTreeMap::new();
                        for row in rows.iter().filter(|row| row.2 <= tick) {
                            let time = latest.entry(row.0).or_insert(row.1);
                            *time = row.1.max(*time);
                        }
                        rows.iter().filter(|r| r.2 <= tick && latest[&r.0] == r.1).copied().collect()
                    };
                    assert_eq!(standing(fed), standing(held), "seed {seed}");
                }
                assert!(held.len() < 3 * 40 + 60, "seed {seed}: {} rows held for 40 keys", held.len());
            });
        }
    }

    #[test]
    fn a_row_waits_until_the_frontier_has_passed_its_tick() {
        let mut unsealed =
            entries(&[(1, 10, Tick(5), None), (1, 11, Tick(9), Some(3)), (2, 12, Tick(6), None)]);
        let sealed = unsealed.split_before(Antichain::from_elem(Tick(9)).borrow());
        assert_eq!((sealed.ticks, unsealed.ticks), (vec![Tick(5), Tick(6)], vec![Tick(9)]));
        assert_eq!(unsealed.values, [[Some(3)]]);
    }
}
