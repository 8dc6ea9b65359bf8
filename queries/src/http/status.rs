//! `/healthz`, `/readyz` and `/v1/status`: liveness, readiness, and the state of every node.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tidegate_dataflows::metrics::StageReport;
use tidegate_dataflows::node::Role;
use tidegate_dataflows::plan::Step;
use tidegate_dataflows::serve::{INGRESS, Phase};
use tidegate_dataflows::topology::Clock;
use utoipa::ToSchema;

use super::plan_nodes::{decides, step_of};
use super::service::{Service, Shared};
use super::text::time_of;

/// The lag of the tables behind the log up to which the service is ready, in microseconds.
const READY_LAG_US: u64 = 2_000_000;

/// Shows that the process is alive.
#[utoipa::path(get, path = "/healthz", tag = "service", responses((status = 200, body = String)))]
pub(super) async fn healthz() -> &'static str {
    "ok"
}

/// Whether the service accepts records and computes them without delay.
#[derive(Serialize, ToSchema)]
pub(super) struct Readiness {
    pub(super) ready: bool,
    /// The lag of the tables behind the log, in microseconds of tick time.
    lag_us: u64,
    /// Why it is not ready.
    reason: Option<&'static str>,
}

/// Shows whether the service has caught up: 503 while it has not.
#[utoipa::path(
    get, path = "/readyz", tag = "service",
    responses((status = 200, body = Readiness), (status = 503, body = Readiness))
)]
pub(super) async fn readyz(State(service): Shared) -> Response {
    let ready = readiness(&service);
    let status = if ready.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(ready)).into_response()
}

/// Whether the service is ready, and why not.
pub(super) fn readiness(service: &Service) -> Readiness {
    let lag_us = lag_us(service);
    let reason = match service.live.ingress.phase() {
        Phase::CatchingUp => Some("the log is replayed, files are read, or a revision becomes effective"),
        Phase::Stopping | Phase::Stopped => Some("the service is shutting down"),
        Phase::Serving if lag_us > READY_LAG_US => Some("the tables are behind the log"),
        Phase::Serving => None,
    };
    Readiness { ready: reason.is_none(), lag_us, reason }
}

/// The lag of the tables behind the log, in microseconds of tick time.
pub(super) fn lag_us(service: &Service) -> u64 {
    let (fed, computed) = (service.metrics.fed_upper(), service.live.computed_upper());
    u64::try_from(fed.micros().saturating_sub(computed.micros())).unwrap_or(0)
}

/// The state of the service.
#[derive(Serialize, ToSchema)]
struct StatusBody {
    topology: String,
    /// The file of the topology.
    file: String,
    /// The data folder.
    data: String,
    plan: String,
    clock: &'static str,
    partitions: u16,
    workers: usize,
    version: &'static str,
    /// Every table is complete before this tick.
    tick: String,
    time: String,
    committed: CommittedBody,
    ready: bool,
    lag_us: u64,
    /// The bytes of records that wait for the log.
    queued_bytes: usize,
    counts: VerdictCounts,
    nodes: Vec<NodeBody>,
    uptime_us: u64,
}

/// The newest commit.
#[derive(Serialize, ToSchema)]
struct CommittedBody {
    /// Its number, from 0; null before the first.
    number: Option<u64>,
    upper: String,
    time: String,
}

/// The number of records of this run by verdict.
#[derive(Serialize, ToSchema)]
struct VerdictCounts {
    admitted: u64,
    duplicate: u64,
    /// Quarantined records by reason.
    quarantined: BTreeMap<&'static str, u64>,
}

/// A node, and its counters since the start.
#[derive(Serialize, ToSchema)]
pub(super) struct NodeBody {
    pub(super) name: String,
    /// Its kind; null for the source of records that callers send, which no topology declares.
    pub(super) kind: Option<&'static str>,
    /// `source`, `gate`, `operator` or `sink`.
    role: &'static str,
    /// What its rows are: `decisions` of a node that decides, `episodes` of a node that makes them
    /// ready to be sealed; null for every other node.
    summary: Option<&'static str>,
    /// The table that it commits; null if it is no sink.
    table: Option<String>,
    pub(super) inputs: Vec<String>,
    pub(super) rows: u64,
    pub(super) busy_us: u64,
    /// The number of failures: of expressions on rows, or of reads of a source.
    pub(super) errors: u64,
    /// Its lag behind the rows fed to the dataflow, in microseconds of tick time; null for sources
    /// and the gate, and before the first row.
    pub(super) lag_us: Option<u64>,
    /// The size of its state; null if it has none.
    pub(super) state: Option<StateBody>,
}

/// The size of the state of a node.
#[derive(Serialize, ToSchema)]
pub(super) struct StateBody {
    /// Rows of its timelines, or uncommitted rows of its table.
    pub(super) rows: u64,
    /// Keys in the batches of its timelines.
    pub(super) keys: Option<u64>,
    /// Batches of its timelines.
    pub(super) batches: Option<u64>,
    /// Bytes of its timelines, without texts.
    pub(super) bytes: Option<u64>,
}

/// Shows the state of the service: its progress, and the counters of each node.
#[utoipa::path(get, path = "/v1/status", tag = "service", responses((status = 200, body = StatusBody)))]
pub(super) async fn status(State(service): Shared) -> Json<impl Serialize> {
    let (tick, commits) = (service.reads().complete(), service.reads().commits());
    let (plan, ready, counts) = (&service.plan, readiness(&service), service.live.ingress.counts());
    Json(StatusBody {
        topology: plan.topology.name.clone(),
        file: plan.topology.file.display().to_string(),
        data: service.data.display().to_string(),
        plan: plan.digest.to_hex(),
        clock: match plan.topology.clock {
            Clock::Event => "event",
            Clock::Wall => "wall",
        },
        partitions: plan.topology.partitions,
        workers: service.workers,
        version: env!("CARGO_PKG_VERSION"),
        tick: tick.0.to_string(),
        time: time_of(tick),
        committed: CommittedBody {
            number: commits.list.last().map(|commit| commit.number),
            upper: commits.upper().0.to_string(),
            time: time_of(commits.upper()),
        },
        ready: ready.ready,
        lag_us: ready.lag_us,
        queued_bytes: service.live.ingress.queued_bytes(),
        counts: VerdictCounts {
            admitted: counts.admitted,
            duplicate: counts.duplicate,
            quarantined: counts.quarantined.iter().map(|(reason, count)| (reason.code(), *count)).collect(),
        },
        nodes: nodes(&service),
        uptime_us: u64::try_from(service.metrics.elapsed().as_micros()).unwrap_or(u64::MAX),
    })
}

/// The nodes in the order of the topology, after the HTTP source.
pub(super) fn nodes(service: &Service) -> Vec<NodeBody> {
    let stages: BTreeMap<String, StageReport> =
        service.metrics.report().into_iter().map(|stage| (stage.name.clone(), stage)).collect();
    let uncommitted = service.live.tables.uncommitted();
    let fed = service.metrics.fed_upper();
    let node_body =
        |(name, kind, role): (&str, Option<&'static str>, Role), inputs: Vec<String>, stage: &str| {
            let stage = stages.get(stage);
            let lag_us = stage
                .and_then(|stage| stage.frontier)
                .map(|frontier| u64::try_from(fed.micros().saturating_sub(frontier.micros())).unwrap_or(0));
            let state = stage.and_then(|stage| stage.timelines).map(|totals| StateBody {
                rows: totals.rows,
                keys: Some(totals.keys),
                batches: Some(totals.batches),
                bytes: Some(totals.bytes),
            });
            NodeBody {
                name: name.to_owned(),
                kind,
                role: role_name(role),
                summary: None,
                table: None,
                inputs,
                rows: stage.map_or(0, |stage| stage.rows),
                busy_us: stage.map_or(0, |stage| u64::try_from(stage.busy.as_micros()).unwrap_or(u64::MAX)),
                errors: stage.map_or(0, |stage| stage.errors),
                lag_us,
                state,
            }
        };
    let ingress = (INGRESS, None, Role::Source);
    let mut nodes = vec![node_body(ingress, Vec::new(), &format!("source {INGRESS}"))];
    for node in &service.plan.topology.nodes {
        let role = node.role().expect("a planned node has a kind");
        let (named, mut inputs) =
            ((&*node.name, Some(node.kind_name()), role), service.plan.topology.inputs_of(&node.name));
        nodes.push(match role {
            Role::Source => node_body(named, inputs, &format!("source {}", node.name)),
            Role::Gate => {
                inputs.push(INGRESS.to_owned());
                let log = node_body(named, Vec::new(), "gate: log");
                let admission = node_body(named, inputs, "gate: admission");
                NodeBody { busy_us: admission.busy_us + log.busy_us, ..admission }
            }
            Role::Operator | Role::Sink => {
                let step = step_of(&service.plan, &node.name);
                let table = step.and_then(Step::table).map(|table| table.table.clone());
                let body = node_body(named, inputs, &node.name);
                let rows = table.as_ref().and_then(|table| uncommitted.get(table));
                let buffered =
                    rows.map(|rows| StateBody { rows: *rows, keys: None, batches: None, bytes: None });
                let summary = step.and_then(summary_of);
                NodeBody { state: body.state.or(buffered), summary, table, ..body }
            }
        });
    }
    nodes
}

fn role_name(role: Role) -> &'static str {
    match role {
        Role::Source => "source",
        Role::Gate => "gate",
        Role::Operator => "operator",
        Role::Sink => "sink",
    }
}

/// What the rows of a node are, if pages show them apart.
fn summary_of(step: &Step) -> Option<&'static str> {
    if decides(step) {
        return Some("decisions");
    }
    step.node.is_seal().then_some("episodes")
}
