//! `sample` passes all rows of a share of the keys and no other row, on any number of workers.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};
use tidegate_dataflows::Plan;
use tidegate_dataflows::metrics::RunMetrics;
use tidegate_dataflows::run::{Options, run};
use tidegate_sinks::commits::{Commits, read_rows};
use tidegate_sinks::store::Store;

/// What the sample and its oracle add to the gate of `fraud.toml`.
const SAMPLE: &str = r#"
[[node]]
name = "some_customers"
kind = "sample"
input = "payments"
key = "customer_id"
share = 0.2

[[node]]
name = "all_table"
kind = "sink.parquet"
input = "payments"
table = "every_payment"

[[node]]
name = "sample_table"
kind = "sink.parquet"
input = "some_customers"
table = "sampled_payments"

[[node]]
name = "labels_table"
kind = "sink.parquet"
input = "known_labels"
table = "labels"
"#;

/// The sources, the gate and the filters of `fraud.toml` in a smaller world, and a sample of its payments.
fn topology() -> (PathBuf, String) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("fraud.toml");
    let fraud = std::fs::read_to_string(&file).unwrap();
    let (gate, _) = fraud.split_once("# The entity graph").expect("the entity graph comes after the filters");
    let world = "customers = 1000, terminals = 2000, towns = 20, radius = 12.0, days = 100";
    assert!(gate.contains(world));
    (file, gate.replace(world, "customers = 400, terminals = 50, days = 3") + SAMPLE)
}

/// The customer of each row of a table, by the tick of the row.
fn customers(store: &Store, table: &str) -> BTreeMap<i64, i64> {
    let mut found = BTreeMap::new();
    for file in Commits::read(store).unwrap().files_of(table) {
        let rows = read_rows(store.get(&file.name).unwrap(), None).unwrap();
        let numbers = |name: &str| cast(rows.column_by_name(name).unwrap(), &DataType::Int64).unwrap();
        let (ticks, keys) = (numbers("_tick"), numbers("customer_id"));
        let ticks = ticks.as_primitive::<Int64Type>().values().iter().copied();
        found.extend(ticks.zip(keys.as_primitive::<Int64Type>().values().iter().copied()));
    }
    found
}

#[test]
fn all_rows_of_a_key_pass_or_none_on_any_number_of_workers() {
    let scratch = tempfile::tempdir().unwrap();
    let (file, text) = topology();
    let plan = Arc::new(Plan::parse(&file, text).unwrap_or_else(|faults| panic!("{faults:#?}")));
    let sources: Vec<String> = plan.sources.iter().map(|source| source.name.clone()).collect();
    let nodes: Vec<String> = plan.steps.iter().map(|step| step.name.clone()).collect();
    let mut first = None;
    for workers in [1, 2, 4] {
        let data = scratch.path().join(workers.to_string());
        let metrics = RunMetrics::new(&sources, &nodes);
        let options = Options { workers, ..Options::new(&data) };
        run(&plan, &options, &metrics).unwrap_or_else(|error| panic!("{error}"));
        let store = Store::open(data.join("store")).unwrap();
        let (every, sampled) = (customers(&store, "every_payment"), customers(&store, "sampled_payments"));

        let chosen: BTreeSet<i64> = sampled.values().copied().collect();
        let all: BTreeSet<i64> = every.values().copied().collect();
        let (least, most) = (all.len() / 10, all.len() * 3 / 10);
        assert!(
            all.len() >= 90 && (least..=most).contains(&chosen.len()),
            "{} of {}",
            chosen.len(),
            all.len()
        );
        let expected: BTreeMap<i64, i64> = every
            .iter()
            .filter(|(_, customer)| chosen.contains(customer))
            .map(|(tick, customer)| (*tick, *customer))
            .collect();
        assert_eq!(sampled, expected, "{workers} workers");
        assert_eq!(first.get_or_insert_with(|| sampled.clone()), &sampled, "{workers} workers");
    }
}
