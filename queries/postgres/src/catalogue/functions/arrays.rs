//! Array functions that DataFusion does not have: `array_lower`, `array_upper`, subscripts and
//! `_pg_expandarray`.

use arrow::array::Array;
use arrow::datatypes::{DataType, Field};
use datafusion::common::ScalarValue;

use super::scalar::{Function, number};
use crate::error::SqlError;

pub(super) fn all() -> Vec<Function> {
    vec![
        bound("array_lower", |_| 1),
        bound("array_upper", |length| length),
        Function::new("array_subscripts", (2, 2), DataType::new_list(DataType::Int32, true), |args, _| {
            let count = if number(&args[1])? == 1 { length(&args[0]).unwrap_or(0) } else { 0 };
            let subscripts: Vec<ScalarValue> = (1..=count).map(ScalarValue::from).collect();
            Ok(ScalarValue::List(ScalarValue::new_list(&subscripts, &DataType::Int32, true)))
        }),
        expand_array(),
    ]
}

/// The function that JDBC calls for each column of an index. It returns several rows in Postgres;
/// there are no indexes, so here it is never called for a row.
fn expand_array() -> Function {
    let fields = [("x", DataType::Int16), ("n", DataType::Int32)];
    let fields = fields.map(|(name, data_type)| Field::new(name, data_type, true));
    Function::new("_pg_expandarray", (1, 1), DataType::Struct(fields.to_vec().into()), |_, _| {
        Err(SqlError::new("0A000", "_pg_expandarray() is supported for columns of indexes only"))
    })
}

/// A bound of the first dimension; null for an empty array and for other dimensions.
fn bound(name: &'static str, of_length: fn(i32) -> i32) -> Function {
    Function::new(name, (2, 2), DataType::Int32, move |args, _| {
        let length = if number(&args[1])? == 1 { length(&args[0]) } else { None };
        Ok(ScalarValue::Int32(length.map(of_length)))
    })
}

/// The number of elements of a list; `None` if it has none, or the value is not a list.
fn length(value: &ScalarValue) -> Option<i32> {
    let length = match value {
        ScalarValue::List(list) => list.value(0).len(),
        ScalarValue::LargeList(list) => list.value(0).len(),
        ScalarValue::FixedSizeList(list) => list.value(0).len(),
        _ => 0,
    };
    i32::try_from(length).ok().filter(|length| *length > 0)
}
