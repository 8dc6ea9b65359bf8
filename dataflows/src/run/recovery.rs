//! What the groups of a log say of the past, and the replay of a log at the start of a run.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use tidegate_dedupe::DedupeIndex;
use tidegate_facts::audit::{PROGRESS, RUN, RunRecord, read_json_record};
use tidegate_facts::{Tick, Topic};
use tidegate_sinks::archive::{Bound, Preference, read_range};
use tidegate_sinks::checkpoint::Checkpoint;
use tidegate_sinks::hash_chains::LogHeads;
use tidegate_sinks::log::{Group, GroupLink};

use crate::commit::LogState;
use crate::ingest::audit_frames::{ProgressRecord, add_receipts, receipts_of};
use crate::ingest::dedupe_recovery::DedupeRecovery;
use crate::ingest::log_feed::{GroupInput, LogFeed};
use crate::ingest::reorder::ResumePoint;
use crate::plan::Plan;
use crate::run::error::RunError;
use crate::run::gate::Gate;

/// A checkpoint from which a graph was restored, and the heads of the log's hash chains there.
pub(super) type RestoredCheckpoint = (Checkpoint, LogHeads);

/// What the gate learnt from the groups of its log, as a checkpoint stores it.
#[derive(Clone, Default, serde::Serialize, serde::Deserialize)]
pub(super) struct LogSummary {
    /// For each source where it goes on.
    pub sources: BTreeMap<String, ResumePoint>,
    /// For each source how far it was read.
    pub progress: BTreeMap<String, ProgressRecord>,
}

impl LogSummary {
    /// The position of the next record of a source.
    pub fn next_position(&self, source: &str) -> u64 {
        self.sources.get(source).map_or(0, ResumePoint::next_position)
    }

    /// Where a source goes on.
    pub fn resume_point(&self, source: &str) -> ResumePoint {
        self.sources.get(source).cloned().unwrap_or_default()
    }

    /// Adds the audit frames of the next group.
    ///
    /// # Errors
    /// When they cannot be read, or belong to another plan.
    pub fn add(&mut self, group: &Group, plan: &Plan, data: &Path) -> Result<(), RunError> {
        let audit = |error| RunError::Audit { data: data.to_owned(), error };
        for frame in group.frames.iter().filter(|frame| frame.topic == Topic::Audit) {
            match frame.name.as_str() {
                RUN => {
                    let run: RunRecord = read_json_record(RUN, &frame.rows).map_err(audit)?;
                    if run.plan != plan.digest {
                        let (data, expected) = (data.to_owned(), plan.digest);
                        let (topology, found) = (run.topology, run.plan);
                        return Err(RunError::OtherPlan { data, topology, found, expected });
                    }
                }
                PROGRESS => {
                    let progress: ProgressRecord = read_json_record(PROGRESS, &frame.rows).map_err(audit)?;
                    self.progress.insert(progress.source.clone(), progress);
                }
                _ => {}
            }
        }
        for receipts in receipts_of(group) {
            add_receipts(&receipts.map_err(audit)?, &mut self.sources);
        }
        Ok(())
    }
}

impl Gate<'_> {
    /// The feed of the groups that are not in the restored state.
    pub(super) fn open_feed(&mut self) -> Result<LogFeed, RunError> {
        let Some((checkpoint, heads)) = &self.checkpoint else {
            return Ok(LogFeed::new(self.plan, self.options.workers));
        };
        let foreign = |_| RunError::Foreign { data: self.options.data.clone(), record: "checkpoint" };
        self.summary = serde_json::from_str(&checkpoint.gate).map_err(foreign)?;
        Ok(LogFeed::resume(self.plan, self.options.workers, checkpoint, heads))
    }

    /// Gives the workers the groups that are in the log already, and learns from them what happened
    /// before.
    pub(super) fn replay(
        &mut self,
        feed: &mut LogFeed,
        dedupe: &mut DedupeIndex,
        covered: Tick,
    ) -> Result<(), RunError> {
        if self.recovered == 0 {
            return Ok(());
        }
        let mut dedupe_recovery = DedupeRecovery::new(self.plan, covered);
        let (log, store) = (self.log.folder().clone(), self.store);
        let range = |from, to| read_range(&log, Some(store), from, Some(Bound::Group(to)), Preference::Log);
        let restored =
            self.checkpoint.as_ref().map(|(checkpoint, _)| checkpoint.position.clone()).unwrap_or_default();
        if covered < restored.upper {
            // The index is behind the restored state: it is brought up to it.
            for group in range(Bound::Tick(covered), restored.group)? {
                dedupe_recovery.add(&group?.group, dedupe)?;
            }
        }
        for group in range(Bound::Group(restored.group), self.recovered)? {
            let group = group?;
            dedupe_recovery.add(&group, dedupe)?;
            let input = self.group_input(&group.link, &group, feed)?;
            self.send(input)?;
        }
        self.metrics.set_partitions(feed.partitions());
        Ok(())
    }

    /// The workers' input for the next group of the log; its boundaries carry what the gate learnt
    /// from the groups before.
    pub(super) fn group_input(
        &mut self,
        link: &GroupLink,
        group: &Group,
        feed: &mut LogFeed,
    ) -> Result<GroupInput, RunError> {
        if feed.is_restart_point() {
            self.summary_at_restart = self.summary.clone();
        }
        let mut input = feed.feed(link, group);
        if !input.boundaries.is_empty() {
            let gate = serde_json::to_string(&self.summary_at_restart).expect("it has a JSON form");
            for boundary in &mut input.boundaries {
                let state = LogState { gate: Some(gate.clone()), ..(*boundary.state).clone() };
                boundary.state = Arc::new(state);
            }
        }
        self.summary.add(group, self.plan, &self.options.data)?;
        Ok(input)
    }
}
