//! What is in force from which tick on, and for which rows of a batch.
//!
//! A revision takes effect at a tick and holds until the next one does. So a batch is cut at those ticks
//! and each part is handled as a whole; within a part nothing is asked row by row.

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use tidegate_facts::Tick;

use crate::rows::ticks_of;

/// Values by the tick from which on each is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InForce<T> {
    first: T,
    /// In the order of their ticks.
    later: Vec<(Tick, T)>,
}

impl<T> InForce<T> {
    /// A value that is in force from the beginning.
    pub fn always(first: T) -> InForce<T> {
        InForce { first, later: Vec::new() }
    }

    /// Puts `value` in force from `tick` on.
    ///
    /// # Panics
    /// When a later change is known already: changes come in the order of the log.
    pub fn change(&mut self, tick: Tick, value: T) {
        let last = self.later.last().map_or(Tick::ZERO, |(tick, _)| *tick);
        assert!(last < tick, "changes come in the order of their ticks");
        self.later.push((tick, value));
    }

    /// What is in force at a tick.
    pub fn at(&self, tick: Tick) -> &T {
        self.get(self.place(tick))
    }

    /// What is in force from the beginning.
    pub fn first(&self) -> &T {
        &self.first
    }

    /// What is in force at the end.
    pub fn last(&self) -> &T {
        self.later.last().map_or(&self.first, |(_, value)| value)
    }

    /// Every value, in the order in which they come into force.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        std::iter::once(&self.first).chain(self.later.iter().map(|(_, value)| value))
    }

    /// Every tick at which something changes.
    pub fn changes(&self) -> impl Iterator<Item = Tick> {
        self.later.iter().map(|(tick, _)| *tick)
    }

    /// The same changes with other values.
    pub fn map<U>(&self, mut value: impl FnMut(&T) -> U) -> InForce<U> {
        let first = value(&self.first);
        InForce { first, later: self.later.iter().map(|(tick, v)| (*tick, value(v))).collect() }
    }

    /// What follows from two values that change on their own.
    pub fn with<U, V>(&self, other: &InForce<U>, both: impl Fn(&T, &U) -> V) -> InForce<V> {
        let mut ticks: Vec<Tick> = self.changes().chain(other.changes()).collect();
        ticks.sort_unstable();
        ticks.dedup();
        let later = ticks.into_iter().map(|tick| (tick, both(self.at(tick), other.at(tick))));
        InForce { first: both(&self.first, &other.first), later: later.collect() }
    }

    /// The rows of a batch for each value that is in force at the tick of any, in their order.
    ///
    /// # Panics
    /// When the batch has no `_tick`: the plan gives every stream one.
    pub fn split(&self, batch: &RecordBatch) -> Vec<(&T, RecordBatch)> {
        let ticks = ticks_of(batch).values();
        let (Some(least), Some(greatest)) = (ticks.iter().min(), ticks.iter().max()) else {
            return vec![(&self.first, batch.clone())];
        };
        let (from, to) = (self.place(Tick(*least)), self.place(Tick(*greatest)));
        if from == to {
            return vec![(self.get(from), batch.clone())];
        }
        let mut rows: Vec<Vec<u32>> = vec![Vec::new(); to - from + 1];
        for (row, tick) in ticks.iter().enumerate() {
            rows[self.place(Tick(*tick)) - from].push(row as u32);
        }
        let parts = rows.into_iter().enumerate().filter(|(_, rows)| !rows.is_empty());
        parts
            .map(|(place, rows)| {
                let part = take_record_batch(batch, &UInt32Array::from(rows));
                (self.get(from + place), part.expect("the places are the batch's own"))
            })
            .collect()
    }

    /// How many changes there were up to a tick.
    fn place(&self, tick: Tick) -> usize {
        self.later.partition_point(|(since, _)| *since <= tick)
    }

    fn get(&self, place: usize) -> &T {
        if place == 0 { &self.first } else { &self.later[place - 1].1 }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, AsArray, UInt64Array};
    use arrow::datatypes::UInt64Type;
    use expect_test::{Expect, expect};
    use tidegate_facts::columns;

    use super::*;

    fn changing() -> InForce<&'static str> {
        let mut letters = InForce::always("a");
        letters.change(Tick(10), "b");
        letters.change(Tick(20), "c");
        letters
    }

    /// Each part of a batch with these ticks, on a line of its own.
    fn check(ticks: &[u64], wanted: &Expect) {
        let column: ArrayRef = Arc::new(UInt64Array::from(ticks.to_vec()));
        let batch = RecordBatch::try_from_iter([(columns::TICK, column)]).unwrap();
        let shown: Vec<String> = changing()
            .split(&batch)
            .into_iter()
            .map(|(letter, part)| {
                let ticks = part.column(0).as_primitive::<UInt64Type>().values().to_vec();
                format!("{letter} {ticks:?}\n")
            })
            .collect();
        wanted.assert_eq(&shown.concat());
    }

    #[test]
    fn a_change_holds_from_its_own_tick_on() {
        let letters = changing();
        let seen: Vec<_> = [0, 9, 10, 19, 20, u64::MAX].map(|tick| *letters.at(Tick(tick))).into();
        assert_eq!(seen, ["a", "a", "b", "b", "c", "c"]);
        assert_eq!((letters.first(), letters.last()), (&"a", &"c"));
    }

    #[test]
    fn a_batch_is_cut_where_something_changes() {
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
    fn a_batch_within_one_revision_is_whole() {
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
    fn two_that_change_on_their_own_change_together_at_every_tick_of_either() {
        let mut numbers = InForce::always(1);
        numbers.change(Tick(10), 2);
        numbers.change(Tick(15), 3);
        let both = changing().with(&numbers, |letter, number| format!("{letter}{number}"));
        let seen: Vec<String> = both.values().cloned().collect();
        assert_eq!(seen, ["a1", "b2", "b3", "c3"]);
        assert_eq!(both.changes().collect::<Vec<_>>(), [Tick(10), Tick(15), Tick(20)]);
    }
}
