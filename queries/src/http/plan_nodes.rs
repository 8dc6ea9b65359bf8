//! The nodes of a plan that HTTP calls ask for: those that decide, those with features, and tables.

use std::sync::Arc;

use tidegate_dataflows::Plan;
use tidegate_dataflows::node::Summary;
use tidegate_dataflows::plan::Step;

/// The nodes that decide, in the order of the topology.
pub(super) fn decision_nodes(plan: &Plan) -> Vec<Arc<str>> {
    plan.steps.iter().filter(|step| decides(step)).map(|step| step.name.as_str().into()).collect()
}

/// The nodes whose features can be read by key, in the order of the topology.
pub(super) fn feature_nodes(plan: &Plan) -> Vec<&str> {
    let steps = plan.steps.iter().filter(|step| !step.node.feature_groups().is_empty());
    steps.map(|step| step.name.as_str()).collect()
}

/// The table that a node commits.
pub(super) fn table_of<'p>(plan: &'p Plan, node: &str) -> Option<&'p str> {
    let step = plan.steps.iter().find(|step| step.name == node)?;
    step.table().map(|table| table.table.as_str())
}

/// The node whose decisions a table holds: the nearest one upstream that decides.
pub(super) fn decision_node_of(plan: &Plan, table: &str) -> Option<String> {
    let commits = |step: &&Step| step.table().is_some_and(|plan| plan.table == table);
    let mut steps: Vec<&Step> = plan.steps.iter().filter(commits).collect();
    while let Some(step) = steps.pop() {
        if decides(step) {
            return Some(step.name.clone());
        }
        // An input is a node, or `node.port`.
        let is_input =
            |other: &&Step| step.inputs.iter().any(|input| input.split('.').next() == Some(&other.name));
        steps.extend(plan.steps.iter().filter(is_input));
    }
    None
}

fn decides(step: &Step) -> bool {
    matches!(step.node.summary(), Some(Summary::Decisions))
}
