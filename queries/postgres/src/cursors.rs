//! The statements `DECLARE`, `FETCH` and `CLOSE`: SQL cursors are portals.

use datafusion::sql::sqlparser::ast::{Declare, DeclareType, FetchDirection, Query, Statement};

use crate::error::SqlError;

/// The most cursors that a client may have open.
pub(crate) const CURSORS_MAX: usize = 64;

/// The name and the query of `DECLARE name CURSOR FOR query`.
///
/// # Errors
/// 42601 for any other `DECLARE`.
pub(crate) fn declared(statements: &[Declare]) -> Result<(&str, Statement), SqlError> {
    match statements {
        [Declare { names, declare_type: Some(DeclareType::Cursor), for_query: Some(query), .. }] => {
            let query: &Query = query;
            let name = names.first().map_or("", |name| &name.value);
            Ok((name, Statement::Query(Box::new(query.clone()))))
        }
        _ => Err(SqlError::new("42601", "write DECLARE name CURSOR FOR SELECT ..")),
    }
}

/// How many rows a `FETCH` from a cursor asks for; `None` for all.
///
/// # Errors
/// 0A000 for any direction but forward.
pub(crate) fn fetch_limit(direction: &FetchDirection) -> Result<Option<usize>, SqlError> {
    let forward_only = || SqlError::new("0A000", "a cursor goes forward only: write FETCH n");
    let count = match direction {
        FetchDirection::Next | FetchDirection::Forward { limit: None } => return Ok(Some(1)),
        FetchDirection::All | FetchDirection::ForwardAll => return Ok(None),
        FetchDirection::Count { limit } | FetchDirection::Forward { limit: Some(limit) } => limit.to_string(),
        _ => return Err(forward_only()),
    };
    count.parse().map(Some).map_err(|_| forward_only())
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
    use datafusion::sql::sqlparser::parser::Parser;

    use super::*;

    fn parsed(sql: &str) -> Statement {
        Parser::parse_sql(&PostgreSqlDialect {}, sql).expect("it is SQL").remove(0)
    }

    #[test]
    fn a_cursor_is_declared_for_a_query_and_fetched_forward() {
        let Statement::Declare { stmts } = parsed("DECLARE c CURSOR FOR SELECT 1") else {
            panic!("no DECLARE")
        };
        let (name, query) = declared(&stmts).expect("a cursor");
        assert_eq!((name, query.to_string().as_str()), ("c", "SELECT 1"));
        let limit = |sql: &str| match parsed(sql) {
            Statement::Fetch { direction, .. } => fetch_limit(&direction).map_err(|error| error.state),
            other => panic!("{other}"),
        };
        assert_eq!(limit("FETCH NEXT FROM c"), Ok(Some(1)));
        assert_eq!(limit("FETCH FORWARD 400 FROM c"), Ok(Some(400)));
        assert_eq!(limit("FETCH ALL FROM c"), Ok(None));
        assert_eq!(limit("FETCH PRIOR FROM c"), Err("0A000"));
    }
}
