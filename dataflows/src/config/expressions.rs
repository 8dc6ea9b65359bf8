//! Plans the SQL expressions of a topology with DataFusion, against the schema of their input.

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
use tidegate_facts::suggest::did_you_mean;
use tidegate_operators::core::expr::Expr;
use tidegate_operators::credibility::drift::BEYOND;

/// Plans the SQL expressions of a topology, each over one row. One planner serves a whole topology.
pub struct Expressions {
    context: SessionContext,
}

impl Default for Expressions {
    fn default() -> Self {
        let mut config = SessionConfig::new();
        // Column names keep the case in which they are written.
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
        Expressions { context }
    }
}

/// The name of the function that topologies' SQL expressions have to convert a number to whole
/// millionths, the form in which drift measures it.
///
/// It is a function because the equivalent `case` expression costs as much as the drift state
/// itself.
pub const MILLIONTHS: &str = "millionths";

/// The bound below which the SQL function [`MILLIONTHS`] converts a number; any other becomes plus
/// or minus [`BEYOND`].
pub const MEASURED_MAX: f64 = 9e12;

/// Whole millionths of each number. NaN is an error.
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

/// A planned SQL expression of a topology, and the columns it reads.
pub struct PlannedExpr {
    /// The expression.
    pub expr: Expr,
    /// The input columns that it reads.
    pub reads: Vec<String>,
}

impl Expressions {
    /// Plans `text` over rows of `schema`, and casts its value to `data_type` when that is given.
    ///
    /// # Errors
    /// A sentence that says what is wrong with the text and how to mend it.
    pub fn plan(
        &self,
        text: &str,
        schema: &Schema,
        data_type: Option<&DataType>,
    ) -> Result<PlannedExpr, String> {
        let df_schema = DFSchema::try_from(schema.clone()).map_err(|error| error.strip_backtrace())?;
        let logical =
            self.context.parse_sql_expr(text, &df_schema).map_err(|error| sentence(text, &error, schema))?;
        refuse_volatile_and_aggregate(text, &logical)?;
        let logical = match data_type {
            Some(data_type) => cast(logical, data_type.clone()),
            None => logical,
        };
        let logical = self.simplified(logical, &df_schema).map_err(|error| sentence(text, &error, schema))?;
        let reads: Vec<String> =
            logical.column_refs().into_iter().map(|column| column.name.clone()).collect();
        refuse_tick_and_diff_of_a_changelog(text, schema, &reads)?;
        let physical = self
            .context
            .create_physical_expr(logical, &df_schema)
            .map_err(|error| sentence(text, &error, schema))?;
        let data_type = physical.data_type(schema).map_err(|error| sentence(text, &error, schema))?;
        Ok(PlannedExpr { expr: Expr { text: Arc::from(text), physical, data_type }, reads })
    }

    /// Coerces the types of the expression and simplifies it, as DataFusion's optimizer would: some
    /// functions exist only to be rewritten.
    fn simplified(&self, expr: Logical, schema: &DFSchema) -> Result<Logical, DataFusionError> {
        let context = SimplifyContext::builder().with_schema(Arc::new(schema.clone())).build();
        let simplifier = ExprSimplifier::new(context);
        simplifier.simplify(simplifier.coerce(expr, schema)?)
    }

    /// Plans a boolean expression.
    ///
    /// # Errors
    /// As [`Expressions::plan`], and when the expression is not a boolean.
    pub fn plan_boolean(&self, text: &str, schema: &Schema) -> Result<PlannedExpr, String> {
        let planned = self.plan(text, schema, None)?;
        match planned.expr.data_type {
            DataType::Boolean => Ok(planned),
            ref other => Err(format!("`{text}` is a {other}; write a condition that is true or false")),
        }
    }
}

/// Over a changelog, refuses an expression that reads `_tick` or `_diff`: its value would differ
/// between a row and its retraction.
fn refuse_tick_and_diff_of_a_changelog(text: &str, schema: &Schema, reads: &[String]) -> Result<(), String> {
    let own = [columns::TICK, columns::DIFF];
    let read = reads.iter().find(|name| own.contains(&name.as_str()));
    match read {
        Some(name) if schema.index_of(columns::DIFF).is_ok() => Err(format!(
            "`{text}` reads `{name}` of a changelog, which differs between a row and its retraction, so what was \
             computed from the row would never be retracted; compute from the row's own columns"
        )),
        _ => Ok(()),
    }
}

/// Refuses what a replay could compute differently, and what reads more than one row.
fn refuse_volatile_and_aggregate(text: &str, expr: &Logical) -> Result<(), String> {
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
                "`{text}` aggregates with {}(); put aggregates into a `windows` node",
                call.func.name()
            )),
            Logical::WindowFunction(_)
            | Logical::ScalarSubquery(_)
            | Logical::Exists(_)
            | Logical::InSubquery(_) => {
                Some(format!("`{text}` reads other rows; an expression can use only the columns of one row"))
            }
            _ => None,
        };
        Ok(if fault.is_some() { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    });
    walked.map_err(|error: DataFusionError| error.strip_backtrace())?;
    fault.map_or(Ok(()), Err)
}

/// DataFusion's error as one sentence; an unknown column is answered with the columns that exist.
fn sentence(text: &str, error: &DataFusionError, schema: &Schema) -> String {
    if let DataFusionError::SchemaError(inner, _) = error.find_root()
        && let SchemaError::FieldNotFound { field, .. } = inner.as_ref()
    {
        let existing: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
        return format!(
            "`{text}` reads column `{}`, which its input does not have; {}",
            field.name,
            did_you_mean(&field.name, &existing)
        );
    }
    let message = error.strip_backtrace();
    let message = message.lines().next().unwrap_or_default();
    format!("`{text}` cannot be planned: {message}")
}
