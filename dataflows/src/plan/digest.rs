//! The plan digest: BLAKE3 over canonical JSON of everything that decides answers.
//!
//! It covers the words of the topology and nothing of Rust's: each node's name, inputs, kind with
//! its version and the settings that decide answers, in their resolved form; the versions of the
//! recipes that all kinds share; bundles and policy by the digest of their content. Where records
//! come from, where results go and how large something is, it leaves out.

use serde_json::{Value, json};
use tidegate_facts::Digest;
use tidegate_operators::gate::GatePolicy;

use super::Step;
use crate::node::NodeKind;
use crate::topology::{Node, Topology};

/// The recipe of the preimage.
pub(super) const RECIPE: &str = "tidegate.plan.v2";

/// The versions of the recipes that all kinds share. One counts up when what it computes changes.
const RECIPES: [(&str, u32); 6] = [
    ("arithmetic", 1), // Sums, averages and deviations of integers, and their one division.
    ("boundaries", 1), // Where commit boundaries are in the log.
    ("episode", 1),    // The record of a decision.
    ("feature_digest", 2),
    ("log_feed", 1), // How groups of the log become rows.
    ("table", 2),    // How rows become files.
];

/// The name and version of a kind, as the digest covers them.
pub(super) fn kind_and_version(kind: &dyn NodeKind) -> String {
    format!("{}@{}", kind.digest_name(), kind.version())
}

/// The canonical JSON that the plan digest is computed over.
pub(super) fn preimage(topology: &Topology, policy: &GatePolicy, steps: &[Step]) -> String {
    let nodes: Vec<Value> = topology.nodes.iter().filter_map(|node| node_of(node, steps)).collect();
    let recipes: serde_json::Map<String, Value> =
        RECIPES.iter().map(|(name, version)| ((*name).to_owned(), json!(version))).collect();
    let content = json!({
        "recipe": RECIPE,
        "recipes": recipes,
        "name": topology.name,
        "clock": topology.clock.name(),
        "partitions": topology.partitions,
        "commit_rows": topology.commit_rows,
        "commit_span": topology.commit_span.to_string(),
        "four_eyes": topology.four_eyes,
        "run": topology.run,
        "policy": policy.rev(),
        "nodes": nodes,
    });
    tidegate_facts::strict_json::canonical(&content.to_string()).expect("it was just written")
}

fn node_of(node: &Node, steps: &[Step]) -> Option<Value> {
    let inputs: Vec<&str> = node.inputs.iter().map(|input| input.value.as_str()).collect();
    let mut value = json!({
        "name": node.name,
        "kind": kind_and_version(node.kind?),
        "inputs": inputs,
        "settings": node.answers,
    });
    let first = steps.iter().find(|step| step.name == node.name).and_then(|step| step.node.first_revision());
    if let Some(first) = first {
        value["bundle"] = json!(first.digest);
    }
    Some(value)
}

/// The digest of a preimage.
pub(super) fn plan_digest(preimage: &str) -> Digest {
    Digest::of(preimage.as_bytes())
}
