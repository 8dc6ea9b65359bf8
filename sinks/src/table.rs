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
//! | `commits/<number>.json` | one [`Commit`], the manifest of one interval: the files of all tables, and the heads of all chains |
//!
//! A file counts only once a commit names it. A commit names the one before it, so they are a chain; it is
//! in canonical form, and its signature, if there is a key, is over that form without the signature.
//!
//! The rows of a sealed table are a chain in each partition: each carries the digest of its record, and the
//! commit holds the last seal and the root over the interval's records.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch, RecordBatchReader, UInt32Array};
use arrow::compute::{concat, concat_batches, take_record_batch};
use arrow::datatypes::{DataType, SchemaRef, UInt64Type};
use bytes::Bytes;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::arrow::{ArrowWriter, ProjectionMask};
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;
use serde::{Deserialize, Serialize};
use tidegate_facts::seal::{Chain, merkle_root};
use tidegate_facts::{Digest, Tick, columns};

use crate::chains::{LogHead, LogHeads};
use crate::signing::{Signature, Signer};
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
    /// What seals its rows, when the table is sealed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seal: Option<Link>,
}

/// What seals the rows of one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Link {
    /// How far the chain of the table's partition has come with these rows.
    pub chain: Chain,
    /// The Merkle root over the digests of these records.
    pub root: Digest,
}

/// Which build of the program wrote a commit. No record depends on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Build {
    /// The version of Tidegate.
    pub version: String,
    /// The revision of its source, or `unknown`.
    pub commit: String,
}

impl Build {
    /// This build.
    pub fn this() -> Build {
        Build {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: option_env!("TIDEGATE_COMMIT").unwrap_or("unknown").to_owned(),
        }
    }
}

/// What the form of a commit is called, inside it.
pub const MANIFEST: &str = "tidegate.manifest.v1";

/// One interval of all tables, published at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    /// Always [`MANIFEST`].
    pub recipe: String,
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
    /// The build that wrote it.
    pub build: Build,
    /// The heads of the log's chains at `upper`.
    pub log: Vec<LogHead>,
    /// The files, by table and partition. A partition without rows has none.
    pub files: Vec<TableFile>,
    /// BLAKE3 of the canonical form of all of the above, this one being zeros: no commit vouches for the last
    /// one, and not every one is signed.
    pub check: Digest,
    /// Whose word this is, over all of the above; `None` when the run had no key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<Signature>,
}

impl Commit {
    /// The name of the object that holds commit `number`.
    pub fn name(number: u64) -> String {
        format!("commits/{number:020}.json")
    }

    /// What is signed: the canonical form without the signature.
    pub fn signed_text(&self) -> String {
        Commit { signature: None, ..self.clone() }.text()
    }

    /// What `check` must be.
    pub fn checked(&self) -> Digest {
        let text = Commit { check: Digest::default(), signature: None, ..self.clone() }.text();
        Digest::of(text.as_bytes())
    }

    /// The canonical form.
    pub fn text(&self) -> String {
        let text = serde_json::to_string(self).expect("a commit has a JSON form");
        tidegate_facts::json::canonical(&text).expect("its numbers are small")
    }
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
    /// How far the chain of each partition has come, if the table is sealed.
    chains: Option<BTreeMap<u16, Chain>>,
}

/// The rows of one table and partition in one interval, in their final order and form.
#[derive(Clone, Debug)]
pub struct Cut {
    /// The table.
    pub table: String,
    /// The partition.
    pub partition: u16,
    /// The interval: ticks from `lower`,
    pub lower: Tick,
    /// to before `upper`.
    pub upper: Tick,
    /// The rows, at least one.
    pub rows: RecordBatch,
    /// What seals them.
    pub seal: Option<Link>,
    format: Format,
}

impl Cut {
    /// The name of the file that holds these rows.
    pub fn name(&self) -> String {
        let Cut { table, partition, lower, upper, .. } = self;
        format!("tables/{table}/{partition:04}/{:020}-{:020}.{}", lower.0, upper.0, self.format.extension())
    }

    /// Other rows of the same partition and interval, as a plain table.
    pub fn derived(&self, table: &str, rows: RecordBatch) -> Cut {
        Cut { table: table.to_owned(), rows, seal: None, format: Format::Parquet, ..self.clone() }
    }

    /// Writes the rows to the store.
    ///
    /// # Errors
    /// When the file cannot be encoded or created.
    pub fn write(&self, store: &Store) -> Result<TableFile, TableError> {
        let encoded = self.format.encode(&self.rows);
        let bytes = encoded.map_err(|source| TableError::Encode { table: self.table.clone(), source })?;
        let name = self.name();
        store.create(&name, &bytes)?;
        Ok(TableFile {
            table: self.table.clone(),
            partition: self.partition,
            name,
            rows: self.rows.num_rows() as u64,
            bytes: bytes.len() as u64,
            digest: Digest::of(&bytes),
            seal: self.seal,
        })
    }
}

/// The rows of many small batches as one. It takes milliseconds while calls wait for a core, so it offers its own after each column.
///
/// # Panics
/// When they have not these columns.
pub fn put_together<'a>(
    schema: &SchemaRef,
    batches: impl Iterator<Item = &'a RecordBatch> + Clone,
) -> RecordBatch {
    let column = |place| {
        let pieces: Vec<&dyn Array> = batches.clone().map(|rows| rows.column(place).as_ref()).collect();
        std::thread::yield_now();
        concat(&pieces).expect("one table has one schema")
    };
    let columns = (0..schema.fields().len()).map(column).collect();
    RecordBatch::try_new(Arc::clone(schema), columns).expect("one table has one schema")
}

impl Unsealed {
    /// A table whose rows before `lower` are committed already.
    pub fn new(table: &str, schema: SchemaRef, format: Format, lower: Tick) -> Unsealed {
        let (table, partitions) = (table.to_owned(), BTreeMap::new());
        Unsealed { table, schema, format, lower, partitions, chains: None }
    }

    /// Rows before this are committed already.
    pub fn lower(&self) -> Tick {
        self.lower
    }

    /// The table.
    pub fn table(&self) -> &str {
        &self.table
    }

    /// The same, sealed: the rows have a column [`columns::RECORD_DIGEST`].
    pub fn sealed(self, chains: BTreeMap<u16, Chain>) -> Unsealed {
        Unsealed { chains: Some(chains), ..self }
    }

    /// Whether it holds no rows.
    pub fn is_empty(&self) -> bool {
        self.partitions.values().all(Vec::is_empty)
    }

    /// Adds the rows of some batches, which become one: a cut is of few large ones then.
    ///
    /// # Panics
    /// When they have not the table's columns.
    pub fn insert_all(&mut self, batches: &[RecordBatch]) {
        match batches {
            [] => {}
            [rows] => self.insert(rows),
            _ => self.insert(&put_together(&self.schema, batches.iter())),
        }
    }

    /// Adds rows in any order.
    pub fn insert(&mut self, rows: &RecordBatch) {
        self.insert_before(rows, Tick(u64::MAX));
    }

    /// Adds those rows that are before `upper`.
    fn insert_before(&mut self, rows: &RecordBatch, upper: Tick) {
        let mut places: BTreeMap<u16, Vec<u32>> = BTreeMap::new();
        let open = self.lower..upper;
        for (row, tick) in ticks_of(rows).iter().enumerate().filter(|(_, t)| open.contains(&Tick(**t))) {
            places.entry(Tick(*tick).partition()).or_default().push(row as u32);
        }
        for (partition, places) in places {
            let part = if places.len() == rows.num_rows() { rows.clone() } else { picked(rows, places) };
            self.partitions.entry(partition).or_default().push(part);
        }
    }

    /// Takes out the rows before `upper`, a cut for each partition that has some.
    ///
    /// # Panics
    /// When `upper` goes back.
    pub fn cut_before(&mut self, upper: Tick) -> Vec<Cut> {
        let lower = std::mem::replace(&mut self.lower, upper);
        assert!(lower <= upper, "commit boundaries ascend");
        let mut cuts = Vec::new();
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
            let seal = self.chains.as_mut().map(|chains| {
                let (records, chain) = (record_digests(&rows), chains.entry(*partition).or_default());
                chain.extend(&records);
                Link { chain: *chain, root: merkle_root(&records) }
            });
            let (table, partition, format) = (self.table.clone(), *partition, self.format);
            cuts.push(Cut { table, partition, lower, upper, rows, seal, format });
        }
        cuts
    }

    /// Takes copies of the rows before `upper` out of batches that are kept elsewhere, in the order in which they came.
    ///
    /// # Panics
    /// When rows are kept here too, or `upper` goes back.
    pub fn cut_out(&mut self, batches: &[RecordBatch], upper: Tick) -> Vec<Cut> {
        assert!(self.is_empty(), "rows of a table are kept in one place");
        for rows in batches {
            self.insert_before(rows, upper);
        }
        self.cut_before(upper)
    }

    /// Writes the rows before `upper` to the store, a file for each partition that has some.
    ///
    /// # Errors
    /// When a file cannot be encoded or created.
    pub fn seal_before(&mut self, upper: Tick, store: &Store) -> Result<Vec<TableFile>, TableError> {
        self.cut_before(upper).iter().map(|cut| cut.write(store)).collect()
    }
}

/// The digests of the records of a sealed table, as its rows state them.
///
/// # Panics
/// When the rows have no [`columns::RECORD_DIGEST`].
pub fn record_digests(rows: &RecordBatch) -> Vec<Digest> {
    let digests = rows.column_by_name(columns::RECORD_DIGEST).expect("sealed rows have it");
    let digests = digests.as_fixed_size_binary();
    (0..rows.num_rows()).map(|row| Digest(digests.value(row).try_into().expect("32 bytes"))).collect()
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
            DataType::FixedSizeBinary(_) => {
                properties = properties
                    .set_column_dictionary_enabled(path.clone(), false)
                    .set_column_compression(path.clone(), Compression::UNCOMPRESSED)
                    .set_column_statistics_enabled(path, EnabledStatistics::None);
            }
            DataType::UInt64 | DataType::Timestamp(_, _) => {
                properties = properties
                    .set_column_dictionary_enabled(path.clone(), false)
                    .set_column_encoding(path, Encoding::DELTA_BINARY_PACKED);
            }
            _ => {}
        }
    }
    properties.build()
}

/// All rows of a Parquet file, in the named columns or in all of them.
///
/// # Errors
/// In words, when they cannot be read.
pub fn read_rows(bytes: Bytes, named: Option<&[&str]>) -> Result<RecordBatch, String> {
    let read = || -> Result<RecordBatch, Box<dyn std::error::Error>> {
        let mut builder = ParquetRecordBatchReaderBuilder::try_new(bytes)?;
        if let Some(named) = named {
            let mask = ProjectionMask::columns(builder.parquet_schema(), named.iter().copied());
            builder = builder.with_projection(mask);
        }
        let rows = usize::try_from(builder.metadata().file_metadata().num_rows()).unwrap_or(0);
        let reader = builder.with_batch_size(rows.clamp(1, 1 << 20)).build()?;
        let schema = reader.schema();
        let batches = reader.collect::<Result<Vec<_>, _>>()?;
        Ok(match batches.as_slice() {
            [one] => one.clone(),
            many => concat_batches(&schema, many)?,
        })
    };
    // The decoder panics on some damaged files where it should give an error.
    match catch_unwind(AssertUnwindSafe(read)) {
        Ok(read) => read.map_err(|error| error.to_string()),
        Err(_) => Err("the decoder gave up on it".to_owned()),
    }
}

/// What a commit says of its interval.
#[derive(Clone, Debug)]
pub struct Interval {
    /// Where it ends.
    pub upper: Tick,
    /// The plan whose output it is.
    pub plan: Digest,
    /// The heads of the log's chains at `upper`.
    pub log: LogHeads,
    /// The files of all tables.
    pub files: Vec<TableFile>,
}

/// The commits of a store, checked link by link.
#[derive(Clone, Debug, Default)]
pub struct Commits {
    /// In order. Copies share them.
    pub list: Vec<Arc<Commit>>,
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
            if commit.recipe != MANIFEST || commit.text().as_bytes() != bytes {
                return Err(broken("is not in its canonical form".to_owned()));
            }
            if commit.check != commit.checked() {
                return Err(broken("was changed after it was written".to_owned()));
            }
            if commit.number != commits.list.len() as u64 {
                return Err(broken(format!(
                    "has number {} where {} follows",
                    commit.number,
                    commits.list.len()
                )));
            }
            if commit.previous != commits.head || commit.lower != commits.upper() {
                return Err(broken(match commits.list.last() {
                    None => "does not begin where the first commit must".to_owned(),
                    Some(last) => format!("does not follow from `{}` before it", Commit::name(last.number)),
                }));
            }
            commits.head = Digest::of(&bytes);
            commits.list.push(Arc::new(commit));
        }
        Ok(commits)
    }

    /// Everything before this tick is committed.
    pub fn upper(&self) -> Tick {
        self.list.last().map_or(Tick::ZERO, |commit| commit.upper)
    }

    /// Publishes the interval from [`Self::upper`] on.
    ///
    /// A commit is the store's last chance to be caught in a lie, so before it names a file it looks
    /// whether it is there, and then it reads itself back.
    ///
    /// # Errors
    /// When the store refuses, or does not have what it acknowledged; another commit with its number is a
    /// conflict.
    pub fn publish(
        &mut self,
        interval: Interval,
        signer: Option<&Signer>,
        store: &Store,
    ) -> Result<(), TableError> {
        let Interval { upper, plan, log, mut files } = interval;
        files.sort();
        for file in &files {
            store.confirm_length(&file.name, file.bytes)?;
        }
        let mut commit = Commit {
            recipe: MANIFEST.to_owned(),
            number: self.list.len() as u64,
            lower: self.upper(),
            upper,
            previous: self.head,
            plan,
            build: Build::this(),
            log: log.0,
            files,
            check: Digest::default(),
            signature: None,
        };
        commit.check = commit.checked();
        commit.signature = signer.map(|signer| signer.sign(commit.text().as_bytes()));
        let text = commit.text();
        let name = Commit::name(commit.number);
        store.create(&name, text.as_bytes())?;
        store.confirm(&name, text.as_bytes())?;
        self.head = Digest::of(text.as_bytes());
        tracing::info!(
            commit = commit.number,
            upper = commit.upper.0,
            plan = %commit.plan,
            manifest = %self.head,
            files = commit.files.len(),
            rows = commit.files.iter().map(|file| file.rows).sum::<u64>(),
            "commit published"
        );
        self.list.push(Arc::new(commit));
        Ok(())
    }

    /// The digest of the newest commit, by which the next one names it; zeros before the first.
    pub fn head(&self) -> Digest {
        self.head
    }

    /// The heads of the log's chains at [`Self::upper`].
    pub fn log_heads(&self) -> LogHeads {
        LogHeads(self.list.last().map(|commit| commit.log.clone()).unwrap_or_default())
    }

    /// How far the chain of each partition of a sealed table has come.
    pub fn chains(&self, table: &str) -> BTreeMap<u16, Chain> {
        self.files_of(table).filter_map(|file| Some((file.partition, file.seal?.chain))).collect()
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
