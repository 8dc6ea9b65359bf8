//! From a plan to timely workers that run its graph.

pub mod graph;
pub mod workers;
