//! The catalogue over the Postgres wire protocol, for psql, drivers and notebooks; read-only.
//!
//! Protocol, types and the catalogue tables that clients look at (`pg_catalog`) are `datafusion-postgres`'s. What is ours is
//! who may come in, that nothing but reading is planned, how long a statement may take and how many rows it may give, that it
//! can be stopped while it gives them, and how much of a message is read ([`connection`]).

mod connection;
mod dialect;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::future::pending;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use datafusion::common::{DFSchema, DFSchemaRef, DataFusionError, ParamValues};
use datafusion::logical_expr::{EmptyRelation, LogicalPlan, Projection};
use datafusion::prelude::{DataFrame, SessionContext};
use datafusion::sql::parser::Statement as AnyStatement;
use datafusion::sql::sqlparser::ast::{CloseCursor, Declare, DeclareType, FetchDirection, Query, Statement};
use datafusion_postgres::arrow_pg::datatypes::df::encode_dataframe;
use datafusion_postgres::datafusion_pg_catalog::pg_catalog::context::EmptyContextProvider;
use datafusion_postgres::datafusion_pg_catalog::pg_catalog::setup_pg_catalog;
use datafusion_postgres::hooks::cursor::CursorStatementHook;
use datafusion_postgres::hooks::set_show::SetShowHook;
use datafusion_postgres::hooks::transactions::TransactionStatementHook;
use datafusion_postgres::hooks::{HookClient, QueryHook};
use datafusion_postgres::pgwire::api::auth::cleartext::CleartextPasswordAuthStartupHandler;
use datafusion_postgres::pgwire::api::auth::noop::NoopStartupHandler;
use datafusion_postgres::pgwire::api::auth::{
    AuthSource, DefaultServerParameterProvider, LoginInfo, Password, StartupHandler,
};
use datafusion_postgres::pgwire::api::cancel::DefaultCancelHandler;
use datafusion_postgres::pgwire::api::portal::{Format, Portal, PortalExecutionState};
use datafusion_postgres::pgwire::api::query::{ExtendedQueryHandler, SimpleQueryHandler};
use datafusion_postgres::pgwire::api::results::{FieldInfo, Response, Tag};
use datafusion_postgres::pgwire::api::stmt::{QueryParser, StoredStatement};
use datafusion_postgres::pgwire::api::store::{Entry, PortalStore};
use datafusion_postgres::pgwire::api::{
    ClientInfo, ClientPortalStore, ConnectionHandle, ConnectionManager, DEFAULT_NAME, Type,
};
use datafusion_postgres::pgwire::error::{ErrorInfo, PgWireError, PgWireResult};
use datafusion_postgres::pgwire::messages::extendedquery::Execute;
use datafusion_postgres::pgwire::messages::startup::{Password as PasswordMessage, PasswordMessageFamily};
use datafusion_postgres::pgwire::messages::{PgWireBackendMessage, PgWireFrontendMessage};
use datafusion_postgres::pgwire::types::format::FormatOptions;
use datafusion_postgres::{DfSessionService, Parser};
use futures::future::Shared;
use futures::{FutureExt, Sink, SinkExt, Stream, StreamExt, stream};
use tidegate_facts::Digest;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout_at};

use crate::access::{Keys, Role};
use crate::http::told_to_stop;
use crate::telemetry::{self, End, Port, Telemetry};
use crate::{Catalogue, QueryError, bounds};

/// How many connections may be open.
const CONNECTIONS_MAX: usize = 256;

/// How long a statement may take, and how many rows it may give.
const STATEMENT_WITHIN: Duration = Duration::from_secs(300);
const ROWS_MAX: u64 = 10_000_000;

/// How many rows a client may fetch at once, and how many are put together for one that wants them all.
const FETCH_ROWS_MAX: usize = 10_000;
const FETCH_ROWS: usize = 256;

/// Serves until `stop` turns true.
///
/// # Errors
/// When the tables that clients look at cannot be set up.
pub async fn serve(
    catalogue: Arc<Catalogue>,
    keys: Keys,
    telemetry: Arc<Telemetry>,
    listener: TcpListener,
    mut stop: watch::Receiver<bool>,
) -> Result<(), QueryError> {
    let handlers = Arc::new(Handlers::new(&catalogue, keys, &telemetry)?);
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "a Postgres connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
            () = told_to_stop(&mut stop) => return Ok(()),
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
        let _ = stream.set_nodelay(true);
        let (handlers, mut stop) = (Arc::clone(&handlers), stop.clone());
        let open = telemetry.connections[Port::Postgres as usize].enter();
        tokio::spawn(async move {
            if let Ok(peer) = stream.peer_addr() {
                tokio::select! {
                    () = handlers.serve_one(stream, peer) => {}
                    () = told_to_stop(&mut stop) => {}
                }
            }
            drop((place, open));
        });
    }
}

/// What serves the clients of a catalogue.
pub struct Handlers {
    queries: Arc<Bounded>,
    cancel: Arc<DefaultCancelHandler>,
    startup: Arc<Startup>,
}

impl Handlers {
    /// For who holds one of `keys`; with none, for whoever can connect.
    ///
    /// # Errors
    /// When the tables that clients look at cannot be set up.
    pub fn new(
        catalogue: &Arc<Catalogue>,
        keys: Keys,
        telemetry: &Arc<Telemetry>,
    ) -> Result<Handlers, QueryError> {
        let context = catalogue.context();
        setup_pg_catalog(context, crate::catalogue::CATALOGUE, EmptyContextProvider)
            .map_err(|error| QueryError::of_plan(&error))?;
        dialect::add(context);
        let hooks: Vec<Arc<dyn QueryHook>> = vec![
            Arc::new(Cursors { catalogue: Arc::clone(catalogue) }),
            Arc::new(SetShowHook),
            Arc::new(TransactionStatementHook),
            Arc::new(Reads { catalogue: Arc::clone(catalogue) }),
        ];
        let service = DfSessionService::new_with_hooks(Arc::new(context.clone()), hooks);
        let connections = Arc::new(ConnectionManager::new());
        let startup = if keys.is_empty() {
            Startup::Open(Open { connections: Arc::clone(&connections) })
        } else {
            let mut parameters = DefaultServerParameterProvider::default();
            parameters.is_superuser = false;
            parameters.default_transaction_read_only = true;
            let startup = CleartextPasswordAuthStartupHandler::new(Known { keys }, parameters);
            Startup::Keyed(Box::new(startup.with_connection_manager(Arc::clone(&connections))))
        };
        Ok(Handlers {
            queries: Arc::new(Bounded {
                parser: Arc::new(Bound(service.query_parser())),
                inner: service,
                telemetry: Arc::clone(telemetry),
            }),
            cancel: Arc::new(DefaultCancelHandler::new(connections)),
            startup: Arc::new(startup),
        })
    }

    /// Serves one client over any stream, until it leaves or is sent away.
    pub async fn serve_one<S>(&self, stream: S, peer: SocketAddr)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + Sync + 'static,
    {
        connection::serve(stream, peer, self).await;
    }
}

/// Who may come in: anybody of this machine, or who has a key with its id as user.
enum Startup {
    Open(Open),
    Keyed(Box<CleartextPasswordAuthStartupHandler<Known, DefaultServerParameterProvider>>),
}

struct Open {
    connections: Arc<ConnectionManager>,
}

#[async_trait]
impl NoopStartupHandler for Open {
    fn connection_manager(&self) -> Option<Arc<ConnectionManager>> {
        Some(Arc::clone(&self.connections))
    }
}

#[async_trait]
impl StartupHandler for Startup {
    async fn on_startup<C>(&self, client: &mut C, message: PgWireFrontendMessage) -> PgWireResult<()>
    where
        C: ClientInfo + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        match (self, message) {
            (Startup::Open(open), message) => open.on_startup(client, message).await,
            (Startup::Keyed(keyed), PgWireFrontendMessage::PasswordMessageFamily(password)) => {
                // Only digests of keys are known, so what was sent is compared by its digest.
                let digest = Digest::of(password.into_password()?.password.as_bytes()).to_hex();
                let digest = PasswordMessageFamily::Password(PasswordMessage::new(digest));
                keyed.on_startup(client, PgWireFrontendMessage::PasswordMessageFamily(digest)).await
            }
            (Startup::Keyed(keyed), message) => keyed.on_startup(client, message).await,
        }
    }
}

#[derive(Debug)]
struct Known {
    keys: Keys,
}

#[async_trait]
impl AuthSource for Known {
    async fn get_password(&self, login: &LoginInfo) -> PgWireResult<Password> {
        let user = login.user().unwrap_or_default();
        match self.keys.digest_of(user, Role::Reader) {
            Some(digest) => Ok(Password::new(None, digest.to_hex().into_bytes())),
            None => Err(PgWireError::InvalidPassword(user.to_owned())),
        }
    }
}

/// Cursors, over what only reads.
///
/// The hook of `datafusion-postgres` plans whatever stands behind `FOR`, knows no parameters there, and tells a client that
/// prepares a `FETCH` that it gives no columns; so cursors are opened here, and only read by that hook.
struct Cursors {
    catalogue: Arc<Catalogue>,
}

/// How many cursors a client may have open.
const CURSORS_MAX: usize = 64;

/// The cursors of one client, and the columns of each.
#[derive(Default)]
struct Opened(Mutex<BTreeMap<String, DFSchemaRef>>);

impl Opened {
    fn of(client: &(impl ClientInfo + ?Sized)) -> Arc<Opened> {
        client.session_extensions().get_or_insert_with(Opened::default)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, DFSchemaRef>> {
        self.0.lock().expect("no panic")
    }
}

/// The name of a cursor and its query, of `DECLARE name CURSOR FOR query`.
fn declared(statements: &[Declare]) -> PgWireResult<(&str, &Query)> {
    match statements {
        [Declare { names, declare_type: Some(DeclareType::Cursor), for_query: Some(query), .. }] => {
            Ok((names.first().map_or("", |name| &name.value), query))
        }
        _ => Err(failed("42601", "write DECLARE name CURSOR FOR SELECT ..".to_owned())),
    }
}

impl Cursors {
    async fn plan(&self, query: &Query, context: &SessionContext) -> PgWireResult<LogicalPlan> {
        let query = AnyStatement::Statement(Box::new(Statement::Query(Box::new(query.clone()))));
        self.catalogue.plan(&context.state(), query).await.map_err(refused)
    }

    async fn open(
        &self,
        (name, query): (&str, &Query),
        plan: LogicalPlan,
        context: &SessionContext,
        client: &dyn HookClient,
    ) -> PgWireResult<Response> {
        let opened = Opened::of(client);
        if opened.lock().len() >= CURSORS_MAX && !opened.lock().contains_key(name) {
            let what = format!("{CURSORS_MAX} cursors are open; close some first");
            return Err(failed("54000", what));
        }
        let columns = Arc::clone(plan.schema());
        let options = Arc::new(FormatOptions::from_client_metadata(client.metadata()));
        let frame = DataFrame::new(context.state(), plan.clone());
        let rows = encode_dataframe(frame, &Format::UnifiedText, Some(options)).await?;
        // Described by its plan to who asks what it gives.
        let statement = Statement::Query(Box::new(query.clone()));
        let statement = (query.to_string(), Some((statement, plan)));
        let statement = StoredStatement::new(name.to_owned(), statement, Vec::new());
        let portal = Portal::new_cursor(name.to_owned(), Arc::new(statement));
        portal.start(rows).await;
        client.portal_store().put_portal(Arc::new(portal));
        opened.lock().insert(name.to_owned(), columns);
        Ok(Response::Execution(Tag::new("DECLARE CURSOR")))
    }

    /// Whether a statement on a cursor may be taken, and what is known of its cursor then.
    fn check(statement: &Statement, client: &(impl ClientInfo + ?Sized)) -> PgWireResult<()> {
        let opened = Opened::of(client);
        match statement {
            Statement::Close { cursor: CloseCursor::All } => opened.lock().clear(),
            Statement::Close { cursor: CloseCursor::Specific { name } } => {
                opened.lock().remove(&name.value);
            }
            // Rows of a cursor are put into memory before they are sent.
            Statement::Fetch { direction, .. } => bound_fetch(direction)?,
            _ => {}
        }
        Ok(())
    }
}

/// Refuses to fetch more rows at once than are put into memory.
fn bound_fetch(direction: &FetchDirection) -> PgWireResult<()> {
    let count = match direction {
        FetchDirection::Count { limit } | FetchDirection::Forward { limit: Some(limit) } => limit.to_string(),
        FetchDirection::All | FetchDirection::ForwardAll => "ALL".to_owned(),
        _ => return Ok(()),
    };
    match count.parse::<usize>() {
        Ok(count) if count <= FETCH_ROWS_MAX => Ok(()),
        _ => Err(failed(
            "54000",
            format!("FETCH {count} is too many; fetch at most {FETCH_ROWS_MAX} rows at once"),
        )),
    }
}

#[async_trait]
impl QueryHook for Cursors {
    async fn handle_simple_query(
        &self,
        statement: &Statement,
        context: &SessionContext,
        client: &mut dyn HookClient,
    ) -> Option<PgWireResult<Response>> {
        if let Statement::Declare { stmts } = statement {
            let opened = async {
                let (name, query) = declared(stmts)?;
                let plan = self.plan(query, context).await?;
                self.open((name, query), plan, context, client).await
            };
            return Some(opened.await);
        }
        if let Err(error) = Cursors::check(statement, client) {
            return Some(Err(error));
        }
        CursorStatementHook.handle_simple_query(statement, context, client).await
    }

    async fn handle_extended_parse_query(
        &self,
        statement: &Statement,
        context: &SessionContext,
        client: &(dyn ClientInfo + Send + Sync),
    ) -> Option<PgWireResult<LogicalPlan>> {
        match statement {
            // No columns, and the parameters of the query.
            Statement::Declare { stmts } => {
                let planned = async {
                    let plan = self.plan(declared(stmts)?.1, context).await?;
                    let nothing = Projection::try_new(Vec::new(), Arc::new(plan));
                    nothing.map(LogicalPlan::Projection).map_err(|error| refused(QueryError::of_plan(&error)))
                };
                Some(planned.await)
            }
            Statement::Fetch { name, .. } => {
                let schema = Opened::of(client).lock().get(&name.value).cloned();
                let schema = schema.unwrap_or_else(|| Arc::new(DFSchema::empty()));
                Some(Ok(LogicalPlan::EmptyRelation(EmptyRelation { produce_one_row: false, schema })))
            }
            _ => CursorStatementHook.handle_extended_parse_query(statement, context, client).await,
        }
    }

    async fn handle_extended_query(
        &self,
        statement: &Statement,
        plan: &LogicalPlan,
        parameters: &ParamValues,
        context: &SessionContext,
        client: &mut dyn HookClient,
    ) -> Option<PgWireResult<Response>> {
        if let Statement::Declare { stmts } = statement {
            let opened = async {
                let (name, query) = declared(stmts)?;
                let plan = plan.inputs().first().map(|plan| (*plan).clone()).expect("it was put there");
                let plan = plan.replace_params_with_values(parameters);
                let plan = plan.map_err(|error| refused(QueryError::of_plan(&error)))?;
                self.open((name, query), plan, context, client).await
            };
            return Some(opened.await);
        }
        if let Err(error) = Cursors::check(statement, client) {
            return Some(Err(error));
        }
        CursorStatementHook.handle_extended_query(statement, plan, parameters, context, client).await
    }
}

/// Plans what only reads, and refuses the rest.
struct Reads {
    catalogue: Arc<Catalogue>,
}

impl Reads {
    async fn plan(&self, statement: &Statement, context: &SessionContext) -> PgWireResult<DataFrame> {
        let state = context.state();
        let statement = AnyStatement::Statement(Box::new(statement.clone()));
        let plan = self.catalogue.plan(&state, statement).await.map_err(refused)?;
        Ok(DataFrame::new(state, plan))
    }
}

/// The error with the SQL state that tells a client what it is.
fn refused(error: QueryError) -> PgWireError {
    let state = match &error {
        QueryError::ReadOnly { .. } => "25006",
        QueryError::UnknownTable { .. } => "42P01",
        QueryError::UnknownColumn { .. } => "42703",
        QueryError::TooLarge { .. } => "54000",
        QueryError::Memory { .. } => "53200",
        _ => "42601",
    };
    failed(state, error.to_string())
}

fn failed(state: &str, what: String) -> PgWireError {
    PgWireError::UserError(Box::new(ErrorInfo::new("ERROR".to_owned(), state.to_owned(), what)))
}

#[async_trait]
impl QueryHook for Reads {
    async fn handle_simple_query(
        &self,
        statement: &Statement,
        context: &SessionContext,
        client: &mut dyn HookClient,
    ) -> Option<PgWireResult<Response>> {
        let frame = match self.plan(statement, context).await {
            Ok(frame) => frame,
            Err(error) => return Some(Err(error)),
        };
        let options = Arc::new(FormatOptions::from_client_metadata(client.metadata()));
        Some(encode_dataframe(frame, &Format::UnifiedText, Some(options)).await.map(Response::Query))
    }

    async fn handle_extended_parse_query(
        &self,
        statement: &Statement,
        context: &SessionContext,
        _: &(dyn ClientInfo + Send + Sync),
    ) -> Option<PgWireResult<LogicalPlan>> {
        Some(self.plan(statement, context).await.map(|frame| frame.logical_plan().clone()))
    }

    async fn handle_extended_query(
        &self,
        _: &Statement,
        _: &LogicalPlan,
        _: &ParamValues,
        _: &SessionContext,
        _: &mut dyn HookClient,
    ) -> Option<PgWireResult<Response>> {
        None // The plan is one that reads; how it is run needs no hand of ours.
    }
}

/// Statements bounded in time and rows, and counted.
struct Bounded {
    inner: DfSessionService,
    parser: Arc<Bound<Parser>>,
    telemetry: Arc<Telemetry>,
}

/// Parses what is not too large.
struct Bound<P>(Arc<P>);

#[async_trait]
impl<P: QueryParser + Send + Sync> QueryParser for Bound<P> {
    type Statement = P::Statement;

    async fn parse_sql<C>(
        &self,
        client: &C,
        sql: &str,
        types: &[Option<Type>],
    ) -> PgWireResult<Option<Self::Statement>>
    where
        C: ClientInfo + Unpin + Send + Sync,
    {
        bounds::text(sql).map_err(refused)?;
        caught(self.0.parse_sql(client, sql, types)).await
    }

    fn get_parameter_types(&self, statement: &Self::Statement) -> PgWireResult<Vec<Type>> {
        self.0.get_parameter_types(statement)
    }

    fn get_result_schema(
        &self,
        statement: &Self::Statement,
        format: Option<&Format>,
    ) -> PgWireResult<Vec<FieldInfo>> {
        self.0.get_result_schema(statement, format)
    }
}

/// The answer, or an error if making it panics: the client hears of it, and goes on.
async fn caught<T>(answer: impl Future<Output = PgWireResult<T>>) -> PgWireResult<T> {
    let answer = AssertUnwindSafe(answer).catch_unwind().await;
    answer.unwrap_or_else(|_| Err(refused(QueryError::Broken)))
}

/// Fires when the client asks to stop its statement.
type Cancelled = Shared<Pin<Box<dyn Future<Output = ()> + Send>>>;

impl Bounded {
    fn bound(
        response: Response,
        until: Instant,
        cancelled: Cancelled,
        statement: telemetry::Statement,
    ) -> Response {
        match response {
            Response::Query(mut answer) => {
                let rows = std::mem::replace(answer.data_rows(), Box::pin(stream::empty()));
                *answer.data_rows() = Box::pin(bounded(rows, until, cancelled, statement));
                Response::Query(answer)
            }
            other => {
                statement.end(End::Answered);
                other
            }
        }
    }
}

/// `pgwire` listens for a cancel until a statement is planned; its rows are made later.
async fn cancelled<C: ClientInfo>(client: &C) -> Cancelled {
    let asked: Pin<Box<dyn Future<Output = ()> + Send>> =
        match client.session_extensions().get::<Arc<ConnectionHandle>>() {
            Some(handle) => {
                let asked = handle.start_query().await;
                // When the next statement begins this one can be cancelled no longer.
                Box::pin(async move {
                    if asked.await.is_err() {
                        pending().await
                    }
                })
            }
            None => Box::pin(pending()),
        };
    asked.shared()
}

/// What was answered in time. A failure ends the statement.
fn in_time<T>(
    answered: Result<PgWireResult<T>, Elapsed>,
    statement: telemetry::Statement,
) -> PgWireResult<(T, telemetry::Statement)> {
    let failure = match answered {
        Ok(Ok(answer)) => return Ok((answer, statement)),
        Ok(Err(error)) => said(error),
        Err(_) => too_long(),
    };
    statement.end(End::Failed);
    Err(failure)
}

fn bounded<T: Send + 'static>(
    rows: impl Stream<Item = PgWireResult<T>> + Send + Unpin + 'static,
    until: Instant,
    cancelled: Cancelled,
    statement: telemetry::Statement,
) -> impl Stream<Item = PgWireResult<T>> + Send {
    stream::unfold(Some((rows, 0, cancelled, statement)), move |rows| async move {
        let (mut rows, count, cancelled, statement) = rows?;
        let next = caught(async {
            tokio::select! {
                biased;
                () = cancelled.clone() => Err(PgWireError::QueryCanceled),
                next = timeout_at(until, rows.next()) => next.map_err(|_| too_long())?.transpose(),
            }
        });
        let failure = match next.await {
            Ok(None) => {
                statement.end(End::Answered);
                return None;
            }
            Ok(Some(_)) if count == ROWS_MAX => {
                let what = format!(
                    "the statement gives more than {ROWS_MAX} rows; ask for fewer, or write them with `tidegate sql --format parquet`"
                );
                failed("54000", what)
            }
            Ok(Some(row)) => return Some((Ok(row), Some((rows, count + 1, cancelled, statement)))),
            Err(error) => said(error),
        };
        statement.end(End::Failed);
        Some((Err(failure), None))
    })
}

/// An error of DataFusion in our words.
fn said(error: PgWireError) -> PgWireError {
    match error {
        PgWireError::ApiError(cause) => match cause.downcast::<DataFusionError>() {
            Ok(error) => refused(QueryError::of_run(&error)),
            Err(cause) => PgWireError::ApiError(cause),
        },
        other => other,
    }
}

fn too_long() -> PgWireError {
    failed(
        "57014",
        format!("the statement took longer than {} s, and was stopped", STATEMENT_WITHIN.as_secs()),
    )
}

#[async_trait]
impl SimpleQueryHandler for Bounded {
    async fn do_query<C>(&self, client: &mut C, query: &str) -> PgWireResult<Vec<Response>>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        bounds::text(query).map_err(refused)?;
        let until = Instant::now() + STATEMENT_WITHIN;
        let statement = self.telemetry.statement(Port::Postgres, query);
        let asked = caught(SimpleQueryHandler::do_query(&self.inner, client, query));
        let (responses, statement) = in_time(timeout_at(until, asked).await, statement)?;
        let cancelled = cancelled(client).await;
        // Several statements may come in one text.
        let mut first = Some(statement);
        let mut next = || first.take().unwrap_or_else(|| self.telemetry.statement(Port::Postgres, query));
        let responses = responses.into_iter();
        Ok(responses.map(|response| Bounded::bound(response, until, cancelled.clone(), next())).collect())
    }
}

#[async_trait]
impl ExtendedQueryHandler for Bounded {
    type Statement = <DfSessionService as ExtendedQueryHandler>::Statement;
    type QueryParser = Bound<Parser>;

    fn query_parser(&self) -> Arc<Bound<Parser>> {
        Arc::clone(&self.parser)
    }

    /// Rows are sent as they are made. `pgwire` would put into memory as many as the client says that it wants, before the first is
    /// made.
    async fn on_execute<C>(&self, client: &mut C, mut message: Execute) -> PgWireResult<()>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Self::Statement>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let name = message.name.as_deref().unwrap_or(DEFAULT_NAME);
        let Some(Entry::Value(portal)) = client.portal_store().get_portal(name) else {
            return self._on_execute(client, message).await;
        };
        let is_read = matches!(&portal.statement.statement.1, Some((Statement::Query(_), _)));
        let wanted = usize::try_from(message.max_rows).unwrap_or(0);
        if !is_read || wanted > 0 {
            message.max_rows = wanted.min(FETCH_ROWS_MAX) as i32;
            return self._on_execute(client, message).await;
        }
        // A first piece starts the statement, and tells in its end whether there is more.
        let state = portal.state();
        let is_new = matches!(*state.lock().await, PortalExecutionState::Initial);
        if is_new {
            let response = ExtendedQueryHandler::do_query(self, client, &portal, 0).await?;
            if let Response::Query(answer) = response {
                portal.start(answer).await;
            }
        }
        let mut count = 0;
        loop {
            let piece = portal.fetch(FETCH_ROWS).await?;
            let mut answer = piece.response;
            while let Some(row) = answer.data_rows().next().await {
                client.feed(PgWireBackendMessage::DataRow(row?)).await?;
                count += 1;
            }
            if !piece.suspended {
                let tag = Tag::new("SELECT").with_rows(count);
                client.send(PgWireBackendMessage::CommandComplete(tag.into())).await?;
                return Ok(());
            }
        }
    }

    async fn do_query<C>(
        &self,
        client: &mut C,
        portal: &Portal<Self::Statement>,
        max_rows: usize,
    ) -> PgWireResult<Response>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Self::Statement>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let until = Instant::now() + STATEMENT_WITHIN;
        let statement = self.telemetry.statement(Port::Postgres, &portal.statement.statement.0);
        let asked = caught(ExtendedQueryHandler::do_query(&self.inner, client, portal, max_rows));
        let (response, statement) = in_time(timeout_at(until, asked).await, statement)?;
        let cancelled = cancelled(client).await;
        Ok(Bounded::bound(response, until, cancelled, statement))
    }
}
