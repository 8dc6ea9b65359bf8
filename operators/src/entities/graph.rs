//! Identifiers, the links seen between them, and the components that these make.
//!
//! A row names identifiers, and links them with each other. An identifier or link is kept for the time to live after
//! it was last seen, by event time; a row that is too old for that when it is heard says nothing. What is kept changes so:
//!
//! * An identifier is there from the tick at which it is first named, and a link from the tick at which it is first seen, or
//!   seen again after it had ended.
//! * A link ends at the tick at which it expires, before the facts of that tick; or at the tick of a row that ends it.
//! * A link connects where neither of its ends has more links than its kind may. Two components become one at the tick at which a
//!   link that connects is heard.
//! * At a boundary the identifiers go that have expired, and components become exactly those that the links make then: what
//!   had lost a link may fall apart, and an end that no longer has too many links connects again.
//!
//! That an identifier was seen is told once a day, at its first sighting of the day: what is told of a busy one does not grow with
//! how busy it is.
//!
//! A component is called by its oldest identifier. When two become one, the smaller gives its members to the larger, so
//! that each identifier moves a logarithmic number of times. At a boundary only components that lost something are walked.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidegate_facts::{KeyHash, Span, Tick};

use super::due::Due;
use super::index::PairIndex;
use crate::keys::NULL_KEY;

/// What a graph keeps.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The kinds of identifiers.
    pub kinds: Vec<Kind>,
    /// How long after it was last seen, in event time, an identifier or a link is kept; `None` is for ever.
    pub ttl: Option<Span>,
    /// Which changes of entities, links and components are wanted, and whether sightings are.
    pub wanted: Wanted,
}

/// One kind of identifiers.
#[derive(Clone, Debug)]
pub struct Kind {
    /// Its name.
    pub name: String,
    /// An identifier with more links than this connects nothing.
    pub degree_max: u32,
}

/// Which changes are wanted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted {
    /// Those of [`Changes::entities`].
    pub entities: bool,
    /// Those of [`Changes::links`].
    pub links: bool,
    /// Those of [`Changes::components`].
    pub components: bool,
    /// Those of [`Changes::sightings`].
    pub sightings: bool,
}

/// What the columns of some rows name.
#[derive(Clone, Debug)]
pub struct Naming {
    /// The kind that each column names, by place.
    pub kinds: Vec<usize>,
    /// The pairs of columns whose identifiers a row links.
    pub links: Vec<(usize, usize)>,
}

/// One row that names identifiers.
#[derive(Clone, Copy, Debug)]
pub struct Sighting<'a> {
    /// When it was learned.
    pub tick: Tick,
    /// When it happened, in microseconds.
    pub time: i64,
    /// For each column of its [`Naming`] what it names; [`NULL_KEY`] for nothing.
    pub keys: &'a [KeyHash],
    /// It ends the links that it names, and does not see them.
    pub ends: bool,
}

/// One row that says whether something was a fraud.
#[derive(Clone, Copy, Debug)]
pub struct Confirmation {
    /// When it was learned.
    pub tick: Tick,
    /// When it was found out, in microseconds.
    pub time: i64,
    /// What it is about; what a later row says of the same stands.
    pub about: KeyHash,
    /// The kind of the identifier, by place.
    pub kind: usize,
    /// The identifier whose fraud it was.
    pub key: KeyHash,
    /// Whether it was a fraud.
    pub is_fraud: bool,
}

/// One component.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Component {
    /// Its oldest identifier, as `kind:identifier`.
    pub name: Arc<str>,
    /// How many identifiers it has.
    pub size: u64,
    /// How many confirmed frauds these have.
    pub frauds: u64,
}

/// How one identifier is linked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ties<'a> {
    /// With how many identifiers of each kind.
    pub degrees: &'a [u32],
    /// With how many that the row does not name.
    pub others: u32,
}

/// Changes, in the order in which they happened: a row as it was has -1, and as it is +1.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// Which identifiers there are, and in which components.
    pub entities: Vec<EntityChange>,
    /// Which links there are.
    pub links: Vec<LinkChange>,
    /// Which components there are.
    pub components: Vec<ComponentChange>,
    /// Which identifiers were seen on which days. What was seen stays seen, so none is taken back.
    pub sightings: Vec<Seen>,
}

impl Changes {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        let Changes { entities, links, components, sightings } = self;
        entities.is_empty() && links.is_empty() && components.is_empty() && sightings.is_empty()
    }
}

/// An identifier came, went, or is in another component.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EntityChange {
    /// When.
    pub tick: Tick,
    /// It.
    pub entity: Name,
    /// The name of its component.
    pub component: Arc<str>,
    /// Since when it is there.
    pub first: Tick,
    /// +1 or -1.
    pub diff: i64,
}

/// A link came or went.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LinkChange {
    /// When.
    pub tick: Tick,
    /// Its ends, the lesser first.
    pub ends: [Name; 2],
    /// Since when it is there.
    pub first: Tick,
    /// +1 or -1.
    pub diff: i64,
}

/// A component came, went, or has other members or frauds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ComponentChange {
    /// When.
    pub tick: Tick,
    /// Its name.
    pub component: Arc<str>,
    /// How many identifiers it has.
    pub size: u64,
    /// How many confirmed frauds these have.
    pub frauds: u64,
    /// +1 or -1.
    pub diff: i64,
}

/// An identifier was seen for the first time on a day (UTC, of its tick), or since it is there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seen {
    /// When.
    pub tick: Tick,
    /// It.
    pub entity: Name,
}

/// What an identifier is called.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    /// Its kind, by place.
    pub kind: usize,
    /// `kind:identifier`.
    pub label: Arc<str>,
}

/// The state.
#[derive(Debug)]
pub struct Graph {
    settings: Settings,
    numbers: BTreeMap<(usize, KeyHash), u32>,
    identifiers: Slab<Identifier>,
    /// For each identifier how many links it has with each kind.
    degrees: Vec<u32>,
    pairs: PairIndex,
    links: Slab<Link>,
    components: Slab<Members>,
    /// The identifier that each fraud counts at, by what it is about.
    frauds: BTreeMap<KeyHash, u32>,
    due_links: Due,
    due_identifiers: Due,
    /// How many identifiers there ever were.
    births: u64,
    /// The components that lost something since the last boundary.
    torn: Vec<u32>,
    /// The identifiers that came to have too many links since the last boundary, or no longer too many.
    crossed: Vec<u32>,
    /// The walk that is under way, or was last.
    walk: u32,
    /// Of the last row: the identifier of each column, and the links between these.
    named: Vec<Option<u32>>,
    own: Vec<(u32, u32)>,
    entity_changes: Vec<(u32, u32, i64)>,
    component_changes: Vec<(u32, u64, u64, i64)>,
    changes: Changes,
}

#[derive(Debug)]
struct Identifier {
    name: Name,
    key: KeyHash,
    first: Tick,
    /// The day on which it was seen last; before its first, none.
    day: Option<i64>,
    /// Which one it was.
    birth: u64,
    expires: Tick,
    component: u32,
    /// The last walk that came by.
    walk: u32,
    is_gone: bool,
    /// The other end, and the link.
    links: Vec<(u32, u32)>,
    frauds: Vec<KeyHash>,
}

#[derive(Debug)]
struct Link {
    ends: [u32; 2],
    /// Where it stands among the links of each end.
    places: [u32; 2],
    first: Tick,
    expires: Tick,
    /// At which tick it comes up; other entries are of links before it.
    due: Tick,
}

/// The members of one component.
#[derive(Debug, Default)]
struct Members {
    oldest: u32,
    frauds: u64,
    list: Vec<u32>,
    is_torn: bool,
}

/// What never expires, and what is not due.
const NEVER: Tick = Tick(u64::MAX);

/// A day of ticks.
const DAY_MICROS: i64 = 86_400_000_000;

impl Graph {
    /// An empty graph.
    pub fn new(settings: Settings) -> Graph {
        Graph {
            settings,
            numbers: BTreeMap::new(),
            identifiers: Slab::default(),
            degrees: Vec::new(),
            pairs: PairIndex::default(),
            links: Slab::default(),
            components: Slab::default(),
            frauds: BTreeMap::new(),
            due_links: Due::default(),
            due_identifiers: Due::default(),
            births: 0,
            torn: Vec::new(),
            crossed: Vec::new(),
            walk: 0,
            named: Vec::new(),
            own: Vec::new(),
            entity_changes: Vec::new(),
            component_changes: Vec::new(),
            changes: Changes::default(),
        }
    }

    /// Lets the links end that expire before `upper`. What is heard next has no earlier tick than `upper`, less one.
    pub fn pass(&mut self, upper: Tick) {
        while let Some((tick, number)) = self.due_links.take_before(upper) {
            let link = &mut self.links[number];
            if link.due != tick {
                continue; // It was of a link that is no more.
            }
            if link.expires > tick {
                link.due = link.expires;
                self.due_links.put(link.expires, number);
            } else {
                self.end(number, tick);
            }
        }
    }

    /// Hears of a row; `text_of` tells what a column names, and is asked for identifiers that are new.
    pub fn hear(&mut self, naming: &Naming, row: Sighting<'_>, text_of: impl Fn(usize) -> String) {
        let expires = self.expires(row.tick, row.time);
        let is_seen = expires > row.tick && !row.ends;
        self.named.clear();
        for (column, (kind, key)) in naming.kinds.iter().zip(row.keys).enumerate() {
            let number = if *key == NULL_KEY {
                None
            } else if is_seen {
                Some(self.see(*kind, *key, row.tick, expires, || text_of(column)))
            } else {
                self.numbers.get(&(*kind, *key)).copied()
            };
            self.named.push(number);
        }
        self.own.clear();
        for (one, other) in &naming.links {
            let (Some(one), Some(other)) = (self.named[*one], self.named[*other]) else { continue };
            let pair = (one.min(other), one.max(other));
            if one == other || self.own.contains(&pair) {
                continue;
            }
            match self.pairs.get(pair) {
                Some(link) if row.ends => {
                    self.end(link, row.tick);
                    continue;
                }
                known if is_seen => self.link(pair, known, row.tick, expires),
                Some(_) => {}
                None => continue,
            }
            self.own.push(pair);
        }
        if is_seen {
            for place in 0..self.own.len() {
                let (one, other) = self.own[place];
                if !self.has_too_many(one) && !self.has_too_many(other) {
                    self.unite(one, other);
                }
            }
        }
        self.settle(row.tick);
    }

    /// The component of the first identifier that is kept, of those that the row names that was heard last: as of its
    /// tick, and with the row itself.
    pub fn component(&self) -> Option<Component> {
        let number = self.named.iter().flatten().next()?;
        let members = &self.components[self.identifiers[*number].component];
        Some(Component {
            name: Arc::clone(&self.identifiers[members.oldest].name.label),
            size: members.list.len() as u64,
            frauds: members.frauds,
        })
    }

    /// How the identifier is linked that this column of that row names; `None` where it names none that is kept, or the same as
    /// an earlier column.
    pub fn ties(&self, column: usize) -> Option<Ties<'_>> {
        let number = self.named[column].filter(|number| !self.named[..column].contains(&Some(*number)))?;
        let own = self.own.iter().filter(|pair| pair.0 == number || pair.1 == number).count();
        let others = (self.identifiers[number].links.len() - own) as u32;
        Some(Ties { degrees: self.degrees_of(number), others })
    }

    /// Hears whether something was a fraud. A fraud keeps its identifier as any sighting does.
    pub fn confirm(&mut self, row: Confirmation, text_of: impl Fn() -> String) {
        let known = self.frauds.get(&row.about).copied();
        let expires = self.expires(row.tick, row.time);
        let number = match row.is_fraud {
            true if expires <= row.tick || row.key == NULL_KEY || row.about == NULL_KEY => return,
            true => Some(self.see(row.kind, row.key, row.tick, expires, text_of)),
            false => None,
        };
        if number == known {
            return;
        }
        if let Some(known) = known {
            self.frauds.remove(&row.about);
            self.identifiers[known].frauds.retain(|about| *about != row.about);
            self.count_fraud(known, -1);
        }
        if let Some(number) = number {
            self.frauds.insert(row.about, number);
            self.identifiers[number].frauds.push(row.about);
            self.count_fraud(number, 1);
        }
        self.settle(row.tick);
    }

    /// A boundary: components are what the links make of them. `tick` is passed already.
    pub fn bound(&mut self, tick: Tick) {
        let gone = self.let_go(tick);
        for torn in std::mem::take(&mut self.torn) {
            self.mend(torn);
        }
        for crossed in std::mem::take(&mut self.crossed) {
            if self.identifiers[crossed].is_gone || self.has_too_many(crossed) {
                continue;
            }
            for place in 0..self.identifiers[crossed].links.len() {
                let (other, _) = self.identifiers[crossed].links[place];
                if !self.has_too_many(other) {
                    self.unite(crossed, other);
                }
            }
        }
        self.settle(tick);
        for number in gone {
            let identifier = &mut self.identifiers[number];
            assert!(identifier.links.is_empty(), "a link keeps its ends");
            let (kind, key) = (identifier.name.kind, identifier.key);
            self.numbers.remove(&(kind, key));
            for about in std::mem::take(&mut identifier.frauds) {
                self.frauds.remove(&about);
            }
            self.identifiers.free(number);
        }
    }

    /// The changes since they were last taken.
    pub fn take_changes(&mut self) -> Changes {
        std::mem::take(&mut self.changes)
    }

    /// How many identifiers and links are kept.
    pub fn counts(&self) -> (usize, usize) {
        (self.identifiers.len(), self.links.len())
    }

    /// The kinds of its identifiers.
    pub fn kinds(&self) -> &[Kind] {
        &self.settings.kinds
    }

    /// When what is seen by a row expires.
    fn expires(&self, tick: Tick, time: i64) -> Tick {
        let Some(ttl) = self.settings.ttl else { return NEVER };
        let micros = time.saturating_add(ttl.micros());
        // Before all ticks, or behind them.
        Tick::new(micros, tick.partition()).unwrap_or(if micros < 0 { Tick::ZERO } else { NEVER })
    }

    /// The number of an identifier that is seen, which is kept from now on if it was not.
    fn see(
        &mut self,
        kind: usize,
        key: KeyHash,
        tick: Tick,
        expires: Tick,
        text: impl FnOnce() -> String,
    ) -> u32 {
        let number = match self.numbers.get(&(kind, key)).copied() {
            Some(number) => number,
            None => {
                let label = format!("{}:{}", self.settings.kinds[kind].name, text()).into();
                self.keep(Name { kind, label }, key, tick, expires)
            }
        };
        let identifier = &mut self.identifiers[number];
        identifier.expires = identifier.expires.max(expires);
        if self.settings.wanted.sightings {
            let day = Some(tick.micros() / DAY_MICROS);
            if identifier.day != day {
                identifier.day = day;
                self.changes.sightings.push(Seen { tick, entity: identifier.name.clone() });
            }
        }
        number
    }

    /// The number of an identifier that is new.
    fn keep(&mut self, name: Name, key: KeyHash, tick: Tick, expires: Tick) -> u32 {
        let kind = name.kind;
        let component = self.components.put(Members::default());
        self.births += 1;
        let number = self.identifiers.put(Identifier {
            name,
            key,
            first: tick,
            day: None,
            birth: self.births,
            expires,
            component,
            walk: self.walk,
            is_gone: false,
            links: Vec::new(),
            frauds: Vec::new(),
        });
        self.components[component] =
            Members { oldest: number, frauds: 0, list: vec![number], is_torn: false };
        let end = (number as usize + 1) * self.settings.kinds.len();
        if self.degrees.len() < end {
            self.degrees.resize(end, 0);
        }
        self.numbers.insert((kind, key), number);
        if expires < NEVER {
            self.due_identifiers.put(expires, number);
        }
        self.tell_entity(number, number, 1);
        self.tell_component(component, 1);
        number
    }

    /// A link is seen; `known` is its number, if it is there.
    fn link(&mut self, pair: (u32, u32), known: Option<u32>, tick: Tick, expires: Tick) {
        let ends = [pair.0, pair.1];
        if let Some(known) = known {
            let link = &mut self.links[known];
            link.expires = link.expires.max(expires);
        } else {
            let places = ends.map(|end| self.identifiers[end].links.len() as u32);
            let number = self.links.put(Link { ends, places, first: tick, expires, due: expires });
            self.pairs.insert(pair, number);
            if expires < NEVER {
                self.due_links.put(expires, number);
            }
            for (end, other) in [(ends[0], ends[1]), (ends[1], ends[0])] {
                self.identifiers[end].links.push((other, number));
                self.count_link(end, other, 1);
                if self.identifiers[end].links.len() as u64 == u64::from(self.degree_max(end)) + 1 {
                    self.crossed.push(end);
                    self.tear(end);
                }
            }
            self.tell_link(number, tick, 1);
        }
    }

    /// A link ends.
    fn end(&mut self, number: u32, tick: Tick) {
        self.tell_link(number, tick, -1);
        let Link { ends, places, .. } = self.links[number];
        self.links[number].due = NEVER;
        self.links.free(number);
        self.pairs.remove((ends[0], ends[1]));
        for (side, (end, other)) in [(ends[0], ends[1]), (ends[1], ends[0])].into_iter().enumerate() {
            let identifier = &mut self.identifiers[end];
            let place = places[side] as usize;
            identifier.links.swap_remove(place);
            let left = identifier.links.len() as u32;
            if let Some((_, moved)) = identifier.links.get(place) {
                let moved = &mut self.links[*moved];
                let side = usize::from(moved.ends[1] == end);
                moved.places[side] = place as u32;
            }
            self.count_link(end, other, -1);
            if left == self.degree_max(end) {
                self.crossed.push(end);
            }
        }
        if self.identifiers[ends[0]].component == self.identifiers[ends[1]].component {
            self.tear(ends[0]);
        }
    }

    fn degree_max(&self, number: u32) -> u32 {
        self.settings.kinds[self.identifiers[number].name.kind].degree_max
    }

    fn has_too_many(&self, number: u32) -> bool {
        self.identifiers[number].links.len() as u64 > u64::from(self.degree_max(number))
    }

    fn degrees_of(&self, number: u32) -> &[u32] {
        let kinds = self.settings.kinds.len();
        &self.degrees[number as usize * kinds..][..kinds]
    }

    fn count_link(&mut self, end: u32, other: u32, diff: i32) {
        let kind = self.identifiers[other].name.kind;
        let degree = &mut self.degrees[end as usize * self.settings.kinds.len() + kind];
        *degree = degree.checked_add_signed(diff).expect("no fewer than none");
    }

    fn count_fraud(&mut self, number: u32, diff: i64) {
        let component = self.identifiers[number].component;
        self.tell_component(component, -1);
        let frauds = &mut self.components[component].frauds;
        *frauds = frauds.checked_add_signed(diff).expect("no fewer than none");
        self.tell_component(component, 1);
    }

    /// The component of an identifier has lost something.
    fn tear(&mut self, number: u32) {
        let component = self.identifiers[number].component;
        let members = &mut self.components[component];
        if !std::mem::replace(&mut members.is_torn, true) {
            self.torn.push(component);
        }
    }

    /// The components of two identifiers become one.
    fn unite(&mut self, one: u32, other: u32) {
        let [one, other] = [one, other].map(|number| self.identifiers[number].component);
        if one == other {
            return;
        }
        let older = |one: u32, other: u32| {
            let birth = |component: u32| self.identifiers[self.components[component].oldest].birth;
            if birth(one) < birth(other) { (one, other) } else { (other, one) }
        };
        let (elder, younger) = older(one, other);
        let name = self.components[elder].oldest;
        self.rename(younger, name);
        self.tell_component(one, -1);
        self.tell_component(other, -1);
        let is_larger = self.components[one].list.len() >= self.components[other].list.len();
        let (large, small) = if is_larger { (one, other) } else { (other, one) };
        let given = std::mem::take(&mut self.components[small]);
        for number in &given.list {
            self.identifiers[*number].component = large;
        }
        if given.is_torn {
            self.tear(given.list[0]);
        }
        self.components.free(small);
        let members = &mut self.components[large];
        members.list.extend(given.list);
        members.frauds += given.frauds;
        members.oldest = name;
        self.tell_component(large, 1);
    }

    /// Tells that the members of a component are now in one of another name.
    fn rename(&mut self, component: u32, name: u32) {
        if self.settings.wanted.entities {
            let members = &self.components[component];
            let renamed = members.list.iter().flat_map(|m| [(*m, members.oldest, -1), (*m, name, 1)]);
            self.entity_changes.extend(renamed);
        }
    }

    /// Marks the identifiers that have expired, and tears their components.
    fn let_go(&mut self, tick: Tick) -> Vec<u32> {
        let mut gone = Vec::new();
        while let Some((_, number)) = self.due_identifiers.take_before(tick.next()) {
            let identifier = &mut self.identifiers[number];
            if identifier.expires > tick {
                if identifier.expires < NEVER {
                    self.due_identifiers.put(identifier.expires, number);
                }
                continue;
            }
            identifier.is_gone = true;
            gone.push(number);
            self.tear(number);
        }
        gone
    }

    /// Makes of a component that lost something those that its links make.
    fn mend(&mut self, component: u32) {
        if !self.components[component].is_torn {
            return; // It became part of another, and its place may be a later one's.
        }
        self.tell_component(component, -1);
        let before = std::mem::take(&mut self.components[component]);
        self.walk += 1;
        let mut place = Some(component);
        for first in &before.list {
            if self.identifiers[*first].is_gone {
                self.tell_entity(*first, before.oldest, -1);
                continue;
            }
            if self.identifiers[*first].walk == self.walk {
                continue;
            }
            let part = self.part_of(*first, component);
            if part.oldest != before.oldest {
                for member in &part.list {
                    self.tell_entity(*member, before.oldest, -1);
                    self.tell_entity(*member, part.oldest, 1);
                }
            }
            let place = place.take().unwrap_or_else(|| self.components.put(Members::default()));
            for member in &part.list {
                self.identifiers[*member].component = place;
            }
            self.components[place] = part;
            self.tell_component(place, 1);
        }
        if let Some(place) = place {
            self.components.free(place);
        }
    }

    /// The identifiers of a component that links connect with one of them.
    fn part_of(&mut self, first: u32, component: u32) -> Members {
        let mut part = Members { oldest: first, frauds: 0, list: vec![first], is_torn: false };
        self.identifiers[first].walk = self.walk;
        let mut next = 0;
        while let Some(number) = part.list.get(next).copied() {
            next += 1;
            let identifier = &self.identifiers[number];
            part.frauds += identifier.frauds.len() as u64;
            if identifier.birth < self.identifiers[part.oldest].birth {
                part.oldest = number;
            }
            if self.has_too_many(number) {
                continue;
            }
            for place in 0..self.identifiers[number].links.len() {
                let (other, _) = self.identifiers[number].links[place];
                let end = &self.identifiers[other];
                if end.walk != self.walk && end.component == component && !self.has_too_many(other) {
                    self.identifiers[other].walk = self.walk;
                    part.list.push(other);
                }
            }
        }
        part
    }

    fn tell_entity(&mut self, number: u32, component: u32, diff: i64) {
        if self.settings.wanted.entities {
            self.entity_changes.push((number, component, diff));
        }
    }

    fn tell_component(&mut self, component: u32, diff: i64) {
        if self.settings.wanted.components {
            let Members { oldest, frauds, list, .. } = &self.components[component];
            self.component_changes.push((*oldest, list.len() as u64, *frauds, diff));
        }
    }

    fn tell_link(&mut self, number: u32, tick: Tick, diff: i64) {
        if self.settings.wanted.links {
            let Link { ends, first, .. } = self.links[number];
            let mut ends = ends.map(|end| self.identifiers[end].name.clone());
            ends.sort_unstable();
            self.changes.links.push(LinkChange { tick, ends, first, diff });
        }
    }

    /// What changed at a tick is told, without what was taken back at once.
    fn settle(&mut self, tick: Tick) {
        if self.entity_changes.is_empty() && self.component_changes.is_empty() {
            return;
        }
        let label = |number: u32| Arc::clone(&self.identifiers[number].name.label);
        self.entity_changes.sort_unstable();
        for same in self.entity_changes.chunk_by(|a, b| (a.0, a.1) == (b.0, b.1)) {
            let diff: i64 = same.iter().map(|change| change.2).sum();
            if diff != 0 {
                let identifier = &self.identifiers[same[0].0];
                let (entity, first) = (identifier.name.clone(), identifier.first);
                let component = label(same[0].1);
                self.changes.entities.push(EntityChange { tick, entity, component, first, diff });
            }
        }
        self.component_changes.sort_unstable();
        for same in self.component_changes.chunk_by(|a, b| (a.0, a.1, a.2) == (b.0, b.1, b.2)) {
            let diff: i64 = same.iter().map(|change| change.3).sum();
            if diff != 0 {
                let (component, size, frauds) = (label(same[0].0), same[0].1, same[0].2);
                self.changes.components.push(ComponentChange { tick, component, size, frauds, diff });
            }
        }
        self.entity_changes.clear();
        self.component_changes.clear();
    }
}

/// Things by number; numbers of things that went are given again.
#[derive(Debug)]
struct Slab<T> {
    things: Vec<T>,
    free: Vec<u32>,
}

impl<T> Default for Slab<T> {
    fn default() -> Slab<T> {
        Slab { things: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slab<T> {
    fn put(&mut self, thing: T) -> u32 {
        match self.free.pop() {
            Some(number) => {
                self.things[number as usize] = thing;
                number
            }
            None => {
                self.things.push(thing);
                u32::try_from(self.things.len() - 1).expect("fewer than four billion")
            }
        }
    }

    fn free(&mut self, number: u32) {
        self.free.push(number);
    }

    fn len(&self) -> usize {
        self.things.len() - self.free.len()
    }
}

impl<T> std::ops::Index<u32> for Slab<T> {
    type Output = T;

    fn index(&self, number: u32) -> &T {
        &self.things[number as usize]
    }
}

impl<T> std::ops::IndexMut<u32> for Slab<T> {
    fn index_mut(&mut self, number: u32) -> &mut T {
        &mut self.things[number as usize]
    }
}
