//! The credibility index: how far what is believed can be relied on, as one number from 48 to 100, with its five terms.
//!
//! `100 - drift - correlation - quorum - ttl - sync`, each a whole number with a cap:
//!
//! | term | of | cap |
//! |---|---|---|
//! | drift | the newest events: critical 6, high 2, medium 0.3, low 0, their sum times the share of 50 events that there are | 15 |
//! | correlation | groups' newest periods: 3 above 0.9, 1 above 0.7 (one above 0.9 is both), and five times what the greatest has above 0.6 | 12 |
//! | quorum | claims: 2 unknown, 1 with a margin of one | 10 |
//! | ttl | claims: 2 that no evidence is alive for, 1 where the last of it ends within half an hour (`short`) | 6 |
//! | sync | regions: 3 critical, 1 warned | 9 |
//!
//! What is not whole is cut off. The caps add up to 52, so the index never falls below 48: of the two tables of bands that the reference
//! has, the one that ends at 50 is used here, since the lowest band of the other, below 40, cannot be reached.
//!
//! Events and periods are as old as their first detection: what late facts correct keeps the time of what it supersedes, so that
//! nothing that was forgotten counts again.
//!
//! * Input: drift events; correlations of groups; changes of claims; what evidence is alive, and until when; regions and their state.
//! * Output: a changelog of one row, at each tick at which a term changes; and those changes, each a row that stays.
//! * Time: evidence runs short and out, and events are forgotten, at ticks of their own; nothing polls.
//! * State: of each claim the living evidence; of each group the newest period, of each region the newest state; the newest events.
//!
//! Invariant: at every tick the terms are those of all that was heard with ticks up to it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use tidegate_facts::{Span, Tick};

use crate::drift::severity::Severity;

pub mod stream;

/// What changes the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard<'a> {
    /// A drift event, or without a severity that one is taken back.
    Drift {
        /// Its id.
        id: &'a str,
        /// When its period was first an event, in microseconds.
        since: i64,
        /// How bad it is.
        severity: Option<Severity>,
        /// The event that it replaces.
        supersedes: Option<&'a str>,
    },
    /// How far the members of a group fail together, in millionths.
    Correlation {
        /// The group.
        group: &'a str,
        /// The end of the period that it is of, in microseconds.
        to: i64,
        /// The value.
        value: i64,
    },
    /// A claim is so (`diff` 1) or no longer (-1).
    Claim {
        /// Nobody can say whether it holds.
        is_unknown: bool,
        /// It holds with a margin of one.
        is_fragile: bool,
        /// How the count of such claims changes.
        diff: i64,
    },
    /// Evidence for a claim lives (`diff` 1) or no longer (-1).
    Evidence {
        /// The claim.
        claim: &'a str,
        /// When it is no longer valid, in microseconds; `None` of evidence that is not fit to hold the claim up.
        expires: Option<i64>,
        /// How the count of such evidence changes.
        diff: i64,
    },
    /// The state of a region.
    Region {
        /// The region.
        region: &'a str,
        /// Its newest state.
        state: RegionState,
    },
}

/// How well the times of a region agree with the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RegionState {
    /// They do.
    Ok,
    /// Hardly.
    Warn,
    /// They do not.
    Critical,
}

/// What is taken from 100.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// At most 15.
    pub drift: i64,
    /// At most 12.
    pub correlation: i64,
    /// At most 10.
    pub quorum: i64,
    /// At most 6.
    pub ttl: i64,
    /// At most 9.
    pub sync: i64,
}

/// What counts, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// At most so many events, the newest,
    pub events_max: usize,
    /// and for so long after they were detected, as do the correlations of groups; always when not given.
    pub events_span: Option<Span>,
    /// Evidence that lives no longer than this runs short.
    pub short: Span,
}

/// The terms from a tick on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Said {
    /// Since when.
    pub tick: Tick,
    /// What was so before, and since when; `None` for the first.
    pub before: Option<(Tick, Terms)>,
    /// What is so now.
    pub now: Terms,
}

/// The index as of a tick.
pub struct Index {
    settings: Settings,
    tick: Tick,
    said: Option<(Tick, Terms)>,
    /// By their time, then as they were heard.
    events: VecDeque<Detected>,
    correlations: BTreeMap<Box<str>, Correlation>,
    /// When correlations are forgotten, and perhaps some that are no more.
    forgets: BTreeSet<i64>,
    unknown: i64,
    fragile: i64,
    claims: Claims,
    regions: BTreeMap<Box<str>, RegionState>,
}

struct Detected {
    /// In microseconds.
    since: i64,
    id: Box<str>,
    severity: Severity,
}

/// What the newest period of a group came to.
#[derive(Clone, Copy)]
struct Correlation {
    to: i64,
    /// When it was first said of this period, in microseconds.
    since: i64,
    value: i64,
}

/// When the evidence of each claim runs out.
struct Claims {
    /// In microseconds.
    short_max: i64,
    places: BTreeMap<Box<str>, u32>,
    all: Vec<Claim>,
    /// How much evidence lives, by claim and by when it ends.
    living: BTreeMap<(u32, i64), i64>,
    /// The claims that may change their phase, by microsecond; a refreshed one is put down again when its turn comes.
    due: BTreeMap<i64, Vec<u32>>,
    short: i64,
    expired: i64,
}

struct Claim {
    phase: Phase,
    /// For when it is put down; nothing before that.
    noted: i64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Fresh,
    Short,
    Expired,
}

impl Terms {
    /// The index.
    pub fn index(&self) -> i64 {
        (100 - self.drift - self.correlation - self.quorum - self.ttl - self.sync).clamp(0, 100)
    }

    /// The band of the index: 95, 85, 70, 50.
    pub fn band(&self) -> &'static str {
        match self.index() {
            95.. => "stable",
            85.. => "minor_drift",
            70.. => "elevated_risk",
            50.. => "structural_degradation",
            _ => "compromised",
        }
    }
}

/// What events take from the index: `severities` of at most the newest that count.
fn drift_term(severities: impl Iterator<Item = Severity>) -> i64 {
    let (mut count, mut tenths) = (0, 0);
    for severity in severities {
        count += 1;
        tenths += match severity {
            Severity::Critical => 60,
            Severity::High => 20,
            Severity::Medium => 3,
            Severity::Low => 0,
        };
    }
    (tenths * i64::min(count, 50) / 500).min(15)
}

/// What correlations, in millionths, take from the index.
fn correlation_term(values: impl Iterator<Item = i64>) -> i64 {
    let (mut above, mut greatest) = (0, 0);
    for value in values {
        above += 3 * i64::from(value > 900_000) + i64::from(value > 700_000);
        greatest = value.max(greatest);
    }
    (above + (greatest - 600_000).max(0) * 5 / 1_000_000).min(12)
}

impl RegionState {
    /// The state of a name; `None` for a name that is none.
    pub fn of_name(name: &str) -> Option<RegionState> {
        match name {
            "OK" => Some(RegionState::Ok),
            "WARN" => Some(RegionState::Warn),
            "CRITICAL" => Some(RegionState::Critical),
            _ => None,
        }
    }
}

impl RegionState {
    fn name(self) -> &'static str {
        match self {
            RegionState::Ok => "OK",
            RegionState::Warn => "WARN",
            RegionState::Critical => "CRITICAL",
        }
    }
}

impl Claims {
    fn new(short: Span) -> Claims {
        Claims {
            short_max: short.micros(),
            places: BTreeMap::new(),
            all: Vec::new(),
            living: BTreeMap::new(),
            due: BTreeMap::new(),
            short: 0,
            expired: 0,
        }
    }

    /// The phase that evidence until `expires` is in, and when that ends.
    fn phase_at(&self, now: i64, expires: i64) -> (Phase, i64) {
        if expires <= now {
            (Phase::Expired, i64::MAX)
        } else if expires.saturating_sub(now) <= self.short_max {
            (Phase::Short, expires)
        } else {
            (Phase::Fresh, expires - self.short_max)
        }
    }

    /// When the last of a claim's living evidence ends; the beginning of time when none lives.
    fn end_of(&self, place: u32) -> i64 {
        let mut living = self.living.range((place, i64::MIN)..=(place, i64::MAX)).rev();
        living.find(|(_, count)| **count > 0).map_or(i64::MIN, |((_, expires), _)| *expires)
    }

    fn count(&mut self, phase: Phase, diff: i64) {
        match phase {
            Phase::Fresh => {}
            Phase::Short => self.short += diff,
            Phase::Expired => self.expired += diff,
        }
    }

    fn hear(&mut self, now: i64, claim: &str, expires: Option<i64>, diff: i64) {
        let place = match self.places.get(claim) {
            Some(place) => *place,
            None => {
                let place = self.all.len() as u32;
                self.places.insert(claim.into(), place);
                self.all.push(Claim { phase: Phase::Fresh, noted: i64::MAX });
                place
            }
        };
        if let Some(expires) = expires {
            let count = self.living.entry((place, expires)).or_default();
            *count += diff;
            if *count == 0 {
                self.living.remove(&(place, expires));
            }
        }
        self.look(now, place);
    }

    /// Brings a claim's phase up to `now`, and puts it down for the next.
    fn look(&mut self, now: i64, place: u32) {
        let (phase, until) = self.phase_at(now, self.end_of(place));
        let claim = &mut self.all[place as usize];
        if until < claim.noted {
            claim.noted = until;
            self.due.entry(until).or_default().push(place);
        }
        let before = std::mem::replace(&mut claim.phase, phase);
        if before != phase {
            self.count(before, -1);
            self.count(phase, 1);
        }
    }

    /// Brings up what is due at `now`.
    fn due_at(&mut self, now: i64) {
        for place in self.due.remove(&now).unwrap_or_default() {
            if self.all[place as usize].noted == now {
                self.all[place as usize].noted = i64::MAX;
                self.look(now, place);
            }
        }
    }
}

impl Index {
    /// 100: nothing has been heard.
    pub fn new(settings: Settings) -> Index {
        Index {
            settings,
            tick: Tick::ZERO,
            said: None,
            events: VecDeque::new(),
            correlations: BTreeMap::new(),
            forgets: BTreeSet::new(),
            unknown: 0,
            fragile: 0,
            claims: Claims::new(settings.short),
            regions: BTreeMap::new(),
        }
    }

    /// The terms as of now.
    pub fn terms(&self) -> Terms {
        let now = self.tick.micros();
        let correlations = self.correlations.values().filter(|of| self.forgotten_at(of.since) > now);
        let regions = |state| self.regions.values().filter(|of| **of == state).count() as i64;
        Terms {
            drift: drift_term(self.events.iter().map(|event| event.severity)),
            correlation: correlation_term(correlations.map(|of| of.value)),
            quorum: (2 * self.unknown + self.fragile).clamp(0, 10),
            ttl: (2 * self.claims.expired + self.claims.short).min(6),
            sync: (3 * regions(RegionState::Critical) + regions(RegionState::Warn)).min(9),
        }
    }

    /// When what was first detected at `since` no longer counts.
    fn forgotten_at(&self, since: i64) -> i64 {
        self.settings.events_span.map_or(i64::MAX, |span| since.saturating_add(span.micros()))
    }

    /// Hears something at a tick that is not before the last.
    pub fn hear(&mut self, tick: Tick, heard: Heard<'_>, said: &mut Vec<Said>) {
        if tick > self.tick {
            self.bring_up(tick.next(), said);
            self.move_to(tick, said);
        }
        let now = tick.micros();
        match heard {
            Heard::Drift { id, since, severity, supersedes } => {
                if let Some(superseded) = supersedes {
                    self.events.retain(|event| *event.id != *superseded);
                }
                if let Some(severity) = severity.filter(|_| self.forgotten_at(since) > now) {
                    let place = self.events.partition_point(|event| event.since <= since);
                    self.events.insert(place, Detected { since, id: id.into(), severity });
                    if self.events.len() > self.settings.events_max {
                        self.events.pop_front();
                    }
                }
            }
            Heard::Correlation { group, to, value } => {
                let newest = self.correlations.get(group).copied().filter(|newest| newest.to >= to);
                if newest.is_none_or(|newest| newest.to == to) {
                    let since = newest.map_or(now, |newest| newest.since);
                    self.correlate(group, Correlation { to, since, value });
                }
            }
            Heard::Claim { is_unknown, is_fragile, diff } => {
                self.unknown += diff * i64::from(is_unknown);
                self.fragile += diff * i64::from(is_fragile && !is_unknown);
            }
            Heard::Evidence { claim, expires, diff } => self.claims.hear(now, claim, expires, diff),
            Heard::Region { region, state } => set(&mut self.regions, region, state),
        }
    }

    fn correlate(&mut self, group: &str, newest: Correlation) {
        set(&mut self.correlations, group, newest);
        if self.settings.events_span.is_some() {
            self.forgets.insert(self.forgotten_at(newest.since));
        }
    }

    /// Says what follows from what was heard, and from time alone, before `upper`. All with lesser ticks was heard.
    pub fn until(&mut self, upper: Tick, said: &mut Vec<Said>) {
        self.bring_up(upper, said);
        self.say(said);
    }

    /// Does what time alone does before `upper`; what the last tick came to is not said, since it may not be over.
    fn bring_up(&mut self, upper: Tick, said: &mut Vec<Said>) {
        while let Some((micros, tick)) = self.next_due().filter(|(_, tick)| *tick < upper) {
            self.move_to(tick, said);
            while self.events.front().is_some_and(|event| self.forgotten_at(event.since) <= micros) {
                self.events.pop_front();
            }
            self.forgets = self.forgets.split_off(&(micros + 1));
            self.claims.due_at(micros);
        }
    }

    fn move_to(&mut self, tick: Tick, said: &mut Vec<Said>) {
        if tick > self.tick {
            self.say(said);
            self.tick = tick;
        }
    }

    /// When time alone may change something next, and at which tick.
    fn next_due(&self) -> Option<(i64, Tick)> {
        let event = self.events.front().map(|event| self.forgotten_at(event.since));
        let correlation = self.forgets.first().copied();
        let run_out = self.claims.due.first_key_value().map(|(micros, _)| *micros);
        let micros = [event, correlation, run_out].into_iter().flatten().min()?;
        Some((micros, Tick::new(micros, 0)?))
    }

    fn say(&mut self, said: &mut Vec<Said>) {
        let now = self.terms();
        if self.tick > Tick::ZERO && self.said.is_none_or(|(_, said)| said != now) {
            said.push(Said { tick: self.tick, before: self.said.replace((self.tick, now)), now });
        }
    }
}

/// A part of the index, put down.
pub struct Kept {
    kind: &'static str,
    key: Box<str>,
    numbers: [i64; 3],
    name: &'static str,
}

impl Index {
    /// What the index has come to. Its terms follow.
    fn put_down(&self) -> Vec<Kept> {
        if self.tick == Tick::ZERO {
            return Vec::new(); // Another worker's has heard something.
        }
        let kept = |kind, key: &str, numbers, name| Kept { kind, key: key.into(), numbers, name };
        let number = |kind, number| kept(kind, "", [number, 0, 0], "");
        let mut all = vec![
            number("tick", self.tick.0.cast_signed()),
            number("unknown", self.unknown),
            number("fragile", self.fragile),
        ];
        let events = self.events.iter();
        all.extend(events.map(|event| kept("event", &event.id, [event.since, 0, 0], event.severity.name())));
        let correlations = self.correlations.iter();
        all.extend(
            correlations.map(|(group, of)| kept("correlation", group, [of.to, of.since, of.value], "")),
        );
        all.extend(self.regions.iter().map(|(region, state)| kept("region", region, [0; 3], state.name())));
        for (claim, place) in &self.claims.places {
            all.push(kept("claim", claim, [0; 3], ""));
            let living = self.claims.living.range((*place, i64::MIN)..=(*place, i64::MAX));
            all.extend(
                living.map(|((_, expires), count)| kept("evidence", claim, [*expires, *count, 0], "")),
            );
        }
        // The last, since it is of all the others.
        all.extend(self.said.map(|(since, _)| number("said", since.0.cast_signed())));
        all
    }

    /// Takes up a part, as of `now`.
    fn take_up(&mut self, now: Tick, kind: &str, key: &str, numbers: [i64; 3], name: &str) {
        let number = numbers[0];
        let severity = || Severity::of_name(name).expect("it was put down");
        match kind {
            "tick" => self.tick = Tick(number.cast_unsigned()),
            "unknown" => self.unknown = number,
            "fragile" => self.fragile = number,
            "event" => {
                self.events.push_back(Detected { since: number, id: key.into(), severity: severity() });
            }
            "correlation" => {
                let [to, since, value] = numbers;
                self.correlate(key, Correlation { to, since, value });
            }
            "region" => {
                set(&mut self.regions, key, RegionState::of_name(name).expect("it was put down"));
            }
            "claim" => self.claims.hear(now.micros(), key, None, 0),
            "evidence" => self.claims.hear(now.micros(), key, Some(number), numbers[1]),
            "said" => self.said = Some((Tick(number.cast_unsigned()), self.terms())),
            other => unreachable!("nothing is put down as {other}"),
        }
    }
}

fn set<V>(map: &mut BTreeMap<Box<str>, V>, key: &str, value: V) {
    match map.get_mut(key) {
        Some(slot) => *slot = value,
        None => {
            map.insert(key.into(), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_terms_are_those_of_the_reference() {
        use Severity::{Critical, High, Low, Medium};
        let many = |severity, count| std::iter::repeat_n(severity, count);
        assert_eq!(drift_term(many(Critical, 12)), 15, "72 * 12 / 50 = 17.28, and the cap");
        assert_eq!(drift_term(many(Critical, 5)), 3, "30 * 5 / 50");
        assert_eq!(drift_term(many(Critical, 1)), 0, "6 / 50 is cut off");
        assert_eq!(drift_term(many(High, 10)), 4, "20 * 10 / 50");
        assert_eq!(drift_term(many(Medium, 50)), 15);
        assert_eq!(drift_term(many(Medium, 40)), 9, "12 * 40 / 50 = 9.6");
        assert_eq!(drift_term(many(Low, 500)), 0);
        assert_eq!(drift_term(many(Low, 49).chain([Critical])), 6, "low ones only make the share");
        assert_eq!(correlation_term([950_000].into_iter()), 5, "3 + 1 + 1.75");
        assert_eq!(correlation_term([900_000].into_iter()), 2, "not above 0.9; 1 + 1.5");
        assert_eq!(correlation_term([650_000].into_iter()), 0, "0.25 is cut off");
        assert_eq!(correlation_term([800_001, 820_000, 840_000].into_iter()), 4, "3 + 1.2");
        assert_eq!(correlation_term([1_000_000; 9].into_iter()), 12);
        assert_eq!(correlation_term([-50_000].into_iter()), 0);
    }

    #[test]
    fn the_index_never_falls_below_what_its_caps_leave() {
        let terms = Terms { drift: 15, correlation: 12, quorum: 10, ttl: 6, sync: 9 };
        assert_eq!((terms.index(), terms.band()), (48, "compromised"));
        assert_eq!((Terms::default().index(), Terms::default().band()), (100, "stable"));
    }
}
