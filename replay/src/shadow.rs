//! Shadow runs: what would have been decided, had another bundle been in force.
//!
//! The graph runs over the log with other settings. Each decision is held against the one that was
//! sealed for the same fact; those with another action go, with both, to the table `changes` of a
//! store of its own.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float64Array, RecordBatch, StringArray, new_null_array,
};
use arrow::compute::{cast, filter_record_batch};
use arrow::datatypes::{DataType, Float64Type};
use tidegate_dataflows::Plan;
use tidegate_dataflows::commit::TableFormat;
use tidegate_dataflows::commit::{CommitContext, CommitTarget};
use tidegate_dataflows::governance::as_if_effective;
use tidegate_dataflows::metrics::RunMetrics;
use tidegate_facts::{Tick, columns};
use tidegate_host::Host;
use tidegate_sinks::commits::{CommitInterval, Commits, TableError, TableFile, TableSlice, read_rows};
use tidegate_sinks::log::LogFolder;
use tidegate_sinks::store::Store;

use crate::{ReplayError, run_log};

/// The table of changed decisions.
pub const CHANGES: &str = "changes";

/// What a shadow run would have decided.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shadow {
    /// How many facts were run again.
    pub facts: u64,
    /// How many decisions, by the action that was sealed and the one that would have been taken.
    pub actions: BTreeMap<(String, String), u64>,
}

impl Shadow {
    /// How many decisions would have another action.
    pub fn changed(&self) -> u64 {
        self.actions.iter().filter(|((from, to), _)| from != to).map(|(_, count)| count).sum()
    }
}

/// Runs the log in `data` through `plan`, whose replaced bundles decide throughout, and holds its
/// decisions against those in `sealed`; those with another action become the table [`CHANGES`] of
/// the store `out`.
///
/// # Errors
/// See [`ReplayError`].
pub fn shadow(
    plan: &Arc<Plan>,
    data: &Path,
    sealed: &Store,
    out: &Path,
    to: Tick,
    workers: usize,
    watch: &RunMetrics,
) -> Result<Shadow, ReplayError> {
    let out = Store::open(out)?;
    let commits = Commits::read(sealed)?;
    let against = Arc::new(ShadowTarget {
        sealed: sealed.clone(),
        files: commits
            .list
            .iter()
            .flat_map(|c| c.files.iter().map(move |file| (c, file)))
            .map(|(c, file)| ((file.table.clone(), file.partition, c.lower, c.upper), file.clone()))
            .collect(),
        commits: Mutex::new(Commits::read(&out)?),
        out,
        shadow: Mutex::default(),
    });
    let lower = against.commits.lock().expect("no panic").upper();
    if lower > Tick::ZERO {
        return Err(ReplayError::Occupied { path: against.out.location("").into() });
    }
    let output = CommitContext::new(Arc::clone(&against) as Arc<dyn CommitTarget>, plan.digest);
    let plan = &as_if_effective(plan, &LogFolder::of_data(&Host::real(), data), sealed)?;
    let facts = run_log(plan, &LogFolder::of_data(&Host::real(), data), sealed, &output, to, workers, watch)?;
    let shadow = std::mem::take(&mut *against.shadow.lock().expect("no panic"));
    Ok(Shadow { facts, ..shadow })
}

/// An outlet that holds decisions against those of an earlier run.
struct ShadowTarget {
    sealed: Store,
    /// By table, partition, and the interval of the commit.
    files: BTreeMap<(String, u16, Tick, Tick), TableFile>,
    out: Store,
    commits: Mutex<Commits>,
    shadow: Mutex<Shadow>,
}

impl CommitTarget for ShadowTarget {
    fn accepts(&self, format: TableFormat) -> bool {
        format == TableFormat::Sealed
    }

    fn write(&self, cut: &TableSlice) -> Result<Option<TableFile>, TableError> {
        if cut.rows.column_by_name("action").is_none() {
            return Ok(None);
        }
        let before = match self.files.get(&(cut.table.clone(), cut.partition, cut.lower, cut.upper)) {
            None => None,
            Some(file) => {
                let bytes = self.sealed.get(&file.name)?;
                Some(
                    read_rows(bytes, None)
                        .map_err(|what| TableError::Chain { name: file.name.clone(), what })?,
                )
            }
        };
        let changes = changes(before.as_ref(), &cut.rows);
        let (from, to) = (text(&changes, "from_action"), text(&changes, "to_action"));
        let mut shadow = self.shadow.lock().expect("no panic");
        for row in 0..changes.num_rows() {
            let of = |texts: &StringArray| {
                if texts.is_valid(row) { texts.value(row).to_owned() } else { "-".into() }
            };
            *shadow.actions.entry((of(&from), of(&to))).or_default() += 1;
        }
        drop(shadow);
        let changed: BooleanArray =
            (0..changes.num_rows()).map(|row| Some(differ(&from, &to, row))).collect();
        let changed = filter_record_batch(&changes, &changed).expect("a flag for each row");
        if changed.num_rows() == 0 {
            return Ok(None);
        }
        cut.derived(CHANGES, changed).write(&self.out).map(Some)
    }

    fn commit(&self, interval: CommitInterval) -> Result<(), TableError> {
        self.commits.lock().expect("no panic").publish(interval, None, &self.out)
    }
}

fn differ(from: &StringArray, to: &StringArray, row: usize) -> bool {
    from.is_null(row) || from.value(row) != to.value(row)
}

/// The text of a column, whatever its encoding; empty where there is no such column.
fn text(rows: &RecordBatch, name: &str) -> StringArray {
    let column = rows.column_by_name(name).and_then(|column| cast(column, &DataType::Utf8).ok());
    let column = column.unwrap_or_else(|| new_null_array(&DataType::Utf8, rows.num_rows()));
    column.as_string::<i32>().clone()
}

/// Each decision with the one before it on the same fact.
fn changes(before: Option<&RecordBatch>, after: &RecordBatch) -> RecordBatch {
    let ticks = columns::ticks(after);
    let existing: &[i64] = before.map_or(&[], |rows| columns::ticks(rows).values());
    let place: Vec<Option<usize>> =
        ticks.values().iter().map(|tick| existing.binary_search(tick).ok()).collect();
    let was = |name: &str| -> ArrayRef {
        let texts = before.map(|rows| text(rows, name));
        let texts = place.iter().map(|place| {
            let texts = texts.as_ref()?;
            place.filter(|place| texts.is_valid(*place)).map(|place| texts.value(place).to_owned())
        });
        Arc::new(texts.collect::<StringArray>())
    };
    let score = |rows: &RecordBatch| {
        rows.column_by_name("score").and_then(|c| c.as_primitive_opt::<Float64Type>().cloned())
    };
    let old_score = before.and_then(score);
    let from_score: Float64Array = place
        .iter()
        .map(|place| {
            place.and_then(|place| old_score.as_ref().filter(|s| s.is_valid(place)).map(|s| s.value(place)))
        })
        .collect();
    let to_score = score(after).unwrap_or_else(|| Float64Array::new_null(after.num_rows()));
    let is = |name: &str| -> ArrayRef { Arc::new(text(after, name)) };
    let list = |rows: &RecordBatch, row: usize| -> String {
        let Some(lists) = rows.column_by_name("reason_codes").and_then(|c| c.as_list_opt::<i32>()) else {
            return String::new();
        };
        let codes = lists.value(row);
        codes
            .as_string_opt::<i32>()
            .map(|c| c.iter().flatten().collect::<Vec<_>>().join(", "))
            .unwrap_or_default()
    };
    let from_reasons: StringArray = place.iter().map(|place| Some(list(before?, (*place)?))).collect();
    let to_reasons: StringArray = (0..after.num_rows()).map(|row| Some(list(after, row))).collect();
    RecordBatch::try_from_iter_with_nullable([
        (columns::TICK, Arc::new(ticks.clone()) as ArrayRef, false),
        (columns::EVENT_ID, is(columns::EVENT_ID), false),
        ("from_action", was("action"), true),
        ("to_action", is("action"), false),
        ("from_score", Arc::new(from_score), true),
        ("to_score", Arc::new(to_score), true),
        ("from_reasons", Arc::new(from_reasons), true),
        ("to_reasons", Arc::new(to_reasons), false),
    ])
    .expect("columns of one length")
}
