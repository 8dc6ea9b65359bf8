//! `credibility`, planned.

use std::sync::Arc;

use tidegate_facts::names::choices;
use tidegate_facts::{Span, columns};
use tidegate_operators::credibility::Settings;
use tidegate_operators::credibility::stream::{Credibility, Reads, history_schema, put_down_schema, schema};
use tidegate_operators::ordered::Route;

use super::drift::{PORTS as DRIFT_PORTS, millionths};
use super::state::{Heard, Made, PutDown, Retention, StatePlan};
use super::{Draft, Planner};
use crate::settings::Text;
use crate::topology::credibility::{CredibilityNode, Part};
use crate::topology::{Node, NodeKind};

/// What a `credibility` gives besides the index as it stands: every change of it.
pub const PORTS: [&str; 1] = ["history"];

/// How many events count when the topology does not say.
const EVENTS_MAX: u64 = 500;

/// How short evidence lives that runs short, when the topology does not say, in microseconds: half an hour.
const SHORT: i64 = 30 * 60 * 1_000_000;

impl Planner<'_> {
    pub(super) fn credibility(
        &self,
        node: &Node,
        credibility: &CredibilityNode,
        draft: &Draft,
    ) -> Option<StatePlan> {
        let drift = node.inputs[0].value.as_str();
        let Some(NodeKind::Drift(measures)) = self.topology.node(drift).map(|node| &node.kind) else {
            let what = format!(
                "{} reads `{drift}`, which is no node of kind `drift`; name one",
                node.called("node")
            );
            self.faults.add(node.inputs[0].line, what);
            return None;
        };
        let line = node.line;
        let own = |sql: &str| Text { value: sql.to_owned(), line };
        // What is put down needs no time by which rows are kept.
        let at = own("null");
        let evidence = credibility.evidence.clone().filter(|Part { over, .. }| {
            if draft.schema(&over.value).is_none_or(|schema| schema.index_of(columns::DIFF).is_ok()) {
                return true;
            }
            let what = format!(
                "`evidence` of {} reads `{}`, which never says that something is no longer valid; read what is alive, \
                 the changelog of a node of kind `expire`",
                node.called("node"),
                over.value
            );
            self.faults.add(over.line, what);
            false
        });
        // What is taken back has no recurrence.
        let severity = own("case when recurrence_24h > 0 then severity end");
        let events = vec![own("drift_id"), own("first_detected_at"), severity, own("supersedes")];
        let mut parts = vec![(Reads::Drift, drift.to_owned(), events)];
        if let Some(measure) = &credibility.correlation {
            let known: Vec<&str> = measures.measures.iter().map(|of| of.name.value.as_str()).collect();
            if !known.contains(&measure.value.as_str()) && !measure.is_absent() {
                let mend = choices(&measure.value, &known);
                self.faults
                    .add(measure.line, format!("node `{drift}` has no measure `{}`; {mend}", measure.value));
                return None;
            }
            // Rows of other measures have no group, and are passed over.
            let name = measure.value.replace('\'', "''");
            let group = own(&format!("case when measure = '{name}' then key end"));
            let columns = vec![group, own("period_to"), own(&millionths("value"))];
            parts.push((Reads::Correlations, format!("{drift}.{}", DRIFT_PORTS[0]), columns));
        }
        let mut add = |reads, part: &Option<Part>, order: &dyn Fn(&[Text], Text) -> Vec<Text>| {
            if let Some(Part { over, columns }) = part {
                parts.push((reads, over.value.clone(), order(columns, at.clone())));
            }
        };
        let diff = |line| Text { value: columns::DIFF.to_owned(), line };
        add(Reads::Claims, &credibility.claims, &|of, at| {
            let diff = diff(at.line);
            vec![of[0].clone(), at, of[1].clone(), diff]
        });
        for of in credibility.regions.iter().map(|part| &part.over).filter(|of| !of.is_absent()) {
            self.facts_of(node, of, draft.schema(&of.value)?)?;
        }
        add(Reads::Evidence, &evidence, &|of, at| vec![of[0].clone(), of[1].clone(), diff(at.line)]);
        add(Reads::Regions, &credibility.regions, &|of, at| vec![of[0].clone(), at, of[1].clone()]);
        let planned = parts.into_iter().map(|(reads, over, sqls)| {
            let narrow = self.computed(node, &over, reads.fields(), &sqls, draft)?;
            Some((
                reads,
                Heard { over, narrow, route: Route::One, retention: Retention::PutDown, is_passed: false },
            ))
        });
        let planned: Vec<Option<(Reads, Heard)>> = planned.collect();
        let (reads, inputs): (Vec<Reads>, Vec<Heard>) =
            planned.into_iter().collect::<Option<Vec<_>>>()?.into_iter().unzip();
        let settings = Settings {
            events_max: credibility.events_max.unwrap_or(EVENTS_MAX) as usize,
            events_span: credibility.events_span,
            short: credibility.short.unwrap_or(Span::from_micros(SHORT).expect("not zero")),
        };
        // One tick has at most the old row and the new one, of one worker.
        let outputs = vec![(schema(), Vec::new()), (history_schema(), Vec::new())];
        let make = Arc::new(move || Box::new(Credibility::new(settings, reads.clone())) as Box<_>);
        let put_down = PutDown { schema: put_down_schema(), route: Route::One, order: Vec::new() };
        let state = Made::PutDown(make, put_down);
        Some(StatePlan { inputs, outputs, state })
    }
}
