//! The graph as a state that hears rows: columns in, columns out.

use std::sync::{Arc, LazyLock};

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, StringArray, UInt64Array,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use tidegate_facts::{KeyHash, Tick, columns};

use super::graph::{Changes, Confirmation, Graph, Kind, Name, Naming, Settings, Sighting, Wanted};
use crate::blank::nulls_for_blanks;
use crate::keys::keys_of;
use crate::lookup::micros_of;
use crate::ordered::{Ordered, Output};
use crate::rows::ticks_of;

/// The graph of a node, and how its inputs name identifiers.
///
/// Its inputs are, in this order: the rows that are answered; the boundaries (tick and nothing else that counts); the rows that say what
/// was a fraud, if there are any; and the rows that only link, of each of several streams.
#[derive(Clone, Debug)]
pub struct Entities {
    /// What the graph keeps.
    pub settings: Settings,
    /// What the rows name that are answered.
    pub asking: Names,
    /// The kind whose frauds are counted, by place. The columns of those rows are tick, identifier, event time, what it is
    /// about, and whether it was a fraud.
    pub frauds: Option<usize>,
    /// What the rows name that only link.
    pub linked: Vec<Names>,
}

/// How rows name identifiers: their columns are tick, the first identifier, event time, the other identifiers, and, if some of
/// them end links, a boolean.
#[derive(Clone, Debug)]
pub struct Names {
    /// What each identifier column names.
    pub naming: Naming,
    /// Whether the last column says of each row that it ends the links it names.
    pub with_ends: bool,
}

/// One answer for each row: the column's name behind that of its node, and what it tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Component,
    Size,
    /// The links of the identifier in a column.
    Degree(usize),
    /// Those of them with a kind.
    DegreeOf(usize, usize),
    /// Those of them with identifiers that the row does not name.
    Shared(usize),
    Frauds,
}

/// The ports of the node, in the order in which [`Entities::outputs`] has them behind the answers.
pub const PORTS: [&str; 4] = ["entities", "links", "components", "sightings"];

impl Entities {
    /// The columns that are added to each row, without the graph's version; `node` is the node's name.
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
        for (kind, Kind { name, .. }) in self.settings.kinds.iter().enumerate() {
            let Some(column) = self.asking.naming.kinds.iter().position(|named| *named == kind) else {
                continue;
            };
            answers.push((format!("degree_{name}"), Answer::Degree(column)));
            let others = self.linked_with(kind);
            if others.len() > 1 {
                answers.extend(others.into_iter().map(|other| {
                    let other_name = &self.settings.kinds[other].name;
                    (format!("degree_{name}_{other_name}"), Answer::DegreeOf(column, other))
                }));
            }
            answers.push((format!("shared_{name}"), Answer::Shared(column)));
        }
        if self.frauds.is_some() {
            answers.push(("frauds".to_owned(), Answer::Frauds));
        }
        answers
    }

    /// The kinds that a kind may be linked with.
    fn linked_with(&self, kind: usize) -> Vec<usize> {
        let namings = self.linked.iter().map(|names| &names.naming).chain([&self.asking.naming]);
        let pairs = namings.flat_map(|naming| {
            naming.links.iter().map(|(one, other)| (naming.kinds[*one], naming.kinds[*other]))
        });
        let others = pairs.flat_map(|(one, other)| [(one, other), (other, one)]);
        let mut others: Vec<usize> = others.filter(|(one, _)| *one == kind).map(|(_, other)| other).collect();
        others.sort_unstable();
        others.dedup();
        others
    }

    /// What the state gives: the answers by tick, then the ports.
    pub fn outputs(&self, node: &str) -> Vec<Output> {
        let tick = Field::new(columns::TICK, DataType::UInt64, false);
        let answers = [tick].into_iter().chain(self.answer_fields(node));
        let schemas = [Arc::new(Schema::new(answers.collect::<Vec<_>>()))].into_iter().chain(port_schemas());
        // One worker has the whole graph, so its order is the order.
        schemas.map(|schema| Output { schema, order: Vec::new() }).collect()
    }

    /// The state, without anything heard yet; it tells the changes of the ports in `wanted`.
    pub fn state(&self, node: &str, wanted: Wanted) -> EntitiesState {
        let settings = Settings { wanted, ..self.settings.clone() };
        EntitiesState {
            graph: Graph::new(settings),
            asking: self.asking.clone(),
            frauds: self.frauds,
            linked: self.linked.clone(),
            answers: self.answers().into_iter().map(|(_, answer)| answer).collect(),
            schema: Arc::clone(&self.outputs(node)[0].schema),
        }
    }
}

/// The columns of each of [`PORTS`].
pub fn port_schemas() -> [SchemaRef; 4] {
    let text = |name: &str| Field::new(name, DataType::Utf8, false);
    let tick = |name: &str| Field::new(name, DataType::UInt64, false);
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
    // What was seen is never taken back.
    [(entities, diff()), (links, diff()), (components, diff()), (sightings, Vec::new())].map(|(own, diff)| {
        let fields = [vec![tick(columns::TICK)], own, diff].concat();
        Arc::new(Schema::new(fields))
    })
}

/// What the ports say of most ticks.
static NOTHING: LazyLock<[RecordBatch; 4]> = LazyLock::new(|| port_schemas().map(RecordBatch::new_empty));

/// See [`Entities`].
pub struct EntitiesState {
    graph: Graph,
    asking: Names,
    frauds: Option<usize>,
    linked: Vec<Names>,
    answers: Vec<Answer>,
    /// The columns of the answers.
    schema: SchemaRef,
}

impl Ordered for EntitiesState {
    fn advance(&mut self, inputs: &[RecordBatch], upper: Tick) -> Vec<RecordBatch> {
        let (first, rest) = inputs.split_at(2);
        let mut asking = Named::of(&self.asking, &first[0]);
        let mut boundaries = Ticks::of(&first[1]);
        let (frauds, linked) = rest.split_at(usize::from(self.frauds.is_some()));
        let mut frauds = frauds.first().map(Frauds::of);
        let mut linked: Vec<Named> =
            self.linked.iter().zip(linked).map(|(names, rows)| Named::of(names, rows)).collect();
        let mut told = Told::new(&self.answers, first[0].num_rows());
        loop {
            let others = linked.iter().map(|rows| rows.ticks.next()).chain([asking.ticks.next()]);
            let others = others.chain(frauds.iter().map(|rows| rows.ticks.next()));
            let Some(tick) = others.chain([boundaries.next()]).flatten().min() else { break };
            self.graph.pass(tick.next());
            while boundaries.take(tick).is_some() {
                self.graph.bound(tick);
            }
            for (rows, names) in linked.iter_mut().zip(&self.linked) {
                while rows.hear_at(tick, &names.naming, &mut self.graph) {}
            }
            if let (Some(rows), Some(kind)) = (&mut frauds, self.frauds) {
                while rows.hear_at(tick, kind, &mut self.graph) {}
            }
            while asking.hear_at(tick, &self.asking.naming, &mut self.graph) {
                told.tell(tick, &self.graph, &self.answers);
            }
        }
        self.graph.pass(upper);
        let mut given = vec![told.finish(&self.schema)];
        let changes = self.graph.take_changes();
        if changes.is_empty() {
            given.extend_from_slice(&*NOTHING);
        } else {
            given.extend(batches_of(changes, &self.graph));
        }
        given
    }
}

/// The ticks of rows, one after the other.
struct Ticks<'a> {
    ticks: &'a [u64],
    row: usize,
}

impl<'a> Ticks<'a> {
    fn of(rows: &'a RecordBatch) -> Ticks<'a> {
        Ticks { ticks: ticks_of(rows).values(), row: 0 }
    }

    fn next(&self) -> Option<Tick> {
        self.ticks.get(self.row).map(|tick| Tick(*tick))
    }

    /// The next row, if it has this tick.
    fn take(&mut self, tick: Tick) -> Option<usize> {
        (self.next() == Some(tick)).then(|| {
            self.row += 1;
            self.row - 1
        })
    }
}

/// Rows that name identifiers.
struct Named<'a> {
    ticks: Ticks<'a>,
    times: Vec<i64>,
    /// The keys of the first row, then those of the second, and so on.
    keys: Vec<KeyHash>,
    identifiers: Vec<ArrayRef>,
    ends: Option<&'a BooleanArray>,
}

impl<'a> Named<'a> {
    fn of(names: &Names, rows: &'a RecordBatch) -> Named<'a> {
        let count = names.naming.kinds.len();
        // The event time stands behind the first.
        let places = (0..count).map(|place| if place == 0 { 1 } else { place + 2 });
        let identifiers: Vec<ArrayRef> = places.map(|place| named(rows.column(place))).collect();
        let columns: Vec<Vec<KeyHash>> = identifiers.iter().map(keys_of).collect();
        let keys = (0..rows.num_rows()).flat_map(|row| columns.iter().map(move |keys| keys[row])).collect();
        let ends = names.with_ends.then(|| rows.column(count + 2).as_boolean());
        Named { ticks: Ticks::of(rows), times: micros_of(rows.column(2)), keys, identifiers, ends }
    }

    /// The graph hears of the next row, if it has this tick.
    fn hear_at(&mut self, tick: Tick, naming: &Naming, graph: &mut Graph) -> bool {
        let Some(row) = self.ticks.take(tick) else { return false };
        let count = self.identifiers.len();
        let keys = &self.keys[row * count..][..count];
        let ends = self.ends.is_some_and(|ends| ends.is_valid(row) && ends.value(row));
        let sighting = Sighting { tick, time: self.times[row], keys, ends };
        graph.hear(naming, sighting, |column| text_of(&self.identifiers[column], row));
        true
    }
}

/// Rows that say what was a fraud.
struct Frauds<'a> {
    ticks: Ticks<'a>,
    times: Vec<i64>,
    keys: Vec<KeyHash>,
    identifiers: ArrayRef,
    about: Vec<KeyHash>,
    is_fraud: &'a BooleanArray,
}

impl<'a> Frauds<'a> {
    fn of(rows: &'a RecordBatch) -> Frauds<'a> {
        let identifiers = named(rows.column(1));
        Frauds {
            ticks: Ticks::of(rows),
            times: micros_of(rows.column(2)),
            keys: keys_of(&identifiers),
            identifiers,
            about: keys_of(rows.column(3)),
            is_fraud: rows.column(4).as_boolean(),
        }
    }

    fn hear_at(&mut self, tick: Tick, kind: usize, graph: &mut Graph) -> bool {
        let Some(row) = self.ticks.take(tick) else { return false };
        let is_fraud = self.is_fraud.is_valid(row) && self.is_fraud.value(row);
        let (time, about, key) = (self.times[row], self.about[row], self.keys[row]);
        let confirmation = Confirmation { tick, time, about, kind, key, is_fraud };
        graph.confirm(confirmation, || text_of(&self.identifiers, row));
        true
    }
}

/// A column of identifiers; a blank text is none.
fn named(column: &ArrayRef) -> ArrayRef {
    nulls_for_blanks(column).unwrap_or_else(|| Arc::clone(column))
}

/// An identifier as people write it.
fn text_of(column: &ArrayRef, row: usize) -> String {
    let formatter = ArrayFormatter::try_new(column, &FormatOptions::default());
    formatter.expect("keys have a text").value(row).to_string()
}

/// The answers so far, by column.
struct Told {
    ticks: Vec<u64>,
    components: Vec<Option<Arc<str>>>,
    numbers: Vec<Vec<Option<i64>>>,
}

impl Told {
    fn new(answers: &[Answer], rows: usize) -> Told {
        let numbers = answers.iter().map(|_| Vec::with_capacity(rows)).collect();
        Told { ticks: Vec::with_capacity(rows), components: Vec::with_capacity(rows), numbers }
    }

    fn tell(&mut self, tick: Tick, graph: &Graph, answers: &[Answer]) {
        let component = graph.component();
        for (answer, numbers) in answers.iter().zip(&mut self.numbers) {
            let sum = |column, count: &dyn Fn(&[u32]) -> u32| {
                graph.ties(column).map(|ties| i64::from(count(ties.degrees)))
            };
            numbers.push(match answer {
                Answer::Component => continue,
                Answer::Size => component.as_ref().map(|component| component.size as i64),
                Answer::Frauds => component.as_ref().map(|component| component.frauds as i64),
                Answer::Degree(column) => sum(*column, &|degrees| degrees.iter().sum()),
                Answer::DegreeOf(column, kind) => sum(*column, &|degrees| degrees[*kind]),
                Answer::Shared(column) => graph.ties(*column).map(|ties| i64::from(ties.others)),
            });
        }
        self.ticks.push(tick.0);
        self.components.push(component.map(|component| component.name));
    }

    fn finish(self, schema: &SchemaRef) -> RecordBatch {
        let components: StringArray = self.components.iter().map(|name| name.as_deref()).collect();
        let components: ArrayRef = Arc::new(components);
        let numbers =
            self.numbers.into_iter().skip(1).map(|numbers| Arc::new(Int64Array::from(numbers)) as ArrayRef);
        let ticks: ArrayRef = Arc::new(UInt64Array::from(self.ticks));
        let columns = [ticks, components].into_iter().chain(numbers).collect();
        RecordBatch::try_new(Arc::clone(schema), columns).expect("an answer for each row")
    }
}

/// The changes as rows of the ports.
fn batches_of(changes: Changes, graph: &Graph) -> [RecordBatch; 4] {
    let Changes { entities, links, components, sightings } = changes;
    let kinds = graph.kinds();
    let ticks = |ticks: &mut dyn Iterator<Item = Tick>| -> ArrayRef {
        Arc::new(UInt64Array::from_iter_values(ticks.map(|tick| tick.0)))
    };
    let texts = |texts: &mut dyn Iterator<Item = &str>| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(texts))
    };
    let numbers = |numbers: &mut dyn Iterator<Item = i64>| -> ArrayRef {
        Arc::new(Int64Array::from_iter_values(numbers))
    };
    let kind = |name: &Name| kinds[name.kind].name.as_str();
    fn identifier<'a>(name: &'a Name, kind: &str) -> &'a str {
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
        numbers(&mut components.iter().map(|change| change.frauds as i64)),
        numbers(&mut components.iter().map(|change| change.diff)),
    ];
    let sightings = vec![
        ticks(&mut sightings.iter().map(|seen| seen.tick)),
        texts(&mut sightings.iter().map(|seen| kind(&seen.entity))),
        texts(&mut sightings.iter().map(|seen| identifier(&seen.entity, kind(&seen.entity)))),
    ];
    let mut schemas = port_schemas().into_iter();
    [entities, links, components, sightings].map(|columns| {
        let schema = schemas.next().expect("a schema for each port");
        RecordBatch::try_new(schema, columns).expect("the columns are the schema's")
    })
}
