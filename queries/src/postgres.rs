//! The catalogue over the Postgres wire protocol, for psql, drivers and notebooks; read-only.
//!
//! Protocol, types and the catalogue tables that clients look at (`pg_catalog`) are `datafusion-postgres`'s. What is ours is
//! who may come in, that nothing but reading is planned, and how long a statement may take and how many rows it may give.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use datafusion::common::ParamValues;
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::{DataFrame, SessionContext};
use datafusion::sql::parser::Statement as AnyStatement;
use datafusion::sql::sqlparser::ast::Statement;
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
use datafusion_postgres::pgwire::api::cancel::{CancelHandler, DefaultCancelHandler};
use datafusion_postgres::pgwire::api::portal::{Format, Portal};
use datafusion_postgres::pgwire::api::query::{ExtendedQueryHandler, SimpleQueryHandler};
use datafusion_postgres::pgwire::api::results::Response;
use datafusion_postgres::pgwire::api::store::PortalStore;
use datafusion_postgres::pgwire::api::{
    ClientInfo, ClientPortalStore, ConnectionManager, ErrorHandler, PgWireServerHandlers,
};
use datafusion_postgres::pgwire::error::{ErrorInfo, PgWireError, PgWireResult};
use datafusion_postgres::pgwire::messages::startup::{Password as PasswordMessage, PasswordMessageFamily};
use datafusion_postgres::pgwire::messages::{PgWireBackendMessage, PgWireFrontendMessage};
use datafusion_postgres::pgwire::tokio::process_socket;
use datafusion_postgres::pgwire::types::format::FormatOptions;
use datafusion_postgres::{DfSessionService, Parser};
use futures::{Sink, Stream, StreamExt, stream};
use tidegate_facts::Digest;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout_at};

use crate::access::{Keys, Role};
use crate::http::told_to_stop;
use crate::telemetry::{self, End, Port, Telemetry};
use crate::{Catalogue, QueryError};

/// How many connections may be open.
const CONNECTIONS_MAX: usize = 256;

/// How long a statement may take, and how many rows it may give.
const STATEMENT_WITHIN: Duration = Duration::from_secs(300);
const ROWS_MAX: u64 = 10_000_000;

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
            tokio::select! {
                served = process_socket(stream, None, handlers) => {
                    if let Err(error) = served {
                        tracing::debug!(%error, "a Postgres connection broke off");
                    }
                }
                () = told_to_stop(&mut stop) => {}
            }
            drop((place, open));
        });
    }
}

struct Handlers {
    queries: Arc<Bounded>,
    cancel: Arc<DefaultCancelHandler>,
    startup: Arc<Startup>,
}

impl Handlers {
    fn new(
        catalogue: &Arc<Catalogue>,
        keys: Keys,
        telemetry: &Arc<Telemetry>,
    ) -> Result<Handlers, QueryError> {
        let context = catalogue.context();
        setup_pg_catalog(context, crate::catalogue::CATALOGUE, EmptyContextProvider)
            .map_err(|error| QueryError::of_plan(&error))?;
        let hooks: Vec<Arc<dyn QueryHook>> = vec![
            Arc::new(CursorStatementHook),
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
            queries: Arc::new(Bounded { service, telemetry: Arc::clone(telemetry) }),
            cancel: Arc::new(DefaultCancelHandler::new(connections)),
            startup: Arc::new(startup),
        })
    }
}

impl PgWireServerHandlers for Handlers {
    fn simple_query_handler(&self) -> Arc<impl SimpleQueryHandler> {
        Arc::clone(&self.queries)
    }

    fn extended_query_handler(&self) -> Arc<impl ExtendedQueryHandler> {
        Arc::clone(&self.queries)
    }

    fn startup_handler(&self) -> Arc<impl StartupHandler> {
        Arc::clone(&self.startup)
    }

    fn error_handler(&self) -> Arc<impl ErrorHandler> {
        Arc::new(Logged)
    }

    fn cancel_handler(&self) -> Arc<impl CancelHandler> {
        Arc::clone(&self.cancel)
    }
}

struct Logged;

impl ErrorHandler for Logged {
    fn on_error<C: ClientInfo>(&self, _: &C, error: &mut PgWireError) {
        tracing::debug!(%error, "a Postgres client was told of an error");
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
    service: DfSessionService,
    telemetry: Arc<Telemetry>,
}

impl Bounded {
    fn bound(response: Response, until: Instant, statement: telemetry::Statement) -> Response {
        match response {
            Response::Query(mut answer) => {
                let rows = std::mem::replace(answer.data_rows(), Box::pin(stream::empty()));
                *answer.data_rows() = Box::pin(bounded(rows, until, statement));
                Response::Query(answer)
            }
            other => {
                statement.end(End::Answered);
                other
            }
        }
    }
}

fn bounded<T: Send + 'static>(
    rows: impl Stream<Item = PgWireResult<T>> + Send + Unpin + 'static,
    until: Instant,
    statement: telemetry::Statement,
) -> impl Stream<Item = PgWireResult<T>> + Send {
    stream::unfold(Some((rows, 0, statement)), move |rows| async move {
        let (mut rows, count, statement) = rows?;
        let failure = match timeout_at(until, rows.next()).await {
            Ok(Some(Ok(row))) if count < ROWS_MAX => {
                return Some((Ok(row), Some((rows, count + 1, statement))));
            }
            Ok(None) => {
                statement.end(End::Answered);
                return None;
            }
            Ok(Some(Ok(_))) => {
                let what = format!(
                    "the statement gives more than {ROWS_MAX} rows; ask for fewer, or write them with `tidegate sql --format parquet`"
                );
                failed("54000", what)
            }
            Ok(Some(Err(error))) => error,
            Err(_) => too_long(),
        };
        statement.end(End::Failed);
        Some((Err(failure), None))
    })
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
        let until = Instant::now() + STATEMENT_WITHIN;
        let statement = self.telemetry.statement(Port::Postgres, query);
        let asked = SimpleQueryHandler::do_query(&self.service, client, query);
        let responses = match timeout_at(until, asked).await.unwrap_or_else(|_| Err(too_long())) {
            Ok(responses) => responses,
            Err(error) => {
                statement.end(End::Failed);
                return Err(error);
            }
        };
        // Several statements may come in one text.
        let mut first = Some(statement);
        let mut next = || first.take().unwrap_or_else(|| self.telemetry.statement(Port::Postgres, query));
        Ok(responses.into_iter().map(|response| Bounded::bound(response, until, next())).collect())
    }
}

#[async_trait]
impl ExtendedQueryHandler for Bounded {
    type Statement = <DfSessionService as ExtendedQueryHandler>::Statement;
    type QueryParser = Parser;

    fn query_parser(&self) -> Arc<Parser> {
        self.service.query_parser()
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
        let asked = ExtendedQueryHandler::do_query(&self.service, client, portal, max_rows);
        match timeout_at(until, asked).await.unwrap_or_else(|_| Err(too_long())) {
            Ok(response) => Ok(Bounded::bound(response, until, statement)),
            Err(error) => {
                statement.end(End::Failed);
                Err(error)
            }
        }
    }
}
