//! Appends columns of fixed fields to batches, and remembers the resulting schema.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{Field, FieldRef, Schema, SchemaRef};

/// Appends the same columns to every batch, after the batch's own.
pub struct ColumnAppender {
    appended: Vec<FieldRef>,
    /// The schema of the last batch and the resulting schema. Building a schema costs as much as
    /// appending to a small batch does, so it is reused while the input schema stays the same.
    last: Option<(SchemaRef, SchemaRef)>,
}

impl ColumnAppender {
    /// An appender of columns with these fields.
    pub fn new(appended: impl IntoIterator<Item = Field>) -> ColumnAppender {
        ColumnAppender { appended: appended.into_iter().map(Arc::new).collect(), last: None }
    }

    /// Appends to a batch one column for each field of the appender, in the order of the fields.
    ///
    /// # Panics
    /// When a column does not have the type of its field, or not one value for each row.
    pub fn append(&mut self, rows: &RecordBatch, columns: impl IntoIterator<Item = ArrayRef>) -> RecordBatch {
        let schema = match &self.last {
            Some((from, to)) if Arc::ptr_eq(from, rows.schema_ref()) => Arc::clone(to),
            _ => {
                let fields = rows.schema_ref().fields().iter().chain(&self.appended).cloned();
                let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
                self.last = Some((rows.schema(), Arc::clone(&schema)));
                schema
            }
        };
        let columns = rows.columns().iter().cloned().chain(columns).collect();
        RecordBatch::try_new(schema, columns).expect("one column for each field")
    }
}
