//! Periods of event time: which facts are in one, when it is closed, and when it is corrected.
//!
//! Facts are kept in panes of `slide`; a period is `width / slide` panes, and has the number of the pane after its last one. Period
//! `e` ends at `e * slide`. Closes have numbers too: close `b` is due at the first tick of `b * slide + delay`. So period `e` is first
//! closed at `b = e`; a fact for it that comes later is counted at the next close, and what is later than `lateness_max` after its
//! first close is not, since it is final then and its panes are dropped.
//!
//! The reference of a key is what the first of its periods had when that was closed for the first time. A later correction of that
//! period does not move it: all rows of a key are held against the same. What takes time to fill, such as a window of 30 days, is like
//! nothing that comes later while it fills: where a measure `settles`, a key's first period is the first that begins so
//! long after its first fact, and there are no rows of those before.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tidegate_facts::tick::MICROS_MAX;
use tidegate_facts::{Digest, Span, Tick};

use super::severity::{Level, Recurrence};
use super::{Closed, Fact, Settings, Statistic};

/// Which periods there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// How long a period is: a multiple of `slide`.
    pub width: Span,
    /// How far the beginnings of two periods are apart.
    pub slide: Span,
    /// How long after its end a period is closed, in microseconds.
    pub delay: i64,
    /// How long after that it is corrected, in microseconds.
    pub lateness_max: i64,
    /// A period with fewer facts has no row.
    pub rows_min: u64,
    /// A period that begins less than this after the key's first fact has no row, in microseconds.
    pub settles: Option<Span>,
}

/// The periods of every key.
pub struct Periods<S: Statistic> {
    settings: Settings,
    statistic: S,
    places: BTreeMap<Arc<str>, u32>,
    keys: Vec<Key<S>>,
    /// What is to be looked at, by close: key and period, perhaps several times.
    due: BTreeMap<i64, Vec<(u32, i64)>>,
}

struct Key<S: Statistic> {
    name: Arc<str>,
    panes: BTreeMap<i64, Pane<S::Pane>>,
    learned: Learned<S::Reference>,
    /// The latest row of each period that is not final.
    said: BTreeMap<i64, Said>,
    recurrence: Recurrence,
}

/// What is known of a key for good.
#[derive(Serialize, Deserialize)]
pub struct Learned<R> {
    /// Periods that begin before this have no row.
    settled: i64,
    /// What the others are held against, from the first of them on.
    reference: Option<R>,
}

struct Pane<P> {
    facts: P,
    content: Content,
    /// Whether it is in the form in which it is read.
    is_settled: bool,
    /// The first close that was put down for its newest fact: others before it need no new entry.
    noted: i64,
}

/// How many facts, and the ticks of the first and the last.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Content {
    rows: u64,
    first: Tick,
    last: Tick,
}

/// What was said of a period.
struct Said {
    revision: u32,
    id: Digest,
    content: Content,
    level: Level,
    recurrence: u32,
    /// The newest event of the period, or the one that took it back.
    event: Option<Digest>,
    /// When the period was first an event, if it ever was.
    event_since: Option<Tick>,
}

impl Shape {
    /// How many panes a period has.
    pub fn panes(&self) -> i64 {
        self.width.micros() / self.slide.micros()
    }

    /// How many closes after its first a period can be corrected at.
    fn corrections(&self) -> i64 {
        (self.lateness_max + self.slide.micros() - 1) / self.slide.micros()
    }

    /// The first close that is due after `tick`.
    fn close_after(&self, tick: Tick) -> i64 {
        (tick.micros() - self.delay).div_euclid(self.slide.micros()) + 1
    }

    /// The tick of a close; `None` beyond the last tick.
    fn tick_of(&self, close: i64) -> Option<Tick> {
        Tick::new(close.checked_mul(self.slide.micros())?.checked_add(self.delay)?, 0)
    }

    /// For how long facts are needed, in microseconds of event time, by rows that are still to come.
    pub fn retention(&self) -> i64 {
        // A recurrence looks back for a day, to events of periods that looked back themselves.
        let corrected = (self.corrections() + 1).saturating_mul(self.slide.micros());
        let back = [self.width.micros(), self.delay, corrected, super::severity::RECURRENCE];
        back.into_iter().fold(0, i64::saturating_add)
    }
}

impl<S: Statistic> Periods<S> {
    /// No key has a fact yet.
    ///
    /// # Panics
    /// When the width is no multiple of the slide.
    pub fn new(settings: Settings, statistic: S) -> Periods<S> {
        let Shape { width, slide, .. } = settings.periods;
        assert!(width.micros() % slide.micros() == 0, "a period is a whole number of slides");
        Periods { settings, statistic, places: BTreeMap::new(), keys: Vec::new(), due: BTreeMap::new() }
    }

    /// Hears a fact; what is due up to its tick was closed.
    pub fn hear(&mut self, key: &str, fact: &Fact) {
        let shape = self.settings.periods;
        if !(0..=MICROS_MAX).contains(&fact.time) {
            return; // No tick is ever there, so no period of it is closed.
        }
        let number = fact.time.div_euclid(shape.slide.micros());
        let (panes, corrections) = (shape.panes(), shape.corrections());
        let next = shape.close_after(fact.tick);
        let last_period = number + panes;
        if next > last_period + corrections {
            return; // Every period that it is in is final.
        }
        let place = self.place(key, fact.time);
        let due = &mut self.due;
        let pane = self.keys[place as usize].panes.entry(number).or_insert_with(|| {
            // When its last period is final it goes, whatever came meanwhile.
            due.entry(last_period + corrections).or_default().push((place, last_period));
            let content = Content { rows: 0, first: fact.tick, last: fact.tick };
            Pane { facts: S::Pane::default(), content, is_settled: true, noted: i64::MIN }
        });
        self.statistic.hear(&mut pane.facts, fact);
        pane.is_settled = false;
        pane.content.rows += 1;
        pane.content.last = fact.tick;
        if pane.noted < next {
            pane.noted = next;
            for period in number + 1..=last_period {
                if next <= period + corrections {
                    due.entry(next.max(period)).or_default().push((place, period));
                }
            }
        }
    }

    /// The place of a key, whose first fact is of `time` if it has none yet.
    fn place(&mut self, key: &str, time: i64) -> u32 {
        if let Some(place) = self.places.get(key) {
            return *place;
        }
        let name: Arc<str> = key.into();
        let place = self.keys.len() as u32;
        self.places.insert(Arc::clone(&name), place);
        let settled =
            self.settings.periods.settles.map_or(i64::MIN, |span| time.saturating_add(span.micros()));
        self.keys.push(Key {
            name,
            panes: BTreeMap::new(),
            learned: Learned { settled, reference: None },
            said: BTreeMap::new(),
            recurrence: Recurrence::default(),
        });
        place
    }

    /// What is known of each key for good.
    pub fn learned(&self) -> impl Iterator<Item = (&Arc<str>, &Learned<S::Reference>)> {
        self.keys.iter().map(|key| (&key.name, &key.learned))
    }

    /// What is known of a key for good.
    pub fn set_learned(&mut self, key: &str, learned: Learned<S::Reference>) {
        let place = self.place(key, 0);
        self.keys[place as usize].learned = learned;
    }

    /// Closes what is due before `upper`, in order.
    pub fn close_before(&mut self, upper: Tick, closed: &mut Vec<Closed>) {
        let shape = self.settings.periods;
        while let Some(entry) = self.due.first_entry() {
            let close = *entry.key();
            let Some(tick) = shape.tick_of(close).filter(|tick| *tick < upper) else { break };
            let mut due = entry.remove();
            due.sort_unstable();
            due.dedup();
            for (place, period) in due {
                let key = &mut self.keys[place as usize];
                closed.extend(key.close(&self.settings, &self.statistic, tick, period));
                // What is final at the next close.
                let first_kept = close + 1 - shape.corrections();
                while key.said.first_key_value().is_some_and(|(period, _)| *period < first_kept) {
                    key.said.pop_first();
                }
                while key.panes.first_key_value().is_some_and(|(pane, _)| pane + shape.panes() < first_kept) {
                    key.panes.pop_first();
                }
            }
        }
    }
}

impl<S: Statistic> Key<S> {
    /// The row of a period, if there is a new one.
    fn close(&mut self, settings: &Settings, statistic: &S, tick: Tick, period: i64) -> Option<Closed> {
        let shape = settings.periods;
        let (from, to) =
            (period * shape.slide.micros() - shape.width.micros(), period * shape.slide.micros());
        if from < self.learned.settled {
            return None;
        }
        let in_period = period - shape.panes()..period;
        let mut content: Option<Content> = None;
        for (_, pane) in self.panes.range_mut(in_period.clone()) {
            if !std::mem::replace(&mut pane.is_settled, true) {
                statistic.settle(&mut pane.facts);
            }
            let Content { rows, first, last } = pane.content;
            content = Some(content.map_or(pane.content, |so_far| Content {
                rows: so_far.rows + rows,
                first: so_far.first.min(first),
                last: so_far.last.max(last),
            }));
        }
        let content = content.filter(|content| content.rows >= shape.rows_min)?;
        let before = self.said.get(&period);
        if before.is_some_and(|said| said.content == content) {
            return None; // Nothing has come since.
        }
        let panes: Vec<&S::Pane> = self.panes.range(in_period).map(|(_, pane)| &pane.facts).collect();
        let reference = self.learned.reference.get_or_insert_with(|| statistic.learn(&panes));
        let measured = statistic.measure(&panes, reference)?;
        let revision = before.map_or(1, |said| said.revision + 1);
        let id = row_id(&settings.name, &self.name, from, to, revision);
        let level = settings.bounds.level(measured.value);
        let was_event = before.is_some_and(|said| said.level > Level::Green);
        let superseded = before.and_then(|said| said.event);
        let recurrence = match (was_event, level > Level::Green) {
            (_, false) => {
                self.recurrence.take_back(period);
                0
            }
            (true, true) => before.map_or(0, |said| said.recurrence),
            (false, true) => self.recurrence.raise(tick.micros(), period),
        };
        let event_since = before.and_then(|said| said.event_since).or((level > Level::Green).then_some(tick));
        let event = event_since.filter(|_| was_event || level > Level::Green).map(|since| {
            let episode = episode_id(&settings.name, &self.name, to);
            settings.kind.event(level, recurrence, since, episode, superseded)
        });
        let closed = Closed {
            tick,
            key: Arc::clone(&self.name),
            from,
            to,
            rows: content.rows,
            first: content.first,
            last: content.last,
            measured,
            level,
            revision,
            id,
            supersedes: before.map(|said| said.id),
            event,
        };
        let event = if closed.event.is_some() { Some(id) } else { superseded };
        self.said.insert(period, Said { revision, id, content, level, recurrence, event, event_since });
        Some(closed)
    }
}

/// The id of a row.
pub fn row_id(measure: &str, key: &str, from: i64, to: i64, revision: u32) -> Digest {
    let (from, to, revision) = (from.to_le_bytes(), to.to_le_bytes(), revision.to_le_bytes());
    Digest::of_parts("tidegate.drift.v1", &[measure.as_bytes(), key.as_bytes(), &from, &to, &revision])
}

/// The events of one measure and key in periods that end on one day are one episode.
fn episode_id(measure: &str, key: &str, to: i64) -> Digest {
    let day = to.div_euclid(86_400_000_000).to_le_bytes();
    Digest::of_parts("tidegate.drift.episode.v1", &[measure.as_bytes(), key.as_bytes(), &day])
}
