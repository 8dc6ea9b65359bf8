//! Rows that a state keeps as bytes, and gives back as columns.
//!
//! A state keeps single rows of a batch for long. Kept as Arrow they would hold on to their batches; as bytes in Arrow's
//! row form each costs what it holds, and bytes are in order as the rows are.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef};
use arrow::row::{RowConverter, Rows, SortField};

/// How rows of some columns are kept.
pub struct Form {
    types: Vec<DataType>,
    converter: RowConverter,
}

/// One kept row.
pub type KeptRow = Box<[u8]>;

/// The type of a column as it is given back: what a dictionary holds, for a dictionary column.
pub fn plain(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Dictionary(_, values) => values.as_ref().clone(),
        other => other.clone(),
    }
}

/// The field of a column as it is given back.
pub fn plain_field(field: &Field) -> Field {
    field.clone().with_data_type(plain(field.data_type()))
}

/// Whether a column of this type can be kept.
pub fn is_kept(data_type: &DataType) -> bool {
    RowConverter::supports_fields(&[SortField::new(data_type.clone())])
}

impl Form {
    /// How rows of columns of `types` are kept.
    ///
    /// # Panics
    /// For a type that [`is_kept`] refuses.
    pub fn new(types: impl IntoIterator<Item = DataType>) -> Form {
        let types: Vec<DataType> = types.into_iter().map(|data_type| plain(&data_type)).collect();
        let fields = types.iter().cloned().map(SortField::new).collect();
        Form { converter: RowConverter::new(fields).expect("the plan asked whether these are kept"), types }
    }

    /// How rows with these fields are kept.
    ///
    /// # Panics
    /// For a type that [`is_kept`] refuses.
    pub fn of<'a>(fields: impl IntoIterator<Item = &'a FieldRef>) -> Form {
        Form::new(fields.into_iter().map(|field| field.data_type().clone()))
    }

    /// The rows of some of a batch's columns; their bytes are `row(place).data()`.
    pub fn rows(&self, batch: &RecordBatch, places: &[usize]) -> Rows {
        let columns: Vec<ArrayRef> = places
            .iter()
            .zip(&self.types)
            .map(|(place, data_type)| {
                let column = batch.column(*place);
                if column.data_type() == data_type {
                    return Arc::clone(column);
                }
                cast(column, data_type).expect("a dictionary holds its values")
            })
            .collect();
        self.converter.convert_columns(&columns).expect("the columns are of these types")
    }

    /// The row whose columns are all null.
    pub fn nulls(&self) -> KeptRow {
        let columns: Vec<ArrayRef> =
            self.types.iter().map(|data_type| arrow::array::new_null_array(data_type, 1)).collect();
        self.converter.convert_columns(&columns).expect("nulls are of any type").row(0).data().into()
    }

    /// Rows as columns.
    pub fn columns<'a>(&self, rows: impl IntoIterator<Item = &'a [u8]>) -> Vec<ArrayRef> {
        let parser = self.converter.parser();
        let rows: Vec<&[u8]> = rows.into_iter().collect();
        self.converter
            .convert_rows(rows.into_iter().map(|row| parser.parse(row)))
            .expect("the bytes are of these columns")
    }
}

/// Names and values, each kept once, called by small numbers; [`Names::NULL`] is the null.
///
/// Numbers are given in the order of arrival, so nothing that is given may depend on them: what has to be in order is
/// compared by [`Names::get`], whose bytes are in order as the values are.
pub struct Names {
    form: Form,
    numbers: std::collections::BTreeMap<Arc<[u8]>, u32>,
    names: Vec<Arc<[u8]>>,
}

impl Names {
    /// The number of the null.
    pub const NULL: u32 = 0;

    /// No names, of a column of that type.
    pub fn new(data_type: DataType) -> Names {
        let form = Form::new([data_type]);
        let null: Arc<[u8]> = form.nulls().into();
        Names { form, numbers: [(Arc::clone(&null), Names::NULL)].into(), names: vec![null] }
    }

    /// The numbers of a column's values.
    pub fn numbers(&mut self, batch: &RecordBatch, column: usize) -> Vec<u32> {
        let rows = self.form.rows(batch, &[column]);
        let mut last: Option<(usize, u32)> = None;
        (0..batch.num_rows())
            .map(|row| {
                // Runs of one value are common.
                if let Some((place, number)) = last
                    && rows.row(place) == rows.row(row)
                {
                    return number;
                }
                let number = self.number(rows.row(row).data());
                last = Some((row, number));
                number
            })
            .collect()
    }

    fn number(&mut self, name: &[u8]) -> u32 {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        let number = u32::try_from(self.names.len()).expect("names fit in memory, and so in 32 bits");
        let name: Arc<[u8]> = name.into();
        self.names.push(Arc::clone(&name));
        self.numbers.insert(name, number);
        number
    }

    /// The bytes of a name, in order as the values are.
    pub fn get(&self, number: u32) -> &[u8] {
        &self.names[number as usize]
    }

    /// How many there are, the null among them.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether there is none but the null.
    pub fn is_empty(&self) -> bool {
        self.names.len() == 1
    }

    /// Names as a column.
    pub fn column(&self, numbers: impl IntoIterator<Item = u32>) -> ArrayRef {
        self.form.columns(numbers.into_iter().map(|number| self.get(number))).remove(0)
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{AsArray, DictionaryArray, Int64Array, StringArray};
    use arrow::datatypes::{Int32Type, Schema};

    use super::*;

    #[test]
    fn rows_come_back_as_they_were_and_dictionaries_as_what_they_hold() {
        let texts: DictionaryArray<Int32Type> = ["a", "b", "a"].into_iter().collect();
        let numbers = Int64Array::from(vec![Some(-1), None, Some(3)]);
        let batch = RecordBatch::try_from_iter([
            ("text", Arc::new(texts) as ArrayRef),
            ("number", Arc::new(numbers.clone()) as ArrayRef),
        ])
        .expect("of one length");
        let form = Form::of(batch.schema().fields());
        let rows = form.rows(&batch, &[0, 1]);
        let kept: Vec<KeptRow> = [2, 1].map(|row| rows.row(row).data().into()).into();
        let columns = form.columns(kept.iter().map(|row| &row[..]));
        assert_eq!(columns[0].as_string::<i32>(), &StringArray::from(vec!["a", "b"]));
        assert_eq!(columns[1].as_ref(), &Int64Array::from(vec![Some(3), None]));
    }

    #[test]
    fn names_are_kept_once_and_are_in_order_as_the_values_are() {
        let mut names = Names::new(DataType::Int64);
        let column: ArrayRef = Arc::new(Int64Array::from(vec![Some(7), None, Some(-7), Some(7)]));
        let schema = Schema::new(vec![Field::new("x", DataType::Int64, true)]);
        let batch = RecordBatch::try_new(Arc::new(schema), vec![Arc::clone(&column)]).expect("one column");
        let numbers = names.numbers(&batch, 0);
        assert_eq!(numbers, [1, Names::NULL, 2, 1]);
        assert!(names.get(2) < names.get(1), "-7 is before 7");
        assert_eq!(&names.column(numbers), &column);
    }
}
