//! Interns the values of a column: each distinct value is stored once and addressed by a small
//! number.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::DataType;

use super::row_encoding::RowCodec;

/// The interned values of a column, each once, and their numbers; [`Interner::NULL`] is the number
/// of null.
///
/// Numbers follow the order of arrival, so no output may depend on them. To order values, compare
/// the bytes that [`Interner::get`] returns.
pub struct Interner {
    codec: RowCodec,
    numbers: BTreeMap<Arc<[u8]>, u32>,
    values: Vec<Arc<[u8]>>,
}

impl Interner {
    /// The number by which an interner addresses null.
    pub const NULL: u32 = 0;

    /// An interner for a column of type `data_type`, with no value but null.
    pub fn new(data_type: DataType) -> Interner {
        let codec = RowCodec::new([data_type]);
        let null: Arc<[u8]> = codec.null_row().into();
        Interner { codec, numbers: [(Arc::clone(&null), Interner::NULL)].into(), values: vec![null] }
    }

    /// Interns the values of the column with index `column`, and returns the number of each row's
    /// value.
    pub fn intern(&mut self, batch: &RecordBatch, column: usize) -> Vec<u32> {
        let rows = self.codec.encode(batch, &[column]);
        let mut last: Option<(usize, u32)> = None;
        (0..batch.num_rows())
            .map(|row| {
                // Runs of one value are common, and a comparison is cheaper than a look-up.
                if let Some((earlier, number)) = last
                    && rows.row(earlier) == rows.row(row)
                {
                    return number;
                }
                let number = self.number(rows.row(row).data());
                last = Some((row, number));
                number
            })
            .collect()
    }

    fn number(&mut self, value: &[u8]) -> u32 {
        if let Some(number) = self.numbers.get(value) {
            return *number;
        }
        let number = u32::try_from(self.values.len()).expect("values in memory number fewer than 2^32");
        let value: Arc<[u8]> = value.into();
        self.values.push(Arc::clone(&value));
        self.numbers.insert(value, number);
        number
    }

    /// The encoded value that was interned under a number; encoded values are ordered as the values
    /// are.
    pub fn get(&self, number: u32) -> &[u8] {
        &self.values[number as usize]
    }

    /// The count of interned values, including null.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether no value but null was interned.
    pub fn is_empty(&self) -> bool {
        self.values.len() == 1
    }

    /// The interned values with these `numbers`, as a column.
    pub fn column(&self, numbers: impl IntoIterator<Item = u32>) -> ArrayRef {
        self.codec.decode(numbers.into_iter().map(|number| self.get(number))).remove(0)
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::Int64Array;
    use arrow::datatypes::{Field, Schema};

    use super::*;

    #[test]
    fn each_value_is_stored_once_and_encoded_values_are_ordered_as_the_values_are() {
        let mut values = Interner::new(DataType::Int64);
        let column: ArrayRef = Arc::new(Int64Array::from(vec![Some(7), None, Some(-7), Some(7)]));
        let schema = Schema::new(vec![Field::new("x", DataType::Int64, true)]);
        let batch = RecordBatch::try_new(Arc::new(schema), vec![Arc::clone(&column)]).expect("one column");
        let numbers = values.intern(&batch, 0);
        assert_eq!(numbers, [1, Interner::NULL, 2, 1]);
        assert!(values.get(2) < values.get(1), "-7 is before 7");
        assert_eq!(&values.column(numbers), &column);
    }
}
