//! What only the whole can show. One binary, because each would link DataFusion again.

mod harness;

mod archive;
mod backfill;
mod check;
mod corpora;
mod determinism;
mod faults;
mod handbook;
mod hostile;
mod policy;
mod service;
mod verify;
