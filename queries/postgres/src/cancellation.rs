//! Cancel requests, which a client sends over a second connection to stop a statement on its first.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use parking_lot::Mutex;
use pgwire::messages::ProtocolVersion;
use pgwire::messages::startup::SecretKey;
use tokio::sync::Notify;

use crate::error::SqlError;

/// Process number and secret of a connection.
type Identity = (i32, Vec<u8>);

/// The cancel keys of all connections, by which cancel requests are accepted.
#[derive(Default)]
pub(crate) struct Cancellations {
    connections: Mutex<BTreeMap<Identity, Arc<Notify>>>,
    next: AtomicI32,
}

/// The cancel key of one connection. Dropping it removes the key.
pub(crate) struct CancelKey {
    pub(crate) process: i32,
    pub(crate) secret: SecretKey,
    /// Notified by each cancel request. A request reaches only the statement that waits for it at
    /// that moment.
    pub(crate) cancel: Arc<Notify>,
    all: Arc<Cancellations>,
}

impl Cancellations {
    /// Registers a connection under a new process number and secret.
    ///
    /// # Errors
    /// 58000 when the system gives no random bytes.
    pub(crate) fn enter(self: &Arc<Self>, version: ProtocolVersion) -> Result<CancelKey, SqlError> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(|error| {
            SqlError::fatal("58000", format!("the system gives no random bytes for a cancel key: {error}"))
        })?;
        let secret = match version {
            // Protocol 3.0 has secrets of four bytes.
            ProtocolVersion::PROTOCOL3_0 => {
                SecretKey::I32(i32::from_be_bytes(bytes[..4].try_into().expect("four bytes")))
            }
            _ => SecretKey::Bytes(bytes.to_vec().into()),
        };
        let process = self.next.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        let cancel = Arc::new(Notify::new());
        self.connections.lock().insert((process, secret.to_bytes().to_vec()), Arc::clone(&cancel));
        Ok(CancelKey { process, secret, cancel, all: Arc::clone(self) })
    }

    /// Cancels the statement that a connection runs now, if the secret is that of the connection.
    pub(crate) fn cancel(&self, process: i32, secret: &SecretKey) {
        if let Some(cancel) = self.connections.lock().get(&(process, secret.to_bytes().to_vec())) {
            cancel.notify_waiters();
        }
    }
}

impl Drop for CancelKey {
    fn drop(&mut self) {
        self.all.connections.lock().remove(&(self.process, self.secret.to_bytes().to_vec()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_who_knows_the_secret_stops_the_statement_that_runs_now() {
        let all = Arc::new(Cancellations::default());
        let key = all.enter(ProtocolVersion::PROTOCOL3_0).expect("random bytes");
        all.cancel(key.process, &key.secret); // Nothing runs yet.
        let mut running = Box::pin(Arc::clone(&key.cancel).notified_owned());
        all.cancel(key.process, &SecretKey::I32(0));
        all.cancel(key.process + 1, &key.secret);
        assert!(futures::poll!(running.as_mut()).is_pending());
        all.cancel(key.process, &key.secret);
        assert!(futures::poll!(running.as_mut()).is_ready());
        drop(key);
        assert!(all.connections.lock().is_empty());
    }
}
