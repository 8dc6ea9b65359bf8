//! Waiting for a shutdown request: the servers and the trace exporter all watch one boolean.

use tokio::sync::watch;

/// Waits for a shutdown request: until `stop` turns true, or its sender is dropped.
pub async fn shutdown_requested(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}
