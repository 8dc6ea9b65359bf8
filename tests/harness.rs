//! Shared by the integration tests: running a topology and querying its tables.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use futures::TryStreamExt;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tidegate_dataflows::Plan;
use tidegate_dataflows::metrics::RunMetrics;
use tidegate_dataflows::run::{Options, Report, run};
use tidegate_dataflows::topology::Override;
use tidegate_host::Host;
use tidegate_queries::Catalogue;
use tidegate_sinks::log::{Group, LogFolder, LogOptions, LogReader, Start, Until};

/// A file of this repository.
pub fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The topology of payments, with the table `episodes` of sealed decisions, for a file in any
/// folder.
pub fn sealed_payments() -> String {
    let policies = file("tests/topologies/policies").display().to_string();
    let text = std::fs::read_to_string(file("tests/topologies/payments.toml")).unwrap();
    let sealed = r#"
[[node]]
name = "sealed"
kind = "seal"
input = "decisions"

[[node]]
name = "episodes_table"
kind = "sink.seal"
input = "sealed"
table = "episodes"
"#;
    text.replace("\"policies/", &format!("\"{policies}/")) + sealed
}

/// The log of a data folder.
pub fn log_of(data: &Path) -> LogFolder {
    LogFolder::of_data(&Host::real(), data)
}

/// The groups of a log from number `first` on.
pub fn groups(log: &LogFolder, first: u64, until: Until) -> Vec<Group> {
    let groups = log.read(Start::Group(first), until).unwrap();
    groups.map(|group| group.unwrap().group).collect()
}

/// Rewrites the log of a data folder in segments small enough that some can be pruned.
pub fn resegment(data: &Path, segment_bytes: u64) {
    let (log, small) = (log_of(data), data.join("small-log"));
    let copy = LogFolder::at(&Host::real(), &small);
    copy.copy_from(&log, LogOptions { segment_bytes }).unwrap();
    std::fs::remove_dir_all(log.path()).unwrap();
    std::fs::rename(small, log.path()).unwrap();
}

/// Plans a topology with `--set` overrides.
pub fn plan(topology: &Path, set: &[String]) -> Arc<Plan> {
    let overrides: Vec<Override> = set.iter().map(|text| Override::parse(text).unwrap()).collect();
    Arc::new(Plan::read(topology, &overrides).unwrap_or_else(|faults| panic!("{faults:#?}")))
}

/// Metrics for one run of a plan.
pub fn metrics(plan: &Plan) -> RunMetrics {
    let sources: Vec<String> = plan.sources.iter().map(|s| s.name.clone()).collect();
    let nodes: Vec<String> = plan.steps.iter().map(|s| s.name.clone()).collect();
    RunMetrics::new(&sources, &nodes)
}

/// Runs a plan until idle.
pub fn run_plan(plan: &Arc<Plan>, data: &Path, workers: usize) -> Report {
    let options = Options { workers, ..Options::new(data) };
    run(plan, &options, &metrics(plan)).unwrap_or_else(|error| panic!("{error}"))
}

/// The rows of a query over a data folder.
pub fn query(data: &Path, sql: &str) -> Vec<RecordBatch> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let catalogue = Catalogue::open(data, None).unwrap();
        let rows = catalogue.query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        rows.try_collect().await.unwrap()
    })
}

/// The result of a query, printed as a table.
pub fn table(data: &Path, sql: &str) -> String {
    arrow::util::pretty::pretty_format_batches(&query(data, sql)).unwrap().to_string()
}

/// The rows of a Parquet file.
pub fn read_parquet(path: &Path) -> RecordBatch {
    let reader =
        ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap().build().unwrap();
    let batches: Vec<RecordBatch> = reader.map(Result::unwrap).collect();
    concat_batches(&batches[0].schema(), &batches).unwrap()
}

/// The output files of a store. Checkpoints are excluded: their positions depend on how records
/// were batched, and their number on where runs were stopped.
pub fn committed(store: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files = files(store);
    files.retain(|(name, _)| !name.starts_with("state"));
    files
}

/// Asserts that another run left the same files as the first, byte for byte; `how` describes that
/// run.
pub fn assert_same_files(first: &[(String, Vec<u8>)], other: &[(String, Vec<u8>)], how: &str) {
    assert_eq!(first.len(), other.len(), "the number of files differs {how}");
    for (one, other) in first.iter().zip(other) {
        assert_eq!(one.0, other.0);
        assert!(one.1 == other.1, "{} differs {how}", one.0);
    }
}

/// Every file below a folder, by its relative name.
pub fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap().to_string_lossy().into_owned();
                found.push((name, std::fs::read(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}
