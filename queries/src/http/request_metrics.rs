//! Counts every call by route, method and status, and logs refused ones.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::Response;

use super::service::Service;
use crate::access::Caller;

/// The status of a call whose caller disconnected before the answer.
const GIVEN_UP: u16 = 499;

/// The routes of all calls, as OpenAPI writes them: a segment in braces matches any text.
pub(super) struct Routes(Vec<String>);

impl Routes {
    pub(super) fn new(templates: impl Iterator<Item = String>) -> Routes {
        Routes(templates.collect())
    }

    /// The route of a path. The number of routes is bounded, whatever paths callers request.
    fn of(&self, path: &str) -> &str {
        if let Some(exact) = self.0.iter().find(|route| *route == path) {
            return exact;
        }
        let fits = |route: &&String| {
            let mut parts = route.split('/');
            let same = path.split('/').all(|part| {
                parts.next().is_some_and(|own| own == part || (own.starts_with('{') && !part.is_empty()))
            });
            same && parts.next().is_none()
        };
        match self.0.iter().find(fits) {
            Some(route) => route,
            None if path == "/" || path.starts_with("/console/") => "/console",
            None => "other",
        }
    }
}

fn name_of(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        _ => "other",
    }
}

/// Measures a call until it is dropped: answered, or given up by its caller.
struct CallTimer {
    service: Arc<Service>,
    routes: Arc<Routes>,
    path: String,
    method: &'static str,
    started: Instant,
    status: u16,
}

impl Drop for CallTimer {
    fn drop(&mut self) {
        let route = self.routes.of(&self.path);
        self.service.telemetry.answered(route, self.method, self.status, self.started.elapsed());
    }
}

/// A layer that measures each HTTP request and logs it if it is refused.
pub(super) async fn measure(
    State((service, routes)): State<(Arc<Service>, Arc<Routes>)>,
    request: Request,
    next: Next,
) -> Response {
    let (path, method) = (request.uri().path().to_owned(), name_of(request.method()));
    let mut timer = CallTimer { service, routes, path, method, started: Instant::now(), status: GIVEN_UP };
    let response = next.run(request).await;
    timer.status = response.status().as_u16();
    log_refusal(&timer, &response);
    response
}

/// Logs a refused call with its route, status and key. The answer alone has the details, since they
/// may hold the caller's data.
fn log_refusal(call: &CallTimer, response: &Response) {
    // 503 is an ordinary answer of `/readyz`, which is polled.
    let is_refusal = call.path != "/readyz" && matches!(call.status, 401 | 403 | 408 | 413 | 429 | 500..);
    let Some(suppressed) = is_refusal.then(|| call.service.telemetry.rate_limit_log()).flatten() else {
        return;
    };
    let key = response.extensions().get::<Caller>().map_or("", Caller::id);
    let (route, method, status) = (call.routes.of(&call.path), call.method, call.status);
    tracing::warn!(route, method, status, key, suppressed, "request refused");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_the_route_that_serves_it() {
        let routes =
            ["/v1/tail/{table}", "/v1/revisions/{id}/approve", "/v1/revisions", "/v1/decisions/{id}"];
        let routes = Routes::new(routes.into_iter().map(str::to_owned));
        let cases = [
            ("/v1/tail/decisions", "/v1/tail/{table}"),
            ("/v1/revisions/7/approve", "/v1/revisions/{id}/approve"),
            ("/v1/revisions", "/v1/revisions"),
            ("/v1/decisions/", "other"),
            ("/v1/decisions/a/b", "other"),
            ("/", "/console"),
            ("/console/graph.js", "/console"),
            ("/wp-admin", "other"),
        ];
        for (path, route) in cases {
            assert_eq!(routes.of(path), route, "{path}");
        }
    }
}
