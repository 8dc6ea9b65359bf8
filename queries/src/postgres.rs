//! The catalogue over the Postgres wire protocol, for psql, drivers and notebooks; read-only.
//!
//! Protocol, types and the catalogue tables that clients look at (`pg_catalog`) are `datafusion-postgres`'s. What is ours is
//! who may come in, that nothing but reading is planned ([`answers`]), how long a statement may take and how many rows it may give,
//! that it can be stopped while it gives them, and how much of a message is read ([`connection`]).

mod answers;
mod connection;
mod cursors;
mod dialect;
mod parameters;
mod settings;
mod text;
mod wire;

use std::fmt::Debug;
use std::future::pending;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use datafusion::common::DataFusionError;
use datafusion::sql::sqlparser::ast::Statement;
use datafusion_postgres::datafusion_pg_catalog::pg_catalog::context::EmptyContextProvider;
use datafusion_postgres::datafusion_pg_catalog::pg_catalog::setup_pg_catalog;
use datafusion_postgres::pgwire::api::auth::cleartext::CleartextPasswordAuthStartupHandler;
use datafusion_postgres::pgwire::api::auth::noop::NoopStartupHandler;
use datafusion_postgres::pgwire::api::auth::{
    AuthSource, DefaultServerParameterProvider, LoginInfo, Password, StartupHandler,
};
use datafusion_postgres::pgwire::api::cancel::DefaultCancelHandler;
use datafusion_postgres::pgwire::api::portal::{Portal, PortalExecutionState};
use datafusion_postgres::pgwire::api::query::{ExtendedQueryHandler, SimpleQueryHandler};
use datafusion_postgres::pgwire::api::results::{Response, Tag};
use datafusion_postgres::pgwire::api::store::{Entry, PortalStore};
use datafusion_postgres::pgwire::api::{
    ClientInfo, ClientPortalStore, ConnectionHandle, ConnectionManager, DEFAULT_NAME,
};
use datafusion_postgres::pgwire::error::{ErrorInfo, PgWireError, PgWireResult};
use datafusion_postgres::pgwire::messages::extendedquery::Execute;
use datafusion_postgres::pgwire::messages::startup::{Password as PasswordMessage, PasswordMessageFamily};
use datafusion_postgres::pgwire::messages::{PgWireBackendMessage, PgWireFrontendMessage};
use futures::future::Shared;
use futures::{FutureExt, Sink, SinkExt, Stream, StreamExt, stream};
use tidegate_facts::Digest;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout_at};

use self::answers::{Answers, Prepared};
use crate::access::{Keys, Role};
use crate::http::told_to_stop;
use crate::telemetry::{self, End, Port, Telemetry};
use crate::{Catalogue, QueryError};

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
                answers: Arc::new(Answers::new(catalogue)),
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

/// Statements bounded in time and rows, and counted.
struct Bounded {
    answers: Arc<Answers>,
    telemetry: Arc<Telemetry>,
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
        until: Until,
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
    until: Until,
    statement: telemetry::Statement,
) -> PgWireResult<(T, telemetry::Statement)> {
    let failure = match answered {
        Ok(Ok(answer)) => return Ok((answer, statement)),
        Ok(Err(error)) => said(error),
        Err(_) => until.too_long(),
    };
    statement.end(End::Failed);
    Err(failure)
}

fn bounded<T: Send + 'static>(
    rows: impl Stream<Item = PgWireResult<T>> + Send + Unpin + 'static,
    until: Until,
    cancelled: Cancelled,
    statement: telemetry::Statement,
) -> impl Stream<Item = PgWireResult<T>> + Send {
    stream::unfold(Some((rows, 0, cancelled, statement)), move |rows| async move {
        let (mut rows, count, cancelled, statement) = rows?;
        let next = caught(async {
            tokio::select! {
                biased;
                () = cancelled.clone() => Err(PgWireError::QueryCanceled),
                next = timeout_at(until.at, rows.next()) => next.map_err(|_| until.too_long())?.transpose(),
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

/// When a statement is stopped, and how long it was given.
#[derive(Clone, Copy)]
struct Until {
    at: Instant,
    within: Duration,
}

impl Until {
    fn of(client: &impl ClientInfo) -> Until {
        let within = settings::within(client);
        Until { at: Instant::now() + within, within }
    }

    fn too_long(self) -> PgWireError {
        let set =
            if self.within < STATEMENT_WITHIN { ", the statement_timeout of this connection" } else { "" };
        let within = settings::shown_span(self.within);
        failed("57014", format!("the statement took longer than {within}{set}, and was stopped"))
    }
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
        let until = Until::of(client);
        let statement = self.telemetry.statement(Port::Postgres, query);
        let asked = caught(self.answers.all(query, client));
        let (responses, statement) = in_time(timeout_at(until.at, asked).await, until, statement)?;
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
    type Statement = Prepared;
    type QueryParser = Answers;

    fn query_parser(&self) -> Arc<Answers> {
        Arc::clone(&self.answers)
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
        _max_rows: usize,
    ) -> PgWireResult<Response>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Self::Statement>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let until = Until::of(client);
        let statement = self.telemetry.statement(Port::Postgres, &portal.statement.statement.0);
        let asked = caught(self.answers.prepared(portal, client));
        let (response, statement) = in_time(timeout_at(until.at, asked).await, until, statement)?;
        let cancelled = cancelled(client).await;
        Ok(Bounded::bound(response, until, cancelled, statement))
    }
}
