//! A checked plan: every node with its schema, its compiled expressions, and nothing left to go wrong.
//!
//! Planning opens what the topology names (the policy, the bundles, the heads of the source files)
//! and type-checks every expression against the schema of its input. It is done twice: once against
//! all columns, which finds every fault and the columns that are read at all, and once against only
//! those, so that nothing travels through the graph that nobody reads.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use tidegate_facts::envelope::FIELDS;
use tidegate_facts::envelope::place::{CONTEXT, EVENT_TYPE};
use tidegate_facts::names::choices;
use tidegate_facts::schema::timestamp;
use tidegate_facts::{Context, Digest, PolicyRev, Span, Tick, columns, governance};
use tidegate_operators::as_of::AsOf;
use tidegate_operators::decide::{BundleText, Decider, Rule, line_of};
use tidegate_operators::expr::{Column, Expr, Projection};
use tidegate_operators::gate::{GatePolicy, Judge, TimeBounds};
use tidegate_operators::in_force::InForce;
use tidegate_operators::keys::is_key;
use tidegate_operators::linkage::PORTS as LINKAGE_PORTS;
use tidegate_operators::seal::{NEEDED, episode_schema};
use tidegate_operators::snapshot::snapshot_field;
use tidegate_operators::timeline::{Measure, is_measure};
use tidegate_operators::windows::{Aggregate, WindowPlan, reason_field};

use crate::build::{put_down_name, timeline_name};
use crate::plan::entities::EntitiesPlan;
use crate::plan::state::{Made, Retention, StatePlan};
use crate::settings::{Fault, Faults, Text};
use crate::sources::{SourcePlan, plan_source};
use crate::sql::{Planned, Sql};
use crate::topology::{
    AsOfNode, GroupNode, Node, NodeKind, Override, TableFormat, TableNode, Topology, WindowsNode, node_of,
};

mod credibility;
mod drift;
pub mod entities;
mod expire;
mod families;
mod linkage;
mod quorum;
pub mod state;

/// A topology that can run.
#[derive(Clone)]
pub struct Plan {
    /// What it was planned from.
    pub topology: Topology,
    /// Its sources, in the order in which the gate reads them.
    pub sources: Vec<SourcePlan>,
    /// The gate's name.
    pub gate: String,
    /// The gate's policy: the topology's, and those that came into force later.
    pub policies: InForce<Arc<GatePolicy>>,
    /// The columns that the gate gives, whichever policy is in force.
    pub gate_schema: SchemaRef,
    /// What follows the gate, each node after its inputs.
    pub steps: Vec<Step>,
    /// BLAKE3 over what decides the answers: the nodes and their settings, the topology's own policy and bundles.
    /// Revisions that came into force later are facts, and do not move it.
    pub digest: Digest,
}

/// A node behind the gate.
#[derive(Clone)]
pub struct Step {
    /// Its name.
    pub name: String,
    /// Whose rows it reads; the asking rows first.
    pub inputs: Vec<String>,
    /// The columns it gives.
    pub schema: SchemaRef,
    /// What it gives besides: the names of its ports, and the columns of each. Others read them as `NODE.PORT`.
    pub ports: Vec<(&'static str, SchemaRef)>,
    /// What it does.
    pub kind: StepKind,
}

/// What a node behind the gate does.
#[derive(Clone)]
pub enum StepKind {
    /// The rows of which the expression is true.
    Filter(Expr),
    /// Named columns.
    Project(Arc<Projection>),
    /// The rows of all inputs.
    Union,
    /// Aggregates over sliding windows.
    Windows(Vec<GroupPlan>),
    /// The value of a keyed timeline.
    AsOf(AsOfPlan),
    /// A state that hears rows in the order of ticks.
    State(StatePlan),
    /// Who is who, as of each row.
    Entities(Box<EntitiesPlan>),
    /// Rules over each row: the topology's, and those that came into force later.
    Decide(Arc<InForce<Decider>>),
    /// Episodes, of the input's columns at these places.
    Seal(Vec<usize>),
    /// A committed table.
    Table(TablePlan),
}

/// One group of windows, planned.
#[derive(Clone)]
pub struct GroupPlan {
    /// Its name; empty for the only group of a node.
    pub name: String,
    /// The node whose rows are aggregated.
    pub over: String,
    /// Which of its rows.
    pub condition: Option<Expr>,
    /// The aggregated rows as tick, key, time and measured columns.
    pub narrow: Arc<Projection>,
    /// The key column of the asking rows.
    pub key: usize,
    /// The time column of the asking rows.
    pub time: usize,
    /// The windows and their aggregates.
    pub plan: WindowPlan,
    /// What is kept of the measured columns.
    pub measures: Vec<Measure>,
    /// The names of the answers.
    pub names: Vec<String>,
}

/// An `as_of`, planned.
#[derive(Clone)]
pub struct AsOfPlan {
    /// The node whose rows are the timeline.
    pub timeline: String,
    /// Its rows as tick, key, effective time, observed time and values.
    pub narrow: Arc<Projection>,
    /// The key column of the asking rows.
    pub key: usize,
    /// The time column of the asking rows.
    pub time: usize,
    /// The name of the status column.
    pub status: String,
    /// The name of the column with the tick of the fact that stands.
    pub tick: String,
    /// The names and types of the values.
    pub values: Vec<(String, DataType)>,
}

/// A committed table, planned.
#[derive(Clone)]
pub struct TablePlan {
    /// Its name.
    pub table: String,
    /// The input's columns that it holds, by place.
    pub columns: Vec<usize>,
    /// How it is written.
    pub format: TableFormat,
}

/// The table that holds what expressions failed on.
pub const ERRORS_TABLE: &str = "errors";

/// How late an event may be when the topology does not say.
const LATENESS_DEFAULT: &str = "1h";

/// A revision's text in place of a file that the topology names.
#[derive(Clone, Debug)]
pub struct RevisionText {
    /// What faults call it.
    pub file: PathBuf,
    /// The text.
    pub text: Arc<str>,
}

/// What came into force after the topology's own files, by node: since which tick which text, `None` for the file's.
pub type Revisions = BTreeMap<String, Vec<(Tick, Option<RevisionText>)>>;

impl Plan {
    /// Reads the topology in `file`, with `overrides` in place of what it says, and plans it.
    ///
    /// # Errors
    /// Every fault of the topology, its policy and its bundles.
    pub fn read(file: &Path, overrides: &[Override]) -> Result<Plan, Vec<Fault>> {
        let (topology, faults) = Topology::read_on(file, overrides)?;
        Plan::of(topology, &Revisions::new(), faults)
    }

    /// Plans a topology whose bundles and policy were revised.
    ///
    /// # Errors
    /// Every fault of the topology, its policies and its bundles, of whichever revision.
    pub fn with_revisions(topology: Topology, revisions: &Revisions) -> Result<Plan, Vec<Fault>> {
        let faults = Faults::new(&topology.file, &topology.text);
        Plan::of(topology, revisions, faults)
    }

    /// Plans what has no fault, not even among those that were gathered before.
    fn of(mut topology: Topology, revisions: &Revisions, faults: Rc<Faults>) -> Result<Plan, Vec<Fault>> {
        let planner = Planner {
            topology: &topology,
            revisions,
            faults: Rc::clone(&faults),
            sql: Sql::default(),
            files: RefCell::new(topology.files.clone()),
        };
        let whole = planner.plan(None);
        let found = faults.take();
        if !found.is_empty() {
            return Err(found);
        }
        let read = columns_read(&whole);
        let draft = planner.plan(Some(&read));
        let planned = 1 + draft.sources.len() + draft.steps.len();
        assert_eq!(planned, topology.nodes.len(), "a node was left out, and nothing was said");
        let gate_schema = Arc::clone(draft.schema(&draft.gate).expect("a gate without a schema is a fault"));
        let Draft { sources, gate, policies, schemas: _, steps } = draft;
        let policies = policies.expect("a missing policy is a fault");
        let digest = plan_digest(&topology, policies.first(), &steps);
        topology.files = planner.files.into_inner();
        Ok(Plan { topology, sources, gate, policies, gate_schema, steps, digest })
    }

    /// The policy that records are judged by now.
    pub fn policy(&self) -> &Arc<GatePolicy> {
        self.policies.last()
    }

    /// The timelines that the graph keeps, and which of their rows. What a state is put down as is one, see [`put_down_name`].
    pub fn timelines(&self) -> BTreeMap<String, Retention> {
        let mut timelines = BTreeMap::new();
        for step in &self.steps {
            match &step.kind {
                StepKind::Windows(groups) => {
                    timelines.extend(groups.iter().enumerate().map(|(place, group)| {
                        (timeline_name(&step.name, place), Retention::Span(group.plan.retention()))
                    }))
                }
                StepKind::AsOf(_) => {
                    timelines.insert(timeline_name(&step.name, 0), Retention::Forever);
                }
                StepKind::State(state) => {
                    let heard = state.inputs.iter().enumerate();
                    timelines.extend(
                        heard.map(|(place, heard)| (timeline_name(&step.name, place), heard.retention)),
                    );
                    if let Made::PutDown(..) = state.state {
                        timelines.insert(put_down_name(&step.name), Retention::PutDown);
                    }
                }
                // Who is the oldest follows from all that was ever heard.
                StepKind::Entities(plan) => {
                    timelines.extend(
                        (0..plan.inputs())
                            .map(|place| (timeline_name(&step.name, place), Retention::Forever)),
                    );
                }
                _ => {}
            }
        }
        timelines
    }

    /// Whether something follows from time alone, so that time must pass in the log where no facts come.
    pub fn awaits_time(&self) -> bool {
        self.steps.iter().any(|step| step.kind.awaits_time())
    }

    /// The columns that a node gives.
    ///
    /// # Panics
    /// When there is no such node behind the sources.
    pub fn schema_of(&self, node: &str) -> &SchemaRef {
        if node == self.gate {
            return &self.gate_schema;
        }
        let given = self.steps.iter().flat_map(Step::gives).find(|(name, _)| *name == node);
        given.unwrap_or_else(|| panic!("`{node}` is no node that gives rows")).1
    }

    /// The names of the tables that a run of this plan commits, and the schema of each.
    pub fn tables(&self) -> Vec<(String, SchemaRef)> {
        let mut tables: Vec<(String, SchemaRef)> = Vec::new();
        for step in &self.steps {
            if let StepKind::Table(table) = &step.kind {
                tables.push((table.table.clone(), Arc::clone(&step.schema)));
            }
        }
        tables.push((ERRORS_TABLE.to_owned(), tidegate_operators::expr::error_schema()));
        tables
    }
}

impl StepKind {
    /// Whether something follows from time alone, without a fact.
    fn awaits_time(&self) -> bool {
        match self {
            StepKind::Filter(_)
            | StepKind::Project(_)
            | StepKind::Union
            | StepKind::Windows(_)
            | StepKind::AsOf(_)
            | StepKind::Decide(_)
            | StepKind::Seal(_)
            | StepKind::Table(_) => false,
            StepKind::State(_) => true,
            StepKind::Entities(plan) => plan.entities.settings.ttl.is_some(),
        }
    }
}

impl Step {
    /// What others can read of it, and the columns of each: its own rows, then its ports.
    pub fn gives(&self) -> impl Iterator<Item = (String, &SchemaRef)> {
        let ports = self.ports.iter().map(|(port, schema)| (format!("{}.{port}", self.name), schema));
        std::iter::once((self.name.clone(), &self.schema)).chain(ports)
    }
}

/// The gate's columns that anything reads.
fn columns_read(draft: &Draft) -> BTreeSet<String> {
    // Backwards from the tables: what each node's output is read for.
    let mut read: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for step in draft.steps.iter().rev() {
        let out = read.remove(step.name.as_str()).unwrap_or_default();
        // The columns of a port are the node's own; none of its inputs' is read for them.
        let mut ask = |node: &str, columns: BTreeSet<String>| {
            if node_of(node) != node {
                return;
            }
            let name =
                draft.steps.iter().map(|s| s.name.as_str()).find(|n| *n == node).unwrap_or(&draft.gate);
            read.entry(name).or_default().extend(columns);
        };
        let schema_of = |node: &str| draft.schema(node).expect("inputs were planned before");
        let input = step.inputs[0].as_str();
        let name_at = |place: usize| schema_of(input).field(place).name().clone();
        match &step.kind {
            StepKind::Filter(expr) => ask(input, out.into_iter().chain(reads_of(expr)).collect()),
            StepKind::Union => step.inputs.iter().for_each(|input| ask(input, out.clone())),
            StepKind::Project(projection) => ask(input, projection_reads(projection, schema_of(input))),
            StepKind::Decide(deciders) => {
                let exprs = deciders.values().flat_map(|d| d.rules.iter().map(|r| &r.when).chain([&d.score]));
                let own = exprs.flat_map(reads_of).chain([columns::EVENT_ID.to_owned()]);
                ask(input, out.into_iter().chain(own).collect());
            }
            StepKind::Windows(groups) => {
                for group in groups {
                    let condition = group.condition.iter().flat_map(reads_of);
                    let narrow = projection_reads(&group.narrow, schema_of(&group.over));
                    ask(&group.over, condition.chain(narrow).collect());
                }
                let own = groups.iter().flat_map(|g| [name_at(g.key), name_at(g.time)]);
                let own = own.chain([columns::EVENT_ID.to_owned(), columns::BASIS.to_owned()]);
                ask(input, out.into_iter().chain(own).collect());
            }
            StepKind::AsOf(plan) => {
                ask(&plan.timeline, projection_reads(&plan.narrow, schema_of(&plan.timeline)));
                ask(input, out.into_iter().chain([name_at(plan.key), name_at(plan.time)]).collect());
            }
            StepKind::State(state) => {
                for heard in &state.inputs {
                    ask(&heard.over, heard.reads(&out, schema_of(&heard.over)));
                }
            }
            StepKind::Entities(plan) => {
                for (over, narrow) in plan.frauds.iter().chain(&plan.linked) {
                    ask(over, projection_reads(narrow, schema_of(over)));
                }
                let own = projection_reads(&plan.asking, schema_of(input));
                let needed = [columns::EVENT_ID, columns::BASIS].map(str::to_owned);
                ask(input, out.into_iter().chain(own).chain(needed).collect());
            }
            StepKind::Seal(places) => ask(input, places.iter().map(|place| name_at(*place)).collect()),
            StepKind::Table(table) => ask(input, table.columns.iter().map(|place| name_at(*place)).collect()),
        }
    }
    let mut read = read.remove(draft.gate.as_str()).unwrap_or_default();
    read.insert(columns::TICK.to_owned());
    read
}

fn reads_of(expr: &Expr) -> Vec<String> {
    let columns = datafusion::physical_expr::utils::collect_columns(&expr.physical);
    let mut names: Vec<String> = columns.into_iter().map(|c| c.name().to_owned()).collect();
    names.sort();
    names
}

fn projection_reads(projection: &Projection, input: &Schema) -> BTreeSet<String> {
    projection
        .columns()
        .flat_map(|column| match column {
            Column::Kept(place) => vec![input.field(*place).name().clone()],
            Column::Computed(expr) => reads_of(expr),
        })
        .collect()
}

/// The versions of what computes answers and of the forms that are hashed. Whoever changes an answer that an
/// operator gives, or a recipe, counts up here, so that no later build takes its output for this one's.
const OPERATORS: [&str; 15] = [
    "as_of.2",
    "credibility.3",
    "decide.1",
    "drift.3",
    "entities.1",
    "episode.1",
    "expire.1",
    "families.1",
    "feed.1",
    "filter_project_union.2",
    "linkage.1",
    "quorum.1",
    "snapshot.2",
    "table.1",
    "windows.1",
];

/// What decides the answers, and not where inputs lie or how large batches are.
fn plan_digest(topology: &Topology, policy: &GatePolicy, steps: &[Step]) -> Digest {
    let nodes: Vec<serde_json::Value> = topology
        .nodes
        .iter()
        .map(|node| {
            let kind = match &node.kind {
                NodeKind::Source(source) => {
                    let late = source.late.map(|late| format!(" late {late}")).unwrap_or_default();
                    format!("source {:?}{late}", source.event.as_ref().map(texts_of_event))
                }
                NodeKind::Gate { .. } => "gate".to_owned(),
                other => without_lines(&format!("{other:?}")),
            };
            let inputs: Vec<&str> = node.inputs.iter().map(|i| i.value.as_str()).collect();
            serde_json::json!({"name": node.name, "inputs": inputs, "kind": kind})
        })
        .collect();
    let bundles: Vec<String> = steps
        .iter()
        .filter_map(|step| match &step.kind {
            StepKind::Decide(deciders) => Some(deciders.first().bundle_digest.to_hex()),
            _ => None,
        })
        .collect();
    let mut content = serde_json::json!({
        "recipe": "tidegate.plan.v1",
        "operators": OPERATORS,
        "name": topology.name,
        "clock": format!("{:?}", topology.clock),
        "partitions": topology.partitions,
        "commit_rows": topology.commit_rows.to_string(),
        "commit_span": topology.commit_span.to_string(),
        "run": topology.run,
        "policy": policy.rev(),
        "bundles": bundles,
        "nodes": nodes,
    });
    if !topology.four_eyes {
        content["four_eyes"] = serde_json::Value::Bool(false); // Who may approve decides what comes into force.
    }
    let canonical = tidegate_facts::json::canonical(&content.to_string()).expect("it was just written");
    Digest::of(canonical.as_bytes())
}

fn texts_of_event(event: &crate::topology::EventMapping) -> Vec<String> {
    let pairs = event.payload.iter().map(|(name, sql)| format!("{}={}", name.value, sql.value));
    [event.event_type.value.clone(), event.id.value.clone(), event.time.value.clone()]
        .into_iter()
        .chain(pairs)
        .collect()
}

/// Settings without the lines they stand on, so that a comment does not change a plan.
fn without_lines(debug: &str) -> String {
    let mut out = String::with_capacity(debug.len());
    let mut rest = debug;
    while let Some(at) = rest.find(", line: ") {
        out.push_str(&rest[..at]);
        rest = rest[at + 8..].trim_start_matches(|c: char| c.is_ascii_digit());
    }
    out.push_str(rest);
    out
}

/// A plan in the making, as far as faults let it come.
struct Draft {
    sources: Vec<SourcePlan>,
    /// The gate's name; empty when there is no gate.
    gate: String,
    policies: Option<InForce<Arc<GatePolicy>>>,
    /// The columns of each node that are known. A node that is not here has a fault, or reads one that has.
    schemas: BTreeMap<String, SchemaRef>,
    steps: Vec<Step>,
}

impl Draft {
    fn schema(&self, node: &str) -> Option<&SchemaRef> {
        self.schemas.get(node)
    }
}

struct Planner<'t> {
    topology: &'t Topology,
    revisions: &'t Revisions,
    faults: Rc<Faults>,
    sql: Sql,
    /// What was read of the files that the topology names.
    files: RefCell<BTreeMap<PathBuf, Arc<str>>>,
}

impl Planner<'_> {
    /// The plan with only the gate columns in `read`.
    fn plan(&self, read: Option<&BTreeSet<String>>) -> Draft {
        let nodes = &self.topology.nodes;
        let gates: Vec<(&Node, &Text)> = nodes
            .iter()
            .filter_map(|node| match &node.kind {
                NodeKind::Gate { policy } => Some((node, policy)),
                _ => None,
            })
            .collect();
        let has_unknown = nodes.iter().any(|node| matches!(node.kind, NodeKind::Unknown));
        if gates.len() > 1 || (gates.is_empty() && !has_unknown) {
            let line = gates.get(1).map_or(1, |(second, _)| second.line);
            self.faults.add(line, format!("a topology has one gate, and this one has {}; every source leads to it, and everything else follows from it", gates.len()));
        }
        if !has_unknown && !nodes.iter().any(|node| matches!(node.kind, NodeKind::Table(_))) {
            let line = gates.first().map_or(1, |(gate, _)| gate.line);
            self.faults.add(line, "nothing would be kept: add a node of kind `sink.parquet` or `sink.jsonl`");
        }
        self.table_names();
        let gate = gates.first().map(|(gate, _)| *gate);
        let policies = gates.first().and_then(|(gate, policy)| {
            let file = self.file(policy, "policy")?;
            self.revised(&gate.name, &file, |text| self.policy(text))
        });
        let policy = policies.as_ref().map(InForce::last);
        let mut draft = Draft {
            sources: self.sources(gate, gates.iter().flat_map(|(gate, _)| &gate.inputs), policy),
            gate: gate.map(|gate| gate.name.clone()).unwrap_or_default(),
            policies,
            schemas: BTreeMap::new(),
            steps: Vec::new(),
        };
        if let (Some(gate), Some(policies)) = (gate, &draft.policies) {
            draft.schemas.insert(gate.name.clone(), self.gate_schema(gate, policies.first(), read));
            self.one_shape(&gate.name, policies);
        }
        for node in self.in_order(gate) {
            let step = self.step(node, &draft);
            if let Some(schema) = self.schema_of(node, step.as_ref(), &draft) {
                draft.schemas.insert(node.name.clone(), schema);
            }
            let ports = step.iter().flat_map(|step| step.gives().skip(1));
            draft.schemas.extend(ports.map(|(name, schema)| (name, Arc::clone(schema))));
            draft.steps.extend(step);
        }
        draft
    }

    /// The columns that a node gives, as far as its faults let them be known.
    fn schema_of(&self, node: &Node, step: Option<&Step>, draft: &Draft) -> Option<SchemaRef> {
        if self.topology.nodes.iter().filter(|twin| twin.name == node.name).count() > 1 {
            return None; // Which of them is meant has to be said first.
        }
        let input = || draft.schema(&node.inputs.first()?.value);
        match &node.kind {
            // Their columns do not depend on their settings.
            NodeKind::Filter { .. } => input().map(Arc::clone),
            NodeKind::Decide { .. } => input().map(|input| Decider::schema(input)),
            _ if node.flawed => None,
            _ => step.map(|step| Arc::clone(&step.schema)),
        }
    }

    fn policy(&self, revision: &RevisionText) -> Option<Arc<GatePolicy>> {
        match GatePolicy::parse(&revision.text) {
            Ok(policy) => {
                let own = policy.events().find(|event| governance::is_own(&event.event_type));
                if let Some(event) = own {
                    let what = format!(
                        "event type `{}` is the gate's own, by which bundles and policies come into force; leave it out",
                        event.event_type
                    );
                    self.faults.add_of(&revision.file, 1, what);
                    return None;
                }
                Some(Arc::new(policy))
            }
            Err(found) => {
                for fault in found {
                    self.faults.add_of(&revision.file, fault.line, fault.what);
                }
                None
            }
        }
    }

    /// What the topology's file says, and what came into force after it.
    fn revised<T: Clone>(
        &self,
        node: &str,
        file: &RevisionText,
        planned: impl Fn(&RevisionText) -> Option<T>,
    ) -> Option<InForce<T>> {
        let first = planned(file);
        let later = self.revisions.get(node).map_or(&[][..], Vec::as_slice);
        let later: Vec<Option<(Tick, T)>> = later
            .iter()
            .map(|(tick, revision)| {
                let value = revision.as_ref().map_or_else(|| first.clone(), &planned);
                Some((*tick, value?))
            })
            .collect();
        let mut values = InForce::always(first?);
        for (tick, value) in later.into_iter().collect::<Option<Vec<_>>>()? {
            values.change(tick, value);
        }
        Some(values)
    }

    /// What is in the log and what the graph holds do not change with a policy: its columns and its classes are those of the first.
    fn one_shape(&self, gate: &str, policies: &InForce<Arc<GatePolicy>>) {
        let first = policies.first();
        let was = payload_columns(first);
        let revisions = self.revisions.get(gate).into_iter().flatten().filter_map(|(_, text)| text.as_ref());
        for revision in revisions {
            let Some(policy) = GatePolicy::parse(&revision.text).ok() else { continue };
            let is = payload_columns(&policy);
            let fault = |what| self.faults.add_of(&revision.file, 1, what);
            for (name, data_type) in &is {
                match was.iter().find(|(known, _)| known == name) {
                    Some((_, known)) if known == data_type => {}
                    Some((_, known)) => fault(format!(
                        "payload field `{name}` would be {data_type} and is {known}, which the log and the graph hold; keep its type"
                    )),
                    None => fault(format!(
                        "payload field `{name}` ({data_type}) is new, and the graph was built without it; a new field needs a new topology on a new data folder"
                    )),
                }
            }
            for (name, data_type) in was.iter().filter(|(name, _)| is.iter().all(|(kept, _)| kept != name)) {
                fault(format!(
                    "payload field `{name}` ({data_type}) is missing, and the graph was built with it; keep it, with `?` behind its type if records may lack it"
                ));
            }
            for other in policies.values() {
                for event in policy.events() {
                    let class = other.event(&event.event_type).map(|other| other.class);
                    if let Some(class) = class.filter(|class| *class != event.class) {
                        fault(format!(
                            "event type `{}` would be of class {} and is of class {}, by which its events are told apart from others; keep its class",
                            event.event_type,
                            event.class.name(),
                            class.name()
                        ));
                    }
                }
            }
        }
    }

    /// A file that the topology names, and its text.
    fn file(&self, named: &Text, what: &str) -> Option<RevisionText> {
        if named.is_absent() {
            return None;
        }
        let file = self.topology.path_of(named);
        if let Some(text) = self.files.borrow().get(&file) {
            return Some(RevisionText { file, text: Arc::clone(text) });
        }
        match std::fs::read_to_string(&file) {
            Ok(text) => {
                let text: Arc<str> = text.into();
                self.files.borrow_mut().insert(file.clone(), Arc::clone(&text));
                Some(RevisionText { file, text })
            }
            Err(error) => {
                let shown = file.display();
                let from = if named.line == 0 { "where the command runs" } else { "the topology" };
                self.faults.add(named.line, format!("{what} file `{shown}` cannot be read ({error}); check the path, which is relative to {from}"));
                None
            }
        }
    }

    /// The gate's columns: the envelope, then the payload fields of all event types.
    fn gate_schema(&self, gate: &Node, policy: &GatePolicy, read: Option<&BTreeSet<String>>) -> SchemaRef {
        let mut fields = gate_fields();
        let mut origin: BTreeMap<String, String> = BTreeMap::new();
        for event in policy.events() {
            let event_type = event.event_type.as_ref();
            let Some(payload) = &event.payload else {
                continue;
            };
            for field in &payload.fields {
                let name = payload_column(&field.name);
                let data_type = field.field_type.arrow();
                if let Some(twin) = fields.iter().find(|f| *f.name() == name) {
                    if *twin.data_type() != data_type {
                        self.faults.add(gate.line, format!(
                            "payload field `{}` is {} in `{event_type}` and {} in `{}`; give one of them another name or the same type",
                            field.name, data_type, twin.data_type(), origin.get(&name).map_or("the envelope", String::as_str)
                        ));
                    }
                    continue;
                }
                origin.insert(name.clone(), event_type.to_owned());
                fields.push(Field::new(name, data_type, true));
            }
        }
        if let Some(read) = read {
            fields.retain(|field| read.contains(field.name()));
        }
        Arc::new(Schema::new(fields))
    }

    /// The sources that `gate` reads; all sources are checked. `read` is what any gate reads.
    fn sources<'t>(
        &self,
        gate: Option<&Node>,
        read: impl Iterator<Item = &'t Text>,
        policy: Option<&Arc<GatePolicy>>,
    ) -> Vec<SourcePlan> {
        let mut planned: BTreeMap<&str, Option<SourcePlan>> = BTreeMap::new();
        for node in &self.topology.nodes {
            if let NodeKind::Source(source) = &node.kind {
                if node.name == governance::SOURCE {
                    self.faults.add(
                        node.line,
                        format!(
                            "no source can be called `{}`: receipts of policy changes are; give it another name",
                            node.name
                        ),
                    );
                }
                let plan = plan_source(node, source, self.topology, policy, &self.sql, &self.faults);
                planned.insert(&node.name, plan);
            }
        }
        let read: BTreeSet<&str> = read.map(|input| input.value.as_str()).collect();
        for node in self.topology.nodes.iter().filter(|node| matches!(node.kind, NodeKind::Source(_))) {
            if let (Some(gate), false) = (gate, read.is_empty() || read.contains(node.name.as_str())) {
                self.faults.add(
                    node.line,
                    format!(
                        "{} leads nowhere; add it to the `inputs` of gate `{}`",
                        node.called("source"),
                        gate.name
                    ),
                );
            }
        }
        let inputs: &[Text] = gate.map_or(&[], |gate| &gate.inputs);
        for (place, input) in inputs.iter().enumerate().filter(|(_, input)| !input.is_absent()) {
            match self.topology.node(&input.value).map(|node| &node.kind) {
                None => self.unknown_node(input),
                Some(NodeKind::Unknown) => {}
                Some(NodeKind::Source(_)) if inputs[..place].iter().any(|i| i.value == input.value) => {
                    self.faults
                        .add(input.line, format!("the gate reads `{}` twice; name it once", input.value));
                }
                Some(NodeKind::Source(_)) => {}
                Some(_) => self.faults.add(
                    input.line,
                    format!(
                        "the gate reads `{}`, which is no source; only records from sources pass the gate",
                        input.value
                    ),
                ),
            }
        }
        inputs.iter().filter_map(|input| planned.remove(input.value.as_str())?).collect()
    }

    fn unknown_node(&self, name: &Text) {
        let known: Vec<&str> =
            self.topology.nodes.iter().map(|n| n.name.as_str()).filter(|name| !name.is_empty()).collect();
        self.faults
            .add(name.line, format!("no node is named `{}`; {}", name.value, choices(&name.value, &known)));
    }

    /// The nodes behind the gate, each after its inputs.
    fn in_order(&self, gate: Option<&Node>) -> Vec<&Node> {
        let mut left: Vec<&Node> = self
            .topology
            .nodes
            .iter()
            .filter(|n| !matches!(n.kind, NodeKind::Source(_) | NodeKind::Gate { .. } | NodeKind::Unknown))
            .collect();
        let mut ordered: Vec<&Node> = Vec::new();
        for input in left.iter().flat_map(|node| all_inputs(node)) {
            match self.topology.node(node_of(&input.value)).map(|node| &node.kind) {
                None => self.unknown_node(input),
                Some(NodeKind::Source(_)) => {
                    let gate = gate.map_or("it".to_owned(), |gate| format!("`{}`", gate.name));
                    self.faults.add(
                        input.line,
                        format!(
                            "`{}` is a source; nothing reads a source but the gate, so read {gate}",
                            input.value
                        ),
                    );
                }
                Some(_) => {}
            }
        }
        loop {
            let ready = |node: &Node| {
                all_inputs(node).iter().all(|i| {
                    let name = node_of(&i.value);
                    ordered.iter().any(|o| o.name == name) || !left.iter().any(|l| l.name == name)
                })
            };
            let Some(place) = left.iter().position(|node| ready(node)) else { break };
            ordered.push(left.remove(place));
        }
        for node in left {
            self.faults.add(
                node.line,
                format!("node `{}` reads its own output, by way of its inputs; break the circle", node.name),
            );
        }
        ordered
    }

    fn step(&self, node: &Node, draft: &Draft) -> Option<Step> {
        let (first, more) = node.inputs.split_first()?; // That it has none has been said.
        if !more.is_empty() && !matches!(node.kind, NodeKind::Union) {
            self.faults.add(
                more[0].line,
                format!(
                    "{} reads one input; bring several together with a `union` before it",
                    node.called("node")
                ),
            );
        }
        all_inputs(node).iter().for_each(|input| self.known_port(input, draft));
        let input = draft.schema(&first.value);
        let deciders = match &node.kind {
            NodeKind::Decide { bundle } => self.decide(node, bundle, draft),
            _ => None,
        };
        let input = input?; // One that could not be planned has said so itself.
        let mut ports: Vec<(&'static str, SchemaRef)> = Vec::new();
        let mut state = |planned: Option<StatePlan>, names: &[&'static str]| {
            let planned = planned?;
            let mut schemas = planned.outputs.iter().map(|(schema, _)| Arc::clone(schema));
            let own = schemas.next().expect("a state gives rows");
            ports.extend(names.iter().copied().zip(schemas));
            Some((StepKind::State(planned), own))
        };
        let (kind, schema) = match &node.kind {
            NodeKind::Filter { condition } => {
                let planned = self.boolean(condition, input)?;
                (StepKind::Filter(planned.expr), Arc::clone(input))
            }
            NodeKind::Project { keep, columns } => {
                let projection = self.project(node, keep, columns, input)?;
                let schema = Arc::clone(projection.schema());
                (StepKind::Project(Arc::new(projection)), schema)
            }
            NodeKind::Union => (StepKind::Union, self.union(node, input, more, draft)?),
            NodeKind::Windows(windows) => self.windows(node, windows, input, draft)?,
            NodeKind::AsOf(as_of) => self.as_of(node, as_of, input, draft)?,
            NodeKind::Expire(settings) => state(self.expire(node, settings, input), &expire::PORTS)?,
            NodeKind::Quorum(settings) => state(self.quorum(node, settings, input, draft), &quorum::PORTS)?,
            NodeKind::Drift(settings) => state(self.drift(node, settings, draft), &drift::PORTS)?,
            NodeKind::Credibility(settings) => {
                state(self.credibility(node, settings, draft), &credibility::PORTS)?
            }
            NodeKind::Families(settings) => state(self.families(node, settings, input), &families::PORTS)?,
            NodeKind::Linkage(settings) => state(self.linkage(node, settings, input), &LINKAGE_PORTS)?,
            NodeKind::Entities(settings) => {
                ports = entities::ports();
                self.entities(node, settings, input, draft)?
            }
            NodeKind::Decide { .. } => (StepKind::Decide(Arc::new(deciders?)), Decider::schema(input)),
            NodeKind::Table(table) => self.table(node, table, input)?,
            NodeKind::Source(_) | NodeKind::Gate { .. } | NodeKind::Unknown => {
                unreachable!("these are no steps")
            }
            NodeKind::Seal { columns } => self.seal(node, columns, input)?,
        };
        let inputs = node.inputs.iter().map(|i| i.value.clone()).collect();
        Some(Step { name: node.name.clone(), inputs, schema, ports, kind })
    }

    /// Says so when a node that could be planned has no port of this name.
    fn known_port(&self, input: &Text, draft: &Draft) {
        let node = node_of(&input.value);
        if draft.schema(node).is_none() || draft.schema(&input.value).is_some() {
            return;
        }
        let step = draft.steps.iter().find(|step| step.name == node);
        let ports: Vec<String> =
            step.iter().flat_map(|step| step.gives().skip(1)).map(|(name, _)| name).collect();
        let ports: Vec<&str> = ports.iter().map(String::as_str).collect();
        let mend = if ports.is_empty() { format!("read `{node}`") } else { choices(&input.value, &ports) };
        self.faults.add(input.line, format!("node `{node}` has no port `{}`; {mend}", input.value));
    }

    fn boolean(&self, text: &Text, input: &Schema) -> Option<Planned> {
        self.planned(text, self.sql.plan_boolean(&text.value, input))
    }

    fn planned<T>(&self, text: &Text, planned: Result<T, String>) -> Option<T> {
        if text.is_absent() {
            return None;
        }
        planned.map_err(|what| self.faults.add(text.line, what)).ok()
    }

    /// The place of a column, or a fault.
    fn column(&self, name: &Text, schema: &Schema, of: &str) -> Option<usize> {
        let place = schema.index_of(&name.value).ok();
        if place.is_none() && !name.is_absent() {
            let known: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
            self.faults.add(
                name.line,
                format!("`{of}` has no column `{}`; {}", name.value, choices(&name.value, &known)),
            );
        }
        place
    }

    fn project(
        &self,
        node: &Node,
        keep: &[Text],
        columns: &[(Text, Text)],
        input: &Schema,
    ) -> Option<Projection> {
        let tick = input.index_of(columns::TICK).expect("every stream carries _tick");
        let mut made = vec![(Column::Kept(tick), input.field(tick).clone())];
        let mut whole = true;
        for name in keep {
            if name.value == "*" {
                let all = input.fields().iter().enumerate().filter(|(_, f)| f.name() != columns::TICK);
                made.extend(all.map(|(place, field)| (Column::Kept(place), field.as_ref().clone())));
                continue;
            }
            match self.column(name, input, &node.inputs[0].value) {
                Some(place) => made.push((Column::Kept(place), input.field(place).clone())),
                None => whole = false,
            }
        }
        for (name, sql) in columns {
            match self.planned(sql, self.sql.plan(&sql.value, input, None)) {
                Some(planned) => {
                    let nullable = planned.expr.physical.nullable(input).unwrap_or(true);
                    let field = Field::new(&name.value, planned.expr.data_type.clone(), nullable);
                    made.push((Column::Computed(planned.expr), field));
                }
                None => whole = false,
            }
            if made.iter().filter(|(_, field)| *field.name() == name.value).count() > 1 {
                self.faults.add(
                    name.line,
                    format!(
                        "{} gives two columns named `{}`; leave one out",
                        node.called("node"),
                        name.value
                    ),
                );
            }
        }
        // A row that is taken back is taken back in every form.
        if let Ok(diff) = input.index_of(columns::DIFF) {
            made.retain(|(_, field)| field.name() != columns::DIFF);
            made.push((Column::Kept(diff), input.field(diff).clone()));
        }
        whole.then(|| Projection::new(&node.name, made))
    }

    fn union(&self, node: &Node, first: &SchemaRef, more: &[Text], draft: &Draft) -> Option<SchemaRef> {
        for other in more {
            let schema = draft.schema(&other.value)?;
            let same = schema.fields().len() == first.fields().len()
                && schema
                    .fields()
                    .iter()
                    .zip(first.fields())
                    .all(|(a, b)| a.name() == b.name() && a.data_type() == b.data_type());
            if !same {
                self.faults.add(other.line, format!(
                    "`{}` and `{}` have different columns, so {} cannot bring them together; `project` them to the same names and types",
                    node.inputs[0].value, other.value, node.called("node")
                ));
            }
        }
        let fields: Vec<Field> = first
            .fields()
            .iter()
            .map(|f| f.as_ref().clone().with_nullable(f.name() != columns::TICK))
            .collect();
        Some(Arc::new(Schema::new(fields)))
    }

    fn windows(
        &self,
        node: &Node,
        windows: &WindowsNode,
        input: &SchemaRef,
        draft: &Draft,
    ) -> Option<(StepKind, SchemaRef)> {
        let lateness =
            windows.lateness_max.unwrap_or(Span::parse(LATENESS_DEFAULT).expect("a span")).micros();
        for needed in [columns::EVENT_ID, columns::BASIS] {
            if input.index_of(needed).is_err() {
                self.faults.add(
                    node.line,
                    format!(
                        "{} needs column `{needed}` of `{}`; keep it there",
                        node.called("node"),
                        node.inputs[0].value
                    ),
                );
            }
        }
        let groups: Vec<Option<GroupPlan>> =
            windows.groups.iter().map(|group| self.group(node, group, lateness, input, draft)).collect();
        let groups: Vec<GroupPlan> = groups.into_iter().collect::<Option<_>>()?;
        let mut fields: Vec<Field> = input.fields().iter().map(|f| f.as_ref().clone()).collect();
        for group in &groups {
            let aggregates = group.plan.windows.iter().flat_map(|_| &group.plan.aggregates);
            fields.extend(
                aggregates
                    .zip(&group.names)
                    .map(|(a, name)| Field::new(name, group.plan.answer_type(*a), true)),
            );
        }
        fields.extend([reason_field(), snapshot_field()]);
        self.no_twins(node, &fields);
        Some((StepKind::Windows(groups), Arc::new(Schema::new(fields))))
    }

    fn no_twins(&self, node: &Node, fields: &[Field]) {
        let mut seen = BTreeSet::new();
        for field in fields {
            if !seen.insert(field.name()) {
                self.faults.add(node.line, format!("{} gives two columns named `{}`; give its group or aggregate another name, or drop the input's with a `project`", node.called("node"), field.name()));
            }
        }
    }

    fn group(
        &self,
        node: &Node,
        group: &GroupNode,
        lateness_max: i64,
        input: &Schema,
        draft: &Draft,
    ) -> Option<GroupPlan> {
        let over_name = group.over.as_ref().map_or(&node.inputs[0].value, |over| &over.value);
        let over = draft.schema(over_name)?;
        let key = self.key_column(&group.key, input, &node.inputs[0].value);
        let over_key = self.key_column(group.over_key.as_ref().unwrap_or(&group.key), over, over_name);
        let own_time = Text { value: columns::TS_UTC.to_owned(), line: node.line };
        let time = self.time_column(&own_time, input, &node.inputs[0].value);
        let over_time = self.time_column(&group.time, over, over_name);
        let condition = group.condition.as_ref().map(|text| self.boolean(text, over));
        let mut measured: Vec<Expr> = Vec::new();
        let mut aggregates = Vec::new();
        let mut whole = !matches!(condition, Some(None));
        for (_, text) in &group.aggregates {
            match self.aggregate(text, over, &mut measured) {
                Some(aggregate) => aggregates.push(aggregate),
                None => whole = false,
            }
        }
        let (key, over_key, time, over_time) = (key?, over_key?, time?, over_time?);
        if !whole {
            return None;
        }
        let tick = over.index_of(columns::TICK).expect("every stream carries _tick");
        let mut narrow: Vec<(Column, Field)> = [tick, over_key, over_time]
            .into_iter()
            .map(|p| (Column::Kept(p), over.field(p).clone()))
            .collect();
        let mut measures = Vec::new();
        for (place, expr) in measured.iter().enumerate() {
            let nullable = expr.physical.nullable(over).unwrap_or(true);
            let squares = aggregates.contains(&Aggregate::Stddev(place));
            measures.push(Measure { squares, nullable });
            narrow.push((
                Column::Computed(expr.clone()),
                Field::new(format!("measure_{place}"), expr.data_type.clone(), true),
            ));
        }
        let prefix = if group.name.is_empty() { String::new() } else { format!("{}_", group.name) };
        let names = group
            .windows
            .iter()
            .flat_map(|(width, _)| group.aggregates.iter().map(move |(name, _)| (width, name)))
            .map(|(width, name)| format!("{prefix}{}_{}", name.value, width.value))
            .collect();
        Some(GroupPlan {
            name: group.name.clone(),
            over: over_name.clone(),
            condition: condition.flatten().map(|planned| planned.expr),
            narrow: Arc::new(Projection::new(&node.name, narrow)),
            key,
            time,
            plan: WindowPlan {
                windows: group.windows.iter().map(|(_, span)| *span).collect(),
                delay: group.delay.map_or(0, Span::micros),
                aggregates,
                measures: measured.iter().map(|e| e.data_type.clone()).collect(),
                lateness_max,
            },
            measures,
            names,
        })
    }

    fn key_column(&self, name: &Text, schema: &Schema, of: &str) -> Option<usize> {
        let place = self.column(name, schema, of)?;
        let data_type = schema.field(place).data_type();
        if !is_key(data_type) {
            self.faults.add(name.line, format!("column `{}` is {data_type}, which cannot be a key; a key is a whole number, a text or a boolean: cast it in a `project` before", name.value));
            return None;
        }
        Some(place)
    }

    fn time_column(&self, name: &Text, schema: &Schema, of: &str) -> Option<usize> {
        let place = self.column(name, schema, of)?;
        let data_type = schema.field(place).data_type();
        if *data_type != timestamp() {
            self.faults.add(name.line, format!("column `{}` is {data_type}, and an event time is a timestamp in microseconds, UTC: cast it in a `project` before", name.value));
            return None;
        }
        Some(place)
    }

    /// One aggregate such as `avg(amount)`; its argument is added to `measured` unless it is there.
    fn aggregate(&self, text: &Text, over: &Schema, measured: &mut Vec<Expr>) -> Option<Aggregate> {
        if text.is_absent() {
            return None;
        }
        const KNOWN: [&str; 9] =
            ["count", "sum", "avg", "min", "max", "stddev", "distinct", "last", "time_since_last"];
        let call = text
            .value
            .trim()
            .split_once('(')
            .and_then(|(f, rest)| Some((f.trim(), rest.strip_suffix(')')?.trim())));
        let Some((function, argument)) = call else {
            self.faults.add(
                text.line,
                format!(
                    "`{}` is no aggregate; write function(argument), such as avg(amount) or count(*)",
                    text.value
                ),
            );
            return None;
        };
        if !KNOWN.contains(&function) {
            self.faults.add(
                text.line,
                format!("`{function}` is no aggregate of windows; {}", choices(function, &KNOWN)),
            );
            return None;
        }
        match (function, argument) {
            ("count", "*" | "") => return Some(Aggregate::Count),
            ("time_since_last", "*" | "") => return Some(Aggregate::TimeSinceLast),
            (_, "*" | "") => {
                self.faults.add(
                    text.line,
                    format!("`{}` needs a column or an expression between its brackets", text.value),
                );
                return None;
            }
            _ => {}
        }
        let planned = self.planned(text, self.sql.plan(argument, over, None))?;
        let data_type = &planned.expr.data_type;
        let refused = match function {
            _ if data_type.is_floating() => {
                Some("sums of floats depend on their order; cast it to a decimal, such as cast(x as decimal(12,2))".to_owned())
            }
            _ if !is_measure(data_type) => Some("use a boolean, a whole number, a decimal of at most 18 digits, a timestamp or a text".to_owned()),
            "sum" | "avg" | "stddev" if *data_type == DataType::Utf8 || *data_type == timestamp() => Some(format!("{function}() takes numbers and booleans")),
            "min" | "max" | "last" if *data_type == DataType::Utf8 => Some(format!("{function}() takes numbers, booleans and times; use `as_of` for texts")),
            "stddev" if matches!(data_type, DataType::Int64) || matches!(data_type, DataType::Decimal128(d, _) if *d > 15) => {
                Some("its squares could overflow; cast it to a decimal of at most 15 digits".to_owned())
            }
            _ => None,
        };
        if let Some(mend) = refused {
            self.faults.add(text.line, format!("`{}` is over a {data_type}: {mend}", text.value));
            return None;
        }
        let place = measured.iter().position(|e| e.text == planned.expr.text).unwrap_or(measured.len());
        if place == measured.len() {
            measured.push(planned.expr);
        }
        Some(match function {
            "count" => Aggregate::CountOf(place),
            "sum" => Aggregate::Sum(place),
            "avg" => Aggregate::Avg(place),
            "min" => Aggregate::Min(place),
            "max" => Aggregate::Max(place),
            "stddev" => Aggregate::Stddev(place),
            "distinct" => Aggregate::Distinct(place),
            _ => Aggregate::Last(place),
        })
    }

    fn as_of(
        &self,
        node: &Node,
        as_of: &AsOfNode,
        input: &SchemaRef,
        draft: &Draft,
    ) -> Option<(StepKind, SchemaRef)> {
        let of = as_of.timeline.value.as_str();
        let timeline = draft.schema(of)?;
        let key = self.key_column(&as_of.key, input, &node.inputs[0].value);
        let timeline_key = self.key_column(as_of.timeline_key.as_ref().unwrap_or(&as_of.key), timeline, of);
        let effective = self.time_column(&as_of.effective, timeline, of);
        let observed = Text { value: columns::TS_UTC.to_owned(), line: node.line };
        let time = self.time_column(&observed, input, &node.inputs[0].value);
        let observed = self.time_column(&observed, timeline, of);
        let mut values = Vec::new();
        let mut places = Vec::new();
        let mut whole = true;
        for (name, column) in &as_of.values {
            let Some(place) = self.column(column, timeline, of) else {
                whole = false;
                continue;
            };
            let data_type = timeline.field(place).data_type().clone();
            if !is_measure(&data_type) {
                self.faults.add(column.line, format!("column `{}` is {data_type}, which a timeline cannot hold; use a boolean, a whole number, a decimal of at most 18 digits, a timestamp or a text", column.value));
            }
            places.push(place);
            values.push((name.value.clone(), data_type));
        }
        let (key, timeline_key, effective, observed, time) =
            (key?, timeline_key?, effective?, observed?, time?);
        if !whole {
            return None;
        }
        let tick = timeline.index_of(columns::TICK).expect("every stream carries _tick");
        let heads =
            [(tick, "_tick"), (timeline_key, "key"), (effective, "effective"), (observed, "observed")];
        let narrow =
            heads.into_iter().chain(places.iter().zip(&values).map(|(p, (name, _))| (*p, name.as_str())));
        let narrow =
            narrow.map(|(p, name)| (Column::Kept(p), timeline.field(p).clone().with_name(name))).collect();
        let status = format!("{}_status", node.name);
        let mut fields: Vec<Field> = input.fields().iter().map(|f| f.as_ref().clone()).collect();
        let tick = format!("{}_tick", node.name);
        fields.extend(AsOf::fields(&status, &tick, &values));
        self.no_twins(node, &fields);
        let narrow = Arc::new(Projection::new(&node.name, narrow));
        let plan = AsOfPlan { timeline: of.to_owned(), narrow, key, time, status, tick, values };
        Some((StepKind::AsOf(plan), Arc::new(Schema::new(fields))))
    }

    /// What decides the rows of a node, by every bundle and policy that came into force.
    ///
    /// The faults of a bundle can be told without its input, and those of its rules with it.
    fn decide(&self, node: &Node, bundle: &Text, draft: &Draft) -> Option<InForce<Decider>> {
        let input = draft.schema(&node.inputs[0].value);
        if input.is_some_and(|input| input.index_of(columns::EVENT_ID).is_err()) {
            self.faults.add(
                node.line,
                format!(
                    "{} needs column `event_id` of `{}`; keep it there",
                    node.called("node"),
                    node.inputs[0].value
                ),
            );
        }
        let policies = draft.policies.as_ref().map(|policies| policies.map(|policy| policy.rev()));
        let file = self.file(bundle, "bundle")?;
        let first = policies.as_ref().map(InForce::first);
        let bundles = self.revised(&node.name, &file, |text| self.decider(node, text, input, first))?;
        Some(
            bundles.with(&policies?, |decider, policy| Decider { policy: policy.clone(), ..decider.clone() }),
        )
    }

    /// The rules of one revision of a bundle over its input, if that is known.
    fn decider(
        &self,
        node: &Node,
        revision: &RevisionText,
        input: Option<&SchemaRef>,
        policy: Option<&PolicyRev>,
    ) -> Option<Decider> {
        let RevisionText { file, text } = revision;
        let bundle = match BundleText::parse(text) {
            Ok(bundle) => bundle,
            Err(found) => {
                for (line, what) in found {
                    self.faults.add_of(file, line, what);
                }
                return None;
            }
        };
        let input = input?;
        let in_bundle = |span: std::ops::Range<usize>, what: String| {
            self.faults.add_of(file, line_of(text, span.start), what)
        };
        let number = |planned: &Planned| {
            let data_type = &planned.expr.data_type;
            (data_type.is_numeric() || *data_type == DataType::Null).then_some(()).ok_or_else(|| {
                format!("the score `{}` is {data_type}; write a number", bundle.score.get_ref())
            })
        };
        let score = self
            .sql
            .plan(bundle.score.get_ref(), input, None)
            .and_then(|planned| number(&planned))
            .and_then(|()| self.sql.plan(bundle.score.get_ref(), input, Some(&DataType::Float64)))
            .map_err(|what| in_bundle(bundle.score.span(), what))
            .ok();
        let mut rules = Vec::new();
        for rule in &bundle.rules {
            match self.sql.plan_boolean(rule.when.get_ref(), input) {
                Ok(planned) => rules.push(Rule {
                    id: rule.id.clone(),
                    when: planned.expr,
                    action: rule.action,
                    reason: rule.reason.clone(),
                }),
                Err(what) => in_bundle(rule.when.span(), format!("rule `{}`: {what}", rule.id)),
            }
        }
        if rules.len() < bundle.rules.len() {
            return None;
        }
        Some(Decider {
            node: node.name.as_str().into(),
            bundle_digest: bundle.digest(),
            bundle_id: bundle.id,
            bundle_version: bundle.version,
            otherwise: bundle.otherwise,
            score: score?.expr,
            rules,
            policy: policy?.clone(),
        })
    }

    /// The places of the columns that a node names, always with the tick; all when it names none.
    fn chosen(&self, node: &Node, names: &[Text], input: &SchemaRef) -> Option<Vec<usize>> {
        if names.is_empty() {
            return Some((0..input.fields().len()).collect());
        }
        let tick = input.index_of(columns::TICK).expect("every stream carries _tick");
        let named: Vec<Option<usize>> =
            names.iter().map(|name| self.column(name, input, &node.inputs[0].value)).collect();
        let mut places = named.into_iter().collect::<Option<Vec<_>>>()?;
        if !places.contains(&tick) {
            places.insert(0, tick);
        }
        Some(places)
    }

    /// An episode must name its fact, what was looked up, and the decision.
    fn seal(&self, node: &Node, names: &[Text], input: &SchemaRef) -> Option<(StepKind, SchemaRef)> {
        let places = self.chosen(node, names, input)?;
        let chosen = input.project(&places).expect("the places are the input's");
        let looked_up = self.topology.nodes.iter().any(|n| matches!(n.kind, NodeKind::Windows(_)));
        let snapshot = snapshot_field();
        let needed = NEEDED.into_iter().chain(looked_up.then_some(snapshot.name().as_str()));
        let missing: Vec<String> =
            needed.filter(|name| chosen.index_of(name).is_err()).map(|name| format!("`{name}`")).collect();
        if !missing.is_empty() {
            self.faults.add(
                node.line,
                format!(
                    "the episodes of node `{}` would not name what they are based on: they lack {}; keep these \
                     columns in `{}` and in the nodes before it",
                    node.name,
                    missing.join(", "),
                    node.inputs[0].value
                ),
            );
        }
        for field in chosen.fields() {
            if !tidegate_facts::jcs::has_form(field.data_type()) {
                self.faults.add(
                    node.line,
                    format!(
                        "column `{}` is {}, which has no canonical JSON form, so it cannot be sealed; cast it in a \
                         `project` before, or leave it out of `columns`",
                        field.name(),
                        field.data_type()
                    ),
                );
                return None;
            }
        }
        missing.is_empty().then(|| (StepKind::Seal(places), episode_schema(&chosen)))
    }

    /// Whether every table has a name of its own.
    fn table_names(&self) {
        let mut taken = BTreeSet::from([ERRORS_TABLE, "facts", "receipts", "quarantine", "governance"]);
        for node in &self.topology.nodes {
            let NodeKind::Table(TableNode { table: name, .. }) = &node.kind else { continue };
            if name.is_absent() {
                continue;
            }
            let plain = name.value.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
            if !plain {
                self.faults.add(
                    name.line,
                    format!("`{}` cannot name a table; use lower-case letters, digits and `_`", name.value),
                );
            }
            if !taken.insert(&name.value) {
                self.faults.add(
                    name.line,
                    format!(
                        "a table named `{}` is there already; give `table` of {} another name",
                        name.value,
                        node.called("node")
                    ),
                );
            }
        }
    }

    fn table(&self, node: &Node, table: &TableNode, input: &SchemaRef) -> Option<(StepKind, SchemaRef)> {
        let name = &table.table;
        if table.format == TableFormat::Sealed && input.index_of(columns::RECORD_DIGEST).is_err() {
            self.faults.add(
                node.line,
                format!(
                    "node `{}` seals episodes, and `{}` gives none; put a node of kind `seal` between them",
                    node.name, node.inputs[0].value
                ),
            );
            return None;
        }
        let columns = self.chosen(node, &table.columns, input)?;
        let schema = Arc::new(input.project(&columns).expect("the places are the input's"));
        let plan = TablePlan { table: name.value.clone(), columns, format: table.format };
        Some((StepKind::Table(plan), schema))
    }
}

/// The columns of all payload fields of a policy, and their types.
fn payload_columns(policy: &GatePolicy) -> Vec<(String, DataType)> {
    let fields = policy.events().flat_map(|event| event.payload.iter().flat_map(|schema| &schema.fields));
    fields.map(|field| (payload_column(&field.name), field.field_type.arrow())).collect()
}

/// Every node that a node reads, by a name that is there.
pub(crate) fn all_inputs(node: &Node) -> Vec<&Text> {
    let mut inputs: Vec<&Text> = node.inputs.iter().collect();
    match &node.kind {
        NodeKind::Windows(windows) => inputs.extend(windows.groups.iter().filter_map(|g| g.over.as_ref())),
        NodeKind::AsOf(as_of) => inputs.push(&as_of.timeline),
        NodeKind::Quorum(quorum) => inputs.extend(quorum.also_reads()),
        NodeKind::Drift(drift) => inputs.extend(drift.over()),
        NodeKind::Credibility(credibility) => inputs.extend(credibility.over()),
        NodeKind::Entities(entities) => inputs.extend(entities.also_reads()),
        _ => {}
    }
    inputs.retain(|input| !input.is_absent());
    inputs
}

/// The envelope columns of the gate's rows.
pub fn gate_fields() -> Vec<Field> {
    let mut fields = vec![
        Field::new(columns::TICK, DataType::UInt64, false),
        Field::new(columns::OFFSET, DataType::UInt64, false),
        Field::new(columns::BASIS, columns::basis(), false),
        Field::new(columns::EVENT_TYPE, columns::dictionary(), false),
    ];
    fields.extend(columns::envelope_fields().into_iter().filter(|f| f.name() != columns::CONTEXT));
    fields.extend(context_columns().map(|name| Field::new(name, columns::dictionary(), true)));
    fields.push(Field::new(columns::PAYLOAD, DataType::Utf8, true));
    fields
}

/// The fields of a record's context that can be read as columns; its event type has a column of its own.
pub fn context_columns() -> impl Iterator<Item = &'static str> {
    CONTEXT.into_iter().filter(|place| *place != EVENT_TYPE).map(|place| FIELDS[place])
}

/// The column of a payload field: its name, or `payload_` and its name where the envelope has one like it.
pub fn payload_column(field: &str) -> String {
    let taken = gate_fields().iter().any(|f| f.name() == field);
    if taken { format!("payload_{field}") } else { field.to_owned() }
}

/// What every record of a mapped source carries.
pub fn context_of(run: &Context, event_type: &str, mapping: &crate::topology::EventMapping) -> Context {
    Context {
        event_type: event_type.to_owned(),
        schema_version: mapping.schema_version.clone(),
        producer: mapping.producer.clone(),
        ..run.clone()
    }
}

/// Used by sources to check their mapping against the gate.
pub(crate) fn judge_of(policy: &Arc<GatePolicy>, partitions: u16, bounds: TimeBounds) -> Judge {
    Judge::new(Arc::clone(policy), partitions, bounds)
}
