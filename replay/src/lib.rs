//! Replays: run a log through the same graph again, with another output.
//!
//! A replay reads the facts of a data folder from its log and archive, feeds them to the graph, and
//! writes tables to a store of its own. It never validates, stamps or appends facts. With any
//! number of workers it must produce the files that the run itself committed; [`compare`] finds the
//! first that differs.

use std::path::{Path, PathBuf};
use std::sync::Arc;

pub mod backfill;
mod compare_files;
pub mod compare_seals;
pub mod find_fact;
pub mod proof;
pub mod shadow;
pub mod verify;

pub use compare_files::{FileDifference, compare};

use tidegate_dataflows::Plan;
use tidegate_dataflows::commit::CommitContext;
use tidegate_dataflows::entity_graphs::entity_graphs;
use tidegate_dataflows::governance::{GovernanceError, effective_plan};
use tidegate_dataflows::ingest::log_feed::LogFeed;
use tidegate_dataflows::metrics::RunMetrics;
use tidegate_dataflows::render::workers::Workers;
use tidegate_facts::Tick;
use tidegate_host::Host;
use tidegate_sinks::archive::{ArchiveError, Bound, Preference, read_range};
use tidegate_sinks::commits::{Commits, TableError};
use tidegate_sinks::log::{LogFolder, LogReader};
use tidegate_sinks::store::{Store, StoreError};
use tidegate_sinks::{graph_catalog, table_catalog};

/// Why a replay stopped.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The log or the archive cannot be read.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A table could not be written or read.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The output folder contains commits.
    #[error("`{path}` contains the output of an earlier run; remove it, or choose another folder")]
    Occupied {
        /// The folder.
        path: PathBuf,
    },
    /// The output folder is the data folder or lies in it.
    #[error("`{path}` is in the data folder, whose files a replay must not change; choose another folder")]
    InDataFolder {
        /// The folder.
        path: PathBuf,
    },
    /// The revisions in the log cannot be read.
    #[error(transparent)]
    Governance(#[from] Box<GovernanceError>),
    /// A worker panicked.
    #[error("a worker stopped: {0}; this is a defect of Tidegate, please report it with the lines above")]
    Worker(String),
}

impl From<GovernanceError> for ReplayError {
    fn from(error: GovernanceError) -> ReplayError {
        ReplayError::Governance(Box::new(error))
    }
}

/// Replays the log and the archive of the data folder `data` through `plan`, into the folder `out`.
///
/// Each revision of a bundle applies from the tick of its activation on, as in the live run. If the
/// topology names another bundle than the log began with, that bundle decides all facts. The replay
/// ends with the last group that is in the log when the replay begins.
///
/// # Errors
/// See [`ReplayError`].
pub fn replay(
    plan: &Arc<Plan>,
    data: &Path,
    out: &Path,
    workers: usize,
    metrics: &RunMetrics,
) -> Result<Commits, ReplayError> {
    Ok(replay_to(plan, data, out, Tick::MAX, workers, metrics)?.1)
}

/// Replays a data folder as [`replay`] does, but only the groups that begin before `to`. Also
/// returns the number of facts.
///
/// # Errors
/// See [`ReplayError`].
pub fn replay_to(
    plan: &Arc<Plan>,
    data: &Path,
    out: &Path,
    to: Tick,
    workers: usize,
    metrics: &RunMetrics,
) -> Result<(u64, Commits), ReplayError> {
    if resolved(out).starts_with(resolved(data)) {
        return Err(ReplayError::InDataFolder { path: out.to_owned() });
    }
    let store = Store::open(out)?;
    store.probe()?;
    // A replay that was stopped goes on, but not with the output of another plan.
    if Commits::read(&store)?.list.iter().any(|commit| commit.plan != plan.digest) {
        return Err(ReplayError::Occupied { path: out.to_owned() });
    }
    table_catalog::declare(&plan.tables(), &store)?;
    graph_catalog::declare(&entity_graphs(plan), &store)?;
    let output = CommitContext::to_store(store.clone(), plan.digest, None)?;
    let archive = Store::open(data.join("store"))?;
    let plan = &effective_plan(plan, &LogFolder::of_data(&Host::real(), data), &archive)?;
    let facts =
        run_log(plan, &LogFolder::of_data(&Host::real(), data), &archive, &output, to, workers, metrics)?;
    Ok((facts, Commits::read(&store)?))
}

/// A path without links and relative parts, as far as it exists.
fn resolved(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    for ancestor in path.ancestors() {
        if let (Ok(real), Ok(rest)) = (ancestor.canonicalize(), path.strip_prefix(ancestor)) {
            return real.join(rest);
        }
    }
    path
}

/// Replays the groups of a log that begin before `to` through `plan`, into `output`. Returns the
/// number of facts.
///
/// Groups that were pruned from the log are read from `archive`. The caller has planned the
/// revisions in the log.
///
/// # Errors
/// See [`ReplayError`].
pub fn run_log(
    plan: &Arc<Plan>,
    log: &dyn LogReader,
    archive: &Store,
    output: &CommitContext,
    to: Tick,
    workers: usize,
    metrics: &RunMetrics,
) -> Result<u64, ReplayError> {
    run_feed(LogFeed::new(plan, workers), plan, log, archive, output, to, metrics)
}

/// As [`run_log`], with a feed that may end within a group.
fn run_feed(
    mut feed: LogFeed,
    plan: &Arc<Plan>,
    log: &dyn LogReader,
    archive: &Store,
    output: &CommitContext,
    to: Tick,
    metrics: &RunMetrics,
) -> Result<u64, ReplayError> {
    let running = Workers::start(plan, feed.workers(), output, metrics, &Host::real().tasks)
        .map_err(ReplayError::Worker)?;
    let mut facts = 0;
    let groups = read_range(log, Some(archive), Bound::Group(0), None, Preference::Log);
    let fed = groups.and_then(|groups| {
        for group in groups {
            let group = group?;
            if group.lower >= to || output.failed.lock().is_some() {
                break;
            }
            let fed = feed.feed(&group.link, &group);
            facts += fed.facts as u64;
            metrics.record_fed(fed.facts, fed.upper);
            if running.send(fed).is_err() {
                break; // `finish` returns the reason.
            }
        }
        Ok(())
    });
    let stopped = running.finish();
    if let Some(error) = output.failed.lock().take() {
        return Err(TableError::into(error));
    }
    fed?;
    stopped.map_err(ReplayError::Worker)?;
    Ok(facts)
}
