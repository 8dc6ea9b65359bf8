//! The features of the Fraud Detection Handbook, compared row by row with its golden table.
//!
//! Le Borgne, Siblini, Lebichot, Bontempi: Fraud Detection Handbook (ULB and Worldline, 2022). Its
//! payments and features are not part of this repository: `HANDBOOK` names the folder that holds
//! `transactions.parquet`, `features.parquet` and `customer_ties.csv`.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::{cast, concat_batches, filter_record_batch, kernels::cmp::lt};
use arrow::datatypes::{DataType, Float64Type, Int64Type};
use parquet::arrow::ArrowWriter;

use crate::harness;

/// The features that must be equal, and those that may differ by rounding.
const EXACT: [&str; 11] = [
    "TX_DURING_WEEKEND",
    "TX_DURING_NIGHT",
    "CUSTOMER_ID_NB_TX_1DAY_WINDOW",
    "CUSTOMER_ID_NB_TX_7DAY_WINDOW",
    "CUSTOMER_ID_NB_TX_30DAY_WINDOW",
    "TERMINAL_ID_NB_TX_1DAY_WINDOW",
    "TERMINAL_ID_NB_TX_7DAY_WINDOW",
    "TERMINAL_ID_NB_TX_30DAY_WINDOW",
    "TERMINAL_ID_RISK_1DAY_WINDOW",
    "TERMINAL_ID_RISK_7DAY_WINDOW",
    "TERMINAL_ID_RISK_30DAY_WINDOW",
];
const AVERAGES: [&str; 3] = [
    "CUSTOMER_ID_AVG_AMOUNT_1DAY_WINDOW",
    "CUSTOMER_ID_AVG_AMOUNT_7DAY_WINDOW",
    "CUSTOMER_ID_AVG_AMOUNT_30DAY_WINDOW",
];

/// The folder of the handbook's files, if there is one.
fn handbook() -> Option<PathBuf> {
    let folder = std::env::var_os("HANDBOOK").map(PathBuf::from)?;
    assert!(
        folder.join("transactions.parquet").is_file(),
        "HANDBOOK={} holds no transactions.parquet",
        folder.display()
    );
    Some(folder)
}

fn column(batch: &RecordBatch, name: &str, data_type: &DataType) -> ArrayRef {
    cast(batch.column_by_name(name).unwrap_or_else(|| panic!("no column {name}")), data_type).unwrap()
}

/// The ids of both payments of each pair that the golden table took in reverse order.
fn reversed(folder: &Path) -> BTreeSet<i64> {
    let text = std::fs::read_to_string(folder.join("customer_ties.csv")).unwrap();
    let pairs = text.lines().skip(1).filter(|line| line.ends_with(",0"));
    pairs
        .flat_map(|line| line.split(',').take(2).map(|id| id.parse().unwrap()).collect::<Vec<i64>>())
        .collect()
}

/// Runs the payments of the first `days` days and compares every feature of every row.
fn compare(folder: &Path, days: i64, workers: usize) {
    let scratch = tempfile::tempdir().unwrap();
    let payments = harness::read_parquet(&folder.join("transactions.parquet"));
    let day = column(&payments, "TX_TIME_DAYS", &DataType::Int64);
    let payments =
        filter_record_batch(&payments, &lt(&day, &arrow::array::Int64Array::new_scalar(days)).unwrap())
            .unwrap();
    let path = scratch.path().join("transactions.parquet");
    let mut writer = ArrowWriter::try_new(File::create(&path).unwrap(), payments.schema(), None).unwrap();
    writer.write(&payments).unwrap();
    writer.close().unwrap();

    let set = format!("transactions.path={}", path.display());
    let plan = harness::plan(&harness::file("dataflows/handbook.toml"), &[set]);
    let data = scratch.path().join("data");
    let report = harness::run_plan(&plan, &data, workers);
    assert_eq!(report.counts.admitted, 2 * payments.num_rows() as u64, "a payment and a label each");
    assert_eq!(report.counts.records(), report.counts.admitted);

    let names = EXACT.iter().chain(&AVERAGES).copied().collect::<Vec<_>>().join(", ");
    let ours = harness::query(
        &data,
        &format!("SELECT TRANSACTION_ID, {names} FROM features ORDER BY TRANSACTION_ID"),
    );
    let ours = concat_batches(&ours[0].schema(), &ours).unwrap();
    assert_eq!(ours.num_rows(), payments.num_rows(), "a row of features for each payment");
    let golden = harness::read_parquet(&folder.join("features.parquet"));
    let rows = ours.num_rows().min(golden.num_rows());
    let ids = column(&ours, "TRANSACTION_ID", &DataType::Int64);
    let golden_ids = column(&golden, "TRANSACTION_ID", &DataType::Int64);
    let (ids, golden_ids) = (ids.as_primitive::<Int64Type>(), golden_ids.as_primitive::<Int64Type>());
    assert_eq!(ids.values()[..rows], golden_ids.values()[..rows]);

    let ties = reversed(folder);
    let mut differing = BTreeSet::new();
    for (name, tolerance) in EXACT.iter().map(|n| (n, 0.0)).chain(AVERAGES.iter().map(|n| (n, 1e-9))) {
        let (ours, golden) =
            (column(&ours, name, &DataType::Float64), column(&golden, name, &DataType::Float64));
        let (ours, golden) = (ours.as_primitive::<Float64Type>(), golden.as_primitive::<Float64Type>());
        assert_eq!(ours.null_count(), 0, "{name}");
        for row in 0..rows {
            let (ours, golden) = (ours.value(row), golden.value(row));
            if (ours - golden).abs() > tolerance {
                let id = ids.value(row);
                assert!(ties.contains(&id), "{name} of payment {id}: {ours}, golden {golden}");
                differing.insert(id);
            }
        }
    }
    assert!(differing.len() <= ties.len(), "{differing:?}");
    println!(
        "{rows} rows compared; {} differ, all of them ties that the golden table took in reverse",
        differing.len()
    );
}

#[test]
fn the_first_month_has_the_golden_features() {
    match handbook() {
        Some(folder) => compare(&folder, 31, 2),
        None => println!("not run: set HANDBOOK to the folder of the handbook's files"),
    }
}

#[test]
#[ignore = "the whole handbook takes a minute: HANDBOOK=.. cargo test --release --test whole handbook -- --ignored"]
fn every_day_has_the_golden_features() {
    compare(&handbook().expect("set HANDBOOK to the folder of the handbook's files"), i64::MAX, 2);
}
