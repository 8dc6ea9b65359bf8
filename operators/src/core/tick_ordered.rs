//! Runs stateful operators that receive rows in the order of their ticks and emit rows.
//!
//! Each row goes to the worker that owns its key and waits there until the frontier has passed its
//! tick. The operator then receives all rows of a tick at once and the ticks in order, however the
//! rows were batched. It may also emit rows that follow from time alone, for example that a row
//! expired. Emitted rows go to the partition owner of their tick. They wait there until all workers
//! have emitted theirs, so that the order of rows with one tick depends on the rows alone.
//!
//! * Input: for each input, rows on their partition owners. All rows of one tick come in one batch,
//!   which holds for every [`RowStream`] that this module returns.
//! * Output: for each output, rows on their partition owners, in the order of ticks over all
//!   batches of a worker.
//! * Time: no row is emitted before the frontier has passed its tick; the output frontier is the
//!   input frontier.
//! * State: the rows that the frontier has not passed, and the operator's own.

use std::sync::Arc;

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::{interleave_record_batch, take_record_batch};
use arrow::datatypes::SchemaRef;
use tidegate_facts::Tick;
use tidegate_facts::digest::key_hash;
use timely::communication::Push;
use timely::container::NoopBuilder;
use timely::dataflow::channels::Message;
use timely::dataflow::channels::pact::{DistributorPact, Pipeline};
use timely::dataflow::channels::pushers::exchange::Distributor;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::progress::frontier::MutableAntichain;

use super::keys::{keys_of, owner};
use super::row_encoding::RowCodec;
use super::rows::{RowStream, Rows, partition_owner, ticks_of};

/// A stateful operator that receives rows in the order of their ticks.
pub trait TickOperator: 'static {
    /// Processes the rows with ticks from the `upper` of the previous call up to, not including,
    /// `upper`. `inputs` has one batch for each input, possibly without rows, in the order of
    /// ticks.
    ///
    /// Returns one batch for each output: the rows that follow from the inputs and from time alone,
    /// with ticks in that same interval, in the order of ticks.
    fn advance(&mut self, inputs: &[RecordBatch], upper: Tick) -> Vec<RecordBatch>;
}

impl TickOperator for Box<dyn TickOperator> {
    fn advance(&mut self, inputs: &[RecordBatch], upper: Tick) -> Vec<RecordBatch> {
        self.as_mut().advance(inputs, upper)
    }
}

/// To which workers the rows of an input of a tick-ordered operator are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exchange {
    /// To the owner of the key in the column with this index.
    Key(usize),
    /// All rows to one worker, the same for every input of the operator.
    Single,
    /// Every row to every worker.
    Broadcast,
}

/// One input of a [`TickOperator`], which receives rows in the order of their ticks.
pub struct OperatorInput<'scope> {
    /// The rows, on their partition owners.
    pub rows: RowStream<'scope>,
    /// The schema of the rows.
    pub schema: SchemaRef,
    /// To which workers the rows are sent.
    pub exchange: Exchange,
}

/// One output of a [`TickOperator`], which receives rows in the order of their ticks.
pub struct OperatorOutput {
    /// The schema of the rows, which includes `_tick`.
    pub schema: SchemaRef,
    /// The indexes of the columns that order rows of one tick, whichever worker emitted them.
    ///
    /// Rows that agree in all of these columns must come from one worker; they keep its order.
    pub order: Vec<usize>,
}

/// Runs a stateful operator over `inputs` in the order of ticks, and returns one stream for each of
/// `outputs`.
///
/// Input rows with ticks below `restored` come from a checkpoint. The operator processes them to
/// rebuild its state, and the rows that it emits below `restored` are dropped.
///
/// # Panics
/// When there are no inputs, or the operator returns batches that break the contract of
/// [`TickOperator::advance`].
pub fn run_in_tick_order<'scope, S: TickOperator>(
    inputs: Vec<OperatorInput<'scope>>,
    outputs: Vec<OperatorOutput>,
    restored: Tick,
    mut operator: S,
    name: &str,
) -> Vec<RowStream<'scope>> {
    let scope = inputs.first().expect("an operator has an input").rows.scope();
    let mut builder = OperatorBuilder::new(name.to_owned(), scope);
    let single_key = key_hash("node", name.as_bytes());
    let mut ports = Vec::new();
    let mut pending = Vec::new();
    for OperatorInput { rows, schema, exchange } in inputs {
        let route = move |rows: &RecordBatch, workers: usize| match exchange {
            Exchange::Key(column) => {
                keys_of(rows.column(column)).into_iter().map(|key| owner(key, workers)).collect()
            }
            Exchange::Single | Exchange::Broadcast => vec![owner(single_key, workers); rows.num_rows()],
        };
        let broadcast = exchange == Exchange::Broadcast;
        let by_route = move |workers| ByRoute { workers, route, broadcast };
        ports.push(builder.new_input(rows, DistributorPact(by_route)));
        pending.push(Pending::new(schema, Vec::new()));
    }
    let (mut senders, mut streams) = (Vec::new(), Vec::new());
    for OperatorOutput { schema, order } in outputs {
        let (output, rows) = builder.new_output::<Rows>();
        senders.push(OutputBuilder::<_, NoopBuilder<Rows>>::from(output));
        streams.push((rows, schema, order));
    }
    // A single worker orders rows as it emits them, and is the owner of every partition.
    let is_single_worker = scope.peers() == 1;
    let orders: Vec<_> = streams.iter().map(|(_, _, order)| order.clone()).collect();
    builder.build(move |capabilities| {
        let mut progress = Progress::new(capabilities);
        move |frontiers| {
            for (port, pending) in ports.iter_mut().zip(&mut pending) {
                port.for_each(|_, rows| pending.batches.push(std::mem::take(rows).0));
            }
            let Some(upper) = progress.next(frontiers) else { return progress.close(frontiers) };
            let rows: Vec<RecordBatch> =
                pending.iter_mut().map(|pending| pending.take_before(upper)).collect();
            let emitted = operator.advance(&rows, upper);
            assert_eq!(emitted.len(), senders.len(), "an operator emits a batch for each output");
            let emitted = emitted.into_iter().zip(&orders);
            for (((rows, order), sender), capability) in emitted.zip(&mut senders).zip(&progress.capabilities)
            {
                let ticks = ticks_of(&rows).values();
                assert!(ticks.is_sorted(), "emitted rows are in the order of ticks");
                let is_within = ticks.first().is_none_or(|tick| Tick(*tick) >= progress.lower)
                    && ticks.last().is_none_or(|tick| Tick(*tick) < upper);
                assert!(is_within, "emitted rows have ticks of the processed interval");
                let new = ticks.partition_point(|tick| Tick(*tick) < restored);
                if new < rows.num_rows() {
                    let new = if new == 0 { rows } else { rows.slice(new, rows.num_rows() - new) };
                    let new = if is_single_worker { in_order(&[new], order) } else { new };
                    sender.activate().session_with_builder(capability).give_container(&mut Rows(new));
                }
            }
            progress.downgrade(upper);
            progress.close(frontiers);
        }
    });
    let deliver = |(rows, schema, order)| match is_single_worker {
        true => rows,
        false => to_partition_owner(rows, schema, order, &format!("{name}: to partition owner")),
    };
    streams.into_iter().map(deliver).collect()
}

/// Merges several streams into one in the order of ticks: rows of one tick come in the order of the
/// streams, whichever arrived first.
///
/// `schema` becomes the schema of all rows; the streams have its types, perhaps under other names.
///
/// * Input: rows on their partition owners; all rows of one tick of a stream come in one batch.
/// * Output: the same rows, on their partition owners.
/// * Time: no row is emitted before the frontier has passed its tick.
///
/// # Panics
/// When there are no streams.
pub fn union_in_tick_order<'scope>(
    streams: Vec<RowStream<'scope>>,
    schema: SchemaRef,
    name: &str,
) -> RowStream<'scope> {
    let scope = streams.first().expect("a union has at least one stream").scope();
    let mut builder = OperatorBuilder::new(name.to_owned(), scope);
    let inputs = streams.into_iter().map(|rows| {
        let pending = Pending::new(Arc::clone(&schema), Vec::new());
        (builder.new_input(rows, Pipeline), pending)
    });
    let mut inputs: Vec<_> = inputs.collect();
    let (output, stream) = builder.new_output::<Rows>();
    let mut output = OutputBuilder::<_, NoopBuilder<Rows>>::from(output);
    builder.build(move |capabilities| {
        let mut progress = Progress::new(capabilities);
        move |frontiers| {
            for (input, pending) in &mut inputs {
                input.for_each(|_, rows| {
                    let columns = std::mem::take(rows).0.columns().to_vec();
                    let rows = RecordBatch::try_new(Arc::clone(&schema), columns);
                    pending.batches.push(rows.expect("the plan checks that all streams have one schema"));
                });
            }
            let Some(upper) = progress.next(frontiers) else { return progress.close(frontiers) };
            let batches = inputs.iter_mut().map(|(_, pending)| pending.take_before(upper));
            let batches: Vec<RecordBatch> = batches.filter(|rows| rows.num_rows() > 0).collect();
            if !batches.is_empty() {
                let mut rows = Rows(in_order(&batches, &[]));
                output.activate().session_with_builder(&progress.capabilities[0]).give_container(&mut rows);
            }
            progress.downgrade(upper);
            progress.close(frontiers);
        }
    });
    stream
}

/// Sends rows to their partition owners and orders them there by tick, then by the columns `order`.
fn to_partition_owner<'scope>(
    rows: RowStream<'scope>,
    schema: SchemaRef,
    order: Vec<usize>,
    name: &str,
) -> RowStream<'scope> {
    let mut builder = OperatorBuilder::new(name.to_owned(), rows.scope());
    let route = |rows: &RecordBatch, workers: usize| {
        ticks_of(rows).values().iter().map(|tick| partition_owner(Tick(*tick).partition(), workers)).collect()
    };
    let by_route = move |workers| ByRoute { workers, route, broadcast: false };
    let mut input = builder.new_input(rows, DistributorPact(by_route));
    let (output, stream) = builder.new_output::<Rows>();
    let mut output = OutputBuilder::<_, NoopBuilder<Rows>>::from(output);
    let mut pending = Pending::new(schema, order);
    builder.build(move |capabilities| {
        let mut progress = Progress::new(capabilities);
        move |frontiers| {
            input.for_each(|_, rows| pending.batches.push(std::mem::take(rows).0));
            let Some(upper) = progress.next(frontiers) else { return progress.close(frontiers) };
            let rows = pending.take_before(upper);
            if rows.num_rows() > 0 {
                let mut output = output.activate();
                output.session_with_builder(&progress.capabilities[0]).give_container(&mut Rows(rows));
            }
            progress.downgrade(upper);
            progress.close(frontiers);
        }
    });
    stream
}

/// How far all input frontiers have advanced, and the capabilities to emit from there on.
struct Progress {
    lower: Tick,
    capabilities: Vec<Capability<Tick>>,
}

impl Progress {
    fn new(capabilities: Vec<Capability<Tick>>) -> Progress {
        Progress { lower: Tick::ZERO, capabilities }
    }

    /// The least tick that may still arrive; `None` when it has not advanced since the last call.
    fn next(&self, frontiers: &[MutableAntichain<Tick>]) -> Option<Tick> {
        let open = frontiers.iter().filter_map(|frontier| frontier.frontier().iter().min().copied()).min();
        // All frontiers are empty only while the dataflow shuts down: then no tick is complete.
        let upper = open?;
        (upper > self.lower && !self.capabilities.is_empty()).then_some(upper)
    }

    /// Drops the capabilities once no input can receive rows any more.
    fn close(&mut self, frontiers: &[MutableAntichain<Tick>]) {
        if frontiers.iter().all(MutableAntichain::is_empty) {
            self.capabilities.clear();
        }
    }

    fn downgrade(&mut self, upper: Tick) {
        self.lower = upper;
        self.capabilities.iter_mut().for_each(|capability| capability.downgrade(&upper));
    }
}

/// The rows of one input that the frontier has not passed.
struct Pending {
    /// An empty batch, built once: building a schema costs as much as processing a small batch.
    empty: RecordBatch,
    order: Vec<usize>,
    batches: Vec<RecordBatch>,
}

impl Pending {
    fn new(schema: SchemaRef, order: Vec<usize>) -> Pending {
        Pending { empty: RecordBatch::new_empty(schema), order, batches: Vec::new() }
    }

    /// Removes the rows before `upper` and returns them in order.
    fn take_before(&mut self, upper: Tick) -> RecordBatch {
        if self.batches.is_empty() {
            return self.empty.clone();
        }
        let rows = in_order(&std::mem::take(&mut self.batches), &self.order);
        let cut = ticks_of(&rows).values().partition_point(|tick| Tick(*tick) < upper);
        if cut == rows.num_rows() {
            return rows;
        }
        self.batches.push(rows.slice(cut, rows.num_rows() - cut));
        rows.slice(0, cut)
    }
}

/// The rows of all batches by tick, then by the columns `order`, then by arrival.
fn in_order(batches: &[RecordBatch], order: &[usize]) -> RecordBatch {
    if let [rows] = batches
        && ticks_of(rows).values().is_sorted_by(|earlier, later| earlier < later)
    {
        return rows.clone(); // The usual case: no ties, so no other column is read.
    }
    let each = batches.iter().enumerate().flat_map(|(batch, rows)| {
        let ticks = ticks_of(rows).values().iter().enumerate();
        ticks.map(move |(row, tick)| (*tick, batch, row))
    });
    let mut positions: Vec<(i64, usize, usize)> = each.collect();
    if !positions.is_sorted() {
        positions.sort(); // Stable: batches are sorted runs, which it merges.
    }
    let has_ties =
        |positions: &[(i64, usize, usize)]| positions.windows(2).any(|pair| pair[0].0 == pair[1].0);
    if !order.is_empty() && has_ties(&positions) {
        let codec = RowCodec::new(order.iter().map(|column| batches[0].column(*column).data_type().clone()));
        let keys: Vec<_> = batches.iter().map(|rows| codec.encode(rows, order)).collect();
        for tied in positions.chunk_by_mut(|a, b| a.0 == b.0) {
            tied.sort_by_key(|(_, batch, row)| keys[*batch].row(*row));
        }
    }
    match batches {
        [rows] if positions.is_sorted() => rows.clone(),
        batches => {
            let positions: Vec<(usize, usize)> =
                positions.into_iter().map(|(_, batch, row)| (batch, row)).collect();
            let batches: Vec<&RecordBatch> = batches.iter().collect();
            interleave_record_batch(&batches, &positions).expect("all batches of a stream have one schema")
        }
    }
}

/// Sends each row to the worker that `route` returns for it, or to every worker.
struct ByRoute<F> {
    workers: usize,
    /// The worker of each row of a batch, given the number of workers.
    route: F,
    broadcast: bool,
}

impl<F: FnMut(&RecordBatch, usize) -> Vec<usize>> Distributor<Rows> for ByRoute<F> {
    fn partition<T: Clone, P: Push<Message<T, Rows>>>(
        &mut self,
        rows: &mut Rows,
        time: &T,
        pushers: &mut [P],
    ) {
        let batch = std::mem::take(rows).0;
        if batch.num_rows() == 0 {
            return;
        }
        if self.workers == 1 {
            Message::push_at(&mut Rows(batch), time.clone(), &mut pushers[0]);
            return;
        }
        if self.broadcast {
            for pusher in pushers {
                Message::push_at(&mut Rows(batch.clone()), time.clone(), pusher);
            }
            return;
        }
        let mut rows: Vec<Vec<u32>> = vec![Vec::new(); self.workers];
        for (row, worker) in (self.route)(&batch, self.workers).into_iter().enumerate() {
            rows[worker].push(row as u32);
        }
        for (rows, pusher) in rows.into_iter().zip(pushers).filter(|(rows, _)| !rows.is_empty()) {
            let part = if rows.len() == batch.num_rows() {
                batch.clone()
            } else {
                take_record_batch(&batch, &UInt32Array::from(rows)).expect("the row numbers are in range")
            };
            Message::push_at(&mut Rows(part), time.clone(), pusher);
        }
    }

    fn flush<T: Clone, P: Push<Message<T, Rows>>>(&mut self, _: &T, _: &mut [P]) {}
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use arrow::array::{ArrayRef, AsArray, Int64Array};
    use arrow::datatypes::{DataType, Field, Int64Type, Schema};
    use tidegate_facts::columns;

    use super::*;
    use crate::core::testing::{Chance, Groups, run};

    /// The delay in microseconds after which each row's echo is emitted.
    const DELAY: i64 = 7;

    /// Tick, key, and the number of rows of the key so far; an echo has the number negated.
    type Row = (i64, i64, i64);

    fn schema() -> SchemaRef {
        let numbers = ["key", "count"].map(|name| Field::new(name, DataType::Int64, false));
        let tick = columns::tick_field(columns::TICK);
        Arc::new(Schema::new([vec![tick], numbers.to_vec()].concat()))
    }

    fn batch_of(rows: &[Row]) -> RecordBatch {
        let columns: [ArrayRef; 3] = [
            Arc::new(columns::TickArray::from_iter_values(rows.iter().map(|row| row.0))),
            Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.1))),
            Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.2))),
        ];
        RecordBatch::try_new(schema(), columns.to_vec()).expect("the columns match the schema")
    }

    fn rows_of(rows: &RecordBatch) -> Vec<Row> {
        let numbers = |column: usize| rows.column(column).as_primitive::<Int64Type>().values();
        let ticks = ticks_of(rows).values().iter();
        ticks.zip(numbers(1)).zip(numbers(2)).map(|((tick, key), count)| (*tick, *key, *count)).collect()
    }

    /// Counts the rows of each key and emits each count again, as an echo, after [`DELAY`]. An echo
    /// is emitted before the rows of its tick.
    #[derive(Default)]
    struct Counter {
        counts: BTreeMap<i64, i64>,
        due: BTreeSet<Row>,
    }

    impl Counter {
        fn on_row(&mut self, tick: i64, key: i64) -> Row {
            let count = self.counts.entry(key).or_default();
            *count += 1;
            let later = Tick::new(Tick(tick).micros() + DELAY, Tick(tick).partition()).expect("in range");
            self.due.insert((later.0, key, -*count));
            (tick, key, *count)
        }

        fn emit_due_before(&mut self, tick: i64, emitted: &mut Vec<Row>) {
            while let Some(first) = self.due.first().filter(|due| due.0 < tick).copied() {
                self.due.remove(&first);
                emitted.push(first);
            }
        }
    }

    impl TickOperator for Counter {
        fn advance(&mut self, inputs: &[RecordBatch], upper: Tick) -> Vec<RecordBatch> {
            let mut emitted = Vec::new();
            for (tick, key, _) in rows_of(&inputs[0]) {
                self.emit_due_before(tick + 1, &mut emitted);
                emitted.push(self.on_row(tick, key));
            }
            self.emit_due_before(upper.0, &mut emitted);
            vec![batch_of(&emitted)]
        }
    }

    /// The oracle: recounts all rows up to each row.
    fn slow(facts: &[Row], upper: i64) -> Vec<Row> {
        let mut emitted = Vec::new();
        for (index, (tick, key, _)) in facts.iter().enumerate() {
            let count = facts[..=index].iter().filter(|fact| fact.1 == *key).count() as i64;
            let later = Tick::new(Tick(*tick).micros() + DELAY, Tick(*tick).partition()).expect("in range");
            emitted.push((*tick, *key, count));
            if later.0 < upper {
                emitted.push((later.0, *key, -count));
            }
        }
        emitted.sort();
        emitted
    }

    fn facts(seed: u64) -> Vec<Row> {
        let mut chance = Chance(seed);
        let (mut tick, mut now) = (Tick::ZERO, 1_000);
        (0..200)
            .map(|_| {
                now += chance.below(4) as i64;
                tick = Tick::following(tick, now, chance.below(4) as u16).expect("in range");
                (tick.0, chance.below(5) as i64, 0)
            })
            .collect()
    }

    /// Numbers of workers, and how rows are grouped on their way to them.
    fn setups(seed: u64) -> [(usize, Groups); 4] {
        [(1, Groups::Of(1)), (1, Groups::Random(seed)), (2, Groups::Random(seed)), (3, Groups::Of(50))]
    }

    fn fast(facts: &[Row], workers: usize, groups: Groups, restored: Tick) -> Vec<Row> {
        let rows = run(&batch_of(facts), workers, groups, move |rows| {
            let input = OperatorInput { rows, schema: schema(), exchange: Exchange::Key(1) };
            let output = OperatorOutput { schema: schema(), order: vec![1, 2] };
            let mut streams =
                run_in_tick_order(vec![input], vec![output], restored, Counter::default(), "count");
            streams.pop().expect("one output")
        });
        rows_of(&rows)
    }

    #[test]
    fn an_operator_receives_each_tick_once_and_in_order_whatever_the_batches_and_workers() {
        for seed in 0..10 {
            let facts = facts(seed);
            let expected = slow(&facts, facts.last().expect("some").0 + 1);
            for (workers, groups) in setups(seed) {
                let emitted = fast(&facts, workers, groups, Tick::ZERO);
                assert_eq!(emitted, expected, "seed {seed}, {workers} workers, {groups:?}");
            }
        }
    }

    #[test]
    fn rows_that_follow_from_restored_rows_are_dropped_and_still_count() {
        let facts = facts(7);
        let restored = Tick(facts[facts.len() / 2].0);
        let expected: Vec<Row> = slow(&facts, facts.last().expect("some").0 + 1);
        let expected: Vec<Row> = expected.into_iter().filter(|emitted| Tick(emitted.0) >= restored).collect();
        assert_eq!(fast(&facts, 2, Groups::Of(20), restored), expected);
    }

    #[test]
    fn rows_of_one_tick_are_in_the_order_of_the_streams_whichever_is_later() {
        for seed in 0..10 {
            let facts = facts(seed);
            let counted = slow(&facts, facts.last().expect("some").0 + 1);
            for first in [0, 1] {
                let counted = counted.iter().map(|emitted| (emitted.0, 0 != first, *emitted));
                let received = facts.iter().map(|emitted| (emitted.0, 1 != first, *emitted));
                let mut expected: Vec<(i64, bool, Row)> = counted.chain(received).collect();
                expected.sort();
                let expected: Vec<Row> = expected.into_iter().map(|(.., emitted)| emitted).collect();
                for (workers, groups) in setups(seed) {
                    let rows = run(&batch_of(&facts), workers, groups, move |rows| {
                        let input = OperatorInput {
                            rows: rows.clone(),
                            schema: schema(),
                            exchange: Exchange::Key(1),
                        };
                        let output = OperatorOutput { schema: schema(), order: vec![1, 2] };
                        let state = Counter::default();
                        let mut both =
                            run_in_tick_order(vec![input], vec![output], Tick::ZERO, state, "count");
                        both.push(rows);
                        both.rotate_left(first);
                        union_in_tick_order(both, schema(), "both")
                    });
                    assert_eq!(rows_of(&rows), expected, "seed {seed}, {workers} workers, {groups:?}");
                }
            }
        }
    }
}
