//! Episodes: each decision with all it was based on, as one record with a digest (reference: fraud
//! platform 2.8, credibility engine 1.6).
//!
//! The record of a row is its columns and `plan_digest` in canonical form, nulls left out, with the member
//! `"recipe":"tidegate.episode.v1"`. It names the fact (tick, offset, digest of its payload), what was
//! looked up (values, the digest of the snapshot, the basis), the rules that fired, the bundle and
//! the policy by their digests, and the plan; so whoever holds the row can compute the digest again, in any
//! language. Chains and roots over these digests are the sink's.

use std::sync::Arc;

use arrow::array::{ArrayRef, FixedSizeBinaryBuilder, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use tidegate_facts::jcs::{NoForm, RowForm};
use tidegate_facts::{Digest, columns};

use crate::decide::repeated;
use crate::lookup::with_columns;

/// What the form of an episode is called, inside it.
pub const EPISODE: &str = "tidegate.episode.v1";

/// The column that names the plan.
pub const PLAN_DIGEST: &str = "plan_digest";

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

/// The rows as episodes of the plan with this digest.
///
/// # Panics
/// When a column's type has no canonical form: the plan checks that.
pub fn episodes(rows: &RecordBatch, plan: &Digest) -> RecordBatch {
    let [plan_field, digest_field] = added();
    let rows = with_columns(rows, [(plan_field, repeated(&plan.to_hex(), rows.num_rows()))]);
    let digests = record_digests_again(&rows).expect("the plan checks that every column has a form");
    let mut column = FixedSizeBinaryBuilder::with_capacity(digests.len(), 32);
    for digest in digests {
        column.append_value(digest.0).expect("a digest has 32 bytes");
    }
    with_columns(&rows, [(digest_field, Arc::new(column.finish()) as ArrayRef)])
}

/// The record of one sealed row, as whoever checks it writes it down again.
///
/// # Errors
/// When a column has no canonical form: such rows are not written by this program.
pub fn record_text(rows: &RecordBatch, row: usize) -> Result<String, NoForm> {
    let one = rows.slice(row, 1);
    let recipe = repeated(EPISODE, 1);
    let mut text = Vec::new();
    form_of(&one, &recipe)?.push_total_row(0, &mut text);
    Ok(String::from_utf8(text).expect("JSON text is UTF-8"))
}

/// The digest of each record, computed from its columns.
///
/// # Errors
/// As for [`record_text`].
pub fn record_digests_again(rows: &RecordBatch) -> Result<Vec<Digest>, NoForm> {
    let recipe = repeated(EPISODE, rows.num_rows());
    let form = form_of(rows, &recipe)?;
    let mut text = Vec::with_capacity(2048);
    let digests = (0..rows.num_rows()).map(|row| {
        text.clear();
        form.push_total_row(row, &mut text);
        Digest::of(&text)
    });
    Ok(digests.collect())
}

fn form_of<'a>(rows: &'a RecordBatch, recipe: &'a ArrayRef) -> Result<RowForm<'a>, NoForm> {
    let own = rows.schema_ref().fields().iter().zip(rows.columns());
    let own = own
        .map(|(field, column)| (field.name().clone(), column))
        .filter(|(name, _)| name != columns::RECORD_DIGEST && name != columns::SEAL);
    let own: Vec<(String, &ArrayRef)> = own.collect();
    RowForm::new(own.iter().map(|(name, column)| (name.as_str(), *column)).chain([("recipe", recipe)]))
}

#[cfg(test)]
mod tests {
    use arrow::array::{Float64Array, Int64Array, StringArray, UInt64Array};

    use super::*;

    fn rows() -> RecordBatch {
        let columns: Vec<(&str, ArrayRef)> = vec![
            (columns::TICK, Arc::new(UInt64Array::from(vec![4096, 8192]))),
            (columns::EVENT_ID, Arc::new(StringArray::from(vec!["a", "b\n"]))),
            ("nb_tx_1d", Arc::new(Int64Array::from(vec![None, Some(3)]))),
            ("score", Arc::new(Float64Array::from(vec![0.5, f64::NAN]))),
        ];
        RecordBatch::try_from_iter(columns).expect("columns of one length")
    }

    #[test]
    fn the_digest_is_of_the_row_and_its_plan_in_canonical_form() {
        let sealed = episodes(&rows(), &Digest::default());
        assert_eq!(*sealed.schema(), *episode_schema(&rows().schema()));
        let plan = "0".repeat(64);
        let text = format!(
            r#"{{"_tick":"4096","event_id":"a","plan_digest":"{plan}","recipe":"tidegate.episode.v1","score":0.5}}"#
        );
        assert_eq!(record_text(&sealed, 0).unwrap(), text);
        assert_eq!(tidegate_facts::json::canonical(&text).expect("JSON"), text, "it is canonical");
        assert_eq!(record_digests_again(&sealed).unwrap()[0], Digest::of(text.as_bytes()));
        let digests = sealed.column_by_name(columns::RECORD_DIGEST).unwrap();
        assert_eq!(
            arrow::array::AsArray::as_fixed_size_binary(digests).value(0),
            Digest::of(text.as_bytes()).0
        );
    }

    #[test]
    fn a_float_that_is_no_number_has_a_form_too() {
        let text = record_text(&episodes(&rows(), &Digest::default()), 1).unwrap();
        assert!(text.contains(r#""nb_tx_1d":"3","#) && text.ends_with(r#","score":"NaN"}"#), "{text}");
    }
}
