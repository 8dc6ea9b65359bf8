//! Decisions of several nodes in one call, event ids that several facts share, and decisions on
//! facts that the log no longer holds.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tidegate_sinks::archive::{LogRetention, prune, write};
use tidegate_sinks::log::Until;
use tidegate_sinks::store::Store;

use super::{Service, payment};
use crate::harness;

/// The topology `live` with a second node that decides, on amounts over 100 alone, and a second
/// type of event.
fn topology(folder: &Path) -> std::path::PathBuf {
    let policies = harness::file("tests/topologies/policies");
    let gate = std::fs::read_to_string(policies.join("payments-gate.toml")).unwrap();
    let event = gate.split_once("[event.").unwrap().1;
    let refund = format!("\n[event.{}", event.replace("payment.v1", "refund.v1"));
    std::fs::write(folder.join("gate.toml"), format!("{gate}{refund}")).unwrap();
    let nodes = "\n[[node]]\nname = \"large\"\nkind = \"filter\"\ninput = \"features\"\nwhere = \"amount > 100\"\n\n\
                 [[node]]\nname = \"large_decisions\"\nkind = \"decide\"\ninput = \"large\"\nbundle = \"RULES\"\n\n\
                 [[node]]\nname = \"large_table\"\nkind = \"sink.parquet\"\ninput = \"large_decisions\"\n\
                 table = \"large_decisions\"\n";
    let rules = policies.join("payments-rules.toml").display().to_string();
    let text = std::fs::read_to_string(harness::file("tests/topologies/live.toml")).unwrap();
    let text = text
        .replace("policies/payments-gate.toml", "gate.toml")
        .replace("policies/payments-rules.toml", &rules);
    std::fs::write(folder.join("live.toml"), text + &nodes.replace("RULES", &rules)).unwrap();
    std::fs::write(folder.join("nothing.jsonl"), "").unwrap();
    folder.join("live.toml")
}

fn nodes(answer: &Value) -> Vec<&str> {
    answer["decisions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|decision| decision["node"].as_str().unwrap())
        .collect()
}

#[test]
fn every_deciding_node_answers_and_the_parameter_node_selects_one() {
    let scratch = tempfile::tempdir().unwrap();
    let service = Service::run(&topology(scratch.path()), &scratch.path().join("data"), &[]);
    let decide = |query: &str, record: &str| {
        let path = format!("/v1/decide?timeout_ms=20000{query}");
        service.post(&path, "application/json", record)
    };
    let small = decide("", &payment("p-1", 1, 5, "12.50"));
    assert_eq!(small.status, 200, "the call does not wait for a node that excludes the fact: {}", small.body);
    assert_eq!(nodes(&small.json()), ["decisions"], "{}", small.body);
    let large = payment("p-2", 2, 5, "300.00");
    let both = decide("", &large).json();
    let mut sorted = nodes(&both);
    sorted.sort_unstable();
    assert_eq!(sorted, ["decisions", "large_decisions"], "{both}");
    assert_eq!(both["decisions"][0]["event_id"], "p-2");
    let again = decide("", &large).json();
    assert_eq!(
        (again["receipt"]["verdict"].as_str(), nodes(&again).len()),
        (Some("duplicate"), 2),
        "{again}"
    );
    let one = decide("&node=large_decisions", &large).json();
    assert_eq!(nodes(&one), ["large_decisions"], "{one}");
    let other = decide("&node=large_decisions", &payment("p-3", 3, 5, "400.00")).json();
    assert_eq!(nodes(&other), ["large_decisions"], "{other}");
    let none = decide("&node=large_decisions", &payment("p-4", 4, 5, "1.00"));
    assert_eq!((none.status, none.json()["decisions"].clone()), (200, json!([])), "{}", none.body);
    let unknown = decide("&node=features", &payment("p-5", 5, 5, "1.00"));
    assert_eq!(unknown.status, 404, "{}", unknown.body);
    assert!(unknown.body.contains("decisions, large_decisions"), "{}", unknown.body);
}

#[test]
fn an_event_id_shared_by_two_types_is_answered_with_the_candidates() {
    let scratch = tempfile::tempdir().unwrap();
    let service = Service::run(&topology(scratch.path()), &scratch.path().join("data"), &[]);
    let payment = payment("p-1", 1, 5, "12.50");
    for record in [payment.clone(), payment.replace("payment.v1", "refund.v1")] {
        let decided = service.post("/v1/decide?timeout_ms=20000", "application/json", &record);
        assert_eq!(decided.status, 200, "{}", decided.body);
    }
    let shared = service.get("/v1/decisions/p-1");
    assert_eq!(shared.status, 409, "{}", shared.body);
    let shared = shared.json();
    let candidates = shared["candidates"].as_array().unwrap();
    let types: Vec<&str> = candidates.iter().map(|found| found["event_type"].as_str().unwrap()).collect();
    assert_eq!(types, ["payment.v1", "refund.v1"], "{shared}");
    for candidate in candidates {
        let found = service.get(candidate["location"].as_str().unwrap());
        assert_eq!(found.status, 200, "{}", found.body);
        let found = found.json();
        assert_eq!(found["fact"]["event_type"], candidate["event_type"], "{found}");
        assert_eq!(found["decision"]["decision_id"], candidate["decision_id"], "{found}");
        let by_decision =
            service.get(&format!("/v1/decisions/{}", candidate["decision_id"].as_str().unwrap()));
        assert_eq!(by_decision.status, 200, "{}", by_decision.body);
    }
    assert_eq!(service.get("/v1/decisions/other.v1:p-1").status, 404);
}

/// Waits until `check` returns something.
fn wait_for<T>(mut check: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(found) = check() {
            return found;
        }
        assert!(Instant::now() < until, "it does not come");
        std::thread::yield_now();
    }
}

#[test]
fn a_fact_sent_again_is_answered_finally_once_every_node_has_passed_it() {
    let scratch = tempfile::tempdir().unwrap();
    let service = Service::run(&topology(scratch.path()), &scratch.path().join("data"), &[]);
    let decide = |query: &str, record: &str| {
        let path = format!("/v1/decide?timeout_ms=20000{query}");
        service.post(&path, "application/json", record)
    };
    let (small, large) = (payment("p-1", 1, 5, "1.00"), payment("p-2", 2, 5, "300.00"));
    for record in [&small, &large] {
        assert_eq!(decide("", record).status, 200);
    }
    // The first record is excluded by the filter in front of the node, so nothing is ever decided.
    for (query, record, expected) in [
        ("&node=large_decisions", &small, vec![]),
        ("", &small, vec!["decisions"]),
        ("", &large, vec!["decisions", "large_decisions"]),
    ] {
        let again = wait_for(|| {
            let again = decide(query, record);
            assert!([200, 202].contains(&again.status), "{}", again.body);
            (again.status == 200).then(|| again.json())
        });
        assert_eq!(again["receipt"]["verdict"], "duplicate", "{again}");
        assert_eq!((nodes(&again), &again["location"]), (expected, &Value::Null), "{again}");
    }
}

#[test]
fn the_decision_of_each_node_on_a_fact_can_be_read() {
    let scratch = tempfile::tempdir().unwrap();
    let service = Service::run(&topology(scratch.path()), &scratch.path().join("data"), &[]);
    for (id, amount) in [("p-1", "300.00"), ("p-2", "1.00")] {
        let decided =
            service.post("/v1/decide?timeout_ms=20000", "application/json", &payment(id, 1, 5, amount));
        assert_eq!(decided.status, 200, "{}", decided.body);
    }
    let both = json!(["decisions", "large_decisions"]);
    let first = wait_for(|| {
        let first = service.get("/v1/decisions/p-1");
        (first.status == 200).then(|| first.json()).filter(|first| first["nodes"] == both)
    });
    assert_eq!(first["node"], "decisions", "{first}");
    let decision_id = first["decision"]["decision_id"].as_str().unwrap();
    for id in ["p-1", "payment.v1:p-1", decision_id] {
        let other = service.get(&format!("/v1/decisions/{id}?node=large_decisions")).json();
        assert_eq!((&other["node"], &other["nodes"]), (&json!("large_decisions"), &both), "{id}: {other}");
    }
    for path in ["p-1?node=features", "p-2?node=large_decisions"] {
        let missing = service.get(&format!("/v1/decisions/{path}"));
        assert_eq!(missing.status, 404, "{path}: {}", missing.body);
    }
    let tables = service.get("/v1/tables").json();
    let of = |name: &str| {
        let mut all = tables["tables"].as_array().unwrap().iter();
        all.find(|table| table["name"] == name).unwrap()["decisions_of"].clone()
    };
    let of = ["decisions", "large_decisions", "features", "facts"].map(of);
    assert_eq!(of, [json!("decisions"), json!("large_decisions"), Value::Null, Value::Null]);
    let status = service.get("/v1/status").json();
    let node = |name: &str| {
        let node = status["nodes"].as_array().unwrap().iter().find(|node| node["name"] == name).unwrap();
        [&node["kind"], &node["role"], &node["summary"], &node["table"]].map(Value::as_str)
    };
    assert_eq!(node("http"), [None, Some("source"), None, None]);
    assert_eq!(node("admitted"), [Some("gate"), Some("gate"), None, None]);
    assert_eq!(node("large_decisions"), [Some("decide"), Some("operator"), Some("decisions"), None]);
    assert_eq!(node("sealed"), [Some("seal"), Some("operator"), Some("episodes"), None]);
    assert_eq!(node("decisions_table"), [Some("sink.seal"), Some("sink"), None, Some("decisions")]);
}

#[test]
fn candidates_of_two_runs_lead_to_their_own_decisions() {
    let scratch = tempfile::tempdir().unwrap();
    let service = Service::start(&scratch.path().join("data"), &[]);
    let first = payment("p-1", 1, 5, "12.50");
    let second = first.replace("platform_20260101T000000Z", "platform_20260102T000000Z");
    for record in [&first, &second] {
        let decided = service.post("/v1/decide?timeout_ms=20000", "application/json", record);
        assert_eq!((decided.status, &decided.json()["receipt"]["verdict"]), (200, &json!("admitted")));
    }
    for id in ["p-1", "payment.v1:p-1"] {
        let shared = wait_for(|| {
            let shared = service.get(&format!("/v1/decisions/{id}"));
            (shared.status == 409).then(|| shared.json())
        });
        let candidates = shared["candidates"].as_array().unwrap();
        assert_eq!(candidates.len(), 2, "{shared}");
        for candidate in candidates {
            let found = service.get(candidate["location"].as_str().unwrap());
            assert_eq!(found.status, 200, "{candidate}: {}", found.body);
            assert_eq!(found.json()["decision"]["decision_id"], candidate["decision_id"]);
        }
    }
}

#[test]
fn a_decision_on_a_pruned_fact_is_read_with_and_without_the_archive() {
    let scratch = tempfile::tempdir().unwrap();
    let data = scratch.path().join("data");
    let set = ["--set", "log.archive=true"];
    let service = Service::start(&data, &set);
    let mut ticks = Vec::new();
    for second in 0..20 {
        let record = payment(&format!("p-{second}"), second, 5, "12.50");
        let decided = service.post("/v1/decide?timeout_ms=20000", "application/json", &record);
        assert_eq!(decided.status, 200, "{}", decided.body);
        ticks.push(decided.json()["receipt"]["tick"].as_str().unwrap().parse::<i64>().unwrap());
    }
    service.stop();
    harness::resegment(&data, 4096);
    let store = Store::open(data.join("store")).unwrap();
    write(&harness::log_of(&data), Until::Complete, &store).unwrap();
    let log = harness::log_of(&data).lock().unwrap();
    let pruned = prune(&log, &store, LogRetention { span: None, bytes: Some(1) }).unwrap();
    drop(log);
    assert!(pruned.base.upper.0 > ticks[0], "the first fact is pruned: {pruned:?}");

    let service = Service::start(&data, &set);
    let found = |id: &str| {
        let found = service.get(&format!("/v1/decisions/{id}"));
        assert_eq!(found.status, 200, "{id}: {}", found.body);
        found.json()
    };
    let whole = found("p-0");
    assert_eq!(whole["fact"]["payload"]["amount"], "12.50", "{whole}");
    assert_eq!(whole["received"]["source"], "http", "{whole}");
    assert_eq!(found("payment.v1:p-0")["decision"], whole["decision"]);
    std::fs::remove_dir_all(data.join("store/archive")).unwrap();
    let decision_id = whole["decision"]["decision_id"].as_str().unwrap();
    for id in ["p-0", decision_id] {
        let lost = found(id);
        assert_eq!((&lost["fact"], &lost["received"]), (&Value::Null, &Value::Null), "{lost}");
        assert_eq!((&lost["decision"], &lost["proof"]), (&whole["decision"], &whole["proof"]), "{lost}");
    }
    let exact = service.get("/v1/decisions/payment.v1:p-0");
    assert_eq!(exact.status, 409, "without the fact its type is unknown: {}", exact.body);
    let candidates = exact.json()["candidates"].clone();
    assert_eq!(candidates.as_array().unwrap().len(), 1, "{candidates}");
    let location = candidates[0]["location"].as_str().unwrap();
    assert_eq!(service.get(location).json()["decision"], whole["decision"]);
}
