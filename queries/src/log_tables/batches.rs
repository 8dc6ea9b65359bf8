//! Batches of the log's tables: which rows are visible, and how projected batches are assembled.

use std::sync::Arc;

use arrow::array::{ArrayRef, FixedSizeBinaryBuilder, RecordBatch, RecordBatchOptions};
use arrow::datatypes::SchemaRef;
use tidegate_facts::Tick;

/// The visible range of a log's tables: up to which ticks a scan reads the log.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct VisibleRange {
    /// Facts before this tick are visible, and their receipts; without it, all of them.
    pub(super) before: Option<Tick>,
    /// Of the other receipts, those in groups that end at or before this tick; without it, all.
    pub(super) others: Option<Tick>,
}

/// Splits rows of a log's table into batches of at most `rows_max` rows.
pub(super) fn split_rows(rows: &RecordBatch, rows_max: usize) -> impl Iterator<Item = RecordBatch> {
    (0..rows.num_rows())
        .step_by(rows_max)
        .map(move |from| rows.slice(from, rows_max.min(rows.num_rows() - from)))
}

/// Builds a batch of a log's table with `rows` rows: the columns that `schema` names, each built by
/// `column`.
pub(super) fn build_batch(
    schema: &SchemaRef,
    rows: usize,
    column: impl FnMut(&str) -> Result<ArrayRef, String>,
) -> Result<RecordBatch, String> {
    let columns =
        schema.fields().iter().map(|field| field.name().as_str()).map(column).collect::<Result<_, _>>()?;
    // A query that only counts projects no column.
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)
        .map_err(|error| format!("has columns of other types ({error})"))
}

/// Builds a column of 32-byte digests for a batch of a log's table; `None` becomes null.
pub(super) fn digest_column<'d>(items: impl ExactSizeIterator<Item = Option<&'d [u8]>>) -> ArrayRef {
    let mut column = FixedSizeBinaryBuilder::with_capacity(items.len(), 32);
    for item in items {
        match item {
            Some(digest) => column.append_value(digest).expect("a digest has 32 bytes"),
            None => column.append_null(),
        }
    }
    Arc::new(column.finish())
}
