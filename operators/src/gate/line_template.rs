//! Templates of JSON lines: reads a line that matches an earlier one without parsing it again.
//!
//! A producer writes all its records in one way, so a line differs from an earlier line only in a
//! few scalars. A template is an earlier line with slots in place of these scalars. A line with the
//! same bytes around the slots, and one JSON scalar in each slot, is JSON with the same keys in the
//! same order, because the template was parsed, and JSON allows any scalar where it allows one. For
//! the same reason the line is UTF-8 when each slot is.

use tidegate_facts::PayloadSchema;
use tidegate_facts::envelope::FIELDS;
use tidegate_facts::strict_json;

use super::number::is_number;

/// A template of JSON lines: an earlier line with slots for the scalars that may differ.
pub struct LineTemplate {
    text: String,
    /// In the order of the text.
    slots: Vec<Slot>,
    /// The number of the line's context; no slot is part of the context.
    pub context: u32,
}

/// A byte range of the template that a matching line may fill with another scalar.
struct Slot {
    start: usize,
    end: usize,
    field: SlotField,
}

/// The field whose value is in a slot of a line template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotField {
    /// The field of the envelope with this index in [`FIELDS`].
    Envelope(usize),
    /// The field of the payload with this index in its schema.
    Payload(usize),
}

impl LineTemplate {
    /// The template of a line that is valid under `schema`, with slots for the payload and for the
    /// envelope fields with indexes `fields`.
    ///
    /// `None` when one of the values is not a scalar, or a string with escapes.
    pub fn of(text: &str, fields: &[usize], schema: &PayloadSchema, context: u32) -> Option<LineTemplate> {
        let mut slots: Vec<Slot> = Vec::new();
        let mut all_scalar = true;
        let mut add_slot = |value: &str, field: SlotField| {
            let start = value.as_ptr().addr() - text.as_ptr().addr();
            let end = start + value.len();
            all_scalar &= scalar_end(text.as_bytes(), start) == Some(end);
            slots.push(Slot { start, end, field });
        };
        strict_json::for_each_field(text, |key, value| {
            let index = FIELDS.iter().position(|field| *field == key).expect("the line is valid");
            if fields.contains(&index) {
                add_slot(value, SlotField::Envelope(index));
            } else if key == "payload" {
                strict_json::for_each_field(value, |key, value| {
                    let index = schema.index_of(key).expect("the payload is valid");
                    add_slot(value, SlotField::Payload(index));
                    Ok(())
                })?;
            }
            Ok(())
        })
        .expect("the line is valid");
        all_scalar.then(|| LineTemplate { text: text.to_owned(), slots, context })
    }

    /// Matches a line: passes the source text of each slot to `on_slot`, and returns `true`.
    ///
    /// Returns `false` for a line that does not match; it may have called `on_slot` before.
    pub fn read<'a>(&self, line: &'a [u8], mut on_slot: impl FnMut(SlotField, &'a str)) -> bool {
        let (mut at, mut template_at) = (0, 0);
        for slot in &self.slots {
            let fixed = &self.text.as_bytes()[template_at..slot.start];
            let start = at + fixed.len();
            if line.get(at..start) != Some(fixed) {
                return false;
            }
            let Some(end) = scalar_end(line, start) else { return false };
            let Ok(value) = std::str::from_utf8(&line[start..end]) else { return false };
            on_slot(slot.field, value);
            (at, template_at) = (end, slot.end);
        }
        line[at..] == self.text.as_bytes()[template_at..]
    }
}

/// The end of the scalar that begins at `start`; `None` when there is no scalar, or a string with
/// escapes.
fn scalar_end(line: &[u8], start: usize) -> Option<usize> {
    let rest = &line[start..];
    match *rest.first()? {
        b'"' => {
            let length = rest[1..].iter().position(|b| matches!(b, b'"' | b'\\' | 0..0x20))?;
            (rest[1 + length] == b'"').then_some(start + length + 2)
        }
        b'-' | b'0'..=b'9' => {
            let length = rest
                .iter()
                .take_while(|b| matches!(b, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E'))
                .count();
            is_number(&rest[..length]).then_some(start + length)
        }
        _ => {
            ["true", "false", "null"].iter().find(|w| rest.starts_with(w.as_bytes())).map(|w| start + w.len())
        }
    }
}

#[cfg(test)]
mod tests {
    use tidegate_facts::{Field, FieldType};

    use super::*;

    #[test]
    fn a_line_that_matches_is_read_and_any_other_is_not() {
        let field =
            |name: &str| Field { name: name.to_owned(), field_type: FieldType::Text, required: false };
        let schema = PayloadSchema { fields: vec![field("a"), field("b")] };
        let template =
            LineTemplate::of(r#"{"event_id":"x", "seed":7,"payload":{"b":1,"a":null}} "#, &[0], &schema, 0)
                .unwrap();
        assert!(LineTemplate::of(r#"{"event_id":"\u0041","payload":{}}"#, &[0], &schema, 0).is_none());
        assert!(LineTemplate::of(r#"{"event_id":"x","payload":{"a":"\n"}}"#, &[0], &schema, 0).is_none());
        let check = |text: &str, slots: &[&str]| {
            let mut found = Vec::new();
            let read =
                template.read(text.as_bytes(), |field, value| found.push(format!("{field:?} {value}")));
            assert_eq!(read, !slots.is_empty(), "{text}");
            if read {
                assert_eq!(found, slots);
            }
        };
        check(
            r#"{"event_id":"yé", "seed":7,"payload":{"b":-1.5e+3,"a":true}} "#,
            &[r#"Envelope(0) "yé""#, "Payload(1) -1.5e+3", "Payload(0) true"],
        );
        for other in [
            "",
            r#"{"event_id":"#,
            r#"{"event_id":"x"#,
            r#"{"event_id":"x", "seed":8,"payload":{"b":1,"a":null}} "#,
            r#"{"event_id":"x", "seed":7,"payload":{"b":1,"a":null}}"#,
            r#"{"event_id":"x", "seed":7,"payload":{"b":1,"a":null}}  "#,
            r#"{"event_id":"x", "seed":7,"payload":{"b":01,"a":null}} "#,
            r#"{"event_id":"x", "seed":7,"payload":{"b":1-,"a":null}} "#,
            r#"{"event_id":"x", "seed":7,"payload":{"b":[],"a":null}} "#,
            r#"{"event_id":"x", "seed":7,"payload":{"b":1,"a":nulll}} "#,
            "{\"event_id\":\"x\n\", \"seed\":7,\"payload\":{\"b\":1,\"a\":null}} ",
            r#"{"event_id":"\u0041", "seed":7,"payload":{"b":1,"a":null}} "#,
        ] {
            check(other, &[]);
        }
    }
}
