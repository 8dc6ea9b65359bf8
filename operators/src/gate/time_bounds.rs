//! The range of event times that one source may send.

use tidegate_facts::tick;

/// The event times that a source may send, in microseconds since 1970 UTC; both bounds are
/// included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeBounds {
    /// The earliest time.
    pub from: i64,
    /// The latest time.
    pub to: i64,
}

impl TimeBounds {
    /// All times that a tick can represent.
    pub const TICKS: TimeBounds = TimeBounds { from: 0, to: tick::MICROS_MAX };

    pub(super) fn contains(self, micros: i64) -> bool {
        (self.from..=self.to).contains(&micros)
    }
}
