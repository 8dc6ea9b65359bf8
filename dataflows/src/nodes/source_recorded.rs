//! `source`: a source as a data folder records it, without the place that its records came from.

use crate::config::Section;
use crate::node::source::{EVENT_SETTINGS, Records, read_source};
use crate::node::{NodeKind, NodeSpec, ReadContext, Role, Setting};

/// The kind of node `source`, a recorded source. A plan that was read from a data folder has it in
/// place of every kind of source.
pub struct SourceRecorded;

impl NodeKind for SourceRecorded {
    fn name(&self) -> &'static str {
        "source"
    }

    fn version(&self) -> u32 {
        1
    }

    fn role(&self) -> Role {
        Role::Source
    }

    fn about(&self) -> &'static str {
        "A source as a data folder records it. A replay reads the log and opens no source."
    }

    fn settings(&self) -> &'static [Setting] {
        &EVENT_SETTINGS
    }

    fn example(&self) -> &'static str {
        "name = \"transactions\"\nkind = \"source\"\n"
    }

    fn read(&self, section: &Section<'_>, _: &ReadContext<'_, '_>) -> Box<dyn NodeSpec> {
        read_source(section, None, Records::Unknown)
    }
}
