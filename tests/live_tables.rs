//! The state of a running topology, queried as tables and as features of a key while facts arrive.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tidegate_facts::Digest;

use crate::harness;
use crate::service::{Service, payment, payment_at};

/// Waits until the first row of a statement is `row`.
fn wait_for(service: &Service, sql: &str, row: &Value) -> Value {
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        let answer = service.sql(sql);
        if answer["rows"][0] == *row {
            return answer;
        }
        assert!(Instant::now() < until, "{sql}: {answer}");
    }
}

/// The number of rows of a statement that looks up a key; `None` when it is refused.
///
/// Checks that the lookup gives the columns, rows and tick of the planned statement. One more
/// condition forces a plan.
fn lookup_rows(service: &Service, sql: &str) -> Option<usize> {
    let [looked_up, planned] = [sql.to_owned(), format!("{sql} AND true")].map(|sql| {
        let response = service.post("/v1/sql", "application/json", &json!({ "sql": sql }).to_string());
        let body = response.json();
        ["columns", "rows", "tick"].map(|part| body[part].clone())
    });
    assert_eq!(looked_up, planned, "{sql}");
    looked_up[1].as_array().map(Vec::len)
}

fn send(service: &Service, lines: &[String]) {
    let response = service.post("/v1/facts", "application/x-ndjson", &lines.join("\n"));
    assert_eq!(response.status, 200, "{}", response.body);
}

#[test]
fn the_features_of_a_key_are_those_its_next_event_gets() {
    let scratch = tempfile::tempdir().unwrap();
    let service = Service::start(&scratch.path().join("data"), &["-w", "2"]);
    for (number, (second, card, amount)) in
        [(10, 5, "12.50"), (20, 6, "1.00"), (30, 5, "7.25"), (4000, 5, "0.25")].into_iter().enumerate()
    {
        let id = format!("p-{number}");
        let decided = service.post("/v1/decide", "application/json", &payment(&id, second, card, amount));
        assert_eq!(decided.status, 200, "{}", decided.body);
    }
    let four = "SELECT count(*) FROM features";
    wait_for(&service, four, &json!(["4"]));
    let answer = service.get("/v1/features/features/5");
    assert_eq!(answer.status, 200, "{}", answer.body);
    let answer = answer.json();
    // The hour before the last payment holds only that payment; the day holds three of the card.
    let expected = json!({
        "payments_1h": "1", "spent_1h": "0.25", "usual_1h": 0.25, "terminals_1h": "1",
        "payments_1d": "3", "spent_1d": "20.00", "usual_1d": 20.0 / 3.0, "terminals_1d": "1",
    });
    assert_eq!(answer["features"], expected, "{answer}");
    assert_eq!((&answer["key_column"], &answer["reason"]), (&json!("customer_id"), &Value::Null));
    let basis: Vec<u64> =
        answer["basis"].as_array().unwrap().iter().map(|n| n.as_str().unwrap().parse().unwrap()).collect();
    assert_eq!((basis.len(), basis.iter().sum::<u64>()), (2, 4), "{answer}");
    assert_eq!(answer["freshness"]["age_us"], "0", "the newest fact has this key: {answer}");

    // The last payment got the same features; they include that payment.
    let row = "SELECT payments_1h, spent_1h, usual_1h, terminals_1h, payments_1d, spent_1d, usual_1d, terminals_1d, _tick \
               FROM features WHERE event_id = 'p-3'";
    let row = service.sql(row)["rows"][0].clone();
    let names = ["payments_1h", "spent_1h", "usual_1h", "terminals_1h"];
    let names: Vec<&str> =
        names.into_iter().chain(["payments_1d", "spent_1d", "usual_1d", "terminals_1d"]).collect();
    for (index, name) in names.iter().enumerate() {
        assert_eq!(answer["features"][name], row[index], "{name}: {answer}");
    }
    assert_eq!(answer["as_of"], row[8]);

    // A caller can recompute the digests from the answer.
    let quoted: Vec<String> = names.iter().map(|name| format!("{name:?}")).collect();
    let names_digest = Digest::of(format!("[{}]", quoted.join(",")).as_bytes());
    let basis = answer["basis"].to_string();
    let values: Vec<String> = names.iter().map(|name| answer["features"][name].to_string()).collect();
    let text = format!(
        r#"["tidegate.snapshot.v2","{names_digest}",{},"features/5",{basis},{}]"#,
        answer["as_of"],
        values.join(",")
    );
    assert_eq!(answer["snapshot_digest"], Digest::of(text.as_bytes()).to_hex(), "{text}");
    let version = format!(r#"["tidegate.graph.v1",{},{basis}]"#, answer["plan"]);
    assert_eq!(answer["graph_version"], Digest::of(version.as_bytes()).to_hex());

    // As of a later time: the next payment gets these features and itself on top.
    let at = tidegate_facts::time::to_rfc3339(1_767_225_600_000_000 + 4010 * 1_000_000);
    let next = service.get(&format!("/v1/features/features/5?at={at}")).json();
    let decided = service.post("/v1/decide", "application/json", &payment("p-9", 4010, 5, "2.00"));
    assert_eq!(decided.status, 200, "{}", decided.body);
    wait_for(&service, four, &json!(["5"]));
    let row = "SELECT payments_1h, spent_1h, payments_1d, spent_1d FROM features WHERE event_id = 'p-9'";
    let row = service.sql(row)["rows"][0].clone();
    assert_eq!(row, json!(["2", "2.25", "4", "22.00"]));
    assert_eq!(
        (&next["features"]["payments_1h"], &next["features"]["spent_1d"]),
        (&json!("1"), &json!("20.00"))
    );

    let unknown = service.get("/v1/features/features/77").json();
    assert_eq!(
        (&unknown["reason"], &unknown["features"]["payments_1d"]),
        (&json!("UNKNOWN_KEY"), &Value::Null)
    );
    assert_eq!(unknown["freshness"], Value::Null);
    let early = service.get("/v1/features/features/5?at=2025-12-31T00:00:00Z").json();
    assert_eq!(early["reason"], "BEYOND_RETENTION", "{early}");
    let nothing = service.get("/v1/features/featurs/5");
    assert_eq!(nothing.status, 404);
    assert!(nothing.body.contains("there are features"), "{}", nothing.body);
    let text = service.get("/v1/features/features/five");
    assert_eq!(text.status, 400, "{}", text.body);
    assert!(text.body.contains("customer_id"), "{}", text.body);
}

/// The topology `live` with two more timelines: one with string keys, and one of latest values.
fn with_more_timelines(folder: &Path) -> PathBuf {
    let policies = harness::file("tests/topologies/policies").display().to_string();
    let text = std::fs::read_to_string(harness::file("tests/topologies/live.toml")).unwrap();
    let more = r#"
[[node]]
name = "carded"
kind = "project"
input = "admitted"
passthrough = ["*"]
[node.columns]
card = "concat('card-', cast(customer_id as text))"

[[node]]
name = "by_card"
kind = "windows"
input = "carded"
key = "card"
lateness_max = "1m"
windows = ["1d"]
aggregates = { seen = "count(*)", spent_by_card = "sum(amount)" }

[[node]]
name = "at_terminal"
kind = "as_of"
input = "by_card"
timeline = "admitted"
key = "terminal_id"
effective = "ts_utc"
values = { last_amount = "amount" }

[[node]]
name = "seen_table"
kind = "sink.parquet"
input = "at_terminal"
"#;
    std::fs::write(folder.join("nothing.jsonl"), "").unwrap();
    let file = folder.join("timelines.toml");
    std::fs::write(&file, text.replace("\"policies/", &format!("\"{policies}/")) + more).unwrap();
    file
}

#[test]
fn every_timeline_is_a_table_and_can_be_queried_as_of_earlier_ticks() {
    let scratch = tempfile::tempdir().unwrap();
    let (topology, data) = (with_more_timelines(scratch.path()), scratch.path().join("data"));
    let service = Service::run(&topology, &data, &["-w", "2"]);
    let lines = |from: u64, to: u64| -> Vec<String> {
        (from..to).map(|i| payment(&format!("p-{i}"), i, i % 7, &format!("{i}.00"))).collect()
    };
    send(&service, &lines(0, 700));
    let counts = "SELECT (SELECT count(*) FROM features_rows) AS a, (SELECT count(*) FROM by_card_rows) AS b, \
                  (SELECT count(*) FROM at_terminal) AS c, \
                  (SELECT count(*) FROM facts WHERE event_type = 'payment.v1') AS d, tick FROM frontier";
    let until = Instant::now() + Duration::from_secs(30);
    let early = loop {
        let answer = service.sql(counts);
        let row = &answer["rows"][0];
        // At any time, all tables have the same number of rows.
        assert!((0..3).all(|index| row[index] == row[index + 1]), "{answer}");
        if row[0] == "700" {
            break row[4].as_str().unwrap().parse::<u64>().unwrap() - 1;
        }
        assert!(Instant::now() < until, "{answer}");
    };
    let listed = service.get("/v1/tables").body;
    for table in ["features_rows", "by_card_rows", "at_terminal_rows"] {
        assert!(listed.contains(table), "{listed}");
    }
    // A string key can be looked up by equality, and selected.
    let one = "SELECT card, count(*), min(amount), max(amount) FROM by_card_rows WHERE card = 'card-3' GROUP BY card";
    assert_eq!(service.sql(one)["rows"], json!([["card-3", "100", "3.00", "696.00"]]));
    let all = "SELECT card, count(*) FROM by_card_rows WHERE card LIKE 'card-%' GROUP BY card ORDER BY card";
    let expected: Value = (0..7).map(|card| json!([format!("card-{card}"), "100"])).collect();
    assert_eq!(service.sql(all)["rows"], expected);
    let two = "SELECT count(*) FROM features_rows WHERE customer_id IN (3, 4, 99)";
    assert_eq!(service.sql(two)["rows"], json!([["200"]]));
    for (condition, filtered) in [("customer_id = 3", false), ("customer_id > 5", true)] {
        let plan = service.sql(&format!("EXPLAIN SELECT * FROM features_rows WHERE {condition}")).to_string();
        assert_eq!(plan.contains("FilterExec"), filtered, "{condition}: {plan}");
    }
    // A lookup gives the rows of the planned statement, which one more condition forces.
    let look_ups = [
        ("*", "features_rows", "customer_id = 3", Some(100)),
        ("ts_utc, Customer_Id AS card", "features_rows", "3 = customer_id", Some(100)),
        ("k.amount, k._tick AS at", "by_card_rows AS k", "k.card = 'card-3'", Some(100)),
        ("card AS whose, *", "by_card_rows", "card = 'card-3'", Some(100)),
        ("ts_utc, *", "by_card_rows", "card = 'card-3'", None), // A duplicate name.
        ("*", "at_terminal_rows", "terminal_id = 3", Some(1)),
        ("*", "features_rows", "customer_id = 99", Some(0)),
        ("*", "features_rows", "customer_id = 9999999999", Some(0)),
    ];
    for (columns, table, condition, count) in look_ups {
        let sql = format!("SELECT {columns} FROM {table} WHERE {condition}");
        assert_eq!(lookup_rows(&service, &sql), count, "{sql}");
    }
    // A timeline of latest values has one row a key.
    let latest = "SELECT terminal_id, last_amount FROM at_terminal_rows";
    assert_eq!(service.sql(latest)["rows"], json!([[3, "699.00"]]));

    send(&service, &lines(700, 1400));
    wait_for(&service, "SELECT count(*) FROM at_terminal", &json!(["1400"]));
    let then = |table: &str| format!("SELECT count(*) FROM as_of('{table}', {early})");
    for table in ["features_rows", "by_card_rows", "at_terminal", "decisions", "facts", "receipts"] {
        assert_eq!(service.sql(&then(table))["rows"], json!([["700"]]), "{table}");
    }
    let latest = format!("SELECT terminal_id, last_amount FROM as_of('at_terminal_rows', {early})");
    assert_eq!(service.sql(&latest)["rows"], json!([[3, "699.00"]]));
    let early_quarantine = format!("SELECT count(*) FROM as_of('quarantine', {early})");
    send(&service, &["no JSON".to_owned()]);
    assert_eq!(service.sql("SELECT count(*) FROM quarantine")["rows"], json!([["1"]]));
    assert_eq!(service.sql(&early_quarantine)["rows"], json!([["0"]]));

    // Once merges may have compacted that tick, the statement is refused and the error names the
    // first tick that can be read.
    let until = Instant::now() + Duration::from_secs(60);
    let mut next = 1400;
    let refused = loop {
        send(&service, &lines(next, next + 700));
        next += 700;
        let body = json!({ "sql": then("at_terminal_rows") }).to_string();
        let response = service.post("/v1/sql", "application/json", &body);
        if response.status != 200 {
            break response;
        }
        assert!(Instant::now() < until, "{}", response.body);
    };
    assert!(refused.body.contains("can be read as of"), "{}", refused.body);
    wait_for(&service, "SELECT count(*) FROM at_terminal", &json!([next.to_string()]));
    // More rows of one key than a lookup reads on the thread of the call.
    let payments: Vec<String> =
        (0..600).map(|i| payment(&format!("p-{}", next + i), next + i, 77, "1.00")).collect();
    send(&service, &payments);
    wait_for(&service, "SELECT count(*) FROM at_terminal", &json!([(next + 600).to_string()]));
    let of_77 = "SELECT * FROM by_card_rows WHERE card = 'card-77'";
    assert_eq!(lookup_rows(&service, of_77), Some(600));
    let whole = service.sql(counts)["rows"][0].clone();
    service.stop();

    let service = Service::run(&topology, &data, &["-w", "1"]);
    wait_for(&service, counts, &whole);
    assert_eq!(service.sql(one)["rows"][0][1], (0..next).filter(|i| i % 7 == 3).count().to_string());
}

#[test]
fn two_reads_as_of_one_tick_are_equal_while_facts_arrive_at_full_rate() {
    const RATE: u64 = 50_000;
    const CALL: u64 = 5_000;
    let scratch = tempfile::tempdir().unwrap();
    let commits = ["--set", "commit_rows=100000", "-w", "2"];
    let service = Service::start(&scratch.path().join("data"), &commits);
    let (stop, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    // Built in advance, so that the senders only send.
    let calls: Vec<String> = (0..40)
        .map(|call| {
            let lines = (call * CALL..(call + 1) * CALL)
                .map(|i| payment_at(&format!("p-{i}"), i as i64 * 20, i % 5000, "3.00"));
            lines.collect::<Vec<_>>().join("\n")
        })
        .collect();
    let began = Instant::now();
    std::thread::scope(|scope| {
        let (stop, sent, calls, service) = (&stop, &sent, &calls, &service);
        // Two callers, each of which waits for its responses.
        let send = move |first: usize| {
            for (number, call) in calls.iter().enumerate().skip(first).step_by(2) {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let due = began + Duration::from_secs_f64((number as u64 * CALL) as f64 / RATE as f64);
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                let response = service.post("/v1/facts", "application/x-ndjson", call);
                assert!([200, 429].contains(&response.status), "{}", response.body);
                if response.status == 200 {
                    sent.fetch_add(CALL, Ordering::Relaxed);
                }
            }
        };
        scope.spawn(move || send(0));
        scope.spawn(move || send(1));
        let query = "SELECT tick, (SELECT count(*) FROM decisions) AS a, (SELECT count(*) FROM features_rows) AS b, \
                   (SELECT count(*) FROM features_rows WHERE customer_id = 7) AS c, \
                   (SELECT count(*) FROM facts WHERE event_type = 'payment.v1') AS d FROM frontier";
        // Pairs of reads during which facts were admitted.
        let mut pairs = 0;
        while pairs < 3 && sent.load(Ordering::Relaxed) < calls.len() as u64 * CALL {
            let before = sent.load(Ordering::Relaxed);
            let first = service.sql(query)["rows"][0].clone();
            assert!(first[1] == first[2] && first[1] == first[4], "tables as of one tick: {first}");
            let tick: u64 = first[0].as_str().unwrap().parse().unwrap();
            if tick == 0 {
                continue;
            }
            let again = query.replace("FROM frontier", "").replace("tick, ", "");
            let again = ["decisions", "features_rows", "facts"].iter().fold(again, |sql, table| {
                sql.replace(&format!("FROM {table}"), &format!("FROM as_of('{table}', {})", tick - 1))
            });
            let second = service.sql(&again)["rows"][0].clone();
            assert_eq!(second.as_array().unwrap()[..], first.as_array().unwrap()[1..], "as of {tick}");
            let arrived = sent.load(Ordering::Relaxed) - before;
            if arrived > 0 {
                pairs += 1;
                println!(
                    "as of {tick}: {} decisions in both reads, while {arrived} facts were admitted",
                    first[1]
                );
            }
        }
        assert!(pairs > 0, "no facts were admitted during the reads");
        stop.store(true, Ordering::Relaxed);
        let rate = sent.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64();
        println!("{rate:.0} facts/s were admitted during the reads; {RATE} were offered");
    });
}
