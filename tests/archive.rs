//! An archived and pruned log is continued, replayed and queried as if it were complete.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tidegate_host::Host;
use tidegate_replay::{compare, replay};
use tidegate_sinks::log::{Group, LogFolder, LogReader, Start, Until};

use crate::harness;

fn fraud() -> PathBuf {
    harness::file("dataflows/fraud.toml")
}

const WORLD: &str =
    "transactions.world={ seed = 5, customers = 100, terminals = 40, days = 20, radius = 12.0 }";

fn settings(extra: &[&str]) -> Vec<String> {
    let all = [WORLD, "commit_rows=2000", "batch_rows=300", "log.archive=true"];
    all.into_iter().chain(extra.iter().copied()).map(str::to_owned).collect()
}

/// Runs `tidegate archive ARGUMENTS`.
fn archive(arguments: &[&str], data: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.arg("archive").args(arguments).arg("--data").arg(data).output().unwrap()
}

fn output_text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn prune(data: &Path) -> Output {
    let (topology, set) = (fraud(), settings(&["log.retention=2d"]));
    let mut arguments = vec!["prune", topology.to_str().unwrap()];
    arguments.extend(set.iter().flat_map(|set| ["--set", set.as_str()]));
    archive(&arguments, data)
}

/// Rewrites the log in segments small enough that some can be pruned.
fn resegment(data: &Path) {
    harness::resegment(data, 100 << 10);
}

fn segments(data: &Path) -> usize {
    harness::files(harness::log_of(data).path()).iter().filter(|(name, _)| name.ends_with(".seg")).count()
}

#[test]
fn a_pruned_log_is_continued_replayed_and_queried_as_if_it_were_complete() {
    let scratch = tempfile::tempdir().unwrap();
    let data = scratch.path().join("data");
    let plan = harness::plan(&fraud(), &settings(&[]));
    let live = harness::run_plan(&plan, &data, 1);
    let archived = live.archived.as_ref().unwrap();
    assert!(archived.groups > 10 && archived.waiting == 0, "{archived:?}");
    let queries = [
        "SELECT count(*), min(_tick), max(_tick), count(DISTINCT event_id) FROM facts",
        "SELECT decision, count(*), max(position) FROM receipts GROUP BY decision ORDER BY decision",
    ];
    let answers = queries.map(|sql| harness::table(&data, sql));
    resegment(&data);
    let before = segments(&data);

    let pruned = prune(&data);
    assert!(pruned.status.success(), "{}", output_text(&pruned));
    assert!(before > 5 && segments(&data) < before / 2, "{before} segments, then {}", segments(&data));
    let log = harness::log_of(&data);
    assert!(log.start().unwrap().unwrap().group > 0);
    let refused = log.read(Start::Group(0), Until::Complete).err().unwrap();
    assert!(refused.to_string().contains("tidegate archive hydrate"), "{refused}");

    for workers in [1, 2] {
        let out = scratch.path().join(format!("replayed-{workers}"));
        let again = replay(&plan, &data, &out, workers, &harness::metrics(&plan)).unwrap();
        assert_eq!(compare(&live.commits, &again), None);
    }
    // Without commits, tables and index, a run derives all of them again from the archive and the
    // log.
    let store = data.join("store");
    let commits = harness::files(&store.join("commits"));
    for folder in [store.join("commits"), store.join("tables"), data.join("index")] {
        std::fs::remove_dir_all(folder).unwrap();
    }
    let continued = harness::run_plan(&plan, &data, 2);
    assert_eq!(
        (continued.counts.records(), continued.facts),
        (0, live.facts),
        "every record has its receipt"
    );
    assert!(harness::files(&store.join("commits")) == commits);
    assert_eq!(queries.map(|sql| harness::table(&data, sql)), answers);

    // A replay that lacks a file of the archive is refused, and the error names the file.
    let first = tidegate_sinks::archive::Archive::open(&tidegate_sinks::store::Store::open(&store).unwrap());
    let file = store.join(&first.unwrap().ranges[0].files[0].name);
    std::fs::remove_file(&file).unwrap();
    let out = scratch.path().join("none");
    let refused = replay(&plan, &data, &out, 1, &harness::metrics(&plan)).unwrap_err().to_string();
    assert!(refused.contains(file.file_name().unwrap().to_str().unwrap()), "{refused}");
}

#[test]
fn the_command_reports_which_ranges_are_complete_and_which_are_damaged() {
    let scratch = tempfile::tempdir().unwrap();
    let data = scratch.path().join("data");
    harness::run_plan(&harness::plan(&fraud(), &settings(&[])), &data, 1);
    resegment(&data);
    let again = archive(&["write"], &data);
    assert!(output_text(&again).contains("nothing new to archive"), "{}", output_text(&again));
    let whole = archive(&["verify"], &data);
    assert!(
        whole.status.success() && output_text(&whole).starts_with("whole: 1 range"),
        "{}",
        output_text(&whole)
    );
    let listed = output_text(&archive(&["list"], &data));
    assert!(listed.lines().count() == 2 && listed.contains("whole"), "{listed}");
    let json = output_text(&archive(&["list", "--format", "json"], &data));
    let range: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(range["first_group"], 0);

    let out = scratch.path().join("part");
    let part =
        ["hydrate", "--from", "2026-01-05", "--to", "2026-01-09T12:00:00Z", "--out", out.to_str().unwrap()];
    let output = archive(&part, &data);
    assert!(output.status.success(), "{}", output_text(&output));
    let hydrated = LogFolder::at(&Host::real(), &out);
    let whole = harness::log_of(&data);
    assert_eq!(hydrated.identity().unwrap(), whole.identity().unwrap());
    let first = hydrated.start().unwrap().unwrap().group;
    let groups: Vec<Group> = harness::groups(&hydrated, first, Until::Complete);
    assert!(first > 0 && groups.len() > 3);
    assert!(groups == harness::groups(&whole, first, Until::Group(first + groups.len() as u64)));
    let beyond = archive(
        &["hydrate", "--to", "2027-01-01", "--out", scratch.path().join("x").to_str().unwrap()],
        &data,
    );
    assert_eq!(beyond.status.code(), Some(1));
    assert!(output_text(&beyond).contains("where both end"), "{}", output_text(&beyond));

    let without_retention = archive(&["prune", fraud().to_str().unwrap()], &data);
    assert_eq!(without_retention.status.code(), Some(2), "without `retention` nothing may be pruned");
    let without_archive = archive(&["prune", fraud().to_str().unwrap(), "--set", "log.retention=1d"], &data);
    assert_eq!(without_archive.status.code(), Some(2));
    assert!(
        output_text(&without_archive).contains("add `archive = true`"),
        "{}",
        output_text(&without_archive)
    );

    let store = tidegate_sinks::store::Store::open(data.join("store")).unwrap();
    let victim = tidegate_sinks::archive::Archive::open(&store).unwrap().ranges[0].files[0].name.clone();
    let path = PathBuf::from(store.location(&victim));
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[100] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let damaged = archive(&["verify"], &data);
    assert_eq!(damaged.status.code(), Some(1));
    assert!(
        output_text(&damaged).contains(&victim) && output_text(&damaged).contains("NOT WHOLE"),
        "{}",
        output_text(&damaged)
    );
    let before = segments(&data);
    let refused = prune(&data);
    assert_eq!((refused.status.code(), segments(&data)), (Some(1), before), "{}", output_text(&refused));
}
