//! How the topology is governed: what is in force, what is proposed, and the steps between; and what was computed anew.
//!
//! Who takes a step is the key that asks for it. Whether it may be taken is for the lifecycle to say; here its refusals become
//! answers. A step is answered when it is durable. One that takes effect does so at its tick: for a moment the service
//! catches up, planned anew.

use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use tidegate_dataflows::governance::{
    Asked, GovernanceError, Governed, Lifecycle, Proposal, Refusal, Taken, Verdict, Wish, changes, text_said,
};
use tidegate_dataflows::live::StepAsked;
use tidegate_facts::governance::{Step, StepRecord};
use tidegate_facts::{Digest, Tick};
use tokio::sync::oneshot;
use utoipa::ToSchema;

use super::ask::time_of;
use super::facts::{DURABLE_WITHIN, busy};
use super::{Problem, ProblemBody, Service, Shared, body_of};
use crate::access::{Caller, Role};

/// How the revisions of the topology stand.
#[derive(Serialize, ToSchema)]
struct Revisions {
    /// Whether another than the proposer must approve.
    four_eyes: bool,
    /// One for each node that can be revised.
    in_force: Vec<InForceBody>,
    /// Newest first.
    proposals: Vec<ProposalBody>,
    /// Every step that was taken, newest first.
    steps: Vec<StepBody>,
}

/// What is in force at a node.
#[derive(Serialize, ToSchema)]
struct InForceBody {
    node: String,
    /// `bundle` or `gate_policy`.
    kind: &'static str,
    revision_id: String,
    revision_version: String,
    digest: String,
    /// Since when; null since the beginning.
    since_tick: Option<String>,
    since_utc: Option<String>,
    /// The proposal that brought it; null when the topology did.
    proposal_id: Option<String>,
    /// Its text.
    text: String,
}

/// A proposal.
#[derive(Serialize, ToSchema)]
struct ProposalBody {
    proposal_id: String,
    node: String,
    kind: &'static str,
    /// The digest of what was in force when it was made.
    before: String,
    after: String,
    revision_id: String,
    revision_version: String,
    /// `proposed`, `approved`, `in force`, `replaced`, `rolled back`, `withdrawn`, or `outdated`.
    state: &'static str,
    /// Who proposed it.
    actor: String,
    reason: String,
    proposed_at_utc: String,
    /// The steps that may come next.
    next: Vec<NextBody>,
}

/// A step that may come next.
#[derive(Serialize, ToSchema)]
struct NextBody {
    /// `approve`, `activate`, `withdraw` or `rollback`.
    step: &'static str,
    /// Why the caller may not take it; null when it may.
    refused: Option<String>,
}

/// A step that was taken.
#[derive(Serialize, ToSchema)]
struct StepBody {
    tick: String,
    at_utc: String,
    proposal_id: String,
    node: String,
    step: &'static str,
    actor: String,
    reason: String,
    /// What was in force before a step that took effect, and after.
    before: String,
    after: String,
    revision_id: String,
    revision_version: String,
}

/// One proposal, whole.
#[derive(Serialize, ToSchema)]
struct Revision {
    #[serde(flatten)]
    proposal: ProposalBody,
    /// The text of the revision.
    text: String,
    /// The text that it was proposed on.
    before_text: String,
    /// What it changes, thing by thing.
    #[schema(value_type = Vec<Object>)]
    changes: serde_json::Value,
    /// Its steps, oldest first.
    steps: Vec<StepBody>,
}

/// A revision that somebody wants in force.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Propose {
    /// The node: a `decide`, or the gate.
    node: String,
    /// The text of the bundle or of the gate policy.
    text: String,
    /// Why.
    reason: String,
    /// The digest that must be in force now; whatever is, when not given.
    #[schema(value_type = Option<String>)]
    before: Option<Digest>,
}

/// Why a step is taken.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Why {
    reason: String,
}

/// A step that was taken, and is durable.
#[derive(Serialize, ToSchema)]
struct TakenBody {
    #[serde(flatten)]
    step: StepBody,
    /// Whether it had been taken before, so that nothing has changed.
    repeated: bool,
    /// What the revision changes, thing by thing.
    #[schema(value_type = Vec<Object>)]
    changes: serde_json::Value,
}

/// What a step about a proposal is called in an address.
const VERBS: [(&str, Step); 4] = [
    ("approve", Step::Approved),
    ("activate", Step::Activated),
    ("withdraw", Step::Withdrawn),
    ("rollback", Step::RolledBack),
];

/// Lists what is in force, the proposals, and every step.
#[utoipa::path(get, path = "/v1/revisions", tag = "governance", responses((status = 200, body = Revisions)))]
pub(super) async fn revisions(
    State(service): Shared,
    Extension(caller): Extension<Caller>,
) -> Result<Json<impl Serialize>, Problem> {
    let governed = governed(&service)?;
    let lifecycle = &governed.lifecycle;
    let in_force = lifecycle.subjects().map(|(subject, _)| {
        let (revision, since, by) = lifecycle.in_force(subject).expect("it is one of the lifecycle's");
        InForceBody {
            node: subject.node.clone(),
            kind: subject.kind.name(),
            revision_id: revision.id.clone(),
            revision_version: revision.version.clone(),
            digest: revision.digest.to_hex(),
            since_tick: since.map(|tick| tick.0.to_string()),
            since_utc: since.map(time_of),
            proposal_id: by.map(|id| id.to_hex()),
            text: text_said(&service.plan, lifecycle, subject, &revision.digest).to_string(),
        }
    });
    let proposals = lifecycle.in_order().into_iter().rev();
    Ok(Json(Revisions {
        four_eyes: service.plan.topology.four_eyes,
        in_force: in_force.collect(),
        proposals: proposals.map(|proposal| proposal_body(&service, lifecycle, proposal, &caller)).collect(),
        steps: lifecycle.steps().iter().rev().map(|(tick, step)| step_body(*tick, step)).collect(),
    }))
}

/// Shows one proposal: its text, what it changes, and its steps.
#[utoipa::path(
    get, path = "/v1/revisions/{id}", tag = "governance",
    params(("id" = String, Path, description = "The proposal's id, or its first digits")),
    responses((status = 200, body = Revision), (status = 404, description = "Not proposed", body = ProblemBody))
)]
pub(super) async fn revision(
    State(service): Shared,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<impl Serialize>, Problem> {
    let governed = governed(&service)?;
    let lifecycle = &governed.lifecycle;
    let proposal = lifecycle.proposal(&id).map_err(|refusal| refused(&refusal.into()))?;
    let steps = lifecycle.steps().iter().filter(|(_, step)| step.proposal_id == proposal.id);
    let steps: Vec<&(Tick, StepRecord)> = steps.collect();
    let changed = changes(&service.plan, lifecycle, &steps[0].1);
    Ok(Json(Revision {
        proposal: proposal_body(&service, lifecycle, proposal, &caller),
        text: proposal.text.clone(),
        before_text: text_said(&service.plan, lifecycle, &proposal.subject, &proposal.before).to_string(),
        changes: serde_json::to_value(changed).expect("changes are plain data"),
        steps: steps.into_iter().map(|(tick, step)| step_body(*tick, step)).collect(),
    }))
}

/// Proposes that a text comes into force at a node.
///
/// It is planned with everything that is in force beside it first: what cannot run is not proposed.
#[utoipa::path(
    post, path = "/v1/revisions", tag = "governance", request_body = Propose,
    responses(
        (status = 200, description = "Proposed, and durable", body = TakenBody),
        (status = 403, description = "The key may not propose", body = ProblemBody),
        (status = 409, description = "The lifecycle does not allow it now", body = ProblemBody),
        (status = 422, description = "The text cannot come into force", body = ProblemBody),
        (status = 503, description = "Not serving yet, or any more", body = ProblemBody),
    )
)]
pub(super) async fn propose(
    State(service): Shared,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Json<impl Serialize>, Problem> {
    caller.needs(Role::Author)?;
    let Propose { node, text, reason, before } =
        json_of(request, "{\"node\": .., \"text\": .., \"reason\": ..}").await?;
    let file = format!("the revision of {node}").into();
    take(&service, &caller, reason, Wish::Propose { node, file, text, before }).await
}

/// Takes a step about a proposal: `approve`, `activate`, `withdraw` or `rollback`.
///
/// One that takes effect does so from its tick on, without a stop: what came before it is committed, and for a moment the
/// service catches up.
#[utoipa::path(
    post, path = "/v1/revisions/{id}/{step}", tag = "governance", request_body = Why,
    params(
        ("id" = String, Path, description = "The proposal's id, or its first digits"),
        ("step" = String, Path, description = "`approve`, `activate`, `withdraw` or `rollback`"),
    ),
    responses(
        (status = 200, description = "Taken, and durable", body = TakenBody),
        (status = 403, description = "The key may not, or whoever proposed may not approve", body = ProblemBody),
        (status = 404, description = "Not proposed", body = ProblemBody),
        (status = 409, description = "The lifecycle does not allow it now", body = ProblemBody),
        (status = 503, description = "Not serving yet, or any more", body = ProblemBody),
    )
)]
pub(super) async fn step(
    State(service): Shared,
    Extension(caller): Extension<Caller>,
    Path((id, verb)): Path<(String, String)>,
    request: Request,
) -> Result<Json<impl Serialize>, Problem> {
    let Some((_, step)) = VERBS.iter().find(|(known, _)| *known == verb) else {
        let what = format!("there is no step `{verb}`; there are approve, activate, withdraw and rollback");
        return Err(Problem::new(StatusCode::NOT_FOUND, what));
    };
    caller.needs(Role::Approver)?;
    let Why { reason } = json_of(request, "{\"reason\": ..}").await?;
    take(&service, &caller, reason, Wish::Follow(*step, id)).await
}

/// Asks the gate for a step, and waits until it is durable.
async fn take(
    service: &Arc<Service>,
    caller: &Caller,
    reason: String,
    what: Wish,
) -> Result<Json<impl Serialize + use<>>, Problem> {
    let (told, taken) = oneshot::channel();
    let asked = Asked { actor: caller.id().to_owned(), reason, what };
    let step = StepAsked { asked, on_taken: Box::new(|taken| drop(told.send(taken))) };
    service.live.ask_step(step).map_err(busy)?;
    match tokio::time::timeout(DURABLE_WITHIN, taken).await {
        Ok(Ok(Ok(Taken { record, tick, repeated, changes }))) => Ok(Json(TakenBody {
            step: step_body(tick, &record),
            repeated,
            changes: serde_json::to_value(changes).expect("changes are plain data"),
        })),
        Ok(Ok(Err(error))) => Err(refused(&error)),
        Ok(Err(_)) | Err(_) => {
            let what = "it is not known what became of the step; ask GET /v1/revisions, or take it again, which is safe";
            Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, what).retry(10))
        }
    }
}

async fn json_of<T: for<'de> Deserialize<'de>>(request: Request, form: &str) -> Result<T, Problem> {
    let (_, body) = body_of(request).await?;
    serde_json::from_slice(&body)
        .map_err(|error| Problem::new(StatusCode::BAD_REQUEST, format!("the body is not {form}: {error}")))
}

fn governed(service: &Service) -> Result<Arc<Governed>, Problem> {
    let what = "the log is not open yet; ask /readyz, and try again";
    service.live.governed().ok_or_else(|| Problem::new(StatusCode::SERVICE_UNAVAILABLE, what).retry(1))
}

/// A refusal as an answer: who may not, what is not there, what is wrong with the text, what does not follow now.
fn refused(error: &GovernanceError) -> Problem {
    let status = match error {
        GovernanceError::Refused(refusal) => match refusal.as_ref() {
            Refusal::FourEyes { .. } => StatusCode::FORBIDDEN,
            Refusal::UnknownSubject { .. } | Refusal::UnknownProposal { .. } => StatusCode::NOT_FOUND,
            Refusal::Missing { .. } | Refusal::Ambiguous { .. } => StatusCode::BAD_REQUEST,
            _ => StatusCode::CONFLICT,
        },
        GovernanceError::Faults(_) | GovernanceError::Gate { .. } => StatusCode::UNPROCESSABLE_ENTITY,
        GovernanceError::Pins { .. } => StatusCode::CONFLICT,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let said = match error {
        // On the command line both come by options.
        GovernanceError::Refused(refusal) if matches!(**refusal, Refusal::Missing { .. }) => {
            "say why: `reason` is empty".to_owned()
        }
        _ => error.to_string(),
    };
    Problem::new(status, said)
}

fn proposal_body(
    service: &Service,
    lifecycle: &Lifecycle,
    proposal: &Proposal,
    caller: &Caller,
) -> ProposalBody {
    let mut steps = lifecycle.steps().iter();
    let (tick, first) = steps.find(|(_, step)| step.proposal_id == proposal.id).expect("it was proposed");
    let Proposal { id, subject, before, after, .. } = proposal;
    ProposalBody {
        proposal_id: id.to_hex(),
        node: subject.node.clone(),
        kind: subject.kind.name(),
        before: before.to_hex(),
        after: after.digest.to_hex(),
        revision_id: after.id.clone(),
        revision_version: after.version.clone(),
        state: lifecycle.word_for(proposal),
        actor: first.actor.clone(),
        reason: first.reason.clone(),
        proposed_at_utc: time_of(*tick),
        next: next(service, lifecycle, proposal, caller),
    }
}

/// The steps that may come next, and for each why this caller may not take it.
fn next(service: &Service, lifecycle: &Lifecycle, proposal: &Proposal, caller: &Caller) -> Vec<NextBody> {
    let scope = service.plan.topology.name.as_str();
    let role = caller.needs(Role::Approver).err().map(|denied| denied.to_string());
    let step = |(verb, step): &(&'static str, Step)| {
        let record = lifecycle.follow(proposal, *step, scope, caller.id(), "whether it may be taken");
        let refused = match lifecycle.check(&record) {
            Ok(Verdict::New) => role.clone(),
            Ok(Verdict::Repeated(_)) | Err(Refusal::WrongState { .. }) => return None,
            Err(refusal) => Some(refusal.to_string()),
        };
        Some(NextBody { step: verb, refused })
    };
    VERBS.iter().filter_map(step).collect()
}

fn step_body(tick: Tick, step: &StepRecord) -> StepBody {
    StepBody {
        tick: tick.0.to_string(),
        at_utc: time_of(tick),
        proposal_id: step.proposal_id.to_hex(),
        node: step.subject.node.clone(),
        step: step.step.name(),
        actor: step.actor.clone(),
        reason: step.reason.clone(),
        before: step.before.to_hex(),
        after: step.after.digest.to_hex(),
        revision_id: step.after.id.clone(),
        revision_version: step.after.version.clone(),
    }
}

/// What was computed anew.
#[derive(Serialize, ToSchema)]
struct Backfills {
    /// Newest first.
    backfills: Vec<BackfillBody>,
}

/// A backfill, and what became of it.
#[derive(Serialize, ToSchema)]
struct BackfillBody {
    backfill_id: String,
    /// `declared` or `completed`.
    state: &'static str,
    purpose: String,
    actor: String,
    declared_at_utc: String,
    completed_at_utc: Option<String>,
    /// The rows of ticks from here on, to before `to_tick`.
    from_tick: String,
    from_utc: String,
    to_tick: String,
    to_utc: String,
    /// Of every partition when none is named.
    partitions: Vec<u16>,
    /// The tables that it makes.
    outputs: Vec<String>,
    declaration: String,
    topology: String,
    plan: String,
    code: String,
    /// How many facts were read for it.
    facts: Option<String>,
    commits: Option<String>,
    /// The digest of its last commit.
    head: Option<String>,
    /// What it made, by table.
    #[schema(value_type = Vec<Object>)]
    produced: serde_json::Value,
}

/// Lists what was computed anew from the log, and what came of it.
#[utoipa::path(get, path = "/v1/backfills", tag = "governance", responses((status = 200, body = Backfills)))]
pub(super) async fn backfills(State(service): Shared) -> Result<Json<impl Serialize>, Problem> {
    let governed = governed(&service)?;
    let mut backfills: Vec<BackfillBody> = Vec::new();
    for (tick, record) in &governed.backfills {
        let of = &record.backfill;
        let place = backfills.iter().position(|body| body.backfill_id == of.id).unwrap_or_else(|| {
            backfills.push(BackfillBody {
                backfill_id: of.id.clone(),
                state: "declared",
                purpose: of.purpose.clone(),
                actor: of.actor.clone(),
                declared_at_utc: time_of(*tick),
                completed_at_utc: None,
                from_tick: of.from.0.to_string(),
                from_utc: time_of(of.from),
                to_tick: of.to.0.to_string(),
                to_utc: time_of(of.to),
                partitions: of.partitions.clone(),
                outputs: of.outputs.clone(),
                declaration: of.declaration.to_hex(),
                topology: of.topology.clone(),
                plan: of.plan.to_hex(),
                code: of.code.clone(),
                facts: None,
                commits: None,
                head: None,
                produced: serde_json::Value::Array(Vec::new()),
            });
            backfills.len() - 1
        });
        if let Some(completion) = &record.completion {
            let body = &mut backfills[place];
            body.state = "completed";
            body.completed_at_utc = Some(time_of(*tick));
            body.facts = Some(completion.facts.to_string());
            body.commits = Some(completion.commits.to_string());
            body.head = Some(completion.head.to_hex());
            body.produced = serde_json::to_value(&completion.produced).expect("it is plain data");
        }
    }
    backfills.reverse();
    Ok(Json(Backfills { backfills }))
}
