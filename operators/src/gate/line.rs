//! The envelope of one JSON line, with its context by number.
//!
//! Nearly every line repeats the context of a line before it, byte for byte, and most its whole
//! shape. Then nothing of that is unescaped, checked or allocated again. Any other line, and any line
//! with a fault, is read by [`Envelope::parse`], which alone decides what an envelope is and words
//! its faults.

use std::borrow::Cow;
use std::collections::BTreeMap;

use tidegate_facts::envelope::place::{
    CONTEXT, EMITTED_AT_UTC, EVENT_ID, OWN, PARENT_EVENT_ID, PAYLOAD, SPAN_ID, TRACE_ID, TS_UTC,
};
use tidegate_facts::envelope::{FIELDS, Own};
use tidegate_facts::json::{self, JsonFault};
use tidegate_facts::time::parse_rfc3339_micros;
use tidegate_facts::{Context, Envelope, PayloadSchema};

use super::context::Contexts;
use super::shape::{Shape, Slot};

/// A line whose envelope has no fault.
pub struct Line<'a> {
    /// The number of its context.
    pub context: u32,
    /// What it has for itself.
    pub own: Own<'a>,
    /// The payload.
    pub payload: Payload<'a>,
}

/// The payload of a line.
pub enum Payload<'a> {
    /// The JSON text of the object; nothing means an empty one.
    Object(Option<&'a str>),
    /// The source texts of its fields were read already, with the places of the fields in the schema.
    Values,
}

/// Reads lines, and remembers the source texts of their contexts and the shapes of the last few.
#[derive(Default)]
pub struct Lines {
    /// The places in [`FIELDS`] of the last line's keys, in its order.
    order: Vec<usize>,
    last: Option<(Pinned<Box<str>>, u32)>,
    numbers: BTreeMap<Pinned<Box<str>>, u32>,
    /// The one that was met last stands first.
    shapes: Vec<Shape>,
    /// How many lines had no shape since one had.
    shapeless: u32,
}

/// An event type has a shape for each set of optional fields that it leaves out, and a source has a few types.
const SHAPES_MAX: usize = 8;

/// The source text of every field of an envelope, in the order of [`FIELDS`].
type Raw<'a> = [Option<&'a str>; FIELDS.len()];
/// Those of the context.
type Pinned<T> = [Option<T>; CONTEXT.len()];

impl Lines {
    /// Reads one line; `values` is for the [`Payload::Values`] of a payload.
    ///
    /// # Errors
    /// The fault of its envelope.
    pub fn read<'a>(
        &mut self,
        bytes: &'a [u8],
        contexts: &mut Contexts,
        values: &mut Vec<(usize, &'a str)>,
    ) -> Result<Line<'a>, JsonFault> {
        if let Some(line) = self.read_shape(bytes, values) {
            return Ok(line);
        }
        if bytes.is_empty() {
            return Err(JsonFault("the record is empty; send one JSON object".to_owned()));
        }
        let text = std::str::from_utf8(bytes).map_err(|error| {
            JsonFault(format!("not UTF-8 from byte {} on; send text as UTF-8", error.valid_up_to()))
        })?;
        let raw = self.raw(text);
        let known = raw.and_then(|raw| line(&raw, self.number(&raw)?));
        if let Some(line) = known {
            return Ok(line);
        }
        let envelope = Envelope::parse(text, &Context::default())?;
        let number = contexts.number(&envelope.context);
        let raw = raw.expect("an envelope without fault has known fields, each once");
        let pinned = CONTEXT.map(|place| raw[place].map(Box::from));
        self.numbers.insert(pinned.clone(), number);
        self.last = Some((pinned, number));
        Ok(Line { context: number, own: envelope.own, payload: Payload::Object(envelope.payload) })
    }

    /// Learns the shape of a line in which no fault was found, so that lines like it are read faster.
    pub fn learn(&mut self, bytes: &[u8], context: u32, schema: &PayloadSchema) {
        self.shapeless = self.shapeless.saturating_add(1);
        // A source whose lines are never alike pays for learning ever more rarely.
        if (self.shapeless <= 64 || self.shapeless.is_power_of_two())
            && let Ok(text) = std::str::from_utf8(bytes)
            && let Some(shape) = Shape::of(text, &OWN, schema, context)
        {
            self.shapes.truncate(SHAPES_MAX - 1);
            self.shapes.insert(0, shape);
        }
    }

    fn read_shape<'a>(&mut self, bytes: &'a [u8], values: &mut Vec<(usize, &'a str)>) -> Option<Line<'a>> {
        for place in 0..self.shapes.len() {
            let mut raw: Raw<'a> = [None; FIELDS.len()];
            values.clear();
            let alike = self.shapes[place].read(bytes, |slot, value| match slot {
                Slot::Envelope(place) => raw[place] = Some(value),
                Slot::Payload(place) => values.push((place, value)),
            });
            if alike {
                self.shapes[..=place].rotate_right(1);
                self.shapeless = 0;
                let line = line(&raw, self.shapes[0].context)?;
                return Some(Line { payload: Payload::Values, ..line });
            }
        }
        None
    }

    /// How many source texts are remembered.
    pub fn len(&self) -> usize {
        self.numbers.len()
    }

    /// Forgets all numbers of contexts.
    pub fn clear(&mut self) {
        self.last = None;
        self.numbers.clear();
        self.shapes.clear();
    }

    /// The source texts, unless the line is not an object of known fields that stand once.
    fn raw<'a>(&mut self, text: &'a str) -> Option<Raw<'a>> {
        let mut raw: Raw<'a> = [None; FIELDS.len()];
        let mut count = 0;
        json::for_each_field(text, |key, value| {
            let place = match self.order.get(count) {
                Some(place) if FIELDS[*place] == key => *place,
                _ => {
                    let place = FIELDS.iter().position(|f| *f == key).ok_or_else(irregular)?;
                    self.order.truncate(count);
                    self.order.push(place);
                    place
                }
            };
            count += 1;
            if raw[place].replace(value).is_some() { Err(irregular()) } else { Ok(()) }
        })
        .is_ok()
        .then_some(raw)
    }

    /// The number of the context with those source texts, if it was read before.
    fn number(&mut self, raw: &Raw) -> Option<u32> {
        if let Some((last, number)) = &self.last
            && CONTEXT.iter().zip(last).all(|(place, text)| raw[*place] == text.as_deref())
        {
            return Some(*number);
        }
        let pinned = CONTEXT.map(|place| raw[place].map(Box::from));
        let number = *self.numbers.get(&pinned)?;
        self.last = Some((pinned, number));
        Some(number)
    }
}

fn irregular() -> JsonFault {
    JsonFault(String::new())
}

/// The line of those source texts, unless a field has a fault.
fn line<'a>(raw: &Raw<'a>, context: u32) -> Option<Line<'a>> {
    let text = |place: usize, longest: usize| match raw[place] {
        None => Some(None),
        Some(value) => text_of(value, longest).map(Some),
    };
    let payload = raw[PAYLOAD];
    if payload.is_some_and(|object| !object.starts_with('{')) {
        return None;
    }
    let own = Own {
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
    Some(Line { context, own, payload: Payload::Object(payload) })
}

fn text_of(raw: &str, longest: usize) -> Option<Cow<'_, str>> {
    json::string(raw).ok().filter(|text| fits(text, longest))
}

fn time_of(raw: &str) -> Option<i64> {
    parse_rfc3339_micros(&json::string(raw).ok()?)
}

/// Whether a text has 1 to `longest` characters.
pub fn fits(text: &str, longest: usize) -> bool {
    !text.is_empty() && (text.len() <= longest || text.chars().count() <= longest)
}

/// What can be read of a line that has a fault.
#[derive(Default)]
pub struct Glimpse {
    /// Its event type.
    pub event_type: Option<String>,
    /// Its event id.
    pub event_id: Option<String>,
    /// Its event time.
    pub ts_utc: Option<i64>,
}

impl Glimpse {
    /// Reads what can be read; of a field that stands twice, the first.
    pub fn of(bytes: &[u8]) -> Glimpse {
        let mut glimpse = Glimpse::default();
        let Ok(text) = std::str::from_utf8(bytes) else { return glimpse };
        let outcome = json::for_each_field(text, |key, value| {
            match key {
                "event_type" => {
                    glimpse.event_type =
                        glimpse.event_type.take().or_else(|| text_of(value, 256).map(Cow::into_owned))
                }
                "event_id" => {
                    glimpse.event_id =
                        glimpse.event_id.take().or_else(|| text_of(value, 256).map(Cow::into_owned))
                }
                "ts_utc" => glimpse.ts_utc = glimpse.ts_utc.or_else(|| time_of(value)),
                _ => {}
            }
            Ok(())
        });
        // Of a text that is torn in the middle nothing is believed.
        if outcome.is_ok() { glimpse } else { Glimpse::default() }
    }
}
