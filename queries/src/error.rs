//! Why a question was not answered.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use datafusion::common::{DataFusionError, SchemaError};
use datafusion::sql::sqlparser::parser::ParserError;
use tidegate_facts::names::choices;
use tidegate_sinks::store::StoreError;
use tidegate_sinks::table::TableError;

use crate::format::Format;
use crate::log::ReadError;

/// Why a question was not answered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QueryError {
    /// Nothing ever ran on the folder.
    #[error("no data folder at `{data}`; run a topology with `--data {data}` first")]
    NoData {
        /// The data folder.
        data: PathBuf,
    },
    /// The store that was named does not exist.
    #[error(
        "no store at `{store}`; name the store that the topology was run with, or none for the one in the data folder"
    )]
    NoStore {
        /// The store.
        store: PathBuf,
    },
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The commits cannot be read.
    #[error(transparent)]
    Commits(#[from] TableError),
    /// A file that a commit names cannot be read.
    #[error(
        "file `{path}` of table `{table}` cannot be read, and a commit names it; restore it from a copy, or run the \
         topology on the log with a new store"
    )]
    FileUnreadable {
        /// The table.
        table: String,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A file is not what was committed.
    #[error(
        "file `{path}` of table `{table}` has {found} bytes where its commit names {committed}; restore it from a \
         copy, or run the topology on the log with a new store"
    )]
    FileChanged {
        /// The table.
        table: String,
        /// The file.
        path: PathBuf,
        /// Its size.
        found: u64,
        /// Its size when it was committed.
        committed: u64,
    },
    /// The log cannot be read.
    #[error(transparent)]
    Log(Arc<ReadError>),
    /// A statement that would change something.
    #[error(
        "`{statement}` changes something, and a data folder is only read here; ask with SELECT, WITH, VALUES, EXPLAIN, SHOW or DESCRIBE"
    )]
    ReadOnly {
        /// The statement's first word.
        statement: String,
    },
    /// No statement, or several.
    #[error("the text holds {count} statements; ask one at a time")]
    NotOne {
        /// How many there are.
        count: usize,
    },
    /// The statement would cost too much before it runs.
    #[error("the statement is too large: {what}; ask for less, or in parts")]
    TooLarge {
        /// What it has too much of.
        what: String,
    },
    /// The statement needs more memory than there is for statements.
    #[error(
        "the statement needs more memory than is free for statements ({what}); ask for fewer rows or groups at once, or start \
         the service with a greater --statement-memory"
    )]
    Memory {
        /// What needed it.
        what: String,
    },
    /// The program that answers it failed.
    #[error("the statement met a fault of this program, which goes on; please report the statement")]
    Broken,
    /// The text is not SQL.
    #[error("the query is not SQL: {what}")]
    Syntax {
        /// What the parser says.
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
    /// A table function cannot be called so.
    #[error("`{function}`: {what}; write {usage}")]
    Call {
        /// The function.
        function: &'static str,
        /// What is wrong.
        what: String,
        /// How it is called.
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
    /// The query has no meaning.
    #[error("the query cannot be planned: {what}")]
    Plan {
        /// What the planner says.
        what: String,
    },
    /// The query met values that it cannot work on.
    #[error("the query stopped: {what}")]
    Run {
        /// What was met.
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
    /// The answer does not fit the format.
    #[error("the answer cannot be written as {format}; cast its columns to types that {format} has")]
    Encode {
        /// The format.
        format: Format,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The answer cannot be put out.
    #[error("the answer cannot be written; check that there is room and that its reader is still there")]
    Output(#[source] io::Error),
    /// There is no such format.
    #[error("there is no format `{format}`; use table, csv, json or parquet")]
    UnknownFormat {
        /// The name.
        format: String,
    },
}

impl QueryError {
    /// What DataFusion says of a statement before it runs.
    pub(crate) fn of_plan(error: &DataFusionError) -> QueryError {
        if let DataFusionError::SchemaError(inner, _) = error.find_root()
            && let SchemaError::FieldNotFound { field, valid_fields } = inner.as_ref()
        {
            let known: Vec<&str> = valid_fields.iter().map(|column| column.name.as_str()).collect();
            return QueryError::UnknownColumn {
                column: field.name.clone(),
                choices: choices(&field.name, &known),
            };
        }
        QueryError::Plan { what: sentence(error.find_root()) }
    }

    /// What DataFusion says of a statement that runs.
    pub(crate) fn of_run(error: &DataFusionError) -> QueryError {
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

/// The message on one line, without the name of its kind, and without a backtrace.
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
