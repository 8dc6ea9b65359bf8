//! The dedupe index itself: a table that fills, runs on disk, and the threads that write and merge
//! them.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::mem;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tidegate_facts::Tick;
use tidegate_host::{Files, Host, JoinTask, spawn};

use crate::entry::FirstSeen;
use crate::error::DedupeError;
use crate::filter::Filter;
use crate::merge;
use crate::run::{self, BLOCK_BYTES, BlockCache, ENTRY_BYTES, MadeRun, Run, RunWriter};

/// At least so many runs of similar size are merged into one.
const MERGE_RUNS_MIN: usize = 4;
/// With so many runs, look-ups are so slow that writing waits for merging.
const RUNS_MAX: usize = 32;
/// The smallest table, so that the index works with whatever memory it gets.
const BUCKETS_MIN: u64 = 64;

/// The dedupe index: the first fact of each event, by the dedupe key of the event.
///
/// Its folder belongs to one index at a time; the lock of the log that it is derived from ensures
/// that.
pub struct DedupeIndex {
    host: Host,
    folder: PathBuf,
    recent: Table,
    /// The greatest tick in `recent`.
    recent_last: Tick,
    table_bytes: u64,
    /// The number of entries at which `recent` is written.
    recent_entries_max: usize,
    frozen: Option<Frozen>,
    /// From the oldest to the newest.
    runs: Vec<FilteredRun>,
    cache: BlockCache,
    filter_bytes_max: usize,
    writing: Option<RunTask>,
    merging: Option<Merge>,
    /// Every fact below is in a run or in `frozen`.
    covered: Tick,
    /// Every fact below is in the index.
    upper: Tick,
    stop: Arc<AtomicBool>,
}

type Table = HashMap<u128, FirstSeen, BuildHasherDefault<KeyHasher>>;
/// A thread that makes a run.
type RunTask = JoinTask<MadeRun>;

/// A table that is written as the run of `[lower, upper)`.
struct Frozen {
    table: Arc<Table>,
    lower: Tick,
    upper: Tick,
}

struct FilteredRun {
    run: Arc<Run>,
    /// `None` when there is no memory for it.
    filter: Option<Filter>,
}

/// Several runs that are merged into one.
struct Merge {
    task: RunTask,
    /// The ticks that the runs cover.
    lower: Tick,
    upper: Tick,
}

impl DedupeIndex {
    /// Opens the index in `folder`, or begins one, and returns it with the tick up to which it is
    /// complete.
    ///
    /// Every fact below that tick is in the index; the caller inserts those of the log from there
    /// on. A run that does not match its checksums is removed, with all later ones. So is one that
    /// reaches beyond `log_upper`, where the log ends: it has facts that the log has lost.
    ///
    /// # Errors
    /// When the file system refuses something.
    pub fn open(
        host: &Host,
        folder: &Path,
        memory_bytes: u64,
        log_upper: Tick,
    ) -> Result<(DedupeIndex, Tick), DedupeError> {
        let files = &host.files;
        files
            .create_folder(folder)
            .map_err(|source| DedupeError::Write { path: folder.to_owned(), source })?;
        let mut runs = Vec::new();
        let mut covered = Tick::ZERO;
        for file in run::list(&**files, folder)? {
            let opened = if file.lower > covered {
                Err("the run before it is missing".to_owned())
            } else if file.lower < covered {
                Err("it was merged into another".to_owned())
            } else if file.upper > log_upper {
                Err("it has facts that are not in the log".to_owned())
            } else {
                match Run::open(files, &file) {
                    Ok(opened) => Ok(opened),
                    Err(DedupeError::Damaged { detail, .. }) => Err(detail),
                    Err(other) => return Err(other),
                }
            };
            match opened {
                Ok((run, filter)) => {
                    covered = file.upper;
                    runs.push(FilteredRun { run: Arc::new(run), filter: Some(filter) });
                }
                Err(detail) => {
                    tracing::warn!(run = %file.path.display(), detail, "removing a run of the dedupe index");
                    run::remove(&**files, &file.path)?;
                }
            }
        }
        // A removed run must not come back after a power cut, when the log has grown beyond it
        // again.
        run::sync_folder(&**files, folder)?;
        let table_bytes = memory_bytes / 6;
        let (recent_entries_max, recent) = table(table_bytes);
        let cache_bytes = memory_bytes / 16;
        let mut index = DedupeIndex {
            host: host.clone(),
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

    /// The first fact with this dedupe key.
    ///
    /// # Errors
    /// When a run cannot be read, or is damaged.
    pub fn get(&mut self, key: u128) -> Result<Option<FirstSeen>, DedupeError> {
        for FilteredRun { run, filter } in &self.runs {
            if filter.as_ref().is_none_or(|filter| filter.may_have(key))
                && let Some(first) = run.get(key, &mut self.cache)?
            {
                return Ok(Some(first));
            }
        }
        let frozen = self.frozen.as_ref().and_then(|frozen| frozen.table.get(&key));
        Ok(frozen.or_else(|| self.recent.get(&key)).copied())
    }

    /// Adds a fact, unless the index has one with its key: the first one stays.
    ///
    /// # Panics
    /// When the fact lies below the tick up to which the index was complete already.
    pub fn insert(&mut self, key: u128, fact: FirstSeen) {
        assert!(fact.tick >= self.upper, "a fact is inserted after the index has passed its tick");
        self.recent_last = self.recent_last.max(fact.tick);
        self.recent.entry(key).or_insert(fact);
    }

    /// Moves the index to `upper`: all facts below it were inserted and are durable in the log.
    ///
    /// Only such facts are written. The call rarely waits: when a table is full and the one before
    /// is not yet on the disk, or when merging is far behind.
    ///
    /// # Errors
    /// When a run could not be written or merged. The index stays right, and the next call tries
    /// again.
    ///
    /// # Panics
    /// When `upper` goes back.
    pub fn advance(&mut self, upper: Tick) -> Result<(), DedupeError> {
        assert!(self.upper <= upper, "the log does not go back");
        self.upper = upper;
        self.install_written(false)?;
        self.install_merged(false)?;
        if self.recent.len() >= self.recent_entries_max {
            // A table whose writing failed is written again before this one is frozen.
            while self.frozen.is_some() {
                self.start_writing()?;
                self.install_written(true)?;
            }
            self.freeze();
        }
        self.start_writing()?;
        self.start_merging()?;
        if self.runs.len() > RUNS_MAX {
            self.install_merged(true)?;
        }
        Ok(())
    }

    /// Moves the facts below `upper` out of the table that fills, to be written.
    fn freeze(&mut self) {
        let (_, next) = table(self.table_bytes);
        let mut table = mem::replace(&mut self.recent, next);
        if self.recent_last >= self.upper {
            let upper = self.upper;
            self.recent.extend(table.extract_if(|_, fact| fact.tick >= upper));
        }
        if !table.is_empty() {
            self.frozen = Some(Frozen { table: Arc::new(table), lower: self.covered, upper: self.upper });
            self.covered = self.upper;
        }
    }

    fn start_writing(&mut self) -> Result<(), DedupeError> {
        if let Some(Frozen { table, lower, upper }) = &self.frozen
            && self.writing.is_none()
        {
            let (files, folder) = (Arc::clone(&self.host.files), self.folder.clone());
            let (table, stop) = (Arc::clone(table), Arc::clone(&self.stop));
            let (lower, upper) = (*lower, *upper);
            let write = move || write_table(&files, &folder, &table, (lower, upper), &stop);
            self.writing = Some(self.start("dedupe-write", write)?);
        }
        Ok(())
    }

    fn start_merging(&mut self) -> Result<(), DedupeError> {
        let sizes: Vec<u64> = self.runs.iter().map(|filtered| filtered.run.entries()).collect();
        let count = merge_count(&sizes);
        if count == 0 || self.merging.is_some() {
            return Ok(());
        }
        let newest = &self.runs[self.runs.len() - count..];
        let runs: Vec<Arc<Run>> = newest.iter().map(|filtered| Arc::clone(&filtered.run)).collect();
        let (lower, upper) = (runs[0].lower(), runs[count - 1].upper());
        let (files, folder, stop) =
            (Arc::clone(&self.host.files), self.folder.clone(), Arc::clone(&self.stop));
        let task = self.start("dedupe-merge", move || merge::merge(&files, &folder, &runs, &stop))?;
        self.merging = Some(Merge { task, lower, upper });
        Ok(())
    }

    fn start(
        &self,
        name: &str,
        make: impl FnOnce() -> MadeRun + Send + 'static,
    ) -> Result<RunTask, DedupeError> {
        spawn(&*self.host.tasks, name, make).map_err(|source| DedupeError::Thread { source })
    }

    fn install_written(&mut self, wait: bool) -> Result<(), DedupeError> {
        if let Some(task) = self.writing.take_if(|task| wait || task.is_finished())
            && let Some((run, filter)) = finish(task)?
        {
            self.runs.push(FilteredRun { run: Arc::new(run), filter: Some(filter) });
            self.frozen = None;
            self.fit_filters();
        }
        Ok(())
    }

    fn install_merged(&mut self, wait: bool) -> Result<(), DedupeError> {
        if let Some(Merge { task, lower, upper }) =
            self.merging.take_if(|merge| wait || merge.task.is_finished())
            && let Some((run, filter)) = finish(task)?
        {
            let first = self.runs.iter().position(|old| old.run.lower() == lower);
            let last = self.runs.iter().position(|old| old.run.upper() == upper);
            let (first, last) = first.zip(last).expect("runs stay until they are merged");
            let merged = FilteredRun { run: Arc::new(run), filter: Some(filter) };
            self.runs.splice(first..=last, [merged]);
            self.fit_filters();
        }
        Ok(())
    }

    /// Drops the filters of the largest runs until the rest fit. Each filter is worth the same, as
    /// each look-up asks each run.
    fn fit_filters(&mut self) {
        let mut by_size: Vec<&mut FilteredRun> = self.runs.iter_mut().collect();
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
    /// Stops the threads. Whatever was not written is in the log.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.writing.take().into_iter().chain(self.merging.take().map(|merge| merge.task)) {
            if let Ok(Err(error)) = task.join() {
                tracing::warn!(%error, "a write of the dedupe index failed before it was closed");
            }
        }
    }
}

/// An empty table of at most `bytes`, and the number of entries at which it counts as full.
///
/// It is never grown while it fills, as the gate would wait while it is copied; so the number
/// leaves room for the facts of one group.
fn table(bytes: u64) -> (usize, Table) {
    let bucket_bytes = mem::size_of::<(u128, FirstSeen)>() as u64 + 1;
    let buckets = (bytes / bucket_bytes + 1).next_power_of_two() / 2;
    let capacity = buckets.max(BUCKETS_MIN) as usize / 8 * 7;
    (capacity / 8 * 7, Table::with_capacity_and_hasher(capacity, BuildHasherDefault::default()))
}

/// How many of the newest runs to merge, given the sizes of all from the oldest on; 0 for none.
///
/// A run is merged with the newer ones unless it is larger than all of them together. So at rest,
/// but for the newest few, each run is larger than all newer ones together, whatever their sizes
/// were.
fn merge_count(sizes: &[u64]) -> usize {
    let mut newer = 0;
    let mut count = 0;
    for (index, size) in sizes.iter().rev().enumerate() {
        if index > 0 && *size > newer {
            break;
        }
        newer += size;
        count += 1;
    }
    if count >= MERGE_RUNS_MIN { count } else { 0 }
}

fn finish(task: RunTask) -> MadeRun {
    task.join().unwrap_or_else(|panic| resume_unwind(panic))
}

fn write_table(
    files: &Arc<dyn Files>,
    folder: &Path,
    table: &Table,
    (lower, upper): (Tick, Tick),
    stop: &AtomicBool,
) -> MadeRun {
    let mut entries: Vec<(u128, FirstSeen)> = table.iter().map(|(key, fact)| (*key, *fact)).collect();
    entries.sort_unstable_by_key(|(key, _)| *key);
    let mut writer = RunWriter::create(files, folder, (lower, upper), entries.len() as u64)?;
    for chunk in entries.chunks((1 << 20) / ENTRY_BYTES) {
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        for (key, fact) in chunk {
            writer.push(*key, fact)?;
        }
    }
    writer.finish().map(Some)
}

/// Uses a key as its own hash.
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
