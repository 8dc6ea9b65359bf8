//! The console: a web page over the service's own calls. It loads nothing from other hosts.

use std::sync::Arc;

use axum::Router;
use axum::extract::Path;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::error::ApiError;
use super::service::Service;

/// The content security policy of the page: only files of this service.
const POLICY: &str = "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

/// The names and contents of files, which are compiled into the program.
macro_rules! files {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../../console/", $name)))),*]
    };
}

const FILES: &[(&str, &str)] = files![
    "api.js",
    "backfills.js",
    "chart.js",
    "console.css",
    "console.js",
    "decisions.js",
    "diff.js",
    "dom.js",
    "format.js",
    "graph.js",
    "icon.svg",
    "index.html",
    "quarantine.js",
    "revisions.js",
    "sql.js",
    "status.js",
    "why.js",
];

/// The routes of the page and its files.
pub(super) fn router() -> Router<Arc<Service>> {
    Router::new()
        .route("/", get(|| async { file("index.html") }))
        .route("/console/{file}", get(|Path(name): Path<String>| async move { file(&name) }))
}

fn file(name: &str) -> Response {
    let Some((_, text)) = FILES.iter().find(|(file, _)| *file == name) else {
        return ApiError::new(StatusCode::NOT_FOUND, format!("the console has no file `{name}`"))
            .into_response();
    };
    let headers = [
        (header::CONTENT_TYPE, kind_of(name)),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, *text).into_response()
}

fn kind_of(name: &str) -> &'static str {
    match name.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("svg") => "image/svg+xml",
        _ => "application/octet-stream",
    }
}
