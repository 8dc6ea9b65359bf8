//! What is told of a plan's entity graphs to those who ask them by their tables.

use tidegate_facts::Digest;
pub use tidegate_operators::entities::port_schemas;
use tidegate_operators::entities::{PORTS, graph_version};
use tidegate_sinks::graphs::Graph;

use crate::plan::{Plan, StepKind};
use crate::topology::TableFormat;

/// The graphs of a plan, and the tables that hold all changes of their ports.
pub fn graphs(plan: &Plan) -> Vec<Graph> {
    let tables: Vec<(&str, &str)> = plan
        .steps
        .iter()
        .filter_map(|step| match &step.kind {
            // Lines of JSON have no types.
            StepKind::Table(table) if table.format == TableFormat::Parquet => {
                let is_whole = table.columns.len() == plan.schema_of(&step.inputs[0]).fields().len();
                is_whole.then_some((step.inputs[0].as_str(), table.table.as_str()))
            }
            _ => None,
        })
        .collect();
    let graphs = plan.steps.iter().filter_map(|step| match &step.kind {
        StepKind::Entities(entities) => Some((&step.name, &entities.entities.settings.kinds)),
        _ => None,
    });
    graphs
        .map(|(node, kinds)| {
            let [entities, links, components, sightings] = PORTS.map(|port| {
                let port = format!("{node}.{port}");
                tables.iter().find(|(input, _)| *input == port).map(|(_, table)| (*table).to_owned())
            });
            Graph {
                node: node.clone(),
                plan: plan.digest,
                partitions: plan.topology.partitions,
                kinds: kinds.iter().map(|kind| kind.name.clone()).collect(),
                entities,
                links,
                components,
                sightings,
            }
        })
        .collect()
}

/// The version of a graph once so many facts of each partition were applied.
pub fn version(graph: &Graph, basis: &[u64]) -> Digest {
    graph_version(&graph.plan, basis)
}
