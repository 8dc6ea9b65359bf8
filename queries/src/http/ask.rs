//! Questions: SQL, the list of tables, and the rows of a table as they are computed.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{Array, RecordBatch};
use arrow::ipc::writer::StreamWriter;
use axum::Json;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::{Stream, TryStreamExt};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tidegate_facts::Tick;
use tidegate_facts::time::to_rfc3339;
use tokio::sync::{Semaphore, mpsc};
use utoipa::ToSchema;

use super::{Problem, ProblemBody, Service, Shared, body_of};
use crate::telemetry::{End, Port};
use crate::{Answer, Format, QueryError, json, statements, write};

/// How many rows an answer holds at most.
const ROWS_MAX: usize = 100_000;

/// How many bytes its rows have at most in memory.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// How many MiB of large answers may be in memory until those who asked have taken them.
const HELD_MIB_MAX: usize = 1024;

/// How many there may be beside those that there are.
static HELD: Semaphore = Semaphore::const_new(HELD_MIB_MAX);

/// How long a statement may take.
const STATEMENT_WITHIN: Duration = Duration::from_secs(30);

/// How many batches may wait for somebody who follows a table; who is slower loses the connection, not the rows: SQL has them.
const TAIL_BATCHES_MAX: usize = 1024;

/// A question.
#[derive(Deserialize, ToSchema)]
struct Question {
    /// One statement that only reads.
    sql: String,
}

/// An answer.
#[derive(Serialize, ToSchema)]
struct AnswerBody {
    /// Rows before this tick were seen.
    tick: Option<String>,
    /// That tick as a time.
    time: Option<String>,
    /// Names and types.
    #[schema(value_type = Vec<Object>)]
    columns: serde_json::Value,
    /// 64-bit integers, decimals and times are strings.
    #[schema(value_type = Vec<Vec<Object>>)]
    rows: Vec<Box<RawValue>>,
    /// Whether there are more rows than an answer holds.
    truncated: bool,
    /// How long it took, in microseconds.
    elapsed_us: u64,
}

/// Answers one statement that only reads.
///
/// As JSON; as `text/csv` or `application/vnd.apache.arrow.stream` if that is what `Accept` says.
#[utoipa::path(
    post, path = "/v1/sql", tag = "tables", request_body = Question,
    responses(
        (status = 200, description = "The rows", body = AnswerBody),
        (status = 400, description = "The statement cannot be answered", body = ProblemBody),
        (status = 408, description = "It took too long", body = ProblemBody),
        (status = 429, description = "Too many large answers wait for their readers", body = ProblemBody),
    )
)]
pub(super) async fn sql(State(service): Shared, request: Request) -> Result<Response, Problem> {
    let began = Instant::now();
    let (head, body) = body_of(request).await?;
    let question: Question = serde_json::from_slice(&body).map_err(|error| {
        Problem::new(StatusCode::BAD_REQUEST, format!("the body is not {{\"sql\": \"SELECT ..\"}}: {error}"))
    })?;
    let statement = service.telemetry.statement(Port::Http, &question.sql);
    let form = wanted(&head.headers);
    let answered = match service.catalogue.look_up(&question.sql) {
        Some(found) => written(found, form, began).await,
        None => planned(&service, question.sql, form, began).await,
    };
    statement.end(if answered.is_ok() { End::Answered } else { End::Failed });
    answered
}

/// Runs a statement on the threads of statements.
async fn planned(
    service: &Arc<Service>,
    sql: String,
    form: Form,
    began: Instant,
) -> Result<Response, Problem> {
    let catalogue = Arc::clone(&service.catalogue);
    let answered = async move { written(catalogue.ask(&sql).await.map_err(refused)?, form, began).await };
    let answered = statements::run(&service.statements, answered);
    match tokio::time::timeout(STATEMENT_WITHIN, answered).await {
        Ok(answered) => answered.map_err(refused).flatten(),
        Err(_) => {
            let what =
                format!("the statement took longer than {} s; ask for less", STATEMENT_WITHIN.as_secs());
            Err(Problem::new(StatusCode::REQUEST_TIMEOUT, what))
        }
    }
}

/// Writes out the rows of an answer.
async fn written(answer: Answer, form: Form, began: Instant) -> Result<Response, Problem> {
    let Answer { tick, mut rows } = answer;
    let schema = rows.schema();
    let (mut held, mut bytes) = (0, 0);
    let mut batches: Vec<RecordBatch> = Vec::new();
    while held <= ROWS_MAX {
        let next = rows.try_next().await.map_err(|error| refused(QueryError::of_run(&error)))?;
        let Some(batch) = next else { break };
        held += batch.num_rows();
        bytes += bytes_of(&batch);
        if bytes > ANSWER_BYTES_MAX {
            let what = format!("its answer has more than {ANSWER_BYTES_MAX} bytes");
            return Err(refused(QueryError::TooLarge { what }));
        }
        batches.push(batch);
    }
    let truncated = held > ROWS_MAX;
    if truncated && let Some(last) = batches.pop() {
        let more = held - ROWS_MAX;
        batches.push(last.slice(0, last.num_rows() - more));
    }
    let failed = |error: &dyn std::error::Error| Problem::new(StatusCode::BAD_REQUEST, error);
    match form {
        Form::Json => {
            let mut rows = Vec::with_capacity(held.min(ROWS_MAX));
            for batch in &batches {
                let texts = json::arrays(batch).map_err(|error| failed(&error))?;
                rows.extend(
                    texts.into_iter().map(|text| RawValue::from_string(text).expect("it was just written")),
                );
            }
            let body = AnswerBody {
                tick: tick.map(|tick| tick.0.to_string()),
                time: tick.map(time_of),
                columns: json::columns(&schema),
                rows,
                truncated,
                elapsed_us: u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX),
            };
            held_until_taken(Json(body).into_response()).await
        }
        Form::Csv => {
            let mut text = Vec::new();
            let rows = futures::stream::iter(batches.into_iter().map(Ok));
            let rows = datafusion::physical_plan::stream::RecordBatchStreamAdapter::new(schema, rows);
            write(Format::Csv, Box::pin(rows), &mut text).await.map_err(refused)?;
            held_until_taken((heads(CSV, tick, truncated), text).into_response()).await
        }
        Form::Arrow => {
            let mut writer = StreamWriter::try_new(Vec::new(), &schema).map_err(|error| failed(&error))?;
            for batch in &batches {
                writer.write(batch).map_err(|error| failed(&error))?;
            }
            let bytes = writer.into_inner().map_err(|error| failed(&error))?;
            held_until_taken((heads(ARROW, tick, truncated), bytes).into_response()).await
        }
    }
}

/// The response, counted among those that wait for their readers if it is large: who asks for much and reads slowly must not take
/// the memory of all.
async fn held_until_taken(response: Response) -> Result<Response, Problem> {
    let (head, body) = response.into_parts();
    let failed = |error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error);
    let bytes = axum::body::to_bytes(body, usize::MAX).await.map_err(failed)?;
    let mib = u32::try_from(bytes.len() >> 20).unwrap_or(u32::MAX);
    if mib == 0 {
        return Ok(Response::from_parts(head, bytes.into()));
    }
    let place = HELD.try_acquire_many(mib).map_err(|_| {
        let what = "large answers wait for those who asked for them; ask again in a moment, or for less";
        Problem::new(StatusCode::TOO_MANY_REQUESTS, what).retry(1)
    })?;
    // The place is given back when more is asked for, which is when all of it is on its way.
    let parts = futures::stream::unfold((Some(bytes), place), |(bytes, place)| async move {
        bytes.map(|bytes| (Ok::<_, Infallible>(bytes), (None, place)))
    });
    Ok(Response::from_parts(head, axum::body::Body::from_stream(parts)))
}

/// What the rows of a batch take, without what else their buffers hold.
fn bytes_of(batch: &RecordBatch) -> usize {
    let columns = batch.columns().iter();
    columns.map(|c| c.to_data().get_slice_memory_size().unwrap_or_else(|_| c.get_array_memory_size())).sum()
}

enum Form {
    Json,
    Csv,
    Arrow,
}

const CSV: &str = "text/csv";
const ARROW: &str = "application/vnd.apache.arrow.stream";

fn wanted(headers: &HeaderMap) -> Form {
    match headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()) {
        Some(accept) if accept.contains(CSV) => Form::Csv,
        Some(accept) if accept.contains(ARROW) => Form::Arrow,
        _ => Form::Json,
    }
}

/// What JSON has beside the rows goes into headers where there is only room for rows.
fn heads(kind: &'static str, tick: Option<Tick>, truncated: bool) -> HeaderMap {
    let mut heads = HeaderMap::new();
    heads.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    if let Some(tick) = tick {
        heads.insert("tidegate-tick", header::HeaderValue::from(tick.0));
    }
    let truncated = if truncated { "true" } else { "false" };
    heads.insert("tidegate-truncated", header::HeaderValue::from_static(truncated));
    heads
}

/// A tick as a time.
pub(super) fn time_of(tick: Tick) -> String {
    to_rfc3339(tick.micros())
}

pub(super) fn refused(error: QueryError) -> Problem {
    let mut what = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        what += &format!("; because {error}");
        cause = error.source();
    }
    let status = match error {
        QueryError::Broken => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::BAD_REQUEST,
    };
    Problem::new(status, what)
}

/// Every table.
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
}

/// Lists the tables.
#[utoipa::path(get, path = "/v1/tables", tag = "tables", responses((status = 200, body = Tables)))]
pub(super) async fn tables(State(service): Shared) -> Json<impl Serialize> {
    let tables = service.catalogue.schemas().into_iter();
    let tables = tables.map(|(name, schema)| TableBody { name, columns: json::columns(&schema) });
    Json(Tables { tables: tables.collect() })
}

/// Follows a table: an event for each row, as it is computed.
#[utoipa::path(
    get, path = "/v1/tail/{table}", tag = "tables", params(("table" = String, Path, description = "Its name")),
    responses(
        (status = 200, description = "Server-sent events, each a row as a JSON object", content_type = "text/event-stream"),
        (status = 404, description = "There is no such table", body = ProblemBody),
    )
)]
pub(super) async fn tail(
    State(service): Shared,
    Path(table): Path<String>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Problem> {
    let known = service.live.tables();
    if !known.contains(&table) {
        let what = format!("there is no table `{table}` to follow; there are {}", known.join(", "));
        return Err(Problem::new(StatusCode::NOT_FOUND, what));
    }
    let (sender, receiver) = mpsc::channel(TAIL_BATCHES_MAX);
    // The graph hands over references; they are written out here.
    service.live.tail(&table, Box::new(move |rows| sender.try_send(rows.clone()).is_ok()));
    let open = service.telemetry.tails.enter();
    let rows =
        futures::stream::unfold((receiver, VecDeque::new(), open), |(mut receiver, mut rows, open)| async {
            while rows.is_empty() {
                let batch: RecordBatch = receiver.recv().await?;
                rows.extend(json::objects(&batch).unwrap_or_default());
            }
            let row = rows.pop_front().expect("there is one");
            Some((Ok(Event::default().data(row)), (receiver, rows, open)))
        });
    Ok(Sse::new(rows).keep_alive(KeepAlive::default()))
}
