//! The rows of `pg_database`, `pg_namespace`, `pg_roles` and of other tables that describe the
//! whole server.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use tidegate_queries::CATALOGUE;

use super::objects::{NAMESPACES, OWNER, OWNER_OID, PG_CATALOG};
use super::table::{TableBuilder, batches, values};

/// The number of the encoding UTF-8 in `pg_database`.
pub(super) const UTF8: i32 = 6;

const LOCALE: &str = "C.UTF-8";
const DEFAULT_TABLESPACE: u32 = 1663;

/// The oid of the database. It lies below those of tables of users.
const DATABASE: u32 = 5;

pub(super) fn pg_database(schema: &SchemaRef) -> Vec<RecordBatch> {
    let mut table = TableBuilder::new(schema);
    table.row(values! {
        oid: DATABASE,
        datname: CATALOGUE,
        datdba: OWNER_OID,
        encoding: UTF8,
        datlocprovider: 'c',
        datallowconn: true,
        datconnlimit: -1,
        dattablespace: DEFAULT_TABLESPACE,
        datcollate: LOCALE,
        datctype: LOCALE,
    });
    batches(table)
}

pub(super) fn pg_namespace(schema: &SchemaRef) -> Vec<RecordBatch> {
    let mut table = TableBuilder::new(schema);
    for (name, oid) in NAMESPACES {
        table.row(values! { oid: oid, nspname: name, nspowner: OWNER_OID });
    }
    batches(table)
}

pub(super) fn pg_tablespace(schema: &SchemaRef) -> Vec<RecordBatch> {
    let mut table = TableBuilder::new(schema);
    for (oid, name) in [(DEFAULT_TABLESPACE, "pg_default"), (1664, "pg_global")] {
        table.row(values! { oid: oid, spcname: name, spcowner: OWNER_OID });
    }
    batches(table)
}

/// The rows of `pg_authid`: the role that owns all objects. It has no rights to write either.
pub(super) fn pg_authid(schema: &SchemaRef) -> Vec<RecordBatch> {
    let mut table = TableBuilder::new(schema);
    table.row(values! {
        oid: OWNER_OID,
        rolname: OWNER,
        rolinherit: true,
        rolcanlogin: true,
        rolconnlimit: -1,
    });
    batches(table)
}

pub(super) fn pg_roles(schema: &SchemaRef) -> Vec<RecordBatch> {
    let mut table = TableBuilder::new(schema);
    table.row(values! {
        rolname: OWNER,
        rolsuper: false,
        rolinherit: true,
        rolcreaterole: false,
        rolcreatedb: false,
        rolcanlogin: true,
        rolreplication: false,
        rolconnlimit: -1,
        rolpassword: "********",
        rolbypassrls: false,
        oid: OWNER_OID,
    });
    batches(table)
}

/// The rows of `pg_user` and `pg_shadow`: the role that owns all objects.
pub(super) fn pg_user(schema: &SchemaRef) -> Vec<RecordBatch> {
    let mut table = TableBuilder::new(schema);
    table.row(values! {
        usename: OWNER,
        usesysid: OWNER_OID,
        usecreatedb: false,
        usesuper: false,
        userepl: false,
        usebypassrls: false,
        passwd: "********",
    });
    batches(table)
}

pub(super) fn pg_am(schema: &SchemaRef) -> Vec<RecordBatch> {
    let mut table = TableBuilder::new(schema);
    table.row(values! { oid: 2u32, amname: "heap", amhandler: 3u32, amtype: 't' });
    batches(table)
}

pub(super) fn pg_language(schema: &SchemaRef) -> Vec<RecordBatch> {
    let mut table = TableBuilder::new(schema);
    table.row(values! { oid: 12u32, lanname: "internal", lanowner: OWNER_OID, lanvalidator: 2246u32 });
    batches(table)
}

/// The names of the collations in `pg_collation`. Each compares texts by their bytes.
pub(crate) const COLLATIONS: [&str; 3] = ["default", "C", "POSIX"];

pub(super) fn pg_collation(schema: &SchemaRef) -> Vec<RecordBatch> {
    let mut table = TableBuilder::new(schema);
    let oids = [(100, 'd', None), (950, 'c', Some("C")), (951, 'c', Some("POSIX"))];
    for (name, (oid, provider, locale)) in COLLATIONS.into_iter().zip(oids) {
        table.row(values! {
            oid: oid,
            collname: name,
            collnamespace: PG_CATALOG.1,
            collowner: OWNER_OID,
            collprovider: provider,
            collisdeterministic: true,
            collencoding: -1,
            collcollate: locale,
            collctype: locale,
        });
    }
    batches(table)
}
