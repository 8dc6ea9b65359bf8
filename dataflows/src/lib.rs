//! From a topology file to a running timely graph.
//!
//! The path of a topology: [`topology`] reads the file, [`plan`] checks and plans it against real
//! schemas, [`build`] turns the plan into a timely graph, and [`run`] feeds that graph from the
//! sources through the gate and the log. This is the only crate that knows operators and I/O both.

pub mod admission;
mod bounds;
pub mod build;
pub mod commit;
pub mod declaration;
pub mod features;
pub mod feed;
pub mod governance;
pub mod graph;
pub mod graphs;
pub mod histogram;
pub mod live;
mod memory;
pub mod output;
pub mod plan;
pub mod realtime;
pub mod reorder;
pub mod run;
pub mod settings;
mod shelf;
pub mod sources;
pub mod sql;
pub mod timelines;
pub mod topology;
pub mod watch;
pub mod workers;

pub use plan::Plan;
pub use settings::Fault;
pub use topology::Topology;
