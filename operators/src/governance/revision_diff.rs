//! Compares two revisions item by item: rules and score of a bundle, event types and fields of a
//! policy.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::decision::decide::BundleText;
use crate::gate::GatePolicy;

/// One item in which two revisions differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RevisionChange {
    /// The name of the item, such as `rule large`.
    pub about: String,
    /// The text of the item in the earlier revision; `None` when it has no such item.
    pub before: Option<String>,
    /// The text of the item in the later revision; `None` when it has no such item.
    pub after: Option<String>,
}

impl std::fmt::Display for RevisionChange {
    /// Writes one line for an added or removed item, two lines for a changed one.
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

/// The changes from one bundle to another, in the order of the later one; removed items come last.
pub fn bundle_changes(before: &BundleText, after: &BundleText) -> Vec<RevisionChange> {
    changes(&bundle(before), &bundle(after))
}

/// The changes from one gate policy to another, in the order of the later one; removed items come
/// last.
pub fn policy_changes(before: &GatePolicy, after: &GatePolicy) -> Vec<RevisionChange> {
    changes(&policy(before), &policy(after))
}

/// The items of a revision: name and text of each, in order.
type Items = Vec<(String, String)>;

fn bundle(bundle: &BundleText) -> Items {
    let order: Vec<&str> = bundle.rules.iter().map(|rule| rule.id.as_str()).collect();
    let mut items = vec![
        ("id".to_owned(), bundle.id.clone()),
        ("version".to_owned(), bundle.version.clone()),
        ("score".to_owned(), bundle.score.get_ref().clone()),
        ("default_action".to_owned(), bundle.default_action.name().to_owned()),
    ];
    items.extend(bundle.rules.iter().map(|rule| {
        let text = format!("{} ({}) when {}", rule.action.name(), rule.reason, rule.when.get_ref());
        (format!("rule {}", rule.id), text)
    }));
    items.push(("order of rules".to_owned(), order.join(", ")));
    items
}

fn policy(policy: &GatePolicy) -> Items {
    let mut items = vec![
        ("id".to_owned(), policy.id.clone()),
        ("revision".to_owned(), policy.revision.clone()),
        ("record_bytes_max".to_owned(), policy.record_bytes_max.to_string()),
    ];
    let list = |names: &BTreeSet<String>| names.iter().cloned().collect::<Vec<_>>().join(", ");
    for event in policy.events() {
        let name = &event.event_type;
        items.push((format!("event {name}"), format!("class {}", event.class.name())));
        if let Some(versions) = &event.versions {
            items.push((format!("event {name}, versions"), list(versions)));
        }
        if let Some(producers) = &event.producers {
            items.push((format!("event {name}, producers"), list(producers)));
        }
        let key: Vec<&str> = event.partition_key.iter().map(|source| event.key_name(source)).collect();
        items.push((format!("event {name}, partition key"), key.join(", ")));
        for field in event.payload.iter().flat_map(|schema| &schema.fields) {
            let mark = if field.required { "" } else { "?" };
            items
                .push((format!("event {name}, field {}", field.name), format!("{}{mark}", field.field_type)));
        }
    }
    items
}

fn changes(before: &Items, after: &Items) -> Vec<RevisionChange> {
    let by_name = |items: &Items| items.iter().cloned().collect::<BTreeMap<String, String>>();
    let (was, is) = (by_name(before), by_name(after));
    let changed = after.iter().filter(|(about, text)| was.get(about) != Some(text));
    let changed = changed.map(|(about, text)| RevisionChange {
        about: about.clone(),
        before: was.get(about).cloned(),
        after: Some(text.clone()),
    });
    let removed = before.iter().filter(|(about, _)| !is.contains_key(about));
    let removed = removed.map(|(about, text)| RevisionChange {
        about: about.clone(),
        before: Some(text.clone()),
        after: None,
    });
    changed.chain(removed).collect()
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn check(changes: &[RevisionChange], expected: &Expect) {
        // Golden texts begin at the margin.
        let lines: String = changes.iter().map(|change| format!("{change}\n")).collect();
        expected.assert_eq(&lines.lines().map(|line| format!("{}\n", &line[2..])).collect::<String>());
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
    fn added_changed_and_removed_rules_are_distinguished() {
        let before = BundleText::parse(BUNDLE).unwrap();
        let after = BUNDLE
            .replace("\"1\"", "\"2\"")
            .replace("x > 10", "x > 7")
            .replace("odd", "even")
            .replace("x % 2 = 1", "x % 2 = 0");
        check(
            &bundle_changes(&before, &BundleText::parse(&after).unwrap()),
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
        check(&bundle_changes(&before, &before), &expect![""]);
    }

    #[test]
    fn a_policy_is_compared_by_event_type_and_field() {
        let text = "id = \"gate\"\nrevision = \"1\"\n[event.a]\nclass = \"traffic\"\nversions = [\"v1\"]\n[event.a.payload]\nx = \"int32\"\n";
        let after =
            text.replace("\"1\"", "\"2\"").replace("[\"v1\"]", "[\"v1\", \"v2\"]").replace("int32", "int32?");
        let [before, after] = [text, &after].map(|text| GatePolicy::parse(text).unwrap());
        check(
            &policy_changes(&before, &after),
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
