//! A run: a file of entries sorted by key, that covers a range of ticks and is never changed.
//!
//! Its name is `<lower>-<upper>.run`, each tick in 20 digits. It consists of blocks of 4096 bytes
//! and a footer. All numbers are little endian.
//!
//! | at | bytes | a block |
//! |---|---|---|
//! | 0 | 85 x 48 | entries: 16 bytes key, 16 payload, 8 tick, 8 offset; then zeros |
//! | 4080 | 8 | number of the block, from 0 |
//! | 4088 | 4 | zeros |
//! | 4092 | 4 | CRC-32 (IEEE) of the bytes before |
//!
//! | at | bytes | the footer |
//! |---|---|---|
//! | 0 | 8 | `TIDESEEN` |
//! | 8 | 8 | version of the format, 2 |
//! | 16 | 8 | number of entries |
//! | 24 | 8 | lower |
//! | 32 | 8 | upper |
//! | 40 | 20 | zeros |
//! | 60 | 4 | CRC-32 of the bytes before |
//!
//! The first keys of the blocks and the filter are not stored: a run is read and checked as a whole
//! when it is opened, which gives both.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tidegate_facts::Tick;
use tidegate_host::{Files, OpenFile, OpenMode};

use crate::entry::FirstSeen;
use crate::error::DedupeError;
use crate::filter::Filter;

pub(super) const BLOCK_BYTES: usize = 4096;
pub(super) const ENTRY_BYTES: usize = 48;
const BLOCK_ENTRIES: usize = 85;
const FOOTER_BYTES: usize = 64;
const MAGIC: [u8; 8] = *b"TIDESEEN";
const VERSION: u64 = 2;
/// How many blocks are read at once where all are read.
const CHUNK_BLOCKS: u64 = 64;
/// How much is written before it is synced, so that the log's own syncs never wait behind a whole
/// run.
const SYNC_BYTES: u64 = 4 << 20;
/// The ending of a run that is being written.
const PARTIAL: &str = "partial";

/// A run, open for reading.
pub(super) struct Run {
    /// Distinguishes its blocks from those of other runs in the cache.
    id: u64,
    files: Arc<dyn Files>,
    file: Arc<dyn OpenFile>,
    path: PathBuf,
    lower: Tick,
    upper: Tick,
    entries: u64,
    first_keys: Vec<u128>,
}

/// A run and its filter; `None` when the thread that makes them was stopped.
pub(super) type MadeRun = Result<Option<(Run, Filter)>, DedupeError>;

/// A file with the name of a run.
pub(super) struct RunFile {
    pub(super) path: PathBuf,
    pub(super) lower: Tick,
    pub(super) upper: Tick,
}

/// The files of runs, by the tick at which they begin, and then the longer first.
///
/// Files that were not finished are removed.
pub(super) fn list(files: &dyn Files, folder: &Path) -> Result<Vec<RunFile>, DedupeError> {
    let listed =
        files.list(folder).map_err(|source| DedupeError::Read { path: folder.to_owned(), source })?;
    let mut runs = Vec::new();
    for path in listed {
        if path.extension().is_some_and(|ending| ending == PARTIAL) {
            remove(files, &path)?;
        } else if let Some((lower, upper)) = ticks_of(&path) {
            runs.push(RunFile { path, lower, upper });
        }
    }
    runs.sort_by_key(|run| (run.lower, std::cmp::Reverse(run.upper)));
    Ok(runs)
}

/// Removes a file if it exists.
pub(super) fn remove(files: &dyn Files, path: &Path) -> Result<(), DedupeError> {
    match files.remove(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(DedupeError::Write { path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// Makes the names in the folder durable.
pub(super) fn sync_folder(files: &dyn Files, folder: &Path) -> Result<(), DedupeError> {
    files.sync_folder(folder).map_err(|source| DedupeError::Write { path: folder.to_owned(), source })
}

fn ticks_of(path: &Path) -> Option<(Tick, Tick)> {
    let (lower, upper) = path.file_name()?.to_str()?.strip_suffix(".run")?.split_once('-')?;
    Some((Tick(lower.parse().ok()?), Tick(upper.parse().ok()?)))
}

impl Run {
    /// Reads and checks all of the run.
    pub(super) fn open(files: &Arc<dyn Files>, file: &RunFile) -> Result<(Run, Filter), DedupeError> {
        let path = file.path.clone();
        let read_error = |source| DedupeError::Read { path: path.clone(), source };
        let damaged = |detail: &str| DedupeError::Damaged { path: path.clone(), detail: detail.to_owned() };
        let opened = files.open(&path, OpenMode::Read).map_err(read_error)?;
        let bytes = opened.len().map_err(read_error)?;

        let mut footer = [0; FOOTER_BYTES];
        let footer_at = bytes.checked_sub(FOOTER_BYTES as u64).ok_or_else(|| damaged("it is cut off"))?;
        opened.read_exact_at(&mut footer, footer_at).map_err(read_error)?;
        let entries = u64_at(&footer, 16);
        if footer != encode_footer(entries, file.lower, file.upper) {
            return Err(damaged("its footer differs from what was written"));
        }
        if footer_at != entries.div_ceil(BLOCK_ENTRIES as u64) * BLOCK_BYTES as u64 {
            return Err(damaged("it does not have the length that its footer states"));
        }

        let mut run = Run::new((Arc::clone(files), opened), path.clone(), (file.lower, file.upper), entries);
        let mut filter = Filter::new(entries);
        let mut first_keys = Vec::new();
        let mut last = None;
        let mut reader = RunReader::new(&run);
        while let Some((key, _)) = reader.next()? {
            if last.is_some_and(|last| last >= key) {
                return Err(damaged("its keys are not in order"));
            }
            if reader.count % BLOCK_ENTRIES as u64 == 1 {
                first_keys.push(key);
            }
            filter.insert(key);
            last = Some(key);
        }
        run.first_keys = first_keys;
        Ok((run, filter))
    }

    fn new(
        (files, file): (Arc<dyn Files>, Arc<dyn OpenFile>),
        path: PathBuf,
        (lower, upper): (Tick, Tick),
        entries: u64,
    ) -> Run {
        static IDS: AtomicU64 = AtomicU64::new(0);
        let id = IDS.fetch_add(1, Ordering::Relaxed);
        Run { id, files, file, path, lower, upper, entries, first_keys: Vec::new() }
    }

    pub(super) fn lower(&self) -> Tick {
        self.lower
    }

    pub(super) fn upper(&self) -> Tick {
        self.upper
    }

    pub(super) fn entries(&self) -> u64 {
        self.entries
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The size of the memory that it uses beside its filter.
    pub(super) fn index_bytes(&self) -> usize {
        self.first_keys.capacity() * size_of::<u128>()
    }

    /// The run's entry of the key.
    pub(super) fn get(&self, key: u128, cache: &mut BlockCache) -> Result<Option<FirstSeen>, DedupeError> {
        let Some(number) = self.first_keys.partition_point(|first| *first <= key).checked_sub(1) else {
            return Ok(None);
        };
        let block = cache.block(self, number as u64)?;
        let (mut low, mut high) = (0, self.block_entries(number as u64));
        while low < high {
            let middle = (low + high) / 2;
            match key_at(block, middle).cmp(&key) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return Ok(Some(fact_at(block, middle))),
            }
        }
        Ok(None)
    }

    fn block_entries(&self, number: u64) -> usize {
        (self.entries - number * BLOCK_ENTRIES as u64).min(BLOCK_ENTRIES as u64) as usize
    }

    /// Fills `bytes` with the blocks from `number` on, and checks them.
    fn read_blocks(&self, number: u64, bytes: &mut [u8]) -> Result<(), DedupeError> {
        if let Err(source) = self.file.read_exact_at(bytes, number * BLOCK_BYTES as u64) {
            return match source.kind() {
                io::ErrorKind::UnexpectedEof => Err(self.damaged("it is cut off".to_owned())),
                _ => Err(DedupeError::Read { path: self.path.clone(), source }),
            };
        }
        for (number, block) in (number..).zip(bytes.chunks_exact(BLOCK_BYTES)) {
            if u32_at(block, BLOCK_BYTES - 4) != crc32fast::hash(&block[..BLOCK_BYTES - 4]) {
                return Err(self.damaged(format!("block {number} does not match its checksum")));
            }
            if u64_at(block, BLOCK_BYTES - 16) != number {
                return Err(self.damaged(format!("another block is in the place of block {number}")));
            }
        }
        Ok(())
    }

    /// The error that the run is damaged. Removes its file, so that the next start does not rely on
    /// it.
    fn damaged(&self, detail: String) -> DedupeError {
        match remove(&*self.files, &self.path) {
            Ok(()) => DedupeError::Damaged { path: self.path.clone(), detail },
            Err(error) => error,
        }
    }
}

/// Blocks that were read and checked lately, each in the only slot that it may have.
pub(super) struct BlockCache {
    slots: Vec<Option<CachedBlock>>,
}

struct CachedBlock {
    run: u64,
    number: u64,
    bytes: Vec<u8>,
}

impl BlockCache {
    pub(super) fn new(blocks: usize) -> BlockCache {
        BlockCache { slots: (0..blocks.max(1)).map(|_| None).collect() }
    }

    fn block(&mut self, run: &Run, number: u64) -> Result<&[u8], DedupeError> {
        let index = run.id.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(number) % self.slots.len() as u64;
        let slot = &mut self.slots[index as usize];
        let bytes = match slot.take() {
            Some(cached) if (cached.run, cached.number) == (run.id, number) => cached.bytes,
            other => {
                let mut bytes = other.map_or_else(|| vec![0; BLOCK_BYTES], |cached| cached.bytes);
                run.read_blocks(number, &mut bytes)?;
                bytes
            }
        };
        Ok(&slot.insert(CachedBlock { run: run.id, number, bytes }).bytes)
    }
}

/// Reads all entries of a run in the order of their keys.
pub(super) struct RunReader<'a> {
    run: &'a Run,
    chunk: Vec<u8>,
    /// The number of the first block in `chunk`.
    first: u64,
    /// How many entries were read.
    count: u64,
}

impl<'a> RunReader<'a> {
    pub(super) fn new(run: &'a Run) -> RunReader<'a> {
        RunReader { run, chunk: Vec::new(), first: 0, count: 0 }
    }

    pub(super) fn next(&mut self) -> Result<Option<(u128, FirstSeen)>, DedupeError> {
        if self.count == self.run.entries {
            return Ok(None);
        }
        let number = self.count / BLOCK_ENTRIES as u64;
        let mut at = (number - self.first) as usize * BLOCK_BYTES;
        if at == self.chunk.len() {
            let blocks = self.run.entries.div_ceil(BLOCK_ENTRIES as u64) - number;
            self.chunk.resize(blocks.min(CHUNK_BLOCKS) as usize * BLOCK_BYTES, 0);
            self.run.read_blocks(number, &mut self.chunk)?;
            (self.first, at) = (number, 0);
        }
        let block = &self.chunk[at..at + BLOCK_BYTES];
        let i = (self.count % BLOCK_ENTRIES as u64) as usize;
        self.count += 1;
        Ok(Some((key_at(block, i), fact_at(block, i))))
    }
}

/// Writes a run under another name, and gives it its own once it is durable.
pub(super) struct RunWriter {
    files: Arc<dyn Files>,
    file: Arc<dyn OpenFile>,
    partial: PathBuf,
    folder: PathBuf,
    lower: Tick,
    upper: Tick,
    /// Whole blocks, and the one that is being filled.
    bytes: Vec<u8>,
    /// How much was written, and how much of that since the last sync.
    written: u64,
    unsynced: u64,
    entries: u64,
    last: Option<u128>,
    first_keys: Vec<u128>,
    filter: Filter,
}

impl RunWriter {
    /// Begins the run of `[lower, upper)` with at most so many entries.
    pub(super) fn create(
        files: &Arc<dyn Files>,
        folder: &Path,
        (lower, upper): (Tick, Tick),
        entries_max: u64,
    ) -> Result<RunWriter, DedupeError> {
        let partial = folder.join(format!("{:020}-{:020}.{PARTIAL}", lower.0, upper.0));
        let file = files.open(&partial, OpenMode::Truncate);
        let file = file.map_err(|source| DedupeError::Write { path: partial.clone(), source })?;
        Ok(RunWriter {
            files: Arc::clone(files),
            file,
            partial,
            folder: folder.to_owned(),
            lower,
            upper,
            bytes: Vec::with_capacity(CHUNK_BLOCKS as usize * BLOCK_BYTES),
            written: 0,
            unsynced: 0,
            entries: 0,
            last: None,
            first_keys: Vec::with_capacity(entries_max.div_ceil(BLOCK_ENTRIES as u64) as usize),
            filter: Filter::new(entries_max),
        })
    }

    /// Appends an entry. Keys ascend.
    pub(super) fn push(&mut self, key: u128, fact: &FirstSeen) -> Result<(), DedupeError> {
        assert!(self.last.is_none_or(|last| last < key), "the keys of a run ascend");
        self.last = Some(key);
        if self.entries.is_multiple_of(BLOCK_ENTRIES as u64) {
            self.finish_block()?;
            self.first_keys.push(key);
        }
        self.bytes.extend_from_slice(&key.to_le_bytes());
        self.bytes.extend_from_slice(&fact.payload.to_le_bytes());
        self.bytes.extend_from_slice(&fact.tick.0.to_le_bytes());
        self.bytes.extend_from_slice(&fact.offset.to_le_bytes());
        self.filter.insert(key);
        self.entries += 1;
        Ok(())
    }

    /// Makes the run durable, and then visible.
    pub(super) fn finish(mut self) -> Result<(Run, Filter), DedupeError> {
        self.finish_block()?;
        self.bytes.extend(encode_footer(self.entries, self.lower, self.upper));
        let path = self.folder.join(format!("{:020}-{:020}.run", self.lower.0, self.upper.0));
        self.file
            .write_at(&self.bytes, self.written)
            .and_then(|()| self.file.sync_all())
            .and_then(|()| self.files.rename(&self.partial, &path))
            .map_err(|source| DedupeError::Write { path: path.clone(), source })?;
        sync_folder(&*self.files, &self.folder)?;
        self.first_keys.shrink_to_fit();
        let mut run = Run::new((self.files, self.file), path, (self.lower, self.upper), self.entries);
        run.first_keys = self.first_keys;
        Ok((run, self.filter))
    }

    /// Closes the block that is being filled, if there is one.
    fn finish_block(&mut self) -> Result<(), DedupeError> {
        let Some(number) = self.first_keys.len().checked_sub(1) else { return Ok(()) };
        let begin = self.bytes.len() / BLOCK_BYTES * BLOCK_BYTES;
        self.bytes.resize(begin + BLOCK_ENTRIES * ENTRY_BYTES, 0);
        self.bytes.extend((number as u64).to_le_bytes());
        self.bytes.extend([0; 4]);
        self.bytes.extend(crc32fast::hash(&self.bytes[begin..]).to_le_bytes());
        if self.bytes.len() == CHUNK_BLOCKS as usize * BLOCK_BYTES {
            self.write_chunk().map_err(|source| DedupeError::Write { path: self.partial.clone(), source })?;
        }
        Ok(())
    }

    fn write_chunk(&mut self) -> io::Result<()> {
        self.file.write_at(&self.bytes, self.written)?;
        self.written += self.bytes.len() as u64;
        self.unsynced += self.bytes.len() as u64;
        self.bytes.clear();
        if self.unsynced >= SYNC_BYTES {
            self.file.sync_data()?;
            self.unsynced = 0;
        }
        Ok(())
    }
}

fn encode_footer(entries: u64, lower: Tick, upper: Tick) -> [u8; FOOTER_BYTES] {
    let mut bytes = [0; FOOTER_BYTES];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..16].copy_from_slice(&VERSION.to_le_bytes());
    bytes[16..24].copy_from_slice(&entries.to_le_bytes());
    bytes[24..32].copy_from_slice(&lower.0.to_le_bytes());
    bytes[32..40].copy_from_slice(&upper.0.to_le_bytes());
    let crc = crc32fast::hash(&bytes[..60]);
    bytes[60..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn key_at(block: &[u8], i: usize) -> u128 {
    u128_at(block, i * ENTRY_BYTES)
}

fn fact_at(block: &[u8], i: usize) -> FirstSeen {
    let at = i * ENTRY_BYTES;
    FirstSeen {
        payload: u128_at(block, at + 16),
        tick: Tick(u64_at(block, at + 32).cast_signed()),
        offset: u64_at(block, at + 40),
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn u128_at(bytes: &[u8], at: usize) -> u128 {
    u128::from_le_bytes(bytes[at..at + 16].try_into().expect("sixteen bytes"))
}
