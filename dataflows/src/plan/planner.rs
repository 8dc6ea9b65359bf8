//! Plans the nodes of a topology in the order in which they read each other.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use tidegate_facts::suggest::did_you_mean;
use tidegate_facts::{columns, control_fact};
use tidegate_operators::core::effective::Effective;
use tidegate_operators::gate::GatePolicy;

use super::digest::{plan_digest, preimage};
use super::gate::{gate_schema, plan_policies};
use super::sources::plan_source;
use super::{Plan, Revisions, SourcePlan, Step};
use crate::config::{Diagnostic, Diagnostics, Expressions, Spanned};
use crate::node::plan_context::{GraphSoFar, PlanContext, TopologyFiles, accepted, node_of_input};
use crate::node::{ColumnSet, InputSchemas, NodeKind, PlannedNode, Role};
use crate::serve::INGRESS;
use crate::topology::{Node, Topology};

/// The name of the table that the planner reserves for rows on which expressions failed.
pub const ERRORS_TABLE: &str = "errors";

/// Tables that every folder or service has, whose names no sink may take.
const RESERVED_TABLES: [&str; 6] =
    [ERRORS_TABLE, "facts", "receipts", "quarantine", "governance", "frontier"];

/// Names that receipts give as a source although no source has them, and which receipts do.
const RESERVED_SOURCES: [(&str, &str); 2] = [
    (control_fact::SOURCE, "receipts of policy changes are"),
    (INGRESS, "receipts of records that callers submit are"),
];

/// Plans a topology that has no fault, not even among those that were collected before.
pub(super) fn plan(
    mut topology: Topology,
    revisions: &Revisions,
    diagnostics: &Rc<Diagnostics>,
) -> Result<Plan, Vec<Diagnostic>> {
    let file = topology.file.clone();
    let files = TopologyFiles::new(&file, topology.files.clone());
    let planner = Planner {
        topology: &topology,
        revisions,
        diagnostics,
        expressions: Expressions::default(),
        files: &files,
    };
    let whole = planner.complete(None)?;
    let read = gate_columns_read(&whole);
    let Draft { sources, gate, policies, graph, steps } = planner.complete(Some(&read))?;
    let gate_schema = Arc::clone(&graph.schemas[&gate]);
    let policies = policies.expect("a missing policy is a fault");
    let preimage = preimage(&topology, policies.first(), &steps);
    let digest = plan_digest(&preimage);
    topology.files = files.into_texts();
    Ok(Plan { topology, sources, gate, policies, gate_schema, steps, digest, preimage })
}

/// A plan in the making, as far as faults let it come.
struct Draft {
    sources: Vec<SourcePlan>,
    /// The gate's name; empty when there is no gate.
    gate: String,
    policies: Option<Effective<Arc<GatePolicy>>>,
    graph: GraphSoFar,
    steps: Vec<Step>,
}

struct Planner<'t> {
    topology: &'t Topology,
    revisions: &'t Revisions,
    diagnostics: &'t Rc<Diagnostics>,
    expressions: Expressions,
    files: &'t TopologyFiles<'t>,
}

impl<'t> Planner<'t> {
    /// The plan of every node, with only the gate columns in `read`.
    ///
    /// # Errors
    /// Every fault so far.
    fn complete(&self, read: Option<&ColumnSet>) -> Result<Draft, Vec<Diagnostic>> {
        let draft = self.plan(read);
        if self.diagnostics.count() == 0 {
            self.refuse_unplanned(&draft);
        }
        let found = self.diagnostics.take();
        if found.is_empty() { Ok(draft) } else { Err(found) }
    }

    /// Adds a fault for each node that is not planned although neither it nor its inputs have one.
    ///
    /// A kind adds a fault wherever it plans nothing. This is the fault of a kind that does not.
    fn refuse_unplanned(&self, draft: &Draft) {
        let is_planned = |node: &Node| match node.role() {
            Some(Role::Source) => {
                let source = node.spec.as_ref().and_then(|spec| spec.source());
                // The plan of a data folder does not record the transport of its sources.
                let has_no_transport = source.is_some_and(|source| source.connector.is_none());
                has_no_transport || draft.sources.iter().any(|source| source.name == node.name)
            }
            Some(Role::Gate) => draft.policies.is_some(),
            Some(Role::Operator | Role::Sink) => draft.steps.iter().any(|step| step.name == node.name),
            None => false,
        };
        for node in &self.topology.nodes {
            let mut inputs = node.all_inputs().into_iter();
            let reads_unplanned = inputs.any(|input| {
                let read = self.topology.node(node_of_input(&input.value));
                read.is_some_and(|read| !is_planned(read))
            });
            if !is_planned(node) && !reads_unplanned {
                let what = format!(
                    "{} cannot be planned, and its kind does not say why; this is a defect of kind `{}`: report \
                     it together with this topology",
                    node.called("node"),
                    node.kind_name()
                );
                self.fault(node.line, what);
            }
        }
    }

    /// The plan as far as its faults let it come, with only the gate columns in `read`.
    fn plan(&self, read: Option<&ColumnSet>) -> Draft {
        let nodes = &self.topology.nodes;
        let gates: Vec<&Node> = nodes.iter().filter(|node| node.role() == Some(Role::Gate)).collect();
        let has_unknown = nodes.iter().any(|node| node.kind.is_none());
        if gates.len() > 1 || (gates.is_empty() && !has_unknown) {
            let line = gates.get(1).map_or(1, |second| second.line);
            self.fault(line, format!("a topology has one gate, and this one has {}; every source leads to it, and everything else follows from it", gates.len()));
        }
        if !has_unknown && !nodes.iter().any(|node| node.role() == Some(Role::Sink)) {
            let line = gates.first().map_or(1, |gate| gate.line);
            self.fault(line, "nothing would be stored: add a node of kind `sink.parquet` or `sink.jsonl`");
        }
        self.check_table_names();
        let gate = gates.first().copied();
        let policies =
            gate.and_then(|gate| plan_policies(gate, self.files, self.revisions, self.diagnostics));
        let mut graph = GraphSoFar::default();
        for node in nodes {
            graph.read.extend(node.all_inputs().into_iter().map(|input| input.value.clone()));
            if let Some(spec) = &node.spec {
                graph.capabilities.insert(node.name.clone(), spec.capabilities());
            }
        }
        let gate_inputs = gates.iter().flat_map(|gate| &gate.inputs);
        let mut draft = Draft {
            sources: self.sources(gate, gate_inputs, policies.as_ref().map(Effective::last)),
            gate: gate.map(|gate| gate.name.clone()).unwrap_or_default(),
            policies,
            graph,
            steps: Vec::new(),
        };
        if let (Some(gate), Some(policies)) = (gate, &draft.policies) {
            let schema = gate_schema(gate, policies.first(), read, self.diagnostics);
            draft.graph.schemas.insert(gate.name.clone(), schema);
        }
        for node in self.in_order(gate) {
            let step = self.step(node, &draft);
            if let Some(schema) = self.own_schema(node, step.as_ref(), &draft) {
                draft.graph.schemas.insert(node.name.clone(), schema);
            }
            if let Some(step) = &step {
                let ports = step.outputs.iter().filter(|output| output.port.is_some());
                let ports = ports.map(|output| (step.output_name(output), Arc::clone(&output.schema)));
                draft.graph.schemas.extend(ports);
            }
            draft.steps.extend(step);
        }
        draft
    }

    fn fault(&self, line: u32, message: impl Into<String>) {
        self.diagnostics.add(line, message);
    }

    /// The columns that a node gives, as far as its faults let them be known.
    fn own_schema(&self, node: &Node, step: Option<&Step>, draft: &Draft) -> Option<SchemaRef> {
        if self.topology.nodes.iter().filter(|other| other.name == node.name).count() > 1 {
            return None; // It is not known which of them is meant.
        }
        let input = draft.graph.schemas.get(&node.inputs.first()?.value);
        if let Some(schema) = input.and_then(|input| node.spec.as_ref()?.schema_despite_faults(input)) {
            return Some(schema);
        }
        if node.has_faults {
            return None;
        }
        step?.outputs.first().map(|own| Arc::clone(&own.schema))
    }

    /// The sources in the order in which the gate reads them; all sources are checked. `read` is
    /// what any gate reads.
    fn sources<'n>(
        &self,
        gate: Option<&Node>,
        read: impl Iterator<Item = &'n Spanned>,
        policy: Option<&Arc<GatePolicy>>,
    ) -> Vec<SourcePlan> {
        let read: BTreeSet<&str> = read.map(|input| input.value.as_str()).collect();
        let mut planned: BTreeMap<&str, Option<SourcePlan>> = BTreeMap::new();
        for node in self.topology.nodes.iter().filter(|node| node.role() == Some(Role::Source)) {
            if let Some((name, what)) = RESERVED_SOURCES.iter().find(|(name, _)| *name == node.name) {
                let what = format!("no source can be called `{name}`: {what}; give it another name");
                self.fault(node.line, what);
            }
            // A gate without `inputs` has a fault already. `inputs = []` is none by itself.
            if let Some(gate) = gate.filter(|gate| !(read.is_empty() && gate.has_faults))
                && !read.contains(node.name.as_str())
            {
                let what = format!(
                    "{} leads nowhere; add it to the `inputs` of gate `{}`",
                    node.called("source"),
                    gate.name
                );
                self.fault(node.line, what);
            }
            let plan = plan_source(node, self.topology, policy, &self.expressions, self.diagnostics);
            planned.insert(&node.name, plan);
        }
        let inputs: &[Spanned] = gate.map_or(&[], |gate| &gate.inputs);
        for (index, input) in inputs.iter().enumerate().filter(|(_, input)| !input.is_absent()) {
            let is_repeated = inputs[..index].iter().any(|other| other.value == input.value);
            match self.topology.node(&input.value).map(Node::role) {
                None => self.unknown_node(input),
                Some(Some(Role::Source)) if is_repeated => {
                    self.fault(input.line, format!("the gate reads `{}` twice; name it once", input.value));
                }
                Some(None | Some(Role::Source)) => {}
                Some(_) => self.fault(
                    input.line,
                    format!(
                        "the gate reads `{}`, which is not a source; only records from sources pass the gate",
                        input.value
                    ),
                ),
            }
        }
        inputs.iter().filter_map(|input| planned.remove(input.value.as_str())?).collect()
    }

    fn unknown_node(&self, name: &Spanned) {
        let names = self.topology.nodes.iter().map(|node| node.name.as_str());
        let existing: Vec<&str> = names.filter(|name| !name.is_empty()).collect();
        let mend = did_you_mean(&name.value, &existing);
        self.fault(name.line, format!("no node is named `{}`; {mend}", name.value));
    }

    /// The nodes behind the gate, each after its inputs.
    fn in_order(&self, gate: Option<&Node>) -> Vec<&'t Node> {
        let is_behind = |node: &&Node| matches!(node.role(), Some(Role::Operator | Role::Sink));
        let mut left: Vec<&Node> = self.topology.nodes.iter().filter(is_behind).collect();
        let mut ordered: Vec<&Node> = Vec::new();
        for (node, input) in
            left.iter().flat_map(|node| node.all_inputs().into_iter().map(move |i| (node, i)))
        {
            let Some(read) = self.topology.node(node_of_input(&input.value)) else {
                self.unknown_node(input);
                continue;
            };
            match read.role() {
                Some(Role::Source) => {
                    let gate = gate.map_or("it".to_owned(), |gate| format!("`{}`", gate.name));
                    let what =
                        format!("`{}` is a source, which only the gate can read; read {gate}", input.value);
                    self.fault(input.line, what);
                }
                // A sink that reads itself is a cycle.
                Some(Role::Sink) if read.name != node.name => {
                    let own = read.inputs.first().filter(|own| !own.is_absent());
                    let own = own.map_or("its input".to_owned(), |own| format!("its input `{}`", own.value));
                    let what =
                        format!("`{}` is a sink, which no node can read; read {own} instead", read.name);
                    self.fault(input.line, what);
                }
                _ => {}
            }
        }
        loop {
            let is_ready = |node: &Node| {
                node.all_inputs().iter().all(|input| {
                    let name = node_of_input(&input.value);
                    ordered.iter().any(|other| other.name == name)
                        || !left.iter().any(|other| other.name == name)
                })
            };
            let Some(index) = left.iter().position(|node| is_ready(node)) else { break };
            ordered.push(left.remove(index));
        }
        for node in left {
            let what =
                format!("node `{}` reads its own output, by way of its inputs; break the cycle", node.name);
            self.fault(node.line, what);
        }
        ordered
    }

    fn step(&self, node: &Node, draft: &Draft) -> Option<Step> {
        let (kind, spec) = (node.kind?, node.spec.as_ref()?);
        let (_, more) = node.inputs.split_first()?; // That it has none is a fault already.
        if let (Some(second), false) = (more.first(), kind.reads_several()) {
            let what = format!(
                "{} reads one input; bring several together with a `union` before it",
                node.called("node")
            );
            self.fault(second.line, what);
        }
        let is_accepted = self.check_inputs(node, kind, draft);
        let mut cx = PlanContext {
            name: &node.name,
            line: node.line,
            inputs: &node.inputs,
            graph: &draft.graph,
            diagnostics: self.diagnostics,
            expressions: &self.expressions,
            files: self.files,
            revisions: self.revisions,
            policies: draft.policies.as_ref(),
        };
        let planned = spec.plan(&mut cx);
        let planned: Arc<dyn PlannedNode> = planned.filter(|_| is_accepted)?.into();
        let outputs = planned.outputs();
        for output in &outputs {
            self.reject_duplicate_columns(node, &output.schema);
        }
        let inputs = node.inputs.iter().map(|input| input.value.clone()).collect();
        Some(Step { name: node.name.clone(), kind, inputs, outputs, node: planned })
    }

    /// Checks every input of a node: that its port exists, and that it gives what the node accepts.
    fn check_inputs(&self, node: &Node, kind: &dyn NodeKind, draft: &Draft) -> bool {
        let further = node.spec.iter().flat_map(|spec| spec.inputs());
        let further = further.map(|input| (input.node, input.accepts));
        let own = node.inputs.iter().map(|input| (input, kind.accepts()));
        let mut is_accepted = true;
        for (input, accepts) in own.chain(further).filter(|(input, _)| !input.is_absent()) {
            self.check_port(input, draft);
            let Some(schema) = draft.graph.schemas.get(&input.value) else { continue };
            if let Err(what) = accepted(accepts, schema, &node.called("node"), &input.value) {
                self.fault(input.line, what);
                is_accepted = false;
            }
        }
        is_accepted
    }

    /// Adds a fault when a node that could be planned has no port of this name.
    fn check_port(&self, input: &Spanned, draft: &Draft) {
        let node = node_of_input(&input.value);
        let schemas = &draft.graph.schemas;
        if !schemas.contains_key(node) || schemas.contains_key(&input.value) {
            return;
        }
        let step = draft.steps.iter().find(|step| step.name == node);
        let ports: Vec<String> = step
            .iter()
            .flat_map(|step| step.outputs.iter().skip(1).map(|output| step.output_name(output)))
            .collect();
        let ports: Vec<&str> = ports.iter().map(String::as_str).collect();
        let mend =
            if ports.is_empty() { format!("read `{node}`") } else { did_you_mean(&input.value, &ports) };
        self.fault(input.line, format!("node `{node}` has no port `{}`; {mend}", input.value));
    }

    fn reject_duplicate_columns(&self, node: &Node, schema: &Schema) {
        let mut seen = BTreeSet::new();
        for field in schema.fields() {
            if !seen.insert(field.name()) {
                let what = format!(
                    "{} gives two columns named `{}`; give one of them another name, or drop the input's with a \
                     `project` before",
                    node.called("node"),
                    field.name()
                );
                self.fault(node.line, what);
            }
        }
    }

    /// Checks that every table has a name of its own.
    fn check_table_names(&self) {
        let mut taken: BTreeSet<String> = RESERVED_TABLES.map(str::to_owned).into();
        for node in &self.topology.nodes {
            let Some(name) = node.spec.as_ref().and_then(|spec| spec.table()) else { continue };
            if name.is_absent() {
                continue;
            }
            let is_plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
            if !name.value.bytes().all(is_plain) {
                let what =
                    format!("`{}` cannot name a table; use lower-case letters, digits and `_`", name.value);
                self.fault(name.line, what);
            }
            if name.value.starts_with("pg_") {
                let what = format!(
                    "`{}` begins with `pg_`, as the tables of the Postgres catalogue do; give `table` of {} another name",
                    name.value,
                    node.called("node")
                );
                self.fault(name.line, what);
            }
            // A changelog is also served whole, under its name with a suffix.
            let is_new = taken.insert(name.value.clone());
            taken.insert(format!("{}_changes", name.value));
            if !is_new {
                let what = format!(
                    "there is a table named `{}` already; give `table` of {} another name",
                    name.value,
                    node.called("node")
                );
                self.fault(name.line, what);
            }
        }
    }
}

/// The gate's columns that any node reads.
fn gate_columns_read(draft: &Draft) -> ColumnSet {
    // Backwards from the sinks: the columns of each node and port that later nodes read.
    let mut read: BTreeMap<String, ColumnSet> = BTreeMap::new();
    for step in draft.steps.iter().rev() {
        let outputs = step.outputs.iter().map(|output| step.output_name(output));
        let wanted: Vec<ColumnSet> = outputs.map(|output| read.remove(&output).unwrap_or_default()).collect();
        let inputs = InputSchemas { names: &step.inputs, schemas: &draft.graph.schemas };
        for (output, columns) in step.node.reads(&wanted, &inputs) {
            read.entry(output).or_default().extend(columns);
        }
    }
    let mut read = read.remove(&draft.gate).unwrap_or_default();
    read.insert(columns::TICK.to_owned());
    read
}
