//! `windows`: aggregates over sliding windows of event time, by key.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use tidegate_facts::payload_schema::timestamp;
use tidegate_facts::suggest::did_you_mean;
use tidegate_facts::{Span, columns};
use tidegate_operators::core::expr::{Expr, ProjectedColumn, Projection};
use tidegate_operators::core::rows::RowStream;
use tidegate_operators::temporal::feature_digest::{FeatureDigests, feature_digest_field};
use tidegate_operators::temporal::timeline::{MeasureLayout, is_measure};
use tidegate_operators::temporal::windows::{Aggregate, WindowGroup, WindowPlan, reason_field, windows};

use crate::config::{Section, Spanned};
use crate::node::plan_context::{columns_of, columns_of_projection, tick_index};
use crate::node::settings::Default;
use crate::node::{
    Accepts, Capability, ColumnSet, Coverage, FeatureGroup, FurtherInput, InputSchemas, LiveTable, NodeKind,
    NodeSpec, OutputSpec, PlanContext, PlannedNode, ReadContext, RenderContext, Setting,
};
use crate::timeline_names::{Retention, timeline_name};

/// The kind of node `windows`.
pub struct Windows;

const SETTINGS: &[Setting] = &[
    Setting::answer(
        "lateness_max",
        "length of time",
        Default::Value("\"1h\""),
        "How far the event time of a row may lie before its tick for its features to be computed. Rows are retained for the longest window, the delay and this together.",
        ["\"2h\"", "\"3h\""],
    ),
    Setting::answer(
        "groups",
        "table of groups",
        Default::Absent("the node itself is the only group, and writes the group's settings"),
        "Groups of features; the name of a group begins the names of its columns.",
        [
            "{ a = { key = \"k\", windows = [\"1d\"], aggregates = { n = \"count(*)\" } } }",
            "{ b = { key = \"k\", windows = [\"1d\"], aggregates = { n = \"count(*)\" } } }",
        ],
    ),
    Setting::answer(
        "groups.*.from",
        "node",
        Default::Absent("the input"),
        "The node whose rows are aggregated.",
        ["\"labels\"", "\"payments\""],
    ),
    Setting::answer(
        "groups.*.key",
        "column",
        Default::Required,
        "The key column of the input.",
        ["\"customer_id\"", "\"terminal_id\""],
    ),
    Setting::answer(
        "groups.*.from_key",
        "column",
        Default::Absent("the column that `key` names"),
        "The key column of the aggregated rows, when it has another name.",
        ["\"card\"", "\"device\""],
    ),
    Setting::answer(
        "groups.*.time",
        "column",
        Default::Value("\"ts_utc\""),
        "The event-time column of the aggregated rows.",
        ["\"effective_at\"", "\"booked_at\""],
    ),
    Setting::answer(
        "groups.*.where",
        "SQL, boolean",
        Default::Absent("all rows"),
        "Which rows are aggregated.",
        ["\"amount > 0\"", "\"amount > 1\""],
    ),
    Setting::answer(
        "groups.*.delay",
        "length of time",
        Default::Absent("windows end at the row's event time"),
        "How far before the row's event time its windows end.",
        ["\"7d\"", "\"8d\""],
    ),
    Setting::answer(
        "groups.*.windows",
        "list of lengths of time",
        Default::Required,
        "The widths. A window of width w at time t holds the rows with event times in (t - w, t].",
        ["[\"1d\"]", "[\"1d\", \"7d\"]"],
    ),
    Setting::answer(
        "groups.*.aggregates",
        "table of aggregates",
        Default::Required,
        "Names, and count(*), count(x), sum(x), avg(x), min(x), max(x), stddev(x), distinct(x), last(x) or time_since_last(). A feature is called GROUP_NAME_WIDTH.",
        ["{ n = \"count(*)\" }", "{ n = \"sum(amount)\" }"],
    ),
];

impl NodeKind for Windows {
    fn name(&self) -> &'static str {
        "windows"
    }

    fn version(&self) -> u32 {
        1
    }

    fn about(&self) -> &'static str {
        "Adds to each row exact aggregates over sliding windows of the rows with the same key: those that were \
         admitted before it or with it, and whose event time lies in the window that ends at the row's own event \
         time. A row that is later than `lateness_max` passes with null features and `features_reason` \
         BEYOND_RETENTION. `snapshot_digest` is a digest of all features of the row."
    }

    fn settings(&self) -> &'static [Setting] {
        SETTINGS
    }

    fn example(&self) -> &'static str {
        "name = \"windowed\"\nkind = \"windows\"\ninput = \"payments\"\n\n[groups.customer]\nkey = \"customer_id\"\n\
         windows = [\"1d\", \"7d\"]\naggregates = { nb_tx = \"count(*)\", avg_amount = \"avg(amount)\" }\n"
    }

    fn read(&self, section: &Section<'_>, _: &ReadContext<'_, '_>) -> Box<dyn NodeSpec> {
        let lateness_max = section.span_or("lateness_max", "1h");
        let before = section.diagnostics().count();
        let groups = section.sections("groups");
        if groups.is_empty() && section.diagnostics().count() == before {
            return Box::new(Spec { groups: vec![read_group(String::new(), section)], lateness_max });
        }
        let groups = groups.into_iter().map(|(name, section)| {
            let group = read_group(name.value, &section);
            section.finish();
            group
        });
        Box::new(Spec { groups: groups.collect(), lateness_max })
    }
}

/// Words of a group that were renamed.
const RENAMED: &[(&str, &str)] = &[("over", "from"), ("over_key", "from_key")];

fn read_group(name: String, section: &Section<'_>) -> Group {
    section.refuse_renamed(RENAMED);
    let before = section.diagnostics().count();
    let windows = section.spans("windows");
    if windows.is_empty() && section.diagnostics().count() == before {
        section.missing("windows", "a list of widths such as [\"1d\", \"7d\"]");
    }
    let before = section.diagnostics().count();
    let aggregates = section.text_table("aggregates");
    if aggregates.is_empty() && section.diagnostics().count() == before {
        section.missing("aggregates", "a table such as { payments = \"count(*)\", spent = \"sum(amount)\" }");
    }
    let key = section.required_text("key", "the column that holds the key");
    Group {
        name,
        from: section.text("from"),
        from_key: section.text_or("from_key", &key.value),
        key,
        time: section.text_or("time", columns::TS_UTC),
        condition: section.text("where"),
        delay: section.span("delay"),
        windows,
        aggregates,
    }
}

struct Spec {
    groups: Vec<Group>,
    lateness_max: Span,
}

/// One group of windows, as a topology writes it.
struct Group {
    /// Empty for the only group of a node.
    name: String,
    from: Option<Spanned>,
    key: Spanned,
    from_key: Spanned,
    time: Spanned,
    condition: Option<Spanned>,
    delay: Option<Span>,
    windows: Vec<(Spanned, Span)>,
    aggregates: Vec<(Spanned, Spanned)>,
}

impl NodeSpec for Spec {
    fn inputs(&self) -> Vec<FurtherInput<'_>> {
        let from = self.groups.iter().filter_map(|group| group.from.as_ref());
        from.map(|node| FurtherInput { node, accepts: Accepts::Facts }).collect()
    }

    fn capabilities(&self) -> Vec<Capability> {
        vec![Capability::Features]
    }

    fn plan(&self, cx: &mut PlanContext<'_>) -> Option<Box<dyn PlannedNode>> {
        let input = cx.input()?;
        cx.requires_columns(input, &[columns::EVENT_ID, columns::BASIS]);
        let groups: Vec<Option<PlannedGroup>> = self
            .groups
            .iter()
            .enumerate()
            .map(|(index, group)| group.plan(cx, index, self.lateness_max.micros(), input))
            .collect();
        let groups: Vec<PlannedGroup> = groups.into_iter().collect::<Option<_>>()?;
        let mut fields: Vec<Field> = input.fields().iter().map(|f| f.as_ref().clone()).collect();
        for PlannedGroup { of, .. } in &groups {
            let aggregates = of.plan.windows.iter().flat_map(|_| &of.plan.aggregates);
            let features = aggregates.zip(&of.names);
            fields.extend(features.map(|(a, name)| Field::new(name, of.plan.result_type(*a), true)));
        }
        fields.extend([reason_field(), feature_digest_field()]);
        Some(Box::new(Planned { groups, schema: Arc::new(Schema::new(fields)) }))
    }
}

impl Group {
    fn plan(
        &self,
        cx: &PlanContext<'_>,
        index: usize,
        lateness_max: i64,
        input: &Schema,
    ) -> Option<PlannedGroup> {
        let from_name = self.from.as_ref().map_or(cx.input_name(), |from| from.value.as_str());
        let from = cx.schema(from_name)?;
        let key = cx.key_column(&self.key, input, cx.input_name());
        let from_key = cx.key_column(&self.from_key, from, from_name);
        let time = cx.ts_utc_column(input, cx.input_name());
        let from_time = cx.time_column(&self.time, from, from_name);
        let condition = self.condition.as_ref().map(|text| cx.condition(text, from));
        let mut measured: Vec<Expr> = Vec::new();
        let mut aggregates = Vec::new();
        for (_, text) in &self.aggregates {
            aggregates.extend(aggregate(cx, text, from, &mut measured));
        }
        let (key, from_key, time, from_time) = (key?, from_key?, time?, from_time?);
        cx.same_key_type(self.from_key.line, input.field(key), (from_name, from.field(from_key)))?;
        if matches!(condition, Some(None)) || aggregates.len() < self.aggregates.len() {
            return None;
        }
        let heads = [tick_index(from), from_key, from_time];
        let mut projected: Vec<(ProjectedColumn, Field)> =
            heads.map(|index| (ProjectedColumn::Input(index), from.field(index).clone())).to_vec();
        let own = [from_key, from_time].map(|index| from.field(index).clone());
        let mut measures = Vec::new();
        for (index, expr) in measured.iter().enumerate() {
            let nullable = expr.physical.nullable(from).unwrap_or(true);
            let squares = aggregates.contains(&Aggregate::Stddev(index));
            measures.push(MeasureLayout { squares, nullable });
            let field = Field::new(format!("measure_{index}"), expr.data_type.clone(), true);
            projected.push((ProjectedColumn::Computed(expr.clone()), field));
        }
        let prefix = if self.name.is_empty() { String::new() } else { format!("{}_", self.name) };
        let names = self
            .windows
            .iter()
            .flat_map(|(width, _)| self.aggregates.iter().map(move |(name, _)| (width, name)))
            .map(|(width, name)| format!("{prefix}{}_{}", name.value, width.value));
        Some(PlannedGroup {
            node: cx.name.to_owned(),
            of: FeatureGroup {
                name: self.name.clone(),
                timeline: timeline_name(cx.name, index),
                key,
                names: names.collect(),
                plan: WindowPlan {
                    windows: self.windows.iter().map(|(_, span)| *span).collect(),
                    delay: self.delay.map_or(0, Span::micros),
                    aggregates,
                    measures: measured.iter().map(|e| e.data_type.clone()).collect(),
                    lateness_max,
                },
            },
            from: from_name.to_owned(),
            condition: condition.flatten(),
            projection: Arc::new(Projection::new(cx.name, projected)),
            own,
            measured: measured.iter().map(|e| e.text.to_string()).collect(),
            time,
            measures,
        })
    }
}

const AGGREGATES: [&str; 9] =
    ["count", "sum", "avg", "min", "max", "stddev", "distinct", "last", "time_since_last"];

/// One aggregate such as `avg(amount)`. Its argument is added to `measured` unless it is there.
fn aggregate(
    cx: &PlanContext<'_>,
    text: &Spanned,
    from: &Schema,
    measured: &mut Vec<Expr>,
) -> Option<Aggregate> {
    if text.is_absent() {
        return None;
    }
    let call = text
        .value
        .trim()
        .split_once('(')
        .and_then(|(f, rest)| Some((f.trim(), rest.strip_suffix(')')?.trim())));
    let fault = |what: String| cx.fault(text.line, what);
    let Some((function, argument)) = call else {
        fault(format!(
            "`{}` is not an aggregate; write function(argument), such as avg(amount) or count(*)",
            text.value
        ));
        return None;
    };
    if !AGGREGATES.contains(&function) {
        fault(format!(
            "`{function}` is not an aggregate of windows; {}",
            did_you_mean(function, &AGGREGATES)
        ));
        return None;
    }
    match (function, argument) {
        ("count", "*" | "") => return Some(Aggregate::Count),
        ("time_since_last", "*" | "") => return Some(Aggregate::TimeSinceLast),
        (_, "*" | "") => {
            fault(format!("`{}` needs a column or an expression between its brackets", text.value));
            return None;
        }
        _ => {}
    }
    let planned = cx.checked(text, cx.expressions.plan(argument, from, None))?;
    if let Some(mend) = refused(function, &planned.expr.data_type) {
        fault(format!("`{}` aggregates a {}: {mend}", text.value, planned.expr.data_type));
        return None;
    }
    let index = measured.iter().position(|e| e.text == planned.expr.text).unwrap_or(measured.len());
    if index == measured.len() {
        measured.push(planned.expr);
    }
    Some(match function {
        "count" => Aggregate::CountOf(index),
        "sum" => Aggregate::Sum(index),
        "avg" => Aggregate::Avg(index),
        "min" => Aggregate::Min(index),
        "max" => Aggregate::Max(index),
        "stddev" => Aggregate::Stddev(index),
        "distinct" => Aggregate::Distinct(index),
        _ => Aggregate::Last(index),
    })
}

/// Why a function cannot aggregate values of a type, and how to mend it.
fn refused(function: &str, data_type: &DataType) -> Option<String> {
    let could_overflow = matches!(data_type, DataType::Int64)
        || matches!(data_type, DataType::Decimal128(digits, _) if *digits > 15);
    match function {
        _ if data_type.is_floating() => Some(
            "sums of floats depend on their order; cast it to a decimal, such as cast(x as decimal(12,2))"
                .to_owned(),
        ),
        _ if !is_measure(data_type) => Some(
            "use a boolean, a whole number, a decimal of at most 18 digits, a timestamp or a text".to_owned(),
        ),
        "sum" | "avg" | "stddev" if *data_type == DataType::Utf8 || *data_type == timestamp() => {
            Some(format!("{function}() takes numbers and booleans"))
        }
        "min" | "max" | "last" if *data_type == DataType::Utf8 => {
            Some(format!("{function}() takes numbers, booleans and times; use `as_of` for texts"))
        }
        "stddev" if could_overflow => {
            Some("its squares could overflow; cast it to a decimal of at most 15 digits".to_owned())
        }
        _ => None,
    }
}

struct Planned {
    groups: Vec<PlannedGroup>,
    schema: SchemaRef,
}

/// One group of windows, planned.
struct PlannedGroup {
    node: String,
    of: FeatureGroup,
    /// The node whose rows are aggregated.
    from: String,
    condition: Option<Expr>,
    /// The aggregated rows as tick, key, time and measured columns.
    projection: Arc<Projection>,
    /// The aggregated rows' columns of key and event time.
    own: [Field; 2],
    /// The text of each measured expression.
    measured: Vec<String>,
    /// The index of the event-time column of the input.
    time: usize,
    /// What the timeline retains of each measured column.
    measures: Vec<MeasureLayout>,
}

impl PlannedNode for Planned {
    fn outputs(&self) -> Vec<OutputSpec> {
        vec![OutputSpec::own(SchemaRef::clone(&self.schema))]
    }

    fn reads(&self, wanted: &[ColumnSet], inputs: &InputSchemas<'_>) -> Vec<(String, ColumnSet)> {
        let mut reads = Vec::new();
        let schema = inputs.schema();
        let mut own = wanted[0].clone();
        own.extend([columns::EVENT_ID, columns::BASIS].map(str::to_owned));
        for group in &self.groups {
            let mut from = columns_of_projection(&group.projection, inputs.schema_of(&group.from));
            from.extend(group.condition.iter().flat_map(columns_of));
            reads.push((group.from.clone(), from));
            own.extend([group.of.key, group.time].map(|index| schema.field(index).name().clone()));
        }
        reads.push((inputs.name().to_owned(), own));
        reads
    }

    fn timelines(&self) -> Vec<(String, Retention)> {
        let spans = self.groups.iter();
        spans.map(|g| (g.of.timeline.clone(), Retention::Span(g.of.plan.retention()))).collect()
    }

    fn live_tables(&self) -> Vec<LiveTable> {
        let tables = self.groups.iter().map(|group| {
            let [key, time] = group.own.clone();
            let plan = &group.of.plan;
            let suffix = if group.of.name.is_empty() { "rows" } else { &group.of.name };
            LiveTable {
                name: format!("{}_{suffix}", group.node),
                timeline: group.of.timeline.clone(),
                key,
                time,
                values: group.measured.iter().cloned().zip(plan.measures.iter().cloned()).collect(),
                coverage: Coverage::Span { reach: plan.reach(), lateness_max: plan.lateness_max },
            }
        });
        tables.collect()
    }

    fn feature_groups(&self) -> Vec<FeatureGroup> {
        self.groups.iter().map(|group| group.of.clone()).collect()
    }

    fn reason_column(&self) -> Option<usize> {
        self.schema.index_of(reason_field().name()).ok()
    }

    fn render<'scope>(&self, cx: &mut RenderContext<'_, 'scope>) -> Vec<RowStream<'scope>> {
        let mut groups = Vec::new();
        for group in &self.groups {
            let (from, timeline) = (cx.stream(&group.from), &group.of.timeline);
            let from = cx.timeline_input(timeline, from, group.condition.clone(), &group.projection);
            groups.push(WindowGroup {
                rows: from,
                key: group.of.key,
                time: group.time,
                plan: group.of.plan.clone(),
                measures: group.measures.clone(),
                names: group.of.names.clone(),
                published: cx.published(timeline),
                metrics: cx.timeline_metrics(timeline),
            });
        }
        let features: usize = groups.iter().map(|g| g.names.len()).sum();
        let end = self.schema.fields().len() - 2; // Behind them are the reason and the digest.
        let mut digests = FeatureDigests::new(end - features..end);
        let answered = windows(cx.input(), groups, cx.node());
        vec![cx.map_every_row(answered, "snapshot digest", move |batch| digests.append(&batch))]
    }
}
