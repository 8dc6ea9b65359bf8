//! Converts columns of a source to payload columns: only lossless conversions, checked for each
//! value.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, PrimitiveArray, new_null_array};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Decimal128Type, Float32Type, Float64Type, Int32Type, Int64Type, TimeUnit,
    TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType,
    UInt64Type,
};
use tidegate_facts::FieldType;
use tidegate_facts::payload_schema::timestamp;
use tidegate_facts::time::to_rfc3339;

use super::number::{POWERS, within};
use super::payload::{self, Cell};

/// The times that the gate converts: those of the years 0000 to 9999, in microseconds since 1970
/// UTC.
pub const WRITABLE: std::ops::RangeInclusive<i64> = -62_167_219_200_000_000..=253_402_300_799_999_999;

/// Whether the gate can convert a column of type `from` to `to`, except for single values that are
/// rejected.
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

/// Whether a source column of this type has texts, which convert to every type.
pub fn is_text(from: &DataType) -> bool {
    match from {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        DataType::Dictionary(_, values) => is_text(values),
        _ => false,
    }
}

/// Converts a source column to the payload type `to`. A value that does not fit becomes null, and
/// `reject` is called with its row and the reason.
///
/// # Panics
/// For a column type that [`is_convertible`] refuses.
pub fn convert(column: &ArrayRef, to: FieldType, mut reject: impl FnMut(usize, String)) -> ArrayRef {
    let from = column.data_type();
    assert!(is_convertible(from, to), "the plan checks that {from} converts to {to}");
    if from == &DataType::Null {
        return new_null_array(&to.arrow(), column.len());
    }
    if is_text(from) {
        let texts = cast(column, &DataType::Utf8).expect("every text is UTF-8");
        return match to {
            FieldType::Text => texts,
            _ => parse(&texts, to, reject),
        };
    }
    let mut unfit = |row: usize, found: String| reject(row, expected(to, &found));
    match to {
        FieldType::Bool => Arc::clone(column),
        FieldType::Int32 if from == &DataType::Int32 => Arc::clone(column),
        FieldType::Int32 => match from {
            DataType::UInt64 => {
                let values = column.as_primitive::<UInt64Type>();
                convert_each::<UInt64Type, Int32Type>(values, |v| i32::try_from(v).ok(), &mut unfit)
            }
            _ => {
                let wide = cast(column, &DataType::Int64).expect("narrower integers widen");
                convert_each::<Int64Type, Int32Type>(
                    wide.as_primitive(),
                    |v| i32::try_from(v).ok(),
                    &mut unfit,
                )
            }
        },
        FieldType::Int64 => match from {
            DataType::UInt64 => {
                let values = column.as_primitive::<UInt64Type>();
                convert_each::<UInt64Type, Int64Type>(values, |v| i64::try_from(v).ok(), &mut unfit)
            }
            _ => cast(column, &DataType::Int64).expect("narrower integers widen"),
        },
        FieldType::Float64 => {
            let wide = match from {
                DataType::Float32 => {
                    let floats = column.as_primitive::<Float32Type>();
                    Arc::new(floats.unary::<_, Float64Type>(f64::from)) as ArrayRef
                }
                _ => Arc::clone(column),
            };
            let values = wide.as_primitive::<Float64Type>();
            // Zero has no sign in the canonical form, so it has none in the column.
            if values.values().iter().all(|v| v.is_finite() && v.to_bits() != (-0.0f64).to_bits()) {
                return wide;
            }
            convert_each::<Float64Type, Float64Type>(values, |v| v.is_finite().then_some(v + 0.0), &mut unfit)
        }
        FieldType::Decimal(precision, scale) => {
            let DataType::Decimal128(_, from_scale) = from else { unreachable!("checked above") };
            let values = column.as_primitive::<Decimal128Type>();
            let power = POWERS[usize::from((scale - from_scale).unsigned_abs())];
            let fitted = convert_each::<Decimal128Type, Decimal128Type>(
                values,
                |v| within(v.checked_mul(power)?, precision),
                &mut |row, _| unfit(row, values.value_as_string(row)),
            );
            let fitted = fitted.as_primitive::<Decimal128Type>().clone();
            Arc::new(
                fitted
                    .with_precision_and_scale(precision, scale)
                    .expect("the scale is at most the precision"),
            )
        }
        FieldType::Text => unreachable!("checked above"),
        FieldType::Timestamp => to_microseconds(column, |row, found| reject(row, expected(to, &found))),
    }
}

/// Converts a source's timestamp column of any unit to microseconds, UTC; a column without a zone
/// is read as UTC.
///
/// A time between two microseconds, or outside the years 0000 to 9999, becomes null, and `reject`
/// is called with its row and its text.
pub fn to_microseconds(column: &ArrayRef, mut reject: impl FnMut(usize, String)) -> ArrayRef {
    let DataType::Timestamp(unit, _) = column.data_type() else {
        unreachable!("the plan checks that it is a timestamp")
    };
    let times = match unit {
        TimeUnit::Second => {
            let values = column.as_primitive::<TimestampSecondType>();
            convert_each::<TimestampSecondType, TimestampMicrosecondType>(
                values,
                |v| writable(v.checked_mul(1_000_000)?),
                &mut reject,
            )
        }
        TimeUnit::Millisecond => {
            let values = column.as_primitive::<TimestampMillisecondType>();
            convert_each::<TimestampMillisecondType, TimestampMicrosecondType>(
                values,
                |v| writable(v.checked_mul(1_000)?),
                &mut reject,
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
                convert_each::<TimestampMicrosecondType, TimestampMicrosecondType>(
                    values,
                    writable,
                    &mut reject,
                )
            }
        }
        TimeUnit::Nanosecond => {
            let values = column.as_primitive::<TimestampNanosecondType>();
            convert_each::<TimestampNanosecondType, TimestampMicrosecondType>(
                values,
                |v| (v % 1_000 == 0).then_some(v / 1_000),
                &mut |row, _| {
                    let nanos = values.value(row);
                    let micros = to_rfc3339(nanos.div_euclid(1_000));
                    reject(row, format!("{micros} and {} nanoseconds", nanos.rem_euclid(1_000)));
                },
            )
        }
    };
    Arc::new(times.as_primitive::<TimestampMicrosecondType>().clone().with_timezone("UTC"))
}

fn writable(micros: i64) -> Option<i64> {
    WRITABLE.contains(&micros).then_some(micros)
}

/// Converts each value; one that cannot be converted becomes null, and `reject` is called.
fn convert_each<From: ArrowPrimitiveType, To: ArrowPrimitiveType>(
    values: &PrimitiveArray<From>,
    convert: impl Fn(From::Native) -> Option<To::Native>,
    reject: &mut impl FnMut(usize, String),
) -> ArrayRef {
    let converted = (0..values.len()).map(|row| {
        if values.is_null(row) {
            return None;
        }
        let value = values.value(row);
        let converted = convert(value);
        if converted.is_none() {
            reject(row, format!("{value:?}"));
        }
        converted
    });
    Arc::new(converted.collect::<PrimitiveArray<To>>())
}

/// Parses each text strictly as a value of a type other than text.
fn parse(texts: &ArrayRef, to: FieldType, mut reject: impl FnMut(usize, String)) -> ArrayRef {
    let texts = texts.as_string::<i32>();
    let mut column = payload::ColumnBuilder::new(to);
    for row in 0..texts.len() {
        let cell = if texts.is_null(row) {
            Cell::Null
        } else {
            payload::value(texts.value(row), to).unwrap_or_else(|error| {
                reject(row, error.0);
                Cell::Null
            })
        };
        column.push(&cell);
    }
    column.finish()
}

fn expected(to: FieldType, found: &str) -> String {
    format!("expected {}, found {found}", payload::description(to))
}
