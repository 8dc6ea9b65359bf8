//! Snapshot and restore of a quorum: one row per claim, per piece of valid evidence, and per stream
//! whose evidence ended.
//!
//! The evaluated state of a claim follows from these rows and from the copy families, so the
//! snapshot does not hold it, except for value and status at the last evidence, which depend on the
//! families of that tick. The families themselves arrive again after a restart.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::Field;
use tidegate_facts::row::{Micros, Row};

use super::operator::{CLAIM, Quorum, QuorumConfig};
use super::{
    ChangeCause, ClaimState, ClaimStatus, ClaimTable, Evidence, ExclusionReason, Requirement, StatusReason,
};
use crate::core::interner::Interner;
use crate::core::keys::keys_of;
use crate::core::row_encoding::decoded_type;
use crate::core::row_layout::RowLayout;
use crate::core::snapshotting::SnapshotOperator;
use crate::core::tick_ordered::{Exchange, OperatorOutput};

/// A row of the snapshot, after the claim's own columns. Streams, values and groups are interned. A
/// kind of row leaves the columns of the others null.
#[derive(Row)]
struct SnapshotRow {
    #[row(name = "_kind")]
    kind: SnapshotKind,
    #[row(name = "_stream")]
    stream: u32,
    #[row(name = "_time")]
    time: Option<Micros>,
    /// The value of the evidence, or of the claim at the last evidence.
    #[row(name = "_value")]
    value: u32,
    /// The claim's status at the last evidence.
    #[row(name = "_status")]
    status: Option<ClaimStatus>,
    /// Why the stream's evidence ended.
    #[row(name = "_ended")]
    ended: Option<ExclusionReason>,
    #[row(name = "_group")]
    group: u32,
    #[row(name = "_out_of_band")]
    out_of_band: Option<bool>,
    #[row(name = "_is_eligible")]
    is_eligible: Option<bool>,
    #[row(name = "_n")]
    n: Option<u32>,
    #[row(name = "_k")]
    k: Option<u32>,
    #[row(name = "_groups")]
    groups: Option<u32>,
    #[row(name = "_reported_time")]
    reported_time: Option<Micros>,
}

/// What a row of the snapshot is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SnapshotKind {
    /// A claim: its own requirement, and its value and status at the last evidence.
    Claim,
    /// A piece of valid evidence.
    Evidence,
    /// A stream whose evidence ended.
    Ended,
}

named_column!(SnapshotKind);

impl SnapshotKind {
    const ALL: [SnapshotKind; 3] = [SnapshotKind::Claim, SnapshotKind::Evidence, SnapshotKind::Ended];

    fn name(self) -> &'static str {
        match self {
            SnapshotKind::Claim => "claim",
            SnapshotKind::Evidence => "evidence",
            SnapshotKind::Ended => "ended",
        }
    }

    fn of_name(name: &str) -> Option<SnapshotKind> {
        SnapshotKind::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

impl SnapshotRow {
    fn new(kind: SnapshotKind) -> SnapshotRow {
        SnapshotRow {
            kind,
            stream: Interner::NULL,
            time: None,
            value: Interner::NULL,
            status: None,
            ended: None,
            group: Interner::NULL,
            out_of_band: None,
            is_eligible: None,
            n: None,
            k: None,
            groups: None,
            reported_time: None,
        }
    }

    fn of_claim((value, status): (u32, ClaimStatus), declaration: Option<Requirement>) -> SnapshotRow {
        SnapshotRow {
            value,
            status: Some(status),
            out_of_band: declaration.map(|of| of.out_of_band),
            n: declaration.map(|of| of.n),
            k: declaration.map(|of| of.k),
            groups: declaration.map(|of| of.groups),
            ..SnapshotRow::new(SnapshotKind::Claim)
        }
    }

    fn of_evidence(evidence: &Evidence) -> SnapshotRow {
        SnapshotRow {
            stream: evidence.stream,
            time: Some(Micros(evidence.time)),
            value: evidence.value,
            group: evidence.group,
            out_of_band: Some(evidence.out_of_band),
            is_eligible: Some(evidence.is_eligible),
            reported_time: Some(Micros(evidence.reported_time)),
            ..SnapshotRow::new(SnapshotKind::Evidence)
        }
    }

    fn of_ended(stream: u32, reason: ExclusionReason) -> SnapshotRow {
        SnapshotRow { stream, ended: Some(reason), ..SnapshotRow::new(SnapshotKind::Ended) }
    }

    /// The claim's own requirement; `None` if it has none.
    fn declaration(&self) -> Option<Requirement> {
        let (n, k, groups) = (self.n?, self.k?, self.groups?);
        Some(Requirement { n, k, groups, out_of_band: self.out_of_band? })
    }

    fn evidence(&self) -> Evidence {
        let micros = |time: Option<Micros>| time.expect("evidence has times").0;
        Evidence {
            time: micros(self.time),
            reported_time: micros(self.reported_time),
            stream: self.stream,
            value: self.value,
            group: self.group,
            out_of_band: self.out_of_band == Some(true),
            is_eligible: self.is_eligible == Some(true),
        }
    }
}

impl QuorumConfig {
    /// The columns and the row order of a quorum's snapshot, and to which workers a restart sends
    /// its rows.
    pub fn snapshot_output(&self) -> (OperatorOutput, Exchange) {
        let layout = self.snapshot_layout();
        let order = ["_kind", "_stream", "_time"].map(|name| layout.index_of(name));
        let order = [CLAIM].into_iter().chain(order).collect();
        let output = OperatorOutput { schema: Arc::clone(layout.schema()), order };
        (output, Exchange::Key(CLAIM))
    }

    fn snapshot_layout(&self) -> RowLayout<SnapshotRow> {
        let [value, stream, group] = self.types.each_ref().map(decoded_type);
        let planned = [("_stream", stream), ("_value", value), ("_group", group)];
        let planned = planned.map(|(name, data_type)| Field::new(name, data_type, true));
        RowLayout::new(self.claim_prefix(), planned.into())
    }
}

impl SnapshotOperator for Quorum {
    fn snapshot(&self) -> Vec<ArrayRef> {
        let (mut claims, mut rows): (Vec<u32>, Vec<SnapshotRow>) = (Vec::new(), Vec::new());
        for claim in self.claims.numbers.values().map(|number| &self.claims.claims[*number as usize]) {
            let Some(state) = claim.state else { continue }; // The claim was never emitted.
            rows.push(SnapshotRow::of_claim(state.at_last_evidence, claim.declaration));
            rows.extend(claim.evidence.iter().map(SnapshotRow::of_evidence));
            rows.extend(claim.ended.iter().map(|(stream, reason)| SnapshotRow::of_ended(*stream, *reason)));
            claims.resize(rows.len(), claim.row);
        }
        let mut columns = self.codec.decode(claims.iter().map(|row| self.claims.row(*row)));
        let planned = vec![
            self.streams.column(rows.iter().map(|row| row.stream)),
            self.values.column(rows.iter().map(|row| row.value)),
            self.groups.column(rows.iter().map(|row| row.group)),
        ];
        columns.extend(self.config.snapshot_layout().columns(&rows, planned));
        columns
    }

    fn restore(&mut self, rows: &RecordBatch) {
        let layout = self.config.snapshot_layout();
        let keys = keys_of(rows.column(CLAIM));
        let passthrough: Vec<usize> = (CLAIM..).take(self.config.claim_fields.len()).collect();
        let passthrough = self.codec.encode(rows, &passthrough);
        let streams = self.streams.intern(rows, layout.index_of("_stream"));
        let values = self.values.intern(rows, layout.index_of("_value"));
        let groups = self.groups.intern(rows, layout.index_of("_group"));
        let restored = layout.read(rows, vec![streams, values, groups]);
        for (index, (key, row)) in keys.into_iter().zip(restored).enumerate() {
            let claim = self.claims.number_of(key, || passthrough.row(index).data().into());
            match row.kind {
                SnapshotKind::Claim => {
                    let status = row.status.expect("a claim has a status");
                    self.claims.restore_claim(claim, row.declaration(), (row.value, status));
                }
                SnapshotKind::Evidence => self.claims.add_evidence(claim, row.evidence()),
                SnapshotKind::Ended => {
                    let reason = row.ended.expect("ended evidence has a reason");
                    self.claims.restore_ended(claim, row.stream, reason);
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
