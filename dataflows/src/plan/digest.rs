//! The plan digest: BLAKE3 over canonical JSON of everything that decides answers.
//!
//! It covers the words of the topology and nothing of Rust's: each node's name, inputs, kind with
//! its version and the settings that decide answers, in their resolved form; the versions of the
//! recipes that all kinds share; bundles and policy by the digest of their content. Where records
//! come from, where results go and how large something is, it leaves out.
//!
//! Canonical JSON refuses a number that a 64-bit float would change. So a whole number above 2^53
//! is written as `{"whole_number":"9007199254740993"}`: not as a text, because a setting that is a
//! text of the same digits must have another digest. No setting has the key `whole_number`.

use serde_json::{Map, Value, json};
use tidegate_facts::Digest;
use tidegate_operators::gate::GatePolicy;

use super::Step;
use crate::node::NodeKind;
use crate::topology::{Node, Topology};

/// The recipe of the preimage of the plan digest.
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

/// The name and version of a kind of node, as the plan digest covers them.
pub(super) fn kind_and_version(kind: &dyn NodeKind) -> String {
    format!("{}@{}", kind.digest_name(), kind.version())
}

/// The canonical JSON that the plan digest is computed over.
pub(super) fn preimage(topology: &Topology, policy: &GatePolicy, steps: &[Step]) -> String {
    let nodes: Vec<Value> = topology.nodes.iter().filter_map(|node| node_of(node, steps)).collect();
    let recipes: Map<String, Value> =
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
    let content = with_large_numbers_as_objects(content);
    tidegate_facts::strict_json::canonical(&content.to_string())
        .expect("a float holds every number that is left")
}

/// The content of a plan digest's preimage: what [`preimage`] wrote, with its whole numbers as
/// numbers.
///
/// # Errors
/// When it is not JSON.
pub(super) fn content_of(preimage: &str) -> Result<Value, serde_json::Error> {
    serde_json::from_str(preimage).map(with_objects_as_large_numbers)
}

/// The key of the object that stands for a large whole number.
const WHOLE_NUMBER: &str = "whole_number";

/// The greatest magnitude up to which a 64-bit float holds every whole number.
const WHOLE_FLOAT_MAX: u64 = 1 << 53;

fn with_large_numbers_as_objects(value: Value) -> Value {
    match value {
        Value::Number(number) => {
            let magnitude = number.as_u64().or_else(|| number.as_i64().map(i64::unsigned_abs));
            match magnitude.filter(|magnitude| *magnitude > WHOLE_FLOAT_MAX) {
                Some(_) => json!({ WHOLE_NUMBER: number.to_string() }),
                None => Value::Number(number),
            }
        }
        other => map_items(other, with_large_numbers_as_objects),
    }
}

fn with_objects_as_large_numbers(value: Value) -> Value {
    let digits = match &value {
        Value::Object(map) if map.len() == 1 => map.get(WHOLE_NUMBER).and_then(Value::as_str),
        _ => None,
    };
    let number: Option<serde_json::Number> = digits.and_then(|digits| digits.parse().ok());
    match number {
        Some(number) => Value::Number(number),
        None => map_items(value, with_objects_as_large_numbers),
    }
}

/// Maps each item of an array, and each value of an object.
fn map_items(value: Value, map: fn(Value) -> Value) -> Value {
    match value {
        Value::Array(items) => Value::Array(items.into_iter().map(map).collect()),
        Value::Object(fields) => {
            Value::Object(fields.into_iter().map(|(key, value)| (key, map(value))).collect())
        }
        other => other,
    }
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

/// The plan digest of a preimage.
pub(super) fn plan_digest(preimage: &str) -> Digest {
    Digest::of(preimage.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(value: Value) -> String {
        let content = with_large_numbers_as_objects(value);
        tidegate_facts::strict_json::canonical(&content.to_string()).expect("canonical JSON")
    }

    #[test]
    fn whole_numbers_of_all_64_bits_are_written_and_read_back() {
        for number in [0, 1, WHOLE_FLOAT_MAX, WHOLE_FLOAT_MAX + 1, i64::MAX.unsigned_abs(), u64::MAX] {
            let value = json!({ "run": { "seed": number }, "nodes": [["a", number]] });
            assert_eq!(content_of(&written(value.clone())).expect("JSON"), value);
        }
        let value = json!([i64::MIN, -1, 0.25, "9007199254740993"]);
        assert_eq!(content_of(&written(value.clone())).expect("JSON"), value);
    }

    #[test]
    fn a_large_number_and_a_text_of_its_digits_are_written_differently() {
        let large = WHOLE_FLOAT_MAX + 1;
        assert_ne!(written(json!({ "seed": large })), written(json!({ "seed": large.to_string() })));
        assert_ne!(written(json!({ "seed": large })), written(json!({ "seed": large + 1 })));
        assert_eq!(written(json!({ "seed": 7 })), r#"{"seed":7}"#);
    }

    #[test]
    fn no_setting_has_the_key_of_a_large_number() {
        for kind in crate::nodes::KINDS {
            let mut keys = kind.settings().iter().flat_map(|setting| setting.key.split('.'));
            assert!(keys.all(|key| key != WHOLE_NUMBER), "{}", kind.name());
        }
    }
}
