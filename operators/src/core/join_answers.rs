//! Joins each row with its answer: rows that stayed on their partition owners, and the rows that a
//! [`TickOperator`](super::tick_ordered::TickOperator) returned for them, matched by tick.
//!
//! * Input: rows on their partition owners, no two of one tick; and for each of them one answer, in
//!   the order of ticks, as [`super::tick_ordered`] returns them.
//! * Output: each row once, followed by the columns of its answer, at the time of its message.
//! * State: rows that wait for answers, and answers that rows may still need.

use arrow::array::{ArrayRef, AsArray, RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, take};
use arrow::datatypes::Field;
use tidegate_facts::{Tick, columns};
use timely::container::NoopBuilder;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::{Capability, Operator};

use super::column_appender::ColumnAppender;
use super::rows::{RowStream, Rows, ticks_of};

/// Joins each row with its answer: appends the answer's columns, except the first one, its tick.
///
/// # Panics
/// When a row has no answer once the frontier of `answers` has passed it.
pub fn join_answers<'scope>(
    rows: RowStream<'scope>,
    answers: RowStream<'scope>,
    name: &str,
) -> RowStream<'scope> {
    let mut waiting: Vec<(Capability<Tick>, RecordBatch)> = Vec::new();
    let mut buffer = AnswerBuffer::default();
    rows.binary_frontier::<_, NoopBuilder<Rows>, _, _, _, _>(
        answers,
        Pipeline,
        Pipeline,
        &format!("{name}: join answers"),
        move |_, _| {
            move |(rows, rows_frontier), (answers, answers_frontier), output| {
                rows.for_each(|time, rows| {
                    let rows = std::mem::take(rows).0;
                    if rows.num_rows() > 0 {
                        waiting.push((time.retain(0), rows));
                    }
                });
                answers.for_each(|_, answers| buffer.batches.push(std::mem::take(answers).0));
                waiting.retain(|(capability, rows)| {
                    let last = ticks_of(rows).values().iter().max().expect("no waiting batch is empty");
                    let is_waiting = answers_frontier.less_equal(&Tick(*last));
                    if !is_waiting {
                        let mut rows = Rows(buffer.join(rows));
                        output.session_with_builder(capability).give_container(&mut rows);
                    }
                    is_waiting
                });
                let first = |rows: &RecordBatch| {
                    Tick(*ticks_of(rows).values().iter().min().expect("no waiting batch is empty"))
                };
                let needed = waiting.iter().map(|(_, rows)| first(rows));
                let needed = needed.chain(rows_frontier.frontier().iter().copied()).min();
                buffer.drop_before(needed.unwrap_or(Tick::MAX));
            }
        },
    )
}

/// The answers that rows may still need, in the order of ticks.
#[derive(Default)]
struct AnswerBuffer {
    batches: Vec<RecordBatch>,
    /// Appends the answers' columns; created from the first answers.
    appender: Option<ColumnAppender>,
}

impl AnswerBuffer {
    /// Appends to each row the columns of its answer.
    fn join(&mut self, rows: &RecordBatch) -> RecordBatch {
        if self.batches.len() > 1 {
            let all = concat_batches(self.batches[0].schema_ref(), &self.batches).expect("one schema");
            self.batches = vec![all];
        }
        let answers = self.batches.first().expect("every row has an answer");
        let ticks = ticks_of(answers).values();
        let position = |tick: &i64| {
            let position = ticks.partition_point(|answer| answer < tick);
            assert_eq!(ticks.get(position), Some(tick), "every row has an answer");
            position as u32
        };
        let row_ticks = ticks_of(rows).values();
        let first = position(&row_ticks[0]) as usize;
        let run = ticks.get(first..first + row_ticks.len());
        let columns: Vec<ArrayRef> = if run == Some(row_ticks.as_ref()) {
            answers.slice(first, row_ticks.len()).columns().to_vec()
        } else {
            let positions = UInt32Array::from_iter_values(row_ticks.iter().map(position));
            let take = |column: &ArrayRef| take(column, &positions, None).expect("positions are in range");
            answers.columns().iter().map(take).collect()
        };
        debug_assert_eq!(answers.schema_ref().field(0).name(), columns::TICK);
        debug_assert_eq!(columns[0].as_primitive::<columns::TickType>().values(), row_ticks);
        let fields = || answers.schema_ref().fields().iter().map(|field| Field::clone(field));
        let appender = self.appender.get_or_insert_with(|| ColumnAppender::new(fields().skip(1)));
        appender.append(rows, columns.into_iter().skip(1))
    }

    fn drop_before(&mut self, tick: Tick) {
        self.batches.retain_mut(|answers| {
            let dropped = ticks_of(answers).values().partition_point(|answer| Tick(*answer) < tick);
            let is_needed = dropped < answers.num_rows();
            if is_needed && dropped > 0 {
                *answers = answers.slice(dropped, answers.num_rows() - dropped);
            }
            is_needed
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::Int64Array;
    use arrow::datatypes::{DataType, Int64Type, Schema, SchemaRef};

    use super::*;
    use crate::core::testing::{Chance, Groups, run};
    use crate::core::tick_ordered::{
        Exchange, OperatorInput, OperatorOutput, TickOperator, run_in_tick_order,
    };

    /// Returns for each row the number of rows up to it.
    struct Counter(i64);

    fn schema() -> SchemaRef {
        let fields = [(columns::TICK, columns::tick_type()), ("count", DataType::Int64)];
        Arc::new(Schema::new(fields.map(|(name, data_type)| Field::new(name, data_type, false)).to_vec()))
    }

    fn batch_of(ticks: Vec<i64>, counts: Vec<i64>) -> RecordBatch {
        let columns: [ArrayRef; 2] =
            [Arc::new(columns::TickArray::from(ticks)), Arc::new(Int64Array::from(counts))];
        RecordBatch::try_new(schema(), columns.to_vec()).expect("the columns match the schema")
    }

    impl TickOperator for Counter {
        fn advance(&mut self, inputs: &[RecordBatch], _: Tick) -> Vec<RecordBatch> {
            let ticks = ticks_of(&inputs[0]).values().to_vec();
            let from = self.0 + 1;
            self.0 += ticks.len() as i64;
            vec![batch_of(ticks, (from..=self.0).collect())]
        }
    }

    #[test]
    fn every_row_gets_its_own_answer_however_rows_are_batched_and_distributed() {
        for seed in 0..20 {
            let mut chance = Chance(seed);
            let mut tick = Tick::ZERO;
            let ticks: Vec<i64> = (0..300)
                .map(|_| {
                    let stamp = tick.micros() + chance.below(3) as i64;
                    tick = Tick::following(tick, stamp, chance.below(4) as u16).expect("in range");
                    tick.0
                })
                .collect();
            let facts = batch_of(ticks, (1..=300).collect());
            for (workers, groups) in [(1, Groups::Of(7)), (2, Groups::Random(seed)), (3, Groups::Of(50))] {
                let rows = run(&facts, workers, groups, |rows| {
                    let input =
                        OperatorInput { rows: rows.clone(), schema: schema(), exchange: Exchange::Single };
                    let output = OperatorOutput { schema: schema(), order: Vec::new() };
                    let answers =
                        run_in_tick_order(vec![input], vec![output], Tick::ZERO, Counter(0), "count");
                    join_answers(rows, answers.into_iter().next().expect("one output"), "count")
                });
                let numbers = |column: usize| rows.column(column).as_primitive::<Int64Type>().values();
                assert_eq!(rows.num_rows(), 300, "each row comes out once");
                assert_eq!(numbers(1), numbers(2), "seed {seed}, {workers} workers, {groups:?}");
            }
        }
    }
}
