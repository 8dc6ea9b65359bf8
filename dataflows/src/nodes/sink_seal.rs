//! `sink.seal`: episodes committed as chained Parquet.

use crate::commit::TableFormat;
use crate::config::Section;
use crate::node::sink::{TABLE_SETTING, read_sink};
use crate::node::{Accepts, NodeKind, NodeSpec, ReadContext, Role, Setting};

/// The kind of node `sink.seal`.
pub struct SinkSeal;

impl NodeKind for SinkSeal {
    fn name(&self) -> &'static str {
        "sink.seal"
    }

    fn version(&self) -> u32 {
        1
    }

    fn role(&self) -> Role {
        Role::Sink
    }

    fn about(&self) -> &'static str {
        "Commits episodes to a table of Parquet files whose rows are chained: each partition of the table is a hash chain, and every commit signs the heads. It reads a node of kind `seal`."
    }

    fn accepts(&self) -> Accepts {
        Accepts::Facts
    }

    fn settings(&self) -> &'static [Setting] {
        &[TABLE_SETTING]
    }

    fn example(&self) -> &'static str {
        "name = \"decisions_table\"\nkind = \"sink.seal\"\ninput = \"episodes\"\ntable = \"decisions\"\n"
    }

    fn read(&self, section: &Section<'_>, _: &ReadContext<'_, '_>) -> Box<dyn NodeSpec> {
        read_sink(section, TableFormat::Sealed)
    }
}
