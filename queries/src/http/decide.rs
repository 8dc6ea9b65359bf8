//! `POST /v1/decide`: submits one record, and answers with its receipt and the decisions on it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use tidegate_dataflows::serve::{
    Decision, DecisionReply, PendingDecision, Submission, SubmissionOutcome, SubmissionReply,
};
use tidegate_facts::Verdict;
use utoipa::{IntoParams, ToSchema};

use super::decisions::find_by_tick;
use super::error::{ApiError, ApiErrorBody};
use super::plan_nodes::requested_nodes;
use super::request::{QueryParams, read_body};
use super::service::{Service, Shared};
use super::submission::{
    DURABLE_TIMEOUT, Envelope, ReceiptBody, RecordHead, caller_of, check_event_types, require_outcome,
};
use super::text::percent_encoded;
use crate::json_rows;
use crate::traces::{CallSpan, TraceContext};

/// The field of an answer's decision that names the node.
const NODE: &str = "node";

/// The most milliseconds that a caller may wait for decisions.
const TIMEOUT_MS_MAX: u64 = 30_000;

/// The query parameters of `/v1/decide`.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct DecideParams {
    /// The milliseconds to wait for decisions, at most 30,000.
    #[serde(default = "a_second")]
    #[param(required = false, default = 1000, maximum = 30_000)]
    timeout_ms: u64,
    /// The only node to wait for; every node that decides, if it is missing.
    node: Option<String>,
}

fn a_second() -> u64 {
    1000
}

/// A receipt and the decisions on the record.
#[derive(ToSchema)]
#[expect(dead_code, reason = "written by hand around encoded rows; here it only describes the API")]
struct DecideAnswer {
    receipt: ReceiptBody,
    /// One for each node that decided: `node`, and the columns of its decision.
    #[schema(value_type = Vec<Object>)]
    decisions: Vec<serde_json::Value>,
    /// The path where further decisions can be read; only if the timeout passed before all came.
    location: Option<String>,
}

/// Admits one fact, and answers with the decisions on it.
///
/// The fact is durable before it is decided, and the decisions follow from the log alone. A fact
/// that was sent before is answered with the decisions that it had. A node whose filters exclude
/// the fact does not decide on it; so an answer may have no decision.
#[utoipa::path(
    post, path = "/v1/decide", tag = "facts", params(DecideParams),
    request_body(content = Envelope, description = "One envelope", content_type = "application/json"),
    responses(
        (status = 200, description = "Decided by every node that decides on this fact", body = DecideAnswer),
        (status = 202, description = "Durable, and not decided in time: see `location`", body = DecideAnswer),
        (status = 404, description = "There is no such node", body = ApiErrorBody),
        (status = 422, description = "Quarantined", body = DecideAnswer),
        (status = 429, description = "The queue is full: send again after Retry-After", body = ApiErrorBody),
        (status = 503, description = "The service is starting or stopping", body = ApiErrorBody),
    )
)]
pub(super) async fn decide(
    State(service): Shared,
    QueryParams(params): QueryParams<DecideParams>,
    request: Request,
) -> Result<Response, ApiError> {
    if params.timeout_ms > TIMEOUT_MS_MAX {
        let what = format!("timeout_ms is at most {TIMEOUT_MS_MAX}");
        return Err(ApiError::new(StatusCode::BAD_REQUEST, what));
    }
    let nodes = requested_nodes(&service.plan, params.node.as_deref())?;
    let arrived = Instant::now();
    let deadline = tokio::time::Instant::from_std(arrived) + Duration::from_millis(params.timeout_ms);
    let caller = caller_of(&request);
    let (parts, body) = read_body(request).await?;
    let head = RecordHead::of(&body);
    check_event_types(&caller, std::slice::from_ref(&head))?;
    let mut span = service.telemetry.traces().map(|traces| {
        let context = TraceContext::of(&body);
        CallSpan::begin(traces, "POST /v1/decide", &parts.headers, Some(&context), arrived)
    });
    let answered = submit(&service, body, &head, (nodes, deadline), &mut span).await;
    if let Some(span) = span {
        span.answered(answered.as_ref().map_or_else(|error| error.status, Response::status));
    }
    answered
}

/// Submits a record, waits for its receipt and decisions, and builds the answer.
async fn submit(
    service: &Service,
    body: Vec<u8>,
    head: &RecordHead,
    (nodes, deadline): (Vec<Arc<str>>, tokio::time::Instant),
    span: &mut Option<CallSpan>,
) -> Result<Response, ApiError> {
    let submitted = Instant::now();
    // Whenever this call ends, by an answer or because its caller disconnects, the wait ends with
    // it.
    let (pending, waiter) = service.live.decisions.wait_for(nodes.clone());
    let reply = SubmissionReply::Decisions(waiter);
    service.live.submit(Submission { records: vec![body], reply, arrived: submitted })?;
    let (DecisionReply { outcome, decisions }, is_complete) = wait(pending, deadline).await?;
    let receipt = outcome.receipts.first().expect("one record has one receipt");
    if let Some(span) = span {
        span.logged(submitted, &outcome);
        span.received(receipt);
    }
    let mut is_decided = is_complete;
    let texts = match (receipt.verdict, receipt.tick) {
        (Verdict::Admit, Some(tick)) => {
            if !is_complete {
                service.telemetry.decisions.timeouts.fetch_add(1, Ordering::Relaxed);
            }
            if let Some(span) = span {
                span.decided(&service.live, outcome.appended.durable, tick, &decisions);
            }
            decisions.iter().map(encode_decision).collect::<Result<Vec<_>, _>>()?
        }
        (Verdict::Duplicate, Some(tick)) => {
            // Every node has decided on the facts before this tick, or does not decide on them. It
            // is read first, so that the statement sees all of those decisions.
            is_decided = tick < service.reads().complete();
            let found = find_by_tick(service, tick).await?;
            let requested = found.into_iter().filter(|found| nodes.iter().any(|node| **node == *found.node));
            let texts = requested.map(|found| encode_row(&found.node, &found.row, 0));
            texts.collect::<Result<Vec<_>, _>>()?
        }
        _ => Vec::new(),
    };
    let timing = Timing::of(submitted, &outcome, &decisions);
    if receipt.verdict == Verdict::Admit && !decisions.is_empty() {
        timing.record(service, submitted);
    }
    let status = match receipt.verdict {
        Verdict::Quarantine => StatusCode::UNPROCESSABLE_ENTITY,
        _ if is_decided => StatusCode::OK,
        _ => StatusCode::ACCEPTED,
    };
    let location = (status == StatusCode::ACCEPTED).then(|| location_of(head));
    let body = encode_answer(&ReceiptBody::new(receipt, head), &texts, location);
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (HeaderName::from_static("server-timing"), timing.header()),
    ];
    Ok((status, headers, body).into_response())
}

/// Waits for the receipt and all decisions until the deadline, and then for the receipt alone. Also
/// returns whether every node decided in time, or will not decide.
async fn wait(
    mut pending: PendingDecision,
    deadline: tokio::time::Instant,
) -> Result<(DecisionReply, bool), ApiError> {
    let (reply, is_complete) = match tokio::time::timeout_at(deadline, pending.reply()).await {
        Ok(reply) => (Some(reply), true),
        Err(_) => {
            pending.stop_waiting_for_decisions();
            (tokio::time::timeout(DURABLE_TIMEOUT, pending.reply()).await.ok(), false)
        }
    };
    match reply {
        Some(Ok(Some(reply))) => Ok((reply, is_complete)),
        Some(Err(what)) => Err(unknown(Some(Err(what)))),
        Some(Ok(None)) | None => Err(unknown(None)),
    }
}

fn unknown(outcome: Option<Result<SubmissionOutcome, String>>) -> ApiError {
    require_outcome(outcome).expect_err("there is no outcome")
}

/// The most rows of a batch that are encoded together: a caller that waits for one row of a large
/// batch should not wait for all of them.
const TOGETHER_ROWS_MAX: usize = 256;

/// Encodes a decision as a JSON object: the node, and the columns of the row.
fn encode_decision(decision: &Decision) -> Result<String, ApiError> {
    let rows = &decision.batch.rows;
    if rows.num_rows() > TOGETHER_ROWS_MAX {
        return encode_row(&decision.node, rows, decision.row);
    }
    let encode = |rows: &RecordBatch| json_rows::objects(&without_node(rows));
    let texts = decision.batch.texts(|rows| encode(rows).map_err(|error| error.to_string()));
    let texts = texts.map_err(ApiError::internal)?;
    Ok(with_node(&decision.node, &texts[decision.row]))
}

/// Encodes one row of decisions as a JSON object with the node that decided.
fn encode_row(node: &str, rows: &RecordBatch, row: usize) -> Result<String, ApiError> {
    let text = json_rows::object(&without_node(rows), row).map_err(ApiError::internal)?;
    Ok(with_node(node, &text))
}

/// The rows without a column called `node`, whose name the answer needs; SQL has that column.
fn without_node(rows: &RecordBatch) -> RecordBatch {
    let mut rows = rows.clone();
    if let Ok(index) = rows.schema_ref().index_of(NODE) {
        rows.remove_column(index);
    }
    rows
}

/// Adds the name of its node to an encoded decision. A decision has several columns, so it is not
/// `{}`.
fn with_node(node: &str, decision: &str) -> String {
    let node = serde_json::Value::from(node);
    let columns = decision.strip_prefix('{').expect("a decision is encoded as an object");
    format!("{{\"{NODE}\":{node},{columns}")
}

/// Encodes the body of an answer.
fn encode_answer(receipt: &ReceiptBody, decisions: &[String], location: Option<String>) -> Vec<u8> {
    // A receipt and the other fields have about 200 bytes.
    let mut body = Vec::with_capacity(256 + decisions.iter().map(|text| text.len() + 1).sum::<usize>());
    body.extend_from_slice(b"{\"receipt\":");
    serde_json::to_writer(&mut body, receipt).expect("memory can be written");
    body.extend_from_slice(b",\"decisions\":[");
    for (index, decision) in decisions.iter().enumerate() {
        if index > 0 {
            body.push(b',');
        }
        body.extend_from_slice(decision.as_bytes());
    }
    body.push(b']');
    if let Some(location) = location {
        body.extend_from_slice(b",\"location\":");
        serde_json::to_writer(&mut body, &location).expect("memory can be written");
    }
    body.push(b'}');
    body
}

/// The path where the decisions on a record can be read later.
fn location_of(head: &RecordHead) -> String {
    let id = head.event_id.as_deref().unwrap_or_default();
    match &head.event_type {
        Some(event_type) => format!("/v1/decisions/{}", percent_encoded(&format!("{event_type}:{id}"))),
        None => format!("/v1/decisions/{}", percent_encoded(id)),
    }
}

/// The times that a decision waited for the queue, the log and the dataflow.
struct Timing {
    queue: Duration,
    log: Duration,
    graph: Duration,
}

impl Timing {
    fn of(submitted: Instant, outcome: &SubmissionOutcome, decisions: &[Decision]) -> Timing {
        let decided = decisions.iter().map(|decision| decision.decided).max().unwrap_or_else(Instant::now);
        let SubmissionOutcome { queued, logged, .. } = outcome;
        let graph = decided.saturating_duration_since(submitted).saturating_sub(*queued + *logged);
        Timing { queue: *queued, log: *logged, graph }
    }

    fn record(&self, service: &Service, submitted: Instant) {
        let metrics = &service.telemetry.decisions;
        metrics.whole.record_duration(submitted.elapsed());
        metrics.queue.record_duration(self.queue);
        metrics.log.record_duration(self.log);
        metrics.graph.record_duration(self.graph);
    }

    /// The value of the header `Server-Timing`.
    fn header(&self) -> HeaderValue {
        let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
        let (queue, log, graph) = (ms(self.queue), ms(self.log), ms(self.graph));
        let text = format!("queue;dur={queue:.3}, log;dur={log:.3}, graph;dur={graph:.3}");
        HeaderValue::try_from(text).expect("names and numbers are valid in a header")
    }
}
