//! The fusion topologies, whose sources copy from each other: on a small synthetic world and on
//! real data.
//!
//! The real data, four of the *Data Sets for Data Fusion Experiments* (Dong, Berti-Equille,
//! Srivastava and others), is not part of this repository: `FUSION` names the folder with `flight`,
//! `weather`, `book` and `population`, each with `claims.parquet` and `gold.parquet`. Only these
//! tests read the gold values.

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

/// A column as strings.
fn texts(batch: &RecordBatch, name: &str) -> Vec<Option<String>> {
    let column =
        cast(batch.column_by_name(name).unwrap_or_else(|| panic!("no column {name}")), &DataType::Utf8);
    column.unwrap().as_string::<i32>().iter().map(|text| text.map(str::to_owned)).collect()
}

/// The rows that a table or changelog accumulates to, each by column name.
fn accumulated(data: &Path, table: &str) -> Vec<BTreeMap<String, Option<String>>> {
    let mut sums: BTreeMap<Vec<Option<String>>, i64> = BTreeMap::new();
    let mut names: Vec<String> = Vec::new();
    for batch in harness::query(data, &format!("SELECT * FROM {table}")) {
        let schema = batch.schema();
        names = schema
            .fields()
            .iter()
            .map(|field| field.name().clone())
            .filter(|name| !name.starts_with('_'))
            .collect();
        let columns: Vec<Vec<Option<String>>> = names.iter().map(|name| texts(&batch, name)).collect();
        // Only a changelog has the column `_diff`.
        let diffs = batch.column_by_name("_diff").map(|diffs| diffs.as_primitive::<Int64Type>().clone());
        for row in 0..batch.num_rows() {
            let key = columns.iter().map(|column| column[row].clone()).collect();
            *sums.entry(key).or_default() += diffs.as_ref().map_or(1, |diffs| diffs.value(row));
        }
    }
    assert!(sums.values().all(|sum| (0..=1).contains(sum)), "{table}: a row accumulates to 0 or 1");
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

struct Random(ChaCha8Rng);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0.next_u64() % end
    }
}

/// Claims about flights: four independent sources, a careless one, and two that copy the careless
/// one.
fn flights(days: i32, seed: u64) -> RecordBatch {
    let mut random = Random(ChaCha8Rng::seed_from_u64(seed));
    type Claim = (i32, i32, &'static str, String, &'static str, Option<i16>, Option<String>);
    let mut rows: Vec<Claim> = Vec::new();
    for day in 0..days {
        let mut seq = 0;
        let truths: Vec<i16> = (0..60).map(|_| random.below(1440) as i16).collect();
        let careless: Vec<i16> =
            truths.iter().map(|t| if random.below(3) > 0 { random.below(1440) as i16 } else { *t }).collect();
        for source in ["anna", "bert", "dora", "emil", "carl", "copy-1", "copy-2"] {
            for flight in 0..60 {
                let value = if random.below(10) == 0 { random.below(1440) as i16 } else { truths[flight] };
                let is_copy = source == "carl" || source.starts_with("copy");
                let minute = if is_copy { careless[flight] } else { value };
                let object = format!("TG-{flight}");
                if random.below(20) == 0 {
                    // A claim without a value first, which the next one replaces.
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

/// Settings that detect the copies within a few days of so few flights.
const QUICK: [&str; 4] =
    ["families.similarity_min=0.9", "families.evidence_bits_min=20", "commit_rows=700", "batch_rows=8192"];

#[test]
fn copiers_share_one_vote_also_on_days_before_they_were_detected() {
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
    assert_eq!(families.len(), 7, "`families` has a row for every stream, also for those that copy nothing");
    let carl = |name: &str| (Some(name.to_owned()), Some("carl".to_owned()));
    assert_eq!(members, [carl("carl"), carl("copy-1"), carl("copy-2")]);
    // On the first day, seven streams had seven votes. Under the last families they have five, on
    // that day too.
    let first: Vec<_> = resolved.iter().filter(|row| row["day"].as_deref() == Some("2011-01-26")).collect();
    assert_eq!(first.len(), 60 * 2);
    for row in first {
        assert_eq!((row["streams"].as_deref(), row["votes"].as_deref()), (Some("7"), Some("5")), "{row:?}");
    }
    assert!(resolved.iter().all(|row| row["minute"].is_none() || row["gate"].is_none()));
}

#[test]
fn workers_and_batches_give_the_same_bytes_and_a_restart_gives_the_same_rows() {
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
    // A run that stops halfway and resumes from its checkpoint gives the same rows.
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

/// A data item: its day or an empty string, its object and its attribute.
type Item = (String, String, String);

/// The last value that each source claimed of each item.
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

/// The gold value of each item.
fn gold_values(folder: &Path, value: &[&str]) -> BTreeMap<Item, String> {
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

/// Whether an answer is right: a time within ten minutes on the clock, any other value when it is
/// equal.
fn is_right(attribute: &str, answer: Option<&String>, gold: &str) -> bool {
    let Some(answer) = answer else { return false };
    match (answer.parse::<i32>(), gold.parse::<i32>()) {
        (Ok(answer), Ok(gold)) if attribute.starts_with("actual_") || attribute.starts_with("scheduled_") => {
            let apart = (answer - gold).rem_euclid(1440);
            apart.min(1440 - apart) <= 10
        }
        _ => answer == gold,
    }
}

/// The share of gold values that the answers have right.
fn accuracy(gold: &BTreeMap<Item, String>, answer_of: impl Fn(&Item) -> Option<String>) -> f64 {
    let right =
        gold.iter().filter(|(item, value)| is_right(&item.2, answer_of(item).as_ref(), value)).count();
    right as f64 / gold.len() as f64
}

/// The value with the most votes, one a source; of several, the least.
fn majority(votes: &BTreeMap<String, String>) -> Option<String> {
    let mut counts: BTreeMap<&String, i64> = BTreeMap::new();
    votes.values().for_each(|value| *counts.entry(value).or_default() += 1);
    let number = |value: &str| value.parse::<f64>().unwrap_or(f64::MAX);
    let order = |a: &(&&String, &i64), b: &(&&String, &i64)| {
        a.1.cmp(b.1).then(number(b.0).total_cmp(&number(a.0))).then(b.0.cmp(a.0))
    };
    counts.iter().max_by(order).map(|(value, _)| (*value).clone())
}

/// The answers of a run: under the last families, at the last evidence, and the status of each.
fn answers(data: &Path, columns: &[&str]) -> BTreeMap<Item, (Option<String>, Option<String>, String)> {
    let of = |row: &BTreeMap<String, Option<String>>, suffix: &str| {
        columns.iter().find_map(|name| row[&format!("{name}{suffix}")].clone())
    };
    let rows = accumulated(data, "resolved");
    let row_count = rows.len();
    let answers: BTreeMap<Item, _> = rows
        .iter()
        .map(|row| {
            let day = row.get("day").cloned().flatten().unwrap_or_default();
            let item = (day, row["object"].clone().unwrap(), row["attribute"].clone().unwrap());
            (item, (of(row, ""), of(row, "_at_last_evidence"), row["status"].clone().unwrap()))
        })
        .collect();
    assert_eq!(answers.len(), row_count, "one row for each item");
    answers
}

/// The copy group of each source that agrees with another on nearly everything, as the notes of the
/// data define copy groups.
fn copy_groups(votes: &BTreeMap<Item, BTreeMap<String, String>>) -> BTreeMap<String, String> {
    let mut pairs: BTreeMap<(&str, &str), (u64, u64)> = BTreeMap::new();
    for of_item in votes.values() {
        for (index, (one, value)) in of_item.iter().enumerate() {
            for (other, theirs) in of_item.iter().skip(index + 1) {
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

/// The accuracy of the majority vote, of the answers at the last evidence, and of the answers under
/// the last families.
fn accuracies(folder: &Path, topology: &str, claims: &Path, columns: [&[&str]; 2], set: &[&str]) -> [f64; 3] {
    let scratch = tempfile::tempdir().unwrap();
    let begun = std::time::Instant::now();
    run(topology, claims, scratch.path(), set, 2);
    let took = begun.elapsed().as_secs_f64();
    let gold = gold_values(folder, columns[0]);
    let votes = votes(&harness::read_parquet(claims), columns[0]);
    let answers = answers(scratch.path(), columns[1]);
    // The data writes one number in several ways.
    let form = |text: &String| text.parse::<f64>().map_or(text.clone(), |number| number.to_string());
    let gold: BTreeMap<Item, String> = gold.into_iter().map(|(item, value)| (item, form(&value))).collect();
    let by_vote = accuracy(&gold, |item| majority(votes.get(item)?).as_ref().map(form));
    let at_evidence = accuracy(&gold, |item| answers.get(item)?.1.as_ref().map(form));
    let last = accuracy(&gold, |item| answers.get(item)?.0.as_ref().map(form));
    let verified = answers.iter().filter(|(_, (.., status))| status == "VERIFIED");
    let groups = copy_groups(&votes);
    let mut verified_count = 0;
    for (item, (value, ..)) in verified {
        verified_count += 1;
        let value = value.as_ref().map(form);
        let supporters: BTreeSet<&String> = votes[item]
            .iter()
            .filter(|(_, claimed)| Some(form(claimed)) == value)
            .map(|(source, _)| groups.get(source).unwrap_or(source))
            .collect();
        assert!(supporters.len() > 1, "{item:?} is VERIFIED by {supporters:?} alone");
    }
    eprintln!(
        "{topology} {set:?}: vote {by_vote:.4}, at last evidence {at_evidence:.4}, last families {last:.4}; {} items, {verified_count} verified, {} \
         sources in {} copy groups; {took:.1} s",
        answers.len(),
        groups.len(),
        groups.values().collect::<BTreeSet<_>>().len(),
    );
    [by_vote, at_evidence, last]
}

const FLIGHT: [&[&str]; 2] = [&["gate", "minute"], &["gate", "minute"]];

#[test]
fn copies_do_not_outvote_the_truth_about_flights() {
    let Some(folder) = fusion() else { return };
    let folder = folder.join("flight");
    let claims = folder.join("claims.parquet");
    let [vote, at_evidence, last] = accuracies(&folder, "fusion", &claims, FLIGHT, &[]);
    assert!((vote - 0.879).abs() < 0.001, "the accuracy that the notes of the data give: {vote}");
    assert!(at_evidence >= 0.93 && last >= 0.93, "{at_evidence}, {last}");
    let [_, at_evidence, last] = accuracies(&folder, "fusion", &claims, FLIGHT, &["families.weights=true"]);
    assert!(at_evidence >= 0.96 && last >= 0.96, "{at_evidence}, {last}");
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
    let [vote, at_evidence, last] = accuracies(&folder, "fusion", &claims, FLIGHT, &[]);
    assert!(
        (vote - 0.851).abs() < 0.001 && at_evidence > vote + 0.03 && last > vote + 0.03,
        "{vote}, {at_evidence}, {last}"
    );
}

#[test]
fn nine_days_from_a_cold_start_are_enough() {
    let Some(folder) = fusion() else { return };
    let folder = folder.join("flight");
    let scratch = tempfile::tempdir().unwrap();
    let all = harness::read_parquet(&folder.join("claims.parquet"));
    let days = texts(&all, "day");
    let all_days: Vec<String> = days.iter().flatten().cloned().collect::<BTreeSet<_>>().into_iter().collect();
    let selected: BTreeSet<&String> = all_days[13..22].iter().collect();
    let selection: Vec<bool> = days.iter().map(|day| selected.contains(day.as_ref().unwrap())).collect();
    let claims = scratch.path().join("claims.parquet");
    write(&claims, &filter_record_batch(&all, &selection.into()).unwrap());
    let gold = harness::read_parquet(&folder.join("gold.parquet"));
    let selection: Vec<bool> =
        texts(&gold, "day").iter().map(|day| selected.contains(day.as_ref().unwrap())).collect();
    write(&scratch.path().join("gold.parquet"), &filter_record_batch(&gold, &selection.into()).unwrap());
    let [_, _, last] = accuracies(scratch.path(), "fusion", &claims, FLIGHT, &[]);
    assert!(last >= 0.93, "{last}");
}

#[test]
fn where_no_source_copies_the_answers_are_no_worse_than_the_vote() {
    let Some(folder) = fusion() else { return };
    for (name, value, answer) in
        [("weather", "num", "reading"), ("book", "norm", "authors"), ("population", "num", "inhabitants")]
    {
        let folder = folder.join(name);
        let claims = folder.join("claims.parquet");
        let topology = format!("fusion-{name}");
        let [vote, at_evidence, last] = accuracies(&folder, &topology, &claims, [&[value], &[answer]], &[]);
        assert!(at_evidence >= vote && last >= vote, "{name}: {vote}, {at_evidence}, {last}");
    }
}
