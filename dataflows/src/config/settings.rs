//! Reads settings from TOML so that every fault is found at once, each with its line.
//!
//! A [`Section`] is a TOML table that is read key by key. It refuses keys that nobody read, and it
//! records each value in its resolved form: defaults filled in, lengths of time in their greatest
//! whole unit, tables whose order matters as lists of pairs. That record is what the plan digest
//! covers.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use serde_json::{Value, json};
use tidegate_facts::Span;
use tidegate_facts::suggest::did_you_mean;
use toml::Spanned as TomlSpanned;
use toml::de::{DeTable, DeValue};

/// One fault of a settings file: where it is, what is wrong, and how to mend it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Diagnostic {
    /// The file.
    pub file: PathBuf,
    /// The line, counted from 1; 0 for a setting of the command line (`--set`).
    pub line: u32,
    /// What is wrong, and how to mend it.
    pub message: String,
}

impl std::fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.line {
            0 => write!(f, "{}: --set: {}", self.file.display(), self.message),
            line => write!(f, "{}:{line}: {}", self.file.display(), self.message),
        }
    }
}

/// A text of a settings file, and the line on which it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spanned {
    /// The text.
    pub value: String,
    /// The line, counted from 1; 0 for a setting of the command line.
    pub line: u32,
}

impl Spanned {
    /// A text at a line.
    pub fn new(value: impl Into<String>, line: u32) -> Spanned {
        Spanned { value: value.into(), line }
    }

    /// Replaces a text that is missing or wrong, after its fault was added.
    ///
    /// No setting is an empty text: [`Section`] refuses them.
    pub fn absent(line: u32) -> Spanned {
        Spanned { value: String::new(), line }
    }

    /// Whether it replaces a text whose fault was added, so that no other fault follows from it.
    pub fn is_absent(&self) -> bool {
        self.value.is_empty()
    }
}

/// Collects the faults of one settings file.
pub struct Diagnostics {
    file: PathBuf,
    /// The byte at which each line begins.
    line_starts: Vec<usize>,
    list: RefCell<Vec<Diagnostic>>,
}

/// The byte position of settings that come from `--set`: behind every byte of a settings file.
pub const FROM_COMMAND_LINE: usize = usize::MAX;

impl Diagnostics {
    /// No faults yet in `file`, which holds `text`.
    pub fn new(file: &Path, text: &str) -> Rc<Diagnostics> {
        let line_starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Rc::new(Diagnostics { file: file.to_owned(), line_starts, list: RefCell::default() })
    }

    /// Reads the text of `file`; no faults in it yet.
    ///
    /// # Errors
    /// The one fault of a file that cannot be read.
    pub fn read(file: &Path) -> Result<(String, Rc<Diagnostics>), Vec<Diagnostic>> {
        let text = std::fs::read_to_string(file).map_err(|error| {
            let message = format!("cannot be read ({error}); check that it exists and is readable");
            vec![Diagnostic { file: file.to_owned(), line: 1, message }]
        })?;
        let diagnostics = Diagnostics::new(file, &text);
        Ok((text, diagnostics))
    }

    /// Parses the file's text as TOML.
    ///
    /// # Errors
    /// All faults so far, if the text is not TOML.
    pub fn table<'t>(&self, text: &'t str) -> Result<TomlSpanned<DeTable<'t>>, Vec<Diagnostic>> {
        DeTable::parse(text).map_err(|error| {
            let line = error.span().map_or(1, |span| self.line_at(span.start));
            let cause = error.message().lines().next().unwrap_or_default();
            self.add(line, format!("is not TOML: {cause}"));
            self.take()
        })
    }

    /// The line of a byte position.
    pub fn line_at(&self, at: usize) -> u32 {
        if at == FROM_COMMAND_LINE {
            0
        } else {
            self.line_starts.partition_point(|start| *start <= at) as u32
        }
    }

    /// Adds a fault at a line.
    pub fn add(&self, line: u32, message: impl Into<String>) {
        self.add_in(&self.file, line, message);
    }

    /// Adds a fault of another file.
    pub fn add_in(&self, file: &Path, line: u32, message: impl Into<String>) {
        let message = message.into();
        self.list.borrow_mut().push(Diagnostic { file: file.to_owned(), line, message });
    }

    /// Takes all faults, by file and line.
    pub fn take(&self) -> Vec<Diagnostic> {
        let mut list = self.list.take();
        list.sort();
        list.dedup();
        list
    }

    /// The number of faults so far.
    pub fn count(&self) -> usize {
        self.list.borrow().len()
    }
}

/// The resolved values of a section, by key.
#[derive(Default)]
struct Resolved(RefCell<BTreeMap<String, ResolvedValue>>);

/// A resolved value, or the tables inside the section.
enum ResolvedValue {
    Value(Value),
    Table(Rc<Resolved>),
    /// Tables whose order matters.
    Tables(Vec<(String, Rc<Resolved>)>),
}

impl Resolved {
    fn insert(&self, key: &str, value: ResolvedValue) {
        self.0.borrow_mut().insert(key.to_owned(), value);
    }

    fn to_json(&self) -> Value {
        let values = self.0.borrow();
        let values = values.iter().map(|(key, value)| {
            let value = match value {
                ResolvedValue::Value(value) => value.clone(),
                ResolvedValue::Table(table) => table.to_json(),
                ResolvedValue::Tables(tables) => {
                    tables.iter().map(|(name, table)| json!([name, table.to_json()])).collect()
                }
            };
            (key.clone(), value)
        });
        Value::Object(values.collect())
    }
}

/// A section of a settings file: a TOML table that is read key by key. [`Section::finish`] refuses
/// the keys that nobody read.
pub struct Section<'t> {
    table: &'t DeTable<'t>,
    /// What faults call the table.
    name: String,
    at: usize,
    diagnostics: Rc<Diagnostics>,
    known: RefCell<BTreeSet<&'static str>>,
    resolved: Rc<Resolved>,
}

impl<'t> Section<'t> {
    /// Reads `table`, which faults call `name`.
    pub fn new(
        table: &'t DeTable<'t>,
        at: usize,
        name: impl Into<String>,
        diagnostics: &Rc<Diagnostics>,
    ) -> Section<'t> {
        Section {
            table,
            name: name.into(),
            at,
            diagnostics: Rc::clone(diagnostics),
            known: RefCell::default(),
            resolved: Rc::default(),
        }
    }

    /// The line on which the table begins.
    pub fn line(&self) -> u32 {
        self.diagnostics.line_at(self.at)
    }

    /// What faults call the table.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where faults are collected.
    pub fn diagnostics(&self) -> &Rc<Diagnostics> {
        &self.diagnostics
    }

    /// Every value that was read so far, in its resolved form, as a JSON object.
    ///
    /// A table whose order matters is a list of `[name, value]`; [`toml_of`] turns the form back
    /// into TOML.
    pub fn resolved(&self) -> Value {
        self.resolved.to_json()
    }

    /// Records what the value of `key` means where that follows from other settings, such as a
    /// default.
    pub fn resolve(&self, key: &'static str, value: impl Into<Value>) {
        self.resolved.insert(key, ResolvedValue::Value(value.into()));
    }

    fn get(&self, key: &'static str) -> Option<&'t TomlSpanned<DeValue<'t>>> {
        self.known.borrow_mut().insert(key);
        self.table.get(key)
    }

    fn wrong(&self, value: &TomlSpanned<DeValue<'_>>, key: &str, expected: &str) {
        let line = self.diagnostics.line_at(value.span().start);
        self.diagnostics.add(
            line,
            format!("`{key}` of {} is {}; it must be {expected}", self.name, value.get_ref().type_str()),
        );
    }

    /// The value as a text. A wrong value adds its fault and gives [`Spanned::absent`].
    fn text_of(&self, value: &TomlSpanned<DeValue<'_>>, key: &str, expected: &str) -> Spanned {
        let line = self.diagnostics.line_at(value.span().start);
        match value.get_ref().as_str() {
            Some("") => {
                self.diagnostics.add(line, format!("`{key}` of {} is empty; write {expected}", self.name));
                Spanned::absent(line)
            }
            Some(text) => Spanned::new(text, line),
            None => {
                self.wrong(value, key, expected);
                Spanned::absent(line)
            }
        }
    }

    /// A text that may be missing.
    pub fn text(&self, key: &'static str) -> Option<Spanned> {
        let text = self.text_of(self.get(key)?, key, "a text");
        self.resolve(key, text.value.as_str());
        Some(text)
    }

    /// A text, or `default` when it is missing.
    pub fn text_or(&self, key: &'static str, default: &str) -> Spanned {
        self.text(key).unwrap_or_else(|| {
            self.resolve(key, default);
            Spanned::new(default, self.line())
        })
    }

    /// A text that must be there.
    pub fn required_text(&self, key: &'static str, meaning: &str) -> Spanned {
        self.text(key).unwrap_or_else(|| {
            self.missing(key, meaning);
            Spanned::absent(self.line())
        })
    }

    /// Adds the fault that `key` is missing.
    pub fn missing(&self, key: &'static str, meaning: &str) {
        self.known.borrow_mut().insert(key);
        self.diagnostics.add(self.line(), format!("{} lacks `{key}`, {meaning}", self.name));
    }

    /// A list of texts; empty when missing.
    pub fn texts(&self, key: &'static str) -> Vec<Spanned> {
        let Some(value) = self.get(key) else { return Vec::new() };
        let Some(items) = value.get_ref().as_array() else {
            self.wrong(value, key, "a list of texts");
            return Vec::new();
        };
        let texts: Vec<Spanned> =
            items.iter().map(|item| self.text_of(item, key, "a list of texts")).collect();
        if !texts.is_empty() {
            self.resolve(key, texts.iter().map(|text| Value::from(text.value.as_str())).collect::<Value>());
        }
        texts
    }

    /// A table of names and texts, in the order of the settings file.
    pub fn text_table(&self, key: &'static str) -> Vec<(Spanned, Spanned)> {
        let pairs = self.pairs_of(key, "a table of texts", |name, value| self.text_of(value, name, "a text"));
        self.resolve_pairs(key, &pairs, |text| Value::from(text.value.as_str()));
        pairs
    }

    /// A table of names, with a text or a list of texts for each, in the order of the settings
    /// file.
    pub fn text_lists(&self, key: &'static str) -> Vec<(Spanned, Vec<Spanned>)> {
        let expected = "a text or a list of texts";
        let pairs = self.pairs_of(key, "a table of texts or lists of texts", |name, value| {
            match value.get_ref().as_array() {
                Some(items) => items.iter().map(|item| self.text_of(item, name, expected)).collect(),
                None => vec![self.text_of(value, name, expected)],
            }
        });
        self.refuse_empty_names(key, pairs.iter().map(|(name, _)| name));
        self.resolve_pairs(key, &pairs, |texts| {
            texts.iter().map(|text| Value::from(text.value.as_str())).collect()
        });
        pairs
    }

    /// A table of names, with a whole number of at least `least` for each, in the order of the
    /// settings file.
    pub fn count_table(&self, key: &'static str, least: u64) -> Vec<(Spanned, u64)> {
        let pairs = self.pairs_of(key, "a table of whole numbers", |name, value| {
            whole(value).filter(|number| *number >= least).unwrap_or_else(|| {
                self.wrong(value, name, &format!("a whole number of at least {least}"));
                least
            })
        });
        self.refuse_empty_names(key, pairs.iter().map(|(name, _)| name));
        self.resolve_pairs(key, &pairs, |count| Value::from(*count));
        pairs
    }

    /// A table of names and lengths of time, in the order of the settings file.
    pub fn span_table(&self, key: &'static str) -> Vec<(Spanned, Span)> {
        let pairs = self.pairs_of(key, "a table of texts", |name, value| self.text_of(value, name, "a text"));
        let pairs = pairs.into_iter().filter(|(_, text)| !text.is_absent());
        let pairs: Vec<_> =
            pairs.filter_map(|(name, text)| Some((name, self.span_of(&text, key)?))).collect();
        self.resolve_pairs(key, &pairs, |span| Value::from(span.to_string()));
        pairs
    }

    /// Adds a fault for each empty name in the table `key`. An empty text means that a fault was
    /// added, so nothing else would refuse it.
    fn refuse_empty_names<'n>(&self, key: &str, names: impl Iterator<Item = &'n Spanned>) {
        for name in names.filter(|name| name.value.is_empty()) {
            let what = format!("`{key}` of {} has an entry with an empty name; give it a name", self.name);
            self.diagnostics.add(name.line, what);
        }
    }

    fn resolve_pairs<T>(&self, key: &'static str, pairs: &[(Spanned, T)], to_json: impl Fn(&T) -> Value) {
        if !pairs.is_empty() {
            let pairs = pairs.iter().map(|(name, value)| json!([name.value, to_json(value)]));
            self.resolve(key, pairs.collect::<Value>());
        }
    }

    /// Names and what `read` makes of their values, in the order of the file.
    fn pairs_of<T>(
        &self,
        key: &'static str,
        expected: &str,
        read: impl Fn(&str, &TomlSpanned<DeValue<'_>>) -> T,
    ) -> Vec<(Spanned, T)> {
        let Some(value) = self.get(key) else { return Vec::new() };
        let Some(table) = value.get_ref().as_table() else {
            self.wrong(value, key, expected);
            return Vec::new();
        };
        let mut pairs: Vec<_> = table
            .iter()
            .map(|(name, value)| {
                let at = name.span().start;
                let text = Spanned::new(name.get_ref().to_string(), self.diagnostics.line_at(at));
                (at, (text, read(name.get_ref(), value)))
            })
            .collect();
        pairs.sort_by_key(|(at, _)| *at);
        pairs.into_iter().map(|(_, pair)| pair).collect()
    }

    /// A whole number of at least `least`.
    pub fn count(&self, key: &'static str, least: u64) -> Option<u64> {
        let value = self.get(key)?;
        let number = whole(value).filter(|number| *number >= least);
        match number {
            Some(number) => self.resolve(key, number),
            None => self.wrong(value, key, &format!("a whole number of at least {least}")),
        }
        number
    }

    /// A seed: a whole number of 64 bits without a sign.
    pub fn seed(&self, key: &'static str) -> Option<u64> {
        let value = self.get(key)?;
        let integer = value.get_ref().as_integer();
        let seed = integer.and_then(|seed| u64::from_str_radix(seed.as_str(), seed.radix()).ok());
        match seed {
            Some(seed) => self.resolve(key, seed),
            None => self.wrong(value, key, &format!("a whole number from 0 to {}", u64::MAX)),
        }
        seed
    }

    /// A seed, or `default` when it is missing or wrong.
    pub fn seed_or(&self, key: &'static str, default: u64) -> u64 {
        self.seed(key).unwrap_or_else(|| {
            self.resolve(key, default);
            default
        })
    }

    /// A whole number of at least `least`, or `default` when it is missing or wrong.
    pub fn count_or(&self, key: &'static str, least: u64, default: u64) -> u64 {
        self.count(key, least).unwrap_or_else(|| {
            self.resolve(key, default);
            default
        })
    }

    /// A list of partitions, each with its line; empty when missing.
    pub fn partitions(&self, key: &'static str) -> Vec<(u16, u32)> {
        let Some(value) = self.get(key) else { return Vec::new() };
        let whole = |item: &TomlSpanned<DeValue<'_>>| {
            let number = item.get_ref().as_integer()?.as_str().parse().ok()?;
            Some((number, self.diagnostics.line_at(item.span().start)))
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
        match flag {
            Some(flag) => self.resolve(key, flag),
            None => self.wrong(value, key, "true or false"),
        }
        flag
    }

    /// `true` or `false`; `default` when it is missing or wrong.
    pub fn flag_or(&self, key: &'static str, default: bool) -> bool {
        self.flag(key).unwrap_or_else(|| {
            self.resolve(key, default);
            default
        })
    }

    /// A number, whole or not.
    pub fn number(&self, key: &'static str) -> Option<f64> {
        let value = self.get(key)?;
        let number = decimal(value);
        match number {
            Some(number) => self.resolve(key, number),
            None => self.wrong(value, key, "a finite number"),
        }
        number
    }

    /// A number, or `default` when it is missing or wrong.
    pub fn number_or(&self, key: &'static str, default: f64) -> f64 {
        self.number(key).unwrap_or_else(|| {
            self.resolve(key, default);
            default
        })
    }

    /// A list of numbers; empty when missing.
    pub fn numbers(&self, key: &'static str) -> Vec<f64> {
        let Some(value) = self.get(key) else { return Vec::new() };
        let items = value.get_ref().as_array();
        let found: Option<Vec<f64>> = items.and_then(|items| items.iter().map(decimal).collect());
        let Some(found) = found else {
            self.wrong(value, key, "a list of numbers, such as [0.1, 0.5]");
            return Vec::new();
        };
        self.resolve(key, found.iter().map(|number| json!(number)).collect::<Value>());
        found
    }

    /// A length of time such as `7d`.
    pub fn span(&self, key: &'static str) -> Option<Span> {
        let text = self.text_of(self.get(key)?, key, "a text");
        let span = self.span_of(&text, key)?;
        self.resolve(key, span.to_string());
        Some(span)
    }

    /// A length of time, or `default` when it is missing or wrong.
    pub fn span_or(&self, key: &'static str, default: &str) -> Span {
        self.span(key).unwrap_or_else(|| {
            let span = Span::parse(default).expect("the default is a length of time");
            self.resolve(key, span.to_string());
            span
        })
    }

    /// A list of lengths of time, each with its text.
    pub fn spans(&self, key: &'static str) -> Vec<(Spanned, Span)> {
        let texts = self.texts(key).into_iter().filter(|text| !text.is_absent());
        let spans: Vec<_> =
            texts.filter_map(|text| Some((text.clone(), self.span_of(&text, key)?))).collect();
        if !spans.is_empty() {
            // Column names carry a width as it is written, so the digest covers the text.
            self.resolve(
                key,
                spans.iter().map(|(text, _)| Value::from(text.value.as_str())).collect::<Value>(),
            );
        }
        spans
    }

    fn span_of(&self, text: &Spanned, key: &str) -> Option<Span> {
        if text.is_absent() {
            return None;
        }
        let span = Span::parse(&text.value);
        span.map_err(|what| self.diagnostics.add(text.line, format!("`{key}` of {}: {what}", self.name))).ok()
    }

    /// A table inside this one.
    pub fn section(&self, key: &'static str) -> Option<Section<'t>> {
        let value = self.get(key)?;
        match value.get_ref().as_table() {
            Some(table) => {
                let title = format!("`{key}` of {}", self.name);
                let section = Section::new(table, value.span().start, title, &self.diagnostics);
                self.resolved.insert(key, ResolvedValue::Table(Rc::clone(&section.resolved)));
                Some(section)
            }
            None => {
                self.wrong(value, key, "a table");
                None
            }
        }
    }

    /// A table inside this one whose faults go to `diagnostics`, and that [`Self::resolved`] leaves
    /// out.
    ///
    /// Another section shares its values, and its faults are found where this section is read.
    pub fn section_with(&self, key: &str, diagnostics: &Rc<Diagnostics>) -> Option<Section<'t>> {
        let table = self.table.get(key)?.get_ref().as_table()?;
        Some(Section::new(table, 0, format!("`{key}` of {}", self.name), diagnostics))
    }

    /// The tables inside the table `key`, by name, in the order of the file.
    pub fn sections(&self, key: &'static str) -> Vec<(Spanned, Section<'t>)> {
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
                    let section = Section::new(table, value.span().start, title, &self.diagnostics);
                    let at = name.span().start;
                    let name = Spanned::new(name.get_ref().to_string(), self.diagnostics.line_at(at));
                    sections.push((at, name, section));
                }
                None => self.wrong(value, name.get_ref(), "a table"),
            }
        }
        sections.sort_by_key(|(at, _, _)| *at);
        let sections: Vec<_> = sections.into_iter().map(|(_, name, section)| (name, section)).collect();
        self.refuse_empty_names(key, sections.iter().map(|(name, _)| name));
        if !sections.is_empty() {
            let tables =
                sections.iter().map(|(name, section)| (name.value.clone(), Rc::clone(&section.resolved)));
            self.resolved.insert(key, ResolvedValue::Tables(tables.collect()));
        }
        sections
    }

    /// The tables of a list of tables (`[[key]]`). They are not part of [`Self::resolved`].
    pub fn list(&self, key: &'static str) -> Vec<Section<'t>> {
        let Some(value) = self.get(key) else { return Vec::new() };
        let expected = format!("a list of tables, each begun by [[{key}]]");
        let Some(items) = value.get_ref().as_array() else {
            self.wrong(value, key, &expected);
            return Vec::new();
        };
        let mut sections = Vec::new();
        for item in items {
            match item.get_ref().as_table() {
                Some(table) => sections.push(Section::new(
                    table,
                    item.span().start,
                    format!("a {key}"),
                    &self.diagnostics,
                )),
                None => self.wrong(item, key, &expected),
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

    /// Sets the name that faults call the section from here on.
    pub fn rename(&mut self, name: String) {
        self.name = name;
    }

    /// Refuses the keys that were renamed, each with the word that replaced it.
    pub fn refuse_renamed(&self, renamed: &'static [(&'static str, &'static str)]) {
        for (old, new) in renamed {
            if let Some(value) = self.table.get(*old) {
                self.known.borrow_mut().insert(old);
                let line = self.diagnostics.line_at(value.span().start);
                self.diagnostics
                    .add(line, format!("`{old}` of {} is now called `{new}`; rename it", self.name));
            }
        }
    }

    /// Adds a fault for every key that nobody read.
    pub fn finish(&self) {
        let known = self.known.borrow();
        for (key, _) in self.table {
            if !known.contains(key.get_ref().as_ref()) {
                let known: Vec<_> = known.iter().copied().collect();
                self.diagnostics.add(
                    self.diagnostics.line_at(key.span().start),
                    format!(
                        "{} has no setting `{}`; {}",
                        self.name,
                        key.get_ref(),
                        did_you_mean(key.get_ref(), &known)
                    ),
                );
            }
        }
    }
}

fn whole(value: &TomlSpanned<DeValue<'_>>) -> Option<u64> {
    let integer = value.get_ref().as_integer()?;
    let number = i64::from_str_radix(&integer.as_str().replace('_', ""), integer.radix()).ok()?;
    u64::try_from(number).ok()
}

fn decimal(value: &TomlSpanned<DeValue<'_>>) -> Option<f64> {
    let text = match value.get_ref() {
        DeValue::Float(float) => float.as_str(),
        DeValue::Integer(integer) => integer.as_str(),
        _ => "",
    };
    text.replace('_', "").parse().ok().filter(|number: &f64| number.is_finite())
}

/// Writes resolved settings, in the form of [`Section::resolved`], as an inline value of TOML.
pub fn toml_of(value: &Value) -> String {
    // The escapes of JSON are escapes of a TOML string on one line, which a key must be. TOML has
    // to escape one more character.
    let quoted = |text: &str| Value::String(text.to_owned()).to_string().replace('\u{7f}', "\\u007f");
    let table = |pairs: Vec<(String, String)>| {
        let pairs: Vec<String> = pairs.into_iter().map(|(key, value)| format!("{key} = {value}")).collect();
        format!("{{ {} }}", pairs.join(", "))
    };
    match value {
        Value::Object(map) => table(map.iter().map(|(key, value)| (quoted(key), toml_of(value))).collect()),
        Value::Array(items) if !items.is_empty() && items.iter().all(|item| pair_of(item).is_some()) => {
            let pairs = items.iter().filter_map(pair_of);
            table(pairs.map(|(name, value)| (quoted(name), toml_of(value))).collect())
        }
        Value::Array(items) => {
            format!("[{}]", items.iter().map(toml_of).collect::<Vec<_>>().join(", "))
        }
        Value::String(text) => quoted(text),
        other => other.to_string(),
    }
}

/// A `[name, value]` of a table whose order matters.
fn pair_of(item: &Value) -> Option<(&str, &Value)> {
    match item.as_array()?.as_slice() {
        [Value::String(name), value] => Some((name, value)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(text: &str, read: impl Fn(&Section<'_>)) -> String {
        let diagnostics = Diagnostics::new(Path::new("t.toml"), text);
        let table = diagnostics.table(text).unwrap().into_inner();
        let section = Section::new(&table, 0, "the test", &diagnostics);
        read(&section);
        section.finish();
        assert_eq!(diagnostics.take(), []);
        section.resolved().to_string()
    }

    #[test]
    fn an_explicit_default_and_other_units_resolve_to_the_same_values() {
        let read = |section: &Section<'_>| {
            section.span_or("width", "1d");
            section.count_or("rows", 1, 10);
            section.text_or("time", "ts_utc");
        };
        let expected = r#"{"rows":10,"time":"ts_utc","width":"1d"}"#;
        assert_eq!(resolved("", read), expected);
        assert_eq!(resolved("width = \"24h\"\nrows = 10\ntime = \"ts_utc\"", read), expected);
    }

    #[test]
    fn a_number_that_is_not_finite_is_refused() {
        for value in ["inf", "-inf", "nan", "1e999", "\"1\""] {
            let text = format!("limit = {value}");
            let diagnostics = Diagnostics::new(Path::new("t.toml"), &text);
            let table = diagnostics.table(&text).unwrap().into_inner();
            let section = Section::new(&table, 0, "the test", &diagnostics);
            assert_eq!(section.number("limit"), None, "{value}");
            let found = diagnostics.take();
            let messages: Vec<&str> = found.iter().map(|fault| fault.message.as_str()).collect();
            assert!(matches!(messages[..], [message] if message.contains("a finite number")), "{messages:?}");
        }
    }

    #[test]
    fn resolved_settings_turn_back_into_the_same_settings() {
        let read = |section: &Section<'_>| {
            section.text_table("columns");
            section.numbers("edges");
            for (_, group) in section.sections("groups") {
                group.texts("windows");
                group.section("inner").and_then(|inner| inner.flag("on"));
            }
        };
        let text = "columns = { b = \"x \\\"y\\\"\", a = \"2\" }\nedges = [1, 2.5]\n\
                    groups.z = { windows = [\"1d\", \"7d\"], inner = { on = true } }\ngroups.a.windows = [\"1h\"]\n";
        let first = resolved(text, read);
        assert!(first.contains(r#""columns":[["b","x \"y\""],["a","2"]]"#), "the order is kept: {first}");
        let again = toml_of(&serde_json::from_str(&first).unwrap());
        let text = format!("v = {again}");
        let parsed = DeTable::parse(&text).unwrap().into_inner();
        let table = parsed["v"].get_ref().as_table().expect("a table");
        let diagnostics = Diagnostics::new(Path::new("t.toml"), "");
        let section = Section::new(table, 0, "the test", &diagnostics);
        read(&section);
        assert_eq!(section.resolved().to_string(), first);
    }
}
