//! The timelines of a running graph as tables.
//!
//! A read takes the batches that each worker shows, and reads on its own thread; the graph is not asked. Where a statement names
//! keys (`customer_id = 7`, or `IN`), they are sought in the batches and nothing else is looked at.

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
use tidegate_dataflows::timelines::{Rows, TimelineTable};
use tidegate_facts::Tick;

use crate::live::{Dated, Running};

/// A timeline, as DataFusion knows it.
#[derive(Clone, Debug)]
pub(crate) struct TimelineProvider {
    table: Arc<TimelineTable>,
    running: Arc<Running>,
    /// The tick that is asked for, when it is not the statement's.
    as_of: Option<Tick>,
}

impl TimelineProvider {
    pub(crate) fn new(table: TimelineTable, running: Arc<Running>) -> TimelineProvider {
        TimelineProvider { table: Arc::new(table), running, as_of: None }
    }

    /// The timeline, as its graph has it.
    pub(crate) fn table(&self) -> &TimelineTable {
        &self.table
    }

    /// The rows of each worker before a tick: those of the keys in a column, or of all; only the columns at some places.
    pub(crate) fn parts(
        &self,
        before: Tick,
        keys: Option<&ArrayRef>,
        places: &[usize],
    ) -> DataFusionResult<Vec<Rows>> {
        let parts = self.table.read(&self.running.live, before, keys, places);
        parts.map_err(|gone| DataFusionError::External(Box::new(gone)))
    }

    /// The keys that a condition names, if that is all it does.
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
            // What an IN of a few values becomes.
            Expr::BinaryExpr(binary) if binary.op == Operator::Or => {
                let mut keys = self.keys_named(&binary.left)?;
                keys.append(&mut self.keys_named(&binary.right)?);
                Some(keys)
            }
            _ => None,
        }
    }

    /// The keys that all conditions together leave, as a column; `None` where none of them names keys.
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

impl Dated for TimelineProvider {
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
        let before = self.running.before(state, self.as_of);
        let keys = self.keys(filters)?;
        let places = projection.cloned().unwrap_or_else(|| (0..self.table.schema.fields().len()).collect());
        let parts = self.parts(before, keys.as_ref(), &places)?;
        let schema = Arc::new(self.table.schema.project(&places)?);
        if keys.is_some() || parts.is_empty() {
            // A few keys are read at once: a plan of streams would cost more than they do.
            let rows = parts.into_iter().flatten().collect();
            return Ok(MemorySourceConfig::try_new_exec(&[rows], schema, None)?);
        }
        let parts = parts
            .into_iter()
            .map(|rows| -> Arc<dyn PartitionStream> { Arc::new(Part { rows, schema: Arc::clone(&schema) }) });
        let parts = parts.collect();
        Ok(Arc::new(StreamingTableExec::try_new(Arc::clone(&schema), parts, None, [], false, limit)?))
    }
}

/// The rows of one worker.
struct Part {
    rows: Rows,
    schema: SchemaRef,
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Part")
    }
}

impl PartitionStream for Part {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let rows = futures::stream::iter(self.rows.clone().map(Ok));
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), rows))
    }
}
