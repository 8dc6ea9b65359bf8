//! [`SourceError`]: why a source cannot be opened, or cannot be read any further.

use std::io;
use std::path::PathBuf;

use ::parquet::errors::ParquetError;

/// Why a source cannot be opened, or cannot be read any further.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// A simulated world has other settings than the one that was read before.
    #[error(
        "the settings of its world differ from those of the world whose records are in the log; \
         use the original settings, or `--data` with a new folder"
    )]
    OtherWorld,

    /// The path does not exist.
    #[error("there is no file or folder `{path}`; check the spelling, or put the input there")]
    Missing {
        /// The path as the topology gives it.
        path: PathBuf,
    },

    /// The folder has no file of the format.
    #[error("folder `{path}` holds no {format} file; put a file there whose name ends in one of {endings:?}")]
    Empty {
        /// The folder.
        path: PathBuf,
        /// The name of the format.
        format: &'static str,
        /// The possible endings of the names of such files.
        endings: Vec<String>,
    },

    /// A file name is not valid UTF-8, so it cannot be recorded in the log.
    #[error("the name of `{path}` is not valid UTF-8; rename it")]
    Name {
        /// The file or folder.
        path: PathBuf,
    },

    /// The operating system reports an error, or a compressed file is damaged.
    #[error(
        "cannot read `{path}`; check that this user may read it and that the file is complete, \
         and restore it if it is truncated or damaged"
    )]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },

    /// The file is not a Parquet file, or it is damaged.
    #[error(
        "cannot read `{path}` as Parquet; check that it is a complete Parquet file, \
         and restore it if it is damaged"
    )]
    Parquet {
        /// The file.
        path: PathBuf,
        /// The decoder's error.
        source: ParquetError,
    },

    /// Two files of a folder have different columns.
    #[error(
        "`{path}` does not have the columns of `{first}`, the first file of its folder: {detail} \
         (column `{column}`); give all files of a folder the same columns in the same order, or keep them \
         in two folders"
    )]
    Columns {
        /// The file that differs.
        path: PathBuf,
        /// The file it differs from.
        first: PathBuf,
        /// The first column in which they differ.
        column: String,
        /// How they differ.
        detail: String,
    },

    /// A requested column does not exist.
    #[error("`{path}` has no column `{column}`; use one of {known:?}")]
    UnknownColumn {
        /// The file.
        path: PathBuf,
        /// The requested column.
        column: String,
        /// The columns that exist.
        known: Vec<String>,
    },

    /// A column is requested twice.
    #[error("column `{column}` is requested twice; name it once")]
    ColumnTwice {
        /// The column.
        column: String,
    },

    /// The first row of a CSV file does not name the columns.
    #[error(
        "`{path}` does not begin with a row of column names: {detail}; give it a header row, or remove it"
    )]
    Header {
        /// The file.
        path: PathBuf,
        /// What is wrong with its first row.
        detail: String,
    },

    /// The delimiter is a character that cannot separate fields.
    #[error(
        "the delimiter {delimiter:?} cannot separate fields; use an ASCII character other than a quote \
         or a line break"
    )]
    Delimiter {
        /// The requested delimiter.
        delimiter: char,
    },

    /// A part of the input that was read before has changed.
    #[error("`{file}` changed after it was read: {detail}; restore the file, or start a new data folder")]
    Changed {
        /// The file.
        file: PathBuf,
        /// How it changed.
        detail: String,
    },

    /// The input has fewer records than were read from it before.
    #[error(
        "`{path}` has {records} records, but {from_position} were read from it before; \
         restore the file, or start a new data folder"
    )]
    Short {
        /// The file or folder, or `world`.
        path: PathBuf,
        /// The number of records it has now.
        records: u64,
        /// The number of records that were read before.
        from_position: u64,
    },

    /// A setting of a simulated world is out of range.
    #[error("the world's `{setting}` {detail}")]
    World {
        /// The setting.
        setting: &'static str,
        /// What is wrong with it, and which values are valid.
        detail: String,
    },
}
