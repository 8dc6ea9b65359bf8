//! Shadow runs: what another bundle would have decided.
//!
//! The graph runs over the log with other settings. Each decision is compared with the one that was
//! sealed for the same fact. Where the actions differ, the table `changes` in a store of its own
//! gets a row with both decisions.

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

/// The table of the decisions that a shadow run changes.
pub const CHANGES: &str = "changes";

/// The result of a shadow run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shadow {
    /// How many facts were replayed.
    pub facts: u64,
    /// How many decisions there are, by the sealed action and the action of the shadow run.
    pub actions: BTreeMap<(String, String), u64>,
}

impl Shadow {
    /// How many decisions have another action in the shadow run.
    pub fn changed(&self) -> u64 {
        self.actions.iter().filter(|((from, to), _)| from != to).map(|(_, count)| count).sum()
    }
}

/// Makes a shadow run of the log in `data` through `plan`, and compares its decisions with those in
/// `sealed`. Those with another action go to the table [`CHANGES`] of the store `out`.
///
/// A bundle or policy that an override names is in force from the first fact on. The revisions of
/// its node in the log do not apply.
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
    metrics: &RunMetrics,
) -> Result<Shadow, ReplayError> {
    let out = Store::open(out)?;
    let commits = Commits::read(sealed)?;
    let target = Arc::new(ShadowTarget {
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
    let lower = target.commits.lock().expect("no panic").upper();
    if lower > Tick::ZERO {
        return Err(ReplayError::Occupied { path: target.out.location("").into() });
    }
    let output = CommitContext::new(Arc::clone(&target) as Arc<dyn CommitTarget>, plan.digest);
    let plan = &as_if_effective(plan, &LogFolder::of_data(&Host::real(), data), sealed)?;
    let facts =
        run_log(plan, &LogFolder::of_data(&Host::real(), data), sealed, &output, to, workers, metrics)?;
    let shadow = std::mem::take(&mut *target.shadow.lock().expect("no panic"));
    Ok(Shadow { facts, ..shadow })
}

/// A commit target that compares decisions with those of an earlier run.
struct ShadowTarget {
    sealed: Store,
    /// The files of the earlier run by table, partition, and the interval of the commit.
    files: BTreeMap<(String, u16, Tick, Tick), TableFile>,
    out: Store,
    commits: Mutex<Commits>,
    shadow: Mutex<Shadow>,
}

impl CommitTarget for ShadowTarget {
    fn accepts(&self, format: TableFormat) -> bool {
        format == TableFormat::Sealed
    }

    fn write(&self, slice: &TableSlice) -> Result<Option<TableFile>, TableError> {
        if slice.rows.column_by_name("action").is_none() {
            return Ok(None);
        }
        let before = match self.files.get(&(slice.table.clone(), slice.partition, slice.lower, slice.upper)) {
            None => None,
            Some(file) => {
                let bytes = self.sealed.get(&file.name)?;
                Some(
                    read_rows(bytes, None)
                        .map_err(|what| TableError::Chain { name: file.name.clone(), what })?,
                )
            }
        };
        let changes = changes(before.as_ref(), &slice.rows);
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
        slice.derived(CHANGES, changed).write(&self.out).map(Some)
    }

    fn commit(&self, interval: CommitInterval) -> Result<(), TableError> {
        self.commits.lock().expect("no panic").publish(interval, None, &self.out)
    }
}

fn differ(from: &StringArray, to: &StringArray, row: usize) -> bool {
    from.is_null(row) || from.value(row) != to.value(row)
}

/// A column as texts, whatever its encoding; nulls if there is no such column.
fn text(rows: &RecordBatch, name: &str) -> StringArray {
    let column = rows.column_by_name(name).and_then(|column| cast(column, &DataType::Utf8).ok());
    let column = column.unwrap_or_else(|| new_null_array(&DataType::Utf8, rows.num_rows()));
    column.as_string::<i32>().clone()
}

/// Each decision with the earlier decision on the same fact.
fn changes(before: Option<&RecordBatch>, after: &RecordBatch) -> RecordBatch {
    let ticks = columns::ticks(after);
    let earlier: &[i64] = before.map_or(&[], |rows| columns::ticks(rows).values());
    let indexes: Vec<Option<usize>> =
        ticks.values().iter().map(|tick| earlier.binary_search(tick).ok()).collect();
    let was = |name: &str| -> ArrayRef {
        let texts = before.map(|rows| text(rows, name));
        let texts = indexes.iter().map(|index| {
            let texts = texts.as_ref()?;
            index.filter(|index| texts.is_valid(*index)).map(|index| texts.value(index).to_owned())
        });
        Arc::new(texts.collect::<StringArray>())
    };
    let score = |rows: &RecordBatch| {
        rows.column_by_name("score").and_then(|c| c.as_primitive_opt::<Float64Type>().cloned())
    };
    let old_score = before.and_then(score);
    let from_score: Float64Array = indexes
        .iter()
        .map(|index| {
            index.and_then(|index| old_score.as_ref().filter(|s| s.is_valid(index)).map(|s| s.value(index)))
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
    let from_reasons: StringArray = indexes.iter().map(|index| Some(list(before?, (*index)?))).collect();
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
