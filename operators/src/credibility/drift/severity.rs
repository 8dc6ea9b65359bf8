//! Severity of drift events: the level by bounds, the score by category and recurrence, and the two
//! scales that follow.
//!
//! `score = weight * {red 1, yellow 0.6, green 0.2} + 0.05 * earlier events of the fingerprint in
//! 24 hours`, at most 1. The runtime's light is red from 0.7 on and yellow from 0.3 on. The
//! engine's scale has one step more, and the reference does not relate the two: here `critical` is
//! red, `medium` begins with yellow, and `high` is the upper half of yellow, from 0.5 on. So a
//! category of small weight begins low and rises as it recurs, and one that is verified against an
//! outside source is critical at once.
//!
//! A value at the end of the representable range stands for all values beyond it. Bounds lie inside
//! the range, so such a value is red whatever they are.

use std::collections::VecDeque;

use tidegate_facts::{Digest, Tick};

use super::StatisticKind;

/// The drift level of a value: green, yellow or red, by its bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DriftLevel {
    /// Within bounds.
    Green,
    /// Beyond the yellow bound.
    Yellow,
    /// Beyond the red bound.
    Red,
}

/// The bounds of drift severity: beyond which values a measure is yellow and red, in millionths.
/// Neither is [`super::BEYOND`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Values beyond this one are yellow.
    pub yellow: i64,
    /// Values beyond this one are red.
    pub red: i64,
    /// Whether beyond means below.
    pub falling: bool,
}

/// The severity of a drift event on the engine's scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Has no consequence.
    Low,
    /// Is examined if it recurs.
    Medium,
    /// Is examined.
    High,
    /// Goes to a person.
    Critical,
}

/// The part of a drift event that its period's row does not have: severity, recurrence and episode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DriftEvent {
    /// The severity on the engine's scale.
    pub severity: Severity,
    /// The severity on the runtime's scale.
    pub light: DriftLevel,
    /// The score, in thousandths.
    pub score: u32,
    /// When the period first was an event. Corrections and retractions keep it, and so does a
    /// period that becomes an event again.
    pub since: Tick,
    /// The number of events of the fingerprint in 24 hours, this one included; 0 for a retraction.
    pub recurrence: u32,
    /// The factor for weights that follows from the recurrence, in tenths.
    pub multiplier: u32,
    /// The id of the episode: the events of one fingerprint on one day.
    pub episode: Digest,
    /// The event of the same period that it replaces.
    pub supersedes: Option<Digest>,
}

/// The drift events of one fingerprint in the last 24 hours, whose recurrence raises the severity.
#[derive(Default)]
pub struct Recurrence {
    /// When each event was detected, in microseconds, and the number of its period.
    events: VecDeque<(i64, i64)>,
}

/// How long an earlier drift event counts toward the severity of later ones, in microseconds.
pub const RECURRENCE: i64 = 86_400_000_000;

named_column!(DriftLevel);
named_column!(Severity);

impl DriftLevel {
    /// The level as rows spell it, such as `green`.
    pub fn name(self) -> &'static str {
        match self {
            DriftLevel::Green => "green",
            DriftLevel::Yellow => "yellow",
            DriftLevel::Red => "red",
        }
    }

    fn of_name(name: &str) -> Option<DriftLevel> {
        [DriftLevel::Green, DriftLevel::Yellow, DriftLevel::Red]
            .into_iter()
            .find(|level| level.name() == name)
    }

    fn share(self) -> u32 {
        match self {
            DriftLevel::Green => 200,
            DriftLevel::Yellow => 600,
            DriftLevel::Red => 1000,
        }
    }
}

impl Bounds {
    /// The level of a value. A value equal to a bound is not beyond it.
    pub fn level(&self, value: i64) -> DriftLevel {
        let beyond = |bound: i64| if self.falling { value < bound } else { value > bound };
        match (beyond(self.red), beyond(self.yellow)) {
            (true, _) => DriftLevel::Red,
            (false, true) => DriftLevel::Yellow,
            (false, false) => DriftLevel::Green,
        }
    }
}

impl Severity {
    /// The severity as rows spell it, such as `critical`.
    pub fn name(self) -> &'static str {
        match self {
            Severity::Low => "low",
            Severity::Medium => "medium",
            Severity::High => "high",
            Severity::Critical => "critical",
        }
    }

    /// The severity that rows spell `name`; `None` for another word.
    pub fn of_name(name: &str) -> Option<Severity> {
        [Severity::Low, Severity::Medium, Severity::High, Severity::Critical]
            .into_iter()
            .find(|severity| severity.name() == name)
    }

    fn of_score(score: u32) -> Severity {
        match score {
            700.. => Severity::Critical,
            500.. => Severity::High,
            300.. => Severity::Medium,
            _ => Severity::Low,
        }
    }
}

impl StatisticKind {
    /// The runtime's drift type that the category mainly belongs to.
    pub fn runtime_type(&self) -> &'static str {
        match self {
            StatisticKind::TimingEntropy => "time",
            StatisticKind::CorrelationDrift | StatisticKind::TtlCompression => "freshness",
            StatisticKind::ConfidenceVolatility => "verify",
            StatisticKind::ExternalMismatch => "bypass",
            StatisticKind::Psi(_) | StatisticKind::KolmogorovSmirnov(_) => "outcome",
        }
    }

    /// The type of patch to consider first after a drift event of the category.
    pub fn patch(&self) -> &'static str {
        match self {
            StatisticKind::TimingEntropy => "dte_change",
            StatisticKind::CorrelationDrift => "routing_change",
            StatisticKind::ConfidenceVolatility => "verification_change",
            StatisticKind::TtlCompression => "ttl_change",
            StatisticKind::ExternalMismatch => "action_scope_tighten",
            StatisticKind::Psi(_) | StatisticKind::KolmogorovSmirnov(_) => "manual_review",
        }
    }

    /// The weight of the runtime type, in thousandths. `bypass` has no weight of its own and takes
    /// that of all other types.
    fn weight(&self) -> u32 {
        match self.runtime_type() {
            "verify" => 700,
            "freshness" | "outcome" => 600,
            "time" => 300,
            _ => 500,
        }
    }

    /// The event of a level that occurs for the `recurrence`th time in 24 hours; 0 for a
    /// retraction.
    pub fn event(
        &self,
        level: DriftLevel,
        recurrence: u32,
        since: Tick,
        episode: Digest,
        supersedes: Option<Digest>,
    ) -> DriftEvent {
        let earlier = recurrence.saturating_sub(1);
        let score =
            (self.weight() * level.share() / 1000).saturating_add(earlier.saturating_mul(50)).min(1000);
        let light = match score {
            700.. => DriftLevel::Red,
            300.. => DriftLevel::Yellow,
            _ => DriftLevel::Green,
        };
        let multiplier = match recurrence {
            51.. => 30,
            26.. => 20,
            11.. => 15,
            _ => 10,
        };
        let severity = Severity::of_score(score);
        DriftEvent { severity, light, score, since, recurrence, multiplier, episode, supersedes }
    }
}

impl Recurrence {
    /// Adds an event of a period, detected at `now`, and returns which one it is in 24 hours.
    pub fn raise(&mut self, now: i64, period: i64) -> u32 {
        while self.events.front().is_some_and(|(detected, _)| *detected <= now - RECURRENCE) {
            self.events.pop_front();
        }
        self.events.push_back((now, period));
        self.events.len() as u32
    }

    /// Removes the event of a period.
    pub fn retract(&mut self, period: i64) {
        self.events.retain(|(_, of)| *of != period);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_category_of_small_weight_rises_as_it_recurs_and_a_verified_one_is_critical_at_once() {
        let id = Digest([0; 32]);
        let severity = |kind: StatisticKind, level, recurrence| {
            kind.event(level, recurrence, Tick::ZERO, id, None).severity
        };
        assert_eq!(severity(StatisticKind::TimingEntropy, DriftLevel::Yellow, 1), Severity::Low);
        assert_eq!(severity(StatisticKind::TimingEntropy, DriftLevel::Red, 1), Severity::Medium);
        assert_eq!(severity(StatisticKind::TimingEntropy, DriftLevel::Red, 9), Severity::Critical);
        assert_eq!(severity(StatisticKind::TtlCompression, DriftLevel::Red, 1), Severity::High);
        assert_eq!(severity(StatisticKind::TtlCompression, DriftLevel::Red, 3), Severity::Critical);
        assert_eq!(severity(StatisticKind::ConfidenceVolatility, DriftLevel::Red, 1), Severity::Critical);
        assert_eq!(
            StatisticKind::ConfidenceVolatility.event(DriftLevel::Red, 1000, Tick::ZERO, id, None).score,
            1000
        );
    }

    #[test]
    fn recurrence_multiplies_above_ten_twenty_five_and_fifty() {
        let id = Digest([0; 32]);
        let event = |recurrence| {
            StatisticKind::TimingEntropy.event(DriftLevel::Red, recurrence, Tick::ZERO, id, None)
        };
        let multipliers = [1, 10, 11, 25, 26, 50, 51].map(|recurrence| event(recurrence).multiplier);
        assert_eq!(multipliers, [10, 10, 15, 15, 20, 20, 30]);
    }

    #[test]
    fn an_event_counts_for_a_day_unless_it_is_retracted() {
        let mut recurrence = Recurrence::default();
        assert_eq!(recurrence.raise(0, 1), 1);
        assert_eq!(recurrence.raise(RECURRENCE - 1, 2), 2);
        assert_eq!(recurrence.raise(RECURRENCE, 3), 2, "the first is a day old");
        recurrence.retract(2);
        assert_eq!(recurrence.raise(RECURRENCE + 1, 4), 2);
    }
}
