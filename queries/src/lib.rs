//! SQL over a data folder or a running topology, and the HTTP service that answers it.
//!
//! Start at [`Catalogue`]: it makes tables of the log, of the committed files, and of a running
//! topology, and answers one `SELECT` at a time. [`write()`] writes the answer in a [`Format`].
//! [`http`] serves the catalogue, and passes submitted records to the gate. Nothing in this crate
//! writes to the data folder.
//!
//! The modules form layers, from the bottom up: errors and formats, the DataFusion session and its
//! limits, the tables, the catalogue, and the service.

pub mod access;
mod answer_format;
mod answer_writer;
mod bounded_functions;
mod catalogue;
mod changelog;
mod committed;
mod cooperative_yield;
mod damaged_file;
mod error;
mod graph_functions;
mod graph_version;
pub mod http;
pub mod json_rows;
mod live_session;
mod live_tables;
mod log_tables;
mod name_resolution;
mod point_lookup;
pub mod query_runtime;
mod session;
mod shutdown;
pub mod statement_limits;
pub mod telemetry;
mod timelines;
pub mod traces;

pub use answer_format::{Format, UnknownFormat};
pub use answer_writer::write;
pub use catalogue::{Answer, Catalogue, Table};
pub use error::QueryError;
pub use log_tables::error::ReadError;
pub use query_runtime::QueryRuntime;
pub use session::CATALOGUE;
pub use shutdown::shutdown_requested;
