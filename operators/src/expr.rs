//! SQL expressions over batches, and what becomes of the rows they fail on.
//!
//! An expression is planned once against the schema of its input and then evaluated batch by batch.
//! When a batch fails it is halved down to the faulty rows; their cause goes to the `errors` stream
//! and the other rows are not touched by it.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, RecordBatch, StringArray, UInt64Array, new_null_array,
};
use arrow::compute::{concat, filter_record_batch, prep_null_mask_filter};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::physical_expr::PhysicalExpr;
use tidegate_facts::columns;

use crate::rows::ticks_of;

/// A planned expression and the text it was planned from.
#[derive(Clone, Debug)]
pub struct Expr {
    /// The SQL text, as errors show it.
    pub text: Arc<str>,
    /// The plan.
    pub physical: Arc<dyn PhysicalExpr>,
    /// The type of its values.
    pub data_type: DataType,
}

/// One row that an expression could not be evaluated on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowFault {
    /// The row in the batch.
    pub row: usize,
    /// Why, a sentence of the evaluator.
    pub cause: String,
}

impl Expr {
    /// The value of each row, null where it failed, and the rows where it did.
    pub fn evaluate(&self, batch: &RecordBatch) -> (ArrayRef, Vec<RowFault>) {
        let mut faults = Vec::new();
        let values = self.halve(batch, 0, &mut faults);
        (values, faults)
    }

    fn halve(&self, batch: &RecordBatch, first_row: usize, faults: &mut Vec<RowFault>) -> ArrayRef {
        match self.physical.evaluate(batch).and_then(|value| value.into_array(batch.num_rows())) {
            Ok(values) => values,
            Err(_) if batch.num_rows() > 1 => {
                let half = batch.num_rows() / 2;
                let left = self.halve(&batch.slice(0, half), first_row, faults);
                let right = self.halve(&batch.slice(half, batch.num_rows() - half), first_row + half, faults);
                concat(&[&left, &right]).expect("both halves have the expression's type")
            }
            Err(error) => {
                faults.push(RowFault { row: first_row, cause: error.strip_backtrace() });
                new_null_array(&self.data_type, batch.num_rows())
            }
        }
    }
}

/// Computes columns of each row; the shape of `project`.
pub struct Projection {
    /// Where each column comes from.
    columns: Vec<(Column, Field)>,
    node: Arc<str>,
    schema: SchemaRef,
}

/// Where one column of a projection comes from.
#[derive(Clone, Debug)]
pub enum Column {
    /// The input's column of that place, as it is.
    Kept(usize),
    /// An expression.
    Computed(Expr),
}

impl Projection {
    /// The projection of node `node` that gives `columns`.
    pub fn new(node: &str, columns: Vec<(Column, Field)>) -> Projection {
        let schema =
            Arc::new(Schema::new(columns.iter().map(|(_, field)| field.clone()).collect::<Vec<_>>()));
        Projection { columns, node: node.into(), schema }
    }

    /// Where each column comes from, in order.
    pub fn columns(&self) -> impl Iterator<Item = &Column> {
        self.columns.iter().map(|(column, _)| column)
    }

    /// The schema of the projected rows.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The projected rows, and those that an expression failed on.
    pub fn apply(&self, batch: &RecordBatch) -> Split {
        let mut errors = Errors::new(&self.node, batch);
        let arrays: Vec<ArrayRef> = self
            .columns
            .iter()
            .map(|(column, _)| match column {
                Column::Kept(place) => Arc::clone(batch.column(*place)),
                Column::Computed(expr) => errors.evaluate(expr),
            })
            .collect();
        if errors.is_empty() {
            let passed = RecordBatch::try_new(Arc::clone(&self.schema), arrays);
            return Split { passed: passed.expect("the plan gave the columns' types"), errors: None };
        }
        let projected = RecordBatch::try_new(nullable(&self.schema), arrays);
        let split = errors.split(projected.expect("the plan gave the columns' types"));
        let passed = RecordBatch::try_new(Arc::clone(&self.schema), split.passed.columns().to_vec());
        Split { passed: passed.expect("faulty rows are out"), ..split }
    }
}

fn nullable(schema: &Schema) -> SchemaRef {
    Arc::new(Schema::new(
        schema.fields().iter().map(|f| f.as_ref().clone().with_nullable(true)).collect::<Vec<_>>(),
    ))
}

/// The rows of which `condition` is true, and those that it failed on; the shape of `filter`.
pub fn filter(node: &str, condition: &Expr, batch: &RecordBatch) -> Split {
    let mut errors = Errors::new(node, batch);
    let holds = errors.evaluate(condition);
    let mut holds = holds.as_boolean().clone();
    if holds.null_count() > 0 {
        holds = prep_null_mask_filter(&holds);
    }
    let passed = match holds.true_count() {
        all if all == batch.num_rows() => batch.clone(),
        0 => batch.slice(0, 0), // Arrow would make every column anew.
        _ => filter_record_batch(batch, &holds).expect("one condition for each row"),
    };
    Split { passed, errors: errors.into_batch() }
}

/// Rows that go on, and rows of the `errors` stream.
pub struct Split {
    /// The rows that nothing failed on.
    pub passed: RecordBatch,
    /// One row for each failure, in the schema of [`error_schema`].
    pub errors: Option<RecordBatch>,
}

/// The columns of the `errors` stream: which fact, at which node, which expression, and why.
pub fn error_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new(columns::TICK, DataType::UInt64, false),
        Field::new("node", DataType::Utf8, false),
        Field::new("expression", DataType::Utf8, false),
        Field::new("cause", DataType::Utf8, false),
    ]))
}

/// Gathers the failures of one batch.
pub struct Errors<'b> {
    node: &'b str,
    batch: &'b RecordBatch,
    faults: Vec<(RowFault, Arc<str>)>,
}

impl<'b> Errors<'b> {
    /// No failures yet.
    pub fn new(node: &'b str, batch: &'b RecordBatch) -> Errors<'b> {
        Errors { node, batch, faults: Vec::new() }
    }

    /// The expression's values; its failures are kept here.
    pub fn evaluate(&mut self, expr: &Expr) -> ArrayRef {
        let (values, faults) = expr.evaluate(self.batch);
        self.add(expr, faults);
        values
    }

    /// Keeps failures that `expr` had on this batch.
    pub fn add(&mut self, expr: &Expr, faults: Vec<RowFault>) {
        self.faults.extend(faults.into_iter().map(|fault| (fault, Arc::clone(&expr.text))));
    }

    /// Whether nothing failed.
    pub fn is_empty(&self) -> bool {
        self.faults.is_empty()
    }

    /// The rows with a failure, each once, ascending.
    pub fn rows(&self) -> Vec<usize> {
        let mut rows: Vec<usize> = self.faults.iter().map(|(fault, _)| fault.row).collect();
        rows.sort_unstable();
        rows.dedup();
        rows
    }

    /// `derived`, row for row from this batch, without the rows that failed.
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

    /// The failures as rows of the `errors` stream, in the order of the facts.
    pub fn into_batch(mut self) -> Option<RecordBatch> {
        if self.faults.is_empty() {
            return None;
        }
        self.faults.sort_by_key(|(fault, _)| fault.row);
        let ticks = ticks_of(self.batch);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(UInt64Array::from_iter_values(self.faults.iter().map(|(f, _)| ticks.value(f.row)))),
            Arc::new(StringArray::from_iter_values(self.faults.iter().map(|_| self.node))),
            Arc::new(StringArray::from_iter_values(self.faults.iter().map(|(_, text)| text.as_ref()))),
            Arc::new(StringArray::from_iter_values(self.faults.iter().map(|(f, _)| f.cause.as_str()))),
        ];
        Some(RecordBatch::try_new(error_schema(), columns).expect("the columns were made for the schema"))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use arrow::array::Int64Array;
    use arrow::datatypes::Int64Type;
    use datafusion::common::DFSchema;
    use datafusion::prelude::SessionContext;

    use super::*;

    /// An expression as the plan makes it.
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
        let ticks = UInt64Array::from_iter_values((0..x.len() as u64).map(|row| 100 + row));
        let fields =
            vec![Field::new(columns::TICK, DataType::UInt64, false), Field::new("x", DataType::Int64, true)];
        let columns: Vec<ArrayRef> = vec![Arc::new(ticks), Arc::new(Int64Array::from(x.to_vec()))];
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).expect("the columns have one length")
    }

    #[test]
    fn exactly_the_faulty_rows_fail_wherever_they_stand() {
        let places: [&[usize]; 6] = [&[], &[0], &[6], &[2, 3], &[0, 1, 2, 3, 4, 5, 6], &[1, 5]];
        for faulty in places {
            let batch =
                rows(&(0..7).map(|row| Some(if faulty.contains(&row) { 0 } else { 4 })).collect::<Vec<_>>());
            let (values, faults) = plan("8 / x", &batch.schema()).evaluate(&batch);
            assert_eq!(faults.iter().map(|fault| fault.row).collect::<Vec<_>>(), faulty);
            assert!(faults.iter().all(|fault| fault.cause.contains("Divide by zero")), "{faults:?}");
            let wanted: Int64Array = (0..7).map(|row| (!faulty.contains(&row)).then_some(2)).collect();
            assert_eq!(values.as_primitive::<Int64Type>(), &wanted);
        }
    }

    #[test]
    fn a_null_is_no_fault() {
        let batch = rows(&[None, Some(2), Some(0)]);
        let (values, faults) = plan("8 / x", &batch.schema()).evaluate(&batch);
        assert_eq!(values.as_primitive::<Int64Type>(), &Int64Array::from(vec![None, Some(4), None]));
        assert_eq!(faults.iter().map(|fault| fault.row).collect::<Vec<_>>(), [2]);
    }

    #[test]
    fn a_projection_passes_the_other_rows_and_tells_of_each_failure() {
        let batch = rows(&[Some(1), Some(0), Some(2)]);
        let divided = plan("8 / x", &batch.schema());
        let remainder = plan("8 % x", &batch.schema());
        let projection = Projection::new(
            "halves",
            vec![
                (Column::Kept(0), Field::new(columns::TICK, DataType::UInt64, false)),
                (Column::Computed(divided), Field::new("divided", DataType::Int64, false)),
                (Column::Computed(remainder), Field::new("remainder", DataType::Int64, true)),
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
    fn a_filter_passes_what_is_true_and_neither_null_nor_faulty() {
        let batch = rows(&[Some(1), Some(0), None, Some(9)]);
        let split = filter("big", &plan("8 / x > 0", &batch.schema()), &batch);
        assert_eq!(ticks_of(&split.passed).values(), &[100]);
        assert_eq!(ticks_of(&split.errors.expect("one row failed")).values(), &[101]);
    }
}
