//! The errors that a client receives: an SQLSTATE and a message.

use arrow::error::ArrowError;
use datafusion::common::DataFusionError;
use pgwire::error::ErrorInfo;
use pgwire::messages::PgWireBackendMessage;
use tidegate_queries::QueryError;

/// The error that a client receives when a statement or a connection failed.
#[derive(Debug)]
pub(crate) struct SqlError {
    /// The SQLSTATE.
    pub(crate) state: &'static str,
    message: String,
    /// Whether the server closes the connection after it.
    pub(crate) is_fatal: bool,
}

impl SqlError {
    pub(crate) fn new(state: &'static str, message: impl Into<String>) -> SqlError {
        SqlError { state, message: message.into(), is_fatal: false }
    }

    pub(crate) fn fatal(state: &'static str, message: impl Into<String>) -> SqlError {
        SqlError { state, message: message.into(), is_fatal: true }
    }

    /// The error of a statement that DataFusion could not plan.
    pub(crate) fn of_plan(error: &DataFusionError) -> SqlError {
        raised(error).unwrap_or_else(|| SqlError::from(QueryError::of_plan(error)))
    }

    /// The error of a statement that DataFusion could not run to its end.
    pub(crate) fn of_run(error: &DataFusionError) -> SqlError {
        raised(error).unwrap_or_else(|| SqlError::from(QueryError::of_run(error)))
    }

    pub(crate) fn of_arrow(error: ArrowError) -> SqlError {
        SqlError::of_run(&DataFusionError::from(error))
    }

    /// The `ErrorResponse` message.
    pub(crate) fn into_message(self) -> PgWireBackendMessage {
        let severity = if self.is_fatal { "FATAL" } else { "ERROR" };
        let mut info = ErrorInfo::new(severity.to_owned(), self.state.to_owned(), self.message);
        info.severity_nonlocalized = Some(severity.to_owned());
        PgWireBackendMessage::ErrorResponse(info.into())
    }

    /// Wraps the error, so that a function or a table of the catalogue can return it to DataFusion.
    pub(crate) fn raise(self) -> DataFusionError {
        DataFusionError::External(Box::new(Raised(self)))
    }
}

impl From<QueryError> for SqlError {
    fn from(error: QueryError) -> SqlError {
        let state = match &error {
            QueryError::ReadOnly { .. } => "25006",
            QueryError::UnknownTable { .. } => "42P01",
            QueryError::UnknownColumn { .. } => "42703",
            QueryError::TooLarge { .. } => "54000",
            QueryError::Memory { .. } => "53200",
            QueryError::Broken => "XX000",
            QueryError::Plan { what } => state_of_plan(what),
            QueryError::Run { what } => state_of_run(what),
            _ => "42601",
        };
        SqlError::new(state, error.to_string())
    }
}

/// The SQLSTATE for a message of the planner of DataFusion.
fn state_of_plan(what: &str) -> &'static str {
    let begins = |words: &str| what.starts_with(words);
    match what {
        _ if begins("Invalid function") || what.contains("Table function") => "42883",
        _ if begins("table '") && what.ends_with("not found") => "42P01",
        _ if begins("This feature is not implemented") || what.contains("does not support") => "0A000",
        _ if begins("Cannot coerce") || begins("Cannot infer") => "42883",
        // Constants are computed while the statement is planned.
        _ => Some(state_of_run(what)).filter(|state| *state != DATA_EXCEPTION).unwrap_or("42601"),
    }
}

const DATA_EXCEPTION: &str = "22000";

/// The SQLSTATE for a message of DataFusion about values.
fn state_of_run(what: &str) -> &'static str {
    let what = what.to_lowercase();
    match what.as_str() {
        what if what.contains("divide by zero") => "22012",
        what if what.contains("overflow") => "22003",
        what if what.contains("are allowed at once") => "54000",
        what if what.contains("cannot cast") || what.contains("can't cast") => "22P02",
        _ => DATA_EXCEPTION,
    }
}

impl std::fmt::Display for SqlError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

/// An [`SqlError`] inside an error of DataFusion.
#[derive(Debug)]
struct Raised(SqlError);

impl std::fmt::Display for Raised {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Raised {}

/// The [`SqlError`] that an error of DataFusion wraps.
fn raised(error: &DataFusionError) -> Option<SqlError> {
    let DataFusionError::External(cause) = error.find_root() else { return None };
    let Raised(error) = cause.downcast_ref::<Raised>()?;
    Some(SqlError { state: error.state, message: error.message.clone(), is_fatal: error.is_fatal })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_the_catalogue_keeps_its_state_through_datafusion() {
        let raised = SqlError::new("42P01", "there is no relation `x`").raise();
        let error = SqlError::of_run(&raised.context("while it ran"));
        assert_eq!((error.state, error.to_string().as_str()), ("42P01", "there is no relation `x`"));
    }

    #[test]
    fn each_kind_of_failure_has_its_state() {
        let plan = |what: &str| SqlError::of_plan(&DataFusionError::Plan(what.to_owned())).state;
        assert_eq!(plan("Invalid function 'no_such'.\nDid you mean 'now'?"), "42883");
        assert_eq!(plan("the sky is too high"), "42601");
        assert_eq!(plan("Cannot coerce arithmetic expression Int64 + Utf8 to valid types"), "42883");
        assert_eq!(plan("Cast error: Cannot cast string 'a' to value of Int64 type"), "22P02");
        let run = |what: &str| SqlError::of_run(&DataFusionError::Execution(what.to_owned())).state;
        assert_eq!(run("Divide by zero error"), "22012");
        assert_eq!(run("Cannot cast string 'a' to value of Int64 type"), "22P02");
    }
}
