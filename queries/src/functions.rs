//! Functions whose answer may be far larger than what they are given, with a bound on it.
//!
//! No memory is counted while an expression is evaluated, so `repeat('x', 1000000000)` would take it from all others. What
//! such a function may make of a batch follows from its arguments, and is refused beyond [`MADE_BYTES_MAX`] before it is made.
//!
//! Nor is time counted while a statement is planned, and a planner makes constants of calls that have constant arguments. `EXPLAIN` writes
//! the plan down behind each of some fifty rules, constants and all: a million numbers take it minutes. So a call that would make more than
//! [`CONSTANT_BYTES_MAX`] stays a call until the plan is run.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray};
use arrow::compute::{cast, max, min};
use arrow::datatypes::{
    DataType, FieldRef, Int64Type, IntervalMonthDayNano, IntervalMonthDayNanoType, IntervalUnit, TimeUnit,
};
use datafusion::common::DataFusionError;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{
    ColumnarValue, Documentation, Expr, LogicalPlan, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, Volatility,
};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::optimizer::{ApplyOrder, OptimizerConfig, OptimizerRule};
use datafusion::prelude::SessionContext;

/// How many bytes one call may make of one batch of rows.
pub const MADE_BYTES_MAX: u64 = 128 << 20;

/// How many bytes a call may make while a statement is planned: what a constant has stands in every row of a batch.
const CONSTANT_BYTES_MAX: u64 = MADE_BYTES_MAX / 8192;

/// What a function makes of its arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Makes {
    /// The first, as often as the second says.
    Times,
    /// As many characters or items as the second says.
    Padded,
    /// As many numbers as lie between two, or below one.
    Between,
    /// All that it is given, put together.
    Sum,
    /// The first, in which the third may stand for every byte.
    Replaced,
}

const BOUNDED: [(&str, Makes); 13] = [
    ("repeat", Makes::Times),
    ("array_repeat", Makes::Times),
    ("lpad", Makes::Padded),
    ("rpad", Makes::Padded),
    ("array_resize", Makes::Padded),
    ("range", Makes::Between),
    ("generate_series", Makes::Between),
    ("concat", Makes::Sum),
    ("concat_ws", Makes::Sum),
    ("make_array", Makes::Sum),
    ("array_concat", Makes::Sum),
    ("replace", Makes::Replaced),
    ("regexp_replace", Makes::Replaced),
];

/// Puts bounded functions in the place of those that are not.
pub(crate) fn bound(context: &SessionContext) {
    let known = context.state();
    for (name, makes) in BOUNDED {
        let inner = known.scalar_functions().get(name).expect("DataFusion has it by default");
        context.register_udf(ScalarUDF::new_from_impl(Bounded::new(Arc::clone(inner), makes)));
    }
}

#[derive(Debug)]
struct Bounded {
    inner: Arc<ScalarUDF>,
    makes: Makes,
    /// A planner leaves alone what is volatile.
    signature: Signature,
}

impl Bounded {
    fn new(inner: Arc<ScalarUDF>, makes: Makes) -> Bounded {
        let signature = inner.signature().clone();
        Bounded { inner, makes, signature }
    }

    /// The same function, called only when the plan is run.
    fn late(&self) -> ScalarUDF {
        let signature = Signature { volatility: Volatility::Volatile, ..self.signature.clone() };
        ScalarUDF::new_from_impl(Bounded { inner: Arc::clone(&self.inner), makes: self.makes, signature })
    }
}

impl PartialEq for Bounded {
    fn eq(&self, other: &Bounded) -> bool {
        self.inner == other.inner && self.signature.volatility == other.signature.volatility
    }
}

impl Eq for Bounded {}

impl Hash for Bounded {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.inner.hash(state);
    }
}

impl ScalarUDFImpl for Bounded {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> DataFusionResult<DataType> {
        self.inner.return_type(types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> DataFusionResult<FieldRef> {
        self.inner.return_field_from_args(args)
    }

    fn coerce_types(&self, types: &[DataType]) -> DataFusionResult<Vec<DataType>> {
        self.inner.coerce_types(types)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DataFusionResult<ColumnarValue> {
        let made = self.makes.bytes(&args.args, args.number_rows);
        if made > MADE_BYTES_MAX {
            return Err(DataFusionError::Execution(format!(
                "{}() could make {made} bytes of {} rows here, and at most {MADE_BYTES_MAX} may be made at once; ask for less",
                self.name(),
                args.number_rows
            )));
        }
        self.inner.invoke_with_args(args)
    }
}

/// Keeps large constants out of plans: stands in front of the rule that makes constants of calls.
#[derive(Debug)]
pub(crate) struct LargeWhenRun;

impl OptimizerRule for LargeWhenRun {
    fn name(&self) -> &str {
        "large_when_run"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::BottomUp)
    }

    fn rewrite(
        &self,
        plan: LogicalPlan,
        config: &dyn OptimizerConfig,
    ) -> DataFusionResult<Transformed<LogicalPlan>> {
        let context = || SimplifyContext::builder().with_config_options(config.options()).build();
        plan.map_expressions(|expr| expr.transform_up(|expr| Ok(large_when_run(expr, &context))))
    }
}

fn large_when_run(expr: Expr, context: &impl Fn() -> SimplifyContext) -> Transformed<Expr> {
    let Expr::ScalarFunction(mut call) = expr else { return Transformed::no(expr) };
    let late = call.func.inner().downcast_ref::<Bounded>().filter(|_| !is_volatile(&call.func)).and_then(
        |bounded| {
            // What a column may hold is not known before the plan is run.
            let constant = |arg: &Expr| match arg {
                Expr::Literal(value, _) => Some(ColumnarValue::Scalar(value.clone())),
                arg if !arg.column_refs().is_empty() => None,
                arg => match ExprSimplifier::new(context()).simplify(arg.clone()) {
                    Ok(Expr::Literal(value, _)) => Some(ColumnarValue::Scalar(value)),
                    _ => None,
                },
            };
            let args: Option<Vec<ColumnarValue>> = call.args.iter().map(constant).collect();
            (bounded.makes.bytes(&args?, 1) > CONSTANT_BYTES_MAX).then(|| bounded.late())
        },
    );
    match late {
        Some(late) => {
            call.func = Arc::new(late);
            Transformed::yes(Expr::ScalarFunction(call))
        }
        None => Transformed::no(Expr::ScalarFunction(call)),
    }
}

fn is_volatile(function: &ScalarUDF) -> bool {
    function.signature().volatility == Volatility::Volatile
}

impl Makes {
    /// The most bytes that may come of a batch.
    fn bytes(self, args: &[ColumnarValue], rows: usize) -> u64 {
        let rows = rows as u64;
        // The bytes of an argument in all rows.
        let size = |place: usize| match args.get(place) {
            Some(ColumnarValue::Array(array)) => {
                array.to_data().get_slice_memory_size().unwrap_or(array.get_array_memory_size()) as u64
            }
            Some(ColumnarValue::Scalar(value)) => (value.size() as u64).saturating_mul(rows),
            None => 0,
        };
        let most = |place: usize| u64::try_from(bounds(args.get(place)).1).unwrap_or(0);
        match self {
            Makes::Times => size(0).saturating_mul(most(1)),
            Makes::Padded => {
                // A character has up to four bytes; an item is as large as the one that fills.
                let each = if args.len() > 2 { (size(2) / rows.max(1)).max(8) } else { 8 };
                size(0).saturating_add(most(1).saturating_mul(each).saturating_mul(rows))
            }
            Makes::Between => {
                // Up or down: the two may stand in either order.
                let ((from, top), (bottom, to)) = match args {
                    [to] => ((0, 0), bounds(Some(to))),
                    _ => (bounds(args.first()), bounds(args.get(1))),
                };
                let far = to.abs_diff(from).max(top.abs_diff(bottom));
                (far / step(args.get(2))).saturating_mul(8).saturating_mul(rows)
            }
            Makes::Sum => (0..args.len()).map(size).fold(0, u64::saturating_add),
            Makes::Replaced => {
                let (found, put) = (size(1) / rows.max(1), size(2) / rows.max(1));
                // The size of a value in memory holds more than its text; a text that grows is what matters.
                if put <= found.max(256) { size(0) } else { size(0).saturating_mul(put) }
            }
        }
    }
}

/// The least and the greatest whole number that an argument has, times as microseconds; zero where it has none.
fn bounds(arg: Option<&ColumnarValue>) -> (i64, i64) {
    let Some(array) = array_of(arg) else { return (0, 0) };
    let array = match array.data_type() {
        DataType::Date32 | DataType::Date64 | DataType::Timestamp(..) => {
            cast(&array, &DataType::Timestamp(TimeUnit::Microsecond, None))
        }
        _ => Ok(array),
    };
    let numbers = array.and_then(|array| cast(&array, &DataType::Int64));
    let Ok(numbers) = numbers else { return (0, 0) };
    let numbers = numbers.as_primitive::<Int64Type>();
    (min(numbers).unwrap_or(0), max(numbers).unwrap_or(0))
}

/// The least step that an argument has, an interval as microseconds.
fn step(arg: Option<&ColumnarValue>) -> u64 {
    const DAY: u64 = 86_400_000_000;
    let Some(array) = array_of(arg) else { return 1 };
    let least = if matches!(array.data_type(), DataType::Interval(_)) {
        let intervals = cast(&array, &DataType::Interval(IntervalUnit::MonthDayNano)).ok();
        let intervals = intervals.map(|array| array.as_primitive::<IntervalMonthDayNanoType>().clone());
        let micros = |step: IntervalMonthDayNano| {
            let days = u64::from(step.months.unsigned_abs()) * 28 + u64::from(step.days.unsigned_abs());
            days.saturating_mul(DAY).saturating_add(step.nanoseconds.unsigned_abs() / 1000)
        };
        intervals.and_then(|steps| steps.iter().flatten().map(micros).min())
    } else {
        let numbers = cast(&array, &DataType::Int64).ok();
        let numbers = numbers.map(|array| array.as_primitive::<Int64Type>().clone());
        numbers.and_then(|steps| steps.iter().flatten().map(i64::unsigned_abs).min())
    };
    least.unwrap_or(1).max(1)
}

fn array_of(arg: Option<&ColumnarValue>) -> Option<ArrayRef> {
    match arg? {
        ColumnarValue::Array(array) => Some(Arc::clone(array)),
        ColumnarValue::Scalar(value) => value.to_array().ok(),
    }
}

#[cfg(test)]
mod tests {
    use arrow::util::pretty::pretty_format_batches;

    use super::*;

    async fn ask(sql: &str) -> String {
        let context = crate::catalogue::session(Arc::default());
        let rows = async { context.sql(sql).await?.collect().await };
        match rows.await {
            Ok(rows) => pretty_format_batches(&rows).expect("a table").to_string(),
            Err(error) => error.to_string(),
        }
    }

    #[tokio::test]
    async fn what_would_grow_too_large_is_refused_before_it_is_made() {
        for sql in [
            "SELECT length(repeat('x', 1000000000))",
            "SELECT lpad('x', 1000000000, 'yz')",
            "SELECT rpad('x', value) FROM generate_series(1, 1000000000, 100000000)",
            "SELECT array_length(array_repeat(1, 1000000000))",
            "SELECT array_length(range(0, 1000000000))",
            "SELECT array_length(generate_series(-9223372036854775807, 9223372036854775807))",
            "SELECT array_length(range(1000000000, 0, -1))",
            "SELECT array_length(range(DATE '1970-01-01', DATE '2200-01-01', INTERVAL '1 second'))",
            "SELECT length(replace(repeat('x', 1000000), 'x', repeat('y', 1000000)))",
            "SELECT length(concat(a, a, a, a)) FROM (SELECT repeat('x', 100000000) a)",
        ] {
            let said = ask(sql).await;
            assert!(said.contains("at most 134217728 may be made"), "{sql}: {said}");
        }
    }

    #[tokio::test]
    async fn a_large_constant_is_made_when_the_plan_is_run() {
        for (sql, call) in [
            ("SELECT range(0, 90000 + 9999)", "range(0, 99999)"),
            ("SELECT lpad('x', 1000 * 1000)", "lpad(x, 1000000)"),
            ("SELECT range(0, n) FROM (SELECT 999999 AS n)", "range(0, 999999)"),
            ("SELECT concat(repeat('x', 100000), 'y')", "concat(repeat(x, 100000), y)"),
            ("SELECT 1 WHERE array_length(range(0, 99999)) = 99999", "array_length(range(0, 99999)) = 99999"),
        ] {
            let plan = ask(&format!("EXPLAIN {sql}")).await;
            let said: String = plan.chars().filter(|c| *c != '"').collect();
            let [call, said] = [call, &said].map(|text| text.replace("Utf8(x)", "x").replace("Utf8(y)", "y"));
            let said = said.replace("Int64(", "").replace(')', "");
            assert!(said.contains(&call.replace(')', "")), "{sql}: {plan}");
            assert!(plan.len() < 4000, "{sql}: the plan has {} bytes", plan.len());
        }
        // What is small is a constant, as it was.
        let plan =
            ask("EXPLAIN SELECT * FROM generate_series(1, 9) WHERE value = length(repeat('x', 7))").await;
        assert!(plan.contains("value@0 = 7"), "{plan}");
        // A constant stands in every row.
        let said = ask("SELECT count(DISTINCT lpad('x', 100000)) FROM generate_series(1, 100000)").await;
        assert!(said.contains("at most 134217728 may be made"), "{said}");
    }

    #[tokio::test]
    async fn what_is_of_a_common_size_is_as_it_was() {
        for (sql, value) in [
            ("SELECT length(repeat('xy', 100000))", "| 200000 "),
            ("SELECT lpad('7', 3, '0')", "| 007 "),
            ("SELECT rpad('7', 3)", "| 7   "),
            ("SELECT array_length(range(0, 100000))", "| 100000 "),
            ("SELECT array_length(range(DATE '1970-01-01', DATE '1970-02-01', INTERVAL '1 day'))", "| 31 "),
            ("SELECT replace('a-b-c', '-', '+')", "| a+b+c "),
            ("SELECT regexp_replace('a-b', '[a-z]', 'X', 'g')", "| X-X "),
            ("SELECT concat('a', 1, NULL, 'b')", "| a1b "),
            ("SELECT concat_ws('/', 'a', 'b')", "| a/b "),
            ("SELECT repeat(NULL, 3) IS NULL", "| true "),
            ("SELECT array_concat([1], [2, 3])", "| [1, 2, 3] "),
            ("SELECT count(*), sum(length(repeat('x', value))) FROM generate_series(1, 1000)", "| 500500 "),
        ] {
            let said = ask(sql).await;
            assert!(said.contains(value), "{sql}: {said}");
        }
    }
}
