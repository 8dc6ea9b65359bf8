//! `sample` passes all rows of a share of the keys and no other row, on any number of workers.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};
use tidegate_dataflows::Plan;
use tidegate_dataflows::metrics::RunMetrics;
use tidegate_dataflows::run::{Options, run};
use tidegate_sinks::commits::{Commits, read_rows};
use tidegate_sinks::store::Store;

const TOPOLOGY: &str = r#"
name = "sampled"
clock = "event"

[[node]]
name = "transactions"
kind = "source.world"
stream = "transactions"
world = { seed = 42, customers = 400, terminals = 50, days = 3, start = "2026-01-01T00:00:00.000000Z" }

[[node]]
name = "some_customers"
kind = "sample"
input = "transactions"
key = "customer_id"
share = 0.2

[[node]]
name = "all_table"
kind = "sink.parquet"
input = "transactions"
table = "every_payment"

[[node]]
name = "sample_table"
kind = "sink.parquet"
input = "some_customers"
table = "sampled_payments"
"#;

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
    let plan = Plan::parse(Path::new("sampled.toml"), TOPOLOGY.to_owned());
    let plan = Arc::new(plan.unwrap_or_else(|faults| panic!("{faults:#?}")));
    let nodes: Vec<String> = plan.steps.iter().map(|step| step.name.clone()).collect();
    let mut first = None;
    for workers in [1, 2, 4] {
        let data = scratch.path().join(workers.to_string());
        let metrics = RunMetrics::new(&["transactions".to_owned()], &nodes);
        let options = Options { workers, ..Options::new(&data) };
        run(&plan, &options, &metrics).unwrap_or_else(|error| panic!("{error}"));
        let store = Store::open(data.join("store")).unwrap();
        let (every, sampled) = (customers(&store, "every_payment"), customers(&store, "sampled_payments"));

        let chosen: BTreeSet<i64> = sampled.values().copied().collect();
        assert!((50..=110).contains(&chosen.len()), "{} of 400 customers at a share of 0.2", chosen.len());
        let expected: BTreeMap<i64, i64> = every
            .iter()
            .filter(|(_, customer)| chosen.contains(customer))
            .map(|(tick, customer)| (*tick, *customer))
            .collect();
        assert_eq!(sampled, expected, "{workers} workers");
        assert_eq!(first.get_or_insert_with(|| sampled.clone()), &sampled, "{workers} workers");
    }
}
