//! The checks of a step before it is a fact: by the lifecycle, by planning its revision, and by the
//! gate.

use std::sync::Arc;

use tidegate_facts::control_fact::SCHEMA_VERSION;
use tidegate_facts::governance::{
    EVENT_TYPE, PRODUCER, Revision, RevisionKind, RevisionStep, StepRecord, Subject,
};
use tidegate_facts::time::to_rfc3339;
use tidegate_facts::{Context, Digest, EventClass, Tick, Verdict};
use tidegate_host::Clock;
use tidegate_operators::decision::decide::BundleText;
use tidegate_operators::gate::{GatePolicy, Rejection, Validated};
use tidegate_operators::governance::revision_diff::{RevisionChange, bundle_changes, policy_changes};
use tidegate_operators::governance::revision_lifecycle::{Lifecycle, StepEffect};
use tidegate_sinks::log::Group;

use crate::config::Diagnostic;
use crate::governance::history::{revisions, steps_of, text_of};
use crate::ingest::control_gate::control_validator;
use crate::plan::{Plan, RevisionText};
use crate::revision_step::{GovernanceError, StepAction, StepOutcome, StepRequest};
use crate::topology;

/// Validates a requested step of a revision: returns its record, its effect, and what its revision
/// changes.
///
/// This is everything before the gate. A run that has the log open goes on from here.
///
/// # Errors
/// Every reason against the step.
pub fn validate_step(
    plan: &Plan,
    lifecycle: &Lifecycle,
    request: &StepRequest,
) -> Result<(StepRecord, StepEffect, Vec<RevisionChange>), GovernanceError> {
    let StepRequest { actor, reason, action } = request;
    let scope = plan.topology.name.as_str();
    let (record, text) = match action {
        StepAction::Propose { node, file, text, before } => {
            let subject = lifecycle.subject_of(node)?.clone();
            let text = RevisionText { file: file.clone(), text: text.as_str().into() };
            let after = revision_of(subject.kind, &text)?;
            let mut record = lifecycle.propose(&subject, scope, after, &text.text, actor, reason)?;
            if let Some(before) = before {
                let after = &record.after.digest;
                record.proposal_id = StepRecord::proposal_id(&subject, scope, before, after, actor, reason);
                record.before = *before;
            }
            (record, Some(text))
        }
        StepAction::Follow(step, id) => {
            let proposal = lifecycle.proposal(id)?;
            (lifecycle.follow(proposal, *step, scope, actor, reason), None)
        }
        StepAction::RollBack(node) => {
            let subject = lifecycle.subject_of(node)?;
            (lifecycle.roll_back(subject, scope, actor, reason)?, None)
        }
    };
    let effect = lifecycle.check(&record)?;
    let text = match (text, record.step) {
        (None, RevisionStep::Activated) => Some(text_of(lifecycle.proposal(&record.proposal_id.to_hex())?)),
        (text, _) => text,
    };
    if let Some(text) = text.filter(|_| effect == StepEffect::New) {
        plan_with(plan, lifecycle, &record.subject, text)?;
    }
    let changes = revision_changes(plan, lifecycle, &record);
    Ok((record, effect, changes))
}

/// What a step of governance changes: its revision against the one that it was proposed on.
pub fn revision_changes(plan: &Plan, lifecycle: &Lifecycle, record: &StepRecord) -> Vec<RevisionChange> {
    let text = |digest: &Digest| match &record.text {
        Some(text) if record.after.digest == *digest => text.as_str().into(),
        _ => revision_text(plan, lifecycle, &record.subject, digest),
    };
    let (before, after) = (text(&record.before), text(&record.after.digest));
    const READ: &str = "it was read when it was proposed, or planned";
    match record.subject.kind {
        RevisionKind::Bundle => {
            let [before, after] = [before, after].map(|text| BundleText::parse(&text).expect(READ));
            bundle_changes(&before, &after)
        }
        RevisionKind::GatePolicy => {
            let [before, after] = [before, after].map(|text| GatePolicy::parse(&text).expect(READ));
            policy_changes(&before, &after)
        }
    }
}

/// The text of a revision that governance has in force or as a proposal: that of the proposal, or
/// of the topology's file.
pub fn revision_text(plan: &Plan, lifecycle: &Lifecycle, subject: &Subject, digest: &Digest) -> Arc<str> {
    let mut proposed = lifecycle.in_order().into_iter().filter(|p| p.subject == *subject);
    if let Some(proposal) = proposed.find(|p| p.after.digest == *digest) {
        return proposal.text.as_str().into();
    }
    let node = plan.topology.node(&subject.node).expect("the plan has the node");
    let revisable = node.revisable().expect("the lifecycle has only revisable nodes");
    Arc::clone(&plan.topology.files[&plan.topology.path_of(revisable.path())])
}

/// The name, version and digest of a revision's text.
fn revision_of(kind: RevisionKind, revision: &RevisionText) -> Result<Revision, GovernanceError> {
    let diagnostic = |(line, message)| Diagnostic { file: revision.file.clone(), line, message };
    match kind {
        RevisionKind::Bundle => BundleText::parse(&revision.text)
            .map(|bundle| Revision { digest: bundle.digest(), id: bundle.id, version: bundle.version })
            .map_err(|found| GovernanceError::Diagnostics(found.into_iter().map(diagnostic).collect())),
        RevisionKind::GatePolicy => GatePolicy::parse(&revision.text)
            .map(|policy| {
                let rev = policy.rev();
                Revision { id: rev.policy_id, version: rev.revision, digest: rev.content_digest }
            })
            .map_err(|found| {
                GovernanceError::Diagnostics(
                    found.into_iter().map(|f| diagnostic((f.line, f.message))).collect(),
                )
            }),
    }
}

/// Plans the topology as if the text came into force after everything else.
fn plan_with(
    plan: &Plan,
    lifecycle: &Lifecycle,
    subject: &Subject,
    text: RevisionText,
) -> Result<(), GovernanceError> {
    let mut revisions = revisions(lifecycle);
    revisions.entry(subject.node.clone()).or_default().push((Tick::MAX, Some(text)));
    Plan::with_revisions(plan.topology.clone(), &revisions).map(|_| ()).map_err(GovernanceError::Diagnostics)
}

/// Checks that the plan has the pins that control facts carry.
pub(super) fn check_pins(plan: &Plan) -> Result<(), GovernanceError> {
    let missing = plan.topology.run.missing_pins(EventClass::Control);
    if missing.is_empty() { Ok(()) } else { Err(GovernanceError::Pins { missing }) }
}

/// A step that may be taken, before it goes through the gate.
pub(crate) struct ValidatedStep {
    record: StepRecord,
    effect: StepEffect,
    changes: Vec<RevisionChange>,
}

impl ValidatedStep {
    /// Validates a requested step.
    ///
    /// # Errors
    /// Every reason against it.
    pub(crate) fn new(
        plan: &Plan,
        lifecycle: &Lifecycle,
        request: &StepRequest,
    ) -> Result<ValidatedStep, GovernanceError> {
        check_pins(plan)?;
        let (record, effect, changes) = validate_step(plan, lifecycle, request)?;
        Ok(ValidatedStep { record, effect, changes })
    }

    /// Whether another revision is in force after it.
    pub(crate) fn takes_effect(&self) -> bool {
        self.effect == StepEffect::New && self.record.step.takes_effect()
    }

    pub(super) fn control_record(&self) -> ControlRecord {
        let (id, payload) = (self.record.event_id(), self.record.payload());
        ControlRecord { event_type: EVENT_TYPE, producer: PRODUCER, id, payload }
    }

    /// The step as the gate validates it, for a log that ends before `upper`; its receipt has this
    /// position.
    ///
    /// # Errors
    /// When the gate refuses it.
    pub(crate) fn validated(
        &self,
        plan: &Plan,
        position: u64,
        upper: Tick,
        clock: &dyn Clock,
    ) -> Result<Validated, GovernanceError> {
        let validated = self.control_record().validate(plan, position, time_of_step(plan, upper, clock));
        match validated.rejected.first() {
            None => Ok(validated),
            Some(rejection) => Err(gate_error(rejection)),
        }
    }

    /// The outcome of the step, once the group that holds it is durable.
    pub(crate) fn outcome(self, group: &Group) -> Result<StepOutcome, GovernanceError> {
        let ValidatedStep { record, effect, changes } = self;
        Ok(match (steps_of(&group.frames)?.pop(), effect) {
            (Some((tick, record)), _) => StepOutcome { record, tick, repeated: false, changes },
            (None, StepEffect::Repeated(tick)) => StepOutcome { record, tick, repeated: true, changes },
            (None, StepEffect::New) => unreachable!("{} of a step that is new", Verdict::Duplicate),
        })
    }
}

/// The time that stamps a step: behind the last fact with the event clock, now with the wall clock.
pub(super) fn time_of_step(plan: &Plan, upper: Tick, clock: &dyn Clock) -> i64 {
    match plan.topology.clock {
        topology::Clock::Wall => clock.wall_micros(),
        topology::Clock::Event => Tick((upper.0 - 1).max(0)).micros(),
    }
}

/// A control fact in the making.
pub(super) struct ControlRecord {
    pub event_type: &'static str,
    pub producer: &'static str,
    pub id: String,
    pub payload: serde_json::Value,
}

impl ControlRecord {
    /// The record as the gate of control facts validates it.
    pub fn validate(self, plan: &Plan, position: u64, time: i64) -> Validated {
        let line = self.envelope(&plan.topology.run, time);
        control_validator().validate_lines([(position, line.as_bytes())])
    }

    /// The record as a producer writes it.
    fn envelope(self, run: &Context, time: i64) -> String {
        let context = Context {
            event_type: self.event_type.to_owned(),
            schema_version: Some(SCHEMA_VERSION.to_owned()),
            producer: Some(self.producer.to_owned()),
            ..run.clone()
        };
        let mut envelope = serde_json::to_value(&context).expect("a context is plain data");
        envelope["event_id"] = self.id.into();
        envelope["ts_utc"] = to_rfc3339(time).into();
        envelope["payload"] = self.payload;
        envelope.to_string()
    }
}

/// Why the gate refused a control fact.
pub(super) fn gate_error(rejection: &Rejection) -> GovernanceError {
    let (reason, detail) = (rejection.reason.code().to_owned(), rejection.detail.clone());
    GovernanceError::Gate { reason, detail }
}
