//! What a person sees of a run: counts and busy times by stage. Telemetry only; nothing derived reads it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tidegate_facts::Tick;

/// Counters of one run, shared by its threads.
#[derive(Clone)]
pub struct Watch {
    started: Instant,
    stages: Arc<Mutex<BTreeMap<Stage, Arc<Counter>>>>,
    fed: Arc<AtomicU64>,
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

    /// Runs `work` and counts its time.
    pub fn time<R>(&self, work: impl FnOnce() -> R) -> R {
        let from = Instant::now();
        let result = work();
        self.add_busy(from.elapsed());
        result
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
        self.fed.fetch_max(upper.0, Ordering::Relaxed);
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
            })
            .collect()
    }
}
