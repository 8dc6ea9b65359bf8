//! The fraud topology in a small world of payments, for tests that run it in several ways.

use std::path::Path;
use std::sync::Arc;

use tidegate_dataflows::Plan;
use tidegate_dataflows::metrics::RunMetrics;
use tidegate_dataflows::topology::Override;

/// The plan of `fraud.toml` with twenty days of a hundred customers.
pub fn plan() -> Arc<Plan> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("fraud.toml");
    let set = [
        "transactions.world.days=20",
        "transactions.world.customers=100",
        "transactions.world.terminals=50",
        "commit_rows=200",
    ];
    let set: Vec<Override> = set.iter().map(|text| Override::parse(text).unwrap()).collect();
    Arc::new(Plan::read(&file, &set).unwrap_or_else(|diagnostics| panic!("{diagnostics:#?}")))
}

/// Metrics for one run of a plan.
pub fn metrics(plan: &Plan) -> RunMetrics {
    let sources: Vec<String> = plan.sources.iter().map(|source| source.name.clone()).collect();
    let nodes: Vec<String> = plan.steps.iter().map(|step| step.name.clone()).collect();
    RunMetrics::new(&sources, &nodes)
}
