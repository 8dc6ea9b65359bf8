//! What a person sees of a run: counts, times, lag and state by stage. Telemetry only; nothing derived reads it.
//!
//! What is counted is counted by batch, group or interval, in plain atomics. How far a node is, is its frontier as the operator
//! that counts its rows sees it; how long a group took to pass a node, is told from when it was fed.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int32Type;
use tidegate_facts::Tick;
use tidegate_operators::decide::Action;
use tidegate_operators::timeline::{Amounts, Held};

use crate::histogram::{Histogram, Seen};

/// Counters of one run, shared by its threads.
#[derive(Clone)]
pub struct Watch {
    started: Instant,
    stages: Arc<Mutex<BTreeMap<Stage, Arc<Counter>>>>,
    fed: Arc<AtomicU64>,
    /// The newest groups that were fed: where each ends, and when it was fed.
    groups: Arc<Mutex<VecDeque<(Tick, Instant)>>>,
    partitions: Arc<Mutex<Vec<Partition>>>,
    timelines: Arc<Mutex<BTreeMap<String, Arc<Held>>>>,
    loads: Arc<Mutex<Vec<Weak<Load>>>>,
    /// How long the parts of a run take that are no node.
    pub times: Arc<Times>,
}

/// How many groups may be between the feed and the slowest node and still be timed.
const GROUPS_MAX: usize = 4096;

/// How long the parts of a run take that are no node.
#[derive(Debug)]
pub struct Times {
    /// Appending a group to the log, until it is durable.
    pub append: Histogram,
    /// Of this, the sync.
    pub sync: Histogram,
    /// How many records came together in a group.
    pub group_records: Histogram,
    /// Cutting, chaining and writing one table's rows of an interval, on one worker.
    pub write: Histogram,
    /// Publishing a commit once its files are there.
    pub commit: Histogram,
    /// Writing a checkpoint.
    pub checkpoint: Histogram,
}

/// One partition of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Partition {
    /// How many facts it has.
    pub facts: u64,
    /// The tick of the newest that this process has seen.
    pub newest: Option<Tick>,
}

/// What one worker has taken and not finished.
#[derive(Debug, Default)]
pub struct Load {
    /// Rows that have not reached their sinks.
    pub rows: AtomicU64,
    /// Commit boundaries whose commits are not published.
    pub boundaries: AtomicU64,
}

/// A stage, ordered as records pass them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Reading and judging the records of a source; its place and name.
    Source(usize, String),
    /// Stamping, and keeping out duplicates.
    Admission,
    /// Writing to the log, durable.
    Log,
    /// A node of the graph; its place and name.
    Node(usize, String),
}

/// Rows that passed a stage, and the time it was busy.
#[derive(Debug, Default)]
pub struct Counter {
    rows: AtomicU64,
    busy_ns: AtomicU64,
    errors: AtomicU64,
    late: AtomicU64,
    actions: [AtomicU64; Action::ALL.len()],
    latency: Histogram,
    /// How far each worker's part of a node is; gone with the graph.
    reached: Mutex<Vec<Weak<AtomicU64>>>,
}

/// What a stage had done when it was looked at.
#[derive(Clone, Debug)]
pub struct StageReport {
    /// The stage's name.
    pub name: String,
    /// Rows that passed it.
    pub rows: u64,
    /// How long it was busy, over all workers.
    pub busy: Duration,
    /// What failed there: rows whose expressions did, or readings of a source.
    pub errors: u64,
    /// Rows whose event came too late to be answered by its windows.
    pub late: u64,
    /// Decisions by action; counted only while somebody may ask.
    pub actions: [(Action, u64); Action::ALL.len()],
    /// How long a piece of its work took; of a node, until it had passed a group that was fed.
    pub latency: Seen,
    /// Before this tick a node has given all its rows; `None` before it has come to any, and when there is no graph.
    pub reached: Option<Tick>,
    /// What its timelines hold.
    pub held: Option<Amounts>,
}

impl Counter {
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

    /// Runs `work`, a piece of the stage's own, and counts its time.
    pub fn time<R>(&self, work: impl FnOnce() -> R) -> R {
        let from = Instant::now();
        let result = work();
        let took = from.elapsed();
        self.add_busy(took);
        self.latency.time(took);
        result
    }

    /// Counts what failed.
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
            if let Some(place) = Action::ALL.iter().position(|action| Some(action.name()) == name) {
                self.actions[place].fetch_add(count, Ordering::Relaxed);
            }
        }
    }

    /// Where one worker's part of a node says how far it is.
    pub fn place(&self) -> Arc<AtomicU64> {
        let place: Arc<AtomicU64> = Arc::default();
        let mut reached = self.reached.lock().expect("no panic");
        reached.retain(|place| place.strong_count() > 0);
        reached.push(Arc::downgrade(&place));
        place
    }

    /// How far the slowest worker is, once every one has come to something.
    fn reached(&self) -> Option<Tick> {
        let reached = self.reached.lock().expect("no panic");
        let places = reached.iter().filter_map(Weak::upgrade);
        places.map(|place| Tick(place.load(Ordering::Relaxed))).min().filter(|tick| *tick > Tick::ZERO)
    }
}

impl Watch {
    /// A watch over the nodes of a plan, in their order.
    pub fn new(sources: &[String], nodes: &[String]) -> Watch {
        let sources = sources.iter().enumerate().map(|(place, name)| Stage::Source(place, name.clone()));
        let nodes = nodes.iter().enumerate().map(|(place, name)| Stage::Node(place, name.clone()));
        let stages = sources.chain([Stage::Admission, Stage::Log]).chain(nodes);
        Watch {
            started: Instant::now(),
            stages: Arc::new(Mutex::new(stages.map(|stage| (stage, Arc::default())).collect())),
            fed: Arc::default(),
            groups: Arc::default(),
            partitions: Arc::default(),
            timelines: Arc::default(),
            loads: Arc::default(),
            times: Arc::new(Times {
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
    /// When the watch was made without it.
    pub fn stage(&self, stage: &Stage) -> Arc<Counter> {
        Arc::clone(&self.stages.lock().expect("no panic")[stage])
    }

    /// The counter of a node.
    ///
    /// # Panics
    /// When the watch was made without it.
    pub fn rows_of(&self, node: &str) -> Arc<Counter> {
        self.node(node).expect("the watch was made with the plan's nodes")
    }

    /// The counter of the node whose operators carry `name`: its name alone, or before a colon.
    pub fn node(&self, name: &str) -> Option<Arc<Counter>> {
        let node = name.split(':').next().unwrap_or(name);
        let stages = self.stages.lock().expect("no panic");
        stages
            .iter()
            .find(|(stage, _)| matches!(stage, Stage::Node(_, n) if n == node))
            .map(|(_, c)| Arc::clone(c))
    }

    /// Everything before `upper` was fed to the graph.
    pub fn fed(&self, upper: Tick) {
        if self.fed.fetch_max(upper.0, Ordering::Relaxed) >= upper.0 {
            return; // A group without facts moves nothing.
        }
        let mut groups = self.groups.lock().expect("no panic");
        if groups.len() == GROUPS_MAX {
            groups.pop_front();
        }
        groups.push_back((upper, Instant::now()));
    }

    /// A worker's part of a node has come to `upper`: the groups up to there have passed it.
    pub fn passed(&self, node: &Counter, place: &AtomicU64, upper: Tick) {
        let from = Tick(place.swap(upper.0, Ordering::Relaxed));
        let groups = self.groups.lock().expect("no panic");
        let after = |bound: Tick| groups.partition_point(|(end, _)| *end <= bound);
        let (first, end) = (after(from), after(upper));
        for (_, fed) in groups.range(first.min(end)..end) {
            node.latency.time(fed.elapsed());
        }
    }

    /// How the partitions of the log stand.
    pub fn set_partitions(&self, partitions: impl Iterator<Item = Partition>) {
        let mut known = self.partitions.lock().expect("no panic");
        known.clear();
        known.extend(partitions);
    }

    /// The partitions of the log, in order.
    pub fn partitions(&self) -> Vec<Partition> {
        self.partitions.lock().expect("no panic").clone()
    }

    /// Where what a timeline holds is counted, by its name: the node's, a slash, and a number.
    pub fn timeline(&self, name: &str) -> Arc<Held> {
        Arc::clone(self.timelines.lock().expect("no panic").entry(name.to_owned()).or_default())
    }

    /// Where a worker says what it has under way.
    pub fn load(&self) -> Arc<Load> {
        let load: Arc<Load> = Arc::default();
        let mut loads = self.loads();
        loads.retain(|load| load.strong_count() > 0);
        loads.push(Arc::downgrade(&load));
        load
    }

    /// Rows and commit boundaries under way, the most of any worker.
    pub fn under_way(&self) -> (u64, u64) {
        let most = |of: fn(&Load) -> &AtomicU64| {
            let loads = self.loads();
            loads.iter().filter_map(Weak::upgrade).map(|load| of(&load).load(Ordering::Relaxed)).max()
        };
        (most(|load| &load.rows).unwrap_or(0), most(|load| &load.boundaries).unwrap_or(0))
    }

    fn loads(&self) -> MutexGuard<'_, Vec<Weak<Load>>> {
        self.loads.lock().expect("no panic")
    }

    /// Counts rows of errors at the nodes that they name.
    pub fn add_errors(&self, rows: &RecordBatch) {
        let Some(nodes) = rows.column_by_name("node").and_then(|nodes| nodes.as_string_opt::<i32>()) else {
            return;
        };
        let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
        for node in nodes.iter().flatten() {
            *counts.entry(node).or_default() += 1;
        }
        for (node, errors) in counts {
            if let Some(counter) = self.node(node) {
                counter.add_errors(errors);
            }
        }
    }

    /// What the timelines of a node hold, if it has some.
    fn held(&self, node: &str) -> Option<Amounts> {
        let timelines = self.timelines.lock().expect("no panic");
        let own = timelines.iter().filter(|(name, _)| name.rsplit_once('/').is_some_and(|(n, _)| n == node));
        own.map(|(_, held)| held.amounts()).reduce(|mut all, amounts| {
            all += amounts;
            all
        })
    }

    /// How far the graph was fed.
    pub fn fed_upper(&self) -> Tick {
        Tick(self.fed.load(Ordering::Relaxed))
    }

    /// The time since the run began.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Every stage, in order.
    pub fn report(&self) -> Vec<StageReport> {
        let stages = self.stages.lock().expect("no panic");
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
                actions: std::array::from_fn(|place| {
                    (Action::ALL[place], counter.actions[place].load(Ordering::Relaxed))
                }),
                latency: counter.latency.seen(),
                reached: counter.reached(),
                held: match stage {
                    Stage::Node(_, name) => self.held(name),
                    _ => None,
                },
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_timed_once_at_each_node_and_worker_that_it_passes() {
        let watch = Watch::new(&[], &["a".to_owned()]);
        let node = watch.rows_of("a");
        let (here, there) = (node.place(), node.place());
        for upper in [10, 20, 20, 30] {
            watch.fed(Tick(upper));
        }
        let timed = || node.latency.seen().count;
        watch.passed(&node, &here, Tick(9));
        assert_eq!((timed(), node.reached()), (0, None), "no group is whole yet");
        watch.passed(&node, &here, Tick(20));
        assert_eq!((timed(), node.reached()), (2, None), "the other worker has seen nothing");
        watch.passed(&node, &there, Tick(30));
        assert_eq!((timed(), node.reached()), (5, Some(Tick(20))));
        drop((here, there));
        assert_eq!(node.reached(), None, "without a graph nothing is said");
    }

    #[test]
    fn what_timelines_hold_is_added_up_by_node() {
        let watch = Watch::new(&[], &["a".to_owned(), "b".to_owned()]);
        let (_, _) = (watch.timeline("a/0"), watch.timeline("a/1"));
        let held: Vec<_> = watch.report().into_iter().map(|stage| stage.held).collect();
        assert_eq!(held, [None, None, Some(Amounts::default()), None], "admission, log, a and b");
    }
}
