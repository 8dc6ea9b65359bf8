//! The spans of one HTTP call that submits records.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Instant;

use arrow::util::display::array_value_to_string;
use axum::http::{HeaderMap, StatusCode};
use serde::Deserialize;
use tidegate_dataflows::serve::{AppendTiming, Decision, Receipt, ServeState, SubmissionOutcome};
use tidegate_facts::envelope::ScenarioId;
use tidegate_facts::{Tick, Verdict};

use super::context::{ParentSpan, SpanId, TraceId};
use super::otlp::{Attribute, Span, SpanKind, SpanLink, SpanStatus};
use super::tracer::{ClockReading, PendingSeal, Traces};

/// The trace of a submitted record, and the identifiers that its span carries.
///
/// They are read from the record itself; a record that is no JSON envelope has none.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct TraceContext {
    event_id: Option<String>,
    event_type: Option<String>,
    schema_version: Option<String>,
    producer: Option<String>,
    manifest_fingerprint: Option<String>,
    parameter_hash: Option<String>,
    seed: Option<u64>,
    scenario_id: Option<ScenarioId>,
    run_id: Option<String>,
    scenario_run_id: Option<String>,
    platform_run_id: Option<String>,
    trace_id: Option<String>,
    span_id: Option<String>,
}

impl TraceContext {
    /// Reads the context from the bytes of a record.
    pub(crate) fn of(record: &[u8]) -> TraceContext {
        serde_json::from_slice(record).unwrap_or_default()
    }

    /// The parent that the record names.
    fn parent(&self) -> Option<ParentSpan> {
        self.trace_id.as_ref().map(|trace| ParentSpan::of_fields(trace, self.span_id.as_deref()))
    }

    fn attributes(&self) -> Vec<Attribute> {
        let (seed, scenario) =
            (self.seed.map(|seed| seed.to_string()), self.scenario_id.as_ref().map(ToString::to_string));
        let texts = [
            ("tidegate.event_id", &self.event_id),
            ("tidegate.event_type", &self.event_type),
            ("tidegate.schema_version", &self.schema_version),
            ("tidegate.producer", &self.producer),
            ("tidegate.manifest_fingerprint", &self.manifest_fingerprint),
            ("tidegate.parameter_hash", &self.parameter_hash),
            ("tidegate.seed", &seed),
            ("tidegate.scenario_id", &scenario),
            ("tidegate.run_id", &self.run_id),
            ("tidegate.scenario_run_id", &self.scenario_run_id),
            ("tidegate.platform_run_id", &self.platform_run_id),
            ("tidegate.record.trace_id", &self.trace_id),
            ("tidegate.record.span_id", &self.span_id),
        ];
        texts.into_iter().filter_map(|(key, text)| Some(Attribute::text(key, text.as_ref()?))).collect()
    }
}

/// The columns of a decision that its span carries, and the names of the attributes.
const DECISION_ATTRIBUTES: [(&str, &str); 8] = [
    ("decision_id", "tidegate.decision_id"),
    ("action", "tidegate.action"),
    ("bundle_id", "tidegate.bundle_id"),
    ("bundle_version", "tidegate.bundle_version"),
    ("bundle_digest", "tidegate.bundle_digest"),
    ("policy_id", "tidegate.policy_id"),
    ("policy_revision", "tidegate.policy_revision"),
    ("snapshot_digest", "tidegate.snapshot_digest"),
];

/// The span of an HTTP call that submits records, and its child spans. They are sent when it is
/// dropped.
pub(crate) struct CallSpan {
    traces: Arc<Traces>,
    trace: TraceId,
    id: SpanId,
    parent: Option<SpanId>,
    /// Whether the trace of the call is sampled; those of its records may be, even if it is not.
    sampled: bool,
    name: &'static str,
    arrived: Instant,
    attributes: Vec<Attribute>,
    children: Vec<ChildSpan>,
    event_id: Option<String>,
    /// When its last decision came.
    decided: Option<Instant>,
    /// The status of its answer; `None` if the caller went away before.
    answered: Option<StatusCode>,
}

/// A span below the call's, with times that are not converted yet.
struct ChildSpan {
    trace: TraceId,
    id: SpanId,
    parent: Option<SpanId>,
    name: &'static str,
    times: (Instant, Instant),
    attributes: Vec<Attribute>,
    links: Vec<SpanLink>,
}

impl CallSpan {
    /// Starts the span of a call.
    ///
    /// The trace is the one that the header `traceparent` names, or else the one that the call's
    /// only record names, or else a new one.
    pub(crate) fn begin(
        traces: &Arc<Traces>,
        name: &'static str,
        headers: &HeaderMap,
        record: Option<&TraceContext>,
        arrived: Instant,
    ) -> CallSpan {
        let header = headers.get("traceparent").and_then(|value| value.to_str().ok());
        let parent = header.and_then(ParentSpan::of_header).or_else(|| record.and_then(TraceContext::parent));
        let trace = parent.map_or_else(|| traces.ids.trace(), |parent| parent.trace);
        CallSpan {
            trace,
            id: traces.ids.span(),
            parent: parent.and_then(|parent| parent.span),
            sampled: traces.sampler.samples(trace, parent.and_then(|parent| parent.sampled)),
            traces: Arc::clone(traces),
            name,
            arrived,
            attributes: record.map(TraceContext::attributes).unwrap_or_default(),
            children: Vec::new(),
            event_id: record.and_then(|record| record.event_id.clone()),
            decided: None,
            answered: None,
        }
    }

    /// Adds the spans of the queue and the log: the records are durable.
    pub(crate) fn logged(&mut self, submitted: Instant, outcome: &SubmissionOutcome) {
        if !self.sampled {
            return;
        }
        let AppendTiming { began, durable, synced } = outcome.appended;
        let taken = submitted + outcome.queued;
        self.attributes.push(Attribute::number("tidegate.records", outcome.receipts.len() as u32));
        self.child("queue", self.id, (submitted, taken), Vec::new());
        let log = self.child("log", self.id, (taken, durable), Vec::new());
        let append = self.child("append", log, (began, durable), Vec::new());
        self.child("fsync", append, (durable.checked_sub(synced).unwrap_or(began), durable), Vec::new());
    }

    /// Adds the attributes of the receipt of the call's only record.
    pub(crate) fn received(&mut self, receipt: &Receipt) {
        if self.sampled {
            self.attributes.extend(receipt_attributes(receipt));
        }
    }

    /// Adds a span for each decision on the call's only record, and registers the fact for its
    /// commit. Without decisions, only the latter.
    pub(crate) fn decided(
        &mut self,
        live: &ServeState,
        durable: Instant,
        tick: Tick,
        decisions: &[Decision],
    ) {
        if !self.sampled {
            return;
        }
        let mut decision_id = None;
        for Decision { node, batch, row, decided } in decisions {
            let mut attributes = vec![Attribute::text("tidegate.node", node.as_ref())];
            for (column, key) in DECISION_ATTRIBUTES {
                let values = batch.rows.column_by_name(column);
                let text = values.and_then(|values| array_value_to_string(values, *row).ok());
                if let Some(text) = text {
                    attributes.push(Attribute::text(key, text.clone()));
                    decision_id = decision_id.or((column == "decision_id").then_some(text));
                }
            }
            self.child("graph", self.id, (durable, *decided), attributes);
            self.decided = self.decided.max(Some(*decided));
        }
        self.await_seal(live, tick, (self.trace, self.id), self.event_id.clone(), decision_id);
    }

    /// Registers the call's only record, which is a fact, for its commit.
    pub(crate) fn admitted(&mut self, live: &ServeState, tick: Tick) {
        if self.sampled {
            self.await_seal(live, tick, (self.trace, self.id), self.event_id.clone(), None);
        }
    }

    /// Adds a span for one of many records, if the record names a trace that is sampled.
    pub(crate) fn record(
        &mut self,
        live: &ServeState,
        context: TraceContext,
        receipt: &Receipt,
        (submitted, outcome): (Instant, &SubmissionOutcome),
    ) {
        let Some(parent) = context.parent().filter(|p| self.traces.sampler.samples(p.trace, p.sampled))
        else {
            return;
        };
        let id = self.traces.ids.span();
        let mut attributes = context.attributes();
        attributes.extend(receipt_attributes(receipt));
        let times = (submitted + outcome.queued, outcome.appended.durable);
        let links = match self.sampled {
            true => vec![SpanLink { trace: self.trace, span: self.id }],
            false => Vec::new(),
        };
        let (trace, parent) = (parent.trace, parent.span);
        self.children.push(ChildSpan { trace, id, parent, name: "admit", times, attributes, links });
        if let (Verdict::Admit, Some(tick)) = (receipt.verdict, receipt.tick) {
            self.await_seal(live, tick, (trace, id), context.event_id, None);
        }
    }

    /// Ends the span: the call is answered with `status`.
    pub(crate) fn answered(mut self, status: StatusCode) {
        self.answered = Some(status);
    }

    /// Adds a child span, and returns its id.
    fn child(
        &mut self,
        name: &'static str,
        parent: SpanId,
        times: (Instant, Instant),
        attributes: Vec<Attribute>,
    ) -> SpanId {
        let (trace, id) = (self.trace, self.traces.ids.span());
        let links = Vec::new();
        self.children.push(ChildSpan { trace, id, parent: Some(parent), name, times, attributes, links });
        id
    }

    fn await_seal(
        &self,
        live: &ServeState,
        tick: Tick,
        (trace, parent): (TraceId, SpanId),
        event_id: Option<String>,
        decision_id: Option<String>,
    ) {
        let since = Instant::now();
        self.traces.await_seal(tick, PendingSeal { trace, parent, since, event_id, decision_id });
        // If its commit was published just before, there is no further notification.
        let commits = live.tables.commits();
        if commits.upper() > tick {
            self.traces.committed(&commits);
        }
    }
}

impl Drop for CallSpan {
    /// Sends the spans. A call without an answer was abandoned by its caller.
    fn drop(&mut self) {
        if let Some(decided) = self.decided {
            self.child("reply", self.id, (decided, Instant::now()), Vec::new());
        }
        let clock = self.traces.clock();
        for child in self.children.drain(..) {
            self.traces.queue.push(child.span(clock));
        }
        if !self.sampled {
            return;
        }
        let mut attributes = std::mem::take(&mut self.attributes);
        let (method, route) = self.name.split_once(' ').unwrap_or(("", self.name));
        attributes.push(Attribute::text("http.request.method", method));
        attributes.push(Attribute::text("http.route", route));
        let status = match self.answered {
            Some(status) => {
                attributes.push(Attribute::number("http.response.status_code", status.as_u16()));
                if status.is_server_error() { SpanStatus::FAILED } else { SpanStatus::default() }
            }
            None => {
                attributes.push(Attribute::flag("tidegate.given_up", true));
                SpanStatus::FAILED
            }
        };
        self.traces.queue.push(Span {
            trace: self.trace,
            id: self.id,
            parent: self.parent,
            name: Cow::Borrowed(self.name),
            kind: SpanKind::Server,
            start: clock.at(self.arrived),
            end: clock.at(Instant::now()),
            attributes,
            links: Vec::new(),
            status,
        });
    }
}

impl ChildSpan {
    fn span(self, clock: ClockReading) -> Span {
        let ChildSpan { trace, id, parent, name, times, attributes, links } = self;
        Span {
            trace,
            id,
            parent,
            name: Cow::Borrowed(name),
            kind: SpanKind::Internal,
            start: clock.at(times.0),
            end: clock.at(times.1),
            attributes,
            links,
            status: SpanStatus::default(),
        }
    }
}

fn receipt_attributes(receipt: &Receipt) -> Vec<Attribute> {
    let mut attributes = vec![Attribute::text("tidegate.verdict", receipt.verdict.name())];
    if let Some(reason) = receipt.reason.filter(|_| receipt.verdict == Verdict::Quarantine) {
        attributes.push(Attribute::text("tidegate.reason", reason.code()));
    }
    if let Some(tick) = receipt.tick {
        attributes.push(Attribute::text("tidegate.tick", tick.0.to_string()));
        attributes.push(Attribute::number("tidegate.partition", tick.partition()));
    }
    attributes.extend(receipt.offset.map(|offset| Attribute::text("tidegate.offset", offset.to_string())));
    attributes
}
