//! `as_of`: the value of a keyed timeline at the tick of each row.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use tidegate_operators::core::expr::{ProjectedColumn, Projection};
use tidegate_operators::core::rows::RowStream;
use tidegate_operators::temporal::as_of::{AsOf, as_of};
use tidegate_operators::temporal::timeline::is_measure;

use crate::config::{Section, Spanned};
use crate::node::plan_context::{columns_of_projection, tick_index};
use crate::node::settings::Default;
use crate::node::{
    Accepts, ColumnSet, Coverage, FurtherInput, InputSchemas, LiveTable, NodeKind, NodeSpec, OutputSpec,
    PlanContext, PlannedNode, ReadContext, RenderContext, Setting,
};
use crate::timeline_names::{Retention, timeline_name};

/// The kind of node `as_of`.
pub struct AsOfKind;

const SETTINGS: &[Setting] = &[
    Setting::answer(
        "timeline",
        "node",
        Default::Required,
        "The node whose rows are the timeline.",
        ["\"labels\"", "\"other_labels\""],
    ),
    Setting::answer(
        "key",
        "column",
        Default::Required,
        "The key column of the input.",
        ["\"customer_id\"", "\"terminal_id\""],
    ),
    Setting::answer(
        "timeline_key",
        "column",
        Default::Absent("the column that `key` names"),
        "The key column of the timeline, when it has another name.",
        ["\"card_id\"", "\"device_id\""],
    ),
    Setting::answer(
        "effective",
        "column",
        Default::Required,
        "The timeline's column with the time from which a row is true.",
        ["\"effective_at\"", "\"ts_utc\""],
    ),
    Setting::answer(
        "values",
        "table of columns",
        Default::Absent("only status and tick"),
        "New columns, and the timeline's columns whose values they get.",
        ["{ last = \"fraud\" }", "{ last = \"amount\" }"],
    ),
];

impl NodeKind for AsOfKind {
    fn name(&self) -> &'static str {
        "as_of"
    }

    fn version(&self) -> u32 {
        2
    }

    fn about(&self) -> &'static str {
        "Adds to each row the values that a keyed timeline had at the row's tick: those of the row with the \
         latest effective time among the rows that were admitted before it or with it. `NAME_status` is RESOLVED, NOT_FOUND, \
         or CONFLICT when rows of one effective time disagree; `NAME_tick` is the tick of the row that was found."
    }

    fn settings(&self) -> &'static [Setting] {
        SETTINGS
    }

    fn example(&self) -> &'static str {
        "name = \"card_history\"\nkind = \"as_of\"\ninput = \"payments\"\ntimeline = \"labels\"\nkey = \"customer_id\"\n\
         effective = \"effective_at\"\nvalues = { last_label_fraud = \"fraud\" }\n"
    }

    fn read(&self, section: &Section<'_>, _: &ReadContext<'_, '_>) -> Box<dyn NodeSpec> {
        let key = section.required_text("key", "the column that holds the key");
        Box::new(Spec {
            timeline: section.required_text("timeline", "the node whose rows are the timeline"),
            timeline_key: section.text_or("timeline_key", &key.value),
            key,
            effective: section
                .required_text("effective", "the timeline's column with the time from which a row is true"),
            values: section.text_table("values"),
        })
    }
}

struct Spec {
    timeline: Spanned,
    key: Spanned,
    timeline_key: Spanned,
    effective: Spanned,
    values: Vec<(Spanned, Spanned)>,
}

impl NodeSpec for Spec {
    fn inputs(&self) -> Vec<FurtherInput<'_>> {
        vec![FurtherInput { node: &self.timeline, accepts: Accepts::Facts }]
    }

    fn plan(&self, cx: &mut PlanContext<'_>) -> Option<Box<dyn PlannedNode>> {
        let (input, of) = (cx.input()?, self.timeline.value.as_str());
        let timeline = cx.schema(of)?;
        let key = cx.key_column(&self.key, input, cx.input_name());
        let timeline_key = cx.key_column(&self.timeline_key, timeline, of);
        let effective = cx.time_column(&self.effective, timeline, of);
        let time = cx.ts_utc_column(input, cx.input_name());
        let observed = cx.ts_utc_column(timeline, of);
        let mut values = Vec::new();
        let mut columns = Vec::new();
        for (name, column) in &self.values {
            let Some(index) = cx.column(column, timeline, of) else { continue };
            let data_type = timeline.field(index).data_type().clone();
            if !is_measure(&data_type) {
                cx.fault(column.line, format!("column `{}` is {data_type}, which a timeline cannot retain; use a boolean, a whole number, a decimal of at most 18 digits, a timestamp or a text", column.value));
            }
            columns.push(index);
            values.push((name.value.clone(), data_type));
        }
        let (key, timeline_key, effective, observed, time) =
            (key?, timeline_key?, effective?, observed?, time?);
        cx.same_key_type(self.timeline_key.line, input.field(key), (of, timeline.field(timeline_key)))?;
        if values.len() < self.values.len() {
            return None;
        }
        let tick = tick_index(timeline);
        let heads =
            [(tick, "_tick"), (timeline_key, "key"), (effective, "effective"), (observed, "observed")];
        let projected = columns.iter().zip(&values).map(|(index, (name, _))| (*index, name.as_str()));
        let projected = heads.into_iter().chain(projected);
        let projected = projected.map(|(index, name)| {
            (ProjectedColumn::Input(index), timeline.field(index).clone().with_name(name))
        });
        let projection = Arc::new(Projection::new(cx.name, projected.collect()));
        let (status, tick) = (format!("{}_status", cx.name), format!("{}_tick", cx.name));
        let mut fields: Vec<Field> = input.fields().iter().map(|f| f.as_ref().clone()).collect();
        fields.extend(AsOf::fields(&status, &tick, &values));
        // In the names of the timeline's own columns, as queries see them.
        let own = [timeline_key, effective, observed].map(|index| timeline.field(index).clone());
        let timeline = of.to_owned();
        let schema = Arc::new(Schema::new(fields));
        Some(Box::new(Planned {
            name: cx.name.to_owned(),
            timeline,
            projection,
            own,
            key,
            time,
            status,
            tick,
            values,
            schema,
        }))
    }
}

struct Planned {
    name: String,
    timeline: String,
    /// The timeline's rows as tick, key, effective time, observed time and values.
    projection: Arc<Projection>,
    /// The timeline's columns of key, effective time and observed time.
    own: [Field; 3],
    key: usize,
    time: usize,
    status: String,
    tick: String,
    values: Vec<(String, DataType)>,
    schema: SchemaRef,
}

impl PlannedNode for Planned {
    fn outputs(&self) -> Vec<OutputSpec> {
        vec![OutputSpec::own(SchemaRef::clone(&self.schema))]
    }

    fn reads(&self, wanted: &[ColumnSet], inputs: &InputSchemas<'_>) -> Vec<(String, ColumnSet)> {
        let timeline = columns_of_projection(&self.projection, inputs.schema_of(&self.timeline));
        let schema = inputs.schema();
        let mut own = wanted[0].clone();
        own.extend([self.key, self.time].map(|index| schema.field(index).name().clone()));
        vec![(self.timeline.clone(), timeline), (inputs.name().to_owned(), own)]
    }

    fn timelines(&self) -> Vec<(String, Retention)> {
        vec![(timeline_name(&self.name, 0), Retention::Forever)]
    }

    fn live_tables(&self) -> Vec<LiveTable> {
        let [key, time, observed] = self.own.clone();
        let observed = (observed.name().clone(), observed.data_type().clone());
        vec![LiveTable {
            name: format!("{}_rows", self.name),
            timeline: timeline_name(&self.name, 0),
            key,
            time,
            values: std::iter::once(observed).chain(self.values.iter().cloned()).collect(),
            coverage: Coverage::Latest,
        }]
    }

    fn render<'scope>(&self, cx: &mut RenderContext<'_, 'scope>) -> Vec<RowStream<'scope>> {
        let name = timeline_name(cx.node(), 0);
        let timeline = cx.timeline_input(&name, cx.stream(&self.timeline), None, &self.projection);
        let settings = AsOf {
            timeline,
            key: self.key,
            time: self.time,
            status: self.status.clone(),
            tick: self.tick.clone(),
            values: self.values.clone(),
            published: cx.published(&name),
            metrics: cx.timeline_metrics(&name),
        };
        vec![as_of(cx.input(), settings, cx.node())]
    }
}
