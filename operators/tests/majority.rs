//! Clones that outnumber independent streams: what copy detection finds, and what `quorum` then
//! makes of the claims on which the clones are wrong.
//!
//! Five clones of one original are wrong on three of ten claims, in four rounds, against three
//! independent streams.

mod chance;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Int32Type, Int64Type, Schema};
use chance::Chance;
use tidegate_facts::payload_schema::timestamp;
use tidegate_facts::{Span, Tick, columns};
use tidegate_operators::core::tick_ordered::TickOperator;
use tidegate_operators::credibility::copy_detection::{CopyConfig, CopyDetection, CopyDetectionColumns};
use tidegate_operators::credibility::quorum::{
    EvidenceColumns, FamilyColumns, Quorum, QuorumConfig, Requirement,
};

const ROUND: i64 = 1_000_000;
const ROUNDS: i64 = 4;
const CLAIMS: i64 = 1_500;
const HONEST: [&str; 3] = ["honest-1", "honest-2", "honest-3"];
const CLONES: [&str; 5] = ["clone-1", "clone-2", "clone-3", "clone-4", "clone-5"];

/// The true value of each claim, and the value that the clones report.
type World = BTreeMap<i64, (i64, i64)>;

/// Evidence of all streams, in order. Each honest stream errs independently on `error_percent` of a
/// hundred claims.
fn world(error_percent: u64, chance: &mut Chance) -> (RecordBatch, World) {
    let mut world = World::new();
    let mut rows: Vec<(i64, i64, &str, i64)> = Vec::new();
    for number in 0..ROUNDS * CLAIMS {
        let truth = chance.below(1_000) as i64;
        let wrong = if chance.below(10) < 3 { 1_000 + chance.below(1_000) as i64 } else { truth };
        world.insert(number, (truth, wrong));
        let time = (1 + number / CLAIMS) * ROUND + number % CLAIMS * 100;
        for (index, stream) in HONEST.into_iter().chain(CLONES).enumerate() {
            let own =
                if chance.below(100) < error_percent { 2_000 + chance.below(1_000) as i64 } else { truth };
            let value = if CLONES.contains(&stream) { wrong } else { own };
            rows.push((time + index as i64, number, stream, value));
        }
    }
    let times = TimestampMicrosecondArray::from_iter_values(rows.iter().map(|row| row.0));
    let ticks = rows.iter().map(|row| Tick::new(row.0, 0).expect("in range").0);
    let columns: Vec<ArrayRef> = vec![
        Arc::new(columns::TickArray::from_iter_values(ticks)),
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.1))),
        Arc::new(times.with_timezone("UTC")),
        Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.2))),
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.3))),
    ];
    let fields = vec![
        columns::tick_field(columns::TICK),
        Field::new("claim", DataType::Int64, true),
        Field::new("time", timestamp(), true),
        Field::new("stream", DataType::Utf8, true),
        Field::new("value", DataType::Int64, true),
    ];
    (RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).expect("the schema's"), world)
}

/// The last row of a claim.
struct FinalState {
    value: i64,
    status: String,
    reason: Option<String>,
    margin: i32,
}

/// The last row of each claim, and its status at the last evidence.
fn final_states(evidence: &RecordBatch, groups: u32) -> BTreeMap<i64, (FinalState, String)> {
    let copy_config = CopyConfig {
        round: Span::from_micros(ROUND).expect("positive"),
        similarity_min: 990_000,
        evidence_bits_min: 100,
        learns_weights: false,
    };
    let input_columns = CopyDetectionColumns { claim: 1, time: 2, stream: 3, value: 4 };
    let mut detection = CopyDetection::new(&evidence.schema(), input_columns, copy_config);
    let [findings, _] = CopyDetection::outputs(&evidence.schema(), input_columns);
    let finding_column = |name: &str| findings.schema.index_of(name).expect("a column of the findings");
    let mut quorum = Quorum::new(QuorumConfig {
        evidence: EvidenceColumns {
            claim: 1,
            stream: 3,
            value: 4,
            time: 2,
            group: None,
            out_of_band: None,
            is_eligible: None,
            expires: None,
            diff: None,
            passthrough: vec![1],
        },
        declaration: None,
        families: Some(FamilyColumns {
            stream: finding_column("stream"),
            family: finding_column("family"),
            suspected_group: finding_column("suspected_group"),
            weight: finding_column("weight"),
            diff: finding_column(columns::DIFF),
        }),
        default_requirement: Some(Requirement { n: 3, k: 2, groups, out_of_band: false }),
        emits_votes: false,
        claim_fields: vec![Field::new("claim", DataType::Int64, true)],
        types: [DataType::Int64, DataType::Utf8, DataType::Utf8],
    });
    let upper = Tick::new((ROUNDS + 2) * ROUND, 0).expect("in range");
    let families = detection.advance(std::slice::from_ref(evidence), upper).remove(0);
    let claims = quorum.advance(&[evidence.clone(), families], upper).remove(0);
    let column = |name: &str| claims.column_by_name(name).expect("not null");
    let whole = |name: &str, row: usize| column(name).as_primitive::<Int64Type>().value(row);
    let text = |name: &str, row: usize| {
        let column = column(name).as_string::<i32>();
        column.is_valid(row).then(|| column.value(row).to_owned())
    };
    assert!(column(columns::TICK).as_primitive::<columns::TickType>().values().is_sorted());
    let rows = (0..claims.num_rows()).filter(|row| whole(columns::DIFF, *row) > 0);
    rows.map(|row| {
        let state = FinalState {
            value: whole("value", row),
            status: text("status", row).expect("not null"),
            reason: text("reason", row),
            margin: column("margin").as_primitive::<Int32Type>().value(row),
        };
        (whole("claim", row), (state, text("status_at_last_evidence", row).expect("not null")))
    })
    .collect()
}

/// The number of claims by outcome: whether the clones agree with the truth, whether the accepted
/// value is true, status and reason.
fn outcome_counts(
    world: &World,
    final_states: &BTreeMap<i64, (FinalState, String)>,
) -> BTreeMap<String, usize> {
    let mut outcome_counts = BTreeMap::new();
    for (claim, (truth, wrong)) in world {
        let (state, _) = &final_states[claim];
        let kind = if truth == wrong { "agreed" } else { "contested" };
        let accepted = match state.value {
            value if value == *truth => "true",
            value if value == *wrong => "wrong",
            _ => "error",
        };
        let reason = state.reason.as_deref().unwrap_or("-");
        *outcome_counts.entry(format!("{kind} {accepted} {} {reason}", state.status)).or_default() += 1;
    }
    outcome_counts
}

#[test]
fn a_clone_family_with_a_majority_verifies_no_wrong_value() {
    for (error_percent, groups) in [(0, 2), (0, 1), (3, 2), (3, 1)] {
        let (evidence, world) = world(error_percent, &mut Chance(42 + error_percent));
        let final_states = final_states(&evidence, groups);
        eprintln!(
            "error_percent {error_percent}, groups {groups}: {:#?}",
            outcome_counts(&world, &final_states)
        );
        for (claim, (state, _)) in &final_states {
            let (truth, _) = world[claim];
            let is_trusted = state.status == "VERIFIED" && state.margin > 0;
            assert!(
                !is_trusted || state.value == truth,
                "error_percent {error_percent}: claim {claim} is VERIFIED and wrong"
            );
        }
        // A claim on which all streams agree is verified, whichever streams are clones.
        let agreed = world.iter().filter(|(_, (truth, wrong))| truth == wrong);
        let verified = agreed.clone().filter(|(claim, _)| final_states[claim].0.status == "VERIFIED").count();
        assert!(
            verified * 100 > agreed.count() * 95,
            "error_percent {error_percent}, groups {groups}: {verified}"
        );
    }
}

#[test]
fn in_the_first_round_nothing_is_verified() {
    let (evidence, world) = world(3, &mut Chance(7));
    let final_states = final_states(&evidence, 2);
    for claim in world.keys().take_while(|claim| **claim < CLAIMS) {
        assert_ne!(final_states[claim].1, "VERIFIED", "claim {claim}, at its last evidence");
    }
    let later = world.keys().filter(|claim| **claim >= CLAIMS);
    assert!(
        later.filter(|claim| final_states[claim].1 == "VERIFIED").count() > 3_000,
        "claims of later rounds are verified"
    );
}
