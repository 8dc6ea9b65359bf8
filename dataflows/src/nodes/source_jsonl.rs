//! `source.jsonl`: JSON lines, as rows or as whole envelopes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use tidegate_sources::{JsonlSource, Source, SourceError};

use crate::config::Section;
use crate::node::settings::Default;
use crate::node::source::{
    Connector, OpenOptions, RENAMED, Records, read_path, read_source, with_event_settings,
};
use crate::node::{NodeKind, NodeSpec, ReadContext, Role, Setting};

/// The kind of node `source.jsonl`.
pub struct SourceJsonl;

const SETTINGS: &[Setting] = &with_event_settings::<2, 10>([
    Setting::wiring(
        "path",
        "path, or { same_as = NODE }",
        Default::Required,
        "The file or folder, relative to the topology; or the node whose path it shares.",
        ["\"a.jsonl\"", "\"b.jsonl\""],
    ),
    Setting::wiring(
        "columns",
        "list of texts",
        Default::Absent("lines are whole envelopes, and `event` must be absent"),
        "The keys of a line that become columns.",
        ["[\"id\"]", "[\"id\", \"time\"]"],
    ),
]);

impl NodeKind for SourceJsonl {
    fn name(&self) -> &'static str {
        "source.jsonl"
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
        "Reads lines of JSON (`.gz` and `.zst` too). Without `columns` and `event` each line is a whole envelope, \
         as it is sent over HTTP; with them, the keys of a line are columns of texts, and expressions make events of them."
    }

    fn settings(&self) -> &'static [Setting] {
        SETTINGS
    }

    fn renamed(&self) -> &'static [(&'static str, &'static str)] {
        RENAMED
    }

    fn example(&self) -> &'static str {
        "name = \"orders\"\nkind = \"source.jsonl\"\npath = \"orders.jsonl\"\ncolumns = [\"id\", \"time\", \"amount\"]\n\n\
         [event]\ntype = \"order.v1\"\nid = \"id\"\ntime = \"to_timestamp_micros(time)\"\n"
    }

    fn read(&self, section: &Section<'_>, cx: &ReadContext<'_, '_>) -> Box<dyn NodeSpec> {
        let before = section.diagnostics().count();
        let columns: Vec<String> = section.texts("columns").into_iter().map(|column| column.value).collect();
        let records = match columns.is_empty() {
            _ if section.diagnostics().count() > before => Records::Unknown,
            true => Records::Envelopes,
            false => Records::Rows,
        };
        let path = read_path(section, cx);
        let connector = path.map(|path| Arc::new(JsonLines { path, columns }) as Arc<dyn Connector>);
        read_source(section, connector, records)
    }
}

struct JsonLines {
    path: PathBuf,
    /// The keys that become columns; none when lines are envelopes.
    columns: Vec<String>,
}

impl JsonLines {
    fn source(&self, position: u64, rows: usize, bytes: usize) -> Result<JsonlSource, SourceError> {
        if self.columns.is_empty() {
            JsonlSource::envelopes(&self.path, position, rows, bytes)
        } else {
            JsonlSource::columns(&self.path, &self.columns, position, rows, bytes)
        }
    }
}

impl Connector for JsonLines {
    fn schema(&self, options: OpenOptions) -> Result<Option<SchemaRef>, SourceError> {
        Ok(self.source(0, 1, options.record_bytes_max)?.schema())
    }

    fn open(
        &self,
        _: Option<&[String]>,
        from_position: u64,
        options: OpenOptions,
    ) -> Result<Box<dyn Source>, SourceError> {
        Ok(Box::new(self.source(from_position, options.batch_rows, options.record_bytes_max)?))
    }

    fn path(&self) -> Option<&Path> {
        Some(&self.path)
    }
}
