//! The entity graphs of a store, and which tables hold what of them, so that who has the store alone can ask them.
//!
//! `graphs/<node>.json` holds one [`Graph`]. It is created by a run, once it knows the log as its plan's.

use serde::{Deserialize, Serialize};
use tidegate_facts::Digest;

use crate::store::{Store, StoreError};

/// One node of kind `entities`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Graph {
    /// The node.
    pub node: String,
    /// The plan that it is of, which its versions are digests of.
    pub plan: Digest,
    /// How many partitions the plan's facts have.
    pub partitions: u16,
    /// The kinds of its identifiers.
    pub kinds: Vec<String>,
    /// The table of all changes of each port; `None` where none holds them all.
    pub entities: Option<String>,
    /// Of the links.
    pub links: Option<String>,
    /// Of the components.
    pub components: Option<String>,
    /// Of the sightings.
    pub sightings: Option<String>,
}

/// Makes the graphs known.
///
/// # Errors
/// [`StoreError::Conflict`] when another graph of the same name is there.
pub fn declare(graphs: &[Graph], store: &Store) -> Result<(), StoreError> {
    for graph in graphs {
        let text = serde_json::to_vec(graph).expect("texts and numbers are JSON");
        store.create(&format!("graphs/{}.json", graph.node), &text)?;
    }
    Ok(())
}

/// The graphs that were made known, by name.
///
/// # Errors
/// When the store cannot be read. What is no graph is left out.
pub fn declared(store: &Store) -> Result<Vec<Graph>, StoreError> {
    let mut graphs = Vec::new();
    for name in store.list("graphs")? {
        graphs.extend(serde_json::from_slice::<Graph>(&store.read(&name)?).ok());
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
        assert_eq!(declared(&store).expect("a store without graphs"), []);
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
        assert_eq!(declared(&store).expect("a graph"), std::slice::from_ref(&graph));
        let other = Graph { links: Some("links".to_owned()), ..graph };
        let refused = declare(&[other], &store);
        assert!(matches!(refused, Err(StoreError::Conflict { .. })), "{refused:?}");
    }
}
