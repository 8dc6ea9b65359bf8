//! Governance steps: the control facts by which bundles and gate policies take effect.
//!
//! A revision is proposed, approved and activated, and can be rolled back or withdrawn. Each step
//! is one record of the type [`EVENT_TYPE`] in the control topic. A proposal contains the whole
//! text of its revision, so the log alone determines which revision was in force at any tick. The
//! lifecycle of revisions, among the operators, decides which step may follow which.

use std::fmt;

use arrow::array::RecordBatch;
use serde::Serialize;

use crate::text_payload::{TextField, TextPayload, named};
use crate::{Digest, Tick};

/// The event type of governance steps.
pub const EVENT_TYPE: &str = "governance.policy.v1";
/// The producer of governance steps.
pub const PRODUCER: &str = "tidegate.policy";

/// The kind of document that a governance step revises: a bundle or a gate policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RevisionKind {
    /// The rules of a `decide` node.
    Bundle,
    /// The policy of the gate.
    GatePolicy,
}

/// A governance step, which a control fact records in the lifecycle of a revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RevisionStep {
    /// An actor requests the revision.
    Proposed,
    /// Another actor agrees.
    Approved,
    /// The revision is in force from the tick of this fact on.
    Activated,
    /// The previous revision is in force again from the tick of this fact on.
    RolledBack,
    /// The revision will not take effect.
    Withdrawn,
}

impl RevisionKind {
    /// Every kind of document that governance steps revise.
    pub const ALL: [RevisionKind; 2] = [RevisionKind::Bundle, RevisionKind::GatePolicy];

    /// The name of the kind in a control fact.
    pub fn name(self) -> &'static str {
        match self {
            RevisionKind::Bundle => "bundle",
            RevisionKind::GatePolicy => "gate_policy",
        }
    }
}

impl RevisionStep {
    /// Every governance step.
    pub const ALL: [RevisionStep; 5] = [
        RevisionStep::Proposed,
        RevisionStep::Approved,
        RevisionStep::Activated,
        RevisionStep::RolledBack,
        RevisionStep::Withdrawn,
    ];

    /// The name of the step in a control fact.
    pub fn name(self) -> &'static str {
        match self {
            RevisionStep::Proposed => "proposed",
            RevisionStep::Approved => "approved",
            RevisionStep::Activated => "activated",
            RevisionStep::RolledBack => "rolled_back",
            RevisionStep::Withdrawn => "withdrawn",
        }
    }

    /// The reference platform's name of this step, where it has one.
    pub fn reference_event(self, kind: RevisionKind) -> Option<&'static str> {
        match (kind, self) {
            (RevisionKind::Bundle, RevisionStep::Proposed) => Some("BUNDLE_PUBLISHED"),
            (RevisionKind::Bundle, RevisionStep::Approved) => Some("BUNDLE_APPROVED"),
            (RevisionKind::Bundle, RevisionStep::Activated) => Some("BUNDLE_PROMOTED_ACTIVE"),
            (RevisionKind::Bundle, RevisionStep::RolledBack) => Some("BUNDLE_ROLLED_BACK"),
            (RevisionKind::Bundle, RevisionStep::Withdrawn) => Some("BUNDLE_RETIRED"),
            (RevisionKind::GatePolicy, RevisionStep::Activated | RevisionStep::RolledBack) => {
                Some("POLICY_REV_CHANGED")
            }
            (RevisionKind::GatePolicy, _) => None,
        }
    }

    /// Whether this step changes which revision is in force.
    pub fn takes_effect(self) -> bool {
        matches!(self, RevisionStep::Activated | RevisionStep::RolledBack)
    }
}

impl fmt::Display for RevisionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for RevisionStep {
    /// The name for people; on the wire a step is its [`RevisionStep::name`].
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == RevisionStep::RolledBack { "rolled back" } else { self.name() })
    }
}

/// The document that a governance step revises: the bundle or the policy of one node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subject {
    /// Whether it is a bundle or a policy.
    pub kind: RevisionKind,
    /// The node that uses it.
    pub node: String,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            RevisionKind::Bundle => write!(f, "the bundle of `{}`", self.node),
            RevisionKind::GatePolicy => write!(f, "the policy of `{}`", self.node),
        }
    }
}

/// One version of a bundle or policy, as a governance step names it: its id, its version and the
/// digest of its content.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision {
    /// Its stable id.
    pub id: String,
    /// The version that its authors gave it.
    pub version: String,
    /// The digest of its content.
    pub digest: Digest,
}

impl fmt::Display for Revision {
    /// Id, version and the first digits of the digest.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ({})", self.id, self.version, self.digest.short_hex())
    }
}

/// The payload of the control fact of one governance step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepRecord {
    /// The document that is revised.
    pub subject: Subject,
    /// The topology that contains the node.
    pub scope: String,
    /// The step.
    pub step: RevisionStep,
    /// The proposal to which the step belongs.
    pub proposal_id: Digest,
    /// Who takes the step.
    pub actor: String,
    /// Why the actor takes it.
    pub reason: String,
    /// The digest of the revision in force before the proposed one; for a rollback, of the one that
    /// it ends.
    pub before: Digest,
    /// The proposed revision; for a rollback, the one that is in force again.
    pub after: Revision,
    /// The whole text of the revision, in a proposal.
    pub text: Option<String>,
}

impl StepRecord {
    /// The id of a revision's proposal: the same change by the same actor for the same reason is
    /// the same proposal.
    pub fn proposal_id(
        subject: &Subject,
        scope: &str,
        before: &Digest,
        after: &Digest,
        actor: &str,
        reason: &str,
    ) -> Digest {
        let parts: [&[u8]; 7] = [
            subject.kind.name().as_bytes(),
            subject.node.as_bytes(),
            scope.as_bytes(),
            &before.0,
            &after.0,
            actor.as_bytes(),
            reason.as_bytes(),
        ];
        Digest::of_parts("tidegate.proposal.v1", &parts)
    }

    /// The event id of the step's fact; a proposal takes each step at most once.
    pub fn event_id(&self) -> String {
        let parts: [&[u8]; 2] = [&self.proposal_id.0, self.step.name().as_bytes()];
        Digest::of_parts("tidegate.governance.v1", &parts).to_hex()
    }

    /// The payload of the step's fact, as JSON.
    pub fn payload(&self) -> serde_json::Value {
        StepPayload::from(self.clone()).to_json()
    }

    /// The steps in a frame of facts of [`EVENT_TYPE`], each with its tick.
    ///
    /// # Errors
    /// A sentence that says how the frame differs from what the gate writes.
    pub fn read(rows: &RecordBatch) -> Result<Vec<(Tick, StepRecord)>, String> {
        Ok(StepPayload::read(rows)?.into_iter().map(|(tick, payload)| (tick, payload.into())).collect())
    }
}

/// The fields of a step's payload, in the order of the gate policy.
#[derive(TextPayload)]
pub(crate) struct StepPayload {
    kind: RevisionKind,
    node: String,
    scope: String,
    step: RevisionStep,
    proposal_id: Digest,
    actor: String,
    reason: String,
    before: Digest,
    after: Digest,
    revision_id: String,
    revision_version: String,
    text: Option<String>,
}

impl From<StepRecord> for StepPayload {
    fn from(record: StepRecord) -> StepPayload {
        let StepRecord { subject, scope, step, proposal_id, actor, reason, before, after, text } = record;
        StepPayload {
            kind: subject.kind,
            node: subject.node,
            scope,
            step,
            proposal_id,
            actor,
            reason,
            before,
            after: after.digest,
            revision_id: after.id,
            revision_version: after.version,
            text,
        }
    }
}

impl From<StepPayload> for StepRecord {
    fn from(payload: StepPayload) -> StepRecord {
        let StepPayload { kind, node, scope, step, proposal_id, actor, reason, before, text, .. } = payload;
        let after =
            Revision { id: payload.revision_id, version: payload.revision_version, digest: payload.after };
        let subject = Subject { kind, node };
        StepRecord { subject, scope, step, proposal_id, actor, reason, before, after, text }
    }
}

impl TextField for RevisionKind {
    fn to_text(&self) -> Option<String> {
        Some(self.name().to_owned())
    }

    fn parse(text: &str) -> Result<RevisionKind, String> {
        named(&RevisionKind::ALL, RevisionKind::name, text)
    }
}

impl TextField for RevisionStep {
    fn to_text(&self) -> Option<String> {
        Some(self.name().to_owned())
    }

    fn parse(text: &str) -> Result<RevisionStep, String> {
        named(&RevisionStep::ALL, RevisionStep::name, text)
    }
}
