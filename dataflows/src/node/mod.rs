//! What a kind of node is, before any topology names one.
//!
//! A kind is a value: [`NodeKind`] names its settings and reads them into a [`NodeSpec`], the node
//! as a topology writes it. [`NodeSpec::plan`] checks it against the schemas of its inputs and
//! gives a [`PlannedNode`], which renders itself into a timely graph. Nothing outside `nodes/`
//! matches on kinds: metrics, status, account, console, governance, diagrams and documentation ask
//! these traits.

pub mod plan_context;
pub mod render_context;
pub mod settings;
pub mod sink;
pub mod source;
pub mod stateful;

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use arrow::datatypes::{Field, SchemaRef};
use tidegate_facts::Digest;
use tidegate_facts::columns;
use tidegate_operators::core::rows::RowStream;
use tidegate_operators::temporal::windows::WindowPlan;

use crate::commit::TableFormat;
use crate::config::{Section, Spanned};
use crate::timeline_names::Retention;

pub use self::plan_context::PlanContext;
pub use self::render_context::RenderContext;
pub use self::settings::{Effect, Setting};
pub use self::source::SourceSpec;

/// The names of the columns that a node reads of an input.
pub type ColumnSet = BTreeSet<String>;

/// The role of a kind of node: where nodes of this kind are in a topology.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It reads records from outside. Only the gate reads it.
    Source,
    /// It admits the records of the sources. A topology has one.
    Gate,
    /// It computes rows from rows.
    Operator,
    /// It commits rows to a table.
    Sink,
}

/// Which rows a node accepts from an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepts {
    /// Facts: rows that are never retracted.
    Facts,
    /// A changelog: each row carries `_diff`, +1 or -1.
    Changelog,
    /// Both.
    Either,
}

/// A further output of a node. Other nodes read it as `NODE.PORT`.
#[derive(Clone, Copy, Debug)]
pub struct Port {
    /// Its name.
    pub name: &'static str,
    /// Which rows it gives, in one sentence of the reference page.
    pub about: &'static str,
}

/// The context in which a kind of node reads the settings of a node.
pub struct ReadContext<'s, 't> {
    /// The topology file.
    pub file: &'s Path,
    /// The settings of every node that has a name, for `same_as`.
    pub sections: &'s [(String, &'s Section<'t>)],
}

impl ReadContext<'_, '_> {
    /// Where a path of the settings leads: one of the topology file is relative to its folder, one
    /// of the command line to the working directory.
    pub fn path_of(&self, path: &Spanned) -> PathBuf {
        path_from(self.file, path)
    }
}

/// Where a path in the settings of a node leads, for a topology in `file`.
pub fn path_from(file: &Path, path: &Spanned) -> PathBuf {
    if path.line == 0 {
        return PathBuf::from(&path.value);
    }
    file.parent().unwrap_or(Path::new("")).join(&path.value)
}

/// A kind of node: its name, its settings, and how a node of this kind is read from a topology.
pub trait NodeKind: Sync {
    /// The word that a topology writes as `kind`.
    fn name(&self) -> &'static str;

    /// Part of the plan digest. It counts up when the same settings give other rows.
    fn version(&self) -> u32;

    /// Where nodes of this kind are in a topology.
    fn role(&self) -> Role {
        Role::Operator
    }

    /// What the kind is for, in a paragraph of its reference page.
    fn about(&self) -> &'static str;

    /// The name under which the plan digest covers the kind. Kinds that give the same records by
    /// another transport share one.
    fn digest_name(&self) -> &'static str {
        self.name()
    }

    /// Which rows it accepts from `input`.
    fn accepts(&self) -> Accepts {
        Accepts::Facts
    }

    /// Whether it reads several nodes in `inputs`.
    fn reads_several(&self) -> bool {
        false
    }

    /// Its further outputs.
    fn ports(&self) -> &'static [Port] {
        &[]
    }

    /// Its settings, besides `name`, `kind` and `input` or `inputs`.
    fn settings(&self) -> &'static [Setting];

    /// Words that its settings had before, and the words that replaced them.
    fn renamed(&self) -> &'static [(&'static str, &'static str)] {
        &[]
    }

    /// A node of this kind, as a topology writes it: the example of the reference page.
    fn example(&self) -> &'static str;

    /// Reads a node's settings. Faults go to the section; what they leave is read as far as
    /// possible.
    fn read(&self, section: &Section<'_>, cx: &ReadContext<'_, '_>) -> Box<dyn NodeSpec>;
}

/// An input of a node besides `input`.
pub struct FurtherInput<'n> {
    /// The node or port that it names.
    pub node: &'n Spanned,
    /// Which rows the node accepts from it.
    pub accepts: Accepts,
}

/// A file that a node names and that can be revised while the topology runs.
pub enum Revisable<'n> {
    /// The rules of a `decide`.
    Bundle(&'n Spanned),
    /// The policy of the gate.
    Policy(&'n Spanned),
}

impl<'n> Revisable<'n> {
    /// The path, as the topology writes it.
    pub fn path(&self) -> &'n Spanned {
        match self {
            Revisable::Bundle(path) | Revisable::Policy(path) => path,
        }
    }
}

/// What the rows of a node's output carry, for rules between kinds of nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Capability {
    /// Features that were looked up, under a digest. An episode must hold that digest.
    Features,
    /// Drift events, of these measures.
    DriftEvents(Vec<String>),
    /// Groups of streams that vote once.
    StreamGroups,
}

/// One node as its kind of node reads it from a topology, before it is planned.
pub trait NodeSpec: Any + Send + Sync {
    /// The nodes that it reads besides `input`, in the order of the file.
    fn inputs(&self) -> Vec<FurtherInput<'_>> {
        Vec::new()
    }

    /// Its file that governance can revise, if it has one.
    fn revisable(&self) -> Option<Revisable<'_>> {
        None
    }

    /// Where its records come from, of a source.
    fn source(&self) -> Option<&SourceSpec> {
        None
    }

    /// The table that it commits, of a sink.
    fn table(&self) -> Option<&Spanned> {
        None
    }

    /// What its rows carry.
    fn capabilities(&self) -> Vec<Capability> {
        Vec::new()
    }

    /// The columns of its rows where they do not depend on its settings, so that a fault in those
    /// hides no fault behind the node.
    fn schema_despite_faults(&self, _input: &SchemaRef) -> Option<SchemaRef> {
        None
    }

    /// Checks the node against its inputs. `None` after a fault was added, or when an input has
    /// one.
    fn plan(&self, cx: &mut PlanContext<'_>) -> Option<Box<dyn PlannedNode>>;
}

/// One output of a planned node.
#[derive(Clone, Debug)]
pub struct OutputSpec {
    /// The port; `None` of the node's own rows.
    pub port: Option<&'static str>,
    /// Its columns.
    pub schema: SchemaRef,
}

impl OutputSpec {
    /// The node's own rows.
    pub fn own(schema: SchemaRef) -> OutputSpec {
        OutputSpec { port: None, schema }
    }

    /// Whether it is a changelog.
    pub fn is_changelog(&self) -> bool {
        self.schema.index_of(columns::DIFF).is_ok()
    }
}

/// The inputs of a planned node, and their columns.
pub struct InputSchemas<'p> {
    /// The names in `input` or `inputs`.
    pub names: &'p [String],
    /// The columns of every node and port.
    pub schemas: &'p BTreeMap<String, SchemaRef>,
}

impl InputSchemas<'_> {
    /// The first input.
    pub fn name(&self) -> &str {
        &self.names[0]
    }

    /// The columns of the first input.
    pub fn schema(&self) -> &SchemaRef {
        self.schema_of(self.name())
    }

    /// The columns of a node or port.
    ///
    /// # Panics
    /// When the plan has none of that name.
    pub fn schema_of(&self, node: &str) -> &SchemaRef {
        &self.schemas[node]
    }
}

/// A timeline of a planned node that queries can read as a table.
#[derive(Clone, Debug)]
pub struct LiveTable {
    /// The name that it has in SQL, unless a committed table has it.
    pub name: String,
    /// The timeline, as checkpoints name it.
    pub timeline: String,
    /// The key column of the rows.
    pub key: Field,
    /// The event-time column of the rows.
    pub time: Field,
    /// What else the timeline retains of its rows.
    pub values: Vec<(String, arrow::datatypes::DataType)>,
    /// Which rows belong to the table as of a tick.
    pub coverage: Coverage,
}

/// Which rows of a planned node's timeline belong to its live table as of a tick.
#[derive(Clone, Copy, Debug)]
pub enum Coverage {
    /// Those within `reach` before the tick, retained for `lateness_max` longer. In microseconds.
    Span {
        /// How far before the tick rows count.
        reach: i64,
        /// How much longer they are retained.
        lateness_max: i64,
    },
    /// The latest row of each key.
    Latest,
}

/// A group of features that a planned node has for each key, and that `/v1/features` can read.
#[derive(Clone, Debug)]
pub struct FeatureGroup {
    /// Its name; empty for the only group of a node.
    pub name: String,
    /// The timeline that holds its rows, as checkpoints name it.
    pub timeline: String,
    /// The index of the key column among the input's columns.
    pub key: usize,
    /// The windows and their aggregates.
    pub plan: WindowPlan,
    /// The names of the features, in the order of windows and aggregates.
    pub names: Vec<String>,
}

/// The table that a planned sink node commits.
#[derive(Clone)]
pub struct TablePlan {
    /// The table's name.
    pub table: String,
    /// The indexes of the input's columns that it holds.
    pub columns: Vec<usize>,
    /// Their schema.
    pub schema: SchemaRef,
    /// How it is written.
    pub format: TableFormat,
}

/// The revision with which a planned node began.
#[derive(Clone, Debug)]
pub struct FirstRevision {
    /// The id of the bundle or policy.
    pub id: String,
    /// Its version.
    pub version: String,
    /// The digest of its content.
    pub digest: Digest,
}

/// The summary of a planned node for the report of a run, the status and the console.
#[derive(Clone, Debug)]
pub enum Summary {
    /// Decisions: counts by action, and those with the highest scores.
    Decisions,
    /// The result of a statement over the table that holds one of the node's outputs.
    Table {
        /// A heading.
        title: &'static str,
        /// The port; `None` for the node's own rows.
        port: Option<&'static str>,
        /// The columns that the statement reads; a table without one of them is not summarised.
        reads: &'static [&'static str],
        /// The SELECT list.
        columns: &'static str,
        /// What follows FROM and the table.
        clauses: &'static str,
    },
}

/// A planned node: it was checked, and nothing can go wrong with it any more. Workers share it.
pub trait PlannedNode: Any + Send + Sync {
    /// Its own rows, then its ports. A sink has none.
    fn outputs(&self) -> Vec<OutputSpec>;

    /// The columns that it reads of each node or port.
    ///
    /// `wanted` has the columns that later nodes read of each of [`Self::outputs`], in their order.
    fn reads(&self, wanted: &[ColumnSet], inputs: &InputSchemas<'_>) -> Vec<(String, ColumnSet)>;

    /// The timelines that it retains, and which of their rows a checkpoint needs.
    fn timelines(&self) -> Vec<(String, Retention)> {
        Vec::new()
    }

    /// Whether some of its rows follow from time alone, so that time must pass in the log where no
    /// facts come.
    fn awaits_time(&self) -> bool {
        false
    }

    /// The timelines that queries can read as tables.
    fn live_tables(&self) -> Vec<LiveTable> {
        Vec::new()
    }

    /// The features that can be read by key.
    fn feature_groups(&self) -> Vec<FeatureGroup> {
        Vec::new()
    }

    /// The kinds of identifiers of its entity graph, if it keeps one.
    fn entity_kinds(&self) -> Option<Vec<String>> {
        None
    }

    /// The table that it commits, of a sink.
    fn table(&self) -> Option<&TablePlan> {
        None
    }

    /// The revision that it began with, where it has a revisable file.
    fn first_revision(&self) -> Option<FirstRevision> {
        None
    }

    /// The input columns that the rules of an effective revision read, by rule reason code; for
    /// accounts of decisions.
    fn columns_of_reasons(&self) -> BTreeMap<String, Vec<String>> {
        BTreeMap::new()
    }

    /// Whether its rows are episodes that can be sealed, made of its input's rows.
    fn is_seal(&self) -> bool {
        false
    }

    /// What the account, the status and the console show of it.
    fn summary(&self) -> Option<Summary> {
        None
    }

    /// The column that says why a row was not answered, if its rows have one.
    fn reason_column(&self) -> Option<usize> {
        None
    }

    /// Adds the node to a graph. It gives a stream for each output, in their order.
    fn render<'scope>(&self, cx: &mut RenderContext<'_, 'scope>) -> Vec<RowStream<'scope>>;
}
