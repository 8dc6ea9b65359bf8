//! The nodes of a plan that HTTP calls ask for: those that decide, those with features, and tables.

use std::sync::Arc;

use arrow::datatypes::Schema;
use axum::http::StatusCode;
use tidegate_dataflows::Plan;
use tidegate_dataflows::node::Summary;
use tidegate_dataflows::plan::Step;
use tidegate_facts::columns;

use super::error::ApiError;

/// The column with the id of a decision; every table that has it, a tick and an event id holds
/// decisions.
pub(super) const DECISION_ID: &str = "decision_id";

/// The nodes that decide, in the order of the topology.
pub(super) fn decision_nodes(plan: &Plan) -> Vec<Arc<str>> {
    plan.steps.iter().filter(|step| decides(step)).map(|step| step.name.as_str().into()).collect()
}

/// The nodes whose decisions a call asks for: every node that decides, or the one it names.
pub(super) fn requested_nodes(plan: &Plan, node: Option<&str>) -> Result<Vec<Arc<str>>, ApiError> {
    let mut nodes = decision_nodes(plan);
    if let Some(node) = node {
        let Some(index) = nodes.iter().position(|known| **known == *node) else {
            let what = format!("no node `{node}` decides; those that do are {}", nodes.join(", "));
            return Err(ApiError::new(StatusCode::NOT_FOUND, what));
        };
        nodes = vec![nodes.swap_remove(index)];
    }
    Ok(nodes)
}

/// The nodes whose features can be read by key, in the order of the topology.
pub(super) fn feature_nodes(plan: &Plan) -> Vec<&str> {
    let steps = plan.steps.iter().filter(|step| !step.node.feature_groups().is_empty());
    steps.map(|step| step.name.as_str()).collect()
}

/// The operator or sink of this name among the nodes of a plan.
pub(super) fn step_of<'p>(plan: &'p Plan, node: &str) -> Option<&'p Step> {
    plan.steps.iter().find(|step| step.name == node)
}

/// Whether rows of this schema are decisions, with their facts.
pub(super) fn are_decisions(schema: &Schema) -> bool {
    let required = [columns::TICK, columns::EVENT_ID, DECISION_ID];
    required.iter().all(|name| schema.index_of(name).is_ok())
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

/// Whether a node of a plan decides.
pub(super) fn decides(step: &Step) -> bool {
    matches!(step.node.summary(), Some(Summary::Decisions))
}
