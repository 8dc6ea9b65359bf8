//! The table function `graph_version('NODE'[, tick or time])`: an entity graph's basis and version.
//!
//! The basis is the number of facts of each partition that the graph has received; both follow from
//! the tick. The basis of an earlier tick is taken from a commit or from the running topology, and
//! the facts after it are counted in the log: usually there are none.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, FixedSizeBinaryArray, ListArray, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableFunctionArgs, TableFunctionImpl, TableProvider};
use datafusion::common::plan_err;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::ExecutionPlan;
use tidegate_dataflows::entity_graphs::version;
use tidegate_facts::payload_schema::timestamp;
use tidegate_facts::{Tick, Topic, columns};
use tidegate_sinks::archive::{Bound, Preference, read_range};
use tidegate_sinks::commits::{Commit, Commits};
use tidegate_sinks::graph_catalog::Graph;
use tidegate_sinks::log::LogReader;
use tidegate_sinks::store::Store;

use crate::live_session::{LiveSession, end_of_as_of};
use crate::log_tables::error::ReadError;
use crate::log_tables::holds_facts;

/// The name of the table function `graph_version`.
pub(crate) const GRAPH_VERSION: &str = "graph_version";

/// The log, the archive and the commits that a graph's basis is counted in.
#[derive(Clone, Debug)]
pub(crate) struct LogSource {
    pub(crate) log: Arc<dyn LogReader>,
    /// The store of its archive.
    pub(crate) archive: Option<Store>,
    pub(crate) end: VisibleEnd,
}

/// The end of the rows that `graph_version` counts, and that statements see.
#[derive(Clone, Debug)]
pub(crate) enum VisibleEnd {
    /// The end of the commits of a folder.
    Commits(Arc<Commits>),
    /// The tick of each statement on a running topology.
    Live(Arc<LiveSession>),
}

impl LogSource {
    /// The first tick that a statement does not see: that of `as_of`, or its own if that is
    /// earlier.
    fn before(&self, statement: &dyn Session, as_of: Option<Tick>) -> Tick {
        match &self.end {
            VisibleEnd::Live(session) => session.before(statement, as_of),
            VisibleEnd::Commits(commits) => as_of.map_or(commits.upper(), |as_of| as_of.min(commits.upper())),
        }
    }

    /// The number of facts before the tick `before`, for each of `partitions` partitions.
    fn basis(&self, before: Tick, partitions: u16) -> Result<Vec<i64>, ReadError> {
        let (commits, live) = match &self.end {
            VisibleEnd::Commits(commits) => (Arc::clone(commits), None),
            VisibleEnd::Live(session) => (session.live.commits(), session.live.basis_at(before)),
        };
        let committed = commits.list.iter().rev().find(|commit| commit.upper <= before);
        let committed = committed.map(|commit| (commit.upper, basis_of(commit, partitions)));
        let nothing = (Tick::ZERO, vec![0; usize::from(partitions)]);
        let latest = live.into_iter().chain(committed).chain([nothing]).max_by_key(|(tick, _)| *tick);
        let (from, mut basis) = latest.expect("the list holds `nothing` at least");
        if from == before {
            return Ok(basis);
        }
        let (log, archive) = (self.log.as_ref(), self.archive.as_ref());
        let (from_bound, to) = (Bound::Tick(from), Some(Bound::Tick(before)));
        for group in read_range(log, archive, from_bound, to, Preference::Log)? {
            for frame in group?.frames.iter().filter(|f| f.topic == Topic::Traffic && holds_facts(f)) {
                let ticks = columns::ticks(&frame.rows).values().iter().map(|tick| Tick(*tick));
                for tick in ticks.filter(|tick| (from..before).contains(tick)) {
                    basis[usize::from(tick.partition())] += 1;
                }
            }
        }
        Ok(basis)
    }
}

/// The number of facts of each partition that a commit covers.
fn basis_of(commit: &Commit, partitions: u16) -> Vec<i64> {
    let mut basis = vec![0; usize::from(partitions)];
    for head in commit.log.iter().filter(|head| head.topic == Topic::Traffic) {
        basis[usize::from(head.partition)] = i64::try_from(head.records).expect("fewer facts than ticks");
    }
    basis
}

/// The table function `graph_version`.
#[derive(Debug)]
pub(crate) struct GraphVersionFunction {
    pub(crate) graphs: Vec<Graph>,
    pub(crate) source: LogSource,
}

impl TableFunctionImpl for GraphVersionFunction {
    fn call_with_args(&self, args: TableFunctionArgs) -> DataFusionResult<Arc<dyn TableProvider>> {
        let usage = "graph_version takes the name of a graph, and a tick or a time: graph_version('graph', '2026-04-01T00:00:00Z')";
        let (node, when) = match args.exprs() {
            [Expr::Literal(node, _)] => (node, None),
            [Expr::Literal(node, _), Expr::Literal(when, _)] => (node, Some(when)),
            _ => return plan_err!("{usage}"),
        };
        let as_of = match when.map(end_of_as_of) {
            Some(None) => return plan_err!("{usage}"),
            Some(as_of) => as_of,
            None => None,
        };
        let Some(Some(node)) = node.try_as_str() else { return plan_err!("{usage}") };
        let Some(graph) = self.graphs.iter().find(|graph| graph.node == node) else {
            let known: Vec<&str> = self.graphs.iter().map(|graph| graph.node.as_str()).collect();
            return plan_err!("there is no graph `{node}`; there are {}", known.join(", "));
        };
        Ok(Arc::new(GraphVersionTable { graph: graph.clone(), source: self.source.clone(), as_of }))
    }
}

/// A table of one row: the version of one graph as of one tick.
#[derive(Debug)]
struct GraphVersionTable {
    graph: Graph,
    source: LogSource,
    as_of: Option<Tick>,
}

impl GraphVersionTable {
    fn row(&self, before: Tick) -> Result<RecordBatch, ReadError> {
        let basis = self.source.basis(before, self.graph.partitions)?;
        let digest = version(&self.graph, &basis);
        let item = columns::basis_item();
        let counts = OffsetBuffer::from_lengths([basis.len()]);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from(vec![self.graph.node.as_str()])),
            Arc::new(columns::TickArray::from(vec![before.0])),
            Arc::new(TimestampMicrosecondArray::from(vec![before.micros()]).with_timezone("UTC")),
            Arc::new(ListArray::new(item, counts, Arc::new(columns::OffsetArray::from(basis)), None)),
            Arc::new(FixedSizeBinaryArray::try_from_iter([digest.0].iter()).expect("one digest")),
        ];
        Ok(RecordBatch::try_new(self.schema(), columns).expect("the columns are the schema's"))
    }
}

#[async_trait]
impl TableProvider for GraphVersionTable {
    fn schema(&self) -> SchemaRef {
        Arc::new(Schema::new(vec![
            Field::new("graph", DataType::Utf8, false),
            columns::tick_field("before_tick"),
            Field::new("before_utc", timestamp(), false),
            Field::new("basis", columns::basis_type(), false),
            Field::new("graph_version", DataType::FixedSizeBinary(32), false),
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
        let row = self.row(self.source.before(state, self.as_of));
        let row = row.map_err(|error| DataFusionError::External(Box::new(Arc::new(error))))?;
        Ok(MemorySourceConfig::try_new_exec(&[vec![row]], self.schema(), projection.cloned())?)
    }
}
