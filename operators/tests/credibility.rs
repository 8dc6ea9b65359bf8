//! The credibility index against its slow version: at every tick, its terms equal those of all rows
//! up to the tick, computed again from the beginning.

mod chance;

use std::collections::BTreeMap;

use chance::Chance;
use tidegate_facts::{Span, Tick};
use tidegate_operators::credibility::drift::severity::Severity;
use tidegate_operators::credibility::index::{
    CredibilityConfig, CredibilityEvent, CredibilityIndex, RegionState, Terms, TermsChange,
};

const MINUTE: i64 = 60_000_000;

fn span(minutes: i64) -> Span {
    Span::from_micros(minutes * MINUTE).expect("positive")
}

#[derive(Clone, Debug)]
enum Fact {
    Drift(String, i64, Option<Severity>, Option<String>),
    Correlation(String, i64, i64),
    Claim(bool, bool, i64),
    Evidence(String, Option<i64>, i64),
    Region(String, RegionState),
}

impl Fact {
    fn event(&self) -> CredibilityEvent<'_> {
        match self {
            Fact::Drift(id, since, severity, supersedes) => CredibilityEvent::Drift {
                id,
                since: *since,
                severity: *severity,
                supersedes: supersedes.as_deref(),
            },
            Fact::Correlation(group, to, value) => {
                CredibilityEvent::Correlation { group, to: *to, value: *value }
            }
            Fact::Claim(is_unknown, is_fragile, diff) => {
                CredibilityEvent::Claim { is_unknown: *is_unknown, is_fragile: *is_fragile, diff: *diff }
            }
            Fact::Evidence(claim, expires, diff) => {
                CredibilityEvent::Evidence { claim, expires: *expires, diff: *diff }
            }
            Fact::Region(region, state) => CredibilityEvent::Region { region, state: *state },
        }
    }
}

fn facts(seed: u64) -> Vec<(Tick, Fact)> {
    let mut chance = Chance(seed);
    let (mut tick, mut now) = (Tick::ZERO, 10_000 * MINUTE);
    let mut claims: Vec<(bool, bool)> = Vec::new();
    // By event: when its period first was one.
    let mut drifts: Vec<i64> = Vec::new();
    let mut valid: Vec<(u64, Option<i64>)> = Vec::new();
    (0..400)
        .map(|row| {
            now += chance.below(3 * MINUTE as u64) as i64;
            // Some rows share a tick, as a drift event and a correlation of one close do.
            if row == 0 || chance.below(5) > 0 {
                tick = Tick::following(tick, now, chance.below(4) as u16).expect("in range");
            }
            let fact = match chance.below(10) {
                0..2 => {
                    let superseded = (!drifts.is_empty() && chance.below(3) == 0)
                        .then(|| chance.below(drifts.len() as u64) as usize);
                    drifts.push(superseded.map_or(tick.micros(), |superseded| drifts[superseded]));
                    let superseded = superseded.map(|superseded| format!("drift-{superseded}"));
                    let since = drifts[drifts.len() - 1];
                    let severity = match chance.below(5) {
                        0 => Some(Severity::Critical),
                        1 => Some(Severity::High),
                        2 => Some(Severity::Medium),
                        3 => Some(Severity::Low),
                        _ => None,
                    };
                    Fact::Drift(format!("drift-{}", drifts.len() - 1), since, severity, superseded)
                }
                2 => {
                    let value = [0, 650_000, 710_000, 850_000, 930_000][chance.below(5) as usize];
                    // The correlation of a period of half an hour, or a correction of an earlier
                    // one.
                    let half = 30 * MINUTE;
                    let to = (tick.micros() / half - chance.below(3) as i64 / 2) * half;
                    Fact::Correlation(format!("group-{}", chance.below(6)), to, value)
                }
                3..5 => {
                    if !claims.is_empty() && chance.below(2) == 0 {
                        let (unknown, fragile) = claims.remove(chance.below(claims.len() as u64) as usize);
                        Fact::Claim(unknown, fragile, -1)
                    } else {
                        let claim = (chance.below(3) == 0, chance.below(2) == 0);
                        claims.push(claim);
                        Fact::Claim(claim.0, claim.1, 1)
                    }
                }
                5 => {
                    let states = [RegionState::Ok, RegionState::Warn, RegionState::Critical];
                    Fact::Region(format!("region-{}", chance.below(3)), states[chance.below(3) as usize])
                }
                _ => {
                    // Half of the rows retract evidence: it was replaced or cancelled, or expired.
                    if !valid.is_empty() && chance.below(2) == 0 {
                        let (claim, expires) = valid.remove(chance.below(valid.len() as u64) as usize);
                        Fact::Evidence(format!("claim-{claim}"), expires, -1)
                    } else {
                        let expires = tick.micros() + (chance.below(90) as i64 - 5) * MINUTE;
                        valid.push((chance.below(3), (chance.below(5) > 0).then_some(expires)));
                        let (claim, expires) = valid[valid.len() - 1];
                        Fact::Evidence(format!("claim-{claim}"), expires, 1)
                    }
                }
            };
            (tick, fact)
        })
        .collect()
}

/// The terms as of a tick, from the beginning and in floats.
fn slow(facts: &[(Tick, Fact)], config: CredibilityConfig, as_of: Tick) -> Terms {
    let now = as_of.micros();
    let mut events: Vec<(i64, &str, f64)> = Vec::new();
    let mut correlations = BTreeMap::<&str, Vec<(i64, i64, f64)>>::new();
    let (mut unknown, mut fragile) = (0, 0);
    let mut valid = BTreeMap::<&str, BTreeMap<i64, i64>>::new();
    let span = config.events_span.map_or(i64::MAX, Span::micros);
    let mut regions = BTreeMap::new();
    for (tick, fact) in facts.iter().filter(|(tick, _)| *tick <= as_of) {
        match fact {
            Fact::Drift(id, since, severity, superseded) => {
                events.retain(|(_, event, _)| Some(*event) != superseded.as_deref());
                // Events that were forgotten by then take no room.
                let counts = |since: i64| since.saturating_add(span) > tick.micros();
                events.retain(|(since, _, _)| counts(*since));
                let weight = severity.map(|severity| match severity {
                    Severity::Critical => 6.0,
                    Severity::High => 2.0,
                    Severity::Medium => 0.3,
                    Severity::Low => 0.0,
                });
                events.extend(weight.filter(|_| counts(*since)).map(|weight| (*since, id.as_str(), weight)));
                events.sort_by_key(|(since, _, _)| *since);
                let surplus = events.len().saturating_sub(config.events_max);
                events.drain(..surplus);
            }
            Fact::Correlation(group, to, value) => {
                let rows = correlations.entry(group).or_default();
                rows.push((*to, tick.micros(), *value as f64 / 1e6));
            }
            Fact::Claim(is_unknown, is_fragile, diff) => {
                unknown += if *is_unknown { *diff } else { 0 };
                fragile += if *is_fragile && !*is_unknown { *diff } else { 0 };
            }
            Fact::Evidence(claim, until, diff) => {
                let valid = valid.entry(claim).or_default();
                until.iter().for_each(|until| *valid.entry(*until).or_default() += diff);
            }
            Fact::Region(region, state) => {
                regions.insert(region, *state);
            }
        }
    }
    events.retain(|(since, _, _)| since.saturating_add(span) > now);
    let weight: f64 = events.iter().map(|(_, _, weight)| weight).sum();
    // Slightly more, so that ten times 0.3 is at least three.
    let drift = (weight * (events.len() as f64 / 50.0).min(1.0) + 1e-9) as i64;
    // The last value of each group's newest period, unless its first detection is too long ago.
    let newest = |rows: &Vec<(i64, i64, f64)>| {
        let newest = rows.iter().map(|(to, _, _)| *to).max()?;
        let of: Vec<_> = rows.iter().filter(|(to, _, _)| *to == newest).collect();
        (of[0].1.saturating_add(span) > now).then_some(of[of.len() - 1].2)
    };
    let correlations: Vec<f64> = correlations.values().filter_map(newest).collect();
    let above = |bound: f64| correlations.iter().filter(|value| **value > bound).count() as i64;
    let greatest = correlations.iter().copied().fold(0.6, f64::max);
    let remaining = |valid: &BTreeMap<i64, i64>| {
        let remaining = valid.iter().filter(|(_, count)| **count > 0).map(|(expires, _)| *expires - now);
        remaining.max().unwrap_or(i64::MIN)
    };
    let ttls =
        |from: i64, to: i64| valid.values().filter(|of| (from..=to).contains(&remaining(of))).count() as i64;
    let expiring_within = config.expiring_within.micros();
    let count = |state| regions.values().filter(|of| **of == state).count() as i64;
    Terms {
        drift: drift.min(15),
        correlation: (3 * above(0.9) + above(0.7) + ((greatest - 0.6) * 5.0 + 1e-9) as i64).min(12),
        quorum: (2 * unknown + fragile).min(10),
        ttl: (2 * ttls(i64::MIN, 0) + ttls(1, expiring_within)).min(6),
        sync: (3 * count(RegionState::Critical) + count(RegionState::Warn)).min(9),
    }
}

fn run(
    facts: &[(Tick, Fact)],
    config: CredibilityConfig,
    upper: Tick,
    batches: Option<usize>,
) -> Vec<TermsChange> {
    let mut index = CredibilityIndex::new(config);
    let mut changes = Vec::new();
    for (row, (tick, fact)) in facts.iter().enumerate() {
        index.apply(*tick, fact.event(), &mut changes);
        // A batch ends at the end of a tick.
        let is_last = facts.get(row + 1).is_none_or(|(next, _)| next > tick);
        if is_last && batches.is_some_and(|rows| row % rows == 0) {
            index.advance_to(tick.next(), &mut changes);
        }
    }
    index.advance_to(upper, &mut changes);
    changes
}

#[test]
fn the_index_equals_its_slow_version_at_every_tick_and_between() {
    for seed in 0..40 {
        let facts = facts(seed);
        let last = facts.last().expect("some").0;
        let upper = Tick::new(last.micros() + 120 * MINUTE, 0).expect("in range");
        let config = match seed % 3 {
            0 => CredibilityConfig { events_max: 500, events_span: None, expiring_within: span(30) },
            1 => CredibilityConfig { events_max: 20, events_span: Some(span(45)), expiring_within: span(30) },
            _ => CredibilityConfig { events_max: 7, events_span: None, expiring_within: span(8) },
        };
        let changes = run(&facts, config, upper, None);
        assert_eq!(changes, run(&facts, config, upper, Some(1)), "seed {seed}: batches");
        assert_eq!(changes, run(&facts, config, upper, Some(7)), "seed {seed}: batches");
        assert!(
            changes.is_sorted_by(|a, b| a.tick < b.tick && b.before == Some((a.tick, a.now))),
            "seed {seed}"
        );
        assert!(
            changes.iter().all(|change| change.before.is_none_or(|(_, before)| before != change.now)),
            "seed {seed}"
        );
        // At the ticks of all facts and of all changes, and right before and after each.
        let ticks = facts.iter().map(|(tick, _)| *tick).chain(changes.iter().map(|change| change.tick));
        for at in ticks.flat_map(|tick| [Tick(tick.0 - 1), tick, tick.next()]) {
            let current = changes.iter().rev().find(|change| change.tick <= at).map(|change| change.now);
            if at >= facts[0].0 && at < upper {
                assert_eq!(current, Some(slow(&facts, config, at)), "seed {seed}, at {at}");
            }
        }
        assert!(changes.len() > 30, "seed {seed}: {} changes", changes.len());
    }
}

/// The minutes before `upper` at which the terms change, and the terms from then on.
fn course(facts: &[(i64, Fact)], config: CredibilityConfig, upper: i64) -> Vec<(i64, Terms)> {
    let tick = |minute: i64| Tick::new(minute * MINUTE, 0).expect("in range");
    let facts: Vec<(Tick, Fact)> = facts.iter().map(|(minute, fact)| (tick(*minute), fact.clone())).collect();
    let changes = run(&facts, config, tick(upper), Some(1));
    changes.into_iter().map(|change| (change.tick.micros() / MINUTE, change.now)).collect()
}

#[test]
fn a_claim_has_expired_when_no_valid_evidence_supports_it() {
    let config = CredibilityConfig { events_max: 500, events_span: None, expiring_within: span(30) };
    let days = |days: i64| Some(days * 24 * 60 * MINUTE);
    let of = |claim: &str, expires, diff| Fact::Evidence(claim.to_owned(), expires, diff);
    let facts = [
        // Valid for 90 days, and replaced after ten minutes by evidence that is valid for one
        // minute.
        (10, of("replaced", days(90), 1)),
        (20, of("replaced", days(90), -1)),
        (20, of("replaced", Some(21 * MINUTE), 1)),
        (21, of("replaced", Some(21 * MINUTE), -1)),
        // Cancelled.
        (30, of("cancelled", days(90), 1)),
        (40, of("cancelled", days(90), -1)),
        // Evidence that cannot support the claim, then evidence that can.
        (50, of("unfit", None, 1)),
        (60, of("unfit", days(90), 1)),
        (70, of("replaced", days(90), 1)),
        // Evidence of two streams; that of one is enough.
        (80, of("cancelled", days(90), 1)),
        (80, of("cancelled", days(80), 1)),
        (90, of("cancelled", days(90), -1)),
    ];
    let course: Vec<(i64, i64)> =
        course(&facts, config, 100).into_iter().map(|(minute, terms)| (minute, terms.ttl)).collect();
    assert_eq!(course, [(10, 0), (20, 1), (21, 2), (40, 4), (50, 6), (60, 4), (70, 2), (80, 0)]);
}

#[test]
fn a_group_without_new_periods_is_forgotten_and_late_facts_do_not_bring_it_back() {
    let config =
        CredibilityConfig { events_max: 500, events_span: Some(span(60)), expiring_within: span(30) };
    let of = |group: &str, to: i64, value| Fact::Correlation(group.to_owned(), to * MINUTE, value);
    let facts = [
        (60, of("silent", 60, 1_000_000)),
        (75, of("other", 75, 0)),
        (90, of("silent", 60, 950_000)),  // A correction,
        (150, of("silent", 60, 920_000)), // one after the group was forgotten,
        (150, of("silent", 45, 990_000)), // and one of an earlier period.
        (200, of("silent", 200, 910_000)),
        (201, of("silent", 60, 0)), // Not the newest.
    ];
    let course: Vec<(i64, i64)> =
        course(&facts, config, 400).into_iter().map(|(minute, terms)| (minute, terms.correlation)).collect();
    assert_eq!(course, [(60, 6), (90, 5), (120, 0), (200, 5), (260, 0)]);
}

#[test]
fn a_harmless_late_fact_does_not_make_a_forgotten_event_count_again() {
    let config =
        CredibilityConfig { events_max: 500, events_span: Some(span(60)), expiring_within: span(30) };
    let of = |id: &str, since: i64, supersedes: Option<&str>| {
        let supersedes = supersedes.map(str::to_owned);
        Fact::Drift(id.to_owned(), since * MINUTE, Some(Severity::Critical), supersedes)
    };
    let mut facts: Vec<(i64, Fact)> = (0..12).map(|n| (60, of(&format!("first-{n}"), 60, None))).collect();
    // A correction within the hour changes nothing, nor does one after it.
    facts.extend((0..12).map(|n| (90, of(&format!("second-{n}"), 60, Some(&format!("first-{n}"))))));
    facts.extend((0..12).map(|n| (300, of(&format!("third-{n}"), 60, Some(&format!("second-{n}"))))));
    let course: Vec<(i64, i64)> =
        course(&facts, config, 500).into_iter().map(|(minute, terms)| (minute, terms.drift)).collect();
    assert_eq!(course, [(60, 15), (120, 0)]);
}
