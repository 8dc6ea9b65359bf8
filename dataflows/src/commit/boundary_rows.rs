//! Commit boundaries as rows, for states that change at them and for the snapshots of states.
//!
//! Boundaries follow from the log alone, so a state that reads them is a function of the log still.
//! As rows they are in checkpoints like any other input, and a restored state gets every boundary
//! again.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, TimestampMicrosecondArray};
use arrow::datatypes::{Field, Schema, SchemaRef};
use tidegate_facts::Tick;
use tidegate_facts::columns::{self, tick_array, tick_field};
use tidegate_facts::payload_schema::timestamp;
use tidegate_operators::core::rows::{RowStream, Rows};
use timely::container::NoopBuilder;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::Operator;

use crate::commit::intervals::BoundaryStream;

/// The columns of boundary rows: the tick of the row, the boundary, and its time.
pub fn boundary_schema() -> SchemaRef {
    let time = Field::new(columns::TS_UTC, timestamp(), false);
    Arc::new(Schema::new(vec![tick_field(columns::TICK), tick_field("boundary"), time]))
}

/// Commit boundaries as rows: a row for each boundary, at the first tick not before it that a fact
/// of one of `partitions` partitions could have. The first row is for the boundary at which the
/// state was `restored`. All rows are on one worker.
pub fn boundary_rows<'scope>(
    boundaries: &BoundaryStream<'scope>,
    partitions: u16,
    restored: Tick,
) -> RowStream<'scope> {
    let is_emitter = boundaries.scope().index() == 0;
    boundaries.clone().unary::<NoopBuilder<Rows>, _, _, _>(Pipeline, "boundaries as rows", move |first, _| {
        let mut first = (is_emitter && restored > Tick::ZERO).then_some(first);
        move |input, output| {
            if let Some(capability) = first.take() {
                let mut rows = Rows(rows_of(&[restored], partitions));
                output.session_with_builder(&capability).give_container(&mut rows);
            }
            input.for_each(|time, boundaries| {
                let uppers: Vec<Tick> = boundaries.drain(..).map(|boundary| boundary.upper).collect();
                if is_emitter {
                    let mut rows = Rows(rows_of(&uppers, partitions));
                    output.session_with_builder(&time).give_container(&mut rows);
                }
            });
        }
    })
}

/// The rows of the commit boundaries at which states take a snapshot: the first boundary after a
/// start, and each that is `every` facts or more after the last snapshot.
pub fn snapshot_boundary_rows<'scope>(
    boundaries: &BoundaryStream<'scope>,
    partitions: u16,
    every: u64,
) -> RowStream<'scope> {
    let is_emitter = boundaries.scope().index() == 0;
    let mut last = 0;
    boundaries.clone().unary::<NoopBuilder<Rows>, _, _, _>(
        Pipeline,
        "snapshot boundaries as rows",
        move |_, _| {
            move |input, output| {
                input.for_each(|time, boundaries| {
                    let mut uppers = Vec::new();
                    for boundary in boundaries.drain(..) {
                        if boundary.state.facts >= last + every {
                            last = boundary.state.facts;
                            uppers.push(boundary.upper);
                        }
                    }
                    if is_emitter && !uppers.is_empty() {
                        let mut rows = Rows(rows_of(&uppers, partitions));
                        output.session_with_builder(&time).give_container(&mut rows);
                    }
                });
            }
        },
    )
}

fn rows_of(uppers: &[Tick], partitions: u16) -> RecordBatch {
    let fact_tick = |upper: &Tick| {
        let is_fact_tick = upper.partition() < partitions;
        if is_fact_tick { *upper } else { Tick::new(upper.micros() + 1, 0).expect("facts are not that late") }
    };
    let ticks: Vec<Tick> = uppers.iter().map(fact_tick).collect();
    let times = TimestampMicrosecondArray::from_iter_values(ticks.iter().map(|tick| tick.micros()));
    let columns: [ArrayRef; 3] = [
        Arc::new(tick_array(ticks)),
        Arc::new(tick_array(uppers.iter().copied())),
        Arc::new(times.with_timezone("UTC")),
    ];
    RecordBatch::try_new(boundary_schema(), columns.to_vec()).expect("the columns are the schema's")
}
