//! The timelines of a running graph as readers see them, and the basis at the end of each recent
//! group.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use parking_lot::Mutex;
use tidegate_facts::Tick;
use tidegate_operators::temporal::timeline::{PublishedTimeline, TimelineSnapshot};

/// The published timelines of a graph, one part of each for each worker.
#[derive(Default)]
pub struct LiveTimelines {
    timelines: Mutex<BTreeMap<String, Vec<Arc<PublishedTimeline>>>>,
    /// Timelines keep the rows that look-ups as of this tick reach.
    since: Arc<AtomicI64>,
}

impl LiveTimelines {
    /// Adds a worker's part of a timeline, which begins with the rows restored from before
    /// `restored`.
    pub(crate) fn add(&self, timeline: &str, restored: Tick) -> Arc<PublishedTimeline> {
        let published = Arc::new(PublishedTimeline::new(restored, Arc::clone(&self.since)));
        self.timelines.lock().entry(timeline.to_owned()).or_default().push(Arc::clone(&published));
        published
    }

    /// The current snapshot of each worker's part of a timeline; none of an unknown timeline.
    pub fn snapshots(&self, timeline: &str) -> Vec<Arc<TimelineSnapshot>> {
        self.timelines.lock().get(timeline).into_iter().flatten().map(|part| part.snapshot()).collect()
    }

    /// The tick before which every timeline is complete on every worker; `None` when there are no
    /// timelines.
    pub(crate) fn upper(&self) -> Option<Tick> {
        self.timelines.lock().values().flatten().map(|part| part.snapshot().upper).min()
    }

    /// No look-up needs the rows any more that only ticks before `since` reach.
    pub(crate) fn set_since(&self, since: Tick) {
        self.since.store(since.0, Ordering::Relaxed);
    }

    pub(crate) fn clear(&self) {
        self.timelines.lock().clear();
    }
}

/// For how many of the last groups [`BasisHistory`] keeps the basis.
const GROUPS_KEPT: usize = 1024;

/// The ends of the newest groups that the workers got, and the basis at each: the number of facts
/// of each partition before it.
#[derive(Default)]
pub(crate) struct BasisHistory(Mutex<VecDeque<(Tick, Vec<i64>)>>);

impl BasisHistory {
    /// Adds the next group; groups that end at `computed` or before are dropped once there are too
    /// many.
    pub(crate) fn push(&self, upper: Tick, basis: Vec<i64>, computed: Tick) {
        let mut bases = self.0.lock();
        while bases.len() > GROUPS_KEPT && bases.get(1).is_some_and(|(next, _)| *next <= computed) {
            bases.pop_front();
        }
        bases.push_back((upper, basis));
    }

    /// The end and basis of the last group that ends at `tick` or before; `None` where it was
    /// dropped.
    pub(crate) fn at(&self, tick: Tick) -> Option<(Tick, Vec<i64>)> {
        self.0.lock().iter().rev().find(|(upper, _)| *upper <= tick).cloned()
    }

    /// The end and basis of the last group, not at tick zero, before which everything is computed;
    /// `None` before the first.
    pub(crate) fn newest(&self, computed: impl FnOnce() -> Tick) -> Option<(Tick, Vec<i64>)> {
        // As long as the lock is held, the group that ends there is not dropped.
        let bases = self.0.lock();
        let computed = computed();
        bases.iter().rev().find(|(upper, _)| *upper <= computed && *upper > Tick::ZERO).cloned()
    }

    pub(crate) fn clear(&self) {
        self.0.lock().clear();
    }
}
