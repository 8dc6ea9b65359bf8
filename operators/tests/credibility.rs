//! The index equals its slow version at every tick: all that was heard, gone through from the beginning.

mod chance;

use std::collections::BTreeMap;

use chance::Chance;
use tidegate_facts::{Span, Tick};
use tidegate_operators::credibility::{Heard, Index, RegionState, Said, Settings, Terms};
use tidegate_operators::drift::severity::Severity;

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
    fn heard(&self) -> Heard<'_> {
        match self {
            Fact::Drift(id, since, severity, supersedes) => {
                Heard::Drift { id, since: *since, severity: *severity, supersedes: supersedes.as_deref() }
            }
            Fact::Correlation(group, to, value) => Heard::Correlation { group, to: *to, value: *value },
            Fact::Claim(is_unknown, is_fragile, diff) => {
                Heard::Claim { is_unknown: *is_unknown, is_fragile: *is_fragile, diff: *diff }
            }
            Fact::Evidence(claim, expires, diff) => Heard::Evidence { claim, expires: *expires, diff: *diff },
            Fact::Region(region, state) => Heard::Region { region, state: *state },
        }
    }
}

fn facts(seed: u64) -> Vec<(Tick, Fact)> {
    let mut chance = Chance(seed);
    let (mut tick, mut now) = (Tick::ZERO, 10_000 * MINUTE);
    let mut standing: Vec<(bool, bool)> = Vec::new();
    // Of each event, since when its period is one.
    let mut drifts: Vec<i64> = Vec::new();
    let mut living: Vec<(u64, Option<i64>)> = Vec::new();
    (0..400)
        .map(|place| {
            now += chance.below(3 * MINUTE as u64) as i64;
            // Some share a tick: what follows from one drift row and one correlation, say.
            if place == 0 || chance.below(5) > 0 {
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
                    // Of a period of half an hour, or of one before it that late facts have corrected.
                    let half = 30 * MINUTE;
                    let to = (tick.micros() / half - chance.below(3) as i64 / 2) * half;
                    Fact::Correlation(format!("group-{}", chance.below(6)), to, value)
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
                    // Every other piece is replaced, cancelled or over.
                    if !living.is_empty() && chance.below(2) == 0 {
                        let (claim, expires) = living.remove(chance.below(living.len() as u64) as usize);
                        Fact::Evidence(format!("claim-{claim}"), expires, -1)
                    } else {
                        let ends = tick.micros() + (chance.below(90) as i64 - 5) * MINUTE;
                        living.push((chance.below(3), (chance.below(5) > 0).then_some(ends)));
                        let (claim, expires) = living[living.len() - 1];
                        Fact::Evidence(format!("claim-{claim}"), expires, 1)
                    }
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
    let mut correlations = BTreeMap::<&str, Vec<(i64, i64, f64)>>::new();
    let (mut unknown, mut fragile) = (0, 0);
    let mut living = BTreeMap::<&str, BTreeMap<i64, i64>>::new();
    let span = settings.events_span.map_or(i64::MAX, Span::micros);
    let mut regions = BTreeMap::new();
    for (tick, fact) in facts.iter().filter(|(tick, _)| *tick <= as_of) {
        match fact {
            Fact::Drift(id, since, severity, superseded) => {
                events.retain(|(_, event, _)| Some(*event) != superseded.as_deref());
                // What was forgotten by then leaves no room behind.
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
                let surplus = events.len().saturating_sub(settings.events_max);
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
                let living = living.entry(claim).or_default();
                until.iter().for_each(|until| *living.entry(*until).or_default() += diff);
            }
            Fact::Region(region, state) => {
                regions.insert(region, *state);
            }
        }
    }
    events.retain(|(since, _, _)| since.saturating_add(span) > now);
    let weight: f64 = events.iter().map(|(_, _, weight)| weight).sum();
    // A hair above, so that 0.3 ten times is three.
    let drift = (weight * (events.len() as f64 / 50.0).min(1.0) + 1e-9) as i64;
    // Of each group the newest period, as it was said last, unless it was said first too long ago.
    let newest = |rows: &Vec<(i64, i64, f64)>| {
        let newest = rows.iter().map(|(to, _, _)| *to).max()?;
        let of: Vec<_> = rows.iter().filter(|(to, _, _)| *to == newest).collect();
        (of[0].1.saturating_add(span) > now).then_some(of[of.len() - 1].2)
    };
    let correlations: Vec<f64> = correlations.values().filter_map(newest).collect();
    let above = |bound: f64| correlations.iter().filter(|value| **value > bound).count() as i64;
    let greatest = correlations.iter().copied().fold(0.6, f64::max);
    let lasts = |living: &BTreeMap<i64, i64>| {
        let ends = living.iter().filter(|(_, count)| **count > 0).map(|(ends, _)| *ends - now);
        ends.max().unwrap_or(i64::MIN)
    };
    let ttls =
        |from: i64, to: i64| living.values().filter(|of| (from..=to).contains(&lasts(of))).count() as i64;
    let short = settings.short.micros();
    let count = |state| regions.values().filter(|of| **of == state).count() as i64;
    Terms {
        drift: drift.min(15),
        correlation: (3 * above(0.9) + above(0.7) + ((greatest - 0.6) * 5.0 + 1e-9) as i64).min(12),
        quorum: (2 * unknown + fragile).min(10),
        ttl: (2 * ttls(i64::MIN, 0) + ttls(1, short)).min(6),
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
    for seed in 0..40 {
        let facts = facts(seed);
        let last = facts.last().expect("some").0;
        let upper = Tick::new(last.micros() + 120 * MINUTE, 0).expect("in range");
        let settings = match seed % 3 {
            0 => Settings { events_max: 500, events_span: None, short: span(30) },
            1 => Settings { events_max: 20, events_span: Some(span(45)), short: span(30) },
            _ => Settings { events_max: 7, events_span: None, short: span(8) },
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

/// The terms from each minute on at which they change, until `upper`.
fn course(facts: &[(i64, Fact)], settings: Settings, upper: i64) -> Vec<(i64, Terms)> {
    let tick = |minute: i64| Tick::new(minute * MINUTE, 0).expect("in range");
    let facts: Vec<(Tick, Fact)> = facts.iter().map(|(minute, fact)| (tick(*minute), fact.clone())).collect();
    let said = run(&facts, settings, tick(upper), Some(1));
    said.into_iter().map(|said| (said.tick.micros() / MINUTE, said.now)).collect()
}

#[test]
fn a_claim_has_run_out_when_nothing_alive_holds_it_up() {
    let settings = Settings { events_max: 500, events_span: None, short: span(30) };
    let days = |days: i64| Some(days * 24 * 60 * MINUTE);
    let of = |claim: &str, expires, diff| Fact::Evidence(claim.to_owned(), expires, diff);
    let facts = [
        // Good for 90 days, and replaced after ten minutes by what is good for one.
        (10, of("replaced", days(90), 1)),
        (20, of("replaced", days(90), -1)),
        (20, of("replaced", Some(21 * MINUTE), 1)),
        (21, of("replaced", Some(21 * MINUTE), -1)),
        // Cancelled.
        (30, of("cancelled", days(90), 1)),
        (40, of("cancelled", days(90), -1)),
        // Never fit; and then there is some that is.
        (50, of("unfit", None, 1)),
        (60, of("unfit", days(90), 1)),
        (70, of("replaced", days(90), 1)),
        // Both streams of a claim; one of them is enough.
        (80, of("cancelled", days(90), 1)),
        (80, of("cancelled", days(80), 1)),
        (90, of("cancelled", days(90), -1)),
    ];
    let course: Vec<(i64, i64)> =
        course(&facts, settings, 100).into_iter().map(|(minute, terms)| (minute, terms.ttl)).collect();
    assert_eq!(course, [(10, 0), (20, 1), (21, 2), (40, 4), (50, 6), (60, 4), (70, 2), (80, 0)]);
}

#[test]
fn a_group_that_falls_silent_is_forgotten_and_late_facts_do_not_call_it_back() {
    let settings = Settings { events_max: 500, events_span: Some(span(60)), short: span(30) };
    let of = |group: &str, to: i64, value| Fact::Correlation(group.to_owned(), to * MINUTE, value);
    let facts = [
        (60, of("silent", 60, 1_000_000)),
        (75, of("other", 75, 0)),
        (90, of("silent", 60, 950_000)),  // Corrected,
        (150, of("silent", 60, 920_000)), // and again when it is forgotten,
        (150, of("silent", 45, 990_000)), // and one before it.
        (200, of("silent", 200, 910_000)),
        (201, of("silent", 60, 0)), // Not the newest.
    ];
    let course: Vec<(i64, i64)> = course(&facts, settings, 400)
        .into_iter()
        .map(|(minute, terms)| (minute, terms.correlation))
        .collect();
    assert_eq!(course, [(60, 6), (90, 5), (120, 0), (200, 5), (260, 0)]);
}

#[test]
fn a_harmless_late_fact_does_not_make_a_forgotten_event_count_again() {
    let settings = Settings { events_max: 500, events_span: Some(span(60)), short: span(30) };
    let of = |id: &str, since: i64, supersedes: Option<&str>| {
        let supersedes = supersedes.map(str::to_owned);
        Fact::Drift(id.to_owned(), since * MINUTE, Some(Severity::Critical), supersedes)
    };
    let mut facts: Vec<(i64, Fact)> = (0..12).map(|n| (60, of(&format!("first-{n}"), 60, None))).collect();
    // A correction within the hour changes nothing; nor does one when it is over.
    facts.extend((0..12).map(|n| (90, of(&format!("second-{n}"), 60, Some(&format!("first-{n}"))))));
    facts.extend((0..12).map(|n| (300, of(&format!("third-{n}"), 60, Some(&format!("second-{n}"))))));
    let course: Vec<(i64, i64)> =
        course(&facts, settings, 500).into_iter().map(|(minute, terms)| (minute, terms.drift)).collect();
    assert_eq!(course, [(60, 15), (120, 0)]);
}
