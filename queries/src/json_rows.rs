//! Encodes rows as JSON arrays or objects, without losing a digit in any language.
//!
//! 64-bit integers, decimals and times are strings, since a reader may parse numbers as doubles;
//! binary values are hexadecimal digits; null is null.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Decimal128Array, DictionaryArray, FixedSizeBinaryArray,
    Int64Array, ListArray, RecordBatch, StringArray, StringBuilder, TimestampMicrosecondArray, UInt64Array,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Int32Type, Schema, TimeUnit};
use arrow::error::ArrowError;
use arrow::json::writer::{EncoderOptions, NullableEncoder, make_encoder};
use tidegate_facts::jcs::{push_decimal, push_hex, push_integer, push_time, quoted};

/// Encodes the rows of a batch as JSON arrays, one string for each.
pub(crate) fn arrays(batch: &RecordBatch) -> Result<Vec<String>, ArrowError> {
    rows(batch, 0..batch.num_rows(), RowShape::Array)
}

/// Encodes the rows of a batch as JSON objects, one string for each.
pub(crate) fn objects(batch: &RecordBatch) -> Result<Vec<String>, ArrowError> {
    rows(batch, 0..batch.num_rows(), RowShape::Object)
}

/// Encodes one row as a JSON object.
pub(crate) fn object(batch: &RecordBatch, row: usize) -> Result<String, ArrowError> {
    Ok(rows(batch, row..row + 1, RowShape::Object)?.remove(0))
}

/// Encodes each value of a column as a JSON text of its own.
///
/// CSV and the Postgres protocol use these texts for lists and structs. All numbers are JSON
/// numbers here, even those that are strings in rows.
///
/// # Errors
/// When Arrow's JSON encoder does not support the type of the column.
pub fn column_texts(column: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    let field = Arc::new(Field::new("value", column.data_type().clone(), true));
    let options = EncoderOptions::default();
    let mut encoder = make_encoder(&field, column, &options)?;
    let (mut texts, mut text) = (StringBuilder::new(), Vec::new());
    for row in 0..column.len() {
        if encoder.is_null(row) {
            texts.append_null();
            continue;
        }
        text.clear();
        encoder.encode(row, &mut text);
        texts.append_value(std::str::from_utf8(&text).expect("JSON text is UTF-8"));
    }
    Ok(Arc::new(texts.finish()))
}

/// The JSON form of a row.
#[derive(Clone, Copy, PartialEq, Eq)]
enum RowShape {
    Array,
    Object,
}

/// The name of a column's type in answers.
fn type_name(data_type: &DataType) -> String {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "text".to_owned(),
        DataType::Dictionary(_, values) => type_name(values),
        DataType::Boolean => "bool".to_owned(),
        DataType::Int8 | DataType::Int16 | DataType::Int32 => "int".to_owned(),
        DataType::UInt8 | DataType::UInt16 | DataType::UInt32 => "int".to_owned(),
        DataType::Int64 | DataType::UInt64 => "bigint".to_owned(),
        DataType::Float16 | DataType::Float32 | DataType::Float64 => "double".to_owned(),
        DataType::Timestamp(_, _) | DataType::Date32 | DataType::Date64 => "time".to_owned(),
        DataType::Decimal128(precision, scale) => format!("decimal({precision},{scale})"),
        DataType::Binary | DataType::FixedSizeBinary(_) | DataType::BinaryView => "binary".to_owned(),
        DataType::List(item) => format!("list of {}", type_name(item.data_type())),
        other => other.to_string(),
    }
}

fn rows(batch: &RecordBatch, rows: Range<usize>, shape: RowShape) -> Result<Vec<String>, ArrowError> {
    let columns = batch.schema_ref().fields().iter().zip(batch.columns());
    let exact: Vec<Option<(FieldRef, ArrayRef)>> = columns
        .map(|(field, column)| (!is_plain(column.data_type())).then(|| exact(field, column)).transpose())
        .collect::<Result<_, _>>()?;
    let options = EncoderOptions::default();
    let mut cells = batch
        .columns()
        .iter()
        .zip(&exact)
        .map(|(column, exact)| match exact {
            Some((field, column)) => make_encoder(field, column.as_ref(), &options).map(Cells::Encoded),
            None => Ok(Cells::of(column)),
        })
        .collect::<Result<Vec<_>, _>>()?;
    let (open, close) = if shape == RowShape::Object { (b'{', b'}') } else { (b'[', b']') };
    // The text before each cell is the same in all rows.
    let fields = batch.schema_ref().fields().iter().enumerate();
    let heads = fields.map(|(index, field)| {
        let mut head = if index > 0 { vec![b','] } else { Vec::new() };
        if shape == RowShape::Object {
            push_text(field.name(), &mut head);
            head.push(b':');
        }
        head
    });
    let heads: Vec<Vec<u8>> = heads.collect();
    let mut bytes = 48 * cells.len();
    let mut texts = Vec::with_capacity(rows.len());
    for row in rows {
        let mut text = Vec::with_capacity(bytes);
        text.push(open);
        for (head, cells) in heads.iter().zip(&mut cells) {
            text.extend_from_slice(head);
            cells.push(row, &mut text);
        }
        text.push(close);
        bytes = text.len() + text.len() / 8; // The next row is about as long.
        texts.push(String::from_utf8(text).expect("JSON text is UTF-8"));
    }
    Ok(texts)
}

/// The cells of a column. The common types of decisions are encoded here: making an Arrow encoder
/// costs more than writing a row.
enum Cells<'a> {
    Texts(&'a StringArray),
    Names(&'a DictionaryArray<Int32Type>, &'a StringArray),
    Unsigned(&'a UInt64Array),
    Signed(&'a Int64Array),
    Booleans(&'a BooleanArray),
    Times(&'a TimestampMicrosecondArray),
    Decimals(&'a Decimal128Array, usize),
    Digests(&'a FixedSizeBinaryArray),
    Lists(&'a ListArray, Box<Cells<'a>>),
    Encoded(NullableEncoder<'a>),
}

/// Whether a type is encoded without an Arrow encoder.
fn is_plain(data_type: &DataType) -> bool {
    match data_type {
        DataType::Utf8 | DataType::UInt64 | DataType::Int64 | DataType::Boolean => true,
        DataType::Timestamp(TimeUnit::Microsecond, Some(zone)) => zone.as_ref() == "UTC",
        DataType::Decimal128(_, scale) => *scale >= 0,
        DataType::FixedSizeBinary(_) => true,
        DataType::Dictionary(keys, values) => **keys == DataType::Int32 && **values == DataType::Utf8,
        DataType::List(item) => is_plain(item.data_type()),
        _ => false,
    }
}

impl<'a> Cells<'a> {
    /// The cells of a column with a plain type.
    fn of(column: &'a ArrayRef) -> Cells<'a> {
        match column.data_type() {
            DataType::Utf8 => Cells::Texts(column.as_string()),
            DataType::UInt64 => Cells::Unsigned(column.as_primitive()),
            DataType::Int64 => Cells::Signed(column.as_primitive()),
            DataType::Boolean => Cells::Booleans(column.as_boolean()),
            DataType::Timestamp(..) => Cells::Times(column.as_primitive()),
            DataType::Decimal128(_, scale) => {
                Cells::Decimals(column.as_primitive(), scale.unsigned_abs().into())
            }
            DataType::FixedSizeBinary(_) => Cells::Digests(column.as_fixed_size_binary()),
            DataType::List(_) => {
                let lists = column.as_list();
                Cells::Lists(lists, Box::new(Cells::of(lists.values())))
            }
            _ => {
                let names = column.as_dictionary::<Int32Type>();
                Cells::Names(names, names.values().as_string())
            }
        }
    }

    fn is_null(&self, row: usize) -> bool {
        match self {
            Cells::Texts(cells) => cells.is_null(row),
            Cells::Names(cells, texts) => cells.key(row).is_none_or(|key| texts.is_null(key)),
            Cells::Unsigned(cells) => cells.is_null(row),
            Cells::Signed(cells) => cells.is_null(row),
            Cells::Booleans(cells) => cells.is_null(row),
            Cells::Times(cells) => cells.is_null(row),
            Cells::Decimals(cells, _) => cells.is_null(row),
            Cells::Digests(cells) => cells.is_null(row),
            Cells::Lists(cells, _) => cells.is_null(row),
            Cells::Encoded(encoder) => encoder.is_null(row),
        }
    }

    fn push(&mut self, row: usize, out: &mut Vec<u8>) {
        if self.is_null(row) {
            return out.extend_from_slice(b"null");
        }
        match self {
            Cells::Texts(cells) => push_text(cells.value(row), out),
            Cells::Names(cells, texts) => {
                push_text(texts.value(cells.key(row).expect("it is not null")), out)
            }
            Cells::Unsigned(cells) => quoted(out, |out| push_integer(cells.value(row).into(), out)),
            Cells::Signed(cells) => quoted(out, |out| push_integer(cells.value(row).into(), out)),
            // In the form that the gate accepts.
            Cells::Times(cells) => quoted(out, |out| push_time(cells.value(row), out)),
            Cells::Decimals(cells, scale) => quoted(out, |out| push_decimal(cells.value(row), *scale, out)),
            Cells::Booleans(cells) => {
                out.extend_from_slice(if cells.value(row) { b"true" } else { b"false" });
            }
            Cells::Digests(cells) => quoted(out, |out| push_hex(cells.value(row), out)),
            Cells::Lists(cells, items) => {
                out.push(b'[');
                let ends = cells.value_offsets();
                let (from, to) = (ends[row] as usize, ends[row + 1] as usize);
                for item in from..to {
                    if item > from {
                        out.push(b',');
                    }
                    items.push(item, out);
                }
                out.push(b']');
            }
            Cells::Encoded(encoder) => encoder.encode(row, out),
        }
    }
}

fn push_text(text: &str, out: &mut Vec<u8>) {
    let is_plain = |byte: u8| byte >= b' ' && byte != b'"' && byte != b'\\';
    if text.bytes().all(is_plain) {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
    } else {
        serde_json::to_writer(out, text).expect("memory takes it");
    }
}

/// The column, cast to a type whose JSON form loses nothing.
fn exact(field: &FieldRef, column: &ArrayRef) -> Result<(FieldRef, ArrayRef), ArrowError> {
    let data_type = exact_type(field.data_type());
    if data_type == *field.data_type() {
        return Ok((Arc::clone(field), Arc::clone(column)));
    }
    let column = cast(column, &data_type)?;
    Ok((Arc::new(Field::new(field.name(), data_type, field.is_nullable())), column))
}

fn exact_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Int64 | DataType::UInt64 | DataType::Decimal128(..) | DataType::Decimal256(..) => {
            DataType::Utf8
        }
        DataType::List(item) => {
            let field = Field::new(item.name(), exact_type(item.data_type()), item.is_nullable());
            DataType::List(Arc::new(field))
        }
        DataType::Struct(fields) => DataType::Struct(
            fields
                .iter()
                .map(|field| Field::new(field.name(), exact_type(field.data_type()), field.is_nullable()))
                .collect(),
        ),
        other => other.clone(),
    }
}

/// Encodes the names and types of the columns of an answer as JSON.
pub(crate) fn columns(schema: &Schema) -> serde_json::Value {
    let columns = schema.fields().iter();
    columns
        .map(|field| serde_json::json!({"name": field.name(), "type": type_name(field.data_type())}))
        .collect()
}

#[cfg(test)]
mod tests {
    use arrow::array::{BinaryArray, Float64Array, Int32Array, ListBuilder, UInt64Builder};

    use super::*;

    #[test]
    fn no_number_loses_a_digit() {
        let mut basis = ListBuilder::new(UInt64Builder::new());
        basis.append_value([Some(u64::MAX), None]);
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("tick", Arc::new(UInt64Array::from(vec![u64::MAX]))),
            ("small", Arc::new(Int32Array::from(vec![-7]))),
            ("score", Arc::new(Float64Array::from(vec![0.1]))),
            ("basis", Arc::new(basis.finish())),
            ("bytes", Arc::new(BinaryArray::from_vec(vec![b"\x00\xff"]))),
            ("time", Arc::new(TimestampMicrosecondArray::from(vec![1_500_000]).with_timezone("UTC"))),
        ];
        let batch = RecordBatch::try_from_iter(columns).expect("columns of one length");
        let array = r#"["18446744073709551615",-7,0.1,["18446744073709551615",null],"00ff","1970-01-01T00:00:01.500000Z"]"#;
        assert_eq!(arrays(&batch).expect("all have a form"), [array]);
        let object = r#"{"tick":"18446744073709551615","small":-7,"score":0.1,"basis":["18446744073709551615",null],"bytes":"00ff","time":"1970-01-01T00:00:01.500000Z"}"#;
        assert_eq!(objects(&batch).expect("all have a form"), [object]);
    }

    #[test]
    fn texts_are_escaped_and_nulls_are_null_in_every_type_of_column() {
        let digests = [Some([0, 255]), None, Some([16, 1])].into_iter();
        let digests =
            FixedSizeBinaryArray::try_from_sparse_iter_with_size(digests, 2).expect("two bytes each");
        let names: DictionaryArray<Int32Type> = [Some("a\"b"), None, Some("ü\u{1}")].into_iter().collect();
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("name", Arc::new(names)),
            ("text", Arc::new(StringArray::from(vec![None, Some("\n\\"), Some("")]))),
            ("late", Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)]))),
            ("signed", Arc::new(Int64Array::from(vec![Some(i64::MIN), None, Some(0)]))),
            ("unsigned", Arc::new(UInt64Array::from(vec![None, Some(1), None]))),
            (
                "amount",
                Arc::new(
                    Decimal128Array::from(vec![Some(-150), None, Some(7)])
                        .with_precision_and_scale(9, 2)
                        .expect("a decimal"),
                ),
            ),
            ("digest", Arc::new(digests)),
            ("nothing", Arc::new(Float64Array::from(vec![None, None, None]))),
            ("score", Arc::new(Float64Array::from(vec![Some(1.5), None, Some(-0.25)]))),
        ];
        let batch = RecordBatch::try_from_iter(columns).expect("columns of one length");
        let rows = [
            r#"["a\"b",null,true,"-9223372036854775808",null,"-1.50","00ff",null,1.5]"#,
            r#"[null,"\n\\",null,null,"1",null,null,null,null]"#,
            r#"["ü\u0001","",false,"0",null,"0.07","1001",null,-0.25]"#,
        ];
        assert_eq!(arrays(&batch).expect("all have a form"), rows);
        let named = object(&batch.project(&[1, 3]).expect("two columns"), 1).expect("all have a form");
        assert_eq!(named, r#"{"text":"\n\\","signed":null}"#);
    }
}
