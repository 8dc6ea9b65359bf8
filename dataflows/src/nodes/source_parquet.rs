//! `source.parquet`: the rows of a Parquet file, or of a folder of them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use tidegate_sources::{ParquetSource, Source, SourceError};

use crate::config::Section;
use crate::node::settings::Default;
use crate::node::source::{
    Connector, OpenOptions, RENAMED, Records, read_path, read_source, with_event_settings,
};
use crate::node::{NodeKind, NodeSpec, ReadContext, Role, Setting};

/// The kind of node `source.parquet`.
pub struct SourceParquet;

const SETTINGS: &[Setting] = &with_event_settings::<1, 9>([Setting::wiring(
    "path",
    "path, or { same_as = NODE }",
    Default::Required,
    "The file or folder, relative to the topology; or the node whose path it shares.",
    ["\"a.parquet\"", "\"b.parquet\""],
)]);

impl NodeKind for SourceParquet {
    fn name(&self) -> &'static str {
        "source.parquet"
    }

    fn digest_name(&self) -> &'static str {
        "source"
    }

    fn version(&self) -> u32 {
        1
    }

    fn role(&self) -> Role {
        Role::Source
    }

    fn about(&self) -> &'static str {
        "Reads the rows of a Parquet file, or of all files of a folder in the order of their names, and turns \
         each row into an event."
    }

    fn settings(&self) -> &'static [Setting] {
        SETTINGS
    }

    fn renamed(&self) -> &'static [(&'static str, &'static str)] {
        RENAMED
    }

    fn example(&self) -> &'static str {
        "name = \"transactions\"\nkind = \"source.parquet\"\npath = \"transactions.parquet\"\n\n[event]\n\
         type = \"card.transaction.v1\"\nid = \"concat('tx-', cast(id as text))\"\ntime = \"booked_at\"\n"
    }

    fn read(&self, section: &Section<'_>, cx: &ReadContext<'_, '_>) -> Box<dyn NodeSpec> {
        let path = read_path(section, cx);
        let connector = path.map(|path| Arc::new(ParquetFiles { path }) as Arc<dyn Connector>);
        read_source(section, connector, Records::Rows)
    }
}

struct ParquetFiles {
    path: PathBuf,
}

impl Connector for ParquetFiles {
    fn schema(&self, _: OpenOptions) -> Result<Option<SchemaRef>, SourceError> {
        Ok(Some(ParquetSource::open(&self.path, None, 0, 1)?.schema()))
    }

    fn open(
        &self,
        columns: Option<&[String]>,
        from_position: u64,
        options: OpenOptions,
    ) -> Result<Box<dyn Source>, SourceError> {
        Ok(Box::new(ParquetSource::open(&self.path, columns, from_position, options.batch_rows)?))
    }

    fn path(&self) -> Option<&Path> {
        Some(&self.path)
    }
}
