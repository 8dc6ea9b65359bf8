//! Where a fact stands in the log.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The topics of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Topic {
    /// Facts about the world: transactions, labels, evidence.
    Traffic,
    /// Facts about the platform: policies, bundles, runs, source progress.
    Control,
    /// What the gate said of every record: receipts, and the bytes of the quarantined.
    Audit,
}

impl Topic {
    /// Every topic, in the order of its number on disk.
    pub const ALL: [Topic; 3] = [Topic::Traffic, Topic::Control, Topic::Audit];

    /// The name used in files, receipts and tables.
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

/// The place of one record: offsets count from 0 within a partition of a topic, without gaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position {
    /// The topic.
    pub topic: Topic,
    /// The partition, as in the record's tick.
    pub partition: u16,
    /// The number of records before it in that partition.
    pub offset: u64,
}
