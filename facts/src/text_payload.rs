//! Payloads of control facts: schema, writer and reader from one declaration.
//!
//! The fields of such a payload are texts alone, so that any reader of the log can display them.
//! A number is the text of its decimal digits, a digest that of its hexadecimal digits.
//!
//! ```
//! use tidegate_facts::Digest;
//! use tidegate_facts::text_payload::TextPayload;
//!
//! #[derive(TextPayload, Debug, PartialEq)]
//! struct Note {
//!     about: Digest,
//!     lines: u64,
//!     text: Option<String>,
//! }
//!
//! let note = Note { about: Digest::of(b"a"), lines: 3, text: None };
//! assert_eq!(Note::FIELDS, [("about", false), ("lines", false), ("text", true)]);
//! assert_eq!(note.to_json()["lines"], "3");
//! ```

use arrow::array::{Array, AsArray, RecordBatch, StringArray};

pub use tidegate_derive::TextPayload;

use crate::{Digest, Tick, columns};

/// The payload of a control fact, whose fields are texts. `#[derive(TextPayload)]` implements it.
pub trait TextPayload: Sized {
    /// The name of each field, and whether it may be absent, in the order of the declaration.
    const FIELDS: &'static [(&'static str, bool)];

    /// The text of each field, in the order of [`TextPayload::FIELDS`].
    fn texts(&self) -> Vec<Option<String>>;

    /// The payload with these texts, one for each of [`TextPayload::FIELDS`].
    ///
    /// # Errors
    /// A sentence that names the first field whose text is missing or invalid.
    fn of_texts(texts: &[Option<&str>]) -> Result<Self, String>;

    /// The payload as a JSON object without its absent fields.
    fn to_json(&self) -> serde_json::Value {
        let fields = Self::FIELDS.iter().zip(self.texts());
        let present = fields.filter_map(|((name, _), text)| Some(((*name).to_owned(), text?.into())));
        present.collect::<serde_json::Map<String, serde_json::Value>>().into()
    }

    /// The payload of each row of a frame of facts, with the row's tick.
    ///
    /// # Errors
    /// A sentence that says how the frame differs from what the gate writes.
    fn read(rows: &RecordBatch) -> Result<Vec<(Tick, Self)>, String> {
        let ticks = columns::find_ticks(rows).ok_or("a control fact has no tick")?;
        let payload = rows.column_by_name(columns::PAYLOAD).and_then(|payload| payload.as_struct_opt());
        let payload = payload.ok_or("a control fact has no payload")?;
        let field = |(name, _): &(&str, bool)| {
            let texts = payload.column_by_name(name).and_then(|column| column.as_string_opt::<i32>());
            texts.ok_or_else(|| format!("a control fact has no field `{name}`"))
        };
        let fields: Vec<&StringArray> = Self::FIELDS.iter().map(field).collect::<Result<_, _>>()?;
        let text = |texts: &StringArray, row| texts.is_valid(row).then(|| texts.value(row).to_owned());
        let read = |(row, tick): (usize, &i64)| {
            let texts: Vec<Option<String>> = fields.iter().map(|texts| text(texts, row)).collect();
            let texts: Vec<Option<&str>> = texts.iter().map(Option::as_deref).collect();
            Ok((Tick(*tick), Self::of_texts(&texts)?))
        };
        ticks.values().iter().enumerate().map(read).collect()
    }
}

/// The table of a payload of texts in the gate policy of control facts, as TOML lines.
pub fn policy_lines<P: TextPayload>() -> String {
    let line =
        |(name, optional): &(&str, bool)| format!("{name} = \"text{}\"\n", if *optional { "?" } else { "" });
    P::FIELDS.iter().map(line).collect()
}

/// A type that a field of a payload of texts can have.
pub trait TextField: Sized {
    /// Whether the field may be absent.
    const OPTIONAL: bool = false;

    /// The text of a value; nothing if the field is absent.
    fn to_text(&self) -> Option<String>;

    /// The value of a text.
    ///
    /// # Errors
    /// What is wrong with the text, as the end of a sentence.
    fn parse(text: &str) -> Result<Self, String>;

    /// The value of an absent field, if the field may be absent.
    fn absent() -> Option<Self> {
        None
    }
}

/// The value of field `name` of a payload of texts.
///
/// # Errors
/// A sentence that names the field, when its text is missing or invalid.
pub fn of_text<T: TextField>(name: &str, text: Option<&str>) -> Result<T, String> {
    match text {
        Some(text) => T::parse(text).map_err(|error| format!("`{text}` of `{name}` {error}")),
        None => T::absent().ok_or_else(|| format!("a control fact has no `{name}`")),
    }
}

/// The item of `all` whose name is `text`, the text of a payload's field.
///
/// # Errors
/// What is wrong with the text, as the end of a sentence.
pub fn named<T: Copy>(all: &[T], name: fn(T) -> &'static str, text: &str) -> Result<T, String> {
    all.iter().copied().find(|item| name(*item) == text).ok_or_else(|| "is an unknown name".to_owned())
}

impl TextField for String {
    fn to_text(&self) -> Option<String> {
        Some(self.clone())
    }

    fn parse(text: &str) -> Result<String, String> {
        Ok(text.to_owned())
    }
}

impl TextField for u64 {
    fn to_text(&self) -> Option<String> {
        Some(self.to_string())
    }

    fn parse(text: &str) -> Result<u64, String> {
        text.parse().map_err(|_| "is not a number".to_owned())
    }
}

impl TextField for Tick {
    fn to_text(&self) -> Option<String> {
        Some(self.0.to_string())
    }

    fn parse(text: &str) -> Result<Tick, String> {
        let number = text.parse().ok().filter(|number: &i64| *number >= 0);
        number.map(Tick).ok_or_else(|| "is not a tick".to_owned())
    }
}

impl TextField for Digest {
    fn to_text(&self) -> Option<String> {
        Some(self.to_hex())
    }

    fn parse(text: &str) -> Result<Digest, String> {
        Digest::from_hex(text).ok_or_else(|| "is not a digest".to_owned())
    }
}

impl<T: TextField> TextField for Option<T> {
    const OPTIONAL: bool = true;

    fn to_text(&self) -> Option<String> {
        self.as_ref().and_then(T::to_text)
    }

    fn parse(text: &str) -> Result<Option<T>, String> {
        T::parse(text).map(Some)
    }

    fn absent() -> Option<Option<T>> {
        Some(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(TextPayload, Debug, PartialEq)]
    struct Note {
        about: Digest,
        at: Tick,
        lines: u64,
        text: Option<String>,
    }

    #[test]
    fn a_payload_comes_back_from_its_texts_and_a_wrong_text_is_named() {
        for text in [None, Some("hello".to_owned())] {
            let note = Note { about: Digest::of(b"a"), at: Tick(7), lines: 3, text };
            let texts = note.texts();
            let texts: Vec<Option<&str>> = texts.iter().map(Option::as_deref).collect();
            assert_eq!(Note::of_texts(&texts), Ok(note));
        }
        let digest = Digest::of(b"a").to_hex();
        let wrong = |texts: [Option<&str>; 4]| Note::of_texts(&texts).unwrap_err();
        assert_eq!(wrong([None, None, None, None]), "a control fact has no `about`");
        assert_eq!(wrong([Some("a"), None, None, None]), "`a` of `about` is not a digest");
        assert_eq!(wrong([Some(&digest), Some("-1"), None, None]), "`-1` of `at` is not a tick");
        assert_eq!(wrong([Some(&digest), Some("1"), Some("x"), None]), "`x` of `lines` is not a number");
        assert_eq!(
            policy_lines::<Note>(),
            "about = \"text\"\nat = \"text\"\nlines = \"text\"\ntext = \"text?\"\n"
        );
    }
}
