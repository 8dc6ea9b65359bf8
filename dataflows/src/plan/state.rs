//! What a state hears of another node's rows: which of them, and as which columns.

use std::sync::Arc;

use arrow::datatypes::Field;
use datafusion::physical_expr::utils::collect_columns;
use tidegate_facts::columns;
use tidegate_operators::expr::{Column, Expr, Projection};
use tidegate_operators::ordered::Route;

use super::{Draft, Planner};
use crate::settings::Text;

/// An input of a state.
#[derive(Clone)]
pub struct Heard {
    /// The node, or the port, whose rows they are.
    pub over: String,
    /// Which of its rows.
    pub condition: Option<Expr>,
    /// Their columns: tick, key, time, and more.
    pub narrow: Arc<Projection>,
    /// Where they go.
    pub route: Route,
    /// How long they are needed, in microseconds of event time; `None` is for ever.
    pub retention: Option<i64>,
}

impl Heard {
    /// The columns that it reads of the other node.
    pub fn reads(&self, schema: &arrow::datatypes::Schema) -> Vec<String> {
        let of = |expr: &Expr| {
            collect_columns(&expr.physical).into_iter().map(|column| column.name().to_owned()).collect()
        };
        let narrow = self.narrow.columns().flat_map(|column| match column {
            Column::Kept(place) => vec![schema.field(*place).name().clone()],
            Column::Computed(expr) => of(expr),
        });
        let mut names: Vec<String> = self.condition.iter().flat_map(of).chain(narrow).collect();
        names.sort();
        names.dedup();
        names
    }
}

/// SQL of a tick's microseconds.
pub fn tick_micros() -> String {
    format!("cast({} / {} as bigint)", columns::TICK, 1 << tidegate_facts::tick::PARTITION_BITS)
}

/// SQL of a tick as a time.
pub fn tick_time() -> String {
    format!("arrow_cast({}, 'Timestamp(Microsecond, Some(\"UTC\"))')", tick_micros())
}

/// SQL of a number in millionths.
pub fn millionths(sql: &str) -> String {
    format!("cast(round(cast(({sql}) as double) * 1000000) as bigint)")
}

impl Planner<'_> {
    /// The columns `sqls` of the rows of `over`, with the types of `fields`; the first is the tick. Faults are at `line`s.
    pub(super) fn heard(
        &self,
        node: &str,
        over: &str,
        condition: Option<&Text>,
        fields: Vec<Field>,
        sqls: Vec<Text>,
        draft: &Draft,
    ) -> Option<(Option<Expr>, Arc<Projection>)> {
        let schema = draft.schema(over)?;
        let condition = condition.map(|text| self.boolean(text, schema));
        let tick = schema.index_of(columns::TICK).expect("every stream carries _tick");
        assert_eq!(sqls.len() + 1, fields.len(), "an expression for each column behind the tick");
        let mut made: Vec<(Column, Field)> = Vec::new();
        for (place, field) in fields.into_iter().enumerate() {
            if place == 0 {
                made.push((Column::Kept(tick), field));
            } else {
                let sql = &sqls[place - 1];
                let planned = self.sql.plan(&sql.value, schema, Some(field.data_type()));
                let planned = planned.map_err(|what| self.faults.add(sql.line, what)).ok();
                made.extend(planned.map(|planned| (Column::Computed(planned.expr), field)));
            }
        }
        let whole = made.len() == sqls.len() + 1 && !matches!(condition, Some(None));
        let condition = condition.flatten().map(|planned| planned.expr);
        whole.then(|| (condition, Arc::new(Projection::new(node, made))))
    }
}
