//! Drift: what a key's facts look like in a period of event time, held against what they should look like.
//!
//! A [`Measure`] watches one statistic of the facts of each key: the five institutional categories, and how far the values of a
//! feature or a score have moved from a reference. Periods are `width` long and begin at every multiple of `slide`, so with
//! `slide = width` they tumble. A period is closed at the first tick of its end plus `delay`; its row says what was known then.
//! A fact that comes later is counted at the next close, and a row that has changed is superseded by its next revision, until
//! `lateness_max` after the close. A row beyond its bounds is a drift event, with the severity that its category, its level and its
//! recurrence give it.
//!
//! * Input: for each measure the rows `(tick, key, time, value, member)`, in the order of ticks.
//! * Output: the rows of closed periods, and the drift events among them; each at the tick of a close, partition 0.
//! * Time: a close is due when a tick has passed it. Nothing polls, and a key without facts has no rows.
//! * State: the facts of periods that can still change, in panes of `slide`; of each key its reference, and its events of 24 hours.
//!
//! Invariant: after each close, the latest row of every period that is not final is the statistic over all facts with lesser ticks
//! whose time lies in the period. Statistics are whole numbers (millionths), so no order of arrival and no machine can move one.

pub mod correlation;
pub mod fixed;
pub mod mismatch;
pub mod periods;
pub mod population;
pub mod severity;
pub mod stream;
pub mod timing_entropy;
pub mod ttl_compression;
pub mod volatility;

use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tidegate_facts::{Digest, KeyHash, Tick};

use periods::Periods;
use severity::{Event, Level};

/// The greatest value there is: what is greater stands as this one, and what is less than its opposite as that.
pub const BEYOND: i64 = i64::MAX;

/// A row of a measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fact {
    /// When the gate learned it.
    pub tick: Tick,
    /// When it happened, in microseconds; decides which periods it is in.
    pub time: i64,
    /// What is measured, in millionths of its unit (times in microseconds, which are millionths of a second).
    pub value: Option<i64>,
    /// Whom it is of, inside the key: a claim of a group, a refreshed item of a source.
    pub member: KeyHash,
}

/// A statistic of a period: how panes of facts are kept, and what follows from several of them.
pub trait Statistic: 'static {
    /// What is kept of the facts of one pane.
    type Pane: Default;
    /// What a period is held against.
    type Reference: Serialize + DeserializeOwned;

    /// Keeps a fact.
    fn hear(&self, pane: &mut Self::Pane, fact: &Fact);

    /// Brings a pane into the form in which it is read.
    fn settle(&self, pane: &mut Self::Pane);

    /// What a period of these panes, all settled and in the order of time, is for later ones.
    fn learn(&self, panes: &[&Self::Pane]) -> Self::Reference;

    /// The statistic of a period; `None` where its facts do not decide it.
    fn measure(&self, panes: &[&Self::Pane], reference: &Self::Reference) -> Option<Measured>;
}

/// What a period has come to, in millionths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measured {
    /// What the bounds judge.
    pub value: i64,
    /// What it was held against.
    pub base: i64,
}

/// The statistics, with what each needs to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Entropy of intervals and lags (`value`), in bits above the reference.
    TimingEntropy,
    /// How much more than by chance the members of a key fail together; `value` is not zero in a row that failed.
    CorrelationDrift,
    /// Standard deviation of `value`.
    ConfidenceVolatility,
    /// Mean time to live (`value`) over the mean interval at which a member is refreshed.
    TtlCompression,
    /// The greatest distance (`value`) from a beacon, in seconds.
    ExternalMismatch,
    /// Population stability index against a declared histogram, or else the key's first period.
    Psi(Option<population::Histogram>),
    /// Distance of Kolmogorov and Smirnov from a declared histogram, or else the key's first period.
    KolmogorovSmirnov(Option<population::Histogram>),
}

/// One watched statistic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// What its rows are called by.
    pub name: Arc<str>,
    /// The statistic.
    pub kind: Kind,
    /// Which values are drift.
    pub bounds: severity::Bounds,
    /// Its periods.
    pub periods: periods::Shape,
}

/// The row of a closed period.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closed {
    /// The tick of the close.
    pub tick: Tick,
    /// Whose facts.
    pub key: Arc<str>,
    /// The period `[from, to)` of event time, in microseconds.
    pub from: i64,
    /// Its end.
    pub to: i64,
    /// How many facts it holds,
    pub rows: u64,
    /// the first of them to be learned,
    pub first: Tick,
    /// and the last.
    pub last: Tick,
    /// The statistic.
    pub measured: Measured,
    /// Where that is between its bounds.
    pub level: Level,
    /// 1 for what was said first, one more for each correction.
    pub revision: u32,
    /// Names this row.
    pub id: Digest,
    /// The row that it corrects.
    pub supersedes: Option<Digest>,
    /// What it is as a drift event, if it is one, or takes one back.
    pub event: Option<Event>,
}

/// A statistic of every key of its rows.
pub struct Measure(Box<dyn Watched>);

/// Periods of any statistic.
trait Watched {
    fn hear(&mut self, key: &str, fact: &Fact);
    fn close_before(&mut self, upper: Tick, closed: &mut Vec<Closed>);
    fn learned(&self) -> Vec<(Arc<str>, String)>;
    fn set_learned(&mut self, key: &str, learned: &str);
}

impl<S: Statistic> Watched for Periods<S> {
    fn hear(&mut self, key: &str, fact: &Fact) {
        Periods::hear(self, key, fact);
    }

    fn close_before(&mut self, upper: Tick, closed: &mut Vec<Closed>) {
        Periods::close_before(self, upper, closed);
    }

    fn learned(&self) -> Vec<(Arc<str>, String)> {
        let text = |learned| serde_json::to_string(learned).expect("numbers have a text");
        Periods::learned(self).map(|(key, learned)| (Arc::clone(key), text(learned))).collect()
    }

    fn set_learned(&mut self, key: &str, learned: &str) {
        let learned = serde_json::from_str(learned).expect("it was put down");
        Periods::set_learned(self, key, learned);
    }
}

impl Measure {
    /// A measure that has heard nothing.
    pub fn new(settings: Settings) -> Measure {
        let kind = settings.kind.clone();
        match kind {
            Kind::TimingEntropy => Measure::of(settings, timing_entropy::TimingEntropy),
            Kind::CorrelationDrift => Measure::of(settings, correlation::Correlation),
            Kind::ConfidenceVolatility => Measure::of(settings, volatility::Volatility),
            Kind::TtlCompression => Measure::of(settings, ttl_compression::TtlCompression),
            Kind::ExternalMismatch => {
                let tolerance = settings.bounds.yellow;
                Measure::of(settings, mismatch::Mismatch { tolerance })
            }
            Kind::Psi(declared) => Measure::of(settings, population::Psi { declared }),
            Kind::KolmogorovSmirnov(declared) => {
                Measure::of(settings, population::KolmogorovSmirnov { declared })
            }
        }
    }

    fn of<S: Statistic>(settings: Settings, statistic: S) -> Measure {
        Measure(Box::new(Periods::new(settings, statistic)))
    }

    /// Hears a fact. Its tick is not before those that were heard, and everything due up to it was closed.
    pub fn hear(&mut self, key: &str, fact: &Fact) {
        self.0.hear(key, fact);
    }

    /// Closes what is due before `upper`: rows in the order of ticks.
    pub fn close_before(&mut self, upper: Tick, closed: &mut Vec<Closed>) {
        self.0.close_before(upper, closed);
    }

    /// What was learned of each key, as a text.
    pub fn learned(&self) -> Vec<(Arc<str>, String)> {
        self.0.learned()
    }

    /// What was learned of a key, of which nothing was heard yet.
    pub fn set_learned(&mut self, key: &str, learned: &str) {
        self.0.set_learned(key, learned);
    }
}

impl Kind {
    /// The category that it is evidence of, as topologies and rows name it.
    pub fn name(&self) -> &'static str {
        match self {
            Kind::TimingEntropy => "timing_entropy",
            Kind::CorrelationDrift => "correlation_drift",
            Kind::ConfidenceVolatility => "confidence_volatility",
            Kind::TtlCompression => "ttl_compression",
            Kind::ExternalMismatch => "external_mismatch",
            Kind::Psi(_) => "psi",
            Kind::KolmogorovSmirnov(_) => "ks",
        }
    }

    /// Whether it tells the members of a key apart.
    pub fn knows_members(&self) -> bool {
        matches!(self, Kind::CorrelationDrift | Kind::TtlCompression)
    }

    /// Whether what it holds a period against is learned, from facts that may be of any age.
    pub fn learns(&self) -> bool {
        matches!(self, Kind::TimingEntropy | Kind::Psi(None) | Kind::KolmogorovSmirnov(None))
    }
}
