//! Rows with a fixed set of columns: schema, builder and reader from one declaration.
//!
//! ```
//! use tidegate_facts::Tick;
//! use tidegate_facts::row::Row;
//!
//! #[derive(Row, Debug, PartialEq)]
//! struct Pair {
//!     #[row(name = "_tick")]
//!     tick: Tick,
//!     one: String,
//!     shared: i64,
//!     similarity: Option<f64>,
//! }
//!
//! let pairs = vec![Pair { tick: Tick(7), one: "a".to_owned(), shared: 3, similarity: None }];
//! let batch = Pair::to_batch(&pairs);
//! let columns = PairColumns::bind(&batch).unwrap();
//! assert_eq!(columns.one.value(0), "a");
//! assert_eq!(Pair::read(&batch).unwrap(), pairs);
//! ```

use std::sync::Arc;

use arrow::array::{
    Array, BooleanArray, FixedSizeBinaryArray, Float64Array, Int32Array, Int64Array, ListArray, StringArray,
    TimestampMicrosecondArray, UInt32Array, UInt64Array,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Schema, SchemaRef};

pub use arrow::array::{ArrayRef, RecordBatch};
pub use arrow::datatypes::Field;
pub use tidegate_derive::Row;

use crate::payload_schema::timestamp;
use crate::{Digest, Tick};

/// Why a batch cannot be read as rows of a row type: it does not have their columns.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RowMismatch {
    /// A column is missing.
    #[error("a batch lacks column `{name}`; the file or frame was not written as these rows")]
    Missing {
        /// The column.
        name: &'static str,
    },
    /// A column has another type.
    #[error(
        "column `{name}` is {found} and must be {expected}; the file or frame was not written as these rows"
    )]
    Type {
        /// The column.
        name: &'static str,
        /// Its type in the batch.
        found: DataType,
        /// Its type in the row.
        expected: DataType,
    },
    /// A column has nulls, and the row's field cannot be null.
    #[error(
        "column `{name}` has nulls, and its values are never null; the file or frame was not written as these rows"
    )]
    Null {
        /// The column.
        name: &'static str,
    },
}

/// A row type with a fixed set of columns. `#[derive(Row)]` implements it.
pub trait Row: Sized {
    /// The fields of its columns, in the order of the declaration.
    fn fields() -> Vec<Field>;

    /// The columns of some rows.
    fn columns(rows: &[Self]) -> Vec<ArrayRef>;

    /// Every row of a batch, whose columns may be in another order and among others.
    ///
    /// # Errors
    /// When a column is missing, has another type, or has nulls that the row cannot have.
    fn read(batch: &RecordBatch) -> Result<Vec<Self>, RowMismatch>;

    /// The schema of its columns.
    fn schema() -> SchemaRef {
        Arc::new(Schema::new(Self::fields()))
    }

    /// A batch of some rows.
    fn to_batch(rows: &[Self]) -> RecordBatch {
        RecordBatch::try_new(Self::schema(), Self::columns(rows)).expect("columns are made by their types")
    }
}

/// A type that a field of a row type can have, and the form of its column.
pub trait Column: Sized {
    /// The array of its column.
    type Array: Array + 'static;

    /// Whether its column can have nulls.
    const NULLABLE: bool = false;

    /// The type of its column.
    fn data_type() -> DataType;

    /// The column of some values.
    fn array<'v>(values: impl ExactSizeIterator<Item = &'v Self>) -> ArrayRef
    where
        Self: 'v;

    /// The column of some values, of which some may be missing.
    fn array_of_options<'v>(values: impl ExactSizeIterator<Item = Option<&'v Self>>) -> ArrayRef
    where
        Self: 'v;

    /// The value of a row, which is not null unless [`Self::NULLABLE`].
    fn get(array: &Self::Array, row: usize) -> Self;
}

/// The Arrow field of a row type's column, for values of type `T`.
pub fn field<T: Column>(name: &str) -> Field {
    Field::new(name, T::data_type(), T::NULLABLE)
}

/// Finds the column of a row type in a batch by its name, and checks its type.
///
/// # Errors
/// See [`RowMismatch`].
pub fn column<'b, T: Column>(
    batch: &'b RecordBatch,
    name: &'static str,
) -> Result<&'b T::Array, RowMismatch> {
    let column = batch.column_by_name(name).ok_or(RowMismatch::Missing { name })?;
    let expected = T::data_type();
    if *column.data_type() != expected {
        return Err(RowMismatch::Type { name, found: column.data_type().clone(), expected });
    }
    if !T::NULLABLE && column.null_count() > 0 {
        return Err(RowMismatch::Null { name });
    }
    Ok(column.as_any().downcast_ref().expect("the type was checked"))
}

macro_rules! primitive {
    ($value:ty, $array:ty, $data_type:expr, $to:expr, $of:expr) => {
        impl Column for $value {
            type Array = $array;

            fn data_type() -> DataType {
                $data_type
            }

            fn array<'v>(values: impl ExactSizeIterator<Item = &'v Self>) -> ArrayRef {
                Arc::new(<$array>::from_iter_values(values.map($to)))
            }

            fn array_of_options<'v>(values: impl ExactSizeIterator<Item = Option<&'v Self>>) -> ArrayRef {
                Arc::new(values.map(|value| value.map($to)).collect::<$array>())
            }

            fn get(array: &$array, row: usize) -> Self {
                $of(array.value(row))
            }
        }
    };
}

primitive!(i32, Int32Array, DataType::Int32, |value: &i32| *value, |value| value);
primitive!(i64, Int64Array, DataType::Int64, |value: &i64| *value, |value| value);
primitive!(u32, UInt32Array, DataType::UInt32, |value: &u32| *value, |value| value);
primitive!(u64, UInt64Array, DataType::UInt64, |value: &u64| *value, |value| value);
primitive!(f64, Float64Array, DataType::Float64, |value: &f64| *value, |value| value);
primitive!(Tick, Int64Array, DataType::Int64, |value: &Tick| value.0, Tick);

/// A time as a field of a row: microseconds since 1970-01-01 UTC, in a column of timestamps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Micros(pub i64);

impl Column for Micros {
    type Array = TimestampMicrosecondArray;

    fn data_type() -> DataType {
        timestamp()
    }

    fn array<'v>(values: impl ExactSizeIterator<Item = &'v Self>) -> ArrayRef {
        let times = TimestampMicrosecondArray::from_iter_values(values.map(|value| value.0));
        Arc::new(times.with_timezone("UTC"))
    }

    fn array_of_options<'v>(values: impl ExactSizeIterator<Item = Option<&'v Self>>) -> ArrayRef {
        let times: TimestampMicrosecondArray = values.map(|value| value.map(|value| value.0)).collect();
        Arc::new(times.with_timezone("UTC"))
    }

    fn get(array: &TimestampMicrosecondArray, row: usize) -> Self {
        Micros(array.value(row))
    }
}

impl Column for bool {
    type Array = BooleanArray;

    fn data_type() -> DataType {
        DataType::Boolean
    }

    fn array<'v>(values: impl ExactSizeIterator<Item = &'v Self>) -> ArrayRef {
        Arc::new(BooleanArray::from(values.copied().collect::<Vec<bool>>()))
    }

    fn array_of_options<'v>(values: impl ExactSizeIterator<Item = Option<&'v Self>>) -> ArrayRef {
        Arc::new(values.map(Option::<&bool>::copied).collect::<BooleanArray>())
    }

    fn get(array: &BooleanArray, row: usize) -> Self {
        array.value(row)
    }
}

impl Column for String {
    type Array = StringArray;

    fn data_type() -> DataType {
        DataType::Utf8
    }

    fn array<'v>(values: impl ExactSizeIterator<Item = &'v Self>) -> ArrayRef {
        Arc::new(StringArray::from_iter_values(values))
    }

    fn array_of_options<'v>(values: impl ExactSizeIterator<Item = Option<&'v Self>>) -> ArrayRef {
        Arc::new(values.collect::<StringArray>())
    }

    fn get(array: &StringArray, row: usize) -> Self {
        array.value(row).to_owned()
    }
}

impl Column for Digest {
    type Array = FixedSizeBinaryArray;

    fn data_type() -> DataType {
        DataType::FixedSizeBinary(32)
    }

    fn array<'v>(values: impl ExactSizeIterator<Item = &'v Self>) -> ArrayRef {
        let bytes: Vec<u8> = values.flat_map(|digest| digest.0).collect();
        Arc::new(FixedSizeBinaryArray::new(32, bytes.into(), None))
    }

    fn array_of_options<'v>(values: impl ExactSizeIterator<Item = Option<&'v Self>>) -> ArrayRef {
        let values = values.map(|value| value.map(|digest| digest.0));
        Arc::new(FixedSizeBinaryArray::try_from_sparse_iter_with_size(values, 32).expect("32 bytes each"))
    }

    fn get(array: &FixedSizeBinaryArray, row: usize) -> Self {
        Digest(array.value(row).try_into().expect("32 bytes"))
    }
}

impl<T: Column> Column for Vec<T> {
    type Array = ListArray;

    fn data_type() -> DataType {
        DataType::List(Arc::new(Field::new("item", T::data_type(), T::NULLABLE)))
    }

    fn array<'v>(values: impl ExactSizeIterator<Item = &'v Self>) -> ArrayRef
    where
        Self: 'v,
    {
        let lists: Vec<&Vec<T>> = values.collect();
        let offsets = OffsetBuffer::from_lengths(lists.iter().map(|list| list.len()));
        let items: Vec<&T> = lists.into_iter().flatten().collect();
        let field = Arc::new(Field::new("item", T::data_type(), T::NULLABLE));
        Arc::new(ListArray::new(field, offsets, T::array(items.into_iter()), None))
    }

    fn array_of_options<'v>(values: impl ExactSizeIterator<Item = Option<&'v Self>>) -> ArrayRef
    where
        Self: 'v,
    {
        let lists: Vec<Option<&Vec<T>>> = values.collect();
        let offsets = OffsetBuffer::from_lengths(lists.iter().map(|list| list.map_or(0, Vec::len)));
        let nulls = lists.iter().map(Option::is_some).collect();
        let items: Vec<&T> = lists.into_iter().flatten().flatten().collect();
        let field = Arc::new(Field::new("item", T::data_type(), T::NULLABLE));
        Arc::new(ListArray::new(field, offsets, T::array(items.into_iter()), Some(nulls)))
    }

    fn get(array: &ListArray, row: usize) -> Self {
        let items = array.value(row);
        let items: &T::Array = items.as_any().downcast_ref().expect("the type was checked");
        (0..items.len()).map(|item| T::get(items, item)).collect()
    }
}

impl<T: Column> Column for Option<T> {
    type Array = T::Array;

    const NULLABLE: bool = true;

    fn data_type() -> DataType {
        T::data_type()
    }

    fn array<'v>(values: impl ExactSizeIterator<Item = &'v Self>) -> ArrayRef
    where
        Self: 'v,
    {
        T::array_of_options(values.map(Option::as_ref))
    }

    fn array_of_options<'v>(values: impl ExactSizeIterator<Item = Option<&'v Self>>) -> ArrayRef
    where
        Self: 'v,
    {
        T::array_of_options(values.map(|value| value.and_then(Option::as_ref)))
    }

    fn get(array: &T::Array, row: usize) -> Self {
        (!array.is_null(row)).then(|| T::get(array, row))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Row, Clone, Debug, PartialEq)]
    struct Everything {
        #[row(name = "_tick")]
        tick: Tick,
        text: String,
        flag: bool,
        small: i32,
        count: u64,
        amount: f64,
        digest: Digest,
        at: Micros,
        basis: Vec<i64>,
        names: Vec<String>,
        maybe: Option<String>,
        maybe_at: Option<Micros>,
        maybe_digest: Option<Digest>,
        maybe_list: Option<Vec<u32>>,
    }

    fn row(number: i64) -> Everything {
        let some = number % 2 == 0;
        Everything {
            tick: Tick(number),
            text: format!("row {number}"),
            flag: some,
            small: number as i32,
            count: number.unsigned_abs(),
            amount: number as f64 / 8.0,
            digest: Digest::of(&number.to_le_bytes()),
            at: Micros(number * 1_000),
            basis: (0..number).collect(),
            names: vec![number.to_string(); number as usize % 3],
            maybe: some.then(|| "text".to_owned()),
            maybe_at: some.then_some(Micros(number)),
            maybe_digest: some.then(|| Digest::of(b"some")),
            maybe_list: some.then(|| vec![1, 2]),
        }
    }

    #[test]
    fn rows_come_back_from_a_batch_whatever_the_order_of_its_columns() {
        for count in [0, 1, 5] {
            let rows: Vec<Everything> = (0..count).map(row).collect();
            let batch = Everything::to_batch(&rows);
            assert_eq!(Everything::read(&batch).unwrap(), rows);
            let reversed: Vec<usize> = (0..batch.num_columns()).rev().collect();
            assert_eq!(Everything::read(&batch.project(&reversed).unwrap()).unwrap(), rows);
        }
    }

    #[test]
    fn a_batch_of_other_columns_is_refused_by_name() {
        let batch = Everything::to_batch(&[row(1)]);
        let all: Vec<usize> = (0..batch.num_columns()).collect();
        let missing = batch.project(&all[1..]).unwrap();
        assert_eq!(Everything::read(&missing), Err(RowMismatch::Missing { name: "_tick" }));

        #[derive(Row, Debug, PartialEq)]
        struct Other {
            text: Option<i64>,
        }
        assert!(matches!(Other::read(&batch), Err(RowMismatch::Type { name: "text", .. })));

        #[derive(Row, Debug, PartialEq)]
        struct Strict {
            maybe: String,
        }
        assert_eq!(Strict::read(&batch), Err(RowMismatch::Null { name: "maybe" }));
    }
}
