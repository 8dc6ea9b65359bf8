//! Drift equals its slow, obvious version at every close, whatever comes late and however it is batched.
//!
//! The slow version keeps all facts, and at each close goes through all of them for each key and period, with floats and loops
//! over pairs. Only what a statistic means is shared.

mod chance;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chance::Chance;
use tidegate_facts::{Digest, KeyHash, Span, Tick};
use tidegate_operators::drift::periods::{Shape, row_id};
use tidegate_operators::drift::population::Histogram;
use tidegate_operators::drift::severity::{Bounds, Level, RECURRENCE};
use tidegate_operators::drift::timing_entropy::bin_of;
use tidegate_operators::drift::{BEYOND, Closed, Fact, Kind, Measure, Settings};

const SECOND: i64 = 1_000_000;

#[derive(Clone)]
struct Heard {
    key: String,
    fact: Fact,
}

/// Facts in the order of ticks; some are late, some far too late, some before 1970.
fn facts(seed: u64, kind: &Kind) -> Vec<Heard> {
    let mut chance = Chance(seed);
    let (mut tick, mut now) = (Tick::ZERO, 100_000 * SECOND);
    let storms = chance.below(3) > 0;
    (0..600)
        .map(|_| {
            now +=
                chance.below(4 * SECOND as u64) as i64 + if chance.below(40) == 0 { 90 * SECOND } else { 0 };
            tick = Tick::following(tick, now, chance.below(4) as u16).expect("in range");
            let late = match chance.below(20) {
                0..3 => chance.below(120 * SECOND as u64) as i64,
                3 => chance.below(900 * SECOND as u64) as i64,
                4 if chance.below(10) == 0 => now + 5,
                5 => -(chance.below(60 * SECOND as u64) as i64),
                _ => chance.below(SECOND as u64) as i64,
            };
            let storm = storms && (now / (50 * SECOND)) % 3 == 0;
            let value = match kind {
                Kind::CorrelationDrift => {
                    i64::from(if storm { chance.below(8) > 0 } else { chance.below(9) == 0 })
                }
                Kind::TimingEntropy => chance.below(if storm { 40 * SECOND as u64 } else { 300 }) as i64 - 10,
                Kind::TtlCompression => (20 + chance.below(30) as i64) * SECOND,
                Kind::ExternalMismatch => {
                    chance.below(if storm { 9_000_000 } else { 400_000 }) as i64 - 200_000
                }
                _ => chance.below(if storm { 900_000 } else { 300_000 }) as i64 / 7_000 * 7_000,
            };
            let value = match kind {
                // Rarely, one that is beyond everything.
                Kind::ConfidenceVolatility | Kind::TtlCompression | Kind::ExternalMismatch
                    if chance.below(150) == 0 =>
                {
                    [BEYOND, -BEYOND, i64::MIN][chance.below(3) as usize]
                }
                Kind::ConfidenceVolatility if chance.below(150) == 0 => 1_000_000_000_001,
                _ => value,
            };
            let value = (chance.below(15) > 0).then_some(value);
            let fact = Fact { tick, time: now - late, value, member: KeyHash::from(chance.below(6)) };
            Heard { key: format!("key-{}", chance.below(3)), fact }
        })
        .collect()
}

fn close(fast: i64, slow: f64, within: f64, what: &str) {
    assert!((fast as f64 - slow * 1e6).abs() <= within, "{what}: {fast} and {}", slow * 1e6);
}

fn entropy(of: impl Iterator<Item = usize>) -> f64 {
    let mut counts = BTreeMap::<usize, f64>::new();
    of.for_each(|bin| *counts.entry(bin).or_default() += 1.0);
    let total: f64 = counts.values().sum();
    counts.values().map(|count| -count / total * (count / total).log2()).sum()
}

fn timing(facts: &[Fact]) -> f64 {
    let mut times: Vec<i64> = facts.iter().map(|fact| fact.time).collect();
    times.sort();
    let intervals = times.windows(2).map(|pair| bin_of(pair[1] - pair[0]));
    entropy(intervals) + entropy(facts.iter().filter_map(|fact| fact.value).map(bin_of))
}

fn values(facts: &[Fact]) -> Vec<i64> {
    let mut values: Vec<i64> = facts.iter().filter_map(|fact| fact.value).collect();
    values.sort();
    values
}

/// In tenths of the reference's values, and what is missing.
fn bins(facts: &[Fact], edges: &[i64]) -> Vec<f64> {
    let mut bins = vec![0.0; edges.len() + 2];
    for fact in facts {
        match fact.value {
            Some(value) => bins[edges.iter().filter(|edge| value > **edge).count()] += 1.0,
            None => bins[edges.len() + 1] += 1.0,
        }
    }
    bins
}

fn index(is: &[f64], was: &[f64]) -> f64 {
    let share =
        |bins: &[f64], at: usize| (bins[at] + 0.5) / (bins.iter().sum::<f64>() + 0.5 * bins.len() as f64);
    (0..is.len()).map(|at| (share(is, at) - share(was, at)) * (share(is, at) / share(was, at)).ln()).sum()
}

/// Asserts that the row of a period is what its facts and the reference's say.
fn check(kind: &Kind, row: &Closed, slide: i64, facts: &[Fact], reference: &[Fact], what: &str) {
    let (value, base) = (row.measured.value, row.measured.base);
    match kind {
        Kind::TimingEntropy => {
            close(value, timing(facts) - timing(reference), 12.0, what);
            close(base, timing(reference), 6.0, what);
        }
        Kind::CorrelationDrift => {
            let mut trials = BTreeMap::<(i64, KeyHash), bool>::new();
            for fact in facts {
                let failed = fact.value.is_some_and(|value| value != 0);
                *trials.entry((fact.time.div_euclid(slide), fact.member)).or_default() |= failed;
            }
            let rate = trials.values().filter(|failed| **failed).count() as f64 / trials.len() as f64;
            let (mut pairs, mut both) = (0.0, 0.0);
            for (a, a_failed) in &trials {
                for (b, b_failed) in trials.iter().filter(|(b, _)| b.0 == a.0 && b.1 != a.1) {
                    assert_ne!(a.1, b.1);
                    pairs += 1.0;
                    both += f64::from(u8::from(*a_failed && *b_failed));
                }
            }
            assert!(pairs > 0.0, "{what}: no pairs, and a row");
            close(base, rate, 1.0, what);
            match rate {
                0.0 => assert_eq!(value, 0, "{what}"),
                1.0 => assert_eq!(value, 1_000_000, "{what}"),
                _ => close(value, (both / pairs - rate * rate) / (rate * (1.0 - rate)), 1.0, what),
            }
        }
        Kind::ConfidenceVolatility => {
            let is_beyond = |value: &i64| value.saturating_abs() > 1_000_000_000_000;
            if values(facts).iter().any(is_beyond) {
                assert_eq!((value, row.level), (BEYOND, Level::Red), "{what}");
                return;
            }
            let values = values(facts);
            let mean = values.iter().sum::<i64>() as f64 / values.len() as f64;
            let squares = values.iter().map(|v| (*v as f64 - mean).powi(2)).sum::<f64>();
            close(value, (squares / values.len() as f64).sqrt() / 1e6, 1.5, what);
            close(base, mean / 1e6, 1.0, what);
        }
        Kind::TtlCompression if beyond(facts) => {
            assert_eq!((value, row.level), (-BEYOND, Level::Red), "{what}");
        }
        Kind::TtlCompression => {
            let mut members = BTreeMap::<KeyHash, Vec<i64>>::new();
            let stated: Vec<&Fact> = facts.iter().filter(|fact| fact.value.is_some()).collect();
            stated.iter().for_each(|fact| members.entry(fact.member).or_default().push(fact.time));
            let mut intervals = Vec::new();
            for times in members.values_mut() {
                times.sort();
                intervals.extend(times.windows(2).map(|pair| (pair[1] - pair[0]) as f64));
            }
            let interval = intervals.iter().sum::<f64>() / intervals.len() as f64;
            let ttl = stated.iter().filter_map(|fact| fact.value).sum::<i64>() as f64 / stated.len() as f64;
            close(value, ttl / interval, 1.0, what);
            close(base, interval / 1e6, 1.0, what);
        }
        Kind::ExternalMismatch => {
            let far: Vec<i64> = facts.iter().filter_map(|fact| fact.value).map(i64::saturating_abs).collect();
            assert_eq!(Some(&value), far.iter().max(), "{what}");
            assert!(row.level == Level::Red || !beyond(facts), "{what}");
            let beyond = far.iter().filter(|far| **far > 500_000).count();
            close(base, beyond as f64 / far.len() as f64, 1.0, what);
        }
        Kind::Psi(declared) => {
            let (edges, was) = match declared {
                Some(Histogram { edges, counts }) => {
                    let counts = counts.iter().map(|count| *count as f64).chain([0.0]);
                    (edges.clone(), counts.collect())
                }
                None => {
                    let sorted = values(reference);
                    let tenth = |tenth: usize| sorted.get((sorted.len() * tenth / 10).max(1) - 1).copied();
                    let edges = BTreeSet::from_iter((1..10).filter_map(tenth));
                    let edges: Vec<i64> = edges.into_iter().collect();
                    let was = bins(reference, &edges);
                    (edges, was)
                }
            };
            let is = bins(facts, &edges);
            close(value, index(&is, &was), 40.0, what);
            close(base, is[is.len() - 1] / facts.len() as f64, 1.0, what);
        }
        Kind::KolmogorovSmirnov(declared) => {
            let is = values(facts);
            let was = values(reference);
            let share =
                |of: &[i64], at: i64| of.iter().filter(|v| **v <= at).count() as f64 / of.len() as f64;
            let greatest = match declared {
                Some(Histogram { edges, counts }) => edges
                    .iter()
                    .enumerate()
                    .map(|(place, edge)| {
                        let upto =
                            counts[..=place].iter().sum::<u64>() as f64 / counts.iter().sum::<u64>() as f64;
                        (share(&is, *edge) - upto).abs()
                    })
                    .fold(0.0, f64::max),
                None => {
                    let points = is.iter().chain(&was);
                    points.map(|at| (share(&is, *at) - share(&was, *at)).abs()).fold(0.0, f64::max)
                }
            };
            close(value, greatest, 1.0, what);
            let total = declared.as_ref().map_or(was.len() as u64, |d| d.counts.iter().sum()) as f64;
            let count = is.len() as f64;
            close(base, 1.358 * ((count + total) / (count * total)).sqrt(), 2.0, what);
        }
    }
}

/// Whether a value is beyond what can be represented.
fn beyond(facts: &[Fact]) -> bool {
    facts.iter().filter_map(|fact| fact.value).any(|value| value.saturating_abs() == BEYOND)
}

/// Whether the facts decide the statistic at all.
fn decides(kind: &Kind, slide: i64, facts: &[Fact], reference: &[Fact]) -> bool {
    let stated = || facts.iter().filter(|fact| fact.value.is_some());
    let pair = |same: &dyn Fn(&Fact, &Fact) -> bool| {
        stated().enumerate().any(|(at, a)| stated().skip(at + 1).any(|b| same(a, b)))
    };
    match kind {
        Kind::CorrelationDrift => facts.iter().any(|a| {
            facts.iter().any(|b| a.member != b.member && a.time.div_euclid(slide) == b.time.div_euclid(slide))
        }),
        Kind::TtlCompression => beyond(facts) || pair(&|a, b| a.member == b.member && a.time != b.time),
        Kind::ConfidenceVolatility | Kind::ExternalMismatch => stated().count() > 0,
        Kind::KolmogorovSmirnov(declared) => {
            stated().count() > 0 && (declared.is_some() || reference.iter().any(|fact| fact.value.is_some()))
        }
        Kind::TimingEntropy | Kind::Psi(_) => true,
    }
}

/// What was said of a period, to the slow version.
struct Said {
    content: usize,
    row: Closed,
    /// When it became the drift event that stands.
    raised: Option<(i64, u32)>,
    /// When it was first one.
    since: Option<Tick>,
    newest_event: Option<Digest>,
}

/// Goes through all closes and all facts; every row of `rows` is accounted for.
fn account_for(settings: &Settings, facts: &[Heard], mut rows: Vec<Closed>, upper: Tick, what: &str) {
    let Settings { kind, bounds, periods, name } = settings;
    let Shape { width, slide, delay, lateness_max, rows_min, settles } = periods;
    let (width, slide) = (width.micros(), slide.micros());
    rows.sort_by_key(|row| (row.tick, row.key.clone(), row.to));
    let mut rows = rows.into_iter();
    let mut said = BTreeMap::<(String, i64), Said>::new();
    let mut references = BTreeMap::<String, Vec<Fact>>::new();
    let mut raised = BTreeMap::<String, Vec<(i64, i64)>>::new();
    let keys: BTreeSet<&str> = facts.iter().map(|heard| heard.key.as_str()).collect();
    let first = facts.iter().map(|heard| heard.fact.time).filter(|time| *time >= 0).min().unwrap_or(0);
    // The first period of a key begins so long after its first fact that is not too late for all.
    let settled: BTreeMap<&str, i64> = keys
        .iter()
        .map(|key| {
            let in_time = facts.iter().find(|Heard { key: of, fact }| {
                let last = fact.time.div_euclid(slide) * slide + width;
                let close = ((fact.tick.micros() - delay).div_euclid(slide) + 1) * slide;
                of == key && fact.time >= 0 && close <= last + (lateness_max + slide - 1) / slide * slide
            });
            let first = in_time.map_or(i64::MIN, |heard| heard.fact.time);
            (*key, settles.map_or(i64::MIN, |span| first.saturating_add(span.micros())))
        })
        .collect();
    let mut end = first.div_euclid(slide) * slide;
    loop {
        let due = Tick::new(end + delay, 0).expect("in range");
        if due >= upper {
            break;
        }
        for key in &keys {
            let known: Vec<Fact> = facts
                .iter()
                .filter(|heard| heard.key == *key && heard.fact.tick < due && heard.fact.time >= 0)
                .map(|heard| heard.fact)
                .collect();
            let mut to = end;
            let mut ends = Vec::new();
            // Corrected at closes, until the first that is `lateness_max` after its own.
            while to + (lateness_max + slide - 1) / slide * slide >= end && to >= first - width {
                ends.push(to);
                to -= slide;
            }
            for to in ends.into_iter().rev() {
                let in_period: Vec<Fact> =
                    known.iter().filter(|fact| (to - width..to).contains(&fact.time)).copied().collect();
                let before = said.get(&((*key).to_owned(), to));
                if in_period.is_empty()
                    || to - width < settled[key]
                    || (in_period.len() as u64) < *rows_min
                    || before.is_some_and(|said| said.content == in_period.len())
                {
                    continue;
                }
                let reference = references.entry((*key).to_owned()).or_insert_with(|| in_period.clone());
                if !decides(kind, slide, &in_period, reference) {
                    continue;
                }
                let row =
                    rows.next().unwrap_or_else(|| panic!("{what}: no row for {key} until {to} at {due}"));
                let where_ = format!("{what}, {key} until {to}, at {due}");
                assert_eq!((row.tick, &*row.key, row.from, row.to), (due, *key, to - width, to), "{where_}");
                check(kind, &row, slide, &in_period, reference, &where_);
                assert_eq!(row.rows, in_period.len() as u64, "{where_}");
                assert_eq!(Some(row.first), in_period.iter().map(|fact| fact.tick).min(), "{where_}");
                assert_eq!(Some(row.last), in_period.iter().map(|fact| fact.tick).max(), "{where_}");
                assert_eq!(row.level, bounds.level(row.measured.value), "{where_}");
                assert_eq!(row.revision, before.map_or(1, |said| said.row.revision + 1), "{where_}");
                assert_eq!(row.supersedes, before.map(|said| said.row.id), "{where_}");
                assert_eq!(row.id, row_id(name, key, row.from, row.to, row.revision), "{where_}");
                let standing = before.and_then(|said| said.raised);
                let newest_event = before.and_then(|said| said.newest_event);
                let list = raised.entry((*key).to_owned()).or_default();
                let now = due.micros();
                let raised = if row.level == Level::Green {
                    list.retain(|(_, of)| *of != to);
                    None
                } else if standing.is_some() {
                    standing
                } else {
                    list.push((now, to));
                    Some((now, list.iter().filter(|(at, _)| *at > now - RECURRENCE).count() as u32))
                };
                assert_eq!(row.event.is_some(), raised.is_some() || standing.is_some(), "{where_}");
                if let Some(event) = &row.event {
                    assert_eq!(event.recurrence, raised.map_or(0, |(_, recurrence)| recurrence), "{where_}");
                    assert_eq!(event.supersedes, newest_event, "{where_}");
                }
                let is_one = (row.level > Level::Green).then_some(due);
                let since = before.and_then(|said| said.since).or(is_one);
                assert_eq!(
                    row.event.as_ref().map(|event| event.since),
                    since.filter(|_| row.event.is_some()),
                    "{where_}"
                );
                let newest_event = if row.event.is_some() { Some(row.id) } else { newest_event };
                said.insert(
                    ((*key).to_owned(), to),
                    Said { content: in_period.len(), row, raised, since, newest_event },
                );
            }
        }
        end += slide;
    }
    assert_eq!(rows.next(), None, "{what}: a row too many");
}

fn run(settings: &Settings, facts: &[Heard], upper: Tick, batches: usize) -> Vec<Closed> {
    let mut measure = Measure::new(settings.clone());
    let mut closed = Vec::new();
    for batch in facts.chunks(batches) {
        for heard in batch {
            measure.close_before(heard.fact.tick.next(), &mut closed);
            measure.hear(&heard.key, &heard.fact);
        }
        let last = batch.last().expect("not empty").fact.tick;
        measure.close_before(last.next(), &mut closed);
    }
    measure.close_before(upper, &mut closed);
    assert!(closed.is_sorted_by_key(|row| row.tick));
    closed
}

fn settings(kind: Kind, width: i64, slide: i64, delay: i64, lateness_max: i64, rows_min: u64) -> Settings {
    let bounds = match kind {
        Kind::TtlCompression => Bounds { yellow: 4_000_000, red: 2_000_000, falling: true },
        Kind::ExternalMismatch => Bounds { yellow: 500_000, red: 5_000_000, falling: false },
        Kind::TimingEntropy => Bounds { yellow: 300_000, red: 1_000_000, falling: false },
        _ => Bounds { yellow: 150_000, red: 300_000, falling: false },
    };
    let span = |seconds: i64| Span::from_micros(seconds * SECOND).expect("positive");
    let periods = Shape {
        width: span(width),
        slide: span(slide),
        delay: delay * SECOND,
        lateness_max: lateness_max * SECOND,
        rows_min,
        settles: None,
    };
    Settings { name: Arc::from(kind.name()), kind, bounds, periods }
}

fn kinds() -> Vec<Kind> {
    let declared = Histogram { edges: vec![50_000, 150_000, 400_000], counts: vec![20, 30, 45, 5] };
    vec![
        Kind::TimingEntropy,
        Kind::CorrelationDrift,
        Kind::ConfidenceVolatility,
        Kind::TtlCompression,
        Kind::ExternalMismatch,
        Kind::Psi(None),
        Kind::Psi(Some(declared.clone())),
        Kind::KolmogorovSmirnov(None),
        Kind::KolmogorovSmirnov(Some(declared)),
    ]
}

#[test]
fn every_statistic_equals_its_slow_version_at_every_close() {
    let shapes = [(60, 60, 0, 0, 1), (60, 60, 10, 200, 4), (120, 30, 0, 150, 3), (200, 50, 7, 33, 2)];
    for kind in kinds() {
        let mut corrections = 0;
        let mut taken_back = 0;
        for seed in 0..12 {
            let facts = facts(seed, &kind);
            let last = facts.last().expect("some").fact.tick;
            let upper = Tick::new(last.micros() + 400 * SECOND, 0).expect("in range");
            for (width, slide, delay, lateness_max, rows_min) in shapes {
                let mut settings = settings(kind.clone(), width, slide, delay, lateness_max, rows_min);
                if kind.learns() && seed % 2 == 0 {
                    settings.periods.settles = Span::from_micros((width + 70) * SECOND);
                }
                let what = format!("{}, seed {seed}, width {width}, slide {slide}", kind.name());
                let rows = run(&settings, &facts, upper, 1);
                corrections += rows.iter().filter(|row| row.supersedes.is_some()).count();
                taken_back +=
                    rows.iter().filter(|row| row.level == Level::Green && row.event.is_some()).count();
                assert_eq!(rows, run(&settings, &facts, upper, 1_000_000), "{what}: batches");
                assert_eq!(rows, run(&settings, &facts, upper, 17), "{what}: batches");
                account_for(&settings, &facts, rows, upper, &what);
            }
        }
        assert!(corrections > 50, "{}: nothing was corrected", kind.name());
        let taken_back_of_all = kind == Kind::ExternalMismatch || taken_back > 0;
        assert!(taken_back_of_all, "{}: no event was taken back", kind.name());
    }
}

#[test]
fn the_end_of_input_is_not_the_end_of_time() {
    // What is due at the last tick or before it is closed, and nothing else.
    let kind = Kind::ConfidenceVolatility;
    let settings = settings(kind.clone(), 120, 30, 0, 60, 1);
    let facts = facts(3, &kind);
    let last = facts.last().expect("some").fact.tick;
    let rows = run(&settings, &facts, last.next(), 10);
    account_for(&settings, &facts, rows.clone(), last.next(), "until the last tick");
    assert!(rows.iter().all(|row| row.tick <= last));
}

#[test]
fn members_that_fail_together_are_told_from_those_that_fail_as_often_each_for_itself() {
    // Six members in forty panes; each fails in a tenth of them, together or spread out.
    let settings = settings(Kind::CorrelationDrift, 2400, 60, 0, 0, 1);
    for together in [true, false] {
        let mut measure = Measure::new(settings.clone());
        let mut closed = Vec::new();
        let start = 24_000 * 10 * SECOND;
        for pane in 0..40_i64 {
            for member in 0..6_i64 {
                let failed = if together { pane % 10 == 0 } else { (pane + member * 7) % 10 == 0 };
                let time = start + (pane * 60 + member) * SECOND;
                let tick = Tick::new(time, 0).expect("in range");
                let value = Some(i64::from(failed));
                measure.close_before(tick.next(), &mut closed);
                measure.hear("group", &Fact { tick, time, value, member: member as KeyHash });
            }
        }
        measure.close_before(Tick::new(start + 2400 * SECOND, 1).expect("in range"), &mut closed);
        let row = closed.iter().find(|row| row.from == start).expect("the whole period");
        assert_eq!(row.measured.base, 100_000, "each fails one time in ten");
        if together {
            assert_eq!(row.measured.value, 1_000_000);
        } else {
            assert!(row.measured.value < 0, "{}", row.measured.value);
        }
    }
}

/// The levels of a key's periods of a hundred seconds, of what `value` gives for each second.
fn levels(settings: &Settings, seconds: i64, value: impl Fn(i64) -> i64) -> Vec<(i64, Level)> {
    let fact = |second: i64| {
        let tick = Tick::new((1000 + second) * SECOND, 0).expect("in range");
        Fact { tick, time: tick.micros(), value: Some(value(second)), member: second as KeyHash % 3 }
    };
    let heard: Vec<Heard> =
        (0..seconds).map(|second| Heard { key: "key".to_owned(), fact: fact(second) }).collect();
    let upper = Tick::new((1000 + seconds) * SECOND, 1).expect("in range");
    let rows = run(settings, &heard, upper, 10);
    rows.iter().map(|row| (row.from / SECOND / 100 - 10, row.level)).collect()
}

#[test]
fn what_fills_slowly_is_held_against_its_first_full_period_and_still_seen_to_change() {
    // It fills for 250 seconds, stays as it is, and changes at 900.
    let value = |second: i64| {
        let full = second.min(250) * 3_000 + second % 7;
        if second < 900 { full } else { full / 2 }
    };
    let mut settings = settings(Kind::Psi(None), 100, 100, 0, 0, 1);
    let unsettled = levels(&settings, 1200, value);
    let red: Vec<i64> =
        unsettled.iter().filter(|(_, level)| *level == Level::Red).map(|(period, _)| *period).collect();
    assert_eq!(red, (1..12).collect::<Vec<_>>(), "held against the first, all others are red");

    settings.periods.settles = Span::from_micros(250 * SECOND);
    let (green, red) = (Level::Green, Level::Red);
    let settled: Vec<(i64, Level)> =
        (3..12).map(|period| (period, if period < 9 { green } else { red })).collect();
    assert_eq!(levels(&settings, 1200, value), settled);
}

#[test]
fn a_value_beyond_what_can_be_represented_makes_its_period_red_whatever_the_bounds() {
    for (kind, falling) in
        [(Kind::ExternalMismatch, false), (Kind::ConfidenceVolatility, false), (Kind::TtlCompression, true)]
    {
        let far = BEYOND - 1;
        let (yellow, red) = if falling { (-far, -far) } else { (far, far) };
        for extreme in [BEYOND, -BEYOND, i64::MIN] {
            let mut settings = settings(kind.clone(), 100, 100, 0, 0, 1);
            settings.bounds = Bounds { yellow, red, falling };
            let value = |second: i64| if second == 150 { extreme } else { 500_000 };
            let wanted = [Level::Green, Level::Red, Level::Green];
            let wanted: Vec<(i64, Level)> = (0..).zip(wanted).collect();
            assert_eq!(levels(&settings, 300, value), wanted, "{}, {extreme}", kind.name());
        }
    }
}
