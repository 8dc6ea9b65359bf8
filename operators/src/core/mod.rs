//! Building blocks of all operators: rows, keys, expressions, and the drivers of stateful
//! operators.
//!
//! This layer uses Arrow, timely and `tidegate-facts`, and no other module of the crate.

pub mod blank_to_null;
pub mod column_appender;
pub mod effective;
pub mod expr;
pub mod interner;
pub mod join_answers;
pub mod keys;
pub mod map_rows;
pub mod row_encoding;
pub mod row_layout;
pub mod rows;
pub mod snapshotting;
#[cfg(test)]
pub(crate) mod testing;
pub mod tick_ordered;
