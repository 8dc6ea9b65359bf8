//! A checked plan: every node with its schema, its compiled expressions, and nothing left to go
//! wrong.
//!
//! Planning opens what the topology names (the policy, the bundles, the heads of the source files)
//! and type-checks every expression against the schema of its input. It is done twice: once against
//! all columns, which finds every fault and the columns that are read at all, and once against only
//! those, so that nothing travels through the graph that no node reads.

mod digest;
mod gate;
mod planner;
mod recorded;
pub mod sources;

use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use tidegate_facts::Digest;
use tidegate_operators::core::effective::Effective;
use tidegate_operators::gate::GatePolicy;

use crate::config::{Diagnostic, Diagnostics};
use crate::node::{NodeKind, OutputSpec, PlannedNode, TablePlan};
use crate::nodes::{KINDS, RENAMED_KINDS};
use crate::timeline_names::Retention;
use crate::topology::{Kinds, Override, Topology};

pub use self::gate::{context_columns, gate_fields, payload_column};
pub use self::planner::ERRORS_TABLE;
pub use self::recorded::RecordedPlanError;
pub use self::sources::SourcePlan;
pub use crate::node::plan_context::{RevisionText, Revisions};

/// The kinds of nodes that a plan reads its topology with.
pub const REGISTRY: Kinds = Kinds { all: KINDS, renamed: RENAMED_KINDS };

/// A checked plan: a topology that can run.
#[derive(Clone)]
pub struct Plan {
    /// The topology that it was planned from.
    pub topology: Topology,
    /// Its sources, in the order in which the gate reads them.
    pub sources: Vec<SourcePlan>,
    /// The gate's name.
    pub gate: String,
    /// The gate's policy: the topology's, and those that became effective later.
    pub policies: Effective<Arc<GatePolicy>>,
    /// The columns that the gate gives, whichever policy is effective.
    pub gate_schema: SchemaRef,
    /// The nodes behind the gate, each after its inputs.
    pub steps: Vec<Step>,
    /// BLAKE3 over [`Self::preimage`]: the settings that decide answers, the topology's own policy
    /// and bundles. Revisions that became effective later are facts, and do not change it.
    pub digest: Digest,
    /// The preimage of the digest: canonical JSON of all that decides answers.
    pub preimage: String,
}

/// A step of a plan: a planned node behind the gate.
#[derive(Clone)]
pub struct Step {
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: &'static dyn NodeKind,
    /// The nodes and ports in `input` or `inputs`.
    pub inputs: Vec<String>,
    /// Its own rows, then its ports.
    pub outputs: Vec<OutputSpec>,
    /// The planned node.
    pub node: Arc<dyn PlannedNode>,
}

impl Step {
    /// The nodes and ports that others can read of it, and the columns of each.
    pub fn gives(&self) -> impl Iterator<Item = (String, &SchemaRef)> {
        self.outputs.iter().map(|output| (self.output_name(output), &output.schema))
    }

    /// The name under which others read an output.
    pub fn output_name(&self, output: &OutputSpec) -> String {
        match output.port {
            None => self.name.clone(),
            Some(port) => format!("{}.{port}", self.name),
        }
    }

    /// The table that it commits, if it is a sink.
    pub fn table(&self) -> Option<&TablePlan> {
        self.node.table()
    }
}

impl Plan {
    /// Reads the topology in `file`, with `overrides` in place of its settings, and plans it.
    ///
    /// # Errors
    /// Every fault of the topology, its policy and its bundles.
    pub fn read(file: &Path, overrides: &[Override]) -> Result<Plan, Vec<Diagnostic>> {
        let (topology, diagnostics) = Topology::read(file, overrides, REGISTRY)?;
        Plan::new(topology, &Revisions::new(), diagnostics)
    }

    /// Plans a topology from its text. Paths in it are relative to the folder of `file`, which is
    /// not read.
    ///
    /// # Errors
    /// Every fault of the topology, its policy and its bundles.
    pub fn parse(file: &Path, text: String) -> Result<Plan, Vec<Diagnostic>> {
        let diagnostics = Diagnostics::new(file, &text);
        let topology = Topology::parse(file, text, &[], REGISTRY, &diagnostics)?;
        Plan::new(topology, &Revisions::new(), diagnostics)
    }

    /// Plans a topology whose bundles and policy were revised.
    ///
    /// # Errors
    /// Every fault of the topology, its policies and its bundles, of whichever revision.
    pub fn with_revisions(topology: Topology, revisions: &Revisions) -> Result<Plan, Vec<Diagnostic>> {
        let diagnostics = Diagnostics::new(&topology.file, &topology.text);
        Plan::new(topology, revisions, diagnostics)
    }

    fn new(
        topology: Topology,
        revisions: &Revisions,
        diagnostics: Rc<Diagnostics>,
    ) -> Result<Plan, Vec<Diagnostic>> {
        planner::plan(topology, revisions, &diagnostics)
    }

    /// The policy that records are judged by now.
    pub fn policy(&self) -> &Arc<GatePolicy> {
        self.policies.last()
    }

    /// The timelines that the graph retains, and which of their rows. The snapshots of a state are
    /// one.
    pub fn timelines(&self) -> BTreeMap<String, Retention> {
        self.steps.iter().flat_map(|step| step.node.timelines()).collect()
    }

    /// Whether some rows follow from time alone, so that time must pass in the log where no facts
    /// come.
    pub fn awaits_time(&self) -> bool {
        self.steps.iter().any(|step| step.node.awaits_time())
    }

    /// The columns of a node or port.
    ///
    /// # Panics
    /// When there is no such node behind the sources.
    pub fn schema_of(&self, node: &str) -> &SchemaRef {
        if node == self.gate {
            return &self.gate_schema;
        }
        let given = self.steps.iter().flat_map(Step::gives).find(|(name, _)| *name == node);
        given.unwrap_or_else(|| panic!("`{node}` is not a node that gives rows")).1
    }

    /// The names of the tables that a run of this plan commits, and the schema of each.
    pub fn tables(&self) -> Vec<(String, SchemaRef)> {
        let tables = self.steps.iter().filter_map(Step::table);
        let mut tables: Vec<(String, SchemaRef)> =
            tables.map(|table| (table.table.clone(), Arc::clone(&table.schema))).collect();
        tables.push((ERRORS_TABLE.to_owned(), tidegate_operators::core::expr::error_schema()));
        tables
    }

    /// The table that holds the rows of a node or port, if one does.
    pub fn table_of(&self, input: &str) -> Option<&TablePlan> {
        self.steps.iter().find(|step| step.table().is_some() && step.inputs[0] == input)?.table()
    }
}
