//! How a plan is run: data folder, store, workers and memory.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tidegate_host::Host;
use tidegate_sinks::log::LogOptions;
use tidegate_sinks::signing::Signer;
use tidegate_sinks::store::StoreUrl;

/// The options of a run: its data folder, store, workers and memory. None of this changes an
/// answer.
#[derive(Clone, Debug)]
pub struct Options {
    /// The data folder: log and indexes.
    pub data: PathBuf,
    /// The store of committed tables; `store` in the data folder when not given.
    pub store: Option<StoreUrl>,
    /// The number of timely workers.
    pub workers: usize,
    /// About how much memory the dedupe index may use.
    pub dedupe_bytes: u64,
    /// The length to which a segment of the log grows.
    pub segment_bytes: u64,
    /// Signs the commits; without it they are not signed.
    pub signer: Option<Signer>,
    /// How long a fact that comes while the run is served waits for its commit at most; then a mark
    /// in the log cuts one.
    pub commit_delay_max: Duration,
    /// The machine that the run uses: its files, clocks and threads.
    pub host: Host,
}

impl Options {
    /// A run in `data` with one worker, on this machine.
    pub fn new(data: &Path) -> Options {
        Options {
            data: data.to_owned(),
            store: None,
            workers: 1,
            dedupe_bytes: 64 << 20,
            segment_bytes: LogOptions::default().segment_bytes,
            signer: None,
            commit_delay_max: Duration::from_secs(60),
            host: Host::real(),
        }
    }

    /// The store of committed tables.
    pub fn store_url(&self) -> StoreUrl {
        self.store.clone().unwrap_or_else(|| StoreUrl::from(self.data.join("store")))
    }
}
