//! Steps of revisions that are taken while the run is served.
//!
//! A step is checked by the lifecycle and by the gate's policy of control facts, as one on a data
//! folder at rest is, and has a group of its own in the log. One that takes effect ends the graph:
//! everything before it is committed, then the step is logged, and [`super::serve`] begins again
//! with a plan that has the revision. So the log and the tables are those of a run that was stopped
//! for the step and started again.

use tidegate_facts::control_fact::SOURCE;
use tidegate_sinks::log::Group;
use tokio::sync::oneshot;

use crate::governance::ValidatedStep;
use crate::ingest::admission::Admission;
use crate::ingest::log_feed::LogFeed;
use crate::revision_step::{GovernanceError, StepOutcome};
use crate::run::error::RunError;
use crate::run::gate::Gate;
use crate::serve::{PendingStep, ServeState};

/// Answers the caller of a step.
type StepReply = oneshot::Sender<Result<StepOutcome, GovernanceError>>;

/// A step of a revision that takes effect once everything before it is committed.
pub(super) struct ActivatingStep {
    step: ValidatedStep,
    reply: StepReply,
}

/// Answers the caller; one that has gone away needs no answer.
fn answer(reply: StepReply, outcome: Result<StepOutcome, GovernanceError>) {
    let _ = reply.send(outcome);
}

impl Gate<'_> {
    /// Takes a step, or returns it if it takes effect. A step that is refused changes nothing.
    pub(super) fn take_step(
        &mut self,
        serve: &ServeState,
        admission: &mut Admission,
        feed: &mut LogFeed,
        step: PendingStep,
    ) -> Result<Option<ActivatingStep>, RunError> {
        let PendingStep { request, reply } = step;
        let step = match ValidatedStep::new(self.plan, &self.governance.lifecycle, &request) {
            Ok(step) if step.takes_effect() => return Ok(Some(ActivatingStep { step, reply })),
            Ok(step) => step,
            Err(error) => {
                answer(reply, Err(error));
                return Ok(None);
            }
        };
        let group = match self.stamp(admission, &step)? {
            Ok(group) => group,
            Err(error) => {
                answer(reply, Err(error));
                return Ok(None);
            }
        };
        self.append(&group, admission, feed)?;
        let outcome = self.apply(step, &group)?;
        serve.set_governance(self.governance.clone());
        serve.ingress.set_counts(&admission.counts);
        answer(reply, Ok(outcome));
        Ok(None)
    }

    /// Logs a step behind everything that was committed. The workers do not get it: their graph has
    /// ended.
    pub(super) fn activate(
        &mut self,
        serve: &ServeState,
        admission: &mut Admission,
        step: ActivatingStep,
    ) -> Result<(), RunError> {
        let ActivatingStep { step, reply } = step;
        let group = match self.stamp(admission, &step)? {
            Ok(group) => group,
            Err(error) => {
                answer(reply, Err(error));
                return Ok(());
            }
        };
        self.log.append_and_wait(&group)?;
        admission.log_durable(group.upper)?;
        let outcome = self.apply(step, &group)?;
        serve.set_governance(self.governance.clone());
        answer(reply, Ok(outcome));
        Ok(())
    }

    /// The group of a step alone; everything before it was taken.
    fn stamp(
        &self,
        admission: &mut Admission,
        step: &ValidatedStep,
    ) -> Result<Result<Group, GovernanceError>, RunError> {
        assert_eq!(admission.pending_records(), 0, "a step has a group of its own");
        let (position, clock) = (self.summary.next_position(SOURCE), &*self.options.host.clock);
        let validated = match step.validated(self.plan, position, self.log.upper(), clock) {
            Ok(validated) => validated,
            Err(error) => return Ok(Err(error)),
        };
        admission.push(self.control_source(), validated);
        admission.take(1, clock.wall_micros())?;
        Ok(Ok(admission.group(Vec::new(), false).expect("it holds a record")))
    }

    /// Applies a durable step to the lifecycle.
    fn apply(&mut self, step: ValidatedStep, group: &Group) -> Result<StepOutcome, RunError> {
        let outcome = step.outcome(group)?;
        let applied = self.governance.lifecycle.apply(outcome.tick, &outcome.record);
        applied.expect("this lifecycle has checked the step");
        Ok(outcome)
    }
}
