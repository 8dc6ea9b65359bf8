//! A writer of canonical JSON (JCS, RFC 8785) that reads Arrow columns directly.
//!
//! Every digest in Tidegate is over this form, so that an auditor can recompute it in any language.
//! The type of a column determines its form, never the value:
//!
//! | column type | canonical JSON |
//! |---|---|
//! | bool | `true`, `false` |
//! | int8 to int32, uint8 to uint32, finite floats | a number, as ECMAScript prints it |
//! | int64, uint64 | a string of digits |
//! | decimal | a string with all digits of the declared scale |
//! | timestamp | a string, RFC 3339 with six fractional digits |
//! | text | a string |
//! | binary | a string of hexadecimal digits |
//! | list | an array |
//!
//! Objects leave out null fields, so that a schema can gain optional fields without changing old
//! digests.

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Decimal128Array, FixedSizeBinaryArray, FixedSizeListArray,
    Float32Array, Float64Array, Int8Array, Int16Array, Int32Array, Int64Array, ListArray, StringArray,
    TimestampMicrosecondArray, UInt8Array, UInt16Array, UInt32Array, UInt64Array,
};
use arrow::datatypes::{DataType, Int32Type, TimeUnit};

use crate::time::{rfc3339, to_rfc3339};

/// Writes rows of Arrow columns as canonical JSON objects (JCS), with one field for each column.
pub struct ObjectWriter<'a> {
    /// The text `"key":` and the values of each field, sorted by the UTF-16 code units of the key.
    fields: Vec<(String, Cells<'a>)>,
}

/// A column, downcast once, so that each row costs only a match and a write.
enum Cells<'a> {
    Bool(&'a BooleanArray),
    Int8(&'a Int8Array),
    Int16(&'a Int16Array),
    Int32(&'a Int32Array),
    Int64(&'a Int64Array),
    UInt8(&'a UInt8Array),
    UInt16(&'a UInt16Array),
    UInt32(&'a UInt32Array),
    UInt64(&'a UInt64Array),
    Float32(&'a Float32Array),
    Float64(&'a Float64Array),
    Decimal(&'a Decimal128Array, usize),
    Text(&'a StringArray),
    /// A dictionary column, and the JSON text of each of its values; keys and values may be null.
    Dictionary(&'a arrow::array::DictionaryArray<Int32Type>, Vec<Option<Box<[u8]>>>),
    Time(&'a TimestampMicrosecondArray),
    Bytes(&'a FixedSizeBinaryArray),
    List(&'a ListArray, Box<Cells<'a>>),
    FixedList(&'a FixedSizeListArray, Box<Cells<'a>>),
    Null,
}

/// Appends a float; writes nothing and returns `false` when it cannot.
type PushFloat = fn(f64, &mut Vec<u8>) -> bool;

/// The error for a column whose type has no canonical JSON form (JCS).
#[derive(Debug, thiserror::Error)]
#[error(
    "column `{column}` has type {data_type}, which has no canonical JSON form; cast it to a type that has one"
)]
pub struct UnsupportedType {
    /// The name of the column.
    pub column: String,
    /// The type of the column.
    pub data_type: DataType,
}

/// Whether Arrow columns of this type have a canonical JSON form (JCS).
pub fn is_supported(data_type: &DataType) -> bool {
    Cells::of(arrow::array::new_empty_array(data_type).as_ref()).is_some()
}

impl<'a> ObjectWriter<'a> {
    /// A writer for the named columns, which all have the same length.
    ///
    /// # Errors
    /// For a column type that is not in the table of this module.
    pub fn new<'n>(
        columns: impl IntoIterator<Item = (&'n str, &'a ArrayRef)>,
    ) -> Result<ObjectWriter<'a>, UnsupportedType> {
        let mut columns: Vec<_> = columns.into_iter().collect();
        columns.sort_by(|(a, _), (b, _)| a.encode_utf16().cmp(b.encode_utf16()));
        let mut fields = Vec::with_capacity(columns.len());
        for (name, array) in columns {
            let cells = Cells::of(array.as_ref()).ok_or_else(|| UnsupportedType {
                column: name.to_owned(),
                data_type: array.data_type().clone(),
            })?;
            let mut key = Vec::new();
            push_string(name, &mut key);
            key.push(b':');
            fields.push((String::from_utf8(key).expect("JSON text is UTF-8"), cells));
        }
        Ok(ObjectWriter { fields })
    }

    /// Appends the object of the row at index `row`.
    ///
    /// # Errors
    /// The name of a field whose value is not a finite number, which JSON cannot express.
    pub fn push_row(&self, row: usize, out: &mut Vec<u8>) -> Result<(), String> {
        out.push(b'{');
        let mut first = true;
        for (key, cells) in &self.fields {
            if cells.is_null(row) {
                continue;
            }
            if !std::mem::take(&mut first) {
                out.push(b',');
            }
            out.extend_from_slice(key.as_bytes());
            if !cells.push(row, out, push_float) {
                return Err(key.trim_end_matches(':').trim_matches('"').to_owned());
            }
        }
        out.push(b'}');
        Ok(())
    }
}

/// Writes rows of Arrow columns as the items of canonical JSON arrays (JCS), in the order of the
/// columns.
///
/// It is for records whose column names are hashed separately. Every row has a form: a null becomes
/// `null`, and a float that is not finite becomes the string `"NaN"`, `"Infinity"` or
/// `"-Infinity"`.
pub struct ArrayWriter<'a> {
    columns: Vec<Cells<'a>>,
}

impl<'a> ArrayWriter<'a> {
    /// A writer for the named columns, which all have the same length.
    ///
    /// # Errors
    /// For a column type that is not in the table of this module.
    pub fn new<'n>(
        columns: impl IntoIterator<Item = (&'n str, &'a ArrayRef)>,
    ) -> Result<ArrayWriter<'a>, UnsupportedType> {
        let columns = columns.into_iter().map(|(name, array)| {
            Cells::of(array.as_ref()).ok_or_else(|| UnsupportedType {
                column: name.to_owned(),
                data_type: array.data_type().clone(),
            })
        });
        Ok(ArrayWriter { columns: columns.collect::<Result<_, _>>()? })
    }

    /// Appends the values of the row at index `row`, each after a comma.
    pub fn push_values(&self, row: usize, out: &mut Vec<u8>) {
        for cells in &self.columns {
            out.push(b',');
            if cells.is_null(row) {
                out.extend_from_slice(b"null");
            } else {
                cells.push(row, out, push_any_float);
            }
        }
    }
}

impl<'a> Cells<'a> {
    fn of(array: &'a dyn Array) -> Option<Cells<'a>> {
        Some(match array.data_type() {
            DataType::Null => Cells::Null,
            DataType::Boolean => Cells::Bool(array.as_boolean()),
            DataType::Int8 => Cells::Int8(array.as_primitive()),
            DataType::Int16 => Cells::Int16(array.as_primitive()),
            DataType::Int32 => Cells::Int32(array.as_primitive()),
            DataType::Int64 => Cells::Int64(array.as_primitive()),
            DataType::UInt8 => Cells::UInt8(array.as_primitive()),
            DataType::UInt16 => Cells::UInt16(array.as_primitive()),
            DataType::UInt32 => Cells::UInt32(array.as_primitive()),
            DataType::UInt64 => Cells::UInt64(array.as_primitive()),
            DataType::Float32 => Cells::Float32(array.as_primitive()),
            DataType::Float64 => Cells::Float64(array.as_primitive()),
            DataType::Decimal128(_, scale) => {
                Cells::Decimal(array.as_primitive(), usize::try_from(*scale).ok()?)
            }
            DataType::Utf8 => Cells::Text(array.as_string()),
            DataType::Timestamp(TimeUnit::Microsecond, _) => Cells::Time(array.as_primitive()),
            DataType::FixedSizeBinary(_) => Cells::Bytes(array.as_fixed_size_binary()),
            DataType::Dictionary(key, _) if **key == DataType::Int32 => {
                let dictionary = array.as_dictionary::<Int32Type>();
                let texts = dictionary.values().as_string_opt::<i32>()?.iter();
                let written = texts.map(|text| {
                    let mut out = Vec::new();
                    push_string(text?, &mut out);
                    Some(out.into_boxed_slice())
                });
                Cells::Dictionary(dictionary, written.collect())
            }
            DataType::List(_) => {
                let list = array.as_list::<i32>();
                Cells::List(list, Box::new(Cells::of(list.values().as_ref())?))
            }
            DataType::FixedSizeList(_, _) => {
                let list = array.as_fixed_size_list();
                Cells::FixedList(list, Box::new(Cells::of(list.values().as_ref())?))
            }
            _ => return None,
        })
    }

    fn is_null(&self, row: usize) -> bool {
        match self {
            Cells::Bool(a) => a.is_null(row),
            Cells::Int8(a) => a.is_null(row),
            Cells::Int16(a) => a.is_null(row),
            Cells::Int32(a) => a.is_null(row),
            Cells::Int64(a) => a.is_null(row),
            Cells::UInt8(a) => a.is_null(row),
            Cells::UInt16(a) => a.is_null(row),
            Cells::UInt32(a) => a.is_null(row),
            Cells::UInt64(a) => a.is_null(row),
            Cells::Float32(a) => a.is_null(row),
            Cells::Float64(a) => a.is_null(row),
            Cells::Decimal(a, _) => a.is_null(row),
            Cells::Text(a) => a.is_null(row),
            Cells::Dictionary(a, values) => a.key(row).is_none_or(|key| values[key].is_none()),
            Cells::Time(a) => a.is_null(row),
            Cells::Bytes(a) => a.is_null(row),
            Cells::List(a, _) => a.is_null(row),
            Cells::FixedList(a, _) => a.is_null(row),
            Cells::Null => true,
        }
    }

    /// Appends the value of `row`; `false` for a number that JSON cannot express.
    fn push(&self, row: usize, out: &mut Vec<u8>, float: PushFloat) -> bool {
        match self {
            Cells::Bool(a) => out.extend_from_slice(if a.value(row) { b"true" } else { b"false" }),
            Cells::Int8(a) => push_integer(a.value(row).into(), out),
            Cells::Int16(a) => push_integer(a.value(row).into(), out),
            Cells::Int32(a) => push_integer(a.value(row).into(), out),
            Cells::UInt8(a) => push_integer(a.value(row).into(), out),
            Cells::UInt16(a) => push_integer(a.value(row).into(), out),
            Cells::UInt32(a) => push_integer(a.value(row).into(), out),
            Cells::Int64(a) => quoted(out, |out| push_integer(a.value(row).into(), out)),
            Cells::UInt64(a) => quoted(out, |out| push_integer(a.value(row).into(), out)),
            Cells::Float32(a) => return float(a.value(row).into(), out),
            Cells::Float64(a) => return float(a.value(row), out),
            Cells::Decimal(a, scale) => quoted(out, |out| push_decimal(a.value(row), *scale, out)),
            Cells::Text(a) => push_string(a.value(row), out),
            Cells::Dictionary(a, values) => {
                let text = a.key(row).and_then(|key| values[key].as_ref());
                out.extend_from_slice(text.expect("the caller leaves out nulls"));
            }
            Cells::Time(a) => quoted(out, |out| push_time(a.value(row), out)),
            Cells::Bytes(a) => quoted(out, |out| push_hex(a.value(row), out)),
            Cells::List(a, items) => {
                let offsets = a.value_offsets();
                let range = offsets[row].cast_unsigned() as usize..offsets[row + 1].cast_unsigned() as usize;
                return items.push_items(range, out, float);
            }
            Cells::FixedList(a, items) => {
                let width = a.value_length().cast_unsigned() as usize;
                let from = (a.offset() + row) * width;
                return items.push_items(from..from + width, out, float);
            }
            Cells::Null => out.extend_from_slice(b"null"),
        }
        true
    }

    fn push_items(&self, range: std::ops::Range<usize>, out: &mut Vec<u8>, float: PushFloat) -> bool {
        out.push(b'[');
        for item in range.clone() {
            if item > range.start {
                out.push(b',');
            }
            if self.is_null(item) {
                out.extend_from_slice(b"null");
            } else if !self.push(item, out, float) {
                return false;
            }
        }
        out.push(b']');
        true
    }
}

/// Appends a canonical JSON string: what `write` appends, between quotes; the text must need no
/// escapes.
pub fn quoted(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    out.push(b'"');
    write(out);
    out.push(b'"');
}

/// Appends a time as in canonical JSON: the text of [`to_rfc3339`] for microseconds since
/// 1970-01-01 UTC, without quotes.
pub fn push_time(micros: i64, out: &mut Vec<u8>) {
    match rfc3339(micros) {
        Some(text) => out.extend_from_slice(&text),
        None => out.extend_from_slice(to_rfc3339(micros).as_bytes()),
    }
}

/// Appends the decimal digits of `value` as in canonical JSON, without quotes.
pub fn push_integer(value: i128, out: &mut Vec<u8>) {
    let mut digits = [0u8; 40];
    let mut start = digits.len();
    // Nearly all values fit into 64 bits, and dividing those is several times cheaper.
    if let Ok(mut rest) = u64::try_from(value.unsigned_abs()) {
        loop {
            start -= 1;
            digits[start] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
    } else {
        let mut rest = value.unsigned_abs();
        while rest > 0 {
            start -= 1;
            digits[start] = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
    }
    if value < 0 {
        start -= 1;
        digits[start] = b'-';
    }
    out.extend_from_slice(&digits[start..]);
}

/// Appends the decimal `unscaled / 10^scale` as in canonical JSON, with all `scale` digits after
/// the point.
pub fn push_decimal(unscaled: i128, scale: usize, out: &mut Vec<u8>) {
    if unscaled < 0 {
        out.push(b'-');
    }
    let start = out.len();
    push_integer(unscaled.unsigned_abs().cast_signed(), out);
    if scale > 0 {
        let digits = out.len() - start;
        if digits <= scale {
            let missing = scale + 1 - digits;
            out.splice(start..start, std::iter::repeat_n(b'0', missing));
        }
        let point = out.len() - scale;
        out.insert(point, b'.');
    }
}

/// Appends a float as in canonical JSON, in the digits that ECMAScript prints; writes nothing and
/// returns `false` unless it is finite.
pub fn push_float(value: f64, out: &mut Vec<u8>) -> bool {
    if !value.is_finite() {
        return false;
    }
    out.extend_from_slice(ryu_js::Buffer::new().format_finite(value).as_bytes());
    true
}

/// Appends a float as ECMAScript prints it, in quotes when it is not finite.
fn push_any_float(value: f64, out: &mut Vec<u8>) -> bool {
    if !push_float(value, out) {
        let name: &[u8] = match value {
            f64::INFINITY => b"Infinity",
            f64::NEG_INFINITY => b"-Infinity",
            _ => b"NaN",
        };
        quoted(out, |out| out.extend_from_slice(name));
    }
    true
}

/// Appends a canonical JSON string with the escapes of RFC 8785 and no others.
pub fn push_string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    let mut unescaped_start = 0;
    for (index, byte) in text.bytes().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.extend_from_slice(&text.as_bytes()[unescaped_start..index]);
        unescaped_start = index + 1;
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            0x08 => out.extend_from_slice(b"\\b"),
            b'\t' => out.extend_from_slice(b"\\t"),
            b'\n' => out.extend_from_slice(b"\\n"),
            0x0c => out.extend_from_slice(b"\\f"),
            b'\r' => out.extend_from_slice(b"\\r"),
            control => {
                out.extend_from_slice(b"\\u00");
                push_hex(&[control], out);
            }
        }
    }
    out.extend_from_slice(&text.as_bytes()[unescaped_start..]);
    out.push(b'"');
}

/// Appends bytes as in canonical JSON: two lower-case hexadecimal digits for each, without quotes.
pub fn push_hex(bytes: &[u8], out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let start = out.len();
    out.resize(start + 2 * bytes.len(), 0);
    for (pair, byte) in out[start..].chunks_exact_mut(2).zip(bytes) {
        pair.copy_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn row(columns: &[(&str, ArrayRef)]) -> Result<String, String> {
        let mut out = Vec::new();
        ObjectWriter::new(columns.iter().map(|(n, a)| (*n, a))).unwrap().push_row(0, &mut out)?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn a_null_text_of_a_dictionary_is_null_like_a_null_key() {
        let texts = Arc::new(StringArray::from(vec![Some("a"), None]));
        let keys = arrow::array::Int32Array::from(vec![Some(0), Some(1), None]);
        let column: ArrayRef = Arc::new(arrow::array::DictionaryArray::new(keys, texts));
        let writer = ArrayWriter::new([("x", &column)]).unwrap();
        let mut out = Vec::new();
        (0..3).for_each(|row| writer.push_values(row, &mut out));
        assert_eq!(String::from_utf8(out).unwrap(), r#","a",null,null"#);
    }

    #[test]
    fn the_form_follows_the_type_and_keys_are_sorted_by_utf16() {
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("b", Arc::new(Int64Array::from(vec![9_007_199_254_740_993]))),
            ("a", Arc::new(Int32Array::from(vec![-5]))),
            ("\u{fb01}", Arc::new(StringArray::from(vec!["ligature"]))),
            ("\u{1f600}", Arc::new(StringArray::from(vec!["a surrogate pair sorts before U+FB01"]))),
            ("amount", Arc::new(Decimal128Array::from(vec![-5]).with_precision_and_scale(12, 2).unwrap())),
            ("at", Arc::new(TimestampMicrosecondArray::from(vec![1_522_540_831_000_000]))),
            ("f", Arc::new(Float64Array::from(vec![1e21]))),
            ("gone", Arc::new(Int32Array::from(vec![None]))),
            ("s", Arc::new(StringArray::from(vec!["\u{7}\t\"\\/é"]))),
        ];
        assert_eq!(
            row(&columns).unwrap(),
            "{\"a\":-5,\"amount\":\"-0.05\",\"at\":\"2018-04-01T00:00:31.000000Z\",\"b\":\"9007199254740993\",\
             \"f\":1e+21,\"s\":\"\\u0007\\t\\\"\\\\/é\",\"\u{1f600}\":\"a surrogate pair sorts before U+FB01\",\
             \"\u{fb01}\":\"ligature\"}"
        );
    }

    #[test]
    fn not_a_number_cannot_be_written_in_an_object() {
        assert_eq!(row(&[("x", Arc::new(Float64Array::from(vec![f64::NAN])))]), Err("x".to_owned()));
    }

    #[test]
    fn decimals_show_all_digits() {
        for (unscaled, scale, text) in [
            (0, 2, "0.00"),
            (5, 0, "5"),
            (1234, 2, "12.34"),
            (-1, 3, "-0.001"),
            (i128::MAX, 0, &i128::MAX.to_string()),
        ] {
            let mut out = Vec::new();
            push_decimal(unscaled, scale, &mut out);
            assert_eq!(out, text.as_bytes());
        }
    }
}
