//! Questions and answers: SQL over a data folder or a running topology, and the ports on which it is served.
//!
//! Start at [`Catalogue`]: it makes tables of the log and of the committed files, and of a graph that runs, and answers one
//! `SELECT` at a time. [`write()`] puts the answer into a [`Format`]. [`http`] and [`postgres`] serve it, and what is submitted
//! over HTTP goes to the gate. Nothing here changes a byte of the folder.

pub mod access;
mod blame;
mod bounds;
mod catalogue;
mod changelog;
mod committed;
mod error;
mod fair;
mod format;
mod functions;
mod graphs;
pub mod http;
mod json;
mod live;
mod log;
mod names;
mod peek;
pub mod postgres;
mod statements;
pub mod telemetry;
mod timelines;
pub mod traces;
mod version;

pub use bounds::SQL_BYTES_MAX;
pub use catalogue::{Answer, Catalogue, Table};
pub use error::QueryError;
pub use format::{Format, write};
pub use log::ReadError;
pub use statements::Statements;
