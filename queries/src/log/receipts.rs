//! The tables `receipts` and `quarantine`: what the gate said of each record, and under which policy.
//!
//! The receipt of an admitted record holds only what its fact does not. The fact stands in the same group,
//! and is looked up by its tick when one of its columns is asked for.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, RecordBatch, StringArray, TimestampMicrosecondArray, UInt16Array,
    UInt64Array,
};
use arrow::compute::{cast, filter_record_batch};
use arrow::datatypes::{DataType, Field, Int32Type, Schema, SchemaRef, UInt8Type, UInt64Type};
use tidegate_facts::governance::{Kind, StepRecord};
use tidegate_facts::schema::timestamp;
use tidegate_facts::{Context, Digest, PolicyRev, Reason, Tick, Topic, Verdict, columns, governance};
use tidegate_sinks::log::{Frame, Group};

use super::facts::{context_column, contexts, is_facts};
use super::{Seen, batch_of, digests, slices};

/// Audit frames of receipts.
const RECEIPTS: &str = "receipts";
/// Audit frames that say under which policy the receipts behind them were given.
const RUN: &str = "run";
/// How the id of a receipt is made.
const RECIPE: &str = "tidegate.receipt.v1";

/// Columns that need the fact of an admitted record.
const OF_FACTS: [&str; 5] =
    ["receipt_id", columns::EVENT_TYPE, columns::EVENT_ID, columns::PAYLOAD_HASH, "topic"];

/// The columns of `receipts`.
pub(super) fn schema() -> SchemaRef {
    let head = [digest("receipt_id", false), text("decision", false), text("reason_code", true)];
    let place = [
        Field::new(columns::TICK, DataType::UInt64, true),
        Field::new("partition", DataType::UInt16, true),
        Field::new("offset", DataType::UInt64, true),
        text("topic", true),
    ];
    let columns = head.into_iter().chain(record_fields()).chain(place).chain(judgement_fields());
    Arc::new(Schema::new(columns.collect::<Vec<_>>()))
}

/// The columns of `quarantine`: without the fact's place, as there is none, but with the end of the log before it, and with the
/// record's bytes.
pub(super) fn quarantine_schema() -> SchemaRef {
    let head = [digest("receipt_id", false), text("decision", false), text("reason_code", true)];
    let bytes = [Field::new("bytes", DataType::Binary, true), text("bytes_text", true)];
    let after =
        [Field::new("after_tick", DataType::UInt64, true), Field::new("after_utc", timestamp(), true)];
    let columns = head.into_iter().chain(record_fields()).chain(after).chain(judgement_fields()).chain(bytes);
    Arc::new(Schema::new(columns.collect::<Vec<_>>()))
}

/// Which record it was.
fn record_fields() -> [Field; 5] {
    [
        text("source", false),
        Field::new("position", DataType::UInt64, false),
        text(columns::EVENT_TYPE, true),
        text(columns::EVENT_ID, true),
        digest(columns::PAYLOAD_HASH, true),
    ]
}

/// Why, and by which policy.
fn judgement_fields() -> [Field; 4] {
    [
        text("detail", true),
        text("policy_id", true),
        text("policy_revision", true),
        digest("policy_digest", true),
    ]
}

fn text(name: &str, nullable: bool) -> Field {
    Field::new(name, DataType::Utf8, nullable)
}

fn digest(name: &str, nullable: bool) -> Field {
    Field::new(name, DataType::FixedSizeBinary(32), nullable)
}

/// What receipts take from the groups before theirs.
#[derive(Default)]
pub(super) struct Receipts {
    policy: Option<PolicyRev>,
    /// An event type has one topic; so the topic of a duplicate is known without its first fact.
    topics: BTreeMap<String, Topic>,
    /// The last tick of the groups so far; `None` when they have no fact.
    newest: Option<Tick>,
}

/// What is used of a `run` record.
#[derive(serde::Deserialize)]
struct RunRecord {
    policy: PolicyRev,
}

impl Receipts {
    /// The receipts of the next group that are seen, or only those of one verdict, with the columns of `schema`.
    pub(super) fn batches(
        &mut self,
        group: &Group,
        schema: &SchemaRef,
        rows_max: usize,
        only: Option<Verdict>,
        seen: &Seen,
    ) -> Result<Vec<RecordBatch>, String> {
        for frame in group.frames.iter().filter(|frame| is_facts(frame)) {
            if !self.topics.contains_key(&frame.name) {
                self.topics.insert(frame.name.clone(), frame.topic);
            }
        }
        let needs_facts = schema.fields().iter().any(|field| OF_FACTS.contains(&field.name().as_str()));
        let facts = if needs_facts && only.is_none_or(|verdict| verdict == Verdict::Admit) {
            GroupFacts::of(group)?
        } else {
            GroupFacts::default()
        };
        let mut batches = Vec::new();
        for frame in group.frames.iter().filter(|frame| frame.topic == Topic::Audit) {
            match frame.name.as_str() {
                RUN => self.policy = Some(policy_of(frame)?),
                RECEIPTS => {
                    let rows = columns::restore(&frame.rows, &columns::receipt_schema());
                    let rows = match only {
                        Some(verdict) => of_verdict(&rows, verdict),
                        None => rows,
                    };
                    let rows = seen_of(&rows, group, seen);
                    for rows in slices(&rows, rows_max) {
                        let part = Part { past: self, facts: &facts, rows: &rows };
                        batches.push(batch_of(schema, rows.num_rows(), |name| part.column(name))?);
                    }
                }
                _ => {}
            }
        }
        self.learn(group)?;
        Ok(batches)
    }

    /// Where the log ends, and under which policy the receipts behind this group are given.
    fn learn(&mut self, group: &Group) -> Result<(), String> {
        self.newest = group.upper.0.checked_sub(1).map(Tick);
        for frame in group.frames.iter().filter(|frame| frame.name == governance::EVENT_TYPE) {
            let steps = StepRecord::read(&frame.rows)?.into_iter().map(|(_, step)| step);
            let changed =
                steps.rev().find(|step| step.subject.kind == Kind::GatePolicy && step.step.takes_effect());
            if let Some(StepRecord { after, .. }) = changed {
                let (policy_id, revision) = (after.id, after.version);
                self.policy = Some(PolicyRev { policy_id, revision, content_digest: after.digest });
            }
        }
        Ok(())
    }
}

fn policy_of(frame: &Frame) -> Result<PolicyRev, String> {
    let record = frame.rows.columns().first().and_then(|column| column.as_string_opt::<i32>());
    let record = record.filter(|texts| !texts.is_empty()).map_or("", |texts| texts.value(texts.len() - 1));
    let record: RunRecord = serde_json::from_str(record)
        .map_err(|error| format!("has a `{RUN}` record that cannot be read ({error})"))?;
    Ok(record.policy)
}

fn of_verdict(receipts: &RecordBatch, verdict: Verdict) -> RecordBatch {
    let verdicts = receipts.column_by_name("verdict").expect("it was restored").as_primitive::<UInt8Type>();
    let mask: BooleanArray = verdicts.values().iter().map(|number| Some(*number == verdict as u8)).collect();
    filter_record_batch(receipts, &mask).expect("the mask has an item for each row")
}

/// The receipts of facts that are seen, and the others if the group is.
fn seen_of(receipts: &RecordBatch, group: &Group, seen: &Seen) -> RecordBatch {
    let others = seen.others.is_none_or(|end| group.upper <= end);
    if others && seen.before.is_none_or(|before| group.upper <= before) {
        return receipts.clone();
    }
    let stored = |name| receipts.column_by_name(name).expect("it was restored");
    let verdicts = stored("verdict").as_primitive::<UInt8Type>().values();
    let ticks = stored("tick").as_primitive::<UInt64Type>().values();
    let is_seen = |(verdict, tick): (&u8, &u64)| {
        if *verdict == Verdict::Admit as u8 {
            seen.before.is_none_or(|before| Tick(*tick) < before)
        } else {
            others
        }
    };
    let mask: BooleanArray = verdicts.iter().zip(ticks).map(is_seen).map(Some).collect();
    filter_record_batch(receipts, &mask).expect("the mask has an item for each row")
}

/// The facts of one group, by tick.
#[derive(Default)]
struct GroupFacts<'g> {
    frames: Vec<FactFrame<'g>>,
    /// Tick, frame and row, ascending.
    places: Vec<(u64, u32, u32)>,
}

struct FactFrame<'g> {
    frame: &'g Frame,
    contexts: Vec<Context>,
}

/// One fact.
#[derive(Clone, Copy)]
struct Fact<'f> {
    of: &'f FactFrame<'f>,
    row: usize,
}

impl<'g> GroupFacts<'g> {
    fn of(group: &'g Group) -> Result<GroupFacts<'g>, String> {
        let mut facts = GroupFacts::default();
        for frame in group.frames.iter().filter(|frame| is_facts(frame)) {
            let number = facts.frames.len() as u32;
            let ticks = frame
                .rows
                .column_by_name(columns::TICK)
                .expect("facts have ticks")
                .as_primitive::<UInt64Type>();
            facts.places.extend(ticks.values().iter().zip(0..).map(|(tick, row)| (*tick, number, row)));
            facts.frames.push(FactFrame { frame, contexts: contexts(frame)? });
        }
        facts.places.sort_unstable();
        Ok(facts)
    }

    fn at(&self, tick: u64) -> Result<Fact<'_>, String> {
        let place = self.places.binary_search_by_key(&tick, |(tick, _, _)| *tick);
        let place =
            place.map_err(|_| format!("has a receipt for the fact of tick {tick}, and not that fact"))?;
        let (_, frame, row) = self.places[place];
        Ok(Fact { of: &self.frames[frame as usize], row: row as usize })
    }
}

impl<'f> Fact<'f> {
    fn event_id(self) -> Option<&'f str> {
        Some(self.of.frame.rows.column_by_name(columns::EVENT_ID)?.as_string_opt::<i32>()?.value(self.row))
    }

    fn payload_hash(self) -> Option<&'f [u8]> {
        Some(
            self.of
                .frame
                .rows
                .column_by_name(columns::PAYLOAD_HASH)?
                .as_fixed_size_binary_opt()?
                .value(self.row),
        )
    }

    fn platform_run_id(self) -> Result<Option<&'f str>, String> {
        let place = context_column(&self.of.frame.rows)?.key(self.row);
        Ok(place.and_then(|place| self.of.contexts[place].platform_run_id.as_deref()))
    }
}

/// Some receipts of one group.
struct Part<'p> {
    past: &'p Receipts,
    facts: &'p GroupFacts<'p>,
    rows: &'p RecordBatch,
}

impl Part<'_> {
    fn column(&self, name: &str) -> Result<ArrayRef, String> {
        Ok(match name {
            "receipt_id" => self.ids()?,
            "decision" => {
                let names = self.rows().map(|row| self.verdict(row).map(Verdict::name));
                Arc::new(StringArray::from_iter_values(names.collect::<Result<Vec<_>, _>>()?))
            }
            "reason_code" => {
                let reasons = self.stored("reason").as_primitive::<UInt8Type>();
                let code = |number: u8| {
                    let reason = Reason::ALL.get(usize::from(number));
                    reason
                        .map(|reason| reason.code())
                        .ok_or_else(|| format!("has a receipt with reason number {number}"))
                };
                Arc::new(
                    reasons
                        .iter()
                        .map(|number| number.map(code).transpose())
                        .collect::<Result<StringArray, _>>()?,
                )
            }
            "source" => cast(self.stored(name), &DataType::Utf8).expect("a dictionary of texts holds texts"),
            "position" | "offset" | "detail" | "bytes" => Arc::clone(self.stored(name)),
            columns::TICK => Arc::clone(self.stored("tick")),
            "after_tick" => {
                Arc::new(self.rows().map(|_| self.past.newest.map(|tick| tick.0)).collect::<UInt64Array>())
            }
            "after_utc" => {
                let times = self.rows().map(|_| self.past.newest.map(Tick::micros));
                Arc::new(times.collect::<TimestampMicrosecondArray>().with_timezone("UTC"))
            }
            "partition" => {
                Arc::new(self.ticks().map(|tick| Some(tick?.partition())).collect::<UInt16Array>())
            }
            columns::EVENT_TYPE => {
                self.texts(|fact| Some(fact.of.frame.name.as_str()), |row| self.text(name, row))?
            }
            columns::EVENT_ID => self.texts(Fact::event_id, |row| self.text(name, row))?,
            "topic" => {
                self.texts(|fact| Some(fact.of.frame.topic.name()), |row| self.topic_of_duplicate(row))?
            }
            columns::PAYLOAD_HASH => {
                let own = self.stored(name).as_fixed_size_binary();
                let own = |row| Some(own.value(row)).filter(|_| own.is_valid(row));
                let hashes =
                    self.rows().map(|row| Ok(self.fact(row)?.map_or_else(|| own(row), Fact::payload_hash)));
                digests(hashes.collect::<Result<Vec<_>, String>>()?.into_iter())
            }
            "policy_id" => self.policies(|policy| policy.policy_id.as_str()),
            "policy_revision" => self.policies(|policy| policy.revision.as_str()),
            "policy_digest" => {
                let door = governance::door();
                let policies = self.rows().map(|row| self.policy_of(row, &door));
                let policies: Vec<Option<&PolicyRev>> = policies.collect();
                digests(policies.iter().map(|policy| Some(policy.as_ref()?.content_digest.0.as_slice())))
            }
            "bytes_text" => {
                let bytes = self.stored("bytes").as_binary::<i32>();
                Arc::new(
                    bytes.iter().map(|bytes| bytes.map(String::from_utf8_lossy)).collect::<StringArray>(),
                )
            }
            name => unreachable!("`{name}` is not a column of receipts"),
        })
    }

    fn rows(&self) -> std::ops::Range<usize> {
        0..self.rows.num_rows()
    }

    fn stored(&self, name: &str) -> &ArrayRef {
        self.rows.column_by_name(name).expect("it was restored")
    }

    fn text(&self, name: &str, row: usize) -> Option<&str> {
        let texts = self.stored(name).as_string::<i32>();
        texts.is_valid(row).then(|| texts.value(row))
    }

    fn ticks(&self) -> impl Iterator<Item = Option<Tick>> {
        self.stored("tick").as_primitive::<UInt64Type>().iter().map(|tick| tick.map(Tick))
    }

    fn verdict(&self, row: usize) -> Result<Verdict, String> {
        let number = self.stored("verdict").as_primitive::<UInt8Type>().value(row);
        let verdict = Verdict::ALL.get(usize::from(number)).copied();
        verdict.ok_or_else(|| format!("has a receipt with verdict number {number}"))
    }

    /// The fact of an admitted record.
    fn fact(&self, row: usize) -> Result<Option<Fact<'_>>, String> {
        match self.verdict(row)? {
            Verdict::Admit => {
                self.facts.at(self.stored("tick").as_primitive::<UInt64Type>().value(row)).map(Some)
            }
            Verdict::Duplicate | Verdict::Quarantine => Ok(None),
        }
    }

    /// Texts from the facts of the admitted, and from the receipts of the others.
    fn texts<'t>(
        &'t self,
        of_fact: impl Fn(Fact<'t>) -> Option<&'t str>,
        own: impl Fn(usize) -> Option<&'t str>,
    ) -> Result<ArrayRef, String> {
        let texts = self.rows().map(|row| Ok(self.fact(row)?.map_or_else(|| own(row), &of_fact)));
        Ok(Arc::new(texts.collect::<Result<StringArray, String>>()?))
    }

    fn topic_of_duplicate(&self, row: usize) -> Option<&str> {
        let is_fact = self.stored("tick").is_valid(row);
        let event_type = self.text(columns::EVENT_TYPE, row).filter(|_| is_fact)?;
        self.past.topics.get(event_type).map(|topic| topic.name())
    }

    /// An id covers the run, as far as the record was understood; the record's place; and the decision.
    fn ids(&self) -> Result<ArrayRef, String> {
        let sources = self.stored("source").as_dictionary::<Int32Type>();
        let names = sources.values().as_string::<i32>();
        let positions = self.stored("position").as_primitive::<UInt64Type>();
        let ids = self.rows().map(|row| {
            let run = self.fact(row)?.map_or(Ok(None), Fact::platform_run_id)?.unwrap_or("");
            let source = sources.key(row).map_or("", |key| names.value(key));
            let position = positions.value(row).to_le_bytes();
            let decision = self.verdict(row)?.name();
            Ok(Digest::of_parts(RECIPE, &[run.as_bytes(), source.as_bytes(), &position, decision.as_bytes()]))
        });
        let ids = ids.collect::<Result<Vec<Digest>, String>>()?;
        Ok(digests(ids.iter().map(|id| Some(id.0.as_slice()))))
    }

    /// What judged a record: the gate's policy, or the built-in one of the door that steps come through.
    fn policy_of<'p>(&'p self, row: usize, door: &'p PolicyRev) -> Option<&'p PolicyRev> {
        let sources = self.stored("source").as_dictionary::<Int32Type>();
        let source = sources.key(row).map(|key| sources.values().as_string::<i32>().value(key));
        if source == Some(governance::SOURCE) { Some(door) } else { self.past.policy.as_ref() }
    }

    fn policies(&self, text: impl Fn(&PolicyRev) -> &str) -> ArrayRef {
        let door = governance::door();
        Arc::new(self.rows().map(|row| self.policy_of(row, &door).map(&text)).collect::<StringArray>())
    }
}
