//! `quorum` as it is written.

use tidegate_operators::quorum::Need;

use crate::settings::{Section, Text};

/// `quorum`: what is known of each claim.
#[derive(Clone, Debug)]
pub struct QuorumNode {
    /// The claim column.
    pub claim: Text,
    /// The stream column: who says it.
    pub stream: Text,
    /// The value column: what is said.
    pub value: Text,
    /// The event-time column,
    pub time: Text,
    /// and whether the file names one.
    pub has_time: bool,
    /// The column of the stream's declared group.
    pub group: Option<Text>,
    /// SQL: whether the stream is out of band.
    pub out_of_band: Option<Text>,
    /// SQL: whether evidence may vote.
    pub votes: Option<Text>,
    /// The columns that a claim keeps, of its declaration or of its first row.
    pub keep: Vec<Text>,
    /// What claims need of which nobody said so.
    pub need: Option<Need>,
    /// Who says what claims need.
    pub declared: Option<DeclaredNode>,
    /// Who says which streams are one family.
    pub families: Option<Text>,
}

/// Rows that declare claims.
#[derive(Clone, Debug)]
pub struct DeclaredNode {
    /// The node that gives them.
    pub over: Text,
    /// Its claim column.
    pub claim: Option<Text>,
    /// SQL: how many streams should vote, how many must agree, and of how many groups.
    pub numbers: [Option<Text>; 3],
    /// SQL: whether one must be out of band.
    pub out_of_band: Option<Text>,
}

impl QuorumNode {
    /// What it reads besides its input.
    pub fn also_reads(&self) -> impl Iterator<Item = &Text> {
        self.declared.iter().map(|declared| &declared.over).chain(&self.families)
    }
}

/// Reads the settings of a `quorum`.
pub fn read(section: &Section<'_>) -> QuorumNode {
    let need = section.section("need").map(|need| {
        let number = |key| need.count(key, 1).map_or(1, |number| u32::try_from(number).unwrap_or(u32::MAX));
        let read = Need {
            n: number("n"),
            k: number("k"),
            groups: number("groups"),
            out_of_band: need.flag("out_of_band").unwrap_or(false),
        };
        need.finish();
        read
    });
    let declared = section.section("declared").map(|declared| {
        let read = DeclaredNode {
            over: declared.required_text("over", "the node whose rows declare claims"),
            claim: declared.text("claim"),
            numbers: ["n", "k", "groups"].map(|key| declared.text(key)),
            out_of_band: declared.text("out_of_band"),
        };
        declared.finish();
        read
    });
    if !section.has("need") && !section.has("declared") {
        section.missing(
            "need",
            "how many streams should vote, must agree, and of how many groups, such as { n = 3, k = 2, groups = 2 }; \
             or `declared`, the node whose rows say so of each claim",
        );
    }
    QuorumNode {
        claim: section.required_text("claim", "the column that names the claim"),
        stream: section.required_text("stream", "the column that names who says it"),
        value: section.required_text("value", "the column of what is said"),
        time: section.text("time").unwrap_or(Text { value: "ts_utc".to_owned(), line: section.line() }),
        has_time: section.has("time"),
        group: section.text("group"),
        out_of_band: section.text("out_of_band"),
        votes: section.text("votes"),
        keep: section.texts("keep"),
        need,
        declared,
        families: section.text("families"),
    }
}
