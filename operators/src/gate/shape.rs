//! Lines that are alike: what was learnt of one line, read off the next without parsing it again.
//!
//! A producer writes its records one way, so that a line differs from an earlier one in a few
//! scalars only. A shape is an earlier line with holes where those stand. A line that has the same
//! bytes around the holes, and one JSON scalar in each, is JSON with the same keys in the same
//! order: the shape was parsed, and a scalar may stand where another stood. For the same reason it is
//! UTF-8 when each hole is.

use tidegate_facts::PayloadSchema;
use tidegate_facts::envelope::FIELDS;
use tidegate_facts::json;

use super::literal::is_number;

/// An earlier line with holes.
pub struct Shape {
    text: String,
    /// In the order of the text.
    holes: Vec<Hole>,
    /// The number of its context, which is not in any hole.
    pub context: u32,
}

struct Hole {
    start: usize,
    end: usize,
    slot: Slot,
}

/// What stands in a hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// The field of the envelope at this place of [`FIELDS`].
    Envelope(usize),
    /// The field of the payload at this place of its schema.
    Payload(usize),
}

impl Shape {
    /// The shape of a line that has no fault under `schema`, with holes for the payload and the fields of `own`.
    ///
    /// `None` when one of these is a string with escapes: what no hole gives would be lost.
    pub fn of(text: &str, own: &[usize], schema: &PayloadSchema, context: u32) -> Option<Shape> {
        let mut holes: Vec<Hole> = Vec::new();
        let mut is_whole = true;
        let mut dig = |value: &str, slot: Slot| {
            let start = value.as_ptr().addr() - text.as_ptr().addr();
            let end = start + value.len();
            is_whole &= scalar_end(text.as_bytes(), start) == Some(end);
            holes.push(Hole { start, end, slot });
        };
        json::for_each_field(text, |key, value| {
            let place = FIELDS.iter().position(|field| *field == key).expect("the line has no fault");
            if own.contains(&place) {
                dig(value, Slot::Envelope(place));
            } else if key == "payload" {
                json::for_each_field(value, |key, value| {
                    dig(value, Slot::Payload(schema.index_of(key).expect("the payload has no fault")));
                    Ok(())
                })?;
            }
            Ok(())
        })
        .expect("the line has no fault");
        is_whole.then(|| Shape { text: text.to_owned(), holes, context })
    }

    /// Reads a line of this shape: `fill` gets the source text of each hole. `false` for a line of another shape.
    pub fn read<'a>(&self, line: &'a [u8], mut fill: impl FnMut(Slot, &'a str)) -> bool {
        let (mut at, mut shape_at) = (0, 0);
        for hole in &self.holes {
            let around = &self.text.as_bytes()[shape_at..hole.start];
            let start = at + around.len();
            if line.get(at..start) != Some(around) {
                return false;
            }
            let Some(end) = scalar_end(line, start) else { return false };
            let Ok(value) = std::str::from_utf8(&line[start..end]) else { return false };
            fill(hole.slot, value);
            (at, shape_at) = (end, hole.end);
        }
        line[at..] == self.text.as_bytes()[shape_at..]
    }
}

/// Where the scalar ends that stands at `start`; `None` for what is no scalar, or a string with escapes.
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
    fn a_line_of_the_shape_is_read_and_any_other_is_not() {
        let field =
            |name: &str| Field { name: name.to_owned(), field_type: FieldType::Text, required: false };
        let schema = PayloadSchema { fields: vec![field("a"), field("b")] };
        let shape =
            Shape::of(r#"{"event_id":"x", "seed":7,"payload":{"b":1,"a":null}} "#, &[0], &schema, 0).unwrap();
        assert!(Shape::of(r#"{"event_id":"\u0041","payload":{}}"#, &[0], &schema, 0).is_none());
        assert!(Shape::of(r#"{"event_id":"x","payload":{"a":"\n"}}"#, &[0], &schema, 0).is_none());
        let check = |text: &str, holes: &[&str]| {
            let mut found = Vec::new();
            let read = shape.read(text.as_bytes(), |slot, value| found.push(format!("{slot:?} {value}")));
            assert_eq!(read, !holes.is_empty(), "{text}");
            if read {
                assert_eq!(found, holes);
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
