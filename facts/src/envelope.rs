//! The envelope of a record: its fields, their forms, and the pins each class requires (reference:
//! fraud platform 2.1).

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::strict_json::{self, JsonError};
use crate::time::parse_rfc3339_micros;

/// The class of an event type, which determines its topic and the pins that its envelopes must
/// carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventClass {
    /// Events that are decided on: transactions, requests, messages.
    Traffic,
    /// Context of traffic: arrivals, entities, flow anchors.
    Context,
    /// Decisions.
    Decision,
    /// Actions that follow from decisions.
    Action,
    /// Cases, their timelines, and labels.
    Case,
    /// Runs, policies and bundles.
    Control,
    /// Observations of the platform itself.
    Audit,
}

/// The envelope fields that many records share: event type, origin and pins.
///
/// A batch of facts stores each distinct context once.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Context {
    /// The event type, which names the payload's schema.
    pub event_type: String,
    /// The version of that schema.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schema_version: Option<String>,
    /// The system that sent the record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub producer: Option<String>,
    /// The world that the record belongs to: 64 hexadecimal digits.
    pub manifest_fingerprint: String,
    /// The parameters of that world: 64 hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameter_hash: Option<String>,
    /// The seed of that world.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// The scenario of the simulation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scenario_id: Option<ScenarioId>,
    /// The producer's run: 32 hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_id: Option<String>,
    /// The scenario's run: 32 hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scenario_run_id: Option<String>,
    /// The platform's run: `platform_YYYYMMDDTHHMMSSZ`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform_run_id: Option<String>,
}

/// The scenario id in an envelope: a text of 1 to 256 characters, or a whole number.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ScenarioId {
    /// A number.
    Number(u64),
    /// A name.
    Name(String),
}

impl std::fmt::Display for ScenarioId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ScenarioId::Number(number) => number.fmt(f),
            ScenarioId::Name(name) => name.fmt(f),
        }
    }
}

/// A record's envelope as its producer wrote it, with every field checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// The fields that many records share.
    pub context: Context,
    /// The fields of this record alone.
    pub fields: RecordFields<'a>,
    /// The JSON text of the payload object.
    pub payload: Option<&'a str>,
}

/// The envelope fields that each record has for itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordFields<'a> {
    /// The producer's id of this event, 1 to 256 characters; unique within (run, class, event
    /// type).
    pub event_id: Cow<'a, str>,
    /// When the event happened, in microseconds since 1970-01-01 UTC.
    pub ts_utc: i64,
    /// When the producer sent the record, in microseconds since 1970-01-01 UTC.
    pub emitted_at_utc: Option<i64>,
    /// The producer's trace id, which Tidegate's traces continue from submission to seal.
    pub trace_id: Option<Cow<'a, str>>,
    /// The producer's span id.
    pub span_id: Option<Cow<'a, str>>,
    /// The id of the event that caused this one.
    pub parent_event_id: Option<Cow<'a, str>>,
}

impl<'a> Envelope<'a> {
    /// Reads an envelope from one JSON object. `last` is the context of the record before, which
    /// this record most often shares.
    ///
    /// # Errors
    /// When `text` is not an object, or a field is unknown, repeated, missing or malformed; the
    /// error names the field.
    pub fn parse(text: &'a str, last: &Context) -> Result<Envelope<'a>, JsonError> {
        // The source text of every field, in the order of `FIELDS`.
        let mut raw: [Option<&'a str>; FIELDS.len()] = [None; FIELDS.len()];
        strict_json::for_each_field(text, |key, value| {
            let index = FIELDS.iter().position(|f| *f == key).ok_or_else(|| {
                JsonError(format!(
                    "`{}` is not a field of the envelope; put it into `payload`, or take it out",
                    strict_json::excerpt(key)
                ))
            })?;
            match raw[index].replace(value) {
                None => Ok(()),
                Some(_) => Err(JsonError(format!("`{key}` is repeated"))),
            }
        })?;
        let required = |index: usize| {
            raw[index]
                .ok_or_else(|| JsonError(format!("`{}` is missing; every record needs it", FIELDS[index])))
        };
        let event_id = text_of(EVENT_ID, required(EVENT_ID)?, 256)?;
        let ts_utc = time_of(TS_UTC, required(TS_UTC)?)?;
        required(EVENT_TYPE)?;
        required(MANIFEST_FINGERPRINT)?;
        let optional_text =
            |index: usize, longest: usize| raw[index].map(|r| text_of(index, r, longest)).transpose();
        let payload = match raw[PAYLOAD] {
            Some(object) if object.starts_with('{') => Some(object),
            Some(other) => return Err(in_field(PAYLOAD, strict_json::expected("an object", other))),
            None => None,
        };
        Ok(Envelope {
            context: context_of(&raw, last)?,
            fields: RecordFields {
                event_id,
                ts_utc,
                emitted_at_utc: raw[EMITTED_AT_UTC].map(|r| time_of(EMITTED_AT_UTC, r)).transpose()?,
                trace_id: optional_text(TRACE_ID, 128)?,
                span_id: optional_text(SPAN_ID, 128)?,
                parent_event_id: optional_text(PARENT_EVENT_ID, 256)?,
            },
            payload,
        })
    }
}

/// The names of all envelope fields. The gate refuses records with any other field.
pub const FIELDS: [&str; 17] = [
    "event_id",
    "event_type",
    "ts_utc",
    "manifest_fingerprint",
    "parameter_hash",
    "seed",
    "scenario_id",
    "run_id",
    "scenario_run_id",
    "platform_run_id",
    "emitted_at_utc",
    "schema_version",
    "trace_id",
    "span_id",
    "producer",
    "parent_event_id",
    "payload",
];

/// The index of each envelope field in [`FIELDS`].
#[allow(missing_docs, reason = "each constant is named as its field")]
pub mod field_index {
    pub const EVENT_ID: usize = 0;
    pub const EVENT_TYPE: usize = 1;
    pub const TS_UTC: usize = 2;
    pub const MANIFEST_FINGERPRINT: usize = 3;
    pub const PARAMETER_HASH: usize = 4;
    pub const SEED: usize = 5;
    pub const SCENARIO_ID: usize = 6;
    pub const RUN_ID: usize = 7;
    pub const SCENARIO_RUN_ID: usize = 8;
    pub const PLATFORM_RUN_ID: usize = 9;
    pub const EMITTED_AT_UTC: usize = 10;
    pub const SCHEMA_VERSION: usize = 11;
    pub const TRACE_ID: usize = 12;
    pub const SPAN_ID: usize = 13;
    pub const PRODUCER: usize = 14;
    pub const PARENT_EVENT_ID: usize = 15;
    pub const PAYLOAD: usize = 16;

    /// The fields of [`super::Context`].
    pub const CONTEXT: [usize; 10] = [
        EVENT_TYPE,
        MANIFEST_FINGERPRINT,
        PARAMETER_HASH,
        SEED,
        SCENARIO_ID,
        RUN_ID,
        SCENARIO_RUN_ID,
        PLATFORM_RUN_ID,
        SCHEMA_VERSION,
        PRODUCER,
    ];
    /// The fields of [`super::RecordFields`], all scalars.
    pub const RECORD: [usize; 6] = [EVENT_ID, TS_UTC, EMITTED_AT_UTC, TRACE_ID, SPAN_ID, PARENT_EVENT_ID];
}
use field_index::*;

fn context_of(raw: &[Option<&str>; FIELDS.len()], last: &Context) -> Result<Context, JsonError> {
    let text = |index: usize, longest: usize| match raw[index] {
        Some(r) => text_of(index, r, longest).map(|t| Some(t.into_owned())),
        None => Ok(None),
    };
    let hex = |index: usize, digits: usize| match raw[index] {
        Some(r) => hex_of(index, r, digits).map(Some),
        None => Ok(None),
    };
    let context = Context {
        event_type: text(EVENT_TYPE, 256)?.unwrap_or_default(),
        schema_version: text(SCHEMA_VERSION, 64)?,
        producer: text(PRODUCER, 128)?,
        manifest_fingerprint: hex(MANIFEST_FINGERPRINT, 64)?.unwrap_or_default(),
        parameter_hash: hex(PARAMETER_HASH, 64)?,
        seed: raw[SEED]
            .map(|r| {
                r.parse().map_err(|_| in_field(SEED, strict_json::expected("a whole number of 64 bits", r)))
            })
            .transpose()?,
        scenario_id: raw[SCENARIO_ID].map(scenario_of).transpose()?,
        run_id: hex(RUN_ID, 32)?,
        scenario_run_id: hex(SCENARIO_RUN_ID, 32)?,
        platform_run_id: match raw[PLATFORM_RUN_ID] {
            Some(r) => {
                let id = text_of(PLATFORM_RUN_ID, r, 256)?;
                if !is_platform_run(&id) {
                    return Err(in_field(
                        PLATFORM_RUN_ID,
                        strict_json::expected("platform_YYYYMMDDTHHMMSSZ", r),
                    ));
                }
                Some(id.into_owned())
            }
            None => None,
        },
    };
    Ok(if context == *last { last.clone() } else { context })
}

fn scenario_of(raw: &str) -> Result<ScenarioId, JsonError> {
    if raw.starts_with('"') {
        return text_of(SCENARIO_ID, raw, 256).map(|t| ScenarioId::Name(t.into_owned()));
    }
    raw.parse().map(ScenarioId::Number).map_err(|_| {
        in_field(SCENARIO_ID, strict_json::expected("text or a whole number that is not negative", raw))
    })
}

fn text_of(index: usize, raw: &str, longest: usize) -> Result<Cow<'_, str>, JsonError> {
    let text = strict_json::string(raw).map_err(|error| in_field(index, error))?;
    let length = if text.len() <= longest { text.len() } else { text.chars().count() };
    if (1..=longest).contains(&length) {
        Ok(text)
    } else {
        Err(in_field(index, JsonError(format!("expected 1 to {longest} characters, found {length}"))))
    }
}

fn hex_of(index: usize, raw: &str, digits: usize) -> Result<String, JsonError> {
    let text = strict_json::string(raw).map_err(|error| in_field(index, error))?;
    if is_hex(&text, digits) {
        Ok(text.into_owned())
    } else {
        Err(in_field(index, strict_json::expected(&format!("{digits} lower-case hexadecimal digits"), raw)))
    }
}

fn time_of(index: usize, raw: &str) -> Result<i64, JsonError> {
    let text = strict_json::string(raw).map_err(|error| in_field(index, error))?;
    parse_rfc3339_micros(&text).ok_or_else(|| {
        in_field(
            index,
            strict_json::expected(
                "a time such as 2018-04-01T00:00:31.000000Z, UTC with six fractional digits",
                raw,
            ),
        )
    })
}

fn in_field(index: usize, error: JsonError) -> JsonError {
    JsonError(format!("`{}`: {}", FIELDS[index], error.0))
}

/// Whether the text of an envelope field is `digits` lower-case hexadecimal digits.
pub fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether the text of an envelope field names a platform run: `platform_`, a date, `T`, a time and
/// `Z`.
pub fn is_platform_run(text: &str) -> bool {
    text.strip_prefix("platform_").and_then(|t| t.strip_suffix('Z')).is_some_and(|t| {
        t.len() == 15
            && t.bytes().enumerate().all(|(index, b)| if index == 8 { b == b'T' } else { b.is_ascii_digit() })
    })
}

impl EventClass {
    /// Every class of event types.
    pub const ALL: [EventClass; 7] = [
        EventClass::Traffic,
        EventClass::Context,
        EventClass::Decision,
        EventClass::Action,
        EventClass::Case,
        EventClass::Control,
        EventClass::Audit,
    ];

    /// The name of the class in policies, receipts and tables.
    pub fn name(self) -> &'static str {
        match self {
            EventClass::Traffic => "traffic",
            EventClass::Context => "context",
            EventClass::Decision => "decision",
            EventClass::Action => "action",
            EventClass::Case => "case",
            EventClass::Control => "control",
            EventClass::Audit => "audit",
        }
    }

    /// The class with this name.
    pub fn parse(name: &str) -> Option<EventClass> {
        EventClass::ALL.into_iter().find(|c| c.name() == name)
    }
}

impl Context {
    /// The names of the pins that `class` requires and this context lacks, in the reference's
    /// order.
    pub fn missing_pins(&self, class: EventClass) -> Vec<&'static str> {
        let run = ("run_id", self.run_id.is_some());
        let six = [
            ("platform_run_id", self.platform_run_id.is_some()),
            ("scenario_run_id", self.scenario_run_id.is_some()),
            ("manifest_fingerprint", !self.manifest_fingerprint.is_empty()),
            ("parameter_hash", self.parameter_hash.is_some()),
            ("scenario_id", self.scenario_id.is_some()),
            ("seed", self.seed.is_some()),
        ];
        let required: Vec<(&'static str, bool)> = match class {
            EventClass::Traffic | EventClass::Context => six.into_iter().chain([run]).collect(),
            EventClass::Decision | EventClass::Action | EventClass::Case => six.to_vec(),
            EventClass::Control => six[..3].iter().copied().chain([run]).collect(),
            EventClass::Audit => six[..3].to_vec(),
        };
        required.into_iter().filter(|(_, present)| !present).map(|(name, _)| name).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"event_id":"tx-1","event_type":"card.transaction.v1","ts_utc":"2018-04-01T00:00:31.000000Z",
        "manifest_fingerprint":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "parameter_hash":"bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb","seed":18446744073709551615,
        "scenario_id":7,"run_id":"cccccccccccccccccccccccccccccccc","scenario_run_id":"dddddddddddddddddddddddddddddddd",
        "platform_run_id":"platform_20180401T000000Z","emitted_at_utc":"2018-04-01T00:00:32.000000Z",
        "schema_version":"v1","trace_id":"t","span_id":"s","producer":"p","parent_event_id":"e\u0041",
        "payload":{"amount":"1.00"}}"#;

    #[test]
    fn a_whole_envelope_is_read() {
        let envelope = Envelope::parse(GOOD, &Context::default()).unwrap();
        assert_eq!(envelope.fields.event_id, "tx-1");
        assert_eq!(envelope.fields.ts_utc, 1_522_540_831_000_000);
        assert_eq!(envelope.context.seed, Some(u64::MAX));
        assert_eq!(envelope.context.scenario_id, Some(ScenarioId::Number(7)));
        assert_eq!(envelope.fields.parent_event_id.as_deref(), Some("eA"));
        assert_eq!(envelope.payload, Some(r#"{"amount":"1.00"}"#));
        assert!(envelope.context.missing_pins(EventClass::Traffic).is_empty());
    }

    #[test]
    fn every_field_belongs_to_the_context_or_the_record_or_is_the_payload() {
        let mut indices = [CONTEXT.as_slice(), &RECORD, &[PAYLOAD]].concat();
        indices.sort_unstable();
        assert!(indices.into_iter().eq(0..FIELDS.len()));
        let text =
            |indices: &[usize]| indices.iter().map(|index| FIELDS[*index]).collect::<Vec<_>>().join(" ");
        assert_eq!(text(&RECORD), "event_id ts_utc emitted_at_utc trace_id span_id parent_event_id");
        assert_eq!(
            text(&CONTEXT),
            "event_type manifest_fingerprint parameter_hash seed scenario_id run_id scenario_run_id platform_run_id \
             schema_version producer"
        );
        assert_eq!(FIELDS[PAYLOAD], "payload");
    }

    #[test]
    fn each_class_requires_its_pins() {
        let none = Context::default();
        let missing = |class| none.missing_pins(class).join(" ");
        assert_eq!(
            missing(EventClass::Traffic),
            "platform_run_id scenario_run_id manifest_fingerprint parameter_hash scenario_id seed run_id"
        );
        assert_eq!(
            missing(EventClass::Case),
            "platform_run_id scenario_run_id manifest_fingerprint parameter_hash scenario_id seed"
        );
        assert_eq!(
            missing(EventClass::Control),
            "platform_run_id scenario_run_id manifest_fingerprint run_id"
        );
        assert_eq!(missing(EventClass::Audit), "platform_run_id scenario_run_id manifest_fingerprint");
    }

    #[test]
    fn an_error_quotes_a_bounded_part_of_the_record() {
        let long = "ä".repeat(50_000);
        for (from, to) in [
            ("span_id", long.clone()),
            ("seed\":18446744073709551615", format!("seed\":\"{long}\"")),
            ("\"seed\":18446744073709551615", format!("\"seed\":{}", "1".repeat(50_000))),
            ("31.000000Z", long.clone()),
            ("aaaa\"", format!("{long}\"")),
            ("\"tx-1\"", format!("\"{long}\"")),
            (r#"{"amount":"1.00"}"#, format!("\"{long}\"")),
            ("platform_2018", long.clone()),
            (GOOD, format!("\"{long}\"")),
        ] {
            let error = Envelope::parse(&GOOD.replace(from, &to), &Context::default()).unwrap_err();
            assert!(error.0.len() < 500, "{} bytes for {from}", error.0.len());
        }
    }

    #[test]
    fn each_error_names_its_field() {
        for (from, to, expected) in [
            (r#""event_id":"tx-1","#, "", "`event_id` is missing"),
            (r#""event_id":"tx-1""#, r#""event_id":"""#, "`event_id`: expected 1 to 256 characters"),
            (r#""event_id":"tx-1""#, r#""event_id":17"#, "`event_id`: expected a string, found 17"),
            (r#""seed":18446744073709551615"#, r#""seed":-1"#, "`seed`: expected a whole number"),
            ("31.000000Z", "31.000Z", "`ts_utc`: expected a time such as"),
            ("aaaa\"", "AAAA\"", "`manifest_fingerprint`: expected 64 lower-case"),
            (r#""span_id":"s""#, r#""span_id":"s","span_id":"s""#, "`span_id` is repeated"),
            (r#""span_id":"s""#, r#""spam":"s""#, "`spam` is not a field of the envelope"),
            (r#"{"amount":"1.00"}"#, "[]", "`payload`: expected an object"),
            ("platform_2018", "platform_x018", "`platform_run_id`: expected platform_"),
            (r#""scenario_id":7"#, r#""scenario_id":-7"#, "`scenario_id`: expected text or a whole number"),
        ] {
            let text = GOOD.replace(from, to);
            assert_ne!(text, GOOD, "{from}");
            let found = Envelope::parse(&text, &Context::default()).unwrap_err();
            assert!(found.0.starts_with(expected), "{found}");
        }
    }
}
