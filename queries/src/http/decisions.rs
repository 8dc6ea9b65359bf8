//! One decision and why: its row, the fact, the episode in words, its seal and whether that is proven.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::UInt64Type;
use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use futures::TryStreamExt;
use serde::Serialize;
use serde_json::value::RawValue;
use tidegate_facts::{Digest, Tick, columns};
use tidegate_replay::fact::{Found, row_at};
use tidegate_replay::proof::{ProofError, prove_at, story_of};
use tidegate_sinks::store::Store;
use utoipa::ToSchema;

use super::ask::refused;
use super::{Problem, ProblemBody, Service, Shared};
use crate::{QueryError, json, statements};

/// A decision and why.
#[derive(Serialize, ToSchema)]
struct Why {
    /// Its columns.
    #[schema(value_type = Object)]
    decision: Box<RawValue>,
    /// Whether a commit has it.
    sealed: bool,
    /// What happened, what was seen and what was decided, in words.
    why: Vec<String>,
    proof: Option<ProofBody>,
    /// The record that became that fact; null where the log does not tell any more.
    received: Option<Received>,
    /// The fact that was decided on.
    #[schema(value_type = Option<Object>)]
    fact: Option<serde_json::Value>,
}

/// Where a record came from.
#[derive(Serialize, ToSchema)]
struct Received {
    source: String,
    position: String,
}

/// What shows that a decision is the one that was made.
#[derive(Serialize, ToSchema)]
struct ProofBody {
    /// The commit that seals it.
    commit: u64,
    /// The file that has its row.
    file: String,
    /// The digest of its record.
    record: String,
    /// Its seal.
    seal: String,
    /// Which one it is of its chain, from 1.
    number: String,
    /// Whether digest, inclusion and chain lead to what the commit states.
    verified: bool,
    /// What does not, if so.
    problem: Option<String>,
    /// The key that the commit names.
    key: Option<String>,
}

/// Tells a decision: its columns, why it was made, and its proof.
#[utoipa::path(
    get, path = "/v1/decisions/{id}", tag = "decisions",
    params(("id" = String, Path, description = "The id of the event, or of the decision")),
    responses((status = 200, body = Why), (status = 404, description = "Not decided", body = ProblemBody))
)]
pub(super) async fn decision(
    State(service): Shared,
    Path(id): Path<String>,
) -> Result<Json<impl Serialize>, Problem> {
    let text = id.replace('\'', "''");
    let is_it = match Digest::from_hex(&id) {
        Some(_) => format!("event_id = '{text}' OR decision_id = X'{text}'"),
        None => format!("event_id = '{text}'"),
    };
    let Some((tick, row)) = find(&service, &is_it).await? else {
        let what =
            format!("nothing is decided on `{id}`: it is no event's or decision's id, or not decided yet");
        return Err(Problem::new(StatusCode::NOT_FOUND, what));
    };
    let told = Arc::clone(&service);
    let decision = RawValue::from_string(row).expect("it was just written");
    let values = values_of(&service, &decision);
    // Not on the threads of calls: it reads files.
    let told = service.statements.spawn_blocking(move || tell(&told, tick, &id)).await;
    let Told { why, proof, received, fact } =
        told.map_err(|error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error))??;
    let why = why.unwrap_or_else(|| story_of(&values));
    Ok(Json(Why { decision, sealed: proof.is_some(), why, proof, received, fact }))
}

/// The columns of a decision that no episode holds yet, as [`story_of`] reads them.
fn values_of(service: &Service, decision: &RawValue) -> Vec<(String, String)> {
    let values: BTreeMap<String, &RawValue> =
        serde_json::from_str(decision.get()).expect("it was just written");
    let plan = ("plan_digest".to_owned(), serde_json::json!(service.plan.digest).to_string());
    let known = values.into_iter().map(|(name, value)| (name, value.get().to_owned()));
    known.chain([plan]).collect()
}

/// What is told of a decision beside its row.
struct Told {
    /// The story, where there is a seal.
    why: Option<Vec<String>>,
    proof: Option<ProofBody>,
    received: Option<Received>,
    fact: Option<serde_json::Value>,
}

fn tell(service: &Service, tick: Tick, id: &str) -> Result<Told, Problem> {
    let failed = |error: &dyn std::error::Error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error);
    let found = row_at(&service.data.join("log"), tick).map_err(|error| failed(&error))?;
    let received = found.as_ref().and_then(|found| found.received.clone());
    let received = received.map(|(source, position)| Received { source, position: position.to_string() });
    let fact = found.and_then(|Found { event_type, row, .. }| {
        let mut fact: serde_json::Value = serde_json::from_str(&json::objects(&row).ok()?.pop()?).ok()?;
        fact["event_type"] = event_type.into();
        // No text that is JSON in truth.
        if let Some(context) = fact["context"].as_str().and_then(|text| serde_json::from_str(text).ok()) {
            fact["context"] = context;
        }
        Some(fact)
    });
    let mut told = Told { why: None, proof: None, received, fact };
    let commits = service.live.commits();
    if tick >= commits.upper() {
        return Ok(told);
    }
    let store = Store::open(&service.store).map_err(|error| failed(&error))?;
    let proof = match prove_at(&store, &commits, id, Some(tick)) {
        Ok(proof) => proof,
        Err(ProofError::Unknown { .. }) => return Ok(told), // Its table is not sealed.
        Err(error) => return Err(failed(&error)),
    };
    let checked = proof.check(&[]);
    let body = match &checked {
        Ok(proven) => ProofBody {
            commit: proven.commit.number,
            file: proof.file.clone(),
            record: proven.digest.to_hex(),
            seal: proven.seal.to_hex(),
            number: (proven.place + 1).to_string(),
            verified: true,
            problem: None,
            key: proven.commit.signature.as_ref().map(|signature| signature.key_id.clone()),
        },
        Err(error) => ProofBody {
            commit: commits.list.iter().find(|commit| tick < commit.upper).map_or(0, |commit| commit.number),
            file: proof.file.clone(),
            record: Digest::of(proof.record.as_bytes()).to_hex(),
            seal: String::new(),
            number: String::new(),
            verified: false,
            problem: Some(error.to_string()),
            key: None,
        },
    };
    (told.why, told.proof) = (Some(proof.story()), Some(body));
    Ok(told)
}

/// What was decided on the fact of a tick, as a JSON object.
pub(super) async fn decided_at(service: &Service, tick: Tick) -> Result<Option<(Tick, String)>, Problem> {
    find(service, &format!("_tick = {}", tick.0)).await
}

/// The first decision for which a condition holds.
async fn find(service: &Service, condition: &str) -> Result<Option<(Tick, String)>, Problem> {
    let tables = service.catalogue.schemas().into_iter();
    let tables = tables.filter(|(_, schema)| {
        [columns::TICK, columns::EVENT_ID, "decision_id"]
            .iter()
            .all(|name| schema.field_with_name(name).is_ok())
    });
    for (table, _) in tables {
        let sql = format!("SELECT * FROM \"{}\" WHERE {condition} LIMIT 1", table.replace('"', "\"\""));
        let catalogue = Arc::clone(&service.catalogue);
        let asked = async move {
            let answer = catalogue.ask(&sql).await?;
            answer.rows.try_collect().await.map_err(|error| QueryError::of_run(&error))
        };
        let asked = statements::run(&service.statements, asked).await;
        let rows: Vec<RecordBatch> = asked.and_then(|rows| rows).map_err(refused)?;
        let Some(rows) = rows.into_iter().find(|rows| rows.num_rows() > 0) else { continue };
        let tick = rows
            .column_by_name(columns::TICK)
            .expect("it was asked for")
            .as_primitive::<UInt64Type>()
            .value(0);
        let texts = json::objects(&rows.slice(0, 1));
        let mut texts = texts.map_err(|error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error))?;
        return Ok(texts.pop().map(|row| (Tick(tick), row)));
    }
    Ok(None)
}
