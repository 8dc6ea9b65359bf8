//! Tidegate's side of each stage, and the rounds in which both sides take turns.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Decimal128Array, Int32Array, RecordBatch,
    TimestampMicrosecondArray,
};
use arrow::datatypes::{
    DataType, Field, Float64Type, Int32Type, Int64Type, Schema, TimestampMicrosecondType,
};
use tidegate_dataflows::Plan;
use tidegate_dataflows::ingest::admission::Admission;
use tidegate_dataflows::ingest::reorder::{Reorder, ResumePoint};
use tidegate_dataflows::metrics::RunMetrics;
use tidegate_dataflows::run::{Options, run};
use tidegate_dataflows::topology::{Clock, Override};
use tidegate_dedupe::DedupeIndex;
use tidegate_facts::payload_schema::timestamp;
use tidegate_facts::{Digest, Span, Tick, columns};
use tidegate_host::{Host, SeededRandom};
use tidegate_operators::core::rows::{Rows, partition_owner};
use tidegate_operators::gate::{GatePolicy, TimeBounds, Validated, Validator};
use tidegate_operators::temporal::timeline::MeasureLayout as Kept;
use tidegate_operators::temporal::windows::{Aggregate, WindowGroup, WindowPlan, windows};
use tidegate_sinks::commits::Commits;
use tidegate_sinks::log::{Group, LogFolder, LogOptions, LogWriter};
use tidegate_sinks::sequencer::Sequencer;
use tidegate_sinks::store::Store;
use timely::container::NoopBuilder;
use timely::dataflow::InputHandle;
use timely::dataflow::operators::{InspectCore, Probe};

use crate::Measure;
use crate::baseline::{self, decoded_hash};
use crate::workload::{LABEL_DELAY, Payment, Size, payments, push_label, push_payment, write_lines};

/// The names of all stages that the benches measure.
pub const NAMES: [&str; 7] =
    ["windows", "windows-10x-keys", "windows-10x-history", "log", "decode", "gate", "job"];

const POLICY: &str = include_str!("../../dataflows/policies/card-gate.toml");
const RULES: &str = include_str!("../../dataflows/policies/card-rules.toml");
const TOPOLOGY: &str = include_str!("../topologies/cards.toml");
const BATCH_ROWS: usize = 8_192;

/// Measures one stage: Tidegate's side and the hand-written loop take turns.
///
/// # Errors
/// A sentence when it could not be run.
pub fn measure(stage: &str, divide: u32) -> Result<Vec<Measure>, String> {
    let rounds = if divide > 1 { 1 } else { 3 };
    let over_windows = |size: Size, workers: &[usize]| {
        let payments = payments(size.divided(divide));
        let measures = workers.iter().map(|workers| {
            let groups = window_groups(&payments, *workers);
            take_turns(
                stage,
                *workers,
                payments.len(),
                rounds,
                || windows_stage(&groups, *workers),
                || Ok(baseline::windows(&payments)),
            )
        });
        measures.collect()
    };
    match stage {
        "windows" => over_windows(Size::STANDARD, &[1, 2]),
        "windows-10x-keys" => over_windows(Size::TEN_TIMES_KEYS, &[1]),
        "windows-10x-history" => over_windows(Size::TEN_TIMES_HISTORY, &[1]),
        "log" => log_stage(divide, rounds).map(|measure| vec![measure]),
        "decode" => {
            let text = lines(divide);
            let count = text.lines().count();
            take_turns(
                stage,
                1,
                count,
                rounds,
                || Ok(decode_stage(&text)),
                || Ok(baseline::decode_all(&text)),
            )
            .map(|m| vec![m])
        }
        "gate" => {
            let text = lines(divide);
            let count = text.lines().count();
            take_turns(stage, 1, count, rounds, || gate_stage(&text), || Ok(baseline::gate(&text)))
                .map(|m| vec![m])
        }
        _ => job_stage(divide, rounds),
    }
}

/// Runs both sides in turns, and keeps the best time of each.
fn take_turns(
    stage: &str,
    workers: usize,
    rows: usize,
    rounds: usize,
    mut ours: impl FnMut() -> Result<u64, String>,
    mut theirs: impl FnMut() -> Result<u64, String>,
) -> Result<Measure, String> {
    let mut best = [Duration::MAX; 2];
    let mut hashes = [0; 2];
    for _ in 0..rounds {
        for side in 0..2 {
            let from = Instant::now();
            hashes[side] = if side == 0 { theirs()? } else { ours()? };
            best[side] = best[side].min(from.elapsed());
        }
    }
    Ok(compared(stage, workers, rows as u64, [best[1], best[0]], [hashes[1], hashes[0]]))
}

fn compared(
    stage: &str,
    workers: usize,
    rows: u64,
    [ours, theirs]: [Duration; 2],
    [hash, baseline]: [u64; 2],
) -> Measure {
    let rate = |time: Duration| rows as f64 / time.as_secs_f64();
    Measure {
        stage: stage.to_owned(),
        workers,
        rows,
        rows_per_s: rate(ours),
        baseline_rows_per_s: rate(theirs),
        ratio: rate(ours) / rate(theirs),
        hash: format!("{hash:016x}"),
        baseline_hash: format!("{baseline:016x}"),
    }
}

/// The decoded input of Tidegate's windows stage: for each group its upper tick, and each worker's
/// payments and labels.
pub type WindowGroups = Vec<(Tick, Vec<[RecordBatch; 2]>)>;

const PARTITIONS: u16 = 4;

/// The input of Tidegate's windows stage: payments and labels of a workload as batches, stamped as
/// the gate stamps them.
pub fn window_groups(payments: &[Payment], workers: usize) -> WindowGroups {
    let mut groups = Vec::new();
    let mut last = Tick::ZERO;
    let mut learned = 0;
    for chunk in payments.chunks(BATCH_ROWS) {
        let mut parts: Vec<[Vec<(Tick, Payment)>; 2]> = vec![[Vec::new(), Vec::new()]; workers];
        let mut stamp = |payment: &Payment, time: i64, kind: usize| {
            let partition = (payment.customer % i32::from(PARTITIONS)) as u16;
            last = Tick::following(last, time, partition).expect("the workload ends before 2112");
            parts[partition_owner(partition, workers)][kind].push((last, *payment));
        };
        for payment in chunk {
            while payments[learned].time + LABEL_DELAY <= payment.time {
                stamp(&payments[learned], payments[learned].time + LABEL_DELAY, 1);
                learned += 1;
            }
            stamp(payment, payment.time, 0);
        }
        let parts =
            parts.into_iter().map(|[payments, labels]| [batch_of(&payments), batch_of(&labels)]).collect();
        groups.push((last.next(), parts));
    }
    groups
}

fn batch_of(rows: &[(Tick, Payment)]) -> RecordBatch {
    let times =
        TimestampMicrosecondArray::from_iter_values(rows.iter().map(|(_, p)| p.time)).with_timezone("UTC");
    let amounts = Decimal128Array::from_iter_values(rows.iter().map(|(_, p)| i128::from(p.cents)));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(columns::tick_array(rows.iter().map(|(tick, _)| *tick))),
        Arc::new(times),
        Arc::new(Int32Array::from_iter_values(rows.iter().map(|(_, p)| p.customer))),
        Arc::new(Int32Array::from_iter_values(rows.iter().map(|(_, p)| p.terminal))),
        Arc::new(amounts.with_precision_and_scale(12, 2).expect("12 digits fit")),
        Arc::new(rows.iter().map(|(_, p)| Some(p.fraud)).collect::<BooleanArray>()),
        Arc::new(arrow::array::Int64Array::from_iter_values(rows.iter().map(|(_, p)| p.id))),
    ];
    let fields = vec![
        columns::tick_field(columns::TICK),
        Field::new("time", timestamp(), false),
        Field::new("customer", DataType::Int32, false),
        Field::new("terminal", DataType::Int32, false),
        Field::new("amount", DataType::Decimal128(12, 2), false),
        Field::new("fraud", DataType::Boolean, false),
        Field::new("id", DataType::Int64, false),
    ];
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
        .expect("the columns were made for the schema")
}

fn window_plan(measure: DataType, delay: i64) -> WindowPlan {
    let spans = baseline::WIDTHS.map(|width| Span::from_micros(width).expect("a width"));
    let aggregates = vec![Aggregate::Count, Aggregate::Avg(0)];
    WindowPlan {
        windows: spans.to_vec(),
        delay,
        aggregates,
        measures: vec![measure],
        lateness_max: 3_600_000_000,
    }
}

/// Tidegate's windows stage: the windows operator alone, fed with decoded batches; the sum of the
/// hashes of its rows.
///
/// # Errors
/// What timely says when a worker failed.
pub fn windows_stage(groups: &WindowGroups, workers: usize) -> Result<u64, String> {
    let groups: Arc<WindowGroups> = Arc::new(groups.clone());
    let guards = timely::execute(timely::Config::process(workers), move |worker| {
        let hash = Arc::new(Mutex::new(0u64));
        let into = Arc::clone(&hash);
        let mut payments: InputHandle<Tick, NoopBuilder<Rows>> = InputHandle::new_with_builder();
        let mut labels: InputHandle<Tick, NoopBuilder<Rows>> = InputHandle::new_with_builder();
        let probe = worker.dataflow::<Tick, _, _>(|scope| {
            let asking = payments.to_stream(scope);
            let learned = labels.to_stream(scope);
            // Tick, key, time and measure, as a timeline takes them.
            let narrow = |places: [usize; 4]| {
                move |rows: Rows| Rows(rows.0.project(&places).expect("the places are there"))
            };
            let group = |rows, key, measure, delay, name: &str| WindowGroup {
                rows,
                key,
                time: 1,
                plan: window_plan(measure, delay),
                measures: vec![Kept { squares: false, nullable: false }],
                names: (0..6).map(|place| format!("{name}_{place}")).collect(),
                published: None,
                metrics: Arc::default(),
            };
            let customer = group(
                mapped(asking.clone(), narrow([0, 2, 1, 4])),
                2,
                DataType::Decimal128(12, 2),
                0,
                "customer",
            );
            let terminal =
                group(mapped(learned, narrow([0, 3, 1, 5])), 3, DataType::Boolean, LABEL_DELAY, "terminal");
            let features = windows(asking, vec![customer, terminal], "windows");
            let counted = features.inspect_container(move |event| {
                if let Ok((_, rows)) = event {
                    let mut hash = into.lock().expect("no panic");
                    *hash = hash.wrapping_add(features_hash(&rows.0, 6, 7));
                }
            });
            counted.probe().0
        });
        let mine = worker.index();
        let mut fed = std::collections::VecDeque::new();
        for (upper, parts) in groups.iter() {
            let [paid, known] = &parts[mine];
            payments.send_batch(&mut Rows(paid.clone()));
            labels.send_batch(&mut Rows(known.clone()));
            payments.advance_to(*upper);
            labels.advance_to(*upper);
            fed.push_back(*upper);
            // Workers run ahead of each other, so that none waits after every small batch.
            while fed.len() > 16 {
                let first = fed.pop_front().expect("there are more than 16");
                worker.step_while(|| probe.less_than(&first));
            }
        }
        payments.close();
        labels.close();
        worker.step_while(|| !probe.done());
        *hash.lock().expect("no panic")
    })?;
    guards.join().into_iter().try_fold(0u64, |sum, hash| hash.map(|hash| sum.wrapping_add(hash)))
}

fn mapped<'scope>(
    rows: tidegate_operators::core::rows::RowStream<'scope>,
    mut step: impl FnMut(Rows) -> Rows + 'static,
) -> tidegate_operators::core::rows::RowStream<'scope> {
    use timely::dataflow::channels::pact::Pipeline;
    use timely::dataflow::operators::Operator;
    rows.unary::<NoopBuilder<Rows>, _, _, _>(Pipeline, "narrow", move |_, _| {
        move |input, output| {
            input.for_each(|time, rows| {
                output.session_with_builder(&time).give_container(&mut step(std::mem::take(rows)));
            });
        }
    })
}

/// The sum of the hashes of rows whose id is in column `id` and whose twelve answers begin at
/// `first`.
fn features_hash(rows: &RecordBatch, id: usize, first: usize) -> u64 {
    let ids = rows.column(id).as_primitive::<Int64Type>();
    let count = |place: usize| rows.column(first + place).as_primitive::<Int64Type>();
    let average = |place: usize| rows.column(first + place).as_primitive::<Float64Type>();
    (0..rows.num_rows()).fold(0, |hash, row| {
        let bits =
            |place: usize| if average(place).is_null(row) { 0 } else { average(place).value(row).to_bits() };
        let count = |place: usize| count(place).value(row).cast_unsigned();
        let parts = [
            ids.value(row).cast_unsigned(),
            count(0),
            count(2),
            count(4),
            bits(1),
            bits(3),
            bits(5),
            count(6),
            count(8),
            count(10),
            bits(7),
            bits(9),
            bits(11),
        ];
        hash.wrapping_add(crate::workload::mix(&parts))
    })
}

/// The input of the decode and gate stages: payments and their labels as lines, all payments first.
pub fn lines(divide: u32) -> String {
    let mut out = Vec::new();
    let payments = payments(Size { days: 20, ..Size::STANDARD }.divided(divide));
    payments.iter().for_each(|payment| push_payment(payment, &mut out));
    payments.iter().for_each(|payment| push_label(payment, &mut out));
    String::from_utf8(out).expect("envelopes are text")
}

fn judge() -> Validator {
    let policy = Arc::new(GatePolicy::parse(POLICY).expect("the shipped policy is sound"));
    Validator::new(policy, PARTITIONS, TimeBounds { from: 0, to: tidegate_facts::tick::MICROS_MAX })
}

fn judged(text: &str) -> impl Iterator<Item = Validated> {
    let mut judge = judge();
    let lines: Vec<&str> = text.lines().collect();
    let mut position = 0;
    let chunks: Vec<Vec<&str>> = lines.chunks(BATCH_ROWS).map(<[&str]>::to_vec).collect();
    chunks.into_iter().map(move |chunk| {
        let first = position;
        position += chunk.len() as u64;
        judge.validate_lines(
            chunk.iter().enumerate().map(|(place, line)| (first + place as u64, line.as_bytes())),
        )
    })
}

fn accepted_hash(judged: &Validated) -> u64 {
    judged.accepted.iter().fold(0, |hash, accepted| {
        let payload =
            accepted.rows.column_by_name(columns::PAYLOAD).expect("accepted rows have it").as_struct();
        let field = |name: &str| payload.column_by_name(name).expect("the policy has it");
        let ids = field("transaction_id").as_primitive::<Int64Type>();
        let times = accepted
            .rows
            .column_by_name(columns::TS_UTC)
            .expect("it has")
            .as_primitive::<TimestampMicrosecondType>();
        let customers = field("customer_id").as_primitive::<Int32Type>();
        let terminals = field("terminal_id").as_primitive::<Int32Type>();
        (0..accepted.rows.num_rows()).fold(hash, |hash, row| {
            hash.wrapping_add(decoded_hash(
                ids.value(row),
                times.value(row),
                customers.value(row),
                terminals.value(row),
            ))
        })
    })
}

/// Tidegate's decode stage: reading, checking, digesting and laying out lines as columns.
pub fn decode_stage(text: &str) -> u64 {
    judged(text).fold(0, |hash, judged| hash.wrapping_add(accepted_hash(&judged)))
}

/// Admission of one source of lines, with its index in a folder.
fn admission_in(folder: &Path) -> Result<Admission, String> {
    let (dedupe, _) =
        DedupeIndex::open(&Host::real(), folder, 64 << 20, Tick::ZERO).map_err(|e| e.to_string())?;
    let sources = vec![("lines".to_owned(), Reorder::bounded(0, ResumePoint::default()))];
    Ok(Admission::new(Clock::Event, sources, Sequencer::default(), dedupe, Tick::ZERO))
}

/// Tidegate's gate stage, all of the gate but the log: lines are judged, duplicates kept out, facts
/// stamped, receipts made.
///
/// # Errors
/// When the index of what was seen has no folder to live in.
pub fn gate_stage(text: &str) -> Result<u64, String> {
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let mut admission = admission_in(folder.path())?;
    let mut hash = 0u64;
    for judged in judged(text) {
        hash = hash.wrapping_add(accepted_hash(&judged));
        admission.push(0, judged);
        admission.take(BATCH_ROWS, 0).map_err(|e| e.to_string())?;
        if let Some(group) = admission.group(Vec::new(), false) {
            admission.log_durable(group.upper).map_err(|e| e.to_string())?;
        }
    }
    Ok(hash)
}

/// The groups that the gate makes of some lines.
fn groups_of(text: &str) -> Result<Vec<Group>, String> {
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let mut admission = admission_in(folder.path())?;
    let mut groups = Vec::new();
    for judged in judged(text) {
        admission.push(0, judged);
        admission.take(BATCH_ROWS, 0).map_err(|e| e.to_string())?;
        groups.extend(admission.group(Vec::new(), false));
    }
    Ok(groups)
}

/// Appending groups, against a bare loop that writes as many bytes and syncs as often.
fn log_stage(divide: u32, rounds: usize) -> Result<Measure, String> {
    let text = lines(divide);
    let groups = groups_of(&text)?;
    let rows: usize = groups.iter().flat_map(|g| &g.frames).map(|f| f.rows.num_rows()).sum();
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let mut round = 0;
    let mut append = || {
        round += 1;
        let path = folder.path().join(format!("log-{round}"));
        // With the same epoch each time, so that the bytes are the same.
        let host = Host { random: Arc::new(SeededRandom::new(1)), ..Host::real() };
        let log = LogFolder::at(&host, &path).open(LogOptions::default());
        let (mut log, _) = log.map_err(|e| e.to_string())?;
        for group in &groups {
            log.append_and_wait(group).map_err(|e| e.to_string())?;
        }
        Ok::<_, String>(path)
    };
    let bytes = written(&append()?)?;
    let share = bytes.len() / groups.len();
    let hash = |bytes: &[u8]| Digest::of(bytes).short() as u64;
    let (mut best, mut theirs) = (Duration::MAX, Duration::MAX);
    let mut hashes = [0; 2];
    for round in 0..rounds {
        let from = Instant::now();
        let path = append()?;
        best = best.min(from.elapsed());
        hashes[0] = hash(&written(&path)?);
        let path = folder.path().join(format!("bare-{round}"));
        let from = Instant::now();
        bare_appends(&path, &bytes, share).map_err(|e| e.to_string())?;
        theirs = theirs.min(from.elapsed());
        hashes[1] = hash(&std::fs::read(&path).map_err(|e| e.to_string())?);
    }
    Ok(compared("log", 1, rows as u64, [best, theirs], hashes))
}

/// What a log wrote: its segments one after the other, without the zeros that follow.
fn written(path: &Path) -> Result<Vec<u8>, String> {
    let mut names: Vec<_> = std::fs::read_dir(path)
        .map_err(|e| e.to_string())?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "seg"))
        .collect();
    names.sort();
    let mut bytes = Vec::new();
    for name in names {
        let mut segment = std::fs::read(name).map_err(|e| e.to_string())?;
        segment.truncate(segment.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1));
        bytes.append(&mut segment);
    }
    Ok(bytes)
}

fn bare_appends(path: &Path, bytes: &[u8], share: usize) -> std::io::Result<()> {
    use std::io::Write;
    let mut file = std::fs::File::create(path)?;
    for part in bytes.chunks(share) {
        file.write_all(part)?;
        file.sync_data()?;
    }
    Ok(())
}

/// From two files of envelopes to the log and two tables.
fn job_stage(divide: u32, rounds: usize) -> Result<Vec<Measure>, String> {
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let file = |name: &str| folder.path().join(name);
    for (name, text) in [("cards.toml", TOPOLOGY), ("card-gate.toml", POLICY), ("card-rules.toml", RULES)] {
        std::fs::write(file(name), text).map_err(|e| e.to_string())?;
    }
    let payments = payments(Size { days: 60, ..Size::STANDARD }.divided(divide));
    let (transactions, labels) = (file("transactions.jsonl"), file("labels.jsonl"));
    write_lines(&payments, &transactions, &labels).map_err(|e| e.to_string())?;
    let mut measures = Vec::new();
    for workers in [1, 2] {
        let mut round = 0;
        let ours = || {
            round += 1;
            let data = file(&format!("data-{workers}-{round}"));
            run_job(&file("cards.toml"), &data, workers)?;
            Ok::<_, String>(data)
        };
        let mut last = None;
        let mut ours = ours;
        let mut theirs_round = 0;
        let measure = take_turns(
            "job",
            workers,
            2 * payments.len(),
            rounds,
            || {
                last = Some(ours()?);
                Ok(0)
            },
            || {
                theirs_round += 1;
                let out = folder.path().join(format!("loop-{workers}-{theirs_round}"));
                std::fs::create_dir_all(&out).map_err(|e| e.to_string())?;
                baseline::job(&transactions, &labels, &out).map_err(|e| e.to_string())
            },
        )?;
        let hash = tables_hash(&last.expect("at least one round"))?;
        measures.push(Measure { hash: format!("{hash:016x}"), ..measure });
    }
    Ok(measures)
}

fn run_job(topology: &Path, data: &Path, workers: usize) -> Result<(), String> {
    let sentence = |faults: Vec<tidegate_dataflows::Diagnostic>| {
        faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    };
    let none: [Override; 0] = [];
    let plan = Arc::new(Plan::read(topology, &none).map_err(sentence)?);
    let sources: Vec<String> = plan.sources.iter().map(|s| s.name.clone()).collect();
    let nodes: Vec<String> = plan.steps.iter().map(|s| s.name.clone()).collect();
    let options = Options { workers, ..Options::new(data) };
    run(&plan, &options, &RunMetrics::new(&sources, &nodes)).map(|_| ()).map_err(|e| e.to_string())
}

/// The hash of the committed features, read back.
fn tables_hash(data: &Path) -> Result<u64, String> {
    let store = Store::open(data.join("store")).map_err(|e| e.to_string())?;
    let commits = Commits::read(&store).map_err(|e| e.to_string())?;
    let mut hash = 0u64;
    for file in commits.files_of("features") {
        let bytes = store.get(&file.name).map_err(|e| e.to_string())?;
        let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(bytes);
        for batch in reader
            .and_then(parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::build)
            .map_err(|e| e.to_string())?
        {
            let batch = batch.map_err(|e| e.to_string())?;
            let id = batch.schema_ref().index_of("transaction_id").map_err(|e| e.to_string())?;
            let first = batch.schema_ref().index_of("customer_nb_tx_1d").map_err(|e| e.to_string())?;
            hash = hash.wrapping_add(features_hash(&batch, id, first));
        }
    }
    Ok(hash)
}
