//! A strict JSON reader for untrusted input, and its canonical form (RFC 8785).
//!
//! It bounds the depth of nesting, and refuses repeated keys and numbers that a 64-bit float would
//! change.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::jcs;

/// The greatest depth to which objects and arrays may nest in a JSON text that the strict reader
/// accepts.
pub const DEPTH_MAX: usize = 32;

/// Why the strict reader refused a JSON text, as a sentence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct JsonError(pub String);

/// Reads the untrusted JSON object `text`: calls `field` with each key and the source text of its
/// value, in order.
///
/// Keys may repeat: `field` gets each of them and may refuse the second. The source text of a value
/// is checked for syntax and has no white space around it.
///
/// # Errors
/// When `text` is not one JSON object; else the first error that `field` returns.
pub fn for_each_field<'a>(
    text: &'a str,
    mut field: impl FnMut(&str, &'a str) -> Result<(), JsonError>,
) -> Result<(), JsonError> {
    struct Fields<F>(F);
    impl<'a, F: FnMut(&str, &'a str) -> Result<(), JsonError>> Visitor<'a> for Fields<&mut F> {
        type Value = Result<(), JsonError>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }
        fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut outcome = Ok(());
            while let Some(Key(key)) = map.next_key()? {
                let value: &RawValue = map.next_value()?;
                if outcome.is_ok() {
                    outcome = self.0(&key, value.get());
                }
            }
            Ok(outcome)
        }
    }
    let mut reader = serde_json::Deserializer::from_str(text);
    let outcome = reader.deserialize_map(Fields(&mut field)).map_err(|e| unreadable(&e))?;
    reader.end().map_err(|e| unreadable(&e))?;
    outcome
}

/// An object key, which borrows from the text unless it contains an escape.
#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

/// The string that `raw` encodes, the source text of a value in untrusted JSON.
///
/// # Errors
/// When `raw` is not a JSON string.
pub fn string(raw: &str) -> Result<Cow<'_, str>, JsonError> {
    let inner =
        raw.strip_prefix('"').and_then(|r| r.strip_suffix('"')).ok_or_else(|| expected("a string", raw))?;
    if inner.contains('\\') {
        serde_json::from_str::<String>(raw).map(Cow::Owned).map_err(|e| unreadable(&e))
    } else {
        Ok(Cow::Borrowed(inner))
    }
}

/// The error of the strict JSON reader when it expected `what` and found `raw`.
pub fn expected(what: &str, raw: &str) -> JsonError {
    JsonError(format!("expected {what}, found {}", excerpt(raw)))
}

/// The first 40 characters of an untrusted JSON text, which is as much as an error quotes.
pub fn excerpt(text: &str) -> Cow<'_, str> {
    const CHARS_MAX: usize = 40;
    match text.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => Cow::Owned(format!("{}…", &text[..end])),
        None => Cow::Borrowed(text),
    }
}

/// The error of the JSON parser, shortened, because it may quote the text at any length.
fn unreadable(error: &serde_json::Error) -> JsonError {
    const CHARS_MAX: usize = 160;
    let message = error.to_string();
    match message.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => {
            JsonError(format!("{}… at line {} column {}", &message[..end], error.line(), error.column()))
        }
        None => JsonError(message),
    }
}

/// Reads any JSON text strictly, and returns its canonical form (RFC 8785).
///
/// # Errors
/// On a syntax error, a repeated key in an object, nesting deeper than [`DEPTH_MAX`], or a number
/// that a 64-bit float would change.
pub fn canonical(text: &str) -> Result<String, JsonError> {
    // This checks the syntax of the whole text once; the parts below are then known to be JSON.
    let value: &RawValue = serde_json::from_str(text).map_err(|e| unreadable(&e))?;
    let mut out = Vec::with_capacity(text.len());
    push_canonical(value.get(), 0, &mut out)?;
    Ok(String::from_utf8(out).expect("JSON text is UTF-8"))
}

fn push_canonical(raw: &str, depth: usize, out: &mut Vec<u8>) -> Result<(), JsonError> {
    if depth > DEPTH_MAX {
        return Err(JsonError(format!("objects and arrays nest deeper than {DEPTH_MAX}")));
    }
    match raw.as_bytes().first() {
        Some(b'{') => {
            // RFC 8785 sorts keys by UTF-16 code units. That order differs from the order of texts
            // only for characters outside the basic multilingual plane.
            let mut fields: BTreeMap<Vec<u16>, (String, &str)> = BTreeMap::new();
            for_each_field(raw, |key, value| {
                match fields.insert(key.encode_utf16().collect(), (key.to_owned(), value)) {
                    None => Ok(()),
                    Some(_) => {
                        Err(JsonError(format!("the key {:?} is repeated in one object", excerpt(key))))
                    }
                }
            })?;
            out.push(b'{');
            for (index, (key, value)) in fields.into_values().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                jcs::push_string(&key, out);
                out.push(b':');
                push_canonical(value, depth + 1, out)?;
            }
            out.push(b'}');
        }
        Some(b'[') => {
            out.push(b'[');
            for (index, item) in items(raw)?.into_iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                push_canonical(item, depth + 1, out)?;
            }
            out.push(b']');
        }
        Some(b'"') => jcs::push_string(&string(raw)?, out),
        Some(b't' | b'f' | b'n') if ["true", "false", "null"].contains(&raw) => {
            out.extend_from_slice(raw.as_bytes())
        }
        _ => push_number(raw, out)?,
    }
    Ok(())
}

/// The source texts of the items of a JSON array.
fn items(raw: &str) -> Result<Vec<&str>, JsonError> {
    struct Items;
    impl<'a> Visitor<'a> for Items {
        type Value = Vec<&'a str>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an array")
        }
        fn visit_seq<A: SeqAccess<'a>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
            let mut items = Vec::new();
            while let Some(item) = seq.next_element::<&RawValue>()? {
                items.push(item.get());
            }
            Ok(items)
        }
    }
    let mut reader = serde_json::Deserializer::from_str(raw);
    let items = reader.deserialize_seq(Items).map_err(|e| unreadable(&e))?;
    reader.end().map_err(|e| unreadable(&e))?;
    Ok(items)
}

fn push_number(raw: &str, out: &mut Vec<u8>) -> Result<(), JsonError> {
    serde_json::from_str::<IgnoredAny>(raw).map_err(|_| expected("a number", raw))?;
    // The standard library gives the nearest float; serde_json may be one unit in the last place
    // off.
    let value: f64 = raw.parse().map_err(|_| expected("a number", raw))?;
    let start = out.len();
    let printed = jcs::push_float(value, out);
    let same = printed
        && std::str::from_utf8(&out[start..]).is_ok_and(|text| Significant::of(text) == Significant::of(raw));
    if same {
        Ok(())
    } else {
        Err(JsonError(format!(
            "the number {} does not fit a 64-bit float; send it as a string",
            excerpt(raw)
        )))
    }
}

/// A decimal literal reduced to its value: sign, significant digits, power of ten.
#[derive(PartialEq, Eq)]
struct Significant {
    negative: bool,
    digits: String,
    exponent: i64,
}

impl Significant {
    /// `None` when the exponent is out of range of 64 bits.
    fn of(literal: &str) -> Option<Significant> {
        let (negative, literal) = match literal.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, literal),
        };
        let (mantissa, exponent) = literal.split_once(['e', 'E']).unwrap_or((literal, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let all = format!("{whole}{fraction}");
        let digits = all.trim_start_matches('0').trim_end_matches('0');
        if digits.is_empty() {
            // RFC 8785 prints -0 as 0, which is the same value.
            return Some(Significant { negative: false, digits: String::new(), exponent: 0 });
        }
        let zeros_after = all.len() - all.trim_end_matches('0').len();
        let exponent: i64 = exponent.parse().ok()?;
        let exponent = exponent.checked_sub(fraction.len() as i64)?.checked_add(zeros_after as i64)?;
        Some(Significant { negative, digits: digits.to_owned(), exponent })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_canonical_form_is_that_of_rfc_8785() {
        // The example of RFC 8785, section 3.2.2, without its one number that loses digits.
        let text = r#"{
          "numbers": [1E30, 4.50, 2e-3, 0.000000000000000000000000001],
          "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/",
          "literals": [null, true, false]
        }"#;
        assert_eq!(
            canonical(text).unwrap(),
            r#"{"literals":[null,true,false],"numbers":[1e+30,4.5,0.002,1e-27],"string":"€$\u000f\nA'B\"\\\\\"/"}"#
        );
        assert_eq!(canonical("[-0, 1.0, 100, 1e2, 0.1e1]").unwrap(), "[0,1,100,100,1]");
        assert_eq!(canonical("[740e208, 7.4e+210]").unwrap(), "[7.4e+210,7.4e+210]");
    }

    #[test]
    fn numbers_that_a_float_would_change_are_refused() {
        for text in ["12345678901234567890", "0.10000000000000001", "333333333.33333329", "1e400", "-1e-400"]
        {
            let error = canonical(text).unwrap_err();
            assert!(error.0.contains("64-bit float"), "{text}: {error}");
        }
    }

    #[test]
    fn hostile_texts_are_errors_and_never_panics() {
        let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
        for text in [
            r#"{"a":1,"a":2}"#,
            r#"{"a":1,"\u0061":2}"#,
            deep.as_str(),
            "{",
            "{}{}",
            "NaN",
            "Infinity",
            "-",
            "01",
            "1.",
            "'a'",
            r#""\ud800""#,
            "\"\n\"",
            "",
            "nul",
            "truely",
            "[1,]",
            "{\"a\":}",
        ] {
            assert!(canonical(text).is_err(), "{}", &text[..text.len().min(30)]);
        }
    }
}
