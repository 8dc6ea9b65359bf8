//! Reading requests: query parameters, and bodies with limits on size and time.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequestParts, Query, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use futures::StreamExt;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::error::ApiError;

/// The timeout for reading the body of a request.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// The most bytes that the body of an HTTP request may have.
pub const BODY_BYTES_MAX: usize = 8 << 20;

/// The query parameters of an HTTP request, parsed as `T`.
pub(super) struct QueryParams<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for QueryParams<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<QueryParams<T>, ApiError> {
        match Query::from_request_parts(parts, state).await {
            Ok(Query(params)) => Ok(QueryParams(params)),
            Err(rejection) => {
                let what = format!(
                    "{}; GET /openapi.json lists the parameters of every call",
                    rejection.body_text()
                );
                Err(ApiError::new(StatusCode::BAD_REQUEST, what))
            }
        }
    }
}

/// Reads the body of an HTTP request; an error if it is too long or comes too slowly.
pub(super) async fn read_body(request: Request) -> Result<(Parts, Vec<u8>), ApiError> {
    let (head, body) = request.into_parts();
    match tokio::time::timeout(BODY_TIMEOUT, read_bytes(body)).await {
        Ok(read) => Ok((head, read?)),
        Err(_) => Err(ApiError::new(
            StatusCode::REQUEST_TIMEOUT,
            format!("the body did not come within {} s; send it faster or in parts", BODY_TIMEOUT.as_secs()),
        )),
    }
}

async fn read_bytes(body: Body) -> Result<Vec<u8>, ApiError> {
    let mut parts = body.into_data_stream();
    let (mut bytes, mut length) = (Vec::new(), 0);
    while let Some(part) = parts.next().await {
        let part = part.map_err(|_| ApiError::new(StatusCode::BAD_REQUEST, "the body broke off"))?;
        length += part.len();
        if length <= BODY_BYTES_MAX {
            bytes.extend_from_slice(&part);
        } else if length > 2 * BODY_BYTES_MAX {
            break; // The rest up to here was read only so that the sender gets the answer.
        }
    }
    if length > BODY_BYTES_MAX {
        let what = format!("the body has more than {BODY_BYTES_MAX} bytes; send less at once");
        return Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, what));
    }
    Ok(bytes)
}

/// Reads the JSON body of an HTTP request; `form` shows its form in the error.
pub(super) async fn read_json<T: for<'de> Deserialize<'de>>(
    request: Request,
    form: &str,
) -> Result<T, ApiError> {
    let (_, body) = read_body(request).await?;
    serde_json::from_slice(&body)
        .map_err(|error| ApiError::new(StatusCode::BAD_REQUEST, format!("the body is not {form}: {error}")))
}
