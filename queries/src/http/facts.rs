//! Facts in: one or many at once, answered by their receipts when these are durable; and the decision on one, in the same call.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tidegate_dataflows::live::{Busy, Receipt, Receipted, Submission};
use tidegate_facts::{Tick, Verdict};
use tokio::sync::oneshot;
use utoipa::{IntoParams, ToSchema};

use super::decisions::decided_at;
use super::{Problem, ProblemBody, Service, Shared, body_of};
use crate::access::Caller;
use crate::json;

/// How many records one call may bring.
const RECORDS_MAX: usize = 10_000;

/// How long the log may take before a call is told that it is not known what became of its records.
const DURABLE_WITHIN: Duration = Duration::from_secs(30);

/// What became of the records of a call, in their order.
#[derive(Serialize, ToSchema)]
struct Receipts {
    receipts: Vec<ReceiptBody>,
}

/// What became of one record.
#[derive(Serialize, ToSchema)]
struct ReceiptBody {
    /// `admitted`, `duplicate` or `quarantined`.
    verdict: &'static str,
    /// The event's id, where the record has a readable one.
    #[serde(skip_serializing_if = "Option::is_none")]
    event_id: Option<String>,
    /// Why it was quarantined, as a code.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    /// What exactly is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
    /// The tick of the fact.
    #[serde(skip_serializing_if = "Option::is_none")]
    tick: Option<String>,
    /// Its partition.
    #[serde(skip_serializing_if = "Option::is_none")]
    partition: Option<u16>,
    /// Its offset there.
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<String>,
}

/// What a producer says of an event, as far as it matters before the gate has judged it.
#[derive(Default, Deserialize)]
struct Head {
    #[serde(default)]
    event_id: Option<String>,
    #[serde(default)]
    event_type: Option<String>,
}

impl Head {
    /// Of a record that says neither, nothing: the gate will say what is wrong with it.
    fn of(record: &[u8]) -> Head {
        serde_json::from_slice(record).unwrap_or_default()
    }
}

impl ReceiptBody {
    fn new(receipt: &Receipt, head: &Head) -> ReceiptBody {
        ReceiptBody {
            verdict: match receipt.verdict {
                Verdict::Admit => "admitted",
                Verdict::Duplicate => "duplicate",
                Verdict::Quarantine => "quarantined",
            },
            event_id: head.event_id.clone(),
            reason: receipt
                .reason
                .filter(|_| receipt.verdict == Verdict::Quarantine)
                .map(|reason| reason.code()),
            detail: receipt.detail.clone(),
            tick: receipt.tick.map(|tick| tick.0.to_string()),
            partition: receipt.tick.map(Tick::partition),
            offset: receipt.offset.map(|offset| offset.to_string()),
        }
    }
}

/// Admits facts.
///
/// One JSON envelope, or one a line as `application/x-ndjson`. The receipts come when they are durable; sending a record
/// again is safe, and answered as a duplicate.
#[utoipa::path(
    post, path = "/v1/facts", tag = "facts",
    request_body(content = String, description = "One envelope, or one a line", content_type = "application/json"),
    responses(
        (status = 200, description = "Every record has a receipt", body = Receipts),
        (status = 403, description = "The key may not send these events", body = ProblemBody),
        (status = 413, description = "More at once than is taken", body = ProblemBody),
        (status = 429, description = "Too much waits already: send again after Retry-After", body = ProblemBody),
        (status = 503, description = "Not serving yet, or any more", body = ProblemBody),
    )
)]
pub(super) async fn facts(State(service): Shared, request: Request) -> Result<Json<impl Serialize>, Problem> {
    let caller = caller_of(&request);
    let lines = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let lines = lines.is_some_and(|kind| kind.to_ascii_lowercase().starts_with("application/x-ndjson"));
    let (_, body) = body_of(request).await?;
    let records: Vec<Vec<u8>> = if lines {
        let lines = body.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        lines.filter(|line| !line.is_empty()).map(<[u8]>::to_vec).collect()
    } else {
        vec![body]
    };
    if records.len() > RECORDS_MAX {
        let what = format!("the body has {} records; send at most {RECORDS_MAX} at once", records.len());
        return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, what));
    }
    let heads: Vec<Head> = records.iter().map(|record| Head::of(record)).collect();
    may_send(&caller, &heads)?;
    let (told, receipts) = oneshot::channel();
    submit(
        &service,
        Submission {
            records,
            on_receipts: Box::new(|receipts| drop(told.send(receipts))),
            on_decision: None,
            arrived: Instant::now(),
        },
    )?;
    let receipts = durable(receipts).await?.receipts;
    let receipts = receipts.iter().zip(&heads).map(|(receipt, head)| ReceiptBody::new(receipt, head));
    Ok(Json(Receipts { receipts: receipts.collect() }))
}

/// How long to wait for a decision.
#[derive(Deserialize, IntoParams)]
pub(super) struct Within {
    /// Milliseconds, at most 30,000.
    #[serde(default = "a_second")]
    within_ms: u64,
}

fn a_second() -> u64 {
    1000
}

/// A receipt, and what was decided.
#[derive(Serialize, ToSchema)]
struct Decided {
    receipt: ReceiptBody,
    /// The decision's columns.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    decision: Option<Box<RawValue>>,
    /// Where the decision will be.
    #[serde(skip_serializing_if = "Option::is_none")]
    look: Option<String>,
}

/// Admits one fact and answers with what is decided on it.
///
/// The fact is durable before it is decided, and the decision follows from the log alone. A fact that was sent before is
/// answered with the decision that it had.
#[utoipa::path(
    post, path = "/v1/decide", tag = "facts", params(Within),
    request_body(content = String, description = "One envelope", content_type = "application/json"),
    responses(
        (status = 200, description = "Decided", body = Decided),
        (status = 202, description = "Durable, and not decided in time: look there", body = Decided),
        (status = 422, description = "Quarantined", body = Decided),
        (status = 429, description = "Too much waits already: send again after Retry-After", body = ProblemBody),
        (status = 503, description = "Not serving yet, or any more", body = ProblemBody),
    )
)]
pub(super) async fn decide(
    State(service): Shared,
    Query(within): Query<Within>,
    request: Request,
) -> Result<Response, Problem> {
    if within.within_ms > 30_000 {
        return Err(Problem::new(StatusCode::BAD_REQUEST, "within_ms is at most 30000"));
    }
    let until = tokio::time::Instant::now() + Duration::from_millis(within.within_ms);
    let caller = caller_of(&request);
    let (_, body) = body_of(request).await?;
    let head = Head::of(&body);
    may_send(&caller, std::slice::from_ref(&head))?;
    let (told, receipts) = oneshot::channel();
    let (decided, decision) = oneshot::channel();
    // Whenever this call ends, by an answer or because its caller went away, it waits no longer.
    let (_place, waiter) = service.live.waiter(Box::new(move |_, row| drop(decided.send(row))));
    submit(
        &service,
        Submission {
            records: vec![body],
            on_receipts: Box::new(|receipts| drop(told.send(receipts))),
            on_decision: Some(waiter),
            arrived: Instant::now(),
        },
    )?;
    let Receipted { mut receipts, queued, logged } = durable(receipts).await?;
    let durable_at = Instant::now();
    let receipt = receipts.pop().expect("one record has one receipt");
    let row = match (receipt.verdict, receipt.tick) {
        (Verdict::Admit, Some(_)) => {
            let row = tokio::time::timeout_at(until, decision).await.ok().and_then(Result::ok);
            row.map(|row| one(json::objects(&row)))
        }
        (Verdict::Duplicate, Some(tick)) => decided_at(&service, tick).await?.map(|(_, row)| Ok(row)),
        _ => None,
    };
    let graph = durable_at.elapsed();
    let decision = row.transpose()?.map(|row| RawValue::from_string(row).expect("it was just written"));
    let is_quarantined = receipt.verdict == Verdict::Quarantine;
    let look = (decision.is_none() && !is_quarantined).then(|| {
        let id = head.event_id.as_deref().unwrap_or_default();
        format!("/v1/decisions/{}", percent_encoded(id))
    });
    let status = match (&decision, is_quarantined) {
        (Some(_), _) => StatusCode::OK,
        (None, true) => StatusCode::UNPROCESSABLE_ENTITY,
        (None, false) => StatusCode::ACCEPTED,
    };
    let receipt = ReceiptBody::new(&receipt, &head);
    let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
    let timing =
        format!("queue;dur={:.3}, log;dur={:.3}, graph;dur={:.3}", ms(queued), ms(logged), ms(graph));
    let timing = [(HeaderName::from_static("server-timing"), timing)];
    Ok((status, timing, Json(Decided { receipt, decision, look })).into_response())
}

/// The one row of an answer.
fn one(rows: Result<Vec<String>, arrow::error::ArrowError>) -> Result<String, Problem> {
    let row = rows.map(|mut rows| rows.pop());
    match row {
        Ok(Some(row)) => Ok(row),
        Ok(None) => Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the decision has no row")),
        Err(error) => Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error)),
    }
}

fn caller_of(request: &Request) -> Caller {
    request.extensions().get::<Caller>().expect("it was found out who calls").clone()
}

/// Whether a key that names event types names those of all records; a record without one is no event of its.
fn may_send(caller: &Caller, heads: &[Head]) -> Result<(), Problem> {
    if caller.is_bound() {
        for head in heads {
            caller.may_send(head.event_type.as_deref().unwrap_or_default())?;
        }
    }
    Ok(())
}

fn submit(service: &Arc<Service>, submission: Submission) -> Result<(), Problem> {
    service.live.submit(submission).map_err(|busy| match busy {
        Busy::Full => Problem::new(StatusCode::TOO_MANY_REQUESTS, busy).retry(1),
        Busy::CatchingUp => Problem::new(StatusCode::SERVICE_UNAVAILABLE, busy).retry(5),
        Busy::Stopping => Problem::new(StatusCode::SERVICE_UNAVAILABLE, busy).retry(10),
    })
}

async fn durable(receipts: oneshot::Receiver<Result<Receipted, String>>) -> Result<Receipted, Problem> {
    let unknown = "it is not known what became of the records; send them again, which is safe: those that are in the log \
                   are answered as duplicates";
    match tokio::time::timeout(DURABLE_WITHIN, receipts).await {
        Ok(Ok(Ok(receipts))) => Ok(receipts),
        Ok(Ok(Err(what))) => {
            Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, format!("{what}; {unknown}")).retry(10))
        }
        Ok(Err(_)) | Err(_) => Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, unknown).retry(10)),
    }
}

fn percent_encoded(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    };
    text.bytes().map(byte).collect()
}
