//! The rows of the tables of `information_schema`.

use arrow::array::RecordBatch;
use arrow::datatypes::{Field, SchemaRef};
use tidegate_queries::CATALOGUE;

use super::objects::{NAMESPACES, OWNER, Objects, PUBLIC};
use super::relations::type_of;
use super::table::{TableBuilder, Value, batches, values};
use crate::types::{self, PgType, oid};

pub(super) fn catalog_name(schema: &SchemaRef) -> Vec<RecordBatch> {
    let mut table = TableBuilder::new(schema);
    table.row(values! { catalog_name: CATALOGUE });
    batches(table)
}

pub(super) fn schemata(schema: &SchemaRef) -> Vec<RecordBatch> {
    let mut table = TableBuilder::new(schema);
    for (name, _) in NAMESPACES {
        table.row(values! { catalog_name: CATALOGUE, schema_name: name, schema_owner: OWNER });
    }
    batches(table)
}

pub(super) fn tables(schema: &SchemaRef, objects: &Objects) -> Vec<RecordBatch> {
    let mut table = TableBuilder::new(schema);
    for relation in objects.relations() {
        table.row(values! {
            table_catalog: CATALOGUE,
            table_schema: relation.namespace.0,
            table_name: relation.name.as_str(),
            table_type: if relation.kind == 'v' { "VIEW" } else { "BASE TABLE" },
            is_insertable_into: "NO",
            is_typed: "NO",
        });
    }
    batches(table)
}

pub(super) fn views(schema: &SchemaRef, objects: &Objects) -> Vec<RecordBatch> {
    let mut table = TableBuilder::new(schema);
    for relation in objects.relations().filter(|relation| relation.kind == 'v') {
        table.row(values! {
            table_catalog: CATALOGUE,
            table_schema: relation.namespace.0,
            table_name: relation.name.as_str(),
            check_option: "NONE",
            is_updatable: "NO",
            is_insertable_into: "NO",
            is_trigger_updatable: "NO",
            is_trigger_deletable: "NO",
            is_trigger_insertable_into: "NO",
        });
    }
    batches(table)
}

/// The rows of `table_privileges` in `information_schema`: every client may read, and none may
/// write.
pub(super) fn table_privileges(schema: &SchemaRef, objects: &Objects) -> Vec<RecordBatch> {
    let mut table = TableBuilder::new(schema);
    for relation in objects.relations().filter(|relation| relation.namespace == PUBLIC) {
        table.row(values! {
            grantor: OWNER,
            grantee: "PUBLIC",
            table_catalog: CATALOGUE,
            table_schema: relation.namespace.0,
            table_name: relation.name.as_str(),
            privilege_type: "SELECT",
            is_grantable: "NO",
            with_hierarchy: "YES",
        });
    }
    batches(table)
}

pub(super) fn columns(schema: &SchemaRef, objects: &Objects) -> Vec<RecordBatch> {
    let mut table = TableBuilder::new(schema);
    for relation in objects.relations() {
        for (index, field) in relation.schema.fields().iter().enumerate() {
            let it = type_of(field);
            let (precision, radix, scale) = digits(it, field);
            table.row(values! {
                table_catalog: CATALOGUE,
                table_schema: relation.namespace.0,
                table_name: relation.name.as_str(),
                column_name: field.name().as_str(),
                ordinal_position: index as i32 + 1,
                is_nullable: if field.is_nullable() { "YES" } else { "NO" },
                data_type: if it.is_array { "ARRAY".to_owned() } else { it.display_name(None) },
                character_octet_length: octets(it),
                numeric_precision: precision,
                numeric_precision_radix: radix,
                numeric_scale: scale,
                datetime_precision: fraction_digits(it),
                udt_catalog: CATALOGUE,
                udt_schema: "pg_catalog",
                udt_name: it.name.as_str(),
                dtd_identifier: (index + 1).to_string(),
                is_self_referencing: "NO",
                is_identity: "NO",
                identity_cycle: "NO",
                is_generated: "NEVER",
                is_updatable: "NO",
            });
        }
    }
    batches(table)
}

/// Precision, radix and scale of a numeric column.
fn digits(it: &PgType, field: &Field) -> (Value, Value, Value) {
    let binary = |bits: i32, scale: Option<i32>| (Value::from(bits), Value::from(2), Value::from(scale));
    match it.oid {
        oid::INT2 => binary(16, Some(0)),
        oid::INT4 => binary(32, Some(0)),
        oid::INT8 => binary(64, Some(0)),
        oid::FLOAT4 => binary(24, None),
        oid::FLOAT8 => binary(53, None),
        oid::NUMERIC => {
            let digits = types::numeric_digits(types::modifier_of(field));
            let (precision, scale) = digits.unzip();
            (precision.into(), Value::from(10), scale.into())
        }
        _ => (Value::Null, Value::Null, Value::Null),
    }
}

/// The most bytes of a text.
fn octets(it: &PgType) -> Value {
    let is_text = [oid::TEXT, oid::VARCHAR, oid::BPCHAR].contains(&it.oid);
    Value::from(is_text.then_some(1_073_741_824))
}

/// The digits of the fraction of a second.
fn fraction_digits(it: &PgType) -> Value {
    match it.oid {
        oid::DATE => Value::from(0),
        oid::TIME | oid::TIMESTAMP | oid::TIMESTAMPTZ | oid::INTERVAL => Value::from(6),
        _ => Value::Null,
    }
}
