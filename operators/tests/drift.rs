//! Drift measures against their slow, obvious version: the same rows at every close, for any late
//! facts and any batches.
//!
//! The slow version stores all facts. At each close it goes through all of them for each key and
//! period, with floats and loops over pairs. The two share only the definitions of the statistics.

mod chance;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chance::Chance;
use tidegate_facts::{Digest, KeyHash, Span, Tick};
use tidegate_operators::credibility::drift::distribution::Histogram;
use tidegate_operators::credibility::drift::periods::{PeriodConfig, row_id};
use tidegate_operators::credibility::drift::severity::{Bounds, DriftLevel, RECURRENCE};
use tidegate_operators::credibility::drift::timing_entropy::bin_of;
use tidegate_operators::credibility::drift::{
    BEYOND, ClosedPeriod, DriftMeasure, MeasureConfig, Observation, StatisticKind,
};

const SECOND: i64 = 1_000_000;

#[derive(Clone)]
struct KeyedFact {
    key: String,
    fact: Observation,
}

/// Random facts in the order of ticks; some are late, some too late for every period, some before
/// 1970.
fn facts(seed: u64, kind: &StatisticKind) -> Vec<KeyedFact> {
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
                StatisticKind::CorrelationDrift => {
                    i64::from(if storm { chance.below(8) > 0 } else { chance.below(9) == 0 })
                }
                StatisticKind::TimingEntropy => {
                    chance.below(if storm { 40 * SECOND as u64 } else { 300 }) as i64 - 10
                }
                StatisticKind::TtlCompression => (20 + chance.below(30) as i64) * SECOND,
                StatisticKind::ExternalMismatch => {
                    chance.below(if storm { 9_000_000 } else { 400_000 }) as i64 - 200_000
                }
                _ => chance.below(if storm { 900_000 } else { 300_000 }) as i64 / 7_000 * 7_000,
            };
            let value = match kind {
                // Rarely, a value beyond the representable range.
                StatisticKind::ConfidenceVolatility
                | StatisticKind::TtlCompression
                | StatisticKind::ExternalMismatch
                    if chance.below(150) == 0 =>
                {
                    [BEYOND, -BEYOND, i64::MIN][chance.below(3) as usize]
                }
                StatisticKind::ConfidenceVolatility if chance.below(150) == 0 => 1_000_000_000_001,
                _ => value,
            };
            let value = (chance.below(15) > 0).then_some(value);
            let fact = Observation { tick, time: now - late, value, member: KeyHash::from(chance.below(6)) };
            KeyedFact { key: format!("key-{}", chance.below(3)), fact }
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

fn timing(facts: &[Observation]) -> f64 {
    let mut times: Vec<i64> = facts.iter().map(|fact| fact.time).collect();
    times.sort();
    let intervals = times.windows(2).map(|pair| bin_of(pair[1] - pair[0]));
    entropy(intervals) + entropy(facts.iter().filter_map(|fact| fact.value).map(bin_of))
}

fn values(facts: &[Observation]) -> Vec<i64> {
    let mut values: Vec<i64> = facts.iter().filter_map(|fact| fact.value).collect();
    values.sort();
    values
}

/// The counts of values in each bin, and of missing values.
fn bins(facts: &[Observation], edges: &[i64]) -> Vec<f64> {
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

/// Asserts that the row of a period follows from its facts and those of the reference.
fn check(
    kind: &StatisticKind,
    row: &ClosedPeriod,
    slide: i64,
    facts: &[Observation],
    reference: &[Observation],
    what: &str,
) {
    let (value, base) = (row.measurement.value, row.measurement.base);
    match kind {
        StatisticKind::TimingEntropy => {
            close(value, timing(facts) - timing(reference), 12.0, what);
            close(base, timing(reference), 6.0, what);
        }
        StatisticKind::CorrelationDrift => {
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
        StatisticKind::ConfidenceVolatility => {
            let is_beyond = |value: &i64| value.saturating_abs() > 1_000_000_000_000;
            if values(facts).iter().any(is_beyond) {
                assert_eq!((value, row.level), (BEYOND, DriftLevel::Red), "{what}");
                return;
            }
            let values = values(facts);
            let mean = values.iter().sum::<i64>() as f64 / values.len() as f64;
            let squares = values.iter().map(|v| (*v as f64 - mean).powi(2)).sum::<f64>();
            close(value, (squares / values.len() as f64).sqrt() / 1e6, 1.5, what);
            close(base, mean / 1e6, 1.0, what);
        }
        StatisticKind::TtlCompression if beyond(facts) => {
            assert_eq!((value, row.level), (-BEYOND, DriftLevel::Red), "{what}");
        }
        StatisticKind::TtlCompression => {
            let mut members = BTreeMap::<KeyHash, Vec<i64>>::new();
            let stated: Vec<&Observation> = facts.iter().filter(|fact| fact.value.is_some()).collect();
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
        StatisticKind::ExternalMismatch => {
            let far: Vec<i64> = facts.iter().filter_map(|fact| fact.value).map(i64::saturating_abs).collect();
            assert_eq!(Some(&value), far.iter().max(), "{what}");
            assert!(row.level == DriftLevel::Red || !beyond(facts), "{what}");
            let beyond = far.iter().filter(|far| **far > 500_000).count();
            close(base, beyond as f64 / far.len() as f64, 1.0, what);
        }
        StatisticKind::Psi(declared) => {
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
        StatisticKind::KolmogorovSmirnov(declared) => {
            let is = values(facts);
            let was = values(reference);
            let share =
                |of: &[i64], at: i64| of.iter().filter(|v| **v <= at).count() as f64 / of.len() as f64;
            let greatest = match declared {
                Some(Histogram { edges, counts }) => edges
                    .iter()
                    .enumerate()
                    .map(|(index, edge)| {
                        let upto =
                            counts[..=index].iter().sum::<u64>() as f64 / counts.iter().sum::<u64>() as f64;
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

/// Whether a value is beyond the representable range.
fn beyond(facts: &[Observation]) -> bool {
    facts.iter().filter_map(|fact| fact.value).any(|value| value.saturating_abs() == BEYOND)
}

/// Whether the facts determine the statistic.
fn decides(kind: &StatisticKind, slide: i64, facts: &[Observation], reference: &[Observation]) -> bool {
    let stated = || facts.iter().filter(|fact| fact.value.is_some());
    let pair = |same: &dyn Fn(&Observation, &Observation) -> bool| {
        stated().enumerate().any(|(at, a)| stated().skip(at + 1).any(|b| same(a, b)))
    };
    match kind {
        StatisticKind::CorrelationDrift => facts.iter().any(|a| {
            facts.iter().any(|b| a.member != b.member && a.time.div_euclid(slide) == b.time.div_euclid(slide))
        }),
        StatisticKind::TtlCompression => {
            beyond(facts) || pair(&|a, b| a.member == b.member && a.time != b.time)
        }
        StatisticKind::ConfidenceVolatility | StatisticKind::ExternalMismatch => stated().count() > 0,
        StatisticKind::KolmogorovSmirnov(declared) => {
            stated().count() > 0 && (declared.is_some() || reference.iter().any(|fact| fact.value.is_some()))
        }
        StatisticKind::TimingEntropy | StatisticKind::Psi(_) => true,
    }
}

/// The latest row of a period, as the slow version expects it.
struct Reported {
    content: usize,
    row: ClosedPeriod,
    /// When the period became the drift event that it is, and its recurrence.
    raised: Option<(i64, u32)>,
    /// When the period first was an event.
    since: Option<Tick>,
    newest_event: Option<Digest>,
}

/// Goes through all closes and all facts, and asserts that `rows` has exactly the expected rows.
fn check_rows(
    config: &MeasureConfig,
    facts: &[KeyedFact],
    mut rows: Vec<ClosedPeriod>,
    upper: Tick,
    what: &str,
) {
    let MeasureConfig { kind, bounds, periods, name } = config;
    let PeriodConfig { width, slide, delay, lateness_max, rows_min, warm_up } = periods;
    let (width, slide) = (width.micros(), slide.micros());
    rows.sort_by_key(|row| (row.tick, row.key.clone(), row.to));
    let mut rows = rows.into_iter();
    let mut reported = BTreeMap::<(String, i64), Reported>::new();
    let mut references = BTreeMap::<String, Vec<Observation>>::new();
    let mut raised = BTreeMap::<String, Vec<(i64, i64)>>::new();
    let keys: BTreeSet<&str> = facts.iter().map(|keyed| keyed.key.as_str()).collect();
    let first = facts.iter().map(|keyed| keyed.fact.time).filter(|time| *time >= 0).min().unwrap_or(0);
    // A key's warm-up begins with its first fact that is not too late for every period.
    let warm_from: BTreeMap<&str, i64> = keys
        .iter()
        .map(|key| {
            let in_time = facts.iter().find(|KeyedFact { key: of, fact }| {
                let last = fact.time.div_euclid(slide) * slide + width;
                let close = ((fact.tick.micros() - delay).div_euclid(slide) + 1) * slide;
                of == key && fact.time >= 0 && close <= last + (lateness_max + slide - 1) / slide * slide
            });
            let first = in_time.map_or(i64::MIN, |keyed| keyed.fact.time);
            (*key, warm_up.map_or(i64::MIN, |span| first.saturating_add(span.micros())))
        })
        .collect();
    let mut end = first.div_euclid(slide) * slide;
    loop {
        let due = Tick::new(end + delay, 0).expect("in range");
        if due >= upper {
            break;
        }
        for key in &keys {
            let earlier: Vec<Observation> = facts
                .iter()
                .filter(|keyed| keyed.key == *key && keyed.fact.tick < due && keyed.fact.time >= 0)
                .map(|keyed| keyed.fact)
                .collect();
            let mut to = end;
            let mut ends = Vec::new();
            // A period is corrected until the first close that is `lateness_max` after its own.
            while to + (lateness_max + slide - 1) / slide * slide >= end && to >= first - width {
                ends.push(to);
                to -= slide;
            }
            for to in ends.into_iter().rev() {
                let in_period: Vec<Observation> =
                    earlier.iter().filter(|fact| (to - width..to).contains(&fact.time)).copied().collect();
                let before = reported.get(&((*key).to_owned(), to));
                if in_period.is_empty()
                    || to - width < warm_from[key]
                    || (in_period.len() as u64) < *rows_min
                    || before.is_some_and(|before| before.content == in_period.len())
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
                assert_eq!(row.level, bounds.level(row.measurement.value), "{where_}");
                assert_eq!(row.revision, before.map_or(1, |before| before.row.revision + 1), "{where_}");
                assert_eq!(row.supersedes, before.map(|before| before.row.id), "{where_}");
                assert_eq!(row.id, row_id(name, key, row.from, row.to, row.revision), "{where_}");
                let current = before.and_then(|before| before.raised);
                let newest_event = before.and_then(|before| before.newest_event);
                let list = raised.entry((*key).to_owned()).or_default();
                let now = due.micros();
                let raised = if row.level == DriftLevel::Green {
                    list.retain(|(_, of)| *of != to);
                    None
                } else if current.is_some() {
                    current
                } else {
                    list.push((now, to));
                    Some((now, list.iter().filter(|(at, _)| *at > now - RECURRENCE).count() as u32))
                };
                assert_eq!(row.event.is_some(), raised.is_some() || current.is_some(), "{where_}");
                if let Some(event) = &row.event {
                    assert_eq!(event.recurrence, raised.map_or(0, |(_, recurrence)| recurrence), "{where_}");
                    assert_eq!(event.supersedes, newest_event, "{where_}");
                }
                let newly_since = (row.level > DriftLevel::Green).then_some(due);
                let since = before.and_then(|before| before.since).or(newly_since);
                assert_eq!(
                    row.event.as_ref().map(|event| event.since),
                    since.filter(|_| row.event.is_some()),
                    "{where_}"
                );
                let newest_event = if row.event.is_some() { Some(row.id) } else { newest_event };
                reported.insert(
                    ((*key).to_owned(), to),
                    Reported { content: in_period.len(), row, raised, since, newest_event },
                );
            }
        }
        end += slide;
    }
    assert_eq!(rows.next(), None, "{what}: no further row");
}

fn run(config: &MeasureConfig, facts: &[KeyedFact], upper: Tick, batches: usize) -> Vec<ClosedPeriod> {
    let mut measure = DriftMeasure::new(config.clone());
    let mut closed = Vec::new();
    for batch in facts.chunks(batches) {
        for keyed in batch {
            measure.close_before(keyed.fact.tick.next(), &mut closed);
            measure.add(&keyed.key, &keyed.fact);
        }
        let last = batch.last().expect("not empty").fact.tick;
        measure.close_before(last.next(), &mut closed);
    }
    measure.close_before(upper, &mut closed);
    assert!(closed.is_sorted_by_key(|row| row.tick));
    closed
}

fn config(
    kind: StatisticKind,
    width: i64,
    slide: i64,
    delay: i64,
    lateness_max: i64,
    rows_min: u64,
) -> MeasureConfig {
    let bounds = match kind {
        StatisticKind::TtlCompression => Bounds { yellow: 4_000_000, red: 2_000_000, falling: true },
        StatisticKind::ExternalMismatch => Bounds { yellow: 500_000, red: 5_000_000, falling: false },
        StatisticKind::TimingEntropy => Bounds { yellow: 300_000, red: 1_000_000, falling: false },
        _ => Bounds { yellow: 150_000, red: 300_000, falling: false },
    };
    let span = |seconds: i64| Span::from_micros(seconds * SECOND).expect("positive");
    let periods = PeriodConfig {
        width: span(width),
        slide: span(slide),
        delay: delay * SECOND,
        lateness_max: lateness_max * SECOND,
        rows_min,
        warm_up: None,
    };
    MeasureConfig { name: Arc::from(kind.name()), kind, bounds, periods }
}

fn kinds() -> Vec<StatisticKind> {
    let declared = Histogram { edges: vec![50_000, 150_000, 400_000], counts: vec![20, 30, 45, 5] };
    vec![
        StatisticKind::TimingEntropy,
        StatisticKind::CorrelationDrift,
        StatisticKind::ConfidenceVolatility,
        StatisticKind::TtlCompression,
        StatisticKind::ExternalMismatch,
        StatisticKind::Psi(None),
        StatisticKind::Psi(Some(declared.clone())),
        StatisticKind::KolmogorovSmirnov(None),
        StatisticKind::KolmogorovSmirnov(Some(declared)),
    ]
}

#[test]
fn every_statistic_equals_its_slow_version_at_every_close() {
    let periods = [(60, 60, 0, 0, 1), (60, 60, 10, 200, 4), (120, 30, 0, 150, 3), (200, 50, 7, 33, 2)];
    for kind in kinds() {
        let mut corrections = 0;
        let mut retracted = 0;
        for seed in 0..12 {
            let facts = facts(seed, &kind);
            let last = facts.last().expect("some").fact.tick;
            let upper = Tick::new(last.micros() + 400 * SECOND, 0).expect("in range");
            for (width, slide, delay, lateness_max, rows_min) in periods {
                let mut config = config(kind.clone(), width, slide, delay, lateness_max, rows_min);
                if kind.learns_reference() && seed % 2 == 0 {
                    config.periods.warm_up = Span::from_micros((width + 70) * SECOND);
                }
                let what = format!("{}, seed {seed}, width {width}, slide {slide}", kind.name());
                let rows = run(&config, &facts, upper, 1);
                corrections += rows.iter().filter(|row| row.supersedes.is_some()).count();
                retracted +=
                    rows.iter().filter(|row| row.level == DriftLevel::Green && row.event.is_some()).count();
                assert_eq!(rows, run(&config, &facts, upper, 1_000_000), "{what}: batches");
                assert_eq!(rows, run(&config, &facts, upper, 17), "{what}: batches");
                check_rows(&config, &facts, rows, upper, &what);
            }
        }
        assert!(corrections > 50, "{}: nothing was corrected", kind.name());
        let has_retraction = kind == StatisticKind::ExternalMismatch || retracted > 0;
        assert!(has_retraction, "{}: no event was retracted", kind.name());
    }
}

#[test]
fn the_end_of_input_is_not_the_end_of_time() {
    // Exactly the periods that are due up to the last tick are closed.
    let kind = StatisticKind::ConfidenceVolatility;
    let config = config(kind.clone(), 120, 30, 0, 60, 1);
    let facts = facts(3, &kind);
    let last = facts.last().expect("some").fact.tick;
    let rows = run(&config, &facts, last.next(), 10);
    check_rows(&config, &facts, rows.clone(), last.next(), "until the last tick");
    assert!(rows.iter().all(|row| row.tick <= last));
}

#[test]
fn members_that_fail_together_differ_from_members_that_fail_as_often_independently() {
    // Six members in forty panes; each fails in a tenth of them, all together or spread out.
    let config = config(StatisticKind::CorrelationDrift, 2400, 60, 0, 0, 1);
    for together in [true, false] {
        let mut measure = DriftMeasure::new(config.clone());
        let mut closed = Vec::new();
        let start = 24_000 * 10 * SECOND;
        for pane in 0..40_i64 {
            for member in 0..6_i64 {
                let failed = if together { pane % 10 == 0 } else { (pane + member * 7) % 10 == 0 };
                let time = start + (pane * 60 + member) * SECOND;
                let tick = Tick::new(time, 0).expect("in range");
                let value = Some(i64::from(failed));
                measure.close_before(tick.next(), &mut closed);
                measure.add("group", &Observation { tick, time, value, member: member as KeyHash });
            }
        }
        measure.close_before(Tick::new(start + 2400 * SECOND, 1).expect("in range"), &mut closed);
        let row = closed.iter().find(|row| row.from == start).expect("the whole period");
        assert_eq!(row.measurement.base, 100_000, "each fails one time in ten");
        if together {
            assert_eq!(row.measurement.value, 1_000_000);
        } else {
            assert!(row.measurement.value < 0, "{}", row.measurement.value);
        }
    }
}

/// The level of each period of a hundred seconds of one key, whose fact of each second has this
/// `value`.
fn levels(config: &MeasureConfig, seconds: i64, value: impl Fn(i64) -> i64) -> Vec<(i64, DriftLevel)> {
    let fact = |second: i64| {
        let tick = Tick::new((1000 + second) * SECOND, 0).expect("in range");
        Observation { tick, time: tick.micros(), value: Some(value(second)), member: second as KeyHash % 3 }
    };
    let keyed: Vec<KeyedFact> =
        (0..seconds).map(|second| KeyedFact { key: "key".to_owned(), fact: fact(second) }).collect();
    let upper = Tick::new((1000 + seconds) * SECOND, 1).expect("in range");
    let rows = run(config, &keyed, upper, 10);
    rows.iter().map(|row| (row.from / SECOND / 100 - 10, row.level)).collect()
}

#[test]
fn a_statistic_that_fills_slowly_is_compared_with_its_first_full_period() {
    // The value grows for 250 seconds, is stable, and changes at 900.
    let value = |second: i64| {
        let full = second.min(250) * 3_000 + second % 7;
        if second < 900 { full } else { full / 2 }
    };
    let mut config = config(StatisticKind::Psi(None), 100, 100, 0, 0, 1);
    let without_warm_up = levels(&config, 1200, value);
    let red: Vec<i64> = without_warm_up
        .iter()
        .filter(|(_, level)| *level == DriftLevel::Red)
        .map(|(period, _)| *period)
        .collect();
    assert_eq!(red, (1..12).collect::<Vec<_>>(), "compared with the first period, all others are red");

    config.periods.warm_up = Span::from_micros(250 * SECOND);
    let (green, red) = (DriftLevel::Green, DriftLevel::Red);
    let expected: Vec<(i64, DriftLevel)> =
        (3..12).map(|period| (period, if period < 9 { green } else { red })).collect();
    assert_eq!(levels(&config, 1200, value), expected);
}

#[test]
fn a_value_beyond_the_representable_range_makes_its_period_red_whatever_the_bounds() {
    for (kind, falling) in [
        (StatisticKind::ExternalMismatch, false),
        (StatisticKind::ConfidenceVolatility, false),
        (StatisticKind::TtlCompression, true),
    ] {
        let far = BEYOND - 1;
        let (yellow, red) = if falling { (-far, -far) } else { (far, far) };
        for extreme in [BEYOND, -BEYOND, i64::MIN] {
            let mut config = config(kind.clone(), 100, 100, 0, 0, 1);
            config.bounds = Bounds { yellow, red, falling };
            let value = |second: i64| if second == 150 { extreme } else { 500_000 };
            let expected = [DriftLevel::Green, DriftLevel::Red, DriftLevel::Green];
            let expected: Vec<(i64, DriftLevel)> = (0..).zip(expected).collect();
            assert_eq!(levels(&config, 300, value), expected, "{}, {extreme}", kind.name());
        }
    }
}
