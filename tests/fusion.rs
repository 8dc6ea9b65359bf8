//! What sources claim that copy from each other: the fusion topologies, on a small made-up world and on real data.
//!
//! The real data, four of the *Data Sets for Data Fusion Experiments* (Dong, Berti-Equille, Srivastava and others), is not part
//! of this repository: `FUSION` names the folder with `flight`, `weather`, `book` and `population`, each with `claims.parquet`
//! and `gold.parquet`. The gold is read by these tests alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Date32Array, Int16Array, Int32Array, RecordBatch, StringArray};
use arrow::compute::{cast, filter_record_batch};
use arrow::datatypes::{DataType, Int64Type};
use parquet::arrow::ArrowWriter;
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

use crate::harness;

/// The folder of the real data, if there is one.
fn fusion() -> Option<PathBuf> {
    let Some(folder) = std::env::var_os("FUSION").map(PathBuf::from) else {
        eprintln!("FUSION names no folder with claims and gold: skipped");
        return None;
    };
    assert!(folder.join("flight/gold.parquet").is_file(), "FUSION={} holds no flights", folder.display());
    Some(folder)
}

fn write(path: &Path, batch: &RecordBatch) {
    let mut writer = ArrowWriter::try_new(File::create(path).unwrap(), batch.schema(), None).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
}

/// A column as texts.
fn texts(batch: &RecordBatch, name: &str) -> Vec<Option<String>> {
    let column =
        cast(batch.column_by_name(name).unwrap_or_else(|| panic!("no column {name}")), &DataType::Utf8);
    column.unwrap().as_string::<i32>().iter().map(|text| text.map(str::to_owned)).collect()
}

/// The rows of a changelog that are so at the end, by their columns' names.
fn accumulated(data: &Path, table: &str) -> Vec<BTreeMap<String, Option<String>>> {
    let mut sums: BTreeMap<Vec<Option<String>>, i64> = BTreeMap::new();
    let mut names: Vec<String> = Vec::new();
    for batch in harness::ask(data, &format!("SELECT * FROM {table}")) {
        let schema = batch.schema();
        names = schema
            .fields()
            .iter()
            .map(|field| field.name().clone())
            .filter(|name| !name.starts_with('_'))
            .collect();
        let columns: Vec<Vec<Option<String>>> = names.iter().map(|name| texts(&batch, name)).collect();
        // Read as a table it has no differences left.
        let diffs = batch.column_by_name("_diff").map(|diffs| diffs.as_primitive::<Int64Type>().clone());
        for row in 0..batch.num_rows() {
            let key = columns.iter().map(|column| column[row].clone()).collect();
            *sums.entry(key).or_default() += diffs.as_ref().map_or(1, |diffs| diffs.value(row));
        }
    }
    assert!(sums.values().all(|sum| (0..=1).contains(sum)), "{table}: a row is there once or not");
    let rows = sums.into_iter().filter(|(_, sum)| *sum == 1).map(|(row, _)| row);
    rows.map(|row| names.iter().cloned().zip(row).collect()).collect()
}

fn run(topology: &str, claims: &Path, data: &Path, set: &[&str], workers: usize) {
    let mut overrides = vec![format!("claims.path={}", claims.display())];
    overrides.extend(set.iter().map(|text| (*text).to_owned()));
    let plan = harness::plan(&harness::file(&format!("dataflows/{topology}.toml")), &overrides);
    let report = harness::run_plan(&plan, data, workers);
    assert_eq!(report.counts.records(), report.counts.admitted, "every claim is admitted");
}

struct Chance(ChaCha8Rng);

impl Chance {
    fn below(&mut self, end: u64) -> u64 {
        self.0.next_u64() % end
    }
}

/// Days of flights: four sources of their own, a careless one, and two that copy from that.
fn flights(days: i32, seed: u64) -> RecordBatch {
    let mut chance = Chance(ChaCha8Rng::seed_from_u64(seed));
    type Claim = (i32, i32, &'static str, String, &'static str, Option<i16>, Option<String>);
    let mut rows: Vec<Claim> = Vec::new();
    for day in 0..days {
        let mut seq = 0;
        let truths: Vec<i16> = (0..60).map(|_| chance.below(1440) as i16).collect();
        let sloppy: Vec<i16> =
            truths.iter().map(|t| if chance.below(3) > 0 { chance.below(1440) as i16 } else { *t }).collect();
        for source in ["anna", "bert", "dora", "emil", "carl", "copy-1", "copy-2"] {
            for flight in 0..60 {
                let right = if chance.below(10) == 0 { chance.below(1440) as i16 } else { truths[flight] };
                let copies = source == "carl" || source.starts_with("copy");
                let minute = if copies { sloppy[flight] } else { right };
                let object = format!("TG-{flight}");
                if chance.below(20) == 0 {
                    // A status first, that the next line replaces.
                    rows.push((15_000 + day, seq, source, object.clone(), "actual_departure", None, None));
                    seq += 1;
                }
                rows.push((
                    15_000 + day,
                    seq,
                    source,
                    object.clone(),
                    "actual_departure",
                    Some(minute),
                    None,
                ));
                let gate = Some(format!("G{}", minute % 40));
                rows.push((15_000 + day, seq, source, object, "departure_gate", None, gate));
                seq += 1;
            }
        }
    }
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("day", Arc::new(Date32Array::from_iter_values(rows.iter().map(|row| row.0)))),
        ("seq", Arc::new(Int32Array::from_iter_values(rows.iter().map(|row| row.1)))),
        ("source", Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.2)))),
        ("object", Arc::new(StringArray::from_iter_values(rows.iter().map(|row| &row.3)))),
        ("attribute", Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.4)))),
        ("minute", Arc::new(rows.iter().map(|row| row.5).collect::<Int16Array>())),
        ("gate", Arc::new(rows.iter().map(|row| row.6.clone()).collect::<StringArray>())),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true)))
        .unwrap()
}

/// Copies are found within a few days of so few flights.
const QUICK: [&str; 4] =
    ["families.alike=0.9", "families.surprise_bits=20", "commit_rows=700", "batch_rows=8192"];

#[test]
fn whoever_copies_votes_once_and_is_found_out_later_for_earlier_days_too() {
    let scratch = tempfile::tempdir().unwrap();
    let claims = scratch.path().join("claims.parquet");
    let rows = flights(5, 1);
    write(&claims, &rows);
    let data = scratch.path().join("data");
    run("fusion", &claims, &data, &QUICK, 2);
    let resolved = accumulated(&data, "resolved");
    assert_eq!(resolved.len(), 5 * 60 * 2, "one row for each day, flight and attribute");
    let families = accumulated(&data, "families");
    let of = |row: &BTreeMap<String, Option<String>>, name: &str| row[name].clone();
    let copies = families.iter().filter(|row| row["family"].is_some());
    let members: Vec<_> = copies.map(|row| (of(row, "stream"), of(row, "family"))).collect();
    assert_eq!(families.len(), 7, "who was looked at is told, whoever copies");
    let carl = |name: &str| (Some(name.to_owned()), Some("carl".to_owned()));
    assert_eq!(members, [carl("carl"), carl("copy-1"), carl("copy-2")]);
    // On the first day seven voices were seven votes; under the last families they are five, on that day too.
    let first: Vec<_> = resolved.iter().filter(|row| row["day"].as_deref() == Some("2011-01-26")).collect();
    assert_eq!(first.len(), 60 * 2);
    for row in first {
        assert_eq!((row["streams"].as_deref(), row["votes"].as_deref()), (Some("7"), Some("5")), "{row:?}");
    }
    assert!(resolved.iter().all(|row| row["minute"].is_none() || row["gate"].is_none()));
}

#[test]
fn workers_batches_and_halves_give_the_same_bytes_and_rows() {
    let scratch = tempfile::tempdir().unwrap();
    let claims = scratch.path().join("claims.parquet");
    let rows = flights(4, 2);
    write(&claims, &rows);
    let mut first = None;
    for (workers, batch_rows) in [(1, 100_000), (2, 1_000), (4, 77)] {
        let data = scratch.path().join(format!("{workers}"));
        let batch_rows = format!("batch_rows={batch_rows}");
        let set = [&QUICK[..3], &[batch_rows.as_str()]].concat();
        run("fusion", &claims, &data, &set, workers);
        let files = harness::committed(&data.join("store"));
        let first = first.get_or_insert_with(|| files.clone());
        harness::assert_same_files(first, &files, &format!("with {workers} workers, {batch_rows}"));
    }
    // A run that is stopped on the way and goes on from its checkpoint says the same.
    let (data, folder) = (scratch.path().join("halves"), scratch.path().join("claims"));
    std::fs::create_dir(&folder).unwrap();
    let half = rows.num_rows() / 2 + 11;
    write(&folder.join("1.parquet"), &rows.slice(0, half));
    run("fusion", &folder, &data, &QUICK, 2);
    write(&folder.join("2.parquet"), &rows.slice(half, rows.num_rows() - half));
    run("fusion", &folder, &data, &QUICK, 1);
    for table in ["resolved", "families", "family_pairs"] {
        assert!(accumulated(&data, table) == accumulated(&scratch.path().join("1"), table), "{table}");
    }
}

/// What each source said last of each item, by item: day or nothing, object, attribute.
type Item = (String, String, String);

fn votes(claims: &RecordBatch, value: &[&str]) -> BTreeMap<Item, BTreeMap<String, String>> {
    let days = claims.column_by_name("day").map(|_| texts(claims, "day"));
    let [sources, objects, attributes] = ["source", "object", "attribute"].map(|name| texts(claims, name));
    let values: Vec<_> = value.iter().map(|name| texts(claims, name)).collect();
    let mut votes: BTreeMap<Item, BTreeMap<String, String>> = BTreeMap::new();
    for row in 0..claims.num_rows() {
        let day = days.as_ref().and_then(|days| days[row].clone()).unwrap_or_default();
        let item = (day, objects[row].clone().unwrap(), attributes[row].clone().unwrap());
        let of_item = votes.entry(item).or_default();
        let source = sources[row].clone().unwrap();
        match values.iter().find_map(|values| values[row].clone()) {
            Some(value) => of_item.insert(source, value),
            None => of_item.remove(&source),
        };
    }
    votes
}

fn golden(folder: &Path, value: &[&str]) -> BTreeMap<Item, String> {
    let gold = harness::read_parquet(&folder.join("gold.parquet"));
    let days = gold.column_by_name("day").map(|_| texts(&gold, "day"));
    let [objects, attributes] = ["object", "attribute"].map(|name| texts(&gold, name));
    let values: Vec<_> = value.iter().map(|name| texts(&gold, name)).collect();
    (0..gold.num_rows())
        .filter_map(|row| {
            let day = days.as_ref().and_then(|days| days[row].clone()).unwrap_or_default();
            let item = (day, objects[row].clone().unwrap(), attributes[row].clone().unwrap());
            Some((item, values.iter().find_map(|values| values[row].clone())?))
        })
        .collect()
}

/// A time is right within ten minutes on the clock, anything else when it is equal.
fn is_right(attribute: &str, said: Option<&String>, gold: &str) -> bool {
    let Some(said) = said else { return false };
    match (said.parse::<i32>(), gold.parse::<i32>()) {
        (Ok(said), Ok(gold)) if attribute.starts_with("actual_") || attribute.starts_with("scheduled_") => {
            let apart = (said - gold).rem_euclid(1440);
            apart.min(1440 - apart) <= 10
        }
        _ => said == gold,
    }
}

fn accuracy(gold: &BTreeMap<Item, String>, said: impl Fn(&Item) -> Option<String>) -> f64 {
    let right = gold.iter().filter(|(item, value)| is_right(&item.2, said(item).as_ref(), value)).count();
    right as f64 / gold.len() as f64
}

/// Which value has most votes, one a source; of those the least.
fn plain(votes: &BTreeMap<String, String>) -> Option<String> {
    let mut counts: BTreeMap<&String, i64> = BTreeMap::new();
    votes.values().for_each(|value| *counts.entry(value).or_default() += 1);
    let number = |value: &str| value.parse::<f64>().unwrap_or(f64::MAX);
    let order = |a: &(&&String, &i64), b: &(&&String, &i64)| {
        a.1.cmp(b.1).then(number(b.0).total_cmp(&number(a.0))).then(b.0.cmp(a.0))
    };
    counts.iter().max_by(order).map(|(value, _)| (*value).clone())
}

/// The answers of a run, now and as heard, and the status of each.
fn answers(data: &Path, columns: &[&str]) -> BTreeMap<Item, (Option<String>, Option<String>, String)> {
    let of = |row: &BTreeMap<String, Option<String>>, suffix: &str| {
        columns.iter().find_map(|name| row[&format!("{name}{suffix}")].clone())
    };
    let rows = accumulated(data, "resolved");
    let many = rows.len();
    let answers: BTreeMap<Item, _> = rows
        .iter()
        .map(|row| {
            let day = row.get("day").cloned().flatten().unwrap_or_default();
            let item = (day, row["object"].clone().unwrap(), row["attribute"].clone().unwrap());
            (item, (of(row, ""), of(row, "_at_last_evidence"), row["status"].clone().unwrap()))
        })
        .collect();
    assert_eq!(answers.len(), many, "one row for each item");
    answers
}

/// Sources that agree on nearly everything, as the data's own notes define copy groups.
fn clones(votes: &BTreeMap<Item, BTreeMap<String, String>>) -> BTreeMap<String, String> {
    let mut pairs: BTreeMap<(&str, &str), (u64, u64)> = BTreeMap::new();
    for of_item in votes.values() {
        for (place, (one, value)) in of_item.iter().enumerate() {
            for (other, theirs) in of_item.iter().skip(place + 1) {
                let (same, all) = pairs.entry((one, other)).or_default();
                *same += u64::from(value == theirs);
                *all += 1;
            }
        }
    }
    let mut of: BTreeMap<String, String> = BTreeMap::new();
    for ((one, other), (same, all)) in pairs {
        if all < 20_000 || (same as f64) < 0.9995 * all as f64 {
            continue;
        }
        let name = |source: &str| of.get(source).cloned().unwrap_or(source.to_owned());
        let (to, from) = (name(one), name(other));
        of.values_mut().filter(|group| **group == from).for_each(|group| *group = to.clone());
        of.insert(one.to_owned(), to.clone());
        of.insert(other.to_owned(), to);
    }
    of
}

/// How often the answers are right: by plain vote, as heard, and under the last families.
fn measured(folder: &Path, topology: &str, claims: &Path, columns: [&[&str]; 2], set: &[&str]) -> [f64; 3] {
    let scratch = tempfile::tempdir().unwrap();
    let begun = std::time::Instant::now();
    run(topology, claims, scratch.path(), set, 2);
    let took = begun.elapsed().as_secs_f64();
    let gold = golden(folder, columns[0]);
    let votes = votes(&harness::read_parquet(claims), columns[0]);
    let answers = answers(scratch.path(), columns[1]);
    // A number is shown in more than one way.
    let form = |text: &String| text.parse::<f64>().map_or(text.clone(), |number| number.to_string());
    let gold: BTreeMap<Item, String> = gold.into_iter().map(|(item, value)| (item, form(&value))).collect();
    let by_vote = accuracy(&gold, |item| plain(votes.get(item)?).as_ref().map(form));
    let heard = accuracy(&gold, |item| answers.get(item)?.1.as_ref().map(form));
    let last = accuracy(&gold, |item| answers.get(item)?.0.as_ref().map(form));
    let verified = answers.iter().filter(|(_, (.., status))| status == "VERIFIED");
    let groups = clones(&votes);
    let mut many = 0;
    for (item, (value, ..)) in verified {
        many += 1;
        let value = value.as_ref().map(form);
        let behind: BTreeSet<&String> = votes[item]
            .iter()
            .filter(|(_, said)| Some(form(said)) == value)
            .map(|(source, _)| groups.get(source).unwrap_or(source))
            .collect();
        assert!(behind.len() > 1, "{item:?} is VERIFIED by {behind:?} alone");
    }
    eprintln!(
        "{topology} {set:?}: vote {by_vote:.4}, as heard {heard:.4}, last families {last:.4}; {} items, {many} verified, {} \
         sources in {} copy groups; {took:.1} s",
        answers.len(),
        groups.len(),
        groups.values().collect::<BTreeSet<_>>().len(),
    );
    [by_vote, heard, last]
}

const FLIGHT: [&[&str]; 2] = [&["gate", "minute"], &["gate", "minute"]];

#[test]
fn copies_do_not_outvote_the_truth_about_flights() {
    let Some(folder) = fusion() else { return };
    let folder = folder.join("flight");
    let claims = folder.join("claims.parquet");
    let [vote, heard, last] = measured(&folder, "fusion", &claims, FLIGHT, &[]);
    assert!((vote - 0.879).abs() < 0.001, "the yardstick of the data's notes: {vote}");
    assert!(heard >= 0.93 && last >= 0.93, "{heard}, {last}");
    let [_, heard, last] = measured(&folder, "fusion", &claims, FLIGHT, &["families.weights=true"]);
    assert!(heard >= 0.96 && last >= 0.96, "{heard}, {last}");
}

#[test]
fn copies_do_not_outvote_the_truth_about_flights_without_the_airlines() {
    let Some(folder) = fusion() else { return };
    let folder = folder.join("flight");
    let scratch = tempfile::tempdir().unwrap();
    let claims = scratch.path().join("claims.parquet");
    let all = harness::read_parquet(&folder.join("claims.parquet"));
    let airlines = ["aa", "ua", "CO"];
    let others =
        texts(&all, "source").iter().map(|s| !airlines.contains(&s.as_deref().unwrap())).collect::<Vec<_>>();
    write(&claims, &filter_record_batch(&all, &others.into()).unwrap());
    let [vote, heard, last] = measured(&folder, "fusion", &claims, FLIGHT, &[]);
    assert!(
        (vote - 0.851).abs() < 0.001 && heard > vote + 0.03 && last > vote + 0.03,
        "{vote}, {heard}, {last}"
    );
}

#[test]
fn nine_days_from_a_cold_start_are_enough() {
    let Some(folder) = fusion() else { return };
    let folder = folder.join("flight");
    let scratch = tempfile::tempdir().unwrap();
    let all = harness::read_parquet(&folder.join("claims.parquet"));
    let days = texts(&all, "day");
    let every: Vec<String> = days.iter().flatten().cloned().collect::<BTreeSet<_>>().into_iter().collect();
    let some: BTreeSet<&String> = every[13..22].iter().collect();
    let kept: Vec<bool> = days.iter().map(|day| some.contains(day.as_ref().unwrap())).collect();
    let claims = scratch.path().join("claims.parquet");
    write(&claims, &filter_record_batch(&all, &kept.into()).unwrap());
    let gold = harness::read_parquet(&folder.join("gold.parquet"));
    let kept: Vec<bool> =
        texts(&gold, "day").iter().map(|day| some.contains(day.as_ref().unwrap())).collect();
    write(&scratch.path().join("gold.parquet"), &filter_record_batch(&gold, &kept.into()).unwrap());
    let [_, _, last] = measured(scratch.path(), "fusion", &claims, FLIGHT, &[]);
    assert!(last >= 0.93, "{last}");
}

#[test]
fn where_nobody_copies_the_answers_are_those_of_the_vote() {
    let Some(folder) = fusion() else { return };
    for (name, value, answer) in
        [("weather", "num", "reading"), ("book", "norm", "authors"), ("population", "num", "inhabitants")]
    {
        let folder = folder.join(name);
        let claims = folder.join("claims.parquet");
        let topology = format!("fusion-{name}");
        let [vote, heard, last] = measured(&folder, &topology, &claims, [&[value], &[answer]], &[]);
        assert!(heard >= vote && last >= vote, "{name}: {vote}, {heard}, {last}");
    }
}
