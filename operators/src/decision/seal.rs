//! Seals decisions as episodes: each decision with everything it was based on, and a record digest.
//!
//! Reference: fraud platform 2.8, credibility engine 1.6. The record of a row is a JSON array in
//! canonical form: `tidegate.episode.v1`, the digest of its frame, then the values of its columns.
//! The frame is the object `{"columns":[names],"under":{..}}`: it names the values, and `under` has
//! the bundle, the gate policy and the plan by name and digest. So a record identifies its fact
//! (tick, offset, payload digest), the look-up results (values, feature digest, basis), the rules
//! that fired, and the revisions in effect. Anyone with the row can recompute the digest, in any
//! language. Hash chains and roots are computed by the sink.
//!
//! The frame is hashed once for thousands of records; it would be more than half of each.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, DictionaryArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Int32Type, Schema, SchemaRef};
use serde_json::value::RawValue;
use tidegate_facts::jcs::{ArrayWriter, UnsupportedType};
use tidegate_facts::{Digest, DigestBatch, columns, strict_json};

use crate::core::column_appender::ColumnAppender;
use crate::core::rows::{digest_column, repeated_text};

/// The name of the canonical form of an episode; the form contains it.
pub const EPISODE: &str = "tidegate.episode.v1";

/// The name of the column with the plan digest, which sealing appends to each decision.
pub const PLAN_DIGEST: &str = "plan_digest";

/// The columns of a sealed episode's frame: the bundle, policy and plan that were effective.
pub const UNDER: [&str; 7] = [
    "bundle_digest",
    "bundle_id",
    "bundle_version",
    PLAN_DIGEST,
    "policy_digest",
    "policy_id",
    "policy_revision",
];

/// The columns that a row must have to be sealed as an episode.
pub const NEEDED: [&str; 5] =
    [columns::OFFSET, columns::EVENT_ID, columns::PAYLOAD_HASH, columns::BASIS, "decision_id"];

/// The schema of episodes of rows with schema `input`.
pub fn episode_schema(input: &Schema) -> SchemaRef {
    let own = input.fields().iter().map(|field| field.as_ref().clone());
    Arc::new(Schema::new(own.chain(appended_fields()).collect::<Vec<_>>()))
}

fn appended_fields() -> [Field; 2] {
    [
        Field::new(PLAN_DIGEST, columns::dictionary(), false),
        Field::new(columns::RECORD_DIGEST, DataType::FixedSizeBinary(32), false),
    ]
}

/// Seals rows as episodes of one plan.
pub struct Sealer {
    plan: String,
    heads: RecordHeads,
    planned: ColumnAppender,
    sealed: ColumnAppender,
}

impl Sealer {
    /// A sealer for the plan with this digest.
    pub fn new(plan: &Digest) -> Sealer {
        let [planned, sealed] = appended_fields().map(|field| ColumnAppender::new([field]));
        Sealer { plan: plan.to_hex(), heads: RecordHeads::default(), planned, sealed }
    }

    /// Appends the plan digest and the record digest to each row.
    ///
    /// # Panics
    /// When a column's type has no canonical form; the plan checks that.
    pub fn seal(&mut self, rows: &RecordBatch) -> RecordBatch {
        let rows = self.planned.append(rows, [repeated_text(&self.plan, rows.num_rows())]);
        let digests =
            self.heads.digests(&rows).expect("the plan checks that every column has a canonical form");
        self.sealed.append(&rows, [Arc::new(digest_column(&digests)) as ArrayRef])
    }
}

/// The canonical form of one episode, as a verifier recomputes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Episode {
    /// The frame, in canonical form.
    pub frame: String,
    /// The record, in canonical form; its BLAKE3 digest is the row's `record_digest`.
    pub record: String,
}

impl Episode {
    /// The canonical form of a sealed row.
    ///
    /// # Errors
    /// When a column has no canonical form; Tidegate does not write such rows.
    pub fn of(rows: &RecordBatch, row: usize) -> Result<Episode, UnsupportedType> {
        let form = RowWriter::of(rows)?;
        let frame = form.frame(row);
        let mut record = Vec::new();
        push_head(&frame, &mut record);
        form.values.push_values(row, &mut record);
        record.push(b']');
        let text = |bytes| String::from_utf8(bytes).expect("JSON text is UTF-8");
        Ok(Episode { frame, record: text(record) })
    }

    /// The values of the record and of its frame by column name, as canonical JSON.
    pub fn values(&self) -> Vec<(String, String)> {
        let frame: serde_json::Value = serde_json::from_str(&self.frame).expect("the frame is valid JSON");
        let record: Vec<&RawValue> = serde_json::from_str(&self.record).expect("the record is valid JSON");
        let names = frame["columns"].as_array().into_iter().flatten().filter_map(|name| name.as_str());
        let values = record.iter().skip(2).map(|value| value.get().to_owned());
        let under = frame["under"].as_object().into_iter().flatten();
        let under = under.map(|(name, value)| (name.clone(), value.to_string()));
        names.map(str::to_owned).zip(values).chain(under).collect()
    }
}

/// Recomputes the record digest of each sealed episode from its other columns.
///
/// # Errors
/// When a column has no canonical form; Tidegate does not write such rows.
pub fn recompute_record_digests(rows: &RecordBatch) -> Result<Vec<Digest>, UnsupportedType> {
    RecordHeads::default().digests(rows)
}

/// The head of records with one frame, cached because the next batch mostly has the same frame.
#[derive(Default)]
struct RecordHeads {
    names: Vec<String>,
    under: Vec<(String, Option<String>)>,
    head: Vec<u8>,
}

impl RecordHeads {
    /// The record digest of each row.
    fn digests(&mut self, rows: &RecordBatch) -> Result<Vec<Digest>, UnsupportedType> {
        let form = RowWriter::of(rows)?;
        let mut digests = DigestBatch::with_capacity(rows.num_rows());
        for row in 0..rows.num_rows() {
            if row == 0 || !form.same_frame(row - 1, row) {
                self.set_frame(&form, row);
            }
            digests.push(|text| {
                text.extend_from_slice(&self.head);
                form.values.push_values(row, text);
                text.push(b']');
            });
        }
        Ok(digests.finish())
    }

    /// Sets `head` to that of a row's frame.
    fn set_frame(&mut self, form: &RowWriter<'_>, row: usize) {
        let is_same = !self.head.is_empty()
            && form.names.iter().eq(self.names.iter())
            && form.under(row).eq(self.under.iter().map(|(name, text)| (name.as_str(), text.as_deref())));
        if !is_same {
            self.names = form.names.iter().map(|name| (*name).to_owned()).collect();
            self.under =
                form.under(row).map(|(name, text)| (name.to_owned(), text.map(str::to_owned))).collect();
            self.head.clear();
            push_head(&form.frame(row), &mut self.head);
        }
    }
}

/// Writes the canonical form of the rows of a batch.
struct RowWriter<'a> {
    names: Vec<&'a str>,
    values: ArrayWriter<'a>,
    under: Vec<(&'a str, &'a DictionaryArray<Int32Type>)>,
}

impl<'a> RowWriter<'a> {
    fn of(rows: &'a RecordBatch) -> Result<RowWriter<'a>, UnsupportedType> {
        let columns = rows.schema_ref().fields().iter().zip(rows.columns());
        let columns = columns.map(|(field, column)| (field.name().as_str(), column));
        let columns = columns.filter(|(name, _)| *name != columns::RECORD_DIGEST);
        let (under, values): (Vec<_>, Vec<_>) = columns.partition(|(name, _)| UNDER.contains(name));
        let names = values.iter().map(|(name, _)| *name).collect();
        let under = under
            .into_iter()
            .map(|(name, column)| {
                let column = column.as_dictionary_opt::<Int32Type>().ok_or_else(|| UnsupportedType {
                    column: name.to_owned(),
                    data_type: column.data_type().clone(),
                })?;
                Ok((name, column))
            })
            .collect::<Result<_, _>>()?;
        Ok(RowWriter { names, values: ArrayWriter::new(values)?, under })
    }

    fn frame(&self, row: usize) -> String {
        let under = self.under(row).map(|(name, text)| (name.to_owned(), text.into()));
        let under: serde_json::Map<String, serde_json::Value> = under.collect();
        let frame = serde_json::json!({"columns": self.names, "under": under});
        strict_json::canonical(&frame.to_string()).expect("serde_json writes valid JSON")
    }

    /// The columns of a row's frame and their values.
    fn under(&self, row: usize) -> impl Iterator<Item = (&str, Option<&str>)> {
        self.under.iter().map(move |(name, column)| {
            let texts = column.values().as_string::<i32>();
            (*name, column.key(row).filter(|key| texts.is_valid(*key)).map(|key| texts.value(key)))
        })
    }

    /// Whether two rows have the same bundle, policy and plan.
    fn same_frame(&self, a: usize, b: usize) -> bool {
        self.under.iter().all(|(_, column)| column.key(a) == column.key(b))
    }
}

/// Appends the beginning of a record: the name of the form and the digest of the frame.
fn push_head(frame: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(format!("[\"{EPISODE}\",\"{}\"", Digest::of(frame.as_bytes())).as_bytes());
}

#[cfg(test)]
mod tests {
    use arrow::array::{Float64Array, Int64Array, StringArray};

    use super::*;

    fn rows() -> RecordBatch {
        let bundles: DictionaryArray<Int32Type> = ["rules", "rules", "other"].into_iter().collect();
        let columns: Vec<(&str, ArrayRef)> = vec![
            (columns::TICK, Arc::new(columns::TickArray::from(vec![4096, 8192, 12288]))),
            ("bundle_id", Arc::new(bundles)),
            (columns::EVENT_ID, Arc::new(StringArray::from(vec!["a", "b\n", "c"]))),
            ("nb_tx_1d", Arc::new(Int64Array::from(vec![None, Some(3), Some(4)]))),
            ("score", Arc::new(Float64Array::from(vec![0.5, f64::NAN, 1.0]))),
        ];
        RecordBatch::try_from_iter(columns).expect("columns of one length")
    }

    #[test]
    fn the_digest_covers_the_values_and_the_frame() {
        let sealed = Sealer::new(&Digest::default()).seal(&rows());
        assert_eq!(*sealed.schema(), *episode_schema(&rows().schema()));
        let Episode { frame, record } = Episode::of(&sealed, 0).unwrap();
        let plan = "0".repeat(64);
        let expected = format!(
            r#"{{"columns":["_tick","event_id","nb_tx_1d","score"],"under":{{"bundle_id":"rules","plan_digest":"{plan}"}}}}"#
        );
        assert_eq!(frame, expected);
        let frame = Digest::of(frame.as_bytes());
        assert_eq!(record, format!(r#"["tidegate.episode.v1","{frame}","4096","a",null,0.5]"#));
        assert_eq!(strict_json::canonical(&record).expect("JSON"), record, "it is canonical");
        let column = sealed.column_by_name(columns::RECORD_DIGEST).unwrap().as_fixed_size_binary();
        assert_eq!(column.value(0), Digest::of(record.as_bytes()).0);
    }

    #[test]
    fn each_record_has_the_frame_of_its_own_row() {
        let sealed = Sealer::new(&Digest::default()).seal(&rows());
        let digests = recompute_record_digests(&sealed).unwrap();
        for (row, digest) in digests.iter().enumerate() {
            let episode = Episode::of(&sealed, row).unwrap();
            assert_eq!(*digest, Digest::of(episode.record.as_bytes()));
        }
        let last = Episode::of(&sealed, 2).unwrap();
        assert!(last.frame.contains(r#""bundle_id":"other""#), "{last:?}");
        let mut sealer = Sealer::new(&Digest::default());
        for row in [0, 1, 2, 1, 2, 2] {
            let alone = sealer.seal(&rows().slice(row, 1));
            let digest = alone.column_by_name(columns::RECORD_DIGEST).unwrap().as_fixed_size_binary();
            assert_eq!(
                digest.value(0),
                digests[row].0,
                "sealing other rows before row {row} does not change its digest"
            );
        }
    }

    #[test]
    fn rows_of_different_dictionaries_keep_their_own_frames_when_concatenated() {
        let all = |bundles: [Option<&str>; 2]| {
            let bundles: DictionaryArray<Int32Type> = bundles.into_iter().collect();
            RecordBatch::try_from_iter_with_nullable([("bundle_id", Arc::new(bundles) as ArrayRef, true)])
                .expect("one column")
        };
        let parts =
            [all([Some("rules"), Some("other")]), all([Some("other"), None]), all([None, Some("rules")])];
        let rows = arrow::compute::concat_batches(&parts[0].schema(), &parts).expect("one schema");
        let sealed = Sealer::new(&Digest::default()).seal(&rows);
        let digests = recompute_record_digests(&sealed).unwrap();
        for (row, digest) in digests.iter().enumerate() {
            assert_eq!(
                *digest,
                Digest::of(Episode::of(&sealed, row).unwrap().record.as_bytes()),
                "row {row}"
            );
        }
        let same: Vec<bool> = digests.windows(2).map(|pair| pair[0] == pair[1]).collect();
        assert_eq!(
            same,
            [false, true, false, true, false],
            "records without values differ by their frames alone"
        );
    }

    #[test]
    fn a_float_that_is_not_a_number_has_a_canonical_form() {
        let record = Episode::of(&Sealer::new(&Digest::default()).seal(&rows()), 1).unwrap().record;
        assert!(record.ends_with(r#","8192","b\n","3","NaN"]"#), "{record}");
    }
}
