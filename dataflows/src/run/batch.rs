//! The sources of a plan, read to their ends: each on a thread of its own, merged by the gate.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, sync_channel};

use tidegate_operators::gate::Validator;
use tidegate_sources::SourceError;

use crate::ingest::admission::Admission;
use crate::ingest::audit_frames::ProgressRecord;
use crate::ingest::log_feed::LogFeed;
use crate::metrics::Stage;
use crate::plan::SourcePlan;
use crate::run::error::RunError;
use crate::run::gate::Gate;
use crate::run::log_summary::LogSummary;
use crate::run::source_messages::{Fingerprints, LastLine, SourceMessage};

impl Gate<'_> {
    /// Starts the thread of a source, at the first record that has no receipt in `summary`.
    pub(super) fn open_source(
        &self,
        number: usize,
        plan: &SourcePlan,
        summary: &LogSummary,
        last_line: LastLine,
    ) -> Result<Receiver<SourceMessage>, RunError> {
        let failed = |source| RunError::Source { name: plan.name.clone(), source };
        let progress = summary.progress.get(&plan.name);
        if let (Some(progress), Some(path)) = (progress, plan.path()) {
            progress.fingerprint.check(path).map_err(failed)?;
        }
        let mut source = plan.open(summary.next_position(&plan.name)).map_err(failed)?;
        let is_other = |progress: &ProgressRecord| progress.fingerprint != source.fingerprint();
        if plan.path().is_none() && progress.is_some_and(is_other) {
            return Err(failed(SourceError::OtherWorld));
        }
        if last_line == LastLine::MayGrow {
            source.leave_unfinished_line();
        }
        let policy = self.plan.policy().clone();
        let mut validator = Validator::new(policy, self.plan.topology.partitions, plan.bounds);
        let counter = self.metrics.stage(&Stage::Source(number, plan.name.clone()));
        let (name, plan) = (format!("source-{}", plan.name), plan.clone());
        let (sender, receiver) = sync_channel(2);
        let read = move || {
            loop {
                let message = counter.time(|| match source.next() {
                    Ok(Some(chunk)) => SourceMessage::Records(plan.validate(&mut validator, &chunk)),
                    Ok(None) => SourceMessage::End(source.fingerprint()),
                    Err(error) => SourceMessage::Failed(error),
                });
                if let SourceMessage::Records(validated) = &message {
                    counter.add(validated.positions.len() as u64);
                }
                let is_last = !matches!(message, SourceMessage::Records(_));
                if sender.send(message).is_err() || is_last {
                    break; // The gate stopped, or the source did.
                }
            }
        };
        // The thread ends when the gate drops the receiver.
        drop(self.options.host.tasks.spawn(&name, Box::new(read)).expect("a thread can be started"));
        Ok(receiver)
    }

    /// Admits the records of all sources until they end, or the run is to stop.
    pub(super) fn admit_sources(
        &mut self,
        admission: &mut Admission,
        feed: &mut LogFeed,
        sources: &[Receiver<SourceMessage>],
    ) -> Result<Fingerprints, RunError> {
        let rows = self.plan.topology.batch_rows;
        let counter = self.metrics.stage(&Stage::Admission);
        let mut fingerprints = BTreeMap::new();
        while !admission.is_finished() {
            while let Some(source) = admission.awaited_source() {
                let name = || self.plan.sources[source].name.clone();
                match sources[source].recv() {
                    Ok(SourceMessage::Records(validated)) => admission.push(source, validated),
                    Ok(SourceMessage::End(fingerprint)) => {
                        fingerprints.insert(source, fingerprint);
                        admission.end(source);
                    }
                    Ok(SourceMessage::Failed(source)) => {
                        return Err(RunError::Source { name: name(), source });
                    }
                    Err(_) => return Err(RunError::SourceThread { name: name() }),
                }
            }
            let now = self.options.host.clock.wall_micros();
            counter.time(|| admission.take(rows, now))?;
            if admission.pending_records() >= rows {
                let group = counter.time(|| admission.group(Vec::new(), false)).expect("it holds records");
                self.append(&group, admission, feed)?;
            }
            if self.has_failed() || self.serve.is_some_and(|serve| serve.ingress.may_stop()) {
                break; // The sinks failed, and their error is the run's; or the next run goes on from here.
            }
        }
        Ok(fingerprints)
    }
}
