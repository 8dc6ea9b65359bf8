//! The drift of card payments: green while the world stays the same, red once its frauds change.

use std::path::Path;

use arrow::array::AsArray;
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};

use crate::harness;

const DAY: i64 = 86_400_000_000;
const START: i64 = 1_767_225_600_000_000;

/// The shipped topology with a world that ends on the seventieth day. From then on, the same
/// customers pay at a tenth of the terminals, and as many terminals as before are compromised each
/// day.
fn changed_topology(folder: &Path) -> std::path::PathBuf {
    let shipped = std::fs::read_to_string(harness::file("dataflows/fraud.toml")).unwrap();
    let policies = harness::file("dataflows/policies");
    let edit = |text: String, from: &str, to: &str| {
        assert!(text.contains(from), "the shipped topology has `{from}`");
        text.replace(from, to)
    };
    let text = edit(shipped, "\"policies/", &format!("\"{}/", policies.display()));
    let text = edit(text, "days = 100", "days = 70");
    let gate = "inputs = [\"labels\", \"transactions\"]";
    let text =
        edit(text, gate, "inputs = [\"labels\", \"later_labels\", \"transactions\", \"later_transactions\"]");
    let later = r#"
[[node]]
name = "later_transactions"
kind = "source.world"
stream = "transactions"
world = { seed = 42, customers = 1000, terminals = 200, radius = 16, days = 35, start = "2026-03-12T00:00:00.000000Z" }
[node.event]
type = "card.transaction.v1"
id = "concat('later-tx-', cast(transaction_id as text))"
time = "tx_datetime"
payload = { amount = "tx_amount", transaction_id = "transaction_id + 1000000000" }

[[node]]
name = "later_labels"
kind = "source.world"
stream = "labels"
world = { same_as = "later_transactions" }
[node.event]
type = "fraud.label.v1"
id = "concat('later-label-', cast(transaction_id as text))"
time = "observed_at"
payload = { fraud = "tx_fraud", transaction_id = "transaction_id + 1000000000" }

[[node]]
name = "admitted""#;
    let text = edit(text, "\n[[node]]\nname = \"admitted\"", later);
    let file = folder.join("changed.toml");
    std::fs::write(&file, text).unwrap();
    file
}

#[test]
fn drift_is_green_once_windows_are_full_and_red_once_frauds_change() {
    let scratch = tempfile::tempdir().unwrap();
    let data = scratch.path().join("data");
    harness::run_plan(&harness::plan(&changed_topology(scratch.path()), &[]), &data, 2);
    let sql = "SELECT measure, period_from, value, level FROM drift_periods WHERE supersedes IS NULL ORDER BY _tick, measure";
    println!("{}", harness::table(&data, sql));
    let periods_of = |measure: &str, levels: &str, from: i64, to: i64| {
        let sql = format!(
            "SELECT count(*) AS n, min(period_from) AS first FROM drift_periods WHERE measure = '{measure}' AND {levels} \
             AND period_from >= to_timestamp_micros({}) AND period_from < to_timestamp_micros({})",
            START + from * DAY,
            START + to * DAY
        );
        let rows = harness::query(&data, &sql);
        let first = rows[0].column(1).as_primitive::<TimestampMicrosecondType>();
        let first = first.iter().next().flatten().map(|first| (first - START) / DAY);
        (rows[0].column(0).as_primitive::<Int64Type>().value(0), first)
    };
    for measure in ["score", "score_distance", "terminal_risk"] {
        assert_eq!(periods_of(measure, "true", 0, 42), (0, None), "{measure} is warming up");
        assert_eq!(
            periods_of(measure, "level = 'green'", 42, 70),
            (4, Some(42)),
            "{measure}: nothing has changed"
        );
        assert_eq!(
            periods_of(measure, "level <> 'green'", 42, 70),
            (0, None),
            "{measure}: nothing has changed"
        );
    }
    // Labels arrive after a week, and it takes longer until many terminals have been compromised.
    assert!(periods_of("terminal_risk", "level = 'red'", 77, 105).0 >= 2);
    assert!(periods_of("score", "level = 'red'", 77, 105).0 >= 2);
    assert_eq!(periods_of("amount", "level <> 'green'", 0, 105), (0, None), "the amounts have not changed");
}
