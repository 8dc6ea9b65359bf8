//! The interface of a store's backend: single attempts to create, read, list and remove objects.

use std::fmt::Debug;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use object_store::ObjectStore;

use super::url::StoreUrl;

/// The backend of a store: a place for objects, which are created once each and never changed. Only
/// what can be derived again, such as a checkpoint, is ever replaced, and always as a whole.
///
/// The interface is synchronous, and each call makes one attempt: [`super::Store`] tries again. A
/// call must end in bounded time, so a backend behind a network has its own limit and reports
/// [`io::ErrorKind::TimedOut`].
///
/// Names are relative paths with `/` between their parts.
pub trait ObjectBackend: Debug + Send + Sync {
    /// The URL that names are relative to.
    fn url(&self) -> &StoreUrl;

    /// The same objects behind the interface of the crate `object_store`, if there is one.
    fn objects(&self) -> Option<Arc<dyn ObjectStore>> {
        None
    }

    /// Whether the operating system guarantees that of several simultaneous creates one wins.
    fn guarantees_one_winner(&self) -> bool {
        false
    }

    /// Creates the object `name` unless it exists. `Ok` means that it is there, whole and durable.
    ///
    /// # Errors
    /// [`io::ErrorKind::AlreadyExists`] means that a durable object has the name and was not
    /// changed. After any other error the object exists whole, or it does not exist.
    fn create(&self, name: &str, bytes: &[u8]) -> io::Result<()>;

    /// Creates the object `name`, in place of the object that has the name, if there is one. `Ok`
    /// means that it is there, whole and durable. Whoever reads the name meanwhile finds the one
    /// object or the other.
    ///
    /// # Errors
    /// After any error the name has the one object or the other, whole.
    fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()>;

    /// The content of an object.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] when it does not exist.
    fn get(&self, name: &str) -> io::Result<Bytes>;

    /// The bytes of an object from `range.start` to before `range.end`.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] when the object does not exist, [`io::ErrorKind::UnexpectedEof`]
    /// when it ends before the range does.
    fn get_range(&self, name: &str, range: Range<u64>) -> io::Result<Bytes>;

    /// The size and the age of an object.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] when it does not exist.
    fn head(&self, name: &str) -> io::Result<ObjectInfo>;

    /// The names of the objects and folders directly in `folder`, or at the top for an empty name,
    /// in any order; none when the folder does not exist. A folder without objects may be named or
    /// left out.
    ///
    /// # Errors
    /// When the folder cannot be listed.
    fn list(&self, folder: &str) -> io::Result<Vec<String>>;

    /// Removes an object, durably.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] when it does not exist; a backend may also report success then.
    fn delete(&self, name: &str) -> io::Result<()>;

    /// Removes what a create left unfinished because its process was killed, if it was written
    /// before this moment, in microseconds since 1970 UTC. Returns the names of what was removed,
    /// sorted. No object has such a name.
    ///
    /// # Errors
    /// When something cannot be listed or removed.
    fn remove_unfinished(&self, before_micros: i64) -> io::Result<Vec<String>> {
        let _ = before_micros;
        Ok(Vec::new())
    }
}

/// What a store's backend knows of an object without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Its size in bytes.
    pub bytes: u64,
    /// When it was created, in microseconds since 1970 UTC by the store's clock.
    pub modified_micros: i64,
}
