//! The entities operator: reads rows that name identifiers, and emits answers and the changes of
//! the entity graph.

use std::sync::{Arc, LazyLock};

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use tidegate_facts::{KeyHash, Tick, columns};

use super::graph::{
    Confirmation, EntityGraph, EntityGraphConfig, EntityKind, EntityName, GraphChanges, IdentifierColumns,
    RequestedChanges, Sighting,
};
use crate::core::blank_to_null::blank_column_to_null;
use crate::core::keys::keys_of;
use crate::core::rows::{micros_of, ticks_of};
use crate::core::tick_ordered::{OperatorOutput, TickOperator};

/// The configuration of an `entities` node: its graph, and how its inputs name identifiers.
///
/// Its inputs are, in this order: the rows to answer; the boundaries, of which only the tick is
/// read; the confirmations, if there are any; and the edge streams, whose rows only link.
#[derive(Clone, Debug)]
pub struct EntitiesConfig {
    /// The configuration of the graph.
    pub graph: EntityGraphConfig,
    /// The identifiers of the rows to answer.
    pub answered: RowIdentifiers,
    /// The kind at whose identifiers positives count, as an index into the graph's kinds. The
    /// columns of the confirmations are tick, identifier, event time, subject, and whether it was
    /// positive.
    pub positives: Option<usize>,
    /// The identifiers of the rows of each edge stream.
    pub edges: Vec<RowIdentifiers>,
}

/// The identifiers that rows name. Their columns are tick, the first identifier, event time, the
/// other identifiers, and, if some rows unlink, a boolean.
#[derive(Clone, Debug)]
pub struct RowIdentifiers {
    /// The kinds of the identifier columns, and their links.
    pub columns: IdentifierColumns,
    /// Whether the last column states of each row that it ends the links it names.
    pub has_unlink: bool,
}

/// One answer column: what it states about a row. Its name is appended to that of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Component,
    Size,
    /// The number of links of the identifier in a column.
    Degree(usize),
    /// The number of its links with identifiers of a kind.
    DegreeOf(usize, usize),
    /// The number of its links with identifiers that the row does not name.
    Shared(usize),
    Positives,
}

/// The ports of the node, in the order in which [`EntitiesConfig::outputs`] has them after the
/// answers.
pub const PORTS: [&str; 4] = ["entities", "links", "components", "sightings"];

impl EntitiesConfig {
    /// The answer columns of each row, without the graph's version; `node` is the node's name.
    pub fn answer_fields(&self, node: &str) -> Vec<Field> {
        let field = |(name, answer)| {
            let data_type = if answer == Answer::Component { DataType::Utf8 } else { DataType::Int64 };
            Field::new(format!("{node}_{name}"), data_type, true)
        };
        self.answers().into_iter().map(field).collect()
    }

    fn answers(&self) -> Vec<(String, Answer)> {
        let mut answers =
            vec![("component".to_owned(), Answer::Component), ("size".to_owned(), Answer::Size)];
        for (kind, EntityKind { name, .. }) in self.graph.kinds.iter().enumerate() {
            let Some(column) = self.answered.columns.kinds.iter().position(|other| *other == kind) else {
                continue;
            };
            answers.push((format!("degree_{name}"), Answer::Degree(column)));
            let others = self.linked_kinds(kind);
            if others.len() > 1 {
                answers.extend(others.into_iter().map(|other| {
                    let other_name = &self.graph.kinds[other].name;
                    (format!("degree_{name}_{other_name}"), Answer::DegreeOf(column, other))
                }));
            }
            answers.push((format!("shared_{name}"), Answer::Shared(column)));
        }
        if self.positives.is_some() {
            answers.push(("frauds".to_owned(), Answer::Positives));
        }
        answers
    }

    /// The kinds with which identifiers of a kind may be linked.
    fn linked_kinds(&self, kind: usize) -> Vec<usize> {
        let all = self.edges.iter().map(|rows| &rows.columns).chain([&self.answered.columns]);
        let pairs = all.flat_map(|columns| {
            columns.links.iter().map(|(one, other)| (columns.kinds[*one], columns.kinds[*other]))
        });
        let others = pairs.flat_map(|(one, other)| [(one, other), (other, one)]);
        let mut others: Vec<usize> = others.filter(|(one, _)| *one == kind).map(|(_, other)| other).collect();
        others.sort_unstable();
        others.dedup();
        others
    }

    /// The outputs of the operator: the answers by tick, then the ports.
    pub fn outputs(&self, node: &str) -> Vec<OperatorOutput> {
        let answers = [columns::tick_field(columns::TICK)].into_iter().chain(self.answer_fields(node));
        let schemas = [Arc::new(Schema::new(answers.collect::<Vec<_>>()))].into_iter().chain(port_schemas());
        // One worker has the whole graph, so rows of one tick keep its order.
        schemas.map(|schema| OperatorOutput { schema, order: Vec::new() }).collect()
    }

    /// Returns an operator with an empty graph, which emits the `requested` changes.
    pub fn operator(&self, node: &str, requested: RequestedChanges) -> EntitiesOperator {
        EntitiesOperator {
            graph: EntityGraph::new(EntityGraphConfig { requested, ..self.graph.clone() }),
            answered: self.answered.clone(),
            positives: self.positives,
            edges: self.edges.clone(),
            answers: self.answers().into_iter().map(|(_, answer)| answer).collect(),
            schema: Arc::clone(&self.outputs(node)[0].schema),
        }
    }
}

/// The schema of each of [`PORTS`].
pub fn port_schemas() -> [SchemaRef; 4] {
    let text = |name: &str| Field::new(name, DataType::Utf8, false);
    let tick = columns::tick_field;
    let number = |name: &str| Field::new(name, DataType::Int64, false);
    let entities = vec![text("kind"), text("identifier"), text("component"), tick("first_tick")];
    let links = vec![
        text("from_kind"),
        text("from_identifier"),
        text("to_kind"),
        text("to_identifier"),
        tick("first_tick"),
    ];
    let components = vec![text("component"), number("size"), number("frauds")];
    let sightings = vec![text("kind"), text("identifier")];
    let diff = || vec![number(columns::DIFF)];
    // Sightings are never retracted.
    [(entities, diff()), (links, diff()), (components, diff()), (sightings, Vec::new())].map(|(own, diff)| {
        let fields = [vec![tick(columns::TICK)], own, diff].concat();
        Arc::new(Schema::new(fields))
    })
}

/// The ports' output at most ticks.
static NO_CHANGES: LazyLock<[RecordBatch; 4]> = LazyLock::new(|| port_schemas().map(RecordBatch::new_empty));

/// The entities operator; see [`EntitiesConfig`].
pub struct EntitiesOperator {
    graph: EntityGraph,
    answered: RowIdentifiers,
    positives: Option<usize>,
    edges: Vec<RowIdentifiers>,
    answers: Vec<Answer>,
    /// The schema of the answers.
    schema: SchemaRef,
}

impl TickOperator for EntitiesOperator {
    fn advance(&mut self, inputs: &[RecordBatch], upper: Tick) -> Vec<RecordBatch> {
        let (first, rest) = inputs.split_at(2);
        let mut answered = IdentifierRows::of(&self.answered, &first[0]);
        let mut boundaries = TickCursor::of(&first[1]);
        let (confirmations, edges) = rest.split_at(usize::from(self.positives.is_some()));
        let mut confirmations = confirmations.first().map(ConfirmationRows::of);
        let mut edges: Vec<IdentifierRows> =
            self.edges.iter().zip(edges).map(|(of, rows)| IdentifierRows::of(of, rows)).collect();
        let mut answers = AnswerColumns::new(&self.answers, first[0].num_rows());
        loop {
            let others = edges.iter().map(|rows| rows.ticks.next()).chain([answered.ticks.next()]);
            let others = others.chain(confirmations.iter().map(|rows| rows.ticks.next()));
            let Some(tick) = others.chain([boundaries.next()]).flatten().min() else { break };
            self.graph.advance_to(tick.next());
            while boundaries.take(tick).is_some() {
                self.graph.rebuild_at_boundary(tick);
            }
            for (rows, of) in edges.iter_mut().zip(&self.edges) {
                while rows.apply_next(tick, &of.columns, &mut self.graph) {}
            }
            if let (Some(rows), Some(kind)) = (&mut confirmations, self.positives) {
                while rows.apply_next(tick, kind, &mut self.graph) {}
            }
            while answered.apply_next(tick, &self.answered.columns, &mut self.graph) {
                answers.push(tick, &self.graph, &self.answers);
            }
        }
        self.graph.advance_to(upper);
        let mut outputs = vec![answers.finish(&self.schema)];
        let changes = self.graph.take_changes();
        if changes.is_empty() {
            outputs.extend_from_slice(&*NO_CHANGES);
        } else {
            outputs.extend(port_batches(changes, &self.graph));
        }
        outputs
    }
}

/// A cursor over the ticks of rows.
struct TickCursor<'a> {
    ticks: &'a [i64],
    row: usize,
}

impl<'a> TickCursor<'a> {
    fn of(rows: &'a RecordBatch) -> TickCursor<'a> {
        TickCursor { ticks: ticks_of(rows).values(), row: 0 }
    }

    /// The tick of the next row.
    fn next(&self) -> Option<Tick> {
        self.ticks.get(self.row).map(|tick| Tick(*tick))
    }

    /// Moves past the next row and returns it, if it has this tick.
    fn take(&mut self, tick: Tick) -> Option<usize> {
        (self.next() == Some(tick)).then(|| {
            self.row += 1;
            self.row - 1
        })
    }
}

/// A batch of rows that name identifiers, decoded column by column.
struct IdentifierRows<'a> {
    ticks: TickCursor<'a>,
    times: Vec<i64>,
    /// The keys of the first row, then those of the second, and so on.
    keys: Vec<KeyHash>,
    identifiers: Vec<ArrayRef>,
    unlinks: Option<&'a BooleanArray>,
}

impl<'a> IdentifierRows<'a> {
    fn of(config: &RowIdentifiers, rows: &'a RecordBatch) -> IdentifierRows<'a> {
        let count = config.columns.kinds.len();
        // The event time follows the first identifier.
        let columns = (0..count).map(|column| if column == 0 { 1 } else { column + 2 });
        let identifiers: Vec<ArrayRef> = columns.map(|column| without_blanks(rows.column(column))).collect();
        let by_column: Vec<Vec<KeyHash>> = identifiers.iter().map(keys_of).collect();
        let keys = (0..rows.num_rows()).flat_map(|row| by_column.iter().map(move |keys| keys[row])).collect();
        let unlinks = config.has_unlink.then(|| rows.column(count + 2).as_boolean());
        IdentifierRows {
            ticks: TickCursor::of(rows),
            times: micros_of(rows.column(2)),
            keys,
            identifiers,
            unlinks,
        }
    }

    /// Applies the next row to the graph, if it has this tick.
    fn apply_next(&mut self, tick: Tick, columns: &IdentifierColumns, graph: &mut EntityGraph) -> bool {
        let Some(row) = self.ticks.take(tick) else { return false };
        let count = self.identifiers.len();
        let keys = &self.keys[row * count..][..count];
        let unlinks = self.unlinks.is_some_and(|unlinks| unlinks.is_valid(row) && unlinks.value(row));
        let sighting = Sighting { tick, time: self.times[row], keys, unlinks };
        graph.apply(columns, sighting, |column| text_of(&self.identifiers[column], row));
        true
    }
}

/// A batch of confirmations, decoded column by column.
struct ConfirmationRows<'a> {
    ticks: TickCursor<'a>,
    times: Vec<i64>,
    keys: Vec<KeyHash>,
    identifiers: ArrayRef,
    subjects: Vec<KeyHash>,
    is_positive: &'a BooleanArray,
}

impl<'a> ConfirmationRows<'a> {
    fn of(rows: &'a RecordBatch) -> ConfirmationRows<'a> {
        let identifiers = without_blanks(rows.column(1));
        ConfirmationRows {
            ticks: TickCursor::of(rows),
            times: micros_of(rows.column(2)),
            keys: keys_of(&identifiers),
            identifiers,
            subjects: keys_of(rows.column(3)),
            is_positive: rows.column(4).as_boolean(),
        }
    }

    /// Applies the next row to the graph, if it has this tick.
    fn apply_next(&mut self, tick: Tick, kind: usize, graph: &mut EntityGraph) -> bool {
        let Some(row) = self.ticks.take(tick) else { return false };
        let is_positive = self.is_positive.is_valid(row) && self.is_positive.value(row);
        let (time, subject, key) = (self.times[row], self.subjects[row], self.keys[row]);
        let confirmation = Confirmation { tick, time, subject, kind, key, is_positive };
        graph.apply_confirmation(confirmation, || text_of(&self.identifiers, row));
        true
    }
}

/// A column of identifiers in which blank texts are null.
fn without_blanks(column: &ArrayRef) -> ArrayRef {
    blank_column_to_null(column).unwrap_or_else(|| Arc::clone(column))
}

/// The text of an identifier.
fn text_of(column: &ArrayRef, row: usize) -> String {
    let formatter = ArrayFormatter::try_new(column, &FormatOptions::default());
    formatter.expect("keys have a text").value(row).to_string()
}

/// The answers of an interval, column by column.
struct AnswerColumns {
    ticks: Vec<Tick>,
    components: Vec<Option<Arc<str>>>,
    numbers: Vec<Vec<Option<i64>>>,
}

impl AnswerColumns {
    fn new(answers: &[Answer], rows: usize) -> AnswerColumns {
        let numbers = answers.iter().map(|_| Vec::with_capacity(rows)).collect();
        AnswerColumns { ticks: Vec::with_capacity(rows), components: Vec::with_capacity(rows), numbers }
    }

    /// Appends the answers to the row that the graph applied last.
    fn push(&mut self, tick: Tick, graph: &EntityGraph, answers: &[Answer]) {
        let component = graph.component();
        for (answer, numbers) in answers.iter().zip(&mut self.numbers) {
            let degree = |column, count: &dyn Fn(&[u32]) -> u32| {
                graph.link_counts(column).map(|counts| i64::from(count(counts.degrees)))
            };
            numbers.push(match answer {
                Answer::Component => continue,
                Answer::Size => component.as_ref().map(|component| component.size as i64),
                Answer::Positives => component.as_ref().map(|component| component.positives as i64),
                Answer::Degree(column) => degree(*column, &|degrees| degrees.iter().sum()),
                Answer::DegreeOf(column, kind) => degree(*column, &|degrees| degrees[*kind]),
                Answer::Shared(column) => graph.link_counts(*column).map(|counts| i64::from(counts.others)),
            });
        }
        self.ticks.push(tick);
        self.components.push(component.map(|component| component.name));
    }

    fn finish(self, schema: &SchemaRef) -> RecordBatch {
        let components: StringArray = self.components.iter().map(|name| name.as_deref()).collect();
        let components: ArrayRef = Arc::new(components);
        let numbers =
            self.numbers.into_iter().skip(1).map(|numbers| Arc::new(Int64Array::from(numbers)) as ArrayRef);
        let ticks: ArrayRef = Arc::new(columns::tick_array(self.ticks));
        let columns = [ticks, components].into_iter().chain(numbers).collect();
        RecordBatch::try_new(Arc::clone(schema), columns).expect("one answer per row")
    }
}

/// The changes of the graph as one batch per port.
fn port_batches(changes: GraphChanges, graph: &EntityGraph) -> [RecordBatch; 4] {
    let GraphChanges { entities, links, components, sightings } = changes;
    let kinds = graph.kinds();
    let ticks = |ticks: &mut dyn Iterator<Item = Tick>| -> ArrayRef { Arc::new(columns::tick_array(ticks)) };
    let texts = |texts: &mut dyn Iterator<Item = &str>| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(texts))
    };
    let numbers = |numbers: &mut dyn Iterator<Item = i64>| -> ArrayRef {
        Arc::new(Int64Array::from_iter_values(numbers))
    };
    let kind = |name: &EntityName| kinds[name.kind].name.as_str();
    fn identifier<'a>(name: &'a EntityName, kind: &str) -> &'a str {
        &name.label[kind.len() + 1..]
    }
    let entities = vec![
        ticks(&mut entities.iter().map(|change| change.tick)),
        texts(&mut entities.iter().map(|change| kind(&change.entity))),
        texts(&mut entities.iter().map(|change| identifier(&change.entity, kind(&change.entity)))),
        texts(&mut entities.iter().map(|change| change.component.as_ref())),
        ticks(&mut entities.iter().map(|change| change.first)),
        numbers(&mut entities.iter().map(|change| change.diff)),
    ];
    let end = |side: usize| links.iter().map(move |change| &change.ends[side]);
    let links = vec![
        ticks(&mut links.iter().map(|change| change.tick)),
        texts(&mut end(0).map(kind)),
        texts(&mut end(0).map(|name| identifier(name, kind(name)))),
        texts(&mut end(1).map(kind)),
        texts(&mut end(1).map(|name| identifier(name, kind(name)))),
        ticks(&mut links.iter().map(|change| change.first)),
        numbers(&mut links.iter().map(|change| change.diff)),
    ];
    let components = vec![
        ticks(&mut components.iter().map(|change| change.tick)),
        texts(&mut components.iter().map(|change| change.component.as_ref())),
        numbers(&mut components.iter().map(|change| change.size as i64)),
        numbers(&mut components.iter().map(|change| change.positives as i64)),
        numbers(&mut components.iter().map(|change| change.diff)),
    ];
    let sightings = vec![
        ticks(&mut sightings.iter().map(|of| of.tick)),
        texts(&mut sightings.iter().map(|of| kind(&of.entity))),
        texts(&mut sightings.iter().map(|of| identifier(&of.entity, kind(&of.entity)))),
    ];
    let mut schemas = port_schemas().into_iter();
    [entities, links, components, sightings].map(|columns| {
        let schema = schemas.next().expect("a schema for each port");
        RecordBatch::try_new(schema, columns).expect("the columns are the schema's")
    })
}
