//! Columns of a source as columns of a payload: only what loses nothing, row by row where a value decides.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, PrimitiveArray, new_null_array};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Decimal128Type, Float32Type, Float64Type, Int32Type, Int64Type, TimeUnit,
    TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType,
    UInt64Type,
};
use tidegate_facts::FieldType;
use tidegate_facts::schema::timestamp;
use tidegate_facts::time::to_rfc3339;

use super::literal::{POWERS, within};
use super::payload::{self, Cell};

/// The times whose text has a year of four digits: 0000 to 9999.
pub const WRITABLE: std::ops::RangeInclusive<i64> = -62_167_219_200_000_000..=253_402_300_799_999_999;

/// Whether every value of a column of type `from` either is a value of `to` or can be refused by itself.
pub fn is_convertible(from: &DataType, to: FieldType) -> bool {
    if matches!(from, DataType::Null) || is_text(from) {
        return true;
    }
    match to {
        FieldType::Bool => matches!(from, DataType::Boolean),
        FieldType::Int32 | FieldType::Int64 => from.is_integer(),
        FieldType::Float64 => matches!(from, DataType::Float32 | DataType::Float64),
        FieldType::Decimal(_, scale) => matches!(from, DataType::Decimal128(_, s) if (0..=scale).contains(s)),
        FieldType::Text => false,
        FieldType::Timestamp => matches!(from, DataType::Timestamp(..)),
    }
}

/// Whether a column of this type holds texts.
pub fn is_text(from: &DataType) -> bool {
    match from {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        DataType::Dictionary(_, values) => is_text(values),
        _ => false,
    }
}

/// The column as one of type `to`. A value that does not fit becomes null, and `refuse` hears its row and why.
///
/// # Panics
/// For a column type that [`is_convertible`] refuses.
pub fn convert(column: &ArrayRef, to: FieldType, mut refuse: impl FnMut(usize, String)) -> ArrayRef {
    let from = column.data_type();
    assert!(is_convertible(from, to), "the plan lets no column of type {from} become {to}");
    if from == &DataType::Null {
        return new_null_array(&to.arrow(), column.len());
    }
    if is_text(from) {
        let texts = cast(column, &DataType::Utf8).expect("every text is UTF-8");
        return match to {
            FieldType::Text => texts,
            _ => parse(&texts, to, refuse),
        };
    }
    let mut unfit = |row: usize, found: String| refuse(row, expected(to, &found));
    match to {
        FieldType::Bool => Arc::clone(column),
        FieldType::Int32 if from == &DataType::Int32 => Arc::clone(column),
        FieldType::Int32 => match from {
            DataType::UInt64 => {
                let values = column.as_primitive::<UInt64Type>();
                each::<UInt64Type, Int32Type>(values, |v| i32::try_from(v).ok(), &mut unfit)
            }
            _ => {
                let wide = cast(column, &DataType::Int64).expect("narrower integers widen");
                each::<Int64Type, Int32Type>(wide.as_primitive(), |v| i32::try_from(v).ok(), &mut unfit)
            }
        },
        FieldType::Int64 => match from {
            DataType::UInt64 => {
                let values = column.as_primitive::<UInt64Type>();
                each::<UInt64Type, Int64Type>(values, |v| i64::try_from(v).ok(), &mut unfit)
            }
            _ => cast(column, &DataType::Int64).expect("narrower integers widen"),
        },
        FieldType::Float64 => {
            let wide = match from {
                DataType::Float32 => {
                    let narrow = column.as_primitive::<Float32Type>();
                    Arc::new(narrow.unary::<_, Float64Type>(f64::from)) as ArrayRef
                }
                _ => Arc::clone(column),
            };
            let values = wide.as_primitive::<Float64Type>();
            // Zero has no sign in the canonical form, so it has none in the column.
            if values.values().iter().all(|v| v.is_finite() && v.to_bits() != (-0.0f64).to_bits()) {
                return wide;
            }
            each::<Float64Type, Float64Type>(values, |v| v.is_finite().then_some(v + 0.0), &mut unfit)
        }
        FieldType::Decimal(precision, scale) => {
            let DataType::Decimal128(_, from_scale) = from else { unreachable!("checked above") };
            let values = column.as_primitive::<Decimal128Type>();
            let power = POWERS[usize::from((scale - from_scale).unsigned_abs())];
            let fitted = each::<Decimal128Type, Decimal128Type>(
                values,
                |v| within(v.checked_mul(power)?, precision),
                &mut |row, _| unfit(row, values.value_as_string(row)),
            );
            let fitted = fitted.as_primitive::<Decimal128Type>().clone();
            Arc::new(
                fitted
                    .with_precision_and_scale(precision, scale)
                    .expect("the schema's scale is within its digits"),
            )
        }
        FieldType::Text => unreachable!("checked above"),
        FieldType::Timestamp => moments(column, |row, found| refuse(row, expected(to, &found))),
    }
}

/// A timestamp column of any unit in microseconds; without a zone it is read as UTC.
///
/// A moment between two microseconds, or outside the years 0000 to 9999, becomes null and is refused.
pub fn moments(column: &ArrayRef, mut refuse: impl FnMut(usize, String)) -> ArrayRef {
    let DataType::Timestamp(unit, _) = column.data_type() else {
        unreachable!("the plan lets only timestamps here")
    };
    let times = match unit {
        TimeUnit::Second => {
            let values = column.as_primitive::<TimestampSecondType>();
            each::<TimestampSecondType, TimestampMicrosecondType>(
                values,
                |v| writable(v.checked_mul(1_000_000)?),
                &mut refuse,
            )
        }
        TimeUnit::Millisecond => {
            let values = column.as_primitive::<TimestampMillisecondType>();
            each::<TimestampMillisecondType, TimestampMicrosecondType>(
                values,
                |v| writable(v.checked_mul(1_000)?),
                &mut refuse,
            )
        }
        TimeUnit::Microsecond => {
            let values = column.as_primitive::<TimestampMicrosecondType>();
            if values.values().iter().all(|v| WRITABLE.contains(v)) {
                if column.data_type() == &timestamp() {
                    return Arc::clone(column);
                }
                Arc::new(values.clone())
            } else {
                each::<TimestampMicrosecondType, TimestampMicrosecondType>(values, writable, &mut refuse)
            }
        }
        TimeUnit::Nanosecond => {
            let values = column.as_primitive::<TimestampNanosecondType>();
            each::<TimestampNanosecondType, TimestampMicrosecondType>(
                values,
                |v| (v % 1_000 == 0).then_some(v / 1_000),
                &mut |row, _| {
                    let nanos = values.value(row);
                    let micros = to_rfc3339(nanos.div_euclid(1_000));
                    refuse(row, format!("{micros} and {} nanoseconds", nanos.rem_euclid(1_000)));
                },
            )
        }
    };
    Arc::new(times.as_primitive::<TimestampMicrosecondType>().clone().with_timezone("UTC"))
}

fn writable(micros: i64) -> Option<i64> {
    WRITABLE.contains(&micros).then_some(micros)
}

/// Reads each value; one that cannot be read becomes null, and `refuse` hears it.
fn each<From: ArrowPrimitiveType, To: ArrowPrimitiveType>(
    values: &PrimitiveArray<From>,
    read: impl Fn(From::Native) -> Option<To::Native>,
    refuse: &mut impl FnMut(usize, String),
) -> ArrayRef {
    let read = (0..values.len()).map(|row| {
        if values.is_null(row) {
            return None;
        }
        let value = values.value(row);
        let fitted = read(value);
        if fitted.is_none() {
            refuse(row, format!("{value:?}"));
        }
        fitted
    });
    Arc::new(read.collect::<PrimitiveArray<To>>())
}

/// Reads each text strictly as a value that is not a text.
fn parse(texts: &ArrayRef, to: FieldType, mut refuse: impl FnMut(usize, String)) -> ArrayRef {
    let texts = texts.as_string::<i32>();
    let mut column = payload::Column::new(to);
    for row in 0..texts.len() {
        let cell = if texts.is_null(row) {
            Cell::Null
        } else {
            payload::value(texts.value(row), to).unwrap_or_else(|fault| {
                refuse(row, fault.0);
                Cell::Null
            })
        };
        column.push(&cell);
    }
    column.finish()
}

fn expected(to: FieldType, found: &str) -> String {
    format!("expected {}, found {found}", payload::form(to))
}
