//! A physical optimizer rule that makes operators which multiply rows yield their thread.
//!
//! DataFusion yields where rows are read. A join with both sides in memory, or an `UNNEST`, emits
//! batch after batch without reading, and an aggregate above it consumes them in one poll. Such a
//! statement could neither be cancelled nor share its thread until it was done, which for three
//! tables may take days. The rule puts a [`CooperativeExec`] above each such operator, as
//! DataFusion puts one above each scan.

use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::error::Result as DataFusionResult;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::coop::CooperativeExec;

/// The operators that can emit many more rows than they read.
const MULTIPLY: [&str; 8] = [
    "CrossJoinExec",
    "HashJoinExec",
    "NestedLoopJoinExec",
    "PiecewiseMergeJoinExec",
    "RecursiveQueryExec",
    "SortMergeJoinExec",
    "SymmetricHashJoinExec",
    "UnnestExec",
];

/// Puts a [`CooperativeExec`] above each operator of [`MULTIPLY`].
#[derive(Debug)]
pub(crate) struct YieldRule;

impl PhysicalOptimizerRule for YieldRule {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        _: &ConfigOptions,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let transformed = plan.transform_up(|node| {
            Ok(match MULTIPLY.contains(&node.name()) {
                true => Transformed::yes(Arc::new(CooperativeExec::new(node)) as Arc<dyn ExecutionPlan>),
                false => Transformed::no(node),
            })
        });
        transformed.map(|transformed| transformed.data)
    }

    fn name(&self) -> &'static str {
        "cooperative_yield"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use datafusion::execution::SessionStateBuilder;
    use datafusion::prelude::{SessionConfig, SessionContext};

    use super::*;

    #[tokio::test]
    async fn a_statement_that_multiplies_rows_can_be_cancelled() {
        let state = SessionStateBuilder::new()
            .with_config(SessionConfig::new().with_target_partitions(1))
            .with_default_features()
            .with_physical_optimizer_rule(Arc::new(YieldRule))
            .build();
        let context = SessionContext::new_with_state(state);
        let rows = "(SELECT value FROM generate_series(1, 10000))";
        for sql in [
            format!("SELECT sum(a.value * b.value + c.value) FROM {rows} a, {rows} b, {rows} c"),
            format!(
                "SELECT sum(a.value) FROM {rows} a JOIN {rows} b ON a.value % 1 = b.value % 1 JOIN {rows} c ON a.value % 1 = c.value % 1"
            ),
            format!(
                "SELECT sum(a.value) FROM {rows} a JOIN {rows} b ON a.value < b.value + 10000 JOIN {rows} c ON a.value < c.value + 10000"
            ),
        ] {
            // If the statement did not yield, nothing else would run on this one thread, not even
            // the timer.
            let query = async { context.sql(&sql).await?.collect().await };
            let cancelled = tokio::time::timeout(Duration::from_millis(200), query).await;
            assert!(cancelled.is_err(), "{sql}: {cancelled:?}");
        }
    }
}
