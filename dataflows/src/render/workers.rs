//! Timely workers: each builds the graph of a plan, takes the groups of the log, and steps until
//! everything is committed.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::Thread;
use std::time::Duration;

use arrow::array::RecordBatch;
use parking_lot::Mutex;
use tidegate_facts::Tick;
use tidegate_host::Tasks;
use tidegate_operators::core::rows::Rows;
use timely::communication::WorkerGuards;
use timely::container::{CapacityContainerBuilder, NoopBuilder};
use timely::dataflow::InputHandle;
use timely::logging::{StartStop, TimelyEvent, TimelyEventBuilder};
use timely::worker::Worker;

use crate::commit::{CommitBoundary, CommitContext, TableWriter};
use crate::ingest::log_feed::GroupInput;
use crate::metrics::{Counter, RunMetrics, WorkerLoad};
use crate::plan::Plan;
use crate::render::graph::{Probes, render};
use crate::serve::ServeState;
use crate::thread_priority::Priority;

/// The running timely workers of one graph.
pub struct Workers {
    senders: Vec<SyncSender<WorkerInput>>,
    /// Their threads, which park while there is nothing to do.
    threads: Vec<Thread>,
    serve: Option<Arc<ServeState>>,
    guards: WorkerGuards<()>,
}

impl Workers {
    /// Starts `count` workers of a plan's graph, each with a writer queue from `tasks`.
    ///
    /// # Errors
    /// Timely's message when they cannot be started.
    pub fn start(
        plan: &Arc<Plan>,
        count: usize,
        context: &CommitContext,
        metrics: &RunMetrics,
        tasks: &Arc<dyn Tasks>,
    ) -> Result<Workers, String> {
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..count).map(|_| sync_channel(4)).unzip();
        let (plan, metrics, context) = (Arc::clone(plan), metrics.clone(), context.clone());
        let (serve, tasks) = (context.serve.clone(), Arc::clone(tasks));
        let receivers: Mutex<Vec<_>> = Mutex::new(receivers.into_iter().map(Some).collect());
        let guards = timely::execute(timely::Config::process(count), move |worker| {
            let receiver = receivers.lock()[worker.index()].take().expect("one for each worker");
            let mut worker = GraphWorker::new(worker, &plan, receiver, &context, &metrics, &*tasks);
            while worker.turn(Some(PARK_MAX)) == WorkerStatus::Running {}
            worker.finish();
        })?;
        let threads = guards.guards().iter().map(|guard| guard.thread().clone()).collect();
        Ok(Workers { senders, threads, serve, guards })
    }

    /// Gives the workers one group; waits while they have more than enough.
    ///
    /// # Errors
    /// When a worker is gone; [`Workers::finish`] returns why.
    pub fn send(&self, group: GroupInput) -> Result<(), String> {
        if let Some(serve) = &self.serve {
            serve.ingress.add_computing(self.senders.len());
        }
        for ((sender, thread), rows) in self.senders.iter().zip(&self.threads).zip(group.rows) {
            let (upper, boundaries) = (group.upper, group.boundaries.clone());
            let input = WorkerInput { rows, upper, boundaries };
            sender.send(input).map_err(|_| "a worker has stopped".to_owned())?;
            thread.unpark();
        }
        Ok(())
    }

    /// Waits until every group is computed, and committed up to the last boundary.
    ///
    /// # Errors
    /// The message of a worker that panicked.
    pub fn finish(self) -> Result<(), String> {
        drop(self.senders);
        self.guards.join().into_iter().collect()
    }
}

/// What one worker takes of a group of the log: the rows of its partitions.
pub struct WorkerInput {
    /// The rows of the partitions that it owns.
    pub rows: Vec<RecordBatch>,
    /// Everything before this tick is in this input and those before it.
    pub upper: Tick,
    /// The commit boundaries up to `upper`.
    pub boundaries: Vec<CommitBoundary>,
}

/// A worker takes no further group while this many rows are under way in the graph.
const ROWS_IN_FLIGHT_MAX: usize = 1 << 18;

/// A worker takes no further group while more than this many boundaries wait for their commits.
const BOUNDARIES_IN_FLIGHT_MAX: usize = 2;

/// How long a worker parks before it looks for failures by itself.
const PARK_MAX: Duration = Duration::from_millis(10);

/// Whether a worker of a graph has more to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerStatus {
    /// It has, or will have when another group comes.
    Running,
    /// No more groups come, and every group is computed and committed; or the run has failed.
    Finished,
}

/// One timely worker of a graph, which runs as long as [`GraphWorker::turn`] is called.
///
/// A thread of [`Workers`] calls it in a loop and parks; a simulation draws which worker has the
/// next turn.
pub struct GraphWorker<'w> {
    worker: &'w mut Worker,
    receiver: Receiver<WorkerInput>,
    context: CommitContext,
    writer: TableWriter,
    load: Arc<WorkerLoad>,
    dataflow: usize,
    rows: InputHandle<Tick, NoopBuilder<Rows>>,
    boundaries: InputHandle<Tick, CapacityContainerBuilder<Vec<CommitBoundary>>>,
    probes: Probes,
    /// The groups that are not computed: where each ends, and how many rows it has.
    under_way: VecDeque<(Tick, usize)>,
    /// The boundaries that are not committed. A run that was cut short leaves rows behind the last
    /// one, which are not waited for.
    uncommitted: VecDeque<Tick>,
    /// No more groups come.
    has_ended: bool,
}

impl<'w> GraphWorker<'w> {
    /// Builds the graph of a plan on a timely worker, which gets its groups from `receiver`.
    pub fn new(
        worker: &'w mut Worker,
        plan: &Plan,
        receiver: Receiver<WorkerInput>,
        context: &CommitContext,
        metrics: &RunMetrics,
        tasks: &dyn Tasks,
    ) -> GraphWorker<'w> {
        time_operators(worker, metrics);
        let dataflow = worker.next_dataflow_index();
        let mut rows: InputHandle<Tick, NoopBuilder<Rows>> = InputHandle::new_with_builder();
        let mut boundaries: InputHandle<Tick, CapacityContainerBuilder<Vec<CommitBoundary>>> =
            InputHandle::new_with_builder();
        let mut restored: BTreeMap<String, InputHandle<Tick, NoopBuilder<Rows>>> = BTreeMap::new();
        if context.target.state_store().is_some() {
            let names = plan.timelines().into_keys();
            restored = names.map(|name| (name, InputHandle::new_with_builder())).collect();
        }
        let writer = TableWriter::start(context, worker.index(), metrics, tasks);
        let probes = worker.dataflow::<Tick, _, _>(|scope| {
            let facts = rows.to_stream(scope);
            let cuts = boundaries.to_stream(scope);
            let restored =
                restored.iter_mut().map(|(name, input)| (name.clone(), input.to_stream(scope))).collect();
            render(scope, plan, facts, cuts, restored, &writer, metrics)
        });
        if worker.index() == 0 {
            let mut timelines = std::mem::take(&mut *context.timelines.lock());
            for (name, input) in &mut restored {
                for batch in timelines.remove(name).into_iter().flatten() {
                    input.send_batch(&mut Rows(batch));
                    worker.step();
                }
            }
        }
        drop(restored); // Nothing more is restored.
        // The restored state is complete up to there, whether or not a group follows.
        rows.advance_to(context.restored);
        boundaries.advance_to(context.restored);
        GraphWorker {
            worker,
            receiver,
            context: context.clone(),
            writer,
            load: metrics.worker_load(),
            dataflow,
            rows,
            boundaries,
            probes,
            under_way: VecDeque::new(),
            uncommitted: VecDeque::new(),
            has_ended: false,
        }
    }

    /// Takes a group if there is one and room for it, and steps the graph once. Without a group it
    /// parks for up to `park` if the graph has nothing to do; with `None` it never parks.
    pub fn turn(&mut self, park: Option<Duration>) -> WorkerStatus {
        if self.context.failed.lock().is_some() || self.writer.has_panicked() {
            return WorkerStatus::Finished;
        }
        self.note_progress();
        let rows_in_flight = self.under_way.iter().map(|(_, rows)| rows).sum::<usize>();
        self.load.rows.store(rows_in_flight as u64, Ordering::Relaxed);
        self.load.boundaries.store(self.uncommitted.len() as u64, Ordering::Relaxed);
        let is_full =
            rows_in_flight >= ROWS_IN_FLIGHT_MAX || self.uncommitted.len() > BOUNDARIES_IN_FLIGHT_MAX;
        let received = match self.has_ended || is_full {
            true => Err(TryRecvError::Empty),
            false => self.receiver.try_recv(),
        };
        match received {
            Ok(input) => {
                self.take(input);
                self.worker.step();
            }
            Err(TryRecvError::Disconnected) => self.has_ended = true,
            // Senders and the writer wake a parked worker; the bound is for a failure elsewhere.
            Err(TryRecvError::Empty) => {
                let _ = match park {
                    Some(park) => self.worker.step_or_park(Some(park)),
                    None => self.worker.step(),
                };
            }
        }
        let is_done = self.has_ended && self.under_way.is_empty() && self.uncommitted.is_empty();
        if is_done { WorkerStatus::Finished } else { WorkerStatus::Running }
    }

    /// Removes the groups that are computed, and the boundaries that are committed.
    fn note_progress(&mut self) {
        let groups = self.under_way.len();
        while self.under_way.front().is_some_and(|(tick, _)| !self.probes.computed.less_than(tick)) {
            self.under_way.pop_front();
        }
        if let Some(serve) = &self.context.serve
            && self.under_way.len() < groups
        {
            serve.ingress.computed(groups - self.under_way.len());
            // Yield, so that the gate and HTTP threads run before this worker's next step.
            std::thread::yield_now();
        }
        while self.uncommitted.front().is_some_and(|upper| !self.probes.committed.less_than(upper)) {
            self.uncommitted.pop_front();
        }
    }

    /// Sends a group into the graph.
    fn take(&mut self, input: WorkerInput) {
        if let Some(serve) = self.context.serve.as_ref().filter(|_| self.under_way.is_empty()) {
            // Not in real time until it has computed everything that came before the first call.
            serve.ingress.set_priority_for_current_thread(Priority::Compute);
        }
        let count = input.rows.iter().map(RecordBatch::num_rows).sum();
        for batch in input.rows {
            self.rows.send_batch(&mut Rows(batch));
        }
        for boundary in input.boundaries {
            if boundary.upper > self.context.lower {
                self.uncommitted.push_back(boundary.upper);
            }
            self.boundaries.send(boundary);
        }
        // A group without facts does not advance time, and its buffered boundaries must be sent all
        // the same.
        self.boundaries.flush();
        // Groups before the restored tick are read again only for the state of the log.
        let upper = input.upper.max(self.context.restored);
        self.rows.advance_to(upper);
        self.boundaries.advance_to(upper);
        self.under_way.push_back((upper, count));
    }

    /// Drops the graph, and waits for its writer.
    ///
    /// # Panics
    /// With the panic of a write job.
    pub fn finish(self) {
        // The graph goes first: its inputs are never closed, so nothing that would be due later
        // happens.
        self.worker.drop_dataflow(self.dataflow);
        self.writer.finish();
    }
}

/// The busy time of one operator.
struct OperatorTimer {
    counter: Arc<Counter>,
    started: Option<Duration>,
}

/// Counts how long each node's operators are busy.
fn time_operators(worker: &Worker, metrics: &RunMetrics) {
    let Some(mut register) = worker.log_register() else { return };
    let metrics = metrics.clone();
    // By the operators' small ids: every batch has an event or two for each of them.
    let mut timers: Vec<Option<OperatorTimer>> = Vec::new();
    register.insert::<TimelyEventBuilder, _>("timely", move |_, events| {
        for (at, event) in events.iter_mut().flat_map(|events| events.drain(..)) {
            match event {
                TimelyEvent::Operates(operator) => {
                    if let Some(counter) = metrics.node_of_operator(&operator.name) {
                        timers.resize_with(timers.len().max(operator.id + 1), || None);
                        timers[operator.id] = Some(OperatorTimer { counter, started: None });
                    }
                }
                TimelyEvent::Schedule(schedule) => {
                    let Some(Some(timer)) = timers.get_mut(schedule.id) else { continue };
                    match schedule.start_stop {
                        StartStop::Start => timer.started = Some(at),
                        StartStop::Stop => {
                            if let Some(from) = timer.started.take() {
                                timer.counter.add_busy(at.saturating_sub(from));
                            }
                        }
                    }
                }
                _ => {}
            }
        }
    });
}
