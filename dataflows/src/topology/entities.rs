//! The settings of `entities` as they are written.

use tidegate_facts::Span;

use crate::settings::{Section, Text};

/// `entities`.
#[derive(Clone, Debug)]
pub struct EntitiesNode {
    /// What its input's rows name.
    pub names: NamesNode,
    /// Which kinds are linked with which others; any with any when none is named.
    pub links: Vec<(Text, Vec<Text>)>,
    /// How long after it was last seen an identifier or a link is kept.
    pub ttl: Option<Span>,
    /// Kinds, and how many links one of them may have and still connect.
    pub degree_max: Vec<(Text, u64)>,
    /// What tells which identifiers had frauds.
    pub frauds: Option<FraudsNode>,
    /// Rows that only link.
    pub linked: Vec<LinkedNode>,
}

impl EntitiesNode {
    /// The nodes that it reads besides its input.
    pub fn also_reads(&self) -> impl Iterator<Item = &Text> {
        self.frauds.iter().map(|frauds| &frauds.over).chain(self.linked.iter().map(|linked| &linked.over))
    }
}

/// What the rows of a node name.
#[derive(Clone, Debug)]
pub struct NamesNode {
    /// Kinds, and the columns that name one of them.
    pub identifiers: Vec<(Text, Vec<Text>)>,
    /// A boolean column: the row ends the links that it names.
    pub ends: Option<Text>,
}

/// Rows that only link.
#[derive(Clone, Debug)]
pub struct LinkedNode {
    /// The node whose rows they are.
    pub over: Text,
    /// What they name.
    pub names: NamesNode,
}

/// What tells which identifiers had frauds.
#[derive(Clone, Debug)]
pub struct FraudsNode {
    /// The node whose rows tell.
    pub over: Text,
    /// Which of them tell of a fraud; the others take one back.
    pub condition: Text,
    /// The kind of identifier that a fraud counts at.
    pub kind: Text,
    /// The column that holds it.
    pub identifier: Text,
    /// The column that says what a row is about: a later row about the same takes back the one before.
    pub about: Text,
}

/// Reads the settings of a node of kind `entities`.
pub fn read_entities(section: &Section<'_>) -> EntitiesNode {
    let frauds = section.section("frauds").map(|frauds| {
        let node = FraudsNode {
            over: frauds.required_text("over", "the node whose rows tell"),
            condition: frauds.required_text("where", "a SQL boolean that is true of frauds"),
            kind: frauds.required_text("kind", "the kind of identifier that frauds count at"),
            identifier: frauds.required_text("identifier", "the column that holds it"),
            about: frauds
                .required_text("about", "the column that says what a row is about, such as a payment's id"),
        };
        frauds.finish();
        node
    });
    let linked = section.sections("linked").into_iter().map(|(_, linked)| {
        let over = linked.required_text("over", "the node whose rows link");
        let node = LinkedNode { over, names: read_names(&linked) };
        linked.finish();
        node
    });
    EntitiesNode {
        names: read_names(section),
        links: section.text_lists("links"),
        ttl: section.span("ttl"),
        degree_max: section.count_table("degree_max", 1),
        frauds,
        linked: linked.collect(),
    }
}

fn read_names(section: &Section<'_>) -> NamesNode {
    let identifiers = section.text_lists("identifiers");
    if !section.has("identifiers") {
        section
            .missing("identifiers", "a table of kinds and columns, such as { customer = \"customer_id\" }");
    }
    NamesNode { identifiers, ends: section.text("ends") }
}
