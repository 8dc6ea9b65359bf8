//! Publishes the current batches of a timeline to reader threads, and scans them there.
//!
//! Batches are immutable, so a reader needs only references to them: it takes the newest
//! [`TimelineSnapshot`] and scans it on its own thread, for as long as it likes. The worker swaps a
//! pointer after each batch it seals, and never waits for readers.
//!
//! The rows that a scan returns are a function of the tick alone, however rows were batched and
//! merged. With [`Retention::Span`](super::layout::Retention::Span) they are the rows before the
//! tick with an event time after a bound that follows from the tick. With
//! [`Retention::Latest`](super::layout::Retention::Latest) they are, for each key, the rows of the
//! latest event time among those before the tick.
//!
//! Merging retains all rows that a scan as of the floor of [`PublishedTimeline`] can read. The
//! service raises the floor with commits, independently of reads, so a reader never delays merging.

use std::ops::Range;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, RwLock};

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, SchemaRef};
use differential_dataflow::trace::TraceReader;
use tidegate_facts::{KeyHash, Tick, columns};
use timely::progress::Antichain;
use timely::progress::frontier::AntichainRef;

use super::batch::{TimelineBatch, TimelineTrace, batches, first_not};
use super::rows::{StringDictionary, TimelineRows, measure_column};
use crate::core::keys::column_of_keys;

/// The slot in which one worker publishes the newest snapshot of its part of a timeline to reader
/// threads.
#[derive(Debug)]
pub struct PublishedTimeline {
    snapshot: Mutex<Arc<TimelineSnapshot>>,
    /// The tick as of which scans must stay possible.
    floor: Arc<AtomicI64>,
}

/// The batches of a worker's part of a timeline at one moment, which reader threads scan.
#[derive(Clone, Debug, Default)]
pub struct TimelineSnapshot {
    /// The batches that have rows, oldest first.
    pub batches: Vec<Arc<TimelineBatch>>,
    /// Every row before this tick is in one of the batches.
    pub upper: Tick,
    /// Merges may have dropped rows that look-ups at or after this tick do not read.
    pub since: Tick,
    texts: Arc<RwLock<StringDictionary>>,
}

impl PublishedTimeline {
    /// A slot with an empty snapshot. The timeline will begin with the rows that were retained at
    /// `restored`; merging retains the rows that look-ups as of `floor`, a tick, read.
    pub fn new(restored: Tick, floor: Arc<AtomicI64>) -> PublishedTimeline {
        PublishedTimeline {
            snapshot: Mutex::new(Arc::new(TimelineSnapshot {
                since: restored,
                ..TimelineSnapshot::default()
            })),
            floor,
        }
    }

    /// The newest snapshot.
    pub fn snapshot(&self) -> Arc<TimelineSnapshot> {
        Arc::clone(&self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Arc<TimelineSnapshot>> {
        self.snapshot.lock().expect("no panic")
    }
}

/// Publishes snapshots of a timeline; owned by the operator that arranges it.
pub(super) struct Publisher {
    published: Arc<PublishedTimeline>,
    trace: TimelineTrace,
    texts: Arc<RwLock<StringDictionary>>,
}

impl Publisher {
    pub(super) fn new(
        published: Arc<PublishedTimeline>,
        mut trace: TimelineTrace,
        texts: Arc<RwLock<StringDictionary>>,
    ) -> Publisher {
        // Batches are read whole, so they may be merged in any way.
        trace.set_physical_compaction(AntichainRef::new(&[]));
        Publisher { published, trace, texts }
    }

    /// Publishes the current batches; every row before `upper` is in one of them.
    pub(super) fn publish(&mut self, upper: &Antichain<Tick>) {
        // The frontier is empty only while the dataflow shuts down: then no tick is complete.
        let Some(upper) = upper.first().copied() else { return };
        let floor = Tick(self.published.floor.load(Ordering::Relaxed)).min(upper);
        self.trace.set_logical_compaction(AntichainRef::new(&[floor]));
        let batches = batches(&self.trace);
        let texts = Arc::clone(&self.texts);
        let mut current = self.published.lock();
        let since = current.since.max(floor);
        let snapshot = TimelineSnapshot { batches, upper, since, texts };
        let previous = std::mem::replace(&mut *current, Arc::new(snapshot));
        drop(current);
        drop(previous); // May free batches, so it is dropped after the lock.
    }
}

/// Which rows and measures of a timeline a reader's scan returns.
#[derive(Clone, Debug)]
pub struct ScanSpec {
    /// Rows of these keys; of all keys for `None`.
    pub keys: Option<Vec<KeyHash>>,
    /// Rows with a tick before this one.
    pub before: Tick,
    /// Rows with an event time after this one, in microseconds; for `None` the rows of the latest
    /// event time of each key.
    pub after: Option<i64>,
    /// The indexes of the measures that the scan returns.
    pub measures: Vec<usize>,
}

/// A column of the rows that a reader's scan of a timeline returns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScanColumn {
    /// The identifier that the key was made from, of this type.
    Key(DataType),
    /// The event time.
    Time,
    /// The tick.
    Tick,
    /// The measure with this index in [`ScanSpec::measures`], of this type.
    Measure(usize, DataType),
}

/// A reader's scan of a timeline snapshot: returns rows in the order of their keys, some keys at a
/// time.
#[derive(Clone, Debug)]
pub struct SnapshotScan {
    snapshot: Arc<TimelineSnapshot>,
    spec: ScanSpec,
    /// For each batch the index of the next key.
    positions: Vec<usize>,
    /// The index of the next key in the keys of `spec`.
    next_key: usize,
    rows_read: usize,
}

impl TimelineSnapshot {
    /// Begins a scan of the timeline snapshot.
    pub fn scan(self: &Arc<TimelineSnapshot>, mut spec: ScanSpec) -> SnapshotScan {
        let positions = vec![0; self.batches.len()];
        if let Some(keys) = &mut spec.keys {
            keys.sort_unstable();
            keys.dedup();
        }
        SnapshotScan { snapshot: Arc::clone(self), spec, positions, next_key: 0, rows_read: 0 }
    }
}

impl SnapshotScan {
    /// The count of rows that the scan has read so far; it may have returned fewer.
    pub fn rows_read(&self) -> usize {
        self.rows_read
    }

    /// Returns the rows of further keys, at least `rows_min` unless there are fewer; `None` at the
    /// end.
    pub fn next(&mut self, rows_min: usize) -> Option<TimelineRows> {
        let mut rows = TimelineRows::with_measures(self.spec.measures.len());
        while rows.len() < rows_min {
            let Some((key, parts)) = self.next_key() else { break };
            self.read_key(key, &parts, &mut rows);
        }
        (!rows.is_empty()).then_some(rows)
    }

    /// Returns the rows of further keys, as [`Self::next`] does, as a batch with `columns`, whose
    /// fields are those of `schema`.
    pub fn next_batch(
        &mut self,
        rows_min: usize,
        columns: &[ScanColumn],
        schema: &SchemaRef,
    ) -> Option<RecordBatch> {
        let rows = self.next(rows_min)?;
        let texts = self.snapshot.texts.read().expect("no panic");
        let columns: Vec<ArrayRef> = columns.iter().map(|column| column.values(&rows, &texts)).collect();
        drop(texts);
        // A query that only counts rows reads no column.
        let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
        let rows = RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options);
        Some(rows.expect("the columns match the schema"))
    }

    /// The next key of the scan, and its index in each batch that has it.
    fn next_key(&mut self) -> Option<(KeyHash, Vec<(usize, usize)>)> {
        let batches = &self.snapshot.batches;
        loop {
            let key = match &self.spec.keys {
                Some(keys) => {
                    self.next_key += 1;
                    *keys.get(self.next_key - 1)?
                }
                None => {
                    let heads = batches.iter().zip(&self.positions);
                    *heads.filter_map(|(batch, position)| batch.keys().get(*position)).min()?
                }
            };
            let mut parts = Vec::new();
            for (number, (batch, position)) in batches.iter().zip(&mut self.positions).enumerate() {
                let keys = batch.keys();
                *position = first_not(*position..keys.len(), |index| keys[index] < key);
                if keys.get(*position) == Some(&key) {
                    parts.push((number, *position));
                    *position += 1;
                }
            }
            if !parts.is_empty() {
                return Some((key, parts));
            }
        }
    }

    /// Appends the rows of one key to `into`; `parts` are batches and the key's index in each.
    fn read_key(&mut self, key: KeyHash, parts: &[(usize, usize)], into: &mut TimelineRows) {
        let before = self.spec.before;
        let is_before = |batch: &TimelineBatch, row: usize| batch.ticks()[row] < before;
        let parts = parts.iter().map(|(number, index)| (&self.snapshot.batches[*number], *index));
        let after = self.spec.after.or_else(|| {
            let latest = |(batch, index): (&Arc<TimelineBatch>, usize)| {
                let row = batch.rows(index).rev().find(|row| is_before(batch, *row))?;
                Some(batch.times()[row])
            };
            Some(parts.clone().filter_map(latest).max()?.saturating_sub(1))
        });
        let Some(after) = after else { return };
        for (batch, index) in parts {
            let rows: Range<usize> = batch.rows(index);
            let from = first_not(rows.clone(), |row| batch.times()[row] <= after);
            self.rows_read += rows.end - from;
            for row in (from..rows.end).filter(|row| is_before(batch, *row)) {
                into.keys.push(key);
                into.identifiers.extend(batch.identifier(index).cloned());
                into.times.push(batch.times()[row]);
                into.ticks.push(batch.ticks()[row]);
                for (values, measure) in into.values.iter_mut().zip(&self.spec.measures) {
                    values.push(batch.value(*measure, row));
                }
            }
        }
    }
}

impl ScanColumn {
    fn values(&self, rows: &TimelineRows, texts: &StringDictionary) -> ArrayRef {
        match self {
            ScanColumn::Key(data_type) => column_of_keys(data_type, &rows.keys, &rows.identifiers),
            ScanColumn::Time => {
                Arc::new(TimestampMicrosecondArray::from(rows.times.clone()).with_timezone("UTC"))
            }
            ScanColumn::Tick => Arc::new(columns::tick_array(rows.ticks.iter().copied())),
            ScanColumn::Measure(index, DataType::Utf8) => {
                let text = |number: i64| texts.text(number).expect("texts arrive with their rows").as_ref();
                let values = rows.values[*index].iter();
                Arc::new(values.map(|number| number.map(text)).collect::<StringArray>())
            }
            ScanColumn::Measure(index, data_type) => {
                measure_column(data_type, rows.values[*index].iter().copied())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use timely::container::NoopBuilder;
    use timely::dataflow::InputHandle;
    use timely::dataflow::operators::{Probe, probe};
    use timely::worker::Worker;

    use super::super::arrange_timeline;
    use super::super::layout::{Layout, MeasureLayout, Retention};
    use super::*;
    use crate::core::testing::Chance;

    /// Key, event time, tick and value.
    type Row = (KeyHash, i64, Tick, Option<i64>);

    fn to_timeline(rows: &[Row]) -> TimelineRows {
        TimelineRows {
            keys: rows.iter().map(|r| r.0).collect(),
            identifiers: rows.iter().map(|r| identifier(r.0)).collect(),
            times: rows.iter().map(|r| r.1).collect(),
            ticks: rows.iter().map(|r| r.2).collect(),
            values: vec![rows.iter().map(|r| r.3).collect()],
            ..TimelineRows::default()
        }
    }

    fn identifier(key: KeyHash) -> Arc<[u8]> {
        format!("card-{key}").into_bytes().into()
    }

    fn rows_of(scan: &mut SnapshotScan) -> Vec<Row> {
        let mut rows = Vec::new();
        while let Some(read) = scan.next(7) {
            let mut identified = read.identifiers.iter().zip(&read.keys);
            assert!(identified.all(|(stored, key)| *stored == identifier(*key)));
            assert_eq!(read.identifiers.len(), read.len(), "each row has its identifier");
            rows.extend(
                (0..read.len())
                    .map(|row| (read.keys[row], read.times[row], read.ticks[row], read.values[0][row])),
            );
        }
        rows
    }

    /// The oracle: checks every row that was ever fed.
    fn slow(fed: &[Row], spec: &ScanSpec) -> BTreeSet<Row> {
        let is_in_scope =
            |row: &&Row| row.2 < spec.before && spec.keys.as_ref().is_none_or(|keys| keys.contains(&row.0));
        let mut latest: BTreeMap<KeyHash, i64> = BTreeMap::new();
        for row in fed.iter().filter(is_in_scope) {
            let time = latest.entry(row.0).or_insert(row.1);
            *time = row.1.max(*time);
        }
        let after = |row: &Row| spec.after.unwrap_or_else(|| latest[&row.0] - 1);
        fed.iter().filter(is_in_scope).filter(|row| row.1 > after(row)).copied().collect()
    }

    fn history(chance: &mut Chance, rows: usize) -> Vec<Row> {
        let (mut tick, mut now) = (Tick::ZERO, 1_000_000);
        let row = |_| {
            now += chance.below(5) as i64;
            tick = Tick::following(tick, now, chance.below(3) as u16).expect("in range");
            let late = if chance.one_in(3) { chance.below(40) as i64 } else { 0 };
            (KeyHash::from(chance.below(20)), now - late, tick, chance.unless_one_in(5, 1000))
        };
        (0..rows).map(row).collect()
    }

    /// Feeds a history in small groups and merges as far as look-ups at the newest tick allow.
    /// After each group it scans as of ticks from the floor on, and compares with the oracle.
    fn check_scans(seed: u64, retention: Retention, reach: Option<i64>) {
        timely::execute_directly(move |worker| {
            let mut chance = Chance(seed);
            let fed = history(&mut chance, 1_500);
            let probe = probe::Handle::new();
            let mut input = InputHandle::<Tick, NoopBuilder<TimelineRows>>::new_with_builder();
            let layout = Arc::new(Layout {
                measures: vec![MeasureLayout { squares: false, nullable: true }],
                retention,
                metrics: Arc::default(),
            });
            let floor: Arc<AtomicI64> = Arc::default();
            let published = Arc::new(PublishedTimeline::new(Tick::ZERO, Arc::clone(&floor)));
            let slot = Some(Arc::clone(&published));
            let mut trace = worker.dataflow(|scope| {
                let timeline = arrange_timeline(input.to_stream(scope), &layout, slot, "timeline");
                timeline.arranged.stream.probe_with(&probe);
                timeline.arranged.trace
            });
            let mut from = 0;
            while from < fed.len() {
                let to = fed.len().min(from + 1 + chance.below(12) as usize);
                input.send_batch(&mut to_timeline(&fed[from..to]));
                let upper = fed[to - 1].2.next();
                input.advance_to(upper);
                worker.step_while(|| probe.less_than(input.time()));
                let snapshot = published.snapshot();
                assert_eq!(snapshot.upper, upper);
                for _ in 0..3 {
                    let row = to - 1 - (chance.below(30) as usize).min(to - 1);
                    let before = fed[row].2.next();
                    if before < snapshot.since {
                        continue;
                    }
                    let keys = chance.one_in(2).then(|| vec![KeyHash::from(chance.below(20)), 4]);
                    let after = reach.map(|reach| before.micros() - reach);
                    let spec = ScanSpec { keys, before, after, measures: vec![0] };
                    let read = rows_of(&mut snapshot.scan(spec.clone()));
                    assert!(read.is_sorted_by_key(|row| row.0), "seed {seed}");
                    let read_set: BTreeSet<Row> = read.iter().copied().collect();
                    assert_eq!(read_set.len(), read.len(), "seed {seed}: no row is returned twice");
                    assert_eq!(read_set, slow(&fed[..to], &spec), "seed {seed}: {spec:?}");
                }
                // The floor follows at some distance; look-ups read nothing older than the newest
                // tick.
                floor.store(fed[from.saturating_sub(20)].2.0, Ordering::Relaxed);
                let newest = Antichain::from_elem(upper);
                trace.set_logical_compaction(newest.borrow());
                trace.set_physical_compaction(newest.borrow());
                from = to;
            }
            let snapshot = published.snapshot();
            let stored = snapshot.batches.iter().map(|batch| batch.times().len()).sum::<usize>();
            assert!(stored < 700, "seed {seed}: {stored} rows are stored, so merging dropped none");
        });
    }

    #[test]
    fn a_scan_as_of_a_tick_returns_what_the_oracle_returns() {
        for seed in 0..6 {
            check_scans(seed, Retention::Span(60), Some(60));
            check_scans(seed, Retention::Span(90), Some(60));
            check_scans(seed, Retention::Latest, None);
        }
    }

    /// A timeline that retains every row: its input, its probe, and where it is published.
    fn retaining_all(
        worker: &mut Worker,
    ) -> (InputHandle<Tick, NoopBuilder<TimelineRows>>, probe::Handle<Tick>, Arc<PublishedTimeline>) {
        let mut input = InputHandle::<Tick, NoopBuilder<TimelineRows>>::new_with_builder();
        let layout = Arc::new(Layout {
            measures: vec![MeasureLayout::default()],
            retention: Retention::Span(i64::MAX),
            metrics: Arc::default(),
        });
        let published = Arc::new(PublishedTimeline::new(Tick::ZERO, Arc::default()));
        let slot = Some(Arc::clone(&published));
        let probe = worker.dataflow(|scope| {
            let timeline = arrange_timeline(input.to_stream(scope), &layout, slot, "timeline");
            timeline.arranged.stream.probe().0
        });
        (input, probe, published)
    }

    #[test]
    fn a_snapshot_does_not_change_while_the_timeline_grows() {
        timely::execute_directly(|worker| {
            let (mut input, probe, published) = retaining_all(worker);
            let mut early = None;
            for tick in 1..200 {
                input.send_batch(&mut to_timeline(&[((tick % 5) as KeyHash, 1, Tick(tick), Some(1))]));
                input.advance_to(Tick(tick).next());
                worker.step_while(|| probe.less_than(input.time()));
                if tick == 100 {
                    early = Some(published.snapshot());
                }
            }
            let all = ScanSpec { keys: None, before: Tick(200), after: Some(0), measures: vec![0] };
            assert_eq!(rows_of(&mut early.expect("it was taken").scan(all.clone())).len(), 100);
            assert_eq!(rows_of(&mut published.snapshot().scan(all)).len(), 199);
        });
    }

    #[test]
    fn only_the_rows_of_the_requested_key_are_read() {
        timely::execute_directly(|worker| {
            let (mut input, probe, published) = retaining_all(worker);
            for part in 0..10i64 {
                let row = |n: i64| ((n % 1000) as KeyHash, n, Tick(part * 3000 + n + 1), Some(1));
                input.send_batch(&mut to_timeline(&(0..3000).map(row).collect::<Vec<_>>()));
                input.advance_to(Tick(part * 3000 + 3001));
                worker.step_while(|| probe.less_than(input.time()));
            }
            let spec = |keys| ScanSpec { keys, before: Tick::MAX, after: Some(-1), measures: vec![0] };
            let snapshot = published.snapshot();
            let mut one = snapshot.scan(spec(Some(vec![7])));
            assert_eq!(rows_of(&mut one).len(), 30);
            assert_eq!(one.rows_read(), 30, "of 30,000 rows only those of the key");
            let mut none = snapshot.scan(spec(Some(vec![5000])));
            assert_eq!((rows_of(&mut none).len(), none.rows_read()), (0, 0));
            assert_eq!(rows_of(&mut snapshot.scan(spec(None))).len(), 30_000);
        });
    }
}
