//! Why a source could not be opened, or not be read any further.

use std::io;
use std::path::PathBuf;

use ::parquet::errors::ParquetError;

/// Why a source could not be opened, or not be read any further.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// A world is made from other settings than the one that was read.
    #[error(
        "its world is made from other settings than the one whose records are in the log; run it with those it began with, or \
         with `--data` on a new folder"
    )]
    OtherWorld,
    /// Nothing stands at the path.
    #[error("there is no file or folder `{path}`; check the spelling, or put the input there")]
    Missing {
        /// The path as it was given.
        path: PathBuf,
    },

    /// A folder without a file of the format.
    #[error("folder `{path}` holds no {format} file; put a file there whose name ends in one of {endings:?}")]
    Empty {
        /// The folder.
        path: PathBuf,
        /// What was looked for.
        format: &'static str,
        /// The endings a file of the format may have.
        endings: Vec<String>,
    },

    /// A name that cannot be written down.
    #[error("the name of `{path}` is not valid UTF-8; rename it")]
    Name {
        /// The file or folder.
        path: PathBuf,
    },

    /// The operating system refused, or the compressed file is damaged.
    #[error(
        "cannot read `{path}`; check that this user may read it and that the file is whole, \
         and restore it if it is cut off or damaged"
    )]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// What was refused.
        source: io::Error,
    },

    /// Not a Parquet file, or a damaged one.
    #[error(
        "cannot read `{path}` as Parquet; check that it is a whole Parquet file, and restore it if it is damaged"
    )]
    Parquet {
        /// The file.
        path: PathBuf,
        /// What the decoder met.
        source: ParquetError,
    },

    /// Two files of a folder that differ in their columns.
    #[error(
        "`{path}` does not have the columns of `{first}`, the first file of its folder: {detail} (column `{column}`); \
         give all files of a folder the same columns in the same order, or keep them in two folders"
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

    /// A column that was asked for and is not there.
    #[error("`{path}` has no column `{column}`; use one of {known:?}")]
    UnknownColumn {
        /// The file.
        path: PathBuf,
        /// The column that was asked for.
        column: String,
        /// The columns that are there.
        known: Vec<String>,
    },

    /// A column that was asked for twice.
    #[error("column `{column}` is asked for twice; name it once")]
    ColumnTwice {
        /// The column.
        column: String,
    },

    /// A CSV file whose first row names no columns.
    #[error(
        "`{path}` does not begin with a row of column names: {detail}; give it a header row, or remove it"
    )]
    Header {
        /// The file.
        path: PathBuf,
        /// What is wrong with its first row.
        detail: String,
    },

    /// A byte that cannot stand between two fields.
    #[error(
        "the delimiter {delimiter:?} cannot separate fields; use an ASCII character other than a quote or a line break"
    )]
    Delimiter {
        /// The delimiter that was asked for.
        delimiter: char,
    },

    /// What was read of the input is no longer what stands there.
    #[error("`{file}` changed after it was read: {detail}; restore the file, or start a new data folder")]
    Changed {
        /// The file.
        file: PathBuf,
        /// How it differs.
        detail: String,
    },

    /// The input holds fewer records than were read from it before.
    #[error(
        "`{path}` holds {records} records, but {from_position} were read from it before; \
         restore the file, or start a new data folder"
    )]
    Short {
        /// The file or folder, or `world`.
        path: PathBuf,
        /// How many records it holds now.
        records: u64,
        /// How many were read before.
        from_position: u64,
    },

    /// A world that cannot be simulated.
    #[error("the world's `{setting}` {detail}")]
    World {
        /// The setting.
        setting: &'static str,
        /// What is wrong with it, and what would be right.
        detail: String,
    },
}
