//! The entity graphs of a plan, as the catalog of a store describes them to queries.

use tidegate_facts::Digest;
pub use tidegate_operators::identity::entities::port_schemas;
use tidegate_operators::identity::entities::{PORTS, graph_version};
use tidegate_sinks::graph_catalog::Graph;

use crate::commit::TableFormat;
use crate::node::TablePlan;
use crate::plan::Plan;

/// The entity graphs of a plan, each with the tables that hold all changes of its ports.
pub fn entity_graphs(plan: &Plan) -> Vec<Graph> {
    // A table of JSON lines has no types, and one without some columns not all changes.
    let table_of = |port: String| {
        let is_whole = |table: &&TablePlan| {
            table.format == TableFormat::Parquet
                && table.columns.len() == plan.schema_of(&port).fields().len()
        };
        plan.table_of(&port).filter(is_whole).map(|table| table.table.clone())
    };
    let graphs = plan.steps.iter().filter_map(|step| Some((&step.name, step.node.entity_kinds()?)));
    graphs
        .map(|(node, kinds)| {
            let [entities, links, components, sightings] =
                PORTS.map(|port| table_of(format!("{node}.{port}")));
            Graph {
                node: node.clone(),
                plan: plan.digest,
                partitions: plan.topology.partitions,
                kinds,
                entities,
                links,
                components,
                sightings,
            }
        })
        .collect()
}

/// The version of an entity graph after the facts that `basis` counts for each partition.
pub fn version(graph: &Graph, basis: &[i64]) -> Digest {
    graph_version(&graph.plan, basis)
}
