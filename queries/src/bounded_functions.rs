//! SQL functions whose result may be far larger than their arguments, with a bound on its size.
//!
//! DataFusion counts no memory while it evaluates an expression, so `repeat('x', 1000000000)` would
//! take memory from all other statements. The size of such a function's result follows from its
//! arguments; a result beyond [`RESULT_BYTES_MAX`] is refused before it is computed.
//!
//! Planning has no time limit either, and the planner folds calls with constant arguments.
//! `EXPLAIN` prints the plan, constants included, after each of some fifty rules: for a million
//! numbers that takes minutes. So a call whose result exceeds [`CONSTANT_BYTES_MAX`] stays a call
//! until the plan runs.

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

/// The bound on the result of SQL functions: the most bytes that one call may produce for one batch
/// of rows.
pub const RESULT_BYTES_MAX: u64 = 128 << 20;

/// The most bytes that a constant may have: a batch of 8192 rows may repeat it in every row.
const CONSTANT_BYTES_MAX: u64 = RESULT_BYTES_MAX / 8192;

/// How the size of a function's result follows from its arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum OutputBound {
    /// The first argument, repeated as often as the second says.
    Repeated,
    /// As many characters or items as the second argument says.
    Padded,
    /// As many numbers as lie between two arguments, or below one.
    Range,
    /// All arguments, concatenated.
    Sum,
    /// The first argument, with every byte replaced by the third.
    Replaced,
}

/// The functions that are replaced by bounded ones.
const BOUNDED: [(&str, OutputBound); 13] = [
    ("repeat", OutputBound::Repeated),
    ("array_repeat", OutputBound::Repeated),
    ("lpad", OutputBound::Padded),
    ("rpad", OutputBound::Padded),
    ("array_resize", OutputBound::Padded),
    ("range", OutputBound::Range),
    ("generate_series", OutputBound::Range),
    ("concat", OutputBound::Sum),
    ("concat_ws", OutputBound::Sum),
    ("make_array", OutputBound::Sum),
    ("array_concat", OutputBound::Sum),
    ("replace", OutputBound::Replaced),
    ("regexp_replace", OutputBound::Replaced),
];

/// Replaces the SQL functions of [`BOUNDED`] in a session by those with a bound.
pub(crate) fn register(context: &SessionContext) {
    let state = context.state();
    for (name, bound) in BOUNDED {
        let inner = state.scalar_functions().get(name).expect("DataFusion has it by default");
        context.register_udf(ScalarUDF::new_from_impl(Bounded::new(Arc::clone(inner), bound)));
    }
}

/// A function of DataFusion, with a bound on the size of its result.
#[derive(Debug)]
struct Bounded {
    inner: Arc<ScalarUDF>,
    bound: OutputBound,
    /// Its volatility decides whether the planner may fold the call: a volatile one is never
    /// folded.
    signature: Signature,
}

impl Bounded {
    fn new(inner: Arc<ScalarUDF>, bound: OutputBound) -> Bounded {
        let signature = inner.signature().clone();
        Bounded { inner, bound, signature }
    }

    /// The same function, marked volatile so that it is called only when the plan runs.
    fn deferred(&self) -> ScalarUDF {
        let signature = Signature { volatility: Volatility::Volatile, ..self.signature.clone() };
        ScalarUDF::new_from_impl(Bounded { inner: Arc::clone(&self.inner), bound: self.bound, signature })
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
        let bytes = self.bound.bytes(&args.args, args.number_rows);
        if bytes > RESULT_BYTES_MAX {
            return Err(DataFusionError::Execution(format!(
                "{}() could produce {bytes} bytes for {} rows, and at most {RESULT_BYTES_MAX} are allowed at once; ask for less",
                self.name(),
                args.number_rows
            )));
        }
        self.inner.invoke_with_args(args)
    }
}

/// Keeps large constants out of plans: runs before the rule that folds constants.
#[derive(Debug)]
pub(crate) struct DeferLargeConstants;

impl OptimizerRule for DeferLargeConstants {
    fn name(&self) -> &str {
        "defer_large_constants"
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
        plan.map_expressions(|expr| expr.transform_up(|expr| Ok(defer_if_large(expr, &context))))
    }
}

/// Marks a call of a bounded function volatile if its constant result would be large.
fn defer_if_large(expr: Expr, context: &impl Fn() -> SimplifyContext) -> Transformed<Expr> {
    let Expr::ScalarFunction(mut call) = expr else { return Transformed::no(expr) };
    let deferred = call.func.inner().downcast_ref::<Bounded>().filter(|_| !is_volatile(&call.func)).and_then(
        |bounded| {
            // The values of a column are unknown before the plan runs.
            let constant = |arg: &Expr| match arg {
                Expr::Literal(value, _) => Some(ColumnarValue::Scalar(value.clone())),
                arg if !arg.column_refs().is_empty() => None,
                arg => match ExprSimplifier::new(context()).simplify(arg.clone()) {
                    Ok(Expr::Literal(value, _)) => Some(ColumnarValue::Scalar(value)),
                    _ => None,
                },
            };
            let args: Option<Vec<ColumnarValue>> = call.args.iter().map(constant).collect();
            (bounded.bound.bytes(&args?, 1) > CONSTANT_BYTES_MAX).then(|| bounded.deferred())
        },
    );
    match deferred {
        Some(deferred) => {
            call.func = Arc::new(deferred);
            Transformed::yes(Expr::ScalarFunction(call))
        }
        None => Transformed::no(Expr::ScalarFunction(call)),
    }
}

fn is_volatile(function: &ScalarUDF) -> bool {
    function.signature().volatility == Volatility::Volatile
}

impl OutputBound {
    /// The most bytes that a result may have for `rows` rows.
    fn bytes(self, args: &[ColumnarValue], rows: usize) -> u64 {
        let rows = rows as u64;
        // The bytes of an argument, over all rows.
        let size = |arg: usize| match args.get(arg) {
            Some(ColumnarValue::Array(array)) => {
                array.to_data().get_slice_memory_size().unwrap_or(array.get_array_memory_size()) as u64
            }
            Some(ColumnarValue::Scalar(value)) => (value.size() as u64).saturating_mul(rows),
            None => 0,
        };
        let most = |arg: usize| u64::try_from(range_of(args.get(arg)).1).unwrap_or(0);
        match self {
            OutputBound::Repeated => size(0).saturating_mul(most(1)),
            OutputBound::Padded => {
                // A character has up to four bytes; an item is as large as the item that pads.
                let each = if args.len() > 2 { (size(2) / rows.max(1)).max(8) } else { 8 };
                size(0).saturating_add(most(1).saturating_mul(each).saturating_mul(rows))
            }
            OutputBound::Range => {
                // The range may ascend or descend.
                let ((from, top), (bottom, to)) = match args {
                    [to] => ((0, 0), range_of(Some(to))),
                    _ => (range_of(args.first()), range_of(args.get(1))),
                };
                let far = to.abs_diff(from).max(top.abs_diff(bottom));
                (far / step_of(args.get(2))).saturating_mul(8).saturating_mul(rows)
            }
            OutputBound::Sum => (0..args.len()).map(size).fold(0, u64::saturating_add),
            OutputBound::Replaced => {
                let (found, put) = (size(1) / rows.max(1), size(2) / rows.max(1));
                // A value in memory is larger than its text, so only a clearly longer replacement
                // counts.
                if put <= found.max(256) { size(0) } else { size(0).saturating_mul(put) }
            }
        }
    }
}

/// The least and the greatest integer in an argument; times as microseconds, zero if it has none.
fn range_of(arg: Option<&ColumnarValue>) -> (i64, i64) {
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

/// The least step in an argument, an interval as microseconds; at least 1.
fn step_of(arg: Option<&ColumnarValue>) -> u64 {
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

    async fn answer(sql: &str) -> String {
        let context = crate::session::new_session(Arc::default());
        let rows = async { context.sql(sql).await?.collect().await };
        match rows.await {
            Ok(rows) => pretty_format_batches(&rows).expect("a table").to_string(),
            Err(error) => error.to_string(),
        }
    }

    #[tokio::test]
    async fn a_result_beyond_the_bound_is_refused_before_it_is_computed() {
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
            let refused = answer(sql).await;
            assert!(refused.contains("at most 134217728 are allowed"), "{sql}: {refused}");
        }
    }

    #[tokio::test]
    async fn a_large_constant_is_computed_when_the_plan_runs() {
        for (sql, call) in [
            ("SELECT range(0, 90000 + 9999)", "range(0, 99999)"),
            ("SELECT lpad('x', 1000 * 1000)", "lpad(x, 1000000)"),
            ("SELECT range(0, n) FROM (SELECT 999999 AS n)", "range(0, 999999)"),
            ("SELECT concat(repeat('x', 100000), 'y')", "concat(repeat(x, 100000), y)"),
            ("SELECT 1 WHERE array_length(range(0, 99999)) = 99999", "array_length(range(0, 99999)) = 99999"),
        ] {
            let plan = answer(&format!("EXPLAIN {sql}")).await;
            let shown: String = plan.chars().filter(|c| *c != '"').collect();
            let [call, shown] =
                [call, &shown].map(|text| text.replace("Utf8(x)", "x").replace("Utf8(y)", "y"));
            let shown = shown.replace("Int64(", "").replace(')', "");
            assert!(shown.contains(&call.replace(')', "")), "{sql}: {plan}");
            assert!(plan.len() < 4000, "{sql}: the plan has {} bytes", plan.len());
        }
        // A small result is folded, as without the bound.
        let plan =
            answer("EXPLAIN SELECT * FROM generate_series(1, 9) WHERE value = length(repeat('x', 7))").await;
        assert!(plan.contains("value@0 = 7"), "{plan}");
        // A batch repeats a constant in every row.
        let refused =
            answer("SELECT count(DISTINCT lpad('x', 100000)) FROM generate_series(1, 100000)").await;
        assert!(refused.contains("at most 134217728 are allowed"), "{refused}");
    }

    #[tokio::test]
    async fn a_result_of_common_size_is_unchanged() {
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
            let shown = answer(sql).await;
            assert!(shown.contains(value), "{sql}: {shown}");
        }
    }
}
