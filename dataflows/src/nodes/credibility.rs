//! `credibility`: the credibility index over drift, claims, evidence and regions.

use std::sync::Arc;

use tidegate_facts::suggest::did_you_mean;
use tidegate_facts::{Span, columns};
use tidegate_operators::core::tick_ordered::Exchange;
use tidegate_operators::credibility::index::CredibilityConfig;
use tidegate_operators::credibility::index::operator::{Credibility, CredibilityInput};

use super::drift::{PERIODS, millionths};
use crate::config::{Section, Spanned};
use crate::node::settings::Default;
use crate::node::stateful::{InputFrom, SnapshotSpec, StateFactory, StateInput, StatePlan, stateful};
use crate::node::{
    Accepts, Capability, FurtherInput, NodeKind, NodeSpec, PlanContext, PlannedNode, Port, ReadContext,
    Setting, Summary,
};
use crate::timeline_names::Retention;

/// The kind of node `credibility`.
pub struct CredibilityKind;

const HISTORY: &str = "history";

const PORTS: &[Port] = &[Port { name: HISTORY, about: "Every change of the index, as facts." }];

const SETTINGS: &[Setting] = &[
    Setting::answer(
        "events_max",
        "whole number",
        Default::Value("500"),
        "How many of the newest drift events count at most.",
        ["400", "300"],
    ),
    Setting::answer(
        "events_span",
        "length of time",
        Default::Absent("for ever"),
        "How long a drift event counts.",
        ["\"1h\"", "\"2h\""],
    ),
    Setting::answer(
        "expiring_within",
        "length of time",
        Default::Value("\"30m\""),
        "Evidence whose life ends within this span runs short.",
        ["\"10m\"", "\"20m\""],
    ),
    Setting::answer(
        "correlation",
        "measure",
        Default::Absent("groups do not count"),
        "The measure of the drift node that says how groups fail together.",
        ["\"correlation\"", "\"together\""],
    ),
    Setting::answer(
        "claims",
        "table",
        Default::Absent("claims do not count"),
        "Changes of claims: `from`, a node that gives a changelog; `unknown` and `fragile`, SQL.",
        [
            "{ from = \"claims\", unknown = \"a\", fragile = \"b\" }",
            "{ from = \"claims\", unknown = \"b\", fragile = \"b\" }",
        ],
    ),
    Setting::answer(
        "evidence",
        "table",
        Default::Absent("evidence does not count"),
        "What evidence is alive: `from`, the changelog of an `expire`; `claim` and `expires`, SQL.",
        [
            "{ from = \"live\", claim = \"c\", expires = \"e\" }",
            "{ from = \"live\", claim = \"d\", expires = \"e\" }",
        ],
    ),
    Setting::answer(
        "claims.from",
        "node",
        Default::Required,
        "The node that gives the claims.",
        ["\"claims\"", "\"areas\""],
    ),
    Setting::answer(
        "evidence.from",
        "node",
        Default::Required,
        "The node that gives the evidence that is alive.",
        ["\"live\"", "\"alive\""],
    ),
    Setting::answer(
        "regions.from",
        "node",
        Default::Required,
        "The node that gives the regions.",
        ["\"beacons\"", "\"clocks\""],
    ),
    Setting::answer(
        "regions",
        "table",
        Default::Absent("regions do not count"),
        "Regions: `from`, a node that gives facts; `region` and `state`, SQL of 'OK', 'WARN' or 'CRITICAL'.",
        [
            "{ from = \"beacons\", region = \"r\", state = \"s\" }",
            "{ from = \"beacons\", region = \"r\", state = \"t\" }",
        ],
    ),
];

impl NodeKind for CredibilityKind {
    fn name(&self) -> &'static str {
        "credibility"
    }

    fn version(&self) -> u32 {
        3
    }

    fn about(&self) -> &'static str {
        "Gives, as a changelog, the credibility index: how far the claims can be relied on, from the drift events \
         of its input and from claims, evidence and regions. It reads a node of kind `drift`."
    }

    fn ports(&self) -> &'static [Port] {
        PORTS
    }

    fn settings(&self) -> &'static [Setting] {
        SETTINGS
    }

    fn renamed(&self) -> &'static [(&'static str, &'static str)] {
        &[("short", "expiring_within")]
    }

    fn example(&self) -> &'static str {
        "name = \"credibility\"\nkind = \"credibility\"\ninput = \"drift\"\nevents_span = \"1h\"\n\
         claims = { from = \"claims\", unknown = \"status = 'UNKNOWN'\", fragile = \"margin = 1\" }\n"
    }

    fn read(&self, section: &Section<'_>, _: &ReadContext<'_, '_>) -> Box<dyn NodeSpec> {
        let part = |key, columns: &[(&'static str, &str)]| {
            let part = section.section(key)?;
            part.refuse_renamed(&[("over", "from")]);
            let read = Part {
                from: part.required_text("from", "the node whose rows are read"),
                columns: columns
                    .iter()
                    .map(|(column, what)| (*column, part.required_text(column, what)))
                    .collect(),
            };
            part.finish();
            Some(read)
        };
        Box::new(Spec {
            events_max: section.count_or("events_max", 1, 500),
            events_span: section.span("events_span"),
            expiring_within: section.span_or("expiring_within", "30m"),
            correlation: section.text("correlation"),
            claims: part(
                "claims",
                &[
                    ("unknown", "SQL that is true while nobody can say whether a claim holds"),
                    ("fragile", "SQL that is true while a claim hangs on one vote"),
                ],
            ),
            evidence: part(
                "evidence",
                &[("claim", "SQL of the claim that it is for"), ("expires", "SQL of the time when it ends")],
            ),
            regions: part(
                "regions",
                &[("region", "SQL of the region"), ("state", "SQL of its state: 'OK', 'WARN' or 'CRITICAL'")],
            ),
        })
    }
}

struct Spec {
    events_max: u64,
    events_span: Option<Span>,
    expiring_within: Span,
    correlation: Option<Spanned>,
    claims: Option<Part>,
    evidence: Option<Part>,
    regions: Option<Part>,
}

/// One of the node's further inputs.
struct Part {
    from: Spanned,
    /// SQL of its columns, by name.
    columns: Vec<(&'static str, Spanned)>,
}

impl NodeSpec for Spec {
    fn inputs(&self) -> Vec<FurtherInput<'_>> {
        let parts = [
            (&self.claims, Accepts::Changelog),
            (&self.evidence, Accepts::Changelog),
            (&self.regions, Accepts::Facts),
        ];
        let parts = parts.into_iter().filter_map(|(part, accepts)| Some((part.as_ref()?, accepts)));
        parts.map(|(part, accepts)| FurtherInput { node: &part.from, accepts }).collect()
    }

    fn plan(&self, cx: &mut PlanContext<'_>) -> Option<Box<dyn PlannedNode>> {
        let drift = cx.input_name();
        cx.input()?;
        let measures = cx.capabilities(drift).iter().find_map(|capability| match capability {
            Capability::DriftEvents(measures) => Some(measures),
            _ => None,
        });
        let Some(measures) = measures else {
            let what =
                format!("{} reads `{drift}`, which is not a node of kind `drift`; name one", cx.called());
            cx.fault(cx.inputs[0].line, what);
            return None;
        };
        let own = |sql: &str| Spanned::new(sql, cx.line);
        // A snapshot needs no time by which rows are retained.
        let at = own("null");
        // An event that was corrected away has no recurrence.
        let severity = own("case when recurrence_24h > 0 then severity end");
        let events = vec![
            ("id", own("drift_id")),
            ("since", own("first_detected_at")),
            ("severity", severity),
            ("supersedes", own("supersedes")),
        ];
        let mut parts = vec![(CredibilityInput::Drift, drift.to_owned(), events)];
        if let Some(measure) = &self.correlation {
            let existing: Vec<&str> = measures.iter().map(String::as_str).collect();
            if !existing.contains(&measure.value.as_str()) && !measure.is_absent() {
                let mend = did_you_mean(&measure.value, &existing);
                cx.fault(measure.line, format!("node `{drift}` has no measure `{}`; {mend}", measure.value));
                return None;
            }
            // Rows of other measures have no group; the state ignores them.
            let name = measure.value.replace('\'', "''");
            let group = own(&format!("case when measure = '{name}' then key end"));
            let columns =
                vec![("group", group), ("to", own("period_to")), ("value", own(&millionths("value")))];
            parts.push((CredibilityInput::Correlations, format!("{drift}.{PERIODS}"), columns));
        }
        let further = [
            (CredibilityInput::Claims, &self.claims),
            (CredibilityInput::Evidence, &self.evidence),
            (CredibilityInput::Regions, &self.regions),
        ];
        for (reads, part) in further {
            if let Some(part) = part {
                let mut texts = part.columns.clone();
                texts.extend([("at", at.clone()), ("diff", own(columns::DIFF))]);
                parts.push((reads, part.from.value.clone(), texts));
            }
        }
        let planned = parts.into_iter().map(|(reads, from, sqls)| {
            let projection = cx.computed(&from, reads.fields(), &sqls)?;
            let input = StateInput {
                from: InputFrom::Node(from),
                projection,
                exchange: Exchange::Single,
                retention: Retention::SinceSnapshot,
                is_passed_on: false,
            };
            Some((reads, input))
        });
        let planned: Vec<Option<(CredibilityInput, StateInput)>> = planned.collect();
        let (reads, inputs): (Vec<CredibilityInput>, Vec<StateInput>) =
            planned.into_iter().collect::<Option<Vec<_>>>()?.into_iter().unzip();
        let settings = CredibilityConfig {
            events_max: self.events_max as usize,
            events_span: self.events_span,
            expiring_within: self.expiring_within,
        };
        let outputs =
            Credibility::outputs().into_iter().map(|output| (output.schema, output.order)).collect();
        let make = Arc::new(move || Box::new(Credibility::new(settings, reads.clone())) as Box<_>);
        let (output, exchange) = Credibility::snapshot_output();
        let snapshot = SnapshotSpec { schema: output.schema, exchange, order: output.order };
        let summary = Summary::Table {
            title: "the index, by six hours",
            port: Some(HISTORY),
            reads: &["at", "credibility_index", "band"],
            columns: "date_bin(interval '6 hours', at) AS since, min(credibility_index) AS least, \
                      max(credibility_index) AS most, last_value(credibility_index ORDER BY _tick) AS last, \
                      last_value(band ORDER BY _tick) AS band",
            clauses: "GROUP BY 1 ORDER BY 1",
        };
        let factory = StateFactory::Snapshotted(make, snapshot);
        Some(stateful(cx, PORTS, Some(summary), StatePlan { inputs, outputs, factory }))
    }
}
