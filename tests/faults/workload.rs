//! The workloads of the rounds: small seeded inputs, with bad records and duplicates where the
//! format allows them, and the output of an undisturbed run.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::chance::Dice;
use super::ledger::Ledger;
use crate::harness;

/// One input and its topology.
pub struct Workload {
    pub name: &'static str,
    pub topology: PathBuf,
    pub set: Vec<String>,
    /// Each table that has one row for each fact of an event type.
    pub one_row_a_fact: [(&'static str, &'static str); 1],
    /// How many records each source holds.
    pub records: BTreeMap<String, u64>,
    /// What an undisturbed run wrote to its store; `None` where ticks come from the wall clock, so
    /// that only a replay of the same log gives the expected output.
    pub outputs: Option<Outputs>,
    /// What an undisturbed run has in its log.
    pub ledger: Ledger,
    /// How many files its store has.
    pub objects: usize,
    /// How many groups its log has.
    pub groups: usize,
}

/// The files of a store, by name.
pub type Outputs = Vec<(String, Vec<u8>)>;

const PAYMENTS: u64 = 3_000;
static WORKLOADS: [OnceLock<Workload>; 4] = [const { OnceLock::new() }; 4];

/// One of the workloads.
pub fn any(dice: &mut Dice) -> &'static Workload {
    let index = dice.below(WORKLOADS.len() as u64) as usize;
    WORKLOADS[index].get_or_init(|| match index {
        0 => payments("payments", &[]),
        1 => payments("payments by the wall clock", &["clock=wall"]),
        2 => envelopes(),
        _ => world(),
    })
}

fn payments(name: &'static str, set: &[&str]) -> Workload {
    let mut dice = Dice::new(1);
    let mut text = "transaction_id,at,customer_id,terminal_id,amount\n".to_owned();
    let mut records = 0;
    for id in 0..PAYMENTS {
        let jitter = dice.below(90_000_000) as i64;
        let at = tidegate_facts::time::to_rfc3339(1_767_225_600_000_000 + id as i64 * 97_000_000 + jitter);
        let (customer, terminal) = (dice.below(60), dice.below(20));
        let line = |amount: &str| format!("{id},{at},{customer},{terminal},{amount}\n");
        let amount = format!("{}.{:02}", dice.below(300), dice.below(100));
        match dice.below(40) {
            0 => text += &line("much"),
            1 => text += &line("99999999999.00"),
            2 => text += &line(&amount).repeat(2),
            3 => text += &(line(&amount) + &line("1.01")),
            _ => text += &line(&amount),
        }
    }
    records += text.lines().count() as u64 - 1;
    let mut all = vec![format!("payments.path={}", input("payments.csv", &text).display())];
    all.extend(["commit_rows=150", "batch_rows=64"].iter().chain(set).map(|s| (*s).to_owned()));
    let records = BTreeMap::from([("payments".to_owned(), records)]);
    let tables = [("decisions", "payment.v1")];
    undisturbed(name, "tests/topologies/payments.toml", all, tables, records)
}

fn envelopes() -> Workload {
    let mut dice = Dice::new(2);
    let mut text = String::new();
    for id in 0..2_000 {
        let at = tidegate_facts::time::to_rfc3339(1_767_225_600_000_000 + id * 13_000_000);
        let customer = dice.below(50);
        let line = format!(
            r#"{{"event_id":"event-{id}","event_type":"payment.v1","ts_utc":"{at}","manifest_fingerprint":"{a}","parameter_hash":"{b}","seed":7,"scenario_id":"s","run_id":"{c}","scenario_run_id":"{d}","platform_run_id":"platform_20260101T000000Z","payload":{{"transaction_id":"{id}","customer_id":{customer},"terminal_id":3,"amount":"12.50"}}}}"#,
            a = "a".repeat(64),
            b = "b".repeat(64),
            c = "c".repeat(32),
            d = "d".repeat(32),
        );
        let written = match dice.below(20) {
            0 => writeln!(text, "{}", &line[..line.len() - 9]),
            1 => writeln!(text, "{}", line.replace("12.50", "12.505")),
            2 => writeln!(text, "{line}\n{line}"),
            3 => writeln!(text, "{line}\n{}", line.replace("12.50", "13.00")),
            4 => writeln!(text, "{}", line.replace(r#""seed":7,"#, "")),
            _ => writeln!(text, "{line}"),
        };
        written.expect("a text can be written to");
    }
    let records = BTreeMap::from([("records".to_owned(), text.lines().count() as u64)]);
    let set = vec![
        format!("records.path={}", input("envelopes.jsonl", &text).display()),
        "commit_rows=120".to_owned(),
        "batch_rows=50".to_owned(),
    ];
    let tables = [("payments", "payment.v1")];
    undisturbed("envelopes", "tests/topologies/envelopes.toml", set, tables, records)
}

fn world() -> Workload {
    let set = [
        "transactions.world={ seed = 5, customers = 120, terminals = 40, days = 15, radius = 12.0 }",
        "commit_rows=400",
        "batch_rows=150",
    ];
    let tables = [("decisions", "card.transaction.v1")];
    let set = set.map(str::to_owned).to_vec();
    undisturbed("world", "dataflows/fraud.toml", set, tables, BTreeMap::new())
}

/// The path of an input. It is the same for every run, so that only one file is left behind.
fn input(name: &str, text: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("faults-{name}"));
    if !std::fs::read(&path).is_ok_and(|existing| existing == text.as_bytes()) {
        let mut unfinished = tempfile::NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        std::io::Write::write_all(&mut unfinished, text.as_bytes()).unwrap();
        unfinished.persist(&path).unwrap();
    }
    path
}

fn undisturbed(
    name: &'static str,
    topology: &str,
    set: Vec<String>,
    one_row_a_fact: [(&'static str, &'static str); 1],
    records: BTreeMap<String, u64>,
) -> Workload {
    let data = tempfile::tempdir().unwrap();
    let topology = harness::file(topology);
    harness::run_plan(&harness::plan(&topology, &set), data.path(), 1);
    let outputs = outputs(&data.path().join("store"));
    let ledger = Ledger::read(data.path()).unwrap();
    // Only a run tells how many records a world has.
    let records = if records.is_empty() { ledger.records() } else { records };
    assert_eq!(ledger.records(), records, "{name}: receipts = records");
    assert!(outputs.len() > 20, "{name} has several commits");
    let groups = super::log_bytes::groups(&data.path().join("log")).len();
    assert!(groups > 20, "{name} has several groups");
    let objects = outputs.len();
    let outputs = (!set.iter().any(|set| set == "clock=wall")).then_some(outputs);
    Workload { name, topology, set, one_row_a_fact, records, outputs, ledger, objects, groups }
}

/// The output files of a store, without those that were never finished and the recorded plans,
/// which a replay does not write.
pub fn outputs(store: &Path) -> Outputs {
    let is_output = |name: &str| {
        !name.contains(".unfinished-") && !name.starts_with("probe-") && !name.starts_with("plans/")
    };
    harness::committed(store).into_iter().filter(|(name, _)| is_output(name)).collect()
}
