//! Functions that clients call to find out whom they speak with, and what psql calls for its lists.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility, create_udf,
};
use datafusion::prelude::SessionContext;

/// The version of Postgres whose protocol and functions are spoken.
pub(super) const SERVER_VERSION: &str = concat!("16.6 (Tidegate ", env!("CARGO_PKG_VERSION"), ")");

/// What `version()` says: the protocol's version in the words of Postgres, and who speaks it.
const VERSION: &str = concat!("PostgreSQL 16.6 (Tidegate ", env!("CARGO_PKG_VERSION"), ")");

/// Who owns everything.
const OWNER: &str = "tidegate";

/// What psql asks of objects that there are none of here, or of what no object here has.
const WITHOUT: [&str; 13] = [
    "col_description",
    "obj_description",
    "shobj_description",
    "pg_get_function_arguments",
    "pg_get_function_identity_arguments",
    "pg_get_function_result",
    "pg_get_function_sqlbody",
    "pg_get_viewdef",
    "pg_size_pretty",
    "pg_table_size",
    "pg_database_size",
    "pg_tablespace_location",
    "pg_get_functiondef",
];

/// Whether something can be named without its schema.
const VISIBLE: [&str; 3] = ["pg_function_is_visible", "pg_type_is_visible", "pg_operator_is_visible"];

/// Adds what `datafusion-postgres` lacks.
pub(super) fn add(context: &SessionContext) {
    let said =
        |value: ScalarValue| Arc::new(move |_: &[ColumnarValue]| Ok(ColumnarValue::Scalar(value.clone())));
    let (text, immutable) = (DataType::Utf8, Volatility::Immutable);
    context.register_udf(create_udf("version", Vec::new(), text.clone(), immutable, said(VERSION.into())));
    // SQLAlchemy looks for types that extensions bring; there are none here.
    let none = said(ScalarValue::Int32(None));
    context.register_udf(create_udf("to_regtype", vec![text], DataType::Int32, immutable, none));
    for name in WITHOUT {
        context.register_udf(Always::says(name, ScalarValue::Utf8(None)));
    }
    for name in VISIBLE {
        context.register_udf(Always::says(name, ScalarValue::Boolean(Some(true))));
    }
    context.register_udf(Always::says("pg_get_userbyid", OWNER.into()));
}

/// A function that says the same of whatever it is asked.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Always {
    name: &'static str,
    value: ScalarValue,
    signature: Signature,
}

impl Always {
    fn says(name: &'static str, value: ScalarValue) -> ScalarUDF {
        ScalarUDF::from(Always { name, value, signature: Signature::variadic_any(Volatility::Immutable) })
    }
}

impl ScalarUDFImpl for Always {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> DataFusionResult<DataType> {
        Ok(self.value.data_type())
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> DataFusionResult<ColumnarValue> {
        Ok(ColumnarValue::Scalar(self.value.clone()))
    }
}
