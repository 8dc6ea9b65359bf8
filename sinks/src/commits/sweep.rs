//! Removes the table files that no commit names, and the files that killed processes left
//! unfinished, once they are old enough that no run can need them.

use std::collections::BTreeSet;

use tidegate_facts::Tick;

use super::file::TABLES;
use super::{Commit, Commits, TableError, interval_of};
use crate::store::{Store, StoreError};

/// The age of a commit below which files without a commit stay, and that of unfinished files below
/// which they do: a day.
const AGE_MICROS_MIN: i64 = 24 * 60 * 60 * 1_000_000;

/// What a sweep removed from a store: table files that no commit names, and unfinished files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// The names of the table files that no commit names, sorted.
    pub files: Vec<String>,
    /// The names of the files that a create left unfinished, sorted.
    pub unfinished: Vec<String>,
}

impl Commits {
    /// Removes every table file that no commit names and that ends at or before the upper tick of a
    /// commit that is more than a day old; and every unfinished file that is more than a day old.
    ///
    /// `now_micros` is the time in microseconds since 1970 UTC; the ages are those of the commit
    /// objects by the store's clock. These commits are all of the store. No run writes files below
    /// a commit, so this may run beside one.
    ///
    /// # Errors
    /// When the store cannot be listed, or a file cannot be removed.
    pub fn sweep(&self, store: &Store, now_micros: i64) -> Result<Swept, TableError> {
        let unfinished = store.remove_unfinished(now_micros - AGE_MICROS_MIN)?;
        for file in &unfinished {
            tracing::info!(file, "removed a file that a process left unfinished when it was killed");
        }
        let mut swept = Swept { files: Vec::new(), unfinished };
        let Some(limit) = self.upper_before(store, now_micros - AGE_MICROS_MIN)? else { return Ok(swept) };
        let named: BTreeSet<&str> =
            self.list.iter().flat_map(|commit| &commit.files).map(|file| file.name.as_str()).collect();
        for table in store.list(TABLES)? {
            for name in store.list(&table)? {
                let is_old = interval_of(&name).is_some_and(|interval| interval.end <= limit);
                if is_old && !named.contains(name.as_str()) {
                    store.delete(&name)?;
                    tracing::info!(file = name, "removed a table file that no commit names");
                    swept.files.push(name);
                }
            }
        }
        Ok(swept)
    }

    /// The upper tick of the newest commit that was created before this moment by the store's
    /// clock.
    fn upper_before(&self, store: &Store, micros: i64) -> Result<Option<Tick>, StoreError> {
        // Commits are created one after another, so their ages descend.
        let (mut old, mut young) = (0, self.list.len());
        while old < young {
            let middle = old + (young - old) / 2;
            if store.head(&Commit::name(self.list[middle].number))?.modified_micros < micros {
                old = middle + 1;
            } else {
                young = middle;
            }
        }
        Ok(old.checked_sub(1).map(|last| self.list[last].upper))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use arrow::array::{ArrayRef, Int64Array, RecordBatch};
    use tidegate_facts::Digest;
    use tidegate_host::SimulatedHost;

    use super::*;
    use crate::commits::{CommitInterval, TableBuffer, TableFile, TableFileFormat};
    use crate::hash_chains::LogHeads;
    use crate::store::{FaultSchedule, LocalBackend, RetryPolicy, SimulatedBackend};

    fn write(store: &Store, lower: i64, upper: i64, value: i64) -> Vec<TableFile> {
        let ticks: ArrayRef = Arc::new(Int64Array::from(vec![lower]));
        let values: ArrayRef = Arc::new(Int64Array::from(vec![value]));
        let rows = RecordBatch::try_from_iter([("_tick", ticks), ("value", values)]).unwrap();
        let mut buffer = TableBuffer::new("t", rows.schema(), TableFileFormat::Parquet, Tick(lower));
        buffer.insert(&rows);
        buffer.write_before(Tick(upper), store).unwrap()
    }

    #[test]
    fn only_unnamed_files_below_a_commit_of_the_day_before_are_removed() {
        let machine = SimulatedHost::new(1);
        let host = machine.host();
        let backend = SimulatedBackend::in_memory(FaultSchedule::none()).on_host(&host);
        let store = Store::over(Arc::new(backend), RetryPolicy::default()).on_host(&host);
        let mut commits = Commits::default();
        assert_eq!(commits.sweep(&store, 0).unwrap(), Swept::default());
        let mut left = Vec::new();
        for interval in 0..3 {
            let (lower, upper) = (10 * interval, 10 * interval + 10);
            // A run that was killed, and another build after it: the same interval in other bytes.
            left.push(write(&store, lower, upper, -1).remove(0).name);
            let files = write(&store, lower, upper, 1);
            let plan = Digest::of(b"plan");
            let interval = CommitInterval { upper: Tick(upper), plan, log: LogHeads::default(), files };
            commits.publish(interval, None, &store).unwrap();
            machine.clock.advance(Duration::from_secs(60 * 60));
        }
        let sweep = || commits.sweep(&store, host.clock.wall_micros()).unwrap().files;
        assert_eq!(sweep(), [""; 0], "all commits are young");
        machine.clock.advance(Duration::from_secs(22 * 60 * 60));
        assert_eq!(sweep(), left[..1], "25, 24 and 23 hours");
        machine.clock.advance(Duration::from_secs(2 * 60 * 60));
        assert_eq!(sweep(), left[1..]);
        assert_eq!(sweep(), [""; 0]);
        let stored = store.list("tables/t").unwrap();
        let named: Vec<&str> = commits.files_of("t").map(|file| file.name.as_str()).collect();
        assert_eq!(stored, named);
    }

    #[test]
    fn what_a_killed_process_left_unfinished_is_removed_after_a_day() {
        let machine = SimulatedHost::new(1);
        let host = machine.host();
        let root = std::path::Path::new("/store");
        let backend = LocalBackend::open_on(Arc::clone(&host.files), root).unwrap();
        let store = Store::over(Arc::new(backend), RetryPolicy::default()).on_host(&host);
        store.create("commits/0.json", b"whole").unwrap();
        let leave = |name: &str| {
            let file = host.files.open(&root.join(name), tidegate_host::OpenMode::CreateNew).unwrap();
            file.write_at(b"half", 0).unwrap();
        };
        leave("commits/1.json.unfinished-7-0");
        machine.clock.advance(Duration::from_secs(2 * 60 * 60));
        leave("probe.unfinished-8-0");
        let sweep = || Commits::default().sweep(&store, host.clock.wall_micros()).unwrap().unfinished;
        assert_eq!(sweep(), [""; 0], "both are young");
        machine.clock.advance(Duration::from_secs(23 * 60 * 60));
        assert_eq!(sweep(), ["commits/1.json.unfinished-7-0"], "25 and 23 hours");
        machine.clock.advance(Duration::from_secs(2 * 60 * 60));
        assert_eq!(sweep(), ["probe.unfinished-8-0"]);
        assert_eq!(store.get("commits/0.json").unwrap(), "whole", "an object stays, however old it is");
    }
}
