//! Short statements in real time: a look-up by key takes less than a turn of the threads it would wait for.
//!
//! A statement cannot be interrupted, nor is it known beforehand how long it takes. So each thread has a budget of time on a core in which
//! it goes first, as a call does, which grows with the time that passes, and is made ordinary from outside when that is used up:
//! calls, and what is ordinary, lose at most a fifth of a core to each.

use std::cell::OnceCell;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use tidegate_dataflows::realtime::{Priority, Realtime, ThreadId};
use tokio::runtime::Builder;

/// How many microseconds a thread that has rested may compute and go first, and how often it is looked at.
const BUDGET_MAX: i64 = 2000;

/// By how many a budget grows each time.
const GROWTH: i64 = 400;

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
            thread::sleep(Duration::from_micros(BUDGET_MAX.unsigned_abs()));
            locked(&looked_after.0).iter().for_each(|thread| locked(thread).look());
        }
    };
    thread::Builder::new().name("urgency".to_owned()).spawn(look_after)?;
    Ok(())
}

thread_local! {
    static OWN: OnceCell<Arc<Mutex<Budget>>> = const { OnceCell::new() };
}

/// All threads of the runtime that have worked yet.
#[derive(Clone, Default)]
struct Threads(Arc<Mutex<Vec<Arc<Mutex<Budget>>>>>);

impl Threads {
    /// Does something with the calling thread's own.
    fn own(&self, act: impl FnOnce(&mut Budget)) {
        OWN.with(|own| {
            let own = own.get_or_init(|| {
                let new = Arc::new(Mutex::new(Budget::of(ThreadId::current())));
                locked(&self.0).push(Arc::clone(&new));
                new
            });
            act(&mut locked(own));
        });
    }
}

fn locked<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().expect("no panic")
}

/// For how long a thread may go first.
#[derive(Debug)]
struct Budget {
    thread: ThreadId,
    /// Microseconds on a core; below 0 what was used beyond the budget, which is paid first.
    left: i64,
    /// For how long it had had a core when it began to go first, or was charged last; `None` when it is ordinary.
    since: Option<Duration>,
}

impl Budget {
    fn of(thread: ThreadId) -> Budget {
        Budget { thread, left: BUDGET_MAX, since: None }
    }

    /// The thread begins to work.
    fn begin(&mut self, realtime: &Realtime) {
        self.charge();
        match self.since {
            Some(_) if self.left <= 0 || !realtime.is_on() => self.end(),
            None if self.left > 0 && realtime.is_on() => {
                // What cannot be charged is not given.
                let now = self.thread.on_core();
                self.since = now.filter(|_| Priority::Serve.give(self.thread).is_ok());
            }
            _ => {}
        }
    }

    /// Takes what was computed since the last time from the budget.
    fn charge(&mut self) {
        if let Some(since) = self.since {
            let now =
                self.thread.on_core().unwrap_or(since + Duration::from_micros(BUDGET_MAX.unsigned_abs()));
            self.left -= i64::try_from(now.saturating_sub(since).as_micros()).expect("it is no age");
            self.since = Some(now);
        }
    }

    /// Some time has passed. A thread that has nothing left is ordinary from now on.
    fn look(&mut self) {
        self.left = (self.left + GROWTH).min(BUDGET_MAX);
        self.charge();
        if self.since.is_some() && self.left <= 0 {
            self.end();
        }
    }

    /// Makes it ordinary.
    fn end(&mut self) {
        self.since = None;
        let _ = Priority::Ordinary.give(self.thread); // A thread that is gone needs nothing.
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_works_on_is_ordinary_when_the_budget_is_used_up_and_urgent_again_after_a_rest() {
        let (mut budget, realtime) = (Budget::of(ThreadId::current()), Realtime::default());
        budget.begin(&realtime);
        assert!(budget.since.is_none(), "threads do not go first yet");
        realtime.switch(true);
        budget.begin(&realtime);
        if budget.since.is_none() {
            return; // The system does not permit it.
        }
        let micros = |micros: i64| Duration::from_micros(micros.unsigned_abs());
        thread::sleep(3 * micros(BUDGET_MAX));
        budget.look();
        assert!(budget.since.is_some(), "who sleeps uses nothing up: {budget:?}");
        let began = budget.thread.on_core();
        while budget.thread.on_core() < began.map(|began| began + micros(BUDGET_MAX + GROWTH)) {}
        budget.look();
        assert!(budget.since.is_none() && budget.left <= 0, "{budget:?}");
        budget.begin(&realtime);
        assert!(budget.since.is_none(), "it has nothing left");
        (0..1000).for_each(|_| budget.look());
        assert_eq!(budget.left, BUDGET_MAX);
        budget.begin(&realtime);
        assert!(budget.since.is_some(), "{budget:?}");
        budget.end();
    }
}
