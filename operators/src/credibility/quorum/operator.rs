//! The quorum operator: reads evidence, declarations and copy families as rows, and emits claims as
//! rows.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, RecordBatch, TimestampMicrosecondArray, new_null_array,
};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, TimestampMicrosecondType};
use tidegate_facts::row::Row;
use tidegate_facts::{Tick, columns};

use super::{
    ChangeCause, ClaimChange, ClaimState, ClaimStatus, ClaimTable, Evidence, ExclusionReason, Requirement,
    StatusReason, VoteChange,
};
use crate::core::blank_to_null::blank_to_null;
use crate::core::interner::Interner;
use crate::core::keys::{NULL_KEY, keys_of};
use crate::core::row_encoding::{RowCodec, decoded_field, decoded_type};
use crate::core::row_layout::RowLayout;
use crate::core::rows::ticks_of;
use crate::core::tick_ordered::{OperatorOutput, TickOperator};
use crate::credibility::tally::Membership;

/// A row of the claims changelog, after the tick and the claim's own columns. Values are interned.
#[derive(Row)]
pub(super) struct ClaimRow {
    value: u32,
    status: ClaimStatus,
    reason: Option<StatusReason>,
    margin: i32,
    streams: i32,
    votes: i32,
    agreeing: i32,
    groups: i32,
    families: i32,
    value_at_last_evidence: u32,
    status_at_last_evidence: ClaimStatus,
    #[row(name = "_diff")]
    diff: i64,
}

/// A row of the port `flips`, after the tick and the claim's own columns. Values are interned.
#[derive(Row)]
pub(super) struct FlipRow {
    value_before: u32,
    status_before: ClaimStatus,
    value: u32,
    status: ClaimStatus,
    reason: Option<StatusReason>,
    margin: i32,
    cause: ChangeCause,
}

/// A row of the port `votes`, after the tick and the claim's own columns. Streams, values and
/// groups are interned.
#[derive(Row)]
pub(super) struct VoteRow {
    stream: u32,
    vote: u32,
    vote_group: u32,
    family: u32,
    suspected_group: u32,
    exclusion_reason: Option<ExclusionReason>,
    #[row(name = "_diff")]
    diff: i64,
}

/// The columns of the quorum operator's evidence input, by index.
#[derive(Clone, Debug)]
pub struct EvidenceColumns {
    /// The claim.
    pub claim: usize,
    /// The stream.
    pub stream: usize,
    /// The value.
    pub value: usize,
    /// The event time.
    pub time: usize,
    /// The stream's declared correlation group; without it every stream is a group of its own.
    pub group: Option<usize>,
    /// Whether the stream is out of band; without it none is.
    pub out_of_band: Option<usize>,
    /// Whether the status of the evidence lets it vote; without it all evidence may.
    pub is_eligible: Option<usize>,
    /// When the evidence expires.
    pub expires: Option<usize>,
    /// The diff, if the input is a changelog.
    pub diff: Option<usize>,
    /// The columns of a claim's first row that its output rows repeat, if no declaration gives
    /// them.
    pub passthrough: Vec<usize>,
}

/// The columns of the quorum operator's declaration input, by index.
#[derive(Clone, Debug)]
pub struct DeclarationColumns {
    /// The claim.
    pub claim: usize,
    /// `n`, `k` and `groups`, each an `int64`.
    pub numbers: [usize; 3],
    /// Whether an out-of-band vote is required.
    pub out_of_band: usize,
    /// The diff, if the input is a changelog.
    pub diff: Option<usize>,
    /// The columns that the claim's output rows repeat.
    pub passthrough: Vec<usize>,
}

/// The columns of the quorum operator's copy-family input, by index.
#[derive(Clone, Copy, Debug)]
pub struct FamilyColumns {
    /// The stream.
    pub stream: usize,
    /// The stream's copy family.
    pub family: usize,
    /// The stream's suspected group.
    pub suspected_group: usize,
    /// The weight of the stream's vote, in thousandths.
    pub weight: usize,
    /// The diff.
    pub diff: usize,
}

/// The configuration of the quorum operator: its input columns, its default requirement and its
/// output columns.
#[derive(Clone, Debug)]
pub struct QuorumConfig {
    /// The columns of the evidence.
    pub evidence: EvidenceColumns,
    /// The columns of the declarations, if claims are declared.
    pub declaration: Option<DeclarationColumns>,
    /// The columns of the copy families, if copies are detected.
    pub families: Option<FamilyColumns>,
    /// The requirement of claims without a declaration.
    pub default_requirement: Option<Requirement>,
    /// Whether the port `votes` is emitted.
    pub emits_votes: bool,
    /// The fields of the claim and of its passthrough columns.
    pub claim_fields: Vec<Field>,
    /// The types of values, streams and declared groups.
    pub types: [DataType; 3],
}

impl QuorumConfig {
    /// The outputs of the quorum operator: the claims, the port `flips` and the port `votes`.
    pub fn outputs(&self) -> [OperatorOutput; 3] {
        let QuorumLayouts { claims, flips, votes } = self.layouts();
        let by_claim = |schema: &SchemaRef| OperatorOutput { schema: Arc::clone(schema), order: vec![CLAIM] };
        let of_votes = OperatorOutput {
            schema: Arc::clone(votes.schema()),
            order: vec![CLAIM, votes.index_of("stream")],
        };
        [by_claim(claims.schema()), by_claim(flips.schema()), of_votes]
    }

    fn layouts(&self) -> QuorumLayouts {
        let [value, stream, group] = self.types.each_ref().map(decoded_type);
        let field = |name: &str, data_type: &DataType| Field::new(name, data_type.clone(), true);
        QuorumLayouts {
            claims: RowLayout::new(
                self.claim_prefix(),
                vec![field("value", &value), field("value_at_last_evidence", &value)],
            ),
            flips: RowLayout::new(
                self.claim_prefix(),
                vec![field("value_before", &value), field("value", &value)],
            ),
            votes: RowLayout::new(
                self.claim_prefix(),
                vec![
                    field("stream", &stream),
                    field("vote", &value),
                    field("vote_group", &group),
                    field("family", &stream),
                    field("suspected_group", &stream),
                ],
            ),
        }
    }

    /// The first fields of all outputs and of the snapshot: the tick, the claim and its passthrough
    /// columns.
    pub(super) fn claim_prefix(&self) -> Vec<Field> {
        let claim = self.claim_fields.iter().map(|field| decoded_field(field).with_nullable(true));
        [columns::tick_field(columns::TICK)].into_iter().chain(claim).collect()
    }
}

/// The index of the claim in all outputs and in the snapshot: it follows the tick.
pub(super) const CLAIM: usize = 1;

/// The layouts of the outputs.
struct QuorumLayouts {
    claims: RowLayout<ClaimRow>,
    flips: RowLayout<FlipRow>,
    votes: RowLayout<VoteRow>,
}

/// The quorum operator: emits claims, flips and votes, the first and the last as changelogs.
pub struct Quorum {
    pub(super) config: QuorumConfig,
    layouts: QuorumLayouts,
    pub(super) claims: ClaimTable,
    pub(super) codec: RowCodec,
    pub(super) streams: Interner,
    pub(super) groups: Interner,
    pub(super) values: Interner,
}

impl Quorum {
    /// Returns a quorum operator without claims.
    pub fn new(config: QuorumConfig) -> Quorum {
        let [values, streams, groups] = config.types.clone().map(Interner::new);
        Quorum {
            claims: ClaimTable::new(
                config.default_requirement,
                config.evidence.diff.is_none(),
                config.emits_votes,
                config.families.is_some(),
            ),
            codec: RowCodec::new(config.claim_fields.iter().map(|field| field.data_type().clone())),
            layouts: config.layouts(),
            streams,
            groups,
            values,
            config,
        }
    }

    /// Applies declarations of one tick.
    fn apply_declarations(
        &mut self,
        rows: &RecordBatch,
        columns: &DeclarationColumns,
        range: std::ops::Range<usize>,
    ) {
        let rows = rows.slice(range.start, range.len());
        let keys = keys_of(rows.column(columns.claim));
        let passthrough = self.codec.encode(&rows, &columns.passthrough);
        let numbers = columns.numbers.map(|index| rows.column(index).as_primitive::<Int64Type>());
        let out_of_band = rows.column(columns.out_of_band).as_boolean();
        for (row, key) in keys.into_iter().enumerate().filter(|(_, key)| *key != NULL_KEY) {
            let number = |of: usize| {
                let value = numbers[of].is_valid(row).then(|| numbers[of].value(row));
                value.map_or(0, |value| value.clamp(0, i64::from(u32::MAX)) as u32)
            };
            let [n, k, groups] = [0, 1, 2].map(number);
            let requirement = if n > 0 && k > 0 && groups > 0 && out_of_band.is_valid(row) {
                Requirement { n, k, groups, out_of_band: out_of_band.value(row) }
            } else {
                Requirement::INCOMPLETE
            };
            let passthrough = passthrough.row(row).data();
            let claim = self.claims.number_of(key, || passthrough.into());
            if is_added(&rows, columns.diff, row) {
                self.claims.declare(claim, requirement, passthrough);
            } else if self.claims.declaration(claim) == Some(requirement) {
                self.claims.undeclare(claim);
            }
        }
    }

    /// Applies the copy families of one tick.
    fn apply_families(&mut self, rows: &RecordBatch, columns: &FamilyColumns, range: std::ops::Range<usize>) {
        let rows = rows.slice(range.start, range.len());
        let streams = self.streams.intern(&rows, columns.stream);
        let families = self.streams.intern(&rows, columns.family);
        let suspected_groups = self.streams.intern(&rows, columns.suspected_group);
        let weights = rows.column(columns.weight).as_primitive::<Int64Type>();
        // A row that is retracted and added again within the tick does not change.
        let mut memberships = BTreeMap::new();
        for row in 0..rows.num_rows() {
            let weight = weights.value(row).clamp(0, i64::from(u32::MAX)) as u32;
            let optional = |stream: u32| (stream != Interner::NULL).then_some(stream);
            let membership = if is_added(&rows, Some(columns.diff), row) {
                Membership {
                    family: optional(families[row]),
                    suspected_group: optional(suspected_groups[row]),
                    weight,
                    is_examined: true,
                }
            } else {
                Membership::UNEXAMINED
            };
            memberships.insert(streams[row], membership);
        }
        for (stream, membership) in memberships {
            self.claims.set_membership(stream, membership);
        }
    }
}

impl TickOperator for Quorum {
    fn advance(&mut self, inputs: &[RecordBatch], _: Tick) -> Vec<RecordBatch> {
        let config = self.config.clone();
        let mut others = inputs[1..].iter();
        let mut input_of = || others.next().expect("one input for each configured one");
        let declarations = config.declaration.as_ref().map(|columns| (columns, input_of()));
        let families = config.families.as_ref().map(|columns| (columns, input_of()));
        let rows = blank_to_null(&inputs[0], &[config.evidence.claim, config.evidence.stream]);
        let evidence = EvidenceBatch::new(&rows, &config.evidence, self);
        let mut output = QuorumOutput::default();
        let mut next_rows = [0; 3];
        let empty = RecordBatch::new_empty(Arc::new(Schema::empty()));
        let batches = [
            declarations.map_or(&empty, |(_, rows)| rows),
            families.map_or(&empty, |(_, rows)| rows),
            &inputs[0],
        ];
        let ticks =
            batches.map(|rows| if rows.num_columns() == 0 { &[][..] } else { ticks_of(rows).values() });
        loop {
            let next = ticks.iter().zip(&next_rows).filter_map(|(ticks, row)| ticks.get(*row)).min();
            let Some(tick) = next.copied() else { break };
            let mut ranges = [0..0, 0..0, 0..0];
            for ((ticks, next_row), range) in ticks.iter().zip(&mut next_rows).zip(&mut ranges) {
                let count = ticks[*next_row..].iter().take_while(|other| **other == tick).count();
                *range = *next_row..*next_row + count;
                *next_row += count;
            }
            let [declared, memberships, reported] = ranges;
            if let Some((columns, rows)) = declarations.filter(|_| !declared.is_empty()) {
                self.apply_declarations(rows, columns, declared);
            }
            if let Some((columns, rows)) = families.filter(|_| !memberships.is_empty()) {
                self.apply_families(rows, columns, memberships);
            }
            for row in reported {
                evidence.apply(row, Tick(tick), &mut self.claims);
            }
            let QuorumOutput { changes, votes } = &mut output;
            self.claims.evaluate_changed(
                &self.streams,
                &self.values,
                |change| changes.push((Tick(tick), change)),
                |vote| votes.push((Tick(tick), vote)),
            );
        }
        let flips = output.changes.iter().filter(|(_, change)| change.is_flip()).copied().collect::<Vec<_>>();
        vec![self.claims_batch(&output.changes), self.flips_batch(&flips), self.votes_batch(&output.votes)]
    }
}

/// A batch of evidence, decoded column by column.
struct EvidenceBatch<'a> {
    keys: Vec<tidegate_facts::KeyHash>,
    passthrough: arrow::row::Rows,
    streams: Vec<u32>,
    values: Vec<u32>,
    groups: Option<Vec<u32>>,
    times: &'a TimestampMicrosecondArray,
    out_of_band: Option<&'a BooleanArray>,
    is_eligible: Option<&'a BooleanArray>,
    expires: Option<&'a [i64]>,
    diffs: Option<&'a [i64]>,
}

impl<'a> EvidenceBatch<'a> {
    fn new(rows: &'a RecordBatch, columns: &EvidenceColumns, quorum: &mut Quorum) -> EvidenceBatch<'a> {
        let micros =
            |index: usize| &rows.column(index).as_primitive::<TimestampMicrosecondType>().values()[..];
        let claim_fields = &quorum.config.claim_fields;
        EvidenceBatch {
            keys: keys_of(rows.column(columns.claim)),
            passthrough: match quorum.config.declaration {
                // The declaration has the passthrough columns; evidence knows the claim alone.
                Some(_) => quorum.codec.encode(
                    &with_nulls(rows, columns.claim, claim_fields),
                    &(0..claim_fields.len()).collect::<Vec<_>>(),
                ),
                None => quorum.codec.encode(rows, &columns.passthrough),
            },
            streams: quorum.streams.intern(rows, columns.stream),
            values: quorum.values.intern(rows, columns.value),
            groups: columns.group.map(|index| quorum.groups.intern(rows, index)),
            times: rows.column(columns.time).as_primitive(),
            out_of_band: columns.out_of_band.map(|index| rows.column(index).as_boolean()),
            is_eligible: columns.is_eligible.map(|index| rows.column(index).as_boolean()),
            expires: columns.expires.map(micros),
            diffs: columns.diff.map(|index| &rows.column(index).as_primitive::<Int64Type>().values()[..]),
        }
    }

    /// Adds the evidence of a row to its claim, or removes it.
    fn apply(&self, row: usize, tick: Tick, claims: &mut ClaimTable) {
        if self.keys[row] == NULL_KEY || self.streams[row] == Interner::NULL {
            return; // The row names no claim or no stream.
        }
        let claim = claims.number_of(self.keys[row], || self.passthrough.row(row).data().into());
        // Without event times, the order of arrival decides which evidence is newest.
        let reported_time = if self.times.is_valid(row) { self.times.value(row) } else { 0 };
        let evidence = Evidence {
            time: reported_time.min(tick.micros()),
            reported_time,
            stream: self.streams[row],
            value: self.values[row],
            group: self.groups.as_ref().map_or(Interner::NULL, |groups| groups[row]),
            out_of_band: self.out_of_band.is_some_and(|column| is_true(column, row)),
            is_eligible: self.is_eligible.is_none_or(|column| is_true(column, row)),
        };
        if self.diffs.is_none_or(|diffs| diffs[row] > 0) {
            return claims.add_evidence(claim, evidence);
        }
        let is_expired = self.expires.is_some_and(|expires| expires[row] <= tick.micros());
        let reason = if is_expired { ExclusionReason::Expired } else { ExclusionReason::Withdrawn };
        claims.remove_evidence(claim, evidence, reason);
    }
}

fn is_true(column: &BooleanArray, row: usize) -> bool {
    column.is_valid(row) && column.value(row)
}

fn is_added(rows: &RecordBatch, diff: Option<usize>, row: usize) -> bool {
    diff.is_none_or(|diff| rows.column(diff).as_primitive::<Int64Type>().value(row) > 0)
}

/// The claim column of some rows, followed by its passthrough columns, which are null.
fn with_nulls(rows: &RecordBatch, claim: usize, fields: &[Field]) -> RecordBatch {
    let nulls =
        fields[1..].iter().map(|field| new_null_array(&decoded_type(field.data_type()), rows.num_rows()));
    let columns: Vec<ArrayRef> = [Arc::clone(rows.column(claim))].into_iter().chain(nulls).collect();
    let first = Field::new(fields[0].name(), columns[0].data_type().clone(), true);
    let rest = fields[1..].iter().map(|field| decoded_field(field).with_nullable(true));
    let schema = Schema::new([first].into_iter().chain(rest).collect::<Vec<_>>());
    RecordBatch::try_new(Arc::new(schema), columns).expect("the columns are the schema's")
}

/// The changes of one interval, each with its tick.
#[derive(Default)]
struct QuorumOutput {
    changes: Vec<(Tick, ClaimChange)>,
    votes: Vec<(Tick, VoteChange)>,
}

impl Quorum {
    fn claims_batch(&self, changes: &[(Tick, ClaimChange)]) -> RecordBatch {
        let states: Vec<(Tick, ClaimState, i64)> = changes
            .iter()
            .flat_map(|(tick, change)| {
                let before = change.before.map(|before| (*tick, before, -1));
                before.into_iter().chain([(*tick, change.after, 1)])
            })
            .collect();
        let rows: Vec<ClaimRow> = states.iter().map(|(_, state, diff)| ClaimRow::new(state, *diff)).collect();
        let prefix = self.claim_columns(states.iter().map(|(tick, state, _)| (*tick, state.row)));
        let values = |of: fn(&ClaimRow) -> u32| self.values.column(rows.iter().map(of));
        let planned = vec![values(|row| row.value), values(|row| row.value_at_last_evidence)];
        self.layouts.claims.batch(prefix, &rows, planned)
    }

    fn flips_batch(&self, flips: &[(Tick, ClaimChange)]) -> RecordBatch {
        let rows: Vec<FlipRow> = flips.iter().map(|(_, change)| FlipRow::new(change)).collect();
        let prefix = self.claim_columns(flips.iter().map(|(tick, change)| (*tick, change.after.row)));
        let values = |of: fn(&FlipRow) -> u32| self.values.column(rows.iter().map(of));
        let planned = vec![values(|row| row.value_before), values(|row| row.value)];
        self.layouts.flips.batch(prefix, &rows, planned)
    }

    fn votes_batch(&self, changes: &[(Tick, VoteChange)]) -> RecordBatch {
        let rows: Vec<VoteRow> = changes.iter().map(|(_, change)| VoteRow::new(change)).collect();
        let prefix = self.claim_columns(changes.iter().map(|(tick, change)| (*tick, change.vote.row)));
        let of = |interner: &Interner, of: fn(&VoteRow) -> u32| interner.column(rows.iter().map(of));
        let planned = vec![
            of(&self.streams, |row| row.stream),
            of(&self.values, |row| row.vote),
            of(&self.groups, |row| row.vote_group),
            of(&self.streams, |row| row.family),
            of(&self.streams, |row| row.suspected_group),
        ];
        self.layouts.votes.batch(prefix, &rows, planned)
    }

    /// The columns of [`QuorumConfig::claim_prefix`], for ticks and passthrough rows.
    fn claim_columns(&self, rows: impl Iterator<Item = (Tick, u32)> + Clone) -> Vec<ArrayRef> {
        let ticks: ArrayRef = Arc::new(columns::tick_array(rows.clone().map(|(tick, _)| tick)));
        let claims = self.codec.decode(rows.map(|(_, row)| self.claims.row(row)));
        [ticks].into_iter().chain(claims).collect()
    }
}

impl ClaimRow {
    fn new(state: &ClaimState, diff: i64) -> ClaimRow {
        ClaimRow {
            value: state.value,
            status: state.status,
            reason: state.reason,
            margin: saturated(state.margin),
            streams: saturated(state.streams),
            votes: saturated(state.votes),
            agreeing: saturated(state.agreeing),
            groups: saturated(state.groups),
            families: saturated(state.families),
            value_at_last_evidence: state.at_last_evidence.0,
            status_at_last_evidence: state.at_last_evidence.1,
            diff,
        }
    }
}

impl FlipRow {
    fn new(change: &ClaimChange) -> FlipRow {
        let ClaimChange { before, after, cause, .. } = change;
        FlipRow {
            value_before: before.map_or(Interner::NULL, |before| before.value),
            status_before: before.map_or(ClaimStatus::Unknown, |before| before.status),
            value: after.value,
            status: after.status,
            reason: after.reason,
            margin: saturated(after.margin),
            cause: *cause,
        }
    }
}

impl VoteRow {
    fn new(change: &VoteChange) -> VoteRow {
        let vote = &change.vote;
        VoteRow {
            stream: vote.stream,
            vote: vote.value,
            vote_group: vote.group,
            family: vote.family.unwrap_or(Interner::NULL),
            suspected_group: vote.suspected_group.unwrap_or(Interner::NULL),
            exclusion_reason: vote.exclusion,
            diff: if change.is_added { 1 } else { -1 },
        }
    }
}

/// A count as an `i32`, the greatest one if it is greater.
fn saturated(count: u32) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}
