//! What the groups of a log say of the past.

use std::collections::BTreeMap;
use std::path::Path;

use tidegate_facts::Topic;
use tidegate_facts::audit::{PROGRESS, RUN, RunRecord, read_json_record};
use tidegate_sinks::checkpoint::Checkpoint;
use tidegate_sinks::hash_chains::LogHeads;
use tidegate_sinks::log::Group;

use crate::ingest::audit_frames::{ProgressRecord, add_receipts, receipts_of};
use crate::ingest::reorder::ResumePoint;
use crate::plan::Plan;
use crate::run::error::RunError;

/// A checkpoint from which a graph was restored, and the heads of the log's hash chains there.
pub(super) type RestoredCheckpoint = (Checkpoint, LogHeads);

/// The summary of a log: what the gate learnt from its groups, as a checkpoint stores it.
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
