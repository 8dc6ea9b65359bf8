//! The tables of one data folder, and the questions that may be asked of them.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::{self, Write as _};
use std::path::Path;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::catalog::TableProvider;
use datafusion::common::TableReference;
use datafusion::datasource::empty::EmptyTable;
use datafusion::datasource::object_store::ObjectStoreUrl;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::context::SQLOptions;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::LogicalPlan;
use datafusion::optimizer::Optimizer;
use datafusion::prelude::{DataFrame, SessionConfig, SessionContext};
use datafusion::sql::parser::{DFParser, Statement};
use datafusion::sql::sqlparser::ast::Statement as SqlStatement;
use tidegate_dataflows::live::Live;
use tidegate_dataflows::timelines::TimelineTable;
use tidegate_facts::Tick;
use tidegate_facts::names::choices;
use tidegate_sinks::graphs::{self as stored_graphs, Graph};
use tidegate_sinks::schemas;
use tidegate_sinks::store::Store;
use tidegate_sinks::table::{Commits, TableFile};

use crate::QueryError;
use crate::blame::{Committed, with_blame};
use crate::bounds;
use crate::changelog::{self, LiveStanding};
use crate::committed::{CommittedTable, STORE_URL};
use crate::error::sentence;
use crate::fair::Fair;
use crate::functions::{self, LargeWhenRun};
use crate::graphs;
use crate::live::{AS_OF, AsOf, Dated, FRONTIER, Frontier, LiveTable, Running};
use crate::log::{LogProvider, LogTable};
use crate::names::{self, Known};
use crate::peek::{Peek, Timelines};
use crate::statements::bounded_memory;
use crate::timelines::TimelineProvider;
use crate::version::{End, GRAPH_VERSION, GraphVersion, Origin};

/// What the catalogue is called in SQL.
pub(crate) const CATALOGUE: &str = "tidegate";

/// The statement that asks for all tables.
const TABLES_SHOWN: &str = "SHOW TABLES";

/// What it shows: DataFusion would add its own tables, in an order that changes.
const TABLES: &str =
    "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public' ORDER BY table_name";

/// The tables of a data folder that nothing runs on.
///
/// | table | rows |
/// |---|---|
/// | `facts` | what the gate admitted |
/// | `receipts` | what the gate said of every record |
/// | `quarantine` | the records that it refused, with their bytes |
/// | `governance` | the steps by which bundles and policies were revised |
/// | each committed table | the rows of the commits there were when the catalogue was opened; none before the first |
pub struct Catalogue {
    context: SessionContext,
    tables: BTreeMap<String, Option<u64>>,
    known: Known,
    committed: Option<Arc<Committed>>,
    running: Option<Arc<Running>>,
    schemas: BTreeMap<String, SchemaRef>,
    /// What can be looked up without a plan.
    timelines: Timelines,
    /// What `resolve`, `profile` and `neighbours` can be asked of.
    graphs: Vec<Graph>,
}

/// What a statement gives.
pub struct Answer {
    /// The tick it is answered as of, if a topology runs: rows before it were seen.
    pub tick: Option<Tick>,
    /// The rows, made while the stream is read, on the Tokio runtime of its reader.
    pub rows: SendableRecordBatchStream,
}

/// A table, as [`Catalogue::tables`] lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Its name.
    pub name: String,
    /// How many rows it has; `None` where only reading the log would tell.
    pub rows: Option<u64>,
}

impl Catalogue {
    /// Opens the log of the data folder `data`, and `store`, or else the store in the folder.
    ///
    /// # Errors
    /// [`QueryError::NoData`] when nothing ever ran there; when the commits are broken, or a file that they name is
    /// missing or has another size.
    pub fn open(data: &Path, store: Option<&Path>) -> Result<Catalogue, QueryError> {
        let log = data.join("log");
        if !log.is_dir() {
            return Err(QueryError::NoData { data: data.to_owned() });
        }
        let (tables, known) = (BTreeMap::new(), Known::new());
        let mut catalogue = Catalogue {
            context: session(Arc::default()),
            tables,
            known,
            committed: None,
            running: None,
            schemas: BTreeMap::new(),
            timelines: Timelines::new(),
            graphs: Vec::new(),
        };
        let own_store = data.join("store");
        let archive = store.or(own_store.is_dir().then_some(&own_store));
        match store {
            Some(store) if !store.is_dir() => return Err(QueryError::NoStore { store: store.to_owned() }),
            Some(store) => catalogue.add_store(store, &log, archive)?,
            None if own_store.is_dir() => catalogue.add_store(&own_store, &log, Some(&own_store))?,
            None => {}
        }
        for table in LogTable::ALL {
            catalogue.add(table.name(), None, Arc::new(LogProvider::new(&log, archive, table)));
        }
        Ok(catalogue)
    }

    /// The tables of a topology that runs on `data` and commits to `store`: those of its log, its `timelines`, and `tables`, each
    /// with its schema, as committed and as computed since. Also `frontier`, the function `as_of`, and those of `graphs`. Statements
    /// may take `memory_bytes` together.
    ///
    /// # Errors
    /// When the store cannot be opened.
    pub fn live(
        data: &Path,
        store: &Path,
        tables: &[(String, SchemaRef)],
        timelines: Vec<TimelineTable>,
        graphs: Vec<Graph>,
        live: &Arc<Live>,
        memory_bytes: usize,
    ) -> Result<Catalogue, QueryError> {
        let running = Arc::new(Running::new(Arc::clone(live), Store::open(store)?));
        let mut catalogue = Catalogue {
            context: session(bounded_memory(memory_bytes)),
            tables: BTreeMap::new(),
            known: Known::new(),
            committed: None,
            running: Some(Arc::clone(&running)),
            schemas: BTreeMap::new(),
            timelines: Timelines::new(),
            graphs: Vec::new(),
        };
        let url = ObjectStoreUrl::parse(STORE_URL).expect("it is a URL");
        catalogue.context.register_object_store(url.as_ref(), running.store.objects());
        let mut dated: Vec<Arc<dyn Dated>> = Vec::new();
        for table in LogTable::ALL {
            let provider = LogProvider::new(&data.join("log"), Some(store), table);
            dated.push(Arc::new(provider.of_running(&running)));
        }
        for (name, schema) in tables {
            let table = LiveTable::new(name, Arc::clone(schema), Arc::clone(&running));
            if changelog::is_changelog(schema) {
                catalogue.add(&changelog::changes_name(name), None, Arc::new(table.clone()));
                dated.push(Arc::new(LiveStanding::new(Arc::new(table))));
            } else {
                dated.push(Arc::new(table));
            }
        }
        for table in timelines {
            let table = Arc::new(TimelineProvider::new(table, Arc::clone(&running)));
            catalogue.timelines.insert(table.name().to_owned(), Arc::clone(&table));
            dated.push(table);
        }
        for table in &dated {
            catalogue.add(table.name(), None, Arc::clone(table) as Arc<dyn TableProvider>);
        }
        let origin = Origin::new(&data.join("log"), Some(store), End::Running(Arc::clone(&running)));
        catalogue.add_graphs(graphs, origin);
        catalogue.add(FRONTIER, Some(1), Arc::new(Frontier(running)));
        catalogue.context.register_udtf(AS_OF, Arc::new(AsOf { tables: dated }));
        Ok(catalogue)
    }

    /// What DataFusion knows of the tables, for others that plan with it.
    pub(crate) fn context(&self) -> &SessionContext {
        &self.context
    }

    /// The schema of each table, by name.
    pub fn schemas(&self) -> BTreeMap<String, SchemaRef> {
        self.schemas.clone()
    }

    /// The tables, by name.
    pub fn tables(&self) -> Vec<Table> {
        self.tables.iter().map(|(name, rows)| Table { name: name.clone(), rows: *rows }).collect()
    }

    /// Answers one statement: `SELECT`, `WITH`, `VALUES`, `EXPLAIN`, `SHOW` or `DESCRIBE`.
    ///
    /// Rows are made while the stream is read; [`crate::write`] reads it. It runs on the Tokio runtime of its reader.
    ///
    /// # Errors
    /// When the text is not one such statement, or names what is not there.
    pub async fn query(&self, sql: &str) -> Result<SendableRecordBatchStream, QueryError> {
        self.ask(sql).await.map(|answer| answer.rows)
    }

    /// As [`Catalogue::query`], with the tick that the rows are as of.
    ///
    /// # Errors
    /// As [`Catalogue::query`].
    pub async fn ask(&self, sql: &str) -> Result<Answer, QueryError> {
        let mut statements = parse(sql)?;
        let count = statements.len();
        let Some(mut statement) = statements.pop_front().filter(|_| count == 1) else {
            return Err(QueryError::NotOne { count });
        };
        self.settle(&mut statement)?;
        if let Some((before, peek)) = self.peek(&statement) {
            return Ok(Answer { tick: Some(before), rows: peek.rows(before)? });
        }
        let state = self.context.state();
        let plan = self.plan_settled(&state, statement).await?;
        let tick = self.running.as_ref().map(|running| running.tick_of(&state));
        let frame = DataFrame::new(state, plan);
        let rows = frame.execute_stream().await.map_err(|error| QueryError::of_plan(&error))?;
        Ok(Answer { tick, rows: with_blame(rows, self.committed.clone()) })
    }

    /// Answers a statement that looks a key up and finds few rows. It takes less than another thread needs to wake up; `None`
    /// of all others, and where something is wrong: [`Catalogue::ask`] answers them.
    pub(crate) fn look_up(&self, sql: &str) -> Option<Answer> {
        if self.timelines.is_empty() || !Peek::may_be(sql) {
            return None;
        }
        let mut statements = parse(sql).ok()?;
        let mut statement = statements.pop_front().filter(|_| statements.is_empty())?;
        self.settle(&mut statement).ok()?;
        let (before, peek) = self.peek(&statement)?;
        Some(Answer { tick: Some(before), rows: peek.few_rows(before)? })
    }

    /// What a statement whose names are settled looks up, and as of which tick.
    fn peek(&self, statement: &Statement) -> Option<(Tick, Peek)> {
        let running = self.running.as_ref()?;
        let peek = Peek::of(statement, &self.timelines)?;
        Some((running.live.complete(), peek))
    }

    /// Plans a statement that only reads.
    pub(crate) async fn plan(
        &self,
        state: &SessionState,
        mut statement: Statement,
    ) -> Result<LogicalPlan, QueryError> {
        self.settle(&mut statement)?;
        self.plan_settled(state, statement).await
    }

    /// Sees that a statement only reads and is within bounds, and finds out what its names mean.
    fn settle(&self, statement: &mut Statement) -> Result<(), QueryError> {
        if !only_reads(statement) {
            return Err(QueryError::ReadOnly { statement: first_word(statement) });
        }
        if is_show_tables(statement) {
            *statement = parse(TABLES)?.pop_front().expect("it is one statement");
        }
        graphs::expand(statement, &self.graphs)?;
        bounds::statement(statement)?;
        names::resolve(statement, &self.known).map_err(|table| {
            let known: Vec<&str> = self.tables.keys().map(String::as_str).collect();
            QueryError::UnknownTable { choices: choices(&table, &known), table }
        })
    }

    async fn plan_settled(
        &self,
        state: &SessionState,
        statement: Statement,
    ) -> Result<LogicalPlan, QueryError> {
        let first_word = first_word(&statement);
        let plan = state.statement_to_plan(statement).await;
        let plan = plan.map_err(|error| QueryError::of_plan(&error))?;
        bounds::plan(&plan)?;
        // A query may still hold what is no query, such as SELECT INTO.
        let options =
            SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
        options.verify_plan(&plan).map_err(|_| QueryError::ReadOnly { statement: first_word })?;
        Ok(plan)
    }

    fn add_store(&mut self, store: &Path, log: &Path, archive: Option<&Path>) -> Result<(), QueryError> {
        let store = Store::open(store)?;
        let commits = Commits::read(&store)?;
        let url = ObjectStoreUrl::parse(STORE_URL).expect("it is a URL");
        self.context.register_object_store(url.as_ref(), store.objects());
        for name in commits.tables() {
            let files: Vec<&TableFile> = commits.files_of(&name).collect();
            let table = CommittedTable::open(&name, &files, &store)?;
            self.add_committed(&name, table.rows(), Arc::new(table));
        }
        for (name, schema) in schemas::declared(&store)? {
            if !self.tables.contains_key(&name) {
                self.add_committed(&name, 0, Arc::new(EmptyTable::new(schema)));
            }
        }
        let graphs = stored_graphs::declared(&store)?;
        self.add_graphs(graphs, Origin::new(log, archive, End::Committed(Arc::new(commits.clone()))));
        self.committed = Some(Arc::new(Committed::new(store, commits)));
        Ok(())
    }

    fn add_graphs(&mut self, graphs: Vec<Graph>, origin: Origin) {
        let version = GraphVersion { graphs: graphs.clone(), origin };
        self.context.register_udtf(GRAPH_VERSION, Arc::new(version));
        self.graphs = graphs;
    }

    /// A table of a folder that nothing runs on; a changelog also as it stands.
    fn add_committed(&mut self, name: &str, rows: u64, table: Arc<dyn TableProvider>) {
        if changelog::is_changelog(&table.schema()) {
            self.add(name, None, Arc::new(changelog::standing(name, Arc::clone(&table))));
            self.add(&changelog::changes_name(name), Some(rows), table);
        } else {
            self.add(name, Some(rows), table);
        }
    }

    fn add(&mut self, name: &str, rows: Option<u64>, table: Arc<dyn TableProvider>) {
        let columns = table.schema().fields().iter().map(|field| field.name().clone()).collect();
        self.known.insert(name.to_owned(), columns);
        self.tables.insert(name.to_owned(), rows);
        self.schemas.insert(name.to_owned(), table.schema());
        let registered = self.context.register_table(TableReference::bare(name), table);
        registered.expect("tables in memory can be registered");
    }
}

fn parse(sql: &str) -> Result<VecDeque<Statement>, QueryError> {
    bounds::text(sql)?;
    DFParser::parse_sql(sql).map_err(|error| QueryError::Syntax { what: sentence(&error) })
}

pub(crate) fn session(runtime: Arc<RuntimeEnv>) -> SessionContext {
    let mut config = SessionConfig::new()
        .with_information_schema(true)
        .with_default_catalog_and_schema(CATALOGUE, "public");
    // Names are settled before planning.
    config.options_mut().sql_parser.enable_ident_normalization = false;
    let state = SessionStateBuilder::new().with_config(config).with_runtime_env(runtime);
    let mut rules = Optimizer::new().rules;
    rules.insert(0, Arc::new(LargeWhenRun)); // In front of the one that makes constants.
    let state = state.with_default_features().with_optimizer_rules(rules);
    let state = state.with_physical_optimizer_rule(Arc::new(Fair)).build();
    let context = SessionContext::new_with_state(state);
    functions::bound(&context);
    context
}

/// The first word of a statement; the rest is not written out.
fn first_word(statement: &Statement) -> String {
    struct Word(String);
    impl fmt::Write for Word {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            let (word, is_whole) = text.split_once(' ').map_or((text, false), |(word, _)| (word, true));
            self.0.push_str(word);
            if is_whole { Err(fmt::Error) } else { Ok(()) }
        }
    }
    let mut word = Word(String::new());
    let _ = write!(word, "{statement}"); // It fails where the word ends.
    word.0
}

fn is_show_tables(statement: &Statement) -> bool {
    let Statement::Statement(inner) = statement else { return false };
    matches!(**inner, SqlStatement::ShowTables { .. }) && statement.to_string() == TABLES_SHOWN
}

fn only_reads(statement: &Statement) -> bool {
    match statement {
        Statement::Statement(statement) => matches!(
            **statement,
            SqlStatement::Query(_)
                | SqlStatement::ExplainTable { .. }
                | SqlStatement::ShowTables { .. }
                | SqlStatement::ShowColumns { .. }
                | SqlStatement::ShowFunctions { .. }
                | SqlStatement::ShowVariable { .. }
                | SqlStatement::ShowCreate { .. }
        ),
        Statement::Explain(explain) => only_reads(&explain.statement),
        _ => false,
    }
}
