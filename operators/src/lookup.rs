//! Asking a timeline about events as of their ticks, and bringing the answers home.
//!
//! An event's row never moves. For each timeline it is asked about, a narrow ask (key, event time,
//! tick) goes to the worker that owns the key; once the timeline is complete up to the ask's tick the
//! answer is read from its batches, once, and sent back; when all answers to a batch of rows are
//! there, the rows go on with the answers as new columns.
//!
//! * Input: rows at home, and one timeline for each group of answers.
//! * Output: each row once, at home, with its answers, at the time of its message.
//! * State: the asks that wait for a timeline, and the rows that wait for answers.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, UInt32Array, UInt64Array};
use arrow::compute::{concat, take};
use arrow::datatypes::{
    DataType, Field, FieldRef, Schema, SchemaRef, TimestampMicrosecondType, UInt32Type, UInt64Type,
};
use differential_dataflow::operators::arrange::Arranged;
use differential_dataflow::trace::TraceReader;
use tidegate_facts::{KeyHash, Tick};
use timely::Accountable;
use timely::container::NoopBuilder;
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::{DistributorPact, Pipeline};
use timely::dataflow::channels::pushers::exchange::Distributor;
use timely::dataflow::channels::{ContainerBytes, Message};
use timely::dataflow::operators::{Capability, Operator};

use crate::keys::{NULL_KEY, owner};
use crate::rows::{RowStream, Rows, from_ipc, ticks_of, to_ipc};
use crate::timeline::{TimelineBatch, TimelineTrace, batches, timeline_order};

/// What some rows of one batch want to know of one timeline.
///
/// When they are read they are in the order of a timeline: by key, then event time, then tick.
#[derive(Clone, Debug, Default)]
pub struct Asks {
    /// The key of each ask.
    pub keys: Vec<KeyHash>,
    /// Its event time, in microseconds.
    pub times: Vec<i64>,
    /// Its tick: only what was learned up to it counts.
    pub ticks: Vec<Tick>,
    /// The row of the batch that asks.
    rows: Vec<u32>,
    /// The worker that holds the batch.
    home: u32,
    /// The first tick of the batch, which is its name: no two batches share a tick.
    batch: Tick,
    /// Who asks is no fact: no row of the timeline is the asker's own.
    pub(crate) from_outside: bool,
}

/// The answers to one [`Asks`]: `columns[..][i]` is for row `rows[i]` of the batch.
#[derive(Clone, Debug, Default)]
struct Answers {
    group: u32,
    home: u32,
    batch: Tick,
    rows: Vec<u32>,
    columns: Vec<ArrayRef>,
}

/// What is asked of each row of a batch: keys and event times.
pub type AskOf = Box<dyn FnMut(&RecordBatch) -> (Vec<KeyHash>, Vec<i64>)>;

/// The answers to asks, from a timeline's batches; one column for each answer, in the order of the asks.
pub type ReadFrom = Box<dyn FnMut(&[Arc<TimelineBatch>], &Asks) -> Vec<ArrayRef>>;

/// A group of answers: which timeline is asked, with what, and how the answers are read from it.
pub struct Group<'scope> {
    /// What is asked of each row; called once for each batch.
    pub ask: AskOf,
    /// The timeline.
    pub timeline: Arranged<'scope, TimelineTrace>,
    /// How the answers are read from it.
    pub read: ReadFrom,
}

/// Each batch of `rows` with the answers of each group, as `finish` puts them together.
///
/// `finish` is given the rows and, for each group in order, its columns of answers in the order of the rows.
pub fn look_up<'scope>(
    rows: RowStream<'scope>,
    groups: Vec<Group<'scope>>,
    name: &str,
    mut finish: impl FnMut(RecordBatch, Vec<Vec<ArrayRef>>) -> RecordBatch + 'static,
) -> RowStream<'scope> {
    let groups_count = groups.len();
    let home = rows.scope().index() as u32;
    let answers = groups
        .into_iter()
        .enumerate()
        .map(|(group, Group { ask, timeline, read })| {
            let asks = send_asks(rows.clone(), home, ask, name);
            answer_asks(asks, timeline, group as u32, read, name)
        })
        .reduce(timely::dataflow::operators::Concat::concat)
        .expect("a look-up has at least one group");

    let mut waiting: BTreeMap<Tick, Waiting> = BTreeMap::new();
    let to_home = DistributorPact(|workers| ByHome { workers });
    rows.binary::<_, NoopBuilder<Rows>, _, _, _, _>(answers, Pipeline, to_home, name, move |_, _| {
        move |rows, answers, output| {
            rows.for_each(|time, rows| {
                if rows.0.num_rows() == 0 {
                    return;
                }
                let rows = std::mem::take(rows);
                let batch = Tick(rows.ticks().value(0));
                let slot = waiting.entry(batch).or_insert_with(|| Waiting::new(groups_count));
                slot.rows = Some((rows.0, time.retain(0)));
            });
            answers.for_each(|_, answers| {
                let answers = std::mem::take(answers);
                let slot = waiting.entry(answers.batch).or_insert_with(|| Waiting::new(groups_count));
                slot.answered += answers.rows.len();
                slot.answers[answers.group as usize].push((answers.rows, answers.columns));
            });
            waiting.retain(|_, slot| {
                let complete = slot
                    .rows
                    .as_ref()
                    .is_some_and(|(rows, _)| slot.answered == rows.num_rows() * groups_count);
                if complete {
                    let (rows, capability) = slot.rows.take().expect("just seen");
                    let columns = slot.answers.drain(..).map(in_row_order).collect();
                    output.session_with_builder(&capability).give_container(&mut Rows(finish(rows, columns)));
                }
                !complete
            });
        }
    })
}

/// A batch of rows some of whose answers are still to come.
struct Waiting {
    rows: Option<(RecordBatch, Capability<Tick>)>,
    answers: Vec<Vec<(Vec<u32>, Vec<ArrayRef>)>>,
    answered: usize,
}

impl Waiting {
    fn new(groups: usize) -> Waiting {
        Waiting { rows: None, answers: vec![Vec::new(); groups], answered: 0 }
    }
}

/// The columns of one group, put into the order of the rows.
fn in_row_order(mut parts: Vec<(Vec<u32>, Vec<ArrayRef>)>) -> Vec<ArrayRef> {
    if parts.len() == 1 && parts[0].0.is_sorted() {
        return parts.pop().expect("one part").1;
    }
    let rows: Vec<u32> = parts.iter().flat_map(|(rows, _)| rows.iter().copied()).collect();
    let mut place = vec![0u32; rows.len()];
    for (at, row) in rows.iter().enumerate() {
        place[*row as usize] = at as u32;
    }
    let place = UInt32Array::from(place);
    (0..parts[0].1.len())
        .map(|column| {
            let pieces: Vec<&dyn Array> = parts.iter().map(|(_, columns)| columns[column].as_ref()).collect();
            let all = concat(&pieces).expect("the parts have one type");
            take(&all, &place, None).expect("every row was answered once")
        })
        .collect()
}

fn send_asks<'scope>(
    rows: RowStream<'scope>,
    home: u32,
    mut ask: AskOf,
    name: &str,
) -> Stream<'scope, Tick, Asks> {
    rows.unary::<NoopBuilder<Asks>, _, _, _>(Pipeline, &format!("{name}: ask"), move |_, _| {
        move |input, output| {
            input.for_each(|time, rows| {
                if rows.0.num_rows() == 0 {
                    return; // No rows ask nothing, and have no tick to be known by.
                }
                let (keys, times) = ask(&rows.0);
                let ticks: Vec<Tick> = rows.ticks().values().iter().map(|t| Tick(*t)).collect();
                let rows = (0..ticks.len() as u32).collect();
                let batch = ticks[0];
                output.session_with_builder(&time).give_container(&mut Asks {
                    keys,
                    times,
                    ticks,
                    rows,
                    home,
                    batch,
                    from_outside: false,
                });
            });
        }
    })
}

/// The asks of one message, which wait until the timeline is complete up to the last of their ticks.
struct WaitingAsks {
    capability: Capability<Tick>,
    first: Tick,
    last: Tick,
    asks: Asks,
}

fn answer_asks<'scope>(
    asks: Stream<'scope, Tick, Asks>,
    timeline: Arranged<'scope, TimelineTrace>,
    group: u32,
    mut read: ReadFrom,
    name: &str,
) -> Stream<'scope, Tick, Answers> {
    let mut trace = timeline.trace;
    let by_owner = DistributorPact(|workers| ByOwner { workers });
    let mut waiting: Vec<WaitingAsks> = Vec::new();
    asks.binary_frontier::<_, NoopBuilder<Answers>, _, _, _, _>(
        timeline.stream,
        by_owner,
        Pipeline,
        &format!("{name}: answer"),
        move |_, _| {
            move |(asks, asks_frontier), (timeline, timeline_frontier), output| {
                timeline.for_each(|_, _| {});
                asks.for_each(|time, asks| {
                    let asks = std::mem::take(asks);
                    let first = *asks.ticks.iter().min().expect("no message is empty");
                    let last = *asks.ticks.iter().max().expect("no message is empty");
                    waiting.push(WaitingAsks { capability: time.retain(0), first, last, asks });
                });
                let complete = |waiting: &WaitingAsks| !timeline_frontier.less_equal(&waiting.last);
                if waiting.iter().any(complete) {
                    let batches = batches(&trace);
                    waiting.retain_mut(|waiting| {
                        if !complete(waiting) {
                            return true;
                        }
                        let WaitingAsks { capability, asks, .. } = waiting;
                        asks.sort();
                        let columns = read(&batches, asks);
                        let mut answers = Answers {
                            group,
                            home: asks.home,
                            batch: asks.batch,
                            rows: std::mem::take(&mut asks.rows),
                            columns,
                        };
                        output.session_with_builder(&*capability).give_container(&mut answers);
                        false
                    });
                }
                // What is before every ask that may still come, or waits, need not be told apart.
                let mut needed = asks_frontier.frontier().to_owned();
                needed.extend(waiting.iter().map(|waiting| waiting.first));
                trace.set_logical_compaction(needed.borrow());
                // Merging waits for it too, so that rows above an asking tick stand in small, late batches only.
                trace.set_physical_compaction(needed.borrow());
            }
        },
    )
}

impl Asks {
    /// What somebody asks who is no fact: of one key, at an event time, as of a tick.
    pub fn from_outside(key: KeyHash, time: i64, tick: Tick) -> Asks {
        let (keys, times, ticks) = (vec![key], vec![time], vec![tick]);
        Asks { keys, times, ticks, rows: vec![0], from_outside: true, ..Asks::default() }
    }

    /// The count of asks.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there are no asks.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Puts the asks in the order of a timeline; those without a key come last.
    fn sort(&mut self) {
        let order = timeline_order(&self.keys, &self.times, &self.ticks);
        fn gather<T: Copy>(values: &[T], order: &[u32]) -> Vec<T> {
            order.iter().map(|place| values[*place as usize]).collect()
        }
        self.keys = gather(&self.keys, &order);
        self.times = gather(&self.times, &order);
        self.ticks = gather(&self.ticks, &order);
        self.rows = gather(&self.rows, &order);
    }

    /// Each key that is asked about, with its asks.
    pub fn by_key(&self) -> impl Iterator<Item = (KeyHash, Range<usize>)> {
        let mut from = 0;
        self.keys.chunk_by(|a, b| a == b).map_while(move |run| {
            from += run.len();
            (run[0] != NULL_KEY).then_some((run[0], from - run.len()..from))
        })
    }
}

impl Accountable for Asks {
    fn record_count(&self) -> i64 {
        self.keys.len() as i64
    }
}

impl Accountable for Answers {
    fn record_count(&self) -> i64 {
        self.rows.len() as i64
    }
}

struct ByOwner {
    workers: usize,
}

impl Distributor<Asks> for ByOwner {
    fn partition<T: Clone, P: timely::communication::Push<Message<T, Asks>>>(
        &mut self,
        asks: &mut Asks,
        time: &T,
        pushers: &mut [P],
    ) {
        let empty = Asks { home: asks.home, batch: asks.batch, ..Asks::default() };
        let mut parts = vec![empty; self.workers];
        for at in 0..asks.len() {
            let part = &mut parts[owner(asks.keys[at], self.workers)];
            part.keys.push(asks.keys[at]);
            part.times.push(asks.times[at]);
            part.ticks.push(asks.ticks[at]);
            part.rows.push(asks.rows[at]);
        }
        for (mut part, pusher) in parts.into_iter().zip(pushers) {
            if !part.is_empty() {
                Message::push_at(&mut part, time.clone(), pusher);
            }
        }
    }

    fn flush<T: Clone, P: timely::communication::Push<Message<T, Asks>>>(&mut self, _: &T, _: &mut [P]) {}
}

struct ByHome {
    workers: usize,
}

impl Distributor<Answers> for ByHome {
    fn partition<T: Clone, P: timely::communication::Push<Message<T, Answers>>>(
        &mut self,
        answers: &mut Answers,
        time: &T,
        pushers: &mut [P],
    ) {
        let home = answers.home as usize % self.workers;
        Message::push_at(answers, time.clone(), &mut pushers[home]);
    }

    fn flush<T: Clone, P: timely::communication::Push<Message<T, Answers>>>(&mut self, _: &T, _: &mut [P]) {}
}

/// Between processes, an ask or an answer is a batch with its head in the schema's metadata.
fn with_head(columns: Vec<(String, ArrayRef)>, head: [(&str, u64); 3]) -> Vec<u8> {
    let metadata = head.into_iter().map(|(key, value)| (key.to_owned(), value.to_string())).collect();
    let fields: Vec<Field> =
        columns.iter().map(|(n, c)| Field::new(n, c.data_type().clone(), true)).collect();
    let schema = Arc::new(Schema::new_with_metadata(fields, metadata));
    let batch = RecordBatch::try_new(schema, columns.into_iter().map(|(_, c)| c).collect());
    to_ipc(&batch.expect("the columns have one length"))
}

fn head_of(batch: &RecordBatch, key: &str) -> u64 {
    batch.schema_ref().metadata()[key].parse().expect("with_head wrote a number")
}

impl Asks {
    fn to_bytes(&self) -> Vec<u8> {
        let halves = |shift: u32| -> ArrayRef {
            Arc::new(UInt64Array::from_iter_values(self.keys.iter().map(|k| (k >> shift) as u64)))
        };
        let times: ArrayRef = Arc::new(arrow::array::TimestampMicrosecondArray::from(self.times.clone()));
        let ticks: ArrayRef = Arc::new(UInt64Array::from_iter_values(self.ticks.iter().map(|t| t.0)));
        let rows: ArrayRef = Arc::new(UInt32Array::from(self.rows.clone()));
        let columns =
            [("high", halves(64)), ("low", halves(0)), ("time", times), ("tick", ticks), ("row", rows)];
        with_head(
            columns.into_iter().map(|(name, column)| (name.to_owned(), column)).collect(),
            [("home", self.home.into()), ("batch", self.batch.0), ("group", 0)],
        )
    }
}

impl ContainerBytes for Asks {
    fn from_bytes(bytes: timely::bytes::arc::Bytes) -> Self {
        let batch = from_ipc(&bytes);
        let word = |i: usize| batch.column(i).as_primitive::<UInt64Type>().values();
        Asks {
            keys: word(0)
                .iter()
                .zip(word(1))
                .map(|(h, l)| KeyHash::from(*h) << 64 | KeyHash::from(*l))
                .collect(),
            times: batch.column(2).as_primitive::<TimestampMicrosecondType>().values().to_vec(),
            ticks: word(3).iter().map(|t| Tick(*t)).collect(),
            rows: batch.column(4).as_primitive::<UInt32Type>().values().to_vec(),
            home: head_of(&batch, "home") as u32,
            batch: Tick(head_of(&batch, "batch")),
            from_outside: false,
        }
    }
    fn length_in_bytes(&self) -> usize {
        self.to_bytes().len()
    }
    fn into_bytes<W: std::io::Write>(&self, writer: &mut W) {
        writer.write_all(&self.to_bytes()).expect("timely's buffers take what length_in_bytes promised");
    }
}

impl Answers {
    fn to_bytes(&self) -> Vec<u8> {
        let rows: ArrayRef = Arc::new(UInt32Array::from(self.rows.clone()));
        let columns = std::iter::once(rows).chain(self.columns.iter().cloned());
        with_head(
            columns.enumerate().map(|(place, column)| (place.to_string(), column)).collect(),
            [("home", self.home.into()), ("batch", self.batch.0), ("group", self.group.into())],
        )
    }
}

impl ContainerBytes for Answers {
    fn from_bytes(bytes: timely::bytes::arc::Bytes) -> Self {
        let batch = from_ipc(&bytes);
        Answers {
            group: head_of(&batch, "group") as u32,
            home: head_of(&batch, "home") as u32,
            batch: Tick(head_of(&batch, "batch")),
            rows: batch.column(0).as_primitive::<UInt32Type>().values().to_vec(),
            columns: batch.columns()[1..].to_vec(),
        }
    }
    fn length_in_bytes(&self) -> usize {
        self.to_bytes().len()
    }
    fn into_bytes<W: std::io::Write>(&self, writer: &mut W) {
        writer.write_all(&self.to_bytes()).expect("timely's buffers take what length_in_bytes promised");
    }
}

/// Puts columns behind those of rows, always the same ones.
pub struct Wider {
    more: Vec<FieldRef>,
    /// The schema that rows had last, and what it became: making that anew costs as much as a small batch does.
    last: Option<(SchemaRef, SchemaRef)>,
}

impl Wider {
    /// For columns of these fields.
    pub fn new(more: impl IntoIterator<Item = Field>) -> Wider {
        Wider { more: more.into_iter().map(Arc::new).collect(), last: None }
    }

    /// The rows with a column for each of the fields, in their order.
    ///
    /// # Panics
    /// When a column is not of its field, or not as long as the rows.
    pub fn widen(&mut self, rows: &RecordBatch, more: impl IntoIterator<Item = ArrayRef>) -> RecordBatch {
        let schema = match &self.last {
            Some((from, to)) if Arc::ptr_eq(from, rows.schema_ref()) => Arc::clone(to),
            _ => {
                let fields = rows.schema_ref().fields().iter().chain(&self.more).cloned();
                let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
                self.last = Some((rows.schema(), Arc::clone(&schema)));
                schema
            }
        };
        let columns = rows.columns().iter().cloned().chain(more).collect();
        RecordBatch::try_new(schema, columns).expect("a column for each field")
    }
}

/// Event times of a timestamp column, in microseconds.
///
/// # Panics
/// When the column is no timestamp in microseconds: the plan checks that.
pub fn micros_of(column: &ArrayRef) -> Vec<i64> {
    debug_assert!(matches!(column.data_type(), DataType::Timestamp(_, _)));
    column.as_primitive::<TimestampMicrosecondType>().values().to_vec()
}

/// The first tick of a batch that holds rows.
pub fn first_tick(batch: &RecordBatch) -> Tick {
    Tick(ticks_of(batch).value(0))
}

#[cfg(test)]
pub(crate) mod tests {
    //! How the tests of look-ups feed a graph: facts in the order of their ticks, group by group, each row
    //! to the worker that owns its partition.

    use std::cell::RefCell;
    use std::rc::Rc;

    use arrow::array::BooleanArray;
    use arrow::compute::{concat_batches, filter_record_batch, take_record_batch};
    use timely::dataflow::InputHandle;
    use timely::dataflow::operators::{InspectCore, Probe, probe};
    use timely::{CommunicationConfig, Config, WorkerConfig};

    use super::*;
    use crate::rows::home;

    /// Chance with a seed (splitmix64). A test that fails prints its seed.
    pub(crate) struct Chance(pub u64);

    impl Chance {
        /// A number from 0 to `end`, which is left out.
        pub fn below(&mut self, end: u64) -> u64 {
            self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            (mixed ^ (mixed >> 31)) % end
        }

        /// True once in `count` times.
        pub fn one_in(&mut self, count: u64) -> bool {
            self.below(count) == 0
        }

        /// `Some` of a number below `end`, and null once in `count` times.
        pub fn unless_one_in(&mut self, count: u64, end: u64) -> Option<i64> {
            let value = self.below(end) as i64;
            (!self.one_in(count)).then_some(value)
        }
    }

    /// How the rows of a log are put into groups.
    #[derive(Clone, Copy, Debug)]
    pub(crate) enum Groups {
        /// So many rows each, and the workers catch up after each.
        Of(usize),
        /// Sizes by chance, and the workers catch up by chance.
        Random(u64),
    }

    /// What `build` makes of `facts` (rows in the order of their ticks), in the order of the ticks.
    pub(crate) fn run(
        facts: &RecordBatch,
        workers: usize,
        groups: Groups,
        build: impl for<'scope> Fn(RowStream<'scope>) -> RowStream<'scope> + Send + Sync + 'static,
    ) -> RecordBatch {
        let facts = facts.clone();
        // As bytes between workers, so that what travels between processes is tested too.
        let communication = if workers == 1 {
            CommunicationConfig::Thread
        } else {
            CommunicationConfig::ProcessBinary(workers)
        };
        let config = Config { communication, worker: WorkerConfig::default() };
        let guards = timely::execute(config, move |worker| {
            let gathered = Rc::new(RefCell::new(Vec::new()));
            let probe = probe::Handle::new();
            let mut input = InputHandle::<Tick, NoopBuilder<Rows>>::new_with_builder();
            worker.dataflow(|scope| {
                let gathered = Rc::clone(&gathered);
                let rows = input.to_stream(scope);
                build(rows)
                    .inspect_container(move |event| {
                        if let Ok((_, rows)) = event {
                            gathered.borrow_mut().push(rows.0.clone());
                        }
                    })
                    .probe_with(&probe);
            });
            let mut chance = Chance(if let Groups::Random(seed) = groups { seed } else { 0 });
            let mut from = 0;
            while from < facts.num_rows() {
                let wanted = match groups {
                    Groups::Of(rows) => rows,
                    Groups::Random(_) => 1 + chance.below(30) as usize,
                };
                let group = facts.slice(from, wanted.min(facts.num_rows() - from));
                from += group.num_rows();
                let ticks = ticks_of(&group).values();
                let own = |tick: &u64| Some(home(Tick(*tick).partition(), workers) == worker.index());
                let own: BooleanArray = ticks.iter().map(own).collect();
                let own = filter_record_batch(&group, &own).expect("one flag for each row");
                if own.num_rows() > 0 {
                    let cut = chance.below(own.num_rows() as u64) as usize;
                    for part in [own.slice(0, cut), own.slice(cut, own.num_rows() - cut)] {
                        input.send_batch(&mut Rows(part)); // Empty ones too.
                    }
                }
                input.advance_to(Tick(ticks[ticks.len() - 1]).next());
                match groups {
                    Groups::Of(_) => step_while(worker, || probe.less_than(input.time())),
                    Groups::Random(_) => {
                        for _ in 0..chance.below(4) {
                            worker.step();
                        }
                    }
                }
            }
            // The end of input is not the end of time: a graph is closed once it has computed all of it.
            step_while(worker, || probe.less_than(input.time()));
            input.close();
            step_while(worker, || !probe.done());
            gathered.take()
        });
        let batches: Vec<RecordBatch> = guards
            .expect("the workers start")
            .join()
            .into_iter()
            .flat_map(|rows| rows.expect("no panic"))
            .collect();
        let all = concat_batches(batches[0].schema_ref(), &batches).expect("one schema");
        let mut order: Vec<u32> = (0..all.num_rows() as u32).collect();
        order.sort_by_key(|row| ticks_of(&all).value(*row as usize));
        take_record_batch(&all, &UInt32Array::from(order)).expect("the places are the batch's own")
    }

    /// Steps as long as `wanted`, and leaves the core to the other workers in between.
    fn step_while(worker: &mut timely::worker::Worker, mut wanted: impl FnMut() -> bool) {
        while wanted() {
            worker.step();
            std::thread::yield_now();
        }
    }
}
