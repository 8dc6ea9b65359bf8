//! `expire` against its slow, obvious version: at every tick, the changelog accumulates to the rows
//! that a scan of all facts finds live.

mod chance;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, TimestampMicrosecondType};
use chance::Chance;
use tidegate_facts::payload_schema::timestamp;
use tidegate_facts::tick::MICROS_MAX;
use tidegate_facts::{Tick, columns};
use tidegate_operators::core::tick_ordered::TickOperator;
use tidegate_operators::temporal::expire::{Expire, ExpireColumns};

#[derive(Clone, Debug)]
struct Fact {
    tick: Tick,
    key: Option<i64>,
    time: Option<i64>,
    ttl: Option<i64>,
    cancels: bool,
    word: String,
}

const COLUMNS: ExpireColumns =
    ExpireColumns { key: 1, time: 3, ttl: 5, cancel: Some(4), output_count: 4, ttl_max: Some(30) };

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        columns::tick_field(columns::TICK),
        Field::new("key", DataType::Int64, true),
        Field::new("word", DataType::Utf8, false),
        Field::new("time", timestamp(), true),
        Field::new("cancels", DataType::Boolean, true),
        Field::new("ttl", DataType::Int64, true),
    ]))
}

fn batch(facts: &[Fact]) -> RecordBatch {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(columns::tick_array(facts.iter().map(|fact| fact.tick))),
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
        .map(|number| {
            now += chance.below(5) as i64;
            tick = Tick::following(tick, now, chance.below(3) as u16).expect("in range");
            // Late facts, clocks that run ahead, short times to live, several that end in one
            // microsecond, and facts without a key, a time or a time to live.
            let late = if chance.below(4) == 0 { chance.below(40) as i64 } else { 0 };
            let early = if chance.below(8) == 0 { chance.below(1_000) as i64 } else { 0 };
            Fact {
                tick,
                key: (chance.below(30) > 0).then(|| chance.below(8) as i64),
                time: (chance.below(30) > 0).then_some(now - late + early),
                ttl: (chance.below(30) > 0).then(|| chance.below(30) as i64),
                cancels: chance.below(10) == 0,
                word: format!("word {number}"),
            }
        })
        .collect()
}

/// The words of the rows that are live at `at`, by a scan of all facts with ticks up to it.
fn live_words(facts: &[Fact], at: Tick) -> Vec<String> {
    let mut newest: BTreeMap<i64, (i64, Option<(Tick, String)>)> = BTreeMap::new();
    let mut cancelled: BTreeMap<i64, i64> = BTreeMap::new();
    for fact in facts.iter().filter(|fact| fact.tick <= at) {
        let (Some(key), Some(time)) = (fact.key, fact.time) else { continue };
        // An event time after the tick counts as the tick.
        let time = time.min(fact.tick.micros());
        // Rows that have expired when the fact arrives do not count.
        newest.retain(|_, (_, live)| live.as_ref().is_some_and(|(expires, _)| *expires > fact.tick));
        let is_overtaken = newest.get(&key).is_some_and(|(newest, _)| time < *newest);
        if fact.cancels {
            let until = cancelled.entry(key).or_insert(time);
            *until = time.max(*until);
        }
        let is_cancelled = !fact.cancels && cancelled.get(&key).is_some_and(|until| time <= *until);
        if is_overtaken || is_cancelled {
            continue;
        }
        if fact.cancels {
            newest.remove(&key);
            continue;
        }
        let expires = fact.ttl.and_then(|ttl| Tick::new(time + ttl, fact.tick.partition()));
        if let Some(expires) = expires.filter(|expires| *expires > fact.tick) {
            newest.insert(key, (time, Some((expires, fact.word.clone()))));
        }
    }
    let live = newest.into_values().filter_map(|(_, live)| live).filter(|(expires, _)| *expires > at);
    let mut words: Vec<String> = live.map(|(_, word)| word).collect();
    words.sort();
    words
}

/// The changelog and the late rows of a run whose batches and frontiers are cut at random.
fn run(facts: &[Fact], upper: Tick, chance: &mut Chance) -> [Vec<(Tick, String, i64)>; 2] {
    let mut expire = Expire::new(&schema(), COLUMNS);
    let (mut rest, mut lower) = (facts, Tick::ZERO);
    let mut emitted: [Vec<(Tick, String, i64)>; 2] = Default::default();
    while lower < upper {
        let count = (1 + chance.below(20) as usize).min(rest.len());
        let (now, later) = rest.split_at(count);
        let end = later.first().map_or(upper, |fact| fact.tick);
        let least = now.last().map_or(lower, |fact| fact.tick).0 + 1;
        let next = if later.is_empty() {
            upper
        } else {
            Tick(least + chance.below((end.0 - least).max(0) as u64 + 1) as i64)
        };
        for (batch, emitted) in expire.advance(&[batch(now)], next).iter().zip(&mut emitted) {
            let words = batch.column_by_name("word").expect("an output column").as_string::<i32>();
            let diffs = batch.column_by_name(columns::DIFF);
            for (row, tick) in batch.column(0).as_primitive::<columns::TickType>().values().iter().enumerate()
            {
                assert!((lower..next).contains(&Tick(*tick)), "rows are of the interval");
                let diff = diffs.map_or(1, |diffs| diffs.as_primitive::<Int64Type>().value(row));
                emitted.push((Tick(*tick), words.value(row).to_owned(), diff));
            }
        }
        (rest, lower) = (later, next);
    }
    emitted
}

#[test]
fn at_every_tick_the_changelog_accumulates_to_the_rows_that_a_scan_finds_live() {
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
            let accumulated_words: Vec<&str> =
                accumulated.iter().filter(|(_, sum)| **sum != 0).map(|(word, _)| *word).collect();
            assert!(accumulated.values().all(|sum| (0..=1).contains(sum)), "seed {seed}, at {at}");
            let mut accumulated_words: Vec<String> =
                accumulated_words.into_iter().map(str::to_owned).collect();
            accumulated_words.sort();
            assert_eq!(accumulated_words, live_words(&facts, at), "seed {seed}, at {at}");
        }
        // Every fact becomes live, cancels, or is late.
        let became_live: Vec<&String> =
            changes.iter().filter(|(.., diff)| *diff > 0).map(|(_, word, _)| word).collect();
        for fact in &facts {
            let ways = usize::from(became_live.contains(&&fact.word))
                + late.iter().filter(|(_, word, _)| *word == fact.word).count();
            assert!(ways == 1 || (ways == 0 && fact.cancels), "seed {seed}: {fact:?}");
        }
    }
}

#[test]
fn a_row_that_expires_after_the_end_of_input_stays_live() {
    let fact = Fact {
        tick: Tick::new(100, 2).expect("in range"),
        key: Some(1),
        time: Some(100),
        ttl: Some(50),
        cancels: false,
        word: "lives".to_owned(),
    };
    let expires = Tick::new(150, 2).expect("in range");
    let [changes, _] = run(std::slice::from_ref(&fact), expires, &mut Chance(1));
    assert_eq!(changes, [(fact.tick, "lives".to_owned(), 1)]);
    let [changes, _] = run(std::slice::from_ref(&fact), expires.next(), &mut Chance(1));
    assert_eq!(changes[1], (expires, "lives".to_owned(), -1));
}

/// A fact of the one key; the word `cancels` makes it a cancellation.
fn fact(at: i64, time: i64, ttl: i64, word: &str) -> Fact {
    let tick = Tick::new(at, 0).expect("in range");
    Fact {
        tick,
        key: Some(1),
        time: Some(time),
        ttl: Some(ttl),
        cancels: word == "cancels",
        word: word.to_owned(),
    }
}

/// The words of the rows that are live at the end, and of the late rows.
fn words(facts: &[Fact], input_columns: ExpireColumns) -> [Vec<String>; 2] {
    let last = facts.last().expect("some").tick;
    let mut expire = Expire::new(&schema(), input_columns);
    let outputs = expire.advance(&[batch(facts)], last.next());
    let mut live = Vec::new();
    let words = |batch: &RecordBatch| -> Vec<String> {
        let words = batch.column_by_name("word").expect("an output column").as_string::<i32>();
        words.iter().flatten().map(str::to_owned).collect()
    };
    let diffs = outputs[0].column_by_name(columns::DIFF).expect("a changelog").as_primitive::<Int64Type>();
    for (word, diff) in words(&outputs[0]).into_iter().zip(diffs.values()) {
        if *diff > 0 { live.push(word) } else { live.retain(|other| *other != word) }
    }
    [live, words(&outputs[1])]
}

#[test]
fn one_report_from_the_future_does_not_lock_its_key() {
    let facts = [fact(1_000, 1_000_000, 60, "of 2096"), fact(1_030, 1_030, 60, "true")];
    assert_eq!(words(&facts, COLUMNS), [vec!["true"], vec![]]);
    let [changes, _] = run(&facts[..1], Tick::new(1_100, 0).expect("in range"), &mut Chance(1));
    assert_eq!(
        changes[1].0,
        Tick::new(1_060, 0).expect("in range"),
        "its time to live counts from its arrival"
    );
}

#[test]
fn an_expiry_beyond_the_last_tick_is_the_last_tick() {
    let facts = [fact(1_000, 1_000, i64::MAX, "for ever"), fact(1_001, i64::MIN, i64::MIN, "never")];
    let mut expire = Expire::new(&schema(), COLUMNS);
    let outputs = expire.advance(&[batch(&facts)], Tick::new(5_000, 0).expect("in range"));
    let expires = outputs.iter().map(|batch| {
        let expires = batch
            .column_by_name("expires_at")
            .expect("an output column")
            .as_primitive::<TimestampMicrosecondType>();
        expires.values().to_vec()
    });
    assert_eq!(expires.collect::<Vec<_>>(), [vec![MICROS_MAX], vec![0]], "both are in the range of ticks");
}

#[test]
fn an_older_report_does_not_revive_a_cancelled_key() {
    let cancelled = [fact(10, 10, 100, "first"), fact(20, 20, 0, "cancels"), fact(30, 5, 100, "delayed")];
    for ttl_max in [Some(100), None] {
        let input_columns = ExpireColumns { ttl_max, ..COLUMNS };
        assert_eq!(words(&cancelled, input_columns), [vec![], vec!["delayed".to_owned()]]);
        // Nor if a newer row became live and expired before, so that the cancellation was
        // overtaken.
        let mut later = cancelled.to_vec();
        later.insert(1, fact(15, 25, 2, "newer"));
        assert_eq!(words(&later, input_columns)[0], Vec::<String>::new());
        // A report of a later time becomes live.
        let mut again = cancelled.to_vec();
        again.push(fact(40, 21, 100, "again"));
        assert_eq!(words(&again, input_columns)[0], ["again"]);
    }
}

/// The resident memory of this process, in bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/statm").expect("Linux has this file");
    let pages: u64 = status.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("a number");
    pages * 4_096
}

#[test]
fn a_million_live_rows_take_under_300_mb_and_refreshing_them_adds_nothing() {
    const ROWS: i64 = 1_000_000;
    let before = resident();
    let mut expire = Expire::new(&schema(), COLUMNS);
    for round in 0..3 {
        for first in (0..ROWS).step_by(10_000) {
            let now = 1_000 + round * ROWS + first;
            let facts: Vec<Fact> = (first..first + 10_000)
                .map(|key| Fact {
                    tick: Tick::new(now + key - first, 0).expect("in range"),
                    key: Some(key),
                    time: Some(now + key - first),
                    ttl: Some(100 * ROWS + (key * 7_919) % ROWS),
                    cancels: false,
                    word: format!("evidence of sensor {:07} in region east", key),
                })
                .collect();
            expire.advance(&[batch(&facts)], Tick::new(now + 10_000, 0).expect("in range"));
        }
        let bytes = resident().saturating_sub(before);
        assert_eq!(expire.live_count(), ROWS as usize);
        eprintln!("round {round}: {} MB", bytes / 1_000_000);
        assert!(bytes < 300_000_000, "{bytes} bytes for {ROWS} live rows");
    }
}
