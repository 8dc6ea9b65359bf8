//! The value of a keyed timeline at each event's tick (reference: fraud platform 2.9).
//!
//! Of the facts with the event's key and a tick not above the event's, the one with the latest
//! effective time stands, and among those of one effective time the one observed last. Where several
//! share both times and hold different values, that is a conflict, and it is shown: no winner, no value.

use std::sync::{Arc, RwLock};

use arrow::array::{ArrayRef, DictionaryArray, Int32Array, StringArray, UInt64Array};
use arrow::datatypes::{DataType, Field};
use tidegate_facts::columns;

use crate::keys::keys_of;
use crate::lookup::{Asks, Group, Wider, look_up, micros_of};
use crate::rows::RowStream;
use crate::timeline::{
    Held, Keep, Layout, Measure, Shown, Texts, TimelineBatch, arrange_timeline, entries_of, first_not,
};
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
    /// The name of the column with the tick of the fact that stands.
    pub tick: String,
    /// The names and types of the values.
    pub values: Vec<(String, DataType)>,
    /// Where the timeline is shown to those who read beside the graph.
    pub shown: Option<Arc<Shown>>,
    /// Where what the timeline holds is counted.
    pub held: Arc<Held>,
}

impl AsOf<'_> {
    /// The columns that are added to each row.
    pub fn fields(status: &str, tick: &str, values: &[(String, DataType)]) -> Vec<Field> {
        let status = Field::new(status, columns::dictionary(), false);
        let tick = Field::new(tick, DataType::UInt64, true);
        let values = values.iter().map(|(name, data_type)| Field::new(name, data_type.clone(), true));
        [status, tick].into_iter().chain(values).collect()
    }
}

/// Each row with what the timeline says of its key, as of its tick.
///
/// * Output: each row once, at home, at the time of its message.
/// * State: of each key the facts of its latest effective time, and those above the asking ticks.
pub fn as_of<'scope>(rows: RowStream<'scope>, settings: AsOf<'scope>, name: &str) -> RowStream<'scope> {
    let AsOf { timeline, key, time, status, tick, values, shown, held } = settings;
    let fields = AsOf::fields(&status, &tick, &values);
    let types: Vec<DataType> = values.into_iter().map(|(_, data_type)| data_type).collect();
    let measures = vec![Measure { squares: false, nullable: true }; types.len() + 1];
    let layout = Arc::new(Layout { measures, keep: Keep::Latest, held });
    let timeline = arrange_timeline(entries_of(timeline, shown.is_some(), name), &layout, shown, name);
    let texts = timeline.texts;
    let group = Group {
        ask: Box::new(move |batch| (keys_of(batch.column(key)), micros_of(batch.column(time)))),
        timeline: timeline.arranged,
        read: Box::new(move |batches, asks| read(batches, asks, &types, &texts)),
    };
    let mut wider = Wider::new(fields);
    look_up(rows, vec![group], name, move |batch, answers| wider.widen(&batch, answers.into_iter().flatten()))
}

/// What stands for one key so far.
#[derive(Clone, Default)]
struct Standing {
    status: Status,
    /// Effective and observed time.
    times: (i64, i64),
    /// The tick of the fact; of several that say the same, the first.
    tick: u64,
    values: Vec<Option<i64>>,
}

impl Standing {
    fn offer(&mut self, times: (i64, i64), tick: u64, values: impl Iterator<Item = Option<i64>> + Clone) {
        if self.status == Status::NotFound || times > self.times {
            *self = Standing { status: Status::Resolved, times, tick, values: values.collect() };
        } else if times == self.times {
            self.tick = self.tick.min(tick);
            if !values.eq(self.values.iter().copied()) {
                self.status = Status::Conflict;
            }
        }
    }
}

fn read(
    batches: &[Arc<TimelineBatch>],
    asks: &Asks,
    types: &[DataType],
    texts: &RwLock<Texts>,
) -> Vec<ArrayRef> {
    let mut standing = vec![Standing::default(); asks.len()];
    for batch in batches {
        let keys = batch.keys();
        let mut place = 0;
        for (key, asking) in asks.by_key() {
            place = first_not(place..keys.len(), |place| keys[place] < key);
            if keys.get(place) != Some(&key) {
                continue;
            }
            for ask in asking {
                let seen = batch.rows(place).rev().filter(|row| batch.ticks()[*row] <= asks.ticks[ask]);
                let mut effective = None;
                for row in seen {
                    let time = batch.times()[row];
                    if *effective.get_or_insert(time) != time {
                        break;
                    }
                    let observed = batch.value(0, row).unwrap_or(time);
                    let values = (1..=types.len()).map(|measure| batch.value(measure, row));
                    standing[ask].offer((time, observed), batch.ticks()[row].0, values);
                }
            }
        }
    }
    let codes = Int32Array::from_iter_values(standing.iter().map(|s| s.status as i32));
    let statuses = DictionaryArray::new(codes, Arc::new(StringArray::from_iter_values(STATUS)));
    let texts = texts.read().expect("no panic");
    let values = types.iter().enumerate().map(|(place, data_type)| {
        let cells =
            standing.iter().map(|s| (s.status == Status::Resolved).then(|| s.values[place]).flatten());
        match data_type {
            DataType::Utf8 => {
                let text = |number| texts.text(number).expect("texts come with their rows").to_string();
                Arc::new(cells.map(|cell| cell.map(text)).collect::<StringArray>()) as ArrayRef
            }
            _ => values_of(data_type, cells),
        }
    });
    let ticks: UInt64Array =
        standing.iter().map(|s| (s.status == Status::Resolved).then_some(s.tick)).collect();
    let heads: [ArrayRef; 2] = [Arc::new(statuses), Arc::new(ticks)];
    heads.into_iter().chain(values).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use arrow::array::{Array, AsArray, Int64Array, RecordBatch, TimestampMicrosecondArray, UInt64Array};
    use arrow::compute::filter_record_batch;
    use arrow::datatypes::{Int32Type, Int64Type, Schema, UInt64Type};
    use expect_test::{Expect, expect};
    use tidegate_facts::Tick;

    use super::*;
    use crate::expr::Split;
    use crate::lookup::tests::{Chance, Groups, run};
    use crate::streams::map_rows;

    /// One fact; those with an effective time are what the timeline says of their key.
    #[derive(Clone, Debug)]
    struct Fact {
        tick: Tick,
        key: Option<i64>,
        effective: Option<i64>,
        observed: Option<i64>,
        text: Option<String>,
        number: Option<i64>,
    }

    fn batch_of(facts: &[Fact]) -> RecordBatch {
        let micros = |time: fn(&Fact) -> Option<i64>| -> ArrayRef {
            Arc::new(facts.iter().map(time).collect::<TimestampMicrosecondArray>().with_timezone("UTC"))
        };
        let columns: Vec<(&str, ArrayRef)> = vec![
            (columns::TICK, Arc::new(UInt64Array::from_iter_values(facts.iter().map(|f| f.tick.0)))),
            ("key", Arc::new(facts.iter().map(|f| f.key).collect::<Int64Array>())),
            (columns::TS_UTC, micros(|f| Some(f.tick.micros()))),
            ("effective", micros(|f| f.effective)),
            ("observed", micros(|f| f.observed)),
            ("text", Arc::new(facts.iter().map(|f| f.text.as_deref()).collect::<StringArray>())),
            ("number", Arc::new(facts.iter().map(|f| f.number).collect::<Int64Array>())),
        ];
        let fields: Vec<Field> =
            columns.iter().map(|(n, c)| Field::new(*n, c.data_type().clone(), true)).collect();
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns.into_iter().map(|(_, c)| c).collect())
            .expect("the columns have one length")
    }

    /// Status, text, number and tick for each fact.
    type Answer = (String, Option<String>, Option<i64>, Option<u64>);

    fn fast(facts: &[Fact], workers: usize, groups: Groups) -> Vec<Answer> {
        let rows = run(&batch_of(facts), workers, groups, |rows| {
            let narrow = |batch: RecordBatch| {
                let is_label = arrow::compute::is_not_null(batch.column(3)).expect("any column has nulls");
                let labels = filter_record_batch(&batch, &is_label).expect("one flag for each row");
                Split { passed: labels.project(&[0, 1, 3, 4, 5, 6]).expect("they are there"), errors: None }
            };
            let settings = AsOf {
                timeline: map_rows(rows.clone(), "narrow", narrow).0,
                key: 1,
                time: 2,
                status: "status".to_owned(),
                tick: "tick".to_owned(),
                values: vec![
                    ("said_text".to_owned(), DataType::Utf8),
                    ("said_number".to_owned(), DataType::Int64),
                ],
                shown: None,
                held: Arc::default(),
            };
            as_of(rows, settings, "as of")
        });
        assert_eq!(rows.num_rows(), facts.len(), "each row comes out once");
        let statuses = rows.column(7).as_dictionary::<Int32Type>();
        let names = statuses.values().as_string::<i32>();
        let ticks = rows.column(8).as_primitive::<UInt64Type>();
        let (texts, numbers) =
            (rows.column(9).as_string::<i32>(), rows.column(10).as_primitive::<Int64Type>());
        (0..rows.num_rows())
            .map(|row| {
                let status = names.value(statuses.keys().value(row) as usize).to_owned();
                let text = texts.is_valid(row).then(|| texts.value(row).to_owned());
                let tick = ticks.is_valid(row).then(|| ticks.value(row));
                (status, text, numbers.is_valid(row).then(|| numbers.value(row)), tick)
            })
            .collect()
    }

    /// The slow, obvious version: for one asking fact, all facts are looked at.
    fn slow(facts: &[Fact], asking: &Fact) -> Answer {
        let times = |f: &Fact| f.effective.map(|effective| (effective, f.observed.unwrap_or(effective)));
        let seen =
            || facts.iter().filter(|f| f.tick <= asking.tick && f.key.is_some() && f.key == asking.key);
        let Some(latest) = seen().filter_map(times).max() else {
            return ("NOT_FOUND".to_owned(), None, None, None);
        };
        let said: BTreeSet<_> =
            seen().filter(|f| times(f) == Some(latest)).map(|f| (f.text.clone(), f.number)).collect();
        if said.len() > 1 {
            return ("CONFLICT".to_owned(), None, None, None);
        }
        let (text, number) = said.into_iter().next().expect("the latest says something");
        let tick = seen().filter(|f| times(f) == Some(latest)).map(|f| f.tick.0).min();
        ("RESOLVED".to_owned(), text, number, tick)
    }

    #[test]
    fn every_answer_is_what_a_scan_of_all_facts_gives() {
        for seed in 0..10 {
            let mut chance = Chance(seed);
            let mut tick = Tick::ZERO;
            let mut now = 1_000;
            let keys = 1 + chance.below(8);
            let facts: Vec<Fact> = (0..300)
                .map(|_| {
                    now += chance.below(6) as i64;
                    tick = Tick::following(tick, now, chance.below(4) as u16).expect("in range");
                    let effective = chance.unless_one_in(2, 12).map(|steps| now - now % 10 + 20 - 10 * steps);
                    Fact {
                        tick,
                        key: chance.unless_one_in(9, keys),
                        effective,
                        observed: chance.unless_one_in(4, 3),
                        text: chance.unless_one_in(4, 2).map(|n| format!("text {n}")),
                        number: chance.unless_one_in(4, 2),
                    }
                })
                .collect();
            for (workers, groups) in [
                (1, Groups::Of(7)),
                (1, Groups::Random(seed)),
                (2, Groups::Random(seed)),
                (3, Groups::Of(50)),
            ] {
                let answers = fast(&facts, workers, groups);
                for (fact, got) in facts.iter().zip(answers) {
                    assert_eq!(
                        got,
                        slow(&facts, fact),
                        "seed {seed}, {workers} workers, {groups:?}, {fact:?}"
                    );
                }
            }
        }
    }

    /// Facts of one key, a line each: `tick effective observed text`, or only a tick to ask.
    fn check(lines: &str, wanted: &Expect) {
        let lines = || lines.lines().map(str::trim).filter(|line| !line.is_empty());
        let fact = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let number = |place: usize| words.get(place).and_then(|word| word.parse().ok());
            Fact {
                tick: Tick::new(number(0).expect("a tick"), 0).expect("in range"),
                key: Some(7),
                effective: number(1),
                observed: number(2),
                text: words.get(3).map(|text| (*text).to_owned()),
                number: None,
            }
        };
        let facts: Vec<Fact> = lines().map(fact).collect();
        let shown: Vec<String> = lines()
            .zip(fast(&facts, 1, Groups::Of(2)))
            .map(|(line, (status, text, _, _))| {
                format!("{line}: {status} {}\n", text.as_deref().unwrap_or("-"))
            })
            .collect();
        wanted.assert_eq(&shown.concat());
    }

    #[test]
    fn the_latest_effective_time_stands_and_then_the_latest_observed_one() {
        check(
            "
            10
            11 5 6 genuine
            12 5 7 fraud
            13 4 9 genuine
            14 5 6 disputed
            15 6 1 genuine
            ",
            &expect![[r#"
                10: NOT_FOUND -
                11 5 6 genuine: RESOLVED genuine
                12 5 7 fraud: RESOLVED fraud
                13 4 9 genuine: RESOLVED fraud
                14 5 6 disputed: RESOLVED fraud
                15 6 1 genuine: RESOLVED genuine
            "#]],
        );
    }

    #[test]
    fn a_conflict_is_shown_until_something_later_stands() {
        check(
            "
            10 5 5 genuine
            11 5 5 fraud
            12 5 5 genuine
            13 5 6 fraud
            14
            ",
            &expect![[r#"
                10 5 5 genuine: RESOLVED genuine
                11 5 5 fraud: CONFLICT -
                12 5 5 genuine: CONFLICT -
                13 5 6 fraud: RESOLVED fraud
                14: RESOLVED fraud
            "#]],
        );
    }
}
