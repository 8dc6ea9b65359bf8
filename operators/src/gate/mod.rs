//! The gate: to come.
