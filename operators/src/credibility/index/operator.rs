//! The credibility operator: reads rows of five kinds, and emits the index as a changelog of one
//! row and its history.

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::datatypes::{Field, Schema, SchemaRef};
use tidegate_facts::row::{Micros, Row};
use tidegate_facts::{Tick, columns};

use super::{
    CredibilityConfig, CredibilityEvent, CredibilityIndex, RegionState, SnapshotRow, Terms, TermsChange,
};
use crate::core::rows::ticks_of;
use crate::core::snapshotting::SnapshotOperator;
use crate::core::tick_ordered::{Exchange, OperatorOutput, TickOperator};
use crate::credibility::drift::severity::Severity;

/// The kind of rows of an input of the credibility operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CredibilityInput {
    /// Drift events: `id`, `since` (the first detection), `severity` (null retracts), `supersedes`.
    Drift,
    /// Correlations: `group`, `to` (the end of the period), `value` in millionths.
    Correlations,
    /// Changes of claims: `unknown`, `fragile`, `diff`.
    Claims,
    /// Valid evidence: `claim`, `expires` (null if it cannot support the claim), `diff`.
    Evidence,
    /// Regions: `region`, `state` (`OK`, `WARN`, `CRITICAL`).
    Regions,
}

/// A row of [`CredibilityInput::Drift`]. Like every input it begins with tick, key and event time.
#[derive(Row)]
struct DriftRow {
    #[row(name = "_tick")]
    tick: Tick,
    id: Option<String>,
    since: Option<Micros>,
    severity: Option<String>,
    supersedes: Option<String>,
}

/// A row of [`CredibilityInput::Correlations`].
#[derive(Row)]
struct CorrelationRow {
    #[row(name = "_tick")]
    tick: Tick,
    group: Option<String>,
    to: Option<Micros>,
    value: Option<i64>,
}

/// A row of [`CredibilityInput::Claims`].
#[derive(Row)]
struct ClaimRow {
    #[row(name = "_tick")]
    tick: Tick,
    unknown: Option<bool>,
    at: Option<Micros>,
    fragile: Option<bool>,
    diff: Option<i64>,
}

/// A row of [`CredibilityInput::Evidence`].
#[derive(Row)]
struct EvidenceRow {
    #[row(name = "_tick")]
    tick: Tick,
    claim: Option<String>,
    expires: Option<Micros>,
    diff: Option<i64>,
}

/// A row of [`CredibilityInput::Regions`].
#[derive(Row)]
struct RegionRow {
    #[row(name = "_tick")]
    tick: Tick,
    region: Option<String>,
    at: Option<Micros>,
    state: Option<String>,
}

/// A row of the index's changelog; `since` is the tick of the row.
#[derive(Row)]
struct IndexRow {
    #[row(name = "_tick")]
    tick: Tick,
    since: Micros,
    credibility_index: i32,
    band: String,
    drift: i32,
    correlation: i32,
    quorum: i32,
    ttl: i32,
    sync: i32,
    #[row(name = "_diff")]
    diff: i64,
}

/// A row of the history: a change of the index, with the index before it.
#[derive(Row)]
struct HistoryRow {
    #[row(name = "_tick")]
    tick: Tick,
    at: Micros,
    credibility_index: i32,
    before: Option<i32>,
    band: String,
    drift: i32,
    correlation: i32,
    quorum: i32,
    ttl: i32,
    sync: i32,
}

/// The credibility operator: emits the index of its inputs, and the index's history.
pub struct Credibility {
    inputs: Vec<CredibilityInput>,
    index: CredibilityIndex,
}

impl CredibilityInput {
    /// The fields of such an input of the credibility operator: tick, key and event time, which
    /// checkpoints read, then the others.
    pub fn fields(self) -> Vec<Field> {
        match self {
            CredibilityInput::Drift => DriftRow::fields(),
            CredibilityInput::Correlations => CorrelationRow::fields(),
            CredibilityInput::Claims => ClaimRow::fields(),
            CredibilityInput::Evidence => EvidenceRow::fields(),
            CredibilityInput::Regions => RegionRow::fields(),
        }
    }

    fn bind(self, batch: &RecordBatch) -> BoundInput<'_> {
        let bound = match self {
            CredibilityInput::Drift => DriftRowColumns::bind(batch).map(BoundInput::Drift),
            CredibilityInput::Correlations => {
                CorrelationRowColumns::bind(batch).map(BoundInput::Correlations)
            }
            CredibilityInput::Claims => ClaimRowColumns::bind(batch).map(BoundInput::Claims),
            CredibilityInput::Evidence => EvidenceRowColumns::bind(batch).map(BoundInput::Evidence),
            CredibilityInput::Regions => RegionRowColumns::bind(batch).map(BoundInput::Regions),
        };
        bound.expect("the plan gives each input its fields")
    }
}

/// A batch of an input, with its columns bound by name.
enum BoundInput<'b> {
    Drift(DriftRowColumns<'b>),
    Correlations(CorrelationRowColumns<'b>),
    Claims(ClaimRowColumns<'b>),
    Evidence(EvidenceRowColumns<'b>),
    Regions(RegionRowColumns<'b>),
}

/// The value of an array at a row; `None` for null.
macro_rules! value {
    ($array:expr, $row:expr) => {
        $array.is_valid($row).then(|| $array.value($row))
    };
}

impl<'b> BoundInput<'b> {
    /// The event of a row; `None` if the row lacks a column that its kind requires.
    fn event(&self, row: usize) -> Option<CredibilityEvent<'b>> {
        Some(match self {
            BoundInput::Drift(columns) => CredibilityEvent::Drift {
                id: value!(columns.id, row)?,
                since: value!(columns.since, row)?,
                severity: value!(columns.severity, row).and_then(Severity::of_name),
                supersedes: value!(columns.supersedes, row),
            },
            BoundInput::Correlations(columns) => CredibilityEvent::Correlation {
                group: value!(columns.group, row)?,
                to: value!(columns.to, row)?,
                value: value!(columns.value, row)?,
            },
            BoundInput::Claims(columns) => CredibilityEvent::Claim {
                is_unknown: value!(columns.unknown, row) == Some(true),
                is_fragile: value!(columns.fragile, row) == Some(true),
                diff: value!(columns.diff, row)?,
            },
            BoundInput::Evidence(columns) => CredibilityEvent::Evidence {
                claim: value!(columns.claim, row)?,
                expires: value!(columns.expires, row),
                diff: value!(columns.diff, row)?,
            },
            BoundInput::Regions(columns) => CredibilityEvent::Region {
                region: value!(columns.region, row)?,
                state: RegionState::of_name(value!(columns.state, row)?)?,
            },
        })
    }
}

impl Credibility {
    /// Returns a credibility operator whose index is 100, with inputs of these kinds.
    pub fn new(config: CredibilityConfig, inputs: Vec<CredibilityInput>) -> Credibility {
        Credibility { inputs, index: CredibilityIndex::new(config) }
    }

    /// The outputs of the credibility operator: the index, a changelog of one row, and its history.
    pub fn outputs() -> [OperatorOutput; 2] {
        // One worker emits all rows, at most the old one and the new one of a tick, in this order.
        [IndexRow::schema(), HistoryRow::schema()].map(|schema| OperatorOutput { schema, order: Vec::new() })
    }

    /// The columns and the row order of the credibility operator's snapshot, and to which workers a
    /// restart sends its rows.
    pub fn snapshot_output() -> (OperatorOutput, Exchange) {
        let tick = columns::tick_field(columns::TICK);
        let fields: Vec<Field> = [tick].into_iter().chain(SnapshotRow::fields()).collect();
        // The rows keep the order in which the index writes them.
        let schema = SchemaRef::new(Schema::new(fields));
        (OperatorOutput { schema, order: Vec::new() }, Exchange::Single)
    }
}

impl TickOperator for Credibility {
    fn advance(&mut self, inputs: &[RecordBatch], upper: Tick) -> Vec<RecordBatch> {
        let mut changes = Vec::new();
        let bound: Vec<(&[i64], BoundInput<'_>)> = self
            .inputs
            .iter()
            .zip(inputs)
            .map(|(input, rows)| (&ticks_of(rows).values()[..], input.bind(rows)))
            .collect();
        let mut next_rows = vec![0; inputs.len()];
        // The least tick first; within a tick, the inputs in their order.
        while let Some((tick, input)) = bound
            .iter()
            .enumerate()
            .filter_map(|(input, (ticks, _))| Some((*ticks.get(next_rows[input])?, input)))
            .min()
        {
            if let Some(event) = bound[input].1.event(next_rows[input]) {
                self.index.apply(Tick(tick), event, &mut changes);
            }
            next_rows[input] += 1;
        }
        self.index.advance_to(upper, &mut changes);
        vec![changelog_batch(&changes), history_batch(&changes)]
    }
}

impl SnapshotOperator for Credibility {
    fn snapshot(&self) -> Vec<ArrayRef> {
        SnapshotRow::columns(&self.index.snapshot())
    }

    fn restore(&mut self, rows: &RecordBatch) {
        // Everything due before the tick of the snapshot had been processed.
        let now = Tick(ticks_of(rows).value(0) - 1);
        for row in SnapshotRow::read(rows).expect("the snapshot's own rows") {
            self.index.restore(now, &row);
        }
    }
}

impl IndexRow {
    fn new(tick: Tick, since: Tick, terms: &Terms, diff: i64) -> IndexRow {
        let term = |term: i64| -term as i32;
        IndexRow {
            tick,
            since: Micros(since.micros()),
            credibility_index: terms.index() as i32,
            band: terms.band().to_owned(),
            drift: term(terms.drift),
            correlation: term(terms.correlation),
            quorum: term(terms.quorum),
            ttl: term(terms.ttl),
            sync: term(terms.sync),
            diff,
        }
    }
}

impl HistoryRow {
    fn new(change: &TermsChange) -> HistoryRow {
        let now = IndexRow::new(change.tick, change.tick, &change.now, 1);
        HistoryRow {
            tick: change.tick,
            at: now.since,
            credibility_index: now.credibility_index,
            before: change.before.map(|(_, terms)| terms.index() as i32),
            band: now.band,
            drift: now.drift,
            correlation: now.correlation,
            quorum: now.quorum,
            ttl: now.ttl,
            sync: now.sync,
        }
    }
}

/// The retraction of the old row and the new row of each change.
fn changelog_batch(changes: &[TermsChange]) -> RecordBatch {
    let rows = changes.iter().flat_map(|TermsChange { tick, before, now }| {
        let before = before.map(|(since, terms)| IndexRow::new(*tick, since, &terms, -1));
        before.into_iter().chain([IndexRow::new(*tick, *tick, now, 1)])
    });
    IndexRow::to_batch(&rows.collect::<Vec<_>>())
}

/// One history row per change.
fn history_batch(changes: &[TermsChange]) -> RecordBatch {
    HistoryRow::to_batch(&changes.iter().map(HistoryRow::new).collect::<Vec<_>>())
}
