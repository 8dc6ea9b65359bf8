//! Committed tables: rows cut at commit boundaries, one file for each partition, table and interval.
//!
//! What a file holds depends on the log alone: the rows of one partition with a tick in the interval,
//! in the order of their ticks, written with fixed settings. So a run that repeats the work of an
//! earlier one writes the same bytes under the same names, and finds them there.
//!
//! Objects of the store:
//!
//! | name | holds |
//! |---|---|
//! | `tables/<table>/<partition>/<lower>-<upper>.parquet` (or `.jsonl`) | the rows of one interval |
//! | `commits/<number>.json` | one [`Commit`]: the files of all tables for one interval |
//!
//! A file counts only once a commit names it.

use std::collections::BTreeMap;

use arrow::array::{AsArray, RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::{SchemaRef, UInt64Type};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;
use serde::{Deserialize, Serialize};
use tidegate_facts::{Digest, Tick, columns};

use crate::store::{Store, StoreError};

/// How a table is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Parquet, zstd, statistics by page.
    Parquet,
    /// A JSON object a line.
    Jsonl,
}

/// One file of a table, as a commit names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TableFile {
    /// The table.
    pub table: String,
    /// The partition of its rows.
    pub partition: u16,
    /// Its name in the store.
    pub name: String,
    /// How many rows it holds.
    pub rows: u64,
    /// How many bytes.
    pub bytes: u64,
    /// BLAKE3 of those bytes.
    pub digest: Digest,
}

/// One interval of all tables, published at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    /// Commits count from 0, without gaps.
    pub number: u64,
    /// The interval: ticks from `lower`,
    pub lower: Tick,
    /// to before `upper`.
    pub upper: Tick,
    /// BLAKE3 of the commit before; zeros for the first.
    pub previous: Digest,
    /// The plan whose output this is.
    pub plan: Digest,
    /// The files, by table and partition. A partition without rows has none.
    pub files: Vec<TableFile>,
}

/// Why a table could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The rows could not be encoded.
    #[error(
        "cannot encode table `{table}`; a column has a type that its format lacks: cast it in a `project` before"
    )]
    Encode {
        /// The table.
        table: String,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The chain of commits is broken.
    #[error(
        "commit `{name}` {what}; restore the folder from a copy, or rebuild it by running the topology on the log in a new folder"
    )]
    Chain {
        /// The commit.
        name: String,
        /// What is wrong with it.
        what: String,
    },
}

/// The rows of one table on one worker that no commit boundary has passed yet.
pub struct Unsealed {
    table: String,
    schema: SchemaRef,
    format: Format,
    /// Rows before this tick were committed by an earlier run.
    lower: Tick,
    partitions: BTreeMap<u16, Vec<RecordBatch>>,
}

impl Unsealed {
    /// A table whose rows before `lower` are committed already.
    pub fn new(table: &str, schema: SchemaRef, format: Format, lower: Tick) -> Unsealed {
        Unsealed { table: table.to_owned(), schema, format, lower, partitions: BTreeMap::new() }
    }

    /// Whether it holds no rows.
    pub fn is_empty(&self) -> bool {
        self.partitions.values().all(Vec::is_empty)
    }

    /// Adds rows in any order.
    pub fn insert(&mut self, rows: &RecordBatch) {
        let ticks = ticks_of(rows);
        let late = ticks.iter().filter(|t| Tick(**t) < self.lower).count();
        if late == rows.num_rows() {
            return;
        }
        let mut places: BTreeMap<u16, Vec<u32>> = BTreeMap::new();
        for (row, tick) in ticks.iter().enumerate().filter(|(_, t)| Tick(**t) >= self.lower) {
            places.entry(Tick(*tick).partition()).or_default().push(row as u32);
        }
        for (partition, places) in places {
            let part = if places.len() == rows.num_rows() { rows.clone() } else { picked(rows, places) };
            self.partitions.entry(partition).or_default().push(part);
        }
    }

    /// Writes the rows before `upper` to the store, a file for each partition that has some.
    ///
    /// # Errors
    /// When a file cannot be encoded or created.
    pub fn seal_before(&mut self, upper: Tick, store: &Store) -> Result<Vec<TableFile>, TableError> {
        let lower = std::mem::replace(&mut self.lower, upper);
        assert!(lower <= upper, "commit boundaries ascend");
        let mut files = Vec::new();
        for (partition, batches) in &mut self.partitions {
            let all = concat_batches(&self.schema, batches.iter()).expect("one table has one schema");
            let all = in_tick_order(all);
            let cut = ticks_of(&all).partition_point(|t| Tick(*t) < upper);
            let rows = all.slice(0, cut);
            batches.clear();
            if cut < all.num_rows() {
                batches.push(all.slice(cut, all.num_rows() - cut));
            }
            if rows.num_rows() == 0 {
                continue;
            }
            let bytes = self
                .format
                .encode(&rows)
                .map_err(|source| TableError::Encode { table: self.table.clone(), source })?;
            let name = format!(
                "tables/{}/{partition:04}/{:020}-{:020}.{}",
                self.table,
                lower.0,
                upper.0,
                self.format.extension()
            );
            store.create(&name, &bytes)?;
            files.push(TableFile {
                table: self.table.clone(),
                partition: *partition,
                name,
                rows: rows.num_rows() as u64,
                bytes: bytes.len() as u64,
                digest: Digest::of(&bytes),
            });
        }
        Ok(files)
    }
}

fn ticks_of(rows: &RecordBatch) -> &[u64] {
    rows.column_by_name(columns::TICK).expect("every table has _tick").as_primitive::<UInt64Type>().values()
}

fn picked(rows: &RecordBatch, places: Vec<u32>) -> RecordBatch {
    take_record_batch(rows, &UInt32Array::from(places)).expect("the places are the batch's own")
}

fn in_tick_order(rows: RecordBatch) -> RecordBatch {
    let ticks = ticks_of(&rows);
    if ticks.is_sorted() {
        return rows;
    }
    let mut places: Vec<u32> = (0..rows.num_rows() as u32).collect();
    // Stable: rows of one tick come from one fact, in the order in which they were derived.
    places.sort_by_key(|row| ticks[*row as usize]);
    picked(&rows, places)
}

impl Format {
    /// The ending of its files.
    pub fn extension(self) -> &'static str {
        match self {
            Format::Parquet => "parquet",
            Format::Jsonl => "jsonl",
        }
    }

    fn encode(self, rows: &RecordBatch) -> Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>> {
        match self {
            Format::Parquet => {
                let mut writer =
                    ArrowWriter::try_new(Vec::new(), rows.schema(), Some(writer_properties(&rows.schema())))?;
                writer.write(rows)?;
                Ok(writer.into_inner()?)
            }
            Format::Jsonl => {
                let mut writer = arrow::json::LineDelimitedWriter::new(Vec::new());
                writer.write(rows)?;
                writer.finish()?;
                Ok(writer.into_inner())
            }
        }
    }
}

/// The settings of every Parquet file. Changing one changes the bytes of every table.
pub(crate) fn writer_properties(schema: &SchemaRef) -> WriterProperties {
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1).expect("zstd has a level 1")))
        .set_created_by("tidegate table 1".to_owned())
        .set_max_row_group_row_count(Some(262_144))
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_dictionary_enabled(true);
    for field in schema.fields() {
        let path = ColumnPath::from(field.name().as_str());
        match field.data_type() {
            // Every value is its own: a dictionary would only be built to be given up.
            arrow::datatypes::DataType::FixedSizeBinary(_) => {
                properties = properties
                    .set_column_dictionary_enabled(path.clone(), false)
                    .set_column_compression(path.clone(), Compression::UNCOMPRESSED)
                    .set_column_statistics_enabled(path, EnabledStatistics::None);
            }
            arrow::datatypes::DataType::UInt64 | arrow::datatypes::DataType::Timestamp(_, _) => {
                properties = properties
                    .set_column_dictionary_enabled(path.clone(), false)
                    .set_column_encoding(path, Encoding::DELTA_BINARY_PACKED);
            }
            _ => {}
        }
    }
    properties.build()
}

/// The commits of a store, checked link by link.
#[derive(Clone, Debug, Default)]
pub struct Commits {
    /// In order.
    pub list: Vec<Commit>,
    /// BLAKE3 of the last one.
    pub head: Digest,
}

impl Commits {
    /// Reads every commit of a store.
    ///
    /// # Errors
    /// [`TableError::Chain`] names the first commit that does not follow from the one before.
    pub fn read(store: &Store) -> Result<Commits, TableError> {
        let mut commits = Commits::default();
        for name in store.list("commits")? {
            let bytes = store.read(&name)?;
            let broken = |what: String| TableError::Chain { name: name.clone(), what };
            let commit: Commit =
                serde_json::from_slice(&bytes).map_err(|e| broken(format!("cannot be read ({e})")))?;
            if commit.number != commits.list.len() as u64 {
                return Err(broken(format!(
                    "has number {} where {} follows",
                    commit.number,
                    commits.list.len()
                )));
            }
            if commit.previous != commits.head || commit.lower != commits.upper() {
                return Err(broken("does not follow from the commit before it".to_owned()));
            }
            commits.head = Digest::of(&bytes);
            commits.list.push(commit);
        }
        Ok(commits)
    }

    /// Everything before this tick is committed.
    pub fn upper(&self) -> Tick {
        self.list.last().map_or(Tick::ZERO, |commit| commit.upper)
    }

    /// Publishes the interval from [`Self::upper`] to `upper`.
    ///
    /// # Errors
    /// When the store refuses; another commit with its number is a conflict.
    pub fn publish(
        &mut self,
        upper: Tick,
        plan: Digest,
        mut files: Vec<TableFile>,
        store: &Store,
    ) -> Result<(), TableError> {
        files.sort();
        let number = self.list.len() as u64;
        let commit = Commit { number, lower: self.upper(), upper, previous: self.head, plan, files };
        let bytes = serde_json::to_vec_pretty(&commit).expect("a commit has a JSON form");
        store.create(&format!("commits/{number:020}.json"), &bytes)?;
        self.head = Digest::of(&bytes);
        self.list.push(commit);
        Ok(())
    }

    /// The files of a table, in order.
    pub fn files_of<'a>(&'a self, table: &'a str) -> impl Iterator<Item = &'a TableFile> {
        self.list.iter().flat_map(|commit| &commit.files).filter(move |file| file.table == table)
    }

    /// The names of the tables that hold rows, sorted.
    pub fn tables(&self) -> Vec<String> {
        let mut names: Vec<String> =
            self.list.iter().flat_map(|c| &c.files).map(|f| f.table.clone()).collect();
        names.sort();
        names.dedup();
        names
    }
}
