//! `expire` as it is written.

use std::rc::Rc;

use tidegate_facts::Span;

use crate::settings::{Faults, Section, Text};

/// `expire`: what is alive.
#[derive(Clone, Debug)]
pub struct ExpireNode {
    /// The key column: a later row of a key replaces the one before.
    pub key: Text,
    /// The event-time column.
    pub time: Text,
    /// How long a row lives from its event time on.
    pub ttl: Ttl,
    /// SQL: whether a row cancels what lives of its key.
    pub cancel: Option<Text>,
}

/// How long a row lives.
#[derive(Clone, Debug)]
pub enum Ttl {
    /// All rows as long.
    Fixed(Span),
    /// SQL: whole seconds, or a duration.
    Sql(Text),
    /// By the value of a column, as text.
    By(Text, Vec<(Text, Span)>),
}

/// Reads the settings of an `expire`.
pub fn read(section: &Section<'_>, faults: &Rc<Faults>) -> ExpireNode {
    ExpireNode {
        key: section.required_text("key", "the column by which a later row replaces an earlier one"),
        time: section.text("time").unwrap_or(Text { value: "ts_utc".to_owned(), line: section.line() }),
        ttl: read_ttl(section, faults),
        cancel: section.text("cancel"),
    }
}

fn read_ttl(section: &Section<'_>, faults: &Rc<Faults>) -> Ttl {
    const WHAT: &str = "a length of time such as \"15m\", SQL for seconds, or with `by` a table of values and lengths of time";
    if !section.is_table("ttl") {
        let text = section.required_text("ttl", WHAT);
        return Span::parse(&text.value).map_or(Ttl::Sql(text), Ttl::Fixed);
    }
    let by = section.required_text("by", "the column that says which `ttl` a row has");
    let spans = section.text_table("ttl").into_iter().filter(|(_, text)| !text.is_absent());
    let spans = spans.filter_map(|(value, text)| match Span::parse(&text.value) {
        Ok(span) => Some((value, span)),
        Err(what) => {
            faults.add(text.line, format!("`ttl` of {}: {what}", section.name()));
            None
        }
    });
    Ttl::By(by, spans.collect())
}
