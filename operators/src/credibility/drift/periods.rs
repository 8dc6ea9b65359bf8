//! Periods of event time in drift detection: which facts are in one, when it closes, and when it is
//! corrected.
//!
//! Facts accumulate in panes of `slide`. A period is `width / slide` panes, and has the number of
//! the pane after its last one: period `e` ends at `e * slide`. Closes have numbers too: close `b`
//! is due at the first tick of `b * slide + delay`. So period `e` closes for the first time at `b =
//! e`. A fact of it that arrives later is counted at the next close. A fact that arrives more than
//! `lateness_max` after the first close is not counted: the period is final and its panes are
//! dropped.
//!
//! The reference of a key is the statistic of its first period at that period's first close. A
//! later correction of that period does not change it: all rows of a key have the same reference. A
//! statistic over something that takes time to fill, such as a window of 30 days, is not comparable
//! while it fills. With a `warm_up`, the key's first period is the first that begins that long
//! after the key's first fact, and earlier periods have no rows.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tidegate_facts::tick::MICROS_MAX;
use tidegate_facts::{Digest, Span, Tick};

use super::severity::{DriftLevel, Recurrence};
use super::{ClosedPeriod, MeasureConfig, Observation, Statistic};

/// The periods of a drift measure: their width, slide, delay and corrections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeriodConfig {
    /// The length of a period: a multiple of `slide`.
    pub width: Span,
    /// The distance between the starts of two periods.
    pub slide: Span,
    /// How long after its end a period closes, in microseconds.
    pub delay: i64,
    /// How long after its first close a period is corrected, in microseconds.
    pub lateness_max: i64,
    /// A period with fewer facts has no row.
    pub rows_min: u64,
    /// A period that begins less than this after the key's first fact has no row.
    pub warm_up: Option<Span>,
}

/// The periods of every key, for one drift statistic.
pub struct Periods<S: Statistic> {
    config: MeasureConfig,
    statistic: S,
    numbers: BTreeMap<Arc<str>, u32>,
    keys: Vec<KeyPeriods<S>>,
    /// The periods to look at, by close: key and period, possibly several times.
    due: BTreeMap<i64, Vec<(u32, i64)>>,
}

struct KeyPeriods<S: Statistic> {
    name: Arc<str>,
    panes: BTreeMap<i64, Pane<S::Pane>>,
    learned: LearnedReference<S::Reference>,
    /// The latest row of each period that is not final.
    reported: BTreeMap<i64, ReportedPeriod>,
    recurrence: Recurrence,
}

/// What a drift measure learned from a key's periods and stores for ever: its reference and the end
/// of its warm-up.
#[derive(Serialize, Deserialize)]
pub struct LearnedReference<R> {
    /// Periods that begin before this have no row, in microseconds.
    warm_from: i64,
    /// What periods are compared with, from the first one on.
    reference: Option<R>,
}

struct Pane<P> {
    facts: P,
    content: PaneContent,
    /// Whether `facts` is prepared for reading.
    is_prepared: bool,
    /// The first close that was scheduled for the newest fact. Facts before it need no new entry.
    scheduled: i64,
}

/// The number of facts, and their least and greatest ticks.
#[derive(Clone, Copy, PartialEq, Eq)]
struct PaneContent {
    rows: u64,
    first: Tick,
    last: Tick,
}

/// The latest row of a period.
struct ReportedPeriod {
    revision: u32,
    id: Digest,
    content: PaneContent,
    level: DriftLevel,
    recurrence: u32,
    /// The newest event of the period, or the one that retracted it.
    event: Option<Digest>,
    /// When the period first was an event, if it ever was.
    event_since: Option<Tick>,
}

impl PeriodConfig {
    /// The number of panes in a period.
    pub fn panes(&self) -> i64 {
        self.width.micros() / self.slide.micros()
    }

    /// At how many closes after its first a period can be corrected.
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

    /// For how long rows that are still to come need facts, in microseconds of event time.
    pub fn retention(&self) -> i64 {
        // A recurrence looks back for a day, to events of periods that looked back themselves.
        let corrected = (self.corrections() + 1).saturating_mul(self.slide.micros());
        let back = [self.width.micros(), self.delay, corrected, super::severity::RECURRENCE];
        back.into_iter().fold(0, i64::saturating_add)
    }
}

impl<S: Statistic> Periods<S> {
    /// Returns periods without facts.
    ///
    /// # Panics
    /// If the width is not a multiple of the slide.
    pub fn new(config: MeasureConfig, statistic: S) -> Periods<S> {
        let PeriodConfig { width, slide, .. } = config.periods;
        assert!(width.micros() % slide.micros() == 0, "a period is a whole number of slides");
        Periods { config, statistic, numbers: BTreeMap::new(), keys: Vec::new(), due: BTreeMap::new() }
    }

    /// Adds a fact. Everything due up to its tick must be closed.
    pub fn add(&mut self, key: &str, fact: &Observation) {
        let config = self.config.periods;
        if !(0..=MICROS_MAX).contains(&fact.time) {
            return; // No tick has this time, so no period with it ever closes.
        }
        let pane_number = fact.time.div_euclid(config.slide.micros());
        let (panes, corrections) = (config.panes(), config.corrections());
        let next = config.close_after(fact.tick);
        let last_period = pane_number + panes;
        if next > last_period + corrections {
            return; // Every period that contains the fact is final.
        }
        let key_number = self.number_of(key, fact.time);
        let due = &mut self.due;
        let pane = self.keys[key_number as usize].panes.entry(pane_number).or_insert_with(|| {
            // The pane is dropped once its last period is final, even if no other fact schedules
            // it.
            due.entry(last_period + corrections).or_default().push((key_number, last_period));
            let content = PaneContent { rows: 0, first: fact.tick, last: fact.tick };
            Pane { facts: S::Pane::default(), content, is_prepared: true, scheduled: i64::MIN }
        });
        self.statistic.add(&mut pane.facts, fact);
        pane.is_prepared = false;
        pane.content.rows += 1;
        pane.content.last = fact.tick;
        if pane.scheduled < next {
            pane.scheduled = next;
            for period in pane_number + 1..=last_period {
                if next <= period + corrections {
                    due.entry(next.max(period)).or_default().push((key_number, period));
                }
            }
        }
    }

    /// The number of a key, a new one if there is none; `time` is that of a new key's first fact.
    fn number_of(&mut self, key: &str, time: i64) -> u32 {
        if let Some(number) = self.numbers.get(key) {
            return *number;
        }
        let name: Arc<str> = key.into();
        let number = self.keys.len() as u32;
        self.numbers.insert(Arc::clone(&name), number);
        let warm_from =
            self.config.periods.warm_up.map_or(i64::MIN, |span| time.saturating_add(span.micros()));
        self.keys.push(KeyPeriods {
            name,
            panes: BTreeMap::new(),
            learned: LearnedReference { warm_from, reference: None },
            reported: BTreeMap::new(),
            recurrence: Recurrence::default(),
        });
        number
    }

    /// The learned reference of each key.
    pub fn references(&self) -> impl Iterator<Item = (&Arc<str>, &LearnedReference<S::Reference>)> {
        self.keys.iter().map(|key| (&key.name, &key.learned))
    }

    /// Sets the learned reference of a key.
    pub fn set_reference(&mut self, key: &str, learned: LearnedReference<S::Reference>) {
        let number = self.number_of(key, 0);
        self.keys[number as usize].learned = learned;
    }

    /// Closes the periods that are due before `upper`, in order.
    pub fn close_before(&mut self, upper: Tick, closed: &mut Vec<ClosedPeriod>) {
        let config = self.config.periods;
        while let Some(entry) = self.due.first_entry() {
            let close = *entry.key();
            let Some(tick) = config.tick_of(close).filter(|tick| *tick < upper) else { break };
            let mut due = entry.remove();
            due.sort_unstable();
            due.dedup();
            for (number, period) in due {
                let key = &mut self.keys[number as usize];
                closed.extend(key.close(&self.config, &self.statistic, tick, period));
                // Drop what is final at the next close.
                let first_open = close + 1 - config.corrections();
                while key.reported.first_key_value().is_some_and(|(period, _)| *period < first_open) {
                    key.reported.pop_first();
                }
                while key.panes.first_key_value().is_some_and(|(pane, _)| pane + config.panes() < first_open)
                {
                    key.panes.pop_first();
                }
            }
        }
    }
}

impl<S: Statistic> KeyPeriods<S> {
    /// The row of a period at a close; `None` if it has none, or the same as before.
    fn close(
        &mut self,
        config: &MeasureConfig,
        statistic: &S,
        tick: Tick,
        period: i64,
    ) -> Option<ClosedPeriod> {
        let periods = config.periods;
        let (from, to) =
            (period * periods.slide.micros() - periods.width.micros(), period * periods.slide.micros());
        if from < self.learned.warm_from {
            return None;
        }
        let in_period = period - periods.panes()..period;
        let content = self.prepare(statistic, in_period.clone());
        let content = content.filter(|content| content.rows >= periods.rows_min)?;
        let before = self.reported.get(&period);
        if before.is_some_and(|before| before.content == content) {
            return None; // No fact arrived since the last close.
        }
        let panes: Vec<&S::Pane> = self.panes.range(in_period).map(|(_, pane)| &pane.facts).collect();
        let reference = self.learned.reference.get_or_insert_with(|| statistic.reference(&panes));
        let measurement = statistic.measure(&panes, reference)?;
        let revision = before.map_or(1, |before| before.revision + 1);
        let id = row_id(&config.name, &self.name, from, to, revision);
        let level = config.bounds.level(measurement.value);
        let was_event = before.is_some_and(|before| before.level > DriftLevel::Green);
        let superseded = before.and_then(|before| before.event);
        let recurrence = match (was_event, level > DriftLevel::Green) {
            (_, false) => {
                self.recurrence.retract(period);
                0
            }
            (true, true) => before.map_or(0, |before| before.recurrence),
            (false, true) => self.recurrence.raise(tick.micros(), period),
        };
        let is_event = level > DriftLevel::Green;
        let event_since = before.and_then(|before| before.event_since).or(is_event.then_some(tick));
        let event = event_since.filter(|_| was_event || is_event).map(|since| {
            let episode = episode_id(&config.name, &self.name, to);
            config.kind.event(level, recurrence, since, episode, superseded)
        });
        let closed = ClosedPeriod {
            tick,
            key: Arc::clone(&self.name),
            from,
            to,
            rows: content.rows,
            first: content.first,
            last: content.last,
            measurement,
            level,
            revision,
            id,
            supersedes: before.map(|before| before.id),
            event,
        };
        let event = if closed.event.is_some() { Some(id) } else { superseded };
        let reported = ReportedPeriod { revision, id, content, level, recurrence, event, event_since };
        self.reported.insert(period, reported);
        Some(closed)
    }

    /// Prepares the panes of a period for reading, and returns their content; `None` if there are
    /// none.
    fn prepare(&mut self, statistic: &S, in_period: std::ops::Range<i64>) -> Option<PaneContent> {
        let mut content: Option<PaneContent> = None;
        for (_, pane) in self.panes.range_mut(in_period) {
            if !std::mem::replace(&mut pane.is_prepared, true) {
                statistic.prepare(&mut pane.facts);
            }
            let PaneContent { rows, first, last } = pane.content;
            content = Some(content.map_or(pane.content, |so_far| PaneContent {
                rows: so_far.rows + rows,
                first: so_far.first.min(first),
                last: so_far.last.max(last),
            }));
        }
        content
    }
}

/// The id of a revision of a drift period's row.
pub fn row_id(measure: &str, key: &str, from: i64, to: i64, revision: u32) -> Digest {
    let (from, to, revision) = (from.to_le_bytes(), to.to_le_bytes(), revision.to_le_bytes());
    Digest::of_parts("tidegate.drift.v1", &[measure.as_bytes(), key.as_bytes(), &from, &to, &revision])
}

/// The id of an episode: the events of one measure and key in periods that end on one day.
fn episode_id(measure: &str, key: &str, to: i64) -> Digest {
    let day = to.div_euclid(86_400_000_000).to_le_bytes();
    Digest::of_parts("tidegate.drift.episode.v1", &[measure.as_bytes(), key.as_bytes(), &day])
}
