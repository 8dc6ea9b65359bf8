//! The entity graph against its definition, computed from the whole history at every tick.

mod chance;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::Int64Type;
use chance::Chance;
use tidegate_facts::tick::PARTITION_BITS;
use tidegate_facts::{KeyHash, Span, Tick, columns};
use tidegate_operators::core::keys::NULL_KEY;
use tidegate_operators::core::tick_ordered::TickOperator;
use tidegate_operators::identity::entities::{
    Component, Confirmation, EntitiesConfig, EntityGraph, EntityGraphConfig, EntityKind, IdentifierColumns,
    RequestedChanges, RowIdentifiers, Sighting,
};

impl Chance {
    fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }
}

/// An identifier: its kind and number.
type Id = (usize, KeyHash);

#[derive(Clone, Debug)]
enum Event {
    Row { named: Vec<Option<Id>>, unlinks: bool },
    Positive { subject: KeyHash, id: Id, is_positive: bool },
    Boundary,
}

/// One input of the graph: a row, a confirmation or a boundary.
#[derive(Clone, Debug)]
struct Input {
    tick: Tick,
    time: i64,
    event: Event,
}

const KINDS: [&str; 3] = ["card", "device", "person"];

/// In microseconds.
const DAY: i64 = 86_400_000_000;

/// The columns of a row: a card, a device and two persons.
fn identifier_columns() -> IdentifierColumns {
    IdentifierColumns { kinds: vec![0, 1, 2, 2], links: vec![(0, 1), (0, 2), (2, 3), (1, 3)] }
}

fn label(id: Id) -> String {
    format!("{}:{}", KINDS[id.0], id.1)
}

/// The definition, computed from all inputs.
struct Slow<'a> {
    inputs: &'a [Input],
    ttl: Option<i64>,
    degree_max: [u32; 3],
}

/// The identifiers that exist: since which tick, their rank, and their expiry.
type Existing = BTreeMap<Id, (Tick, usize, Tick)>;

impl Slow<'_> {
    fn expires(&self, input: &Input) -> Tick {
        self.ttl.map_or(Tick::MAX, |ttl| {
            Tick::new((input.time + ttl).max(0), input.tick.partition()).expect("in range")
        })
    }

    /// The pairs of identifiers that a row links.
    fn pairs(input: &Input) -> Vec<(Id, Id)> {
        let Event::Row { named, .. } = &input.event else { return Vec::new() };
        let pairs = identifier_columns()
            .links
            .into_iter()
            .filter_map(|(one, other)| Some((named[one]?, named[other]?)));
        pairs.filter(|(one, other)| one != other).map(|(a, b)| (a.min(b), a.max(b))).collect()
    }

    /// The links after the first `count` inputs, as of `tick`, and since which tick they exist.
    fn links(&self, count: usize, tick: Tick) -> BTreeMap<(Id, Id), Tick> {
        let mut links: BTreeMap<(Id, Id), (Tick, Tick)> = BTreeMap::new();
        for input in &self.inputs[..count] {
            let expires = self.expires(input);
            for pair in Self::pairs(input) {
                links.retain(|_, (_, expires)| *expires > input.tick);
                if matches!(input.event, Event::Row { unlinks: true, .. }) {
                    links.remove(&pair);
                } else if expires > input.tick {
                    let link = links.entry(pair).or_insert((input.tick, expires));
                    link.1 = link.1.max(expires);
                }
            }
        }
        links
            .into_iter()
            .filter(|(_, (_, expires))| *expires > tick)
            .map(|(p, (first, _))| (p, first))
            .collect()
    }

    /// The identifiers after the first `count` inputs.
    fn existing(&self, count: usize) -> Existing {
        let (mut existing, mut births) = (Existing::new(), 0);
        for input in &self.inputs[..count] {
            let expires = self.expires(input);
            let sighted: Vec<Id> = match &input.event {
                Event::Boundary => {
                    existing.retain(|_, (_, _, expires)| *expires > input.tick);
                    continue;
                }
                Event::Row { unlinks: true, .. } | Event::Positive { is_positive: false, .. } => continue,
                Event::Row { named, .. } => named.iter().flatten().copied().collect(),
                Event::Positive { id, .. } => vec![*id],
            };
            for id in sighted.into_iter().filter(|_| expires > input.tick) {
                births += 1;
                let entry = existing.entry(id).or_insert((input.tick, births, expires));
                entry.2 = entry.2.max(expires);
            }
        }
        existing
    }

    /// The identifier that each fraud counts at.
    fn positives(&self, count: usize) -> BTreeMap<KeyHash, Id> {
        let mut positives = BTreeMap::new();
        for (index, input) in self.inputs[..count].iter().enumerate() {
            match input.event {
                Event::Boundary => {
                    let existing = self.existing(index + 1);
                    positives.retain(|_, id| existing.contains_key(id));
                }
                Event::Positive { subject, is_positive: false, .. } => {
                    positives.remove(&subject);
                }
                Event::Positive { subject, id, .. } if self.expires(input) > input.tick => {
                    positives.insert(subject, id);
                }
                _ => {}
            }
        }
        positives
    }

    /// The sightings that the last of the first `count` inputs emits: the first of an identifier on
    /// its day.
    fn daily_sightings(&self, count: usize) -> Vec<String> {
        let last = &self.inputs[count - 1];
        let sighted = |input: &Input| -> BTreeSet<Id> {
            let named: BTreeSet<Id> = match &input.event {
                Event::Row { named, unlinks: false } => named.iter().flatten().copied().collect(),
                Event::Positive { id, is_positive: true, .. } => BTreeSet::from([*id]),
                _ => BTreeSet::new(),
            };
            if self.expires(input) > input.tick { named } else { BTreeSet::new() }
        };
        let (existing, day) = (self.existing(count - 1), |input: &Input| input.tick.micros() / DAY);
        let is_first = |id: &Id| {
            let before = self.inputs[..count - 1].iter().rev().find(|input| sighted(input).contains(id));
            !existing.contains_key(id) || before.is_none_or(|before| day(before) != day(last))
        };
        let mut emitted: Vec<String> = sighted(last).into_iter().filter(is_first).map(label).collect();
        emitted.sort_unstable();
        emitted
    }

    fn connects(&self, links: &BTreeMap<(Id, Id), Tick>, id: Id) -> bool {
        let degree = links.keys().filter(|(a, b)| *a == id || *b == id).count();
        degree <= self.degree_max[id.0] as usize
    }

    /// The members of each component after the first `count` inputs.
    fn components(&self, count: usize) -> Vec<BTreeSet<Id>> {
        let last = self.inputs[..count].iter().rposition(|input| matches!(input.event, Event::Boundary));
        let mut parts: Vec<BTreeSet<Id>> =
            self.existing(count).into_keys().map(|id| BTreeSet::from([id])).collect();
        let mut merge = |(one, other): (Id, Id)| {
            let a = parts.iter().position(|part| part.contains(&one)).expect("the graph has it");
            let moved = parts.swap_remove(a);
            match parts.iter_mut().find(|part| part.contains(&other)) {
                Some(part) => part.extend(moved),
                None => parts.push(moved),
            }
        };
        if let Some(last) = last {
            let links = self.links(last + 1, self.inputs[last].tick);
            let connecting = |(a, b): &&(Id, Id)| self.connects(&links, *a) && self.connects(&links, *b);
            links.keys().filter(connecting).copied().for_each(&mut merge);
        }
        for index in last.map_or(0, |last| last + 1)..count {
            let input = &self.inputs[index];
            let is_sighting =
                matches!(input.event, Event::Row { unlinks: false, .. }) && self.expires(input) > input.tick;
            if is_sighting {
                let links = self.links(index + 1, input.tick);
                for (a, b) in Self::pairs(input) {
                    if self.connects(&links, a) && self.connects(&links, b) {
                        merge((a, b));
                    }
                }
            }
        }
        parts
    }

    /// The name of a component: that of its oldest identifier.
    fn name(existing: &Existing, part: &BTreeSet<Id>) -> String {
        label(*part.iter().min_by_key(|id| existing[id].1).expect("a component has members"))
    }
}

/// The answers to a row: its component, and for each column the degrees of its identifier and its
/// number of links with identifiers that the row does not name.
#[derive(Debug, PartialEq, Eq)]
struct Answers {
    component: Option<Component>,
    link_counts: Vec<Option<(Vec<u32>, u32)>>,
}

impl Answers {
    fn of(graph: &EntityGraph, columns: usize) -> Answers {
        let link_counts = (0..columns)
            .map(|column| graph.link_counts(column).map(|counts| (counts.degrees.to_vec(), counts.others)));
        Answers { component: graph.component(), link_counts: link_counts.collect() }
    }
}

/// The rows of all ports at one tick, as lines.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tables {
    entities: BTreeMap<String, i64>,
    links: BTreeMap<String, i64>,
    components: BTreeMap<String, i64>,
}

fn add(table: &mut BTreeMap<String, i64>, line: String, diff: i64) {
    let count = table.entry(line.clone()).or_default();
    *count += diff;
    assert!(*count == 0 || *count == 1, "{line} is present {count} times");
    if *count == 0 {
        table.remove(&line);
    }
}

impl Tables {
    /// Applies the changes of the graph, and gives the daily sightings.
    fn apply(&mut self, graph: &mut EntityGraph, upper: Tick) -> Vec<String> {
        let changes = graph.take_changes();
        for change in changes.entities {
            assert!(change.tick < upper);
            let line = format!("{} in {} since {}", change.entity.label, change.component, change.first.0);
            add(&mut self.entities, line, change.diff);
        }
        for change in changes.links {
            assert!(change.tick < upper);
            let [one, other] = change.ends;
            let line = format!("{} {} since {}", one.label, other.label, change.first.0);
            add(&mut self.links, line, change.diff);
        }
        for change in changes.components {
            assert!(change.tick < upper);
            let line = format!("{}: {} with {}", change.component, change.size, change.positives);
            add(&mut self.components, line, change.diff);
        }
        let mut emitted: Vec<String> = changes
            .sightings
            .into_iter()
            .map(|sighting| {
                assert_eq!(sighting.tick.next(), upper, "a sighting is emitted at its own tick");
                sighting.entity.label.to_string()
            })
            .collect();
        emitted.sort_unstable();
        emitted
    }

    /// The tables by the definition after the first `count` inputs, as of `tick`.
    fn slow(slow: &Slow<'_>, count: usize, tick: Tick) -> Tables {
        let (existing, positives) = (slow.existing(count), slow.positives(count));
        let mut tables = Tables::default();
        for part in slow.components(count) {
            let name = Slow::name(&existing, &part);
            let positives = positives.values().filter(|id| part.contains(id)).count();
            add(&mut tables.components, format!("{name}: {} with {positives}", part.len()), 1);
            for id in &part {
                add(&mut tables.entities, format!("{} in {name} since {}", label(*id), existing[id].0.0), 1);
            }
        }
        for ((one, other), first) in slow.links(count, tick) {
            let mut ends = [(one.0, label(one)), (other.0, label(other))];
            ends.sort();
            add(&mut tables.links, format!("{} {} since {}", ends[0].1, ends[1].1, first.0), 1);
        }
        tables
    }
}

/// The answers by the definition to the row that is the last of the first `count` inputs.
fn answers_to_last(slow: &Slow<'_>, count: usize) -> Answers {
    let input = &slow.inputs[count - 1];
    let Event::Row { named, .. } = &input.event else { panic!("only rows are answered") };
    let (existing, positives) = (slow.existing(count), slow.positives(count));
    let links = slow.links(count, input.tick);
    let exists = |id: &&Id| existing.contains_key(*id);
    let component = named.iter().flatten().find(exists).map(|id| {
        let parts = slow.components(count);
        let part = parts.iter().find(|part| part.contains(id)).expect("the graph has it");
        Component {
            name: Slow::name(&existing, part).into(),
            size: part.len() as u64,
            positives: positives.values().filter(|id| part.contains(id)).count() as u64,
        }
    });
    let own: BTreeSet<(Id, Id)> = Slow::pairs(input).into_iter().collect();
    let link_counts = (0..named.len()).map(|column| {
        let id =
            named[column].filter(|id| existing.contains_key(id) && !named[..column].contains(&Some(*id)))?;
        let of_it = || links.keys().filter(move |(a, b)| *a == id || *b == id);
        let other_kind = |pair: &&(Id, Id)| if pair.0 == id { pair.1.0 } else { pair.0.0 };
        let degrees = (0..3).map(|kind| of_it().filter(|p| other_kind(p) == kind).count() as u32).collect();
        let others = of_it().filter(|pair| !own.contains(pair)).count() as u32;
        Some((degrees, others))
    });
    Answers { component, link_counts: link_counts.collect() }
}

/// Random inputs in the order of ticks: rows, some of them late or repeated, confirmations, and
/// boundaries.
fn history(chance: &mut Chance, count: usize) -> Vec<Input> {
    let mut tick = Tick::ZERO;
    let mut now = 1_000i64;
    let ids = 2 + chance.below(6);
    let id = |chance: &mut Chance, kind: usize| {
        let number = KeyHash::from(chance.below(ids));
        (!chance.one_in(4)).then_some((kind, number))
    };
    (0..count)
        .map(|_| {
            now += if chance.one_in(40) { DAY / 3 } else { chance.below(12) as i64 };
            tick = Tick::following(tick, now, chance.below(3) as u16).expect("in range");
            let late = if chance.one_in(6) { chance.below(60) as i64 } else { 0 };
            let event = match chance.below(12) {
                0 => Event::Boundary,
                1 | 2 => Event::Positive {
                    subject: KeyHash::from(chance.below(5)),
                    id: (0, KeyHash::from(chance.below(ids))),
                    is_positive: !chance.one_in(3),
                },
                _ => Event::Row {
                    named: [0, 1, 2, 2].map(|kind| id(chance, kind)).to_vec(),
                    unlinks: chance.one_in(8),
                },
            };
            Input { tick, time: tick.micros() - late, event }
        })
        .collect()
}

fn config(ttl: Option<i64>, degree_max: [u32; 3]) -> EntityGraphConfig {
    let kinds = KINDS.iter().zip(degree_max);
    EntityGraphConfig {
        kinds: kinds.map(|(name, degree_max)| EntityKind { name: (*name).to_owned(), degree_max }).collect(),
        ttl: ttl.map(|ttl| Span::from_micros(ttl).expect("positive")),
        requested: RequestedChanges { entities: true, links: true, components: true, sightings: true },
    }
}

fn apply(graph: &mut EntityGraph, input: &Input) -> Option<Answers> {
    let (tick, time) = (input.tick, input.time);
    graph.advance_to(tick.next());
    match &input.event {
        Event::Boundary => graph.rebuild_at_boundary(tick),
        Event::Positive { subject, id, is_positive } => {
            let (subject, is_positive) = (*subject, *is_positive);
            let row = Confirmation { tick, time, subject, kind: id.0, key: id.1, is_positive };
            graph.apply_confirmation(row, || id.1.to_string());
        }
        Event::Row { named, unlinks } => {
            let keys: Vec<KeyHash> = named.iter().map(|id| id.map_or(NULL_KEY, |id| id.1)).collect();
            let row = Sighting { tick, time, keys: &keys, unlinks: *unlinks };
            graph.apply(&identifier_columns(), row, |column| keys[column].to_string());
            return Some(Answers::of(graph, 4));
        }
    }
    None
}

#[test]
fn the_graph_equals_its_definition_at_every_tick() {
    for seed in 0..150 {
        let mut chance = Chance(seed);
        let inputs = history(&mut chance, 90);
        let ttl = [None, Some(30), Some(80), Some(300)][chance.below(4) as usize];
        let degree_max = [[u32::MAX; 3], [3, u32::MAX, 2], [2, 2, 4]][chance.below(3) as usize];
        let slow = Slow { inputs: &inputs, ttl, degree_max };
        let mut graph = EntityGraph::new(config(ttl, degree_max));
        let mut tables = Tables::default();
        for (index, row) in inputs.iter().enumerate() {
            // Between inputs the graph also advances to some tick before the next one.
            let next = inputs.get(index + 1).map_or(row.tick.0 + 5_000, |next| next.tick.0);
            let answers = apply(&mut graph, row);
            let is_row = matches!(row.event, Event::Row { .. });
            let context = format!("seed {seed}, ttl {ttl:?}, at most {degree_max:?}, after {index}: {row:?}");
            assert_eq!(answers, is_row.then(|| answers_to_last(&slow, index + 1)), "{context}");
            let emitted = tables.apply(&mut graph, row.tick.next());
            assert_eq!(emitted, slow.daily_sightings(index + 1), "{context}");
            assert_eq!(tables, Tables::slow(&slow, index + 1, row.tick), "{context}");
            let later = Tick(row.tick.0 + 1 + chance.below((next - row.tick.0).max(1) as u64) as i64);
            graph.advance_to(later);
            tables.apply(&mut graph, later);
            assert_eq!(tables, Tables::slow(&slow, index + 1, Tick(later.0 - 1)), "{context}, at {later}");
        }
    }
}

#[test]
fn a_hot_identifier_of_a_hundred_thousand_links_does_not_stall_the_graph() {
    // A quadratic traversal of 100,000 links would not finish within this test.
    let columns = IdentifierColumns { kinds: vec![0, 1], links: vec![(0, 1)] };
    let mut graph = EntityGraph::new(config(Some(1_000_000), [u32::MAX; 3]));
    let row = |graph: &mut EntityGraph, at: i64, card: KeyHash, device: KeyHash| {
        let tick = Tick::new(at, 0).expect("in range");
        graph.advance_to(tick.next());
        let row = Sighting { tick, time: at, keys: &[card, device], unlinks: false };
        graph.apply(&columns, row, |column| [card, device][column].to_string());
        Answers::of(graph, 2)
    };
    for card in 0..100_000 {
        row(&mut graph, 1_000 + card, card as KeyHash, 7);
    }
    let answers = row(&mut graph, 200_000, 5, 7);
    assert_eq!(answers.component.expect("the graph has it").size, 100_001);
    assert_eq!(answers.link_counts[1].as_ref().expect("the row names it").1, 99_999);
    for step in 0..100 {
        let at = Tick::new(1_001_000 + step * 1_000, 1).expect("in range");
        graph.advance_to(at.next());
        graph.rebuild_at_boundary(at);
        graph.take_changes();
    }
    assert_eq!(graph.counts(), (1_001, 1_000), "the last 999 cards, the one sighted again, and the device");
}

#[test]
fn a_blank_identifier_links_nothing() {
    let kinds = ["account", "device"].map(|name| EntityKind { name: name.to_owned(), degree_max: u32::MAX });
    let names = RowIdentifiers {
        columns: IdentifierColumns { kinds: vec![0, 1], links: vec![(0, 1)] },
        has_unlink: false,
    };
    let entities = EntitiesConfig {
        graph: EntityGraphConfig { kinds: kinds.to_vec(), ttl: None, requested: RequestedChanges::default() },
        answered: names,
        positives: None,
        edges: Vec::new(),
    };
    let rows = [("A", ""), ("B", ""), ("C", " \t"), ("", "d"), (" ", "e"), ("A", "d")];
    let ticks: ArrayRef =
        Arc::new(columns::TickArray::from_iter_values((1..).take(rows.len()).map(|at| at << PARTITION_BITS)));
    let times = TimestampMicrosecondArray::from_iter_values((1..).take(rows.len())).with_timezone("UTC");
    let texts = |texts: Vec<&str>| -> ArrayRef { Arc::new(StringArray::from(texts)) };
    let answered = RecordBatch::try_from_iter([
        (columns::TICK, Arc::clone(&ticks)),
        ("identifier_0", texts(rows.iter().map(|row| row.0).collect())),
        (columns::TS_UTC, Arc::new(times) as ArrayRef),
        ("identifier_1", texts(rows.iter().map(|row| row.1).collect())),
    ])
    .expect("of one length");
    let boundaries = RecordBatch::try_from_iter([(columns::TICK, ticks)]).expect("one column").slice(0, 0);
    let mut operator = entities.operator("graph", RequestedChanges::default());
    let answers = operator.advance(&[answered, boundaries], Tick(1 << 20)).remove(0);
    let of =
        |name: &str| answers.column_by_name(name).expect("an answer").as_primitive::<Int64Type>().clone();
    let (sizes, degrees) = (of("graph_size"), of("graph_degree_device"));
    assert_eq!(sizes.values()[..], [1, 1, 1, 1, 1, 2], "only the last row names two");
    assert!((0..3).all(|row| degrees.is_null(row)), "an absent identifier has no links");
}
