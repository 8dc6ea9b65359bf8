//! `GET /v1/whoami`: the caller's key and its roles.

use axum::extract::State;
use axum::{Extension, Json};
use serde::Serialize;
use utoipa::ToSchema;

use super::service::Shared;
use crate::access::{Caller, Role};

/// The caller, as the service sees it.
#[derive(Serialize, ToSchema)]
struct CallerBody {
    /// The id of the key.
    id: String,
    /// The roles of the key.
    roles: Vec<&'static str>,
    /// Whether the service has keys. Without keys it serves only this machine, and nobody governs
    /// it.
    keys: bool,
}

/// Shows the caller's key and its roles.
#[utoipa::path(get, path = "/v1/whoami", tag = "service", responses((status = 200, body = CallerBody)))]
pub(super) async fn whoami(
    State(service): Shared,
    Extension(caller): Extension<Caller>,
) -> Json<impl Serialize> {
    let roles = Role::ALL.into_iter().filter(|role| caller.require(*role).is_ok());
    let roles = roles.map(Role::name).collect();
    Json(CallerBody { id: caller.id().to_owned(), roles, keys: !service.keys.is_empty() })
}
