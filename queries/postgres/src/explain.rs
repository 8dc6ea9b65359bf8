//! Translates `EXPLAIN` and its options into those of DataFusion.

use datafusion::sql::parser::{DFParser, Statement as AnyStatement};
use datafusion::sql::sqlparser::ast::{AnalyzeFormat, AnalyzeFormatKind, Statement};
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;

use crate::error::SqlError;

/// Translates an `EXPLAIN` into that of DataFusion; other statements are unchanged.
///
/// # Errors
/// 0A000 for an option that DataFusion does not have.
pub(crate) fn planned(statement: Statement) -> Result<AnyStatement, SqlError> {
    let Statement::Explain { analyze, verbose, statement: of, format, options, .. } = &statement else {
        return Ok(AnyStatement::Statement(Box::new(statement)));
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
        let value = option.arg.as_ref().map(|arg| arg.to_string().trim_matches('\'').to_lowercase());
        let is_on = !matches!(value.as_deref(), Some("false" | "off" | "0"));
        match (option.name.value.to_lowercase().as_str(), value.as_deref()) {
            ("analyze", _) => analyze = is_on,
            ("verbose", _) => verbose = is_on,
            ("format", Some("text" | "indent")) => format = Some("indent"),
            ("format", Some("json" | "pgjson")) => format = Some("pgjson"),
            ("format", Some("tree")) => format = Some("tree"),
            ("format", Some("graphviz")) => format = Some("graphviz"),
            _ if !is_on => {}
            _ => {
                let what = format!(
                    "EXPLAIN has no option `{option}` here; it takes ANALYZE, VERBOSE, and FORMAT TEXT, \
                     JSON, TREE or GRAPHVIZ"
                );
                return Err(SqlError::new("0A000", what));
            }
        }
    }
    let text = format!(
        "EXPLAIN {}{}{}{of}",
        if analyze { "ANALYZE " } else { "" },
        if verbose { "VERBOSE " } else { "" },
        // `EXPLAIN VERBOSE` has one format only.
        format.filter(|_| !verbose).map(|format| format!("FORMAT {format} ")).unwrap_or_default(),
    );
    let parsed = DFParser::parse_sql_with_dialect(&text, &PostgreSqlDialect {});
    let parsed = parsed.map_err(|error| SqlError::of_plan(&error))?;
    Ok(parsed.into_iter().next().expect("it is one statement"))
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::parser::Parser;

    use super::*;

    #[test]
    fn the_options_of_explain_are_those_of_datafusion_or_refused() {
        let explain = |sql: &str| {
            let statement = Parser::parse_sql(&PostgreSqlDialect {}, sql).expect("it is SQL").remove(0);
            planned(statement).map_or_else(|error| error.to_string(), |planned| planned.to_string())
        };
        assert_eq!(explain("EXPLAIN SELECT 1"), "EXPLAIN SELECT 1");
        assert_eq!(explain("EXPLAIN ANALYZE SELECT 1"), "EXPLAIN ANALYZE SELECT 1");
        assert_eq!(explain("EXPLAIN (ANALYZE, COSTS off) SELECT 1"), "EXPLAIN ANALYZE SELECT 1");
        let json = explain("EXPLAIN (FORMAT JSON) SELECT 1");
        assert!(json.contains("pgjson"), "{json}");
        let refused = explain("EXPLAIN (ANALYZE, BUFFERS) SELECT 1");
        assert!(refused.contains("no option `BUFFERS` here"), "{refused}");
        let refused = explain("EXPLAIN (FORMAT XML) SELECT 1");
        assert!(refused.contains("no option `FORMAT XML` here"), "{refused}");
    }
}
