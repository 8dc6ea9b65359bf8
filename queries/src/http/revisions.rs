//! `/v1/revisions` and `/v1/backfills`: effective revisions, proposals and their steps, and
//! backfills.
//!
//! The actor of a step is the key of the caller. The lifecycle decides whether a step is allowed;
//! its refusals become error answers here. A step is answered when it is durable. A step that takes
//! effect does so at its tick: the topology is planned again, and the service catches up for a
//! moment.

use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use tidegate_dataflows::governance::{
    Lifecycle, Proposal, Refusal, StepEffect, revision_changes, revision_text,
};
use tidegate_dataflows::revision_step::{
    GovernanceError, GovernanceState, StepAction, StepOutcome, StepRequest,
};
use tidegate_dataflows::serve::PendingStep;
use tidegate_facts::governance::{RevisionStep, StepRecord};
use tidegate_facts::{Digest, Tick};
use tokio::sync::oneshot;
use utoipa::ToSchema;

use super::error::{ApiError, ApiErrorBody};
use super::request::read_json;
use super::service::{Service, Shared};
use super::submission::DURABLE_TIMEOUT;
use super::text::time_of;
use crate::access::{Caller, Role};

/// The state of the revisions of the topology.
#[derive(Serialize, ToSchema)]
struct Revisions {
    /// Whether someone other than the proposer must approve.
    four_eyes: bool,
    /// One for each node that can be revised.
    effective: Vec<EffectiveBody>,
    /// Newest first.
    proposals: Vec<ProposalBody>,
    /// Every step, newest first.
    steps: Vec<StepBody>,
}

/// The effective revision of a node.
#[derive(Serialize, ToSchema)]
struct EffectiveBody {
    node: String,
    /// `bundle` or `gate_policy`.
    kind: &'static str,
    revision_id: String,
    revision_version: String,
    digest: String,
    /// The tick since which it is effective; null if it is so from the beginning.
    since_tick: Option<String>,
    since_utc: Option<String>,
    /// The proposal that it comes from; null if it comes from the topology.
    proposal_id: Option<String>,
    /// The text of the revision.
    text: String,
}

/// A proposal of a revision.
#[derive(Serialize, ToSchema)]
struct ProposalBody {
    proposal_id: String,
    node: String,
    kind: &'static str,
    /// The digest of the revision that was effective when it was proposed.
    before: String,
    after: String,
    revision_id: String,
    revision_version: String,
    /// `proposed`, `approved`, `in force`, `replaced`, `rolled back`, `withdrawn`, or `outdated`.
    state: &'static str,
    /// The proposer.
    actor: String,
    reason: String,
    proposed_at_utc: String,
    /// The steps that may come next.
    next: Vec<NextBody>,
}

/// A possible next step of a proposal.
#[derive(Serialize, ToSchema)]
struct NextBody {
    /// `approve`, `activate`, `withdraw` or `rollback`.
    step: &'static str,
    /// Why the caller may not take it; null if the caller may.
    refused: Option<String>,
}

/// A step of a proposal.
#[derive(Serialize, ToSchema)]
struct StepBody {
    tick: String,
    at_utc: String,
    proposal_id: String,
    node: String,
    step: &'static str,
    actor: String,
    reason: String,
    /// The digests of the effective revision before and after a step that took effect.
    before: String,
    after: String,
    revision_id: String,
    revision_version: String,
}

/// One proposal with its texts and steps.
#[derive(Serialize, ToSchema)]
struct Revision {
    #[serde(flatten)]
    proposal: ProposalBody,
    /// The text of the revision.
    text: String,
    /// The text that was effective when it was proposed.
    before_text: String,
    /// What it changes, item by item.
    #[schema(value_type = Vec<Object>)]
    changes: serde_json::Value,
    /// Its steps, oldest first.
    steps: Vec<StepBody>,
}

/// The body of a request to propose a revision.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Propose {
    /// The node: a `decide`, or the gate.
    node: String,
    /// The text of the bundle or of the gate policy.
    text: String,
    /// The reason for the proposal.
    reason: String,
    /// The digest of the revision that must be effective now; unchecked if it is missing.
    #[schema(value_type = Option<String>)]
    before: Option<Digest>,
}

/// The body of a request to take a step.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct TakeStep {
    reason: String,
}

/// A durable step.
#[derive(Serialize, ToSchema)]
struct TakenStep {
    #[serde(flatten)]
    step: StepBody,
    /// Whether it was a repetition, which changed nothing.
    repeated: bool,
    /// What the revision changes, item by item.
    #[schema(value_type = Vec<Object>)]
    changes: serde_json::Value,
}

/// The steps of a proposal, by their names in a path.
const VERBS: [(&str, RevisionStep); 4] = [
    ("approve", RevisionStep::Approved),
    ("activate", RevisionStep::Activated),
    ("withdraw", RevisionStep::Withdrawn),
    ("rollback", RevisionStep::RolledBack),
];

/// Lists the effective revisions, the proposals, and every step.
#[utoipa::path(get, path = "/v1/revisions", tag = "governance", responses((status = 200, body = Revisions)))]
pub(super) async fn revisions(
    State(service): Shared,
    Extension(caller): Extension<Caller>,
) -> Result<Json<impl Serialize>, ApiError> {
    let governance = governance(&service)?;
    let lifecycle = &governance.lifecycle;
    let effective = lifecycle.subjects().map(|(subject, _)| {
        let (revision, since, by) = lifecycle.in_force(subject).expect("it is one of the lifecycle's");
        EffectiveBody {
            node: subject.node.clone(),
            kind: subject.kind.name(),
            revision_id: revision.id.clone(),
            revision_version: revision.version.clone(),
            digest: revision.digest.to_hex(),
            since_tick: since.map(|tick| tick.0.to_string()),
            since_utc: since.map(time_of),
            proposal_id: by.map(|id| id.to_hex()),
            text: revision_text(&service.plan, lifecycle, subject, &revision.digest).to_string(),
        }
    });
    let proposals = lifecycle.in_order().into_iter().rev();
    Ok(Json(Revisions {
        four_eyes: service.plan.topology.four_eyes,
        effective: effective.collect(),
        proposals: proposals.map(|proposal| proposal_body(&service, lifecycle, proposal, &caller)).collect(),
        steps: lifecycle.steps().iter().rev().map(|(tick, step)| step_body(*tick, step)).collect(),
    }))
}

/// Shows one proposal: its text, its changes, and its steps.
#[utoipa::path(
    get, path = "/v1/revisions/{id}", tag = "governance",
    params(("id" = String, Path, description = "The proposal's id, or its first digits")),
    responses((status = 200, body = Revision), (status = 404, description = "There is no such proposal", body = ApiErrorBody))
)]
pub(super) async fn revision(
    State(service): Shared,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<impl Serialize>, ApiError> {
    let governance = governance(&service)?;
    let lifecycle = &governance.lifecycle;
    let proposal = lifecycle.proposal(&id).map_err(|refusal| refused(&refusal.into()))?;
    let steps = lifecycle.steps().iter().filter(|(_, step)| step.proposal_id == proposal.id);
    let steps: Vec<&(Tick, StepRecord)> = steps.collect();
    let changed = revision_changes(&service.plan, lifecycle, &steps[0].1);
    Ok(Json(Revision {
        proposal: proposal_body(&service, lifecycle, proposal, &caller),
        text: proposal.text.clone(),
        before_text: revision_text(&service.plan, lifecycle, &proposal.subject, &proposal.before).to_string(),
        changes: serde_json::to_value(changed).expect("changes are plain data"),
        steps: steps.into_iter().map(|(tick, step)| step_body(*tick, step)).collect(),
    }))
}

/// Proposes a revision of a node's bundle or policy.
///
/// It is planned with all other effective revisions first: a revision that cannot run is not
/// proposed.
#[utoipa::path(
    post, path = "/v1/revisions", tag = "governance", request_body = Propose,
    responses(
        (status = 200, description = "Proposed, and durable", body = TakenStep),
        (status = 403, description = "The key may not propose", body = ApiErrorBody),
        (status = 409, description = "The lifecycle does not allow it now", body = ApiErrorBody),
        (status = 422, description = "The text is not a valid revision", body = ApiErrorBody),
        (status = 503, description = "The service is starting or stopping", body = ApiErrorBody),
    )
)]
pub(super) async fn propose(
    State(service): Shared,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Json<impl Serialize>, ApiError> {
    caller.require(Role::Author)?;
    let Propose { node, text, reason, before } =
        read_json(request, "{\"node\": .., \"text\": .., \"reason\": ..}").await?;
    let file = format!("the revision of {node}").into();
    take_step(&service, &caller, reason, StepAction::Propose { node, file, text, before }).await
}

/// Takes a step of a proposal: `approve`, `activate`, `withdraw` or `rollback`.
///
/// A step that takes effect does so from its tick on, without a restart: everything before it is
/// committed, and the service catches up for a moment.
#[utoipa::path(
    post, path = "/v1/revisions/{id}/{step}", tag = "governance", request_body = TakeStep,
    params(
        ("id" = String, Path, description = "The proposal's id, or its first digits"),
        ("step" = String, Path, description = "`approve`, `activate`, `withdraw` or `rollback`"),
    ),
    responses(
        (status = 200, description = "Taken, and durable", body = TakenStep),
        (status = 403, description = "The key lacks the role, or the proposer tried to approve", body = ApiErrorBody),
        (status = 404, description = "There is no such proposal", body = ApiErrorBody),
        (status = 409, description = "The lifecycle does not allow it now", body = ApiErrorBody),
        (status = 503, description = "The service is starting or stopping", body = ApiErrorBody),
    )
)]
pub(super) async fn step(
    State(service): Shared,
    Extension(caller): Extension<Caller>,
    Path((id, verb)): Path<(String, String)>,
    request: Request,
) -> Result<Json<impl Serialize>, ApiError> {
    let Some((_, step)) = VERBS.iter().find(|(name, _)| *name == verb) else {
        let what = format!("there is no step `{verb}`; use approve, activate, withdraw or rollback");
        return Err(ApiError::new(StatusCode::NOT_FOUND, what));
    };
    caller.require(Role::Approver)?;
    let TakeStep { reason } = read_json(request, "{\"reason\": ..}").await?;
    take_step(&service, &caller, reason, StepAction::Follow(*step, id)).await
}

/// Sends a step to the gate, and waits until it is durable.
async fn take_step(
    service: &Service,
    caller: &Caller,
    reason: String,
    action: StepAction,
) -> Result<Json<impl Serialize + use<>>, ApiError> {
    let (reply, outcome) = oneshot::channel();
    let request = StepRequest { actor: caller.id().to_owned(), reason, action };
    service.live.ingress.request_step(PendingStep { request, reply })?;
    match tokio::time::timeout(DURABLE_TIMEOUT, outcome).await {
        Ok(Ok(Ok(StepOutcome { record, tick, repeated, changes }))) => Ok(Json(TakenStep {
            step: step_body(tick, &record),
            repeated,
            changes: serde_json::to_value(changes).expect("changes are plain data"),
        })),
        Ok(Ok(Err(error))) => Err(refused(&error)),
        Ok(Err(_)) | Err(_) => {
            let what = "it is unknown whether the step is durable; see GET /v1/revisions, or take it again, which is safe";
            Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, what).retry(10))
        }
    }
}

fn governance(service: &Service) -> Result<Arc<GovernanceState>, ApiError> {
    let what = "the log is not open yet; ask /readyz, and try again";
    service.live.governance().ok_or_else(|| ApiError::new(StatusCode::SERVICE_UNAVAILABLE, what).retry(1))
}

/// The error answer for a refused step.
fn refused(error: &GovernanceError) -> ApiError {
    let status = match error {
        GovernanceError::Refused(refusal) => match refusal.as_ref() {
            Refusal::FourEyes { .. } => StatusCode::FORBIDDEN,
            Refusal::UnknownSubject { .. } | Refusal::UnknownProposal { .. } => StatusCode::NOT_FOUND,
            Refusal::Missing { .. } | Refusal::Ambiguous { .. } => StatusCode::BAD_REQUEST,
            _ => StatusCode::CONFLICT,
        },
        GovernanceError::Diagnostics(_) | GovernanceError::Gate { .. } => StatusCode::UNPROCESSABLE_ENTITY,
        GovernanceError::Pins { .. } => StatusCode::CONFLICT,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let what = match error {
        // On the command line, actor and reason are options, which the general message names.
        GovernanceError::Refused(refusal) if matches!(**refusal, Refusal::Missing { .. }) => {
            "`reason` is empty; give the reason for the step".to_owned()
        }
        _ => error.to_string(),
    };
    ApiError::new(status, what)
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
        state: lifecycle.status_of(proposal),
        actor: first.actor.clone(),
        reason: first.reason.clone(),
        proposed_at_utc: time_of(*tick),
        next: next(service, lifecycle, proposal, caller),
    }
}

/// The possible next steps, and for each why this caller may not take it.
fn next(service: &Service, lifecycle: &Lifecycle, proposal: &Proposal, caller: &Caller) -> Vec<NextBody> {
    let scope = service.plan.topology.name.as_str();
    let role = caller.require(Role::Approver).err().map(|denied| denied.to_string());
    let step = |(verb, step): &(&'static str, RevisionStep)| {
        let record = lifecycle.follow(proposal, *step, scope, caller.id(), "whether it may be taken");
        let refused = match lifecycle.check(&record) {
            Ok(StepEffect::New) => role.clone(),
            Ok(StepEffect::Repeated(_)) | Err(Refusal::WrongState { .. }) => return None,
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

/// The list of backfills.
#[derive(Serialize, ToSchema)]
struct Backfills {
    /// Newest first.
    backfills: Vec<BackfillBody>,
}

/// A backfill and its result.
#[derive(Serialize, ToSchema)]
struct BackfillBody {
    backfill_id: String,
    /// `declared` or `completed`.
    state: &'static str,
    purpose: String,
    actor: String,
    declared_at_utc: String,
    completed_at_utc: Option<String>,
    /// The first tick of the range; it ends before `to_tick`.
    from_tick: String,
    from_utc: String,
    to_tick: String,
    to_utc: String,
    /// The partitions; all of them if empty.
    partitions: Vec<u16>,
    /// The tables that it computes.
    outputs: Vec<String>,
    declaration: String,
    topology: String,
    plan: String,
    code: String,
    /// The number of facts that were read.
    facts: Option<String>,
    commits: Option<String>,
    /// The digest of its last commit.
    head: Option<String>,
    /// What it produced, by table.
    #[schema(value_type = Vec<Object>)]
    produced: serde_json::Value,
}

/// Lists the backfills, and the result of each.
#[utoipa::path(get, path = "/v1/backfills", tag = "governance", responses((status = 200, body = Backfills)))]
pub(super) async fn backfills(State(service): Shared) -> Result<Json<impl Serialize>, ApiError> {
    let governance = governance(&service)?;
    let mut backfills: Vec<BackfillBody> = Vec::new();
    for (tick, record) in &governance.backfills {
        let of = &record.backfill;
        let index = backfills.iter().position(|body| body.backfill_id == of.id).unwrap_or_else(|| {
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
            let body = &mut backfills[index];
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
