//! Where the rows of a graph go once a commit boundary has passed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use arrow::array::RecordBatch;
use serde::{Deserialize, Serialize};
use tidegate_facts::seal::Chain;
use tidegate_facts::{Digest, Tick};
use tidegate_sinks::chains::LogHeads;
use tidegate_sinks::checkpoint::{Checkpoint, Piece};
use tidegate_sinks::log::LogMark;
use tidegate_sinks::signing::Signer;
use tidegate_sinks::store::Store;
use tidegate_sinks::table::{Commits, Cut, Interval, TableError, TableFile};

use crate::build::{is_put_down, node_of};
use crate::live::Live;
use crate::plan::Plan;
use crate::plan::state::Retention;
use crate::topology::TableFormat;

/// A commit boundary, and how far the log has come there.
#[derive(Clone, Debug)]
pub struct Boundary {
    /// What is before this tick is committed.
    pub upper: Tick,
    /// The heads of the log's chains.
    pub log: Arc<LogHeads>,
    /// What a start from here would need to know of the log.
    pub standing: Arc<Standing>,
}

/// How far the log has come at a commit boundary.
#[derive(Clone, Debug, Default)]
pub struct Standing {
    /// In front of the group that holds the boundary.
    pub mark: LogMark,
    /// How many groups the log has with the one that holds the boundary.
    pub groups: u64,
    /// How many facts are before the boundary.
    pub facts: u64,
    /// How many facts of each partition of `traffic` are before the boundary.
    pub basis: Vec<u64>,
    /// What the gate had learnt from the groups before the mark; `None` when there is no gate.
    pub past: Option<String>,
}

/// What a graph made of one interval: files of tables, and pieces of its state.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Made {
    /// A file of a table.
    File(TableFile),
    /// Rows of a timeline.
    Piece(Piece),
}

/// Takes what a graph gives, interval by interval.
pub trait Outlet: Send + Sync {
    /// Whether it wants tables of this format at all.
    fn wants(&self, format: TableFormat) -> bool;

    /// Takes the rows of one table and partition in one interval; any worker may call it.
    ///
    /// # Errors
    /// The run stops on the first.
    fn take(&self, cut: &Cut) -> Result<Option<TableFile>, TableError>;

    /// All rows of the interval were taken; called once for each, in order.
    ///
    /// # Errors
    /// The run stops on the first.
    fn close(&self, interval: Interval) -> Result<(), TableError>;

    /// The commits there are, if the outlet makes some.
    fn commits(&self) -> Option<Commits> {
        None
    }

    /// Where pieces of state go, when the outlet keeps checkpoints.
    fn state(&self) -> Option<&Store> {
        None
    }

    /// The state at a boundary is what it was at the one before, and these pieces.
    ///
    /// # Errors
    /// The run stops on the first.
    fn checkpoint(&self, _: &Boundary, _: Vec<Piece>) -> Result<(), TableError> {
        Ok(())
    }

    /// The state that was restored does not count.
    fn forget(&self) {}
}

/// What a graph is connected to, and where that stood when the run began.
#[derive(Clone)]
pub struct Output {
    /// Takes the rows.
    pub outlet: Arc<dyn Outlet>,
    /// The plan's digest, which episodes and commits carry.
    pub plan: Digest,
    /// Everything before was taken by an earlier run.
    pub lower: Tick,
    /// The state is restored up to here; what came later to the timelines comes again.
    pub restored: Tick,
    /// The rows of the timelines before [`Self::restored`], by timeline; taken by the first worker.
    pub timelines: Arc<Mutex<BTreeMap<String, Vec<RecordBatch>>>>,
    /// How far the chains of sealed tables had come, by table and partition.
    pub chains: BTreeMap<String, BTreeMap<u16, Chain>>,
    /// The first failure of the outlet; the run stops on it.
    pub failed: Arc<Mutex<Option<TableError>>>,
    /// Who asks while the graph runs.
    pub live: Option<Arc<Live>>,
}

impl Output {
    /// An output that begins at the beginning.
    pub fn new(outlet: Arc<dyn Outlet>, plan: Digest) -> Output {
        Output {
            outlet,
            plan,
            lower: Tick::ZERO,
            restored: Tick::ZERO,
            timelines: Arc::default(),
            chains: BTreeMap::new(),
            failed: Arc::default(),
            live: None,
        }
    }

    /// Commits to a store, behind what is committed there.
    ///
    /// # Errors
    /// When the commits of the store cannot be read.
    pub fn to_store(store: Store, plan: Digest, signer: Option<Signer>) -> Result<Output, TableError> {
        let commits = Commits::read(&store)?;
        Ok(Output::behind(commits, store, plan, signer, None))
    }

    /// As [`Output::to_store`], with a checkpoint at every commit; begins at the newest that can be trusted, if
    /// there is one, which is returned too, with the heads of the log's chains there.
    ///
    /// # Errors
    /// When the commits of the store cannot be read, or its checkpoints not be listed.
    pub fn with_checkpoints(
        store: Store,
        plan: &Plan,
        signer: Option<Signer>,
    ) -> Result<(Output, Option<(Checkpoint, LogHeads)>), TableError> {
        let commits = Commits::read(&store)?;
        let uppers = commits.list.iter().map(|commit| commit.upper).collect();
        let loaded = Checkpoint::load(&store, &plan.digest, &uppers)?;
        let (checkpoint, rows) =
            loaded.map_or((None, Vec::new()), |(checkpoint, rows)| (Some(checkpoint), rows));
        let pieces: Vec<Piece> = checkpoint.iter().flat_map(|c| c.pieces.iter().cloned()).collect();
        let mut timelines: BTreeMap<String, Vec<RecordBatch>> = BTreeMap::new();
        for (piece, rows) in pieces.iter().zip(rows) {
            timelines.entry(piece.timeline.clone()).or_default().push(rows);
        }
        let kept = State { plan: plan.digest, pieces: Mutex::new(pieces), retention: plan.timelines() };
        let heads_at =
            |upper| commits.list.iter().find(|commit| commit.upper == upper).map(|c| c.log.clone());
        let heads = checkpoint.as_ref().and_then(|c| heads_at(c.upper)).map(LogHeads);
        let mut output = Output::behind(commits, store, plan.digest, signer, Some(kept));
        output.restored = checkpoint.as_ref().map_or(Tick::ZERO, |checkpoint| checkpoint.upper);
        output.timelines = Arc::new(Mutex::new(timelines));
        Ok((output, checkpoint.zip(heads)))
    }

    /// Begins at the beginning after all: the checkpoint does not fit the log.
    pub fn forget_checkpoint(&mut self) {
        self.restored = Tick::ZERO;
        self.timelines = Arc::default();
        self.outlet.forget();
    }

    fn behind(
        commits: Commits,
        store: Store,
        plan: Digest,
        signer: Option<Signer>,
        state: Option<State>,
    ) -> Output {
        let lower = commits.upper();
        let chains = commits.tables().into_iter().map(|table| (table.clone(), commits.chains(&table)));
        let chains = chains.collect();
        let outlet = Arc::new(Published { store, commits: Mutex::new(commits), signer, state });
        Output { lower, chains, ..Output::new(outlet, plan) }
    }
}

/// An outlet that writes files and publishes commits.
struct Published {
    store: Store,
    commits: Mutex<Commits>,
    signer: Option<Signer>,
    state: Option<State>,
}

/// The state of a graph as its checkpoints have it.
struct State {
    plan: Digest,
    /// The pieces that look-ups can still reach.
    pieces: Mutex<Vec<Piece>>,
    /// Which rows of each timeline are kept.
    retention: BTreeMap<String, Retention>,
}

impl Outlet for Published {
    fn wants(&self, _: TableFormat) -> bool {
        true
    }

    fn take(&self, cut: &Cut) -> Result<Option<TableFile>, TableError> {
        cut.write(&self.store).map(Some)
    }

    fn close(&self, interval: Interval) -> Result<(), TableError> {
        self.commits.lock().expect("no panic").publish(interval, self.signer.as_ref(), &self.store)
    }

    fn commits(&self) -> Option<Commits> {
        Some(self.commits.lock().expect("no panic").clone())
    }

    fn state(&self) -> Option<&Store> {
        self.state.as_ref().map(|_| &self.store)
    }

    fn checkpoint(&self, boundary: &Boundary, new: Vec<Piece>) -> Result<(), TableError> {
        let (Some(state), Some(past)) = (&self.state, &boundary.standing.past) else { return Ok(()) };
        let mut pieces = state.pieces.lock().expect("no panic");
        pieces.extend(new);
        forget(&mut pieces, &state.retention, boundary.upper);
        let Standing { mark, groups, facts, basis, .. } = (*boundary.standing).clone();
        let pieces = pieces.clone();
        Checkpoint::new(state.plan, boundary.upper, mark, groups, facts, basis, past.clone(), pieces)
            .write(&self.store)?;
        Ok(())
    }

    fn forget(&self) {
        if let Some(state) = &self.state {
            state.pieces.lock().expect("no panic").clear();
        }
    }
}

/// Forgets the pieces that are not needed at `upper`.
fn forget(pieces: &mut Vec<Piece>, retention: &BTreeMap<String, Retention>, upper: Tick) {
    // A state was put down at the beginning of the interval in which its rows came.
    let mut put_down: BTreeMap<String, Tick> = BTreeMap::new();
    for piece in pieces.iter().filter(|piece| is_put_down(&piece.timeline)) {
        let last = put_down.entry(node_of(&piece.timeline).to_owned()).or_default();
        *last = piece.lower.max(*last);
    }
    pieces.retain(|piece| {
        let since = put_down.get(node_of(&piece.timeline)).copied().unwrap_or(Tick::ZERO);
        let reaches = |tick: Tick, span| piece.last >= tick.micros().saturating_sub(span);
        match retention.get(&piece.timeline).copied().unwrap_or(Retention::Forever) {
            Retention::Forever => true,
            Retention::Span(span) => reaches(upper, span),
            Retention::PutDown => piece.lower >= since,
            Retention::SpanBeforePutDown(span) => reaches(since, span),
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::put_down_name;

    #[test]
    fn what_a_state_was_put_down_as_stands_for_what_it_heard_before() {
        let at = |second: i64| Tick::new(second * 1_000_000, 0).unwrap();
        let piece = |timeline: &str, from: i64, last: i64| Piece {
            timeline: timeline.to_owned(),
            partition: 0,
            lower: at(from),
            upper: at(from + 10),
            last: last * 1_000_000,
            rows: 1,
            digest: Digest::of(b"rows"),
        };
        let retention = [
            ("claims/0".to_owned(), Retention::PutDown),
            ("claims/1".to_owned(), Retention::Forever),
            (put_down_name("claims"), Retention::PutDown),
            ("drift/0".to_owned(), Retention::SpanBeforePutDown(5_000_000)),
            (put_down_name("drift"), Retention::PutDown),
            ("living/0".to_owned(), Retention::Span(5_000_000)),
        ];
        let mut pieces = Vec::new();
        for from in [0, 10, 20] {
            for (timeline, _) in retention.iter().filter(|(timeline, _)| !is_put_down(timeline)) {
                pieces.push(piece(timeline, from, from + 9));
            }
        }
        let retention: BTreeMap<String, Retention> = retention.into();
        let left = |pieces: &[Piece]| -> Vec<String> {
            pieces
                .iter()
                .map(|piece| format!("{} @{}", piece.timeline, piece.lower.micros() / 1_000_000))
                .collect()
        };
        forget(&mut pieces, &retention, at(30));
        assert_eq!(pieces.len(), 3 * 4 - 2, "only what lived is over: {:?}", left(&pieces));
        for (node, from) in [("claims", 10), ("drift", 20)] {
            pieces.push(piece(&put_down_name(node), from, i64::MIN));
        }
        forget(&mut pieces, &retention, at(30));
        let mut left = left(&pieces);
        left.sort();
        let wanted = [
            "claims/0 @10",
            "claims/0 @20",
            "claims/1 @0",
            "claims/1 @10",
            "claims/1 @20",
            "claims/put-down @10",
            "drift/0 @10",
            "drift/0 @20",
            "drift/put-down @20",
            "living/0 @20",
        ];
        assert_eq!(left, wanted);
    }
}
