//! Changelogs as they stand: what was said and not taken back.
//!
//! A table whose rows have a `_diff` is a changelog: each row is said (+1) or taken back (-1) at its tick. Under its own name it
//! reads as what stands at the statement's tick, without `_diff`, `_tick` being that of the last change of the row; and
//! `NAME_changes` has every change.

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

use crate::live::Dated;

/// What a changelog is called that reads as all of its changes.
pub(crate) fn changes_name(table: &str) -> String {
    format!("{table}_changes")
}

/// Whether rows of these columns are changes.
pub(crate) fn is_changelog(schema: &SchemaRef) -> bool {
    schema.index_of(columns::DIFF).is_ok()
}

/// What stands of the changes in `changes`, which are called `name` in plans.
///
/// # Panics
/// When they have no `_tick` and no `_diff`.
pub(crate) fn standing(name: &str, changes: Arc<dyn TableProvider>) -> ViewTable {
    ViewTable::new(accumulated(name, changes).expect("changes can be added up by their own columns"), None)
}

fn accumulated(name: &str, changes: Arc<dyn TableProvider>) -> DataFusionResult<LogicalPlan> {
    let schema = changes.schema();
    let column = |name: &str| Expr::Column(Column::new_unqualified(name));
    let is_time = |name: &str| name == columns::TICK || name == columns::DIFF;
    let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    let same = names.iter().filter(|name| !is_time(name)).map(|name| column(name));
    let last = max(column(columns::TICK)).alias(columns::TICK);
    let stands = sum(column(columns::DIFF)).alias(columns::DIFF);
    let shown = names.iter().filter(|name| **name != columns::DIFF).map(|name| column(name));
    LogicalPlanBuilder::scan(changes_name(name), provider_as_source(changes), None)?
        .aggregate(same, [last, stands])?
        .filter(column(columns::DIFF).gt(lit(0i64)))?
        .project(shown)?
        .build()
}

/// A changelog of a running topology, as it stands.
#[derive(Debug)]
pub(crate) struct LiveStanding {
    changes: Arc<dyn Dated>,
    view: ViewTable,
}

impl LiveStanding {
    pub(crate) fn new(changes: Arc<dyn Dated>) -> LiveStanding {
        let view = standing(changes.name(), Arc::clone(&changes) as Arc<dyn TableProvider>);
        LiveStanding { changes, view }
    }
}

impl Dated for LiveStanding {
    fn name(&self) -> &str {
        self.changes.name()
    }

    fn as_of(&self, before: Tick) -> Arc<dyn TableProvider> {
        Arc::new(standing(self.name(), self.changes.as_of(before)))
    }
}

#[async_trait]
impl TableProvider for LiveStanding {
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
    use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, UInt64Array};
    use arrow::util::pretty::pretty_format_batches;
    use datafusion::datasource::MemTable;
    use datafusion::prelude::SessionContext;
    use expect_test::expect;

    use super::*;

    #[tokio::test]
    async fn a_changelog_reads_as_what_stands_and_filters_are_asked_of_its_changes() {
        let columns: [(&str, ArrayRef); 4] = [
            (columns::TICK, Arc::new(UInt64Array::from(vec![1, 2, 4, 4, 5, 6, 7]))),
            ("claim", Arc::new(StringArray::from(vec!["a", "b", "a", "a", "c", "c", "b"]))),
            ("status", Arc::new(StringArray::from(vec!["on", "on", "on", "off", "on", "on", "on"]))),
            (columns::DIFF, Arc::new(Int64Array::from(vec![1, 1, -1, 1, 1, -1, -1]))),
        ];
        let rows = RecordBatch::try_from_iter(columns).expect("the columns have one length");
        let upto = |count| {
            let part = rows.slice(0, count);
            let changes = MemTable::try_new(part.schema(), vec![vec![part]]).expect("one schema");
            Arc::new(standing("claims", Arc::new(changes)))
        };
        let context = SessionContext::new();
        context.register_table("claims", upto(6)).expect("a free name");
        context.register_table("later", upto(7)).expect("a free name");
        let ask = async |sql: &str| {
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
        .assert_eq(&ask("SELECT * FROM claims ORDER BY claim").await);
        expect![[r#"
            +-------+-------+--------+
            | _tick | claim | status |
            +-------+-------+--------+
            | 4     | a     | off    |
            +-------+-------+--------+"#]]
        .assert_eq(&ask("SELECT * FROM later").await);
        let plan = ask("EXPLAIN SELECT status FROM claims WHERE claim = 'a'").await;
        let (filter, aggregate) = (plan.find("claim = Utf8(\"a\")"), plan.find("Aggregate:"));
        assert!(aggregate.is_some() && filter > aggregate, "the filter stands below the sum: {plan}");
    }
}
