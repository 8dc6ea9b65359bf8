//! `GET /v1/features/{group}/{key}`: the current features of one key, and what they were computed
//! from.

use std::time::Instant;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tidegate_dataflows::feature_lookup::{FeatureError, look_up_features};
use tidegate_facts::Tick;
use tidegate_facts::time::to_rfc3339;
use utoipa::{IntoParams, ToSchema};

use super::error::{ApiError, ApiErrorBody};
use super::request::QueryParams;
use super::service::Shared;
use super::text::time_of;
use crate::json_rows;

/// The query parameters of `/v1/features`.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct FeatureParams {
    /// The event time at which the windows end; the time of `as_of` if it is missing.
    at: Option<String>,
}

/// The features of a key.
#[derive(Serialize, ToSchema)]
struct FeaturesBody {
    group: String,
    key_column: String,
    key: String,
    /// The features by name. 64-bit integers, decimals and times are strings.
    #[schema(value_type = Object)]
    features: Box<RawValue>,
    /// Why the features are null: `UNKNOWN_KEY` when no window reaches a row of the key,
    /// `BEYOND_RETENTION` when `at` is too early.
    reason: Option<&'static str>,
    /// The tick of the newest fact that is included.
    as_of: String,
    /// That tick as a time.
    as_of_time: String,
    /// The event time at which the windows end.
    at: String,
    /// The number of facts of each partition that are included.
    basis: Vec<String>,
    /// The digest of the plan that computes the features.
    plan: String,
    /// The digest of plan and basis.
    graph_version: String,
    /// The digest of the features and their context, as rows carry it.
    snapshot_digest: String,
    freshness: Option<Freshness>,
    /// The time to answer, in microseconds.
    elapsed_us: u64,
}

/// The age of the newest row of the key that a window reaches.
#[derive(Serialize, ToSchema)]
struct Freshness {
    /// The event time of the row.
    event_time: String,
    /// The tick of the row.
    tick: String,
    /// The time from the row's event time to `as_of`, in microseconds; negative if it is later.
    age_us: String,
}

/// Shows the features that the next event of a key would get, as of the last computed tick.
///
/// `group` is `node.group`, or the name of a `windows` node if all its groups have one key.
#[utoipa::path(
    get, path = "/v1/features/{group}/{key}", tag = "features",
    params(
        ("group" = String, Path, description = "`node` or `node.group`"),
        ("key" = String, Path, description = "A value of the group's key column"),
        FeatureParams
    ),
    responses(
        (status = 200, body = FeaturesBody),
        (status = 400, description = "The key or the time is malformed", body = ApiErrorBody),
        (status = 404, description = "There is no such group", body = ApiErrorBody),
        (status = 503, description = "Nothing is computed yet", body = ApiErrorBody),
    )
)]
pub(super) async fn features(
    State(service): Shared,
    Path((group, key)): Path<(String, String)>,
    QueryParams(FeatureParams { at }): QueryParams<FeatureParams>,
) -> Result<Json<impl Serialize>, ApiError> {
    let started = Instant::now();
    let at = at.map(|at| Tick::parse(&at).map(Tick::micros)).transpose();
    let at =
        at.map_err(|what| ApiError::new(StatusCode::BAD_REQUEST, format!("`at` is not a time; {what}")))?;
    let read = look_up_features(&service.plan, service.reads(), &group, &key, at).map_err(|error| {
        let answer = |status| ApiError::new(status, &error);
        match error {
            FeatureError::UnknownGroup { .. } => answer(StatusCode::NOT_FOUND),
            FeatureError::Key { .. } => answer(StatusCode::BAD_REQUEST),
            FeatureError::NotYet => answer(StatusCode::SERVICE_UNAVAILABLE).retry(1),
        }
    })?;
    let values = json_rows::objects(&read.values).map_err(ApiError::internal)?.remove(0);
    let freshness = read.newest.map(|(time, tick)| Freshness {
        event_time: to_rfc3339(time),
        tick: tick.0.to_string(),
        age_us: (read.as_of.micros() - time).to_string(),
    });
    Ok(Json(FeaturesBody {
        group: read.group,
        key_column: read.key_column,
        key,
        features: RawValue::from_string(values).expect("it is JSON text"),
        reason: read.reason.map(|missing| missing.code()),
        as_of: read.as_of.0.to_string(),
        as_of_time: time_of(read.as_of),
        at: to_rfc3339(read.at),
        basis: read.basis.iter().map(i64::to_string).collect(),
        plan: service.plan.digest.to_hex(),
        graph_version: read.graph_version.to_hex(),
        snapshot_digest: read.snapshot_digest.to_hex(),
        freshness,
        elapsed_us: u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX),
    }))
}
