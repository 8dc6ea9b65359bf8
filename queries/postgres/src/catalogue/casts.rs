//! Casts between object names and oids: `'decisions'::regclass` is a number, and
//! `oid::regtype::text` a name.
//!
//! DataFusion would cast the number to its digits. Which types a cast converts is known once the
//! statement is planned, from the types that fields name in their metadata.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field};
use datafusion::common::DFSchema;
use datafusion::common::tree_node::Transformed;
use datafusion::error::Result;
use datafusion::logical_expr::expr::{Cast, ScalarFunction, TryCast};
use datafusion::logical_expr::{ExprSchemable, LogicalPlan, ScalarUDF};
use datafusion::prelude::Expr;

use super::functions::{cast_from_object, cast_to_object};
use super::objects::Objects;
use super::plan_expressions::replace_expressions;
use crate::types;

/// Replaces the casts to and from types such as `regclass` by function calls.
pub(super) fn resolve(plan: LogicalPlan, objects: &Arc<Objects>) -> Result<LogicalPlan> {
    replace_expressions(plan, |expr, schema| Ok(resolve_cast(expr, schema, objects)))
}

fn resolve_cast(expr: Expr, schema: &DFSchema, objects: &Arc<Objects>) -> Transformed<Expr> {
    let (of, field) = match &expr {
        Expr::Cast(Cast { expr, field }) | Expr::TryCast(TryCast { expr, field }) => (expr, field),
        _ => return Transformed::no(expr),
    };
    match function(of, field, schema, objects) {
        Some(function) => {
            let args = vec![of.as_ref().clone()];
            Transformed::yes(Expr::ScalarFunction(ScalarFunction::new_udf(Arc::new(function), args)))
        }
        None => Transformed::no(expr),
    }
}

/// The function that a cast calls.
fn function(of: &Expr, to: &Field, schema: &DFSchema, objects: &Arc<Objects>) -> Option<ScalarUDF> {
    let to_oid = types::oid_of(to);
    if types::is_named_object(to_oid) {
        return cast_to_object(objects, to_oid);
    }
    let is_text = matches!(to.data_type(), DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8);
    let (_, from) = of.to_field(schema).ok()?;
    let from_oid = types::oid_of(&from);
    if is_text && types::is_named_object(from_oid) { cast_from_object(objects, from_oid) } else { None }
}
