//! A topology as its file writes it: nodes with their settings, not yet checked against data.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use serde_json::Value;
use tidegate_facts::suggest::did_you_mean;
use tidegate_facts::tick::PARTITIONS_MAX;
use tidegate_facts::{Context, Span};
use tidegate_sinks::archive::LogRetention;
use toml::Spanned as TomlSpanned;
use toml::de::{DeTable, DeValue};

use crate::config::settings::FROM_COMMAND_LINE;
use crate::config::{Diagnostic, Diagnostics, Section, Spanned};
use crate::node::plan_context::{called, node_of_input};
use crate::node::settings::answers_of;
use crate::node::{NodeKind, NodeSpec, ReadContext, Revisable, Role, path_from};

/// A topology: where records come from, what is derived from them, and where it goes.
#[derive(Clone)]
pub struct Topology {
    /// The file it was read from.
    pub file: PathBuf,
    /// Its name.
    pub name: String,
    /// What stamps facts with their ticks.
    pub clock: Clock,
    /// How many partitions its log has.
    pub partitions: u16,
    /// A commit boundary follows this many facts, or [`Self::commit_span`], whichever comes first.
    pub commit_rows: u64,
    /// A commit boundary follows this much tick time.
    pub commit_span: Span,
    /// States are snapshotted at the first commit boundary after this many facts. It changes no
    /// answer.
    pub snapshot_rows: u64,
    /// How many records the gate admits together at most. It changes no answer.
    pub batch_rows: usize,
    /// The pins of records that do not bring their own.
    pub run: Context,
    /// Whether `[run]` has faults, so that its pins are not known.
    pub run_has_faults: bool,
    /// What becomes of the log. It changes no answer.
    pub log: LogSettings,
    /// Whether the proposer of a revision may not approve it.
    pub four_eyes: bool,
    /// The nodes whose bundle or policy an override replaced.
    pub replaced: BTreeSet<String>,
    /// The nodes, in the order of the file.
    pub nodes: Vec<Node>,
    /// The text of the file.
    pub text: String,
    /// The texts of the policy and the bundles once the topology is planned. It is planned again
    /// with the same texts, whatever becomes of their files.
    pub files: BTreeMap<PathBuf, Arc<str>>,
}

/// What a topology says of its log: whether it is archived, and what pruning leaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogSettings {
    /// Whether a run archives its log when it ends.
    pub archive: bool,
    /// What pruning leaves in the log; `None` when nothing may be pruned.
    pub retention: Option<LogRetention>,
}

/// The clock that a topology names to stamp facts with their ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// The wall clock at admission.
    Wall,
    /// The fact's own event time: worlds, tests and historical loads.
    Event,
}

impl Clock {
    /// The word that a topology writes.
    pub fn name(self) -> &'static str {
        match self {
            Clock::Wall => "wall",
            Clock::Event => "event",
        }
    }
}

/// One node of a topology, as the topology file writes it.
#[derive(Clone)]
pub struct Node {
    /// Its name, unique in the topology.
    pub name: String,
    /// The line on which it begins.
    pub line: u32,
    /// The nodes that it reads in `input` or `inputs`.
    pub inputs: Vec<Spanned>,
    /// Its kind; `None` when it is missing or unknown, after a fault was added.
    pub kind: Option<&'static dyn NodeKind>,
    /// Its settings; `None` without a kind.
    pub spec: Option<Arc<dyn NodeSpec>>,
    /// Those settings that decide answers, in their resolved form: what the plan digest covers.
    pub answers: Value,
    /// Whether its settings have faults, so that its columns are not known.
    pub has_faults: bool,
}

impl Node {
    /// Where it is in the topology; `None` without a kind.
    pub fn role(&self) -> Option<Role> {
        self.kind.map(NodeKind::role)
    }

    /// The name of its kind, or `unknown`.
    pub fn kind_name(&self) -> &'static str {
        self.kind.map_or("unknown", NodeKind::name)
    }

    /// What faults call it: `what` and its name, if it has one.
    pub fn called(&self, what: &str) -> String {
        called(what, &self.name)
    }

    /// Every node and port that it reads, without those that are missing or wrong.
    pub fn all_inputs(&self) -> Vec<&Spanned> {
        let further = self.spec.iter().flat_map(|spec| spec.inputs()).map(|input| input.node);
        self.inputs.iter().chain(further).filter(|input| !input.is_absent()).collect()
    }

    /// The file of it that can be revised, if it has one.
    pub fn revisable(&self) -> Option<Revisable<'_>> {
        self.spec.as_ref()?.revisable()
    }
}

/// An override of a setting of a topology: `--set node.key=value`, or `--set key=value` for the
/// topology itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    /// The names before the `=`, split at the points.
    pub path: Vec<String>,
    /// `v = ` and the value as TOML.
    toml: String,
}

impl Override {
    /// Parses `node.key=value`. A value that is not a TOML value is a text.
    ///
    /// # Errors
    /// A sentence when there is no `=`.
    pub fn parse(text: &str) -> Result<Override, String> {
        let (path, value) = text
            .split_once('=')
            .filter(|(path, _)| !path.is_empty())
            .ok_or_else(|| format!("`--set {text}` names no value; write --set node.key=value"))?;
        let as_value = format!("v = {value}");
        let toml = match DeTable::parse(&as_value) {
            Ok(table) if table.get_ref().len() == 1 => as_value,
            _ => format!("v = {}", toml::Value::String(value.to_owned())),
        };
        Ok(Override { path: path.split('.').map(str::to_owned).collect(), toml })
    }

    /// The node whose bundle or policy it replaces.
    fn replaced(&self) -> Option<&str> {
        match self.path.as_slice() {
            [node, key] if key == "bundle" || key == "policy" => Some(node),
            _ => None,
        }
    }

    /// Puts the value where the path leads.
    fn apply<'t>(&'t self, root: &mut DeTable<'t>) -> Result<(), String> {
        let parsed = DeTable::parse(&self.toml).expect("Override::parse tried it").into_inner();
        let value = parsed.into_iter().next().expect("one value").1.into_inner();
        let (last, names) = self.path.split_last().expect("split gives at least one name");
        let mut table = match names.first() {
            None => root,
            Some(first) if ["run", "log", "governance"].contains(&first.as_str()) => table_in(root, first)?,
            Some(first) => node_table(root, first)?,
        };
        for name in names.iter().skip(1) {
            table = table_in(table, name)?;
        }
        table.insert(from_command_line(last.clone().into()), from_command_line(value));
        Ok(())
    }
}

fn from_command_line<T>(value: T) -> TomlSpanned<T> {
    TomlSpanned::new(FROM_COMMAND_LINE..FROM_COMMAND_LINE, value)
}

fn node_table<'a, 't>(root: &'a mut DeTable<'t>, name: &str) -> Result<&'a mut DeTable<'t>, String> {
    let nodes = root.get_mut("node").map(TomlSpanned::get_mut);
    let Some(DeValue::Array(nodes)) = nodes else { return Err("the topology has no [[node]]".to_owned()) };
    let mut names = Vec::new();
    for node in nodes.iter_mut() {
        let DeValue::Table(table) = node.get_mut() else { continue };
        let this = table.get("name").and_then(|n| n.get_ref().as_str()).unwrap_or_default().to_owned();
        if this == name {
            return Ok(table);
        }
        names.push(this);
    }
    let existing: Vec<&str> = names.iter().map(String::as_str).collect();
    Err(format!("no node is named `{name}`; {}", did_you_mean(name, &existing)))
}

fn table_in<'a, 't>(table: &'a mut DeTable<'t>, name: &str) -> Result<&'a mut DeTable<'t>, String> {
    let slot = table
        .entry(from_command_line(name.to_owned().into()))
        .or_insert_with(|| from_command_line(DeValue::Table(DeTable::new())));
    match slot.get_mut() {
        DeValue::Table(table) => Ok(table),
        _ => Err(format!("`{name}` is not a table")),
    }
}

/// The kinds of nodes that a topology file is read with.
#[derive(Clone, Copy)]
pub struct Kinds {
    /// Every kind.
    pub all: &'static [&'static dyn NodeKind],
    /// Kinds that were renamed, and their names now.
    pub renamed: &'static [(&'static str, &'static str)],
}

impl Topology {
    /// Reads the topology in `file` with `overrides` in place of its settings, as far as it can be
    /// read.
    ///
    /// A wrong text is [`Spanned::absent`], and a node with faults has [`Node::has_faults`].
    ///
    /// # Errors
    /// The one fault of a file that cannot be read or is not TOML.
    pub fn read(
        file: &Path,
        overrides: &[Override],
        kinds: Kinds,
    ) -> Result<(Topology, Rc<Diagnostics>), Vec<Diagnostic>> {
        let (text, diagnostics) = Diagnostics::read(file)?;
        let topology = Topology::parse(file, text, overrides, kinds, &diagnostics)?;
        Ok((topology, diagnostics))
    }

    /// Reads a topology from its text.
    ///
    /// # Errors
    /// The one fault of a text that is not TOML.
    pub fn parse(
        file: &Path,
        text: String,
        overrides: &[Override],
        kinds: Kinds,
        diagnostics: &Rc<Diagnostics>,
    ) -> Result<Topology, Vec<Diagnostic>> {
        let mut topology = {
            let mut root = diagnostics.table(&text)?.into_inner();
            for set in overrides {
                if let Err(what) = set.apply(&mut root) {
                    diagnostics.add(0, what);
                }
            }
            read_root(file, &root, kinds, diagnostics)
        };
        topology.text = text;
        topology.replaced = overrides.iter().filter_map(Override::replaced).map(str::to_owned).collect();
        Ok(topology)
    }

    /// The node of a name.
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.name == name && !name.is_empty())
    }

    /// The gate; the first where there are several.
    pub fn gate(&self) -> Option<&Node> {
        self.nodes.iter().find(|node| node.role() == Some(Role::Gate))
    }

    /// Where a path of its settings leads.
    pub fn path_of(&self, path: &Spanned) -> PathBuf {
        path_from(&self.file, path)
    }

    /// The names of the nodes that a node reads, each once, in the order of its settings.
    pub fn inputs_of(&self, name: &str) -> Vec<String> {
        let Some(node) = self.node(name) else { return Vec::new() };
        let mut inputs: Vec<String> = Vec::new();
        for input in node.all_inputs() {
            let input = node_of_input(&input.value);
            if !inputs.iter().any(|other| other == input) {
                inputs.push(input.to_owned());
            }
        }
        inputs
    }
}

fn read_root(file: &Path, root: &DeTable<'_>, kinds: Kinds, diagnostics: &Rc<Diagnostics>) -> Topology {
    let section = Section::new(root, 0, "the topology", diagnostics);
    section.refuse_renamed(&[("state_rows", "snapshot_rows")]);
    let name = section.required_text("name", "the name of the topology");
    let clock = match section.text("clock") {
        None => Clock::Wall,
        Some(text) if text.value == "wall" => Clock::Wall,
        Some(text) if text.value == "event" || text.is_absent() => Clock::Event,
        Some(text) => {
            diagnostics.add(text.line, format!("`{}` is not a clock; it can be `wall`, `event`", text.value));
            Clock::Event // The clock under which more settings are right.
        }
    };
    let partitions = section.count("partitions", 1).unwrap_or(1);
    if partitions > u64::from(PARTITIONS_MAX) {
        diagnostics.add(
            section.line(),
            format!("`partitions` is {partitions}; a tick has room for {PARTITIONS_MAX}"),
        );
    }
    let commit_rows = section.count("commit_rows", 1).unwrap_or(250_000);
    let commit_span = section.span_or("commit_span", "3650d");
    let snapshot_rows = section.count("snapshot_rows", 1).unwrap_or(1_000_000);
    let batch_rows = section.count("batch_rows", 1).unwrap_or(8_192) as usize;
    let before = diagnostics.count();
    let run = section.section("run").map(|section| read_run(&section)).unwrap_or_default();
    let run_has_faults = diagnostics.count() > before;
    let log = section.section("log").map(|section| read_log(&section)).unwrap_or_default();
    let four_eyes = section.section("governance").and_then(|governance| {
        let four_eyes = governance.flag("four_eyes");
        governance.finish();
        four_eyes
    });
    let nodes = read_nodes(&section, file, kinds);
    section.finish();
    Topology {
        file: file.to_owned(),
        name: name.value,
        clock,
        partitions: u16::try_from(partitions).unwrap_or(PARTITIONS_MAX).min(PARTITIONS_MAX),
        commit_rows,
        commit_span,
        snapshot_rows,
        batch_rows,
        run,
        run_has_faults,
        log,
        four_eyes: four_eyes.unwrap_or(true),
        replaced: BTreeSet::new(),
        nodes,
        text: String::new(),
        files: BTreeMap::new(),
    }
}

fn read_nodes(section: &Section<'_>, file: &Path, kinds: Kinds) -> Vec<Node> {
    let mut sections = section.list("node");
    let name_of = |section: &Section<'_>| section.text("name").filter(|name| !name.is_absent());
    for node in &mut sections {
        if let Some(name) = name_of(node) {
            node.rename(format!("node `{}`", name.value));
        }
    }
    let named: Vec<(String, &Section<'_>)> =
        sections.iter().filter_map(|section| Some((name_of(section)?.value, section))).collect();
    let cx = ReadContext { file, sections: &named };
    let mut nodes: Vec<Node> = Vec::new();
    for section in &sections {
        let node = read_node(section, &cx, kinds);
        let diagnostics = section.diagnostics();
        if let Some(first) = nodes.iter().find(|other| other.name == node.name && !node.name.is_empty()) {
            let what = format!(
                "line {} has a node named `{}` already; give each node a name of its own",
                first.line, node.name
            );
            diagnostics.add(node.line, what);
        }
        if !node.name.is_empty() && !is_node_name(&node.name) {
            let mend = plain_name(&node.name);
            let what = format!(
                "`{}` cannot name a node; use lower-case letters, digits and `_`, and begin with a letter, such as `{mend}`",
                node.name
            );
            diagnostics.add(node.line, what);
        }
        nodes.push(node);
    }
    nodes
}

/// Whether a name is `[a-z][a-z0-9_]*`. Others would be ambiguous in the names of ports, timelines
/// and operators.
fn is_node_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

/// The node name that is closest to a text.
fn plain_name(text: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' };
    let plain: String = text.chars().map(plain).collect();
    if is_node_name(&plain) { plain } else { format!("n{plain}") }
}

fn read_node(section: &Section<'_>, cx: &ReadContext<'_, '_>, kinds: Kinds) -> Node {
    let diagnostics = section.diagnostics();
    let before = diagnostics.count();
    let name = section.required_text("name", "by which other nodes and --set refer to it").value;
    let kind_name = section.required_text("kind", "what the node does");
    let kind = kinds.all.iter().copied().find(|kind| kind.name() == kind_name.value);
    let mut node = Node {
        name,
        line: section.line(),
        inputs: Vec::new(),
        kind,
        spec: None,
        answers: Value::Null,
        has_faults: true,
    };
    let Some(kind) = kind else {
        node.inputs = section.texts("inputs").into_iter().chain(section.text("input")).collect();
        if !kind_name.is_absent() {
            let renamed = kinds.renamed.iter().find(|(old, _)| *old == kind_name.value);
            let mend = match renamed {
                Some((_, new)) => format!("it is now called `{new}`"),
                None => {
                    let names: Vec<&str> = kinds.all.iter().map(|kind| kind.name()).collect();
                    did_you_mean(&kind_name.value, &names)
                }
            };
            diagnostics.add(kind_name.line, format!("`{}` is not a kind of node; {mend}", kind_name.value));
        }
        return node;
    };
    node.inputs = read_inputs(section, kind);
    section.refuse_renamed(kind.renamed());
    let spec = kind.read(section, cx);
    section.finish();
    let mut resolved = section.resolved();
    if let Value::Object(map) = &mut resolved {
        map.retain(|key, _| !["name", "kind", "input", "inputs"].contains(&key.as_str()));
    }
    node.answers = answers_of(resolved, kind.settings());
    node.spec = Some(spec.into());
    node.has_faults = diagnostics.count() > before;
    node
}

/// The nodes that a node names in `input` or `inputs`.
fn read_inputs(section: &Section<'_>, kind: &dyn NodeKind) -> Vec<Spanned> {
    if kind.role() == Role::Source {
        return Vec::new();
    }
    let before = section.diagnostics().count();
    let mut inputs = section.texts("inputs");
    inputs.extend(section.text("input"));
    if inputs.is_empty() && section.diagnostics().count() == before {
        match kind.role() {
            // Records may come over HTTP alone.
            Role::Gate if section.has("inputs") => {}
            Role::Gate => {
                section.missing("inputs", "the list of its sources; [] when records come over HTTP alone")
            }
            _ => section.missing("input", "the node it reads"),
        }
    }
    inputs
}

fn read_log(section: &Section<'_>) -> LogSettings {
    section.refuse_renamed(&[("keep", "retention"), ("keep_bytes", "retention_bytes")]);
    let archive = section.flag("archive").unwrap_or(false);
    let retention =
        LogRetention { span: section.span("retention"), bytes: section.count("retention_bytes", 0) };
    section.finish();
    let retention = (retention != LogRetention::default()).then_some(retention);
    if retention.is_some() && !archive {
        let what = format!(
            "{} sets a retention, and without an archive nothing ever leaves the log; add `archive = true`, or leave \
             out `retention` and `retention_bytes`",
            section.name()
        );
        section.diagnostics().add(section.line(), what);
    }
    LogSettings { archive, retention }
}

fn read_run(section: &Section<'_>) -> Context {
    use tidegate_facts::envelope::{ScenarioId, is_hex, is_platform_run};
    let form = |key: &'static str, expected: &str, is_valid: &dyn Fn(&str) -> bool| {
        let text = section.text(key)?;
        if !text.is_absent() && !is_valid(&text.value) {
            let what = format!("`{key}` of {} must be {expected}", section.name());
            section.diagnostics().add(text.line, what);
        }
        Some(text.value)
    };
    let hex64 = |text: &str| is_hex(text, 64);
    let hex32 = |text: &str| is_hex(text, 32);
    let run = Context {
        manifest_fingerprint: form("manifest_fingerprint", "64 lower-case hexadecimal digits", &hex64)
            .unwrap_or_default(),
        parameter_hash: form("parameter_hash", "64 lower-case hexadecimal digits", &hex64),
        seed: section.seed("seed"),
        scenario_id: section.text("scenario_id").map(|text| ScenarioId::Name(text.value)),
        run_id: form("run_id", "32 lower-case hexadecimal digits", &hex32),
        scenario_run_id: form("scenario_run_id", "32 lower-case hexadecimal digits", &hex32),
        platform_run_id: form("platform_run_id", "platform_YYYYMMDDTHHMMSSZ", &is_platform_run),
        ..Context::default()
    };
    section.finish();
    run
}
