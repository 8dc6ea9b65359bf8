//! Functions that drivers call to find out whom they speak with.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{ColumnarValue, Volatility, create_udf};
use datafusion::prelude::SessionContext;

/// What `version()` says: the protocol's version in the words of Postgres, and who speaks it.
const VERSION: &str = concat!("PostgreSQL 16.6 (Tidegate ", env!("CARGO_PKG_VERSION"), ")");

/// Adds what `datafusion-postgres` lacks.
pub(super) fn add(context: &SessionContext) {
    let said =
        |value: ScalarValue| Arc::new(move |_: &[ColumnarValue]| Ok(ColumnarValue::Scalar(value.clone())));
    let (text, immutable) = (DataType::Utf8, Volatility::Immutable);
    context.register_udf(create_udf("version", Vec::new(), text.clone(), immutable, said(VERSION.into())));
    // SQLAlchemy looks for types that extensions bring; there are none here.
    let none = said(ScalarValue::Int32(None));
    context.register_udf(create_udf("to_regtype", vec![text], DataType::Int32, immutable, none));
}
