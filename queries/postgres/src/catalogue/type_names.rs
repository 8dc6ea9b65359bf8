//! The type planner for DataFusion.

use std::sync::Arc;

use arrow::datatypes::{Field, FieldRef};
use datafusion::error::Result;
use datafusion::logical_expr::planner::TypePlanner;
use datafusion::sql::sqlparser::ast::DataType as SqlType;

use super::objects::PG_CATALOG;
use crate::types::{self, oid};

/// Plans the names of Postgres types in casts.
#[derive(Debug)]
pub(super) struct TypeNames;

impl TypePlanner for TypeNames {
    fn plan_type_field(&self, sql_type: &SqlType) -> Result<Option<FieldRef>> {
        let name = match sql_type {
            SqlType::Regclass => "regclass".to_owned(),
            SqlType::Custom(name, modifiers) if modifiers.is_empty() => {
                let parts: Vec<_> = name.0.iter().filter_map(|part| part.as_ident()).collect();
                let lower = |index: usize| parts[index].value.to_lowercase();
                match parts.len() {
                    1 => lower(0),
                    2 if lower(0) == PG_CATALOG.0 => lower(1),
                    _ => return Ok(None),
                }
            }
            _ => return Ok(None),
        };
        let name = match name.as_str() {
            "integer" => "int4",
            "bigint" => "int8",
            "smallint" => "int2",
            "boolean" => "bool",
            name => name,
        };
        let it = types::by_name(name).filter(|it| it.kind == 'b' && !lacks_arrow_type(it.oid));
        Ok(it.map(|it| {
            let field = Field::new("", types::arrow_type(it), true);
            let is_plain = types::oid_of(&field) == it.oid;
            Arc::new(if is_plain { field } else { types::marked(field, &it.name) })
        }))
    }
}

/// Whether [`types::arrow_type`] has only text for a type that is none.
fn lacks_arrow_type(oid: u32) -> bool {
    [oid::NUMERIC, oid::TIME, oid::INTERVAL, 1266, 2950].contains(&oid)
        || types::by_oid(oid).is_some_and(|it| it.is_array && lacks_arrow_type(it.element))
}
