//! Rows that stayed at home, and the answers that came back to them by their ticks.
//!
//! * Input: rows at home, of which no two share a tick; and for each of them one answer, in the order of ticks, as
//!   [`crate::ordered`] gives them.
//! * Output: each row once, with its answer, at the time of its message.
//! * State: rows that wait for answers, and answers of rows to come.

use arrow::array::{ArrayRef, AsArray, RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, take};
use arrow::datatypes::{Field, UInt64Type};
use tidegate_facts::{Tick, columns};
use timely::container::NoopBuilder;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::{Capability, Operator};

use crate::lookup::Wider;
use crate::rows::{RowStream, Rows, ticks_of};

/// The rows with the columns of their answers behind their own; the first column of an answer is its tick.
pub fn rejoin<'scope>(rows: RowStream<'scope>, answers: RowStream<'scope>, name: &str) -> RowStream<'scope> {
    let mut waiting: Vec<(Capability<Tick>, RecordBatch)> = Vec::new();
    let mut known = Known::default();
    rows.binary_frontier::<_, NoopBuilder<Rows>, _, _, _, _>(
        answers,
        Pipeline,
        Pipeline,
        &format!("{name}: rejoin"),
        move |_, _| {
            move |(rows, rows_frontier), (answers, answers_frontier), output| {
                rows.for_each(|time, rows| {
                    let rows = std::mem::take(rows).0;
                    if rows.num_rows() > 0 {
                        waiting.push((time.retain(0), rows));
                    }
                });
                answers.for_each(|_, answers| known.batches.push(std::mem::take(answers).0));
                waiting.retain(|(capability, rows)| {
                    let last = ticks_of(rows).values().iter().max().expect("it has rows");
                    let is_waiting = answers_frontier.less_equal(&Tick(*last));
                    if !is_waiting {
                        let mut rows = Rows(known.answer(rows));
                        output.session_with_builder(capability).give_container(&mut rows);
                    }
                    is_waiting
                });
                let first =
                    |rows: &RecordBatch| Tick(*ticks_of(rows).values().iter().min().expect("it has rows"));
                let needed = waiting.iter().map(|(_, rows)| first(rows));
                let needed = needed.chain(rows_frontier.frontier().iter().copied()).min();
                known.forget_before(needed.unwrap_or(Tick(u64::MAX)));
            }
        },
    )
}

/// Answers, in the order of ticks.
#[derive(Default)]
struct Known {
    batches: Vec<RecordBatch>,
    /// For the columns of answers, once there were some.
    wider: Option<Wider>,
}

impl Known {
    /// The rows with their answers.
    fn answer(&mut self, rows: &RecordBatch) -> RecordBatch {
        if self.batches.len() > 1 {
            let all = concat_batches(self.batches[0].schema_ref(), &self.batches).expect("one schema");
            self.batches = vec![all];
        }
        let answers = self.batches.first().expect("every row has an answer");
        let ticks = ticks_of(answers).values();
        let place = |tick: &u64| {
            let place = ticks.partition_point(|known| known < tick);
            assert_eq!(ticks.get(place), Some(tick), "every row has an answer");
            place as u32
        };
        let wanted = ticks_of(rows).values();
        let first = place(&wanted[0]) as usize;
        let run = ticks.get(first..first + wanted.len());
        let columns: Vec<ArrayRef> = if run == Some(wanted.as_ref()) {
            answers.slice(first, wanted.len()).columns().to_vec()
        } else {
            let places = UInt32Array::from_iter_values(wanted.iter().map(place));
            let take =
                |column: &ArrayRef| take(column, &places, None).expect("the places are the answers' own");
            answers.columns().iter().map(take).collect()
        };
        debug_assert_eq!(answers.schema_ref().field(0).name(), columns::TICK);
        debug_assert_eq!(columns[0].as_primitive::<UInt64Type>().values(), wanted);
        let fields = || answers.schema_ref().fields().iter().map(|field| Field::clone(field));
        let wider = self.wider.get_or_insert_with(|| Wider::new(fields().skip(1)));
        wider.widen(rows, columns.into_iter().skip(1))
    }

    fn forget_before(&mut self, tick: Tick) {
        self.batches.retain_mut(|answers| {
            let gone = ticks_of(answers).values().partition_point(|known| Tick(*known) < tick);
            let is_needed = gone < answers.num_rows();
            if is_needed && gone > 0 {
                *answers = answers.slice(gone, answers.num_rows() - gone);
            }
            is_needed
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int64Array, UInt64Array};
    use arrow::datatypes::{DataType, Int64Type, Schema, SchemaRef};

    use super::*;
    use crate::lookup::tests::{Chance, Groups, run};
    use crate::ordered::{Input, Ordered, Output, Route, ordered};

    /// Answers each row with how many rows there were up to it.
    struct Counting(i64);

    fn schema() -> SchemaRef {
        let fields = [(columns::TICK, DataType::UInt64), ("count", DataType::Int64)];
        Arc::new(Schema::new(fields.map(|(name, data_type)| Field::new(name, data_type, false)).to_vec()))
    }

    fn batch_of(ticks: Vec<u64>, counts: Vec<i64>) -> RecordBatch {
        let columns: [ArrayRef; 2] = [Arc::new(UInt64Array::from(ticks)), Arc::new(Int64Array::from(counts))];
        RecordBatch::try_new(schema(), columns.to_vec()).expect("the columns are the schema's")
    }

    impl Ordered for Counting {
        fn advance(&mut self, inputs: &[RecordBatch], _: Tick) -> Vec<RecordBatch> {
            let ticks = ticks_of(&inputs[0]).values().to_vec();
            let from = self.0 + 1;
            self.0 += ticks.len() as i64;
            vec![batch_of(ticks, (from..=self.0).collect())]
        }
    }

    #[test]
    fn every_row_has_its_own_answer_however_rows_are_cut_and_dealt_out() {
        for seed in 0..20 {
            let mut chance = Chance(seed);
            let mut tick = Tick::ZERO;
            let ticks: Vec<u64> = (0..300)
                .map(|_| {
                    let stamp = tick.micros() + chance.below(3) as i64;
                    tick = Tick::following(tick, stamp, chance.below(4) as u16).expect("in range");
                    tick.0
                })
                .collect();
            let facts = batch_of(ticks, (1..=300).collect());
            for (workers, groups) in [(1, Groups::Of(7)), (2, Groups::Random(seed)), (3, Groups::Of(50))] {
                let rows = run(&facts, workers, groups, |rows| {
                    let input = Input { rows: rows.clone(), schema: schema(), route: Route::One };
                    let output = Output { schema: schema(), order: Vec::new() };
                    let answers = ordered(vec![input], vec![output], Tick::ZERO, Counting(0), "count");
                    rejoin(rows, answers.into_iter().next().expect("one output"), "count")
                });
                let numbers = |column: usize| rows.column(column).as_primitive::<Int64Type>().values();
                assert_eq!(rows.num_rows(), 300, "each row comes out once");
                assert_eq!(numbers(1), numbers(2), "seed {seed}, {workers} workers, {groups:?}");
            }
        }
    }
}
