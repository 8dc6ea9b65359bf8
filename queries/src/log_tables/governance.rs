//! The table `governance`: one row for each step in the life of a revision of a bundle or a policy.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use tidegate_facts::governance::{EVENT_TYPE, StepRecord};
use tidegate_facts::payload_schema::timestamp;
use tidegate_facts::{Tick, columns};
use tidegate_sinks::log::Group;

use super::batches::build_batch;

/// The columns of the table `governance`. Digests are texts, as in the decisions that cite them.
pub(super) fn schema() -> SchemaRef {
    let text = |name: &str| Field::new(name, DataType::Utf8, false);
    let optional = |name: &str| Field::new(name, DataType::Utf8, true);
    Arc::new(Schema::new(vec![
        columns::tick_field(columns::TICK),
        Field::new("taken_at_utc", timestamp(), false),
        text(columns::EVENT_ID),
        text("scope"),
        text("kind"),
        text("node"),
        text("step"),
        optional("family"),
        text("proposal_id"),
        text("actor"),
        text("reason"),
        text("before_digest"),
        text("after_digest"),
        text("revision_id"),
        text("revision_version"),
        optional("revision_text"),
    ]))
}

/// The rows of the table `governance`: the steps of a group before the tick `before`, with the
/// columns of `schema`.
pub(super) fn batches(
    group: &Group,
    schema: &SchemaRef,
    before: Option<Tick>,
) -> Result<Vec<RecordBatch>, String> {
    let frames = group.frames.iter().filter(|frame| frame.name == EVENT_TYPE);
    frames
        .map(|frame| {
            let mut steps = StepRecord::read(&frame.rows)?;
            steps.retain(|(tick, _)| before.is_none_or(|before| *tick < before));
            build_batch(schema, steps.len(), |name| Ok(column(&steps, name)))
        })
        .collect()
}

fn column(steps: &[(Tick, StepRecord)], name: &str) -> ArrayRef {
    let texts = |text: fn(&StepRecord) -> Option<String>| -> ArrayRef {
        Arc::new(steps.iter().map(|(_, step)| text(step)).collect::<StringArray>())
    };
    match name {
        columns::TICK => Arc::new(steps.iter().map(|(tick, _)| tick.0).collect::<columns::TickArray>()),
        "taken_at_utc" => {
            let times = steps.iter().map(|(tick, _)| tick.micros());
            Arc::new(TimestampMicrosecondArray::from_iter_values(times).with_data_type(timestamp()))
        }
        columns::EVENT_ID => texts(|step| Some(step.event_id())),
        "scope" => texts(|step| Some(step.scope.clone())),
        "kind" => texts(|step| Some(step.subject.kind.name().to_owned())),
        "node" => texts(|step| Some(step.subject.node.clone())),
        "step" => texts(|step| Some(step.step.name().to_owned())),
        "family" => texts(|step| step.step.reference_event(step.subject.kind).map(str::to_owned)),
        "proposal_id" => texts(|step| Some(step.proposal_id.to_hex())),
        "actor" => texts(|step| Some(step.actor.clone())),
        "reason" => texts(|step| Some(step.reason.clone())),
        "before_digest" => texts(|step| Some(step.before.to_hex())),
        "after_digest" => texts(|step| Some(step.after.digest.to_hex())),
        "revision_id" => texts(|step| Some(step.after.id.clone())),
        "revision_version" => texts(|step| Some(step.after.version.clone())),
        "revision_text" => texts(|step| step.text.clone()),
        name => unreachable!("`{name}` is not a column of governance"),
    }
}
