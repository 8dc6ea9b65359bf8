//! `expire`: what is alive, retracted when its time to live is over.

use std::sync::Arc;

use arrow::datatypes::{DataType, SchemaRef};
use tidegate_facts::{Span, columns};
use tidegate_operators::core::expr::Expr;
use tidegate_operators::core::row_encoding::is_encodable;
use tidegate_operators::core::row_layout::{INPUT_KEY, INPUT_TIME};
use tidegate_operators::core::tick_ordered::Exchange;
use tidegate_operators::temporal::expire::{Expire, ExpireColumns};

use crate::config::{Section, Spanned};
use crate::node::settings::Default;
use crate::node::stateful::{InputProjection, SnapshotSpec, StateFactory, StatePlan, stateful};
use crate::node::{NodeKind, NodeSpec, PlanContext, PlannedNode, Port, ReadContext, Setting};
use crate::timeline_names::Retention;

/// The kind of node `expire`.
pub struct ExpireKind;

const PORTS: &[Port] = &[Port {
    name: "late",
    about: "Rows that never became alive: those that had expired when they were admitted, those that a newer row or a cancellation of their key had overtaken, cancellations that a newer row had overtaken, and rows without a key, an event time or a time to live.",
}];

const SETTINGS: &[Setting] = &[
    Setting::answer(
        "key",
        "column",
        Default::Required,
        "A later row of a key replaces the row before.",
        ["\"stream_id\"", "\"card_id\""],
    ),
    Setting::answer(
        "time",
        "column",
        Default::Value("\"ts_utc\""),
        "The event-time column, from which the time to live counts.",
        ["\"event_time\"", "\"booked_at\""],
    ),
    Setting::answer(
        "ttl",
        "length of time, SQL for seconds or a duration, or table of lengths of time",
        Default::Required,
        "How long a row lives from its event time on. A table gives the time to live by the value of the column that `by` names.",
        ["\"15m\"", "\"16m\""],
    ),
    Setting::answer(
        "by",
        "column",
        Default::Absent("`ttl` is not a table"),
        "The column whose value selects the time to live in the table `ttl`.",
        ["\"tier\"", "\"kind\""],
    ),
    Setting::answer(
        "cancel",
        "SQL, boolean",
        Default::Absent("no row cancels another"),
        "Whether a row ends the life of its key's row instead of replacing it.",
        ["\"status = 'GONE'\"", "\"status = 'LOST'\""],
    ),
];

impl NodeKind for ExpireKind {
    fn name(&self) -> &'static str {
        "expire"
    }

    fn version(&self) -> u32 {
        2
    }

    fn about(&self) -> &'static str {
        "Gives what is alive as a changelog: each key's newest row, until its time to live is over, it is \
         cancelled or replaced. `expires_at` is when it ends. A row that never becomes alive goes to the port `late`."
    }

    fn ports(&self) -> &'static [Port] {
        PORTS
    }

    fn settings(&self) -> &'static [Setting] {
        SETTINGS
    }

    fn example(&self) -> &'static str {
        "name = \"live_evidence\"\nkind = \"expire\"\ninput = \"evidence\"\nkey = \"stream_id\"\ntime = \"event_time\"\nttl = \"15m\"\n"
    }

    fn read(&self, section: &Section<'_>, _: &ReadContext<'_, '_>) -> Box<dyn NodeSpec> {
        Box::new(Spec {
            key: section.required_text("key", "the column by which a later row replaces an earlier one"),
            time: section.text_or("time", columns::TS_UTC),
            ttl: read_ttl(section),
            cancel: section.text("cancel"),
        })
    }
}

fn read_ttl(section: &Section<'_>) -> Ttl {
    const WHAT: &str = "a length of time such as \"15m\", SQL for seconds, or with `by` a table of values and lengths of time";
    if section.is_table("ttl") {
        let by = section.required_text("by", "the column that says which `ttl` a row has");
        let before = section.diagnostics().count();
        let spans = section.span_table("ttl");
        if spans.is_empty() && section.diagnostics().count() == before {
            section.missing(
                "ttl",
                "a table of the values of `by` and lengths of time, such as { gold = \"15m\" }",
            );
        }
        return Ttl::By(by, spans);
    }
    if let Some(by) = section.text("by") {
        let name = section.name();
        let what = format!(
            "`by` of {name} selects from a table: write `ttl = {{ a_value = \"15m\" }}`, or leave `by` out"
        );
        section.diagnostics().add(by.line, what);
    }
    let text = section.required_text("ttl", WHAT);
    match Span::parse(&text.value) {
        Ok(span) => {
            section.resolve("ttl", span.to_string());
            Ttl::Fixed(span)
        }
        Err(_) => Ttl::Sql(text),
    }
}

struct Spec {
    key: Spanned,
    time: Spanned,
    ttl: Ttl,
    cancel: Option<Spanned>,
}

/// How long a row lives.
enum Ttl {
    /// All rows equally long.
    Fixed(Span),
    /// SQL: whole seconds, or a duration.
    Sql(Spanned),
    /// By the value of a column, as text.
    By(Spanned, Vec<(Spanned, Span)>),
}

impl Ttl {
    /// The longest time that a row can live, in microseconds, if that is known.
    fn ttl_max(&self) -> Option<i64> {
        match self {
            Ttl::Fixed(span) => Some(span.micros()),
            Ttl::By(_, spans) => spans.iter().map(|(_, span)| span.micros()).max(),
            Ttl::Sql(_) => None,
        }
    }

    /// The time to live in microseconds, as an expression over the input.
    fn plan(&self, cx: &PlanContext<'_>, input: &SchemaRef) -> Option<Expr> {
        let (text, sql) = match self {
            Ttl::Fixed(span) => (None, span.micros().to_string()),
            Ttl::Sql(text) => {
                let planned = cx.expression(text, input, None)?;
                let sql = match planned.expr.data_type {
                    ref whole if whole.is_integer() => micros_of_seconds(&text.value),
                    DataType::Duration(_) => {
                        format!("cast(arrow_cast({}, 'Duration(Microsecond)') as bigint)", text.value)
                    }
                    ref other => {
                        let what = format!(
                            "`{}` is a {other}; a time to live is a whole number of seconds, or a duration",
                            text.value
                        );
                        cx.fault(text.line, what);
                        return None;
                    }
                };
                (Some(text), sql)
            }
            Ttl::By(by, spans) => {
                cx.column(by, input, cx.input_name())?;
                if spans.is_empty() {
                    return None; // An empty table and each wrong length of time have their fault.
                }
                let quoted = |text: &str| text.replace('\'', "''");
                let cases = spans
                    .iter()
                    .map(|(value, span)| format!(" when '{}' then {}", quoted(&value.value), span.micros()));
                let column = by.value.replace('"', "\"\"");
                (Some(by), format!("case cast(\"{column}\" as text){} end", cases.collect::<String>()))
            }
        };
        let sql = Spanned::new(sql, text.map_or(0, |text| text.line));
        Some(cx.expression(&sql, input, Some(&DataType::Int64))?.expr)
    }
}

/// SQL that converts seconds to microseconds. A product that would overflow stays at the greatest
/// or least value.
fn micros_of_seconds(sql: &str) -> String {
    const MOST: i64 = i64::MAX / 1_000_000;
    let whole = format!("cast(({sql}) as bigint)");
    format!(
        "case when {whole} > {MOST} then {MOST} when {whole} < -{MOST} then -{MOST} else {whole} end * 1000000"
    )
}

impl NodeSpec for Spec {
    fn plan(&self, cx: &mut PlanContext<'_>) -> Option<Box<dyn PlannedNode>> {
        let (input, of) = (cx.input()?, cx.input_name());
        let key = cx.key_column(&self.key, input, of);
        let time = cx.time_column(&self.time, input, of);
        let ttl = self.ttl.plan(cx, input);
        let cancel = self.cancel.as_ref().map(|text| cx.condition(text, input));
        let (key, time, ttl) = (key?, time?, ttl?);
        let mut projection = InputProjection::new(cx, input, key, Some(time));
        for (index, field) in input.fields().iter().enumerate() {
            if index == key || index == time || field.name() == columns::TICK {
                continue;
            }
            if !is_encodable(field.data_type()) {
                let what = format!(
                    "column `{}` of `{of}` is {}, which a state cannot retain; leave it out in a `project` before",
                    field.name(),
                    field.data_type()
                );
                cx.fault(cx.line, what);
                return None;
            }
            projection.keep(index);
        }
        let output_count = projection.count();
        let ttl = projection.compute("_ttl", ttl);
        let cancel = match cancel {
            Some(condition) => Some(projection.compute("_cancel", condition?)),
            None => None,
        };
        let ttl_max = self.ttl.ttl_max();
        let columns = ExpireColumns { key: INPUT_KEY, time: INPUT_TIME, ttl, cancel, output_count, ttl_max };
        let mut rows = projection.input(of, Exchange::Key(INPUT_KEY));
        rows.is_passed_on = true;
        rows.retention = ttl_max.map_or(Retention::SinceSnapshot, Retention::Span);
        let schema = Arc::clone(rows.projection.schema());
        let outputs = Expire::schemas(&schema, output_count).map(|schema| (schema, vec![1])).to_vec();
        let factory = match ttl_max {
            Some(_) => StateFactory::Replayed(Arc::new(move || Box::new(Expire::new(&schema, columns)))),
            // The age of a row does not tell whether it can still be alive.
            None => {
                let snapshot = SnapshotSpec {
                    schema: Expire::snapshot_schema(&schema, output_count),
                    exchange: Exchange::Key(INPUT_KEY),
                    order: vec![1],
                };
                StateFactory::Snapshotted(Arc::new(move || Box::new(Expire::new(&schema, columns))), snapshot)
            }
        };
        Some(stateful(cx, PORTS, None, StatePlan { inputs: vec![rows], outputs, factory }))
    }
}
