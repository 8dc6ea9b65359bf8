//! Governed changes while a topology is up: steps over HTTP are those of the command line, and a
//! revision takes effect without a stop.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use crate::harness;
use crate::service::{Response, Service, payment};

/// Rules that block payments which the topology's own rules allow.
const STRICT: &str = r#"id = "payments-rules"
version = "2"
score = "cast(payments_1d as double)"

[[rule]]
id = "any"
when = "amount > 1"
action = "BLOCK"
reason = "ANY"
"#;

/// A topology that can be revised, and a key for each person.
struct World {
    scratch: tempfile::TempDir,
    topology: PathBuf,
    keys: Vec<(&'static str, String)>,
}

impl World {
    fn new() -> World {
        let scratch = tempfile::tempdir().unwrap();
        let text = |name: &str| std::fs::read_to_string(harness::file(name)).unwrap();
        let payments = text("tests/topologies/payments.toml");
        let run = payments.split("\n\n").find(|part| part.starts_with("[run]")).unwrap();
        std::fs::create_dir(scratch.path().join("policies")).unwrap();
        for name in ["policies/payments-gate.toml", "policies/payments-rules.toml"] {
            std::fs::write(scratch.path().join(name), text(&format!("tests/topologies/{name}"))).unwrap();
        }
        let live = text("tests/topologies/live.toml");
        let topology = scratch.path().join("governed.toml");
        std::fs::write(&topology, live.replacen("\n\n", &format!("\n\n{run}\n\n"), 1)).unwrap();
        std::fs::write(scratch.path().join("nothing.jsonl"), "").unwrap();
        let people = [
            ("till", "producer"),
            ("ann", "reader author"),
            ("bob", "reader approver"),
            ("eve", "reader author approver"),
        ];
        let keys = people.map(|(id, roles)| {
            let roles = roles.split(' ').flat_map(|role| ["--role", role]);
            let made = Command::new(env!("CARGO_BIN_EXE_tidegate"))
                .args(["keys", "api", "--id", id, "--file"])
                .arg(scratch.path().join("keys.toml"))
                .args(roles)
                .output()
                .unwrap();
            assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
            (id, String::from_utf8(made.stdout).unwrap().trim().to_owned())
        });
        World { topology, keys: keys.into(), scratch }
    }

    fn start(&self, data: &Path, workers: &str) -> Service {
        let keys = self.scratch.path().join("keys.toml");
        Service::run(&self.topology, data, &["--api-keys", keys.to_str().unwrap(), "-w", workers])
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// Sends a request as `who`: a GET when the body is empty, otherwise a POST.
    fn call(&self, service: &Service, who: &str, path: &str, body: &str) -> Response {
        let (_, key) = self.keys.iter().find(|(id, _)| *id == who).unwrap();
        let method = if body.is_empty() { "GET" } else { "POST" };
        service.request(&format!("{method} {path} HTTP/1.1\r\nauthorization: Bearer {key}"), body.as_bytes())
    }

    fn post(&self, service: &Service, who: &str, path: &str, body: &Value) -> Value {
        let response = self.call(service, who, path, &body.to_string());
        assert_eq!(response.status, 200, "{who} {path}: {}", response.body);
        response.json()
    }

    fn propose(&self, service: &Service, text: &str) -> String {
        let body = json!({"node": "decisions", "text": text, "reason": "test"});
        self.post(service, "ann", "/v1/revisions", &body)["proposal_id"].as_str().unwrap().to_owned()
    }

    /// Bob takes a step over HTTP.
    fn step(&self, service: &Service, id: &str, step: &str) -> Value {
        self.post(service, "bob", &format!("/v1/revisions/{id}/{step}"), &json!({"reason": "fine"}))
    }

    /// Sends the payments with these numbers, all of which are admitted.
    fn send(&self, service: &Service, numbers: std::ops::Range<u64>) {
        service.until_ready();
        let lines: Vec<String> = numbers.map(|i| payment(&format!("p-{i}"), i, i % 7, "3.00")).collect();
        let (_, key) = &self.keys[0];
        let head = format!(
            "POST /v1/facts HTTP/1.1\r\ncontent-type: application/x-ndjson\r\nauthorization: Bearer {key}"
        );
        let response = service.request(&head, lines.join("\n").as_bytes());
        assert_eq!(response.status, 200, "{}", response.body);
        assert_eq!(response.body.matches("\"admitted\"").count(), lines.len(), "{}", response.body);
    }

    /// Bob takes a step on the command line.
    fn take_step_offline(&self, data: &Path, arguments: &[&str]) {
        let output = Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .args(["policy", arguments[0]])
            .arg(&self.topology)
            .arg("--data")
            .arg(data)
            .args(["--actor", "bob", "--reason", "fine"])
            .args(&arguments[1..])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn a_step_in_a_running_service_gives_the_commits_of_a_step_between_two_runs() {
    let world = World::new();
    let (live, cold) = (world.path("live"), world.path("cold"));
    let service = world.start(&live, "2");
    world.send(&service, 0..1700);
    let id = world.propose(&service, STRICT);
    assert_eq!(world.step(&service, &id, "approve")["step"], "approved");
    let activated = world.step(&service, &id, "activate");
    assert_eq!((&activated["step"], &activated["repeated"]), (&json!("activated"), &json!(false)));
    world.send(&service, 1700..2900);
    world.step(&service, &id, "rollback");
    world.send(&service, 2900..3100);
    service.stop();

    let service = world.start(&cold, "1");
    world.send(&service, 0..1700);
    assert_eq!(world.propose(&service, STRICT), id, "the id of a proposal follows from its content");
    world.step(&service, &id, "approve");
    service.stop();
    world.take_step_offline(&cold, &["activate", "--id", &id]);
    let service = world.start(&cold, "1");
    world.send(&service, 1700..2900);
    service.stop();
    world.take_step_offline(&cold, &["rollback", "--node", "decisions"]);
    let service = world.start(&cold, "1");
    world.send(&service, 2900..3100);
    service.stop();

    let (of_live, of_cold) =
        (harness::committed(&live.join("store")), harness::committed(&cold.join("store")));
    let names = |files: &[(String, Vec<u8>)]| files.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&of_live), names(&of_cold));
    assert!(of_live.len() > 6, "there is something to compare: {:?}", names(&of_live));
    let differing = of_live.iter().zip(&of_cold).filter(|(a, b)| a != b).map(|(a, _)| a.0.clone());
    assert_eq!(differing.collect::<Vec<_>>(), Vec::<String>::new());
    let by_rules = harness::table(
        &live,
        "SELECT bundle_version AS rules, count(*) AS n, min(_tick) < max(_tick) AS several FROM decisions GROUP BY 1 ORDER BY 1",
    );
    expect_test::expect![[r#"
        +-------+------+---------+
        | rules | n    | several |
        +-------+------+---------+
        | 1     | 1900 | true    |
        | 2     | 1200 | true    |
        +-------+------+---------+"#]]
    .assert_eq(&by_rules);
}

#[test]
fn no_acknowledged_fact_is_lost_or_decided_twice_while_revisions_take_effect() {
    let world = World::new();
    let data = world.path("data");
    let service = world.start(&data, "2");
    let (_, key) = &world.keys[0];
    let over = AtomicBool::new(false);
    let (acknowledged, refused) = std::thread::scope(|scope| {
        let senders: Vec<_> = (0..3u64)
            .map(|sender| {
                let (service, over) = (&service, &over);
                scope.spawn(move || {
                    let (mut acknowledged, mut refused) = (0u64, 0u64);
                    let mut i = sender;
                    // The last payment of a sender follows the last change.
                    for last in std::iter::repeat_with(|| over.load(Ordering::Acquire)) {
                        let body = payment(&format!("p-{i}"), i / 10, i % 7, "3.00");
                        let head = format!(
                            "POST /v1/decide?timeout_ms=20000 HTTP/1.1\r\nauthorization: Bearer {key}"
                        );
                        let response = service.request(&head, body.as_bytes());
                        match response.status {
                            200 => {
                                assert_eq!(
                                    response.json()["receipt"]["verdict"],
                                    "admitted",
                                    "{}",
                                    response.body
                                );
                                acknowledged += 1;
                                i += 3;
                                if last {
                                    break;
                                }
                            }
                            503 => {
                                assert!(response.head.contains("retry-after: 1"), "{}", response.head);
                                refused += 1;
                            }
                            other => panic!("{other}: {}", response.body),
                        }
                    }
                    (acknowledged, refused)
                })
            })
            .collect();
        for round in 0..3 {
            service.until_ready();
            let id = world.propose(&service, &STRICT.replace("\"2\"", &format!("\"{}\"", round + 2)));
            world.step(&service, &id, "approve");
            world.step(&service, &id, "activate");
            service.until_ready();
            if round == 1 {
                world.step(&service, &id, "rollback");
            }
        }
        service.until_ready();
        over.store(true, Ordering::Release);
        let sums = senders.into_iter().map(|sender| sender.join().unwrap());
        sums.fold((0, 0), |(a, b), (c, d)| (a + c, b + d))
    });
    assert!(acknowledged > 20, "{acknowledged} acknowledged, {refused} refused");
    service.stop();
    let counted = harness::table(
        &data,
        "SELECT count(*) AS n, count(DISTINCT event_id) AS events, count(DISTINCT bundle_version) > 1 AS revised FROM decisions",
    );
    assert!(counted.contains(&format!("| {acknowledged} ")), "{acknowledged} acknowledged:\n{counted}");
    assert!(counted.contains("true"), "{counted}");
    let verified =
        Command::new(env!("CARGO_BIN_EXE_tidegate")).args(["verify", "--data"]).arg(&data).output().unwrap();
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
}

#[test]
fn a_step_over_http_needs_the_role_and_follows_the_rules_of_the_lifecycle() {
    let world = World::new();
    let service = world.start(&world.path("data"), "1");
    let propose =
        |text: &str, reason: &str| json!({"node": "decisions", "text": text, "reason": reason}).to_string();
    let fine = json!({"reason": "fine"}).to_string();
    let id = world.post(
        &service,
        "eve",
        "/v1/revisions",
        &json!({"node": "decisions", "text": STRICT, "reason": "test"}),
    )["proposal_id"]
        .as_str()
        .unwrap()
        .to_owned();
    // From here on the file differs from what the service read at its start, which must change
    // nothing.
    std::fs::write(world.path("policies/payments-rules.toml"), "an unfinished edit").unwrap();
    let step_path = |step: &str| format!("/v1/revisions/{id}/{step}");
    let cases = [
        ("bob", "/v1/revisions".to_owned(), propose(STRICT, "mine"), 403, "lacks the role `author`"),
        ("ann", step_path("approve"), fine.clone(), 403, "lacks the role `approver`"),
        ("till", "/v1/revisions".to_owned(), String::new(), 403, "lacks the role `reader`"),
        ("ann", "/v1/revisions".to_owned(), propose("id = 7", "x"), 422, "cannot come into force"),
        (
            "ann",
            "/v1/revisions".to_owned(),
            propose(&STRICT.replace("amount", "amoun").replace("\"2\"", "\"9\""), "x"),
            422,
            "amoun",
        ),
        ("ann", "/v1/revisions".to_owned(), propose(STRICT, " "), 400, "give the reason"),
        (
            "ann",
            "/v1/revisions".to_owned(),
            propose(STRICT, "x").replace("decisions", "features"),
            404,
            "`decisions`",
        ),
        (
            "ann",
            "/v1/revisions".to_owned(),
            r#"{"node": "decisions", "actor": "bob"}"#.to_owned(),
            400,
            "the body is not",
        ),
        ("bob", step_path("activate"), fine.clone(), 409, "have it approved first"),
        ("eve", step_path("approve"), fine.clone(), 403, "someone else must approve it"),
        ("bob", "/v1/revisions/ffff/approve".to_owned(), fine.clone(), 404, "there is no proposal ffff"),
        ("bob", step_path("bless"), fine.clone(), 404, "there is no step `bless`"),
        ("bob", step_path("approve"), fine.clone(), 200, "approved"),
        ("bob", step_path("approve"), fine.clone(), 200, "\"repeated\":true"),
        ("bob", step_path("activate"), fine.clone(), 200, "activated"),
    ];
    for (who, path, body, status, expected) in cases {
        let response = world.call(&service, who, &path, &body);
        assert_eq!(response.status, status, "{who} {path} {body}: {}", response.body);
        assert!(response.body.contains(expected), "{who} {path}: {}", response.body);
    }
    service.until_ready();
    let revisions = world.call(&service, "bob", "/v1/revisions", "").json();
    let node =
        |name: &str| revisions["effective"].as_array().unwrap().iter().find(|of| of["node"] == name).unwrap();
    let (decisions, gate) = (node("decisions"), node("admitted"));
    assert_eq!((&decisions["revision_version"], &decisions["proposal_id"]), (&json!("2"), &json!(id)));
    assert_eq!((&gate["since_utc"], gate["text"].is_string()), (&Value::Null, true), "{gate}");
    let steps = revisions["steps"].as_array().unwrap().iter();
    let steps: Vec<&str> = steps.map(|step| step["step"].as_str().unwrap()).collect();
    assert_eq!(steps, ["activated", "approved", "proposed"], "a refused step leaves no record");
    let next =
        |who: &str| world.call(&service, who, "/v1/revisions", "").json()["proposals"][0]["next"].clone();
    assert_eq!(next("bob"), json!([{"step": "rollback", "refused": null}]));
    assert!(next("ann")[0]["refused"].as_str().unwrap().contains("`approver`"));
    let whole = world.call(&service, "ann", &format!("/v1/revisions/{}", &id[..8]), "").json();
    assert_eq!((&whole["text"], &whole["state"]), (&json!(STRICT), &json!("in force")));
    assert!(whole["before_text"].as_str().unwrap().contains("many-in-an-hour"), "{whole}");
    assert!(
        whole["changes"].as_array().unwrap().iter().any(|change| change["about"] == "rule any"),
        "{whole}"
    );
    assert_eq!(world.call(&service, "ann", "/v1/whoami", "").json()["roles"], json!(["reader", "author"]));
    let service_status = world.call(&service, "ann", "/v1/status", "").json();
    assert_eq!(service_status["file"], json!(world.topology), "{service_status}");
    assert_eq!(world.call(&service, "ann", "/v1/backfills", "").json(), json!({"backfills": []}));
}
