//! Translates statements from the notation of Postgres into one that DataFusion plans, without
//! changing their meaning.
//!
//! The differences are operators and functions with the schema `pg_catalog`, functions without
//! brackets, arrays written as text, functions that return rows, and one expression twice in a
//! `SELECT`. Other notation is left unchanged, so that the planner refuses it by name; what the
//! planner would give another meaning is refused here.

use std::collections::BTreeSet;
use std::mem;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    AccessExpr, Array, BinaryOperator, CastKind, DataType as SqlType, Expr, Function, FunctionArg,
    FunctionArgExpr, FunctionArgumentList, FunctionArguments, Ident, ObjectName, ObjectNamePart, Query,
    Select, SelectItem, Statement, TableAliasColumnDef, TableFactor, Value, ValueWithSpan, Visit, VisitMut,
    Visitor, VisitorMut, visit_relations,
};
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::parser::Parser;
use tidegate_queries::statement_limits;

use crate::catalogue::{ARRAY_SUBQUERY, COLLATIONS, Database, INFORMATION_SCHEMA, PG_CATALOG, TIMEZONE};
use crate::error::SqlError;
use crate::{column_names, time_formats};

/// Marks the name of a column that another column of the `SELECT` has too. Clients never see the
/// mark.
const DUPLICATE: char = '\u{1}';

/// A statement as the client wrote it, and its translation for DataFusion.
#[derive(Clone, Debug)]
pub(crate) struct Parsed {
    pub(crate) written: Statement,
    pub(crate) planned: Statement,
}

/// Parses the statements of a text and translates them from the notation of Postgres.
///
/// # Errors
/// 54000 when the text is too long, 42601 when it is not SQL, 42P01 when it reads an unknown table
/// of the catalogue.
pub(crate) fn parse(sql: &str, database: &Database) -> Result<Vec<Parsed>, SqlError> {
    statement_limits::check_text(sql)?;
    let parsed = Parser::parse_sql(&PostgreSqlDialect {}, sql);
    let statements =
        parsed.map_err(|error| SqlError::new("42601", format!("the query is not SQL: {error}")))?;
    let parsed = statements.into_iter().map(|written| {
        let mut planned = written.clone();
        let mut tables = SystemTables { database, common: BTreeSet::new() };
        let _ = Visit::visit(&written, &mut tables);
        let reads_catalogue = tables.are_read(&written);
        let mut notation = Notation { tables, reads_catalogue, error: None };
        let _ = VisitMut::visit(&mut planned, &mut notation);
        match notation.error {
            Some(error) => Err(error),
            None => Ok(Parsed { written, planned }),
        }
    });
    parsed.collect()
}

/// The name of a column without the mark of a duplicate.
pub(crate) fn shown_name(name: &str) -> &str {
    name.strip_prefix(DUPLICATE).and_then(|name| name.split_once(DUPLICATE)).map_or(name, |(_, name)| name)
}

/// The tables of the catalogue, as the names in one statement mean them.
struct SystemTables<'d> {
    database: &'d Database,
    /// The names that the statement itself defines with `WITH`.
    common: BTreeSet<String>,
}

impl SystemTables<'_> {
    /// Whether the statement reads a table of the catalogue.
    fn are_read(&self, statement: &Statement) -> bool {
        let read = visit_relations(statement, |name| match self.find(name) {
            Some(_) => ControlFlow::Break(()),
            None => ControlFlow::Continue(()),
        });
        read.is_break()
    }

    /// The schema and the table of the catalogue that a name means. Clients often omit
    /// `pg_catalog`.
    fn find(&self, name: &ObjectName) -> Option<(&'static str, String)> {
        let parts: Vec<String> = name.0.iter().filter_map(lower).collect();
        match parts.as_slice() {
            [table] if self.common.contains(table) => None,
            [table] if self.database.has_table(PG_CATALOG.0, table) => Some((PG_CATALOG.0, table.clone())),
            [.., schema, table] if schema == PG_CATALOG.0 => Some((PG_CATALOG.0, table.clone())),
            [.., schema, table] if schema == INFORMATION_SCHEMA.0 => {
                Some((INFORMATION_SCHEMA.0, table.clone()))
            }
            _ => None,
        }
    }
}

impl Visitor for SystemTables<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        let tables = query.with.iter().flat_map(|with| &with.cte_tables);
        self.common.extend(tables.map(|table| lower_ident(&table.alias.name)));
        ControlFlow::Continue(())
    }
}

/// A part of a name in lower case, unless it is quoted.
fn lower(part: &ObjectNamePart) -> Option<String> {
    part.as_ident().map(lower_ident)
}

fn lower_ident(ident: &Ident) -> String {
    if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_lowercase() }
}

/// The visitor that translates a statement.
struct Notation<'d> {
    tables: SystemTables<'d>,
    reads_catalogue: bool,
    error: Option<SqlError>,
}

impl Notation<'_> {
    fn refuse(&mut self, error: SqlError) -> ControlFlow<()> {
        self.error = Some(error);
        ControlFlow::Break(())
    }
}

impl VisitorMut for Notation<'_> {
    type Break = ();

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        if let TableFactor::Table { name, args, .. } = factor {
            if args.is_some() {
                strip_schema(name);
            } else if let Some((schema, table)) = self.tables.find(name) {
                if !self.tables.database.has_table(schema, &table) {
                    let what = format!("relation \"{schema}.{table}\" does not exist");
                    return self.refuse(SqlError::new("42P01", what));
                }
                if name.0.len() == 1 {
                    *name = ObjectName::from(vec![Ident::new(schema), Ident::new(table)]);
                }
            }
        }
        of_elements(factor);
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        select.projection.iter_mut().for_each(rows_of_series);
        tell_apart(select);
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        match expr {
            Expr::Collate { expr: inner, collation } => {
                // Texts are compared by their bytes under each of these.
                let name = collation.0.last().and_then(lower).unwrap_or_default();
                if !COLLATIONS.iter().any(|known| name.eq_ignore_ascii_case(known)) {
                    let what = format!("collation \"{name}\" does not exist; texts are compared by bytes");
                    return self.refuse(SqlError::new("42704", what));
                }
                *expr = take(inner);
            }
            Expr::BinaryOp { op, right, left } => {
                if let Some(plain) = plain_operator(op) {
                    *op = plain;
                }
                // In other comparisons a text in braces is just a text.
                if self.reads_catalogue
                    && matches!(op, BinaryOperator::Eq | BinaryOperator::NotEq)
                    && is_roles(left)
                {
                    array_of_text(right, true);
                }
            }
            Expr::Like { pattern, escape_char, .. } | Expr::ILike { pattern, escape_char, .. } => {
                escape_by_backslash(pattern, escape_char);
            }
            Expr::AnyOp { right, .. } | Expr::AllOp { right, .. } => array_of_text(right, false),
            Expr::Cast {
                expr: inner,
                data_type: SqlType::Array(_),
                kind: CastKind::Cast | CastKind::DoubleColon,
                ..
            } => {
                array_of_text(inner, false);
            }
            Expr::CompoundFieldAccess { root, access_chain } if matches!(**root, Expr::Nested(_)) => {
                name_fields(access_chain);
            }
            Expr::Identifier(name)
                if name.quote_style.is_none() && name.value.eq_ignore_ascii_case("current_schema") =>
            {
                *expr = call("current_schema", Vec::new());
            }
            Expr::AtTimeZone { timestamp, time_zone } => {
                *expr = call(TIMEZONE, vec![take(time_zone), take(timestamp)]);
            }
            Expr::SimilarTo { .. } => {
                let what = "SIMILAR TO is not supported; use LIKE or ~";
                return self.refuse(SqlError::new("0A000", what));
            }
            Expr::Function(function) => match function_call(function) {
                Ok(Some(replaced)) => *expr = replaced,
                Ok(None) => {}
                Err(error) => return self.refuse(error),
            },
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

fn take(expr: &mut Expr) -> Expr {
    mem::replace(expr, Expr::value(Value::Null))
}

/// Removes the schema of a system function from its name, since functions of DataFusion have none.
fn strip_schema(name: &mut ObjectName) {
    if let [schema, ObjectNamePart::Identifier(_)] = name.0.as_slice()
        && lower(schema).is_some_and(|schema| [PG_CATALOG.0, INFORMATION_SCHEMA.0].contains(&schema.as_str()))
    {
        name.0.remove(0);
    }
}

/// The call that replaces a function which DataFusion has under another name or notation.
///
/// # Errors
/// 0A000 for a pattern of `to_char` that DataFusion does not have.
fn function_call(function: &mut Function) -> Result<Option<Expr>, SqlError> {
    strip_schema(&mut function.name);
    let [name] = function.name.0.as_slice() else { return Ok(None) };
    let Some(name) = lower(name) else { return Ok(None) };
    Ok(match &mut function.args {
        // Special words such as `current_user`.
        FunctionArguments::None if name == "localtimestamp" => {
            let zone = Expr::value(Value::SingleQuotedString("UTC".to_owned()));
            Some(call(TIMEZONE, vec![zone, call("now", Vec::new())]))
        }
        FunctionArguments::None => Some(call(&name, Vec::new())),
        FunctionArguments::Subquery(subquery) if name == "array" => {
            Some(call(ARRAY_SUBQUERY, vec![Expr::Subquery(subquery.clone())]))
        }
        FunctionArguments::List(list) if name == "generate_subscripts" => {
            let args: Option<Vec<Expr>> = list.args.iter().cloned().map(plain_argument).collect();
            args.map(|args| call("unnest", vec![call("array_subscripts", args)]))
        }
        FunctionArguments::List(list) if name == "to_char" => {
            let pattern = list.args.last_mut().and_then(|pattern| match pattern {
                FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::Value(value))) => Some(&mut value.value),
                _ => None,
            });
            let Some(Value::SingleQuotedString(pattern)) = pattern else {
                return Err(SqlError::new("0A000", "the pattern of to_char is a text in quotes"));
            };
            *pattern = time_formats::translated(pattern)?;
            None
        }
        _ => None,
    })
}

fn plain_argument(arg: FunctionArg) -> Option<Expr> {
    match arg {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr),
        _ => None,
    }
}

fn call(name: &str, args: Vec<Expr>) -> Expr {
    let args = args.into_iter().map(|arg| FunctionArg::Unnamed(FunctionArgExpr::Expr(arg))).collect();
    Expr::Function(Function {
        name: ObjectName::from(vec![Ident::new(name)]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList {
            duplicate_treatment: None,
            args,
            clauses: Vec::new(),
        }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    })
}

/// Writes the field of a record, as in `(a).b`, as the text that DataFusion expects there.
fn name_fields(chain: &mut [AccessExpr]) {
    for access in chain {
        if let AccessExpr::Dot(field) = access
            && let Expr::Identifier(name) = field
        {
            *field = Expr::value(Value::SingleQuotedString(lower_ident(name)));
        }
    }
}

/// The plain form of an operator that is written with its schema, such as `OPERATOR(pg_catalog.~)`.
fn plain_operator(op: &BinaryOperator) -> Option<BinaryOperator> {
    let BinaryOperator::PGCustomBinaryOperator(parts) = op else { return None };
    let name = match parts.as_slice() {
        [name] => name,
        [schema, name] if schema.eq_ignore_ascii_case(PG_CATALOG.0) => name,
        _ => return None,
    };
    Some(match name.as_str() {
        "~" => BinaryOperator::PGRegexMatch,
        "~*" => BinaryOperator::PGRegexIMatch,
        "!~" => BinaryOperator::PGRegexNotMatch,
        "!~*" => BinaryOperator::PGRegexNotIMatch,
        "~~" => BinaryOperator::PGLikeMatch,
        "!~~" => BinaryOperator::PGNotLikeMatch,
        "=" => BinaryOperator::Eq,
        "<>" | "!=" => BinaryOperator::NotEq,
        "<" => BinaryOperator::Lt,
        "<=" => BinaryOperator::LtEq,
        ">" => BinaryOperator::Gt,
        ">=" => BinaryOperator::GtEq,
        "+" => BinaryOperator::Plus,
        "-" => BinaryOperator::Minus,
        "*" => BinaryOperator::Multiply,
        "/" => BinaryOperator::Divide,
        "||" => BinaryOperator::StringConcat,
        _ => return None,
    })
}

/// Writes a pattern with the only escape character that DataFusion has, the backslash.
fn escape_by_backslash(pattern: &mut Expr, escape: &mut Option<ValueWithSpan>) {
    if let Some(escape) = escape.take() {
        *pattern = call("like_escape", vec![take(pattern), Expr::Value(escape)]);
    }
}

/// Whether an expression is the column `polroles`, an array of roles.
fn is_roles(expr: &Expr) -> bool {
    let name = match expr {
        Expr::Identifier(name) => Some(name),
        Expr::CompoundIdentifier(parts) => parts.last(),
        _ => None,
    };
    name.is_some_and(|name| name.value.eq_ignore_ascii_case("polroles"))
}

/// Replaces an array literal in a text, `'{a,b}'`, by an array. Other expressions are unchanged.
fn array_of_text(expr: &mut Expr, are_numbers: bool) {
    let Expr::Value(value) = expr else { return };
    let Value::SingleQuotedString(text) = &value.value else { return };
    let Some(elements) = array_elements(text) else { return };
    let element = |element: Option<String>| match element {
        None => Expr::value(Value::Null),
        Some(text) if are_numbers => Expr::value(Value::Number(text, false)),
        Some(text) => Expr::value(Value::SingleQuotedString(text)),
    };
    *expr = Expr::Array(Array { elem: elements.into_iter().map(element).collect(), named: true });
}

/// The elements of a one-dimensional array literal in the notation of Postgres; `None` if the text
/// is not one.
pub(crate) fn array_elements(text: &str) -> Option<Vec<Option<String>>> {
    let inside = text.trim().strip_prefix('{')?.strip_suffix('}')?;
    let mut elements = Vec::new();
    if inside.trim().is_empty() {
        return Some(elements);
    }
    let mut chars = inside.chars().peekable();
    loop {
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        if chars.next_if_eq(&'"').is_some() {
            let mut element = String::new();
            loop {
                match chars.next()? {
                    '"' => break,
                    '\\' => element.push(chars.next()?),
                    c => element.push(c),
                }
            }
            elements.push(Some(element));
            while chars.next_if(|c| c.is_whitespace()).is_some() {}
        } else {
            let mut element = String::new();
            while let Some(c) = chars.next_if(|c| *c != ',') {
                match c {
                    '{' | '}' | '"' => return None, // Of more dimensions, or not well formed.
                    '\\' => element.push(chars.next()?),
                    c => element.push(c),
                }
            }
            let element = element.trim_end();
            if element.is_empty() {
                return None;
            }
            elements.push((!element.eq_ignore_ascii_case("null")).then(|| element.to_owned()));
        }
        match chars.next() {
            None => return Some(elements),
            Some(',') => {}
            Some(_) => return None,
        }
    }
}

/// Translates `unnest(..)` and `generate_series(..)` in a `FROM`. In Postgres their column has the
/// name of the table alias, and their arguments may be columns of other tables.
fn of_elements(factor: &mut TableFactor) {
    if let TableFactor::Table { name, args: Some(args), alias, .. } = factor {
        let [name] = name.0.as_slice() else { return };
        let Some(name) = lower(name) else { return };
        let arrays: Option<Vec<Expr>> = args.args.iter().cloned().map(plain_argument).collect();
        let Some(arrays) = arrays else { return };
        let array_exprs = match name.as_str() {
            "unnest" => arrays,
            // As a table function it takes literals alone.
            "generate_series" if !arrays.iter().all(is_literal) => vec![call("generate_series", arrays)],
            "generate_series" => {
                name_column(alias);
                return;
            }
            _ => return,
        };
        *factor = TableFactor::UNNEST {
            alias: alias.take(),
            array_exprs,
            with_offset: false,
            with_offset_alias: None,
            with_ordinality: false,
        };
    }
    if let TableFactor::UNNEST { alias, array_exprs, .. } = factor
        && array_exprs.len() == 1
    {
        name_column(alias);
    }
}

/// Writes `generate_series(..)` as a column so that it gives a row for each number. DataFusion
/// would give one array.
fn rows_of_series(item: &mut SelectItem) {
    let (SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. }) = item else { return };
    if let Expr::Function(function) = expr {
        let name = function.name.0.last().and_then(lower);
        if name.as_deref() == Some("generate_series") {
            let series = take(expr);
            *expr = call("unnest", vec![series]);
        }
    }
}

fn is_literal(expr: &Expr) -> bool {
    match expr {
        Expr::UnaryOp { expr, .. } => is_literal(expr),
        expr => matches!(expr, Expr::Value(_)),
    }
}

/// Names the column of a function that returns single values after its table alias.
fn name_column(alias: &mut Option<datafusion::sql::sqlparser::ast::TableAlias>) {
    if let Some(alias) = alias
        && alias.columns.is_empty()
    {
        alias.columns.push(TableAliasColumnDef { name: alias.name.clone(), data_type: None });
    }
}

/// Renames the second of two equal columns, since DataFusion tells columns apart by name.
fn tell_apart(select: &mut Select) {
    let has_wildcard = select
        .projection
        .iter()
        .any(|item| matches!(item, SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..)));
    let mut known = BTreeSet::new();
    for (index, item) in select.projection.iter_mut().enumerate() {
        let SelectItem::UnnamedExpr(expr) = item else { continue };
        let is_column = matches!(expr, Expr::Identifier(_) | Expr::CompoundIdentifier(_));
        // A wildcard may contain the column too.
        if known.insert(own_name(expr)) && !(has_wildcard && is_column) {
            continue;
        }
        let name = column_names::name_of(expr).unwrap_or_else(|| "?column?".to_owned());
        let alias = Ident::with_quote('"', format!("{DUPLICATE}{index}{DUPLICATE}{name}"));
        *item = SelectItem::ExprWithAlias { expr: take(expr), alias };
    }
}

/// The name that DataFusion gives to a column. Casts and brackets do not count, nor does the text
/// of a subquery.
fn own_name(expr: &Expr) -> String {
    match expr {
        Expr::Cast { expr, .. } | Expr::Nested(expr) | Expr::Collate { expr, .. } => own_name(expr),
        Expr::Subquery(_) => "(SELECT)".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::tests::database;

    fn planned(sql: &str) -> String {
        match parse(sql, &database()) {
            Ok(mut parsed) => parsed.remove(0).planned.to_string(),
            Err(error) => format!("{} {error}", error.state),
        }
    }

    #[test]
    fn what_reads_no_catalogue_is_written_as_it_was() {
        for sql in [
            "SELECT (SELECT count(*) FROM facts AS f WHERE f.t < d.t) FROM decisions AS d",
            "SELECT (SELECT count(*) FROM facts WHERE t < $1)",
            "SELECT * FROM facts WHERE kind = '{a}'",
            "SELECT * FROM profile('customer', $1)",
        ] {
            assert_eq!(planned(sql), sql);
        }
    }

    #[test]
    fn the_notation_of_postgres_becomes_the_planners() {
        for (sql, wanted) in [
            ("SELECT pg_catalog.version()", "SELECT version()"),
            ("SELECT current_user, current_schema", "SELECT current_user(), current_schema()"),
            ("SELECT a COLLATE pg_catalog.default FROM t", "SELECT a FROM t"),
            ("SELECT a COLLATE \"C\" FROM t", "SELECT a FROM t"),
            (
                "SELECT a COLLATE \"de_DE\" FROM t",
                "42704 collation \"de_DE\" does not exist; texts are compared by bytes",
            ),
            ("SELECT a OPERATOR(pg_catalog.~) 'x' FROM t", "SELECT a ~ 'x' FROM t"),
            ("SELECT a = ANY('{r,\"b c\",NULL}') FROM t", "SELECT a = ANY(ARRAY['r', 'b c', NULL]) FROM t"),
            ("SELECT '{a}'::text[]", "SELECT ARRAY['a']::TEXT[]"),
            ("SELECT ARRAY(SELECT 1)", "SELECT array_subquery((SELECT 1))"),
            ("SELECT a LIKE 'x/_%' ESCAPE '/' FROM t", "SELECT a LIKE like_escape('x/_%', '/') FROM t"),
            ("SELECT x FROM generate_series(1, 3) AS x", "SELECT x FROM generate_series(1, 3) AS x (x)"),
            ("SELECT generate_series(1, 3)", "SELECT unnest(generate_series(1, 3))"),
            ("SELECT to_char(a, 'YYYY') FROM t", "SELECT to_char(a, '%Y') FROM t"),
            ("SELECT a SIMILAR TO 'b'", "0A000 SIMILAR TO is not supported; use LIKE or ~"),
            ("SELECT a AT TIME ZONE 'UTC' FROM t", "SELECT timezone('UTC', a) FROM t"),
            ("SELECT (t.a).b FROM t", "SELECT (t.a).'b' FROM t"),
            ("SELECT oid FROM pg_class", "SELECT oid FROM pg_catalog.pg_class"),
            ("WITH pg_am AS (SELECT 1) SELECT * FROM pg_am", "WITH pg_am AS (SELECT 1) SELECT * FROM pg_am"),
            (
                "SELECT s FROM pg_class c, pg_catalog.generate_series(0, c.relnatts) s",
                "SELECT s FROM pg_catalog.pg_class c, UNNEST(generate_series(0, c.relnatts)) s (s)",
            ),
            (
                "SELECT 1 FROM pg_catalog.pg_nonsense",
                "42P01 relation \"pg_catalog.pg_nonsense\" does not exist",
            ),
        ] {
            assert_eq!(planned(sql), wanted);
        }
    }

    #[test]
    fn equal_columns_are_told_apart_and_shown_as_postgres_shows_them() {
        let planned = planned("SELECT a, a, sum(x)::text, sum(x), 1, 1 FROM t");
        let names: Vec<&str> = planned.split('"').skip(1).step_by(2).map(shown_name).collect();
        assert_eq!(names, ["a", "sum", "?column?"], "{planned}");
        assert_eq!(shown_name("a"), "a");
    }

    #[test]
    fn arrays_are_read_as_postgres_writes_them() {
        let read = |text: &str| {
            let elements = array_elements(text)?;
            Some(
                elements
                    .into_iter()
                    .map(|element| element.unwrap_or_else(|| "-".to_owned()))
                    .collect::<Vec<_>>(),
            )
        };
        let some = |elements: &[&str]| Some(elements.iter().map(|element| (*element).to_owned()).collect());
        assert_eq!(read("{}"), some(&[]));
        assert_eq!(read("{a, b,NULL}"), some(&["a", "b", "-"]));
        assert_eq!(read(r#"{"a,b","c\"d","NULL"}"#), some(&["a,b", "c\"d", "NULL"]));
        for wrong in ["", "a", "{a", "{a,}", "{{a},{b}}", "{\"a}", "{\"a\"b}"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
