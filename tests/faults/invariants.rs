//! What must hold of a data folder that no process uses, whatever happened to it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use arrow::row::{OwnedRow, RowConverter, SortField};
use tidegate_facts::{Digest, Tick, Verdict, columns};
use tidegate_host::Host;
use tidegate_sinks::commits::{Commits, read_rows};
use tidegate_sinks::log::LogFolder;
use tidegate_sinks::store::Store;

use super::ledger::Ledger;

/// An invariant that does not hold.
pub struct Broken {
    /// What it concerns; for a file, its name or the end of its path.
    pub file: String,
    pub what: String,
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.file, self.what)
    }
}

/// All checks. Those that the program has itself belong here, too.
const CHECKS: [fn(&Path) -> Vec<Broken>; 6] = [
    everything_verifies,
    every_receipt_has_its_fact,
    every_event_is_one_fact,
    the_commits_are_a_chain,
    committed_files_are_what_was_committed,
    a_table_has_a_row_once,
];

/// All invariants that do not hold of `data`.
pub fn invariants(data: &Path) -> Vec<Broken> {
    CHECKS.iter().flat_map(|check| check(data)).collect()
}

/// The broken invariants, as one line.
pub fn describe(broken: &[Broken]) -> String {
    broken.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

fn broken(file: &str, what: impl Into<String>) -> Broken {
    Broken { file: file.to_owned(), what: what.into() }
}

fn ledger(data: &Path, check: impl Fn(&Ledger) -> Vec<Broken>) -> Vec<Broken> {
    match Ledger::read(data) {
        Ok(ledger) => check(&ledger),
        Err(error) => vec![broken("log", error.to_string())],
    }
}

/// The findings of `tidegate verify`.
fn everything_verifies(data: &Path) -> Vec<Broken> {
    let Some(store) = store(data) else { return Vec::new() };
    let log = LogFolder::of_data(&Host::real(), data);
    let verified = tidegate_replay::verify::verify(&log, &store, &[]).unwrap();
    verified.findings.into_iter().map(|finding| broken(&finding.file, finding.what)).collect()
}

fn every_receipt_has_its_fact(data: &Path) -> Vec<Broken> {
    ledger(data, |ledger| {
        let mut found = Vec::new();
        let mut next: BTreeMap<&str, u64> = BTreeMap::new();
        for receipt in &ledger.receipts {
            let next = next.entry(&receipt.source).or_default();
            if receipt.position != *next {
                found.push(broken(
                    "log",
                    format!("a receipt is for position {} after {next}", receipt.position),
                ));
            }
            *next = receipt.position + 1;
        }
        let mut admitted: Vec<_> =
            ledger.receipts.iter().filter(|r| r.verdict == Verdict::Admit).filter_map(|r| r.tick).collect();
        admitted.sort_unstable();
        if !ledger.facts.iter().map(|fact| fact.tick).eq(admitted) {
            found.push(broken("log", "facts and receipts of admitted records are not one to one"));
        }
        if !ledger.facts.is_sorted_by(|a, b| a.tick < b.tick) {
            found.push(broken("log", "ticks do not ascend"));
        }
        found
    })
}

fn every_event_is_one_fact(data: &Path) -> Vec<Broken> {
    ledger(data, |ledger| {
        let mut seen = BTreeSet::new();
        let again = ledger.facts.iter().filter(|fact| !seen.insert((&fact.event_type, &fact.event_id)));
        again.map(|fact| broken("log", format!("event {} is a fact twice", fact.event_id))).collect()
    })
}

fn store(data: &Path) -> Option<Store> {
    let path = data.join("store");
    path.is_dir().then(|| Store::open(&path).unwrap())
}

fn the_commits_are_a_chain(data: &Path) -> Vec<Broken> {
    let read = store(data).map(|store| Commits::read(&store));
    read.and_then(Result::err).map(|error| broken("commits", error.to_string())).into_iter().collect()
}

/// The commits; `None` when they are broken, which another check reports.
fn commits(data: &Path) -> Option<(Store, Commits)> {
    let store = store(data)?;
    let commits = Commits::read(&store).ok()?;
    Some((store, commits))
}

fn committed_files_are_what_was_committed(data: &Path) -> Vec<Broken> {
    let Some((store, commits)) = commits(data) else { return Vec::new() };
    let files = commits.list.iter().flat_map(|commit| &commit.files);
    files
        .filter_map(|file| match store.get(&file.name) {
            Ok(bytes) if Digest::of(&bytes) == file.digest => None,
            Ok(_) => Some(broken(&file.name, "has another digest than its commit says")),
            Err(error) => Some(broken(&file.name, error.to_string())),
        })
        .collect()
}

fn a_table_has_a_row_once(data: &Path) -> Vec<Broken> {
    let Some((_, commits)) = commits(data) else { return Vec::new() };
    let is_parquet = |table: &String| commits.files_of(table).all(|file| file.name.ends_with(".parquet"));
    let again = commits.tables().into_iter().filter(is_parquet).filter(|table| {
        // Another check reports what cannot be read.
        rows_of(data, &commits, table).is_some_and(|rows| !rows.is_sorted_by(|a, b| a < b))
    });
    again.map(|table| broken(&table, "has a row twice")).collect()
}

/// The sorted rows of a table as bytes; `None` when a file of it cannot be read. A state may emit
/// several rows at one tick, but none twice.
fn rows_of(data: &Path, commits: &Commits, table: &str) -> Option<Vec<OwnedRow>> {
    let mut all: Vec<OwnedRow> = Vec::new();
    let mut converter = None;
    for file in commits.files_of(table) {
        let bytes = std::fs::read(data.join("store").join(&file.name)).ok()?;
        let rows = read_rows(bytes.into(), None).ok()?;
        let converter = converter.get_or_insert_with(|| {
            let fields = rows.schema_ref().fields().iter();
            let fields = fields.map(|field| SortField::new(field.data_type().clone()));
            RowConverter::new(fields.collect()).expect("every column can be compared")
        });
        let rows = converter.convert_columns(rows.columns()).expect("one table has one schema");
        all.extend(rows.iter().map(|row| row.owned()));
    }
    all.sort_unstable();
    Some(all)
}

/// The ticks of a table's rows, sorted; `None` when a file of it cannot be read.
pub fn ticks_of(data: &Path, commits: &Commits, table: &str) -> Option<Vec<Tick>> {
    let mut ticks = Vec::new();
    for file in commits.files_of(table) {
        let bytes = std::fs::read(data.join("store").join(&file.name)).ok()?;
        let rows = read_rows(bytes.into(), Some(&[columns::TICK])).ok()?;
        ticks.extend(columns::find_ticks(&rows)?.values().iter().map(|tick| Tick(*tick)));
    }
    ticks.sort_unstable();
    Some(ticks)
}
