//! OpenTelemetry traces of what callers bring: from the call to the commit that seals it, in the producer's own trace.
//!
//! A call has one span, and below it what it waited for: the queue, the log (appending, and of it the sync), the graph, the
//! reply. Records that bring a trace of their own have a span in it, linked to the call's. What becomes a fact is kept in
//! mind until a commit has it; then a last span says which. Spans hold keys by which things are found, and neither payloads
//! nor what callers are known by.
//!
//! Everything that waits is bounded, and nobody waits for it: what does not fit is dropped and counted.

mod call;
mod context;
mod export;
mod otlp;
mod settings;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Instant, SystemTime};

use tidegate_facts::Tick;
use tidegate_sinks::table::{Commit, Commits};
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub(crate) use self::call::{Call, Origin};
pub use self::context::Sampler;
use self::context::{Ids, SpanId, TraceId};
use self::export::{Counts, Queue};
use self::otlp::{Attribute, Kind, Resource, Span, Status};
pub use self::settings::{Settings, SettingsError};

/// How many facts may wait for their commit.
const UNSEALED_MAX: usize = 16_384;

/// Follows records, and tells a collector.
#[derive(Debug)]
pub struct Traces {
    ids: Ids,
    sampler: Sampler,
    now: fn() -> SystemTime,
    queue: Queue,
    counts: Arc<Counts>,
    unsealed: Mutex<BTreeMap<Tick, Unsealed>>,
    /// Facts whose seal is not told, because too many waited.
    forgotten: AtomicU64,
}

/// What became of spans, and what waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceCounts {
    /// Spans that a collector took.
    pub sent: u64,
    /// Spans that none did.
    pub dropped: u64,
    /// Facts that wait for their commit.
    pub unsealed: u64,
    /// Facts whose commit is not told, because too many waited.
    pub forgotten: u64,
}

/// A fact that no commit has.
#[derive(Debug)]
struct Unsealed {
    trace: TraceId,
    parent: SpanId,
    since: Instant,
    event_id: Option<String>,
    decision_id: Option<String>,
}

impl Traces {
    /// Begins to follow, and the task that sends until `stop` turns true. `describe` says what the service is: names and values;
    /// `seed` is chance, `now` the clock that spans are told in.
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
        let (counts, sampler) = (Arc::<Counts>::default(), settings.sampler);
        let (queue, task) = Queue::start(settings, resource, &counts, stop);
        let traces = Traces {
            ids: Ids::new(seed),
            sampler,
            now,
            queue,
            counts,
            unsealed: Mutex::default(),
            forgotten: AtomicU64::new(0),
        };
        (Arc::new(traces), task)
    }

    /// What became of spans, and what waits.
    pub fn counts(&self) -> TraceCounts {
        TraceCounts {
            sent: self.counts.sent.load(Ordering::Relaxed),
            dropped: self.counts.dropped.load(Ordering::Relaxed),
            unsealed: self.unsealed().len() as u64,
            forgotten: self.forgotten.load(Ordering::Relaxed),
        }
    }

    /// These commits are published: whoever waited for one of them is told.
    pub fn committed(&self, commits: &Commits) {
        let upper = commits.upper();
        let sealed = {
            let mut unsealed = self.unsealed();
            let rest = unsealed.split_off(&upper);
            std::mem::replace(&mut *unsealed, rest)
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
                attributes.extend(seal_of(commit, tick));
            }
            self.queue.put(Span {
                trace: fact.trace,
                id: self.ids.span(),
                parent: Some(fact.parent),
                name: if is_decided { "seal" } else { "commit" }.into(),
                kind: Kind::Internal,
                start: clock.at(fact.since),
                end: clock.at(Instant::now()),
                attributes,
                links: Vec::new(),
                status: Status::default(),
            });
        }
    }

    fn await_seal(&self, tick: Tick, fact: Unsealed) {
        let mut unsealed = self.unsealed();
        if unsealed.len() < UNSEALED_MAX {
            unsealed.insert(tick, fact);
        } else {
            self.forgotten.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn unsealed(&self) -> MutexGuard<'_, BTreeMap<Tick, Unsealed>> {
        self.unsealed.lock().expect("no panic")
    }

    fn clock(&self) -> Clock {
        Clock { wall: (self.now)(), here: Instant::now() }
    }
}

/// Where in the sealed tables of a commit the decision on the fact of a tick is.
fn seal_of(commit: &Commit, tick: Tick) -> Vec<Attribute> {
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

/// One look at both clocks, so that the spans of a call fit into one another exactly.
#[derive(Clone, Copy)]
struct Clock {
    wall: SystemTime,
    here: Instant,
}

impl Clock {
    /// A moment as nanoseconds since 1970-01-01 UTC.
    fn at(self, moment: Instant) -> u64 {
        let wall = match moment.checked_duration_since(self.here) {
            Some(after) => self.wall.checked_add(after),
            None => self.wall.checked_sub(self.here.saturating_duration_since(moment)),
        };
        let since =
            wall.and_then(|wall| wall.duration_since(SystemTime::UNIX_EPOCH).ok()).unwrap_or_default();
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    }
}
