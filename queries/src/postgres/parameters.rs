//! The parameters of a statement: what types they have, and the values that a client gives them.
//!
//! A parameter has the type of what it stands beside; where it stands beside nothing, the type that the client names; else it is a
//! text. A client may send another type than that: drivers send a number by its size alone. So a value is read as it was sent, takes
//! the parameter's type if nothing of it is lost by that, and stays what it is otherwise: `amount > 100.005` is then a
//! comparison of more digits, as it is where the number is written in the statement. A text is read as a literal of the
//! parameter's type is.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, TimeUnit};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{DataFusionError, ParamValues, ScalarValue};
use datafusion::logical_expr::LogicalPlan;
use datafusion::logical_expr::expr::Placeholder;
use datafusion::prelude::Expr;
use datafusion_postgres::arrow_pg::datatypes::df::deserialize_parameters_with_server_types;
use datafusion_postgres::arrow_pg::datatypes::{field_into_pg_type, into_pg_type};
use datafusion_postgres::pgwire::api::Type;
use datafusion_postgres::pgwire::api::portal::Portal;
use datafusion_postgres::pgwire::error::PgWireResult;
use tidegate_facts::schema::timestamp;

use super::wire::arrives;
use super::{failed, refused};
use crate::QueryError;

/// How many digits a decimal may have.
const DIGITS_MAX: u8 = 38;

/// What parameters have no type by where they stand gets the client's, or is a text.
pub(super) fn typed(plan: LogicalPlan, hints: &[Option<Type>]) -> PgWireResult<LogicalPlan> {
    let of = |id: &str| {
        let hint = number(id).and_then(|number| hints.get(number - 1)).and_then(Option::as_ref);
        Arc::new(Field::new(id, hint.and_then(named).unwrap_or(DataType::Utf8), true))
    };
    let typed = plan.transform_up_with_subqueries(|plan| {
        let typed = plan.map_expressions(|expr| {
            expr.transform_down(|expr| match expr {
                // What is cast has the type of the cast.
                Expr::Cast(ref cast) if matches!(*cast.expr, Expr::Placeholder(_)) => {
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
    typed.map(|typed| typed.data).map_err(|error| refused(QueryError::of_plan(&error)))
}

/// The type that a client means by one of its own.
fn named(hint: &Type) -> Option<DataType> {
    Some(match *hint {
        Type::BOOL => DataType::Boolean,
        Type::INT2 => DataType::Int16,
        Type::INT4 => DataType::Int32,
        Type::INT8 => DataType::Int64,
        Type::FLOAT4 => DataType::Float32,
        Type::FLOAT8 => DataType::Float64,
        Type::NUMERIC => DataType::Decimal128(DIGITS_MAX, 10),
        Type::DATE => DataType::Date32,
        Type::TIMESTAMP => DataType::Timestamp(TimeUnit::Microsecond, None),
        Type::TIMESTAMPTZ => timestamp(),
        Type::BYTEA => DataType::Binary,
        _ => return None,
    })
}

/// Which parameter `$1` is: the first has the number 1.
fn number(id: &str) -> Option<usize> {
    id.strip_prefix('$')?.parse().ok().filter(|number| *number > 0)
}

/// The fields that the parameters of a plan stand beside, in their order.
pub(super) fn fields(plan: &LogicalPlan) -> PgWireResult<Vec<FieldRef>> {
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
    walked.map_err(|error: DataFusionError| refused(QueryError::of_plan(&error)))?;
    let last = known.last_key_value().map_or(0, |(number, _)| *number);
    if last > usize::from(u16::MAX) {
        return Err(failed("54000", format!("there is a parameter ${last}, and at most 65535 may be")));
    }
    let text = |number: usize| Arc::new(Field::new(format!("${number}"), DataType::Utf8, true));
    Ok((1..=last).map(|number| known.remove(&number).flatten().unwrap_or_else(|| text(number))).collect())
}

/// What a client is told of the types of parameters.
pub(super) fn described(fields: &[FieldRef]) -> PgWireResult<Vec<Type>> {
    let described = |field: &FieldRef| match field.data_type() {
        DataType::Int32 => field_into_pg_type(field), // It may be the number of a table or a type.
        other => into_pg_type(&arrives(other)),
    };
    fields.iter().map(described).collect()
}

/// The values of a portal's parameters, each by its name.
pub(super) fn values<S: Clone>(portal: &Portal<S>, fields: &[FieldRef]) -> PgWireResult<ParamValues> {
    let described = described(fields)?;
    let count = portal.parameter_len();
    if count < fields.len() {
        let what = format!("the statement has {} parameters, and {count} values came", fields.len());
        return Err(failed("08P01", what));
    }
    let utc = timestamp();
    let (mut types, mut as_types) = (Vec::with_capacity(count), Vec::with_capacity(count));
    for at in 0..count {
        let hint = portal.statement.parameter_types.get(at).and_then(Option::as_ref);
        let is_text = !portal.parameter_format.is_binary(at);
        // A text without a type may be anything; it is read as a literal is.
        let sent = match hint {
            Some(hint) if *hint != Type::UNKNOWN => hint,
            _ if is_text => &Type::TEXT,
            _ => described.get(at).unwrap_or(&Type::TEXT),
        };
        as_types.push(match *sent {
            Type::INT2 | Type::INT4 | Type::INT8 | Type::FLOAT4 | Type::FLOAT8 | Type::NUMERIC => None,
            Type::TEXT | Type::VARCHAR | Type::DATE | Type::TIMESTAMP => None,
            Type::TIMESTAMPTZ => Some(&utc),
            _ => fields.get(at).map(|field| field.data_type()),
        });
        types.push(Some(sent));
    }
    let sent = match deserialize_parameters_with_server_types(portal, &as_types, &types)? {
        ParamValues::List(list) => list,
        ParamValues::Map(_) => unreachable!("parameters are sent in their order"),
    };
    let fitted = sent.into_iter().enumerate().map(|(at, sent)| {
        let (value, _) = sent.into_inner();
        let Some(field) = fields.get(at) else { return Ok(value) };
        fitted(value, field.data_type()).map_err(|(text, kind)| {
            failed("22P02", format!("parameter ${} is `{text}`, which is no {kind}", at + 1))
        })
    });
    Ok(ParamValues::from(fitted.collect::<PgWireResult<Vec<ScalarValue>>>()?))
}

/// A value as it stands for a parameter of a type; or the text that is not of that type.
fn fitted(value: ScalarValue, wanted: &DataType) -> Result<ScalarValue, (String, String)> {
    let wanted = match wanted {
        DataType::Dictionary(_, values) => values.as_ref(),
        other => other,
    };
    let value = exact(value);
    if value.is_null() {
        return Ok(ScalarValue::try_from(wanted).unwrap_or(value));
    }
    let text = match &value {
        ScalarValue::Utf8(Some(text)) => text,
        _ => return Ok(without_loss(value, wanted)),
    };
    if matches!(wanted, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View) || wanted.is_nested() {
        return Ok(value);
    }
    let read = match wanted {
        _ if wanted.is_numeric() => number_of(text).map(|number| without_loss(number, wanted)),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            bytes_of(text).map(|bytes| without_loss(ScalarValue::Binary(Some(bytes)), wanted))
        }
        _ => value.cast_to(wanted).ok(),
    };
    read.ok_or_else(|| {
        let kind =
            into_pg_type(&arrives(wanted)).map_or_else(|_| wanted.to_string(), |kind| kind.name().to_owned());
        (text.clone(), kind)
    })
}

/// A decimal whose digits are those that it has.
fn exact(value: ScalarValue) -> ScalarValue {
    match value {
        ScalarValue::Decimal128(Some(value), _, scale) => {
            let digits = value.unsigned_abs().to_string().len() as u8;
            ScalarValue::Decimal128(Some(value), digits.max(scale.unsigned_abs()).min(DIGITS_MAX), scale)
        }
        other => other,
    }
}

/// The value as another type if it is the same there, else as it is.
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

/// The number that a text is, with all its digits if it is written without an exponent.
fn number_of(text: &str) -> Option<ScalarValue> {
    let text = text.trim();
    if let Ok(number) = text.parse::<i64>() {
        return Some(ScalarValue::Int64(Some(number)));
    }
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (whole, part) = unsigned.split_once('.').unwrap_or((unsigned, ""));
    let digits = format!("{whole}{part}");
    let is_plain = !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit());
    if is_plain && digits.len() <= usize::from(DIGITS_MAX) {
        let value: i128 = digits.parse().ok()?;
        let value = if text.starts_with('-') { -value } else { value };
        return Some(exact(ScalarValue::Decimal128(Some(value), DIGITS_MAX, part.len() as i8)));
    }
    text.parse::<f64>().ok().map(|number| ScalarValue::Float64(Some(number)))
}

/// The bytes that a text is, as Postgres writes them: `\x` and two digits for each.
fn bytes_of(text: &str) -> Option<Vec<u8>> {
    let digits = text.strip_prefix("\\x")?;
    if digits.len() % 2 != 0 || !digits.is_ascii() {
        return None;
    }
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).ok()).collect()
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
        for (wrong, wanted) in [
            ("much", &money),
            ("soon", &timestamp()),
            ("", &money),
            ("1.2.3", &DataType::Int64),
            ("01ab", &DataType::Binary),
        ] {
            assert!(fitted(text(wrong), wanted).is_err(), "`{wrong}` for {wanted}");
        }
    }
}
