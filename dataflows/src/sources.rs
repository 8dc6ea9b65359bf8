//! Sources of a plan: how their records are opened, and how rows become events.

use std::rc::Rc;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use tidegate_facts::names::choices;
use tidegate_facts::schema::timestamp;
use tidegate_facts::tick::MICROS_MAX;
use tidegate_facts::time::parse_rfc3339_micros;
use tidegate_facts::{Context, PayloadSchema, Reason, Span, columns};
use tidegate_operators::expr::Expr;
use tidegate_operators::gate::{EventPolicy, GatePolicy, Judge, Judged, Refused, TimeBounds};
use tidegate_sources::world::WorldSource;
use tidegate_sources::{
    Body, Chunk, CsvOptions, CsvSource, JsonlSource, LatticeSource, ParquetSource, RECORD_BYTES_MAX, Source,
    SourceError,
};

use crate::settings::{Faults, Text};
use crate::sql::{Planned, Sql};
use crate::topology::{Clock, EventMapping, Node, Place, SourceNode, Topology};

/// Every time that a tick can hold.
pub const ANY_TIME: TimeBounds = TimeBounds { from: 0, to: MICROS_MAX };

/// A source that can be opened.
#[derive(Clone)]
pub struct SourcePlan {
    /// Its name.
    pub name: String,
    /// Where its records are.
    pub place: Place,
    /// How rows become events; `None` for lines that are envelopes.
    pub mapping: Option<Mapping>,
    /// Which event times it may hold.
    pub bounds: TimeBounds,
    /// How far its records may be out of order, in microseconds of event time.
    pub late: i64,
    /// How many records it hands over at once.
    pub batch_rows: usize,
    /// The longest record that is read whole.
    pub record_bytes_max: usize,
}

/// How rows become events.
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

/// Plans one source; its faults are added.
pub(crate) fn plan_source(
    node: &Node,
    source: &SourceNode,
    topology: &Topology,
    policy: Option<&Arc<GatePolicy>>,
    sql: &Sql,
    faults: &Rc<Faults>,
) -> Option<SourcePlan> {
    let bounds = bounds_of(source, faults);
    if source.late.is_some() && topology.clock == Clock::Wall {
        faults.add(
            node.line,
            format!(
                "{} has `late`, and under the wall clock records are taken as they come; leave it out, or set clock = \"event\"",
                node.called("source")
            ),
        );
    }
    let mut plan = SourcePlan {
        name: node.name.clone(),
        place: source.place.clone(),
        mapping: None,
        bounds,
        late: source.late.map_or(0, Span::micros),
        batch_rows: topology.batch_rows,
        record_bytes_max: policy.map_or(RECORD_BYTES_MAX, |policy| policy.record_bytes_max),
    };
    if plan.path().is_some_and(|path| path.as_os_str().is_empty()) {
        return None; // That it has no path has been said.
    }
    let schema = match plan.head() {
        Ok(schema) => schema,
        Err(error) => {
            let cause = std::error::Error::source(&error).map(|s| format!(" ({s})")).unwrap_or_default();
            faults.add(
                node.line,
                format!("{}: {error}{cause}; or say --set {}.path=..", node.called("source"), node.name),
            );
            return None;
        }
    };
    if let (Some(event), Some(schema)) = (&source.event, schema) {
        let planner = MappingPlanner { node, event, topology, policy, sql, faults };
        // First over all columns, which finds the ones that are read, then over those.
        let whole = planner.plan(&schema)?;
        let kept: Vec<Field> = schema
            .fields()
            .iter()
            .filter(|f| whole.reads.contains(f.name()))
            .map(|f| f.as_ref().clone())
            .collect();
        plan.mapping = Some(planner.plan(&Schema::new(kept))?);
    }
    Some(plan)
}

fn bounds_of(source: &SourceNode, faults: &Rc<Faults>) -> TimeBounds {
    let mut bounds = ANY_TIME;
    if let Some((from, to)) = &source.time_between {
        for (text, slot) in [(from, &mut bounds.from), (to, &mut bounds.to)] {
            match parse_rfc3339_micros(&text.value) {
                None if text.is_absent() => {}
                Some(micros) => *slot = micros,
                None => faults.add(
                    text.line,
                    format!("`{}` is no time; write it as 2018-04-01T00:00:00.000000Z", text.value),
                ),
            }
        }
        if bounds.from > bounds.to {
            faults.add(from.line, "`time_between` ends before it begins; write the earlier time first");
        }
    }
    bounds
}

struct MappingPlanner<'a> {
    node: &'a Node,
    event: &'a EventMapping,
    topology: &'a Topology,
    /// `None` when it has faults, which have been said.
    policy: Option<&'a Arc<GatePolicy>>,
    sql: &'a Sql,
    faults: &'a Rc<Faults>,
}

impl MappingPlanner<'_> {
    fn plan(&self, schema: &Schema) -> Option<Mapping> {
        let event_type = &self.event.event_type;
        let event = self.policy.and_then(|policy| self.event_of(policy));
        let payload_schema = event.and_then(|event| self.payload_of(event));
        let mut reads = Vec::new();
        let mut read = |planned: Option<Planned>| {
            planned.map(|p| {
                reads.extend(p.reads);
                p.expr
            })
        };
        let event_id = read(self.expr(&self.event.id, schema, Some(&DataType::Utf8)));
        let time = read(self.time(schema));
        let mut payload = Vec::new();
        let mut whole = true;
        for (name, sql) in &self.event.payload {
            match payload_schema {
                // Its place among the fields is unknown, and its faults are not.
                None => drop(self.expr(sql, schema, None)),
                Some(fields) if fields.index_of(&name.value).is_some() => {}
                Some(fields) => {
                    let known: Vec<&str> = fields.fields.iter().map(|f| f.name.as_str()).collect();
                    self.faults.add(
                        name.line,
                        format!(
                            "event type `{}` has no payload field `{}`; {}",
                            event_type.value,
                            name.value,
                            choices(&name.value, &known)
                        ),
                    );
                    self.expr(sql, schema, None);
                    whole = false;
                }
            }
        }
        for field in payload_schema.iter().flat_map(|schema| &schema.fields) {
            let own = self.event.payload.iter().find(|(name, _)| name.value == field.name);
            let sql = match own {
                Some((_, sql)) => sql.clone(),
                None if schema.index_of(&field.name).is_ok() => {
                    Text { value: format!("\"{}\"", field.name), line: self.node.line }
                }
                None if !field.required => continue,
                None => {
                    self.faults.add(event_type.line, format!(
                        "payload field `{}` of `{}` has no column of its name in source `{}`; say how it is made: payload = {{ {} = \"..\" }}",
                        field.name, event_type.value, self.node.name, field.name
                    ));
                    whole = false;
                    continue;
                }
            };
            match read(self.expr(&sql, schema, None)) {
                Some(expr) => payload.push((field.name.clone(), expr)),
                None => whole = false,
            }
        }
        let context = crate::plan::context_of(&self.topology.run, &event_type.value, self.event);
        let missing = event.map(|event| context.missing_pins(event.class)).unwrap_or_default();
        if let (Some(event), false, false) = (event, missing.is_empty(), self.topology.run_flawed) {
            self.faults.add(
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
        if !whole {
            return None;
        }
        let mapping = Mapping { reads, event_id, time, payload, context };
        let judge = crate::plan::judge_of(policy, self.topology.partitions, ANY_TIME);
        for what in judge.check_columns(&mapping.schema(), &event_type.value) {
            self.faults.add(event_type.line, format!("source `{}`: {what}", self.node.name));
        }
        Some(mapping)
    }

    /// What the policy says of the event type, or a fault.
    fn event_of<'p>(&self, policy: &'p GatePolicy) -> Option<&'p EventPolicy> {
        let event_type = &self.event.event_type;
        let event = policy.event(&event_type.value);
        if event.is_none() && !event_type.is_absent() {
            let known: Vec<&str> = policy.events().map(|e| e.event_type.as_ref()).collect();
            let what = format!(
                "the policy knows no event type `{}`; {}",
                event_type.value,
                choices(&event_type.value, &known)
            );
            self.faults.add(event_type.line, what);
        }
        event
    }

    /// The payload fields of an event type, or a fault.
    fn payload_of<'p>(&self, event: &'p EventPolicy) -> Option<&'p PayloadSchema> {
        if event.payload.is_none() {
            let event_type = &self.event.event_type;
            self.faults.add(event_type.line, format!("event type `{}` has no [payload] in the policy, so columns cannot be put into one; declare its fields there", event_type.value));
        }
        event.payload.as_ref()
    }

    fn expr(&self, text: &Text, schema: &Schema, wanted: Option<&DataType>) -> Option<Planned> {
        if text.is_absent() {
            return None;
        }
        self.sql.plan(&text.value, schema, wanted).map_err(|what| self.faults.add(text.line, what)).ok()
    }

    fn time(&self, schema: &Schema) -> Option<Planned> {
        let text = &self.event.time;
        let as_is = self.expr(text, schema, None)?;
        if as_is.expr.data_type.is_numeric() {
            self.faults.add(text.line, format!("`{}` is a {}, and the event time must be a timestamp; use to_timestamp_micros() or the like", text.value, as_is.expr.data_type));
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
    /// The columns of its rows; `None` for envelopes.
    fn head(&self) -> Result<Option<SchemaRef>, SourceError> {
        Ok(match &self.place {
            Place::Parquet(path) => Some(ParquetSource::open(path, None, 0, 1)?.schema()),
            Place::Csv(path, delimiter) => {
                Some(CsvSource::open(path, 0, 1, self.csv_options(*delimiter))?.schema())
            }
            Place::Jsonl(path, names) if names.is_empty() => {
                JsonlSource::envelopes(path, 0, 1, self.record_bytes_max)?;
                None
            }
            Place::Jsonl(path, names) => {
                JsonlSource::columns(path, names, 0, 1, self.record_bytes_max)?.schema()
            }
            Place::World(_, stream) => Some(stream.schema()),
            Place::Lattice(_, stream) => Some(stream.schema()),
        })
    }

    fn csv_options(&self, delimiter: u8) -> CsvOptions {
        CsvOptions { delimiter, record_bytes_max: self.record_bytes_max }
    }

    /// Opens it at a position.
    ///
    /// # Errors
    /// When its files cannot be read.
    pub fn open(&self, from_position: u64) -> Result<Box<dyn Source>, SourceError> {
        let reads: Option<Vec<String>> = self.mapping.as_ref().map(|m| m.reads.clone());
        Ok(match &self.place {
            Place::Parquet(path) => {
                Box::new(ParquetSource::open(path, reads.as_deref(), from_position, self.batch_rows)?)
            }
            Place::Csv(path, delimiter) => {
                Box::new(CsvSource::open(path, from_position, self.batch_rows, self.csv_options(*delimiter))?)
            }
            Place::Jsonl(path, names) if names.is_empty() => {
                Box::new(JsonlSource::envelopes(path, from_position, self.batch_rows, self.record_bytes_max)?)
            }
            Place::Jsonl(path, names) => Box::new(JsonlSource::columns(
                path,
                names,
                from_position,
                self.batch_rows,
                self.record_bytes_max,
            )?),
            Place::Lattice(config, stream) => {
                Box::new(LatticeSource::new(config.clone(), *stream, from_position, self.batch_rows)?)
            }
            Place::World(config, stream) => {
                Box::new(WorldSource::new(config.clone(), *stream, from_position, self.batch_rows)?)
            }
        })
    }

    /// The path of its files, if it has some.
    pub fn path(&self) -> Option<&std::path::Path> {
        match &self.place {
            Place::Parquet(path) | Place::Csv(path, _) | Place::Jsonl(path, _) => Some(path),
            Place::World(_, _) | Place::Lattice(_, _) => None,
        }
    }

    /// Judges a chunk: what could be read and what could not, in the order of the source.
    pub fn judge(&self, judge: &mut Judge, chunk: &Chunk) -> Judged {
        let mut judged = match (&chunk.body, &self.mapping) {
            (Body::Lines(lines), _) => judge.lines(lines.iter()),
            (Body::Rows { batch, positions }, Some(mapping)) => {
                self.judge_rows(judge, mapping, batch, positions)
            }
            (Body::Rows { .. }, None) => unreachable!("a source of rows has a mapping"),
        };
        if !chunk.faults.is_empty() {
            let refused = chunk.faults.iter().map(|fault| {
                let reason = if fault.bytes.len() >= self.record_bytes_max {
                    Reason::RecordTooLarge
                } else {
                    Reason::EnvelopeInvalid
                };
                (fault.position, refusal(reason, fault.detail.clone(), fault.bytes.clone()))
            });
            judged = judged.with_refused(refused.collect());
        }
        judged
    }

    fn judge_rows(
        &self,
        judge: &mut Judge,
        mapping: &Mapping,
        batch: &RecordBatch,
        positions: &[u64],
    ) -> Judged {
        // The batch has the columns that are read, in the order of the file.
        let batch = named(batch, &mapping.reads);
        let (mapped, faults) = mapping.apply(&batch);
        if faults.is_empty() {
            return judge.rows(&mapped, positions, &mapping.context);
        }
        let failed: Vec<usize> = faults.iter().map(|(row, _)| *row).collect();
        let good: BooleanArray =
            (0..batch.num_rows()).map(|row| Some(failed.binary_search(&row).is_err())).collect();
        let good_positions: Vec<u64> = positions
            .iter()
            .enumerate()
            .filter(|(row, _)| failed.binary_search(row).is_err())
            .map(|(_, p)| *p)
            .collect();
        let good = filter_record_batch(&mapped, &good).expect("one flag for each row");
        let judged = judge.rows(&good, &good_positions, &mapping.context);
        let refused = faults.into_iter().map(|(row, detail)| {
            (positions[row], refusal(Reason::SchemaFail, detail, json_of(&batch.slice(row, 1))))
        });
        judged.with_refused(refused.collect())
    }
}

fn refusal(reason: Reason, detail: String, bytes: Vec<u8>) -> Refused {
    Refused { record: 0, reason, detail, event_type: None, event_id: None, payload_hash: None, bytes }
}

fn named(batch: &RecordBatch, reads: &[String]) -> RecordBatch {
    let schema = batch.schema_ref();
    let kept: Vec<usize> =
        (0..batch.num_columns()).filter(|place| reads.contains(schema.field(*place).name())).collect();
    batch.project(&kept).expect("the places are the batch's own")
}

/// A row as a line of JSON, so that it can be shown and sent again.
fn json_of(row: &RecordBatch) -> Vec<u8> {
    let mut writer = arrow::json::LineDelimitedWriter::new(Vec::new());
    let written = writer.write(row).and_then(|()| writer.finish());
    let mut bytes = if written.is_ok() { writer.into_inner() } else { format!("{row:?}").into_bytes() };
    bytes.truncate(bytes.trim_ascii_end().len());
    bytes
}
