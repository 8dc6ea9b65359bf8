//! Governed changes of rule bundles and gate policies.
//!
//! A revision takes effect at the tick of its activation, in every run and every replay, and only
//! after the steps that its lifecycle requires.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use expect_test::{Expect, expect};
use tidegate_dataflows::Plan;
use tidegate_dataflows::governance::{DataFolder, GovernanceError, StepAction, StepOutcome, StepRequest};
use tidegate_dataflows::run::{Options, Report, run};
use tidegate_facts::governance::RevisionStep;
use tidegate_facts::{Digest, Tick, Topic};
use tidegate_replay::compare_seals::compare_seals;
use tidegate_replay::proof::prove;
use tidegate_replay::shadow::shadow;
use tidegate_replay::verify::verify;
use tidegate_replay::{compare, replay};
use tidegate_sinks::archive::{LogRetention, prune};
use tidegate_sinks::log::{LogOptions, LogReader};
use tidegate_sinks::store::Store;

use crate::harness;

const PAYMENTS: usize = 600;

/// Rules that read a column which the topology's own rules do not read. The plan must therefore
/// carry that column from the start.
const STRICT: &str = r#"id = "payments-rules"
version = "2"
score = "cast(payments_1d as double)"

[[rule]]
id = "many-in-an-hour"
when = "payments_1h > 1"
action = "BLOCK"
reason = "VELOCITY"

[[rule]]
id = "terminal-watched"
when = "scenario_id = 'payments' and terminal_id = 3"
action = "QUEUE_REVIEW"
reason = "TERMINAL_WATCHED"
"#;

/// A scratch folder with a growing file of payments, for runs and for proposals of revisions.
struct World {
    scratch: tempfile::TempDir,
    topology: PathBuf,
    set: Vec<String>,
}

impl World {
    fn new(more: &[&str]) -> World {
        let columns = "event_id action score rules_fired reason_codes decision_id snapshot_digest \
                       bundle_version bundle_digest policy_revision policy_digest";
        let columns: Vec<&str> = columns.split_whitespace().collect();
        let scratch = tempfile::tempdir().unwrap();
        let mut set = vec![
            format!("payments.path={}", scratch.path().join("payments.csv").display()),
            "features_table.columns=[\"event_id\"]".to_owned(),
            format!("decisions_table.columns={columns:?}"),
            "commit_rows=70".to_owned(),
            "batch_rows=32".to_owned(),
        ];
        set.extend(more.iter().map(|set| (*set).to_owned()));
        World { scratch, topology: harness::file("tests/topologies/payments.toml"), set }
    }

    /// The same with a table `episodes` of sealed decisions.
    fn sealed(more: &[&str]) -> World {
        let world = World::new(more);
        let topology = world.write("sealed.toml", &harness::sealed_payments());
        World { topology, ..world }
    }

    /// Runs with revisions and a rollback in between. The strict rules decide payments 200 to 399,
    /// and payments from 300 on cite the second gate policy.
    fn with_history(self) -> World {
        self.run(200, 1);
        self.activate_revision("decisions", STRICT);
        self.run(300, 2);
        self.activate_revision(
            "admitted",
            &gate_revision("2", "record_bytes_max = 16384", "record_bytes_max = 8192"),
        );
        self.run(400, 1);
        self.take_step("cyd", "too many reviews", StepAction::RollBack("decisions".to_owned())).unwrap();
        self.run(PAYMENTS, 1);
        self
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        std::fs::write(self.path(name), text).unwrap();
        self.path(name)
    }

    fn plan(&self, more: &[String]) -> Arc<Plan> {
        if !self.path("payments.csv").exists() {
            self.write_payments(0);
        }
        let set: Vec<String> = self.set.iter().chain(more).cloned().collect();
        harness::plan(&self.topology, &set)
    }

    /// Writes the first `upto` payments to the file.
    fn write_payments(&self, upto: usize) {
        let lines = (0..upto as i64).map(|i| {
            let at = tidegate_facts::time::to_rfc3339(1_767_225_600_000_000 + i * 977_000_000);
            format!("{i},{at},{},{},{}.{:02}\n", i % 7, i % 5, i % 300, i % 100)
        });
        let text =
            "transaction_id,at,customer_id,terminal_id,amount\n".to_owned() + &lines.collect::<String>();
        self.write("payments.csv", &text);
    }

    fn run(&self, upto: usize, workers: usize) -> Report {
        self.write_payments(upto);
        harness::run_plan(&self.plan(&[]), &self.path("data"), workers)
    }

    /// Runs all payments with other settings, into a data folder of its own.
    fn run_separately(&self, name: &str, more: &[String]) -> PathBuf {
        self.write_payments(PAYMENTS);
        harness::run_plan(&self.plan(more), &self.path(name), 1);
        self.path(name)
    }

    fn take_step(
        &self,
        actor: &str,
        reason: &str,
        action: StepAction,
    ) -> Result<StepOutcome, GovernanceError> {
        let request = StepRequest { actor: actor.to_owned(), reason: reason.to_owned(), action };
        DataFolder::new(&self.path("data"), self.path("data/store")).take_step(&self.plan(&[]), &request)
    }

    fn propose(&self, actor: &str, node: &str, text: &str) -> Result<StepOutcome, GovernanceError> {
        let (node, file) = (node.to_owned(), PathBuf::from("revision.toml"));
        self.take_step(actor, "test", StepAction::Propose { node, file, text: text.to_owned(), before: None })
    }

    /// Ann proposes, Bob approves, Ann activates.
    fn activate_revision(&self, node: &str, text: &str) -> StepOutcome {
        let id = self.propose("ann", node, text).unwrap().record.proposal_id.to_hex();
        self.take_step("bob", "fine", StepAction::Follow(RevisionStep::Approved, id.clone())).unwrap();
        self.take_step("ann", "now", StepAction::Follow(RevisionStep::Activated, id)).unwrap()
    }
}

/// The printed rows of the decisions on some payments, in tick order.
fn decisions(data: &Path, payments: std::ops::Range<usize>) -> Vec<String> {
    let table = harness::table(data, "SELECT * FROM decisions ORDER BY _tick");
    // The width of a printed column depends on its widest value, so runs of blanks are collapsed.
    let squeezed = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let rows: Vec<String> = table.lines().skip(3).map(squeezed).collect();
    assert_eq!(
        rows.len() - 1,
        harness::query(data, "SELECT * FROM decisions").iter().map(|b| b.num_rows()).sum::<usize>()
    );
    rows[payments].to_vec()
}

/// A revision of the test's gate policy, with `to` in place of `from`.
fn gate_revision(revision: &str, from: &str, to: &str) -> String {
    let text =
        std::fs::read_to_string(harness::file("tests/topologies/policies/payments-gate.toml")).unwrap();
    let text = text.replace("revision = \"1\"", &format!("revision = \"{revision}\""));
    assert!(text.contains(from), "the policy does not contain {from}");
    text.replace(from, to)
}

#[test]
fn each_revision_decides_from_its_tick_and_a_rollback_restores_the_one_before() {
    let world = World::new(&[]);
    world.run(200, 1);
    let activated = world.activate_revision("decisions", STRICT);
    world.run(400, 2);
    let back = StepAction::RollBack("decisions".to_owned());
    let rolled_back = world.take_step("cyd", "too many reviews", back).unwrap();
    let live = world.run(PAYMENTS, 1);

    let lenient = world.run_separately("lenient", &[]);
    let bundle = world.write("strict.toml", STRICT);
    let strict = world.run_separately("strict", &[format!("decisions.bundle={}", bundle.display())]);
    let data = world.path("data");
    assert_eq!(decisions(&data, 0..200), decisions(&lenient, 0..200));
    assert_eq!(decisions(&data, 200..400), decisions(&strict, 200..400));
    assert_eq!(decisions(&data, 400..600), decisions(&lenient, 400..600));
    assert_ne!(decisions(&lenient, 200..400), decisions(&strict, 200..400), "the two bundles differ");

    let count = format!(
        "SELECT count(*) FILTER (WHERE _tick < {0}) AS a, count(*) FILTER (WHERE _tick BETWEEN {0} AND {1}) AS b, \
         count(*) AS payments FROM decisions",
        activated.tick.0, rolled_back.tick.0
    );
    expect![[r#"
        +-----+-----+----------+
        | a   | b   | payments |
        +-----+-----+----------+
        | 200 | 200 | 600      |
        +-----+-----+----------+"#]]
    .assert_eq(&harness::table(&data, &count));

    for workers in [1, 2, 4] {
        let out = world.path(&format!("replayed-{workers}"));
        let plan = world.plan(&[]);
        let again = replay(&plan, &data, &out, workers, &harness::metrics(&plan)).unwrap();
        assert_eq!(compare(&live.commits, &again), None, "{workers} workers");
    }
    let before = harness::files(&data.join("store"));
    world.run(PAYMENTS, 2);
    let after = harness::files(&data.join("store"));
    let names = |files: &[(String, Vec<u8>)]| files.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&before), names(&after), "a second run over the same input adds no file");
    assert!(before == after, "a second run over the same input changes no file");
    let options =
        Options { store: Some(world.path("store-again").into()), workers: 2, ..Options::new(&data) };
    let plan = world.plan(&[]);
    let again = run(&plan, &options, &harness::metrics(&plan)).unwrap();
    assert_eq!(compare(&live.commits, &again.commits), None, "a restart that writes all tables again");
}

#[test]
fn rules_set_in_the_topology_of_a_replay_decide_every_payment() {
    let world = World::new(&[]);
    world.run(200, 1);
    world.activate_revision("decisions", &STRICT.replace("payments_1h > 1", "payments_1h > 2"));
    world.run(PAYMENTS, 1);
    let bundle = world.write("strict.toml", STRICT);
    let set = [format!("decisions.bundle={}", bundle.display())];
    let plan = world.plan(&set);
    std::fs::create_dir(world.path("shadow")).unwrap();
    replay(&plan, &world.path("data"), &world.path("shadow/store"), 2, &harness::metrics(&plan)).unwrap();
    std::fs::create_dir(world.path("shadow/log")).unwrap(); // A query needs a folder with a log and a store.
    let strict = world.run_separately("strict", &set);
    assert_eq!(decisions(&world.path("shadow"), 0..PAYMENTS), decisions(&strict, 0..PAYMENTS));

    // Neither the output of another plan nor the data folder is overwritten.
    let own = world.plan(&[]);
    for (out, message) in
        [("shadow/store", "contains the output of an earlier run"), ("data/again", "is in the data folder")]
    {
        let refused = replay(&own, &world.path("data"), &world.path(out), 1, &harness::metrics(&own));
        assert!(refused.unwrap_err().to_string().contains(message), "{out}");
    }
}

/// How many episodes of a folder were decided under each bundle and policy revision.
fn episodes_by_revision(data: &Path) -> String {
    harness::table(
        data,
        "SELECT bundle_version AS rules, policy_revision AS policy, count(*) AS n, min(cast(event_id AS int)) AS first \
         FROM episodes GROUP BY 1, 2 ORDER BY 4",
    )
}

#[test]
fn an_episode_names_the_effective_revisions_and_every_replay_reproduces_its_seal() {
    let world = World::sealed(&[]).with_history();
    let (data, plan) = (world.path("data"), world.plan(&[]));
    expect![[r#"
        +-------+--------+-----+-------+
        | rules | policy | n   | first |
        +-------+--------+-----+-------+
        | 1     | 1      | 200 | 0     |
        | 2     | 1      | 100 | 200   |
        | 2     | 2      | 100 | 300   |
        | 1     | 2      | 200 | 400   |
        +-------+--------+-----+-------+"#]]
    .assert_eq(&episodes_by_revision(&data));
    let store = Store::open(data.join("store")).unwrap();
    let verified = verify(&harness::log_of(&data), &store, &[]).unwrap();
    assert_eq!((verified.findings, verified.records), (Vec::new(), PAYMENTS as u64));
    for workers in [1, 2, 4] {
        let everything = (Tick::ZERO, Tick::MAX);
        let compared =
            compare_seals(&plan, &data, &store, everything, workers, &harness::metrics(&plan)).unwrap();
        assert!(compared.first.is_none(), "{workers} workers: {:#?}", compared.first);
        assert_eq!((compared.equal, compared.commits), (PAYMENTS as u64, verified.commits));
    }
    for (event, version) in [("199", "\"1\""), ("200", "\"2\""), ("399", "\"2\""), ("400", "\"1\"")] {
        let proof = prove(&store, Some(&harness::log_of(&data)), event).unwrap();
        proof.check(&[]).unwrap();
        let values = proof.values();
        let recorded =
            values.iter().find(|(name, _)| name == "bundle_version").map(|(_, value)| value.as_str());
        assert_eq!(recorded, Some(version), "event {event}: {values:#?}");
    }
}

#[test]
fn a_shadow_run_applies_the_named_rules_to_every_payment_even_when_they_are_the_initial_rules() {
    let world = World::sealed(&[]).with_history();
    let data = world.path("data");
    let sealed = Store::open(data.join("store")).unwrap();
    let strict = world.write("strict.toml", STRICT);
    let own = harness::file("tests/topologies/policies/payments-rules.toml");
    let action = |line: &str| line.split(' ').nth(5).map(str::to_owned);
    for (name, bundle) in [("own", own), ("strict", strict)] {
        let set = [format!("decisions.bundle={}", bundle.display())];
        let apart = world.run_separately(name, &set);
        let (actual, alternative) = (decisions(&data, 0..PAYMENTS), decisions(&apart, 0..PAYMENTS));
        let differing =
            actual.iter().zip(&alternative).filter(|(a, b)| action(a) != action(b)).count() as u64;
        assert!(differing > 10, "the two bundles differ");
        let (plan, out) = (world.plan(&set), world.path(&format!("shadow-{name}")));
        let upto = Tick::MAX;
        let shadow = shadow(&plan, &data, &sealed, &out, upto, 2, &harness::metrics(&plan)).unwrap();
        assert_eq!((shadow.changed(), shadow.actions.values().sum()), (differing, PAYMENTS as u64), "{name}");
    }
}

#[test]
fn steps_pruned_from_the_log_stay_effective_through_the_archive() {
    let world = World::sealed(&["log.archive=true"]).with_history();
    let (data, plan) = (world.path("data"), world.plan(&[]));
    let whole = episodes_by_revision(&data);
    let tables = harness::files(&data.join("store/tables"));
    harness::resegment(&data, 4096);
    let store = Store::open(data.join("store")).unwrap();
    let log = harness::log_of(&data).lock().unwrap();
    let pruned = prune(&log, &store, LogRetention { span: None, bytes: Some(1) }).unwrap();
    drop(log);
    assert!(
        harness::log_of(&data).read_topic(Topic::Control).unwrap().is_empty(),
        "every step is pruned: {pruned:?}"
    );
    let (out, metrics) = (world.path("again"), harness::metrics(&plan));
    replay(&plan, &data, &out, 2, &metrics).unwrap();
    assert!(tables == harness::files(&out.join("tables")), "the replay wrote different files");
    // The lifecycle continues from the state that the archive holds.
    let refused = world.propose("ann", "decisions", STRICT).unwrap_err();
    assert!(refused.to_string().contains("rolled back"), "{refused}");
    let again = world.propose("ann", "decisions", &STRICT.replace("\"2\"", "\"3\"")).unwrap();
    assert!(again.tick > Tick::ZERO && !again.repeated);
    let refused = world.take_step("ann", "again", StepAction::RollBack("decisions".to_owned())).unwrap_err();
    assert!(refused.to_string().contains("nothing to roll back to"), "{refused}");
    world.run(PAYMENTS, 1);
    assert_eq!(episodes_by_revision(&data), whole);
}

#[test]
fn under_the_wall_clock_a_step_is_stamped_with_the_current_time() {
    let world = World::new(&["clock=wall"]);
    world.run(300, 1);
    let activated = world.activate_revision("decisions", STRICT);
    world.run(PAYMENTS, 1);
    let count = format!(
        "SELECT _tick > {} AS later, bundle_version, count(*) AS n FROM decisions GROUP BY 1, 2 ORDER BY 1",
        activated.tick.0
    );
    expect![[r#"
        +-------+----------------+-----+
        | later | bundle_version | n   |
        +-------+----------------+-----+
        | false | 1              | 300 |
        | true  | 2              | 300 |
        +-------+----------------+-----+"#]]
    .assert_eq(&harness::table(&world.path("data"), &count));
}

#[test]
fn receipts_and_decisions_cite_the_effective_policy() {
    let world = World::new(&[]);
    world.run(200, 1);
    world.activate_revision(
        "admitted",
        &gate_revision("2", "record_bytes_max = 16384", "record_bytes_max = 8192"),
    );
    world.run(400, 1);
    world.activate_revision(
        "admitted",
        &gate_revision("3", "class = \"traffic\"", "class = \"traffic\"\nproducers = [\"bank\"]"),
    );
    world.run(500, 1);
    world.take_step("ann", "no bank sends yet", StepAction::RollBack("admitted".to_owned())).unwrap();
    let live = world.run(PAYMENTS, 2);
    let data = world.path("data");
    let receipts = "SELECT source, policy_id, policy_revision, decision, reason_code, count(*) AS n, \
                    count(DISTINCT policy_digest) AS digests FROM receipts GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 3, 4";
    expect![[r#"
        +------------+---------------------+-----------------+------------+--------------+-----+---------+
        | source     | policy_id           | policy_revision | decision   | reason_code  | n   | digests |
        +------------+---------------------+-----------------+------------+--------------+-----+---------+
        | governance | tidegate.governance | 2               | ADMIT      |              | 7   | 1       |
        | payments   | payments-gate       | 1               | ADMIT      |              | 200 | 1       |
        | payments   | payments-gate       | 2               | ADMIT      |              | 300 | 1       |
        | payments   | payments-gate       | 3               | QUARANTINE | UNAUTHORIZED | 100 | 1       |
        +------------+---------------------+-----------------+------------+--------------+-----+---------+"#]]
    .assert_eq(&harness::table(&data, receipts));
    let decisions =
        "SELECT policy_revision, count(*) AS n, min(event_id) AS first FROM decisions GROUP BY 1 ORDER BY 1";
    expect![[r#"
        +-----------------+-----+-------+
        | policy_revision | n   | first |
        +-----------------+-----+-------+
        | 1               | 200 | 0     |
        | 2               | 300 | 200   |
        +-----------------+-----+-------+"#]]
    .assert_eq(&harness::table(&data, decisions));
    let plan = world.plan(&[]);
    let again = replay(&plan, &data, &world.path("out"), 4, &harness::metrics(&plan)).unwrap();
    assert_eq!(compare(&live.commits, &again), None);
}

#[test]
fn every_step_is_a_fact_with_a_receipt_and_a_row() {
    let world = World::new(&[]);
    world.run(100, 1);
    world.activate_revision("decisions", STRICT);
    let again = world.propose("ann", "decisions", &STRICT.replace("\"2\"", "\"3\"")).unwrap();
    // Without its index, the gate learns from the log which records it has seen.
    std::fs::remove_dir_all(world.path("data/index")).unwrap();
    let repeated = world.propose("ann", "decisions", &STRICT.replace("\"2\"", "\"3\"")).unwrap();
    assert!(!again.repeated && repeated.repeated);
    assert_eq!((again.tick, &again.record), (repeated.tick, &repeated.record));
    world
        .take_step(
            "ann",
            "not needed",
            StepAction::Follow(RevisionStep::Withdrawn, again.record.proposal_id.to_hex()),
        )
        .unwrap();
    let data = world.path("data");
    let steps = "SELECT taken_at_utc, kind, node, scope, step, family, actor, reason, left(before_digest, 6) AS before, \
                 left(after_digest, 6) AS after, revision_version AS version, length(revision_text) AS text FROM governance ORDER BY _tick";
    expect![[r#"
        +-----------------------------+--------+-----------+----------+-----------+------------------------+-------+------------+--------+--------+---------+------+
        | taken_at_utc                | kind   | node      | scope    | step      | family                 | actor | reason     | before | after  | version | text |
        +-----------------------------+--------+-----------+----------+-----------+------------------------+-------+------------+--------+--------+---------+------+
        | 2026-01-02T02:52:03.000001Z | bundle | decisions | payments | proposed  | BUNDLE_PUBLISHED       | ann   | test       | adfc0f | c65b7e | 2       | 309  |
        | 2026-01-02T02:52:03.000002Z | bundle | decisions | payments | approved  | BUNDLE_APPROVED        | bob   | fine       | adfc0f | c65b7e | 2       |      |
        | 2026-01-02T02:52:03.000003Z | bundle | decisions | payments | activated | BUNDLE_PROMOTED_ACTIVE | ann   | now        | adfc0f | c65b7e | 2       |      |
        | 2026-01-02T02:52:03.000004Z | bundle | decisions | payments | proposed  | BUNDLE_PUBLISHED       | ann   | test       | c65b7e | d8be3c | 3       | 309  |
        | 2026-01-02T02:52:03.000005Z | bundle | decisions | payments | withdrawn | BUNDLE_RETIRED         | ann   | not needed | c65b7e | d8be3c | 3       |      |
        +-----------------------------+--------+-----------+----------+-----------+------------------------+-------+------------+--------+--------+---------+------+"#]].assert_eq(&harness::table(&data, steps));
    let facts = "SELECT topic, partition, \"offset\", event_type, producer, schema_version, scenario_run_id IS NOT NULL AS pins \
                 FROM facts WHERE topic = 'control' ORDER BY _tick";
    expect![[r#"
        +---------+-----------+--------+----------------------+-----------------+----------------+------+
        | topic   | partition | offset | event_type           | producer        | schema_version | pins |
        +---------+-----------+--------+----------------------+-----------------+----------------+------+
        | control | 0         | 0      | governance.policy.v1 | tidegate.policy | v1             | true |
        | control | 0         | 1      | governance.policy.v1 | tidegate.policy | v1             | true |
        | control | 0         | 2      | governance.policy.v1 | tidegate.policy | v1             | true |
        | control | 0         | 3      | governance.policy.v1 | tidegate.policy | v1             | true |
        | control | 0         | 4      | governance.policy.v1 | tidegate.policy | v1             | true |
        +---------+-----------+--------+----------------------+-----------------+----------------+------+"#]]
    .assert_eq(&harness::table(&data, facts));
    let receipts = "SELECT r.position, r.decision, r.reason_code, g.step FROM receipts r LEFT JOIN governance g \
                    ON r._tick = g._tick WHERE r.source = 'governance' ORDER BY r.position";
    expect![[r#"
        +----------+-----------+-------------+-----------+
        | position | decision  | reason_code | step      |
        +----------+-----------+-------------+-----------+
        | 0        | ADMIT     |             | proposed  |
        | 1        | ADMIT     |             | approved  |
        | 2        | ADMIT     |             | activated |
        | 3        | ADMIT     |             | proposed  |
        | 4        | DUPLICATE | DUPLICATE   | proposed  |
        | 5        | ADMIT     |             | withdrawn |
        +----------+-----------+-------------+-----------+"#]]
    .assert_eq(&harness::table(&data, receipts));
    world.run(100, 1);
    let rows = "SELECT count(*) AS n FROM decisions";
    assert!(harness::table(&data, rows).contains("| 100 |"), "steps add no rows to the tables of the graph");
}

/// Compares the results of steps with `expected`, one result a line.
fn check(results: &[Result<StepOutcome, GovernanceError>], expected: &Expect) {
    let root = format!("{}/", env!("CARGO_MANIFEST_DIR"));
    let lines = results.iter().map(|result| match result {
        Ok(taken) => format!("taken: {}\n", taken.record.step),
        Err(error) => format!("{error}\n").replace(&root, ""),
    });
    expected.assert_eq(&lines.collect::<String>());
}

#[test]
fn steps_that_break_the_rules_are_refused() {
    let world = World::new(&[]);
    world.run(50, 1);
    let files = harness::files(&world.path("data/log"));
    let follow =
        |actor: &str, step, id: &str| world.take_step(actor, "why", StepAction::Follow(step, id.to_owned()));
    check(
        &[
            world.propose("ann", "features", STRICT),
            world.propose("ann", "decisions", &STRICT.replace("\"2\"", "\"1\"")),
            world.propose("", "decisions", STRICT),
            follow("bob", RevisionStep::Approved, "3f"),
            world.take_step("ann", "why", StepAction::RollBack("decisions".to_owned())),
        ],
        &expect![[r#"
            node `features` has no bundle and no policy to revise; name one of `decisions`, `admitted` (the gate)
            the bundle of `decisions` already has another revision payments-rules 1 (adfc0faa2bcf); give the new one its own version
            the step has no actor; give the actor with --actor
            there is no proposal 3f; nothing was proposed yet: begin with `tidegate policy propose`
            payments-rules 1 (adfc0faa2bcf) has been in force for the bundle of `decisions` since the beginning; there is nothing to roll back to
        "#]],
    );
    assert!(files == harness::files(&world.path("data/log")), "a refused step must not change the log");

    let first = world.propose("ann", "decisions", STRICT).unwrap().record;
    let other = world.propose("bob", "decisions", &STRICT.replace("\"2\"", "\"3\"")).unwrap().record;
    let (id, other_id) = (first.proposal_id.to_hex(), other.proposal_id.to_hex());
    let named = StepAction::Propose {
        node: "decisions".to_owned(),
        file: "revision.toml".into(),
        text: STRICT.replace("\"2\"", "\"4\""),
        before: Some(other.after.digest),
    };
    check(
        &[
            follow("ann", RevisionStep::Activated, &id),
            follow("ann", RevisionStep::Approved, &id),
            follow("bob", RevisionStep::Approved, &id),
            follow("cyd", RevisionStep::Approved, &other_id),
            follow("bob", RevisionStep::Approved, &id),
            follow("bob", RevisionStep::Activated, &id),
            follow("bob", RevisionStep::Activated, &other_id),
            follow("bob", RevisionStep::Withdrawn, &id),
            world.propose("ann", "decisions", STRICT),
            world.take_step("ann", "why", named),
        ],
        &expect![[r#"
            proposal 6b4b85ec8e2c was proposed by ann, so it cannot be activated; have it approved first
            ann proposed 6b4b85ec8e2c, so someone else must approve it; ask a colleague, or set `four_eyes = false` in [governance] of a new topology
            taken: approved
            taken: approved
            taken: approved
            taken: activated
            the step was made for the bundle of `decisions` when adfc0faa2bcf was in force, but now payments-rules 2 (c65b7e1fc68f) is; review the changes, then propose it again
            proposal 6b4b85ec8e2c was activated by bob, so it cannot be withdrawn; roll it back instead
            payments-rules 2 (c65b7e1fc68f) is already in force for the bundle of `decisions`; there is nothing to change
            the step was made for the bundle of `decisions` when d8be3ced1238 was in force, but now payments-rules 2 (c65b7e1fc68f) is; review the changes, then propose it again
        "#]],
    );
}

#[test]
fn a_revision_that_cannot_run_is_refused_with_all_its_faults() {
    let world = World::new(&[]);
    world.run(50, 1);
    let broken = STRICT
        .replace("payments_1h > 1", "payment_1h > 1")
        .replace("terminal_id = 3", "terminal_id")
        .replace("cast(payments_1d as double)", "random()");
    check(
        &[
            world.propose("ann", "decisions", &broken),
            world.propose("ann", "decisions", "id = 3"),
            world.propose(
                "ann",
                "admitted",
                &gate_revision("2", "amount = \"decimal(12,2)\"", "amount = \"int64\"\nfee = \"int64\""),
            ),
            world.propose("ann", "admitted", &gate_revision("2", "terminal_id = \"int32\"\n", "")),
            world.propose("ann", "admitted", &gate_revision("2", "class = \"traffic\"", "class = \"case\"")),
            world.propose("ann", "admitted", &gate_revision("2", "payment.v1", "payment.v2")),
            world.propose(
                "ann",
                "admitted",
                &gate_revision(
                    "2",
                    "[event.\"payment.v1\"]",
                    "[event.\"governance.policy.v1\"]\nclass = \"control\"\n[event.\"payment.v1\"]",
                ),
            ),
            world.propose("ann", "admitted", "revision = \"2\""),
        ],
        &expect![[r#"
            the revision cannot come into force:
              revision.toml:3: `random()` calls random(), whose value depends on when it runs; use the fact's own times
              revision.toml:7: rule `many-in-an-hour`: `payment_1h > 1` reads column `payment_1h`, which its input does not have; did you mean `payments_1h` or `payments_1d` or `spent_1h`?
              revision.toml:13: rule `terminal-watched`: `scenario_id = 'payments' and terminal_id` cannot be planned: Error during planning: Cannot infer common argument type for logical boolean operation Boolean AND Int32
            the revision cannot come into force:
              revision.toml:1: invalid type: integer `3`, expected a string
            the revision cannot come into force:
              tests/topologies/payments.toml:19: payload field `fee` of `payment.v1` has no column of its name in source `payments`; say how it is made: payload = { fee = ".." }
              revision.toml:1: payload field `amount` would be Int64 and is Decimal128(12, 2), which the log and the graph hold; keep its type
              revision.toml:1: payload field `fee` (Int64) is new, and the graph was built without it; a new field needs a new topology on a new data folder
            the revision cannot come into force:
              revision.toml:1: payload field `terminal_id` (Int32) is missing, and the graph was built with it; keep it, with `?` behind its type if records may lack it
            the revision cannot come into force:
              revision.toml:1: event type `payment.v1` would be of class case and is of class traffic, which is part of the identity of its events; keep its class
            the revision cannot come into force:
              tests/topologies/payments.toml:19: the policy has no event type `payment.v1`; did you mean `payment.v2`?
            the revision cannot come into force:
              revision.toml:1: event type `governance.policy.v1` is reserved for revisions of bundles and policies; leave it out
            the revision cannot come into force:
              revision.toml:1: `id` is missing; add a stable name such as id = "gate.cards"
              revision.toml:1: no event type is declared; add a table such as [event."card.transaction.v1"]
        "#]],
    );
}

#[test]
fn a_folder_that_cannot_record_a_step_refuses_it_with_the_reason() {
    let world = World::new(&[]);
    world.write_payments(50);
    let nothing_ran = world.propose("ann", "decisions", STRICT);
    world.run(50, 1);
    let (log, _) = harness::log_of(&world.path("data")).open(LogOptions::default()).unwrap();
    let running = world.propose("ann", "decisions", STRICT);
    drop(log);
    let bundle = world.write("strict.toml", STRICT);
    let set = [world.set.clone(), vec![format!("decisions.bundle={}", bundle.display())]].concat();
    let other = World { set, ..world };
    let other_plan = other.propose("ann", "decisions", STRICT);
    let root = other.scratch.path().display().to_string();
    let own = std::process::id().to_string();
    // These differ between test runs: the folder, the process id, and the digests, which cover the
    // path of the bundle.
    let masked = |word: &str| match word.get(..64).and_then(Digest::from_hex) {
        Some(_) => format!("DIGEST{}", &word[64..]),
        None => word.replace(&root, ""),
    };
    let messages = [nothing_ran, running, other_plan].map(|refused| {
        let message = refused.unwrap_err().to_string().replace(&format!("process {own}"), "process 7");
        message.split(' ').map(masked).collect::<Vec<_>>().join(" ") + "\n"
    });
    expect![[r#"
        nothing ran on `/data` yet, so nothing can be revised there; change the file that the topology names, or run it first
        a run is active on `/data` (process 7) and alone may add to its log; take the step when it has ended
        `/data` holds the log of plan DIGEST, and this topology is plan DIGEST; give the files and --set with which it was started: a revision comes with --file, and does not replace them
    "#]].assert_eq(&messages.concat());

    let envelopes = tempfile::tempdir().unwrap();
    let records = envelopes.path().join("records.jsonl");
    // A source cannot submit a step as an envelope, because no policy declares that event type.
    std::fs::write(&records, format!(
        "{{\"event_id\":\"1\",\"event_type\":\"governance.policy.v1\",\"ts_utc\":\"2026-01-01T00:00:00.000000Z\",\"manifest_fingerprint\":\"{}\",\"payload\":{{}}}}\n",
        "0".repeat(64)
    )).unwrap();
    let set = [format!("records.path={}", records.display())];
    let plan = harness::plan(&harness::file("tests/topologies/envelopes.toml"), &set);
    let report = harness::run_plan(&plan, envelopes.path(), 1);
    assert_eq!(report.counts.admitted, 0);
    let action = StepAction::RollBack("admitted".to_owned());
    let request = StepRequest { actor: "ann".to_owned(), reason: "why".to_owned(), action };
    let refused = DataFolder::new(envelopes.path(), envelopes.path().join("store"))
        .take_step(&plan, &request)
        .unwrap_err();
    expect!["[run] of the topology lacks platform_run_id, scenario_run_id, manifest_fingerprint, run_id, which every control fact carries; only a topology that began with them can be revised"].assert_eq(&refused.to_string());
}

#[test]
fn a_source_cannot_have_the_reserved_name_governance() {
    let text = std::fs::read_to_string(harness::file("tests/topologies/payments.toml")).unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("governance.toml");
    std::fs::write(&file, text.replace("\"payments\"", "\"governance\"")).unwrap();
    let Err(faults) = Plan::read(&file, &[]) else { panic!("the topology must be refused") };
    let faults: Vec<String> = faults.into_iter().map(|fault| fault.message).collect();
    let refusals: Vec<String> = faults.into_iter().filter(|fault| fault.starts_with("no source")).collect();
    expect!["no source can be called `governance`: receipts of policy changes are; give it another name"]
        .assert_eq(&refusals.concat());
}

#[test]
fn one_person_may_take_every_step_when_the_topology_turns_four_eyes_off() {
    let world = World::new(&["governance.four_eyes=false"]);
    world.run(50, 1);
    let id = world.propose("ann", "decisions", STRICT).unwrap().record.proposal_id.to_hex();
    world.take_step("ann", "fine", StepAction::Follow(RevisionStep::Approved, id.clone())).unwrap();
    world.take_step("ann", "now", StepAction::Follow(RevisionStep::Activated, id)).unwrap();
    let default_set: Vec<String> =
        world.set.iter().filter(|set| !set.contains("four_eyes")).cloned().collect();
    let plan = harness::plan(&harness::file("tests/topologies/payments.toml"), &default_set);
    let refused = run(&plan, &Options::new(&world.path("data")), &harness::metrics(&plan)).unwrap_err();
    assert!(refused.to_string().contains("holds the log of plan"), "{refused}");
}

#[test]
fn the_command_prints_the_changes_and_the_next_step() {
    let world = World::new(&[]);
    world.run(50, 1);
    let bundle = world.write("strict.toml", STRICT);
    let topology = harness::file("tests/topologies/payments.toml");
    let mut transcript = String::new();
    let mut policy = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command.arg("policy").arg(arguments[0]).arg(&topology).arg("--data").arg(world.path("data"));
        command.args(world.set.iter().flat_map(|set| ["--set", set]));
        let output = command.args(&arguments[1..]).output().unwrap();
        let out = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
        let out = out.replace(&topology.display().to_string(), "payments.toml");
        let out = out.replace(&world.scratch.path().display().to_string(), "").replace(" \n", "\n");
        transcript += &format!("$ policy {} -> {}\n{out}\n", arguments[0], output.status.code().unwrap());
        out
    };
    let who = |actor| ["--actor", actor, "--reason", "fewer chargebacks"];
    let file = bundle.display().to_string();
    let proposed = policy(&[&["propose", "--node", "decisions", "--file", &file][..], &who("ann")].concat());
    let id = proposed.lines().next().unwrap().strip_prefix("proposal ").unwrap()[..12].to_owned();
    policy(&[&["approve", "--id", &id][..], &who("ann")].concat());
    policy(&[&["approve", "--id", &id][..], &who("bob")].concat());
    policy(&[&["activate", "--id", &id][..], &who("ann")].concat());
    policy(&[&["activate", "--id", &id][..], &who("ann")].concat());
    policy(&["list"]);
    policy(&["show", "--id", &id]);
    policy(&[&["rollback", "--node", "decisions"][..], &who("bob")].concat());
    policy(&[&["rollback", "--node", "admitted", "--format", "json"][..], &who("bob")].concat());
    expect![[r#"
        $ policy propose -> 0
        proposal 27c03c4a13ef6ba3622207a58e438105a8f11a3b5925669a8fa7189fb746dedb
        payments-rules 2 (c65b7e1fc68f) of decisions would change
          ~ version: 1
                   > 2
          ~ score: cast(payments_1h as double) + cast(amount as double) / 1000
                 > cast(payments_1d as double)
          ~ rule many-in-an-hour: STEP_UP (VELOCITY) when payments_1h > 3
                                > BLOCK (VELOCITY) when payments_1h > 1
          + rule terminal-watched: QUEUE_REVIEW (TERMINAL_WATCHED) when scenario_id = 'payments' and terminal_id = 3
          ~ order of rules: many-in-an-hour, large
                          > many-in-an-hour, terminal-watched
          - rule large: BLOCK (AMOUNT) when amount > 250
        next: tidegate policy approve payments.toml --data /data --id 27c03c4a13ef --actor .. --reason ..

        $ policy approve -> 2
        tidegate: ann proposed 27c03c4a13ef, so someone else must approve it; ask a colleague, or set `four_eyes = false` in [governance] of a new topology

        $ policy approve -> 0
        payments-rules 2 (c65b7e1fc68f) of decisions is approved by bob
        next: tidegate policy activate payments.toml --data /data --id 27c03c4a13ef --actor .. --reason ..

        $ policy activate -> 0
        payments-rules 2 (c65b7e1fc68f) of decisions is in force from 2026-01-01T13:17:53.000003Z on
          ~ version: 1
                   > 2
          ~ score: cast(payments_1h as double) + cast(amount as double) / 1000
                 > cast(payments_1d as double)
          ~ rule many-in-an-hour: STEP_UP (VELOCITY) when payments_1h > 3
                                > BLOCK (VELOCITY) when payments_1h > 1
          + rule terminal-watched: QUEUE_REVIEW (TERMINAL_WATCHED) when scenario_id = 'payments' and terminal_id = 3
          ~ order of rules: many-in-an-hour, large
                          > many-in-an-hour, terminal-watched
          - rule large: BLOCK (AMOUNT) when amount > 250

        $ policy activate -> 0
        proposal 27c03c4a13ef was already activated by ann at 2026-01-01T13:17:53.000003Z; nothing was changed

        $ policy list -> 0
        node       in force                         since                        by
        decisions  payments-rules 2 (c65b7e1fc68f)  2026-01-01T13:17:53.000003Z  proposal 27c03c4a13ef
        admitted   payments-gate 1 (c9dc29347aa6)   the beginning                the topology

        proposal      node       revision                         state
        27c03c4a13ef  decisions  payments-rules 2 (c65b7e1fc68f)  in force

        at                           proposal      step       actor  reason
        2026-01-01T13:17:53.000001Z  27c03c4a13ef  proposed   ann    fewer chargebacks
        2026-01-01T13:17:53.000002Z  27c03c4a13ef  approved   bob    fewer chargebacks
        2026-01-01T13:17:53.000003Z  27c03c4a13ef  activated  ann    fewer chargebacks

        $ policy show -> 0
        proposal 27c03c4a13ef6ba3622207a58e438105a8f11a3b5925669a8fa7189fb746dedb
        payments-rules 2 (c65b7e1fc68f) of decisions: in force

        at                           step       actor  reason
        2026-01-01T13:17:53.000001Z  proposed   ann    fewer chargebacks
        2026-01-01T13:17:53.000002Z  approved   bob    fewer chargebacks
        2026-01-01T13:17:53.000003Z  activated  ann    fewer chargebacks

        against adfc0faa2bcf
          ~ version: 1
                   > 2
          ~ score: cast(payments_1h as double) + cast(amount as double) / 1000
                 > cast(payments_1d as double)
          ~ rule many-in-an-hour: STEP_UP (VELOCITY) when payments_1h > 3
                                > BLOCK (VELOCITY) when payments_1h > 1
          + rule terminal-watched: QUEUE_REVIEW (TERMINAL_WATCHED) when scenario_id = 'payments' and terminal_id = 3
          ~ order of rules: many-in-an-hour, large
                          > many-in-an-hour, terminal-watched
          - rule large: BLOCK (AMOUNT) when amount > 250

        id = "payments-rules"
        version = "2"
        score = "cast(payments_1d as double)"

        [[rule]]
        id = "many-in-an-hour"
        when = "payments_1h > 1"
        action = "BLOCK"
        reason = "VELOCITY"

        [[rule]]
        id = "terminal-watched"
        when = "scenario_id = 'payments' and terminal_id = 3"
        action = "QUEUE_REVIEW"
        reason = "TERMINAL_WATCHED"

        $ policy rollback -> 0
        payments-rules 1 (adfc0faa2bcf) of decisions is in force again from 2026-01-01T13:17:53.000004Z on
          ~ version: 2
                   > 1
          ~ score: cast(payments_1d as double)
                 > cast(payments_1h as double) + cast(amount as double) / 1000
          ~ rule many-in-an-hour: BLOCK (VELOCITY) when payments_1h > 1
                                > STEP_UP (VELOCITY) when payments_1h > 3
          + rule large: BLOCK (AMOUNT) when amount > 250
          ~ order of rules: many-in-an-hour, terminal-watched
                          > many-in-an-hour, large
          - rule terminal-watched: QUEUE_REVIEW (TERMINAL_WATCHED) when scenario_id = 'payments' and terminal_id = 3

        $ policy rollback -> 2
        {"refused":"payments-gate 1 (c9dc29347aa6) has been in force for the policy of `admitted` since the beginning; there is nothing to roll back to"}

    "#]].assert_eq(&transcript);
}
