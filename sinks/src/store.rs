//! Where committed objects go: written once each, durably.
//!
//! The one operation that matters is a conditional create. An object appears under its name whole and
//! synced, or not at all; whoever comes second learns that it is there and whether it is the same.
//!
//! A [`Place`] makes single attempts, and may fail or lie. The store tries again where that can help,
//! for a bounded number of times and a bounded time. A create whose outcome was lost is tried again
//! too: if it had succeeded, the object is found there with the content it was to have. And a place
//! that does not keep what it acknowledges is refused: at start by [`Store::probe`], later by
//! [`Store::confirm`], by name.

mod place;

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use object_store::ObjectStore;
use tidegate_facts::Digest;

pub use place::{Folder, Place};

/// A store of immutable objects. Clones are one store.
#[derive(Clone, Debug)]
pub struct Store {
    place: Arc<dyn Place>,
    patience: Patience,
}

/// How long a store tries. It changes no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// How often one operation is tried, at least once.
    pub tries_max: u32,
    /// How long it waits before the second try; twice as long before each further one.
    pub wait_ms_first: u64,
    /// How long after the first try the last one may begin.
    pub time_ms_max: u64,
}

impl Default for Patience {
    /// Eight tries within 30 seconds, the second after 20 ms.
    fn default() -> Patience {
        Patience { tries_max: 8, wait_ms_first: 20, time_ms_max: 30_000 }
    }
}

/// What came of a conditional create.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Created {
    /// The object is new.
    New,
    /// The same object was there: the work was done before, or by a try whose outcome was lost.
    Already,
}

/// Why the store could not be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The folder cannot be used.
    #[error("cannot use `{path}` as a store; check that it is a folder and writable")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// An object cannot be written or read.
    #[error(
        "cannot {doing} `{path}`{}; check free space and permissions, then start again: what was committed stays",
        if *.tries > 1 { format!(" ({tries} tries)") } else { String::new() }
    )]
    Object {
        /// What was tried.
        doing: &'static str,
        /// The object.
        path: PathBuf,
        /// How often.
        tries: u32,
        /// The cause of the last failure.
        source: io::Error,
    },
    /// Another object stands under the name.
    #[error(
        "`{path}` is there already with other content ({found} instead of {wanted}); the folder belongs to another \
         run, or was changed: use a new data folder, or restore this one"
    )]
    Conflict {
        /// The object.
        path: PathBuf,
        /// The digest of what is there.
        found: Digest,
        /// The digest of what was to be written.
        wanted: Digest,
    },
    /// The place said what is not so.
    #[error(
        "the store acknowledged `{path}`, but {what}: it does not keep its word, or something else writes to it; \
         use another store and start again: everything can be made again from the log"
    )]
    Untrue {
        /// The object.
        path: PathBuf,
        /// What is the case instead.
        what: String,
    },
}

impl Store {
    /// The store in the folder `root`, which is made if it is missing.
    ///
    /// # Errors
    /// When the folder cannot be made or opened.
    pub fn open(root: &Path) -> Result<Store, StoreError> {
        let folder =
            Folder::open(root).map_err(|source| StoreError::Folder { path: root.to_owned(), source })?;
        Ok(Store::over(Arc::new(folder), Patience::default()))
    }

    /// The store that keeps its objects in `place`.
    pub fn over(place: Arc<dyn Place>, patience: Patience) -> Store {
        Store { place, patience }
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        self.place.root()
    }

    /// The store as DataFusion reads it.
    pub fn objects(&self) -> Arc<dyn ObjectStore> {
        self.place.objects()
    }

    /// Tries whether the place creates conditionally and keeps what it acknowledges. Some replace what is
    /// there in silence; two runs on one of them would take each other's commits away.
    ///
    /// # Errors
    /// [`StoreError::Untrue`] when it does not, and whatever else it refuses.
    pub fn probe(&self) -> Result<(), StoreError> {
        // The name is nobody else's, so that two runs that begin do not take each other for a lie.
        let name = format!("probe-{}-{:016x}", std::process::id(), RandomState::new().hash_one(0));
        self.create(&name, b"first")?;
        let second = self.create(&name, b"second");
        let kept = self.confirm(&name, b"first");
        self.delete(&name)?;
        match second {
            Err(StoreError::Conflict { .. }) => kept,
            Err(other) => Err(other),
            Ok(_) => Err(self.untrue(&name, "a second object was taken under its name")),
        }
    }

    /// Creates the object `name` unless it is there. When this returns, the object is durable.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when another object has the name; otherwise when it cannot be written.
    pub fn create(&self, name: &str, bytes: &[u8]) -> Result<Created, StoreError> {
        let created = self.patiently("create", name, || match self.place.create(name, bytes) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error),
        })?;
        if created {
            return Ok(Created::New);
        }
        let (found, wanted) = (Digest::of(&self.read(name)?), Digest::of(bytes));
        if found == wanted {
            Ok(Created::Already)
        } else {
            Err(StoreError::Conflict { path: self.path(name), found, wanted })
        }
    }

    /// Looks whether the object `name` that was created has this content.
    ///
    /// # Errors
    /// [`StoreError::Untrue`] when it has another one, or is missing.
    pub fn confirm(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        match self.read(name) {
            Ok(found) if found == bytes => Ok(()),
            Ok(_) => Err(self.untrue(name, "it has other content")),
            Err(error) => Err(self.missing(name, error)),
        }
    }

    /// Looks whether the object `name` that was created has this length. That costs no transfer.
    ///
    /// # Errors
    /// [`StoreError::Untrue`] when it has another one, or is missing.
    pub fn confirm_length(&self, name: &str, bytes: u64) -> Result<(), StoreError> {
        match self.patiently("look for", name, || self.place.length(name)) {
            Ok(found) if found == bytes => Ok(()),
            Ok(found) => Err(self.untrue(name, &format!("it has {found} bytes instead of {bytes}"))),
            Err(error) => Err(self.missing(name, error)),
        }
    }

    /// The content of an object.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(&self, name: &str) -> Result<Vec<u8>, StoreError> {
        self.patiently("read", name, || self.place.read(name))
    }

    /// The names of the objects directly in a folder, sorted; none when there is no such folder.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn list(&self, folder: &str) -> Result<Vec<String>, StoreError> {
        let mut names = self.patiently("list", folder, || self.place.list(folder))?;
        names.sort();
        Ok(names)
    }

    /// Removes an object if it is there.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn delete(&self, name: &str) -> Result<(), StoreError> {
        self.patiently("delete", name, || match self.place.delete(name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            outcome => outcome,
        })
    }

    /// Tries until it succeeds, cannot, or has taken too long.
    fn patiently<T>(
        &self,
        doing: &'static str,
        name: &str,
        attempt: impl Fn() -> io::Result<T>,
    ) -> Result<T, StoreError> {
        let Patience { tries_max, wait_ms_first, time_ms_max } = self.patience;
        let began = Instant::now();
        let mut wait = Duration::from_millis(wait_ms_first);
        let mut tries = 1;
        loop {
            let source = match attempt() {
                Ok(outcome) => return Ok(outcome),
                Err(error) => error,
            };
            let late = began.elapsed() + wait > Duration::from_millis(time_ms_max);
            if is_final(source.kind()) || tries >= tries_max || late {
                return Err(StoreError::Object { doing, path: self.path(name), tries, source });
            }
            tracing::warn!(object = %self.path(name).display(), tries, error = %source, "cannot {doing} it yet");
            std::thread::sleep(wait);
            wait *= 2;
            tries += 1;
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.root().join(name)
    }

    fn untrue(&self, name: &str, what: &str) -> StoreError {
        StoreError::Untrue { path: self.path(name), what: what.to_owned() }
    }

    fn missing(&self, name: &str, error: StoreError) -> StoreError {
        match error {
            StoreError::Object { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                self.untrue(name, "it is not there")
            }
            other => other,
        }
    }
}

/// Whether another try would end the same. What is not known to be so is tried again.
fn is_final(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::*;
    matches!(
        kind,
        NotFound
            | PermissionDenied
            | AlreadyExists
            | NotADirectory
            | IsADirectory
            | ReadOnlyFilesystem
            | StorageFull
            | QuotaExceeded
            | FileTooLarge
            | InvalidInput
            | InvalidFilename
            | Unsupported
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn the_second_to_create_learns_whether_it_is_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        assert_eq!(store.create("a/b.txt", b"one").unwrap(), Created::New);
        assert_eq!(store.create("a/b.txt", b"one").unwrap(), Created::Already);
        assert!(matches!(store.create("a/b.txt", b"two"), Err(StoreError::Conflict { .. })));
        assert_eq!(store.read("a/b.txt").unwrap(), b"one");
        assert_eq!(store.list("a").unwrap(), ["a/b.txt"]);
        assert!(store.list("none").unwrap().is_empty());
        store.delete("a/b.txt").unwrap();
        store.delete("a/b.txt").unwrap();
        assert!(store.list("a").unwrap().is_empty());
    }

    #[test]
    fn of_many_that_create_at_once_one_is_first_and_its_object_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let outcomes: Vec<bool> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8u8)
                .map(|i| {
                    let store = store.clone();
                    scope.spawn(move || store.create("a/b", &vec![i; 100_000]).is_ok())
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(outcomes.iter().filter(|first| **first).count(), 1);
        let kept = store.read("a/b").unwrap();
        assert_eq!(kept, vec![outcomes.iter().position(|first| *first).unwrap() as u8; 100_000]);
        assert_eq!(std::fs::read_dir(folder.path().join("a")).unwrap().count(), 1, "nothing is left behind");
    }

    /// A folder that follows a script: a word for each create, and the truth when the script is at its end.
    #[derive(Debug)]
    struct Scripted {
        folder: Folder,
        script: Mutex<Vec<&'static str>>,
    }

    impl Place for Scripted {
        fn root(&self) -> &Path {
            self.folder.root()
        }
        fn objects(&self) -> Arc<dyn ObjectStore> {
            self.folder.objects()
        }
        fn create(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
            match self.script.lock().unwrap().pop() {
                Some("fails") => Err(io::ErrorKind::ConnectionReset.into()),
                Some("loses the answer") => {
                    self.folder.create(name, bytes)?;
                    Err(io::ErrorKind::TimedOut.into())
                }
                Some("does nothing") => Ok(()),
                Some("overwrites") => {
                    let _ = self.folder.delete(name);
                    self.folder.create(name, bytes)
                }
                Some("is full") => Err(io::ErrorKind::StorageFull.into()),
                Some(word) => panic!("{word} is not known"),
                None => self.folder.create(name, bytes),
            }
        }
        fn read(&self, name: &str) -> io::Result<Vec<u8>> {
            self.folder.read(name)
        }
        fn length(&self, name: &str) -> io::Result<u64> {
            self.folder.length(name)
        }
        fn list(&self, folder: &str) -> io::Result<Vec<String>> {
            self.folder.list(folder)
        }
        fn delete(&self, name: &str) -> io::Result<()> {
            self.folder.delete(name)
        }
    }

    /// What a store of three tries says over a place that behaves so, word by word.
    fn check(script: &[&'static str], act: impl Fn(&Store) -> String, expected: &str) {
        let folder = tempfile::tempdir().unwrap();
        let script = Mutex::new(script.iter().rev().copied().collect());
        let place = Scripted { folder: Folder::open(folder.path()).unwrap(), script };
        let store =
            Store::over(Arc::new(place), Patience { tries_max: 3, wait_ms_first: 1, time_ms_max: 1_000 });
        let root = format!("{}/", folder.path().canonicalize().unwrap().display());
        assert_eq!(act(&store).replace(&root, ""), expected);
    }

    fn create(store: &Store) -> String {
        match store.create("a", b"one") {
            Ok(created) => format!("{created:?}, holds {}", store.read("a").unwrap().len()),
            Err(error) => error.to_string(),
        }
    }

    fn probe(store: &Store) -> String {
        let said = match store.probe() {
            Ok(()) => "keeps its word".to_owned(),
            Err(StoreError::Untrue { what, .. }) => what,
            Err(other) => other.to_string(),
        };
        assert_eq!(std::fs::read_dir(store.root()).unwrap().count(), 0, "the probe is gone");
        said
    }

    #[test]
    fn a_failure_that_may_pass_is_tried_again() {
        check(&["fails", "fails"], create, "New, holds 3");
        let given_up = "cannot create `a` (3 tries); check free space and permissions, then start again: what was \
                        committed stays";
        check(&["fails"; 3], create, given_up);
        check(&["is full"], create, &given_up.replace(" (3 tries)", ""));
    }

    #[test]
    fn a_create_whose_answer_was_lost_is_found_done() {
        check(&["loses the answer"], create, "Already, holds 3");
        check(&["fails", "loses the answer"], create, "Already, holds 3");
    }

    #[test]
    fn a_place_that_does_not_keep_its_word_is_refused() {
        check(&[], probe, "keeps its word");
        check(&["fails", "loses the answer"], probe, "keeps its word");
        check(&["does nothing", "does nothing"], probe, "a second object was taken under its name");
        check(&["does nothing"], probe, "a second object was taken under its name");
        check(&["overwrites", "overwrites"], probe, "a second object was taken under its name");
    }

    #[test]
    fn what_was_acknowledged_and_is_not_there_is_named() {
        let confirm = |store: &Store| {
            store.create("a", b"one").unwrap();
            [store.confirm_length("a", 3), store.confirm("a", b"one")]
                .map(|confirmed| match confirmed {
                    Ok(()) => "so it is".to_owned(),
                    Err(StoreError::Untrue { path, what }) => format!("{}: {what}", path.display()),
                    Err(other) => other.to_string(),
                })
                .join(", ")
        };
        check(&[], confirm, "so it is, so it is");
        check(&["does nothing"], confirm, "a: it is not there, a: it is not there");
    }
}
