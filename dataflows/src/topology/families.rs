//! `families` as it is written.

use std::rc::Rc;

use tidegate_facts::Span;
use tidegate_operators::families::Learn;

use crate::settings::{Faults, Section, Text};

/// `families`: streams that share wrong values.
#[derive(Clone, Debug)]
pub struct FamiliesNode {
    /// The claim column.
    pub claim: Text,
    /// The stream column.
    pub stream: Text,
    /// The value column.
    pub value: Text,
    /// The event-time column.
    pub time: Text,
    /// How they are learned.
    pub learn: Learn,
}

/// The share of shared wrong values of streams that are alike, and how many bits they must surprise, unless said otherwise.
const ALIKE: f64 = 0.99;
const BITS: u32 = 100;

/// Reads the settings of a `families`.
pub fn read(section: &Section<'_>, faults: &Rc<Faults>) -> FamiliesNode {
    let period = section.span("period");
    if !section.has("period") {
        section.missing("period", "how much event time a round looks at, such as \"1d\"");
    }
    let alike = section.number("alike").unwrap_or(ALIKE);
    if !(0.5..1.0).contains(&alike) {
        let what = format!("`alike` of {} must be a share from 0.5 to below 1, such as 0.99", section.name());
        faults.add(section.line(), what);
    }
    FamiliesNode {
        claim: section.required_text("claim", "the column that names the claim"),
        stream: section.required_text("stream", "the column that names who says it"),
        value: section.required_text("value", "the column of what is said"),
        time: section.text("time").unwrap_or(Text { value: "ts_utc".to_owned(), line: section.line() }),
        learn: Learn {
            period: period.unwrap_or(Span::parse("1d").expect("a span")),
            alike: (alike * 1e6).round().clamp(0.0, 1e6) as u32,
            bits: section
                .count("surprise_bits", 0)
                .map_or(BITS, |bits| u32::try_from(bits).unwrap_or(u32::MAX)),
            weighs: section.flag("weights").unwrap_or(false),
        },
    }
}
