//! Episodes: each decision with all it was based on, as one record with a digest (reference: fraud
//! platform 2.8, credibility engine 1.6).
//!
//! The record of a row is a JSON array in canonical form: `tidegate.episode.v1`, the digest of its frame, then
//! the values of its columns. The frame says what the record's values are and what was in force: it is the
//! object `{"columns":[names],"under":{..}}`, where `under` has the bundle, the gate's policy and the plan by
//! name and digest. So a record names its fact (tick, offset, digest of the payload), what was looked up (values,
//! the digest of the snapshot, the basis), the rules that fired and all they were decided under; and
//! whoever holds the row can compute the digest again, in any language. Chains and roots are the sink's.
//!
//! What is the same for thousands of records is hashed once: it would be more than half of each.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, DictionaryArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Int32Type, Schema, SchemaRef};
use serde_json::value::RawValue;
use tidegate_facts::jcs::{ArrayForm, NoForm};
use tidegate_facts::lanes::Digests;
use tidegate_facts::{Digest, columns};

use crate::decide::repeated;
use crate::lookup::Wider;
use crate::rows::digest_column;

/// What the form of an episode is called, inside it.
pub const EPISODE: &str = "tidegate.episode.v1";

/// The column that names the plan.
pub const PLAN_DIGEST: &str = "plan_digest";

/// The columns that stand in an episode's frame: what was in force when it was decided.
pub const UNDER: [&str; 7] = [
    "bundle_digest",
    "bundle_id",
    "bundle_version",
    PLAN_DIGEST,
    "policy_digest",
    "policy_id",
    "policy_revision",
];

/// The columns without which a row is no episode.
pub const NEEDED: [&str; 5] =
    [columns::OFFSET, columns::EVENT_ID, columns::PAYLOAD_HASH, columns::BASIS, "decision_id"];

/// The schema of episodes over rows of `input`.
pub fn episode_schema(input: &Schema) -> SchemaRef {
    let own = input.fields().iter().map(|field| field.as_ref().clone());
    Arc::new(Schema::new(own.chain(added()).collect::<Vec<_>>()))
}

fn added() -> [Field; 2] {
    [
        Field::new(PLAN_DIGEST, columns::dictionary(), false),
        Field::new(columns::RECORD_DIGEST, DataType::FixedSizeBinary(32), false),
    ]
}

/// Makes episodes of rows under one plan.
pub struct Sealer {
    plan: String,
    heads: Heads,
    planned: Wider,
    sealed: Wider,
}

impl Sealer {
    /// For the plan with this digest.
    pub fn new(plan: &Digest) -> Sealer {
        let [planned, sealed] = added().map(|field| Wider::new([field]));
        Sealer { plan: plan.to_hex(), heads: Heads::default(), planned, sealed }
    }

    /// The rows as episodes.
    ///
    /// # Panics
    /// When a column's type has no canonical form: the plan checks that.
    pub fn seal(&mut self, rows: &RecordBatch) -> RecordBatch {
        let rows = self.planned.widen(rows, [repeated(&self.plan, rows.num_rows())]);
        let digests = self.heads.digests(&rows).expect("the plan checks that every column has a form");
        self.sealed.widen(&rows, [Arc::new(digest_column(&digests)) as ArrayRef])
    }
}

/// One episode as whoever checks it writes it down again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Episode {
    /// The frame, in canonical form.
    pub frame: String,
    /// The record, in canonical form; its digest is the row's.
    pub record: String,
}

impl Episode {
    /// The episode of a sealed row.
    ///
    /// # Errors
    /// When a column has no canonical form: such rows are not written by this program.
    pub fn of(rows: &RecordBatch, row: usize) -> Result<Episode, NoForm> {
        let form = EpisodeForm::of(rows)?;
        let frame = form.frame(row);
        let mut record = Vec::new();
        push_head(&frame, &mut record);
        form.values.push_values(row, &mut record);
        record.push(b']');
        let text = |bytes| String::from_utf8(bytes).expect("JSON text is UTF-8");
        Ok(Episode { frame, record: text(record) })
    }
}

impl Episode {
    /// Its values and those of its frame by name, each as it stands in the canonical form.
    pub fn values(&self) -> Vec<(String, String)> {
        let frame: serde_json::Value = serde_json::from_str(&self.frame).expect("it was written here");
        let record: Vec<&RawValue> = serde_json::from_str(&self.record).expect("it was written here");
        let names = frame["columns"].as_array().into_iter().flatten().filter_map(|name| name.as_str());
        let values = record.iter().skip(2).map(|value| value.get().to_owned());
        let under = frame["under"].as_object().into_iter().flatten();
        let under = under.map(|(name, value)| (name.clone(), value.to_string()));
        names.map(str::to_owned).zip(values).chain(under).collect()
    }
}

/// The digest of each record, computed from its columns.
///
/// # Errors
/// As for [`Episode::of`].
pub fn record_digests_again(rows: &RecordBatch) -> Result<Vec<Digest>, NoForm> {
    Heads::default().digests(rows)
}

/// The beginning of the records under one frame. The next batch mostly has the frame of the one before.
#[derive(Default)]
struct Heads {
    names: Vec<String>,
    under: Vec<(String, Option<String>)>,
    head: Vec<u8>,
}

impl Heads {
    /// The digest of each record.
    fn digests(&mut self, rows: &RecordBatch) -> Result<Vec<Digest>, NoForm> {
        let form = EpisodeForm::of(rows)?;
        let mut digests = Digests::with_capacity(rows.num_rows());
        for row in 0..rows.num_rows() {
            if row == 0 || !form.same_frame(row - 1, row) {
                self.enter(&form, row);
            }
            digests.push(|text| {
                text.extend_from_slice(&self.head);
                form.values.push_values(row, text);
                text.push(b']');
            });
        }
        Ok(digests.finish())
    }

    /// Makes `head` that of a row's frame.
    fn enter(&mut self, form: &EpisodeForm<'_>, row: usize) {
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

/// The forms of the records of some rows.
struct EpisodeForm<'a> {
    names: Vec<&'a str>,
    values: ArrayForm<'a>,
    under: Vec<(&'a str, &'a DictionaryArray<Int32Type>)>,
}

impl<'a> EpisodeForm<'a> {
    fn of(rows: &'a RecordBatch) -> Result<EpisodeForm<'a>, NoForm> {
        let columns = rows.schema_ref().fields().iter().zip(rows.columns());
        let columns = columns.map(|(field, column)| (field.name().as_str(), column));
        let columns = columns.filter(|(name, _)| *name != columns::RECORD_DIGEST);
        let (under, values): (Vec<_>, Vec<_>) = columns.partition(|(name, _)| UNDER.contains(name));
        let names = values.iter().map(|(name, _)| *name).collect();
        let under = under
            .into_iter()
            .map(|(name, column)| {
                let column = column.as_dictionary_opt::<Int32Type>().ok_or_else(|| NoForm {
                    column: name.to_owned(),
                    data_type: column.data_type().clone(),
                })?;
                Ok((name, column))
            })
            .collect::<Result<_, _>>()?;
        Ok(EpisodeForm { names, values: ArrayForm::new(values)?, under })
    }

    fn frame(&self, row: usize) -> String {
        let under = self.under(row).map(|(name, text)| (name.to_owned(), text.into()));
        let under: serde_json::Map<String, serde_json::Value> = under.collect();
        let frame = serde_json::json!({"columns": self.names, "under": under});
        tidegate_facts::json::canonical(&frame.to_string()).expect("it was just written")
    }

    /// What was in force for a row, by name.
    fn under(&self, row: usize) -> impl Iterator<Item = (&str, Option<&str>)> {
        self.under.iter().map(move |(name, column)| {
            let texts = column.values().as_string::<i32>();
            (*name, column.key(row).filter(|key| texts.is_valid(*key)).map(|key| texts.value(key)))
        })
    }

    /// Whether two rows were decided under the same bundle, policy and plan.
    fn same_frame(&self, a: usize, b: usize) -> bool {
        self.under.iter().all(|(_, column)| column.key(a) == column.key(b))
    }
}

fn push_head(frame: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(format!("[\"{EPISODE}\",\"{}\"", Digest::of(frame.as_bytes())).as_bytes());
}

#[cfg(test)]
mod tests {
    use arrow::array::{Float64Array, Int64Array, StringArray, UInt64Array};

    use super::*;

    fn rows() -> RecordBatch {
        let bundles: DictionaryArray<Int32Type> = ["rules", "rules", "other"].into_iter().collect();
        let columns: Vec<(&str, ArrayRef)> = vec![
            (columns::TICK, Arc::new(UInt64Array::from(vec![4096, 8192, 12288]))),
            ("bundle_id", Arc::new(bundles)),
            (columns::EVENT_ID, Arc::new(StringArray::from(vec!["a", "b\n", "c"]))),
            ("nb_tx_1d", Arc::new(Int64Array::from(vec![None, Some(3), Some(4)]))),
            ("score", Arc::new(Float64Array::from(vec![0.5, f64::NAN, 1.0]))),
        ];
        RecordBatch::try_from_iter(columns).expect("columns of one length")
    }

    #[test]
    fn the_digest_is_of_the_values_and_of_what_they_were_decided_under() {
        let sealed = Sealer::new(&Digest::default()).seal(&rows());
        assert_eq!(*sealed.schema(), *episode_schema(&rows().schema()));
        let Episode { frame, record } = Episode::of(&sealed, 0).unwrap();
        let plan = "0".repeat(64);
        let wanted = format!(
            r#"{{"columns":["_tick","event_id","nb_tx_1d","score"],"under":{{"bundle_id":"rules","plan_digest":"{plan}"}}}}"#
        );
        assert_eq!(frame, wanted);
        let frame = Digest::of(frame.as_bytes());
        assert_eq!(record, format!(r#"["tidegate.episode.v1","{frame}","4096","a",null,0.5]"#));
        assert_eq!(tidegate_facts::json::canonical(&record).expect("JSON"), record, "it is canonical");
        let column = sealed.column_by_name(columns::RECORD_DIGEST).unwrap().as_fixed_size_binary();
        assert_eq!(column.value(0), Digest::of(record.as_bytes()).0);
    }

    #[test]
    fn each_record_has_the_frame_of_its_own_row() {
        let sealed = Sealer::new(&Digest::default()).seal(&rows());
        let digests = record_digests_again(&sealed).unwrap();
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
            assert_eq!(digest.value(0), digests[row].0, "whatever was sealed before row {row}");
        }
    }

    #[test]
    fn rows_of_different_dictionaries_keep_their_own_frames_when_brought_together() {
        let all = |bundles: [Option<&str>; 2]| {
            let bundles: DictionaryArray<Int32Type> = bundles.into_iter().collect();
            RecordBatch::try_from_iter_with_nullable([("bundle_id", Arc::new(bundles) as ArrayRef, true)])
                .expect("one column")
        };
        let parts =
            [all([Some("rules"), Some("other")]), all([Some("other"), None]), all([None, Some("rules")])];
        let rows = arrow::compute::concat_batches(&parts[0].schema(), &parts).expect("one schema");
        let sealed = Sealer::new(&Digest::default()).seal(&rows);
        let digests = record_digests_again(&sealed).unwrap();
        for (row, digest) in digests.iter().enumerate() {
            assert_eq!(
                *digest,
                Digest::of(Episode::of(&sealed, row).unwrap().record.as_bytes()),
                "row {row}"
            );
        }
        let same: Vec<bool> = digests.windows(2).map(|pair| pair[0] == pair[1]).collect();
        assert_eq!(same, [false, true, false, true, false], "the records are their frames alone");
    }

    #[test]
    fn a_float_that_is_no_number_has_a_form_too() {
        let record = Episode::of(&Sealer::new(&Digest::default()).seal(&rows()), 1).unwrap().record;
        assert!(record.ends_with(r#","8192","b\n","3","NaN"]"#), "{record}");
    }
}
