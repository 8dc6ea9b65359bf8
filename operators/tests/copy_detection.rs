//! `copy_detection` against its slow, obvious version: at every tick, the findings equal those of
//! all rounds that ended, counted again from the first fact, with names instead of numbers and with
//! floats.

mod chance;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use chance::Chance;
use tidegate_facts::payload_schema::timestamp;
use tidegate_facts::{Span, Tick, columns};
use tidegate_operators::core::tick_ordered::TickOperator;
use tidegate_operators::credibility::copy_detection::{CopyConfig, CopyDetection, CopyDetectionColumns};

#[derive(Clone, Debug)]
struct Fact {
    tick: Tick,
    claim: i64,
    stream: String,
    value: Option<i64>,
    time: i64,
}

const COLUMNS: CopyDetectionColumns = CopyDetectionColumns { claim: 1, time: 2, stream: 3, value: 4 };
const ROUND: i64 = 1_000;

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        columns::tick_field(columns::TICK),
        Field::new("claim", DataType::Int64, true),
        Field::new("time", timestamp(), true),
        Field::new("stream", DataType::Utf8, true),
        Field::new("value", DataType::Int64, true),
    ]))
}

fn batch(facts: &[Fact]) -> RecordBatch {
    let times = TimestampMicrosecondArray::from_iter_values(facts.iter().map(|fact| fact.time));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(columns::tick_array(facts.iter().map(|fact| fact.tick))),
        Arc::new(Int64Array::from_iter_values(facts.iter().map(|fact| fact.claim))),
        Arc::new(times.with_timezone("UTC")),
        Arc::new(StringArray::from_iter_values(facts.iter().map(|fact| &fact.stream))),
        Arc::new(facts.iter().map(|fact| fact.value).collect::<Int64Array>()),
    ];
    RecordBatch::try_new(schema(), columns).expect("the columns are the schema's")
}

/// Random facts. Streams a to d are independent. Streams e and f copy from d, f with occasional
/// slips; g copies from a half of the time.
fn facts(seed: u64) -> Vec<Fact> {
    let mut chance = Chance(seed);
    let mut facts: Vec<Fact> = Vec::new();
    let mut tick = Tick::ZERO;
    for round in 0..6 {
        for claim in 0..25 {
            let truth = 100 + chance.below(3) as i64;
            let mut own = |errs: u64| if chance.below(10) < errs { chance.below(3) as i64 } else { truth };
            let (a, b, c, d) = (own(2), own(2), own(4), own(5));
            let f = if chance.below(20) == 0 { truth + 7 } else { d };
            let g = if chance.below(2) == 0 { a } else { truth };
            for (stream, value) in [("a", a), ("b", b), ("c", c), ("d", d), ("e", d), ("f", f), ("g", g)] {
                if chance.below(8) == 0 {
                    continue;
                }
                let late = if chance.below(20) == 0 { chance.below(1_500) as i64 } else { 0 };
                let time = 10_000 + round * ROUND + claim * 30 + chance.below(20) as i64 - late;
                facts.push(Fact {
                    tick: Tick::ZERO,
                    claim,
                    stream: stream.to_owned(),
                    value: (chance.below(15) > 0).then_some(value),
                    time,
                });
            }
        }
    }
    for fact in &mut facts {
        tick = Tick::following(tick, fact.time, chance.below(2) as u16).expect("in range");
        fact.tick = tick;
        if chance.below(40) == 0 {
            fact.time += 5_000; // A clock that is ahead.
        }
    }
    facts
}

/// The findings of the slow version: per stream its family, family size, suspected group and
/// weight; and the suspected pairs.
#[derive(Clone, Debug, Default, PartialEq)]
struct Findings {
    streams: BTreeMap<String, (Option<String>, i64, Option<String>, i64)>,
    pairs: BTreeMap<(String, String), (i64, i64, bool)>,
}

/// How often two streams reported the same value of a contested claim, and how often different
/// ones.
type Contested = BTreeMap<(String, String), (i64, i64)>;

/// The findings after every round, from the beginning.
fn slow(facts: &[Fact], config: CopyConfig) -> Vec<(Tick, Findings)> {
    let mut findings = vec![(Tick::ZERO, Findings::default())];
    let mut round: Option<i64> = None;
    let mut reports: Vec<&Fact> = Vec::new();
    let mut pairs: BTreeMap<(String, String), (i64, i64, f64)> = BTreeMap::new();
    let mut contested = Contested::new();
    let mut records: BTreeMap<String, (i64, i64)> = BTreeMap::new();
    for fact in facts {
        let own = fact.time.min(fact.tick.micros()).div_euclid(ROUND);
        if round.is_some_and(|round| own > round) {
            let before = findings.last().expect("it starts without findings").1.clone();
            count_contested(&reports, &mut contested, &mut records);
            count_errors(&reports, &before, &contested, config, &mut pairs, &mut records);
            findings.push((fact.tick, findings_from(&pairs, &contested, &records, config)));
            reports.clear();
        }
        round = round.max(Some(own));
        reports.push(fact);
    }
    findings
}

/// The newest value that each stream reports on a claim in a round.
fn votes_of<'a>(reports: &[&'a Fact], claim: i64) -> Vec<(&'a str, i64)> {
    let mut newest: BTreeMap<&str, &Fact> = BTreeMap::new();
    let time = |fact: &Fact| fact.time.min(fact.tick.micros());
    for fact in reports.iter().filter(|fact| fact.claim == claim) {
        let other = newest.entry(&fact.stream).or_insert(fact);
        if time(fact) >= time(other) {
            *other = fact;
        }
    }
    newest.iter().filter_map(|(s, f)| Some((*s, f.value?))).collect()
}

fn count_contested(reports: &[&Fact], contested: &mut Contested, records: &mut BTreeMap<String, (i64, i64)>) {
    let claims: BTreeSet<i64> = reports.iter().map(|fact| fact.claim).collect();
    for votes in claims.into_iter().map(|claim| votes_of(reports, claim)) {
        let values: BTreeSet<i64> = votes.iter().map(|(_, value)| *value).collect();
        for (index, (one, value)) in votes.iter().enumerate() {
            records.entry((*one).to_owned()).or_default();
            for (other, others_value) in votes[index + 1..].iter().filter(|_| values.len() > 1) {
                let (same, differing) =
                    contested.entry(((*one).to_owned(), (*other).to_owned())).or_default();
                *if value == others_value { same } else { differing } += 1;
            }
        }
    }
}

/// Floats that differ by less are equal; integers would be exact.
const EPSILON: f64 = 1e-9;

/// Both ends of Wilson's interval at three standard deviations.
fn wilson_interval(yes: i64, no: i64) -> (f64, f64) {
    let n = (yes + no) as f64;
    let (p, z) = (yes as f64 / n, 3.0_f64);
    let middle = p + z * z / (2.0 * n);
    let half = z * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt();
    let scale = 1.0 + z * z / n;
    ((middle - half) / scale, (middle + half) / scale)
}

fn inseparable(contested: &Contested, config: CopyConfig) -> BTreeSet<(String, String)> {
    let similarity_min = f64::from(config.similarity_min) / 1e6;
    let one_source = 1.0 - (1.0 - similarity_min) / 10.0;
    let is_near = |(same, differing): &(i64, i64)| {
        let (low, high) = wilson_interval(*same, *differing);
        low + EPSILON >= similarity_min && high - EPSILON >= one_source
    };
    contested.iter().filter(|(_, of)| is_near(of)).map(|(pair, _)| pair.clone()).collect()
}

/// The streams that pairs connect with a stream.
fn group(stream: &str, pairs: &BTreeSet<(String, String)>) -> BTreeSet<String> {
    let mut members = BTreeSet::from([stream.to_owned()]);
    loop {
        let more: Vec<String> = pairs
            .iter()
            .filter(|(a, b)| members.contains(a) || members.contains(b))
            .flat_map(|(a, b)| [a.clone(), b.clone()])
            .filter(|stream| !members.contains(stream))
            .collect();
        if more.is_empty() {
            return members;
        }
        members.extend(more);
    }
}

/// The value for which each bloc votes, and its weight. A divided bloc does not vote.
fn bloc_votes(
    votes: &[(&str, i64)],
    blocs: &BTreeMap<String, String>,
    findings: &Findings,
) -> BTreeMap<String, (i64, i64)> {
    let mut members: BTreeMap<String, Vec<(&str, i64)>> = BTreeMap::new();
    votes.iter().for_each(|vote| members.entry(blocs[vote.0].clone()).or_default().push(*vote));
    let value_of = |members: &Vec<(&str, i64)>| {
        let count_of = |value: i64| members.iter().filter(|m| m.1 == value).count();
        let values: BTreeSet<i64> = members.iter().map(|m| m.1).collect();
        let most = values.iter().map(|value| count_of(*value)).max().expect("some");
        let mut best = values.into_iter().filter(|value| count_of(*value) == most);
        best.next().filter(|_| best.next().is_none())
    };
    let weight = |members: &Vec<(&str, i64)>, value: i64| {
        let spokesperson =
            members.iter().filter(|m| m.1 == value).map(|m| m.0).min().expect("one member reports it");
        findings.streams.get(spokesperson).map_or(1_000, |k| k.3)
    };
    let votes_by_bloc = members.iter().filter_map(|(name, members)| {
        let value = value_of(members)?;
        Some((name.clone(), (value, weight(members, value))))
    });
    votes_by_bloc.collect()
}

/// The value of most weight, unless two have the same.
fn leading(votes_by_bloc: &BTreeMap<String, (i64, i64)>) -> Option<i64> {
    let mut sums: BTreeMap<i64, i64> = BTreeMap::new();
    votes_by_bloc.values().for_each(|(value, weight)| *sums.entry(*value).or_default() += weight);
    let most = *sums.values().max()?;
    let mut leading = sums.into_iter().filter(|(_, sum)| *sum == most).map(|(value, _)| value);
    leading.next().filter(|_| leading.next().is_none())
}

fn count_errors(
    reports: &[&Fact],
    findings: &Findings,
    contested: &Contested,
    config: CopyConfig,
    pairs: &mut BTreeMap<(String, String), (i64, i64, f64)>,
    records: &mut BTreeMap<String, (i64, i64)>,
) {
    let claims: BTreeSet<i64> = reports.iter().map(|fact| fact.claim).collect();
    let family_pairs: BTreeSet<(String, String)> = findings
        .pairs
        .iter()
        .filter(|(_, (.., is_family))| *is_family)
        .map(|(pair, _)| pair.clone())
        .collect();
    let bloc_pairs = family_pairs.union(&inseparable(contested, config)).cloned().collect();
    let components = |pairs: &BTreeSet<(String, String)>| -> BTreeMap<String, String> {
        records.keys().map(|s| (s.clone(), group(s, pairs).pop_first().expect("itself"))).collect()
    };
    let (families, blocs) = (components(&family_pairs), components(&bloc_pairs));
    for claim in claims {
        let votes = votes_of(reports, claim);
        let votes_by_bloc = bloc_votes(&votes, &families, findings);
        let family = |s: &str| families[s].clone();
        let of_blocs = leading(&bloc_votes(&votes, &blocs, findings));
        let Some(accepted) = leading(&votes_by_bloc).filter(|value| of_blocs == Some(*value)) else {
            continue;
        };
        for (stream, value) in &votes {
            let (right, all) = records.entry((*stream).to_owned()).or_default();
            *right += i64::from(*value == accepted);
            *all += 1;
        }
        for (index, (one, value)) in votes.iter().enumerate() {
            for (other, others_value) in &votes[index + 1..] {
                if *value == accepted && *others_value == accepted {
                    continue;
                }
                let pair = pairs.entry(((*one).to_owned(), (*other).to_owned())).or_default();
                if value != others_value {
                    pair.1 += 1;
                    continue;
                }
                let others: Vec<i64> = votes_by_bloc
                    .iter()
                    .filter(|(name, _)| **name != family(one) && **name != family(other))
                    .map(|(_, (value, _))| *value)
                    .collect();
                let same = others.iter().filter(|other| *other == value).count() as f64;
                pair.0 += 1;
                pair.2 += ((others.len() as f64 + 1.0) / (same + 0.5)).log2();
            }
        }
    }
}

fn findings_from(
    pairs: &BTreeMap<(String, String), (i64, i64, f64)>,
    contested: &Contested,
    records: &BTreeMap<String, (i64, i64)>,
    config: CopyConfig,
) -> Findings {
    let similarity_min = f64::from(config.similarity_min) / 1e6;
    let surprising = pairs
        .iter()
        .filter(|(_, (shared, _, surprise))| *shared > 0 && *surprise >= f64::from(config.evidence_bits_min));
    let mut similar: BTreeMap<(String, String), (i64, i64, bool)> = surprising
        .filter_map(|(pair, (shared, differing, _))| {
            let (low, high) = wilson_interval(*shared, *differing);
            (high - EPSILON >= similarity_min)
                .then(|| (pair.clone(), (*shared, *differing, low + EPSILON >= similarity_min)))
        })
        .collect();
    for pair in inseparable(contested, config) {
        let (shared, differing, _) = pairs.get(&pair).copied().unwrap_or_default();
        similar.entry(pair).or_insert((shared, differing, false));
    }
    let suspected: BTreeSet<_> = similar.keys().cloned().collect();
    let families: BTreeSet<_> =
        similar.iter().filter(|(_, (.., of))| *of).map(|(pair, _)| pair.clone()).collect();
    let mut findings = Findings { pairs: similar.clone(), ..Findings::default() };
    for stream in records.keys().cloned() {
        let [family, suspected] = [group(&stream, &families), group(&stream, &suspected)];
        let least =
            |members: &BTreeSet<String>| (members.len() > 1).then(|| members.first().expect("some").clone());
        let mut weight = 1_000;
        if config.learns_weights {
            let of = |member: &String| records.get(member).copied().unwrap_or_default();
            let right: i64 = family.iter().map(|member| of(member).0).sum::<i64>() + 8;
            let wrong: i64 = family.iter().map(|member| of(member).1 - of(member).0).sum::<i64>() + 2;
            let odds = (right as f64 / wrong as f64).clamp(1.0 / 99.0, 99.0);
            weight = ((100.0 * odds).log2() * 1_000.0) as i64;
        }
        findings
            .streams
            .insert(stream, (least(&family), family.len() as i64, least(&suspected), weight.max(1)));
    }
    findings
}

/// The findings after each change, by the changelogs of a run whose batches are cut at random.
fn fast(facts: &[Fact], config: CopyConfig, chance: &mut Chance) -> Vec<(Tick, Findings)> {
    let mut detection = CopyDetection::new(&schema(), COLUMNS, config);
    let mut rest = facts;
    let mut findings = vec![(Tick::ZERO, Findings::default())];
    while !rest.is_empty() {
        let (now, later) = rest.split_at(1 + chance.below(60.min(rest.len() as u64)) as usize);
        let upper = now[now.len() - 1].tick.next();
        let outputs = detection.advance(&[batch(now)], upper);
        let [streams, pairs] = [&outputs[0], &outputs[1]];
        let text = |batch: &RecordBatch, name: &str, row: usize| {
            let column = batch.column_by_name(name).expect("a column of the schema").as_string::<i32>();
            column.is_valid(row).then(|| column.value(row).to_owned())
        };
        let number = |batch: &RecordBatch, name: &str, row: usize| {
            batch.column_by_name(name).expect("a column of the schema").as_primitive::<Int64Type>().value(row)
        };
        let ticks =
            |batch: &RecordBatch| batch.column(0).as_primitive::<columns::TickType>().values().to_vec();
        let changed: BTreeSet<i64> = ticks(streams).into_iter().chain(ticks(pairs)).collect();
        for tick in changed {
            let mut now = findings.last().expect("it starts without findings").1.clone();
            // Retractions first.
            for applied in [-1, 1] {
                for row in (0..streams.num_rows()).filter(|row| ticks(streams)[*row] == tick) {
                    let stream = text(streams, "stream", row).expect("a stream");
                    let [family, suspected] =
                        ["family", "suspected_group"].map(|name| text(streams, name, row));
                    let finding =
                        (family, number(streams, "size", row), suspected, number(streams, "weight", row));
                    match number(streams, columns::DIFF, row) {
                        -1 if applied == -1 => assert_eq!(now.streams.remove(&stream), Some(finding)),
                        1 if applied == 1 => assert_eq!(now.streams.insert(stream, finding), None),
                        _ => {}
                    }
                }
                for row in (0..pairs.num_rows()).filter(|row| ticks(pairs)[*row] == tick) {
                    let [one, other] =
                        ["stream", "other"].map(|name| text(pairs, name, row).expect("a stream"));
                    let is_family = pairs
                        .column_by_name("is_family")
                        .expect("a column of the schema")
                        .as_boolean()
                        .value(row);
                    let pair =
                        (number(pairs, "shared_wrong", row), number(pairs, "differing", row), is_family);
                    match number(pairs, columns::DIFF, row) {
                        -1 if applied == -1 => assert_eq!(now.pairs.remove(&(one, other)), Some(pair)),
                        1 if applied == 1 => assert_eq!(now.pairs.insert((one, other), pair), None),
                        _ => {}
                    }
                }
            }
            findings.push((Tick(tick), now));
        }
        rest = later;
    }
    findings
}

fn at(findings: &[(Tick, Findings)], tick: Tick) -> &Findings {
    &findings[findings.partition_point(|(since, _)| *since <= tick) - 1].1
}

fn equals_its_slow_version(learns_weights: bool) {
    let config = CopyConfig {
        round: Span::from_micros(ROUND).expect("positive"),
        similarity_min: 850_000,
        evidence_bits_min: 20,
        learns_weights,
    };
    let (mut families, mut suspected) = (0, 0);
    for seed in 0..30 {
        let facts = facts(seed);
        let (slow, fast) = (slow(&facts, config), fast(&facts, config, &mut Chance(seed + 1_000)));
        for fact in &facts {
            let (slow, fast) = (at(&slow, fact.tick), at(&fast, fact.tick));
            assert_eq!(slow.pairs, fast.pairs, "seed {seed}, at {}", fact.tick);
            let is_close = |a: i64, b: i64| (a - b).abs() <= 1;
            let keys = |findings: &Findings| findings.streams.keys().cloned().collect::<Vec<_>>();
            assert_eq!(keys(slow), keys(fast), "seed {seed}, at {}", fact.tick);
            for (stream, one) in &slow.streams {
                let other = &fast.streams[stream];
                let is_same =
                    (&one.0, one.1, &one.2) == (&other.0, other.1, &other.2) && is_close(one.3, other.3);
                assert!(is_same, "seed {seed}, at {}, {stream}: {one:?} and {other:?}", fact.tick);
            }
        }
        let last = &fast.last().expect("some").1;
        families += usize::from(last.pairs.contains_key(&("d".to_owned(), "e".to_owned())));
        suspected += usize::from(last.pairs.contains_key(&("a".to_owned(), "b".to_owned())));
    }
    assert!(families > 20, "{families} of 30 find that e copies from d");
    assert!(suspected < 5, "{suspected} of 30 suspect a and b, which are independent");
}

#[test]
fn findings_equal_those_of_all_rounds_that_ended() {
    equals_its_slow_version(false);
}

#[test]
fn findings_with_weights_equal_those_of_all_rounds_that_ended() {
    equals_its_slow_version(true);
}
