//! The entities operator: reads rows that name identifiers, and emits answers and the changes of
//! the entity graph.

use std::sync::{Arc, LazyLock};

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use tidegate_facts::row::Row;
use tidegate_facts::{KeyHash, Tick, columns};

use super::graph::{
    Confirmation, EntityGraph, EntityGraphConfig, EntityKind, EntityName, GraphChanges, IdentifierColumns,
    RequestedChanges, Sighting,
};
use crate::core::blank_to_null::blank_column_to_null;
use crate::core::keys::keys_of;
use crate::core::row_layout::{INPUT_KEY, INPUT_TIME};
use crate::core::rows::{micros_of, ticks_of};
use crate::core::tick_ordered::{OperatorOutput, TickOperator};

/// The configuration of the entities operator: its graph, and how its inputs name identifiers.
///
/// Its inputs are, in this order: the rows to answer; the boundaries, of which only the tick is
/// read; the confirmations, if there are any; and the edge streams, whose rows only link.
#[derive(Clone, Debug)]
pub struct EntitiesConfig {
    /// The configuration of the graph.
    pub graph: EntityGraphConfig,
    /// The identifiers of the rows to answer.
    pub answered: RowIdentifiers,
    /// The kind at whose identifiers positives count, as an index into the graph's kinds. The key
    /// of the confirmations is the identifier; [`SUBJECT_COLUMN`] and [`IS_POSITIVE_COLUMN`]
    /// follow.
    pub positives: Option<usize>,
    /// The identifiers of the rows of each edge stream.
    pub edges: Vec<RowIdentifiers>,
}

/// The identifiers that the rows of an input of the entities operator name. The first one is the
/// rows' key, the others are in the columns of [`identifier_column`].
#[derive(Clone, Debug)]
pub struct RowIdentifiers {
    /// The kinds of the identifier columns, and their links.
    pub columns: IdentifierColumns,
    /// Whether the rows have [`UNLINK_COLUMN`], which states of each row that it ends its links.
    pub has_unlink: bool,
}

/// The name of the entities operator's input column with an identifier of a row, for all but the
/// first.
pub fn identifier_column(number: usize) -> String {
    format!("identifier_{number}")
}

/// The name of the entities operator's input column that states whether a row ends the links that
/// it names.
pub const UNLINK_COLUMN: &str = "unlink";

/// The name of the entities operator's input column with the subject of a confirmation.
pub const SUBJECT_COLUMN: &str = "subject";

/// The name of the entities operator's input column that states whether a confirmation is positive.
pub const IS_POSITIVE_COLUMN: &str = "is_positive";

/// A row of the port `entities`.
#[derive(Row)]
struct EntityRow {
    #[row(name = "_tick")]
    tick: Tick,
    kind: String,
    identifier: String,
    component: String,
    first_tick: Tick,
    #[row(name = "_diff")]
    diff: i64,
}

/// A row of the port `links`.
#[derive(Row)]
struct LinkRow {
    #[row(name = "_tick")]
    tick: Tick,
    from_kind: String,
    from_identifier: String,
    to_kind: String,
    to_identifier: String,
    first_tick: Tick,
    #[row(name = "_diff")]
    diff: i64,
}

/// A row of the port `components`.
#[derive(Row)]
struct ComponentRow {
    #[row(name = "_tick")]
    tick: Tick,
    component: String,
    size: i64,
    positives: i64,
    #[row(name = "_diff")]
    diff: i64,
}

/// A row of the port `sightings`, which is never retracted.
#[derive(Row)]
struct SightingRow {
    #[row(name = "_tick")]
    tick: Tick,
    kind: String,
    identifier: String,
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

/// The ports of the entities operator, in the order in which [`EntitiesConfig::outputs`] has them
/// after the answers.
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
            answers.push(("positives".to_owned(), Answer::Positives));
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

    /// The greatest number of identifier columns of any input.
    fn identifier_columns_max(&self) -> usize {
        let inputs = self.edges.iter().chain([&self.answered]);
        inputs.map(|rows| rows.columns.kinds.len()).max().unwrap_or(0)
    }

    /// The outputs of the entities operator: the answers by tick, then the ports.
    pub fn outputs(&self, node: &str) -> Vec<OperatorOutput> {
        let answers = [columns::tick_field(columns::TICK)].into_iter().chain(self.answer_fields(node));
        let schemas = [Arc::new(Schema::new(answers.collect::<Vec<_>>()))].into_iter().chain(port_schemas());
        // One worker has the whole graph, so rows of one tick keep its order.
        schemas.map(|schema| OperatorOutput { schema, order: Vec::new() }).collect()
    }

    /// Returns an entities operator with an empty graph, which emits the `requested` changes.
    pub fn operator(&self, node: &str, requested: RequestedChanges) -> EntitiesOperator {
        EntitiesOperator {
            graph: EntityGraph::new(EntityGraphConfig { requested, ..self.graph.clone() }),
            answered: self.answered.clone(),
            positives: self.positives,
            edges: self.edges.clone(),
            answers: self.answers().into_iter().map(|(_, answer)| answer).collect(),
            identifier_columns: (0..self.identifier_columns_max()).map(identifier_column).collect(),
            schema: Arc::clone(&self.outputs(node)[0].schema),
        }
    }
}

/// The schema of each of the entities operator's [`PORTS`].
pub fn port_schemas() -> [SchemaRef; 4] {
    [EntityRow::schema(), LinkRow::schema(), ComponentRow::schema(), SightingRow::schema()]
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
    /// The names of [`identifier_column`].
    identifier_columns: Vec<String>,
    /// The schema of the answers.
    schema: SchemaRef,
}

impl TickOperator for EntitiesOperator {
    fn advance(&mut self, inputs: &[RecordBatch], upper: Tick) -> Vec<RecordBatch> {
        let (first, rest) = inputs.split_at(2);
        let names = &self.identifier_columns;
        let mut answered = IdentifierRows::of(&self.answered, names, &first[0]);
        let mut boundaries = TickCursor::of(&first[1]);
        let (confirmations, edges) = rest.split_at(usize::from(self.positives.is_some()));
        let mut confirmations = confirmations.first().map(ConfirmationRows::of);
        let mut edges: Vec<IdentifierRows> =
            self.edges.iter().zip(edges).map(|(of, rows)| IdentifierRows::of(of, names, rows)).collect();
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
    fn of(config: &RowIdentifiers, names: &[String], rows: &'a RecordBatch) -> IdentifierRows<'a> {
        let others = names.iter().take(config.columns.kinds.len()).skip(1);
        let columns = [rows.column(INPUT_KEY)].into_iter().chain(others.map(|name| column_of(rows, name)));
        let identifiers: Vec<ArrayRef> = columns.map(without_blanks).collect();
        let by_column: Vec<Vec<KeyHash>> = identifiers.iter().map(keys_of).collect();
        let keys = (0..rows.num_rows()).flat_map(|row| by_column.iter().map(move |keys| keys[row])).collect();
        let unlinks = config.has_unlink.then(|| column_of(rows, UNLINK_COLUMN).as_boolean());
        IdentifierRows {
            ticks: TickCursor::of(rows),
            times: micros_of(rows.column(INPUT_TIME)),
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
        let identifiers = without_blanks(rows.column(INPUT_KEY));
        ConfirmationRows {
            ticks: TickCursor::of(rows),
            times: micros_of(rows.column(INPUT_TIME)),
            keys: keys_of(&identifiers),
            identifiers,
            subjects: keys_of(column_of(rows, SUBJECT_COLUMN)),
            is_positive: column_of(rows, IS_POSITIVE_COLUMN).as_boolean(),
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

fn column_of<'a>(rows: &'a RecordBatch, name: &str) -> &'a ArrayRef {
    rows.column_by_name(name).expect("the plan gives each input its columns")
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
    let kinds = graph.kinds();
    let named = |name: &EntityName| {
        let kind = &kinds[name.kind].name;
        (kind.clone(), name.label[kind.len() + 1..].to_owned())
    };
    let entities = changes.entities.into_iter().map(|change| {
        let (kind, identifier) = named(&change.entity);
        let component = change.component.to_string();
        EntityRow {
            tick: change.tick,
            kind,
            identifier,
            component,
            first_tick: change.first,
            diff: change.diff,
        }
    });
    let links = changes.links.into_iter().map(|change| {
        let [(from_kind, from_identifier), (to_kind, to_identifier)] = change.ends.each_ref().map(named);
        LinkRow {
            tick: change.tick,
            from_kind,
            from_identifier,
            to_kind,
            to_identifier,
            first_tick: change.first,
            diff: change.diff,
        }
    });
    let components = changes.components.into_iter().map(|change| ComponentRow {
        tick: change.tick,
        component: change.component.to_string(),
        size: change.size as i64,
        positives: change.positives as i64,
        diff: change.diff,
    });
    let sightings = changes.sightings.into_iter().map(|sighting| {
        let (kind, identifier) = named(&sighting.entity);
        SightingRow { tick: sighting.tick, kind, identifier }
    });
    [
        EntityRow::to_batch(&entities.collect::<Vec<_>>()),
        LinkRow::to_batch(&links.collect::<Vec<_>>()),
        ComponentRow::to_batch(&components.collect::<Vec<_>>()),
        SightingRow::to_batch(&sightings.collect::<Vec<_>>()),
    ]
}
