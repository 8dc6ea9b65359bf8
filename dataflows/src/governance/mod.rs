//! Governance: steps of revisions go through the gate into the log, and plans follow the revisions
//! that took effect.
//!
//! A step is checked twice before it is a fact: the lifecycle decides whether it may be taken now,
//! and the gate validates its record under a policy of its own. A proposal is planned together with
//! everything that is in force, so a revision that cannot run is never proposed. [`effective_plan`]
//! reads the steps back and returns the plan with every revision from its tick on; a run and a
//! replay both begin with it.
//!
//! * [`history`]: the steps and backfills in a log, and the plan that follows from them.
//! * [`validate`]: the checks of a step before the gate.
//! * [`at_rest`]: steps and backfills on a data folder that no run is active on.

pub mod at_rest;
pub mod history;
pub mod validate;

pub use tidegate_operators::governance::revision_diff::RevisionChange;
pub use tidegate_operators::governance::revision_lifecycle::{Lifecycle, Proposal, Refusal, StepEffect};

pub use crate::governance::at_rest::DataFolder;
pub(crate) use crate::governance::history::effective_state;
pub use crate::governance::history::{as_if_effective, backfills, effective_plan, run_record};
pub(crate) use crate::governance::validate::ValidatedStep;
pub use crate::governance::validate::{revision_changes, revision_text, validate_step};
pub use crate::revision_step::{GovernanceError, GovernanceState, StepAction, StepOutcome, StepRequest};

use crate::ingest::admission::AdmissionError;

impl From<AdmissionError> for GovernanceError {
    fn from(error: AdmissionError) -> GovernanceError {
        match error {
            AdmissionError::Dedupe(error) => GovernanceError::Dedupe(error),
            AdmissionError::OutOfTicks => GovernanceError::OutOfTicks,
        }
    }
}
