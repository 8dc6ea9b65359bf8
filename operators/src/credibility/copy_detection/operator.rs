//! The copy-detection operator: reads evidence as rows, and emits findings about streams and
//! suspected pairs as changelogs.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, FixedSizeBinaryArray, Int64Array, RecordBatch, StringArray,
};
use arrow::buffer::Buffer;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, TimestampMicrosecondType};
use tidegate_facts::{KeyHash, Tick, columns};

use super::{
    BIT, ContestedOverlap, CopyConfig, CopyDetector, ErrorOverlap, Relation, Similarity, StreamFinding,
    StreamPair,
};
use crate::core::blank_to_null::blank_to_null;
use crate::core::interner::Interner;
use crate::core::keys::{NULL_KEY, keys_of};
use crate::core::row_encoding::decoded_type;
use crate::core::rows::ticks_of;
use crate::core::snapshotting::SnapshotOperator;
use crate::core::tick_ordered::TickOperator;

/// The columns of copy detection's evidence input, by index. The first column is the tick.
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

/// A row of an output changelog: its tick, its key, its value, and the diff.
type ChangelogRow<K, V> = (Tick, K, V, i64);

/// The copy-detection operator: emits the findings about streams, and the suspected pairs.
pub struct CopyDetection {
    columns: CopyDetectionColumns,
    schemas: [SchemaRef; 2],
    detector: CopyDetector,
    streams: Interner,
    values: Interner,
}

impl CopyDetection {
    /// The schemas of the findings and of the port `pairs`, for streams of the type `stream`.
    pub fn schemas(stream: &DataType) -> [SchemaRef; 2] {
        let stream = |name: &str, nullable| Field::new(name, decoded_type(stream), nullable);
        let number = |name: &str, nullable| Field::new(name, DataType::Int64, nullable);
        let tick = columns::tick_field(columns::TICK);
        let findings = vec![
            tick.clone(),
            stream("stream", false),
            stream("family", true),
            number("size", false),
            stream("suspected_group", true),
            stream("nearest_stream", true),
            number("shared_wrong", true),
            number("differing", true),
            number("surprise_bits", true),
            number("values_right", true),
            number("values_count", true),
            number("weight", false),
            number(columns::DIFF, false),
        ];
        let pairs = vec![
            tick,
            stream("stream", false),
            stream("other", false),
            number("shared_wrong", false),
            number("differing", false),
            number("surprise_bits", false),
            number("contested_same", false),
            number("contested_differing", false),
            Field::new("is_family", DataType::Boolean, false),
            number(columns::DIFF, false),
        ];
        [findings, pairs].map(|fields| Arc::new(Schema::new(fields)))
    }

    /// The columns by which rows of one tick are sorted, for each of [`CopyDetection::schemas`].
    pub fn orders() -> [Vec<usize>; 2] {
        [vec![1], vec![1, 2]]
    }

    /// Returns an operator without reports; `input` is the schema of the evidence.
    pub fn new(input: &Schema, columns: CopyDetectionColumns, config: CopyConfig) -> CopyDetection {
        let data_type = |index: usize| input.field(index).data_type().clone();
        CopyDetection {
            schemas: CopyDetection::schemas(&data_type(columns.stream)),
            detector: CopyDetector::new(config),
            streams: Interner::new(data_type(columns.stream)),
            values: Interner::new(data_type(columns.value)),
            columns,
        }
    }

    fn findings_batch(&self, rows: &[ChangelogRow<u32, StreamFinding>]) -> RecordBatch {
        let findings = || rows.iter().map(|(_, _, finding, _)| finding);
        let nearest = |of: fn(&ErrorOverlap) -> u64| {
            numbers(findings().map(|finding| finding.nearest_stream.map(|(_, overlap)| of(&overlap))))
        };
        let streams = |of: fn(&StreamFinding) -> Option<u32>| {
            self.streams.column(findings().map(|finding| of(finding).unwrap_or(Interner::NULL)))
        };
        let columns: Vec<ArrayRef> = vec![
            Arc::new(columns::tick_array(rows.iter().map(|(tick, ..)| *tick))),
            self.streams.column(rows.iter().map(|(_, stream, ..)| *stream)),
            streams(|finding| finding.family),
            numbers(findings().map(|finding| Some(u64::from(finding.family_size)))),
            streams(|finding| finding.suspected_group),
            streams(|finding| finding.nearest_stream.map(|(other, _)| other)),
            nearest(|overlap| overlap.shared),
            nearest(|overlap| overlap.differing),
            nearest(|overlap| overlap.surprise / BIT),
            numbers(findings().map(|finding| finding.accepted.map(|(right, _)| right))),
            numbers(findings().map(|finding| finding.accepted.map(|(_, all)| all))),
            numbers(findings().map(|finding| Some(u64::from(finding.weight)))),
            Arc::new(Int64Array::from_iter_values(rows.iter().map(|(.., diff)| *diff))),
        ];
        RecordBatch::try_new(Arc::clone(&self.schemas[0]), columns).expect("the columns are the schema's")
    }

    fn pairs_batch(&self, rows: &[ChangelogRow<StreamPair, Similarity>]) -> RecordBatch {
        let pairs: Vec<StreamPair> = rows.iter().map(|(_, pair, ..)| self.by_name(*pair)).collect();
        let similarities = || rows.iter().map(|(_, _, similarity, _)| similarity);
        let errors = |of: fn(&ErrorOverlap) -> u64| {
            numbers(similarities().map(|similarity| Some(of(&similarity.errors))))
        };
        let contested = |of: fn(&ContestedOverlap) -> u64| {
            numbers(similarities().map(|similarity| Some(of(&similarity.contested))))
        };
        let is_family = similarities().map(|similarity| Some(similarity.relation == Relation::Family));
        let columns: Vec<ArrayRef> = vec![
            Arc::new(columns::tick_array(rows.iter().map(|(tick, ..)| *tick))),
            self.streams.column(pairs.iter().map(|(stream, _)| *stream)),
            self.streams.column(pairs.iter().map(|(_, other)| *other)),
            errors(|overlap| overlap.shared),
            errors(|overlap| overlap.differing),
            errors(|overlap| overlap.surprise / BIT),
            contested(|overlap| overlap.same),
            contested(|overlap| overlap.differing),
            Arc::new(is_family.collect::<BooleanArray>()),
            Arc::new(Int64Array::from_iter_values(rows.iter().map(|(.., diff)| *diff))),
        ];
        RecordBatch::try_new(Arc::clone(&self.schemas[1]), columns).expect("the columns are the schema's")
    }

    /// A pair with the lesser name first. Numbers depend on the order of arrival; names do not.
    fn by_name(&self, (a, b): StreamPair) -> StreamPair {
        if self.streams.get(a) < self.streams.get(b) { (a, b) } else { (b, a) }
    }
}

fn numbers(numbers: impl Iterator<Item = Option<u64>>) -> ArrayRef {
    let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    Arc::new(numbers.map(|number| number.map(signed)).collect::<Int64Array>())
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
                    findings.extend(before.map(|finding| (tick, stream, finding, -1)));
                    findings.extend(after.map(|finding| (tick, stream, finding, 1)));
                }
                for (pair, before, after) in changes.pairs {
                    pairs.extend(before.map(|similarity| (tick, pair, similarity, -1)));
                    pairs.extend(after.map(|similarity| (tick, pair, similarity, 1)));
                }
            }
            self.detector.add_report(keys[row], streams[row], time, values[row]);
        }
        vec![self.findings_batch(&findings), self.pairs_batch(&pairs)]
    }
}

/// The rows of a snapshot. There are five kinds of rows, each of which uses some of the columns.
#[derive(Default)]
struct SnapshotRows {
    kinds: Vec<&'static str>,
    claims: Vec<KeyHash>,
    streams: [Vec<u32>; 2],
    values: Vec<u32>,
    numbers: [Vec<i64>; 3],
}

impl SnapshotRows {
    fn push(&mut self, kind: &'static str, claim: KeyHash, streams: [u32; 2], value: u32, numbers: [i64; 3]) {
        self.kinds.push(kind);
        self.claims.push(claim);
        self.values.push(value);
        self.streams.iter_mut().zip(streams).for_each(|(all, stream)| all.push(stream));
        self.numbers.iter_mut().zip(numbers).for_each(|(all, number)| all.push(number));
    }
}

impl CopyDetection {
    /// The schema of the snapshot, for evidence of the schema `input`.
    pub fn snapshot_schema(input: &Schema, columns: CopyDetectionColumns) -> SchemaRef {
        let field =
            |name: &str, index: usize| Field::new(name, decoded_type(input.field(index).data_type()), true);
        let number = |name: &str| Field::new(name, DataType::Int64, false);
        Arc::new(Schema::new(vec![
            columns::tick_field(columns::TICK),
            Field::new("_kind", DataType::Utf8, false),
            Field::new("_claim", DataType::FixedSizeBinary(16), false),
            field("_stream", columns.stream),
            field("_other", columns.stream),
            field("_value", columns.value),
            number("_first"),
            number("_second"),
            number("_third"),
        ]))
    }
}

impl SnapshotOperator for CopyDetection {
    fn snapshot(&self) -> Vec<ArrayRef> {
        let mut rows = SnapshotRows::default();
        const NULL: u32 = Interner::NULL;
        let detector = &self.detector;
        let signed = u64::cast_signed;
        detector.round.iter().for_each(|round| rows.push("round", 0, [NULL; 2], NULL, [*round, 0, 0]));
        for (claim, reports) in &detector.reports {
            for (stream, time, value) in reports {
                rows.push("report", *claim, [*stream, NULL], *value, [*time, 0, 0]);
            }
        }
        for (pair, overlap) in &detector.errors {
            let ErrorOverlap { shared, differing, surprise } = *overlap;
            let numbers = [shared, differing, surprise].map(signed);
            rows.push("errors", 0, self.by_name(*pair).into(), NULL, numbers);
        }
        for (pair, overlap) in &detector.contested {
            let ContestedOverlap { same, differing } = *overlap;
            let numbers = [same, differing, 0].map(signed);
            rows.push("contested", 0, self.by_name(*pair).into(), NULL, numbers);
        }
        for (stream, (right, all)) in &detector.records {
            rows.push("record", 0, [*stream, NULL], NULL, [*right, *all, 0].map(signed));
        }
        let claims = rows.claims.iter().map(|claim| claim.to_le_bytes()).collect::<Vec<_>>().concat();
        let [streams, others] = rows.streams.map(|streams| self.streams.column(streams));
        let numbers = rows.numbers.map(|numbers| Arc::new(Int64Array::from(numbers)) as ArrayRef);
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from_iter_values(rows.kinds)),
            Arc::new(FixedSizeBinaryArray::new(16, Buffer::from_vec(claims), None)),
            streams,
            others,
            self.values.column(rows.values),
        ];
        columns.extend(numbers);
        columns
    }

    fn restore(&mut self, rows: &RecordBatch) {
        let kinds = rows.column(1).as_string::<i32>();
        let claims = rows.column(2).as_fixed_size_binary();
        let [streams, others] = [3, 4].map(|index| self.streams.intern(rows, index));
        let values = self.values.intern(rows, 5);
        let numbers = [6, 7, 8].map(|index| rows.column(index).as_primitive::<Int64Type>());
        let detector = &mut self.detector;
        for row in 0..rows.num_rows() {
            let signed = numbers.map(|numbers| numbers.value(row));
            let [first, second, third] = signed.map(i64::cast_unsigned);
            let (stream, other) = (streams[row], others[row]);
            let pair = (stream.min(other), stream.max(other));
            match kinds.value(row) {
                "round" => detector.round = Some(signed[0]),
                "report" => {
                    let claim = claims.value(row).try_into().expect("sixteen bytes");
                    let reports = detector.reports.entry(KeyHash::from_le_bytes(claim)).or_default();
                    reports.push((stream, signed[0], values[row]));
                }
                "errors" => {
                    let overlap = ErrorOverlap { shared: first, differing: second, surprise: third };
                    detector.errors.insert(pair, overlap);
                }
                "contested" => {
                    let overlap = ContestedOverlap { same: first, differing: second };
                    detector.contested.insert(pair, overlap);
                }
                "record" => drop(detector.records.insert(stream, (first, second))),
                kind => unreachable!("a snapshot has no rows of kind {kind}"),
            }
        }
        // These findings were emitted before the snapshot.
        detector.update_findings(&self.streams);
    }
}
