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
mod layout;
mod metrics;
mod prefix_sums;
mod reader;
mod rows;

use std::rc::Rc;
use std::sync::{Arc, RwLock};

use differential_dataflow::operators::arrange::{Arranged, TraceAgent};
use differential_dataflow::trace::Description;
use differential_dataflow::trace::implementations::spine_fueled::Spine;
use tidegate_facts::Tick;
use timely::dataflow::Stream;
use timely::dataflow::channels::Message;
use timely::dataflow::channels::pact::DistributorPact;
use timely::dataflow::channels::pushers::exchange::Distributor;
use timely::dataflow::operators::{Capability, Operator};
use timely::progress::{Antichain, Timestamp};

pub(crate) use self::batch::first_not;
pub use self::batch::{SharedBatch, TimelineBatch, TimelineMerger, TimelineTrace, batches, timeline_order};
pub use self::layout::{Layout, MeasureLayout, Retention};
pub use self::metrics::{TimelineMetrics, Totals};
use self::reader::Publisher;
pub use self::reader::{PublishedTimeline, ScanColumn, ScanSpec, SnapshotScan, TimelineSnapshot};
pub use self::rows::{
    StringDictionary, TimelineRows, is_measure, measure_column, measure_values, timeline_rows,
    to_timeline_rows,
};
use crate::core::keys::owner;

/// A worker's part of a timeline, with the texts of its values.
pub struct Timeline<'scope> {
    /// The arrangement.
    pub arranged: Arranged<'scope, TimelineTrace>,
    /// The texts that values of text columns refer to.
    pub texts: Arc<RwLock<StringDictionary>>,
}

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
                if !rows.texts.is_empty() {
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

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use differential_dataflow::trace::TraceReader;
    use tidegate_facts::KeyHash;
    use timely::container::NoopBuilder;
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
