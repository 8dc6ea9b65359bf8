//! Entity graph: identifiers that facts name together, and the component of an event as of its tick
//! (reference: fraud platform 2.6).
//!
//! [`EntityGraph`] is the state. One worker owns it, since any two identifiers may be linked. The
//! rows that the node answers stay on their workers; only their identifiers travel to the graph.
//! [`EntitiesConfig`] states how a node's inputs name identifiers and what it answers.

mod expiry_queue;
mod graph;
mod index;
mod operator;
mod version;

pub use graph::{
    Component, ComponentChange, Confirmation, DailySighting, EntityChange, EntityGraph, EntityGraphConfig,
    EntityKind, EntityName, GraphChanges, IdentifierColumns, LinkChange, LinkCounts, RequestedChanges,
    Sighting,
};
pub use operator::{
    EntitiesConfig, EntitiesOperator, IS_POSITIVE_COLUMN, PORTS, RowIdentifiers, SUBJECT_COLUMN,
    UNLINK_COLUMN, identifier_column, port_schemas,
};
pub use version::{graph_version, graph_versions};
