//! Who is who: identifiers that facts name together, and what is known of an event's component as of its tick.
//!
//! [`Graph`] is the state and says what changes when; one worker owns it, since a link may be between any two identifiers.

mod due;
mod graph;
mod index;

pub use graph::{
    Changes, Component, ComponentChange, Confirmation, EntityChange, Graph, Kind, LinkChange, Name, Naming,
    Settings, Sighting, Ties, View, Wanted,
};
