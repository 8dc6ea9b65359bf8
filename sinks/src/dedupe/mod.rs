//! Which events are facts already: an exact index on disk, derived from the log.
//!
//! New entries gather in a table in memory. When it is large enough, a thread writes it as a sorted run
//! that covers a range of ticks, while the next table fills; another thread merges runs, so that their
//! number grows with the logarithm of the entries. A look-up asks each run, from the oldest on, then the
//! tables; a filter in memory spares it nearly every run that does not have the key.
//!
//! Keys are digests, or halves of digests: they are used as hashes as they are.
//!
//! Invariants:
//! * The runs cover the ticks from zero on without gaps, and hold only facts that are durable in the log.
//! * [`DedupeIndex::get`] gives the first fact inserted under a key. A later one stays out, so when a crash
//!   loses it, nothing is missing. Damage is an error, never another answer.
//! * When threads finish decides where an entry stands, and nothing else.
//!
//! Memory, of which `memory_bytes` is the bound: a sixth each for the table that fills, for the one that is
//! written and for sorting that one; a sixteenth for blocks of runs that were read; the rest for filters (10
//! bits an entry) and the first keys of blocks (1.5 bits). When the filters do not fit, the largest runs do
//! without, and each look-up reads a block of them. Beyond the bound go only the first keys, the filter of
//! a run that is being merged, and 256 KiB for each run that is merged.

mod filter;
mod merge;
mod run;

use std::collections::HashMap;
use std::fs;
use std::hash::{BuildHasherDefault, Hasher};
use std::io;
use std::mem;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use tidegate_facts::Tick;

use filter::Filter;
use run::{BLOCK_BYTES, BlockCache, ENTRY_BYTES, Run, RunWriter};

/// So many runs of like size are merged into one, at least.
const MERGE_RUNS_MIN: usize = 4;
/// With so many runs, look-ups are slow enough that writing waits for merging.
const RUNS_MAX: usize = 32;
/// The smallest table, so that the index works with whatever memory it gets.
const BUCKETS_MIN: u64 = 64;

/// What the index knows of a fact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The first half of the payload's digest.
    pub payload: u128,
    /// The fact's tick.
    pub tick: Tick,
    /// The fact's offset.
    pub offset: u64,
}

/// Why the index could not be opened, asked or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DedupeError {
    /// The operating system refused to read.
    #[error("cannot read `{path}`; check that it exists and that this user may read it")]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// What was refused.
        source: io::Error,
    },

    /// The operating system refused to write or to make durable.
    #[error("cannot write `{path}`; check that the disk is whole and has room, then start again")]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// What was refused.
        source: io::Error,
    },

    /// A run that is not what was written. Its file is gone.
    #[error(
        "run `{path}` of the dedupe index was damaged: {detail}; it has been removed: \
         start again, and the index is built again from the log"
    )]
    Damaged {
        /// The file of the run.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
}

/// The index of all facts by the key of their event.
///
/// Its folder belongs to one index at a time; the lock of the log it is derived from sees to that.
pub struct DedupeIndex {
    folder: PathBuf,
    recent: Table,
    /// The greatest tick in `recent`.
    recent_last: Tick,
    table_bytes: u64,
    /// At so many entries `recent` is written.
    recent_entries_max: usize,
    frozen: Option<Frozen>,
    /// From the oldest to the newest.
    runs: Vec<Filtered>,
    cache: BlockCache,
    filter_bytes_max: usize,
    writing: Option<Job>,
    merging: Option<Merge>,
    /// Every fact below is in a run or in `frozen`.
    covered: Tick,
    /// Every fact below is in the index.
    upper: Tick,
    stop: Arc<AtomicBool>,
}

type Table = HashMap<u128, Seen, BuildHasherDefault<KeyHasher>>;
/// A thread that makes a run, or nothing when it is told to stop.
type Job = JoinHandle<Result<Option<(Run, Filter)>, DedupeError>>;

/// A table that is written as the run of `[lower, upper)`.
struct Frozen {
    table: Arc<Table>,
    lower: Tick,
    upper: Tick,
}

struct Filtered {
    run: Arc<Run>,
    /// `None` when there is no memory for it.
    filter: Option<Filter>,
}

struct Merge {
    job: Job,
    /// The ticks of the runs that are merged.
    lower: Tick,
    upper: Tick,
}

impl DedupeIndex {
    /// Opens the index in `folder`, or begins one, and returns it with the tick up to which it is complete.
    ///
    /// Every fact below that tick is in the index; the caller inserts those of the log from there on. A run
    /// that does not match its checksums is removed, with all later ones. So is one that reaches beyond
    /// `log_upper`, where the log ends: it knows facts that the log has lost.
    ///
    /// # Errors
    /// When the file system refuses something.
    pub fn open(
        folder: &Path,
        memory_bytes: u64,
        log_upper: Tick,
    ) -> Result<(DedupeIndex, Tick), DedupeError> {
        fs::create_dir_all(folder)
            .map_err(|source| DedupeError::Write { path: folder.to_owned(), source })?;
        let mut runs = Vec::new();
        let mut covered = Tick::ZERO;
        for file in run::list(folder)? {
            let opened = if file.lower > covered {
                Err("the run before it is missing".to_owned())
            } else if file.lower < covered {
                Err("it was merged into another".to_owned())
            } else if file.upper > log_upper {
                Err("it knows facts that are not in the log".to_owned())
            } else {
                match Run::open(&file) {
                    Ok(opened) => Ok(opened),
                    Err(DedupeError::Damaged { detail, .. }) => Err(detail),
                    Err(other) => return Err(other),
                }
            };
            match opened {
                Ok((run, filter)) => {
                    covered = file.upper;
                    runs.push(Filtered { run: Arc::new(run), filter: Some(filter) });
                }
                Err(detail) => {
                    tracing::warn!(run = %file.path.display(), detail, "a run of the dedupe index is removed");
                    run::remove(&file.path)?;
                }
            }
        }
        // A removed run must not come back after a power cut, when the log has grown beyond it again.
        run::sync_folder(folder)?;
        let table_bytes = memory_bytes / 6;
        let (recent_entries_max, recent) = table(table_bytes);
        let cache_bytes = memory_bytes / 16;
        let mut index = DedupeIndex {
            folder: folder.to_owned(),
            recent,
            recent_last: Tick::ZERO,
            table_bytes,
            recent_entries_max,
            frozen: None,
            runs,
            cache: BlockCache::new(cache_bytes as usize / BLOCK_BYTES),
            filter_bytes_max: (memory_bytes / 2 - cache_bytes) as usize,
            writing: None,
            merging: None,
            covered,
            upper: covered,
            stop: Arc::new(AtomicBool::new(false)),
        };
        index.fit_filters();
        Ok((index, covered))
    }

    /// The first fact with this key.
    ///
    /// # Errors
    /// When a run cannot be read, or is damaged.
    pub fn get(&mut self, key: u128) -> Result<Option<Seen>, DedupeError> {
        for Filtered { run, filter } in &self.runs {
            if filter.as_ref().is_none_or(|filter| filter.may_have(key))
                && let Some(seen) = run.get(key, &mut self.cache)?
            {
                return Ok(Some(seen));
            }
        }
        let frozen = self.frozen.as_ref().and_then(|frozen| frozen.table.get(&key));
        Ok(frozen.or_else(|| self.recent.get(&key)).copied())
    }

    /// Remembers a fact, unless one with its key is known: the first one stays.
    ///
    /// # Panics
    /// When the fact lies below the tick up to which the index was complete already.
    pub fn insert(&mut self, key: u128, seen: Seen) {
        assert!(seen.tick >= self.upper, "a fact is inserted after the index has passed its tick");
        self.recent_last = self.recent_last.max(seen.tick);
        self.recent.entry(key).or_insert(seen);
    }

    /// Says that all facts below `upper` were inserted and are durable in the log.
    ///
    /// Only such facts are written. It rarely waits: when a table is full and the one before is not yet on
    /// the disk, or when merging has fallen far behind.
    ///
    /// # Errors
    /// When a run could not be written or merged. What is in memory stays right, and the next call tries again.
    ///
    /// # Panics
    /// When `upper` goes back.
    pub fn advance(&mut self, upper: Tick) -> Result<(), DedupeError> {
        assert!(self.upper <= upper, "the log does not go back");
        self.upper = upper;
        self.install_written(false)?;
        self.install_merged(false)?;
        if self.recent.len() >= self.recent_entries_max {
            // A table whose writing failed is written again, once more in front of this one.
            while self.frozen.is_some() {
                self.start_writing();
                self.install_written(true)?;
            }
            self.freeze();
        }
        self.start_writing();
        self.start_merging();
        if self.runs.len() > RUNS_MAX {
            self.install_merged(true)?;
        }
        Ok(())
    }

    /// Moves the facts below `upper` out of the way of new ones.
    fn freeze(&mut self) {
        let (_, next) = table(self.table_bytes);
        let mut table = mem::replace(&mut self.recent, next);
        if self.recent_last >= self.upper {
            let upper = self.upper;
            self.recent.extend(table.extract_if(|_, seen| seen.tick >= upper));
        }
        if !table.is_empty() {
            self.frozen = Some(Frozen { table: Arc::new(table), lower: self.covered, upper: self.upper });
            self.covered = self.upper;
        }
    }

    fn start_writing(&mut self) {
        if let Some(Frozen { table, lower, upper }) = &self.frozen
            && self.writing.is_none()
        {
            let (folder, table, stop) = (self.folder.clone(), Arc::clone(table), Arc::clone(&self.stop));
            let (lower, upper) = (*lower, *upper);
            self.writing = Some(thread::spawn(move || write_table(&folder, &table, lower, upper, &stop)));
        }
    }

    fn start_merging(&mut self) {
        let sizes: Vec<u64> = self.runs.iter().map(|filtered| filtered.run.entries()).collect();
        let count = merge_count(&sizes);
        if count == 0 || self.merging.is_some() {
            return;
        }
        let runs: Vec<Arc<Run>> =
            self.runs[self.runs.len() - count..].iter().map(|filtered| Arc::clone(&filtered.run)).collect();
        let (lower, upper) = (runs[0].lower(), runs[count - 1].upper());
        let (folder, stop) = (self.folder.clone(), Arc::clone(&self.stop));
        let job = thread::spawn(move || merge::merge(&folder, &runs, &stop));
        self.merging = Some(Merge { job, lower, upper });
    }

    fn install_written(&mut self, wait: bool) -> Result<(), DedupeError> {
        if let Some(job) = self.writing.take_if(|job| wait || job.is_finished())
            && let Some((run, filter)) = finish(job)?
        {
            self.runs.push(Filtered { run: Arc::new(run), filter: Some(filter) });
            self.frozen = None;
            self.fit_filters();
        }
        Ok(())
    }

    fn install_merged(&mut self, wait: bool) -> Result<(), DedupeError> {
        if let Some(Merge { job, lower, upper }) =
            self.merging.take_if(|merge| wait || merge.job.is_finished())
            && let Some((run, filter)) = finish(job)?
        {
            let first = self.runs.iter().position(|old| old.run.lower() == lower);
            let last = self.runs.iter().position(|old| old.run.upper() == upper);
            let (first, last) = first.zip(last).expect("runs stay until they are merged");
            self.runs.splice(first..=last, [Filtered { run: Arc::new(run), filter: Some(filter) }]);
            self.fit_filters();
        }
        Ok(())
    }

    /// Drops the filters of the largest runs until the rest fit. One is worth as much as another, as each
    /// look-up asks each run.
    fn fit_filters(&mut self) {
        let mut by_size: Vec<&mut Filtered> = self.runs.iter_mut().collect();
        by_size.sort_by_key(|filtered| filtered.run.entries());
        let mut left = self.filter_bytes_max;
        for filtered in by_size {
            left = left.saturating_sub(filtered.run.index_bytes());
            let bytes = filtered.filter.as_ref().map_or(0, Filter::bytes);
            if bytes > left {
                filtered.filter = None;
            } else {
                left -= bytes;
            }
        }
    }
}

impl Drop for DedupeIndex {
    /// Stops the threads. What was not written is in the log.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for job in self.writing.take().into_iter().chain(self.merging.take().map(|merge| merge.job)) {
            if let Ok(Err(error)) = job.join() {
                tracing::warn!(%error, "the dedupe index was closed over a failed write");
            }
        }
    }
}

/// An empty table of at most `bytes`, and the number of entries at which it counts as full.
///
/// It is never grown while it fills, as that would stop the stream for as long as it takes to copy; so
/// the number leaves room for the facts of one group.
fn table(bytes: u64) -> (usize, Table) {
    let bucket_bytes = mem::size_of::<(u128, Seen)>() as u64 + 1;
    let buckets = (bytes / bucket_bytes + 1).next_power_of_two() / 2;
    let capacity = buckets.max(BUCKETS_MIN) as usize / 8 * 7;
    (capacity / 8 * 7, Table::with_capacity_and_hasher(capacity, BuildHasherDefault::default()))
}

/// How many of the newest runs to merge, given the sizes of all from the oldest on; 0 for none.
///
/// A run is merged with the newer ones unless it is larger than all of them together. So at rest, but for
/// the newest few, each run is larger than all newer ones together, whatever their sizes were.
fn merge_count(sizes: &[u64]) -> usize {
    let mut newer = 0;
    let mut count = 0;
    for (place, size) in sizes.iter().rev().enumerate() {
        if place > 0 && *size > newer {
            break;
        }
        newer += size;
        count += 1;
    }
    if count >= MERGE_RUNS_MIN { count } else { 0 }
}

fn finish(job: Job) -> Result<Option<(Run, Filter)>, DedupeError> {
    job.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn write_table(
    folder: &Path,
    table: &Table,
    lower: Tick,
    upper: Tick,
    stop: &AtomicBool,
) -> Result<Option<(Run, Filter)>, DedupeError> {
    let mut entries: Vec<(u128, Seen)> = table.iter().map(|(key, seen)| (*key, *seen)).collect();
    entries.sort_unstable_by_key(|(key, _)| *key);
    let mut writer = RunWriter::create(folder, lower, upper, entries.len() as u64)?;
    for chunk in entries.chunks((1 << 20) / ENTRY_BYTES) {
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        for (key, seen) in chunk {
            writer.push(*key, seen)?;
        }
    }
    writer.finish().map(Some)
}

/// Takes a key for its own hash.
#[derive(Default)]
struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn write_u128(&mut self, key: u128) {
        self.0 = key as u64;
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("keys are numbers of 128 bits");
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
