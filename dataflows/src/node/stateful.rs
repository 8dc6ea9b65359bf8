//! The adapter for nodes that keep state: a plain struct that receives rows in the order of ticks.
//!
//! A kind says what the state reads, what it gives and how one is made; the adapter restores it,
//! snapshots it at commit boundaries, and retains what a checkpoint needs of its inputs.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use tidegate_facts::columns;
use tidegate_facts::payload_schema::timestamp;
use tidegate_operators::core::expr::{Expr, ProjectedColumn, Projection};
use tidegate_operators::core::rows::RowStream;
use tidegate_operators::core::snapshotting::{SnapshotOperator, Snapshotting};
use tidegate_operators::core::tick_ordered::{
    Exchange, OperatorInput, OperatorOutput, TickOperator, run_in_tick_order,
};

use super::plan_context::{PlanContext, columns_of, columns_of_projection, tick_index};
use super::{ColumnSet, InputSchemas, OutputSpec, PlannedNode, Port, RenderContext, Summary};
use crate::commit::boundary_rows::boundary_schema;
use crate::timeline_names::{Retention, snapshot_timeline_name, timeline_name};

/// Makes the state of a stateful node on one worker.
pub type MakeState<S> = Arc<dyn Fn() -> Box<S> + Send + Sync>;

/// How a worker makes the state of a stateful node, and how a start restores it.
#[derive(Clone)]
pub enum StateFactory {
    /// A start feeds it the retained rows of its inputs again.
    Replayed(MakeState<dyn TickOperator>),
    /// A start feeds it its last snapshot, and the rows that came since.
    Snapshotted(MakeState<dyn SnapshotOperator>, SnapshotSpec),
}

/// The rows of the snapshots that a stateful node takes of its state.
#[derive(Clone)]
pub struct SnapshotSpec {
    /// Their columns.
    pub schema: SchemaRef,
    /// To which workers they go.
    pub exchange: Exchange,
    /// The columns that order the rows of one tick.
    pub order: Vec<usize>,
}

/// Where the state of a stateful node reads rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InputFrom {
    /// From a node or port.
    Node(String),
    /// The commit boundaries, as rows.
    Boundaries,
}

/// One input of the state of a stateful node.
#[derive(Clone)]
pub struct StateInput {
    /// Where the rows come from.
    pub from: InputFrom,
    /// The rows as tick, key, event time, and what else the state reads. A checkpoint keeps them
    /// so.
    pub projection: Arc<Projection>,
    /// To which workers they go.
    pub exchange: Exchange,
    /// Which of them a checkpoint needs.
    pub retention: Retention,
    /// Whether every output of the state gives these columns again, so that it reads those that
    /// are read of one of its outputs.
    pub is_passed_on: bool,
}

impl StateInput {
    fn reads(&self, node: &str, wanted: &[ColumnSet], inputs: &InputSchemas<'_>) -> ColumnSet {
        let schema = inputs.schema_of(node);
        if !self.is_passed_on {
            return columns_of_projection(&self.projection, schema);
        }
        let mut reads: ColumnSet = wanted.iter().flatten().cloned().collect();
        for (index, column) in self.projection.columns().enumerate() {
            match column {
                // The state needs key and time itself, the others when a node reads them.
                ProjectedColumn::Input(kept) if index < 3 => {
                    reads.insert(schema.field(*kept).name().clone());
                }
                ProjectedColumn::Input(_) => {}
                ProjectedColumn::Computed(expr) => reads.extend(columns_of(expr)),
            }
        }
        reads
    }
}

/// The planned state of a stateful node: its inputs, its outputs, and what makes it.
#[derive(Clone)]
pub struct StatePlan {
    /// What it reads.
    pub inputs: Vec<StateInput>,
    /// The columns that it gives, the node's own rows first, and the columns that order rows of one
    /// tick.
    pub outputs: Vec<(SchemaRef, Vec<usize>)>,
    /// Makes it.
    pub factory: StateFactory,
}

impl StatePlan {
    /// Reads of each input, for [`PlannedNode::reads`].
    pub fn reads(&self, wanted: &[ColumnSet], inputs: &InputSchemas<'_>) -> Vec<(String, ColumnSet)> {
        let read = self.inputs.iter().filter_map(|input| match &input.from {
            InputFrom::Node(node) => Some((node.clone(), input.reads(node, wanted, inputs))),
            InputFrom::Boundaries => None,
        });
        read.collect()
    }

    /// The timelines of the node `name`, for [`PlannedNode::timelines`].
    pub fn timelines(&self, name: &str) -> Vec<(String, Retention)> {
        let inputs = self.inputs.iter().enumerate();
        let mut timelines: Vec<_> =
            inputs.map(|(index, input)| (timeline_name(name, index), input.retention)).collect();
        if let StateFactory::Snapshotted(..) = self.factory {
            timelines.push((snapshot_timeline_name(name), Retention::SinceSnapshot));
        }
        timelines
    }

    /// Adds the state to a graph. It gives a stream for each output, in their order.
    pub fn render<'scope>(&self, cx: &mut RenderContext<'_, 'scope>) -> Vec<RowStream<'scope>> {
        let restored = cx.restored_before();
        let mut inputs: Vec<OperatorInput<'scope>> = Vec::new();
        for (index, input) in self.inputs.iter().enumerate() {
            let rows = match &input.from {
                InputFrom::Node(node) => cx.stream(node),
                InputFrom::Boundaries => cx.boundary_rows(),
            };
            let timeline = timeline_name(cx.node(), index);
            let rows = cx.timeline_input(&timeline, rows, None, &input.projection);
            let schema = Arc::clone(input.projection.schema());
            inputs.push(OperatorInput { rows, schema, exchange: input.exchange });
        }
        let outputs = self.outputs.iter();
        let outputs = outputs
            .map(|(schema, order)| OperatorOutput { schema: Arc::clone(schema), order: order.clone() });
        let mut outputs: Vec<_> = outputs.collect();
        match &self.factory {
            StateFactory::Snapshotted(make, snapshot) if cx.keeps_checkpoints() => {
                let schema = || Arc::clone(&snapshot.schema);
                inputs.push(OperatorInput {
                    rows: cx.snapshot_boundary_rows(),
                    schema: boundary_schema(),
                    exchange: Exchange::Broadcast,
                });
                let timeline = snapshot_timeline_name(cx.node());
                let before = cx.restored_rows(&timeline).expect("every timeline is restored");
                inputs.push(OperatorInput { rows: before, schema: schema(), exchange: snapshot.exchange });
                outputs.push(OperatorOutput { schema: schema(), order: snapshot.order.clone() });
                let state = Snapshotting::new(make(), schema(), restored);
                let mut streams = run_in_tick_order(inputs, outputs, restored, state, cx.node());
                let snapshots = streams.pop().expect("the snapshots are the last output");
                cx.retain(&timeline, &snapshots, &snapshot.schema);
                streams
            }
            StateFactory::Snapshotted(make, _) => {
                run_in_tick_order(inputs, outputs, restored, make(), cx.node())
            }
            StateFactory::Replayed(make) => run_in_tick_order(inputs, outputs, restored, make(), cx.node()),
        }
    }
}

/// A stateful node that is nothing but its state.
pub struct StatefulNode {
    name: String,
    state: StatePlan,
    ports: &'static [Port],
    summary: Option<Summary>,
}

/// Makes the planned node of a state. Its outputs behind the first are the kind's ports, in their
/// order.
pub fn stateful(
    cx: &PlanContext<'_>,
    ports: &'static [Port],
    summary: Option<Summary>,
    state: StatePlan,
) -> Box<dyn PlannedNode> {
    Box::new(StatefulNode { name: cx.name.to_owned(), state, ports, summary })
}

impl PlannedNode for StatefulNode {
    fn outputs(&self) -> Vec<OutputSpec> {
        let ports = std::iter::once(None).chain(self.ports.iter().map(|port| Some(port.name)));
        let schemas = self.state.outputs.iter().map(|(schema, _)| Arc::clone(schema));
        ports.zip(schemas).map(|(port, schema)| OutputSpec { port, schema }).collect()
    }

    fn reads(&self, wanted: &[ColumnSet], inputs: &InputSchemas<'_>) -> Vec<(String, ColumnSet)> {
        self.state.reads(wanted, inputs)
    }

    fn timelines(&self) -> Vec<(String, Retention)> {
        self.state.timelines(&self.name)
    }

    fn awaits_time(&self) -> bool {
        true
    }

    fn summary(&self) -> Option<Summary> {
        self.summary.clone()
    }

    fn render<'scope>(&self, cx: &mut RenderContext<'_, 'scope>) -> Vec<RowStream<'scope>> {
        self.state.render(cx)
    }
}

/// Collects the columns of an input of a stateful node: tick, key and event time first.
pub struct InputProjection<'s> {
    node: String,
    schema: &'s Schema,
    columns: Vec<(ProjectedColumn, Field)>,
}

impl<'s> InputProjection<'s> {
    /// Tick, key and event time; rows without an event time get null.
    pub fn new(
        cx: &PlanContext<'_>,
        schema: &'s Schema,
        key: usize,
        time: Option<usize>,
    ) -> InputProjection<'s> {
        let mut projection = InputProjection { node: cx.name.to_owned(), schema, columns: Vec::new() };
        projection.keep(tick_index(schema));
        projection.keep(key);
        match time {
            Some(time) => {
                projection.keep(time);
            }
            None => {
                projection.compute("_time", cx.own_expression("null", schema, &timestamp()));
            }
        }
        projection
    }

    /// Adds a column of the node as it is. Returns its index.
    pub fn keep(&mut self, index: usize) -> usize {
        self.columns.push((ProjectedColumn::Input(index), self.schema.field(index).clone()));
        self.columns.len() - 1
    }

    /// Adds a column of the node under another name. Returns its index.
    pub fn keep_as(&mut self, index: usize, name: &str) -> usize {
        self.columns.push((ProjectedColumn::Input(index), self.schema.field(index).clone().with_name(name)));
        self.columns.len() - 1
    }

    /// Adds the value of an expression. Returns its index.
    pub fn compute(&mut self, name: &str, expr: Expr) -> usize {
        let field = Field::new(name, expr.data_type.clone(), true);
        self.columns.push((ProjectedColumn::Computed(expr), field));
        self.columns.len() - 1
    }

    /// Adds the differences, if the node gives a changelog. Returns their index.
    pub fn diff(&mut self) -> Option<usize> {
        let index = self.schema.index_of(columns::DIFF).ok()?;
        Some(self.keep(index))
    }

    /// The number of columns so far.
    pub fn count(&self) -> usize {
        self.columns.len()
    }

    /// The input of a state that reads these columns of `from`.
    pub fn input(self, from: &str, exchange: Exchange) -> StateInput {
        StateInput {
            from: InputFrom::Node(from.to_owned()),
            projection: Arc::new(Projection::new(&self.node, self.columns)),
            exchange,
            retention: Retention::Forever,
            is_passed_on: false,
        }
    }
}

/// The planned value of a setting that a stateful node may leave out: `None` when it could not be
/// planned.
pub fn optional<T>(asked: Option<Option<T>>) -> Option<Option<T>> {
    match asked {
        None => Some(None),
        Some(None) => None,
        Some(planned) => Some(planned),
    }
}

/// The type of a column as the state of a stateful node retains it.
pub fn retained_type(schema: &Schema, index: usize) -> DataType {
    tidegate_operators::core::row_encoding::decoded_type(schema.field(index).data_type())
}
