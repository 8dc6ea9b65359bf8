//! The canonical envelope of a fact, and the pins it must carry (reference: fraud platform 2.1).

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::json::{self, JsonFault};
use crate::time::parse_rfc3339_micros;

/// What kind of fact an event type is; decides its topic and the pins it must carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventClass {
    /// What is decided on: transactions, requests, messages.
    Traffic,
    /// What surrounds traffic: arrivals, entities, flow anchors.
    Context,
    /// What was decided.
    Decision,
    /// What was done about it.
    Action,
    /// Cases, their timelines, and labels.
    Case,
    /// Runs, policies and bundles.
    Control,
    /// What watches the platform itself.
    Audit,
}

/// The envelope's fields that many records share: its type, its origin and its pins.
///
/// A batch of facts keeps each distinct context once.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Context {
    /// What happened; names the payload's schema.
    pub event_type: String,
    /// Version of that schema.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schema_version: Option<String>,
    /// Who sent it.
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
    /// The scenario that was played.
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

/// A scenario's id: text of 1 to 256 characters, or a whole number.
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

/// One record as its producer wrote it, checked field by field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// The fields that many records share.
    pub context: Context,
    /// What it has for itself.
    pub own: Own<'a>,
    /// The JSON text of the payload object.
    pub payload: Option<&'a str>,
}

/// The fields that each record has for itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Own<'a> {
    /// The producer's name for this event, 1 to 256 characters; unique within (run, class).
    pub event_id: Cow<'a, str>,
    /// When it happened, in microseconds since 1970-01-01 UTC.
    pub ts_utc: i64,
    /// When the producer sent it, likewise.
    pub emitted_at_utc: Option<i64>,
    /// The producer's trace, followed from submission to seal.
    pub trace_id: Option<Cow<'a, str>>,
    /// The producer's span.
    pub span_id: Option<Cow<'a, str>>,
    /// The event that caused this one.
    pub parent_event_id: Option<Cow<'a, str>>,
}

impl<'a> Envelope<'a> {
    /// Reads one JSON object. `last` is the context of the record before, which is most often this one's too.
    ///
    /// # Errors
    /// A fault that names the field: not an object, an unknown field, a field that stands twice, one
    /// that is missing, or one that does not have its form.
    pub fn parse(text: &'a str, last: &Context) -> Result<Envelope<'a>, JsonFault> {
        let mut seen: u32 = 0;
        // The text of every field first, in the order of `FIELDS`: most records share the whole
        // context with the record before, and comparing texts is cheaper than building it anew.
        let mut raw: [Option<&'a str>; FIELDS.len()] = [None; FIELDS.len()];
        json::for_each_field(text, |key, value| {
            let place = FIELDS.iter().position(|f| *f == key).ok_or_else(|| {
                JsonFault(format!(
                    "`{}` is not a field of the envelope; put it into `payload`, or take it out",
                    json::shown(key)
                ))
            })?;
            if seen & (1 << place) != 0 {
                return Err(JsonFault(format!("`{key}` stands twice")));
            }
            seen |= 1 << place;
            raw[place] = Some(value);
            Ok(())
        })?;
        let required = |place: usize| {
            raw[place]
                .ok_or_else(|| JsonFault(format!("`{}` is missing; every record needs it", FIELDS[place])))
        };
        let event_id = text_of(EVENT_ID, required(EVENT_ID)?, 256)?;
        let ts_utc = time_of(TS_UTC, required(TS_UTC)?)?;
        required(EVENT_TYPE)?;
        required(MANIFEST_FINGERPRINT)?;
        let optional_text =
            |place: usize, longest: usize| raw[place].map(|r| text_of(place, r, longest)).transpose();
        let payload = match raw[PAYLOAD] {
            Some(object) if object.starts_with('{') => Some(object),
            Some(other) => return Err(named(PAYLOAD, json::expected("an object", other))),
            None => None,
        };
        Ok(Envelope {
            context: context_of(&raw, last)?,
            own: Own {
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

/// Every field of the envelope. No other is allowed.
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

/// The places of the fields in [`FIELDS`].
#[allow(missing_docs, reason = "each is called as its field")]
pub mod place {
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

    /// Those of the fields that many records share.
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
    /// Those of the fields that each record has for itself, and that are scalars.
    pub const OWN: [usize; 6] = [EVENT_ID, TS_UTC, EMITTED_AT_UTC, TRACE_ID, SPAN_ID, PARENT_EVENT_ID];
}
use place::*;

fn context_of(raw: &[Option<&str>; FIELDS.len()], last: &Context) -> Result<Context, JsonFault> {
    let text = |place: usize, longest: usize| match raw[place] {
        Some(r) => text_of(place, r, longest).map(|t| Some(t.into_owned())),
        None => Ok(None),
    };
    let hex = |place: usize, digits: usize| match raw[place] {
        Some(r) => hex_of(place, r, digits).map(Some),
        None => Ok(None),
    };
    let context = Context {
        event_type: text(EVENT_TYPE, 256)?.unwrap_or_default(),
        schema_version: text(SCHEMA_VERSION, 64)?,
        producer: text(PRODUCER, 128)?,
        manifest_fingerprint: hex(MANIFEST_FINGERPRINT, 64)?.unwrap_or_default(),
        parameter_hash: hex(PARAMETER_HASH, 64)?,
        seed: raw[SEED]
            .map(|r| r.parse().map_err(|_| named(SEED, json::expected("a whole number of 64 bits", r))))
            .transpose()?,
        scenario_id: raw[SCENARIO_ID].map(scenario_of).transpose()?,
        run_id: hex(RUN_ID, 32)?,
        scenario_run_id: hex(SCENARIO_RUN_ID, 32)?,
        platform_run_id: match raw[PLATFORM_RUN_ID] {
            Some(r) => {
                let id = text_of(PLATFORM_RUN_ID, r, 256)?;
                if !is_platform_run(&id) {
                    return Err(named(PLATFORM_RUN_ID, json::expected("platform_YYYYMMDDTHHMMSSZ", r)));
                }
                Some(id.into_owned())
            }
            None => None,
        },
    };
    Ok(if context == *last { last.clone() } else { context })
}

fn scenario_of(raw: &str) -> Result<ScenarioId, JsonFault> {
    if raw.starts_with('"') {
        return text_of(SCENARIO_ID, raw, 256).map(|t| ScenarioId::Name(t.into_owned()));
    }
    raw.parse()
        .map(ScenarioId::Number)
        .map_err(|_| named(SCENARIO_ID, json::expected("text or a whole number that is not negative", raw)))
}

fn text_of(place: usize, raw: &str, longest: usize) -> Result<Cow<'_, str>, JsonFault> {
    let text = json::string(raw).map_err(|fault| named(place, fault))?;
    let length = if text.len() <= longest { text.len() } else { text.chars().count() };
    if (1..=longest).contains(&length) {
        Ok(text)
    } else {
        Err(named(place, JsonFault(format!("expected 1 to {longest} characters, found {length}"))))
    }
}

fn hex_of(place: usize, raw: &str, digits: usize) -> Result<String, JsonFault> {
    let text = json::string(raw).map_err(|fault| named(place, fault))?;
    if is_hex(&text, digits) {
        Ok(text.into_owned())
    } else {
        Err(named(place, json::expected(&format!("{digits} lower-case hexadecimal digits"), raw)))
    }
}

fn time_of(place: usize, raw: &str) -> Result<i64, JsonFault> {
    let text = json::string(raw).map_err(|fault| named(place, fault))?;
    parse_rfc3339_micros(&text).ok_or_else(|| {
        named(
            place,
            json::expected("a time such as 2018-04-01T00:00:31.000000Z, UTC with six fractional digits", raw),
        )
    })
}

fn named(place: usize, fault: JsonFault) -> JsonFault {
    JsonFault(format!("`{}`: {}", FIELDS[place], fault.0))
}

/// Whether `text` is `digits` lower-case hexadecimal digits.
pub fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether `text` is `platform_`, a date, `T`, a time and `Z`.
pub fn is_platform_run(text: &str) -> bool {
    text.strip_prefix("platform_").and_then(|t| t.strip_suffix('Z')).is_some_and(|t| {
        t.len() == 15
            && t.bytes().enumerate().all(|(at, b)| if at == 8 { b == b'T' } else { b.is_ascii_digit() })
    })
}

impl EventClass {
    /// Every class.
    pub const ALL: [EventClass; 7] = [
        EventClass::Traffic,
        EventClass::Context,
        EventClass::Decision,
        EventClass::Action,
        EventClass::Case,
        EventClass::Control,
        EventClass::Audit,
    ];

    /// The name in policies, receipts and tables.
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

    /// The class of that name.
    pub fn parse(name: &str) -> Option<EventClass> {
        EventClass::ALL.into_iter().find(|c| c.name() == name)
    }
}

impl Context {
    /// The pins that `class` requires and this context lacks, in the reference's order.
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
        assert_eq!(envelope.own.event_id, "tx-1");
        assert_eq!(envelope.own.ts_utc, 1_522_540_831_000_000);
        assert_eq!(envelope.context.seed, Some(u64::MAX));
        assert_eq!(envelope.context.scenario_id, Some(ScenarioId::Number(7)));
        assert_eq!(envelope.own.parent_event_id.as_deref(), Some("eA"));
        assert_eq!(envelope.payload, Some(r#"{"amount":"1.00"}"#));
        assert!(envelope.context.missing_pins(EventClass::Traffic).is_empty());
    }

    #[test]
    fn every_field_is_shared_or_a_records_own_or_its_payload() {
        let mut places = [CONTEXT.as_slice(), &OWN, &[PAYLOAD]].concat();
        places.sort_unstable();
        assert!(places.into_iter().eq(0..FIELDS.len()));
        let text = |places: &[usize]| places.iter().map(|place| FIELDS[*place]).collect::<Vec<_>>().join(" ");
        assert_eq!(text(&OWN), "event_id ts_utc emitted_at_utc trace_id span_id parent_event_id");
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
    fn a_fault_quotes_a_bounded_part_of_the_record() {
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
            let fault = Envelope::parse(&GOOD.replace(from, &to), &Context::default()).unwrap_err();
            assert!(fault.0.len() < 500, "{} bytes for {from}", fault.0.len());
        }
    }

    #[test]
    fn each_fault_names_its_field() {
        for (from, to, fault) in [
            (r#""event_id":"tx-1","#, "", "`event_id` is missing"),
            (r#""event_id":"tx-1""#, r#""event_id":"""#, "`event_id`: expected 1 to 256 characters"),
            (r#""event_id":"tx-1""#, r#""event_id":17"#, "`event_id`: expected a string, found 17"),
            (r#""seed":18446744073709551615"#, r#""seed":-1"#, "`seed`: expected a whole number"),
            ("31.000000Z", "31.000Z", "`ts_utc`: expected a time such as"),
            ("aaaa\"", "AAAA\"", "`manifest_fingerprint`: expected 64 lower-case"),
            (r#""span_id":"s""#, r#""span_id":"s","span_id":"s""#, "`span_id` stands twice"),
            (r#""span_id":"s""#, r#""spam":"s""#, "`spam` is not a field of the envelope"),
            (r#"{"amount":"1.00"}"#, "[]", "`payload`: expected an object"),
            ("platform_2018", "platform_x018", "`platform_run_id`: expected platform_"),
            (r#""scenario_id":7"#, r#""scenario_id":-7"#, "`scenario_id`: expected text or a whole number"),
        ] {
            let text = GOOD.replace(from, to);
            assert_ne!(text, GOOD, "{from}");
            let found = Envelope::parse(&text, &Context::default()).unwrap_err();
            assert!(found.0.starts_with(fault), "{found}");
        }
    }
}
