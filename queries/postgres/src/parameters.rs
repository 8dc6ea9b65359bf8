//! The parameters of a statement: their types, and the values that a client binds to them.
//!
//! A parameter has the type of the expression that it is compared with. Without one it has the type
//! that the client names, or else `text`. A client may send a value of another type: drivers choose
//! the type of a number by its size alone. So a value is read as the type that was sent, and
//! converted to the type of the parameter only if the conversion is exact. Otherwise it keeps its
//! own type: `amount > 100.005` then compares more digits, as it does when the number is written in
//! the statement. A text is read like a literal of the parameter's type.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, IntervalUnit, TimeUnit};
use bytes::Bytes;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{DataFusionError, ParamValues, ScalarValue};
use datafusion::logical_expr::LogicalPlan;
use datafusion::logical_expr::expr::{Cast, Placeholder};
use datafusion::prelude::Expr;
use tidegate_facts::payload_schema::timestamp;

use crate::bytea;
use crate::encoding::{EPOCH_DAYS, EPOCH_MICROS, Formats, Numeric, read_numeric};
use crate::error::SqlError;
use crate::rewrite::array_elements;
use crate::types::{self, oid};

/// The most digits of a decimal.
const DIGITS_MAX: u8 = 38;

/// The most parameters of a statement.
const PARAMETERS_MAX: usize = u16::MAX as usize;

/// Gives the parameters that have no type yet the type that the client names by its oid, or `text`.
pub(crate) fn typed(plan: LogicalPlan, hints: &[u32]) -> Result<LogicalPlan, SqlError> {
    let of = |id: &str| {
        let hint = number(id).and_then(|number| hints.get(number - 1));
        Arc::new(Field::new(id, hint.and_then(|hint| named(*hint)).unwrap_or(DataType::Utf8), true))
    };
    let typed = plan.transform_up_with_subqueries(|plan| {
        let typed = plan.map_expressions(|expr| {
            expr.transform_down(|expr| match expr {
                // A parameter inside a cast has the type of the cast.
                Expr::Cast(Cast { expr: ref inner, .. }) if matches!(**inner, Expr::Placeholder(_)) => {
                    Ok(Transformed::new(expr, false, TreeNodeRecursion::Jump))
                }
                Expr::Placeholder(Placeholder { id, field: None }) => {
                    let field = Some(of(&id));
                    Ok(Transformed::yes(Expr::Placeholder(Placeholder { id, field })))
                }
                other => Ok(Transformed::no(other)),
            })
        })?;
        if typed.transformed { typed.map_data(LogicalPlan::recompute_schema) } else { Ok(typed) }
    });
    typed.map(|typed| typed.data).map_err(|error| SqlError::of_plan(&error))
}

/// The Arrow type for the oid that a client names.
fn named(hint: u32) -> Option<DataType> {
    Some(match hint {
        oid::BOOL => DataType::Boolean,
        oid::INT2 => DataType::Int16,
        oid::INT4 => DataType::Int32,
        oid::INT8 => DataType::Int64,
        oid::FLOAT4 => DataType::Float32,
        oid::FLOAT8 => DataType::Float64,
        oid::NUMERIC => DataType::Decimal128(DIGITS_MAX, 10),
        oid::DATE => DataType::Date32,
        oid::TIMESTAMP => DataType::Timestamp(TimeUnit::Microsecond, None),
        oid::TIMESTAMPTZ => timestamp(),
        oid::BYTEA => DataType::Binary,
        other => {
            let array = types::by_oid(other).filter(|it| it.is_array)?;
            DataType::new_list(named(array.element).unwrap_or(DataType::Utf8), true)
        }
    })
}

/// The number of a parameter: 1 for `$1`.
fn number(id: &str) -> Option<usize> {
    id.strip_prefix('$')?.parse().ok().filter(|number| *number > 0)
}

/// The fields that the parameters of a plan are compared with, in the order of the parameters.
pub(crate) fn fields(plan: &LogicalPlan) -> Result<Vec<FieldRef>, SqlError> {
    let mut known: BTreeMap<usize, Option<FieldRef>> = BTreeMap::new();
    let walked = plan.apply_with_subqueries(|plan| {
        plan.apply_expressions(|expr| {
            expr.apply(|expr| {
                let (id, field) = match expr {
                    Expr::Cast(cast) => match cast.expr.as_ref() {
                        Expr::Placeholder(Placeholder { id, field: None }) => (id, Some(&cast.field)),
                        _ => return Ok(TreeNodeRecursion::Continue),
                    },
                    Expr::Placeholder(Placeholder { id, field }) => (id, field.as_ref()),
                    _ => return Ok(TreeNodeRecursion::Continue),
                };
                if let Some(number) = number(id) {
                    let known = known.entry(number).or_default();
                    *known = known.take().or_else(|| field.cloned());
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    });
    walked.map_err(|error: DataFusionError| SqlError::of_plan(&error))?;
    let last = known.last_key_value().map_or(0, |(number, _)| *number);
    if last > PARAMETERS_MAX {
        let what = format!("there is a parameter ${last}, and at most {PARAMETERS_MAX} may be");
        return Err(SqlError::new("54000", what));
    }
    let text = |number: usize| Arc::new(Field::new(format!("${number}"), DataType::Utf8, true));
    Ok((1..=last).map(|number| known.remove(&number).flatten().unwrap_or_else(|| text(number))).collect())
}

/// The oids of the parameter types for `ParameterDescription`: the types that the client named,
/// else those of the fields.
pub(crate) fn described(fields: &[FieldRef], hints: &[u32]) -> Vec<u32> {
    let count = fields.len().max(hints.len());
    let one = |index: usize| match hints.get(index) {
        Some(hint) if is_named(*hint) => *hint,
        _ => fields.get(index).map_or(oid::TEXT, |field| types::oid_of(field)),
    };
    (0..count).map(one).collect()
}

/// Whether a client names a type for a parameter; 0 and `unknown` leave it to the server.
fn is_named(hint: u32) -> bool {
    hint != 0 && hint != oid::UNKNOWN
}

/// Reads the values of a `Bind` message.
///
/// # Errors
/// 08P01 when there are more or fewer values than parameters; 22P02 for a text and 22P03 for bytes
/// that are not a value of the type; 22021 for a text that is not UTF-8; 0A000 for a type that is
/// not read in binary.
pub(crate) fn values(
    given: &[Option<Bytes>],
    formats: &[i16],
    fields: &[FieldRef],
    hints: &[u32],
) -> Result<ParamValues, SqlError> {
    let described = described(fields, hints);
    if given.len() != described.len() {
        let what =
            format!("the statement has {} parameters, and {} values came", described.len(), given.len());
        return Err(SqlError::new("08P01", what));
    }
    let formats = Formats::read(formats, given.len(), "parameters")?;
    let value = |index: usize| {
        let field = fields.get(index);
        let Some(bytes) = &given[index] else {
            let null = field.and_then(|field| ScalarValue::try_from(plain(field.data_type())).ok());
            return Ok(null.unwrap_or(ScalarValue::Null));
        };
        let is_binary = formats.is_binary(index);
        // A text without a named type is read like a literal of the parameter.
        let sent = match hints.get(index) {
            Some(hint) if is_named(*hint) => *hint,
            _ if is_binary => described[index],
            _ => oid::TEXT,
        };
        let read = if is_binary { of_binary(sent, bytes) } else { of_text(sent, bytes) };
        let value = read.map_err(|error| error.of_parameter(index, sent))?;
        let Some(field) = field else { return Ok(value) };
        fitted(value, field.data_type())
            .map_err(|text| Unreadable::Text(text).of_parameter(index, types::oid_of(field)))
    };
    let values = (0..given.len()).map(value).collect::<Result<Vec<ScalarValue>, SqlError>>()?;
    Ok(ParamValues::from(values))
}

/// Why a value cannot be read.
enum Unreadable {
    /// A text that is not a value of the type.
    Text(String),
    /// Bytes that are not a value of the type.
    Bytes,
    /// A type that the server does not read in binary.
    Type,
    /// A text that is not UTF-8.
    Encoding,
}

impl Unreadable {
    fn of_parameter(self, index: usize, oid: u32) -> SqlError {
        let kind = types::by_oid(oid).map_or_else(|| format!("type {oid}"), |it| it.name.clone());
        let number = index + 1;
        match self {
            Unreadable::Text(text) => {
                SqlError::new("22P02", format!("parameter ${number} is `{text}`, which is no {kind}"))
            }
            Unreadable::Bytes => {
                SqlError::new("22P03", format!("parameter ${number} is no {kind} in the binary format"))
            }
            Unreadable::Type => SqlError::new(
                "0A000",
                format!("parameter ${number} of type {kind} is not read in binary; send it as text"),
            ),
            Unreadable::Encoding => {
                SqlError::new("22021", format!("parameter ${number} is a text that is not UTF-8"))
            }
        }
    }
}

fn utf8(bytes: &[u8]) -> Result<&str, Unreadable> {
    std::str::from_utf8(bytes).map_err(|_| Unreadable::Encoding)
}

/// Reads a value in the text format.
fn of_text(sent: u32, bytes: &[u8]) -> Result<ScalarValue, Unreadable> {
    let text = utf8(bytes)?;
    let no = || Unreadable::Text(text.to_owned());
    let cast = |to: &DataType| ScalarValue::from(text).cast_to(to).map_err(|_| no());
    let trimmed = text.trim();
    match sent {
        oid::BOOL => bool_of(trimmed).map(ScalarValue::from).ok_or_else(no),
        oid::INT2 => trimmed.parse::<i16>().map(ScalarValue::from).map_err(|_| no()),
        oid::INT4 => trimmed.parse::<i32>().map(ScalarValue::from).map_err(|_| no()),
        oid::INT8 => trimmed.parse::<i64>().map(ScalarValue::from).map_err(|_| no()),
        oid::FLOAT4 => trimmed.parse::<f32>().map(ScalarValue::from).map_err(|_| no()),
        oid::FLOAT8 => trimmed.parse::<f64>().map(ScalarValue::from).map_err(|_| no()),
        oid::NUMERIC => number_of(text).ok_or_else(no),
        oid::BYTEA => bytea::of_hex(text).map(|bytes| ScalarValue::Binary(Some(bytes))).ok_or_else(no),
        oid::DATE => cast(&DataType::Date32),
        oid::TIME => cast(&DataType::Time64(TimeUnit::Microsecond)),
        oid::TIMESTAMP => cast(&DataType::Timestamp(TimeUnit::Microsecond, None)),
        oid::TIMESTAMPTZ => cast(&timestamp()),
        oid::INTERVAL => cast(&DataType::Interval(IntervalUnit::MonthDayNano)),
        oid::OID => trimmed.parse::<u32>().map(ScalarValue::from).map_err(|_| no()),
        other => match types::by_oid(other).filter(|it| it.is_array) {
            Some(array) => {
                let elements = array_elements(text).ok_or_else(no)?;
                let read = |element: Option<String>| match element {
                    Some(element) => of_text(array.element, element.as_bytes()).map(Some),
                    None => Ok(None),
                };
                let elements = elements.into_iter().map(read).collect::<Result<Vec<_>, Unreadable>>()?;
                list(elements, array.element).ok_or_else(no)
            }
            None => Ok(ScalarValue::from(text)),
        },
    }
}

fn bool_of(text: &str) -> Option<bool> {
    match text.to_lowercase().as_str() {
        "t" | "true" | "y" | "yes" | "on" | "1" => Some(true),
        "f" | "false" | "n" | "no" | "off" | "0" => Some(false),
        _ => None,
    }
}

/// A list of values.
fn list(elements: Vec<Option<ScalarValue>>, element: u32) -> Option<ScalarValue> {
    let own = elements.iter().flatten().next().map(ScalarValue::data_type);
    let data_type = own.or_else(|| named(element)).unwrap_or(DataType::Utf8);
    let null = ScalarValue::try_from(&data_type).ok()?;
    let elements = elements.into_iter().map(|element| match element {
        // All decimals of a list have the scale of the first.
        Some(element) => element.cast_to(&data_type).ok(),
        None => Some(null.clone()),
    });
    let elements = elements.collect::<Option<Vec<ScalarValue>>>()?;
    Some(ScalarValue::List(ScalarValue::new_list(&elements, &data_type, true)))
}

/// Reads a value in the binary format.
fn of_binary(sent: u32, bytes: &[u8]) -> Result<ScalarValue, Unreadable> {
    fn fixed<const N: usize>(bytes: &[u8]) -> Result<[u8; N], Unreadable> {
        bytes.try_into().map_err(|_| Unreadable::Bytes)
    }
    let long = || fixed(bytes).map(i64::from_be_bytes);
    let moment = || long()?.checked_add(EPOCH_MICROS).ok_or(Unreadable::Bytes);
    Ok(match sent {
        oid::BOOL => ScalarValue::from(fixed::<1>(bytes)? != [0]),
        oid::INT2 => ScalarValue::from(i16::from_be_bytes(fixed(bytes)?)),
        oid::INT4 => ScalarValue::from(i32::from_be_bytes(fixed(bytes)?)),
        oid::INT8 => ScalarValue::from(long()?),
        oid::FLOAT4 => ScalarValue::from(f32::from_be_bytes(fixed(bytes)?)),
        oid::FLOAT8 => ScalarValue::from(f64::from_be_bytes(fixed(bytes)?)),
        oid::NUMERIC => match read_numeric(bytes) {
            Some(Numeric::Finite(digits, scale)) => {
                decimal(&digits, scale.into()).ok_or(Unreadable::Bytes)?
            }
            Some(Numeric::Special) => return Err(Unreadable::Text("NaN or an infinity".to_owned())),
            None => return Err(Unreadable::Bytes),
        },
        oid::TEXT | oid::VARCHAR | oid::BPCHAR | oid::NAME | oid::CHAR | oid::UNKNOWN => {
            ScalarValue::from(utf8(bytes)?)
        }
        oid::BYTEA => ScalarValue::Binary(Some(bytes.to_vec())),
        oid::DATE => {
            let days = i64::from(i32::from_be_bytes(fixed(bytes)?)) + EPOCH_DAYS;
            ScalarValue::Date32(Some(i32::try_from(days).map_err(|_| Unreadable::Bytes)?))
        }
        oid::TIME => ScalarValue::Time64Microsecond(Some(long()?)),
        oid::TIMESTAMP => ScalarValue::TimestampMicrosecond(Some(moment()?), None),
        oid::TIMESTAMPTZ => ScalarValue::TimestampMicrosecond(Some(moment()?), Some("UTC".into())),
        oid::INTERVAL => {
            let (micros, rest) = bytes.split_at_checked(8).ok_or(Unreadable::Bytes)?;
            let (days, months) = rest.split_at_checked(4).ok_or(Unreadable::Bytes)?;
            let nanos = i64::from_be_bytes(fixed(micros)?).checked_mul(1000).ok_or(Unreadable::Bytes)?;
            let (days, months) = (i32::from_be_bytes(fixed(days)?), i32::from_be_bytes(fixed(months)?));
            ScalarValue::new_interval_mdn(months, days, nanos)
        }
        other if types::is_object_type(other) => ScalarValue::from(u32::from_be_bytes(fixed(bytes)?)),
        other => match types::by_oid(other).filter(|it| it.is_array) {
            Some(_) => array_of_binary(bytes)?,
            None => return Err(Unreadable::Type),
        },
    })
}

/// Reads a one-dimensional array in the binary format.
fn array_of_binary(bytes: &[u8]) -> Result<ScalarValue, Unreadable> {
    let mut rest = bytes;
    let mut int = || {
        let (first, behind) = rest.split_at_checked(4).ok_or(Unreadable::Bytes)?;
        rest = behind;
        Ok::<i32, Unreadable>(i32::from_be_bytes(first.try_into().expect("four bytes")))
    };
    let (dimensions, _, element) = (int()?, int()?, int()? as u32);
    if dimensions == 0 {
        return list(Vec::new(), element).ok_or(Unreadable::Type);
    }
    if dimensions != 1 || types::by_oid(element).is_some_and(|it| it.is_array) {
        return Err(Unreadable::Type);
    }
    let (count, _) = (int()?, int()?);
    let mut elements = Vec::new();
    for _ in 0..count {
        let (length, behind) = rest.split_at_checked(4).ok_or(Unreadable::Bytes)?;
        rest = behind;
        match usize::try_from(i32::from_be_bytes(length.try_into().expect("four bytes"))) {
            Err(_) => elements.push(None),
            Ok(length) => {
                let (value, behind) = rest.split_at_checked(length).ok_or(Unreadable::Bytes)?;
                rest = behind;
                elements.push(Some(of_binary(element, value)?));
            }
        }
    }
    list(elements, element).ok_or(Unreadable::Bytes)
}

/// The value type of a dictionary; other types unchanged.
fn plain(data_type: &DataType) -> &DataType {
    match data_type {
        DataType::Dictionary(_, values) => values,
        other => other,
    }
}

/// Converts a value to the type of its parameter, if that is exact. Returns the text if it is not a
/// value of the type.
fn fitted(value: ScalarValue, wanted: &DataType) -> Result<ScalarValue, String> {
    let wanted = plain(wanted);
    let value = exact(value);
    if value.is_null() {
        return Ok(ScalarValue::try_from(wanted).unwrap_or(value));
    }
    let text = match &value {
        ScalarValue::Utf8(Some(text)) => text,
        ScalarValue::List(_) => return Ok(value.cast_to(wanted).unwrap_or(value)),
        _ => return Ok(without_loss(value, wanted)),
    };
    if matches!(wanted, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View) {
        return Ok(value);
    }
    let read = match wanted {
        _ if wanted.is_numeric() => number_of(text).map(|number| without_loss(number, wanted)),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            bytea::of_hex(text).map(|bytes| without_loss(ScalarValue::Binary(Some(bytes)), wanted))
        }
        DataType::Boolean => bool_of(text.trim()).map(ScalarValue::from),
        _ if types::list_element(wanted).is_some() => array_elements(text).and_then(|elements| {
            let elements = elements.into_iter().map(|element| element.map(ScalarValue::from)).collect();
            list(elements, oid::TEXT)?.cast_to(wanted).ok()
        }),
        _ if wanted.is_nested() => Some(value.clone()),
        _ => value.cast_to(wanted).ok(),
    };
    read.ok_or_else(|| text.clone())
}

/// A decimal with the precision of its own digits.
fn exact(value: ScalarValue) -> ScalarValue {
    match value {
        ScalarValue::Decimal128(Some(value), _, scale) => {
            let digits = value.unsigned_abs().to_string().len() as u8;
            ScalarValue::Decimal128(Some(value), digits.max(scale.unsigned_abs()).min(DIGITS_MAX), scale)
        }
        other => other,
    }
}

/// Converts a value to another type if the conversion is exact; else returns it unchanged.
fn without_loss(value: ScalarValue, wanted: &DataType) -> ScalarValue {
    let own = value.data_type();
    let is_time = |data_type: &DataType| data_type.is_temporal();
    let is_bytes = |data_type: &DataType| {
        matches!(
            data_type,
            DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_)
        )
    };
    let are_alike = own.is_numeric() && wanted.is_numeric()
        || is_time(&own) && is_time(wanted)
        || is_bytes(&own) && is_bytes(wanted);
    if !are_alike {
        return value;
    }
    match value.cast_to(wanted) {
        Ok(cast) if cast.cast_to(&own).is_ok_and(|back| back == value) => cast,
        _ => value,
    }
}

/// The number that a text spells. It keeps all digits if it is written without an exponent.
fn number_of(text: &str) -> Option<ScalarValue> {
    let text = text.trim();
    if let Ok(number) = text.parse::<i64>() {
        return Some(ScalarValue::Int64(Some(number)));
    }
    let (sign, unsigned) = match text.strip_prefix('-') {
        Some(unsigned) => ("-", unsigned),
        None => ("", text.strip_prefix('+').unwrap_or(text)),
    };
    let (whole, part) = unsigned.split_once('.').unwrap_or((unsigned, ""));
    let digits = format!("{whole}{part}");
    let is_plain = !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit());
    if is_plain {
        return decimal(&format!("{sign}{digits}"), part.len());
    }
    text.parse::<f64>().ok().map(|number| ScalarValue::Float64(Some(number)))
}

/// The decimal with these digits and this scale; a double if it has too many digits.
fn decimal(unscaled: &str, scale: usize) -> Option<ScalarValue> {
    let digits = unscaled.trim_start_matches('-').len();
    if digits.max(scale) <= usize::from(DIGITS_MAX) {
        let value: i128 = unscaled.parse().ok()?;
        return Some(exact(ScalarValue::Decimal128(Some(value), DIGITS_MAX, scale as i8)));
    }
    let number: f64 = format!("{unscaled}e-{scale}").parse().ok()?;
    Some(ScalarValue::Float64(Some(number)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_takes_the_type_beside_it_only_if_nothing_of_it_is_lost() {
        let money = DataType::Decimal128(12, 2);
        let cents = |cents| ScalarValue::Decimal128(Some(cents), 12, 2);
        let text = |text: &str| ScalarValue::Utf8(Some(text.to_owned()));
        let check = |value: ScalarValue, wanted: &DataType, fits: ScalarValue| {
            assert_eq!(fitted(value.clone(), wanted), Ok(fits), "{value:?} for {wanted}");
        };
        check(ScalarValue::Int16(Some(100)), &money, cents(10_000));
        check(ScalarValue::Int64(Some(-3)), &money, cents(-300));
        check(ScalarValue::Float64(Some(100.5)), &money, cents(10_050));
        check(ScalarValue::Float64(Some(0.1)), &money, cents(10));
        check(ScalarValue::Float64(Some(100.005)), &money, ScalarValue::Float64(Some(100.005)));
        check(text("100.5"), &money, cents(10_050));
        check(text("100.005"), &money, ScalarValue::Decimal128(Some(100_005), 6, 3));
        check(text("-.005"), &money, ScalarValue::Decimal128(Some(-5), 3, 3));
        check(text("1e3"), &money, cents(100_000));
        let huge = ScalarValue::Int64(Some(i64::MAX));
        check(huge.clone(), &money, huge);
        check(ScalarValue::Int16(Some(7)), &DataType::UInt64, ScalarValue::UInt64(Some(7)));
        check(ScalarValue::Int16(Some(-7)), &DataType::UInt64, ScalarValue::Int16(Some(-7)));
        check(
            ScalarValue::Decimal128(Some(75), 1, 1),
            &DataType::Int64,
            ScalarValue::Decimal128(Some(75), 2, 1),
        );
        check(ScalarValue::Decimal128(Some(70), 2, 1), &DataType::Int64, ScalarValue::Int64(Some(7)));
        check(ScalarValue::Float64(Some(7.5)), &DataType::Int64, ScalarValue::Float64(Some(7.5)));
        check(ScalarValue::Int16(Some(7)), &DataType::Float64, ScalarValue::Float64(Some(7.0)));
        check(text("7"), &DataType::Float64, ScalarValue::Float64(Some(7.0)));
        check(text("true"), &DataType::Boolean, ScalarValue::Boolean(Some(true)));
        check(ScalarValue::Int64(None), &money, ScalarValue::Decimal128(None, 12, 2));
        let day = ScalarValue::TimestampMicrosecond(Some(86_400_000_000), Some("UTC".into()));
        check(text("1970-01-02"), &timestamp(), day.clone());
        check(text("1970-01-02T00:00:00Z"), &timestamp(), day.clone());
        check(text("1970-01-02 01:00:00+01"), &timestamp(), day.clone());
        check(ScalarValue::Date32(Some(1)), &timestamp(), day.clone());
        check(ScalarValue::TimestampMicrosecond(Some(86_400_000_000), None), &timestamp(), day);
        let word = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
        check(text("a"), &word, text("a"));
        let bytes = ScalarValue::FixedSizeBinary(2, Some(vec![1, 0xab]));
        check(text("\\x01ab"), &DataType::FixedSizeBinary(2), bytes);
        let words = DataType::new_list(DataType::Utf8, true);
        let list = ScalarValue::List(ScalarValue::new_list(
            &[text("a"), ScalarValue::Utf8(None)],
            &DataType::Utf8,
            true,
        ));
        check(text("{a,NULL}"), &words, list);
        for (wrong, wanted) in [
            ("much", &money),
            ("soon", &timestamp()),
            ("", &money),
            ("1.2.3", &DataType::Int64),
            ("01ab", &DataType::Binary),
            ("a", &words),
        ] {
            assert!(fitted(text(wrong), wanted).is_err(), "`{wrong}` for {wanted}");
        }
    }

    #[test]
    fn values_are_the_same_in_both_formats() {
        let same = |oid: u32, text: &str, binary: &[u8]| {
            let of_text = of_text(oid, text.as_bytes()).unwrap_or_else(|_| panic!("{text} is readable"));
            let of_binary = of_binary(oid, binary).unwrap_or_else(|_| panic!("{text} is readable in binary"));
            assert_eq!(exact(of_text), exact(of_binary), "{text}");
        };
        same(oid::BOOL, "t", &[1]);
        same(oid::INT2, "-2", &[0xff, 0xfe]);
        same(oid::NUMERIC, "12.50", &[0, 2, 0, 0, 0, 0, 0, 2, 0, 12, 0x13, 0x88]);
        same(oid::DATE, "2000-01-02", &[0, 0, 0, 1]);
        same(oid::TIMESTAMP, "2000-01-01 00:00:01", &1_000_000i64.to_be_bytes());
        same(oid::TIMESTAMPTZ, "2000-01-01 01:00:01+01", &1_000_000i64.to_be_bytes());
        same(oid::BYTEA, "\\x00ff", &[0, 0xff]);
        same(oid::OID, "4294967295", &[0xff; 4]);
        let array = [
            &[0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 25, 0, 0, 0, 2, 0, 0, 0, 1][..],
            b"\0\0\0\x03a,b",
            &[0xff; 4],
        ];
        same(1009, "{\"a,b\",NULL}", &array.concat());
    }

    #[test]
    fn what_is_no_value_is_an_error_with_its_parameter() {
        let text = Arc::new(Field::new("$1", timestamp(), true));
        let error = |bytes: &'static [u8], format: i16, hint: u32| {
            let given = [Some(Bytes::from_static(bytes))];
            let error = values(&given, &[format], &[Arc::clone(&text)], &[hint]).expect_err("no value");
            (error.state, error.to_string())
        };
        let (state, what) = error(b"soon", 0, 0);
        assert_eq!((state, what.as_str()), ("22P02", "parameter $1 is `soon`, which is no timestamptz"));
        assert_eq!(error(b"1234", 1, oid::TIMESTAMPTZ).0, "22P03");
        assert_eq!(error(b"\xff", 0, 0).0, "22021");
        assert_eq!(error(b"1", 1, 600).0, "0A000");
        assert_eq!(values(&[], &[], &[text], &[]).expect_err("it is missing").state, "08P01");
    }
}
