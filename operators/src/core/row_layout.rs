//! Row layout: batches of a derived row type, some of whose columns have types that only the plan
//! knows.
//!
//! A derived [`Row`] has columns of fixed types. A node may also emit values of a type that its
//! topology chooses, such as the claims of a `quorum`. In the row type such a column holds a
//! number, for example that of an interned value, and a [`RowLayout`] puts the column of values in
//! its place.

use std::marker::PhantomData;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, UInt32Array};
use arrow::datatypes::{Field, Schema, SchemaRef};
use tidegate_facts::row::Row;

/// The index of the key in the row layout of stateful operators' inputs: tick, key, event time,
/// then the other columns.
pub const INPUT_KEY: usize = 1;

/// The index of the event time in the row layout of stateful operators' inputs.
pub const INPUT_TIME: usize = 2;

/// The row layout of batches of `R`: prefix columns, then the columns of `R`, some of them with
/// other types.
pub struct RowLayout<R> {
    schema: SchemaRef,
    prefix: usize,
    /// The indexes of the planned columns among those of `R`.
    planned: Vec<usize>,
    row: PhantomData<fn() -> R>,
}

impl<R: Row> RowLayout<R> {
    /// Returns a row layout with the columns `prefix` before those of `R`.
    ///
    /// Each field of `planned` replaces the field of `R` with its name, which must be a `u32`.
    ///
    /// # Panics
    /// If `R` has no column with the name of a planned field.
    pub fn new(prefix: Vec<Field>, planned: Vec<Field>) -> RowLayout<R> {
        let mut fields = R::fields();
        let indexes = planned.into_iter().map(|field| {
            let index = fields.iter().position(|other| other.name() == field.name());
            let index = index.expect("a planned column is a column of the row type");
            fields[index] = field;
            index
        });
        let planned = indexes.collect();
        let count = prefix.len();
        let schema = Arc::new(Schema::new(prefix.into_iter().chain(fields).collect::<Vec<_>>()));
        RowLayout { schema, prefix: count, planned, row: PhantomData }
    }

    /// The schema of batches with this row layout.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The index of a column of the row layout.
    ///
    /// # Panics
    /// If there is no such column.
    pub fn index_of(&self, name: &str) -> usize {
        self.schema.index_of(name).expect("a column of the layout")
    }

    /// The columns of `R` for these rows, the planned ones replaced.
    ///
    /// `planned` has one array for each planned column, in the order of [`RowLayout::new`].
    pub fn columns(&self, rows: &[R], planned: Vec<ArrayRef>) -> Vec<ArrayRef> {
        assert_eq!(planned.len(), self.planned.len(), "an array for each planned column");
        let mut columns = R::columns(rows);
        for (index, array) in self.planned.iter().zip(planned) {
            columns[*index] = array;
        }
        columns
    }

    /// A batch of these rows in this row layout. `prefix` has one array for each prefix column, and
    /// `planned` one for each planned column.
    pub fn batch(&self, prefix: Vec<ArrayRef>, rows: &[R], planned: Vec<ArrayRef>) -> RecordBatch {
        let columns = prefix.into_iter().chain(self.columns(rows, planned)).collect();
        RecordBatch::try_new(Arc::clone(&self.schema), columns).expect("the columns are the layout's")
    }

    /// The rows of a batch with this layout. `numbers` has the numbers of each planned column.
    ///
    /// # Panics
    /// If the batch has another layout.
    pub fn read(&self, batch: &RecordBatch, numbers: Vec<Vec<u32>>) -> Vec<R> {
        assert_eq!(numbers.len(), self.planned.len(), "numbers for each planned column");
        let mut columns = batch.columns()[self.prefix..].to_vec();
        for (index, numbers) in self.planned.iter().zip(numbers) {
            columns[*index] = Arc::new(UInt32Array::from(numbers));
        }
        let rows = RecordBatch::try_new(R::schema(), columns).expect("a batch of this layout");
        R::read(&rows).expect("a batch of this layout")
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{AsArray, Int64Array, StringArray};
    use arrow::datatypes::DataType;

    use super::*;

    #[derive(Row, Clone, Debug, PartialEq)]
    struct Vote {
        value: u32,
        margin: i32,
    }

    #[test]
    fn planned_columns_replace_those_of_the_row_type() {
        let claim = Field::new("claim", DataType::Int64, false);
        let value = Field::new("value", DataType::Utf8, true);
        let layout: RowLayout<Vote> = RowLayout::new(vec![claim], vec![value]);
        let rows = [Vote { value: 1, margin: 2 }, Vote { value: 0, margin: 3 }];
        let claims: ArrayRef = Arc::new(Int64Array::from(vec![7, 8]));
        let values: ArrayRef = Arc::new(StringArray::from(vec![Some("on"), None]));
        let batch = layout.batch(vec![claims], &rows, vec![values]);
        assert_eq!(batch.column(layout.index_of("value")).as_string::<i32>().value(0), "on");
        assert_eq!(batch.schema().field(0).name(), "claim");
        assert_eq!(layout.read(&batch, vec![vec![1, 0]]), rows);
    }
}
