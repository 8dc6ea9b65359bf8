//! The tables `receipts` and `quarantine`: the gate's verdict on each record, and its policy.
//!
//! The receipt of an admitted record holds only the columns that its fact lacks. The fact is in the
//! same group of the log; it is looked up by its tick when the query projects one of its columns.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, BooleanArray, RecordBatch, StringArray, TimestampMicrosecondArray, UInt16Array,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use tidegate_facts::audit::{RECEIPTS, RUN, Receipts, RunRecord, read_json_record};
use tidegate_facts::columns::{TickArray, nullable_offset_field, nullable_tick_field};
use tidegate_facts::governance::{RevisionKind, StepRecord};
use tidegate_facts::payload_schema::timestamp;
use tidegate_facts::{
    Context, Digest, PolicyRev, Reason, Tick, Topic, Verdict, columns, control_fact, governance,
};
use tidegate_sinks::log::{Frame, Group};

use super::batches::{VisibleRange, build_batch, digest_column};
use super::facts::{context_column, contexts, holds_facts};

/// The recipe of a receipt's id.
const RECIPE: &str = "tidegate.receipt.v1";

/// Columns that are read from the fact of an admitted record.
const FACT_COLUMNS: [&str; 5] =
    ["receipt_id", columns::EVENT_TYPE, columns::EVENT_ID, columns::PAYLOAD_HASH, "topic"];

/// The columns of the table `receipts`.
pub(super) fn schema() -> SchemaRef {
    let head = [digest("receipt_id", false), text("decision", false), text("reason_code", true)];
    let location = [
        nullable_tick_field(columns::TICK),
        Field::new("partition", DataType::UInt16, true),
        nullable_offset_field("offset"),
        text("topic", true),
    ];
    let columns = head.into_iter().chain(record_fields()).chain(location).chain(verdict_fields());
    Arc::new(Schema::new(columns.collect::<Vec<_>>()))
}

/// The columns of the table `quarantine`.
///
/// A refused record has no tick, partition or offset. Its row has the end of the log before it
/// instead, and the bytes of the record.
pub(super) fn quarantine_schema() -> SchemaRef {
    let head = [digest("receipt_id", false), text("decision", false), text("reason_code", true)];
    let bytes = [Field::new("bytes", DataType::Binary, true), text("bytes_text", true)];
    let after = [nullable_tick_field("after_tick"), Field::new("after_utc", timestamp(), true)];
    let columns = head.into_iter().chain(record_fields()).chain(after).chain(verdict_fields()).chain(bytes);
    Arc::new(Schema::new(columns.collect::<Vec<_>>()))
}

/// The columns that identify the record.
fn record_fields() -> [Field; 5] {
    [
        text("source", false),
        Field::new("position", DataType::Int64, false),
        text(columns::EVENT_TYPE, true),
        text(columns::EVENT_ID, true),
        digest(columns::PAYLOAD_HASH, true),
    ]
}

/// The columns that explain the verdict: the reason, and the policy.
fn verdict_fields() -> [Field; 4] {
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

/// Reads the rows of the tables `receipts` and `quarantine` group by group, with the state that
/// receipts take from the groups before theirs.
#[derive(Default)]
pub(super) struct ReceiptReader {
    policy: Option<PolicyRev>,
    /// An event type has one topic, so a duplicate's topic is found without its first fact.
    topics: BTreeMap<String, Topic>,
    /// The last tick of the groups so far; `None` if they hold no fact.
    newest: Option<Tick>,
}

impl ReceiptReader {
    /// The visible receipts of the next group, with the columns of `schema`; with `only`, those of
    /// that verdict.
    pub(super) fn batches(
        &mut self,
        group: &Group,
        schema: &SchemaRef,
        rows_max: usize,
        only: Option<Verdict>,
        visible: &VisibleRange,
    ) -> Result<Vec<RecordBatch>, String> {
        for frame in group.frames.iter().filter(|frame| holds_facts(frame)) {
            if !self.topics.contains_key(&frame.name) {
                self.topics.insert(frame.name.clone(), frame.topic);
            }
        }
        let needs_facts = schema.fields().iter().any(|field| FACT_COLUMNS.contains(&field.name().as_str()));
        let facts = if needs_facts && only.is_none_or(|verdict| verdict == Verdict::Admit) {
            GroupFacts::of(group)?
        } else {
            GroupFacts::default()
        };
        let mut batches = Vec::new();
        for frame in group.frames.iter().filter(|frame| frame.topic == Topic::Audit) {
            match frame.name.as_str() {
                RUN => {
                    let record: RunRecord =
                        read_json_record(RUN, &frame.rows).map_err(|error| error.to_string())?;
                    self.policy = Some(record.policy);
                }
                RECEIPTS => {
                    let receipts = Receipts::read(&frame.rows).map_err(|error| error.to_string())?;
                    let receipts = match only {
                        Some(verdict) => of_verdict(&receipts, verdict),
                        None => receipts,
                    };
                    let receipts = visible_of(receipts, group, visible);
                    for start in (0..receipts.len()).step_by(rows_max) {
                        let receipts = receipts.slice(start, rows_max.min(receipts.len() - start));
                        let part = ReceiptRows { past: self, facts: &facts, receipts: &receipts };
                        batches.push(build_batch(schema, receipts.len(), |name| part.column(name))?);
                    }
                }
                _ => {}
            }
        }
        self.advance(group)?;
        Ok(batches)
    }

    /// Records the end of a group, and the policy under which later receipts are given.
    fn advance(&mut self, group: &Group) -> Result<(), String> {
        self.newest = group.upper.previous();
        for frame in group.frames.iter().filter(|frame| frame.name == governance::EVENT_TYPE) {
            let steps = StepRecord::read(&frame.rows)?.into_iter().map(|(_, step)| step);
            let changed = steps
                .rev()
                .find(|step| step.subject.kind == RevisionKind::GatePolicy && step.step.takes_effect());
            if let Some(StepRecord { after, .. }) = changed {
                let (policy_id, revision) = (after.id, after.version);
                self.policy = Some(PolicyRev { policy_id, revision, content_digest: after.digest });
            }
        }
        Ok(())
    }
}

fn of_verdict(receipts: &Receipts, verdict: Verdict) -> Receipts {
    let mask = (0..receipts.len()).map(|row| Some(receipts.verdict(row) == verdict));
    receipts.filter(&mask.collect())
}

/// The receipts of visible facts; the other receipts too if the group is visible to its end.
fn visible_of(receipts: Receipts, group: &Group, visible: &VisibleRange) -> Receipts {
    let others = visible.others.is_none_or(|end| group.upper <= end);
    if others && visible.before.is_none_or(|before| group.upper <= before) {
        return receipts;
    }
    let is_visible = |row| match receipts.verdict(row) {
        Verdict::Admit => {
            visible.before.is_none_or(|before| receipts.tick(row).is_some_and(|tick| tick < before))
        }
        Verdict::Duplicate | Verdict::Quarantine => others,
    };
    let mask: BooleanArray = (0..receipts.len()).map(|row| Some(is_visible(row))).collect();
    receipts.filter(&mask)
}

/// The facts of one group, indexed by tick.
#[derive(Default)]
struct GroupFacts<'g> {
    frames: Vec<FactFrame<'g>>,
    /// Tick, frame and row of each fact, ascending.
    index: Vec<(Tick, u32, u32)>,
}

/// A frame that holds facts, with its contexts decoded.
struct FactFrame<'g> {
    frame: &'g Frame,
    contexts: Vec<Context>,
}

/// One fact of a group.
#[derive(Clone, Copy)]
struct Fact<'f> {
    of: &'f FactFrame<'f>,
    row: usize,
}

impl<'g> GroupFacts<'g> {
    fn of(group: &'g Group) -> Result<GroupFacts<'g>, String> {
        let mut facts = GroupFacts::default();
        for frame in group.frames.iter().filter(|frame| holds_facts(frame)) {
            let number = facts.frames.len() as u32;
            let ticks = columns::ticks(&frame.rows).values().iter();
            facts.index.extend(ticks.zip(0..).map(|(tick, row)| (Tick(*tick), number, row)));
            facts.frames.push(FactFrame { frame, contexts: contexts(frame)? });
        }
        facts.index.sort_unstable();
        Ok(facts)
    }

    fn at(&self, tick: Tick) -> Result<Fact<'_>, String> {
        let at = self.index.binary_search_by_key(&tick, |(tick, _, _)| *tick);
        let at =
            at.map_err(|_| format!("has a receipt for the fact of tick {}, and not that fact", tick.0))?;
        let (_, frame, row) = self.index[at];
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
        let key = context_column(&self.of.frame.rows)?.key(self.row);
        Ok(key.and_then(|key| self.of.contexts[key].platform_run_id.as_deref()))
    }
}

/// Some receipts of one group.
struct ReceiptRows<'p> {
    past: &'p ReceiptReader,
    facts: &'p GroupFacts<'p>,
    receipts: &'p Receipts,
}

impl ReceiptRows<'_> {
    fn column(&self, name: &str) -> Result<ArrayRef, String> {
        Ok(match name {
            "receipt_id" => self.ids()?,
            "decision" => {
                let names = self.rows().map(|row| self.receipts.verdict(row).name());
                Arc::new(StringArray::from_iter_values(names))
            }
            "reason_code" => {
                let codes = self.rows().map(|row| self.receipts.reason(row).map(Reason::code));
                Arc::new(codes.collect::<StringArray>())
            }
            "source" => {
                let sources = self.receipts.column(name);
                cast(&sources, &DataType::Utf8).expect("a dictionary of texts holds texts")
            }
            "position" | "offset" | "detail" | "bytes" => self.receipts.column(name),
            columns::TICK => self.receipts.column("tick"),
            "after_tick" => {
                let ticks = self.rows().map(|_| self.past.newest.map(|tick| tick.0));
                Arc::new(ticks.collect::<TickArray>())
            }
            "after_utc" => {
                let times = self.rows().map(|_| self.past.newest.map(Tick::micros));
                Arc::new(times.collect::<TimestampMicrosecondArray>().with_timezone("UTC"))
            }
            "partition" => {
                let partitions = self.rows().map(|row| self.receipts.tick(row).map(Tick::partition));
                Arc::new(partitions.collect::<UInt16Array>())
            }
            columns::EVENT_TYPE => {
                let own = |row| self.receipts.event_type(row);
                self.texts(|fact| Some(fact.of.frame.name.as_str()), own)?
            }
            columns::EVENT_ID => self.texts(Fact::event_id, |row| self.receipts.event_id(row))?,
            "topic" => {
                self.texts(|fact| Some(fact.of.frame.topic.name()), |row| self.topic_of_duplicate(row))?
            }
            columns::PAYLOAD_HASH => {
                let own = |row| self.receipts.payload_hash(row);
                let hashes =
                    self.rows().map(|row| Ok(self.fact(row)?.map_or_else(|| own(row), Fact::payload_hash)));
                digest_column(hashes.collect::<Result<Vec<_>, String>>()?.into_iter())
            }
            "policy_id" => self.policies(|policy| policy.policy_id.as_str()),
            "policy_revision" => self.policies(|policy| policy.revision.as_str()),
            "policy_digest" => {
                let control_gate = control_fact::policy_rev();
                let policies = self.rows().map(|row| self.policy_of(row, &control_gate));
                let policies: Vec<Option<&PolicyRev>> = policies.collect();
                digest_column(
                    policies.iter().map(|policy| Some(policy.as_ref()?.content_digest.0.as_slice())),
                )
            }
            "bytes_text" => {
                let texts = self.rows().map(|row| self.receipts.bytes(row).map(String::from_utf8_lossy));
                Arc::new(texts.collect::<StringArray>())
            }
            name => unreachable!("`{name}` is not a column of receipts"),
        })
    }

    fn rows(&self) -> std::ops::Range<usize> {
        0..self.receipts.len()
    }

    /// The fact of an admitted record.
    fn fact(&self, row: usize) -> Result<Option<Fact<'_>>, String> {
        match self.receipts.verdict(row) {
            Verdict::Admit => {
                let tick = self.receipts.tick(row).ok_or("has a receipt of a fact without its tick")?;
                self.facts.at(tick).map(Some)
            }
            Verdict::Duplicate | Verdict::Quarantine => Ok(None),
        }
    }

    /// A column of texts: from the fact of an admitted record, from the receipt of any other.
    fn texts<'t>(
        &'t self,
        of_fact: impl Fn(Fact<'t>) -> Option<&'t str>,
        own: impl Fn(usize) -> Option<&'t str>,
    ) -> Result<ArrayRef, String> {
        let texts = self.rows().map(|row| Ok(self.fact(row)?.map_or_else(|| own(row), &of_fact)));
        Ok(Arc::new(texts.collect::<Result<StringArray, String>>()?))
    }

    fn topic_of_duplicate(&self, row: usize) -> Option<&str> {
        self.receipts.tick(row)?;
        let topic = self.past.topics.get(self.receipts.event_type(row)?);
        topic.map(|topic| topic.name())
    }

    /// The ids of the receipts. An id covers the run, where the record names one; the source and
    /// position of the record; and the verdict.
    fn ids(&self) -> Result<ArrayRef, String> {
        let ids = self.rows().map(|row| {
            let run = self.fact(row)?.map_or(Ok(None), Fact::platform_run_id)?.unwrap_or("");
            let source = self.receipts.source(row);
            let position = self.receipts.position(row).to_le_bytes();
            let decision = self.receipts.verdict(row).name();
            Ok(Digest::of_parts(RECIPE, &[run.as_bytes(), source.as_bytes(), &position, decision.as_bytes()]))
        });
        let ids = ids.collect::<Result<Vec<Digest>, String>>()?;
        Ok(digest_column(ids.iter().map(|id| Some(id.0.as_slice()))))
    }

    /// The policy that a record was validated against: the gate's, or the control gate's built-in
    /// one.
    fn policy_of<'p>(&'p self, row: usize, control_gate: &'p PolicyRev) -> Option<&'p PolicyRev> {
        let is_control_fact = self.receipts.source(row) == control_fact::SOURCE;
        if is_control_fact { Some(control_gate) } else { self.past.policy.as_ref() }
    }

    fn policies(&self, text: impl Fn(&PolicyRev) -> &str) -> ArrayRef {
        let control_gate = control_fact::policy_rev();
        Arc::new(
            self.rows().map(|row| self.policy_of(row, &control_gate).map(&text)).collect::<StringArray>(),
        )
    }
}
