//! The gate of control facts: validates the steps of revisions and backfills under a policy that is
//! built in.

use std::sync::Arc;

use tidegate_facts::control_fact;
use tidegate_operators::gate::{GatePolicy, TimeBounds, Validator};

/// The validator of the gate of control facts. All of them go to the first partition, so that they
/// are in one order.
pub(crate) fn control_validator() -> Validator {
    let policy = GatePolicy::parse(&control_fact::policy()).expect("the built-in policy has no fault");
    Validator::new(Arc::new(policy), 1, TimeBounds::TICKS)
}
