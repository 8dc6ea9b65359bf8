//! SQL expressions of a topology, planned by DataFusion against the schema of their input.

use std::sync::Arc;

use arrow::array::{AsArray, Int64Array};
use arrow::datatypes::{DataType, Float64Type, Schema};
use arrow::error::ArrowError;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, DataFusionError, SchemaError};
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{ColumnarValue, Expr as Logical, Volatility, cast, create_udf};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::prelude::{SessionConfig, SessionContext};
use tidegate_facts::columns;
use tidegate_facts::names::choices;
use tidegate_operators::drift::BEYOND;
use tidegate_operators::expr::Expr;

/// Plans expressions. One is enough for a whole topology.
pub struct Sql {
    context: SessionContext,
}

impl Default for Sql {
    fn default() -> Self {
        let mut config = SessionConfig::new();
        // A column is what its name says, in the case it is written in.
        config.options_mut().sql_parser.enable_ident_normalization = false;
        config.options_mut().sql_parser.map_string_types_to_utf8view = false;
        let context = SessionContext::new_with_config(config);
        context.register_udf(create_udf(
            MILLIONTHS,
            vec![DataType::Float64],
            DataType::Int64,
            Volatility::Immutable,
            Arc::new(|values| millionths(&values[0])),
        ));
        Sql { context }
    }
}

/// What a measured number is kept as: a function, since a `case` with six columns between costs as much as a state does.
pub const MILLIONTHS: &str = "millionths";

/// Numbers whose millionths are represented; what is greater is [`BEYOND`].
pub const MEASURED_MAX: f64 = 9e12;

/// Whole millionths of each number. What is no number at all fails.
fn millionths(numbers: &ColumnarValue) -> Result<ColumnarValue, DataFusionError> {
    let one = |number: f64| match number {
        _ if number.is_nan() => Err(ArrowError::ComputeError("NaN is not measured".to_owned())),
        _ if number.abs() < MEASURED_MAX => Ok((number * 1e6).round() as i64),
        _ if number > 0.0 => Ok(BEYOND),
        _ => Ok(-BEYOND),
    };
    let numbers = numbers.to_array(1)?;
    let whole: Int64Array = numbers.as_primitive::<Float64Type>().try_unary(one)?;
    Ok(ColumnarValue::Array(Arc::new(whole)))
}

/// A planned expression and the columns it reads.
pub struct Planned {
    /// The expression.
    pub expr: Expr,
    /// The input columns that it reads.
    pub reads: Vec<String>,
}

impl Sql {
    /// Plans `text` over rows of `schema`, cast to `wanted` when that is given.
    ///
    /// # Errors
    /// A sentence on what is wrong with the text and how to mend it.
    pub fn plan(&self, text: &str, schema: &Schema, wanted: Option<&DataType>) -> Result<Planned, String> {
        let df_schema = DFSchema::try_from(schema.clone()).map_err(|error| error.strip_backtrace())?;
        let logical =
            self.context.parse_sql_expr(text, &df_schema).map_err(|error| sentence(text, &error, schema))?;
        refuse_what_a_replay_could_change(text, &logical)?;
        let logical = match wanted {
            Some(data_type) => cast(logical, data_type.clone()),
            None => logical,
        };
        let logical = self.simplified(logical, &df_schema).map_err(|error| sentence(text, &error, schema))?;
        let reads: Vec<String> =
            logical.column_refs().into_iter().map(|column| column.name.clone()).collect();
        refuse_what_is_not_taken_back(text, schema, &reads)?;
        let physical = self
            .context
            .create_physical_expr(logical, &df_schema)
            .map_err(|error| sentence(text, &error, schema))?;
        let data_type = physical.data_type(schema).map_err(|error| sentence(text, &error, schema))?;
        Ok(Planned { expr: Expr { text: Arc::from(text), physical, data_type }, reads })
    }

    /// The expression with its types made to agree, and rewritten as DataFusion's optimizer would: some
    /// functions exist only to be rewritten.
    fn simplified(&self, expr: Logical, schema: &DFSchema) -> Result<Logical, DataFusionError> {
        let context = SimplifyContext::builder().with_schema(Arc::new(schema.clone())).build();
        let simplifier = ExprSimplifier::new(context);
        simplifier.simplify(simplifier.coerce(expr, schema)?)
    }

    /// Plans a boolean.
    ///
    /// # Errors
    /// As [`Sql::plan`], and when the text is not a boolean.
    pub fn plan_boolean(&self, text: &str, schema: &Schema) -> Result<Planned, String> {
        let planned = self.plan(text, schema, None)?;
        match planned.expr.data_type {
            DataType::Boolean => Ok(planned),
            ref other => Err(format!("`{text}` is a {other}; write a condition that is true or false")),
        }
    }
}

/// Over a changelog, only what is the same when a row is taken back may be computed of it.
fn refuse_what_is_not_taken_back(text: &str, schema: &Schema, reads: &[String]) -> Result<(), String> {
    let own = [columns::TICK, columns::DIFF];
    let read = reads.iter().find(|name| own.contains(&name.as_str()));
    match read {
        Some(name) if schema.index_of(columns::DIFF).is_ok() => Err(format!(
            "`{text}` reads `{name}` of a changelog, which is another when a row is taken back than when it was given, so \
             what follows from the row would stay for ever; compute from the row's own columns"
        )),
        _ => Ok(()),
    }
}

/// Only what gives the same value on every run may stand in an operator.
fn refuse_what_a_replay_could_change(text: &str, expr: &Logical) -> Result<(), String> {
    let mut fault = None;
    let walked = expr.apply(|part| {
        fault = match part {
            Logical::ScalarFunction(call) if call.func.signature().volatility != Volatility::Immutable => {
                Some(format!(
                    "`{text}` calls {}(), whose value depends on when it runs; use the fact's own times",
                    call.func.name()
                ))
            }
            Logical::AggregateFunction(call) => Some(format!(
                "`{text}` aggregates with {}(); aggregates belong into a `windows` node",
                call.func.name()
            )),
            Logical::WindowFunction(_)
            | Logical::ScalarSubquery(_)
            | Logical::Exists(_)
            | Logical::InSubquery(_) => {
                Some(format!("`{text}` looks beyond its row; only the columns of one row can be used here"))
            }
            _ => None,
        };
        Ok(if fault.is_some() { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    });
    walked.map_err(|error: DataFusionError| error.strip_backtrace())?;
    fault.map_or(Ok(()), Err)
}

/// DataFusion's error as a sentence that knows the columns there are.
fn sentence(text: &str, error: &DataFusionError, schema: &Schema) -> String {
    if let DataFusionError::SchemaError(inner, _) = error.find_root()
        && let SchemaError::FieldNotFound { field, .. } = inner.as_ref()
    {
        let known: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
        return format!(
            "`{text}` reads column `{}`, which its input does not have; {}",
            field.name,
            choices(&field.name, &known)
        );
    }
    let message = error.strip_backtrace();
    let message = message.lines().next().unwrap_or_default();
    format!("`{text}` cannot be planned: {message}")
}
