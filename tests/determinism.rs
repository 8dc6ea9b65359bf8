//! One scenario, however it is run: the same facts, the same tables, the same bytes.

use std::path::Path;

use tidegate_replay::{compare, replay};
use tidegate_sinks::log::{LogOptions, LogWriter, Until};

use crate::harness;

/// A small world: about 6,000 payments and their labels over 20 days.
fn small_world(batch_rows: usize) -> Vec<String> {
    vec![
        "transactions.world={ seed = 7, customers = 150, terminals = 60, days = 20, radius = 12.0 }"
            .to_owned(),
        "commit_rows=3000".to_owned(),
        format!("batch_rows={batch_rows}"),
    ]
}

fn fraud() -> std::path::PathBuf {
    harness::file("dataflows/fraud.toml")
}

/// The rows of the tables, however they are divided into files.
fn rows(data: &Path) -> String {
    let features = harness::table(data, "SELECT * FROM features ORDER BY _tick");
    features + &harness::table(data, "SELECT * FROM decisions ORDER BY _tick")
}

#[test]
fn workers_and_batches_do_not_change_a_byte() {
    let scratch = tempfile::tempdir().unwrap();
    let mut first = None;
    for (workers, batch_rows) in [(1, 100_000), (2, 1_000), (4, 100), (3, 37)] {
        let data = scratch.path().join(format!("{workers}-{batch_rows}"));
        let plan = harness::plan(&fraud(), &small_world(batch_rows));
        let report = harness::run_plan(&plan, &data, workers);
        assert!(report.commits.list.len() > 3, "several commits");
        let files = harness::committed(&data.join("store"));
        let first = first.get_or_insert_with(|| files.clone());
        let how = format!("with {workers} workers in batches of {batch_rows}");
        harness::assert_same_files(first, &files, &how);
    }
}

#[test]
fn batches_of_one_fact_give_the_same_bytes() {
    let scratch = tempfile::tempdir().unwrap();
    let world = "transactions.world={ seed = 3, customers = 20, terminals = 10, days = 12, radius = 30.0 }";
    let run = |batch_rows: usize| {
        let data = scratch.path().join(batch_rows.to_string());
        let plan = harness::plan(
            &fraud(),
            &[world.to_owned(), "commit_rows=100".to_owned(), format!("batch_rows={batch_rows}")],
        );
        harness::run_plan(&plan, &data, 2);
        harness::committed(&data.join("store"))
    };
    assert!(run(1) == run(100_000));
}

#[test]
fn a_second_run_adds_nothing() {
    let scratch = tempfile::tempdir().unwrap();
    let plan = harness::plan(&fraud(), &small_world(1_000));
    harness::run_plan(&plan, scratch.path(), 1);
    let before = harness::files(scratch.path());
    let again = harness::run_plan(&plan, scratch.path(), 2);
    assert_eq!(again.counts.records(), 0);
    assert!(again.facts > 0);
    let after = harness::files(scratch.path());
    let of_log = |files: &[(String, Vec<u8>)]| {
        files.iter().filter(|f| !f.0.starts_with("index")).cloned().collect::<Vec<_>>()
    };
    assert!(of_log(&before) == of_log(&after), "log and store have not changed");
}

#[test]
fn two_runs_over_halves_equal_one_over_the_whole() {
    let scratch = tempfile::tempdir().unwrap();
    let lines: Vec<String> = (0..400)
        .map(|i| {
            let at = tidegate_facts::time::to_rfc3339(1_767_225_600_000_000 + i * 977_000_000);
            format!("{i},{at},{},{},{}.{:02}\n", i % 7, i % 5, i % 300, i % 100)
        })
        .collect();
    let header = "transaction_id,at,customer_id,terminal_id,amount\n";
    let topology = harness::file("tests/topologies/payments.toml");
    let run = |data: &str, upto: usize, workers: usize| {
        let csv = scratch.path().join(format!("{data}.csv"));
        std::fs::write(&csv, format!("{header}{}", lines[..upto].concat())).unwrap();
        let plan = harness::plan(&topology, &[format!("payments.path={}", csv.display())]);
        harness::run_plan(&plan, &scratch.path().join(data), workers)
    };
    run("whole", 400, 1);
    run("halves", 123, 2);
    let second = run("halves", 400, 1);
    assert_eq!(second.counts.admitted, 277, "the second run continues where the first ended");
    assert_eq!(rows(&scratch.path().join("whole")), rows(&scratch.path().join("halves")));
}

/// Payments, of which some are late, some later than declared, some without a time and some sent
/// twice.
fn unsorted_payments(folder: &Path) -> Vec<String> {
    let line = |i: i64, at: &str| format!("{i},{at},{},{},{}.00\n", i % 7, i % 5, i % 300);
    let at = |seconds: i64| tidegate_facts::time::to_rfc3339((1_767_225_600 + seconds) * 1_000_000);
    let late = |i: i64| match i % 11 {
        3 => i * 60 - 1_700,
        7 => i * 60 - 9_000,
        8 => i * 60 - 300,
        _ => i * 60,
    };
    let mut tills: Vec<String> = (0..300).map(|i| line(i, &at(late(i)))).collect();
    (0..300).step_by(29).for_each(|i| tills[i] = line(i as i64, "soon"));
    (0..300).step_by(31).for_each(|i| tills[i] = tills[i / 2].clone());
    let kiosks: Vec<String> = (0..200).map(|i| line(1_000 + i, &at(i * 91))).collect();
    [("tills", tills), ("kiosks", kiosks)]
        .map(|(name, lines)| {
            let path = folder.join(format!("{name}.csv"));
            let header = "transaction_id,at,customer_id,terminal_id,amount\n";
            std::fs::write(&path, format!("{header}{}", lines.concat())).unwrap();
            format!("{name}.path={}", path.display())
        })
        .to_vec()
}

#[test]
fn late_records_get_the_same_ticks_in_any_batches_and_after_any_stop() {
    let scratch = tempfile::tempdir().unwrap();
    let paths = unsorted_payments(scratch.path());
    let run = |data: &str, batch_rows: usize| {
        let mut set = paths.clone();
        set.push(format!("batch_rows={batch_rows}"));
        let plan = harness::plan(&harness::file("tests/topologies/tills.toml"), &set);
        harness::run_plan(&plan, &scratch.path().join(data), 1);
        let facts = harness::table(&scratch.path().join(data), "SELECT * FROM facts ORDER BY _tick");
        let order = "SELECT * FROM receipts ORDER BY source, position";
        facts + &harness::table(&scratch.path().join(data), order)
    };
    let whole = run("whole", 1_000);
    let ahead = "SELECT count(*) AS n FROM facts a JOIN facts b ON a._tick < b._tick AND a.ts_utc > b.ts_utc";
    assert!(!harness::table(&scratch.path().join("whole"), ahead).contains("| 0 "), "some were too late");
    assert!(run("single", 1) == whole, "batches of one");
    assert!(run("small", 37) == whole, "batches of 37");
    // A stopped run leaves the groups that were durable.
    let groups = harness::groups(&harness::log_of(&scratch.path().join("small")), 0, Until::Complete);
    assert!(groups.len() > 10, "several groups");
    for group_count in 1..groups.len() {
        let data = format!("stopped-{group_count}");
        let log = harness::log_of(&scratch.path().join(&data));
        let (mut log, _) = log.open(LogOptions::default()).unwrap();
        for group in &groups[..group_count] {
            log.append_and_wait(group).unwrap();
        }
        drop(log);
        assert!(run(&data, 20) == whole, "stopped after {group_count} groups");
    }
}

#[test]
fn a_replay_gives_the_same_files_on_any_number_of_workers() {
    let scratch = tempfile::tempdir().unwrap();
    let plan = harness::plan(&fraud(), &small_world(1_000));
    let live = harness::run_plan(&plan, &scratch.path().join("live"), 1);
    for workers in [1, 2, 4] {
        let out = scratch.path().join(format!("replayed-{workers}"));
        let again =
            replay(&plan, &scratch.path().join("live"), &out, workers, &harness::metrics(&plan)).unwrap();
        assert_eq!(compare(&live.commits, &again), None);
    }
}

#[test]
fn a_different_plan_on_the_same_folder_is_refused() {
    let scratch = tempfile::tempdir().unwrap();
    harness::run_plan(&harness::plan(&fraud(), &small_world(1_000)), scratch.path(), 1);
    let mut other = small_world(1_000);
    other.push("windowed.lateness_max=2h".to_owned());
    let plan = harness::plan(&fraud(), &other);
    let options = tidegate_dataflows::run::Options::new(scratch.path());
    let refused = tidegate_dataflows::run::run(&plan, &options, &harness::metrics(&plan)).unwrap_err();
    assert!(refused.to_string().contains("holds the log of plan"), "{refused}");
}

#[test]
fn changed_input_is_refused() {
    let scratch = tempfile::tempdir().unwrap();
    let csv = scratch.path().join("payments.csv");
    let header = "transaction_id,at,customer_id,terminal_id,amount\n";
    let topology = harness::file("tests/topologies/payments.toml");
    let line = |amount: &str| format!("{header}1,2026-01-01T00:00:00.000000Z,1,1,{amount}\n");
    std::fs::write(&csv, line("1.00")).unwrap();
    let data = scratch.path().join("data");
    let plan = harness::plan(&topology, &[format!("payments.path={}", csv.display())]);
    harness::run_plan(&plan, &data, 1);
    std::fs::write(&csv, line("2.00")).unwrap();
    let options = tidegate_dataflows::run::Options::new(&data);
    let refused = tidegate_dataflows::run::run(&plan, &options, &harness::metrics(&plan)).unwrap_err();
    assert!(matches!(refused, tidegate_dataflows::run::RunError::Source { .. }), "{refused}");
}
