//! The entity graph against its definition, told from the whole history at every tick.

mod chance;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, RecordBatch, StringArray, TimestampMicrosecondArray, UInt64Array,
};
use arrow::datatypes::Int64Type;
use chance::Chance;
use tidegate_facts::{KeyHash, Span, Tick, columns};
use tidegate_operators::entities::{
    Component, Confirmation, Entities, Graph, Kind, Names, Naming, Settings, Sighting, Wanted,
};
use tidegate_operators::keys::NULL_KEY;
use tidegate_operators::ordered::Ordered;

impl Chance {
    fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }
}

/// An identifier: its kind and number.
type Id = (usize, KeyHash);

#[derive(Clone, Debug)]
enum What {
    Row { named: Vec<Option<Id>>, ends: bool },
    Fraud { about: KeyHash, id: Id, is_fraud: bool },
    Boundary,
}

/// Something that was heard.
#[derive(Clone, Debug)]
struct Heard {
    tick: Tick,
    time: i64,
    what: What,
}

const KINDS: [&str; 3] = ["card", "device", "person"];

/// In microseconds.
const DAY: i64 = 86_400_000_000;

/// A row names a card, a device, and two persons.
fn naming() -> Naming {
    Naming { kinds: vec![0, 1, 2, 2], links: vec![(0, 1), (0, 2), (2, 3), (1, 3)] }
}

fn label(id: Id) -> String {
    format!("{}:{}", KINDS[id.0], id.1)
}

/// The definition, slowly.
struct Slow<'a> {
    heard: &'a [Heard],
    ttl: Option<i64>,
    degree_max: [u32; 3],
}

/// Which identifiers there are: since when, as which, and until when they were seen.
type Known = BTreeMap<Id, (Tick, usize, Tick)>;

impl Slow<'_> {
    fn expires(&self, heard: &Heard) -> Tick {
        self.ttl.map_or(Tick(u64::MAX), |ttl| {
            Tick::new((heard.time + ttl).max(0), heard.tick.partition()).expect("in range")
        })
    }

    /// The pairs that a row links.
    fn pairs(heard: &Heard) -> Vec<(Id, Id)> {
        let What::Row { named, .. } = &heard.what else { return Vec::new() };
        let pairs = naming().links.into_iter().filter_map(|(one, other)| Some((named[one]?, named[other]?)));
        pairs.filter(|(one, other)| one != other).map(|(a, b)| (a.min(b), a.max(b))).collect()
    }

    /// The links after the first `count` that were heard, as of `tick`, and since when they are there.
    fn links(&self, count: usize, tick: Tick) -> BTreeMap<(Id, Id), Tick> {
        let mut links: BTreeMap<(Id, Id), (Tick, Tick)> = BTreeMap::new();
        for heard in &self.heard[..count] {
            let expires = self.expires(heard);
            for pair in Self::pairs(heard) {
                links.retain(|_, (_, expires)| *expires > heard.tick);
                if matches!(heard.what, What::Row { ends: true, .. }) {
                    links.remove(&pair);
                } else if expires > heard.tick {
                    let link = links.entry(pair).or_insert((heard.tick, expires));
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

    /// The identifiers after the first `count` that were heard.
    fn known(&self, count: usize) -> Known {
        let (mut known, mut births) = (Known::new(), 0);
        for heard in &self.heard[..count] {
            let expires = self.expires(heard);
            let seen: Vec<Id> = match &heard.what {
                What::Boundary => {
                    known.retain(|_, (_, _, expires)| *expires > heard.tick);
                    continue;
                }
                What::Row { ends: true, .. } | What::Fraud { is_fraud: false, .. } => continue,
                What::Row { named, .. } => named.iter().flatten().copied().collect(),
                What::Fraud { id, .. } => vec![*id],
            };
            for id in seen.into_iter().filter(|_| expires > heard.tick) {
                births += 1;
                let entry = known.entry(id).or_insert((heard.tick, births, expires));
                entry.2 = entry.2.max(expires);
            }
        }
        known
    }

    /// The identifier that each fraud counts at.
    fn frauds(&self, count: usize) -> BTreeMap<KeyHash, Id> {
        let mut frauds = BTreeMap::new();
        for (place, heard) in self.heard[..count].iter().enumerate() {
            match heard.what {
                What::Boundary => {
                    let known = self.known(place + 1);
                    frauds.retain(|_, id| known.contains_key(id));
                }
                What::Fraud { about, is_fraud: false, .. } => {
                    frauds.remove(&about);
                }
                What::Fraud { about, id, .. } if self.expires(heard) > heard.tick => {
                    frauds.insert(about, id);
                }
                _ => {}
            }
        }
        frauds
    }

    /// Which sightings are told of what was heard last of the first `count`: the first of an identifier on its day.
    fn seen(&self, count: usize) -> Vec<String> {
        let last = &self.heard[count - 1];
        let sighted = |heard: &Heard| -> BTreeSet<Id> {
            let named: BTreeSet<Id> = match &heard.what {
                What::Row { named, ends: false } => named.iter().flatten().copied().collect(),
                What::Fraud { id, is_fraud: true, .. } => BTreeSet::from([*id]),
                _ => BTreeSet::new(),
            };
            if self.expires(heard) > heard.tick { named } else { BTreeSet::new() }
        };
        let (known, day) = (self.known(count - 1), |heard: &Heard| heard.tick.micros() / DAY);
        let is_first = |id: &Id| {
            let before = self.heard[..count - 1].iter().rev().find(|heard| sighted(heard).contains(id));
            !known.contains_key(id) || before.is_none_or(|before| day(before) != day(last))
        };
        let mut told: Vec<String> = sighted(last).into_iter().filter(is_first).map(label).collect();
        told.sort_unstable();
        told
    }

    fn connects(&self, links: &BTreeMap<(Id, Id), Tick>, id: Id) -> bool {
        let degree = links.keys().filter(|(a, b)| *a == id || *b == id).count();
        degree <= self.degree_max[id.0] as usize
    }

    /// The components after the first `count` that were heard: the members of each.
    fn components(&self, count: usize) -> Vec<BTreeSet<Id>> {
        let last = self.heard[..count].iter().rposition(|heard| matches!(heard.what, What::Boundary));
        let mut parts: Vec<BTreeSet<Id>> =
            self.known(count).into_keys().map(|id| BTreeSet::from([id])).collect();
        let mut unite = |(one, other): (Id, Id)| {
            let a = parts.iter().position(|part| part.contains(&one)).expect("it is known");
            let moved = parts.swap_remove(a);
            match parts.iter_mut().find(|part| part.contains(&other)) {
                Some(part) => part.extend(moved),
                None => parts.push(moved),
            }
        };
        if let Some(last) = last {
            let links = self.links(last + 1, self.heard[last].tick);
            let connecting = |(a, b): &&(Id, Id)| self.connects(&links, *a) && self.connects(&links, *b);
            links.keys().filter(connecting).copied().for_each(&mut unite);
        }
        for place in last.map_or(0, |last| last + 1)..count {
            let heard = &self.heard[place];
            let is_seen =
                matches!(heard.what, What::Row { ends: false, .. }) && self.expires(heard) > heard.tick;
            if is_seen {
                let links = self.links(place + 1, heard.tick);
                for (a, b) in Self::pairs(heard) {
                    if self.connects(&links, a) && self.connects(&links, b) {
                        unite((a, b));
                    }
                }
            }
        }
        parts
    }

    /// The name of a component: that of its oldest identifier.
    fn name(known: &Known, part: &BTreeSet<Id>) -> String {
        label(*part.iter().min_by_key(|id| known[id].1).expect("a component has members"))
    }
}

/// What is known of a row: its component, and for each column the degrees of its identifier, and the links to others than
/// the row names.
#[derive(Debug, PartialEq, Eq)]
struct View {
    component: Option<Component>,
    ties: Vec<Option<(Vec<u32>, u32)>>,
}

impl View {
    fn of(graph: &Graph, columns: usize) -> View {
        let ties =
            (0..columns).map(|column| graph.ties(column).map(|ties| (ties.degrees.to_vec(), ties.others)));
        View { component: graph.component(), ties: ties.collect() }
    }
}

/// What is there at one tick, as lines.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tables {
    entities: BTreeMap<String, i64>,
    links: BTreeMap<String, i64>,
    components: BTreeMap<String, i64>,
}

fn add(table: &mut BTreeMap<String, i64>, line: String, diff: i64) {
    let count = table.entry(line.clone()).or_default();
    *count += diff;
    assert!(*count == 0 || *count == 1, "{line} is there {count} times");
    if *count == 0 {
        table.remove(&line);
    }
}

impl Tables {
    /// The changes are put in; and what was seen is given.
    fn apply(&mut self, graph: &mut Graph, upper: Tick) -> Vec<String> {
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
            let line = format!("{}: {} with {}", change.component, change.size, change.frauds);
            add(&mut self.components, line, change.diff);
        }
        let seen = changes.sightings.into_iter();
        let mut told: Vec<String> = seen
            .map(|seen| {
                assert_eq!(seen.tick.next(), upper, "it is told at its own tick");
                seen.entity.label.to_string()
            })
            .collect();
        told.sort_unstable();
        told
    }

    /// What the definition says after the first `count` that were heard, as of `tick`.
    fn slow(slow: &Slow<'_>, count: usize, tick: Tick) -> Tables {
        let (known, frauds) = (slow.known(count), slow.frauds(count));
        let mut tables = Tables::default();
        for part in slow.components(count) {
            let name = Slow::name(&known, &part);
            let frauds = frauds.values().filter(|id| part.contains(id)).count();
            add(&mut tables.components, format!("{name}: {} with {frauds}", part.len()), 1);
            for id in &part {
                add(&mut tables.entities, format!("{} in {name} since {}", label(*id), known[id].0.0), 1);
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

/// What the definition says of the row that was heard last of the first `count`.
fn view(slow: &Slow<'_>, count: usize) -> View {
    let heard = &slow.heard[count - 1];
    let What::Row { named, .. } = &heard.what else { panic!("only rows have a view") };
    let (known, frauds) = (slow.known(count), slow.frauds(count));
    let links = slow.links(count, heard.tick);
    let is_known = |id: &&Id| known.contains_key(*id);
    let component = named.iter().flatten().find(is_known).map(|id| {
        let parts = slow.components(count);
        let part = parts.iter().find(|part| part.contains(id)).expect("it is known");
        Component {
            name: Slow::name(&known, part).into(),
            size: part.len() as u64,
            frauds: frauds.values().filter(|id| part.contains(id)).count() as u64,
        }
    });
    let own: BTreeSet<(Id, Id)> = Slow::pairs(heard).into_iter().collect();
    let ties = (0..named.len()).map(|column| {
        let id =
            named[column].filter(|id| known.contains_key(id) && !named[..column].contains(&Some(*id)))?;
        let of_it = || links.keys().filter(move |(a, b)| *a == id || *b == id);
        let other_kind = |pair: &&(Id, Id)| if pair.0 == id { pair.1.0 } else { pair.0.0 };
        let degrees = (0..3).map(|kind| of_it().filter(|p| other_kind(p) == kind).count() as u32).collect();
        let others = of_it().filter(|pair| !own.contains(pair)).count() as u32;
        Some((degrees, others))
    });
    View { component, ties: ties.collect() }
}

/// Things that are heard, in the order of ticks, some late, some again, and boundaries between them.
fn history(chance: &mut Chance, count: usize) -> Vec<Heard> {
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
            let what = match chance.below(12) {
                0 => What::Boundary,
                1 | 2 => What::Fraud {
                    about: KeyHash::from(chance.below(5)),
                    id: (0, KeyHash::from(chance.below(ids))),
                    is_fraud: !chance.one_in(3),
                },
                _ => What::Row {
                    named: [0, 1, 2, 2].map(|kind| id(chance, kind)).to_vec(),
                    ends: chance.one_in(8),
                },
            };
            Heard { tick, time: tick.micros() - late, what }
        })
        .collect()
}

fn settings(ttl: Option<i64>, degree_max: [u32; 3]) -> Settings {
    let kinds = KINDS.iter().zip(degree_max);
    Settings {
        kinds: kinds.map(|(name, degree_max)| Kind { name: (*name).to_owned(), degree_max }).collect(),
        ttl: ttl.map(|ttl| Span::from_micros(ttl).expect("positive")),
        wanted: Wanted { entities: true, links: true, components: true, sightings: true },
    }
}

fn hear(graph: &mut Graph, heard: &Heard) -> Option<View> {
    let (tick, time) = (heard.tick, heard.time);
    graph.pass(tick.next());
    match &heard.what {
        What::Boundary => graph.bound(tick),
        What::Fraud { about, id, is_fraud } => {
            let (about, is_fraud) = (*about, *is_fraud);
            let row = Confirmation { tick, time, about, kind: id.0, key: id.1, is_fraud };
            graph.confirm(row, || id.1.to_string());
        }
        What::Row { named, ends } => {
            let keys: Vec<KeyHash> = named.iter().map(|id| id.map_or(NULL_KEY, |id| id.1)).collect();
            let row = Sighting { tick, time, keys: &keys, ends: *ends };
            graph.hear(&naming(), row, |column| keys[column].to_string());
            return Some(View::of(graph, 4));
        }
    }
    None
}

#[test]
fn the_graph_is_what_its_definition_says_at_every_tick() {
    for seed in 0..150 {
        let mut chance = Chance(seed);
        let heard = history(&mut chance, 90);
        let ttl = [None, Some(30), Some(80), Some(300)][chance.below(4) as usize];
        let degree_max = [[u32::MAX; 3], [3, u32::MAX, 2], [2, 2, 4]][chance.below(3) as usize];
        let slow = Slow { heard: &heard, ttl, degree_max };
        let mut graph = Graph::new(settings(ttl, degree_max));
        let mut tables = Tables::default();
        for (place, row) in heard.iter().enumerate() {
            // Time goes on by itself too, up to any tick before the next that is heard.
            let next = heard.get(place + 1).map_or(row.tick.0 + 5_000, |next| next.tick.0);
            let seen = hear(&mut graph, row);
            let is_row = matches!(row.what, What::Row { .. });
            let where_ = format!("seed {seed}, ttl {ttl:?}, at most {degree_max:?}, after {place}: {row:?}");
            assert_eq!(seen, is_row.then(|| view(&slow, place + 1)), "{where_}");
            let told = tables.apply(&mut graph, row.tick.next());
            assert_eq!(told, slow.seen(place + 1), "{where_}");
            assert_eq!(tables, Tables::slow(&slow, place + 1, row.tick), "{where_}");
            let later = Tick(row.tick.0 + 1 + chance.below((next - row.tick.0).max(1)));
            graph.pass(later);
            tables.apply(&mut graph, later);
            assert_eq!(tables, Tables::slow(&slow, place + 1, Tick(later.0 - 1)), "{where_}, at {later}");
        }
    }
}

#[test]
fn a_hot_identifier_of_a_hundred_thousand_links_does_not_stall_the_graph() {
    // The work is counted, not timed: a quadratic walk over 100,000 links would not end within this test.
    let naming = Naming { kinds: vec![0, 1], links: vec![(0, 1)] };
    let mut graph = Graph::new(settings(Some(1_000_000), [u32::MAX; 3]));
    let row = |graph: &mut Graph, at: i64, card: KeyHash, device: KeyHash| {
        let tick = Tick::new(at, 0).expect("in range");
        graph.pass(tick.next());
        let row = Sighting { tick, time: at, keys: &[card, device], ends: false };
        graph.hear(&naming, row, |column| [card, device][column].to_string());
        View::of(graph, 2)
    };
    for card in 0..100_000 {
        row(&mut graph, 1_000 + card, card as KeyHash, 7);
    }
    let seen = row(&mut graph, 200_000, 5, 7);
    assert_eq!(seen.component.expect("it is known").size, 100_001);
    assert_eq!(seen.ties[1].as_ref().expect("it is named").1, 99_999);
    for step in 0..100 {
        let at = Tick::new(1_001_000 + step * 1_000, 1).expect("in range");
        graph.pass(at.next());
        graph.bound(at);
        graph.take_changes();
    }
    assert_eq!(graph.counts(), (1_001, 1_000), "the last 999 cards, the one seen again, and the device");
}

#[test]
fn an_empty_identifier_links_nobody() {
    let kinds = ["account", "device"].map(|name| Kind { name: name.to_owned(), degree_max: u32::MAX });
    let names = Names { naming: Naming { kinds: vec![0, 1], links: vec![(0, 1)] }, with_ends: false };
    let entities = Entities {
        settings: Settings { kinds: kinds.to_vec(), ttl: None, wanted: Wanted::default() },
        asking: names,
        frauds: None,
        linked: Vec::new(),
    };
    let rows = [("A", ""), ("B", ""), ("C", " \t"), ("", "d"), (" ", "e"), ("A", "d")];
    let ticks: ArrayRef = Arc::new(UInt64Array::from_iter_values((1..).take(rows.len()).map(|at| at << 12)));
    let times = TimestampMicrosecondArray::from_iter_values((1..).take(rows.len())).with_timezone("UTC");
    let texts = |texts: Vec<&str>| -> ArrayRef { Arc::new(StringArray::from(texts)) };
    let asking = RecordBatch::try_from_iter([
        (columns::TICK, Arc::clone(&ticks)),
        ("identifier_0", texts(rows.iter().map(|row| row.0).collect())),
        (columns::TS_UTC, Arc::new(times) as ArrayRef),
        ("identifier_1", texts(rows.iter().map(|row| row.1).collect())),
    ])
    .expect("of one length");
    let boundaries = RecordBatch::try_from_iter([(columns::TICK, ticks)]).expect("one column").slice(0, 0);
    let mut state = entities.state("graph", Wanted::default());
    let answers = state.advance(&[asking, boundaries], Tick(1 << 20)).remove(0);
    let of =
        |name: &str| answers.column_by_name(name).expect("an answer").as_primitive::<Int64Type>().clone();
    let (sizes, degrees) = (of("graph_size"), of("graph_degree_device"));
    assert_eq!(sizes.values()[..], [1, 1, 1, 1, 1, 2], "only the last row names two");
    assert!((0..3).all(|row| degrees.is_null(row)), "what is not named has no links");
}
