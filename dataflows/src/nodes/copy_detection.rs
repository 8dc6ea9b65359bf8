//! `copy_detection`: streams that share wrong values, and so copy from each other or from one
//! source.

use std::sync::Arc;

use tidegate_facts::{Span, columns};
use tidegate_operators::core::row_layout::{INPUT_KEY, INPUT_TIME};
use tidegate_operators::core::tick_ordered::Exchange;
use tidegate_operators::credibility::copy_detection::{CopyConfig, CopyDetection, CopyDetectionColumns};

use crate::config::{Section, Spanned};
use crate::node::settings::Default;
use crate::node::stateful::{InputProjection, SnapshotSpec, StateFactory, StatePlan, stateful};
use crate::node::{Capability, NodeKind, NodeSpec, PlanContext, PlannedNode, Port, ReadContext, Setting};
use crate::timeline_names::Retention;

/// The kind of node `copy_detection`.
pub struct CopyDetectionKind;

const PORTS: &[Port] = &[Port {
    name: "pairs",
    about: "Each pair of streams with shared items, and the evidence for and against copying.",
}];

const SETTINGS: &[Setting] = &[
    Setting::answer(
        "claim",
        "column",
        Default::Required,
        "The column that names the claim.",
        ["\"item\"", "\"claim_id\""],
    ),
    Setting::answer(
        "stream",
        "column",
        Default::Required,
        "The column that names the stream that makes the claim.",
        ["\"source\"", "\"source_id\""],
    ),
    Setting::answer(
        "value",
        "column",
        Default::Required,
        "The column with the claimed value.",
        ["\"claimed\"", "\"value\""],
    ),
    Setting::answer(
        "time",
        "column",
        Default::Value("\"ts_utc\""),
        "The event-time column.",
        ["\"event_time\"", "\"booked_at\""],
    ),
    Setting::answer(
        "period",
        "length of time",
        Default::Required,
        "The event time that one round of detection covers.",
        ["\"1d\"", "\"1h\""],
    ),
    Setting::answer(
        "similarity_min",
        "share from 0.5 to below 1",
        Default::Value("0.99"),
        "The share of shared wrong values from which on two streams are similar.",
        ["0.9", "0.95"],
    ),
    Setting::answer(
        "evidence_bits_min",
        "whole number",
        Default::Value("100"),
        "How many bits of evidence make two similar streams one group.",
        ["50", "60"],
    ),
    Setting::answer(
        "weights",
        "true or false",
        Default::Value("false"),
        "Whether a group's vote weighs what its share of accepted values says.",
        ["true", "false"],
    ),
];

impl NodeKind for CopyDetectionKind {
    fn name(&self) -> &'static str {
        "copy_detection"
    }

    fn version(&self) -> u32 {
        1
    }

    fn about(&self) -> &'static str {
        "Finds streams that share wrong values more often than independent streams would, and puts them into one \
         family. It gives, as a changelog, the family of each stream. A `quorum` that names it in `families` lets a family vote once."
    }

    fn ports(&self) -> &'static [Port] {
        PORTS
    }

    fn settings(&self) -> &'static [Setting] {
        SETTINGS
    }

    fn renamed(&self) -> &'static [(&'static str, &'static str)] {
        &[("alike", "similarity_min"), ("surprise_bits", "evidence_bits_min")]
    }

    fn example(&self) -> &'static str {
        "name = \"families\"\nkind = \"copy_detection\"\ninput = \"claims\"\nclaim = \"item\"\nstream = \"source\"\nvalue = \"claimed\"\nperiod = \"1d\"\n"
    }

    fn read(&self, section: &Section<'_>, _: &ReadContext<'_, '_>) -> Box<dyn NodeSpec> {
        let period = section.span("period");
        if !section.has("period") {
            section.missing("period", "how much event time a round covers, such as \"1d\"");
        }
        let similarity = section.number_or("similarity_min", 0.99);
        if !(0.5..1.0).contains(&similarity) {
            let what = format!(
                "`similarity_min` of {} must be a share from 0.5 to below 1, such as 0.99",
                section.name()
            );
            section.diagnostics().add(section.line(), what);
        }
        let bits = section.count_or("evidence_bits_min", 0, 100);
        Box::new(Spec {
            claim: section.required_text("claim", "the column that names the claim"),
            stream: section.required_text("stream", "the column that names the stream"),
            value: section.required_text("value", "the column with the claimed value"),
            time: section.text_or("time", columns::TS_UTC),
            config: CopyConfig {
                round: period.unwrap_or(Span::parse("1d").expect("a span")),
                similarity_min: (similarity * 1e6).round().clamp(0.0, 1e6) as u32,
                evidence_bits_min: u32::try_from(bits).unwrap_or(u32::MAX),
                learns_weights: section.flag_or("weights", false),
            },
        })
    }
}

struct Spec {
    claim: Spanned,
    stream: Spanned,
    value: Spanned,
    time: Spanned,
    config: CopyConfig,
}

impl NodeSpec for Spec {
    fn capabilities(&self) -> Vec<Capability> {
        vec![Capability::StreamGroups]
    }

    fn plan(&self, cx: &mut PlanContext<'_>) -> Option<Box<dyn PlannedNode>> {
        let (input, of) = (cx.input()?, cx.input_name());
        let claim = cx.key_column(&self.claim, input, of);
        let stream = cx.retained_column(&self.stream, input, of);
        let value = cx.retained_column(&self.value, input, of);
        let time = cx.time_column(&self.time, input, of);
        let mut projection = InputProjection::new(cx, input, claim?, Some(time?));
        let columns = CopyDetectionColumns {
            claim: INPUT_KEY,
            time: INPUT_TIME,
            stream: projection.keep(stream?),
            value: projection.keep(value?),
        };
        // Pairs are counted over all claims, so one worker receives all rows.
        let mut rows = projection.input(of, Exchange::Single);
        rows.retention = Retention::SinceSnapshot;
        let schema = Arc::clone(rows.projection.schema());
        let outputs = CopyDetection::outputs(&schema, columns);
        let outputs = outputs.into_iter().map(|output| (output.schema, output.order)).collect();
        let config = self.config;
        let (output, exchange) = CopyDetection::snapshot_output(&schema, columns);
        let snapshot = SnapshotSpec { schema: output.schema, exchange, order: output.order };
        let make = Arc::new(move || Box::new(CopyDetection::new(&schema, columns, config)) as Box<_>);
        let factory = StateFactory::Snapshotted(make, snapshot);
        Some(stateful(cx, PORTS, None, StatePlan { inputs: vec![rows], outputs, factory }))
    }
}
