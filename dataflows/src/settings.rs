//! Reading settings from TOML so that every fault is found at once, each with its line.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use tidegate_facts::Span;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// One thing that is wrong with a file of settings: where, and a sentence on what and how to mend it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    /// The file.
    pub file: PathBuf,
    /// The line, counted from 1; 0 for a setting that came from the command line.
    pub line: u32,
    /// What is wrong, and how to mend it.
    pub what: String,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.line {
            0 => write!(f, "{}: --set: {}", self.file.display(), self.what),
            line => write!(f, "{}:{line}: {}", self.file.display(), self.what),
        }
    }
}

/// A text of a file and the line it begins on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// The text.
    pub value: String,
    /// The line, counted from 1; 0 when it came from the command line.
    pub line: u32,
}

/// Gathers the faults of one file.
pub struct Faults {
    file: PathBuf,
    /// The byte at which each line begins.
    line_starts: Vec<usize>,
    list: RefCell<Vec<Fault>>,
}

/// Where the values of `--set` lie: behind every byte of a file.
pub const FROM_COMMAND_LINE: usize = usize::MAX;

impl Faults {
    /// No faults yet in `file`, which holds `text`.
    pub fn new(file: &Path, text: &str) -> Rc<Faults> {
        let line_starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Rc::new(Faults { file: file.to_owned(), line_starts, list: RefCell::default() })
    }

    /// The line of a byte.
    pub fn line_at(&self, at: usize) -> u32 {
        if at == FROM_COMMAND_LINE {
            0
        } else {
            self.line_starts.partition_point(|start| *start <= at) as u32
        }
    }

    /// Adds a fault at a line.
    pub fn add(&self, line: u32, what: impl Into<String>) {
        self.list.borrow_mut().push(Fault { file: self.file.clone(), line, what: what.into() });
    }

    /// Adds a fault of another file.
    pub fn add_of(&self, file: &Path, line: u32, what: impl Into<String>) {
        self.list.borrow_mut().push(Fault { file: file.to_owned(), line, what: what.into() });
    }

    /// All faults, by file and line.
    pub fn take(&self) -> Vec<Fault> {
        let mut list = self.list.take();
        list.sort();
        list.dedup();
        list
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.list.borrow().is_empty()
    }
}

/// A table that is read key by key. What was not read by [`Section::finish`] is an unknown key.
pub struct Section<'t> {
    table: &'t DeTable<'t>,
    /// What to call the table in a fault.
    name: String,
    at: usize,
    faults: Rc<Faults>,
    known: RefCell<BTreeSet<&'static str>>,
}

impl<'t> Section<'t> {
    /// Reads `table`, which faults call `name`.
    pub fn new(
        table: &'t DeTable<'t>,
        at: usize,
        name: impl Into<String>,
        faults: &Rc<Faults>,
    ) -> Section<'t> {
        Section { table, name: name.into(), at, faults: Rc::clone(faults), known: RefCell::default() }
    }

    /// The line on which the table begins.
    pub fn line(&self) -> u32 {
        self.faults.line_at(self.at)
    }

    /// What faults call the table.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn get(&self, key: &'static str) -> Option<&'t Spanned<DeValue<'t>>> {
        self.known.borrow_mut().insert(key);
        self.table.get(key)
    }

    fn wrong(&self, value: &Spanned<DeValue<'_>>, key: &str, wanted: &str) {
        let line = self.faults.line_at(value.span().start);
        self.faults.add(
            line,
            format!("`{key}` of {} is {}; it must be {wanted}", self.name, value.get_ref().type_str()),
        );
    }

    /// A text that may be missing.
    pub fn text(&self, key: &'static str) -> Option<Text> {
        let value = self.get(key)?;
        if let Some(text) = value.get_ref().as_str() {
            return Some(Text { value: text.to_owned(), line: self.faults.line_at(value.span().start) });
        }
        self.wrong(value, key, "a text");
        None
    }

    /// A text that must be there; an empty one stands in when it is not.
    pub fn required_text(&self, key: &'static str, what_it_is: &str) -> Text {
        if self.table.contains_key(key) {
            return self.text(key).unwrap_or(Text { value: String::new(), line: self.line() });
        }
        self.missing(key, what_it_is);
        Text { value: String::new(), line: self.line() }
    }

    /// Adds the fault that `key` is missing.
    pub fn missing(&self, key: &'static str, what_it_is: &str) {
        self.known.borrow_mut().insert(key);
        self.faults.add(self.line(), format!("{} lacks `{key}`, {what_it_is}", self.name));
    }

    /// A list of texts; empty when missing.
    pub fn texts(&self, key: &'static str) -> Vec<Text> {
        let Some(value) = self.get(key) else { return Vec::new() };
        let Some(items) = value.get_ref().as_array() else {
            self.wrong(value, key, "a list of texts");
            return Vec::new();
        };
        let mut texts = Vec::new();
        for item in items {
            match item.get_ref().as_str() {
                Some(text) => {
                    texts.push(Text { value: text.to_owned(), line: self.faults.line_at(item.span().start) });
                }
                None => self.wrong(item, key, "a list of texts"),
            }
        }
        texts
    }

    /// Names and texts, in the order of the file.
    pub fn text_table(&self, key: &'static str) -> Vec<(Text, Text)> {
        let Some(value) = self.get(key) else { return Vec::new() };
        let Some(table) = value.get_ref().as_table() else {
            self.wrong(value, key, "a table of texts");
            return Vec::new();
        };
        let mut pairs = Vec::new();
        for (name, value) in table {
            match value.get_ref().as_str() {
                Some(text) => {
                    let at = name.span().start;
                    let name = Text { value: name.get_ref().to_string(), line: self.faults.line_at(at) };
                    let line = self.faults.line_at(value.span().start);
                    pairs.push((at, (name, Text { value: text.to_owned(), line })));
                }
                None => self.wrong(value, name.get_ref(), "a text"),
            }
        }
        pairs.sort_by_key(|(at, _)| *at);
        pairs.into_iter().map(|(_, pair)| pair).collect()
    }

    /// A whole number of at least `least`.
    pub fn count(&self, key: &'static str, least: u64) -> Option<u64> {
        let value = self.get(key)?;
        let number = value
            .get_ref()
            .as_integer()
            .and_then(|i| i64::from_str_radix(&i.as_str().replace('_', ""), i.radix()).ok())
            .and_then(|i| u64::try_from(i).ok());
        if number.is_none_or(|n| n < least) {
            self.wrong(value, key, &format!("a whole number of at least {least}"));
            return None;
        }
        number
    }

    /// Yes or no.
    pub fn flag(&self, key: &'static str) -> Option<bool> {
        let value = self.get(key)?;
        let flag = value.get_ref().as_bool();
        if flag.is_none() {
            self.wrong(value, key, "true or false");
        }
        flag
    }

    /// A number, whole or not.
    pub fn number(&self, key: &'static str) -> Option<f64> {
        let value = self.get(key)?;
        let text = match value.get_ref() {
            DeValue::Float(float) => float.as_str(),
            DeValue::Integer(integer) => integer.as_str(),
            _ => "",
        };
        let number = text.replace('_', "").parse().ok();
        if number.is_none() {
            self.wrong(value, key, "a number");
        }
        number
    }

    /// A length of time such as `7d`.
    pub fn span(&self, key: &'static str) -> Option<Span> {
        let text = self.text(key)?;
        match Span::parse(&text.value) {
            Ok(span) => Some(span),
            Err(what) => {
                self.faults.add(text.line, format!("`{key}` of {}: {what}", self.name));
                None
            }
        }
    }

    /// A table inside this one.
    pub fn section(&self, key: &'static str) -> Option<Section<'t>> {
        let value = self.get(key)?;
        match value.get_ref().as_table() {
            Some(table) => Some(Section::new(
                table,
                value.span().start,
                format!("`{key}` of {}", self.name),
                &self.faults,
            )),
            None => {
                self.wrong(value, key, "a table");
                None
            }
        }
    }

    /// The tables inside the table `key`, by name, in the order of the file.
    pub fn sections(&self, key: &'static str) -> Vec<(Text, Section<'t>)> {
        let Some(value) = self.get(key) else { return Vec::new() };
        let Some(outer) = value.get_ref().as_table() else {
            self.wrong(value, key, "a table of tables");
            return Vec::new();
        };
        let mut sections = Vec::new();
        for (name, value) in outer {
            match value.get_ref().as_table() {
                Some(table) => {
                    let title = format!("`{key}.{}` of {}", name.get_ref(), self.name);
                    let section = Section::new(table, value.span().start, title, &self.faults);
                    let line = self.faults.line_at(name.span().start);
                    sections.push((
                        name.span().start,
                        Text { value: name.get_ref().to_string(), line },
                        section,
                    ));
                }
                None => self.wrong(value, name.get_ref(), "a table"),
            }
        }
        sections.sort_by_key(|(at, _, _)| *at);
        sections.into_iter().map(|(_, name, section)| (name, section)).collect()
    }

    /// The tables of a list of tables (`[[key]]`).
    pub fn list(&self, key: &'static str) -> Vec<Section<'t>> {
        let Some(value) = self.get(key) else { return Vec::new() };
        let Some(items) = value.get_ref().as_array() else {
            self.wrong(value, key, &format!("a list of tables, each begun by [[{key}]]"));
            return Vec::new();
        };
        let mut sections = Vec::new();
        for item in items {
            match item.get_ref().as_table() {
                Some(table) => {
                    sections.push(Section::new(table, item.span().start, format!("a {key}"), &self.faults))
                }
                None => self.wrong(item, key, &format!("a list of tables, each begun by [[{key}]]")),
            }
        }
        sections
    }

    /// Whether `key` is a table rather than a text.
    pub fn is_table(&self, key: &str) -> bool {
        self.table.get(key).is_some_and(|value| value.get_ref().is_table())
    }

    /// Calls the section something else from here on.
    pub fn rename(&mut self, name: String) {
        self.name = name;
    }

    /// Every key that was not asked for is a fault.
    pub fn finish(&self) {
        let known = self.known.borrow();
        for (key, _) in self.table {
            if !known.contains(key.get_ref().as_ref()) {
                let known: Vec<_> = known.iter().copied().collect();
                self.faults.add(
                    self.faults.line_at(key.span().start),
                    format!(
                        "{} has no setting `{}`; {}",
                        self.name,
                        key.get_ref(),
                        choices(key.get_ref(), &known)
                    ),
                );
            }
        }
    }
}

/// What to write in place of `unknown`: the nearest of `known`, or all of them.
pub fn choices(unknown: &str, known: &[&str]) -> String {
    let nearest = known.iter().map(|k| (distance(unknown, k), k)).min();
    match nearest {
        Some((distance, nearest)) if distance <= unknown.len() / 3 + 1 => {
            format!("did you mean `{nearest}`?")
        }
        _ if known.is_empty() => "there are none".to_owned(),
        _ => format!("it can be {}", known.iter().map(|k| format!("`{k}`")).collect::<Vec<_>>().join(", ")),
    }
}

/// How many single-character edits lie between two names.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let cost = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = cost.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_offered_and_else_all() {
        assert_eq!(choices("wheer", &["where", "input"]), "did you mean `where`?");
        assert_eq!(choices("colour", &["where", "input"]), "it can be `where`, `input`");
    }
}
