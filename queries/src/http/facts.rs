//! `POST /v1/facts`: submits one record or many, and answers with their durable receipts.

use std::time::Instant;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use serde::Serialize;
use tidegate_dataflows::serve::{Submission, SubmissionOutcome, SubmissionReply};
use tidegate_facts::Verdict;
use tokio::sync::oneshot;
use utoipa::ToSchema;

use super::error::{ApiError, ApiErrorBody};
use super::request::read_body;
use super::service::{Service, Shared};
use super::submission::{
    DURABLE_TIMEOUT, Envelope, ReceiptBody, RecordHead, caller_of, check_event_types, require_outcome,
};
use crate::traces::{CallSpan, TraceContext};

/// The most records of one call.
const RECORDS_MAX: usize = 10_000;

/// The receipts of the records of a call, in the order of the records.
#[derive(Serialize, ToSchema)]
struct Receipts {
    receipts: Vec<ReceiptBody>,
}

/// Admits facts.
///
/// The body is one JSON envelope, or one a line as `application/x-ndjson`. The receipts come when
/// they are durable. Sending a record again is safe: it is answered as a duplicate.
#[utoipa::path(
    post, path = "/v1/facts", tag = "facts",
    request_body(
        content((Envelope = "application/json"), (String = "application/x-ndjson")),
        description = "One envelope, or one a line"
    ),
    responses(
        (status = 200, description = "Every record has a receipt", body = Receipts),
        (status = 403, description = "The key may not send these events", body = ApiErrorBody),
        (status = 413, description = "Too many records or bytes", body = ApiErrorBody),
        (status = 429, description = "The queue is full: send again after Retry-After", body = ApiErrorBody),
        (status = 503, description = "The service is starting or stopping", body = ApiErrorBody),
    )
)]
pub(super) async fn facts(
    State(service): Shared,
    request: Request,
) -> Result<Json<impl Serialize>, ApiError> {
    let arrived = Instant::now();
    let caller = caller_of(&request);
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let is_lines = kind.is_some_and(|kind| kind.to_ascii_lowercase().starts_with("application/x-ndjson"));
    let (parts, body) = read_body(request).await?;
    let records = records_of(body, is_lines)?;
    let heads: Vec<RecordHead> = records.iter().map(|record| RecordHead::of(record)).collect();
    check_event_types(&caller, &heads)?;
    let mut span = service.telemetry.traces().map(|traces| {
        let contexts: Vec<TraceContext> = records.iter().map(|record| TraceContext::of(record)).collect();
        let only = if let [only] = contexts.as_slice() { Some(only) } else { None };
        (CallSpan::begin(traces, "POST /v1/facts", &parts.headers, only, arrived), contexts)
    });
    let submitted = Instant::now();
    let outcome = submit(&service, records, submitted).await;
    if let (Some((span, contexts)), Ok(outcome)) = (&mut span, &outcome) {
        trace_receipts(&service, span, contexts, (submitted, outcome));
    }
    if let Some((span, _)) = span {
        span.answered(outcome.as_ref().map_or_else(|error| error.status, |_| StatusCode::OK));
    }
    let receipts = outcome?.receipts;
    let receipts = receipts.iter().zip(&heads).map(|(receipt, head)| ReceiptBody::new(receipt, head));
    Ok(Json(Receipts { receipts: receipts.collect() }))
}

/// Splits a body into its records.
fn records_of(body: Vec<u8>, is_lines: bool) -> Result<Vec<Vec<u8>>, ApiError> {
    let records: Vec<Vec<u8>> = if is_lines {
        let lines = body.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        lines.filter(|line| !line.is_empty()).map(<[u8]>::to_vec).collect()
    } else {
        vec![body]
    };
    if records.len() > RECORDS_MAX {
        let what = format!("the body has {} records; send at most {RECORDS_MAX} at once", records.len());
        return Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, what));
    }
    if records.is_empty() {
        let what = "the body has no records; send one envelope a line";
        return Err(ApiError::new(StatusCode::BAD_REQUEST, what));
    }
    Ok(records)
}

/// Submits records, and waits until they are durable.
async fn submit(
    service: &Service,
    records: Vec<Vec<u8>>,
    arrived: Instant,
) -> Result<SubmissionOutcome, ApiError> {
    let (sender, receiver) = oneshot::channel();
    service.live.submit(Submission { records, reply: SubmissionReply::Receipts(sender), arrived })?;
    require_outcome(tokio::time::timeout(DURABLE_TIMEOUT, receiver).await.ok().and_then(Result::ok))
}

/// Adds the receipts of a call to its span.
fn trace_receipts(
    service: &Service,
    span: &mut CallSpan,
    contexts: &mut Vec<TraceContext>,
    (submitted, outcome): (Instant, &SubmissionOutcome),
) {
    span.logged(submitted, outcome);
    match outcome.receipts.as_slice() {
        [receipt] => {
            span.received(receipt);
            if let (Verdict::Admit, Some(tick)) = (receipt.verdict, receipt.tick) {
                span.admitted(&service.live, tick);
            }
        }
        receipts => {
            for (context, receipt) in contexts.drain(..).zip(receipts) {
                span.record(&service.live, context, receipt, (submitted, outcome));
            }
        }
    }
}
