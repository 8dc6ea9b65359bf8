//! The wall clock and the monotonic clock, and a clock that a test or simulator moves by hand.

use std::fmt;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

/// The clocks of a machine.
pub trait Clock: Send + Sync + fmt::Debug {
    /// Microseconds since 1970-01-01 UTC; negative before. It may jump, forwards or backwards.
    fn wall_micros(&self) -> i64;

    /// The time since a fixed moment, which is the same for all callers of a process. It never goes
    /// back.
    fn monotonic(&self) -> Duration;

    /// Lets `duration` pass on the monotonic clock before it returns.
    fn sleep(&self, duration: Duration);
}

/// The clocks of the operating system.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn wall_micros(&self) -> i64 {
        let micros = |duration: Duration| i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
        match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => micros(since),
            Err(before) => -micros(before.duration()),
        }
    }

    fn monotonic(&self) -> Duration {
        static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
        ORIGIN.elapsed()
    }

    fn sleep(&self, duration: Duration) {
        std::thread::sleep(duration);
    }
}

/// A clock that stands still until it is advanced. Clones show the same time.
#[derive(Clone, Debug)]
pub struct ManualClock(Arc<Mutex<ClockState>>);

#[derive(Debug)]
struct ClockState {
    wall_micros: i64,
    monotonic: Duration,
}

impl ManualClock {
    /// A clock whose wall time is `wall_micros` and whose monotonic time is zero.
    pub fn new(wall_micros: i64) -> ManualClock {
        ManualClock(Arc::new(Mutex::new(ClockState { wall_micros, monotonic: Duration::ZERO })))
    }

    /// Moves the wall clock and the monotonic clock forwards.
    pub fn advance(&self, duration: Duration) {
        let mut state = self.0.lock();
        state.wall_micros += i64::try_from(duration.as_micros()).expect("a simulation lasts years, not ages");
        state.monotonic += duration;
    }

    /// Sets the wall clock, as an operator or NTP would. The monotonic clock does not move.
    pub fn set_wall_micros(&self, wall_micros: i64) {
        self.0.lock().wall_micros = wall_micros;
    }
}

impl Clock for ManualClock {
    fn wall_micros(&self) -> i64 {
        self.0.lock().wall_micros
    }

    fn monotonic(&self) -> Duration {
        self.0.lock().monotonic
    }

    /// Advances the clock instead of waiting.
    fn sleep(&self, duration: Duration) {
        self.advance(duration);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manual_clock_moves_only_when_it_is_advanced() {
        let clock = ManualClock::new(5);
        let shared = clock.clone();
        assert_eq!((clock.wall_micros(), clock.monotonic()), (5, Duration::ZERO));
        shared.advance(Duration::from_micros(7));
        clock.sleep(Duration::from_micros(1));
        assert_eq!((clock.wall_micros(), clock.monotonic()), (13, Duration::from_micros(8)));
        clock.set_wall_micros(-1);
        assert_eq!((shared.wall_micros(), shared.monotonic()), (-1, Duration::from_micros(8)));
    }

    #[test]
    fn the_system_clock_is_after_2020_and_does_not_go_back() {
        assert!(SystemClock.wall_micros() > 1_577_836_800_000_000);
        let before = SystemClock.monotonic();
        SystemClock.sleep(Duration::from_micros(10));
        assert!(SystemClock.monotonic() >= before + Duration::from_micros(10));
    }
}
