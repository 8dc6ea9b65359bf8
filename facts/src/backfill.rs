//! Backfills, as facts: what was declared to be computed anew, by whom and why, and what became of it.
//!
//! A backfill is declared by one record of the type [`EVENT_TYPE`] in the control topic, which fixes its range, and
//! completed by another, its receipt. It has each step at most once.

use std::fmt;

use arrow::array::{Array, RecordBatch};
use serde::{Deserialize, Serialize};

use crate::governance::texts_of;
use crate::{Digest, Tick};

/// The event type of both steps.
pub const EVENT_TYPE: &str = "governance.backfill.v1";
/// The producer of both steps.
pub const PRODUCER: &str = "tidegate.backfill";

/// How far a backfill has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackfillStep {
    /// Its range is fixed, and it may be computed.
    Declared,
    /// Its outputs are there.
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

/// What a backfill was declared to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backfill {
    /// Its name in the data folder.
    pub id: String,
    /// The digest of the declaration, which holds all it asked for.
    pub declaration: Digest,
    /// What for.
    pub purpose: String,
    /// Who declared it.
    pub actor: String,
    /// The topology that computes it.
    pub topology: String,
    /// Its plan.
    pub plan: Digest,
    /// The build of the program.
    pub code: String,
    /// The rows of ticks from here on are written,
    pub from: Tick,
    /// to before here.
    pub to: Tick,
    /// Whose rows are written; of every partition when none is named.
    pub partitions: Vec<u16>,
    /// The tables, sorted.
    pub outputs: Vec<String>,
    /// The commit that it is bound to, when it names one.
    pub basis: Option<Digest>,
}

/// What a completed backfill made. It follows from the declaration and the log, however often it was stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completion {
    /// How many facts were read; the state of its rows may need all facts before them.
    pub facts: u64,
    /// How many commits its store holds.
    pub commits: u64,
    /// The digest of the last of them, which vouches for all.
    pub head: Digest,
    /// The tables, by name.
    pub produced: Vec<Produced>,
}

/// One table of a completed backfill.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Produced {
    /// The table.
    pub table: String,
    /// How many files it has.
    pub files: u64,
    /// How many rows.
    pub rows: u64,
    /// The digest over the digests of its files, in the order of the commits.
    pub digest: Digest,
}

/// One fact about a backfill.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackfillRecord {
    /// The backfill.
    pub backfill: Backfill,
    /// What it made, once it is completed.
    pub completion: Option<Completion>,
}

impl BackfillRecord {
    /// Which of the two steps it is.
    pub fn step(&self) -> BackfillStep {
        if self.completion.is_some() { BackfillStep::Completed } else { BackfillStep::Declared }
    }

    /// The id of the fact: a backfill takes each step at most once.
    pub fn event_id(&self) -> String {
        let parts: [&[u8]; 3] =
            [EVENT_TYPE.as_bytes(), self.backfill.id.as_bytes(), self.step().name().as_bytes()];
        Digest::of_parts("tidegate.governance.v1", &parts).to_hex()
    }

    /// The payload of its fact, as JSON.
    ///
    /// Ticks and counts are texts: a tick may be more than a signed number holds.
    pub fn payload(&self) -> serde_json::Value {
        let Backfill { id, declaration, purpose, actor, topology, plan, code, .. } = &self.backfill;
        let Backfill { from, to, partitions, outputs, basis, .. } = &self.backfill;
        let mut payload = serde_json::json!({
            "backfill_id": id, "step": self.step().name(), "declaration": declaration,
            "purpose": purpose, "actor": actor, "topology": topology, "plan": plan, "code": code,
            "from_tick": from.0.to_string(), "to_tick": to.0.to_string(),
            "partitions": named(partitions), "outputs": outputs.join(","),
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
    /// A sentence that says what is not as the gate writes it.
    pub fn read(rows: &RecordBatch) -> Result<Vec<(Tick, BackfillRecord)>, String> {
        let names = [
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
        let (ticks, columns) = texts_of(rows, &names)?;
        let record = |row: usize| -> Result<BackfillRecord, String> {
            let given = |name: &str| {
                let place = names.iter().position(|known| *known == name).expect("it is one of the names");
                columns[place].is_valid(row).then(|| columns[place].value(row))
            };
            let text = |name: &str| given(name).ok_or_else(|| format!("a backfill has no `{name}`"));
            let digest = |name: &str| {
                let text = text(name)?;
                Digest::from_hex(text).ok_or_else(|| format!("`{text}` is no digest"))
            };
            let number = |name: &str| {
                let text = text(name)?;
                text.parse::<u64>().map_err(|_| format!("`{text}` is no number"))
            };
            let partitions = match text("partitions")? {
                "all" => Vec::new(),
                some => some
                    .split(',')
                    .map(|text| text.parse().map_err(|_| format!("`{text}` is no partition")))
                    .collect::<Result<_, _>>()?,
            };
            let backfill = Backfill {
                id: text("backfill_id")?.to_owned(),
                declaration: digest("declaration")?,
                purpose: text("purpose")?.to_owned(),
                actor: text("actor")?.to_owned(),
                topology: text("topology")?.to_owned(),
                plan: digest("plan")?,
                code: text("code")?.to_owned(),
                from: Tick(number("from_tick")?),
                to: Tick(number("to_tick")?),
                partitions,
                outputs: text("outputs")?.split(',').map(str::to_owned).collect(),
                basis: given("basis").map(|_| digest("basis")).transpose()?,
            };
            let completion =
                match BackfillStep::ALL.into_iter().find(|step| Some(step.name()) == given("step")) {
                    None => return Err("a backfill's step is none that is known".to_owned()),
                    Some(BackfillStep::Declared) => None,
                    Some(BackfillStep::Completed) => Some(Completion {
                        facts: number("facts")?,
                        commits: number("commits")?,
                        head: digest("head")?,
                        produced: serde_json::from_str(text("produced")?)
                            .map_err(|error| error.to_string())?,
                    }),
                };
            Ok(BackfillRecord { backfill, completion })
        };
        ticks.iter().enumerate().map(|(row, tick)| Ok((Tick(*tick), record(row)?))).collect()
    }
}

/// Partitions as a record names them.
fn named(partitions: &[u16]) -> String {
    if partitions.is_empty() {
        return "all".to_owned();
    }
    partitions.iter().map(u16::to_string).collect::<Vec<_>>().join(",")
}
