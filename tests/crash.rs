//! A run that is killed at any moment and started again ends as one that never was.

mod common;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

fn command(data: &Path, workers: u32) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command
        .arg("run")
        .arg(common::file("dataflows/fraud.toml"))
        .args(["--until-idle", "--data"])
        .arg(data)
        .args(["-w", &workers.to_string()])
        .args([
            "--set",
            "transactions.world={ seed = 11, customers = 400, terminals = 100, days = 30, radius = 9.0 }",
        ])
        .args(["--set", "commit_rows=2000", "--set", "batch_rows=500"])
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

#[test]
fn killed_runs_end_like_undisturbed_ones() {
    let scratch = tempfile::tempdir().unwrap();
    let whole = scratch.path().join("whole");
    assert!(command(&whole, 1).status().unwrap().success());
    let expected = common::files(&whole.join("store"));
    assert!(expected.len() > 20, "several commits");
    // Where a run is killed is up to the machine; what must hold is not.
    let killed = scratch.path().join("killed");
    for (workers, wait_ms) in [(1, 30), (2, 70), (3, 110), (1, 45), (2, 160), (3, 90), (1, 220), (2, 130)] {
        let mut running = command(&killed, workers).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(wait_ms));
        running.kill().unwrap();
        running.wait().unwrap();
    }
    assert!(
        command(&killed, 2).status().unwrap().success(),
        "the last run goes on where the killed ones ended"
    );
    let left: Vec<_> = common::files(&killed.join("store"))
        .into_iter()
        .filter(|(name, _)| !name.contains(".unfinished-"))
        .collect();
    assert_eq!(left.len(), expected.len());
    for (one, other) in expected.iter().zip(&left) {
        assert_eq!(one.0, other.0);
        assert!(one.1 == other.1, "{} differs", one.0);
    }
    let receipts = common::table(&killed, "SELECT count(*) AS n, count(DISTINCT event_id) AS ids FROM facts");
    assert_eq!(
        receipts,
        common::table(&whole, "SELECT count(*) AS n, count(DISTINCT event_id) AS ids FROM facts")
    );
}
