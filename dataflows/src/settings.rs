//! Reading settings from TOML so that every fault is found at once, each with its line.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use tidegate_facts::Span;
use tidegate_facts::names::choices;
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

impl Text {
    /// Stands in for a text that is missing or wrong, which has been said.
    ///
    /// No setting is an empty text: [`Section`] refuses them.
    pub fn absent(line: u32) -> Text {
        Text { value: String::new(), line }
    }

    /// Whether it only stands in, so that nothing more is to be said about it.
    pub fn is_absent(&self) -> bool {
        self.value.is_empty()
    }
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

    /// The text of `file`, and no faults in it yet.
    ///
    /// # Errors
    /// The one fault of a file that cannot be read.
    pub fn read(file: &Path) -> Result<(String, Rc<Faults>), Vec<Fault>> {
        let text = std::fs::read_to_string(file).map_err(|error| {
            let what = format!("cannot be read ({error}); check that it exists and is readable");
            vec![Fault { file: file.to_owned(), line: 1, what }]
        })?;
        let faults = Faults::new(file, &text);
        Ok((text, faults))
    }

    /// What the file's text says as TOML.
    ///
    /// # Errors
    /// All faults so far, if it is no TOML.
    pub fn table<'t>(&self, text: &'t str) -> Result<Spanned<DeTable<'t>>, Vec<Fault>> {
        DeTable::parse(text).map_err(|error| {
            let line = error.span().map_or(1, |span| self.line_at(span.start));
            let what = error.message().lines().next().unwrap_or_default();
            self.add(line, format!("is not TOML: {what}"));
            self.take()
        })
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

    /// How many there are so far.
    pub fn count(&self) -> usize {
        self.list.borrow().len()
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

    /// The value as a text; what is wrong with it is said, and [`Text::absent`] stands in.
    fn text_of(&self, value: &Spanned<DeValue<'_>>, key: &str, wanted: &str) -> Text {
        let line = self.faults.line_at(value.span().start);
        match value.get_ref().as_str() {
            Some("") => {
                self.faults.add(line, format!("`{key}` of {} is empty; write {wanted}", self.name));
                Text::absent(line)
            }
            Some(text) => Text { value: text.to_owned(), line },
            None => {
                self.wrong(value, key, wanted);
                Text::absent(line)
            }
        }
    }

    /// A text that may be missing.
    pub fn text(&self, key: &'static str) -> Option<Text> {
        Some(self.text_of(self.get(key)?, key, "a text"))
    }

    /// A text that must be there.
    pub fn required_text(&self, key: &'static str, what_it_is: &str) -> Text {
        self.text(key).unwrap_or_else(|| {
            self.missing(key, what_it_is);
            Text::absent(self.line())
        })
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
        items.iter().map(|item| self.text_of(item, key, "a list of texts")).collect()
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
            let at = name.span().start;
            let text = self.text_of(value, name.get_ref(), "a text");
            let name = Text { value: name.get_ref().to_string(), line: self.faults.line_at(at) };
            pairs.push((at, (name, text)));
        }
        pairs.sort_by_key(|(at, _)| *at);
        pairs.into_iter().map(|(_, pair)| pair).collect()
    }

    /// Names, and a text or a list of texts for each, in the order of the file.
    pub fn text_lists(&self, key: &'static str) -> Vec<(Text, Vec<Text>)> {
        let wanted = "a text or a list of texts";
        self.table_of(key, "a table of texts or lists of texts", |name, value| {
            match value.get_ref().as_array() {
                Some(items) => items.iter().map(|item| self.text_of(item, name, wanted)).collect(),
                None => vec![self.text_of(value, name, wanted)],
            }
        })
    }

    /// Names, and a whole number of at least `least` for each, in the order of the file.
    pub fn count_table(&self, key: &'static str, least: u64) -> Vec<(Text, u64)> {
        self.table_of(key, "a table of whole numbers", |name, value| {
            let number = value.get_ref().as_integer().and_then(|i| i.as_str().replace('_', "").parse().ok());
            number.filter(|number| *number >= least).unwrap_or_else(|| {
                self.wrong(value, name, &format!("a whole number of at least {least}"));
                least
            })
        })
    }

    /// Names and what is read of their values, in the order of the file.
    fn table_of<T>(
        &self,
        key: &'static str,
        wanted: &str,
        read: impl Fn(&str, &Spanned<DeValue<'_>>) -> T,
    ) -> Vec<(Text, T)> {
        let Some(value) = self.get(key) else { return Vec::new() };
        let Some(table) = value.get_ref().as_table() else {
            self.wrong(value, key, wanted);
            return Vec::new();
        };
        let mut pairs: Vec<_> = table
            .iter()
            .map(|(name, value)| {
                let at = name.span().start;
                let text = Text { value: name.get_ref().to_string(), line: self.faults.line_at(at) };
                (at, (text, read(name.get_ref(), value)))
            })
            .collect();
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

    /// A list of partitions, each with its line; empty when missing.
    pub fn partitions(&self, key: &'static str) -> Vec<(u16, u32)> {
        let Some(value) = self.get(key) else { return Vec::new() };
        let whole = |item: &Spanned<DeValue<'_>>| {
            let number = item.get_ref().as_integer()?.as_str().parse().ok()?;
            Some((number, self.faults.line_at(item.span().start)))
        };
        let items = value.get_ref().as_array();
        let found: Option<Vec<_>> = items.and_then(|items| items.iter().map(whole).collect());
        found.unwrap_or_else(|| {
            self.wrong(value, key, "a list of partitions, such as [0, 1]");
            Vec::new()
        })
    }

    /// `true` or `false`.
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

    /// A list of numbers; empty when missing.
    pub fn numbers(&self, key: &'static str) -> Vec<f64> {
        let Some(value) = self.get(key) else { return Vec::new() };
        let number = |item: &Spanned<DeValue<'_>>| match item.get_ref() {
            DeValue::Float(float) => float.as_str().replace('_', "").parse().ok(),
            DeValue::Integer(integer) => integer.as_str().replace('_', "").parse().ok(),
            _ => None,
        };
        let items = value.get_ref().as_array();
        let found: Option<Vec<f64>> = items.and_then(|items| items.iter().map(number).collect());
        found.unwrap_or_else(|| {
            self.wrong(value, key, "a list of numbers, such as [0.1, 0.5]");
            Vec::new()
        })
    }

    /// A length of time such as `7d`.
    pub fn span(&self, key: &'static str) -> Option<Span> {
        let text = self.text(key).filter(|text| !text.is_absent())?;
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

    /// Whether `key` is there, right or wrong.
    pub fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
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
