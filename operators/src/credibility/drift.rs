//! Drift detection: measures statistics of each key's facts per period, and compares them with
//! bounds.
//!
//! A [`DriftMeasure`] computes one statistic of the facts of each key: one of the five
//! institutional categories, or how far the values of a feature or a score have moved from a
//! reference. Periods of event time are `width` long and begin at every multiple of `slide`; with
//! `slide = width` they tumble. A period is closed at the first tick after its end plus `delay`,
//! and its row is computed from the facts known then. A fact that arrives later is counted at the
//! next close; a row that changes is superseded by its next revision, until `lateness_max` after
//! the first close. A row beyond its bounds is a drift event, whose severity follows from its
//! category, its level and its recurrence.
//!
//! * Input: for each measure the rows `(tick, key, time, value, member)`, in the order of ticks.
//! * Output: the rows of closed periods, and the drift events among them; each at the tick of a
//!   close, partition 0.
//! * Time: a close is due once a tick has passed it. Nothing polls, and a key without facts has no
//!   rows.
//! * State: the facts of periods that can still change, in panes of `slide`; per key its reference,
//!   and its events of the last 24 hours.
//!
//! Invariant: after each close, the latest row of every period that is not final is the statistic
//! over all facts with lesser ticks whose event time lies in the period. Statistics are whole
//! numbers (millionths), so they do not depend on the order of arrival or on the machine.

pub mod correlation;
pub mod distribution;
pub mod fixed_point;
pub mod mismatch;
pub mod operator;
pub mod periods;
pub mod severity;
pub mod timing_entropy;
pub mod ttl_compression;
pub mod volatility;

use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tidegate_facts::{Digest, KeyHash, Tick};

use periods::Periods;
use severity::{DriftEvent, DriftLevel};

/// The greatest value that a drift statistic can have. Greater values are clamped to it, lesser
/// ones to its opposite.
pub const BEYOND: i64 = i64::MAX;

/// One row of a drift measure's input: a fact's tick, event time, measured value and member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observation {
    /// The tick of the fact.
    pub tick: Tick,
    /// The event time in microseconds; it decides which periods the fact is in.
    pub time: i64,
    /// The measured value, in millionths of its unit (times in microseconds, that is, millionths of
    /// a second).
    pub value: Option<i64>,
    /// The member of the key: a claim of a group, a refreshed item of a source.
    pub member: KeyHash,
}

/// A drift statistic over a period: how it accumulates facts in panes, and how it measures several
/// panes.
pub trait Statistic: 'static {
    /// The accumulated facts of one pane.
    type Pane: Default;
    /// The reference with which a drift statistic compares periods.
    type Reference: Serialize + DeserializeOwned;

    /// Adds a fact to a pane.
    fn add(&self, pane: &mut Self::Pane, fact: &Observation);

    /// Brings a pane into the form that [`Statistic::reference`] and [`Statistic::measure`] read.
    fn prepare(&self, pane: &mut Self::Pane);

    /// The reference that a period of these panes, prepared and in the order of time, is for later
    /// periods.
    fn reference(&self, panes: &[&Self::Pane]) -> Self::Reference;

    /// The statistic of a period of these panes; `None` if its facts do not determine it.
    fn measure(&self, panes: &[&Self::Pane], reference: &Self::Reference) -> Option<Measurement>;
}

/// What a drift measure finds for one period: the statistic, and what it is compared with, in
/// millionths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measurement {
    /// The value that the bounds are compared with.
    pub value: i64,
    /// What the value is relative to.
    pub base: i64,
}

/// The statistics of drift, each with its parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StatisticKind {
    /// The entropy of intervals and lags (`value`), in bits above the reference.
    TimingEntropy,
    /// How much more often than by chance the members of a key fail together. A `value` other than
    /// zero is a failure.
    CorrelationDrift,
    /// The standard deviation of `value`.
    ConfidenceVolatility,
    /// The mean time to live (`value`) over the mean interval at which a member is refreshed.
    TtlCompression,
    /// The greatest distance (`value`) from a beacon, in seconds.
    ExternalMismatch,
    /// The population stability index against a declared histogram, or else the key's first period.
    Psi(Option<distribution::Histogram>),
    /// The Kolmogorov-Smirnov distance from a declared histogram, or else the key's first period.
    KolmogorovSmirnov(Option<distribution::Histogram>),
}

/// The configuration of one drift measure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeasureConfig {
    /// The name of the measure in rows.
    pub name: Arc<str>,
    /// The statistic.
    pub kind: StatisticKind,
    /// The bounds beyond which a value is drift.
    pub bounds: severity::Bounds,
    /// The periods.
    pub periods: periods::PeriodConfig,
}

/// The row that drift detection emits for a closed period of one key, or a revision of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClosedPeriod {
    /// The tick of the close.
    pub tick: Tick,
    /// The key.
    pub key: Arc<str>,
    /// The start of the period, in microseconds of event time.
    pub from: i64,
    /// The end of the period, not part of it.
    pub to: i64,
    /// The number of facts in the period.
    pub rows: u64,
    /// The least tick of these facts.
    pub first: Tick,
    /// The greatest tick of these facts.
    pub last: Tick,
    /// The statistic.
    pub measurement: Measurement,
    /// Where the statistic lies between its bounds.
    pub level: DriftLevel,
    /// 1 for the first row of the period, one more for each correction.
    pub revision: u32,
    /// The id of this row.
    pub id: Digest,
    /// The id of the row that it corrects.
    pub supersedes: Option<Digest>,
    /// The drift event that the row is or retracts.
    pub event: Option<DriftEvent>,
}

/// A drift measure: one statistic over the periods of every key.
pub struct DriftMeasure(Box<dyn AnyPeriods>);

/// [`Periods`] of any statistic.
trait AnyPeriods {
    fn add(&mut self, key: &str, fact: &Observation);
    fn close_before(&mut self, upper: Tick, closed: &mut Vec<ClosedPeriod>);
    fn references(&self) -> Vec<(Arc<str>, String)>;
    fn set_reference(&mut self, key: &str, reference: &str);
}

impl<S: Statistic> AnyPeriods for Periods<S> {
    fn add(&mut self, key: &str, fact: &Observation) {
        Periods::add(self, key, fact);
    }

    fn close_before(&mut self, upper: Tick, closed: &mut Vec<ClosedPeriod>) {
        Periods::close_before(self, upper, closed);
    }

    fn references(&self) -> Vec<(Arc<str>, String)> {
        let text = |reference| serde_json::to_string(reference).expect("numbers can be written as JSON");
        Periods::references(self).map(|(key, reference)| (Arc::clone(key), text(reference))).collect()
    }

    fn set_reference(&mut self, key: &str, reference: &str) {
        let reference = serde_json::from_str(reference).expect("a snapshot's own reference");
        Periods::set_reference(self, key, reference);
    }
}

impl DriftMeasure {
    /// Returns a drift measure without facts.
    pub fn new(config: MeasureConfig) -> DriftMeasure {
        let kind = config.kind.clone();
        match kind {
            StatisticKind::TimingEntropy => DriftMeasure::of(config, timing_entropy::TimingEntropy),
            StatisticKind::CorrelationDrift => DriftMeasure::of(config, correlation::JointFailure),
            StatisticKind::ConfidenceVolatility => DriftMeasure::of(config, volatility::Volatility),
            StatisticKind::TtlCompression => DriftMeasure::of(config, ttl_compression::TtlCompression),
            StatisticKind::ExternalMismatch => {
                let tolerance = config.bounds.yellow;
                DriftMeasure::of(config, mismatch::Mismatch { tolerance })
            }
            StatisticKind::Psi(declared) => DriftMeasure::of(config, distribution::Psi { declared }),
            StatisticKind::KolmogorovSmirnov(declared) => {
                DriftMeasure::of(config, distribution::KolmogorovSmirnov { declared })
            }
        }
    }

    fn of<S: Statistic>(config: MeasureConfig, statistic: S) -> DriftMeasure {
        DriftMeasure(Box::new(Periods::new(config, statistic)))
    }

    /// Adds a fact to the drift measure. Its tick must not be before the last one, and everything
    /// due up to it must be closed.
    pub fn add(&mut self, key: &str, fact: &Observation) {
        self.0.add(key, fact);
    }

    /// Closes the periods that are due before `upper`, and appends their rows in the order of
    /// ticks.
    pub fn close_before(&mut self, upper: Tick, closed: &mut Vec<ClosedPeriod>) {
        self.0.close_before(upper, closed);
    }

    /// The learned reference of each key, as JSON.
    pub fn references(&self) -> Vec<(Arc<str>, String)> {
        self.0.references()
    }

    /// Sets the learned reference of a key without facts.
    pub fn set_reference(&mut self, key: &str, reference: &str) {
        self.0.set_reference(key, reference);
    }
}

impl StatisticKind {
    /// The name of the drift statistic's category, in topologies and rows.
    pub fn name(&self) -> &'static str {
        match self {
            StatisticKind::TimingEntropy => "timing_entropy",
            StatisticKind::CorrelationDrift => "correlation_drift",
            StatisticKind::ConfidenceVolatility => "confidence_volatility",
            StatisticKind::TtlCompression => "ttl_compression",
            StatisticKind::ExternalMismatch => "external_mismatch",
            StatisticKind::Psi(_) => "psi",
            StatisticKind::KolmogorovSmirnov(_) => "ks",
        }
    }

    /// Whether the drift statistic distinguishes the members of a key.
    pub fn reads_members(&self) -> bool {
        matches!(self, StatisticKind::CorrelationDrift | StatisticKind::TtlCompression)
    }

    /// Whether the drift statistic learns its reference, from facts of any age.
    pub fn learns_reference(&self) -> bool {
        matches!(
            self,
            StatisticKind::TimingEntropy | StatisticKind::Psi(None) | StatisticKind::KolmogorovSmirnov(None)
        )
    }
}
