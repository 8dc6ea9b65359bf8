//! Portals: statements that are bound to values, and whose rows the client fetches in parts.

use std::sync::Arc;

use bytes::BytesMut;
use datafusion::common::ParamValues;
use datafusion::execution::SendableRecordBatchStream;
use futures::StreamExt;

use crate::connection::SEND_BYTES;
use crate::encoding::{Columns, Formats, ObjectNames, Rows};
use crate::error::SqlError;
use crate::limits::RunningStatement;
use crate::statement::Prepared;

/// A portal: a statement that is bound to values.
pub(crate) struct Portal {
    pub(crate) prepared: Arc<Prepared>,
    pub(crate) values: ParamValues,
    pub(crate) formats: Formats,
    /// The columns of its rows.
    pub(crate) columns: Columns,
    pub(crate) state: PortalState,
    /// Whether `DECLARE` opened it. A cursor stays open until `CLOSE` or the end of its
    /// transaction.
    pub(crate) is_cursor: bool,
}

/// The state of a portal.
pub(crate) enum PortalState {
    Bound,
    Open(Box<OpenRows>),
    Finished,
}

/// The running statement of a portal and the rows that it has left.
pub(crate) struct OpenRows {
    pub(crate) reader: RowReader,
    pub(crate) running: RunningStatement,
    /// The command in the tag after the rows.
    pub(crate) tag: &'static str,
}

/// Reads the rows of a portal from a stream of batches.
pub(crate) struct RowReader {
    columns: Columns,
    names: ObjectNames,
    batches: SendableRecordBatchStream,
    rows: Option<Rows>,
    next: usize,
}

impl RowReader {
    pub(crate) fn new(columns: Columns, names: ObjectNames, batches: SendableRecordBatchStream) -> RowReader {
        RowReader { columns, names, batches, rows: None, next: 0 }
    }

    /// Writes up to `most` rows as messages, and returns how many. It stops at the end of a batch
    /// or when the output is large enough to be sent. It returns 0 only after the last row, or when
    /// `most` is 0.
    ///
    /// # Errors
    /// When the statement fails, or a value cannot be sent.
    pub(crate) async fn write(
        &mut self,
        formats: &Formats,
        most: usize,
        out: &mut BytesMut,
    ) -> Result<usize, SqlError> {
        while self.rows.as_ref().is_none_or(|rows| self.next == rows.count()) {
            self.rows = None;
            let Some(batch) = self.batches.next().await else { return Ok(0) };
            let batch = batch.map_err(|error| SqlError::of_run(&error))?;
            (self.rows, self.next) = (Some(self.columns.rows(&batch, &self.names)?), 0);
        }
        let first = self.next;
        if let Some(rows) = &self.rows {
            let end = rows.count().min(first.saturating_add(most));
            while self.next < end {
                rows.write(self.next, formats, out)?;
                self.next += 1;
                if out.len() >= SEND_BYTES {
                    break;
                }
            }
        }
        Ok(self.next - first)
    }
}
