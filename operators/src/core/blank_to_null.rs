//! Replaces blank identifiers by null: texts that are empty or white space identify nobody.
//!
//! Otherwise all records with an empty field would share one identifier.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch};
use arrow::compute::{cast, nullif};
use arrow::datatypes::{DataType, Schema};

use super::row_encoding::decoded_type;

/// Replaces blank texts in some columns of a batch by null.
pub fn blank_to_null(rows: &RecordBatch, columns: &[usize]) -> RecordBatch {
    let replaced: Vec<_> = columns
        .iter()
        .filter_map(|index| blank_column_to_null(rows.column(*index)).map(|column| (*index, column)))
        .collect();
    if replaced.is_empty() {
        return rows.clone();
    }
    let mut columns = rows.columns().to_vec();
    let mut fields: Vec<_> = rows.schema().fields().iter().cloned().collect();
    for (index, column) in replaced {
        let field = fields[index].as_ref().clone();
        fields[index] = Arc::new(field.with_data_type(column.data_type().clone()).with_nullable(true));
        columns[index] = column;
    }
    let schema = Arc::new(Schema::new(fields));
    RecordBatch::try_new(schema, columns).expect("the columns match the schema")
}

/// Replaces blank texts of a column by null; `None` for a column without blank texts.
///
/// A dictionary column is returned as a column of its values.
pub fn blank_column_to_null(column: &ArrayRef) -> Option<ArrayRef> {
    if decoded_type(column.data_type()) != DataType::Utf8 {
        return None;
    }
    let texts = cast(column, &DataType::Utf8).expect("a dictionary of texts converts to texts");
    let is_blank = |text: Option<&str>| text.is_some_and(|text| text.trim().is_empty());
    let blanks: BooleanArray = texts.as_string::<i32>().iter().map(|text| Some(is_blank(text))).collect();
    (blanks.true_count() > 0).then(|| nullif(&texts, &blanks).expect("both have one length"))
}

#[cfg(test)]
mod tests {
    use arrow::array::{DictionaryArray, Int64Array, StringArray};
    use arrow::datatypes::Int32Type;

    use super::*;

    #[test]
    fn blank_texts_are_null_and_nothing_else_is() {
        let texts = vec![Some("a"), Some(""), None, Some(" \t\u{a0}"), Some(" a")];
        let named: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), None, None, None, Some(" a")]));
        let plain: ArrayRef = Arc::new(StringArray::from(texts.clone()));
        let dictionary: ArrayRef = Arc::new(texts.into_iter().collect::<DictionaryArray<Int32Type>>());
        assert_eq!(blank_column_to_null(&plain), Some(Arc::clone(&named)));
        assert_eq!(blank_column_to_null(&dictionary), Some(Arc::clone(&named)));
        assert_eq!(blank_column_to_null(&(Arc::new(StringArray::from(vec!["a"])) as ArrayRef)), None);
        assert_eq!(blank_column_to_null(&(Arc::new(Int64Array::from(vec![0])) as ArrayRef)), None);
    }
}
