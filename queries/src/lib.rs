//! SQL over a data folder: what the gate admitted and refused, and what was committed.
//!
//! Start at [`Catalogue`]: it makes tables of the log and of the committed files, and answers one
//! `SELECT` at a time. [`write`] puts the answer into a [`Format`]. Nothing here changes a byte of
//! the folder.

mod blame;
mod catalogue;
mod committed;
mod error;
mod format;
mod log;
mod names;

pub use catalogue::{Catalogue, Table};
pub use error::QueryError;
pub use format::{Format, write};
pub use log::ReadError;
