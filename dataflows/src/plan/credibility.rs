//! Planning `credibility`.

use arrow::datatypes::SchemaRef;
use tidegate_facts::columns;
use tidegate_operators::credibility::Settings;
use tidegate_operators::credibility::stream::{Reads, schema};
use tidegate_operators::ordered::Route;

use super::drift::PERIODS;
use super::state::{Heard, millionths, tick_time};
use super::{Draft, Planner, StepKind};
use crate::settings::Text;
use crate::topology::Node;
use crate::topology::credibility::{CredibilityNode, Part};

/// A `credibility`, planned.
#[derive(Clone)]
pub struct CredibilityPlan {
    /// Which events count.
    pub settings: Settings,
    /// What its inputs are,
    pub reads: Vec<Reads>,
    /// and whose rows.
    pub inputs: Vec<Heard>,
}

/// How many events count when the topology does not say.
const EVENTS_MAX: u64 = 500;

impl Planner<'_> {
    pub(super) fn credibility(
        &self,
        node: &Node,
        credibility: &CredibilityNode,
        draft: &Draft,
    ) -> Option<(StepKind, SchemaRef)> {
        let drift = node.inputs[0].value.as_str();
        let step = draft.steps.iter().find(|step| step.name == drift);
        let Some(StepKind::Drift(measures)) = step.map(|step| &step.kind) else {
            let what = format!(
                "{} reads `{drift}`, which is no node of kind `drift`; name one",
                node.called("node")
            );
            self.faults.add(node.inputs[0].line, what);
            return None;
        };
        let line = node.line;
        let own = |sql: &str| Text { value: sql.to_owned(), line };
        let at = own(&tick_time());
        // What is taken back has no recurrence.
        let severity = own("case when recurrence_24h > 0 then severity end");
        let events = vec![own("drift_id"), at.clone(), severity, own("supersedes")];
        let mut parts = vec![(Reads::Drift, drift.to_owned(), None, events)];
        if let Some(measure) = &credibility.correlation {
            let known: Vec<&str> = measures.settings.iter().map(|of| of.name.as_ref()).collect();
            if !known.contains(&measure.value.as_str()) && !measure.is_absent() {
                let mend = tidegate_facts::names::choices(&measure.value, &known);
                self.faults
                    .add(measure.line, format!("node `{drift}` has no measure `{}`; {mend}", measure.value));
                return None;
            }
            let condition = own(&format!("measure = '{}'", measure.value.replace('\'', "''")));
            let columns = vec![own("key"), at.clone(), own(&millionths("value"))];
            parts.push((Reads::Correlations, format!("{drift}.{PERIODS}"), Some(condition), columns));
        }
        let mut add = |reads, part: &Option<Part>, order: fn(&[Text], Text) -> Vec<Text>| {
            if let Some(Part { over, condition, columns }) = part {
                parts.push((reads, over.value.clone(), condition.clone(), order(columns, at.clone())));
            }
        };
        add(Reads::Claims, &credibility.claims, |of, at| {
            let diff = Text { value: columns::DIFF.to_owned(), line: at.line };
            vec![of[0].clone(), at, of[1].clone(), diff]
        });
        add(Reads::Evidence, &credibility.evidence, |of, _| of.to_vec());
        add(Reads::Regions, &credibility.regions, |of, at| vec![of[0].clone(), at, of[1].clone()]);
        let planned = parts.into_iter().map(|(reads, over, condition, sqls)| {
            let fields = reads.fields();
            let (condition, narrow) =
                self.heard(&node.name, &over, condition.as_ref(), fields, sqls, draft)?;
            Some((reads, Heard { over, condition, narrow, route: Route::One, retention: None }))
        });
        let planned: Vec<Option<(Reads, Heard)>> = planned.collect();
        let (reads, inputs) = planned.into_iter().collect::<Option<Vec<_>>>()?.into_iter().unzip();
        let settings = Settings {
            events_max: credibility.events_max.unwrap_or(EVENTS_MAX) as usize,
            events_span: credibility.events_span,
        };
        Some((StepKind::Credibility(CredibilityPlan { settings, reads, inputs }), schema()))
    }
}
