//! Entity graph: the identifiers that facts name, the links between them, and the components that
//! these form.
//!
//! A row names identifiers and links them with each other; such a row is a sighting of both. An
//! identifier or link expires one time to live after its last sighting, by event time. A row whose
//! event time is already older than that is no sighting. The graph changes as follows:
//!
//! * An identifier exists from the tick of its first sighting. A link exists from the tick of its
//!   first sighting, or of the first after it ended.
//! * A link ends at the tick at which it expires, before the facts of that tick, or at the tick of
//!   a row that unlinks its ends.
//! * A link connects its ends if neither has more links than its kind allows. Two components merge
//!   at the tick of a row with a link that connects them.
//! * At a boundary, expired identifiers are removed, and components become exactly those that the
//!   links form at that tick: a component that lost a link may split, and an identifier that no
//!   longer has too many links connects again.
//!
//! A sighting of an identifier is emitted once a day, for the first of the day, so that a busy
//! identifier emits no more than others.
//!
//! A component is named after its oldest identifier. When two merge, the members of the smaller
//! move to the larger, so each identifier moves a logarithmic number of times. At a boundary only
//! the components that lost something are traversed.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidegate_facts::{KeyHash, Span, Tick};

use super::expiry_queue::DueQueue;
use super::index::PairIndex;
use crate::core::keys::NULL_KEY;

/// The configuration of an entity graph: the kinds of identifiers, the time to live, and the
/// requested changes.
#[derive(Clone, Debug)]
pub struct EntityGraphConfig {
    /// The kinds of identifiers.
    pub kinds: Vec<EntityKind>,
    /// How long after its last sighting, in event time, an identifier or a link exists; `None`
    /// means for ever.
    pub ttl: Option<Span>,
    /// Which changes the graph records.
    pub requested: RequestedChanges,
}

/// A kind of identifiers in an entity graph, such as `card`.
#[derive(Clone, Debug)]
pub struct EntityKind {
    /// The name of the kind.
    pub name: String,
    /// The greatest number of links of an identifier that connects others.
    pub degree_max: u32,
}

/// Which changes an entity graph records: those that some node reads.
#[derive(Clone, Copy, Debug, Default)]
pub struct RequestedChanges {
    /// Whether to record [`GraphChanges::entities`].
    pub entities: bool,
    /// Whether to record [`GraphChanges::links`].
    pub links: bool,
    /// Whether to record [`GraphChanges::components`].
    pub components: bool,
    /// Whether to record [`GraphChanges::sightings`].
    pub sightings: bool,
}

/// The identifier columns of an entity graph's rows: the kind of each, and which of them a row
/// links.
#[derive(Clone, Debug)]
pub struct IdentifierColumns {
    /// The kind of each column, as an index into [`EntityGraphConfig::kinds`].
    pub kinds: Vec<usize>,
    /// The pairs of columns whose identifiers a row links.
    pub links: Vec<(usize, usize)>,
}

/// A row that names identifiers of an entity graph, and links or unlinks them.
#[derive(Clone, Copy, Debug)]
pub struct Sighting<'a> {
    /// The tick of the fact.
    pub tick: Tick,
    /// The event time in microseconds.
    pub time: i64,
    /// The identifier in each of the [`IdentifierColumns`]; [`NULL_KEY`] for none.
    pub keys: &'a [KeyHash],
    /// Whether the row ends the links that it names; else it is a sighting of them.
    pub unlinks: bool,
}

/// A row that states to an entity graph whether a subject was positive, such as a confirmed fraud.
#[derive(Clone, Copy, Debug)]
pub struct Confirmation {
    /// The tick of the fact.
    pub tick: Tick,
    /// When it was found out, in microseconds of event time.
    pub time: i64,
    /// The subject. A later row about the same subject replaces this one.
    pub subject: KeyHash,
    /// The kind of the identifier, as an index into [`EntityGraphConfig::kinds`].
    pub kind: usize,
    /// The identifier at which a positive subject counts.
    pub key: KeyHash,
    /// Whether the subject was positive.
    pub is_positive: bool,
}

/// A component of the entity graph: its name, its size and its positives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Component {
    /// The label of its oldest identifier, as `kind:identifier`.
    pub name: Arc<str>,
    /// The number of its identifiers.
    pub size: u64,
    /// The number of positives that count at its identifiers.
    pub positives: u64,
}

/// The link counts of one identifier in an entity graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkCounts<'a> {
    /// The number of its links with identifiers of each kind.
    pub degrees: &'a [u32],
    /// The number of its links with identifiers that the row does not name.
    pub others: u32,
}

/// The recorded changes of an entity graph, in the order in which they happened. A diff of -1
/// retracts a row, a diff of +1 adds one.
#[derive(Clone, Debug, Default)]
pub struct GraphChanges {
    /// Changes of identifiers and of their components.
    pub entities: Vec<EntityChange>,
    /// Changes of links.
    pub links: Vec<LinkChange>,
    /// Changes of components.
    pub components: Vec<ComponentChange>,
    /// The first sightings of identifiers per day; these are never retracted.
    pub sightings: Vec<DailySighting>,
}

impl GraphChanges {
    /// Whether there are no changes of the entity graph.
    pub fn is_empty(&self) -> bool {
        let GraphChanges { entities, links, components, sightings } = self;
        entities.is_empty() && links.is_empty() && components.is_empty() && sightings.is_empty()
    }
}

/// A change of an identifier in an entity graph: it appears, disappears, or moves to another
/// component.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EntityChange {
    /// The tick of the change.
    pub tick: Tick,
    /// The identifier.
    pub entity: EntityName,
    /// The name of its component.
    pub component: Arc<str>,
    /// The tick since which the identifier exists.
    pub first: Tick,
    /// +1 or -1.
    pub diff: i64,
}

/// A change of a link in an entity graph: it appears or ends.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LinkChange {
    /// The tick of the change.
    pub tick: Tick,
    /// Its ends, the lesser first.
    pub ends: [EntityName; 2],
    /// The tick since which the link exists.
    pub first: Tick,
    /// +1 or -1.
    pub diff: i64,
}

/// A change of a component of an entity graph: it appears, disappears, or has another size or other
/// positives.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ComponentChange {
    /// The tick of the change.
    pub tick: Tick,
    /// The name of the component.
    pub component: Arc<str>,
    /// The number of its identifiers.
    pub size: u64,
    /// The number of positives that count at its identifiers.
    pub positives: u64,
    /// +1 or -1.
    pub diff: i64,
}

/// The first sighting of an identifier in an entity graph on a day (UTC, of its tick), or since the
/// identifier exists.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DailySighting {
    /// The tick of the sighting.
    pub tick: Tick,
    /// The identifier.
    pub entity: EntityName,
}

/// The kind and the label of an identifier in an entity graph.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EntityName {
    /// The kind, as an index into [`EntityGraphConfig::kinds`].
    pub kind: usize,
    /// The kind's name and the identifier, as `kind:identifier`.
    pub label: Arc<str>,
}

/// The entity graph of one node.
#[derive(Debug)]
pub struct EntityGraph {
    config: EntityGraphConfig,
    numbers: BTreeMap<(usize, KeyHash), u32>,
    identifiers: Slab<Identifier>,
    /// For each identifier the number of its links with each kind.
    degrees: Vec<u32>,
    pairs: PairIndex,
    links: Slab<Link>,
    components: Slab<Members>,
    /// The identifier at which each positive subject counts.
    positives: BTreeMap<KeyHash, u32>,
    due_links: DueQueue,
    due_identifiers: DueQueue,
    /// How many identifiers were ever inserted.
    births: u64,
    /// The components that lost something since the last boundary.
    torn: Vec<u32>,
    /// The identifiers whose number of links crossed the limit of their kind since the last
    /// boundary.
    crossed: Vec<u32>,
    /// The number of the current traversal, or of the last one.
    walk: u32,
    /// The identifier in each column of the last row.
    named: Vec<Option<u32>>,
    /// The links between the identifiers of the last row.
    own_links: Vec<(u32, u32)>,
    entity_changes: Vec<(u32, u32, i64)>,
    component_changes: Vec<(u32, u64, u64, i64)>,
    changes: GraphChanges,
}

#[derive(Debug)]
struct Identifier {
    name: EntityName,
    key: KeyHash,
    first: Tick,
    /// The day of the last sighting; `None` before the first.
    day: Option<i64>,
    /// Its rank in the order of insertion.
    birth: u64,
    expires: Tick,
    component: u32,
    /// The last traversal that reached it.
    walk: u32,
    is_expired: bool,
    /// The other end and the number of each link.
    links: Vec<(u32, u32)>,
    positives: Vec<KeyHash>,
}

#[derive(Debug)]
struct Link {
    ends: [u32; 2],
    /// The position of the link among the links of each end.
    positions: [u32; 2],
    first: Tick,
    expires: Tick,
    /// The tick of its entry in the queue. An entry with another tick is of an earlier link.
    due: Tick,
}

/// The members of a component.
#[derive(Debug, Default)]
struct Members {
    oldest: u32,
    positives: u64,
    list: Vec<u32>,
    is_torn: bool,
}

/// The expiry of what never expires, and the due tick of what has no entry in the queue.
const NEVER: Tick = Tick::MAX;

/// A day, in microseconds.
const DAY_MICROS: i64 = 86_400_000_000;

impl EntityGraph {
    /// Returns an empty entity graph.
    pub fn new(config: EntityGraphConfig) -> EntityGraph {
        EntityGraph {
            config,
            numbers: BTreeMap::new(),
            identifiers: Slab::default(),
            degrees: Vec::new(),
            pairs: PairIndex::default(),
            links: Slab::default(),
            components: Slab::default(),
            positives: BTreeMap::new(),
            due_links: DueQueue::default(),
            due_identifiers: DueQueue::default(),
            births: 0,
            torn: Vec::new(),
            crossed: Vec::new(),
            walk: 0,
            named: Vec::new(),
            own_links: Vec::new(),
            entity_changes: Vec::new(),
            component_changes: Vec::new(),
            changes: GraphChanges::default(),
        }
    }

    /// Ends the links that expire before `upper`. Rows that follow have no tick before `upper` less
    /// one.
    pub fn advance_to(&mut self, upper: Tick) {
        while let Some((tick, number)) = self.due_links.pop_before(upper) {
            let link = &mut self.links[number];
            if link.due != tick {
                continue; // The entry is of an earlier link of the same number.
            }
            if link.expires > tick {
                link.due = link.expires;
                self.due_links.insert(link.expires, number);
            } else {
                self.remove_link(number, tick);
            }
        }
    }

    /// Applies a row to the entity graph. `text_of` gives the text of the identifier in a column,
    /// and is called for new identifiers only.
    pub fn apply(
        &mut self,
        columns: &IdentifierColumns,
        row: Sighting<'_>,
        text_of: impl Fn(usize) -> String,
    ) {
        let expires = self.expires(row.tick, row.time);
        let is_sighting = expires > row.tick && !row.unlinks;
        self.named.clear();
        for (column, (kind, key)) in columns.kinds.iter().zip(row.keys).enumerate() {
            let number = if *key == NULL_KEY {
                None
            } else if is_sighting {
                Some(self.sight(*kind, *key, row.tick, expires, || text_of(column)))
            } else {
                self.numbers.get(&(*kind, *key)).copied()
            };
            self.named.push(number);
        }
        self.own_links.clear();
        for (one, other) in &columns.links {
            let (Some(one), Some(other)) = (self.named[*one], self.named[*other]) else { continue };
            let pair = (one.min(other), one.max(other));
            if one == other || self.own_links.contains(&pair) {
                continue;
            }
            match self.pairs.get(pair) {
                Some(link) if row.unlinks => {
                    self.remove_link(link, row.tick);
                    continue;
                }
                existing if is_sighting => self.sight_link(pair, existing, row.tick, expires),
                Some(_) => {}
                None => continue,
            }
            self.own_links.push(pair);
        }
        if is_sighting {
            for index in 0..self.own_links.len() {
                let (one, other) = self.own_links[index];
                if !self.exceeds_degree_max(one) && !self.exceeds_degree_max(other) {
                    self.merge(one, other);
                }
            }
        }
        self.flush_changes(row.tick);
    }

    /// The component of the first identifier of the last row that the graph has, as of the row's
    /// tick and with the row itself.
    pub fn component(&self) -> Option<Component> {
        let number = self.named.iter().flatten().next()?;
        let members = &self.components[self.identifiers[*number].component];
        Some(Component {
            name: Arc::clone(&self.identifiers[members.oldest].name.label),
            size: members.list.len() as u64,
            positives: members.positives,
        })
    }

    /// The link counts of the identifier in a column of the last row.
    ///
    /// `None` if the graph does not have the identifier, or if an earlier column names the same
    /// one.
    pub fn link_counts(&self, column: usize) -> Option<LinkCounts<'_>> {
        let number = self.named[column].filter(|number| !self.named[..column].contains(&Some(*number)))?;
        let own = self.own_links.iter().filter(|pair| pair.0 == number || pair.1 == number).count();
        let others = (self.identifiers[number].links.len() - own) as u32;
        Some(LinkCounts { degrees: self.degrees_of(number), others })
    }

    /// Applies a confirmation. A positive one is a sighting of its identifier.
    pub fn apply_confirmation(&mut self, row: Confirmation, text_of: impl Fn() -> String) {
        let existing = self.positives.get(&row.subject).copied();
        let expires = self.expires(row.tick, row.time);
        let number = match row.is_positive {
            true if expires <= row.tick || row.key == NULL_KEY || row.subject == NULL_KEY => return,
            true => Some(self.sight(row.kind, row.key, row.tick, expires, text_of)),
            false => None,
        };
        if number == existing {
            return;
        }
        if let Some(existing) = existing {
            self.positives.remove(&row.subject);
            self.identifiers[existing].positives.retain(|subject| *subject != row.subject);
            self.count_positive(existing, -1);
        }
        if let Some(number) = number {
            self.positives.insert(row.subject, number);
            self.identifiers[number].positives.push(row.subject);
            self.count_positive(number, 1);
        }
        self.flush_changes(row.tick);
    }

    /// Removes expired identifiers, and makes components exactly those that the links form. The
    /// graph has advanced past `tick`.
    pub fn rebuild_at_boundary(&mut self, tick: Tick) {
        let expired = self.expire_identifiers(tick);
        for torn in std::mem::take(&mut self.torn) {
            self.rebuild_component(torn);
        }
        for crossed in std::mem::take(&mut self.crossed) {
            if self.identifiers[crossed].is_expired || self.exceeds_degree_max(crossed) {
                continue;
            }
            for index in 0..self.identifiers[crossed].links.len() {
                let (other, _) = self.identifiers[crossed].links[index];
                if !self.exceeds_degree_max(other) {
                    self.merge(crossed, other);
                }
            }
        }
        self.flush_changes(tick);
        for number in expired {
            let identifier = &mut self.identifiers[number];
            assert!(identifier.links.is_empty(), "an identifier expires no earlier than its links");
            let (kind, key) = (identifier.name.kind, identifier.key);
            self.numbers.remove(&(kind, key));
            for subject in std::mem::take(&mut identifier.positives) {
                self.positives.remove(&subject);
            }
            self.identifiers.free(number);
        }
    }

    /// Takes the changes of the entity graph since the last call.
    pub fn take_changes(&mut self) -> GraphChanges {
        std::mem::take(&mut self.changes)
    }

    /// The numbers of identifiers and of links in the entity graph.
    pub fn counts(&self) -> (usize, usize) {
        (self.identifiers.len(), self.links.len())
    }

    /// The kinds of identifiers in the entity graph.
    pub fn kinds(&self) -> &[EntityKind] {
        &self.config.kinds
    }

    /// When an identifier or link expires that a row sights.
    fn expires(&self, tick: Tick, time: i64) -> Tick {
        let Some(ttl) = self.config.ttl else { return NEVER };
        let micros = time.saturating_add(ttl.micros());
        // A time that no tick has is before all ticks or after them.
        Tick::new(micros, tick.partition()).unwrap_or(if micros < 0 { Tick::ZERO } else { NEVER })
    }

    /// Records a sighting of an identifier, inserts it if it is new, and returns its number.
    fn sight(
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
                let label = format!("{}:{}", self.config.kinds[kind].name, text()).into();
                self.insert_identifier(EntityName { kind, label }, key, tick, expires)
            }
        };
        let identifier = &mut self.identifiers[number];
        identifier.expires = identifier.expires.max(expires);
        if self.config.requested.sightings {
            let day = Some(tick.micros() / DAY_MICROS);
            if identifier.day != day {
                identifier.day = day;
                self.changes.sightings.push(DailySighting { tick, entity: identifier.name.clone() });
            }
        }
        number
    }

    /// Inserts a new identifier as a component of its own, and returns its number.
    fn insert_identifier(&mut self, name: EntityName, key: KeyHash, tick: Tick, expires: Tick) -> u32 {
        let kind = name.kind;
        let component = self.components.insert(Members::default());
        self.births += 1;
        let number = self.identifiers.insert(Identifier {
            name,
            key,
            first: tick,
            day: None,
            birth: self.births,
            expires,
            component,
            walk: self.walk,
            is_expired: false,
            links: Vec::new(),
            positives: Vec::new(),
        });
        self.components[component] =
            Members { oldest: number, positives: 0, list: vec![number], is_torn: false };
        let end = (number as usize + 1) * self.config.kinds.len();
        if self.degrees.len() < end {
            self.degrees.resize(end, 0);
        }
        self.numbers.insert((kind, key), number);
        if expires < NEVER {
            self.due_identifiers.insert(expires, number);
        }
        self.emit_entity(number, number, 1);
        self.emit_component(component, 1);
        number
    }

    /// Records a sighting of a link; `existing` is its number if the graph has it.
    fn sight_link(&mut self, pair: (u32, u32), existing: Option<u32>, tick: Tick, expires: Tick) {
        let ends = [pair.0, pair.1];
        if let Some(existing) = existing {
            let link = &mut self.links[existing];
            link.expires = link.expires.max(expires);
        } else {
            let positions = ends.map(|end| self.identifiers[end].links.len() as u32);
            let number = self.links.insert(Link { ends, positions, first: tick, expires, due: expires });
            self.pairs.insert(pair, number);
            if expires < NEVER {
                self.due_links.insert(expires, number);
            }
            for (end, other) in [(ends[0], ends[1]), (ends[1], ends[0])] {
                self.identifiers[end].links.push((other, number));
                self.count_link(end, other, 1);
                if self.identifiers[end].links.len() as u64 == u64::from(self.degree_max(end)) + 1 {
                    self.crossed.push(end);
                    self.mark_torn(end);
                }
            }
            self.emit_link(number, tick, 1);
        }
    }

    /// Removes a link.
    fn remove_link(&mut self, number: u32, tick: Tick) {
        self.emit_link(number, tick, -1);
        let Link { ends, positions, .. } = self.links[number];
        self.links[number].due = NEVER;
        self.links.free(number);
        self.pairs.remove((ends[0], ends[1]));
        for (side, (end, other)) in [(ends[0], ends[1]), (ends[1], ends[0])].into_iter().enumerate() {
            let identifier = &mut self.identifiers[end];
            let position = positions[side] as usize;
            identifier.links.swap_remove(position);
            let left = identifier.links.len() as u32;
            if let Some((_, moved)) = identifier.links.get(position) {
                let moved = &mut self.links[*moved];
                let side = usize::from(moved.ends[1] == end);
                moved.positions[side] = position as u32;
            }
            self.count_link(end, other, -1);
            if left == self.degree_max(end) {
                self.crossed.push(end);
            }
        }
        if self.identifiers[ends[0]].component == self.identifiers[ends[1]].component {
            self.mark_torn(ends[0]);
        }
    }

    fn degree_max(&self, number: u32) -> u32 {
        self.config.kinds[self.identifiers[number].name.kind].degree_max
    }

    fn exceeds_degree_max(&self, number: u32) -> bool {
        self.identifiers[number].links.len() as u64 > u64::from(self.degree_max(number))
    }

    fn degrees_of(&self, number: u32) -> &[u32] {
        let kinds = self.config.kinds.len();
        &self.degrees[number as usize * kinds..][..kinds]
    }

    fn count_link(&mut self, end: u32, other: u32, diff: i32) {
        let kind = self.identifiers[other].name.kind;
        let degree = &mut self.degrees[end as usize * self.config.kinds.len() + kind];
        *degree = degree.checked_add_signed(diff).expect("no fewer than none");
    }

    fn count_positive(&mut self, number: u32, diff: i64) {
        let component = self.identifiers[number].component;
        self.emit_component(component, -1);
        let positives = &mut self.components[component].positives;
        *positives = positives.checked_add_signed(diff).expect("no fewer than none");
        self.emit_component(component, 1);
    }

    /// Marks the component of an identifier for a rebuild at the next boundary.
    fn mark_torn(&mut self, number: u32) {
        let component = self.identifiers[number].component;
        let members = &mut self.components[component];
        if !std::mem::replace(&mut members.is_torn, true) {
            self.torn.push(component);
        }
    }

    /// Merges the components of two identifiers.
    fn merge(&mut self, one: u32, other: u32) {
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
        self.emit_renamed(younger, name);
        self.emit_component(one, -1);
        self.emit_component(other, -1);
        let is_larger = self.components[one].list.len() >= self.components[other].list.len();
        let (large, small) = if is_larger { (one, other) } else { (other, one) };
        let merged = std::mem::take(&mut self.components[small]);
        for number in &merged.list {
            self.identifiers[*number].component = large;
        }
        if merged.is_torn {
            self.mark_torn(merged.list[0]);
        }
        self.components.free(small);
        let members = &mut self.components[large];
        members.list.extend(merged.list);
        members.positives += merged.positives;
        members.oldest = name;
        self.emit_component(large, 1);
    }

    /// Emits the members of a component under the new name.
    fn emit_renamed(&mut self, component: u32, name: u32) {
        if self.config.requested.entities {
            let members = &self.components[component];
            let renamed = members.list.iter().flat_map(|m| [(*m, members.oldest, -1), (*m, name, 1)]);
            self.entity_changes.extend(renamed);
        }
    }

    /// Marks the identifiers that have expired by `tick`, and their components, and returns them.
    fn expire_identifiers(&mut self, tick: Tick) -> Vec<u32> {
        let mut expired = Vec::new();
        while let Some((_, number)) = self.due_identifiers.pop_before(tick.next()) {
            let identifier = &mut self.identifiers[number];
            if identifier.expires > tick {
                if identifier.expires < NEVER {
                    self.due_identifiers.insert(identifier.expires, number);
                }
                continue;
            }
            identifier.is_expired = true;
            expired.push(number);
            self.mark_torn(number);
        }
        expired
    }

    /// Splits a component that lost something into the components that its links form.
    fn rebuild_component(&mut self, component: u32) {
        if !self.components[component].is_torn {
            return; // It was merged into another, and its number may be another component's now.
        }
        self.emit_component(component, -1);
        let before = std::mem::take(&mut self.components[component]);
        self.walk += 1;
        let mut number = Some(component);
        for first in &before.list {
            if self.identifiers[*first].is_expired {
                self.emit_entity(*first, before.oldest, -1);
                continue;
            }
            if self.identifiers[*first].walk == self.walk {
                continue;
            }
            let part = self.connected_part(*first, component);
            if part.oldest != before.oldest {
                for member in &part.list {
                    self.emit_entity(*member, before.oldest, -1);
                    self.emit_entity(*member, part.oldest, 1);
                }
            }
            let number = number.take().unwrap_or_else(|| self.components.insert(Members::default()));
            for member in &part.list {
                self.identifiers[*member].component = number;
            }
            self.components[number] = part;
            self.emit_component(number, 1);
        }
        if let Some(number) = number {
            self.components.free(number);
        }
    }

    /// The members of a component that links connect with one of them.
    fn connected_part(&mut self, first: u32, component: u32) -> Members {
        let mut part = Members { oldest: first, positives: 0, list: vec![first], is_torn: false };
        self.identifiers[first].walk = self.walk;
        let mut next = 0;
        while let Some(number) = part.list.get(next).copied() {
            next += 1;
            let identifier = &self.identifiers[number];
            part.positives += identifier.positives.len() as u64;
            if identifier.birth < self.identifiers[part.oldest].birth {
                part.oldest = number;
            }
            if self.exceeds_degree_max(number) {
                continue;
            }
            for index in 0..self.identifiers[number].links.len() {
                let (other, _) = self.identifiers[number].links[index];
                let end = &self.identifiers[other];
                if end.walk != self.walk && end.component == component && !self.exceeds_degree_max(other) {
                    self.identifiers[other].walk = self.walk;
                    part.list.push(other);
                }
            }
        }
        part
    }

    fn emit_entity(&mut self, number: u32, component: u32, diff: i64) {
        if self.config.requested.entities {
            self.entity_changes.push((number, component, diff));
        }
    }

    fn emit_component(&mut self, component: u32, diff: i64) {
        if self.config.requested.components {
            let Members { oldest, positives, list, .. } = &self.components[component];
            self.component_changes.push((*oldest, list.len() as u64, *positives, diff));
        }
    }

    fn emit_link(&mut self, number: u32, tick: Tick, diff: i64) {
        if self.config.requested.links {
            let Link { ends, first, .. } = self.links[number];
            let mut ends = ends.map(|end| self.identifiers[end].name.clone());
            ends.sort_unstable();
            self.changes.links.push(LinkChange { tick, ends, first, diff });
        }
    }

    /// Records the net changes of a tick.
    fn flush_changes(&mut self, tick: Tick) {
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
                let (component, size, positives) = (label(same[0].0), same[0].1, same[0].2);
                self.changes.components.push(ComponentChange { tick, component, size, positives, diff });
            }
        }
        self.entity_changes.clear();
        self.component_changes.clear();
    }
}

/// Items by number. The numbers of removed items are reused.
#[derive(Debug)]
struct Slab<T> {
    items: Vec<T>,
    free: Vec<u32>,
}

impl<T> Default for Slab<T> {
    fn default() -> Slab<T> {
        Slab { items: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slab<T> {
    fn insert(&mut self, item: T) -> u32 {
        match self.free.pop() {
            Some(number) => {
                self.items[number as usize] = item;
                number
            }
            None => {
                self.items.push(item);
                u32::try_from(self.items.len() - 1).expect("fewer than four billion")
            }
        }
    }

    fn free(&mut self, number: u32) {
        self.free.push(number);
    }

    fn len(&self) -> usize {
        self.items.len() - self.free.len()
    }
}

impl<T> std::ops::Index<u32> for Slab<T> {
    type Output = T;

    fn index(&self, number: u32) -> &T {
        &self.items[number as usize]
    }
}

impl<T> std::ops::IndexMut<u32> for Slab<T> {
    fn index_mut(&mut self, number: u32) -> &mut T {
        &mut self.items[number as usize]
    }
}
