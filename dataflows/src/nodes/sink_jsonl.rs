//! `sink.jsonl`: rows committed as lines of JSON.

use crate::commit::TableFormat;
use crate::config::Section;
use crate::node::sink::{COLUMNS_SETTING, TABLE_SETTING, read_sink};
use crate::node::{Accepts, NodeKind, NodeSpec, ReadContext, Role, Setting};

/// The kind of node `sink.jsonl`.
pub struct SinkJsonl;

impl NodeKind for SinkJsonl {
    fn name(&self) -> &'static str {
        "sink.jsonl"
    }

    fn version(&self) -> u32 {
        1
    }

    fn role(&self) -> Role {
        Role::Sink
    }

    fn about(&self) -> &'static str {
        "Commits rows to files with one JSON object in each line, one file for each partition and commit interval."
    }

    fn accepts(&self) -> Accepts {
        Accepts::Either
    }

    fn settings(&self) -> &'static [Setting] {
        &[TABLE_SETTING, COLUMNS_SETTING]
    }

    fn example(&self) -> &'static str {
        "name = \"features_lines\"\nkind = \"sink.jsonl\"\ninput = \"features\"\n"
    }

    fn read(&self, section: &Section<'_>, _: &ReadContext<'_, '_>) -> Box<dyn NodeSpec> {
        read_sink(section, TableFormat::Jsonl)
    }
}
