//! Threads that go before all others: those on the way of a call, while a topology serves.
//!
//! Where more threads want a core than there are, the kernel lets each have its turn, of milliseconds. A call is handed from thread
//! to thread, and may wait for a turn at each of them. A thread in real time waits for none but its equals.
//! The system must permit it (`CAP_SYS_NICE`, or a limit on real-time priority of 2 or more); it keeps a twentieth of each second
//! for all others.

use std::cell::Cell;
use std::io;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// In which order threads go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Priority {
    /// After those that are in real time, in turns.
    Ordinary,
    /// Takes calls and answers them, and short statements. It is not for long ones: calls wait for them.
    Serve,
    /// Admits, logs and computes what the calls brought. A call that waits here keeps all behind it waiting.
    Compute,
    /// Before all of the service: what stands for another machine.
    Outside,
}

impl Priority {
    /// Gives the calling thread this priority. Threads that it starts are ordinary.
    ///
    /// # Errors
    /// When the system does not permit it.
    pub fn take(self) -> io::Result<()> {
        self.set(0)
    }

    /// Gives this priority to a thread of this process. Threads that it starts are ordinary.
    ///
    /// # Errors
    /// When the system does not permit it, or there is no such thread any more.
    pub fn give(self, thread: ThreadId) -> io::Result<()> {
        self.set(thread.0)
    }

    /// For a thread, or with 0 for the calling one.
    fn set(self, thread: libc::pid_t) -> io::Result<()> {
        let (policy, level) = match self {
            Priority::Ordinary => (libc::SCHED_OTHER, 0),
            Priority::Serve => (libc::SCHED_RR, 1),
            Priority::Compute => (libc::SCHED_RR, 2),
            Priority::Outside => (libc::SCHED_RR, 3),
        };
        let parameters = libc::sched_param { sched_priority: level };
        #[allow(
            unsafe_code,
            reason = "the call reads one struct, which outlives it, and changes one thread alone"
        )]
        // SAFETY: `parameters` is initialised and lives until the call returns.
        let answer = unsafe {
            libc::sched_setscheduler(thread, policy | libc::SCHED_RESET_ON_FORK, &raw const parameters)
        };
        if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Gives the calling thread this priority until what is returned is dropped.
    ///
    /// # Errors
    /// When the system does not permit it.
    pub fn hold(self) -> io::Result<Held> {
        self.take().map(|()| Held(PhantomData))
    }
}

thread_local! {
    /// What the calling thread is by [`Realtime::go`] or [`rest`].
    static OWN: Cell<Priority> = const { Cell::new(Priority::Ordinary) };
}

/// Whether the threads that heed it go first now; at the beginning they do not.
#[derive(Clone, Debug, Default)]
pub struct Realtime(Arc<AtomicBool>);

impl Realtime {
    /// Has threads go first from now on, or no longer; each hears of it when it asks.
    pub fn switch(&self, is_on: bool) {
        self.0.store(is_on, Ordering::Release);
    }

    /// Whether threads go first.
    pub fn is_on(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// Gives the calling thread a priority while threads go first, and makes it ordinary while they do not.
    pub fn go(&self, priority: Priority) {
        become_now(if self.is_on() { priority } else { Priority::Ordinary });
    }
}

/// Makes the calling thread ordinary, whether or not threads go first.
pub fn rest() {
    become_now(Priority::Ordinary);
}

fn become_now(priority: Priority) {
    if OWN.replace(priority) != priority
        && let Err(error) = priority.take()
    {
        tracing::warn!(%error, "a thread waits for its turns"); // Once: it is not tried again.
    }
}

/// A thread of this process, as the system counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThreadId(libc::pid_t);

impl ThreadId {
    /// The calling thread.
    pub fn current() -> ThreadId {
        #[allow(unsafe_code, reason = "the call takes nothing and cannot fail")]
        // SAFETY: it reads a number that the system keeps of the calling thread.
        ThreadId(unsafe { libc::gettid() })
    }

    /// For how long the thread has had a core. The clock stands still while the thread rests, and may tell of some milliseconds
    /// only after them; `None` on a system that does not tell.
    pub fn on_core(self) -> Option<Duration> {
        let text = std::fs::read_to_string(format!("/proc/self/task/{}/schedstat", self.0)).ok()?;
        text.split(' ').next()?.parse().ok().map(Duration::from_nanos)
    }
}

/// The calling thread has a priority as long as this lives.
#[derive(Debug)]
pub struct Held(PhantomData<*const ()>); // Stays with its thread.

impl Drop for Held {
    fn drop(&mut self) {
        // Nobody is forbidden to wait for his turn.
        let _ = Priority::Ordinary.take();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The number of the calling thread's policy, as Linux tells it.
    fn policy() -> String {
        let text = std::fs::read_to_string("/proc/thread-self/stat").expect("there is /proc");
        let behind_name = &text[text.rfind(')').expect("the name stands in brackets")..];
        behind_name.split_whitespace().nth(39).expect("there are 52 fields").to_owned()
    }

    #[test]
    fn a_thread_goes_first_as_long_as_it_says_and_those_it_starts_do_not() {
        let (ordinary, realtime) = (libc::SCHED_OTHER.to_string(), libc::SCHED_RR.to_string());
        match Priority::Serve.hold() {
            Ok(held) => {
                assert_eq!(policy(), realtime);
                assert_eq!(std::thread::spawn(policy).join().expect("no panic"), ordinary);
                drop(held);
            }
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::PermissionDenied),
        }
        assert_eq!(policy(), ordinary);
    }
}
