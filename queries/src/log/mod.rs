//! Tables over the log, and over the archive where the log was pruned: read group by group, and only the columns that are asked for are made.
//!
//! A thread of its own reads and decodes, a few batches ahead of the query. It ends with the query,
//! so that a `LIMIT` reads no further than it must.
//!
//! Where a topology runs, a statement sees the facts before its tick, as in every other table, and of the receipts those of
//! these facts. Receipts of records that became no fact have no tick: they are all there, up to the end of the log; asked as of a
//! tick, those of the groups of the log that end there or before.

mod facts;
mod governance;
mod receipts;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, FixedSizeBinaryBuilder, RecordBatch, RecordBatchOptions};
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::project_schema;
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchReceiverStream;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use tidegate_facts::{Tick, Verdict};
use tidegate_sinks::archive::{ArchiveError, Bound, Preference, read_range};
use tidegate_sinks::store::{Store, StoreError};

pub(crate) use self::facts::is_facts;
use self::receipts::Receipts;
use crate::live::{Dated, Running};

/// How many batches the reading thread may be ahead of the query.
const BATCHES_AHEAD: usize = 2;

/// Why the log could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Log or archive refused.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The store of the archive refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A group is whole, and does not hold what this build writes.
    #[error(
        "group {group} of the log {what}; another version of Tidegate wrote it: ask it with that version"
    )]
    Foreign {
        /// The number of the group.
        group: u64,
        /// What is in it.
        what: String,
    },
}

/// A table that is read from the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogTable {
    Facts,
    Receipts,
    Quarantine,
    Governance,
}

impl LogTable {
    pub(crate) const ALL: [LogTable; 4] =
        [LogTable::Facts, LogTable::Receipts, LogTable::Quarantine, LogTable::Governance];

    pub(crate) fn name(self) -> &'static str {
        match self {
            LogTable::Facts => "facts",
            LogTable::Receipts => "receipts",
            LogTable::Quarantine => "quarantine",
            LogTable::Governance => "governance",
        }
    }

    fn schema(self) -> SchemaRef {
        match self {
            LogTable::Facts => facts::schema(),
            LogTable::Receipts => receipts::schema(),
            LogTable::Quarantine => receipts::quarantine_schema(),
            LogTable::Governance => governance::schema(),
        }
    }
}

/// How far a log is read.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    /// The facts before this tick, and their receipts; all without.
    before: Option<Tick>,
    /// Of the other receipts those in groups that end here or before; all without.
    others: Option<Tick>,
}

/// A [`LogTable`] of one log, as DataFusion knows it.
#[derive(Clone, Debug)]
pub(crate) struct LogProvider {
    folder: PathBuf,
    store: Option<PathBuf>,
    table: LogTable,
    schema: SchemaRef,
    /// The topology that runs on the log, if one does.
    running: Option<Arc<Running>>,
    /// The tick that is asked for, when it is not the statement's.
    as_of: Option<Tick>,
}

impl LogProvider {
    /// The table of the log in `folder` and of the archive in `store`.
    pub(crate) fn new(folder: &Path, store: Option<&Path>, table: LogTable) -> LogProvider {
        let store = store.map(Path::to_owned);
        let (folder, schema) = (folder.to_owned(), table.schema());
        LogProvider { folder, store, table, schema, running: None, as_of: None }
    }

    /// The same table, seen up to the ticks of statements that are asked of a running topology.
    pub(crate) fn of_running(self, running: &Arc<Running>) -> LogProvider {
        LogProvider { running: Some(Arc::clone(running)), ..self }
    }
}

impl Dated for LogProvider {
    fn name(&self) -> &str {
        self.table.name()
    }

    fn as_of(&self, before: Tick) -> Arc<dyn TableProvider> {
        Arc::new(LogProvider { as_of: Some(before), ..self.clone() })
    }
}

#[async_trait]
impl TableProvider for LogProvider {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        limit: Option<usize>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let schema = project_schema(&self.schema, projection)?;
        let (folder, store) = (self.folder.clone(), self.store.clone());
        let before = self.running.as_ref().map(|running| running.before(state, self.as_of));
        let seen = Seen { before, others: self.as_of.and(before) };
        let scan = Scan { folder, store, table: self.table, schema: Arc::clone(&schema), seen };
        // The scan makes the projected columns itself, so the plan around it projects nothing.
        Ok(Arc::new(StreamingTableExec::try_new(schema, vec![Arc::new(scan)], None, [], false, limit)?))
    }
}

/// One walk through the log for some columns of a table.
#[derive(Clone, Debug)]
struct Scan {
    folder: PathBuf,
    store: Option<PathBuf>,
    table: LogTable,
    schema: SchemaRef,
    seen: Seen,
}

impl PartitionStream for Scan {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let rows_max = context.session_config().batch_size();
        let mut stream = RecordBatchReceiverStream::builder(Arc::clone(&self.schema), BATCHES_AHEAD);
        let sender = stream.tx();
        let scan = self.clone();
        stream.spawn_blocking(move || {
            let read = scan.read(rows_max, |batch| sender.blocking_send(Ok(batch)).is_ok());
            read.map_err(|error| DataFusionError::External(Box::new(Arc::new(error))))
        });
        stream.build()
    }
}

impl Scan {
    /// Sends batches of at most `rows_max` rows until the log ends or `send` says that it was enough.
    fn read(&self, rows_max: usize, mut send: impl FnMut(RecordBatch) -> bool) -> Result<(), ReadError> {
        let mut receipts = Receipts::default();
        let store = self.store.as_deref().map(Store::open).transpose()?;
        let mut groups = read_range(&self.folder, store.as_ref(), Bound::Group(0), None, Preference::Log)?;
        while let Some(group) = groups.next().transpose()? {
            let seen = &self.seen;
            // Behind the facts that are seen there may be receipts of records that are none.
            let end = match self.table {
                LogTable::Facts | LogTable::Governance => seen.before,
                LogTable::Receipts | LogTable::Quarantine => seen.others,
            };
            if end.is_some_and(|end| group.lower >= end && group.upper > end) {
                return Ok(());
            }
            let batches = match self.table {
                LogTable::Facts => facts::batches(&group, &self.schema, rows_max, seen.before),
                LogTable::Receipts => receipts.batches(&group, &self.schema, rows_max, None, seen),
                LogTable::Quarantine => {
                    receipts.batches(&group, &self.schema, rows_max, Some(Verdict::Quarantine), seen)
                }
                LogTable::Governance => governance::batches(&group, &self.schema, seen.before),
            };
            let number = groups.next_group().map_or(0, |next| next - 1);
            let batches = batches.map_err(|what| ReadError::Foreign { group: number, what })?;
            if !batches.into_iter().all(&mut send) {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// The rows in parts of at most `rows_max`.
fn slices(rows: &RecordBatch, rows_max: usize) -> impl Iterator<Item = RecordBatch> {
    (0..rows.num_rows())
        .step_by(rows_max)
        .map(move |from| rows.slice(from, rows_max.min(rows.num_rows() - from)))
}

/// A batch of the columns that `schema` names, each made by `column`.
fn batch_of(
    schema: &SchemaRef,
    rows: usize,
    column: impl FnMut(&str) -> Result<ArrayRef, String>,
) -> Result<RecordBatch, String> {
    let columns =
        schema.fields().iter().map(|field| field.name().as_str()).map(column).collect::<Result<_, _>>()?;
    // A query that only counts asks for no column.
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)
        .map_err(|error| format!("has columns of other types ({error})"))
}

fn digests<'d>(items: impl ExactSizeIterator<Item = Option<&'d [u8]>>) -> ArrayRef {
    let mut column = FixedSizeBinaryBuilder::with_capacity(items.len(), 32);
    for item in items {
        match item {
            Some(digest) => column.append_value(digest).expect("a digest has 32 bytes"),
            None => column.append_null(),
        }
    }
    Arc::new(column.finish())
}
