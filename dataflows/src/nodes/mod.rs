//! Every kind of node: one file each, and one line in the registry.
//!
//! docs/guides/add-a-node-kind.md shows how a kind is added.

mod as_of;
mod copy_detection;
mod credibility;
mod decide;
mod drift;
mod entities;
mod expire;
mod filter;
mod gate;
mod linkage;
mod project;
mod quorum;
mod sample;
mod seal;
mod sink_jsonl;
mod sink_parquet;
mod sink_seal;
mod source_csv;
mod source_jsonl;
mod source_parquet;
pub(crate) mod source_recorded;
mod source_world;
mod union;
mod windows;

use crate::node::NodeKind;

/// The registry of nodes: every kind of node, in the order of the reference.
pub static KINDS: &[&dyn NodeKind] = &[
    &source_parquet::SourceParquet,
    &source_csv::SourceCsv,
    &source_jsonl::SourceJsonl,
    &source_world::SourceWorld,
    &gate::Gate,
    &filter::Filter,
    &project::Project,
    &sample::Sample,
    &union::Union,
    &windows::Windows,
    &as_of::AsOfKind,
    &expire::ExpireKind,
    &entities::EntitiesKind,
    &linkage::LinkageKind,
    &quorum::QuorumKind,
    &copy_detection::CopyDetectionKind,
    &drift::DriftKind,
    &credibility::CredibilityKind,
    &decide::Decide,
    &seal::Seal,
    &sink_parquet::SinkParquet,
    &sink_jsonl::SinkJsonl,
    &sink_seal::SinkSeal,
];

/// The kinds of nodes that were renamed, and their names in the registry now.
pub const RENAMED_KINDS: &[(&str, &str)] = &[("families", "copy_detection")];

/// The kind of node that the registry has under a name.
pub fn kind_of(name: &str) -> Option<&'static dyn NodeKind> {
    KINDS.iter().copied().find(|kind| kind.name() == name)
}
