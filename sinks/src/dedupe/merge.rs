//! Makes one run of several that follow each other, reading and writing them in order of their keys.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::filter::Filter;
use super::run::{self, Run, RunReader, RunWriter};
use super::{DedupeError, Seen};

/// How many entries are merged between two looks at the order to stop.
const STOP_ENTRIES: u64 = 1 << 14;

/// Writes all entries of `runs`, from the oldest to the newest, as one run, and removes their files.
///
/// Where several have a key, the oldest one's entry is kept. `None` when it was told to stop.
pub(super) fn merge(
    folder: &Path,
    runs: &[Arc<Run>],
    stop: &AtomicBool,
) -> Result<Option<(Run, Filter)>, DedupeError> {
    let follows = |pair: &[Arc<Run>]| pair[0].upper() == pair[1].lower();
    assert!(runs.windows(2).all(follows), "merged runs leave a gap or overlap");
    let (lower, upper) = (runs[0].lower(), runs[runs.len() - 1].upper());
    let entries_max = runs.iter().map(|run| run.entries()).sum();
    let mut writer = RunWriter::create(folder, lower, upper, entries_max)?;

    let mut readers: Vec<RunReader> = runs.iter().map(|run| RunReader::new(run)).collect();
    let mut heads = readers.iter_mut().map(RunReader::next).collect::<Result<Vec<_>, _>>()?;
    let mut written = 0;
    while let Some((key, seen)) = least(&heads) {
        writer.push(key, &seen)?;
        for (reader, head) in readers.iter_mut().zip(&mut heads) {
            if head.is_some_and(|(other, _)| other == key) {
                *head = reader.next()?;
            }
        }
        written += 1;
        if written % STOP_ENTRIES == 0 && stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
    }
    let merged = writer.finish()?;
    for old in runs {
        run::remove(old.path())?;
    }
    Ok(Some(merged))
}

/// The entry of the least key, and of those the oldest.
fn least(heads: &[Option<(u128, Seen)>]) -> Option<(u128, Seen)> {
    heads.iter().flatten().min_by_key(|(key, _)| *key).copied()
}
