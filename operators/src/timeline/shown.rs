//! A timeline as those see it who read beside the graph: its current batches, put where other threads find them.
//!
//! Batches never change, so a reader needs no more than references to them: it takes the newest [`View`] and reads on
//! its own thread, for as long as it likes. The worker swaps a pointer after each batch it seals, and is never asked.
//!
//! What is read of a view is a function of the tick alone, however rows were batched and merged: of a timeline that is kept for
//! a span, the rows before the tick with an event time after a bound that follows from the tick; of one that keeps what is
//! latest, for each key the rows of the latest event time among those before the tick.
//!
//! Merges drop rows as look-ups let them, but not those that can be read as of [`Shown`]'s floor: it is moved by whoever
//! serves, with commits and not with reads, so a reader holds nothing back.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, RwLock};

use arrow::array::{
    ArrayRef, RecordBatch, RecordBatchOptions, StringArray, TimestampMicrosecondArray, UInt64Array,
};
use arrow::datatypes::{DataType, SchemaRef};
use differential_dataflow::trace::TraceReader;
use tidegate_facts::{KeyHash, Tick};
use timely::progress::Antichain;
use timely::progress::frontier::AntichainRef;

use super::{Entries, Texts, TimelineBatch, TimelineTrace, batches, first_not};
use crate::keys::column_of;
use crate::windows::values_of;

/// The place where one worker shows its part of a timeline.
#[derive(Debug)]
pub struct Shown {
    view: Mutex<Arc<View>>,
    floor: Arc<AtomicU64>,
}

/// A worker's part of a timeline, as it stood after some batch.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Those that hold rows, oldest first.
    pub batches: Vec<Arc<TimelineBatch>>,
    /// Every row before this tick is there.
    pub upper: Tick,
    /// Merges have dropped rows that look-ups at this tick, or later ones, do not reach.
    pub since: Tick,
    texts: Arc<RwLock<Texts>>,
}

impl Shown {
    /// Nothing is shown yet. The timeline begins with what was kept of it at `restored`; rows are not dropped as long as
    /// look-ups at `floor` reach them.
    pub fn new(restored: Tick, floor: Arc<AtomicU64>) -> Shown {
        Shown { view: Mutex::new(Arc::new(View { since: restored, ..View::default() })), floor }
    }

    /// What is shown now.
    pub fn view(&self) -> Arc<View> {
        Arc::clone(&self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Arc<View>> {
        self.view.lock().expect("no panic")
    }
}

/// What the arranging operator holds to show its batches.
pub(super) struct Showing {
    shown: Arc<Shown>,
    trace: TimelineTrace,
    texts: Arc<RwLock<Texts>>,
}

impl Showing {
    pub(super) fn new(shown: Arc<Shown>, mut trace: TimelineTrace, texts: Arc<RwLock<Texts>>) -> Showing {
        trace.set_physical_compaction(AntichainRef::new(&[])); // Merging is not our matter.
        Showing { shown, trace, texts }
    }

    /// Shows the batches there are; the timeline is complete up to `upper`.
    pub(super) fn show(&mut self, upper: &Antichain<Tick>) {
        // Without a frontier the graph is being taken down: nothing more is known then.
        let Some(upper) = upper.first().copied() else { return };
        let floor = Tick(self.shown.floor.load(Ordering::Relaxed)).min(upper);
        self.trace.set_logical_compaction(AntichainRef::new(&[floor]));
        let batches = batches(&self.trace);
        let texts = Arc::clone(&self.texts);
        let mut shown = self.shown.lock();
        let since = shown.since.max(floor);
        let before = std::mem::replace(&mut *shown, Arc::new(View { batches, upper, since, texts }));
        drop(shown);
        drop(before); // The last to hold a batch frees it, and nobody waits for that.
    }
}

/// Which rows of a timeline are wanted.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Those of these keys; of all without.
    pub keys: Option<Vec<KeyHash>>,
    /// Those with a tick before this one;
    pub before: Tick,
    /// and an event time after this one; `None` is for the rows of the latest event time of each key.
    pub after: Option<i64>,
    /// Which measures of the rows.
    pub measures: Vec<usize>,
}

/// A column of rows that are read, and its type where the timeline does not say it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Column {
    /// What the key was made of.
    Key(DataType),
    /// The event time.
    Time,
    /// The tick.
    Tick,
    /// The measure at this place of those that are wanted.
    Measure(usize, DataType),
}

/// Reads rows of a view, in the order of their keys.
#[derive(Clone, Debug)]
pub struct Reading {
    view: Arc<View>,
    wanted: Wanted,
    /// For each batch the place of the next key.
    places: Vec<usize>,
    next_key: usize,
    looked_at: usize,
}

impl View {
    /// Begins to read.
    pub fn read(self: &Arc<View>, wanted: Wanted) -> Reading {
        let places = vec![0; self.batches.len()];
        let mut wanted = wanted;
        if let Some(keys) = &mut wanted.keys {
            keys.sort_unstable();
            keys.dedup();
        }
        Reading { view: Arc::clone(self), wanted, places, next_key: 0, looked_at: 0 }
    }
}

impl Reading {
    /// How many rows were looked at so far.
    pub fn looked_at(&self) -> usize {
        self.looked_at
    }

    /// The rows of further keys, about `rows` of them; `None` once there are no more.
    pub fn next(&mut self, rows: usize) -> Option<Entries> {
        let mut read = Entries::with_measures(self.wanted.measures.len());
        while read.len() < rows {
            let Some((key, parts)) = self.next_key() else { break };
            self.take(key, &parts, &mut read);
        }
        (!read.is_empty()).then_some(read)
    }

    /// As [`Self::next`], as columns of a schema.
    pub fn next_rows(&mut self, rows: usize, columns: &[Column], schema: &SchemaRef) -> Option<RecordBatch> {
        let read = self.next(rows)?;
        let texts = self.view.texts.read().expect("no panic");
        let columns: Vec<ArrayRef> = columns.iter().map(|column| column.of(&read, &texts)).collect();
        drop(texts);
        // Who only counts asks for no column.
        let options = RecordBatchOptions::new().with_row_count(Some(read.len()));
        let rows = RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options);
        Some(rows.expect("the columns are the schema's"))
    }

    /// The next key that is wanted, and where its rows are: batches and rows.
    fn next_key(&mut self) -> Option<(KeyHash, Vec<(usize, usize)>)> {
        let batches = &self.view.batches;
        loop {
            let key = match &self.wanted.keys {
                Some(keys) => {
                    self.next_key += 1;
                    *keys.get(self.next_key - 1)?
                }
                None => {
                    let heads = batches.iter().zip(&self.places);
                    *heads.filter_map(|(batch, place)| batch.keys().get(*place)).min()?
                }
            };
            let mut parts = Vec::new();
            for (number, (batch, place)) in batches.iter().zip(&mut self.places).enumerate() {
                let keys = batch.keys();
                *place = first_not(*place..keys.len(), |place| keys[place] < key);
                if keys.get(*place) == Some(&key) {
                    parts.push((number, *place));
                    *place += 1;
                }
            }
            if !parts.is_empty() {
                return Some((key, parts));
            }
        }
    }

    /// Takes the wanted rows of one key.
    fn take(&mut self, key: KeyHash, parts: &[(usize, usize)], read: &mut Entries) {
        let before = self.wanted.before;
        let is_before = |batch: &TimelineBatch, row: usize| batch.ticks()[row] < before;
        let parts = parts.iter().map(|(number, place)| (&self.view.batches[*number], *place));
        let after = self.wanted.after.or_else(|| {
            let latest = |(batch, place): (&Arc<TimelineBatch>, usize)| {
                let row = batch.rows(place).rev().find(|row| is_before(batch, *row))?;
                Some(batch.times()[row])
            };
            Some(parts.clone().filter_map(latest).max()?.saturating_sub(1))
        });
        let Some(after) = after else { return };
        for (batch, place) in parts {
            let rows: Range<usize> = batch.rows(place);
            let from = first_not(rows.clone(), |row| batch.times()[row] <= after);
            self.looked_at += rows.end - from;
            for row in (from..rows.end).filter(|row| is_before(batch, *row)) {
                read.keys.push(key);
                read.identifiers.extend(batch.identifier(place).cloned());
                read.times.push(batch.times()[row]);
                read.ticks.push(batch.ticks()[row]);
                for (values, measure) in read.values.iter_mut().zip(&self.wanted.measures) {
                    values.push(batch.value(*measure, row));
                }
            }
        }
    }
}

impl Column {
    fn of(&self, read: &Entries, texts: &Texts) -> ArrayRef {
        match self {
            Column::Key(data_type) => column_of(data_type, &read.keys, &read.identifiers),
            Column::Time => {
                Arc::new(TimestampMicrosecondArray::from(read.times.clone()).with_timezone("UTC"))
            }
            Column::Tick => Arc::new(UInt64Array::from_iter_values(read.ticks.iter().map(|tick| tick.0))),
            Column::Measure(place, DataType::Utf8) => {
                let text = |number: i64| texts.text(number).expect("texts come with their rows").as_ref();
                let values = read.values[*place].iter();
                Arc::new(values.map(|number| number.map(text)).collect::<StringArray>())
            }
            Column::Measure(place, data_type) => values_of(data_type, read.values[*place].iter().copied()),
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

    use super::super::{Keep, Layout, Measure, arrange_timeline};
    use super::*;
    use crate::lookup::tests::Chance;

    /// Key, event time, tick and value.
    type Row = (KeyHash, i64, Tick, Option<i64>);

    fn entries(rows: &[Row]) -> Entries {
        Entries {
            keys: rows.iter().map(|r| r.0).collect(),
            identifiers: rows.iter().map(|r| identifier(r.0)).collect(),
            times: rows.iter().map(|r| r.1).collect(),
            ticks: rows.iter().map(|r| r.2).collect(),
            values: vec![rows.iter().map(|r| r.3).collect()],
            ..Entries::default()
        }
    }

    fn identifier(key: KeyHash) -> Arc<[u8]> {
        format!("card-{key}").into_bytes().into()
    }

    fn rows_of(reading: &mut Reading) -> Vec<Row> {
        let mut rows = Vec::new();
        while let Some(read) = reading.next(7) {
            assert!(read.identifiers.iter().zip(&read.keys).all(|(kept, key)| *kept == identifier(*key)));
            assert_eq!(read.identifiers.len(), read.len(), "each row has what its key was made of");
            rows.extend(
                (0..read.len())
                    .map(|row| (read.keys[row], read.times[row], read.ticks[row], read.values[0][row])),
            );
        }
        rows
    }

    /// The slow, obvious version: every row that was ever fed is looked at.
    fn slow(fed: &[Row], wanted: &Wanted) -> BTreeSet<Row> {
        let asked = |row: &&Row| {
            row.2 < wanted.before && wanted.keys.as_ref().is_none_or(|keys| keys.contains(&row.0))
        };
        let mut latest: BTreeMap<KeyHash, i64> = BTreeMap::new();
        for row in fed.iter().filter(asked) {
            let time = latest.entry(row.0).or_insert(row.1);
            *time = row.1.max(*time);
        }
        let after = |row: &Row| wanted.after.unwrap_or_else(|| latest[&row.0] - 1);
        fed.iter().filter(asked).filter(|row| row.1 > after(row)).copied().collect()
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

    /// Feeds a history in small groups, merged as far as look-ups at the newest tick allow; reads it after each as of
    /// ticks from the floor on.
    fn check_reads(seed: u64, keep: Keep, reach: Option<i64>) {
        timely::execute_directly(move |worker| {
            let mut chance = Chance(seed);
            let fed = history(&mut chance, 1_500);
            let probe = probe::Handle::new();
            let mut input = InputHandle::<Tick, NoopBuilder<Entries>>::new_with_builder();
            let layout = Arc::new(Layout {
                measures: vec![Measure { squares: false, nullable: true }],
                keep,
                held: Arc::default(),
            });
            let floor: Arc<AtomicU64> = Arc::default();
            let shown = Arc::new(Shown::new(Tick::ZERO, Arc::clone(&floor)));
            let place = Some(Arc::clone(&shown));
            let mut trace = worker.dataflow(|scope| {
                let timeline = arrange_timeline(input.to_stream(scope), &layout, place, "timeline");
                timeline.arranged.stream.probe_with(&probe);
                timeline.arranged.trace
            });
            let mut from = 0;
            while from < fed.len() {
                let to = fed.len().min(from + 1 + chance.below(12) as usize);
                input.send_batch(&mut entries(&fed[from..to]));
                let upper = fed[to - 1].2.next();
                input.advance_to(upper);
                worker.step_while(|| probe.less_than(input.time()));
                let view = shown.view();
                assert_eq!(view.upper, upper);
                for _ in 0..3 {
                    let place = to - 1 - (chance.below(30) as usize).min(to - 1);
                    let before = fed[place].2.next();
                    if before < view.since {
                        continue;
                    }
                    let keys = chance.one_in(2).then(|| vec![KeyHash::from(chance.below(20)), 4]);
                    let after = reach.map(|reach| before.micros() - reach);
                    let wanted = Wanted { keys, before, after, measures: vec![0] };
                    let read = rows_of(&mut view.read(wanted.clone()));
                    assert!(read.is_sorted_by_key(|row| row.0), "seed {seed}");
                    let read_set: BTreeSet<Row> = read.iter().copied().collect();
                    assert_eq!(read_set.len(), read.len(), "seed {seed}: no row is read twice");
                    assert_eq!(read_set, slow(&fed[..to], &wanted), "seed {seed}: {wanted:?}");
                }
                // The floor follows some way behind, and look-ups need nothing that is older than the newest tick.
                floor.store(fed[from.saturating_sub(20)].2.0, Ordering::Relaxed);
                let newest = Antichain::from_elem(upper);
                trace.set_logical_compaction(newest.borrow());
                trace.set_physical_compaction(newest.borrow());
                from = to;
            }
            let held = shown.view().batches.iter().map(|batch| batch.times().len()).sum::<usize>();
            assert!(held < 700, "seed {seed}: {held} rows are held, so nothing was dropped");
        });
    }

    #[test]
    fn what_is_read_as_of_a_tick_is_what_a_scan_of_all_rows_gives() {
        for seed in 0..6 {
            check_reads(seed, Keep::Span(60), Some(60));
            check_reads(seed, Keep::Span(90), Some(60));
            check_reads(seed, Keep::Latest, None);
        }
    }

    /// A timeline that keeps every row: what feeds it, how far it is, and where it is shown.
    fn kept_whole(
        worker: &mut Worker,
    ) -> (InputHandle<Tick, NoopBuilder<Entries>>, probe::Handle<Tick>, Arc<Shown>) {
        let mut input = InputHandle::<Tick, NoopBuilder<Entries>>::new_with_builder();
        let layout = Arc::new(Layout {
            measures: vec![Measure::default()],
            keep: Keep::Span(i64::MAX),
            held: Arc::default(),
        });
        let shown = Arc::new(Shown::new(Tick::ZERO, Arc::default()));
        let place = Some(Arc::clone(&shown));
        let probe = worker.dataflow(|scope| {
            let timeline = arrange_timeline(input.to_stream(scope), &layout, place, "timeline");
            timeline.arranged.stream.probe().0
        });
        (input, probe, shown)
    }

    #[test]
    fn a_view_stays_as_it_was_while_the_timeline_goes_on() {
        timely::execute_directly(|worker| {
            let (mut input, probe, shown) = kept_whole(worker);
            let mut early = None;
            for tick in 1..200 {
                input.send_batch(&mut entries(&[(KeyHash::from(tick % 5), 1, Tick(tick), Some(1))]));
                input.advance_to(Tick(tick).next());
                worker.step_while(|| probe.less_than(input.time()));
                if tick == 100 {
                    early = Some(shown.view());
                }
            }
            let all = Wanted { keys: None, before: Tick(200), after: Some(0), measures: vec![0] };
            assert_eq!(rows_of(&mut early.expect("it was taken").read(all.clone())).len(), 100);
            assert_eq!(rows_of(&mut shown.view().read(all)).len(), 199);
        });
    }

    #[test]
    fn only_the_rows_of_the_asked_key_are_touched() {
        timely::execute_directly(|worker| {
            let (mut input, probe, shown) = kept_whole(worker);
            for part in 0..10u64 {
                let row = |n: u64| (KeyHash::from(n % 1000), n as i64, Tick(part * 3000 + n + 1), Some(1));
                input.send_batch(&mut entries(&(0..3000).map(row).collect::<Vec<_>>()));
                input.advance_to(Tick(part * 3000 + 3001));
                worker.step_while(|| probe.less_than(input.time()));
            }
            let wanted = |keys| Wanted { keys, before: Tick(u64::MAX), after: Some(-1), measures: vec![0] };
            let view = shown.view();
            let mut one = view.read(wanted(Some(vec![7])));
            assert_eq!(rows_of(&mut one).len(), 30);
            assert_eq!(one.looked_at(), 30, "of 30,000 rows only those of the key");
            let mut none = view.read(wanted(Some(vec![5000])));
            assert_eq!((rows_of(&mut none).len(), none.looked_at()), (0, 0));
            assert_eq!(rows_of(&mut view.read(wanted(None))).len(), 30_000);
        });
    }
}
