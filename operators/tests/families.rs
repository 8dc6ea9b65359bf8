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
        if chance.below(40) == 0 {
            fact.time += 5_000; // A clock that is ahead.
        }
    }
    facts
}

/// What the slow version knows: of streams (stream, family, size, kin, right, count, weight), and of pairs.
#[derive(Clone, Debug, Default, PartialEq)]
struct Known {
    streams: BTreeMap<String, (Option<String>, i64, Option<String>, i64)>,
    pairs: BTreeMap<(String, String), (i64, i64, bool)>,
}

/// How often two streams gave the same value of a contested claim, and how often they did not.
type Contested = BTreeMap<(String, String), (i64, i64)>;

/// Every round that ended, from the beginning.
fn slow(facts: &[Fact], learn: Learn) -> Vec<(Tick, Known)> {
    let mut known = vec![(Tick::ZERO, Known::default())];
    let mut round: Option<i64> = None;
    let mut said: Vec<&Fact> = Vec::new();
    let mut pairs: BTreeMap<(String, String), (i64, i64, f64)> = BTreeMap::new();
    let mut contested = Contested::new();
    let mut records: BTreeMap<String, (i64, i64)> = BTreeMap::new();
    for fact in facts {
        let own = fact.time.min(fact.tick.micros()).div_euclid(PERIOD);
        if round.is_some_and(|round| own > round) {
            let before = known.last().expect("nothing, at first").1.clone();
            compare(&said, &mut contested, &mut records);
            count(&said, &before, &contested, learn, &mut pairs, &mut records);
            known.push((fact.tick, judge(&pairs, &contested, &records, learn)));
            said.clear();
        }
        round = round.max(Some(own));
        said.push(fact);
    }
    known
}

/// What each stream said last of a claim in a round.
fn votes_of<'a>(said: &[&'a Fact], claim: i64) -> Vec<(&'a str, i64)> {
    let mut newest: BTreeMap<&str, &Fact> = BTreeMap::new();
    let time = |fact: &Fact| fact.time.min(fact.tick.micros());
    for fact in said.iter().filter(|fact| fact.claim == claim) {
        let other = newest.entry(&fact.stream).or_insert(fact);
        if time(fact) >= time(other) {
            *other = fact;
        }
    }
    newest.iter().filter_map(|(s, f)| Some((*s, f.value?))).collect()
}

fn compare(said: &[&Fact], contested: &mut Contested, records: &mut BTreeMap<String, (i64, i64)>) {
    let claims: BTreeSet<i64> = said.iter().map(|fact| fact.claim).collect();
    for votes in claims.into_iter().map(|claim| votes_of(said, claim)) {
        let values: BTreeSet<i64> = votes.iter().map(|(_, value)| *value).collect();
        for (place, (one, value)) in votes.iter().enumerate() {
            records.entry((*one).to_owned()).or_default();
            for (other, theirs) in votes[place + 1..].iter().filter(|_| values.len() > 1) {
                let (same, differing) =
                    contested.entry(((*one).to_owned(), (*other).to_owned())).or_default();
                *if value == theirs { same } else { differing } += 1;
            }
        }
    }
}

/// What is nearer to a bound than this is on it, where whole numbers would be exact: sure.
const EVEN: f64 = 1e-9;

/// Both ends of Wilson's interval at three standard deviations.
fn ends(yes: i64, no: i64) -> (f64, f64) {
    let n = (yes + no) as f64;
    let (p, z) = (yes as f64 / n, 3.0_f64);
    let middle = p + z * z / (2.0 * n);
    let half = z * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt();
    let scale = 1.0 + z * z / n;
    ((middle - half) / scale, (middle + half) / scale)
}

fn inseparable(contested: &Contested, learn: Learn) -> BTreeSet<(String, String)> {
    let alike = f64::from(learn.alike) / 1e6;
    let nearer = 1.0 - (1.0 - alike) / 10.0;
    let is_near = |(same, differing): &(i64, i64)| {
        let (low, high) = ends(*same, *differing);
        low + EVEN >= alike && high - EVEN >= nearer
    };
    contested.iter().filter(|(_, of)| is_near(of)).map(|(pair, _)| pair.clone()).collect()
}

/// Who is connected with a stream.
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

/// What each voice says, and its weight; one that is divided says nothing.
fn spoken_by(
    votes: &[(&str, i64)],
    voices: &BTreeMap<String, String>,
    known: &Known,
) -> BTreeMap<String, (i64, i64)> {
    let mut members: BTreeMap<String, Vec<(&str, i64)>> = BTreeMap::new();
    votes.iter().for_each(|vote| members.entry(voices[vote.0].clone()).or_default().push(*vote));
    let voice = |members: &Vec<(&str, i64)>| {
        let many = |value: i64| members.iter().filter(|m| m.1 == value).count();
        let given: BTreeSet<i64> = members.iter().map(|m| m.1).collect();
        let most = given.iter().map(|value| many(*value)).max().expect("some");
        let mut best = given.into_iter().filter(|value| many(*value) == most);
        best.next().filter(|_| best.next().is_none())
    };
    let weight = |members: &Vec<(&str, i64)>, value: i64| {
        let speaker = members.iter().filter(|m| m.1 == value).map(|m| m.0).min().expect("one gives it");
        known.streams.get(speaker).map_or(1_000, |k| k.3)
    };
    let spoken = members.iter().filter_map(|(name, members)| {
        let value = voice(members)?;
        Some((name.clone(), (value, weight(members, value))))
    });
    spoken.collect()
}

/// The value of most weight, if there is one.
fn leading(spoken: &BTreeMap<String, (i64, i64)>) -> Option<i64> {
    let mut sums: BTreeMap<i64, i64> = BTreeMap::new();
    spoken.values().for_each(|(value, weight)| *sums.entry(*value).or_default() += weight);
    let most = *sums.values().max()?;
    let mut leading = sums.into_iter().filter(|(_, sum)| *sum == most).map(|(value, _)| value);
    leading.next().filter(|_| leading.next().is_none())
}

fn count(
    said: &[&Fact],
    known: &Known,
    contested: &Contested,
    learn: Learn,
    pairs: &mut BTreeMap<(String, String), (i64, i64, f64)>,
    records: &mut BTreeMap<String, (i64, i64)>,
) {
    let claims: BTreeSet<i64> = said.iter().map(|fact| fact.claim).collect();
    let shown: BTreeSet<(String, String)> =
        known.pairs.iter().filter(|(_, (.., is_family))| *is_family).map(|(pair, _)| pair.clone()).collect();
    let blocs = shown.union(&inseparable(contested, learn)).cloned().collect();
    let voices = |pairs: &BTreeSet<(String, String)>| -> BTreeMap<String, String> {
        records.keys().map(|s| (s.clone(), group(s, pairs).pop_first().expect("itself"))).collect()
    };
    let (families, blocs) = (voices(&shown), voices(&blocs));
    for claim in claims {
        let votes = votes_of(said, claim);
        let spoken = spoken_by(&votes, &families, known);
        let family = |s: &str| families[s].clone();
        let of_blocs = leading(&spoken_by(&votes, &blocs, known));
        let Some(accepted) = leading(&spoken).filter(|value| of_blocs == Some(*value)) else { continue };
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
    contested: &Contested,
    records: &BTreeMap<String, (i64, i64)>,
    learn: Learn,
) -> Known {
    let alike = f64::from(learn.alike) / 1e6;
    let surprising =
        pairs.iter().filter(|(_, (shared, _, bits))| *shared > 0 && *bits >= f64::from(learn.bits));
    let mut near: BTreeMap<(String, String), (i64, i64, bool)> = surprising
        .filter_map(|(pair, (shared, differing, _))| {
            let (low, high) = ends(*shared, *differing);
            (high - EVEN >= alike).then(|| (pair.clone(), (*shared, *differing, low + EVEN >= alike)))
        })
        .collect();
    for pair in inseparable(contested, learn) {
        let (shared, differing, _) = pairs.get(&pair).copied().unwrap_or_default();
        near.entry(pair).or_insert((shared, differing, false));
    }
    let kin: BTreeSet<_> = near.keys().cloned().collect();
    let shown: BTreeSet<_> = near.iter().filter(|(_, (.., of))| *of).map(|(pair, _)| pair.clone()).collect();
    let mut known = Known { pairs: near.clone(), ..Known::default() };
    for stream in records.keys().cloned() {
        let [family, kin] = [group(&stream, &shown), group(&stream, &kin)];
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
