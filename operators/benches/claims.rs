//! How fast does evidence become the state of a claim? A million reports on 40,000 claims, through
//! expiry, quorum and drift.
//!
//! Each claim has three streams of different groups, each refreshed some eight times before it
//! expires. One report in five hundred has another value, one in a thousand is ineligible, one in a
//! hundred is late. Prints reports a second on one worker and on two; the same for ten times the
//! claims; the time from a report to the end of its claim's tick at 100,000 reports a second (p50
//! and p99, in groups of a thousand); and a hash of all claims, flips and drift: when the hash
//! moves, the change is not an optimisation. `cargo bench --profile release --workspace --bench
//! claims -- [DIVIDE [WORKERS]]` makes it smaller, or runs only with that many workers.

use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arrow::array::{
    ArrayRef, BooleanArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray, UInt32Array,
};
use arrow::compute::take_record_batch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use tidegate_facts::payload_schema::timestamp;
use tidegate_facts::{Digest, Span, Tick, columns};
use tidegate_operators::core::rows::{RowStream, Rows, partition_owner, ticks_of};
use tidegate_operators::core::tick_ordered::{Exchange, OperatorInput, OperatorOutput, run_in_tick_order};
use tidegate_operators::credibility::drift::operator::{
    Drift, input_exchange, input_fields, outputs as drift_outputs,
};
use tidegate_operators::credibility::drift::periods::PeriodConfig;
use tidegate_operators::credibility::drift::severity::Bounds;
use tidegate_operators::credibility::drift::{MeasureConfig, StatisticKind};
use tidegate_operators::credibility::quorum::{EvidenceColumns, Quorum, QuorumConfig, Requirement};
use tidegate_operators::temporal::expire::{Expire, ExpireColumns};
use timely::container::NoopBuilder;
use timely::dataflow::InputHandle;
use timely::dataflow::operators::{InspectCore, Probe};

const SECOND: i64 = 1_000_000;
const START: i64 = 1_767_225_600 * SECOND;
const PARTITIONS: u16 = 4;
const GROUPS: u64 = 200;
/// Every stream reports once in this time; its evidence is valid for 2.2 times as long.
const REFRESH: i64 = 450 * SECOND;

/// How many groups are fed ahead of the computation, so that workers need not wait for each other.
const AHEAD: usize = 4;

/// The reports of a group: as evidence, and as the input of three drift measures.
type Group = [RecordBatch; 4];

fn mixed(number: u64) -> u64 {
    let number = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    number ^ (number >> 31)
}

fn evidence_schema() -> SchemaRef {
    let text = |name: &str| Field::new(name, DataType::Utf8, false);
    let flag = |name: &str| Field::new(name, DataType::Boolean, false);
    Arc::new(Schema::new(vec![
        columns::tick_field(columns::TICK),
        text("stream"),
        Field::new("time", timestamp(), false),
        text("claim"),
        text("source"),
        text("value"),
        text("group"),
        flag("out_of_band"),
        flag("fit"),
        Field::new("ttl", DataType::Int64, false),
    ]))
}

/// Reports in the order of ticks, in groups.
fn groups(reports: u64, claims: u64, rows: usize) -> Vec<Group> {
    let streams = claims * 3;
    let mut tick = Tick::ZERO;
    let numbers: Vec<u64> = (0..reports).collect();
    let drift_schema = Arc::new(Schema::new(input_fields()));
    numbers
        .chunks(rows)
        .map(|numbers| {
            let mut ticks = Vec::new();
            let stream: Vec<u64> = numbers.iter().map(|number| mixed(number % streams) % streams).collect();
            let draw = |number: u64, purpose: u64, end: u64| mixed(number * 8 + purpose) % end;
            let mut times = Vec::new();
            for number in numbers {
                let now = START + (*number as i128 * i128::from(REFRESH) / i128::from(streams)) as i64;
                tick = Tick::following(tick, now, (number % u64::from(PARTITIONS)) as u16).expect("in range");
                ticks.push(tick.0);
                let late = if draw(*number, 0, 100) == 0 { draw(*number, 1, 120) } else { 0 } as i64;
                times.push(now - late * SECOND - 1);
            }
            let texts = |prefix: &str, of: &dyn Fn(usize) -> u64| -> ArrayRef {
                Arc::new(StringArray::from_iter_values(
                    (0..numbers.len()).map(|row| format!("{prefix}-{}", of(row))),
                ))
            };
            let ticks: ArrayRef = Arc::new(columns::TickArray::from(ticks));
            let times: ArrayRef = Arc::new(TimestampMicrosecondArray::from(times).with_timezone("UTC"));
            let names = texts("stream", &|row| stream[row]);
            let group = texts("group", &|row| mixed(stream[row]) % GROUPS);
            let ineligible = |row: usize| draw(numbers[row], 2, 1000) == 0;
            let whole = |of: &dyn Fn(usize) -> i64| -> ArrayRef {
                Arc::new(Int64Array::from_iter_values((0..numbers.len()).map(of)))
            };
            let flags = |of: &dyn Fn(usize) -> bool| -> ArrayRef {
                Arc::new((0..numbers.len()).map(|row| Some(of(row))).collect::<BooleanArray>())
            };
            let ttl = whole(&|_| REFRESH * 22 / 10);
            let evidence = vec![
                Arc::clone(&ticks),
                Arc::clone(&names),
                Arc::clone(&times),
                texts("claim", &|row| stream[row] / 3),
                texts("source", &|row| mixed(stream[row]) % 5000),
                texts("value", &|row| u64::from(draw(numbers[row], 3, 500) == 0)),
                Arc::clone(&group),
                flags(&|row| stream[row].is_multiple_of(3)),
                flags(&|row| !ineligible(row)),
                Arc::clone(&ttl),
            ];
            let measured = |key: &ArrayRef, value: ArrayRef| {
                let columns = [&ticks, key, &times, &value, &names].map(Arc::clone);
                RecordBatch::try_new(Arc::clone(&drift_schema), columns.to_vec()).expect("its columns")
            };
            let confidence = whole(&|row| 900_000 + draw(numbers[row], 4, 60_000) as i64);
            [
                RecordBatch::try_new(evidence_schema(), evidence).expect("its columns"),
                measured(&group, whole(&|row| i64::from(ineligible(row)))),
                measured(&texts("domain", &|row| stream[row] % 24), confidence),
                measured(&group, ttl),
            ]
        })
        .collect()
}

fn measures() -> Vec<MeasureConfig> {
    let kinds = [
        (StatisticKind::CorrelationDrift, 700_000, 900_000, false),
        (StatisticKind::ConfidenceVolatility, 150_000, 250_000, false),
        (StatisticKind::TtlCompression, 2_000_000, 1_000_000, true),
    ];
    let settings = kinds.into_iter().map(|(kind, yellow, red, falling)| MeasureConfig {
        name: kind.name().into(),
        kind,
        bounds: Bounds { yellow, red, falling },
        periods: PeriodConfig {
            width: Span::parse("15m").expect("a span"),
            slide: Span::parse("5m").expect("a span"),
            delay: 0,
            lateness_max: 300 * SECOND,
            rows_min: 10,
            warm_up: None,
        },
    });
    settings.collect()
}

fn quorum_config() -> QuorumConfig {
    QuorumConfig {
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
        declaration: None,
        families: None,
        default_requirement: Some(Requirement { n: 3, k: 2, groups: 2, out_of_band: false }),
        emits_votes: false,
        claim_fields: vec![Field::new("claim", DataType::Utf8, true)],
        types: [DataType::Utf8, DataType::Utf8, DataType::Utf8],
    }
}

/// The streams of claims, flips, votes, drift events and periods. A report waits for the first.
fn graph<'scope>(mut inputs: Vec<RowStream<'scope>>) -> Vec<RowStream<'scope>> {
    let measured = inputs.split_off(1);
    let evidence = inputs.pop().expect("the evidence");
    let schema = evidence_schema();
    let input_columns =
        ExpireColumns { key: 1, time: 2, ttl: 9, cancel: None, output_count: 9, ttl_max: None };
    let schemas = Expire::schemas(&schema, input_columns.output_count);
    let live_schema = Arc::clone(&schemas[0]);
    let outputs = schemas.map(|schema| OperatorOutput { schema, order: vec![1] }).into();
    let input = OperatorInput {
        rows: evidence,
        schema: Arc::clone(&schema),
        exchange: Exchange::Key(input_columns.key),
    };
    let live =
        run_in_tick_order(vec![input], outputs, Tick::ZERO, Expire::new(&schema, input_columns), "expire")
            .remove(0);
    let config = quorum_config();
    let outputs = config.outputs().into();
    let input = OperatorInput { rows: live, schema: live_schema, exchange: Exchange::Key(3) };
    let mut streams = run_in_tick_order(vec![input], outputs, Tick::ZERO, Quorum::new(config), "quorum");
    let schema = Arc::new(Schema::new(input_fields()));
    let measure_input =
        |rows| OperatorInput { rows, schema: Arc::clone(&schema), exchange: input_exchange() };
    let outputs = drift_outputs().into();
    let inputs = measured.into_iter().map(measure_input).collect();
    streams.extend(run_in_tick_order(inputs, outputs, Tick::ZERO, Drift::new(measures()), "drift"));
    streams
}

/// A worker's rows of a group.
fn own(rows: &RecordBatch, index: usize, workers: usize) -> RecordBatch {
    if workers == 1 {
        return rows.clone();
    }
    let ticks = ticks_of(rows).values().iter().enumerate();
    let own = ticks.filter(|(_, tick)| partition_owner(Tick(**tick).partition(), workers) == index);
    let own = UInt32Array::from_iter_values(own.map(|(row, _)| row as u32));
    take_record_batch(rows, &own).expect("rows of this batch")
}

/// The result of a run: its duration, how long each group waited, and the output batches.
struct Outcome {
    elapsed: Duration,
    waits: Vec<Duration>,
    outputs: Vec<(usize, RecordBatch)>,
}

/// Feeds the groups as fast as they are computed, or one every so often.
fn run(groups: &[Group], workers: usize, every: Option<Duration>) -> Outcome {
    let parts: Vec<Vec<(Tick, Group)>> = (0..workers)
        .map(|index| {
            let part = |group: &Group| {
                let last = ticks_of(&group[0]).values().last().copied().expect("a group has rows");
                (Tick(last).next(), group.each_ref().map(|rows| own(rows, index, workers)))
            };
            groups.iter().map(part).collect()
        })
        .collect();
    let (rows_sender, rows_receiver) = channel::<(usize, RecordBatch)>();
    let (wait_sender, wait_receiver) = channel::<Duration>();
    let senders: Mutex<(Sender<_>, Sender<_>)> = Mutex::new((rows_sender, wait_sender));
    let parts = Arc::new(parts);
    let config = if workers == 1 { timely::Config::thread() } else { timely::Config::process(workers) };
    let start = Instant::now();
    let guards = timely::execute(config, move |worker| {
        let (rows_sender, wait_sender) = senders.lock().expect("no panic").clone();
        let index = worker.index();
        let mut inputs: Vec<InputHandle<Tick, NoopBuilder<Rows>>> =
            (0..4).map(|_| InputHandle::new_with_builder()).collect();
        let dataflow = worker.next_dataflow_index();
        let probes: Vec<_> = worker.dataflow::<Tick, _, _>(|scope| {
            let streams = inputs.iter_mut().map(|input| input.to_stream(scope)).collect();
            let outputs = graph(streams).into_iter().enumerate();
            let seen = outputs.map(|(output, rows)| {
                let sender = rows_sender.clone();
                let seen = rows.inspect_container(move |event| {
                    if let Ok((_, rows)) = event {
                        sender.send((output, rows.0.clone())).expect("the bench waits");
                    }
                });
                seen.probe().0
            });
            seen.collect()
        });
        let start = Instant::now();
        for (number, (upper, group)) in parts[index].iter().enumerate() {
            let due = every.map(|every| every * number as u32);
            while due.is_some_and(|due| start.elapsed() < due) {
                worker.step();
            }
            for (input, rows) in inputs.iter_mut().zip(group) {
                if rows.num_rows() > 0 {
                    input.send_batch(&mut Rows(rows.clone()));
                }
                input.advance_to(*upper);
            }
            match due {
                None => {
                    let behind =
                        number.checked_sub(AHEAD).map_or(Tick::ZERO, |output| parts[index][output].0);
                    while probes[0].less_than(&behind) {
                        worker.step();
                    }
                }
                Some(due) => {
                    while probes[0].less_than(upper) {
                        worker.step();
                    }
                    wait_sender.send(start.elapsed() - due).expect("the bench waits");
                }
            }
        }
        let end = parts[index].last().expect("groups").0;
        while probes.iter().any(|probe| probe.less_than(&end)) {
            worker.step();
        }
        // The end of input is not the end of time: later expiries and closes do not happen.
        worker.drop_dataflow(dataflow);
    });
    drop(guards.expect("workers start"));
    let elapsed = start.elapsed();
    Outcome {
        elapsed,
        waits: wait_receiver.try_iter().collect(),
        outputs: rows_receiver.try_iter().collect(),
    }
}

/// A hash of all rows, independent of workers and batches.
fn hash(outputs: &[(usize, RecordBatch)]) -> u64 {
    let options = FormatOptions::default().with_null("-");
    let mut sum = 0_u64;
    for (output, rows) in outputs {
        let cells: Vec<_> = rows
            .columns()
            .iter()
            .map(|column| ArrayFormatter::try_new(column.as_ref(), &options).expect("any column has a text"))
            .collect();
        for row in 0..rows.num_rows() {
            let mut line = output.to_string();
            cells.iter().for_each(|cell| line += &format!("|{}", cell.value(row)));
            let digest = Digest::of(line.as_bytes()).0;
            sum = sum.wrapping_add(u64::from_le_bytes(digest[..8].try_into().expect("8 bytes")));
        }
    }
    sum
}

fn main() {
    let numbers: Vec<u64> = std::env::args().filter_map(|arg| arg.parse().ok()).collect();
    // Cargo passes this flag when it measures; a test is small.
    let is_measured = std::env::args().any(|arg| arg == "--bench");
    let divide = numbers.first().copied().unwrap_or(if is_measured { 1 } else { 50 }).max(1);
    let (reports, claims) = (1_000_000 / divide, 40_000 / divide);
    let rounds = if divide > 1 { 1 } else { 3 };
    let is_selected = |workers: u64| numbers.get(1).is_none_or(|only| *only == workers);
    let mut hashes = Vec::new();
    for (claims, workers) in [(claims, 1), (claims, 2), (claims * 10, 1)] {
        if !is_selected(workers) {
            continue;
        }
        let groups = groups(reports, claims, 8_192);
        let best = (0..rounds).map(|_| run(&groups, workers as usize, None));
        let best = best.min_by_key(|outcome| outcome.elapsed).expect("a round");
        let rate = reports as f64 / best.elapsed.as_secs_f64();
        let hash = hash(&best.outputs);
        let rows: usize = best.outputs.iter().map(|(_, rows)| rows.num_rows()).sum();
        println!(
            "{reports} reports, {claims} claims, {workers} workers: {rate:.0}/s, {rows} rows, hash {hash:016x}"
        );
        hashes.push((claims, hash));
    }
    let groups = groups(reports, claims, 1_000);
    for workers in (1..=2).filter(|workers| is_selected(*workers)) {
        let mut paced = run(&groups, workers as usize, Some(Duration::from_millis(10)));
        paced.waits.sort();
        let at = |share: usize| paced.waits[(paced.waits.len() * share / 100).min(paced.waits.len() - 1)];
        println!("at 100,000/s, {workers} workers: p50 {:?}, p99 {:?}", at(50), at(99));
        hashes.push((claims, hash(&paced.outputs)));
    }
    let of_all: Vec<u64> = hashes.iter().filter(|(of, _)| *of == claims).map(|(_, hash)| *hash).collect();
    assert!(of_all.windows(2).all(|two| two[0] == two[1]), "workers and groups must not change the rows");
}
