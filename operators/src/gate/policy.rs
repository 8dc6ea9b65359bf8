//! The gate policy: which event types the gate admits, and the checks of each type's records.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::sync::Arc;

use tidegate_facts::strict_json::canonical;
use tidegate_facts::{Digest, EventClass, Field, FieldType, PayloadSchema, PolicyRev};
use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use crate::decision::decide::line_of;

/// A valid gate policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatePolicy {
    /// The policy's stable name.
    pub id: String,
    /// The revision, as its authors named it.
    pub revision: String,
    /// The greatest size of a record, in bytes; larger ones are rejected unread.
    pub record_bytes_max: usize,
    events: BTreeMap<Arc<str>, EventPolicy>,
}

/// The policy of one event type: its class, and what its records must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventPolicy {
    /// The name of the event type.
    pub event_type: Arc<str>,
    /// The class; determines the topic and the required pins.
    pub class: EventClass,
    /// The allowed schema versions; for `None`, any version and a record without one.
    pub versions: Option<BTreeSet<String>>,
    /// The allowed producers; for `None`, any producer and a record without one.
    pub producers: Option<BTreeSet<String>>,
    /// The sources of the partition key; the first one with a value determines the partition.
    pub partition_key: Vec<KeySource>,
    /// The payload schema; for `None`, any JSON object is valid and is stored as text.
    pub payload: Option<PayloadSchema>,
}

/// A source of a partition key, as a gate policy declares it for an event type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// The envelope's event id.
    EventId,
    /// The payload field with this index in the schema.
    Field(usize),
    /// The payload field with this name, for a payload without a schema.
    Key(String),
}

/// One error of a gate policy file. A file with an error has no effect.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct PolicyError {
    /// The line, counted from 1.
    pub line: u32,
    /// What is wrong, and how to correct it.
    pub message: String,
}

const RECORD_BYTES_DEFAULT: usize = 1 << 20;
/// The offsets of text columns have 31 bits, and a batch has many records.
const RECORD_BYTES_LIMIT: usize = 1 << 26;

impl GatePolicy {
    /// Parses a gate policy file.
    ///
    /// # Errors
    /// Every error of the file, in the order of its lines.
    pub fn parse(text: &str) -> Result<GatePolicy, Vec<PolicyError>> {
        let mut parser = PolicyParser { text, errors: Vec::new() };
        let policy = parser.policy();
        parser.errors.sort_by_key(|error| error.line);
        match policy {
            Some(policy) if parser.errors.is_empty() => Ok(policy),
            _ => Err(parser.errors),
        }
    }

    /// The policy of an event type; `None` when the gate does not admit the type.
    pub fn event(&self, event_type: &str) -> Option<&EventPolicy> {
        self.events.get(event_type)
    }

    /// The policies of all event types, in the order of the types' names.
    pub fn events(&self) -> impl Iterator<Item = &EventPolicy> {
        self.events.values()
    }

    /// The policy's id, revision and digest, as receipts contain them. Layout, comments and
    /// explicit defaults do not change the digest.
    pub fn rev(&self) -> PolicyRev {
        let events: BTreeMap<&str, serde_json::Value> = self
            .events()
            .map(|event| {
                let key: Vec<&str> =
                    event.partition_key.iter().map(|source| event.key_name(source)).collect();
                let payload = event.payload.as_ref().map(|schema| {
                    let mark = |field: &Field| if field.required { "" } else { "?" };
                    let written =
                        |field: &Field| (field.name.clone(), format!("{}{}", field.field_type, mark(field)));
                    schema.fields.iter().map(written).collect::<Vec<_>>()
                });
                let content = serde_json::json!({
                    "class": event.class.name(), "versions": event.versions, "producers": event.producers,
                    "partition_key": key, "payload": payload,
                });
                (event.event_type.as_ref(), content)
            })
            .collect();
        let content = serde_json::json!({
            "recipe": "tidegate.gate_policy.v1", "id": self.id, "revision": self.revision,
            "record_bytes_max": self.record_bytes_max, "event": events,
        });
        let text = canonical(&content.to_string()).expect("serde_json writes valid JSON");
        PolicyRev {
            policy_id: self.id.clone(),
            revision: self.revision.clone(),
            content_digest: Digest::of(text.as_bytes()),
        }
    }
}

impl EventPolicy {
    /// The name of a key source in the policy file.
    pub fn key_name<'a>(&'a self, source: &'a KeySource) -> &'a str {
        match source {
            KeySource::EventId => "event_id",
            KeySource::Field(index) => {
                &self.payload.as_ref().expect("only a payload with a schema has indexes").fields[*index].name
            }
            KeySource::Key(name) => name,
        }
    }
}

/// Parses a policy file; continues after an error, so that all errors are reported at once.
struct PolicyParser<'a> {
    text: &'a str,
    errors: Vec<PolicyError>,
}

/// A key of a table, with its span for error messages.
type Key<'a> = Spanned<DeString<'a>>;
type Value<'a> = Spanned<DeValue<'a>>;

impl PolicyParser<'_> {
    fn error(&mut self, at: usize, message: impl Display) {
        self.errors.push(PolicyError { line: line_of(self.text, at), message: message.to_string() });
    }

    fn policy(&mut self) -> Option<GatePolicy> {
        let (table, errors) = DeTable::parse_recoverable(self.text);
        for error in errors {
            self.error(error.span().map_or(0, |span| span.start), format!("not TOML: {}", error.message()));
        }
        if !self.errors.is_empty() {
            return None; // The recovered table may lack a part of the file.
        }
        let (mut id, mut revision, mut record_bytes_max) = (None, None, Some(RECORD_BYTES_DEFAULT));
        let mut events = None;
        for (key, value) in table.get_ref() {
            match key.get_ref().as_ref() {
                "id" => id = Some(self.name(key, value)),
                "revision" => revision = Some(self.name(key, value)),
                "record_bytes_max" => record_bytes_max = self.record_bytes_max(value),
                "event" => events = Some(self.events(value)),
                other => self.error(
                    key.span().start,
                    unknown("key", other, &["id", "revision", "record_bytes_max", "event"]),
                ),
            }
        }
        for (is_given, message) in [
            (id.is_some(), "`id` is missing; add a stable name such as id = \"gate.cards\""),
            (revision.is_some(), "`revision` is missing; add one such as revision = \"1\""),
            (
                events.is_some(),
                "no event type is declared; add a table such as [event.\"card.transaction.v1\"]",
            ),
        ] {
            if !is_given {
                self.error(0, message);
            }
        }
        Some(GatePolicy {
            id: id??,
            revision: revision??,
            record_bytes_max: record_bytes_max?,
            events: events??,
        })
    }

    fn record_bytes_max(&mut self, value: &Value) -> Option<usize> {
        let bytes = value
            .get_ref()
            .as_integer()
            .and_then(|number| usize::from_str_radix(number.as_str(), number.radix()).ok())
            .filter(|bytes| (1..=RECORD_BYTES_LIMIT).contains(bytes));
        if bytes.is_none() {
            self.error(
                value.span().start,
                format!("`record_bytes_max` must be a number of bytes; write an integer from 1 to {RECORD_BYTES_LIMIT}"),
            );
        }
        bytes
    }

    fn events(&mut self, value: &Value) -> Option<BTreeMap<Arc<str>, EventPolicy>> {
        let table = self.table("event", value)?;
        if table.is_empty() {
            self.error(
                value.span().start,
                "no event type is declared; add a table such as [event.\"card.transaction.v1\"]",
            );
        }
        let events: Vec<Option<EventPolicy>> =
            in_file_order(table).into_iter().map(|(key, value)| self.event(key, value)).collect();
        events.into_iter().map(|event| event.map(|e| (Arc::clone(&e.event_type), e))).collect()
    }

    fn event(&mut self, name: &Key, value: &Value) -> Option<EventPolicy> {
        let event_type: Arc<str> = Arc::from(name.get_ref().as_ref());
        if !(1..=256).contains(&event_type.chars().count()) {
            self.error(
                name.span().start,
                "the name of an event type must have 1 to 256 characters; choose such a name",
            );
        }
        let table = self.table(&format!("event.{event_type:?}"), value)?;
        let (mut class, mut versions, mut producers) = (None, Some(None), Some(None));
        let (mut key_names, mut payload) = (None, Some(None));
        for (key, value) in in_file_order(table) {
            match key.get_ref().as_ref() {
                "class" => class = Some(self.class(value)),
                "versions" => versions = self.texts(key, value).map(|v| Some(set_of(v))),
                "producers" => producers = self.texts(key, value).map(|v| Some(set_of(v))),
                "partition_key" => key_names = Some(self.texts(key, value)),
                "payload" => payload = self.payload(&event_type, value).map(Some),
                other => self.error(
                    key.span().start,
                    unknown("key", other, &["class", "versions", "producers", "partition_key", "payload"]),
                ),
            }
        }
        if class.is_none() {
            self.error(
                name.span().start,
                format!(
                    "event type `{event_type}` has no class; add class = \"traffic\", or another of {}",
                    classes()
                ),
            );
        }
        let payload = payload?;
        let partition_key = match key_names {
            None => vec![KeySource::EventId],
            Some(names) => self.partition_key(names?, payload.as_ref())?,
        };
        Some(EventPolicy {
            event_type,
            class: class??,
            versions: versions?,
            producers: producers?,
            partition_key,
            payload,
        })
    }

    fn class(&mut self, value: &Value) -> Option<EventClass> {
        let class = value.get_ref().as_str().and_then(EventClass::parse);
        if class.is_none() {
            self.error(
                value.span().start,
                format!("`class` is not the name of a class; use one of {}", classes()),
            );
        }
        class
    }

    fn partition_key(
        &mut self,
        names: Vec<(usize, String)>,
        payload: Option<&PayloadSchema>,
    ) -> Option<Vec<KeySource>> {
        let mut sources = Vec::with_capacity(names.len());
        for (at, name) in names {
            sources.push(match payload {
                _ if name == "event_id" => Some(KeySource::EventId),
                None => Some(KeySource::Key(name)),
                Some(schema) => match schema.index_of(&name) {
                    Some(index) => Some(KeySource::Field(index)),
                    None => {
                        let existing = schema.fields.iter().map(|f| f.name.as_str());
                        let existing: Vec<&str> = existing.chain(["event_id"]).collect();
                        self.error(at, unknown("partition key", &name, &existing));
                        None
                    }
                },
            });
        }
        sources.into_iter().collect()
    }

    fn payload(&mut self, event_type: &str, value: &Value) -> Option<PayloadSchema> {
        let table = self.table(&format!("event.{event_type:?}.payload"), value)?;
        let mut fields = Vec::with_capacity(table.len());
        for (key, value) in in_file_order(table) {
            let name = key.get_ref().as_ref();
            let Some(text) = value.get_ref().as_str() else {
                self.error(
                    value.span().start,
                    format!("the type of `{name}` must be a text; write it as {name} = \"int32\""),
                );
                continue;
            };
            let (type_name, required) = match text.strip_suffix('?') {
                Some(type_name) => (type_name, false),
                None => (text, true),
            };
            match FieldType::parse(type_name) {
                Ok(field_type) => fields.push(Some(Field { name: name.to_owned(), field_type, required })),
                Err(what) => {
                    self.error(value.span().start, format!("`{name}`: {what}"));
                    fields.push(None);
                }
            }
        }
        let fields: Vec<Field> = fields.into_iter().collect::<Option<_>>()?;
        (fields.len() == table.len()).then_some(PayloadSchema { fields })
    }

    fn table<'v, 't>(&mut self, name: &str, value: &'v Value<'t>) -> Option<&'v DeTable<'t>> {
        let table = value.get_ref().as_table();
        if table.is_none() {
            self.error(
                value.span().start,
                format!("`{name}` must be a table; write it as [{name}] with its keys below"),
            );
        }
        table
    }

    fn name(&mut self, key: &Key, value: &Value) -> Option<String> {
        let name = value.get_ref().as_str().filter(|name| !name.is_empty());
        if name.is_none() {
            self.error(
                value.span().start,
                format!("`{}` must be a text that is not empty; write it in quotes", key.get_ref()),
            );
        }
        name.map(str::to_owned)
    }

    /// The texts of a list that is not empty, each with its position in the file.
    fn texts(&mut self, key: &Key, value: &Value) -> Option<Vec<(usize, String)>> {
        let texts: Option<Vec<(usize, String)>> = value.get_ref().as_array().and_then(|items| {
            items.iter().map(|item| Some((item.span().start, item.get_ref().as_str()?.to_owned()))).collect()
        });
        let texts = texts.filter(|texts| !texts.is_empty() && texts.iter().all(|(_, text)| !text.is_empty()));
        if texts.is_none() {
            let key = key.get_ref();
            self.error(
                value.span().start,
                format!("`{key}` must be a list of texts; write {key} = [\"...\"], or omit it"),
            );
        }
        texts
    }
}

/// The entries of a table in the order of the file, which is the order of payload columns.
fn in_file_order<'t, 'a>(table: &'t DeTable<'a>) -> Vec<(&'t Key<'a>, &'t Value<'a>)> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    entries
}

fn set_of(texts: Vec<(usize, String)>) -> BTreeSet<String> {
    texts.into_iter().map(|(_, text)| text).collect()
}

fn classes() -> String {
    EventClass::ALL.map(EventClass::name).join(", ")
}

fn unknown(what: &str, name: &str, existing: &[&str]) -> String {
    format!("there is no {what} `{name}`; use one of {}", existing.join(", "))
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    const CARDS: &str = r#"
id = "gate.cards"
revision = "1"
[event."card.transaction.v1"]
class = "traffic"
versions = ["v2", "v1"]
partition_key = ["note", "customer_id"]
[event."card.transaction.v1".payload]
customer_id = "int32"
amount = "decimal(12,2)"
note = "text?"
[event."run.started"]
class = "control"
"#;

    fn check(text: &str, expected: Expect) {
        let lines: Vec<String> = match GatePolicy::parse(text) {
            Ok(policy) => policy.events().map(|event| format!("{event:?}\n")).collect(),
            Err(errors) => errors.iter().map(|error| format!("{error}\n")).collect(),
        };
        expected.assert_eq(&lines.concat());
    }

    #[test]
    fn a_policy_preserves_the_order_of_its_fields() {
        check(
            CARDS,
            expect![[r#"
            EventPolicy { event_type: "card.transaction.v1", class: Traffic, versions: Some({"v1", "v2"}), producers: None, partition_key: [Field(2), Field(0)], payload: Some(PayloadSchema { fields: [Field { name: "customer_id", field_type: Int32, required: true }, Field { name: "amount", field_type: Decimal(12, 2), required: true }, Field { name: "note", field_type: Text, required: false }] }) }
            EventPolicy { event_type: "run.started", class: Control, versions: None, producers: None, partition_key: [EventId], payload: None }
        "#]],
        );
    }

    #[test]
    fn all_errors_are_reported_at_once_each_with_its_line() {
        check(
            r#"
revision = 1
record_bytes_max = 0
colour = "red"
[event.a]
class = "trafic"
versions = []
producers = "world"
[event.b]
partition_key = ["custmer_id", "event_id"]
owner = "me"
[event.b.payload]
customer_id = "int31"
amount = "decimal(19,2)"
at = 7
[event.c]
class = "case"
partition_key = ["custmer_id", "event_id"]
[event.c.payload]
customer_id = "int32"
[event]
d = 1
"#,
            expect![[r#"
                line 1: `id` is missing; add a stable name such as id = "gate.cards"
                line 2: `revision` must be a text that is not empty; write it in quotes
                line 3: `record_bytes_max` must be a number of bytes; write an integer from 1 to 67108864
                line 4: there is no key `colour`; use one of id, revision, record_bytes_max, event
                line 6: `class` is not the name of a class; use one of traffic, context, decision, action, case, control, audit
                line 7: `versions` must be a list of texts; write versions = ["..."], or omit it
                line 8: `producers` must be a list of texts; write producers = ["..."], or omit it
                line 9: event type `b` has no class; add class = "traffic", or another of traffic, context, decision, action, case, control, audit
                line 11: there is no key `owner`; use one of class, versions, producers, partition_key, payload
                line 13: `customer_id`: `int31` is not a type; use bool, int32, int64, float64, decimal(P,S) with P at most 18, text or timestamp
                line 14: `amount`: `decimal(19,2)` is not a type; use bool, int32, int64, float64, decimal(P,S) with P at most 18, text or timestamp
                line 15: the type of `at` must be a text; write it as at = "int32"
                line 18: there is no partition key `custmer_id`; use one of customer_id, event_id
                line 22: `event."d"` must be a table; write it as [event."d"] with its keys below
            "#]],
        );
        check(
            "",
            expect![[r#"
            line 1: `id` is missing; add a stable name such as id = "gate.cards"
            line 1: `revision` is missing; add one such as revision = "1"
            line 1: no event type is declared; add a table such as [event."card.transaction.v1"]
        "#]],
        );
        check(
            "id = \"a\nrevision = \nid = 2",
            expect![[r#"
            line 1: not TOML: invalid basic string, expected `"`
            line 2: not TOML: string values must be quoted, expected literal string
            line 3: not TOML: duplicate key
        "#]],
        );
        check(
            "id = \"a\"\nrevision = \"1\"\n[event]\n",
            expect![[r#"
            line 3: no event type is declared; add a table such as [event."card.transaction.v1"]
        "#]],
        );
        check(
            "id = \"a\"\nrevision = \"1\"\n[event.x]\nclass = \"audit\"\npayload = 1\n",
            expect![[r#"
            line 5: `event."x".payload` must be a table; write it as [event."x".payload] with its keys below
        "#]],
        );
    }

    #[test]
    fn the_digest_changes_with_the_content_and_nothing_else() {
        let digest = |text: &str| GatePolicy::parse(text).unwrap().rev().content_digest;
        let first = digest(CARDS);
        for same in [
            CARDS.replace("\n", "   # why\n"),
            CARDS.replace("[\"v2\", \"v1\"]", "[\n\"v1\",\n\"v2\"]"),
            CARDS.replace("revision = \"1\"", "revision = \"1\"\nrecord_bytes_max = 1_048_576"),
            format!("{CARDS}partition_key = [\"event_id\"]\n"),
        ] {
            assert_eq!(digest(&same), first, "{same}");
        }
        for other in [
            CARDS.replace("text?", "text"),
            CARDS.replace("\"control\"", "\"audit\""),
            CARDS.replace("revision = \"1\"", "revision = \"2\""),
            CARDS.replace(
                "customer_id = \"int32\"\namount = \"decimal(12,2)\"",
                "amount = \"decimal(12,2)\"\ncustomer_id = \"int32\"",
            ),
        ] {
            assert_ne!(digest(&other), first, "{other}");
        }
    }
}
