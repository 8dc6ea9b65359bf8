//! The rows of `pg_class`, `pg_attribute`, `pg_tables` and `pg_views`.

use arrow::array::RecordBatch;
use arrow::datatypes::{Field, SchemaRef};

use super::objects::{OWNER, OWNER_OID, Objects, PUBLIC};
use super::table::{TableBuilder, batches, values};
use crate::types::{self, PgType, oid};

/// The oid of the access method of tables.
const HEAP: u32 = 2;

/// The rows of `pg_class`: one for each table and view.
pub(super) fn pg_class(schema: &SchemaRef, objects: &Objects) -> Vec<RecordBatch> {
    let mut table = TableBuilder::new(schema);
    for relation in objects.relations() {
        let is_table = relation.kind == 'r';
        table.row(values! {
            oid: relation.oid,
            relname: relation.name.as_str(),
            relnamespace: relation.namespace.1,
            relowner: OWNER_OID,
            relam: if is_table { HEAP } else { 0 },
            reltuples: -1,
            relpersistence: 'p',
            relkind: relation.kind,
            relnatts: relation.schema.fields().len() as i16,
            relispopulated: true,
            relreplident: if relation.namespace == PUBLIC { 'd' } else { 'n' },
        });
    }
    batches(table)
}

/// The rows of `pg_attribute`: one for each column of each table and view.
pub(super) fn pg_attribute(schema: &SchemaRef, objects: &Objects) -> Vec<RecordBatch> {
    let mut table = TableBuilder::new(schema);
    for relation in objects.relations() {
        for (index, field) in relation.schema.fields().iter().enumerate() {
            let it = type_of(field);
            table.row(values! {
                attrelid: relation.oid,
                attname: field.name().as_str(),
                atttypid: it.oid,
                attlen: it.length,
                attnum: index as i16 + 1,
                attcacheoff: -1,
                atttypmod: types::modifier_of(field),
                attndims: i16::from(it.is_array),
                attbyval: it.by_value,
                attalign: it.align,
                attstorage: it.storage,
                attnotnull: !field.is_nullable(),
                attislocal: true,
                attstattarget: -1,
                attcollation: it.collation,
            });
        }
    }
    batches(table)
}

/// The rows of `pg_tables`: one for each table.
pub(super) fn pg_tables(schema: &SchemaRef, objects: &Objects) -> Vec<RecordBatch> {
    let mut table = TableBuilder::new(schema);
    for relation in objects.relations().filter(|relation| relation.kind == 'r') {
        table.row(values! {
            schemaname: relation.namespace.0,
            tablename: relation.name.as_str(),
            tableowner: OWNER,
            hasindexes: false,
            hasrules: false,
            hastriggers: false,
            rowsecurity: false,
        });
    }
    batches(table)
}

/// The rows of `pg_views`: one for each view.
pub(super) fn pg_views(schema: &SchemaRef, objects: &Objects) -> Vec<RecordBatch> {
    let mut table = TableBuilder::new(schema);
    for relation in objects.relations().filter(|relation| relation.kind == 'v') {
        table.row(values! {
            schemaname: relation.namespace.0,
            viewname: relation.name.as_str(),
            viewowner: OWNER,
        });
    }
    batches(table)
}

/// The Postgres type of a column of a table or view.
pub(super) fn type_of(field: &Field) -> &'static PgType {
    let found = types::by_oid(types::oid_of(field)).or_else(|| types::by_oid(oid::TEXT));
    found.expect("text is built in")
}
