//! Claims between columns: evidence, declarations and families come as rows, and what is known of claims goes as rows.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int32Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray, UInt64Array,
};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, TimestampMicrosecondType};
use tidegate_facts::{Tick, columns};

use super::{Cause, Change, Claims, Evidence, Loss, Need, Reason, Status, Verdict, VoteChange};
use crate::blank::without_blanks;
use crate::kept::{Form, Names, plain, plain_field};
use crate::keys::{NULL_KEY, keys_of};
use crate::ordered::Ordered;
use crate::rows::ticks_of;
use crate::votes::Membership;

/// Where evidence has what.
#[derive(Clone, Debug)]
pub struct Evidences {
    /// The claim.
    pub claim: usize,
    /// The stream.
    pub stream: usize,
    /// The value.
    pub value: usize,
    /// The event time.
    pub time: usize,
    /// The declared group.
    pub group: Option<usize>,
    /// Whether the stream is out of band.
    pub out_of_band: Option<usize>,
    /// Whether the status lets it vote.
    pub is_fit: Option<usize>,
    /// Until when it lives.
    pub expires: Option<usize>,
    /// The difference, in a changelog.
    pub diff: Option<usize>,
    /// What a claim keeps of its first row, when none declares it.
    pub kept: Vec<usize>,
}

/// Where declarations have what.
#[derive(Clone, Debug)]
pub struct Declared {
    /// The claim.
    pub claim: usize,
    /// `n`, `k`, and the groups, 64 bits each.
    pub numbers: [usize; 3],
    /// Whether it needs a vote from out of band.
    pub out_of_band: usize,
    /// The difference, in a changelog.
    pub diff: Option<usize>,
    /// What a claim keeps.
    pub kept: Vec<usize>,
}

/// Where the changelog of families has what.
#[derive(Clone, Copy, Debug)]
pub struct Memberships {
    /// The stream.
    pub stream: usize,
    /// Its family.
    pub family: usize,
    /// Its kin.
    pub kin: usize,
    /// What its vote weighs, in thousandths.
    pub weight: usize,
    /// The difference.
    pub diff: usize,
}

/// What a quorum reads and gives.
#[derive(Clone, Debug)]
pub struct Shape {
    /// The evidence.
    pub evidence: Evidences,
    /// The declarations.
    pub declared: Option<Declared>,
    /// The families.
    pub families: Option<Memberships>,
    /// What claims need of which nobody said so.
    pub need: Option<Need>,
    /// Whether votes are told.
    pub tells_votes: bool,
    /// The claim and what is kept of it.
    pub claim: Vec<Field>,
    /// The types of values, streams and groups.
    pub types: [DataType; 3],
}

impl Shape {
    /// The columns of the claims, of `flips` and of `votes`.
    pub fn schemas(&self) -> [SchemaRef; 3] {
        let [value, stream, group] = self.types.each_ref().map(plain);
        let text = |name: &str, nullable: bool| Field::new(name, DataType::Utf8, nullable);
        let number = |name: &str| Field::new(name, DataType::Int32, false);
        let tick = Field::new(columns::TICK, DataType::UInt64, false);
        let diff = Field::new(columns::DIFF, DataType::Int64, false);
        let schema = |fields: Vec<Field>| {
            let claim = self.claim.iter().map(|field| plain_field(field).with_nullable(true));
            Arc::new(Schema::new([tick.clone()].into_iter().chain(claim).chain(fields).collect::<Vec<_>>()))
        };
        let claims = schema(vec![
            Field::new("value", value.clone(), true),
            text("status", false),
            text("reason", true),
            number("margin"),
            number("streams"),
            number("votes"),
            number("agreeing"),
            number("groups"),
            number("families"),
            Field::new("value_as_heard", value.clone(), true),
            text("status_as_heard", false),
            diff.clone(),
        ]);
        let flips = schema(vec![
            Field::new("value_before", value.clone(), true),
            text("status_before", false),
            Field::new("value", value.clone(), true),
            text("status", false),
            text("reason", true),
            number("margin"),
            text("cause", false),
        ]);
        let votes = schema(vec![
            Field::new("stream", stream.clone(), true),
            Field::new("vote", value, true),
            Field::new("vote_group", group, true),
            Field::new("family", stream.clone(), true),
            Field::new("kin", stream, true),
            text("vote_loss", true),
            diff,
        ]);
        [claims, flips, votes]
    }

    /// By which columns rows of one tick are in order, for each of [`Shape::schemas`].
    pub fn orders(&self) -> [Vec<usize>; 3] {
        [vec![1], vec![1], vec![1, 1 + self.claim.len()]]
    }
}

/// What is known of each claim, as changelogs.
pub struct Quorum {
    pub(super) shape: Shape,
    schemas: [SchemaRef; 3],
    pub(super) claims: Claims,
    pub(super) form: Form,
    pub(super) streams: Names,
    pub(super) groups: Names,
    pub(super) values: Names,
}

impl Quorum {
    /// No claims.
    pub fn new(shape: Shape) -> Quorum {
        let [values, streams, groups] = shape.types.clone().map(Names::new);
        Quorum {
            claims: Claims::new(
                shape.need,
                shape.evidence.diff.is_none(),
                shape.tells_votes,
                shape.families.is_some(),
            ),
            form: Form::new(shape.claim.iter().map(|field| field.data_type().clone())),
            schemas: shape.schemas(),
            streams,
            groups,
            values,
            shape,
        }
    }

    fn declare(&mut self, rows: &RecordBatch, shape: &Declared, range: std::ops::Range<usize>) {
        let rows = rows.slice(range.start, range.len());
        let keys = keys_of(rows.column(shape.claim));
        let kept = self.form.rows(&rows, &shape.kept);
        let numbers = shape.numbers.map(|place| rows.column(place).as_primitive::<Int64Type>());
        let out_of_band = rows.column(shape.out_of_band).as_boolean();
        for (row, key) in keys.into_iter().enumerate().filter(|(_, key)| *key != NULL_KEY) {
            let number = |of: usize| {
                let value = numbers[of].is_valid(row).then(|| numbers[of].value(row));
                value.map_or(0, |value| value.clamp(0, i64::from(u32::MAX)) as u32)
            };
            let [n, k, groups] = [0, 1, 2].map(number);
            let need = if n > 0 && k > 0 && groups > 0 && out_of_band.is_valid(row) {
                Need { n, k, groups, out_of_band: out_of_band.value(row) }
            } else {
                Need::UNSAID
            };
            let kept = kept.row(row).data();
            let claim = self.claims.claim(key, || kept.into());
            if is_plus(&rows, shape.diff, row) {
                self.claims.declare(claim, need, kept);
            } else if self.claims.declared(claim) == Some(need) {
                self.claims.undeclare(claim);
            }
        }
    }

    fn enrol(&mut self, rows: &RecordBatch, shape: &Memberships, range: std::ops::Range<usize>) {
        let rows = rows.slice(range.start, range.len());
        let streams = self.streams.numbers(&rows, shape.stream);
        let families = self.streams.numbers(&rows, shape.family);
        let kin = self.streams.numbers(&rows, shape.kin);
        let weights = rows.column(shape.weight).as_primitive::<Int64Type>();
        // What is said again in the same tick was not taken back.
        let mut net = BTreeMap::new();
        for row in 0..rows.num_rows() {
            let weight = weights.value(row).clamp(0, i64::from(u32::MAX)) as u32;
            let known = |name: u32| (name != Names::NULL).then_some(name);
            let is_so = is_plus(&rows, Some(shape.diff), row);
            let membership = if is_so {
                Membership { family: known(families[row]), kin: known(kin[row]), weight, is_known: true }
            } else {
                Membership::ALONE
            };
            net.insert(streams[row], membership);
        }
        for (stream, membership) in net {
            self.claims.enrol(stream, membership);
        }
    }
}

impl Ordered for Quorum {
    fn advance(&mut self, inputs: &[RecordBatch], _: Tick) -> Vec<RecordBatch> {
        let Quorum { shape, schemas, .. } = &*self;
        let (shape, schemas) = (shape.clone(), schemas.clone());
        let mut others = inputs[1..].iter();
        let declared = shape.declared.as_ref().map(|shape| (shape, others.next().expect("an input each")));
        let families = shape.families.as_ref().map(|shape| (shape, others.next().expect("an input each")));
        let evidence = without_blanks(&inputs[0], &[shape.evidence.claim, shape.evidence.stream]);
        let heard = Heard::of(&evidence, &shape.evidence, self);
        let mut said = Said::default();
        let mut places = [0; 3];
        let empty = RecordBatch::new_empty(Arc::new(Schema::empty()));
        let batches = [
            declared.map_or(&empty, |(_, rows)| rows),
            families.map_or(&empty, |(_, rows)| rows),
            &inputs[0],
        ];
        let ticks =
            batches.map(|rows| if rows.num_columns() == 0 { &[][..] } else { ticks_of(rows).values() });
        loop {
            let next = ticks.iter().zip(&places).filter_map(|(ticks, place)| ticks.get(*place)).min();
            let Some(tick) = next.copied() else { break };
            let mut ranges = [0..0, 0..0, 0..0];
            for ((ticks, place), range) in ticks.iter().zip(&mut places).zip(&mut ranges) {
                let many = ticks[*place..].iter().take_while(|other| **other == tick).count();
                *range = *place..*place + many;
                *place += many;
            }
            let [declarations, memberships, evidence] = ranges;
            if let Some((shape, rows)) = declared.filter(|_| !declarations.is_empty()) {
                self.declare(rows, shape, declarations);
            }
            if let Some((shape, rows)) = families.filter(|_| !memberships.is_empty()) {
                self.enrol(rows, shape, memberships);
            }
            for row in evidence {
                heard.tell(row, tick, &mut self.claims);
            }
            let Said { changes, votes } = &mut said;
            self.claims.settle(
                &self.streams,
                &self.values,
                |change| changes.push((tick, change)),
                |vote| votes.push((tick, vote)),
            );
        }
        let flips = said.changes.iter().filter(|(_, change)| change.is_flip()).copied().collect::<Vec<_>>();
        vec![
            self.claims_batch(&schemas[0], &said.changes),
            self.flips_batch(&schemas[1], &flips),
            self.votes_batch(&schemas[2], &said.votes),
        ]
    }
}

/// A batch of evidence, as far as columns tell it.
struct Heard<'a> {
    keys: Vec<tidegate_facts::KeyHash>,
    kept: arrow::row::Rows,
    streams: Vec<u32>,
    values: Vec<u32>,
    groups: Option<Vec<u32>>,
    times: &'a TimestampMicrosecondArray,
    out_of_band: Option<&'a BooleanArray>,
    is_fit: Option<&'a BooleanArray>,
    expires: Option<&'a [i64]>,
    diffs: Option<&'a [i64]>,
}

impl<'a> Heard<'a> {
    fn of(rows: &'a RecordBatch, shape: &Evidences, quorum: &mut Quorum) -> Heard<'a> {
        let micros =
            |place: usize| &rows.column(place).as_primitive::<TimestampMicrosecondType>().values()[..];
        Heard {
            keys: keys_of(rows.column(shape.claim)),
            kept: match quorum.shape.declared {
                // What is kept is in the declaration; here only the claim itself is known.
                Some(_) => quorum
                    .form
                    .rows(&with_nulls(rows, shape.claim, &quorum.shape.claim), &all(&quorum.shape.claim)),
                None => quorum.form.rows(rows, &shape.kept),
            },
            streams: quorum.streams.numbers(rows, shape.stream),
            values: quorum.values.numbers(rows, shape.value),
            groups: shape.group.map(|place| quorum.groups.numbers(rows, place)),
            times: rows.column(shape.time).as_primitive(),
            out_of_band: shape.out_of_band.map(|place| rows.column(place).as_boolean()),
            is_fit: shape.is_fit.map(|place| rows.column(place).as_boolean()),
            expires: shape.expires.map(micros),
            diffs: shape.diff.map(|place| &rows.column(place).as_primitive::<Int64Type>().values()[..]),
        }
    }

    fn tell(&self, row: usize, tick: u64, claims: &mut Claims) {
        if self.keys[row] == NULL_KEY || self.streams[row] == Names::NULL {
            return; // Of no claim, or by nobody.
        }
        let claim = claims.claim(self.keys[row], || self.kept.row(row).data().into());
        // Without times the order of arrival decides.
        let said = if self.times.is_valid(row) { self.times.value(row) } else { 0 };
        let evidence = Evidence {
            time: said.min(Tick(tick).micros()),
            said,
            stream: self.streams[row],
            value: self.values[row],
            group: self.groups.as_ref().map_or(Names::NULL, |groups| groups[row]),
            out_of_band: self.out_of_band.is_some_and(|column| holds(column, row)),
            is_fit: self.is_fit.is_none_or(|column| holds(column, row)),
        };
        if self.diffs.is_none_or(|diffs| diffs[row] > 0) {
            return claims.hear(claim, evidence);
        }
        let is_over = self.expires.is_some_and(|expires| expires[row] <= Tick(tick).micros());
        claims.unhear(claim, evidence, if is_over { Loss::Expired } else { Loss::Withdrawn });
    }
}

fn holds(column: &BooleanArray, row: usize) -> bool {
    column.is_valid(row) && column.value(row)
}

fn is_plus(rows: &RecordBatch, diff: Option<usize>, row: usize) -> bool {
    diff.is_none_or(|diff| rows.column(diff).as_primitive::<Int64Type>().value(row) > 0)
}

fn all(fields: &[Field]) -> Vec<usize> {
    (0..fields.len()).collect()
}

/// Rows with only a claim; the other columns are null.
fn with_nulls(rows: &RecordBatch, claim: usize, fields: &[Field]) -> RecordBatch {
    let nulls = fields[1..]
        .iter()
        .map(|field| arrow::array::new_null_array(&plain(field.data_type()), rows.num_rows()));
    let columns: Vec<ArrayRef> = [Arc::clone(rows.column(claim))].into_iter().chain(nulls).collect();
    let first = Field::new(fields[0].name(), columns[0].data_type().clone(), true);
    let rest = fields[1..].iter().map(|field| plain_field(field).with_nullable(true));
    let schema = Schema::new([first].into_iter().chain(rest).collect::<Vec<_>>());
    RecordBatch::try_new(Arc::new(schema), columns).expect("the columns are the schema's")
}

/// What is said of an interval.
#[derive(Default)]
struct Said {
    changes: Vec<(u64, Change)>,
    votes: Vec<(u64, VoteChange)>,
}

impl Quorum {
    fn claims_batch(&self, schema: &SchemaRef, changes: &[(u64, Change)]) -> RecordBatch {
        let rows: Vec<(u64, Verdict, i64)> = changes
            .iter()
            .flat_map(|(tick, change)| {
                let before = change.before.map(|before| (*tick, before, -1));
                before.into_iter().chain([(*tick, change.after, 1)])
            })
            .collect();
        let verdicts = || rows.iter().map(|(_, verdict, _)| verdict);
        let mut columns = self.heads(rows.iter().map(|(tick, verdict, _)| (*tick, verdict.row)));
        columns.push(self.values.column(verdicts().map(|v| v.value)));
        columns.push(texts(verdicts().map(|v| Some(v.status.name()))));
        columns.push(texts(verdicts().map(|v| v.reason.map(Reason::name))));
        columns.push(numbers(verdicts().map(|v| v.margin)));
        columns.push(numbers(verdicts().map(|v| v.streams)));
        columns.push(numbers(verdicts().map(|v| v.votes)));
        columns.push(numbers(verdicts().map(|v| v.agreeing)));
        columns.push(numbers(verdicts().map(|v| v.groups)));
        columns.push(numbers(verdicts().map(|v| v.families)));
        columns.push(self.values.column(verdicts().map(|v| v.heard.0)));
        columns.push(texts(verdicts().map(|v| Some(v.heard.1.name()))));
        columns.push(Arc::new(Int64Array::from_iter_values(rows.iter().map(|(.., diff)| *diff))));
        RecordBatch::try_new(Arc::clone(schema), columns).expect("the columns are the schema's")
    }

    fn flips_batch(&self, schema: &SchemaRef, flips: &[(u64, Change)]) -> RecordBatch {
        let changes = || flips.iter().map(|(_, change)| change);
        let mut columns = self.heads(flips.iter().map(|(tick, change)| (*tick, change.after.row)));
        let before = |change: &Change| change.before.map_or(Names::NULL, |before| before.value);
        columns.push(self.values.column(changes().map(before)));
        let before = |change: &Change| change.before.map_or(Status::Unknown, |before| before.status);
        columns.push(texts(changes().map(|change| Some(before(change).name()))));
        columns.push(self.values.column(changes().map(|change| change.after.value)));
        columns.push(texts(changes().map(|change| Some(change.after.status.name()))));
        columns.push(texts(changes().map(|change| change.after.reason.map(Reason::name))));
        columns.push(numbers(changes().map(|change| change.after.margin)));
        columns.push(texts(changes().map(|change| Some(change.cause.name()))));
        RecordBatch::try_new(Arc::clone(schema), columns).expect("the columns are the schema's")
    }

    fn votes_batch(&self, schema: &SchemaRef, changes: &[(u64, VoteChange)]) -> RecordBatch {
        let votes = || changes.iter().map(|(_, change)| &change.vote);
        let mut columns = self.heads(changes.iter().map(|(tick, change)| (*tick, change.vote.row)));
        columns.push(self.streams.column(votes().map(|vote| vote.stream)));
        columns.push(self.values.column(votes().map(|vote| vote.value)));
        columns.push(self.groups.column(votes().map(|vote| vote.group)));
        columns.push(self.streams.column(votes().map(|vote| vote.family.unwrap_or(Names::NULL))));
        columns.push(self.streams.column(votes().map(|vote| vote.kin.unwrap_or(Names::NULL))));
        columns.push(texts(votes().map(|vote| vote.loss.map(Loss::name))));
        let diffs = changes.iter().map(|(_, change)| if change.is_so { 1 } else { -1 });
        columns.push(Arc::new(Int64Array::from_iter_values(diffs)));
        RecordBatch::try_new(Arc::clone(schema), columns).expect("the columns are the schema's")
    }

    /// The ticks, and the claims with what is kept of them.
    fn heads(&self, rows: impl Iterator<Item = (u64, u32)> + Clone) -> Vec<ArrayRef> {
        let ticks: ArrayRef = Arc::new(UInt64Array::from_iter_values(rows.clone().map(|(tick, _)| tick)));
        let claims = self.form.columns(rows.map(|(_, row)| self.claims.row(row)));
        [ticks].into_iter().chain(claims).collect()
    }
}

fn texts(texts: impl Iterator<Item = Option<&'static str>>) -> ArrayRef {
    Arc::new(texts.collect::<StringArray>())
}

fn numbers(numbers: impl Iterator<Item = u32>) -> ArrayRef {
    Arc::new(Int32Array::from_iter_values(numbers.map(|number| i32::try_from(number).unwrap_or(i32::MAX))))
}

impl Status {
    /// Its name in rows.
    pub fn name(self) -> &'static str {
        match self {
            Status::Verified => "VERIFIED",
            Status::Degraded => "DEGRADED",
            Status::Unknown => "UNKNOWN",
        }
    }
}

impl Reason {
    /// Its name in rows.
    pub fn name(self) -> &'static str {
        match self {
            Reason::Undeclared => "UNDECLARED",
            Reason::NoEvidence => "NO_EVIDENCE",
            Reason::Tied => "TIED",
            Reason::Votes => "VOTES",
            Reason::Groups => "GROUPS",
            Reason::OutOfBand => "OUT_OF_BAND",
            Reason::Streams => "STREAMS",
            Reason::FamiliesUnknown => "FAMILIES_UNKNOWN",
        }
    }
}

impl Loss {
    /// Its name in rows.
    pub fn name(self) -> &'static str {
        match self {
            Loss::Disagrees => "DISAGREES",
            Loss::Family => "FAMILY",
            Loss::Divided => "DIVIDED",
            Loss::Status => "STATUS",
            Loss::NoValue => "NO_VALUE",
            Loss::Expired => "EXPIRED",
            Loss::Withdrawn => "WITHDRAWN",
        }
    }
}

impl Cause {
    /// Its name in rows.
    pub fn name(self) -> &'static str {
        match self {
            Cause::Evidence => "EVIDENCE",
            Cause::Ending => "ENDING",
            Cause::Declaration => "DECLARATION",
            Cause::Families => "FAMILIES",
        }
    }
}
