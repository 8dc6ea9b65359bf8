//! One test of conformance for every backend of a store, and what a power cut leaves of a local one.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use tidegate_host::SimulatedHost;
use tidegate_sinks::store::{
    Created, FaultSchedule, LocalBackend, ObjectBackend, ObjectStoreBackend, RetryPolicy, SimulatedBackend,
    Store, StoreError, StoreFault, StoreUrl,
};

const QUICK: RetryPolicy = RetryPolicy { tries_max: 20, wait_ms_first: 1, time_ms_max: 60_000 };

/// What a store must do over any backend that meets its contract.
fn conforms(backend: impl ObjectBackend + 'static) {
    println!("{backend:?}");
    // By a clock that does not wait.
    let store = Store::over(Arc::new(backend), QUICK).on_host(&SimulatedHost::new(1).host());
    store.probe().unwrap();
    assert_eq!(store.list("").unwrap(), [""; 0], "the probe removes its objects");

    assert_eq!(store.list("a").unwrap(), [""; 0], "a folder that does not exist is empty");
    let created = store.create("a/b/one.txt", b"one").unwrap();
    assert!(matches!(created, Created::New | Created::Already));
    assert_eq!(store.create("a/b/one.txt", b"one").unwrap(), Created::Already);
    assert!(matches!(store.create("a/b/one.txt", b"two"), Err(StoreError::Conflict { .. })));
    store.create("a/two.txt", b"").unwrap();
    store.create("a/b/three.txt", &[7; 100_000]).unwrap();
    assert_eq!(store.list("a").unwrap(), ["a/b", "a/two.txt"]);
    assert_eq!(store.list("a/b").unwrap(), ["a/b/one.txt", "a/b/three.txt"]);

    assert_eq!(store.get("a/b/one.txt").unwrap(), "one");
    assert_eq!(store.get("a/two.txt").unwrap(), "");
    assert_eq!(store.get("a/b/three.txt").unwrap(), vec![7; 100_000]);
    assert_eq!(store.get_range("a/b/one.txt", 1..3).unwrap(), "ne");
    assert_eq!(store.get_range("a/b/one.txt", 0..0).unwrap(), "");
    assert_eq!(store.get_range("a/b/three.txt", 99_999..100_000).unwrap(), vec![7]);
    assert!(store.get_range("a/b/one.txt", 1..4).is_err(), "the object ends before");
    assert_eq!(store.head("a/b/three.txt").unwrap().bytes, 100_000);
    store.confirm("a/b/one.txt", b"one").unwrap();
    store.confirm_size("a/b/one.txt", 3).unwrap();
    let other = store.confirm("a/b/one.txt", b"two").unwrap_err();
    assert!(matches!(other, StoreError::BrokenContract { .. }), "{other}");

    for missing in [store.get("a/none").err(), store.head("a/none").err(), store.get("a/b").err()] {
        assert!(missing.as_ref().is_some_and(|error| error.to_string().contains("a/")), "{missing:?}");
    }
    assert!(store.get("a/none").unwrap_err().is_not_found());
    assert!(store.get_range("a/none", 0..1).unwrap_err().is_not_found());
    assert!(store.head("a/none").unwrap_err().is_not_found());

    store.replace("a/b/one.txt", b"one, again").unwrap();
    assert_eq!(store.get("a/b/one.txt").unwrap(), "one, again");
    store.replace("a/four.txt", b"four").unwrap();
    assert_eq!(store.get("a/four.txt").unwrap(), "four", "there was nothing to replace");
    store.delete("a/four.txt").unwrap();

    store.delete("a/b/one.txt").unwrap();
    store.delete("a/b/one.txt").unwrap();
    assert!(store.get("a/b/one.txt").unwrap_err().is_not_found());
    assert_eq!(store.list("a/b").unwrap(), ["a/b/three.txt"]);
    one_of_many_wins(&store);
}

fn one_of_many_wins(store: &Store) {
    let outcomes: Vec<bool> = std::thread::scope(|scope| {
        let create = |i: u8| store.create("race", &vec![i; 100_000]).is_ok();
        let threads: Vec<_> = (0..8u8).map(|i| scope.spawn(move || create(i))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(outcomes.iter().filter(|first| **first).count(), 1);
    let winner = outcomes.iter().position(|first| *first).unwrap() as u8;
    assert_eq!(store.get("race").unwrap(), vec![winner; 100_000], "its object is whole");
}

#[test]
fn a_local_folder_conforms_and_leaves_nothing_unfinished() {
    let folder = tempfile::tempdir().unwrap();
    conforms(LocalBackend::open(folder.path()).unwrap());
    let mut left: Vec<String> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    left.sort();
    assert_eq!(left, ["a", "race"]);
    let store = Store::open(folder.path()).unwrap();
    assert_eq!(store.folder(), Some(folder.path().canonicalize().unwrap().as_path()));
    assert_eq!(store.location("a/two.txt"), store.folder().unwrap().join("a/two.txt").display().to_string());
}

#[test]
fn a_local_folder_in_a_simulated_file_system_conforms() {
    let machine = SimulatedHost::new(1);
    conforms(LocalBackend::open_on(machine.host().files, Path::new("/data/store")).unwrap());
}

#[test]
fn a_simulated_backend_conforms_whatever_fails_that_may_pass() {
    use StoreFault::{Fails, LosesAnswer, RunsTwice, Stalls};
    conforms(SimulatedBackend::in_memory(FaultSchedule::none()));
    for seed in 0..20 {
        println!("seed {seed}");
        let faults = vec![Fails, Stalls, LosesAnswer, RunsTwice];
        let backend = SimulatedBackend::in_memory(FaultSchedule::seeded(seed, 30, faults));
        conforms(backend.on_host(&SimulatedHost::new(seed).host()));
    }
}

#[test]
fn clients_of_the_object_store_crate_conform() {
    conforms(ObjectStoreBackend::in_memory());
    let client = Arc::new(InMemory::new());
    conforms(ObjectStoreBackend::new(client, StoreUrl::parse("memory://other")));
    let folder = tempfile::tempdir().unwrap();
    let client = Arc::new(LocalFileSystem::new_with_prefix(folder.path()).unwrap());
    conforms(ObjectStoreBackend::new(client, StoreUrl::parse("local://folder")));
}

#[test]
fn the_same_seed_gives_the_same_faults() {
    let outcomes = |seed| {
        let faults = FaultSchedule::seeded(seed, 50, StoreFault::ALL.to_vec());
        let backend = SimulatedBackend::in_memory(faults);
        let outcome =
            |i: u8| (backend.create(&format!("{i}"), &[i]).is_ok(), backend.get(&format!("{i}")).is_ok());
        (0..100).map(outcome).collect::<Vec<_>>()
    };
    assert_eq!(outcomes(1), outcomes(1));
    assert_ne!(outcomes(1), outcomes(2));
}

#[test]
fn a_backend_that_loses_or_replaces_objects_is_found_by_the_probe() {
    for fault in [StoreFault::DoesNothing, StoreFault::Overwrites] {
        let schedule = FaultSchedule::seeded(1, 100, vec![fault]);
        let store = Store::over(Arc::new(SimulatedBackend::in_memory(schedule)), QUICK);
        let refused = store.probe().unwrap_err();
        assert!(matches!(refused, StoreError::BrokenContract { .. }), "{fault:?}: {refused}");
    }
}

/// The store in a local folder of a simulated machine.
fn open(machine: &SimulatedHost) -> Store {
    let backend = LocalBackend::open_on(machine.host().files, Path::new("/data/store")).unwrap();
    Store::over(Arc::new(backend), QUICK).on_host(&machine.host())
}

#[test]
fn a_replaced_object_is_the_old_or_the_new_one_wherever_a_crash_comes() {
    let mut left = BTreeSet::new();
    for writes in 0..12 {
        let machine = SimulatedHost::new(1);
        let store = open(&machine);
        store.create("a/one", b"old").unwrap();
        machine.files.refuse_writes_after(writes, ErrorKind::StorageFull);
        let is_replaced = store.replace("a/one", b"new").is_ok();
        let survivor = open(&machine.crash());
        let found = survivor.get("a/one").unwrap();
        assert!(found == "new" || !is_replaced && found == "old", "after {writes} writes: {found:?}");
        left.insert(found.to_vec());
    }
    assert_eq!(left.len(), 2, "some were cut short, and some were not");
}

#[test]
fn what_a_local_folder_reported_as_created_survives_a_power_cut() {
    let machine = SimulatedHost::new(1);
    let store = open(&machine);
    store.create("a/b/one", b"one").unwrap();
    store.create("a/two", b"two").unwrap();
    store.delete("a/two").unwrap();
    let survivor = open(&machine.crash());
    assert_eq!(survivor.get("a/b/one").unwrap(), "one");
    assert_eq!(survivor.list("a").unwrap(), ["a/b"]);
    assert_eq!(survivor.create("a/b/one", b"one").unwrap(), Created::Already);
}
