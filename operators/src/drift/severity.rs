//! How bad a drift is: its level by its bounds, its score by category and recurrence, and the two scales that follow.
//!
//! `score = weight * {red 1, yellow 0.6, green 0.2} + 0.05 * earlier events of its fingerprint in 24 hours`, at most 1. The runtime's
//! light is red from 0.7 on and yellow from 0.3 on. The engine's scale has one step more, and nothing says how the two meet: here
//! `critical` is red, `medium` begins with yellow, and `high` is the upper half of yellow, from 0.5 on. So a category of small weight
//! begins low and rises as it comes again, and one that is verified against something outside is critical at once.
//!
//! A value at the end of what can be represented stands for all beyond it. Bounds lie inside, so it is red, whatever they are.

use std::collections::VecDeque;

use tidegate_facts::{Digest, Tick};

use super::Kind;

/// Where a value is between its bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Nothing is wrong.
    Green,
    /// Something is.
    Yellow,
    /// It is serious.
    Red,
}

/// From which value on something is wrong, in millionths; neither is a [`super::BEYOND`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Beyond this value it is yellow,
    pub yellow: i64,
    /// and beyond this one red.
    pub red: i64,
    /// Whether beyond is below.
    pub falling: bool,
}

/// How bad an event is to the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Counts for nothing.
    Low,
    /// Is looked at when it comes again.
    Medium,
    /// Is looked at.
    High,
    /// Goes to a person.
    Critical,
}

/// A drift event, beside the row that it is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// How bad it is.
    pub severity: Severity,
    /// The runtime's word for it.
    pub light: Level,
    /// In thousandths.
    pub score: u32,
    /// When its period was first an event. What corrects it, takes it back or raises it again keeps that.
    pub since: Tick,
    /// How many events of its fingerprint there were in 24 hours, with this one; 0 when this takes one back.
    pub recurrence: u32,
    /// What that makes of a weight, in tenths.
    pub multiplier: u32,
    /// The events of one fingerprint on one day.
    pub episode: Digest,
    /// The event of the same period that it corrects.
    pub supersedes: Option<Digest>,
}

/// The events of one fingerprint that still count.
#[derive(Default)]
pub struct Recurrence {
    /// When each was detected, in microseconds, and which period it is of.
    events: VecDeque<(i64, i64)>,
}

/// How long an event counts, in microseconds.
pub const RECURRENCE: i64 = 86_400_000_000;

impl Level {
    /// The level as rows name it.
    pub fn name(self) -> &'static str {
        match self {
            Level::Green => "green",
            Level::Yellow => "yellow",
            Level::Red => "red",
        }
    }

    fn share(self) -> u32 {
        match self {
            Level::Green => 200,
            Level::Yellow => 600,
            Level::Red => 1000,
        }
    }
}

impl Bounds {
    /// The level of a value. A value that is a bound is not beyond it.
    pub fn level(&self, value: i64) -> Level {
        let beyond = |bound: i64| if self.falling { value < bound } else { value > bound };
        match (beyond(self.red), beyond(self.yellow)) {
            (true, _) => Level::Red,
            (false, true) => Level::Yellow,
            (false, false) => Level::Green,
        }
    }
}

impl Severity {
    /// The severity as rows name it.
    pub fn name(self) -> &'static str {
        match self {
            Severity::Low => "low",
            Severity::Medium => "medium",
            Severity::High => "high",
            Severity::Critical => "critical",
        }
    }

    /// The severity of a name.
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

impl Kind {
    /// The runtime's type of drift that the category mainly is.
    pub fn runtime_type(&self) -> &'static str {
        match self {
            Kind::TimingEntropy => "time",
            Kind::CorrelationDrift | Kind::TtlCompression => "freshness",
            Kind::ConfidenceVolatility => "verify",
            Kind::ExternalMismatch => "bypass",
            Kind::Psi(_) | Kind::KolmogorovSmirnov(_) => "outcome",
        }
    }

    /// The patch that is to be looked at first.
    pub fn patch(&self) -> &'static str {
        match self {
            Kind::TimingEntropy => "dte_change",
            Kind::CorrelationDrift => "routing_change",
            Kind::ConfidenceVolatility => "verification_change",
            Kind::TtlCompression => "ttl_change",
            Kind::ExternalMismatch => "action_scope_tighten",
            Kind::Psi(_) | Kind::KolmogorovSmirnov(_) => "manual_review",
        }
    }

    /// The weight of its runtime type, in thousandths; `bypass` has none of its own, and takes that of the others.
    fn weight(&self) -> u32 {
        match self.runtime_type() {
            "verify" => 700,
            "freshness" | "outcome" => 600,
            "time" => 300,
            _ => 500,
        }
    }

    /// The event of a level that comes for the `recurrence`th time in 24 hours (0: it takes one back).
    pub fn event(
        &self,
        level: Level,
        recurrence: u32,
        since: Tick,
        episode: Digest,
        supersedes: Option<Digest>,
    ) -> Event {
        let earlier = recurrence.saturating_sub(1);
        let score =
            (self.weight() * level.share() / 1000).saturating_add(earlier.saturating_mul(50)).min(1000);
        let light = match score {
            700.. => Level::Red,
            300.. => Level::Yellow,
            _ => Level::Green,
        };
        let multiplier = match recurrence {
            51.. => 30,
            26.. => 20,
            11.. => 15,
            _ => 10,
        };
        let severity = Severity::of_score(score);
        Event { severity, light, score, since, recurrence, multiplier, episode, supersedes }
    }
}

impl Recurrence {
    /// An event of a period is detected at `now`: which one it is in 24 hours.
    pub fn raise(&mut self, now: i64, period: i64) -> u32 {
        while self.events.front().is_some_and(|(detected, _)| *detected <= now - RECURRENCE) {
            self.events.pop_front();
        }
        self.events.push_back((now, period));
        self.events.len() as u32
    }

    /// The event of a period was none.
    pub fn take_back(&mut self, period: i64) {
        self.events.retain(|(_, of)| *of != period);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_light_category_rises_as_it_comes_again_and_a_verified_one_is_critical_at_once() {
        let id = Digest([0; 32]);
        let severity =
            |kind: Kind, level, recurrence| kind.event(level, recurrence, Tick::ZERO, id, None).severity;
        assert_eq!(severity(Kind::TimingEntropy, Level::Yellow, 1), Severity::Low);
        assert_eq!(severity(Kind::TimingEntropy, Level::Red, 1), Severity::Medium);
        assert_eq!(severity(Kind::TimingEntropy, Level::Red, 9), Severity::Critical);
        assert_eq!(severity(Kind::TtlCompression, Level::Red, 1), Severity::High);
        assert_eq!(severity(Kind::TtlCompression, Level::Red, 3), Severity::Critical);
        assert_eq!(severity(Kind::ConfidenceVolatility, Level::Red, 1), Severity::Critical);
        assert_eq!(Kind::ConfidenceVolatility.event(Level::Red, 1000, Tick::ZERO, id, None).score, 1000);
    }

    #[test]
    fn recurrence_multiplies_above_ten_twenty_five_and_fifty() {
        let id = Digest([0; 32]);
        let event = |recurrence| Kind::TimingEntropy.event(Level::Red, recurrence, Tick::ZERO, id, None);
        let multipliers = [1, 10, 11, 25, 26, 50, 51].map(|recurrence| event(recurrence).multiplier);
        assert_eq!(multipliers, [10, 10, 15, 15, 20, 20, 30]);
    }

    #[test]
    fn an_event_counts_for_a_day_unless_it_is_taken_back() {
        let mut recurrence = Recurrence::default();
        assert_eq!(recurrence.raise(0, 1), 1);
        assert_eq!(recurrence.raise(RECURRENCE - 1, 2), 2);
        assert_eq!(recurrence.raise(RECURRENCE, 3), 2, "the first is a day old");
        recurrence.take_back(2);
        assert_eq!(recurrence.raise(RECURRENCE + 1, 4), 2);
    }
}
