//! `AT TIME ZONE`, which is a call of the function `timezone`.
//!
//! In Postgres it gives a moment as the local time of a zone, and a local time of a zone as a
//! moment. DataFusion would give the same moment in both cases. Which case it is depends on the
//! type of the argument, so the call is replaced once the statement is planned.

use std::sync::Arc;

use arrow::array::timezone::Tz;
use arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, ScalarValue, internal_err};
use datafusion::error::Result;
use datafusion::functions::datetime::to_local_time;
use datafusion::logical_expr::expr::{Cast, ScalarFunction};
use datafusion::logical_expr::{
    ColumnarValue, ExprSchemable, LogicalPlan, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Volatility,
};
use datafusion::prelude::Expr;
use tidegate_facts::payload_schema::timestamp;

use super::plan_expressions::replace_expressions;
use crate::error::SqlError;

/// The name of the function for `AT TIME ZONE`. Its arguments are the zone and the time.
pub(crate) const TIMEZONE: &str = "timezone";

/// The function that `AT TIME ZONE` is planned as, until [`resolve`] replaces it.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Timezone {
    signature: Signature,
}

impl Timezone {
    pub(super) fn udf() -> ScalarUDF {
        ScalarUDF::from(Timezone { signature: Signature::any(2, Volatility::Immutable) })
    }
}

impl ScalarUDFImpl for Timezone {
    fn name(&self) -> &str {
        TIMEZONE
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, args: &[DataType]) -> Result<DataType> {
        Ok(match &args[1] {
            DataType::Timestamp(_, None) => timestamp(),
            _ => DataType::Timestamp(TimeUnit::Microsecond, None),
        })
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> Result<ColumnarValue> {
        internal_err!("{TIMEZONE} was not replaced")
    }
}

/// Replaces the calls of `timezone`, which stand for `AT TIME ZONE`, by casts.
///
/// # Errors
/// 22023 for an unknown zone, 0A000 for a zone that is not a literal.
pub(super) fn resolve(plan: LogicalPlan) -> Result<LogicalPlan> {
    replace_expressions(plan, |expr, schema| match expr {
        Expr::ScalarFunction(call) if call.name() == TIMEZONE => {
            let [zone, time] = call.args.as_slice() else {
                return internal_err!("{TIMEZONE} has two arguments");
            };
            Ok(Transformed::yes(shifted(zone_of(zone)?, time, schema)))
        }
        expr => Ok(Transformed::no(expr)),
    })
}

/// The zone that a literal names.
fn zone_of(expr: &Expr) -> Result<String> {
    let Expr::Literal(zone, _) = expr else {
        let what = "the zone of AT TIME ZONE is a text in quotes, such as 'Asia/Tokyo'";
        return Err(SqlError::new("0A000", what).raise());
    };
    let zone = zone.try_as_str().flatten().unwrap_or_default();
    let zone = if zone.eq_ignore_ascii_case("utc") { "UTC" } else { zone };
    // Postgres counts numeric offsets to the west, and Arrow to the east.
    let is_name = zone.starts_with(|c: char| c.is_ascii_alphabetic());
    if !is_name || zone.parse::<Tz>().is_err() {
        let what = format!("time zone \"{zone}\" not recognized; name a zone such as 'Asia/Tokyo'");
        return Err(SqlError::new("22023", what).raise());
    }
    Ok(zone.to_owned())
}

/// The time shifted by the offset of the zone.
fn shifted(zone: String, time: &Expr, schema: &DFSchema) -> Expr {
    let cast = |expr: Expr, to: DataType| Expr::Cast(Cast::new(Box::new(expr), to));
    let in_zone = DataType::Timestamp(TimeUnit::Microsecond, Some(zone.into()));
    if let Ok(DataType::Timestamp(_, None)) = time.get_type(schema) {
        return cast(cast(time.clone(), in_zone), timestamp());
    }
    // Texts and dates are moments, as in Postgres.
    let moment = match time {
        Expr::Literal(value, _) if value.is_null() => Expr::Literal(ScalarValue::Utf8(None), None),
        time => time.clone(),
    };
    let local = cast(cast(moment, timestamp()), in_zone);
    Expr::ScalarFunction(ScalarFunction::new_udf(Arc::clone(&to_local_time()), vec![local]))
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::super::tests::answer;

    #[tokio::test]
    async fn a_moment_becomes_local_and_a_local_time_a_moment() {
        // PostgreSQL 15 gives the same values.
        let moments = answer(
            "SELECT '2020-07-01 00:00:00Z'::timestamptz AT TIME ZONE 'America/New_York' AS a,
               '2020-07-01 00:00:00'::timestamp AT TIME ZONE 'Asia/Tokyo' AS b,
               '2020-07-01 00:00:00'::timestamp AT TIME ZONE 'Asia/Tokyo' AT TIME ZONE 'utc' AS c,
               '2020-07-01'::date AT TIME ZONE 'Asia/Tokyo' AS d",
        );
        expect![[r#"
            +---------------------+----------------------+---------------------+---------------------+
            | a                   | b                    | c                   | d                   |
            +---------------------+----------------------+---------------------+---------------------+
            | 2020-06-30T20:00:00 | 2020-06-30T15:00:00Z | 2020-06-30T15:00:00 | 2020-07-01T09:00:00 |
            +---------------------+----------------------+---------------------+---------------------+"#]]
        .assert_eq(&moments.await);
        let wrong = answer("SELECT now() AT TIME ZONE '+09:00'").await;
        assert!(wrong.starts_with("22023"), "{wrong}");
        let column = answer("SELECT ts_utc AT TIME ZONE event_id FROM decisions").await;
        assert!(column.starts_with("0A000"), "{column}");
    }
}
