//! The SQL tables of a data folder or of a running topology, and the statements that read them.

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
use datafusion::execution::SessionState;
use datafusion::execution::context::SQLOptions;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::{DataFrame, SessionContext};
use datafusion::sql::parser::{DFParser, Statement};
use datafusion::sql::sqlparser::ast::Statement as SqlStatement;
use tidegate_dataflows::serve::LiveReads;
use tidegate_dataflows::timeline_tables::TimelineTable;
use tidegate_facts::Tick;
use tidegate_facts::suggest::did_you_mean;
use tidegate_host::Host;
use tidegate_sinks::commits::{Commits, TableFile};
use tidegate_sinks::graph_catalog::{self, Graph};
use tidegate_sinks::log::{LogFolder, LogReader};
use tidegate_sinks::store::{Store, StoreUrl};
use tidegate_sinks::table_catalog;

use crate::changelog::{self, LiveCurrentState};
use crate::committed::{CommittedTable, STORE_URL};
use crate::damaged_file::{CommittedFiles, explain_errors};
use crate::error::{QueryError, sentence};
use crate::graph_functions;
use crate::graph_version::{GRAPH_VERSION, GraphVersionFunction, LogSource, VisibleEnd};
use crate::live_session::{AsOfTable, LiveSession};
use crate::live_tables::{AS_OF, AsOfFunction, FRONTIER, FrontierTable, LiveTable};
use crate::log_tables::{LogProvider, LogTable};
use crate::name_resolution::{self, TableColumns};
use crate::point_lookup::{PointLookup, Timelines};
use crate::query_runtime::bounded_memory;
use crate::session::new_session;
use crate::statement_limits;
use crate::timelines::TimelineProvider;

/// The statement that lists all tables.
const SHOW_TABLES: &str = "SHOW TABLES";

/// The query that replaces it: DataFusion would list its own tables too, in an order that varies.
const LIST_TABLES: &str =
    "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public' ORDER BY table_name";

/// The catalogue: the SQL tables of a data folder that no topology runs on, or of a running
/// topology.
///
/// | table | rows |
/// |---|---|
/// | `facts` | the facts that the gate admitted |
/// | `receipts` | the gate's verdict on every record |
/// | `quarantine` | the records that the gate refused, with their bytes |
/// | `governance` | the steps by which bundles and policies were revised |
/// | each committed table | the rows of the commits that exist when the catalogue is opened |
pub struct Catalogue {
    context: SessionContext,
    tables: BTreeMap<String, Option<u64>>,
    columns: TableColumns,
    committed: Option<Arc<CommittedFiles>>,
    live: Option<Arc<LiveSession>>,
    schemas: BTreeMap<String, SchemaRef>,
    /// The tables that [`PointLookup`] can read.
    timelines: Timelines,
    /// The graphs of `resolve`, `profile` and `neighbours`.
    graphs: Vec<Graph>,
}

/// The catalogue's answer to a statement: its rows, and the tick that they are as of.
pub struct Answer {
    /// On a running topology, the tick of the statement: it saw the rows before this tick.
    pub tick: Option<Tick>,
    /// The rows, computed while the stream is polled, on the Tokio runtime of the reader.
    pub rows: SendableRecordBatchStream,
}

/// A table in the catalogue's list, [`Catalogue::tables`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Its name.
    pub name: String,
    /// The number of its rows; `None` where only reading the log would tell.
    pub rows: Option<u64>,
}

impl Catalogue {
    /// Opens the tables of the data folder `data`: its log, and the commits in `store`, or else in
    /// the folder's own store.
    ///
    /// # Errors
    /// [`QueryError::NoData`] when no topology has run there. Also when the commits are broken, or
    /// a file that they name is missing or has another size.
    pub fn open(data: &Path, store: Option<StoreUrl>) -> Result<Catalogue, QueryError> {
        let log = LogFolder::of_data(&Host::real(), data);
        if !log.exists() {
            return Err(QueryError::NoData { data: data.to_owned() });
        }
        let own_store = data.join("store");
        let store = match store {
            Some(StoreUrl::Folder(path)) if !path.is_dir() => {
                return Err(QueryError::NoStore { store: StoreUrl::Folder(path) });
            }
            Some(store) => Some(Store::open(store)?),
            None if own_store.is_dir() => Some(Store::open(own_store)?),
            None => None,
        };
        Catalogue::of_log(Arc::new(log), store)
    }

    /// The tables of a log and of the commits in its store, if it has one.
    ///
    /// # Errors
    /// Those of [`Catalogue::open`].
    pub fn of_log(log: Arc<dyn LogReader>, store: Option<Store>) -> Result<Catalogue, QueryError> {
        let mut catalogue = Catalogue::empty(Arc::default(), None);
        if let Some(store) = &store {
            catalogue.add_store(store, &log)?;
        }
        for table in LogTable::ALL {
            catalogue.add(table.name(), None, Arc::new(LogProvider::new(&log, store.as_ref(), table)));
        }
        Ok(catalogue)
    }

    /// The tables of a topology that writes `log` and commits to `store`.
    ///
    /// They are the tables of the log, its `timelines`, and `tables`, each with its schema:
    /// committed rows and uncommitted ones. Also `frontier`, the function `as_of`, and the
    /// functions over `graphs`. All statements together may take `memory_bytes`.
    ///
    /// # Errors
    /// When DataFusion cannot read the store.
    pub fn live(
        log: Arc<dyn LogReader>,
        store: Store,
        tables: &[(String, SchemaRef)],
        timelines: Vec<TimelineTable>,
        graphs: Vec<Graph>,
        live: Arc<dyn LiveReads>,
        memory_bytes: usize,
    ) -> Result<Catalogue, QueryError> {
        let session = Arc::new(LiveSession::new(live, store));
        let mut catalogue = Catalogue::empty(bounded_memory(memory_bytes), Some(&session));
        catalogue.register_store(&session.store)?;
        let mut as_of_tables: Vec<Arc<dyn AsOfTable>> = Vec::new();
        for table in LogTable::ALL {
            let provider = LogProvider::new(&log, Some(&session.store), table);
            as_of_tables.push(Arc::new(provider.live(&session)));
        }
        for (name, schema) in tables {
            let table = LiveTable::new(name, Arc::clone(schema), Arc::clone(&session));
            if changelog::is_changelog(schema) {
                catalogue.add(&changelog::changes_name(name), None, Arc::new(table.clone()));
                as_of_tables.push(Arc::new(LiveCurrentState::new(Arc::new(table))));
            } else {
                as_of_tables.push(Arc::new(table));
            }
        }
        for table in timelines {
            let table = Arc::new(TimelineProvider::new(table, Arc::clone(&session)));
            catalogue.timelines.insert(table.name().to_owned(), Arc::clone(&table));
            as_of_tables.push(table);
        }
        for table in &as_of_tables {
            catalogue.add(table.name(), None, Arc::clone(table) as Arc<dyn TableProvider>);
        }
        let end = VisibleEnd::Live(Arc::clone(&session));
        catalogue.add_graphs(graphs, LogSource { log, archive: Some(session.store.clone()), end });
        catalogue.add(FRONTIER, Some(1), Arc::new(FrontierTable(session)));
        catalogue.context.register_udtf(AS_OF, Arc::new(AsOfFunction { tables: as_of_tables }));
        Ok(catalogue)
    }

    fn empty(runtime: Arc<RuntimeEnv>, live: Option<&Arc<LiveSession>>) -> Catalogue {
        Catalogue {
            context: new_session(runtime),
            tables: BTreeMap::new(),
            columns: TableColumns::new(),
            committed: None,
            live: live.map(Arc::clone),
            schemas: BTreeMap::new(),
            timelines: Timelines::new(),
            graphs: Vec::new(),
        }
    }

    /// The DataFusion session that holds the tables, for adapters that plan statements themselves.
    pub fn context(&self) -> &SessionContext {
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
    /// The rows are computed while the stream is polled, on the Tokio runtime of the reader;
    /// [`crate::write()`] polls it.
    ///
    /// # Errors
    /// When the text is not exactly one such statement, or names something that does not exist.
    pub async fn query(&self, sql: &str) -> Result<SendableRecordBatchStream, QueryError> {
        self.answer(sql).await.map(|answer| answer.rows)
    }

    /// Answers one statement as [`Catalogue::query`] does, with the tick that the rows are as of.
    ///
    /// # Errors
    /// Those of [`Catalogue::query`].
    pub async fn answer(&self, sql: &str) -> Result<Answer, QueryError> {
        let mut statements = parse(sql)?;
        let count = statements.len();
        let Some(mut statement) = statements.pop_front().filter(|_| count == 1) else {
            return Err(QueryError::NotOne { count });
        };
        self.prepare(&mut statement)?;
        if let Some((before, lookup)) = self.point_lookup(&statement) {
            return Ok(Answer { tick: Some(before), rows: lookup.rows(before)? });
        }
        let state = self.context.state();
        let plan = self.plan_prepared(&state, statement).await?;
        let tick = self.live.as_ref().map(|live| live.tick_of(&state));
        let frame = DataFrame::new(state, plan);
        let rows = frame.execute_stream().await.map_err(|error| QueryError::of_plan(&error))?;
        Ok(Answer { tick, rows: explain_errors(rows, self.committed.clone()) })
    }

    /// Answers a statement that looks up one key and finds few rows.
    ///
    /// This takes less time than waking another thread. `None` for every other statement, and for
    /// every error: [`Catalogue::answer`] handles these.
    pub(crate) fn answer_lookup(&self, sql: &str) -> Option<Answer> {
        if self.timelines.is_empty() || !PointLookup::is_candidate(sql) {
            return None;
        }
        let mut statements = parse(sql).ok()?;
        let mut statement = statements.pop_front().filter(|_| statements.is_empty())?;
        self.prepare(&mut statement).ok()?;
        let (before, lookup) = self.point_lookup(&statement)?;
        Some(Answer { tick: Some(before), rows: lookup.few_rows(before)? })
    }

    /// The look-up of a prepared statement, and the tick that it is as of.
    fn point_lookup(&self, statement: &Statement) -> Option<(Tick, PointLookup)> {
        let session = self.live.as_ref()?;
        let lookup = PointLookup::of(statement, &self.timelines)?;
        Some((session.live.complete(), lookup))
    }

    /// Plans a parsed statement that only reads.
    ///
    /// # Errors
    /// Those of [`Catalogue::query`].
    pub async fn plan(
        &self,
        state: &SessionState,
        mut statement: Statement,
    ) -> Result<LogicalPlan, QueryError> {
        self.prepare(&mut statement)?;
        self.plan_prepared(state, statement).await
    }

    /// Checks that a statement only reads and is within limits, and resolves its names.
    fn prepare(&self, statement: &mut Statement) -> Result<(), QueryError> {
        if !only_reads(statement) {
            return Err(QueryError::ReadOnly { statement: first_word(statement) });
        }
        if is_show_tables(statement) {
            *statement = parse(LIST_TABLES)?.pop_front().expect("it is one statement");
        }
        graph_functions::expand(statement, &self.graphs)?;
        statement_limits::check_statement(statement)?;
        name_resolution::resolve(statement, &self.columns).map_err(|table| {
            let tables: Vec<&str> = self.tables.keys().map(String::as_str).collect();
            QueryError::UnknownTable { choices: did_you_mean(&table, &tables), table }
        })
    }

    async fn plan_prepared(
        &self,
        state: &SessionState,
        statement: Statement,
    ) -> Result<LogicalPlan, QueryError> {
        let first_word = first_word(&statement);
        let plan = state.statement_to_plan(statement).await;
        let plan = plan.map_err(|error| QueryError::of_plan(&error))?;
        statement_limits::check_plan(&plan)?;
        // A query can still write, as SELECT INTO does.
        let options =
            SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
        options.verify_plan(&plan).map_err(|_| QueryError::ReadOnly { statement: first_word })?;
        Ok(plan)
    }

    /// Registers the store with DataFusion, which reads committed files itself.
    fn register_store(&self, store: &Store) -> Result<(), QueryError> {
        let objects = store.objects().ok_or_else(|| QueryError::NoObjects { store: store.url().clone() })?;
        let url = ObjectStoreUrl::parse(STORE_URL).expect("it is a URL");
        self.context.register_object_store(url.as_ref(), objects);
        Ok(())
    }

    fn add_store(&mut self, store: &Store, log: &Arc<dyn LogReader>) -> Result<(), QueryError> {
        self.register_store(store)?;
        let commits = Commits::read(store)?;
        for name in commits.tables() {
            let files: Vec<&TableFile> = commits.files_of(&name).collect();
            let table = CommittedTable::open(&name, &files, store)?;
            self.add_committed(&name, table.rows(), Arc::new(table));
        }
        for (name, schema) in table_catalog::read_declared(store)? {
            if !self.tables.contains_key(&name) {
                self.add_committed(&name, 0, Arc::new(EmptyTable::new(schema)));
            }
        }
        let graphs = graph_catalog::read_declared(store)?;
        let end = VisibleEnd::Commits(Arc::new(commits.clone()));
        self.add_graphs(graphs, LogSource { log: Arc::clone(log), archive: Some(store.clone()), end });
        self.committed = Some(Arc::new(CommittedFiles::new(store.clone(), commits)));
        Ok(())
    }

    fn add_graphs(&mut self, graphs: Vec<Graph>, source: LogSource) {
        let function = GraphVersionFunction { graphs: graphs.clone(), source };
        self.context.register_udtf(GRAPH_VERSION, Arc::new(function));
        self.graphs = graphs;
    }

    /// Adds a committed table; a changelog also as the table of its current rows.
    fn add_committed(&mut self, name: &str, rows: u64, table: Arc<dyn TableProvider>) {
        if changelog::is_changelog(&table.schema()) {
            self.add(name, None, Arc::new(changelog::current_state(name, Arc::clone(&table))));
            self.add(&changelog::changes_name(name), Some(rows), table);
        } else {
            self.add(name, Some(rows), table);
        }
    }

    fn add(&mut self, name: &str, rows: Option<u64>, table: Arc<dyn TableProvider>) {
        let columns = table.schema().fields().iter().map(|field| field.name().clone()).collect();
        self.columns.insert(name.to_owned(), columns);
        self.tables.insert(name.to_owned(), rows);
        self.schemas.insert(name.to_owned(), table.schema());
        let registered = self.context.register_table(TableReference::bare(name), table);
        registered.expect("tables in memory can be registered");
    }
}

fn parse(sql: &str) -> Result<VecDeque<Statement>, QueryError> {
    statement_limits::check_text(sql)?;
    DFParser::parse_sql(sql).map_err(|error| QueryError::Syntax { what: sentence(&error) })
}

/// The first word of a statement; the rest is not formatted.
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
    let _ = write!(word, "{statement}"); // Formatting fails at the end of the word.
    word.0
}

fn is_show_tables(statement: &Statement) -> bool {
    let Statement::Statement(inner) = statement else { return false };
    matches!(**inner, SqlStatement::ShowTables { .. }) && statement.to_string() == SHOW_TABLES
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
