//! A Postgres wire protocol server over the tables of a data folder or a running topology,
//! read-only.
//!
//! psql, drivers and notebooks connect to it. [`serve`] accepts connections. The modules form
//! layers; from the top down:
//!
//! * `server` accepts connections and holds what they share;
//! * `handler` runs the messages of one client;
//! * `startup` authenticates a client; `portal` holds a statement that is bound to values and gives
//!   rows;
//! * `statement` parses, plans and runs a statement; `parameters` reads the values that a client
//!   binds, and `rewrite` translates Postgres notation into what DataFusion can plan;
//! * `catalogue` has the tables of `pg_catalog` and `information_schema` and the functions of
//!   Postgres;
//! * `encoding` writes rows, and `types` lists the types of Postgres;
//! * `connection` reads and writes messages, `session` holds the settings of a connection,
//!   `transaction` its transaction state, `limits` the limits of a running statement, and `error`
//!   its failures.
//!
//! The crate `pgwire` defines the format of messages. Nothing in this crate writes to a table.

mod bytea;
mod cancellation;
mod catalogue;
mod column_names;
mod connection;
mod cursors;
mod encoding;
mod error;
mod explain;
mod handler;
mod limits;
mod parameters;
mod portal;
mod rewrite;
mod server;
mod session;
mod startup;
mod statement;
mod time_formats;
mod transaction;
mod types;

pub use server::{Handlers, serve};
