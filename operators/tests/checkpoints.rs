//! Snapshots of operators: restored from a snapshot, on any number of workers, an operator emits
//! what an uninterrupted one emits; and a snapshot is as large as the state, not as the input.

mod chance;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
    UInt32Array,
};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimestampMicrosecondType};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use chance::Chance;
use tidegate_facts::{Span, Tick, columns};
use tidegate_operators::core::keys::{keys_of, owner};
use tidegate_operators::core::rows::ticks_of;
use tidegate_operators::core::snapshotting::{SnapshotOperator, Snapshotting};
use tidegate_operators::core::tick_ordered::{Exchange, TickOperator};
use tidegate_operators::credibility::copy_detection::{CopyConfig, CopyDetection, CopyDetectionColumns};
use tidegate_operators::credibility::drift::operator::{
    Drift, input_exchange, input_fields, snapshot_output as drift_snapshot,
};
use tidegate_operators::credibility::drift::periods::PeriodConfig;
use tidegate_operators::credibility::drift::severity::Bounds;
use tidegate_operators::credibility::drift::{MeasureConfig, StatisticKind};
use tidegate_operators::credibility::index::CredibilityConfig;
use tidegate_operators::credibility::index::operator::{Credibility, CredibilityInput};
use tidegate_operators::credibility::quorum::{
    DeclarationColumns, EvidenceColumns, FamilyColumns, Quorum, QuorumConfig, Requirement,
};
use tidegate_operators::temporal::expire::{Expire, ExpireColumns};

const SECOND: i64 = 1_000_000;
const START: i64 = 1_000_000 * SECOND;
const PARTITIONS: u16 = 4;

/// An operator and its inputs.
struct Case {
    make: Box<dyn Fn() -> Box<dyn SnapshotOperator>>,
    schema: SchemaRef,
    /// To which workers the snapshot rows go.
    exchange: Exchange,
    inputs: Vec<(RecordBatch, Exchange)>,
    /// A restart replays rows whose event time (the third column) is at most this many microseconds
    /// before it; for `None` it replays no rows except those that are broadcast.
    retention: Option<i64>,
}

/// The emitted rows of each output as sorted lines; the snapshot is the last output.
type Emitted = Vec<Vec<String>>;

/// The rows that a worker receives.
fn rows_of_worker(rows: &RecordBatch, exchange: Exchange, worker: usize, workers: usize) -> RecordBatch {
    let keys = match exchange {
        Exchange::Key(column) => keys_of(rows.column(column)),
        Exchange::Single if worker > 0 => return rows.slice(0, 0),
        Exchange::Single | Exchange::Broadcast => return rows.clone(),
    };
    let own = (0..keys.len()).filter(|row| owner(keys[*row], workers) == worker).map(|row| row as u32);
    take_record_batch(rows, &UInt32Array::from_iter_values(own)).expect("its own rows")
}

fn between(rows: &RecordBatch, from: Tick, to: Tick) -> RecordBatch {
    let ticks = ticks_of(rows).values();
    let [from, to] = [from, to].map(|tick| ticks.partition_point(|other| *other < tick.0));
    rows.slice(from, to - from)
}

fn lines(rows: &RecordBatch, from: Tick) -> Vec<String> {
    let options = FormatOptions::default().with_null("-");
    let cells: Vec<_> = rows
        .columns()
        .iter()
        .map(|column| ArrayFormatter::try_new(column.as_ref(), &options).expect("any column has a text"))
        .collect();
    (0..rows.num_rows())
        .filter(|row| ticks_of(rows).value(*row) >= from.0)
        .map(|row| cells.iter().map(|cell| cell.value(row).to_string()).collect::<Vec<_>>().join("|"))
        .collect()
}

fn boundary_rows(boundaries: &[Tick]) -> RecordBatch {
    let ticks: ArrayRef = Arc::new(columns::tick_array(boundaries.iter().copied()));
    RecordBatch::try_from_iter([(columns::TICK, ticks)]).expect("one column")
}

/// Runs the operator in random intervals, restored at `restored` from the snapshot rows `before`.
/// Returns the lines that it emits from `restored` on, and its snapshot rows.
fn run(
    case: &Case,
    workers: usize,
    boundaries: &[Tick],
    (restored, before): (Tick, &RecordBatch),
    end: Tick,
    chance: &mut Chance,
) -> (Emitted, RecordBatch) {
    let mut emitted: Emitted = Vec::new();
    let mut snapshots = Vec::new();
    for worker in 0..workers {
        let own = case.inputs.iter().map(|(rows, exchange)| rows_of_worker(rows, *exchange, worker, workers));
        let own: Vec<RecordBatch> = own.collect();
        let mut state = Snapshotting::new((case.make)(), Arc::clone(&case.schema), restored);
        let mut lower = Tick::ZERO;
        let bounds = boundary_rows(boundaries);
        while lower < end {
            let step = chance.below(400) as i64 * SECOND * i64::from(chance.below(9) > 0) * 20;
            let later =
                Tick::new(lower.micros().max(START) + step, chance.below(4) as u16).expect("in range");
            let upper = if lower < restored { restored } else { later.max(lower.next()).min(end) };
            let mut inputs: Vec<RecordBatch> = own.iter().map(|rows| between(rows, lower, upper)).collect();
            if lower < restored {
                for (rows, (_, exchange)) in inputs.iter_mut().zip(&case.inputs) {
                    *rows = replayed(rows, *exchange, case.retention.map(|span| restored.micros() - span));
                }
            }
            inputs.push(between(&bounds, lower, upper));
            let before = rows_of_worker(before, case.exchange, worker, workers);
            inputs.push(if lower == Tick::ZERO { before } else { before.slice(0, 0) });
            let outputs = state.advance(&inputs, upper);
            emitted.resize(outputs.len(), Vec::new());
            emitted.iter_mut().zip(&outputs).for_each(|(all, rows)| all.extend(lines(rows, restored)));
            snapshots.extend(outputs.last().cloned());
            lower = upper;
        }
    }
    emitted.iter_mut().for_each(|lines| lines.sort());
    (emitted, concat_batches(&case.schema, &snapshots).expect("one schema"))
}

/// The rows from before a restart that a checkpoint stores and the restart replays.
fn replayed(rows: &RecordBatch, exchange: Exchange, from: Option<i64>) -> RecordBatch {
    let Some(from) = from else {
        return if exchange == Exchange::Broadcast { rows.clone() } else { rows.slice(0, 0) };
    };
    let times = rows.column(2).as_primitive::<TimestampMicrosecondType>().values();
    let retained = (0..rows.num_rows()).filter(|row| times[*row] >= from).map(|row| row as u32);
    take_record_batch(rows, &UInt32Array::from_iter_values(retained)).expect("its own rows")
}

/// Checks that an operator restored at each of four boundaries emits what the uninterrupted one
/// emits. Returns the count of snapshot rows at each boundary.
fn check(case: &Case, workers: &[usize], seed: u64) -> Vec<usize> {
    let chance = &mut Chance(seed);
    let last = case.inputs.iter().filter_map(|(rows, _)| ticks_of(rows).values().last().copied()).max();
    let end = Tick(last.expect("rows")).next();
    let span = end.micros() - START;
    let boundaries: Vec<Tick> =
        (1..=4).map(|part| Tick::new(START + span * part / 5, 0).expect("in range")).collect();
    let nothing = RecordBatch::new_empty(Arc::clone(&case.schema));
    let (whole, snapshots) = run(case, 1, &boundaries, (Tick::ZERO, &nothing), end, chance);
    assert!(
        whole.iter().rev().skip(1).any(|lines| lines.len() > 100),
        "seed {seed}: the operator emits rows"
    );
    for restored in &boundaries {
        let before = between(&snapshots, *restored, restored.next());
        for workers in workers {
            let (again, _) = run(case, *workers, &boundaries, (*restored, &before), end, chance);
            for (output, (whole, again)) in whole.iter().zip(&again).enumerate() {
                let from = |line: &&String| {
                    line.split('|')
                        .next()
                        .and_then(|tick| tick.parse().ok())
                        .is_some_and(|tick: i64| tick >= restored.0)
                };
                let whole: Vec<&String> = whole.iter().filter(from).collect();
                let again: Vec<&String> = again.iter().collect();
                let differs = whole.iter().zip(&again).position(|(one, other)| one != other);
                assert!(
                    whole == again,
                    "seed {seed}, {workers} workers, from {restored:?}, output {output}: {} lines and {}, from {:?}",
                    whole.len(),
                    again.len(),
                    differs.map(|at| (whole[at], again[at])),
                );
            }
        }
    }
    boundaries.iter().map(|boundary| between(&snapshots, *boundary, boundary.next()).num_rows()).collect()
}

fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    let fields = columns.iter().enumerate();
    let fields =
        fields.map(|(index, (name, column))| Field::new(*name, column.data_type().clone(), index > 0));
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    RecordBatch::try_new(schema, columns.into_iter().map(|(_, column)| column).collect())
        .expect("its columns")
}

fn texts(texts: impl Iterator<Item = Option<String>>) -> ArrayRef {
    Arc::new(texts.collect::<StringArray>())
}

fn times(times: impl Iterator<Item = i64>) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from_iter_values(times).with_timezone("UTC"))
}

/// Ticks of this many rows, about `gap` seconds apart, and event times a little before them.
fn moments(rows: usize, gap: u64, chance: &mut Chance) -> (ArrayRef, Vec<i64>) {
    let mut tick = Tick::new(START, 0).expect("in range");
    let (mut ticks, mut times) = (Vec::new(), Vec::new());
    for _ in 0..rows {
        let now = tick.micros() + (chance.below(2 * gap) as i64) * SECOND;
        tick = Tick::following(tick, now, chance.below(PARTITIONS.into()) as u16).expect("in range");
        ticks.push(tick.0);
        times.push(tick.micros() - chance.below(30) as i64 * SECOND);
    }
    (Arc::new(columns::TickArray::from(ticks)), times)
}

/// Evidence of eight streams for twelve claims: tick, claim, time, stream, value, fit, time to
/// live, cancelled. Two streams say the same odd things.
fn evidence(rows: usize, chance: &mut Chance) -> RecordBatch {
    let (ticks, when) = moments(rows, 12, chance);
    let mut each: Vec<(u64, u64, Option<String>, bool, i64, bool)> = Vec::new();
    let mut odd = 0;
    for row in 0..rows {
        let (claim, stream) = (chance.below(12), chance.below(8));
        odd = if stream > 1 { chance.below(1_000) } else { odd };
        let value = match chance.below(10) {
            0 => None,
            _ if stream < 2 => Some(format!("odd-{}", (row / 40) as u64 * 100 + claim)),
            1 => Some(format!("wrong-{odd}")),
            _ => Some(format!("right-{claim}")),
        };
        let ttl = (60 + chance.below(3_000) as i64) * SECOND;
        each.push((claim, stream, value, chance.below(12) > 0, ttl, chance.below(25) == 0));
    }
    let whole =
        |of: &dyn Fn(usize) -> i64| -> ArrayRef { Arc::new(Int64Array::from_iter_values((0..rows).map(of))) };
    let flags = |of: &dyn Fn(usize) -> bool| -> ArrayRef {
        Arc::new((0..rows).map(|row| Some(of(row))).collect::<BooleanArray>())
    };
    batch(vec![
        (columns::TICK, ticks),
        ("piece", texts(each.iter().map(|row| Some(format!("{}-{}", row.0, row.1 / 2 * 3 + row.1 % 2))))),
        ("time", times(when.into_iter())),
        ("claim", whole(&|row| each[row].0 as i64)),
        ("stream", texts(each.iter().map(|row| Some(format!("stream-{}", row.1))))),
        ("value", texts(each.iter().map(|row| row.2.clone()))),
        ("group", texts(each.iter().map(|row| (row.1 % 3 > 0).then(|| format!("group-{}", row.1 % 3))))),
        ("out_of_band", flags(&|row| each[row].1 == 7)),
        ("fit", flags(&|row| each[row].3)),
        ("ttl", whole(&|row| each[row].4)),
        ("cancel", flags(&|row| each[row].5)),
    ])
}

const EXPIRE_COLUMNS: ExpireColumns =
    ExpireColumns { key: 1, time: 2, ttl: 9, cancel: Some(10), output_count: 9, ttl_max: None };

fn expire_case(rows: &RecordBatch) -> Case {
    let schema = rows.schema();
    let snapshot = Expire::snapshot_schema(&schema, EXPIRE_COLUMNS.output_count);
    Case {
        make: Box::new(move || Box::new(Expire::new(&schema, EXPIRE_COLUMNS))),
        schema: snapshot,
        exchange: Exchange::Key(1),
        inputs: vec![(rows.clone(), Exchange::Key(1))],
        retention: None,
    }
}

fn hour() -> Span {
    Span::parse("1h").expect("a span")
}

fn copy_config() -> CopyConfig {
    CopyConfig { round: hour(), similarity_min: 300_000, evidence_bits_min: 2, learns_weights: true }
}

const COPY_COLUMNS: CopyDetectionColumns = CopyDetectionColumns { claim: 3, stream: 4, value: 5, time: 2 };

#[test]
fn an_expire_snapshot_has_the_live_rows_and_the_cancellations_alone() {
    for seed in 0..6 {
        let rows = evidence(2_500, &mut Chance(seed));
        let sizes = check(&expire_case(&rows), &[1, 3], seed);
        assert!(sizes.iter().all(|rows| *rows > 0 && *rows <= 2 * 96), "seed {seed}: {sizes:?}");
    }
}

#[test]
fn copy_detection_continues_in_the_middle_of_a_round() {
    for seed in 0..6 {
        let rows = evidence(2_500, &mut Chance(seed));
        let schema = rows.schema();
        let case = Case {
            schema: CopyDetection::snapshot_output(&schema, COPY_COLUMNS).0.schema,
            make: Box::new(move || Box::new(CopyDetection::new(&schema, COPY_COLUMNS, copy_config()))),
            exchange: Exchange::Single,
            inputs: vec![(rows, Exchange::Single)],
            retention: None,
        };
        let sizes = check(&case, &[1, 2], seed);
        // The reports of a round, two rows per pair, a row per stream, and the round.
        assert!(sizes.iter().all(|rows| *rows <= 96 + 2 * 28 + 8 + 1), "seed {seed}: {sizes:?}");
    }
}

/// The rows that the first output of an operator emits.
fn emitted_by(mut state: impl TickOperator, rows: &RecordBatch) -> RecordBatch {
    let end = Tick(*ticks_of(rows).values().last().expect("rows")).next();
    state.advance(std::slice::from_ref(rows), end).remove(0)
}

#[test]
fn a_restored_quorum_retracts_the_rows_that_it_emitted_before_the_snapshot() {
    for seed in 0..12 {
        let chance = &mut Chance(seed);
        let facts = evidence(2_500, chance);
        let valid = emitted_by(Expire::new(&facts.schema(), EXPIRE_COLUMNS), &facts);
        let families = emitted_by(CopyDetection::new(&facts.schema(), COPY_COLUMNS, copy_config()), &facts);
        assert!(families.num_rows() > 20, "seed {seed}: the families do not change");
        let is_declared = seed % 2 == 0;
        let (ticks, _) = moments(150, 200, chance);
        let requirements: Vec<[i64; 4]> =
            (0..150).map(|_| [12, 3, 4, 3].map(|end| chance.below(end) as i64)).collect();
        let column = |of: fn(&[i64; 4]) -> i64| -> ArrayRef {
            Arc::new(Int64Array::from_iter_values(requirements.iter().map(of)))
        };
        let declared = batch(vec![
            (columns::TICK, ticks),
            ("claim", column(|of| of[0])),
            ("n", column(|of| of[1] + 2)),
            ("k", column(|of| of[1] + 1)),
            ("groups", column(|of| of[2])),
            (
                "out_of_band",
                Arc::new(requirements.iter().map(|of| Some(of[3] == 0)).collect::<BooleanArray>()),
            ),
            ("title", texts(requirements.iter().map(|of| Some(format!("title {}", of[3]))))),
        ]);
        let index = |rows: &RecordBatch, name: &str| rows.schema().index_of(name).expect("a column");
        let claim = Field::new("claim", DataType::Int64, true);
        let config = QuorumConfig {
            evidence: EvidenceColumns {
                claim: 3,
                stream: 4,
                value: 5,
                time: 2,
                group: Some(6),
                out_of_band: Some(7),
                is_eligible: Some(8),
                expires: Some(9),
                diff: Some(10),
                passthrough: vec![3],
            },
            declaration: is_declared.then(|| DeclarationColumns {
                claim: 1,
                numbers: [2, 3, 4],
                out_of_band: 5,
                diff: None,
                passthrough: vec![1, 6],
            }),
            families: Some(FamilyColumns {
                stream: index(&families, "stream"),
                family: index(&families, "family"),
                suspected_group: index(&families, "suspected_group"),
                weight: index(&families, "weight"),
                diff: index(&families, columns::DIFF),
            }),
            default_requirement: (!is_declared).then_some(Requirement {
                n: 3,
                k: 2,
                groups: 2,
                out_of_band: false,
            }),
            emits_votes: true,
            claim_fields: if is_declared {
                vec![claim, Field::new("title", DataType::Utf8, true)]
            } else {
                vec![claim]
            },
            types: [DataType::Utf8, DataType::Utf8, DataType::Utf8],
        };
        let mut inputs = vec![(valid, Exchange::Key(3))];
        inputs.extend(is_declared.then_some((declared, Exchange::Key(1))));
        inputs.push((families, Exchange::Broadcast));
        let case = Case {
            schema: config.snapshot_output().0.schema,
            make: Box::new(move || Box::new(Quorum::new(config.clone()))),
            exchange: Exchange::Key(1),
            inputs,
            retention: None,
        };
        let sizes = check(&case, &[1, 2, 3], seed);
        // A row per claim, and one or more per stream of the claim: at most two on average.
        assert!(sizes.iter().all(|rows| *rows <= 12 + 96 * 2), "seed {seed}: {sizes:?}");
    }
}

#[test]
fn drift_is_relative_to_a_first_period_whose_facts_are_gone() {
    let span = |minutes: i64| Span::from_micros(minutes * 60 * SECOND).expect("positive");
    let kinds = [
        (StatisticKind::TimingEntropy, 100_000),
        (StatisticKind::Psi(None), 50_000),
        (StatisticKind::KolmogorovSmirnov(None), 50_000),
    ];
    let configs: Vec<MeasureConfig> = kinds
        .into_iter()
        .map(|(kind, yellow)| MeasureConfig {
            name: kind.name().into(),
            kind,
            bounds: Bounds { yellow, red: yellow * 2, falling: false },
            periods: PeriodConfig {
                width: span(60),
                slide: span(20),
                delay: 0,
                lateness_max: 600 * SECOND,
                rows_min: 3,
                // One measure has its first period on the second day.
                warm_up: (yellow == 100_000).then(|| span(1440)),
            },
        })
        .collect();
    for seed in 0..4 {
        let chance = &mut Chance(seed);
        // Four days, so that the retention of a day and a half is a small part.
        let (ticks, when) = moments(3_500, 100, chance);
        let keys = texts(when.iter().map(|_| Some(format!("key-{}", chance.below(6)))));
        let values = Int64Array::from_iter_values(when.iter().map(|_| chance.below(900_000) as i64));
        let members = texts(when.iter().map(|_| Some(format!("member-{}", chance.below(4)))));
        let columns = vec![ticks, keys, times(when.into_iter()), Arc::new(values), members];
        let rows = RecordBatch::try_new(Arc::new(Schema::new(input_fields())), columns).expect("its columns");
        let retention = configs[0].periods.retention();
        let span = ticks_of(&rows).values();
        assert!(
            Tick(span[span.len() - 1]).micros() - START > 3 * retention,
            "most facts are beyond the retention"
        );
        let configs = configs.clone();
        let case = Case {
            inputs: configs.iter().map(|_| (rows.clone(), input_exchange())).collect(),
            make: Box::new(move || Box::new(Drift::new(configs.clone()))),
            schema: drift_snapshot().0.schema,
            exchange: Exchange::Key(1),
            retention: Some(retention),
        };
        let sizes = check(&case, &[1, 3], seed);
        assert_eq!(sizes, [18; 4], "seed {seed}: a reference for each measure and key");
    }
}

#[test]
fn a_restored_index_has_everything_that_is_due() {
    for seed in 0..8 {
        let chance = &mut Chance(seed);
        let rows = 3_000;
        let mut rows_of = |input: CredibilityInput| {
            let (ticks, when) = moments(rows, 40, chance);
            let mut columns = vec![ticks];
            let texts = |prefix: &str, end: u64, chance: &mut Chance| -> ArrayRef {
                texts((0..rows).map(|_| Some(format!("{prefix}{}", chance.below(end)))))
            };
            let names = |names: &[&str], chance: &mut Chance| -> ArrayRef {
                let name = |_| {
                    Some(names[chance.below(names.len() as u64) as usize]).filter(|name| !name.is_empty())
                };
                Arc::new((0..rows).map(name).collect::<StringArray>())
            };
            match input {
                CredibilityInput::Drift => {
                    columns.extend([texts("event-", 400, chance), times(when.into_iter())]);
                    columns.push(names(&["critical", "high", "medium", "low", ""], chance));
                    columns.push(texts("event-", 400, chance));
                }
                CredibilityInput::Correlations => {
                    // The ends of periods of an hour.
                    let ends = when.into_iter().map(|at| at - at % (3600 * SECOND));
                    columns.extend([texts("group-", 9, chance), times(ends)]);
                    columns.push(Arc::new(Int64Array::from_iter_values(
                        (0..rows).map(|_| chance.below(1_000_000) as i64),
                    )));
                }
                CredibilityInput::Claims => {
                    let mut flags = || -> ArrayRef {
                        Arc::new((0..rows).map(|_| Some(chance.below(3) == 0)).collect::<BooleanArray>())
                    };
                    columns.extend([flags(), times(when.into_iter()), flags()]);
                    columns.push(Arc::new(Int64Array::from_iter_values(
                        (0..rows).map(|_| chance.below(2) as i64 * 2 - 1),
                    )));
                }
                CredibilityInput::Evidence => {
                    // Twenty claims with at most one piece of valid evidence of each of three
                    // streams.
                    let mut valid: BTreeMap<(u64, u64), Option<i64>> = BTreeMap::new();
                    let (mut claims, mut expires, mut diffs) = (Vec::new(), Vec::new(), Vec::new());
                    for at in when {
                        let of = (chance.below(20), chance.below(3));
                        let (expiry, diff) = match valid.remove(&of) {
                            Some(ended) => (ended, -1),
                            None => {
                                let expiry = at + chance.below(7_200) as i64 * SECOND;
                                let expiry = (chance.below(8) > 0).then_some(expiry);
                                valid.insert(of, expiry);
                                (expiry, 1)
                            }
                        };
                        claims.push(Some(format!("claim-{}", of.0)));
                        expires.push(expiry);
                        diffs.push(diff);
                    }
                    columns.push(Arc::new(StringArray::from(claims)));
                    columns.push(Arc::new(TimestampMicrosecondArray::from(expires).with_timezone("UTC")));
                    columns.push(Arc::new(Int64Array::from(diffs)));
                }
                CredibilityInput::Regions => {
                    columns.extend([texts("region-", 4, chance), times(when.into_iter())]);
                    columns.push(names(&["OK", "OK", "WARN", "CRITICAL"], chance));
                }
            }
            RecordBatch::try_new(Arc::new(Schema::new(input.fields())), columns).expect("its columns")
        };
        let kinds = vec![
            CredibilityInput::Drift,
            CredibilityInput::Correlations,
            CredibilityInput::Claims,
            CredibilityInput::Evidence,
            CredibilityInput::Regions,
        ];
        let inputs = kinds.iter().map(|kind| (rows_of(*kind), Exchange::Single)).collect();
        let expiring_within = Span::from_micros(1800 * SECOND).expect("positive");
        let config = CredibilityConfig { events_max: 50, events_span: Some(hour()), expiring_within };
        let case = Case {
            make: Box::new(move || Box::new(Credibility::new(config, kinds.clone()))),
            schema: Credibility::snapshot_output().0.schema,
            exchange: Exchange::Single,
            inputs,
            retention: None,
        };
        let sizes = check(&case, &[1, 2], seed);
        assert!(sizes.iter().all(|rows| *rows <= 4 + 50 + 9 + 4 + 20 + 60), "seed {seed}: {sizes:?}");
    }
}

#[test]
fn a_snapshot_does_not_grow_with_refreshes() {
    let sizes = [1_000, 4_000, 16_000].map(|rows| {
        let facts = evidence(rows, &mut Chance(7));
        let mut state = Expire::new(&facts.schema(), EXPIRE_COLUMNS);
        let end = Tick(*ticks_of(&facts).values().last().expect("rows")).next();
        state.advance(std::slice::from_ref(&facts), end);
        state.snapshot()[0].len()
    });
    assert!(sizes[2] < 2 * sizes[0], "{sizes:?}: sixteen times the evidence is of the same pieces");
}
