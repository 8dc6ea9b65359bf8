//! SQL expressions over batches, and the error rows for those that they fail on.
//!
//! An expression is planned once against the schema of its input and then evaluated batch by batch.
//! When a batch fails it is halved until the failing rows are found; these go to the `errors`
//! stream with their cause, and all other rows pass.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, StringArray, new_null_array};
use arrow::compute::{concat, filter_record_batch, prep_null_mask_filter};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::physical_expr::PhysicalExpr;
use tidegate_facts::columns;

use crate::core::rows::ticks_of;

/// A planned SQL expression, which operators evaluate on batches, and the text it was planned from.
#[derive(Clone, Debug)]
pub struct Expr {
    /// The SQL text, as error rows contain it.
    pub text: Arc<str>,
    /// The DataFusion plan.
    pub physical: Arc<dyn PhysicalExpr>,
    /// The type of its values.
    pub data_type: DataType,
}

/// A row of a batch for which a SQL expression could not be evaluated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowError {
    /// The index of the row in its batch.
    pub row: usize,
    /// The evaluator's message.
    pub cause: String,
}

impl Expr {
    /// The expression's value for each row, null where the evaluation failed, and the errors by
    /// row, ascending.
    pub fn evaluate(&self, batch: &RecordBatch) -> (ArrayRef, Vec<RowError>) {
        let mut errors = Vec::new();
        let values = self.bisect(batch, 0, &mut errors);
        (values, errors)
    }

    fn bisect(&self, batch: &RecordBatch, first_row: usize, errors: &mut Vec<RowError>) -> ArrayRef {
        match self.physical.evaluate(batch).and_then(|value| value.into_array(batch.num_rows())) {
            Ok(values) => values,
            Err(_) if batch.num_rows() > 1 => {
                let half = batch.num_rows() / 2;
                let left = self.bisect(&batch.slice(0, half), first_row, errors);
                let right =
                    self.bisect(&batch.slice(half, batch.num_rows() - half), first_row + half, errors);
                concat(&[&left, &right]).expect("both halves have the expression's type")
            }
            Err(error) => {
                errors.push(RowError { row: first_row, cause: error.strip_backtrace() });
                new_null_array(&self.data_type, batch.num_rows())
            }
        }
    }
}

/// A projection by SQL expressions: computes the columns of a `project` node's rows from its input.
pub struct Projection {
    /// The origin and the field of each column.
    columns: Vec<(ProjectedColumn, Field)>,
    node: Arc<str>,
    schema: SchemaRef,
}

/// The origin of one column of a projection: an input column, or a SQL expression.
#[derive(Clone, Debug)]
pub enum ProjectedColumn {
    /// The column of the input with this index, unchanged.
    Input(usize),
    /// The values of an expression.
    Computed(Expr),
}

impl Projection {
    /// A projection to `columns`; error rows name `node`.
    pub fn new(node: &str, columns: Vec<(ProjectedColumn, Field)>) -> Projection {
        let schema =
            Arc::new(Schema::new(columns.iter().map(|(_, field)| field.clone()).collect::<Vec<_>>()));
        Projection { columns, node: node.into(), schema }
    }

    /// The origin of each column of the projection, in order.
    pub fn columns(&self) -> impl Iterator<Item = &ProjectedColumn> {
        self.columns.iter().map(|(column, _)| column)
    }

    /// The schema of the projected rows.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Projects a batch; rows for which an expression fails become error rows.
    pub fn apply(&self, batch: &RecordBatch) -> Split {
        let mut errors = ErrorCollector::new(&self.node, batch);
        let arrays: Vec<ArrayRef> = self
            .columns
            .iter()
            .map(|(column, _)| match column {
                ProjectedColumn::Input(index) => Arc::clone(batch.column(*index)),
                ProjectedColumn::Computed(expr) => errors.evaluate(expr),
            })
            .collect();
        if errors.is_empty() {
            let passed = RecordBatch::try_new(Arc::clone(&self.schema), arrays);
            return Split { passed: passed.expect("the plan checked the columns' types"), errors: None };
        }
        let projected = RecordBatch::try_new(nullable(&self.schema), arrays);
        let split = errors.split(projected.expect("the plan checked the columns' types"));
        let passed = RecordBatch::try_new(Arc::clone(&self.schema), split.passed.columns().to_vec());
        Split { passed: passed.expect("only failed rows have nulls in such columns"), ..split }
    }
}

fn nullable(schema: &Schema) -> SchemaRef {
    Arc::new(Schema::new(
        schema.fields().iter().map(|f| f.as_ref().clone().with_nullable(true)).collect::<Vec<_>>(),
    ))
}

/// Passes the rows of a batch for which the SQL expression `condition` is true, drops those for
/// which it is false or null, and returns those for which it fails as error rows of `node`.
pub fn filter(node: &str, condition: &Expr, batch: &RecordBatch) -> Split {
    let mut errors = ErrorCollector::new(node, batch);
    let holds = errors.evaluate(condition);
    let mut holds = holds.as_boolean().clone();
    if holds.null_count() > 0 {
        holds = prep_null_mask_filter(&holds);
    }
    let passed = match holds.true_count() {
        all if all == batch.num_rows() => batch.clone(),
        0 => batch.slice(0, 0), // Arrow would copy every column.
        _ => filter_record_batch(batch, &holds).expect("the condition has a value for each row"),
    };
    Split { passed, errors: errors.into_batch() }
}

/// The result of evaluating expressions row by row: passed rows, and rows of the `errors` stream.
pub struct Split {
    /// The rows for which no expression failed.
    pub passed: RecordBatch,
    /// One row for each failed evaluation, in the schema [`error_schema`].
    pub errors: Option<RecordBatch>,
}

/// The schema of the `errors` stream of failed expressions: the fact's tick, the node, the
/// expression, and the cause.
pub fn error_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        columns::tick_field(columns::TICK),
        Field::new("node", DataType::Utf8, false),
        Field::new("expression", DataType::Utf8, false),
        Field::new("cause", DataType::Utf8, false),
    ]))
}

/// Collects the errors of the expressions that are evaluated on one batch.
pub struct ErrorCollector<'b> {
    node: &'b str,
    batch: &'b RecordBatch,
    /// Each error with the text of its expression.
    errors: Vec<(RowError, Arc<str>)>,
}

impl<'b> ErrorCollector<'b> {
    /// A collector for the expressions of one batch, without errors.
    pub fn new(node: &'b str, batch: &'b RecordBatch) -> ErrorCollector<'b> {
        ErrorCollector { node, batch, errors: Vec::new() }
    }

    /// Evaluates an expression on the batch and collects its errors; failed rows have a null.
    pub fn evaluate(&mut self, expr: &Expr) -> ArrayRef {
        let (values, errors) = expr.evaluate(self.batch);
        self.add(expr, errors);
        values
    }

    /// Adds errors of the expression `expr` on this batch.
    pub fn add(&mut self, expr: &Expr, errors: Vec<RowError>) {
        self.errors.extend(errors.into_iter().map(|error| (error, Arc::clone(&expr.text))));
    }

    /// Whether no expression failed on the batch.
    pub fn is_empty(&self) -> bool {
        self.errors.is_empty()
    }

    /// The indexes of the rows for which an expression failed, each once, ascending.
    pub fn rows(&self) -> Vec<usize> {
        let mut rows: Vec<usize> = self.errors.iter().map(|(error, _)| error.row).collect();
        rows.sort_unstable();
        rows.dedup();
        rows
    }

    /// Splits `derived`, which has one row for each row of this batch, into passed rows and errors.
    pub fn split(self, derived: RecordBatch) -> Split {
        if self.is_empty() {
            return Split { passed: derived, errors: None };
        }
        let failed = self.rows();
        let passed: BooleanArray =
            (0..derived.num_rows()).map(|row| Some(failed.binary_search(&row).is_err())).collect();
        let passed = filter_record_batch(&derived, &passed).expect("one flag for each row");
        Split { passed, errors: self.into_batch() }
    }

    /// The expressions' errors as rows of the `errors` stream, in the order of the batch; `None`
    /// without errors.
    pub fn into_batch(mut self) -> Option<RecordBatch> {
        if self.errors.is_empty() {
            return None;
        }
        self.errors.sort_by_key(|(error, _)| error.row);
        let ticks = ticks_of(self.batch);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(columns::TickArray::from_iter_values(
                self.errors.iter().map(|(e, _)| ticks.value(e.row)),
            )),
            Arc::new(StringArray::from_iter_values(self.errors.iter().map(|_| self.node))),
            Arc::new(StringArray::from_iter_values(self.errors.iter().map(|(_, text)| text.as_ref()))),
            Arc::new(StringArray::from_iter_values(self.errors.iter().map(|(e, _)| e.cause.as_str()))),
        ];
        Some(RecordBatch::try_new(error_schema(), columns).expect("the columns match the schema"))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use arrow::array::Int64Array;
    use arrow::datatypes::Int64Type;
    use datafusion::common::DFSchema;
    use datafusion::prelude::SessionContext;

    use super::*;

    /// Plans an expression as the planner does.
    pub(crate) fn plan(text: &str, schema: &Schema) -> Expr {
        let context = SessionContext::new();
        let columns = DFSchema::try_from(schema.clone()).expect("the names are unique");
        let logical = context.parse_sql_expr(text, &columns).expect("the test's SQL is right");
        let physical = context.create_physical_expr(logical, &columns).expect("the test's types are right");
        let data_type = physical.data_type(schema).expect("the test's types are right");
        Expr { text: text.into(), physical, data_type }
    }

    /// Rows with ticks 100, 101, ..
    fn rows(x: &[Option<i64>]) -> RecordBatch {
        let ticks = columns::TickArray::from_iter_values((0..x.len() as i64).map(|row| 100 + row));
        let fields = vec![columns::tick_field(columns::TICK), Field::new("x", DataType::Int64, true)];
        let columns: Vec<ArrayRef> = vec![Arc::new(ticks), Arc::new(Int64Array::from(x.to_vec()))];
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).expect("the columns have one length")
    }

    #[test]
    fn exactly_the_faulty_rows_fail_wherever_they_are() {
        let cases: [&[usize]; 6] = [&[], &[0], &[6], &[2, 3], &[0, 1, 2, 3, 4, 5, 6], &[1, 5]];
        for faulty in cases {
            let batch =
                rows(&(0..7).map(|row| Some(if faulty.contains(&row) { 0 } else { 4 })).collect::<Vec<_>>());
            let (values, errors) = plan("8 / x", &batch.schema()).evaluate(&batch);
            assert_eq!(errors.iter().map(|error| error.row).collect::<Vec<_>>(), faulty);
            assert!(errors.iter().all(|error| error.cause.contains("Divide by zero")), "{errors:?}");
            let expected: Int64Array = (0..7).map(|row| (!faulty.contains(&row)).then_some(2)).collect();
            assert_eq!(values.as_primitive::<Int64Type>(), &expected);
        }
    }

    #[test]
    fn a_null_is_not_an_error() {
        let batch = rows(&[None, Some(2), Some(0)]);
        let (values, errors) = plan("8 / x", &batch.schema()).evaluate(&batch);
        assert_eq!(values.as_primitive::<Int64Type>(), &Int64Array::from(vec![None, Some(4), None]));
        assert_eq!(errors.iter().map(|error| error.row).collect::<Vec<_>>(), [2]);
    }

    #[test]
    fn a_projection_passes_the_other_rows_and_reports_each_error() {
        let batch = rows(&[Some(1), Some(0), Some(2)]);
        let divided = plan("8 / x", &batch.schema());
        let remainder = plan("8 % x", &batch.schema());
        let projection = Projection::new(
            "halves",
            vec![
                (ProjectedColumn::Input(0), columns::tick_field(columns::TICK)),
                (ProjectedColumn::Computed(divided), Field::new("divided", DataType::Int64, false)),
                (ProjectedColumn::Computed(remainder), Field::new("remainder", DataType::Int64, true)),
            ],
        );
        let split = projection.apply(&batch);
        assert_eq!(split.passed.schema(), *projection.schema());
        assert_eq!(split.passed.column(1).as_primitive::<Int64Type>().values(), &[8, 4]);
        assert_eq!(ticks_of(&split.passed).values(), &[100, 102]);
        let errors = split.errors.expect("one row failed twice");
        assert_eq!(ticks_of(&errors).values(), &[101, 101]);
        let texts =
            |column: usize| errors.column(column).as_string::<i32>().iter().flatten().collect::<Vec<_>>();
        assert_eq!(texts(1), ["halves", "halves"]);
        assert_eq!(texts(2), ["8 / x", "8 % x"]);
    }

    #[test]
    fn a_filter_passes_rows_whose_condition_is_true_and_neither_null_nor_failed() {
        let batch = rows(&[Some(1), Some(0), None, Some(9)]);
        let split = filter("big", &plan("8 / x > 0", &batch.schema()), &batch);
        assert_eq!(ticks_of(&split.passed).values(), &[100]);
        assert_eq!(ticks_of(&split.errors.expect("one row failed")).values(), &[101]);
    }
}
