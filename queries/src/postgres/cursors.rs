//! Cursors: statements whose rows a client fetches a few at a time.
//!
//! A cursor keeps its rows as they are made, so that each `FETCH` gives them in the format that it asks for.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use arrow::array::RecordBatch;
use datafusion::common::{DFSchema, DFSchemaRef};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::logical_expr::{EmptyRelation, LogicalPlan};
use datafusion::sql::sqlparser::ast::{CloseCursor, Declare, DeclareType, FetchDirection, Query, Statement};
use datafusion_postgres::hooks::HookClient;
use datafusion_postgres::pgwire::api::ClientInfo;
use datafusion_postgres::pgwire::api::portal::{Format, Portal};
use datafusion_postgres::pgwire::api::results::{QueryResponse, Response, Tag};
use datafusion_postgres::pgwire::api::stmt::StoredStatement;
use datafusion_postgres::pgwire::api::store::PortalStore;
use datafusion_postgres::pgwire::error::{PgWireError, PgWireResult};
use datafusion_postgres::pgwire::types::format::FormatOptions;
use futures::{StreamExt, stream};

use super::wire::Columns;
use super::{FETCH_ROWS_MAX, failed};

/// How many cursors a client may have open.
const CURSORS_MAX: usize = 64;

/// The cursors of one client.
#[derive(Default)]
pub(super) struct Opened(Mutex<BTreeMap<String, Cursor>>);

#[derive(Clone)]
struct Cursor {
    schema: DFSchemaRef,
    columns: Columns,
    rows: Arc<tokio::sync::Mutex<Rows>>,
}

/// What was not fetched yet.
struct Rows {
    begun: Option<RecordBatch>,
    rest: SendableRecordBatchStream,
}

impl Opened {
    pub(super) fn of(client: &(impl ClientInfo + ?Sized)) -> Arc<Opened> {
        client.session_extensions().get_or_insert_with(Opened::default)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Cursor>> {
        self.0.lock().expect("no panic")
    }

    /// The plan that says what columns a `FETCH` gives.
    pub(super) fn described(&self, name: &str) -> LogicalPlan {
        let schema = self.lock().get(name).map(|cursor| Arc::clone(&cursor.schema));
        let schema = schema.unwrap_or_else(|| Arc::new(DFSchema::empty()));
        LogicalPlan::EmptyRelation(EmptyRelation { produce_one_row: false, schema })
    }

    /// Whether one more may be opened.
    pub(super) fn has_place(&self, name: &str) -> PgWireResult<()> {
        let opened = self.lock();
        if opened.len() >= CURSORS_MAX && !opened.contains_key(name) {
            return Err(failed("54000", format!("{CURSORS_MAX} cursors are open; close some first")));
        }
        Ok(())
    }
}

/// The name of a cursor and its query, of `DECLARE name CURSOR FOR query`.
pub(super) fn declared(statements: &[Declare]) -> PgWireResult<(&str, Statement)> {
    match statements {
        [Declare { names, declare_type: Some(DeclareType::Cursor), for_query: Some(query), .. }] => {
            let query: &Query = query;
            let name = names.first().map_or("", |name| &name.value);
            Ok((name, Statement::Query(Box::new(query.clone()))))
        }
        _ => Err(failed("42601", "write DECLARE name CURSOR FOR SELECT ..".to_owned())),
    }
}

/// Opens a cursor over the rows of a plan.
pub(super) fn open(
    name: &str,
    query: Statement,
    plan: LogicalPlan,
    rest: SendableRecordBatchStream,
    client: &dyn HookClient,
) -> Response {
    let columns = Columns::of(plan.schema().as_arrow(), &query);
    // Two columns may have one name, and then keep those of their tables.
    let schema = columns.schema().map_or_else(|| Arc::clone(plan.schema()), Arc::new);
    // Described by its plan to who asks what it gives.
    let statement =
        StoredStatement::new(name.to_owned(), (query.to_string(), Some((query, plan))), Vec::new());
    client.portal_store().put_portal(Arc::new(Portal::new_cursor(name.to_owned(), Arc::new(statement))));
    let rows = Arc::new(tokio::sync::Mutex::new(Rows { begun: None, rest }));
    Opened::of(client).lock().insert(name.to_owned(), Cursor { schema, columns, rows });
    Response::Execution(Tag::new("DECLARE CURSOR"))
}

/// The next rows of a cursor. They are put into memory before they are sent.
pub(super) async fn fetch(
    name: &str,
    direction: &FetchDirection,
    format: &Format,
    client: &dyn HookClient,
) -> PgWireResult<Response> {
    let wanted = wanted(direction)?;
    let cursor = Opened::of(client).lock().get(name).cloned();
    let cursor = cursor.ok_or_else(|| failed("34000", format!("there is no open cursor `{name}`")))?;
    let options = Arc::new(FormatOptions::from_client_metadata(client.metadata()));
    let fields = Arc::new(cursor.columns.described(format, Some(options))?);
    let mut rows = cursor.rows.lock().await;
    let mut fetched = Vec::with_capacity(wanted.min(1024));
    while fetched.len() < wanted {
        let batch = match rows.begun.take() {
            Some(batch) => batch,
            None => match rows.rest.next().await {
                Some(batch) => batch.map_err(|error| PgWireError::ApiError(Box::new(error)))?,
                None => break,
            },
        };
        let count = batch.num_rows().min(wanted - fetched.len());
        if count < batch.num_rows() {
            rows.begun = Some(batch.slice(count, batch.num_rows() - count));
        }
        let mut encoded = cursor.columns.rows(&batch.slice(0, count), &fields);
        while let Some(row) = encoded.next().await {
            fetched.push(Ok(row?));
        }
    }
    Ok(Response::Query(QueryResponse::new(fields, stream::iter(fetched))))
}

/// How many rows are to be fetched.
fn wanted(direction: &FetchDirection) -> PgWireResult<usize> {
    let count = match direction {
        FetchDirection::Next | FetchDirection::Forward { limit: None } => return Ok(1),
        FetchDirection::Count { limit } | FetchDirection::Forward { limit: Some(limit) } => limit.to_string(),
        FetchDirection::All | FetchDirection::ForwardAll => "ALL".to_owned(),
        _ => return Err(failed("0A000", "a cursor goes forward only: write FETCH n".to_owned())),
    };
    match count.parse::<usize>() {
        Ok(count) if count <= FETCH_ROWS_MAX => Ok(count),
        _ => {
            let what = format!("FETCH {count} is too many; fetch at most {FETCH_ROWS_MAX} rows at once");
            Err(failed("54000", what))
        }
    }
}

/// Closes one cursor, or all.
pub(super) fn close(cursor: &CloseCursor, client: &dyn HookClient) -> Response {
    let opened = Opened::of(client);
    let closed: Vec<String> = match cursor {
        CloseCursor::All => std::mem::take(&mut *opened.lock()).into_keys().collect(),
        CloseCursor::Specific { name } => {
            opened.lock().remove(&name.value);
            vec![name.value.clone()]
        }
    };
    closed.iter().for_each(|name| client.portal_store().rm_portal(name));
    Response::Execution(Tag::new("CLOSE CURSOR"))
}
