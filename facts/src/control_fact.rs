//! Control facts: the records by which governance steps and backfills enter the log.
//!
//! The engine itself submits them, through the gate, under a policy that is built in ([`POLICY`]).
//! Steps ([`crate::governance`]) and backfills ([`crate::backfill`]) are its two event types. Their
//! payloads consist of texts alone, which [`ControlRows`] reads.

use arrow::array::{Array, AsArray, RecordBatch, StringArray};

use crate::{Digest, PolicyRev, Tick, columns};

/// The event type of governance steps.
pub const STEP: &str = "governance.policy.v1";
/// The event type of backfills.
pub const BACKFILL: &str = "governance.backfill.v1";
/// The source that the receipts of control facts name; no other source may have this name.
pub const SOURCE: &str = "governance";
/// The version of the payload schemas of control facts.
pub const SCHEMA_VERSION: &str = "v1";

/// The gate policy of control facts, as TOML. It is built in, because whoever could change it could
/// let any revision take effect.
pub const POLICY: &str = r#"
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

/// Whether an event type is one of the engine's control facts, which are no input of the dataflow.
pub fn is_control_fact(event_type: &str) -> bool {
    event_type == STEP || event_type == BACKFILL
}

/// The revision that receipts of control facts cite: that of [`POLICY`].
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

/// The ticks and payload texts of a frame of control facts.
pub(crate) struct ControlRows<'r> {
    ticks: &'r columns::TickArray,
    fields: Vec<(&'static str, &'r StringArray)>,
}

impl<'r> ControlRows<'r> {
    /// Binds the payload fields `names` of a frame.
    ///
    /// # Errors
    /// A sentence that names the first missing column.
    pub(crate) fn bind(rows: &'r RecordBatch, names: &[&'static str]) -> Result<ControlRows<'r>, String> {
        let ticks = columns::find_ticks(rows).ok_or("a control fact has no tick")?;
        let payload = rows.column_by_name(columns::PAYLOAD).and_then(|payload| payload.as_struct_opt());
        let payload = payload.ok_or("a control fact has no payload")?;
        let field = |name: &&'static str| {
            let texts = payload.column_by_name(name).and_then(|column| column.as_string_opt::<i32>());
            texts.map(|texts| (*name, texts)).ok_or_else(|| format!("a control fact has no field `{name}`"))
        };
        Ok(ControlRows { ticks, fields: names.iter().map(field).collect::<Result<_, _>>()? })
    }

    /// Reads each row with `read`; gives what it returns with the row's tick.
    ///
    /// # Errors
    /// The first error of `read`.
    pub(crate) fn read<T>(
        &self,
        read: impl Fn(ControlRow<'_>) -> Result<T, String>,
    ) -> Result<Vec<(Tick, T)>, String> {
        let ticks = self.ticks.values().iter().enumerate();
        ticks.map(|(row, tick)| Ok((Tick(*tick), read(ControlRow { rows: self, row })?))).collect()
    }
}

/// One row of [`ControlRows`].
#[derive(Clone, Copy)]
pub(crate) struct ControlRow<'r> {
    rows: &'r ControlRows<'r>,
    row: usize,
}

impl<'r> ControlRow<'r> {
    /// The text of a field that may be null.
    pub(crate) fn optional(self, name: &str) -> Option<&'r str> {
        let (_, texts) =
            self.rows.fields.iter().find(|(bound, _)| *bound == name).expect("the field is bound");
        texts.is_valid(self.row).then(|| texts.value(self.row))
    }

    /// The text of a field that must not be null.
    pub(crate) fn text(self, name: &str) -> Result<&'r str, String> {
        self.optional(name).ok_or_else(|| format!("a control fact has no `{name}`"))
    }

    /// The digest whose hexadecimal digits a field holds.
    pub(crate) fn digest(self, name: &str) -> Result<Digest, String> {
        let text = self.text(name)?;
        Digest::from_hex(text).ok_or_else(|| format!("`{text}` is not a digest"))
    }

    /// The number whose decimal digits a field holds.
    pub(crate) fn number(self, name: &str) -> Result<u64, String> {
        let text = self.text(name)?;
        text.parse().map_err(|_| format!("`{text}` is not a number"))
    }

    /// The tick whose decimal digits a field holds.
    pub(crate) fn tick(self, name: &str) -> Result<Tick, String> {
        let number = i64::try_from(self.number(name)?).map_err(|_| format!("`{name}` is not a tick"))?;
        Ok(Tick(number))
    }

    /// The item of `all` whose name a field holds.
    pub(crate) fn one_of<T: Copy>(
        self,
        name: &str,
        all: &[T],
        name_of: fn(T) -> &'static str,
    ) -> Result<T, String> {
        let text = self.text(name)?;
        let found = all.iter().copied().find(|item| name_of(*item) == text);
        found.ok_or_else(|| format!("`{text}` is an unknown `{name}`"))
    }
}
