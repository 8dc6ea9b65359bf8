//! Error answers: a status, what is wrong, how to fix it, and when to retry.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tidegate_dataflows::serve::Unavailable;
use utoipa::ToSchema;

use crate::access::Denied;
use crate::error::QueryError;

/// An error answer to an HTTP call.
#[derive(Debug)]
pub(crate) struct ApiError {
    pub(super) status: StatusCode,
    what: String,
    pub(super) candidates: Vec<DecisionCandidate>,
    /// The seconds after which the caller should retry.
    retry_after: Option<u64>,
}

/// The body of an error answer: what is wrong, and how to fix it.
#[derive(Serialize, ToSchema)]
pub(super) struct ApiErrorBody {
    error: String,
    /// The decisions that an ambiguous id may refer to.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    candidates: Vec<DecisionCandidate>,
}

/// One of the decisions that an ambiguous id may refer to.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct DecisionCandidate {
    /// Empty if neither the log nor the archive holds the fact.
    pub(super) event_type: String,
    pub(super) event_id: String,
    /// The tick of the fact.
    pub(super) tick: String,
    pub(super) decision_id: String,
    /// The path of the decision: an exact `TYPE:ID`, or the id of the decision.
    pub(super) location: String,
}

impl ApiError {
    pub(super) fn new(status: StatusCode, what: impl ToString) -> ApiError {
        ApiError { status, what: what.to_string(), candidates: Vec::new(), retry_after: None }
    }

    /// The same error, which passes by itself: the caller should retry after `seconds`.
    pub(super) fn retry(self, seconds: u64) -> ApiError {
        ApiError { retry_after: Some(seconds), ..self }
    }

    /// The error for an id that several decisions match.
    pub(super) fn ambiguous(what: impl ToString, candidates: Vec<DecisionCandidate>) -> ApiError {
        ApiError { candidates, ..ApiError::new(StatusCode::CONFLICT, what) }
    }

    /// The error for something that failed inside the service.
    pub(super) fn internal(what: impl ToString) -> ApiError {
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, what)
    }
}

impl From<Denied> for ApiError {
    fn from(denied: Denied) -> ApiError {
        let status = match denied {
            Denied::NoKey | Denied::UnknownKey => StatusCode::UNAUTHORIZED,
            Denied::Role { .. } | Denied::Nobody { .. } | Denied::EventType { .. } => StatusCode::FORBIDDEN,
        };
        ApiError::new(status, denied)
    }
}

impl From<QueryError> for ApiError {
    fn from(error: QueryError) -> ApiError {
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
        ApiError::new(status, what)
    }
}

impl From<Unavailable> for ApiError {
    fn from(unavailable: Unavailable) -> ApiError {
        match unavailable {
            Unavailable::Full => ApiError::new(StatusCode::TOO_MANY_REQUESTS, unavailable).retry(1),
            // Activating a revision takes half a second; after a start with a long log, callers
            // retry often.
            Unavailable::CatchingUp => ApiError::new(StatusCode::SERVICE_UNAVAILABLE, unavailable).retry(1),
            Unavailable::Stopping => ApiError::new(StatusCode::SERVICE_UNAVAILABLE, unavailable).retry(10),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = ApiErrorBody { error: self.what, candidates: self.candidates };
        let mut response = (self.status, Json(body)).into_response();
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
