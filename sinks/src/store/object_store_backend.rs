//! A store's backend over a client of the crate `object_store`, which is asynchronous.
//!
//! Each call runs the client's future on the calling thread, with a time limit. The client must
//! make single attempts: whoever builds it switches its own retries off, because [`super::Store`]
//! retries.

use std::fmt;
use std::future::Future;
use std::io;
use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use bytes::Bytes;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use tidegate_host::{Clock, Host, SystemClock};

use super::backend::{ObjectBackend, ObjectInfo};
use super::local::range_bytes;
use super::url::StoreUrl;

/// The time limit of a call that transfers no content.
const CALL_TIMEOUT: Duration = Duration::from_secs(20);
/// By how much each MiB that a call transfers prolongs its time limit.
const MIB_TIMEOUT: Duration = Duration::from_secs(1);

/// The backend of a store whose objects are behind a client of the crate `object_store`.
pub struct ObjectStoreBackend {
    url: StoreUrl,
    client: Arc<dyn ObjectStore>,
    clock: Arc<dyn Clock>,
}

impl ObjectStoreBackend {
    /// The objects behind `client`, whose own retries are off. `url` is what messages show.
    pub fn new(client: Arc<dyn ObjectStore>, url: StoreUrl) -> ObjectStoreBackend {
        ObjectStoreBackend { url, client, clock: Arc::new(SystemClock) }
    }

    /// The same backend on another machine: the clock of `host` measures its time limits.
    #[must_use]
    pub fn on_host(self, host: &Host) -> ObjectStoreBackend {
        ObjectStoreBackend { clock: Arc::clone(&host.clock), ..self }
    }

    /// Objects in the memory of this process, which are lost with the backend.
    pub fn in_memory() -> ObjectStoreBackend {
        ObjectStoreBackend::new(Arc::new(InMemory::new()), StoreUrl::parse("memory://store"))
    }
}

impl ObjectStoreBackend {
    fn put(&self, name: &str, bytes: &[u8], mode: PutMode) -> io::Result<()> {
        let path = path_of(name)?;
        let payload = PutPayload::from(bytes.to_vec());
        let put = self.client.put_opts(&path, payload, PutOptions::from(mode));
        self.block_on(put, transfer_timeout(bytes.len() as u64)).map(drop)
    }

    /// Runs a future on this thread.
    ///
    /// # Errors
    /// [`io::ErrorKind::TimedOut`] when it is not done after `limit`; the future is dropped then.
    fn block_on<T>(
        &self,
        future: impl Future<Output = object_store::Result<T>>,
        limit: Duration,
    ) -> io::Result<T> {
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        let mut context = Context::from_waker(&waker);
        let mut future = pin!(future);
        let deadline = self.clock.monotonic() + limit;
        loop {
            if let Poll::Ready(outcome) = future.as_mut().poll(&mut context) {
                return outcome.map_err(io_error);
            }
            let left = deadline.saturating_sub(self.clock.monotonic());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            thread::park_timeout(left);
        }
    }
}

impl fmt::Debug for ObjectStoreBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ObjectStoreBackend({}, {})", self.url, self.client)
    }
}

impl ObjectBackend for ObjectStoreBackend {
    fn url(&self) -> &StoreUrl {
        &self.url
    }

    fn objects(&self) -> Option<Arc<dyn ObjectStore>> {
        Some(Arc::clone(&self.client))
    }

    fn create(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.put(name, bytes, PutMode::Create)
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.put(name, bytes, PutMode::Overwrite)
    }

    fn get(&self, name: &str) -> io::Result<Bytes> {
        let path = path_of(name)?;
        let object = self.block_on(self.client.get(&path), CALL_TIMEOUT)?;
        let bytes = object.meta.size;
        let content = self.block_on(object.bytes(), transfer_timeout(bytes))?;
        if content.len() as u64 == bytes { Ok(content) } else { Err(io::ErrorKind::ConnectionReset.into()) }
    }

    fn get_range(&self, name: &str, range: Range<u64>) -> io::Result<Bytes> {
        let (path, bytes) = (path_of(name)?, range_bytes(&range)?);
        if bytes == 0 {
            return Ok(Bytes::new());
        }
        // Clients disagree about ranges after the end of an object, so ask for its size first.
        if self.head(name)?.bytes < range.end {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let content = self.block_on(self.client.get_range(&path, range), transfer_timeout(bytes as u64))?;
        if content.len() == bytes { Ok(content) } else { Err(io::ErrorKind::ConnectionReset.into()) }
    }

    fn head(&self, name: &str) -> io::Result<ObjectInfo> {
        let path = path_of(name)?;
        let meta = self.block_on(self.client.head(&path), CALL_TIMEOUT)?;
        Ok(ObjectInfo { bytes: meta.size, modified_micros: meta.last_modified.timestamp_micros() })
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        let path = path_of(folder)?;
        let prefix = (!folder.is_empty()).then_some(&path);
        let listed = self.block_on(self.client.list_with_delimiter(prefix), CALL_TIMEOUT)?;
        let objects = listed.objects.into_iter().map(|object| object.location);
        Ok(objects.chain(listed.common_prefixes).map(String::from).collect())
    }

    fn delete(&self, name: &str) -> io::Result<()> {
        let path = path_of(name)?;
        self.block_on(self.client.delete(&path), CALL_TIMEOUT)
    }
}

fn path_of(name: &str) -> io::Result<Path> {
    Path::parse(name).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))
}

/// The time limit of a call that transfers so many bytes.
fn transfer_timeout(bytes: u64) -> Duration {
    CALL_TIMEOUT + MIB_TIMEOUT * u32::try_from(bytes >> 20).unwrap_or(u32::MAX / 2)
}

/// Wakes the thread that waits for a future.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// The error by its kind, on which the store's retries depend.
fn io_error(error: object_store::Error) -> io::Error {
    use object_store::Error::*;
    let kind = match &error {
        NotFound { .. } => io::ErrorKind::NotFound,
        AlreadyExists { .. } | Precondition { .. } => io::ErrorKind::AlreadyExists,
        PermissionDenied { .. } | Unauthenticated { .. } => io::ErrorKind::PermissionDenied,
        InvalidPath { .. } => io::ErrorKind::InvalidInput,
        NotSupported { .. } | NotImplemented { .. } => io::ErrorKind::Unsupported,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, error)
}
