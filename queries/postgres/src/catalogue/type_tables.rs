//! The rows of `pg_type`, and of `pg_proc` with the I/O functions of types.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;

use super::objects::{OWNER_OID, Objects, PG_CATALOG};
use super::table::{TableBuilder, Value, batches, values};
use crate::types::{self, PgType, oid};

/// Functions that `pg_type` mentions besides the I/O functions.
const ARRAY_TYPANALYZE: u32 = 3816;
const ARRAY_SUBSCRIPT: u32 = 6179;

/// The language of built-in functions.
const INTERNAL: u32 = 12;

/// The rows of `pg_type`: one for each type.
pub(super) fn pg_type(schema: &SchemaRef) -> Vec<RecordBatch> {
    let mut table = TableBuilder::new(schema);
    for it in types::all() {
        let function = |index: usize| it.functions[index].as_ref().map_or(0, |(_, oid)| *oid);
        let has_subscripts = it.is_array || [oid::INT2VECTOR, oid::OIDVECTOR].contains(&it.oid);
        table.row(values! {
            oid: it.oid,
            typname: it.name.as_str(),
            typnamespace: PG_CATALOG.1,
            typowner: OWNER_OID,
            typlen: it.length,
            typbyval: it.by_value,
            typtype: it.kind,
            typcategory: it.category,
            typispreferred: it.is_preferred,
            typisdefined: true,
            typdelim: ',',
            typsubscript: if has_subscripts { ARRAY_SUBSCRIPT } else { 0 },
            typelem: it.element,
            typarray: it.array,
            typinput: function(0),
            typoutput: function(1),
            typreceive: function(2),
            typsend: function(3),
            typmodin: function(4),
            typmodout: function(5),
            typanalyze: if it.is_array { ARRAY_TYPANALYZE } else { 0 },
            typalign: it.align,
            typstorage: it.storage,
            typtypmod: -1,
            typcollation: it.collation,
        });
    }
    batches(table)
}

/// The rows of `pg_proc`: one for each I/O function of a type.
pub(super) fn pg_proc(schema: &SchemaRef, objects: &Objects) -> Vec<RecordBatch> {
    let mut table = TableBuilder::new(schema);
    for (function, name) in objects.functions() {
        let (returns, arguments) = signature(function);
        table.row(values! {
            oid: function,
            proname: name,
            pronamespace: PG_CATALOG.1,
            proowner: OWNER_OID,
            prolang: INTERNAL,
            procost: 1,
            prokind: 'f',
            proisstrict: true,
            provolatile: 'i',
            proparallel: 's',
            pronargs: arguments.len() as i16,
            prorettype: returns,
            proargtypes: Value::Numbers(arguments.into_iter().map(i64::from).collect()),
            prosrc: name,
        });
    }
    batches(table)
}

/// The return type and the argument types of an I/O function.
fn signature(function: u32) -> (u32, Vec<u32>) {
    const CSTRING: u32 = 2275;
    const CSTRINGS: u32 = 1263;
    const INTERNAL_STATE: u32 = 2281;
    const ANYARRAY: u32 = 2277;
    let of = |index: usize| {
        let is_its = |it: &&PgType| it.functions[index].as_ref().is_some_and(|(_, oid)| *oid == function);
        types::all().find(is_its).map(|it| if it.is_array { ANYARRAY } else { it.oid })
    };
    let takes_modifier =
        |it: u32| types::by_oid(it).is_some_and(|it| it.functions[4].is_some()) || it == ANYARRAY;
    let input = |it: u32, first: u32| {
        if takes_modifier(it) { vec![first, oid::OID, oid::INT4] } else { vec![first] }
    };
    if let Some(it) = of(0) {
        return (it, input(it, CSTRING));
    }
    if let Some(it) = of(1) {
        return (CSTRING, vec![it]);
    }
    if let Some(it) = of(2) {
        return (it, input(it, INTERNAL_STATE));
    }
    if let Some(it) = of(3) {
        return (oid::BYTEA, vec![it]);
    }
    if of(4).is_some() { (oid::INT4, vec![CSTRINGS]) } else { (CSTRING, vec![oid::INT4]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_of_types_have_the_signatures_of_postgres() {
        assert_eq!(signature(1242), (oid::BOOL, vec![2275])); // boolin
        assert_eq!(signature(1702), (2275, vec![oid::NUMERIC])); // numeric_out
        assert_eq!(signature(1701), (oid::NUMERIC, vec![2275, oid::OID, oid::INT4])); // numeric_in
        assert_eq!(signature(2415), (oid::BYTEA, vec![oid::TEXT])); // textsend
        assert_eq!(signature(750), (2277, vec![2275, oid::OID, oid::INT4])); // array_in
        assert_eq!(signature(2917), (oid::INT4, vec![1263])); // numerictypmodin
    }
}
