//! States that hear rows in the order of ticks, planned: what they hear, what they give, and how one is made.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use tidegate_facts::columns;
use tidegate_facts::schema::timestamp;
use tidegate_operators::checkpointed::Lasting;
use tidegate_operators::expr::{Column, Expr, Projection};
use tidegate_operators::kept::is_kept;
use tidegate_operators::ordered::{Ordered, Route};

use super::{Planner, projection_reads, reads_of};
use crate::settings::Text;
use crate::topology::Node;

/// A state, planned.
#[derive(Clone)]
pub struct StatePlan {
    /// What it hears.
    pub inputs: Vec<Heard>,
    /// The columns of what it gives, the node's own rows first, and by which of them rows of one tick are in order.
    pub outputs: Vec<(SchemaRef, Vec<usize>)>,
    /// Makes a worker's state.
    pub state: Made,
}

/// How a worker's state is made.
#[derive(Clone)]
pub enum Made {
    /// One that is restored by what it heard.
    Heard(Make<dyn Ordered>),
    /// One that is put down at boundaries.
    PutDown(Make<dyn Lasting>, PutDown),
}

/// Makes a state.
pub type Make<S> = Arc<dyn Fn() -> Box<S> + Send + Sync>;

/// The rows of a state that is put down.
#[derive(Clone)]
pub struct PutDown {
    /// Their columns.
    pub schema: SchemaRef,
    /// To which workers they go.
    pub route: Route,
    /// By which columns rows of one tick are in order.
    pub order: Vec<usize>,
}

/// Which rows of a timeline a checkpoint has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retention {
    /// All.
    Forever,
    /// Those of so many microseconds of event time.
    Span(i64),
    /// Those that came since the node's state was last put down.
    PutDown,
    /// Those of so many microseconds of event time before the node's state was last put down.
    SpanBeforePutDown(i64),
}

/// What a state hears of one node.
#[derive(Clone)]
pub struct Heard {
    /// The node or port.
    pub over: String,
    /// Its rows as tick, key, event time, and what else the state reads: a checkpoint keeps them so.
    pub narrow: Arc<Projection>,
    /// To which workers they go.
    pub route: Route,
    /// Which of them a checkpoint needs.
    pub retention: Retention,
    /// Whether the state passes its columns on, so that it reads what others read of it.
    pub is_passed: bool,
}

impl Heard {
    /// The columns of its node that are read, when those of `out` are read of the state.
    pub(super) fn reads(&self, out: &BTreeSet<String>, schema: &Schema) -> BTreeSet<String> {
        if !self.is_passed {
            return projection_reads(&self.narrow, schema);
        }
        let mut reads = out.clone();
        for (place, column) in self.narrow.columns().enumerate() {
            match column {
                // Key and time are needed by the state, the others when somebody reads them.
                Column::Kept(kept) if place < 3 => {
                    reads.insert(schema.field(*kept).name().clone());
                }
                Column::Kept(_) => {}
                Column::Computed(expr) => reads.extend(reads_of(expr)),
            }
        }
        reads
    }
}

/// The columns of a state's input in the making: tick, key and event time first.
pub(super) struct Narrow<'s> {
    node: String,
    schema: &'s Schema,
    columns: Vec<(Column, Field)>,
}

impl<'s> Narrow<'s> {
    /// Tick, key and time; the time of rows that have none is null.
    pub fn new(
        planner: &Planner<'_>,
        node: &Node,
        schema: &'s Schema,
        key: usize,
        time: Option<usize>,
    ) -> Narrow<'s> {
        let mut narrow = Narrow { node: node.name.clone(), schema, columns: Vec::new() };
        narrow.keep(schema.index_of(columns::TICK).expect("every stream carries _tick"));
        narrow.keep(key);
        match time {
            Some(time) => {
                narrow.keep(time);
            }
            None => {
                let never =
                    planner.sql.plan("null", schema, Some(&timestamp())).expect("a null is of any type");
                narrow.compute("_time", never.expr);
            }
        }
        narrow
    }

    /// A column of the node, as it is; gives its place.
    pub fn keep(&mut self, place: usize) -> usize {
        self.columns.push((Column::Kept(place), self.schema.field(place).clone()));
        self.columns.len() - 1
    }

    /// A column by an expression; gives its place.
    pub fn compute(&mut self, name: &str, expr: Expr) -> usize {
        let field = Field::new(name, expr.data_type.clone(), true);
        self.columns.push((Column::Computed(expr), field));
        self.columns.len() - 1
    }

    /// The differences, if the node gives a changelog.
    pub fn diff(&mut self) -> Option<usize> {
        let place = self.schema.index_of(columns::DIFF).ok()?;
        Some(self.keep(place))
    }

    /// How many columns there are so far.
    pub fn len(&self) -> usize {
        self.columns.len()
    }

    /// What is heard of `over`.
    pub fn heard(self, over: &str, route: Route) -> Heard {
        let narrow = Arc::new(Projection::new(&self.node, self.columns));
        Heard { over: over.to_owned(), narrow, route, retention: Retention::Forever, is_passed: false }
    }
}

impl Planner<'_> {
    /// The place of a column that a state can keep, or a fault.
    pub(super) fn kept_column(&self, name: &Text, schema: &Schema, of: &str) -> Option<usize> {
        let place = self.column(name, schema, of)?;
        let data_type = schema.field(place).data_type();
        if !is_kept(data_type) {
            let what = format!(
                "column `{}` is {data_type}, which cannot be kept; cast it in a `project` before",
                name.value
            );
            self.faults.add(name.line, what);
            return None;
        }
        Some(place)
    }

    /// A boolean over rows of a node.
    pub(super) fn condition(&self, text: &Text, schema: &Schema) -> Option<Expr> {
        Some(self.planned(text, self.sql.plan_boolean(&text.value, schema))?.expr)
    }

    /// An expression over rows of a node, cast to 64 bits.
    pub(super) fn whole(&self, text: &Text, schema: &Schema) -> Option<Expr> {
        let planned =
            self.sql.plan(&text.value, schema, None).and_then(|planned| match planned.expr.data_type {
                ref whole if whole.is_integer() => self.sql.plan(&text.value, schema, Some(&DataType::Int64)),
                ref other => Err(format!("`{}` is a {other}; write a whole number", text.value)),
            });
        Some(self.planned(text, planned)?.expr)
    }

    /// Says so when a node whose rows are taken for facts gives a changelog.
    pub(super) fn facts_only(&self, node: &Node, schema: &Schema) -> Option<()> {
        self.facts_of(node, &node.inputs[0], schema)
    }

    /// The same of another node that it reads.
    pub(super) fn facts_of(&self, node: &Node, of: &Text, schema: &Schema) -> Option<()> {
        if schema.index_of(columns::DIFF).is_err() {
            return Some(());
        }
        let what = format!(
            "{} reads facts, and `{}` gives a changelog, whose rows are taken back; read what it is made of",
            node.called("node"),
            of.value
        );
        self.faults.add(of.line, what);
        None
    }

    /// Whether anybody reads a port of a node.
    pub(super) fn is_port_read(&self, node: &Node, port: &str) -> bool {
        let name = format!("{}.{port}", node.name);
        self.topology.nodes.iter().flat_map(super::all_inputs).any(|input| input.value == name)
    }
}
