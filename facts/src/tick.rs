//! Ticks: the logical time of the log and of the dataflow, a positive `i64` that orders all facts.
//!
//! The upper 55 bits are microseconds since 1970-01-01 UTC (until the year 3111), and the lower 8
//! bits are the partition. The sign bit is never set, so Parquet, Iceberg and Postgres store a tick
//! as a `bigint`. The gate stamps each fact once and ticks never repeat. The dataflow uses ticks as
//! its timestamps, so a frontier says directly which facts may still come.

use std::fmt;

use differential_dataflow::lattice::Lattice;
use serde::{Deserialize, Serialize};
use timely::order::{PartialOrder, TotalOrder};
use timely::progress::timestamp::{PathSummary, Refines};
use timely::progress::{Antichain, Timestamp};

use crate::time;

/// The number of low bits of a tick that hold the partition.
pub const PARTITION_BITS: u32 = 8;
/// The greatest number of partitions of a log: as many as the low bits of a tick can number.
pub const PARTITIONS_MAX: u16 = 1 << PARTITION_BITS;
/// The last microsecond since 1970-01-01 UTC that a tick can hold (in the year 3111).
pub const MICROS_MAX: i64 = (1 << (63 - PARTITION_BITS)) - 1;

/// A tick, the logical time of one fact: when the gate admitted it, and into which partition. Never
/// negative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tick(pub i64);

/// A length of time between ticks, in microseconds; always positive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Span(std::num::NonZeroI64);

impl Tick {
    /// The first tick; no fact comes before it.
    pub const ZERO: Tick = Tick(0);
    /// The last tick.
    pub const MAX: Tick = Tick(i64::MAX);

    /// The tick at `micros` in `partition`; `None` outside 1970 to 3111 or from partition 256 on.
    pub fn new(micros: i64, partition: u16) -> Option<Tick> {
        if !(0..=MICROS_MAX).contains(&micros) || partition >= PARTITIONS_MAX {
            return None;
        }
        Some(Tick((micros << PARTITION_BITS) | i64::from(partition)))
    }

    /// The least tick of `partition` that is above `last` and not before `stamp` (microseconds).
    ///
    /// The sequencer stamps facts by this rule alone: ticks increase over the log in admission
    /// order. `None` when no such tick exists because the time would leave the range of a tick.
    pub fn following(last: Tick, stamp: i64, partition: u16) -> Option<Tick> {
        let stamped = Tick::new(stamp, partition)?;
        if stamped > last {
            return Some(stamped);
        }
        let same_micros = Tick::new(last.micros(), partition)?;
        if same_micros > last { Some(same_micros) } else { Tick::new(last.micros() + 1, partition) }
    }

    /// The time of this tick, in microseconds since 1970-01-01 UTC.
    pub fn micros(self) -> i64 {
        self.0 >> PARTITION_BITS
    }

    /// The partition of the fact that carries this tick.
    pub fn partition(self) -> u16 {
        (self.0 & i64::from(PARTITIONS_MAX - 1)) as u16
    }

    /// Reads a tick in digits, or a time; a time gives the first tick of its microsecond.
    ///
    /// # Errors
    /// A sentence that shows both forms.
    pub fn parse(text: &str) -> Result<Tick, String> {
        if let Some(tick) = text.parse().ok().filter(|tick: &i64| *tick >= 0) {
            return Ok(Tick(tick));
        }
        // A date alone, and a time without a fraction of a second, are accepted too.
        let whole = match text.len() {
            10 => format!("{text}T00:00:00.000000Z"),
            20 => text.replace('Z', ".000000Z"),
            _ => text.to_owned(),
        };
        time::parse_rfc3339_micros(&whole).and_then(|micros| Tick::new(micros, 0)).ok_or_else(|| {
            "write a tick in digits, or a time such as 2026-01-31 or 2026-01-31T12:00:00Z".to_owned()
        })
    }

    /// The next greater tick: the frontier after this tick is complete.
    pub fn next(self) -> Tick {
        Tick(self.0 + 1)
    }

    /// The next smaller tick; `None` before [`Tick::ZERO`].
    pub fn previous(self) -> Option<Tick> {
        (self > Tick::ZERO).then(|| Tick(self.0 - 1))
    }
}

impl Span {
    /// A span of `micros` microseconds; `None` unless it is positive.
    pub fn from_micros(micros: i64) -> Option<Span> {
        if micros <= 0 { None } else { std::num::NonZeroI64::new(micros).map(Span) }
    }

    /// The length of this span in microseconds.
    pub fn micros(self) -> i64 {
        self.0.get()
    }

    /// Reads a span, such as `250ms`, `30s`, `5m`, `12h`, `7d` or `2w`.
    ///
    /// # Errors
    /// A sentence that shows the form of a span, when `text` is not one.
    pub fn parse(text: &str) -> Result<Span, String> {
        let wrong = || {
            format!(
                "`{text}` is not a length of time; write a whole number and a unit, such as 250ms, 30s, 5m, \
                 12h, 7d or 2w"
            )
        };
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let count: i64 = text[..digits].parse().map_err(|_| wrong())?;
        let unit = match &text[digits..] {
            "us" => 1,
            "ms" => 1_000,
            "s" => 1_000_000,
            "m" => 60_000_000,
            "h" => 3_600_000_000,
            "d" => 86_400_000_000,
            "w" => 604_800_000_000,
            _ => return Err(wrong()),
        };
        count
            .checked_mul(unit)
            .and_then(Span::from_micros)
            .filter(|s| s.micros() <= MICROS_MAX)
            .ok_or_else(wrong)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(i64, &str); 6] = [
            (86_400_000_000, "d"),
            (3_600_000_000, "h"),
            (60_000_000, "m"),
            (1_000_000, "s"),
            (1_000, "ms"),
            (1, "us"),
        ];
        let micros = self.micros();
        let (size, unit) = UNITS.into_iter().find(|(size, _)| micros % size == 0).expect("1us divides all");
        write!(f, "{}{unit}", micros / size)
    }
}

impl fmt::Display for Tick {
    /// The time with six fractional digits, a `/`, and the partition.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", time::to_rfc3339(self.micros()), self.partition())
    }
}

/// In JSON and other texts a string of digits, as every 64-bit integer in canonical JSON.
impl Serialize for Tick {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(&self.0)
        } else {
            self.0.serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for Tick {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if !deserializer.is_human_readable() {
            return i64::deserialize(deserializer).map(Tick);
        }
        let text = String::deserialize(deserializer)?;
        let tick = text.parse().ok().filter(|tick: &i64| *tick >= 0 && tick.to_string() == text);
        tick.map(Tick).ok_or_else(|| serde::de::Error::custom("a tick is a string of digits"))
    }
}

impl PartialOrder for Tick {
    fn less_equal(&self, other: &Self) -> bool {
        self <= other
    }
    fn less_than(&self, other: &Self) -> bool {
        self < other
    }
}

impl TotalOrder for Tick {}

impl Timestamp for Tick {
    type Summary = i64;
    fn minimum() -> Self {
        Tick::ZERO
    }
}

impl PathSummary<Tick> for i64 {
    fn results_in(&self, tick: &Tick) -> Option<Tick> {
        tick.0.checked_add(*self).map(Tick)
    }
    fn followed_by(&self, other: &i64) -> Option<i64> {
        self.checked_add(*other)
    }
}

impl Refines<()> for Tick {
    fn to_inner((): ()) -> Self {
        Tick::ZERO
    }
    fn to_outer(self) {}
    fn summarize(_: i64) {}
}

impl Lattice for Tick {
    fn join(&self, other: &Self) -> Self {
        *self.max(other)
    }
    fn meet(&self, other: &Self) -> Self {
        *self.min(other)
    }
}

impl differential_dataflow::lattice::Maximum for Tick {
    fn maximum() -> Self {
        Tick::MAX
    }
}

/// The tick of a frontier of ticks, which has at most one; `None` for the empty frontier, after
/// which no more facts come.
pub fn frontier_tick(frontier: &Antichain<Tick>) -> Option<Tick> {
    frontier.elements().first().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_tick_carries_its_partition_and_is_never_before_its_stamp() {
        let at = |micros, partition| Tick::new(micros, partition).unwrap();
        assert_eq!(Tick::following(Tick::ZERO, 5, 2), Some(at(5, 2)));
        assert_eq!(Tick::following(at(5, 2), 5, 3), Some(at(5, 3)), "same microsecond, higher partition");
        assert_eq!(Tick::following(at(5, 2), 5, 2), Some(at(6, 2)), "same microsecond, same partition");
        assert_eq!(Tick::following(at(5, 2), 5, 1), Some(at(6, 1)), "same microsecond, lower partition");
        assert_eq!(Tick::following(at(5, 2), 3, 0), Some(at(6, 0)), "an earlier stamp never goes back");
    }

    #[test]
    fn times_outside_1970_to_3111_have_no_tick() {
        assert_eq!(Tick::new(-1, 0), None);
        assert_eq!(Tick::new(MICROS_MAX + 1, 0), None);
        assert_eq!(Tick::new(0, PARTITIONS_MAX), None);
        let last = Tick::new(MICROS_MAX, PARTITIONS_MAX - 1);
        assert_eq!(last, Some(Tick::MAX));
        assert_eq!(Tick::following(Tick::MAX, 0, PARTITIONS_MAX - 1), None);
    }

    #[test]
    fn a_tick_is_a_positive_number_of_63_bits() {
        let tick = Tick::new(1_522_540_831_000_000, 200).unwrap();
        assert_eq!(tick.0, 1_522_540_831_000_000 * 256 + 200);
        assert_eq!((tick.micros(), tick.partition()), (1_522_540_831_000_000, 200));
        assert_eq!(Tick::parse(&tick.0.to_string()), Ok(tick));
        assert_eq!(
            Tick::parse("2018-04-01T00:00:31Z"),
            Tick::new(1_522_540_831_000_000, 0).ok_or(String::new())
        );
        assert!(Tick::parse("-1").is_err());
        assert!(serde_json::from_str::<Tick>("\"-1\"").is_err());
        assert_eq!(serde_json::from_str::<Tick>("\"9223372036854775807\"").unwrap(), Tick::MAX);
    }

    #[test]
    fn spans_are_read_and_printed_in_their_largest_unit() {
        for text in ["250ms", "30s", "5m", "12h", "7d", "1us"] {
            assert_eq!(Span::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Span::parse("2w").unwrap().to_string(), "14d");
        for text in ["", "0d", "d", "1", "1 d", "-1d", "1.5d", "99999999999999999w"] {
            assert!(Span::parse(text).is_err(), "{text}");
        }
    }
}
