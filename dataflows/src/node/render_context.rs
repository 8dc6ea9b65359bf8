//! What a planned node renders itself with: the streams of its inputs, and everything that a graph
//! shares.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use arrow::array::{Array, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use tidegate_facts::{Digest, Tick};
use tidegate_operators::core::expr::{Expr, Projection, Split, error_schema, filter};
use tidegate_operators::core::map_rows::{map_rows, map_rows_with_passthrough};
use tidegate_operators::core::rows::RowStream;
use tidegate_operators::temporal::timeline::{PublishedTimeline, TimelineMetrics};
use tidegate_sinks::commits::{TableBuffer, TableFileFormat};
use timely::dataflow::operators::InspectCore;

use super::{OutputSpec, TablePlan};
use crate::commit::boundary_rows::{boundary_rows, snapshot_boundary_rows};
use crate::commit::{
    BoundaryStream, CommitContext, OutputStream, RowTap, TableFormat, TableWriter, write_state, write_table,
};
use crate::metrics::{Counter, RunMetrics};

/// How far rows have reached each sink of a rendered graph; `None` where no more rows come.
///
/// A probe for each sink would be one more operator each.
#[derive(Default)]
pub struct SinkProgress(Vec<Rc<Cell<Option<Tick>>>>);

impl SinkProgress {
    /// Whether rows before `tick` may still come to a sink.
    pub fn less_than(&self, tick: &Tick) -> bool {
        self.0.iter().any(|upper| upper.get().is_some_and(|upper| upper < *tick))
    }

    /// Adds a sink. It calls the function with its frontier.
    pub fn add_sink(&mut self) -> impl FnMut(Option<Tick>) + 'static {
        let upper = Rc::new(Cell::new(Some(Tick::ZERO)));
        self.0.push(Rc::clone(&upper));
        move |reached| upper.set(reached)
    }
}

/// The parts of a graph that its nodes add to while they render.
pub struct GraphParts<'scope> {
    /// The rows of every node and port so far.
    pub streams: BTreeMap<String, RowStream<'scope>>,
    /// The rows that expressions failed on.
    pub errors: Vec<RowStream<'scope>>,
    /// The retained rows of each timeline from before the start; a node takes its own.
    pub restored: BTreeMap<String, RowStream<'scope>>,
    /// The files that sinks and timelines write.
    pub files: Vec<OutputStream<'scope>>,
    /// How far rows have reached the sinks.
    pub progress: SinkProgress,
}

/// The context in which a planned node renders itself into a graph.
///
/// `'scope` is the graph's, `'cx` only the call's.
pub struct RenderContext<'cx, 'scope> {
    pub(crate) node: &'cx str,
    pub(crate) inputs: &'cx [String],
    pub(crate) outputs: &'cx [OutputSpec],
    pub(crate) reason_column: Option<usize>,
    pub(crate) graph: &'cx mut GraphParts<'scope>,
    pub(crate) boundaries: &'cx BoundaryStream<'scope>,
    pub(crate) writer: &'cx TableWriter,
    pub(crate) metrics: &'cx RunMetrics,
    pub(crate) partitions: u16,
    pub(crate) snapshot_rows: u64,
}

impl<'scope> RenderContext<'_, 'scope> {
    fn context(&self) -> &CommitContext {
        self.writer.context()
    }

    /// The node's name.
    pub fn node(&self) -> &str {
        self.node
    }

    /// The rows of a node or port.
    pub fn stream(&self, name: &str) -> RowStream<'scope> {
        self.graph.streams[name].clone()
    }

    /// The rows of the node's first input.
    pub fn input(&self) -> RowStream<'scope> {
        self.stream(&self.inputs[0])
    }

    /// The rows of all its inputs.
    pub fn all_inputs(&self) -> Vec<RowStream<'scope>> {
        self.inputs.iter().map(|input| self.stream(input)).collect()
    }

    /// The columns of the node's own rows.
    pub fn schema(&self) -> &SchemaRef {
        &self.outputs[0].schema
    }

    /// The plan's digest.
    pub fn plan_digest(&self) -> Digest {
        self.context().plan
    }

    /// The state is restored up to here: the rows before this tick come from
    /// [`Self::restored_rows`].
    pub fn restored_before(&self) -> Tick {
        self.context().restored
    }

    /// Adds rows that expressions failed on.
    pub fn add_errors(&mut self, failed: RowStream<'scope>) {
        self.graph.errors.push(failed);
    }

    /// Maps each batch of `rows`. The rows that fail go to the table of errors.
    pub fn map_rows(
        &mut self,
        rows: RowStream<'scope>,
        map: impl FnMut(RecordBatch) -> Split + 'static,
    ) -> RowStream<'scope> {
        let (passed, failed) = map_rows(rows, self.node, map);
        self.add_errors(failed);
        passed
    }

    /// Maps each batch of `rows` by a function that fails on no row. `what` is part of the
    /// operator's name.
    pub fn map_every_row(
        &self,
        rows: RowStream<'scope>,
        what: &str,
        mut map: impl FnMut(RecordBatch) -> RecordBatch + 'static,
    ) -> RowStream<'scope> {
        let name = if what.is_empty() { self.node.to_owned() } else { format!("{}: {what}", self.node) };
        map_rows(rows, &name, move |batch| Split { passed: map(batch), errors: None }).0
    }

    /// The retained rows of a timeline from before the start. They can be taken once.
    pub fn restored_rows(&mut self, timeline: &str) -> Option<RowStream<'scope>> {
        self.graph.restored.remove(timeline)
    }

    /// Whether checkpoints are written, so that a state must be snapshotted.
    pub fn keeps_checkpoints(&self) -> bool {
        self.context().target.state_store().is_some()
    }

    /// Retains the rows of a timeline in checkpoints, if those are written.
    pub fn retain(&mut self, timeline: &str, rows: &RowStream<'scope>, schema: &SchemaRef) {
        self.graph.files.extend(write_state(rows, self.boundaries, schema, self.writer, timeline));
    }

    /// The rows of a timeline: its restored rows, then those of `rows` for which `condition` holds,
    /// both with only the columns of `projection`. Checkpoints retain them.
    pub fn timeline_input(
        &mut self,
        timeline: &str,
        rows: RowStream<'scope>,
        condition: Option<Expr>,
        projection: &Arc<Projection>,
    ) -> RowStream<'scope> {
        let before = self.restored_rows(timeline);
        let (node, project) = (self.node.to_owned(), Arc::clone(projection));
        let narrow = move |batch| match &condition {
            None => project.apply(&batch),
            Some(condition) => {
                let filtered = filter(&node, condition, &batch);
                let projected = project.apply(&filtered.passed);
                let both: Vec<_> = filtered.errors.into_iter().chain(projected.errors).collect();
                let errors =
                    (!both.is_empty()).then(|| concat_batches(&error_schema(), &both).expect("one schema"));
                Split { passed: projected.passed, errors }
            }
        };
        let name = format!("{}: project", self.node);
        let (passed, failed) = map_rows_with_passthrough(rows, before, &name, narrow);
        self.add_errors(failed);
        self.retain(timeline, &passed, projection.schema());
        passed
    }

    /// Where a timeline is published for queries, when the topology is served.
    pub fn published(&self, timeline: &str) -> Option<Arc<PublishedTimeline>> {
        let context = self.context();
        Some(context.serve.as_ref()?.timelines.add(timeline, context.restored))
    }

    /// Where the size of a timeline is counted.
    pub fn timeline_metrics(&self, timeline: &str) -> Arc<TimelineMetrics> {
        self.metrics.timeline(timeline)
    }

    /// The commit boundaries as rows, the first worker's only.
    pub fn boundary_rows(&self) -> RowStream<'scope> {
        boundary_rows(self.boundaries, self.partitions, self.restored_before())
    }

    /// The boundaries at which states are snapshotted, as rows, the first worker's only.
    pub fn snapshot_boundary_rows(&self) -> RowStream<'scope> {
        snapshot_boundary_rows(self.boundaries, self.partitions, self.snapshot_rows)
    }

    /// The same decisions, counted by action; callers that wait for one of them receive it.
    pub fn publish_decisions(&self, rows: RowStream<'scope>) -> RowStream<'scope> {
        let Some(serve) = &self.context().serve else { return rows };
        let node: Arc<str> = self.node.into();
        let (decisions, counter) = (Arc::clone(&serve.decisions), self.metrics.node(self.node));
        rows.inspect_container(move |event| match event {
            Ok((_, rows)) => {
                decisions.decided(&node, &rows.0);
                counter.add_decisions(&rows.0);
            }
            Err(frontier) => decisions.advance(&node, frontier.iter().min().copied()),
        })
    }

    /// Commits rows to a table, unless this run commits no tables of its format.
    pub fn commit(&mut self, rows: RowStream<'scope>, table: &TablePlan) {
        let context = self.context();
        if !context.target.accepts(table.format) {
            return;
        }
        let format = match table.format {
            TableFormat::Parquet | TableFormat::Sealed => TableFileFormat::Parquet,
            TableFormat::Jsonl => TableFileFormat::Jsonl,
        };
        let mut buffer = TableBuffer::new(&table.table, Arc::clone(&table.schema), format, context.lower);
        if table.format == TableFormat::Sealed {
            buffer = buffer.with_chains(context.chains.get(&table.table).cloned().unwrap_or_default());
        }
        let (columns, counted) = (table.columns.clone(), self.counted());
        let (upper, mut sink) = (counted.clone(), self.graph.progress.add_sink());
        let tap = RowTap {
            rows: Box::new(move |rows| {
                counted.add(&rows);
                rows.project(&columns).expect("the plan gave the columns")
            }),
            frontier: Box::new(move |frontier| {
                upper.reached(frontier);
                sink(frontier);
            }),
        };
        let files = write_table(rows, self.boundaries, buffer, tap, self.writer, self.node);
        self.graph.files.push(files);
    }

    /// The same rows, counted by the metrics of the node.
    pub(crate) fn count(&self, rows: RowStream<'scope>) -> RowStream<'scope> {
        let counted = self.counted();
        rows.inspect_container(move |event| match event {
            Ok((_, rows)) => counted.add(&rows.0),
            Err(frontier) => counted.reached(frontier.iter().min().copied()),
        })
    }

    fn counted(&self) -> NodeCounter {
        NodeCounter::new(self.metrics, self.node, self.reason_column)
    }
}

/// Counts the rows of a rendered node, and reports its frontier.
#[derive(Clone)]
pub struct NodeCounter {
    counter: Arc<Counter>,
    metrics: RunMetrics,
    worker: Arc<AtomicI64>,
    /// The column that says why a row was not answered.
    reason: Option<usize>,
}

impl NodeCounter {
    /// The counter of one worker's part of a node.
    pub fn new(metrics: &RunMetrics, node: &str, reason: Option<usize>) -> NodeCounter {
        let (counter, metrics) = (metrics.node(node), metrics.clone());
        let worker = counter.worker_frontier();
        NodeCounter { counter, metrics, worker, reason }
    }

    fn add(&self, rows: &RecordBatch) {
        self.counter.add(rows.num_rows() as u64);
        if let Some(reason) = self.reason {
            let answered = rows.column(reason).null_count();
            self.counter.add_late((rows.num_rows() - answered) as u64);
        }
    }

    /// Where no more rows come, there is no tick to report.
    fn reached(&self, upper: Option<Tick>) {
        if let Some(upper) = upper {
            self.metrics.advance(&self.counter, &self.worker, upper);
        }
    }
}
