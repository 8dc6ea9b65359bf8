//! Reads the envelopes of JSON lines; contexts are numbered, see [`ContextCache`].
//!
//! Nearly every line repeats the context of an earlier line byte for byte, and most match a
//! [`LineTemplate`]. Then the repeated part is not unescaped, checked or allocated again. All other
//! lines, including all invalid ones, are read by [`Envelope::parse`], which alone defines what an
//! envelope is and writes the error messages.

use std::borrow::Cow;
use std::collections::BTreeMap;

use tidegate_facts::envelope::field_index::{
    CONTEXT, EMITTED_AT_UTC, EVENT_ID, PARENT_EVENT_ID, PAYLOAD, RECORD, SPAN_ID, TRACE_ID, TS_UTC,
};
use tidegate_facts::envelope::{FIELDS, RecordFields};
use tidegate_facts::strict_json::{self, JsonError};
use tidegate_facts::time::parse_rfc3339_micros;
use tidegate_facts::{Context, Envelope, PayloadSchema};

use super::context_cache::ContextCache;
use super::line_template::{LineTemplate, SlotField};

/// A JSON line with a valid envelope.
pub struct Line<'a> {
    /// The number of its context in the cache.
    pub context: u32,
    /// The fields of the envelope that are not part of the context.
    pub fields: RecordFields<'a>,
    /// The payload.
    pub payload: Payload<'a>,
}

/// The payload of a JSON line.
pub enum Payload<'a> {
    /// The JSON text of the object; `None` for a record without a payload.
    Object(Option<&'a str>),
    /// The source texts of the fields were read into `values`, with their indexes in the schema.
    Values,
}

/// Reads JSON lines; caches the source texts of contexts, and templates of recent lines.
#[derive(Default)]
pub struct LineReader {
    /// The indexes in [`FIELDS`] of the last line's keys, in its order.
    order: Vec<usize>,
    last: Option<(ContextTexts<Box<str>>, u32)>,
    numbers: BTreeMap<ContextTexts<Box<str>>, u32>,
    /// The most recently matched template is the first.
    templates: Vec<LineTemplate>,
    /// The count of lines since the last one that matched a template.
    unmatched: u32,
}

/// The greatest number of templates. An event type needs one for each set of optional fields that
/// its lines leave out, and a source has a few types.
const TEMPLATES_MAX: usize = 8;

/// The source text of every field of an envelope, in the order of [`FIELDS`].
type Raw<'a> = [Option<&'a str>; FIELDS.len()];
/// The source text of every field of a context, in the order of [`CONTEXT`].
type ContextTexts<T> = [Option<T>; CONTEXT.len()];

impl LineReader {
    /// Reads one line; for [`Payload::Values`] the payload's fields are written to `values`.
    ///
    /// # Errors
    /// The error of its envelope.
    pub fn read<'a>(
        &mut self,
        bytes: &'a [u8],
        contexts: &mut ContextCache,
        values: &mut Vec<(usize, &'a str)>,
    ) -> Result<Line<'a>, JsonError> {
        if let Some(line) = self.read_by_template(bytes, values) {
            return Ok(line);
        }
        if bytes.is_empty() {
            return Err(JsonError("the record is empty; send one JSON object".to_owned()));
        }
        let text = std::str::from_utf8(bytes).map_err(|error| {
            JsonError(format!("not UTF-8 from byte {} on; send text as UTF-8", error.valid_up_to()))
        })?;
        let raw = self.raw(text);
        let cached = raw.and_then(|raw| line(&raw, self.number(&raw)?));
        if let Some(line) = cached {
            return Ok(line);
        }
        let envelope = Envelope::parse(text, &Context::default())?;
        let number = contexts.number(&envelope.context);
        let raw = raw.expect("a valid envelope has known fields, each once");
        let texts = CONTEXT.map(|index| raw[index].map(Box::from));
        self.numbers.insert(texts.clone(), number);
        self.last = Some((texts, number));
        Ok(Line { context: number, fields: envelope.fields, payload: Payload::Object(envelope.payload) })
    }

    /// Adds a template of a valid line, so that similar lines are read faster.
    pub fn learn(&mut self, bytes: &[u8], context: u32, schema: &PayloadSchema) {
        self.unmatched = self.unmatched.saturating_add(1);
        // For a source whose lines match no template, learn ever more rarely.
        if (self.unmatched <= 64 || self.unmatched.is_power_of_two())
            && let Ok(text) = std::str::from_utf8(bytes)
            && let Some(template) = LineTemplate::of(text, &RECORD, schema, context)
        {
            self.templates.truncate(TEMPLATES_MAX - 1);
            self.templates.insert(0, template);
        }
    }

    fn read_by_template<'a>(
        &mut self,
        bytes: &'a [u8],
        values: &mut Vec<(usize, &'a str)>,
    ) -> Option<Line<'a>> {
        for index in 0..self.templates.len() {
            let mut raw: Raw<'a> = [None; FIELDS.len()];
            values.clear();
            let is_match = self.templates[index].read(bytes, |field, value| match field {
                SlotField::Envelope(field) => raw[field] = Some(value),
                SlotField::Payload(field) => values.push((field, value)),
            });
            if is_match {
                self.templates[..=index].rotate_right(1);
                self.unmatched = 0;
                let line = line(&raw, self.templates[0].context)?;
                return Some(Line { payload: Payload::Values, ..line });
            }
        }
        None
    }

    /// The count of contexts that the line reader has cached.
    pub fn len(&self) -> usize {
        self.numbers.len()
    }

    /// Clears the line reader's cached contexts and templates.
    pub fn clear(&mut self) {
        self.last = None;
        self.numbers.clear();
        self.templates.clear();
    }

    /// The source texts of the line's fields; `None` unless it is an object of known fields, each
    /// once.
    fn raw<'a>(&mut self, text: &'a str) -> Option<Raw<'a>> {
        let mut raw: Raw<'a> = [None; FIELDS.len()];
        let mut count = 0;
        strict_json::for_each_field(text, |key, value| {
            let index = match self.order.get(count) {
                Some(index) if FIELDS[*index] == key => *index,
                _ => {
                    let index = FIELDS.iter().position(|f| *f == key).ok_or_else(irregular)?;
                    self.order.truncate(count);
                    self.order.push(index);
                    index
                }
            };
            count += 1;
            if raw[index].replace(value).is_some() { Err(irregular()) } else { Ok(()) }
        })
        .is_ok()
        .then_some(raw)
    }

    /// The number of the context with these source texts; `None` when it is not cached.
    fn number(&mut self, raw: &Raw) -> Option<u32> {
        if let Some((last, number)) = &self.last
            && CONTEXT.iter().zip(last).all(|(index, text)| raw[*index] == text.as_deref())
        {
            return Some(*number);
        }
        let texts = CONTEXT.map(|index| raw[index].map(Box::from));
        let number = *self.numbers.get(&texts)?;
        self.last = Some((texts, number));
        Some(number)
    }
}

/// The error that ends reading the source texts; its text is not used.
fn irregular() -> JsonError {
    JsonError(String::new())
}

/// The line with these source texts; `None` when a field is invalid.
fn line<'a>(raw: &Raw<'a>, context: u32) -> Option<Line<'a>> {
    let text = |index: usize, chars_max: usize| match raw[index] {
        None => Some(None),
        Some(value) => text_of(value, chars_max).map(Some),
    };
    let payload = raw[PAYLOAD];
    if payload.is_some_and(|object| !object.starts_with('{')) {
        return None;
    }
    let fields = RecordFields {
        event_id: text_of(raw[EVENT_ID]?, 256)?,
        ts_utc: time_of(raw[TS_UTC]?)?,
        emitted_at_utc: match raw[EMITTED_AT_UTC] {
            None => None,
            Some(value) => Some(time_of(value)?),
        },
        trace_id: text(TRACE_ID, 128)?,
        span_id: text(SPAN_ID, 128)?,
        parent_event_id: text(PARENT_EVENT_ID, 256)?,
    };
    Some(Line { context, fields, payload: Payload::Object(payload) })
}

fn text_of(raw: &str, chars_max: usize) -> Option<Cow<'_, str>> {
    strict_json::string(raw).ok().filter(|text| fits(text, chars_max))
}

fn time_of(raw: &str) -> Option<i64> {
    parse_rfc3339_micros(&strict_json::string(raw).ok()?)
}

/// Whether a text of a line's envelope, or of a row's, has 1 to `chars_max` characters.
pub fn fits(text: &str, chars_max: usize) -> bool {
    !text.is_empty() && (text.len() <= chars_max || text.chars().count() <= chars_max)
}

/// The fields that could be read of an invalid JSON line's envelope.
#[derive(Default)]
pub struct PartialEnvelope {
    /// The event type.
    pub event_type: Option<String>,
    /// The event id.
    pub event_id: Option<String>,
    /// The event time, in microseconds since 1970 UTC.
    pub ts_utc: Option<i64>,
}

impl PartialEnvelope {
    /// Reads the fields that can be read; of a repeated field, the first.
    pub fn of(bytes: &[u8]) -> PartialEnvelope {
        let mut partial = PartialEnvelope::default();
        let Ok(text) = std::str::from_utf8(bytes) else { return partial };
        let outcome = strict_json::for_each_field(text, |key, value| {
            match key {
                "event_type" => {
                    partial.event_type =
                        partial.event_type.take().or_else(|| text_of(value, 256).map(Cow::into_owned))
                }
                "event_id" => {
                    partial.event_id =
                        partial.event_id.take().or_else(|| text_of(value, 256).map(Cow::into_owned))
                }
                "ts_utc" => partial.ts_utc = partial.ts_utc.or_else(|| time_of(value)),
                _ => {}
            }
            Ok(())
        });
        // A truncated text is not trusted at all.
        if outcome.is_ok() { partial } else { PartialEnvelope::default() }
    }
}
