//! The functions of the entity graph of the card world, compared with an account of its facts that
//! uses no graph.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use arrow::array::AsArray;
use arrow::compute::cast;
use arrow::datatypes::DataType;
use serde_json::{Value, json};
use tidegate_facts::{Tick, Topic};

use crate::harness;
use crate::service::Service;

/// Long enough for links to expire, and with one commit, so that components only grow.
const WORLD: &str =
    "transactions.world={ seed = 5, customers = 60, terminals = 150, days = 45, radius = 12.0 }";

const MONTH_MICROS: i64 = 30 * 86_400_000_000;

/// The index of a kind in `KINDS`, and an identifier of that kind.
type Id = (usize, String);

const KINDS: [&str; 2] = ["customer", "terminal"];

fn label((kind, identifier): &Id) -> String {
    format!("{}:{identifier}", KINDS[*kind])
}

struct Fact {
    tick: Tick,
    topic: String,
    expires: Tick,
    customer: Id,
    terminal: Id,
    /// Whether a labelled payment was a fraud; `None` for the payment itself.
    is_fraud: Option<bool>,
}

/// The values of a statement with one column, as strings.
fn texts(data: &Path, sql: &str) -> Vec<String> {
    let rows = harness::query(data, sql);
    let column = |batch: &arrow::array::RecordBatch| -> Vec<String> {
        let texts = cast(batch.column(0), &DataType::Utf8).unwrap();
        texts.as_string::<i32>().iter().map(|text| text.unwrap_or("null").to_owned()).collect()
    };
    rows.iter().flat_map(column).collect()
}

fn facts(data: &Path) -> Vec<Fact> {
    let sql =
        "SELECT concat_ws(' ', _tick, topic, arrow_cast(ts_utc, 'Int64'), payload) FROM facts ORDER BY _tick";
    let read = |line: String| {
        let [tick, topic, time, payload] = line.splitn(4, ' ').collect::<Vec<_>>().try_into().unwrap();
        let payload: Value = serde_json::from_str(payload).unwrap();
        let tick = Tick(tick.parse().unwrap());
        let time: i64 = time.parse().unwrap();
        Fact {
            tick,
            topic: topic.to_owned(),
            expires: Tick::new(time + MONTH_MICROS, tick.partition()).unwrap(),
            customer: (0, payload["customer_id"].to_string().replace('"', "")),
            terminal: (1, payload["terminal_id"].to_string().replace('"', "")),
            is_fraud: payload["fraud"].as_bool(),
        }
    };
    texts(data, sql).into_iter().map(read).collect()
}

/// What follows from the facts before a tick.
#[derive(Default)]
struct Account {
    /// When each identifier was first seen, and on which days.
    seen: BTreeMap<Id, (Tick, BTreeSet<i64>)>,
    /// The identifiers that each is linked with, and since when.
    links: BTreeMap<Id, BTreeMap<Id, Tick>>,
    /// The members of each component.
    components: Vec<BTreeSet<Id>>,
    frauds: BTreeMap<Id, u64>,
    basis: [u64; 4],
}

impl Account {
    fn of(facts: &[Fact], before: Tick) -> Account {
        let mut account = Account::default();
        let mut links: BTreeMap<(&Id, &Id), (Tick, Tick)> = BTreeMap::new();
        for fact in facts.iter().filter(|fact| fact.tick < before) {
            if fact.topic == Topic::Traffic.name() {
                account.basis[usize::from(fact.tick.partition())] += 1;
            }
            let mut named = vec![&fact.customer];
            match fact.is_fraud {
                Some(false) => continue,
                Some(true) => *account.frauds.entry(fact.customer.clone()).or_default() += 1,
                None => {
                    named.push(&fact.terminal);
                    let link =
                        links.entry((&fact.customer, &fact.terminal)).or_insert((fact.tick, fact.expires));
                    if link.1 <= fact.tick {
                        link.0 = fact.tick; // The link had expired.
                    }
                    link.1 = link.1.max(fact.expires);
                }
            }
            for id in named {
                let seen = account.seen.entry(id.clone()).or_insert((fact.tick, BTreeSet::new()));
                seen.1.insert(fact.tick.micros() / 86_400_000_000);
            }
            if fact.is_fraud.is_none() {
                account.unite(&fact.customer, &fact.terminal);
            }
        }
        for ((one, other), (since, expires)) in links {
            if expires >= before {
                account.links.entry(one.clone()).or_default().insert(other.clone(), since);
                account.links.entry(other.clone()).or_default().insert(one.clone(), since);
            }
        }
        account
    }

    fn unite(&mut self, one: &Id, other: &Id) {
        let mut whole = BTreeSet::from([one.clone(), other.clone()]);
        self.components.retain(|component| {
            let touches = component.contains(one) || component.contains(other);
            if touches {
                whole.extend(component.iter().cloned());
            }
            !touches
        });
        self.components.push(whole);
    }

    fn members_of(&self, id: &Id) -> &BTreeSet<Id> {
        self.components.iter().find(|component| component.contains(id)).expect("every identifier was linked")
    }

    fn component(&self, id: &Id) -> String {
        label(self.members_of(id).iter().min_by_key(|id| (self.seen[*id].0, id.0)).expect("it has members"))
    }

    /// First tick, last day, days, degree by kind, component, size and frauds.
    fn profile(&self, id: &Id) -> String {
        let (first, days) = &self.seen[id];
        let links = self.links.get(id);
        let degree = |kind: usize| {
            links.into_iter().flat_map(BTreeMap::keys).filter(|(other, _)| *other == kind).count()
        };
        let members = self.members_of(id);
        let frauds: u64 = members.iter().filter_map(|id| self.frauds.get(id)).sum();
        let (customers, terminals) = (degree(0), degree(1));
        format!(
            "{} {} {} {} {customers} {terminals} {} {} {frauds}",
            first.0,
            days.last().expect("an identifier has a first day"),
            days.len(),
            customers + terminals,
            self.component(id),
            members.len()
        )
    }

    /// Each neighbour and since when, in the order of pages.
    fn neighbours(&self, id: &Id) -> Vec<String> {
        let links = self.links.get(id);
        let mut rows: Vec<(String, Tick)> =
            links.into_iter().flatten().map(|(other, since)| (label(other), *since)).collect();
        rows.sort_unstable();
        rows.into_iter().map(|(label, since)| format!("{label} {}", since.0)).collect()
    }

    /// The customers that share a terminal with a customer, the terminal, and since when.
    fn sharing(&self, id: &Id) -> BTreeSet<String> {
        let mut rows = BTreeSet::new();
        for (terminal, since) in self.links.get(id).into_iter().flatten() {
            for (other, theirs) in self.links[terminal].iter().filter(|(other, _)| *other != id) {
                rows.insert(format!("{} {} {}", label(other), label(terminal), since.max(theirs).0));
            }
        }
        rows
    }
}

const PROFILE: &str = "concat_ws(' ', first_tick, arrow_cast(last_seen, 'Int32'), days_seen, degree, \
                       degree_customer, degree_terminal, component, size, positives)";

#[test]
fn graph_functions_agree_with_the_facts_now_and_as_of_any_tick() {
    let scratch = tempfile::tempdir().unwrap();
    let data = scratch.path().join("data");
    let plan = harness::plan(&harness::file("dataflows/fraud.toml"), &[WORLD.to_owned()]);
    harness::run_plan(&plan, &data, 2);
    let facts = facts(&data);
    let at = |percent: usize| facts[facts.len() * percent / 100].tick;
    let end = facts.last().unwrap().tick;
    let (mut conflicts, mut pages, mut expired) = (BTreeSet::new(), 0, 0);
    for as_of in [None, Some(at(1)), Some(at(60)), Some(end)] {
        let when = as_of.map_or(String::new(), |tick| format!(", as_of => {}", tick.0));
        let tick = as_of.unwrap_or(end);
        let account = Account::of(&facts, tick.next());
        let ids: Vec<&Id> = account.seen.keys().step_by(account.seen.len().div_ceil(14)).collect();
        for id in &ids {
            let (kind, identifier) = (KINDS[id.0], &id.1);
            let of = format!("'{kind}', '{identifier}'{when}");
            let profile = texts(&data, &format!("SELECT {PROFILE} FROM profile({of})"));
            assert_eq!(profile, [account.profile(id)], "profile({of})");
            let expected = account.neighbours(id);
            expired += usize::from(expected.is_empty());
            let (mut all, mut after) = (Vec::new(), String::new());
            loop {
                let sql = format!(
                    "SELECT concat_ws(' ', page, since_tick) FROM neighbours('{kind}', '{identifier}', 7, after => '{after}'{when})"
                );
                let page = texts(&data, &sql);
                assert!(page.len() <= 7, "{sql}");
                pages += 1;
                let Some(last) = page.last() else { break };
                after = last.split(' ').next().unwrap().to_owned();
                all.extend(page);
            }
            assert_eq!(all, expected, "neighbours({of})");
        }
        let customer = ids.iter().find(|id| id.0 == 0).expect("some are customers");
        let sql = format!(
            "SELECT concat_ws(' ', concat(kind, ':', identifier), shared, since_tick) \
             FROM neighbours('customer', '{}', limit => 100000, through => 'terminal'{when})",
            customer.1
        );
        assert_eq!(
            texts(&data, &sql).into_iter().collect::<BTreeSet<_>>(),
            account.sharing(customer),
            "{sql}"
        );
        let counts = account.basis.map(|count| count.to_string()).join(",");
        for pair in ids.windows(2) {
            let hints: Vec<String> = pair.iter().map(|id| format!("'{}', '{}'", KINDS[id.0], id.1)).collect();
            let components: Vec<String> = pair.iter().map(|id| account.component(id)).collect();
            let conflict = components[0] != components[1];
            conflicts.insert(conflict);
            let sql = format!(
                "SELECT concat_ws(' ', component, candidates, conflict, array_to_string(basis, ',')) \
                 FROM resolve({}{when}) ORDER BY hint",
                hints.join(", ")
            );
            let candidates = 1 + usize::from(conflict);
            let expected = components.iter().map(|name| format!("{name} {candidates} {conflict} {counts}"));
            assert_eq!(texts(&data, &sql), expected.collect::<Vec<_>>(), "{sql}");
        }
    }
    assert_eq!(conflicts.len(), 2, "pairs with and without a conflict must occur: {conflicts:?}");
    assert!(pages > 100, "{pages}");
    println!("{pages} pages, {expired} without neighbours");

    // A row of the features names the version that the graph had at its tick.
    let row = texts(
        &data,
        "SELECT concat_ws(' ', _tick, graph_version) FROM (SELECT _tick, encode(graph_version, 'hex') AS graph_version FROM features) ORDER BY _tick LIMIT 1 OFFSET 100",
    );
    let (tick, version) = row[0].split_once(' ').unwrap();
    let sql = format!("SELECT encode(graph_version, 'hex') FROM graph_version('graph', {tick})");
    assert_eq!(texts(&data, &sql), [version]);
}

#[test]
fn graph_functions_answer_over_http_and_postgres_and_repeat_their_answers_after_a_stop() {
    let scratch = tempfile::tempdir().unwrap();
    let data = scratch.path().join("data");
    let topology = harness::file("dataflows/fraud.toml");
    let service = Service::run(&topology, &data, &["-w", "2", "--set", WORLD]);
    let number = |sql: &str| service.sql(sql)["rows"][0][0].as_str().unwrap().to_owned();
    let last = number("SELECT max(_tick) FROM facts");
    let statements: Vec<String> = ["customer", "terminal"]
        .into_iter()
        .flat_map(|kind| (1..4).map(move |identifier| (kind, identifier)))
        .flat_map(|(kind, identifier)| {
            [
                format!("SELECT concat_ws(' ', {PROFILE}, array_to_string(basis, ',')) FROM profile('{kind}', '{identifier}', as_of => {last})"),
                format!("SELECT concat_ws(' ', page, since_tick) FROM neighbours('{kind}', {identifier}, as_of => {last})"),
                format!("SELECT concat_ws(' ', component, size, conflict) FROM resolve('{kind}', {identifier}, 'customer', 1, as_of => {last}) ORDER BY hint"),
            ]
        })
        .collect();
    let rows = |answer: &Value| -> Vec<String> {
        let rows = answer["rows"].as_array().unwrap().iter();
        rows.map(|row| row[0].as_str().unwrap().to_owned()).collect()
    };
    let live: Vec<Vec<String>> = statements.iter().map(|sql| rows(&service.sql(sql))).collect();
    assert!(live.iter().flatten().count() > 30, "{live:?}");
    let now = service.sql("SELECT before_tick, frontier.tick FROM graph_version('graph'), frontier");
    assert_eq!(now["rows"][0][0], now["rows"][0][1], "a statement reads everything as of one tick: {now}");
    let refused = service.post(
        "/v1/sql",
        "application/json",
        &json!({ "sql": "SELECT * FROM resolve('costumer', '1')" }).to_string(),
    );
    assert_eq!(refused.status, 400);
    assert!(refused.body.contains("did you mean `customer`?"), "{}", refused.body);
    let has_client = Command::new("python3").args(["-c", "import psycopg"]).status();
    if has_client.is_ok_and(|status| status.success()) {
        let (host, port) = (service.postgres.ip().to_string(), service.postgres.port().to_string());
        let output = Command::new("python3")
            .args(["graph_client.py", &host, &port])
            .current_dir(harness::file("tests/clients"))
            .output()
            .unwrap();
        let stdout = String::from_utf8_lossy(&output.stdout);
        assert!(stdout.trim_end().ends_with("ok"), "{stdout}\n{}", String::from_utf8_lossy(&output.stderr));
    } else {
        eprintln!("psycopg is not installed: parameters of prepared statements are not tested");
    }
    service.stop();
    for (sql, expected) in statements.iter().zip(live) {
        assert_eq!(texts(&data, sql), expected, "{sql}");
    }
}
