//! The shipped examples give the results that their documentation states.

use expect_test::expect;

use crate::harness;
use crate::service::Service;

#[test]
fn the_example_transfers_are_decided_and_two_of_them_quarantined_with_a_reason() {
    let scratch = tempfile::tempdir().unwrap();
    let plan = harness::plan(&harness::file("examples/transfers/topology.toml"), &[]);
    harness::run_plan(&plan, scratch.path(), 1);
    let sql = "SELECT event_id, amount, nb_tx_1h, action, reason_codes FROM decisions ORDER BY _tick";
    expect![[r#"
        +----------+---------+----------+---------+------------------------+
        | event_id | amount  | nb_tx_1h | action  | reason_codes           |
        +----------+---------+----------+---------+------------------------+
        | t-01     | 120.00  | 1        | ALLOW   | []                     |
        | t-02     | 80.00   | 2        | ALLOW   | []                     |
        | t-03     | 9500.00 | 1        | ALLOW   | []                     |
        | t-04     | 900.00  | 2        | BLOCK   | [AMOUNT_IN_AN_HOUR]    |
        | t-05     | 60.00   | 3        | ALLOW   | []                     |
        | t-06     | 75.00   | 4        | STEP_UP | [TRANSFERS_IN_AN_HOUR] |
        | t-08     | 20.00   | 4        | STEP_UP | [TRANSFERS_IN_AN_HOUR] |
        | t-09     | 400.00  | 1        | ALLOW   | []                     |
        +----------+---------+----------+---------+------------------------+"#]]
    .assert_eq(&harness::table(scratch.path(), sql));
    let refused =
        harness::table(scratch.path(), "SELECT position, reason_code FROM quarantine ORDER BY position");
    expect![[r#"
        +----------+-----------------------+
        | position | reason_code           |
        +----------+-----------------------+
        | 6        | SCHEMA_FAIL           |
        | 8        | PAYLOAD_HASH_MISMATCH |
        +----------+-----------------------+"#]]
    .assert_eq(&refused);
}

#[test]
fn the_example_payment_is_decided_by_the_fraud_topology() {
    let scratch = tempfile::tempdir().unwrap();
    let small = "transactions.world={ seed = 5, customers = 30, terminals = 20, days = 3, radius = 30.0 }";
    let service = Service::run(&harness::file("dataflows/fraud.toml"), scratch.path(), &["--set", small]);
    let payment = std::fs::read_to_string(harness::file("examples/payment.json")).unwrap();
    let response = service.post("/v1/decide", "application/json", &payment);
    assert_eq!(response.status, 200, "{}", response.body);
    assert_eq!(response.json()["decisions"][0]["action"], "BLOCK", "{}", response.body);
    service.stop();
}
