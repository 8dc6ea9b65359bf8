//! The reference to a gate policy that receipts and decisions cite.

use serde::{Deserialize, Serialize};

use crate::Digest;

/// The revision of the gate policy that was in force: the policy's id, its revision and the digest
/// of its content.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PolicyRev {
    /// The policy's stable name.
    pub policy_id: String,
    /// The revision that its authors gave it.
    pub revision: String,
    /// BLAKE3-256 of the canonical form of the policy.
    pub content_digest: Digest,
}
