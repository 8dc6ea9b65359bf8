//! What a running topology serves over HTTP: facts in, decisions, SQL, live rows, and its own state.
//!
//! Connections are bounded in number, heads and bodies in size and time. A call that cannot be taken is refused at once, with what
//! is wrong and how to mend it; what was taken is answered when it is durable.

mod ask;
mod awaited;
mod caller;
mod console;
mod decisions;
mod facts;
mod features;
mod measured;
mod metrics;
mod revisions;
mod status;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{FromRequestParts, Query, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures::StreamExt;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tidegate_dataflows::Plan;
use tidegate_dataflows::live::Live;
use tidegate_dataflows::watch::Watch;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use utoipa::{OpenApi, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use self::measured::{Routes, measured};
use crate::Catalogue;
use crate::access::{Denied, Keys, Role};
use crate::telemetry::{Port, Telemetry};

/// How many connections may be open.
const CONNECTIONS_MAX: usize = 8192;

/// How long the head of a request may take, and its body.
const HEAD_WITHIN: Duration = Duration::from_secs(10);
const BODY_WITHIN: Duration = Duration::from_secs(30);

/// How many bytes the body of a request may have.
pub const BODY_BYTES_MAX: usize = 8 << 20;

/// A running topology, as those see it who call.
pub struct Service {
    /// The plan.
    pub plan: Arc<Plan>,
    /// What is shared with its graph.
    pub live: Arc<Live>,
    /// Its counters.
    pub watch: Watch,
    /// Its tables.
    pub catalogue: Arc<Catalogue>,
    /// Who may call.
    pub keys: Keys,
    /// The data folder.
    pub data: PathBuf,
    /// Where its tables are committed.
    pub store: PathBuf,
    /// How many workers it has.
    pub workers: usize,
    /// What the ports measure.
    pub telemetry: Arc<Telemetry>,
    /// Where statements are run.
    pub statements: tokio::runtime::Handle,
}

/// Shared by all calls.
type Shared = State<Arc<Service>>;

/// Why a call was not answered.
#[derive(Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    what: String,
    /// In how many seconds to try again.
    retry_after: Option<u64>,
}

/// Why a call was not answered: what is wrong, and how to mend it.
#[derive(Serialize, ToSchema)]
struct ProblemBody {
    error: String,
}

impl Problem {
    fn new(status: StatusCode, what: impl ToString) -> Problem {
        Problem { status, what: what.to_string(), retry_after: None }
    }

    fn retry(self, seconds: u64) -> Problem {
        Problem { retry_after: Some(seconds), ..self }
    }
}

impl From<Denied> for Problem {
    fn from(denied: Denied) -> Problem {
        let status = match denied {
            Denied::NoKey | Denied::UnknownKey => StatusCode::UNAUTHORIZED,
            Denied::Role { .. } | Denied::Nobody { .. } | Denied::EventType { .. } => StatusCode::FORBIDDEN,
        };
        Problem::new(status, denied)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(ProblemBody { error: self.what })).into_response();
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// What a call asks for behind the `?`.
struct Asked<T>(T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Asked<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Asked<T>, Problem> {
        match Query::from_request_parts(parts, state).await {
            Ok(Query(asked)) => Ok(Asked(asked)),
            Err(refused) => {
                let what = format!("{}; GET /openapi.json lists what may be asked", refused.body_text());
                Err(Problem::new(StatusCode::BAD_REQUEST, what))
            }
        }
    }
}

#[derive(OpenApi)]
#[openapi(info(
    title = "Tidegate",
    description = "Facts in, decisions out, and every table of a running topology. With keys, each call carries `Authorization: Bearer KEY`."
))]
struct Api;

/// All calls.
fn router(service: Arc<Service>) -> axum::Router {
    // A layer costs a call as much as its own work does, so who calls and whether he may is one.
    let open_to = |role| from_fn_with_state((Arc::clone(&service), role), admitted);
    let reads = OpenApiRouter::new()
        .routes(routes!(status::status))
        .routes(routes!(ask::tables))
        .routes(routes!(ask::sql))
        .routes(routes!(ask::tail))
        .routes(routes!(decisions::decision))
        .routes(routes!(features::features))
        .routes(routes!(revisions::revisions))
        .routes(routes!(revisions::revision))
        .routes(routes!(revisions::backfills))
        .layer(open_to(Some(Role::Reader)));
    let writes = OpenApiRouter::new()
        .routes(routes!(facts::facts))
        .routes(routes!(facts::decide))
        .layer(open_to(Some(Role::Producer)));
    // Which of two roles a step takes, each says itself.
    let governs = OpenApiRouter::new()
        .routes(routes!(revisions::propose))
        .routes(routes!(revisions::step))
        .routes(routes!(caller::caller))
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
            Problem::new(StatusCode::NOT_FOUND, "there is nothing here; GET /openapi.json lists every call")
        })
        .method_not_allowed_fallback(|request: Request| async move {
            let what = format!("{} is not taken here; GET /openapi.json lists every call", request.method());
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, what)
        })
        .layer(from_fn_with_state(measuring, measured))
        .with_state(service)
}

/// Finds out who calls, and lets pass who has the role, if one is needed.
async fn admitted(
    State((service, role)): State<(Arc<Service>, Option<Role>)>,
    mut request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let bearer = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let caller =
        service.keys.caller(bearer.and_then(|value| value.strip_prefix("Bearer ")).map(str::trim))?;
    let allowed = role.map_or(Ok(()), |role| caller.needs(role));
    let mut response = match allowed {
        Ok(()) => {
            request.extensions_mut().insert(caller.clone());
            next.run(request).await
        }
        Err(denied) => Problem::from(denied).into_response(),
    };
    if !response.status().is_success() {
        response.extensions_mut().insert(caller); // For who logs it.
    }
    Ok(response)
}

/// The body of a request, if it comes in time and is not too long.
async fn body_of(request: Request) -> Result<(Parts, Vec<u8>), Problem> {
    let (head, body) = request.into_parts();
    match tokio::time::timeout(BODY_WITHIN, read_whole(body)).await {
        Ok(read) => Ok((head, read?)),
        Err(_) => Err(Problem::new(
            StatusCode::REQUEST_TIMEOUT,
            format!("the body did not come within {} s; send it faster or in parts", BODY_WITHIN.as_secs()),
        )),
    }
}

async fn read_whole(body: axum::body::Body) -> Result<Vec<u8>, Problem> {
    let mut parts = body.into_data_stream();
    let (mut bytes, mut length) = (Vec::new(), 0);
    while let Some(part) = parts.next().await {
        let part = part.map_err(|_| Problem::new(StatusCode::BAD_REQUEST, "the body broke off"))?;
        length += part.len();
        if length <= BODY_BYTES_MAX {
            bytes.extend_from_slice(&part);
        } else if length > 2 * BODY_BYTES_MAX {
            break; // Up to here it was read to no use, so that whoever sends it hears why.
        }
    }
    if length > BODY_BYTES_MAX {
        let what = format!("the body has more than {BODY_BYTES_MAX} bytes; send less at once");
        return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, what));
    }
    Ok(bytes)
}

/// Waits until `stop` turns true, or nobody can tell any more.
pub(crate) async fn told_to_stop(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// How every connection is read: its head in time, and not too long.
fn server() -> hyper::server::conn::http1::Builder {
    let mut server = hyper::server::conn::http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN).max_buf_size(64 << 10);
    server
}

/// All calls, for those who bring connections of their own.
pub struct Calls(axum::Router);

impl Calls {
    /// The calls of a service.
    pub fn of(service: Arc<Service>) -> Calls {
        Calls(router(service))
    }

    /// Serves one caller over any stream, as [`serve`] does over the network.
    pub async fn serve_one(&self, stream: impl AsyncRead + AsyncWrite + Unpin + 'static) {
        let router = TowerToHyperService::new(self.0.clone());
        let _ = server().serve_connection(TokioIo::new(stream), router).await;
    }
}

/// Serves until `stop` turns true, then lets the calls under way end.
pub async fn serve(service: Arc<Service>, listener: TcpListener, mut stop: watch::Receiver<bool>) {
    let telemetry = Arc::clone(&service.telemetry);
    let router = router(service);
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let graceful = hyper_util::server::graceful::GracefulShutdown::new();
    loop {
        let (stream, _) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors, most likely: those that are open are served.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
            () = told_to_stop(&mut stop) => break,
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            continue; // Closed without a word: to say more would need what is short.
        };
        let open = telemetry.connections[Port::Http as usize].enter();
        let _ = stream.set_nodelay(true);
        let connection =
            server().serve_connection(TokioIo::new(stream), TowerToHyperService::new(router.clone()));
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            let _ = connection.await; // A caller that goes away is no fault of the service.
            drop((place, open));
        });
    }
    let _ = tokio::time::timeout(Duration::from_secs(5), graceful.shutdown()).await;
}
