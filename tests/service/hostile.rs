//! Hostile input to a service. Each gets a clear error or a closed connection, nothing ends or
//! stalls the process, and other callers are served in the meantime.

use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

/// Sends these bytes and nothing more, and returns all that is received until the connection is
/// closed.
fn raw(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).unwrap();
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    receive_all(stream)
}

fn receive_all(mut stream: TcpStream) -> Vec<u8> {
    stream.set_read_timeout(Some(Duration::from_secs(40))).unwrap();
    let mut received = Vec::new();
    let _ = stream.read_to_end(&mut received);
    received
}

#[test]
fn callers_that_disconnect_leave_room_for_others() {
    let scratch = tempfile::tempdir().unwrap();
    // The filter keeps small payments from the node that decides, so they get no decision.
    let text = std::fs::read_to_string(harness::file("tests/topologies/live.toml")).unwrap();
    let policies = harness::file("tests/topologies/policies").display().to_string();
    let filter =
        "[[node]]\nname = \"large\"\nkind = \"filter\"\ninput = \"features\"\nwhere = \"amount > 100\"\n\n";
    let text = text
        .replace("\"policies/", &format!("\"{policies}/"))
        .replace("[[node]]\nname = \"decisions\"", &format!("{filter}[[node]]\nname = \"decisions\""))
        .replace("kind = \"decide\"\ninput = \"features\"", "kind = \"decide\"\ninput = \"large\"");
    std::fs::write(scratch.path().join("live.toml"), text).unwrap();
    std::fs::write(scratch.path().join("nothing.jsonl"), "").unwrap();
    let service = Service::run(&scratch.path().join("live.toml"), &scratch.path().join("data"), &[]);
    for i in 0..1500 {
        let body = payment(&format!("p-{i}"), i, 5, "1.00");
        let head = "POST /v1/decide?timeout_ms=30000 HTTP/1.1\r\nhost: x\r\ncontent-length: ";
        let mut stream = TcpStream::connect(service.http).unwrap();
        stream.write_all(format!("{head}{}\r\n\r\n{body}", body.len()).as_bytes()).unwrap();
        if i % 2 == 0 {
            // Waits until the fact is in the log. Every other caller disconnects before.
            while service.get("/v1/status").json()["counts"]["admitted"].as_u64().unwrap() < i / 2 {}
        }
    }
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let response = service.post("/v1/decide", "application/json", &payment("p-9999", 9999, 5, "200.00"));
        if response.status == 200 {
            assert_eq!(response.json()["decisions"][0]["event_id"], "p-9999");
            break;
        }
        assert!(
            Instant::now() < until,
            "waiting callers are not released: {} {}",
            response.status,
            response.body
        );
    }
}

#[test]
fn a_slow_sender_is_cut_off_in_time_and_does_not_delay_others() {
    let scratch = tempfile::tempdir().unwrap();
    let service = Service::start(&scratch.path().join("data"), &[]);
    let slow = |address: SocketAddr, head: &[u8]| {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        stream.write_all(head).unwrap();
        std::thread::spawn(move || {
            let began = Instant::now();
            let mut received = Vec::new();
            let mut part = [0; 1024];
            // Sends a byte every half second, until the service closes the connection.
            while began.elapsed() < Duration::from_secs(60) {
                match stream.read(&mut part) {
                    Ok(0) => break,
                    Ok(count) => received.extend_from_slice(&part[..count]),
                    Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
                    Err(_) => drop(stream.write_all(b"y")),
                }
            }
            (began.elapsed(), String::from_utf8_lossy(&received).into_owned())
        })
    };
    let body = b"POST /v1/facts HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n{";
    let cases = [
        ("head", slow(service.http, b"GET / HTTP/1.1\r\nx: "), 10, ""),
        ("body", slow(service.http, body), 30, "408"),
        ("start-up", slow(service.postgres, &[0, 0, 0, 99, 0, 3, 0, 0]), 10, "too long"),
    ];
    let began = Instant::now();
    while cases.iter().any(|(_, sender, ..)| !sender.is_finished()) {
        let sent = Instant::now();
        assert_eq!(service.get("/healthz").body, "ok");
        assert!(sent.elapsed() < Duration::from_secs(2), "other callers have to wait");
        assert!(began.elapsed() < Duration::from_secs(60));
        std::thread::park_timeout(Duration::from_millis(200));
    }
    for (what, sender, seconds, expected) in cases {
        let (lasted, received) = sender.join().unwrap();
        let lasted = lasted.as_secs();
        assert!(
            (seconds - 1..seconds + 8).contains(&lasted),
            "a slow {what} is cut off after {lasted} s: {received}"
        );
        assert!(received.contains(expected), "a slow {what}: {received}");
    }
}

#[test]
fn two_thousand_idle_connections_do_not_keep_others_from_being_served() {
    let scratch = tempfile::tempdir().unwrap();
    let service = Service::start(&scratch.path().join("data"), &[]);
    let idle: Vec<TcpStream> = (0..2000).map(|_| TcpStream::connect(service.http).unwrap()).collect();
    for i in 0..200 {
        let response =
            service.post("/v1/decide", "application/json", &payment(&format!("p-{i}"), i, 5, "1.00"));
        assert_eq!(response.status, 200, "{}", response.body);
    }
    // A connection is served when it sends its first request, unless the service closed it for
    // being idle.
    let mut last = idle.into_iter().next_back().unwrap();
    if last.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").is_ok() {
        assert!([200, 0, 408].contains(&read_response(last).status));
    }
}

#[test]
fn malformed_requests_get_clear_errors() {
    let scratch = tempfile::tempdir().unwrap();
    let service = Service::start(&scratch.path().join("data"), &[]);
    let get = |path: &[u8]| [b"GET ", path, b" HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"].concat();
    let post_to = |path: &str, head: &str, body: &str| {
        format!("POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{head}\r\n{body}").into_bytes()
    };
    let post = |head: &str, body: &str| post_to("/v1/facts", head, body);
    let many_headers: String = (0..300).map(|i| format!("x-{i}: y\r\n")).collect();
    let (chunks, two) = ("transfer-encoding: chunked\r\n", "content-length: 2\r\n");
    let long = "y".repeat(200_000);
    // A caller may not get a response when the connection is closed before all of it is read.
    let cases: Vec<(&str, Vec<u8>, &[u16])> = vec![
        ("too many headers", format!("GET / HTTP/1.1\r\n{many_headers}\r\n").into_bytes(), &[431]),
        ("a long header", format!("GET / HTTP/1.1\r\nx: {long}\r\n\r\n").into_bytes(), &[431, 0]),
        ("a long path", format!("GET /{long} HTTP/1.1\r\n\r\n").into_bytes(), &[414, 431, 0]),
        ("no HTTP", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(), &[400, 0]),
        ("bytes in a path", get(b"/v1/tail/\xff\xfe"), &[400, 404]),
        ("bad UTF-8 in a path", get(b"/v1/tail/%ff%fe"), &[400]),
        ("bad UTF-8 in an id", get(b"/v1/decisions/%ff"), &[400]),
        ("no number", post_to("/v1/decide?timeout_ms=soon", two, "{}"), &[400]),
        ("a huge number", post_to("/v1/decide?timeout_ms=99999999999999999999", two, "{}"), &[400]),
        ("two lengths", post("content-length: 5\r\ncontent-length: 7\r\n", "hello"), &[400]),
        ("a negative length", post("content-length: -5\r\n", "hello"), &[400]),
        ("a length and chunks", post(&format!("content-length: 5\r\n{chunks}"), "0\r\n\r\n"), &[200, 400]),
        ("a chunk of no size", post(chunks, "zz\r\nhello\r\n0\r\n\r\n"), &[400]),
        ("a chunk of any size", post(chunks, "fffffffffffffffff\r\nhello"), &[400]),
    ];
    for (what, bytes, statuses) in cases {
        let mut stream = TcpStream::connect(service.http).unwrap();
        let _ = stream.write_all(&bytes);
        let received = receive_all(stream);
        let received = String::from_utf8_lossy(&received);
        let status = received.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        assert!(statuses.contains(&status), "{what}: {received}");
    }
    for broken in [post("content-length: 500\r\n", "hello"), post(chunks, "5\r\nhello\r\n")] {
        let received = raw(service.http, &broken);
        assert!(
            received.is_empty() || received.starts_with(b"HTTP/1.1 400"),
            "{}",
            String::from_utf8_lossy(&received)
        );
    }
    // Endless chunks are read up to twice the limit.
    let mut stream = TcpStream::connect(service.http).unwrap();
    stream.write_all(&post(chunks, "")).unwrap();
    let chunk = format!("{:x}\r\n{}\r\n", 1 << 20, "x".repeat(1 << 20));
    let sent = (0..64).take_while(|_| stream.write_all(chunk.as_bytes()).is_ok()).count();
    assert!(sent < 64, "an endless body must be cut off");
    // Pipelined requests are all answered.
    let health = "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n";
    let last = "GET /v1/tables HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let mut stream = TcpStream::connect(service.http).unwrap();
    stream.write_all((health.repeat(200) + last).as_bytes()).unwrap();
    let mut received = String::new();
    stream.read_to_string(&mut received).unwrap();
    assert_eq!(received.matches("HTTP/1.1 200").count(), 201);
    // Malformed records are quarantined, each with its reason.
    let number = payment("p-1", 1, 5, "1.00").replace("\"seed\":7", "\"seed\":1e999999999");
    let twice = payment("p-2", 2, 5, "1.00").replace("\"seed\":7", "\"seed\":7,\"seed\":8");
    let deep = payment("p-3", 3, 5, "1.00")
        .replace("\"seed\":7", &format!("\"seed\":{}{}", "[".repeat(5000), "]".repeat(5000)));
    let answer = service.post("/v1/facts", "application/x-ndjson", &[number, twice, deep].join("\n")).json();
    for receipt in answer["receipts"].as_array().unwrap() {
        assert_eq!(receipt["verdict"], "quarantined", "{answer}");
        assert!(receipt["detail"].as_str().unwrap().len() > 5, "{answer}");
    }
    assert_eq!(service.get("/healthz").body, "ok");
}

#[test]
fn sql_that_writes_reads_files_or_explodes_is_refused_while_others_are_served() {
    let scratch = tempfile::tempdir().unwrap();
    let service = Service::start(&scratch.path().join("data"), &["--statement-memory", "64"]);
    service.decide_payments();
    let chain = |part: &str, by: &str, count: usize| vec![part; count].join(by);
    let parts: Vec<String> =
        (1..25).map(|i| format!("c{i} AS (SELECT a.x FROM c{} a, c{} b)", i - 1, i - 1)).collect();
    let refused: Vec<(String, &str)> = vec![
        ("COPY decisions TO 'decisions.csv'".into(), "only read"),
        ("COPY decisions FROM '/etc/passwd'".into(), "not SQL"),
        ("CREATE EXTERNAL TABLE x STORED AS CSV LOCATION '/etc/passwd'".into(), "only read"),
        ("CREATE TABLE x AS SELECT 1".into(), "only read"),
        ("EXPLAIN ANALYZE INSERT INTO decisions SELECT * FROM decisions".into(), "only read"),
        ("SELECT * INTO x FROM decisions".into(), "only read"),
        ("WITH x AS (SELECT 1) INSERT INTO decisions SELECT * FROM x".into(), "INSERT"),
        ("SET datafusion.execution.batch_size = 1".into(), "only read"),
        ("PREPARE p AS SELECT 1".into(), "only read"),
        ("SELECT * FROM '/etc/passwd'".into(), "no table"),
        ("SELECT * FROM \"/etc/passwd\"".into(), "no table"),
        ("SELECT * FROM read_csv('/etc/passwd')".into(), "not found"),
        ("SELECT * FROM parquet_metadata('/etc/passwd')".into(), "not found"),
        ("SELECT * FROM as_of('decisions', -1)".into(), "neither"),
        (format!("SELECT {}", chain("1", "+", 20_000)), "without a comma"),
        (format!("SELECT 1 WHERE {}", chain("1=1", " OR ", 20_000)), "without a comma"),
        (chain("SELECT 1", " UNION ALL ", 5000), "too large"),
        (format!("SELECT {}", (0..20_000).map(|i| format!("1 a{i}")).collect::<Vec<_>>().join(", ")), "columns"),
        (format!("SELECT 1 FROM {}", chain("decisions", ", ", 500)), "at most 64"),
        (format!("SELECT {}1{}", "(".repeat(5000), ")".repeat(5000)), "too large"),
        (format!("SELECT {}1{}", "(".repeat(500), ")".repeat(500)), "nested too deeply"),
        (format!("SELECT {}{}", "[".repeat(500), "]".repeat(500)), "nested too deeply"),
        (format!("SELECT 1 /* {} */", "x".repeat(1 << 20)), "bytes"),
        (format!("WITH c0 AS (SELECT 1 x), {} SELECT count(*) FROM c24", parts.join(", ")), "expand to more"),
        ("SELECT repeat('x', 1000000000)".into(), "are allowed"),
        ("SELECT lpad('x', 1000000000)".into(), "are allowed"),
        ("SELECT range(0, 1000000000)".into(), "are allowed"),
        ("SELECT array_repeat(1, 1000000000)".into(), "are allowed"),
        ("SELECT 'a' ~ '(((((a{100}){100}){100}){100}){100})'".into(), "CompiledTooBig"),
        ("SELECT repeat(a.event_id || b.event_id, 30) x FROM decisions a, decisions b ORDER BY x".into(), "memory"),
        ("SELECT array_agg(a.event_id || b.event_id || c.event_id) FROM decisions a, decisions b, decisions c".into(), "memory"),
    ];
    for (sql, expected) in refused {
        let began = Instant::now();
        let response = service.post("/v1/sql", "application/json", &json!({ "sql": sql }).to_string());
        let excerpt = &sql[..sql.len().min(80)];
        assert_eq!(response.status, 400, "{excerpt}: {}", &response.body[..response.body.len().min(300)]);
        assert!(response.body.contains(expected), "{excerpt}: {}", response.body);
        assert!(began.elapsed() < Duration::from_secs(30), "{excerpt}: {:?}", began.elapsed());
    }
    // Facts are decided while long statements run, more at once than there are threads.
    let endless = [
        "SELECT count(*) FROM generate_series(1, 1000000000000)",
        "WITH RECURSIVE t AS (SELECT 1 x UNION ALL SELECT x + 1 FROM t) SELECT count(*) FROM t",
        "SELECT sum(length(a.event_id || b.event_id || c.event_id)) FROM decisions a, decisions b, decisions c, decisions d",
        "SELECT count(*) FROM generate_series(1, 1000000000000) t(a) WHERE cast(a AS text) ~ '(1|2)*3(4|5)*6$'",
    ];
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let statements: Vec<_> = (0..8)
            .map(|i| {
                let service = &service;
                scope.spawn(move || {
                    let body = json!({ "sql": endless[i % endless.len()] }).to_string();
                    (Instant::now(), service.post("/v1/sql", "application/json", &body))
                })
            })
            .collect();
        let (done, service) = (&done, &service);
        let others = scope.spawn(move || {
            let (mut calls, mut slowest) = (0, Duration::ZERO);
            while !done.load(Ordering::Relaxed) {
                let (sent, id) = (Instant::now(), 10_000 + calls);
                let body = payment(&format!("p-{id}"), id, 5, "1.00");
                let response = service.post("/v1/decide?timeout_ms=20000", "application/json", &body);
                assert_eq!(response.status, 200, "{}", response.body);
                slowest = slowest.max(sent.elapsed());
                calls += 1;
            }
            (calls, slowest)
        });
        // All responses are collected before any is checked, because the other caller must end in
        // any case.
        let responses: Vec<_> = statements.into_iter().map(|statement| statement.join()).collect();
        done.store(true, Ordering::Relaxed);
        let (calls, slowest) = others.join().unwrap();
        for response in responses {
            let (_, response) = response.unwrap();
            let is_stopped = response.status == 408 && response.body.contains("longer than 30 s");
            // Together they may need more memory than there is.
            let is_refused = response.status == 400 && response.body.contains("memory");
            assert!(is_stopped || is_refused, "{} {}", response.status, response.body);
        }
        assert!(calls > 100 && slowest < Duration::from_secs(5), "{calls} calls, the slowest in {slowest:?}");
    });
    assert_eq!(service.sql("SELECT 1")["rows"][0][0], "1");
}

/// A message of a Postgres client.
fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u32 + 4).to_be_bytes();
    [&[kind][..], &length, body].concat()
}

fn query(sql: &str) -> Vec<u8> {
    message(b'Q', &[sql.as_bytes(), b"\0"].concat())
}

fn start_up(user: &str) -> Vec<u8> {
    let body = [&[0, 3, 0, 0][..], b"user\0", user.as_bytes(), b"\0database\0tidegate\0\0"].concat();
    [&(body.len() as u32 + 4).to_be_bytes()[..], &body].concat()
}

#[test]
fn malformed_postgres_messages_get_a_clear_answer() {
    let scratch = tempfile::tempdir().unwrap();
    let service = Service::start(&scratch.path().join("data"), &[]);
    let started = start_up("tidegate");
    let parse = message(b'P', b"\0SELECT 1\0\0\0");
    let bind = message(b'B', b"\0\0\0\0\0\0\0\0");
    let execute = |rows: i32| message(b'E', &[&b"\0"[..], &rows.to_be_bytes()].concat());
    let sync = message(b'S', b"");
    let declare = "DECLARE c CURSOR FOR SELECT * INTO x FROM decisions";
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("a start-up of two gigabytes", b"\x7f\xff\xff\xff\0\x03\0\0user\0".to_vec(), "may have 4 to"),
        ("a start-up of no length", b"\0\0\0\0\0\x03\0\0user\0".to_vec(), "may have 4 to"),
        ("an unknown protocol", b"\0\0\0\x08\0\x02\0\0".to_vec(), "Invalid startup"),
        ("HTTP", b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".to_vec(), "may have 4 to"),
        ("a message of a gigabyte", [&started[..], b"Q\x3f\xff\xff\xf0SELECT"].concat(), "may have 4 to"),
        (
            "a message of negative length",
            [&started[..], b"Q\xff\xff\xff\xffSELECT"].concat(),
            "may have 4 to",
        ),
        ("a message shorter than its length", [&started[..], b"Q\0\0\0\x03"].concat(), "may have 4 to"),
        ("an unknown message", [&started[..], &message(b'z', b"what")].concat(), "FATAL"),
        (
            "parameters that are not there",
            [&started[..], &parse, &message(b'B', b"\0\0\0\0\x7f\xff\0\0\0\x01x")].concat(),
            "FATAL",
        ),
        ("two billion rows", [&started[..], &parse, &bind, &execute(i32::MAX), &sync].concat(), "SELECT 1"),
        ("fewer rows than none", [&started[..], &parse, &bind, &execute(-7), &sync].concat(), "SELECT 1"),
        ("a cursor that writes", [&started[..], &query(declare)].concat(), "only read"),
        (
            "a statement of a mebibyte",
            [&started[..], &query(&format!("SELECT '{}'", "x".repeat(1 << 19)))].concat(),
            "bytes",
        ),
        (
            "a deep statement",
            [&started[..], &query(&format!("SELECT {}", vec!["1"; 20_000].join("+")))].concat(),
            "without a comma",
        ),
        ("a large value", [&started[..], &query("SELECT repeat('x', 1000000000)")].concat(), "are allowed"),
    ];
    for (what, bytes, expected) in cases {
        let received = raw(service.postgres, &bytes);
        let received = String::from_utf8_lossy(&received);
        assert!(received.contains(expected), "{what}: {received}");
    }
    // A cancel request with a wrong key stops nothing.
    let cancel =
        [&16u32.to_be_bytes()[..], &80_877_102u32.to_be_bytes(), &1u32.to_be_bytes(), &2u32.to_be_bytes()]
            .concat();
    std::thread::scope(|scope| {
        let statement = scope.spawn(|| {
            raw(
                service.postgres,
                &[&started[..], &query("SELECT count(*) FROM generate_series(1, 30000000)")].concat(),
            )
        });
        while !statement.is_finished() {
            assert_eq!(raw(service.postgres, &cancel), b"");
        }
        assert!(String::from_utf8_lossy(&statement.join().unwrap()).contains("30000000"));
    });
    assert_eq!(service.get("/healthz").body, "ok");
}

#[test]
fn password_attempts_are_slow_and_a_wrong_password_ends_the_connection() {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("keys.toml");
    let made = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(["keys", "api", "--id", "analyst", "--role", "reader", "--file"])
        .arg(&file)
        .output()
        .unwrap();
    let key = String::from_utf8(made.stdout).unwrap().trim().to_owned();
    let mut service = Service::keyed(&scratch.path().join("data"), &file);
    let password = |text: &str| message(b'p', &[text.as_bytes(), b"\0"].concat());
    let statement = query("SELECT 'let in'");
    for (user, text) in [("analyst", "tg_0"), ("nobody", "tg_0"), ("analyst", ""), ("", "tg_0")] {
        let began = Instant::now();
        let received = raw(service.postgres, &[&start_up(user)[..], &password(text), &statement].concat());
        let received = String::from_utf8_lossy(&received);
        assert!(received.contains("FATAL") && !received.contains("let in"), "{user} {text}: {received}");
        assert!(
            began.elapsed() >= Duration::from_secs(1),
            "{user} {text}: answered after {:?}",
            began.elapsed()
        );
    }
    // Without a password, and with messages that only an authenticated client may send.
    for bytes in [
        [&start_up("analyst")[..], &statement].concat(),
        [&start_up("analyst")[..], &message(b'S', b""), &statement].concat(),
    ] {
        let received = raw(service.postgres, &bytes);
        assert!(
            !String::from_utf8_lossy(&received).contains("let in"),
            "{}",
            String::from_utf8_lossy(&received)
        );
    }
    let received = raw(service.postgres, &[&start_up("analyst")[..], &password(&key), &statement].concat());
    assert!(String::from_utf8_lossy(&received).contains("let in"), "{}", String::from_utf8_lossy(&received));
    assert!(service.child.try_wait().unwrap().is_none(), "the process must still run");
}
