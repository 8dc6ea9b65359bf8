//! A topology that stays up: facts arrive over HTTP, decisions go out, tables are queried while
//! rows arrive, and a stop loses nothing.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness;

mod clients;
mod decisions;
mod hostile;

/// A running service, killed at the end of its test.
pub(crate) struct Service {
    child: Child,
    http: SocketAddr,
    pub(crate) postgres: SocketAddr,
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Response {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no JSON: {} {}", self.status, self.body))
    }
}

impl Service {
    pub(crate) fn start(data: &Path, more: &[&str]) -> Service {
        Service::run(&harness::file("tests/topologies/live.toml"), data, more)
    }

    /// With a file of keys.
    fn keyed(data: &Path, keys: &Path) -> Service {
        Service::start(data, &["--api-keys", keys.to_str().unwrap()])
    }

    pub(crate) fn run(topology: &Path, data: &Path, more: &[&str]) -> Service {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command.arg("run").arg(topology).arg("--data").arg(data);
        command.args(["--http", "127.0.0.1:0", "--postgres", "127.0.0.1:0"]).args(more);
        let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut address = |what: &str| -> SocketAddr {
            let line = lines.next().expect("the service prints its addresses").unwrap();
            line.strip_prefix(what).unwrap_or_else(|| panic!("{line}")).parse().unwrap()
        };
        let (http, postgres) = (address("http on "), address("postgres on "));
        // Later output must not fill the pipe.
        std::thread::spawn(move || lines.for_each(drop));
        let service = Service { child, http, postgres };
        service.until_ready();
        service
    }

    pub fn until_ready(&self) {
        let until = Instant::now() + Duration::from_secs(30);
        while self.get("/readyz").status != 200 {
            assert!(Instant::now() < until, "the service does not become ready");
            std::thread::yield_now();
        }
    }

    pub fn request(&self, request: &str, body: &[u8]) -> Response {
        let mut stream = TcpStream::connect(self.http).unwrap();
        let request =
            format!("{request}\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
        stream.write_all(request.as_bytes()).unwrap();
        let _ = stream.write_all(body); // The service may refuse a request before it has read all of it.
        read_response(stream)
    }

    pub(crate) fn get(&self, path: &str) -> Response {
        self.request(&format!("GET {path} HTTP/1.1"), b"")
    }

    pub(crate) fn post(&self, path: &str, kind: &str, body: &str) -> Response {
        self.request(&format!("POST {path} HTTP/1.1\r\ncontent-type: {kind}"), body.as_bytes())
    }

    pub(crate) fn sql(&self, sql: &str) -> Value {
        let response = self.post("/v1/sql", "application/json", &json!({ "sql": sql }).to_string());
        assert_eq!(response.status, 200, "{sql}: {}", response.body);
        response.json()
    }

    /// Sends 1,500 payments, and waits until all are decided.
    fn decide_payments(&self) {
        let lines: Vec<String> = (0..1500).map(|i| payment(&format!("p-{i}"), i, i % 7, "3.00")).collect();
        assert_eq!(self.post("/v1/facts", "application/x-ndjson", &lines.join("\n")).status, 200);
        let until = Instant::now() + Duration::from_secs(20);
        while self.sql("SELECT count(*) FROM decisions")["rows"][0][0] != "1500" {
            assert!(Instant::now() < until);
        }
    }

    /// Sends SIGTERM to the process, and waits until it ends.
    pub(crate) fn stop(mut self) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        assert!(self.child.wait().unwrap().success(), "a service must end with success after SIGTERM");
    }
}

fn read_response(mut stream: TcpStream) -> Response {
    let mut text = Vec::new();
    let _ = stream.read_to_end(&mut text);
    let text = String::from_utf8_lossy(&text);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    let body = match head.contains("transfer-encoding: chunked") {
        true => body.split("\r\n").skip(1).step_by(2).collect(),
        false => body.to_owned(),
    };
    Response { status, head: head.to_owned(), body }
}

pub(crate) fn payment(id: &str, second: u64, card: u64, amount: &str) -> String {
    payment_at(id, second as i64 * 1_000_000, card, amount)
}

/// A payment `micros` microseconds after the start of 2026.
pub(crate) fn payment_at(id: &str, micros: i64, card: u64, amount: &str) -> String {
    let (a, b) = ("a".repeat(64), "b".repeat(64));
    let time = tidegate_facts::time::to_rfc3339(1_767_225_600_000_000 + micros);
    json!({
        "event_id": id, "event_type": "payment.v1", "ts_utc": time, "manifest_fingerprint": a, "parameter_hash": b,
        "seed": 7, "scenario_id": "s", "run_id": "c".repeat(32), "scenario_run_id": "d".repeat(32),
        "platform_run_id": "platform_20260101T000000Z",
        "payload": {"transaction_id": id.trim_start_matches("p-"), "customer_id": card, "terminal_id": 3, "amount": amount},
    })
    .to_string()
}

#[test]
fn a_fact_is_committed_soon_even_when_no_other_follows() {
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(folder.path(), &["--commit-within", "100ms"]);
    let committed = |service: &Service| service.get("/v1/status").json()["committed"]["number"].clone();
    let before = committed(&service);
    let decided = service.post("/v1/decide", "application/json", &payment("p-77", 1, 5, "12.50"));
    assert_eq!(decided.status, 200, "{}", decided.body);
    let until = Instant::now() + Duration::from_secs(30);
    while committed(&service) == before {
        assert!(Instant::now() < until, "no commit came");
        std::thread::yield_now();
    }
    let answer = service.sql("SELECT count(*) FROM decisions WHERE event_id = 'p-77'");
    assert_eq!(answer["rows"][0][0], "1");
}

#[test]
fn a_fact_is_decided_in_the_call_that_submits_it_and_a_duplicate_gets_the_same_decision() {
    let scratch = tempfile::tempdir().unwrap();
    let service = Service::start(&scratch.path().join("data"), &[]);
    let first = service.post("/v1/decide", "application/json", &payment("p-1", 1, 5, "12.50"));
    assert_eq!(first.status, 200, "{}", first.body);
    assert!(first.head.contains("server-timing: queue;dur="), "{}", first.head);
    let answer = first.json();
    assert_eq!(answer["receipt"]["verdict"], "admitted");
    assert_eq!(answer["decisions"][0]["event_id"], "p-1");
    assert_eq!(answer["decisions"][0]["action"], "ALLOW");
    let again = service.post("/v1/decide", "application/json", &payment("p-1", 1, 5, "12.50"));
    assert_eq!((again.status, &again.json()["receipt"]["verdict"]), (200, &json!("duplicate")));
    assert_eq!(again.json()["decisions"][0]["decision_id"], answer["decisions"][0]["decision_id"]);
    let bad = service.post("/v1/decide", "application/json", &payment("p-2", 2, 5, "much"));
    assert_eq!((bad.status, &bad.json()["receipt"]["reason"]), (422, &json!("SCHEMA_FAIL")), "{}", bad.body);

    let explanation = service.get("/v1/decisions/p-1").json();
    assert_eq!(
        (&explanation["sealed"], &explanation["fact"]["payload"]["amount"]),
        (&json!(false), &json!("12.50")),
        "{explanation}"
    );
    assert_eq!(explanation["received"], json!({"source": "http", "position": "0"}), "{explanation}");
    let lines: Vec<&str> =
        explanation["reason"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect();
    assert!(
        lines[0].starts_with("Event p-1 happened at"),
        "a decision is explained before it is sealed: {lines:?}"
    );
    assert_eq!(service.get("/v1/decisions/p-9").status, 404);
    service.stop();

    let service = Service::start(&scratch.path().join("data"), &[]);
    let explanation = service.get("/v1/decisions/p-1").json();
    assert_eq!(
        (&explanation["sealed"], &explanation["proof"]["verified"]),
        (&json!(true), &json!(true)),
        "{explanation}"
    );
    assert_eq!(explanation["decision"]["decision_id"], answer["decisions"][0]["decision_id"]);
    assert!(explanation["reason"].as_array().unwrap().len() > 3, "{explanation}");
    let again = service.post("/v1/decide", "application/json", &payment("p-1", 1, 5, "12.50"));
    assert_eq!(again.json()["decisions"][0]["decision_id"], answer["decisions"][0]["decision_id"]);
}

#[test]
fn every_record_of_a_call_gets_its_receipt_in_order() {
    let scratch = tempfile::tempdir().unwrap();
    let service = Service::start(&scratch.path().join("data"), &[]);
    // The lines are not in the order of their times.
    let lines = [
        payment("p-3", 30, 1, "1.00"),
        "no JSON".to_owned(),
        payment("p-1", 10, 1, "1.00"),
        payment("p-3", 30, 1, "1.00"),
        payment("p-3", 30, 1, "2.00"),
    ];
    let response = service.post("/v1/facts", "application/x-ndjson", &lines.join("\n"));
    let receipts: Vec<(String, String)> = response.json()["receipts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| {
            (r["verdict"].as_str().unwrap().to_owned(), r["event_id"].as_str().unwrap_or("-").to_owned())
        })
        .collect();
    let receipts: Vec<(&str, &str)> = receipts.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
    let expected = [
        ("admitted", "p-3"),
        ("quarantined", "-"),
        ("admitted", "p-1"),
        ("duplicate", "p-3"),
        ("quarantined", "p-3"),
    ];
    assert_eq!(receipts, expected, "{}", response.body);
    assert_eq!(service.post("/v1/facts", "application/json", "neither").status, 200);
    let after = "SELECT q.after_tick, (SELECT max(_tick) FROM facts) FROM quarantine q ORDER BY position DESC LIMIT 1";
    let after = service.sql(after)["rows"][0].clone();
    assert!(
        after[0].is_string() && after[0] == after[1],
        "the receipt follows the newest fact of its time: {after}"
    );
    let rows = service.sql("SELECT reason_code, bytes_text FROM quarantine ORDER BY position");
    assert_eq!(rows["rows"][0][1], "no JSON", "{rows}");
    assert_eq!(rows["rows"][1][0], "PAYLOAD_HASH_MISMATCH", "{rows}");
    assert_eq!(service.get("/v1/status").json()["counts"]["admitted"], 2);
}

#[test]
fn a_query_as_of_one_tick_always_gives_the_same_rows() {
    let scratch = tempfile::tempdir().unwrap();
    let data = scratch.path().join("data");
    let service = Service::start(&data, &["-w", "2"]);
    let send = |from: u64, to: u64| {
        let lines: Vec<String> = (from..to).map(|i| payment(&format!("p-{i}"), i, i % 7, "3.00")).collect();
        let response = service.post("/v1/facts", "application/x-ndjson", &lines.join("\n"));
        assert_eq!(response.status, 200, "{}", response.body);
    };
    send(0, 500);
    let sql = "SELECT f.tick, (SELECT count(*) FROM decisions) AS decided, (SELECT count(*) FROM features) AS seen FROM frontier f";
    let until = Instant::now() + Duration::from_secs(20);
    let first = loop {
        let answer = service.sql(sql);
        assert_eq!(answer["rows"][0][1], answer["rows"][0][2], "two tables as of one tick: {answer}");
        if answer["rows"][0][1] == "500" {
            break answer;
        }
        assert!(Instant::now() < until, "{answer}");
    };
    let tick: u64 = first["rows"][0][0].as_str().unwrap().parse().unwrap();
    // Commit boundaries pass meanwhile: some of the rows move from memory into files.
    for round in 1..12 {
        send(round * 500, (round + 1) * 500);
        let answer = service.sql(&format!("SELECT count(*) FROM as_of('decisions', {})", tick - 1));
        assert_eq!(answer["rows"][0][0], "500", "round {round}: {answer}");
    }
    let commits = service.sql("SELECT commits FROM frontier")["rows"][0][0].clone();
    assert_ne!(commits, "0", "the topology commits every 1000 rows");
    let whole = service.sql("SELECT count(*), count(DISTINCT event_id) FROM decisions");
    let until = Instant::now() + Duration::from_secs(20);
    let mut last = whole;
    while last["rows"][0] != json!(["6000", "6000"]) {
        assert!(Instant::now() < until, "{last}");
        last = service.sql("SELECT count(*), count(DISTINCT event_id) FROM decisions");
    }
    service.stop();
    let counted = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(["sql", "--format", "csv", "--data"])
        .arg(&data)
        .arg(format!("SELECT count(*) FROM decisions WHERE _tick < {tick}"))
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&counted.stdout).lines().nth(1), Some("500"));
}

#[test]
fn acknowledged_facts_survive_a_kill() {
    let scratch = tempfile::tempdir().unwrap();
    let data = scratch.path().join("data");
    let mut acknowledged = 0;
    for round in 0..4u64 {
        let service = Service::start(&data, &[]);
        for call in 0..20 {
            let from = round * 2000 + call * 100;
            let lines: Vec<String> =
                (from..from + 100).map(|i| payment(&format!("p-{i}"), i, i % 7, "3.00")).collect();
            let response = service.post("/v1/facts", "application/x-ndjson", &lines.join("\n"));
            acknowledged += response.json()["receipts"].as_array().unwrap().len();
        }
        drop(service); // kill -9
    }
    let service = Service::start(&data, &[]);
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let counted =
            service.sql("SELECT count(*), count(DISTINCT event_id) FROM decisions")["rows"][0].clone();
        if counted == json!([acknowledged.to_string(), acknowledged.to_string()]) {
            break;
        }
        assert!(Instant::now() < until, "{acknowledged} acknowledged, {counted} decided");
    }
    let facts = service.sql("SELECT count(*) FROM facts WHERE event_type = 'payment.v1'");
    assert_eq!(facts["rows"][0][0], acknowledged.to_string());
    service.stop();
    let verified =
        Command::new(env!("CARGO_BIN_EXE_tidegate")).args(["verify", "--data"]).arg(&data).output().unwrap();
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
}

#[test]
fn commits_of_many_small_groups_equal_those_of_a_replay() {
    let scratch = tempfile::tempdir().unwrap();
    let data = scratch.path().join("data");
    let service = Service::start(&data, &["-w", "2", "--commit-within", "700ms"]);
    std::thread::scope(|scope| {
        for caller in 0..4 {
            let service = &service;
            scope.spawn(move || {
                for number in (caller..2500).step_by(4) {
                    let body = payment(&format!("p-{number}"), number, number % 7, "3.00");
                    assert_eq!(service.post("/v1/decide", "application/json", &body).status, 200);
                }
            });
        }
    });
    service.stop();
    let plan = harness::plan(&harness::file("tests/topologies/live.toml"), &[]);
    let store = tidegate_sinks::store::Store::open(data.join("store")).unwrap();
    let commits = tidegate_sinks::commits::Commits::read(&store).unwrap();
    assert!(commits.list.len() >= 3, "{} commits", commits.list.len());
    let (out, metrics) = (scratch.path().join("replayed"), harness::metrics(&plan));
    let replayed = tidegate_replay::replay(&plan, &data, &out, 1, &metrics).unwrap();
    assert_eq!(tidegate_replay::compare(&commits, &replayed), None);
}

#[test]
fn a_growing_file_is_followed() {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("payments.jsonl");
    std::fs::write(&file, payment("p-1", 1, 5, "1.00") + "\n").unwrap();
    let set = format!("payments_file.path={}", file.display());
    let service = Service::start(&scratch.path().join("data"), &["--set", &set]);
    let wait_for = |count: &str| {
        let until = Instant::now() + Duration::from_secs(20);
        while service.sql("SELECT count(*) FROM decisions")["rows"][0][0] != count {
            assert!(Instant::now() < until, "{}", service.sql("SELECT * FROM receipts"));
        }
    };
    wait_for("1");
    let mut grown = std::fs::OpenOptions::new().append(true).open(&file).unwrap();
    let line = payment("p-2", 2, 5, "1.00");
    // Half a line is not read as a record.
    grown.write_all(&line.as_bytes()[..40]).unwrap();
    assert_eq!(service.post("/v1/decide", "application/json", &payment("p-3", 3, 5, "1.00")).status, 200);
    wait_for("2");
    grown.write_all(&line.as_bytes()[40..]).unwrap();
    grown.write_all(b"\n").unwrap();
    wait_for("3");
    assert_eq!(service.sql("SELECT count(*) FROM quarantine")["rows"][0][0], "0");
}

#[test]
fn keys_limit_what_a_caller_may_do() {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("keys.toml");
    let make = |arguments: &[&str]| {
        let made = Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .args(["keys", "api", "--file"])
            .arg(&file)
            .args(arguments)
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        String::from_utf8(made.stdout).unwrap().trim().to_owned()
    };
    let till = make(&["--id", "till", "--role", "producer", "--event-type", "payment.v1"]);
    let analyst = make(&["--id", "analyst", "--role", "reader"]);
    let service = Service::start(&scratch.path().join("data"), &["--api-keys", file.to_str().unwrap()]);
    let call = |key: &str, path: &str, body: &str| {
        let method = if body.is_empty() { "GET" } else { "POST" };
        let key = if key.is_empty() { String::new() } else { format!("\r\nauthorization: Bearer {key}") };
        service.request(&format!("{method} {path} HTTP/1.1{key}"), body.as_bytes())
    };
    let event = payment("p-1", 1, 5, "1.00");
    let other = event.replace("payment.v1", "refund.v1");
    let cases = [
        ("", "/v1/facts", event.as_str(), 401),
        ("tg_wrong", "/v1/facts", &event, 401),
        (&analyst, "/v1/facts", &event, 403),
        (&till, "/v1/facts", &other, 403),
        (&till, "/v1/facts", "no JSON", 403),
        (&till, "/v1/facts", &event, 200),
        (&till, "/v1/tables", "", 403),
        (&analyst, "/v1/tables", "", 200),
        (&analyst, "/metrics", "", 403),
        ("", "/healthz", "", 200),
        ("", "/openapi.json", "", 200),
        ("", "/", "", 200),
    ];
    for (key, path, body, status) in cases {
        let response = call(key, path, body);
        assert_eq!(response.status, status, "{path} {body}: {}", response.body);
        assert!(!response.body.contains(&till) && !response.body.contains(&analyst));
    }
    for (user, password, ok) in
        [("analyst", &analyst, true), ("analyst", &till, false), ("till", &till, false)]
    {
        let Some(output) = psql(&service, user, password, "SELECT 1") else { return };
        assert_eq!(output.status.success(), ok, "{user}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// Runs psql, where it is installed.
fn psql(service: &Service, user: &str, password: &str, sql: &str) -> Option<std::process::Output> {
    let path = std::env::var_os("PATH")?;
    let psql: PathBuf =
        std::env::split_paths(&path).map(|folder| folder.join("psql")).find(|path| path.is_file())?;
    let (host, port) = (service.postgres.ip().to_string(), service.postgres.port().to_string());
    let mut command = Command::new(psql);
    command.args([
        "-X",
        "-A",
        "-t",
        "-h",
        &host,
        "-p",
        &port,
        "-U",
        user,
        "-d",
        "tidegate",
        "-v",
        "ON_ERROR_STOP=1",
        "-c",
        sql,
    ]);
    Some(command.env("PGPASSWORD", password).env("PGCONNECT_TIMEOUT", "10").output().unwrap())
}

#[test]
fn psql_lists_and_joins_tables_but_cannot_write() {
    let scratch = tempfile::tempdir().unwrap();
    let service = Service::start(&scratch.path().join("data"), &[]);
    service.decide_payments();
    let run = |sql: &str| {
        let output = psql(&service, "tidegate", "", sql)?;
        Some((
            output.status.success(),
            String::from_utf8_lossy(&output.stdout).trim().to_owned(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        ))
    };
    let Some((ok, listed, error)) = run("\\dt") else {
        eprintln!("psql is not installed: not tested");
        return;
    };
    assert!(ok && listed.contains("decisions") && listed.contains("facts"), "{listed}{error}");
    let join = "SELECT count(*) FROM decisions d JOIN facts f ON f._tick = d._tick JOIN features x ON x._tick = d._tick";
    assert_eq!(run(join), Some((true, "1500".to_owned(), String::new())));
    let refused = [
        ("INSERT INTO decisions SELECT * FROM decisions", "only read"),
        ("CREATE TABLE x (a int)", "only read"),
        ("SELECT * INTO x FROM decisions", "only read"),
        ("COPY decisions TO 'x.csv'", "only read"),
        ("CREATE EXTERNAL TABLE x STORED AS CSV LOCATION '/etc/passwd'", ""),
        ("SELECT * FROM '/etc/passwd'", "no table"),
        ("SELECT * FROM desicions", "`decisions`"),
    ];
    for (sql, expected) in refused {
        let (ok, out, error) = run(sql).unwrap();
        assert!(!ok && error.contains(expected), "{sql}: {out} {error}");
    }
}

/// The threads of a process: their names, whether their scheduling is real-time, and their
/// real-time priorities.
fn threads_of(process: u32) -> Vec<(String, bool, u8)> {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let stats = tasks.filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("stat")).ok());
    let thread = |stat: String| {
        let (open, close) = (stat.find('(').unwrap(), stat.rfind(')').unwrap());
        // proc_pid_stat(5): fields 40 and 41 are the priority in real time and the policy; the name
        // is the second.
        let fields: Vec<&str> = stat[close + 2..].split(' ').collect();
        (stat[open + 1..close].to_owned(), fields[38] == "2", fields[37].parse().unwrap())
    };
    stats.map(thread).collect()
}

#[test]
fn real_time_priority_goes_to_calls_but_not_to_writers_and_long_statements() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.arg("run").arg(harness::file("tests/topologies/live.toml")).arg("--data").arg(folder.path());
    command.args(["--realtime", "--http", "127.0.0.1:0", "--postgres", "127.0.0.1:0"]);
    let mut probe = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut first_line = String::new();
    BufReader::new(probe.stderr.take().unwrap()).read_line(&mut first_line).unwrap();
    if !first_line.starts_with("http on ") {
        assert!(
            first_line.contains("CAP_SYS_NICE"),
            "without the permission, the error names it: {first_line}"
        );
        assert_eq!(probe.wait().unwrap().code(), Some(2));
        return;
    }
    probe.kill().unwrap();
    probe.wait().unwrap();
    let service = Service::start(folder.path(), &["--realtime"]);
    for number in 0..20 {
        let body = payment(&format!("p-{number}"), number, 1, "1.00");
        assert_eq!(service.post("/v1/decide", "application/json", &body).status, 200);
        service.sql("SELECT count(*) FROM decisions");
    }
    let process = service.child.id();
    let of = |name: &str| -> Vec<(bool, u8)> {
        let all = threads_of(process).into_iter();
        all.filter(|(thread, ..)| thread.starts_with(name)).map(|(_, first, level)| (first, level)).collect()
    };
    assert_eq!(of("timely"), [(true, 2)]);
    assert_eq!(of("writer"), [(false, 0)]);
    let calls = of("tokio");
    assert!(calls.contains(&(true, 1)), "{calls:?}");
    let urgent_statements = || of("statement").iter().filter(|thread| **thread == (true, 1)).count();
    let until = Instant::now() + Duration::from_secs(10);
    let urgent = loop {
        service.sql("SELECT 1"); // A thread that used up its budget is urgent again a little later.
        match urgent_statements() {
            0 => assert!(Instant::now() < until, "short statements are urgent: {:?}", of("statement")),
            urgent => break urgent,
        }
    };
    std::thread::scope(|scope| {
        let long = scope.spawn(|| {
            service.sql("SELECT sum(a.value % 7) FROM generate_series(1, 20000000) a");
        });
        let mut least = urgent;
        while !long.is_finished() {
            least = least.min(urgent_statements());
            std::thread::yield_now();
        }
        assert!(least < urgent, "a long statement must lose its priority");
    });
    service.stop();
}

#[test]
fn hostile_requests_get_clear_errors() {
    let scratch = tempfile::tempdir().unwrap();
    let service = Service::start(&scratch.path().join("data"), &[]);
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let cases: Vec<(&str, String, u16, &str)> = vec![
        ("/v1/facts", deep, 200, "quarantined"),
        ("/v1/facts", String::new(), 200, "quarantined"),
        ("/v1/facts", "x".repeat(9 << 20), 413, "send less"),
        ("/v1/sql", "{\"sql\":".to_owned(), 400, "the body is not"),
        ("/v1/sql", json!({"sql": "DROP TABLE decisions"}).to_string(), 400, "only read"),
        ("/v1/sql", json!({"sql": "SELECT 1; SELECT 2"}).to_string(), 400, "one at a time"),
        ("/v1/sql", json!({"sql": "SELECT * FROM read_csv('/etc/passwd')"}).to_string(), 400, ""),
        (
            "/v1/sql",
            json!({"sql": format!("SELECT {}1{}", "(".repeat(5000), ")".repeat(5000))}).to_string(),
            400,
            "",
        ),
        ("/v1/nothing", "{}".to_owned(), 404, "openapi.json"),
    ];
    for (path, body, status, expected) in cases {
        let response = service.post(path, "application/json", &body);
        assert_eq!(response.status, status, "{path}: {}", response.body);
        assert!(response.body.contains(expected), "{path}: {}", response.body);
    }
    let bytes = service
        .request("POST /v1/facts HTTP/1.1\r\ncontent-type: application/json", b"{\"event_id\":\"\xff\xfe\"}");
    assert_eq!(bytes.json()["receipts"][0]["verdict"], "quarantined", "{}", bytes.body);
    let mut stream = TcpStream::connect(service.http).unwrap();
    let _ = stream.write_all(format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(1 << 20)).as_bytes());
    assert!([0, 431].contains(&read_response(stream).status), "a head that is too long must be cut off");
    assert_eq!(service.get("/healthz").body, "ok");
}
