//! The features of one key as they stand, and all that says what they were computed from.

use std::time::Instant;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tidegate_dataflows::features::{FeatureError, features as read};
use tidegate_facts::Tick;
use tidegate_facts::time::to_rfc3339;
use utoipa::{IntoParams, ToSchema};

use super::ask::time_of;
use super::{Asked, Problem, ProblemBody, Shared};
use crate::json;

/// Where the windows end.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct When {
    /// The event time at which the windows end; that of `as_of` if it is not given.
    at: Option<String>,
}

/// The features of a key.
#[derive(Serialize, ToSchema)]
struct FeaturesBody {
    group: String,
    key_column: String,
    key: String,
    /// Each by its name. 64-bit integers, decimals and times are strings.
    #[schema(value_type = Object)]
    features: Box<RawValue>,
    /// Why they are null: `UNKNOWN_KEY` when no window reaches a row of the key, `BEYOND_RETENTION` when `at` is too early.
    reason: Option<&'static str>,
    /// The fact of this tick and those before it were seen.
    as_of: String,
    /// That tick as a time.
    as_of_time: String,
    /// Where the windows end.
    at: String,
    /// For each partition how many facts were seen.
    basis: Vec<String>,
    /// The plan that computes them.
    plan: String,
    /// A digest of plan and basis.
    graph_version: String,
    /// A digest of all of it, as rows carry it.
    snapshot_digest: String,
    freshness: Option<Freshness>,
    /// How long it took, in microseconds.
    elapsed_us: u64,
}

/// How new the newest row of the key is that a window can reach.
#[derive(Serialize, ToSchema)]
struct Freshness {
    /// Its event time.
    event_time: String,
    /// Its tick.
    tick: String,
    /// From its event time to that of `as_of`, in microseconds; negative when it is ahead.
    age_us: String,
}

/// Answers the features of one key: what its next event would be given, as of the last tick that is computed.
///
/// A group is a `windows` node whose groups have one key, or `node.group`.
#[utoipa::path(
    get, path = "/v1/features/{group}/{key}", tag = "features",
    params(
        ("group" = String, Path, description = "`node` or `node.group`"),
        ("key" = String, Path, description = "A value of the group's key column"),
        When
    ),
    responses(
        (status = 200, body = FeaturesBody),
        (status = 400, description = "The key or the time is none", body = ProblemBody),
        (status = 404, description = "There is no such group; those that there are", body = ProblemBody),
        (status = 503, description = "Nothing is computed yet", body = ProblemBody),
    )
)]
pub(super) async fn features(
    State(service): Shared,
    Path((group, key)): Path<(String, String)>,
    Asked(When { at }): Asked<When>,
) -> Result<Json<impl Serialize>, Problem> {
    let began = Instant::now();
    let at = at.map(|at| Tick::parse(&at).map(Tick::micros)).transpose();
    let at = at.map_err(|what| Problem::new(StatusCode::BAD_REQUEST, format!("`at` is no time; {what}")))?;
    let read = read(&service.plan, &service.live, &group, &key, at).map_err(|error| {
        let problem = |status| Problem::new(status, &error);
        match error {
            FeatureError::UnknownGroup { .. } => problem(StatusCode::NOT_FOUND),
            FeatureError::Key { .. } => problem(StatusCode::BAD_REQUEST),
            FeatureError::NotYet => problem(StatusCode::SERVICE_UNAVAILABLE).retry(1),
        }
    })?;
    let values = json::objects(&read.values);
    let values = values.map_err(|error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error))?.remove(0);
    let freshness = read.newest.map(|(time, tick)| Freshness {
        event_time: to_rfc3339(time),
        tick: tick.0.to_string(),
        age_us: (read.as_of.micros() - time).to_string(),
    });
    Ok(Json(FeaturesBody {
        group: read.group,
        key_column: read.key_column,
        key,
        features: RawValue::from_string(values).expect("it was just written"),
        reason: read.reason.map(|missing| missing.code()),
        as_of: read.as_of.0.to_string(),
        as_of_time: time_of(read.as_of),
        at: to_rfc3339(read.at),
        basis: read.basis.iter().map(u64::to_string).collect(),
        plan: service.plan.digest.to_hex(),
        graph_version: read.graph_version.to_hex(),
        snapshot_digest: read.snapshot_digest.to_hex(),
        freshness,
        elapsed_us: u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX),
    }))
}
