//! The system functions of Postgres that clients call.

mod arrays;
mod constants;
mod objects;
mod scalar;
mod session;
mod texts;

use std::sync::Arc;

use datafusion::logical_expr::ScalarUDF;

use super::objects::Objects;
pub(super) use objects::{cast_from_object, cast_to_object};
pub(super) use scalar::Function;

/// All system functions of the catalogue.
pub(super) fn all(objects: &Arc<Objects>) -> Vec<ScalarUDF> {
    let functions = constants::all()
        .into_iter()
        .chain(session::all())
        .chain(objects::all(objects))
        .chain(arrays::all())
        .chain(texts::all());
    functions.map(Function::udf).collect()
}
