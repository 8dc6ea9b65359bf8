//! Exact sliding windows over a timeline, as of the tick of each event.
//!
//! For an event of time `t` and tick `T`, a window of width `w` and delay `d` contains the rows of
//! the event's key with an event time in `(t - d - w, t - d]` and a tick not above `T`. All sums
//! are sums of integers; the only division is the last step of `avg` and `stddev`.
//!
//! The requests of a batch are sorted as the timeline is, so one pass over each of the timeline's
//! batches answers them all: the edges of the windows only move forward. A sum is the difference of
//! two prefix sums. Two cases cost more, and only where they occur. `min`, `max` and `distinct`
//! read the rows of the window. And in a batch with ticks above the request's, the rows of the key
//! after the first such row are checked one by one.

mod accumulators;

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, DictionaryArray, Int32Builder, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field};
use tidegate_facts::{KeyHash, Span, Tick, columns};

pub use self::accumulators::Aggregate;
use self::accumulators::{Accumulators, WindowRows};
use crate::core::column_appender::ColumnAppender;
use crate::core::keys::keys_of;
use crate::core::rows::{RowStream, micros_of, ticks_of};
use crate::temporal::temporal_lookup::{LookupGroup, LookupRequests, look_up};
use crate::temporal::timeline::{
    Layout, MeasureLayout, PublishedTimeline, Retention, TimelineBatch, TimelineMetrics, arrange_timeline,
    first_not, timeline_rows,
};

/// The windows and aggregates that are computed from one timeline.
#[derive(Clone, Debug)]
pub struct WindowPlan {
    /// The widths of the windows.
    pub windows: Vec<Span>,
    /// How long before the event all windows end, in microseconds; not negative.
    pub delay: i64,
    /// The aggregates; each is computed over each window.
    pub aggregates: Vec<Aggregate>,
    /// The types of the measures.
    pub measures: Vec<DataType>,
    /// The greatest lateness of an event that still gets results, in microseconds.
    pub lateness_max: i64,
}

impl WindowPlan {
    /// The type of an aggregate's results.
    pub fn result_type(&self, aggregate: Aggregate) -> DataType {
        match aggregate {
            Aggregate::Count | Aggregate::CountOf(_) | Aggregate::Distinct(_) | Aggregate::TimeSinceLast => {
                DataType::Int64
            }
            Aggregate::Avg(_) | Aggregate::Stddev(_) => DataType::Float64,
            Aggregate::Sum(measure) => match self.measures[measure] {
                DataType::Decimal128(_, scale) => DataType::Decimal128(38, scale),
                _ => DataType::Int64,
            },
            Aggregate::Min(m) | Aggregate::Max(m) | Aggregate::Last(m) => self.measures[m].clone(),
        }
    }

    /// How long the timeline retains a row, in microseconds: the longest window, the delay and the
    /// lateness together.
    pub fn retention(&self) -> i64 {
        self.reach().saturating_add(self.lateness_max)
    }

    /// How far before an event its windows begin, in microseconds: the longest window and the delay
    /// together.
    pub fn reach(&self) -> i64 {
        let longest = self.windows.iter().map(|w| w.micros()).max().unwrap_or(0);
        longest.saturating_add(self.delay)
    }

    /// Whether an event is too late for results: merging may have dropped rows of its windows.
    pub fn is_beyond_retention(&self, time: i64, tick: Tick) -> bool {
        tick.micros().saturating_sub(time) > self.lateness_max
    }

    /// The window results of `requests`, one column for each window and each aggregate, in that
    /// order.
    ///
    /// The windows of a request without a key are empty. A request beyond retention has nulls.
    pub fn read(&self, batches: &[Arc<TimelineBatch>], requests: &LookupRequests) -> Vec<ArrayRef> {
        let beyond: Vec<bool> = requests
            .times
            .iter()
            .zip(&requests.ticks)
            .map(|(time, tick)| self.is_beyond_retention(*time, *tick))
            .collect();
        let by_key: Vec<(KeyHash, Range<usize>)> = requests.by_key().collect();
        let mut accumulators: Vec<Vec<Accumulators>> = self
            .windows
            .iter()
            .map(|_| self.aggregates.iter().map(|a| Accumulators::new(*a, requests.len())).collect())
            .collect();
        let mut found: Vec<Vec<WindowRows>> = vec![Vec::new(); self.windows.len()];
        for batch in batches {
            self.find_rows(batch, requests, &by_key, &mut found);
            for (accumulators, found) in accumulators.iter_mut().zip(&mut found) {
                accumulators.iter_mut().for_each(|accumulators| accumulators.add(batch, found, requests));
                found.clear();
            }
        }
        accumulators
            .into_iter()
            .flat_map(|window| window.into_iter().zip(&self.aggregates))
            .map(|(accumulators, aggregate)| {
                accumulators.finish(&self.measures, *aggregate, requests, &beyond)
            })
            .collect()
    }

    /// Finds the rows of one batch that are in each window of each request.
    fn find_rows(
        &self,
        batch: &TimelineBatch,
        requests: &LookupRequests,
        by_key: &[(KeyHash, Range<usize>)],
        found: &mut [Vec<WindowRows>],
    ) {
        let keys = batch.keys();
        let mut position = 0;
        let mut starts = vec![0; self.windows.len()];
        let mut ticks_before = Vec::new();
        for (key, of_key) in by_key {
            position = first_not(position..keys.len(), |index| keys[index] < *key);
            if keys.get(position) != Some(key) {
                continue;
            }
            let rows = batch.rows(position);
            let times = &batch.times()[..rows.end];
            starts.fill(rows.start);
            ticks_before.clear();
            let mut end = rows.start;
            for request in of_key.clone() {
                let tick = requests.ticks[request];
                let until = requests.times[request].saturating_sub(self.delay);
                end = first_not(end..rows.end, |row| times[row] <= until);
                // Up to here no row of the key has a tick above the request's.
                let visible_end = if batch.tick_last() <= tick {
                    end
                } else {
                    if ticks_before.is_empty() {
                        ticks_before.extend(greatest_so_far(&batch.ticks()[rows.clone()]));
                    }
                    first_not(rows.start..end, |row| ticks_before[row - rows.start] <= tick)
                };
                for ((window, start), found) in self.windows.iter().zip(&mut starts).zip(&mut *found) {
                    let after = until.saturating_sub(window.micros());
                    *start = first_not(*start..end, |row| times[row] <= after);
                    if *start < visible_end {
                        found.push(WindowRows::new(request, *start..visible_end));
                    }
                    // Some of the remaining rows have ticks above the request's, so check each.
                    for row in visible_end.max(*start)..end {
                        if batch.ticks()[row] <= tick {
                            found.push(WindowRows::new(request, row..row + 1));
                        }
                    }
                }
            }
        }
    }
}

/// The greatest tick up to each position.
fn greatest_so_far(ticks: &[Tick]) -> impl Iterator<Item = Tick> {
    ticks.iter().scan(Tick::ZERO, |greatest, tick| {
        *greatest = (*greatest).max(*tick);
        Some(*greatest)
    })
}

/// One group of windows of a node: the rows that it aggregates, and the keys that it looks up.
pub struct WindowGroup<'scope> {
    /// The rows that are aggregated: tick, key, event time, then the measures.
    pub rows: RowStream<'scope>,
    /// The index of the input column with the key.
    pub key: usize,
    /// The index of the input column with the event time.
    pub time: usize,
    /// The windows and their aggregates.
    pub plan: WindowPlan,
    /// What the timeline stores of each measure.
    pub measures: Vec<MeasureLayout>,
    /// The names of the result columns, for each window and each aggregate, in that order.
    pub names: Vec<String>,
    /// Where the timeline is published to reader threads, if it is.
    pub published: Option<Arc<PublishedTimeline>>,
    /// The metrics of the timeline.
    pub metrics: Arc<TimelineMetrics>,
}

/// The field of the column after the window results: `BEYOND_RETENTION` for an event that is too
/// late for results, else null.
pub fn reason_field() -> Field {
    Field::new("features_reason", columns::dictionary(), true)
}

/// Joins each row with the window results of every group, and with the reason when results are
/// missing.
///
/// * Input: rows on their partition owners; the rows of each group.
/// * Output: each row once, on its partition owner, at the time of its message.
/// * State: a timeline for each group, which retains rows for [`WindowPlan::retention`].
pub fn windows<'scope>(
    rows: RowStream<'scope>,
    groups: Vec<WindowGroup<'scope>>,
    name: &str,
) -> RowStream<'scope> {
    let mut result_fields = Vec::new();
    let mut lateness = Vec::new();
    let groups: Vec<LookupGroup> = groups
        .into_iter()
        .map(|WindowGroup { rows, key, time, plan, measures, names, published, metrics }| {
            let fields = plan.windows.iter().flat_map(|_| &plan.aggregates).zip(&names);
            result_fields.push(
                fields.map(|(a, name)| Field::new(name, plan.result_type(*a), true)).collect::<Vec<_>>(),
            );
            lateness.push((time, plan.clone()));
            let retention = Retention::Span(plan.retention());
            let layout = Arc::new(Layout { measures, retention, metrics });
            let rows = timeline_rows(rows, published.is_some(), name);
            LookupGroup {
                request: Box::new(move |batch| (keys_of(batch.column(key)), micros_of(batch.column(time)))),
                timeline: arrange_timeline(rows, &layout, published, name).arranged,
                read: Box::new(move |batches, requests| plan.read(batches, requests)),
            }
        })
        .collect();
    let mut appender = ColumnAppender::new(result_fields.into_iter().flatten().chain([reason_field()]));
    look_up(rows, groups, name, move |batch, results| {
        let reasons = reasons(&batch, &lateness);
        appender.append(&batch, results.into_iter().flatten().chain([reasons]))
    })
}

/// `BEYOND_RETENTION` for the rows for which some group has no results.
fn reasons(batch: &RecordBatch, lateness: &[(usize, WindowPlan)]) -> ArrayRef {
    let ticks = ticks_of(batch).values();
    let mut late: Int32Builder = Int32Builder::with_capacity(batch.num_rows());
    let times: Vec<Vec<i64>> = lateness.iter().map(|(time, _)| micros_of(batch.column(*time))).collect();
    for (row, tick) in ticks.iter().enumerate() {
        let beyond = times
            .iter()
            .zip(lateness)
            .any(|(times, (_, plan))| plan.is_beyond_retention(times[row], Tick(*tick)));
        late.append_option(beyond.then_some(0));
    }
    let values = Arc::new(StringArray::from_iter_values(["BEYOND_RETENTION"]));
    Arc::new(DictionaryArray::new(late.finish(), values))
}

#[cfg(test)]
mod tests {
    use arrow::array::{
        Array, AsArray, BooleanArray, Decimal128Array, Int32Array, Int64Array, ListBuilder,
        TimestampMicrosecondArray,
    };
    use arrow::compute::filter_record_batch;
    use arrow::datatypes::{Decimal128Type, Float64Type, Int32Type, Int64Type, Schema};
    use expect_test::{Expect, expect};

    use super::*;
    use crate::core::expr::Split;
    use crate::core::map_rows::map_rows;
    use crate::core::testing::{Chance, Groups, run};

    /// One fact, as the oracle reads it.
    #[derive(Clone, Debug)]
    pub(super) struct Fact {
        pub tick: Tick,
        pub time: i64,
        /// The two keys: a card by number and a shop by name.
        pub card: Option<i64>,
        pub shop: Option<String>,
        /// The four measures: cents, points (never null), a city's name, a flag.
        pub cents: Option<i64>,
        pub points: i64,
        pub city: Option<String>,
        pub flag: Option<bool>,
        /// The column that the `where` of a group reads.
        pub counted: bool,
    }

    pub(super) const CENTS: usize = 0;
    pub(super) const POINTS: usize = 1;
    const CITY: usize = 2;
    pub(super) const FLAG: usize = 3;
    // The indexes of columns of facts: the first measure, the two keys, the event time, the filter.
    pub(super) const MEASURES: usize = 6;
    pub(super) const CARD: usize = 4;
    const SHOP: usize = 5;
    pub(super) const TIME: usize = 2;
    pub(super) const COUNTED: usize = 10;

    fn measures() -> Vec<MeasureLayout> {
        let measure = |squares, nullable| MeasureLayout { squares, nullable };
        vec![measure(true, true), measure(true, false), measure(false, true), measure(false, true)]
    }

    fn every_aggregate() -> Vec<Aggregate> {
        let numbers = [CENTS, POINTS]
            .into_iter()
            .flat_map(|m| [Aggregate::Sum(m), Aggregate::Avg(m), Aggregate::Stddev(m)]);
        let values = [CENTS, POINTS, FLAG]
            .into_iter()
            .flat_map(|m| [Aggregate::Min(m), Aggregate::Max(m), Aggregate::Last(m)]);
        let all = [CENTS, POINTS, CITY, FLAG]
            .into_iter()
            .flat_map(|m| [Aggregate::CountOf(m), Aggregate::Distinct(m)]);
        [Aggregate::Count, Aggregate::TimeSinceLast]
            .into_iter()
            .chain(numbers)
            .chain(values)
            .chain(all)
            .collect()
    }

    pub(super) fn plan(
        windows: &[i64],
        delay: i64,
        lateness_max: i64,
        aggregates: Vec<Aggregate>,
    ) -> WindowPlan {
        let measures = vec![DataType::Decimal128(12, 2), DataType::Int32, DataType::Utf8, DataType::Boolean];
        let windows = windows.iter().map(|w| Span::from_micros(*w).expect("not zero")).collect();
        WindowPlan { windows, delay, aggregates, measures, lateness_max }
    }

    /// One group of a test's node: its key, whether only counted rows are aggregated, and its plan.
    #[derive(Clone, Debug)]
    struct TestGroup {
        key: usize,
        only_counted: bool,
        plan: WindowPlan,
    }

    impl TestGroup {
        fn names(&self, group: usize) -> Vec<String> {
            let windows = self.plan.windows.iter();
            windows
                .flat_map(|w| self.plan.aggregates.iter().map(move |a| format!("{group} {w} {a:?}")))
                .collect()
        }
    }

    pub(super) fn batch_of(facts: &[Fact]) -> RecordBatch {
        let mut basis = ListBuilder::new(columns::OffsetBuilder::new()).with_field(columns::basis_item());
        for (row, _) in facts.iter().enumerate() {
            basis.append_value([Some(row as i64 + 1)]);
        }
        let cents = facts.iter().map(|f| f.cents.map(i128::from)).collect::<Decimal128Array>();
        let times =
            TimestampMicrosecondArray::from_iter_values(facts.iter().map(|f| f.time)).with_timezone("UTC");
        let columns: Vec<(&str, ArrayRef)> = vec![
            (columns::TICK, Arc::new(columns::tick_array(facts.iter().map(|f| f.tick)))),
            (
                columns::EVENT_ID,
                Arc::new(StringArray::from_iter_values(facts.iter().map(|f| f.tick.to_string()))),
            ),
            (columns::TS_UTC, Arc::new(times)),
            (columns::BASIS, Arc::new(basis.finish())),
            ("card", Arc::new(facts.iter().map(|f| f.card).collect::<Int64Array>())),
            ("shop", Arc::new(facts.iter().map(|f| f.shop.as_deref()).collect::<StringArray>())),
            ("cents", Arc::new(cents.with_precision_and_scale(12, 2).expect("12 digits"))),
            (
                "points",
                Arc::new(
                    facts
                        .iter()
                        .map(|f| f.points as i32)
                        .collect::<Vec<i32>>()
                        .into_iter()
                        .map(Some)
                        .collect::<Int32Array>(),
                ),
            ),
            ("city", Arc::new(facts.iter().map(|f| f.city.as_deref()).collect::<StringArray>())),
            ("flag", Arc::new(facts.iter().map(|f| f.flag).collect::<BooleanArray>())),
            ("counted", Arc::new(facts.iter().map(|f| Some(f.counted)).collect::<BooleanArray>())),
        ];
        let fields: Vec<Field> =
            columns.iter().map(|(n, c)| Field::new(*n, c.data_type().clone(), true)).collect();
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns.into_iter().map(|(_, c)| c).collect())
            .expect("the columns have one length")
    }

    /// Projects a batch to the rows that a group aggregates.
    fn group_rows(batch: &RecordBatch, group: &TestGroup) -> Split {
        let columns: Vec<usize> = [0, group.key, TIME].into_iter().chain(MEASURES..MEASURES + 4).collect();
        let counted = batch.column(COUNTED).as_boolean();
        let passed = if group.only_counted { filter_record_batch(batch, counted) } else { Ok(batch.clone()) };
        Split {
            passed: passed.and_then(|b| b.project(&columns)).expect("the columns are there"),
            errors: None,
        }
    }

    /// The results of the operator.
    fn fast(facts: &[Fact], of_node: &[TestGroup], workers: usize, groups: Groups) -> RecordBatch {
        let of_node = of_node.to_vec();
        run(&batch_of(facts), workers, groups, move |rows| {
            let groups = of_node.iter().enumerate().map(|(index, group)| {
                let of_rows = group.clone();
                WindowGroup {
                    rows: map_rows(rows.clone(), "group", move |batch| group_rows(&batch, &of_rows)).0,
                    key: group.key,
                    time: TIME,
                    plan: group.plan.clone(),
                    measures: measures(),
                    names: group.names(index),
                    published: None,
                    metrics: Arc::default(),
                }
            });
            windows(rows.clone(), groups.collect(), "windows")
        })
    }

    /// One result.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Cell {
        Null,
        Whole(i128),
        Float(f64),
    }

    fn cell(column: &ArrayRef, row: usize) -> Cell {
        if column.is_null(row) {
            return Cell::Null;
        }
        match column.data_type() {
            DataType::Float64 => Cell::Float(column.as_primitive::<Float64Type>().value(row)),
            DataType::Int64 => Cell::Whole(column.as_primitive::<Int64Type>().value(row).into()),
            DataType::Int32 => Cell::Whole(column.as_primitive::<Int32Type>().value(row).into()),
            DataType::Boolean => Cell::Whole(column.as_boolean().value(row).into()),
            DataType::Decimal128(_, 2) => Cell::Whole(column.as_primitive::<Decimal128Type>().value(row)),
            other => panic!("no aggregate has results of type {other}"),
        }
    }

    /// The oracle: the facts in a window of an event, from a scan of all facts; `None` beyond
    /// retention.
    fn window<'f>(facts: &'f [Fact], event: &Fact, group: &TestGroup, width: i64) -> Option<Vec<&'f Fact>> {
        let same_key = |f: &Fact| match group.key {
            CARD => f.card.is_some() && f.card == event.card,
            _ => f.shop.is_some() && f.shop == event.shop,
        };
        let end = event.time - group.plan.delay;
        let mut window: Vec<&Fact> = facts
            .iter()
            .filter(|f| same_key(f) && (f.counted || !group.only_counted))
            .filter(|f| f.tick <= event.tick && f.time <= end && f.time > end - width)
            .collect();
        window.sort_by_key(|f| (f.time, f.tick));
        (event.tick.micros() - event.time <= group.plan.lateness_max).then_some(window)
    }

    /// The oracle: an aggregate over the facts of a window.
    fn slow(window: &[&Fact], event: &Fact, aggregate: Aggregate) -> Cell {
        let values = |measure: usize| -> Vec<i128> {
            let numbered = |city: &String| i128::from(city.as_bytes()[0]);
            let value = |f: &&Fact| match measure {
                CENTS => f.cents.map(i128::from),
                POINTS => Some(f.points.into()),
                CITY => f.city.as_ref().map(numbered),
                _ => f.flag.map(i128::from),
            };
            window.iter().filter_map(value).collect()
        };
        let scale = |measure: usize| if measure == CENTS { 100.0 } else { 1.0 };
        let or_null = |value: Option<i128>| value.map_or(Cell::Null, Cell::Whole);
        match aggregate {
            Aggregate::Count => Cell::Whole(window.len() as i128),
            Aggregate::CountOf(m) => Cell::Whole(values(m).len() as i128),
            Aggregate::Sum(m) => or_null((!values(m).is_empty()).then(|| values(m).iter().sum())),
            Aggregate::Min(m) => or_null(values(m).into_iter().min()),
            Aggregate::Max(m) => or_null(values(m).into_iter().max()),
            Aggregate::Last(m) => or_null(values(m).last().copied()),
            Aggregate::Distinct(m) => {
                Cell::Whole(values(m).into_iter().collect::<std::collections::BTreeSet<_>>().len() as i128)
            }
            Aggregate::TimeSinceLast => or_null(
                window.iter().rfind(|f| f.tick != event.tick).map(|f| i128::from(event.time - f.time)),
            ),
            Aggregate::Avg(m) if values(m).is_empty() => Cell::Null,
            Aggregate::Avg(m) => {
                let sum: i128 = values(m).iter().sum();
                Cell::Float(sum as f64 / (values(m).len() as f64 * scale(m)))
            }
            Aggregate::Stddev(m) if values(m).len() < 2 => Cell::Null,
            Aggregate::Stddev(m) => {
                let n = values(m).len() as f64;
                let mean = values(m).iter().sum::<i128>() as f64 / n;
                let spread: f64 = values(m).iter().map(|v| (*v as f64 - mean).powi(2)).sum();
                Cell::Float((spread / (n - 1.0)).sqrt() / scale(m))
            }
        }
    }

    /// Averages must be the same bits; the oracle computes deviations in another way, so they are
    /// close.
    fn agree(aggregate: Aggregate, left: Cell, right: Cell) -> bool {
        match (aggregate, left, right) {
            (Aggregate::Stddev(_), Cell::Float(a), Cell::Float(b)) => {
                (a - b).abs() <= 1e-9 * b.abs().max(1e-3)
            }
            _ => left == right,
        }
    }

    /// Facts of few cards and shops, frequent and rare ones, with every irregularity that a log may
    /// have.
    fn scenario(chance: &mut Chance, rows: usize) -> Vec<Fact> {
        let cards = 1 + chance.below(6);
        let (lag, late) = (1 + chance.below(40), 1 + chance.below(150));
        let mut tick = Tick::ZERO;
        let mut now = 1_000_000;
        let mut facts = Vec::with_capacity(rows);
        for _ in 0..rows {
            now += chance.below(8) as i64;
            tick = Tick::following(tick, now, chance.below(4) as u16).expect("in range");
            let time = match chance.below(10) {
                0..5 => now,
                5..8 => now - chance.below(lag) as i64,
                8 => now - chance.below(late) as i64,
                _ => now + chance.below(5) as i64,
            };
            let hot = chance.one_in(2);
            let name = |number: u64| char::from(b'a' + number as u8).to_string();
            facts.push(Fact {
                tick,
                time,
                card: if hot { Some(0) } else { chance.unless_one_in(9, cards) },
                shop: chance.unless_one_in(7, 3).map(|n| name(n as u64)),
                cents: chance.unless_one_in(4, 900).map(|c| c - 300),
                points: chance.below(7) as i64 - 2,
                city: chance.unless_one_in(3, 5).map(|n| name(n as u64)),
                flag: chance.unless_one_in(3, 2).map(|f| f == 1),
                counted: !chance.one_in(3),
            });
        }
        facts
    }

    fn random_groups(chance: &mut Chance) -> Vec<TestGroup> {
        let mut group = |key| {
            let windows: Vec<i64> = (0..1 + chance.below(3)).map(|_| 1 + chance.below(200) as i64).collect();
            let delay = if chance.one_in(2) { 0 } else { chance.below(60) as i64 };
            let lateness_max = chance.below(120) as i64;
            let plan = plan(&windows, delay, lateness_max, every_aggregate());
            TestGroup { key, only_counted: chance.one_in(2), plan }
        };
        vec![group(CARD), group(SHOP)]
    }

    #[test]
    fn every_result_is_what_a_scan_of_all_facts_returns() {
        for seed in 0..12 {
            let mut chance = Chance(seed);
            let facts = scenario(&mut chance, 150);
            let of_node = random_groups(&mut chance);
            let runs: Vec<RecordBatch> =
                (1..=3).map(|workers| fast(&facts, &of_node, workers, Groups::Random(seed))).collect();
            assert!(
                runs.iter().all(|rows| rows.num_rows() == facts.len()),
                "seed {seed}: each row comes out once"
            );
            for (index, group) in of_node.iter().enumerate() {
                let mut names = group.names(index).into_iter();
                for width in &group.plan.windows {
                    let windows: Vec<_> =
                        facts.iter().map(|fact| window(&facts, fact, group, width.micros())).collect();
                    for aggregate in &group.plan.aggregates {
                        let name = names.next().expect("one name for each result");
                        for (run, rows) in runs.iter().enumerate() {
                            let column = rows.column_by_name(&name).expect("a column of each name");
                            for (row, (fact, window)) in facts.iter().zip(&windows).enumerate() {
                                let expected = window
                                    .as_ref()
                                    .map_or(Cell::Null, |window| slow(window, fact, *aggregate));
                                let got = cell(column, row);
                                assert!(
                                    agree(*aggregate, got, expected),
                                    "seed {seed}, {} workers, {name}: {got:?}, not {expected:?}, for {fact:?}, {group:?}",
                                    run + 1
                                );
                            }
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn groups_and_workers_change_no_byte() {
        for seed in 100..104 {
            let mut chance = Chance(seed);
            let facts = scenario(&mut chance, 200);
            let of_node = random_groups(&mut chance);
            let reference = fast(&facts, &of_node, 1, Groups::Of(1000));
            for (workers, groups) in [
                (1, Groups::Of(1)),
                (1, Groups::Of(7)),
                (2, Groups::Of(7)),
                (3, Groups::Of(1000)),
                (2, Groups::Random(seed)),
            ] {
                let rows = fast(&facts, &of_node, workers, groups);
                assert!(rows == reference, "seed {seed}, {workers} workers, {groups:?}");
            }
        }
    }

    /// Checks facts of one card, a line each: `tick time cents`, in microseconds.
    fn check(plan: WindowPlan, lines: &str, expected: &Expect) {
        let fact = |line: &str| {
            let mut words = line.split_whitespace().map(|word| word.parse::<i64>().expect("a number"));
            let mut word = || words.next().expect("tick, time and cents");
            let (tick, time, cents) = (Tick::new(word(), 0).expect("in range"), word(), Some(word()));
            Fact {
                tick,
                time,
                card: Some(7),
                shop: None,
                cents,
                points: 0,
                city: None,
                flag: None,
                counted: true,
            }
        };
        let facts: Vec<Fact> = lines.lines().filter(|line| !line.trim().is_empty()).map(fact).collect();
        let group = [TestGroup { key: CARD, only_counted: false, plan }];
        let rows = fast(&facts, &group, 1, Groups::Of(2));
        let lines: Vec<String> = (0..rows.num_rows())
            .map(|row| {
                let results: Vec<String> = group[0]
                    .names(0)
                    .iter()
                    .map(|name| match cell(rows.column_by_name(name).expect("named"), row) {
                        Cell::Null => "-".to_owned(),
                        Cell::Whole(number) => number.to_string(),
                        Cell::Float(number) => number.to_string(),
                    })
                    .collect();
                let reason = rows.column_by_name("features_reason").expect("always there");
                let reason = if reason.is_null(row) { "" } else { " BEYOND_RETENTION" };
                format!("@{} {}: {}{reason}\n", facts[row].tick.micros(), facts[row].time, results.join(" "))
            })
            .collect();
        expected.assert_eq(&lines.concat());
    }

    #[test]
    fn a_window_includes_its_end_and_not_its_start() {
        // Width 10: at 110 the row of 100 has just left the window, and the row of 101 is still in
        // it.
        check(
            plan(&[10], 0, 1000, vec![Aggregate::Count, Aggregate::Sum(CENTS)]),
            "
            100 100 1
            101 101 2
            110 110 4
            111 110 8
            112 111 16
            ",
            &expect![[r#"
                @100 100: 1 1
                @101 101: 2 3
                @110 110: 2 6
                @111 110: 3 14
                @112 111: 3 28
            "#]],
        );
    }

    #[test]
    fn a_delay_moves_both_edges() {
        // Width 10 and delay 5: the windows of the event at 115 are (100, 110].
        check(
            plan(&[10], 5, 1000, vec![Aggregate::Count, Aggregate::Sum(CENTS), Aggregate::TimeSinceLast]),
            "
            100 100 1
            101 101 2
            110 110 4
            111 111 8
            115 115 16
            116 116 32
            ",
            &expect![[r#"
                @100 100: 0 - -
                @101 101: 0 - -
                @110 110: 2 3 9
                @111 111: 2 3 10
                @115 115: 2 6 5
                @116 116: 2 12 5
            "#]],
        );
    }

    #[test]
    fn a_late_fact_counts_from_its_tick_on_and_its_own_windows_end_at_its_time() {
        check(
            plan(
                &[10, 1000],
                0,
                50,
                vec![Aggregate::Count, Aggregate::Last(CENTS), Aggregate::TimeSinceLast],
            ),
            "
            200 200 1
            201 160 2
            202 200 4
            251 201 8
            252 201 16
            ",
            &expect![[r#"
                @200 200: 1 1 - 1 1 -
                @201 160: 1 2 - 1 2 -
                @202 200: 2 4 0 3 4 0
                @251 201: 3 8 1 4 8 1
                @252 201: - - - - - - BEYOND_RETENTION
            "#]],
        );
    }
}
