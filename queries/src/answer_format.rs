//! The formats in which an answer can be written, by name.

use std::fmt;
use std::str::FromStr;

/// The format of an answer, in which [`crate::write()`] writes its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A table with ruled lines. All rows are buffered until the last one has come.
    Table,
    /// A header line, then a line for each row.
    Csv,
    /// A JSON object for each row, one a line.
    Json,
    /// One Parquet file.
    Parquet,
}

/// Why a format of answers was refused: there is none of this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no format `{format}`; use table, csv, json or parquet")]
pub struct UnknownFormat {
    /// The name.
    pub format: String,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Format::Table => "table",
            Format::Csv => "csv",
            Format::Json => "json",
            Format::Parquet => "parquet",
        })
    }
}

impl FromStr for Format {
    type Err = UnknownFormat;

    fn from_str(text: &str) -> Result<Format, UnknownFormat> {
        match text {
            "table" => Ok(Format::Table),
            "csv" => Ok(Format::Csv),
            "json" => Ok(Format::Json),
            "parquet" => Ok(Format::Parquet),
            _ => Err(UnknownFormat { format: text.to_owned() }),
        }
    }
}
