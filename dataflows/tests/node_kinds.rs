//! What holds for every kind of node: its digest, its inputs, its reference page.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use tidegate_dataflows::Plan;
use tidegate_dataflows::config::Diagnostics;
use tidegate_dataflows::node::settings::Default;
use tidegate_dataflows::node::{Accepts, Effect, NodeKind, Role, Setting};
use tidegate_dataflows::nodes::KINDS;
use tidegate_dataflows::plan::REGISTRY;
use tidegate_dataflows::topology::Topology;
use tidegate_sinks::store::Store;
use toml::{Table, Value};

/// The settings of a kind's example, as TOML.
fn example(kind: &dyn NodeKind) -> Table {
    kind.example().parse().unwrap_or_else(|error| panic!("the example of `{}`: {error}", kind.name()))
}

/// Replaces a value whose text is put in later, because a `toml::Value` does not keep the order of
/// a table.
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
        for setting in kind.settings() {
            let name = format!("`{}` of `{}`", setting.key, kind.name());
            let both = |before: &str, after: &str| {
                ["48h", "2d"].map(|span| {
                    let value = format!("{before}\"{span}\"{after}");
                    answers(with(*kind, setting, Some(&value))).0
                })
            };
            if setting.value.starts_with("length of time") {
                let [hours, days] = both("", "");
                assert_eq!(hours, days, "{name}");
                tried += 1;
            }
            if setting.value.contains("table of lengths of time") {
                let [hours, days] = both("{ a = ", " }");
                assert_eq!(hours, days, "{name}");
                tried += 1;
            }
            if setting.value == "list of lengths of time" {
                // A width as it is written is part of the names of columns.
                let [hours, days] = both("[", "]");
                assert_ne!(hours, days, "{name}");
                tried += 1;
            }
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

/// A world of payments and its gate.
const ADMITTED: &str = r#"
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
"#;

/// Nodes behind the gate that give facts, changelogs, texts and numbers for keys, and columns that
/// other kinds add.
const NODES: &str = r#"
[[node]]
name = "facts"
kind = "project"
input = "admitted"
passthrough = ["*"]
columns = { text_key = "cast(customer_id as text)", flag = "amount > 10", record_digest = "payload_hash" }
[[node]]
name = "taken"
kind = "project"
input = "facts"
passthrough = ["*"]
columns = { expires_at = "ts_utc", tested_version = "payload_hash" }
[[node]]
name = "changelog"
kind = "expire"
input = "facts"
key = "customer_id"
ttl = "1h"
[[node]]
name = "families"
kind = "copy_detection"
input = "facts"
claim = "customer_id"
stream = "text_key"
value = "flag"
period = "1d"
[[node]]
name = "claims"
kind = "quorum"
input = "changelog"
claim = "customer_id"
stream = "text_key"
value = "flag"
require = { n = 2, k = 1 }
[[node]]
name = "drift_events"
kind = "drift"
input = "facts"
key = "text_key"
period = "1d"
measures = { together = { statistic = "correlation_drift", member = "event_id", value = "flag" } }
[[node]]
name = "decisions"
kind = "decide"
input = "admitted"
bundle = "RULES"
[[node]]
name = "digested"
kind = "project"
input = "decisions"
passthrough = ["*"]
columns = { record_digest = "payload_hash" }
[[node]]
name = "stored"
kind = "sink.parquet"
input = "facts"
table = "stored"
"#;

const BUNDLE: &str = r#"
id = "node-kinds"
version = "1"
score = "cast(amount as double)"
[[rule]]
id = "large"
when = "amount > 10"
action = "BLOCK"
reason = "LARGE"
"#;

/// A node of each kind behind the gate, with most of its settings, that reads `NODES` and has no
/// fault. `RULES` is the path of a bundle.
const TESTED: &[(&str, &str)] = &[
    ("filter", "input = 'facts'\nwhere = 'amount > 10'"),
    ("project", "input = 'facts'\npassthrough = ['*']\ncolumns = { doubled = 'amount * 2' }"),
    ("union", "inputs = ['facts', 'facts']"),
    (
        "windows",
        "input = 'facts'\nlateness_max = '1h'\n[groups.a]\nfrom = 'facts'\nkey = 'customer_id'\nfrom_key = 'customer_id'\n\
         time = 'ts_utc'\nwhere = 'amount > 0'\ndelay = '1d'\nwindows = ['1d']\naggregates = { n = 'count(*)', total = 'sum(amount)' }",
    ),
    (
        "as_of",
        "input = 'facts'\ntimeline = 'facts'\nkey = 'customer_id'\ntimeline_key = 'customer_id'\neffective = 'ts_utc'\n\
         values = { last = 'amount' }",
    ),
    (
        "expire",
        "input = 'facts'\nkey = 'customer_id'\ntime = 'ts_utc'\nby = 'text_key'\nttl = { a = '15m' }\ncancel = 'flag'",
    ),
    (
        "entities",
        "input = 'facts'\nidentifiers = { customer = 'customer_id', terminal = ['terminal_id'] }\nunlink = 'flag'\n\
         links = { customer = ['terminal'] }\nttl = '30d'\ndegree_max = { terminal = 10 }\n\
         [positives]\nfrom = 'facts'\nwhere = 'flag'\nkind = 'customer'\nidentifier = 'customer_id'\nsubject = 'event_id'\n\
         [edges.a]\nfrom = 'facts'\nidentifiers = { customer = 'customer_id', terminal = 'terminal_id' }\nunlink = 'flag'",
    ),
    (
        "linkage",
        "input = 'facts'\nid = 'event_id'\nblocks = ['customer_id']\nblock_max = 100\nthreshold = 5\n\
         [compare.text_key]\ncomparator = 'levenshtein'\nagree_at = 0.9\ndisagree_at = 0.5\nm = 0.9\nu = 0.01\n\
         [compare.customer_id]\nwithin = 1\nm = 0.9\nu = 0.01",
    ),
    (
        "quorum",
        "input = 'facts'\nclaim = 'customer_id'\nstream = 'text_key'\nvalue = 'flag'\ntime = 'ts_utc'\ngroup = 'terminal_id'\n\
         out_of_band = 'flag'\neligible = 'flag'\npassthrough = ['amount']\nfamilies = 'families'\n\
         require = { n = 2, k = 1, groups = 1, out_of_band = true }\n\
         require_from = { from = 'facts', claim = 'customer_id', n = '2', k = '1', groups = '1', out_of_band = 'flag' }",
    ),
    (
        "copy_detection",
        "input = 'facts'\nclaim = 'customer_id'\nstream = 'text_key'\nvalue = 'flag'\ntime = 'ts_utc'\nperiod = '1d'\n\
         similarity_min = 0.9\nevidence_bits_min = 50\nweights = true",
    ),
    (
        "drift",
        "input = 'facts'\nkey = 'text_key'\ntime = 'ts_utc'\nperiod = '2h'\nslide = '1h'\ndelay = '1m'\nlateness_max = '1h'\nrows_min = 2\n\
         [measures.a]\nstatistic = 'psi'\nfrom = 'facts'\nkey = 'text_key'\nmember = 'event_id'\nvalue = 'amount'\ntime = 'ts_utc'\n\
         period = '2h'\nslide = '1h'\ndelay = '1m'\nlateness_max = '1h'\nrows_min = 2\nyellow = 0.1\nred = 0.2\n\
         reference = { edges = [1, 2], counts = [1, 2, 3] }",
    ),
    (
        "credibility",
        "input = 'drift_events'\nevents_max = 10\nevents_span = '1h'\nexpiring_within = '10m'\ncorrelation = 'together'\n\
         claims = { from = 'claims', unknown = 'true', fragile = 'false' }\n\
         evidence = { from = 'changelog', claim = 'text_key', expires = 'expires_at' }\n\
         regions = { from = 'facts', region = 'text_key', state = \"'OK'\" }",
    ),
    ("decide", "input = 'facts'\nbundle = 'RULES'"),
    ("seal", "input = 'decisions'"),
    ("sink.parquet", "input = 'facts'\ntable = 'tested_rows'\ncolumns = ['event_id']"),
    ("sink.jsonl", "input = 'facts'\ntable = 'tested_rows'\ncolumns = ['event_id']"),
    ("sink.seal", "input = 'facts'\ntable = 'tested_rows'"),
];

/// The kinds behind the gate.
fn kinds_behind_the_gate() -> impl Iterator<Item = &'static dyn NodeKind> {
    KINDS.iter().copied().filter(|kind| matches!(kind.role(), Role::Operator | Role::Sink))
}

/// Whether a kind reads one input and no further node. Such a kind needs no entry in the tables.
fn is_simple(kind: &dyn NodeKind) -> bool {
    !kind.reads_several() && !kind.settings().iter().any(|setting| setting.value == "node")
}

/// The entry of a kind in a table.
fn entry_of<T: Copy>(kind: &dyn NodeKind, table: &[(&str, T)]) -> Option<T> {
    let found = table.iter().find(|(name, _)| *name == kind.name());
    assert!(
        found.is_some() || is_simple(kind),
        "kind `{}` needs an entry in the table of this test",
        kind.name()
    );
    found.map(|(_, entry)| *entry)
}

/// The node of `TESTED` of a kind, or else the kind's example.
fn tested(kind: &dyn NodeKind) -> Table {
    let text = match entry_of(kind, TESTED) {
        Some(settings) => format!("name = \"tested\"\nkind = \"{}\"\n{settings}", kind.name()),
        None => format!("{}\n", kind.example()),
    };
    let node: Result<Table, _> = text.parse();
    let mut node = node.unwrap_or_else(|error| panic!("the node of kind `{}`: {error}", kind.name()));
    if entry_of(kind, TESTED).is_none() {
        node.insert("input".to_owned(), Value::String("facts".to_owned()));
    }
    node
}

/// The faults of a topology with `NODES` and one more node.
fn faults_of(node: &Table, value: Option<&str>) -> Vec<String> {
    match plan_of(text_of(node, value)) {
        Ok(_) => Vec::new(),
        Err(faults) => faults,
    }
}

/// The text of a topology with `NODES` and a node, with `value` in place of the placeholder.
fn text_of(node: &Table, value: Option<&str>) -> String {
    static RULES: LazyLock<PathBuf> = LazyLock::new(|| {
        let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("node_kinds_rules.toml");
        std::fs::write(&file, BUNDLE).unwrap();
        file
    });
    let mut node = node.clone();
    node.insert("name".to_owned(), Value::String("tested".to_owned()));
    let mut nodes = Table::new();
    nodes.insert("node".to_owned(), Value::Array(vec![Value::Table(node)]));
    let nodes = nodes.to_string().replace(&format!("\"{PLACEHOLDER}\""), value.unwrap_or_default());
    format!("{ADMITTED}\n{NODES}\n{nodes}").replace("RULES", RULES.to_str().unwrap())
}

/// The faults of a topology with `NODES` and the node of `TESTED`, one of whose settings has
/// another value; `None` leaves it out.
fn faults_with(kind: &dyn NodeKind, key: &str, value: Option<&str>) -> Vec<String> {
    let mut node = tested(kind);
    let path: Vec<&str> = key.split('.').collect();
    set(&mut node, &path, value.map(|_| Value::String(PLACEHOLDER.to_owned())));
    faults_of(&node, value)
}

/// The plan of a topology, or its faults.
fn plan_of(text: String) -> Result<Plan, Vec<String>> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("inputs.toml");
    Plan::parse(&file, text).map_err(|faults| faults.into_iter().map(|fault| fault.message).collect())
}

/// A recorded plan states every setting, those that the topology left out too.
#[test]
fn the_plan_of_every_kind_is_read_back_with_and_without_each_setting() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let mut planned = 0;
    for kind in kinds_behind_the_gate() {
        let node = tested(kind);
        let without = node.keys().map(|left_out| {
            let mut node = node.clone();
            node.remove(left_out);
            node
        });
        for node in without.chain([node.clone()]) {
            let Ok(plan) = plan_of(text_of(&node, None)) else { continue };
            plan.record(&store).unwrap();
            let read = Plan::from_store(&plan.digest, &store, &[]);
            let read = read.unwrap_or_else(|error| panic!("{}: {node}: {error}", kind.name()));
            assert_eq!(read.digest, plan.digest, "{}: {node}", kind.name());
            planned += 1;
        }
    }
    assert!(planned > 2 * TESTED.len(), "{planned} plans");
}

#[test]
fn the_tested_node_of_every_kind_has_no_fault() {
    for kind in kinds_behind_the_gate() {
        assert_eq!(faults_of(&tested(kind), None), Vec::<String>::new(), "{}", kind.name());
    }
}

#[test]
fn no_value_of_a_setting_leaves_a_node_unplanned_without_a_fault() {
    let values = [
        "\"\"",
        "[]",
        "{}",
        "[\"\"]",
        "{ \"\" = \"customer_id\" }",
        "{ a = [] }",
        "{ a = {} }",
        "0",
        "9223372036854775807",
        "\"customer_id\"",
        "\"stored\"",
    ];
    for kind in kinds_behind_the_gate() {
        for setting in kind.settings() {
            for value in values.into_iter().map(Some).chain([None]) {
                let faults = faults_with(kind, setting.key, value);
                let name = format!("`{} = {value:?}` of `{}`", setting.key, kind.name());
                assert!(!faults.iter().any(|fault| fault.contains("this is a defect")), "{name}: {faults:?}");
            }
        }
    }
}

#[test]
fn an_empty_table_is_refused_where_a_node_needs_an_entry() {
    let empty = [
        ("expire", "ttl", "{}", "lacks `ttl`"),
        ("entities", "identifiers", "{}", "lacks `identifiers`"),
        ("entities", "identifiers", "{ customer = [] }", "kind `customer` in `identifiers`"),
        ("entities", "links", "{ customer = [] }", "kind `customer` in `links`"),
        ("entities", "edges.a.identifiers", "{}", "lacks `identifiers`"),
        ("entities", "edges.a.identifiers", "{ customer = [] }", "kind `customer` in `identifiers`"),
        ("entities", "degree_max", "{ \"\" = 1 }", "has an entry with an empty name"),
        ("drift", "measures", "{ \"\" = { value = \"amount\" } }", "has an entry with an empty name"),
    ];
    for (name, key, value, what) in empty {
        let kind = tidegate_dataflows::nodes::kind_of(name).expect("a kind of this name");
        let faults = faults_with(kind, key, Some(value));
        assert!(faults.iter().any(|fault| fault.contains(what)), "{name}: {key} = {value}: {faults:?}");
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
    for kind in kinds_behind_the_gate() {
        for (path, accepts) in inputs_of(kind) {
            let faults = |input: &str| {
                let input = format!("\"{input}\"");
                let value = if path == "inputs" { format!("[{input}]") } else { input };
                faults_with(kind, &path, Some(&value))
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
                ("stored", "`stored` is a sink, which no node can read; read its input `facts` instead"),
                ("stored.rows", "`stored` is a sink"),
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

/// A setting and its other value.
type Change = (&'static str, &'static str);

/// For each input of each kind: a setting with which a key of it meets a key of another type;
/// `None` when no key of the input meets another.
const KEYS_OF_TWO_TYPES: &[(&str, &str, Option<Change>)] = &[
    ("filter", "input", None),
    ("project", "input", None),
    ("union", "inputs", Some(("inputs", "[\"facts\", \"admitted\"]"))),
    ("windows", "input", Some(("groups.a.key", "\"text_key\""))),
    ("windows", "groups.*.from", Some(("groups.a.from_key", "\"text_key\""))),
    ("as_of", "input", Some(("key", "\"text_key\""))),
    ("as_of", "timeline", Some(("timeline_key", "\"text_key\""))),
    ("expire", "input", None),
    ("entities", "input", Some(("identifiers", "{ customer = [\"customer_id\", \"text_key\"] }"))),
    ("entities", "positives.from", Some(("positives.identifier", "\"text_key\""))),
    ("entities", "edges.*.from", Some(("edges.a.identifiers", "{ customer = \"text_key\" }"))),
    ("linkage", "input", None),
    ("quorum", "input", Some(("claim", "\"text_key\""))),
    ("quorum", "require_from.from", Some(("require_from.claim", "\"text_key\""))),
    ("quorum", "families", Some(("stream", "\"customer_id\""))),
    ("copy_detection", "input", None),
    ("drift", "input", None), // Its expressions are cast to texts and numbers.
    ("drift", "measures.*.from", None),
    ("credibility", "input", None),
    ("credibility", "claims.from", None),
    ("credibility", "evidence.from", None),
    ("credibility", "regions.from", None),
    ("decide", "input", None),
    ("seal", "input", None),
    ("sink.parquet", "input", None),
    ("sink.jsonl", "input", None),
    ("sink.seal", "input", None),
];

#[test]
fn keys_of_two_types_are_refused_at_every_input_where_keys_meet() {
    for kind in kinds_behind_the_gate() {
        for (path, _) in inputs_of(kind) {
            let name = format!("`{path}` of `{}`", kind.name());
            let entry = KEYS_OF_TWO_TYPES.iter().find(|(of, input, _)| *of == kind.name() && *input == path);
            assert!(entry.is_some() || is_simple(kind), "{name} needs an entry in the table");
            let Some((_, _, Some((key, value)))) = entry else { continue };
            let faults = faults_with(kind, key, Some(*value));
            let is_refused = |fault: &String| {
                fault.contains("cast one of them") || fault.contains("have different columns")
            };
            assert!(faults.iter().any(is_refused), "{name}: {key} = {value}: {faults:?}");
        }
    }
}

/// For each kind: a setting with which one of its outputs, or its table, would have two columns of
/// one name; `None` when its outputs have the columns of its input or its own alone.
const TWO_COLUMNS_OF_ONE_NAME: &[(&str, Option<Change>)] = &[
    ("filter", None),
    ("project", Some(("passthrough", "[\"amount\", \"amount\"]"))),
    ("union", None),
    ("windows", Some(("groups.a.windows", "[\"1d\", \"1d\"]"))),
    ("as_of", Some(("values", "{ amount = \"amount\" }"))),
    ("expire", Some(("input", "\"taken\""))),
    ("entities", Some(("input", "\"taken\""))),
    ("linkage", None),
    ("quorum", Some(("passthrough", "[\"customer_id\"]"))),
    ("copy_detection", None),
    ("drift", None),
    ("credibility", None),
    ("decide", Some(("input", "\"decisions\""))),
    ("seal", Some(("input", "\"digested\""))),
    ("sink.parquet", Some(("columns", "[\"amount\", \"amount\"]"))),
    ("sink.jsonl", Some(("columns", "[\"amount\", \"amount\"]"))),
    ("sink.seal", None),
];

#[test]
fn two_columns_of_one_name_are_refused_at_every_kind_that_could_give_them() {
    for kind in kinds_behind_the_gate() {
        let Some(Some((key, value))) = entry_of(kind, TWO_COLUMNS_OF_ONE_NAME) else { continue };
        let faults = faults_with(kind, key, Some(value));
        let is_refused = |fault: &String| {
            fault.contains("gives two columns named") || fault.contains("names `amount` twice")
        };
        assert!(faults.iter().any(is_refused), "{}: {key} = {value}: {faults:?}", kind.name());
    }
    let seal = tidegate_dataflows::nodes::kind_of("seal").expect("a kind of this name");
    let faults = faults_with(seal, "columns", Some("[\"amount\", \"amount\"]"));
    assert!(faults.iter().any(|fault| fault.contains("names `amount` twice")), "seal: {faults:?}");
}

#[test]
fn a_port_passes_on_the_columns_that_only_its_readers_read() {
    let late = |columns: &str| {
        let nodes = format!(
            "[[node]]\nname = \"live\"\nkind = \"expire\"\ninput = \"admitted\"\nkey = \"customer_id\"\nttl = \"1h\"\n\
             [[node]]\nname = \"late\"\nkind = \"sink.parquet\"\ninput = \"live.late\"\ntable = \"late\"\n{columns}"
        );
        let plan = plan_of(format!("{ADMITTED}\n{nodes}")).unwrap_or_else(|faults| panic!("{faults:?}"));
        let (_, schema) = plan.tables().into_iter().find(|(table, _)| table == "late").expect("the table");
        schema.fields().iter().map(|field| field.name().clone()).collect::<Vec<_>>()
    };
    assert_eq!(late("columns = [\"amount\"]"), ["_tick", "amount"]);
    let all = late("");
    for column in ["_tick", "customer_id", "ts_utc", "event_id", "amount", "payload_hash", "expires_at"] {
        assert!(all.iter().any(|name| name == column), "{column} is not among {all:?}");
    }
}

#[test]
fn seeds_use_all_64_bits_and_are_read_back_from_a_store() {
    let plan = |run: &str, sample: &str| {
        let nodes = format!(
            "[[node]]\nname = \"some\"\nkind = \"sample\"\ninput = \"admitted\"\nkey = \"customer_id\"\nshare = 0.5\nseed = {sample}\n\
             [[node]]\nname = \"stored\"\nkind = \"sink.parquet\"\ninput = \"some\"\n"
        );
        let text = format!("{ADMITTED}\n{nodes}").replace("\nseed = 1\n", &format!("\nseed = {run}\n"));
        plan_of(text).unwrap_or_else(|faults| panic!("{run}, {sample}: {faults:?}"))
    };
    // A 64-bit float holds the first of these numbers, and not the second.
    let numbers = ["9007199254740992", "9007199254740993", "9223372036854775807", "18446744073709551615"];
    let mut digests = Vec::new();
    for (run, sample) in numbers.iter().map(|n| (*n, "2")).chain(numbers.iter().map(|n| ("2", *n))) {
        let plan = plan(run, sample);
        assert_eq!(plan.topology.run.seed, run.parse().ok(), "{run}");
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        plan.record(&store).unwrap();
        let again = Plan::from_store(&plan.digest, &store, &[]).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!((again.digest, again.topology.run.seed), (plan.digest, plan.topology.run.seed));
        assert!(!digests.contains(&plan.digest), "seeds {run} and {sample} have a digest of their own");
        digests.push(plan.digest);
    }
}

#[test]
fn a_source_cannot_have_a_name_that_receipts_give_for_something_else() {
    for (name, what) in [
        ("governance", "receipts of policy changes are"),
        ("http", "receipts of records that callers submit are"),
    ] {
        let named = ADMITTED
            .replace("name = \"transactions\"", &format!("name = \"{name}\""))
            .replace("[\"transactions\"]", &format!("[\"{name}\"]"));
        let sink = "[[node]]\nname = \"stored\"\nkind = \"sink.parquet\"\ninput = \"admitted\"\n";
        let faults = plan_of(format!("{named}\n{sink}")).err().expect("the name is reserved");
        assert_eq!(faults, [format!("no source can be called `{name}`: {what}; give it another name")]);
    }
}

#[test]
fn a_source_that_no_gate_reads_is_refused_also_when_the_gate_reads_none() {
    let none = ADMITTED.replace("[\"transactions\"]", "[]");
    let sink = "[[node]]\nname = \"stored\"\nkind = \"sink.parquet\"\ninput = \"admitted\"\n";
    let faults = plan_of(format!("{none}\n{sink}")).err().expect("the source leads nowhere");
    assert!(faults.iter().any(|fault| fault.contains("leads nowhere")), "{faults:?}");
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

#[test]
fn a_computed_column_cannot_have_the_name_of_a_column_of_tidegate() {
    let project = tidegate_dataflows::nodes::kind_of("project").expect("a kind of this name");
    let faults = faults_with(project, "columns", Some("{ _diff = \"cast(-1 as bigint)\" }"));
    assert!(faults.iter().any(|fault| fault.contains("column `_diff` begins with `_`")), "{faults:?}");
}

#[test]
fn a_table_cannot_have_the_name_of_another_that_a_service_shows() {
    let sink = tidegate_dataflows::nodes::kind_of("sink.parquet").expect("a kind of this name");
    for (name, part) in [
        ("facts", "already"),
        ("frontier", "already"),
        ("stored", "already"),
        ("stored_changes", "already"),
        ("pg_class", "begins with `pg_`"),
        ("Facts", "cannot name a table"),
    ] {
        let faults = faults_with(sink, "table", Some(&format!("\"{name}\"")));
        assert!(faults.iter().any(|fault| fault.contains(part)), "{name}: {faults:?}");
    }
}
