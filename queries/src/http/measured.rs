//! Counts every call by its route, and says in the log which were refused.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::Response;

use super::Service;
use crate::access::Caller;

/// The status that a call is counted under when its caller did not wait for the answer.
const GIVEN_UP: u16 = 499;

/// The routes there are, as the list of calls has them: a part in braces stands for anything.
pub(super) struct Routes(Vec<String>);

impl Routes {
    pub(super) fn new(templates: impl Iterator<Item = String>) -> Routes {
        Routes(templates.collect())
    }

    /// The route of a path. There are as many as there are calls, whatever is asked for.
    fn of(&self, path: &str) -> &str {
        if let Some(exact) = self.0.iter().find(|route| *route == path) {
            return exact;
        }
        let fits = |route: &&String| {
            let mut parts = route.split('/');
            let same = path.split('/').all(|part| {
                parts
                    .next()
                    .is_some_and(|known| known == part || (known.starts_with('{') && !part.is_empty()))
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

/// Counts a call when it is dropped: answered, or given up by its caller.
struct Counting {
    service: Arc<Service>,
    routes: Arc<Routes>,
    path: String,
    method: &'static str,
    began: Instant,
    status: u16,
}

impl Drop for Counting {
    fn drop(&mut self) {
        let route = self.routes.of(&self.path);
        self.service.telemetry.answered(route, self.method, self.status, self.began.elapsed());
    }
}

/// Counts a call and its answer.
pub(super) async fn measured(
    State((service, routes)): State<(Arc<Service>, Arc<Routes>)>,
    request: Request,
    next: Next,
) -> Response {
    let (path, method) = (request.uri().path().to_owned(), name_of(request.method()));
    let mut counting = Counting { service, routes, path, method, began: Instant::now(), status: GIVEN_UP };
    let response = next.run(request).await;
    counting.status = response.status().as_u16();
    tell(&counting, &response);
    response
}

/// Logs a refusal: who was refused what, and with which status. What exactly was wrong is the caller's own.
fn tell(call: &Counting, response: &Response) {
    let is_refusal = matches!(call.status, 401 | 403 | 408 | 413 | 429 | 500..);
    let Some(untold) = is_refusal.then(|| call.service.telemetry.may_tell_refusal()).flatten() else {
        return;
    };
    let key = response.extensions().get::<Caller>().map_or("", Caller::id);
    let (route, method, status) = (call.routes.of(&call.path), call.method, call.status);
    tracing::warn!(route, method, status, key, untold, "request refused");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_the_route_that_serves_it_and_no_other_name() {
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
