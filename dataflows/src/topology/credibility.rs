//! `credibility` as it is written.

use tidegate_facts::Span;

use crate::settings::{Section, Text};

/// `credibility`: the index over drift, claims, evidence and regions.
#[derive(Clone, Debug)]
pub struct CredibilityNode {
    /// The newest events count, at most so many,
    pub events_max: Option<u64>,
    /// and for so long.
    pub events_span: Option<Span>,
    /// Evidence that lives no longer runs short.
    pub short: Option<Span>,
    /// The measure of the drift node that says how groups fail together.
    pub correlation: Option<Text>,
    /// Changes of claims: node, and SQL of whether one is unknown and of whether it is fragile.
    pub claims: Option<Part>,
    /// What evidence is alive: node, and SQL of its claim and of when it ends.
    pub evidence: Option<Part>,
    /// Regions: node, and SQL of the region and of its state.
    pub regions: Option<Part>,
}

impl CredibilityNode {
    /// The nodes that it reads, besides the input.
    pub fn over(&self) -> impl Iterator<Item = &Text> {
        [&self.claims, &self.evidence, &self.regions].into_iter().flatten().map(|part| &part.over)
    }
}

/// One of the node's further inputs.
#[derive(Clone, Debug)]
pub struct Part {
    /// The node whose rows are read.
    pub over: Text,
    /// SQL of its columns.
    pub columns: Vec<Text>,
}

/// Reads the settings of a node.
pub fn read(section: &Section<'_>) -> CredibilityNode {
    let part = |key, columns: &[(&'static str, &str)]| {
        let part = section.section(key)?;
        let read = Part {
            over: part.required_text("over", "the node whose rows are read"),
            columns: columns.iter().map(|(column, what)| part.required_text(column, what)).collect(),
        };
        part.finish();
        Some(read)
    };
    CredibilityNode {
        events_max: section.count("events_max", 1),
        events_span: section.span("events_span"),
        short: section.span("short"),
        correlation: section.text("correlation"),
        claims: part(
            "claims",
            &[
                ("unknown", "SQL that is true while nobody can say whether a claim holds"),
                ("fragile", "SQL that is true while a claim hangs on one vote"),
            ],
        ),
        evidence: part(
            "evidence",
            &[("claim", "SQL of the claim that it is for"), ("expires", "SQL of the time when it ends")],
        ),
        regions: part(
            "regions",
            &[("region", "SQL of the region"), ("state", "SQL of its state: 'OK', 'WARN' or 'CRITICAL'")],
        ),
    }
}
