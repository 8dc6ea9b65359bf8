//! The dedupe index answers as a map in memory does, whatever its memory, its restarts and its
//! damage.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};
use tidegate_dedupe::{DedupeError, DedupeIndex, FirstSeen};
use tidegate_facts::Tick;
use tidegate_host::{Host, SimulatedHost};

/// The index beside its slow, obvious version.
struct Pair {
    host: Host,
    folder: PathBuf,
    memory_bytes: u64,
    index: DedupeIndex,
    /// All facts in the order of their ticks, and the tick below which they are durable.
    log: Vec<(u128, FirstSeen)>,
    upper: Tick,
    model: HashMap<u128, FirstSeen>,
}

impl Pair {
    fn new(folder: &Path, memory_bytes: u64) -> Pair {
        Pair::on(Host::real(), folder, memory_bytes)
    }

    fn on(host: Host, folder: &Path, memory_bytes: u64) -> Pair {
        let (index, covered) = DedupeIndex::open(&host, folder, memory_bytes, Tick::ZERO).unwrap();
        assert_eq!(covered, Tick::ZERO);
        Pair {
            host,
            folder: folder.to_owned(),
            memory_bytes,
            index,
            log: Vec::new(),
            upper: Tick::ZERO,
            model: HashMap::new(),
        }
    }

    fn insert(&mut self, key: u128) {
        let tick = self.log.last().map_or(Tick::ZERO, |(_, fact)| fact.tick.next());
        let fact = FirstSeen { payload: key.rotate_left(7), tick, offset: self.log.len() as u64 };
        self.log.push((key, fact));
        self.model.entry(key).or_insert(fact);
        self.index.insert(key, fact);
    }

    /// Makes all facts but the last `ahead` durable.
    fn advance(&mut self, ahead: usize) {
        let durable = self.log.len().saturating_sub(ahead);
        self.upper =
            self.upper.max(self.log[..durable].last().map_or(Tick::ZERO, |(_, fact)| fact.tick.next()));
        self.index.advance(self.upper).unwrap();
    }

    /// Closes the index and loses the facts that were not durable; does `meanwhile`; opens the
    /// index on the same machine and fills it again.
    fn restart(self, meanwhile: impl FnOnce(&Path)) -> (Pair, Tick) {
        let host = self.host.clone();
        self.restart_on(host, meanwhile)
    }

    /// As [`Pair::restart`], on this machine.
    fn restart_on(mut self, host: Host, meanwhile: impl FnOnce(&Path)) -> (Pair, Tick) {
        drop(self.index);
        self.log.retain(|(_, fact)| fact.tick < self.upper);
        meanwhile(&self.folder);
        let (mut index, covered) =
            DedupeIndex::open(&host, &self.folder, self.memory_bytes, self.upper).unwrap();
        assert!(covered <= self.upper);
        self.log
            .iter()
            .filter(|(_, fact)| fact.tick >= covered)
            .for_each(|(key, fact)| index.insert(*key, *fact));
        let model = self.log.iter().rev().copied().collect();
        let mut pair = Pair { host, index, model, ..self };
        pair.index.advance(pair.upper).unwrap();
        (pair, covered)
    }

    fn check(&mut self, key: u128, seed: u64) {
        assert_eq!(self.index.get(key).unwrap(), self.model.get(&key).copied(), "key {key:x}, seed {seed}");
    }

    fn check_all(&mut self, seed: u64) {
        let keys: Vec<u128> = self.model.keys().copied().collect();
        for key in keys {
            self.check(key, seed);
            self.check(!key, seed);
        }
    }
}

fn run_files(folder: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    let mut runs: Vec<PathBuf> =
        files.filter(|path| path.extension().is_some_and(|ending| ending == "run")).collect();
    runs.sort();
    runs
}

fn flip(path: &Path, at: u64) {
    let mut bytes = fs::read(path).unwrap();
    let at = at as usize % bytes.len();
    bytes[at] ^= 1 << (at % 8);
    fs::write(path, bytes).unwrap();
}

/// A new key, or one of a fact in the log.
fn some_key(pair: &Pair, rng: &mut ChaCha8Rng) -> u128 {
    let index = rng.next_u64() % (pair.log.len() as u64 * 4 / 3 + 1);
    pair.log.get(index as usize).map_or_else(|| key(rng), |(key, _)| *key)
}

fn key(rng: &mut ChaCha8Rng) -> u128 {
    u128::from(rng.next_u64()) << 64 | u128::from(rng.next_u64())
}

#[test]
fn it_answers_as_a_map_does_through_runs_merges_restarts_and_damage() {
    for seed in 0..12 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let folder = tempfile::tempdir().unwrap();
        let memory_bytes = [0, 60_000, 300_000][seed as usize % 3];
        let mut pair = Pair::new(folder.path(), memory_bytes);
        let mut stale: Vec<(PathBuf, Vec<u8>)> = Vec::new();
        for _ in 0..250 {
            for _ in 0..rng.next_u32() % 100 {
                let key = some_key(&pair, &mut rng);
                pair.check(key, seed);
                pair.insert(key);
            }
            let ahead = if rng.next_u32() % 4 == 0 { rng.next_u32() % 50 } else { 0 };
            pair.advance(ahead as usize);
            if rng.next_u32() % 25 == 0 {
                let fault = rng.next_u32() % 3;
                (pair, _) = pair.restart(|folder| {
                    let runs = run_files(folder);
                    if fault == 0 && !runs.is_empty() {
                        flip(&runs[rng.next_u64() as usize % runs.len()], rng.next_u64());
                    } else if fault == 1 {
                        // As if the process had ended between a merge and the removal of what it
                        // merged.
                        stale.drain(..).for_each(|(path, bytes)| fs::write(path, bytes).unwrap());
                        stale.extend(runs.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())));
                    }
                });
            }
        }
        pair.check_all(seed);
    }
}

#[test]
fn a_power_cut_at_any_moment_costs_runs_and_never_an_answer() {
    for seed in 0..12 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut machine = SimulatedHost::new(seed);
        let mut pair = Pair::on(machine.host(), Path::new("/data/index/dedupe"), 0);
        let mut crashes_with_runs = 0;
        for _ in 0..300 {
            for _ in 0..rng.next_u32() % 60 {
                let key = some_key(&pair, &mut rng);
                pair.check(key, seed);
                pair.insert(key);
            }
            pair.advance(0);
            // The threads that write and merge get a turn now and then, in any order.
            let runnable = machine.tasks.runnable().len();
            if runnable > 0 && rng.next_u32() % 2 == 0 {
                machine.tasks.step(rng.next_u64() as usize % runnable);
            }
            if rng.next_u32() % 30 == 0 {
                let odds = rng.next_u32() % 4;
                let survivor = machine.crash_keeping(&mut || rng.next_u32() % 4 < odds);
                let (restarted, covered) = pair.restart_on(survivor.host(), |_| ());
                (pair, machine) = (restarted, survivor);
                crashes_with_runs += u32::from(covered > Tick::ZERO);
            }
        }
        pair.check_all(seed);
        assert!(crashes_with_runs > 0, "seed {seed}: a run survives some crash");
    }
}

#[test]
fn the_number_of_runs_stays_small() {
    let folder = tempfile::tempdir().unwrap();
    let mut pair = Pair::new(folder.path(), 0);
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    for _ in 0..400 {
        (0..50).for_each(|_| pair.insert(key(&mut rng)));
        pair.advance(0);
    }
    assert!(run_files(folder.path()).len() < 48, "{}", run_files(folder.path()).len());
    let (mut pair, _) = pair.restart(|_| ());
    pair.check_all(3);
}

#[test]
fn a_damaged_run_is_removed_with_all_later_ones_and_the_log_fills_the_gap() {
    let folder = tempfile::tempdir().unwrap();
    let mut pair = Pair::new(folder.path(), 0);
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    for _ in 0..40 {
        (0..60).for_each(|_| pair.insert(key(&mut rng)));
        pair.advance(0);
    }
    let (pair, whole) = pair.restart(|_| ());
    let mut expected = Tick::ZERO;
    let (mut pair, covered) = pair.restart(|folder| {
        let runs = run_files(folder);
        let damaged = &runs[runs.len() / 2];
        let name = damaged.file_name().unwrap().to_str().unwrap();
        expected = Tick(name.split_once('-').unwrap().0.parse().unwrap());
        flip(damaged, 1000);
    });
    assert!(expected < whole, "the damage is not in the last run");
    assert_eq!(covered, expected);
    pair.check_all(4);
}

#[test]
fn damage_while_the_index_is_open_is_an_error_and_the_next_start_repairs_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut pair = Pair::new(folder.path(), 0);
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    for _ in 0..10 {
        (0..60).for_each(|_| pair.insert(key(&mut rng)));
        pair.advance(0);
    }
    drop(pair.index);
    let (mut index, _) = DedupeIndex::open(&pair.host, folder.path(), 0, pair.upper).unwrap();
    let damaged = run_files(folder.path()).remove(0);
    flip(&damaged, 100);
    let error =
        pair.log.iter().find_map(|(key, _)| index.get(*key).err()).expect("a block of the run is read");
    assert!(matches!(&error, DedupeError::Damaged { path, .. } if *path == damaged), "{error}");
    assert!(!damaged.exists());

    let (mut pair, covered) = Pair { index, ..pair }.restart(|_| ());
    assert_eq!(covered, Tick::ZERO);
    pair.check_all(5);
}

#[test]
fn runs_with_facts_that_the_log_has_lost_are_removed() {
    let folder = tempfile::tempdir().unwrap();
    let mut pair = Pair::new(folder.path(), 0);
    for number in 0..300 {
        pair.insert(number << 100 | 1);
        pair.advance(0);
    }
    let lost = pair.log.pop().unwrap();
    pair.upper = lost.1.tick;
    let (mut pair, covered) = pair.restart(|_| ());
    assert!(covered <= lost.1.tick);
    pair.check_all(0);
    assert_eq!(pair.index.get(lost.0).unwrap(), None);
}

#[test]
fn keys_that_are_not_spread_are_found_too() {
    let folder = tempfile::tempdir().unwrap();
    let mut pair = Pair::new(folder.path(), 100_000);
    let keys = (0..2000).flat_map(|i| [i, u128::MAX - i, i << 64]);
    for key in keys {
        pair.insert(key);
        pair.advance(0);
    }
    let (mut pair, covered) = pair.restart(|_| ());
    assert!(covered > Tick::ZERO);
    pair.check_all(0);
}

#[test]
#[should_panic(expected = "a fact is inserted after the index has passed its tick")]
fn a_fact_inserted_too_late_is_a_bug() {
    let folder = tempfile::tempdir().unwrap();
    let mut pair = Pair::new(folder.path(), 0);
    pair.index.advance(Tick(9)).unwrap();
    pair.insert(1);
}
