//! `expire` beside its slow, obvious version: at every tick, whoever lives by a scan of all rows lives by the changelog.

mod chance;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
    UInt64Array,
};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, UInt64Type};
use chance::Chance;
use tidegate_facts::schema::timestamp;
use tidegate_facts::{Tick, columns};
use tidegate_operators::expire::{Expire, Places};
use tidegate_operators::ordered::Ordered;

#[derive(Clone, Debug)]
struct Fact {
    tick: Tick,
    key: Option<i64>,
    time: Option<i64>,
    ttl: Option<i64>,
    cancels: bool,
    word: String,
}

const PLACES: Places = Places { key: 1, time: 3, ttl: 5, cancel: Some(4), given: 4 };

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new(columns::TICK, DataType::UInt64, false),
        Field::new("key", DataType::Int64, true),
        Field::new("word", DataType::Utf8, false),
        Field::new("time", timestamp(), true),
        Field::new("cancels", DataType::Boolean, true),
        Field::new("ttl", DataType::Int64, true),
    ]))
}

fn batch(facts: &[Fact]) -> RecordBatch {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(UInt64Array::from_iter_values(facts.iter().map(|fact| fact.tick.0))),
        Arc::new(facts.iter().map(|fact| fact.key).collect::<Int64Array>()),
        Arc::new(StringArray::from_iter_values(facts.iter().map(|fact| &fact.word))),
        Arc::new(
            facts.iter().map(|fact| fact.time).collect::<TimestampMicrosecondArray>().with_timezone("UTC"),
        ),
        Arc::new(BooleanArray::from_iter(facts.iter().map(|fact| Some(fact.cancels)))),
        Arc::new(facts.iter().map(|fact| fact.ttl).collect::<Int64Array>()),
    ];
    RecordBatch::try_new(schema(), columns).expect("the columns are the schema's")
}

fn facts(seed: u64) -> Vec<Fact> {
    let mut chance = Chance(seed);
    let (mut tick, mut now) = (Tick::ZERO, 1_000);
    (0..300)
        .map(|place| {
            now += chance.below(5) as i64;
            tick = Tick::following(tick, now, chance.below(3) as u16).expect("in range");
            // Late facts, short lives, lives that end in one microsecond, and what has no key, time or life.
            let late = if chance.below(4) == 0 { chance.below(40) as i64 } else { 0 };
            Fact {
                tick,
                key: (chance.below(30) > 0).then(|| chance.below(8) as i64),
                time: (chance.below(30) > 0).then_some(now - late),
                ttl: (chance.below(30) > 0).then(|| chance.below(30) as i64),
                cancels: chance.below(10) == 0,
                word: format!("word {place}"),
            }
        })
        .collect()
}

/// What lives at `at`, when all facts with ticks up to it were heard, by key.
fn living(facts: &[Fact], at: Tick) -> Vec<String> {
    let mut stands: BTreeMap<i64, (i64, Option<(Tick, String)>)> = BTreeMap::new();
    for fact in facts.iter().filter(|fact| fact.tick <= at) {
        let (Some(key), Some(time)) = (fact.key, fact.time) else { continue };
        // What is over when a fact comes stands in nobody's way.
        stands.retain(|_, (_, living)| living.as_ref().is_some_and(|(ends, _)| *ends > fact.tick));
        let is_overtaken = stands.get(&key).is_some_and(|(newest, _)| time < *newest);
        if is_overtaken {
            continue;
        }
        if fact.cancels {
            stands.remove(&key);
            continue;
        }
        let ends = fact.ttl.and_then(|ttl| Tick::new(time + ttl, fact.tick.partition()));
        if let Some(ends) = ends.filter(|ends| *ends > fact.tick) {
            stands.insert(key, (time, Some((ends, fact.word.clone()))));
        }
    }
    let words = stands.into_values().filter_map(|(_, living)| living).filter(|(ends, _)| *ends > at);
    let mut words: Vec<String> = words.map(|(_, word)| word).collect();
    words.sort();
    words
}

/// The changelog and the late rows of a run whose batches and frontiers are cut by chance.
fn run(facts: &[Fact], upper: Tick, chance: &mut Chance) -> [Vec<(Tick, String, i64)>; 2] {
    let mut expire = Expire::new(&schema(), PLACES);
    let (mut rest, mut lower) = (facts, Tick::ZERO);
    let mut said: [Vec<(Tick, String, i64)>; 2] = Default::default();
    while lower < upper {
        let many = (1 + chance.below(20) as usize).min(rest.len());
        let (now, later) = rest.split_at(many);
        let end = later.first().map_or(upper, |fact| fact.tick);
        let least = now.last().map_or(lower, |fact| fact.tick).0 + 1;
        let next = if later.is_empty() {
            upper
        } else {
            Tick(least + chance.below(end.0.saturating_sub(least) + 1))
        };
        for (batch, said) in expire.advance(&[batch(now)], next).iter().zip(&mut said) {
            let words = batch.column_by_name("word").expect("kept").as_string::<i32>();
            let diffs = batch.column_by_name(columns::DIFF);
            for (row, tick) in batch.column(0).as_primitive::<UInt64Type>().values().iter().enumerate() {
                assert!((lower..next).contains(&Tick(*tick)), "what is said is of the interval");
                let diff = diffs.map_or(1, |diffs| diffs.as_primitive::<Int64Type>().value(row));
                said.push((Tick(*tick), words.value(row).to_owned(), diff));
            }
        }
        (rest, lower) = (later, next);
    }
    said
}

#[test]
fn at_every_tick_the_changelog_accumulates_to_what_a_scan_says_lives() {
    for seed in 0..40 {
        let facts = facts(seed);
        let last = facts.last().expect("some").tick;
        let upper = Tick::new(last.micros() + 20, 0).expect("in range");
        let [changes, late] = run(&facts, upper, &mut Chance(seed + 1_000));
        assert!(changes.is_sorted_by_key(|(tick, ..)| *tick), "seed {seed}");
        let ticks = facts.iter().map(|fact| fact.tick).chain(changes.iter().map(|(tick, ..)| *tick));
        let ticks: std::collections::BTreeSet<Tick> = ticks.flat_map(|tick| [tick, tick.next()]).collect();
        for at in ticks.into_iter().filter(|at| *at < upper) {
            let mut accumulated: BTreeMap<&str, i64> = BTreeMap::new();
            for (_, word, diff) in changes.iter().filter(|(tick, ..)| *tick <= at) {
                *accumulated.entry(word).or_default() += diff;
            }
            let said: Vec<&str> =
                accumulated.iter().filter(|(_, sum)| **sum != 0).map(|(word, _)| *word).collect();
            assert!(accumulated.values().all(|sum| (0..=1).contains(sum)), "seed {seed}, at {at}");
            let mut said: Vec<String> = said.into_iter().map(str::to_owned).collect();
            said.sort();
            assert_eq!(said, living(&facts, at), "seed {seed}, at {at}");
        }
        // Every fact is a row that lived, a cancellation, or late.
        let lived: Vec<&String> =
            changes.iter().filter(|(.., diff)| *diff > 0).map(|(_, word, _)| word).collect();
        for fact in &facts {
            let ways = usize::from(lived.contains(&&fact.word))
                + late.iter().filter(|(_, word, _)| *word == fact.word).count();
            assert!(ways == 1 || (ways == 0 && fact.cancels), "seed {seed}: {fact:?}");
        }
    }
}

#[test]
fn what_is_due_after_the_end_of_input_stays_due() {
    let fact = Fact {
        tick: Tick::new(100, 2).expect("in range"),
        key: Some(1),
        time: Some(100),
        ttl: Some(50),
        cancels: false,
        word: "lives".to_owned(),
    };
    let ends = Tick::new(150, 2).expect("in range");
    let [changes, _] = run(std::slice::from_ref(&fact), ends, &mut Chance(1));
    assert_eq!(changes, [(fact.tick, "lives".to_owned(), 1)]);
    let [changes, _] = run(std::slice::from_ref(&fact), ends.next(), &mut Chance(1));
    assert_eq!(changes[1], (ends, "lives".to_owned(), -1));
}

/// Memory of this process in bytes, as the kernel counts it.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/statm").expect("Linux tells");
    let pages: u64 = status.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("a number");
    pages * 4_096
}

#[test]
fn a_million_times_to_live_hold_under_300_mb_and_refreshing_them_adds_nothing() {
    const MANY: i64 = 1_000_000;
    let before = resident();
    let mut expire = Expire::new(&schema(), PLACES);
    for round in 0..3 {
        for first in (0..MANY).step_by(10_000) {
            let now = 1_000 + round * MANY + first;
            let facts: Vec<Fact> = (first..first + 10_000)
                .map(|key| Fact {
                    tick: Tick::new(now + key - first, 0).expect("in range"),
                    key: Some(key),
                    time: Some(now + key - first),
                    ttl: Some(100 * MANY + (key * 7_919) % MANY),
                    cancels: false,
                    word: format!("evidence of sensor {:07} in region east", key),
                })
                .collect();
            expire.advance(&[batch(&facts)], Tick::new(now + 10_000, 0).expect("in range"));
        }
        let held = resident().saturating_sub(before);
        assert_eq!(expire.living(), MANY as usize);
        eprintln!("round {round}: {} MB", held / 1_000_000);
        assert!(held < 300_000_000, "{held} bytes for {MANY} living rows");
    }
}
