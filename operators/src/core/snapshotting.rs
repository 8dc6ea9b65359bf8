//! Takes snapshots of a stateful operator at commit boundaries and restores it from them.
//!
//! A checkpoint could store every input row and a restart could replay them all. But evidence that
//! is refreshed for a year is read a thousand times and is one row of state. So at some boundaries
//! the operator writes a snapshot: rows of its own, as many as its state needs. A checkpoint then
//! holds the last snapshot and the input rows since. Snapshot rows have the same keys as the input
//! rows, so a restart can distribute them over any number of workers.
//!
//! * Input: the operator's own inputs; the boundaries, broadcast to every worker; and the snapshot
//!   rows from before the restart, by key.
//! * Output: the operator's own outputs; and the snapshot rows, at the tick of each boundary.
//! * Time: boundaries before the restart produce no snapshot.
//! * State: the operator's.
//!
//! Invariant: an operator restored from the snapshot of a tick emits, from that tick on, what the
//! operator that took the snapshot emits.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use tidegate_facts::Tick;
use tidegate_facts::columns::TickArray;

use super::rows::ticks_of;
use super::tick_ordered::TickOperator;

/// A [`TickOperator`] that takes snapshots: its state can be written as rows and restored from
/// them.
pub trait SnapshotOperator: TickOperator {
    /// The state as rows in any order: the snapshot's columns without the tick.
    fn snapshot(&self) -> Vec<ArrayRef>;

    /// Restores state from snapshot rows of the keys that this worker owns.
    ///
    /// The rows may come from the snapshots of several workers. The operator has received no input.
    fn restore(&mut self, rows: &RecordBatch);
}

impl TickOperator for Box<dyn SnapshotOperator> {
    fn advance(&mut self, inputs: &[RecordBatch], upper: Tick) -> Vec<RecordBatch> {
        self.as_mut().advance(inputs, upper)
    }
}

impl SnapshotOperator for Box<dyn SnapshotOperator> {
    fn snapshot(&self) -> Vec<ArrayRef> {
        self.as_ref().snapshot()
    }

    fn restore(&mut self, rows: &RecordBatch) {
        self.as_mut().restore(rows);
    }
}

/// A stateful operator that takes snapshots, with two additional inputs, boundaries and restored
/// snapshot rows, and one additional output, the snapshot rows. The additional ones come last.
pub struct Snapshotting<S> {
    operator: S,
    /// The snapshot output at ticks without a boundary.
    empty: RecordBatch,
    restored: Tick,
    lower: Tick,
}

impl<S: SnapshotOperator> Snapshotting<S> {
    /// Wraps an operator without state; `schema` is that of its snapshot rows, the tick first.
    ///
    /// Only boundaries at or after `restored` produce a snapshot.
    pub fn new(operator: S, schema: SchemaRef, restored: Tick) -> Snapshotting<S> {
        Snapshotting { operator, empty: RecordBatch::new_empty(schema), restored, lower: Tick::ZERO }
    }

    fn snapshot_at(&self, tick: Tick) -> RecordBatch {
        let mut columns = self.operator.snapshot();
        let ticks = vec![tick.0; columns.first().map_or(0, |column| column.len())];
        columns.insert(0, Arc::new(TickArray::from(ticks)));
        RecordBatch::try_new(self.empty.schema(), columns).expect("the columns match the schema")
    }
}

impl<S: SnapshotOperator> TickOperator for Snapshotting<S> {
    fn advance(&mut self, inputs: &[RecordBatch], upper: Tick) -> Vec<RecordBatch> {
        let [own @ .., boundaries, restored] = inputs else {
            panic!("the last two inputs are boundaries and restored rows")
        };
        if restored.num_rows() > 0 {
            assert_eq!(self.lower, Tick::ZERO, "restored rows arrive before everything else");
            self.operator.restore(restored);
        }
        let boundaries = ticks_of(boundaries).values().iter().map(|tick| Tick(*tick));
        let mut remaining = own.to_vec();
        let mut emitted: Vec<Vec<RecordBatch>> = Vec::new();
        let mut snapshots = Vec::new();
        for boundary in boundaries.filter(|boundary| *boundary >= self.restored) {
            if boundary > self.lower {
                let before: Vec<RecordBatch> =
                    remaining.iter_mut().map(|rows| split_before(rows, boundary)).collect();
                emitted.push(self.operator.advance(&before, boundary));
            }
            snapshots.push(self.snapshot_at(boundary));
        }
        emitted.push(self.operator.advance(&remaining, upper));
        self.lower = upper;
        let mut outputs = match emitted.len() {
            1 => emitted.remove(0),
            _ => (0..emitted[0].len())
                .map(|output| concat(emitted.iter().map(|outputs| &outputs[output])))
                .collect(),
        };
        outputs.push(if snapshots.is_empty() { self.empty.clone() } else { concat(snapshots.iter()) });
        outputs
    }
}

/// Removes the rows before `tick` from `rows` and returns them.
fn split_before(rows: &mut RecordBatch, tick: Tick) -> RecordBatch {
    let cut = ticks_of(rows).values().partition_point(|other| *other < tick.0);
    let before = rows.slice(0, cut);
    *rows = rows.slice(cut, rows.num_rows() - cut);
    before
}

fn concat<'a>(batches: impl Iterator<Item = &'a RecordBatch> + Clone) -> RecordBatch {
    let schema = batches.clone().next().expect("an operator emits a batch for each output").schema();
    concat_batches(&schema, batches).expect("all batches of an output have one schema")
}
