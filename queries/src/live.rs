//! Tables of a running topology: what is committed, and behind it what the graph has computed since.
//!
//! A statement is answered as of one tick, the same for every table and every worker: the greatest before which
//! everything is known ([`Live::complete`]). Rows before a tick never change, so asking again as of that tick
//! gives the same answer, whether they have been committed meanwhile or not. `as_of('table', tick or time)` asks as
//! of an earlier one, of any table that is [`Dated`].

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex};

use arrow::array::{ArrayRef, AsArray, RecordBatch, TimestampMicrosecondArray, UInt64Array};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, UInt64Type};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableFunctionArgs, TableFunctionImpl, TableProvider};
use datafusion::common::{ScalarValue, plan_err};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::{Expr, Operator, TableProviderFilterPushDown, TableType};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{Column, binary, lit};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::union::UnionExec;
use tidegate_dataflows::live::Live;
use tidegate_facts::schema::timestamp;
use tidegate_facts::{Tick, columns};
use tidegate_sinks::store::Store;
use tidegate_sinks::table::TableFile;

use crate::QueryError;
use crate::committed::{CommittedTable, pushed_down};

/// How many statements at once may each have a tick of its own.
const STATEMENTS: usize = 256;

/// The table that says how far everything is.
pub(crate) const FRONTIER: &str = "frontier";

/// The function that asks as of an earlier tick.
pub(crate) const AS_OF: &str = "as_of";

/// A running topology, as statements see it.
pub(crate) struct Running {
    pub(crate) live: Arc<Live>,
    pub(crate) store: Store,
    /// The ticks of the newest statements, by when each began.
    ticks: Mutex<VecDeque<(i64, Tick)>>,
}

impl Running {
    pub(crate) fn new(live: Arc<Live>, store: Store) -> Running {
        Running { live, store, ticks: Mutex::default() }
    }

    /// The tick that a statement is answered as of: rows before it are seen.
    pub(crate) fn tick_of(&self, statement: &dyn Session) -> Tick {
        let began = statement.execution_props().query_execution_start_time;
        let Some(began) = began.and_then(|at| at.timestamp_nanos_opt()) else { return self.live.complete() };
        let mut ticks = self.ticks.lock().expect("no panic");
        if let Some((_, tick)) = ticks.iter().find(|(at, _)| *at == began) {
            return *tick;
        }
        let tick = self.live.complete();
        ticks.push_front((began, tick));
        ticks.truncate(STATEMENTS);
        tick
    }

    /// The first tick that is not seen by a statement that asks as of `asked`, or as of now.
    pub(crate) fn before(&self, statement: &dyn Session, asked: Option<Tick>) -> Tick {
        let now = self.tick_of(statement);
        asked.map_or(now, |asked| asked.min(now))
    }
}

/// A table that can be asked as of an earlier tick.
pub(crate) trait Dated: TableProvider {
    /// Its name.
    fn name(&self) -> &str;

    /// The table as of the statement that sees what is before this tick, or before its own if that is earlier.
    fn as_of(&self, before: Tick) -> Arc<dyn TableProvider>;
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Running")
    }
}

/// A table of the running topology.
#[derive(Clone, Debug)]
pub(crate) struct LiveTable {
    name: String,
    schema: SchemaRef,
    running: Arc<Running>,
    /// What is committed, as of so many commits.
    committed: Arc<Mutex<(usize, Option<Arc<CommittedTable>>)>>,
    /// The tick that is asked for, when it is not the statement's.
    as_of: Option<Tick>,
}

/// A table as it stood when it was looked at.
struct Parts {
    /// The rows that no commit has, and perhaps some that one has.
    rows: Vec<RecordBatch>,
    committed: Option<Arc<CommittedTable>>,
    /// Where the commits end.
    upper: Tick,
}

impl LiveTable {
    pub(crate) fn new(name: &str, schema: SchemaRef, running: Arc<Running>) -> LiveTable {
        LiveTable { name: name.to_owned(), schema, running, committed: Arc::default(), as_of: None }
    }

    fn parts(&self) -> Result<Parts, QueryError> {
        let (rows, commits) = self.running.live.rows(&self.name);
        let mut cached = self.committed.lock().expect("no panic");
        if cached.0 < commits.list.len() {
            // Only what the new commits name is opened.
            let new = commits.list[cached.0..].iter().flat_map(|commit| &commit.files);
            let new: Vec<&TableFile> = new.filter(|file| file.table == self.name).collect();
            if !new.is_empty() {
                let store = &self.running.store;
                let table = match &cached.1 {
                    Some(table) => table.with(&self.name, &new, store)?,
                    None => CommittedTable::open(&self.name, &new, store)?,
                };
                cached.1 = Some(Arc::new(table));
            }
            cached.0 = commits.list.len();
        }
        // The cache may be ahead of these commits by some that came since; their rows are then on the shelves too.
        let upper = if cached.0 == commits.list.len() {
            commits.upper()
        } else {
            self.running.live.commits().list[cached.0 - 1].upper
        };
        Ok(Parts { rows, committed: cached.1.clone(), upper })
    }
}

impl Dated for LiveTable {
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
        let before = self.running.before(state, self.as_of);
        let Parts { rows, committed, upper } = self.parts().map_err(|error| external(&error))?;
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

/// Only the rows before a tick, in the columns that are asked for.
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
    let kept = projection.iter().map(|place| {
        let name = schema.field(*place).name().clone();
        (Arc::new(Column::new(&name, *place)) as Arc<dyn PhysicalExpr>, name)
    });
    Ok(Arc::new(ProjectionExec::try_new(kept.collect::<Vec<_>>(), rows)?))
}

/// The rows with a tick from `lower` to before `upper`.
fn between(rows: &RecordBatch, lower: Tick, upper: Tick) -> RecordBatch {
    let ticks =
        rows.column_by_name(columns::TICK).expect("every table has _tick").as_primitive::<UInt64Type>();
    let inside = |tick: &u64| (lower..upper).contains(&Tick(*tick));
    if ticks.values().iter().all(inside) {
        return rows.clone();
    }
    let kept = ticks.values().iter().map(|tick| Some(inside(tick))).collect();
    filter_record_batch(rows, &kept).expect("one mark for each row")
}

fn external(error: &QueryError) -> datafusion::error::DataFusionError {
    datafusion::error::DataFusionError::External(error.to_string().into())
}

/// `as_of('table', tick or time)`: a table as it was.
#[derive(Debug)]
pub(crate) struct AsOf {
    pub(crate) tables: Vec<Arc<dyn Dated>>,
}

impl TableFunctionImpl for AsOf {
    fn call_with_args(&self, args: TableFunctionArgs) -> DataFusionResult<Arc<dyn TableProvider>> {
        let usage = "as_of takes the name of a table and a tick or a time: as_of('decisions', '2026-04-01T00:00:00Z')";
        let [Expr::Literal(table, _), Expr::Literal(when, _)] = args.exprs() else {
            return plan_err!("{usage}");
        };
        let Some(Some(name)) = table.try_as_str() else { return plan_err!("{usage}") };
        let Some(before) = tick_asked(when) else { return plan_err!("{usage}; and {when} is neither") };
        match self.tables.iter().find(|table| table.name().eq_ignore_ascii_case(name)) {
            Some(table) => Ok(table.as_of(before)),
            None => {
                let known: Vec<&str> = self.tables.iter().map(|table| table.name()).collect();
                plan_err!("there is no live table `{name}`; there are {}", known.join(", "))
            }
        }
    }
}

/// The first tick that is not seen: as of a tick that tick's fact is seen, and as of a time all facts stamped up to it.
pub(crate) fn tick_asked(when: &ScalarValue) -> Option<Tick> {
    match when {
        ScalarValue::Int64(Some(tick)) => u64::try_from(*tick).ok().map(behind),
        ScalarValue::UInt64(Some(tick)) => Some(behind(*tick)),
        text => {
            let text = text.try_as_str()??;
            let tick = Tick::parse(text).ok()?;
            let is_tick = text.bytes().all(|byte| byte.is_ascii_digit());
            if is_tick { Some(behind(tick.0)) } else { Tick::new(tick.micros() + 1, 0) }
        }
    }
}

/// The tick behind another, which may be any number that somebody wrote; no fact has the last one.
fn behind(tick: u64) -> Tick {
    Tick(tick.saturating_add(1))
}

/// The table `frontier`: one row that says what the statement is answered as of, and what is committed.
#[derive(Debug)]
pub(crate) struct Frontier(pub(crate) Arc<Running>);

impl Frontier {
    fn row(&self, statement: &dyn Session) -> DataFusionResult<RecordBatch> {
        let (tick, commits) = (self.0.tick_of(statement), self.0.live.commits());
        let number = |number: u64| Arc::new(UInt64Array::from(vec![number])) as ArrayRef;
        let time = |tick: Tick| {
            Arc::new(TimestampMicrosecondArray::from(vec![tick.micros()]).with_timezone("UTC")) as ArrayRef
        };
        let upper = commits.upper();
        let columns =
            vec![number(tick.0), time(tick), number(upper.0), time(upper), number(commits.list.len() as u64)];
        Ok(RecordBatch::try_new(self.schema(), columns)?)
    }
}

#[async_trait]
impl TableProvider for Frontier {
    fn schema(&self) -> SchemaRef {
        Arc::new(Schema::new(vec![
            Field::new("tick", DataType::UInt64, false),
            Field::new("time", timestamp(), false),
            Field::new("committed_tick", DataType::UInt64, false),
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
