//! Credibility index: one number from 48 to 100 for how far claims can be relied on, with its five
//! terms.
//!
//! The index is `100 - drift - correlation - quorum - ttl - sync`. Each term is a whole number with
//! a cap:
//!
//! * `drift`, at most 15: critical events count 6, high ones 2, medium ones 0.3, low ones 0. Their
//!   sum is multiplied by the share of 50 events that are present.
//! * `correlation`, at most 12: groups above 0.7 in their newest period count 1, groups above 0.9
//!   count 3 more; and five times what the greatest correlation has above 0.6.
//! * `quorum`, at most 10: unknown claims count 2, claims with a margin of one count 1.
//! * `ttl`, at most 6: claims without valid evidence count 2, claims whose last evidence expires
//!   within `expiring_within` count 1.
//! * `sync`, at most 9: critical regions count 3, regions with a warning count 1.
//!
//! Fractions are cut off. The caps add up to 52, so the index never falls below 48. The reference
//! has two tables of bands; this file uses the one whose lowest band ends at 50, since the lowest
//! band of the other, below 40, cannot be reached.
//!
//! The age of events and periods is that of their first detection: a correction by late facts keeps
//! the time of what it supersedes, so that nothing that was forgotten counts again.
//!
//! * Input: drift events; correlations of groups; changes of claims; valid evidence and its expiry;
//!   regions and their states.
//! * Output: a changelog of one row, at each tick at which a term changes; and the history of these
//!   changes, which is never retracted.
//! * Time: evidence expires and events are forgotten at ticks of their own; nothing polls.
//! * State: per claim its valid evidence; per group its newest period; per region its newest state;
//!   and the newest events.
//!
//! Invariant: at every tick the terms are a function of all rows with ticks up to it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use tidegate_facts::row::Row;
use tidegate_facts::{Span, Tick};

use crate::credibility::drift::severity::Severity;

pub mod operator;

/// A row that may change the credibility index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CredibilityEvent<'a> {
    /// A drift event; without a severity it retracts the one that it supersedes.
    Drift {
        /// The event's id.
        id: &'a str,
        /// When the period first was an event, in microseconds.
        since: i64,
        /// The severity of the event.
        severity: Option<Severity>,
        /// The id of the event that it replaces.
        supersedes: Option<&'a str>,
    },
    /// How far the members of a group fail together, in millionths.
    Correlation {
        /// The group.
        group: &'a str,
        /// The end of the measured period, in microseconds.
        to: i64,
        /// The correlation.
        value: i64,
    },
    /// A claim's state is added (`diff` 1) or retracted (-1).
    Claim {
        /// Whether the claim is UNKNOWN.
        is_unknown: bool,
        /// Whether the claim holds with a margin of one.
        is_fragile: bool,
        /// How the count of such claims changes.
        diff: i64,
    },
    /// Valid evidence for a claim is added (`diff` 1) or retracted (-1).
    Evidence {
        /// The claim.
        claim: &'a str,
        /// When the evidence expires, in microseconds; `None` for evidence that cannot support the
        /// claim.
        expires: Option<i64>,
        /// How the count of such evidence changes.
        diff: i64,
    },
    /// The newest state of a region.
    Region {
        /// The region.
        region: &'a str,
        /// The state.
        state: RegionState,
    },
}

/// How well a region's clocks agree with the others, for the credibility index: OK, WARN or
/// CRITICAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RegionState {
    /// They agree.
    Ok,
    /// They agree barely.
    Warn,
    /// They disagree.
    Critical,
}

/// The five terms that are subtracted from 100 to give the credibility index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// The drift term, at most 15.
    pub drift: i64,
    /// The correlation term, at most 12.
    pub correlation: i64,
    /// The quorum term, at most 10.
    pub quorum: i64,
    /// The ttl term, at most 6.
    pub ttl: i64,
    /// The sync term, at most 9.
    pub sync: i64,
}

/// The configuration of the credibility index: what counts, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CredibilityConfig {
    /// The greatest number of drift events that count; the newest do.
    pub events_max: usize,
    /// How long drift events and correlations count after their first detection; without it, for
    /// ever.
    pub events_span: Option<Span>,
    /// A claim whose last evidence expires within this span counts in the ttl term.
    pub expiring_within: Span,
}

/// A change of the credibility index's terms at a tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TermsChange {
    /// The tick of the change.
    pub tick: Tick,
    /// The terms before, and since when they held; `None` for the first.
    pub before: Option<(Tick, Terms)>,
    /// The terms from this tick on.
    pub now: Terms,
}

/// The state from which the credibility index is computed.
pub struct CredibilityIndex {
    config: CredibilityConfig,
    tick: Tick,
    /// The terms that were emitted last, and at which tick.
    emitted: Option<(Tick, Terms)>,
    /// The newest drift events: by time of detection, then in the order of arrival.
    events: VecDeque<DetectedEvent>,
    correlations: BTreeMap<Box<str>, Correlation>,
    /// When correlations are forgotten; some of these times may be those of replaced ones.
    correlation_ends: BTreeSet<i64>,
    unknown: i64,
    fragile: i64,
    claims: ClaimLifetimes,
    regions: BTreeMap<Box<str>, RegionState>,
}

struct DetectedEvent {
    /// In microseconds.
    since: i64,
    id: Box<str>,
    severity: Severity,
}

/// The correlation of a group's newest period.
#[derive(Clone, Copy)]
struct Correlation {
    to: i64,
    /// When this period was first reported, in microseconds.
    since: i64,
    value: i64,
}

/// When the last valid evidence of each claim expires.
struct ClaimLifetimes {
    /// In microseconds.
    expiring_within: i64,
    numbers: BTreeMap<Box<str>, u32>,
    claims: Vec<ClaimLifetime>,
    /// How many pieces of evidence are valid, by claim and by expiry.
    valid: BTreeMap<(u32, i64), i64>,
    /// The claims whose phase may change, by microsecond. A claim whose evidence was refreshed is
    /// scheduled again when its entry is due.
    due: BTreeMap<i64, Vec<u32>>,
    /// The number of claims in the phase `Expiring`.
    expiring: i64,
    /// The number of claims in the phase `Expired`.
    expired: i64,
}

struct ClaimLifetime {
    phase: Phase,
    /// The earliest entry in `due` that counts; others are obsolete.
    scheduled: i64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Fresh,
    Expiring,
    Expired,
}

impl Terms {
    /// The credibility index.
    pub fn index(&self) -> i64 {
        (100 - self.drift - self.correlation - self.quorum - self.ttl - self.sync).clamp(0, 100)
    }

    /// The band of the credibility index; bands begin at 95, 85, 70 and 50.
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

/// The drift term of the severities of the newest events.
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

/// The correlation term of correlations in millionths.
fn correlation_term(values: impl Iterator<Item = i64>) -> i64 {
    let (mut above, mut greatest) = (0, 0);
    for value in values {
        above += 3 * i64::from(value > 900_000) + i64::from(value > 700_000);
        greatest = value.max(greatest);
    }
    (above + (greatest - 600_000).max(0) * 5 / 1_000_000).min(12)
}

impl RegionState {
    /// The state that rows spell `name`; `None` for another word.
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

impl ClaimLifetimes {
    fn new(expiring_within: Span) -> ClaimLifetimes {
        ClaimLifetimes {
            expiring_within: expiring_within.micros(),
            numbers: BTreeMap::new(),
            claims: Vec::new(),
            valid: BTreeMap::new(),
            due: BTreeMap::new(),
            expiring: 0,
            expired: 0,
        }
    }

    /// The phase at `now` of a claim whose last evidence expires at `expires`, and when the phase
    /// ends.
    fn phase_at(&self, now: i64, expires: i64) -> (Phase, i64) {
        if expires <= now {
            (Phase::Expired, i64::MAX)
        } else if expires.saturating_sub(now) <= self.expiring_within {
            (Phase::Expiring, expires)
        } else {
            (Phase::Fresh, expires - self.expiring_within)
        }
    }

    /// When the last valid evidence of a claim expires; `i64::MIN` if it has none.
    fn last_expiry(&self, claim: u32) -> i64 {
        let mut valid = self.valid.range((claim, i64::MIN)..=(claim, i64::MAX)).rev();
        valid.find(|(_, count)| **count > 0).map_or(i64::MIN, |((_, expires), _)| *expires)
    }

    fn count(&mut self, phase: Phase, diff: i64) {
        match phase {
            Phase::Fresh => {}
            Phase::Expiring => self.expiring += diff,
            Phase::Expired => self.expired += diff,
        }
    }

    fn add_evidence(&mut self, now: i64, claim: &str, expires: Option<i64>, diff: i64) {
        let number = match self.numbers.get(claim) {
            Some(number) => *number,
            None => {
                let number = self.claims.len() as u32;
                self.numbers.insert(claim.into(), number);
                self.claims.push(ClaimLifetime { phase: Phase::Fresh, scheduled: i64::MAX });
                number
            }
        };
        if let Some(expires) = expires {
            let count = self.valid.entry((number, expires)).or_default();
            *count += diff;
            if *count == 0 {
                self.valid.remove(&(number, expires));
            }
        }
        self.update_phase(now, number);
    }

    /// Brings a claim's phase up to `now`, and schedules the next look at it.
    fn update_phase(&mut self, now: i64, number: u32) {
        let (phase, until) = self.phase_at(now, self.last_expiry(number));
        let claim = &mut self.claims[number as usize];
        if until < claim.scheduled {
            claim.scheduled = until;
            self.due.entry(until).or_default().push(number);
        }
        let before = std::mem::replace(&mut claim.phase, phase);
        if before != phase {
            self.count(before, -1);
            self.count(phase, 1);
        }
    }

    /// Updates the phases of the claims that are due at `now`.
    fn update_due(&mut self, now: i64) {
        for number in self.due.remove(&now).unwrap_or_default() {
            if self.claims[number as usize].scheduled == now {
                self.claims[number as usize].scheduled = i64::MAX;
                self.update_phase(now, number);
            }
        }
    }
}

impl CredibilityIndex {
    /// Returns a credibility index of 100, without rows.
    pub fn new(config: CredibilityConfig) -> CredibilityIndex {
        CredibilityIndex {
            config,
            tick: Tick::ZERO,
            emitted: None,
            events: VecDeque::new(),
            correlations: BTreeMap::new(),
            correlation_ends: BTreeSet::new(),
            unknown: 0,
            fragile: 0,
            claims: ClaimLifetimes::new(config.expiring_within),
            regions: BTreeMap::new(),
        }
    }

    /// The terms of the credibility index as of the current tick.
    pub fn terms(&self) -> Terms {
        let now = self.tick.micros();
        let correlations = self.correlations.values().filter(|of| self.forgotten_at(of.since) > now);
        let regions = |state| self.regions.values().filter(|of| **of == state).count() as i64;
        Terms {
            drift: drift_term(self.events.iter().map(|event| event.severity)),
            correlation: correlation_term(correlations.map(|of| of.value)),
            quorum: (2 * self.unknown + self.fragile).clamp(0, 10),
            ttl: (2 * self.claims.expired + self.claims.expiring).min(6),
            sync: (3 * regions(RegionState::Critical) + regions(RegionState::Warn)).min(9),
        }
    }

    /// When a first detection at `since` no longer counts.
    fn forgotten_at(&self, since: i64) -> i64 {
        self.config.events_span.map_or(i64::MAX, |span| since.saturating_add(span.micros()))
    }

    /// Applies a row at a tick that is not before the last one. Appends the changes of earlier
    /// ticks.
    pub fn apply(&mut self, tick: Tick, event: CredibilityEvent<'_>, changes: &mut Vec<TermsChange>) {
        if tick > self.tick {
            self.process_due(tick.next(), changes);
            self.move_to(tick, changes);
        }
        let now = tick.micros();
        match event {
            CredibilityEvent::Drift { id, since, severity, supersedes } => {
                if let Some(superseded) = supersedes {
                    self.events.retain(|event| *event.id != *superseded);
                }
                if let Some(severity) = severity.filter(|_| self.forgotten_at(since) > now) {
                    let index = self.events.partition_point(|event| event.since <= since);
                    self.events.insert(index, DetectedEvent { since, id: id.into(), severity });
                    if self.events.len() > self.config.events_max {
                        self.events.pop_front();
                    }
                }
            }
            CredibilityEvent::Correlation { group, to, value } => {
                let newest = self.correlations.get(group).copied().filter(|newest| newest.to >= to);
                if newest.is_none_or(|newest| newest.to == to) {
                    let since = newest.map_or(now, |newest| newest.since);
                    self.set_correlation(group, Correlation { to, since, value });
                }
            }
            CredibilityEvent::Claim { is_unknown, is_fragile, diff } => {
                self.unknown += diff * i64::from(is_unknown);
                self.fragile += diff * i64::from(is_fragile && !is_unknown);
            }
            CredibilityEvent::Evidence { claim, expires, diff } => {
                self.claims.add_evidence(now, claim, expires, diff);
            }
            CredibilityEvent::Region { region, state } => set(&mut self.regions, region, state),
        }
    }

    fn set_correlation(&mut self, group: &str, newest: Correlation) {
        set(&mut self.correlations, group, newest);
        if self.config.events_span.is_some() {
            self.correlation_ends.insert(self.forgotten_at(newest.since));
        }
    }

    /// Appends the changes before `upper`, those by time alone too. All rows with lesser ticks were
    /// applied.
    pub fn advance_to(&mut self, upper: Tick, changes: &mut Vec<TermsChange>) {
        self.process_due(upper, changes);
        self.emit_change(changes);
    }

    /// Expires and forgets what is due before `upper`. The terms of the last tick are not emitted,
    /// since more rows of that tick may follow.
    fn process_due(&mut self, upper: Tick, changes: &mut Vec<TermsChange>) {
        while let Some((micros, tick)) = self.next_due().filter(|(_, tick)| *tick < upper) {
            self.move_to(tick, changes);
            while self.events.front().is_some_and(|event| self.forgotten_at(event.since) <= micros) {
                self.events.pop_front();
            }
            self.correlation_ends = self.correlation_ends.split_off(&(micros + 1));
            self.claims.update_due(micros);
        }
    }

    fn move_to(&mut self, tick: Tick, changes: &mut Vec<TermsChange>) {
        if tick > self.tick {
            self.emit_change(changes);
            self.tick = tick;
        }
    }

    /// The next time at which time alone may change a term, in microseconds and as a tick.
    fn next_due(&self) -> Option<(i64, Tick)> {
        let event = self.events.front().map(|event| self.forgotten_at(event.since));
        let correlation = self.correlation_ends.first().copied();
        let claim = self.claims.due.first_key_value().map(|(micros, _)| *micros);
        let micros = [event, correlation, claim].into_iter().flatten().min()?;
        Some((micros, Tick::new(micros, 0)?))
    }

    fn emit_change(&mut self, changes: &mut Vec<TermsChange>) {
        let now = self.terms();
        if self.tick > Tick::ZERO && self.emitted.is_none_or(|(_, before)| before != now) {
            let before = self.emitted.replace((self.tick, now));
            changes.push(TermsChange { tick: self.tick, before, now });
        }
    }
}

/// A row of the index's snapshot, after the tick. What its fields mean depends on its kind.
#[derive(Row)]
struct SnapshotRow {
    #[row(name = "_key")]
    key: String,
    #[row(name = "_kind")]
    kind: String,
    #[row(name = "_first")]
    first: i64,
    #[row(name = "_second")]
    second: i64,
    #[row(name = "_third")]
    third: i64,
    #[row(name = "_name")]
    name: String,
}

impl SnapshotRow {
    fn new(kind: &str, key: &str, [first, second, third]: [i64; 3], name: &str) -> SnapshotRow {
        SnapshotRow {
            key: key.to_owned(),
            kind: kind.to_owned(),
            first,
            second,
            third,
            name: name.to_owned(),
        }
    }
}

impl CredibilityIndex {
    /// The snapshot rows of the index, in the order in which [`CredibilityIndex::restore`] needs
    /// them.
    fn snapshot(&self) -> Vec<SnapshotRow> {
        if self.tick == Tick::ZERO {
            return Vec::new(); // The index is on another worker.
        }
        let row = SnapshotRow::new;
        let number = |kind, number| row(kind, "", [number, 0, 0], "");
        let mut rows = vec![
            number("tick", self.tick.0),
            number("unknown", self.unknown),
            number("fragile", self.fragile),
        ];
        let events = self.events.iter();
        rows.extend(events.map(|event| row("event", &event.id, [event.since, 0, 0], event.severity.name())));
        let correlations = self.correlations.iter();
        rows.extend(
            correlations.map(|(group, of)| row("correlation", group, [of.to, of.since, of.value], "")),
        );
        rows.extend(self.regions.iter().map(|(region, state)| row("region", region, [0; 3], state.name())));
        for (claim, number) in &self.claims.numbers {
            rows.push(row("claim", claim, [0; 3], ""));
            let valid = self.claims.valid.range((*number, i64::MIN)..=(*number, i64::MAX));
            rows.extend(valid.map(|((_, expires), count)| row("evidence", claim, [*expires, *count, 0], "")));
        }
        // The last, since restoring it computes the terms from all other rows.
        rows.extend(self.emitted.map(|(since, _)| number("emitted", since.0)));
        rows
    }

    /// Restores a snapshot row, as of `now`.
    fn restore(&mut self, now: Tick, row: &SnapshotRow) {
        let SnapshotRow { key, kind, first, second, third, name } = row;
        match kind.as_str() {
            "tick" => self.tick = Tick(*first),
            "unknown" => self.unknown = *first,
            "fragile" => self.fragile = *first,
            "event" => {
                let severity = Severity::of_name(name).expect("a snapshot's own severity");
                self.events.push_back(DetectedEvent { since: *first, id: key.as_str().into(), severity });
            }
            "correlation" => {
                self.set_correlation(key, Correlation { to: *first, since: *second, value: *third });
            }
            "region" => {
                let state = RegionState::of_name(name).expect("a snapshot's own state");
                set(&mut self.regions, key, state);
            }
            "claim" => self.claims.add_evidence(now.micros(), key, None, 0),
            "evidence" => self.claims.add_evidence(now.micros(), key, Some(*first), *second),
            "emitted" => self.emitted = Some((Tick(*first), self.terms())),
            other => unreachable!("a snapshot has no rows of kind {other}"),
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
        assert_eq!(drift_term(many(Low, 49).chain([Critical])), 6, "low events only raise the share");
        assert_eq!(correlation_term([950_000].into_iter()), 5, "3 + 1 + 1.75");
        assert_eq!(correlation_term([900_000].into_iter()), 2, "not above 0.9; 1 + 1.5");
        assert_eq!(correlation_term([650_000].into_iter()), 0, "0.25 is cut off");
        assert_eq!(correlation_term([800_001, 820_000, 840_000].into_iter()), 4, "3 + 1.2");
        assert_eq!(correlation_term([1_000_000; 9].into_iter()), 12);
        assert_eq!(correlation_term([-50_000].into_iter()), 0);
    }

    #[test]
    fn the_index_never_falls_below_100_less_its_caps() {
        let terms = Terms { drift: 15, correlation: 12, quorum: 10, ttl: 6, sync: 9 };
        assert_eq!((terms.index(), terms.band()), (48, "compromised"));
        assert_eq!((Terms::default().index(), Terms::default().band()), (100, "stable"));
    }
}
