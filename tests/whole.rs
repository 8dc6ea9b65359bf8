//! What only the whole can show. One binary, because each would link DataFusion again.

mod harness;

mod archive;
mod backfill;
mod beats;
mod check;
mod corpora;
mod credibility;
mod determinism;
mod drift;
mod examples;
mod faults;
mod fusion;
mod graph;
mod handbook;
mod hostile;
mod live_tables;
mod policy;
mod revisions;
mod service;
mod telemetry;
mod verify;
