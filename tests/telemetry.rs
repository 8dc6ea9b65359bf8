//! The telemetry of a running topology: metrics, traces, logs and the state of each node; and what
//! must never be in it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tidegate_facts::Digest;

use crate::harness;

const TIMEOUT: Duration = Duration::from_secs(30);

/// A running service whose log is JSON, killed at the end of its test.
struct Running {
    child: Child,
    http: SocketAddr,
    key: Option<String>,
    log: Receiver<String>,
    lines: Vec<String>,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Running {
    fn start(data: &Path, more: &[&str], variables: &[(&str, String)], key: Option<&str>) -> Running {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command.arg("run").arg(harness::file("tests/topologies/live.toml")).arg("--data").arg(data);
        command
            .args(["--http", "127.0.0.1:0", "--postgres", "127.0.0.1:0", "--log-format", "json"])
            .args(more);
        command.env_remove("RUST_LOG").envs(variables.iter().map(|(name, value)| (name, value)));
        let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let reader = BufReader::new(child.stderr.take().unwrap());
        let (sender, log) = channel();
        std::thread::spawn(move || {
            reader.lines().map_while(Result::ok).all(|line| sender.send(line).is_ok())
        });
        let nowhere = ([127, 0, 0, 1], 0).into();
        let mut running =
            Running { child, http: nowhere, key: key.map(str::to_owned), log, lines: Vec::new() };
        let started = running.event("started");
        running.http = started["http"].as_str().unwrap().parse().unwrap();
        running.event("serving");
        let until = Instant::now() + TIMEOUT;
        while running.request("GET", "/readyz", "", &[]).0 != 200 {
            assert!(Instant::now() < until, "the service does not become ready");
            std::thread::yield_now();
        }
        running
    }

    /// Reads the log up to the next line with this message.
    fn event(&mut self, message: &str) -> Value {
        loop {
            let line = self.log.recv_timeout(TIMEOUT);
            let line = line.unwrap_or_else(|_| panic!("no `{message}` in {:#?}", self.lines));
            self.lines.push(line.clone());
            let logged: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("no JSON: {line}"));
            if logged["message"] == message {
                return logged;
            }
        }
    }

    fn request(&self, method: &str, path: &str, body: &str, headers: &[(&str, &str)]) -> (u16, String) {
        let mut stream = TcpStream::connect(self.http).unwrap();
        let key = self.key.as_ref().map(|key| format!("authorization: Bearer {key}\r\n")).unwrap_or_default();
        let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let head = format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{key}{headers}");
        let _ = write!(stream, "{head}content-length: {}\r\n\r\n{body}", body.len());
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        (status, body.to_owned())
    }

    fn decide(&self, record: &str, headers: &[(&str, &str)]) -> Value {
        let (status, body) = self.request("POST", "/v1/decide?timeout_ms=20000", record, headers);
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    fn sql(&self, sql: &str) -> (u16, String) {
        self.request("POST", "/v1/sql", &json!({ "sql": sql }).to_string(), &[])
    }

    fn metrics(&self) -> String {
        let (status, text) = self.request("GET", "/metrics", "", &[]);
        assert_eq!(status, 200, "{text}");
        text
    }

    fn status(&self) -> Value {
        serde_json::from_str(&self.request("GET", "/v1/status", "", &[]).1).unwrap()
    }

    /// Sends SIGTERM to the process, waits until it ends, and returns all that it logged.
    fn stop(mut self) -> Vec<String> {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        self.event("stopping");
        self.event("stopped");
        assert!(self.child.wait().unwrap().success(), "a service must end with success after SIGTERM");
        while let Ok(line) = self.log.recv() {
            self.lines.push(line);
        }
        std::mem::take(&mut self.lines)
    }
}

/// A payment, with the fields of `more` in its envelope.
fn payment(id: u64, amount: &str, more: Value) -> String {
    let time = tidegate_facts::time::to_rfc3339(1_767_225_600_000_000 + id as i64 * 1_000_000);
    let mut record = json!({
        "event_id": format!("p-{id}"), "event_type": "payment.v1", "ts_utc": time,
        "manifest_fingerprint": "a".repeat(64), "parameter_hash": "b".repeat(64), "seed": 7, "scenario_id": "s",
        "run_id": "c".repeat(32), "scenario_run_id": "d".repeat(32), "platform_run_id": "platform_20260101T000000Z",
        "payload": {"transaction_id": id, "customer_id": id % 7, "terminal_id": 3, "amount": amount},
    });
    for (name, value) in more.as_object().unwrap() {
        record[name] = value.clone();
    }
    record.to_string()
}

/// One request that a collector received: its head and its body.
type Export = (String, Value);

/// A collector that refuses the first request as busy, and accepts all later ones.
fn collector() -> (SocketAddr, Receiver<Export>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, exports) = channel();
    std::thread::spawn(move || {
        let mut busy = true;
        for stream in listener.incoming().map_while(Result::ok) {
            let mut reader = BufReader::new(stream);
            loop {
                let mut head = String::new();
                while !head.ends_with("\r\n\r\n") {
                    if reader.read_line(&mut head).unwrap_or(0) == 0 {
                        break;
                    }
                }
                let length = head.to_ascii_lowercase();
                let length = length
                    .split("content-length: ")
                    .nth(1)
                    .and_then(|rest| rest.lines().next()?.parse().ok());
                let Some(length) = length else { break };
                let mut body = vec![0; length];
                reader.read_exact(&mut body).unwrap();
                let status = if std::mem::take(&mut busy) { "503 Service Unavailable" } else { "200 OK" };
                if status.starts_with("200") {
                    sender.send((head, serde_json::from_slice(&body).unwrap())).unwrap();
                }
                let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 2\r\n\r\n{{}}");
                reader.get_mut().write_all(answer.as_bytes()).unwrap();
            }
        }
    });
    (address, exports)
}

/// A span, with its attributes by name.
#[derive(Clone, Debug)]
struct Span {
    trace: String,
    id: String,
    parent: String,
    name: String,
    times: (u64, u64),
    attributes: BTreeMap<String, String>,
    links: Value,
}

fn spans(exports: &[Export]) -> Vec<Span> {
    let bodies = exports
        .iter()
        .flat_map(|(_, body)| body["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap());
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    bodies
        .map(|span| Span {
            trace: text(&span["traceId"]),
            id: text(&span["spanId"]),
            parent: text(&span["parentSpanId"]),
            name: text(&span["name"]),
            times: (
                text(&span["startTimeUnixNano"]).parse().unwrap(),
                text(&span["endTimeUnixNano"]).parse().unwrap(),
            ),
            attributes: span["attributes"]
                .as_array()
                .unwrap()
                .iter()
                .map(|attribute| {
                    let value = attribute["value"].as_object().unwrap().values().next().unwrap();
                    (text(&attribute["key"]), value.as_str().map_or_else(|| value.to_string(), str::to_owned))
                })
                .collect(),
            links: span["links"].clone(),
        })
        .collect()
}

/// The names of a trace's spans, each below its parent and in the order of their start.
fn tree(spans: &[Span], parent: &str, depth: usize, lines: &mut Vec<String>) {
    let mut children: Vec<&Span> = spans.iter().filter(|span| span.parent == parent).collect();
    children.sort_by_key(|span| (span.times, span.name.clone()));
    for span in children {
        lines.push(format!("{}{}", "  ".repeat(depth), span.name));
        tree(spans, &span.id, depth + 1, lines);
    }
}

#[test]
fn a_decision_is_one_tree_of_spans_from_its_producer_to_its_seal() {
    let scratch = tempfile::tempdir().unwrap();
    let data = scratch.path().join("data");
    let (address, exports) = collector();
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{address}")),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=blue%20team".to_owned()),
        ("OTEL_SERVICE_NAME", "payments".to_owned()),
    ];
    let running = Running::start(&data, &["--set", "commit_rows=2"], &variables, None);
    // Traced by a header, by fields of the record, by neither; and one whose caller does not sample
    // it.
    let (caller, producer) = ("4bf92f3577b34da6a3ce929d0e0e4736", "0af7651916cd43dd8448eb211c80319c");
    let header = format!("00-{caller}-00f067aa0ba902b7-01");
    let decided = running.decide(&payment(1, "12.50", json!({})), &[("traceparent", &header)]);
    let own = json!({"trace_id": producer, "span_id": "b7ad6b7169203331", "producer": "till-7"});
    running.decide(&payment(2, "12.50", own), &[]);
    running.decide(&payment(3, "12.50", json!({})), &[]);
    let unsampled = format!("00-{}-00f067aa0ba902b7-00", "1".repeat(32));
    running.decide(&payment(4, "12.50", json!({})), &[("traceparent", &unsampled)]);
    // Several records in one call: one that names a trace gets a span in it.
    let lines =
        [payment(5, "1.00", json!({"trace_id": "order 5"})), payment(6, "1.00", json!({}))].join("\n");
    let (status, body) =
        running.request("POST", "/v1/facts", &lines, &[("content-type", "application/x-ndjson")]);
    assert_eq!(status, 200, "{body}");
    // A quarantined record is traced, but never sealed.
    let quarantined = running.request("POST", "/v1/decide", &payment(7, "much", json!({})), &[]);
    assert_eq!(quarantined.0, 422, "{}", quarantined.1);
    running.stop();

    let exports: Vec<Export> = exports.try_iter().collect();
    assert!(exports.iter().all(|(head, _)| head.starts_with("POST /v1/traces HTTP/1.1")), "{exports:?}");
    assert!(exports[0].0.contains("x-tenant: blue team"), "{}", exports[0].0);
    let resource = exports[0].1["resourceSpans"][0]["resource"]["attributes"].to_string();
    assert!(resource.contains("payments") && resource.contains("\"live\""), "{resource}");
    let spans = spans(&exports);
    let of =
        |trace: &str| -> Vec<Span> { spans.iter().filter(|span| span.trace == trace).cloned().collect() };
    let tree_of = |trace: &str, parent: &str| {
        let mut lines = Vec::new();
        tree(&of(trace), parent, 0, &mut lines);
        lines
    };
    let whole =
        ["POST /v1/decide", "  queue", "  log", "    append", "      fsync", "  graph", "  reply", "  seal"];
    let sorted = |lines: Vec<String>| lines.into_iter().collect::<BTreeSet<_>>();
    let whole = sorted(whole.map(str::to_owned).to_vec());
    assert_eq!(sorted(tree_of(caller, "00f067aa0ba902b7")), whole, "{:#?}", of(caller));
    assert_eq!(sorted(tree_of(producer, "b7ad6b7169203331")), whole, "{:#?}", of(producer));
    assert_eq!((of(caller).len(), of(producer).len()), (8, 8), "each span occurs once");
    assert!(of(&"1".repeat(32)).is_empty(), "its caller does not sample it");

    let span = |trace: &str, name: &str| of(trace).into_iter().find(|span| span.name == name).unwrap();
    for trace in [caller, producer] {
        let root = span(trace, "POST /v1/decide");
        for part in ["queue", "log", "append", "fsync", "graph", "reply"] {
            let part = span(trace, part);
            assert!(part.times.0 <= part.times.1, "{part:?}");
            assert!(root.times.0 <= part.times.0 && part.times.1 <= root.times.1, "{part:?} in {root:?}");
        }
        assert_eq!(
            span(trace, "queue").times.1,
            span(trace, "log").times.0,
            "the parts of a call leave no gap"
        );
        assert_eq!(span(trace, "log").times.1, span(trace, "graph").times.0);
        assert_eq!(span(trace, "graph").times.1, span(trace, "reply").times.0);
        assert!(span(trace, "graph").times.1 <= span(trace, "seal").times.1);
    }
    let (root, graph, seal) = (
        span(caller, "POST /v1/decide").attributes,
        span(caller, "graph").attributes,
        span(caller, "seal").attributes,
    );
    let receipt = &decided["receipt"];
    assert_eq!(root["tidegate.event_id"], "p-1");
    assert_eq!(root["tidegate.run_id"], "c".repeat(32));
    assert_eq!(root["tidegate.platform_run_id"], "platform_20260101T000000Z");
    assert_eq!(root["tidegate.tick"], receipt["tick"].as_str().unwrap());
    assert_eq!(root["tidegate.offset"], receipt["offset"].as_str().unwrap());
    assert_eq!(root["tidegate.partition"], receipt["partition"].to_string());
    assert_eq!(root["http.response.status_code"], "200");
    assert_eq!(span(producer, "POST /v1/decide").attributes["tidegate.producer"], "till-7");
    let decision = &decided["decisions"][0];
    for key in ["decision_id", "action", "policy_revision", "snapshot_digest"] {
        assert_eq!(graph[&format!("tidegate.{key}")], decision[key].as_str().unwrap(), "{key}");
    }
    assert_eq!(seal["tidegate.decision_id"], decision["decision_id"].as_str().unwrap());
    assert_eq!(seal["tidegate.seal.table"], "decisions");
    let number: u64 = seal["tidegate.commit.number"].parse().unwrap();
    let commit = std::fs::read(data.join(format!("store/commits/{number:020}.json"))).unwrap();
    assert_eq!(
        seal["tidegate.commit.manifest"],
        Digest::of(&commit).to_hex(),
        "the manifest that was published"
    );
    let file = &seal["tidegate.seal.file"];
    let commit: Value = serde_json::from_slice(&commit).unwrap();
    let files = commit["files"].as_array().unwrap();
    let entry = files.iter().find(|entry| entry["name"] == **file).unwrap();
    assert_eq!(entry["seal"]["chain"]["head"], seal["tidegate.seal.head"]);

    let call = spans.iter().find(|span| span.name == "POST /v1/facts").unwrap();
    assert_eq!((call.attributes["tidegate.records"].as_str(), call.parent.as_str()), ("2", ""));
    let admit = spans.iter().find(|span| span.name == "admit").unwrap();
    assert_eq!(admit.attributes["tidegate.event_id"], "p-5");
    assert_eq!(admit.attributes["tidegate.record.trace_id"], "order 5");
    assert_eq!(admit.links[0]["spanId"], *call.id, "{admit:?}");
    assert_eq!(tree_of(&admit.trace, &admit.id), ["commit"], "a fact without a decision has spans, too");
    let refused =
        spans.iter().find(|span| span.attributes.get("tidegate.verdict").is_some_and(|v| v == "QUARANTINE"));
    let refused = refused.unwrap();
    assert_eq!(refused.attributes["tidegate.reason"], "SCHEMA_FAIL");
    assert!(!of(&refused.trace).iter().any(|span| ["seal", "commit", "graph"].contains(&span.name.as_str())));
}

#[test]
fn no_payload_and_no_key_appears_in_logs_metrics_or_traces() {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("keys.toml");
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.args(["keys", "api", "--id", "all", "--file"]).arg(&file);
    command.args(["--role", "producer", "--role", "reader", "--role", "operator"]);
    let key = String::from_utf8(command.output().unwrap().stdout).unwrap().trim().to_owned();
    assert!(key.starts_with("tg_"), "{key}");
    let (address, exports) = collector();
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{address}")),
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=marker-collector-key".to_owned()),
    ];
    let data = scratch.path().join("data");
    let running = Running::start(&data, &["--api-keys", file.to_str().unwrap()], &variables, Some(&key));
    running.decide(&payment(1, "8675309.25", json!({})), &[]);
    let quarantined = [
        payment(2, "marker-payload", json!({})),
        payment(3, "1.00", json!({"payload": {"marker-field": "marker-value"}})),
        payment(4, "1.00", json!({"marker-envelope": 1})),
        "marker-no-json".to_owned(),
    ];
    for record in &quarantined {
        let (status, body) = running.request("POST", "/v1/decide", record, &[]);
        assert_eq!(status, 422, "{body}");
    }
    let (status, _) = running.request(
        "POST",
        "/v1/facts",
        &quarantined.join("\n"),
        &[("content-type", "application/x-ndjson")],
    );
    assert_eq!(status, 200);
    for sql in
        ["SELECT 'marker-sql'", "SELECT * FROM \"marker-table\"", "SELECT marker_column(1)", "marker-syntax"]
    {
        running.sql(sql);
    }
    let stranger = TcpStream::connect(running.http).unwrap();
    let request = "GET /v1/status?marker-query HTTP/1.1\r\nhost: x\r\nauthorization: Bearer marker-key\r\nconnection: close\r\n\r\n";
    (&stranger).write_all(request.as_bytes()).unwrap();
    let mut refused = String::new();
    (&stranger).read_to_string(&mut refused).unwrap();
    assert!(refused.starts_with("HTTP/1.1 401"), "{refused}");
    running.request("GET", "/marker-path", "", &[]);
    let metrics = running.metrics();
    let log = running.stop();

    let exports: Vec<Export> = exports.try_iter().collect();
    let traces: String = exports.iter().map(|(_, body)| body.to_string()).collect();
    assert!(traces.contains("p-1") && traces.contains("SCHEMA_FAIL"), "{traces}");
    let log_text = log.join("\n");
    for (what, text) in [("log", &log_text), ("metrics", &metrics), ("traces", &traces)] {
        for secret in ["marker", "8675309", &key, &Digest::of(key.as_bytes()).to_hex()] {
            assert!(!text.contains(secret), "`{secret}` is in the {what}: {text}");
        }
    }
    let messages: Vec<Value> = log.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let event = |message: &str| messages.iter().find(|line| line["message"] == message).unwrap();
    assert_eq!((&event("started")["topology"], &event("started")["traces"]), (&json!("live"), &json!(true)));
    let refused = event("request refused");
    assert_eq!((&refused["status"], &refused["route"]), (&json!(401), &json!("/v1/status")), "{refused}");
    let commit = event("commit published");
    assert_eq!((&commit["commit"], &commit["plan"]), (&json!(0), &event("started")["plan"]), "{commit}");
    assert_eq!(event("stopped")["facts"], 1);
}

#[test]
fn each_node_reports_its_lag_and_its_state() {
    let scratch = tempfile::tempdir().unwrap();
    let running =
        Running::start(&scratch.path().join("data"), &["-w", "2", "--set", "commit_rows=300"], &[], None);
    let kind = [("content-type", "application/x-ndjson")];
    for ids in [0..300, 300..500] {
        let lines: Vec<String> = ids.map(|id| payment(id, "3.00", json!({}))).collect();
        assert_eq!(running.request("POST", "/v1/facts", &lines.join("\n"), &kind).0, 200);
    }
    let node = |status: &Value, name: &str| -> Value {
        status["nodes"].as_array().unwrap().iter().find(|node| node["name"] == name).unwrap().clone()
    };
    let until = Instant::now() + TIMEOUT;
    let status = loop {
        let status = running.status();
        let (table, features) = (node(&status, "decisions_table"), node(&status, "features"));
        if status["committed"]["number"] == 0
            && table["lag_us"] == 0
            && features["lag_us"] == 0
            && table["rows"] == 500
        {
            break status;
        }
        assert!(Instant::now() < until, "{status:#}");
    };
    let features = node(&status, "features");
    assert!(features["state"]["rows"].as_u64().unwrap() >= 500, "{features}");
    assert!(features["state"]["keys"].as_u64().unwrap() >= 7, "{features}");
    assert!(features["state"]["bytes"].as_u64().unwrap() > 500 * 16, "{features}");
    // Batches are released as a whole, so some committed rows may remain.
    let retained = node(&status, "decisions_table")["state"]["rows"].as_u64().unwrap();
    assert!((200..=500).contains(&retained), "300 of 500 rows are committed, {retained} are retained");
    assert_eq!(node(&status, "http")["lag_us"], Value::Null, "a source has no lag");
    let metrics = running.metrics();
    for line in [
        "tidegate_partition_facts_total{partition=\"0\"}",
        "tidegate_node_lag_seconds{node=\"features\",kind=\"windows\"} 0",
        "tidegate_partition_lag_seconds{partition=\"1\"} 0",
        "tidegate_decisions_total{node=\"decisions\",action=\"ALLOW\"}",
        "tidegate_receipts_total{verdict=\"admitted\",reason=\"\"} 500",
        "tidegate_group_records_sum 500",
    ] {
        assert!(metrics.contains(line), "no `{line}` in {metrics}");
    }
}

/// The names of metrics in a text.
fn metric_names(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words
        .filter(|word| word.starts_with("tidegate_") || word.starts_with("process_"))
        .map(str::to_owned)
        .collect()
}

/// Adds all expressions of a dashboard to `found`.
fn expressions(part: &Value, found: &mut String) {
    match part {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value.as_str() {
                    Some(text) if name == "expr" || name == "query" => found.push_str(&format!("{text}\n")),
                    _ => expressions(value, found),
                }
            }
        }
        Value::Array(parts) => parts.iter().for_each(|part| expressions(part, found)),
        _ => {}
    }
}

/// The metrics in the table of a document: the quoted names in its second column, where `a_{b,c}`
/// means `a_b` and `a_c`.
fn documented(text: &str) -> BTreeSet<String> {
    let table = text.split("| about | metrics").nth(1).expect("there is a table of metrics");
    let rows = table.lines().skip(1).take_while(|line| line.starts_with('|'));
    let cells = rows.filter_map(|row| row.split('|').nth(2));
    let quoted = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2));
    let names = quoted.flat_map(|name| match name.split_once('{') {
        None => vec![name.to_owned()],
        Some((before, rest)) => {
            let (inner, behind) = rest.split_once('}').expect("a brace is closed");
            inner.split(',').map(|part| format!("{before}{part}{behind}")).collect()
        }
    });
    names.map(|name| format!("tidegate_{name}")).collect()
}

#[test]
fn every_metric_named_by_an_alert_or_a_panel_is_served() {
    let scratch = tempfile::tempdir().unwrap();
    let running = Running::start(&scratch.path().join("data"), &[], &[], None);
    running.decide(&payment(1, "3.00", json!({})), &[]);
    running.request("POST", "/v1/decide", &payment(2, "much", json!({})), &[]);
    assert_eq!(running.sql("SELECT count(*) FROM decisions").0, 200);
    assert_eq!(running.sql("SELECT nothing").0, 400);
    let metrics = running.metrics();
    let samples: BTreeSet<String> = metrics
        .lines()
        .filter(|line| !line.starts_with('#'))
        .flat_map(|line| metric_names(line).into_iter().next())
        .collect();
    let mut panels = String::new();
    let dashboard = std::fs::read_to_string(harness::file("deploy/grafana/tidegate.json")).unwrap();
    expressions(&serde_json::from_str(&dashboard).unwrap(), &mut panels);
    let rules = std::fs::read_to_string(harness::file("deploy/prometheus/rules.yml")).unwrap();
    // The text of an alert may name a histogram as a whole.
    let families =
        metric_names(&metrics.lines().filter(|line| line.starts_with("# TYPE")).collect::<String>());
    let documented =
        documented(&std::fs::read_to_string(harness::file("docs/guides/serve-a-topology.md")).unwrap());
    let served: BTreeSet<String> =
        families.iter().filter(|name| name.starts_with("tidegate_")).cloned().collect();
    let undocumented: Vec<&String> = served.difference(&documented).collect();
    assert!(undocumented.is_empty(), "docs/guides/serve-a-topology.md does not document {undocumented:?}");
    // Without a collector there are no spans to count.
    let unserved = documented.difference(&served).filter(|name| !name.starts_with("tidegate_trace_"));
    let unserved: Vec<&String> = unserved.collect();
    assert!(
        unserved.is_empty(),
        "docs/guides/serve-a-topology.md documents {unserved:?}, which are not served"
    );
    let is_prose = |line: &&str| line.contains("description:") || line.contains("summary:");
    let (prose, rules): (Vec<&str>, Vec<&str>) = rules.lines().partition(is_prose);
    let missing: Vec<String> = metric_names(&prose.join("\n")).difference(&families).cloned().collect();
    assert!(missing.is_empty(), "the rules mention metrics that are not served: {missing:?}");
    let rules = rules.join("\n");
    let tests = std::fs::read_to_string(harness::file("deploy/prometheus/tests.yml")).unwrap();
    for (file, text, least) in
        [("dashboard", &panels, 40), ("rules", &rules, 15), ("tests of the rules", &tests, 15)]
    {
        let names = metric_names(text);
        assert!(names.len() >= least, "{file}: {names:?}");
        let missing: Vec<&String> = names.difference(&samples).collect();
        assert!(missing.is_empty(), "the {file} name metrics that are not served: {missing:?}");
    }
    let lines = [
        "tidegate_sql_statements_total{port=\"http\",outcome=\"answered\"} 1",
        "tidegate_sql_statements_total{port=\"http\",outcome=\"failed\"} 1",
        "tidegate_http_requests_total{route=\"/v1/decide\",method=\"POST\",status=\"422\"} 1",
        "tidegate_decision_seconds_count 1",
        "tidegate_decision_part_seconds_count{part=\"log\"} 1",
        "tidegate_traces_enabled 0",
    ];
    for line in lines {
        assert!(metrics.contains(line), "no `{line}` in {metrics}");
    }
    let checked = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut promtool) = checked else {
        eprintln!("promtool is not installed: the form of the metrics is not checked");
        return;
    };
    promtool.stdin.take().unwrap().write_all(metrics.as_bytes()).unwrap();
    let checked = promtool.wait_with_output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}
