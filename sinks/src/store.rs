//! Stores of immutable objects: table files, commits, state, plans and the archive.
//!
//! The operation that everything rests on is the conditional create: an object appears under its
//! name whole and durable, or not at all. A second writer learns that the name is taken, and
//! whether the object there has the same content.
//!
//! An [`ObjectBackend`] makes single attempts, which may fail or report what is not true. [`Store`]
//! adds the following in one place, for all backends:
//!
//! * Retries, bounded in number and in time by a [`RetryPolicy`].
//! * Lost answers: after a create whose outcome is unknown it reads the object back and compares.
//! * Conflicts: another object under the name is an error that gives both digests.
//! * Checks of what a backend acknowledged, by [`Store::probe`] at start and [`Store::confirm`]
//!   later. A backend that breaks its contract is refused by name.
//!
//! | backend | where the objects are |
//! |---|---|
//! | [`LocalBackend`] | files of a local folder |
//! | [`SimulatedBackend`] | in memory, or in another backend, behind faults from a seeded schedule |
//! | [`ObjectStoreBackend`] | wherever a client of the crate `object_store` stores them |

mod backend;
mod local;
mod object_store_backend;
mod simulated;
mod url;

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use object_store::ObjectStore;
use tidegate_facts::Digest;
use tidegate_host::Host;

pub use backend::{ObjectBackend, ObjectInfo};
pub use local::LocalBackend;
pub use object_store_backend::ObjectStoreBackend;
pub use simulated::{FaultSchedule, SimulatedBackend, StoreFault};
pub use url::StoreUrl;

/// How many threads create one object at once when [`Store::probe`] looks for a race.
const PROBE_THREADS: u8 = 16;

/// A store of immutable objects. Clones share one backend.
#[derive(Clone, Debug)]
pub struct Store {
    backend: Arc<dyn ObjectBackend>,
    retry: RetryPolicy,
    host: Host,
}

/// How often and how long a store tries one operation. It changes no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// The number of attempts at most; at least one is made.
    pub tries_max: u32,
    /// The wait before the second attempt. It doubles before each further one.
    pub wait_ms_first: u64,
    /// How long after the first attempt the last one may begin.
    pub time_ms_max: u64,
}

impl Default for RetryPolicy {
    /// Eight attempts within 30 seconds, the second after 20 ms.
    fn default() -> RetryPolicy {
        RetryPolicy { tries_max: 8, wait_ms_first: 20, time_ms_max: 30_000 }
    }
}

/// The outcome of a conditional create after which the store has the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Created {
    /// This call created the object.
    New,
    /// The same object was there: an earlier run created it, or an attempt whose answer was lost.
    Already,
}

/// Why a store could not be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The folder of a local store cannot be used.
    #[error("cannot use `{path}` as a store; check that it is a folder and writable")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// This build has no backend for the URL.
    #[error("cannot open the store `{url}`: this build has no stores of kind `{scheme}`; use a folder")]
    Scheme {
        /// The URL.
        url: String,
        /// The kind of store that it names.
        scheme: String,
    },
    /// An object cannot be written or read.
    #[error(
        "cannot {operation} `{object}`{}; check free space and permissions, then start again: what was committed stays",
        if *.tries > 1 { format!(" ({tries} tries)") } else { String::new() }
    )]
    Object {
        /// The operation, as a verb.
        operation: &'static str,
        /// The object's location.
        object: String,
        /// How many attempts were made.
        tries: u32,
        /// The cause of the last failure.
        source: io::Error,
    },
    /// Another object has the name.
    #[error(
        "`{object}` exists already with other content ({found} instead of {expected}); the folder belongs to another \
         run, or was changed: use a new data folder, or restore this one"
    )]
    Conflict {
        /// The object's location.
        object: String,
        /// The digest of the object that exists.
        found: Digest,
        /// The digest of the object that was to be created.
        expected: Digest,
    },
    /// The backend reported something that is not true.
    #[error(
        "the store acknowledged `{object}`, but {detail}: it breaks the contract of a store, or something else \
         writes to it; use another store and start again: everything can be made again from the log"
    )]
    BrokenContract {
        /// The object's location.
        object: String,
        /// What is true instead.
        detail: String,
    },
}

impl Store {
    /// Opens the store at a URL, on this machine. A folder is created if it is missing.
    ///
    /// # Errors
    /// [`StoreError::Folder`] when the folder cannot be created or opened; [`StoreError::Scheme`]
    /// when this build has no backend for the URL.
    pub fn open(url: impl Into<StoreUrl>) -> Result<Store, StoreError> {
        match url.into() {
            StoreUrl::Folder(path) => {
                let backend =
                    LocalBackend::open(&path).map_err(|source| StoreError::Folder { path, source })?;
                Ok(Store::over(Arc::new(backend), RetryPolicy::default()))
            }
            StoreUrl::Remote { scheme, url } => Err(StoreError::Scheme { url, scheme }),
        }
    }

    /// The store of the objects in `backend`.
    pub fn over(backend: Arc<dyn ObjectBackend>, retry: RetryPolicy) -> Store {
        Store { backend, retry, host: Host::real() }
    }

    /// The same store on another machine: it waits by the clock of `host`.
    #[must_use]
    pub fn on_host(self, host: &Host) -> Store {
        Store { host: host.clone(), ..self }
    }

    /// The URL of the store.
    pub fn url(&self) -> &StoreUrl {
        self.backend.url()
    }

    /// The folder of a store whose objects are local files; `None` for any other store.
    pub fn folder(&self) -> Option<&Path> {
        match self.backend.url() {
            StoreUrl::Folder(path) => Some(path),
            StoreUrl::Remote { .. } => None,
        }
    }

    /// The location of the object `name`, as messages show it: a path or a URL.
    pub fn location(&self, name: &str) -> String {
        self.backend.url().location(name)
    }

    /// The objects behind the interface of the crate `object_store`, for readers such as
    /// DataFusion; `None` when the backend has no such interface, and can be read through this
    /// store alone.
    ///
    /// Reads through it are single attempts.
    pub fn objects(&self) -> Option<Arc<dyn ObjectStore>> {
        self.backend.objects()
    }

    /// Checks that the backend creates conditionally and stores what it acknowledges. Some replace
    /// an existing object silently; two runs on such a store would remove each other's commits.
    ///
    /// One object is created twice, and another by several threads at once unless the backend
    /// guarantees that one of them wins.
    ///
    /// # Errors
    /// [`StoreError::BrokenContract`] when a check fails, and any other refusal of the backend.
    pub fn probe(&self) -> Result<(), StoreError> {
        // A random name, so that two runs that start at once do not disturb each other's probes.
        let mut random = [0; 8];
        let drawn = self.host.random.fill(&mut random);
        drawn.map_err(|source| self.failed("name", "probe", 1, source))?;
        let name = format!("probe-{:016x}", u64::from_le_bytes(random));
        self.create(&name, b"first")?;
        let second = self.create(&name, b"second");
        let stored = self.confirm(&name, b"first");
        self.delete(&name)?;
        match second {
            Err(StoreError::Conflict { .. }) => stored?,
            Err(other) => return Err(other),
            Ok(_) => return Err(self.broken(&name, "the store accepted a second object under its name")),
        }
        if self.backend.guarantees_one_winner() { Ok(()) } else { self.probe_race(&format!("{name}-race")) }
    }

    /// Creates one object from several threads at once, each with its own content; one must win.
    fn probe_race(&self, name: &str) -> Result<(), StoreError> {
        let mut writers = Vec::new();
        for thread in 0..PROBE_THREADS {
            let (store, object) = (self.clone(), name.to_owned());
            let create = move || store.create(&object, &[thread]);
            let writer = tidegate_host::spawn(&*self.host.tasks, "store probe", create);
            writers.push(writer.map_err(|source| self.failed("create", name, 1, source))?);
        }
        let outcomes: Vec<Result<Created, StoreError>> =
            writers.into_iter().map(|writer| writer.join().expect("a create does not panic")).collect();
        let stored = self.get(name);
        self.delete(name)?;
        let mut winners = Vec::new();
        for (thread, outcome) in (0..PROBE_THREADS).zip(outcomes) {
            match outcome {
                Ok(_) => winners.push(thread),
                Err(StoreError::Conflict { .. }) => {}
                Err(other) => return Err(other),
            }
        }
        match (winners.as_slice(), &stored?[..]) {
            ([winner], [stored]) if winner == stored => Ok(()),
            _ => {
                let detail = format!("{} of {PROBE_THREADS} simultaneous writers succeeded", winners.len());
                Err(self.broken(name, &detail))
            }
        }
    }

    /// Creates the object `name` unless it exists. When this returns `Ok`, the object is durable.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when an object with other content has the name;
    /// [`StoreError::Object`] when the backend cannot write it.
    pub fn create(&self, name: &str, bytes: &[u8]) -> Result<Created, StoreError> {
        let created = self.with_retries("create", name, || match self.backend.create(name, bytes) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error),
        });
        let found = match created {
            Ok(true) => return Ok(Created::New),
            Ok(false) => self.get(name)?,
            // The answer of an attempt that succeeded may have been lost, so look once more.
            Err(failed) => self.backend.get(name).map_err(|_| failed)?,
        };
        if found == bytes {
            return Ok(Created::Already);
        }
        let (found, expected) = (Digest::of(&found), Digest::of(bytes));
        Err(StoreError::Conflict { object: self.location(name), found, expected })
    }

    /// Creates the object `name`, in place of the one that has the name. When this returns `Ok`,
    /// the object is durable; a crash leaves the one or the other.
    ///
    /// Only for what can be derived again: a commit or a table file is never replaced.
    ///
    /// # Errors
    /// [`StoreError::Object`] when the backend cannot write it.
    pub fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        self.with_retries("replace", name, || self.backend.replace(name, bytes))
    }

    /// Checks that the object `name`, which was created, has this content.
    ///
    /// # Errors
    /// [`StoreError::BrokenContract`] when it has other content or is missing.
    pub fn confirm(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        match self.get(name) {
            Ok(found) if found == bytes => Ok(()),
            Ok(_) => Err(self.broken(name, "it has other content")),
            Err(error) => Err(self.broken_if_missing(name, error)),
        }
    }

    /// Checks that the object `name`, which was created, has this size, without transferring it.
    ///
    /// # Errors
    /// [`StoreError::BrokenContract`] when it has another size or is missing.
    pub fn confirm_size(&self, name: &str, bytes: u64) -> Result<(), StoreError> {
        match self.head(name) {
            Ok(found) if found.bytes == bytes => Ok(()),
            Ok(found) => Err(self.broken(name, &format!("it has {} bytes instead of {bytes}", found.bytes))),
            Err(error) => Err(self.broken_if_missing(name, error)),
        }
    }

    /// The content of the object `name`.
    ///
    /// # Errors
    /// [`StoreError::Object`] when it is missing or cannot be read.
    pub fn get(&self, name: &str) -> Result<Bytes, StoreError> {
        self.with_retries("read", name, || self.backend.get(name))
    }

    /// The bytes of the object `name` from `range.start` to before `range.end`.
    ///
    /// # Errors
    /// [`StoreError::Object`] when it is missing, ends before the range does, or cannot be read.
    pub fn get_range(&self, name: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.with_retries("read", name, || self.backend.get_range(name, range.clone()))
    }

    /// The size and the age of the object `name`.
    ///
    /// # Errors
    /// [`StoreError::Object`] when it is missing or cannot be examined.
    pub fn head(&self, name: &str) -> Result<ObjectInfo, StoreError> {
        self.with_retries("look for", name, || self.backend.head(name))
    }

    /// The names of the objects and folders directly in `folder`, sorted; none when it does not
    /// exist.
    ///
    /// An object store charges for it and takes its time, so this is for starts and maintenance.
    /// What runs per query or per commit takes its names from the commits.
    ///
    /// # Errors
    /// [`StoreError::Object`] when the folder cannot be listed.
    pub fn list(&self, folder: &str) -> Result<Vec<String>, StoreError> {
        let mut names = self.with_retries("list", folder, || self.backend.list(folder))?;
        names.sort();
        Ok(names)
    }

    /// Removes the object `name` if it exists.
    ///
    /// # Errors
    /// [`StoreError::Object`] when it cannot be removed.
    pub fn delete(&self, name: &str) -> Result<(), StoreError> {
        self.with_retries("delete", name, || match self.backend.delete(name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            outcome => outcome,
        })
    }

    /// Removes what creates left unfinished before this moment because their processes were killed,
    /// and returns the names, sorted.
    ///
    /// # Errors
    /// [`StoreError::Object`] when something cannot be listed or removed.
    pub fn remove_unfinished(&self, before_micros: i64) -> Result<Vec<String>, StoreError> {
        let remove = || self.backend.remove_unfinished(before_micros);
        self.with_retries("remove unfinished files below", "", remove)
    }

    /// Makes attempts until one succeeds, one fails for good, or the policy allows no more.
    fn with_retries<T>(
        &self,
        operation: &'static str,
        name: &str,
        attempt: impl Fn() -> io::Result<T>,
    ) -> Result<T, StoreError> {
        let RetryPolicy { tries_max, wait_ms_first, time_ms_max } = self.retry;
        let clock = &self.host.clock;
        let began = clock.monotonic();
        let mut wait = Duration::from_millis(wait_ms_first);
        let mut tries = 1;
        loop {
            let source = match attempt() {
                Ok(outcome) => return Ok(outcome),
                Err(error) => error,
            };
            let is_late = clock.monotonic() - began + wait > Duration::from_millis(time_ms_max);
            if is_permanent(source.kind()) || tries >= tries_max || is_late {
                return Err(self.failed(operation, name, tries, source));
            }
            tracing::warn!(object = self.location(name), tries, error = %source, "cannot {operation} it yet");
            clock.sleep(wait);
            wait *= 2;
            tries += 1;
        }
    }

    fn failed(&self, operation: &'static str, name: &str, tries: u32, source: io::Error) -> StoreError {
        StoreError::Object { operation, object: self.location(name), tries, source }
    }

    fn broken(&self, name: &str, detail: &str) -> StoreError {
        StoreError::BrokenContract { object: self.location(name), detail: detail.to_owned() }
    }

    fn broken_if_missing(&self, name: &str, error: StoreError) -> StoreError {
        if error.is_not_found() { self.broken(name, "it does not exist") } else { error }
    }
}

impl StoreError {
    /// Whether the error says that an object does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, StoreError::Object { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// Whether another attempt would end the same way. Errors of unknown kind are tried again.
fn is_permanent(kind: io::ErrorKind) -> bool {
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
            | UnexpectedEof
            | Unsupported
    )
}

#[cfg(test)]
mod tests {
    use tidegate_host::SimulatedHost;

    use super::*;

    const QUICK: RetryPolicy = RetryPolicy { tries_max: 3, wait_ms_first: 1, time_ms_max: 1_000 };

    /// A store in memory whose creates meet the faults of a script, one each, and no fault after
    /// its end.
    fn scripted(script: &[StoreFault]) -> Store {
        let host = SimulatedHost::new(1).host();
        let backend = SimulatedBackend::in_memory(FaultSchedule::script(script)).on_host(&host);
        Store::over(Arc::new(backend), QUICK).on_host(&host)
    }

    fn check(script: &[StoreFault], act: impl Fn(&Store) -> String, expected: &str) {
        let store = scripted(script);
        let root = store.location("");
        assert_eq!(act(&store).replace(&root, ""), expected);
    }

    fn create(store: &Store) -> String {
        match store.create("a", b"one") {
            Ok(created) => format!("{created:?}, holds {}", store.get("a").unwrap().len()),
            Err(error) => error.to_string(),
        }
    }

    fn probe(store: &Store) -> String {
        let reported = match store.probe() {
            Ok(()) => "meets its contract".to_owned(),
            Err(StoreError::BrokenContract { detail, .. }) => detail,
            Err(other) => other.to_string(),
        };
        assert_eq!(store.list("").unwrap(), [""; 0], "the probe removes its objects");
        reported
    }

    #[test]
    fn a_failure_that_may_pass_is_tried_again() {
        use StoreFault::{Fails, IsFull};
        check(&[Fails, Fails], create, "New, holds 3");
        let given_up = "cannot create `a` (3 tries); check free space and permissions, then start again: what was \
                        committed stays";
        check(&[Fails; 3], create, given_up);
        check(&[IsFull], create, &given_up.replace(" (3 tries)", ""));
    }

    #[test]
    fn a_create_whose_answer_was_lost_is_found_done() {
        use StoreFault::{Fails, LosesAnswer};
        check(&[LosesAnswer], create, "Already, holds 3");
        check(&[Fails, LosesAnswer], create, "Already, holds 3");
        check(&[Fails, Fails, LosesAnswer], create, "Already, holds 3");
    }

    #[test]
    fn a_backend_that_breaks_its_contract_is_refused() {
        use StoreFault::{DoesNothing, Fails, LosesAnswer, Overwrites};
        check(&[], probe, "meets its contract");
        check(&[Fails, LosesAnswer], probe, "meets its contract");
        let second = "the store accepted a second object under its name";
        check(&[DoesNothing, DoesNothing], probe, second);
        check(&[DoesNothing], probe, second);
        check(&[Overwrites, Overwrites], probe, second);
    }

    #[test]
    fn what_was_acknowledged_and_is_not_there_is_named() {
        let confirm = |store: &Store| {
            store.create("a", b"one").unwrap();
            [store.confirm_size("a", 3), store.confirm("a", b"one")]
                .map(|confirmed| match confirmed {
                    Ok(()) => "confirmed".to_owned(),
                    Err(StoreError::BrokenContract { object, detail }) => format!("{object}: {detail}"),
                    Err(other) => other.to_string(),
                })
                .join(", ")
        };
        check(&[], confirm, "confirmed, confirmed");
        check(&[StoreFault::DoesNothing], confirm, "a: it does not exist, a: it does not exist");
    }

    #[test]
    fn a_store_that_this_build_lacks_is_refused_by_name() {
        let refused = Store::open("s3://bucket/prefix").unwrap_err().to_string();
        assert_eq!(
            refused,
            "cannot open the store `s3://bucket/prefix`: this build has no stores of kind `s3`; use a folder"
        );
    }
}
