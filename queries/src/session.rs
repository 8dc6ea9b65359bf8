//! The DataFusion session that every statement is planned and run in.
//!
//! It differs from DataFusion's default in three ways: names keep their case, because
//! [`crate::name_resolution`] has resolved them; functions have a bound on what they produce
//! ([`crate::bounded_functions`]); and plans yield between batches ([`crate::cooperative_yield`]).

use std::sync::Arc;

use datafusion::execution::SessionStateBuilder;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::optimizer::Optimizer;
use datafusion::prelude::{SessionConfig, SessionContext};

use crate::bounded_functions::{self, DeferLargeConstants};
use crate::cooperative_yield::YieldRule;

/// The name of the catalogue in a DataFusion session: tables are `tidegate.public.NAME`.
pub const CATALOGUE: &str = "tidegate";

/// Creates an empty DataFusion session whose statements take their memory from `runtime`.
pub(crate) fn new_session(runtime: Arc<RuntimeEnv>) -> SessionContext {
    let mut config = SessionConfig::new()
        .with_information_schema(true)
        .with_default_catalog_and_schema(CATALOGUE, "public");
    // Names are resolved before planning.
    config.options_mut().sql_parser.enable_ident_normalization = false;
    let state = SessionStateBuilder::new().with_config(config).with_runtime_env(runtime);
    let mut rules = Optimizer::new().rules;
    rules.insert(0, Arc::new(DeferLargeConstants)); // Before the rule that folds constants.
    let state = state.with_default_features().with_optimizer_rules(rules);
    let state = state.with_physical_optimizer_rule(Arc::new(YieldRule)).build();
    let context = SessionContext::new_with_state(state);
    bounded_functions::register(&context);
    context
}
