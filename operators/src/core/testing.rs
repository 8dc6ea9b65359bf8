//! Test support: a seeded random generator, and a driver that feeds a dataflow facts in the order
//! of their ticks, group by group, each row to the worker that owns its partition.

use std::cell::RefCell;
use std::rc::Rc;

use arrow::array::{BooleanArray, RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, filter_record_batch, take_record_batch};
use tidegate_facts::Tick;
use timely::container::NoopBuilder;
use timely::dataflow::InputHandle;
use timely::dataflow::operators::{InspectCore, Probe, probe};
use timely::{CommunicationConfig, Config, WorkerConfig};

use super::rows::{RowStream, Rows, partition_owner, ticks_of};

/// A seeded random generator (splitmix64). A failing test prints its seed.
pub(crate) struct Chance(pub u64);

impl Chance {
    /// A number from 0 up to, not including, `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % end
    }

    /// Returns true once in `count` calls on average.
    pub fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    /// A number below `end`; `None` once in `count` calls on average.
    pub fn unless_one_in(&mut self, count: u64, end: u64) -> Option<i64> {
        let value = self.below(end) as i64;
        (!self.one_in(count)).then_some(value)
    }
}

/// How the rows of a log are grouped.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Groups {
    /// Groups of this many rows; the workers catch up after each.
    Of(usize),
    /// Groups of random sizes; the workers catch up at random. The number is the seed.
    Random(u64),
}

/// Runs the dataflow that `build` returns over `facts`, rows in the order of their ticks, and
/// returns the rows that it emits, in the order of their ticks.
pub(crate) fn run(
    facts: &RecordBatch,
    workers: usize,
    groups: Groups,
    build: impl for<'scope> Fn(RowStream<'scope>) -> RowStream<'scope> + Send + Sync + 'static,
) -> RecordBatch {
    let facts = facts.clone();
    // Workers exchange bytes, so that the encoding between processes is tested too.
    let communication =
        if workers == 1 { CommunicationConfig::Thread } else { CommunicationConfig::ProcessBinary(workers) };
    let config = Config { communication, worker: WorkerConfig::default() };
    let guards = timely::execute(config, move |worker| {
        let collected = Rc::new(RefCell::new(Vec::new()));
        let probe = probe::Handle::new();
        let mut input = InputHandle::<Tick, NoopBuilder<Rows>>::new_with_builder();
        worker.dataflow(|scope| {
            let collected = Rc::clone(&collected);
            let rows = input.to_stream(scope);
            build(rows)
                .inspect_container(move |event| {
                    if let Ok((_, rows)) = event {
                        collected.borrow_mut().push(rows.0.clone());
                    }
                })
                .probe_with(&probe);
        });
        let mut chance = Chance(if let Groups::Random(seed) = groups { seed } else { 0 });
        let mut from = 0;
        while from < facts.num_rows() {
            let size = match groups {
                Groups::Of(rows) => rows,
                Groups::Random(_) => 1 + chance.below(30) as usize,
            };
            let group = facts.slice(from, size.min(facts.num_rows() - from));
            from += group.num_rows();
            let ticks = ticks_of(&group).values();
            let own = |tick: &i64| Some(partition_owner(Tick(*tick).partition(), workers) == worker.index());
            let own: BooleanArray = ticks.iter().map(own).collect();
            let own = filter_record_batch(&group, &own).expect("one flag for each row");
            if own.num_rows() > 0 {
                let cut = chance.below(own.num_rows() as u64) as usize;
                for part in [own.slice(0, cut), own.slice(cut, own.num_rows() - cut)] {
                    input.send_batch(&mut Rows(part)); // Empty ones too.
                }
            }
            input.advance_to(Tick(ticks[ticks.len() - 1]).next());
            match groups {
                Groups::Of(_) => step_while(worker, || probe.less_than(input.time())),
                Groups::Random(_) => {
                    for _ in 0..chance.below(4) {
                        worker.step();
                    }
                }
            }
        }
        // Closing the input ends all frontiers, so wait until everything before it was computed.
        step_while(worker, || probe.less_than(input.time()));
        input.close();
        step_while(worker, || !probe.done());
        collected.take()
    });
    let batches: Vec<RecordBatch> = guards
        .expect("the workers start")
        .join()
        .into_iter()
        .flat_map(|rows| rows.expect("no panic"))
        .collect();
    let all = concat_batches(batches[0].schema_ref(), &batches).expect("one schema");
    let mut order: Vec<u32> = (0..all.num_rows() as u32).collect();
    order.sort_by_key(|row| ticks_of(&all).value(*row as usize));
    take_record_batch(&all, &UInt32Array::from(order)).expect("the row numbers are in range")
}

/// Steps the worker while `condition` holds, and yields to the other workers in between.
fn step_while(worker: &mut timely::worker::Worker, mut condition: impl FnMut() -> bool) {
    while condition() {
        worker.step();
        std::thread::yield_now();
    }
}
