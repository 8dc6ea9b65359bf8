//! Claims put down as rows: one for each claim, for each living piece of its evidence, and for each stream that has none any more.
//!
//! What is known of a claim follows from these and from the families, so it is not put down, but for what was known when the claim was
//! last heard of: that was under the families of that time. The families themselves are heard again.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, RecordBatch, StringArray, TimestampMicrosecondArray, UInt32Array,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimestampMicrosecondType, UInt32Type};
use tidegate_facts::columns;
use tidegate_facts::schema::timestamp;

use super::columns::{Quorum, Shape};
use super::{Cause, Evidence, Loss, Need, Reason, Status, Verdict};
use crate::checkpointed::Lasting;
use crate::kept::{Names, plain, plain_field};
use crate::keys::keys_of;

const KINDS: [&str; 3] = ["claim", "evidence", "gone"];

impl Shape {
    /// The columns of what is put down, the second of which is the claim, and by which of them its rows are in order.
    pub fn put_down(&self) -> (SchemaRef, Vec<usize>) {
        let [value, stream, group] = self.types.each_ref().map(plain);
        let field = |name: &str, data_type: &DataType| Field::new(name, data_type.clone(), true);
        let mut fields = vec![Field::new(columns::TICK, DataType::UInt64, false)];
        fields.extend(self.claim.iter().map(|field| plain_field(field).with_nullable(true)));
        let first = fields.len();
        fields.extend([
            field("_kind", &DataType::Utf8),
            field("_stream", &stream),
            field("_time", &timestamp()),
            field("_value", &value),
            field("_status", &DataType::Utf8),
            field("_group", &group),
            field("_out_of_band", &DataType::Boolean),
            field("_is_fit", &DataType::Boolean),
            field("_n", &DataType::UInt32),
            field("_k", &DataType::UInt32),
            field("_groups", &DataType::UInt32),
            field("_said", &timestamp()),
        ]);
        (Arc::new(Schema::new(fields)), vec![1, first, first + 1, first + 2])
    }
}

/// A row in the making.
struct Row {
    claim: u32,
    kind: &'static str,
    evidence: Option<Evidence>,
    /// A stream without evidence, and the value that was heard last.
    named: (u32, u32),
    status: Option<&'static str>,
    need: Option<Need>,
}

impl Quorum {
    fn rows_to_put_down(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        for claim in self.claims.numbers.values().map(|number| &self.claims.claims[*number as usize]) {
            // Of what was never said nothing is known.
            let Some(said) = claim.said else { continue };
            let row = |kind| Row {
                claim: claim.row,
                kind,
                evidence: None,
                named: (Names::NULL, Names::NULL),
                status: None,
                need: None,
            };
            let (value, status) = said.heard;
            rows.push(Row {
                named: (Names::NULL, value),
                status: Some(status.name()),
                need: claim.declared,
                ..row(KINDS[0])
            });
            rows.extend(
                claim.evidence.iter().map(|evidence| Row { evidence: Some(*evidence), ..row(KINDS[1]) }),
            );
            rows.extend(claim.gone.iter().map(|(stream, loss)| Row {
                named: (*stream, Names::NULL),
                status: Some(loss.name()),
                ..row(KINDS[2])
            }));
        }
        rows
    }
}

impl Lasting for Quorum {
    fn put_down(&self) -> Vec<ArrayRef> {
        let rows = self.rows_to_put_down();
        let of = |known: fn(&Evidence) -> u32, else_named: fn(&Row) -> u32| {
            let rows = rows.iter();
            rows.map(move |row| row.evidence.as_ref().map_or_else(|| else_named(row), known))
        };
        let flags = |flag: fn(&Evidence) -> bool| -> ArrayRef {
            Arc::new(rows.iter().map(|row| row.evidence.as_ref().map(flag)).collect::<BooleanArray>())
        };
        let flag_of_need = rows.iter().map(|row| match (&row.need, &row.evidence) {
            (Some(need), _) => Some(need.out_of_band),
            (None, evidence) => evidence.as_ref().map(|evidence| evidence.out_of_band),
        });
        let counts = |count: fn(&Need) -> u32| -> ArrayRef {
            Arc::new(rows.iter().map(|row| row.need.as_ref().map(count)).collect::<UInt32Array>())
        };
        let times = |of: fn(&Evidence) -> i64| -> ArrayRef {
            let times = rows.iter().map(|row| row.evidence.as_ref().map(of));
            Arc::new(times.collect::<TimestampMicrosecondArray>().with_timezone("UTC"))
        };
        let mut columns = self.form.columns(rows.iter().map(|row| self.claims.row(row.claim)));
        columns.extend([
            Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.kind))) as ArrayRef,
            self.streams.column(of(|evidence| evidence.stream, |row| row.named.0)),
            times(|evidence| evidence.time),
            self.values.column(of(|evidence| evidence.value, |row| row.named.1)),
            Arc::new(rows.iter().map(|row| row.status).collect::<StringArray>()),
            self.groups.column(of(|evidence| evidence.group, |_| Names::NULL)),
            Arc::new(flag_of_need.collect::<BooleanArray>()),
            flags(|evidence| evidence.is_fit),
            counts(|need| need.n),
            counts(|need| need.k),
            counts(|need| need.groups),
            times(|evidence| evidence.said),
        ]);
        columns
    }

    fn take_up(&mut self, rows: &RecordBatch) {
        let first = 1 + self.shape.claim.len();
        let keys = keys_of(rows.column(1));
        let kept = self.form.rows(rows, &(1..first).collect::<Vec<_>>());
        let [kinds, statuses] = [first, first + 4].map(|place| rows.column(place).as_string::<i32>());
        let [out_of_band, is_fit] = [first + 6, first + 7].map(|place| rows.column(place).as_boolean());
        let counts = [8, 9, 10].map(|place| rows.column(first + place).as_primitive::<UInt32Type>());
        let [times, said] =
            [2, 11].map(|place| rows.column(first + place).as_primitive::<TimestampMicrosecondType>());
        let streams = self.streams.numbers(rows, first + 1);
        let values = self.values.numbers(rows, first + 3);
        let groups = self.groups.numbers(rows, first + 5);
        for (row, key) in keys.into_iter().enumerate() {
            let claim = self.claims.claim(key, || kept.row(row).data().into());
            let status = |place: usize| statuses.is_valid(place).then(|| statuses.value(place));
            match kinds.value(row) {
                kind if kind == KINDS[0] => {
                    let heard = status(row).and_then(Status::of_name).expect("it was put down");
                    let need = counts[0].is_valid(row).then(|| {
                        let [n, k, groups] = counts.map(|counts| counts.value(row));
                        Need { n, k, groups, out_of_band: out_of_band.value(row) }
                    });
                    self.claims.take_up(claim, need, (values[row], heard));
                }
                kind if kind == KINDS[1] => {
                    let evidence = Evidence {
                        time: times.value(row),
                        said: said.value(row),
                        stream: streams[row],
                        value: values[row],
                        group: groups[row],
                        out_of_band: out_of_band.value(row),
                        is_fit: is_fit.value(row),
                    };
                    self.claims.hear(claim, evidence);
                }
                _ => {
                    let loss = status(row).and_then(Loss::of_name).expect("it was put down");
                    self.claims.take_up_gone(claim, streams[row], loss);
                }
            }
        }
        // What follows was said before.
        self.claims.claims.iter_mut().for_each(|claim| claim.touched &= 1 << Cause::Families as u8);
        self.claims.settle(&self.streams, &self.values, |_| {}, |_| {});
    }
}

impl super::Claims {
    /// A claim needs that, and when it was last heard of, its value and status were these.
    fn take_up(&mut self, claim: u32, need: Option<Need>, heard: (u32, Status)) {
        let claim = self.touch(claim, Cause::Families);
        claim.declared = need;
        // The rest is made anew, since it is looked at.
        claim.said = Some(Verdict {
            row: claim.row,
            status: Status::Unknown,
            reason: Some(Reason::NoEvidence),
            value: Names::NULL,
            margin: 0,
            streams: 0,
            votes: 0,
            agreeing: 0,
            groups: 0,
            families: 0,
            heard,
        });
    }

    /// A stream had evidence for a claim.
    fn take_up_gone(&mut self, claim: u32, stream: u32, loss: Loss) {
        self.claims[claim as usize].gone.push((stream, loss));
        let place = stream as usize;
        if self.claims_of.len() <= place {
            self.claims_of.resize(place + 1, Vec::new());
        }
        self.claims_of[place].push(claim);
    }
}

impl Status {
    fn of_name(name: &str) -> Option<Status> {
        [Status::Verified, Status::Degraded, Status::Unknown].into_iter().find(|status| status.name() == name)
    }
}

impl Loss {
    fn of_name(name: &str) -> Option<Loss> {
        [
            Loss::Disagrees,
            Loss::Family,
            Loss::Divided,
            Loss::Status,
            Loss::NoValue,
            Loss::Expired,
            Loss::Withdrawn,
        ]
        .into_iter()
        .find(|loss| loss.name() == name)
    }
}
