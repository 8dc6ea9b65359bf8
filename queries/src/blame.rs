//! When a query stops over the bytes of a committed file, says which file it was.
//!
//! What decodes a file knows what is wrong and not where. Digests tell, and are only computed then.

use std::path::PathBuf;
use std::sync::Arc;

use arrow::error::ArrowError;
use datafusion::common::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::TryStreamExt;
use tidegate_facts::Digest;
use tidegate_sinks::store::Store;
use tidegate_sinks::table::{Commits, TableFile};

/// The files that can be to blame.
#[derive(Debug)]
pub(crate) struct Committed {
    store: Store,
    files: Vec<TableFile>,
}

#[derive(Debug, thiserror::Error)]
#[error(
    "file `{path}` of table `{table}` is not what was committed ({cause}); restore it from a copy, or run the topology \
     on the log with a new store"
)]
struct Damaged {
    table: String,
    path: PathBuf,
    cause: String,
}

impl Committed {
    pub(crate) fn new(store: Store, commits: Commits) -> Committed {
        Committed { store, files: commits.list.iter().flat_map(|commit| commit.files.clone()).collect() }
    }

    /// The error, or the file behind it.
    pub(crate) fn blame(&self, error: DataFusionError) -> DataFusionError {
        if !is_about_bytes(error.find_root()) {
            return error;
        }
        let is_damaged =
            |file: &&TableFile| self.store.read(&file.name).map_or(true, |b| Digest::of(&b) != file.digest);
        match self.files.iter().find(is_damaged) {
            None => error,
            Some(file) => DataFusionError::External(Box::new(Damaged {
                table: file.table.clone(),
                path: self.store.root().join(&file.name),
                cause: crate::error::sentence(error.find_root()),
            })),
        }
    }
}

/// The rows; an error among them names the file behind it.
pub(crate) fn with_blame(
    rows: SendableRecordBatchStream,
    committed: Option<Arc<Committed>>,
) -> SendableRecordBatchStream {
    let Some(committed) = committed else { return rows };
    let rows = RecordBatchStreamAdapter::new(rows.schema(), rows.map_err(move |e| committed.blame(e)));
    Box::pin(rows)
}

fn is_about_bytes(error: &DataFusionError) -> bool {
    match error {
        DataFusionError::ParquetError(_) | DataFusionError::IoError(_) | DataFusionError::ObjectStore(_) => {
            true
        }
        DataFusionError::ArrowError(error, _) => matches!(
            error.as_ref(),
            ArrowError::ParquetError(_)
                | ArrowError::JsonError(_)
                | ArrowError::IpcError(_)
                | ArrowError::IoError(..)
                | ArrowError::ExternalError(_)
                | ArrowError::InvalidArgumentError(_)
        ),
        _ => false,
    }
}
