//! The drift operator: reads the rows of each measure, and emits drift events and the rows of
//! closed periods.

use std::sync::LazyLock;

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::datatypes::{Field, Schema, SchemaRef};
use tidegate_facts::row::{Micros, Row};
use tidegate_facts::{Tick, columns};

use super::severity::{DriftEvent, DriftLevel, Severity};
use super::{BEYOND, ClosedPeriod, DriftMeasure, MeasureConfig, Observation, StatisticKind};
use crate::core::keys::{NULL_KEY, keys_of};
use crate::core::snapshotting::SnapshotOperator;
use crate::core::tick_ordered::{Exchange, OperatorOutput, TickOperator};

/// The version of how fingerprints are made.
const FINGERPRINT_VERSION: &str = "1";

/// The drift operator: one measure per input.
pub struct Drift {
    configs: Vec<MeasureConfig>,
    measures: Vec<DriftMeasure>,
}

impl Drift {
    /// Returns a drift operator without facts, with one input for each measure.
    pub fn new(configs: Vec<MeasureConfig>) -> Drift {
        let measures = configs.iter().cloned().map(DriftMeasure::new).collect();
        Drift { configs, measures }
    }
}

/// A row of a measure's input: tick, key and event time, which checkpoints read, then the others.
#[derive(Row)]
struct InputRow {
    #[row(name = "_tick")]
    tick: Tick,
    key: Option<String>,
    time: Option<Micros>,
    value: Option<i64>,
    member: Option<String>,
}

/// A drift event.
#[derive(Row)]
struct EventRow {
    #[row(name = "_tick")]
    tick: Tick,
    drift_id: String,
    episode_id: String,
    drift_type: String,
    runtime_type: String,
    severity: Severity,
    light: DriftLevel,
    score: f64,
    detected_at: Micros,
    first_detected_at: Micros,
    measure: String,
    key: String,
    period_from: Micros,
    period_to: Micros,
    value: f64,
    base: f64,
    evidence_count: u64,
    evidence_first: Tick,
    evidence_last: Tick,
    recommended_patch_type: String,
    fingerprint_key: String,
    fingerprint_version: String,
    recurrence_24h: u32,
    recurrence_multiplier: f64,
    supersedes: Option<String>,
    notes: String,
}

/// A closed period, or a revision of it.
#[derive(Row)]
struct PeriodRow {
    #[row(name = "_tick")]
    tick: Tick,
    period_id: String,
    measure: String,
    statistic: String,
    key: String,
    period_from: Micros,
    period_to: Micros,
    #[row(name = "rows")]
    row_count: u64,
    value: f64,
    base: f64,
    level: DriftLevel,
    revision: u32,
    supersedes: Option<String>,
}

/// A row of the snapshot, after the tick: the reference that a measure learned of a key.
#[derive(Row)]
struct SnapshotRow {
    key: String,
    #[row(name = "_measure")]
    measure: String,
    #[row(name = "_learned")]
    learned: String,
}

/// The fields of each input of the drift operator: tick, key and event time, then the others.
pub fn input_fields() -> Vec<Field> {
    InputRow::fields()
}

/// To which workers the rows of the drift operator's inputs go: to those that own their keys.
pub fn input_exchange() -> Exchange {
    Exchange::Key(index_of(&InputRow::schema(), "key"))
}

/// The outputs of the drift operator: drift events, and the rows of closed periods.
pub fn outputs() -> [OperatorOutput; 2] {
    [EventRow::schema(), PeriodRow::schema()].map(|schema| {
        let order = ["measure", "key", "period_to"].map(|name| index_of(&schema, name)).to_vec();
        OperatorOutput { schema, order }
    })
}

/// The columns and the row order of the drift operator's snapshot, and to which workers a restart
/// sends its rows.
pub fn snapshot_output() -> (OperatorOutput, Exchange) {
    let tick = columns::tick_field(columns::TICK);
    let fields: Vec<Field> = [tick].into_iter().chain(SnapshotRow::fields()).collect();
    let schema = SchemaRef::new(Schema::new(fields));
    let key = index_of(&schema, "key");
    let order = vec![key, index_of(&schema, "_measure")];
    (OperatorOutput { schema, order }, Exchange::Key(key))
}

fn index_of(schema: &Schema, name: &str) -> usize {
    schema.index_of(name).expect("its own column")
}

/// A snapshot holds the learned references. The facts of periods that can still change are most of
/// the state; they arrive again after a restart.
impl SnapshotOperator for Drift {
    fn snapshot(&self) -> Vec<ArrayRef> {
        let learning = self.configs.iter().zip(&self.measures).filter(|(of, _)| of.kind.learns_reference());
        let rows = learning.flat_map(|(config, measure)| {
            let references = measure.references().into_iter();
            references.map(|(key, learned)| SnapshotRow {
                key: key.to_string(),
                measure: config.name.to_string(),
                learned,
            })
        });
        SnapshotRow::columns(&rows.collect::<Vec<_>>())
    }

    fn restore(&mut self, rows: &RecordBatch) {
        for row in SnapshotRow::read(rows).expect("the snapshot's own rows") {
            let measure = self.configs.iter().position(|of| *of.name == *row.measure);
            let measure = measure.expect("a snapshot of the same plan has the same measures");
            self.measures[measure].set_reference(&row.key, &row.learned);
        }
    }
}

/// The output at most ticks, since periods are long.
static EMPTY_OUTPUT: LazyLock<[RecordBatch; 2]> =
    LazyLock::new(|| [EventRow::schema(), PeriodRow::schema()].map(RecordBatch::new_empty));

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
        let rows = || all.iter().map(|(_, index, closed)| (&self.configs[*index], closed));
        let events: Vec<EventRow> = rows().filter_map(|(of, closed)| EventRow::new(of, closed)).collect();
        let periods: Vec<PeriodRow> = rows().map(|(of, closed)| PeriodRow::new(of, closed)).collect();
        vec![EventRow::to_batch(&events), PeriodRow::to_batch(&periods)]
    }
}

/// Adds the rows of an input to its measure. A row without a key or a time is in no period.
fn add_rows(
    measure: &mut DriftMeasure,
    rows: &RecordBatch,
    reads_members: bool,
    closed: &mut Vec<ClosedPeriod>,
) {
    let input = InputRowColumns::bind(rows).expect("the plan gives each measure these fields");
    let members = rows.column_by_name("member").filter(|_| reads_members).map(keys_of);
    for row in 0..input.len() {
        if input.key.is_null(row) || input.time.is_null(row) {
            continue;
        }
        let tick = Tick(input.tick.value(row));
        measure.close_before(tick.next(), closed);
        let value = input.value.is_valid(row).then(|| input.value.value(row));
        let member = members.as_ref().map_or(NULL_KEY, |members| members[row]);
        let time = input.time.value(row);
        measure.add(input.key.value(row), &Observation { tick, time, value, member });
    }
}

impl EventRow {
    /// The drift event of a closed period; `None` if the period is none and retracts none.
    fn new(config: &MeasureConfig, closed: &ClosedPeriod) -> Option<EventRow> {
        let event: &DriftEvent = closed.event.as_ref()?;
        Some(EventRow {
            tick: closed.tick,
            drift_id: closed.id.to_hex(),
            episode_id: event.episode.to_hex(),
            drift_type: config.kind.name().to_owned(),
            runtime_type: config.kind.runtime_type().to_owned(),
            severity: event.severity,
            light: event.light,
            score: f64::from(event.score) / 1000.0,
            detected_at: Micros(closed.tick.micros()),
            first_detected_at: Micros(event.since.micros()),
            measure: config.name.to_string(),
            key: closed.key.to_string(),
            period_from: Micros(closed.from),
            period_to: Micros(closed.to),
            value: millionths(closed.measurement.value),
            base: millionths(closed.measurement.base),
            evidence_count: closed.rows,
            evidence_first: closed.first,
            evidence_last: closed.last,
            recommended_patch_type: config.kind.patch().to_owned(),
            fingerprint_key: format!("{}:{}", config.name, closed.key),
            fingerprint_version: FINGERPRINT_VERSION.to_owned(),
            recurrence_24h: event.recurrence,
            recurrence_multiplier: f64::from(event.multiplier) / 10.0,
            supersedes: event.supersedes.map(|id| id.to_hex()),
            notes: notes(config, closed),
        })
    }
}

impl PeriodRow {
    fn new(config: &MeasureConfig, closed: &ClosedPeriod) -> PeriodRow {
        PeriodRow {
            tick: closed.tick,
            period_id: closed.id.to_hex(),
            measure: config.name.to_string(),
            statistic: config.kind.name().to_owned(),
            key: closed.key.to_string(),
            period_from: Micros(closed.from),
            period_to: Micros(closed.to),
            row_count: closed.rows,
            value: millionths(closed.measurement.value),
            base: millionths(closed.measurement.base),
            level: closed.level,
            revision: closed.revision,
            supersedes: closed.supersedes.map(|id| id.to_hex()),
        }
    }
}

/// A whole number of millionths as a float: the last step, and the only one with floats.
fn millionths(value: i64) -> f64 {
    value as f64 / 1e6
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
