//! Steps of revisions, taken while the run goes on.
//!
//! A step is judged by the lifecycle and the door's policy, as one is that is taken on a log at rest, and is a group of its own in
//! the log. One that takes effect ends the graph: what was taken before it is committed, then the step is logged, and
//! [`super::serve`] begins again with a plan that holds it. So the log and the tables are those of a run that was
//! stopped for the step and started again.

use super::*;
use crate::governance::{Prepared, Taken};
use crate::live::{OnTaken, StepAsked};

/// A step that takes effect once everything before it is committed, and who waits for it.
pub(super) struct Effective(Prepared, OnTaken);

impl Gate<'_> {
    /// Takes a step, or hands it back if it takes effect. One that is refused changes nothing.
    pub(super) fn step(
        &mut self,
        live: &Live,
        admission: &mut Admission,
        feed: &mut Feed,
        step: StepAsked,
    ) -> Result<Option<Effective>, RunError> {
        let StepAsked { asked, on_taken } = step;
        let prepared = match Prepared::new(self.plan, &self.governed.lifecycle, &asked) {
            Ok(prepared) if prepared.takes_effect() => return Ok(Some(Effective(prepared, on_taken))),
            Ok(prepared) => prepared,
            Err(error) => {
                on_taken(Err(error));
                return Ok(None);
            }
        };
        let group = match self.stamped(admission, &prepared)? {
            Ok(group) => group,
            Err(error) => {
                on_taken(Err(error));
                return Ok(None);
            }
        };
        self.append(&group, admission, feed)?;
        let taken = prepared.taken(&group)?;
        self.learn_step(&taken);
        live.govern(self.governed.clone());
        live.count(&admission.counts);
        on_taken(Ok(taken));
        Ok(None)
    }

    /// Logs a step behind everything that was committed. The workers are not told: their graph has ended.
    pub(super) fn take_effect(
        &mut self,
        live: &Live,
        admission: &mut Admission,
        step: Effective,
    ) -> Result<(), RunError> {
        let Effective(prepared, on_taken) = step;
        let group = match self.stamped(admission, &prepared)? {
            Ok(group) => group,
            Err(error) => {
                on_taken(Err(error));
                return Ok(());
            }
        };
        self.log.append(&group)?;
        admission.durable(group.upper)?;
        let taken = prepared.taken(&group)?;
        self.learn_step(&taken);
        live.govern(self.governed.clone());
        on_taken(Ok(taken));
        Ok(())
    }

    /// The group of a step alone; everything before it was taken.
    fn stamped(
        &self,
        admission: &mut Admission,
        prepared: &Prepared,
    ) -> Result<Result<Group, GovernanceError>, RunError> {
        assert_eq!(admission.pending_records(), 0, "a step is a group of its own");
        let position = self.past.sources.get(SOURCE).map_or(0, Resume::next);
        let judged = match prepared.judged(self.plan, position, self.log.upper()) {
            Ok(judged) => judged,
            Err(error) => return Ok(Err(error)),
        };
        let place = self.plan.sources.len() + 1; // Behind the sources of the plan, and what is submitted.
        admission.hand_over(place, Some(judged));
        admission.hand_over(place, None);
        admission.take(1, now())?;
        Ok(Ok(admission.group(Vec::new(), false).expect("it holds a record")))
    }

    fn learn_step(&mut self, taken: &Taken) {
        let applied = self.governed.lifecycle.apply(taken.tick, &taken.record);
        applied.expect("the step was judged by this lifecycle");
    }
}
