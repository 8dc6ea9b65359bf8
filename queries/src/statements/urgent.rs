//! Short statements in real time: a look-up by key takes less than a turn of the threads it would wait for.
//!
//! A statement cannot be interrupted, nor is it known beforehand how long it takes. So each thread has a budget of time on a core in which
//! it goes first, as a call does, which grows with the time that passes, and is made ordinary from outside when that is used up:
//! calls, and what is ordinary, lose at most a fifth of a core to each.

use std::cell::OnceCell;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use tidegate_dataflows::realtime::{Priority, Realtime, ThreadId};
use tokio::runtime::Builder;

/// How long a thread that has rested may compute and go first, and how often it is looked at.
const BUDGET_MAX: Duration = Duration::from_millis(2);

/// By how much a budget grows each time.
const GROWTH: Duration = Duration::from_micros(400);

/// Has the threads of a runtime go first while threads do.
///
/// # Errors
/// When the thread that looks after them cannot be started.
pub(super) fn in_realtime(builder: &mut Builder, realtime: Realtime) -> io::Result<()> {
    let threads = Threads::default();
    let looked_after = threads.clone();
    builder.on_thread_unpark(move || threads.own(|own| own.begin(&realtime)));
    let look_after = move || {
        // Where this is not permitted, nor is it to them.
        let _ = Priority::Compute.take();
        loop {
            thread::sleep(BUDGET_MAX);
            looked_after.all().iter().for_each(|thread| thread.lock().look());
        }
    };
    thread::Builder::new().name("urgency".to_owned()).spawn(look_after)?;
    Ok(())
}

thread_local! {
    static OWN: OnceCell<Arc<Urgency>> = const { OnceCell::new() };
}

/// All threads of the runtime that have worked yet.
#[derive(Clone, Default)]
struct Threads(Arc<Mutex<Vec<Arc<Urgency>>>>);

impl Threads {
    fn all(&self) -> MutexGuard<'_, Vec<Arc<Urgency>>> {
        self.0.lock().expect("no panic")
    }

    /// Does something with the calling thread's own.
    fn own(&self, act: impl FnOnce(&mut Budget)) {
        OWN.with(|own| {
            let own = own.get_or_init(|| {
                let new: Arc<Urgency> = Arc::new(Urgency(Mutex::new(Budget::of_this())));
                self.all().push(Arc::clone(&new));
                new
            });
            act(&mut own.lock());
        });
    }
}

struct Urgency(Mutex<Budget>);

impl Urgency {
    fn lock(&self) -> MutexGuard<'_, Budget> {
        self.0.lock().expect("no panic")
    }
}

/// For how long a thread may go first.
#[derive(Debug)]
struct Budget {
    thread: ThreadId,
    /// Where the system tells how long it has had a core.
    clock: PathBuf,
    left: Duration,
    /// What was used beyond the budget, to be paid first.
    debt: Duration,
    /// What the clock told when it began to go first, or was charged last; `None` when it is ordinary. The clock stands still while
    /// the thread rests, and may tell of some milliseconds only after them.
    since: Option<Duration>,
    is_urgent: bool,
}

impl Budget {
    /// Of the calling thread.
    fn of_this() -> Budget {
        let own = std::fs::read_link("/proc/thread-self").unwrap_or_default();
        let clock = Path::new("/proc").join(own).join("schedstat");
        Budget {
            thread: ThreadId::current(),
            clock,
            left: BUDGET_MAX,
            debt: Duration::ZERO,
            since: None,
            is_urgent: false,
        }
    }

    /// For how long the thread has had a core; `None` on a system that does not tell.
    fn clock(&self) -> Option<Duration> {
        let text = std::fs::read_to_string(&self.clock).ok()?;
        text.split(' ').next()?.parse().ok().map(Duration::from_nanos)
    }

    /// The thread begins to work.
    fn begin(&mut self, realtime: &Realtime) {
        self.charge();
        let may = realtime.is_on() && !self.left.is_zero();
        // What cannot be charged is not given.
        let now = if may { self.since.or_else(|| self.clock()) } else { None };
        self.become_urgent(now.is_some());
        self.since = now.filter(|_| self.is_urgent);
    }

    /// Takes what was computed since the last time from the budget.
    fn charge(&mut self) {
        if let Some(since) = self.since {
            let now = self.clock().unwrap_or(since + BUDGET_MAX);
            let used = now.saturating_sub(since);
            self.debt += used.saturating_sub(self.left);
            self.left = self.left.saturating_sub(used);
            self.since = Some(now);
        }
    }

    /// Some time has passed. A thread that has nothing left is ordinary from now on.
    fn look(&mut self) {
        let paid = self.debt.min(GROWTH);
        self.debt -= paid;
        self.left = (self.left + GROWTH - paid).min(BUDGET_MAX);
        self.charge();
        if self.since.is_some() && self.left.is_zero() {
            self.since = None;
            self.become_urgent(false);
        }
    }

    fn become_urgent(&mut self, is_urgent: bool) {
        if self.is_urgent != is_urgent {
            let priority = if is_urgent { Priority::Serve } else { Priority::Ordinary };
            // A thread that may not stays ordinary, and one that is gone needs nothing.
            self.is_urgent = priority.give(self.thread).is_ok() && is_urgent;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_works_on_is_ordinary_when_the_budget_is_used_up_and_urgent_again_after_a_rest() {
        let (mut budget, realtime) = (Budget::of_this(), Realtime::default());
        budget.begin(&realtime);
        assert!(!budget.is_urgent, "threads do not go first yet");
        realtime.switch(true);
        budget.begin(&realtime);
        if !budget.is_urgent {
            return; // The system does not permit it.
        }
        thread::sleep(3 * BUDGET_MAX);
        budget.look();
        assert!(budget.is_urgent, "who sleeps uses nothing up: {budget:?}");
        let began = budget.clock();
        while budget.clock() < began.map(|began| began + BUDGET_MAX + GROWTH) {}
        budget.look();
        assert!(!budget.is_urgent && budget.left.is_zero(), "{budget:?}");
        budget.begin(&realtime);
        assert!(!budget.is_urgent, "it has nothing left");
        (0..1000).for_each(|_| budget.look());
        assert_eq!((budget.left, budget.debt), (BUDGET_MAX, Duration::ZERO));
        budget.begin(&realtime);
        assert!(budget.is_urgent, "{budget:?}");
        budget.become_urgent(false);
    }
}
