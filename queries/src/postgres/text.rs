//! What a text says: its statements, in words that DataFusion knows.
//!
//! `datafusion-postgres` rewrites what clients ask of the catalogue of Postgres until DataFusion can plan it: it leaves out subqueries
//! that it cannot plan, with `NULL` in their place. So that is done to what reads the catalogue of Postgres alone; of other
//! statements only the notation is rewritten.

use std::ops::ControlFlow;

use datafusion::sql::parser::{DFParser, Statement as AnyStatement};
use datafusion::sql::sqlparser::ast::{
    AnalyzeFormat, AnalyzeFormatKind, Expr, FunctionArguments, Ident, ObjectName, Statement, Value, VisitMut,
    VisitorMut, visit_relations,
};
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion_postgres::datafusion_pg_catalog::sql::PostgresCompatibilityParser;
use datafusion_postgres::datafusion_pg_catalog::sql::rules::{
    AliasDuplicatedProjectionRewrite, FixArrayLiteral, ResolveUnqualifiedIdentifier,
    RewriteArrayAnyAllOperation, RewritePgCatalogOperator, SqlStatementRewriteRule, StripCallableQualifier,
    StripCollate,
};
use datafusion_postgres::pgwire::error::PgWireResult;

use super::{failed, refused};
use crate::{QueryError, bounds};

/// Reads texts.
pub(super) struct Reader {
    of_catalogue: PostgresCompatibilityParser,
    notation: Vec<Box<dyn SqlStatementRewriteRule>>,
}

impl Reader {
    pub(super) fn new() -> Reader {
        Reader {
            of_catalogue: PostgresCompatibilityParser::new(),
            notation: vec![
                Box::new(AliasDuplicatedProjectionRewrite),
                Box::new(ResolveUnqualifiedIdentifier),
                Box::new(RewriteArrayAnyAllOperation),
                Box::new(StripCallableQualifier),
                Box::new(FixArrayLiteral),
                Box::new(StripCollate),
                Box::new(RewritePgCatalogOperator),
            ],
        }
    }

    /// The statements of a text.
    pub(super) fn read(&self, sql: &str) -> PgWireResult<Vec<Statement>> {
        bounds::text(sql).map_err(refused)?;
        let plain = Parser::parse_sql(&PostgreSqlDialect {}, sql);
        if let Ok(statements) = plain
            && !statements.iter().any(reads_catalogue)
        {
            let notation = |statement| self.notation.iter().fold(statement, |said, rule| rule.rewrite(said));
            return Ok(statements.into_iter().map(notation).collect());
        }
        let read = self.of_catalogue.parse(sql);
        let mut statements =
            read.map_err(|error| failed("42601", format!("the query is not SQL: {error}")))?;
        for statement in &mut statements {
            let _ = VisitMut::visit(statement, &mut NoSubqueryArrays);
        }
        Ok(statements)
    }
}

/// Whether a statement reads a table of `pg_catalog`, or casts to a type of it.
fn reads_catalogue(statement: &Statement) -> bool {
    let reads = visit_relations(statement, |name| {
        let mut parts =
            name.0.iter().filter_map(|part| part.as_ident()).map(|part| part.value.to_lowercase());
        let is_postgres = parts.any(|part| part.starts_with("pg_"));
        if is_postgres { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    reads.is_break() || statement.to_string().to_lowercase().contains("::reg")
}

/// `ARRAY(SELECT ..)`, which DataFusion lacks: psql asks so for what there is none of here, members of roles and options of tables.
struct NoSubqueryArrays;

impl VisitorMut for NoSubqueryArrays {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Expr::Function(function) = expr
            && matches!(function.args, FunctionArguments::Subquery(_))
            && is_called(&function.name, "array")
        {
            *expr = expression("CAST(NULL AS TEXT[])");
        }
        ControlFlow::Continue(())
    }
}

fn is_called(name: &ObjectName, wanted: &str) -> bool {
    let last = name.0.last().and_then(|part| part.as_ident());
    last.is_some_and(|last: &Ident| last.value.eq_ignore_ascii_case(wanted))
}

fn expression(sql: &str) -> Expr {
    let parser = Parser::new(&PostgreSqlDialect {}).try_with_sql(sql);
    parser.and_then(|mut parser| parser.parse_expr()).expect("it is an expression")
}

/// What stands for who asks.
const USER: [&str; 4] = ["current_user", "session_user", "current_role", "user"];

/// Puts in who asks, and what Postgres lets one write without brackets.
pub(super) fn asked_by(statement: &mut Statement, user: &str) {
    let _ = VisitMut::visit(statement, &mut Asker { user });
}

struct Asker<'u> {
    user: &'u str,
}

impl VisitorMut for Asker<'_> {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        match expr {
            Expr::Function(function) => {
                let has_none = match &function.args {
                    FunctionArguments::None => true,
                    FunctionArguments::List(list) => list.args.is_empty(),
                    FunctionArguments::Subquery(_) => false,
                };
                if has_none && USER.iter().any(|name| is_called(&function.name, name)) {
                    *expr = Expr::value(Value::SingleQuotedString(self.user.to_owned()));
                } else if has_none && is_called(&function.name, "current_catalog") {
                    *expr = expression("current_database()");
                }
            }
            Expr::Identifier(name)
                if name.quote_style.is_none() && name.value.eq_ignore_ascii_case("current_schema") =>
            {
                *expr = expression("current_schema()");
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

/// What DataFusion explains by `EXPLAIN`, and any other statement as it is.
pub(super) fn explained(statement: &Statement) -> PgWireResult<AnyStatement> {
    let Statement::Explain { analyze, verbose, statement: of, format, options, .. } = statement else {
        return Ok(AnyStatement::Statement(Box::new(statement.clone())));
    };
    let (mut analyze, mut verbose) = (*analyze, *verbose);
    let mut format = match format {
        Some(AnalyzeFormatKind::Keyword(format) | AnalyzeFormatKind::Assignment(format)) => {
            Some(match format {
                AnalyzeFormat::TEXT | AnalyzeFormat::TRADITIONAL => "indent",
                AnalyzeFormat::JSON => "pgjson",
                AnalyzeFormat::TREE => "tree",
                AnalyzeFormat::GRAPHVIZ => "graphviz",
            })
        }
        None => None,
    };
    for option in options.iter().flatten() {
        let said = option.arg.as_ref().map(|arg| arg.to_string().trim_matches('\'').to_lowercase());
        let is_on = !matches!(said.as_deref(), Some("false" | "off" | "0"));
        match (option.name.value.to_lowercase().as_str(), said.as_deref()) {
            ("analyze", _) => analyze = is_on,
            ("verbose", _) => verbose = is_on,
            ("format", Some("text" | "indent")) => format = Some("indent"),
            ("format", Some("json" | "pgjson")) => format = Some("pgjson"),
            ("format", Some("tree")) => format = Some("tree"),
            ("format", Some("graphviz")) => format = Some("graphviz"),
            _ if !is_on => {}
            _ => {
                let what = format!(
                    "EXPLAIN has no option `{option}` here; it takes ANALYZE, VERBOSE, and FORMAT TEXT, JSON, TREE or GRAPHVIZ"
                );
                return Err(failed("0A000", what));
            }
        }
    }
    let said = format!(
        "EXPLAIN {}{}{}{of}",
        if analyze { "ANALYZE " } else { "" },
        if verbose { "VERBOSE " } else { "" },
        // What is verbose has one format.
        format.filter(|_| !verbose).map(|format| format!("FORMAT {format} ")).unwrap_or_default(),
    );
    let parsed = DFParser::parse_sql_with_dialect(&said, &PostgreSqlDialect {});
    let parsed = parsed.map_err(|error| refused(QueryError::of_plan(&error)))?;
    Ok(parsed.into_iter().next().expect("it is one statement"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_reads_the_catalogue_of_postgres_loses_what_cannot_be_planned() {
        let read = |sql: &str| Reader::new().read(sql).expect("it is SQL").remove(0).to_string();
        let own = "SELECT (SELECT count(*) FROM facts AS f WHERE f.t < d.t) FROM decisions AS d";
        assert_eq!(read(own), own);
        let with_parameter = "SELECT (SELECT count(*) FROM facts WHERE t < $1)";
        assert_eq!(read(with_parameter), with_parameter);
        assert_eq!(read("SELECT pg_catalog.version()"), "SELECT version()");
        let members = read("SELECT ARRAY(SELECT 1 FROM pg_catalog.pg_roles) FROM pg_roles");
        assert!(members.starts_with("SELECT CAST(NULL AS TEXT[]) FROM"), "{members}");
    }

    #[test]
    fn who_asks_is_put_in_for_the_current_user() {
        let mut said =
            Reader::new().read("SELECT current_user, user, 'user', u.\"user\" FROM u").expect("it is SQL");
        asked_by(&mut said[0], "o'neill");
        assert_eq!(said[0].to_string(), "SELECT 'o''neill', 'o''neill', 'user', u.\"user\" FROM u");
    }

    #[test]
    fn the_options_of_explain_are_those_of_datafusion_or_refused() {
        let said = |sql: &str| {
            let statement = Reader::new().read(sql).expect("it is SQL").remove(0);
            explained(&statement).map_or_else(|error| error.to_string(), |said| said.to_string())
        };
        assert_eq!(said("EXPLAIN SELECT 1"), "EXPLAIN SELECT 1");
        assert_eq!(said("EXPLAIN ANALYZE SELECT 1"), "EXPLAIN ANALYZE SELECT 1");
        assert_eq!(said("EXPLAIN (ANALYZE, COSTS off) SELECT 1"), "EXPLAIN ANALYZE SELECT 1");
        assert!(
            said("EXPLAIN (FORMAT JSON) SELECT 1").contains("pgjson"),
            "{}",
            said("EXPLAIN (FORMAT JSON) SELECT 1")
        );
        let refused = said("EXPLAIN (ANALYZE, BUFFERS) SELECT 1");
        assert!(refused.contains("no option `BUFFERS` here"), "{refused}");
        let refused = said("EXPLAIN (FORMAT XML) SELECT 1");
        assert!(refused.contains("no option `FORMAT XML` here"), "{refused}");
    }
}
