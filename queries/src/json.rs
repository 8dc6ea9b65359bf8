//! Rows as JSON for programs in any language: 64-bit integers, decimals and times are strings, since a reader
//! may hold numbers as doubles; binary values are hexadecimal digits; null is null.

use std::io::Write;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, DictionaryArray, Int64Array, RecordBatch, StringArray, UInt64Array,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Int32Type, Schema};
use arrow::error::ArrowError;
use arrow::json::writer::{EncoderOptions, NullableEncoder, make_encoder};

/// The rows as JSON arrays, one string for each.
pub(crate) fn arrays(batch: &RecordBatch) -> Result<Vec<String>, ArrowError> {
    rows(batch, |_, text| text.push(b'['), b']', |_, _| {})
}

/// The rows as JSON objects, one string for each.
pub(crate) fn objects(batch: &RecordBatch) -> Result<Vec<String>, ArrowError> {
    let names: Vec<String> = batch
        .schema_ref()
        .fields()
        .iter()
        .map(|field| serde_json::to_string(field.name()).expect("a text has a JSON form"))
        .collect();
    let name = |column: usize, text: &mut Vec<u8>| {
        text.extend_from_slice(names[column].as_bytes());
        text.push(b':');
    };
    rows(batch, |_, text| text.push(b'{'), b'}', name)
}

/// What a column's type is called in answers.
pub(crate) fn type_name(data_type: &DataType) -> String {
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

fn rows(
    batch: &RecordBatch,
    open: impl Fn(usize, &mut Vec<u8>),
    close: u8,
    name: impl Fn(usize, &mut Vec<u8>),
) -> Result<Vec<String>, ArrowError> {
    let columns = batch.schema_ref().fields().iter().zip(batch.columns());
    let exact: Vec<Option<(FieldRef, ArrayRef)>> = columns
        .map(|(field, column)| (!is_plain(column)).then(|| exact(field, column)).transpose())
        .collect::<Result<_, _>>()?;
    let options = EncoderOptions::default();
    let mut cells = batch
        .columns()
        .iter()
        .zip(&exact)
        .map(|(column, exact)| Cells::of(column, exact.as_ref(), &options))
        .collect::<Result<Vec<_>, _>>()?;
    let mut texts = Vec::with_capacity(batch.num_rows());
    for row in 0..batch.num_rows() {
        let mut text = Vec::with_capacity(64 * cells.len());
        open(row, &mut text);
        for (place, cells) in cells.iter_mut().enumerate() {
            if place > 0 {
                text.push(b',');
            }
            name(place, &mut text);
            cells.push(row, &mut text);
        }
        text.push(close);
        texts.push(String::from_utf8(text).expect("JSON text is UTF-8"));
    }
    Ok(texts)
}

/// The cells of a column. What most columns of a decision are is written as it is: an encoder costs more to make than
/// a row to write.
enum Cells<'a> {
    Nulls,
    Texts(&'a StringArray),
    Names(&'a DictionaryArray<Int32Type>, &'a StringArray),
    Unsigned(&'a UInt64Array),
    Signed(&'a Int64Array),
    Others(NullableEncoder<'a>),
}

/// Whether the cells of a column need no encoder.
fn is_plain(column: &ArrayRef) -> bool {
    column.null_count() == column.len()
        || match column.data_type() {
            DataType::Utf8 | DataType::UInt64 | DataType::Int64 => true,
            DataType::Dictionary(keys, values) => **keys == DataType::Int32 && **values == DataType::Utf8,
            _ => false,
        }
}

impl<'a> Cells<'a> {
    /// The cells of a column, which is given in an exact type too unless it is plain.
    fn of(
        column: &'a ArrayRef,
        exact: Option<&'a (FieldRef, ArrayRef)>,
        options: &'a EncoderOptions,
    ) -> Result<Cells<'a>, ArrowError> {
        if let Some((field, column)) = exact {
            return make_encoder(field, column.as_ref(), options).map(Cells::Others);
        }
        Ok(match column.data_type() {
            _ if column.null_count() == column.len() => Cells::Nulls,
            DataType::Utf8 => Cells::Texts(column.as_string()),
            DataType::UInt64 => Cells::Unsigned(column.as_primitive()),
            DataType::Int64 => Cells::Signed(column.as_primitive()),
            _ => {
                let names = column.as_dictionary::<Int32Type>();
                Cells::Names(names, names.values().as_string())
            }
        })
    }

    fn push(&mut self, row: usize, out: &mut Vec<u8>) {
        const WRITTEN: &str = "memory takes it";
        let text = match self {
            Cells::Nulls => None,
            Cells::Texts(texts) => texts.is_valid(row).then(|| texts.value(row)),
            Cells::Names(names, texts) => {
                names.key(row).filter(|key| texts.is_valid(*key)).map(|key| texts.value(key))
            }
            Cells::Unsigned(numbers) if numbers.is_valid(row) => {
                return write!(out, "\"{}\"", numbers.value(row)).expect(WRITTEN);
            }
            Cells::Signed(numbers) if numbers.is_valid(row) => {
                return write!(out, "\"{}\"", numbers.value(row)).expect(WRITTEN);
            }
            Cells::Others(encoder) if !encoder.is_null(row) => return encoder.encode(row, out),
            Cells::Unsigned(_) | Cells::Signed(_) | Cells::Others(_) => None,
        };
        match text {
            Some(text) => serde_json::to_writer(out, text).expect(WRITTEN),
            None => out.extend_from_slice(b"null"),
        }
    }
}

/// The column in a type whose JSON form loses nothing.
fn exact(field: &FieldRef, column: &ArrayRef) -> Result<(FieldRef, ArrayRef), ArrowError> {
    let wanted = exact_type(field.data_type());
    if wanted == *field.data_type() {
        return Ok((Arc::clone(field), Arc::clone(column)));
    }
    let column = cast(column, &wanted)?;
    Ok((Arc::new(Field::new(field.name(), wanted, field.is_nullable())), column))
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

/// The columns of an answer, as JSON.
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
        ];
        let batch = RecordBatch::try_from_iter(columns).expect("columns of one length");
        let array = r#"["18446744073709551615",-7,0.1,["18446744073709551615",null],"00ff"]"#;
        assert_eq!(arrays(&batch).expect("all have a form"), [array]);
        let object = r#"{"tick":"18446744073709551615","small":-7,"score":0.1,"basis":["18446744073709551615",null],"bytes":"00ff"}"#;
        assert_eq!(objects(&batch).expect("all have a form"), [object]);
    }

    #[test]
    fn texts_are_escaped_and_nulls_are_null_in_every_kind_of_column() {
        let names: DictionaryArray<Int32Type> = [Some("a\"b"), None, Some("ü\u{1}")].into_iter().collect();
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("name", Arc::new(names)),
            ("text", Arc::new(StringArray::from(vec![None, Some("\n\\"), Some("")]))),
            ("signed", Arc::new(Int64Array::from(vec![Some(i64::MIN), None, Some(0)]))),
            ("unsigned", Arc::new(UInt64Array::from(vec![None, Some(1), None]))),
            ("nothing", Arc::new(Float64Array::from(vec![None, None, None]))),
            ("score", Arc::new(Float64Array::from(vec![Some(1.5), None, Some(-0.25)]))),
        ];
        let batch = RecordBatch::try_from_iter(columns).expect("columns of one length");
        let rows = [
            r#"["a\"b",null,"-9223372036854775808",null,null,1.5]"#,
            r#"[null,"\n\\",null,"1",null,null]"#,
            r#"["ü\u0001","","0",null,null,-0.25]"#,
        ];
        assert_eq!(arrays(&batch).expect("all have a form"), rows);
    }
}
