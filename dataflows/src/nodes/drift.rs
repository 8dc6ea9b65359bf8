//! `drift`: statistics of periods of event time, and events where they leave their bounds.

use std::sync::Arc;

use tidegate_facts::suggest::did_you_mean;
use tidegate_facts::tick::PARTITION_BITS;
use tidegate_facts::{Span, columns};
use tidegate_operators::credibility::drift::distribution::Histogram;
use tidegate_operators::credibility::drift::operator::{
    Drift, input_exchange, input_fields, outputs, snapshot_output,
};
use tidegate_operators::credibility::drift::periods::PeriodConfig;
use tidegate_operators::credibility::drift::severity::Bounds;
use tidegate_operators::credibility::drift::{MeasureConfig, StatisticKind};

use crate::config::expressions::{MEASURED_MAX, MILLIONTHS};
use crate::config::{Section, Spanned};
use crate::node::settings::Default;
use crate::node::stateful::{InputFrom, SnapshotSpec, StateFactory, StateInput, StatePlan, stateful};
use crate::node::{
    Accepts, Capability, FurtherInput, NodeKind, NodeSpec, PlanContext, PlannedNode, Port, ReadContext,
    Setting, Summary,
};
use crate::timeline_names::Retention;

/// The kind of node `drift`.
pub struct DriftKind;

/// The port of a `drift` with the rows of all closed periods.
pub(super) const PERIODS: &str = "periods";

const PORTS: &[Port] =
    &[Port { name: PERIODS, about: "The value of each measure in each closed period, as facts." }];

const SETTINGS: &[Setting] = &[
    Setting::answer(
        "key",
        "SQL, text",
        Default::Absent("all rows are one population"),
        "Which facts belong together; the default of every measure.",
        ["\"region\"", "\"domain\""],
    ),
    Setting::answer(
        "time",
        "column",
        Default::Value("\"ts_utc\""),
        "The event-time column; the default of every measure.",
        ["\"event_time\"", "\"booked_at\""],
    ),
    Setting::answer(
        "period",
        "length of time",
        Default::Absent("each measure has its own"),
        "How long a period is; the default of every measure.",
        ["\"1h\"", "\"2h\""],
    ),
    Setting::answer(
        "slide",
        "length of time",
        Default::Absent("the period"),
        "How far the beginnings of periods lie apart; the default of every measure.",
        ["\"15m\"", "\"30m\""],
    ),
    Setting::answer(
        "delay",
        "length of time",
        Default::Absent("none"),
        "How long after its end a period closes; the default of every measure.",
        ["\"1m\"", "\"2m\""],
    ),
    Setting::answer(
        "lateness_max",
        "length of time",
        Default::Absent("none"),
        "How long a closed period is corrected by late facts; the default of every measure.",
        ["\"1h\"", "\"2h\""],
    ),
    Setting::answer(
        "rows_min",
        "whole number",
        Default::Value("1"),
        "How many facts make a period; the default of every measure.",
        ["10", "20"],
    ),
    Setting::answer(
        "measures",
        "table of measures",
        Default::Required,
        "The measures; the name of a measure is its statistic unless it says another.",
        ["{ psi = { value = \"score\" } }", "{ ks = { value = \"score\" } }"],
    ),
    Setting::answer(
        "measures.*.statistic",
        "text",
        Default::Absent("the name of the measure"),
        "`timing_entropy`, `correlation_drift`, `confidence_volatility`, `ttl_compression`, `external_mismatch`, `psi` or `ks`.",
        ["\"psi\"", "\"ks\""],
    ),
    Setting::answer(
        "measures.*.from",
        "node",
        Default::Absent("the input"),
        "The node whose rows are measured.",
        ["\"beacons\"", "\"evidence\""],
    ),
    Setting::answer(
        "measures.*.key",
        "SQL, text",
        Default::Absent("the node's `key`"),
        "Which facts belong together.",
        ["\"region\"", "\"domain\""],
    ),
    Setting::answer(
        "measures.*.member",
        "SQL, text",
        Default::Absent("needed by `correlation_drift` and `ttl_compression` alone"),
        "Which member of the key a row belongs to.",
        ["\"stream_id\"", "\"item\""],
    ),
    Setting::answer(
        "measures.*.value",
        "SQL, number",
        Default::Absent("of `timing_entropy`: how long a fact took to come in"),
        "What is measured.",
        ["\"score\"", "\"amount\""],
    ),
    Setting::answer(
        "measures.*.time",
        "column",
        Default::Absent("the node's `time`"),
        "The event-time column.",
        ["\"event_time\"", "\"booked_at\""],
    ),
    Setting::answer(
        "measures.*.period",
        "length of time",
        Default::Absent("the node's `period`"),
        "How long a period is.",
        ["\"1h\"", "\"2h\""],
    ),
    Setting::answer(
        "measures.*.slide",
        "length of time",
        Default::Absent("the node's `slide`"),
        "How far the beginnings of periods lie apart; a period is 1 to 1000 slides.",
        ["\"15m\"", "\"30m\""],
    ),
    Setting::answer(
        "measures.*.delay",
        "length of time",
        Default::Absent("the node's `delay`"),
        "How long after its end a period closes.",
        ["\"1m\"", "\"2m\""],
    ),
    Setting::answer(
        "measures.*.lateness_max",
        "length of time",
        Default::Absent("the node's `lateness_max`"),
        "How long a closed period is corrected by late facts.",
        ["\"1h\"", "\"2h\""],
    ),
    Setting::answer(
        "measures.*.rows_min",
        "whole number",
        Default::Absent("the node's `rows_min`"),
        "How many facts make a period.",
        ["10", "20"],
    ),
    Setting::answer(
        "measures.*.warm_up",
        "length of time",
        Default::Absent("none"),
        "How long after its first row a key's reference period begins.",
        ["\"37d\"", "\"38d\""],
    ),
    Setting::answer(
        "measures.*.yellow",
        "number",
        Default::Absent("the bound of the statistic"),
        "Beyond this value the measure is yellow.",
        ["0.2", "0.3"],
    ),
    Setting::answer(
        "measures.*.red",
        "number",
        Default::Absent("the bound of the statistic"),
        "Beyond this value the measure is red.",
        ["0.5", "0.6"],
    ),
    Setting::answer(
        "measures.*.reference",
        "table",
        Default::Absent("a key's first period"),
        "A declared reference of `psi` and `ks`: `edges`, ascending, and `counts`, one more.",
        ["{ edges = [1, 2], counts = [1, 2, 3] }", "{ edges = [1, 3], counts = [1, 2, 3] }"],
    ),
];

impl NodeKind for DriftKind {
    fn name(&self) -> &'static str {
        "drift"
    }

    fn version(&self) -> u32 {
        3
    }

    fn about(&self) -> &'static str {
        "Measures statistics over periods of event time and gives an event where a measure becomes yellow or red, \
         with its severity, fingerprint and recurrence. Late facts correct a closed period: a new event supersedes the one before."
    }

    fn ports(&self) -> &'static [Port] {
        PORTS
    }

    fn settings(&self) -> &'static [Setting] {
        SETTINGS
    }

    fn example(&self) -> &'static str {
        "name = \"drift\"\nkind = \"drift\"\ninput = \"decisions\"\nperiod = \"7d\"\nrows_min = 100\n\n\
         [measures.score]\nstatistic = \"psi\"\nvalue = \"score\"\nwarm_up = \"37d\"\n"
    }

    fn read(&self, section: &Section<'_>, _: &ReadContext<'_, '_>) -> Box<dyn NodeSpec> {
        let defaults = Defaults {
            key: section.text("key"),
            time: section.text_or("time", columns::TS_UTC),
            spans: ["period", "slide", "delay", "lateness_max"].map(|key| section.span(key)),
            rows_min: section.count_or("rows_min", 1, 1),
        };
        let before = section.diagnostics().count();
        let measures = section.sections("measures");
        if measures.is_empty() && section.diagnostics().count() == before {
            section.missing("measures", "a table for each measure, such as [node.measures.timing]");
        }
        let measures = measures.into_iter().map(|(name, of)| read_measure(name, &of, &defaults));
        Box::new(Spec { measures: measures.collect() })
    }
}

/// The settings of a node that its measures share.
struct Defaults {
    key: Option<Spanned>,
    time: Spanned,
    spans: [Option<Span>; 4],
    rows_min: u64,
}

/// Every statistic.
const STATISTICS: [&str; 7] = [
    "timing_entropy",
    "correlation_drift",
    "confidence_volatility",
    "ttl_compression",
    "external_mismatch",
    "psi",
    "ks",
];

fn read_measure(name: Spanned, of: &Section<'_>, defaults: &Defaults) -> Measure {
    of.refuse_renamed(&[("over", "from"), ("settles", "warm_up")]);
    let statistic = of.text("statistic").unwrap_or_else(|| {
        of.resolve("statistic", name.value.as_str());
        name.clone()
    });
    if !statistic.is_absent() && !STATISTICS.contains(&statistic.value.as_str()) {
        let mend = did_you_mean(&statistic.value, &STATISTICS);
        let what = format!("`{}` is not a statistic of drift; {mend}", statistic.value);
        of.diagnostics().add(statistic.line, what);
    }
    let span = |index: usize, key| {
        of.span(key).or_else(|| {
            let default = defaults.spans[index]?;
            of.resolve(key, default.to_string());
            Some(default)
        })
    };
    let key = of.text("key").or_else(|| {
        let key = defaults.key.clone()?;
        of.resolve("key", key.value.as_str());
        Some(key)
    });
    let measure = Measure {
        statistic,
        from: of.text("from"),
        key,
        member: of.text("member"),
        value: of.text("value"),
        time: of.text_or("time", &defaults.time.value),
        period: span(0, "period"),
        slide: span(1, "slide"),
        delay: span(2, "delay"),
        lateness_max: span(3, "lateness_max"),
        rows_min: of.count_or("rows_min", 1, defaults.rows_min),
        warm_up: of.span("warm_up"),
        yellow: of.number("yellow"),
        red: of.number("red"),
        reference: of.section("reference").and_then(|reference| {
            let (edges, counts) = (reference.numbers("edges"), reference.numbers("counts"));
            reference.finish();
            histogram(&reference, edges, counts)
        }),
        name,
    };
    of.finish();
    measure
}

/// The greatest number that is represented in millionths.
const GREATEST: f64 = 9e12;

/// A histogram with ascending edges and whole counts, or a fault.
fn histogram(section: &Section<'_>, edges: Vec<f64>, counts: Vec<f64>) -> Option<Reference> {
    let is_whole = |count: &f64| *count >= 0.0 && count.fract() == 0.0 && *count < 1e15;
    let is_valid = !edges.is_empty()
        && edges.iter().all(|edge| edge.is_finite() && edge.abs() <= GREATEST)
        && edges.is_sorted_by(|a, b| a < b)
        && counts.len() == edges.len() + 1
        && counts.iter().all(is_whole)
        && counts.iter().any(|count| *count > 0.0);
    if !is_valid {
        let what = format!(
            "{} must be {{ edges = [..], counts = [..] }}: ascending edges, and one more whole count than there are edges, \
             the last for what is above them all",
            section.name()
        );
        section.diagnostics().add(section.line(), what);
        return None;
    }
    let counts = counts.into_iter().map(|count| count as u64).collect();
    Some(Reference { edges, counts, line: section.line() })
}

struct Spec {
    measures: Vec<Measure>,
}

/// One measure, as a topology writes it.
struct Measure {
    name: Spanned,
    statistic: Spanned,
    from: Option<Spanned>,
    key: Option<Spanned>,
    member: Option<Spanned>,
    value: Option<Spanned>,
    time: Spanned,
    period: Option<Span>,
    slide: Option<Span>,
    delay: Option<Span>,
    lateness_max: Option<Span>,
    rows_min: u64,
    warm_up: Option<Span>,
    yellow: Option<f64>,
    red: Option<f64>,
    reference: Option<Reference>,
}

/// A declared reference: the edges of its bins, and how many values are in each.
struct Reference {
    edges: Vec<f64>,
    counts: Vec<u64>,
    line: u32,
}

impl NodeSpec for Spec {
    fn inputs(&self) -> Vec<FurtherInput<'_>> {
        let from = self.measures.iter().filter_map(|measure| measure.from.as_ref());
        from.map(|node| FurtherInput { node, accepts: Accepts::Facts }).collect()
    }

    fn capabilities(&self) -> Vec<Capability> {
        vec![Capability::DriftEvents(self.measures.iter().map(|m| m.name.value.clone()).collect())]
    }

    fn plan(&self, cx: &mut PlanContext<'_>) -> Option<Box<dyn PlannedNode>> {
        let measures: Vec<Option<_>> = self.measures.iter().map(|measure| measure.plan(cx)).collect();
        let (settings, inputs): (Vec<MeasureConfig>, Vec<StateInput>) =
            measures.into_iter().collect::<Option<Vec<_>>>()?.into_iter().unzip();
        let outputs = outputs().into_iter().map(|output| (output.schema, output.order)).collect();
        let learns = settings.iter().any(|of| of.kind.learns_reference());
        let factory = if learns {
            let (output, exchange) = snapshot_output();
            let snapshot = SnapshotSpec { schema: output.schema, exchange, order: output.order };
            StateFactory::Snapshotted(Arc::new(move || Box::new(Drift::new(settings.clone()))), snapshot)
        } else {
            StateFactory::Replayed(Arc::new(move || Box::new(Drift::new(settings.clone()))))
        };
        let summary = Summary::Table {
            title: "drift events (late facts corrected the others away)",
            port: None,
            reads: &["measure", "severity", "recurrence_24h"],
            columns: "measure, severity, count(*) AS events, max(recurrence_24h) AS most_in_24h",
            clauses: "WHERE recurrence_24h > 0 GROUP BY 1, 2 ORDER BY 1, 2",
        };
        Some(stateful(cx, PORTS, Some(summary), StatePlan { inputs, outputs, factory }))
    }
}

impl Measure {
    fn fault(&self, cx: &PlanContext<'_>, what: impl std::fmt::Display) {
        cx.fault(self.name.line, format!("measure `{}` of {} {what}", self.name.value, cx.called()));
    }

    fn plan(&self, cx: &PlanContext<'_>) -> Option<(MeasureConfig, StateInput)> {
        let from = self.from.as_ref().map_or(cx.input_name(), |from| from.value.as_str());
        let schema = cx.schema(from)?;
        let time = cx.time_column(&self.time, schema, from)?;
        let time = schema.field(time).name();
        let declared = self.reference.as_ref().map(|reference| Histogram {
            edges: reference.edges.iter().map(|edge| in_millionths(*edge)).collect(),
            counts: reference.counts.clone(),
        });
        let kind = kind_of(&self.statistic.value, declared)?;
        let is_distance = matches!(kind, StatisticKind::Psi(_) | StatisticKind::KolmogorovSmirnov(_));
        if let Some(reference) = self.reference.as_ref().filter(|_| !is_distance) {
            let what = format!("`reference` is for `psi` and `ks`; `{}` has none to declare", kind.name());
            cx.fault(reference.line, what);
        }
        if self.warm_up.is_some() && !kind.learns_reference() {
            self.fault(
                cx,
                "has no reference period to wait for; `warm_up` is for what is compared with a key's first period: \
                 `timing_entropy`, and `psi` and `ks` without a `reference`",
            );
        }
        if self.key.is_none() && !is_distance {
            self.fault(cx, "lacks `key`, SQL of whose facts belong together");
        }
        let (value, member) = (self.value(cx, &kind, time)?, self.member(cx, &kind)?);
        let periods = self.periods(cx)?;
        let bounds = self.bounds(cx, &kind);
        let key = self.key.clone().unwrap_or_else(|| Spanned::new("'all'", self.name.line));
        let time = Spanned::new(time, self.name.line);
        let texts = [("key", key), ("time", time), ("value", value), ("member", member)];
        let projection = cx.computed(from, input_fields(), &texts)?;
        let retention = if kind.learns_reference() { Retention::SpanBeforeSnapshot } else { Retention::Span };
        let input = StateInput {
            from: InputFrom::Node(from.to_owned()),
            projection,
            exchange: input_exchange(),
            retention: retention(periods.retention()),
            is_passed_on: false,
        };
        let name = self.name.value.as_str().into();
        Some((MeasureConfig { name, kind, bounds, periods }, input))
    }

    /// SQL of what is measured.
    fn value(&self, cx: &PlanContext<'_>, kind: &StatisticKind, time: &str) -> Option<Spanned> {
        let line = self.name.line;
        Some(match (&self.value, kind) {
            (Some(value), StatisticKind::CorrelationDrift) => {
                Spanned::new(format!("cast(({}) as bigint)", value.value), value.line)
            }
            (Some(value), _) => Spanned::new(millionths(&value.value), value.line),
            // Every row has this one: how long it took to come in.
            (None, StatisticKind::TimingEntropy) => {
                Spanned::new(format!("{} - cast({time} as bigint)", tick_micros()), line)
            }
            (None, _) => {
                self.fault(cx, format!("lacks `value`, {}", meaning_of_value(kind)));
                return None;
            }
        })
    }

    /// SQL of the member of the key.
    fn member(&self, cx: &PlanContext<'_>, kind: &StatisticKind) -> Option<Spanned> {
        Some(match (&self.member, kind) {
            (Some(member), _) => member.clone(),
            (None, StatisticKind::CorrelationDrift | StatisticKind::TtlCompression) => {
                self.fault(
                    cx,
                    "lacks `member`, SQL of the member that a row belongs to: the claims of a group, the items that a \
                     source refreshes",
                );
                return None;
            }
            (None, _) => Spanned::new("cast(null as varchar)", self.name.line),
        })
    }

    fn periods(&self, cx: &PlanContext<'_>) -> Option<PeriodConfig> {
        let Some(width) = self.period else {
            self.fault(cx, "lacks `period`, how long a period is, such as \"1h\"");
            return None;
        };
        let slide = self.slide.unwrap_or(width);
        if width.micros() % slide.micros() != 0 || width.micros() / slide.micros() > 1000 {
            self.fault(
                cx,
                format!(
                    "has periods of {width} that begin every {slide}; a period must be 1 to 1000 slides long"
                ),
            );
            return None;
        }
        Some(PeriodConfig {
            width,
            slide,
            delay: self.delay.map_or(0, Span::micros),
            lateness_max: self.lateness_max.map_or(0, Span::micros),
            rows_min: self.rows_min,
            warm_up: self.warm_up,
        })
    }

    fn bounds(&self, cx: &PlanContext<'_>, kind: &StatisticKind) -> Bounds {
        let usual = default_bounds(kind);
        let bound = |set: Option<f64>, usual: i64| set.map_or(usual, in_millionths);
        let bounds = Bounds {
            yellow: bound(self.yellow, usual.yellow),
            red: bound(self.red, usual.red),
            falling: usual.falling,
        };
        let is_small = |bound: &Option<f64>| bound.is_none_or(|bound| bound.abs() < MEASURED_MAX);
        if !(is_small(&self.yellow) && is_small(&self.red)) {
            self.fault(
                cx,
                format!("has a bound that no value exceeds; values are measured up to {MEASURED_MAX:e}"),
            );
        }
        let is_ordered =
            if bounds.falling { bounds.red <= bounds.yellow } else { bounds.yellow <= bounds.red };
        if !is_ordered {
            let side = if bounds.falling { "below" } else { "above" };
            self.fault(cx, format!("is red before it is yellow; put `red` {side} `yellow`"));
        }
        bounds
    }
}

/// The statistic of a name; `None` for one that is none, which has its own fault.
fn kind_of(name: &str, declared: Option<Histogram>) -> Option<StatisticKind> {
    Some(match name {
        "timing_entropy" => StatisticKind::TimingEntropy,
        "correlation_drift" => StatisticKind::CorrelationDrift,
        "confidence_volatility" => StatisticKind::ConfidenceVolatility,
        "ttl_compression" => StatisticKind::TtlCompression,
        "external_mismatch" => StatisticKind::ExternalMismatch,
        "psi" => StatisticKind::Psi(declared),
        "ks" => StatisticKind::KolmogorovSmirnov(declared),
        _ => return None,
    })
}

fn meaning_of_value(kind: &StatisticKind) -> &'static str {
    match kind {
        StatisticKind::CorrelationDrift => "SQL that is true of a row that failed",
        StatisticKind::TtlCompression => "SQL of its time to live in seconds",
        StatisticKind::ExternalMismatch => "SQL of the seconds between its time and the beacon's",
        _ => "SQL of the number that is measured",
    }
}

/// The bounds of a statistic when the topology sets none.
fn default_bounds(kind: &StatisticKind) -> Bounds {
    let (yellow, red, falling) = match kind {
        StatisticKind::TimingEntropy => (1.0, 2.0, false),
        StatisticKind::CorrelationDrift => (0.7, 0.9, false),
        StatisticKind::ConfidenceVolatility => (0.15, 0.25, false),
        StatisticKind::TtlCompression => (2.0, 1.0, true),
        StatisticKind::ExternalMismatch => (0.5, 5.0, false),
        StatisticKind::Psi(_) | StatisticKind::KolmogorovSmirnov(_) => (0.1, 0.25, false),
    };
    Bounds { yellow: in_millionths(yellow), red: in_millionths(red), falling }
}

fn in_millionths(number: f64) -> i64 {
    (number * 1e6).round() as i64
}

/// SQL of a tick's microseconds.
fn tick_micros() -> String {
    format!("cast({} / {} as bigint)", columns::TICK, 1 << PARTITION_BITS)
}

/// SQL of a number in millionths. NaN fails, and the row goes to the table `errors`.
pub(super) fn millionths(sql: &str) -> String {
    format!("{MILLIONTHS}(cast(({sql}) as double))")
}
