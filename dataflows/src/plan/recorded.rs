//! Plans in a store: what a replay reads in place of the topology file.
//!
//! `plans/<digest>.json` is exactly the preimage of a plan digest. `plans/<digest>` beside it are
//! the texts of the policy and the bundles that the preimage names by the digest of their content.
//! A plan read back has the same digest, or is refused.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use serde_json::Value;
use tidegate_facts::Digest;
use tidegate_operators::decision::decide::BundleText;
use tidegate_operators::gate::GatePolicy;
use tidegate_sinks::plans::{PlanError, get_plan, get_text, put_plan, put_text, text_location};
use tidegate_sinks::store::{Store, StoreError};

use super::digest::{RECIPE, content_of, kind_and_version};
use super::{Plan, Revisions};
use crate::config::settings::toml_of;
use crate::config::{Diagnostic, Diagnostics};
use crate::node::{NodeKind, Role};
use crate::nodes::{KINDS, source_recorded::SourceRecorded};
use crate::topology::{Kinds, Override, Topology};

/// Why a recorded plan cannot be read from a store.
#[derive(Debug, thiserror::Error)]
pub enum RecordedPlanError {
    /// The store failed, or does not have an object.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The plan is missing, or does not have the digest in its name.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The plan was written by another version of this program.
    #[error("plan {digest} {what}; use the version of this program that wrote it")]
    OtherVersion {
        /// The plan's digest.
        digest: Digest,
        /// What this program does not have.
        what: String,
    },
    /// A text of the plan does not have the content that the plan names.
    #[error("`{object}` does not have the content that its name states; restore it from a copy")]
    Changed {
        /// The object's location.
        object: String,
    },
    /// The plan cannot be planned again.
    #[error("plan {digest} cannot be read: {}", faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Faults {
        /// The plan's digest.
        digest: Digest,
        /// What is wrong.
        faults: Vec<Diagnostic>,
    },
}

/// The kinds that a recorded plan is read with: the sources are one kind.
static RECORDED_KINDS: LazyLock<Vec<&'static dyn NodeKind>> = LazyLock::new(|| {
    let others = KINDS.iter().copied().filter(|kind| kind.role() != Role::Source);
    std::iter::once(&SourceRecorded as &dyn NodeKind).chain(others).collect()
});

impl Plan {
    /// Records the plan in a store, unless it is there already.
    ///
    /// # Errors
    /// When the store fails; [`StoreError::Conflict`] when a text there was changed.
    pub fn record(&self, store: &Store) -> Result<(), StoreError> {
        for (digest, kind, text) in self.recorded_texts() {
            match put_text(&digest, &text, store) {
                Err(conflict @ StoreError::Conflict { .. }) => match text_of(&digest, &kind, store) {
                    Ok(_) => {} // Another layout of the same content.
                    Err(
                        RecordedPlanError::Store(error) | RecordedPlanError::Plan(PlanError::Store(error)),
                    ) => {
                        return Err(error);
                    }
                    Err(_) => return Err(conflict),
                },
                recorded => recorded?,
            }
        }
        put_plan(&self.preimage, store).map(drop)
    }

    /// The texts of the policy and the bundles that the plan began with, and the digest of the
    /// content of each.
    fn recorded_texts(&self) -> Vec<(Digest, TextKind, Arc<str>)> {
        let text_of = |node: &str| {
            let path = self.topology.node(node)?.revisable()?.path();
            self.topology.files.get(&self.topology.path_of(path)).cloned()
        };
        let policy = (self.policies.first().rev().content_digest, TextKind::Policy, self.gate.as_str());
        let bundles = self.steps.iter().filter_map(|step| {
            Some((step.node.first_revision()?.digest, TextKind::Bundle, step.name.as_str()))
        });
        std::iter::once(policy)
            .chain(bundles)
            .filter_map(|(digest, kind, node)| Some((digest, kind, text_of(node)?)))
            .collect()
    }

    /// Reads a plan back from a store.
    ///
    /// Its sources have no transport: it can be replayed, verified and queried, and not run.
    /// `overrides` replace settings, as in [`Plan::read`]; without any, the plan has the digest
    /// that is asked for.
    ///
    /// # Errors
    /// When the plan is missing, was changed, or needs a kind or version that this program does not
    /// have.
    pub fn from_store(
        digest: &Digest,
        store: &Store,
        overrides: &[Override],
    ) -> Result<Plan, RecordedPlanError> {
        let preimage = get_plan(digest, store)?;
        let other_version = |what: String| RecordedPlanError::OtherVersion { digest: *digest, what };
        let recorded =
            content_of(&preimage).map_err(|error| other_version(format!("is not JSON ({error})")))?;
        if recorded["recipe"] != RECIPE {
            return Err(other_version(format!(
                "has the recipe {}, and this program reads {RECIPE}",
                recorded["recipe"]
            )));
        }
        let file = PathBuf::from(format!("plans/{digest}.json"));
        let (text, contents) = topology_of(&recorded).map_err(other_version)?;
        let mut files = BTreeMap::new();
        for (content, revisable) in contents {
            let text = text_of(&content, &revisable, store)?;
            files.insert(file.parent().unwrap_or(Path::new("")).join(content.to_hex()), text);
        }
        let diagnostics = Diagnostics::new(&file, &text);
        let kinds = Kinds { all: &RECORDED_KINDS, renamed: &[] };
        let faults = |faults| RecordedPlanError::Faults { digest: *digest, faults };
        let mut topology = Topology::parse(&file, text, overrides, kinds, &diagnostics).map_err(faults)?;
        topology.files = files;
        let plan = Plan::new(topology, &Revisions::new(), diagnostics).map_err(faults)?;
        if plan.digest == *digest || !overrides.is_empty() {
            Ok(plan)
        } else {
            Err(other_version(format!("is planned as {} by this program", plan.digest)))
        }
    }
}

/// What a text of a plan is, to compute the digest of its content.
enum TextKind {
    Bundle,
    Policy,
}

fn text_of(digest: &Digest, kind: &TextKind, store: &Store) -> Result<Arc<str>, RecordedPlanError> {
    let text = get_text(digest, store)?;
    let content = match kind {
        TextKind::Bundle => BundleText::parse(&text).ok().map(|bundle| bundle.digest()),
        TextKind::Policy => GatePolicy::parse(&text).ok().map(|policy| policy.rev().content_digest),
    };
    if content == Some(*digest) {
        Ok(text.into())
    } else {
        Err(RecordedPlanError::Changed { object: text_location(digest, store) })
    }
}

/// The topology that a preimage describes, as the text of a topology file, and the contents that it
/// names.
fn topology_of(recorded: &Value) -> Result<(String, Vec<(Digest, TextKind)>), String> {
    let mut out = String::new();
    let mut contents = Vec::new();
    for key in ["name", "clock", "partitions", "commit_rows", "commit_span"] {
        out += &format!("{key} = {}\n", toml_of(&recorded[key]));
    }
    out += &format!("governance = {{ four_eyes = {} }}\n", recorded["four_eyes"]);
    let mut run = recorded["run"].clone();
    if let Value::Object(run) = &mut run {
        run.remove("event_type");
    }
    out += &format!("run = {}\n", toml_of(&run));
    let policy = digest_of(&recorded["policy"]["content_digest"])?;
    for node in recorded["nodes"].as_array().into_iter().flatten() {
        let kind = node["kind"].as_str().unwrap_or_default();
        let Some(known) = RECORDED_KINDS.iter().find(|known| kind_and_version(**known) == kind) else {
            return Err(format!("has a node of kind `{kind}`, which this program does not have"));
        };
        out += &format!("[[node]]\nname = {}\nkind = {:?}\n", toml_of(&node["name"]), known.name());
        if known.role() != Role::Source {
            out += &format!("inputs = {}\n", toml_of(&node["inputs"]));
        }
        for (key, value) in node["settings"].as_object().into_iter().flatten() {
            out += &format!("{key} = {}\n", toml_of(value));
        }
        if known.role() == Role::Gate {
            out += &format!("policy = \"{}\"\n", policy.to_hex());
            contents.push((policy, TextKind::Policy));
        }
        if node.get("bundle").is_some() {
            let bundle = digest_of(&node["bundle"])?;
            out += &format!("bundle = \"{}\"\n", bundle.to_hex());
            contents.push((bundle, TextKind::Bundle));
        }
    }
    Ok((out, contents))
}

fn digest_of(value: &Value) -> Result<Digest, String> {
    serde_json::from_value(value.clone()).map_err(|error| format!("names no digest ({error})"))
}
