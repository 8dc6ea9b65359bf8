//! From a topology file to a running timely graph.
//!
//! The path of a topology: [`topology`] reads the file, [`plan`] checks and plans it against real
//! schemas, [`render`] turns the plan into a timely graph, and [`run`] feeds that graph from the
//! sources through the gate and the log. This is the only crate that knows operators and I/O both.
//!
//! Layers, bottom up; a module uses only modules of its own layer and of those below it:
//!
//! 1. [`config`], [`metrics`], [`thread_priority`], [`timeline_names`]
//! 2. [`revision_step`], then [`serve`]: what a running graph shares with the threads that answer
//!    calls
//! 3. [`commit`]: from the rows of a graph to published commits
//! 4. [`node`]: what a kind of node is
//! 5. [`topology`], [`diagram`], [`reference`]: a topology as its file writes it, and what is drawn
//!    and documented of it
//! 6. [`nodes`]: every kind of node, one file each, and the registry
//! 7. [`plan`]: the planner and the plan digest
//! 8. [`ingest`]: from records to groups of the log, and from those to the rows of a graph; beside
//!    it what can be known of a plan: [`entity_graphs`], [`timeline_tables`], [`feature_lookup`],
//!    [`backfill_declaration`]
//! 9. [`render`]: the graph and the workers that run it
//! 10. [`governance`]: revisions of rules and policies, read from the log and added to it
//! 11. [`run`]

pub mod backfill_declaration;
pub mod commit;
pub mod config;
pub mod diagram;
pub mod entity_graphs;
pub mod feature_lookup;
pub mod governance;
pub mod ingest;
pub mod metrics;
pub mod node;
pub mod nodes;
pub mod plan;
pub mod reference;
pub mod render;
pub mod revision_step;
pub mod run;
pub mod serve;
pub mod thread_priority;
pub mod timeline_names;
pub mod timeline_tables;
pub mod topology;

pub use config::Diagnostic;
pub use plan::Plan;
pub use topology::Topology;
