//! The faults that `tidegate check` reports of broken topologies: all at once, each with its line
//! and a way to fix it.
//!
//! `UPDATE_EXPECT=1 cargo test --release --test whole check` writes the current messages; review
//! the difference.

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
    let mut messages: Vec<String> = faults.iter().map(|fault| fault.to_string().replace(&root, "")).collect();
    messages.push(String::new());
    let expected = if set.is_empty() { format!("{name}.txt") } else { format!("{name}-set.txt") };
    expect_file![harness::file(&format!("tests/broken/{expected}"))].assert_eq(&messages.join("\n"));
}

#[test]
fn a_file_that_is_not_toml_is_reported_as_such() {
    check("syntax", &[]);
}

#[test]
fn unknown_kinds_settings_and_values_are_reported_with_the_existing_ones() {
    check("shape", &[]);
}

#[test]
fn dangling_nodes_and_cycles_are_reported() {
    check("wiring", &[]);
}

#[test]
fn every_expression_is_planned_against_its_input() {
    check("sql", &[]);
}

#[test]
fn identifiers_and_comparisons_are_checked_against_their_input() {
    check("entities", &[]);
}

#[test]
fn drift_measures_and_the_inputs_of_the_index_are_checked() {
    check("drift", &[]);
}

#[test]
fn faults_of_a_policy_are_reported_at_their_line() {
    check("policy", &[]);
}

#[test]
fn faults_of_every_kind_are_reported_at_once() {
    check("everything", &[]);
}

#[test]
fn faults_of_a_policy_do_not_hide_others() {
    check("policy-and-more", &[]);
}

#[test]
fn states_are_checked_against_their_inputs() {
    check("states", &[]);
}

#[test]
fn overrides_are_checked_like_the_file() {
    check("policy", &["records.pth=x", "nobody.path=x", "partitions=many"]);
}

#[test]
fn shipped_topologies_have_no_faults() {
    harness::plan(&harness::file("dataflows/fraud.toml"), &[]);
    let missing = Plan::read(&harness::file("dataflows/handbook.toml"), &[]);
    let Err(faults) = missing else { panic!("the handbook's payments are not part of the repository") };
    assert!(faults.iter().all(|fault| fault.message.contains("--set")), "{faults:#?}");
}
