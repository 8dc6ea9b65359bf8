//! `gate`: the admission of records into the log.

use crate::config::{Section, Spanned};
use crate::node::settings::Default;
use crate::node::{NodeKind, NodeSpec, PlanContext, PlannedNode, ReadContext, Revisable, Role, Setting};

/// The kind of node `gate`.
pub struct Gate;

const SETTINGS: &[Setting] = &[Setting::wiring(
    "policy",
    "path",
    Default::Required,
    "The policy file, relative to the topology. The plan digest covers the content of the policy and not the path.",
    ["\"policies/card-gate.toml\"", "\"policies/other-gate.toml\""],
)];

impl NodeKind for Gate {
    fn name(&self) -> &'static str {
        "gate"
    }

    fn version(&self) -> u32 {
        1
    }

    fn role(&self) -> Role {
        Role::Gate
    }

    fn about(&self) -> &'static str {
        "Admits records into the log: it checks each record against the policy, keeps duplicates out, stamps a \
         tick, and gives one receipt for every record: admitted, duplicate, or quarantined with its bytes and the \
         reason. At equal event times the sources are read in the order of `inputs`; `inputs = []` when records \
         come over HTTP alone. A topology has one gate."
    }

    fn reads_several(&self) -> bool {
        true
    }

    fn settings(&self) -> &'static [Setting] {
        SETTINGS
    }

    fn example(&self) -> &'static str {
        "name = \"admitted\"\nkind = \"gate\"\ninputs = [\"labels\", \"transactions\"]\npolicy = \"policies/card-gate.toml\"\n"
    }

    fn read(&self, section: &Section<'_>, _: &ReadContext<'_, '_>) -> Box<dyn NodeSpec> {
        Box::new(Spec { policy: section.required_text("policy", "the path of its policy file") })
    }
}

struct Spec {
    policy: Spanned,
}

impl NodeSpec for Spec {
    fn revisable(&self) -> Option<Revisable<'_>> {
        Some(Revisable::Policy(&self.policy))
    }

    fn plan(&self, _: &mut PlanContext<'_>) -> Option<Box<dyn PlannedNode>> {
        None // The planner plans the gate itself: every other node needs its columns.
    }
}
