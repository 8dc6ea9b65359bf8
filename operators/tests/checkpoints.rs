//! A state that is put down at a tick and taken up again, by as many workers as one likes, says from then on what one says that was
//! never put down; and what is put down is as large as the state, not as what it heard.

mod chance;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
    UInt32Array, UInt64Array,
};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimestampMicrosecondType};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use chance::Chance;
use tidegate_facts::{Span, Tick, columns};
use tidegate_operators::checkpointed::{Checkpointed, Lasting};
use tidegate_operators::credibility::Settings as Credible;
use tidegate_operators::credibility::stream::{Credibility, Reads, put_down_schema as credibility_schema};
use tidegate_operators::drift::periods::Shape as Periods;
use tidegate_operators::drift::severity::Bounds;
use tidegate_operators::drift::stream::{Drift, KEY, input_fields, put_down_schema as drift_schema};
use tidegate_operators::drift::{Kind, Settings};
use tidegate_operators::expire::{Expire, Places};
use tidegate_operators::families::{Learn, Learning, Places as FamilyPlaces};
use tidegate_operators::keys::{keys_of, owner};
use tidegate_operators::ordered::{Ordered, Route};
use tidegate_operators::quorum::{Declared, Evidences, Memberships, Need, Quorum, Shape};
use tidegate_operators::rows::ticks_of;

const SECOND: i64 = 1_000_000;
const START: i64 = 1_000_000 * SECOND;
const PARTITIONS: u16 = 4;

/// A state, and what it hears.
struct Case {
    make: Box<dyn Fn() -> Box<dyn Lasting>>,
    schema: SchemaRef,
    /// Where what was put down goes.
    route: Route,
    inputs: Vec<(RecordBatch, Route)>,
    /// For how long, in microseconds of event time (the third column), rows of before are heard again; where it is not said, none of
    /// those that go by key are.
    retention: Option<i64>,
}

/// Lines that were given by each output, those put down last; in order.
type Given = Vec<Vec<String>>;

fn part(rows: &RecordBatch, route: Route, worker: usize, workers: usize) -> RecordBatch {
    let keys = match route {
        Route::Key(column) => keys_of(rows.column(column)),
        Route::One if worker > 0 => return rows.slice(0, 0),
        Route::One | Route::All => return rows.clone(),
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
    let ticks: ArrayRef = Arc::new(UInt64Array::from_iter_values(boundaries.iter().map(|tick| tick.0)));
    RecordBatch::try_from_iter([(columns::TICK, ticks)]).expect("one column")
}

/// What is given from `restored` on, of which `before` was put down, in intervals that chance draws.
fn run(
    case: &Case,
    workers: usize,
    boundaries: &[Tick],
    (restored, before): (Tick, &RecordBatch),
    end: Tick,
    chance: &mut Chance,
) -> (Given, RecordBatch) {
    let mut given: Given = Vec::new();
    let mut put_down = Vec::new();
    for worker in 0..workers {
        let own = case.inputs.iter().map(|(rows, route)| part(rows, *route, worker, workers));
        let own: Vec<RecordBatch> = own.collect();
        let mut state = Checkpointed::new((case.make)(), Arc::clone(&case.schema), restored);
        let mut lower = Tick::ZERO;
        let bounds = boundary_rows(boundaries);
        while lower < end {
            let step = chance.below(400) as i64 * SECOND * i64::from(chance.below(9) > 0) * 20;
            let later =
                Tick::new(lower.micros().max(START) + step, chance.below(4) as u16).expect("in range");
            let upper = if lower < restored { restored } else { later.max(lower.next()).min(end) };
            let mut inputs: Vec<RecordBatch> = own.iter().map(|rows| between(rows, lower, upper)).collect();
            if lower < restored {
                for (rows, (_, route)) in inputs.iter_mut().zip(&case.inputs) {
                    *rows = heard_again(rows, *route, case.retention.map(|span| restored.micros() - span));
                }
            }
            inputs.push(between(&bounds, lower, upper));
            let taken = part(before, case.route, worker, workers);
            inputs.push(if lower == Tick::ZERO { taken } else { taken.slice(0, 0) });
            let said = state.advance(&inputs, upper);
            given.resize(said.len(), Vec::new());
            given.iter_mut().zip(&said).for_each(|(all, said)| all.extend(lines(said, restored)));
            put_down.extend(said.last().cloned());
            lower = upper;
        }
    }
    given.iter_mut().for_each(|lines| lines.sort());
    (given, concat_batches(&case.schema, &put_down).expect("one schema"))
}

/// What a checkpoint has of rows of before.
fn heard_again(rows: &RecordBatch, route: Route, from: Option<i64>) -> RecordBatch {
    let Some(from) = from else {
        // What all workers hear is heard again.
        return if route == Route::All { rows.clone() } else { rows.slice(0, 0) };
    };
    let times = rows.column(2).as_primitive::<TimestampMicrosecondType>().values();
    let kept = (0..rows.num_rows()).filter(|row| times[*row] >= from).map(|row| row as u32);
    take_record_batch(rows, &UInt32Array::from_iter_values(kept)).expect("its own rows")
}

/// Puts a state down and takes it up again; gives how many rows were put down at each boundary.
fn check(case: &Case, workers: &[usize], seed: u64) -> Vec<usize> {
    let chance = &mut Chance(seed);
    let last = case.inputs.iter().filter_map(|(rows, _)| ticks_of(rows).values().last().copied()).max();
    let end = Tick(last.expect("rows")).next();
    let span = end.micros() - START;
    let boundaries: Vec<Tick> =
        (1..=4).map(|part| Tick::new(START + span * part / 5, 0).expect("in range")).collect();
    let nothing = RecordBatch::new_empty(Arc::clone(&case.schema));
    let (whole, put_down) = run(case, 1, &boundaries, (Tick::ZERO, &nothing), end, chance);
    assert!(whole.iter().rev().skip(1).any(|lines| lines.len() > 100), "seed {seed}: something is given");
    for restored in &boundaries {
        let before = between(&put_down, *restored, restored.next());
        for workers in workers {
            let (again, _) = run(case, *workers, &boundaries, (*restored, &before), end, chance);
            for (place, (whole, again)) in whole.iter().zip(&again).enumerate() {
                let from = |line: &&String| {
                    line.split('|')
                        .next()
                        .and_then(|tick| tick.parse().ok())
                        .is_some_and(|tick: u64| tick >= restored.0)
                };
                let whole: Vec<&String> = whole.iter().filter(from).collect();
                let again: Vec<&String> = again.iter().collect();
                let differs = whole.iter().zip(&again).position(|(one, other)| one != other);
                assert!(
                    whole == again,
                    "seed {seed}, {workers} workers, from {restored:?}, output {place}: {} lines and {}, from {:?}",
                    whole.len(),
                    again.len(),
                    differs.map(|at| (whole[at], again[at])),
                );
            }
        }
    }
    boundaries.iter().map(|boundary| between(&put_down, *boundary, boundary.next()).num_rows()).collect()
}

fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    let fields = columns.iter().enumerate();
    let fields =
        fields.map(|(place, (name, column))| Field::new(*name, column.data_type().clone(), place > 0));
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

/// So many ticks, about `gap` seconds apart, and event times a little before them.
fn moments(rows: usize, gap: u64, chance: &mut Chance) -> (ArrayRef, Vec<i64>) {
    let mut tick = Tick::new(START, 0).expect("in range");
    let (mut ticks, mut times) = (Vec::new(), Vec::new());
    for _ in 0..rows {
        let now = tick.micros() + (chance.below(2 * gap) as i64) * SECOND;
        tick = Tick::following(tick, now, chance.below(PARTITIONS.into()) as u16).expect("in range");
        ticks.push(tick.0);
        times.push(tick.micros() - chance.below(30) as i64 * SECOND);
    }
    (Arc::new(UInt64Array::from(ticks)), times)
}

/// Evidence of eight streams for twelve claims: tick, claim, time, stream, value, fit, time to live, cancelled. Two streams say the same
/// odd things.
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

const PLACES: Places = Places { key: 1, time: 2, ttl: 9, cancel: Some(10), given: 9, longest: None };

fn expire_case(rows: &RecordBatch) -> Case {
    let schema = rows.schema();
    let put_down = Expire::put_down_schema(&schema, PLACES.given);
    Case {
        make: Box::new(move || Box::new(Expire::new(&schema, PLACES))),
        schema: put_down,
        route: Route::Key(1),
        inputs: vec![(rows.clone(), Route::Key(1))],
        retention: None,
    }
}

fn hour() -> Span {
    Span::parse("1h").expect("a span")
}

fn learn() -> Learn {
    Learn { period: hour(), alike: 300_000, bits: 2, weighs: true }
}

const FAMILY_PLACES: FamilyPlaces = FamilyPlaces { claim: 3, stream: 4, value: 5, time: 2 };

#[test]
fn what_lives_and_what_is_cancelled_is_put_down_and_not_what_lived() {
    for seed in 0..6 {
        let rows = evidence(2_500, &mut Chance(seed));
        let put_down = check(&expire_case(&rows), &[1, 3], seed);
        assert!(put_down.iter().all(|rows| *rows > 0 && *rows <= 2 * 96), "seed {seed}: {put_down:?}");
    }
}

#[test]
fn families_go_on_in_the_middle_of_a_round() {
    for seed in 0..6 {
        let rows = evidence(2_500, &mut Chance(seed));
        let schema = rows.schema();
        let case = Case {
            schema: Learning::put_down_schema(&schema, FAMILY_PLACES),
            make: Box::new(move || Box::new(Learning::new(&schema, FAMILY_PLACES, learn()))),
            route: Route::One,
            inputs: vec![(rows, Route::One)],
            retention: None,
        };
        let put_down = check(&case, &[1, 2], seed);
        // The votes of a round, pairs and streams, and the round.
        assert!(put_down.iter().all(|rows| *rows <= 96 + 2 * 28 + 8 + 1), "seed {seed}: {put_down:?}");
    }
}

/// What is given of some rows by the first output of a state.
fn said_of(mut state: impl Ordered, rows: &RecordBatch) -> RecordBatch {
    let end = Tick(*ticks_of(rows).values().last().expect("rows")).next();
    state.advance(std::slice::from_ref(rows), end).remove(0)
}

#[test]
fn a_claim_takes_back_what_it_said_before_it_was_put_down() {
    for seed in 0..12 {
        let chance = &mut Chance(seed);
        let facts = evidence(2_500, chance);
        let living = said_of(Expire::new(&facts.schema(), PLACES), &facts);
        let families = said_of(Learning::new(&facts.schema(), FAMILY_PLACES, learn()), &facts);
        assert!(families.num_rows() > 20, "seed {seed}: families change");
        let is_declared = seed % 2 == 0;
        let (ticks, _) = moments(150, 200, chance);
        let need: Vec<[i64; 4]> =
            (0..150).map(|_| [12, 3, 4, 3].map(|end| chance.below(end) as i64)).collect();
        let column = |of: fn(&[i64; 4]) -> i64| -> ArrayRef {
            Arc::new(Int64Array::from_iter_values(need.iter().map(of)))
        };
        let declared = batch(vec![
            (columns::TICK, ticks),
            ("claim", column(|need| need[0])),
            ("n", column(|need| need[1] + 2)),
            ("k", column(|need| need[1] + 1)),
            ("groups", column(|need| need[2])),
            ("out_of_band", Arc::new(need.iter().map(|need| Some(need[3] == 0)).collect::<BooleanArray>())),
            ("title", texts(need.iter().map(|need| Some(format!("title {}", need[3]))))),
        ]);
        let place = |rows: &RecordBatch, name: &str| rows.schema().index_of(name).expect("a column");
        let claim = Field::new("claim", DataType::Int64, true);
        let shape = Shape {
            evidence: Evidences {
                claim: 3,
                stream: 4,
                value: 5,
                time: 2,
                group: Some(6),
                out_of_band: Some(7),
                is_fit: Some(8),
                expires: Some(9),
                diff: Some(10),
                kept: vec![3],
            },
            declared: is_declared.then(|| Declared {
                claim: 1,
                numbers: [2, 3, 4],
                out_of_band: 5,
                diff: None,
                kept: vec![1, 6],
            }),
            families: Some(Memberships {
                stream: place(&families, "stream"),
                family: place(&families, "family"),
                kin: place(&families, "kin"),
                weight: place(&families, "weight"),
                diff: place(&families, columns::DIFF),
            }),
            need: (!is_declared).then_some(Need { n: 3, k: 2, groups: 2, out_of_band: false }),
            tells_votes: true,
            claim: if is_declared {
                vec![claim, Field::new("title", DataType::Utf8, true)]
            } else {
                vec![claim]
            },
            types: [DataType::Utf8, DataType::Utf8, DataType::Utf8],
        };
        let mut inputs = vec![(living, Route::Key(3))];
        inputs.extend(is_declared.then_some((declared, Route::Key(1))));
        inputs.push((families, Route::All));
        let case = Case {
            schema: shape.put_down().0,
            make: Box::new(move || Box::new(Quorum::new(shape.clone()))),
            route: Route::Key(1),
            inputs,
            retention: None,
        };
        let put_down = check(&case, &[1, 2, 3], seed);
        // A row a claim, and one for each of its streams, or two where a stream has several living pieces.
        assert!(put_down.iter().all(|rows| *rows <= 12 + 96 * 2), "seed {seed}: {put_down:?}");
    }
}

#[test]
fn drift_is_held_against_a_first_period_that_is_long_forgotten() {
    let span = |minutes: i64| Span::from_micros(minutes * 60 * SECOND).expect("positive");
    let kinds =
        [(Kind::TimingEntropy, 100_000), (Kind::Psi(None), 50_000), (Kind::KolmogorovSmirnov(None), 50_000)];
    let settings: Vec<Settings> = kinds
        .into_iter()
        .map(|(kind, yellow)| Settings {
            name: kind.name().into(),
            kind,
            bounds: Bounds { yellow, red: yellow * 2, falling: false },
            periods: Periods {
                width: span(60),
                slide: span(20),
                delay: 0,
                lateness_max: 600 * SECOND,
                rows_min: 3,
                // One is held against a period of the second day.
                settles: (yellow == 100_000).then(|| span(1440)),
            },
        })
        .collect();
    for seed in 0..4 {
        let chance = &mut Chance(seed);
        // Four days, so that a day and a half is far less than all.
        let (ticks, when) = moments(3_500, 100, chance);
        let keys = texts(when.iter().map(|_| Some(format!("key-{}", chance.below(6)))));
        let values = Int64Array::from_iter_values(when.iter().map(|_| chance.below(900_000) as i64));
        let members = texts(when.iter().map(|_| Some(format!("member-{}", chance.below(4)))));
        let columns = vec![ticks, keys, times(when.into_iter()), Arc::new(values), members];
        let rows = RecordBatch::try_new(Arc::new(Schema::new(input_fields())), columns).expect("its columns");
        let retention = settings[0].periods.retention();
        let span = ticks_of(&rows).values();
        assert!(Tick(span[span.len() - 1]).micros() - START > 3 * retention, "most is forgotten");
        let settings = settings.clone();
        let case = Case {
            inputs: settings.iter().map(|_| (rows.clone(), Route::Key(KEY))).collect(),
            make: Box::new(move || Box::new(Drift::new(settings.clone()))),
            schema: drift_schema(),
            route: Route::Key(1),
            retention: Some(retention),
        };
        let put_down = check(&case, &[1, 3], seed);
        assert_eq!(put_down, [18; 4], "seed {seed}: a reference for each measure and key");
    }
}

#[test]
fn the_index_is_taken_up_with_all_that_is_due() {
    for seed in 0..8 {
        let chance = &mut Chance(seed);
        let rows = 3_000;
        let mut input = |reads: Reads| {
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
            match reads {
                Reads::Drift => {
                    columns.extend([texts("event-", 400, chance), times(when.into_iter())]);
                    columns.push(names(&["critical", "high", "medium", "low", ""], chance));
                    columns.push(texts("event-", 400, chance));
                }
                Reads::Correlations => {
                    // Of periods of an hour.
                    let ends = when.into_iter().map(|at| at - at % (3600 * SECOND));
                    columns.extend([texts("group-", 9, chance), times(ends)]);
                    columns.push(Arc::new(Int64Array::from_iter_values(
                        (0..rows).map(|_| chance.below(1_000_000) as i64),
                    )));
                }
                Reads::Claims => {
                    let mut flags = || -> ArrayRef {
                        Arc::new((0..rows).map(|_| Some(chance.below(3) == 0)).collect::<BooleanArray>())
                    };
                    columns.extend([flags(), times(when.into_iter()), flags()]);
                    columns.push(Arc::new(Int64Array::from_iter_values(
                        (0..rows).map(|_| chance.below(2) as i64 * 2 - 1),
                    )));
                }
                Reads::Evidence => {
                    // Of twenty claims, the living piece of each of three streams; a third is refreshed by nothing.
                    let mut living: BTreeMap<(u64, u64), Option<i64>> = BTreeMap::new();
                    let (mut claims, mut expires, mut diffs) = (Vec::new(), Vec::new(), Vec::new());
                    for at in when {
                        let of = (chance.below(20), chance.below(3));
                        let said = match living.remove(&of) {
                            Some(ended) => (ended, -1),
                            None => {
                                let ends = at + chance.below(7_200) as i64 * SECOND;
                                let ends = (chance.below(8) > 0).then_some(ends);
                                living.insert(of, ends);
                                (ends, 1)
                            }
                        };
                        claims.push(Some(format!("claim-{}", of.0)));
                        expires.push(said.0);
                        diffs.push(said.1);
                    }
                    columns.push(Arc::new(StringArray::from(claims)));
                    columns.push(Arc::new(TimestampMicrosecondArray::from(expires).with_timezone("UTC")));
                    columns.push(Arc::new(Int64Array::from(diffs)));
                }
                Reads::Regions => {
                    columns.extend([texts("region-", 4, chance), times(when.into_iter())]);
                    columns.push(names(&["OK", "OK", "WARN", "CRITICAL"], chance));
                }
            }
            RecordBatch::try_new(Arc::new(Schema::new(reads.fields())), columns).expect("its columns")
        };
        let reads = vec![Reads::Drift, Reads::Correlations, Reads::Claims, Reads::Evidence, Reads::Regions];
        let inputs = reads.iter().map(|reads| (input(*reads), Route::One)).collect();
        let short = Span::from_micros(1800 * SECOND).expect("positive");
        let settings = Credible { events_max: 50, events_span: Some(hour()), short };
        let case = Case {
            make: Box::new(move || Box::new(Credibility::new(settings, reads.clone()))),
            schema: credibility_schema(),
            route: Route::One,
            inputs,
            retention: None,
        };
        let put_down = check(&case, &[1, 2], seed);
        assert!(put_down.iter().all(|rows| *rows <= 4 + 50 + 9 + 4 + 20 + 60), "seed {seed}: {put_down:?}");
    }
}

#[test]
fn what_is_put_down_does_not_grow_with_refreshes() {
    let sizes = [1_000, 4_000, 16_000].map(|rows| {
        let facts = evidence(rows, &mut Chance(7));
        let mut state = Expire::new(&facts.schema(), PLACES);
        let end = Tick(*ticks_of(&facts).values().last().expect("rows")).next();
        state.advance(std::slice::from_ref(&facts), end);
        state.put_down()[0].len()
    });
    assert!(sizes[2] < 2 * sizes[0], "{sizes:?}: sixteen times the evidence is of the same pieces");
}
