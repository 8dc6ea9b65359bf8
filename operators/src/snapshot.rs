//! The digest of what a decision saw: the features of one event, as of its tick, on their basis.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, FixedSizeBinaryArray, ListArray, RecordBatch, StringArray, UInt64Array,
};
use arrow::datatypes::{DataType, Field, UInt64Type};
use tidegate_facts::jcs::{ArrayForm, push_integer, push_string};
use tidegate_facts::lanes::Digests;
use tidegate_facts::{Digest, columns};

use crate::lookup::Wider;
use crate::rows::{digest_column, ticks_of};

/// What the form of a snapshot is called, inside it.
pub const SNAPSHOT: &str = "tidegate.snapshot.v2";

/// The column that [`Snapshots`] add.
pub fn snapshot_field() -> Field {
    Field::new("snapshot_digest", DataType::FixedSizeBinary(32), false)
}

/// Gives rows the digests of what they saw.
pub struct Snapshots {
    /// The columns of the features.
    features: Range<usize>,
    wider: Wider,
}

impl Snapshots {
    /// Of the features in the columns `features`.
    pub fn of(features: Range<usize>) -> Snapshots {
        Snapshots { features, wider: Wider::new([snapshot_field()]) }
    }

    /// The rows with the digests of their features.
    ///
    /// # Panics
    /// When the rows have no `event_id` or `basis`, or a feature's type has no canonical form: the plan checks that.
    pub fn add(&mut self, batch: &RecordBatch) -> RecordBatch {
        let schema = batch.schema_ref();
        let column = |name| batch.column_by_name(name).expect("the plan checks it");
        let event_ids = column(columns::EVENT_ID).as_string::<i32>();
        let basis = column(columns::BASIS).as_list::<i32>();
        let features = self.features.clone();
        let features = features.map(|place| (schema.field(place).name().as_str(), batch.column(place)));
        let digests = snapshot_digests(ticks_of(batch), event_ids, basis, features);
        self.wider.widen(batch, [Arc::new(digests) as ArrayRef])
    }
}

/// For each row, BLAKE3 over the canonical form of
/// `["tidegate.snapshot.v2",names,tick,event_id,[basis],features..]`, where `names` is BLAKE3 over the
/// canonical list of the features' names.
///
/// # Panics
/// When a feature's type has no canonical form: the plan gives features types that have one.
pub fn snapshot_digests<'a>(
    ticks: &UInt64Array,
    event_ids: &StringArray,
    basis: &ListArray,
    features: impl IntoIterator<Item = (&'a str, &'a ArrayRef)>,
) -> FixedSizeBinaryArray {
    let features: Vec<_> = features.into_iter().collect();
    let names: Vec<&str> = features.iter().map(|(name, _)| *name).collect();
    let form = ArrayForm::new(features).expect("windows answer in types that have a canonical form");
    let counts = basis.values().as_primitive::<UInt64Type>().values();
    let offsets = basis.value_offsets();
    let mut digests = Digests::with_capacity(ticks.values().len());
    let head = format!("[\"{SNAPSHOT}\",\"{}\",\"", names_digest(&names)).into_bytes();
    for row in 0..ticks.values().len() {
        digests.push(|text| {
            text.extend_from_slice(&head);
            push_integer(ticks.value(row).into(), text);
            text.extend_from_slice(b"\",");
            push_string(event_ids.value(row), text);
            text.extend_from_slice(b",[");
            let from = offsets[row] as usize;
            for (place, count) in counts[from..offsets[row + 1] as usize].iter().enumerate() {
                text.extend_from_slice(if place == 0 { b"\"" } else { b",\"" });
                push_integer((*count).into(), text);
                text.push(b'"');
            }
            text.push(b']');
            form.push_values(row, text);
            text.push(b']');
        });
    }
    digest_column(&digests.finish())
}

/// BLAKE3 over the canonical list of some names.
fn names_digest(names: &[&str]) -> Digest {
    let mut text = b"[".to_vec();
    for (place, name) in names.iter().enumerate() {
        if place > 0 {
            text.push(b',');
        }
        push_string(name, &mut text);
    }
    text.push(b']');
    Digest::of(&text)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Float64Array, Int64Array, ListBuilder, UInt64Builder};

    use super::*;

    #[test]
    fn the_digest_is_of_the_canonical_form() {
        let mut basis = ListBuilder::new(UInt64Builder::new());
        basis.append_value([Some(3), Some(0)]);
        basis.append_value([Some(4), Some(0)]);
        let count: ArrayRef = Arc::new(Int64Array::from(vec![2, 3]));
        let average: ArrayRef = Arc::new(Float64Array::from(vec![Some(0.5), None]));
        // Sliced, as rows of a larger batch are.
        let digests = snapshot_digests(
            &UInt64Array::from(vec![7, 4096]).slice(1, 1),
            &StringArray::from(vec!["a", "b\""]).slice(1, 1),
            &basis.finish().slice(1, 1),
            [("count_1d", &count.slice(1, 1)), ("avg_1d", &average.slice(1, 1))],
        );
        let names = Digest::of(br#"["count_1d","avg_1d"]"#);
        let text = format!(r#"["tidegate.snapshot.v2","{names}","4096","b\"",["4","0"],"3",null]"#);
        assert_eq!(tidegate_facts::json::canonical(&text).expect("JSON"), text, "it is canonical");
        assert_eq!(digests.value(0), Digest::of(text.as_bytes()).0);
    }
}
