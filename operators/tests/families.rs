//! `families` beside its slow, obvious version: at every tick, what is known of streams is what all rounds that ended say,
//! counted again from the first fact with names for numbers and roots for squares.

mod chance;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray, UInt64Array,
};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, UInt64Type};
use chance::Chance;
use tidegate_facts::schema::timestamp;
use tidegate_facts::{Span, Tick, columns};
use tidegate_operators::families::{Learn, Learning, Places};
use tidegate_operators::ordered::Ordered;

#[derive(Clone, Debug)]
struct Fact {
    tick: Tick,
    claim: i64,
    stream: String,
    value: Option<i64>,
    time: i64,
}

const PLACES: Places = Places { claim: 1, time: 2, stream: 3, value: 4 };
const PERIOD: i64 = 1_000;

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new(columns::TICK, DataType::UInt64, false),
        Field::new("claim", DataType::Int64, true),
        Field::new("time", timestamp(), true),
        Field::new("stream", DataType::Utf8, true),
        Field::new("value", DataType::Int64, true),
    ]))
}

fn batch(facts: &[Fact]) -> RecordBatch {
    let times = TimestampMicrosecondArray::from_iter_values(facts.iter().map(|fact| fact.time));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(UInt64Array::from_iter_values(facts.iter().map(|fact| fact.tick.0))),
        Arc::new(Int64Array::from_iter_values(facts.iter().map(|fact| fact.claim))),
        Arc::new(times.with_timezone("UTC")),
        Arc::new(StringArray::from_iter_values(facts.iter().map(|fact| &fact.stream))),
        Arc::new(facts.iter().map(|fact| fact.value).collect::<Int64Array>()),
    ];
    RecordBatch::try_new(schema(), columns).expect("the columns are the schema's")
}

/// Streams a to d are their own; e and f copy from d, f with a slip now and then; g copies from a only some of the time.
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
                let time = 10_000 + round * PERIOD + claim * 30 + chance.below(20) as i64 - late;
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
    }
    facts
}

/// What the slow version knows: of streams (stream, family, size, kin, right, count, weight), and of pairs.
#[derive(Clone, Debug, Default, PartialEq)]
struct Known {
    streams: BTreeMap<String, (Option<String>, i64, Option<String>, i64)>,
    pairs: BTreeMap<(String, String), (i64, i64, bool)>,
}

/// Every round that ended, from the beginning.
fn slow(facts: &[Fact], learn: Learn) -> Vec<(Tick, Known)> {
    let mut known = vec![(Tick::ZERO, Known::default())];
    let mut round: Option<i64> = None;
    let mut said: Vec<&Fact> = Vec::new();
    let mut pairs: BTreeMap<(String, String), (i64, i64, f64)> = BTreeMap::new();
    let mut records: BTreeMap<String, (i64, i64)> = BTreeMap::new();
    for fact in facts {
        let own = fact.time.div_euclid(PERIOD);
        if round.is_some_and(|round| own > round) {
            let before = known.last().expect("nothing, at first").1.clone();
            count(&said, &before, &mut pairs, &mut records);
            known.push((fact.tick, judge(&pairs, &records, learn)));
            said.clear();
        }
        round = round.max(Some(own));
        said.push(fact);
    }
    known
}

fn count(
    said: &[&Fact],
    known: &Known,
    pairs: &mut BTreeMap<(String, String), (i64, i64, f64)>,
    records: &mut BTreeMap<String, (i64, i64)>,
) {
    let claims: BTreeSet<i64> = said.iter().map(|fact| fact.claim).collect();
    for claim in claims {
        let mut newest: BTreeMap<&str, &Fact> = BTreeMap::new();
        for fact in said.iter().filter(|fact| fact.claim == claim) {
            let other = newest.entry(&fact.stream).or_insert(fact);
            if fact.time >= other.time {
                *other = fact;
            }
        }
        let votes: Vec<(&str, i64)> = newest.iter().filter_map(|(s, f)| Some((*s, f.value?))).collect();
        let family = |s: &str| known.streams.get(s).and_then(|k| k.0.clone()).unwrap_or(format!("alone {s}"));
        let weight = |s: &str| known.streams.get(s).map_or(1_000, |k| k.3);
        let mut voices: BTreeMap<String, Vec<(&str, i64)>> = BTreeMap::new();
        votes.iter().for_each(|vote| voices.entry(family(vote.0)).or_default().push(*vote));
        let voice = |members: &Vec<(&str, i64)>| {
            let many = |value: i64| members.iter().filter(|m| m.1 == value).count();
            members.iter().map(|m| m.1).max_by_key(|v| (many(*v), std::cmp::Reverse(*v))).expect("some")
        };
        let spoken: BTreeMap<String, (i64, i64)> = voices
            .iter()
            .map(|(name, members)| (name.clone(), (voice(members), weight(members[0].0))))
            .collect();
        let mut sums: BTreeMap<i64, i64> = BTreeMap::new();
        spoken.values().for_each(|(value, weight)| *sums.entry(*value).or_default() += weight);
        let Some(most) = sums.values().max() else { continue };
        let leading: Vec<i64> =
            sums.iter().filter(|(_, sum)| *sum == most).map(|(value, _)| *value).collect();
        let [accepted] = leading[..] else { continue };
        for (stream, value) in &votes {
            let (right, all) = records.entry((*stream).to_owned()).or_default();
            *right += i64::from(*value == accepted);
            *all += 1;
        }
        for (place, (one, value)) in votes.iter().enumerate() {
            for (other, theirs) in &votes[place + 1..] {
                if *value == accepted && *theirs == accepted {
                    continue;
                }
                let pair = pairs.entry(((*one).to_owned(), (*other).to_owned())).or_default();
                if value != theirs {
                    pair.1 += 1;
                    continue;
                }
                let others: Vec<i64> = spoken
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

fn judge(
    pairs: &BTreeMap<(String, String), (i64, i64, f64)>,
    records: &BTreeMap<String, (i64, i64)>,
    learn: Learn,
) -> Known {
    let alike = f64::from(learn.alike) / 1e6;
    // Both ends of Wilson's interval at three standard deviations.
    let ends = |shared: i64, differing: i64| {
        let n = (shared + differing) as f64;
        let (p, z) = (shared as f64 / n, 3.0_f64);
        let middle = p + z * z / (2.0 * n);
        let half = z * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt();
        let scale = 1.0 + z * z / n;
        ((middle - half) / scale, (middle + half) / scale)
    };
    let surprising =
        pairs.iter().filter(|(_, (shared, _, bits))| *shared > 0 && *bits >= f64::from(learn.bits));
    let near: BTreeMap<(String, String), (i64, i64, bool)> = surprising
        .filter_map(|(pair, (shared, differing, _))| {
            let (low, high) = ends(*shared, *differing);
            (high >= alike).then(|| (pair.clone(), (*shared, *differing, low >= alike)))
        })
        .collect();
    let group = |stream: &str, shown: bool| {
        let mut members = BTreeSet::from([stream.to_owned()]);
        loop {
            let more: Vec<String> = near
                .iter()
                .filter(|(_, (.., is_family))| *is_family || !shown)
                .filter(|((a, b), _)| members.contains(a) || members.contains(b))
                .flat_map(|((a, b), _)| [a.clone(), b.clone()])
                .filter(|stream| !members.contains(stream))
                .collect();
            if more.is_empty() {
                return members;
            }
            members.extend(more);
        }
    };
    let mut named: BTreeSet<String> = near.keys().flat_map(|(a, b)| [a.clone(), b.clone()]).collect();
    if learn.weighs {
        named.extend(records.keys().cloned());
    }
    let mut known = Known { pairs: near.clone(), ..Known::default() };
    for stream in named {
        let [family, kin] = [group(&stream, true), group(&stream, false)];
        let least =
            |members: &BTreeSet<String>| (members.len() > 1).then(|| members.first().expect("some").clone());
        let mut weight = 1_000;
        if learn.weighs {
            let of = |member: &String| records.get(member).copied().unwrap_or_default();
            let right: i64 = family.iter().map(|member| of(member).0).sum::<i64>() + 8;
            let wrong: i64 = family.iter().map(|member| of(member).1 - of(member).0).sum::<i64>() + 2;
            let odds = (right as f64 / wrong as f64).clamp(1.0 / 99.0, 99.0);
            weight = ((100.0 * odds).log2() * 1_000.0) as i64;
        }
        known.streams.insert(stream, (least(&family), family.len() as i64, least(&kin), weight.max(1)));
    }
    known
}

/// The changelogs of a run whose batches are cut by chance, as what is known after each change.
fn fast(facts: &[Fact], learn: Learn, chance: &mut Chance) -> Vec<(Tick, Known)> {
    let mut learning = Learning::new(&schema(), PLACES, learn);
    let mut rest = facts;
    let mut known = vec![(Tick::ZERO, Known::default())];
    while !rest.is_empty() {
        let (now, later) = rest.split_at(1 + chance.below(60.min(rest.len() as u64)) as usize);
        let upper = now[now.len() - 1].tick.next();
        let given = learning.advance(&[batch(now)], upper);
        let [streams, pairs] = [&given[0], &given[1]];
        let text = |batch: &RecordBatch, name: &str, row: usize| {
            let column = batch.column_by_name(name).expect("given").as_string::<i32>();
            column.is_valid(row).then(|| column.value(row).to_owned())
        };
        let number = |batch: &RecordBatch, name: &str, row: usize| {
            batch.column_by_name(name).expect("given").as_primitive::<Int64Type>().value(row)
        };
        let ticks = |batch: &RecordBatch| batch.column(0).as_primitive::<UInt64Type>().values().to_vec();
        let changed: BTreeSet<u64> = ticks(streams).into_iter().chain(ticks(pairs)).collect();
        for tick in changed {
            let mut now = known.last().expect("nothing, at first").1.clone();
            // What is so no longer first.
            for wanted in [-1, 1] {
                for row in (0..streams.num_rows()).filter(|row| ticks(streams)[*row] == tick) {
                    let stream = text(streams, "stream", row).expect("a stream");
                    let [family, kin] = ["family", "kin"].map(|name| text(streams, name, row));
                    let said = (family, number(streams, "size", row), kin, number(streams, "weight", row));
                    match number(streams, columns::DIFF, row) {
                        -1 if wanted == -1 => assert_eq!(now.streams.remove(&stream), Some(said)),
                        1 if wanted == 1 => assert_eq!(now.streams.insert(stream, said), None),
                        _ => {}
                    }
                }
                for row in (0..pairs.num_rows()).filter(|row| ticks(pairs)[*row] == tick) {
                    let [one, other] =
                        ["stream", "other"].map(|name| text(pairs, name, row).expect("a stream"));
                    let is_family = pairs.column_by_name("is_family").expect("given").as_boolean().value(row);
                    let said =
                        (number(pairs, "shared_wrong", row), number(pairs, "differing", row), is_family);
                    match number(pairs, columns::DIFF, row) {
                        -1 if wanted == -1 => assert_eq!(now.pairs.remove(&(one, other)), Some(said)),
                        1 if wanted == 1 => assert_eq!(now.pairs.insert((one, other), said), None),
                        _ => {}
                    }
                }
            }
            known.push((Tick(tick), now));
        }
        rest = later;
    }
    known
}

fn at(known: &[(Tick, Known)], tick: Tick) -> &Known {
    &known[known.partition_point(|(since, _)| *since <= tick) - 1].1
}

fn equals_its_slow_version(weighs: bool) {
    let learn =
        Learn { period: Span::from_micros(PERIOD).expect("positive"), alike: 850_000, bits: 20, weighs };
    let (mut families, mut kin) = (0, 0);
    for seed in 0..30 {
        let facts = facts(seed);
        let (slow, fast) = (slow(&facts, learn), fast(&facts, learn, &mut Chance(seed + 1_000)));
        for fact in &facts {
            let (slow, fast) = (at(&slow, fact.tick), at(&fast, fact.tick));
            assert_eq!(slow.pairs, fast.pairs, "seed {seed}, at {}", fact.tick);
            let near = |a: i64, b: i64| (a - b).abs() <= 1;
            let keys = |known: &Known| known.streams.keys().cloned().collect::<Vec<_>>();
            assert_eq!(keys(slow), keys(fast), "seed {seed}, at {}", fact.tick);
            for (stream, one) in &slow.streams {
                let other = &fast.streams[stream];
                let is_same =
                    (&one.0, one.1, &one.2) == (&other.0, other.1, &other.2) && near(one.3, other.3);
                assert!(is_same, "seed {seed}, at {}, {stream}: {one:?} and {other:?}", fact.tick);
            }
        }
        let last = &fast.last().expect("some").1;
        families += usize::from(last.pairs.contains_key(&("d".to_owned(), "e".to_owned())));
        kin += usize::from(last.pairs.contains_key(&("a".to_owned(), "b".to_owned())));
    }
    assert!(families > 20, "{families} of 30: e copies from d");
    assert!(kin < 5, "{kin} of 30: a and b are each their own");
}

#[test]
fn what_is_known_is_what_all_rounds_that_ended_say() {
    equals_its_slow_version(false);
}

#[test]
fn with_weights_too() {
    equals_its_slow_version(true);
}
