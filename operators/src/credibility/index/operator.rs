//! The credibility operator: reads rows of five kinds, and emits the index as a changelog of one
//! row and its history.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int32Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, TimestampMicrosecondType};
use tidegate_facts::payload_schema::timestamp;
use tidegate_facts::{Tick, columns};

use super::{
    CredibilityConfig, CredibilityEvent, CredibilityIndex, RegionState, SnapshotRow, Terms, TermsChange,
};
use crate::core::rows::ticks_of;
use crate::core::snapshotting::SnapshotOperator;
use crate::core::tick_ordered::TickOperator;
use crate::credibility::drift::severity::Severity;

/// The kind of rows of an input of the credibility operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CredibilityInput {
    /// Drift events: id, time of the first detection, severity (null retracts), the superseded id.
    Drift,
    /// Correlations: group, end of the period, value in millionths.
    Correlations,
    /// Changes of claims: unknown, fragile, `_diff`.
    Claims,
    /// Valid evidence: claim, expiry (null if it cannot support the claim), `_diff`.
    Evidence,
    /// Regions: region, state (`OK`, `WARN`, `CRITICAL`).
    Regions,
}

/// The credibility operator: emits the index of its inputs, and the index's history.
pub struct Credibility {
    inputs: Vec<CredibilityInput>,
    index: CredibilityIndex,
}

impl CredibilityInput {
    /// The fields of such an input: tick, key and event time, which checkpoints read, then the
    /// others.
    pub fn fields(self) -> Vec<Field> {
        let time = |name: &str| Field::new(name, timestamp(), true);
        let at = time("at");
        let tick = columns::tick_field(columns::TICK);
        let text = |name: &str| Field::new(name, DataType::Utf8, true);
        let number = |name: &str| Field::new(name, DataType::Int64, true);
        let flag = |name: &str| Field::new(name, DataType::Boolean, true);
        match self {
            CredibilityInput::Drift => {
                vec![tick, text("id"), time("since"), text("severity"), text("supersedes")]
            }
            CredibilityInput::Correlations => vec![tick, text("group"), time("to"), number("value")],
            CredibilityInput::Claims => vec![tick, flag("unknown"), at, flag("fragile"), number("diff")],
            CredibilityInput::Evidence => vec![tick, text("claim"), time("expires"), number("diff")],
            CredibilityInput::Regions => vec![tick, text("region"), at, text("state")],
        }
    }
}

impl Credibility {
    /// Returns an operator whose index is 100, with inputs of these kinds.
    pub fn new(config: CredibilityConfig, inputs: Vec<CredibilityInput>) -> Credibility {
        Credibility { inputs, index: CredibilityIndex::new(config) }
    }

    /// Applies a row to the index. A row that lacks a required column is ignored.
    fn apply(
        &mut self,
        rows: &RecordBatch,
        input: CredibilityInput,
        row: usize,
        tick: Tick,
        changes: &mut Vec<TermsChange>,
    ) {
        let text = |column: usize| {
            let texts = rows.column(column).as_string::<i32>();
            texts.is_valid(row).then(|| texts.value(row))
        };
        let number = |column: usize| {
            let numbers = rows.column(column).as_primitive::<Int64Type>();
            numbers.is_valid(row).then(|| numbers.value(row))
        };
        let time = || {
            let times = rows.column(2).as_primitive::<TimestampMicrosecondType>();
            times.is_valid(row).then(|| times.value(row))
        };
        let flag = |column: usize| {
            let flags: &BooleanArray = rows.column(column).as_boolean();
            flags.is_valid(row) && flags.value(row)
        };
        let event = match input {
            CredibilityInput::Drift => text(1).zip(time()).map(|(id, since)| CredibilityEvent::Drift {
                id,
                since,
                severity: text(3).and_then(Severity::of_name),
                supersedes: text(4),
            }),
            CredibilityInput::Correlations => {
                let of = text(1).zip(time()).zip(number(3));
                of.map(|((group, to), value)| CredibilityEvent::Correlation { group, to, value })
            }
            CredibilityInput::Claims => number(4).map(|diff| CredibilityEvent::Claim {
                is_unknown: flag(1),
                is_fragile: flag(3),
                diff,
            }),
            CredibilityInput::Evidence => text(1)
                .zip(number(3))
                .map(|(claim, diff)| CredibilityEvent::Evidence { claim, expires: time(), diff }),
            CredibilityInput::Regions => {
                let state = text(3).and_then(RegionState::of_name);
                text(1).zip(state).map(|(region, state)| CredibilityEvent::Region { region, state })
            }
        };
        if let Some(event) = event {
            self.index.apply(tick, event, changes);
        }
    }
}

impl TickOperator for Credibility {
    fn advance(&mut self, inputs: &[RecordBatch], upper: Tick) -> Vec<RecordBatch> {
        let mut changes = Vec::new();
        let mut next_rows = vec![0; inputs.len()];
        // The least tick first; within a tick, the inputs in their order.
        while let Some((tick, input)) = inputs
            .iter()
            .enumerate()
            .filter_map(|(input, rows)| Some((*ticks_of(rows).values().get(next_rows[input])?, input)))
            .min()
        {
            self.apply(&inputs[input], self.inputs[input], next_rows[input], Tick(tick), &mut changes);
            next_rows[input] += 1;
        }
        self.index.advance_to(upper, &mut changes);
        vec![changelog_batch(&changes), history_batch(&changes)]
    }
}

/// The schema of the snapshot.
pub fn snapshot_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        columns::tick_field(columns::TICK),
        Field::new("_key", DataType::Utf8, false),
        Field::new("_kind", DataType::Utf8, false),
        Field::new("_first", DataType::Int64, false),
        Field::new("_second", DataType::Int64, false),
        Field::new("_third", DataType::Int64, false),
        Field::new("_name", DataType::Utf8, false),
    ]))
}

impl SnapshotOperator for Credibility {
    fn snapshot(&self) -> Vec<ArrayRef> {
        let rows = self.index.snapshot();
        let texts = |text: fn(&SnapshotRow) -> &str| -> ArrayRef {
            Arc::new(StringArray::from_iter_values(rows.iter().map(text)))
        };
        let numbers = |index: usize| -> ArrayRef {
            Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.numbers[index])))
        };
        vec![
            texts(|row| &row.key),
            texts(|row| row.kind),
            numbers(0),
            numbers(1),
            numbers(2),
            texts(|row| row.name),
        ]
    }

    fn restore(&mut self, rows: &RecordBatch) {
        // Everything due before the tick of the snapshot had been processed.
        let now = Tick(ticks_of(rows).value(0) - 1);
        let [keys, kinds, names] = [1, 2, 6].map(|index| rows.column(index).as_string::<i32>());
        let numbers = [3, 4, 5].map(|index| rows.column(index).as_primitive::<Int64Type>());
        for row in 0..rows.num_rows() {
            let numbers = numbers.map(|numbers| numbers.value(row));
            self.index.restore(now, kinds.value(row), keys.value(row), numbers, names.value(row));
        }
    }
}

/// The schema of the history: one row per change, with the index before it.
pub fn history_schema() -> SchemaRef {
    let term = |name: &str| Field::new(name, DataType::Int32, false);
    Arc::new(Schema::new(vec![
        columns::tick_field(columns::TICK),
        Field::new("at", timestamp(), false),
        term("credibility_index"),
        Field::new("before", DataType::Int32, true),
        Field::new("band", DataType::Utf8, false),
        term("drift"),
        term("correlation"),
        term("quorum"),
        term("ttl"),
        term("sync"),
    ]))
}

/// One history row per change.
fn history_batch(changes: &[TermsChange]) -> RecordBatch {
    let term = |of: fn(&Terms) -> i64| -> ArrayRef {
        Arc::new(Int32Array::from_iter_values(changes.iter().map(|change| -of(&change.now) as i32)))
    };
    let at = changes.iter().map(|change| change.tick.micros());
    let before = changes.iter().map(|change| change.before.map(|(_, terms)| terms.index() as i32));
    let arrays: Vec<ArrayRef> = vec![
        Arc::new(columns::tick_array(changes.iter().map(|change| change.tick))),
        Arc::new(TimestampMicrosecondArray::from_iter_values(at).with_timezone("UTC")),
        Arc::new(Int32Array::from_iter_values(changes.iter().map(|change| change.now.index() as i32))),
        Arc::new(before.collect::<Int32Array>()),
        Arc::new(StringArray::from_iter_values(changes.iter().map(|change| change.now.band()))),
        term(|terms| terms.drift),
        term(|terms| terms.correlation),
        term(|terms| terms.quorum),
        term(|terms| terms.ttl),
        term(|terms| terms.sync),
    ];
    RecordBatch::try_new(history_schema(), arrays).expect("the columns are the schema's")
}

/// The schema of the index's changelog.
pub fn schema() -> SchemaRef {
    let term = |name: &str| Field::new(name, DataType::Int32, false);
    Arc::new(Schema::new(vec![
        columns::tick_field(columns::TICK),
        Field::new("since", timestamp(), false),
        term("credibility_index"),
        Field::new("band", DataType::Utf8, false),
        term("drift"),
        term("correlation"),
        term("quorum"),
        term("ttl"),
        term("sync"),
        Field::new(columns::DIFF, DataType::Int64, false),
    ]))
}

/// The retraction of the old row and the new row of each change; `since` is the tick of the row.
fn changelog_batch(changes: &[TermsChange]) -> RecordBatch {
    let mut rows: Vec<(Tick, i64, Terms, i64)> = Vec::new();
    for TermsChange { tick, before, now } in changes {
        if let Some((since, terms)) = before {
            rows.push((*tick, since.micros(), *terms, -1));
        }
        rows.push((*tick, tick.micros(), *now, 1));
    }
    let term = |of: fn(&Terms) -> i64| -> ArrayRef {
        Arc::new(Int32Array::from_iter_values(rows.iter().map(|(_, _, terms, _)| -of(terms) as i32)))
    };
    let since = rows.iter().map(|(_, since, _, _)| *since);
    let index = rows.iter().map(|(_, _, terms, _)| terms.index() as i32);
    let arrays: Vec<ArrayRef> = vec![
        Arc::new(columns::tick_array(rows.iter().map(|(tick, _, _, _)| *tick))),
        Arc::new(TimestampMicrosecondArray::from_iter_values(since).with_timezone("UTC")),
        Arc::new(Int32Array::from_iter_values(index)),
        Arc::new(StringArray::from_iter_values(rows.iter().map(|(_, _, terms, _)| terms.band()))),
        term(|terms| terms.drift),
        term(|terms| terms.correlation),
        term(|terms| terms.quorum),
        term(|terms| terms.ttl),
        term(|terms| terms.sync),
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|(_, _, _, diff)| *diff))),
    ];
    RecordBatch::try_new(schema(), arrays).expect("the columns are the schema's")
}
