//! How fast does evidence pass through `expire` and `quorum`, and does it matter how many claims there are?
//!
//! A million facts over 40,000 claims of five streams each, refreshed in turn, one in twenty soon to expire, one in fifty a lie;
//! then the same over 400,000 claims, which should cost as much per fact. Prints facts/s for each, and a sum over the flips'
//! digests, which neither batches nor workers move.
//!
//!     cargo run --release --workspace --example evidence_speed [WORKERS] [BATCH]

use std::sync::{Arc, Mutex};
use std::time::Instant;

use arrow::array::{
    ArrayRef, AsArray, Int64Array, RecordBatch, TimestampMicrosecondArray, UInt32Array, UInt64Array,
};
use arrow::compute::take_record_batch;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use tidegate_facts::digest::key_hash;
use tidegate_facts::schema::timestamp;
use tidegate_facts::{Tick, columns};
use tidegate_operators::expire::{Expire, Places};
use tidegate_operators::ordered::{Input, Output, Route, ordered};
use tidegate_operators::quorum::{Evidences, Need, Quorum, Shape};
use tidegate_operators::rows::{Rows, home, ticks_of};
use timely::WorkerConfig;
use timely::container::NoopBuilder;
use timely::dataflow::InputHandle;
use timely::dataflow::operators::{InspectCore, Probe, probe};

const FACTS: i64 = 1_000_000;
const STREAMS: i64 = 5;
const PARTITIONS: i64 = 4;
const TTL: i64 = 900_000_000;

fn schema() -> SchemaRef {
    let number = |name: &str| Field::new(name, DataType::Int64, true);
    Arc::new(Schema::new(vec![
        Field::new(columns::TICK, DataType::UInt64, false),
        number("evidence"),
        Field::new("time", timestamp(), true),
        number("claim"),
        number("stream"),
        number("value"),
        number("group"),
        number("ttl"),
    ]))
}

/// Facts whose event times are so far apart that each piece is refreshed once in nine tenths of its time to live.
fn facts(first: i64, many: i64, claims: i64) -> RecordBatch {
    let pieces = claims * STREAMS;
    let step = TTL * 9 / 10 / pieces;
    let places = || first..first + many;
    let piece = |place: i64| place * 7_919 % pieces;
    let time = |place: i64| 1_000_000_000 + place * step;
    let number =
        |of: &dyn Fn(i64) -> i64| -> ArrayRef { Arc::new(Int64Array::from_iter_values(places().map(of))) };
    let ticks = places().map(|p| Tick::new(time(p), (p % PARTITIONS) as u16).expect("in range").0);
    let times = TimestampMicrosecondArray::from_iter_values(places().map(time));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(UInt64Array::from_iter_values(ticks)),
        number(&piece),
        Arc::new(times.with_timezone("UTC")),
        number(&|p| piece(p) / STREAMS),
        number(&|p| piece(p) % STREAMS),
        number(&|p| if p % 50 == 0 { p % 3 } else { 7 }),
        number(&|p| piece(p) % STREAMS / 2),
        number(&|p| if p % 20 == 0 { TTL / 10 } else { TTL }),
    ];
    RecordBatch::try_new(schema(), columns).expect("the columns are the schema's")
}

fn shape() -> Shape {
    Shape {
        evidence: Evidences {
            claim: 3,
            stream: 4,
            value: 5,
            time: 2,
            group: Some(6),
            out_of_band: None,
            is_fit: None,
            expires: Some(7),
            diff: Some(8),
            kept: vec![3],
        },
        declared: None,
        families: None,
        need: Some(Need { n: 5, k: 3, groups: 2, out_of_band: false }),
        tells_votes: false,
        claim: vec![Field::new("claim", DataType::Int64, true)],
        types: [DataType::Int64, DataType::Int64, DataType::Int64],
    }
}

/// How many flips, and the sum of their digests.
type Flips = Arc<Mutex<(u64, u128)>>;

fn add_up(flips: &Flips, rows: &RecordBatch) {
    let mut flips = flips.lock().expect("no panic");
    let claims = rows.column(1).as_primitive::<Int64Type>();
    let status = rows.column_by_name("status").expect("flips have it").as_string::<i32>();
    for (row, tick) in ticks_of(rows).values().iter().enumerate() {
        let text = format!("{tick} {} {}", claims.value(row), status.value(row));
        *flips = (flips.0 + 1, flips.1.wrapping_add(key_hash("flip", text.as_bytes())));
    }
}

/// Seconds, flips, and the sum of their digests.
fn run(claims: i64, workers: usize, batch: i64) -> (f64, u64, u128) {
    let of_batch = |at: i64| {
        let rows = facts(at, batch.min(FACTS - at), claims);
        let at_home = |worker: usize| {
            let mine = (0..rows.num_rows() as u32)
                .filter(|row| home(((at + i64::from(*row)) % PARTITIONS) as u16, workers) == worker);
            take_record_batch(&rows, &UInt32Array::from_iter_values(mine)).expect("places of the batch")
        };
        let last = ticks_of(&rows).values().last().expect("some rows");
        (Tick(*last).next(), (0..workers).map(at_home).collect::<Vec<_>>())
    };
    let batches: Arc<Vec<_>> = Arc::new((0..FACTS).step_by(batch as usize).map(of_batch).collect());
    let flips = Flips::default();
    let counted = Arc::clone(&flips);
    let communication = match workers {
        1 => timely::CommunicationConfig::Thread,
        _ => timely::CommunicationConfig::Process(workers),
    };
    let config = timely::Config { communication, worker: WorkerConfig::default() };
    let from = Instant::now();
    let guards = timely::execute(config, move |worker| {
        let index = worker.index();
        let mut input = InputHandle::<Tick, NoopBuilder<Rows>>::new_with_builder();
        let computed = probe::Handle::new();
        let counted = Arc::clone(&counted);
        worker.dataflow::<Tick, _, _>(|scope| {
            let rows = input.to_stream(scope);
            let places = Places { key: 1, time: 2, ttl: 7, cancel: None, given: 7 };
            let schemas = Expire::schemas(&schema(), places.given);
            let living_schema = Arc::clone(&schemas[0]);
            let outputs = schemas.into_iter().map(|schema| Output { schema, order: vec![1] }).collect();
            let heard = Input { rows, schema: schema(), route: Route::Key(1) };
            let expire = Expire::new(&schema(), places);
            let living = ordered(vec![heard], outputs, Tick::ZERO, expire, "expire").swap_remove(0);
            let heard = Input { rows: living, schema: living_schema, route: Route::Key(3) };
            let outputs = shape().schemas().into_iter().zip(shape().orders());
            let outputs = outputs.map(|(schema, order)| Output { schema, order }).collect();
            let given = ordered(vec![heard], outputs, Tick::ZERO, Quorum::new(shape()), "quorum");
            let mut given = given.into_iter();
            given.next().expect("claims").probe_with(&computed);
            let flips = given.next().expect("flips").inspect_container(move |event| {
                if let Ok((_, rows)) = event {
                    add_up(&counted, &rows.0);
                }
            });
            flips.probe_with(&computed);
        });
        for (at, (upper, rows)) in batches.iter().enumerate() {
            input.send_batch(&mut Rows(rows[index].clone()));
            input.advance_to(*upper);
            // A few batches may be on their way.
            if let Some((behind, _)) = at.checked_sub(4).map(|at| &batches[at]) {
                worker.step_while(|| computed.less_than(behind));
            }
        }
        worker.step_while(|| computed.less_than(input.time()));
        input.close();
    });
    drop(guards.expect("workers"));
    let took = from.elapsed().as_secs_f64();
    let (many, sum) = *flips.lock().expect("no panic");
    (took, many, sum)
}

fn main() {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse().expect("a number"));
    let workers: usize = arguments.next().unwrap_or(2);
    let batch = arguments.next().unwrap_or(8_192) as i64;
    let mut first = None;
    for claims in [40_000, 400_000] {
        let (took, flips, sum) = run(claims, workers, batch);
        let rate = FACTS as f64 / took;
        let cost = *first.get_or_insert(rate) / rate;
        println!(
            "{claims} claims, {workers} workers, batches of {batch}: {rate:.0} facts/s, {cost:.2} times the cost per fact; {flips} flips, {sum:032x}"
        );
    }
}
