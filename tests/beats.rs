//! Time that passes where nothing comes: under the wall clock the log says so itself, and what follows is in the log.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tidegate_facts::Digest;
use tidegate_replay::{compare, replay};

use crate::harness;
use crate::service::Service;

/// A report that holds for some seconds from now.
fn report(id: &str, source: &str, ttl_s: u32) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros();
    let time = tidegate_facts::time::to_rfc3339(i64::try_from(now).unwrap());
    let (a, b) = ("a".repeat(64), "b".repeat(64));
    json!({
        "event_id": id, "event_type": "credibility.evidence.v1", "ts_utc": time, "manifest_fingerprint": a,
        "parameter_hash": b, "seed": 7, "scenario_id": "s", "run_id": "c".repeat(32), "scenario_run_id": "d".repeat(32),
        "platform_run_id": "platform_20260101T000000Z",
        "payload": {
            "stream_id": source, "claim_id": "claim-1", "source_id": source, "correlation_group": "g", "region": "east",
            "domain": "one", "tier": 0, "out_of_band": true, "value": "up", "status": "OK", "confidence": "0.900",
            "event_time": time, "ttl_s": ttl_s,
        },
    })
    .to_string()
}

fn wait_for(service: &Service, sql: &str, wanted: &Value) {
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        let rows = service.sql(sql)["rows"].clone();
        if rows == *wanted {
            return;
        }
        assert!(Instant::now() < until, "{sql}: {rows}, and not {wanted}");
        std::thread::yield_now();
    }
}

#[test]
fn evidence_expires_although_nothing_follows_it_and_a_replay_agrees() {
    let scratch = tempfile::tempdir().unwrap();
    let (topology, data) = (harness::file("tests/topologies/beats.toml"), scratch.path().join("data"));
    let service = Service::run(&topology, &data, &["-w", "2", "--commit-within", "100ms"]);
    let both = [report("e-1", "s-1", 2), report("e-2", "s-2", 3600)].join("\n");
    let answered = service.post("/v1/facts", "application/x-ndjson", &both);
    assert_eq!(answered.status, 200, "{}", answered.body);
    wait_for(&service, "SELECT count(*) FROM alive", &json!([["2"]]));
    wait_for(&service, "SELECT status, margin FROM claims", &json!([["VERIFIED", 2]]));
    // Nobody says anything more.
    wait_for(&service, "SELECT stream_id FROM alive", &json!([["s-2"]]));
    wait_for(&service, "SELECT status, margin FROM claims", &json!([["VERIFIED", 1]]));
    assert_eq!(service.sql("SELECT count(*), sum(_diff) FROM alive_changes")["rows"], json!([["3", "1"]]));
    service.stop();

    // What it committed follows from its log, beats and all; and so it does after a start.
    let again = Service::run(&topology, &data, &["-w", "1"]);
    wait_for(&again, "SELECT stream_id FROM alive", &json!([["s-2"]]));
    again.stop();
    let plan = harness::plan(&topology, &[]);
    let store = tidegate_sinks::store::Store::open(&data.join("store")).unwrap();
    let commits = tidegate_sinks::table::Commits::read(&store).unwrap();
    assert_ne!(commits.list.last().unwrap().check, Digest::default());
    let replayed = replay(&plan, &data, &scratch.path().join("replayed"), 2, &harness::watch(&plan)).unwrap();
    assert_eq!(compare(&commits, &replayed), None);
}
