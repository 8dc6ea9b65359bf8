//! [`Effective`]: the values that a setting has over time, and which rows of a batch each applies
//! to.
//!
//! A revision takes effect at a tick and applies until the next one does. So a batch is split at
//! those ticks and each part is processed with one value; no value is looked up row by row.

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use tidegate_facts::Tick;

use super::rows::ticks_of;

/// Values of type `T` and the tick from which each is effective.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effective<T> {
    first: T,
    /// The later values, in the order of their ticks.
    later: Vec<(Tick, T)>,
}

impl<T> Effective<T> {
    /// A value that is effective from the beginning.
    pub fn always(first: T) -> Effective<T> {
        Effective { first, later: Vec::new() }
    }

    /// Makes `value` effective from `tick` on.
    ///
    /// # Panics
    /// When there is a change at `tick` or later; changes are added in the order of the log.
    pub fn change(&mut self, tick: Tick, value: T) {
        let last = self.later.last().map_or(Tick::ZERO, |(tick, _)| *tick);
        assert!(last < tick, "changes come in the order of their ticks");
        self.later.push((tick, value));
    }

    /// The value that is effective at a tick.
    pub fn at(&self, tick: Tick) -> &T {
        self.get(self.changes_until(tick))
    }

    /// The value that is effective from the beginning.
    pub fn first(&self) -> &T {
        &self.first
    }

    /// The value that is effective last: that of the last change, or the first when there is none.
    pub fn last(&self) -> &T {
        self.later.last().map_or(&self.first, |(_, value)| value)
    }

    /// Every value, in the order in which they become effective.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        std::iter::once(&self.first).chain(self.later.iter().map(|(_, value)| value))
    }

    /// The tick of every change of the effective value, ascending.
    pub fn changes(&self) -> impl Iterator<Item = Tick> {
        self.later.iter().map(|(tick, _)| *tick)
    }

    /// Maps every value; the ticks from which they are effective stay.
    pub fn map<U>(&self, mut value: impl FnMut(&T) -> U) -> Effective<U> {
        let first = value(&self.first);
        Effective { first, later: self.later.iter().map(|(tick, v)| (*tick, value(v))).collect() }
    }

    /// Combines two effective values that change independently: the result changes whenever either
    /// does.
    pub fn combine<U, V>(&self, other: &Effective<U>, both: impl Fn(&T, &U) -> V) -> Effective<V> {
        let mut ticks: Vec<Tick> = self.changes().chain(other.changes()).collect();
        ticks.sort_unstable();
        ticks.dedup();
        let later = ticks.into_iter().map(|tick| (tick, both(self.at(tick), other.at(tick))));
        Effective { first: both(&self.first, &other.first), later: later.collect() }
    }

    /// Splits a batch by the value that is effective at each row's tick; rows keep their order.
    ///
    /// # Panics
    /// When the batch has no `_tick`; the plan gives one to every stream.
    pub fn split(&self, batch: &RecordBatch) -> Vec<(&T, RecordBatch)> {
        let ticks = ticks_of(batch).values();
        let (Some(least), Some(greatest)) = (ticks.iter().min(), ticks.iter().max()) else {
            return vec![(&self.first, batch.clone())];
        };
        let (from, to) = (self.changes_until(Tick(*least)), self.changes_until(Tick(*greatest)));
        if from == to {
            return vec![(self.get(from), batch.clone())];
        }
        let mut rows: Vec<Vec<u32>> = vec![Vec::new(); to - from + 1];
        for (row, tick) in ticks.iter().enumerate() {
            rows[self.changes_until(Tick(*tick)) - from].push(row as u32);
        }
        let parts = rows.into_iter().enumerate().filter(|(_, rows)| !rows.is_empty());
        parts
            .map(|(index, rows)| {
                let part = take_record_batch(batch, &UInt32Array::from(rows));
                (self.get(from + index), part.expect("the row numbers are in range"))
            })
            .collect()
    }

    /// The count of changes up to a tick: the index of the value that is effective at it.
    fn changes_until(&self, tick: Tick) -> usize {
        self.later.partition_point(|(since, _)| *since <= tick)
    }

    fn get(&self, index: usize) -> &T {
        if index == 0 { &self.first } else { &self.later[index - 1].1 }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, AsArray};

    use expect_test::{Expect, expect};
    use tidegate_facts::columns;

    use super::*;

    fn changing() -> Effective<&'static str> {
        let mut letters = Effective::always("a");
        letters.change(Tick(10), "b");
        letters.change(Tick(20), "c");
        letters
    }

    /// Each part of a batch with these ticks, on a line of its own.
    fn check(ticks: &[i64], expected: &Expect) {
        let column: ArrayRef = Arc::new(columns::TickArray::from(ticks.to_vec()));
        let batch = RecordBatch::try_from_iter([(columns::TICK, column)]).unwrap();
        let parts: Vec<String> = changing()
            .split(&batch)
            .into_iter()
            .map(|(letter, part)| {
                let ticks = part.column(0).as_primitive::<columns::TickType>().values().to_vec();
                format!("{letter} {ticks:?}\n")
            })
            .collect();
        expected.assert_eq(&parts.concat());
    }

    #[test]
    fn a_change_is_effective_from_its_own_tick_on() {
        let letters = changing();
        let seen: Vec<_> = [0, 9, 10, 19, 20, i64::MAX].map(|tick| *letters.at(Tick(tick))).into();
        assert_eq!(seen, ["a", "a", "b", "b", "c", "c"]);
        assert_eq!((letters.first(), letters.last()), (&"a", &"c"));
    }

    #[test]
    fn a_batch_is_split_at_each_change() {
        check(
            &[1, 9, 10, 15, 30],
            &expect![[r#"
                a [1, 9]
                b [10, 15]
                c [30]
            "#]],
        );
    }

    #[test]
    fn rows_out_of_order_keep_their_order_within_a_part() {
        check(
            &[30, 11, 25, 10],
            &expect![[r#"
                b [11, 10]
                c [30, 25]
            "#]],
        );
    }

    #[test]
    fn a_batch_within_one_revision_is_not_split() {
        check(
            &[12, 11],
            &expect![[r#"
                b [12, 11]
            "#]],
        );
        check(
            &[],
            &expect![[r#"
                a []
            "#]],
        );
    }

    #[test]
    fn a_combined_value_changes_at_every_tick_of_either() {
        let mut numbers = Effective::always(1);
        numbers.change(Tick(10), 2);
        numbers.change(Tick(15), 3);
        let both = changing().combine(&numbers, |letter, number| format!("{letter}{number}"));
        let seen: Vec<String> = both.values().cloned().collect();
        assert_eq!(seen, ["a1", "b2", "b3", "c3"]);
        assert_eq!(both.changes().collect::<Vec<_>>(), [Tick(10), Tick(15), Tick(20)]);
    }
}
