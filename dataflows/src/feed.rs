//! From groups of the log to batches of the graph: what the workers are fed, live and on replay.
//!
//! Everything here is a function of the log. A fact's batch has the plan's columns, whatever its event
//! type; its basis counts, for each partition of `traffic`, the facts with a tick not above its own; and
//! commit boundaries follow the counts and ticks of facts.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, DictionaryArray, ListArray, RecordBatch, StringArray, UInt32Array, UInt64Array,
    new_null_array,
};
use arrow::buffer::{OffsetBuffer, ScalarBuffer};
use arrow::compute::take_record_batch;
use arrow::datatypes::{DataType, Field, Int32Type, SchemaRef, UInt64Type};
use tidegate_facts::envelope::Context;
use tidegate_facts::{Span, Tick, Topic, columns, governance};
use tidegate_operators::decide::repeated;
use tidegate_operators::rows::home;
use tidegate_sinks::chains::{LogChains, LogHeads};
use tidegate_sinks::checkpoint::Checkpoint;
use tidegate_sinks::log::{Frame, Group, LogMark};

use crate::output::{Boundary, Standing};
use crate::plan::{Plan, context_columns, payload_column};
use crate::watch::Partition;

/// What the workers are told of one group: its rows, then how far they may go.
#[derive(Clone, Debug)]
pub struct Fed {
    /// For each worker the batches of the partitions it owns.
    pub rows: Vec<Vec<RecordBatch>>,
    /// Everything before this tick has been fed.
    pub upper: Tick,
    /// The commit boundaries up to `upper` that this group passed.
    pub boundaries: Vec<Boundary>,
    /// How many facts it held.
    pub facts: usize,
    /// How many facts of each partition of `traffic` are before `upper`.
    pub basis: Vec<u64>,
}

/// Turns groups into what the workers are fed.
pub struct Feed {
    schema: SchemaRef,
    workers: usize,
    basis: Vec<u64>,
    boundaries: Boundaries,
    chains: LogChains,
    /// Facts before this tick are in the state already.
    from: Tick,
    /// Facts from this tick on are not fed.
    to: Tick,
    facts: u64,
    /// In front of the next group: its number, and where it begins.
    group: u64,
    upper: Tick,
    ends: BTreeMap<(Topic, u16), u64>,
    /// The newest fact of each partition.
    newest: Vec<Option<Tick>>,
    /// In front of the group from which on a start would have to read.
    resume: LogMark,
    /// How the newest frame of each event type was laid out.
    layouts: BTreeMap<String, Layout>,
}

impl Feed {
    /// The feed of a plan for so many workers, from the beginning of its log.
    pub fn new(plan: &Plan, workers: usize) -> Feed {
        Feed {
            schema: Arc::clone(&plan.gate_schema),
            workers,
            basis: vec![0; usize::from(plan.topology.partitions)],
            boundaries: Boundaries::new(plan.topology.commit_rows, plan.topology.commit_span),
            chains: LogChains::default(),
            from: Tick::ZERO,
            to: Tick(u64::MAX),
            facts: 0,
            group: 0,
            upper: Tick::ZERO,
            ends: BTreeMap::new(),
            newest: vec![None; usize::from(plan.topology.partitions)],
            resume: LogMark::default(),
            layouts: BTreeMap::new(),
        }
    }

    /// The same, of nothing but the facts before `to`, with a commit boundary there.
    pub fn up_to(self, to: Tick) -> Feed {
        Feed { to, ..self }
    }

    /// How the partitions stand behind the last group.
    pub fn partitions(&self) -> impl Iterator<Item = Partition> {
        (0..).zip(&self.newest).map(|(partition, newest)| {
            let end = |topic| self.ends.get(&(topic, partition)).copied().unwrap_or(0);
            Partition { facts: end(Topic::Traffic) + end(Topic::Control), newest: *newest }
        })
    }

    /// How many workers are fed.
    pub fn workers(&self) -> usize {
        self.workers
    }

    /// The feed of a plan for so many workers, from a checkpoint on: the next group is that behind its mark.
    pub fn resume(plan: &Plan, workers: usize, checkpoint: &Checkpoint, heads: &LogHeads) -> Feed {
        let LogMark { group, upper, ends } = checkpoint.mark.clone();
        Feed {
            resume: checkpoint.mark.clone(),
            basis: checkpoint.basis.clone(),
            chains: LogChains::after(heads),
            from: checkpoint.upper,
            facts: checkpoint.facts,
            group,
            upper,
            ends: ends.into_iter().map(|(topic, partition, end)| ((topic, partition), end)).collect(),
            boundaries: Boundaries {
                last: checkpoint.upper,
                ..Boundaries::new(plan.topology.commit_rows, plan.topology.commit_span)
            },
            ..Feed::new(plan, workers)
        }
    }

    /// How many facts were fed, or are in the state that was resumed.
    pub fn facts(&self) -> u64 {
        self.facts
    }

    /// Whether a start behind the next group's boundaries would have to read from this group on, and not before.
    pub fn is_at_resume(&self) -> bool {
        !self.chains.is_waiting()
    }

    fn mark(&self) -> LogMark {
        let ends = self.ends.iter().map(|((topic, partition), end)| (*topic, *partition, *end)).collect();
        LogMark { group: self.group, upper: self.upper, ends }
    }

    /// The next group.
    pub fn feed(&mut self, group: &Group) -> Fed {
        if self.is_at_resume() {
            self.resume = self.mark();
        }
        let order = group.facts_in_order();
        let before = |bound: Tick| order.partition_point(|(tick, _, _)| *tick < bound);
        let new = &order[before(self.from)..before(self.to)];
        let with_basis = self.schema.index_of(columns::BASIS).is_ok();
        let partitions = self.basis.len();
        let is_fact = |frame: &Frame| frame.topic != Topic::Audit;
        let basis_of = |frame: &Frame| {
            if with_basis && is_fact(frame) {
                vec![0; frame.rows.num_rows() * partitions]
            } else {
                Vec::new()
            }
        };
        let mut basis: Vec<Vec<u64>> = group.frames.iter().map(basis_of).collect();
        let mut uppers = Vec::new();
        let mut standings = Vec::new();
        for (tick, frame, row) in new {
            self.boundaries.observe_before(*tick, &mut uppers);
            standings.resize_with(uppers.len(), || (self.facts, self.basis.clone()));
            self.facts += 1;
            if group.frames[*frame as usize].topic == Topic::Traffic {
                self.basis[usize::from(tick.partition())] += 1;
            }
            if with_basis {
                let from = *row as usize * partitions;
                basis[*frame as usize][from..from + partitions].copy_from_slice(&self.basis);
            }
            self.boundaries.observe(*tick, &mut uppers);
            standings.resize_with(uppers.len(), || (self.facts, self.basis.clone()));
        }
        if group.commit || group.upper >= self.to {
            let upper = group.upper.min(self.to);
            if group.commit {
                self.boundaries.pass(upper, &mut uppers);
            } else {
                self.boundaries.mark(upper, &mut uppers);
            }
            standings.resize_with(uppers.len(), || (self.facts, self.basis.clone()));
        }
        let heads = self.chains.group(group, &order, &uppers, self.from);
        let boundaries =
            uppers.into_iter().zip(heads).zip(standings).map(|((upper, log), (facts, basis))| {
                let standing =
                    Standing { mark: self.resume.clone(), groups: self.group + 1, facts, basis, past: None };
                Boundary { upper, log: Arc::new(log), standing: Arc::new(standing) }
            });
        let boundaries: Vec<Boundary> = boundaries.collect();
        self.pass(group);
        let mut rows = vec![Vec::new(); self.workers];
        // How the graph itself is revised is no input of it; such facts count, and move time, like others.
        let is_input = |frame: &Frame| is_fact(frame) && !governance::is_own(&frame.name);
        for (frame, basis) in group.frames.iter().zip(basis).filter(|(frame, _)| is_input(frame)) {
            let batch = self.batch(&frame.name, &frame.rows, basis);
            let before = |bound: Tick| ticks_of(&batch).partition_point(|tick| Tick(*tick) < bound);
            let known = before(self.from);
            let new = before(self.to).saturating_sub(known);
            self.split(if new == batch.num_rows() { batch } else { batch.slice(known, new) }, &mut rows);
        }
        Fed { rows, upper: group.upper, boundaries, facts: new.len(), basis: self.basis.clone() }
    }

    /// Moves the mark behind a group.
    fn pass(&mut self, group: &Group) {
        self.group += 1;
        self.upper = group.upper;
        for frame in &group.frames {
            match frame.topic {
                Topic::Audit => {
                    *self.ends.entry((Topic::Audit, 0)).or_default() += frame.rows.num_rows() as u64
                }
                topic => {
                    for tick in ticks_of(&frame.rows).iter().map(|tick| Tick(*tick)) {
                        *self.ends.entry((topic, tick.partition())).or_default() += 1;
                        let newest = &mut self.newest[usize::from(tick.partition())];
                        *newest = (*newest).max(Some(tick));
                    }
                }
            }
        }
    }

    /// One frame with the plan's columns.
    fn batch(&mut self, event_type: &str, rows: &RecordBatch, basis: Vec<u64>) -> RecordBatch {
        if self.layouts.get(event_type).is_none_or(|layout| layout.rows != *rows.schema_ref()) {
            let layout = Layout::new(&self.schema, rows.schema_ref());
            self.layouts.insert(event_type.to_owned(), layout);
        }
        let layout = &self.layouts[event_type];
        let payload = layout.payload.map(|place| rows.column(place));
        let mut basis = Some(basis);
        let mut contexts = None;
        let column = |(field, origin): (&Arc<Field>, &Origin)| -> ArrayRef {
            match origin {
                Origin::Basis => basis_column(basis.take().expect("one basis column"), self.basis.len()),
                Origin::EventType => repeated(event_type, rows.num_rows()),
                Origin::Context => {
                    let contexts: &Vec<_> = contexts.get_or_insert_with(|| contexts_of(rows));
                    context_column(rows, contexts, field.name())
                }
                Origin::Column(place) => Arc::clone(rows.column(*place)),
                Origin::Field(place) => {
                    let payload = payload.expect("the layout is of these rows").as_struct();
                    Arc::clone(payload.column(*place))
                }
                Origin::Absent(nulls) if rows.num_rows() <= nulls.len() => nulls.slice(0, rows.num_rows()),
                Origin::Absent(_) => new_null_array(field.data_type(), rows.num_rows()),
            }
        };
        let columns: Vec<ArrayRef> = self.schema.fields().iter().zip(&layout.origins).map(column).collect();
        RecordBatch::try_new(Arc::clone(&self.schema), columns).expect("the log holds the policy's columns")
    }

    /// Gives each worker the rows of its partitions.
    fn split(&self, batch: RecordBatch, rows: &mut [Vec<RecordBatch>]) {
        if batch.num_rows() == 0 {
            return;
        }
        if self.workers == 1 {
            rows[0].push(batch);
            return;
        }
        let ticks =
            batch.column_by_name(columns::TICK).expect("the plan keeps _tick").as_primitive::<UInt64Type>();
        let mut places: Vec<Vec<u32>> = vec![Vec::new(); self.workers];
        for (row, tick) in ticks.values().iter().enumerate() {
            places[home(Tick(*tick).partition(), self.workers)].push(row as u32);
        }
        for (worker, places) in places.into_iter().enumerate() {
            if places.len() == batch.num_rows() {
                rows[worker].push(batch.clone());
            } else if !places.is_empty() {
                let part = take_record_batch(&batch, &UInt32Array::from(places));
                rows[worker].push(part.expect("the places are the batch's own"));
            }
        }
    }
}

fn ticks_of(rows: &RecordBatch) -> &[u64] {
    rows.column_by_name(columns::TICK).expect("facts have ticks").as_primitive::<UInt64Type>().values()
}

/// Counts for each partition as a column, a row for each `partitions` of them.
pub(crate) fn basis_column(counts: Vec<u64>, partitions: usize) -> ArrayRef {
    let rows = counts.len() / partitions;
    let offsets: Vec<i32> = (0..=rows).map(|row| (row * partitions) as i32).collect();
    let item = Arc::new(Field::new("item", DataType::UInt64, false));
    let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
    Arc::new(ListArray::new(item, offsets, Arc::new(UInt64Array::from(counts)), None))
}

/// Where the plan's columns stand in the frames of one event type.
struct Layout {
    /// The columns of those frames.
    rows: SchemaRef,
    /// Where the payload stands.
    payload: Option<usize>,
    /// For each column of the plan.
    origins: Vec<Origin>,
}

/// Where a column of the plan comes from.
enum Origin {
    Basis,
    EventType,
    /// The field of the context that has the column's name.
    Context,
    Column(usize),
    /// A field of the payload.
    Field(usize),
    /// Nowhere; nulls for a small batch, since making them anew costs as much as the rest of it.
    Absent(ArrayRef),
}

/// For so many rows nulls are kept.
const NULLS: usize = 256;

impl Layout {
    fn new(plan: &SchemaRef, rows: &SchemaRef) -> Layout {
        let payload = rows.index_of(columns::PAYLOAD).ok();
        let data_type = payload.map(|place| rows.field(place).data_type());
        let fields: Vec<String> = match data_type {
            Some(DataType::Struct(fields)) => {
                fields.iter().map(|field| payload_column(field.name())).collect()
            }
            _ => Vec::new(),
        };
        let contexts: Vec<&str> = context_columns().collect();
        let origin = |field: &Arc<Field>| {
            let name = field.name().as_str();
            let absent = || Origin::Absent(new_null_array(field.data_type(), NULLS));
            let column = || rows.index_of(name).ok().map(Origin::Column);
            let own = || fields.iter().position(|field| field == name).map(Origin::Field);
            match name {
                columns::BASIS => Origin::Basis,
                columns::EVENT_TYPE => Origin::EventType,
                columns::PAYLOAD if data_type == Some(&DataType::Utf8) => column().unwrap_or_else(absent),
                columns::PAYLOAD => absent(),
                _ if contexts.contains(&name) => Origin::Context,
                _ => column().or_else(own).unwrap_or_else(absent),
            }
        };
        let origins = plan.fields().iter().map(origin).collect();
        Layout { rows: Arc::clone(rows), payload, origins }
    }
}

/// The contexts that the records of a frame refer to.
fn contexts_of(rows: &RecordBatch) -> Vec<Option<Context>> {
    let texts = context_keys(rows).values().as_string::<i32>();
    texts.iter().map(|text| Some(serde_json::from_str(text?).expect("the gate wrote the context"))).collect()
}

fn context_keys(rows: &RecordBatch) -> &DictionaryArray<Int32Type> {
    rows.column_by_name(columns::CONTEXT).expect("facts have a context").as_dictionary()
}

/// One field of the records' context, for each row.
fn context_column(rows: &RecordBatch, contexts: &[Option<Context>], name: &str) -> ArrayRef {
    let value = |context: &Option<Context>| {
        let context = context.as_ref()?;
        match name {
            "schema_version" => context.schema_version.clone(),
            "producer" => context.producer.clone(),
            "manifest_fingerprint" => {
                Some(context.manifest_fingerprint.clone()).filter(|text| !text.is_empty())
            }
            "parameter_hash" => context.parameter_hash.clone(),
            "seed" => context.seed.map(|seed| seed.to_string()),
            "scenario_id" => context.scenario_id.clone().map(|id| id.to_string()),
            "run_id" => context.run_id.clone(),
            "scenario_run_id" => context.scenario_run_id.clone(),
            _ => context.platform_run_id.clone(),
        }
    };
    let values: StringArray = contexts.iter().map(value).collect();
    Arc::new(DictionaryArray::new(context_keys(rows).keys().clone(), Arc::new(values)))
}

/// Where commits are cut: after `rows` facts, or before the first fact that is `span` after the interval's first.
#[derive(Clone, Debug)]
pub struct Boundaries {
    rows: u64,
    span: Span,
    counted: u64,
    first: Option<Tick>,
    /// The last boundary.
    last: Tick,
}

impl Boundaries {
    /// Boundaries from the beginning of a log.
    pub fn new(rows: u64, span: Span) -> Boundaries {
        Boundaries { rows, span, counted: 0, first: None, last: Tick::ZERO }
    }

    /// A fact of this tick comes next; the boundary in front of it is added, if there is one.
    pub fn observe_before(&mut self, tick: Tick, boundaries: &mut Vec<Tick>) {
        if let Some(first) = self.first
            && tick.micros() - first.micros() >= self.span.micros()
        {
            self.mark(tick, boundaries);
        }
    }

    /// The fact has come; the boundary behind it is added, if there is one.
    pub fn observe(&mut self, tick: Tick, boundaries: &mut Vec<Tick>) {
        self.first.get_or_insert(tick);
        self.counted += 1;
        if self.counted == self.rows {
            self.mark(tick.next(), boundaries);
        }
    }

    /// A boundary, unless nothing came since the last one.
    pub fn mark(&mut self, upper: Tick, boundaries: &mut Vec<Tick>) {
        if self.counted > 0 {
            boundaries.push(upper);
            self.last = upper;
        }
        self.counted = 0;
        self.first = None;
    }

    /// A boundary that stands in the log itself: also where nothing came but time has passed, since something may follow from
    /// that alone.
    pub fn pass(&mut self, upper: Tick, boundaries: &mut Vec<Tick>) {
        if self.counted == 0 && upper > self.last {
            boundaries.push(upper);
            self.last = upper;
        }
        self.mark(upper, boundaries);
    }

    /// How many facts stand behind the last boundary.
    pub fn pending(&self) -> u64 {
        self.counted
    }
}

impl Feed {
    /// How many facts stand behind the last commit boundary.
    pub fn pending(&self) -> u64 {
        self.boundaries.pending()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boundaries_follow_counts_and_ticks_alone() {
        let at = |micros| Tick::new(micros, 0).unwrap();
        let mut boundaries = Boundaries::new(3, Span::from_micros(100).unwrap());
        let mut found = Vec::new();
        for micros in [1, 2, 3, 10, 110, 111] {
            boundaries.observe_before(at(micros), &mut found);
            boundaries.observe(at(micros), &mut found);
        }
        assert_eq!(found, [at(3).next(), at(110)], "after three facts, then before the one 100 µs later");
        boundaries.mark(at(112), &mut found);
        boundaries.mark(at(112), &mut found);
        assert_eq!(found.len(), 3, "an empty interval is not committed");
        boundaries.pass(at(112), &mut found);
        boundaries.pass(at(200), &mut found);
        boundaries.pass(at(200), &mut found);
        assert_eq!(found[3..], [at(200)], "unless time has passed, and the log says so");
    }
}
