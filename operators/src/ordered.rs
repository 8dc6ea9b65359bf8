//! States that hear of rows in the order of their ticks, and answer with rows.
//!
//! Rows go to the worker that owns their key and wait there until the frontier has passed them. A state hears of
//! every tick once, whole and in order, whatever the batches; it may also say what follows from time alone, such
//! as that something expired. What it says goes home, to the worker of its tick's partition, and waits once more until
//! all workers have said theirs, so that rows of one tick stand in an order that the rows alone decide.
//!
//! * Input: rows at home, for each input; several rows of one tick must come in one batch, as those of a [`RowStream`] of this
//!   operator do.
//! * Output: for each output rows at home, in the order of ticks over all batches of a worker.
//! * Time: nothing is given before the frontier has passed it; the output's frontier is the input's.
//! * State: what the frontier has not passed, and the state's own.

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

use crate::kept::Form;
use crate::keys::{keys_of, owner};
use crate::rows::{RowStream, Rows, home, ticks_of};

/// A state that hears of rows in the order of their ticks.
pub trait Ordered: 'static {
    /// Hears of the rows with ticks from the `upper` of the call before to before `upper`: of each input one batch, perhaps without
    /// rows, in the order of ticks.
    ///
    /// Gives for each output what follows from them, and from time alone, up to `upper`: rows with ticks in that same
    /// interval, in the order of ticks.
    fn advance(&mut self, inputs: &[RecordBatch], upper: Tick) -> Vec<RecordBatch>;
}

impl Ordered for Box<dyn Ordered> {
    fn advance(&mut self, inputs: &[RecordBatch], upper: Tick) -> Vec<RecordBatch> {
        self.as_mut().advance(inputs, upper)
    }
}

/// Which worker's state hears of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// The owner of the key in this column.
    Key(usize),
    /// The same one for all rows.
    One,
    /// Every worker's, so that each knows the same.
    All,
}

/// What a state hears of.
pub struct Input<'scope> {
    /// The rows, at home.
    pub rows: RowStream<'scope>,
    /// Their columns.
    pub schema: SchemaRef,
    /// Where they go.
    pub route: Route,
}

/// What a state gives.
pub struct Output {
    /// The columns, `_tick` among them.
    pub schema: SchemaRef,
    /// By which columns rows of one tick are in order, wherever they were made. Rows that agree in all of these are of one
    /// worker, and stay in its order.
    pub order: Vec<usize>,
}

/// What `state` gives of `inputs`, a stream for each of `outputs`.
///
/// Rows below `restored` are heard, as what a checkpoint kept of the inputs, and what follows from them is not given again.
pub fn ordered<'scope, S: Ordered>(
    inputs: Vec<Input<'scope>>,
    outputs: Vec<Output>,
    restored: Tick,
    state: S,
    name: &str,
) -> Vec<RowStream<'scope>> {
    let scope = inputs.first().expect("a state hears of something").rows.scope();
    let mut builder = OperatorBuilder::new(name.to_owned(), scope);
    let one = key_hash("node", name.as_bytes());
    let mut heard = Vec::new();
    let mut waiting = Vec::new();
    for Input { rows, schema, route } in inputs {
        let place = move |rows: &RecordBatch, workers: usize| match route {
            Route::Key(column) => {
                keys_of(rows.column(column)).into_iter().map(|key| owner(key, workers)).collect()
            }
            Route::One | Route::All => vec![owner(one, workers); rows.num_rows()],
        };
        let to_all = route == Route::All;
        let place = move |workers| ByPlace { workers, place, to_all };
        heard.push(builder.new_input(rows, DistributorPact(place)));
        waiting.push(Waiting::new(schema, Vec::new()));
    }
    let (mut given, mut streams) = (Vec::new(), Vec::new());
    for Output { schema, order } in outputs {
        let (output, rows) = builder.new_output::<Rows>();
        given.push(OutputBuilder::<_, NoopBuilder<Rows>>::from(output));
        streams.push((rows, schema, order));
    }
    let mut state = state;
    // Alone, a worker puts rows in order as it gives them, and all of them are at home.
    let is_alone = scope.peers() == 1;
    let orders: Vec<_> = streams.iter().map(|(_, _, order)| order.clone()).collect();
    builder.build(move |capabilities| {
        let mut passed = Passed::new(capabilities);
        move |frontiers| {
            for (heard, waiting) in heard.iter_mut().zip(&mut waiting) {
                heard.for_each(|_, rows| waiting.batches.push(std::mem::take(rows).0));
            }
            let Some(upper) = passed.next(frontiers) else { return passed.close(frontiers) };
            let rows: Vec<RecordBatch> =
                waiting.iter_mut().map(|waiting| waiting.take_before(upper)).collect();
            let said = state.advance(&rows, upper);
            assert_eq!(said.len(), given.len(), "a state says something for each output");
            let said = said.into_iter().zip(&orders);
            for (((said, order), given), capability) in said.zip(&mut given).zip(&passed.capabilities) {
                let ticks = ticks_of(&said).values();
                assert!(ticks.is_sorted(), "what a state says is in the order of ticks");
                let is_within = ticks.first().is_none_or(|tick| Tick(*tick) >= passed.lower)
                    && ticks.last().is_none_or(|tick| Tick(*tick) < upper);
                assert!(is_within, "what a state says is of the interval that it heard of");
                let new = ticks.partition_point(|tick| Tick(*tick) < restored);
                if new < said.num_rows() {
                    let new = if new == 0 { said } else { said.slice(new, said.num_rows() - new) };
                    let new = if is_alone { in_order(&[new], order) } else { new };
                    given.activate().session_with_builder(capability).give_container(&mut Rows(new));
                }
            }
            passed.downgrade(upper);
            passed.close(frontiers);
        }
    });
    let homeward = |(rows, schema, order)| match is_alone {
        true => rows,
        false => at_home(rows, schema, order, &format!("{name}: home")),
    };
    streams.into_iter().map(homeward).collect()
}

/// Several streams as one of `schema`, whose types are theirs: rows in the order of ticks, and those of one tick in the order of the
/// streams, whichever of them came first.
///
/// * Input: rows at home, those of one tick of a stream in one batch.
/// * Output: the same rows, at home. * Time: nothing is given before the frontier has passed it.
///
/// # Panics
/// When there are no streams.
pub fn union<'scope>(streams: Vec<RowStream<'scope>>, schema: SchemaRef, name: &str) -> RowStream<'scope> {
    let scope = streams.first().expect("there is something to unite").scope();
    let mut builder = OperatorBuilder::new(name.to_owned(), scope);
    let inputs = streams.into_iter().map(|rows| {
        let waiting = Waiting::new(Arc::clone(&schema), Vec::new());
        (builder.new_input(rows, Pipeline), waiting)
    });
    let mut inputs: Vec<_> = inputs.collect();
    let (output, stream) = builder.new_output::<Rows>();
    let mut output = OutputBuilder::<_, NoopBuilder<Rows>>::from(output);
    builder.build(move |capabilities| {
        let mut passed = Passed::new(capabilities);
        move |frontiers| {
            for (input, waiting) in &mut inputs {
                input.for_each(|_, rows| {
                    let columns = std::mem::take(rows).0.columns().to_vec();
                    let rows = RecordBatch::try_new(Arc::clone(&schema), columns);
                    waiting.batches.push(rows.expect("one union has one schema"));
                });
            }
            let Some(upper) = passed.next(frontiers) else { return passed.close(frontiers) };
            let parts = inputs.iter_mut().map(|(_, waiting)| waiting.take_before(upper));
            let parts: Vec<RecordBatch> = parts.filter(|rows| rows.num_rows() > 0).collect();
            if !parts.is_empty() {
                let mut rows = Rows(in_order(&parts, &[]));
                output.activate().session_with_builder(&passed.capabilities[0]).give_container(&mut rows);
            }
            passed.downgrade(upper);
            passed.close(frontiers);
        }
    });
    stream
}

/// The rows at home, in the order of (tick, `order`).
fn at_home<'scope>(
    rows: RowStream<'scope>,
    schema: SchemaRef,
    order: Vec<usize>,
    name: &str,
) -> RowStream<'scope> {
    let mut builder = OperatorBuilder::new(name.to_owned(), rows.scope());
    let place = |rows: &RecordBatch, workers: usize| {
        ticks_of(rows).values().iter().map(|tick| home(Tick(*tick).partition(), workers)).collect()
    };
    let mut input =
        builder.new_input(rows, DistributorPact(move |workers| ByPlace { workers, place, to_all: false }));
    let (output, stream) = builder.new_output::<Rows>();
    let mut output = OutputBuilder::<_, NoopBuilder<Rows>>::from(output);
    let mut waiting = Waiting::new(schema, order);
    builder.build(move |capabilities| {
        let mut passed = Passed::new(capabilities);
        move |frontiers| {
            input.for_each(|_, rows| waiting.batches.push(std::mem::take(rows).0));
            let Some(upper) = passed.next(frontiers) else { return passed.close(frontiers) };
            let rows = waiting.take_before(upper);
            if rows.num_rows() > 0 {
                let mut output = output.activate();
                output.session_with_builder(&passed.capabilities[0]).give_container(&mut Rows(rows));
            }
            passed.downgrade(upper);
            passed.close(frontiers);
        }
    });
    stream
}

/// How far the frontiers have passed, and the capabilities to speak of what comes next.
struct Passed {
    lower: Tick,
    capabilities: Vec<Capability<Tick>>,
}

impl Passed {
    fn new(capabilities: Vec<Capability<Tick>>) -> Passed {
        Passed { lower: Tick::ZERO, capabilities }
    }

    /// Up to where everything is known now; `None` when that is no further than before.
    fn next(&self, frontiers: &[MutableAntichain<Tick>]) -> Option<Tick> {
        let open = frontiers.iter().filter_map(|frontier| frontier.frontier().iter().min().copied()).min();
        // Frontiers that are empty are those of a graph which is taken down: nothing more is known then.
        let upper = open?;
        (upper > self.lower && !self.capabilities.is_empty()).then_some(upper)
    }

    /// Lets go of what may be said, once no input can say more.
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

/// Rows that the frontier has not passed.
struct Waiting {
    /// No rows: making that anew costs as much as a small batch does.
    nothing: RecordBatch,
    order: Vec<usize>,
    batches: Vec<RecordBatch>,
}

impl Waiting {
    fn new(schema: SchemaRef, order: Vec<usize>) -> Waiting {
        Waiting { nothing: RecordBatch::new_empty(schema), order, batches: Vec::new() }
    }

    /// Takes out the rows before `upper`, in order.
    fn take_before(&mut self, upper: Tick) -> RecordBatch {
        if self.batches.is_empty() {
            return self.nothing.clone();
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

/// The rows by tick, then by `order`, then as they came.
fn in_order(batches: &[RecordBatch], order: &[usize]) -> RecordBatch {
    if let [rows] = batches
        && ticks_of(rows).values().is_sorted_by(|earlier, later| earlier < later)
    {
        return rows.clone(); // As most are, and then nothing is to be looked at.
    }
    let each = batches.iter().enumerate().flat_map(|(batch, rows)| {
        let ticks = ticks_of(rows).values().iter().enumerate();
        ticks.map(move |(row, tick)| (*tick, batch, row))
    });
    let mut places: Vec<(u64, usize, usize)> = each.collect();
    if !places.is_sorted() {
        // Batches are runs in order, which a stable sort merges.
        places.sort();
    }
    let ties = |places: &[(u64, usize, usize)]| places.windows(2).any(|two| two[0].0 == two[1].0);
    if !order.is_empty() && ties(&places) {
        let keys = Form::new(order.iter().map(|column| batches[0].column(*column).data_type().clone()));
        let keys: Vec<_> = batches.iter().map(|rows| keys.rows(rows, order)).collect();
        for tied in places.chunk_by_mut(|a, b| a.0 == b.0) {
            tied.sort_by_key(|(_, batch, row)| keys[*batch].row(*row));
        }
    }
    match batches {
        [rows] if places.is_sorted() => rows.clone(),
        batches => {
            let places: Vec<(usize, usize)> =
                places.into_iter().map(|(_, batch, row)| (batch, row)).collect();
            let batches: Vec<&RecordBatch> = batches.iter().collect();
            interleave_record_batch(&batches, &places).expect("one stream has one schema")
        }
    }
}

/// Sends each row to the worker that `place` names, or to all.
struct ByPlace<F> {
    workers: usize,
    place: F,
    to_all: bool,
}

impl<F: FnMut(&RecordBatch, usize) -> Vec<usize>> Distributor<Rows> for ByPlace<F> {
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
        if self.to_all {
            for pusher in pushers {
                Message::push_at(&mut Rows(batch.clone()), time.clone(), pusher);
            }
            return;
        }
        let mut places: Vec<Vec<u32>> = vec![Vec::new(); self.workers];
        for (row, worker) in (self.place)(&batch, self.workers).into_iter().enumerate() {
            places[worker].push(row as u32);
        }
        for (places, pusher) in places.into_iter().zip(pushers).filter(|(places, _)| !places.is_empty()) {
            let part = if places.len() == batch.num_rows() {
                batch.clone()
            } else {
                take_record_batch(&batch, &UInt32Array::from(places)).expect("the places are of these rows")
            };
            Message::push_at(&mut Rows(part), time.clone(), pusher);
        }
    }

    fn flush<T: Clone, P: Push<Message<T, Rows>>>(&mut self, _: &T, _: &mut [P]) {}
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use arrow::array::{ArrayRef, AsArray, Int64Array, UInt64Array};
    use arrow::datatypes::{DataType, Field, Int64Type, Schema};
    use tidegate_facts::columns;

    use super::*;
    use crate::lookup::tests::{Chance, Groups, run};

    /// So long after each row its echo is due.
    const DELAY: i64 = 7;

    /// Tick, key, and how many rows of the key there were; an echo has the number negated.
    type Said = (u64, i64, i64);

    fn schema() -> SchemaRef {
        let numbers = ["key", "count"].map(|name| Field::new(name, DataType::Int64, false));
        let tick = Field::new(columns::TICK, DataType::UInt64, false);
        Arc::new(Schema::new([vec![tick], numbers.to_vec()].concat()))
    }

    fn batch_of(said: &[Said]) -> RecordBatch {
        let columns: [ArrayRef; 3] = [
            Arc::new(UInt64Array::from_iter_values(said.iter().map(|said| said.0))),
            Arc::new(Int64Array::from_iter_values(said.iter().map(|said| said.1))),
            Arc::new(Int64Array::from_iter_values(said.iter().map(|said| said.2))),
        ];
        RecordBatch::try_new(schema(), columns.to_vec()).expect("the columns are the schema's")
    }

    fn said_of(rows: &RecordBatch) -> Vec<Said> {
        let numbers = |column: usize| rows.column(column).as_primitive::<Int64Type>().values();
        let ticks = ticks_of(rows).values().iter();
        ticks.zip(numbers(1)).zip(numbers(2)).map(|((tick, key), count)| (*tick, *key, *count)).collect()
    }

    /// Counts the rows of each key, and says each count again after a while; an echo is due before the rows of its tick.
    #[derive(Default)]
    struct Counting {
        counts: BTreeMap<i64, i64>,
        due: BTreeSet<Said>,
    }

    impl Counting {
        fn hear(&mut self, tick: u64, key: i64) -> Said {
            let count = self.counts.entry(key).or_default();
            *count += 1;
            let later = Tick::new(Tick(tick).micros() + DELAY, Tick(tick).partition()).expect("in range");
            self.due.insert((later.0, key, -*count));
            (tick, key, *count)
        }

        fn due_before(&mut self, tick: u64, said: &mut Vec<Said>) {
            while let Some(first) = self.due.first().filter(|due| due.0 < tick).copied() {
                self.due.remove(&first);
                said.push(first);
            }
        }
    }

    impl Ordered for Counting {
        fn advance(&mut self, inputs: &[RecordBatch], upper: Tick) -> Vec<RecordBatch> {
            let mut said = Vec::new();
            for (tick, key, _) in said_of(&inputs[0]) {
                self.due_before(tick + 1, &mut said);
                said.push(self.hear(tick, key));
            }
            self.due_before(upper.0, &mut said);
            vec![batch_of(&said)]
        }
    }

    /// The slow, obvious version: what is said of all rows, in order.
    fn slow(facts: &[Said], upper: u64) -> Vec<Said> {
        let mut said = Vec::new();
        for (place, (tick, key, _)) in facts.iter().enumerate() {
            let count = facts[..=place].iter().filter(|fact| fact.1 == *key).count() as i64;
            let later = Tick::new(Tick(*tick).micros() + DELAY, Tick(*tick).partition()).expect("in range");
            said.push((*tick, *key, count));
            if later.0 < upper {
                said.push((later.0, *key, -count));
            }
        }
        said.sort();
        said
    }

    fn facts(seed: u64) -> Vec<Said> {
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

    /// How many workers there are, and in which groups rows come to them.
    fn ways(seed: u64) -> [(usize, Groups); 4] {
        [(1, Groups::Of(1)), (1, Groups::Random(seed)), (2, Groups::Random(seed)), (3, Groups::Of(50))]
    }

    fn fast(facts: &[Said], workers: usize, groups: Groups, restored: Tick) -> Vec<Said> {
        let rows = run(&batch_of(facts), workers, groups, move |rows| {
            let input = Input { rows, schema: schema(), route: Route::Key(1) };
            let output = Output { schema: schema(), order: vec![1, 2] };
            let mut streams = ordered(vec![input], vec![output], restored, Counting::default(), "counting");
            streams.pop().expect("one output")
        });
        said_of(&rows)
    }

    #[test]
    fn a_state_hears_of_each_tick_once_and_in_order_whatever_the_batches_and_workers() {
        for seed in 0..10 {
            let facts = facts(seed);
            let wanted = slow(&facts, facts.last().expect("some").0 + 1);
            for (workers, groups) in ways(seed) {
                let said = fast(&facts, workers, groups, Tick::ZERO);
                assert_eq!(said, wanted, "seed {seed}, {workers} workers, {groups:?}");
            }
        }
    }

    #[test]
    fn what_followed_from_restored_rows_is_not_said_again_and_counts() {
        let facts = facts(7);
        let restored = Tick(facts[facts.len() / 2].0);
        let wanted: Vec<Said> = slow(&facts, facts.last().expect("some").0 + 1);
        let wanted: Vec<Said> = wanted.into_iter().filter(|said| Tick(said.0) >= restored).collect();
        assert_eq!(fast(&facts, 2, Groups::Of(20), restored), wanted);
    }

    #[test]
    fn rows_of_one_tick_stand_in_the_order_of_the_streams_whichever_is_later() {
        for seed in 0..10 {
            let facts = facts(seed);
            let counted = slow(&facts, facts.last().expect("some").0 + 1);
            for first in [0, 1] {
                let counted = counted.iter().map(|said| (said.0, 0 != first, *said));
                let heard = facts.iter().map(|said| (said.0, 1 != first, *said));
                let mut wanted: Vec<(u64, bool, Said)> = counted.chain(heard).collect();
                wanted.sort();
                let wanted: Vec<Said> = wanted.into_iter().map(|(.., said)| said).collect();
                for (workers, groups) in ways(seed) {
                    let rows = run(&batch_of(&facts), workers, groups, move |rows| {
                        let input = Input { rows: rows.clone(), schema: schema(), route: Route::Key(1) };
                        let output = Output { schema: schema(), order: vec![1, 2] };
                        let state = Counting::default();
                        let mut both = ordered(vec![input], vec![output], Tick::ZERO, state, "counting");
                        both.push(rows);
                        both.rotate_left(first);
                        union(both, schema(), "both")
                    });
                    assert_eq!(said_of(&rows), wanted, "seed {seed}, {workers} workers, {groups:?}");
                }
            }
        }
    }
}
