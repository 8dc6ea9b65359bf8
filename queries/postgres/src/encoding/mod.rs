//! Encodes result rows: describes their columns, and writes batches as `DataRow` messages.

mod binary;
mod cells;
mod text;

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{Field, FieldRef, Schema};
use bytes::{BufMut, BytesMut};
use pgwire::messages::PgWireBackendMessage;
use pgwire::messages::data::{FORMAT_CODE_BINARY, FORMAT_CODE_TEXT, FieldDescription, RowDescription};

pub(crate) use self::binary::{EPOCH_DAYS, EPOCH_MICROS, Numeric, read_numeric};
pub(crate) use self::cells::ObjectNames;
use self::cells::{Cells, put_value};
use crate::error::SqlError;
use crate::types::{self, oid};

/// The type byte of a `DataRow` message.
const DATA_ROW: u8 = b'D';

/// The most columns of a result: a message counts them in 16 bits.
const COLUMNS_MAX: usize = i16::MAX as usize;

/// The most bytes of a row.
const ROW_BYTES_MAX: usize = 256 << 20;

/// The columns of a result, as the server describes and sends them.
#[derive(Clone, Debug)]
pub(crate) struct Columns {
    fields: Arc<[FieldRef]>,
    /// Whether precision and scale are described.
    has_modifiers: bool,
}

impl Columns {
    /// The columns of a schema. `has_modifiers` is false for a statement with parameters, whose
    /// values may change precision and scale.
    ///
    /// # Errors
    /// 54011 when there are too many.
    pub(crate) fn new(schema: &Schema, has_modifiers: bool) -> Result<Columns, SqlError> {
        let count = schema.fields().len();
        if count > COLUMNS_MAX {
            let what = format!("the result has {count} columns, and at most {COLUMNS_MAX} can be sent");
            return Err(SqlError::new("54011", what));
        }
        Ok(Columns { fields: schema.fields().iter().map(Arc::clone).collect(), has_modifiers })
    }

    /// No columns, for statements that return no rows.
    pub(crate) fn none() -> Columns {
        Columns { fields: Arc::from([]), has_modifiers: true }
    }

    pub(crate) fn count(&self) -> usize {
        self.fields.len()
    }

    /// The `RowDescription` message for these formats.
    pub(crate) fn description(&self, formats: &Formats) -> PgWireBackendMessage {
        let fields = self.fields.iter().enumerate().map(|(index, field)| {
            let oid = types::oid_of(field);
            let length = types::by_oid(oid).map_or(-1, |it| it.length);
            let modifier = if self.has_modifiers { types::modifier_of(field) } else { -1 };
            let format = if formats.is_binary(index) { FORMAT_CODE_BINARY } else { FORMAT_CODE_TEXT };
            FieldDescription::new(field.name().clone(), 0, 0, oid, length, modifier, format)
        });
        PgWireBackendMessage::RowDescription(RowDescription::new(fields.collect()))
    }

    /// Prepares a batch, so that its rows can be written.
    ///
    /// # Errors
    /// 0A000 when a column cannot be sent; another one when its values do not fit the described
    /// type.
    pub(crate) fn rows(&self, batch: &RecordBatch, names: &ObjectNames) -> Result<Rows, SqlError> {
        let columns = self.fields.iter().zip(batch.columns());
        let cells = columns.map(|(field, array)| as_described(field, array, names));
        Ok(Rows { cells: cells.collect::<Result<_, _>>()?, count: batch.num_rows() })
    }
}

/// The cells of an array in the described type. The value of a parameter may give the array another
/// type; it is converted only if no value changes.
fn as_described(field: &Field, array: &ArrayRef, names: &ObjectNames) -> Result<Box<dyn Cells>, SqlError> {
    let own = field.clone().with_data_type(array.data_type().clone());
    let described = types::oid_of(field);
    if types::oid_of(&own) == described {
        return cells::of(&own, array, names);
    }
    if described == oid::NUMERIC && array.data_type().is_numeric() {
        return cells::as_numeric(array);
    }
    let options = CastOptions { safe: false, ..CastOptions::default() };
    let cast = cast_with_options(array, field.data_type(), &options);
    let back = cast.as_ref().ok().and_then(|cast| cast_with_options(cast, array.data_type(), &options).ok());
    match cast {
        Ok(cast) if back.is_some_and(|back| &back == array) => cells::of(field, &cast, names),
        _ => {
            let kind = types::by_oid(described).map_or("unknown", |it| it.name.as_str());
            let what = format!(
                "the values of column \"{}\" do not fit its type {kind}; cast the parameters of the statement",
                field.name()
            );
            Err(SqlError::new("22000", what))
        }
    }
}

/// The rows of one batch of a result, which the server sends as `DataRow` messages.
pub(crate) struct Rows {
    cells: Vec<Box<dyn Cells>>,
    count: usize,
}

impl Rows {
    /// The number of rows.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Writes a row as a `DataRow` message.
    ///
    /// # Errors
    /// 54000 when it is too long; then nothing is written.
    pub(crate) fn write(&self, row: usize, formats: &Formats, out: &mut BytesMut) -> Result<(), SqlError> {
        let before = out.len();
        out.put_u8(DATA_ROW);
        let at = out.len();
        out.put_i32(0);
        out.put_i16(self.cells.len() as i16);
        for (index, cells) in self.cells.iter().enumerate() {
            put_value(cells.as_ref(), row, formats.is_binary(index), out);
            if out.len() - at > ROW_BYTES_MAX {
                out.truncate(before);
                let what = format!("a row has more than {ROW_BYTES_MAX} bytes; ask for fewer columns");
                return Err(SqlError::new("54000", what));
            }
        }
        let length = (out.len() - at) as i32;
        out[at..at + 4].copy_from_slice(&length.to_be_bytes());
        Ok(())
    }
}

/// The format in which each column of a result is sent: text or binary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Formats {
    All { is_binary: bool },
    Each(Vec<bool>),
}

impl Formats {
    /// All columns as text, for simple queries.
    pub(crate) const TEXT: Formats = Formats::All { is_binary: false };

    /// Reads the format codes of a `Bind` message: none for text, one for all columns, or one for
    /// each.
    ///
    /// # Errors
    /// 08P01 for another number of codes, 22023 for an unknown code.
    pub(crate) fn read(codes: &[i16], count: usize, what: &str) -> Result<Formats, SqlError> {
        let is_binary = |code: &i16| match *code {
            FORMAT_CODE_TEXT => Ok(false),
            FORMAT_CODE_BINARY => Ok(true),
            code => {
                Err(SqlError::new("22023", format!("{code} is no format; use 0 for text or 1 for binary")))
            }
        };
        match codes {
            [] => Ok(Formats::TEXT),
            [one] => Ok(Formats::All { is_binary: is_binary(one)? }),
            codes if codes.len() == count => {
                Ok(Formats::Each(codes.iter().map(is_binary).collect::<Result<_, _>>()?))
            }
            codes => {
                let what = format!("there are {} formats for {count} {what}", codes.len());
                Err(SqlError::new("08P01", what))
            }
        }
    }

    pub(crate) fn is_binary(&self, index: usize) -> bool {
        match self {
            Formats::All { is_binary } => *is_binary,
            Formats::Each(each) => each.get(index).copied().unwrap_or(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Float64Array, Int64Array, StringArray};
    use arrow::datatypes::DataType;

    use super::*;

    fn names() -> ObjectNames {
        Arc::new(|_, _| String::new())
    }

    #[test]
    fn a_row_is_its_length_its_columns_and_each_value_behind_its_length() {
        let schema =
            Schema::new(vec![Field::new("a", DataType::Int64, true), Field::new("b", DataType::Utf8, true)]);
        let arrays: Vec<ArrayRef> =
            vec![Arc::new(Int64Array::from(vec![7])), Arc::new(StringArray::from(vec![None::<&str>]))];
        let batch = RecordBatch::try_new(Arc::new(schema.clone()), arrays).expect("of the schema");
        let columns = Columns::new(&schema, true).expect("they are few");
        let rows = columns.rows(&batch, &names()).expect("they can be sent");
        let written = |formats: &Formats| {
            let mut out = BytesMut::new();
            rows.write(0, formats, &mut out).expect("it is short");
            out.to_vec()
        };
        let null = [0xff; 4];
        assert_eq!(written(&Formats::TEXT), [&b"D\0\0\0\x0f\0\x02\0\0\0\x017"[..], &null].concat());
        let mixed = Formats::Each(vec![true, false]);
        assert_eq!(written(&mixed), [&b"D\0\0\0\x16\0\x02\0\0\0\x08\0\0\0\0\0\0\0\x07"[..], &null].concat());
    }

    #[test]
    fn a_float_in_the_place_of_a_described_decimal_keeps_its_digits() {
        let described = Field::new("a", DataType::Decimal128(12, 2), true);
        let array: ArrayRef = Arc::new(Float64Array::from(vec![3.125]));
        let cells = as_described(&described, &array, &names()).expect("it can be sent");
        let mut out = BytesMut::new();
        cells.text(0, &mut out);
        assert_eq!(&out[..], b"3.125");
    }

    #[test]
    fn values_in_the_place_of_others_are_the_same_or_an_error() {
        let described = Field::new("a", DataType::Int64, true);
        let same: ArrayRef = Arc::new(Float64Array::from(vec![Some(3.0), None]));
        let cells = as_described(&described, &same, &names()).expect("they are whole");
        let mut out = BytesMut::new();
        cells.text(0, &mut out);
        assert_eq!(&out[..], b"3");
        let other: ArrayRef = Arc::new(Float64Array::from(vec![3.125]));
        assert_eq!(as_described(&described, &other, &names()).err().expect("it is not").state, "22000");
    }

    #[test]
    fn formats_are_one_for_all_or_one_for_each() {
        assert_eq!(Formats::read(&[], 3, "columns").expect("text"), Formats::TEXT);
        assert!(Formats::read(&[1], 3, "columns").expect("binary").is_binary(2));
        let each = Formats::read(&[1, 0], 2, "columns").expect("one for each");
        assert!(each.is_binary(0) && !each.is_binary(1));
        assert_eq!(Formats::read(&[1, 0], 3, "columns").expect_err("too few").state, "08P01");
        assert_eq!(Formats::read(&[7], 3, "columns").expect_err("no format").state, "22023");
    }
}
