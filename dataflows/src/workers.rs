//! Timely's workers: each builds the graph, takes what is fed, and steps until everything is committed.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::Thread;
use std::time::Duration;

use arrow::array::RecordBatch;
use tidegate_facts::Tick;
use tidegate_operators::rows::Rows;
use timely::communication::WorkerGuards;
use timely::container::{CapacityContainerBuilder, NoopBuilder};
use timely::dataflow::InputHandle;
use timely::logging::{StartStop, TimelyEvent, TimelyEventBuilder};
use timely::worker::Worker;

use crate::build::build;
use crate::commit::Writing;
use crate::feed::Fed;
use crate::live::Live;
use crate::output::{Boundary, Output};
use crate::plan::Plan;
use crate::realtime::Priority;
use crate::watch::{Counter, Watch};

/// The running workers of one graph.
pub struct Workers {
    senders: Vec<SyncSender<WorkerPart>>,
    /// Their threads, which park while there is nothing to do.
    threads: Vec<Thread>,
    live: Option<Arc<Live>>,
    guards: WorkerGuards<()>,
}

impl Workers {
    /// Starts `count` workers of a plan's graph.
    ///
    /// # Errors
    /// Timely's message when they cannot be started.
    pub fn start(plan: &Arc<Plan>, count: usize, output: &Output, watch: &Watch) -> Result<Workers, String> {
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..count).map(|_| sync_channel(4)).unzip();
        let (plan, watch, output) = (Arc::clone(plan), watch.clone(), output.clone());
        let live = output.live.clone();
        let receivers: Mutex<Vec<_>> = Mutex::new(receivers.into_iter().map(Some).collect());
        let guards = timely::execute(timely::Config::process(count), move |worker| {
            let receiver =
                receivers.lock().expect("no panic")[worker.index()].take().expect("one for each worker");
            work(worker, &plan, &receiver, &output, &watch);
        })?;
        let threads = guards.guards().iter().map(|guard| guard.thread().clone()).collect();
        Ok(Workers { senders, threads, live, guards })
    }

    /// Feeds one group; waits while the workers have more than enough.
    ///
    /// # Errors
    /// When a worker is gone; it has left its reason behind for [`Workers::finish`].
    pub fn send(&self, fed: Fed) -> Result<(), String> {
        if let Some(live) = &self.live {
            live.give(self.senders.len());
        }
        for ((sender, thread), rows) in self.senders.iter().zip(&self.threads).zip(fed.rows) {
            let part = WorkerPart { rows, upper: fed.upper, boundaries: fed.boundaries.clone() };
            sender.send(part).map_err(|_| "a worker has stopped".to_owned())?;
            thread.unpark();
        }
        Ok(())
    }

    /// Waits until everything fed is computed, and committed up to the last boundary.
    ///
    /// # Errors
    /// The message of a worker that panicked.
    pub fn finish(self) -> Result<(), String> {
        drop(self.senders);
        self.guards.join().into_iter().collect()
    }
}

/// What one worker is told of one group.
struct WorkerPart {
    rows: Vec<RecordBatch>,
    upper: Tick,
    boundaries: Vec<Boundary>,
}

/// How many rows may be under way in the graph before a worker takes more.
const ROWS_IN_FLIGHT_MAX: usize = 1 << 18;

/// How many boundaries may wait for their commits before a worker takes more.
const BOUNDARIES_IN_FLIGHT_MAX: usize = 2;

/// How long a worker rests before it looks around by itself.
const PARKED_MAX: Duration = Duration::from_millis(10);

/// The life of one worker: take what is fed, step the graph, until everything is committed.
fn work(worker: &mut Worker, plan: &Plan, receiver: &Receiver<WorkerPart>, output: &Output, watch: &Watch) {
    watch_operators(worker, watch);
    let dataflow = worker.next_dataflow_index();
    let mut rows: InputHandle<Tick, NoopBuilder<Rows>> = InputHandle::new_with_builder();
    let mut boundaries: InputHandle<Tick, CapacityContainerBuilder<Vec<Boundary>>> =
        InputHandle::new_with_builder();
    let mut before: BTreeMap<String, InputHandle<Tick, NoopBuilder<Rows>>> = BTreeMap::new();
    if output.outlet.state().is_some() {
        before = plan.timelines().into_keys().map(|name| (name, InputHandle::new_with_builder())).collect();
    }
    let (writing, writer) = Writing::start(output, worker.index(), watch);
    let probes = worker.dataflow::<Tick, _, _>(|scope| {
        let facts = rows.to_stream(scope);
        let cuts = boundaries.to_stream(scope);
        let restored =
            before.iter_mut().map(|(name, input)| (name.clone(), input.to_stream(scope))).collect();
        build(scope, plan, facts, cuts, restored, &writing, watch)
    });
    if worker.index() == 0 {
        let mut timelines = std::mem::take(&mut *output.timelines.lock().expect("no panic"));
        for (name, input) in &mut before {
            for batch in timelines.remove(name).into_iter().flatten() {
                input.send_batch(&mut Rows(batch));
                worker.step();
            }
        }
    }
    drop(before); // Nothing more comes from there.
    // What is restored is known, whether or not anything follows it.
    rows.advance_to(output.restored);
    boundaries.advance_to(output.restored);
    drop(writing); // The operators have what they need of it.
    let load = watch.load();
    let mut under_way: VecDeque<(Tick, usize)> = VecDeque::new();
    let mut ended = false;
    // Rows behind the last boundary stay out: a run that was cut short has some.
    let mut uncommitted: VecDeque<Tick> = VecDeque::new();
    loop {
        if output.failed.lock().expect("no panic").is_some() {
            break;
        }
        let parts = under_way.len();
        while under_way.front().is_some_and(|(tick, _)| !probes.computed.less_than(tick)) {
            under_way.pop_front();
        }
        if let Some(live) = &output.live
            && under_way.len() < parts
        {
            live.computed(parts - under_way.len());
            // What was computed is to be logged, told and shown: those of its kind who do so go first, where they wait for a core.
            std::thread::yield_now();
        }
        while uncommitted.front().is_some_and(|upper| !probes.committed.less_than(upper)) {
            uncommitted.pop_front();
        }
        let rows_in_flight = under_way.iter().map(|(_, rows)| rows).sum::<usize>();
        let room = rows_in_flight < ROWS_IN_FLIGHT_MAX && uncommitted.len() <= BOUNDARIES_IN_FLIGHT_MAX;
        load.rows.store(rows_in_flight as u64, Ordering::Relaxed);
        load.boundaries.store(uncommitted.len() as u64, Ordering::Relaxed);
        // While the graph has work, only what is there is taken; when it rests, the worker parks.
        match if ended || !room { Err(TryRecvError::Empty) } else { receiver.try_recv() } {
            Ok(part) => {
                if let Some(live) = output.live.as_ref().filter(|_| under_way.is_empty()) {
                    live.go(Priority::Compute); // Not before it has computed what there was before calls came.
                }
                let count = part.rows.iter().map(RecordBatch::num_rows).sum();
                for batch in part.rows {
                    rows.send_batch(&mut Rows(batch));
                }
                for boundary in part.boundaries {
                    if boundary.upper > output.lower {
                        uncommitted.push_back(boundary.upper);
                    }
                    boundaries.send(boundary);
                }
                // A group without facts does not move time, and what is buffered must go all the same.
                boundaries.flush();
                // The groups in front of the restored tick are read again only for what they say of the log.
                let upper = part.upper.max(output.restored);
                rows.advance_to(upper);
                boundaries.advance_to(upper);
                under_way.push_back((upper, count));
                worker.step();
            }
            Err(TryRecvError::Disconnected) => ended = true,
            Err(TryRecvError::Empty) => {
                // Whoever has something for it wakes it; the bound is for a failure that nobody tells of.
                worker.step_or_park(Some(PARKED_MAX));
            }
        }
        if ended && under_way.is_empty() && uncommitted.is_empty() {
            break;
        }
    }
    // The graph goes first: its inputs are never closed, so nothing that was due later happens.
    worker.drop_dataflow(dataflow);
    writer.join().expect("the thread that writes has not panicked");
}

/// How long an operator is busy, and since when.
struct Busy {
    counter: Arc<Counter>,
    started: Option<Duration>,
}

/// Counts how long each node's operators are busy.
fn watch_operators(worker: &Worker, watch: &Watch) {
    let Some(mut register) = worker.log_register() else { return };
    let watch = watch.clone();
    // By the operators' small numbers: every batch has an event or two for each of them.
    let mut nodes: Vec<Option<Busy>> = Vec::new();
    register.insert::<TimelyEventBuilder, _>("timely", move |_, events| {
        for (at, event) in events.iter_mut().flat_map(|events| events.drain(..)) {
            match event {
                TimelyEvent::Operates(operator) => {
                    if let Some(counter) = watch.node(&operator.name) {
                        nodes.resize_with(nodes.len().max(operator.id + 1), || None);
                        nodes[operator.id] = Some(Busy { counter, started: None });
                    }
                }
                TimelyEvent::Schedule(schedule) => {
                    let Some(Some(node)) = nodes.get_mut(schedule.id) else { continue };
                    match schedule.start_stop {
                        StartStop::Start => node.started = Some(at),
                        StartStop::Stop => {
                            if let Some(from) = node.started.take() {
                                node.counter.add_busy(at.saturating_sub(from));
                            }
                        }
                    }
                }
                _ => {}
            }
        }
    });
}
