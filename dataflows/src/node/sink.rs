//! What all kinds of sinks share: which columns of which node they commit, under which name.

use std::sync::Arc;

use tidegate_operators::core::rows::RowStream;

use super::plan_context::PlanContext;
use super::settings::{Default, Setting};
use super::{ColumnSet, InputSchemas, NodeSpec, OutputSpec, PlannedNode, RenderContext, TablePlan};
use crate::commit::TableFormat;
use crate::config::{Section, Spanned};

/// The setting of every kind of sink that names the committed table.
pub const TABLE_SETTING: Setting = Setting::answer(
    "table",
    "text",
    Default::Absent("the name of the input"),
    "The table's name: lower-case letters, digits and `_`.",
    ["\"payments\"", "\"all_payments\""],
);

/// The setting of a kind of sink that names the columns of the committed table.
pub const COLUMNS_SETTING: Setting = Setting::answer(
    "columns",
    "list of columns",
    Default::Absent("all columns of the input"),
    "The columns that the table holds, besides `_tick`.",
    ["[\"event_id\"]", "[\"event_id\", \"amount\"]"],
);

/// A sink, as a topology writes it.
pub struct SinkSpec {
    table: Spanned,
    columns: Vec<Spanned>,
    format: TableFormat,
}

/// Reads the settings of a sink, which commits the columns that it names.
pub fn read_sink(section: &Section<'_>, format: TableFormat) -> Box<dyn NodeSpec> {
    let columns = if format == TableFormat::Sealed { Vec::new() } else { section.texts("columns") };
    Box::new(SinkSpec { table: read_table(section), columns, format })
}

/// The name of the table: its own, or that of the first input.
fn read_table(section: &Section<'_>) -> Spanned {
    if let Some(table) = section.text("table") {
        return table;
    }
    let input = section.texts("inputs").into_iter().chain(section.text("input")).next();
    let input = input.unwrap_or_else(|| Spanned::absent(section.line()));
    section.resolve("table", input.value.as_str());
    input
}

impl NodeSpec for SinkSpec {
    fn table(&self) -> Option<&Spanned> {
        Some(&self.table)
    }

    fn plan(&self, cx: &mut PlanContext<'_>) -> Option<Box<dyn PlannedNode>> {
        let input = cx.input()?;
        if self.format == TableFormat::Sealed
            && input.index_of(tidegate_facts::columns::RECORD_DIGEST).is_err()
        {
            cx.fault(
                cx.line,
                format!(
                    "{} seals episodes, and `{}` gives none; put a node of kind `seal` between them",
                    cx.called(),
                    cx.input_name()
                ),
            );
            return None;
        }
        let columns = cx.chosen_columns(&self.columns, input)?;
        let schema = Arc::new(input.project(&columns).expect("the columns are the input's"));
        let table = TablePlan { table: self.table.value.clone(), columns, schema, format: self.format };
        Some(Box::new(PlannedSink(table)))
    }
}

struct PlannedSink(TablePlan);

impl PlannedNode for PlannedSink {
    fn outputs(&self) -> Vec<OutputSpec> {
        Vec::new()
    }

    fn reads(&self, _: &[ColumnSet], inputs: &InputSchemas<'_>) -> Vec<(String, ColumnSet)> {
        let read = self.0.schema.fields().iter().map(|field| field.name().clone());
        vec![(inputs.name().to_owned(), read.collect())]
    }

    fn table(&self) -> Option<&TablePlan> {
        Some(&self.0)
    }

    fn render<'scope>(&self, cx: &mut RenderContext<'_, 'scope>) -> Vec<RowStream<'scope>> {
        let rows = cx.input();
        cx.commit(rows, &self.0);
        Vec::new()
    }
}
