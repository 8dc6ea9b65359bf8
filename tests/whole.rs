//! Integration tests of the whole system. They form one binary, because each further binary would
//! link DataFusion again.

mod harness;

mod archive;
mod backfill;
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
mod heartbeats;
mod hostile;
mod live_tables;
mod policy;
mod revisions;
mod service;
mod telemetry;
mod verify;
