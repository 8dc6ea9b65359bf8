//! Plans the gate: its policies and the columns of its rows.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use tidegate_facts::envelope::FIELDS;
use tidegate_facts::envelope::field_index::{CONTEXT, EVENT_TYPE};
use tidegate_facts::{columns, control_fact};
use tidegate_operators::core::effective::Effective;
use tidegate_operators::gate::GatePolicy;

use super::{RevisionText, Revisions};
use crate::config::Diagnostics;
use crate::node::ColumnSet;
use crate::node::plan_context::{TopologyFiles, every_revision};
use crate::topology::Node;

/// Plans the gate's policies: the topology's, and those that became effective later. `None` after a
/// fault was added.
pub(super) fn plan_policies(
    gate: &Node,
    files: &TopologyFiles<'_>,
    revisions: &Revisions,
    diagnostics: &Diagnostics,
) -> Option<Effective<Arc<GatePolicy>>> {
    let path = gate.revisable()?.path();
    let file = files.text(path, "policy", diagnostics)?;
    let later = revisions.get(&gate.name).map_or(&[][..], Vec::as_slice);
    let policies = every_revision(later, &file, |text| parse_policy(text, diagnostics))?;
    for revision in later.iter().filter_map(|(_, text)| text.as_ref()) {
        if let Ok(policy) = GatePolicy::parse(&revision.text) {
            check_schema_compatible(revision, &policy, &policies, diagnostics);
        }
    }
    Some(policies)
}

fn parse_policy(revision: &RevisionText, diagnostics: &Diagnostics) -> Option<Arc<GatePolicy>> {
    match GatePolicy::parse(&revision.text) {
        Ok(policy) => {
            let own = policy.events().find(|event| control_fact::is_control_fact(&event.event_type));
            if let Some(event) = own {
                let what = format!(
                    "event type `{}` is reserved for revisions of bundles and policies; leave it out",
                    event.event_type
                );
                diagnostics.add_in(&revision.file, 1, what);
                return None;
            }
            Some(Arc::new(policy))
        }
        Err(found) => {
            for fault in found {
                diagnostics.add_in(&revision.file, fault.line, fault.message);
            }
            None
        }
    }
}

/// Checks that a later policy has the columns and classes of the first: the log and the graph hold
/// those.
fn check_schema_compatible(
    revision: &RevisionText,
    policy: &GatePolicy,
    policies: &Effective<Arc<GatePolicy>>,
    diagnostics: &Diagnostics,
) {
    let (before, after) = (payload_columns(policies.first()), payload_columns(policy));
    let fault = |what: String| diagnostics.add_in(&revision.file, 1, what);
    for (name, data_type) in &after {
        match before.iter().find(|(other, _)| other == name) {
            Some((_, other)) if other == data_type => {}
            Some((_, other)) => fault(format!(
                "payload field `{name}` would be {data_type} and is {other}, which the log and the graph hold; keep its type"
            )),
            None => fault(format!(
                "payload field `{name}` ({data_type}) is new, and the graph was built without it; a new field needs a new topology on a new data folder"
            )),
        }
    }
    for (name, data_type) in before.iter().filter(|(name, _)| after.iter().all(|(other, _)| other != name)) {
        fault(format!(
            "payload field `{name}` ({data_type}) is missing, and the graph was built with it; keep it, with `?` behind its type if records may lack it"
        ));
    }
    for other in policies.values() {
        for event in policy.events() {
            let class = other.event(&event.event_type).map(|other| other.class);
            if let Some(class) = class.filter(|class| *class != event.class) {
                fault(format!(
                    "event type `{}` would be of class {} and is of class {}, which is part of the identity of its events; keep its class",
                    event.event_type,
                    event.class.name(),
                    class.name()
                ));
            }
        }
    }
}

/// The gate's columns: the envelope, then the payload fields of all event types; only those in
/// `read`.
pub(super) fn gate_schema(
    gate: &Node,
    policy: &GatePolicy,
    read: Option<&ColumnSet>,
    diagnostics: &Diagnostics,
) -> SchemaRef {
    let mut fields = gate_fields();
    let mut origin: BTreeMap<String, String> = BTreeMap::new();
    for event in policy.events() {
        let event_type = event.event_type.as_ref();
        for field in event.payload.iter().flat_map(|payload| &payload.fields) {
            let name = payload_column(&field.name);
            let data_type = field.field_type.arrow();
            if let Some(other) = fields.iter().find(|f| *f.name() == name) {
                if *other.data_type() != data_type {
                    diagnostics.add(gate.line, format!(
                        "payload field `{}` is {} in `{event_type}` and {} in `{}`; give one of them another name or the same type",
                        field.name, data_type, other.data_type(), origin.get(&name).map_or("the envelope", String::as_str)
                    ));
                }
                continue;
            }
            origin.insert(name.clone(), event_type.to_owned());
            fields.push(Field::new(name, data_type, true));
        }
    }
    if let Some(read) = read {
        fields.retain(|field| read.contains(field.name()));
    }
    Arc::new(Schema::new(fields))
}

/// The columns of all payload fields of a policy, and their types.
fn payload_columns(policy: &GatePolicy) -> Vec<(String, DataType)> {
    let fields = policy.events().flat_map(|event| event.payload.iter().flat_map(|schema| &schema.fields));
    fields.map(|field| (payload_column(&field.name), field.field_type.arrow())).collect()
}

/// The envelope columns of the gate's rows.
pub fn gate_fields() -> Vec<Field> {
    let mut fields = vec![
        columns::tick_field(columns::TICK),
        columns::offset_field(columns::OFFSET),
        columns::basis_field(),
        Field::new(columns::EVENT_TYPE, columns::dictionary(), false),
    ];
    fields.extend(columns::envelope_fields().into_iter().filter(|f| f.name() != columns::CONTEXT));
    fields.extend(context_columns().map(|name| Field::new(name, columns::dictionary(), true)));
    fields.push(Field::new(columns::PAYLOAD, DataType::Utf8, true));
    fields
}

/// The columns in the gate's rows that have the fields of a record's context; its event type has a
/// column of its own.
pub fn context_columns() -> impl Iterator<Item = &'static str> {
    CONTEXT.into_iter().filter(|index| *index != EVENT_TYPE).map(|index| FIELDS[index])
}

/// The column in the gate's rows of a payload field: its name, or `payload_` and its name where the
/// envelope has one like it.
pub fn payload_column(field: &str) -> String {
    let is_taken = gate_fields().iter().any(|f| f.name() == field);
    if is_taken { format!("payload_{field}") } else { field.to_owned() }
}
