//! Runs that are killed, whose files are torn or corrupted, whose disk is full, or whose store
//! breaks its contract.
//!
//! A round draws a small workload and a fault from its seed. After the fault, a run either
//! continues at once, or refuses with the name of the damaged file and continues once that file is
//! repaired. In the end, everything acknowledged is in the log, every record has one receipt, every
//! event is one fact, every fact has one decision, the commits form a chain, and the output equals
//! that of an undisturbed run, byte for byte.
//!
//! A seed always draws the same round. How far a killed process gets beyond the drawn point depends
//! on the machine.

mod chance;
mod invariants;
mod ledger;
mod log_bytes;
mod workload;

use std::fmt::Display;
use std::io::Read;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tidegate_dataflows::Plan;
use tidegate_dataflows::run::{Options, run_into};
use tidegate_replay::replay;
use tidegate_sinks::commits::Commits;
use tidegate_sinks::store::{FaultSchedule, LocalBackend, RetryPolicy, SimulatedBackend, Store, StoreFault};

use chance::Dice;
use invariants::{describe, invariants, ticks_of};
use ledger::Ledger;
use log_bytes::groups;
use workload::{Workload, outputs};

use crate::harness;

const ROUNDS: u64 = 24;
const ROUNDS_AT_ONCE: usize = 4;
/// A run of a workload takes a second, even on a busy machine.
const RUN_TIMEOUT: Duration = Duration::from_secs(60);

#[test]
fn no_acknowledged_fact_is_lost_or_decided_twice() {
    play(0..ROUNDS);
}

/// `FAULT_ROUNDS=200 cargo test --release --test whole many_rounds -- --ignored`
#[test]
#[ignore = "takes as long as you like"]
fn many_rounds() {
    let first = setting("FAULT_SEED").unwrap_or(0);
    play(first..first + setting("FAULT_ROUNDS").unwrap_or(200));
}

#[test]
#[ignore = "reproduces a round that failed"]
fn one_round() {
    let seed = setting("FAULT_SEED").expect("FAULT_SEED names the round");
    play(seed..seed + 1);
}

fn small_world() -> Arc<Plan> {
    let set = ["transactions.world={ seed = 4, customers = 30, terminals = 10, days = 12, radius = 20.0 }"];
    let set: Vec<String> =
        set.into_iter().chain(["commit_rows=100", "batch_rows=40"]).map(str::to_owned).collect();
    harness::plan(&harness::file("dataflows/fraud.toml"), &set)
}

/// A killed run leaves a log without a mark at its end, and rows behind the last commit.
#[test]
fn a_truncated_log_is_replayed_to_its_end() {
    let scratch = tempfile::tempdir().unwrap();
    let (data, out) = (scratch.path().join("data"), scratch.path().join("out"));
    let plan = small_world();
    let whole = harness::run_plan(&plan, &data, 1).commits;
    let written = groups(&data.join("log"));
    let cut = &written[written.len() / 2];
    std::fs::OpenOptions::new().write(true).open(&cut.segment).unwrap().set_len(cut.at).unwrap();
    // The second replay finds everything committed up to the last boundary.
    for workers in [2, 1] {
        let commits = replay(&plan, &data, &out, workers, &harness::metrics(&plan)).unwrap();
        assert!(commits.list.len() > 1 && whole.list.starts_with(&commits.list));
    }
}

/// The newest checkpoint belongs to a boundary that only the lost group recorded.
#[test]
fn a_lost_commit_mark_is_written_again() {
    let scratch = tempfile::tempdir().unwrap();
    let (data, out) = (scratch.path().join("data"), scratch.path().join("out"));
    let plan = small_world();
    let whole = harness::run_plan(&plan, &data, 1).commits;
    let last = groups(&data.join("log")).pop().expect("the run left groups");
    std::fs::OpenOptions::new().write(true).open(&last.segment).unwrap().set_len(last.at).unwrap();
    let again = harness::run_plan(&plan, &data, 2).commits;
    let replayed = replay(&plan, &data, &out, 1, &harness::metrics(&plan)).unwrap();
    assert!(again.list == whole.list && replayed.list == whole.list);
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// Plays the rounds of these seeds, several at a time, because they mostly wait for the disk.
fn play(seeds: Range<u64>) {
    let (next, failed) = (AtomicU64::new(seeds.start), Mutex::new(Vec::new()));
    let play_some = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                break;
            }
            let mut round = Round::new(seed);
            if catch_unwind(AssertUnwindSafe(|| round.play())).is_err() {
                let folder = round.scratch.keep();
                eprintln!("\nthe files of the round are in {}; reproduce it with", folder.display());
                eprintln!("FAULT_SEED={seed} cargo test --release --test whole one_round -- --ignored\n");
                failed.lock().unwrap().push(seed);
            }
        }
    };
    std::thread::scope(|scope| (0..ROUNDS_AT_ONCE).for_each(|_| drop(scope.spawn(play_some))));
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "the rounds of seeds {failed:?} failed");
}

/// One data folder, and what must hold of it.
struct Round {
    seed: u64,
    dice: Dice,
    workload: &'static Workload,
    data: PathBuf,
    /// What the log held before the last fault, and must still hold.
    acknowledged: Ledger,
    segment_kib: u64,
    dedupe_mib: u64,
    scratch: tempfile::TempDir,
}

impl Round {
    fn new(seed: u64) -> Round {
        let mut dice = Dice::new(seed);
        let workload = workload::any(&mut dice);
        let scratch = tempfile::tempdir().unwrap();
        Round {
            seed,
            workload,
            data: scratch.path().join("data"),
            acknowledged: Ledger::default(),
            // Small sizes give many segments, and many runs of the index.
            segment_kib: *dice.pick(&[32, 128, 64 << 10]),
            dedupe_mib: *dice.pick(&[0, 0, 64]),
            dice,
            scratch,
        }
    }

    fn play(&mut self) {
        self.report(self.workload.name);
        match self.seed % 5 {
            0 => self.kills(),
            1 => self.tears(),
            2 => self.flips(),
            3 => self.fills_the_disk(),
            _ => self.injects_store_faults(),
        }
        self.finish();
    }

    fn report(&self, what: impl Display) {
        println!("round {}: {what}", self.seed);
    }

    // The faults.

    fn kills(&mut self) {
        for _ in 0..self.dice.between(2..7) {
            self.start_and_kill();
        }
    }

    fn tears(&mut self) {
        self.start_and_maybe_kill();
        let groups = groups(&self.data.join("log"));
        let Some(last) = groups.last().cloned() else { return };
        let whole = std::fs::read(&last.segment).unwrap();
        let mut torn = whole.clone();
        let first_here = groups.iter().find(|g| g.segment == last.segment).expect("the last is one").at;
        let case = self.dice.below(4);
        match case {
            // A group is written in part: nothing of it was acknowledged.
            0 => {
                let groups = groups.iter().filter(|g| g.segment == last.segment).collect::<Vec<_>>();
                let group = *self.dice.pick(&groups);
                let cut = self.dice.below(group.end - group.at) as usize;
                let mut begun = whole[group.at as usize..][..cut].to_vec();
                if self.dice.percent(50) {
                    // Its pages reach the disk in any order.
                    let hole = self.dice.below(cut as u64 + 1) as usize;
                    begun[..hole].fill(0);
                }
                torn.resize(torn.len().max(last.end as usize + cut), 0);
                torn[last.end as usize..][..cut].copy_from_slice(&begun);
            }
            // The last group loses its end.
            1 => torn.truncate(self.dice.between(last.at..last.end) as usize),
            // The last group is overwritten from some byte on.
            2 => {
                let from = self.dice.between(last.at..last.end);
                let garbage = self.dice.bytes(last.end - from);
                let zeros = self.dice.percent(50);
                torn[from as usize..last.end as usize].copy_from_slice(&if zeros {
                    vec![0; garbage.len()]
                } else {
                    garbage
                });
            }
            // More is lost than a crash can take.
            _ => torn.truncate(self.dice.between(first_here..last.end) as usize),
        }
        std::fs::write(&last.segment, &torn).unwrap();
        self.report(format_args!("torn, case {case}, at {} groups", groups.len()));
        let left = Ledger::read(&self.data).unwrap();
        if case == 0 {
            assert_eq!(left, self.acknowledged, "a group written in part must not hide others");
        }
        assert!(left.is_prefix_of(&self.acknowledged), "the rest of the log must not change");
        let (refused, stderr) = self.run();
        if refused {
            assert!(case != 0, "a torn end must be repaired: {stderr}");
            self.assert_named(&stderr, &last.segment);
            assert!(
                std::fs::read(&last.segment).unwrap() == torn,
                "a run that refuses must not change the file"
            );
            std::fs::write(&last.segment, &whole).unwrap();
        } else {
            self.acknowledged = left;
        }
    }

    fn flips(&mut self) {
        self.start_and_maybe_kill();
        for _ in 0..self.dice.between(1..4) {
            self.flip_one();
        }
    }

    fn flip_one(&mut self) {
        let mut files: Vec<String> = harness::files(&self.data).into_iter().map(|(name, _)| name).collect();
        // Every kind of file has the same probability, however many files it has.
        let kinds = ["log/", "index/", "store/tables", "store/commits", ""];
        let kind = *self.dice.pick(&kinds);
        if files.iter().any(|name| name.starts_with(kind)) {
            files.retain(|name| name.starts_with(kind));
        }
        let path = self.data.join(self.dice.pick(&files));
        let whole = std::fs::read(&path).unwrap();
        let of_segment: Vec<_> =
            groups(&self.data.join("log")).into_iter().filter(|g| g.segment == path).collect();
        // Behind the last group of a segment are only zeros, so testing a few of them is enough.
        let end =
            of_segment.last().map_or(whole.len() as u64, |last| (last.end + 256).min(whole.len() as u64));
        if end == 0 {
            return;
        }
        let at = self.dice.below(end) as usize;
        let mut flipped = whole.clone();
        flipped[at] ^= self.dice.between(1..256) as u8;
        std::fs::write(&path, &flipped).unwrap();

        let name = path.strip_prefix(&self.data).unwrap().display().to_string();
        self.report(format_args!("byte {at} of {name}, which has {}", whole.len()));
        let (refused, stderr) = self.run();
        if refused {
            self.assert_named(&stderr, &path);
            std::fs::write(&path, &whole).unwrap();
            return;
        }
        let broken = invariants(&self.data);
        if !broken.is_empty() {
            assert!(
                broken.iter().any(|b| b.file.ends_with(name.trim_start_matches("store/"))),
                "{name} was changed, and the findings are: {}",
                describe(&broken)
            );
            std::fs::write(&path, &whole).unwrap();
        } else if path.extension().is_some_and(|e| e == "seg") {
            // The run took it for a torn end, and read the records from their source again.
            assert!(
                of_segment.last().is_none_or(|last| at as u64 >= last.at),
                "damage to a group before the last was not reported"
            );
            self.acknowledged = Ledger::default();
        }
        self.acknowledge();
    }

    fn fills_the_disk(&mut self) {
        // The limit applies to each file, because the process has no disk of its own that could be
        // full.
        let script = r#"[ "$1" = dies ] || trap "" XFSZ; ulimit -f "$2"; shift 2; exec "$@""#;
        for _ in 0..self.dice.between(1..5) {
            let log_bytes = groups(&self.data.join("log")).last().map_or(0, |last| last.end);
            let blocks = self.dice.between(0..(log_bytes.max(300_000) / 512).min(2 * self.segment_kib) + 20);
            let how = if self.dice.percent(20) { "dies" } else { "gets an error" };
            let tidegate = self.command();
            let mut limited = Command::new("sh");
            limited.args(["-c", script, "sh", how, &blocks.to_string()]).arg(tidegate.get_program());
            limited.args(tidegate.get_args()).stdout(Stdio::null());
            let (status, stderr) = ended(limited);
            self.report(format_args!("{blocks} blocks, and the process {how}: {status}"));
            assert!(
                status.success() || status.code().is_none() || stderr.contains(&*self.data.to_string_lossy()),
                "{stderr}"
            );
            assert!(how == "dies" || status.code().is_some(), "only the signal may end it: {stderr}");
            self.acknowledge();
        }
    }

    fn injects_store_faults(&mut self) {
        if self.dice.percent(50) {
            self.start_and_kill();
        }
        let plan = harness::plan(&self.workload.topology, &self.workload.set);
        for _ in 0..self.dice.between(1..4) {
            let faults: Vec<StoreFault> = match self.dice.below(3) {
                0 => vec![*self.dice.pick(&StoreFault::ALL)],
                1 => StoreFault::ALL.to_vec(),
                // Faults with which a store still meets its contract.
                _ => {
                    use StoreFault::{Fails, LosesAnswer, RunsTwice, Stalls};
                    vec![Fails, Stalls, LosesAnswer, RunsTwice]
                }
            };
            let percent = *self.dice.pick(&[2, 10, 30, 100]);
            let schedule = FaultSchedule::seeded(self.dice.below(u64::MAX), percent, faults.clone());
            let folder = LocalBackend::open(&self.data.join("store")).unwrap();
            let backend = SimulatedBackend::over(Arc::new(folder), schedule);
            let retry = RetryPolicy { tries_max: 8, wait_ms_first: 1, time_ms_max: 2_000 };
            let store = Store::over(Arc::new(backend), retry);
            let options = Options {
                workers: self.dice.between(1..4) as usize,
                dedupe_bytes: self.dedupe_mib << 20,
                segment_bytes: self.segment_kib << 10,
                ..Options::new(&self.data)
            };
            let outcome = run_into(&plan, &options, &store, &harness::metrics(&plan));
            self.report(format_args!(
                "{percent} % of {faults:?}: {}",
                outcome.as_ref().err().map_or("ran".to_owned(), ToString::to_string)
            ));
            match outcome {
                Ok(_) => {
                    self.acknowledge();
                    self.check_end();
                }
                Err(error) => {
                    let message = error.to_string();
                    assert!(message.contains(&store.url().to_string()), "{message} names no object");
                    self.acknowledge();
                }
            }
        }
    }

    // Running the program.

    fn command(&mut self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command.arg("run").arg(&self.workload.topology).args(["--until-idle", "--data"]).arg(&self.data);
        command.args(self.workload.set.iter().flat_map(|set| ["--set", set]));
        command.args(["-w", &self.dice.between(1..4).to_string()]);
        command.args(["--dedupe-mib", &self.dedupe_mib.to_string()]);
        command.args(["--segment-kib", &self.segment_kib.to_string()]);
        command.env_remove("TIDEGATE_KEY_FILE").stdout(Stdio::null());
        command
    }

    /// Runs to the end. Returns whether the run refused, and its standard error.
    fn run(&mut self) -> (bool, String) {
        let (status, stderr) = ended(self.command());
        assert!(status.code().is_some(), "a signal ended the run: {stderr}");
        assert!(!stderr.contains("panicked"), "{stderr}");
        (!status.success(), stderr)
    }

    /// Starts a run and kills it at a drawn point, unless it ends before.
    fn start_and_kill(&mut self) {
        let log = self.data.join("log");
        let store = self.data.join("store");
        let objects = |store: &Path| if store.is_dir() { count_files(store) } else { 0 };
        let (now, end) = (groups(&log).len(), self.workload.groups + 2);
        let (now_objects, end_objects) = (objects(&store), self.workload.objects + 2);
        let at_groups = self.dice.between(now as u64..end.max(now + 1) as u64) as usize;
        let at_objects =
            self.dice.between(now_objects as u64..end_objects.max(now_objects + 1) as u64) as usize;
        let polls_max = self.dice.below(100);
        let by = self.dice.below(3);
        let mut running = self.command().stderr(Stdio::null()).spawn().unwrap();
        let mut polls = 0;
        loop {
            let reached = match by {
                0 => groups(&log).len() > at_groups,
                1 => objects(&store) > at_objects,
                // While it starts: at some poll after it locked the log.
                _ => {
                    let lock = std::fs::read_to_string(log.join("LOCK")).unwrap_or_default();
                    polls += u64::from(lock.trim() == running.id().to_string());
                    polls > polls_max
                }
            };
            if reached || running.try_wait().unwrap().is_some() {
                break;
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        running.kill().unwrap();
        running.wait().unwrap();
        self.report(format_args!("killed at {} groups and {} objects", groups(&log).len(), objects(&store)));
        self.acknowledge();
    }

    fn start_and_maybe_kill(&mut self) {
        if self.dice.percent(50) {
            self.start_and_kill();
        } else {
            let (refused, stderr) = self.run();
            assert!(!refused, "{stderr}");
            self.acknowledge();
        }
    }

    // What must hold.

    /// Asserts that everything acknowledged is in the log. Whatever else is there counts as
    /// acknowledged from now on.
    fn acknowledge(&mut self) {
        let now = Ledger::read(&self.data).unwrap();
        assert!(self.acknowledged.is_prefix_of(&now), "acknowledged facts or receipts are gone");
        self.acknowledged = now;
    }

    fn assert_named(&self, stderr: &str, file: &Path) {
        let name = file.file_name().unwrap().to_string_lossy();
        assert!(stderr.contains(&*name), "{name} is damaged, but not named: {stderr}");
    }

    /// An undisturbed run continues, and ends as if nothing had happened.
    fn finish(&mut self) {
        let (refused, stderr) = self.run();
        assert!(!refused, "{stderr}");
        self.acknowledge();
        self.check_end();
    }

    fn check_end(&self) {
        let Workload { ledger, records, one_row_a_fact, .. } = self.workload;
        let now = Ledger::read(&self.data).unwrap();
        assert_eq!(now.records(), *records, "receipts = records");
        let broken = invariants(&self.data);
        assert!(broken.is_empty(), "{}", describe(&broken));
        let found = outputs(&self.data.join("store"));
        match &self.workload.outputs {
            Some(expected) => {
                assert!(now == *ledger, "the log holds other facts or receipts");
                assert_same(&found, expected);
            }
            None => {
                assert!(
                    now.without_ticks() == ledger.without_ticks(),
                    "the log holds other facts or receipts"
                );
                let again = tempfile::tempdir().unwrap();
                let plan = harness::plan(&self.workload.topology, &self.workload.set);
                replay(&plan, &self.data, again.path(), 1, &harness::metrics(&plan)).unwrap();
                assert_same(&found, &outputs(again.path()));
            }
        }
        let commits = Commits::read(&Store::open(self.data.join("store")).unwrap()).unwrap();
        for (table, event_type) in one_row_a_fact {
            let facts = now.facts.iter().filter(|fact| fact.event_type == *event_type).map(|fact| fact.tick);
            let rows = ticks_of(&self.data, &commits, table).unwrap();
            assert!(facts.eq(rows), "{table} has one row for each fact");
        }
    }
}

/// The exit status of a process and its standard error. A process that does not end is killed, and
/// the test fails.
fn ended(mut command: Command) -> (ExitStatus, String) {
    let mut running = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = running.stderr.take().expect("it is piped");
    let reader = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        stderr.read_to_end(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    });
    let began = Instant::now();
    let status = loop {
        if let Some(status) = running.try_wait().unwrap() {
            break Some(status);
        }
        if began.elapsed() > RUN_TIMEOUT {
            running.kill().unwrap();
            running.wait().unwrap();
            break None;
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    let text = reader.join().unwrap();
    (status.unwrap_or_else(|| panic!("a run does not end; its standard error: {text}")), text)
}

fn assert_same(found: &workload::Outputs, expected: &workload::Outputs) {
    let names =
        |outputs: &workload::Outputs| outputs.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(found), names(expected));
    for ((name, found), (_, expected)) in found.iter().zip(expected) {
        assert!(found == expected, "{name} differs from that of an undisturbed run");
    }
}

fn count_files(folder: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    paths.map(|path| if path.is_dir() { count_files(&path) } else { 1 }).sum()
}
