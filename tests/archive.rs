//! A log that was archived and pruned is run on, replayed and asked as if it were whole.

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

/// `tidegate archive ARGUMENTS`.
fn archive(arguments: &[&str], data: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.arg("archive").args(arguments).arg("--data").arg(data).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn prune(data: &Path) -> Output {
    let (topology, set) = (fraud(), settings(&["log.keep=2d"]));
    let mut arguments = vec!["prune", topology.to_str().unwrap()];
    arguments.extend(set.iter().flat_map(|set| ["--set", set.as_str()]));
    archive(&arguments, data)
}

/// The same groups in segments so small that some can go.
fn cut_small(data: &Path) {
    harness::cut_small(data, 100 << 10);
}

fn segments(data: &Path) -> usize {
    harness::files(harness::log_of(data).path()).iter().filter(|(name, _)| name.ends_with(".seg")).count()
}

#[test]
fn a_pruned_log_is_replayed_run_on_and_asked_as_if_it_were_whole() {
    let scratch = tempfile::tempdir().unwrap();
    let data = scratch.path().join("data");
    let plan = harness::plan(&fraud(), &settings(&[]));
    let live = harness::run_plan(&plan, &data, 1);
    let archived = live.archived.as_ref().unwrap();
    assert!(archived.groups > 10 && archived.waiting == 0, "{archived:?}");
    let questions = [
        "SELECT count(*), min(_tick), max(_tick), count(DISTINCT event_id) FROM facts",
        "SELECT decision, count(*), max(position) FROM receipts GROUP BY decision ORDER BY decision",
    ];
    let answers = questions.map(|sql| harness::table(&data, sql));
    cut_small(&data);
    let before = segments(&data);

    let pruned = prune(&data);
    assert!(pruned.status.success(), "{}", said(&pruned));
    assert!(before > 5 && segments(&data) < before / 2, "{before} segments, then {}", segments(&data));
    let log = harness::log_of(&data);
    assert!(log.start().unwrap().unwrap().group > 0);
    let refused = log.read(Start::Group(0), Until::Complete).err().unwrap();
    assert!(refused.to_string().contains("tidegate archive hydrate"), "{refused}");

    for workers in [1, 2] {
        let out = scratch.path().join(format!("replayed-{workers}"));
        let again = replay(&plan, &data, &out, workers, &harness::watch(&plan)).unwrap();
        assert_eq!(compare(&live.commits, &again), None);
    }
    // A new store knows nothing but the archive; the index is forgotten: all of it is derived again.
    let store = data.join("store");
    let commits = harness::files(&store.join("commits"));
    for folder in [store.join("commits"), store.join("tables"), data.join("index")] {
        std::fs::remove_dir_all(folder).unwrap();
    }
    let on = harness::run_plan(&plan, &data, 2);
    assert_eq!((on.counts.records(), on.facts), (0, live.facts), "every record has its receipt");
    assert!(harness::files(&store.join("commits")) == commits);
    assert_eq!(questions.map(|sql| harness::table(&data, sql)), answers);

    // What was pruned cannot be had without the archive, and nobody pretends.
    let first = tidegate_sinks::archive::Archive::open(&tidegate_sinks::store::Store::open(&store).unwrap());
    let file = store.join(&first.unwrap().ranges[0].files[0].name);
    std::fs::remove_file(&file).unwrap();
    let out = scratch.path().join("none");
    let refused = replay(&plan, &data, &out, 1, &harness::watch(&plan)).unwrap_err().to_string();
    assert!(refused.contains(file.file_name().unwrap().to_str().unwrap()), "{refused}");
}

#[test]
fn the_command_tells_what_is_whole_and_what_is_not() {
    let scratch = tempfile::tempdir().unwrap();
    let data = scratch.path().join("data");
    harness::run_plan(&harness::plan(&fraud(), &settings(&[])), &data, 1);
    cut_small(&data);
    let again = archive(&["write"], &data);
    assert!(said(&again).contains("nothing new to archive"), "{}", said(&again));
    let whole = archive(&["verify"], &data);
    assert!(whole.status.success() && said(&whole).starts_with("whole: 1 range"), "{}", said(&whole));
    let listed = said(&archive(&["list"], &data));
    assert!(listed.lines().count() == 2 && listed.contains("whole"), "{listed}");
    let json = said(&archive(&["list", "--format", "json"], &data));
    let range: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(range["first_group"], 0);

    let out = scratch.path().join("part");
    let part =
        ["hydrate", "--from", "2026-01-05", "--to", "2026-01-09T12:00:00Z", "--out", out.to_str().unwrap()];
    let made = archive(&part, &data);
    assert!(made.status.success(), "{}", said(&made));
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
    assert!(said(&beyond).contains("where both end"), "{}", said(&beyond));

    let unsaid = archive(&["prune", fraud().to_str().unwrap()], &data);
    assert_eq!(unsaid.status.code(), Some(2), "a topology without `keep` lets nothing go");
    let senseless = archive(&["prune", fraud().to_str().unwrap(), "--set", "log.keep=1d"], &data);
    assert_eq!(senseless.status.code(), Some(2));
    assert!(said(&senseless).contains("add `archive = true`"), "{}", said(&senseless));

    let store = tidegate_sinks::store::Store::open(data.join("store")).unwrap();
    let victim = tidegate_sinks::archive::Archive::open(&store).unwrap().ranges[0].files[0].name.clone();
    let path = PathBuf::from(store.location(&victim));
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[100] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let broken = archive(&["verify"], &data);
    assert_eq!(broken.status.code(), Some(1));
    assert!(said(&broken).contains(&victim) && said(&broken).contains("NOT WHOLE"), "{}", said(&broken));
    let before = segments(&data);
    let kept = prune(&data);
    assert_eq!((kept.status.code(), segments(&data)), (Some(1), before), "{}", said(&kept));
}
