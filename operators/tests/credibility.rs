//! The index equals its slow version at every tick: all that was heard, gone through from the beginning.

mod chance;

use std::collections::BTreeMap;

use chance::Chance;
use tidegate_facts::{Span, Tick};
use tidegate_operators::credibility::{Heard, Index, RegionState, Said, Settings, Terms};
use tidegate_operators::drift::severity::Severity;

const MINUTE: i64 = 60_000_000;

#[derive(Clone, Debug)]
enum Fact {
    Drift(String, Option<Severity>, Option<String>),
    Correlation(String, i64),
    Claim(bool, bool, i64),
    Evidence(String, i64),
    Region(String, RegionState),
}

impl Fact {
    fn heard(&self) -> Heard<'_> {
        match self {
            Fact::Drift(id, severity, supersedes) => {
                Heard::Drift { id, severity: *severity, supersedes: supersedes.as_deref() }
            }
            Fact::Correlation(group, value) => Heard::Correlation { group, value: *value },
            Fact::Claim(is_unknown, is_fragile, diff) => {
                Heard::Claim { is_unknown: *is_unknown, is_fragile: *is_fragile, diff: *diff }
            }
            Fact::Evidence(claim, expires) => Heard::Evidence { claim, expires: *expires },
            Fact::Region(region, state) => Heard::Region { region, state: *state },
        }
    }
}

fn facts(seed: u64) -> Vec<(Tick, Fact)> {
    let mut chance = Chance(seed);
    let (mut tick, mut now) = (Tick::ZERO, 10_000 * MINUTE);
    let mut standing: Vec<(bool, bool)> = Vec::new();
    let mut drifts = 0;
    (0..400)
        .map(|place| {
            now += chance.below(3 * MINUTE as u64) as i64;
            // Some share a tick: what follows from one drift row and one correlation, say.
            if place == 0 || chance.below(5) > 0 {
                tick = Tick::following(tick, now, chance.below(4) as u16).expect("in range");
            }
            let fact = match chance.below(10) {
                0..2 => {
                    drifts += 1;
                    let superseded = (drifts > 1 && chance.below(4) == 0)
                        .then(|| format!("drift-{}", 1 + chance.below(drifts - 1)));
                    let severity = match chance.below(5) {
                        0 => Some(Severity::Critical),
                        1 => Some(Severity::High),
                        2 => Some(Severity::Medium),
                        3 => Some(Severity::Low),
                        _ => None,
                    };
                    Fact::Drift(format!("drift-{drifts}"), severity, superseded)
                }
                2 => {
                    let value = [0, 650_000, 710_000, 850_000, 930_000][chance.below(5) as usize];
                    Fact::Correlation(format!("group-{}", chance.below(4)), value)
                }
                3..5 => {
                    if !standing.is_empty() && chance.below(2) == 0 {
                        let (unknown, fragile) =
                            standing.remove(chance.below(standing.len() as u64) as usize);
                        Fact::Claim(unknown, fragile, -1)
                    } else {
                        let claim = (chance.below(3) == 0, chance.below(2) == 0);
                        standing.push(claim);
                        Fact::Claim(claim.0, claim.1, 1)
                    }
                }
                5 => {
                    let states = [RegionState::Ok, RegionState::Warn, RegionState::Critical];
                    Fact::Region(format!("region-{}", chance.below(3)), states[chance.below(3) as usize])
                }
                _ => {
                    let ttl = (chance.below(90) as i64 - 5) * MINUTE;
                    Fact::Evidence(format!("claim-{}", chance.below(3)), tick.micros() + ttl)
                }
            };
            (tick, fact)
        })
        .collect()
}

/// Everything from the beginning, in floats, as of a tick.
fn slow(facts: &[(Tick, Fact)], settings: Settings, as_of: Tick) -> Terms {
    let now = as_of.micros();
    let mut events: Vec<(i64, &str, f64)> = Vec::new();
    let mut correlations = BTreeMap::new();
    let (mut unknown, mut fragile) = (0, 0);
    let mut expires = BTreeMap::<&str, i64>::new();
    let mut regions = BTreeMap::new();
    for (tick, fact) in facts.iter().filter(|(tick, _)| *tick <= as_of) {
        match fact {
            Fact::Drift(id, severity, superseded) => {
                events.retain(|(_, event, _)| Some(*event) != superseded.as_deref());
                // What was forgotten by then leaves no room behind.
                let span = settings.events_span.map_or(i64::MAX, Span::micros);
                events.retain(|(at, _, _)| at.saturating_add(span) > tick.micros());
                let weight = severity.map(|severity| match severity {
                    Severity::Critical => 6.0,
                    Severity::High => 2.0,
                    Severity::Medium => 0.3,
                    Severity::Low => 0.0,
                });
                events.extend(weight.map(|weight| (tick.micros(), id.as_str(), weight)));
                let surplus = events.len().saturating_sub(settings.events_max);
                events.drain(..surplus);
            }
            Fact::Correlation(group, value) => {
                correlations.insert(group, *value as f64 / 1e6);
            }
            Fact::Claim(is_unknown, is_fragile, diff) => {
                unknown += if *is_unknown { *diff } else { 0 };
                fragile += if *is_fragile && !*is_unknown { *diff } else { 0 };
            }
            Fact::Evidence(claim, until) => {
                let latest = expires.entry(claim).or_insert(*until);
                *latest = (*latest).max(*until);
            }
            Fact::Region(region, state) => {
                regions.insert(region, *state);
            }
        }
    }
    let span = settings.events_span.map_or(i64::MAX, Span::micros);
    events.retain(|(at, _, _)| at.saturating_add(span) > now);
    let weight: f64 = events.iter().map(|(_, _, weight)| weight).sum();
    // A hair above, so that 0.3 ten times is three.
    let drift = (weight * (events.len() as f64 / 50.0).min(1.0) + 1e-9) as i64;
    let above = |bound: f64| correlations.values().filter(|value| **value > bound).count() as i64;
    let greatest = correlations.values().copied().fold(0.6, f64::max);
    let ttls =
        |from: i64, to: i64| expires.values().filter(|at| (from..=to).contains(&(**at - now))).count() as i64;
    let count = |state| regions.values().filter(|of| **of == state).count() as i64;
    Terms {
        drift: drift.min(15),
        correlation: (3 * above(0.9) + above(0.7) + ((greatest - 0.6) * 5.0 + 1e-9) as i64).min(12),
        quorum: (2 * unknown + fragile).min(10),
        ttl: (2 * ttls(i64::MIN / 2, 0) + ttls(1, 30 * MINUTE)).min(6),
        sync: (3 * count(RegionState::Critical) + count(RegionState::Warn)).min(9),
    }
}

fn run(facts: &[(Tick, Fact)], settings: Settings, upper: Tick, batches: Option<usize>) -> Vec<Said> {
    let mut index = Index::new(settings);
    let mut said = Vec::new();
    for (place, (tick, fact)) in facts.iter().enumerate() {
        index.hear(*tick, fact.heard(), &mut said);
        // A batch ends where a tick ends.
        let is_last = facts.get(place + 1).is_none_or(|(next, _)| next > tick);
        if is_last && batches.is_some_and(|rows| place % rows == 0) {
            index.until(tick.next(), &mut said);
        }
    }
    index.until(upper, &mut said);
    said
}

#[test]
fn the_index_equals_its_slow_version_at_every_tick_and_between() {
    let span = Span::from_micros(45 * MINUTE);
    for seed in 0..40 {
        let facts = facts(seed);
        let last = facts.last().expect("some").0;
        let upper = Tick::new(last.micros() + 120 * MINUTE, 0).expect("in range");
        let settings = match seed % 3 {
            0 => Settings { events_max: 500, events_span: None },
            1 => Settings { events_max: 20, events_span: span },
            _ => Settings { events_max: 7, events_span: None },
        };
        let said = run(&facts, settings, upper, None);
        assert_eq!(said, run(&facts, settings, upper, Some(1)), "seed {seed}: batches");
        assert_eq!(said, run(&facts, settings, upper, Some(7)), "seed {seed}: batches");
        assert!(
            said.is_sorted_by(|a, b| a.tick < b.tick && b.before == Some((a.tick, a.now))),
            "seed {seed}"
        );
        assert!(
            said.iter().all(|said| said.before.is_none_or(|(_, before)| before != said.now)),
            "seed {seed}"
        );
        // At all ticks of facts, at all changes, and a moment around each.
        let ticks = facts.iter().map(|(tick, _)| *tick).chain(said.iter().map(|said| said.tick));
        for at in ticks.flat_map(|tick| [Tick(tick.0 - 1), tick, tick.next()]) {
            let standing = said.iter().rev().find(|said| said.tick <= at).map(|said| said.now);
            if at >= facts[0].0 && at < upper {
                assert_eq!(standing, Some(slow(&facts, settings, at)), "seed {seed}, at {at}");
            }
        }
        assert!(said.len() > 30, "seed {seed}: {} changes", said.len());
    }
}
