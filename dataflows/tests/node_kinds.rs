//! What holds for every kind of node: its digest, its inputs, its reference page.

use std::path::{Path, PathBuf};

use tidegate_dataflows::config::Diagnostics;
use tidegate_dataflows::node::settings::Default;
use tidegate_dataflows::node::{Accepts, Effect, NodeKind, Role, Setting};
use tidegate_dataflows::nodes::KINDS;
use tidegate_dataflows::plan::REGISTRY;
use tidegate_dataflows::topology::Topology;
use toml::{Table, Value};

/// The settings of a kind's example, as TOML.
fn example(kind: &dyn NodeKind) -> Table {
    kind.example().parse().unwrap_or_else(|error| panic!("the example of `{}`: {error}", kind.name()))
}

/// Takes the place of a value, whose text is put in later: a `toml::Value` does not keep the order of a table.
const PLACEHOLDER: &str = "the value";

/// A topology of one node; `value` is the text of its placeholder.
fn topology_of(node: &Table, value: Option<&str>) -> String {
    let mut topology = Table::new();
    topology.insert("name".to_owned(), Value::String("one_node".to_owned()));
    topology.insert("node".to_owned(), Value::Array(vec![Value::Table(node.clone())]));
    topology.to_string().replace(&format!("\"{PLACEHOLDER}\""), value.unwrap_or_default())
}

/// What the plan digest covers of one node, and the faults of its settings.
fn answers(text: String) -> (serde_json::Value, Vec<String>) {
    let file = Path::new("one.toml");
    let diagnostics = Diagnostics::new(file, &text);
    let topology = Topology::parse(file, text, &[], REGISTRY, &diagnostics).expect("it is TOML");
    let faults = diagnostics.take().into_iter().map(|fault| fault.message).collect();
    (topology.nodes[0].answers.clone(), faults)
}

/// Sets a value at a path; `*` in a path is the first table there, or one that is made.
fn set(table: &mut Table, path: &[&str], value: Option<Value>) {
    let (first, rest) = path.split_first().expect("a path has a key");
    let key = match *first {
        "*" => table.keys().next().cloned().unwrap_or_else(|| "some".to_owned()),
        key => key.to_owned(),
    };
    if rest.is_empty() {
        match value {
            Some(value) => drop(table.insert(key, value)),
            None => drop(table.remove(&key)),
        }
        return;
    }
    let inner = table.entry(key).or_insert_with(|| Value::Table(Table::new()));
    if !inner.is_table() {
        *inner = Value::Table(Table::new());
    }
    set(inner.as_table_mut().expect("it is a table"), rest, value);
}

/// A topology of the kind's example with another value of a setting; `None` leaves it out.
fn with(kind: &dyn NodeKind, setting: &Setting, value: Option<&str>) -> String {
    let mut node = example(kind);
    let path: Vec<&str> = setting.key.split('.').collect();
    set(&mut node, &path, value.map(|_| Value::String(PLACEHOLDER.to_owned())));
    topology_of(&node, value)
}

#[test]
fn the_example_of_every_kind_has_no_fault() {
    for kind in KINDS {
        let node = example(*kind);
        assert_eq!(node["kind"].as_str(), Some(kind.name()));
        assert_eq!(answers(topology_of(&node, None)).1, Vec::<String>::new(), "{}", kind.name());
    }
}

#[test]
fn an_answer_moves_the_digest_and_wiring_does_not() {
    for kind in KINDS {
        for setting in kind.settings() {
            let [one, other] = setting.samples.map(|sample| answers(with(*kind, setting, Some(sample))).0);
            let name = format!("`{}` of `{}`", setting.key, kind.name());
            match setting.effect {
                Effect::Answer => {
                    assert_ne!(one, other, "{name} can change an answer: the digest must cover it")
                }
                Effect::Wiring => assert_eq!(one, other, "{name} is wiring: the digest must leave it out"),
            }
        }
    }
}

#[test]
fn an_explicit_default_equals_an_omitted_one() {
    for kind in KINDS {
        for setting in kind.settings() {
            let Default::Value(value) = setting.default else { continue };
            if setting.key.contains('.') {
                // The table around it may be absent; then there is nothing to default.
                let parent = &setting.key[..setting.key.rfind('.').expect("it has a point")];
                let present = example(*kind);
                let mut node = present.clone();
                set(&mut node, &parent.split('.').chain(["_"]).collect::<Vec<_>>(), None);
                if node != present {
                    continue;
                }
            }
            let explicit = answers(with(*kind, setting, Some(value))).0;
            let omitted = answers(with(*kind, setting, None)).0;
            assert_eq!(explicit, omitted, "`{}` of `{}`", setting.key, kind.name());
        }
    }
}

#[test]
fn a_length_of_time_is_the_same_in_other_units() {
    let mut tried = 0;
    for kind in KINDS {
        for setting in kind.settings().iter().filter(|s| s.value == "length of time") {
            let [hours, days] = ["\"48h\"", "\"2d\""].map(|span| answers(with(*kind, setting, Some(span))).0);
            assert_eq!(hours, days, "`{}` of `{}`", setting.key, kind.name());
            tried += 1;
        }
    }
    assert!(tried > 10, "{tried} settings are lengths of time");
}

#[test]
fn every_setting_that_a_kind_reads_is_declared() {
    fn paths(value: &serde_json::Value, path: &str, found: &mut Vec<String>) {
        if let serde_json::Value::Object(map) = value {
            for (key, value) in map {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                found.push(path.clone());
                paths(value, &path, found);
            }
        }
    }
    for kind in KINDS {
        let mut found = Vec::new();
        paths(&answers(topology_of(&example(*kind), None)).0, "", &mut found);
        for path in found {
            let keys: Vec<&str> = path.split('.').collect();
            let is_declared = kind
                .settings()
                .iter()
                .any(|setting| setting.covers(&keys) || setting.key.starts_with(&format!("{path}.")));
            // What a table holds is declared with the table or key by key.
            let in_table =
                kind.settings().iter().any(|setting| path.starts_with(&format!("{}.", setting.key)));
            assert!(is_declared || in_table, "`{path}` of `{}` is not among its settings", kind.name());
        }
    }
}

#[test]
fn a_renamed_word_is_named_with_the_word_that_replaced_it() {
    for kind in KINDS {
        for (before, now) in kind.renamed() {
            let mut node = example(*kind);
            node.insert((*before).to_owned(), Value::String("x".to_owned()));
            let faults = answers(topology_of(&node, None)).1;
            let expected = format!("is now called `{now}`");
            assert!(
                faults.iter().any(|fault| fault.contains(&expected)),
                "{before} of {}: {faults:?}",
                kind.name()
            );
        }
    }
}

/// A topology whose nodes give facts, a changelog, and texts and numbers for keys.
const NODES: &str = r#"
name = "inputs"
clock = "event"
[run]
platform_run_id = "platform_20260101T000000Z"
scenario_run_id = "00000000000000000000000000000001"
run_id = "00000000000000000000000000000001"
manifest_fingerprint = "0000000000000000000000000000000000000000000000000000000000000001"
parameter_hash = "0000000000000000000000000000000000000000000000000000000000000001"
scenario_id = "inputs"
seed = 1
[[node]]
name = "transactions"
kind = "source.world"
stream = "transactions"
world = { customers = 10, terminals = 10, days = 1 }
[node.event]
type = "card.transaction.v1"
id = "concat('tx-', cast(transaction_id as text))"
time = "tx_datetime"
payload = { amount = "tx_amount" }
[[node]]
name = "admitted"
kind = "gate"
inputs = ["transactions"]
policy = "policies/card-gate.toml"
[[node]]
name = "facts"
kind = "project"
input = "admitted"
passthrough = ["*"]
columns = { text_key = "cast(customer_id as text)", flag = "amount > 10", record_digest = "payload_hash" }
[[node]]
name = "changelog"
kind = "expire"
input = "facts"
key = "customer_id"
ttl = "1h"
[[node]]
name = "facts_table"
kind = "sink.parquet"
input = "facts"
"#;

/// The faults of a topology with `NODES` and one more node.
fn faults_of(node: &Table, value: Option<&str>) -> Vec<String> {
    let mut node = node.clone();
    node.insert("name".to_owned(), Value::String("tested".to_owned()));
    let mut nodes = Table::new();
    nodes.insert("node".to_owned(), Value::Array(vec![Value::Table(node)]));
    let nodes = nodes.to_string().replace(&format!("\"{PLACEHOLDER}\""), value.unwrap_or_default());
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("inputs.toml");
    match tidegate_dataflows::Plan::parse(&file, format!("{NODES}\n{nodes}")) {
        Ok(_) => Vec::new(),
        Err(faults) => faults.into_iter().map(|fault| fault.message).collect(),
    }
}

/// Every input of a kind: a path of its settings, and what it accepts there.
fn inputs_of(kind: &dyn NodeKind) -> Vec<(String, Accepts)> {
    let own = if kind.reads_several() { "inputs" } else { "input" };
    let mut inputs = vec![(own.to_owned(), kind.accepts())];
    for setting in kind.settings().iter().filter(|setting| setting.value == "node") {
        let text = with(kind, setting, Some("\"this_one\""));
        let (file, diagnostics) = (Path::new("one.toml"), Diagnostics::new(Path::new("one.toml"), &text));
        let topology = Topology::parse(file, text, &[], REGISTRY, &diagnostics).expect("it is TOML");
        let spec = topology.nodes[0].spec.as_ref().expect("it has a kind");
        let inputs_of_spec = spec.inputs();
        let found = inputs_of_spec.iter().find(|input| input.node.value == "this_one");
        let found = found.unwrap_or_else(|| panic!("`{}` of `{}` is not an input", setting.key, kind.name()));
        inputs.push((setting.key.to_owned(), found.accepts));
    }
    inputs
}

#[test]
fn every_input_of_every_kind_refuses_what_it_does_not_accept() {
    let mut tried = 0;
    for kind in KINDS.iter().filter(|kind| matches!(kind.role(), Role::Operator | Role::Sink)) {
        for (path, accepts) in inputs_of(*kind) {
            let faults = |input: &str| {
                let mut node = example(*kind);
                let keys: Vec<&str> = path.split('.').collect();
                set(&mut node, &keys, Some(Value::String(PLACEHOLDER.to_owned())));
                let input = format!("\"{input}\"");
                faults_of(&node, Some(&if path == "inputs" { format!("[{input}]") } else { input }))
            };
            let refuses = |input: &str, what: &str| {
                let found = faults(input);
                (found.iter().any(|fault| fault.contains(what)), found)
            };
            let name = format!("`{path}` of `{}`", kind.name());
            let (refused, found) = refuses("changelog", "and `changelog` gives a changelog");
            assert_eq!(refused, accepts == Accepts::Facts, "{name}: {found:?}");
            let (refused, found) = refuses("facts", "and `facts` gives facts");
            assert_eq!(refused, accepts == Accepts::Changelog, "{name}: {found:?}");
            for (input, what) in [
                ("transactions", "is a source"),
                ("nobody", "no node is named `nobody`"),
                ("changelog.early", "has no port `changelog.early`"),
                ("tested", "reads its own output"),
            ] {
                let (refused, found) = refuses(input, what);
                assert!(refused, "{name} reads `{input}`: {found:?}");
            }
            tried += 1;
        }
    }
    assert!(tried >= 24, "{tried} inputs were tried");
}

/// The settings of a node, as TOML.
fn node(kind: &str, settings: &str) -> Table {
    format!("kind = \"{kind}\"\n{settings}").parse().expect("it is TOML")
}

#[test]
fn keys_of_two_types_are_refused_wherever_two_nodes_meet() {
    let other_type = [
        (
            "windows",
            "input = \"facts\"\nfrom = \"facts\"\nkey = \"customer_id\"\nfrom_key = \"text_key\"\nwindows = [\"1d\"]\naggregates = { n = \"count(*)\" }",
        ),
        (
            "as_of",
            "input = \"facts\"\ntimeline = \"facts\"\nkey = \"customer_id\"\ntimeline_key = \"text_key\"\neffective = \"ts_utc\"",
        ),
        (
            "quorum",
            "input = \"facts\"\nclaim = \"customer_id\"\nstream = \"text_key\"\nvalue = \"flag\"\nrequire_from = { from = \"facts\", claim = \"text_key\" }",
        ),
        ("entities", "input = \"facts\"\nidentifiers = { customer = [\"customer_id\", \"text_key\"] }"),
    ];
    for (kind, settings) in other_type {
        let faults = faults_of(&node(kind, settings), None);
        assert!(faults.iter().any(|fault| fault.contains("cast one of them")), "{kind}: {faults:?}");
    }
}

#[test]
fn two_columns_of_one_name_are_refused_at_every_kind_that_adds_columns() {
    let twice = [
        ("project", "input = \"facts\"\npassthrough = [\"amount\", \"amount\"]"),
        (
            "windows",
            "input = \"facts\"\nkey = \"customer_id\"\nwindows = [\"1d\", \"1d\"]\naggregates = { n = \"count(*)\" }",
        ),
        (
            "as_of",
            "input = \"facts\"\ntimeline = \"facts\"\nkey = \"customer_id\"\neffective = \"ts_utc\"\nvalues = { amount = \"amount\" }",
        ),
        (
            "quorum",
            "input = \"facts\"\nclaim = \"customer_id\"\nstream = \"text_key\"\nvalue = \"flag\"\nrequire = { n = 1, k = 1 }\npassthrough = [\"customer_id\"]",
        ),
    ];
    for (kind, settings) in twice {
        let faults = faults_of(&node(kind, settings), None);
        assert!(faults.iter().any(|fault| fault.contains("gives two columns named")), "{kind}: {faults:?}");
    }
}

#[test]
fn the_reference_has_a_page_for_every_kind() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/reference/nodes");
    let mut pages: Vec<(String, String)> = KINDS
        .iter()
        .map(|kind| (format!("{}.md", kind.name()), tidegate_dataflows::reference::page(*kind)))
        .collect();
    pages.push(("README.md".to_owned(), tidegate_dataflows::reference::index(KINDS)));
    for (name, page) in pages {
        let file = folder.join(name);
        if std::env::var_os("UPDATE_REFERENCE").is_some() {
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(&file, &page).unwrap();
        }
        let written = std::fs::read_to_string(&file).unwrap_or_default();
        assert!(
            written == page,
            "{} is not what the registry says; run UPDATE_REFERENCE=1 cargo test --release --workspace --test node_kinds",
            file.display()
        );
    }
}
