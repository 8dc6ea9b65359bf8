//! `union`: the rows of several nodes with the same columns.

use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use tidegate_facts::columns;
use tidegate_operators::core::rows::RowStream;
use tidegate_operators::core::tick_ordered::union_in_tick_order;

use crate::config::Section;
use crate::node::{
    Accepts, ColumnSet, InputSchemas, NodeKind, NodeSpec, OutputSpec, PlanContext, PlannedNode, ReadContext,
    RenderContext, Setting,
};

/// The kind of node `union`.
pub struct Union;

impl NodeKind for Union {
    fn name(&self) -> &'static str {
        "union"
    }

    fn version(&self) -> u32 {
        2
    }

    fn about(&self) -> &'static str {
        "Gives the rows of all its inputs, which must have the same columns. Rows of one tick come in the \
         order in which `inputs` names their nodes."
    }

    fn accepts(&self) -> Accepts {
        Accepts::Either
    }

    fn reads_several(&self) -> bool {
        true
    }

    fn settings(&self) -> &'static [Setting] {
        &[]
    }

    fn example(&self) -> &'static str {
        "name = \"all\"\nkind = \"union\"\ninputs = [\"payments\", \"refunds\"]\n"
    }

    fn read(&self, _: &Section<'_>, _: &ReadContext<'_, '_>) -> Box<dyn NodeSpec> {
        Box::new(Spec)
    }
}

struct Spec;

impl NodeSpec for Spec {
    fn plan(&self, cx: &mut PlanContext<'_>) -> Option<Box<dyn PlannedNode>> {
        let first = cx.input()?;
        for other in &cx.inputs[1..] {
            let schema = cx.schema(&other.value)?;
            let is_same = schema.fields().len() == first.fields().len()
                && schema
                    .fields()
                    .iter()
                    .zip(first.fields())
                    .all(|(a, b)| a.name() == b.name() && a.data_type() == b.data_type());
            if !is_same {
                cx.fault(other.line, format!(
                    "`{}` and `{}` have different columns, so {} cannot bring them together; `project` them to the same names and types",
                    cx.input_name(), other.value, cx.called()
                ));
            }
        }
        let nullable = |f: &Arc<Field>| f.as_ref().clone().with_nullable(f.name() != columns::TICK);
        let fields: Vec<Field> = first.fields().iter().map(nullable).collect();
        Some(Box::new(Planned { schema: Arc::new(Schema::new(fields)) }))
    }
}

struct Planned {
    schema: SchemaRef,
}

impl PlannedNode for Planned {
    fn outputs(&self) -> Vec<OutputSpec> {
        vec![OutputSpec::own(SchemaRef::clone(&self.schema))]
    }

    fn reads(&self, wanted: &[ColumnSet], inputs: &InputSchemas<'_>) -> Vec<(String, ColumnSet)> {
        inputs.names.iter().map(|input| (input.clone(), wanted[0].clone())).collect()
    }

    fn render<'scope>(&self, cx: &mut RenderContext<'_, 'scope>) -> Vec<RowStream<'scope>> {
        vec![union_in_tick_order(cx.all_inputs(), SchemaRef::clone(&self.schema), cx.node())]
    }
}
