//! Control facts: the records by which governance steps and backfills enter the log.
//!
//! The engine itself submits them, through the gate, under a policy that is built in ([`policy`]).
//! Steps ([`crate::governance`]) and backfills ([`crate::backfill`]) are its two event types.

use crate::backfill::BackfillPayload;
use crate::governance::StepPayload;
use crate::text_payload::policy_lines;
use crate::{Digest, PolicyRev, backfill, governance};

/// The source that the receipts of control facts name; no other source may have this name.
pub const SOURCE: &str = "governance";
/// The version of the payload schemas of control facts.
pub const SCHEMA_VERSION: &str = "v1";

/// The gate policy of control facts, as TOML. It is built in, because whoever could change it could
/// let any revision take effect.
pub fn policy() -> String {
    let event = |event_type: &str, producer: &str, payload: String| {
        format!(
            "[event.\"{event_type}\"]\nclass = \"control\"\nversions = [\"{SCHEMA_VERSION}\"]\n\
             producers = [\"{producer}\"]\n[event.\"{event_type}\".payload]\n{payload}"
        )
    };
    let steps = event(governance::EVENT_TYPE, governance::PRODUCER, policy_lines::<StepPayload>());
    let backfills = event(backfill::EVENT_TYPE, backfill::PRODUCER, policy_lines::<BackfillPayload>());
    format!("id = \"tidegate.governance\"\nrevision = \"2\"\n{steps}{backfills}")
}

/// Whether an event type is one of the engine's control facts, which are no input of the dataflow.
pub fn is_control_fact(event_type: &str) -> bool {
    event_type == governance::EVENT_TYPE || event_type == backfill::EVENT_TYPE
}

/// The revision that receipts of control facts cite: that of [`policy`].
///
/// The digest is a constant, so that readers of receipts need not parse policies.
pub fn policy_rev() -> PolicyRev {
    PolicyRev {
        policy_id: "tidegate.governance".to_owned(),
        revision: "2".to_owned(),
        content_digest: Digest::from_hex("ab85879e2701484260cb2cad7e2077503944d563a5b01aa0c773e06376409ba9")
            .expect("64 hexadecimal digits"),
    }
}
