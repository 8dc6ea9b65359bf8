//! `POST /v1/sql` and `GET /v1/tables`: one statement that only reads, and the list of tables.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{Array, RecordBatch};
use arrow::datatypes::SchemaRef;
use arrow::ipc::writer::StreamWriter;
use axum::Json;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::TryStreamExt;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tidegate_facts::Tick;
use tokio::sync::Semaphore;
use utoipa::ToSchema;

use super::error::{ApiError, ApiErrorBody};
use super::plan_nodes::{are_decisions, decision_node_of};
use super::request::read_body;
use super::service::{Service, Shared};
use super::text::time_of;
use crate::answer_format::Format;
use crate::answer_writer::write;
use crate::catalogue::Answer;
use crate::error::QueryError;
use crate::telemetry::{Port, StatementOutcome};
use crate::{json_rows, query_runtime};

/// The most rows of an answer.
const ROWS_MAX: usize = 100_000;

/// The most bytes of the rows of an answer, in memory.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// The most MiB of large answers in memory that their callers have not read yet.
const UNREAD_MIB_MAX: usize = 1024;

/// What is left of [`UNREAD_MIB_MAX`].
static UNREAD_MIB: Semaphore = Semaphore::const_new(UNREAD_MIB_MAX);

/// The timeout of a statement.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(30);

/// The body of a request to `/v1/sql`.
#[derive(Deserialize, ToSchema)]
struct SqlRequest {
    /// One statement that only reads.
    sql: String,
}

/// The answer to a statement, as JSON.
#[derive(Serialize, ToSchema)]
struct SqlAnswer {
    /// The statement saw the rows before this tick.
    tick: Option<String>,
    /// That tick as a time.
    time: Option<String>,
    /// The names and types of the columns.
    #[schema(value_type = Vec<Object>)]
    columns: serde_json::Value,
    /// The rows. 64-bit integers, decimals and times are strings.
    #[schema(value_type = Vec<Vec<Object>>)]
    rows: Vec<Box<RawValue>>,
    /// Whether rows beyond the limit were cut off.
    truncated: bool,
    /// The time to answer, in microseconds.
    elapsed_us: u64,
}

/// Answers one statement that only reads.
///
/// The answer is JSON, or `text/csv` or `application/vnd.apache.arrow.stream` if `Accept` names it.
#[utoipa::path(
    post, path = "/v1/sql", tag = "tables", request_body = SqlRequest,
    responses(
        (status = 200, description = "The rows", body = SqlAnswer),
        (status = 400, description = "The statement cannot be answered", body = ApiErrorBody),
        (status = 408, description = "The statement timed out", body = ApiErrorBody),
        (status = 429, description = "Too many large answers are unread", body = ApiErrorBody),
    )
)]
pub(super) async fn sql(State(service): Shared, request: Request) -> Result<Response, ApiError> {
    let started = Instant::now();
    let (head, body) = read_body(request).await?;
    let SqlRequest { sql } = serde_json::from_slice(&body).map_err(|error| {
        let what = format!("the body is not {{\"sql\": \"SELECT ..\"}}: {error}");
        ApiError::new(StatusCode::BAD_REQUEST, what)
    })?;
    let timer = service.telemetry.statement(Port::Http, &sql);
    let encoding = Encoding::accepted_by(&head.headers);
    let answered = match service.catalogue.answer_lookup(&sql) {
        Some(answer) => encode(answer, encoding, started).await,
        None => answer_planned(&service, sql, encoding, started).await,
    };
    timer.end(if answered.is_ok() { StatementOutcome::Answered } else { StatementOutcome::Failed });
    answered
}

/// Answers a statement on the threads of statements.
async fn answer_planned(
    service: &Arc<Service>,
    sql: String,
    encoding: Encoding,
    started: Instant,
) -> Result<Response, ApiError> {
    let catalogue = Arc::clone(&service.catalogue);
    let answered = async move { encode(catalogue.answer(&sql).await?, encoding, started).await };
    let answered = query_runtime::run(&service.statements, answered);
    match tokio::time::timeout(STATEMENT_TIMEOUT, answered).await {
        Ok(answered) => answered?,
        Err(_) => {
            let what =
                format!("the statement took longer than {} s; ask for less", STATEMENT_TIMEOUT.as_secs());
            Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, what))
        }
    }
}

/// The rows of an answer within the limits, and whether rows were cut off.
struct LimitedRows {
    schema: SchemaRef,
    batches: Vec<RecordBatch>,
    truncated: bool,
}

impl LimitedRows {
    async fn read(mut rows: SendableRecordBatchStream) -> Result<LimitedRows, ApiError> {
        let (mut count, mut bytes) = (0, 0);
        let mut batches: Vec<RecordBatch> = Vec::new();
        while count <= ROWS_MAX {
            let next = rows.try_next().await.map_err(|error| QueryError::of_run(&error))?;
            let Some(batch) = next else { break };
            count += batch.num_rows();
            bytes += bytes_of(&batch);
            if bytes > ANSWER_BYTES_MAX {
                let what = format!("its answer has more than {ANSWER_BYTES_MAX} bytes");
                return Err(QueryError::TooLarge { what }.into());
            }
            batches.push(batch);
        }
        let truncated = count > ROWS_MAX;
        if truncated && let Some(last) = batches.pop() {
            let excess = count - ROWS_MAX;
            batches.push(last.slice(0, last.num_rows() - excess));
        }
        Ok(LimitedRows { schema: rows.schema(), batches, truncated })
    }
}

/// Encodes the rows of an answer as a response.
async fn encode(answer: Answer, encoding: Encoding, started: Instant) -> Result<Response, ApiError> {
    let tick = answer.tick;
    let LimitedRows { schema, batches, truncated } = LimitedRows::read(answer.rows).await?;
    let failed = |error: &dyn std::error::Error| ApiError::new(StatusCode::BAD_REQUEST, error);
    let response = match encoding {
        Encoding::Json => {
            let mut rows = Vec::with_capacity(batches.iter().map(RecordBatch::num_rows).sum());
            for batch in &batches {
                let texts = json_rows::arrays(batch).map_err(|error| failed(&error))?;
                let texts =
                    texts.into_iter().map(|text| RawValue::from_string(text).expect("it is JSON text"));
                rows.extend(texts);
            }
            let body = SqlAnswer {
                tick: tick.map(|tick| tick.0.to_string()),
                time: tick.map(time_of),
                columns: json_rows::columns(&schema),
                rows,
                truncated,
                elapsed_us: u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX),
            };
            Json(body).into_response()
        }
        Encoding::Csv => {
            let mut text = Vec::new();
            let rows = futures::stream::iter(batches.into_iter().map(Ok));
            let rows = RecordBatchStreamAdapter::new(schema, rows);
            write(Format::Csv, Box::pin(rows), &mut text).await?;
            (headers(CSV, tick, truncated), text).into_response()
        }
        Encoding::Arrow => {
            let mut writer = StreamWriter::try_new(Vec::new(), &schema).map_err(|error| failed(&error))?;
            for batch in &batches {
                writer.write(batch).map_err(|error| failed(&error))?;
            }
            let bytes = writer.into_inner().map_err(|error| failed(&error))?;
            (headers(ARROW, tick, truncated), bytes).into_response()
        }
    };
    limit_unread(response).await
}

/// The same response, counted in [`UNREAD_MIB`] until the caller has read it if it is large:
/// callers that ask for much and read slowly must not take all memory.
async fn limit_unread(response: Response) -> Result<Response, ApiError> {
    let (head, body) = response.into_parts();
    let bytes = axum::body::to_bytes(body, usize::MAX).await.map_err(ApiError::internal)?;
    let mib = u32::try_from(bytes.len() >> 20).unwrap_or(u32::MAX);
    if mib == 0 {
        return Ok(Response::from_parts(head, bytes.into()));
    }
    let permit = UNREAD_MIB.try_acquire_many(mib).map_err(|_| {
        let what = "too many large answers are unread; ask again in a moment, or for less";
        ApiError::new(StatusCode::TOO_MANY_REQUESTS, what).retry(1)
    })?;
    // hyper polls for the next part, and so releases the permit, once all bytes are on their way.
    let parts = futures::stream::unfold((Some(bytes), permit), |(bytes, permit)| async move {
        bytes.map(|bytes| (Ok::<_, Infallible>(bytes), (None, permit)))
    });
    Ok(Response::from_parts(head, axum::body::Body::from_stream(parts)))
}

/// The bytes of the rows of a batch, without the rest of their buffers.
fn bytes_of(batch: &RecordBatch) -> usize {
    let columns = batch.columns().iter();
    columns.map(|c| c.to_data().get_slice_memory_size().unwrap_or_else(|_| c.get_array_memory_size())).sum()
}

/// The encoding of an answer.
enum Encoding {
    Json,
    Csv,
    Arrow,
}

const CSV: &str = "text/csv";
const ARROW: &str = "application/vnd.apache.arrow.stream";

impl Encoding {
    fn accepted_by(headers: &HeaderMap) -> Encoding {
        match headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()) {
            Some(accept) if accept.contains(CSV) => Encoding::Csv,
            Some(accept) if accept.contains(ARROW) => Encoding::Arrow,
            _ => Encoding::Json,
        }
    }
}

/// The headers that carry what JSON answers have beside the rows.
fn headers(kind: &'static str, tick: Option<Tick>, truncated: bool) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    if let Some(tick) = tick {
        headers.insert("tidegate-tick", HeaderValue::from(tick.0));
    }
    let truncated = if truncated { "true" } else { "false" };
    headers.insert("tidegate-truncated", HeaderValue::from_static(truncated));
    headers
}

/// The list of tables.
#[derive(Serialize, ToSchema)]
struct Tables {
    tables: Vec<TableBody>,
}

/// A table and its columns.
#[derive(Serialize, ToSchema)]
struct TableBody {
    name: String,
    #[schema(value_type = Vec<Object>)]
    columns: serde_json::Value,
    /// The node whose decisions the table holds; null for every other table.
    decisions_of: Option<String>,
}

/// Lists the tables.
#[utoipa::path(get, path = "/v1/tables", tag = "tables", responses((status = 200, body = Tables)))]
pub(super) async fn tables(State(service): Shared) -> Json<impl Serialize> {
    let tables = service.catalogue.schemas().into_iter();
    let tables = tables.map(|(name, schema)| TableBody {
        columns: json_rows::columns(&schema),
        decisions_of: decision_node_of(&service.plan, &name).filter(|_| are_decisions(&schema)),
        name,
    });
    Json(Tables { tables: tables.collect() })
}
