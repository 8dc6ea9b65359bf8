//! A topology file as it is written: nodes, their settings, and nothing checked against data yet.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use tidegate_facts::names::choices;
use tidegate_facts::{Context, Span};
use tidegate_sinks::archive::Keep;
use tidegate_sources::world::WorldConfig;
use tidegate_sources::{LatticeConfig, LatticeStream};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::settings::{FROM_COMMAND_LINE, Fault, Faults, Section, Text};
use crate::topology::entities::{EntitiesNode, read_entities};
use crate::topology::linkage::{LinkageNode, read_linkage};

pub mod entities;
pub mod linkage;

pub mod credibility;
pub mod drift;
pub mod expire;
pub mod families;
mod lattice;
pub mod quorum;

/// A topology: where records come from, what is derived from them, and where it goes.
#[derive(Clone, Debug)]
pub struct Topology {
    /// The file it was read from.
    pub file: PathBuf,
    /// Its name.
    pub name: String,
    /// What stamps facts.
    pub clock: Clock,
    /// How many partitions its log has.
    pub partitions: u16,
    /// A commit boundary follows this many facts,
    pub commit_rows: u64,
    /// or this much tick time, whichever comes first.
    pub commit_span: Span,
    /// States are put down at the first commit boundary after so many facts; changes no answer.
    pub state_rows: u64,
    /// How many records the gate admits together at most.
    pub batch_rows: usize,
    /// The pins of records that do not bring their own.
    pub run: Context,
    /// `[run]` has faults, so that nobody can say which pins it lacks.
    pub run_flawed: bool,
    /// What becomes of the log.
    pub log: LogSettings,
    /// Whether who proposes a revision cannot approve it.
    pub four_eyes: bool,
    /// The nodes whose bundle or policy was named by an override.
    pub replaced: BTreeSet<String>,
    /// The nodes, in the order of the file.
    pub nodes: Vec<Node>,
    /// The text of the file, for its digest.
    pub text: String,
    /// The texts of the policy and the bundles, once it is planned: it is planned again with the same, whatever becomes of
    /// their files.
    pub files: BTreeMap<PathBuf, Arc<str>>,
}

/// What becomes of the log. None of this changes an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogSettings {
    /// Whether a run that ends archives its log.
    pub archive: bool,
    /// What pruning leaves in the log; `None` when nothing may go.
    pub keep: Option<Keep>,
}

/// What stamps facts with their ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// The wall clock at admission.
    Wall,
    /// The fact's own event time: worlds, tests and historical loads.
    Event,
}

/// One node.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its name, unique in the topology.
    pub name: String,
    /// The line it begins on.
    pub line: u32,
    /// The nodes it reads, as named in `input` or `inputs`.
    pub inputs: Vec<Text>,
    /// What it does.
    pub kind: NodeKind,
    /// Its settings have faults, so that nobody can say which columns it gives.
    pub flawed: bool,
}

/// What a node does, with its settings.
#[derive(Clone, Debug)]
pub enum NodeKind {
    /// `source.parquet`, `source.csv`, `source.jsonl`, `source.world`.
    Source(SourceNode),
    /// `gate`: the door of the log.
    Gate {
        /// The policy file, relative to the topology.
        policy: Text,
    },
    /// `filter`: the rows of which `where` is true.
    Filter {
        /// A SQL boolean.
        condition: Text,
    },
    /// `project`: named columns.
    Project {
        /// Input columns that are kept as they are.
        keep: Vec<Text>,
        /// New columns and their SQL.
        columns: Vec<(Text, Text)>,
    },
    /// `union`: the rows of several inputs with the same columns.
    Union,
    /// `windows`: aggregates over sliding windows.
    Windows(WindowsNode),
    /// `as_of`: the value of a keyed timeline.
    AsOf(AsOfNode),
    /// `drift`: statistics of periods.
    Drift(drift::DriftNode),
    /// `credibility`: the credibility index.
    Credibility(credibility::CredibilityNode),
    /// `expire`: what is alive.
    Expire(expire::ExpireNode),
    /// `quorum`: what is known of each claim.
    Quorum(quorum::QuorumNode),
    /// `families`: streams that share wrong values.
    Families(families::FamiliesNode),
    /// `entities`: who is who, as of each row.
    Entities(Box<EntitiesNode>),
    /// `linkage`: which records are of one thing.
    Linkage(LinkageNode),
    /// `decide`: rules over each row.
    Decide {
        /// The bundle file, relative to the topology.
        bundle: Text,
    },
    /// `seal`: decisions as episodes.
    Seal {
        /// Which columns an episode holds; all when none is named.
        columns: Vec<Text>,
    },
    /// `sink.parquet`, `sink.jsonl` and `sink.seal`: a committed table.
    Table(TableNode),
    /// Its kind is missing or none of [`KINDS`], which has been said.
    Unknown,
}

/// A source.
#[derive(Clone, Debug)]
pub struct SourceNode {
    /// Where the records are.
    pub place: Place,
    /// How rows become events; `None` when the records are envelopes already.
    pub event: Option<EventMapping>,
    /// Event times outside are quarantined.
    pub time_between: Option<(Text, Text)>,
    /// How far its records may lie behind the greatest event time before them, and still be waited for.
    pub late: Option<Span>,
}

/// Where a source's records are.
#[derive(Clone, Debug)]
pub enum Place {
    /// A Parquet file or folder.
    Parquet(PathBuf),
    /// A CSV file or folder, and its delimiter.
    Csv(PathBuf, u8),
    /// A file or folder of JSON lines, and the keys that become columns (none when they are envelopes).
    Jsonl(PathBuf, Vec<String>),
    /// A simulated world, and which of its streams.
    World(WorldConfig, WorldStream),
    /// A simulated lattice of claims and evidence, and which of its streams.
    Lattice(LatticeConfig, LatticeStream),
}

pub use tidegate_sources::world::WorldStream;

/// How rows become events.
#[derive(Clone, Debug)]
pub struct EventMapping {
    /// The event type.
    pub event_type: Text,
    /// SQL of the event id.
    pub id: Text,
    /// SQL of the event time.
    pub time: Text,
    /// SQL of payload fields; a field that is not named here is the column of its name.
    pub payload: Vec<(Text, Text)>,
    /// The version of the event type's schema.
    pub schema_version: Option<String>,
    /// Who sends it.
    pub producer: Option<String>,
}

/// `windows`.
#[derive(Clone, Debug)]
pub struct WindowsNode {
    /// Its groups, in the order of the file.
    pub groups: Vec<GroupNode>,
    /// How late an event may be, and still be answered.
    pub lateness_max: Option<Span>,
}

/// One group of windows.
#[derive(Clone, Debug)]
pub struct GroupNode {
    /// Its name, which begins the names of its columns; empty for the only group of a node.
    pub name: String,
    /// The node whose rows are aggregated; the input when not given.
    pub over: Option<Text>,
    /// The key column of the asking rows.
    pub key: Text,
    /// The key column of the aggregated rows, when it has another name.
    pub over_key: Option<Text>,
    /// The event-time column of the aggregated rows.
    pub time: Text,
    /// Which rows are aggregated.
    pub condition: Option<Text>,
    /// How far the windows end before the event.
    pub delay: Option<Span>,
    /// The widths.
    pub windows: Vec<(Text, Span)>,
    /// Names and aggregates.
    pub aggregates: Vec<(Text, Text)>,
}

/// `as_of`.
#[derive(Clone, Debug)]
pub struct AsOfNode {
    /// The node whose rows are the timeline.
    pub timeline: Text,
    /// The key column of the asking rows.
    pub key: Text,
    /// The key column of the timeline, when it has another name.
    pub timeline_key: Option<Text>,
    /// The column of the effective time.
    pub effective: Text,
    /// New columns and the timeline's columns they show.
    pub values: Vec<(Text, Text)>,
}

/// A committed table.
#[derive(Clone, Debug)]
pub struct TableNode {
    /// The table's name.
    pub table: Text,
    /// Which columns; all when none is named.
    pub columns: Vec<Text>,
    /// How it is written.
    pub format: TableFormat,
}

/// How a table is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableFormat {
    /// Parquet, zstd.
    Parquet,
    /// A JSON object a line.
    Jsonl,
    /// Parquet, its rows chained and sealed.
    Sealed,
}

/// Every kind of node.
pub const KINDS: [&str; 22] = [
    "source.parquet",
    "source.csv",
    "source.jsonl",
    "source.world",
    "gate",
    "filter",
    "project",
    "union",
    "windows",
    "as_of",
    "drift",
    "credibility",
    "expire",
    "quorum",
    "families",
    "entities",
    "linkage",
    "decide",
    "seal",
    "sink.parquet",
    "sink.jsonl",
    "sink.seal",
];

/// One `--set node.key=value`, or `--set key=value` for the topology itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    /// The names before the `=`, split at the points.
    pub path: Vec<String>,
    /// `v = ` and the value as TOML.
    toml: String,
}

impl Override {
    /// Reads `node.key=value`. A value that is no TOML value is a text.
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

    /// The node whose bundle or policy it names.
    fn revised(&self) -> Option<&str> {
        match self.path.as_slice() {
            [node, key] if key == "bundle" || key == "policy" => Some(node),
            _ => None,
        }
    }
}

/// The node that an input names: itself, or the one before the point when it names a port (`NODE.PORT`).
pub fn node_of(input: &str) -> &str {
    input.split_once('.').map_or(input, |(node, _)| node)
}

impl Node {
    /// What faults call it: `what` and its name, if it has one.
    pub fn called(&self, what: &str) -> String {
        if self.name.is_empty() { format!("a {what}") } else { format!("{what} `{}`", self.name) }
    }
}

impl Topology {
    /// Reads the topology in `file`, with `overrides` in place of what it says, and checks its shape.
    ///
    /// # Errors
    /// Every fault of the file's shape; [`crate::Plan::read`] finds those of what it says too.
    pub fn read(file: &Path, overrides: &[Override]) -> Result<Topology, Vec<Fault>> {
        let (topology, faults) = Topology::read_on(file, overrides)?;
        let found = faults.take();
        if found.is_empty() { Ok(topology) } else { Err(found) }
    }

    /// Reads as much of the topology as there is, and gathers the faults of its shape.
    ///
    /// A wrong text is [`Text::absent`], and a node with faults is [`Node::flawed`].
    ///
    /// # Errors
    /// The one fault of a file that cannot be read or is no TOML.
    pub(crate) fn read_on(file: &Path, overrides: &[Override]) -> Result<(Topology, Rc<Faults>), Vec<Fault>> {
        let (text, faults) = Faults::read(file)?;
        let mut root = faults.table(&text)?.into_inner();
        for set in overrides {
            if let Err(what) = apply(&mut root, set) {
                faults.add(0, what);
            }
        }
        let mut topology = read_root(file, &text, &root, &faults);
        topology.replaced = overrides.iter().filter_map(Override::revised).map(str::to_owned).collect();
        Ok((topology, faults))
    }

    /// The node of that name.
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.name == name && !name.is_empty())
    }

    /// Where a path leads: one of the file is relative to its folder, one of the command line to where the command runs.
    pub fn path_of(&self, path: &Text) -> PathBuf {
        if path.line == 0 {
            return PathBuf::from(&path.value);
        }
        self.file.parent().unwrap_or(Path::new("")).join(&path.value)
    }
}

/// Puts the value of a `--set` where it says.
fn apply<'t>(root: &mut DeTable<'t>, set: &'t Override) -> Result<(), String> {
    let parsed = DeTable::parse(&set.toml).expect("Override::parse tried it").into_inner();
    let value = parsed.into_iter().next().expect("one value").1.into_inner();
    let value = behind_the_file(value);
    let (last, names) = set.path.split_last().expect("split gives at least one name");
    let mut table = match names.first() {
        None => root,
        Some(first) if ["run", "log", "governance"].contains(&first.as_str()) => table_in(root, first)?,
        Some(first) => node_table(root, first)?,
    };
    for name in names.iter().skip(1) {
        table = table_in(table, name)?;
    }
    table.insert(Spanned::new(FROM_COMMAND_LINE..FROM_COMMAND_LINE, last.clone().into()), value);
    Ok(())
}

fn behind_the_file(value: DeValue<'_>) -> Spanned<DeValue<'_>> {
    Spanned::new(FROM_COMMAND_LINE..FROM_COMMAND_LINE, value)
}

fn node_table<'a, 't>(root: &'a mut DeTable<'t>, name: &str) -> Result<&'a mut DeTable<'t>, String> {
    let nodes = root.get_mut("node").map(Spanned::get_mut);
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
    let known: Vec<&str> = names.iter().map(String::as_str).collect();
    Err(format!("no node is named `{name}`; {}", choices(name, &known)))
}

fn table_in<'a, 't>(table: &'a mut DeTable<'t>, name: &str) -> Result<&'a mut DeTable<'t>, String> {
    let slot = table
        .entry(Spanned::new(FROM_COMMAND_LINE..FROM_COMMAND_LINE, name.to_owned().into()))
        .or_insert_with(|| behind_the_file(DeValue::Table(DeTable::new())));
    match slot.get_mut() {
        DeValue::Table(table) => Ok(table),
        _ => Err(format!("`{name}` is not a table")),
    }
}

fn read_root(file: &Path, text: &str, root: &DeTable<'_>, faults: &Rc<Faults>) -> Topology {
    let section = Section::new(root, 0, "the topology", faults);
    let name = section.required_text("name", "what this topology is called");
    let clock = match section.text("clock") {
        None => Clock::Wall,
        Some(text) if text.value == "wall" => Clock::Wall,
        Some(text) if text.value == "event" || text.is_absent() => Clock::Event,
        Some(text) => {
            faults.add(text.line, format!("`{}` is no clock; it can be `wall`, `event`", text.value));
            Clock::Event // The clock under which more settings are right.
        }
    };
    let partitions = section.count("partitions", 1).unwrap_or(1);
    if partitions > u64::from(tidegate_facts::tick::PARTITIONS_MAX) {
        faults.add(section.line(), format!("`partitions` is {partitions}; a tick has room for 4096"));
    }
    let commit_rows = section.count("commit_rows", 1).unwrap_or(250_000);
    let commit_span = section.span("commit_span").unwrap_or(Span::parse("3650d").expect("a span"));
    let state_rows = section.count("state_rows", 1).unwrap_or(1_000_000);
    let batch_rows = section.count("batch_rows", 1).unwrap_or(8_192) as usize;
    let before = faults.count();
    let run = section.section("run").map(|section| read_run(&section, faults)).unwrap_or_default();
    let run_flawed = faults.count() > before;
    let log = section.section("log").map(|section| read_log(&section, faults)).unwrap_or_default();
    let four_eyes = section.section("governance").and_then(|governance| {
        let four_eyes = governance.flag("four_eyes");
        governance.finish();
        four_eyes
    });
    let mut sections = section.list("node");
    for node in &mut sections {
        if let Some(name) = name_of(node) {
            node.rename(format!("node `{}`", name.value));
        }
    }
    let paths = source_paths(&sections);
    let mut nodes: Vec<Node> = Vec::new();
    for node in &sections {
        let node = read_node(node, file, &paths, faults);
        if let Some(twin) = nodes.iter().find(|n| n.name == node.name && !n.name.is_empty()) {
            faults.add(
                node.line,
                format!(
                    "a node named `{}` stands at line {} already; give each node a name of its own",
                    node.name, twin.line
                ),
            );
        }
        if node.name.contains('.') {
            let what = format!(
                "a node's name has no `.`, which stands before a port; write `{}`",
                node.name.replace('.', "_")
            );
            faults.add(node.line, what);
        }
        nodes.push(node);
    }
    section.finish();
    Topology {
        file: file.to_owned(),
        name: name.value,
        clock,
        partitions: partitions.min(4096) as u16,
        commit_rows,
        commit_span,
        state_rows,
        batch_rows,
        run,
        run_flawed,
        log,
        four_eyes: four_eyes.unwrap_or(true),
        replaced: BTreeSet::new(),
        nodes,
        text: text.to_owned(),
        files: BTreeMap::new(),
    }
}

/// The name of a node, if it has one.
fn name_of(section: &Section<'_>) -> Option<Text> {
    section.text("name").filter(|name| !name.is_absent())
}

/// The place settings of each source by node name, for `same_as`.
fn source_paths<'s, 't>(sections: &'s [Section<'t>]) -> Vec<(String, &'s Section<'t>)> {
    sections.iter().filter_map(|s| Some((name_of(s)?.value, s))).collect()
}

fn read_log(section: &Section<'_>, faults: &Rc<Faults>) -> LogSettings {
    let archive = section.flag("archive").unwrap_or(false);
    let keep = Keep { span: section.span("keep"), bytes: section.count("keep_bytes", 0) };
    section.finish();
    let keep = (keep != Keep::default()).then_some(keep);
    if keep.is_some() && !archive {
        let what = format!(
            "{} says what to keep, and without an archive nothing ever leaves the log; add `archive = true`, or leave \
             out `keep` and `keep_bytes`",
            section.name()
        );
        faults.add(section.line(), what);
    }
    LogSettings { archive, keep }
}

fn read_run(section: &Section<'_>, faults: &Rc<Faults>) -> Context {
    use tidegate_facts::envelope::{ScenarioId, is_hex, is_platform_run};
    let form = |key: &'static str, wanted: &str, holds: &dyn Fn(&str) -> bool| {
        let text = section.text(key)?;
        if !text.is_absent() && !holds(&text.value) {
            faults.add(text.line, format!("`{key}` of {} must be {wanted}", section.name()));
        }
        Some(text.value)
    };
    let hex64 = |text: &str| is_hex(text, 64);
    let hex32 = |text: &str| is_hex(text, 32);
    Context {
        manifest_fingerprint: form("manifest_fingerprint", "64 lower-case hexadecimal digits", &hex64)
            .unwrap_or_default(),
        parameter_hash: form("parameter_hash", "64 lower-case hexadecimal digits", &hex64),
        seed: section.count("seed", 0),
        scenario_id: section.text("scenario_id").map(|text| ScenarioId::Name(text.value)),
        run_id: form("run_id", "32 lower-case hexadecimal digits", &hex32),
        scenario_run_id: form("scenario_run_id", "32 lower-case hexadecimal digits", &hex32),
        platform_run_id: form("platform_run_id", "platform_YYYYMMDDTHHMMSSZ", &is_platform_run),
        ..Context::default()
    }
}

fn read_node(
    section: &Section<'_>,
    file: &Path,
    paths: &[(String, &Section<'_>)],
    faults: &Rc<Faults>,
) -> Node {
    let before = faults.count();
    let name = section.required_text("name", "by which other nodes and --set refer to it").value;
    let line = section.line();
    let kind = section.required_text("kind", "what the node does");
    let inputs = read_inputs(section, &kind.value, faults);
    let kind = match kind.value.as_str() {
        "source.parquet" | "source.csv" | "source.jsonl" | "source.world" => {
            NodeKind::Source(read_source(section, &kind.value, file, paths, faults))
        }
        "gate" => NodeKind::Gate { policy: section.required_text("policy", "the path of its policy file") },
        "filter" => NodeKind::Filter { condition: section.required_text("where", "a SQL boolean") },
        "project" => {
            NodeKind::Project { keep: section.texts("keep"), columns: section.text_table("columns") }
        }
        "union" => NodeKind::Union,
        "windows" => NodeKind::Windows(read_windows(section, faults)),
        "as_of" => NodeKind::AsOf(AsOfNode {
            timeline: section.required_text("timeline", "the node whose rows are the timeline"),
            key: section.required_text("key", "the column that holds the key"),
            timeline_key: section.text("timeline_key"),
            effective: section
                .required_text("effective", "the timeline's column that says since when a row is true"),
            values: section.text_table("values"),
        }),
        "drift" => NodeKind::Drift(drift::read(section, faults)),
        "credibility" => NodeKind::Credibility(credibility::read(section)),
        "expire" => NodeKind::Expire(expire::read(section, faults)),
        "quorum" => NodeKind::Quorum(quorum::read(section)),
        "families" => NodeKind::Families(families::read(section, faults)),
        "entities" => NodeKind::Entities(Box::new(read_entities(section))),
        "linkage" => NodeKind::Linkage(read_linkage(section, faults)),
        "decide" => NodeKind::Decide { bundle: section.required_text("bundle", "the path of its rules") },
        "seal" => NodeKind::Seal { columns: section.texts("columns") },
        "sink.parquet" => NodeKind::Table(read_table(section, TableFormat::Parquet, &inputs)),
        "sink.jsonl" => NodeKind::Table(read_table(section, TableFormat::Jsonl, &inputs)),
        "sink.seal" => {
            let table = TableNode {
                table: table_name(section, &inputs),
                columns: Vec::new(),
                format: TableFormat::Sealed,
            };
            NodeKind::Table(table)
        }
        "" => NodeKind::Unknown,
        unknown => {
            faults.add(kind.line, format!("`{unknown}` is no kind of node; {}", choices(unknown, &KINDS)));
            NodeKind::Unknown
        }
    };
    if !matches!(kind, NodeKind::Unknown) {
        section.finish();
    }
    Node { name, line, inputs, kind, flawed: faults.count() > before }
}

/// What a node of that kind reads.
fn read_inputs(section: &Section<'_>, kind: &str, faults: &Rc<Faults>) -> Vec<Text> {
    if kind.starts_with("source.") && KINDS.contains(&kind) {
        return Vec::new(); // Sources read no node.
    }
    let before = faults.count();
    let mut inputs = section.texts("inputs");
    inputs.extend(section.text("input"));
    if inputs.is_empty() && faults.count() == before {
        match kind {
            // Records may come over HTTP alone.
            "gate" if section.has("inputs") => {}
            "gate" => {
                section.missing("inputs", "the list of its sources; [] when records come over HTTP alone")
            }
            kind if KINDS.contains(&kind) => section.missing("input", "the node it reads"),
            _ => {} // What it is has to be said first.
        }
    }
    inputs
}

fn read_source(
    section: &Section<'_>,
    kind: &str,
    file: &Path,
    paths: &[(String, &Section<'_>)],
    faults: &Rc<Faults>,
) -> SourceNode {
    let folder = file.parent().unwrap_or(Path::new(""));
    let before = faults.count();
    let columns = (kind == "source.jsonl")
        .then(|| section.texts("columns").into_iter().map(|column| column.value).collect::<Vec<_>>());
    let columns_flawed = faults.count() > before;
    let place = if kind == "source.world" {
        read_world(section, paths, faults)
    } else {
        let path = read_path(section, folder, paths, faults);
        match kind {
            "source.parquet" => Place::Parquet(path),
            "source.csv" => {
                let delimiter = section.text("delimiter");
                let byte = match delimiter.as_ref().map(|d| d.value.as_bytes()) {
                    None => b',',
                    Some([]) => b',',
                    Some([byte]) => *byte,
                    Some(_) => {
                        let line = delimiter.map_or(0, |d| d.line);
                        faults.add(
                            line,
                            format!("`delimiter` of {} must be one ASCII character", section.name()),
                        );
                        b','
                    }
                };
                Place::Csv(path, byte)
            }
            _ => Place::Jsonl(path, columns.unwrap_or_default()),
        }
    };
    let event = section.section("event").map(|event| {
        let mapping = EventMapping {
            event_type: event.required_text("type", "the event type that its rows become"),
            id: event.required_text("id", "SQL for the event id"),
            time: event.required_text("time", "SQL for the event time"),
            payload: event.text_table("payload"),
            schema_version: event.text("schema_version").map(|t| t.value),
            producer: event.text("producer").map(|t| t.value),
        };
        event.finish();
        mapping
    });
    let envelopes = matches!(&place, Place::Jsonl(_, columns) if columns.is_empty());
    if !section.has("event") && !envelopes && !columns_flawed {
        section.missing(
            "event",
            "a table that says how its rows become events: { type = .., id = .., time = .. }",
        );
    }
    if event.is_some() && envelopes && !columns_flawed {
        section.missing(
            "columns",
            "the list of keys that its expressions use (lines without `event` are whole envelopes)",
        );
    }
    let time_between = section.texts("time_between");
    let time_between = match <[Text; 2]>::try_from(time_between) {
        Ok([from, to]) => Some((from, to)),
        Err(other) if other.is_empty() => None,
        Err(other) => {
            faults.add(
                other[0].line,
                format!("`time_between` of {} must be two times, [from, to]", section.name()),
            );
            None
        }
    };
    SourceNode { place, event, time_between, late: section.span("late") }
}

fn read_path(
    section: &Section<'_>,
    folder: &Path,
    paths: &[(String, &Section<'_>)],
    faults: &Rc<Faults>,
) -> PathBuf {
    let own = if section.is_table("path") {
        let same = section.section("path").expect("just seen");
        let other = same.required_text("same_as", "the node whose path it shares");
        same.finish();
        match paths.iter().find(|(name, _)| *name == other.value) {
            _ if other.is_absent() => None,
            Some((_, twin)) if twin.has("path") && !twin.is_table("path") => twin.text("path"),
            _ => {
                let known: Vec<&str> = paths.iter().map(|(name, _)| name.as_str()).collect();
                let what = format!(
                    "no node `{}` has a path to share; {}",
                    other.value,
                    choices(&other.value, &known)
                );
                faults.add(other.line, what);
                None
            }
        }
    } else {
        Some(section.required_text("path", "the file or folder it reads"))
    };
    // A path of the command line is relative to where the command runs, one of the file to the file.
    own.filter(|text| !text.is_absent()).map_or_else(PathBuf::new, |text| {
        if text.line == 0 { PathBuf::from(text.value) } else { folder.join(text.value) }
    })
}

fn read_world(section: &Section<'_>, paths: &[(String, &Section<'_>)], faults: &Rc<Faults>) -> Place {
    let stream = section.required_text(
        "stream",
        "`transactions` or `labels`, or of a lattice `claims`, `sources`, `evidence` or `beacons`",
    );
    if let Some(stream) = lattice::stream_of(&stream.value) {
        return lattice::read_lattice(section, stream, paths, faults);
    }
    let stream = match stream.value.as_str() {
        "labels" => WorldStream::Labels,
        "transactions" | "" => WorldStream::Transactions,
        unknown => {
            let what = format!(
                "`{unknown}` is no stream of a world; it can be `transactions`, `labels`, or of a lattice `claims`, `sources`, `evidence`, `beacons`"
            );
            faults.add(stream.line, what);
            WorldStream::Transactions
        }
    };
    let Some(world) = section.section("world") else {
        if !section.has("world") {
            section.missing("world", "a table of its settings, or { same_as = .. }");
        }
        return Place::World(WorldConfig::default(), stream);
    };
    let Some(other) = world.text("same_as") else {
        return Place::World(read_world_config(world, faults), stream);
    };
    world.finish();
    let twin =
        paths.iter().find(|(name, _)| *name == other.value).and_then(|(_, twin)| twin.section("world"));
    let config = match twin {
        // The faults of the twin's own settings are found where they stand.
        Some(twin) => read_world_config(twin, &Faults::new(Path::new(""), "")),
        None if other.is_absent() => WorldConfig::default(),
        None => {
            let known: Vec<&str> = paths.iter().map(|(name, _)| name.as_str()).collect();
            let what =
                format!("no node `{}` has a world to share; {}", other.value, choices(&other.value, &known));
            faults.add(other.line, what);
            WorldConfig::default()
        }
    };
    Place::World(config, stream)
}

fn read_world_config(world: Section<'_>, faults: &Rc<Faults>) -> WorldConfig {
    let mut config = WorldConfig::default();
    let small = |key, slot: &mut u32| {
        if let Some(count) = world.count(key, 1) {
            *slot = u32::try_from(count).unwrap_or(u32::MAX);
        }
    };
    small("customers", &mut config.customers);
    small("terminals", &mut config.terminals);
    small("days", &mut config.days);
    config.seed = world.count("seed", 0).unwrap_or(config.seed);
    config.radius = world.number("radius").unwrap_or(config.radius);
    config.start = read_start(&world, faults).unwrap_or(config.start);
    world.finish();
    config
}

/// When a world begins, in microseconds, if that is said.
fn read_start(world: &Section<'_>, faults: &Rc<Faults>) -> Option<i64> {
    let start = world.text("start").filter(|start| !start.is_absent())?;
    let micros = tidegate_facts::time::parse_rfc3339_micros(&start.value);
    if micros.is_none() {
        faults.add(
            start.line,
            format!("`start` of {} must be a time such as 2026-01-01T00:00:00.000000Z", world.name()),
        );
    }
    micros
}

fn read_windows(section: &Section<'_>, faults: &Rc<Faults>) -> WindowsNode {
    let lateness_max = section.span("lateness_max");
    let before = faults.count();
    let groups = section.sections("groups");
    if groups.is_empty() && faults.count() == before {
        return WindowsNode { groups: vec![read_group(String::new(), section, faults)], lateness_max };
    }
    let groups = groups
        .into_iter()
        .map(|(name, section)| {
            let group = read_group(name.value, &section, faults);
            section.finish();
            group
        })
        .collect();
    WindowsNode { groups, lateness_max }
}

fn read_group(name: String, section: &Section<'_>, faults: &Rc<Faults>) -> GroupNode {
    let before = faults.count();
    let widths = section.texts("windows");
    if widths.is_empty() && faults.count() == before {
        section.missing("windows", "a list of widths such as [\"1d\", \"7d\"]");
    }
    let windows = widths.into_iter().filter(|text| !text.is_absent());
    let windows = windows.filter_map(|text| match Span::parse(&text.value) {
        Ok(span) => Some((text, span)),
        Err(what) => {
            faults.add(text.line, format!("`windows` of {}: {what}", section.name()));
            None
        }
    });
    let windows: Vec<(Text, Span)> = windows.collect();
    let before = faults.count();
    let aggregates = section.text_table("aggregates");
    if aggregates.is_empty() && faults.count() == before {
        section.missing("aggregates", "a table such as { payments = \"count(*)\", spent = \"sum(amount)\" }");
    }
    GroupNode {
        name,
        over: section.text("over"),
        key: section.required_text("key", "the column that holds the key"),
        over_key: section.text("over_key"),
        time: section.text("time").unwrap_or(Text { value: "ts_utc".to_owned(), line: section.line() }),
        condition: section.text("where"),
        delay: section.span("delay"),
        windows,
        aggregates,
    }
}

fn read_table(section: &Section<'_>, format: TableFormat, inputs: &[Text]) -> TableNode {
    TableNode { table: table_name(section, inputs), columns: section.texts("columns"), format }
}

/// The name of a table: its own, or that of its input.
fn table_name(section: &Section<'_>, inputs: &[Text]) -> Text {
    let table = section.text("table").or_else(|| inputs.first().cloned());
    table.unwrap_or_else(|| Text::absent(section.line()))
}
