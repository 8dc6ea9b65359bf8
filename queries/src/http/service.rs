//! The running topology that all HTTP calls share.

use std::path::PathBuf;
use std::sync::Arc;

use axum::extract::State;
use tidegate_dataflows::Plan;
use tidegate_dataflows::metrics::RunMetrics;
use tidegate_dataflows::serve::{LiveReads, ServeState};
use tidegate_sinks::log::LogReader;
use tidegate_sinks::store::Store;

use crate::access::Keys;
use crate::catalogue::Catalogue;
use crate::telemetry::Telemetry;

/// The HTTP service of a running topology: everything that calls use of it.
pub struct Service {
    /// The plan of the topology.
    pub plan: Arc<Plan>,
    /// The state that it shares with callers: the queue, uncommitted rows, and decision waiters.
    pub live: Arc<ServeState>,
    /// The metrics of the run.
    pub metrics: RunMetrics,
    /// The SQL tables.
    pub catalogue: Arc<Catalogue>,
    /// The API keys.
    pub keys: Keys,
    /// The data folder.
    pub data: PathBuf,
    /// The log in it.
    pub log: Arc<dyn LogReader>,
    /// The store that tables are committed to.
    pub store: Store,
    /// The number of workers.
    pub workers: usize,
    /// The metrics of the ports.
    pub telemetry: Arc<Telemetry>,
    /// The threads that statements run on.
    pub statements: tokio::runtime::Handle,
}

impl Service {
    /// The uncommitted state that calls read, wherever it is computed.
    pub(super) fn reads(&self) -> &dyn LiveReads {
        self.live.as_ref()
    }
}

/// The service, as an axum handler extracts it.
pub(super) type Shared = State<Arc<Service>>;
