//! The container that flows through timely: an Arrow batch whose records are its rows.

use std::sync::{Arc, LazyLock};

use arrow::array::{AsArray, FixedSizeBinaryArray, RecordBatch, UInt64Array};
use arrow::buffer::Buffer;
use arrow::datatypes::{Schema, UInt64Type};
use arrow::ipc::reader::StreamDecoder;
use arrow::ipc::writer::StreamWriter;
use tidegate_facts::{Digest, Tick, columns};
use timely::Accountable;
use timely::dataflow::Stream;
use timely::dataflow::channels::ContainerBytes;

/// A batch of rows with one tick each, in the column `_tick`.
#[derive(Clone, Debug)]
pub struct Rows(pub RecordBatch);

/// A stream of [`Rows`].
///
/// A message's capability is at or before the ticks of its rows; each row is on the worker that
/// owns its partition (see [`home`]) and stays there.
pub type RowStream<'scope> = Stream<'scope, Tick, Rows>;

/// The worker that owns a partition, and with it every row of that partition.
pub fn home(partition: u16, workers: usize) -> usize {
    usize::from(partition) % workers
}

impl Rows {
    /// The rows' ticks.
    ///
    /// # Panics
    /// When the batch has no `_tick`: the plan gives every stream one.
    pub fn ticks(&self) -> &UInt64Array {
        ticks_of(&self.0)
    }
}

/// The column `_tick` of a batch.
///
/// # Panics
/// When the batch has none: the plan gives every stream one.
pub fn ticks_of(batch: &RecordBatch) -> &UInt64Array {
    let first = batch.schema_ref().fields().first();
    let ticks = match first.is_some_and(|field| field.name() == columns::TICK) {
        true => batch.column(0), // As in most, and no other name is to be looked at.
        false => batch.column_by_name(columns::TICK).expect("every stream carries _tick"),
    };
    ticks.as_primitive::<UInt64Type>()
}

/// A column of digests.
pub fn digest_column(digests: &[Digest]) -> FixedSizeBinaryArray {
    let bytes: Vec<u8> = digests.iter().flat_map(|digest| digest.0).collect();
    FixedSizeBinaryArray::new(32, Buffer::from_vec(bytes), None)
}

/// What is left behind where rows were taken: for every message some, so that it is made once.
static NOTHING: LazyLock<RecordBatch> = LazyLock::new(|| RecordBatch::new_empty(Arc::new(Schema::empty())));

impl Default for Rows {
    fn default() -> Self {
        Rows(NOTHING.clone())
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
        writer.write_all(&to_ipc(&self.0)).expect("timely's buffers take what length_in_bytes promised");
    }
}

/// A batch as an Arrow IPC stream, padded to eight bytes.
pub(crate) fn to_ipc(batch: &RecordBatch) -> Vec<u8> {
    let mut writer =
        StreamWriter::try_new(Vec::new(), batch.schema_ref()).expect("any batch has an IPC form");
    writer.write(batch).expect("writing to memory does not fail");
    let mut bytes = writer.into_inner().expect("writing to memory does not fail");
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes
}

/// The inverse of [`to_ipc`].
pub(crate) fn from_ipc(bytes: &[u8]) -> RecordBatch {
    let mut buffer = Buffer::from(bytes);
    StreamDecoder::new()
        .decode(&mut buffer)
        .expect("what another worker wrote is an IPC stream")
        .expect("the stream holds one batch")
}
