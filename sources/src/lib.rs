//! Where records come in: files and folders of Parquet, CSV and JSON lines, and simulated worlds.
//!
//! A source hands over [`Chunk`]s of records in a fixed order, each with its position, the count of
//! records before it. It judges nothing: what it cannot read as a record it hands over as bytes with
//! a fault, and the gate makes a receipt of it. Start at [`Source`].

use arrow::array::RecordBatch;

pub mod csv;
mod error;
pub mod files;
pub mod jsonl;
pub mod lattice;
pub mod parquet;
mod prefix;
mod text;
pub mod world;

pub use crate::csv::{CsvOptions, CsvSource};
pub use crate::error::SourceError;
pub use crate::jsonl::JsonlSource;
pub use crate::lattice::{LatticeConfig, LatticeSource, LatticeStream};
pub use crate::parquet::ParquetSource;
pub use crate::prefix::{FilePrefix, Prefix};
pub use crate::text::RECORD_BYTES_MAX;
pub use crate::world::{WorldConfig, WorldSource, WorldStream};

/// A stream of records in a fixed order.
pub trait Source: Send {
    /// The next records, or `None` at the end of what was there when the source was opened.
    ///
    /// A chunk is never empty: it holds a record or a fault.
    ///
    /// # Errors
    /// When the input cannot be read any further; records that cannot be read are not errors. The
    /// records before the break have been handed over by then, and a further call gives the error
    /// again.
    fn next(&mut self) -> Result<Option<Chunk>, SourceError>;

    /// What was read so far, so that a later run can tell whether it is still the same.
    fn prefix(&self) -> Prefix;
}

/// Consecutive records of one source.
#[derive(Clone, Debug, PartialEq)]
pub struct Chunk {
    /// The records that could be read.
    pub body: Body,
    /// Those that could not, in the order of their positions.
    pub faults: Vec<Fault>,
}

/// Records in the shape the source has them in.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// Columns of records; `positions[i]` is the position of row `i`, ascending.
    Rows {
        /// The records.
        batch: RecordBatch,
        /// Where each stands in the source.
        positions: Vec<u64>,
    },
    /// Lines of text that hold one envelope each, not yet read.
    Lines(Lines),
}

/// A record that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where it stands in the source.
    pub position: u64,
    /// Its bytes as submitted, cut where the source bounds the size of a record.
    pub bytes: Vec<u8>,
    /// What is wrong with it, as a sentence.
    pub detail: String,
}

/// Lines of text, one after the other in one buffer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lines {
    /// All lines, with their line breaks.
    pub bytes: Vec<u8>,
    /// Where each line ends in `bytes`, its line break included; it begins where the last one ends.
    pub ends: Vec<usize>,
    /// Where each line stands in the source, ascending.
    pub positions: Vec<u64>,
}

impl Lines {
    /// Each line with its position, without its line break.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &[u8])> {
        let mut start = 0;
        self.positions.iter().zip(&self.ends).map(move |(&position, &end)| {
            let line = &self.bytes[start..end];
            start = end;
            (position, text::without_line_break(line))
        })
    }

    /// How many lines there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }
}
