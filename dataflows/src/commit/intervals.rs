//! Operators that buffer rows until a commit boundary has passed, and have the writer write each
//! interval.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::max;
use arrow::datatypes::{SchemaRef, TimestampMicrosecondType};
use parking_lot::Mutex;
use tidegate_facts::{Tick, columns};
use tidegate_operators::core::rows::{RowStream, Rows};
use tidegate_sinks::checkpoint::StateFile;
use tidegate_sinks::commits::{TableBuffer, TableError, TableFileFormat, TableSlice};
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::{Capability, Operator};

use crate::commit::boundary::CommitBoundary;
use crate::commit::target::IntervalOutput;
use crate::commit::writer::{TableWriter, WriterClient};
use crate::serve::ServeState;
use crate::serve::uncommitted::UncommittedRows;
use crate::timeline_names::node_of_timeline;

/// A stream of the commit boundaries that end intervals, the same on every worker.
pub type BoundaryStream<'scope> = Stream<'scope, Tick, Vec<CommitBoundary>>;

/// A stream of the files written for intervals, each with the upper end of its interval.
pub type OutputStream<'scope> = Stream<'scope, Tick, Vec<(Tick, IntervalOutput)>>;

/// This many batches go to the writer together, since waking its thread costs as much as a small
/// batch.
const SMALL_BATCHES: usize = 64;

/// A batch of this many rows goes to the writer at once.
const LARGE_BATCH_ROWS: usize = 1024;

/// What happens to the rows of a table before they are buffered for their interval.
pub struct RowTap {
    /// Returns the rows of a batch that are buffered, with the table's columns.
    pub rows: Box<dyn FnMut(RecordBatch) -> RecordBatch>,
    /// Gets the frontier: no rows before that tick come any more, and none at all without one.
    pub frontier: Box<dyn FnMut(Option<Tick>)>,
}

/// Writes the rows of a table to the commit target, interval by interval.
pub fn write_table<'scope>(
    rows: RowStream<'scope>,
    boundaries: &BoundaryStream<'scope>,
    buffer: TableBuffer,
    tap: RowTap,
    writer: &TableWriter,
    name: &str,
) -> OutputStream<'scope> {
    let target = Arc::clone(&writer.context().target);
    let write = move |slice: &TableSlice| Ok(target.write(slice)?.map(IntervalOutput::File));
    let live = writer.context().serve.as_ref().map(|serve| LiveView::new(serve, buffer.table()));
    write_intervals(rows, boundaries.clone(), OpenInterval { buffer, live }, write, tap, writer, name)
}

/// Writes the rows of a timeline to state files, interval by interval, if the commit target stores
/// state.
pub fn write_state<'scope>(
    rows: &RowStream<'scope>,
    boundaries: &BoundaryStream<'scope>,
    schema: &SchemaRef,
    writer: &TableWriter,
    timeline: &str,
) -> Option<OutputStream<'scope>> {
    let store = writer.context().target.state_store()?.clone();
    let (format, lower) = (TableFileFormat::Parquet, writer.context().restored);
    let buffer = TableBuffer::new(timeline, Arc::clone(schema), format, lower);
    let name = timeline.to_owned();
    let write = move |slice: &TableSlice| {
        // A timeline's columns are tick, key, time and others; a snapshot has columns of its own,
        // and no time.
        let times = slice.rows.column(2).as_primitive_opt::<TimestampMicrosecondType>();
        let last = times.and_then(max).unwrap_or(i64::MIN);
        let interval = (slice.lower, slice.upper);
        let file = StateFile::write(&name, slice.partition, interval, last, &slice.rows, &store)?;
        Ok(Some(IntervalOutput::State(file)))
    };
    let operator = format!("{}: state", node_of_timeline(timeline));
    let tap = RowTap { rows: Box::new(|rows| rows), frontier: Box::new(|_| {}) };
    let open = OpenInterval { buffer, live: None };
    Some(write_intervals(rows.clone(), boundaries.clone(), open, write, tap, writer, &operator))
}

/// The rows of a table since the last commit boundary. They are in `buffer`, or, when the topology
/// is served, in the uncommitted rows that queries read; never in both.
struct OpenInterval {
    buffer: TableBuffer,
    live: Option<LiveView>,
}

impl OpenInterval {
    fn cut_before(&mut self, upper: Tick) -> Vec<TableSlice> {
        match &self.live {
            Some(live) => {
                let rows = live.uncommitted.rows_between(self.buffer.lower(), upper);
                self.buffer.copy_before(&rows, upper)
            }
            None => self.buffer.drain_before(upper),
        }
    }
}

/// The rows of a table as queries and subscribers see them.
#[derive(Clone)]
struct LiveView {
    serve: Arc<ServeState>,
    table: String,
    uncommitted: Arc<UncommittedRows>,
}

impl LiveView {
    fn new(serve: &Arc<ServeState>, table: &str) -> LiveView {
        let (serve, table) = (Arc::clone(serve), table.to_owned());
        let uncommitted = serve.tables.add(&table);
        LiveView { serve, table, uncommitted }
    }

    /// Publishes rows, unless all of them are before `lower`. Returns whether the rows should be
    /// compacted.
    fn add(&self, rows: RecordBatch, lower: Tick) -> bool {
        if columns::ticks(&rows).values().iter().all(|tick| Tick(*tick) < lower) {
            return false;
        }
        let is_due = self.uncommitted.add(rows.clone());
        self.serve.tables.publish(&self.table, &rows);
        is_due
    }

    /// No rows before `upper` come any more. A table that gets no rows at all is complete from the
    /// start.
    fn advance(&self, upper: Option<Tick>) {
        self.uncommitted.advance(upper.unwrap_or(Tick::MAX));
    }
}

/// The small batches that wait to go to the writer together.
#[derive(Default)]
struct SmallBatches(Vec<RecordBatch>);

impl SmallBatches {
    /// Adds a batch; sends all when they are many, or this one is large.
    fn add<T: Send + 'static>(
        &mut self,
        rows: RecordBatch,
        client: &WriterClient<T>,
        open: &Arc<Mutex<OpenInterval>>,
    ) {
        let is_large = rows.num_rows() >= LARGE_BATCH_ROWS;
        self.0.push(rows);
        if is_large || self.0.len() >= SMALL_BATCHES {
            self.send(client, open);
        }
    }

    fn send<T: Send + 'static>(&mut self, client: &WriterClient<T>, open: &Arc<Mutex<OpenInterval>>) {
        if !self.0.is_empty() {
            let (rows, open) = (std::mem::take(&mut self.0), Arc::clone(open));
            client.push(move || open.lock().buffer.insert_all(&rows));
        }
    }
}

/// Buffers rows until a commit boundary has passed, and has the writer cut and write them.
///
/// * Output: what was written of each interval, at a time within it.
/// * State: what `tap` returned of the rows since the last boundary, on the writer's thread or in
///   the uncommitted rows.
fn write_intervals<'scope>(
    rows: RowStream<'scope>,
    boundaries: BoundaryStream<'scope>,
    open: OpenInterval,
    write: impl Fn(&TableSlice) -> Result<Option<IntervalOutput>, TableError> + Send + Sync + 'static,
    mut tap: RowTap,
    writer: &TableWriter,
    name: &str,
) -> OutputStream<'scope> {
    let scope = rows.scope();
    let (times, clock) = (Arc::clone(&writer.times), Arc::clone(&writer.clock));
    let (lower, live) = (open.buffer.lower(), open.live.clone());
    let (open, write) = (Arc::new(Mutex::new(open)), Arc::new(write));
    let mut due: VecDeque<Tick> = VecDeque::new();
    rows.binary_frontier(boundaries, Pipeline, Pipeline, name, move |mut capability, info| {
        let client: WriterClient<Vec<IntervalOutput>> = writer.client(scope, &info.address);
        // One capability for each interval that is being written, and one for the open interval.
        // What an earlier run committed is not held back.
        capability.downgrade(&lower);
        let mut open_capability = capability;
        let mut writing: VecDeque<(Tick, Capability<Tick>)> = VecDeque::new();
        let mut small = SmallBatches::default();
        move |(rows, frontier), (boundaries, _), output| {
            boundaries.for_each(|_, new| due.extend(new.drain(..).map(|b| b.upper).filter(|b| *b > lower)));
            rows.for_each(|_, rows: &mut Rows| {
                let rows = (tap.rows)(std::mem::take(rows).0);
                match &live {
                    Some(live) => {
                        if live.add(rows, lower) {
                            let uncommitted = Arc::clone(&live.uncommitted);
                            client.push(move || uncommitted.compact());
                        }
                    }
                    None => small.add(rows, &client, &open),
                }
            });
            let upper = frontier.frontier().iter().min().copied();
            if let Some(live) = &live {
                live.advance(upper);
            }
            (tap.frontier)(upper);
            while let Some(boundary) = due.pop_front_if(|due| upper.is_none_or(|upper| *due <= upper)) {
                small.send(&client, &open);
                let (open, write) = (Arc::clone(&open), Arc::clone(&write));
                let (times, clock) = (Arc::clone(&times), Arc::clone(&clock));
                client.request(move || {
                    let started = clock.monotonic();
                    let slices = open.lock().cut_before(boundary);
                    let written = slices.iter().filter_map(|slice| write(slice).transpose()).collect();
                    times.write.record_duration(clock.monotonic().saturating_sub(started));
                    written
                });
                writing.push_back((boundary, open_capability.clone()));
                open_capability.downgrade(&boundary);
            }
            for written in client.results() {
                let (upper, capability) = writing.pop_front().expect("a result for each request");
                output.session(&capability).give_iterator(written.into_iter().map(|output| (upper, output)));
            }
        }
    })
}
