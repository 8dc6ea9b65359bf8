//! Array functions that DataFusion does not have: `array_lower`, `array_upper` and subscripts.

use arrow::array::Array;
use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;

use super::scalar::{Function, number};

pub(super) fn all() -> Vec<Function> {
    vec![
        bound("array_lower", |_| 1),
        bound("array_upper", |length| length),
        Function::new("array_subscripts", (2, 2), DataType::new_list(DataType::Int32, true), |args, _| {
            let count = if number(&args[1])? == 1 { length(&args[0]).unwrap_or(0) } else { 0 };
            let subscripts: Vec<ScalarValue> = (1..=count).map(ScalarValue::from).collect();
            Ok(ScalarValue::List(ScalarValue::new_list(&subscripts, &DataType::Int32, true)))
        }),
    ]
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
