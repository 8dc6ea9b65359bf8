//! A place for objects that fails, stalls, loses answers, does things twice, and lies, at a folder's expense.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use object_store::ObjectStore;
use tidegate_sinks::store::{Folder, Place};

use super::chance::Dice;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Does nothing and says so.
    Fails,
    /// Takes its time.
    Stalls,
    /// Does it, and says that it failed.
    LosesTheAnswer,
    /// Does it twice, as a network may, and gives the second answer.
    DoesItTwice,
    /// Does nothing and says that it is done.
    DoesNothing,
    /// Creates over what is there.
    Overwrites,
}

impl Fault {
    pub const ALL: [Fault; 6] = [
        Fault::Fails,
        Fault::Stalls,
        Fault::LosesTheAnswer,
        Fault::DoesItTwice,
        Fault::DoesNothing,
        Fault::Overwrites,
    ];
}

/// A folder with faults.
pub struct Faulty {
    folder: Folder,
    /// What may happen to a call, and to how many of a hundred.
    faults: Vec<Fault>,
    percent: u64,
    dice: Mutex<Dice>,
}

impl std::fmt::Debug for Faulty {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}, {} % {:?}", self.folder, self.percent, self.faults)
    }
}

impl Faulty {
    pub fn new(root: &Path, faults: Vec<Fault>, percent: u64, dice: Dice) -> Faulty {
        Faulty { folder: Folder::open(root).unwrap(), faults, percent, dice: Mutex::new(dice) }
    }

    fn fault(&self) -> Option<Fault> {
        let mut dice = self.dice.lock().unwrap();
        dice.percent(self.percent).then(|| *dice.pick(&self.faults))
    }

    /// Does `act` under a fault. `nothing` is what a call answers that does nothing.
    fn befall<T>(
        &self,
        fault: Option<Fault>,
        nothing: io::Result<T>,
        act: impl Fn() -> io::Result<T>,
    ) -> io::Result<T> {
        match fault {
            None | Some(Fault::Overwrites) => act(),
            Some(Fault::Fails) => Err(io::ErrorKind::ConnectionRefused.into()),
            Some(Fault::Stalls) => {
                std::thread::sleep(Duration::from_millis(5));
                act()
            }
            Some(Fault::LosesTheAnswer) => {
                let _ = act();
                Err(io::ErrorKind::TimedOut.into())
            }
            Some(Fault::DoesItTwice) => {
                let _ = act();
                act()
            }
            Some(Fault::DoesNothing) => nothing.or_else(|_| act()),
        }
    }
}

/// The answer of a read that cannot be given without reading.
fn no_answer<T>() -> io::Result<T> {
    Err(io::ErrorKind::Unsupported.into())
}

impl Place for Faulty {
    fn root(&self) -> &Path {
        self.folder.root()
    }

    fn objects(&self) -> Arc<dyn ObjectStore> {
        self.folder.objects()
    }

    fn create(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let fault = self.fault();
        self.befall(fault, Ok(()), || {
            if fault == Some(Fault::Overwrites) {
                let _ = self.folder.delete(name);
            }
            self.folder.create(name, bytes)
        })
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        self.befall(self.fault(), no_answer(), || self.folder.read(name))
    }

    fn length(&self, name: &str) -> io::Result<u64> {
        self.befall(self.fault(), no_answer(), || self.folder.length(name))
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        self.befall(self.fault(), no_answer(), || self.folder.list(folder))
    }

    fn delete(&self, name: &str) -> io::Result<()> {
        self.befall(self.fault(), Ok(()), || self.folder.delete(name))
    }
}
