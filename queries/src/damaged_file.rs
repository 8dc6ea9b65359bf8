//! Names the committed file whose bytes stopped a query.
//!
//! A decoder reports what is wrong, but not in which file. So after such an error the digests of
//! the files are computed, and the first file that differs from its commit is named.

use std::sync::Arc;

use arrow::error::ArrowError;
use datafusion::common::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::TryStreamExt;
use tidegate_facts::Digest;
use tidegate_sinks::commits::{Commits, TableFile};
use tidegate_sinks::store::Store;

/// The committed files that a query may read, and one of which may be damaged.
#[derive(Debug)]
pub(crate) struct CommittedFiles {
    store: Store,
    files: Vec<TableFile>,
}

/// A committed file whose bytes differ from its commit.
#[derive(Debug, thiserror::Error)]
#[error(
    "file `{location}` of table `{table}` is not what was committed ({cause}); restore it from a copy, or run the topology \
     on the log with a new store"
)]
struct Damaged {
    table: String,
    location: String,
    cause: String,
}

impl CommittedFiles {
    pub(crate) fn new(store: Store, commits: Commits) -> CommittedFiles {
        let files = commits.list.iter().flat_map(|commit| commit.files.clone()).collect();
        CommittedFiles { store, files }
    }

    /// Replaces an error about bytes by one that names the damaged file, if a file is damaged.
    pub(crate) fn explain(&self, error: DataFusionError) -> DataFusionError {
        if !is_about_bytes(error.find_root()) {
            return error;
        }
        let is_damaged =
            |file: &&TableFile| self.store.get(&file.name).map_or(true, |b| Digest::of(&b) != file.digest);
        match self.files.iter().find(is_damaged) {
            None => error,
            Some(file) => DataFusionError::External(Box::new(Damaged {
                table: file.table.clone(),
                location: self.store.location(&file.name),
                cause: crate::error::sentence(error.find_root()),
            })),
        }
    }
}

/// The same rows; an error that a damaged file caused names that file.
pub(crate) fn explain_errors(
    rows: SendableRecordBatchStream,
    committed: Option<Arc<CommittedFiles>>,
) -> SendableRecordBatchStream {
    let Some(committed) = committed else { return rows };
    let rows = RecordBatchStreamAdapter::new(rows.schema(), rows.map_err(move |e| committed.explain(e)));
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
