//! Real-time scheduling priority of threads: those that serve calls run before all others while a
//! topology is served.
//!
//! Where more threads want a core than there are, the kernel gives each a time slice of
//! milliseconds. A call passes several threads, and may wait for a slice at each of them. A
//! real-time thread waits only for threads of its own priority and above. The system must permit it
//! (`CAP_SYS_NICE`, or a limit on real-time priority of 2 or more, and of 3 for
//! [`Priority::Outside`]); Linux keeps a twentieth of each second for ordinary threads.

use std::cell::Cell;
use std::io;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The scheduling priority of a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Priority {
    /// Not in real time: after all real-time threads.
    Ordinary,
    /// Threads that take calls and answer them, and short SQL statements. Long statements must not
    /// have it: calls would wait for them.
    Serve,
    /// Threads that admit, log and compute what the calls bring. A call that waits here keeps all
    /// behind it waiting.
    Compute,
    /// Before all threads of the service: load generators that stand for another machine.
    Outside,
}

impl Priority {
    /// Gives the calling thread this priority. Threads that it starts are ordinary.
    ///
    /// # Errors
    /// When the system does not permit it.
    pub fn set_for_current_thread(self) -> io::Result<()> {
        self.set(0)
    }

    /// Gives a thread of this process this priority. Threads that it starts are ordinary.
    ///
    /// # Errors
    /// When the system does not permit it, or the thread has ended.
    pub fn set_for_thread(self, thread: ThreadId) -> io::Result<()> {
        self.set(thread.0)
    }

    /// The real-time priority, which a limit must reach; 0 of ordinary threads.
    const fn level(self) -> libc::c_int {
        match self {
            Priority::Ordinary => 0,
            Priority::Serve => 1,
            Priority::Compute => 2,
            Priority::Outside => 3,
        }
    }

    /// For a thread, or with 0 for the calling one.
    fn set(self, thread: libc::pid_t) -> io::Result<()> {
        let level = self.level();
        let policy = if level == 0 { libc::SCHED_OTHER } else { libc::SCHED_RR };
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

    /// Gives the calling thread this priority until the guard is dropped.
    ///
    /// # Errors
    /// When the system does not permit it.
    pub fn hold(self) -> io::Result<PriorityGuard> {
        self.set_for_current_thread().map(|()| PriorityGuard(PhantomData))
    }
}

thread_local! {
    /// The priority that [`RealtimeSwitch::set_for_current_thread`] gave the calling thread.
    static CURRENT: Cell<Priority> = const { Cell::new(Priority::Ordinary) };
}

/// A switch for the real-time priority of a service's threads, shared by them; off at the
/// beginning.
#[derive(Clone, Debug, Default)]
pub struct RealtimeSwitch(Arc<AtomicBool>);

impl RealtimeSwitch {
    /// Turns real time on or off. Each thread changes its priority at its next call of
    /// [`Self::set_for_current_thread`].
    pub fn set(&self, is_on: bool) {
        self.0.store(is_on, Ordering::Release);
    }

    /// Whether real time is on.
    pub fn is_on(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// Gives the calling thread a priority if real time is on, and makes it ordinary if it is off.
    pub fn set_for_current_thread(&self, priority: Priority) {
        change_current(if self.is_on() { priority } else { Priority::Ordinary });
    }
}

/// Resets the calling thread to ordinary priority, whether or not real time is on.
pub fn reset_current_thread() {
    change_current(Priority::Ordinary);
}

fn change_current(priority: Priority) {
    if CURRENT.replace(priority) != priority
        && let Err(error) = priority.set_for_current_thread()
    {
        tracing::warn!(%error, "cannot set real-time priority"); // Once: it is not tried again.
    }
}

/// The kernel's id of a thread of this process, by which its priority is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThreadId(libc::pid_t);

impl ThreadId {
    /// The calling thread.
    pub fn current() -> ThreadId {
        #[allow(unsafe_code, reason = "the call takes nothing and cannot fail")]
        // SAFETY: it reads a number that the system keeps of the calling thread.
        ThreadId(unsafe { libc::gettid() })
    }

    /// The CPU time of the thread. While the thread runs, the kernel may be some milliseconds
    /// behind. `None` on a system that does not report it.
    pub fn cpu_time(self) -> Option<Duration> {
        let text = std::fs::read_to_string(format!("/proc/self/task/{}/schedstat", self.0)).ok()?;
        text.split(' ').next()?.parse().ok().map(Duration::from_nanos)
    }
}

/// Keeps the calling thread at a priority; see [`Priority::hold`].
#[derive(Debug)]
pub struct PriorityGuard(PhantomData<*const ()>); // Stays with its thread.

impl Drop for PriorityGuard {
    fn drop(&mut self) {
        let _ = Priority::Ordinary.set_for_current_thread(); // Every thread may give up its priority.
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The number of the calling thread's scheduling policy in Linux.
    fn policy() -> String {
        let text = std::fs::read_to_string("/proc/thread-self/stat").expect("there is /proc");
        let behind_name = &text[text.rfind(')').expect("the name stands in brackets")..];
        behind_name.split_whitespace().nth(39).expect("there are 52 fields").to_owned()
    }

    #[test]
    fn a_service_needs_a_limit_of_two_and_load_generators_need_three() {
        let of_service = [Priority::Ordinary, Priority::Serve, Priority::Compute];
        assert_eq!(of_service.map(Priority::level).into_iter().max(), Some(2));
        assert_eq!(Priority::Outside.level(), 3);
    }

    #[test]
    fn a_guard_keeps_its_thread_in_real_time_and_no_thread_that_it_starts() {
        let (ordinary, realtime) = (libc::SCHED_OTHER.to_string(), libc::SCHED_RR.to_string());
        match Priority::Serve.hold() {
            Ok(guard) => {
                assert_eq!(policy(), realtime);
                assert_eq!(std::thread::spawn(policy).join().expect("no panic"), ordinary);
                drop(guard);
            }
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::PermissionDenied),
        }
        assert_eq!(policy(), ordinary);
    }
}
