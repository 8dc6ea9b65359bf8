//! The value of a keyed timeline at each event's tick (reference: fraud platform 2.9).
//!
//! Of the facts with the event's key and a tick not above the event's, the one with the latest
//! effective time stands, and among those of one effective time the one observed last. Where several
//! share both times and hold different values, that is a conflict, and it is shown: no winner, no value.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use arrow::array::{ArrayRef, DictionaryArray, Int32Array, StringArray};
use arrow::datatypes::{DataType, Field};
use tidegate_facts::columns;

use crate::keys::keys_of;
use crate::lookup::{Asks, Group, look_up, micros_of, with_columns};
use crate::rows::RowStream;
use crate::timeline::{Keep, Layout, Measure, Texts, TimelineBatch, arrange_timeline, entries_of};
use crate::windows::values_of;

/// What the timeline says of a key, in the order of [`STATUS`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Status {
    #[default]
    NotFound,
    Resolved,
    Conflict,
}

/// The names of what a timeline can say of a key.
pub const STATUS: [&str; 3] = ["NOT_FOUND", "RESOLVED", "CONFLICT"];

/// A timeline and what is wanted of it.
pub struct AsOf<'scope> {
    /// The facts: tick, key, effective time, observed time, then the values.
    pub timeline: RowStream<'scope>,
    /// The column of the asking rows that holds the key.
    pub key: usize,
    /// The column of the asking rows that holds the event time.
    pub time: usize,
    /// The name of the status column.
    pub status: String,
    /// The names and types of the values.
    pub values: Vec<(String, DataType)>,
}

impl AsOf<'_> {
    /// The columns that are added to each row.
    pub fn fields(status: &str, values: &[(String, DataType)]) -> Vec<Field> {
        let status = Field::new(status, columns::dictionary(), false);
        let values = values.iter().map(|(name, data_type)| Field::new(name, data_type.clone(), true));
        std::iter::once(status).chain(values).collect()
    }
}

/// Each row with what the timeline says of its key, as of its tick.
///
/// * Output: each row once, at home, at the time of its message.
/// * State: of each key the facts of its latest effective time, and those above the asking ticks.
pub fn as_of<'scope>(rows: RowStream<'scope>, settings: AsOf<'scope>, name: &str) -> RowStream<'scope> {
    let AsOf { timeline, key, time, status, values } = settings;
    let fields = AsOf::fields(&status, &values);
    let types: Vec<DataType> = values.into_iter().map(|(_, data_type)| data_type).collect();
    let measures = vec![Measure { squares: false, nullable: true }; types.len() + 1];
    let layout = Arc::new(Layout { measures, keep: Keep::Latest });
    let timeline = arrange_timeline(entries_of(timeline, name), &layout, name);
    let texts = timeline.texts;
    let group = Group {
        ask: Box::new(move |batch| (keys_of(batch.column(key)), micros_of(batch.column(time)))),
        timeline: timeline.arranged,
        read: Box::new(move |batches, asks| read(batches, asks, &types, &texts)),
    };
    look_up(rows, vec![group], name, move |batch, answers| {
        with_columns(&batch, fields.iter().cloned().zip(answers.into_iter().flatten()))
    })
}

/// What stands for one key so far.
#[derive(Clone, Default)]
struct Standing {
    status: Status,
    /// Effective and observed time.
    times: (i64, i64),
    values: Vec<Option<i64>>,
}

impl Standing {
    fn offer(&mut self, times: (i64, i64), values: impl Iterator<Item = Option<i64>> + Clone) {
        if self.status == Status::NotFound || times > self.times {
            *self = Standing { status: Status::Resolved, times, values: values.collect() };
        } else if times == self.times && !values.eq(self.values.iter().copied()) {
            self.status = Status::Conflict;
        }
    }
}

fn read(batches: &[Rc<TimelineBatch>], asks: &Asks, types: &[DataType], texts: &RefCell<Texts>) -> Vec<ArrayRef> {
    let mut standing = vec![Standing::default(); asks.len()];
    for batch in batches {
        for ask in asks.in_timeline_order() {
            let ask = ask as usize;
            let Ok(place) = batch.keys().binary_search(&asks.keys[ask]) else { continue };
            let seen = batch.rows(place).rev().filter(|row| batch.ticks()[*row] <= asks.ticks[ask]);
            let mut effective = None;
            for row in seen {
                let time = batch.times()[row];
                if *effective.get_or_insert(time) != time {
                    break;
                }
                let observed = batch.value(0, row).unwrap_or(time);
                standing[ask].offer((time, observed), (1..=types.len()).map(|measure| batch.value(measure, row)));
            }
        }
    }
    let codes = Int32Array::from_iter_values(standing.iter().map(|s| s.status as i32));
    let statuses = DictionaryArray::new(codes, Arc::new(StringArray::from_iter_values(STATUS)));
    let texts = texts.borrow();
    let values = types.iter().enumerate().map(|(place, data_type)| {
        let cells = standing.iter().map(|s| (s.status == Status::Resolved).then(|| s.values[place]).flatten());
        match data_type {
            DataType::Utf8 => {
                let text = |number| texts.text(number).expect("texts come with their rows").to_string();
                Arc::new(cells.map(|cell| cell.map(text)).collect::<StringArray>()) as ArrayRef
            }
            _ => values_of(data_type, cells),
        }
    });
    std::iter::once(Arc::new(statuses) as ArrayRef).chain(values).collect()
}
