//! Credibility of evidence: quorum over claims, copy detection among streams, drift, and the index
//! of all.
//!
//! This layer uses [`core`](crate::core) only.

/// Implements [`Column`](tidegate_facts::row::Column) for a type whose values have a `name` and are
/// found again by `of_name`: a column of texts.
macro_rules! named_column {
    ($type:ty) => {
        impl tidegate_facts::row::Column for $type {
            type Array = arrow::array::StringArray;

            fn data_type() -> arrow::datatypes::DataType {
                arrow::datatypes::DataType::Utf8
            }

            fn array<'v>(values: impl ExactSizeIterator<Item = &'v Self>) -> arrow::array::ArrayRef {
                let names = values.map(|value| value.name());
                std::sync::Arc::new(arrow::array::StringArray::from_iter_values(names))
            }

            fn array_of_options<'v>(
                values: impl ExactSizeIterator<Item = Option<&'v Self>>,
            ) -> arrow::array::ArrayRef {
                let names = values.map(|value| value.map(|value| value.name()));
                std::sync::Arc::new(names.collect::<arrow::array::StringArray>())
            }

            fn get(array: &arrow::array::StringArray, row: usize) -> Self {
                <$type>::of_name(array.value(row)).expect("rows spell names of the type")
            }
        }
    };
}

pub mod copy_detection;
pub mod drift;
pub mod index;
pub mod quorum;
pub mod tally;
