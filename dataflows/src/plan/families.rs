//! `families`, planned.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use tidegate_operators::families::{Learning, Places};
use tidegate_operators::ordered::Route;

use super::Planner;
use super::state::{Made, Narrow, PutDown, Retention, StatePlan};
use crate::topology::Node;
use crate::topology::families::FamiliesNode;

/// What a `families` gives besides what is known of streams.
pub const PORTS: [&str; 1] = ["pairs"];

impl Planner<'_> {
    pub(super) fn families(
        &self,
        node: &Node,
        settings: &FamiliesNode,
        input: &SchemaRef,
    ) -> Option<StatePlan> {
        let of = node.inputs[0].value.as_str();
        let claim = self.key_column(&settings.claim, input, of);
        let stream = self.kept_column(&settings.stream, input, of);
        let value = self.kept_column(&settings.value, input, of);
        let time = self.time_column(&settings.time, input, of);
        self.facts_only(node, input)?;
        let mut narrow = Narrow::new(self, node, input, claim?, Some(time?));
        let places = Places { claim: 1, time: 2, stream: narrow.keep(stream?), value: narrow.keep(value?) };
        // Pairs are counted over all claims, so one worker hears of all.
        let mut heard = narrow.heard(of, Route::One);
        heard.retention = Retention::PutDown;
        let schema = Arc::clone(heard.narrow.schema());
        let schemas = Learning::schemas(schema.field(places.stream).data_type());
        let outputs = schemas.into_iter().zip(Learning::orders()).collect();
        let learn = settings.learn;
        let put_down = PutDown {
            schema: Learning::put_down_schema(&schema, places),
            route: Route::One,
            order: vec![1, 2, 3, 4],
        };
        let make = Arc::new(move || Box::new(Learning::new(&schema, places, learn)) as Box<_>);
        let state = Made::PutDown(make, put_down);
        Some(StatePlan { inputs: vec![heard], outputs, state })
    }
}
