//! The columns of a plan, made of the frames of one event type.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, DictionaryArray, ListArray, RecordBatch, StringArray, new_null_array};
use arrow::buffer::{OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Field, Int32Type, SchemaRef};
use tidegate_facts::columns::{self, OffsetArray};
use tidegate_facts::envelope::Context;
use tidegate_operators::core::rows::repeated_text;

use crate::plan::{context_columns, payload_column};

/// How the columns of a plan are found in the frames of one event type.
pub(super) struct FrameColumns {
    /// The columns of those frames.
    frame: SchemaRef,
    /// The index of the payload among them.
    payload: Option<usize>,
    /// For each column of the plan.
    origins: Vec<ColumnOrigin>,
}

/// Where a column of the plan comes from.
enum ColumnOrigin {
    Basis,
    EventType,
    /// The field of the context that has the column's name.
    Context,
    /// The column of the frame with this index.
    Column(usize),
    /// The field of the payload with this index.
    Field(usize),
    /// The frame has no such column. Nulls for a small batch are made once, since making them anew
    /// costs as much as the rest of the batch.
    Absent(ArrayRef),
}

/// Null columns of this many rows are made in advance.
const NULLS: usize = 256;

impl FrameColumns {
    /// Finds the columns of `plan` in frames that have the columns `frame`.
    pub fn new(plan: &SchemaRef, frame: &SchemaRef) -> FrameColumns {
        let payload = frame.index_of(columns::PAYLOAD).ok();
        let data_type = payload.map(|index| frame.field(index).data_type());
        let fields: Vec<String> = match data_type {
            Some(DataType::Struct(fields)) => {
                fields.iter().map(|field| payload_column(field.name())).collect()
            }
            _ => Vec::new(),
        };
        let contexts: Vec<&str> = context_columns().collect();
        let origin = |field: &Arc<Field>| {
            let name = field.name().as_str();
            let absent = || ColumnOrigin::Absent(new_null_array(field.data_type(), NULLS));
            let column = || frame.index_of(name).ok().map(ColumnOrigin::Column);
            let own = || fields.iter().position(|field| field == name).map(ColumnOrigin::Field);
            match name {
                columns::BASIS => ColumnOrigin::Basis,
                columns::EVENT_TYPE => ColumnOrigin::EventType,
                columns::PAYLOAD if data_type == Some(&DataType::Utf8) => column().unwrap_or_else(absent),
                columns::PAYLOAD => absent(),
                _ if contexts.contains(&name) => ColumnOrigin::Context,
                _ => column().or_else(own).unwrap_or_else(absent),
            }
        };
        let origins = plan.fields().iter().map(origin).collect();
        FrameColumns { frame: Arc::clone(frame), payload, origins }
    }

    /// Whether frames with the columns `frame` are laid out so.
    pub fn fits(&self, frame: &SchemaRef) -> bool {
        self.frame == *frame
    }

    /// The rows of one frame with the columns of `plan`; `basis` has `partitions` counts for each
    /// row.
    pub fn apply(
        &self,
        plan: &SchemaRef,
        event_type: &str,
        rows: &RecordBatch,
        basis: Vec<i64>,
        partitions: usize,
    ) -> RecordBatch {
        let payload = self.payload.map(|index| rows.column(index));
        let mut basis = Some(basis);
        let mut contexts = None;
        let column = |(field, origin): (&Arc<Field>, &ColumnOrigin)| -> ArrayRef {
            match origin {
                ColumnOrigin::Basis => basis_column(basis.take().expect("one basis column"), partitions),
                ColumnOrigin::EventType => repeated_text(event_type, rows.num_rows()),
                ColumnOrigin::Context => {
                    let contexts: &Vec<_> = contexts.get_or_insert_with(|| contexts_of(rows));
                    context_column(rows, contexts, field.name())
                }
                ColumnOrigin::Column(index) => Arc::clone(rows.column(*index)),
                ColumnOrigin::Field(index) => {
                    let payload = payload.expect("these frames have a payload").as_struct();
                    Arc::clone(payload.column(*index))
                }
                ColumnOrigin::Absent(nulls) if rows.num_rows() <= nulls.len() => {
                    nulls.slice(0, rows.num_rows())
                }
                ColumnOrigin::Absent(_) => new_null_array(field.data_type(), rows.num_rows()),
            }
        };
        let columns: Vec<ArrayRef> = plan.fields().iter().zip(&self.origins).map(column).collect();
        RecordBatch::try_new(Arc::clone(plan), columns).expect("the log holds the policy's columns")
    }
}

/// A basis column of `counts`, which has `partitions` counts for each row.
pub(crate) fn basis_column(counts: Vec<i64>, partitions: usize) -> ArrayRef {
    let rows = counts.len() / partitions;
    let offsets: Vec<i32> = (0..=rows).map(|row| (row * partitions) as i32).collect();
    let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
    Arc::new(ListArray::new(columns::basis_item(), offsets, Arc::new(OffsetArray::from(counts)), None))
}

/// The contexts that the records of a frame refer to.
fn contexts_of(rows: &RecordBatch) -> Vec<Option<Context>> {
    let texts = context_keys(rows).values().as_string::<i32>();
    texts.iter().map(|text| Some(serde_json::from_str(text?).expect("the gate wrote the context"))).collect()
}

fn context_keys(rows: &RecordBatch) -> &DictionaryArray<Int32Type> {
    rows.column_by_name(columns::CONTEXT).expect("facts have a context").as_dictionary()
}

/// One field of the records' contexts, for each row.
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
