//! The feature digest of each row: BLAKE3 over the features that a decision about it reads.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, FixedSizeBinaryArray, ListArray, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field};
use tidegate_facts::DigestBatch;
use tidegate_facts::jcs::{ArrayWriter, push_integer, push_string};
use tidegate_facts::{Digest, columns};

use crate::core::column_appender::ColumnAppender;
use crate::core::rows::{digest_column, ticks_of};

/// The name of the canonical form that a feature digest hashes; the form contains it.
pub const FORM: &str = "tidegate.snapshot.v2";

/// The field of the feature digest's column, which [`FeatureDigests`] appends.
pub fn feature_digest_field() -> Field {
    Field::new("snapshot_digest", DataType::FixedSizeBinary(32), false)
}

/// Appends to each row its feature digest.
pub struct FeatureDigests {
    /// The indexes of the feature columns.
    features: Range<usize>,
    appender: ColumnAppender,
}

impl FeatureDigests {
    /// An appender of the digest of the features in the columns with indexes `features`.
    pub fn new(features: Range<usize>) -> FeatureDigests {
        FeatureDigests { features, appender: ColumnAppender::new([feature_digest_field()]) }
    }

    /// Appends the digests of the rows' features.
    ///
    /// # Panics
    /// When the rows have no `event_id` or `basis`, or a feature's type has no canonical form; the
    /// plan checks both.
    pub fn append(&mut self, batch: &RecordBatch) -> RecordBatch {
        let schema = batch.schema_ref();
        let column = |name| batch.column_by_name(name).expect("the plan checks that the column exists");
        let event_ids = column(columns::EVENT_ID).as_string::<i32>();
        let basis = column(columns::BASIS).as_list::<i32>();
        let features = self.features.clone();
        let features = features.map(|index| (schema.field(index).name().as_str(), batch.column(index)));
        let digests = feature_digests(ticks_of(batch), event_ids, basis, features);
        self.appender.append(batch, [Arc::new(digests) as ArrayRef])
    }
}

/// The feature digest of each row: BLAKE3 over the canonical form of
/// `["tidegate.snapshot.v2",names,tick,event_id,[basis],features..]`, where `names` is BLAKE3 over
/// the canonical list of the feature names.
///
/// # Panics
/// When a feature's type has no canonical form; the plan checks that it has one.
pub fn feature_digests<'a>(
    ticks: &columns::TickArray,
    event_ids: &StringArray,
    basis: &ListArray,
    features: impl IntoIterator<Item = (&'a str, &'a ArrayRef)>,
) -> FixedSizeBinaryArray {
    let features: Vec<_> = features.into_iter().collect();
    let names: Vec<&str> = features.iter().map(|(name, _)| *name).collect();
    let form = ArrayWriter::new(features).expect("the results of windows have canonical forms");
    let counts = basis.values().as_primitive::<columns::OffsetType>().values();
    let offsets = basis.value_offsets();
    let mut digests = DigestBatch::with_capacity(ticks.values().len());
    let head = format!("[\"{FORM}\",\"{}\",\"", names_digest(&names)).into_bytes();
    for row in 0..ticks.values().len() {
        digests.push(|text| {
            text.extend_from_slice(&head);
            push_integer(ticks.value(row).into(), text);
            text.extend_from_slice(b"\",");
            push_string(event_ids.value(row), text);
            text.extend_from_slice(b",[");
            let from = offsets[row] as usize;
            for (index, count) in counts[from..offsets[row + 1] as usize].iter().enumerate() {
                text.extend_from_slice(if index == 0 { b"\"" } else { b",\"" });
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

/// BLAKE3 over the canonical list of names.
fn names_digest(names: &[&str]) -> Digest {
    let mut text = b"[".to_vec();
    for (index, name) in names.iter().enumerate() {
        if index > 0 {
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

    use arrow::array::{Float64Array, Int64Array, ListBuilder};
    use tidegate_facts::columns::OffsetBuilder;

    use super::*;

    #[test]
    fn the_digest_is_of_the_canonical_form() {
        let mut basis = ListBuilder::new(OffsetBuilder::new());
        basis.append_value([Some(3), Some(0)]);
        basis.append_value([Some(4), Some(0)]);
        let count: ArrayRef = Arc::new(Int64Array::from(vec![2, 3]));
        let average: ArrayRef = Arc::new(Float64Array::from(vec![Some(0.5), None]));
        // Sliced, like rows of a larger batch.
        let digests = feature_digests(
            &columns::TickArray::from(vec![7, 4096]).slice(1, 1),
            &StringArray::from(vec!["a", "b\""]).slice(1, 1),
            &basis.finish().slice(1, 1),
            [("count_1d", &count.slice(1, 1)), ("avg_1d", &average.slice(1, 1))],
        );
        let names = Digest::of(br#"["count_1d","avg_1d"]"#);
        let text = format!(r#"["tidegate.snapshot.v2","{names}","4096","b\"",["4","0"],"3",null]"#);
        assert_eq!(tidegate_facts::strict_json::canonical(&text).expect("JSON"), text, "it is canonical");
        assert_eq!(digests.value(0), Digest::of(text.as_bytes()).0);
    }
}
