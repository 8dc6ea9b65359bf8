//! What all kinds of sources share: how rows become events, and how records are opened.

use std::path::Path;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use tidegate_facts::Span;
use tidegate_facts::suggest::did_you_mean;
use tidegate_sources::{Source, SourceError};

use super::plan_context::PlanContext;
use super::settings::{Default, Setting};
use super::{NodeSpec, PlannedNode, ReadContext};
use crate::config::{Section, Spanned};

/// The options with which a source opens its records.
#[derive(Clone, Copy, Debug)]
pub struct OpenOptions {
    /// The records that one batch holds at most.
    pub batch_rows: usize,
    /// The longest record that is read whole, in bytes.
    pub record_bytes_max: usize,
}

/// The connector of a source: where its records are, and how they are read. One for each kind of
/// source.
pub trait Connector: Send + Sync {
    /// The columns of its rows; `None` when its records are envelopes.
    ///
    /// # Errors
    /// When the records cannot be read.
    fn schema(&self, options: OpenOptions) -> Result<Option<SchemaRef>, SourceError>;

    /// Opens the records from a position on, with only the columns in `columns` when those are
    /// given.
    ///
    /// # Errors
    /// When the records cannot be read.
    fn open(
        &self,
        columns: Option<&[String]>,
        from_position: u64,
        options: OpenOptions,
    ) -> Result<Box<dyn Source>, SourceError>;

    /// The file or folder that holds the records, if they are files.
    fn path(&self) -> Option<&Path> {
        None
    }
}

/// A source as a topology writes it.
#[derive(Clone)]
pub struct SourceSpec {
    /// Where its records are; `None` when the plan was read from a data folder, which does not
    /// record that.
    pub connector: Option<Arc<dyn Connector>>,
    /// How rows become events; `None` when the records are envelopes already.
    pub event: Option<EventMapping>,
    /// Event times outside of these two are quarantined.
    pub time_between: Option<(Spanned, Spanned)>,
    /// How far a record's event time may lie behind the greatest one before it, for the gate to
    /// wait for it.
    pub out_of_order_max: Option<Span>,
}

/// How the rows of a source become events, as a topology writes it.
#[derive(Clone, Debug)]
pub struct EventMapping {
    /// The event type.
    pub event_type: Spanned,
    /// SQL of the event id.
    pub id: Spanned,
    /// SQL of the event time.
    pub time: Spanned,
    /// SQL of payload fields; a field that is not named here is the column of its name.
    pub payload: Vec<(Spanned, Spanned)>,
    /// The version of the event type's schema.
    pub schema_version: Option<String>,
    /// The producer that its records name.
    pub producer: Option<String>,
}

/// The settings that every kind of source has.
pub const EVENT_SETTINGS: [Setting; 8] = [
    Setting::answer(
        "event.type",
        "text",
        Default::Required,
        "The event type that the rows become.",
        ["\"card.transaction.v1\"", "\"fraud.label.v1\""],
    ),
    Setting::answer(
        "event.id",
        "SQL, text",
        Default::Required,
        "The event id.",
        ["\"id\"", "\"concat('tx-', id)\""],
    ),
    Setting::answer(
        "event.time",
        "SQL, timestamp",
        Default::Required,
        "The event time.",
        ["\"time\"", "\"time + interval '7 days'\""],
    ),
    Setting::answer(
        "event.payload",
        "table of SQL",
        Default::Absent("each payload field is the column of its name"),
        "Payload fields, and the expressions that compute them.",
        ["{ amount = \"a\" }", "{ amount = \"b\" }"],
    ),
    Setting::answer(
        "event.schema_version",
        "text",
        Default::Absent("the records name no version"),
        "The version of the event type's schema.",
        ["\"1\"", "\"2\""],
    ),
    Setting::answer(
        "event.producer",
        "text",
        Default::Absent("the records name no producer"),
        "The producer that the records name.",
        ["\"a\"", "\"b\""],
    ),
    Setting::answer(
        "time_between",
        "[time, time]",
        Default::Absent("every time that a tick can hold"),
        "The gate quarantines records whose event time lies outside.",
        [
            "[\"2018-04-01T00:00:00.000000Z\", \"2018-05-01T00:00:00.000000Z\"]",
            "[\"2018-04-01T00:00:00.000000Z\", \"2018-06-01T00:00:00.000000Z\"]",
        ],
    ),
    Setting::answer(
        "out_of_order_max",
        "length of time",
        Default::Absent("the source is sorted by event time"),
        "How far a record's event time may lie behind the greatest one before it. With the event clock the gate waits that long.",
        ["\"1m\"", "\"2m\""],
    ),
];

/// The settings of a kind of source: its own, then those that every kind has.
pub const fn with_event_settings<const OWN: usize, const ALL: usize>(own: [Setting; OWN]) -> [Setting; ALL] {
    assert!(OWN + EVENT_SETTINGS.len() == ALL);
    let mut all = [EVENT_SETTINGS[0]; ALL];
    let mut index = 0;
    while index < ALL {
        all[index] = if index < OWN { own[index] } else { EVENT_SETTINGS[index - OWN] };
        index += 1;
    }
    all
}

/// Words in the settings of sources that were renamed, and the words that replaced them.
pub const RENAMED: &[(&str, &str)] = &[("late", "out_of_order_max")];

/// A node that is a source, of whatever kind.
pub struct SourceNode(pub SourceSpec);

impl NodeSpec for SourceNode {
    fn source(&self) -> Option<&SourceSpec> {
        Some(&self.0)
    }

    fn plan(&self, _: &mut PlanContext<'_>) -> Option<Box<dyn PlannedNode>> {
        None // The planner reads sources through the gate.
    }
}

/// Whether the records of a source are rows or envelopes, before its settings say so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Records {
    /// Rows: `event` must say how they become events.
    Rows,
    /// Envelopes: `event` must be absent.
    Envelopes,
    /// The setting that decides it has a fault.
    Unknown,
}

/// Reads the settings that every kind of source has.
pub fn read_source(
    section: &Section<'_>,
    connector: Option<Arc<dyn Connector>>,
    records: Records,
) -> Box<dyn NodeSpec> {
    let event = section.section("event").map(|event| {
        let mapping = EventMapping {
            event_type: event.required_text("type", "the event type that its rows become"),
            id: event.required_text("id", "SQL for the event id"),
            time: event.required_text("time", "SQL for the event time"),
            payload: event.text_table("payload"),
            schema_version: event.text("schema_version").map(|text| text.value),
            producer: event.text("producer").map(|text| text.value),
        };
        event.finish();
        mapping
    });
    if !section.has("event") && records == Records::Rows {
        section.missing(
            "event",
            "a table that says how its rows become events: { type = .., id = .., time = .. }",
        );
    }
    if event.is_some() && records == Records::Envelopes {
        section.missing(
            "columns",
            "the list of keys that its expressions use (lines without `event` are whole envelopes)",
        );
    }
    let time_between = match <[Spanned; 2]>::try_from(section.texts("time_between")) {
        Ok([from, to]) => Some((from, to)),
        Err(other) if other.is_empty() => None,
        Err(other) => {
            section.diagnostics().add(
                other[0].line,
                format!("`time_between` of {} must be two times, [from, to]", section.name()),
            );
            None
        }
    };
    let out_of_order_max = section.span("out_of_order_max");
    Box::new(SourceNode(SourceSpec { connector, event, time_between, out_of_order_max }))
}

/// Reads the `path` of a source, or the path of the node that it shares. `None` when it is missing
/// or wrong.
pub fn read_path(section: &Section<'_>, cx: &ReadContext<'_, '_>) -> Option<std::path::PathBuf> {
    let own = if section.is_table("path") {
        let same = section.section("path").expect("it is a table");
        let other = same.required_text("same_as", "the node whose path it shares");
        same.finish();
        match cx.sections.iter().find(|(name, _)| *name == other.value) {
            _ if other.is_absent() => None,
            Some((_, shared)) if shared.has("path") && !shared.is_table("path") => shared.text("path"),
            _ => {
                no_such_node(section, cx, &other, "has a path to share");
                None
            }
        }
    } else {
        Some(section.required_text("path", "the file or folder it reads"))
    };
    own.filter(|text| !text.is_absent()).map(|text| cx.path_of(&text))
}

/// Adds the fault that a source names a node to share with, and that no node of this name can.
pub fn no_such_node(section: &Section<'_>, cx: &ReadContext<'_, '_>, other: &Spanned, has: &str) {
    let existing: Vec<&str> = cx.sections.iter().map(|(name, _)| name.as_str()).collect();
    let mend = did_you_mean(&other.value, &existing);
    section.diagnostics().add(other.line, format!("no node `{}` {has}; {mend}", other.value));
}
