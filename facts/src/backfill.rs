//! Backfills as control facts: what is to be computed again, who declared it and why, and its
//! outcome.
//!
//! One record of the type [`EVENT_TYPE`] in the control topic declares a backfill and fixes its
//! range. A second record, its receipt, completes it. A backfill takes each step at most once.

use std::fmt;

use arrow::array::RecordBatch;
use serde::{Deserialize, Serialize};

use crate::text_payload::{TextField, TextPayload, named};
use crate::{Digest, Tick};

/// The event type of the control facts that declare and complete a backfill.
pub const EVENT_TYPE: &str = "governance.backfill.v1";
/// The producer in the control facts about a backfill.
pub const PRODUCER: &str = "tidegate.backfill";

/// The step of a backfill that a control fact records: declared or completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackfillStep {
    /// The range is fixed, and the backfill may be computed.
    Declared,
    /// All outputs are in the backfill's store.
    Completed,
}

impl BackfillStep {
    /// Both steps of a backfill.
    pub const ALL: [BackfillStep; 2] = [BackfillStep::Declared, BackfillStep::Completed];

    /// The name of the step in a control fact.
    pub fn name(self) -> &'static str {
        match self {
            BackfillStep::Declared => "declared",
            BackfillStep::Completed => "completed",
        }
    }
}

impl fmt::Display for BackfillStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The declaration of a backfill, as a control fact: its range, its plan and its outputs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backfill {
    /// The backfill's name in the data folder.
    pub id: String,
    /// The digest of the declaration file.
    pub declaration: Digest,
    /// What the result is for.
    pub purpose: String,
    /// Who declared it.
    pub actor: String,
    /// The topology that computes it.
    pub topology: String,
    /// The digest of that topology's plan.
    pub plan: Digest,
    /// The version of the program that declared it.
    pub code: String,
    /// The first tick whose rows are written.
    pub from: Tick,
    /// The first tick after the range.
    pub to: Tick,
    /// The partitions whose rows are written; all of them when empty.
    pub partitions: Vec<u16>,
    /// The tables to write, sorted by name.
    pub outputs: Vec<String>,
    /// The commit to which the declaration binds the backfill, if it names one.
    pub basis: Option<Digest>,
}

/// The outcome of a backfill, as the control fact that completes it states it. It depends only on
/// the declaration and the log, not on restarts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completion {
    /// The number of facts read; state may require facts from before the range.
    pub facts: u64,
    /// The number of commits in the backfill's store.
    pub commits: u64,
    /// The digest of the last commit, which covers all earlier ones.
    pub head: Digest,
    /// The tables that were written, by name.
    pub produced: Vec<Produced>,
}

/// One table that a backfill wrote, as the control fact that completes it states it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Produced {
    /// The table's name.
    pub table: String,
    /// The number of files.
    pub files: u64,
    /// The number of rows.
    pub rows: u64,
    /// The digest over the digests of the files, in commit order.
    pub digest: Digest,
}

/// The payload of one control fact about a backfill.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackfillRecord {
    /// The declaration.
    pub backfill: Backfill,
    /// The outcome, in the record that completes the backfill.
    pub completion: Option<Completion>,
}

impl BackfillRecord {
    /// The step that this record states.
    pub fn step(&self) -> BackfillStep {
        if self.completion.is_some() { BackfillStep::Completed } else { BackfillStep::Declared }
    }

    /// The event id of the fact; a backfill takes each step at most once.
    pub fn event_id(&self) -> String {
        let parts: [&[u8]; 3] =
            [EVENT_TYPE.as_bytes(), self.backfill.id.as_bytes(), self.step().name().as_bytes()];
        Digest::of_parts("tidegate.governance.v1", &parts).to_hex()
    }

    /// The payload of the fact, as JSON; ticks and counts are texts of digits.
    pub fn payload(&self) -> serde_json::Value {
        BackfillPayload::from(self.clone()).to_json()
    }

    /// The records in a frame of facts of [`EVENT_TYPE`], each with its tick.
    ///
    /// # Errors
    /// A sentence that says how the frame differs from what the gate writes.
    pub fn read(rows: &RecordBatch) -> Result<Vec<(Tick, BackfillRecord)>, String> {
        let payloads = BackfillPayload::read(rows)?.into_iter();
        payloads.map(|(tick, payload)| Ok((tick, payload.record()?))).collect()
    }
}

/// The fields of a backfill's payload, in the order of the gate policy. The last four are present
/// in the record that completes the backfill.
#[derive(TextPayload)]
pub(crate) struct BackfillPayload {
    backfill_id: String,
    step: BackfillStep,
    declaration: Digest,
    purpose: String,
    actor: String,
    topology: String,
    plan: Digest,
    code: String,
    from_tick: Tick,
    to_tick: Tick,
    partitions: Partitions,
    outputs: TableNames,
    basis: Option<Digest>,
    facts: Option<u64>,
    commits: Option<u64>,
    head: Option<Digest>,
    produced: Option<ProducedTables>,
}

/// The text `all`, or partitions separated by commas.
struct Partitions(Vec<u16>);

/// Table names separated by commas.
struct TableNames(Vec<String>);

/// A JSON list of [`Produced`].
struct ProducedTables(Vec<Produced>);

impl From<BackfillRecord> for BackfillPayload {
    fn from(record: BackfillRecord) -> BackfillPayload {
        let step = record.step();
        let BackfillRecord { backfill, completion } = record;
        let Backfill { id, declaration, purpose, actor, topology, plan, code, .. } = backfill;
        let (facts, commits, head, produced) = match completion {
            Some(done) => {
                (Some(done.facts), Some(done.commits), Some(done.head), Some(ProducedTables(done.produced)))
            }
            None => (None, None, None, None),
        };
        BackfillPayload {
            backfill_id: id,
            step,
            declaration,
            purpose,
            actor,
            topology,
            plan,
            code,
            from_tick: backfill.from,
            to_tick: backfill.to,
            partitions: Partitions(backfill.partitions),
            outputs: TableNames(backfill.outputs),
            basis: backfill.basis,
            facts,
            commits,
            head,
            produced,
        }
    }
}

impl BackfillPayload {
    /// The record of this payload.
    ///
    /// # Errors
    /// A sentence that names the first missing field of a completed backfill.
    fn record(self) -> Result<BackfillRecord, String> {
        let missing = |name: &str| format!("a control fact of a completed backfill has no `{name}`");
        let completion = match self.step {
            BackfillStep::Declared => None,
            BackfillStep::Completed => Some(Completion {
                facts: self.facts.ok_or_else(|| missing("facts"))?,
                commits: self.commits.ok_or_else(|| missing("commits"))?,
                head: self.head.ok_or_else(|| missing("head"))?,
                produced: self.produced.ok_or_else(|| missing("produced"))?.0,
            }),
        };
        let BackfillPayload { declaration, purpose, actor, topology, plan, code, basis, .. } = self;
        let backfill = Backfill {
            id: self.backfill_id,
            declaration,
            purpose,
            actor,
            topology,
            plan,
            code,
            from: self.from_tick,
            to: self.to_tick,
            partitions: self.partitions.0,
            outputs: self.outputs.0,
            basis,
        };
        Ok(BackfillRecord { backfill, completion })
    }
}

impl TextField for BackfillStep {
    fn to_text(&self) -> Option<String> {
        Some(self.name().to_owned())
    }

    fn parse(text: &str) -> Result<BackfillStep, String> {
        named(&BackfillStep::ALL, BackfillStep::name, text)
    }
}

impl TextField for Partitions {
    fn to_text(&self) -> Option<String> {
        if self.0.is_empty() {
            return Some("all".to_owned());
        }
        Some(self.0.iter().map(u16::to_string).collect::<Vec<_>>().join(","))
    }

    fn parse(text: &str) -> Result<Partitions, String> {
        if text == "all" {
            return Ok(Partitions(Vec::new()));
        }
        let partition = |text: &str| text.parse().map_err(|_| "is not a list of partitions".to_owned());
        text.split(',').map(partition).collect::<Result<_, _>>().map(Partitions)
    }
}

impl TextField for TableNames {
    fn to_text(&self) -> Option<String> {
        Some(self.0.join(","))
    }

    fn parse(text: &str) -> Result<TableNames, String> {
        Ok(TableNames(text.split(',').map(str::to_owned).collect()))
    }
}

impl TextField for ProducedTables {
    fn to_text(&self) -> Option<String> {
        Some(serde_json::to_string(&self.0).expect("produced tables have a JSON form"))
    }

    fn parse(text: &str) -> Result<ProducedTables, String> {
        serde_json::from_str(text).map(ProducedTables).map_err(|error| format!("is not such a list: {error}"))
    }
}
