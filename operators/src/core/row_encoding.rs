//! Encodes rows as bytes that operators keep in their state, and decodes them to columns.
//!
//! Operators keep single rows of a batch for long. As Arrow slices they would keep the whole batch
//! in memory. In Arrow's row format each row takes only its own bytes, and comparing two rows'
//! bytes orders them as their values are ordered.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, new_null_array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef};
use arrow::row::{RowConverter, Rows, SortField};

/// Encodes rows of some columns as bytes, which operators keep in their state, and decodes them.
pub struct RowCodec {
    types: Vec<DataType>,
    converter: RowConverter,
}

/// One row encoded as bytes, as operators keep it in their state.
pub type EncodedRow = Box<[u8]>;

/// The type that a column has after the decoding of encoded rows: the value type for a dictionary,
/// else its own.
pub fn decoded_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Dictionary(_, values) => values.as_ref().clone(),
        other => other.clone(),
    }
}

/// The field that a column has after the decoding of encoded rows; see [`decoded_type`].
pub fn decoded_field(field: &Field) -> Field {
    field.clone().with_data_type(decoded_type(field.data_type()))
}

/// Whether rows with a column of this type can be encoded for an operator's state.
pub fn is_encodable(data_type: &DataType) -> bool {
    RowConverter::supports_fields(&[SortField::new(data_type.clone())])
}

impl RowCodec {
    /// A codec for rows with columns of `types`.
    ///
    /// # Panics
    /// For a type that [`is_encodable`] refuses.
    pub fn new(types: impl IntoIterator<Item = DataType>) -> RowCodec {
        let types: Vec<DataType> = types.into_iter().map(|data_type| decoded_type(&data_type)).collect();
        let fields = types.iter().cloned().map(SortField::new).collect();
        RowCodec { converter: RowConverter::new(fields).expect("the plan checks is_encodable"), types }
    }

    /// A codec for rows with these fields.
    ///
    /// # Panics
    /// For a type that [`is_encodable`] refuses.
    pub fn for_fields<'a>(fields: impl IntoIterator<Item = &'a FieldRef>) -> RowCodec {
        RowCodec::new(fields.into_iter().map(|field| field.data_type().clone()))
    }

    /// Encodes the columns with indexes `columns` of a batch; row `i` is `rows.row(i).data()`.
    pub fn encode(&self, batch: &RecordBatch, columns: &[usize]) -> Rows {
        let columns: Vec<ArrayRef> = columns
            .iter()
            .zip(&self.types)
            .map(|(index, data_type)| {
                let column = batch.column(*index);
                if column.data_type() == data_type {
                    return Arc::clone(column);
                }
                cast(column, data_type).expect("a dictionary converts to its values")
            })
            .collect();
        self.converter.convert_columns(&columns).expect("the columns have the codec's types")
    }

    /// Encodes a row whose columns are all null.
    pub fn null_row(&self) -> EncodedRow {
        let columns: Vec<ArrayRef> =
            self.types.iter().map(|data_type| new_null_array(data_type, 1)).collect();
        self.converter.convert_columns(&columns).expect("every type has nulls").row(0).data().into()
    }

    /// Decodes rows to columns.
    pub fn decode<'a>(&self, rows: impl IntoIterator<Item = &'a [u8]>) -> Vec<ArrayRef> {
        let parser = self.converter.parser();
        let rows: Vec<&[u8]> = rows.into_iter().collect();
        self.converter
            .convert_rows(rows.into_iter().map(|row| parser.parse(row)))
            .expect("this codec encoded the rows")
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{AsArray, DictionaryArray, Int64Array, StringArray};
    use arrow::datatypes::Int32Type;

    use super::*;

    #[test]
    fn decoding_returns_the_encoded_rows_and_dictionaries_as_their_values() {
        let texts: DictionaryArray<Int32Type> = ["a", "b", "a"].into_iter().collect();
        let numbers = Int64Array::from(vec![Some(-1), None, Some(3)]);
        let batch = RecordBatch::try_from_iter([
            ("text", Arc::new(texts) as ArrayRef),
            ("number", Arc::new(numbers.clone()) as ArrayRef),
        ])
        .expect("both have one length");
        let codec = RowCodec::for_fields(batch.schema().fields());
        let rows = codec.encode(&batch, &[0, 1]);
        let encoded: Vec<EncodedRow> = [2, 1].map(|row| rows.row(row).data().into()).into();
        let columns = codec.decode(encoded.iter().map(|row| &row[..]));
        assert_eq!(columns[0].as_string::<i32>(), &StringArray::from(vec!["a", "b"]));
        assert_eq!(columns[1].as_ref(), &Int64Array::from(vec![Some(3), None]));
    }
}
