//! Keys of arrangements: 128 bits for any identifier, equal exactly when the identifiers are.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};
use tidegate_facts::{KeyHash, digest::key_hash};

/// The key of a row whose identifier is null. Such rows are in no group: they see nothing and nothing sees them.
pub const NULL_KEY: KeyHash = KeyHash::MAX;

/// Whether a column of this type can be a key.
pub fn is_key(data_type: &DataType) -> bool {
    data_type.is_integer()
        || matches!(data_type, DataType::Utf8 | DataType::Boolean | DataType::FixedSizeBinary(_))
}

/// The key of each row.
///
/// A whole number is its own key, so that nothing is hashed on the hot path; a text is hashed.
///
/// # Panics
/// For a column that [`is_key`] refuses.
pub fn keys_of(column: &ArrayRef) -> Vec<KeyHash> {
    match column.data_type() {
        DataType::Utf8 => {
            each(column, |row| key_hash("text", column.as_string::<i32>().value(row).as_bytes()))
        }
        DataType::FixedSizeBinary(_) => {
            each(column, |row| key_hash("bytes", column.as_fixed_size_binary().value(row)))
        }
        DataType::UInt64 => {
            let values = column.as_primitive::<arrow::datatypes::UInt64Type>();
            each(column, |row| KeyHash::from(values.value(row)))
        }
        _ => {
            let widened = cast(column, &DataType::Int64).expect("integers and booleans widen to 64 bits");
            let values = widened.as_primitive::<Int64Type>();
            each(column, |row| KeyHash::from(values.value(row).cast_unsigned()))
        }
    }
}

fn each(column: &ArrayRef, key: impl Fn(usize) -> KeyHash) -> Vec<KeyHash> {
    (0..column.len()).map(|row| if column.is_null(row) { NULL_KEY } else { key(row) }).collect()
}

/// Which of `workers` owns a key.
pub fn owner(key: KeyHash, workers: usize) -> usize {
    // Whole numbers are their own keys, so spread them before taking a remainder.
    let mixed = ((key as u64) ^ ((key >> 64) as u64)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    ((mixed >> 32) as usize) % workers
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int32Array, Int64Array, StringArray, UInt64Array};

    use super::*;

    #[test]
    fn keys_are_equal_exactly_when_identifiers_are() {
        let whole: ArrayRef = Arc::new(Int64Array::from(vec![Some(5), Some(-1), None]));
        let narrow: ArrayRef = Arc::new(Int32Array::from(vec![Some(5), Some(-1), None]));
        let unsigned: ArrayRef = Arc::new(UInt64Array::from(vec![5]));
        assert_eq!(keys_of(&whole), keys_of(&narrow), "the width of a number is no part of it");
        assert_eq!(keys_of(&unsigned)[0], keys_of(&whole)[0]);
        assert_eq!(keys_of(&whole)[2], NULL_KEY);
        let texts: ArrayRef = Arc::new(StringArray::from(vec!["5", "five", "5"]));
        let keys = keys_of(&texts);
        assert_eq!(keys[0], keys[2]);
        assert!(keys[0] != keys[1] && keys[0] != keys_of(&whole)[0]);
    }

    #[test]
    fn whole_numbers_are_spread_over_the_workers() {
        for workers in [2, 3, 8] {
            let mut counts = vec![0; workers];
            (0..8_000u128).for_each(|key| counts[owner(key, workers)] += 1);
            let fair = 8_000 / workers;
            assert!(counts.iter().all(|count| *count > fair / 2 && *count < fair * 2), "{counts:?}");
        }
    }
}
