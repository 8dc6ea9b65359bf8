//! Running a log again: the same graph between other ends.
//!
//! A replay reads the facts of a data folder's log and nothing else, feeds them to the graph, and
//! writes tables to a store of its own. It never judges, stamps or appends. Whatever the number of
//! workers, it must give the files that the log's own run committed; [`compare`] says where it does not.

use std::path::Path;
use std::sync::{Arc, Mutex};

use tidegate_dataflows::Plan;
use tidegate_dataflows::build::Output;
use tidegate_dataflows::feed::Feed;
use tidegate_dataflows::governance::{GovernanceError, in_force};
use tidegate_dataflows::watch::Watch;
use tidegate_dataflows::workers::Workers;
use tidegate_facts::Digest;
use tidegate_sinks::log::{LogError, Start, Until, read_groups};
use tidegate_sinks::store::{Store, StoreError};
use tidegate_sinks::table::{Commits, TableError};

/// Why a replay stopped.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The log refused.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A table could not be written or read.
    #[error(transparent)]
    Table(#[from] TableError),
    /// What came into force after the beginning cannot be told.
    #[error(transparent)]
    Governance(#[from] GovernanceError),
    /// A worker stopped.
    #[error("a worker stopped: {0}; this is a defect of Tidegate, please report it with the lines above")]
    Worker(String),
}

/// Runs the log of the data folder `data` through `plan` again, and writes its tables to the folder `out`.
///
/// Each revision of a bundle applies from the tick of its activation on, as it did live; where the topology names
/// another bundle than the log began with, that one decides throughout.
///
/// The number of groups that are taken is fixed when it begins, so the log may grow meanwhile.
///
/// # Errors
/// See [`ReplayError`].
pub fn replay(
    plan: &Arc<Plan>,
    data: &Path,
    out: &Path,
    workers: usize,
    watch: &Watch,
) -> Result<Commits, ReplayError> {
    let log = data.join("log");
    let plan = &in_force(plan, &log)?;
    let store = Store::open(out)?;
    let failed = Arc::new(Mutex::new(None));
    let commits = Commits::read(&store)?;
    let output = Output { store: store.clone(), plan: plan.digest, commits, failed: Arc::clone(&failed) };
    let running = Workers::start(plan, workers, &output, watch).map_err(ReplayError::Worker)?;
    let mut feed = Feed::new(plan, workers);
    let fed = read_groups(&log, Start::Group(0), Until::Complete).and_then(|groups| {
        for group in groups {
            let fed = feed.feed(&group?);
            watch.fed(fed.upper);
            running.send(fed);
        }
        Ok(())
    });
    let stopped = running.finish();
    if let Some(error) = failed.lock().expect("no panic").take() {
        return Err(TableError::into(error));
    }
    fed?;
    stopped.map_err(ReplayError::Worker)?;
    Ok(Commits::read(&store)?)
}

/// The first file in which two runs of one log differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The file's name in the store.
    pub name: String,
    /// Its digest in the first run; `None` when that run has no such file.
    pub first: Option<Digest>,
    /// Its digest in the second run.
    pub second: Option<Digest>,
}

/// Compares two runs of one log, file by file.
pub fn compare(first: &Commits, second: &Commits) -> Option<Difference> {
    let files = |commits: &Commits| -> std::collections::BTreeMap<String, Digest> {
        commits.list.iter().flat_map(|c| &c.files).map(|f| (f.name.clone(), f.digest)).collect()
    };
    let (first, second) = (files(first), files(second));
    let names = first.keys().chain(second.keys());
    names.min_by_key(|name| (first.get(*name) == second.get(*name), name.as_str())).and_then(|name| {
        let (first, second) = (first.get(name).copied(), second.get(name).copied());
        (first != second).then(|| Difference { name: name.clone(), first, second })
    })
}
