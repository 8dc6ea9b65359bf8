//! Keys of arrangements: 128 bits for each identifier, equal exactly when the identifiers are
//! equal.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, FixedSizeBinaryBuilder, Int64Array, StringArray, UInt64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};
use tidegate_facts::{KeyHash, digest::key_hash};

/// The key, in arrangements, of a row whose identifier is null. Such a row belongs to no group: it
/// matches no other row.
pub const NULL_KEY: KeyHash = KeyHash::MAX;

/// Whether a column of this type can be a key column of an arrangement.
pub fn is_key(data_type: &DataType) -> bool {
    data_type.is_integer()
        || matches!(data_type, DataType::Utf8 | DataType::Boolean | DataType::FixedSizeBinary(_))
}

/// The 128-bit key of each row, computed from the column of identifiers.
///
/// An integer is its own key, so nothing is hashed for it; texts and bytes are hashed.
///
/// # Panics
/// For a column that [`is_key`] refuses.
pub fn keys_of(column: &ArrayRef) -> Vec<KeyHash> {
    match column.data_type() {
        DataType::Utf8 => {
            let texts = column.as_string::<i32>();
            let mut cache = HashCache::new(column.len());
            key_each(column, |row| cache.key("text", texts.value(row).as_bytes()))
        }
        DataType::FixedSizeBinary(_) => {
            key_each(column, |row| key_hash("bytes", column.as_fixed_size_binary().value(row)))
        }
        DataType::UInt64 => {
            let values = column.as_primitive::<arrow::datatypes::UInt64Type>();
            key_each(column, |row| KeyHash::from(values.value(row)))
        }
        _ => {
            let widened = cast(column, &DataType::Int64).expect("integers and booleans widen to 64 bits");
            let values = widened.as_primitive::<Int64Type>();
            key_each(column, |row| KeyHash::from(values.value(row).cast_unsigned()))
        }
    }
}

/// The bytes that are hashed into the key of each row; empty for a column whose values are its
/// keys.
pub fn identifiers_of(column: &ArrayRef) -> Vec<Arc<[u8]>> {
    match column.data_type() {
        DataType::Utf8 => {
            column.as_string::<i32>().iter().map(|text| text.unwrap_or("").as_bytes().into()).collect()
        }
        DataType::FixedSizeBinary(_) => {
            column.as_fixed_size_binary().iter().map(|bytes| bytes.unwrap_or(&[]).into()).collect()
        }
        _ => Vec::new(),
    }
}

/// Restores the column of identifiers of type `data_type` from its keys, none of them null.
///
/// `identifiers` are the bytes that were hashed into the keys, see [`identifiers_of`].
///
/// # Panics
/// For a type that [`is_key`] refuses, and when keys are hashes and `identifiers` is empty.
pub fn column_of_keys(data_type: &DataType, keys: &[KeyHash], identifiers: &[Arc<[u8]>]) -> ArrayRef {
    let is_hashed = matches!(data_type, DataType::Utf8 | DataType::FixedSizeBinary(_));
    assert!(
        !is_hashed || identifiers.len() == keys.len(),
        "published timelines store the identifiers of hashed keys"
    );
    match data_type {
        DataType::Utf8 => {
            let text =
                |bytes: &Arc<[u8]>| String::from_utf8(bytes.to_vec()).expect("the identifier was a text");
            Arc::new(StringArray::from_iter_values(identifiers.iter().map(text)))
        }
        DataType::FixedSizeBinary(size) => {
            let mut column = FixedSizeBinaryBuilder::with_capacity(keys.len(), *size);
            for bytes in identifiers {
                column.append_value(bytes).expect("the identifier had that size");
            }
            Arc::new(column.finish())
        }
        DataType::UInt64 => Arc::new(UInt64Array::from_iter_values(keys.iter().map(|key| *key as u64))),
        _ => {
            let integers = Int64Array::from_iter_values(keys.iter().map(|key| (*key as u64).cast_signed()));
            cast(&integers, data_type).expect("the key was converted from that type")
        }
    }
}

fn key_each(column: &ArrayRef, mut key: impl FnMut(usize) -> KeyHash) -> Vec<KeyHash> {
    (0..column.len()).map(|row| if column.is_null(row) { NULL_KEY } else { key(row) }).collect()
}

/// A cache of the last hashed identifiers. Columns often repeat few identifiers, and a comparison
/// costs a tenth of a hash.
struct HashCache<'a> {
    slots: Vec<Option<(&'a [u8], KeyHash)>>,
}

impl<'a> HashCache<'a> {
    fn new(rows: usize) -> HashCache<'a> {
        HashCache { slots: vec![None; rows.next_power_of_two().min(1024)] }
    }

    fn key(&mut self, kind: &str, identifier: &'a [u8]) -> KeyHash {
        // Any slot is correct: identifiers that share one are compared, and only evict each other.
        let spread = |spread: u64, byte: &u8| (spread ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3);
        let end = &identifier[identifier.len().saturating_sub(8)..];
        let spread = end.iter().fold(identifier.len() as u64, spread);
        let slot = (spread ^ (spread >> 20)) as usize & (self.slots.len() - 1);
        match self.slots[slot] {
            Some((cached, key)) if cached == identifier => key,
            _ => {
                let key = key_hash(kind, identifier);
                self.slots[slot] = Some((identifier, key));
                key
            }
        }
    }
}

/// The index of the worker that owns a key, out of `workers`.
pub fn owner(key: KeyHash, workers: usize) -> usize {
    // Integers are their own keys, so mix their bits before taking the remainder.
    let mixed = ((key as u64) ^ ((key >> 64) as u64)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    ((mixed >> 32) as usize) % workers
}

#[cfg(test)]
mod tests {
    use arrow::array::{BooleanArray, FixedSizeBinaryArray, Int32Array};

    use super::*;

    #[test]
    fn keys_are_equal_exactly_when_identifiers_are() {
        let whole: ArrayRef = Arc::new(Int64Array::from(vec![Some(5), Some(-1), None]));
        let narrower: ArrayRef = Arc::new(Int32Array::from(vec![Some(5), Some(-1), None]));
        let unsigned: ArrayRef = Arc::new(UInt64Array::from(vec![5]));
        assert_eq!(keys_of(&whole), keys_of(&narrower), "the width of an integer does not change its key");
        assert_eq!(keys_of(&unsigned)[0], keys_of(&whole)[0]);
        assert_eq!(keys_of(&whole)[2], NULL_KEY);
        let texts: ArrayRef = Arc::new(StringArray::from(vec!["5", "five", "5"]));
        let keys = keys_of(&texts);
        assert_eq!(keys[0], keys[2]);
        assert!(keys[0] != keys[1] && keys[0] != keys_of(&whole)[0]);
        // Many identifiers that share a slot of the cache, twice each.
        let names: Vec<String> = (0..5_000).map(|row| format!("{}-aaaaaaaa", row % 2_500)).collect();
        let keys = keys_of(&(Arc::new(StringArray::from(names.clone())) as ArrayRef));
        let each = names.iter().map(|name| key_hash("text", name.as_bytes()));
        assert!(keys.into_iter().eq(each));
    }

    #[test]
    fn a_column_is_restored_from_its_keys() {
        let bytes = FixedSizeBinaryArray::try_from_iter([[1u8, 2], [3, 4]].iter()).expect("of one size");
        let columns: [ArrayRef; 6] = [
            Arc::new(Int64Array::from(vec![5, -1, i64::MIN])),
            Arc::new(Int32Array::from(vec![i32::MIN, 7])),
            Arc::new(UInt64Array::from(vec![u64::MAX, 0])),
            Arc::new(BooleanArray::from(vec![true, false])),
            Arc::new(StringArray::from(vec!["", "card-7", "Gabel für ä"])),
            Arc::new(bytes),
        ];
        for column in columns {
            let restored = column_of_keys(column.data_type(), &keys_of(&column), &identifiers_of(&column));
            assert_eq!(&restored, &column);
        }
    }

    #[test]
    fn integers_are_spread_over_the_workers() {
        for workers in [2, 3, 8] {
            let mut counts = vec![0; workers];
            (0..8_000u128).for_each(|key| counts[owner(key, workers)] += 1);
            let fair = 8_000 / workers;
            assert!(counts.iter().all(|count| *count > fair / 2 && *count < fair * 2), "{counts:?}");
        }
    }
}
