//! Clones that outnumber the others: what is learned of them, and what is then known of the claims they lie about.
//!
//! Five clones of one original are wrong in three of ten claims, in four rounds, against three streams of their own.

mod chance;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray, UInt64Array,
};
use arrow::datatypes::{DataType, Field, Int32Type, Int64Type, Schema, UInt64Type};
use chance::Chance;
use tidegate_facts::schema::timestamp;
use tidegate_facts::{Span, Tick, columns};
use tidegate_operators::families::{Learn, Learning, Places};
use tidegate_operators::ordered::Ordered;
use tidegate_operators::quorum::{Evidences, Memberships, Need, Quorum, Shape};

const ROUND: i64 = 1_000_000;
const ROUNDS: i64 = 4;
const CLAIMS: i64 = 1_500;
const HONEST: [&str; 3] = ["honest-1", "honest-2", "honest-3"];
const CLONES: [&str; 5] = ["clone-1", "clone-2", "clone-3", "clone-4", "clone-5"];

/// What is true of each claim, and what the clones say of it.
type World = BTreeMap<i64, (i64, i64)>;

/// Evidence of all streams, in order; the honest ones err by themselves in so many of a hundred claims.
fn world(errs: u64, chance: &mut Chance) -> (RecordBatch, World) {
    let mut world = World::new();
    let mut rows: Vec<(i64, i64, &str, i64)> = Vec::new();
    for number in 0..ROUNDS * CLAIMS {
        let truth = chance.below(1_000) as i64;
        let lie = if chance.below(10) < 3 { 1_000 + chance.below(1_000) as i64 } else { truth };
        world.insert(number, (truth, lie));
        let time = (1 + number / CLAIMS) * ROUND + number % CLAIMS * 100;
        for (place, stream) in HONEST.into_iter().chain(CLONES).enumerate() {
            let own = if chance.below(100) < errs { 2_000 + chance.below(1_000) as i64 } else { truth };
            let value = if CLONES.contains(&stream) { lie } else { own };
            rows.push((time + place as i64, number, stream, value));
        }
    }
    let times = TimestampMicrosecondArray::from_iter_values(rows.iter().map(|row| row.0));
    let ticks = rows.iter().map(|row| Tick::new(row.0, 0).expect("in range").0);
    let columns: Vec<ArrayRef> = vec![
        Arc::new(UInt64Array::from_iter_values(ticks)),
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.1))),
        Arc::new(times.with_timezone("UTC")),
        Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.2))),
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.3))),
    ];
    let fields = vec![
        Field::new(columns::TICK, DataType::UInt64, false),
        Field::new("claim", DataType::Int64, true),
        Field::new("time", timestamp(), true),
        Field::new("stream", DataType::Utf8, true),
        Field::new("value", DataType::Int64, true),
    ];
    (RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).expect("the schema's"), world)
}

/// What was known of a claim.
struct Verdict {
    value: i64,
    status: String,
    reason: Option<String>,
    margin: i32,
}

/// What is known of each claim at the end, and what was known when it was last heard of.
fn known(evidence: &RecordBatch, groups: u32) -> BTreeMap<i64, (Verdict, String)> {
    let learn = Learn {
        period: Span::from_micros(ROUND).expect("positive"),
        alike: 990_000,
        bits: 100,
        weighs: false,
    };
    let places = Places { claim: 1, time: 2, stream: 3, value: 4 };
    let mut learning = Learning::new(&evidence.schema(), places, learn);
    let mut quorum = Quorum::new(Shape {
        evidence: Evidences {
            claim: 1,
            stream: 3,
            value: 4,
            time: 2,
            group: None,
            out_of_band: None,
            is_fit: None,
            expires: None,
            diff: None,
            kept: vec![1],
        },
        declared: None,
        families: Some(Memberships { stream: 1, family: 2, kin: 4, weight: 11, diff: 12 }),
        need: Some(Need { n: 3, k: 2, groups, out_of_band: false }),
        tells_votes: false,
        claim: vec![Field::new("claim", DataType::Int64, true)],
        types: [DataType::Int64, DataType::Utf8, DataType::Utf8],
    });
    let upper = Tick::new((ROUNDS + 2) * ROUND, 0).expect("in range");
    let families = learning.advance(std::slice::from_ref(evidence), upper).remove(0);
    let claims = quorum.advance(&[evidence.clone(), families], upper).remove(0);
    let column = |name: &str| claims.column_by_name(name).expect("given");
    let whole = |name: &str, row: usize| column(name).as_primitive::<Int64Type>().value(row);
    let text = |name: &str, row: usize| {
        let column = column(name).as_string::<i32>();
        column.is_valid(row).then(|| column.value(row).to_owned())
    };
    assert!(column(columns::TICK).as_primitive::<UInt64Type>().values().is_sorted());
    let rows = (0..claims.num_rows()).filter(|row| whole(columns::DIFF, *row) > 0);
    rows.map(|row| {
        let verdict = Verdict {
            value: whole("value", row),
            status: text("status", row).expect("given"),
            reason: text("reason", row),
            margin: column("margin").as_primitive::<Int32Type>().value(row),
        };
        (whole("claim", row), (verdict, text("status_as_heard", row).expect("given")))
    })
    .collect()
}

/// How many claims there are of each sort: the clones' lie or not, as it is known, status and reason.
fn sorts(world: &World, known: &BTreeMap<i64, (Verdict, String)>) -> BTreeMap<String, usize> {
    let mut sorts = BTreeMap::new();
    for (claim, (truth, lie)) in world {
        let (verdict, _) = &known[claim];
        let about = if truth == lie { "agreed" } else { "contested" };
        let said = match verdict.value {
            value if value == *truth => "true",
            value if value == *lie => "lie",
            _ => "error",
        };
        let reason = verdict.reason.as_deref().unwrap_or("-");
        *sorts.entry(format!("{about} {said} {} {reason}", verdict.status)).or_default() += 1;
    }
    sorts
}

#[test]
fn a_clone_family_with_a_majority_verifies_no_lie() {
    for (errs, groups) in [(0, 2), (0, 1), (3, 2), (3, 1)] {
        let (evidence, world) = world(errs, &mut Chance(42 + errs));
        let known = known(&evidence, groups);
        eprintln!("errs {errs}, groups {groups}: {:#?}", sorts(&world, &known));
        for (claim, (verdict, _)) in &known {
            let (truth, _) = world[claim];
            let is_trusted = verdict.status == "VERIFIED" && verdict.margin > 0;
            assert!(
                !is_trusted || verdict.value == truth,
                "errs {errs}: claim {claim} is VERIFIED, and a lie"
            );
        }
        // What all agree on is verified, whoever is whose clone.
        let agreed = world.iter().filter(|(_, (truth, lie))| truth == lie);
        let verified = agreed.clone().filter(|(claim, _)| known[claim].0.status == "VERIFIED").count();
        assert!(verified * 100 > agreed.count() * 95, "errs {errs}, groups {groups}: {verified}");
    }
}

#[test]
fn in_the_first_round_nothing_is_verified() {
    let (evidence, world) = world(3, &mut Chance(7));
    let known = known(&evidence, 2);
    for claim in world.keys().take_while(|claim| **claim < CLAIMS) {
        assert_ne!(known[claim].1, "VERIFIED", "claim {claim}, as heard");
    }
    let later = world.keys().filter(|claim| **claim >= CLAIMS);
    assert!(later.filter(|claim| known[claim].1 == "VERIFIED").count() > 3_000, "and later it is");
}
