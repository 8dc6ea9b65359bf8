//! Who is who: identifiers that facts name together, and what is known of an event's component as of its tick (reference:
//! fraud platform 2.6).
//!
//! [`Graph`] is the state. One worker owns it, since a link may be between any two identifiers; the rows that are answered stay at
//! home, and only their identifiers travel. [`Entities`] says how a node names them, and what it answers.

mod due;
mod graph;
mod index;
mod state;
mod version;

pub use graph::{
    Changes, Component, ComponentChange, Confirmation, EntityChange, Graph, Kind, LinkChange, Name, Naming,
    Seen, Settings, Sighting, Ties, Wanted,
};
pub use state::{Entities, EntitiesState, Names, PORTS, port_schemas};
pub use version::{graph_version, graph_versions};
