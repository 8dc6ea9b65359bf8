//! Texts of nothing but white space name nobody: where identifiers are read, they are null.
//!
//! Otherwise all who leave a field empty are one and the same.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch};
use arrow::compute::{cast, nullif};
use arrow::datatypes::DataType;

use crate::kept::plain;

/// The rows, with nulls for blank texts of some columns.
pub fn without_blanks(rows: &RecordBatch, places: &[usize]) -> RecordBatch {
    let named: Vec<_> = places
        .iter()
        .filter_map(|place| nulls_for_blanks(rows.column(*place)).map(|column| (*place, column)))
        .collect();
    if named.is_empty() {
        return rows.clone();
    }
    let mut columns = rows.columns().to_vec();
    let mut fields: Vec<_> = rows.schema().fields().iter().cloned().collect();
    for (place, column) in named {
        let field = fields[place].as_ref().clone();
        fields[place] = Arc::new(field.with_data_type(column.data_type().clone()).with_nullable(true));
        columns[place] = column;
    }
    let schema = arrow::datatypes::Schema::new(fields);
    RecordBatch::try_new(Arc::new(schema), columns).expect("the columns are the schema's")
}

/// The column without its blank texts; nothing for one that has none.
pub fn nulls_for_blanks(column: &ArrayRef) -> Option<ArrayRef> {
    if plain(column.data_type()) != DataType::Utf8 {
        return None;
    }
    let texts = cast(column, &DataType::Utf8).expect("a dictionary holds its values");
    let is_blank = |text: Option<&str>| text.is_some_and(|text| text.trim().is_empty());
    let blanks: BooleanArray = texts.as_string::<i32>().iter().map(|text| Some(is_blank(text))).collect();
    (blanks.true_count() > 0).then(|| nullif(&texts, &blanks).expect("of one length"))
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
        assert_eq!(nulls_for_blanks(&plain), Some(Arc::clone(&named)));
        assert_eq!(nulls_for_blanks(&dictionary), Some(Arc::clone(&named)));
        assert_eq!(nulls_for_blanks(&(Arc::new(StringArray::from(vec!["a"])) as ArrayRef)), None);
        assert_eq!(nulls_for_blanks(&(Arc::new(Int64Array::from(vec![0])) as ArrayRef)), None);
    }
}
