//! Snapshot and restore of a quorum: one row per claim, per piece of valid evidence, and per stream
//! whose evidence ended.
//!
//! The evaluated state of a claim follows from these rows and from the copy families, so the
//! snapshot does not hold it, except for value and status at the last evidence, which depend on the
//! families of that tick. The families themselves arrive again after a restart.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, RecordBatch, StringArray, TimestampMicrosecondArray, UInt32Array,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimestampMicrosecondType, UInt32Type};
use tidegate_facts::columns;
use tidegate_facts::payload_schema::timestamp;

use super::operator::{Quorum, QuorumConfig};
use super::{
    ChangeCause, ClaimState, ClaimStatus, ClaimTable, Evidence, ExclusionReason, Requirement, StatusReason,
};
use crate::core::interner::Interner;
use crate::core::keys::keys_of;
use crate::core::row_encoding::{decoded_field, decoded_type};
use crate::core::snapshotting::SnapshotOperator;

/// The kinds of snapshot rows.
const KINDS: [&str; 3] = ["claim", "evidence", "ended"];

impl QuorumConfig {
    /// The schema of the snapshot, whose second column is the claim, and the columns by which its
    /// rows are sorted.
    pub fn snapshot_schema(&self) -> (SchemaRef, Vec<usize>) {
        let [value, stream, group] = self.types.each_ref().map(decoded_type);
        let field = |name: &str, data_type: &DataType| Field::new(name, data_type.clone(), true);
        let mut fields = vec![columns::tick_field(columns::TICK)];
        fields.extend(self.claim_fields.iter().map(|field| decoded_field(field).with_nullable(true)));
        let first = fields.len();
        fields.extend([
            field("_kind", &DataType::Utf8),
            field("_stream", &stream),
            field("_time", &timestamp()),
            field("_value", &value),
            field("_status", &DataType::Utf8),
            field("_group", &group),
            field("_out_of_band", &DataType::Boolean),
            field("_is_eligible", &DataType::Boolean),
            field("_n", &DataType::UInt32),
            field("_k", &DataType::UInt32),
            field("_groups", &DataType::UInt32),
            field("_reported_time", &timestamp()),
        ]);
        (Arc::new(Schema::new(fields)), vec![1, first, first + 1, first + 2])
    }
}

/// One row of the snapshot. A kind of row leaves the fields of the others empty.
struct SnapshotRow {
    /// The claim's passthrough row.
    claim: u32,
    kind: &'static str,
    evidence: Option<Evidence>,
    /// The stream whose evidence ended.
    ended: u32,
    /// The value at the last evidence.
    value: u32,
    /// The status at the last evidence, or why the stream's evidence ended.
    status: Option<&'static str>,
    declaration: Option<Requirement>,
}

impl Quorum {
    fn snapshot_rows(&self) -> Vec<SnapshotRow> {
        let mut rows = Vec::new();
        for claim in self.claims.numbers.values().map(|number| &self.claims.claims[*number as usize]) {
            let Some(state) = claim.state else { continue }; // The claim was never emitted.
            let row = |kind| SnapshotRow {
                claim: claim.row,
                kind,
                evidence: None,
                ended: Interner::NULL,
                value: Interner::NULL,
                status: None,
                declaration: None,
            };
            let (value, status) = state.at_last_evidence;
            rows.push(SnapshotRow {
                value,
                status: Some(status.name()),
                declaration: claim.declaration,
                ..row(KINDS[0])
            });
            rows.extend(claim.evidence.iter().map(|of| SnapshotRow { evidence: Some(*of), ..row(KINDS[1]) }));
            rows.extend(claim.ended.iter().map(|(stream, reason)| SnapshotRow {
                ended: *stream,
                status: Some(reason.name()),
                ..row(KINDS[2])
            }));
        }
        rows
    }
}

impl SnapshotOperator for Quorum {
    fn snapshot(&self) -> Vec<ArrayRef> {
        let rows = self.snapshot_rows();
        let numbers = |of_evidence: fn(&Evidence) -> u32, otherwise: fn(&SnapshotRow) -> u32| {
            let rows = rows.iter();
            rows.map(move |row| row.evidence.as_ref().map_or_else(|| otherwise(row), of_evidence))
        };
        let flags = |flag: fn(&Evidence) -> bool| -> ArrayRef {
            Arc::new(rows.iter().map(|row| row.evidence.as_ref().map(flag)).collect::<BooleanArray>())
        };
        let out_of_band = rows.iter().map(|row| match (&row.declaration, &row.evidence) {
            (Some(requirement), _) => Some(requirement.out_of_band),
            (None, evidence) => evidence.as_ref().map(|evidence| evidence.out_of_band),
        });
        let counts = |count: fn(&Requirement) -> u32| -> ArrayRef {
            Arc::new(rows.iter().map(|row| row.declaration.as_ref().map(count)).collect::<UInt32Array>())
        };
        let times = |of: fn(&Evidence) -> i64| -> ArrayRef {
            let times = rows.iter().map(|row| row.evidence.as_ref().map(of));
            Arc::new(times.collect::<TimestampMicrosecondArray>().with_timezone("UTC"))
        };
        let mut columns = self.codec.decode(rows.iter().map(|row| self.claims.row(row.claim)));
        columns.extend([
            Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.kind))) as ArrayRef,
            self.streams.column(numbers(|evidence| evidence.stream, |row| row.ended)),
            times(|evidence| evidence.time),
            self.values.column(numbers(|evidence| evidence.value, |row| row.value)),
            Arc::new(rows.iter().map(|row| row.status).collect::<StringArray>()),
            self.groups.column(numbers(|evidence| evidence.group, |_| Interner::NULL)),
            Arc::new(out_of_band.collect::<BooleanArray>()),
            flags(|evidence| evidence.is_eligible),
            counts(|requirement| requirement.n),
            counts(|requirement| requirement.k),
            counts(|requirement| requirement.groups),
            times(|evidence| evidence.reported_time),
        ]);
        columns
    }

    fn restore(&mut self, rows: &RecordBatch) {
        let first = 1 + self.config.claim_fields.len();
        let keys = keys_of(rows.column(1));
        let passthrough = self.codec.encode(rows, &(1..first).collect::<Vec<_>>());
        let [kinds, statuses] = [first, first + 4].map(|index| rows.column(index).as_string::<i32>());
        let [out_of_band, is_eligible] = [first + 6, first + 7].map(|index| rows.column(index).as_boolean());
        let counts = [8, 9, 10].map(|index| rows.column(first + index).as_primitive::<UInt32Type>());
        let [times, reported_times] =
            [2, 11].map(|index| rows.column(first + index).as_primitive::<TimestampMicrosecondType>());
        let streams = self.streams.intern(rows, first + 1);
        let values = self.values.intern(rows, first + 3);
        let groups = self.groups.intern(rows, first + 5);
        for (row, key) in keys.into_iter().enumerate() {
            let claim = self.claims.number_of(key, || passthrough.row(row).data().into());
            let status = |row: usize| statuses.is_valid(row).then(|| statuses.value(row));
            match kinds.value(row) {
                kind if kind == KINDS[0] => {
                    let status = status(row).and_then(ClaimStatus::of_name).expect("a snapshot's own status");
                    let declaration = counts[0].is_valid(row).then(|| {
                        let [n, k, groups] = counts.map(|counts| counts.value(row));
                        Requirement { n, k, groups, out_of_band: out_of_band.value(row) }
                    });
                    self.claims.restore_claim(claim, declaration, (values[row], status));
                }
                kind if kind == KINDS[1] => {
                    let evidence = Evidence {
                        time: times.value(row),
                        reported_time: reported_times.value(row),
                        stream: streams[row],
                        value: values[row],
                        group: groups[row],
                        out_of_band: out_of_band.value(row),
                        is_eligible: is_eligible.value(row),
                    };
                    self.claims.add_evidence(claim, evidence);
                }
                _ => {
                    let reason = status(row).and_then(ExclusionReason::of_name);
                    let reason = reason.expect("a snapshot's own reason");
                    self.claims.restore_ended(claim, streams[row], reason);
                }
            }
        }
        // The evaluation repeats what was emitted before the snapshot, so it emits nothing.
        self.claims.claims.iter_mut().for_each(|claim| claim.causes &= 1 << ChangeCause::Families as u8);
        self.claims.evaluate_changed(&self.streams, &self.values, |_| {}, |_| {});
    }
}

impl ClaimTable {
    /// Restores a claim's own requirement, and its value and status at the last evidence.
    fn restore_claim(
        &mut self,
        claim: u32,
        declaration: Option<Requirement>,
        at_last_evidence: (u32, ClaimStatus),
    ) {
        let claim = self.mark(claim, ChangeCause::Families);
        claim.declaration = declaration;
        // The evaluation after the restore sets all other fields.
        claim.state = Some(ClaimState {
            row: claim.row,
            status: ClaimStatus::Unknown,
            reason: Some(StatusReason::NoEvidence),
            value: Interner::NULL,
            margin: 0,
            streams: 0,
            votes: 0,
            agreeing: 0,
            groups: 0,
            families: 0,
            at_last_evidence,
        });
    }

    /// Restores a stream of a claim whose evidence ended.
    fn restore_ended(&mut self, claim: u32, stream: u32, reason: ExclusionReason) {
        self.claims[claim as usize].ended.push((stream, reason));
        self.register_stream(stream, claim);
    }
}

impl ClaimStatus {
    fn of_name(name: &str) -> Option<ClaimStatus> {
        [ClaimStatus::Verified, ClaimStatus::Degraded, ClaimStatus::Unknown]
            .into_iter()
            .find(|status| status.name() == name)
    }
}

impl ExclusionReason {
    fn of_name(name: &str) -> Option<ExclusionReason> {
        [
            ExclusionReason::Disagrees,
            ExclusionReason::Family,
            ExclusionReason::Divided,
            ExclusionReason::Status,
            ExclusionReason::NoValue,
            ExclusionReason::Expired,
            ExclusionReason::Withdrawn,
        ]
        .into_iter()
        .find(|reason| reason.name() == name)
    }
}
