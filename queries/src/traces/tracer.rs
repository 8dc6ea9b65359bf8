//! The tracer: creates spans, keeps facts that wait for their commit, and reports their seals.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime};

use parking_lot::Mutex;
use tidegate_facts::Tick;
use tidegate_sinks::commits::{Commit, Commits};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::context::{IdGenerator, Sampler, SpanId, TraceId};
use super::export::{ExportCounts, SpanQueue};
use super::otlp::{Attribute, Resource, Span, SpanKind, SpanStatus};
use super::settings::Settings;

/// The most facts that may wait for their commit.
const PENDING_MAX: usize = 16_384;

/// The tracer: traces submitted records, and sends their spans to a collector.
#[derive(Debug)]
pub struct Traces {
    pub(super) ids: IdGenerator,
    pub(super) sampler: Sampler,
    now: fn() -> SystemTime,
    pub(super) queue: SpanQueue,
    counts: Arc<ExportCounts>,
    pending: Mutex<BTreeMap<Tick, PendingSeal>>,
    /// Facts whose commit is not reported, because too many waited.
    evicted: AtomicU64,
}

/// What the tracer counts: sent and dropped spans, and facts that wait for their commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceCounts {
    /// Spans that a collector accepted.
    pub sent: u64,
    /// Spans that were dropped.
    pub dropped: u64,
    /// Facts that wait for their commit.
    pub pending: u64,
    /// Facts whose commit is not reported, because too many waited.
    pub evicted: u64,
}

/// A traced fact that the tracer keeps until a commit has it.
#[derive(Debug)]
pub(super) struct PendingSeal {
    pub(super) trace: TraceId,
    pub(super) parent: SpanId,
    pub(super) since: Instant,
    pub(super) event_id: Option<String>,
    pub(super) decision_id: Option<String>,
}

impl Traces {
    /// Starts the tracer, and the task that sends spans until `stop` turns true.
    ///
    /// `describe` names the attributes of the service; `seed` must be random; `now` is the clock of
    /// the spans' times.
    pub fn start(
        settings: Settings,
        describe: Vec<(&'static str, String)>,
        seed: [u8; 32],
        now: fn() -> SystemTime,
        stop: watch::Receiver<bool>,
    ) -> (Arc<Traces>, JoinHandle<()>) {
        let name = Attribute::text("service.name", settings.service.clone());
        let version = Attribute::text("service.version", env!("CARGO_PKG_VERSION"));
        let described = describe.into_iter().map(|(key, text)| Attribute::text(key, text));
        let resource = Resource { attributes: [name, version].into_iter().chain(described).collect() };
        let (counts, sampler) = (Arc::<ExportCounts>::default(), settings.sampler);
        let (queue, task) = SpanQueue::start(settings, resource, &counts, stop);
        let traces = Traces {
            ids: IdGenerator::new(seed),
            sampler,
            now,
            queue,
            counts,
            pending: Mutex::default(),
            evicted: AtomicU64::new(0),
        };
        (Arc::new(traces), task)
    }

    /// Counts of sent and dropped spans, and of facts that wait for their commit.
    pub fn counts(&self) -> TraceCounts {
        TraceCounts {
            sent: self.counts.sent.load(Ordering::Relaxed),
            dropped: self.counts.dropped.load(Ordering::Relaxed),
            pending: self.pending.lock().len() as u64,
            evicted: self.evicted.load(Ordering::Relaxed),
        }
    }

    /// Sends a span for each pending fact that these commits, which are all there are, have.
    pub fn committed(&self, commits: &Commits) {
        let upper = commits.upper();
        let sealed = {
            let mut pending = self.pending.lock();
            let rest = pending.split_off(&upper);
            std::mem::replace(&mut *pending, rest)
        };
        if sealed.is_empty() {
            return;
        }
        let clock = self.clock();
        for (tick, fact) in sealed {
            let number = commits.list.partition_point(|commit| commit.upper <= tick);
            let commit = &commits.list[number];
            let manifest = commits.list.get(number + 1).map_or(commits.head(), |next| next.previous);
            let mut attributes = vec![
                Attribute::text("tidegate.tick", tick.0.to_string()),
                Attribute::number("tidegate.partition", tick.partition()),
                Attribute::text("tidegate.commit.number", commit.number.to_string()),
                Attribute::text("tidegate.commit.manifest", manifest.to_hex()),
                Attribute::text("tidegate.commit.plan", commit.plan.to_hex()),
            ];
            attributes.extend(fact.event_id.map(|id| Attribute::text("tidegate.event_id", id)));
            let is_decided = fact.decision_id.is_some();
            attributes.extend(fact.decision_id.map(|id| Attribute::text("tidegate.decision_id", id)));
            if is_decided {
                attributes.extend(seal_attributes(commit, tick));
            }
            self.queue.push(Span {
                trace: fact.trace,
                id: self.ids.span(),
                parent: Some(fact.parent),
                name: if is_decided { "seal" } else { "commit" }.into(),
                kind: SpanKind::Internal,
                start: clock.at(fact.since),
                end: clock.at(Instant::now()),
                attributes,
                links: Vec::new(),
                status: SpanStatus::default(),
            });
        }
    }

    /// Registers a fact, whose span is sent once a commit has it.
    pub(super) fn await_seal(&self, tick: Tick, fact: PendingSeal) {
        let mut pending = self.pending.lock();
        if pending.len() < PENDING_MAX {
            pending.insert(tick, fact);
        } else {
            self.evicted.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn clock(&self) -> ClockReading {
        ClockReading { wall: (self.now)(), monotonic: Instant::now() }
    }
}

/// Attributes that locate the decision on the fact of a tick in the sealed tables of a commit.
fn seal_attributes(commit: &Commit, tick: Tick) -> Vec<Attribute> {
    let files = commit.files.iter().filter(|file| file.partition == tick.partition());
    let Some((file, link)) = files.filter_map(|file| file.seal.map(|link| (file, link))).next() else {
        return Vec::new();
    };
    vec![
        Attribute::text("tidegate.seal.table", file.table.clone()),
        Attribute::text("tidegate.seal.file", file.name.clone()),
        Attribute::text("tidegate.seal.head", link.chain.head.to_hex()),
        Attribute::text("tidegate.seal.root", link.root.to_hex()),
    ]
}

/// One reading of both clocks by the tracer, so that the times of a call's spans nest exactly.
#[derive(Clone, Copy)]
pub(super) struct ClockReading {
    wall: SystemTime,
    monotonic: Instant,
}

impl ClockReading {
    /// A moment as nanoseconds since 1970-01-01 UTC.
    pub(super) fn at(self, moment: Instant) -> u64 {
        let wall = match moment.checked_duration_since(self.monotonic) {
            Some(after) => self.wall.checked_add(after),
            None => self.wall.checked_sub(self.monotonic.saturating_duration_since(moment)),
        };
        let since =
            wall.and_then(|wall| wall.duration_since(SystemTime::UNIX_EPOCH).ok()).unwrap_or_default();
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    }
}
