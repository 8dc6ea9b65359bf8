//! Evaluates correlated subqueries over the catalogue that DataFusion cannot plan.
//!
//! DataFusion turns correlated subqueries into joins. It refuses those that it cannot turn: scalar
//! subqueries without an aggregate, and `ARRAY(SELECT ..)`. Clients send such subqueries about the
//! catalogue, which has few rows. So:
//!
//! * a subquery over a table without rows is replaced by its result: a null, an empty array, or
//!   false;
//! * any other becomes a function of the outer columns that it reads. The function puts their
//!   values into the plan of the subquery and runs it, once for each combination of values.
//!
//! A scalar subquery with more than one row is an error, as in Postgres. Subqueries over other
//! tables are left to DataFusion.

use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, FieldRef};
use async_trait::async_trait;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, ScalarValue, internal_err};
use datafusion::datasource::empty::EmptyTable;
use datafusion::datasource::source_as_provider;
use datafusion::error::Result;
use datafusion::execution::SessionState;
use datafusion::logical_expr::async_udf::{AsyncScalarUDF, AsyncScalarUDFImpl};
use datafusion::logical_expr::expr::{Exists, InSubquery, ScalarFunction};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{
    ColumnarValue, JoinType, LogicalPlan, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
    Signature, Subquery, TypeSignature, Volatility,
};
use datafusion::physical_plan::collect;
use datafusion::prelude::{Expr, lit};

use super::objects::{INFORMATION_SCHEMA, PG_CATALOG};
use crate::error::SqlError;

/// The name of the function that `ARRAY(SELECT ..)` is planned as.
pub(crate) const ARRAY_SUBQUERY: &str = "array_subquery";

/// The most combinations of outer values for which a subquery is run.
const RUNS_MAX: usize = 20_000;

/// Replaces the subqueries of a plan that DataFusion would refuse, such as correlated ones over the
/// catalogue.
///
/// # Errors
/// 0A000 for `ARRAY(SELECT ..)` over other tables than those of the catalogue.
pub(crate) fn answer(plan: LogicalPlan, state: &Arc<SessionState>) -> Result<LogicalPlan> {
    let answered = plan.transform_up(|node| {
        let around = merge_schema(&node.inputs());
        let names = NamePreserver::new(&node);
        let node = node.map_expressions(|expr| {
            if !has_subquery(&expr) {
                return Ok(Transformed::no(expr));
            }
            let name = names.save(&expr);
            let answered = expr.transform_down(|expr| answer_expression(expr, &around, state))?;
            Ok(answered.update_data(|expr| name.restore(expr)))
        })?;
        if node.transformed { node.map_data(LogicalPlan::recompute_schema) } else { Ok(node) }
    });
    answered.map(|plan| plan.data)
}

fn has_subquery(expr: &Expr) -> bool {
    let found = expr
        .exists(|expr| Ok(matches!(expr, Expr::ScalarSubquery(_) | Expr::Exists(_) | Expr::InSubquery(_))));
    found.unwrap_or(false)
}

fn answer_expression(expr: Expr, around: &DFSchema, state: &Arc<SessionState>) -> Result<Transformed<Expr>> {
    Ok(match expr {
        Expr::ScalarFunction(call) if call.name() == ARRAY_SUBQUERY => {
            let [Expr::ScalarSubquery(subquery)] = call.args.as_slice() else {
                return internal_err!("{ARRAY_SUBQUERY} of no subquery");
            };
            let plan = inner(subquery, state)?;
            if !reads_catalogue(&plan) {
                let what =
                    "ARRAY(SELECT ..) is supported over the catalogue only; write (SELECT array_agg(..) ..)";
                return Err(SqlError::new("0A000", what).raise());
            }
            done(RowSubquery::call(plan, Kind::Array, around, state))
        }
        Expr::ScalarSubquery(subquery) => {
            let plan = inner(&subquery, state)?;
            let is_correlated = !plan.all_out_ref_exprs().is_empty();
            if is_correlated && reads_catalogue(&plan) {
                done(RowSubquery::call(plan, Kind::Scalar, around, state))
            } else {
                done(Expr::ScalarSubquery(of(plan, subquery)))
            }
        }
        Expr::Exists(Exists { subquery, negated }) => {
            let plan = inner(&subquery, state)?;
            match is_empty(&plan) {
                true => done(lit(negated)),
                false => done(Expr::Exists(Exists { subquery: of(plan, subquery), negated })),
            }
        }
        Expr::InSubquery(InSubquery { expr, subquery, negated }) => {
            let plan = inner(&subquery, state)?;
            match is_empty(&plan) {
                true => done(lit(negated)),
                false => {
                    // The tested value may contain subqueries itself.
                    let expr = expr.transform_down(|expr| answer_expression(expr, around, state))?.data;
                    done(Expr::InSubquery(InSubquery::new(Box::new(expr), of(plan, subquery), negated)))
                }
            }
        }
        other => Transformed::no(other),
    })
}

/// An expression whose parts have been visited already.
fn done(expr: Expr) -> Transformed<Expr> {
    Transformed::new(expr, true, TreeNodeRecursion::Jump)
}

/// The plan of a subquery, with its own subqueries replaced.
fn inner(subquery: &Subquery, state: &Arc<SessionState>) -> Result<LogicalPlan> {
    answer(subquery.subquery.as_ref().clone(), state)
}

fn of(plan: LogicalPlan, before: Subquery) -> Subquery {
    let outer_ref_columns = plan.all_out_ref_exprs();
    Subquery { subquery: Arc::new(plan), outer_ref_columns, spans: before.spans }
}

/// Whether a plan reads only tables of the catalogue and table functions.
fn reads_catalogue(plan: &LogicalPlan) -> bool {
    let mut reads_other = false;
    let walked = plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node {
            let schema = scan.table_name.schema();
            let is_function = scan.table_name.table().ends_with("()");
            reads_other |= !is_function
                && !schema.is_some_and(|schema| [PG_CATALOG.0, INFORMATION_SCHEMA.0].contains(&schema));
        }
        Ok(TreeNodeRecursion::Continue)
    });
    walked.is_ok() && !reads_other
}

/// Whether a plan returns no rows because a table has none.
fn is_empty(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::EmptyRelation(empty) => !empty.produce_one_row,
        LogicalPlan::TableScan(scan) => {
            let provider = source_as_provider(&scan.source);
            provider.is_ok_and(|provider| (provider.as_ref() as &dyn Any).is::<EmptyTable>())
        }
        LogicalPlan::Aggregate(aggregate) => !aggregate.group_expr.is_empty() && is_empty(&aggregate.input),
        LogicalPlan::Join(join) => match join.join_type {
            JoinType::Inner => is_empty(&join.left) || is_empty(&join.right),
            JoinType::Left | JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark => {
                is_empty(&join.left)
            }
            JoinType::Right | JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark => {
                is_empty(&join.right)
            }
            JoinType::Full => is_empty(&join.left) && is_empty(&join.right),
        },
        LogicalPlan::Union(union) => union.inputs.iter().all(|input| is_empty(input)),
        LogicalPlan::Projection(_)
        | LogicalPlan::Filter(_)
        | LogicalPlan::Sort(_)
        | LogicalPlan::Limit(_)
        | LogicalPlan::Distinct(_)
        | LogicalPlan::Window(_)
        | LogicalPlan::Unnest(_)
        | LogicalPlan::SubqueryAlias(_)
        | LogicalPlan::Subquery(_) => plan.inputs().into_iter().all(is_empty),
        _ => false,
    }
}

/// The result of a subquery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    /// Its one value.
    Scalar,
    /// All its values in their order.
    Array,
}

/// A correlated subquery as an asynchronous function of outer columns.
struct RowSubquery {
    plan: LogicalPlan,
    kind: Kind,
    /// The outer columns that it reads, in the order of the arguments.
    outer: Vec<Column>,
    returns: FieldRef,
    signature: Signature,
    state: Arc<SessionState>,
}

impl RowSubquery {
    /// The expression that replaces a subquery; `around` is the schema of the outer rows.
    fn call(plan: LogicalPlan, kind: Kind, around: &DFSchema, state: &Arc<SessionState>) -> Expr {
        let value = plan.schema().field(0);
        let returns = match kind {
            Kind::Scalar => value.as_ref().clone().with_nullable(true),
            Kind::Array => Field::new("array", DataType::new_list(value.data_type().clone(), true), true),
        };
        if is_empty(&plan) {
            return lit(nothing(kind, &returns));
        }
        let mut outer = Vec::new();
        let mut args = Vec::new();
        for reference in plan.all_out_ref_exprs() {
            let Expr::OuterReferenceColumn(field, column) = reference else { continue };
            // A column of a query further out stays an outer reference.
            args.push(match around.has_column(&column) {
                true => Expr::Column(column.clone()),
                false => Expr::OuterReferenceColumn(field, column.clone()),
            });
            outer.push(column);
        }
        let arity = if args.is_empty() { TypeSignature::Nullary } else { TypeSignature::Any(args.len()) };
        // Volatile, so that the optimizer does not move it into a join, where DataFusion cannot run
        // asynchronous functions.
        let signature = Signature::new(arity, Volatility::Volatile);
        let (returns, state) = (Arc::new(returns), Arc::clone(state));
        let function = RowSubquery { plan, kind, outer, returns, signature, state };
        let function: ScalarUDF = AsyncScalarUDF::new(Arc::new(function)).into_scalar_udf();
        Expr::ScalarFunction(ScalarFunction::new_udf(Arc::new(function), args))
    }

    /// Runs the subquery for one row of outer values.
    async fn run(&self, row: &[ScalarValue]) -> Result<ScalarValue> {
        let plan = with_values(self.plan.clone(), &self.outer, row)?;
        let physical = self.state.create_physical_plan(&plan).await?;
        let batches = collect(physical, self.state.task_ctx()).await?;
        let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
        match self.kind {
            Kind::Scalar if rows > 1 => {
                let what = "more than one row returned by a subquery used as an expression";
                Err(SqlError::new("21000", what).raise())
            }
            _ if rows == 0 => Ok(nothing(self.kind, &self.returns)),
            Kind::Scalar => {
                let batch = batches.iter().find(|batch| batch.num_rows() > 0).expect("one has the row");
                ScalarValue::try_from_array(batch.column(0), 0)
            }
            Kind::Array => {
                let values = batches.iter().flat_map(|batch| {
                    (0..batch.num_rows()).map(|row| ScalarValue::try_from_array(batch.column(0), row))
                });
                let values = values.collect::<Result<Vec<_>>>()?;
                let data_type = values[0].data_type();
                let list = ScalarValue::List(ScalarValue::new_list(&values, &data_type, true));
                list.cast_to(self.returns.data_type())
            }
        }
    }
}

/// The result of a subquery without rows.
fn nothing(kind: Kind, returns: &Field) -> ScalarValue {
    match (kind, returns.data_type()) {
        (Kind::Array, DataType::List(element)) => {
            ScalarValue::List(ScalarValue::new_list(&[], element.data_type(), true))
        }
        (_, data_type) => ScalarValue::try_from(data_type).unwrap_or(ScalarValue::Null),
    }
}

/// Replaces outer columns in a plan by values.
fn with_values(plan: LogicalPlan, outer: &[Column], row: &[ScalarValue]) -> Result<LogicalPlan> {
    let replaced = plan.transform_up_with_subqueries(|node| {
        let names = NamePreserver::new(&node);
        let node = node.map_expressions(|expr| {
            let name = names.save(&expr);
            let replaced = expr.transform_up(|expr| match &expr {
                Expr::OuterReferenceColumn(_, column) => {
                    Ok(match outer.iter().position(|own| own == column) {
                        Some(index) => Transformed::yes(lit(row[index].clone())),
                        None => Transformed::no(expr),
                    })
                }
                _ => Ok(Transformed::no(expr)),
            })?;
            Ok(replaced.update_data(|expr| name.restore(expr)))
        })?;
        if node.transformed { node.map_data(LogicalPlan::recompute_schema) } else { Ok(node) }
    })?;
    // `FROM unnest(outer.column)` was planned as a subquery of its own.
    let flat = replaced.data.transform_up(|node| match node {
        LogicalPlan::Subquery(own) if own.subquery.all_out_ref_exprs().is_empty() => {
            Ok(Transformed::yes(Arc::unwrap_or_clone(own.subquery)))
        }
        node => Ok(Transformed::no(node)),
    });
    flat.map(|plan| plan.data)
}

impl fmt::Debug for RowSubquery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RowSubquery").field("plan", &self.plan).finish_non_exhaustive()
    }
}

impl PartialEq for RowSubquery {
    fn eq(&self, other: &RowSubquery) -> bool {
        (self.kind, &self.plan) == (other.kind, &other.plan)
    }
}

impl Eq for RowSubquery {}

impl Hash for RowSubquery {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.kind.hash(state);
        self.plan.hash(state);
    }
}

impl ScalarUDFImpl for RowSubquery {
    fn name(&self) -> &'static str {
        "subquery"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(self.returns.data_type().clone())
    }

    fn return_field_from_args(&self, _: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        Ok(Arc::clone(&self.returns))
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> Result<ColumnarValue> {
        internal_err!("a subquery is run asynchronously")
    }
}

#[async_trait]
impl AsyncScalarUDFImpl for RowSubquery {
    async fn invoke_async_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let columns = args.args.iter().map(|arg| arg.to_array(args.number_rows));
        let columns = columns.collect::<Result<Vec<_>>>()?;
        let mut answers: HashMap<Vec<ScalarValue>, ScalarValue> = HashMap::new();
        let mut values = Vec::with_capacity(args.number_rows);
        for at in 0..args.number_rows {
            let row = columns.iter().map(|column| ScalarValue::try_from_array(column, at));
            let row = row.collect::<Result<Vec<_>>>()?;
            if let Some(answer) = answers.get(&row) {
                values.push(answer.clone());
                continue;
            }
            if answers.len() == RUNS_MAX {
                let what =
                    format!("a subquery over the catalogue would be run for more than {RUNS_MAX} rows");
                return Err(SqlError::new("54000", what).raise());
            }
            let answer = self.run(&row).await?;
            values.push(answer.clone());
            answers.insert(row, answer);
        }
        let array = match values.is_empty() {
            true => arrow::array::new_empty_array(self.returns.data_type()),
            false => ScalarValue::iter_to_array(values)?,
        };
        Ok(ColumnarValue::Array(array))
    }
}

/// The function that `ARRAY(SELECT ..)` is planned as, until [`answer`] replaces it.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct ArraySubquery {
    signature: Signature,
}

impl ArraySubquery {
    pub(super) fn udf() -> ScalarUDF {
        ScalarUDF::from(ArraySubquery { signature: Signature::any(1, Volatility::Stable) })
    }
}

impl ScalarUDFImpl for ArraySubquery {
    fn name(&self) -> &str {
        ARRAY_SUBQUERY
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, args: &[DataType]) -> Result<DataType> {
        Ok(DataType::new_list(args[0].clone(), true))
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> Result<ColumnarValue> {
        internal_err!("ARRAY(SELECT ..) was not answered")
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::super::tests::answer;

    async fn check(sql: &str, expect: Expect) {
        expect.assert_eq(&answer(sql).await);
    }

    #[tokio::test]
    async fn a_scalar_subquery_is_answered_for_each_row() {
        check(
            "SELECT t.typname, (SELECT e.typname FROM pg_type e WHERE e.oid = t.typelem) AS element,
               (SELECT c.collname FROM pg_collation c WHERE c.oid = t.typcollation AND c.oid <> t.typelem)
             FROM pg_type t WHERE t.typname IN ('_text', 'bool', 'name') ORDER BY 1",
            expect![[r#"
                +---------+---------+----------+
                | typname | element | collname |
                +---------+---------+----------+
                | _text   | text    | default  |
                | bool    |         |          |
                | name    | char    | C        |
                +---------+---------+----------+"#]],
        )
        .await;
        check(
            "SELECT count(*) AS n FROM pg_type t
             WHERE (SELECT n.nspname FROM pg_namespace n WHERE n.oid = t.typnamespace) <> 'pg_catalog'",
            expect![[r#"
                +---+
                | n |
                +---+
                | 0 |
                +---+"#]],
        )
        .await;
    }

    #[tokio::test]
    async fn a_subquery_of_several_rows_is_an_error_and_of_none_a_null() {
        check(
            "SELECT (SELECT t.typname FROM pg_type t WHERE t.typnamespace = n.oid) FROM pg_namespace n",
            expect!["21000 more than one row returned by a subquery used as an expression"],
        )
        .await;
        check(
            "SELECT n.nspname, (SELECT d.description FROM pg_description d WHERE d.objoid = n.oid) AS comment
             FROM pg_namespace n ORDER BY 1",
            expect![[r#"
                +--------------------+---------+
                | nspname            | comment |
                +--------------------+---------+
                | information_schema |         |
                | pg_catalog         |         |
                | public             |         |
                +--------------------+---------+"#]],
        )
        .await;
    }

    #[tokio::test]
    async fn arrays_of_subqueries_keep_the_order_of_their_rows() {
        check(
            "SELECT n.nspname, ARRAY(SELECT c.relname FROM pg_class c WHERE c.relnamespace = n.oid
               AND c.relkind = 'r' AND n.nspname = 'public' ORDER BY 1 DESC) AS tables
             FROM pg_namespace n ORDER BY 1",
            expect![[r#"
                +--------------------+---------------------+
                | nspname            | tables              |
                +--------------------+---------------------+
                | information_schema | []                  |
                | pg_catalog         | []                  |
                | public             | [decisions, Labels] |
                +--------------------+---------------------+"#]],
        )
        .await;
        check(
            "SELECT r.rolname, ARRAY(SELECT b.rolname FROM pg_catalog.pg_auth_members m
               JOIN pg_catalog.pg_roles b ON (m.roleid = b.oid) WHERE m.member = r.oid) AS memberof
             FROM pg_catalog.pg_roles r WHERE r.rolname !~ '^pg_'",
            expect![[r#"
                +----------+----------+
                | rolname  | memberof |
                +----------+----------+
                | tidegate | []       |
                +----------+----------+"#]],
        )
        .await;
        check(
            "SELECT n.nspname, ARRAY(SELECT 'x.' || word FROM unnest(string_to_array(n.nspname, '_')) word) AS words
             FROM pg_namespace n ORDER BY 1",
            expect![[r#"
                +--------------------+---------------------------+
                | nspname            | words                     |
                +--------------------+---------------------------+
                | information_schema | [x.information, x.schema] |
                | pg_catalog         | [x.pg, x.catalog]         |
                | public             | [x.public]                |
                +--------------------+---------------------------+"#]],
        )
        .await;
        check(
            "SELECT ARRAY(SELECT event_id FROM decisions) FROM pg_am",
            expect![
                "0A000 ARRAY(SELECT ..) is supported over the catalogue only; write (SELECT array_agg(..) ..)"
            ],
        )
        .await;
    }

    #[tokio::test]
    async fn subqueries_in_subqueries_read_the_rows_around_both() {
        check(
            "SELECT n.nspname, (SELECT c.relname FROM pg_class c
               WHERE c.relnamespace = n.oid AND c.relname = 'decisions'
               AND (SELECT count(*) FROM pg_attribute a WHERE a.attrelid = c.oid) = 4) AS name
             FROM pg_namespace n ORDER BY 1",
            expect![[r#"
                +--------------------+-----------+
                | nspname            | name      |
                +--------------------+-----------+
                | information_schema |           |
                | pg_catalog         |           |
                | public             | decisions |
                +--------------------+-----------+"#]],
        )
        .await;
    }
}
