//! The drivers of other languages in `tests/clients/`, against a service with and without
//! passwords. Each runs where it is installed.

use super::*;

/// Where Debian installs the driver of Java.
const JAR: &str = "/usr/share/java/postgresql.jar";

/// Runs a client if the command `needs` succeeds.
fn run(needs: &[&str], command: &[&str], service: &Service, user: &str, password: &str) {
    let has_jar = !needs.contains(&JAR) || Path::new(JAR).is_file();
    let is_there =
        Command::new(needs[0]).args(&needs[1..]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !has_jar || !is_there.is_ok_and(|status| status.success()) {
        eprintln!("{needs:?} does not run: its client is not tested");
        return;
    }
    let (host, port) = (service.postgres.ip().to_string(), service.postgres.port().to_string());
    let output = Command::new(command[0])
        .args(&command[1..])
        .args([&host, &port, user, password, "1500"])
        .current_dir(harness::file("tests/clients"))
        .output()
        .unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && stdout.trim_end().ends_with("ok"), "{command:?}: {stdout}\n{stderr}");
}

#[test]
fn drivers_of_other_languages_connect_list_tables_query_fetch_and_cancel() {
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
        assert_eq!(service.request(&head, lines.join("\n").as_bytes()).status, 200);
        let last = payment("p-1499", 1499, 1499 % 7, "3.00"); // Its decision comes after all others.
        let head = format!("POST /v1/decide?timeout_ms=20000 HTTP/1.1{authorization}");
        let until = Instant::now() + Duration::from_secs(20);
        while service.request(&head, last.as_bytes()).json()["decisions"][0].is_null() {
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
            &["python3", "-c", "import psycopg"],
            &["python3", "dialect_client.py"],
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
        for (command, expected) in PSQL {
            let Some(listed) = psql(&service, user, password, command) else { break };
            let stdout = String::from_utf8_lossy(&listed.stdout).into_owned();
            let stderr = String::from_utf8_lossy(&listed.stderr);
            assert!(
                listed.status.success()
                    && stdout.contains(expected)
                    && (stderr.is_empty() || stderr.starts_with("Did not find any")),
                "{command}: {stdout}{stderr}"
            );
        }
    }
}

/// Commands of psql, and a word of the answer to each.
const PSQL: [(&str, &str); 30] = [
    ("\\l", "UTF-8"),
    ("\\l+", "tidegate"),
    ("\\d", "decisions"),
    ("\\d decisions", "event_id"),
    ("\\d+", "decisions"),
    ("\\d+ decisions", "numeric(12,2)"),
    ("\\d pg_catalog.pg_class", "relname"),
    ("\\dt", "decisions"),
    ("\\dt+", "decisions"),
    ("\\dv", ""),
    ("\\dm", ""),
    ("\\di", ""),
    ("\\ds", ""),
    ("\\dn", "public"),
    ("\\dn+", "public"),
    ("\\da", ""),
    ("\\dp", "decisions"),
    ("\\dT", ""),
    ("\\dT+ timestamptz", "timestamp with time zone"),
    ("\\db", "pg_default"),
    ("\\dC", ""),
    ("\\do", ""),
    ("\\dD", ""),
    ("\\dE", ""),
    ("\\dO", ""),
    ("\\du", ""),
    ("\\df", ""),
    ("\\dx", ""),
    ("\\conninfo", "tidegate"),
    ("\\encoding", "UTF8"),
];

/// Reads every table of a service by `psycopg` and `psql`.
fn read_all(service: &Service) {
    let has_client = Command::new("python3").args(["-c", "import psycopg"]).status();
    if has_client.is_ok_and(|status| status.success()) {
        let postgres = service.postgres;
        let output = Command::new("python3")
            .args(["tables_client.py", &postgres.ip().to_string(), &postgres.port().to_string()])
            .args([&service.http.port().to_string(), "tidegate", ""])
            .current_dir(harness::file("tests/clients"))
            .output()
            .unwrap();
        let (stdout, stderr) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(stdout.trim_end().ends_with("ok"), "{stdout}\n{stderr}");
    } else {
        eprintln!("psycopg is not installed: it does not read the tables");
    }
    let Some(listed) = psql(service, "tidegate", "", "SHOW TABLES") else { return };
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(listed.lines().any(|table| table == "facts"), "{listed}");
    for table in listed.lines() {
        let output = psql(service, "tidegate", "", &format!("SELECT * FROM {table} LIMIT 2"))
            .expect("psql is installed");
        let (stdout, stderr) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && stderr.is_empty(), "{table}: {stdout}{stderr}");
        let counted = service.sql(&format!("SELECT count(*) FROM {table}"))["rows"][0][0].clone();
        let counted: usize = counted.as_str().unwrap().parse().unwrap();
        assert_eq!(stdout.lines().count(), counted.min(2), "{table}: {stdout}");
        assert_eq!(
            stdout.contains("\\x"),
            stdout.lines().count() > 0 && has_bytes(service, table),
            "{table}: {stdout}"
        );
    }
}

/// Whether the first rows of a table hold bytes.
fn has_bytes(service: &Service, table: &str) -> bool {
    let first = service.sql(&format!("SELECT * FROM {table} LIMIT 2"));
    let columns = first["columns"].as_array().unwrap();
    let of_bytes = (0..columns.len()).filter(|at| columns[*at]["type"] == "binary");
    of_bytes
        .flat_map(|at| first["rows"].as_array().unwrap().iter().map(move |row| &row[at]))
        .any(|value| !value.is_null())
}

#[test]
fn every_table_of_a_topology_can_be_read_as_text_and_in_binary() {
    let scratch = tempfile::tempdir().unwrap();
    let service = Service::start(&scratch.path().join("live"), &[]);
    let mut lines: Vec<String> = (0..40).map(|i| payment(&format!("p-{i}"), i, i % 7, "3.00")).collect();
    lines.push("no JSON, ü'\"\\".to_owned());
    assert_eq!(service.post("/v1/facts", "application/x-ndjson", &lines.join("\n")).status, 200);
    let until = Instant::now() + Duration::from_secs(20);
    while service.sql("SELECT count(*) FROM decisions")["rows"][0][0] != "40" {
        assert!(Instant::now() < until);
    }
    read_all(&service);
    service.stop();
    let set = "transactions.world={ seed = 42, customers = 20, terminals = 20, days = 10, start = \"2026-01-01T00:00:00.000000Z\" }";
    let topology = harness::file("dataflows/fraud.toml");
    let service = Service::run(&topology, &scratch.path().join("fraud"), &["-w", "2", "--set", set]);
    read_all(&service);
    service.stop();
    let set = "claim_declarations.world={ seed = 7, percent = 1, hours = 10 }";
    let topology = harness::file("dataflows/credibility.toml");
    let service = Service::run(&topology, &scratch.path().join("credibility"), &["-w", "2", "--set", set]);
    read_all(&service);
}
