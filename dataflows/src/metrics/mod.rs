//! Counters, times and progress of a run, by stage. Telemetry only: nothing that is derived reads
//! them.
//!
//! Rows, groups and intervals are counted in plain atomics. The progress of a node is its frontier
//! as the operator that counts its rows sees it; the latency of a node is the time from when a
//! group went to the workers until the node's frontier passed it.

pub mod histogram;

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int32Type;
use parking_lot::Mutex;
use tidegate_facts::{Reason, Tick};
use tidegate_host::{Clock, SystemClock};
use tidegate_operators::decision::decide::Action;
use tidegate_operators::temporal::timeline::{TimelineMetrics, Totals};

use crate::metrics::histogram::{Histogram, HistogramSnapshot};
use crate::timeline_names::node_of_timeline;

/// The metrics of one run: counters by stage, shared by its threads.
#[derive(Clone)]
pub struct RunMetrics {
    clock: Arc<dyn Clock>,
    /// When the run began, on the monotonic clock.
    started: Duration,
    stages: Arc<Mutex<BTreeMap<Stage, Arc<Counter>>>>,
    fed_upper: Arc<AtomicI64>,
    fed_facts: Arc<AtomicU64>,
    /// The newest groups that the workers got: where each ends, and when they got it.
    groups: Arc<Mutex<VecDeque<(Tick, Duration)>>>,
    partitions: Arc<Mutex<Vec<PartitionProgress>>>,
    timelines: Arc<Mutex<BTreeMap<String, Arc<TimelineMetrics>>>>,
    loads: Arc<Mutex<Vec<Weak<WorkerLoad>>>>,
    /// How long the parts of a run take that belong to no node.
    pub times: Arc<RunTimes>,
}

/// How many groups may be between the log and the slowest node and still be timed.
const GROUPS_MAX: usize = 4096;

/// The metrics of the parts of a run that belong to no node, as histograms.
#[derive(Debug)]
pub struct RunTimes {
    /// Appending a group to the log, until it is durable.
    pub append: Histogram,
    /// The sync, a part of `append`.
    pub sync: Histogram,
    /// How many records a group holds.
    pub group_records: Histogram,
    /// Cutting, chaining and writing one table's rows of an interval, on one worker.
    pub write: Histogram,
    /// Publishing a commit once its files are written.
    pub commit: Histogram,
    /// Writing a checkpoint.
    pub checkpoint: Histogram,
}

/// The metrics of admission: how many records got each verdict.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AdmissionCounts {
    /// New facts.
    pub admitted: u64,
    /// Duplicates of facts.
    pub duplicate: u64,
    /// Refused records, by reason.
    pub quarantined: BTreeMap<Reason, u64>,
}

impl AdmissionCounts {
    /// All records.
    pub fn records(&self) -> u64 {
        self.admitted + self.duplicate + self.quarantined.values().sum::<u64>()
    }
}

/// The progress of one partition of the log, among the metrics of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PartitionProgress {
    /// How many facts it has.
    pub facts: u64,
    /// The tick of the newest fact that this process has read or written.
    pub newest: Option<Tick>,
}

/// The load of one worker, among the metrics of a run: what it has taken and not finished.
#[derive(Debug, Default)]
pub struct WorkerLoad {
    /// Rows that have not reached their sinks.
    pub rows: AtomicU64,
    /// Commit boundaries whose commits are not published.
    pub boundaries: AtomicU64,
}

/// A stage of a run that has metrics of its own; stages are ordered as records pass them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Reading and validating the records of a source; its number and name.
    Source(usize, String),
    /// Stamping records and finding duplicates.
    Admission,
    /// Writing groups to the log, until they are durable.
    Log,
    /// A node of the graph; its number and name.
    Node(usize, String),
}

/// The metrics of one stage: rows that passed it, and the time it was busy.
#[derive(Debug)]
pub struct Counter {
    clock: Arc<dyn Clock>,
    rows: AtomicU64,
    busy_ns: AtomicU64,
    errors: AtomicU64,
    late: AtomicU64,
    actions: [AtomicU64; Action::ALL.len()],
    latency: Histogram,
    /// The frontier of each worker's part of a node; dropped with the graph.
    frontiers: Mutex<Vec<Weak<AtomicI64>>>,
}

/// The metrics of one stage at one moment.
#[derive(Clone, Debug)]
pub struct StageReport {
    /// The stage's name.
    pub name: String,
    /// Rows that passed it.
    pub rows: u64,
    /// How long it was busy, over all workers.
    pub busy: Duration,
    /// Rows whose expressions failed; of a source, failed readings.
    pub errors: u64,
    /// Rows whose event came too late for the windows to answer it.
    pub late: u64,
    /// Decisions by action; counted only while the topology is served.
    pub actions: [(Action, u64); Action::ALL.len()],
    /// How long a piece of its work took; of a node, until it had passed a group.
    pub latency: HistogramSnapshot,
    /// The frontier of a node: it has emitted all its rows before this tick. `None` before the
    /// first row, and when there is no graph.
    pub frontier: Option<Tick>,
    /// The rows and bytes in a node's timelines, if it has some.
    pub timelines: Option<Totals>,
}

impl Counter {
    fn new(clock: &Arc<dyn Clock>) -> Counter {
        Counter {
            clock: Arc::clone(clock),
            rows: AtomicU64::default(),
            busy_ns: AtomicU64::default(),
            errors: AtomicU64::default(),
            late: AtomicU64::default(),
            actions: <[AtomicU64; Action::ALL.len()]>::default(),
            latency: Histogram::default(),
            frontiers: Mutex::default(),
        }
    }

    /// Counts rows.
    pub fn add(&self, rows: u64) {
        self.rows.fetch_add(rows, Ordering::Relaxed);
    }

    /// The rows counted so far.
    pub fn rows(&self) -> u64 {
        self.rows.load(Ordering::Relaxed)
    }

    /// Counts busy time.
    pub fn add_busy(&self, busy: Duration) {
        self.busy_ns.fetch_add(u64::try_from(busy.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Runs `work`, a piece of the stage's own work, and counts its time.
    pub fn time<R>(&self, work: impl FnOnce() -> R) -> R {
        let started = self.clock.monotonic();
        let result = work();
        let elapsed = self.clock.monotonic().saturating_sub(started);
        self.add_busy(elapsed);
        self.latency.record_duration(elapsed);
        result
    }

    /// Counts failures.
    pub fn add_errors(&self, errors: u64) {
        self.errors.fetch_add(errors, Ordering::Relaxed);
    }

    /// Counts rows that came too late for their windows.
    pub fn add_late(&self, rows: u64) {
        self.late.fetch_add(rows, Ordering::Relaxed);
    }

    /// Counts decisions by action.
    pub fn add_decisions(&self, rows: &RecordBatch) {
        let Some(actions) = rows.column_by_name("action") else { return };
        let Some(actions) = actions.as_dictionary_opt::<Int32Type>() else { return };
        let mut counts = vec![0; actions.values().len()];
        for key in actions.keys().values() {
            counts[*key as usize] += 1;
        }
        for (name, count) in actions.values().as_string::<i32>().iter().zip(counts) {
            if let Some(index) = Action::ALL.iter().position(|action| Some(action.name()) == name) {
                self.actions[index].fetch_add(count, Ordering::Relaxed);
            }
        }
    }

    /// A frontier that one worker's part of a node keeps up to date; see [`RunMetrics::advance`].
    pub fn worker_frontier(&self) -> Arc<AtomicI64> {
        let frontier: Arc<AtomicI64> = Arc::default();
        let mut frontiers = self.frontiers.lock();
        frontiers.retain(|frontier| frontier.strong_count() > 0);
        frontiers.push(Arc::downgrade(&frontier));
        frontier
    }

    /// The frontier of the slowest worker, once every worker's is past the beginning.
    fn frontier(&self) -> Option<Tick> {
        let frontiers = self.frontiers.lock();
        let live = frontiers.iter().filter_map(Weak::upgrade);
        live.map(|frontier| Tick(frontier.load(Ordering::Relaxed))).min().filter(|tick| *tick > Tick::ZERO)
    }
}

impl RunMetrics {
    /// Counters for these sources and nodes, in the order of the plan; times are those of this
    /// machine.
    pub fn new(sources: &[String], nodes: &[String]) -> RunMetrics {
        RunMetrics::on_clock(sources, nodes, Arc::new(SystemClock))
    }

    /// As [`RunMetrics::new`], with times by this clock.
    pub fn on_clock(sources: &[String], nodes: &[String], clock: Arc<dyn Clock>) -> RunMetrics {
        let sources = sources.iter().enumerate().map(|(number, name)| Stage::Source(number, name.clone()));
        let nodes = nodes.iter().enumerate().map(|(number, name)| Stage::Node(number, name.clone()));
        let stages = sources.chain([Stage::Admission, Stage::Log]).chain(nodes);
        let stages = stages.map(|stage| (stage, Arc::new(Counter::new(&clock)))).collect();
        RunMetrics {
            started: clock.monotonic(),
            clock,
            stages: Arc::new(Mutex::new(stages)),
            fed_upper: Arc::default(),
            fed_facts: Arc::default(),
            groups: Arc::default(),
            partitions: Arc::default(),
            timelines: Arc::default(),
            loads: Arc::default(),
            times: Arc::new(RunTimes {
                append: Histogram::of_micros(),
                sync: Histogram::of_micros(),
                group_records: Histogram::of_counts(),
                write: Histogram::of_micros(),
                commit: Histogram::of_micros(),
                checkpoint: Histogram::of_micros(),
            }),
        }
    }

    /// The counter of a stage.
    ///
    /// # Panics
    /// When the metrics were made without it.
    pub fn stage(&self, stage: &Stage) -> Arc<Counter> {
        Arc::clone(&self.stages.lock()[stage])
    }

    /// The counter of a node.
    ///
    /// # Panics
    /// When the metrics were made without it.
    pub fn node(&self, node: &str) -> Arc<Counter> {
        self.node_of_operator(node).expect("the metrics were made with the plan's nodes")
    }

    /// The counter of the node whose operator has this name: the node's name alone, or the node's
    /// name and a colon.
    pub fn node_of_operator(&self, operator: &str) -> Option<Arc<Counter>> {
        let node = operator.split(':').next().unwrap_or(operator);
        let stages = self.stages.lock();
        stages
            .iter()
            .find(|(stage, _)| matches!(stage, Stage::Node(_, n) if n == node))
            .map(|(_, c)| Arc::clone(c))
    }

    /// Records that the workers got so many facts more, and with them everything before `upper`.
    pub fn record_fed(&self, facts: usize, upper: Tick) {
        self.fed_facts.fetch_add(facts as u64, Ordering::Relaxed);
        if self.fed_upper.fetch_max(upper.0, Ordering::Relaxed) >= upper.0 {
            return; // A group without facts moves nothing.
        }
        let mut groups = self.groups.lock();
        if groups.len() == GROUPS_MAX {
            groups.pop_front();
        }
        groups.push_back((upper, self.clock.monotonic()));
    }

    /// Advances the frontier of one worker's part of a node to `upper`, and records the latency of
    /// the groups that it passed.
    pub fn advance(&self, node: &Counter, frontier: &AtomicI64, upper: Tick) {
        let from = Tick(frontier.swap(upper.0, Ordering::Relaxed));
        let groups = self.groups.lock();
        let after = |bound: Tick| groups.partition_point(|(end, _)| *end <= bound);
        let (first, end) = (after(from), after(upper));
        let now = self.clock.monotonic();
        for (_, fed) in groups.range(first.min(end)..end) {
            node.latency.record_duration(now.saturating_sub(*fed));
        }
    }

    /// Replaces the progress of the log's partitions.
    pub fn set_partitions(&self, partitions: impl Iterator<Item = PartitionProgress>) {
        let mut current = self.partitions.lock();
        current.clear();
        current.extend(partitions);
    }

    /// The progress of the log's partitions, in order.
    pub fn partitions(&self) -> Vec<PartitionProgress> {
        self.partitions.lock().clone()
    }

    /// The counts of a timeline's rows and bytes, by its name in [`crate::timeline_names`].
    pub fn timeline(&self, name: &str) -> Arc<TimelineMetrics> {
        Arc::clone(self.timelines.lock().entry(name.to_owned()).or_default())
    }

    /// The load of a worker, which keeps it up to date for as long as it holds it.
    pub fn worker_load(&self) -> Arc<WorkerLoad> {
        let load: Arc<WorkerLoad> = Arc::default();
        let mut loads = self.loads.lock();
        loads.retain(|load| load.strong_count() > 0);
        loads.push(Arc::downgrade(&load));
        load
    }

    /// Rows and commit boundaries under way, each of the worker that has most of them.
    pub fn under_way(&self) -> (u64, u64) {
        let most = |of: fn(&WorkerLoad) -> &AtomicU64| {
            let loads = self.loads.lock();
            loads.iter().filter_map(Weak::upgrade).map(|load| of(&load).load(Ordering::Relaxed)).max()
        };
        (most(|load| &load.rows).unwrap_or(0), most(|load| &load.boundaries).unwrap_or(0))
    }

    /// Counts rows of the `errors` table at the nodes that they name.
    pub fn add_errors(&self, rows: &RecordBatch) {
        let Some(nodes) = rows.column_by_name("node").and_then(|nodes| nodes.as_string_opt::<i32>()) else {
            return;
        };
        let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
        for node in nodes.iter().flatten() {
            *counts.entry(node).or_default() += 1;
        }
        for (node, errors) in counts {
            if let Some(counter) = self.node_of_operator(node) {
                counter.add_errors(errors);
            }
        }
    }

    /// The rows and bytes in the timelines of a node, if it has some.
    fn timelines_of(&self, node: &str) -> Option<Totals> {
        let timelines = self.timelines.lock();
        let own = timelines.iter().filter(|(name, _)| node_of_timeline(name) == node);
        own.map(|(_, timeline)| timeline.totals()).reduce(|mut all, totals| {
            all += totals;
            all
        })
    }

    /// The number of facts that the workers got.
    pub fn fed_facts(&self) -> u64 {
        self.fed_facts.load(Ordering::Relaxed)
    }

    /// The tick before which the workers got everything.
    pub fn fed_upper(&self) -> Tick {
        Tick(self.fed_upper.load(Ordering::Relaxed))
    }

    /// The time since the run began.
    pub fn elapsed(&self) -> Duration {
        self.clock.monotonic().saturating_sub(self.started)
    }

    /// The clock of all times here.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// The counters of every stage, in order.
    pub fn report(&self) -> Vec<StageReport> {
        let stages = self.stages.lock();
        stages
            .iter()
            .map(|(stage, counter)| StageReport {
                name: match stage {
                    Stage::Source(_, name) => format!("source {name}"),
                    Stage::Admission => "gate: admission".to_owned(),
                    Stage::Log => "gate: log".to_owned(),
                    Stage::Node(_, name) => name.clone(),
                },
                rows: counter.rows.load(Ordering::Relaxed),
                busy: Duration::from_nanos(counter.busy_ns.load(Ordering::Relaxed)),
                errors: counter.errors.load(Ordering::Relaxed),
                late: counter.late.load(Ordering::Relaxed),
                actions: std::array::from_fn(|index| {
                    (Action::ALL[index], counter.actions[index].load(Ordering::Relaxed))
                }),
                latency: counter.latency.snapshot(),
                frontier: counter.frontier(),
                timelines: match stage {
                    Stage::Node(_, name) => self.timelines_of(name),
                    _ => None,
                },
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use tidegate_host::ManualClock;

    use super::*;

    #[test]
    fn times_are_those_of_the_clock() {
        let clock = ManualClock::new(0);
        let metrics = RunMetrics::on_clock(&[], &["a".to_owned()], Arc::new(clock.clone()));
        metrics.stage(&Stage::Log).time(|| clock.advance(Duration::from_secs(3)));
        let busy: Vec<Duration> = metrics.report().into_iter().map(|stage| stage.busy).collect();
        assert_eq!(busy, [Duration::ZERO, Duration::from_secs(3), Duration::ZERO], "admission, log and a");
        assert_eq!(metrics.elapsed(), Duration::from_secs(3));
    }

    #[test]
    fn a_group_is_timed_once_at_each_node_and_worker_that_it_passes() {
        let metrics = RunMetrics::new(&[], &["a".to_owned()]);
        let node = metrics.node("a");
        let (first, second) = (node.worker_frontier(), node.worker_frontier());
        for upper in [10, 20, 20, 30] {
            metrics.record_fed(1, Tick(upper));
        }
        let timed = || node.latency.snapshot().count;
        metrics.advance(&node, &first, Tick(9));
        assert_eq!((timed(), node.frontier()), (0, None), "no group is whole yet");
        metrics.advance(&node, &first, Tick(20));
        assert_eq!((timed(), node.frontier()), (2, None), "the other worker is at the beginning");
        metrics.advance(&node, &second, Tick(30));
        assert_eq!((timed(), node.frontier()), (5, Some(Tick(20))));
        drop((first, second));
        assert_eq!(node.frontier(), None, "without a graph there is no frontier");
    }

    #[test]
    fn the_totals_of_timelines_are_added_up_by_node() {
        let metrics = RunMetrics::new(&[], &["a".to_owned(), "b".to_owned()]);
        let (_, _) = (metrics.timeline("a/0"), metrics.timeline("a/1"));
        let totals: Vec<_> = metrics.report().into_iter().map(|stage| stage.timelines).collect();
        assert_eq!(totals, [None, None, Some(Totals::default()), None], "admission, log, a and b");
    }
}
