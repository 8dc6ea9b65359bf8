//! Uncommitted rows of one table on one worker, and the slices that a commit boundary cuts from
//! them.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch, UInt32Array};
use arrow::compute::{concat, concat_batches, take_record_batch};
use arrow::datatypes::SchemaRef;
use tidegate_facts::seal::{Chain, merkle_root};
use tidegate_facts::{Digest, Tick, columns};

use super::{SealedRange, TableError, TableFile, TableFileFormat, encode_file};
use crate::store::Store;

/// The buffer of one table on one worker: the rows that no commit boundary has passed.
pub struct TableBuffer {
    table: String,
    schema: SchemaRef,
    format: TableFileFormat,
    /// Rows before this tick are committed.
    lower: Tick,
    partitions: BTreeMap<u16, Vec<RecordBatch>>,
    /// The hash chain of each partition, if the table is sealed.
    chains: Option<BTreeMap<u16, Chain>>,
}

/// A slice that a commit boundary cuts from a table's buffer: the rows of one partition in one
/// interval, in their final order and form.
#[derive(Clone, Debug)]
pub struct TableSlice {
    /// The table.
    pub table: String,
    /// The partition.
    pub partition: u16,
    /// The first tick of the interval.
    pub lower: Tick,
    /// The first tick after the interval.
    pub upper: Tick,
    /// The rows, at least one.
    pub rows: RecordBatch,
    /// The seal of the rows, if the table is sealed.
    pub seal: Option<SealedRange>,
    format: TableFileFormat,
}

impl TableSlice {
    /// Other rows of the same partition and interval, as a table without seals.
    pub fn derived(&self, table: &str, rows: RecordBatch) -> TableSlice {
        let format = TableFileFormat::Parquet;
        TableSlice { table: table.to_owned(), rows, seal: None, format, ..self.clone() }
    }

    /// The beginning of the name of the file with these rows: table and interval.
    pub fn name_prefix(&self) -> String {
        TableFile::name_prefix(&self.table, &(self.lower..self.upper))
    }

    /// The file of the same table and partition among `files`, which are those of the slice's
    /// interval.
    pub fn file_in<'f>(&self, files: &'f [TableFile]) -> Option<&'f TableFile> {
        files.iter().find(|file| file.table == self.table && file.partition == self.partition)
    }

    /// Writes the rows to the store.
    ///
    /// # Errors
    /// When the rows cannot be encoded, or the store fails.
    pub fn write(&self, store: &Store) -> Result<TableFile, TableError> {
        let encoded = encode_file(self.format, &self.rows);
        let bytes = encoded.map_err(|source| TableError::Encode { table: self.table.clone(), source })?;
        let digest = Digest::of(&bytes);
        let name = TableFile::name_of(&self.table, &(self.lower..self.upper), &digest, self.format);
        store.create(&name, &bytes)?;
        Ok(TableFile {
            table: self.table.clone(),
            partition: self.partition,
            name,
            rows: self.rows.num_rows() as u64,
            bytes: bytes.len() as u64,
            digest,
            seal: self.seal,
        })
    }
}

/// Concatenates many small batches of a table's uncommitted rows. It takes milliseconds while calls
/// wait for a core, so it yields the thread after each column.
///
/// # Panics
/// When the batches do not have the columns of `schema`.
pub fn concat_rows<'a>(
    schema: &SchemaRef,
    batches: impl Iterator<Item = &'a RecordBatch> + Clone,
) -> RecordBatch {
    let column = |index| {
        let parts: Vec<&dyn Array> = batches.clone().map(|rows| rows.column(index).as_ref()).collect();
        std::thread::yield_now();
        concat(&parts).expect("one table has one schema")
    };
    let columns = (0..schema.fields().len()).map(column).collect();
    RecordBatch::try_new(Arc::clone(schema), columns).expect("one table has one schema")
}

impl TableBuffer {
    /// An empty buffer of a table whose rows before `lower` are committed.
    pub fn new(table: &str, schema: SchemaRef, format: TableFileFormat, lower: Tick) -> TableBuffer {
        let (table, partitions) = (table.to_owned(), BTreeMap::new());
        TableBuffer { table, schema, format, lower, partitions, chains: None }
    }

    /// The first tick that is not committed.
    pub fn lower(&self) -> Tick {
        self.lower
    }

    /// The name of the table.
    pub fn table(&self) -> &str {
        &self.table
    }

    /// The buffer as one of a sealed table, whose hash chains have this state. Its rows have a
    /// column [`columns::RECORD_DIGEST`].
    pub fn with_chains(self, chains: BTreeMap<u16, Chain>) -> TableBuffer {
        TableBuffer { chains: Some(chains), ..self }
    }

    /// Whether the buffer has no rows.
    pub fn is_empty(&self) -> bool {
        self.partitions.values().all(Vec::is_empty)
    }

    /// Adds the rows of some batches, which become one, so that a slice is cut from few large
    /// batches.
    ///
    /// # Panics
    /// When they do not have the table's columns.
    pub fn insert_all(&mut self, batches: &[RecordBatch]) {
        match batches {
            [] => {}
            [rows] => self.insert(rows),
            _ => self.insert(&concat_rows(&self.schema, batches.iter())),
        }
    }

    /// Adds rows, in any order. Rows that are committed already are dropped.
    pub fn insert(&mut self, rows: &RecordBatch) {
        self.insert_within(rows, self.lower..Tick::MAX);
    }

    /// Adds the rows with a tick in `interval`.
    fn insert_within(&mut self, rows: &RecordBatch, interval: Range<Tick>) {
        let mut indexes: BTreeMap<u16, Vec<u32>> = BTreeMap::new();
        for (row, tick) in ticks_of(rows).iter().enumerate().filter(|(_, t)| interval.contains(&Tick(**t))) {
            indexes.entry(Tick(*tick).partition()).or_default().push(row as u32);
        }
        for (partition, indexes) in indexes {
            let part = if indexes.len() == rows.num_rows() { rows.clone() } else { rows_at(rows, indexes) };
            self.partitions.entry(partition).or_default().push(part);
        }
    }

    /// Removes the rows before `upper` and returns them, a slice for each partition that has some.
    ///
    /// # Panics
    /// When `upper` is before that of an earlier call.
    pub fn drain_before(&mut self, upper: Tick) -> Vec<TableSlice> {
        let lower = std::mem::replace(&mut self.lower, upper);
        assert!(lower <= upper, "commit boundaries ascend");
        let mut slices = Vec::new();
        for (partition, batches) in &mut self.partitions {
            let all = concat_batches(&self.schema, batches.iter()).expect("one table has one schema");
            let all = in_tick_order(all);
            let end = ticks_of(&all).partition_point(|t| Tick(*t) < upper);
            let rows = all.slice(0, end);
            batches.clear();
            if end < all.num_rows() {
                batches.push(all.slice(end, all.num_rows() - end));
            }
            if rows.num_rows() == 0 {
                continue;
            }
            let seal = self.chains.as_mut().map(|chains| {
                let (records, chain) = (record_digests(&rows), chains.entry(*partition).or_default());
                chain.extend(&records);
                SealedRange { chain: *chain, root: merkle_root(&records) }
            });
            let (table, partition, format) = (self.table.clone(), *partition, self.format);
            slices.push(TableSlice { table, partition, lower, upper, rows, seal, format });
        }
        slices
    }

    /// Copies the rows before `upper` from batches that are stored elsewhere, in the order of their
    /// arrival, and returns their slices.
    ///
    /// # Panics
    /// When this buffer has rows of its own, or `upper` is before that of an earlier call.
    pub fn copy_before(&mut self, batches: &[RecordBatch], upper: Tick) -> Vec<TableSlice> {
        assert!(self.is_empty(), "the rows of a table are stored once");
        for rows in batches {
            self.insert_within(rows, self.lower..upper);
        }
        self.drain_before(upper)
    }

    /// Writes the rows before `upper` to the store, a file for each partition that has some.
    ///
    /// # Errors
    /// When a file cannot be encoded, or the store fails.
    pub fn write_before(&mut self, upper: Tick, store: &Store) -> Result<Vec<TableFile>, TableError> {
        self.drain_before(upper).iter().map(|slice| slice.write(store)).collect()
    }
}

/// The digests of the records of a sealed table, from the column of its buffered or committed rows.
///
/// # Panics
/// When the rows have no [`columns::RECORD_DIGEST`].
pub fn record_digests(rows: &RecordBatch) -> Vec<Digest> {
    let digests = rows.column_by_name(columns::RECORD_DIGEST).expect("sealed rows have the column");
    let digests = digests.as_fixed_size_binary();
    (0..rows.num_rows()).map(|row| Digest(digests.value(row).try_into().expect("32 bytes"))).collect()
}

fn ticks_of(rows: &RecordBatch) -> &[i64] {
    columns::ticks(rows).values()
}

fn rows_at(rows: &RecordBatch, indexes: Vec<u32>) -> RecordBatch {
    take_record_batch(rows, &UInt32Array::from(indexes)).expect("the indexes are the batch's own")
}

fn in_tick_order(rows: RecordBatch) -> RecordBatch {
    let ticks = ticks_of(&rows);
    if ticks.is_sorted() {
        return rows;
    }
    let mut indexes: Vec<u32> = (0..rows.num_rows() as u32).collect();
    // Stable: rows of one tick come from one fact, in the order in which they were derived.
    indexes.sort_by_key(|row| ticks[*row as usize]);
    rows_at(&rows, indexes)
}
