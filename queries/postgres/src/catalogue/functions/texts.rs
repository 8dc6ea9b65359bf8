//! Functions that format names, literals, sizes and JSON, such as `quote_ident`, `format` and
//! `pg_size_pretty`.

use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;

use super::scalar::{Function, number, text};
use crate::catalogue::cluster::UTF8;
use crate::catalogue::objects::quote_ident;
use crate::error::SqlError;

pub(super) fn all() -> Vec<Function> {
    vec![
        Function::new("quote_ident", (1, 1), DataType::Utf8, |args, _| {
            Ok(ScalarValue::from(quote_ident(text(&args[0])?)))
        }),
        Function::new("quote_literal", (1, 1), DataType::Utf8, |args, _| {
            Ok(ScalarValue::from(quote_literal(&written(&args[0]))))
        }),
        Function::new("like_escape", (2, 2), DataType::Utf8, |args, _| {
            Ok(ScalarValue::from(like_escape(text(&args[0])?, text(&args[1])?)?))
        }),
        Function::new("format", (1, ARGUMENTS_MAX), DataType::Utf8, |args, _| {
            if args[0].is_null() {
                return Ok(ScalarValue::Utf8(None));
            }
            Ok(ScalarValue::from(format(text(&args[0])?, &args[1..])?))
        })
        .for_nulls(),
        Function::new("pg_encoding_to_char", (1, 1), DataType::Utf8, |args, _| {
            let name = if number(&args[0])? == i64::from(UTF8) { "UTF8" } else { "" };
            Ok(ScalarValue::from(name))
        })
        .returning("name"),
        Function::new("pg_char_to_encoding", (1, 1), DataType::Int32, |args, _| {
            let name = text(&args[0])?.to_lowercase();
            let is_utf8 = ["utf8", "utf-8", "unicode"].contains(&name.as_str());
            Ok(ScalarValue::from(if is_utf8 { UTF8 } else { -1 }))
        }),
        Function::new("pg_size_pretty", (1, 1), DataType::Utf8, |args, _| {
            Ok(ScalarValue::from(size(number(&args[0])?)))
        }),
        Function::new("json_build_object", (0, ARGUMENTS_MAX), DataType::Utf8, |args, _| {
            Ok(ScalarValue::from(json_object(args)?))
        })
        .for_nulls()
        .returning("json"),
    ]
}

const ARGUMENTS_MAX: usize = 24;

/// A value as `format` writes it.
fn written(value: &ScalarValue) -> String {
    match value.try_as_str() {
        Some(text) => text.unwrap_or_default().to_owned(),
        None => value.to_string(),
    }
}

fn quote_literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    // A literal with backslashes is written in the `E` notation.
    if quoted.contains('\\') { format!("E'{}'", quoted.replace('\\', "\\\\")) } else { format!("'{quoted}'") }
}

/// A pattern of `LIKE` whose escape character becomes the backslash. The empty text means that no
/// character escapes.
fn like_escape(pattern: &str, escape: &str) -> Result<String, SqlError> {
    let mut escape = escape.chars();
    let (escape, None) = (escape.next(), escape.next()) else {
        return Err(SqlError::new("22025", "the escape of LIKE is a single character, or empty"));
    };
    let mut out = String::new();
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        if Some(c) == escape {
            let ends = || SqlError::new("22025", "a pattern of LIKE must not end with its escape character");
            out.extend(['\\', chars.next().ok_or_else(ends)?]);
        } else if c == '\\' {
            out.push_str("\\\\");
        } else {
            out.push(c);
        }
    }
    Ok(out)
}

/// Implements `format`: `%s` a text, `%I` a name, `%L` a literal, `%%` a percent sign.
fn format(pattern: &str, args: &[ScalarValue]) -> Result<String, SqlError> {
    let (mut out, mut args) = (String::new(), args.iter());
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let kind = chars.next();
        if kind == Some('%') {
            out.push('%');
            continue;
        }
        let arg = args.next().ok_or_else(|| SqlError::new("22023", "too few arguments for format()"))?;
        match kind {
            Some('s') if arg.is_null() => {}
            Some('s') => out.push_str(&written(arg)),
            Some('I') if arg.is_null() => {
                return Err(SqlError::new("22004", "null values cannot be formatted as an SQL identifier"));
            }
            Some('I') => out.push_str(&quote_ident(&written(arg))),
            Some('L') if arg.is_null() => out.push_str("NULL"),
            Some('L') => out.push_str(&quote_literal(&written(arg))),
            _ => return Err(SqlError::new("22023", "format() takes %s, %I, %L and %% here")),
        }
    }
    Ok(out)
}

/// A JSON object of alternating keys and values.
fn json_object(args: &[ScalarValue]) -> Result<String, SqlError> {
    let members = args.chunks(2).map(|pair| match pair {
        [key, _] if key.is_null() => Err(SqlError::new("22004", "a key of a JSON object cannot be null")),
        [key, value] => Ok(format!("{} : {}", json_string(&written(key)), json(value))),
        _ => Err(SqlError::new("22023", "a JSON object has a value for each key")),
    });
    let members = members.collect::<Result<Vec<_>, SqlError>>()?;
    Ok(format!("{{{}}}", members.join(", ")))
}

fn json(value: &ScalarValue) -> String {
    match value {
        value if value.is_null() => "null".to_owned(),
        ScalarValue::Boolean(_) => value.to_string(),
        value if value.data_type().is_numeric() => value.to_string(),
        value => json_string(&written(value)),
    }
}

fn json_string(text: &str) -> String {
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A size in the largest unit that gives fewer than 10240 of it.
fn size(bytes: i64) -> String {
    let units = ["bytes", "kB", "MB", "GB", "TB", "PB"];
    let (mut size, mut unit) = (bytes, 0);
    // Postgres rounds half up.
    while size.unsigned_abs() >= 10 * 1024 && unit + 1 < units.len() {
        size = (size + size.signum() * 512) / 1024;
        unit += 1;
    }
    format!("{size} {}", units[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_written_as_postgres_writes_them() {
        assert_eq!(quote_literal("it's"), "'it''s'");
        assert_eq!(quote_literal("a\\b"), "E'a\\\\b'");
        let args = [ScalarValue::from("Labels"), ScalarValue::from("it's"), ScalarValue::Utf8(None)];
        assert_eq!(format("%I: %L %s%%", &args).expect("three"), "\"Labels\": 'it''s' %");
        assert_eq!(format("%s", &[]).expect_err("none").state, "22023");
        assert_eq!(like_escape(r"x/_\%//", "/").expect("a pattern"), r"x\_\\%\/");
        assert_eq!(like_escape(r"x\_\%", "\\").expect("a pattern"), r"x\_\%");
        assert_eq!(like_escape(r"x\_", "").expect("a pattern"), r"x\\_");
        assert_eq!(like_escape("x/", "/").expect_err("it is cut").state, "22025");
        let args = ["a\"b", "x"].map(ScalarValue::from);
        assert_eq!(json_object(&args).expect("a pair"), r#"{"a\"b" : "x"}"#);
        for (bytes, pretty) in
            [(0, "0 bytes"), (10_239, "10239 bytes"), (10_240, "10 kB"), (20_000_000, "19 MB")]
        {
            assert_eq!(size(bytes), pretty);
        }
    }
}
