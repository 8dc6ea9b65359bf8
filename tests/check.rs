//! What `tidegate check` says of broken topologies: every fault at once, each with its line and a mend.
//!
//! `UPDATE_EXPECT=1 cargo test --release --test whole check` writes what is said now; read the difference.

use expect_test::expect_file;
use tidegate_dataflows::Plan;
use tidegate_dataflows::topology::Override;

use crate::harness;

/// Compares the faults of `tests/broken/<name>.toml` with `tests/broken/<name>.txt`.
fn check(name: &str, set: &[&str]) {
    let file = harness::file(&format!("tests/broken/{name}.toml"));
    let overrides: Vec<Override> = set.iter().map(|text| Override::parse(text).unwrap()).collect();
    let Err(faults) = Plan::read(&file, &overrides) else { panic!("{name} has no fault") };
    let root = format!("{}/", harness::file("").display()).replace("//", "/");
    let mut said: Vec<String> = faults.iter().map(|fault| fault.to_string().replace(&root, "")).collect();
    said.push(String::new());
    let expected = if set.is_empty() { format!("{name}.txt") } else { format!("{name}-set.txt") };
    expect_file![harness::file(&format!("tests/broken/{expected}"))].assert_eq(&said.join("\n"));
}

#[test]
fn a_file_that_is_not_toml_is_said_to_be_so() {
    check("syntax", &[]);
}

#[test]
fn unknown_kinds_settings_and_values_are_named_with_what_is_known() {
    check("shape", &[]);
}

#[test]
fn nodes_that_lead_nowhere_or_in_circles_are_found() {
    check("wiring", &[]);
}

#[test]
fn every_expression_is_planned_against_its_input() {
    check("sql", &[]);
}

#[test]
fn identifiers_and_comparisons_are_checked_against_their_rows() {
    check("entities", &[]);
}

#[test]
fn measures_of_drift_and_what_the_index_reads_are_checked() {
    check("drift", &[]);
}

#[test]
fn faults_of_the_policy_are_shown_where_they_stand() {
    check("policy", &[]);
}

#[test]
fn faults_of_every_sort_are_shown_at_once() {
    check("everything", &[]);
}

#[test]
fn faults_of_the_policy_hide_no_other() {
    check("policy-and-more", &[]);
}

#[test]
fn states_are_checked_against_what_they_hear() {
    check("states", &[]);
}

#[test]
fn overrides_are_checked_like_the_file() {
    check("policy", &["records.pth=x", "nobody.path=x", "partitions=many"]);
}

#[test]
fn shipped_topologies_have_no_fault() {
    harness::plan(&harness::file("dataflows/fraud.toml"), &[]);
    let missing = Plan::read(&harness::file("dataflows/handbook.toml"), &[]);
    let Err(faults) = missing else { panic!("the handbook's payments are not part of the repository") };
    assert!(faults.iter().all(|fault| fault.message.contains("--set")), "{faults:#?}");
}
