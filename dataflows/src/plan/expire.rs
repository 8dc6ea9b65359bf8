//! `expire`, planned.

use std::sync::Arc;

use arrow::datatypes::{DataType, SchemaRef};
use tidegate_facts::columns;
use tidegate_operators::expire::{Expire, Places};
use tidegate_operators::expr::Expr;
use tidegate_operators::kept::is_kept;
use tidegate_operators::ordered::Route;

use super::Planner;
use super::state::{Made, Narrow, PutDown, Retention, StatePlan};
use crate::settings::Text;
use crate::topology::Node;
use crate::topology::expire::{ExpireNode, Ttl};

/// What an `expire` gives besides what lives: the rows that were over when they came.
pub const PORTS: [&str; 1] = ["late"];

impl Planner<'_> {
    pub(super) fn expire(&self, node: &Node, settings: &ExpireNode, input: &SchemaRef) -> Option<StatePlan> {
        let of = node.inputs[0].value.as_str();
        let key = self.key_column(&settings.key, input, of);
        let time = self.time_column(&settings.time, input, of);
        let ttl = self.ttl(&settings.ttl, input, of);
        let cancel = settings.cancel.as_ref().map(|text| self.condition(text, input));
        self.facts_only(node, input)?;
        let (key, time, ttl) = (key?, time?, ttl?);
        let mut narrow = Narrow::new(self, node, input, key, Some(time));
        for (place, field) in input.fields().iter().enumerate() {
            if place == key || place == time || field.name() == columns::TICK {
                continue;
            }
            if !is_kept(field.data_type()) {
                let what = format!(
                    "column `{}` of `{of}` is {}, which cannot be kept; leave it out in a `project` before",
                    field.name(),
                    field.data_type()
                );
                self.faults.add(node.line, what);
                return None;
            }
            narrow.keep(place);
        }
        let given = narrow.len();
        let ttl = narrow.compute("_ttl", ttl);
        let cancel = match cancel {
            Some(condition) => Some(narrow.compute("_cancel", condition?)),
            None => None,
        };
        let longest = settings.ttl.longest();
        let places = Places { key: 1, time: 2, ttl, cancel, given, longest };
        let mut heard = narrow.heard(of, Route::Key(1));
        heard.is_passed = true;
        heard.retention = longest.map_or(Retention::PutDown, Retention::Span);
        let schema = Arc::clone(heard.narrow.schema());
        let outputs = Expire::schemas(&schema, given).map(|schema| (schema, vec![1])).to_vec();
        outputs.iter().for_each(|(schema, _)| {
            let fields: Vec<_> = schema.fields().iter().map(|field| field.as_ref().clone()).collect();
            self.no_twins(node, &fields);
        });
        let state = match longest {
            Some(_) => Made::Heard(Arc::new(move || Box::new(Expire::new(&schema, places)))),
            // What can still live is not told by its age.
            None => {
                let put_down = Expire::put_down_schema(&schema, given);
                let put_down = PutDown { schema: put_down, route: Route::Key(1), order: vec![1] };
                Made::PutDown(Arc::new(move || Box::new(Expire::new(&schema, places))), put_down)
            }
        };
        Some(StatePlan { inputs: vec![heard], outputs, state })
    }

    /// The time to live in microseconds.
    fn ttl(&self, ttl: &Ttl, input: &SchemaRef, of: &str) -> Option<Expr> {
        let (text, sql) = match ttl {
            Ttl::Fixed(span) => (None, span.micros().to_string()),
            Ttl::Sql(text) => {
                let planned = self.planned(text, self.sql.plan(&text.value, input, None))?;
                let sql = match planned.expr.data_type {
                    ref whole if whole.is_integer() => seconds(&text.value),
                    DataType::Duration(_) => {
                        format!("cast(arrow_cast({}, 'Duration(Microsecond)') as bigint)", text.value)
                    }
                    ref other => {
                        let what = format!(
                            "`{}` is a {other}; a time to live is a whole number of seconds, or a duration",
                            text.value
                        );
                        self.faults.add(text.line, what);
                        return None;
                    }
                };
                (Some(text), sql)
            }
            Ttl::By(by, spans) => {
                self.column(by, input, of)?;
                if spans.is_empty() {
                    return None; // What is wrong with each has been said.
                }
                let quoted = |text: &str| text.replace('\'', "''");
                let cases = spans
                    .iter()
                    .map(|(value, span)| format!(" when '{}' then {}", quoted(&value.value), span.micros()));
                let column = by.value.replace('"', "\"\"");
                (Some(by), format!("case cast(\"{column}\" as text){} end", cases.collect::<String>()))
            }
        };
        let line = Text { value: sql.clone(), line: text.map_or(0, |text| text.line) };
        Some(self.planned(&line, self.sql.plan(&sql, input, Some(&DataType::Int64)))?.expr)
    }
}

/// SQL of so many seconds in microseconds. What is beyond all time stays beyond it, whatever its product would wrap to.
fn seconds(sql: &str) -> String {
    const MOST: i64 = i64::MAX / 1_000_000;
    let whole = format!("cast(({sql}) as bigint)");
    format!(
        "case when {whole} > {MOST} then {MOST} when {whole} < -{MOST} then -{MOST} else {whole} end * 1000000"
    )
}

impl Ttl {
    /// The longest that a row can live, in microseconds, if that is known.
    fn longest(&self) -> Option<i64> {
        match self {
            Ttl::Fixed(span) => Some(span.micros()),
            Ttl::By(_, spans) => spans.iter().map(|(_, span)| span.micros()).max(),
            Ttl::Sql(_) => None,
        }
    }
}
