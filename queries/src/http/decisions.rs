//! `GET /v1/decisions/{id}`: one decision, its fact, its reasons in words, and the proof of its
//! seal.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::util::display::array_value_to_string;
use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use futures::TryStreamExt;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tidegate_facts::{Digest, Tick, columns};
use tidegate_replay::find_fact::{LocatedFact, archived_row_at, possible_event_ids};
use tidegate_replay::proof::{EpisodeProof, ProofError, prove_at, story_of};
use tidegate_sinks::commits::Commits;
use utoipa::{IntoParams, ToSchema};

use super::error::{ApiError, ApiErrorBody, DecisionCandidate};
use super::plan_nodes::{DECISION_ID, are_decisions, decision_node_of, requested_nodes};
use super::request::QueryParams;
use super::service::{Service, Shared};
use super::text::percent_encoded;
use crate::error::QueryError;
use crate::{json_rows, query_runtime};

/// The most rows of one table that an id may match.
const MATCHES_MAX: usize = 32;

/// The query parameters of `/v1/decisions`.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct DecisionParams {
    /// The node whose decision on the fact to show. If it is missing, the answer shows the decision
    /// whose id was given, or else the first of `nodes`.
    node: Option<String>,
}

/// A decision, and how it came about.
#[derive(Serialize, ToSchema)]
struct DecisionBody {
    /// The node that decided.
    node: String,
    /// Every node that decided on the fact. The parameter `node` selects one of them.
    nodes: Vec<String>,
    /// The columns of the decision.
    #[schema(value_type = Object)]
    decision: Box<RawValue>,
    /// Whether a commit has sealed it.
    sealed: bool,
    /// The event, the features and the decision, in words.
    reason: Vec<String>,
    proof: Option<ProofBody>,
    /// The record that became the fact; null if `fact` is.
    received: Option<Received>,
    /// The fact that was decided on; null if neither the log nor the archive holds it.
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
/// If an id names several facts, the answer is 409 with the candidates, each with the path of its
/// decision. `TYPE:ID` names a fact exactly, unless several runs of a platform sent it.
#[utoipa::path(
    get, path = "/v1/decisions/{id}", tag = "decisions",
    params(
        ("id" = String, Path, description = "The id of the event, `TYPE:ID`, or the id of the decision"),
        DecisionParams
    ),
    responses(
        (status = 200, body = DecisionBody),
        (status = 404, description = "There is no such decision, or no such node", body = ApiErrorBody),
        (status = 409, description = "The id names several facts", body = ApiErrorBody),
    )
)]
pub(super) async fn decision(
    State(service): Shared,
    Path(id): Path<String>,
    QueryParams(DecisionParams { node }): QueryParams<DecisionParams>,
) -> Result<Json<impl Serialize>, ApiError> {
    if node.is_some() {
        requested_nodes(&service.plan, node.as_deref())?;
    }
    let mut found = find(&service, &condition_of(&id)).await?;
    if Digest::from_hex(&id).is_some() && !found.is_empty() {
        // Other nodes may have decided on the same facts, under other ids.
        let ticks: BTreeSet<Tick> = found.iter().map(|decision| decision.tick).collect();
        let ticks: Vec<String> = ticks.iter().map(|tick| tick.0.to_string()).collect();
        found = find(&service, &format!("{} IN ({})", columns::TICK, ticks.join(", "))).await?;
    }
    let query = DecisionQuery { id, node };
    let shared = Arc::clone(&service);
    // It reads files, so it must not run on an HTTP thread.
    let body = service.statements.spawn_blocking(move || explain(&shared, &query, found)).await;
    Ok(Json(body.map_err(ApiError::internal)??))
}

/// The SQL condition that finds every decision that an id may refer to.
fn condition_of(id: &str) -> String {
    let quoted = |text: &str| format!("'{}'", text.replace('\'', "''"));
    let ids: Vec<String> = possible_event_ids(id).into_iter().map(quoted).collect();
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

/// The decisions that satisfy a condition, table by table. If several tables hold the decision of a
/// node on a fact, it is found once.
async fn find(service: &Service, condition: &str) -> Result<Vec<FoundDecision>, ApiError> {
    let mut found: Vec<FoundDecision> = Vec::new();
    let tables = service.catalogue.schemas().into_iter().filter(|(_, schema)| are_decisions(schema));
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
                let decision = FoundDecision::of(node.clone(), batch.slice(row, 1))?;
                let is_new = |other: &FoundDecision| (other.tick, &other.node) != (decision.tick, &node);
                if found.iter().all(is_new) {
                    found.push(decision);
                }
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

/// The id and the node that a caller asks for.
struct DecisionQuery {
    id: String,
    node: Option<String>,
}

/// A fact and the decisions on it.
struct DecidedFact {
    tick: Tick,
    event_id: String,
    /// One for each node that decided, at least one.
    decisions: Vec<FoundDecision>,
    /// `None` if neither the log nor the archive holds the fact.
    fact: Option<LocatedFact>,
}

impl DecidedFact {
    /// Groups decisions by fact, and reads each fact with `read`.
    fn group(
        found: Vec<FoundDecision>,
        read: impl Fn(Tick) -> Result<Option<LocatedFact>, ApiError>,
    ) -> Result<Vec<DecidedFact>, ApiError> {
        let mut by_tick: BTreeMap<Tick, Vec<FoundDecision>> = BTreeMap::new();
        for decision in found {
            by_tick.entry(decision.tick).or_default().push(decision);
        }
        let with_fact = |(tick, decisions): (Tick, Vec<FoundDecision>)| -> Result<DecidedFact, ApiError> {
            let event_id = decisions[0].event_id.clone();
            Ok(DecidedFact { tick, event_id, decisions, fact: read(tick)? })
        };
        by_tick.into_iter().map(with_fact).collect()
    }

    /// The event type and event id; `None` if the fact, and so its type, is unknown.
    fn exact_id(&self) -> Option<String> {
        self.fact.as_ref().map(|fact| fact.exact_id(&self.event_id))
    }

    /// Whether a caller that gives this id may mean the fact, whatever its event type.
    fn is_named(&self, id: &str) -> bool {
        self.event_id == id || self.decisions.iter().any(|decision| decision.decision_id == id)
    }

    /// The index of the decision that a query selects among those on this fact; `None` if its node
    /// did not decide.
    fn selected(&self, query: &DecisionQuery) -> Option<usize> {
        let is_of_node =
            |index: &usize| query.node.as_ref().is_none_or(|node| *node == self.decisions[*index].node);
        let eligible: Vec<usize> = (0..self.decisions.len()).filter(is_of_node).collect();
        let has_id = |index: &&usize| self.decisions[**index].decision_id == query.id;
        eligible.iter().find(has_id).or_else(|| eligible.first()).copied()
    }
}

/// The fact of a tick; `None` if neither the log nor the archive holds it.
fn fact_of(service: &Service, tick: Tick) -> Result<Option<LocatedFact>, ApiError> {
    archived_row_at(service.log.as_ref(), &service.store, tick).map_err(ApiError::internal)
}

/// Chooses the decision that a query refers to, and explains it.
fn explain(
    service: &Service,
    query: &DecisionQuery,
    found: Vec<FoundDecision>,
) -> Result<DecisionBody, ApiError> {
    let facts = DecidedFact::group(found, |tick| fact_of(service, tick))?;
    let (DecidedFact { mut decisions, fact, .. }, selected) = choose(query, facts)?;
    let nodes = decisions.iter().map(|decision| decision.node.clone()).collect();
    let decision = decisions.swap_remove(selected);
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
        nodes,
        decision: row,
        sealed: proof.is_some(),
        reason,
        proof,
        received,
        fact: fact.as_ref().and_then(fact_as_json),
    })
}

/// The only fact among `facts` that a query refers to, with the index of its selected decision.
///
/// `TYPE:ID` comes first, then the id of an event or a decision. A fact whose type is unknown does
/// not match `TYPE:ID`; it is a candidate if nothing else matches.
fn choose(query: &DecisionQuery, mut facts: Vec<DecidedFact>) -> Result<(DecidedFact, usize), ApiError> {
    let id = &query.id;
    facts.retain(|fact| fact.selected(query).is_some());
    let (mut matching, others): (Vec<DecidedFact>, Vec<DecidedFact>) =
        facts.into_iter().partition(|fact| fact.exact_id().as_ref() == Some(id));
    let (named, others): (Vec<DecidedFact>, Vec<DecidedFact>) =
        others.into_iter().partition(|fact| fact.is_named(id));
    if matching.is_empty() {
        matching = named;
    }
    if matching.len() > 1 {
        let what = format!("`{id}` names {} facts; choose a candidate by its `location`", matching.len());
        return Err(ApiError::ambiguous(what, candidates(query, &matching)));
    }
    if let Some(only) = matching.pop() {
        let selected = only.selected(query).expect("other facts were removed");
        return Ok((only, selected));
    }
    let untyped: Vec<DecidedFact> = others.into_iter().filter(|fact| fact.fact.is_none()).collect();
    if !untyped.is_empty() {
        let what = format!(
            "no fact is known to be `{id}`: a candidate may be, but its event type is unknown, because neither \
             the log nor the archive holds its fact; choose it by its `location`"
        );
        return Err(ApiError::ambiguous(what, candidates(query, &untyped)));
    }
    let by = query.node.as_ref().map_or_else(String::new, |node| format!(" of node `{node}`"));
    let what = format!(
        "there is no decision `{id}`{by}: it is the id of no event and no decision, or not decided yet"
    );
    Err(ApiError::new(StatusCode::NOT_FOUND, what))
}

/// One candidate for each fact. Its location leads to its decision, whatever the other candidates.
fn candidates(query: &DecisionQuery, facts: &[DecidedFact]) -> Vec<DecisionCandidate> {
    let exact_ids: Vec<Option<String>> = facts.iter().map(DecidedFact::exact_id).collect();
    let node = query.node.as_ref().map(|node| format!("?node={}", percent_encoded(node)));
    let candidate = |(index, fact): (usize, &DecidedFact)| {
        let decision = &fact.decisions[fact.selected(query).expect("other facts were removed")];
        // Two runs of a platform may share type and id; the id of the decision covers the tick.
        let is_unique = |exact: &&String| {
            exact_ids.iter().enumerate().all(|(other, id)| other == index || id.as_ref() != Some(*exact))
        };
        let exact = exact_ids[index].as_ref().filter(is_unique);
        let id = percent_encoded(exact.unwrap_or(&decision.decision_id));
        DecisionCandidate {
            event_type: fact.fact.as_ref().map_or_else(String::new, |fact| fact.event_type.clone()),
            event_id: fact.event_id.clone(),
            tick: fact.tick.0.to_string(),
            decision_id: decision.decision_id.clone(),
            location: format!("/v1/decisions/{id}{}", node.as_deref().unwrap_or_default()),
        }
    };
    facts.iter().enumerate().map(candidate).collect()
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
    let commits = service.reads().commits();
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
    use arrow::datatypes::Schema;

    use super::*;

    /// The decision of a node on the fact of a tick.
    fn found(tick: i64, node: &str, decision_id: &str) -> FoundDecision {
        FoundDecision {
            node: node.to_owned(),
            tick: Tick(tick),
            event_id: "p-1".to_owned(),
            decision_id: decision_id.to_owned(),
            row: RecordBatch::new_empty(Arc::new(Schema::empty())),
        }
    }

    /// The node of a chosen decision, or the status and the locations of the candidates.
    type Chosen = Result<String, (StatusCode, Vec<String>)>;

    /// Chooses among decisions. The fact of tick `n` has the event type `types[n]`; without one it
    /// is unknown.
    fn check(
        id: &str,
        node: Option<&str>,
        decisions: &[(i64, &str, &str)],
        types: &[Option<&str>],
    ) -> Chosen {
        let decisions = decisions.iter().map(|(tick, node, id)| found(*tick, node, id)).collect();
        let read = |tick: Tick| {
            let row = RecordBatch::new_empty(Arc::new(Schema::empty()));
            let event_type = types[usize::try_from(tick.0).expect("an index")];
            let located = |name: &str| LocatedFact { event_type: name.to_owned(), row, received: None };
            Ok(event_type.map(located))
        };
        let facts = DecidedFact::group(decisions, read).expect("facts can be read");
        let query = DecisionQuery { id: id.to_owned(), node: node.map(str::to_owned) };
        match choose(&query, facts) {
            Ok((fact, selected)) => Ok(fact.decisions[selected].node.clone()),
            Err(error) => Err((error.status, error.candidates.into_iter().map(|c| c.location).collect())),
        }
    }

    #[test]
    fn an_id_is_looked_up_whole_and_behind_each_colon() {
        assert_eq!(condition_of("p-1"), "event_id IN ('p-1')");
        assert_eq!(condition_of("pay.v1:it's:7"), "event_id IN ('pay.v1:it''s:7', 'it''s:7', '7')");
        let digest = Digest::of(b"d").to_hex();
        let both = format!("event_id IN ('{digest}') OR decision_id = X'{digest}'");
        assert_eq!(condition_of(&digest), both);
    }

    #[test]
    fn the_parameter_node_selects_a_decision_and_an_id_of_a_decision_selects_itself() {
        let (two, types) = ([(0, "a", "aa"), (0, "b", "bb")], [Some("pay")]);
        assert_eq!(check("p-1", None, &two, &types), Ok("a".to_owned()));
        assert_eq!(check("p-1", Some("b"), &two, &types), Ok("b".to_owned()));
        assert_eq!(check("pay:p-1", Some("b"), &two, &types), Ok("b".to_owned()));
        assert_eq!(check("bb", None, &two, &types), Ok("b".to_owned()));
        assert_eq!(check("aa", Some("b"), &two, &types), Ok("b".to_owned()));
        assert_eq!(check("p-1", Some("c"), &two, &types), Err((StatusCode::NOT_FOUND, Vec::new())));
        // Nodes with the same bundle give their decisions on a fact the same id.
        let same = [(0, "a", "aa"), (0, "b", "aa")];
        assert_eq!(check("aa", Some("b"), &same, &types), Ok("b".to_owned()));
    }

    #[test]
    fn each_candidate_leads_to_one_decision() {
        let (three, types) =
            ([(0, "a", "aa"), (1, "a", "bb"), (2, "a", "cc")], [Some("pay"), Some("pay"), Some("refund")]);
        let conflict = |ids: &[&str]| -> Chosen {
            Err((StatusCode::CONFLICT, ids.iter().map(|id| (*id).to_owned()).collect()))
        };
        let locations = ["/v1/decisions/aa", "/v1/decisions/bb", "/v1/decisions/refund:p-1"];
        assert_eq!(check("p-1", None, &three, &types), conflict(&locations));
        assert_eq!(check("pay:p-1", None, &three, &types), conflict(&locations[..2]));
        for id in ["aa", "bb", "refund:p-1"] {
            assert_eq!(check(id, None, &three, &types), Ok("a".to_owned()), "{id}");
        }
        let of_node = locations.map(|location| format!("{location}?node=a"));
        let of_node: Vec<&str> = of_node.iter().map(String::as_str).collect();
        assert_eq!(check("p-1", Some("a"), &three, &types), conflict(&of_node));
    }

    #[test]
    fn a_decision_whose_fact_is_unknown_is_found_by_event_id_and_decision_id() {
        let one = [(0, "a", "aa")];
        assert_eq!(check("p-1", None, &one, &[None]), Ok("a".to_owned()));
        assert_eq!(check("aa", None, &one, &[None]), Ok("a".to_owned()));
        let candidate = Err((StatusCode::CONFLICT, vec!["/v1/decisions/aa".to_owned()]));
        assert_eq!(check("pay:p-1", None, &one, &[None]), candidate, "it may be of another type");
        let two = [(0, "a", "aa"), (1, "a", "bb")];
        assert_eq!(check("pay:p-1", None, &two, &[None, Some("pay")]), Ok("a".to_owned()));
        assert_eq!(check("other:p-1", None, &one, &[Some("pay")]), Err((StatusCode::NOT_FOUND, Vec::new())));
    }
}
