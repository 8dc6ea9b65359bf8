//! The timelines of a plan as tables: what look-ups ask, others may ask too, while the graph runs.
//!
//! A table has the key, the event time, `_tick`, and then what the timeline keeps of its rows. As of a tick it holds
//! the rows before it that matter then: those within the longest window and the delay before the tick's time, and of an `as_of`
//! those of the latest effective time of their key. That is a function of the tick, and not of how far merges have come.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use tidegate_facts::time::to_rfc3339;
use tidegate_facts::{Tick, columns};
use tidegate_operators::expr::{self, Projection};
use tidegate_operators::keys::keys_of;
use tidegate_operators::timeline::{Column, Reading, Wanted};

use crate::build::timeline_name;
use crate::live::Live;
use crate::plan::{Plan, StepKind};

/// How many rows are read at once, about: a key's rows stay together.
const ROWS: usize = 8192;

/// A timeline as a table.
#[derive(Clone, Debug)]
pub struct TimelineTable {
    /// What it is called in SQL.
    pub name: String,
    /// The key first, then the event time, `_tick`, and the measured columns.
    pub schema: SchemaRef,
    /// What the timeline is called in checkpoints, and by [`Live`].
    timeline: String,
    reach: Reach,
}

/// Which rows a tick reaches.
#[derive(Clone, Copy, Debug)]
enum Reach {
    /// Those within `reach` before it; they are kept for `lateness_max` longer. In microseconds.
    Span { reach: i64, lateness_max: i64 },
    /// Those that stand for their keys.
    Latest,
}

/// A timeline cannot be asked as of a tick.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAsOf {
    /// It is too early.
    #[error(
        "`{table}` can be asked as of {} (tick {}) and later; rows that only earlier ticks reach are merged away, and the facts have them",
        to_rfc3339(from.micros()),
        from.0
    )]
    Gone {
        /// The table.
        table: String,
        /// From when on it can be asked.
        from: Tick,
    },
    /// The graph that has just begun has not come so far.
    #[error("`{table}` is not restored yet; ask /readyz, and try again")]
    NotYet {
        /// The table.
        table: String,
    },
}

/// One worker's rows of a table, read as they are taken.
#[derive(Clone, Debug)]
pub struct Rows {
    reading: Reading,
    columns: Vec<Column>,
    schema: SchemaRef,
}

impl Iterator for Rows {
    type Item = RecordBatch;

    fn next(&mut self) -> Option<RecordBatch> {
        self.reading.next_rows(ROWS, &self.columns, &self.schema)
    }
}

impl TimelineTable {
    /// The tables of a plan's timelines: `node_group` for each group of a `windows`, and `node_rows` where it has but
    /// one without a name, and for an `as_of`.
    pub fn of_plan(plan: &Plan) -> Vec<TimelineTable> {
        let mut taken: BTreeSet<String> = plan.tables().into_iter().map(|(name, _)| name).collect();
        let mut tables = Vec::new();
        let mut add = |name: String, timeline: String, fields: Vec<Field>, reach: Reach| {
            let mut name = name;
            while !taken.insert(name.clone()) {
                name += "_timeline"; // A committed table has the name that its author gave it.
            }
            tables.push(TimelineTable { name, timeline, schema: Arc::new(Schema::new(fields)), reach });
        };
        for step in &plan.steps {
            match &step.kind {
                StepKind::Windows(groups) => {
                    for (place, group) in groups.iter().enumerate() {
                        let [_, key, time] =
                            [0, 1, 2].map(|place| group.narrow.schema().field(place).clone());
                        let measured = group.narrow.columns().skip(3).zip(&group.plan.measures);
                        let measured = measured.map(|(column, data_type)| match column {
                            expr::Column::Computed(expr) => (expr.text.to_string(), data_type.clone()),
                            expr::Column::Kept(_) => unreachable!("measures are computed"),
                        });
                        let reach =
                            Reach::Span { reach: group.plan.reach(), lateness_max: group.plan.lateness_max };
                        let name = if group.name.is_empty() { "rows" } else { &group.name };
                        let name = format!("{}_{name}", step.name);
                        add(name, timeline_name(&step.name, place), fields(key, time, measured), reach);
                    }
                }
                StepKind::AsOf(as_of) => {
                    let source = plan.schema_of(&as_of.timeline);
                    let own = |place: usize| source.field(kept(&as_of.narrow, place)).clone();
                    let observed = own(3);
                    let values = [(observed.name().clone(), observed.data_type().clone())].into_iter();
                    let values = values.chain(as_of.values.iter().cloned());
                    let name = format!("{}_rows", step.name);
                    add(name, timeline_name(&step.name, 0), fields(own(1), own(2), values), Reach::Latest);
                }
                _ => {}
            }
        }
        tables
    }

    /// The column that rows are found by.
    pub fn key(&self) -> &Field {
        self.schema.field(0)
    }

    /// The rows of each worker as of the statement that sees what is before a tick: those of the keys in a column, or of all; only
    /// the columns at the places of `projection`.
    ///
    /// # Errors
    /// When that is too early, or the timeline is still being restored.
    pub fn read(
        &self,
        live: &Live,
        before: Tick,
        keys: Option<&ArrayRef>,
        projection: &[usize],
    ) -> Result<Vec<Rows>, NotAsOf> {
        let views = live.views(&self.timeline);
        if views.is_empty() || views.iter().any(|view| view.upper < before) {
            return Err(NotAsOf::NotYet { table: self.name.clone() });
        }
        let since = views.iter().map(|view| view.since).max().unwrap_or_default();
        let from = match self.reach {
            Reach::Span { lateness_max, .. } => {
                let micros = since.micros().saturating_sub(lateness_max);
                if micros <= 0 { Tick::ZERO } else { Tick::new(micros, 0).expect("it is before a tick") }
            }
            Reach::Latest => since,
        };
        if before < from {
            return Err(NotAsOf::Gone { table: self.name.clone(), from });
        }
        let after = match self.reach {
            Reach::Span { reach, .. } => Some(before.micros().saturating_sub(reach)),
            Reach::Latest => None,
        };
        let mut measures = Vec::new();
        let mut column = |place: usize| {
            let data_type = self.schema.field(place).data_type().clone();
            match place {
                0 => Column::Key(data_type),
                1 => Column::Time,
                2 => Column::Tick,
                _ => {
                    measures.push(place - 3);
                    Column::Measure(measures.len() - 1, data_type)
                }
            }
        };
        let columns: Vec<Column> = projection.iter().map(|place| column(*place)).collect();
        let schema = Arc::new(self.schema.project(projection).expect("the places are the table's"));
        let wanted = Wanted { keys: keys.map(keys_of), before, after, measures };
        let rows = views.iter().map(|view| Rows {
            reading: view.read(wanted.clone()),
            columns: columns.clone(),
            schema: Arc::clone(&schema),
        });
        Ok(rows.collect())
    }
}

/// The place in its input of a column that a projection keeps.
fn kept(narrow: &Projection, place: usize) -> usize {
    match narrow.columns().nth(place) {
        Some(expr::Column::Kept(place)) => *place,
        _ => unreachable!("the heads of a timeline are kept columns"),
    }
}

/// The columns of a table, each under a name of its own.
fn fields(key: Field, time: Field, measured: impl Iterator<Item = (String, DataType)>) -> Vec<Field> {
    let mut fields = vec![
        key.with_nullable(false),
        time.with_nullable(false),
        Field::new(columns::TICK, DataType::UInt64, false),
    ];
    for (mut name, data_type) in measured {
        while fields.iter().any(|field| *field.name() == name) {
            name = format!("measured_{name}");
        }
        fields.push(Field::new(name, data_type, true));
    }
    fields
}
