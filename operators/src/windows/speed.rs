//! How fast are windows on one worker and decoded events, against what one would write by hand?
//!
//! Half a million payments at the handbook's rate (9,586 a day), seed 42, in groups of 8,192: counts and averages
//! of 5,000 customers, and of 10,000 terminals a week before, over a day, a week and a month. Prints events/s, then
//! a hash of the answers: when it moves, the change is not an optimisation. The loop is measured without and with
//! the snapshot digests, which the operator always computes and which cost more than the windows.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float64Array, Int64Array, RecordBatch};
use arrow::datatypes::{
    DataType, Decimal128Type, Float64Type, Int32Type, Int64Type, TimestampMicrosecondType,
};
use tidegate_facts::Tick;
use timely::container::NoopBuilder;
use timely::dataflow::InputHandle;
use timely::dataflow::operators::{InspectCore, Probe, probe};

use super::tests::{CARD, CENTS, COUNTED, FLAG, Fact, MEASURES, POINTS, TIME, batch_of, plan};
use super::{Aggregate, WindowGroup, WindowPlan, windows};
use crate::expr::Split;
use crate::lookup::tests::Chance;
use crate::rows::{Rows, ticks_of};
use crate::snapshot::snapshot_digests;
use crate::streams::map_rows;
use crate::timeline::Measure;

const DAY: i64 = 86_400_000_000;

/// Half a million payments at the handbook's rate: 5,000 customers (in `card`), 10,000 terminals (in `points`).
fn payments() -> Vec<Fact> {
    let mut chance = Chance(42);
    let mut tick = Tick::ZERO;
    let mut now = 1_522_540_800_000_000;
    let mut payment = |_| {
        now += 1 + chance.below(2 * DAY as u64 / 9_586) as i64;
        tick = Tick::following(tick, now, 0).expect("in range");
        Fact {
            tick,
            time: now,
            card: Some(chance.below(5_000) as i64),
            shop: None,
            cents: Some(chance.below(20_000) as i64),
            points: chance.below(10_000) as i64,
            city: None,
            flag: Some(chance.one_in(100)),
            counted: true,
        }
    };
    (0..500_000).map(&mut payment).collect()
}

/// The customer's payments, and the terminal's labels a week before, each over a day, a week and a month.
fn handbook() -> [(usize, usize, WindowPlan); 2] {
    let windows = [DAY, 7 * DAY, 30 * DAY];
    let functions = |m| vec![Aggregate::Count, Aggregate::Avg(m)];
    let types =
        |t: &DataType| WindowPlan { measures: vec![t.clone()], ..plan(&windows, 0, DAY, functions(0)) };
    let customer = types(&DataType::Decimal128(12, 2));
    let terminal = WindowPlan { delay: 7 * DAY, ..types(&DataType::Boolean) };
    [(CARD, CENTS, customer), (POINTS + MEASURES, FLAG, terminal)]
}

fn mix(checksum: u64, count: i64, average: Option<f64>) -> u64 {
    let mixed = checksum ^ (count as u64) ^ average.map_or(0, f64::to_bits).rotate_left(17);
    mixed.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29)
}

/// The operator over all payments in groups of 8,192: a checksum of its answers.
fn dataflow(facts: &RecordBatch) -> u64 {
    let facts = facts.clone();
    timely::execute_directly(move |worker| {
        let checksum = Rc::new(std::cell::Cell::new(0));
        let probe = probe::Handle::new();
        let mut input = InputHandle::<Tick, NoopBuilder<Rows>>::new_with_builder();
        worker.dataflow(|scope| {
            let checksum = Rc::clone(&checksum);
            let rows = input.to_stream(scope);
            let groups = handbook().into_iter().enumerate().map(|(group, (key, measure, plan))| {
                let columns = [0, key, TIME, measure + MEASURES];
                let narrow =
                    move |batch: RecordBatch| batch.project(&columns).expect("the columns are there");
                let over = map_rows(rows.clone(), "narrow", move |batch| Split {
                    passed: narrow(batch),
                    errors: None,
                });
                WindowGroup {
                    over: over.0,
                    key,
                    time: TIME,
                    measures: vec![Measure::default()],
                    names: plan
                        .windows
                        .iter()
                        .flat_map(|w| [format!("{group}_count_{w}"), format!("{group}_avg_{w}")])
                        .collect(),
                    plan,
                }
            });
            let groups = groups.collect();
            windows(rows, groups, "windows")
                .inspect_container(move |event| {
                    let Ok((_, rows)) = event else { return };
                    let counts = |c: usize| rows.0.column(c).as_primitive::<Int64Type>();
                    let averages = |c: usize| rows.0.column(c).as_primitive::<Float64Type>();
                    let pairs: Vec<_> = (0..6)
                        .map(|p| (counts(COUNTED + 1 + 2 * p), averages(COUNTED + 2 + 2 * p)))
                        .collect();
                    let mut sum = checksum.get();
                    for row in 0..rows.0.num_rows() {
                        for (count, average) in &pairs {
                            sum =
                                mix(sum, count.value(row), average.is_valid(row).then(|| average.value(row)));
                        }
                    }
                    checksum.set(sum);
                })
                .probe_with(&probe);
        });
        for from in (0..facts.num_rows()).step_by(8_192) {
            let group = facts.slice(from, 8_192.min(facts.num_rows() - from));
            let upper = Tick(ticks_of(&group).values()[group.num_rows() - 1]).next();
            input.send_batch(&mut Rows(group));
            input.advance_to(upper);
            worker.step_while(|| probe.less_than(input.time()));
        }
        checksum.get()
    })
}

/// What one would write by hand: for each key a queue of its rows, and for each window where it starts in
/// the queue and what it holds.
#[derive(Default)]
struct Queue {
    rows: VecDeque<(i64, i64)>,
    /// Rows that left the front of the queue; places below are counted from the first row ever.
    gone: usize,
    end: usize,
    starts: [usize; 3],
    sums: [i64; 3],
}

impl Queue {
    fn answer(
        &mut self,
        until: i64,
        windows: &[i64; 3],
        scale: f64,
        mut answer: impl FnMut(i64, Option<f64>),
    ) {
        while let Some((_, value)) = self.rows.get(self.end - self.gone).filter(|(time, _)| *time <= until) {
            self.sums.iter_mut().for_each(|sum| *sum += value);
            self.end += 1;
        }
        for (window, width) in windows.iter().enumerate() {
            while self.starts[window] < self.end
                && self.rows[self.starts[window] - self.gone].0 <= until - width
            {
                self.sums[window] -= self.rows[self.starts[window] - self.gone].1;
                self.starts[window] += 1;
            }
            let count = (self.end - self.starts[window]) as i64;
            answer(count, (count > 0).then(|| self.sums[window] as f64 / (count as f64 * scale)));
        }
        while self.gone < self.starts[2] {
            self.rows.pop_front();
            self.gone += 1;
        }
    }
}

/// The same checksum from a plain loop; with `digests`, the snapshot digests as well.
fn plain_loop(facts: &RecordBatch, digests: bool) -> u64 {
    let windows = [DAY, 7 * DAY, 30 * DAY];
    let mut customers: HashMap<i64, Queue> = HashMap::new();
    let mut terminals: HashMap<i32, Queue> = HashMap::new();
    let mut checksum = 0;
    for from in (0..facts.num_rows()).step_by(8_192) {
        let group = facts.slice(from, 8_192.min(facts.num_rows() - from));
        let times = group.column(TIME).as_primitive::<TimestampMicrosecondType>().values();
        let cards = group.column(CARD).as_primitive::<Int64Type>().values();
        let shops = group.column(MEASURES + POINTS).as_primitive::<Int32Type>().values();
        let cents = group.column(MEASURES + CENTS).as_primitive::<Decimal128Type>().values();
        let flags = group.column(MEASURES + FLAG).as_boolean().values();
        let mut counts = vec![Vec::new(); 6];
        let mut averages = vec![Vec::new(); 6];
        for row in 0..group.num_rows() {
            let mut column = 0;
            let mut answer = |count, average| {
                checksum = mix(checksum, count, average);
                if digests {
                    counts[column].push(count);
                    averages[column].push(average);
                }
                column += 1;
            };
            let customer = customers.entry(cards[row]).or_default();
            customer.rows.push_back((times[row], cents[row] as i64));
            customer.answer(times[row], &windows, 100.0, &mut answer);
            let terminal = terminals.entry(shops[row]).or_default();
            terminal.rows.push_back((times[row], flags.value(row).into()));
            terminal.answer(times[row] - 7 * DAY, &windows, 1.0, &mut answer);
        }
        if digests {
            let features: Vec<(String, ArrayRef)> = counts
                .into_iter()
                .zip(averages)
                .enumerate()
                .flat_map(|(place, (counts, averages))| {
                    let counts: ArrayRef = Arc::new(Int64Array::from(counts));
                    let averages: ArrayRef = Arc::new(Float64Array::from(averages));
                    [
                        (format!("{}_count_{}", place / 3, place % 3), counts),
                        (format!("{}_avg_{}", place / 3, place % 3), averages),
                    ]
                })
                .collect();
            let event_ids = group.column(1).as_string::<i32>();
            let basis = group.column(3).as_list::<i32>();
            let features = features.iter().map(|(name, column)| (name.as_str(), column));
            std::hint::black_box(snapshot_digests(ticks_of(&group), event_ids, basis, features));
        }
    }
    checksum
}

#[test]
#[ignore = "a measurement: cargo test --release -p tidegate-operators -- --ignored --nocapture windows"]
fn how_fast_windows_are_against_a_plain_loop() {
    let facts = batch_of(&payments());
    let timed = |name: &str, f: &dyn Fn() -> u64| {
        let started = std::time::Instant::now();
        let checksum = f();
        let rate = facts.num_rows() as f64 / started.elapsed().as_secs_f64();
        println!("{name}: {:.0} k events/s, checksum {checksum:016x}", rate / 1e3);
        checksum
    };
    let wanted = timed("plain loop", &|| plain_loop(&facts, false));
    for _ in 0..3 {
        assert_eq!(timed("windows", &|| dataflow(&facts)), wanted);
    }
    timed("plain loop", &|| plain_loop(&facts, false));
    timed("plain loop with snapshot digests", &|| plain_loop(&facts, true));
}
