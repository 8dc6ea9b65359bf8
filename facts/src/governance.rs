//! Governed change: the steps by which a bundle or a gate policy comes into force, as facts.
//!
//! A revision is proposed, approved and activated, and can be rolled back or withdrawn. Each step is one
//! record of the type [`EVENT_TYPE`] in the control topic, and a proposal holds the whole text of its
//! revision, so the log alone says what was in force when. Which step may follow which is decided by
//! the lifecycle of revisions, in the operators. Backfills ([`crate::backfill`]) come through the same door.

use std::fmt;

use arrow::array::{Array, AsArray, RecordBatch, StringArray};
use arrow::datatypes::UInt64Type;
use serde::Serialize;

use crate::{Digest, PolicyRev, Tick, backfill, columns};

/// The event type of every step.
pub const EVENT_TYPE: &str = "governance.policy.v1";
/// The name under which receipts cite the door that steps come through; no source may have it.
pub const SOURCE: &str = "governance";
/// The producer of every step.
pub const PRODUCER: &str = "tidegate.policy";
/// The version of the schema of steps.
pub const SCHEMA_VERSION: &str = "v1";
/// The gate policy of steps and backfills. It is built in: who could change it could let anything pass.
pub const DOOR: &str = r#"
id = "tidegate.governance"
revision = "2"

[event."governance.policy.v1"]
class = "control"
versions = ["v1"]
producers = ["tidegate.policy"]
[event."governance.policy.v1".payload]
kind = "text"
node = "text"
scope = "text"
step = "text"
proposal_id = "text"
actor = "text"
reason = "text"
before = "text"
after = "text"
revision_id = "text"
revision_version = "text"
text = "text?"

[event."governance.backfill.v1"]
class = "control"
versions = ["v1"]
producers = ["tidegate.backfill"]
[event."governance.backfill.v1".payload]
backfill_id = "text"
step = "text"
declaration = "text"
purpose = "text"
actor = "text"
topology = "text"
plan = "text"
code = "text"
from_tick = "text"
to_tick = "text"
partitions = "text"
outputs = "text"
basis = "text?"
facts = "text?"
commits = "text?"
head = "text?"
produced = "text?"
"#;

/// Whether facts of this type are the gate's own: they say how the graph is governed, and are no input of it.
pub fn is_own(event_type: &str) -> bool {
    event_type == EVENT_TYPE || event_type == backfill::EVENT_TYPE
}

/// How receipts cite [`DOOR`]. Its digest is written down, so that who reads receipts need not parse policies.
pub fn door() -> PolicyRev {
    PolicyRev {
        policy_id: "tidegate.governance".to_owned(),
        revision: "2".to_owned(),
        content_digest: Digest::from_hex("ab85879e2701484260cb2cad7e2077503944d563a5b01aa0c773e06376409ba9")
            .expect("64 hexadecimal digits"),
    }
}

/// What kind of thing is revised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The rules of a `decide` node.
    Bundle,
    /// The policy of the gate.
    GatePolicy,
}

/// What was done about a revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Someone wants it in force.
    Proposed,
    /// Someone else agreed.
    Approved,
    /// It is in force from the tick of this fact on.
    Activated,
    /// From the tick of this fact on the revision before it is in force again.
    RolledBack,
    /// It will not come into force.
    Withdrawn,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 2] = [Kind::Bundle, Kind::GatePolicy];

    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Bundle => "bundle",
            Kind::GatePolicy => "gate_policy",
        }
    }
}

impl Step {
    /// Every step.
    pub const ALL: [Step; 5] =
        [Step::Proposed, Step::Approved, Step::Activated, Step::RolledBack, Step::Withdrawn];

    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Step::Proposed => "proposed",
            Step::Approved => "approved",
            Step::Activated => "activated",
            Step::RolledBack => "rolled_back",
            Step::Withdrawn => "withdrawn",
        }
    }

    /// The name that the reference platform has for this step, where it has one.
    pub fn family(self, kind: Kind) -> Option<&'static str> {
        match (kind, self) {
            (Kind::Bundle, Step::Proposed) => Some("BUNDLE_PUBLISHED"),
            (Kind::Bundle, Step::Approved) => Some("BUNDLE_APPROVED"),
            (Kind::Bundle, Step::Activated) => Some("BUNDLE_PROMOTED_ACTIVE"),
            (Kind::Bundle, Step::RolledBack) => Some("BUNDLE_ROLLED_BACK"),
            (Kind::Bundle, Step::Withdrawn) => Some("BUNDLE_RETIRED"),
            (Kind::GatePolicy, Step::Activated | Step::RolledBack) => Some("POLICY_REV_CHANGED"),
            (Kind::GatePolicy, _) => None,
        }
    }

    /// Whether another revision is in force from the step's tick on.
    pub fn takes_effect(self) -> bool {
        matches!(self, Step::Activated | Step::RolledBack)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Step {
    /// For people; on the wire a step is its [`Step::name`].
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Step::RolledBack { "rolled back" } else { self.name() })
    }
}

/// What is revised: the bundle or the policy of one node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subject {
    /// Which of the two.
    pub kind: Kind,
    /// The node that uses it.
    pub node: String,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Bundle => write!(f, "the bundle of `{}`", self.node),
            Kind::GatePolicy => write!(f, "the policy of `{}`", self.node),
        }
    }
}

/// A bundle or a policy by name and content.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision {
    /// Its stable name.
    pub id: String,
    /// The version that its authors gave it.
    pub version: String,
    /// The digest of what it says.
    pub digest: Digest,
}

impl fmt::Display for Revision {
    /// Name, version and the first digits of the digest.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ({})", self.id, self.version, short(&self.digest))
    }
}

/// The first digits of a digest, enough for people to tell a few apart.
pub fn short(digest: &Digest) -> String {
    digest.to_hex()[..12].to_owned()
}

/// One step, as its payload says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepRecord {
    /// What is revised.
    pub subject: Subject,
    /// The topology in which it is.
    pub scope: String,
    /// What was done.
    pub step: Step,
    /// The proposal it was done about.
    pub proposal_id: Digest,
    /// Who did it.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// What is, or was, in force before the revision takes effect; of a roll-back, what it ends.
    pub before: Digest,
    /// The revision; of a roll-back, the one that is in force again.
    pub after: Revision,
    /// Of a proposal, the whole text of the revision.
    pub text: Option<String>,
}

impl StepRecord {
    /// The id of a proposal: the same wish by the same actor for the same reason is the same proposal.
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

    /// The id of the step's fact: a proposal takes each step at most once.
    pub fn event_id(&self) -> String {
        let parts: [&[u8]; 2] = [&self.proposal_id.0, self.step.name().as_bytes()];
        Digest::of_parts("tidegate.governance.v1", &parts).to_hex()
    }

    /// The payload of its fact, as JSON.
    pub fn payload(&self) -> serde_json::Value {
        let mut payload = serde_json::json!({
            "kind": self.subject.kind, "node": self.subject.node, "scope": self.scope, "step": self.step,
            "proposal_id": self.proposal_id, "actor": self.actor, "reason": self.reason,
            "before": self.before, "after": self.after.digest,
            "revision_id": self.after.id, "revision_version": self.after.version,
        });
        if let Some(text) = &self.text {
            payload["text"] = serde_json::Value::String(text.clone());
        }
        payload
    }

    /// The steps in a frame of facts of [`EVENT_TYPE`], each with its tick.
    ///
    /// # Errors
    /// A sentence that says what is not as the gate writes it.
    pub fn read(rows: &RecordBatch) -> Result<Vec<(Tick, StepRecord)>, String> {
        let names = ["kind", "node", "scope", "step", "proposal_id", "actor", "reason", "before", "after"];
        let more = ["revision_id", "revision_version", "text"];
        let names: Vec<&str> = names.into_iter().chain(more).collect();
        let (ticks, columns) = texts_of(rows, &names)?;
        let step = |row: usize| -> Result<StepRecord, String> {
            let text = |place: usize| columns[place].value(row).to_owned();
            let digest = |place: usize| {
                let text = columns[place].value(row);
                Digest::from_hex(text).ok_or_else(|| format!("`{text}` is no digest"))
            };
            let (kind, step) = (text(0), text(3));
            let kind = Kind::ALL.into_iter().find(|known| known.name() == kind);
            let step = Step::ALL.into_iter().find(|known| known.name() == step);
            Ok(StepRecord {
                subject: Subject { kind: kind.ok_or("a step is of no known kind")?, node: text(1) },
                scope: text(2),
                step: step.ok_or("a step is none that is known")?,
                proposal_id: digest(4)?,
                actor: text(5),
                reason: text(6),
                before: digest(7)?,
                after: Revision { id: text(9), version: text(10), digest: digest(8)? },
                text: columns[11].is_valid(row).then(|| text(11)),
            })
        };
        ticks.iter().enumerate().map(|(row, tick)| Ok((Tick(*tick), step(row)?))).collect()
    }
}

/// The ticks of a frame of the gate's own facts, and columns of its payload.
pub(crate) fn texts_of<'r>(
    rows: &'r RecordBatch,
    names: &[&str],
) -> Result<(&'r [u64], Vec<&'r StringArray>), String> {
    let ticks = rows.column_by_name(columns::TICK).ok_or("a step has no tick")?;
    let ticks = ticks.as_primitive_opt::<UInt64Type>().ok_or("a step has no tick")?;
    let payload = rows.column_by_name(columns::PAYLOAD).and_then(|payload| payload.as_struct_opt());
    let payload = payload.ok_or("a step has no payload")?;
    let column = |name: &&str| -> Result<&'r StringArray, String> {
        let texts = payload.column_by_name(name).and_then(|column| column.as_string_opt::<i32>());
        texts.ok_or_else(|| format!("a step has no `{name}`"))
    };
    Ok((ticks.values(), names.iter().map(column).collect::<Result<_, _>>()?))
}
