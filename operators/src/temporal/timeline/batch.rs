//! The immutable batches of a timeline, and the merger of two of them.
//!
//! Rows are sorted by key, then event time, then tick, so the rows of a key within any span of
//! event time are contiguous. Merging copies whole runs of rows, and drops those that no look-up at
//! or after `since` can read.

use std::ops::Range;
use std::sync::Arc;

use differential_dataflow::operators::arrange::TraceAgent;
use differential_dataflow::trace::implementations::spine_fueled::Spine;
use differential_dataflow::trace::{Batch, BatchReader, Description, Merger, TraceReader};
use tidegate_facts::{KeyHash, Tick};
use timely::progress::frontier::AntichainRef;
use timely::progress::{Antichain, Timestamp};

use super::layout::{Layout, Retention};
use super::metrics::{BatchGuard, Totals};
use super::prefix_sums::PrefixSums;
use super::rows::TimelineRows;

/// The trace of a timeline: its history of immutable batches.
pub type TimelineTrace = TraceAgent<Spine<SharedBatch>>;

/// A reference to a timeline batch, as the trace holds it. Reader threads hold references too, so
/// it is an `Arc`.
#[derive(Clone, Debug)]
pub struct SharedBatch(pub Arc<TimelineBatch>);

/// One immutable batch of a timeline.
#[derive(Debug)]
pub struct TimelineBatch {
    /// `None` only in a batch without rows.
    layout: Option<Arc<Layout>>,
    keys: Vec<KeyHash>,
    /// The identifier of each key, when the timeline stores identifiers; else empty.
    identifiers: Vec<Arc<[u8]>>,
    /// The rows of `keys[k]` are `starts[k]..starts[k + 1]`.
    starts: Vec<usize>,
    times: Vec<i64>,
    ticks: Vec<Tick>,
    sums: Vec<PrefixSums>,
    tick_last: Tick,
    description: Description<Tick>,
    /// Present in a complete batch with rows.
    metrics: Option<BatchGuard>,
}

impl TimelineBatch {
    pub(super) fn from_rows(
        layout: &Arc<Layout>,
        rows: &TimelineRows,
        description: Description<Tick>,
    ) -> TimelineBatch {
        let order = timeline_order(&rows.keys, &rows.times, &rows.ticks);
        let mut batch = TimelineBatch::with_capacity(layout, order.len(), description);
        for row in &order {
            let key = rows.keys[*row as usize];
            if batch.keys.last() != Some(&key) {
                batch.keys.push(key);
                batch.identifiers.extend(rows.identifiers.get(*row as usize).cloned());
                batch.starts.push(batch.times.len());
            }
            batch.times.push(rows.times[*row as usize]);
            *batch.starts.last_mut().expect("starts at 0") += 1;
        }
        batch.ticks.extend(order.iter().map(|row| rows.ticks[*row as usize]));
        batch.tick_last = batch.ticks.iter().max().copied().unwrap_or_default();
        for (sums, values) in batch.sums.iter_mut().zip(&rows.values) {
            order.iter().for_each(|row| sums.push(values[*row as usize]));
        }
        batch.with_metrics()
    }

    fn with_capacity(layout: &Arc<Layout>, rows: usize, description: Description<Tick>) -> TimelineBatch {
        TimelineBatch {
            layout: Some(Arc::clone(layout)),
            keys: Vec::new(),
            identifiers: Vec::new(),
            starts: vec![0],
            times: Vec::with_capacity(rows),
            ticks: Vec::with_capacity(rows),
            sums: layout.measures.iter().map(|m| PrefixSums::with_capacity(*m, rows)).collect(),
            tick_last: Tick::ZERO,
            description,
            metrics: None,
        }
    }

    /// Adds the totals of this batch, which is complete, to the metrics of its timeline.
    fn with_metrics(mut self) -> TimelineBatch {
        let rows = self.times.len();
        if let Some(layout) = self.layout.as_ref().filter(|_| rows > 0) {
            let sums: usize = self.sums.iter().map(PrefixSums::bytes).sum();
            let bytes = 24 * self.keys.len() + 16 * rows + sums;
            let (keys, rows, bytes) = (self.keys.len() as u64, rows as u64, bytes as u64);
            self.metrics = Some(BatchGuard::new(&layout.metrics, Totals { batches: 1, keys, rows, bytes }));
        }
        self
    }

    /// Appends rows of another batch to the rows of the last key.
    fn extend(&mut self, other: &TimelineBatch, rows: Range<usize>) {
        self.times.extend_from_slice(&other.times[rows.clone()]);
        self.ticks.extend_from_slice(&other.ticks[rows.clone()]);
        for (sums, from) in self.sums.iter_mut().zip(&other.sums) {
            sums.extend(from, rows.clone());
        }
        *self.starts.last_mut().expect("starts at 0") += rows.len();
    }

    /// The keys of the timeline batch, ascending.
    pub fn keys(&self) -> &[KeyHash] {
        &self.keys
    }

    /// The identifier of the key at `index` in [`Self::keys`], when the timeline stores
    /// identifiers.
    pub fn identifier(&self, index: usize) -> Option<&Arc<[u8]>> {
        self.identifiers.get(index)
    }

    /// The rows of the key at `index` in [`Self::keys`]; there is at least one.
    pub fn rows(&self, index: usize) -> Range<usize> {
        self.starts[index]..self.starts[index + 1]
    }

    /// The event time of each row of the timeline batch.
    pub fn times(&self) -> &[i64] {
        &self.times
    }

    /// The tick of each row of the timeline batch.
    pub fn ticks(&self) -> &[Tick] {
        &self.ticks
    }

    /// A tick that is not below the tick of any row of the timeline batch.
    pub fn tick_last(&self) -> Tick {
        self.tick_last
    }

    /// The sum of a measure over `rows`; nulls are skipped.
    pub fn sum(&self, measure: usize, rows: Range<usize>) -> i128 {
        self.sums[measure].sum(rows)
    }

    /// The sum of a measure's squares over `rows`.
    ///
    /// # Panics
    /// When the layout has no squares of this measure.
    pub fn sum_of_squares(&self, measure: usize, rows: Range<usize>) -> i128 {
        self.sums[measure].sum_of_squares(rows)
    }

    /// The count of values of a measure in `rows` that are not null.
    pub fn present(&self, measure: usize, rows: Range<usize>) -> u64 {
        self.sums[measure].present(rows)
    }

    /// The value of a measure at `row`.
    pub fn value(&self, measure: usize, row: usize) -> Option<i64> {
        self.sums[measure].value(row)
    }
}

/// The permutation that sorts rows as a timeline batch is sorted: by key, then event time, then
/// tick.
pub fn timeline_order(keys: &[KeyHash], times: &[i64], ticks: &[Tick]) -> Vec<u32> {
    fn by_key<K: Ord>(keys: impl Iterator<Item = K>) -> Vec<u32> {
        let mut order: Vec<(K, u32)> = keys.zip(0..).collect();
        order.sort_unstable();
        order.into_iter().map(|(_, row)| row).collect()
    }
    // Integers are their own keys, and 64 bits sort faster than 128.
    let fits_64_bits = keys.iter().all(|key| u64::try_from(*key).is_ok());
    let mut order =
        if fits_64_bits { by_key(keys.iter().map(|key| *key as u64)) } else { by_key(keys.iter().copied()) };
    // Rows arrive in the order of their ticks, and most in that of their times: few keys need
    // sorting.
    for rows in order.chunk_by_mut(|a, b| keys[*a as usize] == keys[*b as usize]) {
        let when = |row: &u32| (times[*row as usize], ticks[*row as usize]);
        if !rows.is_sorted_by_key(when) {
            rows.sort_unstable_by_key(when);
        }
    }
    order
}

/// The first index in `range` for which `before` is false, else its end; `before` is true up to
/// some index and false from there on.
///
/// The search is exponential, so indexes near either end are found fastest.
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

/// Every batch of a timeline's trace that has rows, oldest first.
pub fn batches(trace: &TimelineTrace) -> Vec<Arc<TimelineBatch>> {
    let mut batches = Vec::new();
    trace.map_batches(|batch| {
        if !batch.is_empty() {
            batches.push(Arc::clone(&batch.0));
        }
    });
    batches
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
            metrics: None,
        }
    }
}

/// Merges two timeline batches key by key, in as many steps as its fuel allows.
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
            let rows_of = |batch: &TimelineBatch, index: &mut usize| {
                if batch.keys.get(*index) == Some(&key) {
                    *index += 1;
                    batch.rows(*index - 1)
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
        SharedBatch(Arc::new(self.result.with_metrics()))
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
        let (Some(from), Some(layout)) = (self.retained_from(&left, &right), &self.result.layout) else {
            return;
        };
        debug_assert!(layout.measures.len() == self.result.sums.len());
        let retained = |(batch, rows): (&TimelineBatch, Range<usize>)| {
            first_not(rows.clone(), |row| batch.times[row] < from)..rows.end
        };
        let (mut batch, mut rows) = (left.0, retained(left));
        let (mut other, mut others) = (right.0, retained(right));
        if rows.is_empty() && others.is_empty() {
            return;
        }
        self.result.keys.push(key);
        self.result.identifiers.extend(identifier.cloned());
        self.result.starts.push(self.result.times.len());
        while !others.is_empty() {
            // Copy the run of rows before the next row of the other batch, then swap the two
            // batches.
            let next = (other.times[others.start], other.ticks[others.start]);
            let end = first_not(rows.clone(), |row| (batch.times[row], batch.ticks[row]) < next);
            self.result.extend(batch, rows.start..end);
            (batch, rows, other, others) = (other, others, batch, end..rows.end);
        }
        self.result.extend(batch, rows);
    }

    /// The event time from which rows of a key are retained; `None` when none are.
    fn retained_from(
        &self,
        (earlier, left): &(&TimelineBatch, Range<usize>),
        (later, right): &(&TimelineBatch, Range<usize>),
    ) -> Option<i64> {
        let since = self.since.elements().first().copied();
        match self.result.layout.as_ref()?.retention {
            Retention::Span(span) => Some(since?.micros().saturating_sub(span).saturating_add(1)),
            Retention::Latest => {
                let rows = || {
                    let left = left.clone().map(|row| (earlier.times[row], earlier.ticks[row]));
                    left.chain(right.clone().map(|row| (later.times[row], later.ticks[row])))
                };
                // Every look-up from now on reads all rows below `since`, so the latest of them
                // hides the others. A look-up may still end at any of the other rows.
                let is_settled = |tick: Tick| since.is_none_or(|since| tick < since);
                let settled = rows().filter(|(_, tick)| is_settled(*tick)).map(|(time, _)| time).max();
                let unsettled = rows().filter(|(_, tick)| !is_settled(*tick)).map(|(time, _)| time).min();
                Some(settled.unwrap_or(i64::MIN).min(unsettled.unwrap_or(i64::MAX)))
            }
        }
    }
}
