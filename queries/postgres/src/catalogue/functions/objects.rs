//! Functions that convert between oids and names of objects, such as `format_type`, `to_regclass`
//! and the casts to `regclass`.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::logical_expr::ScalarUDF;

use super::scalar::{Function, number, object_id, text};
use crate::catalogue::objects::Objects;
use crate::types::{self, oid};

/// The types that show oids as names: the oid of the type, its name, and the names of the functions
/// that cast to it, cast it to text, and find an object or return null.
const NAMED: [(u32, &str, &str, &str, &str); 5] = [
    (oid::REGCLASS, "regclass", "regclass", "regclass_name", "to_regclass"),
    (oid::REGTYPE, "regtype", "regtype", "regtype_name", "to_regtype"),
    (oid::REGPROC, "regproc", "regproc", "regproc_name", "to_regproc"),
    (oid::REGNAMESPACE, "regnamespace", "regnamespace", "regnamespace_name", "to_regnamespace"),
    (oid::REGROLE, "regrole", "regrole", "regrole_name", "to_regrole"),
];

pub(super) fn all(objects: &Arc<Objects>) -> Vec<Function> {
    let mut all = vec![
        Function::new("format_type", (2, 2), DataType::Utf8, |args, _| {
            if args[0].is_null() {
                return Ok(ScalarValue::Utf8(None));
            }
            let modifier = match &args[1] {
                modifier if modifier.is_null() => None,
                modifier => i32::try_from(number(modifier)?).ok(),
            };
            Ok(ScalarValue::from(match (object_id(&args[0])?, modifier) {
                (0, _) => "-".to_owned(),
                (oid, modifier) => {
                    types::by_oid(oid).map_or_else(|| "???".to_owned(), |it| it.display_name(modifier))
                }
            }))
        })
        .for_nulls(),
    ];
    let shared = Arc::clone(objects);
    all.push(Function::new("pg_table_is_visible", (1, 1), DataType::Boolean, move |args, _| {
        Ok(ScalarValue::Boolean(shared.is_visible(object_id(&args[0])?)))
    }));
    let shared = Arc::clone(objects);
    all.push(
        Function::new("pg_get_userbyid", (1, 1), DataType::Utf8, move |args, _| {
            let owner = object_id(&args[0])?;
            let name = shared.name_of(oid::REGROLE, owner);
            Ok(ScalarValue::from(name.unwrap_or_else(|| format!("unknown (OID={owner})"))))
        })
        .returning("name"),
    );
    for (kind, name, _, _, lookup) in NAMED {
        all.push(to_object(objects, kind, name));
        all.push(name_of(objects, kind));
        let shared = Arc::clone(objects);
        let lookup = Function::new(lookup, (1, 1), DataType::UInt32, move |args, _| {
            Ok(ScalarValue::UInt32(shared.find(kind, text(&args[0])?).ok()))
        });
        all.push(lookup.returning(name));
    }
    all
}

/// The function that casts to a type such as `regclass`.
pub(in crate::catalogue) fn cast_to_object(objects: &Arc<Objects>, kind: u32) -> Option<ScalarUDF> {
    let (kind, name, ..) = NAMED.into_iter().find(|(own, ..)| *own == kind)?;
    Some(to_object(objects, kind, name).udf())
}

/// The function that casts such a type to text.
pub(in crate::catalogue) fn cast_from_object(objects: &Arc<Objects>, kind: u32) -> Option<ScalarUDF> {
    let (kind, ..) = NAMED.into_iter().find(|(own, ..)| *own == kind)?;
    Some(name_of(objects, kind).udf())
}

/// Converts a name or a number to an oid.
fn to_object(objects: &Arc<Objects>, kind: u32, name: &'static str) -> Function {
    let shared = Arc::clone(objects);
    let find = Function::new(name, (1, 1), DataType::UInt32, move |args, _| {
        let found = match args[0].try_as_str().flatten() {
            Some(text) => shared.find(kind, text)?,
            None => object_id(&args[0])?,
        };
        Ok(ScalarValue::from(found))
    });
    find.returning(name)
}

fn name_of(objects: &Arc<Objects>, kind: u32) -> Function {
    let shared = Arc::clone(objects);
    let (_, _, _, name, _) = NAMED.into_iter().find(|(own, ..)| *own == kind).expect("one of them");
    Function::new(name, (1, 1), DataType::Utf8, move |args, _| {
        Ok(ScalarValue::from(shared.show(kind, object_id(&args[0])?)))
    })
}
