//! What the service says of itself: whether it lives, whether it is ready, how far it is, and its metrics.

use std::collections::BTreeMap;
use std::fmt::Write;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tidegate_dataflows::graph::{inputs_of, kind_name};
use tidegate_dataflows::live::{INGRESS, Phase};
use tidegate_dataflows::topology::{Clock, NodeKind};
use tidegate_dataflows::watch::StageReport;
use tidegate_facts::Tick;
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
struct Ready {
    ready: bool,
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

fn readiness(service: &Service) -> Ready {
    let lag_us = lag_us(service);
    let why = match service.live.phase() {
        Phase::CatchingUp => Some("the log is replayed, files are read, or a revision comes into force"),
        Phase::Stopping | Phase::Stopped => Some("the service is shutting down"),
        Phase::Serving if lag_us > READY_LAG_US => Some("the tables are behind the log"),
        Phase::Serving => None,
    };
    Ready { ready: why.is_none(), lag_us, why }
}

fn lag_us(service: &Service) -> u64 {
    let (fed, complete) = (service.watch.fed_upper(), service.live.complete());
    u64::try_from(fed.micros().saturating_sub(complete.micros())).unwrap_or(0)
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
struct NodeBody {
    name: String,
    kind: &'static str,
    inputs: Vec<String>,
    rows: u64,
    busy_us: u64,
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
fn nodes(service: &Service) -> Vec<NodeBody> {
    let stages: BTreeMap<String, StageReport> =
        service.watch.report().into_iter().map(|stage| (stage.name.clone(), stage)).collect();
    let counted = |stage: &str| {
        let stage = stages.get(stage);
        let busy = stage.map_or(0, |stage| u64::try_from(stage.busy.as_micros()).unwrap_or(u64::MAX));
        (stage.map_or(0, |stage| stage.rows), busy)
    };
    let (rows, busy_us) = counted(&format!("source {INGRESS}"));
    let mut nodes =
        vec![NodeBody { name: INGRESS.to_owned(), kind: "source.http", inputs: Vec::new(), rows, busy_us }];
    for node in &service.plan.topology.nodes {
        let (rows, busy_us) = match node.kind {
            NodeKind::Source(_) => counted(&format!("source {}", node.name)),
            NodeKind::Gate { .. } => {
                let (admission, log) = (counted("gate: admission"), counted("gate: log"));
                (admission.0, admission.1 + log.1)
            }
            _ => counted(&node.name),
        };
        let mut inputs = inputs_of(&service.plan.topology, &node.name);
        if matches!(node.kind, NodeKind::Gate { .. }) {
            inputs.push(INGRESS.to_owned());
        }
        nodes.push(NodeBody { name: node.name.clone(), kind: kind_name(&node.kind), inputs, rows, busy_us });
    }
    nodes
}

/// The metrics, as Prometheus reads them.
#[utoipa::path(
    get, path = "/metrics", tag = "service",
    responses((status = 200, description = "Prometheus text", body = String, content_type = "text/plain"))
)]
pub(super) async fn metrics(State(service): Shared) -> ([(HeaderName, &'static str); 1], String) {
    let mut text = String::new();
    let counts = service.live.counts();
    let commits = service.live.commits();
    let mut family = |name: &str, kind: &str, help: &str, values: &[(String, f64)]| {
        let _ = writeln!(text, "# HELP tidegate_{name} {help}\n# TYPE tidegate_{name} {kind}");
        for (labels, value) in values {
            let _ = writeln!(text, "tidegate_{name}{labels} {value}");
        }
    };
    let plain = |value: f64| vec![(String::new(), value)];
    let nodes = nodes(&service);
    let node = |node: &NodeBody| format!("{{node=\"{}\",kind=\"{}\"}}", escaped(&node.name), node.kind);
    let rows: Vec<_> = nodes.iter().map(|n| (node(n), n.rows as f64)).collect();
    family("rows_total", "counter", "Rows that passed a node since the start.", &rows);
    let busy: Vec<_> = nodes.iter().map(|n| (node(n), n.busy_us as f64 / 1e6)).collect();
    family("busy_seconds_total", "counter", "How long a node was busy, over all workers.", &busy);
    let mut receipts = vec![
        ("{verdict=\"admitted\",reason=\"\"}".to_owned(), counts.admitted as f64),
        ("{verdict=\"duplicate\",reason=\"\"}".to_owned(), counts.duplicate as f64),
    ];
    receipts.extend(counts.quarantined.iter().map(|(reason, count)| {
        (format!("{{verdict=\"quarantined\",reason=\"{}\"}}", reason.code()), *count as f64)
    }));
    family("receipts_total", "counter", "Records by what the gate said of them, since the start.", &receipts);
    family(
        "queued_bytes",
        "gauge",
        "Bytes of records that wait for the log.",
        &plain(service.live.queued_bytes() as f64),
    );
    family(
        "ready",
        "gauge",
        "1 when the service has caught up.",
        &plain(f64::from(u8::from(readiness(&service).ready))),
    );
    family(
        "lag_seconds",
        "gauge",
        "How far the tables are behind the log, in tick time.",
        &plain(lag_us(&service) as f64 / 1e6),
    );
    // Who scrapes has the clock: `time() - tidegate_watermark_timestamp_seconds` is its age.
    let seconds = |tick: Tick| plain(tick.micros() as f64 / 1e6);
    let (complete, committed) = (service.live.complete(), commits.upper());
    let help = "Before this time every table is known.";
    family("watermark_timestamp_seconds", "gauge", help, &seconds(complete));
    family("commits_total", "counter", "Commits there are.", &plain(commits.list.len() as f64));
    let help = "Before this time everything is committed.";
    family("committed_timestamp_seconds", "gauge", help, &seconds(committed));
    family(
        "uptime_seconds",
        "gauge",
        "How long the service has run.",
        &plain(service.watch.elapsed().as_secs_f64()),
    );
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text)
}

/// A label's value.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
