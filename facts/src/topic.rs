//! The topics of a log.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The topic of a fact or an audit record in the log: traffic, control or audit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Topic {
    /// Facts about the world: transactions, labels, evidence.
    Traffic,
    /// Facts about the platform: policies, bundles, backfills.
    Control,
    /// Receipts, with the bytes of quarantined records, and the records of runs and source
    /// progress.
    Audit,
}

impl Topic {
    /// Every topic, in the order of its number on disk.
    pub const ALL: [Topic; 3] = [Topic::Traffic, Topic::Control, Topic::Audit];

    /// The name in files, receipts and tables.
    pub fn name(self) -> &'static str {
        match self {
            Topic::Traffic => "traffic",
            Topic::Control => "control",
            Topic::Audit => "audit",
        }
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
