//! The seam to the machine: files, clocks, threads and random bytes, each behind a small trait.
//!
//! The log, the dedupe index and the local store reach the operating system only through a
//! [`Host`]. [`Host::real`] is the machine itself. [`SimulatedHost`] keeps everything in memory,
//! moves time by hand and runs tasks when it is asked to, so that a deterministic simulator can
//! stop anywhere, crash, and see what survived.
//!
//! | trait | real body | simulated body |
//! |---|---|---|
//! | [`Files`] | [`DiskFiles`] | [`MemoryFiles`] |
//! | [`Clock`] | [`SystemClock`] | [`ManualClock`] |
//! | [`Tasks`] | [`Threads`] | [`SteppedTasks`] |
//! | [`Random`] | [`SystemRandom`] | [`SeededRandom`] |

#![forbid(unsafe_code)]

mod clock;
mod disk_files;
mod files;
mod memory_files;
mod random;
mod stepped_tasks;
mod tasks;

use std::sync::Arc;

pub use clock::{Clock, ManualClock, SystemClock};
pub use disk_files::DiskFiles;
pub use files::{FileMetadata, Files, OpenFile, OpenMode};
pub use memory_files::MemoryFiles;
pub use random::{Random, SeededRandom, SystemRandom};
pub use stepped_tasks::SteppedTasks;
pub use tasks::{Job, JobQueue, JoinTask, Task, Tasks, Threads, spawn};

/// The host of a component: the files, clocks, threads and random bytes of its machine. A clone is
/// a handle on the same machine.
#[derive(Clone, Debug)]
pub struct Host {
    /// The file system.
    pub files: Arc<dyn Files>,
    /// The wall clock and the monotonic clock.
    pub clock: Arc<dyn Clock>,
    /// Threads by name.
    pub tasks: Arc<dyn Tasks>,
    /// Random bytes for identifiers that no answer depends on.
    pub random: Arc<dyn Random>,
}

impl Host {
    /// The machine that this process runs on.
    pub fn real() -> Host {
        Host {
            files: Arc::new(DiskFiles),
            clock: Arc::new(SystemClock),
            tasks: Arc::new(Threads),
            random: Arc::new(SystemRandom),
        }
    }
}

/// A simulated host: a machine in memory, with the handles by which a simulator drives it.
///
/// ```
/// use tidegate_host::{Files, OpenMode, SimulatedHost};
///
/// let machine = SimulatedHost::new(42);
/// let file = machine.files.open("/acknowledged".as_ref(), OpenMode::CreateNew)?;
/// file.write_at(b"bytes", 0)?;
/// let survivor = machine.crash();
/// assert!(survivor.files.read("/acknowledged".as_ref()).is_err(), "it was never synced");
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct SimulatedHost {
    /// The file system, which keeps synced and unsynced changes apart.
    pub files: MemoryFiles,
    /// A clock that stands still until the simulator advances it.
    pub clock: ManualClock,
    /// Tasks that run when the simulator steps them, or when their owner joins them.
    pub tasks: SteppedTasks,
    random: Arc<SeededRandom>,
}

impl SimulatedHost {
    /// An empty machine at 1970-01-01, whose random bytes follow from `seed`.
    pub fn new(seed: u64) -> SimulatedHost {
        let clock = ManualClock::new(0);
        SimulatedHost {
            files: MemoryFiles::new(Arc::new(clock.clone())),
            clock,
            tasks: SteppedTasks::new(),
            random: Arc::new(SeededRandom::new(seed)),
        }
    }

    /// The machine as components take it.
    pub fn host(&self) -> Host {
        Host {
            files: Arc::new(self.files.clone()),
            clock: Arc::new(self.clock.clone()),
            tasks: Arc::new(self.tasks.clone()),
            random: Arc::clone(&self.random) as Arc<dyn Random>,
        }
    }

    /// The machine after a power cut: without its tasks and without whatever was not synced.
    ///
    /// Components of the machine before may still be dropped; the new machine does not see what
    /// they do.
    #[must_use]
    pub fn crash(&self) -> SimulatedHost {
        self.crash_keeping(&mut || false)
    }

    /// As [`SimulatedHost::crash`], where `keep` decides for each unsynced change whether it
    /// survives (see [`MemoryFiles::crash_keeping`]).
    #[must_use]
    pub fn crash_keeping(&self, keep: &mut dyn FnMut() -> bool) -> SimulatedHost {
        SimulatedHost {
            files: self.files.crash_keeping(keep),
            clock: self.clock.clone(),
            tasks: SteppedTasks::new(),
            random: Arc::clone(&self.random),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_simulated_machine_forgets_its_tasks_and_keeps_its_time_in_a_crash() {
        let machine = SimulatedHost::new(1);
        let host = machine.host();
        let _task = host.tasks.spawn("writer", Box::new(|| ())).unwrap();
        machine.clock.advance(std::time::Duration::from_secs(3));
        assert_eq!(machine.tasks.runnable(), ["writer"]);
        let survivor = machine.crash();
        assert_eq!(survivor.tasks.runnable(), [""; 0]);
        assert_eq!(survivor.host().clock.wall_micros(), 3_000_000);
    }

    #[test]
    fn the_same_seed_gives_the_same_random_bytes() {
        let draw = |seed| {
            let mut bytes = [0; 16];
            SimulatedHost::new(seed).host().random.fill(&mut bytes).unwrap();
            bytes
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }
}
