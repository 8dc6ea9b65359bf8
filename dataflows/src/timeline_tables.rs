//! The timelines of a plan as tables of a running graph: queries read the rows that the look-ups of
//! nodes read.
//!
//! A table has the key, the event time, `_tick`, and the other columns of its timeline. As of a
//! tick it holds the rows before it that a look-up could reach then: those within the longest
//! window and the lateness before the tick's time, and of an `as_of` those of the latest effective
//! time of their key. That is a function of the tick, and does not depend on what was merged.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use tidegate_facts::time::to_rfc3339;
use tidegate_facts::{Tick, columns};
use tidegate_operators::core::keys::keys_of;
use tidegate_operators::temporal::timeline::{ScanColumn, ScanSpec, SnapshotScan};

use crate::node::Coverage;
use crate::plan::Plan;
use crate::serve::LiveReads;

/// About how many rows a batch has; a key's rows stay together.
const BATCH_ROWS: usize = 8192;

/// A timeline of a running graph as a table that queries read.
#[derive(Clone, Debug)]
pub struct TimelineTable {
    /// Its name in SQL.
    pub name: String,
    /// The key first, then the event time, `_tick`, and the measured columns.
    pub schema: SchemaRef,
    /// The name of the timeline in checkpoints, and in [`LiveReads`].
    timeline: String,
    coverage: Coverage,
}

/// Why a timeline table cannot be read as of a tick.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AsOfError {
    /// The tick is too early.
    #[error(
        "`{table}` can be read as of {} (tick {}) and later; rows that only earlier ticks reach are merged away, and the facts have them",
        to_rfc3339(from.micros()),
        from.0
    )]
    Gone {
        /// The table.
        table: String,
        /// The first tick as of which it can be read.
        from: Tick,
    },
    /// The graph has just begun and has not restored it.
    #[error("`{table}` is not restored yet; ask /readyz, and try again")]
    NotYet {
        /// The table.
        table: String,
    },
}

/// One worker's rows of a timeline table, batch by batch.
#[derive(Clone, Debug)]
pub struct TimelineTableRows {
    scan: SnapshotScan,
    columns: Vec<ScanColumn>,
    schema: SchemaRef,
}

impl Iterator for TimelineTableRows {
    type Item = RecordBatch;

    fn next(&mut self) -> Option<RecordBatch> {
        self.scan.next_batch(BATCH_ROWS, &self.columns, &self.schema)
    }
}

impl TimelineTable {
    /// The tables of a plan's timelines: `node_group` for each group of a `windows`, and
    /// `node_rows` where it has but one without a name, and for an `as_of`.
    pub fn of_plan(plan: &Plan) -> Vec<TimelineTable> {
        let mut taken: BTreeSet<String> = plan.tables().into_iter().map(|(name, _)| name).collect();
        let mut tables = Vec::new();
        let mut add = |name: String, timeline: String, fields: Vec<Field>, coverage: Coverage| {
            let mut name = name;
            while !taken.insert(name.clone()) {
                name += "_timeline"; // A committed table keeps the name that its author gave it.
            }
            tables.push(TimelineTable { name, timeline, schema: Arc::new(Schema::new(fields)), coverage });
        };
        for table in plan.steps.iter().flat_map(|step| step.node.live_tables()) {
            let fields = fields(table.key, table.time, table.values.into_iter());
            add(table.name, table.timeline, fields, table.coverage);
        }
        tables
    }

    /// The column by which rows are looked up.
    pub fn key(&self) -> &Field {
        self.schema.field(0)
    }

    /// The rows of each worker, as a statement sees them that reads what is before a tick: those of
    /// the keys in a column, or of all keys; only the columns with the indexes in `projection`.
    ///
    /// # Errors
    /// When the tick is too early, or the timeline is still being restored.
    pub fn read(
        &self,
        live: &dyn LiveReads,
        before: Tick,
        keys: Option<&ArrayRef>,
        projection: &[usize],
    ) -> Result<Vec<TimelineTableRows>, AsOfError> {
        let snapshots = live.views(&self.timeline);
        if snapshots.is_empty() || snapshots.iter().any(|snapshot| snapshot.upper < before) {
            return Err(AsOfError::NotYet { table: self.name.clone() });
        }
        let since = snapshots.iter().map(|snapshot| snapshot.since).max().unwrap_or_default();
        let from = match self.coverage {
            Coverage::Span { lateness_max, .. } => {
                let micros = since.micros().saturating_sub(lateness_max);
                if micros <= 0 { Tick::ZERO } else { Tick::new(micros, 0).expect("it is before a tick") }
            }
            Coverage::Latest => since,
        };
        if before < from {
            return Err(AsOfError::Gone { table: self.name.clone(), from });
        }
        let after = match self.coverage {
            Coverage::Span { reach, .. } => Some(before.micros().saturating_sub(reach)),
            Coverage::Latest => None,
        };
        let mut measures = Vec::new();
        let mut column = |index: usize| {
            let data_type = self.schema.field(index).data_type().clone();
            match index {
                0 => ScanColumn::Key(data_type),
                1 => ScanColumn::Time,
                2 => ScanColumn::Tick,
                _ => {
                    measures.push(index - 3);
                    ScanColumn::Measure(measures.len() - 1, data_type)
                }
            }
        };
        let columns: Vec<ScanColumn> = projection.iter().map(|index| column(*index)).collect();
        let schema = Arc::new(self.schema.project(projection).expect("the columns are the table's"));
        let spec = ScanSpec { keys: keys.map(keys_of), before, after, measures };
        let rows = snapshots.iter().map(|snapshot| TimelineTableRows {
            scan: snapshot.scan(spec.clone()),
            columns: columns.clone(),
            schema: Arc::clone(&schema),
        });
        Ok(rows.collect())
    }
}

/// The columns of a table, with no name twice.
fn fields(key: Field, time: Field, measured: impl Iterator<Item = (String, DataType)>) -> Vec<Field> {
    let mut fields =
        vec![key.with_nullable(false), time.with_nullable(false), columns::tick_field(columns::TICK)];
    for (mut name, data_type) in measured {
        while fields.iter().any(|field| *field.name() == name) {
            name = format!("measured_{name}");
        }
        fields.push(Field::new(name, data_type, true));
    }
    fields
}
