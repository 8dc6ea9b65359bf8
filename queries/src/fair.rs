//! Lets other statements go on where an operator makes many rows of few.
//!
//! DataFusion lets a thread go where rows are read. A join that holds both its sides in memory, or a list that is taken apart, gives
//! batch after batch without reading, and an aggregate above it takes them in one go: the statement could neither be stopped nor
//! make room until it was done, which for three tables may be days. Behind each such operator the thread is let go now and
//! then, as it is behind a scan.

use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::error::Result as DataFusionResult;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::coop::CooperativeExec;

/// The operators that make many rows of few.
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

/// The rule that puts a rest behind each of them.
#[derive(Debug)]
pub(crate) struct Fair;

impl PhysicalOptimizerRule for Fair {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        _: &ConfigOptions,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let rests = plan.transform_up(|node| {
            Ok(match MULTIPLY.contains(&node.name()) {
                true => Transformed::yes(Arc::new(CooperativeExec::new(node)) as Arc<dyn ExecutionPlan>),
                false => Transformed::no(node),
            })
        });
        rests.map(|rests| rests.data)
    }

    fn name(&self) -> &'static str {
        "fair"
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
    async fn a_statement_that_multiplies_rows_can_be_stopped() {
        let state = SessionStateBuilder::new()
            .with_config(SessionConfig::new().with_target_partitions(1))
            .with_default_features()
            .with_physical_optimizer_rule(Arc::new(Fair))
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
            // On this one thread nothing else would run, the clock included, if it did not let go.
            let asked = async { context.sql(&sql).await?.collect().await };
            let stopped = tokio::time::timeout(Duration::from_millis(200), asked).await;
            assert!(stopped.is_err(), "{sql}: {stopped:?}");
        }
    }
}
