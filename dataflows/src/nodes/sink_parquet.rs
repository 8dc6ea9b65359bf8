//! `sink.parquet`: rows committed as Parquet.

use crate::commit::TableFormat;
use crate::config::Section;
use crate::node::sink::{COLUMNS_SETTING, TABLE_SETTING, read_sink};
use crate::node::{Accepts, NodeKind, NodeSpec, ReadContext, Role, Setting};

/// The kind of node `sink.parquet`.
pub struct SinkParquet;

impl NodeKind for SinkParquet {
    fn name(&self) -> &'static str {
        "sink.parquet"
    }

    fn version(&self) -> u32 {
        1
    }

    fn role(&self) -> Role {
        Role::Sink
    }

    fn about(&self) -> &'static str {
        "Commits rows to a table of Parquet files, one file for each partition and commit interval. SQL reads the table while the topology runs and afterwards."
    }

    fn accepts(&self) -> Accepts {
        Accepts::Either
    }

    fn settings(&self) -> &'static [Setting] {
        &[TABLE_SETTING, COLUMNS_SETTING]
    }

    fn example(&self) -> &'static str {
        "name = \"features_table\"\nkind = \"sink.parquet\"\ninput = \"features\"\ntable = \"features\"\n"
    }

    fn read(&self, section: &Section<'_>, _: &ReadContext<'_, '_>) -> Box<dyn NodeSpec> {
        read_sink(section, TableFormat::Parquet)
    }
}
