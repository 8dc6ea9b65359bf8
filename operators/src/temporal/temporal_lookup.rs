//! Temporal look-ups: joins each row with results that are read from timelines as of the row's
//! tick.
//!
//! The row itself never moves. For each timeline, a small request (key, event time, tick) goes to
//! the worker that owns the key. Once the timeline is complete up to the request's tick, that
//! worker reads the result from the timeline's batches and sends it back. When all results for a
//! batch of rows have arrived, the rows are emitted with the results as new columns.
//!
//! * Input: rows on their partition owners, and one timeline for each group of results.
//! * Output: each row once, on its partition owner, with its results, at the time of its message.
//! * State: the requests that wait for a timeline, and the rows that wait for results.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, RecordBatch, TimestampMicrosecondArray, UInt32Array, UInt64Array,
};
use arrow::compute::{concat, take};
use arrow::datatypes::{Field, Schema, TimestampMicrosecondType, UInt32Type, UInt64Type};
use differential_dataflow::operators::arrange::Arranged;
use differential_dataflow::trace::TraceReader;
use tidegate_facts::columns::{TickType, tick_array};
use tidegate_facts::{KeyHash, Tick};
use timely::Accountable;
use timely::container::NoopBuilder;
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::{DistributorPact, Pipeline};
use timely::dataflow::channels::pushers::exchange::Distributor;
use timely::dataflow::channels::{ContainerBytes, Message};
use timely::dataflow::operators::{Capability, Operator};

use crate::core::keys::{NULL_KEY, owner};
use crate::core::rows::{RowStream, Rows, from_ipc, to_ipc};
use crate::temporal::timeline::{TimelineBatch, TimelineTrace, batches, timeline_order};

/// The look-up requests of some rows of one batch to one timeline.
///
/// [`ReadFn`] receives them in the order of a timeline: by key, then event time, then tick.
#[derive(Clone, Debug, Default)]
pub struct LookupRequests {
    /// The key of each request.
    pub keys: Vec<KeyHash>,
    /// The event time of each request, in microseconds since 1970 UTC.
    pub times: Vec<i64>,
    /// The tick of each request: the look-up reads rows with a tick not above it.
    pub ticks: Vec<Tick>,
    /// The index of each requesting row in its batch.
    rows: Vec<u32>,
    /// The worker that has the batch.
    worker: u32,
    /// The first tick of the batch, which identifies it: no two batches share a tick.
    batch: Tick,
    /// Whether the request comes from a query, not from a fact: then no timeline row belongs to it.
    pub(crate) is_query: bool,
}

/// The results of one [`LookupRequests`]: `columns[..][i]` is for row `rows[i]` of the batch.
#[derive(Clone, Debug, Default)]
struct LookupResults {
    group: u32,
    worker: u32,
    batch: Tick,
    rows: Vec<u32>,
    columns: Vec<ArrayRef>,
}

/// Returns the temporal look-up request of each row of a batch: its key and its event time in
/// microseconds.
pub type RequestFn = Box<dyn FnMut(&RecordBatch) -> (Vec<KeyHash>, Vec<i64>)>;

/// Reads the results of temporal look-ups from a timeline's batches: columns with one value for
/// each request, in order.
pub type ReadFn = Box<dyn FnMut(&[Arc<TimelineBatch>], &LookupRequests) -> Vec<ArrayRef>>;

/// A group of results of a temporal look-up: its timeline, the requests to it, and how results are
/// read from it.
pub struct LookupGroup<'scope> {
    /// Returns the requests; called once for each batch.
    pub request: RequestFn,
    /// The timeline.
    pub timeline: Arranged<'scope, TimelineTrace>,
    /// Reads the results from the timeline.
    pub read: ReadFn,
}

/// Joins each batch of `rows` with the temporal look-up results of each group, as `finish` combines
/// them.
///
/// `finish` receives the rows and, for each group in order, its columns of results in the order of
/// the rows.
///
/// # Panics
/// When there are no groups.
pub fn look_up<'scope>(
    rows: RowStream<'scope>,
    groups: Vec<LookupGroup<'scope>>,
    name: &str,
    mut finish: impl FnMut(RecordBatch, Vec<Vec<ArrayRef>>) -> RecordBatch + 'static,
) -> RowStream<'scope> {
    let groups_count = groups.len();
    let worker = rows.scope().index() as u32;
    let results = groups
        .into_iter()
        .enumerate()
        .map(|(group, LookupGroup { request, timeline, read })| {
            let requests = send_requests(rows.clone(), worker, request, name);
            read_results(requests, timeline, group as u32, read, name)
        })
        .reduce(timely::dataflow::operators::Concat::concat)
        .expect("a look-up has at least one group");

    let mut pending: BTreeMap<Tick, PendingRows> = BTreeMap::new();
    let by_partition = DistributorPact(|workers| ByPartition { workers });
    rows.binary::<_, NoopBuilder<Rows>, _, _, _, _>(results, Pipeline, by_partition, name, move |_, _| {
        move |rows, results, output| {
            rows.for_each(|time, rows| {
                if rows.0.num_rows() == 0 {
                    return;
                }
                let rows = std::mem::take(rows);
                let batch = Tick(rows.ticks().value(0));
                let slot = pending.entry(batch).or_insert_with(|| PendingRows::new(groups_count));
                slot.rows = Some((rows.0, time.retain(0)));
            });
            results.for_each(|_, results| {
                let results = std::mem::take(results);
                let slot = pending.entry(results.batch).or_insert_with(|| PendingRows::new(groups_count));
                slot.results_count += results.rows.len();
                slot.results[results.group as usize].push((results.rows, results.columns));
            });
            pending.retain(|_, slot| {
                let complete = slot
                    .rows
                    .as_ref()
                    .is_some_and(|(rows, _)| slot.results_count == rows.num_rows() * groups_count);
                if complete {
                    let (rows, capability) = slot.rows.take().expect("a complete slot has rows");
                    let columns = slot.results.drain(..).map(in_row_order).collect();
                    output.session_with_builder(&capability).give_container(&mut Rows(finish(rows, columns)));
                }
                !complete
            });
        }
    })
}

/// A batch of rows that waits for results.
struct PendingRows {
    rows: Option<(RecordBatch, Capability<Tick>)>,
    /// For each group the results so far: the indexes of rows, and the columns of their results.
    results: Vec<Vec<(Vec<u32>, Vec<ArrayRef>)>>,
    results_count: usize,
}

impl PendingRows {
    fn new(groups: usize) -> PendingRows {
        PendingRows { rows: None, results: vec![Vec::new(); groups], results_count: 0 }
    }
}

/// Merges the results of one group and puts them in the order of the rows.
fn in_row_order(mut parts: Vec<(Vec<u32>, Vec<ArrayRef>)>) -> Vec<ArrayRef> {
    if parts.len() == 1 && parts[0].0.is_sorted() {
        return parts.pop().expect("one part").1;
    }
    let rows: Vec<u32> = parts.iter().flat_map(|(rows, _)| rows.iter().copied()).collect();
    let mut positions = vec![0u32; rows.len()];
    for (position, row) in rows.iter().enumerate() {
        positions[*row as usize] = position as u32;
    }
    let positions = UInt32Array::from(positions);
    (0..parts[0].1.len())
        .map(|column| {
            let arrays: Vec<&dyn Array> = parts.iter().map(|(_, columns)| columns[column].as_ref()).collect();
            let all = concat(&arrays).expect("the parts have one type");
            take(&all, &positions, None).expect("every row has one result")
        })
        .collect()
}

fn send_requests<'scope>(
    rows: RowStream<'scope>,
    worker: u32,
    mut request: RequestFn,
    name: &str,
) -> Stream<'scope, Tick, LookupRequests> {
    rows.unary::<NoopBuilder<LookupRequests>, _, _, _>(Pipeline, &format!("{name}: request"), move |_, _| {
        move |input, output| {
            input.for_each(|time, rows| {
                if rows.0.num_rows() == 0 {
                    return; // Without rows there are no requests, and no tick that identifies the batch.
                }
                let (keys, times) = request(&rows.0);
                let ticks: Vec<Tick> = rows.ticks().values().iter().map(|t| Tick(*t)).collect();
                let rows = (0..ticks.len() as u32).collect();
                let batch = ticks[0];
                output.session_with_builder(&time).give_container(&mut LookupRequests {
                    keys,
                    times,
                    ticks,
                    rows,
                    worker,
                    batch,
                    is_query: false,
                });
            });
        }
    })
}

/// The requests of one message, which wait until the timeline is complete up to their last tick.
struct PendingRequests {
    capability: Capability<Tick>,
    first: Tick,
    last: Tick,
    requests: LookupRequests,
}

fn read_results<'scope>(
    requests: Stream<'scope, Tick, LookupRequests>,
    timeline: Arranged<'scope, TimelineTrace>,
    group: u32,
    mut read: ReadFn,
    name: &str,
) -> Stream<'scope, Tick, LookupResults> {
    let mut trace = timeline.trace;
    let by_key = DistributorPact(|workers| ByKey { workers });
    let mut pending: Vec<PendingRequests> = Vec::new();
    requests.binary_frontier::<_, NoopBuilder<LookupResults>, _, _, _, _>(
        timeline.stream,
        by_key,
        Pipeline,
        &format!("{name}: read"),
        move |_, _| {
            move |(requests, requests_frontier), (timeline, timeline_frontier), output| {
                timeline.for_each(|_, _| {});
                requests.for_each(|time, requests| {
                    let requests = std::mem::take(requests);
                    let first = *requests.ticks.iter().min().expect("no message is empty");
                    let last = *requests.ticks.iter().max().expect("no message is empty");
                    pending.push(PendingRequests { capability: time.retain(0), first, last, requests });
                });
                let is_complete = |pending: &PendingRequests| !timeline_frontier.less_equal(&pending.last);
                if pending.iter().any(is_complete) {
                    let batches = batches(&trace);
                    pending.retain_mut(|pending| {
                        if !is_complete(pending) {
                            return true;
                        }
                        let PendingRequests { capability, requests, .. } = pending;
                        requests.sort();
                        let columns = read(&batches, requests);
                        let mut results = LookupResults {
                            group,
                            worker: requests.worker,
                            batch: requests.batch,
                            rows: std::mem::take(&mut requests.rows),
                            columns,
                        };
                        output.session_with_builder(&*capability).give_container(&mut results);
                        false
                    });
                }
                // Look-ups need not distinguish ticks before every pending or future request.
                let mut needed = requests_frontier.frontier().to_owned();
                needed.extend(pending.iter().map(|pending| pending.first));
                trace.set_logical_compaction(needed.borrow());
                // Physical merging waits too, so rows above a request's tick are in small, late
                // batches only.
                trace.set_physical_compaction(needed.borrow());
            }
        },
    )
}

impl LookupRequests {
    /// A single look-up request that comes from a query: of one key, at an event time, as of a
    /// tick.
    pub fn of_query(key: KeyHash, time: i64, tick: Tick) -> LookupRequests {
        let (keys, times, ticks) = (vec![key], vec![time], vec![tick]);
        LookupRequests { keys, times, ticks, rows: vec![0], is_query: true, ..LookupRequests::default() }
    }

    /// The count of look-up requests.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there are no look-up requests.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Sorts the requests as a timeline is sorted; those without a key come last.
    fn sort(&mut self) {
        let order = timeline_order(&self.keys, &self.times, &self.ticks);
        fn gather<T: Copy>(values: &[T], order: &[u32]) -> Vec<T> {
            order.iter().map(|row| values[*row as usize]).collect()
        }
        self.keys = gather(&self.keys, &order);
        self.times = gather(&self.times, &order);
        self.ticks = gather(&self.ticks, &order);
        self.rows = gather(&self.rows, &order);
    }

    /// Each distinct key with the range of its requests; requests without a key are left out.
    pub fn by_key(&self) -> impl Iterator<Item = (KeyHash, Range<usize>)> {
        let mut from = 0;
        self.keys.chunk_by(|a, b| a == b).map_while(move |run| {
            from += run.len();
            (run[0] != NULL_KEY).then_some((run[0], from - run.len()..from))
        })
    }
}

impl Accountable for LookupRequests {
    fn record_count(&self) -> i64 {
        self.keys.len() as i64
    }
}

impl Accountable for LookupResults {
    fn record_count(&self) -> i64 {
        self.rows.len() as i64
    }
}

/// Sends each request to the worker that owns its key.
struct ByKey {
    workers: usize,
}

impl Distributor<LookupRequests> for ByKey {
    fn partition<T: Clone, P: timely::communication::Push<Message<T, LookupRequests>>>(
        &mut self,
        requests: &mut LookupRequests,
        time: &T,
        pushers: &mut [P],
    ) {
        let LookupRequests { worker, batch, .. } = *requests;
        let mut parts = vec![LookupRequests { worker, batch, ..LookupRequests::default() }; self.workers];
        for index in 0..requests.len() {
            let part = &mut parts[owner(requests.keys[index], self.workers)];
            part.keys.push(requests.keys[index]);
            part.times.push(requests.times[index]);
            part.ticks.push(requests.ticks[index]);
            part.rows.push(requests.rows[index]);
        }
        for (mut part, pusher) in parts.into_iter().zip(pushers) {
            if !part.is_empty() {
                Message::push_at(&mut part, time.clone(), pusher);
            }
        }
    }

    fn flush<T: Clone, P: timely::communication::Push<Message<T, LookupRequests>>>(
        &mut self,
        _: &T,
        _: &mut [P],
    ) {
    }
}

/// Sends each result back to the worker that has the requesting rows.
struct ByPartition {
    workers: usize,
}

impl Distributor<LookupResults> for ByPartition {
    fn partition<T: Clone, P: timely::communication::Push<Message<T, LookupResults>>>(
        &mut self,
        results: &mut LookupResults,
        time: &T,
        pushers: &mut [P],
    ) {
        let worker = results.worker as usize % self.workers;
        Message::push_at(results, time.clone(), &mut pushers[worker]);
    }

    fn flush<T: Clone, P: timely::communication::Push<Message<T, LookupResults>>>(
        &mut self,
        _: &T,
        _: &mut [P],
    ) {
    }
}

/// Encodes requests or results for another process: a batch with the header in the schema's
/// metadata.
fn with_header(columns: Vec<(String, ArrayRef)>, header: [(&str, i64); 3]) -> Vec<u8> {
    let metadata = header.into_iter().map(|(key, value)| (key.to_owned(), value.to_string())).collect();
    let fields: Vec<Field> =
        columns.iter().map(|(n, c)| Field::new(n, c.data_type().clone(), true)).collect();
    let schema = Arc::new(Schema::new_with_metadata(fields, metadata));
    let batch = RecordBatch::try_new(schema, columns.into_iter().map(|(_, c)| c).collect());
    to_ipc(&batch.expect("the columns have one length"))
}

fn header_of(batch: &RecordBatch, key: &str) -> i64 {
    batch.schema_ref().metadata()[key].parse().expect("with_header wrote a number")
}

impl LookupRequests {
    fn to_bytes(&self) -> Vec<u8> {
        let halves = |shift: u32| -> ArrayRef {
            Arc::new(UInt64Array::from_iter_values(self.keys.iter().map(|k| (k >> shift) as u64)))
        };
        let times: ArrayRef = Arc::new(TimestampMicrosecondArray::from(self.times.clone()));
        let ticks: ArrayRef = Arc::new(tick_array(self.ticks.iter().copied()));
        let rows: ArrayRef = Arc::new(UInt32Array::from(self.rows.clone()));
        let columns =
            [("high", halves(64)), ("low", halves(0)), ("time", times), ("tick", ticks), ("row", rows)];
        with_header(
            columns.into_iter().map(|(name, column)| (name.to_owned(), column)).collect(),
            [("worker", self.worker.into()), ("batch", self.batch.0), ("group", 0)],
        )
    }
}

impl ContainerBytes for LookupRequests {
    fn from_bytes(bytes: timely::bytes::arc::Bytes) -> Self {
        let batch = from_ipc(&bytes);
        let word = |i: usize| batch.column(i).as_primitive::<UInt64Type>().values();
        LookupRequests {
            keys: word(0)
                .iter()
                .zip(word(1))
                .map(|(h, l)| KeyHash::from(*h) << 64 | KeyHash::from(*l))
                .collect(),
            times: batch.column(2).as_primitive::<TimestampMicrosecondType>().values().to_vec(),
            ticks: batch.column(3).as_primitive::<TickType>().values().iter().map(|t| Tick(*t)).collect(),
            rows: batch.column(4).as_primitive::<UInt32Type>().values().to_vec(),
            worker: header_of(&batch, "worker") as u32,
            batch: Tick(header_of(&batch, "batch")),
            is_query: false,
        }
    }
    fn length_in_bytes(&self) -> usize {
        self.to_bytes().len()
    }
    fn into_bytes<W: std::io::Write>(&self, writer: &mut W) {
        writer
            .write_all(&self.to_bytes())
            .expect("timely's buffer has the size that length_in_bytes returned");
    }
}

impl LookupResults {
    fn to_bytes(&self) -> Vec<u8> {
        let rows: ArrayRef = Arc::new(UInt32Array::from(self.rows.clone()));
        let columns = std::iter::once(rows).chain(self.columns.iter().cloned());
        with_header(
            columns.enumerate().map(|(index, column)| (index.to_string(), column)).collect(),
            [("worker", self.worker.into()), ("batch", self.batch.0), ("group", self.group.into())],
        )
    }
}

impl ContainerBytes for LookupResults {
    fn from_bytes(bytes: timely::bytes::arc::Bytes) -> Self {
        let batch = from_ipc(&bytes);
        LookupResults {
            group: header_of(&batch, "group") as u32,
            worker: header_of(&batch, "worker") as u32,
            batch: Tick(header_of(&batch, "batch")),
            rows: batch.column(0).as_primitive::<UInt32Type>().values().to_vec(),
            columns: batch.columns()[1..].to_vec(),
        }
    }
    fn length_in_bytes(&self) -> usize {
        self.to_bytes().len()
    }
    fn into_bytes<W: std::io::Write>(&self, writer: &mut W) {
        writer
            .write_all(&self.to_bytes())
            .expect("timely's buffer has the size that length_in_bytes returned");
    }
}
