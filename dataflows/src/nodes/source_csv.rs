//! `source.csv`: the rows of a CSV file, or of a folder of them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use tidegate_sources::{CsvOptions, CsvSource, Source, SourceError};

use crate::config::Section;
use crate::node::settings::Default;
use crate::node::source::{
    Connector, OpenOptions, RENAMED, Records, read_path, read_source, with_event_settings,
};
use crate::node::{NodeKind, NodeSpec, ReadContext, Role, Setting};

/// The kind of node `source.csv`.
pub struct SourceCsv;

const SETTINGS: &[Setting] = &with_event_settings::<2, 10>([
    Setting::wiring(
        "path",
        "path, or { same_as = NODE }",
        Default::Required,
        "The file or folder, relative to the topology; or the node whose path it shares.",
        ["\"a.csv\"", "\"b.csv\""],
    ),
    Setting::wiring(
        "delimiter",
        "one ASCII character",
        Default::Value("\",\""),
        "What separates the fields of a line.",
        ["\";\"", "\"|\""],
    ),
]);

impl NodeKind for SourceCsv {
    fn name(&self) -> &'static str {
        "source.csv"
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
        "Reads the rows of a CSV file with a header (`.gz` and `.zst` too), or of all files of a folder in the \
         order of their names. Every column is a text; the expressions of `event` cast what is something else."
    }

    fn settings(&self) -> &'static [Setting] {
        SETTINGS
    }

    fn renamed(&self) -> &'static [(&'static str, &'static str)] {
        RENAMED
    }

    fn example(&self) -> &'static str {
        "name = \"transfers\"\nkind = \"source.csv\"\npath = \"transfers.csv\"\n\n[event]\n\
         type = \"transfer.v1\"\nid = \"transfer_id\"\ntime = \"to_timestamp_micros(booked_at)\"\n"
    }

    fn read(&self, section: &Section<'_>, cx: &ReadContext<'_, '_>) -> Box<dyn NodeSpec> {
        let path = read_path(section, cx);
        let delimiter = section.text_or("delimiter", ",");
        let delimiter = match delimiter.value.as_bytes() {
            [] => b',',
            [byte] => *byte,
            _ => {
                let what = format!("`delimiter` of {} must be one ASCII character", section.name());
                section.diagnostics().add(delimiter.line, what);
                b','
            }
        };
        let connector = path.map(|path| Arc::new(CsvFiles { path, delimiter }) as Arc<dyn Connector>);
        read_source(section, connector, Records::Rows)
    }
}

struct CsvFiles {
    path: PathBuf,
    delimiter: u8,
}

impl CsvFiles {
    fn options(&self, options: OpenOptions) -> CsvOptions {
        CsvOptions { delimiter: self.delimiter, record_bytes_max: options.record_bytes_max }
    }
}

impl Connector for CsvFiles {
    fn schema(&self, options: OpenOptions) -> Result<Option<SchemaRef>, SourceError> {
        Ok(Some(CsvSource::open(&self.path, 0, 1, self.options(options))?.schema()))
    }

    fn open(
        &self,
        _: Option<&[String]>,
        from_position: u64,
        options: OpenOptions,
    ) -> Result<Box<dyn Source>, SourceError> {
        Ok(Box::new(CsvSource::open(&self.path, from_position, options.batch_rows, self.options(options))?))
    }

    fn path(&self) -> Option<&Path> {
        Some(&self.path)
    }
}
