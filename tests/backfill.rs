//! Backfills: computed as declared, in a store beside the live one, and to the same bytes however
//! often they are interrupted.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use expect_test::expect;
use futures::TryStreamExt;
use tidegate_dataflows::Plan;
use tidegate_dataflows::backfill_declaration::BackfillDeclaration;
use tidegate_dataflows::run::Report;
use tidegate_facts::Tick;
use tidegate_queries::Catalogue;
use tidegate_replay::backfill::{BackfillError, Options, Outcome, backfill, store_of};
use tidegate_replay::compare;
use tidegate_replay::compare_seals::compare_seals;
use tidegate_replay::verify::verify;
use tidegate_sinks::commits::Commits;
use tidegate_sinks::store::Store;

use crate::harness;

const PAYMENTS: usize = 600;

/// A scratch folder with a file of payments, a topology with a sealed table, and the declarations
/// of backfills over it.
struct World {
    scratch: tempfile::TempDir,
    set: Vec<String>,
}

impl World {
    fn new() -> World {
        let scratch = tempfile::tempdir().unwrap();
        let set = vec![
            format!("payments.path={}", scratch.path().join("payments.csv").display()),
            "commit_rows=70".to_owned(),
            "batch_rows=32".to_owned(),
        ];
        let world = World { scratch, set };
        world.write("sealed.toml", &harness::sealed_payments());
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        std::fs::write(self.path(name), text).unwrap();
        self.path(name)
    }

    fn plan(&self, more: &[String]) -> Arc<Plan> {
        let set: Vec<String> = self.set.iter().chain(more).cloned().collect();
        harness::plan(&self.path("sealed.toml"), &set)
    }

    /// Runs the first `upto` payments into a data folder.
    fn run(&self, data: &str, upto: usize, more: &[String]) -> Report {
        let lines = (0..upto as i64).map(|i| {
            let at = tidegate_facts::time::to_rfc3339(time_of(i));
            format!("{i},{at},{},{},{}.{:02}\n", i % 7, i % 5, i % 300, i % 100)
        });
        let head = "transaction_id,at,customer_id,terminal_id,amount\n".to_owned();
        self.write("payments.csv", &(head + &lines.collect::<String>()));
        harness::run_plan(&self.plan(more), &self.path(data), 2)
    }

    /// A setting that names stricter rules.
    fn strict(&self) -> String {
        let rules = harness::file("tests/topologies/policies/payments-rules.toml");
        let text = std::fs::read_to_string(rules).unwrap();
        assert!(text.contains("payments_1h > 3"));
        let strict = self.write("strict-rules.toml", &text.replace("payments_1h > 3", "payments_1h > 0"));
        format!("decisions.bundle={}", strict.display())
    }

    /// Writes a declaration of the tables `outputs` that ends with the lines `more`.
    fn declare(&self, id: &str, outputs: &str, set: &[String], more: &str) -> PathBuf {
        let set: Vec<&String> = self.set.iter().chain(set).collect();
        let text = format!(
            "id = \"{id}\"\ntopology = \"sealed.toml\"\nset = {set:?}\npurpose = \"a test\"\nactor = \"ann\"\noutputs = {outputs}\n{more}"
        );
        self.write(&format!("{id}.toml"), &text)
    }

    fn backfill(&self, declaration: &Path, data: &str, workers: usize) -> Result<Outcome, BackfillError> {
        let declaration =
            BackfillDeclaration::read(declaration).unwrap_or_else(|faults| panic!("{faults:#?}"));
        let data = self.path(data);
        let live = data.join("store");
        let options = Options { data, live, workers, dedupe_bytes: 1 << 20, signer: None };
        backfill(&declaration, &options, &harness::metrics(&declaration.plan))
    }
}

fn time_of(payment: i64) -> i64 {
    1_767_225_600_000_000 + payment * 977_000_000
}

const ALL: &str = "[\"features\", \"decisions\", \"episodes\"]";

fn commits(outcome: &Outcome) -> Commits {
    Commits::read(&Store::open(&outcome.store).unwrap()).unwrap()
}

/// The ids and steps of the facts about backfills in a log.
fn recorded(data: &Path) -> Vec<String> {
    let records = tidegate_dataflows::governance::backfills(
        &harness::log_of(data),
        &Store::open(data.join("store")).unwrap(),
    );
    records.unwrap().iter().map(|(_, record)| format!("{} {}", record.backfill.id, record.step())).collect()
}

/// The result of a query over the log of `data` and the tables of `store`, printed as a table.
fn query(data: &Path, store: &Path, sql: &str) -> String {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let rows: Vec<_> = runtime.block_on(async {
        let catalogue = Catalogue::open(data, Some(store.into())).unwrap();
        let rows = catalogue.query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        rows.try_collect().await.unwrap()
    });
    arrow::util::pretty::pretty_format_batches(&rows).unwrap().to_string()
}

fn copy(from: &Path, to: &Path) {
    for (name, bytes) in harness::files(from) {
        let file = to.join(name);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, bytes).unwrap();
    }
}

#[test]
fn an_unchanged_backfill_writes_the_files_of_the_live_run_and_does_not_disturb_it() {
    let world = World::new();
    let live = world.run("data", 400, &[]);
    let data = world.path("data");
    let declared = world.declare("again", ALL, &[], "");
    let first = world.backfill(&declared, "data", 2).unwrap();
    assert_eq!(compare(&live.commits, &commits(&first)), None);
    assert!(!first.repeated);
    assert_eq!(first.record.completion.as_ref().unwrap().facts, 400);
    for _ in 0..2 {
        let again = world.backfill(&declared, "data", 1).unwrap();
        assert!(again.repeated);
        assert_eq!(again.record, first.record, "the receipt is the one in the log");
    }
    assert_eq!(recorded(&data), ["again declared", "again completed"]);
    let facts = "SELECT event_type, count(*) AS facts FROM facts GROUP BY 1 ORDER BY 1";
    expect![[r#"
        +------------------------+-------+
        | event_type             | facts |
        +------------------------+-------+
        | governance.backfill.v1 | 2     |
        | payment.v1             | 400   |
        +------------------------+-------+"#]]
    .assert_eq(&harness::table(&data, facts));

    // The two facts about the backfill count in the log like any others, but add no rows.
    world.run("data", PAYMENTS, &[]);
    expect![[r#"
        +-----------+
        | decisions |
        +-----------+
        | 600       |
        +-----------+"#]]
    .assert_eq(&harness::table(&data, "SELECT count(*) AS decisions FROM decisions"));
    let (plan, store) = (world.plan(&[]), Store::open(data.join("store")).unwrap());
    let everything = (Tick::ZERO, Tick::MAX);
    let compared = compare_seals(&plan, &data, &store, everything, 2, &harness::metrics(&plan)).unwrap();
    assert!(compared.first.is_none(), "{:#?}", compared.first);
    assert_eq!(compared.equal, PAYMENTS as u64);
    assert_eq!(verify(&harness::log_of(&data), &store, &[]).unwrap().findings, Vec::new());
}

#[test]
fn a_backfill_under_other_rules_does_not_change_the_live_tables() {
    let world = World::new();
    let live = world.run("data", PAYMENTS, &[]);
    let strict = [world.strict()];
    let apart = world.run("apart", PAYMENTS, &strict);
    let before = harness::files(&world.path("data/store"));
    let declared = world.declare("strict", ALL, &strict, "");
    let outcome = world.backfill(&declared, "data", 1).unwrap();
    assert!(before == harness::files(&world.path("data/store")), "the live store was changed");
    assert!(compare(&live.commits, &commits(&outcome)).is_some(), "the rules differ");
    assert_eq!(
        compare(&apart.commits, &commits(&outcome)),
        None,
        "the backfill equals a run under these rules from the start"
    );
}

#[test]
fn only_rows_in_scope_are_written_and_they_equal_those_of_the_live_run() {
    let world = World::new();
    world.run("data", PAYMENTS, &[]);
    let data = world.path("data");
    let at = |payment| tidegate_facts::time::to_rfc3339(time_of(payment));
    let scope = format!(
        "[scope]\nfrom = \"{}\"\nto = \"{}\"\npartitions = [1]\nstreams = [\"payment.v1\"]\n[code]\nversion = \"{}\"\n",
        at(150),
        at(333),
        env!("CARGO_PKG_VERSION")
    );
    let declared = world.declare("part", "[\"decisions\"]", &[], &scope);
    let outcome = world.backfill(&declared, "data", 2).unwrap();
    let columns = "_tick, event_id, action, score, snapshot_digest";
    let (from, to) = (Tick::new(time_of(150), 0).unwrap(), Tick::new(time_of(333), 0).unwrap());
    let live = query(
        &data,
        &data.join("store"),
        &format!(
            "SELECT {columns} FROM decisions WHERE _tick >= {} AND _tick < {} AND _tick % 256 = 1 ORDER BY _tick",
            from.0, to.0
        ),
    );
    assert!(live.lines().count() > 50, "the scope holds rows");
    let backfilled = query(&data, &outcome.store, &format!("SELECT {columns} FROM decisions ORDER BY _tick"));
    assert_eq!(live, backfilled);
    assert_eq!(commits(&outcome).tables(), ["decisions"]);
    assert_eq!(commits(&outcome).upper(), to);
    assert_eq!(outcome.record.completion.unwrap().facts, 333, "state is computed from the start of the log");
}

#[test]
fn an_interrupted_backfill_resumes_to_the_same_bytes() {
    let world = World::new();
    world.run("data", PAYMENTS, &[]);
    copy(&world.path("data"), &world.path("other"));
    let declared = world.declare("stopped", ALL, &[world.strict()], "");
    let whole = world.backfill(&declared, "data", 1).unwrap();
    let files = harness::files(&world.path("data/backfills"));

    // A foreign object under the name of a table file interrupts the backfill.
    let list = commits(&whole).list;
    let store = store_of(&world.path("other"), "stopped");
    for commit in [4, 6] {
        let obstacle = store.join(&list[commit].files[0].name);
        std::fs::create_dir_all(obstacle.parent().unwrap()).unwrap();
        std::fs::write(&obstacle, "not a table").unwrap();
        let stopped = world.backfill(&declared, "other", 2).unwrap_err();
        assert!(matches!(stopped, BackfillError::Replay(_)), "{stopped}");
        let commit_count = Commits::read(&Store::open(&store).unwrap()).unwrap().list.len();
        assert!(commit_count <= commit, "{commit_count} commits");
        std::fs::remove_file(obstacle).unwrap();
        assert_eq!(recorded(&world.path("other")), ["stopped declared"]);
    }
    // Payments that arrive in the meantime are outside its range.
    world.run("other", PAYMENTS + 100, &[]);
    let other = world.declare("stopped", "[\"decisions\"]", &[world.strict()], "");
    let refused = world.backfill(&other, "other", 1).unwrap_err();
    assert!(matches!(refused, BackfillError::OtherDeclaration { .. }), "{refused}");
    let declared = world.declare("stopped", ALL, &[world.strict()], "");
    let resumed = world.backfill(&declared, "other", 2).unwrap();
    assert!(
        files == harness::files(&world.path("other/backfills")),
        "the resumed backfill wrote different bytes"
    );
    assert_eq!(resumed.record, whole.record, "both backfills have the same receipt");
    assert_eq!(recorded(&world.path("other")), ["stopped declared", "stopped completed"]);
}

#[test]
fn a_basis_ends_the_range_and_must_exist() {
    let world = World::new();
    let live = world.run("data", PAYMENTS, &[]);
    let basis = &live.commits.list[3];
    let digest = live.commits.list[4].previous;
    let declared = world.declare("bound", ALL, &[], &format!("[basis]\ncommit = \"{digest}\"\n"));
    let outcome = world.backfill(&declared, "data", 1).unwrap();
    assert_eq!(commits(&outcome).upper(), basis.upper);
    assert_eq!(outcome.record.backfill.basis, Some(digest));
    let zeros = format!("[basis]\ncommit = \"{}\"\n", "0".repeat(64));
    let declared = world.declare("unbound", ALL, &[], &zeros);
    let refused = world.backfill(&declared, "data", 1).unwrap_err();
    assert!(matches!(refused, BackfillError::NoBasis { .. }), "{refused}");
    let declared = world.declare("late", ALL, &[], "[scope]\nto = \"2100-01-01\"\n");
    let refused = world.backfill(&declared, "data", 1).unwrap_err();
    assert!(matches!(refused, BackfillError::Range { .. }), "{refused}");
    let declared = world.declare("gate", ALL, &["partitions=3".to_owned()], "");
    let refused = world.backfill(&declared, "data", 1).unwrap_err();
    assert!(refused.to_string().contains("gate policy"), "{refused}");
    assert_eq!(recorded(&world.path("data")), ["bound declared", "bound completed"]);
}

#[test]
fn a_declaration_is_refused_with_all_its_faults_and_names_each_primary_table() {
    let world = World::new();
    world.run("data", 10, &[]);
    let text = r#"
id = "No Good"
topology = "sealed.toml"
set = ["payments.path=CSV", "decisions"]
outputs = ["facts", "receipts", "quarantine", "governance", "traffic", "control", "audit", "feature", "decisions", "decisions"]
colour = "red"

[scope]
from = "2026-01-03"
to = "2026-01-02"
partitions = [0, 7]
streams = ["payment.v2"]

[basis]
commit = "abc"

[code]
version = "0.0.0"
"#;
    let text = text.replace("CSV", &world.path("payments.csv").display().to_string());
    let faults = BackfillDeclaration::read(&world.write("bad.toml", &text)).err().unwrap();
    let messages: String = faults.iter().map(|fault| format!("{fault}\n")).collect();
    let messages = messages.replace(&format!("{}/", world.scratch.path().display()), "");
    let version = env!("CARGO_PKG_VERSION");
    expect![[r#"
        bad.toml:1: the declaration lacks `actor`, who declares it
        bad.toml:1: the declaration lacks `purpose`, what the backfill is for
        bad.toml:2: `No Good`: an id is at most 64 lower-case letters, digits and `-`; write it so
        bad.toml:4: `--set decisions` names no value; write --set node.key=value
        bad.toml:5: `audit` holds primary records, which no graph computes again; name tables that the topology derives, and correct the past by new facts
        bad.toml:5: `control` holds primary records, which no graph computes again; name tables that the topology derives, and correct the past by new facts
        bad.toml:5: `decisions` is named twice; name it once
        bad.toml:5: `facts` holds primary records, which no graph computes again; name tables that the topology derives, and correct the past by new facts
        bad.toml:5: `governance` holds primary records, which no graph computes again; name tables that the topology derives, and correct the past by new facts
        bad.toml:5: `quarantine` holds primary records, which no graph computes again; name tables that the topology derives, and correct the past by new facts
        bad.toml:5: `receipts` holds primary records, which no graph computes again; name tables that the topology derives, and correct the past by new facts
        bad.toml:5: `traffic` holds primary records, which no graph computes again; name tables that the topology derives, and correct the past by new facts
        bad.toml:5: the topology has no table `feature`; did you mean `features`?
        bad.toml:6: the declaration has no setting `colour`; there are `actor`, `basis`, `code`, `id`, `outputs`, `purpose`, `scope`, `set`, `topology`
        bad.toml:8: `streams` leaves out `payment.v1`, and rows of the other streams may need them; leave `streams` out, or filter in the topology
        bad.toml:10: `to` is not behind `from`; name a range that is not empty
        bad.toml:11: there is no partition 7; the topology has 0 to 1
        bad.toml:12: the gate lets no stream `payment.v2` in; did you mean `payment.v1`?
        bad.toml:15: `commit`: a digest is 64 lower-case hexadecimal digits; BLAKE3 of the commit's file is meant
        bad.toml:18: `version` is `0.0.0`, and this build's is `VERSION`; run it with the build that was meant
    "#]].assert_eq(&messages.replace(version, "VERSION"));
}

#[test]
fn the_command_prints_what_it_wrote_and_lists_backfills() {
    let world = World::new();
    world.run("data", 100, &[]);
    let declared = world.declare("again", "[\"decisions\"]", &[], "");
    let primary = world.declare("primary", "[\"facts\"]", &[], "");
    let mut transcript = String::new();
    let mut command = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command.arg("backfill").args(arguments).arg("--data").arg(world.path("data"));
        let output = command.output().unwrap();
        let out = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
        transcript += &format!("$ -> {}\n{out}\n", output.status.code().unwrap());
    };
    command(&[declared.to_str().unwrap(), "-w", "2"]);
    command(&[declared.to_str().unwrap()]);
    command(&[primary.to_str().unwrap()]);
    command(&["list"]);
    let transcript = transcript.replace(&world.scratch.path().display().to_string(), "");
    expect![[r#"
        $ -> 0
        backfill again is completed
        100 facts read, 2 commits, the last is DIGEST
        decisions: 100 rows in 4 files, digest DIGEST
          tidegate sql --data /data --store /data/backfills/again/store "SELECT .."

        $ -> 0
        backfill again was completed before; nothing was done
        100 facts read, 2 commits, the last is DIGEST
        decisions: 100 rows in 4 files, digest DIGEST
          tidegate sql --data /data --store /data/backfills/again/store "SELECT .."

        $ -> 2
        /primary.toml:6: `facts` holds primary records, which no graph computes again; name tables that the topology derives, and correct the past by new facts

        1 fault; nothing was started

        $ -> 0
        2026-01-02T02:52:03.000001Z  again  declared by ann: decisions  (a test)
        2026-01-02T02:52:03.000002Z  again  completed: decisions in /data/backfills/again/store

    "#]].assert_eq(&without_digests(&transcript));
}

/// Replaces digests, because they depend on the build.
fn without_digests(text: &str) -> String {
    let is_digest = |word: &str| word.len() == 64 && word.bytes().all(|b| b.is_ascii_hexdigit());
    let words = |line: &str| -> String {
        line.split(' ')
            .map(|word| if is_digest(word) { "DIGEST" } else { word })
            .collect::<Vec<_>>()
            .join(" ")
    };
    text.lines().map(|line| words(line) + "\n").collect()
}
