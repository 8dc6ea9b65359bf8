//! Record linkage: finds records of one thing by comparing their fields, after Fellegi and Sunter.
//!
//! [`RecordMatcher`] is the state. It emits links, which an `entities` node can read as edges.

mod compare;
mod matcher;
mod normalize;
mod operator;

pub use compare::{Comparator, Comparison, FieldValue, SIMILARITY_MAX, similarity, weights};
pub use matcher::{MatchRules, RecordMatch, RecordMatcher};
pub use normalize::normalize;
pub use operator::{LinkageConfig, LinkageOperator, PORTS, block_column, compared_column};
