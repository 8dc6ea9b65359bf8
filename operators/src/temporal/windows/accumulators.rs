//! Accumulators of windows: the state of each aggregate for each request, batch by batch, and its
//! result.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, Decimal128Array, Float64Array, Int64Array};
use arrow::datatypes::DataType;
use tidegate_facts::Tick;

use crate::temporal::temporal_lookup::LookupRequests;
use crate::temporal::timeline::{TimelineBatch, measure_column};

/// An aggregate function that accumulates the rows of a window; numbers are indexes of measures of
/// the timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aggregate {
    /// The count of rows.
    Count,
    /// The count of values that are not null.
    CountOf(usize),
    /// The sum of the values; null when there are none.
    Sum(usize),
    /// The average of the values; null when there are none.
    Avg(usize),
    /// The least value.
    Min(usize),
    /// The greatest value.
    Max(usize),
    /// The sample standard deviation; null for fewer than two values.
    Stddev(usize),
    /// The count of distinct values.
    Distinct(usize),
    /// The value of the latest row, by event time and then tick, with a value that is not null. The
    /// event's own row counts.
    Last(usize),
    /// Microseconds from the latest other row to the event; null when there is none.
    TimeSinceLast,
}

/// The rows of a batch that are in the window of one request.
#[derive(Clone, Copy, Debug)]
pub(super) struct WindowRows {
    request: u32,
    start: u32,
    end: u32,
}

impl WindowRows {
    pub(super) fn new(request: usize, rows: Range<usize>) -> WindowRows {
        WindowRows { request: request as u32, start: rows.start as u32, end: rows.end as u32 }
    }

    fn request(self) -> usize {
        self.request as usize
    }

    fn rows(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// The state of one aggregate for each request.
pub(super) enum Accumulators {
    Count(Vec<i64>),
    CountOf(usize, Vec<i64>),
    /// Sums, and counts of their values.
    Sum(usize, Vec<(i128, u64)>),
    /// Sums, sums of squares, and counts of their values.
    Squares(usize, Vec<(i128, i128, u64)>),
    Least(usize, Vec<Option<i64>>),
    Greatest(usize, Vec<Option<i64>>),
    Distinct(usize, Vec<Vec<i64>>),
    /// The latest row so far, and its value.
    Last(usize, Vec<Option<(i64, Tick, i64)>>),
    /// The time of the latest row before the requesting one.
    Before(Vec<Option<i64>>),
}

impl Accumulators {
    pub(super) fn new(aggregate: Aggregate, requests: usize) -> Accumulators {
        match aggregate {
            Aggregate::Count => Accumulators::Count(vec![0; requests]),
            Aggregate::CountOf(m) => Accumulators::CountOf(m, vec![0; requests]),
            Aggregate::Sum(m) | Aggregate::Avg(m) => Accumulators::Sum(m, vec![(0, 0); requests]),
            Aggregate::Stddev(m) => Accumulators::Squares(m, vec![(0, 0, 0); requests]),
            Aggregate::Min(m) => Accumulators::Least(m, vec![None; requests]),
            Aggregate::Max(m) => Accumulators::Greatest(m, vec![None; requests]),
            Aggregate::Distinct(m) => Accumulators::Distinct(m, vec![Vec::new(); requests]),
            Aggregate::Last(m) => Accumulators::Last(m, vec![None; requests]),
            Aggregate::TimeSinceLast => Accumulators::Before(vec![None; requests]),
        }
    }

    /// Adds the rows of one batch that are in the windows of requests.
    pub(super) fn add(&mut self, batch: &TimelineBatch, windows: &[WindowRows], requests: &LookupRequests) {
        let values = |measure: usize, window: &WindowRows| {
            window.rows().filter_map(move |row| batch.value(measure, row))
        };
        match self {
            Accumulators::Count(counts) => {
                for window in windows {
                    counts[window.request()] += i64::from(window.end - window.start);
                }
            }
            Accumulators::CountOf(m, counts) => {
                for window in windows {
                    counts[window.request()] += batch.present(*m, window.rows()) as i64;
                }
            }
            Accumulators::Sum(m, sums) => {
                for window in windows {
                    let (sum, count) = &mut sums[window.request()];
                    *sum += batch.sum(*m, window.rows());
                    *count += batch.present(*m, window.rows());
                }
            }
            Accumulators::Squares(m, sums) => {
                for window in windows {
                    let (sum, squares, count) = &mut sums[window.request()];
                    *sum += batch.sum(*m, window.rows());
                    *squares += batch.sum_of_squares(*m, window.rows());
                    *count += batch.present(*m, window.rows());
                }
            }
            Accumulators::Least(m, least) => {
                for window in windows {
                    let least = &mut least[window.request()];
                    *least = values(*m, window).chain(*least).min();
                }
            }
            Accumulators::Greatest(m, greatest) => {
                for window in windows {
                    let greatest = &mut greatest[window.request()];
                    *greatest = values(*m, window).chain(*greatest).max();
                }
            }
            Accumulators::Distinct(m, distinct) => {
                for window in windows {
                    let distinct = &mut distinct[window.request()];
                    distinct.extend(values(*m, window));
                    distinct.sort_unstable();
                    distinct.dedup();
                }
            }
            Accumulators::Last(m, last) => {
                for window in windows {
                    let found = window.rows().rev().find_map(|row| {
                        batch.value(*m, row).map(|value| (batch.times()[row], batch.ticks()[row], value))
                    });
                    last[window.request()] = last[window.request()].max(found);
                }
            }
            Accumulators::Before(before) => {
                for window in windows {
                    let own = (!requests.is_query).then_some(requests.ticks[window.request()]);
                    let found = window.rows().rev().find(|row| Some(batch.ticks()[*row]) != own);
                    before[window.request()] =
                        before[window.request()].max(found.map(|row| batch.times()[row]));
                }
            }
        }
    }

    /// The results as a column, given the types of the measures; null for each request that is
    /// `beyond` retention.
    pub(super) fn finish(
        self,
        measures: &[DataType],
        aggregate: Aggregate,
        requests: &LookupRequests,
        beyond: &[bool],
    ) -> ArrayRef {
        let scale = |m: usize| match measures[m] {
            DataType::Decimal128(_, scale) => 10f64.powi(i32::from(scale)),
            _ => 1.0,
        };
        fn unless_beyond<T: Copy>(cells: &[T], beyond: &[bool]) -> impl Iterator<Item = Option<T>> {
            cells.iter().zip(beyond).map(|(cell, beyond)| (!beyond).then_some(*cell))
        }
        match self {
            Accumulators::Count(counts) | Accumulators::CountOf(_, counts) => {
                Arc::new(unless_beyond(&counts, beyond).collect::<Int64Array>())
            }
            Accumulators::Sum(m, sums) if aggregate == Aggregate::Avg(m) => {
                // Both operands are exact below 2^53, so the division is the only rounding.
                let scale = scale(m);
                let average =
                    |(sum, count): (i128, u64)| (count > 0).then(|| sum as f64 / (count as f64 * scale));
                Arc::new(
                    unless_beyond(&sums, beyond).map(|cell| cell.and_then(average)).collect::<Float64Array>(),
                )
            }
            Accumulators::Sum(m, sums) => {
                let some = unless_beyond(&sums, beyond)
                    .map(|cell| cell.filter(|(_, count)| *count > 0).map(|(sum, _)| sum));
                match measures[m] {
                    DataType::Decimal128(_, scale) => Arc::new(
                        some.collect::<Decimal128Array>()
                            .with_precision_and_scale(38, scale)
                            .expect("38 digits fit"),
                    ),
                    _ => Arc::new(
                        some.map(|sum| sum.and_then(|s| i64::try_from(s).ok())).collect::<Int64Array>(),
                    ),
                }
            }
            Accumulators::Squares(m, sums) => {
                let scale = scale(m);
                let deviation = |(sum, squares, count): (i128, i128, u64)| {
                    (count > 1).then(|| {
                        let n = i128::from(count);
                        let exact =
                            n.checked_mul(squares).zip(sum.checked_mul(sum)).map(|(a, b)| (a - b) as f64);
                        let scaled = exact.unwrap_or(n as f64 * squares as f64 - sum as f64 * sum as f64);
                        (scaled.max(0.0) / (count as f64 * (count - 1) as f64)).sqrt() / scale
                    })
                };
                Arc::new(
                    unless_beyond(&sums, beyond)
                        .map(|cell| cell.and_then(deviation))
                        .collect::<Float64Array>(),
                )
            }
            Accumulators::Least(m, found) | Accumulators::Greatest(m, found) => {
                measure_column(&measures[m], unless_beyond(&found, beyond).map(Option::flatten))
            }
            Accumulators::Distinct(_, distinct) => {
                let counts: Vec<i64> = distinct.iter().map(|values| values.len() as i64).collect();
                Arc::new(unless_beyond(&counts, beyond).collect::<Int64Array>())
            }
            Accumulators::Last(m, found) => measure_column(
                &measures[m],
                unless_beyond(&found, beyond).map(|cell| cell.flatten().map(|(_, _, value)| value)),
            ),
            Accumulators::Before(found) => {
                let since = unless_beyond(&found, beyond)
                    .zip(&requests.times)
                    .map(|(cell, request)| cell.flatten().map(|time| request - time));
                Arc::new(since.collect::<Int64Array>())
            }
        }
    }
}
