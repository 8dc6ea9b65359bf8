//! [`Rows`], the timely container of all streams: an Arrow batch with a tick for each row.

use std::sync::{Arc, LazyLock};

use arrow::array::{
    ArrayRef, AsArray, DictionaryArray, FixedSizeBinaryArray, Int32Array, RecordBatch, StringArray,
};
use arrow::buffer::Buffer;
use arrow::datatypes::{DataType, Schema, TimestampMicrosecondType};
use arrow::ipc::reader::StreamDecoder;
use arrow::ipc::writer::StreamWriter;
use tidegate_facts::{Digest, Tick, columns};
use timely::Accountable;
use timely::dataflow::Stream;
use timely::dataflow::channels::ContainerBytes;

/// The container of every stream of rows: an Arrow batch in which each row has a tick, in the
/// column `_tick`.
#[derive(Clone, Debug)]
pub struct Rows(pub RecordBatch);

/// A timely stream of [`Rows`].
///
/// A message's capability is at or before the ticks of its rows. Each row is on the worker that
/// owns the partition of its tick (see [`partition_owner`]) and stays there.
pub type RowStream<'scope> = Stream<'scope, Tick, Rows>;

/// The worker that owns the rows of a partition: every row whose tick has this partition belongs to
/// it.
pub fn partition_owner(partition: u16, workers: usize) -> usize {
    usize::from(partition) % workers
}

impl Rows {
    /// The tick of each row.
    ///
    /// # Panics
    /// When the batch has no column `_tick`; the plan gives one to every stream.
    pub fn ticks(&self) -> &columns::TickArray {
        ticks_of(&self.0)
    }
}

/// The tick of each row of a batch: its column `_tick`.
///
/// # Panics
/// When the batch has no such column; the plan gives one to every stream.
pub fn ticks_of(batch: &RecordBatch) -> &columns::TickArray {
    columns::ticks(batch)
}

/// The event time of each row, from a timestamp column, in microseconds.
///
/// # Panics
/// When the column is not a timestamp in microseconds; the plan checks that.
pub fn micros_of(column: &ArrayRef) -> Vec<i64> {
    debug_assert!(matches!(column.data_type(), DataType::Timestamp(_, _)));
    column.as_primitive::<TimestampMicrosecondType>().values().to_vec()
}

/// A dictionary column with the value `text` in each of `rows` rows.
pub fn repeated_text(text: &str, rows: usize) -> ArrayRef {
    let values = Arc::new(StringArray::from_iter_values([text]));
    Arc::new(DictionaryArray::new(Int32Array::from(vec![0; rows]), values))
}

/// A column with a digest for each row, 32 bytes each.
pub fn digest_column(digests: &[Digest]) -> FixedSizeBinaryArray {
    let bytes: Vec<u8> = digests.iter().flat_map(|digest| digest.0).collect();
    FixedSizeBinaryArray::new(32, Buffer::from_vec(bytes), None)
}

/// The empty batch that `mem::take` leaves in a message. Every message leaves one, so it is shared.
static EMPTY: LazyLock<RecordBatch> = LazyLock::new(|| RecordBatch::new_empty(Arc::new(Schema::empty())));

impl Default for Rows {
    fn default() -> Self {
        Rows(EMPTY.clone())
    }
}

impl Accountable for Rows {
    fn record_count(&self) -> i64 {
        self.0.num_rows() as i64
    }
}

impl ContainerBytes for Rows {
    fn from_bytes(bytes: timely::bytes::arc::Bytes) -> Self {
        Rows(from_ipc(&bytes))
    }

    fn length_in_bytes(&self) -> usize {
        to_ipc(&self.0).len()
    }

    fn into_bytes<W: std::io::Write>(&self, writer: &mut W) {
        writer
            .write_all(&to_ipc(&self.0))
            .expect("timely's buffer has the size that length_in_bytes returned");
    }
}

/// Encodes a batch as an Arrow IPC stream, padded to a multiple of eight bytes.
pub(crate) fn to_ipc(batch: &RecordBatch) -> Vec<u8> {
    let mut writer =
        StreamWriter::try_new(Vec::new(), batch.schema_ref()).expect("every batch can be written as IPC");
    writer.write(batch).expect("writing to memory does not fail");
    let mut bytes = writer.into_inner().expect("writing to memory does not fail");
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes
}

/// Decodes a batch that [`to_ipc`] encoded.
pub(crate) fn from_ipc(bytes: &[u8]) -> RecordBatch {
    let mut buffer = Buffer::from(bytes);
    StreamDecoder::new()
        .decode(&mut buffer)
        .expect("the other worker wrote an IPC stream")
        .expect("the stream holds one batch")
}
