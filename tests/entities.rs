//! Entities and linkage in a whole topology: the same bytes however it is run, and what a person can check by hand.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use tidegate_replay::{compare, replay};
use tidegate_sinks::store::Store;
use tidegate_sinks::table::Commits;

use crate::harness;

/// Chance with a seed (splitmix64).
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % end
    }
}

const PEOPLE: &str = "tests/topologies/people.toml";

const HEAD: &str = "event,at,record_id,given_name,surname,born,postcode,card,disowned\n";

/// The lines of `count` records: of some 30 persons, with typing errors, cards that are handed on, and times of day that go on by
/// up to four minutes.
fn lines(count: usize) -> Vec<String> {
    let mut chance = Chance(11);
    let mut now = 1_767_225_600_000_000;
    (0..count)
        .map(|event| {
            now += 1_000_000 * chance.below(240) as i64;
            let person = chance.below(30);
            let names = ["anna", "bernd", "clara", "dietrich", "emilia", "friedrich"];
            let surnames = ["schneider", "fischer", "weber", "wagner", "becker"];
            let mut given = names[(person % 6) as usize].to_owned();
            let mut surname = surnames[(person % 5) as usize].to_owned();
            match chance.below(6) {
                0 => drop(given.remove(1)),
                1 => surname.push('n'),
                2 => given.clear(),
                _ => {}
            }
            let at = tidegate_facts::time::to_rfc3339(now);
            let card =
                if chance.below(3) == 0 { String::new() } else { (100 + chance.below(12)).to_string() };
            let disowned = chance.below(10) == 0;
            let record = if chance.below(4) == 0 { chance.below(event as u64 + 1) } else { event as u64 };
            format!(
                "{event},{at},r{record},{given},{surname},19{:02}0312,{},{card},{disowned}\n",
                50 + person,
                10_000 + person
            )
        })
        .collect()
}

fn run(folder: &Path, lines: &[String], set: &[&str], workers: usize) -> PathBuf {
    std::fs::create_dir_all(folder).unwrap();
    let csv = folder.join("people.csv");
    std::fs::write(&csv, format!("{HEAD}{}", lines.concat())).unwrap();
    let mut set: Vec<String> = set.iter().map(|set| (*set).to_owned()).collect();
    set.push(format!("people.path={}", csv.display()));
    let plan = harness::plan(&harness::file(PEOPLE), &set);
    let data = folder.join("data");
    harness::run_plan(&plan, &data, workers);
    data
}

const TABLES: [&str; 6] = ["people", "matches", "full_blocks", "entities", "links", "components"];

#[test]
fn workers_and_batches_do_not_change_a_byte_of_any_table() {
    let scratch = tempfile::tempdir().unwrap();
    let lines = lines(600);
    let mut first: Option<Vec<(String, Vec<u8>)>> = None;
    for (workers, batch_rows) in [(1, 100_000), (2, 100), (4, 7), (3, 1)] {
        let folder = scratch.path().join(format!("{workers}-{batch_rows}"));
        let data = run(&folder, &lines, &[&format!("batch_rows={batch_rows}")], workers);
        let files = harness::committed(&data.join("store"));
        for table in TABLES {
            let has_rows = files.iter().any(|(name, _)| name.starts_with(&format!("tables/{table}/")));
            assert!(has_rows, "{table} has no rows, and shows nothing");
        }
        let first = first.get_or_insert_with(|| files.clone());
        assert_eq!(first.len(), files.len());
        for (one, other) in first.iter().zip(&files) {
            assert!(one == other, "{} differs with {workers} workers in batches of {batch_rows}", one.0);
        }
    }
}

#[test]
fn a_run_that_was_stopped_goes_on_from_its_checkpoint_as_its_log_says() {
    let scratch = tempfile::tempdir().unwrap();
    let lines = lines(500);
    for stops in [&[123][..], &[60, 61, 300], &[1, 250, 499]] {
        let folder = scratch.path().join(format!("{stops:?}"));
        for upto in stops {
            run(&folder, &lines[..*upto], &[], 2);
        }
        let data = run(&folder, &lines, &[], 1);
        // The replay has no checkpoint, and hears of the whole log at once.
        let csv = folder.join("people.csv").display().to_string();
        let plan = harness::plan(&harness::file(PEOPLE), &[format!("people.path={csv}")]);
        let again = scratch.path().join(format!("{stops:?} again"));
        let replayed = replay(&plan, &data, &again, 3, &harness::watch(&plan)).unwrap();
        let live = Commits::read(&Store::open(&data.join("store")).unwrap()).unwrap();
        assert_eq!(compare(&live, &replayed), None, "stopped after {stops:?}");
    }
}

#[test]
fn two_records_of_one_person_and_a_card_between_two_are_one_component() {
    let scratch = tempfile::tempdir().unwrap();
    let at = |minute: i64| tidegate_facts::time::to_rfc3339(1_767_225_600_000_000 + minute * 60_000_000);
    let mut lines = String::new();
    for (event, minute, rest) in [
        (1, 0, "a,anna,schneider,19500312,10000,100,false"),
        (2, 1, "b,ana,schneider,19500312,10000,,false"),
        (3, 2, "c,bernd,fischer,19660101,20000,200,false"),
        (4, 3, "d,clara,weber,19770101,30000,100,false"),
        (5, 4, "d,clara,weber,19770101,30000,100,true"),
        (6, 5, "d,clara,weber,19770101,30000,,false"),
        (7, 600, "d,clara,weber,19770101,30000,,false"),
    ] {
        writeln!(lines, "{event},{},{rest}", at(minute)).unwrap();
    }
    let lines: Vec<String> = lines.lines().map(|line| format!("{line}\n")).collect();
    let data = run(scratch.path(), &lines, &["commit_rows=6"], 1);
    let shown = harness::table(
        &data,
        "SELECT event_id, person_component, person_size, person_degree_card, person_shared_card FROM people ORDER BY _tick",
    );
    expect_test::expect![[r#""#]].assert_eq(&shown);
    let shown = harness::table(&data, "SELECT earlier, later, weight_millibits FROM matches ORDER BY _tick");
    expect_test::expect![[r#""#]].assert_eq(&shown);
}
