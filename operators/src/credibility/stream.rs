//! The index as a state of the graph: rows of five kinds in; a changelog of one row, and its history, out.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int32Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray, UInt64Array,
};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, TimestampMicrosecondType};
use tidegate_facts::schema::timestamp;
use tidegate_facts::{Tick, columns};

use super::{Heard, Index, Kept, RegionState, Said, Settings, Terms};
use crate::checkpointed::Lasting;
use crate::drift::severity::Severity;
use crate::ordered::Ordered;
use crate::rows::ticks_of;

/// What the rows of an input are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads {
    /// Drift events: id, since when its period is one, severity (null takes back), the id that is superseded.
    Drift,
    /// Correlations: group, end of the period, value in millionths.
    Correlations,
    /// Changes of claims: unknown, fragile, `_diff`.
    Claims,
    /// Living evidence: claim, when it ends (null when it is not fit to hold the claim up), `_diff`.
    Evidence,
    /// Regions: region, state (`OK`, `WARN`, `CRITICAL`).
    Regions,
}

/// The index over its inputs.
pub struct Credibility {
    reads: Vec<Reads>,
    index: Index,
}

impl Reads {
    /// The columns of such an input: what checkpoints need, tick, key and time, and then the others.
    pub fn fields(self) -> Vec<Field> {
        let time = |name: &str| Field::new(name, timestamp(), true);
        let at = time("at");
        let tick = Field::new(columns::TICK, DataType::UInt64, false);
        let text = |name: &str| Field::new(name, DataType::Utf8, true);
        let number = |name: &str| Field::new(name, DataType::Int64, true);
        let flag = |name: &str| Field::new(name, DataType::Boolean, true);
        match self {
            Reads::Drift => {
                vec![tick, text("id"), time("since"), text("severity"), text("supersedes")]
            }
            Reads::Correlations => vec![tick, text("group"), time("to"), number("value")],
            Reads::Claims => vec![tick, flag("unknown"), at, flag("fragile"), number("diff")],
            Reads::Evidence => vec![tick, text("claim"), time("expires"), number("diff")],
            Reads::Regions => vec![tick, text("region"), at, text("state")],
        }
    }
}

impl Credibility {
    /// 100, with inputs of these kinds.
    pub fn new(settings: Settings, reads: Vec<Reads>) -> Credibility {
        Credibility { reads, index: Index::new(settings) }
    }

    /// Hears of a row; one that lacks what makes it one of its kind says nothing.
    fn hear(&mut self, rows: &RecordBatch, reads: Reads, row: usize, tick: Tick, said: &mut Vec<Said>) {
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
        let heard = match reads {
            Reads::Drift => text(1).zip(time()).map(|(id, since)| Heard::Drift {
                id,
                since,
                severity: text(3).and_then(Severity::of_name),
                supersedes: text(4),
            }),
            Reads::Correlations => {
                let of = text(1).zip(time()).zip(number(3));
                of.map(|((group, to), value)| Heard::Correlation { group, to, value })
            }
            Reads::Claims => {
                number(4).map(|diff| Heard::Claim { is_unknown: flag(1), is_fragile: flag(3), diff })
            }
            Reads::Evidence => {
                text(1).zip(number(3)).map(|(claim, diff)| Heard::Evidence { claim, expires: time(), diff })
            }
            Reads::Regions => {
                let state = text(3).and_then(RegionState::of_name);
                text(1).zip(state).map(|(region, state)| Heard::Region { region, state })
            }
        };
        if let Some(heard) = heard {
            self.index.hear(tick, heard, said);
        }
    }
}

impl Ordered for Credibility {
    fn advance(&mut self, inputs: &[RecordBatch], upper: Tick) -> Vec<RecordBatch> {
        let mut said = Vec::new();
        let mut next = vec![0; inputs.len()];
        // The least tick first; of one tick the inputs in their order.
        while let Some((tick, place)) = inputs
            .iter()
            .enumerate()
            .filter_map(|(place, rows)| Some((*ticks_of(rows).values().get(next[place])?, place)))
            .min()
        {
            self.hear(&inputs[place], self.reads[place], next[place], Tick(tick), &mut said);
            next[place] += 1;
        }
        self.index.until(upper, &mut said);
        vec![changes(&said), history(&said)]
    }
}

/// The columns of what is put down.
pub fn put_down_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new(columns::TICK, DataType::UInt64, false),
        Field::new("_key", DataType::Utf8, false),
        Field::new("_kind", DataType::Utf8, false),
        Field::new("_first", DataType::Int64, false),
        Field::new("_second", DataType::Int64, false),
        Field::new("_third", DataType::Int64, false),
        Field::new("_name", DataType::Utf8, false),
    ]))
}

impl Lasting for Credibility {
    fn put_down(&self) -> Vec<ArrayRef> {
        let kept = self.index.put_down();
        let texts = |text: fn(&Kept) -> &str| -> ArrayRef {
            Arc::new(StringArray::from_iter_values(kept.iter().map(text)))
        };
        let numbers = |place: usize| -> ArrayRef {
            Arc::new(Int64Array::from_iter_values(kept.iter().map(|kept| kept.numbers[place])))
        };
        vec![
            texts(|kept| &kept.key),
            texts(|kept| kept.kind),
            numbers(0),
            numbers(1),
            numbers(2),
            texts(|kept| kept.name),
        ]
    }

    fn take_up(&mut self, rows: &RecordBatch) {
        // Whatever was due before the tick had happened.
        let now = Tick(ticks_of(rows).value(0) - 1);
        let [keys, kinds, names] = [1, 2, 6].map(|place| rows.column(place).as_string::<i32>());
        let numbers = [3, 4, 5].map(|place| rows.column(place).as_primitive::<Int64Type>());
        for row in 0..rows.num_rows() {
            let numbers = numbers.map(|numbers| numbers.value(row));
            self.index.take_up(now, kinds.value(row), keys.value(row), numbers, names.value(row));
        }
    }
}

/// The columns of the history: a row for each change, with the index before it.
pub fn history_schema() -> SchemaRef {
    let term = |name: &str| Field::new(name, DataType::Int32, false);
    Arc::new(Schema::new(vec![
        Field::new(columns::TICK, DataType::UInt64, false),
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

/// What was said, once.
fn history(said: &[Said]) -> RecordBatch {
    let term = |of: fn(&Terms) -> i64| -> ArrayRef {
        Arc::new(Int32Array::from_iter_values(said.iter().map(|said| -of(&said.now) as i32)))
    };
    let at = said.iter().map(|said| said.tick.micros());
    let before = said.iter().map(|said| said.before.map(|(_, terms)| terms.index() as i32));
    let arrays: Vec<ArrayRef> = vec![
        Arc::new(UInt64Array::from_iter_values(said.iter().map(|said| said.tick.0))),
        Arc::new(TimestampMicrosecondArray::from_iter_values(at).with_timezone("UTC")),
        Arc::new(Int32Array::from_iter_values(said.iter().map(|said| said.now.index() as i32))),
        Arc::new(before.collect::<Int32Array>()),
        Arc::new(StringArray::from_iter_values(said.iter().map(|said| said.now.band()))),
        term(|terms| terms.drift),
        term(|terms| terms.correlation),
        term(|terms| terms.quorum),
        term(|terms| terms.ttl),
        term(|terms| terms.sync),
    ];
    RecordBatch::try_new(history_schema(), arrays).expect("the columns are the schema's")
}

/// The columns of the changelog.
pub fn schema() -> SchemaRef {
    let term = |name: &str| Field::new(name, DataType::Int32, false);
    Arc::new(Schema::new(vec![
        Field::new(columns::TICK, DataType::UInt64, false),
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

/// What was said as -1 of the old row and +1 of the new one; `since` is when the row came to be.
fn changes(said: &[Said]) -> RecordBatch {
    let mut rows: Vec<(Tick, i64, Terms, i64)> = Vec::new();
    for Said { tick, before, now } in said {
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
        Arc::new(UInt64Array::from_iter_values(rows.iter().map(|(tick, _, _, _)| tick.0))),
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
