//! Time that passes without facts: under the wall clock the log records heartbeats, so evidence
//! expires and a replay of the log agrees.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tidegate_facts::Digest;
use tidegate_replay::{compare, replay};

use crate::harness;
use crate::service::Service;

/// A report that expires `ttl_s` seconds from now.
fn report(id: &str, claim: &str, source: &str, ttl_s: u32) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros();
    let time = tidegate_facts::time::to_rfc3339(i64::try_from(now).unwrap());
    let (a, b) = ("a".repeat(64), "b".repeat(64));
    json!({
        "event_id": id, "event_type": "credibility.evidence.v1", "ts_utc": time, "manifest_fingerprint": a,
        "parameter_hash": b, "seed": 7, "scenario_id": "s", "run_id": "c".repeat(32), "scenario_run_id": "d".repeat(32),
        "platform_run_id": "platform_20260101T000000Z",
        "payload": {
            "stream_id": source, "claim_id": claim, "source_id": source, "correlation_group": "g", "region": "east",
            "domain": "one", "tier": 0, "out_of_band": true, "value": "up", "status": "OK", "confidence": "0.900",
            "event_time": time, "ttl_s": ttl_s,
        },
    })
    .to_string()
}

fn wait_for(service: &Service, sql: &str, expected: &Value) {
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        let rows = service.sql(sql)["rows"].clone();
        if rows == *expected {
            return;
        }
        assert!(Instant::now() < until, "{sql}: {rows}, and not {expected}");
        std::thread::yield_now();
    }
}

/// A service of two workers that has received some reports.
fn service_with_reports(topology: &Path, data: &Path, reports: &[String]) -> Service {
    let service = Service::run(topology, data, &["-w", "2", "--commit-within", "100ms"]);
    let response = service.post("/v1/facts", "application/x-ndjson", &reports.join("\n"));
    assert_eq!(response.status, 200, "{}", response.body);
    service
}

#[test]
fn evidence_expires_without_later_facts_and_a_replay_agrees() {
    let scratch = tempfile::tempdir().unwrap();
    let (topology, data) = (harness::file("tests/topologies/beats.toml"), scratch.path().join("data"));
    let service = service_with_reports(
        &topology,
        &data,
        &[report("e-1", "claim-1", "s-1", 2), report("e-2", "claim-1", "s-2", 3600)],
    );
    wait_for(&service, "SELECT count(*) FROM alive", &json!([["2"]]));
    wait_for(&service, "SELECT status, margin FROM claims", &json!([["VERIFIED", 2]]));
    // No more reports arrive.
    wait_for(&service, "SELECT stream_id FROM alive", &json!([["s-2"]]));
    wait_for(&service, "SELECT status, margin FROM claims", &json!([["VERIFIED", 1]]));
    assert_eq!(service.sql("SELECT count(*), sum(_diff) FROM alive_changes")["rows"], json!([["3", "1"]]));
    service.stop();
    // Changes that follow from time alone are committed like those that follow from facts.
    let committed = harness::query(&data, "SELECT stream_id FROM alive");
    assert_eq!(committed.iter().map(|rows| rows.num_rows()).sum::<usize>(), 1);

    // After a restart, the log with its heartbeats gives the same tables, and a replay the same
    // commits.
    let again = Service::run(&topology, &data, &["-w", "1"]);
    wait_for(&again, "SELECT stream_id FROM alive", &json!([["s-2"]]));
    again.stop();
    let plan = harness::plan(&topology, &[]);
    let store = tidegate_sinks::store::Store::open(data.join("store")).unwrap();
    let commits = tidegate_sinks::commits::Commits::read(&store).unwrap();
    assert_ne!(commits.list.last().unwrap().check, Digest::default());
    let replayed =
        replay(&plan, &data, &scratch.path().join("replayed"), 2, &harness::metrics(&plan)).unwrap();
    assert_eq!(compare(&commits, &replayed), None);
}

#[test]
fn a_derived_claim_loses_its_status_with_one_of_its_parts_also_on_disk() {
    let scratch = tempfile::tempdir().unwrap();
    let (topology, data) = (harness::file("tests/topologies/beats.toml"), scratch.path().join("data"));
    let service = service_with_reports(
        &topology,
        &data,
        &[report("e-1", "pump-1", "s-1", 3600), report("e-2", "pump-2", "s-2", 2)],
    );
    wait_for(&service, "SELECT whole, status FROM wholes", &json!([["pump", "VERIFIED"]]));
    // No more reports arrive, and the evidence for one part expires.
    wait_for(&service, "SELECT whole, status FROM wholes", &json!([["pump", "UNKNOWN"]]));
    let sql = "SELECT count(*) FROM frontier WHERE committed_tick > (SELECT max(_tick) FROM whole_flips)";
    wait_for(&service, sql, &json!([["1"]]));
    service.stop();
    let flips = harness::query(&data, "SELECT status, cause FROM whole_flips ORDER BY _tick DESC LIMIT 1");
    let printed = arrow::util::pretty::pretty_format_batches(&flips).unwrap().to_string();
    assert!(printed.contains("UNKNOWN") && printed.contains("EXPIRY"), "{printed}");

    let plan = harness::plan(&topology, &[]);
    let store = tidegate_sinks::store::Store::open(data.join("store")).unwrap();
    let commits = tidegate_sinks::commits::Commits::read(&store).unwrap();
    let replayed =
        replay(&plan, &data, &scratch.path().join("replayed"), 1, &harness::metrics(&plan)).unwrap();
    assert_eq!(compare(&commits, &replayed), None);
}
