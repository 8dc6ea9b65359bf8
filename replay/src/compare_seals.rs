//! Compares every seal of a run with the seal that the log, the code and the policies give now.
//!
//! The graph runs over the log with a [`CompareTarget`] in place of the store, so nothing is
//! written. Each interval of each sealed table gives a seal and a root, which must equal those in
//! the manifest. If they differ, the stored rows are read, and the result contains the first record
//! that differs, as it was sealed and as it was computed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex};

use arrow::array::RecordBatch;
use tidegate_dataflows::Plan;
use tidegate_dataflows::commit::TableFormat;
use tidegate_dataflows::commit::{CommitContext, CommitTarget};
use tidegate_dataflows::governance::effective_plan;
use tidegate_dataflows::metrics::RunMetrics;
use tidegate_facts::{Tick, columns};
use tidegate_host::Host;
use tidegate_operators::decision::seal::Episode;
use tidegate_sinks::commits::{
    Commit, CommitInterval, Commits, TableError, TableFile, TableSlice, read_rows, record_digests,
};
use tidegate_sinks::log::LogFolder;
use tidegate_sinks::store::Store;

use crate::verify::row_name;
use crate::{ReplayError, run_log};

/// What a comparison of seals with a replay found.
#[derive(Clone, Debug, Default)]
pub struct Compared {
    /// How many facts were replayed.
    pub facts: u64,
    /// How many commits were compared.
    pub commits: u64,
    /// How many records of sealed tables have the same seal as before.
    pub equal: u64,
    /// How many files of sealed tables have a different seal.
    pub files: u64,
    /// How many intervals of the log have no commit in the store, because the run stopped before
    /// them.
    pub uncommitted: u64,
    /// The first difference, by commit, table, partition and row.
    pub first: Option<SealDifference>,
}

/// A difference between seals and a replay: a sealed record, or a part of the log, that differs.
#[derive(Clone, Debug)]
pub struct SealDifference {
    /// The commit.
    pub commit: u64,
    /// The file in the store, or `log`.
    pub file: String,
    /// The record in it: its row, and its event id.
    pub record: String,
    /// The tick of its fact.
    pub tick: Option<Tick>,
    /// The values that differ: the name, the sealed value, the computed value.
    pub values: Vec<(String, String, String)>,
}

/// Replays the log in `data`, and compares the seals of the commits in `store` that lie in
/// `from..to`.
///
/// # Errors
/// See [`ReplayError`]; a difference is not an error but part of the result.
pub fn compare_seals(
    plan: &Arc<Plan>,
    data: &Path,
    store: &Store,
    (from, to): (Tick, Tick),
    workers: usize,
    metrics: &RunMetrics,
) -> Result<Compared, ReplayError> {
    let commits = Commits::read(store)?;
    let comparison = Arc::new(CompareTarget {
        store: store.clone(),
        commits: commits.list.iter().map(|commit| (commit.upper, Commit::clone(commit))).collect(),
        from,
        to,
        state: Mutex::default(),
    });
    let output = CommitContext::new(Arc::clone(&comparison) as Arc<dyn CommitTarget>, plan.digest);
    let plan = &effective_plan(plan, &LogFolder::of_data(&Host::real(), data), store)?;
    let facts =
        run_log(plan, &LogFolder::of_data(&Host::real(), data), store, &output, to, workers, metrics)?;
    let state = std::mem::take(&mut *comparison.state.lock().expect("no panic"));
    Ok(Compared { facts, ..state.compared })
}

/// A commit target that compares each interval with the manifests.
struct CompareTarget {
    store: Store,
    /// The commits by the upper end of their intervals.
    commits: BTreeMap<Tick, Commit>,
    from: Tick,
    to: Tick,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    compared: Compared,
    /// The files of each interval that were compared.
    compared_files: BTreeMap<Tick, BTreeSet<String>>,
}

impl CompareTarget {
    fn is_in_range(&self, lower: Tick, upper: Tick) -> bool {
        lower >= self.from && upper <= self.to
    }

    fn differ(&self, difference: SealDifference) {
        let mut state = self.state.lock().expect("no panic");
        state.compared.files += 1;
        let order = |d: &SealDifference| (d.commit, d.file.clone(), d.tick);
        if state.compared.first.as_ref().is_none_or(|first| order(&difference) < order(first)) {
            state.compared.first = Some(difference);
        }
    }
}

impl CommitTarget for CompareTarget {
    fn accepts(&self, format: TableFormat) -> bool {
        format == TableFormat::Sealed
    }

    fn write(&self, slice: &TableSlice) -> Result<Option<TableFile>, TableError> {
        let Some(commit) = self.commits.get(&slice.upper).filter(|c| self.is_in_range(c.lower, c.upper))
        else {
            return Ok(None);
        };
        let stored = slice.file_in(&commit.files);
        let name = stored.map_or_else(|| slice.name_prefix(), |file| file.name.clone());
        let mut state = self.state.lock().expect("no panic");
        state.compared_files.entry(slice.upper).or_default().insert(name.clone());
        if stored.is_some_and(|file| file.seal == slice.seal) {
            state.compared.equal += slice.rows.num_rows() as u64;
            return Ok(None);
        }
        drop(state);
        let difference = match stored {
            None => SealDifference {
                commit: commit.number,
                record: row_name(&slice.rows, 0),
                tick: Some(tick_of(&slice.rows, 0)),
                values: vec![("rows".into(), "none".into(), slice.rows.num_rows().to_string())],
                file: name,
            },
            Some(file) => {
                let rows = self.store.get(&file.name)?;
                let rows =
                    read_rows(rows, None).map_err(|what| TableError::Chain { name: name.clone(), what })?;
                first_difference(commit.number, name, &rows, &slice.rows)
            }
        };
        self.differ(difference);
        Ok(None)
    }

    fn commit(&self, interval: CommitInterval) -> Result<(), TableError> {
        let Some(commit) = self.commits.get(&interval.upper) else {
            if interval.upper <= self.to {
                self.state.lock().expect("no panic").compared.uncommitted += 1;
            }
            return Ok(());
        };
        if !self.is_in_range(commit.lower, commit.upper) {
            return Ok(());
        }
        let mut state = self.state.lock().expect("no panic");
        state.compared.commits += 1;
        let files = state.compared_files.remove(&interval.upper).unwrap_or_default();
        drop(state);
        for file in commit.files.iter().filter(|file| file.seal.is_some() && !files.contains(&file.name)) {
            self.differ(SealDifference {
                commit: commit.number,
                file: file.name.clone(),
                record: "all rows".into(),
                tick: None,
                values: vec![("rows".into(), file.rows.to_string(), "none".into())],
            });
        }
        if commit.log != interval.log.0 {
            let heads = |heads: &[tidegate_sinks::hash_chains::LogHead]| {
                let heads =
                    heads.iter().map(|h| format!("{}/{} {} {}", h.topic, h.partition, h.records, h.head));
                heads.collect::<Vec<_>>()
            };
            let (sealed, found) = (heads(&commit.log), heads(&interval.log.0));
            let differing = sealed.iter().zip(&found).filter(|(a, b)| a != b);
            self.differ(SealDifference {
                commit: commit.number,
                file: "log".into(),
                record: format!("records between {} and {}", commit.lower, commit.upper),
                tick: None,
                values: differing.map(|(a, b)| ("chain".to_owned(), a.clone(), b.clone())).collect(),
            });
        }
        Ok(())
    }
}

fn tick_of(rows: &RecordBatch, row: usize) -> Tick {
    Tick(columns::ticks(rows).value(row))
}

/// The first record in which the sealed rows of an interval differ from the computed ones.
fn first_difference(
    commit: u64,
    file: String,
    sealed: &RecordBatch,
    computed: &RecordBatch,
) -> SealDifference {
    let (a, b) = (record_digests(sealed), record_digests(computed));
    let row = a.iter().zip(&b).position(|(a, b)| a != b).unwrap_or(a.len().min(b.len()));
    let longer = if row < a.len() { sealed } else { computed };
    let (record, tick, values) = if row >= longer.num_rows() {
        // Every record is the same, so an earlier interval differs: the chain contains all before.
        ("all rows".to_owned(), None, vec![("chain".into(), "of the run".into(), "of the replay".into())])
    } else {
        let values = if row < a.len() && row < b.len() {
            values_that_differ(sealed, computed, row)
        } else {
            vec![("rows".to_owned(), sealed.num_rows().to_string(), computed.num_rows().to_string())]
        };
        (row_name(longer, row), Some(tick_of(longer, row)), values)
    };
    SealDifference { commit, file, record, tick, values }
}

/// The values that differ in a row: the name, the sealed value, the computed value.
fn values_that_differ(
    sealed: &RecordBatch,
    computed: &RecordBatch,
    row: usize,
) -> Vec<(String, String, String)> {
    let values = |rows: &RecordBatch| -> BTreeMap<String, String> {
        let Ok(episode) = Episode::of(rows, row) else { return BTreeMap::new() };
        episode.values().into_iter().collect()
    };
    let (sealed, computed) = (values(sealed), values(computed));
    let names: BTreeSet<&String> = sealed.keys().chain(computed.keys()).collect();
    let text = |values: &BTreeMap<String, String>, name: &str| {
        values.get(name).cloned().unwrap_or_else(|| "-".to_owned())
    };
    names
        .into_iter()
        .filter(|name| sealed.get(*name) != computed.get(*name))
        .map(|name| (name.clone(), text(&sealed, name), text(&computed, name)))
        .collect()
}
