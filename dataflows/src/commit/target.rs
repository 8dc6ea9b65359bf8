//! Where the rows of a graph go once a commit boundary has passed: a store, or a comparison with
//! one.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tidegate_facts::seal::Chain;
use tidegate_facts::{Digest, Tick};
use tidegate_sinks::checkpoint::{Checkpoint, StateFile};
use tidegate_sinks::commits::{CommitInterval, Commits, TableError, TableFile, TableSlice};
use tidegate_sinks::hash_chains::LogHeads;
use tidegate_sinks::signing::Signer;
use tidegate_sinks::store::Store;

use crate::commit::boundary::{CommitBoundary, LogState};
use crate::serve::ServeState;
use crate::timeline_names::{Retention, is_snapshot_timeline, node_of_timeline};

/// The format in which a commit target writes a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableFormat {
    /// Parquet, compressed with zstd.
    Parquet,
    /// One JSON object in each line.
    Jsonl,
    /// Parquet whose rows are chained and sealed.
    Sealed,
}

/// A file written to the commit target for one interval: of a table, or of a timeline.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum IntervalOutput {
    /// Rows of a table.
    File(TableFile),
    /// Rows of a timeline.
    State(StateFile),
}

/// A commit target: takes the rows of a graph, interval by interval.
pub trait CommitTarget: Send + Sync {
    /// Whether it takes tables of this format at all.
    fn accepts(&self, format: TableFormat) -> bool;

    /// Writes the rows of one table and partition in one interval; any worker may call it.
    ///
    /// # Errors
    /// The run stops on the first.
    fn write(&self, slice: &TableSlice) -> Result<Option<TableFile>, TableError>;

    /// Commits an interval whose rows were all written; called once for each, in order.
    ///
    /// # Errors
    /// The run stops on the first.
    fn commit(&self, interval: CommitInterval) -> Result<(), TableError>;

    /// The commits there are, if the target has some.
    fn commits(&self) -> Option<Commits> {
        None
    }

    /// The store of state files, if the target writes checkpoints.
    fn state_store(&self) -> Option<&Store> {
        None
    }

    /// Writes a checkpoint at a boundary: the state files of the checkpoint before, and these.
    ///
    /// # Errors
    /// The run stops on the first.
    fn checkpoint(&self, _: &CommitBoundary, _: Vec<StateFile>) -> Result<(), TableError> {
        Ok(())
    }

    /// Drops the restored state: the next checkpoint begins without files.
    fn forget_state(&self) {}
}

/// The commit target of a graph, and the state of the target when the run began.
#[derive(Clone)]
pub struct CommitContext {
    /// Takes the rows.
    pub target: Arc<dyn CommitTarget>,
    /// The plan's digest, which episodes and commits carry.
    pub plan: Digest,
    /// An earlier run committed everything before this tick.
    pub lower: Tick,
    /// The state of everything before this tick is restored; later rows of the timelines come
    /// again.
    pub restored: Tick,
    /// The rows of the timelines before [`Self::restored`], by timeline; the first worker takes
    /// them.
    pub timelines: Arc<Mutex<BTreeMap<String, Vec<RecordBatch>>>>,
    /// The hash chains of sealed tables, by table and partition.
    pub chains: BTreeMap<String, BTreeMap<u16, Chain>>,
    /// The first failure of the target; the run stops on it.
    pub failed: Arc<Mutex<Option<TableError>>>,
    /// What is shared with callers, when the topology is served.
    pub serve: Option<Arc<ServeState>>,
}

impl CommitContext {
    /// A context that begins at the first tick.
    pub fn new(target: Arc<dyn CommitTarget>, plan: Digest) -> CommitContext {
        CommitContext {
            target,
            plan,
            lower: Tick::ZERO,
            restored: Tick::ZERO,
            timelines: Arc::default(),
            chains: BTreeMap::new(),
            failed: Arc::default(),
            serve: None,
        }
    }

    /// Commits to a store, behind its last commit.
    ///
    /// # Errors
    /// When the commits of the store cannot be read.
    pub fn to_store(store: Store, plan: Digest, signer: Option<Signer>) -> Result<CommitContext, TableError> {
        let commits = Commits::read(&store)?;
        Ok(CommitContext::behind(commits, store, plan, signer, None))
    }

    /// As [`CommitContext::to_store`], with a checkpoint at every commit that keeps the rows of the
    /// timelines in `retention`. Begins at the newest checkpoint that can be trusted, if there is
    /// one, and returns it with the heads of the log's hash chains there.
    ///
    /// # Errors
    /// When the commits of the store cannot be read, or its checkpoints not be listed.
    pub fn with_checkpoints(
        store: Store,
        plan: Digest,
        retention: BTreeMap<String, Retention>,
        signer: Option<Signer>,
    ) -> Result<(CommitContext, Option<(Checkpoint, LogHeads)>), TableError> {
        let commits = Commits::read(&store)?;
        let loaded = Checkpoint::load(&store, &plan, &commits, signer.as_ref())?;
        let (checkpoint, rows) = loaded.unzip();
        let files: Vec<StateFile> = checkpoint.iter().flat_map(|c| c.files.iter().cloned()).collect();
        let mut timelines: BTreeMap<String, Vec<RecordBatch>> = BTreeMap::new();
        for (file, rows) in files.iter().zip(rows.into_iter().flatten()) {
            timelines.entry(file.timeline.clone()).or_default().push(rows);
        }
        let heads = checkpoint.as_ref().and_then(|c| commits.ending_at(c.upper));
        let heads = heads.map(|(commit, _)| LogHeads(commit.log.clone()));
        let state = CheckpointState { files: Mutex::new(files), retention };
        let mut context = CommitContext::behind(commits, store, plan, signer, Some(state));
        context.restored = checkpoint.as_ref().map_or(Tick::ZERO, |checkpoint| checkpoint.upper);
        context.timelines = Arc::new(Mutex::new(timelines));
        Ok((context, checkpoint.zip(heads)))
    }

    /// Begins at the first tick after all: the checkpoint does not fit the log.
    pub fn forget_checkpoint(&mut self) {
        self.restored = Tick::ZERO;
        self.timelines = Arc::default();
        self.target.forget_state();
    }

    fn behind(
        commits: Commits,
        store: Store,
        plan: Digest,
        signer: Option<Signer>,
        state: Option<CheckpointState>,
    ) -> CommitContext {
        let lower = commits.upper();
        let chains = commits.tables().into_iter().map(|table| (table.clone(), commits.chains(&table)));
        let chains = chains.collect();
        let target = Arc::new(StoreTarget { store, plan, commits: Mutex::new(commits), signer, state });
        CommitContext { lower, chains, ..CommitContext::new(target, plan) }
    }
}

/// A commit target that writes files to a store and publishes commits there.
struct StoreTarget {
    store: Store,
    plan: Digest,
    commits: Mutex<Commits>,
    signer: Option<Signer>,
    state: Option<CheckpointState>,
}

/// The state of a graph as the next checkpoint will list it.
struct CheckpointState {
    /// The files whose rows look-ups can still reach.
    files: Mutex<Vec<StateFile>>,
    /// Which rows of each timeline are kept.
    retention: BTreeMap<String, Retention>,
}

impl CommitTarget for StoreTarget {
    fn accepts(&self, _: TableFormat) -> bool {
        true
    }

    fn write(&self, slice: &TableSlice) -> Result<Option<TableFile>, TableError> {
        slice.write(&self.store).map(Some)
    }

    fn commit(&self, interval: CommitInterval) -> Result<(), TableError> {
        self.commits.lock().publish(interval, self.signer.as_ref(), &self.store)
    }

    fn commits(&self) -> Option<Commits> {
        Some(self.commits.lock().clone())
    }

    fn state_store(&self) -> Option<&Store> {
        self.state.as_ref().map(|_| &self.store)
    }

    fn checkpoint(&self, boundary: &CommitBoundary, new: Vec<StateFile>) -> Result<(), TableError> {
        let (Some(state), Some(gate)) = (&self.state, &boundary.state.gate) else { return Ok(()) };
        let mut files = state.files.lock();
        files.extend(new);
        drop_unreachable(&mut files, &state.retention, boundary.upper);
        let commit = self.commits.lock().ending_at(boundary.upper).map(|(_, digest)| digest);
        let commit = commit.expect("a boundary is committed before its checkpoint");
        let LogState { position, groups, facts, basis, .. } = (*boundary.state).clone();
        let (gate, files) = (gate.clone(), files.clone());
        let checkpoint = Checkpoint::new(self.plan, boundary.upper, commit);
        let checkpoint = Checkpoint { position, groups, facts, basis, gate, files, ..checkpoint };
        checkpoint.write(self.signer.as_ref(), &self.store)?;
        Ok(())
    }

    fn forget_state(&self) {
        if let Some(state) = &self.state {
            state.files.lock().clear();
        }
    }
}

/// Drops the files whose rows no look-up at `upper` or later reaches.
fn drop_unreachable(files: &mut Vec<StateFile>, retention: &BTreeMap<String, Retention>, upper: Tick) {
    // A node's newest snapshot is of the beginning of the interval in which its rows came.
    let mut snapshots: BTreeMap<String, Tick> = BTreeMap::new();
    for file in files.iter().filter(|file| is_snapshot_timeline(&file.timeline)) {
        let newest = snapshots.entry(node_of_timeline(&file.timeline).to_owned()).or_default();
        *newest = file.lower.max(*newest);
    }
    files.retain(|file| {
        let snapshot = snapshots.get(node_of_timeline(&file.timeline)).copied().unwrap_or(Tick::ZERO);
        let reaches = |tick: Tick, span| file.last >= tick.micros().saturating_sub(span);
        match retention.get(&file.timeline).copied().unwrap_or(Retention::Forever) {
            Retention::Forever => true,
            Retention::Span(span) => reaches(upper, span),
            Retention::SinceSnapshot => file.lower >= snapshot,
            Retention::SpanBeforeSnapshot(span) => reaches(snapshot, span),
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timeline_names::snapshot_timeline_name;

    #[test]
    fn a_snapshot_replaces_the_rows_that_came_before_it() {
        let at = |second: i64| Tick::new(second * 1_000_000, 0).unwrap();
        let file = |timeline: &str, from: i64, last: i64| StateFile {
            timeline: timeline.to_owned(),
            partition: 0,
            lower: at(from),
            upper: at(from + 10),
            last: last * 1_000_000,
            rows: 1,
            digest: Digest::of(b"rows"),
        };
        let retention = [
            ("claims/0".to_owned(), Retention::SinceSnapshot),
            ("claims/1".to_owned(), Retention::Forever),
            (snapshot_timeline_name("claims"), Retention::SinceSnapshot),
            ("drift/0".to_owned(), Retention::SpanBeforeSnapshot(5_000_000)),
            (snapshot_timeline_name("drift"), Retention::SinceSnapshot),
            ("living/0".to_owned(), Retention::Span(5_000_000)),
        ];
        let mut files = Vec::new();
        for from in [0, 10, 20] {
            for (timeline, _) in retention.iter().filter(|(timeline, _)| !is_snapshot_timeline(timeline)) {
                files.push(file(timeline, from, from + 9));
            }
        }
        let retention: BTreeMap<String, Retention> = retention.into();
        let left = |files: &[StateFile]| -> Vec<String> {
            files
                .iter()
                .map(|file| format!("{} @{}", file.timeline, file.lower.micros() / 1_000_000))
                .collect()
        };
        drop_unreachable(&mut files, &retention, at(30));
        assert_eq!(files.len(), 3 * 4 - 2, "only rows of `living` are dropped: {:?}", left(&files));
        for (node, from) in [("claims", 10), ("drift", 20)] {
            files.push(file(&snapshot_timeline_name(node), from, i64::MIN));
        }
        drop_unreachable(&mut files, &retention, at(30));
        let mut left = left(&files);
        left.sort();
        let expected = [
            "claims/0 @10",
            "claims/0 @20",
            "claims/1 @0",
            "claims/1 @10",
            "claims/1 @20",
            "claims/snapshot @10",
            "drift/0 @10",
            "drift/0 @20",
            "drift/snapshot @20",
            "living/0 @20",
        ];
        assert_eq!(left, expected);
    }
}
