//! Backfills as control facts: what is to be computed again, who declared it and why, and its
//! outcome.
//!
//! One record of the type [`EVENT_TYPE`] in the control topic declares a backfill and fixes its
//! range. A second record, its receipt, completes it. A backfill takes each step at most once.

use std::fmt;

use arrow::array::RecordBatch;
use serde::{Deserialize, Serialize};

use crate::control_fact::{self, ControlRow, ControlRows};
use crate::{Digest, Tick};

/// The event type of both steps of a backfill.
pub const EVENT_TYPE: &str = control_fact::BACKFILL;
/// The producer of both steps of a backfill.
pub const PRODUCER: &str = "tidegate.backfill";

/// The step of a backfill that a record states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackfillStep {
    /// The range is fixed, and the backfill may be computed.
    Declared,
    /// All outputs are in the backfill's store.
    Completed,
}

impl BackfillStep {
    /// Every step.
    pub const ALL: [BackfillStep; 2] = [BackfillStep::Declared, BackfillStep::Completed];

    /// The name on the wire.
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

/// The declaration of a backfill: its range, its plan and its outputs.
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

/// The outcome of a completed backfill. It depends only on the declaration and the log, not on
/// restarts.
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

/// One table of a completed backfill.
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
        let Backfill { id, declaration, purpose, actor, topology, plan, code, .. } = &self.backfill;
        let Backfill { from, to, partitions, outputs, basis, .. } = &self.backfill;
        let mut payload = serde_json::json!({
            "backfill_id": id, "step": self.step().name(), "declaration": declaration,
            "purpose": purpose, "actor": actor, "topology": topology, "plan": plan, "code": code,
            "from_tick": from.0.to_string(), "to_tick": to.0.to_string(),
            "partitions": partitions_text(partitions), "outputs": outputs.join(","),
        });
        if let Some(basis) = basis {
            payload["basis"] = serde_json::json!(basis);
        }
        if let Some(Completion { facts, commits, head, produced }) = &self.completion {
            payload["facts"] = facts.to_string().into();
            payload["commits"] = commits.to_string().into();
            payload["head"] = serde_json::json!(head);
            payload["produced"] =
                serde_json::to_string(produced).expect("a table's receipt has a JSON form").into();
        }
        payload
    }

    /// The records in a frame of facts of [`EVENT_TYPE`], each with its tick.
    ///
    /// # Errors
    /// A sentence that says how the frame differs from what the gate writes.
    pub fn read(rows: &RecordBatch) -> Result<Vec<(Tick, BackfillRecord)>, String> {
        let fields = [
            "backfill_id",
            "step",
            "declaration",
            "purpose",
            "actor",
            "topology",
            "plan",
            "code",
            "from_tick",
            "to_tick",
            "partitions",
            "outputs",
            "basis",
            "facts",
            "commits",
            "head",
            "produced",
        ];
        ControlRows::bind(rows, &fields)?.read(BackfillRecord::read_row)
    }

    fn read_row(row: ControlRow<'_>) -> Result<BackfillRecord, String> {
        let text = |name| row.text(name).map(str::to_owned);
        let backfill = Backfill {
            id: text("backfill_id")?,
            declaration: row.digest("declaration")?,
            purpose: text("purpose")?,
            actor: text("actor")?,
            topology: text("topology")?,
            plan: row.digest("plan")?,
            code: text("code")?,
            from: row.tick("from_tick")?,
            to: row.tick("to_tick")?,
            partitions: partitions_of(row.text("partitions")?)?,
            outputs: row.text("outputs")?.split(',').map(str::to_owned).collect(),
            basis: row.optional("basis").map(|_| row.digest("basis")).transpose()?,
        };
        let completion = match row.one_of("step", &BackfillStep::ALL, BackfillStep::name)? {
            BackfillStep::Declared => None,
            BackfillStep::Completed => Some(Completion {
                facts: row.number("facts")?,
                commits: row.number("commits")?,
                head: row.digest("head")?,
                produced: serde_json::from_str(row.text("produced")?).map_err(|error| error.to_string())?,
            }),
        };
        Ok(BackfillRecord { backfill, completion })
    }
}

/// The text of a list of partitions: `all`, or numbers separated by commas.
fn partitions_text(partitions: &[u16]) -> String {
    if partitions.is_empty() {
        return "all".to_owned();
    }
    partitions.iter().map(u16::to_string).collect::<Vec<_>>().join(",")
}

/// The inverse of [`partitions_text`].
fn partitions_of(text: &str) -> Result<Vec<u16>, String> {
    if text == "all" {
        return Ok(Vec::new());
    }
    let partition = |text: &str| text.parse().map_err(|_| format!("`{text}` is not a partition"));
    text.split(',').map(partition).collect()
}
