//! `GET /v1/decisions/{id}`: one decision, its fact, its reasons in words, and the proof of its
//! seal.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::util::display::array_value_to_string;
use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use futures::TryStreamExt;
use serde::Serialize;
use serde_json::value::RawValue;
use tidegate_facts::{Digest, Tick, columns};
use tidegate_replay::find_fact::{LocatedFact, row_at};
use tidegate_replay::proof::{EpisodeProof, ProofError, prove_at, story_of};
use tidegate_sinks::commits::Commits;
use utoipa::ToSchema;

use super::error::{ApiError, ApiErrorBody, DecisionCandidate};
use super::plan_nodes::decision_node_of;
use super::service::{Service, Shared};
use super::text::percent_encoded;
use crate::error::QueryError;
use crate::{json_rows, query_runtime};

/// The most rows of one table that an id may match.
const MATCHES_MAX: usize = 32;

/// The column with the id of a decision; every table that has it holds decisions.
const DECISION_ID: &str = "decision_id";

/// A decision, and how it came about.
#[derive(Serialize, ToSchema)]
struct DecisionBody {
    /// The node that decided.
    node: String,
    /// The columns of the decision.
    #[schema(value_type = Object)]
    decision: Box<RawValue>,
    /// Whether a commit has sealed it.
    sealed: bool,
    /// The event, the features and the decision, in words.
    reason: Vec<String>,
    proof: Option<ProofBody>,
    /// The record that became the fact; null if the log no longer holds it.
    received: Option<Received>,
    /// The fact that was decided on.
    #[schema(value_type = Option<Object>)]
    fact: Option<serde_json::Value>,
}

/// The source and the position of a record.
#[derive(Serialize, ToSchema)]
struct Received {
    source: String,
    position: String,
}

/// The proof that a decision is unchanged since its commit.
#[derive(Serialize, ToSchema)]
struct ProofBody {
    /// The number of the commit that seals it.
    commit: u64,
    /// The file that holds its row.
    file: String,
    /// The digest of its record.
    record: String,
    /// Its seal.
    seal: String,
    /// Its number in the chain of its partition, from 1.
    number: String,
    /// Whether digest, inclusion and chain lead to the values in the commit.
    verified: bool,
    /// What does not, if so.
    problem: Option<String>,
    /// The id of the key that signed the commit.
    key: Option<String>,
}

/// Shows one decision: its columns, its reasons in words, its fact, and its proof.
///
/// If facts of several event types share an event id, the answer is 409 with the candidates;
/// `TYPE:ID` names one of them.
#[utoipa::path(
    get, path = "/v1/decisions/{id}", tag = "decisions",
    params(("id" = String, Path, description = "The id of the event, `TYPE:ID`, or the id of the decision")),
    responses(
        (status = 200, body = DecisionBody),
        (status = 404, description = "There is no such decision", body = ApiErrorBody),
        (status = 409, description = "Several facts share the event id", body = ApiErrorBody),
    )
)]
pub(super) async fn decision(
    State(service): Shared,
    Path(id): Path<String>,
) -> Result<Json<impl Serialize>, ApiError> {
    let found = find(&service, &condition_of(&id)).await?;
    let shared = Arc::clone(&service);
    // It reads files, so it must not run on an HTTP thread.
    let body = service.statements.spawn_blocking(move || explain(&shared, &id, found)).await;
    Ok(Json(body.map_err(ApiError::internal)??))
}

/// The SQL condition that finds every decision that an id may refer to.
fn condition_of(id: &str) -> String {
    let quoted = |text: &str| format!("'{}'", text.replace('\'', "''"));
    let suffixes = id.match_indices(':').map(|(at, _)| &id[at + 1..]);
    let ids: Vec<String> = [id].into_iter().chain(suffixes).map(quoted).collect();
    let by_event = format!("event_id IN ({})", ids.join(", "));
    match Digest::from_hex(id) {
        Some(_) => format!("{by_event} OR {DECISION_ID} = X{}", quoted(id)),
        None => by_event,
    }
}

/// One row of a table of decisions.
pub(super) struct FoundDecision {
    /// The node that decided.
    pub(super) node: String,
    tick: Tick,
    event_id: String,
    /// In hexadecimal digits.
    decision_id: String,
    /// The row, as a batch of one.
    pub(super) row: RecordBatch,
}

/// The decisions on the fact of a tick.
pub(super) async fn find_by_tick(service: &Service, tick: Tick) -> Result<Vec<FoundDecision>, ApiError> {
    find(service, &format!("{} = {}", columns::TICK, tick.0)).await
}

/// The decisions that satisfy a condition, table by table.
async fn find(service: &Service, condition: &str) -> Result<Vec<FoundDecision>, ApiError> {
    let mut found = Vec::new();
    let tables = service.catalogue.schemas().into_iter().filter(|(_, schema)| {
        let required = [columns::TICK, columns::EVENT_ID, DECISION_ID];
        required.iter().all(|name| schema.field_with_name(name).is_ok())
    });
    for (table, _) in tables {
        let name = table.replace('"', "\"\"");
        let sql = format!("SELECT * FROM \"{name}\" WHERE {condition} LIMIT {MATCHES_MAX}");
        let catalogue = Arc::clone(&service.catalogue);
        let rows = async move {
            let answer = catalogue.answer(&sql).await?;
            answer.rows.try_collect().await.map_err(|error| QueryError::of_run(&error))
        };
        let rows: Vec<RecordBatch> = query_runtime::run(&service.statements, rows).await??;
        let node = decision_node_of(&service.plan, &table).unwrap_or(table);
        for batch in &rows {
            for row in 0..batch.num_rows() {
                found.push(FoundDecision::of(node.clone(), batch.slice(row, 1))?);
            }
        }
    }
    Ok(found)
}

impl FoundDecision {
    fn of(node: String, row: RecordBatch) -> Result<FoundDecision, ApiError> {
        let column = |name: &str| row.column_by_name(name).expect("the table has the column");
        let text = |name: &str| array_value_to_string(column(name), 0).map_err(ApiError::internal);
        let (event_id, decision_id) = (text(columns::EVENT_ID)?, text(DECISION_ID)?);
        let tick = Tick(columns::ticks(&row).value(0));
        Ok(FoundDecision { node, tick, event_id, decision_id, row })
    }
}

/// A decision, and the fact that it was made on; `None` if the log no longer holds the fact.
struct DecidedFact {
    decision: FoundDecision,
    fact: Option<LocatedFact>,
}

impl DecidedFact {
    fn event_type(&self) -> &str {
        self.fact.as_ref().map_or("", |fact| &fact.event_type)
    }

    /// The event id with its type, which names the fact exactly.
    fn exact_id(&self) -> String {
        format!("{}:{}", self.event_type(), self.decision.event_id)
    }

    fn candidate(&self) -> DecisionCandidate {
        let decision = &self.decision;
        let is_typed = self.fact.is_some();
        let id = if is_typed { self.exact_id() } else { decision.decision_id.clone() };
        DecisionCandidate {
            event_type: self.event_type().to_owned(),
            event_id: decision.event_id.clone(),
            tick: decision.tick.0.to_string(),
            decision_id: decision.decision_id.clone(),
            location: format!("/v1/decisions/{}", percent_encoded(&id)),
        }
    }
}

/// Chooses the decision that an id refers to, and explains it.
fn explain(service: &Service, id: &str, found: Vec<FoundDecision>) -> Result<DecisionBody, ApiError> {
    let DecidedFact { decision, fact } = choose(service, id, found)?;
    let row = json_rows::object(&decision.row, 0).map_err(ApiError::internal)?;
    let row = RawValue::from_string(row).expect("it is JSON text");
    let received = fact.as_ref().and_then(|fact| fact.received.clone());
    let received = received.map(|(source, position)| Received { source, position: position.to_string() });
    let proof = prove(service, &decision)?;
    let (reason, proof) = match proof {
        Some((proof, commits)) => (proof.story(), Some(proof_body(&proof, &commits, decision.tick))),
        None => (story_of(&values_of(service, &row)), None),
    };
    Ok(DecisionBody {
        node: decision.node,
        decision: row,
        sealed: proof.is_some(),
        reason,
        proof,
        received,
        fact: fact.as_ref().and_then(fact_as_json),
    })
}

/// The only fact among `found` that an id refers to, with its first decision.
fn choose(service: &Service, id: &str, found: Vec<FoundDecision>) -> Result<DecidedFact, ApiError> {
    let mut by_tick: BTreeMap<Tick, DecidedFact> = BTreeMap::new();
    for decision in found {
        if let Entry::Vacant(entry) = by_tick.entry(decision.tick) {
            let fact = row_at(service.log.as_ref(), decision.tick).map_err(ApiError::internal)?;
            entry.insert(DecidedFact { decision, fact });
        }
    }
    let facts = by_tick.into_values();
    let (exact, others): (Vec<DecidedFact>, Vec<DecidedFact>) = facts.partition(|fact| fact.exact_id() == id);
    let mut matching = exact;
    if matching.is_empty() {
        let is_named = |DecidedFact { decision, .. }: &DecidedFact| {
            decision.event_id == id || decision.decision_id == id
        };
        matching = others.into_iter().filter(is_named).collect();
    }
    match (matching.pop(), matching.is_empty()) {
        (Some(only), true) => Ok(only),
        (None, _) => {
            let what = format!(
                "there is no decision `{id}`: it is the id of no event and no decision, or not decided yet"
            );
            Err(ApiError::new(StatusCode::NOT_FOUND, what))
        }
        (Some(last), false) => {
            let candidates = matching.iter().chain([&last]).map(DecidedFact::candidate).collect();
            let what = format!("{} facts have the event id `{id}`; ask for TYPE:ID", matching.len() + 1);
            Err(ApiError::ambiguous(what, candidates))
        }
    }
}

/// The columns of a decision that no commit has sealed yet, as [`story_of`] reads them.
fn values_of(service: &Service, decision: &RawValue) -> Vec<(String, String)> {
    let values: BTreeMap<String, &RawValue> = serde_json::from_str(decision.get()).expect("it is JSON text");
    let plan = ("plan_digest".to_owned(), serde_json::json!(service.plan.digest).to_string());
    values.into_iter().map(|(name, value)| (name, value.get().to_owned())).chain([plan]).collect()
}

fn fact_as_json(fact: &LocatedFact) -> Option<serde_json::Value> {
    let mut json: serde_json::Value =
        serde_json::from_str(&json_rows::objects(&fact.row).ok()?.pop()?).ok()?;
    json["event_type"] = fact.event_type.clone().into();
    // The context is stored as JSON text.
    if let Some(context) = json["context"].as_str().and_then(|text| serde_json::from_str(text).ok()) {
        json["context"] = context;
    }
    Some(json)
}

/// The proof of a decision, with the commits that it was found in; `None` if no commit has sealed
/// it.
fn prove(
    service: &Service,
    decision: &FoundDecision,
) -> Result<Option<(EpisodeProof, Arc<Commits>)>, ApiError> {
    let commits = service.live.tables.commits();
    if decision.tick >= commits.upper() {
        return Ok(None);
    }
    match prove_at(&service.store, &commits, &decision.decision_id, Some(decision.tick)) {
        Ok(proof) => Ok(Some((proof, commits))),
        Err(ProofError::Unknown { .. }) => Ok(None), // Its table is not sealed.
        Err(error) => Err(ApiError::internal(error)),
    }
}

fn proof_body(proof: &EpisodeProof, commits: &Commits, tick: Tick) -> ProofBody {
    match proof.check(&[]) {
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
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_looked_up_whole_and_behind_each_colon() {
        assert_eq!(condition_of("p-1"), "event_id IN ('p-1')");
        assert_eq!(condition_of("pay.v1:it's:7"), "event_id IN ('pay.v1:it''s:7', 'it''s:7', '7')");
        let digest = Digest::of(b"d").to_hex();
        let both = format!("event_id IN ('{digest}') OR decision_id = X'{digest}'");
        assert_eq!(condition_of(&digest), both);
    }
}
