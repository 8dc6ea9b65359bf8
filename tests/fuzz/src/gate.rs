//! Records as they are submitted, under the policy of the card topologies and event types of every kind of field.

use std::sync::{Arc, OnceLock};

use tidegate_facts::strict_json::canonical;
use tidegate_operators::gate::{AcceptedBatch, GatePolicy, TimeBounds, Validated, Validator};

const PARTITIONS: u16 = 4;

/// Beside the card events one with each type of field, and one without a schema.
const MORE: &str = r#"
[event."every.kind.v1"]
class = "traffic"
partition_key = ["text", "whole"]
[event."every.kind.v1".payload]
flag = "bool?"
small = "int32?"
whole = "int64?"
number = "float64?"
amount = "decimal(18,4)?"
text = "text?"
at = "timestamp?"

[event."any.object.v1"]
class = "case"
partition_key = ["key", "event_id"]
"#;

fn policy() -> Arc<GatePolicy> {
    static POLICY: OnceLock<Arc<GatePolicy>> = OnceLock::new();
    let policy = POLICY.get_or_init(|| {
        let cards = include_str!("../../../dataflows/policies/card-gate.toml");
        Arc::new(GatePolicy::parse(&format!("{cards}\n{MORE}")).expect("it has no fault"))
    });
    Arc::clone(policy)
}

/// Records, one a line, are accepted or rejected; each is validated the same alone, among others, and by a validator that has seen
/// others like it.
pub fn envelope(bytes: &[u8]) {
    let records: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').take(64).collect();
    let validator = || Validator::new(policy(), PARTITIONS, TimeBounds::TICKS);
    let numbered = || (7u64..).zip(records.iter().copied());
    let together = validator().validate_lines(numbered());
    let mut warm = validator();
    warm.validate_lines(numbered());
    same(&together, &warm.validate_lines(numbered()));
    for (place, record) in records.iter().enumerate() {
        let alone = validator().validate_lines([(7 + place as u64, *record)]);
        match (alone.accepted.as_slice(), alone.rejected.as_slice()) {
            ([fact], []) => {
                let (others, row) = find(&together, place);
                assert_eq!(others.rows.slice(row, 1), fact.rows, "among others it is another fact");
                assert_eq!((others.keys[row], others.partitions[row]), (fact.keys[0], fact.partitions[0]));
                if fact.event_type.as_ref() == "any.object.v1" {
                    stable(fact);
                }
            }
            ([], [rejection]) => {
                let found = together.rejected.iter().find(|other| other.record as usize == place);
                let found = found.expect("alone it was rejected");
                assert_eq!((&found.reason, &found.detail), (&rejection.reason, &rejection.detail));
                assert_eq!(found.bytes.as_slice(), *record, "it is kept as it came");
                assert!(found.detail.len() > 5, "it has no sentence");
            }
            _ => panic!("one record is one fact or one rejection"),
        }
    }
}

fn same(one: &Validated, other: &Validated) {
    assert_eq!(
        (&one.positions, &one.times, &one.rejected),
        (&other.positions, &other.times, &other.rejected)
    );
    assert_eq!(one.accepted.len(), other.accepted.len());
    for (one, other) in one.accepted.iter().zip(&other.accepted) {
        assert_eq!((&one.event_type, &one.records), (&other.event_type, &other.records));
        assert_eq!((&one.keys, &one.partitions), (&other.keys, &other.partitions));
        assert_eq!(one.rows, other.rows, "a validator with templates reads another fact");
    }
}

/// The fact that a record became, and its row.
fn find(validated: &Validated, place: usize) -> (&AcceptedBatch, usize) {
    let found = validated.accepted.iter().find_map(|accepted| {
        accepted.records.iter().position(|record| *record as usize == place).map(|row| (accepted, row))
    });
    found.expect("alone it was a fact")
}

/// A payload that is kept as text is canonical.
fn stable(fact: &AcceptedBatch) {
    use arrow::array::AsArray;
    let payload = fact.rows.column_by_name("payload").expect("a fact has a payload");
    let text = payload.as_string::<i32>().value(0);
    assert_eq!(canonical(text).as_deref(), Ok(text), "the canonical form has another canonical form");
}
