//! Decisions of several nodes in one call, and event ids that several event types share.

use std::path::Path;

use serde_json::{Value, json};

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
