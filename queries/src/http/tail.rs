//! `GET /v1/tail/{table}`: the rows of a table as they are computed, as server-sent events.

use std::collections::VecDeque;
use std::convert::Infallible;

use arrow::array::RecordBatch;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures::Stream;
use tokio::sync::mpsc;

use super::error::{ApiError, ApiErrorBody};
use super::service::Shared;
use crate::json_rows;

/// The most batches that wait for a subscriber. A slower subscriber is disconnected; SQL has its
/// rows.
const BATCHES_MAX: usize = 1024;

/// Follows a table: an event for each row, as it is computed.
#[utoipa::path(
    get, path = "/v1/tail/{table}", tag = "tables", params(("table" = String, Path, description = "Its name")),
    responses(
        (status = 200, description = "Server-sent events, each a row as a JSON object", content_type = "text/event-stream"),
        (status = 404, description = "There is no such table", body = ApiErrorBody),
        (status = 503, description = "Too many callers follow tables already", body = ApiErrorBody),
    )
)]
pub(super) async fn tail(
    State(service): Shared,
    Path(table): Path<String>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, ApiError> {
    let tables = service.live.tables.names();
    if !tables.contains(&table) {
        let what = format!("there is no table `{table}` to follow; there are {}", tables.join(", "));
        return Err(ApiError::new(StatusCode::NOT_FOUND, what));
    }
    let (sender, receiver) = mpsc::channel(BATCHES_MAX);
    // The worker only sends references; the rows are encoded here.
    let on_rows = Box::new(move |rows: &RecordBatch| sender.try_send(rows.clone()).is_ok());
    let subscription = service.live.tables.subscribe(&table, on_rows);
    let subscription = subscription
        .map_err(|refusal| ApiError::new(StatusCode::SERVICE_UNAVAILABLE, refusal.to_string()))?;
    // Both go with the stream, when the caller has gone away.
    let open = (subscription, service.telemetry.subscribers.enter());
    let rows =
        futures::stream::unfold((receiver, VecDeque::new(), open), |(mut receiver, mut rows, open)| async {
            while rows.is_empty() {
                let batch: RecordBatch = receiver.recv().await?;
                rows.extend(json_rows::objects(&batch).unwrap_or_default());
            }
            let row = rows.pop_front().expect("it is not empty");
            Some((Ok(Event::default().data(row)), (receiver, rows, open)))
        });
    Ok(Sse::new(rows).keep_alive(KeepAlive::default()))
}
