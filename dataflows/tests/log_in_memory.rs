//! A run on a log in memory commits what a run on segment files commits.

mod small_world;

use std::sync::Arc;

use tidegate_dataflows::governance::{DataFolder, GovernanceError};
use tidegate_dataflows::run::{Options, run, run_on};
use tidegate_facts::Digest;
use tidegate_host::SeededRandom;
use tidegate_sinks::log::{LogFolder, LogReader, MemoryLog};
use tidegate_sinks::store::Store;

use small_world::{metrics, plan};

#[test]
fn a_run_on_a_log_in_memory_commits_what_a_run_on_segment_files_commits() {
    let scratch = tempfile::tempdir().unwrap();
    let path = |name: &str| scratch.path().join(name);
    let plan = plan();
    let files = Options::new(&path("files"));
    let expected = run(&plan, &files, &metrics(&plan)).unwrap_or_else(|error| panic!("{error}"));
    assert!(expected.commits.list.len() > 2, "{} commits", expected.commits.list.len());

    let log = MemoryLog::new(Arc::new(SeededRandom::new(1)));
    let options = Options::new(&path("memory"));
    let commit = |store: &str| -> (Digest, u64) {
        let store = Store::open(path(store)).unwrap();
        let report = run_on(&plan, &options, &log, &store, &metrics(&plan));
        let report = report.unwrap_or_else(|error| panic!("{error}"));
        (report.commits.head(), report.facts)
    };
    let expected = (expected.commits.head(), expected.facts);
    assert_eq!(commit("store"), expected);
    assert!(!LogFolder::of_data(&options.host, &options.data).exists(), "no log was written to the folder");
    let end = log.position().unwrap();
    assert_eq!(commit("store"), expected, "the next start goes on from a checkpoint, with nothing to add");
    assert_eq!(commit("another-store"), expected, "everything follows from the log again");
    assert_eq!(log.position().unwrap(), end);

    let folder = DataFolder::new(&options.data, path("store"));
    assert!(matches!(folder.lifecycle(&plan), Err(GovernanceError::NothingRan { .. })));
    let folder = DataFolder { log: Arc::new(log), ..folder };
    folder.lifecycle(&plan).unwrap_or_else(|error| panic!("{error}"));
}
