//! The immutable batches of a timeline, and how two of them become one.
//!
//! Rows stand by key, then event time, then tick, so the rows of a key within any span of event time
//! stand together. Merging copies whole runs of rows, and drops those that no look-up at or after
//! `since` can reach.

use std::ops::Range;
use std::sync::Arc;

use differential_dataflow::trace::{Batch, BatchReader, Description, Merger};
use tidegate_facts::{KeyHash, Tick};
use timely::progress::frontier::AntichainRef;
use timely::progress::{Antichain, Timestamp};

use super::held::{Amounts, Tally};
use super::sums::Sums;
use super::{Entries, Keep, Layout};

/// A batch as a trace holds it. Those who read beside the graph hold it too, so it is counted across threads.
#[derive(Clone, Debug)]
pub struct SharedBatch(pub Arc<TimelineBatch>);

/// One immutable piece of a timeline.
#[derive(Debug)]
pub struct TimelineBatch {
    /// Absent only in a batch that never held a row.
    layout: Option<Arc<Layout>>,
    keys: Vec<KeyHash>,
    /// What was hashed into each key, where that is kept; else empty.
    identifiers: Vec<Arc<[u8]>>,
    /// The rows of `keys[k]` are `starts[k]..starts[k + 1]`.
    starts: Vec<usize>,
    times: Vec<i64>,
    ticks: Vec<Tick>,
    sums: Vec<Sums>,
    tick_last: Tick,
    description: Description<Tick>,
    /// Present in a whole batch that holds rows.
    tally: Option<Tally>,
}

impl TimelineBatch {
    pub(super) fn from_entries(
        layout: &Arc<Layout>,
        entries: &Entries,
        description: Description<Tick>,
    ) -> TimelineBatch {
        let order = timeline_order(&entries.keys, &entries.times, &entries.ticks);
        let mut batch = TimelineBatch::with_capacity(layout, order.len(), description);
        for row in &order {
            let key = entries.keys[*row as usize];
            if batch.keys.last() != Some(&key) {
                batch.keys.push(key);
                batch.identifiers.extend(entries.identifiers.get(*row as usize).cloned());
                batch.starts.push(batch.times.len());
            }
            batch.times.push(entries.times[*row as usize]);
            *batch.starts.last_mut().expect("starts at 0") += 1;
        }
        batch.ticks.extend(order.iter().map(|row| entries.ticks[*row as usize]));
        batch.tick_last = batch.ticks.iter().max().copied().unwrap_or_default();
        for (sums, values) in batch.sums.iter_mut().zip(&entries.values) {
            order.iter().for_each(|row| sums.push(values[*row as usize]));
        }
        batch.counted()
    }

    fn with_capacity(layout: &Arc<Layout>, rows: usize, description: Description<Tick>) -> TimelineBatch {
        TimelineBatch {
            layout: Some(Arc::clone(layout)),
            keys: Vec::new(),
            identifiers: Vec::new(),
            starts: vec![0],
            times: Vec::with_capacity(rows),
            ticks: Vec::with_capacity(rows),
            sums: layout.measures.iter().map(|m| Sums::with_capacity(*m, rows)).collect(),
            tick_last: Tick::ZERO,
            description,
            tally: None,
        }
    }

    /// The same, counted for those who watch: it is whole.
    fn counted(mut self) -> TimelineBatch {
        let rows = self.times.len();
        if let Some(layout) = self.layout.as_ref().filter(|_| rows > 0) {
            let sums: usize = self.sums.iter().map(Sums::bytes).sum();
            let bytes = 24 * self.keys.len() + 16 * rows + sums;
            let (keys, rows, bytes) = (self.keys.len() as u64, rows as u64, bytes as u64);
            self.tally = Some(Tally::new(&layout.held, Amounts { batches: 1, keys, rows, bytes }));
        }
        self
    }

    /// Appends rows of another batch to the last key.
    fn extend(&mut self, other: &TimelineBatch, rows: Range<usize>) {
        self.times.extend_from_slice(&other.times[rows.clone()]);
        self.ticks.extend_from_slice(&other.ticks[rows.clone()]);
        for (sums, from) in self.sums.iter_mut().zip(&other.sums) {
            sums.extend(from, rows.clone());
        }
        *self.starts.last_mut().expect("starts at 0") += rows.len();
    }

    /// The keys, ascending.
    pub fn keys(&self) -> &[KeyHash] {
        &self.keys
    }

    /// What was hashed into the key at `place` in [`Self::keys`], where that is kept.
    pub fn identifier(&self, place: usize) -> Option<&Arc<[u8]>> {
        self.identifiers.get(place)
    }

    /// The rows of the key at `place` in [`Self::keys`]; there is at least one.
    pub fn rows(&self, place: usize) -> Range<usize> {
        self.starts[place]..self.starts[place + 1]
    }

    /// The event time of each row.
    pub fn times(&self) -> &[i64] {
        &self.times
    }

    /// The tick of each row.
    pub fn ticks(&self) -> &[Tick] {
        &self.ticks
    }

    /// A tick that no row is above.
    pub fn tick_last(&self) -> Tick {
        self.tick_last
    }

    /// The sum of a measure over `rows`; nulls count as nothing.
    pub fn sum(&self, measure: usize, rows: Range<usize>) -> i128 {
        self.sums[measure].sum(rows)
    }

    /// The sum of a measure's squares over `rows`; only where the layout asks for squares.
    pub fn sum_of_squares(&self, measure: usize, rows: Range<usize>) -> i128 {
        self.sums[measure].sum_of_squares(rows)
    }

    /// How many values of a measure in `rows` are not null.
    pub fn present(&self, measure: usize, rows: Range<usize>) -> u64 {
        self.sums[measure].present(rows)
    }

    /// The value of a measure at `row`.
    pub fn value(&self, measure: usize, row: usize) -> Option<i64> {
        self.sums[measure].value(row)
    }
}

/// Rows in the order of a timeline: by key, then event time, then tick.
pub fn timeline_order(keys: &[KeyHash], times: &[i64], ticks: &[Tick]) -> Vec<u32> {
    fn by_key<K: Ord>(keys: impl Iterator<Item = K>) -> Vec<u32> {
        let mut order: Vec<(K, u32)> = keys.zip(0..).collect();
        order.sort_unstable();
        order.into_iter().map(|(_, row)| row).collect()
    }
    // Whole numbers are their own keys, and half as long to sort.
    let narrow = keys.iter().all(|key| u64::try_from(*key).is_ok());
    let mut order =
        if narrow { by_key(keys.iter().map(|key| *key as u64)) } else { by_key(keys.iter().copied()) };
    // Rows come in the order of their ticks, and most in that of their times: few keys need more.
    for rows in order.chunk_by_mut(|a, b| keys[*a as usize] == keys[*b as usize]) {
        let when = |row: &u32| (times[*row as usize], ticks[*row as usize]);
        if !rows.is_sorted_by_key(when) {
            rows.sort_unstable_by_key(when);
        }
    }
    order
}

/// The first place in `range` where `before` no longer holds, else its end; places near either end are found fastest.
pub(crate) fn first_not(range: Range<usize>, before: impl Fn(usize) -> bool) -> usize {
    let Range { start, end } = range;
    if start >= end || !before(start) {
        return start;
    }
    if before(end - 1) {
        return end;
    }
    let mut step = 1;
    let mut low = start + 1;
    while low + step < end && before(low + step - 1) {
        low += step;
        step *= 2;
    }
    let mut high = (low + step - 1).min(end - 1);
    while low < high {
        let middle = low.midpoint(high);
        if before(middle) { low = middle + 1 } else { high = middle }
    }
    low
}

impl BatchReader for SharedBatch {
    type Time = Tick;
    fn len(&self) -> usize {
        self.0.times.len()
    }
    fn description(&self) -> &Description<Tick> {
        &self.0.description
    }
}

impl Batch for SharedBatch {
    type Merger = TimelineMerger;
    fn empty(lower: Antichain<Tick>, upper: Antichain<Tick>) -> Self {
        let since = Antichain::from_elem(Tick::minimum());
        SharedBatch(Arc::new(TimelineBatch::empty(Description::new(lower, upper, since))))
    }
}

impl TimelineBatch {
    fn empty(description: Description<Tick>) -> TimelineBatch {
        TimelineBatch {
            layout: None,
            keys: Vec::new(),
            identifiers: Vec::new(),
            starts: vec![0],
            times: Vec::new(),
            ticks: Vec::new(),
            sums: Vec::new(),
            tick_last: Tick::ZERO,
            description,
            tally: None,
        }
    }
}

/// Merges two batches key by key, in as many steps as its fuel takes.
pub struct TimelineMerger {
    result: TimelineBatch,
    since: Antichain<Tick>,
    keys_done: (usize, usize),
}

impl Merger<SharedBatch> for TimelineMerger {
    fn new(earlier: &SharedBatch, later: &SharedBatch, since: AntichainRef<'_, Tick>) -> Self {
        assert_eq!(earlier.upper(), later.lower(), "batches leave a gap or overlap");
        let since = since.to_owned();
        let description = Description::new(earlier.lower().clone(), later.upper().clone(), since.clone());
        let mut result = match earlier.0.layout.as_ref().or(later.0.layout.as_ref()) {
            Some(layout) => TimelineBatch::with_capacity(layout, earlier.len() + later.len(), description),
            None => TimelineBatch::empty(description),
        };
        result.tick_last = earlier.0.tick_last.max(later.0.tick_last);
        TimelineMerger { result, since, keys_done: (0, 0) }
    }

    fn work(&mut self, earlier: &SharedBatch, later: &SharedBatch, fuel: &mut isize) {
        let (earlier, later) = (earlier.0.as_ref(), later.0.as_ref());
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
            let identifier =
                if earlier.keys.get(a) == Some(&key) { earlier.identifier(a) } else { later.identifier(b) };
            let (left, right) = (rows_of(earlier, &mut a), rows_of(later, &mut b));
            *fuel -= (left.len() + right.len()) as isize;
            self.merge_key(key, identifier, (earlier, left), (later, right));
        }
        self.keys_done = (a, b);
    }

    fn done(self) -> SharedBatch {
        SharedBatch(Arc::new(self.result.counted()))
    }
}

impl TimelineMerger {
    fn merge_key(
        &mut self,
        key: KeyHash,
        identifier: Option<&Arc<[u8]>>,
        left: (&TimelineBatch, Range<usize>),
        right: (&TimelineBatch, Range<usize>),
    ) {
        let (Some(from), Some(layout)) = (self.kept_from(&left, &right), &self.result.layout) else { return };
        debug_assert!(layout.measures.len() == self.result.sums.len());
        let kept = |(batch, rows): (&TimelineBatch, Range<usize>)| {
            first_not(rows.clone(), |row| batch.times[row] < from)..rows.end
        };
        let ((mut batch, mut rows), (mut other, mut others)) = ((left.0, kept(left)), (right.0, kept(right)));
        if rows.is_empty() && others.is_empty() {
            return;
        }
        self.result.keys.push(key);
        self.result.identifiers.extend(identifier.cloned());
        self.result.starts.push(self.result.times.len());
        while !others.is_empty() {
            // The run of rows that stand before the other batch's next one; then the two change places.
            let next = (other.times[others.start], other.ticks[others.start]);
            let end = first_not(rows.clone(), |row| (batch.times[row], batch.ticks[row]) < next);
            self.result.extend(batch, rows.start..end);
            (batch, rows, other, others) = (other, others, batch, end..rows.end);
        }
        self.result.extend(batch, rows);
    }

    /// The event time from which rows of a key are kept; `None` when none are.
    fn kept_from(
        &self,
        (earlier, left): &(&TimelineBatch, Range<usize>),
        (later, right): &(&TimelineBatch, Range<usize>),
    ) -> Option<i64> {
        let since = self.since.elements().first().copied();
        match self.result.layout.as_ref()?.keep {
            Keep::Span(span) => Some(since?.micros().saturating_sub(span).saturating_add(1)),
            Keep::Latest => {
                let rows = || {
                    let left = left.clone().map(|row| (earlier.times[row], earlier.ticks[row]));
                    left.chain(right.clone().map(|row| (later.times[row], later.ticks[row])))
                };
                // Rows below `since` are seen by every look-up from now on, so the latest of them hides the
                // others. The rest may still be asked about one by one.
                let is_settled = |tick: Tick| since.is_none_or(|since| tick < since);
                let settled = rows().filter(|(_, tick)| is_settled(*tick)).map(|(time, _)| time).max();
                let unsettled = rows().filter(|(_, tick)| !is_settled(*tick)).map(|(time, _)| time).min();
                Some(settled.unwrap_or(i64::MIN).min(unsettled.unwrap_or(i64::MAX)))
            }
        }
    }
}
