//! What a statement of a client is: one that reads, a cursor, a setting or the end of a transaction; and its answer.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::common::ParamValues;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::logical_expr::{LogicalPlan, Projection};
use datafusion::prelude::DataFrame;
use datafusion::sql::sqlparser::ast::Statement;
use datafusion_postgres::hooks::set_show::SetShowHook;
use datafusion_postgres::hooks::transactions::TransactionStatementHook;
use datafusion_postgres::hooks::{HookClient, QueryHook};
use datafusion_postgres::pgwire::api::portal::{Format, Portal};
use datafusion_postgres::pgwire::api::results::{FieldInfo, Response};
use datafusion_postgres::pgwire::api::stmt::QueryParser;
use datafusion_postgres::pgwire::api::{ClientInfo, METADATA_USER, Type};
use datafusion_postgres::pgwire::error::{PgWireError, PgWireResult};
use datafusion_postgres::pgwire::types::format::FormatOptions;

use super::text::Reader;
use super::wire::Columns;
use super::{caught, cursors, failed, parameters, refused, settings, text};
use crate::{Catalogue, QueryError};

/// A statement and its plan; none for a text that says nothing.
pub(super) type Prepared = (String, Option<(Statement, LogicalPlan)>);

/// Answers statements.
pub(super) struct Answers {
    catalogue: Arc<Catalogue>,
    reader: Reader,
}

impl Answers {
    pub(super) fn new(catalogue: &Arc<Catalogue>) -> Answers {
        Answers { catalogue: Arc::clone(catalogue), reader: Reader::new() }
    }

    /// Answers all statements of a text.
    pub(super) async fn all(&self, sql: &str, client: &mut dyn HookClient) -> PgWireResult<Vec<Response>> {
        let statements = self.reader.read(sql)?;
        if statements.is_empty() {
            return Ok(vec![Response::EmptyQuery]);
        }
        let mut responses = Vec::with_capacity(statements.len());
        for statement in &statements {
            responses.push(self.answer(statement, None, &Format::UnifiedText, client).await?);
        }
        Ok(responses)
    }

    /// Answers a statement that was prepared, with the values of its parameters.
    pub(super) async fn prepared(
        &self,
        portal: &Portal<Prepared>,
        client: &mut dyn HookClient,
    ) -> PgWireResult<Response> {
        let Some((statement, plan)) = &portal.statement.statement.1 else { return Ok(Response::EmptyQuery) };
        let values = parameters::values(portal, &parameters::fields(plan)?)?;
        self.answer(statement, Some((plan, &values)), &portal.result_column_format, client).await
    }

    async fn answer(
        &self,
        statement: &Statement,
        prepared: Option<(&LogicalPlan, &ParamValues)>,
        format: &Format,
        client: &mut dyn HookClient,
    ) -> PgWireResult<Response> {
        let context = self.catalogue.context();
        if let Some(set) = settings::set(statement, client) {
            return set;
        }
        let shown = settings::shown(statement, client);
        if shown.is_none()
            && let Some(response) = SetShowHook.handle_simple_query(statement, context, client).await
        {
            return response;
        }
        if let Some(response) = TransactionStatementHook.handle_simple_query(statement, context, client).await
        {
            return response;
        }
        match statement {
            Statement::Fetch { name, direction, .. } => {
                return cursors::fetch(&name.value, direction, format, client).await;
            }
            Statement::Close { cursor } => return Ok(cursors::close(cursor, client)),
            Statement::Declare { stmts } => {
                let (name, query) = cursors::declared(stmts)?;
                cursors::Opened::of(client).has_place(name)?;
                let plan = match prepared {
                    Some((plan, values)) => filled(plan.inputs().first().expect("it was put there"), values)?,
                    None => self.plan(&query, client).await?,
                };
                let rows = self.rows(plan.clone()).await?;
                return Ok(cursors::open(name, query, plan, rows, client));
            }
            _ => {}
        }
        let (described, plan) = match (shown, prepared) {
            (Some(plan), _) => (plan.clone(), plan),
            (None, Some((plan, values))) => (plan.clone(), filled(plan, values)?),
            (None, None) => {
                let plan = self.plan(statement, client).await?;
                (plan.clone(), plan)
            }
        };
        let columns = Columns::of(described.schema().as_arrow(), statement);
        let options = Arc::new(FormatOptions::from_client_metadata(client.metadata()));
        columns.answer(self.rows(plan).await?, format, options).map(Response::Query)
    }

    /// The rows of a plan, as of now.
    async fn rows(&self, plan: LogicalPlan) -> PgWireResult<SendableRecordBatchStream> {
        let frame = DataFrame::new(self.catalogue.context().state(), plan);
        frame.execute_stream().await.map_err(|error| PgWireError::ApiError(Box::new(error)))
    }

    /// Plans what only reads.
    async fn plan(
        &self,
        statement: &Statement,
        client: &(impl ClientInfo + ?Sized),
    ) -> PgWireResult<LogicalPlan> {
        let mut statement = statement.clone();
        let user = client.metadata().get(METADATA_USER).map_or("", String::as_str);
        text::asked_by(&mut statement, user);
        let state = self.catalogue.context().state();
        self.catalogue.plan(&state, text::explained(&statement)?).await.map_err(refused)
    }

    /// Plans a statement before its parameters are known.
    async fn prepare(
        &self,
        statement: &Statement,
        hints: &[Option<Type>],
        client: &(dyn ClientInfo + Send + Sync),
    ) -> PgWireResult<LogicalPlan> {
        let context = self.catalogue.context();
        match statement {
            statement if settings::sets(statement) => return Ok(settings::nothing()),
            Statement::Close { .. } => return Ok(settings::nothing()),
            Statement::Fetch { name, .. } => return Ok(cursors::Opened::of(client).described(&name.value)),
            Statement::Declare { stmts } => {
                let plan = self.plan(&cursors::declared(stmts)?.1, client).await?;
                let plan = parameters::typed(plan, hints)?;
                // No columns, and the parameters of the query.
                let none = Projection::try_new(Vec::new(), Arc::new(plan));
                return none
                    .map(LogicalPlan::Projection)
                    .map_err(|error| refused(QueryError::of_plan(&error)));
            }
            _ => {}
        }
        if let Some(plan) = settings::shown(statement, client) {
            return Ok(plan);
        }
        if let Some(plan) = SetShowHook.handle_extended_parse_query(statement, context, client).await {
            return plan;
        }
        if let Some(plan) =
            TransactionStatementHook.handle_extended_parse_query(statement, context, client).await
        {
            return plan;
        }
        parameters::typed(self.plan(statement, client).await?, hints)
    }
}

fn filled(plan: &LogicalPlan, values: &ParamValues) -> PgWireResult<LogicalPlan> {
    let filled = plan.clone().replace_params_with_values(values);
    filled.map_err(|error| refused(QueryError::of_plan(&error)))
}

#[async_trait]
impl QueryParser for Answers {
    type Statement = Prepared;

    async fn parse_sql<C>(
        &self,
        client: &C,
        sql: &str,
        types: &[Option<Type>],
    ) -> PgWireResult<Option<Prepared>>
    where
        C: ClientInfo + Unpin + Send + Sync,
    {
        let prepared = async {
            let mut statements = self.reader.read(sql)?;
            if statements.len() > 1 {
                let what = format!("the text holds {} statements; prepare one at a time", statements.len());
                return Err(failed("42601", what));
            }
            let Some(statement) = statements.pop() else { return Ok(None) };
            let plan = self.prepare(&statement, types, client).await?;
            Ok(Some((statement.to_string(), Some((statement, plan)))))
        };
        caught(prepared).await
    }

    fn get_parameter_types(&self, (_, prepared): &Prepared) -> PgWireResult<Vec<Type>> {
        match prepared {
            Some((_, plan)) => parameters::described(&parameters::fields(plan)?),
            None => Ok(Vec::new()),
        }
    }

    fn get_result_schema(
        &self,
        (_, prepared): &Prepared,
        format: Option<&Format>,
    ) -> PgWireResult<Vec<FieldInfo>> {
        match prepared {
            Some((statement, plan)) => Columns::of(plan.schema().as_arrow(), statement)
                .described(format.unwrap_or(&Format::UnifiedText), None),
            None => Ok(Vec::new()),
        }
    }
}
