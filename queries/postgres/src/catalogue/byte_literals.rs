//! Texts that are compared with bytes or cast to bytes: `hash = '\x00ff'` has a `bytea` literal.
//!
//! DataFusion would take the characters of the text as its bytes.

use arrow::datatypes::DataType;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::error::Result;
use datafusion::logical_expr::expr::{Between, Cast, InList};
use datafusion::logical_expr::{BinaryExpr, ExprSchemable, LogicalPlan, Operator};
use datafusion::prelude::{Expr, lit};

use super::plan_expressions::replace_expressions;
use crate::bytea;
use crate::error::SqlError;

/// Replaces texts that are compared with bytes or cast to bytes by `bytea` literals.
///
/// # Errors
/// 22P02 for a text that is no `bytea`.
pub(super) fn resolve(plan: LogicalPlan) -> Result<LogicalPlan> {
    replace_expressions(plan, |expr, schema| {
        Ok(match expr {
            Expr::Cast(Cast { expr: of, field }) if is_bytes(field.data_type()) => {
                let literal = bytes(&of, field.data_type())?;
                match literal {
                    Some(literal) => Transformed::yes(literal),
                    None => Transformed::no(Expr::Cast(Cast { expr: of, field })),
                }
            }
            Expr::BinaryExpr(BinaryExpr { mut left, op, mut right }) if compares(op) => {
                let changed = beside(&left, &mut right, schema)? | beside(&right, &mut left, schema)?;
                Transformed::new_transformed(Expr::BinaryExpr(BinaryExpr { left, op, right }), changed)
            }
            Expr::InList(InList { expr, mut list, negated }) => {
                let mut changed = false;
                for value in &mut list {
                    changed |= beside(&expr, value, schema)?;
                }
                Transformed::new_transformed(Expr::InList(InList { expr, list, negated }), changed)
            }
            Expr::Between(Between { expr, negated, mut low, mut high }) => {
                let changed = beside(&expr, &mut low, schema)? | beside(&expr, &mut high, schema)?;
                Transformed::new_transformed(Expr::Between(Between { expr, negated, low, high }), changed)
            }
            expr => Transformed::no(expr),
        })
    })
}

fn compares(op: Operator) -> bool {
    use Operator::{Eq, Gt, GtEq, IsDistinctFrom, IsNotDistinctFrom, Lt, LtEq, NotEq};
    matches!(op, Eq | NotEq | Lt | LtEq | Gt | GtEq | IsDistinctFrom | IsNotDistinctFrom)
}

fn is_bytes(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_)
    )
}

/// Makes a text literal bytes if the expression that it is compared with has bytes. Returns whether
/// it did.
fn beside(compared: &Expr, literal: &mut Expr, schema: &DFSchema) -> Result<bool> {
    let Some(data_type) = compared.get_type(schema).ok().filter(is_bytes) else { return Ok(false) };
    let Some(bytes) = bytes(literal, &data_type)? else { return Ok(false) };
    *literal = bytes;
    Ok(true)
}

/// The bytes of a text literal; `None` for other expressions.
fn bytes(literal: &Expr, data_type: &DataType) -> Result<Option<Expr>> {
    let Expr::Literal(value, _) = literal else { return Ok(None) };
    let Some(Some(text)) = value.try_as_str() else { return Ok(None) };
    let Some(bytes) = bytea::of_literal(text) else {
        return Err(SqlError::new("22P02", format!("`{text}` is no bytea; write '\\x' and digits")).raise());
    };
    let value = ScalarValue::Binary(Some(bytes));
    // Bytes of another length differ from every value of the column.
    Ok(Some(lit(value.cast_to(data_type).unwrap_or(value))))
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::super::tests::answer;

    #[tokio::test]
    async fn texts_beside_bytes_are_bytes() {
        let same = answer(
            r"SELECT '\x61'::bytea = 'a' AS a, X'00ff' = '\x00ff' AS b, X'00' IN ('\x00', 'a') AS c,
               X'01' BETWEEN '\x00' AND '\x02' AS d, X'61' = '\x62' AS e, 'a' = '\x61' AS f",
        );
        expect![[r#"
            +------+------+------+------+-------+-------+
            | a    | b    | c    | d    | e     | f     |
            +------+------+------+------+-------+-------+
            | true | true | true | true | false | false |
            +------+------+------+------+-------+-------+"#]]
        .assert_eq(&same.await);
        let wrong = answer(r"SELECT '\x0'::bytea").await;
        assert!(wrong.starts_with("22P02"), "{wrong}");
    }
}
