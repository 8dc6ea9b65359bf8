//! As-of look-up: the current value of a key's timeline at each event's tick.
//!
//! Reference: fraud platform 2.9. Among the facts with the event's key and a tick not above the
//! event's, the fact with the latest effective time is current, and of several with that time the
//! one observed last. Facts that agree in both times and differ in their values are a conflict: the
//! status column says so, and the row has no values.

use std::sync::{Arc, RwLock};

use arrow::array::{ArrayRef, DictionaryArray, Int32Array, StringArray};
use arrow::datatypes::{DataType, Field};
use tidegate_facts::columns;

use crate::core::column_appender::ColumnAppender;
use crate::core::keys::keys_of;
use crate::core::rows::{RowStream, micros_of};
use crate::temporal::temporal_lookup::{LookupGroup, LookupRequests, look_up};
use crate::temporal::timeline::{
    Layout, MeasureLayout, PublishedTimeline, Retention, StringDictionary, TimelineBatch, TimelineMetrics,
    arrange_timeline, first_not, measure_column, timeline_rows,
};

/// The result of a look-up, in the order of [`STATUS`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Status {
    #[default]
    NotFound,
    Resolved,
    Conflict,
}

/// The names of the results of an as-of look-up, as the status column contains them.
pub const STATUS: [&str; 3] = ["NOT_FOUND", "RESOLVED", "CONFLICT"];

/// The settings of an as-of look-up: its timeline, and the columns that it reads and adds.
pub struct AsOf<'scope> {
    /// The facts of the timeline: tick, key, effective time, observed time, then the values.
    pub timeline: RowStream<'scope>,
    /// The index of the input column with the key.
    pub key: usize,
    /// The index of the input column with the event time.
    pub time: usize,
    /// The name of the status column.
    pub status: String,
    /// The name of the column with the tick of the current fact.
    pub tick: String,
    /// The names and types of the values.
    pub values: Vec<(String, DataType)>,
    /// Where the timeline is published to reader threads, if it is.
    pub published: Option<Arc<PublishedTimeline>>,
    /// The metrics of the timeline.
    pub metrics: Arc<TimelineMetrics>,
}

impl AsOf<'_> {
    /// The fields of the columns that an as-of look-up adds to each row.
    pub fn fields(status: &str, tick: &str, values: &[(String, DataType)]) -> Vec<Field> {
        let status = Field::new(status, columns::dictionary(), false);
        let tick = columns::nullable_tick_field(tick);
        let values = values.iter().map(|(name, data_type)| Field::new(name, data_type.clone(), true));
        [status, tick].into_iter().chain(values).collect()
    }
}

/// Joins each row with the current value of its key in the timeline, as of the row's tick.
///
/// * Output: each row once, on its partition owner, at the time of its message.
/// * State: for each key the facts of its latest effective time, and those above the ticks of
///   pending rows.
pub fn as_of<'scope>(rows: RowStream<'scope>, settings: AsOf<'scope>, name: &str) -> RowStream<'scope> {
    let AsOf { timeline, key, time, status, tick, values, published, metrics } = settings;
    let fields = AsOf::fields(&status, &tick, &values);
    let types: Vec<DataType> = values.into_iter().map(|(_, data_type)| data_type).collect();
    let measures = vec![MeasureLayout { squares: false, nullable: true }; types.len() + 1];
    let layout = Arc::new(Layout { measures, retention: Retention::Latest, metrics });
    let rows_of_timeline = timeline_rows(timeline, published.is_some(), name);
    let timeline = arrange_timeline(rows_of_timeline, &layout, published, name);
    let texts = timeline.texts;
    let group = LookupGroup {
        request: Box::new(move |batch| (keys_of(batch.column(key)), micros_of(batch.column(time)))),
        timeline: timeline.arranged,
        read: Box::new(move |batches, requests| read(batches, requests, &types, &texts)),
    };
    let mut appender = ColumnAppender::new(fields);
    look_up(rows, vec![group], name, move |batch, results| {
        appender.append(&batch, results.into_iter().flatten())
    })
}

/// The current value of one request's key, among the facts read so far.
#[derive(Clone, Default)]
struct CurrentValue {
    status: Status,
    /// Effective and observed time.
    times: (i64, i64),
    /// The tick of the current fact; the first one when several agree.
    tick: i64,
    values: Vec<Option<i64>>,
}

impl CurrentValue {
    fn add(&mut self, times: (i64, i64), tick: i64, values: impl Iterator<Item = Option<i64>> + Clone) {
        if self.status == Status::NotFound || times > self.times {
            *self = CurrentValue { status: Status::Resolved, times, tick, values: values.collect() };
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
    requests: &LookupRequests,
    types: &[DataType],
    texts: &RwLock<StringDictionary>,
) -> Vec<ArrayRef> {
    let mut current = vec![CurrentValue::default(); requests.len()];
    for batch in batches {
        let keys = batch.keys();
        let mut position = 0;
        for (key, of_key) in requests.by_key() {
            position = first_not(position..keys.len(), |index| keys[index] < key);
            if keys.get(position) != Some(&key) {
                continue;
            }
            for request in of_key {
                let tick = requests.ticks[request];
                let until_tick = batch.rows(position).rev().filter(|row| batch.ticks()[*row] <= tick);
                let mut effective = None;
                for row in until_tick {
                    let time = batch.times()[row];
                    if *effective.get_or_insert(time) != time {
                        break;
                    }
                    let observed = batch.value(0, row).unwrap_or(time);
                    let values = (1..=types.len()).map(|measure| batch.value(measure, row));
                    current[request].add((time, observed), batch.ticks()[row].0, values);
                }
            }
        }
    }
    let codes = Int32Array::from_iter_values(current.iter().map(|c| c.status as i32));
    let statuses = DictionaryArray::new(codes, Arc::new(StringArray::from_iter_values(STATUS)));
    let texts = texts.read().expect("no panic");
    let values = types.iter().enumerate().map(|(index, data_type)| {
        let values =
            current.iter().map(|c| (c.status == Status::Resolved).then(|| c.values[index]).flatten());
        match data_type {
            DataType::Utf8 => {
                let text = |number| texts.text(number).expect("texts arrive with their rows").to_string();
                Arc::new(values.map(|value| value.map(text)).collect::<StringArray>()) as ArrayRef
            }
            _ => measure_column(data_type, values),
        }
    });
    let ticks: columns::TickArray =
        current.iter().map(|c| (c.status == Status::Resolved).then_some(c.tick)).collect();
    let first: [ArrayRef; 2] = [Arc::new(statuses), Arc::new(ticks)];
    first.into_iter().chain(values).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use arrow::array::{Array, AsArray, Int64Array, RecordBatch, TimestampMicrosecondArray};
    use arrow::compute::filter_record_batch;
    use arrow::datatypes::{Int32Type, Int64Type, Schema};
    use expect_test::{Expect, expect};
    use tidegate_facts::Tick;

    use super::*;
    use crate::core::expr::Split;
    use crate::core::map_rows::map_rows;
    use crate::core::testing::{Chance, Groups, run};

    /// One fact; those with an effective time are rows of the timeline.
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
            (columns::TICK, Arc::new(columns::tick_array(facts.iter().map(|f| f.tick)))),
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
    type Answer = (String, Option<String>, Option<i64>, Option<i64>);

    fn fast(facts: &[Fact], workers: usize, groups: Groups) -> Vec<Answer> {
        let rows = run(&batch_of(facts), workers, groups, |rows| {
            let labels_only = |batch: RecordBatch| {
                let is_label = arrow::compute::is_not_null(batch.column(3)).expect("any column has nulls");
                let labels = filter_record_batch(&batch, &is_label).expect("one flag for each row");
                Split { passed: labels.project(&[0, 1, 3, 4, 5, 6]).expect("they are there"), errors: None }
            };
            let settings = AsOf {
                timeline: map_rows(rows.clone(), "labels", labels_only).0,
                key: 1,
                time: 2,
                status: "status".to_owned(),
                tick: "tick".to_owned(),
                values: vec![
                    ("label_text".to_owned(), DataType::Utf8),
                    ("label_number".to_owned(), DataType::Int64),
                ],
                published: None,
                metrics: Arc::default(),
            };
            as_of(rows, settings, "as of")
        });
        assert_eq!(rows.num_rows(), facts.len(), "each row comes out once");
        let statuses = rows.column(7).as_dictionary::<Int32Type>();
        let names = statuses.values().as_string::<i32>();
        let ticks = rows.column(8).as_primitive::<columns::TickType>();
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

    /// The oracle: checks all facts for each requesting fact.
    fn slow(facts: &[Fact], request: &Fact) -> Answer {
        let times = |f: &Fact| f.effective.map(|effective| (effective, f.observed.unwrap_or(effective)));
        let seen =
            || facts.iter().filter(|f| f.tick <= request.tick && f.key.is_some() && f.key == request.key);
        let Some(latest) = seen().filter_map(times).max() else {
            return ("NOT_FOUND".to_owned(), None, None, None);
        };
        let labels: BTreeSet<_> =
            seen().filter(|f| times(f) == Some(latest)).map(|f| (f.text.clone(), f.number)).collect();
        if labels.len() > 1 {
            return ("CONFLICT".to_owned(), None, None, None);
        }
        let (text, number) = labels.into_iter().next().expect("the latest fact is one");
        let tick = seen().filter(|f| times(f) == Some(latest)).map(|f| f.tick.0).min();
        ("RESOLVED".to_owned(), text, number, tick)
    }

    #[test]
    fn every_answer_is_what_a_scan_of_all_facts_returns() {
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

    /// Checks facts of one key, a line each: `tick effective observed text`, or only a tick.
    fn check(lines: &str, expected: &Expect) {
        let lines = || lines.lines().map(str::trim).filter(|line| !line.is_empty());
        let fact = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let number = |index: usize| words.get(index).and_then(|word| word.parse().ok());
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
        let answers: Vec<String> = lines()
            .zip(fast(&facts, 1, Groups::Of(2)))
            .map(|(line, (status, text, _, _))| {
                format!("{line}: {status} {}\n", text.as_deref().unwrap_or("-"))
            })
            .collect();
        expected.assert_eq(&answers.concat());
    }

    #[test]
    fn the_latest_effective_time_is_current_and_then_the_latest_observed_one() {
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
    fn a_conflict_is_reported_until_a_later_fact_is_current() {
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
