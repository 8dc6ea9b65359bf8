//! Why a SQL statement was not answered.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use datafusion::common::{DataFusionError, SchemaError};
use datafusion::sql::sqlparser::parser::ParserError;
use tidegate_facts::suggest::did_you_mean;
use tidegate_sinks::commits::TableError;
use tidegate_sinks::store::{StoreError, StoreUrl};

use crate::answer_format::Format;
use crate::log_tables::error::ReadError;

/// Why a SQL statement was not answered: a missing folder, a broken file, or the statement itself.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QueryError {
    /// No topology has run on the folder.
    #[error("no data folder at `{data}`; run a topology with `--data {data}` first")]
    NoData {
        /// The data folder.
        data: PathBuf,
    },
    /// The named store does not exist.
    #[error(
        "no store at `{store}`; name the store that the topology was run with, or none for the one in the data folder"
    )]
    NoStore {
        /// The store.
        store: StoreUrl,
    },
    /// The store cannot be opened or read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The backend of the store has no interface for DataFusion.
    #[error("the store `{store}` cannot be queried with SQL; copy it to a local folder or an object store")]
    NoObjects {
        /// The store.
        store: StoreUrl,
    },
    /// The commits cannot be read.
    #[error(transparent)]
    Commits(#[from] TableError),
    /// A file that a commit names is missing or unreadable.
    #[error(
        "file `{location}` of table `{table}` cannot be read, and a commit names it; restore it from a copy, or run the \
         topology on the log with a new store"
    )]
    FileUnreadable {
        /// The table.
        table: String,
        /// The file.
        location: String,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The size of a file differs from the size in its commit.
    #[error(
        "file `{location}` of table `{table}` has {found} bytes where its commit names {committed}; restore it from a \
         copy, or run the topology on the log with a new store"
    )]
    FileChanged {
        /// The table.
        table: String,
        /// The file.
        location: String,
        /// Its size, in bytes.
        found: u64,
        /// Its size when it was committed, in bytes.
        committed: u64,
    },
    /// The log cannot be read.
    #[error(transparent)]
    Log(Arc<ReadError>),
    /// The statement would change something.
    #[error(
        "`{statement}` changes data, and SQL only reads it here; use SELECT, WITH, VALUES, EXPLAIN, SHOW or DESCRIBE"
    )]
    ReadOnly {
        /// The statement's first word.
        statement: String,
    },
    /// The text holds no statement, or several.
    #[error("the text holds {count} statements; send one at a time")]
    NotOne {
        /// How many there are.
        count: usize,
    },
    /// The statement exceeds a limit that is checked before it runs.
    #[error("the statement is too large: {what}; ask for less, or in parts")]
    TooLarge {
        /// The limit that it exceeds.
        what: String,
    },
    /// The memory for statements is exhausted.
    #[error(
        "the statement needs more memory than is free for statements ({what}); ask for fewer rows or groups at once, or start \
         the service with a greater --statement-memory"
    )]
    Memory {
        /// The operator that needed it.
        what: String,
    },
    /// A bug in this program stopped the statement.
    #[error("a bug in this program stopped the statement; the service goes on: please report the statement")]
    Broken,
    /// The text is not SQL.
    #[error("the query is not SQL: {what}")]
    Syntax {
        /// The parser's message.
        what: String,
    },
    /// There is no such table.
    #[error("there is no table `{table}`; {choices}")]
    UnknownTable {
        /// The name.
        table: String,
        /// What to write in its place.
        choices: String,
    },
    /// A table function has wrong arguments.
    #[error("`{function}`: {what}; write {usage}")]
    Call {
        /// The function.
        function: &'static str,
        /// What is wrong.
        what: String,
        /// The form of a correct call.
        usage: &'static str,
    },
    /// There is no such column.
    #[error("there is no column `{column}` here; {choices}")]
    UnknownColumn {
        /// The name.
        column: String,
        /// What to write in its place.
        choices: String,
    },
    /// The planner rejected the statement.
    #[error("the query cannot be planned: {what}")]
    Plan {
        /// The planner's message.
        what: String,
    },
    /// The statement failed while it ran, for example on a cast or a division by zero.
    #[error("the query stopped: {what}")]
    Run {
        /// The error message.
        what: String,
    },
    /// Two columns of the answer have one name.
    #[error(
        "the answer has two columns `{column}`, which {format} cannot keep apart; give one another name with AS"
    )]
    SameName {
        /// The name.
        column: String,
        /// The format.
        format: Format,
    },
    /// The format has no representation for a type of the answer.
    #[error("the answer cannot be written as {format}; cast its columns to types that {format} has")]
    Encode {
        /// The format.
        format: Format,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The output cannot be written.
    #[error("the answer cannot be written; check that the disk has room and that its reader is still open")]
    Output(#[source] io::Error),
}

impl QueryError {
    /// The query error for a DataFusion error that arose while planning.
    pub fn of_plan(error: &DataFusionError) -> QueryError {
        if let DataFusionError::SchemaError(inner, _) = error.find_root()
            && let SchemaError::FieldNotFound { field, valid_fields } = inner.as_ref()
        {
            let known: Vec<&str> = valid_fields.iter().map(|column| column.name.as_str()).collect();
            return QueryError::UnknownColumn {
                column: field.name.clone(),
                choices: did_you_mean(&field.name, &known),
            };
        }
        QueryError::Plan { what: sentence(error.find_root()) }
    }

    /// The query error for a DataFusion error that arose while the statement ran.
    pub fn of_run(error: &DataFusionError) -> QueryError {
        let root = error.find_root();
        if let DataFusionError::External(cause) = root
            && let Some(cause) = cause.downcast_ref::<Arc<ReadError>>()
        {
            return QueryError::Log(Arc::clone(cause));
        }
        if let DataFusionError::ResourcesExhausted(what) = root {
            let what = what.lines().next().unwrap_or_default().trim_end_matches('.');
            return QueryError::Memory { what: what.to_owned() };
        }
        QueryError::Run { what: sentence(root) }
    }
}

/// The message of a DataFusion error on one line, without its kind and without a backtrace.
pub(crate) fn sentence(error: &DataFusionError) -> String {
    let text = match error {
        DataFusionError::SQL(cause, _) => match cause.as_ref() {
            ParserError::ParserError(text) | ParserError::TokenizerError(text) => text.clone(),
            ParserError::RecursionLimitExceeded => "it is nested too deeply".to_owned(),
        },
        error => error.message().into_owned(),
    };
    let text = text.split(DataFusionError::BACK_TRACE_SEP).next().unwrap_or_default();
    text.lines().map(str::trim).collect::<Vec<_>>().join(" ")
}
