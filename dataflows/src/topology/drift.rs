//! `drift` as it is written.

use std::rc::Rc;

use tidegate_facts::Span;
use tidegate_facts::names::choices;

use crate::settings::{Faults, Section, Text};

/// `drift`: measures over periods of event time.
#[derive(Clone, Debug)]
pub struct DriftNode {
    /// Its measures, in the order of the file.
    pub measures: Vec<MeasureNode>,
}

/// One measure; what it does not say is the node's.
#[derive(Clone, Debug)]
pub struct MeasureNode {
    /// Its name.
    pub name: Text,
    /// Which statistic.
    pub statistic: Text,
    /// The node whose rows are measured; the input when not given.
    pub over: Option<Text>,
    /// SQL of the key.
    pub key: Option<Text>,
    /// SQL of whom a row is of, inside the key.
    pub member: Option<Text>,
    /// SQL of what is measured.
    pub value: Option<Text>,
    /// The column of the event time.
    pub time: Text,
    /// How long a period is.
    pub period: Option<Span>,
    /// How far the beginnings of periods are apart; the period when not given.
    pub slide: Option<Span>,
    /// How long after its end a period is closed.
    pub delay: Option<Span>,
    /// How long it is corrected.
    pub lateness_max: Option<Span>,
    /// How many facts make a period.
    pub rows_min: Option<u64>,
    /// How long after its first row a key's first period begins.
    pub settles: Option<Span>,
    /// Beyond this value it is yellow.
    pub yellow: Option<f64>,
    /// Beyond this value it is red.
    pub red: Option<f64>,
    /// A declared reference: the edges of its bins, and how many values are in each.
    pub reference: Option<(Vec<f64>, Vec<u64>, u32)>,
}

impl DriftNode {
    /// The nodes whose rows are measured, besides the input.
    pub fn over(&self) -> impl Iterator<Item = &Text> {
        self.measures.iter().filter_map(|measure| measure.over.as_ref())
    }
}

/// Every statistic.
pub const STATISTICS: [&str; 7] = [
    "timing_entropy",
    "correlation_drift",
    "confidence_volatility",
    "ttl_compression",
    "external_mismatch",
    "psi",
    "ks",
];

/// Reads the settings of a node.
pub fn read(section: &Section<'_>, faults: &Rc<Faults>) -> DriftNode {
    let node = |key| section.text(key);
    let (key, time) = (node("key"), node("time"));
    let spans = ["period", "slide", "delay", "lateness_max"].map(|key| section.span(key));
    let rows_min = section.count("rows_min", 1);
    let before = faults.count();
    let measures = section.sections("measures");
    if measures.is_empty() && faults.count() == before {
        section.missing("measures", "a table for each measure, such as [node.measures.timing]");
    }
    let measures = measures.into_iter().map(|(name, of)| {
        let statistic = of.text("statistic").unwrap_or_else(|| name.clone());
        if !statistic.is_absent() && !STATISTICS.contains(&statistic.value.as_str()) {
            let mend = choices(&statistic.value, &STATISTICS);
            faults.add(statistic.line, format!("`{}` is no statistic of drift; {mend}", statistic.value));
        }
        let span = |at: usize, key| of.span(key).or(spans[at]);
        let ts = Text { value: tidegate_facts::columns::TS_UTC.to_owned(), line: of.line() };
        let measure = MeasureNode {
            statistic,
            over: of.text("over"),
            key: of.text("key").or_else(|| key.clone()),
            member: of.text("member"),
            value: of.text("value"),
            time: of.text("time").or_else(|| time.clone()).unwrap_or(ts),
            period: span(0, "period"),
            slide: span(1, "slide"),
            delay: span(2, "delay"),
            lateness_max: span(3, "lateness_max"),
            rows_min: of.count("rows_min", 1).or(rows_min),
            settles: of.span("settles"),
            yellow: of.number("yellow"),
            red: of.number("red"),
            reference: of.section("reference").and_then(|reference| {
                let (edges, counts) = (reference.numbers("edges"), reference.numbers("counts"));
                reference.finish();
                histogram(&reference, edges, counts, faults)
            }),
            name,
        };
        of.finish();
        measure
    });
    DriftNode { measures: measures.collect() }
}

/// The greatest number that is kept in millionths.
const GREATEST: f64 = 9e12;

/// A histogram whose edges ascend and whose counts are whole.
fn histogram(
    section: &Section<'_>,
    edges: Vec<f64>,
    counts: Vec<f64>,
    faults: &Rc<Faults>,
) -> Option<(Vec<f64>, Vec<u64>, u32)> {
    let is_whole = |count: &f64| *count >= 0.0 && count.fract() == 0.0 && *count < 1e15;
    let holds = !edges.is_empty()
        && edges.iter().all(|edge| edge.is_finite() && edge.abs() <= GREATEST)
        && edges.is_sorted_by(|a, b| a < b)
        && counts.len() == edges.len() + 1
        && counts.iter().all(is_whole)
        && counts.iter().any(|count| *count > 0.0);
    if !holds {
        let what = format!(
            "{} must be {{ edges = [..], counts = [..] }}: ascending edges, and one more whole count than there are edges, \
             the last for what is above them all",
            section.name()
        );
        faults.add(section.line(), what);
        return None;
    }
    Some((edges, counts.into_iter().map(|count| count as u64).collect(), section.line()))
}
