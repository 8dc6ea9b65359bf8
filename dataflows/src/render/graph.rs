//! Renders a plan as a timely graph.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use tidegate_facts::Tick;
use tidegate_operators::core::expr::error_schema;
use tidegate_operators::core::rows::RowStream;
use tidegate_operators::core::tick_ordered::union_in_tick_order;
use tidegate_sinks::commits::{TableBuffer, TableFileFormat};
use timely::dataflow::Scope;
use timely::dataflow::operators::{Concatenate, InspectCore, probe};

use crate::commit::{BoundaryStream, RowTap, TableFormat, TableWriter, publish, write_table};
use crate::metrics::RunMetrics;
use crate::node::render_context::{GraphParts, RenderContext, SinkProgress};
use crate::plan::{ERRORS_TABLE, Plan};

/// How far the rendered graph of one worker has come.
pub struct Probes {
    /// How far rows have reached the sinks. The worker takes no more rows while this is too far
    /// behind.
    pub computed: SinkProgress,
    /// How far commits are published.
    pub committed: probe::Handle<Tick>,
}

/// Renders the timely graph of `plan` behind its gate, whose rows are `facts`.
///
/// `restored` has the retained rows of each timeline from before the start. Files are written by
/// `writer`.
pub fn render<'scope>(
    scope: Scope<'scope, Tick>,
    plan: &Plan,
    facts: RowStream<'scope>,
    boundaries: BoundaryStream<'scope>,
    restored: BTreeMap<String, RowStream<'scope>>,
    writer: &TableWriter,
    metrics: &RunMetrics,
) -> Probes {
    let mut graph = GraphParts {
        streams: BTreeMap::from([(plan.gate.clone(), facts)]),
        errors: Vec::new(),
        restored,
        files: Vec::new(),
        progress: SinkProgress::default(),
    };
    for step in &plan.steps {
        let mut cx = RenderContext {
            node: &step.name,
            inputs: &step.inputs,
            outputs: &step.outputs,
            reason_column: step.node.reason_column(),
            graph: &mut graph,
            boundaries: &boundaries,
            writer,
            metrics,
            partitions: plan.topology.partitions,
            snapshot_rows: plan.topology.snapshot_rows,
        };
        let streams = step.node.render(&mut cx);
        assert_eq!(streams.len(), step.outputs.len(), "node `{}` renders each output", step.name);
        for (output, rows) in step.outputs.iter().zip(streams) {
            let rows = if output.port.is_none() { cx.count(rows) } else { rows };
            cx.graph.streams.insert(step.output_name(output), rows);
        }
    }
    let GraphParts { errors, mut files, mut progress, .. } = graph;
    commit_errors(scope, errors, &boundaries, writer, metrics, &mut files, &mut progress);
    let committed = publish(scope.concatenate(files), boundaries, writer);
    Probes { computed: progress, committed }
}

/// Commits the rows that expressions failed on, and counts them at their nodes.
fn commit_errors<'scope>(
    scope: Scope<'scope, Tick>,
    errors: Vec<RowStream<'scope>>,
    boundaries: &BoundaryStream<'scope>,
    writer: &TableWriter,
    metrics: &RunMetrics,
    files: &mut Vec<crate::commit::OutputStream<'scope>>,
    progress: &mut SinkProgress,
) {
    let errors = match errors.is_empty() {
        true => scope.concatenate(errors),
        // A fact may fail at several nodes.
        false => union_in_tick_order(errors, error_schema(), ERRORS_TABLE),
    };
    let (counter, mut sink) = (metrics.clone(), progress.add_sink());
    let context = writer.context();
    if context.target.accepts(TableFormat::Parquet) {
        let buffer = TableBuffer::new(ERRORS_TABLE, error_schema(), TableFileFormat::Parquet, context.lower);
        let rows = move |rows: RecordBatch| {
            counter.add_errors(&rows);
            rows
        };
        let tap = RowTap { rows: Box::new(rows), frontier: Box::new(sink) };
        files.push(write_table(errors, boundaries, buffer, tap, writer, ERRORS_TABLE));
    } else {
        errors.inspect_container(move |event| match event {
            Ok((_, rows)) => counter.add_errors(&rows.0),
            Err(frontier) => sink(frontier.iter().min().copied()),
        });
    }
}
