//! The replay of a log at the start of a run.

use std::sync::Arc;

use tidegate_dedupe::DedupeIndex;
use tidegate_facts::Tick;
use tidegate_sinks::archive::{Bound, Preference, read_range};
use tidegate_sinks::log::{Group, GroupLink};

use crate::commit::LogState;
use crate::ingest::dedupe_recovery::DedupeRecovery;
use crate::ingest::log_feed::{GroupInput, LogFeed};
use crate::run::error::RunError;
use crate::run::gate::Gate;

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
        let (logged, store) = (self.logged, self.store);
        let range = |from, to| read_range(logged, Some(store), from, Some(Bound::Group(to)), Preference::Log);
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
