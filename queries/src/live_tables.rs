//! Tables of a running topology: their committed files, and the uncommitted rows after these.
//!
//! `as_of('table', tick or time)` reads any [`AsOfTable`] as of an earlier tick, and the table
//! `frontier` shows the tick of the statement that reads it.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, TimestampMicrosecondArray, UInt64Array};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableFunctionArgs, TableFunctionImpl, TableProvider};
use datafusion::common::plan_err;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::logical_expr::{Expr, Operator, TableProviderFilterPushDown, TableType};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{Column, binary, lit};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::union::UnionExec;
use parking_lot::Mutex;
use tidegate_facts::payload_schema::timestamp;
use tidegate_facts::{Tick, columns};
use tidegate_sinks::commits::TableFile;

use crate::committed::{CommittedTable, pushed_down};
use crate::error::QueryError;
use crate::live_session::{AsOfTable, LiveSession, end_of_as_of};

/// The name of the table that shows the tick of its statement.
pub(crate) const FRONTIER: &str = "frontier";

/// The name of the SQL function that reads a table as of an earlier tick.
pub(crate) const AS_OF: &str = "as_of";

/// A table of the running topology: committed files and uncommitted rows.
#[derive(Clone, Debug)]
pub(crate) struct LiveTable {
    name: String,
    schema: SchemaRef,
    session: Arc<LiveSession>,
    /// The committed files as of a number of commits, which comes first.
    committed: Arc<Mutex<(usize, Option<Arc<CommittedTable>>)>>,
    /// The tick that `as_of` names; without it, the statement's own.
    as_of: Option<Tick>,
}

/// The two parts of a table at one moment.
struct TableParts {
    /// The uncommitted rows, and perhaps some that are committed by now.
    rows: Vec<RecordBatch>,
    committed: Option<Arc<CommittedTable>>,
    /// The end of the commits.
    upper: Tick,
}

impl LiveTable {
    pub(crate) fn new(name: &str, schema: SchemaRef, session: Arc<LiveSession>) -> LiveTable {
        LiveTable { name: name.to_owned(), schema, session, committed: Arc::default(), as_of: None }
    }

    fn parts(&self) -> Result<TableParts, QueryError> {
        let (rows, commits) = self.session.live.rows(&self.name);
        let mut cached = self.committed.lock();
        if cached.0 < commits.list.len() {
            // Only the files of new commits are opened.
            let new = commits.list[cached.0..].iter().flat_map(|commit| &commit.files);
            let new: Vec<&TableFile> = new.filter(|file| file.table == self.name).collect();
            if !new.is_empty() {
                let store = &self.session.store;
                let table = match &cached.1 {
                    Some(table) => table.with(&self.name, &new, store)?,
                    None => CommittedTable::open(&self.name, &new, store)?,
                };
                cached.1 = Some(Arc::new(table));
            }
            cached.0 = commits.list.len();
        }
        // Another statement may have cached newer commits; `rows` then still has their rows.
        let upper = if cached.0 == commits.list.len() {
            commits.upper()
        } else {
            self.session.live.commits().list[cached.0 - 1].upper
        };
        Ok(TableParts { rows, committed: cached.1.clone(), upper })
    }
}

impl AsOfTable for LiveTable {
    fn name(&self) -> &str {
        &self.name
    }

    fn as_of(&self, before: Tick) -> Arc<dyn TableProvider> {
        Arc::new(LiveTable { as_of: Some(before), ..self.clone() })
    }
}

#[async_trait]
impl TableProvider for LiveTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> DataFusionResult<Vec<TableProviderFilterPushDown>> {
        Ok(pushed_down(filters))
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        _limit: Option<usize>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let before = self.session.before(state, self.as_of);
        let TableParts { rows, committed, upper } = self.parts().map_err(|error| external(&error))?;
        let fresh: Vec<RecordBatch> =
            rows.iter().map(|rows| between(rows, upper, before)).filter(|rows| rows.num_rows() > 0).collect();
        let mut parts: Vec<Arc<dyn ExecutionPlan>> = Vec::new();
        if let Some(committed) = committed {
            parts.push(if before < upper {
                earlier(committed.before(before).scan(state, None, filters, None).await?, before, projection)?
            } else {
                committed.scan(state, projection, filters, None).await?
            });
        }
        if !fresh.is_empty() || parts.is_empty() {
            let schema = Arc::clone(&self.schema);
            parts.push(MemorySourceConfig::try_new_exec(&[fresh], schema, projection.cloned())?);
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { UnionExec::try_new(parts)? })
    }
}

/// Filters a plan to the rows before a tick, and projects its columns.
fn earlier(
    rows: Arc<dyn ExecutionPlan>,
    before: Tick,
    projection: Option<&Vec<usize>>,
) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
    let schema = rows.schema();
    let tick: Arc<dyn PhysicalExpr> = Arc::new(Column::new_with_schema(columns::TICK, &schema)?);
    let condition = binary(tick, Operator::Lt, lit(before.0), &schema)?;
    let rows: Arc<dyn ExecutionPlan> = Arc::new(FilterExec::try_new(condition, rows)?);
    let Some(projection) = projection else { return Ok(rows) };
    let projected = projection.iter().map(|index| {
        let name = schema.field(*index).name().clone();
        (Arc::new(Column::new(&name, *index)) as Arc<dyn PhysicalExpr>, name)
    });
    Ok(Arc::new(ProjectionExec::try_new(projected.collect::<Vec<_>>(), rows)?))
}

/// The rows with a tick from `lower` to before `upper`.
fn between(rows: &RecordBatch, lower: Tick, upper: Tick) -> RecordBatch {
    let ticks = columns::ticks(rows);
    let inside = |tick: &i64| (lower..upper).contains(&Tick(*tick));
    if ticks.values().iter().all(inside) {
        return rows.clone();
    }
    let mask = ticks.values().iter().map(|tick| Some(inside(tick))).collect();
    filter_record_batch(rows, &mask).expect("the mask has an item for each row")
}

fn external(error: &QueryError) -> DataFusionError {
    DataFusionError::External(error.to_string().into())
}

/// The SQL table function `as_of('table', tick or time)`: a table as of an earlier tick.
#[derive(Debug)]
pub(crate) struct AsOfFunction {
    pub(crate) tables: Vec<Arc<dyn AsOfTable>>,
}

impl TableFunctionImpl for AsOfFunction {
    fn call_with_args(&self, args: TableFunctionArgs) -> DataFusionResult<Arc<dyn TableProvider>> {
        let usage = "as_of takes the name of a table and a tick or a time: as_of('decisions', '2026-04-01T00:00:00Z')";
        let [Expr::Literal(table, _), Expr::Literal(when, _)] = args.exprs() else {
            return plan_err!("{usage}");
        };
        let Some(Some(name)) = table.try_as_str() else { return plan_err!("{usage}") };
        let Some(before) = end_of_as_of(when) else { return plan_err!("{usage}; {when} is neither") };
        match self.tables.iter().find(|table| table.name().eq_ignore_ascii_case(name)) {
            Some(table) => Ok(table.as_of(before)),
            None => {
                let known: Vec<&str> = self.tables.iter().map(|table| table.name()).collect();
                plan_err!("there is no live table `{name}`; there are {}", known.join(", "))
            }
        }
    }
}

/// The SQL table `frontier`: one row with the tick of its statement, and the end of the commits.
#[derive(Debug)]
pub(crate) struct FrontierTable(pub(crate) Arc<LiveSession>);

impl FrontierTable {
    fn row(&self, statement: &dyn Session) -> DataFusionResult<RecordBatch> {
        let (tick, commits) = (self.0.tick_of(statement), self.0.live.commits());
        let number = |tick: Tick| Arc::new(columns::tick_array([tick])) as ArrayRef;
        let time = |tick: Tick| {
            Arc::new(TimestampMicrosecondArray::from(vec![tick.micros()]).with_timezone("UTC")) as ArrayRef
        };
        let upper = commits.upper();
        let count: ArrayRef = Arc::new(UInt64Array::from(vec![commits.list.len() as u64]));
        let columns = vec![number(tick), time(tick), number(upper), time(upper), count];
        Ok(RecordBatch::try_new(self.schema(), columns)?)
    }
}

#[async_trait]
impl TableProvider for FrontierTable {
    fn schema(&self) -> SchemaRef {
        Arc::new(Schema::new(vec![
            columns::tick_field("tick"),
            Field::new("time", timestamp(), false),
            columns::tick_field("committed_tick"),
            Field::new("committed_time", timestamp(), false),
            Field::new("commits", DataType::UInt64, false),
        ]))
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        _limit: Option<usize>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let rows = vec![self.row(state)?];
        Ok(MemorySourceConfig::try_new_exec(&[rows], self.schema(), projection.cloned())?)
    }
}

#[cfg(test)]
mod tests {
    use datafusion::datasource::object_store::ObjectStoreUrl;
    use datafusion::prelude::SessionContext;
    use tidegate_dataflows::serve::MemoryReads;
    use tidegate_facts::Digest;
    use tidegate_sinks::commits::{CommitInterval, Commits, TableBuffer, TableFileFormat};
    use tidegate_sinks::hash_chains::LogHeads;
    use tidegate_sinks::store::{ObjectStoreBackend, RetryPolicy, Store};

    use super::*;
    use crate::committed::STORE_URL;

    fn rows(ticks: &[i64]) -> RecordBatch {
        let ticks: ArrayRef = Arc::new(columns::TickArray::from(ticks.to_vec()));
        RecordBatch::try_from_iter([(columns::TICK, ticks)]).expect("one column")
    }

    /// The ticks in a table, in order.
    async fn ticks(context: &SessionContext, table: &str) -> Vec<i64> {
        let sql = format!("SELECT _tick FROM {table} ORDER BY _tick");
        let batches = context.sql(&sql).await.expect("a statement").collect().await.expect("an answer");
        let ticks = batches.iter().map(|batch| columns::ticks(batch).values().to_vec());
        ticks.flatten().collect()
    }

    #[tokio::test]
    async fn a_statement_sees_the_complete_rows_before_and_after_their_commit() {
        let store = Store::over(Arc::new(ObjectStoreBackend::in_memory()), RetryPolicy::default());
        let live = Arc::new(MemoryReads::default());
        live.add_rows("decisions", rows(&[1, 5]));
        live.add_rows("decisions", rows(&[9]));
        let session = Arc::new(LiveSession::new(Arc::clone(&live) as Arc<_>, store.clone()));
        let table = LiveTable::new("decisions", rows(&[]).schema(), session);
        let context = SessionContext::new();
        let url = ObjectStoreUrl::parse(STORE_URL).expect("a URL");
        context.register_object_store(url.as_ref(), store.objects().expect("objects in memory"));
        let earlier = table.as_of(Tick(2));
        context.register_table("earlier", earlier).expect("a free name");
        context.register_table("decisions", Arc::new(table)).expect("a free name");
        assert_eq!(ticks(&context, "decisions").await, [0i64; 0], "nothing is complete");
        live.set_complete(Tick(6), vec![2]);
        assert_eq!(ticks(&context, "decisions").await, [1, 5]);
        assert_eq!(ticks(&context, "earlier").await, [1]);

        let mut buffer =
            TableBuffer::new("decisions", rows(&[]).schema(), TableFileFormat::Parquet, Tick::ZERO);
        buffer.insert(&rows(&[1, 5]));
        let files = buffer.write_before(Tick(6), &store).expect("it can be written");
        let (upper, plan, log) = (Tick(6), Digest::default(), LogHeads::default());
        let mut commits = Commits::default();
        commits.publish(CommitInterval { upper, plan, log, files }, None, &store).expect("it is published");
        live.set_commits(Arc::new(commits), "decisions");
        live.add_rows("decisions", rows(&[5, 9]));
        live.set_complete(Tick(10), vec![3]);
        assert_eq!(ticks(&context, "decisions").await, [1, 5, 9], "a row in both is read once");
        assert_eq!(ticks(&context, "earlier").await, [1]);
    }
}
