//! The HTTP service of a running topology: facts in; decisions, SQL, live rows and its own state
//! out.
//!
//! The number of connections, the size of heads and bodies, and the time to read them are limited.
//! A call that cannot be accepted is refused at once, with what is wrong and how to fix it;
//! accepted records are answered when they are durable.

mod console;
mod decide;
mod decisions;
mod error;
mod facts;
mod features;
mod metrics;
mod plan_nodes;
mod request;
mod request_metrics;
mod revisions;
mod service;
mod sql;
mod status;
mod submission;
mod tail;
mod text;
mod whoami;

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use self::error::ApiError;
pub use self::request::BODY_BYTES_MAX;
use self::request_metrics::{Routes, measure};
pub use self::service::Service;
use crate::access::Role;
use crate::shutdown::shutdown_requested;
use crate::telemetry::Port;

/// The most open connections.
const CONNECTIONS_MAX: usize = 8192;

/// The timeout for reading the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// The time that open calls get to finish after a shutdown request.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(OpenApi)]
#[openapi(info(
    title = "Tidegate",
    description = "Facts in, decisions out, and every table of a running topology. With API keys, each call carries `Authorization: Bearer KEY`."
))]
struct Api;

/// The routes of all calls, with their access checks and metrics.
fn router(service: Arc<Service>) -> axum::Router {
    // A layer costs as much as the work of a call, so authentication and authorization share one.
    let open_to = |role| from_fn_with_state((Arc::clone(&service), role), authorize);
    let reads = OpenApiRouter::new()
        .routes(routes!(status::status))
        .routes(routes!(sql::tables))
        .routes(routes!(sql::sql))
        .routes(routes!(tail::tail))
        .routes(routes!(decisions::decision))
        .routes(routes!(features::features))
        .routes(routes!(revisions::revisions))
        .routes(routes!(revisions::revision))
        .routes(routes!(revisions::backfills))
        .layer(open_to(Some(Role::Reader)));
    let writes = OpenApiRouter::new()
        .routes(routes!(facts::facts))
        .routes(routes!(decide::decide))
        .layer(open_to(Some(Role::Producer)));
    // These handlers check the role themselves, if they require one.
    let governs = OpenApiRouter::new()
        .routes(routes!(revisions::propose))
        .routes(routes!(revisions::step))
        .routes(routes!(whoami::whoami))
        .layer(open_to(None));
    let operates =
        OpenApiRouter::new().routes(routes!(metrics::metrics)).layer(open_to(Some(Role::Operator)));
    let calls = OpenApiRouter::with_openapi(Api::openapi())
        .merge(reads)
        .merge(writes)
        .merge(governs)
        .merge(operates)
        .routes(routes!(status::healthz))
        .routes(routes!(status::readyz));
    let (calls, api) = calls.split_for_parts();
    let routes = api.paths.paths.keys().cloned().chain(["/openapi.json".to_owned()]);
    let measuring = (Arc::clone(&service), Arc::new(Routes::new(routes)));
    let api = Arc::new(api);
    calls
        .route("/openapi.json", get(move || async move { Json(Arc::clone(&api)) }))
        .merge(console::router())
        .fallback(|| async {
            ApiError::new(StatusCode::NOT_FOUND, "there is no such call; GET /openapi.json lists every call")
        })
        .method_not_allowed_fallback(|request: Request| async move {
            let what =
                format!("{} is not allowed here; GET /openapi.json lists every call", request.method());
            ApiError::new(StatusCode::METHOD_NOT_ALLOWED, what)
        })
        .layer(from_fn_with_state(measuring, measure))
        .with_state(service)
}

/// Authenticates the caller, and passes the call on if the caller has the required role.
async fn authorize(
    State((service, role)): State<(Arc<Service>, Option<Role>)>,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let bearer = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let caller =
        service.keys.caller(bearer.and_then(|value| value.strip_prefix("Bearer ")).map(str::trim))?;
    let allowed = role.map_or(Ok(()), |role| caller.require(role));
    let mut response = match allowed {
        Ok(()) => {
            request.extensions_mut().insert(caller.clone());
            next.run(request).await
        }
        Err(denied) => ApiError::from(denied).into_response(),
    };
    if !response.status().is_success() {
        response.extensions_mut().insert(caller); // For the log.
    }
    Ok(response)
}

/// The settings of every connection: limits on the head of a request.
fn server() -> hyper::server::conn::http1::Builder {
    let mut server = hyper::server::conn::http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(64 << 10);
    server
}

/// The HTTP calls of a service, for callers that bring their own connections.
pub struct Calls(axum::Router);

impl Calls {
    /// The calls of `service`.
    pub fn of(service: Arc<Service>) -> Calls {
        Calls(router(service))
    }

    /// Serves one caller over any stream, as [`serve`] does over the network.
    pub async fn serve_one(&self, stream: impl AsyncRead + AsyncWrite + Unpin + 'static) {
        let router = TowerToHyperService::new(self.0.clone());
        let _ = server().serve_connection(TokioIo::new(stream), router).await;
    }
}

/// Serves the HTTP calls of a service on `listener` until `stop` turns true, then lets open calls
/// finish.
pub async fn serve(service: Arc<Service>, listener: TcpListener, mut stop: watch::Receiver<bool>) {
    let telemetry = Arc::clone(&service.telemetry);
    let router = router(service);
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let graceful = hyper_util::server::graceful::GracefulShutdown::new();
    loop {
        let (stream, _) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Most likely the process has no file descriptor left: open connections go on.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
            () = shutdown_requested(&mut stop) => break,
        };
        let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
            continue; // Closed without an answer: answering would need the resource that is exhausted.
        };
        let open = telemetry.connection(Port::Http);
        let _ = stream.set_nodelay(true);
        let connection =
            server().serve_connection(TokioIo::new(stream), TowerToHyperService::new(router.clone()));
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            let _ = connection.await; // A caller that disconnects is no error of the service.
            drop((permit, open));
        });
    }
    let _ = tokio::time::timeout(SHUTDOWN_TIMEOUT, graceful.shutdown()).await;
}
