//! The message loop of one client: simple queries, and the steps of prepared statements.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use datafusion::common::ParamValues;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::sql::sqlparser::ast::{CloseCursor, DiscardObject, Statement};
use pgwire::messages::data::{NoData, ParameterDescription};
use pgwire::messages::extendedquery::{
    Bind, BindComplete, Close, CloseComplete, Describe, Execute, Parse, ParseComplete, PortalSuspended,
    TARGET_TYPE_BYTE_PORTAL, TARGET_TYPE_BYTE_STATEMENT,
};
use pgwire::messages::response::{CommandComplete, EmptyQueryResponse, ReadyForQuery};
use pgwire::messages::{PgWireBackendMessage, PgWireFrontendMessage};
use tidegate_queries::telemetry::{Port, StatementOutcome, StatementTimer, Telemetry};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use crate::cancellation::CancelKey;
use crate::catalogue::SessionOptions;
use crate::connection::Wire;
use crate::cursors::{self, CURSORS_MAX};
use crate::encoding::{Columns, Formats};
use crate::error::SqlError;
use crate::limits::RunningStatement;
use crate::parameters;
use crate::portal::{OpenRows, Portal, PortalState, RowReader};
use crate::rewrite::Parsed;
use crate::session::Settings;
use crate::startup::{Login, put_settings};
use crate::statement::{Planner, Prepared};
use crate::transaction::Transaction;

/// The most named prepared statements, and the most named portals, of a client.
const NAMES_MAX: usize = 256;

/// How long a client may take to receive the output.
const SEND_TIMEOUT: Duration = Duration::from_secs(60);

/// One authenticated client with its statements and portals.
pub(crate) struct Client<S> {
    wire: Wire<S>,
    planner: Arc<Planner>,
    telemetry: Arc<Telemetry>,
    user: String,
    settings: Settings,
    key: CancelKey,
    transaction: Transaction,
    /// Prepared statements, by name. The empty name is that of the unnamed statement.
    statements: BTreeMap<String, Arc<Prepared>>,
    /// Portals and cursors, by name. The empty name is that of the unnamed portal.
    portals: BTreeMap<String, Portal>,
    /// Whether messages are skipped until the next `Sync`, after an error.
    is_skipping: bool,
}

/// Why a message was not processed.
enum Failure {
    /// An error that is sent to the client.
    Sql(SqlError),
    /// The client closed the connection, or does not read.
    Gone,
}

impl From<SqlError> for Failure {
    fn from(error: SqlError) -> Failure {
        Failure::Sql(error)
    }
}

impl From<io::Error> for Failure {
    fn from(_: io::Error) -> Failure {
        Failure::Gone
    }
}

/// The result of a statement.
enum Outcome {
    /// It is complete; this is its tag.
    Done(String),
    /// It gives rows.
    Rows(RowReader, &'static str),
    /// It fetches rows from a cursor: so many, or all.
    Fetch(String, Option<usize>),
    /// It was an empty text.
    Nothing,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    pub(crate) fn new(
        wire: Wire<S>,
        login: Login,
        planner: Arc<Planner>,
        telemetry: Arc<Telemetry>,
    ) -> Client<S> {
        let Login { user, settings, key } = login;
        Client {
            wire,
            planner,
            telemetry,
            user,
            settings,
            key,
            transaction: Transaction::default(),
            statements: BTreeMap::new(),
            portals: BTreeMap::new(),
            is_skipping: false,
        }
    }

    /// Processes messages until the client leaves or the connection is closed.
    pub(crate) async fn serve(mut self) {
        loop {
            let message = match self.wire.next().await {
                Ok(Some(PgWireFrontendMessage::Terminate(_)) | None) => return,
                Ok(Some(message)) => message,
                Err(error) => {
                    self.wire.put(&error.into_message());
                    let _ = self.flush().await;
                    return;
                }
            };
            let done = match message {
                PgWireFrontendMessage::Query(query) => self.simple_query(&query.query).await,
                PgWireFrontendMessage::Sync(_) => self.sync().await,
                PgWireFrontendMessage::Flush(_) => self.flush().await,
                _ if self.is_skipping => continue,
                message => match self.step(message).await {
                    Err(Failure::Sql(error)) => self.fail(error).await,
                    done => done,
                },
            };
            if done.is_err() {
                return;
            }
        }
    }

    /// Sends the output. A client that does not read it in time is treated as gone.
    async fn flush(&mut self) -> Result<(), Failure> {
        match timeout(SEND_TIMEOUT, self.wire.flush()).await {
            Ok(sent) => Ok(sent?),
            Err(_) => Err(Failure::Gone),
        }
    }

    /// Sends an error at once, and skips messages until the next `Sync`.
    async fn fail(&mut self, error: SqlError) -> Result<(), Failure> {
        tracing::debug!(%error, "an error is sent to a Postgres client");
        let is_fatal = error.is_fatal;
        self.transaction.fail();
        self.is_skipping = true;
        self.wire.put(&error.into_message());
        self.flush().await?;
        if is_fatal { Err(Failure::Gone) } else { Ok(()) }
    }

    async fn ready(&mut self) -> Result<(), Failure> {
        let ready = ReadyForQuery::new(self.transaction.status());
        self.wire.put(&PgWireBackendMessage::ReadyForQuery(ready));
        self.flush().await
    }

    async fn sync(&mut self) -> Result<(), Failure> {
        self.is_skipping = false;
        if !self.transaction.is_open() {
            self.portals.retain(|_, portal| portal.is_cursor);
        }
        self.ready().await
    }

    /// Processes one message about a prepared statement or a portal.
    async fn step(&mut self, message: PgWireFrontendMessage) -> Result<(), Failure> {
        match message {
            PgWireFrontendMessage::Parse(parse) => self.parse(parse).await,
            PgWireFrontendMessage::Bind(bind) => self.bind(&bind),
            PgWireFrontendMessage::Describe(describe) => self.describe(&describe),
            PgWireFrontendMessage::Execute(execute) => self.execute(&execute).await,
            PgWireFrontendMessage::Close(close) => {
                self.close(&close);
                Ok(())
            }
            // Messages of a COPY that has already ended.
            PgWireFrontendMessage::CopyData(_)
            | PgWireFrontendMessage::CopyDone(_)
            | PgWireFrontendMessage::CopyFail(_) => Ok(()),
            _ => Err(SqlError::fatal("08P01", "a message came that does not belong here").into()),
        }
    }

    /// The connection, as functions and tables of the catalogue see it.
    fn options(&self) -> SessionOptions {
        SessionOptions { user: self.user.clone(), settings: self.settings.clone(), process: self.key.process }
    }

    fn timer(&self, sql: &str) -> StatementTimer {
        self.telemetry.statement(Port::Postgres, sql)
    }

    fn running(&self, timer: Option<StatementTimer>) -> RunningStatement {
        let cancelled = Arc::clone(&self.key.cancel).notified_owned();
        RunningStatement::start(self.settings.statement_timeout(), cancelled, timer)
    }

    /// Runs all statements of a text, up to the first that fails.
    async fn simple_query(&mut self, sql: &str) -> Result<(), Failure> {
        self.is_skipping = false;
        self.portals.remove("");
        self.statements.remove("");
        match self.run_text(sql).await {
            Ok(()) => {}
            Err(Failure::Sql(error)) => self.fail(error).await?,
            Err(Failure::Gone) => return Err(Failure::Gone),
        }
        self.is_skipping = false;
        if !self.transaction.is_open() {
            self.portals.retain(|_, portal| portal.is_cursor);
        }
        self.ready().await
    }

    async fn run_text(&mut self, sql: &str) -> Result<(), Failure> {
        let mut running = self.running(Some(self.timer(sql)));
        let planner = Arc::clone(&self.planner);
        let parsed = running.part(async { planner.parse(sql) }).await;
        let parsed = parsed.inspect_err(|_| running.end(StatementOutcome::Failed))?;
        if parsed.is_empty() {
            running.end(StatementOutcome::Answered);
            self.complete_nothing();
            return Ok(());
        }
        let mut first = Some(running);
        for parsed in parsed {
            let running = first.take();
            let mut running = running.unwrap_or_else(|| self.running(Some(self.timer(sql))));
            let done = self.run_one(sql, parsed, &mut running).await;
            running.end(outcome_of(&done));
            done?;
        }
        Ok(())
    }

    /// Runs one statement of a text.
    async fn run_one(
        &mut self,
        sql: &str,
        parsed: Parsed,
        running: &mut RunningStatement,
    ) -> Result<(), Failure> {
        self.transaction.check(&parsed.written)?;
        let prepared = self.prepare(sql, parsed, Vec::new(), running).await?;
        if !prepared.parameters.is_empty() {
            return Err(SqlError::new("42P02", "a simple query has no values for parameters").into());
        }
        match self.start(&prepared, &ParamValues::List(Vec::new()), running).await? {
            Outcome::Rows(mut reader, tag) => {
                self.wire.put(&prepared.columns.description(&Formats::TEXT));
                let (count, _) =
                    send_rows(&mut self.wire, &mut reader, &Formats::TEXT, None, running).await?;
                self.complete(format!("{tag} {count}"));
            }
            Outcome::Fetch(cursor, limit) => {
                self.wire.put(&prepared.columns.description(&Formats::TEXT));
                self.fetch(&cursor, limit, &Formats::TEXT, running).await?;
            }
            Outcome::Done(tag) => self.complete(tag),
            Outcome::Nothing => self.complete_nothing(),
        }
        Ok(())
    }

    fn complete(&mut self, tag: String) {
        self.wire.put(&PgWireBackendMessage::CommandComplete(CommandComplete::new(tag)));
    }

    fn complete_nothing(&mut self) {
        self.wire.put(&PgWireBackendMessage::EmptyQueryResponse(EmptyQueryResponse::new()));
    }

    async fn prepare(
        &mut self,
        sql: &str,
        parsed: Parsed,
        hints: Vec<u32>,
        running: &mut RunningStatement,
    ) -> Result<Prepared, SqlError> {
        let cursor = match &parsed.written {
            Statement::Fetch { name, .. } => {
                self.portals.get(&name.value).map(|portal| portal.columns.clone())
            }
            _ => None,
        };
        let prepared = self.planner.prepare(sql, parsed, hints, cursor, self.options());
        running.part(prepared).await
    }

    async fn parse(&mut self, parse: Parse) -> Result<(), Failure> {
        let name = parse.name.unwrap_or_default();
        let mut running = self.running(None);
        let planner = Arc::clone(&self.planner);
        let mut parsed = running.part(async { planner.parse(&parse.query) }).await?;
        if parsed.len() > 1 {
            let what = format!("the text holds {} statements; prepare one at a time", parsed.len());
            return Err(SqlError::new("42601", what).into());
        }
        let prepared = match parsed.pop() {
            Some(parsed) => {
                self.transaction.check(&parsed.written)?;
                self.prepare(&parse.query, parsed, parse.type_oids, &mut running).await?
            }
            None => Prepared {
                sql: parse.query,
                statement: None,
                plan: None,
                columns: Columns::none(),
                cursor: Columns::none(),
                parameters: Vec::new(),
                hints: Vec::new(),
            },
        };
        if !name.is_empty() {
            if self.statements.contains_key(&name) {
                let what = format!("prepared statement \"{name}\" already exists");
                return Err(SqlError::new("42P05", what).into());
            }
            check_names(self.statements.keys(), "prepared statements")?;
        }
        self.statements.insert(name, Arc::new(prepared));
        self.wire.put(&PgWireBackendMessage::ParseComplete(ParseComplete::new()));
        Ok(())
    }

    fn bind(&mut self, bind: &Bind) -> Result<(), Failure> {
        let name = bind.portal_name.clone().unwrap_or_default();
        let prepared = self.statement(bind.statement_name.as_deref())?;
        let values = parameters::values(
            &bind.parameters,
            &bind.parameter_format_codes,
            &prepared.parameters,
            &prepared.hints,
        )?;
        let formats =
            Formats::read(&bind.result_column_format_codes, prepared.columns.count(), "result columns")?;
        if !name.is_empty() {
            if self.portals.contains_key(&name) {
                return Err(SqlError::new("42P03", format!("portal \"{name}\" already exists")).into());
            }
            check_names(self.portals.keys(), "portals")?;
        }
        let columns = prepared.columns.clone();
        let portal =
            Portal { prepared, values, formats, columns, state: PortalState::Bound, is_cursor: false };
        self.portals.insert(name, portal);
        self.wire.put(&PgWireBackendMessage::BindComplete(BindComplete::new()));
        Ok(())
    }

    fn statement(&self, name: Option<&str>) -> Result<Arc<Prepared>, SqlError> {
        let name = name.unwrap_or_default();
        self.statements.get(name).map(Arc::clone).ok_or_else(|| no_statement(name))
    }

    fn describe(&mut self, describe: &Describe) -> Result<(), Failure> {
        let name = describe.name.as_deref();
        let (columns, formats) = match describe.target_type {
            TARGET_TYPE_BYTE_STATEMENT => {
                let prepared = self.statement(name)?;
                let types = parameters::described(&prepared.parameters, &prepared.hints);
                self.wire.put(&PgWireBackendMessage::ParameterDescription(ParameterDescription::new(types)));
                (prepared.columns.clone(), Formats::TEXT)
            }
            TARGET_TYPE_BYTE_PORTAL => {
                let name = name.unwrap_or_default();
                let portal = self.portals.get(name).ok_or_else(|| no_portal(name))?;
                (portal.columns.clone(), portal.formats.clone())
            }
            other => {
                let what = format!("there is nothing of type {other} to describe");
                return Err(SqlError::new("08P01", what).into());
            }
        };
        self.wire.put(&match columns.count() {
            0 => PgWireBackendMessage::NoData(NoData::new()),
            _ => columns.description(&formats),
        });
        Ok(())
    }

    fn close(&mut self, close: &Close) {
        let name = close.name.as_deref().unwrap_or_default();
        match close.target_type {
            TARGET_TYPE_BYTE_PORTAL => drop(self.portals.remove(name)),
            _ => drop(self.statements.remove(name)),
        }
        self.wire.put(&PgWireBackendMessage::CloseComplete(CloseComplete::new()));
    }

    async fn execute(&mut self, execute: &Execute) -> Result<(), Failure> {
        let name = execute.name.clone().unwrap_or_default();
        // Zero and negative numbers mean all rows.
        let limit = usize::try_from(execute.max_rows).ok().filter(|limit| *limit > 0);
        let portal = self.portals.get_mut(&name).ok_or_else(|| no_portal(&name))?;
        let (prepared, formats) = (Arc::clone(&portal.prepared), portal.formats.clone());
        if let Some(statement) = &prepared.statement {
            self.transaction.check(statement)?;
        }
        let mut open = match std::mem::replace(&mut portal.state, PortalState::Finished) {
            PortalState::Open(mut open) => {
                let cancelled = Arc::clone(&self.key.cancel).notified_owned();
                open.running.resume(self.settings.statement_timeout(), cancelled);
                open
            }
            PortalState::Finished => {
                if prepared.columns.count() == 0 {
                    let what = format!("portal \"{name}\" cannot be run");
                    return Err(SqlError::new("55000", what).into());
                }
                self.complete("SELECT 0".to_owned());
                return Ok(());
            }
            PortalState::Bound => {
                let values = portal.values.clone();
                let mut running = self.running(Some(self.timer(&prepared.sql)));
                let outcome = self.start(&prepared, &values, &mut running).await;
                match outcome.inspect_err(|_| running.end(StatementOutcome::Failed))? {
                    Outcome::Rows(reader, tag) => Box::new(OpenRows { reader, running, tag }),
                    Outcome::Done(tag) => {
                        running.end(StatementOutcome::Answered);
                        self.complete(tag);
                        return Ok(());
                    }
                    Outcome::Fetch(cursor, limit) => {
                        let fetched = self.fetch(&cursor, limit, &formats, &mut running).await;
                        running.end(outcome_of(&fetched));
                        return fetched;
                    }
                    Outcome::Nothing => {
                        running.end(StatementOutcome::Answered);
                        self.complete_nothing();
                        return Ok(());
                    }
                }
            }
        };
        let sent = send_rows(&mut self.wire, &mut open.reader, &formats, limit, &mut open.running).await;
        match sent {
            Ok((_, false)) => {
                self.wire.put(&PgWireBackendMessage::PortalSuspended(PortalSuspended::new()));
                if let Some(portal) = self.portals.get_mut(&name) {
                    portal.state = PortalState::Open(open);
                }
            }
            Ok((count, true)) => {
                open.running.end(StatementOutcome::Answered);
                self.complete(format!("{} {count}", open.tag));
            }
            Err(failure) => {
                let failed = Err(failure);
                open.running.end(outcome_of(&failed));
                return failed;
            }
        }
        Ok(())
    }

    /// Starts a statement, and reports the settings that it changed.
    async fn start(
        &mut self,
        prepared: &Prepared,
        values: &ParamValues,
        running: &mut RunningStatement,
    ) -> Result<Outcome, Failure> {
        let Some(statement) = &prepared.statement else { return Ok(Outcome::Nothing) };
        let before = self.settings.reported();
        let outcome = self.begin(statement, prepared, values, running).await?;
        let mut changed = self.settings.reported();
        changed.retain(|name, value| before.get(name) != Some(value));
        put_settings(&mut self.wire, changed);
        Ok(outcome)
    }

    async fn begin(
        &mut self,
        statement: &Statement,
        prepared: &Prepared,
        values: &ParamValues,
        running: &mut RunningStatement,
    ) -> Result<Outcome, Failure> {
        let done = |tag: &str| Ok(Outcome::Done(tag.to_owned()));
        if let Some(tag) = self.transaction.apply(statement, &mut self.settings)? {
            if matches!(statement, Statement::Commit { .. } | Statement::Rollback { savepoint: None, .. }) {
                self.portals.clear(); // They end with it.
            }
            return done(tag);
        }
        match statement {
            Statement::Set(set) => {
                self.settings.set(set)?;
                done("SET")
            }
            Statement::Reset(reset) => {
                self.settings.reset(&reset.reset)?;
                done("RESET")
            }
            Statement::Discard { object_type } => self.discard(object_type).map(Outcome::Done),
            Statement::Deallocate { name, .. } => {
                if name.value.eq_ignore_ascii_case("all") {
                    self.statements.clear();
                    return done("DEALLOCATE ALL");
                }
                if self.statements.remove(&name.value).is_none() {
                    return Err(no_statement(&name.value).into());
                }
                done("DEALLOCATE")
            }
            Statement::Close { cursor } => {
                match cursor {
                    CloseCursor::All => self.portals.retain(|_, portal| !portal.is_cursor),
                    CloseCursor::Specific { name } => {
                        self.portals.remove(&name.value).ok_or_else(|| no_cursor(&name.value))?;
                    }
                }
                done("CLOSE CURSOR")
            }
            Statement::Declare { stmts } => {
                let (name, query) = cursors::declared(stmts)?;
                self.declare(name, &query, prepared, values, running).await?;
                done("DECLARE CURSOR")
            }
            Statement::Fetch { name, direction, .. } => {
                Ok(Outcome::Fetch(name.value.clone(), cursors::fetch_limit(direction)?))
            }
            Statement::ShowVariable { .. } => {
                let rows = running.part(self.planner.show(statement, self.options())).await?;
                Ok(Outcome::Rows(self.reader(&prepared.columns, rows), "SHOW"))
            }
            _ => {
                let plan = prepared.plan.as_ref().expect("what reads was planned");
                let rows = running.part(self.planner.rows(plan, values, self.options())).await?;
                Ok(Outcome::Rows(self.reader(&prepared.columns, rows), "SELECT"))
            }
        }
    }

    fn reader(&self, columns: &Columns, rows: SendableRecordBatchStream) -> RowReader {
        RowReader::new(columns.clone(), Arc::clone(self.planner.names()), rows)
    }

    fn discard(&mut self, what: &DiscardObject) -> Result<String, Failure> {
        if matches!(what, DiscardObject::ALL) {
            if self.transaction.is_open() {
                let what = "DISCARD ALL cannot run inside a transaction block";
                return Err(SqlError::new("25001", what).into());
            }
            self.settings.reset_all();
            self.portals.clear();
            self.statements.clear();
        }
        Ok(format!("DISCARD {what}"))
    }

    /// Opens a cursor.
    async fn declare(
        &mut self,
        name: &str,
        query: &Statement,
        prepared: &Prepared,
        values: &ParamValues,
        running: &mut RunningStatement,
    ) -> Result<(), Failure> {
        if self.portals.contains_key(name) {
            return Err(SqlError::new("42P03", format!("cursor \"{name}\" already exists")).into());
        }
        if self.portals.values().filter(|portal| portal.is_cursor).count() >= CURSORS_MAX {
            let what = format!("{CURSORS_MAX} cursors are open; close some first");
            return Err(SqlError::new("54000", what).into());
        }
        let plan = prepared.plan.as_ref().expect("a cursor's query was planned");
        let rows = running.part(self.planner.rows(plan, values, self.options())).await?;
        let columns = prepared.cursor.clone();
        let reader = self.reader(&columns, rows);
        let open = OpenRows { reader, running: self.running(None), tag: "FETCH" };
        let portal = Portal {
            prepared: Arc::new(Prepared {
                sql: prepared.sql.clone(),
                statement: Some(query.clone()),
                plan: None,
                columns: columns.clone(),
                cursor: Columns::none(),
                parameters: Vec::new(),
                hints: Vec::new(),
            }),
            values: ParamValues::List(Vec::new()),
            formats: Formats::TEXT,
            columns,
            state: PortalState::Open(Box::new(open)),
            is_cursor: true,
        };
        self.portals.insert(name.to_owned(), portal);
        Ok(())
    }

    /// Sends the next rows of a cursor.
    async fn fetch(
        &mut self,
        name: &str,
        limit: Option<usize>,
        formats: &Formats,
        running: &mut RunningStatement,
    ) -> Result<(), Failure> {
        let portal = self.portals.get_mut(name).filter(|portal| portal.is_cursor);
        let portal = portal.ok_or_else(|| no_cursor(name))?;
        let mut count = 0;
        if let PortalState::Open(open) = &mut portal.state {
            match send_rows(&mut self.wire, &mut open.reader, formats, limit, running).await {
                Ok((sent, is_done)) => {
                    count = sent;
                    if is_done {
                        portal.state = PortalState::Finished;
                    }
                }
                Err(failure) => {
                    self.portals.remove(name); // Its other rows are lost.
                    return Err(failure);
                }
            }
        }
        self.complete(format!("FETCH {count}"));
        Ok(())
    }
}

/// Sends up to `limit` rows. Returns how many, and whether there are no more.
async fn send_rows<S: AsyncRead + AsyncWrite + Unpin>(
    wire: &mut Wire<S>,
    reader: &mut RowReader,
    formats: &Formats,
    limit: Option<usize>,
    running: &mut RunningStatement,
) -> Result<(usize, bool), Failure> {
    let mut count = 0;
    loop {
        let most = limit.map_or(usize::MAX, |limit| limit - count);
        if most == 0 {
            return Ok((count, false));
        }
        let written = running.part(reader.write(formats, most, wire.output())).await?;
        if written == 0 {
            return Ok((count, true));
        }
        count += written;
        running.count_rows(written)?;
        if wire.is_full() {
            running.part(async { Ok(wire.flush().await) }).await??;
        }
    }
}

/// The outcome of a statement for the metrics.
fn outcome_of(done: &Result<(), Failure>) -> StatementOutcome {
    match done {
        Ok(()) => StatementOutcome::Answered,
        Err(Failure::Sql(_)) => StatementOutcome::Failed,
        Err(Failure::Gone) => StatementOutcome::GivenUp,
    }
}

/// Checks that a client may have one more name.
///
/// # Errors
/// 54000 when it has too many.
fn check_names<'n>(names: impl Iterator<Item = &'n String>, what: &str) -> Result<(), SqlError> {
    if names.filter(|name| !name.is_empty()).count() < NAMES_MAX {
        return Ok(());
    }
    Err(SqlError::new("54000", format!("there are {NAMES_MAX} named {what}; close some first")))
}

fn no_statement(name: &str) -> SqlError {
    SqlError::new("26000", format!("prepared statement \"{name}\" does not exist"))
}

fn no_portal(name: &str) -> SqlError {
    SqlError::new("34000", format!("portal \"{name}\" does not exist"))
}

fn no_cursor(name: &str) -> SqlError {
    SqlError::new("34000", format!("there is no open cursor `{name}`"))
}
