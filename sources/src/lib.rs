//! Sources of records: files and folders of Parquet, CSV and JSON lines, and simulated worlds.
//!
//! A source returns its records in [`Chunk`]s, in a fixed order. The position of a record is the
//! number of records before it. A source does not validate: what it cannot read as a record it
//! returns as bytes with a reason, and the gate makes a receipt of it. Start at [`Source`].

#![forbid(unsafe_code)]

use arrow::array::RecordBatch;

pub mod card_world;
pub mod credibility_world;
pub mod csv;
mod error;
pub mod file_set;
pub mod jsonl;
pub mod parquet;
mod read_fingerprint;
mod text_reader;

pub use crate::card_world::{CardWorldConfig, CardWorldSource, CardWorldStream};
pub use crate::credibility_world::{CredibilityWorldConfig, CredibilityWorldSource, CredibilityWorldStream};
pub use crate::csv::{CsvOptions, CsvSource};
pub use crate::error::SourceError;
pub use crate::jsonl::JsonlSource;
pub use crate::parquet::ParquetSource;
pub use crate::read_fingerprint::{FileFingerprint, ReadFingerprint};
pub use crate::text_reader::RECORD_BYTES_MAX;

/// A source: a finite sequence of records in a fixed order, read chunk by chunk.
pub trait Source: Send {
    /// The next records; `None` at the end of what existed when the source was opened.
    ///
    /// A chunk is never empty: it has at least one record, readable or not.
    ///
    /// # Errors
    /// When the input cannot be read any further; a record that cannot be read is not an error. The
    /// source returns all records before the failure first, and the same error on every later call.
    fn next(&mut self) -> Result<Option<Chunk>, SourceError>;

    /// A fingerprint of what was read so far, so that a later run can check that it is unchanged.
    fn fingerprint(&self) -> ReadFingerprint;

    /// From now on a last line without a line break is not a record: the program that writes the
    /// file may not have written the rest of it yet. The line is read once the source is opened
    /// again.
    ///
    /// A source that does not consist of lines, or whose file is compressed, ignores this.
    fn leave_unfinished_line(&mut self) {}
}

/// A chunk of consecutive records that a source returns.
#[derive(Clone, Debug, PartialEq)]
pub struct Chunk {
    /// The records that the source could read.
    pub body: Body,
    /// The records that the source could not read, in the order of their positions.
    pub unreadable: Vec<UnreadableRecord>,
}

/// The readable records of a source's chunk: columns, or lines of text.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// Columns of records.
    Rows {
        /// The records.
        batch: RecordBatch,
        /// The position of each row in the source, ascending.
        positions: Vec<u64>,
    },
    /// Lines of text with one envelope each, which the gate parses.
    Lines(Lines),
}

/// The bytes of a record that a source could not read, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnreadableRecord {
    /// The record's position in the source.
    pub position: u64,
    /// Its bytes as submitted, cut off at the source's limit on the size of a record.
    pub bytes: Vec<u8>,
    /// What is wrong with it, as a sentence.
    pub detail: String,
}

/// The lines of text of a source's chunk, one after the other in one buffer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lines {
    /// All lines, with their line breaks.
    pub bytes: Vec<u8>,
    /// The index in `bytes` after each line and its line break, where the next line begins.
    pub ends: Vec<usize>,
    /// The position of each line in the source, ascending.
    pub positions: Vec<u64>,
}

impl Lines {
    /// The position and the text of each line, without its line break.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &[u8])> {
        let mut start = 0;
        self.positions.iter().zip(&self.ends).map(move |(&position, &end)| {
            let line = &self.bytes[start..end];
            start = end;
            (position, text_reader::without_line_break(line))
        })
    }

    /// The number of lines in the chunk.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether the chunk has no lines.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }
}
