//! Entities and linkage in a whole topology: the same bytes however it is run, and what a person can check by hand.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use arrow::array::{ArrayRef, AsArray, RecordBatch, UInt32Array};
use arrow::compute::{cast, concat_batches, sort_to_indices, take_record_batch};
use arrow::datatypes::{DataType, Int64Type};
use arrow::util::pretty::pretty_format_batches;
use datafusion::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tidegate_dataflows::Plan;
use tidegate_dataflows::metrics::RunMetrics;
use tidegate_dataflows::run::{Options, run};
use tidegate_dataflows::topology::Override;

/// Chance with a seed (splitmix64).
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % end
    }
}

/// A file of this repository.
fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// Runs a topology until idle, and gives how long it took in seconds.
fn run_topology(topology: &Path, set: &[String], data: &Path, workers: usize) -> f64 {
    let overrides: Vec<Override> = set.iter().map(|text| Override::parse(text).unwrap()).collect();
    let plan = Arc::new(Plan::read(topology, &overrides).unwrap_or_else(|faults| panic!("{faults:#?}")));
    let sources: Vec<String> = plan.sources.iter().map(|source| source.name.clone()).collect();
    let nodes: Vec<String> = plan.steps.iter().map(|step| step.name.clone()).collect();
    let options = Options { workers, ..Options::new(data) };
    let from = Instant::now();
    run(&plan, &options, &RunMetrics::new(&sources, &nodes)).unwrap_or_else(|error| panic!("{error}"));
    from.elapsed().as_secs_f64()
}

/// Every committed file below a folder, by its relative name.
fn committed(store: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    let mut folders = vec![store.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(store).unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                folders.push(path);
            } else if !name.starts_with("state") {
                found.push((name, std::fs::read(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

/// Some columns of a committed table, in the order of ticks.
fn table(data: &Path, table: &str, names: &[&str]) -> RecordBatch {
    let store = data.join("store");
    let files = committed(&store).into_iter().map(|(name, _)| name);
    let of_table = files.filter(|name| name.starts_with(&format!("tables/{table}/")));
    let batches = of_table.flat_map(|name| {
        let file = File::open(store.join(name)).unwrap();
        let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
        reader.map(Result::unwrap).collect::<Vec<_>>()
    });
    let batches: Vec<RecordBatch> = batches.collect();
    let all = concat_batches(&batches[0].schema(), &batches).unwrap();
    let order: UInt32Array = sort_to_indices(all.column_by_name("_tick").unwrap(), None, None).unwrap();
    let sorted = take_record_batch(&all, &order).unwrap();
    sorted
        .project(&names.iter().map(|name| all.schema().index_of(name).unwrap()).collect::<Vec<_>>())
        .unwrap()
}

fn shown(data: &Path, name: &str, names: &[&str]) -> String {
    pretty_format_batches(&[table(data, name, names)]).unwrap().to_string()
}

const PEOPLE: &str = "tests/topologies/people.toml";

const HEAD: &str = "event,at,record_id,given_name,surname,born,postcode,card,disowned\n";

/// The lines of `count` records: of some 30 persons, with typing errors, cards that are handed on, and times of day that go on by
/// up to four minutes.
fn lines(count: usize) -> Vec<String> {
    let mut chance = Chance(11);
    let mut now = 1_767_225_600_000_000;
    (0..count)
        .map(|event| {
            now += 1_000_000 * chance.below(240) as i64;
            let person = chance.below(30);
            let names = ["anna", "bernd", "clara", "dietrich", "emilia", "friedrich"];
            let surnames = ["schneider", "fischer", "weber", "wagner", "becker"];
            let mut given = names[(person % 6) as usize].to_owned();
            let mut surname = surnames[(person % 5) as usize].to_owned();
            match chance.below(6) {
                0 => drop(given.remove(1)),
                1 => surname.push('n'),
                2 => given.clear(),
                _ => {}
            }
            let at = tidegate_facts::time::to_rfc3339(now);
            let card =
                if chance.below(3) == 0 { String::new() } else { (100 + chance.below(12)).to_string() };
            let disowned = chance.below(10) == 0;
            let record = if chance.below(4) == 0 { chance.below(event as u64 + 1) } else { event as u64 };
            format!(
                "{event},{at},r{record},{given},{surname},19{:02}0312,{},{card},{disowned}\n",
                50 + person,
                10_000 + person
            )
        })
        .collect()
}

/// Runs the topology of people on some lines, and gives its data folder.
fn people(folder: &Path, lines: &[String], set: &[&str], workers: usize) -> PathBuf {
    std::fs::create_dir_all(folder).unwrap();
    let csv = folder.join("people.csv");
    std::fs::write(&csv, format!("{HEAD}{}", lines.concat())).unwrap();
    let mut set: Vec<String> = set.iter().map(|set| (*set).to_owned()).collect();
    set.push(format!("people.path={}", csv.display()));
    let data = folder.join("data");
    run_topology(&file(PEOPLE), &set, &data, workers);
    data
}

const TABLES: [&str; 6] = ["people", "matches", "full_blocks", "entities", "links", "components"];

#[test]
fn workers_and_batches_do_not_change_a_byte_of_any_table() {
    let scratch = tempfile::tempdir().unwrap();
    let lines = lines(600);
    let mut first: Option<Vec<(String, Vec<u8>)>> = None;
    for (workers, batch_rows) in [(1, 100_000), (2, 100), (4, 7), (3, 1)] {
        let folder = scratch.path().join(format!("{workers}-{batch_rows}"));
        let data = people(&folder, &lines, &[&format!("batch_rows={batch_rows}")], workers);
        let files = committed(&data.join("store"));
        for table in TABLES {
            let has_rows = files.iter().any(|(name, _)| name.starts_with(&format!("tables/{table}/")));
            assert!(has_rows, "{table} has no rows, and shows nothing");
        }
        let first = first.get_or_insert_with(|| files.clone());
        assert_eq!(first.len(), files.len());
        for (one, other) in first.iter().zip(&files) {
            assert!(one == other, "{} differs with {workers} workers in batches of {batch_rows}", one.0);
        }
    }
}

#[test]
fn a_run_that_was_stopped_goes_on_from_its_checkpoint_as_its_log_says() {
    let scratch = tempfile::tempdir().unwrap();
    let lines = lines(500);
    for stops in [&[123][..], &[60, 61, 300], &[1, 250, 499]] {
        let folder = scratch.path().join(format!("{stops:?}"));
        for upto in stops {
            people(&folder, &lines[..*upto], &[], 2);
        }
        let data = people(&folder, &lines, &[], 1);
        let wanted = committed(&data.join("store"));
        // With neither checkpoints nor tables, all of the log is replayed at once.
        std::fs::remove_dir_all(data.join("store")).unwrap();
        people(&folder, &lines, &[], 3);
        let again = committed(&data.join("store"));
        assert_eq!(wanted.len(), again.len(), "stopped after {stops:?}");
        for (one, other) in wanted.iter().zip(&again) {
            assert!(one == other, "{} differs when stopped after {stops:?}", one.0);
        }
    }
}

#[test]
fn two_records_of_one_person_and_a_card_between_two_are_one_component() {
    let scratch = tempfile::tempdir().unwrap();
    let at = |minute: i64| tidegate_facts::time::to_rfc3339(1_767_225_600_000_000 + minute * 60_000_000);
    let lines = [
        (1, 0, "a,anna,schneider,19500312,10000,100,false"),
        (2, 1, "b,ana,schneider,19500312,10000,,false"),
        (3, 2, "c,bernd,fischer,19660101,20000,200,false"),
        (4, 3, "d,clara,weber,19770101,30000,100,false"),
        (5, 4, "d,clara,weber,19770101,30000,100,true"),
        (6, 5, "d,clara,weber,19770101,30000,,false"),
        (7, 600, "d,clara,weber,19770101,30000,,false"),
    ];
    let lines = lines.map(|(event, minute, rest)| format!("{event},{},{rest}\n", at(minute)));
    let data = people(scratch.path(), &lines, &["commit_rows=5"], 1);
    let columns = ["event_id", "person_component", "person_size", "person_degree_card", "person_shared_card"];
    expect_test::expect![[r#"
        +----------+------------------+-------------+--------------------+--------------------+
        | event_id | person_component | person_size | person_degree_card | person_shared_card |
        +----------+------------------+-------------+--------------------+--------------------+
        | event-1  | record:a         | 2           | 1                  | 0                  |
        | event-2  | record:a         | 3           |                    |                    |
        | event-3  | record:c         | 2           | 1                  | 0                  |
        | event-4  | record:a         | 4           | 2                  | 1                  |
        | event-5  | record:a         | 4           | 1                  | 1                  |
        | event-6  | record:d         | 1           |                    |                    |
        | event-7  | record:d         | 1           |                    |                    |
        +----------+------------------+-------------+--------------------+--------------------+"#]]
    .assert_eq(&shown(&data, "people", &columns));
    let columns = ["earlier", "later", "weight_millibits"];
    expect_test::expect![[r#"
        +---------+-------+------------------+
        | earlier | later | weight_millibits |
        +---------+-------+------------------+
        | a       | b     | 19080            |
        +---------+-------+------------------+"#]]
    .assert_eq(&shown(&data, "matches", &columns));
}

/// Groups of things, by a forest of parents: independent of the graph among the operators.
#[derive(Default)]
struct Groups {
    parents: Vec<usize>,
    sizes: Vec<i64>,
    oldest: Vec<usize>,
}

impl Groups {
    fn add(&mut self) -> usize {
        let number = self.parents.len();
        self.parents.push(number);
        self.sizes.push(1);
        self.oldest.push(number);
        number
    }

    fn root(&mut self, mut of: usize) -> usize {
        while self.parents[of] != of {
            self.parents[of] = self.parents[self.parents[of]];
            of = self.parents[of];
        }
        of
    }

    fn unite(&mut self, one: usize, other: usize) -> usize {
        let (one, other) = (self.root(one), self.root(other));
        if one != other {
            self.parents[other] = one;
            self.sizes[one] += self.sizes[other];
            self.oldest[one] = self.oldest[one].min(self.oldest[other]);
        }
        one
    }
}

/// The payments of the handbook, if they are here.
fn handbook() -> Option<String> {
    let folder = std::env::var("HANDBOOK").ok();
    if folder.is_none() {
        println!("not run: set HANDBOOK to the folder of the handbook's files");
    }
    folder.map(|folder| format!("transactions.path={folder}/transactions.parquet"))
}

/// The handbook's topology in `folder`, with `change` made to the text of each node.
fn handbook_topology(folder: &Path, change: impl Fn(&str) -> String) -> PathBuf {
    let text = std::fs::read_to_string(file("dataflows/handbook.toml")).unwrap();
    let policies = file("dataflows/policies").display().to_string();
    let text = text.replace("\"policies/", &format!("\"{policies}/"));
    let mut nodes = text.split("[[node]]");
    let mut changed = nodes.next().expect("a head").to_owned();
    for node in nodes.map(change).filter(|node| !node.is_empty()) {
        changed = format!("{changed}[[node]]{node}");
    }
    let path = folder.join("handbook.toml");
    std::fs::write(&path, changed).unwrap();
    path
}

#[test]
fn components_are_those_of_a_union_find_over_the_payments_of_the_handbook() {
    let Some(payments) = handbook() else { return };
    let scratch = tempfile::tempdir().unwrap();
    // Nothing is forgotten and nothing is bounded, so that components only grow.
    let topology = handbook_topology(scratch.path(), |node| {
        let bounds = |line: &&str| line.starts_with("ttl = ") || line.starts_with("degree_max = ");
        node.lines().filter(|line| !bounds(line)).map(|line| format!("{line}\n")).collect()
    });
    let data = scratch.path().join("data");
    run_topology(&topology, &[payments], &data, 2);
    let names = ["TRANSACTION_ID", "customer_id", "terminal_id", "graph_component", "graph_size"];
    let ours = table(&data, "features", &names);
    let order = sort_to_indices(ours.column(0), None, None).unwrap();
    let ours = take_record_batch(&ours, &order).unwrap();
    let column = |place: usize, data_type| -> ArrayRef { cast(ours.column(place), &data_type).unwrap() };
    let [customers, terminals, sizes] = [1, 2, 4].map(|place| column(place, DataType::Int64));
    let components = column(3, DataType::Utf8);
    let number = |column: &ArrayRef, row| column.as_primitive::<Int64Type>().value(row);
    let (mut groups, mut places) = (Groups::default(), BTreeMap::new());
    let mut labels: Vec<String> = Vec::new();
    for row in 0..ours.num_rows() {
        let pair = [("customer", number(&customers, row)), ("terminal", number(&terminals, row))];
        let [customer, terminal] = pair.map(|key| {
            *places.entry(key).or_insert_with(|| {
                labels.push(format!("{}:{}", key.0, key.1));
                groups.add()
            })
        });
        let root = groups.unite(customer, terminal);
        assert_eq!(number(&sizes, row), groups.sizes[root], "the size of payment {row}");
        assert_eq!(components.as_string::<i32>().value(row), labels[groups.oldest[root]], "of payment {row}");
    }
    println!("{} payments have the components of a union-find, {} at the end", ours.num_rows(), {
        (0..labels.len()).filter(|number| groups.root(*number) == *number).count()
    });
    assert!(ours.num_rows() > 1_000_000, "the whole handbook");
}

#[test]
#[ignore = "a measurement, for a quiet machine: HANDBOOK=.. cargo test --release --test who_is_who rate -- --ignored --nocapture"]
fn the_rate_of_the_handbook_with_entities_is_at_least_six_tenths_of_that_without() {
    let payments = handbook().expect("set HANDBOOK to the folder of the handbook's files");
    let scratch = tempfile::tempdir().unwrap();
    let without = handbook_topology(scratch.path(), |node| {
        let is_of_graph = node.contains("name = \"graph\"") || node.contains("input = \"graph.");
        let node = if is_of_graph { String::new() } else { node.replace("\"graph\"", "\"payments\"") };
        let columns = ["component", "size", "degree_customer", "shared_customer"];
        let columns =
            columns.into_iter().chain(["degree_terminal", "shared_terminal", "positives", "version"]);
        columns.fold(node, |node, column| node.replace(&format!("\"graph_{column}\","), ""))
    });
    let mut best = [f64::MAX; 2];
    for round in 0..3 {
        for (place, topology) in [file("dataflows/handbook.toml"), without.clone()].iter().enumerate() {
            let data = scratch.path().join(format!("{round}-{place}"));
            let took = run_topology(topology, std::slice::from_ref(&payments), &data, 1);
            std::fs::remove_dir_all(&data).unwrap();
            println!("{}: {took:.2} s", ["with entities", "without"][place]);
            best[place] = best[place].min(took);
        }
    }
    let ratio = best[1] / best[0];
    println!("with entities the rate is {ratio:.2} of that without");
    assert!(ratio >= 0.6, "{ratio}");
}
