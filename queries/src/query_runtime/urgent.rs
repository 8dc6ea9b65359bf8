//! Real-time priority for short statements: each thread has a budget of time on a core.
//!
//! A look-up by key takes less time than one time slice of the threads that it would wait for. But
//! a statement cannot be interrupted, and its duration is unknown beforehand. So each statement
//! thread has a budget of time on a core. While budget is left, it runs at the priority of the HTTP
//! threads. The budget grows as time passes. A monitor thread lowers the priority of a thread whose
//! budget is used up. So each statement thread takes at most a fifth of a core from the others.

use std::cell::OnceCell;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;
use tidegate_dataflows::thread_priority::{Priority, RealtimeSwitch, ThreadId};
use tokio::runtime::Builder;

/// The full budget of a thread, and the interval of the monitor, in microseconds.
const BUDGET_MAX: i64 = 2000;

/// The growth of a budget in each interval of the monitor, in microseconds.
const GROWTH: i64 = 400;

/// Gives the threads of a runtime real-time priority within their budgets, while `realtime` is on.
///
/// # Errors
/// When the monitor thread cannot be started.
pub(super) fn in_realtime(builder: &mut Builder, realtime: RealtimeSwitch) -> io::Result<()> {
    let threads = Threads::default();
    let monitored = threads.clone();
    builder.on_thread_unpark(move || threads.with_own(|own| own.begin(&realtime)));
    let monitor = move || {
        // Where the system does not permit this, it does not permit it to the others either.
        let _ = Priority::Compute.set_for_current_thread();
        loop {
            thread::sleep(Duration::from_micros(BUDGET_MAX.unsigned_abs()));
            monitored.0.lock().iter().for_each(|budget| budget.lock().tick());
        }
    };
    thread::Builder::new().name("urgency".to_owned()).spawn(monitor)?;
    Ok(())
}

thread_local! {
    static OWN: OnceCell<Arc<Mutex<Budget>>> = const { OnceCell::new() };
}

/// The budgets of all threads of the runtime that have run yet.
#[derive(Clone, Default)]
struct Threads(Arc<Mutex<Vec<Arc<Mutex<Budget>>>>>);

impl Threads {
    /// Calls `act` with the budget of the calling thread.
    fn with_own(&self, act: impl FnOnce(&mut Budget)) {
        OWN.with(|own| {
            let own = own.get_or_init(|| {
                let new = Arc::new(Mutex::new(Budget::of(ThreadId::current())));
                self.0.lock().push(Arc::clone(&new));
                new
            });
            act(&mut own.lock());
        });
    }
}

/// The time for which a thread may keep real-time priority.
#[derive(Debug)]
struct Budget {
    thread: ThreadId,
    /// Microseconds on a core; negative when the thread has used more than its budget.
    left: i64,
    /// The thread's time on a core when it got real-time priority, or was last charged; `None`
    /// while it has ordinary priority.
    since: Option<Duration>,
}

impl Budget {
    fn of(thread: ThreadId) -> Budget {
        Budget { thread, left: BUDGET_MAX, since: None }
    }

    /// The thread wakes up: it gets real-time priority if budget is left.
    fn begin(&mut self, realtime: &RealtimeSwitch) {
        self.charge();
        match self.since {
            Some(_) if self.left <= 0 || !realtime.is_on() => self.demote(),
            None if self.left > 0 && realtime.is_on() => {
                // A thread whose time cannot be measured gets no priority.
                let now = self.thread.cpu_time();
                self.since = now.filter(|_| Priority::Serve.set_for_thread(self.thread).is_ok());
            }
            _ => {}
        }
    }

    /// Subtracts the time on a core since the last charge from the budget.
    fn charge(&mut self) {
        if let Some(since) = self.since {
            let now =
                self.thread.cpu_time().unwrap_or(since + Duration::from_micros(BUDGET_MAX.unsigned_abs()));
            self.left -= i64::try_from(now.saturating_sub(since).as_micros()).expect("it is no age");
            self.since = Some(now);
        }
    }

    /// One interval of the monitor has passed. A thread without budget loses its priority.
    fn tick(&mut self) {
        self.left = (self.left + GROWTH).min(BUDGET_MAX);
        self.charge();
        if self.since.is_some() && self.left <= 0 {
            self.demote();
        }
    }

    /// Gives the thread ordinary priority.
    fn demote(&mut self) {
        self.since = None;
        let _ = Priority::Ordinary.set_for_thread(self.thread); // A thread that is gone needs nothing.
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_loses_its_priority_with_its_budget_and_regains_both() {
        let (mut budget, realtime) = (Budget::of(ThreadId::current()), RealtimeSwitch::default());
        budget.begin(&realtime);
        assert!(budget.since.is_none(), "real time is off");
        realtime.set(true);
        budget.begin(&realtime);
        if budget.since.is_none() {
            return; // The system does not permit it.
        }
        let micros = |micros: i64| Duration::from_micros(micros.unsigned_abs());
        thread::sleep(3 * micros(BUDGET_MAX));
        budget.tick();
        assert!(budget.since.is_some(), "a thread that sleeps uses no budget: {budget:?}");
        let began = budget.thread.cpu_time();
        while budget.thread.cpu_time() < began.map(|began| began + micros(BUDGET_MAX + GROWTH)) {}
        budget.tick();
        assert!(budget.since.is_none() && budget.left <= 0, "{budget:?}");
        budget.begin(&realtime);
        assert!(budget.since.is_none(), "it has nothing left");
        (0..1000).for_each(|_| budget.tick());
        assert_eq!(budget.left, BUDGET_MAX);
        budget.begin(&realtime);
        assert!(budget.since.is_some(), "{budget:?}");
        budget.demote();
    }
}
