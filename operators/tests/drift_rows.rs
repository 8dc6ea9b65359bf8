//! The drift operator in a dataflow: the same bytes with any number of workers and any batches, and
//! after a restart.

use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::Schema;
use tidegate_facts::{Span, Tick};
use tidegate_operators::core::rows::{Rows, partition_owner, ticks_of};
use tidegate_operators::core::tick_ordered::{OperatorInput, run_in_tick_order};
use tidegate_operators::credibility::drift::operator::{Drift, input_exchange, input_fields, outputs};
use tidegate_operators::credibility::drift::periods::PeriodConfig;
use tidegate_operators::credibility::drift::severity::Bounds;
use tidegate_operators::credibility::drift::{MeasureConfig, StatisticKind};
use timely::container::NoopBuilder;
use timely::dataflow::InputHandle;
use timely::dataflow::operators::{InspectCore, Probe};

const SECOND: i64 = 1_000_000;

fn mixed(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    (number ^ (number >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB) >> 7
}

/// Rows of twenty keys, some late; in the order of ticks.
fn rows(seed: u64) -> RecordBatch {
    let mut tick = Tick::ZERO;
    type Columns = (Vec<i64>, Vec<String>, Vec<i64>, Vec<i64>, Vec<String>);
    let mut columns = Columns::default();
    for row in 0..4000_u64 {
        let draw = |purpose: u64, end: u64| mixed(seed * 1_000_003 + row * 17 + purpose) % end;
        let now = 1000 * SECOND + row as i64 * SECOND / 4;
        tick = Tick::following(tick, now, draw(0, 4) as u16).expect("in range");
        columns.0.push(tick.0);
        columns.1.push(format!("key-{}", draw(1, 20)));
        columns.2.push(now - (if draw(2, 10) == 0 { draw(3, 60) as i64 * SECOND } else { 1 }));
        columns.3.push((draw(4, 900_000) / (1 + draw(5, 3))) as i64);
        columns.4.push(format!("member-{}", draw(6, 5)));
    }
    let arrays: Vec<ArrayRef> = vec![
        Arc::new(tidegate_facts::columns::TickArray::from(columns.0)),
        Arc::new(StringArray::from(columns.1)),
        Arc::new(TimestampMicrosecondArray::from(columns.2).with_timezone("UTC")),
        Arc::new(Int64Array::from(columns.3)),
        Arc::new(StringArray::from(columns.4)),
    ];
    RecordBatch::try_new(Arc::new(Schema::new(input_fields())), arrays).expect("the columns are the schema's")
}

fn configs() -> Vec<MeasureConfig> {
    let span = |seconds: i64| Span::from_micros(seconds * SECOND).expect("positive");
    [
        (StatisticKind::ConfidenceVolatility, 150_000),
        (StatisticKind::TimingEntropy, 100_000),
        (StatisticKind::Psi(None), 50_000),
    ]
    .into_iter()
    .map(|(kind, yellow)| MeasureConfig {
        name: kind.name().into(),
        periods: PeriodConfig {
            width: span(60),
            slide: span(20),
            delay: 0,
            lateness_max: 60 * SECOND,
            rows_min: 2,
            warm_up: matches!(kind, StatisticKind::Psi(None)).then(|| span(100)),
        },
        kind,
        bounds: Bounds { yellow, red: yellow * 2, falling: false },
    })
    .collect()
}

/// The outputs for some rows, in the order of ticks: events, and periods.
fn run(rows: &RecordBatch, workers: usize, batch: usize, restored: Tick) -> [RecordBatch; 2] {
    let (sender, receiver) = channel();
    let sender = Mutex::new(sender);
    let rows = rows.clone();
    let config = if workers == 1 { timely::Config::thread() } else { timely::Config::process(workers) };
    let guards = timely::execute(config, move |worker| {
        let sender = sender.lock().expect("no panic").clone();
        let (index, peers) = (worker.index(), worker.peers());
        let mut input: InputHandle<Tick, NoopBuilder<Rows>> = InputHandle::new_with_builder();
        let dataflow = worker.next_dataflow_index();
        let probe = worker.dataflow::<Tick, _, _>(|scope| {
            let facts = input.to_stream(scope);
            let schema = Arc::new(Schema::new(input_fields()));
            let inputs = configs().into_iter().map(|_| OperatorInput {
                rows: facts.clone(),
                schema: Arc::clone(&schema),
                exchange: input_exchange(),
            });
            let state = Drift::new(configs());
            let streams = run_in_tick_order(inputs.collect(), outputs().into(), restored, state, "drift");
            let probes: Vec<_> = streams
                .into_iter()
                .enumerate()
                .map(|(output, rows)| {
                    let sender = sender.clone();
                    let seen = rows.inspect_container(move |event| {
                        if let Ok((_, rows)) = event {
                            sender.send((output, rows.0.clone())).expect("the test waits");
                        }
                    });
                    seen.probe().0
                })
                .collect();
            probes
        });
        let ticks = ticks_of(&rows);
        for from in (0..rows.num_rows()).step_by(batch) {
            let part = rows.slice(from, batch.min(rows.num_rows() - from));
            let own = ticks_of(&part).values().iter().enumerate();
            let own = own.filter(|(_, tick)| partition_owner(Tick(**tick).partition(), peers) == index);
            let own = UInt32Array::from_iter_values(own.map(|(row, _)| row as u32));
            let own = take_record_batch(&part, &own).expect("rows of this batch");
            if own.num_rows() > 0 {
                input.send_batch(&mut Rows(own));
            }
            let last = ticks_of(&part).values().last().copied().expect("a batch has rows");
            input.advance_to(Tick(last).next());
            worker.step();
        }
        let end = Tick(ticks.values().last().copied().expect("some")).next();
        while probes_behind(&probe, end) {
            worker.step();
        }
        // The end of input is not the end of time: later closes do not happen.
        worker.drop_dataflow(dataflow);
    });
    let guards = guards.expect("workers start");
    let mut batches: [Vec<RecordBatch>; 2] = Default::default();
    drop(guards);
    while let Ok((output, rows)) = receiver.try_recv() {
        batches[output].push(rows);
    }
    let mut batches = batches.into_iter();
    outputs().map(|output| {
        let all = concat_batches(&output.schema, &batches.next().expect("two")).expect("one schema");
        // Rows of one tick come from one worker, in their order. Sort the batches of all workers by
        // tick.
        let ticks = ticks_of(&all).values();
        let mut order: Vec<u32> = (0..all.num_rows() as u32).collect();
        order.sort_by_key(|row| ticks[*row as usize]);
        take_record_batch(&all, &UInt32Array::from(order)).expect("rows of this batch")
    })
}

fn probes_behind(probes: &[timely::dataflow::operators::probe::Handle<Tick>], end: Tick) -> bool {
    probes.iter().any(|probe| probe.less_than(&end))
}

#[test]
fn workers_and_batches_change_no_byte() {
    for seed in 0..3 {
        let rows = rows(seed);
        let expected = run(&rows, 1, 4000, Tick::ZERO);
        assert!(
            expected[0].num_rows() > 20 && expected[1].num_rows() > 500,
            "seed {seed}: {}",
            expected[0].num_rows()
        );
        for (workers, batch) in [(1, 100), (2, 100), (2, 4000), (4, 999), (4, 7)] {
            let outputs = run(&rows, workers, batch, Tick::ZERO);
            assert_eq!(outputs, expected, "seed {seed}: {workers} workers, batches of {batch}");
        }
    }
}

#[test]
fn after_a_restart_only_rows_of_later_ticks_are_emitted() {
    let rows = rows(5);
    let whole = run(&rows, 1, 500, Tick::ZERO);
    let restored = Tick(ticks_of(&rows).value(2500));
    let rest = run(&rows, 2, 700, restored);
    for (whole, rest) in whole.iter().zip(&rest) {
        let before = ticks_of(whole).values().partition_point(|tick| Tick(*tick) < restored);
        assert!(before > 0 && before < whole.num_rows());
        assert_eq!(*rest, whole.slice(before, whole.num_rows() - before));
    }
}
