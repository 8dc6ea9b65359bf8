//! Drift as a state of the graph: rows of each measure in, the rows of closed periods and the drift events among them out.

use std::sync::{Arc, LazyLock};

use arrow::array::{
    Array, ArrayRef, AsArray, Float64Array, RecordBatch, StringArray, TimestampMicrosecondArray, UInt32Array,
    UInt64Array,
};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, TimestampMicrosecondType};
use tidegate_facts::schema::timestamp;
use tidegate_facts::{Tick, columns};

use super::severity::Level;
use super::{BEYOND, Closed, Fact, Kind, Measure, Settings};
use crate::checkpointed::Lasting;
use crate::keys::{NULL_KEY, keys_of};
use crate::ordered::Ordered;
use crate::rows::ticks_of;

/// The version of what a fingerprint is made of.
const FINGERPRINT: &str = "1";

/// Measures over rows, each with an input of its own.
pub struct Drift {
    settings: Vec<Settings>,
    measures: Vec<Measure>,
}

impl Drift {
    /// Measures that have heard nothing.
    pub fn new(settings: Vec<Settings>) -> Drift {
        let measures = settings.iter().cloned().map(Measure::new).collect();
        Drift { settings, measures }
    }
}

/// The columns of a measure's input.
pub fn input_fields() -> Vec<Field> {
    vec![
        Field::new(columns::TICK, DataType::UInt64, false),
        Field::new("key", DataType::Utf8, true),
        Field::new("time", timestamp(), true),
        Field::new("value", DataType::Int64, true),
        Field::new("member", DataType::Utf8, true),
    ]
}

/// Which column of an input is its key.
pub const KEY: usize = 1;

/// The columns of drift events.
pub fn events_schema() -> SchemaRef {
    let text = |name: &str, nullable| Field::new(name, DataType::Utf8, nullable);
    let time = |name: &str| Field::new(name, timestamp(), false);
    let count = |name: &str, data_type| Field::new(name, data_type, false);
    Arc::new(Schema::new(vec![
        count(columns::TICK, DataType::UInt64),
        text("drift_id", false),
        text("episode_id", false),
        text("drift_type", false),
        text("runtime_type", false),
        text("severity", false),
        text("light", false),
        count("score", DataType::Float64),
        time("detected_at"),
        time("first_detected_at"),
        text("measure", false),
        text("key", false),
        time("period_from"),
        time("period_to"),
        count("value", DataType::Float64),
        count("base", DataType::Float64),
        count("evidence_count", DataType::UInt64),
        count("evidence_first", DataType::UInt64),
        count("evidence_last", DataType::UInt64),
        text("recommended_patch_type", false),
        text("fingerprint_key", false),
        text("fingerprint_version", false),
        count("recurrence_24h", DataType::UInt32),
        count("recurrence_multiplier", DataType::Float64),
        text("supersedes", true),
        text("notes", false),
    ]))
}

/// The columns of the rows of closed periods.
pub fn periods_schema() -> SchemaRef {
    let text = |name: &str, nullable| Field::new(name, DataType::Utf8, nullable);
    let time = |name: &str| Field::new(name, timestamp(), false);
    let count = |name: &str, data_type| Field::new(name, data_type, false);
    Arc::new(Schema::new(vec![
        count(columns::TICK, DataType::UInt64),
        text("period_id", false),
        text("measure", false),
        text("statistic", false),
        text("key", false),
        time("period_from"),
        time("period_to"),
        count("rows", DataType::UInt64),
        count("value", DataType::Float64),
        count("base", DataType::Float64),
        text("level", false),
        count("revision", DataType::UInt32),
        text("supersedes", true),
    ]))
}

/// By which columns rows of one tick are in order: of the events, and of the periods.
pub fn orders() -> [Vec<usize>; 2] {
    let places = |schema: SchemaRef| {
        ["measure", "key", "period_to"].map(|name| schema.index_of(name).expect("its own column")).to_vec()
    };
    [places(events_schema()), places(periods_schema())]
}

/// The columns of what is put down, what was learned of keys; the second is the key.
pub fn put_down_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new(columns::TICK, DataType::UInt64, false),
        Field::new("key", DataType::Utf8, false),
        Field::new("_measure", DataType::Utf8, false),
        Field::new("_learned", DataType::Utf8, false),
    ]))
}

/// A key, a measure, and what was learned of the two.
type Learned = (Arc<str>, Arc<str>, String);

/// What was learned is put down. The facts of periods that can still change are heard again, since they are most of the state.
impl Lasting for Drift {
    fn put_down(&self) -> Vec<ArrayRef> {
        let measures = self.settings.iter().zip(&self.measures).filter(|(of, _)| of.kind.learns());
        let learned = measures.flat_map(|(of, measure)| {
            measure.learned().into_iter().map(|(key, text)| (key, Arc::clone(&of.name), text))
        });
        let learned: Vec<Learned> = learned.collect();
        let texts = |text: fn(&Learned) -> &str| -> ArrayRef {
            Arc::new(StringArray::from_iter_values(learned.iter().map(text)))
        };
        vec![texts(|(key, ..)| key), texts(|(_, measure, _)| measure), texts(|(.., learned)| learned)]
    }

    fn take_up(&mut self, rows: &RecordBatch) {
        let [keys, measures, learned] = [1, 2, 3].map(|place| rows.column(place).as_string::<i32>());
        for row in 0..rows.num_rows() {
            let measure = self.settings.iter().position(|of| *of.name == *measures.value(row));
            let measure = measure.expect("another plan has another checkpoint");
            self.measures[measure].set_learned(keys.value(row), learned.value(row));
        }
    }
}

/// What there is to say of most ticks, since periods are long.
static NOTHING: LazyLock<[RecordBatch; 2]> =
    LazyLock::new(|| [events_schema(), periods_schema()].map(RecordBatch::new_empty));

impl Ordered for Drift {
    fn advance(&mut self, inputs: &[RecordBatch], upper: Tick) -> Vec<RecordBatch> {
        let mut all: Vec<(Tick, usize, Closed)> = Vec::new();
        let mut closed = Vec::new();
        for (place, (measure, rows)) in self.measures.iter_mut().zip(inputs).enumerate() {
            hear(measure, rows, self.settings[place].kind.knows_members(), &mut closed);
            measure.close_before(upper, &mut closed);
            all.extend(closed.drain(..).map(|closed| (closed.tick, place, closed)));
        }
        if all.is_empty() {
            return NOTHING.to_vec();
        }
        all.sort_by_key(|(tick, place, _)| (*tick, *place));
        let rows: Vec<(&Settings, &Closed)> =
            all.iter().map(|(_, place, closed)| (&self.settings[*place], closed)).collect();
        vec![events(&rows), periods(&rows)]
    }
}

/// Hears the rows of an input; one without a key or a time is of no period.
fn hear(measure: &mut Measure, rows: &RecordBatch, knows_members: bool, closed: &mut Vec<Closed>) {
    let ticks = ticks_of(rows).values();
    let keys = rows.column(KEY).as_string::<i32>();
    let times = rows.column(2).as_primitive::<TimestampMicrosecondType>();
    let values = rows.column(3).as_primitive::<Int64Type>();
    let members = if knows_members { keys_of(rows.column(4)) } else { Vec::new() };
    for row in 0..rows.num_rows() {
        if keys.is_null(row) || times.is_null(row) {
            continue;
        }
        let tick = Tick(ticks[row]);
        measure.close_before(tick.next(), closed);
        let value = values.is_valid(row).then(|| values.value(row));
        let member = members.get(row).copied().unwrap_or(NULL_KEY);
        measure.hear(keys.value(row), &Fact { tick, time: times.value(row), value, member });
    }
}

/// The rows that are drift events.
fn events(rows: &[(&Settings, &Closed)]) -> RecordBatch {
    let rows: Vec<_> =
        rows.iter().filter_map(|(s, closed)| Some((*s, *closed, closed.event.as_ref()?))).collect();
    let texts = |text: &dyn Fn(usize) -> String| -> ArrayRef {
        Arc::new(StringArray::from_iter_values((0..rows.len()).map(text)))
    };
    let floats = |of: &dyn Fn(usize) -> f64| -> ArrayRef {
        Arc::new(Float64Array::from_iter_values((0..rows.len()).map(of)))
    };
    let wholes = |of: &dyn Fn(usize) -> u64| -> ArrayRef {
        Arc::new(UInt64Array::from_iter_values((0..rows.len()).map(of)))
    };
    let superseded: ArrayRef = Arc::new(
        rows.iter().map(|(_, _, event)| event.supersedes.map(|id| id.to_hex())).collect::<StringArray>(),
    );
    let columns: Vec<ArrayRef> = vec![
        wholes(&|row| rows[row].1.tick.0),
        texts(&|row| rows[row].1.id.to_hex()),
        texts(&|row| rows[row].2.episode.to_hex()),
        texts(&|row| rows[row].0.kind.name().to_owned()),
        texts(&|row| rows[row].0.kind.runtime_type().to_owned()),
        texts(&|row| rows[row].2.severity.name().to_owned()),
        texts(&|row| rows[row].2.light.name().to_owned()),
        floats(&|row| f64::from(rows[row].2.score) / 1000.0),
        times(rows.iter().map(|(_, closed, _)| closed.tick.micros())),
        times(rows.iter().map(|(_, _, event)| event.since.micros())),
        texts(&|row| rows[row].0.name.to_string()),
        texts(&|row| rows[row].1.key.to_string()),
        times(rows.iter().map(|(_, closed, _)| closed.from)),
        times(rows.iter().map(|(_, closed, _)| closed.to)),
        floats(&|row| millionths(rows[row].1.measured.value)),
        floats(&|row| millionths(rows[row].1.measured.base)),
        wholes(&|row| rows[row].1.rows),
        wholes(&|row| rows[row].1.first.0),
        wholes(&|row| rows[row].1.last.0),
        texts(&|row| rows[row].0.kind.patch().to_owned()),
        texts(&|row| format!("{}:{}", rows[row].0.name, rows[row].1.key)),
        texts(&|_| FINGERPRINT.to_owned()),
        Arc::new(UInt32Array::from_iter_values(rows.iter().map(|(_, _, event)| event.recurrence))),
        floats(&|row| f64::from(rows[row].2.multiplier) / 10.0),
        superseded,
        texts(&|row| notes(rows[row].0, rows[row].1)),
    ];
    RecordBatch::try_new(events_schema(), columns).expect("the columns are the schema's")
}

/// All rows.
fn periods(rows: &[(&Settings, &Closed)]) -> RecordBatch {
    let texts = |text: &dyn Fn(&Settings, &Closed) -> String| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(rows.iter().map(|(settings, closed)| text(settings, closed))))
    };
    let superseded: ArrayRef = Arc::new(
        rows.iter().map(|(_, closed)| closed.supersedes.map(|id| id.to_hex())).collect::<StringArray>(),
    );
    let values = rows.iter().map(|(_, closed)| millionths(closed.measured.value));
    let bases = rows.iter().map(|(_, closed)| millionths(closed.measured.base));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(UInt64Array::from_iter_values(rows.iter().map(|(_, closed)| closed.tick.0))),
        texts(&|_, closed| closed.id.to_hex()),
        texts(&|settings, _| settings.name.to_string()),
        texts(&|settings, _| settings.kind.name().to_owned()),
        texts(&|_, closed| closed.key.to_string()),
        times(rows.iter().map(|(_, closed)| closed.from)),
        times(rows.iter().map(|(_, closed)| closed.to)),
        Arc::new(UInt64Array::from_iter_values(rows.iter().map(|(_, closed)| closed.rows))),
        Arc::new(Float64Array::from_iter_values(values)),
        Arc::new(Float64Array::from_iter_values(bases)),
        texts(&|_, closed| closed.level.name().to_owned()),
        Arc::new(UInt32Array::from_iter_values(rows.iter().map(|(_, closed)| closed.revision))),
        superseded,
    ];
    RecordBatch::try_new(periods_schema(), columns).expect("the columns are the schema's")
}

/// The last step, and the only division into floats.
fn millionths(value: i64) -> f64 {
    value as f64 / 1e6
}

fn times(micros: impl Iterator<Item = i64>) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from_iter_values(micros).with_timezone("UTC"))
}

/// What a person reads.
fn notes(settings: &Settings, closed: &Closed) -> String {
    let (value, base) = (millionths(closed.measured.value), millionths(closed.measured.base));
    let said = match settings.kind {
        Kind::TimingEntropy => format!("timing holds {value:.3} bits more than its reference of {base:.3}"),
        Kind::CorrelationDrift => {
            format!("members fail together: correlation {value:.3} at a base rate of {base:.3}")
        }
        Kind::ConfidenceVolatility => format!("standard deviation {value:.3} around a mean of {base:.3}"),
        Kind::TtlCompression => {
            format!("time to live is {value:.3} times the refresh interval of {base:.0} s")
        }
        Kind::ExternalMismatch => {
            format!("up to {value:.3} s from the beacon, {:.1} % of facts beyond tolerance", base * 100.0)
        }
        Kind::Psi(_) => format!("population stability index {value:.3}, {:.1} % missing", base * 100.0),
        Kind::KolmogorovSmirnov(_) => {
            format!("distance {value:.3} from the reference, {base:.3} by chance one time in twenty")
        }
    };
    let is_beyond = closed.measured.value.saturating_abs() == BEYOND;
    let said = if is_beyond { "a value is greater than any that can be measured".to_owned() } else { said };
    let bounds = settings.bounds;
    match closed.level {
        Level::Green => format!("{said}; taken back after late facts"),
        Level::Yellow => format!("{said}; yellow beyond {}", millionths(bounds.yellow)),
        Level::Red => format!("{said}; red beyond {}", millionths(bounds.red)),
    }
}
