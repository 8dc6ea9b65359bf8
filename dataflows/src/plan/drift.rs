//! `drift`, planned.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field};
use tidegate_facts::tick::PARTITION_BITS;
use tidegate_facts::{Span, columns};
use tidegate_operators::drift::periods::Shape;
use tidegate_operators::drift::population::Histogram;
use tidegate_operators::drift::severity::Bounds;
use tidegate_operators::drift::stream::{
    Drift, KEY, events_schema, input_fields, orders, periods_schema, put_down_schema,
};
use tidegate_operators::drift::{Kind, Settings};
use tidegate_operators::expr::{Column, Projection};
use tidegate_operators::ordered::Route;

use super::state::{Heard, Made, PutDown, Retention, StatePlan};
use super::{Draft, Planner};
use crate::settings::Text;
use crate::sql::{MEASURED_MAX, MILLIONTHS};
use crate::topology::Node;
use crate::topology::drift::{DriftNode, MeasureNode};

/// What a `drift` gives besides its events: the rows of all closed periods.
pub const PORTS: [&str; 1] = ["periods"];

impl Planner<'_> {
    pub(super) fn drift(&self, node: &Node, drift: &DriftNode, draft: &Draft) -> Option<StatePlan> {
        let measures = drift.measures.iter().map(|measure| self.measure(node, measure, draft));
        let measures: Vec<Option<(Settings, Heard)>> = measures.collect();
        let (settings, inputs): (Vec<Settings>, Vec<Heard>) =
            measures.into_iter().collect::<Option<Vec<_>>>()?.into_iter().unzip();
        let outputs = [events_schema(), periods_schema()].into_iter().zip(orders()).collect();
        let learns = settings.iter().any(|of| of.kind.learns());
        let state = if learns {
            let put_down = PutDown { schema: put_down_schema(), route: Route::Key(1), order: vec![1, 2] };
            Made::PutDown(Arc::new(move || Box::new(Drift::new(settings.clone()))), put_down)
        } else {
            Made::Heard(Arc::new(move || Box::new(Drift::new(settings.clone()))))
        };
        Some(StatePlan { inputs, outputs, state })
    }

    fn measure(&self, node: &Node, measure: &MeasureNode, draft: &Draft) -> Option<(Settings, Heard)> {
        let line = measure.name.line;
        let fault = |what: String| {
            self.faults.add(line, format!("measure `{}` of node `{}` {what}", measure.name.value, node.name));
        };
        let of = measure.over.as_ref().unwrap_or(&node.inputs[0]);
        let over = &of.value;
        let schema = draft.schema(over)?;
        self.facts_of(node, of, schema)?;
        let time = self.time_column(&measure.time, schema, over)?;
        let time = schema.field(time).name();
        let declared = measure.reference.as_ref().map(|(edges, counts, _)| Histogram {
            edges: edges.iter().map(|edge| in_millionths(*edge)).collect(),
            counts: counts.clone(),
        });
        let kind = kind_of(&measure.statistic.value, declared)?;
        if let (Some((_, _, line)), false) =
            (&measure.reference, matches!(kind, Kind::Psi(_) | Kind::KolmogorovSmirnov(_)))
        {
            let what = format!("`reference` is for `psi` and `ks`; `{}` has none to declare", kind.name());
            self.faults.add(*line, what);
        }
        if measure.settles.is_some() && !kind.learns() {
            fault(
                "has nothing to settle; `settles` is for what is held against a key's first period: `timing_entropy`, and \
                 `psi` and `ks` without a `reference`"
                    .to_owned(),
            );
        }
        let missing = |setting: &str, what: &str| fault(format!("lacks `{setting}`, {what}"));
        if measure.key.is_none() && !matches!(kind, Kind::Psi(_) | Kind::KolmogorovSmirnov(_)) {
            missing("key", "SQL of whose facts belong together");
        }
        let value = match (&measure.value, &kind) {
            (Some(value), Kind::CorrelationDrift) => {
                self.sql_of(value, |sql| format!("cast(({sql}) as bigint)"))
            }
            (Some(value), _) => self.sql_of(value, millionths),
            // What is known of every row: how long it took to come in.
            (None, Kind::TimingEntropy) => {
                Text { value: format!("{} - cast({time} as bigint)", tick_micros()), line }
            }
            (None, _) => {
                missing("value", value_of(&kind));
                return None;
            }
        };
        let member = match (&measure.member, &kind) {
            (Some(member), _) => member.clone(),
            (None, Kind::CorrelationDrift | Kind::TtlCompression) => {
                missing(
                    "member",
                    "SQL of whom a row is of: the claims of a group, the items that a source refreshes",
                );
                return None;
            }
            (None, _) => Text { value: "cast(null as varchar)".to_owned(), line },
        };
        let Some(width) = measure.period else {
            missing("period", "how long a period is, such as \"1h\"");
            return None;
        };
        let slide = measure.slide.unwrap_or(width);
        if width.micros() % slide.micros() != 0 || width.micros() / slide.micros() > 1000 {
            fault(format!(
                "has periods of {width} that begin every {slide}; a period must be 1 to 1000 slides long"
            ));
            return None;
        }
        let periods = Shape {
            width,
            slide,
            delay: measure.delay.map_or(0, Span::micros),
            lateness_max: measure.lateness_max.map_or(0, Span::micros),
            rows_min: measure.rows_min.unwrap_or(1),
            settles: measure.settles,
        };
        let usual = bounds_of(&kind);
        let bound = |set: Option<f64>, usual: i64| set.map_or(usual, in_millionths);
        let bounds = Bounds {
            yellow: bound(measure.yellow, usual.yellow),
            red: bound(measure.red, usual.red),
            falling: usual.falling,
        };
        let is_small = |bound: &Option<f64>| bound.is_none_or(|bound| bound.abs() < MEASURED_MAX);
        if !(is_small(&measure.yellow) && is_small(&measure.red)) {
            fault(format!("has a bound that nothing is beyond; values are measured up to {MEASURED_MAX:e}"));
        }
        let is_ordered =
            if bounds.falling { bounds.red <= bounds.yellow } else { bounds.yellow <= bounds.red };
        if !is_ordered {
            let side = if bounds.falling { "below" } else { "above" };
            fault(format!("is red before it is yellow; put `red` {side} `yellow`"));
        }
        let whole = Text { value: "'all'".to_owned(), line };
        let key = measure.key.clone().unwrap_or(whole);
        let time = Text { value: time.clone(), line };
        let sqls = vec![key, time, value, member];
        let narrow = self.computed(node, over, input_fields(), &sqls, draft)?;
        let of = if kind.learns() { Retention::SpanBeforePutDown } else { Retention::Span };
        let retention = of(periods.retention());
        let heard = Heard { over: over.clone(), narrow, route: Route::Key(KEY), retention, is_passed: false };
        let name = measure.name.value.as_str().into();
        Some((Settings { name, kind, bounds, periods }, heard))
    }

    /// The rows of `over` as `fields`: their tick, and `sqls` for the others.
    pub(super) fn computed(
        &self,
        node: &Node,
        over: &str,
        fields: Vec<Field>,
        sqls: &[Text],
        draft: &Draft,
    ) -> Option<Arc<Projection>> {
        let schema = draft.schema(over)?;
        assert_eq!(sqls.len() + 1, fields.len(), "an expression for each column behind the tick");
        let tick = schema.index_of(columns::TICK).expect("every stream carries _tick");
        let mut fields = fields.into_iter();
        let mut made: Vec<(Column, Field)> =
            fields.next().map(|field| (Column::Kept(tick), field)).into_iter().collect();
        let diff = schema.index_of(columns::DIFF).ok();
        for (sql, field) in sqls.iter().zip(fields).filter(|(sql, _)| !sql.is_absent()) {
            // Who hears a changelog hears what is taken back; nothing else may be computed of it.
            if let Some(diff) =
                diff.filter(|_| sql.value == columns::DIFF && *field.data_type() == DataType::Int64)
            {
                made.push((Column::Kept(diff), field));
                continue;
            }
            let planned = self.planned(sql, self.sql.plan(&sql.value, schema, Some(field.data_type())));
            made.extend(planned.map(|planned| (Column::Computed(planned.expr), field)));
        }
        (made.len() == sqls.len() + 1).then(|| Arc::new(Projection::new(&node.name, made)))
    }

    /// An expression inside another; that the inner one is wrong is said of it alone.
    fn sql_of(&self, inner: &Text, outer: impl Fn(&str) -> String) -> Text {
        Text { value: outer(&inner.value), line: inner.line }
    }
}

/// The statistic of a name; `None` for one that is none, which has been said.
fn kind_of(name: &str, declared: Option<Histogram>) -> Option<Kind> {
    Some(match name {
        "timing_entropy" => Kind::TimingEntropy,
        "correlation_drift" => Kind::CorrelationDrift,
        "confidence_volatility" => Kind::ConfidenceVolatility,
        "ttl_compression" => Kind::TtlCompression,
        "external_mismatch" => Kind::ExternalMismatch,
        "psi" => Kind::Psi(declared),
        "ks" => Kind::KolmogorovSmirnov(declared),
        _ => return None,
    })
}

fn value_of(kind: &Kind) -> &'static str {
    match kind {
        Kind::CorrelationDrift => "SQL that is true of a row that failed",
        Kind::TtlCompression => "SQL of its time to live in seconds",
        Kind::ExternalMismatch => "SQL of the seconds between its time and the beacon's",
        _ => "SQL of the number that is measured",
    }
}

/// Which values are drift, when nothing else is said.
fn bounds_of(kind: &Kind) -> Bounds {
    let (yellow, red, falling) = match kind {
        Kind::TimingEntropy => (1.0, 2.0, false),
        Kind::CorrelationDrift => (0.7, 0.9, false),
        Kind::ConfidenceVolatility => (0.15, 0.25, false),
        Kind::TtlCompression => (2.0, 1.0, true),
        Kind::ExternalMismatch => (0.5, 5.0, false),
        Kind::Psi(_) | Kind::KolmogorovSmirnov(_) => (0.1, 0.25, false),
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

/// SQL of a number in millionths. What is no number at all fails, and goes to `errors`.
pub(super) fn millionths(sql: &str) -> String {
    format!("{MILLIONTHS}(cast(({sql}) as double))")
}
