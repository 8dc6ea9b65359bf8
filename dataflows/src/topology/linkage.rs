//! The settings of `linkage` as they are written.

use std::rc::Rc;

use tidegate_facts::names::choices;
use tidegate_operators::linkage::{ALIKE, Comparator};

use crate::settings::{Faults, Section, Text};

/// `linkage`.
#[derive(Clone, Debug)]
pub struct LinkageNode {
    /// The column that says which record a row is.
    pub id: Text,
    /// SQL of the keys; records are compared that agree in one of them.
    pub blocks: Vec<Text>,
    /// How many records a block holds at most.
    pub block_max: u64,
    /// How many bits of evidence make a link.
    pub threshold: f64,
    /// The comparisons.
    pub compare: Vec<CompareNode>,
}

/// One comparison.
#[derive(Clone, Debug)]
pub struct CompareNode {
    /// The column that is compared.
    pub column: Text,
    /// How.
    pub by: Comparator,
    /// From this likeness on values agree, in thousandths;
    pub full: i64,
    /// up to this one they do not.
    pub none: i64,
    /// How often two records of one thing agree.
    pub m: f64,
    /// How often two records of two things agree.
    pub u: f64,
}

/// Reads the settings of a node of kind `linkage`.
pub fn read_linkage(section: &Section<'_>, faults: &Rc<Faults>) -> LinkageNode {
    let before = faults.count();
    let blocks = section.texts("blocks");
    if blocks.is_empty() && faults.count() == before {
        section.missing(
            "blocks",
            "a list of SQL keys, such as [\"date_of_birth\"]; records are compared that agree in one",
        );
    }
    let before = faults.count();
    let compare: Vec<CompareNode> = section
        .sections("compare")
        .into_iter()
        .map(|(column, section)| {
            let node = read_compare(column, &section, faults);
            section.finish();
            node
        })
        .collect();
    if compare.is_empty() && faults.count() == before {
        section
            .missing("compare", "a table for each column that is compared, such as [node.compare.surname]");
    }
    if section.number("threshold").is_none() && !section.has("threshold") {
        section.missing("threshold", "how many bits of evidence make a link, such as 10");
    }
    LinkageNode {
        id: section.required_text("id", "the column that says which record a row is"),
        blocks,
        block_max: section.count("block_max", 2).unwrap_or(500),
        threshold: section.number("threshold").unwrap_or(0.0),
        compare,
    }
}

fn read_compare(column: Text, section: &Section<'_>, faults: &Rc<Faults>) -> CompareNode {
    let within =
        section.count("within", 1).map(|most| Comparator::Within(i64::try_from(most).unwrap_or(i64::MAX)));
    let named = section.text("by").filter(|by| !by.is_absent()).and_then(|by| {
        let names = Comparator::NAMES.map(|(name, _)| name);
        let known = Comparator::NAMES.into_iter().find(|(name, _)| *name == by.value);
        if known.is_none() {
            let what = format!("`{}` is no way to compare; {}", by.value, choices(&by.value, &names));
            faults.add(by.line, what);
        }
        known.map(|(_, comparator)| comparator)
    });
    if within.is_none() && !section.has("by") && !section.has("within") {
        section.missing(
            "by",
            "`exact`, `jaro_winkler`, `levenshtein` or `words`; or `within`, for whole numbers",
        );
    }
    if section.has("by") && section.has("within") {
        faults.add(section.line(), format!("{} has both `by` and `within`; leave one out", section.name()));
    }
    let share = |key, otherwise: f64, what: &str| {
        let value = section.number(key);
        if value.is_none() && !section.has(key) && otherwise.is_nan() {
            section.missing(key, what);
        }
        let value = value.unwrap_or(otherwise);
        let wrong =
            if otherwise.is_nan() { value <= 0.0 || value >= 1.0 } else { !(0.0..=1.0).contains(&value) };
        if wrong {
            faults.add(
                section.line(),
                format!("`{key}` of {} is {value}; it is a share between 0 and 1", section.name()),
            );
        }
        if value.is_nan() { 0.5 } else { value }
    };
    let thousandths = |share: f64| (share * ALIKE as f64).round() as i64;
    let node = CompareNode {
        column,
        by: within.or(named).unwrap_or(Comparator::Exact),
        full: thousandths(share("full", 1.0, "")),
        none: thousandths(share("none", 0.0, "")),
        m: share("m", f64::NAN, "how often two records of one thing agree, such as 0.9"),
        u: share("u", f64::NAN, "how often records of two things agree, such as 0.01"),
    };
    if node.none >= node.full {
        let what =
            format!("`none` of {} must be less than `full`, from which on values agree", section.name());
        faults.add(section.line(), what);
    }
    node
}
