//! `tidegate verify` and `replay --verify` accept a folder as it was made, and report every change
//! to it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use tidegate_dataflows::Plan;
use tidegate_dataflows::run::{Options, run};
use tidegate_facts::Tick;
use tidegate_replay::compare_seals::compare_seals;
use tidegate_replay::proof::{EpisodeProof, ProofError, prove};
use tidegate_replay::shadow::shadow;
use tidegate_replay::verify::{Verified, verify};
use tidegate_sinks::commits::Commit;
use tidegate_sinks::signing::{PublicKey, Signer};
use tidegate_sinks::store::Store;

use crate::harness;

const EVERYTHING: (Tick, Tick) = (Tick::ZERO, Tick::MAX);

fn signer() -> Signer {
    Signer::from_secret(&[42; 32])
}

fn world(set: &[String]) -> Arc<Plan> {
    let world = "transactions.world={ seed = 7, customers = 150, terminals = 60, days = 20, radius = 12.0 }";
    let mut all = vec![world.to_owned(), "commit_rows=2000".to_owned(), "batch_rows=500".to_owned()];
    all.extend_from_slice(set);
    harness::plan(&harness::file("dataflows/fraud.toml"), &all)
}

/// A signed folder that is made once and never changed.
fn original() -> &'static Path {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    FOLDER
        .get_or_init(|| {
            let folder = tempfile::tempdir().unwrap();
            let plan = world(&[]);
            let options = Options { signer: Some(signer()), ..Options::new(folder.path()) };
            run(&plan, &options, &harness::metrics(&plan)).unwrap();
            folder
        })
        .path()
}

/// A copy of the original, for changing.
fn copy() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in harness::files(original()) {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    folder
}

fn check(data: &Path, keys: &[PublicKey]) -> Verified {
    verify(&harness::log_of(data), &Store::open(data.join("store")).unwrap(), keys).unwrap()
}

/// The sorted names of the original's files that `matches` accepts.
fn names(matches: impl Fn(&str) -> bool) -> Vec<String> {
    let names = harness::files(original()).into_iter().map(|(name, _)| name.replace('\\', "/"));
    names.filter(|name| matches(name)).collect()
}

#[test]
fn an_unchanged_folder_is_verified_and_signed() {
    let verified = check(original(), &[signer().public()]);
    assert_eq!(verified.findings, []);
    assert!(verified.commits >= 5 && verified.records > 4_000, "{verified:?}");
    assert_eq!(verified.signed.into_iter().collect::<Vec<_>>(), [(signer().public().id(), verified.commits)]);
    assert_eq!(verified.unsealed, 0);
}

/// One way of changing a folder: a description, the file that findings must name, and the change.
type Mutation = (String, String, Box<dyn Fn(&Path)>);

fn write(data: &Path, name: &str, change: impl Fn(Vec<u8>) -> Vec<u8>) {
    let path = data.join(name);
    std::fs::write(&path, change(std::fs::read(&path).unwrap())).unwrap();
}

/// The name of a file in findings.
fn found_as(name: &str) -> String {
    name.strip_prefix("store/").unwrap_or(name).to_owned()
}

/// Changes the fields of one commit, and signs it again with `key`.
fn forge(data: &Path, name: &str, key: Option<&Signer>, change: impl Fn(&mut Commit)) {
    write(data, name, |bytes| {
        let mut commit: Commit = serde_json::from_slice(&bytes).unwrap();
        change(&mut commit);
        commit.signature = None;
        commit.signature = key.map(|key| key.sign(commit.text().as_bytes()));
        commit.text().into_bytes()
    });
}

fn mutations() -> Vec<Mutation> {
    let mut list: Vec<Mutation> = Vec::new();
    let sealed = names(|n| n.starts_with("store/tables/decisions/"));
    let plain = names(|n| n.starts_with("store/tables/features/"));
    let commits = names(|n| n.starts_with("store/commits/"));
    let segments = names(|n| n.ends_with(".seg"));
    let mut add = |what: &str, file: &str, change: Box<dyn Fn(&Path)>| {
        list.push((format!("{what} {file}"), found_as(file), change));
    };
    let offsets: [fn(usize) -> usize; 4] = [|_| 4, |len| len / 3, |len| len / 2, |len| len - 9];
    for (number, at) in offsets.into_iter().enumerate() {
        for file in [&sealed[number], &plain[number + 1], &commits[number + 1], &segments[0]] {
            // The zeros behind the last group of a segment hold nothing.
            let of_log = file.ends_with(".seg");
            let name = file.clone();
            let flip = move |data: &Path| {
                write(data, &name, |mut bytes| {
                    let filled = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
                    let at = at(if of_log { filled } else { bytes.len() });
                    bytes[at] ^= 1 << number;
                    bytes
                });
            };
            add(&format!("flip a bit ({number}) of"), file, Box::new(flip));
        }
    }
    let (first, last) = (0, commits.len() - 1);
    for file in [&sealed[0], &sealed[5], &plain[0], &plain[5], &commits[first], &commits[2]] {
        let name = file.clone();
        add("drop", file, Box::new(move |data| std::fs::remove_file(data.join(&name)).unwrap()));
    }
    for file in [&sealed[1], &plain[2], &commits[3], &commits[last]] {
        let name = file.clone();
        let cut = move |data: &Path| write(data, &name, |bytes| bytes[..bytes.len() * 2 / 3].to_vec());
        add("truncate", file, Box::new(cut));
    }
    for (a, b) in [
        (&sealed[0], &sealed[1]),
        (&plain[0], &plain[1]),
        (&commits[1], &commits[2]),
        (&commits[0], &commits[last]),
    ] {
        let (one, other) = (a.clone(), b.clone());
        let swap = move |data: &Path| {
            let (x, y) = (std::fs::read(data.join(&one)).unwrap(), std::fs::read(data.join(&other)).unwrap());
            std::fs::write(data.join(&one), y).unwrap();
            std::fs::write(data.join(&other), x).unwrap();
        };
        add("swap with another", a, Box::new(swap));
    }
    for file in [&commits[first], &commits[2], &commits[last]] {
        let name = file.clone();
        let other = Signer::from_secret(&[43; 32]);
        add("sign with another key", file, Box::new(move |data| forge(data, &name, Some(&other), |_| {})));
        let name = file.clone();
        add("take the signature from", file, Box::new(move |data| forge(data, &name, None, |_| {})));
        let name = file.clone();
        let change_number = move |data: &Path| {
            write(data, &name, |bytes| {
                let mut commit: Commit = serde_json::from_slice(&bytes).unwrap();
                commit.files[0].rows += 1;
                commit.text().into_bytes()
            });
        };
        add("change a number, but not the signature, of", file, Box::new(change_number));
    }
    let name = segments[0].clone();
    let cut = move |data: &Path| write(data, &name, |bytes| bytes[..bytes.len() / 2].to_vec());
    add("truncate", &segments[0], Box::new(cut));
    let name = segments[0].clone();
    add("drop", &segments[0], Box::new(move |data| std::fs::remove_file(data.join(&name)).unwrap()));
    // A decision that is changed in a table file, which is written back as valid Parquet.
    for row in [0, 100] {
        let name = sealed[2].clone();
        add(
            &format!("decide row {row} otherwise in"),
            &sealed[2],
            Box::new(move |data| redecide(data, &name, row)),
        );
    }
    let plans = names(|n| n.starts_with("store/plans/") && n.ends_with(".json"));
    let name = plans[0].clone();
    let cut = move |data: &Path| write(data, &name, |bytes| bytes[..bytes.len() / 2].to_vec());
    add("truncate", &plans[0], Box::new(cut));
    let name = plans[0].clone();
    add("drop", &plans[0], Box::new(move |data| std::fs::remove_file(data.join(&name)).unwrap()));
    let stray = "store/tables/decisions/00000000000000000001-00000000000000000002-0123456789abcdef.parquet";
    let from = sealed[0].clone();
    let add_file = move |data: &Path| std::fs::copy(data.join(&from), data.join(stray)).map(drop).unwrap();
    add("add", stray, Box::new(add_file));
    list
}

/// Writes `BLOCK` into the decision at `row` of a Parquet file.
fn redecide(data: &Path, name: &str, row: usize) {
    use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray};
    use parquet::arrow::ArrowWriter;
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
    let path = data.join(name);
    let file = std::fs::File::open(&path).unwrap();
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
    let rows: Vec<RecordBatch> = reader.build().unwrap().map(Result::unwrap).collect();
    let rows = arrow::compute::concat_batches(&rows[0].schema(), &rows).unwrap();
    let at = rows.schema().index_of("action").unwrap();
    let texts = arrow::compute::cast(rows.column(at), &arrow::datatypes::DataType::Utf8).unwrap();
    let texts = texts.as_string::<i32>();
    let other = if texts.value(row) == "BLOCK" { "ALLOW" } else { "BLOCK" };
    let texts: StringArray =
        (0..texts.len()).map(|index| Some(if index == row { other } else { texts.value(index) })).collect();
    let mut columns: Vec<ArrayRef> = rows.columns().to_vec();
    columns[at] = arrow::compute::cast(&texts, rows.column(at).data_type()).unwrap();
    let rows = RecordBatch::try_new(rows.schema(), columns).unwrap();
    let mut writer = ArrowWriter::try_new(Vec::new(), rows.schema(), None).unwrap();
    writer.write(&rows).unwrap();
    std::fs::write(&path, writer.into_inner().unwrap()).unwrap();
}

#[test]
fn every_change_is_reported_with_its_file() {
    let mutations = mutations();
    assert!(mutations.len() >= 40, "{} mutations", mutations.len());
    for (what, file, change) in mutations {
        let data = copy();
        change(data.path());
        let verified = check(data.path(), &[signer().public()]);
        let files: BTreeSet<&str> = verified.findings.iter().map(|finding| finding.file.as_str()).collect();
        assert!(files.contains(file.as_str()), "{what}: only {files:?} are named: {:#?}", verified.findings);
    }
}

#[test]
fn a_changed_decision_is_reported_by_row_and_event() {
    let data = copy();
    let name = names(|n| n.starts_with("store/tables/decisions/"))[2].clone();
    redecide(data.path(), &name, 100);
    let verified = check(data.path(), &[]);
    let records: Vec<&String> =
        verified.findings.iter().filter_map(|finding| finding.record.as_ref()).collect();
    assert!(
        records.iter().any(|record| record.starts_with("row 100, event `tx-")),
        "{:#?}",
        verified.findings
    );
}

#[test]
fn a_replay_reproduces_every_seal_on_any_number_of_workers_and_in_any_batches() {
    for (workers, batch_rows) in [(1, 37), (2, 1_000), (4, 100_000)] {
        let plan = world(&[format!("batch_rows={batch_rows}")]);
        let store = Store::open(original().join("store")).unwrap();
        let metrics = harness::metrics(&plan);
        let compared = compare_seals(&plan, original(), &store, EVERYTHING, workers, &metrics).unwrap();
        assert!(compared.first.is_none(), "{:#?}", compared.first);
        assert_eq!((compared.commits, compared.uncommitted), (check(original(), &[]).commits, 0));
        assert!(compared.equal > 4_000, "{compared:?}");
    }
}

/// The fraud topology with another bundle of rules.
fn stricter(scratch: &Path) -> PathBuf {
    let rules = std::fs::read_to_string(harness::file("dataflows/policies/card-rules.toml")).unwrap();
    let path = scratch.join("stricter.toml");
    let changed = rules.replacen("when = \"amount > ", "when = \"2 * amount > ", 1);
    assert_ne!(rules, changed, "the first rule is about an amount");
    std::fs::write(&path, changed).unwrap();
    path
}

#[test]
fn a_replay_under_other_rules_reports_the_first_decision_that_differs() {
    let scratch = tempfile::tempdir().unwrap();
    let plan = world(&[format!("decisions.bundle={}", stricter(scratch.path()).display())]);
    let store = Store::open(original().join("store")).unwrap();
    let compared = compare_seals(&plan, original(), &store, EVERYTHING, 2, &harness::metrics(&plan)).unwrap();
    let first = compared.first.expect("other rules have another digest");
    assert_eq!((first.commit, compared.equal), (0, 0));
    let names: Vec<&str> = first.values.iter().map(|(name, _, _)| name.as_str()).collect();
    assert!(names.contains(&"bundle_digest") && names.contains(&"plan_digest"), "{first:#?}");
}

#[test]
fn a_shadow_run_counts_the_decisions_that_would_change() {
    let scratch = tempfile::tempdir().unwrap();
    let plan = world(&[format!("decisions.bundle={}", stricter(scratch.path()).display())]);
    let store = Store::open(original().join("store")).unwrap();
    let out = scratch.path().join("out");
    let metrics = harness::metrics(&plan);
    let shadow = shadow(&plan, original(), &store, &out, Tick::MAX, 2, &metrics).unwrap();
    assert!(shadow.changed() > 0, "a stricter rule changes something: {shadow:?}");
    assert_eq!(shadow.actions.values().sum::<u64>(), check(original(), &[]).records);
    // The slow way: both runs as tables, joined.
    let whole = scratch.path().join("whole");
    tidegate_replay::replay(&plan, original(), &whole.join("store"), 1, &metrics).unwrap();
    let actions =
        |data: &Path| harness::table(data, "SELECT event_id, action FROM decisions ORDER BY event_id");
    std::fs::create_dir_all(whole.join("log")).unwrap();
    let (actual, alternative) = (actions(original()), actions(&whole));
    let differing = actual.lines().zip(alternative.lines()).filter(|(a, b)| a != b).count() as u64;
    assert_eq!(shadow.changed(), differing);
}

#[test]
fn one_decision_is_proven_with_the_public_key_alone_and_a_changed_proof_is_refused() {
    let store = Store::open(original().join("store")).unwrap();
    let log = harness::log_of(original());
    let keys = [signer().public()];
    for event in ["tx-0", "tx-777", "tx-2500"] {
        let proof = prove(&store, Some(&log), event).unwrap();
        let text = serde_json::to_string(&proof).unwrap();
        let proven = EpisodeProof::parse(&text).unwrap().check(&keys).unwrap();
        assert_eq!(proven.signed_by, Some(signer().public().id()));
        assert!(proof.story().iter().any(|line| line.contains(event)), "{:#?}", proof.story());
        assert!(proof.check(&[Signer::from_secret(&[1; 32]).public()]).is_err(), "another key");
        let mut changed = Vec::new();
        let mut add = |change: &dyn Fn(&mut EpisodeProof)| {
            let mut other = proof.clone();
            change(&mut other);
            changed.push(other);
        };
        add(&|p| {
            p.record = p.record.replace("ALLOW", "BLOCK").replace("STEP_UP", "ALLOW").replacen('1', "2", 1)
        });
        add(&|p| p.frame = p.frame.replace("card-rules", "card-rulez"));
        add(&|p| p.previous = tidegate_facts::Digest::of(b"other"));
        add(&|p| p.inclusion.index += 1);
        add(&|p| p.inclusion.size += 1);
        add(&|p| p.inclusion.path.reverse());
        add(&|p| p.following.push(tidegate_facts::Digest::of(b"other")));
        add(&|p| p.manifest = p.manifest.replacen("\"number\":", "\"number\":1", 1));
        add(&|p| p.file = p.file.replace("0000/", "0001/").replace("0002/", "0003/"));
        for (number, other) in changed.iter().enumerate().filter(|(_, other)| **other != proof) {
            assert!(other.check(&keys).is_err(), "change {number} of {event} is not detected");
        }
    }
    assert!(prove(&store, Some(&log), "tx-of-nobody").is_err());
}

/// The same proof in another language. Runs where Python has the package `blake3`, and always in
/// `.ci/run`.
#[test]
fn the_python_verifier_agrees() {
    let python = |arguments: &[&str]| std::process::Command::new("python3").args(arguments).output();
    if !python(&["-c", "import blake3"]).is_ok_and(|output| output.status.success()) {
        assert!(std::env::var_os("CI_PYTHON").is_none(), "python3 with the package blake3 is missing");
        return;
    }
    let store = Store::open(original().join("store")).unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let key = scratch.path().join("key");
    let public = signer().write(&key).unwrap();
    let script = harness::file("examples/verify_episode.py");
    let run = |proof: &EpisodeProof| {
        let file = scratch.path().join("proof.json");
        std::fs::write(&file, serde_json::to_string(proof).unwrap()).unwrap();
        python(&[script.to_str().unwrap(), file.to_str().unwrap(), public.to_str().unwrap()]).unwrap()
    };
    for event in ["tx-0", "tx-1234"] {
        let proof = prove(&store, None, event).unwrap();
        let output = run(&proof);
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && stdout.contains("proven"), "{output:?}");
        assert!(stdout.contains(&proof.check(&[]).unwrap().seal.to_hex()), "the same seal: {stdout}");
        let changed = EpisodeProof { record: proof.record.replacen(event, "tx-9", 1), ..proof };
        assert_eq!(run(&changed).status.code(), Some(1));
    }
}

#[test]
fn an_event_id_that_two_types_share_is_refused_with_the_decision_of_each() {
    let scratch = tempfile::tempdir().unwrap();
    let policy = harness::file("tests/topologies/policies/payments-gate.toml");
    let policy = std::fs::read_to_string(policy).unwrap();
    let refund = policy.split_once("[event.").unwrap().1.replace("payment.v1", "refund.v1");
    let gate = scratch.path().join("gate.toml");
    std::fs::write(&gate, format!("{policy}\n[event.{refund}")).unwrap();
    let payment = crate::service::payment("p-1", 1, 5, "12.50");
    let refund = payment.replace("payment.v1", "refund.v1");
    let other = crate::service::payment("p-2", 2, 5, "1.00");
    let records = scratch.path().join("records.jsonl");
    std::fs::write(&records, format!("{payment}\n{refund}\n{other}\n")).unwrap();
    let set =
        [format!("admitted.policy={}", gate.display()), format!("payments_file.path={}", records.display())];
    let data = scratch.path().join("data");
    harness::run_plan(&harness::plan(&harness::file("tests/topologies/live.toml"), &set), &data, 1);

    let (store, log) = (Store::open(data.join("store")).unwrap(), harness::log_of(&data));
    let refused = prove(&store, Some(&log), "p-1").unwrap_err();
    let ProofError::Ambiguous { candidates, .. } = &refused else { panic!("{refused}") };
    let facts: Vec<&str> = candidates.iter().filter_map(|candidate| candidate.fact.as_deref()).collect();
    assert_eq!(facts, ["payment.v1:p-1", "refund.v1:p-1"]);
    for (candidate, fact) in candidates.iter().zip(facts) {
        let by_fact = prove(&store, Some(&log), fact).unwrap();
        by_fact.check(&[]).unwrap();
        assert_eq!(by_fact, prove(&store, None, &candidate.decision_id.to_hex()).unwrap());
    }
    // No fact has the first type, and without the log no type is known.
    for unknown in [prove(&store, Some(&log), "other.v1:p-1"), prove(&store, None, "payment.v1:p-1")] {
        assert!(matches!(unknown, Err(ProofError::Unknown { .. })), "{unknown:?}");
    }
    let refused = prove(&store, None, "p-1").unwrap_err();
    let ProofError::Ambiguous { candidates, .. } = &refused else { panic!("{refused}") };
    assert!(candidates.len() == 2 && candidates.iter().all(|candidate| candidate.fact.is_none()));
    prove(&store, None, "p-2").unwrap();

    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_tidegate"));
    let output = command.args(["verify", "--episode", "p-1", "--data"]).arg(&data).output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.contains("payment.v1:p-1, decision ") && message.contains("refund.v1:p-1"), "{message}");
}
