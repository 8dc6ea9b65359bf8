//! The port: accepts connections and serves each of them from one planner.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tidegate_queries::access::Keys;
use tidegate_queries::telemetry::{Port, Telemetry};
use tidegate_queries::{Catalogue, shutdown_requested};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};

use crate::cancellation::Cancellations;
use crate::connection::Wire;
use crate::error::SqlError;
use crate::handler::Client;
use crate::startup::{self, DENIAL_DELAY};
use crate::statement::Planner;

/// The most connections that are open at once.
const CONNECTIONS_MAX: usize = 256;

/// How long sending the refusal of a client may take.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves clients of the Postgres wire protocol until `stop` turns true.
pub async fn serve(
    catalogue: Arc<Catalogue>,
    keys: Keys,
    telemetry: Arc<Telemetry>,
    listener: TcpListener,
    mut stop: watch::Receiver<bool>,
) {
    let handlers = Arc::new(Handlers::new(&catalogue, keys, &telemetry));
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "a Postgres connection could not be accepted");
                    sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
            () = shutdown_requested(&mut stop) => return,
        };
        let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else { continue };
        let _ = stream.set_nodelay(true);
        let (handlers, mut stop) = (Arc::clone(&handlers), stop.clone());
        let open = telemetry.connection(Port::Postgres);
        tokio::spawn(async move {
            if let Ok(peer) = stream.peer_addr() {
                tokio::select! {
                    () = handlers.serve_one(stream, peer) => {}
                    () = shutdown_requested(&mut stop) => {}
                }
            }
            drop((permit, open));
        });
    }
}

/// The state that all connections of the server share: planner, keys, telemetry and cancel
/// requests.
pub struct Handlers {
    planner: Arc<Planner>,
    keys: Keys,
    telemetry: Arc<Telemetry>,
    cancellations: Arc<Cancellations>,
}

impl Handlers {
    /// Serves clients that have one of `keys` with the role of a reader. Without keys it serves
    /// every client that can connect.
    pub fn new(catalogue: &Arc<Catalogue>, keys: Keys, telemetry: &Arc<Telemetry>) -> Handlers {
        Handlers {
            planner: Arc::new(Planner::new(catalogue)),
            keys,
            telemetry: Arc::clone(telemetry),
            cancellations: Arc::default(),
        }
    }

    /// Serves one client over any stream until the client leaves or the connection is closed.
    pub async fn serve_one<S>(&self, stream: S, peer: SocketAddr)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send,
    {
        let mut wire = Wire::new(stream);
        match startup::log_in(&mut wire, &self.keys, &self.cancellations).await {
            Ok(Some(login)) => {
                let (planner, telemetry) = (Arc::clone(&self.planner), Arc::clone(&self.telemetry));
                Client::new(wire, login, planner, telemetry).serve().await;
            }
            Ok(None) => {}
            Err(error) => {
                tracing::debug!(%error, %peer, "a Postgres client is refused");
                deny(&mut wire, error).await;
            }
        }
    }
}

/// Sends a client the reason why it is refused. A wrong key is answered only after a delay, so that
/// guessing keys is slow.
async fn deny<S: AsyncRead + AsyncWrite + Unpin>(wire: &mut Wire<S>, error: SqlError) {
    if error.state.starts_with("28") {
        sleep(DENIAL_DELAY).await;
    }
    wire.put(&error.into_message());
    let _ = timeout(SEND_TIMEOUT, wire.flush()).await;
}
