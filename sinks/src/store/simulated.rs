//! A simulated backend: objects in memory, or in another backend, behind faults from a schedule.
//!
//! It fails, stalls, loses answers, repeats operations and breaks the contract of a backend, so
//! that tests show what a store and a run make of that. The same seed gives the same faults.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use object_store::ObjectStore;
use parking_lot::Mutex;
use tidegate_host::{Clock, Host, SystemClock};

use super::backend::{ObjectBackend, ObjectInfo};
use super::object_store_backend::ObjectStoreBackend;
use super::url::StoreUrl;

/// How long a call takes that stalls.
const STALL: Duration = Duration::from_millis(5);

/// A fault of a store's simulated backend: one way in which a call can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreFault {
    /// It does nothing and reports a failure that may pass.
    Fails,
    /// It does nothing and reports that there is no space left.
    IsFull,
    /// It takes some time.
    Stalls,
    /// It succeeds and reports a failure.
    LosesAnswer,
    /// It runs twice, as a network may have it, and reports the second outcome.
    RunsTwice,
    /// It does nothing and reports success.
    DoesNothing,
    /// A create replaces an existing object.
    Overwrites,
}

impl StoreFault {
    /// All faults after which a store still meets its contract or is found not to.
    pub const ALL: [StoreFault; 6] = [
        StoreFault::Fails,
        StoreFault::Stalls,
        StoreFault::LosesAnswer,
        StoreFault::RunsTwice,
        StoreFault::DoesNothing,
        StoreFault::Overwrites,
    ];
}

/// The schedule of faults in a store's simulated backend: which calls go wrong, and how.
#[derive(Clone, Debug)]
pub struct FaultSchedule(Schedule);

#[derive(Clone, Debug)]
enum Schedule {
    /// Faults of the next creates, in order.
    Script(std::vec::IntoIter<StoreFault>),
    /// A fault of the list in so many of a hundred calls.
    Seeded { state: u64, percent: u64, faults: Vec<StoreFault> },
}

impl FaultSchedule {
    /// A schedule without faults.
    pub fn none() -> FaultSchedule {
        FaultSchedule::script(&[])
    }

    /// The next creates meet these faults, one each. All other calls succeed.
    pub fn script(faults: &[StoreFault]) -> FaultSchedule {
        FaultSchedule(Schedule::Script(Vec::from(faults).into_iter()))
    }

    /// `percent` of all calls meet one of `faults`; a seed always gives the same ones.
    ///
    /// # Panics
    /// When there are no faults.
    pub fn seeded(seed: u64, percent: u64, faults: Vec<StoreFault>) -> FaultSchedule {
        assert!(!faults.is_empty(), "a seeded schedule needs a fault to choose");
        FaultSchedule(Schedule::Seeded { state: seed, percent, faults })
    }

    fn next(&mut self, is_create: bool) -> Option<StoreFault> {
        match &mut self.0 {
            Schedule::Script(faults) if is_create => faults.next(),
            Schedule::Script(_) => None,
            Schedule::Seeded { state, percent, faults } => {
                if next_random(state) % 100 >= *percent {
                    return None;
                }
                Some(faults[(next_random(state) % faults.len() as u64) as usize])
            }
        }
    }
}

/// SplitMix64.
fn next_random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// A simulated backend of a store, whose calls meet the faults of a schedule.
#[derive(Debug)]
pub struct SimulatedBackend {
    inner: Arc<dyn ObjectBackend>,
    schedule: Mutex<FaultSchedule>,
    clock: Arc<dyn Clock>,
    /// When each object was created through this backend, by its clock.
    modified: Mutex<BTreeMap<String, i64>>,
}

impl SimulatedBackend {
    /// Objects in memory, behind the faults of a schedule.
    pub fn in_memory(schedule: FaultSchedule) -> SimulatedBackend {
        SimulatedBackend::over(Arc::new(ObjectStoreBackend::in_memory()), schedule)
    }

    /// The objects of another backend, behind the faults of a schedule.
    pub fn over(inner: Arc<dyn ObjectBackend>, schedule: FaultSchedule) -> SimulatedBackend {
        let (schedule, clock) = (Mutex::new(schedule), Arc::new(SystemClock));
        SimulatedBackend { inner, schedule, clock, modified: Mutex::default() }
    }

    /// The same backend on another machine: the clock of `host` gives the age of objects.
    #[must_use]
    pub fn on_host(self, host: &Host) -> SimulatedBackend {
        SimulatedBackend { clock: Arc::clone(&host.clock), ..self }
    }

    /// Makes one call under the next fault. `nothing` is the answer of a call that does nothing,
    /// when there is one that can be given without an object.
    fn call<T>(
        &self,
        fault: Option<StoreFault>,
        nothing: Option<T>,
        act: impl Fn() -> io::Result<T>,
    ) -> io::Result<T> {
        match fault {
            None | Some(StoreFault::Overwrites) => act(),
            Some(StoreFault::Fails) => Err(io::ErrorKind::ConnectionRefused.into()),
            Some(StoreFault::IsFull) => Err(io::ErrorKind::StorageFull.into()),
            Some(StoreFault::Stalls) => {
                self.clock.sleep(STALL);
                act()
            }
            Some(StoreFault::LosesAnswer) => {
                let _ = act();
                Err(io::ErrorKind::TimedOut.into())
            }
            Some(StoreFault::RunsTwice) => {
                let _ = act();
                act()
            }
            Some(StoreFault::DoesNothing) => nothing.map_or_else(act, Ok),
        }
    }

    fn next_fault(&self, is_create: bool) -> Option<StoreFault> {
        self.schedule.lock().next(is_create)
    }
}

impl ObjectBackend for SimulatedBackend {
    fn url(&self) -> &StoreUrl {
        self.inner.url()
    }

    fn objects(&self) -> Option<Arc<dyn ObjectStore>> {
        self.inner.objects()
    }

    fn create(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let fault = self.next_fault(true);
        self.call(fault, Some(()), || {
            if fault == Some(StoreFault::Overwrites) {
                let _ = self.inner.delete(name);
            }
            self.inner.create(name, bytes)?;
            self.modified.lock().insert(name.to_owned(), self.clock.wall_micros());
            Ok(())
        })
    }

    /// Only calls of [`ObjectBackend::create`] meet the faults of a script.
    fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.call(self.next_fault(false), Some(()), || {
            self.inner.replace(name, bytes)?;
            self.modified.lock().insert(name.to_owned(), self.clock.wall_micros());
            Ok(())
        })
    }

    fn get(&self, name: &str) -> io::Result<Bytes> {
        self.call(self.next_fault(false), None, || self.inner.get(name))
    }

    fn get_range(&self, name: &str, range: Range<u64>) -> io::Result<Bytes> {
        self.call(self.next_fault(false), None, || self.inner.get_range(name, range.clone()))
    }

    fn head(&self, name: &str) -> io::Result<ObjectInfo> {
        let info = self.call(self.next_fault(false), None, || self.inner.head(name))?;
        let modified = self.modified.lock().get(name).copied();
        Ok(ObjectInfo { modified_micros: modified.unwrap_or(info.modified_micros), ..info })
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        self.call(self.next_fault(false), None, || self.inner.list(folder))
    }

    fn delete(&self, name: &str) -> io::Result<()> {
        self.call(self.next_fault(false), Some(()), || self.inner.delete(name))
    }

    fn remove_unfinished(&self, before_micros: i64) -> io::Result<Vec<String>> {
        self.call(self.next_fault(false), None, || self.inner.remove_unfinished(before_micros))
    }
}
