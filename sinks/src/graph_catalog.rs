//! The catalogue of entity graphs in a store: which tables have the changes of each graph. So a
//! store can be queried as graphs without its topology.
//!
//! The object `graphs/<node>.json` holds one [`Graph`]. A run creates it once it has checked that
//! the log belongs to its plan.

use serde::{Deserialize, Serialize};
use tidegate_facts::Digest;

use crate::store::{Store, StoreError};

/// One entity graph in the graph catalogue of a store: a node of kind `entities` and its tables.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Graph {
    /// The node.
    pub node: String,
    /// The digest of its plan, from which its versions are computed.
    pub plan: Digest,
    /// The number of partitions of the plan's facts.
    pub partitions: u16,
    /// The kinds of its identifiers.
    pub kinds: Vec<String>,
    /// The table with all changes of entities; `None` if no table has all of them.
    pub entities: Option<String>,
    /// The same for links.
    pub links: Option<String>,
    /// The same for components.
    pub components: Option<String>,
    /// The same for sightings.
    pub sightings: Option<String>,
}

/// Adds entity graphs to the graph catalogue of a store.
///
/// # Errors
/// [`StoreError::Conflict`] when the catalogue has another graph of the same name.
pub fn declare(graphs: &[Graph], store: &Store) -> Result<(), StoreError> {
    for graph in graphs {
        let text = serde_json::to_vec(graph).expect("texts and numbers are JSON");
        store.create(&format!("graphs/{}.json", graph.node), &text)?;
    }
    Ok(())
}

/// The entity graphs in the graph catalogue of a store, by name.
///
/// # Errors
/// When the store cannot be read. An object that is not a graph is left out.
pub fn read_declared(store: &Store) -> Result<Vec<Graph>, StoreError> {
    let mut graphs = Vec::new();
    for name in store.list("graphs")? {
        graphs.extend(serde_json::from_slice::<Graph>(&store.get(&name)?).ok());
    }
    Ok(graphs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_graph_is_known_by_its_node_and_stays_what_it_is() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(folder.path()).expect("a store");
        assert_eq!(read_declared(&store).expect("a store without graphs"), []);
        let graph = Graph {
            node: "cards".to_owned(),
            plan: Digest::of(b"plan"),
            partitions: 4,
            kinds: vec!["card".to_owned(), "device".to_owned()],
            entities: Some("entities".to_owned()),
            links: None,
            components: None,
            sightings: None,
        };
        for _ in 0..2 {
            declare(std::slice::from_ref(&graph), &store).expect("it is the same");
        }
        assert_eq!(read_declared(&store).expect("a graph"), std::slice::from_ref(&graph));
        let other = Graph { links: Some("links".to_owned()), ..graph };
        let refused = declare(&[other], &store);
        assert!(matches!(refused, Err(StoreError::Conflict { .. })), "{refused:?}");
    }
}
