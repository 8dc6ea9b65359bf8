//! The names that Postgres gives to unnamed columns. DataFusion would show their expressions.

use datafusion::sql::sqlparser::ast::{AccessExpr, Expr, SelectItem, SetExpr, Statement, TrimWhereField};

/// The names that Postgres gives to the columns of a statement; `None` for a column that keeps its
/// own name. Returns `None` for a statement with wildcards, since the number of their columns is
/// unknown.
pub(crate) fn of(statement: &Statement) -> Option<Vec<Option<String>>> {
    let Statement::Query(query) = statement else { return None };
    let mut body = query.body.as_ref();
    let select = loop {
        match body {
            SetExpr::Select(select) => break select,
            SetExpr::Query(query) => body = query.body.as_ref(),
            SetExpr::SetOperation { left, .. } => body = left.as_ref(),
            _ => return None,
        }
    };
    let name = |item: &SelectItem| match item {
        SelectItem::UnnamedExpr(Expr::Identifier(column)) if is_special(&column.value) => {
            Some(Some(column.value.to_lowercase()))
        }
        SelectItem::UnnamedExpr(Expr::Identifier(_) | Expr::CompoundIdentifier(_)) => Some(None),
        SelectItem::UnnamedExpr(expr) => Some(Some(name_of(expr).unwrap_or_else(|| "?column?".to_owned()))),
        SelectItem::ExprWithAlias { .. } => Some(None),
        _ => None,
    };
    select.projection.iter().map(name).collect()
}

/// Whether a word without brackets is a function.
fn is_special(name: &str) -> bool {
    name.eq_ignore_ascii_case("current_schema")
}

/// The name that Postgres gives to an unnamed column: that of the function or the cast.
pub(crate) fn name_of(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Identifier(column) => Some(column.value.clone()),
        Expr::CompoundIdentifier(parts) => parts.last().map(|column| column.value.clone()),
        Expr::CompoundFieldAccess { root, access_chain } => {
            let mut fields = access_chain.iter().rev().filter_map(|access| match access {
                AccessExpr::Dot(field) => name_of(field),
                AccessExpr::Subscript(_) => None,
            });
            fields.next().or_else(|| name_of(root))
        }
        Expr::Function(function) => {
            let name = function.name.0.last()?.as_ident()?;
            Some(if name.quote_style.is_some() { name.value.clone() } else { name.value.to_lowercase() })
        }
        Expr::Cast { expr, data_type, .. } => {
            name_of(expr).or_else(|| Some(type_name(&data_type.to_string())))
        }
        Expr::TypedString(text) => Some(type_name(&text.data_type.to_string())),
        Expr::Interval(_) => Some("interval".to_owned()),
        Expr::Nested(expr) | Expr::Collate { expr, .. } => name_of(expr),
        Expr::AtTimeZone { .. } => Some("timezone".to_owned()),
        Expr::Case { else_result, .. } => {
            Some(else_result.as_deref().and_then(name_of).unwrap_or_else(|| "case".to_owned()))
        }
        Expr::Extract { .. } => Some("extract".to_owned()),
        Expr::Substring { .. } => Some("substring".to_owned()),
        Expr::Overlay { .. } => Some("overlay".to_owned()),
        Expr::Trim { trim_where: Some(TrimWhereField::Leading), .. } => Some("ltrim".to_owned()),
        Expr::Trim { trim_where: Some(TrimWhereField::Trailing), .. } => Some("rtrim".to_owned()),
        Expr::Trim { .. } => Some("btrim".to_owned()),
        Expr::Position { .. } => Some("position".to_owned()),
        Expr::Ceil { .. } => Some("ceil".to_owned()),
        Expr::Floor { .. } => Some("floor".to_owned()),
        Expr::Exists { .. } => Some("exists".to_owned()),
        Expr::Array(_) => Some("array".to_owned()),
        Expr::Tuple(_) => Some("row".to_owned()),
        Expr::Subquery(query) => match query.body.as_ref() {
            SetExpr::Select(select) => match select.projection.as_slice() {
                [SelectItem::UnnamedExpr(expr)] => name_of(expr),
                [SelectItem::ExprWithAlias { alias, .. }] => Some(alias.value.clone()),
                _ => None,
            },
            _ => None,
        },
        _ => None,
    }
}

/// The short name of a type in Postgres.
fn type_name(written: &str) -> String {
    let name = written.to_lowercase();
    let name = name.strip_prefix("pg_catalog.").unwrap_or(&name);
    let name = name.split(['(', '[']).next().unwrap_or_default().trim();
    match name {
        "smallint" => "int2",
        "int" | "integer" => "int4",
        "bigint" => "int8",
        "real" => "float4",
        "double precision" | "double" | "float" => "float8",
        "decimal" | "dec" => "numeric",
        "boolean" => "bool",
        "character varying" => "varchar",
        "char" | "character" => "bpchar",
        "timestamp with time zone" => "timestamptz",
        other => other,
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
    use datafusion::sql::sqlparser::parser::Parser;

    use super::*;

    #[test]
    fn columns_without_a_name_are_called_as_postgres_calls_them() {
        let parsed = |sql: &str| Parser::parse_sql(&PostgreSqlDialect {}, sql).expect("it is SQL").remove(0);
        let named = |sql: &str| {
            let names = of(&parsed(sql)).expect("each is known");
            names.into_iter().map(|name| name.unwrap_or_else(|| "-".to_owned())).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(named("SELECT 1, 'a', 1 + 2, -x"), "?column? ?column? ?column? ?column?");
        assert_eq!(named("SELECT a, t.a, a AS b, 1 AS c"), "- - - -");
        assert_eq!(
            named("SELECT count(*), pg_catalog.Version(), current_user, current_schema"),
            "count version current_user current_schema"
        );
        assert_eq!(named("SELECT a::text, 1::bigint, CAST('1' AS numeric(3, 1))"), "a int8 numeric");
        assert_eq!(named("SELECT 'x'::pg_catalog.regclass"), "regclass");
        assert_eq!(named("SELECT CASE WHEN a THEN 1 END, (SELECT max(b) FROM t)"), "case max");
        assert_eq!(
            named("SELECT (t.a).b, c[1], a AT TIME ZONE 'UTC', date '2020-01-01', trim(leading 'x' from a)"),
            "b c timezone date ltrim"
        );
        assert_eq!(named("SELECT count(*) FROM t UNION ALL SELECT 2"), "count");
        assert!(of(&parsed("SELECT *, 1 FROM t")).is_none(), "nobody knows how many columns * is");
    }
}
