//! Who calls, as the service sees it.

use axum::extract::State;
use axum::{Extension, Json};
use serde::Serialize;
use utoipa::ToSchema;

use super::Shared;
use crate::access::{Caller, Role};

/// Who calls.
#[derive(Serialize, ToSchema)]
struct CallerBody {
    /// The key's id.
    id: String,
    /// What it allows.
    roles: Vec<&'static str>,
    /// Whether the service has keys at all; without, this machine alone is served, and governs nothing.
    keys: bool,
}

/// Says who calls, and what the caller may do.
#[utoipa::path(get, path = "/v1/caller", tag = "service", responses((status = 200, body = CallerBody)))]
pub(super) async fn caller(
    State(service): Shared,
    Extension(caller): Extension<Caller>,
) -> Json<impl Serialize> {
    let roles = Role::ALL.into_iter().filter(|role| caller.needs(*role).is_ok());
    let roles = roles.map(Role::name).collect();
    Json(CallerBody { id: caller.id().to_owned(), roles, keys: !service.keys.is_empty() })
}
