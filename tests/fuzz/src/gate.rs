//! Records as they are submitted, under the policy of the card topologies and event types of every kind of field.

use std::sync::{Arc, OnceLock};

use tidegate_facts::json::canonical;
use tidegate_operators::gate::{Accepted, GatePolicy, Judge, Judged, TimeBounds};

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

/// Records, one a line, are facts or refused; each is judged the same alone, among others, and by a judge that has seen
/// others like it.
pub fn envelope(bytes: &[u8]) {
    let records: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').take(64).collect();
    let judge = || Judge::new(policy(), PARTITIONS, TimeBounds::TICKS);
    let numbered = || (7u64..).zip(records.iter().copied());
    let together = judge().lines(numbered());
    let mut warm = judge();
    warm.lines(numbered());
    same(&together, &warm.lines(numbered()));
    for (place, record) in records.iter().enumerate() {
        let alone = judge().lines([(7 + place as u64, *record)]);
        match (alone.accepted.as_slice(), alone.refused.as_slice()) {
            ([fact], []) => {
                let (others, row) = find(&together, place);
                assert_eq!(others.rows.slice(row, 1), fact.rows, "among others it is another fact");
                assert_eq!((others.keys[row], others.partitions[row]), (fact.keys[0], fact.partitions[0]));
                if fact.event_type.as_ref() == "any.object.v1" {
                    stable(fact);
                }
            }
            ([], [refused]) => {
                let found = together.refused.iter().find(|other| other.record as usize == place);
                let found = found.expect("alone it was refused");
                assert_eq!((&found.reason, &found.detail), (&refused.reason, &refused.detail));
                assert_eq!(found.bytes.as_slice(), *record, "it is kept as it came");
                assert!(found.detail.len() > 5, "it has no sentence");
            }
            _ => panic!("one record is one fact or refused"),
        }
    }
}

fn same(one: &Judged, other: &Judged) {
    assert_eq!((&one.positions, &one.times, &one.refused), (&other.positions, &other.times, &other.refused));
    assert_eq!(one.accepted.len(), other.accepted.len());
    for (one, other) in one.accepted.iter().zip(&other.accepted) {
        assert_eq!((&one.event_type, &one.records), (&other.event_type, &other.records));
        assert_eq!((&one.keys, &one.partitions), (&other.keys, &other.partitions));
        assert_eq!(one.rows, other.rows, "a judge that knows the shape reads another fact");
    }
}

/// The fact that a record became, and its row.
fn find(judged: &Judged, place: usize) -> (&Accepted, usize) {
    let found = judged.accepted.iter().find_map(|accepted| {
        accepted.records.iter().position(|record| *record as usize == place).map(|row| (accepted, row))
    });
    found.expect("alone it was a fact")
}

/// A payload that is kept as text is canonical.
fn stable(fact: &Accepted) {
    use arrow::array::AsArray;
    let payload = fact.rows.column_by_name("payload").expect("a fact has a payload");
    let text = payload.as_string::<i32>().value(0);
    assert_eq!(canonical(text).as_deref(), Ok(text), "the canonical form has another canonical form");
}
