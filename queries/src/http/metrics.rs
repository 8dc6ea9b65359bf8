//! `GET /metrics`: rates, latencies, lags and sizes of the service, as Prometheus text.

use std::fmt::Write;
use std::sync::atomic::Ordering;

use axum::extract::State;
use axum::http::{HeaderName, header};
use tidegate_dataflows::metrics::histogram::HistogramSnapshot;
use tidegate_dataflows::topology::Clock;
use tidegate_facts::Tick;

use super::plan_nodes::{decision_nodes, feature_nodes};
use super::service::{Service, Shared};
use super::status::{NodeBody, StateBody, lag_us, nodes, readiness};
use crate::telemetry::{Port, StatementOutcome};

/// Returns all metrics as Prometheus text.
#[utoipa::path(
    get, path = "/metrics", tag = "service",
    responses((status = 200, description = "Prometheus text", body = String, content_type = "text/plain"))
)]
pub(super) async fn metrics(State(service): Shared) -> ([(HeaderName, &'static str); 1], String) {
    let mut text = MetricsText::default();
    add_service(&mut text, &service);
    add_partitions(&mut text, &service);
    add_nodes(&mut text, &service);
    add_features_and_decisions(&mut text, &service);
    add_gate(&mut text, &service);
    add_commits(&mut text, &service);
    add_requests(&mut text, &service);
    add_decision_calls(&mut text, &service);
    add_statements(&mut text, &service);
    add_traces(&mut text, &service);
    add_process(&mut text);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text.0)
}

/// Prometheus text, built one family of metrics after the other.
#[derive(Default)]
struct MetricsText(String);

/// The labels of a sample: names and values.
type Labels<'a> = Vec<(&'static str, &'a str)>;

impl MetricsText {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&'static str, &str)], value: f64) {
        self.0.push_str(name);
        for (index, (label, text)) in labels.iter().enumerate() {
            let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.0, "{}{label}=\"{text}\"", if index == 0 { '{' } else { ',' });
        }
        let _ = writeln!(self.0, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }

    fn family(&mut self, name: &str, kind: &str, help: &str, samples: &[(Labels<'_>, f64)]) {
        self.head(name, kind, help);
        for (labels, value) in samples {
            self.sample(name, labels, *value);
        }
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.family(name, "gauge", help, &[(Vec::new(), value)]);
    }

    fn counter(&mut self, name: &str, help: &str, value: f64) {
        self.family(name, "counter", help, &[(Vec::new(), value)]);
    }

    /// Histograms of one family; their values are divided by `unit`.
    fn histograms(&mut self, name: &str, help: &str, unit: f64, samples: &[(Labels<'_>, HistogramSnapshot)]) {
        self.head(name, "histogram", help);
        for (labels, histogram) in samples {
            let bucket = |end: &str, text: &mut MetricsText, count: u64| {
                let mut labels = labels.clone();
                labels.push(("le", end));
                text.sample(&format!("{name}_bucket"), &labels, count as f64);
            };
            for (end, count) in &histogram.buckets {
                bucket(&(*end as f64 / unit).to_string(), self, *count);
            }
            bucket("+Inf", self, histogram.count);
            self.sample(&format!("{name}_sum"), labels, histogram.sum as f64 / unit);
            self.sample(&format!("{name}_count"), labels, histogram.count as f64);
        }
    }

    /// Histograms of durations, in seconds.
    fn times(&mut self, name: &str, help: &str, samples: &[(Labels<'_>, HistogramSnapshot)]) {
        self.histograms(name, help, 1e6, samples);
    }

    fn time(&mut self, name: &str, help: &str, histogram: HistogramSnapshot) {
        self.times(name, help, &[(Vec::new(), histogram)]);
    }
}

fn seconds(tick: Tick) -> f64 {
    tick.micros() as f64 / 1e6
}

/// The build, and the progress of the whole service.
fn add_service(text: &mut MetricsText, service: &Service) {
    let (plan, topology) = (service.plan.digest.to_hex(), &service.plan.topology);
    let clock = match topology.clock {
        Clock::Event => "event",
        Clock::Wall => "wall",
    };
    let labels = vec![
        ("topology", topology.name.as_str()),
        ("plan", &plan),
        ("clock", clock),
        ("version", env!("CARGO_PKG_VERSION")),
    ];
    text.family(
        "tidegate_build_info",
        "gauge",
        "Topology, plan and version; the value is 1.",
        &[(labels, 1.0)],
    );
    text.gauge("tidegate_workers", "Workers of the dataflow.", service.workers as f64);
    text.gauge(
        "tidegate_uptime_seconds",
        "How long the service has run.",
        service.metrics.elapsed().as_secs_f64(),
    );
    let ready = readiness(service).ready;
    text.gauge("tidegate_ready", "1 when the service has caught up.", f64::from(u8::from(ready)));
    let help = "The lag of the tables behind the log, in tick time.";
    text.gauge("tidegate_lag_seconds", help, lag_us(service) as f64 / 1e6);
    // Prometheus has a clock: `time() - tidegate_watermark_timestamp_seconds` is the age.
    let help = "The time before which every table is complete.";
    text.gauge("tidegate_watermark_timestamp_seconds", help, seconds(service.reads().complete()));
}

/// The progress of each partition of the log.
fn add_partitions(text: &mut MetricsText, service: &Service) {
    let partitions = service.metrics.partitions();
    let names: Vec<String> = (0..partitions.len()).map(|partition| partition.to_string()).collect();
    let named = || {
        names.iter().zip(&partitions).map(|(name, partition)| (vec![("partition", name.as_str())], partition))
    };
    let facts: Vec<_> = named().map(|(labels, partition)| (labels, partition.facts as f64)).collect();
    text.family("tidegate_partition_facts_total", "counter", "Facts of a partition of the log.", &facts);
    let newest = || named().filter_map(|(labels, partition)| Some((labels, partition.newest?)));
    let times: Vec<_> = newest().map(|(labels, tick)| (labels, seconds(tick))).collect();
    let help = "The time of the newest fact of a partition that this process has read or written.";
    text.family("tidegate_partition_newest_timestamp_seconds", "gauge", help, &times);
    let complete = service.reads().complete();
    let behind = |tick: Tick| if tick < complete { 0.0 } else { seconds(tick) - seconds(complete) };
    let lags: Vec<_> = newest().map(|(labels, tick)| (labels, behind(tick).max(0.0))).collect();
    let help = "The lag of the tables behind the newest fact of a partition, in tick time.";
    text.family("tidegate_partition_lag_seconds", "gauge", help, &lags);
}

/// The labels of a node: its name, and its kind if it has one.
fn labels_of(node: &NodeBody) -> Labels<'_> {
    [("node", node.name.as_str())].into_iter().chain(node.kind.map(|kind| ("kind", kind))).collect()
}

/// The rate, errors, latency, lag and state of each node.
fn add_nodes(text: &mut MetricsText, service: &Service) {
    let nodes = nodes(service);
    let of = |number: fn(&NodeBody) -> Option<f64>| -> Vec<(Labels<'_>, f64)> {
        nodes.iter().filter_map(|node| Some((labels_of(node), number(node)?))).collect()
    };
    let rows = of(|node| Some(node.rows as f64));
    text.family("tidegate_rows_total", "counter", "Rows that passed a node since the start.", &rows);
    let busy = of(|node| Some(node.busy_us as f64 / 1e6));
    text.family(
        "tidegate_busy_seconds_total",
        "counter",
        "The busy time of a node, over all workers.",
        &busy,
    );
    let errors = of(|node| Some(node.errors as f64));
    let help = "Failures at a node: of expressions on rows, or of reads of a source.";
    text.family("tidegate_errors_total", "counter", help, &errors);
    let lags = of(|node| node.lag_us.map(|lag| lag as f64 / 1e6));
    let help = "The lag of a node behind the rows fed to the dataflow, in tick time.";
    text.family("tidegate_node_lag_seconds", "gauge", help, &lags);
    let state = |number: fn(&StateBody) -> Option<u64>| -> Vec<(Labels<'_>, f64)> {
        nodes
            .iter()
            .filter_map(|node| {
                let size = number(node.state.as_ref()?)? as f64;
                Some((labels_of(node), size))
            })
            .collect()
    };
    let help = "Rows in a node's timelines, or uncommitted rows of its table.";
    text.family("tidegate_state_rows", "gauge", help, &state(|state| Some(state.rows)));
    let help = "Keys in the batches of a node's timelines.";
    text.family("tidegate_state_keys", "gauge", help, &state(|state| state.keys));
    let help = "Batches of a node's timelines.";
    text.family("tidegate_state_batches", "gauge", help, &state(|state| state.batches));
    let help = "Bytes of a node's timelines, without texts.";
    text.family("tidegate_state_bytes", "gauge", help, &state(|state| state.bytes));

    let report = service.metrics.report();
    let latency: Vec<_> =
        report.iter().map(|stage| (vec![("stage", stage.name.as_str())], stage.latency.clone())).collect();
    let help = "The duration of one unit of a stage's work; for a node of the dataflow, the time from feeding a group \
                until it has passed the node.";
    text.times("tidegate_stage_seconds", help, &latency);

    let (rows, boundaries) = service.metrics.under_way();
    let help = "Rows in flight in the dataflow, the most of any worker.";
    text.gauge("tidegate_rows_in_flight", help, rows as f64);
    let help = "Commit boundaries that wait for their commits, the most of any worker.";
    text.gauge("tidegate_boundaries_in_flight", help, boundaries as f64);
}

/// Missing and stale features, and decisions by action.
fn add_features_and_decisions(text: &mut MetricsText, service: &Service) {
    let (nodes, report) = (nodes(service), service.metrics.report());
    let with_features = feature_nodes(&service.plan);
    let with_decisions = decision_nodes(&service.plan);
    let late: Vec<_> = report
        .iter()
        .filter(|stage| with_features.contains(&stage.name.as_str()))
        .map(|stage| (vec![("node", stage.name.as_str())], stage.late as f64))
        .collect();
    let help = "Rows whose features are missing, because the event came beyond retention.";
    text.family("tidegate_features_missing_total", "counter", help, &late);
    let stale: Vec<_> = nodes
        .iter()
        .filter(|node| with_features.contains(&node.name.as_str()))
        .filter_map(|node| Some((vec![("node", node.name.as_str())], node.lag_us? as f64 / 1e6)))
        .collect();
    let help = "The lag of the newest features behind the log, in tick time.";
    text.family("tidegate_features_staleness_seconds", "gauge", help, &stale);
    let decisions: Vec<_> = report
        .iter()
        .filter(|stage| with_decisions.iter().any(|node| **node == *stage.name))
        .flat_map(|stage| {
            let node = stage.name.as_str();
            stage
                .actions
                .iter()
                .map(move |(action, count)| (vec![("node", node), ("action", action.name())], *count as f64))
        })
        .collect();
    text.family("tidegate_decisions_total", "counter", "Decisions by action.", &decisions);
}

/// The gate and its log.
fn add_gate(text: &mut MetricsText, service: &Service) {
    let (times, ingress) = (&service.metrics.times, &service.live.ingress);
    let counts = ingress.counts();
    let mut receipts = vec![
        (vec![("verdict", "admitted"), ("reason", "")], counts.admitted as f64),
        (vec![("verdict", "duplicate"), ("reason", "")], counts.duplicate as f64),
    ];
    receipts.extend(
        counts.quarantined.iter().map(|(reason, count)| {
            (vec![("verdict", "quarantined"), ("reason", reason.code())], *count as f64)
        }),
    );
    let help = "Records by the gate's verdict, since the start.";
    text.family("tidegate_receipts_total", "counter", help, &receipts);
    text.gauge(
        "tidegate_queued_bytes",
        "Bytes of records that wait for the log.",
        ingress.queued_bytes() as f64,
    );
    let limits = ingress.limits();
    let help = "Bytes of records that may wait for the log.";
    text.gauge("tidegate_queue_bytes_max", help, limits.queue_bytes_max as f64);
    let help = "Submissions that wait for the log.";
    text.gauge("tidegate_queued_submissions", help, ingress.queued() as f64);
    let help = "Callers that wait for a decision on a durable fact.";
    text.gauge("tidegate_decisions_waiting", help, service.live.decisions.len() as f64);
    let help = "Callers that may wait for the log or a decision.";
    text.gauge("tidegate_decisions_waiting_max", help, limits.decisions_waiting_max as f64);
    let help = "The duration of appending a group to the log, until it is durable.";
    text.time("tidegate_append_seconds", help, times.append.snapshot());
    let help = "The duration of the fsync within an append.";
    text.time("tidegate_fsync_seconds", help, times.sync.snapshot());
    let help = "The number of records that are made durable together.";
    text.histograms("tidegate_group_records", help, 1.0, &[(Vec::new(), times.group_records.snapshot())]);
}

/// Commits, checkpoints and uncommitted rows.
fn add_commits(text: &mut MetricsText, service: &Service) {
    let (commits, times) = (service.reads().commits(), &service.metrics.times);
    text.counter("tidegate_commits_total", "The number of commits.", commits.list.len() as f64);
    let help = "The time before which everything is committed.";
    text.gauge("tidegate_committed_timestamp_seconds", help, seconds(commits.upper()));
    let help = "The duration of cutting, chaining and writing a table's rows of an interval, on one worker.";
    text.time("tidegate_table_write_seconds", help, times.write.snapshot());
    let help = "The duration of publishing a commit, once its files are written.";
    text.time("tidegate_commit_seconds", help, times.commit.snapshot());
    let help = "The duration of writing a checkpoint.";
    text.time("tidegate_checkpoint_seconds", help, times.checkpoint.snapshot());
    let uncommitted = service.live.tables.uncommitted();
    let rows: Vec<_> =
        uncommitted.iter().map(|(t, rows)| (vec![("table", t.as_str())], *rows as f64)).collect();
    text.family("tidegate_uncommitted_rows", "gauge", "Uncommitted rows of a table.", &rows);
}

/// HTTP calls by route, and their latencies.
fn add_requests(text: &mut MetricsText, service: &Service) {
    let routes = service.telemetry.routes();
    let mut requests = Vec::new();
    let statuses: Vec<Vec<(String, u64)>> = routes
        .iter()
        .map(|route| route.by_status.iter().map(|(status, count)| (status.to_string(), *count)).collect())
        .collect();
    for (route, statuses) in routes.iter().zip(&statuses) {
        for (status, count) in statuses {
            let labels =
                vec![("route", route.route.as_str()), ("method", route.method), ("status", status.as_str())];
            requests.push((labels, *count as f64));
        }
    }
    let help = "HTTP calls by status; 499 if the caller disconnected before the answer.";
    text.family("tidegate_http_requests_total", "counter", help, &requests);
    let latency: Vec<_> = routes
        .iter()
        .map(|route| (vec![("route", route.route.as_str()), ("method", route.method)], route.latency.clone()))
        .collect();
    text.times("tidegate_http_request_seconds", "The duration of HTTP calls.", &latency);
}

/// Calls that wait for decisions.
fn add_decision_calls(text: &mut MetricsText, service: &Service) {
    let decisions = &service.telemetry.decisions;
    let help = "The time from a submitted record to its last decision.";
    text.time("tidegate_decision_seconds", help, decisions.whole.snapshot());
    let parts = [("queue", &decisions.queue), ("log", &decisions.log), ("graph", &decisions.graph)];
    let parts: Vec<_> = parts.map(|(part, times)| (vec![("part", part)], times.snapshot())).into();
    let help = "The parts of the time to a decision: the queue, the log, the dataflow.";
    text.times("tidegate_decision_part_seconds", help, &parts);
    let help = "Calls whose timeout passed before all their decisions came.";
    let timeouts = decisions.timeouts.load(Ordering::Relaxed) as f64;
    text.counter("tidegate_decision_timeouts_total", help, timeouts);
}

/// SQL statements, connections and subscribers.
fn add_statements(text: &mut MetricsText, service: &Service) {
    let telemetry = &service.telemetry;
    let ports = || Port::ALL.into_iter().map(|port| (port, telemetry.statements(port)));
    let outcomes: Vec<_> = ports()
        .flat_map(|(port, statements)| {
            StatementOutcome::ALL.map(|outcome| {
                let count = statements.by_outcome[outcome as usize].load(Ordering::Relaxed);
                (vec![("port", port.name()), ("outcome", outcome.name())], count as f64)
            })
        })
        .collect();
    text.family("tidegate_sql_statements_total", "counter", "SQL statements by outcome.", &outcomes);
    let running: Vec<_> =
        ports().map(|(port, s)| (vec![("port", port.name())], s.running.now() as f64)).collect();
    text.family("tidegate_sql_running", "gauge", "SQL statements that are running.", &running);
    let latency: Vec<_> =
        ports().map(|(port, s)| (vec![("port", port.name())], s.latency.snapshot())).collect();
    text.times("tidegate_sql_seconds", "The duration of SQL statements, to their last row.", &latency);
    let connections: Vec<_> =
        Port::ALL.map(|port| (vec![("port", port.name())], telemetry.connections(port) as f64)).into();
    text.family("tidegate_connections", "gauge", "Open connections.", &connections);
    let subscribers = telemetry.subscribers.now() as f64;
    text.gauge("tidegate_subscribers", "Callers that follow a table.", subscribers);
}

/// Spans, and facts whose traces wait for a commit, if tracing is on.
fn add_traces(text: &mut MetricsText, service: &Service) {
    let counts = service.telemetry.traces().map(|traces| traces.counts());
    let enabled = f64::from(u8::from(counts.is_some()));
    text.gauge("tidegate_traces_enabled", "1 when traces are sent to a collector.", enabled);
    let (sent, dropped) = counts.map_or((0, 0), |counts| (counts.sent, counts.dropped));
    let spans = [(vec![("fate", "sent")], sent as f64), (vec![("fate", "dropped")], dropped as f64)];
    text.family(
        "tidegate_trace_spans_total",
        "counter",
        "Spans by whether a collector accepted them.",
        &spans,
    );
    let (pending, evicted) = counts.map_or((0, 0), |counts| (counts.pending, counts.evicted));
    text.gauge("tidegate_traces_pending", "Traced facts that wait for their commit.", pending as f64);
    let help = "Traced facts whose commit is not reported, because too many waited.";
    text.counter("tidegate_traces_evicted_total", help, evicted as f64);
}

/// Memory, threads and files of the process, from `/proc`.
fn add_process(text: &mut MetricsText) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let number = |name: &str| -> Option<f64> {
        status.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
    };
    if let Some(kib) = number("VmRSS:") {
        text.gauge("process_resident_memory_bytes", "Memory in use.", kib * 1024.0);
    }
    if let Some(threads) = number("Threads:") {
        text.gauge("process_threads", "Threads.", threads);
    }
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        text.gauge("process_open_fds", "Open file descriptors.", open.count() as f64);
    }
}
