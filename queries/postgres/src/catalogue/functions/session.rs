//! Functions about the connection and the server, such as `current_user`, `current_setting` and
//! `version`.

use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use tidegate_queries::CATALOGUE;

use super::scalar::{Function, text};
use crate::catalogue::objects::{PG_CATALOG, PUBLIC};
use crate::catalogue::session_options::SessionOptions;
use crate::error::SqlError;
use crate::session::SERVER_VERSION;

pub(super) fn all() -> Vec<Function> {
    let mut all = vec![
        fixed("version", &format!("PostgreSQL {SERVER_VERSION}")),
        fixed("current_database", CATALOGUE).returning("name"),
        fixed("current_catalog", CATALOGUE).returning("name"),
        fixed("current_schema", PUBLIC.0).returning("name"),
        fixed("pg_client_encoding", "UTF8").returning("name"),
        fixed("getdatabaseencoding", "UTF8").returning("name"),
        Function::new("current_schemas", (1, 1), DataType::new_list(DataType::Utf8, true), |args, _| {
            let schemas: &[&str] = match &args[0] {
                ScalarValue::Boolean(Some(true)) => &[PG_CATALOG.0, PUBLIC.0],
                _ => &[PUBLIC.0],
            };
            let schemas: Vec<ScalarValue> = schemas.iter().map(|name| ScalarValue::from(*name)).collect();
            Ok(ScalarValue::List(ScalarValue::new_list(&schemas, &DataType::Utf8, true)))
        }),
        Function::new("pg_backend_pid", (0, 0), DataType::Int32, |_, options| {
            Ok(ScalarValue::from(SessionOptions::of(options).process))
        }),
        Function::new("current_setting", (1, 2), DataType::Utf8, |args, options| {
            let name = text(&args[0])?;
            let may_be_missing = matches!(args.get(1), Some(ScalarValue::Boolean(Some(true))));
            match SessionOptions::of(options).settings.show(name) {
                None if may_be_missing => Ok(ScalarValue::Utf8(None)),
                None => {
                    let what = format!("unrecognized configuration parameter \"{name}\"");
                    Err(SqlError::new("42704", what))
                }
                value => Ok(ScalarValue::Utf8(value)),
            }
        }),
    ];
    for name in ["current_user", "session_user", "current_role", "user"] {
        let user = Function::new(name, (0, 0), DataType::Utf8, |_, options| {
            Ok(ScalarValue::from(SessionOptions::of(options).user))
        });
        all.push(user.returning("name"));
    }
    all
}

fn fixed(name: &'static str, value: &str) -> Function {
    let value = ScalarValue::from(value);
    Function::new(name, (0, 0), DataType::Utf8, move |_, _| Ok(value.clone()))
}
