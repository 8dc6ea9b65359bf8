//! The copy-detection operator: reads evidence as rows, and emits findings about streams and
//! suspected pairs as changelogs.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, FixedSizeBinaryArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, TimestampMicrosecondType};
use tidegate_facts::row::{Column, Row};
use tidegate_facts::{KeyHash, Tick, columns};

use super::{
    BIT, ContestedOverlap, CopyConfig, CopyDetector, ErrorOverlap, Relation, Similarity, StreamFinding,
    StreamPair,
};
use crate::core::blank_to_null::blank_to_null;
use crate::core::interner::Interner;
use crate::core::keys::{NULL_KEY, keys_of};
use crate::core::row_encoding::decoded_type;
use crate::core::row_layout::RowLayout;
use crate::core::rows::ticks_of;
use crate::core::snapshotting::SnapshotOperator;
use crate::core::tick_ordered::{Exchange, OperatorOutput, TickOperator};

/// The columns of the copy-detection operator's evidence input, by index. The first column is the
/// tick.
#[derive(Clone, Copy, Debug)]
pub struct CopyDetectionColumns {
    /// The claim.
    pub claim: usize,
    /// The stream.
    pub stream: usize,
    /// The value.
    pub value: usize,
    /// The event time.
    pub time: usize,
}

/// A row of the findings changelog. Streams are interned.
#[derive(Row)]
struct FindingRow {
    #[row(name = "_tick")]
    tick: Tick,
    stream: u32,
    family: u32,
    size: i64,
    suspected_group: u32,
    nearest_stream: u32,
    shared_wrong: Option<i64>,
    differing: Option<i64>,
    evidence_bits: Option<i64>,
    values_right: Option<i64>,
    values_count: Option<i64>,
    weight: i64,
    #[row(name = "_diff")]
    diff: i64,
}

/// A row of the port `pairs`. Streams are interned.
#[derive(Row)]
struct PairRow {
    #[row(name = "_tick")]
    tick: Tick,
    stream: u32,
    other: u32,
    shared_wrong: i64,
    differing: i64,
    evidence_bits: i64,
    contested_same: i64,
    contested_differing: i64,
    is_family: bool,
    #[row(name = "_diff")]
    diff: i64,
}

/// The copy-detection operator: emits the findings about streams, and the suspected pairs.
pub struct CopyDetection {
    columns: CopyDetectionColumns,
    layouts: CopyDetectionLayouts,
    detector: CopyDetector,
    streams: Interner,
    values: Interner,
}

/// The layouts of the outputs and of the snapshot.
struct CopyDetectionLayouts {
    findings: RowLayout<FindingRow>,
    pairs: RowLayout<PairRow>,
    snapshot: RowLayout<SnapshotRow>,
}

impl CopyDetectionLayouts {
    /// The layouts for streams and values of these types.
    fn new(stream: &DataType, value: &DataType) -> CopyDetectionLayouts {
        let field = |name: &str, data_type, nullable| Field::new(name, decoded_type(data_type), nullable);
        CopyDetectionLayouts {
            findings: RowLayout::new(
                Vec::new(),
                vec![
                    field("stream", stream, false),
                    field("family", stream, true),
                    field("suspected_group", stream, true),
                    field("nearest_stream", stream, true),
                ],
            ),
            pairs: RowLayout::new(
                Vec::new(),
                vec![field("stream", stream, false), field("other", stream, false)],
            ),
            snapshot: RowLayout::new(
                vec![columns::tick_field(columns::TICK)],
                vec![
                    field("_stream", stream, true),
                    field("_other", stream, true),
                    field("_value", value, true),
                ],
            ),
        }
    }

    fn of(input: &Schema, columns: CopyDetectionColumns) -> CopyDetectionLayouts {
        let data_type = |index: usize| input.field(index).data_type();
        CopyDetectionLayouts::new(data_type(columns.stream), data_type(columns.value))
    }
}

impl CopyDetection {
    /// The outputs of the copy-detection operator, for evidence of the schema `input`: the findings
    /// and the port `pairs`.
    pub fn outputs(input: &Schema, columns: CopyDetectionColumns) -> [OperatorOutput; 2] {
        let CopyDetectionLayouts { findings, pairs, .. } = CopyDetectionLayouts::of(input, columns);
        [
            OperatorOutput {
                schema: Arc::clone(findings.schema()),
                order: vec![findings.index_of("stream")],
            },
            OperatorOutput {
                schema: Arc::clone(pairs.schema()),
                order: ["stream", "other"].map(|name| pairs.index_of(name)).into(),
            },
        ]
    }

    /// The columns and the row order of the copy-detection operator's snapshot, and to which
    /// workers a restart sends its rows.
    pub fn snapshot_output(input: &Schema, columns: CopyDetectionColumns) -> (OperatorOutput, Exchange) {
        let layout = CopyDetectionLayouts::of(input, columns).snapshot;
        let order = ["_kind", "_claim", "_stream", "_other"].map(|name| layout.index_of(name));
        let output = OperatorOutput { schema: Arc::clone(layout.schema()), order: order.into() };
        (output, Exchange::Single)
    }

    /// Returns a copy-detection operator without reports; `input` is the schema of the evidence.
    pub fn new(input: &Schema, columns: CopyDetectionColumns, config: CopyConfig) -> CopyDetection {
        let data_type = |index: usize| input.field(index).data_type().clone();
        CopyDetection {
            layouts: CopyDetectionLayouts::of(input, columns),
            detector: CopyDetector::new(config),
            streams: Interner::new(data_type(columns.stream)),
            values: Interner::new(data_type(columns.value)),
            columns,
        }
    }

    fn findings_batch(&self, rows: &[FindingRow]) -> RecordBatch {
        let streams = |of: fn(&FindingRow) -> u32| self.streams.column(rows.iter().map(of));
        let planned = vec![
            streams(|row| row.stream),
            streams(|row| row.family),
            streams(|row| row.suspected_group),
            streams(|row| row.nearest_stream),
        ];
        self.layouts.findings.batch(Vec::new(), rows, planned)
    }

    fn pairs_batch(&self, rows: &[PairRow]) -> RecordBatch {
        let streams = |of: fn(&PairRow) -> u32| self.streams.column(rows.iter().map(of));
        let planned = vec![streams(|row| row.stream), streams(|row| row.other)];
        self.layouts.pairs.batch(Vec::new(), rows, planned)
    }

    /// A pair with the lesser name first. Numbers depend on the order of arrival; names do not.
    fn by_name(&self, (a, b): StreamPair) -> StreamPair {
        if self.streams.get(a) < self.streams.get(b) { (a, b) } else { (b, a) }
    }
}

impl FindingRow {
    fn new(tick: Tick, stream: u32, finding: &StreamFinding, diff: i64) -> FindingRow {
        let nearest =
            |of: fn(&ErrorOverlap) -> u64| finding.nearest_stream.map(|(_, overlap)| saturated(of(&overlap)));
        FindingRow {
            tick,
            stream,
            family: finding.family.unwrap_or(Interner::NULL),
            size: finding.family_size.into(),
            suspected_group: finding.suspected_group.unwrap_or(Interner::NULL),
            nearest_stream: finding.nearest_stream.map_or(Interner::NULL, |(other, _)| other),
            shared_wrong: nearest(|overlap| overlap.shared),
            differing: nearest(|overlap| overlap.differing),
            evidence_bits: nearest(|overlap| overlap.surprise / BIT),
            values_right: finding.accepted.map(|(right, _)| saturated(right)),
            values_count: finding.accepted.map(|(_, all)| saturated(all)),
            weight: finding.weight.into(),
            diff,
        }
    }
}

impl PairRow {
    fn new(tick: Tick, (stream, other): StreamPair, similarity: &Similarity, diff: i64) -> PairRow {
        let Similarity { errors, contested, relation } = similarity;
        PairRow {
            tick,
            stream,
            other,
            shared_wrong: saturated(errors.shared),
            differing: saturated(errors.differing),
            evidence_bits: saturated(errors.surprise / BIT),
            contested_same: saturated(contested.same),
            contested_differing: saturated(contested.differing),
            is_family: *relation == Relation::Family,
            diff,
        }
    }
}

/// A count as an `i64`, the greatest one if it is greater.
fn saturated(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

impl TickOperator for CopyDetection {
    fn advance(&mut self, inputs: &[RecordBatch], _: Tick) -> Vec<RecordBatch> {
        let rows = &blank_to_null(&inputs[0], &[self.columns.claim, self.columns.stream]);
        let keys = keys_of(rows.column(self.columns.claim));
        let streams = self.streams.intern(rows, self.columns.stream);
        let values = self.values.intern(rows, self.columns.value);
        let times = rows.column(self.columns.time).as_primitive::<TimestampMicrosecondType>();
        let (mut findings, mut pairs) = (Vec::new(), Vec::new());
        for (row, tick) in ticks_of(rows).values().iter().map(|tick| Tick(*tick)).enumerate() {
            if keys[row] == NULL_KEY || streams[row] == Interner::NULL || times.is_null(row) {
                continue; // The row lacks a claim, a stream or an event time.
            }
            let time = times.value(row).min(tick.micros());
            if self.detector.ends_round(time) {
                let changes = self.detector.end_round(&self.streams, &self.values);
                for (stream, before, after) in changes.streams {
                    findings.extend(before.map(|finding| FindingRow::new(tick, stream, &finding, -1)));
                    findings.extend(after.map(|finding| FindingRow::new(tick, stream, &finding, 1)));
                }
                for (pair, before, after) in changes.pairs {
                    let pair = self.by_name(pair);
                    pairs.extend(before.map(|similarity| PairRow::new(tick, pair, &similarity, -1)));
                    pairs.extend(after.map(|similarity| PairRow::new(tick, pair, &similarity, 1)));
                }
            }
            self.detector.add_report(keys[row], streams[row], time, values[row]);
        }
        vec![self.findings_batch(&findings), self.pairs_batch(&pairs)]
    }
}

/// A row of the snapshot, after the tick. Streams and values are interned. What the numbers mean
/// depends on the kind.
#[derive(Row)]
struct SnapshotRow {
    #[row(name = "_kind")]
    kind: SnapshotKind,
    #[row(name = "_claim")]
    claim: ClaimKey,
    #[row(name = "_stream")]
    stream: u32,
    #[row(name = "_other")]
    other: u32,
    #[row(name = "_value")]
    value: u32,
    #[row(name = "_first")]
    first: i64,
    #[row(name = "_second")]
    second: i64,
    #[row(name = "_third")]
    third: i64,
}

/// What a row of the snapshot is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SnapshotKind {
    /// The number of the round.
    Round,
    /// A stream's report on a claim in this round, and its event time.
    Report,
    /// The [`ErrorOverlap`] of a pair.
    Errors,
    /// The [`ContestedOverlap`] of a pair.
    Contested,
    /// How many values of a stream were accepted, and out of how many.
    Record,
}

named_column!(SnapshotKind);

impl SnapshotKind {
    const ALL: [SnapshotKind; 5] = [
        SnapshotKind::Round,
        SnapshotKind::Report,
        SnapshotKind::Errors,
        SnapshotKind::Contested,
        SnapshotKind::Record,
    ];

    fn name(self) -> &'static str {
        match self {
            SnapshotKind::Round => "round",
            SnapshotKind::Report => "report",
            SnapshotKind::Errors => "errors",
            SnapshotKind::Contested => "contested",
            SnapshotKind::Record => "record",
        }
    }

    fn of_name(name: &str) -> Option<SnapshotKind> {
        SnapshotKind::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// The key of a claim as a column of sixteen bytes.
#[derive(Clone, Copy)]
struct ClaimKey(KeyHash);

impl Column for ClaimKey {
    type Array = FixedSizeBinaryArray;

    fn data_type() -> DataType {
        DataType::FixedSizeBinary(16)
    }

    fn array<'v>(values: impl ExactSizeIterator<Item = &'v Self>) -> ArrayRef {
        let bytes: Vec<u8> = values.flat_map(|key| key.0.to_le_bytes()).collect();
        Arc::new(FixedSizeBinaryArray::new(16, bytes.into(), None))
    }

    fn array_of_options<'v>(values: impl ExactSizeIterator<Item = Option<&'v Self>>) -> ArrayRef {
        let values = values.map(|key| key.map(|key| key.0.to_le_bytes()));
        Arc::new(FixedSizeBinaryArray::try_from_sparse_iter_with_size(values, 16).expect("16 bytes each"))
    }

    fn get(array: &FixedSizeBinaryArray, row: usize) -> Self {
        ClaimKey(KeyHash::from_le_bytes(array.value(row).try_into().expect("16 bytes")))
    }
}

impl SnapshotRow {
    fn new(kind: SnapshotKind, streams: [u32; 2], numbers: [i64; 3]) -> SnapshotRow {
        let ([stream, other], [first, second, third]) = (streams, numbers);
        SnapshotRow { kind, claim: ClaimKey(0), stream, other, value: Interner::NULL, first, second, third }
    }
}

impl SnapshotOperator for CopyDetection {
    fn snapshot(&self) -> Vec<ArrayRef> {
        const NONE: u32 = Interner::NULL;
        let signed = u64::cast_signed;
        let detector = &self.detector;
        let mut rows = Vec::new();
        rows.extend(
            detector.round.map(|round| SnapshotRow::new(SnapshotKind::Round, [NONE; 2], [round, 0, 0])),
        );
        for (claim, reports) in &detector.reports {
            rows.extend(reports.iter().map(|(stream, time, value)| SnapshotRow {
                claim: ClaimKey(*claim),
                value: *value,
                ..SnapshotRow::new(SnapshotKind::Report, [*stream, NONE], [*time, 0, 0])
            }));
        }
        for (pair, overlap) in &detector.errors {
            let ErrorOverlap { shared, differing, surprise } = *overlap;
            let numbers = [shared, differing, surprise].map(signed);
            rows.push(SnapshotRow::new(SnapshotKind::Errors, self.by_name(*pair).into(), numbers));
        }
        for (pair, overlap) in &detector.contested {
            let ContestedOverlap { same, differing } = *overlap;
            let numbers = [same, differing, 0].map(signed);
            rows.push(SnapshotRow::new(SnapshotKind::Contested, self.by_name(*pair).into(), numbers));
        }
        for (stream, (right, all)) in &detector.records {
            let numbers = [*right, *all, 0].map(signed);
            rows.push(SnapshotRow::new(SnapshotKind::Record, [*stream, NONE], numbers));
        }
        let planned = vec![
            self.streams.column(rows.iter().map(|row| row.stream)),
            self.streams.column(rows.iter().map(|row| row.other)),
            self.values.column(rows.iter().map(|row| row.value)),
        ];
        self.layouts.snapshot.columns(&rows, planned)
    }

    fn restore(&mut self, rows: &RecordBatch) {
        let layout = &self.layouts.snapshot;
        let streams = self.streams.intern(rows, layout.index_of("_stream"));
        let others = self.streams.intern(rows, layout.index_of("_other"));
        let values = self.values.intern(rows, layout.index_of("_value"));
        let detector = &mut self.detector;
        for row in layout.read(rows, vec![streams, others, values]) {
            let [first, second, third] = [row.first, row.second, row.third].map(i64::cast_unsigned);
            let pair = (row.stream.min(row.other), row.stream.max(row.other));
            match row.kind {
                SnapshotKind::Round => detector.round = Some(row.first),
                SnapshotKind::Report => {
                    let reports = detector.reports.entry(row.claim.0).or_default();
                    reports.push((row.stream, row.first, row.value));
                }
                SnapshotKind::Errors => {
                    let overlap = ErrorOverlap { shared: first, differing: second, surprise: third };
                    detector.errors.insert(pair, overlap);
                }
                SnapshotKind::Contested => {
                    let overlap = ContestedOverlap { same: first, differing: second };
                    detector.contested.insert(pair, overlap);
                }
                SnapshotKind::Record => drop(detector.records.insert(row.stream, (first, second))),
            }
        }
        // These findings were emitted before the snapshot.
        detector.update_findings(&self.streams);
    }
}
