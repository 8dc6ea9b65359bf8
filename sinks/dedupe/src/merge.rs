//! Makes one run of several that follow each other, reading and writing them in order of their
//! keys.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tidegate_host::Files;

use crate::entry::FirstSeen;
use crate::run::{self, MadeRun, Run, RunReader, RunWriter};

/// How many entries are merged between two checks whether to stop.
const STOP_ENTRIES: u64 = 1 << 14;

/// Writes all entries of `runs`, which are in order from the oldest to the newest, as one run, and
/// removes their files.
///
/// Where several runs have a key, the entry of the oldest stays.
pub(super) fn merge(files: &Arc<dyn Files>, folder: &Path, runs: &[Arc<Run>], stop: &AtomicBool) -> MadeRun {
    let follows = |pair: &[Arc<Run>]| pair[0].upper() == pair[1].lower();
    assert!(runs.windows(2).all(follows), "merged runs leave a gap or overlap");
    let (lower, upper) = (runs[0].lower(), runs[runs.len() - 1].upper());
    let entries_max = runs.iter().map(|run| run.entries()).sum();
    let mut writer = RunWriter::create(files, folder, (lower, upper), entries_max)?;

    let mut readers: Vec<RunReader> = runs.iter().map(|run| RunReader::new(run)).collect();
    let mut heads = readers.iter_mut().map(RunReader::next).collect::<Result<Vec<_>, _>>()?;
    let mut written = 0;
    while let Some((key, fact)) = least(&heads) {
        writer.push(key, &fact)?;
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
        run::remove(&**files, old.path())?;
    }
    Ok(Some(merged))
}

/// The entry of the least key, and of those the oldest.
fn least(heads: &[Option<(u128, FirstSeen)>]) -> Option<(u128, FirstSeen)> {
    heads.iter().flatten().min_by_key(|(key, _)| *key).copied()
}
