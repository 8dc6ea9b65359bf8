//! What every layer of this crate reads settings and expressions with.
//!
//! [`settings`] reads TOML so that every fault is found at once, with its line; [`expressions`]
//! plans the SQL expressions of a topology.

pub mod expressions;
pub mod settings;

pub use expressions::{Expressions, PlannedExpr};
pub use settings::{Diagnostic, Diagnostics, Section, Spanned};
