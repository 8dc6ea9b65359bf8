//! Submitting records to the gate: the envelope, access to event types, and receipts.

use std::time::Duration;

use axum::extract::Request;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use tidegate_dataflows::serve::{Receipt, SubmissionOutcome};
use tidegate_facts::{Tick, Verdict};
use utoipa::ToSchema;

use super::error::ApiError;
use crate::access::Caller;

/// The time that the log gets to make records durable before the call is answered with "unknown".
pub(super) const DURABLE_TIMEOUT: Duration = Duration::from_secs(30);

/// An event as its producer sends it. The gate's policy says which fields a class of events
/// requires, and what its payload holds.
#[derive(ToSchema)]
#[expect(dead_code, reason = "the gate parses it; here it only describes the API")]
pub(super) struct Envelope {
    /// Sent again under the same id, the record is a duplicate.
    #[schema(example = "payment-1")]
    event_id: String,
    #[schema(example = "card.transaction.v1")]
    event_type: String,
    /// The event time: UTC, with six digits of a second.
    #[schema(example = "2026-04-18T09:30:00.000000Z")]
    ts_utc: String,
    manifest_fingerprint: String,
    parameter_hash: Option<String>,
    seed: Option<u64>,
    scenario_id: Option<String>,
    run_id: Option<String>,
    scenario_run_id: Option<String>,
    platform_run_id: Option<String>,
    /// The trace that the event belongs to.
    trace_id: Option<String>,
    /// The fields of its type; decimals as strings.
    #[schema(value_type = Object)]
    payload: serde_json::Value,
}

/// The receipt of one record: the gate's verdict on it.
#[derive(Serialize, ToSchema)]
pub(super) struct ReceiptBody {
    /// `admitted`, `duplicate` or `quarantined`.
    verdict: &'static str,
    /// The event's id, if the record has a readable one.
    #[serde(skip_serializing_if = "Option::is_none")]
    event_id: Option<String>,
    /// The code of the reason for quarantine.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    /// What exactly is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
    /// The tick of the fact.
    #[serde(skip_serializing_if = "Option::is_none")]
    tick: Option<String>,
    /// The partition of the fact.
    #[serde(skip_serializing_if = "Option::is_none")]
    partition: Option<u16>,
    /// The offset of the fact in its partition.
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<String>,
}

/// The fields of a record that matter before the gate has validated it.
#[derive(Default, Deserialize)]
pub(super) struct RecordHead {
    #[serde(default)]
    pub(super) event_id: Option<String>,
    #[serde(default)]
    pub(super) event_type: Option<String>,
}

impl RecordHead {
    /// Reads the head of a record; empty if it is malformed, since the gate will report that.
    pub(super) fn of(record: &[u8]) -> RecordHead {
        serde_json::from_slice(record).unwrap_or_default()
    }
}

impl ReceiptBody {
    pub(super) fn new(receipt: &Receipt, head: &RecordHead) -> ReceiptBody {
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

/// The caller of a request, which the access layer has authenticated.
pub(super) fn caller_of(request: &Request) -> Caller {
    request.extensions().get::<Caller>().expect("the access layer adds the caller").clone()
}

/// Checks that the caller's key allows the event types of all records. A record without a type is
/// not allowed for a key that names types.
pub(super) fn check_event_types(caller: &Caller, heads: &[RecordHead]) -> Result<(), ApiError> {
    if caller.is_bound() {
        for head in heads {
            caller.may_send(head.event_type.as_deref().unwrap_or_default())?;
        }
    }
    Ok(())
}

/// The outcome of a submission, or the error that it is unknown.
pub(super) fn require_outcome(
    outcome: Option<Result<SubmissionOutcome, String>>,
) -> Result<SubmissionOutcome, ApiError> {
    let unknown = "it is unknown whether the records are durable; send them again, which is safe: those that are in the \
                   log are answered as duplicates";
    match outcome {
        Some(Ok(outcome)) => Ok(outcome),
        Some(Err(what)) => {
            Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, format!("{what}; {unknown}")).retry(10))
        }
        None => Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, unknown).retry(10)),
    }
}
