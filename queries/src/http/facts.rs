//! Facts in: one or many at once, answered by their receipts when these are durable; and the decision on one, in the same call.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use tidegate_dataflows::live::{self, Busy, Receipt, Receipted, Submission};
use tidegate_facts::{Tick, Verdict};
use tokio::sync::oneshot;
use utoipa::{IntoParams, ToSchema};

use super::awaited::{Awaited, Outcome};
use super::decisions::decided_at;
use super::{Asked, Problem, ProblemBody, Service, Shared, body_of};
use crate::access::Caller;
use crate::json;
use crate::traces::{Call, Origin};

/// How many records one call may bring.
const RECORDS_MAX: usize = 10_000;

/// How long the log may take before a call is told that it is not known what became of its records.
pub(super) const DURABLE_WITHIN: Duration = Duration::from_secs(30);

/// An event as its producer sends it. Which of these a class of events needs, and what its payload holds, says the gate's policy.
#[derive(ToSchema)]
#[expect(dead_code, reason = "read by the gate; here only described")]
struct Envelope {
    /// Sent again under the same id, it is a duplicate.
    #[schema(example = "payment-1")]
    event_id: String,
    #[schema(example = "card.transaction.v1")]
    event_type: String,
    /// When it happened: UTC, with six digits of a second.
    #[schema(example = "2026-04-18T09:30:00.000000Z")]
    ts_utc: String,
    manifest_fingerprint: String,
    parameter_hash: Option<String>,
    seed: Option<u64>,
    scenario_id: Option<String>,
    run_id: Option<String>,
    scenario_run_id: Option<String>,
    platform_run_id: Option<String>,
    /// The trace that it belongs to.
    trace_id: Option<String>,
    /// The fields of its type; decimals as strings.
    #[schema(value_type = Object)]
    payload: serde_json::Value,
}

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
    request_body(
        content((Envelope = "application/json"), (String = "application/x-ndjson")),
        description = "One envelope, or one a line"
    ),
    responses(
        (status = 200, description = "Every record has a receipt", body = Receipts),
        (status = 403, description = "The key may not send these events", body = ProblemBody),
        (status = 413, description = "More at once than is taken", body = ProblemBody),
        (status = 429, description = "Too much waits already: send again after Retry-After", body = ProblemBody),
        (status = 503, description = "Not serving yet, or any more", body = ProblemBody),
    )
)]
pub(super) async fn facts(State(service): Shared, request: Request) -> Result<Json<impl Serialize>, Problem> {
    let arrived = Instant::now();
    let caller = caller_of(&request);
    let lines = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let lines = lines.is_some_and(|kind| kind.to_ascii_lowercase().starts_with("application/x-ndjson"));
    let (parts, body) = body_of(request).await?;
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
    if records.is_empty() {
        return Err(Problem::new(
            StatusCode::BAD_REQUEST,
            "the body has no records; send one envelope a line",
        ));
    }
    let heads: Vec<Head> = records.iter().map(|record| Head::of(record)).collect();
    may_send(&caller, &heads)?;
    let mut followed = service.telemetry.traces().map(|traces| {
        let origins: Vec<Origin> = records.iter().map(|record| Origin::of(record)).collect();
        let only = if let [only] = origins.as_slice() { Some(only) } else { None };
        (Call::begin(traces, "POST /v1/facts", &parts.headers, only, arrived), origins)
    });
    let submitted = Instant::now();
    let outcome = admitted(&service, records, submitted).await;
    if let (Some((call, origins)), Ok(receipted)) = (&mut followed, &outcome) {
        call.logged(submitted, receipted);
        match receipted.receipts.as_slice() {
            [receipt] => {
                call.received(receipt);
                if let (Verdict::Admit, Some(tick)) = (receipt.verdict, receipt.tick) {
                    call.admitted(&service.live, tick);
                }
            }
            receipts => {
                for (origin, receipt) in origins.drain(..).zip(receipts) {
                    call.record(&service.live, origin, receipt, (submitted, receipted));
                }
            }
        }
    }
    if let Some((call, _)) = followed {
        call.answered(outcome.as_ref().map_or_else(|problem| problem.status, |_| StatusCode::OK));
    }
    let receipts = outcome?.receipts;
    let receipts = receipts.iter().zip(&heads).map(|(receipt, head)| ReceiptBody::new(receipt, head));
    Ok(Json(Receipts { receipts: receipts.collect() }))
}

/// Hands over records, and waits until they are durable.
async fn admitted(
    service: &Arc<Service>,
    records: Vec<Vec<u8>>,
    arrived: Instant,
) -> Result<Receipted, Problem> {
    let (told, receipts) = oneshot::channel();
    let on_receipts = Box::new(|receipts| drop(told.send(receipts)));
    submit(service, Submission { records, on_receipts, on_decision: None, arrived })?;
    known(tokio::time::timeout(DURABLE_WITHIN, receipts).await.ok().and_then(Result::ok))
}

/// How long to wait for a decision.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Within {
    /// Milliseconds, at most 30,000; 1000 if it is not given.
    #[serde(default = "a_second")]
    #[param(required = false, default = 1000, maximum = 30_000)]
    within_ms: u64,
}

fn a_second() -> u64 {
    1000
}

/// A receipt, and what was decided.
#[derive(ToSchema)]
#[expect(dead_code, reason = "written by hand, around a row that is JSON already; here only described")]
struct Decided {
    receipt: ReceiptBody,
    /// The decision's columns.
    #[schema(value_type = Option<Object>)]
    decision: Option<serde_json::Value>,
    /// Where the decision will be.
    look: Option<String>,
}

/// Admits one fact and answers with what is decided on it.
///
/// The fact is durable before it is decided, and the decision follows from the log alone. A fact that was sent before is
/// answered with the decision that it had.
#[utoipa::path(
    post, path = "/v1/decide", tag = "facts", params(Within),
    request_body(content = Envelope, description = "One envelope", content_type = "application/json"),
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
    Asked(within): Asked<Within>,
    request: Request,
) -> Result<Response, Problem> {
    if within.within_ms > 30_000 {
        return Err(Problem::new(StatusCode::BAD_REQUEST, "within_ms is at most 30000"));
    }
    let arrived = Instant::now();
    let until = tokio::time::Instant::from_std(arrived) + Duration::from_millis(within.within_ms);
    let caller = caller_of(&request);
    let (parts, body) = body_of(request).await?;
    let head = Head::of(&body);
    may_send(&caller, std::slice::from_ref(&head))?;
    let mut call = service.telemetry.traces().map(|traces| {
        Call::begin(traces, "POST /v1/decide", &parts.headers, Some(&Origin::of(&body)), arrived)
    });
    let decided = decide_on(&service, body, &head, until, &mut call).await;
    if let Some(call) = call {
        call.answered(decided.as_ref().map_or_else(|problem| problem.status, Response::status));
    }
    decided
}

/// Has a record made durable, and waits for what is decided on it.
async fn decide_on(
    service: &Arc<Service>,
    body: Vec<u8>,
    head: &Head,
    until: tokio::time::Instant,
    call: &mut Option<Call>,
) -> Result<Response, Problem> {
    let submitted = Instant::now();
    let (awaited, on_receipts, on_row) = Awaited::new();
    // Whenever this call ends, by an answer or because its caller went away, it waits no longer.
    let (_place, waiter) = service.live.waiter(on_row);
    let records = vec![body];
    submit(service, Submission { records, on_receipts, on_decision: Some(waiter), arrived: submitted })?;
    let Outcome { receipted, decided } = awaited.outcome(until, DURABLE_WITHIN).await;
    let receipted = known(receipted)?;
    let receipt = receipted.receipts.first().expect("one record has one receipt");
    if let Some(call) = call {
        call.logged(submitted, &receipted);
        call.received(receipt);
    }
    let row = match (receipt.verdict, receipt.tick) {
        (Verdict::Admit, Some(tick)) => {
            if decided.is_none() {
                service.telemetry.decisions.late.fetch_add(1, Ordering::Relaxed);
            }
            match (call, &decided) {
                (Some(call), Some((told, decision))) => {
                    let times = (receipted.appended.durable, *told);
                    call.decided(&service.live, times, tick, decision);
                }
                (Some(call), None) => call.admitted(&service.live, tick),
                (None, _) => {}
            }
            decided.as_ref().map(|(_, decided)| text_of(decided))
        }
        (Verdict::Duplicate, Some(tick)) => {
            decided_at(service, tick).await?.map(|(_, row)| Ok(Cow::Owned(row)))
        }
        _ => None,
    };
    let decision = row.transpose()?;
    let Receipted { queued, logged, .. } = &receipted;
    let told = decided.as_ref().map_or_else(Instant::now, |(told, _)| *told);
    let graph = (told - submitted).saturating_sub(*queued + *logged);
    if decision.is_some() && receipt.verdict == Verdict::Admit {
        let parts = &service.telemetry.decisions;
        parts.whole.time(submitted.elapsed());
        parts.queue.time(*queued);
        parts.log.time(*logged);
        parts.graph.time(graph);
    }
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
    // A receipt and what stands around have some 200 bytes.
    let mut body = Vec::with_capacity(256 + decision.as_ref().map_or(0, |decision| decision.len()));
    body.extend_from_slice(b"{\"receipt\":");
    serde_json::to_writer(&mut body, &ReceiptBody::new(receipt, head)).expect("memory takes it");
    if let Some(decision) = decision {
        body.extend_from_slice(b",\"decision\":");
        body.extend_from_slice(decision.as_bytes());
    }
    if let Some(look) = look {
        body.extend_from_slice(b",\"look\":");
        serde_json::to_writer(&mut body, &look).expect("memory takes it");
    }
    body.push(b'}');
    let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
    let timing =
        format!("queue;dur={:.3}, log;dur={:.3}, graph;dur={:.3}", ms(*queued), ms(*logged), ms(graph));
    let timing = HeaderValue::try_from(timing).expect("names and numbers");
    let heads = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (HeaderName::from_static("server-timing"), timing),
    ];
    Ok((status, heads, body).into_response())
}

/// Rows that came together are written together when they are no more than this: who waits for one row of a large batch
/// is not to wait for all of them.
const TOGETHER_MAX: usize = 256;

/// A decision as a JSON object.
fn text_of(decided: &live::Decided) -> Result<Cow<'_, str>, Problem> {
    let batch = &decided.rows.batch;
    let text = if batch.num_rows() > TOGETHER_MAX {
        json::object(batch, decided.row).map(Cow::Owned).map_err(|error| error.to_string())
    } else {
        let texts = decided.rows.answers(|rows| json::objects(rows).map_err(|error| error.to_string()));
        texts.map(|texts| Cow::Borrowed(texts[decided.row].as_str())).map_err(str::to_owned)
    };
    text.map_err(|error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error))
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
    service.live.submit(submission).map_err(busy)
}

/// Why something is not taken now, and when to try again.
pub(super) fn busy(busy: Busy) -> Problem {
    match busy {
        Busy::Full => Problem::new(StatusCode::TOO_MANY_REQUESTS, busy).retry(1),
        // Half a second when a revision comes into force; who starts it with a long log asks more often.
        Busy::CatchingUp => Problem::new(StatusCode::SERVICE_UNAVAILABLE, busy).retry(1),
        Busy::Stopping => Problem::new(StatusCode::SERVICE_UNAVAILABLE, busy).retry(10),
    }
}

/// What became of the records, or that it is not known.
fn known(receipts: Option<Result<Receipted, String>>) -> Result<Receipted, Problem> {
    let unknown = "it is not known what became of the records; send them again, which is safe: those that are in the log \
                   are answered as duplicates";
    match receipts {
        Some(Ok(receipts)) => Ok(receipts),
        Some(Err(what)) => {
            Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, format!("{what}; {unknown}")).retry(10))
        }
        None => Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, unknown).retry(10)),
    }
}

fn percent_encoded(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    };
    text.bytes().map(byte).collect()
}
