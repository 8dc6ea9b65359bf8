//! The sources of a plan: how their records are opened, and how rows become events.

use std::rc::Rc;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Field, Schema};
use tidegate_facts::payload_schema::timestamp;
use tidegate_facts::suggest::did_you_mean;
use tidegate_facts::tick::MICROS_MAX;
use tidegate_facts::time::parse_rfc3339_micros;
use tidegate_facts::{Context, PayloadSchema, Reason, Span, columns};
use tidegate_operators::core::expr::Expr;
use tidegate_operators::gate::{EventPolicy, GatePolicy, Rejection, TimeBounds, Validated, Validator};
use tidegate_sources::{Body, Chunk, RECORD_BYTES_MAX, Source, SourceError};

use crate::config::{Diagnostics, Expressions, PlannedExpr, Spanned};
use crate::node::SourceSpec;
use crate::node::source::{Connector, EventMapping, OpenOptions};
use crate::topology::{Clock, Node, Topology};

/// The bounds of a source in a plan that declares none: every time that a tick can hold.
pub const ANY_TIME: TimeBounds = TimeBounds { from: 0, to: MICROS_MAX };

/// A source of a plan, which can be opened.
#[derive(Clone)]
pub struct SourcePlan {
    /// Its name.
    pub name: String,
    /// Where its records are.
    connector: Arc<dyn Connector>,
    /// How rows become events; `None` for lines that are envelopes.
    pub mapping: Option<Mapping>,
    /// The event times that it may hold.
    pub bounds: TimeBounds,
    /// How far its records may be out of order, in microseconds of event time.
    pub out_of_order_max: i64,
    /// How many records it hands over at once.
    pub batch_rows: usize,
    /// The longest record that is read whole, in bytes.
    pub record_bytes_max: usize,
}

/// How the rows of a source in a plan become events.
#[derive(Clone)]
pub struct Mapping {
    /// The columns of the source that are read.
    reads: Vec<String>,
    event_id: Expr,
    time: Expr,
    payload: Vec<(String, Expr)>,
    /// What every record carries.
    pub context: Context,
}

/// Plans one source. `None` after a fault was added, or when the plan does not record its
/// transport.
pub(super) fn plan_source(
    node: &Node,
    topology: &Topology,
    policy: Option<&Arc<GatePolicy>>,
    expressions: &Expressions,
    diagnostics: &Rc<Diagnostics>,
) -> Option<SourcePlan> {
    let source = node.spec.as_ref()?.source()?;
    let bounds = bounds_of(source, diagnostics);
    if source.out_of_order_max.is_some() && topology.clock == Clock::Wall {
        let what = format!(
            "{} has `out_of_order_max`, and under the wall clock the gate takes records as they come; leave it out, or set clock = \"event\"",
            node.called("source")
        );
        diagnostics.add(node.line, what);
    }
    let mut plan = SourcePlan {
        name: node.name.clone(),
        connector: Arc::clone(source.connector.as_ref()?),
        mapping: None,
        bounds,
        out_of_order_max: source.out_of_order_max.map_or(0, Span::micros),
        batch_rows: topology.batch_rows,
        record_bytes_max: policy.map_or(RECORD_BYTES_MAX, |policy| policy.record_bytes_max),
    };
    let schema = match plan.connector.schema(plan.options()) {
        Ok(schema) => schema,
        Err(error) => {
            let cause = std::error::Error::source(&error).map(|s| format!(" ({s})")).unwrap_or_default();
            let called = node.called("source");
            diagnostics
                .add(node.line, format!("{called}: {error}{cause}; or set --set {}.path=..", node.name));
            return None;
        }
    };
    if let (Some(event), Some(schema)) = (&source.event, schema) {
        let planner = MappingPlanner { node, event, topology, policy, expressions, diagnostics };
        // First over all columns, which finds the ones that are read, then over those.
        let whole = planner.plan(&schema)?;
        let read = schema.fields().iter().filter(|f| whole.reads.contains(f.name()));
        let read: Vec<Field> = read.map(|f| f.as_ref().clone()).collect();
        plan.mapping = Some(planner.plan(&Schema::new(read))?);
    }
    Some(plan)
}

/// The context that every record of a mapped source in a plan carries.
pub fn context_of(run: &Context, event_type: &str, mapping: &EventMapping) -> Context {
    Context {
        event_type: event_type.to_owned(),
        schema_version: mapping.schema_version.clone(),
        producer: mapping.producer.clone(),
        ..run.clone()
    }
}

fn bounds_of(source: &SourceSpec, diagnostics: &Diagnostics) -> TimeBounds {
    let mut bounds = ANY_TIME;
    if let Some((from, to)) = &source.time_between {
        for (text, slot) in [(from, &mut bounds.from), (to, &mut bounds.to)] {
            match parse_rfc3339_micros(&text.value) {
                None if text.is_absent() => {}
                Some(micros) => *slot = micros,
                None => diagnostics.add(
                    text.line,
                    format!("`{}` is not a time; write it as 2018-04-01T00:00:00.000000Z", text.value),
                ),
            }
        }
        if bounds.from > bounds.to {
            diagnostics.add(from.line, "`time_between` ends before it begins; write the earlier time first");
        }
    }
    bounds
}

struct MappingPlanner<'a> {
    node: &'a Node,
    event: &'a EventMapping,
    topology: &'a Topology,
    /// `None` when it has faults, which were added.
    policy: Option<&'a Arc<GatePolicy>>,
    expressions: &'a Expressions,
    diagnostics: &'a Diagnostics,
}

impl MappingPlanner<'_> {
    fn plan(&self, schema: &Schema) -> Option<Mapping> {
        let event_type = &self.event.event_type;
        let event = self.policy.and_then(|policy| self.event_of(policy));
        let payload_schema = event.and_then(|event| self.payload_of(event));
        let mut reads = Vec::new();
        let mut read = |planned: Option<PlannedExpr>| {
            planned.map(|p| {
                reads.extend(p.reads);
                p.expr
            })
        };
        let event_id = read(self.expr(&self.event.id, schema, Some(&DataType::Utf8)));
        let time = read(self.time(schema));
        let mut payload = Vec::new();
        let mut is_complete = true;
        for (name, sql) in &self.event.payload {
            match payload_schema {
                // Its position among the fields is unknown; its own faults can be found.
                None => drop(self.expr(sql, schema, None)),
                Some(fields) if fields.index_of(&name.value).is_some() => {}
                Some(fields) => {
                    let existing: Vec<&str> = fields.fields.iter().map(|f| f.name.as_str()).collect();
                    self.diagnostics.add(
                        name.line,
                        format!(
                            "event type `{}` has no payload field `{}`; {}",
                            event_type.value,
                            name.value,
                            did_you_mean(&name.value, &existing)
                        ),
                    );
                    self.expr(sql, schema, None);
                    is_complete = false;
                }
            }
        }
        for field in payload_schema.iter().flat_map(|schema| &schema.fields) {
            let own = self.event.payload.iter().find(|(name, _)| name.value == field.name);
            let sql = match own {
                Some((_, sql)) => sql.clone(),
                None if schema.index_of(&field.name).is_ok() => {
                    Spanned::new(format!("\"{}\"", field.name), self.node.line)
                }
                None if !field.required => continue,
                None => {
                    self.diagnostics.add(event_type.line, format!(
                        "payload field `{}` of `{}` has no column of its name in source `{}`; say how it is made: payload = {{ {} = \"..\" }}",
                        field.name, event_type.value, self.node.name, field.name
                    ));
                    is_complete = false;
                    continue;
                }
            };
            match read(self.expr(&sql, schema, None)) {
                Some(expr) => payload.push((field.name.clone(), expr)),
                None => is_complete = false,
            }
        }
        let context = context_of(&self.topology.run, &event_type.value, self.event);
        let missing = event.map(|event| context.missing_pins(event.class)).unwrap_or_default();
        if let (Some(event), false, false) = (event, missing.is_empty(), self.topology.run_has_faults) {
            self.diagnostics.add(
                self.node.line,
                format!(
                    "records of source `{}` would lack {}, which class `{}` requires; set them in [run]",
                    self.node.name,
                    missing.join(", "),
                    event.class.name()
                ),
            );
        }
        let (event_id, time, policy, _) = (event_id?, time?, self.policy?, payload_schema?);
        if !is_complete {
            return None;
        }
        let mapping = Mapping { reads, event_id, time, payload, context };
        let validator = Validator::new(Arc::clone(policy), self.topology.partitions, ANY_TIME);
        for what in validator.check_columns(&mapping.schema(), &event_type.value) {
            self.diagnostics.add(event_type.line, format!("source `{}`: {what}", self.node.name));
        }
        Some(mapping)
    }

    /// The policy of the event type, or a fault.
    fn event_of<'p>(&self, policy: &'p GatePolicy) -> Option<&'p EventPolicy> {
        let event_type = &self.event.event_type;
        let event = policy.event(&event_type.value);
        if event.is_none() && !event_type.is_absent() {
            let existing: Vec<&str> = policy.events().map(|e| e.event_type.as_ref()).collect();
            let what = format!(
                "the policy has no event type `{}`; {}",
                event_type.value,
                did_you_mean(&event_type.value, &existing)
            );
            self.diagnostics.add(event_type.line, what);
        }
        event
    }

    /// The payload fields of an event type, or a fault.
    fn payload_of<'p>(&self, event: &'p EventPolicy) -> Option<&'p PayloadSchema> {
        if event.payload.is_none() {
            let event_type = &self.event.event_type;
            self.diagnostics.add(event_type.line, format!("event type `{}` has no [payload] in the policy, so columns cannot be put into one; declare its fields there", event_type.value));
        }
        event.payload.as_ref()
    }

    fn expr(&self, text: &Spanned, schema: &Schema, data_type: Option<&DataType>) -> Option<PlannedExpr> {
        if text.is_absent() {
            return None;
        }
        self.expressions
            .plan(&text.value, schema, data_type)
            .map_err(|what| self.diagnostics.add(text.line, what))
            .ok()
    }

    fn time(&self, schema: &Schema) -> Option<PlannedExpr> {
        let text = &self.event.time;
        let as_is = self.expr(text, schema, None)?;
        if as_is.expr.data_type.is_numeric() {
            self.diagnostics.add(text.line, format!("`{}` is a {}, and the event time must be a timestamp; use to_timestamp_micros() or the like", text.value, as_is.expr.data_type));
            return None;
        }
        self.expr(text, schema, Some(&timestamp()))
    }
}

impl Mapping {
    /// The columns of mapped records.
    fn schema(&self) -> Schema {
        let heads = [
            Field::new(columns::EVENT_ID, DataType::Utf8, true),
            Field::new(columns::TS_UTC, timestamp(), true),
        ];
        let payload = self.payload.iter().map(|(name, expr)| Field::new(name, expr.data_type.clone(), true));
        Schema::new(heads.into_iter().chain(payload).collect::<Vec<_>>())
    }

    /// The records as events, and the rows that could not become one, each with the reason.
    fn apply(&self, batch: &RecordBatch) -> (RecordBatch, Vec<(usize, String)>) {
        let mut faults: Vec<(usize, String)> = Vec::new();
        let mut evaluate = |expr: &Expr| -> ArrayRef {
            let (values, failed) = expr.evaluate(batch);
            faults.extend(failed.into_iter().map(|f| (f.row, format!("`{}`: {}", expr.text, f.cause))));
            values
        };
        let mut arrays = vec![evaluate(&self.event_id), evaluate(&self.time)];
        arrays.extend(self.payload.iter().map(|(_, expr)| evaluate(expr)));
        let mapped =
            RecordBatch::try_new(Arc::new(self.schema()), arrays).expect("the plan gave the columns' types");
        faults.sort();
        faults.dedup_by_key(|(row, _)| *row);
        (mapped, faults)
    }
}

impl SourcePlan {
    fn options(&self) -> OpenOptions {
        OpenOptions { batch_rows: self.batch_rows, record_bytes_max: self.record_bytes_max }
    }

    /// Opens the source at a position.
    ///
    /// # Errors
    /// When its records cannot be read.
    pub fn open(&self, from_position: u64) -> Result<Box<dyn Source>, SourceError> {
        let columns = self.mapping.as_ref().map(|mapping| mapping.reads.as_slice());
        self.connector.open(columns, from_position, self.options())
    }

    /// The path of its files, if it reads files.
    pub fn path(&self) -> Option<&std::path::Path> {
        self.connector.path()
    }

    /// Validates a chunk: the records that could be read and those that could not, in the order of
    /// the source.
    pub fn validate(&self, validator: &mut Validator, chunk: &Chunk) -> Validated {
        let mut validated = match (&chunk.body, &self.mapping) {
            (Body::Lines(lines), _) => validator.validate_lines(lines.iter()),
            (Body::Rows { batch, positions }, Some(mapping)) => {
                self.validate_rows(validator, mapping, batch, positions)
            }
            (Body::Rows { .. }, None) => unreachable!("a source of rows has a mapping"),
        };
        if !chunk.unreadable.is_empty() {
            let rejected = chunk.unreadable.iter().map(|fault| {
                let reason = if fault.bytes.len() >= self.record_bytes_max {
                    Reason::RecordTooLarge
                } else {
                    Reason::EnvelopeInvalid
                };
                (fault.position, rejection(reason, fault.detail.clone(), fault.bytes.clone()))
            });
            validated = validated.with_rejected(rejected.collect());
        }
        validated
    }

    fn validate_rows(
        &self,
        validator: &mut Validator,
        mapping: &Mapping,
        batch: &RecordBatch,
        positions: &[u64],
    ) -> Validated {
        // The batch has the columns that are read, in the order of the file.
        let batch = in_order_of(batch, &mapping.reads);
        let (mapped, faults) = mapping.apply(&batch);
        let mut validated = if faults.is_empty() {
            validator.validate_rows(&mapped, positions, &mapping.context)
        } else {
            validate_mapped(validator, mapping, &mapped, positions, faults)
        };
        // The record as in its source: an expression of the mapping may have lost what is wrong.
        for rejection in &mut validated.rejected {
            let position = validated.positions[rejection.record as usize];
            let row = positions.binary_search(&position).expect("a position of the chunk");
            rejection.bytes = json_of(&batch.slice(row, 1));
        }
        validated
    }
}

/// Validates the rows whose mapping has no fault, and rejects the others.
fn validate_mapped(
    validator: &mut Validator,
    mapping: &Mapping,
    mapped: &RecordBatch,
    positions: &[u64],
    faults: Vec<(usize, String)>,
) -> Validated {
    let failed: Vec<usize> = faults.iter().map(|(row, _)| *row).collect();
    let is_mapped = |row: usize| failed.binary_search(&row).is_err();
    let good: BooleanArray = (0..mapped.num_rows()).map(|row| Some(is_mapped(row))).collect();
    let good_positions: Vec<u64> =
        positions.iter().enumerate().filter(|(row, _)| is_mapped(*row)).map(|(_, p)| *p).collect();
    let good = filter_record_batch(mapped, &good).expect("one flag for each row");
    let validated = validator.validate_rows(&good, &good_positions, &mapping.context);
    let rejected = faults.into_iter();
    let rejected =
        rejected.map(|(row, detail)| (positions[row], rejection(Reason::SchemaFail, detail, Vec::new())));
    validated.with_rejected(rejected.collect())
}

fn rejection(reason: Reason, detail: String, bytes: Vec<u8>) -> Rejection {
    Rejection { record: 0, reason, detail, event_type: None, event_id: None, payload_hash: None, bytes }
}

fn in_order_of(batch: &RecordBatch, reads: &[String]) -> RecordBatch {
    let schema = batch.schema_ref();
    let kept: Vec<usize> =
        (0..batch.num_columns()).filter(|index| reads.contains(schema.field(*index).name())).collect();
    batch.project(&kept).expect("the columns are the batch's own")
}

/// A row as a line of JSON, so that it can be shown and sent again.
fn json_of(row: &RecordBatch) -> Vec<u8> {
    let mut writer = arrow::json::LineDelimitedWriter::new(Vec::new());
    let written = writer.write(row).and_then(|()| writer.finish());
    let mut bytes = if written.is_ok() { writer.into_inner() } else { format!("{row:?}").into_bytes() };
    bytes.truncate(bytes.trim_ascii_end().len());
    bytes
}
