//! Changelog tables, read as their current rows.
//!
//! A table with a column `_diff` is a changelog: each of its rows adds (+1) or retracts (-1) a row
//! at its tick. Under its own name the table reads as the rows that are current at the statement's
//! tick, without `_diff`, and with the tick of the row's last change in `_tick`. `NAME_changes` has
//! every change.

use std::borrow::Cow;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::view::ViewTable;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::Column;
use datafusion::datasource::provider_as_source;
use datafusion::error::Result as DataFusionResult;
use datafusion::functions_aggregate::expr_fn::{max, sum};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, TableType, lit};
use datafusion::physical_plan::ExecutionPlan;
use tidegate_facts::{Tick, columns};

use crate::live_session::AsOfTable;

/// The name of the table that holds all changes of the changelog `table`.
pub(crate) fn changes_name(table: &str) -> String {
    format!("{table}_changes")
}

/// Whether a table with this schema is a changelog.
pub(crate) fn is_changelog(schema: &SchemaRef) -> bool {
    schema.index_of(columns::DIFF).is_ok()
}

/// A view of the current rows of a changelog; plans name the changes after `name`.
///
/// # Panics
/// When `changes` lacks `_tick` or `_diff`.
pub(crate) fn current_state(name: &str, changes: Arc<dyn TableProvider>) -> ViewTable {
    ViewTable::new(accumulated(name, changes).expect("a changelog can be grouped by its columns"), None)
}

fn accumulated(name: &str, changes: Arc<dyn TableProvider>) -> DataFusionResult<LogicalPlan> {
    let schema = changes.schema();
    let column = |name: &str| Expr::Column(Column::new_unqualified(name));
    let is_time = |name: &str| name == columns::TICK || name == columns::DIFF;
    let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    let same = names.iter().filter(|name| !is_time(name)).map(|name| column(name));
    let last = max(column(columns::TICK)).alias(columns::TICK);
    let total = sum(column(columns::DIFF)).alias(columns::DIFF);
    let projected = names.iter().filter(|name| **name != columns::DIFF).map(|name| column(name));
    LogicalPlanBuilder::scan(changes_name(name), provider_as_source(changes), None)?
        .aggregate(same, [last, total])?
        .filter(column(columns::DIFF).gt(lit(0i64)))?
        .project(projected)?
        .build()
}

/// The current rows of a changelog of a running topology, as a table.
#[derive(Debug)]
pub(crate) struct LiveCurrentState {
    changes: Arc<dyn AsOfTable>,
    view: ViewTable,
}

impl LiveCurrentState {
    pub(crate) fn new(changes: Arc<dyn AsOfTable>) -> LiveCurrentState {
        let view = current_state(changes.name(), Arc::clone(&changes) as Arc<dyn TableProvider>);
        LiveCurrentState { changes, view }
    }
}

impl AsOfTable for LiveCurrentState {
    fn name(&self) -> &str {
        self.changes.name()
    }

    fn as_of(&self, before: Tick) -> Arc<dyn TableProvider> {
        Arc::new(current_state(self.name(), self.changes.as_of(before)))
    }
}

#[async_trait]
impl TableProvider for LiveCurrentState {
    fn schema(&self) -> SchemaRef {
        self.view.schema()
    }

    fn table_type(&self) -> TableType {
        self.view.table_type()
    }

    fn get_logical_plan(&self) -> Option<Cow<'_, LogicalPlan>> {
        self.view.get_logical_plan()
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        self.view.scan(state, projection, filters, limit).await
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
    use arrow::util::pretty::pretty_format_batches;
    use datafusion::datasource::MemTable;
    use datafusion::prelude::SessionContext;
    use expect_test::expect;

    use super::*;

    #[tokio::test]
    async fn a_changelog_reads_as_its_current_rows_and_filters_apply_to_its_changes() {
        let columns: [(&str, ArrayRef); 4] = [
            (columns::TICK, Arc::new(columns::TickArray::from(vec![1, 2, 4, 4, 5, 6, 7]))),
            ("claim", Arc::new(StringArray::from(vec!["a", "b", "a", "a", "c", "c", "b"]))),
            ("status", Arc::new(StringArray::from(vec!["on", "on", "on", "off", "on", "on", "on"]))),
            (columns::DIFF, Arc::new(Int64Array::from(vec![1, 1, -1, 1, 1, -1, -1]))),
        ];
        let rows = RecordBatch::try_from_iter(columns).expect("the columns have one length");
        let upto = |count| {
            let part = rows.slice(0, count);
            let changes = MemTable::try_new(part.schema(), vec![vec![part]]).expect("one schema");
            Arc::new(current_state("claims", Arc::new(changes)))
        };
        let context = SessionContext::new();
        context.register_table("claims", upto(6)).expect("a free name");
        context.register_table("later", upto(7)).expect("a free name");
        let answer = async |sql: &str| {
            let rows = context.sql(sql).await.expect("a statement").collect().await.expect("an answer");
            pretty_format_batches(&rows).expect("texts and numbers").to_string()
        };
        expect![[r#"
            +-------+-------+--------+
            | _tick | claim | status |
            +-------+-------+--------+
            | 4     | a     | off    |
            | 2     | b     | on     |
            +-------+-------+--------+"#]]
        .assert_eq(&answer("SELECT * FROM claims ORDER BY claim").await);
        expect![[r#"
            +-------+-------+--------+
            | _tick | claim | status |
            +-------+-------+--------+
            | 4     | a     | off    |
            +-------+-------+--------+"#]]
        .assert_eq(&answer("SELECT * FROM later").await);
        let plan = answer("EXPLAIN SELECT status FROM claims WHERE claim = 'a'").await;
        let (filter, aggregate) = (plan.find("claim = Utf8(\"a\")"), plan.find("Aggregate:"));
        assert!(aggregate.is_some() && filter > aggregate, "the filter is below the sum: {plan}");
    }
}
