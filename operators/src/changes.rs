//! What a revision would change, thing by thing: rules and score of a bundle, event types and fields of a policy.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::decide::BundleText;
use crate::gate::GatePolicy;

/// One thing that two revisions say differently.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// What it is about.
    pub about: String,
    /// What was said; `None` when nothing was.
    pub before: Option<String>,
    /// What is said now; `None` when nothing is.
    pub after: Option<String>,
}

impl std::fmt::Display for Change {
    /// One line for what came or went, two for what changed.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (&self.before, &self.after) {
            (None, Some(after)) => write!(f, "  + {}: {after}", self.about),
            (Some(before), None) => write!(f, "  - {}: {before}", self.about),
            (before, after) => {
                let [before, after] = [before, after].map(|text| text.as_deref().unwrap_or_default());
                let gap = " ".repeat(self.about.chars().count());
                write!(f, "  ~ {}: {before}\n    {gap}> {after}", self.about)
            }
        }
    }
}

/// What changes from one bundle to another, in the order of the later one; what went comes last.
pub fn of_bundles(before: &BundleText, after: &BundleText) -> Vec<Change> {
    changes(&bundle(before), &bundle(after))
}

/// What changes from one gate policy to another.
pub fn of_policies(before: &GatePolicy, after: &GatePolicy) -> Vec<Change> {
    changes(&policy(before), &policy(after))
}

type Said = Vec<(String, String)>;

fn bundle(bundle: &BundleText) -> Said {
    let order: Vec<&str> = bundle.rules.iter().map(|rule| rule.id.as_str()).collect();
    let mut said = vec![
        ("id".to_owned(), bundle.id.clone()),
        ("version".to_owned(), bundle.version.clone()),
        ("score".to_owned(), bundle.score.get_ref().clone()),
        ("otherwise".to_owned(), bundle.otherwise.name().to_owned()),
    ];
    said.extend(bundle.rules.iter().map(|rule| {
        let text = format!("{} ({}) when {}", rule.action.name(), rule.reason, rule.when.get_ref());
        (format!("rule {}", rule.id), text)
    }));
    said.push(("order of rules".to_owned(), order.join(", ")));
    said
}

fn policy(policy: &GatePolicy) -> Said {
    let mut said = vec![
        ("id".to_owned(), policy.id.clone()),
        ("revision".to_owned(), policy.revision.clone()),
        ("record_bytes_max".to_owned(), policy.record_bytes_max.to_string()),
    ];
    let list = |names: &BTreeSet<String>| names.iter().cloned().collect::<Vec<_>>().join(", ");
    for event in policy.events() {
        let name = &event.event_type;
        said.push((format!("event {name}"), format!("class {}", event.class.name())));
        if let Some(versions) = &event.versions {
            said.push((format!("event {name}, versions"), list(versions)));
        }
        if let Some(producers) = &event.producers {
            said.push((format!("event {name}, producers"), list(producers)));
        }
        let key: Vec<&str> = event.partition_key.iter().map(|source| event.key_name(source)).collect();
        said.push((format!("event {name}, partition key"), key.join(", ")));
        for field in event.payload.iter().flat_map(|schema| &schema.fields) {
            let mark = if field.required { "" } else { "?" };
            said.push((format!("event {name}, field {}", field.name), format!("{}{mark}", field.field_type)));
        }
    }
    said
}

fn changes(before: &Said, after: &Said) -> Vec<Change> {
    let by_name = |said: &Said| said.iter().cloned().collect::<BTreeMap<String, String>>();
    let (was, is) = (by_name(before), by_name(after));
    let changed = after.iter().filter(|(about, text)| was.get(about) != Some(text));
    let changed = changed.map(|(about, text)| Change {
        about: about.clone(),
        before: was.get(about).cloned(),
        after: Some(text.clone()),
    });
    let gone = before.iter().filter(|(about, _)| !is.contains_key(about));
    let gone =
        gone.map(|(about, text)| Change { about: about.clone(), before: Some(text.clone()), after: None });
    changed.chain(gone).collect()
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn shown(changes: &[Change], wanted: &Expect) {
        // Golden texts begin at the margin.
        let shown: String = changes.iter().map(|change| format!("{change}\n")).collect();
        wanted.assert_eq(&shown.lines().map(|line| format!("{}\n", &line[2..])).collect::<String>());
    }

    const BUNDLE: &str = r#"
        id = "cards"
        version = "1"
        score = "0"
        rule = [
            { id = "large", when = "x > 10", action = "BLOCK", reason = "LARGE" },
            { id = "odd", when = "x % 2 = 1", action = "STEP_UP", reason = "ODD" },
        ]
    "#;

    #[test]
    fn rules_that_came_changed_and_went_are_told_apart() {
        let before = BundleText::parse(BUNDLE).unwrap();
        let after = BUNDLE
            .replace("\"1\"", "\"2\"")
            .replace("x > 10", "x > 7")
            .replace("odd", "even")
            .replace("x % 2 = 1", "x % 2 = 0");
        shown(
            &of_bundles(&before, &BundleText::parse(&after).unwrap()),
            &expect![[r#"
              ~ version: 1
                       > 2
              ~ rule large: BLOCK (LARGE) when x > 10
                          > BLOCK (LARGE) when x > 7
              + rule even: STEP_UP (ODD) when x % 2 = 0
              ~ order of rules: large, odd
                              > large, even
              - rule odd: STEP_UP (ODD) when x % 2 = 1
        "#]],
        );
        shown(&of_bundles(&before, &before), &expect![""]);
    }

    #[test]
    fn a_policy_is_compared_by_event_type_and_field() {
        let text = "id = \"gate\"\nrevision = \"1\"\n[event.a]\nclass = \"traffic\"\nversions = [\"v1\"]\n[event.a.payload]\nx = \"int32\"\n";
        let after =
            text.replace("\"1\"", "\"2\"").replace("[\"v1\"]", "[\"v1\", \"v2\"]").replace("int32", "int32?");
        let [before, after] = [text, &after].map(|text| GatePolicy::parse(text).unwrap());
        shown(
            &of_policies(&before, &after),
            &expect![[r#"
              ~ revision: 1
                        > 2
              ~ event a, versions: v1
                                 > v1, v2
              ~ event a, field x: int32
                                > int32?
        "#]],
        );
    }
}
