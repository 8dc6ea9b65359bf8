//! Exact sliding windows over a timeline, as of each asking event's tick.
//!
//! For an event of time `t` and tick `T` a window of width `w` and delay `d` holds the rows of its key
//! with an event time in `(t - d - w, t - d]` and a tick not above `T`. Everything that is summed is an
//! integer; the only division is the last step of `avg` and `stddev`.
//!
//! The asks of a batch are sorted as the timeline is, so one walk over each of the timeline's batches
//! answers them all: the edges of the windows only move forward. A sum is the difference of two
//! running sums. Two cases cost more, and only where they occur: `min`, `max` and `distinct` read the
//! rows of the window, and rows of a key that came out of event-time order within one batch are
//! checked tick by tick while some of the batch is above the asking tick.

use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, BooleanArray, Decimal128Array, DictionaryArray, Float64Array, Int32Array, Int32Builder,
    Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field};
use tidegate_facts::schema::timestamp;
use tidegate_facts::{Span, Tick, columns};

use crate::keys::keys_of;
use crate::lookup::{Asks, Group, look_up, micros_of, with_columns};
use crate::rows::{RowStream, ticks_of};
use crate::snapshot::snapshot_digests;
use crate::timeline::{Keep, Layout, Measure, TimelineBatch, arrange_timeline, entries_of};

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
            Aggregate::Count | Aggregate::CountOf(_) | Aggregate::Distinct(_) | Aggregate::TimeSinceLast => DataType::Int64,
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
        let longest = self.windows.iter().map(|w| w.micros()).max().unwrap_or(0);
        longest.saturating_add(self.delay).saturating_add(self.lateness_max)
    }

    /// Whether an event is too late to be answered: rows it would need may be gone.
    pub fn is_beyond_retention(&self, time: i64, tick: Tick) -> bool {
        tick.micros().saturating_sub(time) > self.lateness_max
    }

    /// The answers to `asks`: for each window in order, for each aggregate in order, one column.
    ///
    /// Asks without a key see no rows. Asks beyond retention are answered with nulls.
    pub fn read(&self, batches: &[Rc<TimelineBatch>], asks: &Asks) -> Vec<ArrayRef> {
        let order = asks.in_timeline_order();
        let beyond: Vec<bool> =
            asks.times.iter().zip(&asks.ticks).map(|(time, tick)| self.is_beyond_retention(*time, *tick)).collect();
        let mut cells: Vec<Vec<Cells>> = self
            .windows
            .iter()
            .map(|_| self.aggregates.iter().map(|a| Cells::new(*a, asks.len())).collect())
            .collect();
        for batch in batches {
            self.walk(batch, asks, &order, &mut cells);
        }
        cells
            .into_iter()
            .flat_map(|window| window.into_iter().zip(&self.aggregates))
            .map(|(cells, aggregate)| cells.finish(self, *aggregate, &beyond))
            .collect()
    }

    /// Adds what one batch holds for each ask.
    fn walk(&self, batch: &TimelineBatch, asks: &Asks, order: &[u32], cells: &mut [Vec<Cells>]) {
        let mut place = 0;
        let mut from = 0;
        let mut edges = vec![0; self.windows.len()];
        while from < order.len() {
            let key = asks.keys[order[from] as usize];
            let to = from + order[from..].iter().take_while(|i| asks.keys[**i as usize] == key).count();
            place = gallop(batch.keys(), place, |k| *k < key);
            if place == batch.keys().len() {
                return;
            }
            if batch.keys()[place] == key {
                let rows = batch.rows(place);
                edges.fill(rows.start);
                let mut end = rows.start;
                for ask in &order[from..to] {
                    let ask = *ask as usize;
                    let until = asks.times[ask] - self.delay;
                    end = rows_until(batch.times(), end, rows.end, until);
                    let selection_end = Selection::end(batch, place, &rows, end, asks.ticks[ask]);
                    for (window, width) in self.windows.iter().enumerate() {
                        let start = rows_until(batch.times(), edges[window], rows.end, until - width.micros());
                        edges[window] = start;
                        let selection = selection_end.starting(start);
                        if selection.rows.is_empty() {
                            continue;
                        }
                        for cell in &mut cells[window] {
                            cell.add(batch, &selection, ask, asks.times[ask], asks.ticks[ask]);
                        }
                    }
                }
            }
            from = to;
        }
    }
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
}

/// The columns that every windows node adds after its answers.
///
/// | column | meaning |
/// |---|---|
/// | `features_reason` | `BEYOND_RETENTION` where the event came too late to be answered |
/// | `snapshot_digest` | what [`snapshot_digests`] says of the answers |
pub fn closing_fields() -> Vec<Field> {
    vec![
        Field::new("features_reason", columns::dictionary(), true),
        Field::new("snapshot_digest", DataType::FixedSizeBinary(32), false),
    ]
}

/// Each row with the answers of every group, the reason for missing ones, and the digest of it all.
///
/// * Input: asking rows at home, with `event_id` and `basis`; the rows of each group.
/// * Output: each row once, at home, at the time of its message.
/// * State: one timeline a group, kept for its longest window, delay and lateness.
pub fn windows<'scope>(rows: RowStream<'scope>, groups: Vec<WindowGroup<'scope>>, name: &str) -> RowStream<'scope> {
    let mut answered = Vec::new();
    let mut lateness = Vec::new();
    let groups = groups
        .into_iter()
        .map(|WindowGroup { over, key, time, plan, measures, names }| {
            let fields = plan.windows.iter().flat_map(|_| &plan.aggregates).zip(&names);
            answered.push(
                fields.map(|(a, name)| Field::new(name, plan.answer_type(*a), true)).collect::<Vec<_>>(),
            );
            lateness.push((time, plan.clone()));
            let layout = Arc::new(Layout { measures, keep: Keep::Span(plan.retention()) });
            Group {
                ask: Box::new(move |batch| (keys_of(batch.column(key)), micros_of(batch.column(time)))),
                timeline: arrange_timeline(entries_of(over, name), &layout, name).arranged,
                read: Box::new(move |batches, asks| plan.read(batches, asks)),
            }
        })
        .collect();
    look_up(rows, groups, name, move |batch, answers| {
        let more: Vec<(Field, ArrayRef)> =
            answered.iter().flatten().cloned().zip(answers.into_iter().flatten()).collect();
        let features = more.iter().map(|(field, column)| (field.name().as_str(), column));
        let event_ids = batch.column_by_name(columns::EVENT_ID).expect("the plan checks it").as_string::<i32>();
        let basis = batch.column_by_name(columns::BASIS).expect("the plan adds it").as_list::<i32>();
        let digests = snapshot_digests(ticks_of(&batch), event_ids, basis, features);
        let reasons = reasons(&batch, &lateness);
        let [reason_field, digest_field] = closing_fields().try_into().expect("two fields");
        let closing = [(reason_field, reasons), (digest_field, Arc::new(digests) as ArrayRef)];
        with_columns(&batch, more.into_iter().chain(closing))
    })
}

/// `BEYOND_RETENTION` for the rows that some group could not answer.
fn reasons(batch: &RecordBatch, lateness: &[(usize, WindowPlan)]) -> ArrayRef {
    let ticks = ticks_of(batch).values();
    let mut late: Int32Builder = Int32Builder::with_capacity(batch.num_rows());
    let times: Vec<Vec<i64>> = lateness.iter().map(|(time, _)| micros_of(batch.column(*time))).collect();
    for (row, tick) in ticks.iter().enumerate() {
        let beyond =
            times.iter().zip(lateness).any(|(times, (_, plan))| plan.is_beyond_retention(times[row], Tick(*tick)));
        late.append_option(beyond.then_some(0));
    }
    let values = Arc::new(StringArray::from_iter_values(["BEYOND_RETENTION"]));
    Arc::new(DictionaryArray::new(late.finish(), values))
}

/// The first place at or after `from` where `before` no longer holds; places nearby are found fastest.
fn gallop<T>(slice: &[T], from: usize, before: impl Fn(&T) -> bool) -> usize {
    let mut step = 1;
    let mut low = from;
    while low + step <= slice.len() && before(&slice[low + step - 1]) {
        low += step;
        step *= 2;
    }
    let high = (low + step).min(slice.len());
    low + slice[low..high].partition_point(before)
}

/// The first row at or after `from` and before `to` whose time is above `until`, else `to`.
fn rows_until(times: &[i64], from: usize, to: usize, until: i64) -> usize {
    gallop(&times[..to], from, |time| *time <= until)
}

/// Rows of one key in one batch: those of `rows`, and of them only the ones up to `tick` if it is given.
struct Selection {
    rows: Range<usize>,
    tick: Option<Tick>,
}

impl Selection {
    /// The selection of all rows before `end` with a tick not above `tick`.
    fn end(batch: &TimelineBatch, place: usize, rows: &Range<usize>, end: usize, tick: Tick) -> Selection {
        if batch.tick_last() <= tick {
            return Selection { rows: rows.start..end, tick: None };
        }
        if !batch.in_order(place) {
            return Selection { rows: rows.start..end, tick: Some(tick) };
        }
        let end = if end > rows.start && batch.ticks()[end - 1] > tick {
            rows.start + batch.ticks()[rows.start..end].partition_point(|t| *t <= tick)
        } else {
            end
        };
        Selection { rows: rows.start..end, tick: None }
    }

    fn starting(&self, start: usize) -> Selection {
        Selection { rows: start..self.rows.end.max(start), tick: self.tick }
    }

    /// The selected rows, latest last.
    fn each<'b>(&self, batch: &'b TimelineBatch) -> impl DoubleEndedIterator<Item = usize> + use<'b> {
        let tick = self.tick;
        self.rows.clone().filter(move |row| tick.is_none_or(|t| batch.ticks()[*row] <= t))
    }
}

/// What one aggregate has gathered so far, for each ask.
enum Cells {
    Count(Vec<i64>),
    CountOf(usize, Vec<i64>),
    /// Sums and how many values they are of.
    Sum(usize, Vec<(i128, u64)>),
    /// Sums, sums of squares, and how many values they are of.
    Squares(usize, Vec<(i128, i128, u64)>),
    Least(usize, Vec<Option<i64>>),
    Greatest(usize, Vec<Option<i64>>),
    Distinct(usize, Vec<Vec<i64>>),
    /// The latest row so far, and its value.
    Last(usize, Vec<Option<(i64, Tick, i64)>>),
    /// The latest row before the asking one.
    Before(Vec<Option<(i64, Tick)>>, Vec<i64>),
}

impl Cells {
    fn new(aggregate: Aggregate, asks: usize) -> Cells {
        match aggregate {
            Aggregate::Count => Cells::Count(vec![0; asks]),
            Aggregate::CountOf(m) => Cells::CountOf(m, vec![0; asks]),
            Aggregate::Sum(m) | Aggregate::Avg(m) => Cells::Sum(m, vec![(0, 0); asks]),
            Aggregate::Stddev(m) => Cells::Squares(m, vec![(0, 0, 0); asks]),
            Aggregate::Min(m) => Cells::Least(m, vec![None; asks]),
            Aggregate::Max(m) => Cells::Greatest(m, vec![None; asks]),
            Aggregate::Distinct(m) => Cells::Distinct(m, vec![Vec::new(); asks]),
            Aggregate::Last(m) => Cells::Last(m, vec![None; asks]),
            Aggregate::TimeSinceLast => Cells::Before(vec![None; asks], vec![0; asks]),
        }
    }

    #[inline]
    fn add(&mut self, batch: &TimelineBatch, selection: &Selection, ask: usize, time: i64, tick: Tick) {
        let whole = selection.tick.is_none();
        let rows = || selection.rows.clone();
        match self {
            Cells::Count(counts) => {
                counts[ask] += if whole { rows().len() as i64 } else { selection.each(batch).count() as i64 };
            }
            Cells::CountOf(m, counts) => {
                counts[ask] += if whole {
                    batch.present(*m, rows()) as i64
                } else {
                    selection.each(batch).filter(|row| batch.value(*m, *row).is_some()).count() as i64
                };
            }
            Cells::Sum(m, sums) => {
                let (sum, count) = &mut sums[ask];
                if whole {
                    *sum += batch.sum(*m, rows());
                    *count += batch.present(*m, rows());
                } else {
                    for value in selection.each(batch).filter_map(|row| batch.value(*m, row)) {
                        *sum += i128::from(value);
                        *count += 1;
                    }
                }
            }
            Cells::Squares(m, sums) => {
                let (sum, squares, count) = &mut sums[ask];
                if whole {
                    *sum += batch.sum(*m, rows());
                    *squares += batch.sum_of_squares(*m, rows());
                    *count += batch.present(*m, rows());
                } else {
                    for value in selection.each(batch).filter_map(|row| batch.value(*m, row)).map(i128::from) {
                        *sum += value;
                        *squares += value * value;
                        *count += 1;
                    }
                }
            }
            Cells::Least(m, least) => {
                let found = selection.each(batch).filter_map(|row| batch.value(*m, row)).min();
                least[ask] = [least[ask], found].into_iter().flatten().min();
            }
            Cells::Greatest(m, greatest) => {
                let found = selection.each(batch).filter_map(|row| batch.value(*m, row)).max();
                greatest[ask] = greatest[ask].max(found);
            }
            Cells::Distinct(m, values) => {
                let values = &mut values[ask];
                values.extend(selection.each(batch).filter_map(|row| batch.value(*m, row)));
                values.sort_unstable();
                values.dedup();
            }
            Cells::Last(m, last) => {
                let found = selection.each(batch).rev().find_map(|row| {
                    batch.value(*m, row).map(|value| (batch.times()[row], batch.ticks()[row], value))
                });
                last[ask] = last[ask].max(found);
            }
            Cells::Before(before, asked) => {
                asked[ask] = time;
                let found = selection.each(batch).rev().find(|row| batch.ticks()[*row] != tick);
                before[ask] = before[ask].max(found.map(|row| (batch.times()[row], batch.ticks()[row])));
            }
        }
    }

    /// The answers as a column; null where `beyond`.
    fn finish(self, plan: &WindowPlan, aggregate: Aggregate, beyond: &[bool]) -> ArrayRef {
        let scale = |m: usize| match plan.measures[m] {
            DataType::Decimal128(_, scale) => 10f64.powi(i32::from(scale)),
            _ => 1.0,
        };
        fn kept<T: Copy>(cells: &[T], beyond: &[bool]) -> impl Iterator<Item = Option<T>> {
            cells.iter().zip(beyond).map(|(cell, beyond)| (!beyond).then_some(*cell))
        }
        match self {
            Cells::Count(counts) | Cells::CountOf(_, counts) => {
                Arc::new(kept(&counts, beyond).collect::<Int64Array>())
            }
            Cells::Sum(m, sums) if aggregate == Aggregate::Avg(m) => {
                // Both operands are exact below 2^53, so this rounds once.
                let scale = scale(m);
                let average = |(sum, count): (i128, u64)| (count > 0).then(|| sum as f64 / (count as f64 * scale));
                Arc::new(kept(&sums, beyond).map(|cell| cell.and_then(average)).collect::<Float64Array>())
            }
            Cells::Sum(m, sums) => {
                let some = kept(&sums, beyond).map(|cell| cell.filter(|(_, count)| *count > 0).map(|(sum, _)| sum));
                match plan.measures[m] {
                    DataType::Decimal128(_, scale) => Arc::new(
                        some.collect::<Decimal128Array>().with_precision_and_scale(38, scale).expect("38 digits fit"),
                    ),
                    _ => Arc::new(some.map(|sum| sum.and_then(|s| i64::try_from(s).ok())).collect::<Int64Array>()),
                }
            }
            Cells::Squares(m, sums) => {
                let scale = scale(m);
                let deviation = |(sum, squares, count): (i128, i128, u64)| {
                    (count > 1).then(|| {
                        let n = i128::from(count);
                        let exact = n.checked_mul(squares).zip(sum.checked_mul(sum)).map(|(a, b)| (a - b) as f64);
                        let scaled = exact.unwrap_or_else(|| n as f64 * squares as f64 - sum as f64 * sum as f64);
                        (scaled.max(0.0) / (count as f64 * (count - 1) as f64)).sqrt() / scale
                    })
                };
                Arc::new(kept(&sums, beyond).map(|cell| cell.and_then(deviation)).collect::<Float64Array>())
            }
            Cells::Least(m, found) | Cells::Greatest(m, found) => {
                values_of(&plan.measures[m], kept(&found, beyond).map(Option::flatten))
            }
            Cells::Distinct(_, values) => {
                let counts: Vec<i64> = values.iter().map(|v| v.len() as i64).collect();
                Arc::new(kept(&counts, beyond).collect::<Int64Array>())
            }
            Cells::Last(m, found) => {
                values_of(&plan.measures[m], kept(&found, beyond).map(|cell| cell.flatten().map(|(_, _, value)| value)))
            }
            Cells::Before(found, asked) => {
                let since = found.iter().zip(asked).zip(beyond).map(|((found, asked), beyond)| {
                    found.filter(|_| !beyond).map(|(time, _)| asked - plan.delay - time)
                });
                Arc::new(since.collect::<Int64Array>())
            }
        }
    }
}

/// Measured values as a column of their own type.
///
/// # Panics
/// For a type that no measure has; the plan refuses those.
pub fn values_of(data_type: &DataType, values: impl Iterator<Item = Option<i64>>) -> ArrayRef {
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
            assert_eq!(*other, timestamp(), "no measure has this type");
            Arc::new(values.collect::<TimestampMicrosecondArray>().with_timezone("UTC"))
        }
    }
}
