//! Where records come in: files and folders of Parquet, CSV and JSON lines, and simulated worlds.
//!
//! A source hands over [`Chunk`]s of records in a fixed order, each with its position, the count of
//! records before it. It judges nothing: what it cannot read as a record it hands over as bytes with
//! a fault, and the gate makes a receipt of it. Start at [`Source`].

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;

/// A stream of records in a fixed order.
pub trait Source: Send {
    /// The next records, or `None` at the end of what is there now.
    ///
    /// # Errors
    /// When the input cannot be read any further; records that cannot be read are not errors.
    fn next(&mut self) -> Result<Option<Chunk>, SourceError>;

    /// What was read so far, so that a later run can tell whether it is still the same.
    fn prefix(&self) -> Prefix;
}

/// Consecutive records of one source.
pub struct Chunk {
    /// The records that could be read.
    pub body: Body,
    /// Those that could not, in the order of their positions.
    pub faults: Vec<Fault>,
}

/// Records in the shape the source has them in.
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
