//! `graph_version('NODE'[, tick or time])`: how many facts of each partition an entity graph has heard, and its version.
//!
//! Both are functions of the tick. What a commit or the running graph says of an earlier tick is taken, and the facts from
//! there on are counted in the log: as a rule there are none.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, FixedSizeBinaryArray, ListArray, RecordBatch, StringArray, TimestampMicrosecondArray,
    UInt64Array,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, UInt64Type};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableFunctionArgs, TableFunctionImpl, TableProvider};
use datafusion::common::plan_err;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::ExecutionPlan;
use tidegate_dataflows::graphs::version;
use tidegate_facts::schema::timestamp;
use tidegate_facts::{Tick, Topic, columns};
use tidegate_sinks::archive::{Bound, Preference, read_range};
use tidegate_sinks::graphs::Graph;
use tidegate_sinks::store::Store;
use tidegate_sinks::table::{Commit, Commits};

use crate::live::{Running, tick_asked};
use crate::log::{ReadError, is_facts};

/// The name of the function.
pub(crate) const GRAPH_VERSION: &str = "graph_version";

/// Where the tables of some graphs come from.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    /// The folder of the log.
    pub(crate) log: PathBuf,
    /// The store of its archive.
    pub(crate) archive: Option<PathBuf>,
    pub(crate) end: End,
}

/// Up to where a statement sees.
#[derive(Clone, Debug)]
pub(crate) enum End {
    /// Where the commits of a folder end.
    Committed(Arc<Commits>),
    /// Where the topology is that runs.
    Running(Arc<Running>),
}

impl Origin {
    pub(crate) fn new(log: &Path, archive: Option<&Path>, end: End) -> Origin {
        Origin { log: log.to_owned(), archive: archive.map(Path::to_owned), end }
    }

    /// The first tick that is not seen by a statement that asks as of `asked`, or as of now.
    fn before(&self, statement: &dyn Session, asked: Option<Tick>) -> Tick {
        match &self.end {
            End::Running(running) => running.before(statement, asked),
            End::Committed(commits) => asked.map_or(commits.upper(), |asked| asked.min(commits.upper())),
        }
    }

    /// How many facts of each of `partitions` have a tick before `before`.
    fn basis(&self, before: Tick, partitions: u16) -> Result<Vec<u64>, ReadError> {
        let (commits, known) = match &self.end {
            End::Committed(commits) => (Arc::clone(commits), None),
            End::Running(running) => (running.live.commits(), running.live.basis_at(before)),
        };
        let committed = commits.list.iter().rev().find(|commit| commit.upper <= before);
        let committed = committed.map(|commit| (commit.upper, heads(commit, partitions)));
        let nothing = (Tick::ZERO, vec![0; usize::from(partitions)]);
        let best = known.into_iter().chain(committed).chain([nothing]).max_by_key(|(tick, _)| *tick);
        let (from, mut basis) = best.expect("there is nothing at least");
        if from == before {
            return Ok(basis);
        }
        let archive = self.archive.as_deref().map(Store::open).transpose()?;
        let (from_bound, to) = (Bound::Tick(from), Some(Bound::Tick(before)));
        for group in read_range(&self.log, archive.as_ref(), from_bound, to, Preference::Log)? {
            for frame in group?.frames.iter().filter(|f| f.topic == Topic::Traffic && is_facts(f)) {
                let ticks = frame.rows.column_by_name(columns::TICK).expect("facts have ticks");
                let ticks = ticks.as_primitive::<UInt64Type>().values().iter().map(|tick| Tick(*tick));
                for tick in ticks.filter(|tick| (from..before).contains(tick)) {
                    basis[usize::from(tick.partition())] += 1;
                }
            }
        }
        Ok(basis)
    }
}

/// How many facts of each partition a commit covers.
fn heads(commit: &Commit, partitions: u16) -> Vec<u64> {
    let mut basis = vec![0; usize::from(partitions)];
    for head in commit.log.iter().filter(|head| head.topic == Topic::Traffic) {
        basis[usize::from(head.partition)] = head.records;
    }
    basis
}

/// The function.
#[derive(Debug)]
pub(crate) struct GraphVersion {
    pub(crate) graphs: Vec<Graph>,
    pub(crate) origin: Origin,
}

impl TableFunctionImpl for GraphVersion {
    fn call_with_args(&self, args: TableFunctionArgs) -> DataFusionResult<Arc<dyn TableProvider>> {
        let usage = "graph_version takes the name of a graph, and a tick or a time: graph_version('graph', '2026-04-01T00:00:00Z')";
        let (node, when) = match args.exprs() {
            [Expr::Literal(node, _)] => (node, None),
            [Expr::Literal(node, _), Expr::Literal(when, _)] => (node, Some(when)),
            _ => return plan_err!("{usage}"),
        };
        let asked = match when.map(tick_asked) {
            Some(None) => return plan_err!("{usage}"),
            Some(asked) => asked,
            None => None,
        };
        let Some(Some(node)) = node.try_as_str() else { return plan_err!("{usage}") };
        let Some(graph) = self.graphs.iter().find(|graph| graph.node == node) else {
            let known: Vec<&str> = self.graphs.iter().map(|graph| graph.node.as_str()).collect();
            return plan_err!("there is no graph `{node}`; there are {}", known.join(", "));
        };
        Ok(Arc::new(Version { graph: graph.clone(), origin: self.origin.clone(), asked }))
    }
}

/// One row: the version of one graph.
#[derive(Debug)]
struct Version {
    graph: Graph,
    origin: Origin,
    asked: Option<Tick>,
}

impl Version {
    fn row(&self, before: Tick) -> Result<RecordBatch, ReadError> {
        let basis = self.origin.basis(before, self.graph.partitions)?;
        let digest = version(&self.graph, &basis);
        let item = Arc::new(Field::new("item", DataType::UInt64, false));
        let counts = OffsetBuffer::from_lengths([basis.len()]);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from(vec![self.graph.node.as_str()])),
            Arc::new(UInt64Array::from(vec![before.0])),
            Arc::new(TimestampMicrosecondArray::from(vec![before.micros()]).with_timezone("UTC")),
            Arc::new(ListArray::new(item, counts, Arc::new(UInt64Array::from(basis)), None)),
            Arc::new(FixedSizeBinaryArray::try_from_iter([digest.0].iter()).expect("one digest")),
        ];
        Ok(RecordBatch::try_new(self.schema(), columns).expect("the columns are the schema's"))
    }
}

#[async_trait]
impl TableProvider for Version {
    fn schema(&self) -> SchemaRef {
        Arc::new(Schema::new(vec![
            Field::new("graph", DataType::Utf8, false),
            Field::new("before_tick", DataType::UInt64, false),
            Field::new("before_utc", timestamp(), false),
            Field::new("basis", columns::basis(), false),
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
        let row = self.row(self.origin.before(state, self.asked));
        let row = row.map_err(|error| DataFusionError::External(Box::new(Arc::new(error))))?;
        Ok(MemorySourceConfig::try_new_exec(&[vec![row]], self.schema(), projection.cloned())?)
    }
}
