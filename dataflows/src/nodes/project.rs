//! `project`: columns that are passed through, and columns that are computed.

use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use tidegate_facts::columns;
use tidegate_operators::core::expr::{ProjectedColumn, Projection};
use tidegate_operators::core::rows::RowStream;

use crate::config::{Section, Spanned};
use crate::node::plan_context::{columns_of_projection, tick_index};
use crate::node::settings::Default;
use crate::node::{
    Accepts, ColumnSet, InputSchemas, NodeKind, NodeSpec, OutputSpec, PlanContext, PlannedNode, ReadContext,
    RenderContext, Setting,
};

/// The kind of node `project`.
pub struct Project;

const SETTINGS: &[Setting] = &[
    Setting::answer(
        "passthrough",
        "list of columns",
        Default::Absent("no column but `_tick`, and `_diff` of a changelog"),
        "The input columns that pass unchanged; `*` is all of them.",
        ["[\"customer_id\"]", "[\"*\"]"],
    ),
    Setting::answer(
        "columns",
        "table of SQL",
        Default::Absent("no new column"),
        "New columns, in this order, and the expressions that compute them.",
        ["{ a = \"1\", b = \"2\" }", "{ b = \"2\", a = \"1\" }"],
    ),
];

impl NodeKind for Project {
    fn name(&self) -> &'static str {
        "project"
    }

    fn version(&self) -> u32 {
        2
    }

    fn about(&self) -> &'static str {
        "Gives each row with other columns: those that pass unchanged, then those that are computed. `_tick` \
         always passes, and `_diff` of a changelog too. A row on which an expression fails goes to the table `errors`."
    }

    fn accepts(&self) -> Accepts {
        Accepts::Either
    }

    fn settings(&self) -> &'static [Setting] {
        SETTINGS
    }

    fn renamed(&self) -> &'static [(&'static str, &'static str)] {
        &[("keep", "passthrough")]
    }

    fn example(&self) -> &'static str {
        "name = \"features\"\nkind = \"project\"\ninput = \"windowed\"\npassthrough = [\"*\"]\n\
         columns = { at_night = \"date_part('hour', ts_utc) <= 6\" }\n"
    }

    fn read(&self, section: &Section<'_>, _: &ReadContext<'_, '_>) -> Box<dyn NodeSpec> {
        Box::new(Spec { passthrough: section.texts("passthrough"), columns: section.text_table("columns") })
    }
}

struct Spec {
    passthrough: Vec<Spanned>,
    columns: Vec<(Spanned, Spanned)>,
}

impl Spec {
    fn projection(&self, cx: &PlanContext<'_>, input: &Schema) -> Option<Projection> {
        let tick = tick_index(input);
        let mut columns = vec![(ProjectedColumn::Input(tick), input.field(tick).clone())];
        let mut is_complete = true;
        for name in &self.passthrough {
            if name.value == "*" {
                let all = input.fields().iter().enumerate().filter(|(_, f)| f.name() != columns::TICK);
                columns.extend(
                    all.map(|(index, field)| (ProjectedColumn::Input(index), field.as_ref().clone())),
                );
                continue;
            }
            match cx.column(name, input, cx.input_name()) {
                Some(index) => columns.push((ProjectedColumn::Input(index), input.field(index).clone())),
                None => is_complete = false,
            }
        }
        for (name, sql) in &self.columns {
            if name.value.starts_with('_') {
                // A computed `_diff` would make a changelog of rows that are facts.
                let what = format!(
                    "column `{}` begins with `_`, as only Tidegate's own columns do; give it another name",
                    name.value
                );
                cx.fault(name.line, what);
                is_complete = false;
            }
            match cx.expression(sql, input, None) {
                Some(planned) => {
                    let nullable = planned.expr.physical.nullable(input).unwrap_or(true);
                    let field = Field::new(&name.value, planned.expr.data_type.clone(), nullable);
                    columns.push((ProjectedColumn::Computed(planned.expr), field));
                }
                None => is_complete = false,
            }
        }
        // A retraction stays a retraction, whatever its columns.
        if let Ok(diff) = input.index_of(columns::DIFF) {
            columns.retain(|(_, field)| field.name() != columns::DIFF);
            columns.push((ProjectedColumn::Input(diff), input.field(diff).clone()));
        }
        is_complete.then(|| Projection::new(cx.name, columns))
    }
}

impl NodeSpec for Spec {
    fn plan(&self, cx: &mut PlanContext<'_>) -> Option<Box<dyn PlannedNode>> {
        let input = cx.input()?;
        let projection = Arc::new(self.projection(cx, input)?);
        Some(Box::new(Planned { projection }))
    }
}

struct Planned {
    projection: Arc<Projection>,
}

impl PlannedNode for Planned {
    fn outputs(&self) -> Vec<OutputSpec> {
        vec![OutputSpec::own(SchemaRef::clone(self.projection.schema()))]
    }

    fn reads(&self, _: &[ColumnSet], inputs: &InputSchemas<'_>) -> Vec<(String, ColumnSet)> {
        vec![(inputs.name().to_owned(), columns_of_projection(&self.projection, inputs.schema()))]
    }

    fn render<'scope>(&self, cx: &mut RenderContext<'_, 'scope>) -> Vec<RowStream<'scope>> {
        let projection = Arc::clone(&self.projection);
        let rows = cx.input();
        vec![cx.map_rows(rows, move |batch| projection.apply(&batch))]
    }
}
