//! The drift operator: reads the rows of each measure, and emits drift events and the rows of
//! closed periods.

use std::sync::{Arc, LazyLock};

use arrow::array::{
    Array, ArrayRef, AsArray, Float64Array, RecordBatch, StringArray, TimestampMicrosecondArray, UInt32Array,
    UInt64Array,
};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, TimestampMicrosecondType};
use tidegate_facts::payload_schema::timestamp;
use tidegate_facts::{Tick, columns};

use super::severity::DriftLevel;
use super::{BEYOND, ClosedPeriod, DriftMeasure, MeasureConfig, Observation, StatisticKind};
use crate::core::keys::{NULL_KEY, keys_of};
use crate::core::rows::ticks_of;
use crate::core::snapshotting::SnapshotOperator;
use crate::core::tick_ordered::TickOperator;

/// The version of how fingerprints are made.
const FINGERPRINT_VERSION: &str = "1";

/// The drift operator: one measure per input.
pub struct Drift {
    configs: Vec<MeasureConfig>,
    measures: Vec<DriftMeasure>,
}

impl Drift {
    /// Returns an operator without facts, with one input for each measure.
    pub fn new(configs: Vec<MeasureConfig>) -> Drift {
        let measures = configs.iter().cloned().map(DriftMeasure::new).collect();
        Drift { configs, measures }
    }
}

/// The fields of a measure's input.
pub fn input_fields() -> Vec<Field> {
    vec![
        columns::tick_field(columns::TICK),
        Field::new("key", DataType::Utf8, true),
        Field::new("time", timestamp(), true),
        Field::new("value", DataType::Int64, true),
        Field::new("member", DataType::Utf8, true),
    ]
}

/// The index of the key column in a measure's input.
pub const KEY: usize = 1;

/// The schema of drift events.
pub fn events_schema() -> SchemaRef {
    let text = |name: &str, nullable| Field::new(name, DataType::Utf8, nullable);
    let time = |name: &str| Field::new(name, timestamp(), false);
    let number = |name: &str, data_type| Field::new(name, data_type, false);
    Arc::new(Schema::new(vec![
        columns::tick_field(columns::TICK),
        text("drift_id", false),
        text("episode_id", false),
        text("drift_type", false),
        text("runtime_type", false),
        text("severity", false),
        text("light", false),
        number("score", DataType::Float64),
        time("detected_at"),
        time("first_detected_at"),
        text("measure", false),
        text("key", false),
        time("period_from"),
        time("period_to"),
        number("value", DataType::Float64),
        number("base", DataType::Float64),
        number("evidence_count", DataType::UInt64),
        columns::tick_field("evidence_first"),
        columns::tick_field("evidence_last"),
        text("recommended_patch_type", false),
        text("fingerprint_key", false),
        text("fingerprint_version", false),
        number("recurrence_24h", DataType::UInt32),
        number("recurrence_multiplier", DataType::Float64),
        text("supersedes", true),
        text("notes", false),
    ]))
}

/// The schema of the rows of closed periods.
pub fn periods_schema() -> SchemaRef {
    let text = |name: &str, nullable| Field::new(name, DataType::Utf8, nullable);
    let time = |name: &str| Field::new(name, timestamp(), false);
    let number = |name: &str, data_type| Field::new(name, data_type, false);
    Arc::new(Schema::new(vec![
        columns::tick_field(columns::TICK),
        text("period_id", false),
        text("measure", false),
        text("statistic", false),
        text("key", false),
        time("period_from"),
        time("period_to"),
        number("rows", DataType::UInt64),
        number("value", DataType::Float64),
        number("base", DataType::Float64),
        text("level", false),
        number("revision", DataType::UInt32),
        text("supersedes", true),
    ]))
}

/// The columns by which rows of one tick are sorted: of the events, and of the periods.
pub fn orders() -> [Vec<usize>; 2] {
    let order = |schema: SchemaRef| {
        ["measure", "key", "period_to"].map(|name| schema.index_of(name).expect("its own column")).to_vec()
    };
    [order(events_schema()), order(periods_schema())]
}

/// The schema of the snapshot, the learned references of keys; the key is the second column.
pub fn snapshot_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        columns::tick_field(columns::TICK),
        Field::new("key", DataType::Utf8, false),
        Field::new("_measure", DataType::Utf8, false),
        Field::new("_learned", DataType::Utf8, false),
    ]))
}

/// A key, a measure, and the reference that the measure learned of the key.
type SnapshotRow = (Arc<str>, Arc<str>, String);

/// A snapshot holds the learned references. The facts of periods that can still change are most of
/// the state; they arrive again after a restart.
impl SnapshotOperator for Drift {
    fn snapshot(&self) -> Vec<ArrayRef> {
        let learning = self.configs.iter().zip(&self.measures).filter(|(of, _)| of.kind.learns_reference());
        let rows = learning.flat_map(|(config, measure)| {
            measure.references().into_iter().map(|(key, text)| (key, Arc::clone(&config.name), text))
        });
        let rows: Vec<SnapshotRow> = rows.collect();
        let texts = |text: fn(&SnapshotRow) -> &str| -> ArrayRef {
            Arc::new(StringArray::from_iter_values(rows.iter().map(text)))
        };
        vec![texts(|(key, ..)| key), texts(|(_, measure, _)| measure), texts(|(.., learned)| learned)]
    }

    fn restore(&mut self, rows: &RecordBatch) {
        let [keys, measures, learned] = [1, 2, 3].map(|index| rows.column(index).as_string::<i32>());
        for row in 0..rows.num_rows() {
            let measure = self.configs.iter().position(|of| *of.name == *measures.value(row));
            let measure = measure.expect("a snapshot of the same plan has the same measures");
            self.measures[measure].set_reference(keys.value(row), learned.value(row));
        }
    }
}

/// The output at most ticks, since periods are long.
static EMPTY_OUTPUT: LazyLock<[RecordBatch; 2]> =
    LazyLock::new(|| [events_schema(), periods_schema()].map(RecordBatch::new_empty));

impl TickOperator for Drift {
    fn advance(&mut self, inputs: &[RecordBatch], upper: Tick) -> Vec<RecordBatch> {
        let mut all: Vec<(Tick, usize, ClosedPeriod)> = Vec::new();
        let mut closed = Vec::new();
        for (index, (measure, rows)) in self.measures.iter_mut().zip(inputs).enumerate() {
            add_rows(measure, rows, self.configs[index].kind.reads_members(), &mut closed);
            measure.close_before(upper, &mut closed);
            all.extend(closed.drain(..).map(|closed| (closed.tick, index, closed)));
        }
        if all.is_empty() {
            return EMPTY_OUTPUT.to_vec();
        }
        all.sort_by_key(|(tick, index, _)| (*tick, *index));
        let rows: Vec<(&MeasureConfig, &ClosedPeriod)> =
            all.iter().map(|(_, index, closed)| (&self.configs[*index], closed)).collect();
        vec![events_batch(&rows), periods_batch(&rows)]
    }
}

/// Adds the rows of an input to its measure. A row without a key or a time is in no period.
fn add_rows(
    measure: &mut DriftMeasure,
    rows: &RecordBatch,
    reads_members: bool,
    closed: &mut Vec<ClosedPeriod>,
) {
    let ticks = ticks_of(rows).values();
    let keys = rows.column(KEY).as_string::<i32>();
    let times = rows.column(2).as_primitive::<TimestampMicrosecondType>();
    let values = rows.column(3).as_primitive::<Int64Type>();
    let members = if reads_members { keys_of(rows.column(4)) } else { Vec::new() };
    for row in 0..rows.num_rows() {
        if keys.is_null(row) || times.is_null(row) {
            continue;
        }
        let tick = Tick(ticks[row]);
        measure.close_before(tick.next(), closed);
        let value = values.is_valid(row).then(|| values.value(row));
        let member = members.get(row).copied().unwrap_or(NULL_KEY);
        measure.add(keys.value(row), &Observation { tick, time: times.value(row), value, member });
    }
}

/// The rows that are drift events.
fn events_batch(rows: &[(&MeasureConfig, &ClosedPeriod)]) -> RecordBatch {
    let rows: Vec<_> =
        rows.iter().filter_map(|(of, closed)| Some((*of, *closed, closed.event.as_ref()?))).collect();
    let texts = |text: &dyn Fn(usize) -> String| -> ArrayRef {
        Arc::new(StringArray::from_iter_values((0..rows.len()).map(text)))
    };
    let floats = |of: &dyn Fn(usize) -> f64| -> ArrayRef {
        Arc::new(Float64Array::from_iter_values((0..rows.len()).map(of)))
    };
    let ticks =
        |of: &dyn Fn(usize) -> Tick| -> ArrayRef { Arc::new(columns::tick_array((0..rows.len()).map(of))) };
    let superseded: ArrayRef = Arc::new(
        rows.iter().map(|(_, _, event)| event.supersedes.map(|id| id.to_hex())).collect::<StringArray>(),
    );
    let columns: Vec<ArrayRef> = vec![
        ticks(&|row| rows[row].1.tick),
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
        floats(&|row| millionths(rows[row].1.measurement.value)),
        floats(&|row| millionths(rows[row].1.measurement.base)),
        Arc::new(UInt64Array::from_iter_values(rows.iter().map(|(_, closed, _)| closed.rows))),
        ticks(&|row| rows[row].1.first),
        ticks(&|row| rows[row].1.last),
        texts(&|row| rows[row].0.kind.patch().to_owned()),
        texts(&|row| format!("{}:{}", rows[row].0.name, rows[row].1.key)),
        texts(&|_| FINGERPRINT_VERSION.to_owned()),
        Arc::new(UInt32Array::from_iter_values(rows.iter().map(|(_, _, event)| event.recurrence))),
        floats(&|row| f64::from(rows[row].2.multiplier) / 10.0),
        superseded,
        texts(&|row| notes(rows[row].0, rows[row].1)),
    ];
    RecordBatch::try_new(events_schema(), columns).expect("the columns are the schema's")
}

/// The rows of all closed periods.
fn periods_batch(rows: &[(&MeasureConfig, &ClosedPeriod)]) -> RecordBatch {
    let texts = |text: &dyn Fn(&MeasureConfig, &ClosedPeriod) -> String| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(rows.iter().map(|(of, closed)| text(of, closed))))
    };
    let superseded: ArrayRef = Arc::new(
        rows.iter().map(|(_, closed)| closed.supersedes.map(|id| id.to_hex())).collect::<StringArray>(),
    );
    let values = rows.iter().map(|(_, closed)| millionths(closed.measurement.value));
    let bases = rows.iter().map(|(_, closed)| millionths(closed.measurement.base));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(columns::tick_array(rows.iter().map(|(_, closed)| closed.tick))),
        texts(&|_, closed| closed.id.to_hex()),
        texts(&|of, _| of.name.to_string()),
        texts(&|of, _| of.kind.name().to_owned()),
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

/// A whole number of millionths as a float: the last step, and the only one with floats.
fn millionths(value: i64) -> f64 {
    value as f64 / 1e6
}

fn times(micros: impl Iterator<Item = i64>) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from_iter_values(micros).with_timezone("UTC"))
}

/// A sentence about a drift event, for people.
fn notes(config: &MeasureConfig, closed: &ClosedPeriod) -> String {
    let (value, base) = (millionths(closed.measurement.value), millionths(closed.measurement.base));
    let finding = match config.kind {
        StatisticKind::TimingEntropy => {
            format!("timing holds {value:.3} bits more than its reference of {base:.3}")
        }
        StatisticKind::CorrelationDrift => {
            format!("members fail together: correlation {value:.3} at a base rate of {base:.3}")
        }
        StatisticKind::ConfidenceVolatility => {
            format!("standard deviation {value:.3} around a mean of {base:.3}")
        }
        StatisticKind::TtlCompression => {
            format!("time to live is {value:.3} times the refresh interval of {base:.0} s")
        }
        StatisticKind::ExternalMismatch => {
            format!("up to {value:.3} s from the beacon, {:.1} % of facts beyond tolerance", base * 100.0)
        }
        StatisticKind::Psi(_) => {
            format!("population stability index {value:.3}, {:.1} % missing", base * 100.0)
        }
        StatisticKind::KolmogorovSmirnov(_) => {
            format!("distance {value:.3} from the reference, {base:.3} by chance one time in twenty")
        }
    };
    let is_beyond = closed.measurement.value.saturating_abs() == BEYOND;
    let finding =
        if is_beyond { "a value is greater than any that can be measured".to_owned() } else { finding };
    let bounds = config.bounds;
    match closed.level {
        DriftLevel::Green => format!("{finding}; taken back after late facts"),
        DriftLevel::Yellow => format!("{finding}; yellow beyond {}", millionths(bounds.yellow)),
        DriftLevel::Red => format!("{finding}; red beyond {}", millionths(bounds.red)),
    }
}
