//! States that are put down as rows at commit boundaries, and taken up from them.
//!
//! A checkpoint could keep all that a state ever heard, and a restart could hear it again; but evidence that is refreshed for a year is
//! heard a thousand times and is one row. So now and then a state is put down as rows of its own, as large as the state is, and a
//! checkpoint has those and what was heard since. The rows have keys as what the state hears has, so any number of workers can take
//! them up.
//!
//! * Input: those of the state; boundaries, rows that every worker hears of; and what was put down before the restart, by key.
//! * Output: those of the state; and at the tick of a boundary what it came to before that tick.
//! * Time: a boundary that was passed before the restart says nothing.
//! * State: the state's.
//!
//! Invariant: a state that took up what one came to before a tick says from that tick on what that one says.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, UInt64Array};
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use tidegate_facts::Tick;

use crate::ordered::Ordered;
use crate::rows::ticks_of;

/// A state that can be put down as rows.
pub trait Lasting: Ordered {
    /// What it has come to, as rows in any order: the columns behind the tick.
    fn put_down(&self) -> Vec<ArrayRef>;

    /// Takes up rows that were put down, perhaps by several states, of the keys that are this one's. It has heard nothing.
    fn take_up(&mut self, rows: &RecordBatch);
}

impl Ordered for Box<dyn Lasting> {
    fn advance(&mut self, inputs: &[RecordBatch], upper: Tick) -> Vec<RecordBatch> {
        self.as_mut().advance(inputs, upper)
    }
}

impl Lasting for Box<dyn Lasting> {
    fn put_down(&self) -> Vec<ArrayRef> {
        self.as_ref().put_down()
    }

    fn take_up(&mut self, rows: &RecordBatch) {
        self.as_mut().take_up(rows);
    }
}

/// A state with two more inputs, boundaries and what was put down before; and one more output, what is put down.
pub struct Checkpointed<S> {
    state: S,
    /// What is put down at most ticks.
    nothing: RecordBatch,
    restored: Tick,
    lower: Tick,
}

impl<S: Lasting> Checkpointed<S> {
    /// A state that has heard nothing, of which rows of `schema` are put down at boundaries not before `restored`.
    pub fn new(state: S, schema: SchemaRef, restored: Tick) -> Checkpointed<S> {
        Checkpointed { state, nothing: RecordBatch::new_empty(schema), restored, lower: Tick::ZERO }
    }

    fn put_down(&self, tick: Tick) -> RecordBatch {
        let mut columns = self.state.put_down();
        let ticks = vec![tick.0; columns.first().map_or(0, |column| column.len())];
        columns.insert(0, Arc::new(UInt64Array::from(ticks)));
        RecordBatch::try_new(self.nothing.schema(), columns).expect("the columns are the schema's")
    }
}

impl<S: Lasting> Ordered for Checkpointed<S> {
    fn advance(&mut self, inputs: &[RecordBatch], upper: Tick) -> Vec<RecordBatch> {
        let [own @ .., boundaries, before] = inputs else {
            panic!("boundaries and what was put down are heard")
        };
        if before.num_rows() > 0 {
            assert_eq!(self.lower, Tick::ZERO, "what was put down comes first");
            self.state.take_up(before);
        }
        let boundaries = ticks_of(boundaries).values().iter().map(|tick| Tick(*tick));
        let mut rest = own.to_vec();
        let mut said: Vec<Vec<RecordBatch>> = Vec::new();
        let mut put_down = Vec::new();
        for boundary in boundaries.filter(|boundary| *boundary >= self.restored) {
            if boundary > self.lower {
                let heard: Vec<RecordBatch> =
                    rest.iter_mut().map(|rows| split_before(rows, boundary)).collect();
                said.push(self.state.advance(&heard, boundary));
            }
            put_down.push(self.put_down(boundary));
        }
        said.push(self.state.advance(&rest, upper));
        self.lower = upper;
        let mut given = match said.len() {
            1 => said.remove(0),
            _ => (0..said[0].len()).map(|place| together(said.iter().map(|said| &said[place]))).collect(),
        };
        given.push(if put_down.is_empty() { self.nothing.clone() } else { together(put_down.iter()) });
        given
    }
}

/// Takes out the rows before a tick.
fn split_before(rows: &mut RecordBatch, tick: Tick) -> RecordBatch {
    let cut = ticks_of(rows).values().partition_point(|other| *other < tick.0);
    let before = rows.slice(0, cut);
    *rows = rows.slice(cut, rows.num_rows() - cut);
    before
}

fn together<'a>(batches: impl Iterator<Item = &'a RecordBatch> + Clone) -> RecordBatch {
    let schema = batches.clone().next().expect("a state says something for each output").schema();
    concat_batches(&schema, batches).expect("one output has one schema")
}
