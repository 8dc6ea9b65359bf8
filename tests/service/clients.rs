//! Drivers of other languages: `tests/clients/` against a service, with and without passwords. Each is run where it is installed.

use super::*;

/// Where Debian has the driver of Java.
const JAR: &str = "/usr/share/java/postgresql.jar";

/// Runs a client where what it needs is there.
fn run(needs: &[&str], command: &[&str], service: &Service, user: &str, password: &str) {
    let has_jar = !needs.contains(&JAR) || Path::new(JAR).is_file();
    let is_there =
        Command::new(needs[0]).args(&needs[1..]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !has_jar || !is_there.is_ok_and(|status| status.success()) {
        eprintln!("{needs:?} does not run: its client is not tried");
        return;
    }
    let (host, port) = (service.postgres.ip().to_string(), service.postgres.port().to_string());
    let output = Command::new(command[0])
        .args(&command[1..])
        .args([&host, &port, user, password, "1500"])
        .current_dir(harness::file("tests/clients"))
        .output()
        .unwrap();
    let (said, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.trim_end().ends_with("ok"), "{command:?}: {said}\n{error}");
}

#[test]
fn drivers_of_other_languages_connect_list_tables_ask_fetch_and_cancel() {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("keys.toml");
    let key = |id: &str, role: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        let made =
            command.args(["keys", "api", "--id", id, "--role", role, "--file"]).arg(&file).output().unwrap();
        String::from_utf8(made.stdout).unwrap().trim().to_owned()
    };
    let (reader, producer) = (key("analyst", "reader"), key("till", "producer"));
    for (user, password) in [("tidegate", ""), ("analyst", reader.as_str())] {
        let data = scratch.path().join(user);
        let (service, authorization) = match password {
            "" => (Service::start(&data, &[]), String::new()),
            _ => (Service::keyed(&data, &file), format!("\r\nauthorization: Bearer {producer}")),
        };
        let lines: Vec<String> = (0..1500).map(|i| payment(&format!("p-{i}"), i, i % 7, "3.00")).collect();
        let head = format!("POST /v1/facts HTTP/1.1\r\ncontent-type: application/x-ndjson{authorization}");
        assert_eq!(service.ask(&head, lines.join("\n").as_bytes()).status, 200);
        let last = payment("p-1499", 1499, 1499 % 7, "3.00"); // Its decision comes after all others.
        let head = format!("POST /v1/decide?within_ms=20000 HTTP/1.1{authorization}");
        let until = Instant::now() + Duration::from_secs(20);
        while service.ask(&head, last.as_bytes()).json()["decision"].is_null() {
            assert!(Instant::now() < until);
        }
        run(
            &["python3", "-c", "import psycopg"],
            &["python3", "psycopg_client.py"],
            &service,
            user,
            password,
        );
        run(
            &["python3", "-c", "import sqlalchemy, psycopg"],
            &["python3", "sqlalchemy_client.py"],
            &service,
            user,
            password,
        );
        run(
            &["java", "-cp", JAR, "-version"],
            &["java", "-cp", JAR, "JdbcClient.java"],
            &service,
            user,
            password,
        );
        if let Some(listed) = psql(&service, user, password, "\\d decisions") {
            let said = String::from_utf8_lossy(&listed.stdout).into_owned();
            assert!(
                listed.status.success() && said.contains("event_id"),
                "{said}{}",
                String::from_utf8_lossy(&listed.stderr)
            );
        }
    }
}
