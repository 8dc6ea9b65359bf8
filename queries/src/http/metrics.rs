//! `GET /metrics`: what runs, how fast, how late and how full, as Prometheus reads it.

use std::fmt::Write;
use std::sync::atomic::Ordering;

use axum::extract::State;
use axum::http::{HeaderName, header};
use tidegate_dataflows::histogram::Seen;
use tidegate_dataflows::topology::Clock;
use tidegate_dataflows::watch::StageReport;
use tidegate_facts::Tick;

use super::status::{lag_us, nodes, readiness};
use super::{Service, Shared};
use crate::telemetry::{End, Port};

/// The metrics, as Prometheus reads them.
#[utoipa::path(
    get, path = "/metrics", tag = "service",
    responses((status = 200, description = "Prometheus text", body = String, content_type = "text/plain"))
)]
pub(super) async fn metrics(State(service): Shared) -> ([(HeaderName, &'static str); 1], String) {
    let mut text = Text::default();
    whole(&mut text, &service);
    stages(&mut text, &service);
    gate(&mut text, &service);
    commits(&mut text, &service);
    ports(&mut text, &service);
    traces(&mut text, &service);
    process(&mut text);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text.0)
}

/// The text so far, a family after the other.
#[derive(Default)]
struct Text(String);

/// The labels of a sample: names and values.
type Labels<'a> = Vec<(&'static str, &'a str)>;

impl Text {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&'static str, &str)], value: f64) {
        self.0.push_str(name);
        for (place, (label, text)) in labels.iter().enumerate() {
            let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.0, "{}{label}=\"{text}\"", if place == 0 { '{' } else { ',' });
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

    /// Histograms of one family; what they count is divided by `unit`.
    fn histograms(&mut self, name: &str, help: &str, unit: f64, samples: &[(Labels<'_>, Seen)]) {
        self.head(name, "histogram", help);
        for (labels, seen) in samples {
            let with = |end: &str, text: &mut Text, count: u64| {
                let mut labels = labels.clone();
                labels.push(("le", end));
                text.sample(&format!("{name}_bucket"), &labels, count as f64);
            };
            for (end, count) in &seen.up_to {
                with(&(*end as f64 / unit).to_string(), self, *count);
            }
            with("+Inf", self, seen.count);
            self.sample(&format!("{name}_sum"), labels, seen.sum as f64 / unit);
            self.sample(&format!("{name}_count"), labels, seen.count as f64);
        }
    }

    /// Histograms of durations.
    fn times(&mut self, name: &str, help: &str, samples: &[(Labels<'_>, Seen)]) {
        self.histograms(name, help, 1e6, samples);
    }

    fn time(&mut self, name: &str, help: &str, seen: Seen) {
        self.times(name, help, &[(Vec::new(), seen)]);
    }
}

fn seconds(tick: Tick) -> f64 {
    tick.micros() as f64 / 1e6
}

/// What runs, and how far all of it is.
fn whole(text: &mut Text, service: &Service) {
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
    text.family("tidegate_build_info", "gauge", "What runs; the value is 1.", &[(labels, 1.0)]);
    text.gauge("tidegate_workers", "Workers of the graph.", service.workers as f64);
    text.gauge(
        "tidegate_uptime_seconds",
        "How long the service has run.",
        service.watch.elapsed().as_secs_f64(),
    );
    let ready = readiness(service).ready;
    text.gauge("tidegate_ready", "1 when the service has caught up.", f64::from(u8::from(ready)));
    let help = "How far the tables are behind the log, in tick time.";
    text.gauge("tidegate_lag_seconds", help, lag_us(service) as f64 / 1e6);
    // Who scrapes has the clock: `time() - tidegate_watermark_timestamp_seconds` is its age.
    let help = "Before this time every table is known.";
    text.gauge("tidegate_watermark_timestamp_seconds", help, seconds(service.live.complete()));

    let partitions = service.watch.partitions();
    let names: Vec<String> = (0..partitions.len()).map(|place| place.to_string()).collect();
    let named = || {
        names.iter().zip(&partitions).map(|(name, partition)| (vec![("partition", name.as_str())], partition))
    };
    let facts: Vec<_> = named().map(|(labels, partition)| (labels, partition.facts as f64)).collect();
    text.family("tidegate_partition_facts_total", "counter", "Facts of a partition of the log.", &facts);
    let newest = || named().filter_map(|(labels, partition)| Some((labels, partition.newest?)));
    let times: Vec<_> = newest().map(|(labels, tick)| (labels, seconds(tick))).collect();
    let help = "The time of the newest fact of a partition that this process has seen.";
    text.family("tidegate_partition_newest_timestamp_seconds", "gauge", help, &times);
    let complete = service.live.complete();
    let behind = |tick: Tick| if tick < complete { 0.0 } else { seconds(tick) - seconds(complete) };
    let lags: Vec<_> = newest().map(|(labels, tick)| (labels, behind(tick).max(0.0))).collect();
    let help = "How far the tables are behind the newest fact of a partition, in tick time.";
    text.family("tidegate_partition_lag_seconds", "gauge", help, &lags);
}

/// Each node: its rate, its errors, its latency, how late and how full it is.
fn stages(text: &mut Text, service: &Service) {
    let nodes = nodes(service);
    let of = |number: fn(&super::status::NodeBody) -> Option<f64>| -> Vec<(Labels<'_>, f64)> {
        nodes
            .iter()
            .filter_map(|node| Some((vec![("node", node.name.as_str()), ("kind", node.kind)], number(node)?)))
            .collect()
    };
    let rows = of(|node| Some(node.rows as f64));
    text.family("tidegate_rows_total", "counter", "Rows that passed a node since the start.", &rows);
    let busy = of(|node| Some(node.busy_us as f64 / 1e6));
    text.family(
        "tidegate_busy_seconds_total",
        "counter",
        "How long a node was busy, over all workers.",
        &busy,
    );
    let errors = of(|node| Some(node.errors as f64));
    let help = "What failed at a node: rows whose expressions did, or readings of a source.";
    text.family("tidegate_errors_total", "counter", help, &errors);
    let lags = of(|node| node.lag_us.map(|lag| lag as f64 / 1e6));
    let help = "How far a node is behind what was fed to the graph, in tick time.";
    text.family("tidegate_node_lag_seconds", "gauge", help, &lags);
    let state = |number: fn(&super::status::StateBody) -> Option<u64>| -> Vec<(Labels<'_>, f64)> {
        nodes
            .iter()
            .filter_map(|node| {
                let held = number(node.state.as_ref()?)? as f64;
                Some((vec![("node", node.name.as_str()), ("kind", node.kind)], held))
            })
            .collect()
    };
    let help = "Rows that a node holds: in timelines, or because no commit has them.";
    text.family("tidegate_state_rows", "gauge", help, &state(|state| Some(state.rows)));
    let help = "Keys in the batches of a node's timelines.";
    text.family("tidegate_state_keys", "gauge", help, &state(|state| state.keys));
    let help = "Batches of a node's timelines.";
    text.family("tidegate_state_batches", "gauge", help, &state(|state| state.batches));
    let help = "Bytes of a node's timelines, without texts.";
    text.family("tidegate_state_bytes", "gauge", help, &state(|state| state.bytes));

    let report = service.watch.report();
    let latency: Vec<_> =
        report.iter().map(|stage| (vec![("stage", stage.name.as_str())], stage.latency.clone())).collect();
    let help = "How long a piece of a stage's work took; for a node of the graph, from when a group was fed until it had \
                passed the node.";
    text.times("tidegate_stage_seconds", help, &latency);
    let windows = |stage: &&StageReport| nodes.iter().any(|n| n.name == stage.name && n.kind == "windows");
    let late: Vec<_> = report
        .iter()
        .filter(windows)
        .map(|stage| (vec![("node", stage.name.as_str())], stage.late as f64))
        .collect();
    let help = "Rows whose features are missing, because the event came beyond retention.";
    text.family("tidegate_features_missing_total", "counter", help, &late);
    let stale: Vec<_> = nodes
        .iter()
        .filter(|node| node.kind == "windows")
        .filter_map(|node| Some((vec![("node", node.name.as_str())], node.lag_us? as f64 / 1e6)))
        .collect();
    let help = "How far the newest features are behind the log, in tick time.";
    text.family("tidegate_features_staleness_seconds", "gauge", help, &stale);
    let decides = |stage: &&StageReport| nodes.iter().any(|n| n.name == stage.name && n.kind == "decide");
    let decisions: Vec<_> = report
        .iter()
        .filter(decides)
        .flat_map(|stage| {
            let node = stage.name.as_str();
            stage
                .actions
                .iter()
                .map(move |(action, count)| (vec![("node", node), ("action", action.name())], *count as f64))
        })
        .collect();
    text.family("tidegate_decisions_total", "counter", "Decisions by action.", &decisions);

    let (rows, boundaries) = service.watch.under_way();
    let help = "Rows under way in the graph, the most of any worker.";
    text.gauge("tidegate_rows_in_flight", help, rows as f64);
    let help = "Commit boundaries that wait for their commits, the most of any worker.";
    text.gauge("tidegate_boundaries_in_flight", help, boundaries as f64);
}

/// The gate and its log.
fn gate(text: &mut Text, service: &Service) {
    let (counts, times, live) = (service.live.counts(), &service.watch.times, &service.live);
    let mut receipts = vec![
        (vec![("verdict", "admitted"), ("reason", "")], counts.admitted as f64),
        (vec![("verdict", "duplicate"), ("reason", "")], counts.duplicate as f64),
    ];
    receipts.extend(
        counts.quarantined.iter().map(|(reason, count)| {
            (vec![("verdict", "quarantined"), ("reason", reason.code())], *count as f64)
        }),
    );
    let help = "Records by what the gate said of them, since the start.";
    text.family("tidegate_receipts_total", "counter", help, &receipts);
    text.gauge(
        "tidegate_queued_bytes",
        "Bytes of records that wait for the log.",
        live.queued_bytes() as f64,
    );
    let limits = live.limits();
    let help = "Bytes of records that may wait for the log.";
    text.gauge("tidegate_queue_bytes_max", help, limits.queue_bytes_max as f64);
    let (submissions, callers) = live.waiting();
    text.gauge("tidegate_queued_submissions", "Submissions that wait for the log.", submissions as f64);
    text.gauge(
        "tidegate_decisions_waiting",
        "Callers that wait for a decision on a durable fact.",
        callers as f64,
    );
    let help = "Callers that may wait for the log or a decision.";
    text.gauge("tidegate_decisions_waiting_max", help, limits.decisions_waiting_max as f64);
    let help = "How long appending a group to the log takes, until it is durable.";
    text.time("tidegate_append_seconds", help, times.append.seen());
    let help = "How long, of appending a group, the sync takes.";
    text.time("tidegate_fsync_seconds", help, times.sync.seen());
    let help = "How many records are made durable together.";
    text.histograms("tidegate_group_records", help, 1.0, &[(Vec::new(), times.group_records.seen())]);
}

/// What is committed.
fn commits(text: &mut Text, service: &Service) {
    let (commits, times) = (service.live.commits(), &service.watch.times);
    text.counter("tidegate_commits_total", "Commits there are.", commits.list.len() as f64);
    let help = "Before this time everything is committed.";
    text.gauge("tidegate_committed_timestamp_seconds", help, seconds(commits.upper()));
    let help = "How long cutting, chaining and writing a table's rows of an interval takes, on one worker.";
    text.time("tidegate_table_write_seconds", help, times.write.seen());
    let help = "How long publishing a commit takes, once its files are there.";
    text.time("tidegate_commit_seconds", help, times.commit.seen());
    text.time("tidegate_checkpoint_seconds", "How long writing a checkpoint takes.", times.checkpoint.seen());
    let uncommitted = service.live.uncommitted();
    let rows: Vec<_> =
        uncommitted.iter().map(|(t, rows)| (vec![("table", t.as_str())], *rows as f64)).collect();
    text.family("tidegate_uncommitted_rows", "gauge", "Rows of a table that no commit has.", &rows);
}

/// Calls, statements and decisions.
fn ports(text: &mut Text, service: &Service) {
    let telemetry = &service.telemetry;
    let calls = telemetry.calls();
    let mut requests = Vec::new();
    let statuses: Vec<Vec<(String, u64)>> = calls
        .iter()
        .map(|call| call.by_status.iter().map(|(status, count)| (status.to_string(), *count)).collect())
        .collect();
    for (call, statuses) in calls.iter().zip(&statuses) {
        for (status, count) in statuses {
            let labels =
                vec![("route", call.route.as_str()), ("method", call.method), ("status", status.as_str())];
            requests.push((labels, *count as f64));
        }
    }
    let help = "Calls over HTTP by their answers; 499 when the caller did not wait.";
    text.family("tidegate_http_requests_total", "counter", help, &requests);
    let latency: Vec<_> = calls
        .iter()
        .map(|call| (vec![("route", call.route.as_str()), ("method", call.method)], call.latency.clone()))
        .collect();
    text.times("tidegate_http_request_seconds", "How long calls over HTTP take.", &latency);

    let decisions = &telemetry.decisions;
    let help = "From having a record to its decision.";
    text.time("tidegate_decision_seconds", help, decisions.whole.seen());
    let parts = [("queue", &decisions.queue), ("log", &decisions.log), ("graph", &decisions.graph)];
    let parts: Vec<_> = parts.map(|(part, times)| (vec![("part", part)], times.seen())).into();
    let help = "What a decision waits for: its turn, the log, the graph.";
    text.times("tidegate_decision_part_seconds", help, &parts);
    let help = "Calls whose time was over before their decision was there.";
    text.counter("tidegate_decisions_late_total", help, decisions.late.load(Ordering::Relaxed) as f64);

    let ports = || Port::ALL.into_iter().map(|port| (port, telemetry.statements(port)));
    let ends: Vec<_> = ports()
        .flat_map(|(port, statements)| {
            End::ALL.map(|end| {
                let count = statements.by_end[end as usize].load(Ordering::Relaxed);
                (vec![("port", port.name()), ("end", end.name())], count as f64)
            })
        })
        .collect();
    text.family("tidegate_sql_statements_total", "counter", "SQL statements by how they ended.", &ends);
    let running: Vec<_> =
        ports().map(|(port, s)| (vec![("port", port.name())], s.running.now() as f64)).collect();
    text.family("tidegate_sql_running", "gauge", "SQL statements that are being answered.", &running);
    let latency: Vec<_> = ports().map(|(port, s)| (vec![("port", port.name())], s.latency.seen())).collect();
    text.times("tidegate_sql_seconds", "How long SQL statements take, to their last row.", &latency);
    let connections: Vec<_> = Port::ALL
        .map(|port| (vec![("port", port.name())], telemetry.connections[port as usize].now() as f64))
        .into();
    text.family("tidegate_connections", "gauge", "Open connections.", &connections);
    text.gauge("tidegate_tails", "Callers that follow a table.", telemetry.tails.now() as f64);
}

/// What became of traces, if they are followed.
fn traces(text: &mut Text, service: &Service) {
    let counts = service.telemetry.traces().map(|traces| traces.counts());
    let enabled = f64::from(u8::from(counts.is_some()));
    text.gauge("tidegate_traces_enabled", "1 when traces are sent to a collector.", enabled);
    let (sent, dropped) = counts.map_or((0, 0), |counts| (counts.sent, counts.dropped));
    let spans = [(vec![("fate", "sent")], sent as f64), (vec![("fate", "dropped")], dropped as f64)];
    text.family("tidegate_trace_spans_total", "counter", "Spans by whether a collector took them.", &spans);
    let (unsealed, forgotten) = counts.map_or((0, 0), |counts| (counts.unsealed, counts.forgotten));
    text.gauge("tidegate_trace_unsealed", "Followed facts that wait for their commit.", unsealed as f64);
    let help = "Followed facts whose commit is not told, because too many waited.";
    text.counter("tidegate_trace_forgotten_total", help, forgotten as f64);
}

/// What the system says of the process, where it says it in `/proc`.
fn process(text: &mut Text) {
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
