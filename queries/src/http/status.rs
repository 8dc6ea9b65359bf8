//! What the service says of itself: whether it lives, whether it is ready, and how far it is.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tidegate_dataflows::graph::{inputs_of, kind_name};
use tidegate_dataflows::live::{INGRESS, Phase};
use tidegate_dataflows::plan::StepKind;
use tidegate_dataflows::topology::{Clock, NodeKind};
use tidegate_dataflows::watch::StageReport;
use utoipa::ToSchema;

use super::ask::time_of;
use super::{Service, Shared};

/// How far what is computed may be behind what is in the log for the service to call itself ready, in microseconds.
const READY_LAG_US: u64 = 2_000_000;

/// Whether the process lives.
#[utoipa::path(get, path = "/healthz", tag = "service", responses((status = 200, body = String)))]
pub(super) async fn healthz() -> &'static str {
    "ok"
}

/// Whether records are taken, and computed without delay.
#[derive(Serialize, ToSchema)]
pub(super) struct Ready {
    pub(super) ready: bool,
    /// How far the tables are behind the log, in microseconds of tick time.
    lag_us: u64,
    /// Why it is not ready.
    why: Option<&'static str>,
}

/// Says whether the service has caught up: 503 while it has not.
#[utoipa::path(
    get, path = "/readyz", tag = "service",
    responses((status = 200, body = Ready), (status = 503, body = Ready))
)]
pub(super) async fn readyz(State(service): Shared) -> Response {
    let ready = readiness(&service);
    let status = if ready.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(ready)).into_response()
}

pub(super) fn readiness(service: &Service) -> Ready {
    let lag_us = lag_us(service);
    let why = match service.live.phase() {
        Phase::CatchingUp => Some("the log is replayed, files are read, or a revision comes into force"),
        Phase::Stopping | Phase::Stopped => Some("the service is shutting down"),
        Phase::Serving if lag_us > READY_LAG_US => Some("the tables are behind the log"),
        Phase::Serving => None,
    };
    Ready { ready: why.is_none(), lag_us, why }
}

pub(super) fn lag_us(service: &Service) -> u64 {
    let (fed, computed) = (service.watch.fed_upper(), service.live.computed_upper());
    u64::try_from(fed.micros().saturating_sub(computed.micros())).unwrap_or(0)
}

/// How the service stands.
#[derive(Serialize, ToSchema)]
struct Status {
    topology: String,
    /// The file that the topology was read from, and the folder of its log.
    file: String,
    data: String,
    plan: String,
    clock: &'static str,
    partitions: u16,
    workers: usize,
    version: &'static str,
    /// Before this tick every table is known.
    tick: String,
    time: String,
    committed: Committed,
    ready: bool,
    lag_us: u64,
    /// Bytes of records that wait for the log.
    queued_bytes: usize,
    counts: Counted,
    nodes: Vec<NodeBody>,
    uptime_us: u64,
}

/// What is committed.
#[derive(Serialize, ToSchema)]
struct Committed {
    /// The newest commit, counted from 0; null before the first.
    number: Option<u64>,
    upper: String,
    time: String,
}

/// What became of the records of this run.
#[derive(Serialize, ToSchema)]
struct Counted {
    admitted: u64,
    duplicate: u64,
    /// By reason.
    quarantined: BTreeMap<&'static str, u64>,
}

/// A node, and what went through it since the start.
#[derive(Serialize, ToSchema)]
pub(super) struct NodeBody {
    pub(super) name: String,
    pub(super) kind: &'static str,
    pub(super) inputs: Vec<String>,
    pub(super) rows: u64,
    pub(super) busy_us: u64,
    /// What failed there: rows whose expressions did, or readings of a source.
    pub(super) errors: u64,
    /// How far it is behind what was fed to the graph, in microseconds of tick time; null in front of the
    /// graph, and before anything has passed.
    pub(super) lag_us: Option<u64>,
    /// What it holds; null when it holds nothing.
    pub(super) state: Option<StateBody>,
}

/// What a node holds.
#[derive(Serialize, ToSchema)]
pub(super) struct StateBody {
    /// Rows: of timelines, or of a table because no commit has them.
    pub(super) rows: u64,
    /// Keys in the batches of timelines.
    pub(super) keys: Option<u64>,
    /// Batches of timelines.
    pub(super) batches: Option<u64>,
    /// Bytes of timelines, without texts.
    pub(super) bytes: Option<u64>,
}

/// Says how the service stands: how far it is, and what each node has done.
#[utoipa::path(get, path = "/v1/status", tag = "service", responses((status = 200, body = Status)))]
pub(super) async fn status(State(service): Shared) -> Json<impl Serialize> {
    let (tick, commits, counts) = (service.live.complete(), service.live.commits(), service.live.counts());
    let (plan, ready) = (&service.plan, readiness(&service));
    Json(Status {
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
        committed: Committed {
            number: commits.list.last().map(|commit| commit.number),
            upper: commits.upper().0.to_string(),
            time: time_of(commits.upper()),
        },
        ready: ready.ready,
        lag_us: ready.lag_us,
        queued_bytes: service.live.queued_bytes(),
        counts: Counted {
            admitted: counts.admitted,
            duplicate: counts.duplicate,
            quarantined: counts.quarantined.iter().map(|(reason, count)| (reason.code(), *count)).collect(),
        },
        nodes: nodes(&service),
        uptime_us: u64::try_from(service.watch.elapsed().as_micros()).unwrap_or(u64::MAX),
    })
}

/// The nodes in the order of the file, and the way in over HTTP before them.
pub(super) fn nodes(service: &Service) -> Vec<NodeBody> {
    let stages: BTreeMap<String, StageReport> =
        service.watch.report().into_iter().map(|stage| (stage.name.clone(), stage)).collect();
    let uncommitted = service.live.uncommitted();
    let fed = service.watch.fed_upper();
    let counted = |name: &str, kind: &'static str, inputs: Vec<String>, stage: &str| {
        let stage = stages.get(stage);
        let lag_us = stage
            .and_then(|stage| stage.reached)
            .map(|reached| u64::try_from(fed.micros().saturating_sub(reached.micros())).unwrap_or(0));
        let state = stage.and_then(|stage| stage.held).map(|held| StateBody {
            rows: held.rows,
            keys: Some(held.keys),
            batches: Some(held.batches),
            bytes: Some(held.bytes),
        });
        NodeBody {
            name: name.to_owned(),
            kind,
            inputs,
            rows: stage.map_or(0, |stage| stage.rows),
            busy_us: stage.map_or(0, |stage| u64::try_from(stage.busy.as_micros()).unwrap_or(u64::MAX)),
            errors: stage.map_or(0, |stage| stage.errors),
            lag_us,
            state,
        }
    };
    let mut nodes = vec![counted(INGRESS, "source.http", Vec::new(), &format!("source {INGRESS}"))];
    for node in &service.plan.topology.nodes {
        let (kind, mut inputs) = (kind_name(&node.kind), inputs_of(&service.plan.topology, &node.name));
        nodes.push(match node.kind {
            NodeKind::Source(_) => counted(&node.name, kind, inputs, &format!("source {}", node.name)),
            NodeKind::Gate { .. } => {
                inputs.push(INGRESS.to_owned());
                let log = counted(&node.name, kind, Vec::new(), "gate: log");
                let admission = counted(&node.name, kind, inputs, "gate: admission");
                NodeBody { busy_us: admission.busy_us + log.busy_us, ..admission }
            }
            _ => {
                let rows = table_of(service, &node.name).and_then(|table| uncommitted.get(table));
                let body = counted(&node.name, kind, inputs, &node.name);
                let kept = rows.map(|rows| StateBody { rows: *rows, keys: None, batches: None, bytes: None });
                NodeBody { state: body.state.or(kept), ..body }
            }
        });
    }
    nodes
}

/// The table that a node commits.
fn table_of<'a>(service: &'a Service, node: &str) -> Option<&'a str> {
    service.plan.steps.iter().find(|step| step.name == node).and_then(|step| match &step.kind {
        StepKind::Table(table) => Some(table.table.as_str()),
        _ => None,
    })
}
