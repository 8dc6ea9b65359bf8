//! Statements: parsed from text, planned against the catalogue, and run.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Schema};
use datafusion::common::{ParamValues, ScalarValue};
use datafusion::execution::{SendableRecordBatchStream, SessionState};
use datafusion::logical_expr::{LogicalPlan, LogicalPlanBuilder};
use datafusion::prelude::{DataFrame, lit};
use datafusion::sql::sqlparser::ast::Statement;
use tidegate_queries::Catalogue;

use crate::catalogue::{Database, SessionOptions};
use crate::cursors;
use crate::encoding::{Columns, ObjectNames};
use crate::error::SqlError;
use crate::rewrite::{self, Parsed};
use crate::session::{self, Settings};
use crate::{column_names, explain, parameters};

/// A prepared statement: it is planned and can be bound to values.
#[derive(Debug)]
pub(crate) struct Prepared {
    /// Its text, for the metrics.
    pub(crate) sql: String,
    /// The statement; `None` for an empty text.
    pub(crate) statement: Option<Statement>,
    /// Its plan; `None` for a statement that reads no table.
    pub(crate) plan: Option<LogicalPlan>,
    /// The columns of the rows that it returns.
    pub(crate) columns: Columns,
    /// The columns of the cursor that it declares.
    pub(crate) cursor: Columns,
    /// The fields that the parameters are compared with, in the order of the parameters.
    pub(crate) parameters: Vec<FieldRef>,
    /// The oids of the types that the client names for the parameters.
    pub(crate) hints: Vec<u32>,
}

/// The planner of statements: parses, plans and runs them.
pub(crate) struct Planner {
    catalogue: Arc<Catalogue>,
    database: Arc<Database>,
    names: ObjectNames,
}

impl Planner {
    /// A planner for the tables of a service.
    pub(crate) fn new(catalogue: &Arc<Catalogue>) -> Planner {
        let base = catalogue.context().state();
        let database = Arc::new(Database::new(base, &catalogue.schemas()));
        let shown = Arc::clone(&database);
        let names: ObjectNames = Arc::new(move |kind, oid| shown.show_object(kind, oid));
        Planner { catalogue: Arc::clone(catalogue), database, names }
    }

    /// The names of objects, for values of types such as `regclass`.
    pub(crate) fn names(&self) -> &ObjectNames {
        &self.names
    }

    /// Parses the statements of a text.
    ///
    /// # Errors
    /// 54000 when it is too long, 42601 when it is not SQL, 42P01 when it reads an unknown table of
    /// the catalogue.
    pub(crate) fn parse(&self, sql: &str) -> Result<Vec<Parsed>, SqlError> {
        rewrite::parse(sql, &self.database)
    }

    /// Plans a statement. `hints` are the types that the client names for the parameters, and
    /// `open_cursor` the columns of the cursor that a `FETCH` reads.
    ///
    /// # Errors
    /// 25006 when the statement does more than read; another one when it cannot be planned.
    pub(crate) async fn prepare(
        &self,
        sql: &str,
        parsed: Parsed,
        hints: Vec<u32>,
        open_cursor: Option<Columns>,
        options: SessionOptions,
    ) -> Result<Prepared, SqlError> {
        let Parsed { written, planned } = parsed;
        let mut prepared = Prepared {
            sql: sql.to_owned(),
            statement: None,
            plan: None,
            columns: Columns::none(),
            cursor: Columns::none(),
            parameters: Vec::new(),
            hints,
        };
        match &written {
            Statement::Fetch { .. } => prepared.columns = open_cursor.unwrap_or_else(Columns::none),
            Statement::ShowVariable { .. } => {
                prepared.columns = Columns::new(&shown_schema(&written)?, true)?
            }
            statement if !reads(statement) => {}
            _ => {
                let is_cursor = matches!(written, Statement::Declare { .. });
                let query = match planned {
                    Statement::Declare { ref stmts } => cursors::declared(stmts)?.1,
                    other => other,
                };
                let names = match &written {
                    Statement::Declare { stmts } => column_names::of(&cursors::declared(stmts)?.1),
                    statement => column_names::of(statement),
                };
                let plan = self.plan(query, options.clone()).await?;
                let plan = parameters::typed(plan, &prepared.hints)?;
                prepared.parameters = parameters::fields(&plan)?;
                let schema = self.result_schema(&plan, &prepared.parameters, options)?;
                let columns =
                    Columns::new(&renamed(&schema, names.as_deref()), prepared.parameters.is_empty())?;
                // `DECLARE` itself returns no rows.
                match is_cursor {
                    true => prepared.cursor = columns,
                    false => prepared.columns = columns,
                }
                prepared.plan = Some(plan);
            }
        }
        prepared.statement = Some(written);
        Ok(prepared)
    }

    async fn plan(&self, statement: Statement, options: SessionOptions) -> Result<LogicalPlan, SqlError> {
        let state = self.database.state(options);
        let plan = self.catalogue.plan(&state, explain::planned(statement)?).await?;
        self.database.resolve(plan).map_err(|error| SqlError::of_plan(&error))
    }

    /// The schema of the rows of a plan, after the casts that DataFusion adds. Parameters count as
    /// nulls of their types.
    fn result_schema(
        &self,
        plan: &LogicalPlan,
        parameters: &[FieldRef],
        options: SessionOptions,
    ) -> Result<Schema, SqlError> {
        let analyzed = || {
            let nulls = parameters.iter().map(|field| ScalarValue::try_from(field.data_type()));
            let nulls = ParamValues::from(nulls.collect::<Result<Vec<_>, _>>()?);
            let state = Arc::new(self.database.state(options));
            let plan = self.database.ready(plan.clone().replace_params_with_values(&nulls)?, &state)?;
            state.analyzer().execute_and_check(plan, state.config_options(), |_, _| {})
        };
        match analyzed() {
            Ok(analyzed) => Ok(analyzed.schema().as_arrow().clone()),
            // Values may be valid where nulls are not.
            Err(_) if !parameters.is_empty() => Ok(plan.schema().as_arrow().clone()),
            Err(error) => Err(SqlError::of_plan(&error)),
        }
    }

    /// Runs a plan with values for its parameters.
    ///
    /// # Errors
    /// When it cannot be planned with these values.
    pub(crate) async fn rows(
        &self,
        plan: &LogicalPlan,
        values: &ParamValues,
        options: SessionOptions,
    ) -> Result<SendableRecordBatchStream, SqlError> {
        let filled = plan.clone().replace_params_with_values(values);
        let state = self.database.state(options);
        self.run(filled.map_err(|error| SqlError::of_plan(&error))?, state).await
    }

    /// The rows of a `SHOW`.
    ///
    /// # Errors
    /// 42704 for an unknown setting.
    pub(crate) async fn show(
        &self,
        statement: &Statement,
        options: SessionOptions,
    ) -> Result<SendableRecordBatchStream, SqlError> {
        let plan = shown_rows(statement, &options.settings)?;
        let state = self.database.state(options);
        self.run(plan, state).await
    }

    async fn run(
        &self,
        plan: LogicalPlan,
        state: SessionState,
    ) -> Result<SendableRecordBatchStream, SqlError> {
        let shared = Arc::new(state.clone());
        let plan = self.database.ready(plan, &shared).map_err(|error| SqlError::of_plan(&error))?;
        let rows = DataFrame::new(state, plan).execute_stream().await;
        rows.map_err(|error| SqlError::of_plan(&error))
    }
}

/// Whether a statement must be planned: it reads, or planning refuses it.
fn reads(statement: &Statement) -> bool {
    !matches!(
        statement,
        Statement::Set(_)
            | Statement::Reset(_)
            | Statement::Discard { .. }
            | Statement::Deallocate { .. }
            | Statement::Close { .. }
            | Statement::StartTransaction { .. }
            | Statement::Commit { .. }
            | Statement::Rollback { .. }
            | Statement::Savepoint { .. }
            | Statement::ReleaseSavepoint { .. }
    )
}

/// The schema with the names that Postgres gives to columns.
fn renamed(schema: &Schema, names: Option<&[Option<String>]>) -> Schema {
    let names = names.filter(|names| names.len() == schema.fields().len());
    let fields = schema.fields().iter().enumerate().map(|(index, field)| {
        let own = || rewrite::shown_name(field.name()).to_owned();
        let name = names.and_then(|names| names[index].clone()).unwrap_or_else(own);
        field.as_ref().clone().with_name(name)
    });
    Schema::new(fields.collect::<Vec<_>>())
}

const SHOW_ALL: &str = "all";

fn shown_schema(statement: &Statement) -> Result<Schema, SqlError> {
    let name = session::shown_name(statement).unwrap_or_default();
    let text = |name: &str| Field::new(name, DataType::Utf8, true);
    if name.eq_ignore_ascii_case(SHOW_ALL) {
        return Ok(Schema::new(["name", "setting", "description"].map(text).to_vec()));
    }
    Ok(Schema::new(vec![text(session::shown_column(&name)?)]))
}

fn shown_rows(statement: &Statement, settings: &Settings) -> Result<LogicalPlan, SqlError> {
    let schema = shown_schema(statement)?;
    let name = session::shown_name(statement).unwrap_or_default();
    let rows = if name.eq_ignore_ascii_case(SHOW_ALL) {
        settings.all().map(|(setting, value)| vec![lit(setting.name), lit(value), lit("")]).collect()
    } else {
        vec![vec![lit(settings.show(&name).unwrap_or_default())]]
    };
    let plan = LogicalPlanBuilder::values(rows).and_then(|values| {
        let columns = values.schema().columns().into_iter().zip(schema.fields());
        let columns: Vec<_> = columns
            .map(|(column, field)| datafusion::prelude::Expr::Column(column).alias(field.name()))
            .collect();
        values.project(columns)?.build()
    });
    plan.map_err(|error| SqlError::of_plan(&error))
}
