//! The credibility topology: three simulated days give the same tables with any number of workers,
//! in any batches and after any restart.

use std::path::Path;

use arrow::array::AsArray;
use arrow::datatypes::{Int32Type, Int64Type, TimestampMicrosecondType};
use tidegate_facts::Tick;
use tidegate_replay::{compare, replay};

use crate::harness;

const HOUR: i64 = 3_600_000_000;
const START: i64 = 1_767_225_600_000_000;

fn topology() -> std::path::PathBuf {
    harness::file("dataflows/credibility.toml")
}

fn world(percent: u32, hours: u32) -> String {
    format!("claim_declarations.world={{ seed = 7, percent = {percent}, hours = {hours} }}")
}

#[test]
fn workers_and_batches_do_not_change_a_byte_of_the_output() {
    let scratch = tempfile::tempdir().unwrap();
    let mut first = None;
    for (workers, batch_rows) in [(1, 100_000), (2, 1_000), (4, 73)] {
        let data = scratch.path().join(format!("{workers}-{batch_rows}"));
        let set = [world(2, 19), "commit_rows=4000".to_owned(), format!("batch_rows={batch_rows}")];
        let plan = harness::plan(&topology(), &set);
        let report = harness::run_plan(&plan, &data, workers);
        assert!(report.commits.list.len() > 3, "several commits");
        let files = harness::committed(&data.join("store"));
        let first = first.get_or_insert_with(|| files.clone());
        let how = format!("with {workers} workers in batches of {batch_rows}");
        harness::assert_same_files(first, &files, &how);
    }
    let (data, plan) = (scratch.path().join("1-100000"), [world(2, 19), "commit_rows=4000".to_owned()]);
    let plan = harness::plan(&topology(), &plan);
    let live = harness::run_plan(&plan, &data, 2);
    assert_eq!(live.counts.records(), 0, "a second run adds nothing");
    for workers in [1, 3] {
        let out = scratch.path().join(format!("replayed-{workers}"));
        let again = replay(&plan, &data, &out, workers, &harness::metrics(&plan)).unwrap();
        assert_eq!(compare(&live.commits, &again), None, "replayed on {workers} workers");
    }
}

/// Reports of twelve streams, a hundred an hour. Some are late and some are degraded.
fn reports(rows: u64) -> Vec<String> {
    let mixed = |number: u64| {
        let number = (number ^ (number >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        (number ^ (number >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB) >> 9
    };
    let line = |row: u64| {
        let draw = |purpose: u64, end: u64| mixed(row * 31 + purpose + 1) % end;
        let ingest = START + row as i64 * 36_000_000;
        let late = if draw(0, 8) == 0 { draw(1, 1500) } else { draw(1, 3) } as i64;
        let storm = (row / 100) % 2 == 1;
        let status = if draw(2, if storm { 3 } else { 20 }) == 0 { "DEGRADED" } else { "OK" };
        let confidence = if storm { draw(3, 1000) } else { 900 + draw(3, 90) };
        let time = tidegate_facts::time::to_rfc3339;
        format!(
            "r-{row},claim-{},source-{},{},{},v{},{status},0.{confidence:03},{},{},{}\n",
            draw(4, 4),
            draw(5, 3),
            ["east", "west"][draw(6, 2) as usize],
            draw(7, 2),
            draw(8, 10) / 8,
            time(ingest - late * 1_000_000 - 1),
            time(ingest),
            600 + draw(9, 4) * 300,
        )
    };
    (0..rows).map(line).collect()
}

/// The rows of every table that is compared, printed.
fn output_rows(data: &Path) -> String {
    ["claim_flips", "drift", "drift_periods", "credibility_history"]
        .map(|table| harness::table(data, &format!("SELECT * FROM {table} ORDER BY _tick")))
        .concat()
}

const HEADER: &str =
    "evidence_id,claim_id,source_id,region,tier,value,status,confidence,event_time,ingest_time,ttl_s\n";

#[test]
fn a_checkpoint_does_not_grow_while_evidence_is_only_refreshed() {
    let scratch = tempfile::tempdir().unwrap();
    let lines = reports(9_000);
    let csv = scratch.path().join("reports.csv");
    let size_after = |upto: usize| {
        std::fs::write(&csv, format!("{HEADER}{}", lines[..upto].concat())).unwrap();
        let set = [
            format!("reports.path={}", csv.display()),
            "commit_rows=500".to_owned(),
            "snapshot_rows=1000".to_owned(),
        ];
        let plan = harness::plan(&harness::file("tests/topologies/reports.toml"), &set);
        let data = scratch.path().join("data");
        harness::run_plan(&plan, &data, 2);
        let mut checkpoints = harness::files(&data.join("store"));
        checkpoints.retain(|(name, _)| name.starts_with("state/") && name.ends_with(".json"));
        let (_, newest) = checkpoints.pop().expect("a run writes checkpoints");
        let newest: serde_json::Value = serde_json::from_slice(&newest).unwrap();
        let files = newest["state"]["files"].as_array().unwrap();
        let rows = |file: &serde_json::Value| file["rows"].as_u64().unwrap();
        let rows_of = |matches: &dyn Fn(&str) -> bool| -> u64 {
            files.iter().filter(|file| matches(file["timeline"].as_str().unwrap())).map(rows).sum()
        };
        assert!(
            rows_of(&|timeline| timeline.ends_with("/snapshot")) > 0,
            "states have snapshots: {newest:#}"
        );
        // Drift retains the rows of a day, every other state those since the last snapshot.
        (
            rows_of(&|timeline| timeline.starts_with("drift/")),
            rows_of(&|timeline| !timeline.starts_with("drift/")),
        )
    };
    let sizes = [3_000, 6_000, 9_000].map(size_after);
    println!("drift, and all else: {sizes:?}");
    assert!(sizes[2].0 * 10 <= sizes[1].0 * 12, "{sizes:?}");
    assert!(sizes[2].1 * 10 <= sizes[0].1 * 15, "{sizes:?}");
}

#[test]
fn a_run_with_stops_gives_the_same_rows_as_a_run_without() {
    let scratch = tempfile::tempdir().unwrap();
    let lines = reports(600);
    let run = |data: &str, upto: usize, workers: usize| {
        let csv = scratch.path().join(format!("{data}.csv"));
        std::fs::write(&csv, format!("{HEADER}{}", lines[..upto].concat())).unwrap();
        // States take a snapshot at every second commit.
        let set = [format!("reports.path={}", csv.display()), "snapshot_rows=100".to_owned()];
        let plan = harness::plan(&harness::file("tests/topologies/reports.toml"), &set);
        harness::run_plan(&plan, &scratch.path().join(data), workers)
    };
    let whole = run("whole", 600, 1);
    assert_eq!(whole.counts.admitted, 600, "{:?}", whole.counts);
    for parts in [vec![250, 600], vec![1, 100, 101, 333, 480, 600]] {
        let data = format!("parts-{}", parts.len());
        for (turn, upto) in parts.into_iter().enumerate() {
            run(&data, upto, 1 + turn % 3);
        }
        assert_eq!(
            output_rows(&scratch.path().join(&data)),
            output_rows(&scratch.path().join("whole")),
            "{data}"
        );
    }
    let corrected = "SELECT count(*) AS n FROM drift_periods WHERE supersedes IS NOT NULL";
    assert!(
        !harness::table(&scratch.path().join("whole"), corrected).contains("| 0 "),
        "some periods are corrected"
    );
    let dangling = "SELECT count(*) AS n FROM drift_periods a LEFT JOIN drift_periods b ON a.supersedes = b.period_id \
                    WHERE a.supersedes IS NOT NULL AND (b.revision IS NULL OR b.revision <> a.revision - 1)";
    assert!(
        harness::table(&scratch.path().join("whole"), dangling).contains("| 0 "),
        "each correction names the revision before it"
    );
}

/// The first tick of a time in hours after the start.
fn tick_at(hours: f64) -> Tick {
    Tick::new(START + (hours * HOUR as f64) as i64, 0).expect("it is before 3111")
}

/// The index and its terms as of some hours after the start: index, drift, correlation, quorum, ttl
/// and sync.
fn index_at(data: &Path, hours: f64) -> [i32; 6] {
    let tick = tick_at(hours).0;
    let sql = format!("SELECT * FROM credibility_history WHERE _tick < {tick} ORDER BY _tick DESC LIMIT 1");
    let rows = harness::query(data, &sql);
    let row = rows.iter().find(|rows| rows.num_rows() > 0).expect("there is an index from the first fact on");
    ["credibility_index", "drift", "correlation", "quorum", "ttl", "sync"]
        .map(|column| row.column_by_name(column).unwrap().as_primitive::<Int32Type>().value(0))
}

/// The lowest index between two hours.
fn least_between(data: &Path, from: f64, to: f64) -> i32 {
    let tick = |hours: f64| tick_at(hours).0;
    let sql = format!(
        "SELECT min(credibility_index) AS least FROM credibility_history WHERE _tick >= {} AND _tick < {}",
        tick(from),
        tick(to)
    );
    let rows = harness::query(data, &sql);
    rows[0].column(0).as_primitive::<Int32Type>().value(0).min(index_at(data, from)[0])
}

/// Checks that the status of each area follows from the current claims, and that some area changed
/// when claims expired.
fn areas_follow_from_claims(data: &Path) {
    let wrong = harness::query(
        data,
        "SELECT area, up, status FROM areas FULL JOIN (
             SELECT concat(region, '/', domain) AS area, count(*) FILTER (WHERE tier = 0 AND status = 'VERIFIED') AS up
             FROM claims GROUP BY 1) AS counted USING (area)
         WHERE coalesce(status, 'UNKNOWN') <> CASE WHEN up >= 3 THEN 'VERIFIED' WHEN up = 2 THEN 'DEGRADED' ELSE 'UNKNOWN' END",
    );
    assert_eq!(wrong.iter().map(|rows| rows.num_rows()).sum::<usize>(), 0, "{wrong:?}");
    let fallen = harness::table(data, "SELECT count(*) > 0 AS some FROM area_flips WHERE cause = 'EXPIRY'");
    assert!(fallen.contains("true"), "no area changed when its claims expired: {fallen}");
}

/// Runs three days of a lattice with `percent` of the nodes, and checks the index hour by hour.
fn three_days(percent: u32) {
    let scratch = tempfile::tempdir().unwrap();
    let data = scratch.path();
    let plan = harness::plan(&topology(), &[world(percent, 73)]);
    harness::run_plan(&plan, data, 2);
    areas_follow_from_claims(data);
    // Starts with the first hour, because there is no index before the first fact.
    let path: Vec<String> =
        (1..=73).map(|hour| format!("+{hour} h {:?}", index_at(data, f64::from(hour)))).collect();
    let path = path.join("\n");

    // At any time six claims of tier 0 expire within half an hour, so the ttl term stays at its
    // cap.
    let baseline = index_at(data, 12.0);
    assert_eq!(baseline[4], -6, "{path}");
    assert!((92..=94).contains(&baseline[0]), "the reference has 94: {baseline:?}\n{path}");
    // The cascade: 260 claims of tier 1 lose all evidence at once, so the quorum term is at its
    // cap.
    let cascade = index_at(data, 18.02);
    assert_eq!(cascade[3], -10, "{path}");
    // Clock skew as in the reference: two regions are critical, and one has a warning.
    let sync = index_at(data, 36.5);
    assert_eq!(sync[5], -7, "the reference goes from 90 to 83\n{path}");
    assert_eq!(index_at(data, 36.8)[5], 0, "{path}");
    // The hidden correlation is detected, and its term returns to zero afterwards.
    assert!(index_at(data, 24.0)[2] < -3, "{path}");
    assert_eq!(index_at(data, 30.0)[2], 0, "{path}");
    // The loss of confidence lowers the index, as far as the cap of the drift term allows.
    assert!(least_between(data, 44.0, 47.0) < baseline[0], "{path}");
    let end = index_at(data, 72.0);
    assert_eq!([end[1], end[2], end[5]], [0, 0, 0], "no term is left on day 3\n{path}");
    assert!((91..=94).contains(&end[0]), "{path}");

    let volatile = harness::query(
        data,
        "SELECT count(DISTINCT key) AS claims, min(detected_at) AS first, max(detected_at) AS last FROM drift \
         WHERE measure = 'confidence' AND severity = 'critical'",
    );
    let claims = volatile[0].column(0).as_primitive::<Int64Type>().value(0);
    assert_eq!(
        claims,
        i64::from((12 * percent / 100).max(2)),
        "drift finds each of the volatile claims, and no other"
    );
    let at = |column: usize| {
        (volatile[0].column(column).as_primitive::<TimestampMicrosecondType>().value(0) - START) / (HOUR / 4)
    };
    assert!((44 * 4..=46 * 4 + 6).contains(&at(1)) && (44 * 4..=47 * 4 + 2).contains(&at(2)));
    let clocks = "SELECT count(DISTINCT key) AS n FROM drift WHERE measure = 'clock'";
    assert!(harness::table(data, clocks).contains("| 3 "), "all three regions drift");
    let groups = "SELECT count(DISTINCT key) AS n FROM drift WHERE measure = 'correlation' AND value > 0.7";
    println!("{}\n{path}", harness::table(data, groups));
}

#[test]
fn a_tenth_of_the_lattice_follows_the_reference() {
    three_days(10);
}

#[test]
fn with_a_short_horizon_the_ttl_term_follows_only_the_cascade() {
    // Outside the cascade, no claim of tier 0 is within five minutes of losing its last evidence.
    let scratch = tempfile::tempdir().unwrap();
    let data = scratch.path();
    let plan = harness::plan(&topology(), &[world(10, 23), "credibility.expiring_within=5m".to_owned()]);
    harness::run_plan(&plan, data, 2);
    let ttl: Vec<i32> =
        [6.0, 12.0, 17.0, 18.02, 18.15, 21.0, 22.0].map(|hours| index_at(data, hours)[4]).to_vec();
    assert_eq!(ttl, [0, 0, 0, -6, -2, 0, 0], "hours 6, 12, 17, 18.02, 18.15, 21, 22");
}

#[test]
#[ignore = "36,000 nodes and 1.3 million reports take a minute"]
fn the_whole_lattice_follows_the_reference() {
    three_days(100);
}
