//! Tables over the log, and over its archive where the log was pruned. They are read group by
//! group.
//!
//! A scan builds only the columns that the query projects. A blocking thread reads and decodes, a
//! few batches ahead of the query; it ends with the query, so that a `LIMIT` reads no further than
//! it must.
//!
//! Where a topology runs, a statement sees the facts before its tick, as in every other table, and
//! the receipts of these facts. Receipts of records that became no fact have no tick. A statement
//! sees all of them, to the end of the log; as of an earlier tick it sees those of the groups that
//! end at or before that tick.

mod batches;
pub(crate) mod error;
mod facts;
mod governance;
mod receipts;

use std::sync::Arc;

use arrow::array::RecordBatch;
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
use tidegate_sinks::archive::{Bound, Preference, read_range};
use tidegate_sinks::log::LogReader;
use tidegate_sinks::store::Store;

use self::batches::VisibleRange;
use self::error::ReadError;
pub(crate) use self::facts::holds_facts;
use self::receipts::ReceiptReader;
use crate::live_session::{AsOfTable, LiveSession};

/// How many batches the reading thread may be ahead of the query.
const BATCHES_AHEAD: usize = 2;

/// A table whose rows are read from the log.
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

/// DataFusion's table provider for one [`LogTable`] of one log.
#[derive(Clone, Debug)]
pub(crate) struct LogProvider {
    log: Arc<dyn LogReader>,
    /// The store of the log's archive.
    archive: Option<Store>,
    table: LogTable,
    schema: SchemaRef,
    /// The session of the topology that runs on the log, if one runs.
    live: Option<Arc<LiveSession>>,
    /// The tick that `as_of` names; without it, the statement's own.
    as_of: Option<Tick>,
}

impl LogProvider {
    /// The table of a log and of its archive, if it has one.
    pub(crate) fn new(log: &Arc<dyn LogReader>, archive: Option<&Store>, table: LogTable) -> LogProvider {
        let (log, archive) = (Arc::clone(log), archive.cloned());
        LogProvider { log, archive, table, schema: table.schema(), live: None, as_of: None }
    }

    /// The same table, visible up to the tick of each statement on a running topology.
    pub(crate) fn live(self, session: &Arc<LiveSession>) -> LogProvider {
        LogProvider { live: Some(Arc::clone(session)), ..self }
    }
}

impl AsOfTable for LogProvider {
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
        let before = self.live.as_ref().map(|live| live.before(state, self.as_of));
        let visible = VisibleRange { before, others: self.as_of.and(before) };
        let (log, archive) = (Arc::clone(&self.log), self.archive.clone());
        let scan = LogScan { log, archive, table: self.table, schema: Arc::clone(&schema), visible };
        // The scan builds the projected columns itself, so the plan around it projects nothing.
        Ok(Arc::new(StreamingTableExec::try_new(schema, vec![Arc::new(scan)], None, [], false, limit)?))
    }
}

/// One scan of the log for some columns of a table.
#[derive(Clone, Debug)]
struct LogScan {
    log: Arc<dyn LogReader>,
    archive: Option<Store>,
    table: LogTable,
    schema: SchemaRef,
    visible: VisibleRange,
}

impl PartitionStream for LogScan {
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

impl LogScan {
    /// Sends batches of at most `rows_max` rows until the log ends or `send` returns false.
    fn read(&self, rows_max: usize, mut send: impl FnMut(RecordBatch) -> bool) -> Result<(), ReadError> {
        let mut receipts = ReceiptReader::default();
        let (log, archive) = (self.log.as_ref(), self.archive.as_ref());
        let mut groups = read_range(log, archive, Bound::Group(0), None, Preference::Log)?;
        while let Some(group) = groups.next().transpose()? {
            let visible = &self.visible;
            // Later groups may hold visible receipts of records that became no fact.
            let end = match self.table {
                LogTable::Facts | LogTable::Governance => visible.before,
                LogTable::Receipts | LogTable::Quarantine => visible.others,
            };
            if end.is_some_and(|end| group.lower >= end && group.upper > end) {
                return Ok(());
            }
            let batches = match self.table {
                LogTable::Facts => facts::batches(&group, &self.schema, rows_max, visible.before),
                LogTable::Receipts => receipts.batches(&group, &self.schema, rows_max, None, visible),
                LogTable::Quarantine => {
                    receipts.batches(&group, &self.schema, rows_max, Some(Verdict::Quarantine), visible)
                }
                LogTable::Governance => governance::batches(&group, &self.schema, visible.before),
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
