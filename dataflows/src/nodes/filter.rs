//! `filter`: the rows for which a condition is true.

use arrow::datatypes::SchemaRef;
use tidegate_operators::core::expr::{Expr, filter};
use tidegate_operators::core::rows::RowStream;

use crate::config::{Section, Spanned};
use crate::node::plan_context::columns_of;
use crate::node::settings::Default;
use crate::node::{
    Accepts, ColumnSet, InputSchemas, NodeKind, NodeSpec, OutputSpec, PlanContext, PlannedNode, ReadContext,
    RenderContext, Setting,
};

/// The kind of node `filter`.
pub struct Filter;

const SETTINGS: &[Setting] = &[Setting::answer(
    "where",
    "SQL, boolean",
    Default::Required,
    "The rows for which it is true pass.",
    ["\"amount > 10\"", "\"amount > 20\""],
)];

impl NodeKind for Filter {
    fn name(&self) -> &'static str {
        "filter"
    }

    fn version(&self) -> u32 {
        2
    }

    fn about(&self) -> &'static str {
        "Passes the rows for which a condition is true. Rows for which it is false or null do not pass. \
         A row on which the condition fails goes to the table `errors`."
    }

    fn accepts(&self) -> Accepts {
        Accepts::Either
    }

    fn settings(&self) -> &'static [Setting] {
        SETTINGS
    }

    fn example(&self) -> &'static str {
        "name = \"payments\"\nkind = \"filter\"\ninput = \"admitted\"\nwhere = \"event_type = 'card.transaction.v1'\"\n"
    }

    fn read(&self, section: &Section<'_>, _: &ReadContext<'_, '_>) -> Box<dyn NodeSpec> {
        Box::new(Spec { condition: section.required_text("where", "a SQL boolean") })
    }
}

struct Spec {
    condition: Spanned,
}

impl NodeSpec for Spec {
    fn schema_despite_faults(&self, input: &SchemaRef) -> Option<SchemaRef> {
        Some(SchemaRef::clone(input))
    }

    fn plan(&self, cx: &mut PlanContext<'_>) -> Option<Box<dyn PlannedNode>> {
        let input = cx.input()?;
        let condition = cx.condition(&self.condition, input)?;
        Some(Box::new(Planned { condition, schema: SchemaRef::clone(input) }))
    }
}

struct Planned {
    condition: Expr,
    schema: SchemaRef,
}

impl PlannedNode for Planned {
    fn outputs(&self) -> Vec<OutputSpec> {
        vec![OutputSpec::own(SchemaRef::clone(&self.schema))]
    }

    fn reads(&self, wanted: &[ColumnSet], inputs: &InputSchemas<'_>) -> Vec<(String, ColumnSet)> {
        let mut reads = wanted[0].clone();
        reads.extend(columns_of(&self.condition));
        vec![(inputs.name().to_owned(), reads)]
    }

    fn render<'scope>(&self, cx: &mut RenderContext<'_, 'scope>) -> Vec<RowStream<'scope>> {
        let (condition, node) = (self.condition.clone(), cx.node().to_owned());
        let rows = cx.input();
        vec![cx.map_rows(rows, move |batch| filter(&node, &condition, &batch))]
    }
}
