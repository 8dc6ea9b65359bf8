//! Commit boundaries as rows, for states that change or are put down at them.
//!
//! They follow from the log alone, so a state that hears of them is a function of the log still. As rows they are kept in
//! checkpoints like any other, and a state that is restored hears again of every boundary there was.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, TimestampMicrosecondArray, UInt64Array};
use tidegate_facts::Tick;
use tidegate_operators::rows::{RowStream, Rows};
use timely::container::NoopBuilder;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::Operator;

use crate::commit::BoundaryStream;
use crate::plan::entities::boundary_schema;

/// A row for each boundary, at the first tick not before it that a fact of `partitions` partitions could have; first one for the
/// boundary that the state is `restored` at. One worker has them all.
pub fn boundary_rows<'scope>(
    boundaries: &BoundaryStream<'scope>,
    partitions: u16,
    restored: Tick,
) -> RowStream<'scope> {
    let is_teller = boundaries.scope().index() == 0;
    boundaries.clone().unary::<NoopBuilder<Rows>, _, _, _>(Pipeline, "boundaries as rows", move |first, _| {
        let mut first = (is_teller && restored > Tick::ZERO).then_some(first);
        move |input, output| {
            if let Some(capability) = first.take() {
                let mut rows = Rows(rows_of(&[restored], partitions));
                output.session_with_builder(&capability).give_container(&mut rows);
            }
            input.for_each(|time, boundaries| {
                let uppers: Vec<Tick> = boundaries.drain(..).map(|boundary| boundary.upper).collect();
                if is_teller {
                    let mut rows = Rows(rows_of(&uppers, partitions));
                    output.session_with_builder(&time).give_container(&mut rows);
                }
            });
        }
    })
}

/// Rows, as above, of the boundaries at which states are put down: the first after so many facts as `every` since the last one, and the
/// first after a start.
pub fn put_down_rows<'scope>(
    boundaries: &BoundaryStream<'scope>,
    partitions: u16,
    every: u64,
) -> RowStream<'scope> {
    let is_teller = boundaries.scope().index() == 0;
    let mut last = 0;
    boundaries.clone().unary::<NoopBuilder<Rows>, _, _, _>(
        Pipeline,
        "boundaries to put down at",
        move |_, _| {
            move |input, output| {
                input.for_each(|time, boundaries| {
                    let mut uppers = Vec::new();
                    for boundary in boundaries.drain(..) {
                        if boundary.standing.facts >= last + every {
                            last = boundary.standing.facts;
                            uppers.push(boundary.upper);
                        }
                    }
                    if is_teller && !uppers.is_empty() {
                        output
                            .session_with_builder(&time)
                            .give_container(&mut Rows(rows_of(&uppers, partitions)));
                    }
                });
            }
        },
    )
}

fn rows_of(uppers: &[Tick], partitions: u16) -> RecordBatch {
    let fact = |upper: &Tick| {
        let is_facts = upper.partition() < partitions;
        if is_facts { *upper } else { Tick::new(upper.micros() + 1, 0).expect("facts are not that late") }
    };
    let ticks: Vec<Tick> = uppers.iter().map(fact).collect();
    let times = TimestampMicrosecondArray::from_iter_values(ticks.iter().map(|tick| tick.micros()));
    let columns: [ArrayRef; 3] = [
        Arc::new(UInt64Array::from_iter_values(ticks.iter().map(|tick| tick.0))),
        Arc::new(UInt64Array::from_iter_values(uppers.iter().map(|upper| upper.0))),
        Arc::new(times.with_timezone("UTC")),
    ];
    RecordBatch::try_new(boundary_schema(), columns.to_vec()).expect("the columns are the schema's")
}
