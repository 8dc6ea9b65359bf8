//! The timelines of a running dataflow as SQL tables.
//!
//! A read takes the batches that each worker has published, and reads them on the statement's
//! thread, without a request to the workers. Where a statement names keys (`customer_id = 7`, or
//! `IN`), only the rows of these keys are read.

use std::fmt;
use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::ScalarValue;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, Operator, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use tidegate_dataflows::timeline_tables::{TimelineTable, TimelineTableRows};
use tidegate_facts::Tick;

use crate::live_session::{AsOfTable, LiveSession};

/// DataFusion's table provider for one timeline of a running dataflow.
#[derive(Clone, Debug)]
pub(crate) struct TimelineProvider {
    table: Arc<TimelineTable>,
    session: Arc<LiveSession>,
    /// The tick that `as_of` names; without it, the statement's own.
    as_of: Option<Tick>,
}

impl TimelineProvider {
    pub(crate) fn new(table: TimelineTable, session: Arc<LiveSession>) -> TimelineProvider {
        TimelineProvider { table: Arc::new(table), session, as_of: None }
    }

    /// The timeline that is read.
    pub(crate) fn table(&self) -> &TimelineTable {
        &self.table
    }

    /// The rows of each worker before a tick: only the columns at the indices in `projection`, and,
    /// with `keys`, only the rows of the keys in that column.
    pub(crate) fn worker_rows(
        &self,
        before: Tick,
        keys: Option<&ArrayRef>,
        projection: &[usize],
    ) -> DataFusionResult<Vec<TimelineTableRows>> {
        let rows = self.table.read(self.session.live.as_ref(), before, keys, projection);
        rows.map_err(|error| DataFusionError::External(Box::new(error)))
    }

    /// The keys that a condition names, if it does nothing else.
    fn keys_named(&self, condition: &Expr) -> Option<Vec<ScalarValue>> {
        let key = self.table.key();
        let is_key = |expr: &Expr| matches!(expr, Expr::Column(column) if column.name == *key.name());
        let value = |expr: &Expr| match expr {
            Expr::Literal(value, _) if value.data_type() == *key.data_type() && !value.is_null() => {
                Some(value.clone())
            }
            _ => None,
        };
        match condition {
            Expr::BinaryExpr(binary) if binary.op == Operator::Eq => {
                let (left, right) = (binary.left.as_ref(), binary.right.as_ref());
                let other = if is_key(left) { right } else { Some(left).filter(|_| is_key(right))? };
                Some(vec![value(other)?])
            }
            Expr::InList(list) if !list.negated && is_key(&list.expr) => {
                list.list.iter().map(value).collect()
            }
            // The planner rewrites an IN of a few values to this.
            Expr::BinaryExpr(binary) if binary.op == Operator::Or => {
                let mut keys = self.keys_named(&binary.left)?;
                keys.append(&mut self.keys_named(&binary.right)?);
                Some(keys)
            }
            _ => None,
        }
    }

    /// The keys that satisfy all conditions, as a column; `None` if no condition names keys.
    fn keys(&self, conditions: &[Expr]) -> DataFusionResult<Option<ArrayRef>> {
        let named = conditions.iter().filter_map(|condition| self.keys_named(condition));
        let Some(keys) = named.reduce(|mut keys, others| {
            keys.retain(|key| others.contains(key));
            keys
        }) else {
            return Ok(None);
        };
        if keys.is_empty() {
            return Ok(Some(arrow::array::new_empty_array(self.table.key().data_type())));
        }
        ScalarValue::iter_to_array(keys).map(Some)
    }
}

impl AsOfTable for TimelineProvider {
    fn name(&self) -> &str {
        &self.table.name
    }

    fn as_of(&self, before: Tick) -> Arc<dyn TableProvider> {
        Arc::new(TimelineProvider { as_of: Some(before), ..self.clone() })
    }
}

#[async_trait]
impl TableProvider for TimelineProvider {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.table.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> DataFusionResult<Vec<TableProviderFilterPushDown>> {
        let support = |filter: &&Expr| match self.keys_named(filter) {
            Some(_) => TableProviderFilterPushDown::Exact,
            None => TableProviderFilterPushDown::Unsupported,
        };
        Ok(filters.iter().map(support).collect())
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let before = self.session.before(state, self.as_of);
        let keys = self.keys(filters)?;
        let all = || (0..self.table.schema.fields().len()).collect();
        let projection = projection.cloned().unwrap_or_else(all);
        let parts = self.worker_rows(before, keys.as_ref(), &projection)?;
        let schema = Arc::new(self.table.schema.project(&projection)?);
        if keys.is_some() || parts.is_empty() {
            // The rows of a few keys are read here: a plan of streams would cost more than reading
            // them.
            let rows = parts.into_iter().flatten().collect();
            return Ok(MemorySourceConfig::try_new_exec(&[rows], schema, None)?);
        }
        let parts = parts.into_iter().map(|rows| -> Arc<dyn PartitionStream> {
            Arc::new(WorkerRows { rows, schema: Arc::clone(&schema) })
        });
        let parts = parts.collect();
        Ok(Arc::new(StreamingTableExec::try_new(Arc::clone(&schema), parts, None, [], false, limit)?))
    }
}

/// The rows of one worker, as a partition of a scan.
struct WorkerRows {
    rows: TimelineTableRows,
    schema: SchemaRef,
}

impl fmt::Debug for WorkerRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WorkerRows")
    }
}

impl PartitionStream for WorkerRows {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let rows = futures::stream::iter(self.rows.clone().map(Ok));
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), rows))
    }
}
