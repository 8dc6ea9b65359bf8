//! Turns groups of the log into the rows and commit boundaries that the workers get, live and on
//! replay.
//!
//! Everything here is a function of the log. A fact's row has the plan's columns, whatever its
//! event type; its basis counts, for each partition of `traffic`, the facts with a tick not above
//! its own; and commit boundaries follow the counts and ticks of facts.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::SchemaRef;
use tidegate_facts::{Tick, Topic, columns, control_fact};
use tidegate_operators::core::rows::partition_owner;
use tidegate_sinks::checkpoint::Checkpoint;
use tidegate_sinks::hash_chains::{LogChains, LogHeads};
use tidegate_sinks::log::{EpochId, Frame, Group, GroupLink, LogPosition};

use crate::commit::boundary::{BoundaryCutter, CommitBoundary, LogState};
use crate::ingest::frame_columns::FrameColumns;
use crate::metrics::PartitionProgress;
use crate::plan::Plan;

/// One group of the log as the log feed gives it to the workers: its rows, then how far time may
/// advance.
#[derive(Clone, Debug)]
pub struct GroupInput {
    /// For each worker the batches of the partitions it owns.
    pub rows: Vec<Vec<RecordBatch>>,
    /// Everything before this tick is in this input and those before it.
    pub upper: Tick,
    /// The commit boundaries that this group passed, none above `upper`.
    pub boundaries: Vec<CommitBoundary>,
    /// How many facts the group holds.
    pub facts: usize,
    /// How many facts of each partition of `traffic` are before `upper`.
    pub basis: Vec<i64>,
}

/// The feed of a log: turns its groups, in order, into the inputs of a plan's workers.
pub struct LogFeed {
    schema: SchemaRef,
    workers: usize,
    basis: Vec<i64>,
    cutter: BoundaryCutter,
    chains: LogChains,
    /// Facts before this tick are in the restored state.
    from: Tick,
    /// Facts from this tick on are left out.
    to: Tick,
    facts: u64,
    /// The number of the next group, the tick at which it begins, and the epoch of the one before.
    group: u64,
    upper: Tick,
    epoch: EpochId,
    /// The next offset of each partition.
    ends: BTreeMap<(Topic, u16), u64>,
    /// The newest fact of each partition.
    newest: Vec<Option<Tick>>,
    /// In front of the group from which on a start would have to read.
    restart: LogPosition,
    /// How the newest frame of each event type was laid out.
    layouts: BTreeMap<String, FrameColumns>,
}

impl LogFeed {
    /// Feeds `workers` workers of a plan from the beginning of its log.
    pub fn new(plan: &Plan, workers: usize) -> LogFeed {
        let topology = &plan.topology;
        LogFeed {
            schema: Arc::clone(&plan.gate_schema),
            workers,
            basis: vec![0; usize::from(topology.partitions)],
            cutter: BoundaryCutter::after(Tick::ZERO, topology.commit_rows, topology.commit_span),
            chains: LogChains::default(),
            from: Tick::ZERO,
            to: Tick::MAX,
            facts: 0,
            group: 0,
            upper: Tick::ZERO,
            epoch: EpochId::default(),
            ends: BTreeMap::new(),
            newest: vec![None; usize::from(topology.partitions)],
            restart: LogPosition::default(),
            layouts: BTreeMap::new(),
        }
    }

    /// Leaves out the facts from `to` on, and cuts a commit boundary there.
    pub fn up_to(self, to: Tick) -> LogFeed {
        LogFeed { to, ..self }
    }

    /// Feeds `workers` workers of a plan whose state was restored from a checkpoint: the next group
    /// is the one at the checkpoint's position.
    pub fn resume(plan: &Plan, workers: usize, checkpoint: &Checkpoint, heads: &LogHeads) -> LogFeed {
        let LogPosition { group, upper, epoch, ends, .. } = checkpoint.position.clone();
        let topology = &plan.topology;
        LogFeed {
            restart: checkpoint.position.clone(),
            basis: checkpoint.basis.clone(),
            chains: LogChains::after(heads),
            from: checkpoint.upper,
            facts: checkpoint.facts,
            group,
            upper,
            epoch,
            ends: ends.into_iter().map(|(topic, partition, end)| ((topic, partition), end)).collect(),
            cutter: BoundaryCutter::after(checkpoint.upper, topology.commit_rows, topology.commit_span),
            ..LogFeed::new(plan, workers)
        }
    }

    /// The number of facts and the newest tick of each partition, behind the last group.
    pub fn partitions(&self) -> impl Iterator<Item = PartitionProgress> {
        (0..).zip(&self.newest).map(|(partition, newest)| {
            let end = |topic| self.ends.get(&(topic, partition)).copied().unwrap_or(0);
            PartitionProgress { facts: end(Topic::Traffic) + end(Topic::Control), newest: *newest }
        })
    }

    /// The number of workers.
    pub fn workers(&self) -> usize {
        self.workers
    }

    /// The number of facts that the workers got or that are in the restored state.
    pub fn facts(&self) -> u64 {
        self.facts
    }

    /// The number of facts since the last commit boundary.
    pub fn uncommitted(&self) -> u64 {
        self.cutter.uncommitted()
    }

    /// Whether a start behind the next group's boundaries would have to read the log from this
    /// group on.
    pub fn is_restart_point(&self) -> bool {
        !self.chains.is_waiting()
    }

    /// The position in front of the next group, which has this link.
    fn position(&self, link: &GroupLink) -> LogPosition {
        let ends = self.ends.iter().map(|((topic, partition), end)| (*topic, *partition, *end)).collect();
        let GroupLink { number, offset, previous, .. } = *link;
        let (upper, epoch) = (self.upper, self.epoch);
        LogPosition { group: number, offset, upper, digest: previous, epoch, ends }
    }

    /// The input of the workers for the next group of the log.
    ///
    /// # Panics
    /// When the group is not the one behind the last.
    pub fn feed(&mut self, link: &GroupLink, group: &Group) -> GroupInput {
        assert_eq!(link.number, self.group, "groups of the log come in order");
        if self.is_restart_point() {
            self.restart = self.position(link);
        }
        let order = group.facts_in_order();
        let before = |bound: Tick| order.partition_point(|(tick, _, _)| *tick < bound);
        let new = &order[before(self.from)..before(self.to)];
        let (basis, cuts) = self.count(group, new);
        let (uppers, states): (Vec<Tick>, Vec<(u64, Vec<i64>)>) =
            cuts.into_iter().map(|cut| (cut.upper, (cut.facts, cut.basis))).unzip();
        let heads = self.chains.group(group, &order, &uppers, self.from);
        let boundaries = uppers.into_iter().zip(heads).zip(states).map(|((upper, log), (facts, basis))| {
            let (position, groups) = (self.restart.clone(), self.group + 1);
            let state = LogState { position, groups, facts, basis, gate: None };
            CommitBoundary { upper, log: Arc::new(log), state: Arc::new(state) }
        });
        let boundaries: Vec<CommitBoundary> = boundaries.collect();
        self.pass(link, group);
        let mut rows = vec![Vec::new(); self.workers];
        // Steps of revisions are no input of the graph that they revise; they count and move time
        // like other facts.
        let is_input = |frame: &Frame| is_fact(frame) && !control_fact::is_control_fact(&frame.name);
        for (frame, basis) in group.frames.iter().zip(basis).filter(|(frame, _)| is_input(frame)) {
            let batch = self.batch(&frame.name, &frame.rows, basis);
            let before =
                |bound: Tick| columns::ticks(&batch).values().partition_point(|tick| Tick(*tick) < bound);
            let restored = before(self.from);
            let new = before(self.to).saturating_sub(restored);
            let batch = if new == batch.num_rows() { batch } else { batch.slice(restored, new) };
            self.split(batch, &mut rows);
        }
        GroupInput { rows, upper: group.upper, boundaries, facts: new.len(), basis: self.basis.clone() }
    }

    /// Counts the facts of a group in the order of their ticks; returns the basis column of each
    /// frame and the commit boundaries of the group.
    fn count(&mut self, group: &Group, facts: &[(Tick, u32, u32)]) -> (Vec<Vec<i64>>, Vec<Cut>) {
        let with_basis = self.schema.index_of(columns::BASIS).is_ok();
        let partitions = self.basis.len();
        let basis_of = |frame: &Frame| match with_basis && is_fact(frame) {
            true => vec![0; frame.rows.num_rows() * partitions],
            false => Vec::new(),
        };
        let mut basis: Vec<Vec<i64>> = group.frames.iter().map(basis_of).collect();
        let mut uppers = Vec::new();
        let mut cuts: Vec<Cut> = Vec::new();
        for (tick, frame, row) in facts {
            self.cutter.before_fact(*tick, &mut uppers);
            cuts.extend(uppers.drain(..).map(|upper| self.cut_at(upper)));
            self.facts += 1;
            if group.frames[*frame as usize].topic == Topic::Traffic {
                self.basis[usize::from(tick.partition())] += 1;
            }
            if with_basis {
                let from = *row as usize * partitions;
                basis[*frame as usize][from..from + partitions].copy_from_slice(&self.basis);
            }
            self.cutter.after_fact(*tick, &mut uppers);
            cuts.extend(uppers.drain(..).map(|upper| self.cut_at(upper)));
        }
        let upper = group.upper.min(self.to);
        if group.commit {
            self.cutter.cut_at_mark(upper, &mut uppers);
        } else if group.upper >= self.to {
            self.cutter.cut(upper, &mut uppers);
        }
        cuts.extend(uppers.drain(..).map(|upper| self.cut_at(upper)));
        (basis, cuts)
    }

    fn cut_at(&self, upper: Tick) -> Cut {
        Cut { upper, facts: self.facts, basis: self.basis.clone() }
    }

    /// Moves the position behind a group.
    fn pass(&mut self, link: &GroupLink, group: &Group) {
        self.group += 1;
        self.epoch = link.epoch;
        self.upper = group.upper;
        for frame in &group.frames {
            match frame.topic {
                Topic::Audit => {
                    *self.ends.entry((Topic::Audit, 0)).or_default() += frame.rows.num_rows() as u64
                }
                topic => {
                    for tick in columns::ticks(&frame.rows).values().iter().map(|tick| Tick(*tick)) {
                        *self.ends.entry((topic, tick.partition())).or_default() += 1;
                        let newest = &mut self.newest[usize::from(tick.partition())];
                        *newest = (*newest).max(Some(tick));
                    }
                }
            }
        }
    }

    /// The rows of one frame with the plan's columns.
    fn batch(&mut self, event_type: &str, rows: &RecordBatch, basis: Vec<i64>) -> RecordBatch {
        if self.layouts.get(event_type).is_none_or(|layout| !layout.fits(rows.schema_ref())) {
            let layout = FrameColumns::new(&self.schema, rows.schema_ref());
            self.layouts.insert(event_type.to_owned(), layout);
        }
        self.layouts[event_type].apply(&self.schema, event_type, rows, basis, self.basis.len())
    }

    /// Gives each worker the rows of its partitions.
    fn split(&self, batch: RecordBatch, rows: &mut [Vec<RecordBatch>]) {
        if batch.num_rows() == 0 {
            return;
        }
        if self.workers == 1 {
            rows[0].push(batch);
            return;
        }
        let mut own: Vec<Vec<u32>> = vec![Vec::new(); self.workers];
        for (row, tick) in columns::ticks(&batch).values().iter().enumerate() {
            own[partition_owner(Tick(*tick).partition(), self.workers)].push(row as u32);
        }
        for (worker, own) in own.into_iter().enumerate() {
            if own.len() == batch.num_rows() {
                rows[worker].push(batch.clone());
            } else if !own.is_empty() {
                let part = take_record_batch(&batch, &UInt32Array::from(own));
                rows[worker].push(part.expect("the rows are the batch's own"));
            }
        }
    }
}

/// A commit boundary, and the facts counted before it.
struct Cut {
    upper: Tick,
    facts: u64,
    basis: Vec<i64>,
}

fn is_fact(frame: &Frame) -> bool {
    frame.topic != Topic::Audit
}
