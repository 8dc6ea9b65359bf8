//! Exact sliding windows over a timeline, as of each asking event's tick.
//!
//! For an event of time `t` and tick `T` a window of width `w` and delay `d` holds the rows of its key
//! with an event time in `(t - d - w, t - d]` and a tick not above `T`. Everything that is summed is an
//! integer; the only division is the last step of `avg` and `stddev`.
//!
//! The asks of a batch are sorted as the timeline is, so one walk over each of the timeline's batches
//! answers them all: the edges of the windows only move forward. A sum is the difference of two
//! running sums. Two cases cost more, and only where they occur: `min`, `max` and `distinct` read the
//! rows of the window; and in a batch that holds ticks above the asking one, the rows that stand after
//! the first such row of the key are taken one by one.

mod cells;

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, DictionaryArray, Int32Builder, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field};
use tidegate_facts::{KeyHash, Span, Tick, columns};

pub use self::cells::values_of;
use self::cells::{Cells, Seen};
use crate::keys::keys_of;
use crate::lookup::{Asks, Group, Wider, look_up, micros_of};
use crate::rows::{RowStream, ticks_of};
use crate::timeline::{
    Held, Keep, Layout, Measure, Shown, TimelineBatch, arrange_timeline, entries_of, first_not,
};

/// One function over the rows of a window; a measure is a column of the timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aggregate {
    /// How many rows.
    Count,
    /// How many values are not null.
    CountOf(usize),
    /// Their sum; null where there are none.
    Sum(usize),
    /// Their sum divided by their number; null where there are none.
    Avg(usize),
    /// The least value.
    Min(usize),
    /// The greatest value.
    Max(usize),
    /// The standard deviation of a sample; null where there are fewer than two values.
    Stddev(usize),
    /// How many different values.
    Distinct(usize),
    /// The value of the latest row by (event time, tick) that is not null, the asking event's own included.
    Last(usize),
    /// Microseconds from the latest row before the asking event to the event; null where there is none.
    TimeSinceLast,
}

/// What is asked of one timeline.
#[derive(Clone, Debug)]
pub struct WindowPlan {
    /// The widths.
    pub windows: Vec<Span>,
    /// How far the windows end before the event; 0 or more microseconds.
    pub delay: i64,
    /// The functions, each over each window.
    pub aggregates: Vec<Aggregate>,
    /// The types of the measured columns, which the answers are given in.
    pub measures: Vec<DataType>,
    /// How late an event may be and still be answered, in microseconds.
    pub lateness_max: i64,
}

impl WindowPlan {
    /// The type of an aggregate's answers.
    pub fn answer_type(&self, aggregate: Aggregate) -> DataType {
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

    /// How long a row can matter: the longest window, the delay and the lateness, in microseconds.
    pub fn retention(&self) -> i64 {
        self.reach().saturating_add(self.lateness_max)
    }

    /// How far before an event a row can be that its windows hold: the longest of them and the delay, in microseconds.
    pub fn reach(&self) -> i64 {
        let longest = self.windows.iter().map(|w| w.micros()).max().unwrap_or(0);
        longest.saturating_add(self.delay)
    }

    /// Whether an event is too late to be answered: rows it would need may be gone.
    pub fn is_beyond_retention(&self, time: i64, tick: Tick) -> bool {
        tick.micros().saturating_sub(time) > self.lateness_max
    }

    /// The answers to `asks`: for each window in order, for each aggregate in order, one column.
    ///
    /// Asks without a key see no rows. Asks beyond retention are answered with nulls.
    pub fn read(&self, batches: &[Arc<TimelineBatch>], asks: &Asks) -> Vec<ArrayRef> {
        let beyond: Vec<bool> = asks
            .times
            .iter()
            .zip(&asks.ticks)
            .map(|(time, tick)| self.is_beyond_retention(*time, *tick))
            .collect();
        let runs: Vec<(KeyHash, Range<usize>)> = asks.by_key().collect();
        let mut cells: Vec<Vec<Cells>> = self
            .windows
            .iter()
            .map(|_| self.aggregates.iter().map(|a| Cells::new(*a, asks.len())).collect())
            .collect();
        let mut seen: Vec<Vec<Seen>> = vec![Vec::new(); self.windows.len()];
        for batch in batches {
            self.walk(batch, asks, &runs, &mut seen);
            for (cells, seen) in cells.iter_mut().zip(&mut seen) {
                cells.iter_mut().for_each(|cells| cells.add(batch, seen, asks));
                seen.clear();
            }
        }
        cells
            .into_iter()
            .flat_map(|window| window.into_iter().zip(&self.aggregates))
            .map(|(cells, aggregate)| cells.finish(self, *aggregate, asks, &beyond))
            .collect()
    }

    /// Finds what one batch holds for each ask, in each window.
    fn walk(
        &self,
        batch: &TimelineBatch,
        asks: &Asks,
        runs: &[(KeyHash, Range<usize>)],
        seen: &mut [Vec<Seen>],
    ) {
        let keys = batch.keys();
        let mut place = 0;
        let mut starts = vec![0; self.windows.len()];
        let mut ticks_before = Vec::new();
        for (key, asking) in runs {
            place = first_not(place..keys.len(), |place| keys[place] < *key);
            if keys.get(place) != Some(key) {
                continue;
            }
            let rows = batch.rows(place);
            let times = &batch.times()[..rows.end];
            starts.fill(rows.start);
            ticks_before.clear();
            let mut end = rows.start;
            for ask in asking.clone() {
                let tick = asks.ticks[ask];
                let until = asks.times[ask].saturating_sub(self.delay);
                end = first_not(end..rows.end, |row| times[row] <= until);
                let seen_end = if batch.tick_last() <= tick {
                    end
                } else {
                    if ticks_before.is_empty() {
                        ticks_before.extend(greatest_so_far(&batch.ticks()[rows.clone()]));
                    }
                    first_not(rows.start..end, |row| ticks_before[row - rows.start] <= tick)
                };
                for ((window, start), seen) in self.windows.iter().zip(&mut starts).zip(&mut *seen) {
                    let after = until.saturating_sub(window.micros());
                    *start = first_not(*start..end, |row| times[row] <= after);
                    if *start < seen_end {
                        seen.push(Seen::new(ask, *start..seen_end));
                    }
                    // Of the rows from here on some came later than the ask: they are taken one by one.
                    for row in seen_end.max(*start)..end {
                        if batch.ticks()[row] <= tick {
                            seen.push(Seen::new(ask, row..row + 1));
                        }
                    }
                }
            }
        }
    }
}

fn greatest_so_far(ticks: &[Tick]) -> impl Iterator<Item = Tick> {
    ticks.iter().scan(Tick::ZERO, |greatest, tick| {
        *greatest = (*greatest).max(*tick);
        Some(*greatest)
    })
}

/// One group of windows of a node: whose rows are aggregated, and for which of the asking rows.
pub struct WindowGroup<'scope> {
    /// The rows that are aggregated: tick, key, event time, then the measured columns.
    pub over: RowStream<'scope>,
    /// The column of the asking rows that holds the key.
    pub key: usize,
    /// The column of the asking rows that holds the event time.
    pub time: usize,
    /// The windows and their aggregates.
    pub plan: WindowPlan,
    /// What the timeline keeps of the measured columns.
    pub measures: Vec<Measure>,
    /// The names of the answers: for each window in order, for each aggregate in order.
    pub names: Vec<String>,
    /// Where the timeline is shown to those who read beside the graph.
    pub shown: Option<Arc<Shown>>,
    /// Where what its timeline holds is counted.
    pub held: Arc<Held>,
}

/// The column that follows the answers: `BEYOND_RETENTION` where the event came too late to be answered.
pub fn reason_field() -> Field {
    Field::new("features_reason", columns::dictionary(), true)
}

/// Each row with the answers of every group, and the reason for missing ones.
///
/// * Input: asking rows at home; the rows of each group.
/// * Output: each row once, at home, at the time of its message.
/// * State: one timeline a group, kept for its longest window, delay and lateness.
pub fn windows<'scope>(
    rows: RowStream<'scope>,
    groups: Vec<WindowGroup<'scope>>,
    name: &str,
) -> RowStream<'scope> {
    let mut answered = Vec::new();
    let mut lateness = Vec::new();
    let groups: Vec<Group> = groups
        .into_iter()
        .map(|WindowGroup { over, key, time, plan, measures, names, shown, held }| {
            let fields = plan.windows.iter().flat_map(|_| &plan.aggregates).zip(&names);
            answered.push(
                fields.map(|(a, name)| Field::new(name, plan.answer_type(*a), true)).collect::<Vec<_>>(),
            );
            lateness.push((time, plan.clone()));
            let layout = Arc::new(Layout { measures, keep: Keep::Span(plan.retention()), held });
            let entries = entries_of(over, shown.is_some(), name);
            Group {
                ask: Box::new(move |batch| (keys_of(batch.column(key)), micros_of(batch.column(time)))),
                timeline: arrange_timeline(entries, &layout, shown, name).arranged,
                read: Box::new(move |batches, asks| plan.read(batches, asks)),
            }
        })
        .collect();
    let mut wider = Wider::new(answered.into_iter().flatten().chain([reason_field()]));
    look_up(rows, groups, name, move |batch, answers| {
        let reasons = reasons(&batch, &lateness);
        wider.widen(&batch, answers.into_iter().flatten().chain([reasons]))
    })
}

/// `BEYOND_RETENTION` for the rows that some group could not answer.
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
        TimestampMicrosecondArray, UInt64Array, UInt64Builder,
    };
    use arrow::compute::filter_record_batch;
    use arrow::datatypes::{Decimal128Type, Float64Type, Int32Type, Int64Type, Schema};
    use expect_test::{Expect, expect};

    use super::*;
    use crate::expr::Split;
    use crate::lookup::tests::{Chance, Groups, run};
    use crate::streams::map_rows;

    /// One fact, as the slow version reads it.
    #[derive(Clone, Debug)]
    pub(super) struct Fact {
        pub tick: Tick,
        pub time: i64,
        /// A card by number and a shop by name.
        pub card: Option<i64>,
        pub shop: Option<String>,
        /// The four measures: cents, points (never null), a city's name, a flag.
        pub cents: Option<i64>,
        pub points: i64,
        pub city: Option<String>,
        pub flag: Option<bool>,
        /// What the `where` of a group tests.
        pub counted: bool,
    }

    pub(super) const CENTS: usize = 0;
    pub(super) const POINTS: usize = 1;
    const CITY: usize = 2;
    pub(super) const FLAG: usize = 3;
    /// The place of the first measure in the columns of facts; of the keys; of the time.
    pub(super) const MEASURES: usize = 6;
    pub(super) const CARD: usize = 4;
    const SHOP: usize = 5;
    pub(super) const TIME: usize = 2;
    pub(super) const COUNTED: usize = 10;

    fn measures() -> Vec<Measure> {
        let measure = |squares, nullable| Measure { squares, nullable };
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

    /// One group of a test's node: the key and whether only counted rows are aggregated, beside the plan.
    #[derive(Clone, Debug)]
    struct Asked {
        key: usize,
        only_counted: bool,
        plan: WindowPlan,
    }

    impl Asked {
        fn names(&self, group: usize) -> Vec<String> {
            let windows = self.plan.windows.iter();
            windows
                .flat_map(|w| self.plan.aggregates.iter().map(move |a| format!("{group} {w} {a:?}")))
                .collect()
        }
    }

    pub(super) fn batch_of(facts: &[Fact]) -> RecordBatch {
        let mut basis =
            ListBuilder::new(UInt64Builder::new()).with_field(Field::new("item", DataType::UInt64, false));
        for (row, _) in facts.iter().enumerate() {
            basis.append_value([Some(row as u64 + 1)]);
        }
        let cents = facts.iter().map(|f| f.cents.map(i128::from)).collect::<Decimal128Array>();
        let times =
            TimestampMicrosecondArray::from_iter_values(facts.iter().map(|f| f.time)).with_timezone("UTC");
        let columns: Vec<(&str, ArrayRef)> = vec![
            (columns::TICK, Arc::new(UInt64Array::from_iter_values(facts.iter().map(|f| f.tick.0)))),
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

    /// The rows that a group aggregates.
    fn narrow(batch: &RecordBatch, asked: &Asked) -> Split {
        let places: Vec<usize> = [0, asked.key, TIME].into_iter().chain(MEASURES..MEASURES + 4).collect();
        let counted = batch.column(COUNTED).as_boolean();
        let passed = if asked.only_counted { filter_record_batch(batch, counted) } else { Ok(batch.clone()) };
        Split {
            passed: passed.and_then(|b| b.project(&places)).expect("the columns are there"),
            errors: None,
        }
    }

    /// What the operator answers.
    fn fast(facts: &[Fact], asked: &[Asked], workers: usize, groups: Groups) -> RecordBatch {
        let asked = asked.to_vec();
        run(&batch_of(facts), workers, groups, move |rows| {
            let groups = asked.iter().enumerate().map(|(place, group)| {
                let narrowed = group.clone();
                WindowGroup {
                    over: map_rows(rows.clone(), "narrow", move |batch| narrow(&batch, &narrowed)).0,
                    key: group.key,
                    time: TIME,
                    plan: group.plan.clone(),
                    measures: measures(),
                    names: group.names(place),
                    shown: None,
                    held: Arc::default(),
                }
            });
            windows(rows.clone(), groups.collect(), "windows")
        })
    }

    /// One answer.
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
            other => panic!("no aggregate answers in {other}"),
        }
    }

    /// The slow, obvious version: for one asking fact, all facts are looked at; `None` beyond retention.
    fn seen<'f>(facts: &'f [Fact], asking: &Fact, asked: &Asked, width: i64) -> Option<Vec<&'f Fact>> {
        let same_key = |f: &Fact| match asked.key {
            CARD => f.card.is_some() && f.card == asking.card,
            _ => f.shop.is_some() && f.shop == asking.shop,
        };
        let end = asking.time - asked.plan.delay;
        let mut seen: Vec<&Fact> = facts
            .iter()
            .filter(|f| same_key(f) && (f.counted || !asked.only_counted))
            .filter(|f| f.tick <= asking.tick && f.time <= end && f.time > end - width)
            .collect();
        seen.sort_by_key(|f| (f.time, f.tick));
        (asking.tick.micros() - asking.time <= asked.plan.lateness_max).then_some(seen)
    }

    fn slow(seen: &[&Fact], asking: &Fact, aggregate: Aggregate) -> Cell {
        let values = |measure: usize| -> Vec<i128> {
            let numbered = |city: &String| i128::from(city.as_bytes()[0]);
            let value = |f: &&Fact| match measure {
                CENTS => f.cents.map(i128::from),
                POINTS => Some(f.points.into()),
                CITY => f.city.as_ref().map(numbered),
                _ => f.flag.map(i128::from),
            };
            seen.iter().filter_map(value).collect()
        };
        let scale = |measure: usize| if measure == CENTS { 100.0 } else { 1.0 };
        let or_null = |value: Option<i128>| value.map_or(Cell::Null, Cell::Whole);
        match aggregate {
            Aggregate::Count => Cell::Whole(seen.len() as i128),
            Aggregate::CountOf(m) => Cell::Whole(values(m).len() as i128),
            Aggregate::Sum(m) => or_null((!values(m).is_empty()).then(|| values(m).iter().sum())),
            Aggregate::Min(m) => or_null(values(m).into_iter().min()),
            Aggregate::Max(m) => or_null(values(m).into_iter().max()),
            Aggregate::Last(m) => or_null(values(m).last().copied()),
            Aggregate::Distinct(m) => {
                Cell::Whole(values(m).into_iter().collect::<std::collections::BTreeSet<_>>().len() as i128)
            }
            Aggregate::TimeSinceLast => or_null(
                seen.iter().rfind(|f| f.tick != asking.tick).map(|f| i128::from(asking.time - f.time)),
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

    /// Averages are the same bits; deviations are computed otherwise here, so they are near.
    fn agree(aggregate: Aggregate, left: Cell, right: Cell) -> bool {
        match (aggregate, left, right) {
            (Aggregate::Stddev(_), Cell::Float(a), Cell::Float(b)) => {
                (a - b).abs() <= 1e-9 * b.abs().max(1e-3)
            }
            _ => left == right,
        }
    }

    /// Facts about few cards and shops, hot and cold, with every irregularity that a log may hold.
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

    fn questions(chance: &mut Chance) -> Vec<Asked> {
        let mut group = |key| {
            let windows: Vec<i64> = (0..1 + chance.below(3)).map(|_| 1 + chance.below(200) as i64).collect();
            let delay = if chance.one_in(2) { 0 } else { chance.below(60) as i64 };
            let lateness_max = chance.below(120) as i64;
            let plan = plan(&windows, delay, lateness_max, every_aggregate());
            Asked { key, only_counted: chance.one_in(2), plan }
        };
        vec![group(CARD), group(SHOP)]
    }

    #[test]
    fn every_answer_is_what_a_scan_of_all_facts_gives() {
        for seed in 0..12 {
            let mut chance = Chance(seed);
            let facts = scenario(&mut chance, 150);
            let asked = questions(&mut chance);
            let runs: Vec<RecordBatch> =
                (1..=3).map(|workers| fast(&facts, &asked, workers, Groups::Random(seed))).collect();
            assert!(
                runs.iter().all(|rows| rows.num_rows() == facts.len()),
                "seed {seed}: each row comes out once"
            );
            for (place, group) in asked.iter().enumerate() {
                let mut names = group.names(place).into_iter();
                for width in &group.plan.windows {
                    let seen: Vec<_> =
                        facts.iter().map(|fact| seen(&facts, fact, group, width.micros())).collect();
                    for aggregate in &group.plan.aggregates {
                        let name = names.next().expect("one for each answer");
                        for (run, rows) in runs.iter().enumerate() {
                            let column = rows.column_by_name(&name).expect("an answer of each name");
                            for (row, (fact, seen)) in facts.iter().zip(&seen).enumerate() {
                                let wanted =
                                    seen.as_ref().map_or(Cell::Null, |seen| slow(seen, fact, *aggregate));
                                let got = cell(column, row);
                                assert!(
                                    agree(*aggregate, got, wanted),
                                    "seed {seed}, {} workers, {name}: {got:?}, not {wanted:?}, for {fact:?}, {group:?}",
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
            let asked = questions(&mut chance);
            let whole = fast(&facts, &asked, 1, Groups::Of(1000));
            for (workers, groups) in [
                (1, Groups::Of(1)),
                (1, Groups::Of(7)),
                (2, Groups::Of(7)),
                (3, Groups::Of(1000)),
                (2, Groups::Random(seed)),
            ] {
                let rows = fast(&facts, &asked, workers, groups);
                assert!(rows == whole, "seed {seed}, {workers} workers, {groups:?}");
            }
        }
    }

    /// Facts of one card, a line each: `tick time cents`, in microseconds; answers to counts and sums.
    fn check(plan: WindowPlan, lines: &str, wanted: &Expect) {
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
        let asked = [Asked { key: CARD, only_counted: false, plan }];
        let rows = fast(&facts, &asked, 1, Groups::Of(2));
        let shown: Vec<String> = (0..rows.num_rows())
            .map(|row| {
                let answers: Vec<String> = asked[0]
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
                format!("@{} {}: {}{reason}\n", facts[row].tick.micros(), facts[row].time, answers.join(" "))
            })
            .collect();
        wanted.assert_eq(&shown.concat());
    }

    #[test]
    fn a_window_holds_its_end_and_not_its_start() {
        // Width 10: at 110 the row of 100 has just left, that of 101 is still there.
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
        // Width 10 and delay 5: the event at 115 sees (100, 110].
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
    fn a_late_fact_is_seen_from_its_tick_on_and_itself_sees_its_own_time() {
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
