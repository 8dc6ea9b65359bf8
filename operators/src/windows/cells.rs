//! What each aggregate gathers for each ask, batch by batch, and how that becomes an answer.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Decimal128Array, Float64Array, Int32Array, Int64Array, TimestampMicrosecondArray,
};
use arrow::datatypes::DataType;
use tidegate_facts::Tick;
use tidegate_facts::schema::timestamp;

use super::{Aggregate, WindowPlan};
use crate::lookup::Asks;
use crate::timeline::TimelineBatch;

/// Rows of a batch that are in the window of an ask.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    ask: u32,
    start: u32,
    end: u32,
}

impl Seen {
    pub(super) fn new(ask: usize, rows: Range<usize>) -> Seen {
        Seen { ask: ask as u32, start: rows.start as u32, end: rows.end as u32 }
    }

    fn ask(self) -> usize {
        self.ask as usize
    }

    fn rows(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// What one aggregate has gathered so far, for each ask.
pub(super) enum Cells {
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
    /// The time of the latest row before the asking one.
    Before(Vec<Option<i64>>),
}

impl Cells {
    pub(super) fn new(aggregate: Aggregate, asks: usize) -> Cells {
        match aggregate {
            Aggregate::Count => Cells::Count(vec![0; asks]),
            Aggregate::CountOf(m) => Cells::CountOf(m, vec![0; asks]),
            Aggregate::Sum(m) | Aggregate::Avg(m) => Cells::Sum(m, vec![(0, 0); asks]),
            Aggregate::Stddev(m) => Cells::Squares(m, vec![(0, 0, 0); asks]),
            Aggregate::Min(m) => Cells::Least(m, vec![None; asks]),
            Aggregate::Max(m) => Cells::Greatest(m, vec![None; asks]),
            Aggregate::Distinct(m) => Cells::Distinct(m, vec![Vec::new(); asks]),
            Aggregate::Last(m) => Cells::Last(m, vec![None; asks]),
            Aggregate::TimeSinceLast => Cells::Before(vec![None; asks]),
        }
    }

    /// Adds what the asks see of one batch.
    pub(super) fn add(&mut self, batch: &TimelineBatch, seen: &[Seen], asks: &Asks) {
        let values =
            |measure: usize, seen: &Seen| seen.rows().filter_map(move |row| batch.value(measure, row));
        match self {
            Cells::Count(counts) => {
                for seen in seen {
                    counts[seen.ask()] += i64::from(seen.end - seen.start);
                }
            }
            Cells::CountOf(m, counts) => {
                for seen in seen {
                    counts[seen.ask()] += batch.present(*m, seen.rows()) as i64;
                }
            }
            Cells::Sum(m, sums) => {
                for seen in seen {
                    let (sum, count) = &mut sums[seen.ask()];
                    *sum += batch.sum(*m, seen.rows());
                    *count += batch.present(*m, seen.rows());
                }
            }
            Cells::Squares(m, sums) => {
                for seen in seen {
                    let (sum, squares, count) = &mut sums[seen.ask()];
                    *sum += batch.sum(*m, seen.rows());
                    *squares += batch.sum_of_squares(*m, seen.rows());
                    *count += batch.present(*m, seen.rows());
                }
            }
            Cells::Least(m, least) => {
                for seen in seen {
                    let least = &mut least[seen.ask()];
                    *least = values(*m, seen).chain(*least).min();
                }
            }
            Cells::Greatest(m, greatest) => {
                for seen in seen {
                    let greatest = &mut greatest[seen.ask()];
                    *greatest = values(*m, seen).chain(*greatest).max();
                }
            }
            Cells::Distinct(m, distinct) => {
                for seen in seen {
                    let distinct = &mut distinct[seen.ask()];
                    distinct.extend(values(*m, seen));
                    distinct.sort_unstable();
                    distinct.dedup();
                }
            }
            Cells::Last(m, last) => {
                for seen in seen {
                    let found = seen.rows().rev().find_map(|row| {
                        batch.value(*m, row).map(|value| (batch.times()[row], batch.ticks()[row], value))
                    });
                    last[seen.ask()] = last[seen.ask()].max(found);
                }
            }
            Cells::Before(before) => {
                for seen in seen {
                    let own = (!asks.from_outside).then_some(asks.ticks[seen.ask()]);
                    let found = seen.rows().rev().find(|row| Some(batch.ticks()[*row]) != own);
                    before[seen.ask()] = before[seen.ask()].max(found.map(|row| batch.times()[row]));
                }
            }
        }
    }

    /// The answers as a column; null where `beyond`.
    pub(super) fn finish(
        self,
        plan: &WindowPlan,
        aggregate: Aggregate,
        asks: &Asks,
        beyond: &[bool],
    ) -> ArrayRef {
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
                let average =
                    |(sum, count): (i128, u64)| (count > 0).then(|| sum as f64 / (count as f64 * scale));
                Arc::new(kept(&sums, beyond).map(|cell| cell.and_then(average)).collect::<Float64Array>())
            }
            Cells::Sum(m, sums) => {
                let some =
                    kept(&sums, beyond).map(|cell| cell.filter(|(_, count)| *count > 0).map(|(sum, _)| sum));
                match plan.measures[m] {
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
            Cells::Squares(m, sums) => {
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
                Arc::new(kept(&sums, beyond).map(|cell| cell.and_then(deviation)).collect::<Float64Array>())
            }
            Cells::Least(m, found) | Cells::Greatest(m, found) => {
                values_of(&plan.measures[m], kept(&found, beyond).map(Option::flatten))
            }
            Cells::Distinct(_, distinct) => {
                let counts: Vec<i64> = distinct.iter().map(|values| values.len() as i64).collect();
                Arc::new(kept(&counts, beyond).collect::<Int64Array>())
            }
            Cells::Last(m, found) => values_of(
                &plan.measures[m],
                kept(&found, beyond).map(|cell| cell.flatten().map(|(_, _, value)| value)),
            ),
            Cells::Before(found) => {
                let since = kept(&found, beyond)
                    .zip(&asks.times)
                    .map(|(cell, asked)| cell.flatten().map(|time| asked - time));
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
