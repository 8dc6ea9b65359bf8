//! Planning `linkage`.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, SchemaRef};
use tidegate_facts::columns;
use tidegate_operators::expr::{Column, Projection};
use tidegate_operators::keys::is_key;
use tidegate_operators::linkage::{Comparator, Comparison, Linkage, Rules, weights};
use tidegate_operators::ordered::Route;

use super::Planner;
use super::state::{Heard, Made, Retention, StatePlan};
use crate::settings::Text;
use crate::topology::Node;
use crate::topology::linkage::LinkageNode;

impl Planner<'_> {
    pub(super) fn linkage(
        &self,
        node: &Node,
        settings: &LinkageNode,
        input: &SchemaRef,
    ) -> Option<StatePlan> {
        let of = node.inputs[0].value.as_str();
        let id = self.key_column(&settings.id, input, of);
        let own_time = Text { value: columns::TS_UTC.to_owned(), line: node.line };
        let time = self.time_column(&own_time, input, of);
        let mut compared = Vec::new();
        for compare in &settings.compare {
            compared.push(self.compared_column(&compare.column, compare.by, input, of));
        }
        let mut blocks = Vec::new();
        for text in &settings.blocks {
            let planned = self.planned(text, self.sql.plan(&text.value, input, None));
            blocks.push(planned.filter(|planned| {
                let data_type = &planned.expr.data_type;
                if !is_key(data_type) {
                    self.faults.add(
                        text.line,
                        format!(
                            "`{}` is {data_type}, which cannot be a key; make it a text or a whole number",
                            text.value
                        ),
                    );
                }
                is_key(data_type)
            }));
        }
        let (id, time) = (id?, time?);
        let compared: Vec<usize> = compared.into_iter().collect::<Option<_>>()?;
        let blocks: Vec<_> = blocks.into_iter().collect::<Option<_>>()?;
        let tick = input.index_of(columns::TICK).expect("every stream carries _tick");
        let kept =
            |place: usize, name: &str| (Column::Kept(place), input.field(place).clone().with_name(name));
        let mut narrow = vec![kept(tick, columns::TICK), kept(id, "id"), kept(time, columns::TS_UTC)];
        narrow.extend(compared.iter().enumerate().map(|(n, place)| kept(*place, &format!("compared_{n}"))));
        narrow.extend(blocks.into_iter().enumerate().map(|(n, planned)| {
            let field = Field::new(format!("block_{n}"), planned.expr.data_type.clone(), true);
            (Column::Computed(planned.expr), field)
        }));
        let comparisons = settings.compare.iter().map(|compare| {
            let (agree, disagree) = weights(compare.m, compare.u);
            Comparison { comparator: compare.by, full: compare.full, none: compare.none, agree, disagree }
        });
        let rules = Rules {
            comparisons: comparisons.collect(),
            threshold: (settings.threshold * 1_000.0).round() as i64,
            blocks: settings.blocks.len(),
            block_max: usize::try_from(settings.block_max).unwrap_or(usize::MAX),
        };
        let linkage = Linkage { rules, id: input.field(id).data_type().clone() };
        let outputs = linkage.outputs().into_iter().map(|output| (output.schema, output.order)).collect();
        let narrow = Arc::new(Projection::new(&node.name, narrow));
        let heard = Heard {
            over: of.to_owned(),
            narrow,
            route: Route::One,
            retention: Retention::Forever,
            is_passed: false,
        };
        let state = Made::Heard(Arc::new(move || Box::new(linkage.state())));
        Some(StatePlan { inputs: vec![heard], outputs, state })
    }

    fn compared_column(&self, name: &Text, by: Comparator, input: &SchemaRef, of: &str) -> Option<usize> {
        let place = self.column(name, input, of)?;
        let data_type = input.field(place).data_type();
        let fits = data_type.is_integer() || *data_type == DataType::Utf8;
        if !fits {
            let wanted = if matches!(by, Comparator::Within(_)) { "a whole number" } else { "a text" };
            let what = format!(
                "column `{}` is {data_type}, and {wanted} can be compared: cast it in a `project` before",
                name.value
            );
            self.faults.add(name.line, what);
        }
        fits.then_some(place)
    }
}
